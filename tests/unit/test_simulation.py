"""Proves exclusivity in virtual time: random schedules of faults, and faults that Hypothesis picks.

Owns the seeds, how many there are, and proof that the schedules find overlaps: in cores that are
broken on purpose they must. Each line that keeps trees apart has a mutant in tests/mutants.

To run one schedule again, with a trace of what happened, set LEADEREXEC_SEED to the number that the
failure printed (and -k to the test that failed). LEADEREXEC_SCHEDULES multiplies their number.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from leaderexec import election, tenure
from leaderexec.election import Election
from leaderexec.model import SECOND_NS, Grant, Record, Timing
from leaderexec.tenure import Tenure
from tests.support.clusters import CLUSTERS, LONG
from tests.support.simulation import (
    DEFAULT,
    MS,
    OLD,
    SHORT,
    TERM,
    TRAITS_OF_2016,
    Candidate,
    Setup,
    Verdict,
    World,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

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


def test_people_who_edit_the_lock_never_break_the_machines() -> None:
    """Deleted, blanked, patched, relabelled: no core contradicts itself, and somebody leads again.

    Overlaps are possible there and named among the non-guarantees; giving back early is not.
    """
    for seed in _seeds(60):
        verdict = _play(seed, Setup(hands=True, put_creates=seed % 2 == 0, verbatim=seed % 3 / 2))
        assert not verdict.early_releases, f"LEADEREXEC_SEED={seed}"


def test_a_lock_taken_over_by_hand_is_noticed_before_it_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a person writes another holder into the lock, the candidates still do not overlap."""
    monkeypatch.setattr(World, "meddle", lambda world, _: world.server.patch(holder="a-person"))
    for seed in _seeds(60):
        verdict = _play(seed, Setup(hands=True, put_creates=seed % 2 == 0))
        assert not verdict.overlaps, f"LEADEREXEC_SEED={seed}"


# --- liveness --------------------------------------------------------------------------------


def _quiet(seed: int, **changes: Any) -> tuple[World, Candidate]:
    """Return a cluster without faults, and the candidate of it that leads."""
    world = World(seed, Setup(voluntary=False, **changes))
    world.calm = True
    world.advance(3 * SECOND_NS)
    leader = world.leads()
    assert leader is not None, f"LEADEREXEC_SEED={seed}"
    return world, leader


def test_a_leader_that_is_asked_to_stop_is_followed_by_the_next_in_line_at_once() -> None:
    """The next tree starts within a fraction of a second of the last's end.

    Standbys watch: nobody waits for a poll or for the lease.
    """
    for seed in _seeds(20):
        world, leader = _quiet(seed, timing=DEFAULT, pid1=0.0, stop_timeouts_s=(1,))
        world.advance(5 * DEFAULT.retry_period_ns)
        named = world.named
        assert named not in {None, "", leader.identity}, f"LEADEREXEC_SEED={seed}"
        world.ask_to_stop(leader.host, TERM)
        while leader in world.living:
            world.advance(10 * MS)
        world.advance(200 * MS)
        successor = world.leads()
        assert successor is not None, f"LEADEREXEC_SEED={seed}"
        assert successor.identity == named


def test_an_elector_killed_again_and_again_costs_the_child_nothing() -> None:
    """Ten electors killed over some leases: the same tree runs throughout."""
    world, leader = _quiet(1, timing=DEFAULT)
    for _ in range(10):
        world.kill(leader.host, "elector")
        world.advance(4500 * MS)
    assert world.leads() is leader
    assert world.verdict.trees == 1


@pytest.mark.parametrize("expires", [False, True], ids=["released", "expired"])
@pytest.mark.parametrize("alive", [True, False], ids=["alive", "dead"])
def test_a_handover_among_two_hundred_standbys_is_no_stampede(alive: bool, expires: bool) -> None:
    """With the next in line alive few others write; without it still far from all."""
    world, leader = _quiet(
        1, candidates=200, timing=DEFAULT, pid1=0.0, stop_timeouts_s=(1,), skew_ppm=0
    )
    asked: Counter[str] = Counter()

    def ask(effect: election.Effect) -> None:
        asked[effect.event if isinstance(effect, election.Note) else type(effect).__name__] += 1

    world.listener = ask
    world.advance(10 * SECOND_NS)
    assert 1 <= world.verdict.named <= 20
    named = world.named
    if not alive:
        (dead,) = (host for host in world.hosts if host.candidate.identity == named)
        dead.network.mode = "hole"
    if expires:
        leader.host.network.mode = "hole"
        world.advance(DEFAULT.renew_deadline_ns)
    else:
        world.ask_to_stop(leader.host, TERM)
    asked.clear()
    most_ns = (DEFAULT.lease_duration_ns - DEFAULT.renew_deadline_ns) if expires else 2 * SECOND_NS
    most_ns += 0 if alive else election._COURTESY_NS + election._COURTESY_SPREAD_NS
    world.advance(most_ns + 200 * MS)
    successor = world.leads()
    assert successor is not None
    assert successor is not leader
    assert (successor.identity == named) == alive
    assert asked["Update"] <= (20 if alive else 60)
    assert asked["the watch has silently died: opening another"] <= 2, "it only lost a race"


# --- Hypothesis decides ----------------------------------------------------------------------

#: How long after the last one a fault comes, and the chance that it is drawn with.
_FAULTS: Final = st.lists(
    st.tuples(
        st.integers(0, 32).map(lambda n: n * SECOND_NS // 4), st.randoms(use_true_random=False)
    ),
    min_size=10,
    max_size=30,
)
_SETUPS: Final = st.sampled_from(
    (
        Setup(),
        Setup(verbatim=1.0),
        Setup(pid1=1.0, restart_ns=SECOND_NS // 2),
        Setup(sidecars=1.0, line=False),
        Setup(verbatim=1.0, wall_spread_us=0, traits=TRAITS_OF_2016),
    )
)


def _play_faults(seed: int, setup: Setup, faults: list[tuple[int, Random]]) -> World:
    world = World(seed, setup)
    world.advance(2 * SECOND_NS)
    for after_ns, chance in faults:
        world.advance(after_ns)
        world.disturb_anything(chance)
        world.verdict.assert_safe()
    return world


@settings(max_examples=100 * _TIMES, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**16), setup=_SETUPS, faults=_FAULTS)
def test_no_order_of_faults_that_hypothesis_tries_makes_two_trees_overlap(
    seed: int, setup: Setup, faults: list[tuple[int, Random]]
) -> None:
    """Hypothesis looks for an order of faults, and makes a failing one small; calm follows each."""
    world = _play_faults(seed, setup, faults)
    world.settle()
    world.verdict.assert_safe()


# --- the schedules find overlaps where there are some --------------------------------------------


def _finds_an_overlap(setup: Setup, count: int) -> bool:
    """Whether the schedules of the suite find two trees at once in this (broken) cluster."""
    return any(bool(World(seed, setup).storm().overlaps) for seed in range(count))


def test_without_the_margin_trees_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The margin pays for the time that killing takes and for clocks that run at other rates."""
    monkeypatch.setattr(Timing, "margin_ns", 0)
    assert _finds_an_overlap(Setup(), 100)


def _slow_leader_beside_fast_standbys(seed: int, timing: Timing, skew_ppm: int) -> Verdict:
    """Cut off a leader whose clock is slow, and its tree stubborn, where all others are fast."""
    setup = Setup(timing=timing, voluntary=False, stop_timeouts_s=(3600,), skew_ppm=0)
    world = World(seed, setup)
    slow, *fast = world.hosts
    slow.clocks.ppm = -skew_ppm  # at this instant every clock shows its offset
    for host in fast:
        host.clocks.ppm = skew_ppm
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


@pytest.mark.parametrize("beyond", [False, True], ids=["within the promise", "beyond the margin"])
@pytest.mark.parametrize(
    "timing",
    [
        DEFAULT,
        Timing(60, 20 * SECOND_NS, 5 * SECOND_NS),
        Timing(3600, 600 * SECOND_NS, SECOND_NS * 20),
    ],
    ids=lambda timing: f"{timing.lease_duration_s}s",
)
def test_trees_overlap_only_where_clock_rates_use_up_the_margin(
    timing: Timing, beyond: bool
) -> None:
    """One percent between two clocks, in the worst direction, is paid for in leases of any length.

    Beyond is a non-guarantee, and proof that the test can fail: the fast clock shows the end of the
    lease before the slow one shows the time to kill.
    """
    promised_ppm = 5000  # in each direction
    used_up_ppm = 1_000_000 * timing.margin_ns // (2 * timing.lease_duration_ns - timing.margin_ns)
    assert used_up_ppm > promised_ppm
    for seed in _seeds(15):
        ppm = used_up_ppm * 3 // 2 if beyond else promised_ppm
        verdict = _slow_leader_beside_fast_standbys(seed, timing, ppm)
        assert bool(verdict.overlaps) == beyond, f"LEADEREXEC_SEED={seed}"


class _StampsAtTheReply(Election):
    """Counts a renewal from when its reply came."""

    def _count(self, call: election._Call, record: Record) -> None:
        super()._count(replace(call, sent_ns=self._now.boot_ns), record)


def test_not_leading_on_an_object_that_the_write_created_keeps_trees_apart() -> None:
    """A candidate that created the object by mistake waits until the old one has expired."""
    for before_ns in range(0, 2 * SECOND_NS, 20 * MS):
        world, _ = _quiet(5, put_creates=True)
        for host in world.hosts:
            world.break_watch(host, orderly=False)
        world.advance(SHORT.lease_duration_ns - before_ns)
        world.server.delete()
        world.advance(SHORT.lease_duration_ns)
        assert not world.verdict.overlaps


class _ReleasesTooEarly(Tenure):
    """Gives the lock back when it asks the tree to stop."""

    def _stop(self, cause: tenure.Cause, **fields: Any) -> None:
        super()._stop(cause, **fields)
        assert self.grant is not None
        self._effects.append(tenure.AskRelease(self.grant.token, retire=False))


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


class _ExtendsGrants(Tenure):
    """Takes a grant for younger and longer than it is."""

    def _granted(self, grant: Grant) -> None:
        later = {
            name: getattr(grant, name) + 5 * SECOND_NS
            for name in ("renewed_at_ns", "expires_at_ns")
        }
        super()._granted(replace(grant, **later))


@pytest.mark.parametrize(
    ("broken", "count"),
    [
        (replace(LONG, elections=_StampsAtTheReply), 400),
        (Setup(tenures=_ReleasesTooEarly), 30),
        (Setup(tenures=_ExtendsGrants), 60),
        (Setup(tenures=_ExtendsGrants, sidecars=1.0), 60),
    ],
    ids=["stamps at the reply", "early release", "longer grants", "longer grants of sidecars"],
)
def test_the_schedules_find_the_overlaps_of_a_broken_core(broken: Setup, count: int) -> None:
    """The server renewed long before its reply, a draining tree meets its successor, late ends."""
    assert _finds_an_overlap(broken, count)


def test_a_mutant_is_found_by_hypothesis_too() -> None:
    """Its orders are no weaker than the seeds: they find the release that comes too early."""

    @settings(
        max_examples=100,
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(seed=st.integers(0, 2**16), faults=_FAULTS)
    def search(seed: int, faults: list[tuple[int, Random]]) -> None:
        _play_faults(seed, Setup(tenures=_ReleasesTooEarly), faults)

    with pytest.raises(AssertionError, match=r"Overlap|at \d"):
        search()
