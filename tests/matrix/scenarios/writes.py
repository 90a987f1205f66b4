"""Requests at the wrong moment: too late, half known, and those that a signal finds in flight.

Each scenario catches one request of one candidate at its proxy, and does there what a network, a
slow server or a paused process could have done to it. What the API server told the proxy of such a
request (`Request.upstream_status`) is the proof of whether it took effect.
"""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Final

from tests.matrix.arena import Invalid
from tests.matrix.model import CLIENT_GO, OURS, After, Scenario
from tests.support.candidates import in_pid_namespace, kill, puppet_command
from tests.support.controlplane import lease_path
from tests.support.proxy import Match
from tests.support.slowfs import SlowExecutable, script_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.matrix.arena import Arena
    from tests.support.candidates import Candidate
    from tests.support.proxy import Request
    from tests.support.witness import Tree

GROUP: Final = "requests at the wrong moment"

_WRITES: Final = Match(method="PUT", path="/leases/")
_ONE_WRITE: Final = Match(method="PUT", path="/leases/", times=1)
_CREATION: Final = Match(method="POST", path="/leases")
_OK: Final = 200
_CREATED: Final = 201
_CONFLICT: Final = 409
_MINUTE_S: Final = 60
_SECOND_NS: Final = 1_000_000_000
_TERM_EXIT: Final = 143
#: Until somebody takes it back.
_FOR_GOOD_S: Final = 3600
#: How often an elector is killed until its successor was quick enough.
_TRIES: Final = 8
_STUBBORN: Final = ("--ignore", "TERM")
#: Where nobody stands by any more: the time until a candidate that is started only then leads.
_WITH_A_START: Final = 8.0


def _hold_one(arena: Arena) -> None:
    """Keep the leader's next renewal back."""
    arena.network("a", lambda proxy: proxy.hold(_ONE_WRITE), "held")


def _let_go(arena: Arena, name: str = "a") -> list[Request]:
    """Let what is kept back of a candidate reach the API server, and nothing more be kept back."""
    proxy = arena.proxy(name)
    numbers = {request.number for request in proxy.held()}
    proxy.pass_through()
    proxy.release_held()

    def answered() -> list[Request]:
        late = [request for request in proxy.requests() if request.number in numbers]
        return late if all(request.upstream_status for request in late) else []

    return arena.prove("what was kept back has reached the API server", answered)


def _stays(arena: Arena, tree: Tree | None) -> None:
    """Require of a tree that it is still the only one when its leader has renewed again."""
    if tree is not None:
        arena.renewed(tree.candidate)
        arena.require("who leads now goes on", arena.witness.running() == [tree])


def _elapse_s(arena: Arena, seconds: float) -> None:
    arena.elapse(seconds / arena.timing.lease_s)


# --- renewals that land late, or of which nothing is heard


def _one_renewal_late(arena: Arena) -> None:
    arena.leader()
    arena.standby()
    _hold_one(arena)
    _elapse_s(arena, _MINUTE_S)
    late = _let_go(arena)
    arena.require("a late renewal is refused", late[0].upstream_status == _CONFLICT)
    arena.ends_unless_renewed()


def _all_renewals_late(arena: Arena) -> None:
    arena.leader(child=_STUBBORN)
    arena.standby()
    arena.network("a", lambda proxy: proxy.hold(_WRITES), "held")
    arena.ends()
    heir = arena.successor()
    _elapse_s(arena, _MINUTE_S)
    renewals = [r for r in _let_go(arena) if r.at_ns < (arena.tree.ended_ns or 0)]
    arena.require(
        "late renewals are refused", all(r.upstream_status == _CONFLICT for r in renewals)
    )
    _stays(arena, heir)


def _replies_lost(arena: Arena) -> None:
    arena.leader(child=_STUBBORN)
    arena.standby()
    arena.network("a", lambda proxy: proxy.lose_reply(_WRITES), "replies_lost")
    began = len(arena.writes("a"))
    arena.prove("the lease is renewed all the same", lambda: len(arena.writes("a")) > began)
    arena.require("who hears of no renewal stops", arena.ends())
    heir = arena.successor()
    arena.proxy("a").pass_through()
    _stays(arena, heir)


def _reply_lost_silently(arena: Arena) -> None:
    arena.leader()
    arena.standby()
    arena.network("a", lambda p: p.lose_reply(_ONE_WRITE, silently=True), "replies_lost")
    arena.ends_unless_renewed()


def _acquisition_reply_lost(arena: Arena) -> None:
    leader = arena.leader()
    arena.standby()
    proxy = arena.proxy("b")
    proxy.lose_reply(_WRITES)
    arena.deliver(arena.wrapper_of(leader), "the leader")
    arena.ends()
    arena.prove(
        "an acquisition is applied and its reply is lost",
        lambda: any(
            request.upstream_status == _OK and request.at_ns > (arena.tree.ended_ns or 0)
            for request in proxy.requests(_WRITES)
        ),
    )
    proxy.pass_through()
    _stays(arena, arena.successor())


def _acquisition_late(arena: Arena) -> None:
    """Keep a standby's acquisition back until another has led for a while."""
    leader = arena.leader()
    arena.standby()
    proxy = arena.proxy("b")
    proxy.hold(_WRITES)
    arena.deliver(arena.wrapper_of(leader), "the leader")
    arena.ends()
    _prove_acquisition_held(arena)
    arena.start("c")
    heir = arena.successor()
    arena.renewed("c")
    _let_go(arena, "b")
    _stays(arena, heir)


def _prove_acquisition_held(arena: Arena) -> None:
    proxy = arena.proxy("b")
    arena.prove(
        "the acquisition is in flight",
        lambda: any(request.at_ns > (arena.tree.ended_ns or 0) for request in proxy.held()),
    )


# --- two renewals within a second


def _two_renewals_in_a_second(arena: Arena) -> None:
    """Judge beside client-go, which takes two renewals of one whole second for one."""
    # As in a pod, where an elector is quick to start. The puppet only notes that stop signal.
    arena.rally.proxied("a")
    leader = arena.rally.start_in_cluster("a", "--stop-signal=WINCH")
    (arena.first,) = arena.witness.wait_running(1, "a", timeout_s=60)
    arena.standby(make=CLIENT_GO)
    apart_ns, version = 0, ""
    for _ in range(_TRIES):
        version = arena.rally.lease["metadata"]["resourceVersion"]
        apart_ns = _renew_at_once(arena, leader)
        if apart_ns < _SECOND_NS:
            break
        # An elector that has lived for so long is followed without delay when it is killed.
        arena.renewed("a", 1 + arena.timing.renew_s // arena.timing.retry_s)
    arena.black_hole("a")
    arena.facts["renewals_apart_s"] = apart_ns / 1e9
    arena.prove("two renewals within a second", lambda: apart_ns < _SECOND_NS, timeout_s=0)
    times = _renew_times(arena, version)[-2:]
    arena.facts["renew_times"] = times
    arena.require("they differ in whole seconds", times[0][:19] != times[1][:19])
    arena.ends()
    arena.successor()
    arena.proxy("a").pass_through()


def _renew_at_once(arena: Arena, leader: Candidate) -> int:
    """Kill the elector after a renewal; return how long after that its successor's one was sent."""
    proxy = arena.proxy("a")

    def renewals() -> list[int]:
        done = (r for r in proxy.requests(_WRITES) if r.status == _OK and r.replied_ns)
        return [request.forwarded_ns for request in done]

    elector = leader.elector
    before = len(renewals())
    arena.prove("a renewal", lambda: len(renewals()) > before)
    kill(elector)
    before = len(renewals())
    arena.prove("a renewal of another elector", lambda: len(renewals()) > before)
    earlier_ns, later_ns = renewals()[-2:]
    return later_ns - earlier_ns


def _renew_times(arena: Arena, version: str) -> list[str]:
    """Return the renewTime of each version of the Lease after one."""
    query = f"watch=1&resourceVersion={version}&timeoutSeconds=1"
    path = f"{lease_path(arena.rally.namespace)}?{query}"
    with arena.plane.stream("GET", path) as response:
        events = [json.loads(line) for line in response.read().splitlines()]
    if not events or any(event["type"] not in {"ADDED", "MODIFIED"} for event in events):
        raise Invalid(f"the history of the Lease is not to be had: {events}")
    return [event["object"]["spec"]["renewTime"] for event in events]


# --- writes that meet a deletion, a release, another life


def _late_after_deletion(arena: Arena, *, at_once: bool) -> None:
    arena.leader()
    arena.standby()
    uid = arena.rally.lease["metadata"]["uid"]
    _hold_one(arena)
    arena.rally.delete()
    arena.prove("the Lease is deleted", lambda: _uid(arena) != uid)
    if not at_once:
        arena.ends()
    late = _let_go(arena)
    arena.require("a late renewal creates no Lease", late[0].upstream_status == _CONFLICT)
    ended = arena.ends_unless_renewed()
    arena.require("the deletion ends the leadership", ended)
    if ended:
        arena.successor()


def _uid(arena: Arena) -> str:
    lease = arena.plane.lease(arena.rally.namespace, "x")
    return str(lease["metadata"]["uid"]) if lease else ""


def _late_after_release(arena: Arena) -> None:
    leader = arena.leader()
    arena.standby()
    _hold_one(arena)
    arena.deliver(arena.wrapper_of(leader), "the leader")
    code = arena.exit_code(leader)
    arena.require("its exit code is that of its child", code == _TERM_EXIT)
    heir = arena.successor()
    late = _let_go(arena)
    arena.require("a renewal after the release is refused", late[0].upstream_status == _CONFLICT)
    _stays(arena, heir)


def _late_release_over_next_life(arena: Arena) -> None:
    slot = {
        "POD_NAME": "server-0",
        "POD_NAMESPACE": arena.rally.namespace,
        "POD_UID": "5b7e7d1c-2a66-4f0e-9d53-0f4f6e0c7a11",
        "CONTAINER_NAME": "server",
    }
    leader = arena.leader(wrapper=in_pid_namespace(), env=slot)
    proxy = arena.proxy("a")
    proxy.hold(_WRITES)
    arena.deliver(leader.guardian, "the guardian")
    arena.ends()
    arena.prove(
        "the release is in flight",
        lambda: any(request.at_ns > (arena.tree.ended_ns or 0) for request in proxy.held()),
    )
    arena.kill(leader.guardian, "the container")
    restarted = arena.start("c", wrapper=in_pid_namespace(), env=slot)
    heir = arena.successor()
    if heir is None or restarted.identity != leader.identity:
        raise Invalid("the container did not come back in its slot")
    arena.standby()
    late = _let_go(arena)
    arena.require(
        "the release of a former life is refused",
        all(request.upstream_status == _CONFLICT for request in late),
    )
    _stays(arena, heir)


# --- an elector that is stopped or killed between two steps


def _elector_stopped_before_grant(arena: Arena, stopped_s: float) -> None:
    """Stop the elector when the server has renewed, and let it hear of it so much later."""
    leader = arena.leader(child=_STUBBORN)
    arena.standby()
    proxy = arena.proxy("a")
    # Not one that a standby's nomination made fail: it renews nothing.
    delay = Match(method="PUT", path="/leases/", upstream_status=_OK, nth=1)
    arena.network("a", lambda p: p.delay(_FOR_GOOD_S, on="reply", match=delay), "delayed")
    elector = leader.elector
    arena.stop(elector, "the elector")
    number = max(r.number for r in proxy.requests(_WRITES) if r.upstream_status == _OK)
    proxy.delay(0, on="reply", match=delay)
    arena.prove(
        "the reply has reached the elector's socket",
        lambda: any(r.number == number and r.replied_ns for r in proxy.requests(_WRITES)),
    )
    _elapse_s(arena, stopped_s)
    arena.resume(elector, "the elector")
    leading = arena.came(
        lambda: next(iter(arena.witness.running()), None), timeout_s=arena.patience_s()
    )
    if leading:
        arena.renewed(leading.candidate)


def _stopped_for(seconds: float) -> Callable[[Arena], None]:
    return lambda arena: _elector_stopped_before_grant(arena, seconds)


def _stopped_for_a_moment(arena: Arena) -> None:
    # Shorter than what the guardian takes for dead: the grant comes, and is old.
    _elector_stopped_before_grant(arena, arena.timing.renew_s * 0.6)


def _elector_killed_in_mid_put(arena: Arena) -> None:
    leader = arena.leader()
    arena.standby()
    spec = arena.rally.spec
    _hold_one(arena)
    arena.kill(leader.elector, "the elector")
    late = _let_go(arena)
    arena.facts["late_write"] = late[0].upstream_status
    arena.renewed("a")
    now = arena.rally.spec
    arena.require(
        "the leadership is the same",
        all(now[name] == spec[name] for name in ("acquireTime", "leaseTransitions")),
    )


# --- renewals after a stop signal


def _renewed_after_loss(arena: Arena) -> None:
    """Mend the leader's network as soon as its child has been asked to stop."""
    lease_s = arena.timing.lease_s
    # An early stop signal leaves time for a renewal before the kill.
    arena.leader(f"--renew-deadline={0.4 * lease_s:g}s", child=("--drain", str(lease_s)))
    arena.standby()
    arena.black_hole("a")
    asked = arena.prove("the child is asked to stop", lambda: _asked_ns(arena, "a"))
    arena.proxy("a").pass_through()
    arena.prove(
        "a renewal while it drains",
        lambda: any(at_ns > asked for at_ns in arena.writes("a")) and not arena.tree.ended_ns,
    )
    arena.require("stopping is irrevocable", arena.ends())
    arena.facts["drained_s"] = ((arena.tree.ended_ns or asked) - asked) / 1e9
    arena.require("it drains to its end", arena.facts["drained_s"] > 0.9 * lease_s)
    arena.successor()


def _asked_ns(arena: Arena, name: str) -> int:
    notes = arena.witness.notes(name)
    return next((note.at_ns for note in notes if note.text == "signal TERM"), 0)


def _renewed_while_draining(arena: Arena) -> None:
    drain_s = 1.5 * arena.timing.lease_s
    leader = arena.leader(f"--stop-timeout={2 * drain_s:g}s", child=("--drain", str(drain_s)))
    arena.standby()
    arena.deliver(leader.guardian, "the guardian")
    asked = arena.prove("the child is asked to stop", lambda: _asked_ns(arena, "a"))
    arena.ends()
    ended = arena.tree.ended_ns or asked
    renewals = [at_ns for at_ns in arena.writes("a") if asked < at_ns < ended]
    arena.facts["renewals_while_draining"] = len(renewals)
    arena.require("it drains to its end", ended - asked > 0.9 * drain_s * _SECOND_NS)
    arena.require("it is renewed meanwhile", len(renewals) > drain_s / arena.timing.retry_s / 2)
    arena.require("it exits as its child did", arena.exit_code(leader) == 0)
    arena.successor()


# --- SIGTERM on the way from an acquisition to the child


def _gives_back(arena: Arena, asked: Candidate) -> None:
    """Require that nothing of a candidate is left and that it has given the lock back."""
    arena.require("it exits with 143", arena.exit_code(asked) == _TERM_EXIT)
    arena.require("it gives the lock back", arena.rally.spec["holderIdentity"] == "")
    arena.require("no child of it is left", not arena.witness.running(asked.name))
    arena.facts["children_started"] = len(arena.witness.trees(asked.name))
    arena.mended()  # nobody else was there to lead
    arena.start("c")
    arena.successor()


def _asked_while_acquiring(arena: Arena) -> None:
    leader, standby = arena.leader(), arena.standby()
    arena.proxy("b").hold(_WRITES)
    arena.deliver(leader.guardian, "the leader")
    arena.ends()
    _stop_in_flight(arena, standby, _OK)


def _asked_while_creating(arena: Arena) -> None:
    leader = arena.leader()
    arena.deliver(leader.guardian, "the leader")
    arena.exit_code(leader)
    arena.rally.delete()
    arena.proxy("b").hold(_CREATION)
    _stop_in_flight(arena, arena.start("b"), _CREATED)


def _stop_in_flight(arena: Arena, standby: Candidate, landed: int) -> None:
    _prove_acquisition_held(arena)
    arena.deliver(standby.guardian, "the standby")
    late = _let_go(arena, "b")
    arena.prove("the acquisition lands", lambda: late[-1].upstream_status == landed, timeout_s=0)
    _gives_back(arena, standby)
    arena.require("no child was started", not arena.witness.trees("b"))


def _asked_when_granted(arena: Arena) -> None:
    leader, standby = arena.leader(), arena.standby()
    guardian = standby.guardian
    arena.stop(guardian, "the standby's guardian")
    arena.deliver(leader.guardian, "the leader")
    arena.prove("the standby's elector acquires", lambda: standby.events("became leader"))
    os.kill(guardian, signal.SIGTERM)
    arena.resume(guardian, "the standby's guardian")
    _gives_back(arena, standby)
    arena.require("no child was started", not arena.witness.trees("b"))


def _asked_when_told_to_go(arena: Arena) -> None:
    leader, standby = arena.leader(), arena.standby()
    keeper = standby.keeper
    arena.stop(keeper, "the standby's keeper")
    arena.deliver(leader.guardian, "the leader")
    arena.prove("the keeper is told to start the child", lambda: standby.events("running"))
    arena.deliver(standby.guardian, "the standby")
    arena.prove("the keeper is told to stop it", lambda: standby.events("stopping"))
    arena.resume(keeper, "the standby's keeper")
    _gives_back(arena, standby)


def _asked_while_executing(*, killable: bool) -> Callable[[Arena], None]:
    """Have the execution of a standby's child hang, and end with the signal or not even so."""

    def play(arena: Arena) -> None:
        leader = arena.leader()
        with SlowExecutable(arena.directory, script_of(puppet_command())) as slow:
            arena.rally.proxied("b")
            standby = arena.rally.start("b", child=[str(slow.path)], wrapper=slow.wrapper)
            arena.proxy("b").wait_counter("watches_open", 1, timeout_s=60)
            slow.hang(killable=killable)
            arena.deliver(leader.guardian, "the leader")
            arena.prove("the child hangs in its execution", slow.waiting)
            arena.deliver(standby.guardian, "the standby")
            if not killable:
                arena.renewed("b", arena.timing.lease_s // arena.timing.retry_s)
                arena.require(
                    "who cannot be killed keeps the lock",
                    arena.rally.spec["holderIdentity"] == standby.identity,
                )
                arena.prove("it still hangs", slow.waiting)
                slow.go_on()
            _gives_back(arena, standby)

    return play


_PEERS: Final = (OURS, CLIENT_GO)

SCENARIOS: Final = (
    Scenario(
        "a renewal a minute late", GROUP, "one renewal is kept back for a minute, then lands",
        _one_renewal_late, after=After.KEPT,
    ),
    Scenario(
        "all renewals a minute late", GROUP,
        "all renewals are kept back; they land a minute later, when another leads",
        _all_renewals_late,
    ),
    Scenario(
        "renewals applied, replies lost", GROUP,
        "each renewal is applied and its reply is lost: the lease goes on, the child may not",
        _replies_lost, quick=True,
    ),
    Scenario(
        "a reply lost in silence", GROUP,
        "a renewal is applied, its reply never comes, the connection stays open",
        _reply_lost_silently, after=After.KEPT,
    ),
    Scenario(
        "acquisition applied, reply lost", GROUP,
        "a standby's acquisition is applied and its reply is lost",
        _acquisition_reply_lost, makes=_PEERS,
    ),
    Scenario(
        "acquisition late", GROUP,
        "a standby's acquisition is kept back and lands when another leads",
        _acquisition_late, makes=_PEERS,
    ),
    Scenario(
        "two renewals in a second", GROUP,
        "the leader renews twice within a second, then falls into a black hole beside a client-go"
        " rival, which compares whole seconds",
        _two_renewals_in_a_second, makes=(OURS,),
    ),
    Scenario(
        "renewal lands after deletion", GROUP,
        "a renewal is in flight while the Lease is deleted by hand",
        lambda arena: _late_after_deletion(arena, at_once=True),
        after=After.ANYTHING, makes=_PEERS,
    ),
    Scenario(
        "renewal lands long after deletion", GROUP,
        "a renewal lands when the Lease is deleted and the child is dead",
        lambda arena: _late_after_deletion(arena, at_once=False),
        after=After.ANYTHING, makes=_PEERS, quick=True,
    ),
    Scenario(
        "renewal lands after release", GROUP,
        "a renewal is in flight at SIGTERM, and lands when the lock is given back",
        _late_after_release, makes=_PEERS,
    ),
    Scenario(
        "release lands in the next life", GROUP,
        "a container is killed with its release in flight, which lands when the container has been"
        " restarted in its slot and leads again",
        _late_release_over_next_life, makes=(OURS,),
    ),
    Scenario(
        "elector stopped before its grant", GROUP,
        "the elector sleeps between the server's answer and the grant, not long enough to be"
        " taken for dead",
        _stopped_for_a_moment, after=After.ANYTHING, makes=(OURS,),
    ),
    *(
        Scenario(
            f"elector stopped before its grant for {seconds} s", GROUP,
            f"the elector sleeps for {seconds} s between the server's answer and the grant",
            _stopped_for(seconds), after=After.ANYTHING, makes=(OURS,),
        )
        for seconds in (12, 60)
    ),
    Scenario(
        "elector killed in mid-PUT", GROUP,
        "the elector is killed with a renewal in flight, which lands",
        _elector_killed_in_mid_put, after=After.KEPT, makes=(OURS,), quick=True,
    ),
    Scenario(
        "renewal after the stop signal", GROUP,
        "the network comes back when the child has been asked to stop for the want of renewals",
        _renewed_after_loss, makes=(OURS,),
    ),
    Scenario(
        "renewals while draining", GROUP,
        "after SIGTERM the child drains for one and a half leases, and the lease is renewed",
        _renewed_while_draining, makes=(OURS,),
    ),
    Scenario(
        "SIGTERM while acquiring", GROUP, "a standby is asked to stop, its acquisition in flight",
        _asked_while_acquiring, makes=(OURS,), gap_leases=_WITH_A_START,
    ),
    Scenario(
        "SIGTERM while creating", GROUP,
        "a candidate is asked to stop with the creation of the Lease in flight",
        _asked_while_creating, makes=(OURS,), gap_leases=_WITH_A_START,
    ),
    Scenario(
        "SIGTERM when granted", GROUP, "SIGTERM comes with the grant",
        _asked_when_granted, makes=(OURS,), gap_leases=_WITH_A_START, quick=True,
    ),
    Scenario(
        "SIGTERM before the fork", GROUP, "SIGTERM comes when the keeper has its order to start",
        _asked_when_told_to_go, makes=(OURS,), gap_leases=_WITH_A_START,
    ),
    Scenario(
        "SIGTERM in execve", GROUP, "SIGTERM comes while the executable's filesystem hangs",
        _asked_while_executing(killable=True), makes=(OURS,), gap_leases=_WITH_A_START,
    ),
    Scenario(
        "SIGTERM in execve, state D", GROUP,
        "the same, and for a lease not even SIGKILL ends what hangs",
        _asked_while_executing(killable=False), makes=(OURS,), gap_leases=_WITH_A_START,
    ),
)  # fmt: skip
