"""--wait-for-leader: it ends when somebody leads, and neither before nor never."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.candidate import ROOT, children_of, is_gone, kill, name_of, stop
from tests.support.required import as_pid_1
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.support.candidate import Candidate
    from tests.support.candidates import Candidates


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


@as_pid_1
def test_it_waits_until_somebody_leads(candidates: Candidates, wrapper: list[str]) -> None:
    """Without a lock nobody leads; with a leader at work the wait is over."""
    waiter = start_waiter(candidates, wrapper=wrapper)
    assert waiter.process.poll() is None
    leader, _ = candidates.start_leader("a")
    assert waiter.wait() == 0
    assert waiter.events(f"leader is {leader.identity}")
    assert candidates.start("v", "--wait-for-leader", child=()).wait() == 0, "one that led before"


def test_a_dead_leaders_record_is_not_a_leader(candidates: Candidates) -> None:
    """What a leader left when all of it was killed ends no wait, which ends in 124 and a line."""
    leader, _ = candidates.start_leader("a")
    elector = leader.elector
    leader.kill()
    # A renewal of its last moment may still be on its way.
    wait_until(lambda: is_gone(elector), timeout_s=20, what="the elector's end")
    before = (candidates.directory / "lock").read_bytes()
    waiter = start_waiter(candidates, "--timeout=2500ms")
    reader = reader_of(waiter)
    assert waiter.wait() == 124
    assert "nobody leads within --timeout" in waiter.log
    assert is_gone(reader)
    assert (candidates.directory / "lock").read_bytes() == before


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_wait_that_a_signal_ends(candidates: Candidates, signum: signal.Signals) -> None:
    """128+n, nobody goes on looking, and nothing was written."""
    waiter = start_waiter(candidates)
    reader = reader_of(waiter)
    waiter.signal(signum)
    assert waiter.wait() == 128 + signum
    assert is_gone(reader)
    assert not (candidates.directory / "lock").exists()


@contextlib.contextmanager
def impatient(
    candidates: Candidates, silence_s: int, *options: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Start one that waits and takes a reader for dead after this time, beside the other bounds."""
    script = f"from leaderexec import cli, waiting; waiting._SILENCE_NS = {silence_s * 10**9}; "
    words = ["--election=x", f"--lock=file:{candidates.directory / 'lock'}", "--wait-for-leader"]
    with subprocess.Popen(
        [sys.executable, "-c", f"{script} cli.main()", *words, *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    ) as waiter:
        try:
            yield waiter
        finally:
            waiter.kill()


def test_a_long_retry_period_is_no_silence(candidates: Candidates) -> None:
    """One that reads rarely is not taken for dead between two readings."""
    candidates.start_leader("a")
    with impatient(candidates, 1, "--timeout=30s") as waiter:
        assert waiter.wait(60) == 0


@pytest.mark.parametrize("inflict", [kill, stop])
def test_a_dead_or_silent_reader_is_replaced(
    candidates: Candidates, inflict: Callable[[int], None]
) -> None:
    """The wait goes on: a reading may hang anywhere, so it has a bounded time, shortened here."""
    with impatient(candidates, 2, "--retry-period=1s", "--renew-deadline=2s") as waiter:
        (first,) = wait_until(
            lambda: children_of(waiter.pid), timeout_s=20, what="somebody reads the lock"
        )
        inflict(first)
        wait_until(
            lambda: is_gone(first) and set(children_of(waiter.pid)) - {first},
            timeout_s=30,
            what="another one reads",
        )
        candidates.start_leader("a")
        assert waiter.wait(30) == 0
