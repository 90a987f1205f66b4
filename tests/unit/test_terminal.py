"""Which terminal is found, and when a guardian stops its job.

Whose the terminal is at each moment, its modes and its keys are in tests/process/test_terminal.py.
"""

from __future__ import annotations

import os
import pty
import signal
from typing import TYPE_CHECKING
from unittest.mock import MagicMock, call

import pytest

from leaderexec import linux, terminal
from leaderexec.guardian import Guardian
from leaderexec.model import SECOND_NS
from leaderexec.tenure import State, Woke
from tests.support.candidate import kill
from tests.support.wait import wait_until
from tests.unit.test_tenure import START_NS, Drive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def child() -> Iterator[int]:
    """A child in a process group of its own that does nothing."""
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        signal.pause()
        os._exit(0)
    wait_until(lambda: os.getpgid(pid) == pid, timeout_s=5, what="its own group")
    yield pid
    kill(pid)
    os.waitpid(pid, 0)


def on_a_terminal(body: Callable[[terminal.Terminal], bool]) -> bool:
    """Run `body` as the leader of a session with a terminal, signals blocked as a guardian's."""
    pid, master = pty.fork()
    if pid == 0:
        code = 1
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, linux.ALL_SIGNALS)
            found = terminal.find()
            code = 0 if found and body(found) else 1
        finally:
            os._exit(code)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(master)


def test_a_stop_is_seen_once_and_an_exit_never(child: int) -> None:
    """The exit status stays for the one place that reaps."""
    assert linux.stopped_by(child) is None
    for signum in (signal.SIGSTOP, signal.SIGTSTP):
        os.kill(child, signum)
        wait_until(lambda: linux.is_stopped(child), timeout_s=5, what="stopped")
        assert linux.stopped_by(child) == signum
        assert linux.stopped_by(child) is None
        os.kill(child, signal.SIGCONT)
        wait_until(lambda: not linux.is_stopped(child), timeout_s=5, what="continued")
    kill(child)
    assert linux.stopped_by(child) is None
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)


@pytest.mark.parametrize("redirected", [(1,), (0, 1, 2)], ids=["a pipeline", "all of them"])
def test_whatever_is_redirected_the_terminal_is_found(redirected: tuple[int, ...]) -> None:
    """Such a job is still stopped by it, but its child has to ask for it."""

    def body(_: terminal.Terminal) -> bool:
        _reading_fd, writing_fd = os.pipe()
        for fd in redirected:
            os.dup2(writing_fd, fd)
        ours = terminal.find()
        return ours is not None and not ours.is_lent and not ours.is_gone()

    assert on_a_terminal(body)


def test_a_session_without_a_terminal() -> None:
    """Without a controlling terminal there is none, even if a descriptor leads to one."""
    master, slave = pty.openpty()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.dup2(slave, 0)
        os._exit(0 if terminal.find() is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(master)
    os.close(slave)


def test_a_stop_that_was_asked_for_is_no_lateness() -> None:
    """Rule 17 is about what nobody wanted: a stop by the terminal costs no grace later on."""

    def lateness_after(*, resumed: bool) -> int:
        machine = Drive().core
        machine.step(Woke(), START_NS)
        late_ns = START_NS + 60 * SECOND_NS
        assert machine.wake_at_ns is not None
        assert machine.wake_at_ns < late_ns
        if resumed:
            machine.resumed(late_ns)
            assert machine.wake_at_ns == late_ns, "what was due is due now"
        machine.step(Woke(), late_ns)
        return machine._lateness_ns

    assert lateness_after(resumed=False) > 0
    assert lateness_after(resumed=True) == 0


@pytest.mark.parametrize(
    ("state", "child_is_stopped", "pending", "stops"),
    [
        *((state, True, (), state in {State.IDLE, State.RUNNING}) for state in State),
        (State.RUNNING, None, (), True),
        (State.RUNNING, False, (), False),
        (State.RUNNING, True, (signal.SIGTERM,), False),
    ],
    ids=[*(state.name for state in State), "no child", "a child goes on", "it is asked to stop"],
)
def test_a_guardian_stops_for_a_tree_that_runs_in_peace_and_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
    state: State,
    child_is_stopped: bool | None,
    pending: tuple[int, ...],
    stops: bool,
) -> None:
    """One that has something to end, or a child that goes on, or a request to stop, goes on."""
    monkeypatch.setattr(linux, "is_stopped", lambda _: child_is_stopped)
    monkeypatch.setattr(signal, "sigpending", lambda: set(pending))
    child = None if child_is_stopped is None else (os.getpid(), -1)
    guardian = MagicMock(_keeper=child, _child=child, _taking_over=False)
    guardian._tenure.configure_mock(state=state, grant=None)
    guardian._is_stop = signal.SIGTERM.__eq__
    ours = MagicMock()
    Guardian._stop_job(guardian, ours, signal.SIGTSTP)
    assert guardian._stop_job_by is None
    assert ours.stop_job.call_args_list == [call(signal.SIGTSTP)] * stops
    assert guardian._tenure.resumed.called is stops, "tenure knows why time has passed"
