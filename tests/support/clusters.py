"""The clusters that exclusivity is proved on in virtual time, and the share each has of a run.

Owns the table alone, so that the unit lane and the soak run the same clusters and a failure of one
can be replayed in the other. It must not know how a schedule is judged.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from leaderexec.model import SECOND_NS, SECOND_US, Timing
from tests.support.simulation import DEFAULT, MS, OLD, TRAITS_OF_2016, Setup

if TYPE_CHECKING:
    from collections.abc import Mapping

LONG: Final = Setup(timing=DEFAULT, duration_ns=150 * SECOND_NS, fault_every_ns=7 * SECOND_NS)
OF_2016: Final = Setup(
    timing=OLD,
    duration_ns=120 * SECOND_NS,
    fault_every_ns=5 * SECOND_NS,
    traits=TRAITS_OF_2016,
    sidecars=0.5,
)
#: Containers that come back at once, while their former life's requests are under way.
SLOTS: Final = Setup(pid1=1.0, restart_ns=SECOND_NS // 2, fault_every_ns=2 * SECOND_NS)
#: One id for all, on machines whose wall clocks agree: writes of one second look alike.
TWINS: Final = replace(OF_2016, verbatim=1.0, wall_spread_us=SECOND_US // 10)

#: Each cluster, and how many schedules of it the unit lane runs: seeds from 0.
CLUSTERS: Final[Mapping[str, tuple[Setup, int]]] = {
    "mixed": (Setup(sidecars=0.2), 250),
    "stormy": (Setup(fault_every_ns=1500 * MS), 200),
    "without a line": (Setup(line=False), 100),
    "sidecars": (Setup(sidecars=1.0, fault_every_ns=2 * SECOND_NS), 75),
    "duplicated id": (Setup(verbatim=0.7), 125),
    "containers": (Setup(pid1=1.0), 125),
    "slots": (SLOTS, 100),
    "slots, default timing": (replace(LONG, pid1=1.0, restart_ns=SECOND_NS // 2), 50),
    "of 2016": (OF_2016, 75),
    "of 2016, one id": (TWINS, 100),
    "default timing": (LONG, 150),
    "default timing, one id": (replace(LONG, verbatim=1.0), 50),
    "seven candidates": (Setup(candidates=7, pid1=0.0), 50),
    "long lease": (
        Setup(
            timing=Timing(60, 20 * SECOND_NS, 5 * SECOND_NS),
            duration_ns=600 * SECOND_NS,
            fault_every_ns=20 * SECOND_NS,
        ),
        20,
    ),
}
