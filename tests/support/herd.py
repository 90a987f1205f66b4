"""Very many standbys with real watches on one Lease, and what a handover among them costs.

Owns starting them a few at a time and counting requests by the API server's own audit log: a
handover's write attempts are all that arrive from the request to stop until the line is in order
again, that is, until a standby is named as the next in line, whoever makes them and however they
are answered, but for the leaders' own: the one that gives back, and renewals.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.support.election import Election
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.candidate import Candidate
    from tests.support.controlplane import ControlPlane, Request

#: So many are starting at any time.
_BATCH = 8
_START_S = 120


class Handover(NamedTuple):
    """What one handover cost.

    `attempts` counts requests to write, `answers` all requests of that time by verb and status,
    and `took_s` is the time from the request to stop to the start of the next child.
    """

    attempts: int
    answers: Counter[tuple[str, int]]
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
        waiting: list[Candidate] = []
        for name, candidate in self.candidates.items():
            candidate.start()
            if name == "c0":
                self.election.wait_starts(1)
                continue
            waiting.append(candidate)
            if len(waiting) == _BATCH:
                waiting.pop(0).wait_event("leader is c0", timeout_s=_START_S)
        for candidate in waiting:
            candidate.wait_event("leader is c0", timeout_s=_START_S)
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

    def wait_in_line(self) -> str:
        """Wait until a standby that is not the leader is next in line, and return its name."""

        def named() -> str:
            successor = self.election.candidates.successor
            return "" if successor == self.election.candidates.spec["holderIdentity"] else successor

        return wait_until(named, timeout_s=60, what="a standby is next in line")

    def hand_over(self) -> Handover:
        """Ask the leader to stop, and count until the line is in order again."""
        self._wait_renewed()
        starts = self.election.starts()
        leader = self.candidates[starts[-1].candidate]
        guardian = leader.guardian
        since_s = time.time()
        os.kill(guardian, signal.SIGTERM)
        start = self.election.wait_starts(len(starts) + 1)
        self.wait_in_line()
        assert leader.wait() == 143
        answers = Counter((r.verb, r.code) for r in self._requests(since_s))
        leader.start()
        leader.wait_event(f"leader is {start.candidate}", timeout_s=_START_S)
        attempts = sum(n for (verb, _), n in answers.items() if verb in {"update", "create"})
        return Handover(attempts, answers, start.at_s - since_s)

    def _wait_renewed(self) -> None:
        """Wait for a renewal, so that the news of the last change have reached everybody."""
        before = self.election.candidates.spec["renewTime"]
        wait_until(
            lambda: self.election.candidates.spec["renewTime"] != before,
            timeout_s=30,
            what="a renewal",
        )

    def _requests(self, since_s: float) -> list[Request]:
        return [r for r in self.election.requests() if r.timestamp >= since_s]
