"""What a network can do to the leader, to a standby, and to one request at the wrong moment.

Each fault is played through the proxy of the candidate that it befalls; everybody else has a
network that works.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.matrix.model import After, Fault
from tests.matrix.scenario import BLACK_HOLED
from tests.support.competitors import OURS
from tests.support.proxy import Match

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.matrix.scenario import Scenario
    from tests.support.proxy import Proxy

GROUP: Final = "network"
_WRITES: Final = Match(method="PUT")


def _cut_off(inflict: Callable[[Proxy], object], *counters: str) -> Callable[[Scenario], None]:
    """Befall the leader's network for good; mend it when somebody else leads."""

    def play(scenario: Scenario) -> None:
        scenario.pair(child=("--ignore", "TERM"))
        scenario.network("a", inflict, *counters)
        scenario.ends()
        scenario.successor()
        scenario.proxy("a").pass_through()

    return play


def _for_a_moment(inflict: Callable[[Proxy], object], counter: str) -> Callable[[Scenario], None]:
    """Befall a single renewal."""

    def play(scenario: Scenario) -> None:
        scenario.pair()
        scenario.network("a", inflict, counter)
        scenario.renewed("a")

    return play


def _watch_cut(scenario: Scenario) -> None:
    scenario.pair()
    scenario.network("b", lambda proxy: proxy.cut_watches(silently=True), "watches_cut")
    scenario.candidate("a").terminate()
    scenario.successor()


_ONCE: Final = Match(method="PUT", times=1)

FAULTS: Final = (
    Fault(
        "black hole", GROUP, "only the leader's network swallows everything",
        _cut_off(lambda p: p.black_hole(), *BLACK_HOLED), quick=True,
    ),
    Fault(
        "connections refused", GROUP, "only the leader's connections are closed and refused",
        _cut_off(lambda p: p.refuse(), "connections_closed"),
    ),
    Fault(
        "connections reset", GROUP, "only the leader's connections are reset",
        _cut_off(lambda p: p.reset(), "resets"),
    ),
    Fault(
        "responses reset half-way", GROUP, "each response to the leader breaks off in its middle",
        _cut_off(lambda p: p.reset_mid_response(), "resets_mid_response"),
    ),
    Fault(
        "one byte a second", GROUP, "everything trickles to the leader",
        _cut_off(lambda p: p.trickle(1), "trickled_bytes"),
    ),
    *(
        Fault(
            f"status {status}", GROUP, f"the leader's requests are answered {status}",
            _cut_off(lambda p, status=status: p.answer(status), "answered"),  # type: ignore[misc]
            quick=status in {401, 409},
        )
        for status in (401, 403, 409, 429, 500, 503)
    ),
    Fault(
        "replies half a second late", GROUP, "the leader's replies are late, but come",
        _for_a_moment(lambda p: p.delay(0.5), "delayed"), after=After.KEPT,
    ),
    Fault(
        "one reply lost", GROUP, "a renewal is applied and its reply is lost",
        _for_a_moment(lambda p: p.lose_reply(_ONCE), "replies_lost"), after=After.KEPT, quick=True,
    ),
    Fault(
        "watch cut silently", GROUP, "a standby's watch says nothing any more, the leader leaves",
        _watch_cut, competitors=(OURS,),
    ),
)  # fmt: skip
