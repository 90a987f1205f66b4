"""The soak itself: it looks at new seeds, counts what it sees, and no broken core passes it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from leaderexec.tenure import Tenure
from tests import soak
from tests.support.clusters import CLUSTERS
from tests.unit import test_simulation

if TYPE_CHECKING:
    from leaderexec.model import Grant


class NeverLeads(Tenure):
    """Never accepts a grant, so that nobody ever runs."""

    def _granted(self, grant: Grant) -> None:
        pass


class Breaks(Tenure):
    """Raises as a core does that contradicts itself."""

    def _granted(self, grant: Grant) -> None:
        raise AssertionError(f"a grant of {grant.token}")


def test_a_run_has_all_clusters_and_no_seed_of_the_unit_lane() -> None:
    """No schedule is run twice, and one that fails is run again by a test that exists."""
    assert all(count <= soak.FIRST_SEED for _, count in CLUSTERS.values())
    total = sum(weight for _, weight in CLUSTERS.values())
    schedules = soak.share_out(2 * total, 500, CLUSTERS)
    for name, (setup, weight) in CLUSTERS.items():
        own = [schedule for schedule in schedules if schedule.cluster == name]
        assert [schedule.seed for schedule in own] == list(range(500, 500 + 2 * weight))
        assert {schedule.setup for schedule in own} == {setup}
    assert callable(getattr(test_simulation, soak.REPLAYS[1]))


@pytest.mark.parametrize(
    ("broken", "counted"),
    [
        (test_simulation._ReleasesTooEarly, ["overlaps", "early releases"]),
        (NeverLeads, ["did not settle"]),
        (Breaks, ["raised"]),
    ],
)
def test_a_broken_core_fails(
    broken: type[Tenure],
    counted: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each failing schedule is told with its seed, and counted as what it is."""
    setup = replace(CLUSTERS["mixed"][0], tenures=broken)
    monkeypatch.setattr(soak, "CLUSTERS", {"mixed": (setup, 1)})
    assert soak.main(["--schedules=20", "--first-seed=0", "--processes=2"]) == 1
    *failures, last = capsys.readouterr().out.splitlines()
    assert "20 schedules, " in last
    assert not [what for what in counted if f", 0 {what}" in last]
    assert len([line for line in failures if "again: LEADEREXEC_SEED=" in line]) > 0


def test_only_a_run_of_something_that_is_whole_passes(capsys: pytest.CaptureFixture[str]) -> None:
    """Its last line counts everything; no schedules at all would have proved nothing."""
    assert soak.main(["--schedules=15", "--processes=1", "--first-seed=9000"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert ", 0 overlaps, 0 early releases, 0 did not settle, 0 raised, " in last
    assert soak.main(["--schedules=0", "--processes=1"]) == 1
