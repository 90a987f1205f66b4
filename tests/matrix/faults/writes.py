"""Requests at the wrong moment: too late, half known, and those that a signal finds in flight.

Each fault catches one request of one candidate at its proxy, and does there what a network, a
slow server or a paused process could have done to it. What the API server told the proxy of such a
request (`Request.upstream_status`) is the proof of whether it took effect.
"""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Final

from tests.matrix.model import WITH_CLIENT_GO, After, Fault
from tests.matrix.scenario import Invalid
from tests.support.candidate import child_command, in_pid_namespace, kill
from tests.support.competitors import CLIENT_GO, OURS, slot_of
from tests.support.controlplane import lease_path
from tests.support.proxy import Match
from tests.support.slowfs import SlowExecutable, script_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.matrix.scenario import Scenario
    from tests.support.candidate import Candidate
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


def _hold_one(scenario: Scenario) -> None:
    """Keep the leader's next renewal back."""
    scenario.network("a", lambda proxy: proxy.hold(_ONE_WRITE), "held")


def _let_go(scenario: Scenario, name: str = "a") -> list[Request]:
    """Let what is kept back of a candidate reach the API server, and nothing more be kept back."""
    proxy = scenario.proxy(name)
    numbers = {request.number for request in proxy.held()}
    proxy.pass_through()
    proxy.release_held()

    def answered() -> list[Request]:
        late = [request for request in proxy.requests() if request.number in numbers]
        return late if all(request.upstream_status for request in late) else []

    return scenario.prove("what was kept back has reached the API server", answered)


def _stays(scenario: Scenario, tree: Tree | None) -> None:
    """Require of a tree that it is still the only one when its leader has renewed again."""
    if tree is not None:
        scenario.renewed(tree.candidate)
        scenario.require("who leads now goes on", scenario.witness.running() == [tree])


def _elapse_s(scenario: Scenario, seconds: float) -> None:
    scenario.elapse(seconds / scenario.timing.lease_s)


# --- renewals that land late, or of which nothing is heard


def _one_renewal_late(scenario: Scenario) -> None:
    scenario.pair()
    _hold_one(scenario)
    _elapse_s(scenario, _MINUTE_S)
    late = _let_go(scenario)
    scenario.require("a late renewal is refused", late[0].upstream_status == _CONFLICT)
    scenario.ends_unless_renewed()


def _all_renewals_late(scenario: Scenario) -> None:
    scenario.pair(child=_STUBBORN)
    scenario.network("a", lambda proxy: proxy.hold(_WRITES), "held")
    scenario.ends()
    heir = scenario.successor()
    _elapse_s(scenario, _MINUTE_S)
    renewals = [r for r in _let_go(scenario) if r.at_ns < (scenario.tree.ended_ns or 0)]
    scenario.require(
        "late renewals are refused", all(r.upstream_status == _CONFLICT for r in renewals)
    )
    _stays(scenario, heir)


def _replies_lost(scenario: Scenario) -> None:
    scenario.pair(child=_STUBBORN)
    scenario.network("a", lambda proxy: proxy.lose_reply(_WRITES), "replies_lost")
    began = len(scenario.writes("a"))
    scenario.prove("the lease is renewed all the same", lambda: len(scenario.writes("a")) > began)
    scenario.require("who hears of no renewal stops", scenario.ends())
    heir = scenario.successor()
    scenario.proxy("a").pass_through()
    _stays(scenario, heir)


def _reply_lost_silently(scenario: Scenario) -> None:
    scenario.pair()
    scenario.network("a", lambda p: p.lose_reply(_ONE_WRITE, silently=True), "replies_lost")
    scenario.ends_unless_renewed()


def _acquisition_reply_lost(scenario: Scenario) -> None:
    leader = scenario.pair()
    proxy = scenario.proxy("b")
    proxy.lose_reply(_WRITES)
    scenario.deliver(scenario.wrapper_of(leader), "the leader")
    scenario.ends()
    scenario.prove(
        "an acquisition is applied and its reply is lost",
        lambda: any(
            request.upstream_status == _OK and request.at_ns > (scenario.tree.ended_ns or 0)
            for request in proxy.requests(_WRITES)
        ),
    )
    proxy.pass_through()
    _stays(scenario, scenario.successor())


def _acquisition_late(scenario: Scenario) -> None:
    """Keep a standby's acquisition back until another has led for a while."""
    leader = scenario.pair()
    proxy = scenario.proxy("b")
    proxy.hold(_WRITES)
    scenario.deliver(scenario.wrapper_of(leader), "the leader")
    scenario.ends()
    _prove_acquisition_held(scenario)
    scenario.start("c")
    heir = scenario.successor()
    scenario.renewed("c")
    _let_go(scenario, "b")
    _stays(scenario, heir)


def _prove_acquisition_held(scenario: Scenario) -> None:
    proxy = scenario.proxy("b")
    scenario.prove(
        "the acquisition is in flight",
        lambda: any(request.at_ns > (scenario.tree.ended_ns or 0) for request in proxy.held()),
    )


# --- two renewals within a second


def _two_renewals_in_a_second(scenario: Scenario) -> None:
    """Judge beside client-go, which takes two renewals of one whole second for one."""
    # As in a pod, where an elector is quick to start. The test child only notes that stop signal.
    scenario.candidates.proxied("a")
    leader = scenario.candidates.start_in_cluster("a", "--stop-signal=WINCH")
    (scenario.first,) = scenario.witness.wait_running(1, "a", timeout_s=60)
    scenario.standby(competitor=CLIENT_GO)
    apart_ns, version = 0, ""
    for _ in range(_TRIES):
        version = scenario.candidates.lease["metadata"]["resourceVersion"]
        apart_ns = _renew_at_once(scenario, leader)
        if apart_ns < _SECOND_NS:
            break
        # An elector that has lived for so long is followed without delay when it is killed.
        scenario.renewed("a", 1 + scenario.timing.renew_s // scenario.timing.retry_s)
    scenario.black_hole("a")
    scenario.facts["renewals_apart_s"] = apart_ns / 1e9
    scenario.prove("two renewals within a second", lambda: apart_ns < _SECOND_NS, timeout_s=0)
    times = _renew_times(scenario, version)[-2:]
    scenario.facts["renew_times"] = times
    scenario.require("they differ in whole seconds", times[0][:19] != times[1][:19])
    scenario.ends()
    scenario.successor()
    scenario.proxy("a").pass_through()


def _renew_at_once(scenario: Scenario, leader: Candidate) -> int:
    """Kill the elector after a renewal; return how long after that its successor's one was sent."""
    proxy = scenario.proxy("a")

    def renewals() -> list[int]:
        done = (r for r in proxy.requests(_WRITES) if r.status == _OK and r.replied_ns)
        return [request.forwarded_ns for request in done]

    elector = leader.elector
    before = len(renewals())
    scenario.prove("a renewal", lambda: len(renewals()) > before)
    kill(elector)
    before = len(renewals())
    scenario.prove("a renewal of another elector", lambda: len(renewals()) > before)
    earlier_ns, later_ns = renewals()[-2:]
    return later_ns - earlier_ns


def _renew_times(scenario: Scenario, version: str) -> list[str]:
    """Return the renewTime of each version of the Lease after one."""
    query = f"watch=1&resourceVersion={version}&timeoutSeconds=1"
    path = f"{lease_path(scenario.candidates.namespace)}?{query}"
    with scenario.plane.stream("GET", path) as response:
        events = [json.loads(line) for line in response.read().splitlines()]
    if not events or any(event["type"] not in {"ADDED", "MODIFIED"} for event in events):
        raise Invalid(f"the history of the Lease is not to be had: {events}")
    return [event["object"]["spec"]["renewTime"] for event in events]


# --- writes that meet a deletion, a release, another life


def _late_after_deletion(scenario: Scenario, *, at_once: bool) -> None:
    scenario.pair()
    uid = scenario.candidates.lease["metadata"]["uid"]
    _hold_one(scenario)
    scenario.candidates.delete()
    scenario.prove("the Lease is deleted", lambda: _uid(scenario) != uid)
    if not at_once:
        scenario.ends()
    late = _let_go(scenario)
    scenario.require("a late renewal creates no Lease", late[0].upstream_status == _CONFLICT)
    ended = scenario.ends_unless_renewed()
    scenario.require("the deletion ends the leadership", ended)
    if ended:
        scenario.successor()


def _uid(scenario: Scenario) -> str:
    lease = scenario.plane.lease(scenario.candidates.namespace, "x")
    return str(lease["metadata"]["uid"]) if lease else ""


def _late_after_release(scenario: Scenario) -> None:
    leader = scenario.pair()
    _hold_one(scenario)
    scenario.deliver(scenario.wrapper_of(leader), "the leader")
    code = scenario.exit_code(leader)
    scenario.require("its exit code is that of its child", code == _TERM_EXIT)
    heir = scenario.successor()
    late = _let_go(scenario)
    scenario.require("a renewal after the release is refused", late[0].upstream_status == _CONFLICT)
    _stays(scenario, heir)


def _late_release_over_next_life(scenario: Scenario) -> None:
    slot = slot_of(scenario.candidates.namespace)
    leader = scenario.leader(wrapper=in_pid_namespace(), env=slot)
    proxy = scenario.proxy("a")
    proxy.hold(_WRITES)
    scenario.deliver(leader.guardian, "the guardian")
    scenario.ends()
    scenario.prove(
        "the release is in flight",
        lambda: any(request.at_ns > (scenario.tree.ended_ns or 0) for request in proxy.held()),
    )
    scenario.kill(leader.guardian, "the container")
    restarted = scenario.start("c", wrapper=in_pid_namespace(), env=slot)
    heir = scenario.successor()
    if heir is None or restarted.identity != leader.identity:
        raise Invalid("the container did not come back in its slot")
    scenario.standby()
    late = _let_go(scenario)
    scenario.require(
        "the release of a former life is refused",
        all(request.upstream_status == _CONFLICT for request in late),
    )
    _stays(scenario, heir)


# --- an elector that is stopped or killed between two steps


def _elector_stopped_before_grant(scenario: Scenario, stopped_s: float) -> None:
    """Stop the elector when the server has renewed, and let it hear of it so much later."""
    leader = scenario.pair(child=_STUBBORN)
    proxy = scenario.proxy("a")
    # Not one that a standby's nomination made fail: it renews nothing.
    delay = Match(method="PUT", path="/leases/", upstream_status=_OK, times=1)
    scenario.network("a", lambda p: p.delay(_FOR_GOOD_S, match=delay), "delayed")
    elector = leader.elector
    scenario.stop(elector, "the elector")
    number = max(r.number for r in proxy.requests(_WRITES) if r.upstream_status == _OK)
    proxy.delay(0, match=delay)
    scenario.prove(
        "the reply has reached the elector's socket",
        lambda: any(r.number == number and r.replied_ns for r in proxy.requests(_WRITES)),
    )
    _elapse_s(scenario, stopped_s)
    scenario.resume(elector, "the elector")
    leading = scenario.came(
        lambda: next(iter(scenario.witness.running()), None), timeout_s=scenario.patience_s()
    )
    if leading:
        scenario.renewed(leading.candidate)


def _stopped_for(seconds: float) -> Callable[[Scenario], None]:
    return lambda scenario: _elector_stopped_before_grant(scenario, seconds)


def _stopped_for_a_moment(scenario: Scenario) -> None:
    # Shorter than what the guardian takes for dead: the grant comes, and is old.
    _elector_stopped_before_grant(scenario, scenario.timing.renew_s * 0.6)


def _elector_killed_in_mid_put(scenario: Scenario) -> None:
    leader = scenario.pair()
    spec = scenario.candidates.spec
    _hold_one(scenario)
    scenario.kill(leader.elector, "the elector")
    late = _let_go(scenario)
    scenario.facts["late_write"] = late[0].upstream_status
    scenario.renewed("a")
    now = scenario.candidates.spec
    scenario.require(
        "the leadership is the same",
        all(now[name] == spec[name] for name in ("acquireTime", "leaseTransitions")),
    )


# --- renewals after a stop signal


def _renewed_after_loss(scenario: Scenario) -> None:
    """Mend the leader's network as soon as its child has been asked to stop."""
    lease_s = scenario.timing.lease_s
    # An early stop signal leaves time for a renewal before the kill.
    scenario.pair(f"--renew-deadline={0.4 * lease_s:g}s", child=("--drain", str(lease_s)))
    scenario.black_hole("a")
    asked = scenario.prove("the child is asked to stop", lambda: _asked_ns(scenario, "a"))
    scenario.proxy("a").pass_through()
    scenario.prove(
        "a renewal while it drains",
        lambda: any(at_ns > asked for at_ns in scenario.writes("a")) and not scenario.tree.ended_ns,
    )
    scenario.require("stopping is irrevocable", scenario.ends())
    scenario.facts["drained_s"] = ((scenario.tree.ended_ns or asked) - asked) / 1e9
    scenario.require("it drains to its end", scenario.facts["drained_s"] > 0.9 * lease_s)
    scenario.successor()


def _asked_ns(scenario: Scenario, name: str) -> int:
    notes = scenario.witness.notes(name)
    return next((note.at_ns for note in notes if note.text == "signal TERM"), 0)


def _renewed_while_draining(scenario: Scenario) -> None:
    drain_s = 1.5 * scenario.timing.lease_s
    leader = scenario.pair(f"--stop-timeout={2 * drain_s:g}s", child=("--drain", str(drain_s)))
    scenario.deliver(leader.guardian, "the guardian")
    asked = scenario.prove("the child is asked to stop", lambda: _asked_ns(scenario, "a"))
    scenario.ends()
    ended = scenario.tree.ended_ns or asked
    renewals = [at_ns for at_ns in scenario.writes("a") if asked < at_ns < ended]
    scenario.facts["renewals_while_draining"] = len(renewals)
    scenario.require("it drains to its end", ended - asked > 0.9 * drain_s * _SECOND_NS)
    scenario.require(
        "it is renewed meanwhile", len(renewals) > drain_s / scenario.timing.retry_s / 2
    )
    scenario.require("it exits as its child did", scenario.exit_code(leader) == 0)
    scenario.successor()


# --- SIGTERM on the way from an acquisition to the child


def _gives_back(scenario: Scenario, asked: Candidate) -> None:
    """Require that nothing of a candidate is left and that it has given the lock back."""
    scenario.require("it exits with 143", scenario.exit_code(asked) == _TERM_EXIT)
    scenario.require("it gives the lock back", scenario.candidates.spec["holderIdentity"] == "")
    scenario.require("no child of it is left", not scenario.witness.running(asked.name))
    scenario.facts["children_started"] = len(scenario.witness.trees(asked.name))
    scenario.mended()  # nobody else was there to lead
    scenario.start("c")
    scenario.successor()


def _asked_while_acquiring(scenario: Scenario) -> None:
    leader, standby = scenario.leader(), scenario.standby()
    scenario.proxy("b").hold(_WRITES)
    scenario.deliver(leader.guardian, "the leader")
    scenario.ends()
    _stop_in_flight(scenario, standby, _OK)


def _asked_while_creating(scenario: Scenario) -> None:
    leader = scenario.leader()
    scenario.deliver(leader.guardian, "the leader")
    scenario.exit_code(leader)
    scenario.candidates.delete()
    scenario.proxy("b").hold(_CREATION)
    _stop_in_flight(scenario, scenario.start("b"), _CREATED)


def _stop_in_flight(scenario: Scenario, standby: Candidate, landed: int) -> None:
    _prove_acquisition_held(scenario)
    scenario.deliver(standby.guardian, "the standby")
    late = _let_go(scenario, "b")
    scenario.prove("the acquisition lands", lambda: late[-1].upstream_status == landed, timeout_s=0)
    _gives_back(scenario, standby)
    scenario.require("no child was started", not scenario.witness.trees("b"))


def _asked_when_granted(scenario: Scenario) -> None:
    leader, standby = scenario.leader(), scenario.standby()
    guardian = standby.guardian
    scenario.stop(guardian, "the standby's guardian")
    scenario.deliver(leader.guardian, "the leader")
    scenario.prove("the standby's elector acquires", lambda: standby.events("became leader"))
    os.kill(guardian, signal.SIGTERM)
    scenario.resume(guardian, "the standby's guardian")
    _gives_back(scenario, standby)
    scenario.require("no child was started", not scenario.witness.trees("b"))


def _asked_when_told_to_go(scenario: Scenario) -> None:
    leader, standby = scenario.leader(), scenario.standby()
    keeper = standby.keeper
    scenario.stop(keeper, "the standby's keeper")
    scenario.deliver(leader.guardian, "the leader")
    scenario.prove("the keeper is told to start the child", lambda: standby.events("running"))
    scenario.deliver(standby.guardian, "the standby")
    scenario.prove("the keeper is told to stop it", lambda: standby.events("stopping"))
    scenario.resume(keeper, "the standby's keeper")
    _gives_back(scenario, standby)


def _asked_while_executing(*, killable: bool) -> Callable[[Scenario], None]:
    """Have the execution of a standby's child hang, and end with the signal or not even so."""

    def play(scenario: Scenario) -> None:
        leader = scenario.leader()
        with SlowExecutable(scenario.directory, script_of(child_command())) as slow:
            scenario.candidates.proxied("b")
            standby = scenario.candidates.start("b", child=[str(slow.path)], wrapper=slow.wrapper)
            scenario.proxy("b").wait_counter("watches_open", 1, timeout_s=60)
            slow.hang(killable=killable)
            scenario.deliver(leader.guardian, "the leader")
            scenario.prove("the child hangs in its execution", slow.waiting)
            scenario.deliver(standby.guardian, "the standby")
            if not killable:
                scenario.renewed("b", scenario.timing.lease_s // scenario.timing.retry_s)
                scenario.require(
                    "who cannot be killed keeps the lock",
                    scenario.candidates.spec["holderIdentity"] == standby.identity,
                )
                scenario.prove("it still hangs", slow.waiting)
                slow.go_on()
            _gives_back(scenario, standby)

    return play


FAULTS: Final = (
    Fault(
        "a renewal a minute late", GROUP, "one renewal is kept back for a minute, then lands",
        _one_renewal_late, after=After.KEPT,
    ),
    Fault(
        "all renewals a minute late", GROUP,
        "all renewals are kept back; they land a minute later, when another leads",
        _all_renewals_late,
    ),
    Fault(
        "renewals applied, replies lost", GROUP,
        "each renewal is applied and its reply is lost: the lease goes on, the child may not",
        _replies_lost, quick=True,
    ),
    Fault(
        "a reply lost in silence", GROUP,
        "a renewal is applied, its reply never comes, the connection stays open",
        _reply_lost_silently, after=After.KEPT,
    ),
    Fault(
        "acquisition applied, reply lost", GROUP,
        "a standby's acquisition is applied and its reply is lost",
        _acquisition_reply_lost, competitors=WITH_CLIENT_GO,
    ),
    Fault(
        "acquisition late", GROUP,
        "a standby's acquisition is kept back and lands when another leads",
        _acquisition_late, competitors=WITH_CLIENT_GO,
    ),
    Fault(
        "two renewals in a second", GROUP,
        "the leader renews twice within a second, then falls into a black hole beside"
        " client-go, which compares whole seconds",
        _two_renewals_in_a_second, competitors=(OURS,),
    ),
    Fault(
        "renewal lands after deletion", GROUP,
        "a renewal is in flight while the Lease is deleted by hand",
        lambda scenario: _late_after_deletion(scenario, at_once=True),
        after=After.ANYTHING, competitors=WITH_CLIENT_GO,
    ),
    Fault(
        "renewal lands long after deletion", GROUP,
        "a renewal lands when the Lease is deleted and the child is dead",
        lambda scenario: _late_after_deletion(scenario, at_once=False),
        after=After.ANYTHING, competitors=WITH_CLIENT_GO, quick=True,
    ),
    Fault(
        "renewal lands after release", GROUP,
        "a renewal is in flight at SIGTERM, and lands when the lock is given back",
        _late_after_release, competitors=WITH_CLIENT_GO,
    ),
    Fault(
        "release lands in the next life", GROUP,
        "a container is killed with its release in flight, which lands when the container has been"
        " restarted in its slot and leads again",
        _late_release_over_next_life, competitors=(OURS,),
    ),
    Fault(
        "elector stopped before its grant", GROUP,
        "the elector sleeps between the server's answer and the grant, not long enough to be"
        " taken for dead",
        _stopped_for_a_moment, after=After.ANYTHING, competitors=(OURS,),
    ),
    *(
        Fault(
            f"elector stopped before its grant for {seconds} s", GROUP,
            f"the elector sleeps for {seconds} s between the server's answer and the grant",
            _stopped_for(seconds), after=After.ANYTHING, competitors=(OURS,),
        )
        for seconds in (12, 60)
    ),
    Fault(
        "elector killed in mid-PUT", GROUP,
        "the elector is killed with a renewal in flight, which lands",
        _elector_killed_in_mid_put, after=After.KEPT, competitors=(OURS,), quick=True,
    ),
    Fault(
        "renewal after the stop signal", GROUP,
        "the network comes back when the child has been asked to stop for the want of renewals",
        _renewed_after_loss, competitors=(OURS,),
    ),
    Fault(
        "renewals while draining", GROUP,
        "after SIGTERM the child drains for one and a half leases, and the lease is renewed",
        _renewed_while_draining, competitors=(OURS,),
    ),
    Fault(
        "SIGTERM while acquiring", GROUP, "a standby is asked to stop, its acquisition in flight",
        _asked_while_acquiring, competitors=(OURS,), gap_leases=_WITH_A_START,
    ),
    Fault(
        "SIGTERM while creating", GROUP,
        "a candidate is asked to stop with the creation of the Lease in flight",
        _asked_while_creating, competitors=(OURS,), gap_leases=_WITH_A_START,
    ),
    Fault(
        "SIGTERM when granted", GROUP, "SIGTERM comes with the grant",
        _asked_when_granted, competitors=(OURS,), gap_leases=_WITH_A_START, quick=True,
    ),
    Fault(
        "SIGTERM before the fork", GROUP, "SIGTERM comes when the keeper has its order to start",
        _asked_when_told_to_go, competitors=(OURS,), gap_leases=_WITH_A_START,
    ),
    Fault(
        "SIGTERM in execve", GROUP, "SIGTERM comes while the executable's filesystem hangs",
        _asked_while_executing(killable=True), competitors=(OURS,), gap_leases=_WITH_A_START,
    ),
    Fault(
        "SIGTERM in execve, state D", GROUP,
        "the same, and for a lease not even SIGKILL ends what hangs",
        _asked_while_executing(killable=False), competitors=(OURS,), gap_leases=_WITH_A_START,
    ),
)  # fmt: skip
