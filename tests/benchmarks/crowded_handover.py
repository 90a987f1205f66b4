"""Measures handovers among very many standbys: `python -m tests.benchmarks.crowded_handover`.

How much the API server is asked at most is asserted by tests/kube/test_herd.py.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from tests.benchmarks.harness import run, spread
from tests.support.herd import Herd

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.controlplane import ControlPlane


def measure(plane: ControlPlane, directory: Path, options: Any) -> str:
    """Tell how long handovers took, and how often candidates tried to write in each."""
    with Herd(plane, directory, options.standbys) as herd:
        handovers = [herd.hand_over() for _ in range(options.rounds)]
    took = spread([1000 * handover.took_s for handover in handovers])
    attempts = [handover.attempts for handover in handovers]
    return (
        f"With {options.standbys} standbys, each a real one with its own watch, it takes {took} "
        "from SIGTERM to the leader until the next child runs, in the median (least to most) of "
        f"{options.rounds} handovers,\nand {statistics.median(attempts):g} attempts to write "
        f"({min(attempts)} to {max(attempts)}), the release and the naming of the next included."
    )


if __name__ == "__main__":
    run("crowded_handover", __doc__, measure, standbys=200, rounds=10)
