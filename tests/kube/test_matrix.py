"""The subset of the fault matrix that every change must hold; `make matrix` plays all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.matrix.faults import FAULTS
from tests.matrix.runner import Entry, plan_quick, play, verdict
from tests.support.competitors import OURS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.controlplane import ControlPlane


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(entry, id=f"{entry.fault.name}, {entry.competitor}".removesuffix(f", {OURS}"))
        for entry in plan_quick(FAULTS)
    ],
)
def test_the_subset_of_the_matrix_holds(
    control_plane: ControlPlane, tmp_path: Path, entry: Entry
) -> None:
    """A promise holds, or the competitor that must overlap is seen to."""
    cell = play(entry, control_plane, tmp_path)
    assert verdict({entry: cell}) == [], cell
