"""What guards a verdict of the fault matrix: how a cell and a whole run are judged."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.matrix.faults import FAULTS
from tests.matrix.model import BRISK, DEFAULT, After, Cell, Fault, Kind, judge
from tests.matrix.runner import SIGHT_CHECK, Entry, plan, plan_quick, verdict
from tests.support.competitors import CLIENT_GO, COMPETITORS, OURS

if TYPE_CHECKING:
    from tests.matrix.scenario import Scenario

_TREES: Final = {
    After.KEPT: ["a/1"],
    After.SUCCESSOR: ["a/1", "b/2"],
    After.SAME_CANDIDATE: ["a/1", "a/2"],
    After.ANYTHING: ["a/1", "b/2"],
    After.NOBODY: ["a/1"],
}
_GOOD, _BROKEN, _INVALID = "good", "broken", "invalid"


def _never(_: Scenario) -> None:
    raise AssertionError("nothing is played here")


def _fault(name: str = "fault", **fields: Any) -> Fault:
    return Fault(name, "group", "something happens", _never, **fields)


def _judged(fault: Fault, **fields: Any) -> Cell:
    """Judge a cell in which all is as the row asks, but for these fields."""
    cell = Cell(fault.name, OURS, BRISK.name, 1, proofs=["it happened"], ran_before=True)
    cell.kept, cell.trees = fault.after is After.KEPT, list(_TREES[fault.after])
    cell.running = 0 if fault.after is After.NOBODY else 1
    cell = replace(cell, **fields)
    judge(fault, BRISK, cell)
    return cell


_BOUND: Final = {"kind": Kind.BOUND, "overlap_s": lambda timing: timing.lease_s / 4}
_REPORTED: Final = {"kind": Kind.REPORTED}


def _words(value: object) -> str:
    """Return an id that is the same in every worker: a function's address is not."""
    return re.sub(r"<function .*? at \w+>", "a function", str(value))


@pytest.mark.parametrize(
    ("row", "cell", "expected"),
    [
        *(({"after": after}, {"spare_s": 0.5, "gap_s": 3.0}, _GOOD) for after in After),
        # What proves nothing is invalid, whatever else there was.
        *(({"kind": kind}, {"overlap_s": 5.0, "proofs": []}, _INVALID) for kind in Kind),
        ({}, {"ran_before": False}, _INVALID),
        ({}, {"resolution_s": 1.5}, _INVALID),
        ({}, {"overlap_s": 0.001}, _BROKEN),
        ({}, {"overlap_open": True}, _BROKEN),
        (_BOUND, {"overlap_s": 2.0}, _GOOD),
        (_BOUND, {"overlap_s": 2.1}, _BROKEN),
        ({"overlap_s": lambda _: 9.0}, {"overlap_s": 0.5}, _BROKEN),  # only a bound has one
        ({}, {"spare_s": 0.0}, _BROKEN),
        ({}, {"spare_s": 0.1}, _GOOD),
        ({}, {"competitor": CLIENT_GO, "overlap_s": 9.0, "spare_s": -3.0, "running": 2}, _GOOD),
        (_REPORTED, {"overlap_s": 9.0, "running": 2}, _GOOD),
        ({}, {"gap_s": 2.5 * BRISK.lease_s}, _GOOD),
        ({}, {"gap_s": 2.5 * BRISK.lease_s + 0.1}, _BROKEN),
        ({}, {"broken": ["the exit code"]}, _BROKEN),
        # Another outcome than the row's own.
        ({"after": After.KEPT}, {"kept": False, "trees": ["a/1", "a/2"]}, _BROKEN),
        ({"after": After.SUCCESSOR}, {"trees": ["a/1"]}, _BROKEN),
        ({"after": After.SUCCESSOR}, {"trees": ["a/1", "a/2"]}, _BROKEN),
        ({"after": After.SUCCESSOR}, {"trees": []}, _BROKEN),
        ({"after": After.SAME_CANDIDATE}, {"trees": ["a/1"]}, _BROKEN),
        ({"after": After.SAME_CANDIDATE}, {"trees": ["a/1", "b/2"]}, _BROKEN),
        ({"after": After.NOBODY}, {"running": 1}, _BROKEN),
        ({"after": After.ANYTHING}, {"running": 2}, _BROKEN),
        *(
            ({"after": after}, {"running": 0}, _BROKEN)
            for after in After
            if after is not After.NOBODY
        ),
    ],
    ids=_words,
)
def test_how_a_cell_is_judged(row: dict[str, Any], cell: dict[str, Any], expected: str) -> None:
    """A cell is good, breaks a promise, or proves nothing."""
    judged = _judged(_fault(**row), **cell)
    assert bool(judged.invalid) == (expected == _INVALID)
    assert bool(judged.broken) == (expected == _BROKEN)


def test_what_is_wrong_with_a_run() -> None:
    """Broken promises, cells that prove nothing, and a check of the sight that saw nothing."""
    fault, check = _fault(), _fault(SIGHT_CHECK)
    cells = {
        Entry(fault, OURS, BRISK): _judged(fault),
        Entry(check, CLIENT_GO, BRISK): _judged(check, competitor=CLIENT_GO, overlap_s=20.0),
        Entry(fault, CLIENT_GO, BRISK): _judged(fault, competitor=CLIENT_GO),
    }
    assert verdict(cells) == []
    cells = {
        Entry(fault, OURS, BRISK): _judged(fault, overlap_s=1.0, spare_s=-1.0),
        Entry(check, CLIENT_GO, BRISK): _judged(check, competitor=CLIENT_GO),
        Entry(fault, CLIENT_GO, BRISK): _judged(fault, proofs=[]),
    }
    told = [line.partition(":")[0] for line in verdict(cells)]
    assert told == ["BROKEN", "BROKEN", "nothing can be seen", "invalid"]


def test_the_rows_can_be_played() -> None:
    """Names are their own, competitors known; only bounds allow overlaps; quick ones are ours."""
    assert [name for name, n in Counter(fault.name for fault in FAULTS).items() if n > 1] == []
    assert {fault.kind for fault in FAULTS} == set(Kind)
    for fault in FAULTS:
        assert set(fault.competitors) <= set(COMPETITORS), fault.name
        assert not fault.quick or (OURS in fault.competitors and not fault.alone), fault.name
        for timing in (BRISK, DEFAULT):
            assert (fault.overlap_s(timing) > 0) == (fault.kind is Kind.BOUND), fault.name
    quick = {(entry.fault.name, entry.competitor) for entry in plan_quick(FAULTS)}
    assert {(SIGHT_CHECK, OURS), (SIGHT_CHECK, CLIENT_GO)} <= quick
    played = Counter(e.timing for e in plan(FAULTS, runs=5) if e.competitor == OURS)
    assert played == {BRISK: 5 * len(FAULTS), DEFAULT: len(FAULTS)}
