"""The matrix as a record and as a page: what was found in each cell, and no figure of one run.

`tests/measured/matrix.json` changes only with a verdict: overlaps are kept in coarse steps.
`tests/measured/matrix.md` is made of it and of the rows.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from tests.matrix.faults import FAULTS
from tests.matrix.model import Kind
from tests.measured import DIRECTORY, table
from tests.support.competitors import COMPETITORS, OURS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.matrix.model import Cell, Fault
    from tests.matrix.runner import Entry

    Rows = dict[str, dict[str, dict[str, Any]]]

_RECORD: Final = DIRECTORY / "matrix.json"
#: The steps of an overlap, in seconds.
_STEPS: Final = ((0.0, ""), (1, "1 s or less"), (5, "1 to 5 s"), (15, "5 to 15 s"))
_BEYOND: Final = "more than 15 s"
LADDER: Final = (*(words for _, words in _STEPS), _BEYOND)


def step_of(overlap_s: float) -> str:
    """Say how long an overlap was, empty for none."""
    return next((words for most_s, words in _STEPS if overlap_s <= most_s), _BEYOND)


def rows_of(cells: Mapping[Entry, Cell]) -> Rows:
    """Return what is kept of the cells, by fault and competitor."""
    rows: Rows = {}
    for entry, cell in cells.items():
        row = rows.setdefault(entry.fault.name, {}).setdefault(
            entry.competitor, {"plays": 0, "broken": 0, "kept": True, "overlap": ""}
        )
        row["plays"] += 1
        row["broken"] += bool(cell.broken)
        row["kept"] = row["kept"] and cell.kept
        row["overlap"] = max(row["overlap"], step_of(cell.overlap_s), key=LADDER.index)
    return rows


def load() -> dict[str, Any]:
    """Return the record: where it was made, and the rows."""
    found: dict[str, Any] = json.loads(_RECORD.read_text())
    return found


def record(cells: Mapping[Entry, Cell], around: str) -> None:
    """Keep the verdicts of a whole run in the tree, unless they are those that are kept."""
    rows = rows_of(cells)
    if load()["faults"] != rows:
        lines = (f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
        faults = ",\n".join(lines)
        _RECORD.write_text(
            f'{{\n "surroundings": {json.dumps(around)},\n "faults": {{\n{faults}\n }}\n}}\n'
        )


def page(rows: Rows) -> str:
    """Return the whole table: faults down, competitors across."""
    lines = [
        (
            f"**{fault.name}**: {fault.about}",
            fault.kind.value,
            *(_told(fault, name, rows[fault.name].get(name)) for name in COMPETITORS),
        )
        for fault in FAULTS
        if fault.name in rows
    ]
    return table(("", "", *COMPETITORS), lines) + "\n"


def _told(fault: Fault, name: str, cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ""
    words = [f"**two children for {cell['overlap']}**" if cell["overlap"] else "one child"]
    if cell["kept"]:
        words = ["the same child"]
    if name == OURS and fault.kind is not Kind.REPORTED:
        words.append(f"{cell['broken']} of {cell['plays']} broken" if cell["broken"] else "held")
    return ", ".join(words)


def summary() -> str:
    """Tell in how many faults each competitor had two children at once, as recorded."""
    rows: Rows = load()["faults"]
    lines = []
    for promised in (True, False):
        names = [f.name for f in FAULTS if (f.kind is Kind.PROMISE) is promised]
        overlaps = [
            [rows[name][competitor]["overlap"] for name in names if competitor in rows[name]]
            for competitor in COMPETITORS
        ]
        what = "one child at most is promised" if promised else "a bound is promised, or nothing"
        twice = (str(sum(map(bool, each))) for each in overlaps)
        longest = (max(each, key=LADDER.index) or "-" for each in overlaps)
        lines += [
            (f"faults of which {what}", *(str(len(each)) for each in overlaps)),
            ("of these, with two children at once", *twice),
            ("the longest", *longest),
        ]
    ours = [row[OURS] for row in rows.values()]
    return (
        f"{table(('', *COMPETITORS), lines)}\n\n"
        f"{len(rows)} faults; {OURS} played {sum(cell['plays'] for cell in ours)} times, "
        f"{sum(cell['broken'] for cell in ours)} promises broken.\n"
        f"`make matrix` on {load()['surroundings']}."
    )
