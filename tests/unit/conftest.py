"""What the unit lane alone needs: tests of very many cases, which are not measured line by line."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import pytest
from coverage import Coverage
from coverage.exceptions import CoverageWarning

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def unmeasured() -> Iterator[None]:
    """Do not measure coverage meanwhile: what ten thousand cases reach, single tests reach too.

    Measured, they would take two to three times as long.
    """
    measuring = Coverage.current()
    if measuring is None:
        yield
        return
    measuring.stop()
    yield
    with warnings.catch_warnings():
        # That all is imported by now is known: it was measured before.
        warnings.simplefilter("ignore", CoverageWarning)
        measuring.start()
