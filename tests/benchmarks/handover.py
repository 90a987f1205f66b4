"""Measures how long nobody runs the program: `python -m tests.benchmarks.handover [--write]`.

From what happens to the leader (`CAUSES`) until the next child runs, and how long the old child ran
beside it. A container is a PID namespace here. client-go's elector is not put into one: it handles
signals, and where a container would take its child along, both are killed.
"""

from __future__ import annotations

import os
import random
import select
import signal
import statistics
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks.harness import (
    MEASURED,
    VERSUS,
    duration,
    in_turn,
    let_pass,
    ratio,
    run,
    spread,
)
from tests.measured import table
from tests.support.candidate import in_pid_namespace, name_of, stop
from tests.support.competitors import AWAIT_ELECTION, CLIENT_GO, OURS, slot_of
from tests.support.election import RETRY_S, Election
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from tests.support.controlplane import ControlPlane

#: The causes, as the table calls them; only in the last are candidates not PID 1 of a container.
CAUSES: Final = {
    "voluntary": "SIGTERM to the leader, PID 1 of its container",
    "slot": "its container is killed, and restarted at once",
    "node": "its node is gone",
    "wrapper": "SIGKILL to the leader's wrapper alone, not PID 1",
}
#: How long a quick handover may take before the next one begins beside it.
_HEAD_START_S: Final = 1.0
_SETTLE_S: Final = 1.5


def _death_of(pid: int) -> list[float]:
    """Return a list that is empty until a process dies, and then has the instant of that."""
    died_s: list[float] = []
    pidfd = os.pidfd_open(pid)

    def wait() -> None:
        select.select([pidfd], [], [])
        died_s.append(time.time())
        os.close(pidfd)

    threading.Thread(target=wait, daemon=True).start()
    return died_s


def _act(election: Election, cause: str) -> Callable[[], Mapping[str, Any]]:
    """Let it happen to the leader of an election, and return what waits for the outcome."""
    leader = election.leader
    root, starts = leader.guardian, len(election.starts())
    child = wait_until(
        lambda: next((p for p in leader.everything() if name_of(p) == "sleep"), 0),
        timeout_s=20,
        what=f"the child of {leader.name}",
    )
    died_s, at_s = _death_of(child), time.time()
    if cause in {"slot", "node"} and election.name == CLIENT_GO:
        stop(root)  # what it does at its child's end it does not do
        os.kill(child, signal.SIGKILL)
    os.kill(root, signal.SIGTERM if cause == "voluntary" else signal.SIGKILL)
    if cause == "slot":
        leader.process.wait()
        leader.log_path.write_text("")
        leader.start()
    head_s = time.monotonic() + _HEAD_START_S
    wait_until(
        lambda: len(election.starts()) > starts or time.monotonic() > head_s,
        timeout_s=10,
        what="a head start",
    )

    def outcome() -> Mapping[str, Any]:
        """Tell how long it took, and the overlap: None if the old child still ran long after."""
        start = election.wait_starts(starts + 1)
        overlap_ms = max(0.0, 1000 * (died_s[0] - start.at_s)) if died_s else None
        if not died_s:  # it runs beside the new one, and would for ever
            os.kill(child, signal.SIGKILL)
        if cause != "slot":
            leader.wait()
            election.stand_by(leader)
        return {"ms": 1000 * (start.at_s - at_s), "overlap_ms": overlap_ms}

    return outcome


def _election(plane: ControlPlane, directory: Path, name: str, *, contained: bool) -> Election:
    """Return an election of which one leads and two stand by."""
    election = Election(plane, directory / name, name)
    contained = contained and name != CLIENT_GO
    for each in "abc":
        slot = slot_of(election.namespace, each)
        wrapper = in_pid_namespace() if contained else ()
        candidate = election.make(each, env=slot if contained else {}, wrapper=wrapper)
        (election.lead if each == "a" else election.stand_by)(candidate)
    return election


def _round(elections: Sequence[Election], cause: str) -> dict[str, Mapping[str, Any]]:
    """Let it happen to each in turn, and wait for all: what takes a lease takes it at once."""
    let_pass(_SETTLE_S)
    outcomes = {}
    for election in elections:
        let_pass(random.uniform(0, RETRY_S))  # at any phase of its renewals
        outcomes[election.name] = _act(election, cause)
    return {name: outcome() for name, outcome in outcomes.items()}


def _told(outcomes: Sequence[Mapping[str, Any]]) -> str:
    overlaps_ms = [outcome["overlap_ms"] for outcome in outcomes]
    text = spread([outcome["ms"] for outcome in outcomes])
    if lives_on := sum(each is None for each in overlaps_ms):
        return f"{text}; **the old child lives on beside it** in {lives_on} of {len(outcomes)}"
    longest_ms = max(overlaps_ms)
    return f"{text}; **two children** for up to {duration(longest_ms)}" if longest_ms else text


def measure(plane: ControlPlane, directory: Path, options: Any) -> str:
    """Tell what came of each cause, by competitor."""
    rows = []
    for contained in (True, False):
        place = directory / str(contained)
        elections = [_election(plane, place, name, contained=contained) for name in MEASURED]
        try:
            for cause in (cause for cause in CAUSES if (cause != "wrapper") is contained):
                rounds = [_round(in_turn(elections, n), cause) for n in range(options.rounds)]
                cells = [_told([each[name] for each in rounds]) for name in MEASURED]
                ours, theirs = (
                    statistics.median(each[name]["ms"] for each in rounds)
                    for name in (OURS, AWAIT_ELECTION)
                )
                rows.append((CAUSES[cause], *cells, ratio(ours, theirs)))
        finally:
            for election in elections:
                election.end()
    head = ("Until the next child runs, when", *MEASURED, VERSUS)
    said = f"Median (least to most) of {options.rounds} rounds, each in turn, at 15 / 10 / 2 s."
    return f"{table(head, rows)}\n\n{said}"


if __name__ == "__main__":
    run("handover", __doc__, measure, rounds=6)
