"""What every lane needs: a witness, candidates, and a count of what ran."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.support import environment

# The number of examples is the profile's: `--hypothesis-profile=nightly` chooses the other one.
# No deadline: a verdict must not depend on how long an example took. The examples of `ci` are the
# same in every run, so that it fails only because of a change; those of `nightly` are always new.
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, max_examples=1000)
# The dearest tests try half of them.
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=20_000)
hypothesis.settings.load_profile("ci")
environment.clean_variables(os.environ)
environment.reset_process()
pytest.register_assert_rewrite("tests.support.lock_contract", "tests.support.fault_suite")

from tests.support.candidates import Candidates  # noqa: E402 - after the registration
from tests.support.leftovers import Leftovers  # noqa: E402
from tests.support.witness import Witness  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

#: How much of each candidate's log a failed test shows.
_LOG_TAIL = 3000


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run choose among the tests by what they cost."""
    parser.addoption("--alone", choices=("with", "without", "only"), default="with")
    parser.addoption("--nightly", action="store_true", help="run what only `make nightly` runs too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the run has not chosen."""
    chosen: list[pytest.Item] = []
    others: list[pytest.Item] = []
    alone = config.getoption("alone")
    for item in items:
        fits = alone == "with" or (alone == "only") == bool(item.get_closest_marker("alone"))
        fits &= config.getoption("nightly") or not item.get_closest_marker("nightly")
        (chosen if fits else others).append(item)
    items[:] = chosen
    config.hook.pytest_deselected(items=others)


def pytest_configure(config: pytest.Config) -> None:
    """Watch over what tests leave behind; fixtures of the session are beyond a conftest's hooks."""
    config.pluginmanager.register(Leftovers())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a failed test show what its candidates said: where CI runs, nobody looks into a log."""
    report = yield
    if report.failed:
        for fixture in getattr(item, "funcargs", {}).values():
            if isinstance(fixture, Candidates):
                for name, candidate in fixture.by_name.items():
                    if candidate.started:
                        report.sections.append((f"log of {name}", candidate.log[-_LOG_TAIL:]))
    return report


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty home directory for the tests and all that they start."""
    directory = tmp_path_factory.mktemp("home")
    environment.move_home(os.environ, directory)
    return directory


@pytest.fixture
def witness() -> Iterator[Witness]:
    """The judge of one test."""
    with Witness() as judge:
        yield judge


@pytest.fixture
def candidates(witness: Witness, tmp_path: Path) -> Iterator[Candidates]:
    """Candidates on one file lock, ended with the test."""
    with Candidates(witness, tmp_path) as candidates:
        yield candidates
