"""Hands on the lock, and names that are not one's own.

What is done to the Lease here is done by hand, as an administrator can; nobody can promise much
then, and what leaderexec does promise is that it believes no record for its holder's name.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

from tests.matrix.arena import Invalid
from tests.matrix.model import CLIENT_GO, OURS, After, Kind, Scenario, Timing
from tests.support.candidates import in_pid_namespace
from tests.support.proxy import Match

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.matrix.arena import Arena
    from tests.support.kube_rally import KubeRally

GROUP: Final = "hands on the lock"

_LOOKS: Final = Match(method="GET", path="/leases/")
_STUBBORN: Final = ("--ignore", "TERM")
_RELABEL_S: Final = 0.1
#: How long a child drains that is overtaken by hand: well beyond what it takes to notice that.
_DRAIN: Final = ("--drain", "4")
#: From the discovery of another holder to the death of the child, on a loaded machine.
_KILL_S: Final = 0.5


def _by_hand(arena: Arena, what: str, act: Callable[[], None]) -> None:
    """Do something to the Lease; it is checked that the API server did it."""
    arena.begin()
    act()
    arena.proofs.append(what)


def _delete(arena: Arena) -> None:
    _by_hand(arena, "the Lease is deleted", arena.rally.delete)


def _blank(arena: Arena) -> None:
    _by_hand(
        arena, "the Lease is blanked", lambda: arena.rally.patch({"spec": {"holderIdentity": ""}})
    )


def _hand_to(arena: Arena, holder: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    record = {
        "holderIdentity": holder,
        "leaseDurationSeconds": arena.timing.lease_s,
        "acquireTime": now,
        "renewTime": now,
        "leaseTransitions": 7,
    }
    _by_hand(arena, "the Lease names another", lambda: arena.rally.patch({"spec": record}))


def _stops_leading(arena: Arena) -> None:
    """Wait for the end of who has lost the lock by hand; a peer may just take it again."""
    ended = arena.ends_unless_renewed()
    arena.require("who has lost the lock lets go of its child", ended)
    if ended:
        arena.successor()


# --- deleted


def _deleted(arena: Arena) -> None:
    arena.leader(child=_STUBBORN)
    arena.standby()
    _delete(arena)
    _stops_leading(arena)


def _deleted_behind_the_leader(arena: Arena) -> None:
    arena.leader(child=_STUBBORN)
    arena.standby()
    arena.black_hole("a")
    _delete(arena)
    arena.ends()
    arena.successor()
    arena.proxy("a").pass_through()


def _deleted_before_a_newcomer(arena: Arena) -> None:
    arena.leader(child=_STUBBORN)
    # Its first look at the lock is kept back until then, so that its start takes no time.
    newcomer = arena.proxy("b")
    newcomer.hold(_LOOKS)
    arena.start("b")
    arena.prove("a newcomer is about to look", newcomer.held)
    arena.black_hole("a")
    _delete(arena)
    newcomer.pass_through()
    newcomer.release_held()
    arena.ends()
    arena.successor()
    arena.proxy("a").pass_through()


# --- overwritten


def _overwritten(arena: Arena) -> None:
    arena.leader(child=_STUBBORN)
    arena.standby()
    _hand_to(arena, "somebody-else")
    _stops_leading(arena)


def _handed_to_the_standby(*options: str) -> Callable[[Arena], None]:
    """Write a standby's name, which makes it no leader: a record is its own if it wrote it."""

    def play(arena: Arena) -> None:
        arena.leader(child=_STUBBORN)
        standby = arena.standby("b", *(options if arena.ours else ()))
        _hand_to(arena, standby.identity)
        _stops_leading(arena)

    return play


def _blanked(arena: Arena) -> None:
    arena.leader(child=_STUBBORN)
    arena.standby()
    _blank(arena)
    _stops_leading(arena)


def _blanked_while_draining(arena: Arena) -> None:
    leader = arena.leader(child=_DRAIN)
    arena.standby()
    arena.deliver(arena.wrapper_of(leader), "the leader")
    arena.prove(
        "the child drains",
        lambda: any(note.text == "signal TERM" for note in arena.witness.notes("a")),
    )
    _blank(arena)
    arena.ends()
    arena.successor()


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

    def __init__(self, rally: KubeRally) -> None:
        self.count = 0
        self._rally = rally
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
            self._rally.patch({"metadata": {"labels": {"relabelled": str(self.count)}}})
            self.count += 1


def _relabelled(arena: Arena) -> None:
    arena.leader()
    arena.standby()
    arena.begin()
    with _Relabelling(arena.rally) as relabelling:
        arena.elapse(2)
        arena.prove("many labels were written", lambda: relabelling.count > 2 / _RELABEL_S)
    arena.facts["labels_written"] = relabelling.count
    arena.renewed("a")


def _relabelled_when_dead(arena: Arena) -> None:
    leader = arena.leader()
    arena.standby()
    with _Relabelling(arena.rally) as relabelling:
        # Cut off first, so that nothing of it can give the lock back.
        arena.black_hole("a")
        leader.kill()
        arena.prove("the leader is dead", lambda: not arena.witness.running("a"))
        written = relabelling.count
        arena.successor()
        arena.facts["labels_written"] = relabelling.count - written
    arena.prove(
        "labels were written meanwhile", lambda: relabelling.count > written + 5, timeout_s=0
    )


# --- names


def _two_in_one_slot(arena: Arena) -> None:
    """Start what `kubectl exec` starts, in the container and as process 1 of another namespace."""
    slot = {
        "POD_NAME": "server-0",
        "POD_NAMESPACE": arena.rally.namespace,
        "POD_UID": "0c1f5a83-95a5-4d1c-8a3f-3b0a4ce8f0d2",
        "CONTAINER_NAME": "server",
    }
    leader = arena.leader(wrapper=in_pid_namespace(), env=slot)
    inside = ["nsenter", f"--target={leader.guardian}", "--pid", "--mount", "--"]
    arena.begin()
    seconds = {
        name: arena.standby(name, env=slot, wrapper=wrapper).identity
        for name, wrapper in (("b", inside), ("c", [*inside, *in_pid_namespace()]))
    }
    arena.prove("they campaign", lambda: all(seconds.values()))
    arena.require("they have names of their own", len({leader.identity, *seconds.values()}) == 3)
    arena.renewed("a", 1 + arena.timing.lease_s // arena.timing.retry_s)


def _one_id_for_two(arena: Arena) -> None:
    first = arena.leader("--id=twin", child=_STUBBORN)
    second = arena.standby("b", "--id=twin")
    if {first.identity, second.identity} != {"twin"}:
        raise Invalid("they do not have one name")
    arena.black_hole("a")
    arena.ends()
    heir = arena.successor()
    proxy = arena.proxy("a")
    heard = proxy.counters()["replied"]
    proxy.pass_through()
    arena.prove("the first one is back", lambda: proxy.counters()["replied"] > heard)
    if heir is not None:
        arena.renewed("b")
        arena.require(
            "it does not take the twin's record for its own", arena.witness.running() == [heir]
        )


def _one_id_beside_client_go(arena: Arena) -> None:
    """Give ours the rival's name: it renews our record as its own, and changes no claim in it."""
    first = arena.leader("--id=b", child=_STUBBORN)
    arena.begin()
    second = arena.start("b", make=CLIENT_GO)
    arena.prove("they have one name", lambda: first.identity == second.identity)
    arena.successor()
    arena.elapse(2)


# --- makes side by side


def _handovers_between_makes(arena: Arena) -> None:
    """Hand over to each make from the other, whichever of two standbys is first."""
    arena.leader()
    arena.standby("b")
    arena.standby("c", make=CLIENT_GO)
    tree = _hand_over(arena, "a", "gap_first_s")
    if tree == "b":
        tree = _hand_over(arena, "b", "gap_ours_to_client_go_s")
        arena.standby("d")
    arena.require("client-go takes over from ours", tree == "c")
    tree = _hand_over(arena, "c", "gap_client_go_to_ours_s")
    arena.require("ours takes over from client-go", tree in {"b", "d"})
    arena.renewed(tree)


def _hand_over(arena: Arena, name: str, fact: str) -> str:
    """Ask who leads to stop, and return who follows."""
    (tree,) = arena.witness.running(name)
    arena.deliver(arena.wrapper_of(arena.candidate(name)), name)
    heir = arena.successor(tree)
    if heir is None or tree.ended_ns is None:
        raise Invalid(f"{name} is not followed by anybody")
    arena.facts[fact] = (heir.started_ns - tree.ended_ns) / 1e9
    return heir.candidate


_PEERS: Final = (OURS, CLIENT_GO)

SCENARIOS: Final = (
    Scenario(
        "Lease deleted", GROUP, "the Lease is deleted by hand, and everybody sees it",
        _deleted, after=After.ANYTHING, quick=True,
    ),
    Scenario(
        "Lease deleted behind the leader", GROUP,
        "the Lease is deleted while the leader is in a black hole; a standby sees it",
        _deleted_behind_the_leader,
    ),
    Scenario(
        "Lease deleted before a newcomer", GROUP,
        "the leader is in a black hole, the Lease is deleted, and then a candidate is started,"
        " which cannot know",
        _deleted_before_a_newcomer, kind=Kind.REPORTED,
    ),
    Scenario(
        "Lease overwritten", GROUP, "the Lease is given to somebody else by hand",
        _overwritten, after=After.ANYTHING,
    ),
    Scenario(
        "Lease given to the standby", GROUP, "a standby's --id is written into the Lease by hand",
        _handed_to_the_standby("--id=b"), after=After.ANYTHING, makes=_PEERS,
    ),
    Scenario(
        "Lease given to a generated name", GROUP,
        "a standby's own name, which nobody else can have, is written into the Lease by hand",
        _handed_to_the_standby(), after=After.ANYTHING, makes=(OURS,),
    ),
    Scenario(
        "Lease blanked", GROUP, "the holder is taken out of the Lease by hand",
        _blanked, kind=Kind.REPORTED,
    ),
    Scenario(
        "Lease blanked while draining", GROUP,
        "the holder is taken out of the Lease by hand while its child drains after SIGTERM",
        _blanked_while_draining, kind=Kind.BOUND, overlap_s=_until_it_notices_s, makes=_PEERS,
    ),
    Scenario(
        "Lease relabelled", GROUP, "a label of the Lease changes ten times a second",
        _relabelled, after=After.KEPT,
    ),
    Scenario(
        "Lease relabelled, leader dead", GROUP,
        "a label of the Lease changes ten times a second while its holder is dead",
        _relabelled_when_dead,
    ),
    Scenario(
        "two in one slot", GROUP,
        "two more instances are started in the leader's container, with its variables",
        _two_in_one_slot, after=After.KEPT, makes=(OURS,),
    ),
    Scenario(
        "one --id for two", GROUP, "leader and standby have the same --id; the leader is cut off",
        _one_id_for_two, makes=(OURS,), quick=True,
    ),
    Scenario(
        "one --id beside client-go", GROUP, "a client-go rival has the leader's identity",
        _one_id_beside_client_go, kind=Kind.REPORTED, makes=(OURS,),
    ),
    Scenario(
        "handovers between makes", GROUP,
        "leaderexec and client-go stand in one election and hand over by SIGTERM, both ways",
        _handovers_between_makes, makes=(OURS,),
    ),
)  # fmt: skip
