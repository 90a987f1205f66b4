"""The subset of the fault matrix that every change must hold; `make matrix` plays all of it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.matrix.faults import FAULTS
from tests.matrix.model import BRISK, CLIENT_GO
from tests.matrix.runner import RIG_CHECK, ROOT, plan_quick

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.controlplane import ControlPlane

_TIMEOUT_S = 540


@pytest.mark.slow
def test_the_subset_of_the_matrix_holds(control_plane: ControlPlane, tmp_path: Path) -> None:
    """Every promise of the subset holds, and the rival that must overlap is seen to."""
    assert control_plane.apiserver.running, "the programs are there; the matrix starts its own"
    command = [sys.executable, "-m", "tests.matrix", "--quick", f"--results={tmp_path}"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    table = json.loads((tmp_path / "matrix.json").read_text())
    rows = {row["name"]: row["cells"] for row in table["faults"]}
    assert set(rows) == {entry.fault.name for entry in plan_quick(FAULTS)}
    (rival,) = rows[RIG_CHECK][CLIENT_GO]
    assert rival["timing"] == BRISK.name
    assert rival["overlap_s"] > 0
