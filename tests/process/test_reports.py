"""What a failed test tells."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.candidate import ROOT

if TYPE_CHECKING:
    from pathlib import Path

_FAILS = """
def test_it(candidates):
    candidates.start("a", child=[]).wait_event("campaigning", timeout_s=60)
    candidates.make("never-started")
    raise AssertionError("this test fails")
"""


def test_a_failed_test_shows_what_its_candidates_said(tmp_path: Path) -> None:
    """The log of every candidate that was started is in the report."""
    (tmp_path / "test_fails.py").write_text(_FAILS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "this test fails" in done.stdout
    _, _, told = done.stdout.partition("log of a")
    assert '"event": "campaigning"' in told, done.stdout
    assert "log of never-started" not in told
