"""Measures the spine on a real API server: handover, start, memory, requests, processor time.

Run it by `make bench`, on a machine that does nothing else. It prints distributions and asserts
nothing: a speed is a fact of a machine, not a property of the code. Every figure includes the start
of the child, which is a shell.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tests.support.controlplane import ControlPlane, service_account_user
from tests.support.field import Field
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from tests.support.candidates import Candidate

_PARTS = ("leaderexec", "leaderexec-elec", "leaderexec-keep")


def _let_pass(duration_s: float) -> None:
    until_s = time.monotonic() + duration_s
    wait_until(lambda: time.monotonic() >= until_s, timeout_s=duration_s + 5, what="time passes")


def _death_s(pid: int) -> float:
    """Wait for a process to die and return the wall clock."""
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll(30_000)
    died_s = time.time()
    os.close(pidfd)
    return died_s


def _row(name: str, values: list[float], unit: str) -> str:
    ordered = sorted(values)
    p90 = ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]
    return (
        f"{name:44} min {ordered[0]:8.1f}  median {statistics.median(ordered):8.1f}  "
        f"p90 {p90:8.1f}  max {ordered[-1]:8.1f} {unit}  (n={len(ordered)})"
    )


def _ours(candidate: Candidate) -> list[psutil.Process]:
    processes = [psutil.Process(pid) for pid in candidate.everything()]
    return [p for p in processes if p.name() in _PARTS]


def _pss_mib(candidate: Candidate) -> float:
    return float(sum(p.memory_full_info().pss for p in _ours(candidate))) / 2**20


def _cpu_s(candidate: Candidate) -> float:
    """Return the processor time used, exactly: what psutil reads counts in hundredths."""
    threads = [t for p in _ours(candidate) for t in Path(f"/proc/{p.pid}/task").iterdir()]
    return sum(int((t / "schedstat").read_text().split()[0]) for t in threads) / 1e9


def measure(rounds: int, idle_s: float) -> None:
    """Print every figure."""
    with (
        ControlPlane() as plane,
        tempfile.TemporaryDirectory(prefix="leaderexec-bench-") as directory,
    ):
        field = Field(plane, Path(directory))
        candidates = [field.candidate(name) for name in "abc"]
        try:
            _handovers(field, candidates, rounds)
            _idle(field, candidates, idle_s)
        finally:
            for candidate in candidates:
                if candidate.process.poll() is None:
                    candidate.terminate()
                    candidate.wait()
        _starts(field, rounds)


def _handovers(field: Field, candidates: list[Candidate], rounds: int) -> None:
    for candidate in candidates:
        candidate.start()
    for candidate in candidates:
        candidate.wait_event("campaigning")
    pid = field.wait_starts(1).pid
    term_to_exec, dead_to_exec = [], []
    for number in range(rounds):
        # Everybody has connected, read and opened a watch.
        _let_pass(1.5)
        leader = next(c for c in candidates if pid in c.everything())
        guardian = leader.guardian
        term_s = time.time()
        os.kill(guardian, signal.SIGTERM)
        died_s = _death_s(pid)
        start = field.wait_starts(number + 2)
        pid = start.pid
        term_to_exec.append(1000 * (start.at_s - term_s))
        dead_to_exec.append(1000 * (start.at_s - died_s))
        leader.wait()
        leader.start()
    print(_row("SIGTERM to the leader -> next child runs", term_to_exec, "ms"))
    print(_row("old child dead -> next child runs", dead_to_exec, "ms"))


def _idle(field: Field, candidates: list[Candidate], idle_s: float) -> None:
    pid = field.starts()[-1].pid
    leader = next(c for c in candidates if pid in c.everything())
    standby = next(c for c in candidates if c is not leader)
    _let_pass(5)  # whoever was started last has imported all that it will
    print(f"{'PSS of a standby, all our processes':44} {_pss_mib(standby):8.1f} MiB")
    print(f"{'PSS of a leader, all our processes':44} {_pss_mib(leader):8.1f} MiB")
    user = service_account_user(field.namespace, "bench")
    before = [_cpu_s(leader), _cpu_s(standby)]
    requests = len([r for r in field.plane.requests(field.namespace, "x") if r.user == user])
    since_s = time.monotonic()
    _let_pass(idle_s)
    took_s = time.monotonic() - since_s
    used = [_cpu_s(leader) - before[0], _cpu_s(standby) - before[1]]
    made = len([r for r in field.plane.requests(field.namespace, "x") if r.user == user]) - requests
    for name, cpu_s in zip(("leader", "standby"), used, strict=True):
        print(f"{f'processor time of a {name}':44} {3600 * cpu_s / took_s:8.2f} s per hour")
    print(f"{'requests of one leader and two standbys':44} {made / took_s:8.2f} per second")


def _starts(field: Field, rounds: int) -> None:
    values = []
    for number in range(rounds):
        count = len(field.starts())
        candidate = field.candidate(f"start{number}")
        begun_s = time.time()
        candidate.start()
        start = field.wait_starts(count + 1)
        values.append(1000 * (start.at_s - begun_s))
        candidate.terminate()
        candidate.wait()
    print(_row("start, lock free -> child runs", values, "ms"))


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--idle", type=float, default=60, help="seconds to watch idle candidates")
    options = parser.parse_args()
    measure(options.rounds, options.idle)


if __name__ == "__main__":
    main()
