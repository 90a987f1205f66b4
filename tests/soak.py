"""Runs schedules of the simulation by the ten thousand: `python -m tests.soak [--schedules=N]`.

A schedule is one cluster and one seed: the same seeds give the same counts however many processors
there are. By default the seeds begin where those of the unit lane end. An interrupt ends a run
early; what it then has was drawn from all clusters in the proportions of their table.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shlex
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.support.clusters import CLUSTERS
from tests.support.simulation import World

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.support.simulation import Setup

#: The unit lane runs the seeds below.
FIRST_SEED: Final = max(count for _, count in CLUSTERS.values())
#: The test of the unit lane that runs one schedule of one cluster again.
REPLAYS: Final = (
    "tests/unit/test_simulation.py",
    "test_no_two_trees_overlap_and_none_is_released_while_it_lives",
)
#: How many schedules a process runs before it tells what it saw.
_AT_ONCE: Final = 16
_SHOWN: Final = ("schedules", "trees", "overlaps", "early releases", "did not settle", "raised")


class Schedule(NamedTuple):
    """One run of one cluster."""

    cluster: str
    setup: Setup
    seed: int


def share_out(
    count: int, first_seed: int, clusters: Mapping[str, tuple[Setup, int]]
) -> list[Schedule]:
    """Return `count` schedules, each stretch of which has all clusters in their proportions."""
    names = [name for name, (_, weight) in clusters.items() for _ in range(weight)]
    random.Random(0).shuffle(names)
    seeds = {name: itertools.count(first_seed) for name in clusters}
    return [
        Schedule(name, clusters[name][0], next(seeds[name]))
        for name in itertools.islice(itertools.cycle(names), count)
    ]


def play(schedules: Sequence[Schedule]) -> tuple[Counter[str], list[str]]:
    """Run schedules one after the other; return what was seen, and how to see failures again."""
    seen: Counter[str] = Counter()
    failures = []
    for cluster, setup, seed in schedules:
        world = World(seed, setup)
        problems = []
        try:
            world.run()
        except Exception as error:  # noqa: BLE001 - a core that breaks is one more failure
            problems.append(f"{type(error).__name__}: {error}")
            seen["did not settle" if "nobody leads" in str(error) else "raised"] += 1
        verdict = world.verdict
        seen["schedules"] += 1
        seen["trees"] += verdict.trees
        seen["overlaps"] += len(verdict.overlaps)
        seen["early releases"] += len(verdict.early_releases)
        problems += verdict.overlaps + verdict.early_releases
        if problems:
            node = shlex.quote(f"{'::'.join(REPLAYS)}[{cluster}]")
            failures.append(
                f"failed: {cluster!r}, seed {seed}: {' '.join(problems)}\n  again: "
                f"LEADEREXEC_SEED={seed} {os.path.relpath(sys.executable)} -m pytest -s {node}"
            )
    return seen, failures


def main(argv: Sequence[str] | None = None) -> int:
    """Run what `argv` says; return 1 if any schedule failed, 130 if interrupted before one did."""
    parser = argparse.ArgumentParser(prog="tests.soak", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--schedules", type=int, default=100_000, metavar="N")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, metavar="SEED")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args(argv)
    schedules = share_out(options.schedules, options.first_seed, CLUSTERS)
    parts = [schedules[at : at + _AT_ONCE] for at in range(0, len(schedules), _AT_ONCE)]
    total: Counter[str] = Counter()
    status = 0
    began_s = time.monotonic()
    # Ctrl-C reaches all processes of the terminal; in those that are forked it does nothing.
    pool = ProcessPoolExecutor(
        options.processes, get_context("fork"), signal.signal, (signal.SIGINT, signal.SIG_IGN)
    )
    try:
        for seen, failures in pool.map(play, parts):
            total += seen
            total["failed"] += len(failures)
            print(*failures, sep="\n", end="\n" if failures else "", flush=True)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    finally:
        pool.shutdown(cancel_futures=True)
    counts = ", ".join(f"{total[what]} {what}" for what in _SHOWN)
    rate = total["schedules"] / max(time.monotonic() - began_s, 0.001)
    print(f"{len(schedules)} asked for: {counts}, {rate:.1f} schedules/s")
    return 1 if total["failed"] or not total["schedules"] else status


if __name__ == "__main__":
    sys.exit(main())
