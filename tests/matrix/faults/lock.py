"""Hands on the lock, and names that are not one's own.

What is done to the Lease here is done by hand, as an administrator can; nobody can promise much
then, and what leaderexec does promise is that it believes no record for its holder's name.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

from tests.matrix.model import WITH_CLIENT_GO, After, Fault, Kind, Timing
from tests.matrix.scenario import Invalid
from tests.support.candidate import in_pid_namespace
from tests.support.competitors import CLIENT_GO, OURS, slot_of
from tests.support.proxy import Match

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.matrix.scenario import Scenario
    from tests.support.kube_candidates import KubeCandidates

GROUP: Final = "hands on the lock"

_LOOKS: Final = Match(method="GET", path="/leases/")
_STUBBORN: Final = ("--ignore", "TERM")
_RELABEL_S: Final = 0.1
#: How long a child drains that is overtaken by hand: well beyond what it takes to notice that.
_DRAIN: Final = ("--drain", "4")
#: From the discovery of another holder to the death of the child, on a loaded machine.
_KILL_S: Final = 0.5


def _by_hand(scenario: Scenario, what: str, act: Callable[[], None]) -> None:
    """Do something to the Lease; it is checked that the API server did it."""
    scenario.begin()
    act()
    scenario.proofs.append(what)


def _delete(scenario: Scenario) -> None:
    _by_hand(scenario, "the Lease is deleted", scenario.candidates.delete)


def _blank(scenario: Scenario) -> None:
    _by_hand(
        scenario,
        "the Lease is blanked",
        lambda: scenario.candidates.patch({"spec": {"holderIdentity": ""}}),
    )


def _hand_to(scenario: Scenario, holder: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    record = {
        "holderIdentity": holder,
        "leaseDurationSeconds": scenario.timing.lease_s,
        "acquireTime": now,
        "renewTime": now,
        "leaseTransitions": 7,
    }
    _by_hand(
        scenario, "the Lease names another", lambda: scenario.candidates.patch({"spec": record})
    )


def _stops_leading(scenario: Scenario) -> None:
    """Wait for the end of who has lost the lock by hand; a competitor may just take it again."""
    ended = scenario.ends_unless_renewed()
    scenario.require("who has lost the lock lets go of its child", ended)
    if ended:
        scenario.successor()


# --- deleted


def _deleted(scenario: Scenario) -> None:
    scenario.pair(child=_STUBBORN)
    _delete(scenario)
    _stops_leading(scenario)


def _deleted_behind_the_leader(scenario: Scenario) -> None:
    scenario.pair(child=_STUBBORN)
    scenario.black_hole("a")
    _delete(scenario)
    scenario.ends()
    scenario.successor()
    scenario.proxy("a").pass_through()


def _deleted_before_a_newcomer(scenario: Scenario) -> None:
    scenario.leader(child=_STUBBORN)
    # Its first look at the lock is kept back until then, so that its start takes no time.
    newcomer = scenario.proxy("b")
    newcomer.hold(_LOOKS)
    scenario.start("b")
    scenario.prove("a newcomer is about to look", newcomer.held)
    scenario.black_hole("a")
    _delete(scenario)
    newcomer.pass_through()
    newcomer.release_held()
    scenario.ends()
    scenario.successor()
    scenario.proxy("a").pass_through()


# --- overwritten


def _overwritten(scenario: Scenario) -> None:
    scenario.pair(child=_STUBBORN)
    _hand_to(scenario, "somebody-else")
    _stops_leading(scenario)


def _handed_to_the_standby(*options: str) -> Callable[[Scenario], None]:
    """Write a standby's name, which makes it no leader: a record is its own if it wrote it."""

    def play(scenario: Scenario) -> None:
        scenario.leader(child=_STUBBORN)
        standby = scenario.standby("b", *(options if scenario.ours else ()))
        _hand_to(scenario, standby.identity)
        _stops_leading(scenario)

    return play


def _blanked(scenario: Scenario) -> None:
    scenario.pair(child=_STUBBORN)
    _blank(scenario)
    _stops_leading(scenario)


def _blanked_while_draining(scenario: Scenario) -> None:
    leader = scenario.pair(child=_DRAIN)
    scenario.deliver(scenario.wrapper_of(leader), "the leader")
    scenario.prove(
        "the child drains",
        lambda: any(note.text == "signal TERM" for note in scenario.witness.notes("a")),
    )
    _blank(scenario)
    scenario.ends()
    scenario.successor()


def _until_it_notices_s(timing: Timing) -> float:
    """Return how long a leader may be without its lock before its child is dead.

    It learns of that by its next renewal, a retry period after the last one at most, whose call may
    take half a renew deadline. Only a server that answers nothing at all makes it later: then it
    is the lease less the margin, as ever.
    """
    return timing.retry_s + timing.renew_s / 2 + _KILL_S


# --- relabelled


class _Relabelling:
    """Somebody who writes a label of the Lease again and again, each time another value."""

    def __init__(self, candidates: KubeCandidates) -> None:
        self.count = 0
        self._candidates = candidates
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(_RELABEL_S):
            self._candidates.patch({"metadata": {"labels": {"relabelled": str(self.count)}}})
            self.count += 1


def _relabelled(scenario: Scenario) -> None:
    scenario.pair()
    scenario.begin()
    with _Relabelling(scenario.candidates) as relabelling:
        scenario.elapse(2)
        scenario.prove("many labels were written", lambda: relabelling.count > 2 / _RELABEL_S)
    scenario.facts["labels_written"] = relabelling.count
    scenario.renewed("a")


def _relabelled_when_dead(scenario: Scenario) -> None:
    leader = scenario.pair()
    with _Relabelling(scenario.candidates) as relabelling:
        # Cut off first, so that nothing of it can give the lock back.
        scenario.black_hole("a")
        leader.kill()
        scenario.prove("the leader is dead", lambda: not scenario.witness.running("a"))
        written = relabelling.count
        scenario.successor()
        scenario.facts["labels_written"] = relabelling.count - written
    scenario.prove(
        "labels were written meanwhile", lambda: relabelling.count > written + 5, timeout_s=0
    )


# --- names


def _two_in_one_slot(scenario: Scenario) -> None:
    """Start what `kubectl exec` starts, in the container and as process 1 of another namespace."""
    slot = slot_of(scenario.candidates.namespace)
    leader = scenario.leader(wrapper=in_pid_namespace(), env=slot)
    inside = ["nsenter", f"--target={leader.guardian}", "--pid", "--mount", "--"]
    scenario.begin()
    seconds = {
        name: scenario.standby(name, env=slot, wrapper=wrapper).identity
        for name, wrapper in (("b", inside), ("c", [*inside, *in_pid_namespace()]))
    }
    scenario.prove("they campaign", lambda: all(seconds.values()))
    scenario.require("they have names of their own", len({leader.identity, *seconds.values()}) == 3)
    scenario.renewed("a", 1 + scenario.timing.lease_s // scenario.timing.retry_s)


def _one_id_for_two(scenario: Scenario) -> None:
    first = scenario.leader("--id=twin", child=_STUBBORN)
    second = scenario.standby("b", "--id=twin")
    if {first.identity, second.identity} != {"twin"}:
        raise Invalid("they do not have one name")
    scenario.black_hole("a")
    scenario.ends()
    heir = scenario.successor()
    proxy = scenario.proxy("a")
    heard = proxy.counters()["replied"]
    proxy.pass_through()
    scenario.prove("the first one is back", lambda: proxy.counters()["replied"] > heard)
    if heir is not None:
        scenario.renewed("b")
        scenario.require(
            "it does not take the twin's record for its own", scenario.witness.running() == [heir]
        )


def _one_id_beside_client_go(scenario: Scenario) -> None:
    """Give leaderexec the name of client-go, which renews the record as its own, claim and all."""
    first = scenario.leader("--id=b", child=_STUBBORN)
    scenario.begin()
    second = scenario.start("b", competitor=CLIENT_GO)
    scenario.prove("they have one name", lambda: first.identity == second.identity)
    scenario.successor()
    scenario.elapse(2)


# --- with client-go in one election


def _handovers_between_competitors(scenario: Scenario) -> None:
    """Hand over to each from the other, whichever of two standbys is first."""
    scenario.leader()
    scenario.standby("b")
    scenario.standby("c", competitor=CLIENT_GO)
    tree = _hand_over(scenario, "a", "gap_first_s")
    if tree == "b":
        tree = _hand_over(scenario, "b", "gap_ours_to_client_go_s")
        scenario.standby("d")
    scenario.require("client-go takes over from ours", tree == "c")
    tree = _hand_over(scenario, "c", "gap_client_go_to_ours_s")
    scenario.require("ours takes over from client-go", tree in {"b", "d"})
    scenario.renewed(tree)


def _hand_over(scenario: Scenario, name: str, fact: str) -> str:
    """Ask who leads to stop, and return who follows."""
    (tree,) = scenario.witness.running(name)
    scenario.deliver(scenario.wrapper_of(scenario.candidate(name)), name)
    heir = scenario.successor(tree)
    if heir is None or tree.ended_ns is None:
        raise Invalid(f"{name} is not followed by anybody")
    scenario.facts[fact] = (heir.started_ns - tree.ended_ns) / 1e9
    return heir.candidate


FAULTS: Final = (
    Fault(
        "Lease deleted", GROUP, "the Lease is deleted by hand, and everybody sees it",
        _deleted, after=After.ANYTHING, quick=True,
    ),
    Fault(
        "Lease deleted behind the leader", GROUP,
        "the Lease is deleted while the leader is in a black hole; a standby sees it",
        _deleted_behind_the_leader,
    ),
    Fault(
        "Lease deleted before a newcomer", GROUP,
        "the leader is in a black hole, the Lease is deleted, and then a candidate is started,"
        " which cannot know",
        _deleted_before_a_newcomer, kind=Kind.REPORTED,
    ),
    Fault(
        "Lease overwritten", GROUP, "the Lease is given to somebody else by hand",
        _overwritten, after=After.ANYTHING,
    ),
    Fault(
        "Lease given to the standby", GROUP, "a standby's --id is written into the Lease by hand",
        _handed_to_the_standby("--id=b"), after=After.ANYTHING, competitors=WITH_CLIENT_GO,
    ),
    Fault(
        "Lease given to a generated name", GROUP,
        "a standby's own name, which nobody else can have, is written into the Lease by hand",
        _handed_to_the_standby(), after=After.ANYTHING, competitors=(OURS,),
    ),
    Fault(
        "Lease blanked", GROUP, "the holder is taken out of the Lease by hand",
        _blanked, kind=Kind.REPORTED,
    ),
    Fault(
        "Lease blanked while draining", GROUP,
        "the holder is taken out of the Lease by hand while its child drains after SIGTERM",
        _blanked_while_draining, kind=Kind.BOUND, overlap_s=_until_it_notices_s,
        competitors=WITH_CLIENT_GO,
    ),
    Fault(
        "Lease relabelled", GROUP, "a label of the Lease changes ten times a second",
        _relabelled, after=After.KEPT,
    ),
    Fault(
        "Lease relabelled, leader dead", GROUP,
        "a label of the Lease changes ten times a second while its holder is dead",
        _relabelled_when_dead,
    ),
    Fault(
        "two in one slot", GROUP,
        "two more instances are started in the leader's container, with its variables",
        _two_in_one_slot, after=After.KEPT, competitors=(OURS,),
    ),
    Fault(
        "one --id for two", GROUP, "leader and standby have the same --id; the leader is cut off",
        _one_id_for_two, competitors=(OURS,), quick=True,
    ),
    Fault(
        "one --id beside client-go", GROUP, "client-go's elector has the leader's identity",
        _one_id_beside_client_go, kind=Kind.REPORTED, competitors=(OURS,),
    ),
    Fault(
        "handovers between competitors", GROUP,
        "leaderexec and client-go stand in one election and hand over by SIGTERM, both ways",
        _handovers_between_competitors, competitors=(OURS,),
    ),
)  # fmt: skip
