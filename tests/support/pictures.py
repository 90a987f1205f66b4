"""Draws the pictures of the measured page: what the timing means, and one handover as it was.

Owns: `tests/measured/*.svg`, each drawn from data: the default timing, the stamps of a handover
that `tests.benchmarks.handover` recorded, and the fault matrix that `tests.matrix` did. Nothing
else imports matplotlib, and checking needs none.
Must not know: how the stamps were taken.
Guards against: a picture of what once was true. Each carries the digest of its data and of this
file, so that `stale` can tell without drawing; the bytes differ between versions of matplotlib
only. `python -m tests.support.pictures` says what is stale, `--write` draws it.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from leaderexec.model import SECOND_NS, Timing, seconds
from tests.measured import DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Where a benchmark leaves the stamps of a handover.
RECORDED: Final = DIRECTORY / "handover-recorded.json"
#: Where a run of the fault matrix is recorded.
MATRIX: Final = DIRECTORY / "matrix.json"

#: The palette of Okabe and Ito, which people who see few colours can tell apart.
BLUE: Final = "#0072b2"
SKY: Final = "#9fd3f0"
ORANGE: Final = "#f0a830"
RED: Final = "#c2410c"
GREEN: Final = "#00845f"
MINT: Final = "#a8d8c8"
BROWN: Final = "#8a5200"
PALE: Final = "#e4e8eb"
LINE: Final = "#90a0aa"
INK: Final = "#1f2933"
SOFT: Final = "#52606d"

_DIGEST: Final = re.compile(r"<dc:identifier>sha256:([0-9a-f]{64})</dc:identifier>")
_STYLE: Final[dict[Any, Any]] = {
    "svg.hashsalt": "leaderexec",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    # Laid out with the first, which comes with matplotlib and is the widest: in any other there is
    # more room around the words.
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "Helvetica", "sans-serif"],
    "font.size": 9.5,
    "text.color": INK,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


# --- what there is to see --------------------------------------------------------------------


def timing_data(timing: Timing | None = None) -> dict[str, float]:
    """Return what the picture of the timing is drawn from, in seconds after t0."""
    timing = timing or Timing()
    return {
        "retry_period_s": timing.retry_period_ns / SECOND_NS,
        "renew_deadline_s": timing.renew_deadline_ns / SECOND_NS,
        "kill_s": (timing.lease_duration_ns - timing.margin_ns) / SECOND_NS,
        "lease_duration_s": timing.lease_duration_ns / SECOND_NS,
    }


def handover_data() -> dict[str, float] | None:
    """Return the stamps of the recorded handover in milliseconds, None without a record.

    Instants after the request to stop: `told` the old child got its signal, `dead` it was, `freed`
    the API server received the write that gives back, `taken` the standby's, `runs` the new child
    did, `ended` the old wrapper had.
    """
    if not RECORDED.exists():
        return None
    return {name: float(at_ms) for name, at_ms in json.loads(RECORDED.read_text())["ms"].items()}


@dataclass(frozen=True, slots=True)
class Picture:
    """A file, what it is drawn from (None: nothing was recorded yet) and how."""

    path: Path
    data: Callable[[], Mapping[str, Any] | None]
    draw: Callable[[Mapping[str, Any]], bytes]


# --- the timing ------------------------------------------------------------------------------


def draw_timing(data: Mapping[str, float]) -> bytes:
    """Draw what happens after a renewal that was the last to count."""
    retry_s, stop_s = data["retry_period_s"], data["renew_deadline_s"]
    kill_s, end_s = data["kill_s"], data["lease_duration_s"]
    right_s = end_s * 1.24

    def said(value_s: float) -> str:
        return seconds(round(value_s * SECOND_NS)).replace("s", " s")

    title = "What a leader and its child may do after the last renewal that counted"
    description = (
        "A time line in seconds after t0, the instant before the last counted renewal was sent. "
        f"Further renewals are tried every {said(retry_s)} and fail. The child runs until the "
        f"renew deadline at {said(stop_s)}, when it gets the stop signal. It has until "
        f"{said(kill_s)}, the lease duration less the margin, when SIGKILL ends the whole tree. "
        f"The lease ends at {said(end_s)}: others may acquire from then on, and not before."
    )

    def paint(figure: Figure) -> None:
        axes = _axes(figure, (-0.2 * right_s, 1.02 * right_s), (-0.95, 4.95))
        renewals, tree, lease = 3.05, 2.0, 1.0
        for name, y in (("renewals", renewals), ("child and its tree", tree), ("lease", lease)):
            axes.text(-0.03 * right_s, y, name, ha="right", va="center", color=SOFT)
        marks = (
            (0.0, SOFT, SOFT, "left", "t0: the last renewal", "that counts is sent"),
            (stop_s, ORANGE, BROWN, "right", "renew deadline:", "stop signal"),
            (kill_s, RED, RED, "center", "lease \N{MINUS SIGN} margin:", "SIGKILL"),
            (end_s, GREEN, GREEN, "left", "lease ends:", "others may acquire"),
        )
        for at_s, line, ink, where, upper, lower in marks:
            axes.plot([at_s, at_s], [0.35, 3.8], color=line, lw=1.2, zorder=1)
            # Each line by itself, so that all of them stand on the same base lines.
            for y, words in ((4.36, upper), (3.98, lower)):
                axes.text(at_s, y, words, ha=where, va="baseline", color=ink, fontweight="bold")
            axes.text(at_s, 0.13, said(at_s) if at_s else "0", ha="center", va="top")

        tries = [n * retry_s for n in range(1, math.ceil(kill_s / retry_s))]
        axes.plot([0, kill_s], [renewals] * 2, color=LINE, lw=0.8, zorder=1)
        axes.plot([0], [renewals], "o", ms=8.5, color=BLUE, zorder=3)
        axes.plot(tries, [renewals] * len(tries), "x", ms=6.5, mew=1.8, color=RED, zorder=3)
        axes.text(
            tries[0] - 0.35 * retry_s, renewals + 0.27, "retries, and none gets through", color=RED
        )

        _bar(axes, 0, stop_s, tree, BLUE, "runs undisturbed", "white")
        _bar(axes, stop_s, kill_s, tree, ORANGE, f"grace\n{said(kill_s - stop_s)}", INK)
        _bar(axes, kill_s, end_s, tree, "white", f"margin\n{said(end_s - kill_s)}", hatched=True)
        axes.text(end_s + 0.015 * right_s, tree, "dead and reaped", va="center", color=SOFT)
        _bar(axes, 0, end_s, lease, SKY, "nobody else may acquire", INK)
        _bar(axes, end_s, right_s, lease, GREEN, "free to take", "white")

        axes.text(
            0.0, -0.52, "t0 is before the renewal was sent; a standby counts the lease duration "
            "from when it saw it, which is later.", va="center", color=SOFT,
        )  # fmt: skip

    return _svg((8.6, 3.4), paint, title, description, digest(data))


# --- a handover ------------------------------------------------------------------------------


def draw_handover(data: Mapping[str, float]) -> bytes:
    """Draw a voluntary handover from its stamps."""
    span_ms = max(data["runs"], data["ended"])
    left_ms, right_ms = -0.42 * span_ms, 1.42 * span_ms
    before_ms, after_ms = left_ms + 0.19 * span_ms, right_ms - 0.19 * span_ms
    told = (
        ("SIGTERM to the old wrapper", 0.0),
        ("the old child is told, and drains", data["told"]),
        ("its last process is dead", data["dead"]),
        ("the lock is given back", data["freed"]),
        ("the standby, told by its watch, takes the lock", data["taken"]),
        ("the new child runs", data["runs"]),
        ("the old wrapper ends", data["ended"]),
    )
    title = "One handover, as it was recorded"
    description = "Instants in milliseconds after the request to stop: " + "; ".join(
        f"{at_ms:.1f} {what}" for what, at_ms in sorted(told, key=lambda row: row[1])
    )

    def paint(figure: Figure) -> None:
        axes = _axes(figure, (left_ms - 0.27 * span_ms, right_ms + 0.04 * span_ms), (-2.35, 5.65))
        lanes = {"old child": 5, "old wrapper": 4, "lock": 3, "standby": 2, "new child": 1}
        for name, y in lanes.items():
            axes.text(left_ms - 0.03 * span_ms, y, name, ha="right", va="center", color=SOFT)
            axes.plot([left_ms, right_ms], [y, y], color=PALE, lw=1, zorder=0)
        _bar(axes, left_ms, data["told"], 5, BLUE)
        _bar(axes, data["told"], data["dead"], 5, ORANGE)
        _bar(axes, left_ms, data["ended"], 4, SKY)
        _bar(axes, left_ms, data["freed"], 3, BLUE)
        _bar(axes, data["freed"], data["taken"], 3, "white", edge=LINE)
        _bar(axes, data["taken"], right_ms, 3, GREEN)
        _bar(axes, left_ms, data["taken"], 2, PALE)
        _bar(axes, data["taken"], right_ms, 2, MINT)
        _bar(axes, data["runs"], right_ms, 1, GREEN)
        # Words stand where there is room for them however quick the handover was.
        words = [
            (5, before_ms, "runs", "white"),
            (4, before_ms, "leads and renews", INK),
            (3, before_ms, "held by the old", "white"),
            (2, before_ms, "stands by, watching", INK),
            (3, after_ms, "held by the new", "white"),
            (2, after_ms, "leads and renews", INK),
            (1, after_ms, "runs", "white"),
        ]
        if data["dead"] - data["told"] > 0.25 * span_ms:
            words.append((5, (data["told"] + data["dead"]) / 2, "drains", INK))
        for y, at_ms, text, color in words:
            axes.text(at_ms, y, text, ha="center", va="center", color=color, zorder=4)

        lane_of = (4, 5, 5, 3, 2, 1, 4)
        places = [(at_ms, y) for (_, at_ms), y in zip(told, lane_of, strict=True)]
        for from_, to in ((0, 1), (2, 3), (3, 4), (4, 5)):
            axes.annotate(
                "", places[to], places[from_], zorder=4,
                arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 0.9,
                            "shrinkA": 6.5, "shrinkB": 7, "mutation_scale": 8},
            )  # fmt: skip
        for number, (at_ms, y) in enumerate(places, 1):
            axes.plot([at_ms], [y], "o", ms=12.5, color="white", mec=INK, mew=1.0, zorder=5)
            axes.text(
                at_ms, y - 0.02, str(number), ha="center", va="center_baseline", fontsize=8.5,
                fontweight="bold", zorder=6,
            )  # fmt: skip

        columns = (left_ms - 0.2 * span_ms, 0.42 * span_ms)
        for number, (what, at_ms) in enumerate(told):
            x, base = columns[number // 4], -0.12 - 0.62 * (number % 4)
            cells = ((0, "center", str(number + 1), INK), (0.18, "right", f"{at_ms:.1f} ms", SOFT),
                     (0.21, "left", what, INK))  # fmt: skip
            for shift, where, cell, color in cells:
                axes.text(
                    x + shift * span_ms, base, cell, ha=where, va="baseline", color=color,
                    fontweight="normal" if shift else "bold",
                )  # fmt: skip

    return _svg((8.6, 4.0), paint, title, description, digest(data))


# --- the fault matrix ------------------------------------------------------------------------


def matrix_data() -> dict[str, Any] | None:
    """Return the table of the recorded fault matrix, None without a record."""
    if not MATRIX.exists():
        return None
    table: dict[str, Any] = json.loads(MATRIX.read_text())
    return table


def draw_matrix(table: Mapping[str, Any]) -> bytes:
    """Draw the fault matrix: faults down, contestants across."""
    rows = table["faults"]
    makes = list(table["versions"])
    groups = list(dict.fromkeys(row["group"] for row in rows))
    lines: list[tuple[str, Mapping[str, Any] | None]] = []
    for group in groups:
        lines.append((group, None))
        lines += [(row["name"], row) for row in rows if row["group"] == group]
    title = "Which faults made two children run at once"
    worst = {
        make: sum(any(cell["overlap_s"] for cell in row["cells"].get(make, ())) for row in rows)
        for make in makes
    }
    description = "Faults down, contestants across. Faults with two children at once: " + (
        ", ".join(
            f"{make} {worst[make]} of {sum(make in row['cells'] for row in rows)}" for make in makes
        )
    )
    height = len(lines) + 1.6

    def paint(figure: Figure) -> None:
        axes = _axes(figure, (-3.45, 2.0 * len(makes) + 0.05), (-height + 1.2, 1.6))
        for column, make in enumerate(makes):
            axes.text(2 * column + 1, 0.95, make, ha="center", va="center", fontweight="bold")
            axes.text(
                2 * column + 1, 0.3, table["versions"][make], ha="center", va="center", color=SOFT,
                fontsize=8,
            )  # fmt: skip
        for number, (name, row) in enumerate(lines):
            y = -number - 0.5
            if row is None:
                axes.text(-3.4, y - 0.08, name, va="center", fontweight="bold", color=BLUE)
                continue
            faded = SOFT if row["kind"] == "reported" else INK
            mark = {"reported": " *", "bound": " \N{DAGGER}"}.get(row["kind"], "")
            axes.text(-3.3, y, name + mark, va="center", color=faded, fontsize=8.5)
            for column, make in enumerate(makes):
                _matrix_cell(axes, 2 * column, y, row["cells"].get(make, ()))

    return _svg((9.2, 0.205 * height), paint, title, description, digest(table))


def _matrix_cell(axes: Axes, x: float, y: float, cells: Sequence[Mapping[str, Any]]) -> None:
    cells = [cell for cell in cells if not cell["invalid"]]
    if not cells:
        return
    overlap_s = max(cell["overlap_s"] for cell in cells)
    color, ink, words = MINT, INK, "one child"
    if any(cell["broken"] for cell in cells):
        color, ink = RED, "white"
    if all(cell["kept"] for cell in cells):
        words = "the same child"
    gaps_s = [cell["gap_s"] for cell in cells if cell["gap_s"] is not None]
    if gaps_s:
        words += f", gap {statistics.median(gaps_s):.1f} s"
    if overlap_s:
        more = "+" if any(cell["overlap_open"] for cell in cells) else ""
        color, ink, words = RED, "white", f"two for {overlap_s:.1f} s{more}"
    axes.barh(y, 1.94, left=x + 0.03, height=0.86, color=color, zorder=2)
    axes.text(x + 1, y - 0.02, words, ha="center", va="center", color=ink, fontsize=8, zorder=4)


# --- how -------------------------------------------------------------------------------------


def _axes(figure: Figure, x: tuple[float, float], y: tuple[float, float]) -> Axes:
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(*x)
    axes.set_ylim(*y)
    axes.set_axis_off()
    return axes


def _bar(  # noqa: PLR0917 - from, to, where, how: as one would say it
    axes: Axes,
    from_: float,
    to: float,
    y: float,
    color: str,
    words: str = "",
    ink: str = INK,
    *,
    hatched: bool = False,
    edge: str | None = None,
) -> None:  # fmt: skip
    axes.barh(
        y, to - from_, left=from_, height=0.68, color=color, zorder=2,
        edgecolor=edge or ("#d8c4bb" if hatched else color), linewidth=0.8,
        hatch="////" if hatched else None,
    )  # fmt: skip
    if words:
        plate = {"facecolor": "white", "edgecolor": "none", "pad": 1.5} if hatched else None
        axes.text(
            (from_ + to) / 2, y, words, ha="center", va="center", color=ink, zorder=4, bbox=plate,
            linespacing=1.15,
        )  # fmt: skip


def _svg(
    size: tuple[float, float],
    paint: Callable[[Figure], None],
    title: str,
    description: str,
    identifier: str,
) -> bytes:
    """Return a picture that says what it shows to those who cannot see it."""
    import matplotlib as mpl  # noqa: PLC0415 - to check is quick, and needs no library
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415
    from matplotlib.figure import Figure as NewFigure  # noqa: PLC0415

    with mpl.rc_context():
        mpl.rcdefaults()  # nothing of a user's own style
        mpl.rcParams.update(_STYLE)
        figure = NewFigure(figsize=size)
        FigureCanvasSVG(figure)
        paint(figure)
        buffer = io.BytesIO()
        metadata = {
            "Date": None,
            "Creator": None,
            "Title": title,
            "Description": description,
            "Identifier": f"sha256:{identifier}",
        }
        figure.savefig(buffer, format="svg", metadata=metadata)
    text = buffer.getvalue().decode()
    text = text.replace("<svg ", f'<svg role="img" aria-label="{title}. {description}" ', 1)
    return text.encode()


def digest(data: Mapping[str, Any]) -> str:
    """Return what a picture of this data carries: it changes with the data and with the drawing."""
    drawing = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps([dict(data), drawing], sort_keys=True).encode()).hexdigest()


PICTURES: Final[Sequence[Picture]] = (
    Picture(DIRECTORY / "timing.svg", timing_data, draw_timing),
    Picture(DIRECTORY / "handover.svg", handover_data, draw_handover),
    Picture(DIRECTORY / "matrix.svg", matrix_data, draw_matrix),
)


def _is_stale(picture: Picture) -> bool:
    data = picture.data()
    if data is None or not picture.path.exists():
        return data is not None or picture.path.exists()
    found = _DIGEST.search(picture.path.read_text())
    return found is None or found[1] != digest(data)


def stale(pictures: Sequence[Picture] = PICTURES) -> list[str]:
    """Name the pictures that are not drawn from what is known now, or by what draws them now."""
    return [
        f"{picture.path.name} is stale; `make format` draws it"
        for picture in pictures
        if _is_stale(picture)
    ]


def write(pictures: Sequence[Picture] = PICTURES) -> None:
    """Draw what is stale, and remove a picture of which there is no record."""
    for picture in pictures:
        if not _is_stale(picture):
            continue
        data = picture.data()
        if data is None:
            picture.path.unlink()
        else:
            picture.path.write_bytes(picture.draw(data))


def main() -> int:
    """Check the pictures, or draw them."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.pictures", description=__doc__)
    parser.add_argument("--write", action="store_true", help="draw what is stale")
    if parser.parse_args().write:
        write()
        return 0
    problems = stale()
    print(*problems, sep="\n", end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
