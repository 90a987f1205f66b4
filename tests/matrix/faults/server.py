"""What befalls the servers of the control plane, and with them everybody at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.matrix.model import EVERYBODY, After, Fault
from tests.support.witness import now_ns

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.matrix.scenario import Scenario

GROUP: Final = "control plane"

#: Longer than any lease: a candidate that keeps to its lease has stopped by then.
_LONG_LEASES: Final = 1.5
#: Short of the renew deadline even where the last renewal had been due when the server went.
_SHORT_S: Final = 1.5
#: From where on a "short" outage was too long for its promise on a machine this busy.
_SHORT_MAX_S: Final = 3.0


def _outage(down: str, up: str) -> Callable[[Scenario], None]:
    """Take a server away until every lease is over, and give it back."""

    def play(scenario: Scenario) -> None:
        scenario.pair(child=("--ignore", "TERM"))
        down_ns = scenario.server(down)
        scenario.elapse(_LONG_LEASES)
        up_ns = scenario.server(up)
        scenario.mended()
        meanwhile = [t for t in scenario.witness.trees() if down_ns < t.started_ns < up_ns]
        scenario.require("nobody begins to lead while nothing can be written", not meanwhile)
        outage_s = round((up_ns - down_ns) / 1e9, 1)
        scenario.facts["outage_s"] = outage_s
        # Who kept its child, against its lease or because its lock stands the outage, keeps it.
        if not scenario.tree.running:
            scenario.successor()
        scenario.elapse(outage_s / scenario.timing.lease_s + 1)

    return play


def _short_outage(scenario: Scenario) -> None:
    scenario.pair()
    down_ns = scenario.server("pause kube-apiserver")
    scenario.elapse(_SHORT_S / scenario.timing.lease_s)
    up_ns = scenario.server("resume kube-apiserver")
    outage_s = round((up_ns - down_ns) / 1e9, 1)
    scenario.facts["outage_s"] = outage_s
    scenario.prove(f"the outage lasted {outage_s} s", lambda: outage_s < _SHORT_MAX_S, timeout_s=0)
    scenario.renewed("a")


def _restart(scenario: Scenario) -> None:
    scenario.pair()
    down_ns = scenario.server("stop kube-apiserver")
    scenario.server("start kube-apiserver")
    scenario.mended()
    outage_s = round((now_ns() - down_ns) / 1e9, 1)
    scenario.facts["outage_s"] = outage_s
    # A candidate that could not renew in time has stopped its child by then, and lost its lock.
    scenario.elapse(outage_s / scenario.timing.lease_s + 1)


FAULTS: Final = (
    Fault(
        "API server killed", GROUP, "kube-apiserver is killed and started again leases later",
        _outage("stop kube-apiserver", "start kube-apiserver"),
        after=After.ANYTHING, own_plane=True,
    ),
    Fault(
        "API server stopped", GROUP, "kube-apiserver is paused and resumed leases later",
        _outage("pause kube-apiserver", "resume kube-apiserver"),
        after=After.ANYTHING, own_plane=True,
    ),
    Fault(
        "API server stopped shortly", GROUP, "kube-apiserver is paused for less than a deadline",
        _short_outage, after=After.KEPT, own_plane=True,
    ),
    Fault(
        "API server restarted", GROUP, "kube-apiserver is killed and started again at once",
        _restart, after=After.ANYTHING, own_plane=True,
    ),
    Fault(
        "etcd killed", GROUP, "etcd is killed and started again leases later",
        _outage("stop etcd", "start etcd"),
        after=After.ANYTHING, competitors=EVERYBODY, own_plane=True,
    ),
    Fault(
        "etcd stopped", GROUP, "etcd is paused and resumed leases later",
        _outage("pause etcd", "resume etcd"),
        after=After.ANYTHING, competitors=EVERYBODY, own_plane=True,
    ),
)  # fmt: skip
