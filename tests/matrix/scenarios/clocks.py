"""Wall clocks that step, under one candidate and nobody else.

Every step is proved by a reading under the same library: the wall clock is off, CLOCK_BOOTTIME is
not. Only leaderexec can be put under it: programs in Go ask the kernel past their C library. A peer
stands by in the row that is about what a leader with such a clock writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.matrix.model import CLIENT_GO, OURS, After, Scenario
from tests.support.clock import SteppedClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.matrix.arena import Arena
    from tests.matrix.model import Timing
    from tests.support.candidates import Candidate

GROUP: Final = "wall clock"
_STUBBORN: Final = ("--ignore", "TERM")
_HOUR_S: Final = 3600.0
#: Longer than any lease: what a wrong clock makes somebody believe has come about by then.
_SETTLED_LEASES: Final = 1.25


def _step(arena: Arena, clock: SteppedClock, candidate: Candidate, offset_s: float) -> None:
    """Step the wall clock of a candidate's processes, and prove what was stepped and what not."""
    for part, pid in (("guardian", candidate.guardian), ("elector", candidate.elector)):
        arena.prove(f"the {part} is under the clock", lambda pid=pid: clock.covers(pid))  # type: ignore[misc]
    arena.begin()
    reading = clock.step(offset_s)
    arena.proofs.append(f"wall clock off by {reading.wall_s:.3f} s, boot time by 0 s")


def _leader_steps(offset_s: Callable[[Timing], float]) -> Callable[[Arena], None]:
    """Step the leader's wall clock; then, when nothing has come of it, cut the leader off."""

    def play(arena: Arena) -> None:
        with SteppedClock(arena.directory) as clock:
            leader = arena.leader(child=_STUBBORN, env=clock.env)
            arena.standby()
            _step(arena, clock, leader, offset_s(arena.timing))
            arena.require("it renews with the stepped clock", arena.renewed("a"))
            arena.elapse(_SETTLED_LEASES)
            arena.require("its child is kept", arena.witness.trees() == [arena.tree])
            arena.black_hole("a")
            arena.ends()
            arena.successor()
            arena.proxy("a").pass_through()

    return play


def _steps_and_is_cut_off(arena: Arena) -> None:
    with SteppedClock(arena.directory) as clock:
        leader = arena.leader(child=_STUBBORN, env=clock.env)
        arena.standby(make=CLIENT_GO)
        _step(arena, clock, leader, -arena.timing.retry_s)
        # The next renewal is the one that would look like the last, and renew nothing.
        arena.renewed("a", 1)
        arena.black_hole("a")
        arena.ends()
        arena.successor()
        arena.proxy("a").pass_through()


def _standby_steps(arena: Arena) -> None:
    with SteppedClock(arena.directory) as clock:
        arena.leader()
        standby = arena.standby(env=clock.env)
        _step(arena, clock, standby, _HOUR_S)
        arena.elapse(2 * _SETTLED_LEASES)
        arena.renewed("a", 1)


SCENARIOS: Final = (
    Scenario(
        "leader's clock an hour on", GROUP,
        "the leader's wall clock steps forward by an hour, later its network is gone",
        _leader_steps(lambda _: _HOUR_S), makes=(OURS,),
    ),
    Scenario(
        "leader's clock an hour back", GROUP,
        "the leader's wall clock steps back by an hour, later its network is gone",
        _leader_steps(lambda _: -_HOUR_S), makes=(OURS,),
    ),
    Scenario(
        "leader's clock a retry back", GROUP,
        "the leader's wall clock steps back by a retry period, later its network is gone",
        _leader_steps(lambda timing: -timing.retry_s), makes=(OURS,),
    ),
    Scenario(
        "clock back beside client-go", GROUP,
        "the leader's wall clock steps back and its network is gone, client-go stands by",
        _steps_and_is_cut_off, makes=(OURS,),
    ),
    Scenario(
        "standby's clock an hour on", GROUP, "a standby's wall clock steps forward by an hour",
        _standby_steps, after=After.KEPT, makes=(OURS,),
    ),
)  # fmt: skip
