"""Measures what a candidate takes, leaderexec's and its competitors' in turn: `make bench`.

For each, with a leader and two standbys at 15 / 10 / 2 s on a real API server: from its
start with the lock free until its child, a shell, runs; the memory of a leader and of a standby;
what they ask the API server, by its audit log; their processor time.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.harness import (
    MEASURED,
    SETTLE_S,
    VERSUS,
    in_turn,
    let_pass,
    pss_mib,
    ratio,
    rounded,
    run,
    spread,
)
from tests.measured import table
from tests.support.candidate import name_of
from tests.support.competitors import AWAIT_ELECTION, OURS
from tests.support.election import Election

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.support.candidate import Candidate
    from tests.support.controlplane import ControlPlane


def _own_processes(candidate: Candidate) -> list[int]:
    """Return the pids of the program's own, without its child and what started it."""
    others = {"sleep", "bash", "unshare", "sh"}
    return [pid for pid in candidate.everything() if name_of(pid) not in others]


def _cpu_s(candidate: Candidate) -> float:
    """Return the processor time used, exactly: what psutil reads counts in hundredths."""
    threads = [t for pid in _own_processes(candidate) for t in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((t / "schedstat").read_text().split()[0]) for t in threads) / 1e9


def _asked(elections: Sequence[Election], window_s: float) -> dict[str, float]:
    """Return the requests per second of each in a window that begins when all is quiet."""
    let_pass(SETTLE_S)
    before = {each: len(each.requests()) for each in elections}
    since_s = time.monotonic()
    let_pass(window_s)
    took_s = time.monotonic() - since_s
    return {each.name: (len(each.requests()) - n) / took_s for each, n in before.items()}


def _starts(elections: Sequence[Election], rounds: int) -> dict[str, list[float]]:
    took: dict[str, list[float]] = {election.name: [] for election in elections}
    for number in range(rounds):
        for election in in_turn(elections, number):
            election.forget()
            candidate, begun_s = election.candidates.by_name["a"], time.time()
            took[election.name].append(1000 * (election.lead(candidate).at_s - begun_s))
            candidate.kill()
    return took


def _costs(elections: Sequence[Election], idle_s: float) -> dict[str, dict[str, float]]:
    for election in elections:
        election.forget()
        election.lead(election.candidates.by_name["a"])
    alone = _asked(elections, idle_s)
    for election in elections:
        for name in "bc":
            election.stand_by(election.candidates.by_name[name])
    let_pass(SETTLE_S)
    pairs = {e.name: [e.candidates.by_name[name] for name in "ab"] for e in elections}
    before = {name: [_cpu_s(each) for each in pair] for name, pair in pairs.items()}
    since_s = time.monotonic()
    together = _asked(elections, idle_s)
    took_s = time.monotonic() - since_s
    found: dict[str, dict[str, float]] = {}
    for election in elections:
        name = election.name
        pair = pairs[name]
        assert election.leader is pair[0], "the leader has changed"
        used = [_cpu_s(each) - cpu_s for each, cpu_s in zip(pair, before[name], strict=True)]
        found[name] = {
            "memory of a leader (PSS), MiB": pss_mib(_own_processes(pair[0])),
            "memory of a standby (PSS), MiB": pss_mib(_own_processes(pair[1])),
            "requests of a leader per second": alone[name],
            "requests of a standby per second": max(0.0, (together[name] - alone[name]) / 2),
            "processor time of a leader per hour, s": 3600 * used[0] / took_s,
            "processor time of a standby per hour, s": 3600 * used[1] / took_s,
        }
    return found


def _row(what: str, values: Mapping[str, float], cells: Iterable[str]) -> Sequence[str]:
    return (what, *cells, ratio(values[OURS], values[AWAIT_ELECTION]))


def measure(plane: ControlPlane, directory: Path, options: Any) -> str:
    """Tell how long starts took with nobody else there, and what candidates cost."""
    elections = [Election(plane, directory / name, name) for name in MEASURED]
    try:
        for election in elections:
            for name in "abc":
                election.make(name)
        starts = _starts(elections, options.rounds)
        costs = _costs(elections, options.idle)
    finally:
        for election in elections:
            election.end()
    medians = {name: statistics.median(values) for name, values in starts.items()}
    what = "from its start, lock free, until its child runs"
    rows = [_row(what, medians, map(spread, starts.values()))]
    for what in costs[OURS]:
        values = {name: costs[name][what] for name in MEASURED}
        rows.append(_row(what, values, map(rounded, values.values())))
    return f"{table(('A candidate', *MEASURED, VERSUS), rows)}\n"


if __name__ == "__main__":
    run("resource_usage", __doc__, measure, rounds=20, idle=100.0)
