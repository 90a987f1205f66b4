"""Measures what a candidate costs, ours and its peers' beside each other: `make bench`.

In turn for each make, with a leader and two standbys at 15 / 10 / 2 s on a real API server: from
its start with the lock free until its child runs; the memory of a leader and of a standby; what
they ask the API server, by its audit log; their processor time. `tests.benchmarks.handover`
measures how long nobody leads. A speed is a fact of a machine, not a property of the code: nothing
is asserted here. Every start includes that of the child, which is a shell.

`--write` keeps the samples in tests/measured/spine.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from tests.benchmarks.record import let_pass, row, save, surroundings
from tests.benchmarks.teams import MAKES, TIMING, Team, in_turn, own_processes
from tests.support.controlplane import ControlPlane, service_account_user

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.candidate import Candidate

_SETTLE_S = 5  # whoever was started last has imported all that it will


def _pss_mib(candidate: Candidate) -> float:
    processes = (psutil.Process(pid) for pid in own_processes(candidate))
    return sum(process.memory_full_info().pss for process in processes) / 2**20


def _cpu_s(candidate: Candidate) -> float:
    """Return the processor time used, exactly: what psutil reads counts in hundredths."""
    threads = [t for pid in own_processes(candidate) for t in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((t / "schedstat").read_text().split()[0]) for t in threads) / 1e9


def _requests(team: Team) -> int:
    """Return how many requests the candidates of a team have made so far."""
    admin = "test-admin"
    namespace = team.election.namespace
    users = {service_account_user(namespace, name) for name in ("bench", "peer", "rival")}
    found = team.election.plane.requests(namespace, "x")
    assert all(request.user in {*users, admin} for request in found)
    return sum(request.user in users for request in found)


def starts(teams: Sequence[Team], rounds: int) -> dict[str, list[float]]:
    """Return for each make how long its starts took with nobody else there, in milliseconds."""
    took: dict[str, list[float]] = {team.make: [] for team in teams}
    for number in range(rounds):
        for team in in_turn(teams, number):
            team.forget()
            candidate = team.candidates["a"]
            count = len(team.election.starts())
            begun_s = time.time()
            candidate.start()
            start = team.election.wait_starts(count + 1)
            took[team.make].append(round(1000 * (start.at_s - begun_s), 1))
            candidate.kill()
    for make, values in took.items():
        print(row(f"{make}: start, lock free -> child runs", values, "ms"), flush=True)
    return took


def costs(teams: Sequence[Team], idle_s: float) -> dict[str, dict[str, float]]:
    """Return for each make what a leader and a standby cost while nothing happens."""
    found: dict[str, dict[str, float]] = {team.make: {} for team in teams}
    for team in teams:
        team.forget()
        count = len(team.election.starts())
        team.candidates["a"].start()
        team.election.wait_starts(count + 1)
    alone = _asked(teams, idle_s)
    for team in teams:
        for name in "bc":
            team.stand_by(team.candidates[name])
    let_pass(_SETTLE_S)
    pairs = {team.make: (team.candidates["a"], team.candidates["b"]) for team in teams}
    before = {make: [_cpu_s(each) for each in pair] for make, pair in pairs.items()}
    since_s = time.monotonic()
    together = _asked(teams, idle_s)
    took_s = time.monotonic() - since_s
    for team in teams:
        make = team.make
        assert team.leader is team.candidates["a"], "the leader has changed"
        used = [_cpu_s(each) - cpu_s for each, cpu_s in zip(pairs[make], before[make], strict=True)]
        leader, standby = pairs[make]
        found[make] = {
            "leader_pss_mib": round(_pss_mib(leader), 1),
            "standby_pss_mib": round(_pss_mib(standby), 1),
            "leader_requests_per_s": round(alone[make], 3),
            "standby_requests_per_s": max(0.0, round((together[make] - alone[make]) / 2, 3)),
            "leader_cpu_s_per_hour": round(3600 * used[0] / took_s, 2),
            "standby_cpu_s_per_hour": round(3600 * used[1] / took_s, 2),
        }
        for key, value in found[make].items():
            print(f"{f'{make}: {key}':60} {value:10.2f}", flush=True)
    return found


def _asked(teams: Sequence[Team], window_s: float) -> dict[str, float]:
    """Return the requests per second of each team in a window that begins when all is quiet."""
    let_pass(_SETTLE_S)
    before = {team.make: _requests(team) for team in teams}
    since_s = time.monotonic()
    let_pass(window_s)
    took_s = time.monotonic() - since_s
    return {team.make: (_requests(team) - before[team.make]) / took_s for team in teams}


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--idle", type=float, default=100, help="seconds to watch idle candidates")
    parser.add_argument("--write", action="store_true", help="keep the samples")
    options = parser.parse_args()
    with (
        ControlPlane() as plane,
        tempfile.TemporaryDirectory(prefix="leaderexec-bench-") as directory,
    ):
        around = surroundings(plane)
        teams = [Team.of(make, plane, Path(directory)) for make in MAKES]
        samples: dict[str, Any] = {}
        try:
            samples["start_ms"] = starts(teams, options.rounds)
            samples["costs"] = costs(teams, options.idle)
        finally:
            for team in teams:
                team.end()
    if options.write:
        save("spine", {"surroundings": around, "timing": list(TIMING), **samples})


if __name__ == "__main__":
    main()
