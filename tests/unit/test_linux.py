"""The thin calls, and each way that is taken when a better one is not to be had."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from leaderexec import channel, guardian, linux
from leaderexec.keeper import ChildSpec, Keeper
from leaderexec.model import SECOND_NS
from tests.support.candidate import ROOT, kill, state_of
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leaderexec.log import Log


@pytest.fixture
def child() -> Iterator[int]:
    """A child that does nothing."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    yield pid
    kill(pid)
    os.waitpid(pid, 0)


def test_without_the_kernels_list_proc_is_searched(
    child: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel without CONFIG_PROC_CHILDREN costs a search, not the truth."""
    assert child in linux.children()
    real_open = open

    def missing(path: str, mode: str = "r") -> object:
        if path.endswith("/children"):
            raise FileNotFoundError(path)
        return real_open(path, mode)

    monkeypatch.setattr("builtins.open", missing)
    assert child in linux.children()


def test_a_zombie_is_still_a_child() -> None:
    """What has ended and was not reaped is listed, so that nothing is taken for gone too early."""
    pid = os.fork()
    if pid == 0:
        os._exit(3)
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert pid in linux.children()
    finally:
        os.waitpid(pid, 0)


def test_a_stopped_process_is_known(child: int) -> None:
    """A stop by signal shows, and its end too."""
    assert not linux.is_stopped(child)
    os.kill(child, signal.SIGSTOP)
    wait_until(lambda: linux.is_stopped(child), timeout_s=5, what="stopped")
    os.kill(child, signal.SIGCONT)
    wait_until(lambda: not linux.is_stopped(child), timeout_s=5, what="continued")
    nobody = 2**22 + 1
    assert not linux.is_stopped(nobody)
    assert linux.kill_quietly(nobody, signal.SIGKILL), "as good as killed"


def test_an_unknown_machine_is_scheduled_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the number of the call is not known, it is done without."""
    monkeypatch.setattr(linux, "_SCHED_SETATTR", {})
    before = os.getpriority(os.PRIO_PROCESS, 0)
    linux.be_prompt()
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_a_timer_in_the_past_fires_at_once_and_none_never() -> None:
    """Absolute times on CLOCK_BOOTTIME: passed, to come, and no time at all."""
    timer = linux.BoottimeTimer()
    ready = select.poll()
    ready.register(timer.fileno())
    timer.set(1)
    assert ready.poll(1000)
    timer.clear()
    assert not ready.poll(0)
    timer.set(None)
    assert not ready.poll(0)
    timer.set(linux.boottime_ns() + SECOND_NS // 100)
    assert ready.poll(5000)
    timer.clear()
    timer.set(1)
    timer.clear()
    timer.set(1)
    assert ready.poll(1000), "the same time again, after it was seen"
    timer.close()


_FAR = 1_000_000
#: The clock, and whether a timer that is due at once fires, where booting was long ago.
_CLOCKS = """
import select
from leaderexec import linux
timer = linux.BoottimeTimer()
timer.set(linux.boottime_ns() + 10_000_000)
ready = select.poll()
ready.register(timer.fileno(), select.POLLIN)
print(linux.boottime_ns() // 1_000_000_000, bool(ready.poll(5000)))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a time namespace needs root")
def test_times_and_timers_are_those_of_the_clock_that_a_suspend_does_not_stop() -> None:
    """Where only CLOCK_BOOTTIME is a million seconds ahead, as after a suspend, both follow it."""
    done = subprocess.run(
        ["unshare", "--time", f"--boottime={_FAR}", "--", sys.executable, "-c", _CLOCKS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    now_s, fired = done.stdout.split()
    assert int(now_s) >= _FAR
    assert fired == "True"


@pytest.mark.parametrize("orphaned", [False, True])
def test_whoever_was_orphaned_before_it_asked_to_die_with_its_parent_leaves(orphaned: bool) -> None:
    """Rule 9: a parent that died between fork and prctl will never be heard of again."""
    parent = os.getppid() if orphaned else os.getpid()
    pid = os.fork()
    if pid == 0:
        linux.die_with_parent(parent)
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == (125 if orphaned else 3)


def test_the_first_act_of_a_keeper_that_kills_is_one_call(
    child: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 4: the child's group is killed before anything is searched for."""
    os.setpgid(child, child)
    ours, theirs = channel.pair()
    reading, writing = os.pipe()
    spec = ChildSpec("/bin/true", ("true",), {}, 0, no_new_privs=False, terminal_of=None)
    me = os.pidfd_open(os.getpid())
    keeper = Keeper(
        channel=theirs,
        guardian_pidfd=me,
        proof_fd=writing,
        is_subreaper=True,
        spec=spec,
        log=cast("Log", None),
    )
    keeper._child = child
    states: list[str] = []

    def nothing_left() -> list[int]:
        wait_until(lambda: state_of(child) in {"S", "Z"}, timeout_s=5, what="asleep or dead")
        states.append(state_of(child))
        return []

    monkeypatch.setattr(linux, "kill_sweep", nothing_left)
    monkeypatch.setattr(linux, "reap", lambda: linux.Reaped([], any_left=False, more=False))
    keeper._kill_all()
    assert states == ["Z"]
    for fd in (reading, writing, me, keeper._signals.fileno(), keeper._timer.fileno()):
        os.close(fd)
    ours.close()
    theirs.close()


def test_a_flood_of_signals_is_taken_in_portions() -> None:
    """Whoever sends them by the thousand keeps nobody from looking at the clock; none is lost."""
    number = signal.SIGRTMIN + 4
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        signals = linux.SignalFd({number})
        for _ in range(linux.SIGNALS_AT_ONCE + 7):
            signal.pthread_kill(threading.get_ident(), number)
        assert signals.receive() == [number] * linux.SIGNALS_AT_ONCE
        assert signals.receive() == [number] * 7
        assert signals.receive() == []
        signals.close()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_guardian_kills_the_childs_group_itself(child: int) -> None:
    """Rule 4: one call at the deadline, whether or not the keeper is given time for its own."""
    os.setpgid(child, child)
    pidfd = os.pidfd_open(child)
    guardian.Guardian._kill_child(SimpleNamespace(_child=(child, pidfd), _group=None))  # type: ignore[arg-type]
    os.close(pidfd)
    wait_until(lambda: state_of(child) == "Z", timeout_s=5, what="the child is dead")


def test_ancestors_are_known_by_name() -> None:
    """The name of any ancestor is found, and one that nobody has is not."""
    assert linux.proc_is_ours()
    with open("/proc/self/comm") as file:
        assert linux.runs_below(file.read().rstrip("\n"))
    assert not linux.runs_below("nobody's name")
