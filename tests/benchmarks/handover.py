"""Measures how long nobody runs the program: `python -m tests.benchmarks.handover [--write]`.

For leaderexec and its peers in turn, each with a leader and two standbys at 15 / 10 / 2 s in an
election of its own: from what happens to the leader until the next child runs, and how long the old
child ran beside it. What happens:

`voluntary`  SIGTERM to the leader, which is PID 1 of a container
`wrapper`    SIGKILL to the wrapper alone, which is not PID 1
`slot`       its container is killed, and started again at once under the name that it had
`node`       everything of the leader dies in one moment, and does not come back

A container is a PID namespace here. The client-go elector is not put into one: it handles signals,
and where a container would take its child along, both are killed.

`--write` keeps the samples in tests/measured/handover.json, and beside them the stamps of one
handover, recorded by witness and audit log with a child that drains, for a picture.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks.record import let_pass, row, save, surroundings
from tests.benchmarks.teams import MAKES, RETRY_S, TIMING, Death, Team, in_turn
from tests.support.candidate import child_command
from tests.support.controlplane import ControlPlane, service_account_user
from tests.support.kube_candidates import KubeCandidates
from tests.support.wait import wait_until
from tests.support.witness import Witness, now_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.benchmarks.teams import Asked, Outcome

#: Each cause, and whether the candidates are PID 1 of their containers in it.
CAUSES: Final[Mapping[str, tuple[Callable[[Team], Asked], bool]]] = {
    "voluntary": (Team.ask_to_stop, True),
    "wrapper": (Team.kill_wrapper, False),
    "slot": (Team.restart_container, True),
    "node": (Team.kill_all, True),
}
#: How long a quick handover may take before the next team's begins beside it.
_HEAD_START_S: Final = 1.0
_SETTLE_S: Final = 1.5
_DRAIN_S: Final = 0.04
_RECORDINGS: Final = 3
_TRIES: Final = 6


def measure(
    plane: ControlPlane, directory: Path, causes: Sequence[str], rounds: int
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return the outcomes by cause and make."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for contained in (True, False):
        chosen = [cause for cause in causes if CAUSES[cause][1] is contained]
        if not chosen:
            continue
        place = directory / ("contained" if contained else "bare")
        teams = [Team.of(make, plane, place, contained=contained) for make in MAKES]
        try:
            for team in teams:
                team.start_all()
            for cause in chosen:
                for number in range(rounds):
                    outcomes = _round(in_turn(teams, number), CAUSES[cause][0])
                    for make, outcome in outcomes.items():
                        found.setdefault(cause, {}).setdefault(make, []).append(_rounded(outcome))
                _print(cause, found[cause])
        finally:
            for team in teams:
                team.end()
    return found


def _round(teams: Sequence[Team], act: Callable[[Team], Asked]) -> dict[str, Outcome]:
    """Let it happen to each team in turn, and wait for all: what takes a lease takes it at once."""
    let_pass(_SETTLE_S)
    asked = {}
    for team in teams:
        let_pass(random.uniform(0, RETRY_S))  # at any phase of its renewals
        starts = len(team.election.starts())
        asked[team.make] = act(team)
        head_s = time.monotonic() + _HEAD_START_S
        wait_until(
            lambda team=team, starts=starts, head_s=head_s: (  # type: ignore[misc]
                len(team.election.starts()) > starts or time.monotonic() > head_s
            ),
            timeout_s=10,
            what="a head start",
        )
    return {team.make: team.outcome(asked[team.make]) for team in teams}


def _rounded(outcome: Outcome) -> dict[str, Any]:
    overlap_ms = outcome.overlap_ms
    return {
        "ms": round(outcome.ms, 1),
        "overlap_ms": None if overlap_ms is None else round(overlap_ms, 1),
        "by_itself": outcome.by_itself,
    }


def _print(cause: str, outcomes: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    for make, samples in outcomes.items():
        print(row(f"{cause}: {make}", [sample["ms"] for sample in samples], "ms"))
        alive = sum(sample["overlap_ms"] is None for sample in samples)
        longest_ms = max((sample["overlap_ms"] or 0.0 for sample in samples), default=0.0)
        itself = sum(sample["by_itself"] for sample in samples)
        print(
            f"{'':8}old child beside the new one: still in {alive} of {len(samples)}, else for "
            f"{longest_ms:.1f} ms at most; the same candidate again: {itself}",
            flush=True,
        )


# --- one handover, stamp by stamp ------------------------------------------------------------


def record(plane: ControlPlane, directory: Path) -> dict[str, float]:
    """Return the stamps of a voluntary handover, in milliseconds after the request to stop.

    Of a few it is the one in the middle. Deaths and starts are the witness's, writes to the lock
    those in the API server's audit log.
    """
    directory.mkdir()
    with (
        Witness() as witness,
        KubeCandidates(witness, directory, plane, plane.create_namespace()) as candidates,
    ):
        candidates.timing = TIMING
        child = child_command("--drain", str(_DRAIN_S))
        candidates.start("a", child=child)
        (tree,) = candidates.witness.wait_running(1, timeout_s=30)
        candidates.start("b", child=child).wait_event("campaigning")
        recordings: list[dict[str, float]] = []
        for number in range(_TRIES):
            standby = candidates.by_name["b" if tree.candidate == "a" else "a"]
            candidates.wait_successor_named(standby.identity)
            renewed = candidates.spec["renewTime"]
            wait_until(
                lambda renewed=renewed: candidates.spec["renewTime"] != renewed,  # type: ignore[misc]
                timeout_s=20,
                what="a renewal, so that the next one is far",
            )
            leader = candidates.leader(tree)
            end = Death(leader.guardian)
            asked_s, asked_ns = time.time(), now_ns()
            os.kill(end.pid, signal.SIGTERM)
            successor = witness.wait_successor(tree, timeout_s=30)
            ended_s = end.wait_s()
            leader.process.wait()
            writes_s = _writes(candidates, asked_s)
            told = [note for note in witness.notes() if note.text == "signal TERM"]
            candidates.assert_exclusive()
            if len(writes_s) == 2 and len(told) == number + 1:
                stamps = {
                    "told": (told[-1].at_ns - asked_ns) / 1e6,
                    "dead": (witness.wait_ended(tree) - asked_ns) / 1e6,
                    "freed": 1000 * (writes_s[0] - asked_s),
                    "taken": 1000 * (writes_s[1] - asked_s),
                    "runs": (successor.started_ns - asked_ns) / 1e6,
                    "ended": 1000 * (ended_s - asked_s),
                }
                order = ("told", "dead", "freed", "taken", "runs")
                if sorted(order, key=lambda name: stamps[name]) == list(order):
                    recordings.append({name: round(at_ms, 1) for name, at_ms in stamps.items()})
                    if len(recordings) == _RECORDINGS:
                        return sorted(recordings, key=lambda each: each["runs"])[_RECORDINGS // 2]
                # A starved witness saw the death later than the guardian, which was told of it.
            tree = successor
            leader.log_path.write_text("")
            leader.start().wait_event("campaigning")
    raise AssertionError("no handover could be recorded without anything beside it")


def _writes(candidates: KubeCandidates, since_s: float) -> list[float]:
    """Return when the API server received what was written since: the release, the acquisition."""
    user = service_account_user(candidates.namespace, candidates.account)

    def writes() -> list[float]:
        requests = candidates.plane.requests(candidates.namespace, "x")
        return [
            request.timestamp
            for request in requests
            if request.user == user and request.verb == "update" and request.timestamp > since_s
        ]

    wait_until(lambda: len(writes()) >= 2, timeout_s=10, what="release and acquisition are noted")
    return writes()


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--cause", action="append", choices=list(CAUSES), help="only this one")
    parser.add_argument("--write", action="store_true", help="keep the samples")
    options = parser.parse_args()
    if options.write and options.cause:
        parser.error("--write keeps all causes, and not some")
    with (
        ControlPlane() as plane,
        tempfile.TemporaryDirectory(prefix="leaderexec-bench-") as directory,
    ):
        around = surroundings(plane)
        stamps = record(plane, Path(directory) / "recorded")
        print(f"one handover, in ms after the request to stop: {json.dumps(stamps)}", flush=True)
        samples = measure(plane, Path(directory), options.cause or list(CAUSES), options.rounds)
    if options.write:
        save("handover-recorded", {"surroundings": around, "ms": stamps})
        save("handover", {"surroundings": around, "timing": list(TIMING), "samples": samples})


if __name__ == "__main__":
    main()
