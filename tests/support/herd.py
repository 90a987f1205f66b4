"""Very many standbys with real watches on one Lease, and what a handover among them costs.

A handover's write attempts are, by the API server's audit log, all that arrive from the request to
stop until a standby is named as the next in line, whoever makes them and however they are answered.
"""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.support.election import Election
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.candidate import Candidate
    from tests.support.controlplane import ControlPlane, Request

_BATCH = 8  # so many are starting at any time
_START_S = 120


class Handover(NamedTuple):
    """What one handover cost: requests to write, and the time until the start of the next child."""

    attempts: int
    took_s: float


class Herd:
    """One leader and `count` standbys, under names of their own."""

    def __init__(self, plane: ControlPlane, directory: Path, count: int) -> None:
        self.election = Election(plane, directory)
        self.count = count
        names = [f"c{number}" for number in range(count + 1)]
        self.candidates = {name: self.election.make(name, f"--id={name}") for name in names}

    def __enter__(self) -> Self:
        """Start them, the leader first, and wait until every standby watches."""
        with ThreadPoolExecutor(_BATCH) as pool:
            leader, *standbys = self.candidates.values()
            leader.start()
            self.election.wait_starts(1)
            list(pool.map(self._stand_by, standbys))
        wait_until(
            lambda: sum(r.verb == "watch" for r in self._requests(0.0)) >= self.count,
            timeout_s=_START_S,
            what="every standby watches",
        )
        self.wait_in_line()
        return self

    def __exit__(self, *_: object) -> None:
        """Kill all guardians at once, so that nobody leads in turn; the rest dies with them."""
        processes = [c.process for c in self.candidates.values() if c.started]
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()

    def _stand_by(self, candidate: Candidate, leader: str = "c0") -> None:
        candidate.start()
        candidate.wait_event(f"leader is {leader}", timeout_s=_START_S)

    def wait_in_line(self) -> None:
        """Wait until a standby that is not the leader is next in line."""
        lock = self.election.candidates
        wait_until(
            lambda: lock.successor not in {"", lock.spec["holderIdentity"]},
            timeout_s=60,
            what="a standby is next in line",
        )

    def hand_over(self) -> Handover:
        """Ask the leader to stop, and count until the line is in order again."""
        # A renewal first, so that the news of the last change have reached everybody.
        lock = self.election.candidates
        before = lock.spec["renewTime"]
        wait_until(lambda: lock.spec["renewTime"] != before, timeout_s=30, what="a renewal")
        starts = self.election.starts()
        leader = self.candidates[starts[-1].candidate]
        guardian = leader.guardian
        since_s = time.time()
        os.kill(guardian, signal.SIGTERM)
        start = self.election.wait_starts(len(starts) + 1)
        self.wait_in_line()
        assert leader.wait() == 143
        attempts = sum(r.verb in {"update", "create"} for r in self._requests(since_s))
        self._stand_by(leader, start.candidate)
        return Handover(attempts, start.at_s - since_s)

    def _requests(self, since_s: float) -> list[Request]:
        return [r for r in self.election.requests() if r.timestamp >= since_s]
