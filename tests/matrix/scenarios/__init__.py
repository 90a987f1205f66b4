"""The rows of the matrix, as data: a module for each group of faults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.matrix.scenarios import (
    clocks,
    credentials,
    lock,
    network,
    processes,
    resources,
    server,
    tree,
    writes,
)

if TYPE_CHECKING:
    from tests.matrix.model import Scenario

SCENARIOS: Final[tuple[Scenario, ...]] = (
    *writes.SCENARIOS,
    *lock.SCENARIOS,
    *network.SCENARIOS,
    *processes.SCENARIOS,
    *resources.SCENARIOS,
    *server.SCENARIOS,
    *credentials.SCENARIOS,
    *clocks.SCENARIOS,
    *tree.SCENARIOS,
)
