"""The matrix as a table: JSON of record, Markdown, and a picture.

Owns: what of the cells is kept for good, and how it is shown. Pure but for `write`.
"""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, Any, Final

from tests.matrix.contestants import versions
from tests.matrix.model import CONTESTANTS, DEFAULT, OURS, Kind
from tests.support.pictures import draw_matrix

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from tests.matrix.model import Cell, Fault
    from tests.matrix.runner import Entry

JSON_NAME: Final = "matrix.json"
MARKDOWN_NAME: Final = "matrix.md"
SVG_NAME: Final = "matrix.svg"

#: What of a cell is kept for good.
_KEPT: Final = (
    "timing", "run", "invalid", "broken", "kept", "overlap_s", "overlap_open", "gap_s", "stop_s",
    "spare_s", "resolution_s",
)  # fmt: skip


def summary(
    faults: Sequence[Fault],
    cells: Mapping[Entry, Cell],
    sources: str,
    around: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what is kept of a run: for each fault and contestant, its cells."""
    rows = []
    for fault in faults:
        played: dict[str, list[dict[str, Any]]] = {}
        for entry, cell in cells.items():
            if entry.fault is fault:
                kept = {key: getattr(cell, key) for key in _KEPT}
                played.setdefault(entry.contestant, []).append(_rounded(kept))
        if played:
            rows.append(
                {
                    "name": fault.name,
                    "group": fault.group,
                    "about": fault.about,
                    "kind": fault.kind.value,
                    "after": fault.after.value,
                    "cells": played,
                }
            )
    made = {make for row in rows for make in row["cells"]}
    return {
        "sources": sources,
        "surroundings": dict(around),
        "versions": {make: text for make, text in versions().items() if make in made},
        "faults": rows,
    }


def _rounded(cell: dict[str, Any]) -> dict[str, Any]:
    return {
        key: round(value, 3) if isinstance(value, float) else value for key, value in cell.items()
    }


def write(table: Mapping[str, Any], directory: Path) -> None:
    """Write the table as JSON, as Markdown, and as a picture."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / JSON_NAME).write_text(json.dumps(table, indent=1) + "\n")
    (directory / MARKDOWN_NAME).write_text(markdown(table) + "\n")
    (directory / SVG_NAME).write_bytes(draw_matrix(table))


def markdown(table: Mapping[str, Any]) -> str:
    """Return the table: faults down, contestants across."""
    rows = table["faults"]
    makes = [make for make in CONTESTANTS if any(make in row["cells"] for row in rows)]
    lines = [
        "| | | " + " | ".join(makes) + " |",
        "| --- | --- | " + " | ".join("---" for _ in makes) + " |",
    ]
    lines += [
        f"| **{row['name']}**: {row['about']} | {row['kind']} | "
        + " | ".join(cell_text(make, row["cells"].get(make, ()), row["kind"]) for make in makes)
        + " |"
        for row in rows
    ]
    return "\n".join(lines)


def cell_text(make: str, cells: Iterable[Mapping[str, Any]], kind: str) -> str:
    """Say how a contestant came out of a fault of this kind."""
    cells = list(cells)
    if not cells:
        return ""
    valid = [cell for cell in cells if not cell["invalid"]]
    if not valid:
        return "invalid"
    words = []
    judged = make == OURS and kind != Kind.REPORTED.value
    if judged:
        held = sum(not cell["broken"] for cell in valid)
        words.append(f"{held} of {len(cells)} held")
    overlap_s = max(cell["overlap_s"] for cell in valid)
    if overlap_s:
        more = any(cell["overlap_open"] for cell in valid)
        words.append(f"**two children for {overlap_s:.1f} s{' and more' if more else ''}**")
    elif not judged:
        words.append("no overlap")
    if all(cell["kept"] for cell in valid):
        words.append("same child")
    # Ours is played with other durations too, which would not compare with the others.
    compared = [cell for cell in valid if cell["timing"] == DEFAULT.name] or valid
    gaps_s = [cell["gap_s"] for cell in compared if cell["gap_s"] is not None]
    if gaps_s:
        words.append(f"nobody for {statistics.median(gaps_s):.2g} s")
    return ", ".join(words)
