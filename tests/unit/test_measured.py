"""The tables of what was measured: made of records alone, and only where a document asks."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests import measured
from tests.measured import AWAIT, CLIENT_GO, OURS
from tests.support import diagrams

if TYPE_CHECKING:
    from pathlib import Path

AROUND = {
    "date": "2026-11-24",
    "cores": 2,
    "memory_gib": 23.5,
    "load": 0.1,
    "kernel": "6.1",
    "python": "3.11.7",
    "kube_apiserver": "v1.36.3",
    "etcd": "3.6.8",
    OURS: "0.1",
    AWAIT: "k8s-await-election v0.3.1",
    CLIENT_GO: "client-go v0.36.3",
}


def outcomes(*ms: float, overlap_ms: float | None = 0.0) -> list[dict[str, Any]]:
    """Return the samples of one cause and make."""
    return [{"ms": each, "overlap_ms": overlap_ms, "by_itself": False} for each in ms]


HANDOVERS = {
    "surroundings": AROUND,
    "samples": {
        cause: {
            OURS: outcomes(50, 54, 82),
            AWAIT: outcomes(16_000, 16_200, 18_700, overlap_ms=None),
            CLIENT_GO: outcomes(700, 3_100, 4_000, overlap_ms=33),
        }
        for cause in ("voluntary", "wrapper", "slot", "node")
    },
}
STANDBYS = {
    "surroundings": AROUND,
    "count": 1000,
    "window_s": 60,
    "phases": [
        {
            "phase": phase,
            "apiserver_percent": cpu,
            "etcd_percent": 1.0,
            "apiserver_live_mib": 100 + cpu,
            "load": {"requests_per_s": 312.5} if phase == measured.POLLERS else {},
        }
        for phase, cpu in (("idle", 2.0), ("watches", 4.0), ("pollers", 42.0), ("idle", 2.4))
    ],
}


WAYS = ("host", "slim", "bundle")
CONTAINERS = {
    "surroundings": AROUND,
    "start_ms": {
        "host": [340, 350, 400],
        "slim": [700, 710, 900],
        "bundle": [800, 820, 1100],
        "alone": [200, 210, 220],
    },
    "handover_ms": {way: [30, 40, 50] for way in WAYS},
    "memory": {way: {"leader_mib": 37.4, "standby_mib": 36.0} for way in WAYS},
    "size": {"base_packed_mib": 70.0, "slim_packed_mib": 12.5, "slim_unpacked_mib": 52.7}
    | {"bundle_packed_mib": 15.1, "bundle_unpacked_mib": 30.0},
}


def cells(text: str, first: str) -> list[str]:
    """Return the cells of the row that begins with a cell."""
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {first}")]
    return [cell.strip() for cell in row.strip("|").split(" | ")][1:]


def test_a_handover_is_told_as_a_distribution_and_a_ratio() -> None:
    """Each make's median stands between its least and most, with what ran beside the next child."""
    ours, theirs, client_go, ratio = cells(measured.handover(HANDOVERS), "SIGTERM to the leader")
    assert ours == "54 ms (50 ms to 82 ms)"
    assert theirs == ("16.2 s (16.0 s to 18.7 s); **the old child lives on beside it** in 3 of 3")
    assert client_go == "3.1 s (700 ms to 4.0 s); **two children** for up to 33 ms"
    assert ratio == "1/300"


def test_standbys_are_told_over_idle() -> None:
    """What the leader alone costs is taken off, and the windows of a kind are averaged."""
    text = measured.standbys(STANDBYS)
    assert cells(text, "kube-apiserver, of one processor") == ["+1.8 %", "+39.8 %", "1/22"]
    assert cells(text, "etcd") == ["+0.0 %", "+0.0 %", "-"]
    assert cells(text, "requests")[1] == "310"


def test_an_image_is_told_beside_none() -> None:
    """What has no image has no size, and what the runtime takes of a start is said."""
    text = measured.containers(CONTAINERS)
    assert cells(text, "its layer, as")[1:] == ["12 MiB", "15 MiB"]
    assert cells(text, "its layer, unpacked") == ["-", "53 MiB", "30 MiB"]
    assert cells(text, "memory of a leader") == ["37 MiB"] * 3
    assert cells(text, "from its start")[2] == "820 ms (800 ms to 1.1 s)"
    assert "takes 210 ms (200 ms to 220 ms) to start" in text


def test_a_table_says_what_it_is_of() -> None:
    """Versions, the size of the machine, the day and the command stand below a table."""
    last = measured.handover(HANDOVERS).splitlines()[-1]
    for word in ("tests.benchmarks.handover", "v1.36.3", "v0.3.1", "2 processors", "24 GiB"):
        assert word in last
    assert "busy" not in last


def test_a_record_of_a_busy_machine_says_so() -> None:
    """Figures that were taken beside other work cannot pass for those of a quiet machine."""
    record = {**HANDOVERS, "surroundings": {**AROUND, "load": 9.7}}
    assert "**the machine was busy** (load 9.7)" in measured.handover(record)


def _cells(*overlaps_s: float, open_: bool = False) -> list[dict[str, Any]]:
    return [
        {"overlap_s": each, "overlap_open": open_, "broken": ["one"] if each else []}
        for each in overlaps_s
    ]


def test_the_matrix_is_counted_by_what_is_promised() -> None:
    """A fault counts once for each make that played it, as two children if any run had them."""
    faults = [
        {"kind": "promise", "cells": {OURS: _cells(0, 0), AWAIT: _cells(3.21)}},
        {"kind": "promise", "cells": {OURS: _cells(0, 0.5)}},
        {"kind": "reported", "cells": {OURS: _cells(0), AWAIT: _cells(40, open_=True)}},
    ]
    said = measured.matrix(
        {"surroundings": AROUND, "versions": dict.fromkeys((OURS, AWAIT)), "faults": faults}
    ).splitlines()
    figures = [[cell.strip() for cell in line.split("|")[2:4]] for line in said[2:8]]
    assert figures == [
        ["2", "1"],
        ["1", "1"],
        ["0.5 s", "3.2 s"],
        ["1", "1"],
        ["0", "1"],
        ["-", "40.0 s and more"],
    ]
    assert f"3 faults; {OURS} played 5 times, 1 promises broken." in said
    assert "`make matrix` on 2026-11-24: " in said[-1]


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (445, 23.5, "19 times"),
        (54, 16_200, "1/300"),
        (100, 99.7, "alike"),
        (0, 0.33, "-"),
        (1, 99.7, "1/100"),
        (3, 2, "1.5 times"),
    ],
)
def test_ratios_are_rounded(ours: float, theirs: float, said: str) -> None:
    """A ratio has two figures at most, and none where nothing is compared."""
    assert measured.ratio(ours, theirs) == said


def test_a_missing_record_matters_where_a_document_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its marker nothing is read; with it the record must be there, and is shown."""
    monkeypatch.setattr(measured, "DIRECTORY", tmp_path)
    assert diagrams.rewritten("text", {}, measured.PARTS) == "text"
    text = "<!-- generated: measured-standbys -->\nold\n<!-- end: measured-standbys -->"
    with pytest.raises(measured.NotMeasured, match=re.escape("tests.benchmarks.standbys --write")):
        diagrams.rewritten(text, {}, measured.PARTS)
    (tmp_path / "standbys.json").write_text(json.dumps(STANDBYS))
    assert measured.standbys(STANDBYS) in diagrams.rewritten(text, {}, measured.PARTS)


def test_every_record_in_the_tree_makes_its_table() -> None:
    """What is kept is what the tables are made of."""
    for marker, part in measured.PARTS.items():
        name = marker.removeprefix("measured-")
        if (measured.DIRECTORY / f"{name}.json").exists():
            assert f"{name}` on {measured.load(name)['surroundings']['date']}: " in part()
