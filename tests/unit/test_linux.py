"""The thin calls, and each way that is taken when a better one is not to be had."""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING

import pytest

from leaderexec import linux
from leaderexec.model import SECOND_NS
from tests.support.candidates import kill
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


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


def test_children_are_listed(child: int) -> None:
    """The kernel's list and a search of /proc agree."""
    assert child in linux.children()
    assert child in linux.children_by_search(os.getpid())


def test_without_the_kernels_list_proc_is_searched(
    child: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel without CONFIG_PROC_CHILDREN costs a search, not the truth."""
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
    assert not linux.is_stopped(2**22 + 1)


def test_nobody_to_kill_is_no_failure() -> None:
    """A process that has ended meanwhile is as good as killed."""
    assert linux.kill_quietly(2**22 + 1, signal.SIGKILL)


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


def test_signals_are_received_by_descriptor() -> None:
    """What is blocked waits, and is told by its number."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGRTMIN + 3})
    try:
        signals = linux.SignalFd({signal.SIGUSR1, signal.SIGRTMIN + 3})
        assert signals.receive() == []
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGRTMIN + 3)
        assert set(signals.receive()) == {signal.SIGUSR1, signal.SIGRTMIN + 3}
        signals.close()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def test_proc_is_ours() -> None:
    """Here the numbers in /proc are our own."""
    assert linux.proc_is_ours()


def test_ancestors_are_known_by_name() -> None:
    """The name of any ancestor is found, and one that nobody has is not."""
    with open("/proc/self/comm") as file:
        assert linux.runs_below(file.read().rstrip("\n"))
    assert not linux.runs_below("nobody's name")
