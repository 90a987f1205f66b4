"""The rows of the matrix, as data: a module for each group of faults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.matrix.faults import (
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
    from tests.matrix.model import Fault

FAULTS: Final[tuple[Fault, ...]] = (
    *writes.FAULTS,
    *lock.FAULTS,
    *network.FAULTS,
    *processes.FAULTS,
    *resources.FAULTS,
    *server.FAULTS,
    *credentials.FAULTS,
    *clocks.FAULTS,
    *tree.FAULTS,
)
