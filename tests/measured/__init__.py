"""What was measured: records of benchmarks, the pictures, and the tables that are made of them.

Owns: where the records are (`NAME.json`, which `python -m tests.benchmarks.NAME --write` writes;
that of the matrix `make matrix ARGS='--record tests/measured'`), what the makes are called in them,
and their Markdown. `python -m tests.measured` prints the tables,
and `tests.support.diagrams` puts them between the markers of README.md.
Must not know: how anything is measured.
Guards against: a figure in a document that no command gave.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Record = Mapping[str, Any]

DIRECTORY: Final = Path(__file__).resolve().parent

#: The makes as the records name them.
OURS: Final = "leaderexec"
AWAIT: Final = "k8s-await-election"
CLIENT_GO: Final = "clientgo"

#: The record of the fault matrix, whose run keeps a machine busy by itself.
MATRIX: Final = "matrix"

#: The phases of the record of very many standbys.
IDLE: Final = "idle"
WATCHES: Final = "watches"
POLLERS: Final = "pollers"

#: What a ratio may be off before it is worth a word.
_ALIKE: Final = 1.05
_MAKES: Final = {OURS: "leaderexec", AWAIT: "k8s-await-election", CLIENT_GO: "client-go's elector"}


class NotMeasured(ValueError):
    """There is no record; the message says how to make it."""


def load(name: str) -> Record:
    """Return the record of a benchmark."""
    path = DIRECTORY / f"{name}.json"
    if not path.exists():
        how = "make matrix ARGS='--record tests/measured'"
        if name != MATRIX:
            how = f"python -m tests.benchmarks.{name} --write"
        raise NotMeasured(f"no {path.parent.name}/{path.name}: `{how}` measures it")
    record: Record = json.loads(path.read_text())
    return record


# --- figures as one would say them -----------------------------------------------------------


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


def _duration(value_ms: float) -> str:
    return f"{value_ms / 1000:.1f} s" if value_ms >= 1000 else f"{value_ms:.0f} ms"


def _spread(values_ms: Sequence[float]) -> str:
    """Say a distribution: its median, and between what it lies."""
    least, middle, most = min(values_ms), statistics.median(values_ms), max(values_ms)
    return f"{_duration(middle)} ({_duration(least)} to {_duration(most)})"


def surroundings(record: Record, name: str) -> str:
    """Say with what, on what and when a record was made, and how to make another."""
    around = record["surroundings"]
    busy = name != MATRIX and around["load"] > around["cores"] / 2
    command = "make matrix" if name == MATRIX else f"python -m tests.benchmarks.{name}"
    return (
        f"`{command}` on {around['date']}: "
        f"leaderexec {around[OURS]}, {around[AWAIT]}, {around[CLIENT_GO]}; "
        f"kube-apiserver {around['kube_apiserver']} and etcd {around['etcd']} on the same machine "
        f"of {around['cores']} processors and {around['memory_gib']:.0f} GiB, "
        f"Linux {around['kernel']}, Python {around['python']}"
        + (f"; **the machine was busy** (load {around['load']:.1f})." if busy else ".")
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))


# --- the tables ------------------------------------------------------------------------------

_CAUSES: Final = {
    "voluntary": "SIGTERM to the leader, PID 1 of its container",
    "wrapper": "SIGKILL to the leader's wrapper alone, not PID 1",
    "slot": "its container is killed, and restarted at once",
    "node": "its node is gone",
}


def _beside(samples: Sequence[Record]) -> str:
    """Say what ran beside the next child, if anything did."""
    alive = sum(sample["overlap_ms"] is None for sample in samples)
    if alive:
        return f"; **the old child lives on beside it** in {alive} of {len(samples)}"
    longest_ms = max(sample["overlap_ms"] for sample in samples)
    return f"; **two children** for up to {_duration(longest_ms)}" if longest_ms > 0 else ""


def handover(record: Record) -> str:
    """Tell how long nobody runs the program, by what happens to the leader."""
    rows = []
    for cause, what in _CAUSES.items():
        outcomes = record["samples"][cause]
        cells = []
        for make in _MAKES:
            samples = outcomes[make]
            cells.append(_spread([sample["ms"] for sample in samples]) + _beside(samples))
        ours, theirs = (
            statistics.median(sample["ms"] for sample in outcomes[make]) for make in (OURS, AWAIT)
        )
        rows.append((what, *cells, ratio(ours, theirs)))
    rounds = min(len(samples) for o in record["samples"].values() for samples in o.values())
    head = ("Until the next child runs, when", *_MAKES.values(), f"{OURS} to {AWAIT}")
    said = f"Median (least to most) of {rounds} rounds, each make in turn, at 15 / 10 / 2 s."
    return f"{table(head, rows)}\n\n{said}\n{surroundings(record, 'handover')}"


_COSTS: Final = (
    ("memory of a leader (PSS)", "leader_pss_mib", "MiB"),
    ("memory of a standby (PSS)", "standby_pss_mib", "MiB"),
    ("requests of a leader per second", "leader_requests_per_s", ""),
    ("requests of a standby per second", "standby_requests_per_s", ""),
    ("processor time of a leader per hour", "leader_cpu_s_per_hour", "s"),
    ("processor time of a standby per hour", "standby_cpu_s_per_hour", "s"),
)


def spine(record: Record) -> str:
    """Tell what a candidate costs."""
    starts = record["start_ms"]
    ours, theirs = (statistics.median(starts[make]) for make in (OURS, AWAIT))
    rows = [
        (
            "from its start, lock free, until its child runs",
            *(_spread(starts[make]) for make in _MAKES),
            ratio(ours, theirs),
        )
    ]
    for what, key, unit in _COSTS:
        values = {make: record["costs"][make][key] for make in _MAKES}
        cells = (f"{rounded(value)} {unit}".strip() for value in values.values())
        rows.append((what, *cells, ratio(values[OURS], values[AWAIT])))
    head = ("A candidate", *_MAKES.values(), f"{OURS} to {AWAIT}")
    return f"{table(head, rows)}\n\n{surroundings(record, 'spine')}"


def over_idle(phases: Sequence[Record], name: str, key: str) -> float:
    """Return how much more there was of `key` in the phases of a name than in those of nobody."""

    def mean(of: str) -> float:
        return statistics.fmean(phase[key] for phase in phases if phase["phase"] == of)

    return mean(name) - mean(IDLE)


_PHASES: Final = (
    ("kube-apiserver, of one processor", "apiserver_percent", "%"),
    ("etcd, of one processor", "etcd_percent", "%"),
    ("memory in use of kube-apiserver", "apiserver_live_mib", "MiB"),
)


def standbys(record: Record) -> str:
    """Tell what very many standbys cost the API server."""
    phases = record["phases"]
    rows = []
    for what, key, unit in _PHASES:
        watches, pollers = (over_idle(phases, name, key) for name in (WATCHES, POLLERS))
        cells = (f"{value:+.1f} {unit}" for value in (watches, pollers))
        rows.append((what, *cells, ratio(watches, pollers)))
    asked = statistics.fmean(
        phase["load"]["requests_per_s"] for phase in phases if phase["phase"] == POLLERS
    )
    rows.append(("requests per second", "a new watch now and then", rounded(asked), ""))
    count = record["count"]
    head = (
        "Over what the leader alone costs",
        f"{count:,} standbys of {OURS}: watches",
        f"{count:,} of client-go: polls",
        "watches to polls",
    )
    idle = statistics.fmean(p["apiserver_percent"] for p in phases if p["phase"] == IDLE)
    said = (
        f"Means of {sum(phase['phase'] == WATCHES for phase in phases)} windows of "
        f"{record['window_s']:g} s each in turn; with the leader alone kube-apiserver takes "
        f"{idle:.1f} % of a processor."
    )
    return f"{table(head, rows)}\n\n{said}\n{surroundings(record, 'standbys')}"


def herd(record: Record) -> str:
    """Tell what a handover among very many standbys costs."""
    times = [sample["ms"] for sample in record["samples"]]
    attempts = [sample["attempts"] for sample in record["samples"]]
    return (
        f"With {record['standbys']} standbys, each a real one with its own watch, it takes "
        f"{_spread(times)} from SIGTERM to the leader until the next child runs, in the median "
        f"(least to most) of {len(times)} handovers,\nand {statistics.median(attempts):g} attempts "
        f"to write ({min(attempts)} to {max(attempts)}), the release and the naming of the next "
        f"included.\n{surroundings(record, 'herd')}"
    )


#: The ways of running it that the record of the containers compares, and what they are called.
_WAYS: Final = {"host": "no image", "slim": "slim", "bundle": "bundle, in a busybox"}


def containers(record: Record) -> str:
    """Tell what an image costs."""
    starts, size = record["start_ms"], record["size"]
    rows = [
        ("from its start, lock free, until its child runs", *(_spread(starts[w]) for w in _WAYS)),
        ("from SIGTERM to the next child", *(_spread(record["handover_ms"][w]) for w in _WAYS)),
    ]
    for who in ("leader", "standby"):
        values = (record["memory"][way][f"{who}_mib"] for way in _WAYS)
        rows.append((f"memory of a {who} (PSS)", *(f"{rounded(value)} MiB" for value in values)))
    for what, how in (("unpacked", "unpacked"), ("as it travels", "packed")):
        values = (size.get(f"{way}_{how}_mib") for way in _WAYS)
        rows.append(
            (f"its layer, {what}", *("-" if v is None else f"{rounded(v)} MiB" for v in values))
        )
    said = (
        f"Median (least to most) of {len(starts['host'])} rounds, each way in turn; the child "
        f"alone, as a container without leaderexec, takes {_spread(starts['alone'])} to start."
    )
    table_ = table(("A candidate", *_WAYS.values()), rows)
    return f"{table_}\n\n{said}\n{surroundings(record, 'containers')}"


def matrix(record: Record) -> str:
    """Tell in how many faults each make had two children at once."""
    faults = record["faults"]
    makes = list(record["versions"])
    rows = []
    for what, kinds in (
        ("one child at most is promised", {"promise"}),
        ("a bound is promised, or nothing", {"bound", "reported"}),
    ):
        played, twice, longest = [], [], []
        for make in makes:
            rows_of = [
                s["cells"][make] for s in faults if s["kind"] in kinds and make in s["cells"]
            ]
            overlaps_s = [max(cell["overlap_s"] for cell in cells) for cells in rows_of]
            more = any(cell["overlap_open"] for cells in rows_of for cell in cells)
            played.append(str(len(rows_of)))
            twice.append(str(sum(overlap_s > 0 for overlap_s in overlaps_s)))
            longest_s = max(overlaps_s, default=0.0)
            longest.append(f"{longest_s:.1f} s{' and more' if more else ''}" if longest_s else "-")
        rows += [
            (f"faults of which {what}", *played),
            ("of these, with two children at once", *twice),
            ("the longest", *longest),
        ]
    cells = [cell for s in faults for cell in s["cells"].get(OURS, ())]
    said = (
        f"{len(faults)} faults; {OURS} played {len(cells)} times, "
        f"{sum(bool(cell['broken']) for cell in cells)} promises broken."
    )
    return f"{table(('', *makes), rows)}\n\n{said}\n{surroundings(record, MATRIX)}"


_TABLES: Final[Mapping[str, Callable[[Record], str]]] = {
    MATRIX: matrix,
    "handover": handover,
    "spine": spine,
    "standbys": standbys,
    "herd": herd,
    "containers": containers,
}


def _part(name: str) -> Callable[[], str]:
    return lambda: _TABLES[name](load(name))


#: What may stand between markers of a document, by the names of the markers.
PARTS: Final[Mapping[str, Callable[[], str]]] = {
    f"measured-{name}": _part(name) for name in _TABLES
}
