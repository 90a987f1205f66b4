"""Runs schedules of the simulation by the ten thousand: `python -m tests.soak [--schedules=N]`.

Owns how they are shared out, over the clusters in the proportions of their table and over all
processors, and the count: what was seen, and how to see each failure again. A schedule is one
cluster and one seed, so that the same seeds give the same counts however many processors there are.
By default the seeds begin where those of the unit lane end. An interrupt, and `--minutes`, end a
run early with what it has: what it then has was drawn from all clusters alike.

It must not know how a cluster works; what is a failure is the verdict of tests/support/simulation.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import signal
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from typing import TYPE_CHECKING, Final

from tests.support.clusters import CLUSTERS
from tests.support.simulation import World

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from tests.support.simulation import Setup

SCHEDULES: Final = 100_000
#: The unit lane runs the seeds below.
FIRST_SEED: Final = max(count for _, count in CLUSTERS.values())
#: The test of the unit lane that runs one schedule of one cluster again.
REPLAYS: Final = (
    "tests/unit/test_simulation.py",
    "test_no_two_trees_overlap_and_none_is_released_while_it_lives",
)

#: How many schedules a process runs before it tells what it saw.
_AT_ONCE: Final = 16
_PROGRESS_S: Final = 60


@dataclass(frozen=True, slots=True)
class Schedule:
    """One run of one cluster."""

    cluster: str
    setup: Setup
    seed: int


@dataclass
class Count:
    """What was seen; `failures` tells of each schedule that broke a promise, and of no other."""

    schedules: int = 0
    trees: int = 0
    overlaps: int = 0
    early_releases: int = 0
    unsettled: int = 0
    raised: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, other: Count) -> None:
        """Add what was seen elsewhere."""
        self.schedules += other.schedules
        self.trees += other.trees
        self.overlaps += other.overlaps
        self.early_releases += other.early_releases
        self.unsettled += other.unsettled
        self.raised += other.raised
        self.failures += other.failures

    def line(self, took_s: float) -> str:
        """Say it in one line."""
        return (
            f"{self.schedules} schedules, {self.trees} trees, {self.overlaps} overlaps, "
            f"{self.early_releases} early releases, {self.unsettled} did not settle, "
            f"{self.raised} raised, {self.schedules / max(took_s, 0.001):.1f} schedules/s"
        )


def share_out(
    count: int, first_seed: int, clusters: Mapping[str, tuple[Setup, int]]
) -> list[Schedule]:
    """Return `count` schedules, each stretch of which has all clusters in their proportions."""
    total = sum(weight for _, weight in clusters.values())
    credit = dict.fromkeys(clusters, 0)
    seeds = dict.fromkeys(clusters, first_seed)
    schedules = []
    for _ in range(count):
        for name, (_, weight) in clusters.items():
            credit[name] += weight
        name = max(credit, key=credit.__getitem__)
        credit[name] -= total
        schedules.append(Schedule(name, clusters[name][0], seeds[name]))
        seeds[name] += 1
    return schedules


def replay(schedule: Schedule) -> str:
    """Return the command that runs a schedule again, with a trace."""
    node = shlex.quote(f"{'::'.join(REPLAYS)}[{schedule.cluster}]")
    python = os.path.relpath(sys.executable)
    return f"LEADEREXEC_SEED={schedule.seed} {python} -m pytest -s {node}"


def play(schedules: Sequence[Schedule]) -> Count:
    """Run schedules one after the other and count what is seen."""
    count = Count()
    for schedule in schedules:
        world = World(schedule.seed, schedule.setup)
        problem = ""
        try:
            world.run()
        except AssertionError as error:
            problem = f"AssertionError: {error}"
            if str(error).startswith("nobody leads"):
                count.unsettled += 1
            else:
                count.raised += 1
        except Exception as error:  # noqa: BLE001 - a core that breaks is one more failure
            problem = f"{type(error).__name__}: {error}"
            count.raised += 1
        seen = world.verdict
        count.schedules += 1
        count.trees += seen.trees
        count.overlaps += len(seen.overlaps)
        count.early_releases += len(seen.early_releases)
        if problem or seen.overlaps or seen.early_releases:
            what = " ".join(
                [problem, *map(str, seen.overlaps), *map(str, seen.early_releases)]
            ).strip()
            count.failures.append(
                f"failed: {schedule.cluster!r}, seed {schedule.seed}: {what}\n"
                f"  again: {replay(schedule)}"
            )
    return count


def soak(
    schedules: Sequence[Schedule],
    *,
    processes: int,
    enough: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = print,
) -> Count:
    """Run schedules over some processes, until all are done or it is `enough`."""
    total = Count()
    began_s = told_s = time.monotonic()
    parts = (schedules[at : at + _AT_ONCE] for at in range(0, len(schedules), _AT_ONCE))
    with closing(_in_turn(parts) if processes == 1 else _side_by_side(parts, processes)) as counts:
        for part in counts:
            total.add(part)
            for failure in part.failures:
                tell(failure)
            now_s = time.monotonic()
            if now_s >= told_s + _PROGRESS_S:
                told_s = now_s
                tell(f"{total.schedules} of {len(schedules)}: {total.line(now_s - began_s)}")
            if enough():
                break
    return total


def _in_turn(parts: Iterator[Sequence[Schedule]]) -> Generator[Count, None, None]:
    for part in parts:
        yield play(part)


def _side_by_side(
    parts: Iterator[Sequence[Schedule]], processes: int
) -> Generator[Count, None, None]:
    """Yield counts as they come; no more is begun than keeps all processes busy."""
    # Forked while this process has one thread: an executor forks all of them at its first task.
    with ProcessPoolExecutor(processes, get_context("fork")) as pool:
        running: set[Future[Count]] = {
            pool.submit(play, part) for part in islice(parts, 2 * processes)
        }
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(play, part) for part in islice(parts, len(done))}
                for future in done:
                    yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what `argv` says; return 1 if any schedule failed, 130 if interrupted before one did."""
    parser = argparse.ArgumentParser(prog="tests.soak", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--schedules", type=int, default=SCHEDULES, metavar="N")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, metavar="SEED")
    parser.add_argument("--minutes", type=float, help="end after this long with what there is")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args(argv)
    began_s = time.monotonic()
    bound_s = math.inf if options.minutes is None else began_s + 60 * options.minutes
    schedules = share_out(options.schedules, options.first_seed, CLUSTERS)
    interrupts: list[int] = []

    def tell(line: str) -> None:
        print(line, flush=True)

    # Ctrl-C reaches all processes of the terminal; in those that are forked it does nothing.
    before = signal.signal(signal.SIGINT, lambda signum, _: interrupts.append(signum))
    tell(
        f"{len(schedules)} schedules of {len(CLUSTERS)} clusters from seed {options.first_seed} "
        f"over {options.processes} processes"
    )
    total = soak(
        schedules,
        processes=options.processes,
        enough=lambda: bool(interrupts) or time.monotonic() >= bound_s,
        tell=tell,
    )
    signal.signal(signal.SIGINT, before)
    if total.schedules < len(schedules):
        why = "interrupted" if interrupts else "ended early"
        tell(f"{why}: ran {total.schedules} of {len(schedules)}")
    tell(total.line(time.monotonic() - began_s))
    if total.failures or not total.schedules:
        return 1
    return 128 + signal.SIGINT if interrupts else 0


if __name__ == "__main__":
    sys.exit(main())
