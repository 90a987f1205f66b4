"""Two hundred standbys, each a real process with a real watch, on one Lease."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import pytest

from tests.support.herd import Herd

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.controlplane import ControlPlane

STANDBYS = 200
HANDOVERS = 3
MOST_ATTEMPTS = 20


@pytest.mark.nightly
def test_two_hundred_standbys_do_not_stampede(control_plane: ControlPlane, tmp_path: Path) -> None:
    """A release costs the API server at most twenty attempts to write, however many wait for it."""
    with Herd(control_plane, tmp_path, STANDBYS) as herd:
        handovers = [herd.hand_over() for _ in range(HANDOVERS)]
    print(*handovers, sep="\n")
    # The median: on a machine that pauses, the news that somebody leads may come too late once.
    attempts = statistics.median(handover.attempts for handover in handovers)
    assert attempts <= MOST_ATTEMPTS, handovers
