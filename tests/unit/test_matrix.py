"""The fault matrix itself: how a cell is judged, what is played and kept, what a table says.

That its faults inflict what they say is for the matrix to prove; here no candidate is started.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

from tests.matrix import report, runner
from tests.matrix.contestants import MAKES, versions
from tests.matrix.faults import FAULTS
from tests.matrix.model import (
    AWAIT_ELECTION,
    BRISK,
    CLIENT_GO,
    CONTESTANTS,
    DEFAULT,
    ETCDCTL,
    OURS,
    After,
    Cell,
    Fault,
    Kind,
    Timing,
    judge,
)
from tests.matrix.runner import RIG_CHECK, Entry, Match, Results
from tests.support.candidate import is_pending
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from pathlib import Path

    from tests.matrix.scenario import Scenario
    from tests.support.controlplane import ControlPlane

    #: Gives an order, as a fault does, and waits until it is done.
    Order = Callable[[str], None]

_TREES: Final = {
    After.KEPT: ["a/1"],
    After.SUCCESSOR: ["a/1", "b/2"],
    After.SAME_CANDIDATE: ["a/1", "a/2"],
    After.ANYTHING: ["a/1", "b/2"],
    After.NOBODY: ["a/1"],
}


def _never(_: Scenario) -> None:
    raise AssertionError("nothing is played here")


def fault(name: str = "fault", **fields: Any) -> Fault:
    """Return a row."""
    return Fault(name, "group", "something happens", _never, **fields)


def good(of: Fault, **fields: Any) -> Cell:
    """Return a cell of ours in which all is as the row asks, but for these fields."""
    cell = Cell(of.name, OURS, BRISK.name, 1, proofs=["it happened"], ran_before=True)
    cell.kept = of.after is After.KEPT
    cell.trees = list(_TREES[of.after])
    cell.running = 0 if of.after is After.NOBODY else 1
    return replace(cell, **fields)


def judged(of: Fault, **fields: Any) -> Cell:
    """Judge such a cell, and return it."""
    cell = good(of, **fields)
    judge(of, BRISK, cell)
    return cell


# --- the judgement of a cell


@pytest.mark.parametrize("after", After)
def test_a_cell_in_which_all_is_as_it_should_be_holds(after: After) -> None:
    """What a row asks for, and no more, keeps its promise."""
    cell = judged(fault(after=after), spare_s=0.5, gap_s=3.0, resolution_s=0.01)
    assert cell.held
    assert not cell.invalid
    assert not cell.broken


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize(
    "fields", [{"ran_before": False}, {"proofs": []}, {"resolution_s": 1.5}], ids=str
)
def test_a_cell_that_proves_nothing_is_invalid(kind: Kind, fields: dict[str, Any]) -> None:
    """Without a child before the fault, proof of it, or a witness that looked, nobody judges."""
    cell = judged(fault(kind=kind), overlap_s=5.0, **fields)
    assert cell.invalid
    assert not cell.broken
    assert not cell.held


def test_why_a_cell_is_invalid_stays() -> None:
    """The first reason is the one that is told."""
    assert judged(fault(), invalid="the rig broke", ran_before=False).invalid == "the rig broke"


def test_a_promise_allows_no_overlap() -> None:
    """The shortest overlap breaks a promise."""
    assert "0.001 s" in judged(fault(), overlap_s=0.001).broken[0]


def test_an_overlap_that_goes_on_breaks_a_promise_however_short() -> None:
    """Two trees that both run when all is over are two trees."""
    assert judged(fault(), overlap_open=True).broken


def test_a_bound_allows_the_overlap_that_it_states_for_the_timing() -> None:
    """Up to the stated length nothing is broken, beyond it something is."""
    bound = fault(kind=Kind.BOUND, overlap_s=lambda timing: timing.lease_s / 4)
    assert judged(bound, overlap_s=2.0).held
    assert judged(bound, overlap_s=2.1).broken


def test_what_a_promise_states_as_a_bound_is_not_allowed() -> None:
    """Only a row that says that it is a bound has one."""
    assert judged(fault(overlap_s=lambda _: 9.0), overlap_s=0.5).broken


@pytest.mark.parametrize("contestant", [CLIENT_GO, AWAIT_ELECTION, ETCDCTL])
def test_a_peer_breaks_no_promise_of_ours(contestant: str) -> None:
    """What others do is measured."""
    bad = {"overlap_s": 9.0, "spare_s": -3.0, "running": 2, "trees": ["a/1"]}
    assert judged(fault(), contestant=contestant, **bad).held


def test_what_is_reported_is_not_judged() -> None:
    """Nobody promises anything where a row says so."""
    assert judged(fault(kind=Kind.REPORTED), overlap_s=9.0, running=2).held


def test_a_tree_may_not_outlive_its_lease() -> None:
    """That is broken though nobody else ran."""
    assert judged(fault(), spare_s=0.0).broken
    assert judged(fault(), spare_s=0.1).held


@pytest.mark.parametrize(
    ("after", "fields"),
    [
        (After.KEPT, {"kept": False, "trees": ["a/1", "a/2"]}),
        (After.SUCCESSOR, {"trees": ["a/1"]}),
        (After.SUCCESSOR, {"trees": ["a/1", "a/2"]}),
        (After.SUCCESSOR, {"trees": []}),
        (After.SAME_CANDIDATE, {"trees": ["a/1"]}),
        (After.SAME_CANDIDATE, {"trees": ["a/1", "b/2"]}),
        (After.SAME_CANDIDATE, {"trees": ["a/1", "a/2", "b/3"]}),
        (After.NOBODY, {"running": 1}),
        *((after, {"running": 0}) for after in After if after is not After.NOBODY),
        (After.ANYTHING, {"running": 2}),
    ],
    ids=str,
)
def test_what_must_come_of_a_fault_comes_of_it(after: After, fields: dict[str, Any]) -> None:
    """Another outcome than the row's own breaks it."""
    assert judged(fault(after=after), **fields).broken


@pytest.mark.parametrize("timing", [BRISK, DEFAULT])
def test_a_gap_is_bounded_in_leases(timing: Timing) -> None:
    """Nobody may run for longer than so many leases of the cell's own timing."""
    row = fault(gap_leases=2.0)
    for gap_s, broken in ((2.0 * timing.lease_s, False), (2.0 * timing.lease_s + 0.1, True)):
        cell = good(row, gap_s=gap_s)
        judge(row, timing, cell)
        assert bool(cell.broken) is broken


def test_what_the_fault_itself_found_broken_stays() -> None:
    """A judgement adds to the promises that were broken."""
    assert judged(fault(), broken=["the exit code"], overlap_s=1.0).broken[0] == "the exit code"


# --- the plan


def test_ours_is_played_brisk_so_often_and_everybody_once_with_the_defaults() -> None:
    """The plan has a cell for each."""
    entries = runner.plan([fault()], runs=5, makes=CONTESTANTS)
    played = Counter((entry.contestant, entry.timing) for entry in entries)
    assert played == {
        (OURS, BRISK): 5,
        (OURS, DEFAULT): 1,
        (AWAIT_ELECTION, DEFAULT): 1,
        (CLIENT_GO, DEFAULT): 1,
    }
    assert {entry.run for entry in entries if entry.timing is BRISK} == {1, 2, 3, 4, 5}


def test_only_contestants_that_fit_and_were_asked_for_are_played() -> None:
    """A row that is not for a make has no cell of it, nor has a make that nobody asked for."""
    only_ours = runner.plan([fault(makes=(OURS,))], runs=1, makes=[OURS, CLIENT_GO])
    assert {entry.contestant for entry in only_ours} == {OURS}
    only_peer = runner.plan([fault()], runs=3, makes=[CLIENT_GO])
    assert [(e.contestant, e.timing) for e in only_peer] == [(CLIENT_GO, DEFAULT)]


def test_the_quick_plan_is_the_quick_rows_once_and_the_check_of_the_rig() -> None:
    """CI plays ours, brisk, and the rival that must overlap."""
    rows = [fault("slow"), fault("fast", quick=True), fault(RIG_CHECK, quick=True)]
    names = [entry.name for entry in runner.plan_quick(rows)]
    assert names == [
        "fast, leaderexec, 8/5/1, 1",
        f"{RIG_CHECK}, leaderexec, 8/5/1, 1",
        f"{RIG_CHECK}, client-go, 8/5/1, 1",
    ]
    assert runner.plan_quick(rows[:2])[0].fault.name == "fast"


# --- the rows


def test_rows_have_names_of_their_own() -> None:
    """No two rows share a name, and no two cells a file."""
    assert [name for name, n in Counter(s.name for s in FAULTS).items() if n > 1] == []
    files = Counter(e.file for e in runner.plan(FAULTS, runs=5, makes=CONTESTANTS))
    assert [name for name, n in files.items() if n > 1] == []


def test_there_are_rows_enough() -> None:
    """The matrix has forty rows at least, and of every kind."""
    assert len(FAULTS) >= 40
    assert {row.kind for row in FAULTS} == set(Kind)


def test_every_quick_row_is_one_of_ours() -> None:
    """CI asks for promises of ours, which only a row of ours can break."""
    quick = [row for row in FAULTS if row.quick]
    assert quick
    assert [row.name for row in quick if OURS not in row.makes] == []
    assert [row.name for row in quick if row.alone] == [], "they would wait for one another"


def test_the_check_of_the_rig_is_a_row_for_client_go() -> None:
    """Without it nobody would notice that the rig sees nothing."""
    (row,) = [row for row in FAULTS if row.name == RIG_CHECK]
    assert {OURS, CLIENT_GO} <= set(row.makes)
    assert Entry(row, CLIENT_GO, DEFAULT, 1) in runner.plan(FAULTS, runs=1, makes=CONTESTANTS)


def test_rows_can_be_shown_and_played() -> None:
    """Each says what happens in words that fit a table, and its contestants are known."""
    for row in FAULTS:
        assert row.about, row.name
        assert "|" not in row.name + row.about, row.name
        assert "\n" not in row.name + row.about, row.name
        assert row.makes, row.name
        assert set(row.makes) <= set(MAKES), row.name
        assert len(set(row.makes)) == len(row.makes), row.name
        assert row.alone or not row.together, row.name


def test_only_a_bound_states_an_overlap() -> None:
    """A row that allows an overlap says so by its kind, and for each timing."""
    for row in FAULTS:
        for timing in (BRISK, DEFAULT):
            assert (row.overlap_s(timing) > 0) == (row.kind is Kind.BOUND), row.name


def test_every_contestant_has_a_version() -> None:
    """A table says what it compares."""
    assert set(versions()) == set(MAKES) == set(CONTESTANTS)
    assert all(versions().values())


# --- what is kept


def entry(**fields: Any) -> Entry:
    """Return a cell that is to be played."""
    return replace(Entry(fault(), OURS, BRISK, 1), **fields)


def test_a_valid_cell_is_not_played_again(tmp_path: Path) -> None:
    """What was kept is found as it was, broken promises included."""
    cell = judged(fault(), overlap_s=1.0, facts={"end_s": 2.5}, gap_s=0.25)
    Results(tmp_path, "these").keep(entry(), cell)
    assert Results(tmp_path, "these").find(entry()) == cell


@pytest.mark.parametrize(
    "other",
    [
        entry(run=2),
        entry(timing=DEFAULT),
        entry(contestant=CLIENT_GO),
        entry(fault=fault("other")),
    ],
    ids=lambda other: other.name,
)
def test_each_cell_is_kept_for_itself(other: Entry, tmp_path: Path) -> None:
    """A cell of another row, make, timing or run is not taken for it."""
    Results(tmp_path, "these").keep(entry(), judged(fault()))
    assert Results(tmp_path, "these").find(other) is None


def test_an_invalid_cell_is_played_again(tmp_path: Path) -> None:
    """What proves nothing is no result."""
    results = Results(tmp_path, "these")
    results.keep(entry(), judged(fault(), proofs=[]))
    assert results.find(entry()) is None


def test_a_cell_of_other_sources_is_played_again(tmp_path: Path) -> None:
    """A result is one of the sources that it was played with."""
    Results(tmp_path, "these").keep(entry(), judged(fault()))
    assert Results(tmp_path, "those").find(entry()) is None


def test_a_fresh_run_finds_nothing_and_is_found(tmp_path: Path) -> None:
    """Played anew means all of it, each time; what came of it counts from then on."""
    fresh = Results(tmp_path, "these", fresh=True)
    fresh.keep(entry(), judged(fault()))
    assert fresh.find(entry()) is None
    assert Results(tmp_path, "these", fresh=True).find(entry()) is None
    assert Results(tmp_path, "these").find(entry())


def test_half_a_result_is_none(tmp_path: Path) -> None:
    """A file that cannot be read is played again."""
    (tmp_path / entry().file).write_text('{"fault": "fau')
    assert Results(tmp_path, "these").find(entry()) is None


# --- the verdict


def outcome(contestant: str = OURS, *, name: str = "fault", **fields: Any) -> dict[Entry, Cell]:
    """Return one cell, and for what it was played."""
    row = fault(name)
    cell = good(row, contestant=contestant, **fields)
    judge(row, BRISK, cell)
    return {Entry(row, contestant, BRISK, 1): cell}


def test_a_run_in_which_all_held_is_well() -> None:
    """Ours held, and the rival overlapped where it must; elsewhere it need not."""
    cells = outcome() | outcome(CLIENT_GO, name=RIG_CHECK, overlap_s=20.0) | outcome(CLIENT_GO)
    assert runner.verdict(cells) == []
    assert runner.count(cells) == {"held": 3}


def test_a_broken_promise_fails_a_run() -> None:
    """Each promise has a line."""
    cells = outcome(overlap_s=1.0, spare_s=-1.0)
    assert [line.startswith("BROKEN: fault, leaderexec") for line in runner.verdict(cells)] == [
        True,
        True,
    ]
    assert runner.count(cells) == {"broken": 1}


@pytest.mark.parametrize("contestant", [OURS, CLIENT_GO])
def test_an_invalid_cell_fails_a_run(contestant: str) -> None:
    """So it does whoever played it: a peer's that proves nothing compares with nothing."""
    cells = outcome(contestant, proofs=[])
    (line,) = runner.verdict(cells)
    assert line.startswith(f"invalid: fault, {contestant}")
    assert runner.count(cells) == {"invalid": 1}


def test_a_rival_that_was_stopped_and_did_not_overlap_fails_a_run() -> None:
    """A rig that does not see that overlap would see none of ours."""
    (line,) = runner.verdict(outcome(CLIENT_GO, name=RIG_CHECK))
    assert "the rig is broken" in line


# --- cells that share the control plane


class Plane:
    """Stands for a control plane: it counts how often somebody made sure that it serves."""

    def __init__(self) -> None:
        self.ensured = 0

    def ensure_ready(self) -> None:
        """Count."""
        self.ensured += 1


class Rendezvous:
    """Plays a row whose cells start no candidate and only give orders, and notes what was done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        self.plane = Plane()
        #: What was done to the control plane, and how many cells had come to it.
        self.done: list[tuple[str, int]] = []
        self._directory = directory
        self._patch = monkeypatch
        monkeypatch.setattr(
            runner, "SERVER_ORDERS", {order: self._doing(order) for order in ("down", "up")}
        )

    def _doing(self, order: str) -> Callable[[object], str]:
        def do(_: object) -> str:
            came = len(list(self._directory.glob(f"{order}-*")))
            self.done.append((order, came))
            return f"{order} is done"

        return do

    def play(
        self, act: Callable[[Entry, Order], None], *, alone: bool = True, together: bool = True
    ) -> list[Cell]:
        """Play four cells, each a process in which `act` may give orders; return what came of it.

        The proofs of a cell are the answers to its orders; its facts the instants of both.
        """
        directory = self._directory

        def play(entry: Entry, _: object, __: object, link: Connection | None) -> Cell:
            cell = Cell(entry.fault.name, entry.contestant, entry.timing.name, entry.run)
            if link is None:
                cell.proofs.append("has no say")
                return cell

            def order(words: str) -> None:
                (directory / f"{words}-{os.getpid()}").touch()
                link.send(words)
                answer, at_ns = link.recv()
                cell.proofs.append(str(answer))
                cell.facts[words] = at_ns

            act(entry, order)
            return cell

        self._patch.setattr(runner, "play", play)
        row = fault("shared", makes=(OURS, CLIENT_GO), alone=alone, together=together)
        entries = runner.plan([row], runs=2, makes=CONTESTANTS)
        results = Results(directory / "results", "these")
        plane = cast("ControlPlane", self.plane)
        cells = Match(plane, results, jobs=1, tell=lambda _, __: None).play(entries)
        assert set(cells) == set(entries)
        return [cells[entry] for entry in entries]


@pytest.fixture
def rendezvous(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rendezvous:
    """Return a row that is played on a control plane which only counts."""
    return Rendezvous(monkeypatch, tmp_path)


def _both(_: Entry, order: Order) -> None:
    order("down")
    order("up")


def test_an_order_is_done_once_when_the_last_cell_has_come(rendezvous: Rendezvous) -> None:
    """Whatever their timing and make, the cells of a row share one fault, and one instant of it."""
    cells = rendezvous.play(_both)
    assert rendezvous.done == [("down", 4), ("up", 4)]
    assert [cell.proofs for cell in cells] == [["down is done", "up is done"]] * 4
    assert len({(cell.facts["down"], cell.facts["up"]) for cell in cells}) == 1
    assert cells[0].facts["down"] < cells[0].facts["up"]


def test_a_cell_waits_until_what_the_last_one_left_is_reaped(
    rendezvous: Rendezvous, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without a process to spare would fail the next one, and not who left it so."""
    counts = [70, *[32_000, 16_000, 75] * 4]
    monkeypatch.setattr(runner, "_processes", lambda: counts.pop(0))
    rendezvous.play(lambda _, __: None, together=False)
    assert not counts


def _deliver(pid: int, signum: signal.Signals) -> None:
    os.kill(pid, signum)
    wait_until(lambda: not is_pending(pid, signum), timeout_s=60, what=f"{signum.name} is taken")


def test_a_cell_that_is_ended_early_cleans_up_to_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A terminal interrupts cells and parent alike, and nothing of a cell may be left running."""
    plays, cleans, clean, may_end = (tmp_path / name for name in ("1", "2", "3", "4"))

    def play(*_: object) -> Cell:
        try:
            plays.touch()
            wait_until(lambda: False, timeout_s=60, what="never")
        finally:
            cleans.touch()
            wait_until(may_end.exists, timeout_s=60, what="it may end")
            clean.touch()
        raise AssertionError("nobody ended it")

    monkeypatch.setattr(runner, "play", play)
    entry = Entry(fault(), OURS, BRISK, 1)
    played = runner._Played(entry, cast("ControlPlane", Plane()), tmp_path)
    pid = played.process.pid
    assert pid is not None
    wait_until(plays.exists, timeout_s=60, what="it plays")
    _deliver(pid, signal.SIGINT)
    assert not cleans.exists()
    os.kill(pid, signal.SIGTERM)
    wait_until(cleans.exists, timeout_s=60, what="it cleans up")
    for signum in (signal.SIGINT, signal.SIGTERM):
        _deliver(pid, signum)
    may_end.touch()
    played.end()
    assert clean.exists()


def test_cells_that_are_played_alone_wait_for_nobody(rendezvous: Rendezvous) -> None:
    """Where a row is not played together each cell has its own fault."""
    cells = rendezvous.play(_both, together=False)
    assert [order for order, _ in rendezvous.done] == ["down", "up"] * 4
    assert not any(cell.invalid for cell in cells)


def test_who_is_not_played_alone_disturbs_nobody(rendezvous: Rendezvous) -> None:
    """Cells of other rows go on beside it, so it has nothing done to what all of them share."""
    cells = rendezvous.play(_both, alone=False, together=False)
    assert [cell.proofs for cell in cells] == [["has no say"]] * 4
    assert rendezvous.done == []


def test_a_cell_that_dies_holds_nobody_up(rendezvous: Rendezvous) -> None:
    """The others go on without it, it proves nothing, and the control plane serves afterwards."""

    def act(entry: Entry, order: Order) -> None:
        order("down")
        if entry.timing is DEFAULT:
            os._exit(3)
        order("up")

    cells = rendezvous.play(act)
    assert rendezvous.done == [("down", 4), ("up", 2)]
    assert [cell.invalid for cell in cells] == ["", "", *["its process died"] * 2]
    assert rendezvous.plane.ensured


def test_a_cell_that_is_over_early_holds_nobody_up(rendezvous: Rendezvous) -> None:
    """A cell whose candidate did not come to lead is not waited for."""
    cells = rendezvous.play(lambda e, order: None if e.run == 2 else _both(e, order))
    assert rendezvous.done == [("down", 3), ("up", 3)]
    assert sum(not cell.proofs for cell in cells) == 1


def test_an_order_that_fails_is_told_to_all_who_gave_it(
    rendezvous: Rendezvous, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them takes the fault for one that took effect."""

    def fail(_: object) -> str:
        raise OSError("no such server")

    monkeypatch.setattr(runner, "SERVER_ORDERS", {"down": fail})
    cells = rendezvous.play(lambda _, order: order("down"))
    assert [cell.proofs for cell in cells] == [["no such server"]] * 4


def test_what_was_played_is_not_played_again(rendezvous: Rendezvous) -> None:
    """A second run finds the cells of the first."""
    first = rendezvous.play(_both)
    done = list(rendezvous.done)
    assert rendezvous.play(_both) == first
    assert rendezvous.done == done


# --- the table


def table(cells: dict[Entry, Cell]) -> dict[str, Any]:
    """Return the table of these cells."""
    rows = list(dict.fromkeys(entry.fault for entry in cells))
    return report.summary([fault("not played"), *rows], cells, "these", {"cores": 2})


def test_a_table_keeps_what_was_measured() -> None:
    """For each row and make its cells, rounded, and for each make its version."""
    cells = outcome(overlap_s=1.23456, gap_s=0.5) | outcome(CLIENT_GO, name="other")
    kept = table(cells)
    assert kept["sources"] == "these"
    assert set(kept["versions"]) == {OURS, CLIENT_GO}
    (row, other) = kept["faults"]
    assert (row["name"], row["kind"], row["after"]) == ("fault", "promise", "another child follows")
    (cell,) = row["cells"][OURS]
    assert (cell["overlap_s"], cell["gap_s"], cell["timing"], cell["run"]) == (
        1.235,
        0.5,
        "8/5/1",
        1,
    )
    assert cell["broken"]
    assert set(other["cells"]) == {CLIENT_GO}
    assert json.loads(json.dumps(kept)) == kept


def test_a_table_has_its_contestants_across_in_their_order() -> None:
    """Only those who played have a column, and whom a row does not fit has an empty cell."""
    row = fault("second")
    cells = outcome(CLIENT_GO, overlap_s=3.0) | {Entry(row, OURS, BRISK, 1): good(row)}
    lines = report.markdown(table(cells)).splitlines()
    assert lines[0] == "| | | leaderexec | client-go |"
    assert lines[1].count("---") == 4
    assert lines[2] == (
        "| **fault**: something happens | promise |  | **two children for 3.0 s** |"
    )
    assert lines[3] == "| **second**: something happens | promise | 1 of 1 held |  |"


def shown(make: str, *cells: Cell, kind: Kind = Kind.PROMISE) -> str:
    """Return what a table says of these cells."""
    return report.cell_text(make, [vars_of(cell) for cell in cells], kind.value)


def vars_of(cell: Cell) -> dict[str, Any]:
    """Return a cell as a table keeps it."""
    return {name: getattr(cell, name) for name in report._KEPT}


def test_a_table_counts_what_held() -> None:
    """Of ours it says how many held; a cell that proves nothing did not."""
    cells = [judged(fault()), judged(fault(), spare_s=-1.0), judged(fault(), proofs=[])]
    assert shown(OURS, *cells) == "1 of 3 held"


def test_a_table_says_nothing_of_promises_where_there_are_none() -> None:
    """What is reported cannot hold, and a peer promised nothing."""
    reported = fault(kind=Kind.REPORTED)
    assert shown(OURS, judged(reported), kind=Kind.REPORTED) == "no overlap"
    assert shown(CLIENT_GO, judged(fault(), contestant=CLIENT_GO)) == "no overlap"


def test_a_table_tells_the_longest_overlap() -> None:
    """It stands out, and says when it had not ended."""
    ended = judged(fault(), contestant=CLIENT_GO, overlap_s=4.0)
    lasting = judged(fault(), contestant=CLIENT_GO, overlap_s=9.0, overlap_open=True)
    assert shown(CLIENT_GO, ended) == "**two children for 4.0 s**"
    assert shown(CLIENT_GO, ended, lasting) == "**two children for 9.0 s and more**"


def test_a_table_tells_whether_the_child_was_kept() -> None:
    """Only where it was in every cell."""
    kept = judged(fault(after=After.KEPT))
    assert shown(OURS, kept, kept) == "2 of 2 held, same child"
    other = judged(fault(after=After.ANYTHING))
    assert "same child" not in shown(OURS, kept, other)


def test_a_table_compares_gaps_of_the_same_timing() -> None:
    """The median of those that were played as the peers were, or of all where none was."""
    brisk = [judged(fault(), gap_s=gap_s) for gap_s in (1.0, 2.0, 6.0)]
    assert "nobody for 2 s" in shown(OURS, *brisk)
    default = judged(fault(), gap_s=9.0, timing=DEFAULT.name)
    assert "nobody for 9 s" in shown(OURS, *brisk, default)


def test_a_table_tells_what_proves_nothing() -> None:
    """A make whose cells are all invalid has no figures, and one that did not play says nothing."""
    assert shown(CLIENT_GO, judged(fault(), proofs=[])) == "invalid"
    assert shown(CLIENT_GO) == ""


def test_a_table_is_written_in_every_form(tmp_path: Path) -> None:
    """The record, the Markdown, and the picture."""
    report.write(table(outcome()), tmp_path / "there")
    assert {path.name for path in (tmp_path / "there").iterdir()} == {
        report.JSON_NAME,
        report.MARKDOWN_NAME,
        report.SVG_NAME,
    }
    kept = json.loads((tmp_path / "there" / report.JSON_NAME).read_text())
    assert report.markdown(kept) + "\n" == (tmp_path / "there" / report.MARKDOWN_NAME).read_text()
