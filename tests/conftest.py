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
    from collections.abc import Generator, Iterator
    from pathlib import Path

#: How much of each candidate's log a failed test shows.
_LOG_TAIL = 3000


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a failed test show what its candidates said: where CI runs, nobody looks into a log."""
    report = yield
    if report.failed:
        for fixture in getattr(item, "funcargs", {}).values():
            if isinstance(fixture, Rally):
                for name, candidate in fixture.candidates.items():
                    if candidate.started:
                        report.sections.append((f"log of {name}", candidate.log[-_LOG_TAIL:]))
    return report


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
