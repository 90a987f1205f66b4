"""What all benchmarks share: their command line, the machine that they ran on, distributions.

A speed is a fact of a machine, not a property of the code: nothing is asserted in a benchmark, and
the ratios say more than the figures. Each prints the table that the README has of it; `--write`
keeps that in `tests/measured`.
Guards against: a figure that nobody can place.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from tests.measured import DIRECTORY
from tests.support.competitors import AWAIT_ELECTION, CLIENT_GO, COMPETITORS, OURS
from tests.support.controlplane import ControlPlane
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    T = TypeVar("T")

#: Those that are measured beside each other.
MEASURED = (OURS, AWAIT_ELECTION, CLIENT_GO)
VERSUS = f"{OURS} to {AWAIT_ELECTION}"
#: What a ratio may be off before it is worth a word.
_ALIKE = 1.05
#: Until the process that was started last has imported all that it will.
SETTLE_S = 5.0


def run(
    name: str,
    about: str | None,
    measure: Callable[[ControlPlane, Path, Any], str],
    plane_arguments: Callable[[Path], Sequence[str]] = lambda _: (),
    **defaults: float,
) -> None:
    """Run a benchmark, whose options have these defaults, and print or keep its table."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for option, default in defaults.items():
        parser.add_argument(f"--{option}", type=type(default), default=default)
    parser.add_argument("--write", action="store_true", help="keep the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="leaderexec-bench-") as scratch:
        directory = Path(scratch)
        with ControlPlane(apiserver_arguments=plane_arguments(directory)) as plane:
            around = surroundings(plane)  # before the benchmark, which is a load by itself
            told = measure(plane, directory, options)
    text = f"{told}\n`python -m tests.benchmarks.{name}` on {around}.\n"
    print(text)
    if options.write:
        (DIRECTORY / f"{name}.md").write_text(text)


def surroundings(plane: ControlPlane, *, load: bool = True) -> str:
    """Say when this is, of which versions everything is, and how large and busy the machine is."""
    _, kube = plane.request("GET", "/version")
    etcd = subprocess.run(
        [plane.binaries.etcd, "--version"], capture_output=True, text=True, check=True
    ).stdout
    versions = ", ".join(f"{name} {COMPETITORS[name].version()}" for name in MEASURED)
    cores, busy = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return (
        f"{datetime.now(UTC).date()}: {versions}; kube-apiserver {kube['gitVersion']} and etcd "
        f"{etcd.split()[2]} on the same machine of {cores} processors and "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}"
        + (f"; **the machine was busy** (load {busy:.1f})" if load and busy > cores / 2 else "")
    )


def rounded(value: float) -> str:
    """Write a number with two figures, and more than two only as zeros."""
    return f"{float(f'{value:.2g}'):,g}"


def ratio(ours: float, theirs: float) -> str:
    """Say what ours is of theirs: `15 times`, `1/300`, `alike`; a dash where either is nothing."""
    if ours <= 0 or theirs <= 0:
        return "-"
    if 1 / _ALIKE <= ours / theirs <= _ALIKE:
        return "alike"
    return f"{rounded(ours / theirs)} times" if ours > theirs else f"1/{rounded(theirs / ours)}"


def duration(value_ms: float) -> str:
    """Write a duration in the unit that fits it."""
    return f"{value_ms / 1000:.1f} s" if value_ms >= 1000 else f"{value_ms:.0f} ms"


def spread(values_ms: Sequence[float]) -> str:
    """Say a distribution: its median, and between what it lies."""
    least, middle, most = min(values_ms), statistics.median(values_ms), max(values_ms)
    return f"{duration(middle)} ({duration(least)} to {duration(most)})"


def in_turn(all_of: Sequence[T], round_: int) -> list[T]:
    """Return these in the order of a round: each is first as often as any other."""
    first = round_ % len(all_of)
    return [*all_of[first:], *all_of[:first]]


def let_pass(duration_s: float) -> None:
    """Wait, where time is what is waited for: for a phase, or for a window to be over."""
    until_s = time.monotonic() + duration_s
    wait_until(lambda: time.monotonic() >= until_s, timeout_s=duration_s + 5, what="time passes")


def pss_mib(pids: Iterable[int]) -> float:
    """Return the memory of processes; pages that several of them share are split among them."""
    return round(sum(psutil.Process(p).memory_full_info().pss for p in pids) / 2**20, 1)
