"""--wait-for-leader: it ends when somebody leads, and neither before nor never."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.candidate import (
    ROOT,
    children_of,
    in_pid_namespace,
    is_gone,
    kill,
    name_of,
    stop,
)
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.candidate import Candidate
    from tests.support.candidates import Candidates

_ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="a PID namespace needs root")


def start_waiter(candidates: Candidates, *options: str, wrapper: Sequence[str] = ()) -> Candidate:
    """Start one that waits, and return when it has begun to look."""
    waiter = candidates.start("w", "--wait-for-leader", *options, child=(), wrapper=wrapper)
    waiter.wait_event("waiting for a leader")
    return waiter


def reader_of(waiter: Candidate) -> int:
    """Return the process that looks, waiting until there is one."""
    guardian = waiter.guardian

    def reader() -> int:
        named = (p for p in children_of(guardian) if name_of(p) == "leaderexec-read")
        return next((p for p in named if not is_gone(p)), 0)

    return wait_until(reader, timeout_s=10, what="somebody reads the lock")


def is_waiting(waiter: Candidate) -> bool:
    """Whether it has not ended."""
    return waiter.process.poll() is None


@pytest.mark.parametrize(
    "wrapper", [[], pytest.param(in_pid_namespace(), marks=_ROOT_ONLY)], ids=["plain", "pid1"]
)
def test_it_waits_until_somebody_leads(candidates: Candidates, wrapper: list[str]) -> None:
    """Without a lock nobody leads; with a leader at work the wait is over."""
    waiter = start_waiter(candidates, wrapper=wrapper)
    assert is_waiting(waiter)
    leader, _ = candidates.start_leader("a")
    assert waiter.wait() == 0
    assert waiter.events(f"leader is {leader.identity}")
    assert candidates.start("v", "--wait-for-leader", child=()).wait() == 0, "one that led before"


def test_a_dead_leaders_record_is_not_a_leader(candidates: Candidates) -> None:
    """What a leader left in the lock when all of it was killed at once ends no wait."""
    leader, _ = candidates.start_leader("a")
    leader.kill()
    waiter = start_waiter(candidates, "--timeout=3s")
    assert waiter.wait() == 124
    assert "nobody leads within --timeout" in waiter.log


def test_a_wait_that_times_out(candidates: Candidates) -> None:
    """124 and a line, and nothing was written."""
    waiter = start_waiter(candidates, "--timeout=3s")
    reader = reader_of(waiter)
    assert waiter.wait() == 124
    assert is_gone(reader)
    assert not (candidates.directory / "lock").exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_wait_that_a_signal_ends(candidates: Candidates, signum: signal.Signals) -> None:
    """128+n, and nobody goes on looking."""
    waiter = start_waiter(candidates)
    reader = reader_of(waiter)
    waiter.signal(signum)
    assert waiter.wait() == 128 + signum
    assert is_gone(reader)


def test_whoever_reads_is_replaced_when_dead(candidates: Candidates) -> None:
    """The wait goes on, and ends when it should."""
    waiter = start_waiter(candidates)
    first = reader_of(waiter)
    kill(first)
    waiter.wait_event("waiting for a leader", count=2)
    assert reader_of(waiter) != first
    candidates.start_leader("a")
    assert waiter.wait() == 0


def test_a_long_retry_period_is_no_silence(candidates: Candidates) -> None:
    """Whoever reads rarely is not taken for dead between two readings."""
    script = "from leaderexec import cli, waiting\nwaiting._SILENCE_NS = 10**9\ncli.main()\n"
    words = ["--election=x", f"--lock=file:{candidates.directory / 'lock'}", "--wait-for-leader"]
    candidates.start_leader("a")
    ended = subprocess.run(
        [sys.executable, "-c", script, *words, "--timeout=30s"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0


def test_whoever_reads_is_replaced_when_silent(candidates: Candidates) -> None:
    """A reading may hang anywhere: it is given a bounded time, shortened here."""
    script = "from leaderexec import cli, waiting\nwaiting._SILENCE_NS = 2 * 10**9\ncli.main()\n"
    words = ["--election=x", f"--lock=file:{candidates.directory / 'lock'}", "--wait-for-leader"]
    waiter = subprocess.Popen(
        [sys.executable, "-c", script, *words, "--retry-period=1s"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    try:
        (first,) = wait_until(
            lambda: children_of(waiter.pid), timeout_s=20, what="somebody reads the lock"
        )
        stop(first)
        wait_until(lambda: is_gone(first), timeout_s=30, what="the silent reader is killed")
        candidates.start_leader("a")
        assert waiter.wait(30) == 0
    finally:
        waiter.kill()
        waiter.wait()
