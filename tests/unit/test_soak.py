"""The soak itself: what it shares out, what it counts, and that a broken core does not pass it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from leaderexec import tenure
from leaderexec.tenure import Tenure
from tests import soak
from tests.support.candidate import ROOT
from tests.support.clusters import CLUSTERS
from tests.unit import test_simulation

if TYPE_CHECKING:
    from leaderexec.model import Grant
    from tests.support.simulation import Setup

_MIXED: Final = CLUSTERS["mixed"][0]


class ReleasesTooEarly(Tenure):
    """Gives the lock back when it asks the tree to stop."""

    def _stop(self, cause: tenure.Cause, **fields: Any) -> None:
        super()._stop(cause, **fields)
        assert self.grant is not None
        self._effects.append(tenure.AskRelease(self.grant.token, retire=False))


class NeverLeads(Tenure):
    """Never accepts a grant, so that nobody ever runs."""

    def _granted(self, grant: Grant) -> None:
        pass


class Breaks(Tenure):
    """Raises as a core does that contradicts itself."""

    def _granted(self, grant: Grant) -> None:
        raise AssertionError(f"a grant of {grant.token}")


def _run(setup: Setup, count: int, *, processes: int = 1) -> tuple[soak.Count, list[str]]:
    told: list[str] = []
    schedules = soak.share_out(count, 0, {"mixed": (setup, 1)})
    return soak.soak(schedules, processes=processes, tell=told.append), told


def test_schedules_are_shared_out_in_the_proportions_of_the_table() -> None:
    """All clusters get their share of any stretch of a run, each its own seeds in a row."""
    schedules = soak.share_out(6080, 500, CLUSTERS)
    total = sum(weight for _, weight in CLUSTERS.values())
    for stretch in (schedules, schedules[:608], schedules[3000:3608]):
        counted = Counter(schedule.cluster for schedule in stretch)
        for name, (_, weight) in CLUSTERS.items():
            assert abs(counted[name] - len(stretch) * weight / total) <= 2
    for name, (setup, weight) in CLUSTERS.items():
        own = [schedule for schedule in schedules if schedule.cluster == name]
        assert [schedule.seed for schedule in own] == list(range(500, 500 + 2 * weight))
        assert {schedule.setup for schedule in own} == {setup}


def test_the_seeds_begin_where_those_of_the_unit_lane_end() -> None:
    """No schedule is run twice: by default the soak looks at none that the unit lane has seen."""
    assert all(count <= soak.FIRST_SEED for _, count in CLUSTERS.values())


def test_a_clean_run_passes_and_says_what_it_saw(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a failure it exits with 0, and its last line counts everything."""
    assert soak.main(["--schedules=15", "--processes=1", "--first-seed=9000"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("15 schedules, ")
    assert ", 0 overlaps, 0 early releases, 0 did not settle, 0 raised, " in last


def test_the_same_seeds_give_the_same_counts() -> None:
    """Over one process or two, what is seen is the same."""
    (one, _), (two, _) = _run(_MIXED, 40), _run(_MIXED, 40, processes=2)
    assert one == two
    assert one.trees > 3 * 40, "hardly anything ran: nothing was tested"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_core_that_releases_too_early_fails_and_its_seeds_are_told(processes: int) -> None:
    """Each failing schedule is told with its cluster and its seed, and none twice."""
    count, told = _run(replace(_MIXED, tenures=ReleasesTooEarly), 40, processes=processes)
    assert count.schedules == 40
    assert count.overlaps
    assert count.early_releases
    assert told == count.failures
    failing = {seed for seed in range(40) if any(f"LEADEREXEC_SEED={seed} " in f for f in told)}
    assert len(failing) == len(told)
    for seed in failing:
        again = soak.play([soak.Schedule("mixed", replace(_MIXED, tenures=ReleasesTooEarly), seed)])
        assert again.failures[0] in told


def test_nobody_who_leads_again_is_a_failure() -> None:
    """A cluster that does not settle after the faults fails, though no two trees overlap."""
    count, told = _run(replace(_MIXED, tenures=NeverLeads, duration_ns=0), 2)
    assert (count.unsettled, count.raised, count.overlaps, len(told)) == (2, 0, 0, 2)
    assert "nobody leads" in told[0]


def test_a_core_that_raises_is_a_failure() -> None:
    """What a core raises is counted apart, told, and ends no more than its own schedule."""
    count, told = _run(replace(_MIXED, tenures=Breaks), 3)
    assert (count.schedules, count.raised, count.unsettled, len(told)) == (3, 3, 0, 3)
    assert "AssertionError: a grant of" in told[0]


def test_a_failure_is_an_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command fails when a schedule does."""
    broken = {"mixed": (replace(_MIXED, tenures=Breaks), 1)}
    monkeypatch.setattr(soak, "CLUSTERS", broken)
    assert soak.main(["--schedules=1", "--processes=1"]) == 1


def test_nothing_run_is_a_failure() -> None:
    """Whoever asks for no schedules has proved nothing."""
    assert soak.main(["--schedules=0", "--processes=1"]) == 1


def test_a_failure_can_be_run_again() -> None:
    """What is told to run a schedule again is read as one test of one cluster and its seed."""
    assert callable(getattr(test_simulation, soak.REPLAYS[1]))
    nodes = []
    for cluster in CLUSTERS:
        command = shlex.split(soak.replay(soak.Schedule(cluster, _MIXED, 7)))
        assert command[0] == "LEADEREXEC_SEED=7"
        assert command[2:5] == ["-m", "pytest", "-s"]
        nodes += command[5:]
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *nodes],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert collected.stdout.splitlines()[: len(nodes)] == nodes


def test_a_run_that_is_bounded_in_time_says_how_much_it_ran(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With --minutes it ends with what it has."""
    assert soak.main(["--schedules=1000", "--processes=1", "--minutes=0.001"]) == 0
    *_, early, last = capsys.readouterr().out.splitlines()
    assert early == "ended early: ran 16 of 1000"
    assert last.startswith("16 schedules, ")


def test_an_interrupt_ends_it_with_what_it_has() -> None:
    """Ctrl-C, which all its processes get, prints the counts and leaves nothing running."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.soak", "--processes=2"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(f"{soak.SCHEDULES} schedules of ")
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    early, last = output.splitlines()
    assert early.startswith("interrupted: ran ")
    assert " schedules, " in last
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
