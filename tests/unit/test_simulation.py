"""Proves exclusivity in virtual time: random schedules of faults, and faults that Hypothesis picks.

Owns the seeds, how many there are, and the mutants: for each line of the cores that keeps trees
apart there is one without that line, and the same schedules must find an overlap in it.

To run one schedule again, with a trace of what happened, set LEADEREXEC_SEED to the number that the
failure printed (and -k to the test that failed). LEADEREXEC_SCHEDULES multiplies their number.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from leaderexec import election, tenure
from leaderexec.election import Election
from leaderexec.model import SECOND_NS, Grant, Record, Snapshot, Timing
from leaderexec.tenure import Tenure
from tests.support.clusters import CLUSTERS, LONG, SLOTS, TWINS
from tests.support.simulation import (
    DEFAULT,
    INT,
    MS,
    OLD,
    SHORT,
    TERM,
    TRAITS_OF_2016,
    Candidate,
    Host,
    Network,
    Setup,
    Verdict,
    World,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("unmeasured")

_SEED: Final = os.environ.get("LEADEREXEC_SEED")
_TIMES: Final = int(os.environ.get("LEADEREXEC_SCHEDULES", "1"))


def _seeds(count: int) -> Iterator[int]:
    yield from [int(_SEED)] if _SEED else range(count * _TIMES)


def _play(seed: int, setup: Setup) -> Verdict:
    """Run one schedule; name its seed in whatever it raises."""
    world = World(seed, setup, trace=bool(_SEED))
    try:
        world.run()
    except Exception as error:
        raise AssertionError(f"LEADEREXEC_SEED={seed}: {type(error).__name__}: {error}") from error
    finally:
        for line in world.trace or ():
            print(line)
    return world.verdict


# --- the promise -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_no_two_trees_overlap_and_none_is_released_while_it_lives(cluster: str) -> None:
    """Under every drawn fault one tree at most lives, and calm brings exactly one leader back."""
    setup, count = CLUSTERS[cluster]
    trees = named = 0
    for seed in _seeds(count):
        verdict = _play(seed, setup)
        if verdict.overlaps or verdict.early_releases:
            pytest.fail(f"LEADEREXEC_SEED={seed}: {verdict.overlaps} {verdict.early_releases}")
        trees += verdict.trees
        named += verdict.named
    assert _SEED or trees > 3 * count, "hardly anything ran: nothing was tested"
    # Those that share one id have no line: whoever is next would have the leader's own name.
    lines_up = setup.line and setup.verbatim < 1
    assert _SEED or (named > count if lines_up else named == 0), "nobody, or somebody, was in line"


def test_one_seed_is_one_schedule() -> None:
    """The same seed gives the same schedule, event for event, so that a failure can be replayed."""
    traces = []
    for _ in range(2):
        world = World(7, Setup(fault_every_ns=2 * SECOND_NS), trace=True)
        world.run()
        traces.append(world.trace)
    assert traces[0] == traces[1]


@pytest.mark.parametrize("put_creates", [False, True])
def test_a_lock_taken_over_by_hand_is_noticed_before_it_is_free(put_creates: bool) -> None:
    """Where a person writes another holder into the lock, our candidates still do not overlap."""

    class Patched(World):
        def meddle(self, how: int) -> None:  # noqa: ARG002 - this cluster knows one kind only
            super().meddle(1)

    for seed in _seeds(60):
        world = Patched(seed, Setup(hands=True, put_creates=put_creates))
        world.run()
        assert not world.verdict.overlaps, f"LEADEREXEC_SEED={seed}"


def test_people_who_edit_the_lock_never_break_the_machines() -> None:
    """Deleted, blanked, patched, relabelled: no core contradicts itself, and somebody leads again.

    Overlaps are possible there and named among the non-guarantees; giving back early is not.
    """
    for seed in _seeds(120):
        verdict = _play(seed, Setup(hands=True, put_creates=seed % 2 == 0, verbatim=seed % 3 / 2))
        assert not verdict.early_releases, f"LEADEREXEC_SEED={seed}"


# --- liveness --------------------------------------------------------------------------------


def _quiet(seed: int, **changes: Any) -> World:
    """Return a cluster without faults of which one candidate already leads."""
    world = World(seed, Setup(voluntary=False, **changes))
    world.calm = True
    world.advance(3 * SECOND_NS)
    assert world.leads() is not None
    return world


def test_a_leader_that_is_asked_to_stop_is_followed_at_once() -> None:
    """After a requested stop the next tree starts within a fraction of a second of the last's end.

    Standbys watch: nobody waits for a poll or for the lease.
    """
    for seed in _seeds(20):
        world = _quiet(seed, timing=DEFAULT, pid1=0.0)
        leader = world.leads()
        assert leader is not None
        world.ask_to_stop(leader.host, TERM)
        while leader in world.living:
            world.advance(10 * MS)
        world.advance(200 * MS)
        successor = world.leads()
        assert successor is not None, f"LEADEREXEC_SEED={seed}"
        assert successor is not leader


def test_whoever_is_next_in_line_follows() -> None:
    """After a requested stop the standby that has named itself is the one that leads."""
    for seed in _seeds(20):
        world = _quiet(seed, timing=DEFAULT, pid1=0.0, stop_timeouts_s=(1,))
        leader = world.leads()
        assert leader is not None
        world.advance(5 * DEFAULT.retry_period_ns)
        assert world.server.newest is not None
        named = world.server.newest.successor
        assert named not in {None, "", leader.identity}, f"LEADEREXEC_SEED={seed}"
        world.ask_to_stop(leader.host, TERM)
        while leader in world.living:
            world.advance(10 * MS)
        world.advance(200 * MS)
        successor = world.leads()
        assert successor is not None, f"LEADEREXEC_SEED={seed}"
        assert successor.identity == named


@pytest.mark.parametrize("stop", [True, False], ids=["released", "expired"])
def test_a_line_of_the_dead_costs_the_courtesy_and_no_more(stop: bool) -> None:
    """Where the one that is next in line is long dead, another follows after the courtesy."""
    for seed in _seeds(20):
        world = _quiet(seed, timing=DEFAULT, pid1=1.0, stop_timeouts_s=(1,), skew_ppm=0)
        leader = world.leads()
        assert leader is not None
        world.server.name("nobody that lives")
        world.advance(2 * DEFAULT.retry_period_ns)
        if stop:
            world.ask_to_stop(leader.host, TERM)
            while leader in world.living:
                world.advance(10 * MS)
        else:
            world.setup = replace(world.setup, restarts=False)
            leader.kill_guardian()
            world.advance(DEFAULT.lease_duration_ns)
        world.advance(200 * MS + election._COURTESY_NS + election._COURTESY_SPREAD_NS)
        assert world.leads() not in {None, leader}, f"LEADEREXEC_SEED={seed}"


def test_a_container_that_was_killed_takes_its_own_lease_back() -> None:
    """In its slot a container leads again long before its former life's lease has run out."""
    for seed in _seeds(20):
        world = _quiet(seed, timing=DEFAULT, pid1=1.0, restart_ns=SECOND_NS // 2)
        leader = world.leads()
        assert leader is not None
        world.kill(leader.host, "guardian")
        assert not world.living
        world.advance(2 * SECOND_NS)
        again = world.leads()
        assert again is not None, f"LEADEREXEC_SEED={seed}"
        assert again.host is leader.host
        assert again is not leader


def test_an_elector_killed_again_and_again_costs_the_child_nothing() -> None:
    """Ten electors killed over some leases: the same tree runs throughout."""
    world = _quiet(1, timing=DEFAULT)
    leader = world.leads()
    assert leader is not None
    for _ in range(10):
        world.kill(leader.host, "elector")
        world.advance(4500 * MS)
    assert world.leads() is leader
    assert world.verdict.trees == 1


def test_labels_that_change_do_not_keep_a_dead_leaders_lease_alive() -> None:
    """A dead leader is followed after one lease although somebody labels the lock all the time."""
    world = _quiet(2, pid1=1.0)
    leader = world.leads()
    assert leader is not None
    leader.kill_guardian()
    for _ in range(2 * (SHORT.lease_duration_s + 1)):
        world.advance(SECOND_NS // 2)
        world.server.touch()
    assert world.leads() not in {None, leader}


def test_a_silently_dead_watch_costs_no_more_than_a_lease() -> None:
    """Standbys whose watches say nothing any more follow a released lock within its duration."""
    world = _quiet(3, timing=DEFAULT)
    leader = world.leads()
    assert leader is not None
    for host in world.hosts:
        world.break_watch(host, orderly=False)
    world.ask_to_stop(leader.host, TERM)
    while leader in world.living:
        world.advance(10 * MS)
    world.advance(DEFAULT.lease_duration_ns + 2 * SECOND_NS)
    assert world.leads() not in {None, leader}


def test_a_standby_whose_elector_hangs_gets_another() -> None:
    """An elector that was stopped for good while standing by is killed and replaced."""
    world = _quiet(4, pid1=0.0)
    standby = next(h for h in world.hosts if h.candidate is not world.leads())
    world.pause(standby, "elector", None)
    world.advance(5 * SHORT.silence_bound_ns)
    elector = standby.candidate.elector
    assert elector is not None
    assert not elector.paused


# --- Hypothesis decides ----------------------------------------------------------------------

_HOSTS: Final = st.integers(0, 4)
_ROLES: Final = st.sampled_from(("guardian", "elector", "keeper"))
_TIMES_NS: Final = st.integers(0, 12 * SHORT.lease_duration_s).map(lambda n: n * SECOND_NS // 4)
_SETUPS: Final = st.sampled_from(
    (
        Setup(),
        Setup(verbatim=1.0),
        Setup(pid1=1.0, restart_ns=SECOND_NS // 2),
        Setup(sidecars=1.0, line=False),
        Setup(verbatim=1.0, wall_spread_us=0, traits=TRAITS_OF_2016),
    )
)


class Cluster(RuleBasedStateMachine):
    """Faults in an order that Hypothesis chooses, and makes smaller when it finds an overlap."""

    world: World

    @initialize(seed=st.integers(0, 2**16), setup=_SETUPS)
    def begin(self, seed: int, setup: Setup | None = None) -> None:
        self.world = World(seed, setup or Setup())
        self.world.advance(2 * SECOND_NS)

    @rule(for_ns=_TIMES_NS)
    def wait(self, for_ns: int) -> None:
        self.world.advance(for_ns)

    @rule(host=_HOSTS, role=_ROLES, for_ns=st.none() | _TIMES_NS)
    def stop_process(self, host: int, role: str, for_ns: int | None) -> None:
        self.world.pause(self.world.hosts[host], role, for_ns)

    @rule(host=_HOSTS, role=_ROLES)
    def kill_process(self, host: int, role: str) -> None:
        self.world.kill(self.world.hosts[host], role)

    @precondition(lambda self: self.world.living)
    @rule(role=_ROLES, for_ns=_TIMES_NS)
    def stop_process_of_the_leader(self, role: str, for_ns: int) -> None:
        self.world.pause(next(iter(self.world.living)).host, role, for_ns)

    @precondition(lambda self: self.world.living)
    @rule(mode=st.sampled_from(Network.MODES), for_ns=_TIMES_NS)
    def disturb_the_leader(self, mode: str, for_ns: int) -> None:
        self.world.disturb_network(next(iter(self.world.living)).host, mode, for_ns)

    @rule(host=_HOSTS, mode=st.sampled_from(Network.MODES), for_ns=_TIMES_NS)
    def disturb_network(self, host: int, mode: str, for_ns: int) -> None:
        self.world.disturb_network(self.world.hosts[host], mode, for_ns)

    @rule(mode=st.sampled_from(Network.MODES), for_ns=_TIMES_NS)
    def disturb_all_networks(self, mode: str, for_ns: int) -> None:
        for host in self.world.hosts:
            self.world.disturb_network(host, mode, for_ns)

    @rule(host=_HOSTS, for_ns=_TIMES_NS)
    def starve(self, host: int, for_ns: int) -> None:
        self.world.starve(self.world.hosts[host], for_ns)

    @rule(host=_HOSTS, by_s=st.sampled_from((-3600, -1, 1, 3600)))
    def set_wall_clock(self, host: int, by_s: int) -> None:
        self.world.set_wall_clock(self.world.hosts[host], by_s)

    @rule(host=_HOSTS, orderly=st.booleans())
    def break_watch(self, host: int, orderly: bool) -> None:
        self.world.break_watch(self.world.hosts[host], orderly=orderly)

    @rule(host=_HOSTS, signum=st.sampled_from((TERM, INT)))
    def ask_to_stop(self, host: int, signum: int) -> None:
        self.world.ask_to_stop(self.world.hosts[host], signum)

    @rule()
    def change_a_label(self) -> None:
        self.world.server.touch()

    @rule()
    def put_somebody_dead_in_line(self) -> None:
        self.world.server.name("nobody that lives")

    @invariant()
    def never_two_trees(self) -> None:
        if hasattr(self, "world"):
            self.world.verdict.assert_safe()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle()
            self.world.verdict.assert_safe()


_SETTINGS: Final = settings(
    max_examples=150 * _TIMES,
    stateful_step_count=30,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.slow
def test_no_order_of_faults_that_hypothesis_tries_makes_two_trees_overlap() -> None:
    """Hypothesis looks for an order of faults, and makes a failing one small; calm follows each."""
    run_state_machine_as_test(Cluster, settings=_SETTINGS)


# --- mutants: each safety line is missed when it is gone ----------------------------------------


def _finds_an_overlap(setup: Setup, count: int) -> bool:
    """Whether the schedules of the suite find two trees at once in this (broken) cluster."""
    return any(bool(World(seed, setup).storm().overlaps) for seed in range(count))


def test_without_the_margin_trees_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The margin pays for the time that killing takes and for clocks that run at other rates."""
    monkeypatch.setattr(Timing, "margin_ns", 0)
    assert _finds_an_overlap(Setup(), 100)


def test_with_a_margin_for_skew_alone_trees_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """One percent pays for the rates of clocks; killing and starvation need the two seconds."""
    monkeypatch.setattr(Timing, "margin_ns", SHORT.lease_duration_ns // 100)
    assert _finds_an_overlap(Setup(fault_every_ns=2 * SECOND_NS), 150)


def _leaders_cut_off(timing: Timing) -> bool:
    """Cut leaders off whose trees ignore the stop signal; say whether a successor met one."""
    for seed in range(40):
        world = World(seed, Setup(timing=timing, voluntary=False, stop_timeouts_s=(3600,)))
        for host in world.hosts:
            host.drain_ns = -1
        world.advance(3 * SECOND_NS)
        leader = world.leads()
        assert leader is not None
        world.disturb_network(leader.host, "hole", 2 * timing.lease_duration_ns)
        world.advance(timing.lease_duration_ns + 30 * SECOND_NS)
        if world.verdict.overlaps:
            return True
    return False


def test_without_the_hundredth_clock_rates_make_trees_overlap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a long lease the rates of clocks alone use up a margin that does not grow with it."""
    timing = Timing(600, 100 * SECOND_NS, 20 * SECOND_NS)
    assert not _leaders_cut_off(timing)
    monkeypatch.setattr(Timing, "margin_ns", 2 * SECOND_NS)
    assert _leaders_cut_off(timing)


def _slow_leader_beside_fast_standbys(seed: int, timing: Timing, skew_ppm: int) -> Verdict:
    """Cut off a leader whose clock is slow, and its tree stubborn, where all others are fast."""
    setup = Setup(timing=timing, voluntary=False, stop_timeouts_s=(3600,), skew_ppm=0)
    world = World(seed, setup)
    slow, *fast = world.hosts
    slow.clocks._ppm = -skew_ppm  # at this instant every clock shows its offset
    for host in fast:
        host.clocks._ppm = skew_ppm
        world.disturb_network(host, "hole", 3 * SECOND_NS)  # the slow one is to lead
    for host in world.hosts:
        host.drain_ns = -1
    world.advance(timing.call_timeout_ns + 3 * timing.retry_period_ns + 5 * SECOND_NS)
    assert world.leads() is slow.candidate, f"LEADEREXEC_SEED={seed}"
    world.disturb_network(slow, "hole", 3 * timing.lease_duration_ns)
    world.advance(2 * timing.lease_duration_ns)
    successor = world.leads()
    assert successor is not None, f"LEADEREXEC_SEED={seed}"
    assert successor.host in fast, "nothing was tested"
    return world.verdict


#: Half a percent in each direction makes the one percent of the margin.
_PROMISED_PPM: Final = 5000

_EVERY_LEASE: Final = pytest.mark.parametrize(
    "timing",
    [
        DEFAULT,
        Timing(60, 20 * SECOND_NS, 5 * SECOND_NS),
        Timing(3600, 600 * SECOND_NS, SECOND_NS * 20),
    ],
    ids=lambda timing: f"{timing.lease_duration_s}s",
)


@_EVERY_LEASE
def test_clock_rates_within_the_promise_keep_trees_apart(timing: Timing) -> None:
    """One percent between the clocks, all of it against us, is paid for in leases of any length."""
    for seed in _seeds(15):
        verdict = _slow_leader_beside_fast_standbys(seed, timing, _PROMISED_PPM)
        assert not verdict.overlaps, f"LEADEREXEC_SEED={seed}"


@_EVERY_LEASE
def test_clock_rates_beyond_the_margin_make_trees_overlap(timing: Timing) -> None:
    """A non-guarantee, and proof that the test before could fail: skew may use up the margin.

    Then the fast clock shows the end of the lease before the slow one shows the time to kill.
    """
    margin_ns = timing.margin_ns
    used_up_ppm = 1_000_000 * margin_ns // (2 * timing.lease_duration_ns - margin_ns)
    assert used_up_ppm > _PROMISED_PPM
    for seed in _seeds(15):
        verdict = _slow_leader_beside_fast_standbys(seed, timing, used_up_ppm * 3 // 2)
        assert verdict.overlaps, f"LEADEREXEC_SEED={seed}"


class _StampsAtTheReply(Election):
    """Counts a renewal from when its reply came."""

    def _count(self, call: election._Call, record: Record) -> None:
        super()._count(replace(call, sent_ns=self._now.boot_ns), record)


def test_with_stamps_taken_at_the_reply_trees_overlap() -> None:
    """The server may have renewed long before its reply arrives."""
    assert _finds_an_overlap(replace(LONG, elections=_StampsAtTheReply), 400)


class _RarelyLater(Election):
    """Writes a renewTime that changes once a minute, as if the wall clock stood still."""

    def _next_write_us(self) -> int:
        return self._now.wall_us // 60_000_000 * 60_000_000


class _CountsTheUnchanged(_RarelyLater):
    """Counts a renewal that left the object's version as it was."""

    def _wrote_renewal(self, call: election._Call, snapshot: Snapshot | None) -> None:
        assert call.seen is not None
        super()._wrote_renewal(replace(call, seen=replace(call.seen, version="another")), snapshot)


def test_counting_what_did_not_change_trees_overlap() -> None:
    """An identical write is answered 200 and renews nothing in the eyes of the others."""
    assert _finds_an_overlap(Setup(coarse=True, elections=_CountsTheUnchanged), 10)


def test_not_counting_what_did_not_change_keeps_trees_apart() -> None:
    """With that rule alone, on a wall clock that stands still, nobody leads for long, but alone."""
    for seed in range(3):
        world = World(seed, Setup(coarse=True, elections=_RarelyLater, duration_ns=20 * SECOND_NS))
        world.advance(20 * SECOND_NS)
        world.verdict.assert_safe()


class _TrustsAnyObject(Election):
    """Leads on a write that turned out to create another object."""

    def _wrote_acquisition(self, call: election._Call, snapshot: Snapshot | None) -> None:
        assert snapshot is not None
        seen = None if call.seen is None else replace(call.seen, uid=snapshot.uid)
        super()._wrote_acquisition(replace(call, seen=seen), snapshot)


def _deleted_just_before_a_try(before_ns: int, elections: type[Election]) -> Verdict:
    """Delete the lock just before a standby whose watch is dead would take it for expired."""
    world = _quiet(5, put_creates=True, elections=elections)
    for host in world.hosts:
        world.break_watch(host, orderly=False)
    world.advance(SHORT.lease_duration_ns - before_ns)
    world.server.delete()
    world.advance(SHORT.lease_duration_ns)
    return world.verdict


def test_leading_on_an_object_that_the_write_created_trees_overlap() -> None:
    """A PUT that creates what was deleted says nothing about who still runs under the old one."""
    before = range(0, 2 * SECOND_NS, 20 * MS)
    assert any(_deleted_just_before_a_try(ns, _TrustsAnyObject).overlaps for ns in before)


def test_not_leading_on_an_object_that_the_write_created_keeps_trees_apart() -> None:
    """Whoever created the object by mistake keeps everybody away until the old one has expired."""
    before = range(0, 2 * SECOND_NS, 20 * MS)
    assert not any(_deleted_just_before_a_try(ns, Election).overlaps for ns in before)


class _ReleasesTooEarly(Tenure):
    """Gives the lock back when it asks the tree to stop."""

    def _stop(self, cause: tenure.Cause, **fields: Any) -> None:
        super()._stop(cause, **fields)
        assert self.grant is not None
        self._effects.append(tenure.AskRelease(self.grant.token, retire=False))


def test_released_before_the_tree_is_gone_trees_overlap() -> None:
    """A tree that drains while the lock is free meets its successor."""
    assert _finds_an_overlap(Setup(tenures=_ReleasesTooEarly), 30)


class _TrustsNames(Election):
    """Takes a record for its own by the holder's name alone."""

    def _mine(self, record: Record) -> bool:
        return record.holder == self.identity


def test_a_record_known_by_its_name_alone_lets_trees_overlap() -> None:
    """Where an id is used twice, the name says nothing about who holds the lock."""
    assert _finds_an_overlap(Setup(verbatim=1.0, elections=_TrustsNames), 10)


class _NeverDoubts(Election):
    """Knows a write of unknown fate by its claim, where two write the same within a second."""

    def _doubt_claim(self) -> None:
        pass


def test_known_by_a_claim_of_whole_seconds_lets_trees_overlap() -> None:
    """Twins under one id that try in the same second write the same record: it tells not whose."""
    assert _finds_an_overlap(replace(TWINS, elections=_NeverDoubts), 40)


def _back_under_its_name(host: Host) -> Candidate:
    host._lives += 1
    return Candidate(host, f"{host.name}.{host._lives}", host.name, unique=True, slot=True)


def test_a_name_that_comes_back_before_its_tree_is_dead_lets_trees_overlap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only with PID 1 the tree of the former life is provably dead: off it, the slot is no name."""
    monkeypatch.setattr(Host, "_new_candidate", _back_under_its_name)
    assert _finds_an_overlap(replace(SLOTS, pid1=0.0), 20)


class _JudgesByItsOwn(Election):
    """A candidate of 2016: takes a lock that has not changed for as long as it was told itself."""

    def _expiry_ns(self, record: Record) -> int:  # noqa: ARG002 - that is what it gets wrong
        return self._stamp_ns + self._timing.lease_duration_ns


class _LearnsNothing(Election):
    """Does not heed the durations that others write."""

    def _learn_duration(self, record: Record) -> None:
        pass


def _cut_off_beside_a_short_peer(seed: int, elections: type[Election]) -> Verdict:
    """Let a peer lead whose lease is shorter, then one of ours, and cut that one off."""
    setup = Setup(
        candidates=0,
        timing=OLD,
        traits=TRAITS_OF_2016,
        voluntary=False,
        pid1=0.0,
        stop_timeouts_s=(3600,),
        on_losses=(tenure.OnLoss.STANDBY,),
        restart_ns=SECOND_NS,
    )
    world = World(seed, setup)
    peer = world.add_host("peer", Timing(8, 4 * SECOND_NS, 2 * SECOND_NS), _JudgesByItsOwn)
    peer.drain_ns = 0
    world.advance(3 * SECOND_NS)
    for number in range(2):
        world.add_host(f"ours{number}", elections=elections).drain_ns = -1
    world.advance(3 * SECOND_NS)
    world.ask_to_stop(peer, TERM)
    world.advance(4 * SECOND_NS)
    leader = world.leads()
    assert leader is not None, f"LEADEREXEC_SEED={seed}"
    assert leader.host is not peer, f"LEADEREXEC_SEED={seed}"
    world.disturb_network(leader.host, "hole", 60 * SECOND_NS)
    world.advance(20 * SECOND_NS)
    assert world.leads() not in {None, leader}, f"LEADEREXEC_SEED={seed}"
    return world.verdict


def test_without_heeding_shorter_durations_trees_overlap() -> None:
    """A peer that judges by its own, shorter duration takes the lock before ours has run out."""
    assert any(_cut_off_beside_a_short_peer(seed, _LearnsNothing).overlaps for seed in range(20))


def test_heeding_shorter_durations_keeps_trees_apart() -> None:
    """What such a peer once wrote bounds the grants: our tree is dead when the peer takes over."""
    for seed in _seeds(60):
        _cut_off_beside_a_short_peer(seed, Election).assert_safe()


class _ClaimsForLonger(Tenure):
    """Takes a grant for younger than it is."""

    def _granted(self, grant: Grant) -> None:
        super()._granted(replace(grant, renewed_at_ns=grant.renewed_at_ns + 5 * SECOND_NS,
                                 expires_at_ns=grant.expires_at_ns + 5 * SECOND_NS))  # fmt: skip


def test_a_sidecar_that_says_for_too_long_that_it_leads_meets_its_successor() -> None:
    """Without a child it is the answer that must end in time."""
    assert _finds_an_overlap(Setup(sidecars=1.0, tenures=_ClaimsForLonger), 20)


class _ExtendsGrants(Tenure):
    """Takes a grant for longer than it is."""

    def _granted(self, grant: Grant) -> None:
        moved = replace(grant, expires_at_ns=grant.expires_at_ns + 5 * SECOND_NS)
        super()._granted(moved)


def test_a_grant_taken_for_longer_than_it_is_lets_trees_overlap() -> None:
    """A grant is absolute: five seconds more are somebody else's."""
    assert _finds_an_overlap(Setup(tenures=_ExtendsGrants), 60)


def test_a_mutant_is_found_by_hypothesis_too() -> None:
    """The state machine is no weaker than the seeds: it finds the release that comes too early."""

    class Broken(Cluster):
        @initialize(seed=st.integers(0, 2**16))
        def begin(self, seed: int) -> None:
            self.world = World(seed, Setup(tenures=_ReleasesTooEarly))
            self.world.advance(2 * SECOND_NS)

        def teardown(self) -> None:
            pass

    with pytest.raises(AssertionError, match=r"Overlap|at \d"):
        run_state_machine_as_test(
            Broken,
            settings=settings(
                max_examples=100,
                stateful_step_count=30,
                derandomize=True,
                database=None,
                report_multiple_bugs=False,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
