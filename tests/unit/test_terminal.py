"""Which terminal is found, and when a guardian stops its job.

Whose the terminal is at each moment, its modes and its keys are in tests/process/test_terminal.py.
"""

from __future__ import annotations

import os
import pty
import signal
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from leaderexec import linux, terminal
from leaderexec.guardian import Guardian
from leaderexec.model import SECOND_NS
from leaderexec.tenure import State, Woke
from tests.support.candidate import kill, state_of
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
        wait_until(lambda: state_of(child) == "T", timeout_s=5, what="stopped")
        assert linux.stopped_by(child) == signum
        assert linux.stopped_by(child) is None
        os.kill(child, signal.SIGCONT)
        wait_until(lambda: state_of(child) != "T", timeout_s=5, what="continued")
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


# --- whether a guardian stops its job --------------------------------------------------------


class Job:
    """As much of a guardian and its terminal as stopping the job takes; it never stops."""

    def __init__(self, state: State, child: int | None) -> None:
        self.stopped_by: list[int] = []
        self.resumed: list[int] = []
        self.stubs: Any = SimpleNamespace(
            _stop_job_by=signal.SIGTSTP,
            _job_was_stopped=False,
            _taking_over=False,
            _tenure=SimpleNamespace(state=state, grant=None, resumed=self.resumed.append),
            _keeper=object() if child else None,
            _child=(child, -1) if child else None,
            _is_stop=lambda signum: signum == signal.SIGTERM,
            _log=SimpleNamespace(info=lambda *_, **__: None),
            _job_continued=lambda _: None,
        )

    def take_back(self, _: int) -> bool:
        """Be the terminal."""
        return True

    def stop_job(self, signum: int) -> bool:
        """Be the terminal."""
        self.stopped_by.append(signum)
        return True

    def try_it(self) -> bool:
        """Return whether the guardian would have stopped, as it was to do once."""
        ours: Any = self
        Guardian._stop_job(self.stubs, ours, signal.SIGTSTP)
        assert self.stubs._stop_job_by is None
        assert len(self.resumed) == len(self.stopped_by), "tenure knows why time has passed"
        return self.stopped_by == [signal.SIGTSTP]


@pytest.mark.parametrize("state", State)
def test_a_guardian_stops_for_a_tree_that_runs_in_peace_and_is_stopped(
    state: State, child: int
) -> None:
    """One that has something to end goes on, and so it does when the child does, or has ended."""
    in_peace = state in {State.IDLE, State.RUNNING}
    os.kill(child, signal.SIGSTOP)
    wait_until(lambda: linux.is_stopped(child), timeout_s=5, what="stopped")
    assert Job(state, child).try_it() is in_peace
    assert Job(state, None).try_it() is in_peace
    os.kill(child, signal.SIGCONT)
    wait_until(lambda: not linux.is_stopped(child), timeout_s=5, what="continued")
    assert not Job(state, child).try_it()
    kill(child)
    assert not Job(state, child).try_it()


def test_a_guardian_that_is_asked_to_stop_does_not_stop_its_job() -> None:
    """A request that has arrived and was not read yet goes first."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        assert not Job(State.RUNNING, None).try_it()
    finally:
        assert signal.sigtimedwait({signal.SIGTERM}, 5)
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
