"""Measures handovers among very many standbys: `python -m tests.benchmarks.herd [--write]`.

Prints distributions and asserts nothing, as the other benchmarks; how much the API server is asked
at most is asserted by tests/kube/test_herd.py. `--write` keeps them in tests/measured/herd.json.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.record import save, surroundings
from tests.support.controlplane import ControlPlane
from tests.support.herd import Herd


def measure(standbys: int, rounds: int) -> dict[str, Any]:
    """Print what each handover cost, and the medians; return what there is to keep."""
    with (
        ControlPlane() as plane,
        tempfile.TemporaryDirectory(prefix="leaderexec-bench-") as directory,
        contextlib.ExitStack() as stack,
    ):
        around = surroundings(plane)  # before the herd, whose start is a load by itself
        herd = stack.enter_context(Herd(plane, Path(directory), standbys))
        handovers = []
        for _ in range(rounds):
            handovers.append(herd.hand_over())
            attempts, answers, took_s = handovers[-1]
            told = ", ".join(f"{verb} {code}: {n}" for (verb, code), n in sorted(answers.items()))
            print(f"{1000 * took_s:7.1f} ms, {attempts} attempts to write ({told})")
        took = [1000 * handover.took_s for handover in handovers]
        attempts_ = [handover.attempts for handover in handovers]
        print(
            f"{standbys} standbys: SIGTERM -> next child runs: median {statistics.median(took):.1f}"
            f" ms, max {max(took):.1f} ms; attempts to write: median"
            f" {statistics.median(attempts_):g}, max {max(attempts_)} (n={rounds})"
        )
        samples = [
            {"ms": round(1000 * handover.took_s, 1), "attempts": handover.attempts}
            for handover in handovers
        ]
        return {"surroundings": around, "standbys": standbys, "samples": samples}


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--standbys", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--write", action="store_true", help="keep the samples")
    options = parser.parse_args()
    record = measure(options.standbys, options.rounds)
    if options.write:
        save("herd", record)


if __name__ == "__main__":
    main()
