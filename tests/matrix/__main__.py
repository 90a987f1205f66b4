"""`python -m tests.matrix`: play what of the fault matrix `build/matrix` does not have yet."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from tests.benchmarks.harness import surroundings
from tests.matrix import report
from tests.matrix.faults import FAULTS
from tests.matrix.runner import RESULTS, plan, plan_quick, play_all, sources, verdict
from tests.support.competitors import OURS
from tests.support.controlplane import ControlPlane

if TYPE_CHECKING:
    from tests.matrix.model import Cell
    from tests.matrix.runner import Entry


def _outcome(entry: Entry, cell: Cell) -> str:
    if cell.invalid or cell.broken:
        return "invalid" if cell.invalid else "BROKEN"
    return "held" if entry.competitor == OURS else "played"


def _tell(entry: Entry, cell: Cell) -> None:
    gap = "-" if cell.gap_s is None else f"{cell.gap_s:.2f} s"
    print(
        f"{time.strftime('%H:%M:%S')} {_outcome(entry, cell):8} {entry.name}:"
        f" overlap {cell.overlap_s:.2f} s, gap {gap}, took {cell.took_s:.0f} s"
        f" {cell.invalid or '; '.join(cell.broken)}".rstrip(),
        flush=True,
    )


def main() -> int:
    """Play the matrix as the command line says; 0 when every promise held."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("-k", action="append", metavar="WORD", help="faults whose name has it")
    parser.add_argument(
        "--runs",
        type=int,
        default=5,
        help="plays of leaderexec with the short timing (%(default)s)",
    )
    parser.add_argument("--quick", action="store_true", help="the subset of the kube lane")
    parser.add_argument("--jobs", type=int, default=3 * (os.cpu_count() or 1))
    parser.add_argument("--record", action="store_true", help="keep the verdicts in the tree")
    parser.add_argument("--list", action="store_true", help="print the faults and end")
    options = parser.parse_args()
    words = options.k or [""]
    faults = [fault for fault in FAULTS if any(word in fault.name for word in words)]
    if options.list:
        for fault in faults:
            print(f"{fault.kind.value:9} {fault.group:20} {fault.name}: {fault.about}")
        return 0
    if options.record and (options.k or options.quick):
        parser.error("--record keeps the whole matrix, and not a part")
    entries = plan_quick(faults) if options.quick else plan(faults, runs=options.runs)
    RESULTS.mkdir(parents=True, exist_ok=True)
    sources()  # as they are now, whatever is edited meanwhile
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began_s = time.monotonic()
    with ControlPlane() as plane:
        cells = play_all(entries, plane, jobs=options.jobs, tell=_tell)
        around = surroundings(plane, load=False)
    wrong = verdict(cells)
    (RESULTS / "matrix.md").write_text(report.page(report.rows_of(cells)))
    if options.record and not any(cell.invalid for cell in cells.values()):
        report.record(cells, around)
    print(*wrong, sep="\n")
    counts = Counter(_outcome(entry, cell) for entry, cell in cells.items())
    print(f"{len(cells)} cells in {time.monotonic() - began_s:.0f} s: {dict(counts)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
