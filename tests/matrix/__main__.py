"""`python -m tests.matrix`: play the fault matrix and write it down."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tests.benchmarks.record import surroundings
from tests.matrix import report
from tests.matrix.contestants import MAKES
from tests.matrix.faults import FAULTS
from tests.matrix.model import CONTESTANTS
from tests.matrix.runner import (
    ROOT,
    Match,
    Results,
    count,
    plan,
    plan_quick,
    sources,
    verdict,
)
from tests.support.controlplane import ControlPlane

if TYPE_CHECKING:
    from tests.matrix.model import Cell
    from tests.matrix.runner import Entry


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("-k", action="append", metavar="WORD", help="faults whose name has it")
    parser.add_argument("--makes", default=",".join(CONTESTANTS), help="contestants (%(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="of ours, brisk (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="the subset of CI")
    parser.add_argument("--jobs", type=int, default=3 * (os.cpu_count() or 1))
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "matrix")
    parser.add_argument("--fresh", action="store_true", help="play what was played before too")
    parser.add_argument("--record", type=Path, metavar="DIR", help="write the table there too")
    parser.add_argument("--list", action="store_true", help="print the faults and end")
    return parser


def _tell(entry: Entry, cell: Cell) -> None:
    word = "invalid" if cell.invalid else "BROKEN" if cell.broken else "held"
    if entry.contestant != CONTESTANTS[0] and not cell.invalid:
        word = "played"
    gap = "-" if cell.gap_s is None else f"{cell.gap_s:.2f} s"
    print(
        f"{time.strftime('%H:%M:%S')} {word:8} {entry.name}: overlap {cell.overlap_s:.2f} s,"
        f" gap {gap}, took {cell.took_s:.0f} s {cell.invalid or '; '.join(cell.broken)}".rstrip(),
        flush=True,
    )


def _leave(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    """Play the matrix as the command line says; 0 when every promise held."""
    options = _parser().parse_args()
    faults = [
        fault for fault in FAULTS if not options.k or any(word in fault.name for word in options.k)
    ]
    if options.list:
        for fault in faults:
            print(f"{fault.kind.value:9} {fault.group:20} {fault.name}: {fault.about}")
        return 0
    makes = [make for make in options.makes.split(",") if make in MAKES]
    entries = plan_quick(faults) if options.quick else plan(faults, runs=options.runs, makes=makes)
    digest = sources()
    results = Results(options.results, digest, fresh=options.fresh)
    signal.signal(signal.SIGTERM, _leave)
    began_s = time.monotonic()
    with ControlPlane() as plane:
        cells = Match(plane, results, jobs=options.jobs, tell=_tell).play(entries)
        around = surroundings(plane)
    wrong = verdict(cells)
    table = report.summary(faults, cells, digest, around)
    report.write(table, options.results)
    if options.record:
        report.write(table, options.record)
    print(*wrong, sep="\n")
    told = count(cells)
    print(
        f"{len(cells)} cells in {time.monotonic() - began_s:.0f} s:"
        f" {told['held']} held, {told['broken']} broken, {told['invalid']} invalid"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
