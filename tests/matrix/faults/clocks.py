"""Wall clocks that step, under one candidate and nobody else.

Every step is proved by a reading under the same library: the wall clock is off, CLOCK_BOOTTIME is
not. Only leaderexec can be put under it: programs in Go ask the kernel past their C library.
client-go stands by in the row that is about what a leader with such a clock writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.matrix.model import After, Fault
from tests.support.clock import SteppedClock
from tests.support.competitors import CLIENT_GO, OURS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.matrix.model import Timing
    from tests.matrix.scenario import Scenario
    from tests.support.candidate import Candidate

GROUP: Final = "wall clock"
_STUBBORN: Final = ("--ignore", "TERM")
_HOUR_S: Final = 3600.0
#: Longer than any lease: what a wrong clock makes somebody believe has come about by then.
_SETTLED_LEASES: Final = 1.25


def _step(scenario: Scenario, clock: SteppedClock, candidate: Candidate, offset_s: float) -> None:
    """Step the wall clock of a candidate's processes, and prove what was stepped and what not."""
    for part, pid in (("guardian", candidate.guardian), ("elector", candidate.elector)):
        scenario.prove(f"the {part} is under the clock", lambda pid=pid: clock.covers(pid))  # type: ignore[misc]
    scenario.begin()
    off_s = clock.step(offset_s)
    scenario.proofs.append(f"wall clock off by {off_s:.3f} s, boot time by 0 s")


def _leader_steps(offset_s: Callable[[Timing], float]) -> Callable[[Scenario], None]:
    """Step the leader's wall clock; then, when nothing has come of it, cut the leader off."""

    def play(scenario: Scenario) -> None:
        with SteppedClock(scenario.directory) as clock:
            leader = scenario.pair(child=_STUBBORN, env=clock.env)
            _step(scenario, clock, leader, offset_s(scenario.timing))
            scenario.require("it renews with the stepped clock", scenario.renewed("a"))
            scenario.elapse(_SETTLED_LEASES)
            scenario.require("its child is kept", scenario.witness.trees() == [scenario.tree])
            scenario.black_hole("a")
            scenario.ends()
            scenario.successor()
            scenario.proxy("a").pass_through()

    return play


def _steps_and_is_cut_off(scenario: Scenario) -> None:
    with SteppedClock(scenario.directory) as clock:
        leader = scenario.leader(child=_STUBBORN, env=clock.env)
        scenario.standby(competitor=CLIENT_GO)
        _step(scenario, clock, leader, -scenario.timing.retry_s)
        # The next renewal is the one that would look like the last, and renew nothing.
        scenario.renewed("a", 1)
        scenario.black_hole("a")
        scenario.ends()
        scenario.successor()
        scenario.proxy("a").pass_through()


def _standby_steps(scenario: Scenario) -> None:
    with SteppedClock(scenario.directory) as clock:
        scenario.leader()
        standby = scenario.standby(env=clock.env)
        _step(scenario, clock, standby, _HOUR_S)
        scenario.elapse(2 * _SETTLED_LEASES)
        scenario.renewed("a", 1)


FAULTS: Final = (
    Fault(
        "leader's clock an hour on", GROUP,
        "the leader's wall clock steps forward by an hour, later its network is gone",
        _leader_steps(lambda _: _HOUR_S), competitors=(OURS,),
    ),
    Fault(
        "leader's clock an hour back", GROUP,
        "the leader's wall clock steps back by an hour, later its network is gone",
        _leader_steps(lambda _: -_HOUR_S), competitors=(OURS,),
    ),
    Fault(
        "leader's clock a retry back", GROUP,
        "the leader's wall clock steps back by a retry period, later its network is gone",
        _leader_steps(lambda timing: -timing.retry_s), competitors=(OURS,),
    ),
    Fault(
        "clock back beside client-go", GROUP,
        "the leader's wall clock steps back and its network is gone, client-go stands by",
        _steps_and_is_cut_off, competitors=(OURS,),
    ),
    Fault(
        "standby's clock an hour on", GROUP, "a standby's wall clock steps forward by an hour",
        _standby_steps, after=After.KEPT, competitors=(OURS,),
    ),
)  # fmt: skip
