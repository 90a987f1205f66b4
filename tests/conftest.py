"""What every lane needs: a witness, a rally of candidates, and a count of what ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hypothesis
import pytest

# No verdict hangs on how long an example took: a machine that stalls is no fault of ours.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")
pytest.register_assert_rewrite("tests.support.lock_contract", "tests.support.fault_suite")

from tests.support.rally import Rally  # noqa: E402 - after the registration
from tests.support.witness import Witness  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def witness() -> Iterator[Witness]:
    """The judge of one test."""
    with Witness() as judge:
        yield judge


@pytest.fixture
def rally(witness: Witness, tmp_path: Path) -> Iterator[Rally]:
    """Candidates on one file lock, ended with the test."""
    with Rally(witness, tmp_path) as candidates:
        yield candidates
