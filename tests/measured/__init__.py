"""What was measured: the tables of the benchmarks, and the verdicts of the matrix.

Owns: `NAME.md`, which `python -m tests.benchmarks.NAME --write` writes and `tests.support.diagrams`
puts between the markers of README.md. The record of the matrix is `tests.matrix.report`'s.
Guards against: a figure in a document that no command gave.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

DIRECTORY: Final = Path(__file__).resolve().parent
BENCHMARKS: Final = (
    "api_load", "crowded_handover", "handover", "image_costs", "resource_usage",
)  # fmt: skip


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = (head, ["---"] * len(head), *rows)
    escaped = ((cell.replace("|", r"\|") for cell in line) for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def _part(name: str) -> Callable[[], str]:
    return lambda: (DIRECTORY / f"{name}.md").read_text().strip()


#: What stands between markers of README.md, by the names of the markers.
PARTS: Final[Mapping[str, Callable[[], str]]] = {
    f"measured-{name.replace('_', '-')}": _part(name) for name in BENCHMARKS
}
