"""Tests of the elector's decisions, one rule each, on one core driven by hand in virtual time.

Owns the drive: a core, two clocks that only the test moves, and the calls that wait for an answer.
The lock is whatever the test answers, so that each test shows what the rule is about.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pytest

from leaderexec import election
from leaderexec.election import (
    TRANSITIONS,
    BeatReturned,
    Cause,
    CloseWatch,
    Create,
    Effect,
    Election,
    Event,
    Failed,
    Failure,
    FailureKind,
    GuardianDied,
    Holding,
    IllegalTransition,
    KeeperDied,
    KillGuardian,
    NameSuccessor,
    Note,
    OpenWatch,
    Read,
    Returned,
    SendBeat,
    SendGrant,
    SendLost,
    SendReleased,
    SendStanding,
    State,
    TreeGone,
    Update,
    WatchEnded,
    WatchOpened,
    WatchSaw,
    Woke,
)
from leaderexec.locks.base import Conflict, successor_after
from leaderexec.locks.memory import MemoryStore
from leaderexec.model import (
    SECOND_NS,
    SECOND_US,
    Claim,
    LockTraits,
    Now,
    Record,
    Snapshot,
    Timing,
    Token,
)

if TYPE_CHECKING:
    from collections.abc import Callable

MS: Final = 1_000_000
TIMING: Final = Timing()
#: `--ttl=10s`, and what the locks of 2016 ask for.
OLD: Final = Timing(10, 5 * SECOND_NS, 5 * SECOND_NS // 2)
OLD_TRAITS: Final = LockTraits(time_unit_us=SECOND_US, peers_judge_by_own_duration=True)
START_NS: Final = 1_000 * SECOND_NS
WALL_US: Final = 1_700_000_000_000_000
ABSENT: Final = None

T = TypeVar("T")


def held(
    by: str = "b",
    *,
    version: int = 5,
    uid: str = "u1",
    duration_s: int = 15,
    renewed_us: int = WALL_US,
    acquired_us: int | None = WALL_US - 60 * SECOND_US,
    transitions: int = 3,
    line: str | None = None,
) -> Snapshot:
    """Return a version of the lock that `by` holds."""
    record = Record(by, duration_s, acquired_us, renewed_us, transitions)
    return Snapshot(record, uid, str(version), line)


FREE: Final = held("", duration_s=1)


class Drive:
    """One election core, its clocks, and the call that waits for an answer."""

    def __init__(
        self,
        *,
        unique: bool = True,
        slot: bool = False,
        timing: Timing = TIMING,
        inherited: Holding | None = None,
        generation: int = 1,
        traits: LockTraits | None = None,
    ) -> None:
        self.now_ns = START_NS
        self.wall_us = WALL_US
        self.effects: list[Effect] = []
        self.call: Read | Create | Update | NameSuccessor | None = None
        self.answering = True
        self.jitter = 0.5
        self.core = Election(
            identity="a",
            unique=unique,
            slot=slot,
            timing=timing,
            generation=generation,
            jitter=lambda: self.jitter,
            now=self.now(),
            inherited=inherited,
            traits=traits,
        )

    def now(self) -> Now:
        return Now(self.now_ns, self.wall_us)

    def step(self, event: Event | None = None) -> list[Effect]:
        """Step once; remember the call, answer heartbeats unless the guardian is to be silent."""
        effects = self.core.step(event or Woke(), self.now())
        wake_ns = self.core.wake_at_ns
        assert wake_ns is None or wake_ns > self.now_ns, "a loop without a pause"
        for effect in effects:
            if isinstance(effect, Read | Create | Update | NameSuccessor):
                assert self.call is None, "two requests in flight"
                self.call = effect
        self.effects += effects
        if self.answering and SendBeat() in effects:
            effects = effects + self.step(BeatReturned())
        return effects

    def tick(self, for_ns: int) -> None:
        """Let time pass without anybody looking."""
        self.now_ns += for_ns
        self.wall_us += for_ns // 1000

    def wait(self, for_ns: int) -> list[Effect]:
        """Let time pass and wake the core whenever it wants to."""
        until_ns = self.now_ns + for_ns
        effects: list[Effect] = []
        while self.core.wake_at_ns is not None and self.core.wake_at_ns <= until_ns:
            self.tick(max(0, self.core.wake_at_ns - self.now_ns))
            effects += self.step()
        self.tick(until_ns - self.now_ns)
        return effects

    def take_call(self) -> Read | Create | Update | NameSuccessor:
        call, self.call = self.call, None
        assert call is not None, "no request in flight"
        return call

    def answer(self, snapshot: Snapshot | None) -> list[Effect]:
        """Let the call in flight return this version."""
        return self.step(Returned(self.take_call().call_id, snapshot))

    def fail(self, kind: FailureKind, retry_after_ns: int | None = None) -> list[Effect]:
        """Let the call in flight fail."""
        failure = Failure(kind, f"it is {kind.name.lower()}", retry_after_ns)
        return self.step(Failed(self.take_call().call_id, failure))

    def lands(self, version: int, *, uid: str | None = None) -> Snapshot:
        """Return what the lock is once the write in flight has landed."""
        call = self.call
        if isinstance(call, Create):
            return Snapshot(call.record, uid or "u1", str(version))
        assert isinstance(call, Update | NameSuccessor)
        landed = replace(call.seen, uid=uid or call.seen.uid, version=str(version))
        if isinstance(call, NameSuccessor):
            return replace(landed, successor=call.successor)
        line = None if landed.successor is None else successor_after(call.record, call.seen)
        return replace(landed, record=call.record, successor=line)

    def written(self) -> Record:
        """Return the record that the call in flight writes."""
        assert isinstance(self.call, Create | Update)
        return self.call.record

    def renewed_us(self) -> int:
        time_us = self.written().renew_time_us
        assert time_us is not None
        return time_us

    def lead(self, version: int = 10) -> SendGrant:
        """Become leader of a lock that was free."""
        self.step()
        self.answer(FREE)
        return only(self.answer(self.lands(version)), SendGrant)

    def stand_by(self, seen: Snapshot | None = None) -> list[Effect]:
        """Read what another holds and watch it."""
        self.step()
        effects = self.answer(seen or held())
        return effects + self.step(WatchOpened())


def only(effects: list[Effect], kind: type[T]) -> T:
    """Return the one effect of this kind."""
    found = [e for e in effects if isinstance(e, kind)]
    assert len(found) == 1, f"not one {kind.__name__} in {effects}"
    return found[0]


def kinds(effects: list[Effect]) -> set[type]:
    return {type(e) for e in effects}


def notes(effects: list[Effect], word: str) -> list[Note]:
    return [e for e in effects if isinstance(e, Note) and word in e.event]


def heir(**changes: Any) -> tuple[Drive, Snapshot]:
    """Return the elector that follows a dead one which led, and the lock as it left it."""
    found = held("a", version=20)
    record = found.record
    claim = Claim("a", record.acquire_time_us, record.transitions)
    return Drive(inherited=Holding(Token(10), "u1", claim), generation=2, **changes), found


# --- the table -------------------------------------------------------------------------------


def test_every_transition_of_the_table_is_reached() -> None:
    """No line of the table is dead: each is taken by a sequence of lawful events."""
    taken: set[tuple[State, Cause]] = set()

    class Spy(Drive):
        def step(self, event: Event | None = None) -> list[Effect]:
            effects = super().step(event)
            for note in notes(effects, "election state"):
                taken.add((State(note.fields["before"]), Cause(note.fields["reason"])))
            return effects

    def inherited() -> Spy:
        spy = Spy(inherited=heir()[0].core._holding, generation=2)
        spy.step()
        return spy

    leader = Spy()
    leader.lead()
    leader.step(TreeGone(Token(10), retire=False))
    leader.answer(replace(FREE, version="11"))
    loser = Spy()
    loser.lead()
    loser.wait(2 * SECOND_NS)
    loser.fail(FailureKind.ABSENT)
    heir_that_renews = inherited()
    heir_that_renews.answer(heir()[1])
    heir_that_renews.answer(heir_that_renews.lands(21))
    inherited().answer(held("b"))
    inherited().step(TreeGone(Token(10), retire=True))
    Spy().step(TreeGone(None, retire=True))
    assert taken == set(TRANSITIONS)


def test_what_the_table_does_not_name_raises_and_changes_nothing() -> None:
    """Every pair outside of the table is refused in every state."""
    for state, cause in set(product(State, Cause)) - set(TRANSITIONS):
        core = Drive().core
        core.state = state
        with pytest.raises(IllegalTransition, match=f"{state.value}: "):
            core._move(cause)
        assert core.state is state


@pytest.mark.parametrize(
    ("state", "holding", "problem"),
    [
        (State.LEADER, None, "without a leadership"),
        (State.RESUMING, None, "without a leadership"),
        (State.STANDBY, Holding(Token(1), "u", Claim("a", None, 0)), "still holds"),
    ],
)
def test_contradictions_are_noticed(state: State, holding: Holding | None, problem: str) -> None:
    """The invariants see a state that does not fit what it holds."""
    core = Drive().core
    core.state, core._holding = state, holding
    with pytest.raises(AssertionError, match=problem):
        core.check_invariants()


def test_a_retired_elector_that_watches_is_a_contradiction() -> None:
    """Nothing may be open once the elector has retired."""
    drive = Drive()
    drive.stand_by()
    drive.core.state = State.RETIRED
    with pytest.raises(AssertionError, match="still watching"):
        drive.core.check_invariants()


def test_an_answer_to_another_call_is_ignored() -> None:
    """A reply that nobody waits for (any more) changes nothing."""
    drive = Drive()
    drive.step()
    assert not kinds(drive.step(Returned(99, FREE))) - {Note}
    assert not kinds(drive.step(Failed(99, Failure(FailureKind.CONFLICT, "")))) - {Note}
    assert drive.core.state is State.STANDBY


# --- acquiring -------------------------------------------------------------------------------


def test_an_absent_lock_is_created() -> None:
    """Where no object is, the first candidate creates it, with transitions from zero."""
    drive = Drive()
    assert kinds(drive.step()) == {Read, SendBeat}
    create = only(drive.answer(ABSENT), Create)
    assert create.record == Record("a", 15, WALL_US, WALL_US, 0)
    drive.answer(drive.lands(1))
    assert drive.core.state is State.LEADER


def test_a_released_lock_is_taken_at_once() -> None:
    """An empty holder means free, whatever duration the record names; transitions count on."""
    drive = Drive()
    drive.step()
    update = only(drive.answer(FREE), Update)
    assert update.seen == FREE
    assert update.record.transitions == FREE.record.transitions + 1


def test_a_grant_counts_from_before_the_write_was_sent() -> None:
    """Rule: T = t0 + the duration that was written, however late the reply is."""
    drive = Drive()
    drive.step()
    drive.answer(FREE)
    drive.tick(4 * SECOND_NS)
    grant = only(drive.answer(drive.lands(10)), SendGrant).grant
    assert grant.renewed_at_ns == START_NS
    assert grant.expires_at_ns == START_NS + 15 * SECOND_NS
    assert grant.token == 10


def test_the_fencing_token_is_the_version_of_the_acquiring_write() -> None:
    """Renewals keep the token, so that it names the leadership."""
    drive = Drive()
    drive.lead(10)
    drive.wait(2 * SECOND_NS)
    assert only(drive.answer(drive.lands(17)), SendGrant).grant.token == 10


def test_a_held_lock_is_tried_when_its_own_duration_has_passed_since_it_changed() -> None:
    """Expiry is judged by the record's duration and local observation, not by its times."""
    drive = Drive()
    drive.stand_by(held(duration_s=33, renewed_us=0))
    assert Update not in kinds(drive.wait(33 * SECOND_NS - 1))
    assert Update in kinds(drive.wait(1))


def test_each_renewal_that_is_seen_starts_the_wait_anew() -> None:
    """The stamp is when the record was last seen to change."""
    drive = Drive()
    drive.stand_by()
    drive.wait(14 * SECOND_NS)
    drive.step(WatchSaw(held(version=6, renewed_us=WALL_US + 1)))
    assert Update not in kinds(drive.wait(15 * SECOND_NS - 1))
    assert Update in kinds(drive.wait(1))


def test_labels_that_change_do_not_keep_a_dead_leaders_lease_alive() -> None:
    """Another version of the same record is no renewal."""
    drive = Drive()
    drive.stand_by()
    for version in range(6, 20):
        drive.wait(SECOND_NS)
        drive.step(WatchSaw(held(version=version)))
    update = only(drive.wait(SECOND_NS), Update)
    assert update.seen.version == "19"


def test_a_record_without_a_duration_is_given_ours() -> None:
    """Zero says nothing about when its holder stops."""
    drive = Drive()
    drive.stand_by(held(duration_s=0))
    assert Update not in kinds(drive.wait(15 * SECOND_NS - 1))
    assert Update in kinds(drive.wait(1))


def test_a_stamp_is_kept_across_a_deletion() -> None:
    """Rule 2: who held the deleted object may run until its duration has passed."""
    drive = Drive()
    drive.stand_by()
    drive.wait(5 * SECOND_NS)
    drive.step(WatchSaw(ABSENT))
    assert Create not in kinds(drive.wait(10 * SECOND_NS - 1))
    assert Create in kinds(drive.wait(1))


def test_a_version_that_was_missed_and_deleted_is_waited_out() -> None:
    """Rule 2: whoever wrote what a dead watch kept from us may run although it was deleted."""
    drive = Drive()
    drive.stand_by()
    drive.wait(15 * SECOND_NS)
    drive.fail(FailureKind.CONFLICT)
    assert Read in kinds(drive.wait(SECOND_NS))
    drive.answer(ABSENT)
    drive.step(WatchOpened())
    assert Create not in kinds(drive.wait(15 * SECOND_NS - 1))
    assert Create in kinds(drive.wait(1))


def test_a_watch_that_lags_behind_our_own_read_is_ignored() -> None:
    """An older version of the same object is no change."""
    drive = Drive()
    drive.stand_by(held(version=9))
    drive.wait(5 * SECOND_NS)
    drive.step(WatchSaw(held("c", version=8)))
    assert drive.core.leader == "b"
    assert Update in kinds(drive.wait(10 * SECOND_NS))


def test_a_read_is_believed_even_if_the_versions_went_back() -> None:
    """A quorum read that was sent after a version was seen shows what is, not what was."""
    drive = Drive()
    drive.lead(10)
    drive.wait(2 * SECOND_NS)
    drive.fail(FailureKind.CONFLICT)
    assert SendLost in kinds(drive.answer(held("b", version=4)))


def test_versions_that_are_not_numbers_are_all_newer() -> None:
    """Without an order of versions what comes last counts."""
    drive = Drive()
    drive.stand_by(replace(held(), version="x"))
    drive.step(WatchSaw(replace(held("c"), version="w")))
    assert drive.core.leader == "c"


def test_losing_the_race_is_noticed_and_announced() -> None:
    """A conflict is followed by a read; the new leader is told to the guardian."""
    drive = Drive()
    drive.step()
    drive.answer(FREE)
    assert Read in kinds(drive.fail(FailureKind.CONFLICT)), "at once: the watch tells nothing more"
    standing = only(drive.answer(held("c", version=6)), SendStanding)
    assert standing.leader == "c"
    assert drive.core.leader == "c"


def test_an_object_deleted_under_an_attempt_is_created_anew() -> None:
    """A PUT that finds nothing is followed by a create, since the wait is over already."""
    drive = Drive()
    drive.stand_by()
    drive.wait(15 * SECOND_NS)
    assert Create in kinds(drive.fail(FailureKind.ABSENT))


def test_an_attempt_that_created_another_object_is_no_leadership() -> None:
    """Rule 2: 201 on a PUT grants nothing, since the deleted object's holder may still run."""
    drive = Drive()
    drive.step()
    drive.answer(FREE)
    effects = drive.answer(drive.lands(30, uid="u2"))
    assert SendGrant not in kinds(effects)
    assert drive.core.state is not State.LEADER


def test_an_object_created_by_mistake_is_not_offered_to_the_others() -> None:
    """Rule 2: what the deleted object's holder may still use stays taken for a lease duration."""
    drive = Drive()
    drive.stand_by()
    drive.wait(15 * SECOND_NS)
    effects = drive.answer(drive.lands(30, uid="u2"))
    effects += drive.wait(15 * SECOND_NS - 1)
    assert "" not in [e.record.holder for e in effects if isinstance(e, Update)]


def test_an_attempt_that_changed_nothing_is_no_leadership() -> None:
    """Rule 1: 200 with the version unchanged made nobody leader."""
    drive = Drive()
    drive.step()
    effects = drive.answer(FREE)
    effects = drive.answer(replace(drive.lands(5), uid="u1"))
    assert SendGrant not in kinds(effects)
    assert drive.core.state is State.STANDBY


def test_a_write_whose_reply_was_lost_is_recognised_and_renewed_before_it_counts() -> None:
    """Rule 3: a late landing acquisition is ours, but only our next counted write grants."""
    drive = Drive(unique=False)
    drive.step()
    drive.answer(FREE)
    landed = drive.lands(6)
    drive.tick(5 * SECOND_NS)
    drive.fail(FailureKind.UNAVAILABLE)
    drive.wait(5 * SECOND_NS)
    sent_ns = drive.now_ns
    update = only(drive.answer(landed), Update)
    assert update.seen == landed
    assert update.record.acquire_time_us == landed.record.acquire_time_us
    assert update.record.transitions == landed.record.transitions
    assert only(drive.answer(drive.lands(7)), SendGrant).grant.renewed_at_ns >= sent_ns


def test_two_attempts_over_one_version_make_one_claim() -> None:
    """Whichever of them lands, it is recognised: both name the same time of acquisition."""
    drive = Drive(unique=False)
    drive.step()
    drive.answer(FREE)
    first = drive.lands(6)
    drive.fail(FailureKind.UNAVAILABLE)
    drive.wait(5 * SECOND_NS)
    second = only(drive.answer(FREE), Update)
    assert second.record.acquire_time_us == first.record.acquire_time_us
    assert Read in kinds(drive.fail(FailureKind.CONFLICT))
    assert only(drive.answer(first), Update).seen == first


def test_an_attempt_over_another_version_makes_another_claim() -> None:
    """Once the version that a lost attempt replaces has passed, the attempt cannot land."""
    drive = Drive(unique=False)
    drive.step()
    drive.answer(FREE)
    first = drive.written()
    drive.fail(FailureKind.UNAVAILABLE)
    drive.wait(5 * SECOND_NS)
    second = only(drive.answer(replace(FREE, version="8")), Update)
    assert second.record.acquire_time_us != first.acquire_time_us


# --- identity --------------------------------------------------------------------------------


def test_a_name_that_may_be_used_twice_proves_nothing() -> None:
    """Rule 12: a record with our verbatim --id is another's unless this elector wrote it."""
    drive = Drive(unique=False)
    effects = drive.stand_by(held("a"))
    assert Update not in kinds(effects)
    assert Update not in kinds(drive.wait(15 * SECOND_NS - 1))
    assert Update in kinds(drive.wait(1))


def test_the_name_of_a_slot_is_enough() -> None:
    """A container that restarts in its slot takes its own lease back at once."""
    drive = Drive(slot=True)
    drive.step()
    update = only(drive.answer(held("a")), Update)
    assert update.record.transitions == held().record.transitions
    assert update.record.acquire_time_us == held().record.acquire_time_us


def test_a_name_alone_is_not_enough_though_nobody_else_can_have_it() -> None:
    """Rule 12: what somebody wrote under our name, while another's tree may live, is waited out."""
    drive = Drive()
    drive.stand_by()
    effects = drive.step(WatchSaw(held("a", version=6)))
    assert not WRITES & kinds(effects + drive.wait(15 * SECOND_NS - 1))
    assert Update in kinds(drive.wait(1))


def test_after_a_deletion_our_own_record_is_no_reason_to_wait() -> None:
    """The deleted record was the loser's own, and its tree is gone: it creates another at once."""
    drive = Drive()
    drive.lead()
    drive.wait(2 * SECOND_NS)
    effects = drive.fail(FailureKind.ABSENT)
    assert Read in kinds(drive.wait(2 * SECOND_NS))
    assert Create not in kinds(drive.answer(ABSENT)), "its tree may still be alive"
    assert Create in kinds(drive.step(TreeGone(only(effects, SendLost).token, retire=False)))


@pytest.mark.parametrize("change", [{"holder": "b"}, {"lease_duration_s": 3}, {"transitions": 9}])
def test_a_write_that_was_changed_on_its_way_counts_for_nothing(change: dict[str, Any]) -> None:
    """Others go by what the lock says, and not by what we sent to it: there is no grant for it."""
    drive = Drive()
    drive.step()
    drive.answer(FREE)
    landed = drive.lands(10)
    effects = drive.answer(replace(landed, record=replace(landed.record, **change)))
    assert SendGrant not in kinds(effects)
    assert drive.core.state is State.STANDBY
    drive = Drive()
    drive.lead()
    drive.wait(2 * SECOND_NS)
    landed = drive.lands(11)
    effects = drive.answer(replace(landed, record=replace(landed.record, **change)))
    assert SendGrant not in kinds(effects)
    assert Read in kinds(drive.wait(SECOND_NS)), "a quorum read tells whose it is"


def test_a_leader_whose_name_another_writes_has_lost() -> None:
    """Rule 12: for a leader not even a unique name is enough, its claim must be unchanged."""
    drive = Drive()
    drive.lead()
    drive.wait(2 * SECOND_NS)
    drive.fail(FailureKind.CONFLICT)
    effects = drive.answer(held("a", version=12, acquired_us=WALL_US + 5))
    assert only(effects, SendLost).token == 10


def test_one_id_and_one_microsecond_do_not_make_two_leaders() -> None:
    """Rule 12: not even twins that try at the same instant both lead."""
    winner, loser = Drive(unique=False), Drive(unique=False)
    for twin in (winner, loser):
        twin.step()
        twin.answer(FREE)
    landed = winner.lands(6)
    winner.answer(landed)
    assert Read in kinds(loser.fail(FailureKind.CONFLICT))
    assert Update not in kinds(loser.answer(landed))
    assert Update not in kinds(loser.wait(15 * SECOND_NS - 1))


# --- renewing --------------------------------------------------------------------------------


def test_a_leader_renews_every_retry_period() -> None:
    """The next renewal is sent a retry period after the last one was sent."""
    drive = Drive()
    drive.lead()
    assert Update not in kinds(drive.wait(2 * SECOND_NS - 1))
    assert Update in kinds(drive.wait(1))
    drive.tick(SECOND_NS)
    drive.answer(drive.lands(11))
    assert Update in kinds(drive.wait(SECOND_NS))


def test_a_renewal_keeps_who_when_and_how_often() -> None:
    """Only renewTime changes with a renewal."""
    drive = Drive()
    drive.step()
    drive.answer(FREE)
    first = drive.written()
    drive.answer(drive.lands(10))
    drive.wait(2 * SECOND_NS)
    second = drive.written()
    assert replace(second, renew_time_us=None) == replace(first, renew_time_us=None)


def test_renew_time_is_a_later_second_with_every_write() -> None:
    """Rule 1: others compare whole seconds, so each write is in a later one than the last."""
    drive = Drive(timing=Timing(5, 2 * SECOND_NS, SECOND_NS))
    drive.wall_us = WALL_US + 999_999
    drive.lead()
    last_us = WALL_US + 999_999
    for version in range(11, 20):
        drive.wait(SECOND_NS)
        assert drive.renewed_us() // SECOND_US > last_us // SECOND_US
        last_us = drive.renewed_us()
        drive.answer(drive.lands(version))


def test_renew_time_moves_on_when_the_wall_clock_is_set_back() -> None:
    """Rule 1: a wall clock that steps back an hour does not make a renewal an identical write."""
    drive = Drive()
    drive.lead()
    drive.wall_us -= 3600 * SECOND_US
    drive.wait(2 * SECOND_NS)
    assert drive.renewed_us() == WALL_US + SECOND_US


def test_renew_time_is_later_than_that_of_a_write_whose_reply_was_lost() -> None:
    """It may have landed."""
    drive = Drive()
    drive.lead()
    drive.wait(2 * SECOND_NS)
    lost_us = drive.renewed_us()
    drive.fail(FailureKind.UNAVAILABLE)
    drive.wall_us = WALL_US
    drive.wait(2 * SECOND_NS)
    assert drive.renewed_us() >= lost_us + SECOND_US


def test_a_renewal_that_changed_no_version_is_not_counted() -> None:
    """Rule 1: 200 with the resourceVersion unchanged renewed nothing; it is tried again."""
    drive = Drive()
    drive.lead(10)
    drive.wait(2 * SECOND_NS)
    effects = drive.answer(drive.lands(10))
    assert SendGrant not in kinds(effects)
    assert drive.core.state is State.LEADER
    assert drive.call is not None or Update in kinds(drive.wait(SECOND_NS))


def test_renewals_that_change_nothing_are_not_repeated_without_a_pause() -> None:
    """A server that answers 200 and changes nothing is not flooded."""
    drive = Drive()
    drive.lead(10)
    drive.wait(2 * SECOND_NS)
    drive.answer(drive.lands(10))
    assert drive.call is None
    assert Update in kinds(drive.wait(SECOND_NS))


def test_a_renewal_that_created_another_object_is_a_loss() -> None:
    """Rule 2: 201 or another uid while leading means lost."""
    drive = Drive()
    drive.lead()
    drive.wait(2 * SECOND_NS)
    assert only(drive.answer(drive.lands(30, uid="u2")), SendLost).token == 10
    assert drive.core.state is State.STANDBY


def test_a_deleted_object_is_a_loss() -> None:
    """Rule 2: 404 while leading means lost."""
    drive = Drive()
    drive.lead()
    drive.wait(2 * SECOND_NS)
    assert only(drive.fail(FailureKind.ABSENT), SendLost).reason == "the lock's object was deleted"


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (held("b", version=12), "held by b"),
        (held("", version=12), "held by nobody"),
        (held("a", version=12, uid="u2"), "replaced by another"),
        (ABSENT, "was deleted"),
    ],
)
def test_a_conflict_is_a_loss_only_when_a_read_says_so(found: Snapshot | None, reason: str) -> None:
    """Loss is what a quorum read shows: another holder, nobody, another object, none."""
    drive = Drive()
    drive.lead()
    drive.wait(2 * SECOND_NS)
    effects = drive.fail(FailureKind.CONFLICT)
    assert SendLost not in kinds(effects)
    assert reason in only(drive.answer(found), SendLost).reason


def test_a_conflict_with_our_own_lost_renewal_is_none() -> None:
    """A renewal whose reply was lost had landed: the record is still ours and renewed at once."""
    drive = Drive()
    drive.lead()
    drive.wait(2 * SECOND_NS)
    landed = drive.lands(11)
    drive.fail(FailureKind.UNAVAILABLE)
    drive.wait(2 * SECOND_NS)
    assert Read in kinds(drive.fail(FailureKind.CONFLICT))
    assert only(drive.answer(landed), Update).seen == landed


def test_somebody_elses_label_does_not_cost_the_leadership() -> None:
    """A conflict because of a label is answered by renewing the newer version."""
    drive = Drive()
    drive.step()
    drive.answer(FREE)
    mine = drive.lands(10)
    drive.answer(mine)
    drive.wait(2 * SECOND_NS)
    drive.fail(FailureKind.CONFLICT)
    labelled = replace(mine, version="11")
    assert only(drive.answer(labelled), Update).seen == labelled


def test_a_lost_reply_is_followed_by_another_try() -> None:
    """An unknown outcome is retried a retry period after the failed call was sent."""
    drive = Drive()
    drive.lead()
    drive.wait(2 * SECOND_NS)
    drive.tick(500_000_000)
    drive.fail(FailureKind.UNAVAILABLE)
    assert Update not in kinds(drive.wait(1_500_000_000 - 1))
    assert Update in kinds(drive.wait(1))


def test_a_server_that_asks_for_patience_gets_it_within_the_deadline() -> None:
    """429: Retry-After is honoured, but one more try fits before the renew deadline."""
    drive = Drive()
    drive.lead()
    drive.wait(2 * SECOND_NS)
    drive.fail(FailureKind.UNAVAILABLE, 4 * SECOND_NS)
    assert Update not in kinds(drive.wait(4 * SECOND_NS - 1))
    assert Update in kinds(drive.wait(1))
    drive.fail(FailureKind.UNAVAILABLE, 3600 * SECOND_NS)
    assert Update in kinds(drive.wait(2 * SECOND_NS))
    assert drive.now_ns == START_NS + 8 * SECOND_NS


def test_a_repeated_failure_is_logged_loudly_once() -> None:
    """The first of the same failures is a warning, the others are for debugging."""
    drive = Drive()
    drive.lead()
    levels = []
    for _ in range(3):
        drive.wait(2 * SECOND_NS)
        (note,) = notes(drive.fail(FailureKind.UNAVAILABLE), "unavailable")
        levels.append(note.level)
    assert levels == ["warning", "debug", "debug"]


def test_one_request_is_in_flight_at_a_time() -> None:
    """Rule 3: while a call is out, nothing else is sent, however long it takes."""
    drive = Drive()
    drive.lead()
    drive.wait(2 * SECOND_NS)
    assert not {Read, Update, Create} & kinds(drive.wait(60 * SECOND_NS))


def test_after_a_loss_there_is_no_new_try_before_the_tree_is_gone() -> None:
    """A lock that becomes free again waits until the lost leadership's tree is dead."""
    drive = Drive()
    drive.lead()
    drive.wait(2 * SECOND_NS)
    drive.fail(FailureKind.ABSENT)
    drive.wait(5 * SECOND_NS)
    assert Update not in kinds(drive.answer(held("", version=12)))
    effects = drive.step(TreeGone(Token(10), retire=False))
    assert only(effects, SendReleased) == SendReleased(Token(10), "not held", retired=False)
    assert Update in kinds(effects)


# --- resuming --------------------------------------------------------------------------------


def test_an_heir_reads_first_and_grants_after_its_own_write_only() -> None:
    """Rule 3: no grant from observation; the token stays."""
    drive, found = heir()
    drive.step()
    assert SendGrant not in kinds(drive.answer(found))
    assert drive.core.state.value == "resuming"
    grant = only(drive.answer(drive.lands(21)), SendGrant).grant
    assert (grant.token, grant.generation, grant.renewed_at_ns) == (10, 2, START_NS)
    assert drive.core.state is State.LEADER


@pytest.mark.parametrize(
    "found",
    [
        held("b", version=20),
        held("a", version=20, uid="u2"),
        held("a", version=20, acquired_us=WALL_US + 7),
        held("a", version=20, transitions=5),
        held("", version=20),
        ABSENT,
    ],
    ids=["holder", "uid", "acquire time", "transitions", "nobody", "absent"],
)
def test_an_heir_keeps_the_token_only_if_nothing_of_the_claim_changed(
    found: Snapshot | None,
) -> None:
    """Rule 3: holder, uid, acquireTime and transitions must be those that were granted."""
    drive, _ = heir()
    drive.step()
    assert only(drive.answer(found), SendLost).token == 10
    assert drive.core.state is State.STANDBY


def test_an_heir_whose_predecessors_renewal_lands_late_goes_on() -> None:
    """A conflict with the dead elector's last write is no loss."""
    drive, found = heir()
    drive.step()
    drive.answer(found)
    drive.fail(FailureKind.CONFLICT)
    late = replace(found, version="21", record=replace(found.record, renew_time_us=WALL_US + 9))
    drive.answer(late)
    assert only(drive.answer(drive.lands(22)), SendGrant).grant.token == 10


def test_an_heir_writes_a_later_second_than_its_predecessor() -> None:
    """The renewTime of the dead elector's last write, as found, is exceeded."""
    drive, found = heir()
    drive.step()
    drive.answer(replace(found, record=replace(found.record, renew_time_us=WALL_US + 9_000_000)))
    assert drive.renewed_us() >= WALL_US + 10_000_000


def test_an_heir_retries_while_the_lock_cannot_be_reached() -> None:
    """A failed read of an heir is repeated: the tree may still be saved."""
    drive, found = heir()
    drive.step()
    drive.fail(FailureKind.UNAVAILABLE)
    assert Read in kinds(drive.wait(2 * SECOND_NS))
    assert Update in kinds(drive.answer(found))


def test_an_heir_of_a_tree_that_is_gone_gives_back() -> None:
    """The tree ended while no elector lived: the heir reads and releases without renewing."""
    drive, found = heir()
    drive.step()
    drive.step(TreeGone(Token(10), retire=False))
    release = only(drive.answer(found), Update)
    assert release.record.holder == ""
    assert only(drive.answer(drive.lands(21)), SendReleased).outcome == "released"


# --- giving back -----------------------------------------------------------------------------


def _releasing(*, retire: bool = False) -> Drive:
    drive = Drive()
    drive.lead()
    drive.step(TreeGone(Token(10), retire=retire))
    return drive


def test_a_release_writes_nobody_for_one_second() -> None:
    """As client-go: empty holder, duration 1, transitions kept, renewTime a later second."""
    drive = _releasing()
    record = drive.written()
    assert (record.holder, record.lease_duration_s, record.transitions) == ("", 1, 4)
    assert drive.renewed_us() == WALL_US + SECOND_US


def test_a_release_is_told_and_the_campaign_goes_on_after_whoever_waited() -> None:
    """Others are given a retry period before the same candidate tries again."""
    drive = _releasing()
    released = drive.lands(11)
    effects = drive.answer(released)
    assert only(effects, SendReleased) == SendReleased(Token(10), "released", retired=False)
    assert drive.core.state is State.STANDBY
    drive.answer(released)
    assert Update not in kinds(drive.wait(2 * SECOND_NS - 1))
    assert Update in kinds(drive.wait(5 * SECOND_NS))


def test_a_release_for_good_retires() -> None:
    """With the guardian ending there is nothing left to do, and nothing is done."""
    drive = _releasing(retire=True)
    assert only(drive.answer(drive.lands(11)), SendReleased).retired
    assert drive.core.state is State.RETIRED
    assert drive.core.wake_at_ns is None
    drive.tick(3600 * SECOND_NS)
    assert not drive.step()


def test_a_release_waits_for_the_renewal_in_flight() -> None:
    """Rule 3: release starts after the last renewal has returned or timed out."""
    drive = Drive()
    drive.lead()
    drive.wait(2 * SECOND_NS)
    effects = drive.step(TreeGone(Token(10), retire=False))
    assert not {Read, Update} & kinds(effects)
    renewed = drive.lands(11)
    effects = drive.answer(renewed)
    assert SendGrant not in kinds(effects)
    assert only(effects, Update).seen == renewed


def test_a_conflict_on_release_is_read_and_tried_again_only_if_still_mine() -> None:
    """Rule 3: our own late renewal had landed, and the release replaces it."""
    drive = Drive()
    drive.lead()
    drive.wait(2 * SECOND_NS)
    late = drive.lands(11)
    drive.fail(FailureKind.UNAVAILABLE)
    drive.step(TreeGone(Token(10), retire=False))
    assert drive.written().holder == ""
    assert Read in kinds(drive.fail(FailureKind.CONFLICT))
    again = only(drive.answer(late), Update)
    assert (again.record.holder, again.seen) == ("", late)


def test_a_conflict_on_release_with_another_holder_is_left_alone() -> None:
    """G5: releasing never overwrites another."""
    drive = _releasing()
    drive.fail(FailureKind.CONFLICT)
    effects = drive.answer(held("b", version=12))
    assert Update not in kinds(effects)
    assert only(effects, SendReleased).outcome == "not held"


def test_a_release_of_a_deleted_object_resurrects_nothing() -> None:
    """G5: what was deleted stays deleted."""
    drive = _releasing()
    effects = drive.fail(FailureKind.ABSENT)
    assert only(effects, SendReleased).outcome == "not held"


def test_a_release_that_nobody_confirms_is_given_up_in_time() -> None:
    """Eight seconds at most, so that a pod ends within its 30 s."""
    drive = _releasing()
    since_ns = drive.now_ns
    effects: list[Effect] = []
    while SendReleased not in kinds(effects):
        effects = drive.fail(FailureKind.UNAVAILABLE) if drive.call else drive.wait(100_000_000)
    assert only(effects, SendReleased).outcome == "unconfirmed"
    assert drive.now_ns - since_ns <= 8_100_000_000


def test_a_release_whose_reply_was_lost_is_found_done() -> None:
    """Reading an empty holder after an unknown outcome is as good as a reply."""
    drive = _releasing()
    landed = drive.lands(11)
    drive.fail(FailureKind.UNAVAILABLE)
    assert Read in kinds(drive.wait(SECOND_NS))
    assert SendReleased in kinds(drive.answer(landed))


def test_a_standby_that_ends_writes_nothing() -> None:
    """Nothing was tried, so nothing needs to be given back."""
    drive = Drive()
    drive.stand_by()
    effects = drive.step(TreeGone(None, retire=True))
    assert not {Read, Update, Create} & kinds(effects)
    assert only(effects, SendReleased) == SendReleased(None, "not held", retired=True)
    assert CloseWatch in kinds(effects)


def test_a_standby_that_ends_while_acquiring_releases_what_landed() -> None:
    """Rule 14: a request to stop during an acquisition waits for its outcome and undoes it."""
    drive = Drive()
    drive.step()
    drive.answer(FREE)
    assert SendReleased not in kinds(drive.step(TreeGone(None, retire=True)))
    effects = drive.answer(drive.lands(10))
    assert SendGrant not in kinds(effects)
    assert only(effects, Update).record.holder == ""
    assert only(drive.answer(drive.lands(11)), SendReleased).retired


def test_a_standby_that_ends_with_a_lost_attempt_releases_what_landed() -> None:
    """Rule 14: with the outcome unknown the lock is read before we leave."""
    drive = Drive()
    drive.step()
    drive.answer(FREE)
    landed = drive.lands(10)
    drive.fail(FailureKind.UNAVAILABLE)
    effects = drive.step(TreeGone(None, retire=True))
    assert Read in kinds(effects)
    assert only(drive.answer(landed), Update).record.holder == ""


def test_a_standby_that_ends_waits_for_an_attempt_that_may_still_land() -> None:
    """Rule 14: the version that a lost attempt replaces is still there, so it can still land."""
    drive = Drive()
    drive.step()
    drive.answer(FREE)
    drive.fail(FailureKind.UNAVAILABLE)
    drive.step(TreeGone(None, retire=True))
    assert SendReleased not in kinds(drive.answer(FREE))


def test_a_tree_of_another_leadership_that_is_gone_does_not_cost_this_one() -> None:
    """The guardian's word about an old token is answered and changes nothing."""
    drive = Drive()
    drive.lead(10)
    effects = drive.step(TreeGone(Token(9), retire=False))
    assert only(effects, SendReleased) == SendReleased(Token(9), "not held", retired=False)
    assert drive.core.state is State.LEADER


# --- watching and polling --------------------------------------------------------------------


def test_a_standby_watches_instead_of_polling() -> None:
    """While the watch is open no request is sent before the lock may be taken."""
    drive = Drive()
    drive.stand_by()
    assert not {Read, Update, Create} & kinds(drive.wait(15 * SECOND_NS - 1))


def test_a_release_that_is_watched_is_followed_at_once() -> None:
    """G4: no poll stands between a release and the next leader."""
    drive = Drive()
    drive.stand_by()
    drive.wait(3 * SECOND_NS)
    assert only(drive.step(WatchSaw(held("", version=6, duration_s=1))), Update).seen.version == "6"


def test_a_leader_does_not_watch() -> None:
    """The watch is closed with the acquisition, and what it still says is ignored."""
    drive = Drive()
    drive.stand_by()
    drive.step(WatchSaw(held("", version=6)))
    assert CloseWatch in kinds(drive.answer(drive.lands(10)))
    assert SendLost not in kinds(drive.step(WatchSaw(held("b", version=11))))
    assert not drive.step(WatchEnded(None))
    assert drive.core.state is State.LEADER


def test_a_forbidden_watch_means_polling_and_is_said_once() -> None:
    """Without the permission to watch the lock is read every retry period."""
    drive = Drive()
    drive.step()
    drive.answer(held())
    said = []
    reads = 0
    for _ in range(30):
        effects = drive.wait(SECOND_NS)
        if OpenWatch in kinds(effects) or _ == 0:
            forbidden = Failure(FailureKind.FORBIDDEN, "no watch")
            effects += drive.step(WatchEnded(forbidden))
        if drive.call is not None:
            reads += isinstance(drive.call, Read)
            drive.answer(held(version=6 + _, renewed_us=WALL_US + _))
        said += notes(effects, "polling every retry period")
    assert len(said) == 1
    assert 8 <= reads <= 15


def test_a_watch_that_is_allowed_again_may_be_complained_about_again() -> None:
    """Permission that comes back and goes is two events, and two lines."""
    drive = Drive()
    drive.step()
    drive.answer(held())
    forbidden = WatchEnded(Failure(FailureKind.FORBIDDEN, "no watch"))
    assert notes(drive.step(forbidden), "polling")
    effects: list[Effect] = []
    while OpenWatch not in kinds(effects):
        effects = drive.wait(SECOND_NS)
        if drive.call is not None:
            drive.answer(held(version=6, renewed_us=drive.wall_us))
    drive.step(WatchOpened())
    assert notes(drive.step(forbidden), "polling")


def test_a_watch_that_ends_in_an_orderly_way_is_opened_again_after_a_read() -> None:
    """What changed between two watches is read, within half a retry period."""
    drive = Drive()
    drive.stand_by()
    drive.step(WatchEnded(None))
    assert Read in kinds(drive.wait(SECOND_NS)) or drive.call is not None
    effects = drive.answer(held())
    assert OpenWatch in kinds(effects) or OpenWatch in kinds(drive.effects[-8:])


def test_a_watch_that_breaks_means_polling_until_another_opens() -> None:
    """A broken watch is opened again within a retry period; until then the lock is read."""
    drive = Drive()
    drive.stand_by()
    drive.step(WatchEnded(Failure(FailureKind.UNAVAILABLE, "reset")))
    effects = drive.wait(2 * SECOND_NS)
    assert {Read, OpenWatch} & kinds(effects)


def test_the_end_of_a_watch_that_was_closed_is_ignored() -> None:
    """Closing a watch makes it end: that is no news."""
    drive = Drive()
    drive.step()
    drive.answer(held())
    drive.step(WatchOpened())
    drive.core._close_watch()
    drive.core._watch_at_ns = drive.now_ns + SECOND_NS
    polls_at_ns = drive.core._poll_at_ns
    drive.step(WatchEnded(None))
    assert drive.core._poll_at_ns == polls_at_ns


def test_a_silently_dead_watch_costs_no_more_than_a_lease() -> None:
    """The try at expiry conflicts, which shows that the watch is dead: another is opened."""
    drive = Drive()
    drive.stand_by()
    drive.wait(15 * SECOND_NS)
    assert Read not in kinds(drive.fail(FailureKind.CONFLICT)), "the watch is given a moment"
    effects = drive.wait(SECOND_NS)
    assert notes(effects, "silently died")
    assert CloseWatch in kinds(effects)
    effects = drive.answer(held(version=40, renewed_us=WALL_US + 14))
    assert OpenWatch in kinds(effects)


@pytest.mark.parametrize("first", ["the watch", "the reply"])
@pytest.mark.parametrize("how", ["released", "expired", "deleted"])
def test_losing_a_race_does_not_blame_the_watch(how: str, first: str) -> None:
    """A watch that tells who was faster, before the reply or after, is alive: nothing is read."""
    drive = Drive()
    drive.stand_by()
    if how == "released":
        drive.step(WatchSaw(held("", version=6)))
    if how == "deleted":
        drive.step(WatchSaw(ABSENT))
    drive.wait(15 * SECOND_NS if how != "released" else 0)
    assert isinstance(drive.call, Create if how == "deleted" else Update)
    effects: list[Effect] = []
    if first == "the reply":
        effects += drive.fail(FailureKind.CONFLICT)
        drive.tick(50 * MS)
    effects += drive.step(WatchSaw(held("c", version=9, uid="u2" if how == "deleted" else "u1")))
    if first == "the watch":
        drive.tick(5 * MS)
        effects += drive.fail(FailureKind.CONFLICT)
    effects += drive.wait(10 * SECOND_NS)
    assert not {Read, Update, Create, CloseWatch} & kinds(effects)
    assert not notes(effects, "silently died")
    assert drive.core.leader == "c"


def test_a_conflict_over_a_free_lock_finds_a_dead_watch_too() -> None:
    """The watch told of the release and then nothing more: it is not believed for a whole lease."""
    drive = Drive()
    drive.stand_by()
    drive.step(WatchSaw(held("", version=6)))
    drive.fail(FailureKind.CONFLICT)
    effects = drive.wait(SECOND_NS)
    assert notes(effects, "silently died")
    assert {CloseWatch, Read} <= kinds(effects)


def test_a_refusal_does_not_blame_the_watch() -> None:
    """403 says nothing about what the watch should have told: the read after it keeps the watch."""
    drive = Drive()
    drive.stand_by()
    drive.step(WatchSaw(held("", version=6)))
    effects = drive.fail(FailureKind.FORBIDDEN)
    effects += drive.wait(5 * SECOND_NS)
    assert Read in kinds(effects)
    assert CloseWatch not in kinds(effects)


def test_a_standby_keeps_trying_while_the_lock_cannot_be_reached() -> None:
    """A standby never gives up because of the API: it reads again after a retry period or two."""
    drive = Drive()
    drive.step()
    for kind in (FailureKind.UNAVAILABLE, FailureKind.FORBIDDEN) * 5:
        drive.fail(kind)
        assert Read in kinds(drive.wait(int(2.2 * TIMING.retry_period_ns)))


def test_a_standby_does_what_the_server_asks_for() -> None:
    """429: a standby waits as long as Retry-After says."""
    drive = Drive()
    drive.step()
    drive.fail(FailureKind.UNAVAILABLE, 7 * SECOND_NS)
    assert Read not in kinds(drive.wait(7 * SECOND_NS - 1))
    assert Read in kinds(drive.wait(1))


def test_a_standby_is_not_sent_away_for_longer_than_a_lease() -> None:
    """However long Retry-After is, a standby looks again within a lease duration."""
    drive = Drive()
    drive.step()
    drive.fail(FailureKind.UNAVAILABLE, 3600 * SECOND_NS)
    assert Read in kinds(drive.wait(TIMING.lease_duration_ns))


def test_a_failing_connection_takes_its_watch_along() -> None:
    """When a request fails, the watch over the same network is not believed any more."""
    drive = Drive()
    drive.stand_by()
    drive.wait(15 * SECOND_NS)
    assert CloseWatch in kinds(drive.fail(FailureKind.UNAVAILABLE))


def test_the_guardian_is_told_once_that_a_try_failed() -> None:
    """For `--timeout 0` the first failure is enough; more would be noise."""
    drive = Drive()
    drive.step()
    assert only(drive.fail(FailureKind.FORBIDDEN), SendStanding).leader == ""
    drive.wait(5 * SECOND_NS)
    assert SendStanding not in kinds(drive.fail(FailureKind.FORBIDDEN))


def test_every_new_leader_is_announced_once() -> None:
    """`leader is NAME` is logged when a standby sees a new leader, not with each renewal."""
    drive = Drive()
    said = notes(drive.stand_by(), "leader is b")
    said += notes(drive.step(WatchSaw(held(version=6, renewed_us=1))), "leader is b")
    assert len(said) == 1
    assert notes(drive.step(WatchSaw(held("c", version=7))), "leader is c")
    assert drive.core.leader == "c"


def test_nobody_leads_a_lock_that_is_not_there() -> None:
    """The leader as last seen is empty before anything was seen and after a deletion."""
    drive = Drive()
    assert drive.core.leader == ""
    drive.stand_by()
    assert drive.core.leader == "b"
    drive.step(WatchSaw(ABSENT))
    assert drive.core.leader == ""


# --- the guardian ----------------------------------------------------------------------------


def test_heartbeats_are_sent_every_retry_period() -> None:
    """The guardian hears from us however quiet the lock is."""
    drive = Drive()
    drive.stand_by(held(duration_s=3600))
    beats = [e for e in drive.wait(20 * SECOND_NS) if isinstance(e, SendBeat)]
    assert len(beats) == 10


def test_a_leader_whose_guardian_is_silent_stops_renewing_and_kills_it() -> None:
    """A stopped guardian counts as dead after a bounded silence: its keeper must end the tree."""
    drive = Drive()
    drive.lead()
    drive.answering = False
    since_ns = drive.now_ns
    effects: list[Effect] = []
    while KillGuardian not in kinds(effects):
        effects = drive.wait(SECOND_NS)
        if drive.call is not None:
            drive.answer(drive.lands(11 + drive.now_ns // SECOND_NS))
    assert drive.now_ns - since_ns <= TIMING.silence_bound_ns + 2 * TIMING.heartbeat_ns
    effects = drive.wait(60 * SECOND_NS)
    assert not {KillGuardian, Update, Read} & kinds(effects)


def test_a_guardian_that_comes_back_is_renewed_for_again() -> None:
    """Inside a container the guardian cannot be killed: if it continues, renewing does too."""
    drive = Drive()
    drive.lead()
    drive.answering = False
    while drive.now_ns < START_NS + 20 * SECOND_NS:
        drive.wait(SECOND_NS)
        if drive.call is not None:
            drive.answer(drive.lands(11 + drive.now_ns // SECOND_NS))
    drive.answering = True
    assert Update in kinds(drive.step(BeatReturned()))


def test_a_guardian_that_alone_can_end_the_tree_is_not_killed() -> None:
    """With the keeper dead, killing a silent guardian would leave the tree to nobody."""
    drive = Drive()
    drive.lead()
    drive.step(KeeperDied())
    drive.answering = False
    effects = drive.wait(20 * SECOND_NS)
    assert KillGuardian not in kinds(effects)
    while drive.call is not None:
        drive.answer(drive.lands(11 + drive.now_ns // SECOND_NS))
        effects = drive.wait(20 * SECOND_NS)
    assert not {KillGuardian, Update, Read} & kinds(effects)


def test_a_standby_whose_guardian_is_silent_does_not_try() -> None:
    """Nobody would start a tree."""
    drive = Drive()
    drive.stand_by()
    drive.answering = False
    assert not {Update, Read} & kinds(drive.wait(60 * SECOND_NS))
    drive.answering = True
    assert Update in kinds(drive.step(BeatReturned()))


@pytest.mark.parametrize(
    "pause_s",
    [
        5,
        9,
        12,
        20,
        3600,
    ],
)
def test_a_pause_of_our_own_does_not_make_the_guardian_silent(pause_s: int) -> None:
    """After a suspend everybody has been silent; that proves nothing."""
    drive = Drive()
    drive.lead()
    drive.tick(pause_s * SECOND_NS)
    assert KillGuardian not in kinds(drive.step())


def test_a_dead_guardians_lock_is_renewed_until_its_tree_is_gone() -> None:
    """The keeper of a dead guardian still kills: until it has ended the lock is kept."""
    drive = Drive()
    drive.lead()
    drive.step(GuardianDied())
    for version in range(11, 16):
        assert Update in kinds(drive.wait(2 * SECOND_NS))
        assert drive.written().holder == "a"
        drive.answer(drive.lands(version))
    effects = drive.step(TreeGone(None, retire=True))
    assert only(effects, Update).record.holder == ""
    assert only(drive.answer(drive.lands(20)), SendReleased).retired


def test_a_standby_whose_guardian_died_does_not_try() -> None:
    """A free lock is left to those who can run something."""
    drive = Drive()
    drive.stand_by()
    drive.step(GuardianDied())
    assert Update not in kinds(drive.step(WatchSaw(held("", version=6))))


# --- the line ----------------------------------------------------------------------------------

COURTESY_NS: Final = election._COURTESY_NS
COURTESY_LIMIT_NS: Final = COURTESY_NS + election._COURTESY_SPREAD_NS
WRITES: Final = {Update, Create, NameSuccessor}


def freed(version: int = 6, *, line: str | None = "c") -> Snapshot:
    """Return the lock as its holder gives it back."""
    return held("", version=version, duration_s=1, line=line)


def standing_by(seen: Snapshot, **changes: Any) -> Drive:
    """Return a standby whose watch is open."""
    drive = Drive(**changes)
    drive.stand_by(seen)
    return drive


def waits_to_name(drive: Drive) -> int:
    """Wait until it names itself and return how long that took; the leader renews every 9 s."""
    since_ns = renewed_ns = drive.now_ns
    while not isinstance(drive.call, NameSuccessor):
        assert drive.now_ns - since_ns < 120 * SECOND_NS, "names nobody"
        assert drive.call is None, "does something else"
        assert drive.core.wake_at_ns is not None
        next_ns = renewed_ns + 9 * SECOND_NS
        drive.wait(min(drive.core.wake_at_ns, next_ns) - drive.now_ns)
        if drive.now_ns == next_ns:
            renewed_ns = next_ns
            seen = drive.core._seen
            assert seen is not None
            record = replace(seen.record, renew_time_us=drive.wall_us)
            version = str(int(seen.version) + 1)
            drive.step(WatchSaw(replace(seen, record=record, version=version)))
    return drive.now_ns - since_ns


def test_whoever_is_next_in_line_tries_at_the_release_without_delay() -> None:
    """The one that is named does not wait for anybody."""
    drive = standing_by(held(line="a"))
    assert only(drive.step(WatchSaw(freed(line="a"))), Update).seen.version == "6"


def test_whoever_is_next_in_line_tries_at_the_expiry_without_delay() -> None:
    """The same when the leader is gone without a word."""
    drive = standing_by(held(line="a"))
    assert Update not in kinds(drive.wait(15 * SECOND_NS - 1))
    assert Update in kinds(drive.wait(1))


@pytest.mark.parametrize("line", ["", None], ids=["nobody is named", "no line is kept"])
def test_without_anybody_in_line_everybody_tries_at_once(line: str | None) -> None:
    """There is nobody to wait for."""
    drive = standing_by(held(line=line))
    assert Update in kinds(drive.step(WatchSaw(freed(line=line))))


@pytest.mark.parametrize(
    ("jitter", "after_ns"),
    [(0.0, COURTESY_NS), (0.75, COURTESY_NS + 3 * election._COURTESY_SPREAD_NS // 4)],
)
def test_others_leave_a_released_lock_to_whoever_is_next(jitter: float, after_ns: int) -> None:
    """If it is dead, another takes over after a moment of its own, within the bound."""
    drive = Drive()
    drive.jitter = jitter
    drive.stand_by(held(line="c"))
    assert not WRITES & kinds(drive.step(WatchSaw(freed())))
    assert not WRITES & kinds(drive.wait(after_ns - 1))
    assert only(drive.wait(1), Update).record.holder == "a"


def test_others_leave_an_expired_lock_to_whoever_is_next() -> None:
    """The courtesy comes on top of the duration."""
    drive = standing_by(held(line="c"))
    assert not WRITES & kinds(drive.wait(15 * SECOND_NS + COURTESY_NS))
    assert Update in kinds(drive.wait(COURTESY_LIMIT_NS - COURTESY_NS))


def test_others_give_up_when_they_see_a_holder() -> None:
    """Within the courtesy the news arrive, and nothing has been asked of the server."""
    drive = standing_by(held(line="c"))
    effects = drive.step(WatchSaw(freed()))
    effects += drive.wait(COURTESY_NS - 1)
    effects += drive.step(WatchSaw(held("c", version=7, line="")))
    effects += drive.wait(COURTESY_LIMIT_NS)
    assert not ({Read} | WRITES) & kinds(effects)
    assert drive.core.leader == "c"


def test_a_lock_that_is_already_free_is_left_to_whoever_is_next() -> None:
    """A candidate that starts meanwhile waits as well, though nobody may be there."""
    drive = Drive()
    drive.step()
    assert not WRITES & kinds(drive.answer(freed()))
    assert Update in kinds(drive.wait(COURTESY_LIMIT_NS))


def test_a_line_of_the_dead_does_not_keep_the_only_candidate_away() -> None:
    """An ancient successor costs the courtesy once for each time the lock is free, no more."""
    drive = Drive()
    drive.step()
    drive.answer(freed(line="dead for a year"))
    drive.wait(COURTESY_LIMIT_NS)
    drive.fail(FailureKind.UNAVAILABLE)
    while not isinstance(drive.call, Read):
        drive.wait(100 * MS)
    assert Update in kinds(drive.answer(freed(line="dead for a year"))), "the courtesy is over"
    taken = drive.lands(9)
    assert taken.successor == ""
    drive.answer(taken)
    assert drive.core.state is State.LEADER


def test_a_standby_names_itself_once_at_a_moment_of_its_own() -> None:
    """Jitter decides when; whoever is in line has nothing more to do."""
    drive = standing_by(held(line=""))
    drive.jitter = 0.25
    waited_ns = waits_to_name(drive)
    call = drive.call
    assert isinstance(call, NameSuccessor)
    assert (call.successor, call.seen) == ("a", held(line=""))
    later = standing_by(held(line=""))
    assert waits_to_name(later) == waited_ns, "drawn when the watch opened, at 0.5"
    drive.answer(drive.lands(6))
    for version in range(7, 30):
        assert not ({Read} | WRITES) & kinds(drive.wait(2 * SECOND_NS))
        drive.step(WatchSaw(held(version=version, renewed_us=drive.wall_us, line="a")))


def test_renewals_that_are_seen_do_not_put_off_naming() -> None:
    """The moment is drawn once, however often the record changes until it comes."""
    waited_ns = waits_to_name(standing_by(held(line="")))
    drive = standing_by(held(line=""))
    for version in range(6, 6 + waited_ns // SECOND_NS):
        drive.wait(SECOND_NS - 1)
        drive.step(WatchSaw(held(version=version, renewed_us=drive.wall_us, line="")))
    drive.wait(waited_ns % SECOND_NS + waited_ns // SECOND_NS)
    assert isinstance(drive.call, NameSuccessor)


def test_whoever_sees_another_in_line_names_nobody() -> None:
    """First come, first served."""
    drive = standing_by(held(line=""))
    drive.wait(SECOND_NS)
    drive.step(WatchSaw(held(version=6, line="c")))
    for version in range(7, 60):
        assert not WRITES & kinds(drive.wait(2 * SECOND_NS))
        drive.step(WatchSaw(held(version=version, renewed_us=drive.wall_us, line="c")))


@pytest.mark.parametrize(
    "bring",
    [
        lambda drive: drive.stand_by(held(line=None)),
        lambda drive: drive.stand_by(held(line="c")),
        lambda drive: drive.stand_by(held(line="a")),
        lambda drive: (drive.step(), drive.answer(held(line=""))),
        lambda drive: (drive.stand_by(held(line="")), drive.step(WatchSaw(ABSENT))),
        lambda drive: (drive.stand_by(held(line="")), drive.step(GuardianDied())),
        lambda drive: (drive.step(), drive.answer(freed(line="")), drive.answer(drive.lands(9))),
    ],
    ids=[
        "no line",
        "another is next",
        "we are next",
        "the watch is not open",
        "deleted",
        "dead guardian",
        "we lead",
    ],
)
def test_naming_needs_an_open_watch_and_another_holder(bring: Callable[[Drive], object]) -> None:
    """Whoever could not go first, or need not, does not stand in line."""
    drive = Drive()
    bring(drive)
    effects: list[Effect] = []
    for version in range(10, 24):
        effects += drive.wait(SECOND_NS)
        if isinstance(drive.call, Read):
            effects += drive.answer(held(version=version, renewed_us=drive.wall_us, line=""))
        elif drive.call is not None:
            effects += drive.answer(drive.lands(version))
    assert NameSuccessor not in kinds(effects)


def test_nobody_is_in_line_behind_its_own_name() -> None:
    """A twin under our --id leads: in line behind it, our name would be the leader's own."""
    drive = standing_by(held("a", line=""), unique=False)
    assert not WRITES & kinds(drive.wait(15 * SECOND_NS - 1))


def test_a_free_lock_has_no_line() -> None:
    """While the tree of a lost leadership still dies, a free lock is left alone, unnamed."""
    drive = Drive()
    drive.step()
    drive.answer(freed(line=""))
    drive.answer(drive.lands(10))
    drive.wait(2 * SECOND_NS)
    drive.fail(FailureKind.CONFLICT)
    drive.answer(held("b", version=12, line=""))
    while not isinstance(drive.call, Read):
        drive.wait(100 * MS)
    drive.answer(held("b", version=12, line=""))
    drive.step(WatchOpened())
    drive.step(WatchSaw(freed(13, line="")))
    assert not WRITES & kinds(drive.wait(14 * SECOND_NS))
    assert drive.call is None


def test_a_conflict_over_naming_causes_no_read_and_doubles_the_spread() -> None:
    """Of many that name themselves one succeeds, and the watch brings the news to the others."""
    drive = standing_by(held(line=""))
    waits = []
    for _ in range(8):
        waits.append(waits_to_name(drive))
        assert Read not in kinds(drive.fail(FailureKind.CONFLICT))
    assert waits[1] == 2 * waits[0]
    assert waits == sorted(waits)
    assert waits[-1] == waits[-2] == 30 * SECOND_NS, "half of a minute, with this jitter"


def test_a_new_holder_begins_a_new_line() -> None:
    """Moment and spread are drawn anew, so that nobody goes at a moment that has passed."""
    drive = standing_by(held(line=""))
    first_ns = waits_to_name(drive)
    drive.fail(FailureKind.CONFLICT)
    drive.wait(first_ns + SECOND_NS)
    drive.step(WatchSaw(held("c", version=8, line="")))
    assert waits_to_name(drive) == first_ns


def test_a_new_watch_draws_a_new_moment() -> None:
    """The watches of all standbys may have ended at once: they do not name themselves at once."""
    drive = standing_by(held(line=""))
    drive.wait(100 * MS)
    drive.step(WatchEnded(None))
    effects: list[Effect] = []
    for version in range(10, 30):
        effects += drive.wait(SECOND_NS)
        if drive.call is not None:
            effects += drive.answer(held(version=version, renewed_us=drive.wall_us, line=""))
    assert NameSuccessor not in kinds(effects), "another watch was not opened yet"
    drive.step(WatchOpened())
    assert drive.call is None
    assert waits_to_name(drive) > SECOND_NS


def _names_within(drive: Drive, for_ns: int, answer: Callable[[], object]) -> int:
    """Let a leader renew for so long and count how often a standby names itself."""
    names, version = 0, 100
    until_ns = drive.now_ns + for_ns
    while drive.now_ns < until_ns:
        drive.wait(SECOND_NS)
        if isinstance(drive.call, NameSuccessor):
            names += 1
            answer()
        version += 1
        drive.step(WatchSaw(held(version=version, renewed_us=drive.wall_us, line="")))
    return names


def test_naming_that_is_forbidden_does_not_become_a_storm() -> None:
    """It is said once, reads nothing, and is tried less and less often."""
    drive = standing_by(held(line=""))
    names = _names_within(drive, 3600 * SECOND_NS, lambda: drive.fail(FailureKind.FORBIDDEN))
    assert 60 <= names <= 130
    assert [n.level for n in notes(drive.effects, "it is forbidden")].count("warning") == 1
    assert sum(isinstance(e, Read) for e in drive.effects) == 1, "the first one"


def test_naming_that_is_taken_out_again_does_not_become_a_storm() -> None:
    """Where a webhook drops the name from each write, the leader is not kept from renewing."""
    drive = standing_by(held(line=""))

    def drop() -> None:
        assert isinstance(drive.call, NameSuccessor)
        drive.answer(replace(drive.call.seen, version=str(int(drive.call.seen.version) + 1)))

    assert 60 <= _names_within(drive, 3600 * SECOND_NS, drop) <= 130


def test_a_release_that_comes_while_naming_is_followed_at_once() -> None:
    """The naming was too late, which is its answer: then the lock is free, with nobody in line."""
    drive = standing_by(held(line=""))
    waits_to_name(drive)
    assert not WRITES & kinds(drive.step(WatchSaw(freed(line=""))))
    assert only(drive.fail(FailureKind.CONFLICT), Update).seen.version == "6"


def test_an_answer_to_a_naming_that_is_older_than_the_release_is_no_news() -> None:
    """The naming landed, the release did, and the watch was faster than the reply."""
    drive = standing_by(held(line=""))
    waits_to_name(drive)
    named = drive.lands(6)
    drive.tick(MS)
    drive.step(WatchSaw(freed(7, line="a")))
    assert only(drive.answer(named), Update).seen.version == "7"


def test_a_naming_whose_reply_was_lost_is_found_done() -> None:
    """A read after the unknown outcome shows our name; nothing is written again."""
    drive = standing_by(held(line=""))
    waits_to_name(drive)
    named = drive.lands(6)
    effects = drive.fail(FailureKind.UNAVAILABLE)
    assert CloseWatch in kinds(effects), "its connection may be as dead"
    while not isinstance(drive.call, Read):
        drive.wait(100 * MS)
    effects = drive.answer(named)
    drive.step(WatchOpened())
    effects += drive.wait(3 * SECOND_NS)
    assert not WRITES & kinds(effects)
    assert Update in kinds(drive.step(WatchSaw(freed(8, line="a")))), "we are next"


def test_a_naming_does_not_look_like_a_renewal() -> None:
    """Another version of the same record keeps no dead leader's lease alive."""
    drive = standing_by(held(line=""))
    waited_ns = waits_to_name(drive)
    drive.answer(drive.lands(6))
    assert not WRITES & kinds(drive.wait(15 * SECOND_NS - waited_ns - 1))
    assert Update in kinds(drive.wait(1))


def test_a_naming_that_finds_nothing_does_not_make_the_lock_free() -> None:
    """Rule 2: who held the deleted object may run until its duration has passed."""
    drive = standing_by(held(line=""))
    waited_ns = waits_to_name(drive)
    effects = drive.fail(FailureKind.ABSENT)
    effects += drive.wait(15 * SECOND_NS - waited_ns - 1)
    assert not WRITES & kinds(effects)
    assert Create in kinds(drive.wait(1))


def test_a_naming_that_created_another_object_is_waited_out() -> None:
    """Rule 2: whoever holds the object that was brought back by mistake has all of its lease."""
    drive = standing_by(held(line=""))
    waits_to_name(drive)
    effects = drive.answer(drive.lands(30, uid="u2"))
    effects += drive.wait(15 * SECOND_NS - 1)
    assert not WRITES & kinds(effects)
    assert Update in kinds(drive.wait(1))


def test_a_standby_that_ends_does_not_wait_for_its_naming() -> None:
    """Whether it lands or not, nobody holds anything: we retire at once, and its reply is lost."""
    drive = standing_by(held(line=""))
    waits_to_name(drive)
    named = drive.lands(6)
    effects = drive.step(TreeGone(None, retire=True))
    assert only(effects, SendReleased) == SendReleased(None, "not held", retired=True)
    assert drive.core.state is State.RETIRED
    assert not drive.answer(named)


@pytest.mark.parametrize("kind", [None, *FailureKind], ids=str)
def test_a_standby_that_ends_while_naming_gives_back_what_it_may_hold(
    kind: FailureKind | None,
) -> None:
    """An attempt of unknown fate is looked for after the naming in flight has ended, however."""
    drive = standing_by(held(line=""))
    drive.core._attempt_open, drive.core._attempt_over = True, drive.core._seen
    waits_to_name(drive)
    landed = replace(drive.lands(7), record=Record("a", 15, WALL_US, WALL_US, 4))
    assert not ({Read, SendReleased} | WRITES) & kinds(drive.step(TreeGone(None, retire=True)))
    drive.answer(drive.lands(6)) if kind is None else drive.fail(kind)
    for _ in range(40):
        if isinstance(drive.call, Read):
            drive.answer(landed)
        elif isinstance(drive.call, Update) and drive.call.seen == landed:
            assert drive.call.record.holder == ""
            drive.answer(drive.lands(8))
        elif drive.call is not None:
            drive.fail(FailureKind.CONFLICT)
        drive.wait(200 * MS)
    assert only(drive.effects, SendReleased).retired


def test_a_leader_renews_over_a_naming() -> None:
    """A standby's naming costs the leader a conflict and a read, not its leadership."""
    drive = Drive()
    drive.step()
    drive.answer(freed(line=""))
    mine = drive.lands(10)
    drive.answer(mine)
    drive.wait(2 * SECOND_NS)
    assert Read in kinds(drive.fail(FailureKind.CONFLICT))
    assert drive.core.slow_renewals == 1
    named = replace(mine, version="11", successor="b")
    assert only(drive.answer(named), Update).seen == named
    assert only(drive.answer(drive.lands(12)), SendGrant).grant.token == 10


def test_a_leader_gives_back_over_a_naming() -> None:
    """The release that met a naming is tried again over it, and the name stays in line."""
    drive = Drive()
    drive.step()
    drive.answer(freed(line=""))
    mine = drive.lands(10)
    drive.answer(mine)
    drive.step(TreeGone(Token(10), retire=True))
    assert Read in kinds(drive.fail(FailureKind.CONFLICT))
    drive.answer(replace(mine, version="11", successor="b"))
    released = drive.lands(12)
    assert (released.record.holder, released.successor) == ("", "b")
    assert only(drive.answer(released), SendReleased).outcome == "released"


def test_an_open_watch_that_is_dead_costs_few_namings_and_no_more_than_a_lease() -> None:
    """Namings conflict with renewals that are not seen; the try at the expiry shows why."""
    drive = standing_by(held(line=""))
    drive.jitter = 0.0
    names = 0
    while drive.now_ns < START_NS + 15 * SECOND_NS:
        drive.wait(50 * MS)
        if isinstance(drive.call, NameSuccessor):
            names += 1
            drive.jitter = 0.5
            drive.fail(FailureKind.CONFLICT)
    assert isinstance(drive.call, Update)
    drive.fail(FailureKind.CONFLICT)
    assert notes(drive.wait(SECOND_NS), "silently died")
    assert 1 <= names <= 4


# --- locks of old: whole seconds, and peers that judge by their own durations ---------------------


def old(**changes: Any) -> Drive:
    """Return a candidate with the timing of `--ttl=10s` on a lock of 2016."""
    return Drive(**{"timing": OLD, "traits": OLD_TRAITS, **changes})


def test_times_are_written_in_whole_seconds() -> None:
    """What the format cannot hold is not written, so that what is read is what was written."""
    drive = old()
    drive.wall_us = WALL_US + 654_321
    drive.lead()
    renewals: list[int] = []
    acquisitions: list[int | None] = []
    for version in range(11, 15):
        drive.wait(OLD.retry_period_ns)
        acquisitions.append(drive.written().acquire_time_us)
        renewals.append(drive.renewed_us())
        drive.answer(drive.lands(version))
    drive.step(TreeGone(Token(10), retire=True))
    renewals.append(drive.renewed_us())
    assert drive.written().acquire_time_us == WALL_US + 10 * SECOND_US, "when it became free"
    assert set(acquisitions) == {WALL_US}
    assert not any(time_us % SECOND_US for time_us in renewals)
    assert all(later - sooner >= SECOND_US for sooner, later in pairwise(renewals))


def test_whole_seconds_grow_with_every_write_within_one_second() -> None:
    """Rule 1 holds where a second has no parts: each write is in a later one than the last."""
    drive = old()
    drive.wall_us = WALL_US + 900_000
    drive.step()
    drive.answer(FREE)
    written = [drive.renewed_us()]
    drive.answer(drive.lands(10))
    for version in range(11, 20):
        drive.core._renew_at_ns = drive.now_ns
        drive.step()
        written.append(drive.renewed_us())
        drive.answer(drive.lands(version))
    assert written == [WALL_US + n * SECOND_US for n in range(10)]


@pytest.mark.parametrize(
    ("peers_s", "granted_s"), [((8,), 8), ((8, 12), 8), ((12, 8), 8), ((12,), 10), ((10,), 10)]
)
def test_a_grant_is_no_longer_than_the_shortest_duration_seen(
    peers_s: tuple[int, ...], granted_s: int
) -> None:
    """Who once wrote a shorter duration may judge our record by it."""
    drive = old()
    drive.stand_by(held(f"peer of {peers_s[0]}", duration_s=peers_s[0]))
    for version, duration_s in enumerate(peers_s[1:], 6):
        drive.step(WatchSaw(held(f"peer of {duration_s}", version=version, duration_s=duration_s)))
    drive.step(WatchSaw(held("", version=9, duration_s=1)))
    assert drive.written().lease_duration_s == 10, "others judge us by what we are told to keep"
    sent_ns = drive.now_ns
    drive.tick(MS)
    grant = only(drive.answer(drive.lands(10)), SendGrant).grant
    assert grant.expires_at_ns - sent_ns == granted_s * SECOND_NS
    drive.wait(OLD.retry_period_ns)
    grant = only(drive.answer(drive.lands(11)), SendGrant).grant
    assert grant.expires_at_ns - grant.renewed_at_ns == granted_s * SECOND_NS


@pytest.mark.parametrize(
    "seen",
    [
        held("", duration_s=1),
        held("b", duration_s=0),
        held("a", duration_s=3),
    ],
    ids=["nobody", "no duration", "a former life of ours"],
)
def test_durations_that_are_nobodys_judgment_bound_nothing(seen: Snapshot) -> None:
    """A released record says 1 s, a broken one nothing, and our own is not another candidate's."""
    drive = old(slot=True)
    drive.stand_by(seen)
    drive.wait(10 * SECOND_NS)
    grant = only(drive.answer(drive.lands(10)), SendGrant).grant
    assert grant.expires_at_ns - grant.renewed_at_ns == 10 * SECOND_NS


def test_where_peers_judge_by_the_record_their_durations_bound_nothing() -> None:
    """Candidates on a Lease wait for as long as our record says."""
    drive = Drive()
    drive.stand_by(held(duration_s=3))
    drive.step(WatchSaw(held("", version=6)))
    grant = only(drive.answer(drive.lands(10)), SendGrant).grant
    assert grant.expires_at_ns - grant.renewed_at_ns == 15 * SECOND_NS


def test_beside_a_peer_that_is_too_short_we_stand_by_and_say_so_once() -> None:
    """A leadership could not last from one renewal to the next: nothing is tried, nobody named."""
    drive = old()
    drive.stand_by(held(duration_s=5, line=""))
    drive.step(WatchSaw(held("", version=6, line="")))
    effects = []
    for version in range(7, 40):
        effects += drive.wait(5 * SECOND_NS)
        assert drive.core.wake_at_ns is not None
        holder = "b" if version % 4 else ""
        effects += drive.step(WatchSaw(held(holder, version=version, duration_s=5, line="")))
    assert not WRITES & kinds(effects)
    (said,) = notes(drive.effects, "standing by")
    assert said.level == "error"
    assert "5s" in said.event
    assert "--retry-period 2.5s" in said.event


def test_a_candidate_that_may_not_lead_still_gives_back_and_retires() -> None:
    """Standing by for good is not being stuck."""
    drive = old()
    drive.stand_by(held(duration_s=5))
    drive.wait(20 * SECOND_NS)
    assert only(drive.step(TreeGone(None, retire=True)), SendReleased).retired


def test_the_least_duration_that_serves_is_tried() -> None:
    """A leadership must outlast 1.2 retry periods of 2.5 s, after a margin of 2.1 s."""
    for duration_s, serves in ((5, False), (6, True)):
        drive = old()
        drive.stand_by(held(duration_s=duration_s))
        drive.step(WatchSaw(held("", version=6)))
        assert (drive.call is not None) == serves


def test_an_heir_keeps_the_bound_of_its_predecessor() -> None:
    """A new elector has seen nobody, but its guardian knows how long the grants were."""
    found = held("a", version=20, duration_s=10)
    claim = Claim("a", found.record.acquire_time_us, found.record.transitions)
    for granted_s in (8, None):
        granted_ns = None if granted_s is None else granted_s * SECOND_NS
        drive = old(inherited=Holding(Token(10), "u1", claim, granted_ns), generation=2)
        drive.step()
        drive.answer(found)
        for version in (21, 22):
            grant = only(drive.answer(drive.lands(version)), SendGrant).grant
            assert grant.expires_at_ns - grant.renewed_at_ns == (granted_s or 10) * SECOND_NS
            drive.wait(OLD.retry_period_ns)


# --- one id for two, on locks of old --------------------------------------------------------------


def _same_second_twins() -> tuple[Drive, Drive, Snapshot]:
    """Return the twin that won the race for a free lock, the other, and what the first wrote."""
    winner, loser = old(unique=False), old(unique=False)
    for twin in (winner, loser):
        twin.wall_us += 300_000 if twin is winner else 700_000
        twin.stand_by(held("b", duration_s=10))
        twin.step(WatchSaw(held("", version=6, duration_s=1)))
    assert winner.written() == loser.written(), "one second, one record"
    landed = winner.lands(7)
    assert SendGrant in kinds(winner.answer(landed))
    return winner, loser, landed


@pytest.mark.parametrize(
    "kind", [FailureKind.CONFLICT, FailureKind.FORBIDDEN, FailureKind.UNAVAILABLE], ids=str
)
@pytest.mark.parametrize("news", ["watched before", "watched after", "read"])
def test_twins_of_one_second_never_both_lead(kind: FailureKind, news: str) -> None:
    """Whatever became of a twin's write, the same record by the other is not taken for its own."""
    winner, loser, landed = _same_second_twins()
    if news == "watched before":
        loser.step(WatchSaw(landed))
    effects = loser.fail(kind)
    if news == "watched after":
        effects += loser.step(WatchSaw(landed))
    for version in range(8, 20):
        assert SendLost not in kinds(winner.wait(OLD.retry_period_ns))
        landed = winner.lands(version)
        winner.answer(landed)
        effects += loser.wait(OLD.retry_period_ns // 2)
        effects += loser.answer(landed) if isinstance(loser.call, Read) else []
        effects += loser.step(WatchOpened()) + loser.step(WatchSaw(landed))
        effects += loser.wait(OLD.retry_period_ns // 2)
    assert not {SendGrant, Update, Create} & kinds(effects)
    assert winner.core.state is State.LEADER


def test_twins_of_one_second_that_are_both_told_to_leave_do_not_release_each_other() -> None:
    """Rule 14 with a write of unknown fate: what looks like ours may be the twin's, and is left."""
    _, loser, landed = _same_second_twins()
    loser.fail(FailureKind.UNAVAILABLE)
    loser.step(TreeGone(None, retire=True))
    effects = loser.answer(landed)
    assert not WRITES & kinds(effects)
    assert only(effects, SendReleased).outcome == "not held"


def test_a_lost_reply_costs_a_lease_where_ids_are_not_unique() -> None:
    """The price of the rule: our own write is waited out like a twin's, and then replaced."""
    drive = old(unique=False)
    drive.step()
    drive.answer(FREE)
    landed = drive.lands(6)
    drive.fail(FailureKind.UNAVAILABLE)
    while not isinstance(drive.call, Read):
        drive.wait(100 * MS)
    assert not WRITES & kinds(drive.answer(landed))
    drive.step(WatchOpened())
    assert not WRITES & kinds(drive.wait(10 * SECOND_NS - 1))
    assert only(drive.wait(1), Update).record.transitions == landed.record.transitions + 1


def test_a_lost_reply_costs_nothing_where_the_name_is_unique() -> None:
    """Nobody else can have written it, whatever the precision of its times."""
    drive = old()
    drive.step()
    drive.answer(FREE)
    landed = drive.lands(6)
    drive.fail(FailureKind.UNAVAILABLE)
    while not isinstance(drive.call, Read):
        drive.wait(100 * MS)
    assert only(drive.answer(landed), Update).seen == landed


def test_a_refused_attempt_is_over() -> None:
    """403 landed nothing: whoever is told to end then does not look for it."""
    drive = Drive()
    drive.step()
    drive.answer(FREE)
    drive.fail(FailureKind.FORBIDDEN)
    effects = drive.step(TreeGone(None, retire=True))
    assert only(effects, SendReleased) == SendReleased(None, "not held", retired=True)


def test_a_refused_attempt_after_a_lost_one_leaves_that_open() -> None:
    """403 says nothing about the attempt before, which may still land."""
    drive = Drive()
    drive.step()
    drive.answer(FREE)
    first = drive.lands(6)
    drive.fail(FailureKind.UNAVAILABLE)
    drive.wait(5 * SECOND_NS)
    drive.answer(FREE)
    drive.fail(FailureKind.FORBIDDEN)
    drive.step(TreeGone(None, retire=True))
    assert only(drive.answer(first), Update).record.holder == ""


# --- a container in its slot -------------------------------------------------------------------


def test_a_slot_takes_its_lease_back_as_soon_as_it_is_seen() -> None:
    """A late acquisition of the killed life, seen by the watch of its next one, is ours at once."""
    drive = standing_by(held("", duration_s=1, line="c"), slot=True)
    assert drive.call is None, "another is next in line"
    update = only(drive.step(WatchSaw(held("a", version=7, line=""))), Update)
    assert update.seen.version == "7"
    assert update.record.transitions == held("a").record.transitions


def test_a_slot_that_meets_late_renewals_of_its_former_life_leads_after_its_own_write() -> None:
    """Whichever lands first, the other conflicts; nothing is granted for what the dead wrote."""
    drive = Drive(slot=True)
    drive.step()
    effects = drive.answer(held("a", version=7))
    for version in (8, 9):
        late = held("a", version=version, renewed_us=WALL_US + version * SECOND_US)
        effects += drive.fail(FailureKind.CONFLICT)
        effects += drive.answer(late)
        assert drive.renewed_us() > (late.record.renew_time_us or 0)
    assert SendGrant not in kinds(effects)
    sent_ns = drive.now_ns
    grant = only(drive.answer(drive.lands(10)), SendGrant).grant
    assert (grant.token, grant.renewed_at_ns) == (10, sent_ns)


def test_a_slot_that_meets_a_late_release_of_its_former_life_acquires() -> None:
    """The killed life was giving back: that lands, and the lock is free."""
    drive = Drive(slot=True)
    drive.step()
    drive.answer(held("a", version=7))
    drive.fail(FailureKind.CONFLICT)
    update = only(drive.answer(freed(8, line="")), Update)
    assert update.record.transitions == freed().record.transitions + 1
    assert only(drive.answer(drive.lands(9)), SendGrant).grant.token == 9


def test_a_slot_whose_lease_another_has_taken_waits_like_everybody() -> None:
    """The name gives no right to what another holds by now."""
    drive = Drive(slot=True)
    drive.step()
    drive.answer(held("a", version=7))
    drive.fail(FailureKind.CONFLICT)
    assert not WRITES & kinds(drive.answer(held("b", version=8)))
    assert not WRITES & kinds(drive.wait(TIMING.retry_period_ns))


def test_a_slot_is_next_in_line_if_its_former_life_was() -> None:
    """The name in line is the slot's as well."""
    drive = standing_by(held(line="c"))
    is_next = [drive.core.is_next]
    drive.step(WatchSaw(held(version=6, line="a")))
    assert [*is_next, drive.core.is_next] == [False, True]
    drive.wait(SECOND_NS)
    assert Update in kinds(drive.step(WatchSaw(freed(7, line="a"))))


def test_an_heir_with_a_unique_name_resumes_by_the_claim_alone() -> None:
    """For a leadership that goes on the name is not enough: another token is another tree."""
    drive, found = heir()
    drive.step()
    record = replace(found.record, transitions=found.record.transitions + 1)
    effects = drive.answer(replace(found, record=record))
    assert only(effects, SendLost).token == 10
    assert not WRITES & kinds(effects), "not before the tree of the lost leadership is gone"
    assert Update not in kinds(drive.wait(30 * SECOND_NS))
    drive.answer(replace(found, record=record)) if isinstance(drive.call, Read) else None
    assert Update in kinds(drive.step(TreeGone(Token(10), retire=False)))


# --- what is told of the lock ------------------------------------------------------------------


def test_a_leader_is_to_be_believed_until_a_renewal_is_overdue() -> None:
    """Each counted renewal puts the time off; giving back does not end it before it is done."""
    drive = Drive()
    drive.lead()
    assert drive.core.leader_until_ns == START_NS + 10 * SECOND_NS
    drive.wait(2 * SECOND_NS)
    drive.tick(SECOND_NS)
    drive.answer(drive.lands(11))
    assert drive.core.leader == "a"
    assert drive.core.leader_until_ns == START_NS + 12 * SECOND_NS
    drive.step(TreeGone(Token(10), retire=False))
    assert drive.core.leader_until_ns == START_NS + 12 * SECOND_NS
    drive.answer(drive.lands(12))
    assert drive.core.leader == ""


def test_a_leader_that_short_peers_bound_is_believed_for_less() -> None:
    """After its tree must be dead nobody says that it leads."""
    drive = Drive(timing=Timing(15, 10 * SECOND_NS, SECOND_NS), traits=OLD_TRAITS)
    drive.stand_by(held(duration_s=5))
    drive.step(WatchSaw(held("", version=6)))
    drive.answer(drive.lands(10))
    assert drive.core.leader_until_ns == START_NS + 5 * SECOND_NS - TIMING.margin_ns


def test_another_leader_is_to_be_believed_until_its_lease_runs_out() -> None:
    """From when its record was last seen to change, also while we ourselves are leaving."""
    drive = Drive()
    drive.stand_by(held(duration_s=20))
    drive.wait(SECOND_NS)
    drive.step(WatchSaw(held(version=6, duration_s=20)))
    assert drive.core.leader_until_ns == START_NS + 20 * SECOND_NS
    drive.step(WatchSaw(held(version=7, duration_s=20, renewed_us=WALL_US + 5)))
    assert drive.core.leader_until_ns == START_NS + 21 * SECOND_NS
    drive.step(TreeGone(None, retire=True))
    assert (drive.core.leader, drive.core.leader_until_ns) == ("b", START_NS + 21 * SECOND_NS)


def test_an_acquisition_that_is_to_be_undone_makes_nobody_a_leader() -> None:
    """Told to leave while trying, we may hold the lock, but never led."""
    drive = Drive()
    drive.stand_by(held(duration_s=1))
    drive.wait(SECOND_NS)
    drive.step(TreeGone(None, retire=True))
    assert drive.core.state is State.RELEASING
    assert drive.core.leader_until_ns <= drive.now_ns


def test_what_a_former_life_wrote_is_nobodys_leadership() -> None:
    """A slot that reads its own name does not lead yet; nor is anybody known before a read."""
    drive = Drive(slot=True)
    assert drive.core.leader_until_ns <= drive.now_ns
    drive.step()
    drive.answer(held("a"))
    assert drive.core.state is State.STANDBY
    assert drive.core.leader_until_ns <= drive.now_ns


@pytest.mark.parametrize("slot", [False, True])
def test_our_own_name_is_told_to_nobody_before_we_lead(slot: bool) -> None:
    """What a dead elector of ours, or a hand, wrote in our name makes nobody leader."""
    drive = Drive(slot=slot)
    drive.step()
    effects = drive.answer(held("a"))
    assert drive.core.leader_until_ns <= drive.now_ns
    assert SendStanding not in kinds(effects)
    notes = [effect.event for effect in effects if isinstance(effect, Note)]
    assert not any(note.startswith("leader is") for note in notes)
    assert ("our name is in a record that is not ours: waiting it out" in notes) is not slot


def test_a_record_that_was_ours_frees_nothing_once_another_has_led() -> None:
    """Who restores the record of a former leader does not make it leader beside the present one."""
    drive = Drive()
    drive.lead()
    ours = drive.core.record
    assert ours is not None
    drive.wait(2 * SECOND_NS)
    drive.fail(FailureKind.CONFLICT)
    effects = drive.answer(held("b", version=12))
    drive.step(TreeGone(only(effects, SendLost).token, retire=False))
    assert Read in kinds(drive.wait(4 * SECOND_NS))
    assert OpenWatch in kinds(drive.answer(held("b", version=12)))
    drive.step(WatchOpened())
    restored = replace(held("b", version=13), record=ours)
    assert not WRITES & kinds(drive.step(WatchSaw(restored)) + drive.wait(14 * SECOND_NS))
    assert Update in kinds(drive.wait(2 * SECOND_NS))


def test_a_record_that_was_given_back_frees_nothing_when_it_is_restored() -> None:
    """Who puts the record of a released leadership back does not make it leader again at once."""
    drive = _releasing()
    ours = drive.core.record
    assert ours is not None
    drive.answer(drive.lands(11))
    assert not WRITES & kinds(drive.answer(replace(held("a", version=12), record=ours)))
    drive.step(WatchOpened())
    assert not WRITES & kinds(drive.wait(14 * SECOND_NS))
    assert Update in kinds(drive.wait(2 * SECOND_NS))


def test_the_record_is_as_last_seen() -> None:
    """None before anything was seen and after a deletion."""
    drive = Drive()
    records = [drive.core.record]
    drive.stand_by()
    records.append(drive.core.record)
    drive.step(WatchSaw(ABSENT))
    assert [*records, drive.core.record] == [None, held().record, None]


def test_a_call_is_told_by_what_it_is_for() -> None:
    """From when it is made until its answer has been taken note of."""
    drive = standing_by(held(line=""))
    assert drive.core.calling == ""
    seen = set()
    waits_to_name(drive)
    seen.add(drive.core.calling)
    drive.fail(FailureKind.CONFLICT)
    drive.step(WatchSaw(freed(line="a")))
    seen.add(drive.core.calling)
    drive.answer(drive.lands(10))
    drive.wait(2 * SECOND_NS)
    seen.add(drive.core.calling)
    drive.fail(FailureKind.CONFLICT)
    seen.add(drive.core.calling)
    drive.step(TreeGone(Token(10), retire=True))
    drive.answer(held("a", version=12, acquired_us=WALL_US + 5 * SECOND_US, transitions=4))
    seen.add(drive.core.calling)
    assert seen == {"name_successor", "acquire", "renew", "read", "release"}


# --- two hundred standbys ------------------------------------------------------------------------


class Crowd:
    """Many election cores on one lock: a write takes 5 ms, the watch tells after 5 to 50 ms."""

    def __init__(self, count: int) -> None:
        self.now_ns = START_NS
        self.store = MemoryStore()
        self.leader = ""
        #: What standbys asked of the server, and how often one of them took its watch for dead.
        self.asked: Counter[str] = Counter()
        self._rng = random.Random(count)
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._sent = 0
        self._told_ns: dict[str, int] = {}
        self.cores = {str(number): self._core(str(number)) for number in range(count)}
        for name in self.cores:
            self._later(self._rng.randrange(SECOND_NS), self._step, name, Woke())

    def _core(self, name: str) -> Election:
        return Election(
            identity=name,
            unique=True,
            timing=TIMING,
            generation=1,
            jitter=self._rng.random,
            now=self._now(),
        )

    def _now(self) -> Now:
        return Now(self.now_ns, WALL_US + self.now_ns // 1000)

    def run(self, until: Callable[[], bool], bound_ns: int = 60 * SECOND_NS) -> int:
        """Let things happen until something holds; return how long it took."""
        since_ns = self.now_ns
        while not until():
            self.now_ns, _, act = heapq.heappop(self._events)
            act()
            assert self.now_ns - since_ns < bound_ns
        return self.now_ns - since_ns

    def run_for(self, for_ns: int) -> None:
        until_ns = self.now_ns + for_ns
        self.run(lambda: self._events[0][0] > until_ns)
        self.now_ns = until_ns

    def release(self) -> None:
        """Let the leader give the lock back and campaign again."""
        leader, self.leader = self.leader, ""
        holding = self.cores[leader]._holding
        assert holding is not None
        self._step(leader, TreeGone(holding.token, retire=False))

    def kill(self, name: str) -> None:
        del self.cores[name]
        self._told_ns.pop(name, None)
        if self.leader == name:
            self.leader = ""

    def _later(self, after_ns: int, act: Callable[..., None], *args: Any) -> None:
        self._sent += 1
        heapq.heappush(self._events, (self.now_ns + after_ns, self._sent, lambda: act(*args)))

    def _step(self, name: str, event: Event) -> None:
        if name not in self.cores:
            return
        core = self.cores[name]
        for effect in core.step(event, self._now()):
            self._carry_out(name, effect)
        if core.wake_at_ns is not None:
            assert core.wake_at_ns > self.now_ns
            self._later(core.wake_at_ns - self.now_ns, self._wake, name, core.wake_at_ns)

    def _wake(self, name: str, at_ns: int) -> None:
        if name in self.cores and self.cores[name].wake_at_ns == at_ns:
            self._step(name, Woke())

    def _carry_out(self, name: str, effect: Effect) -> None:
        match effect:
            case Read() | Create() | Update() | NameSuccessor():
                if self.cores[name].state is State.STANDBY:
                    self.asked[type(effect).__name__] += 1
                self._later(5 * MS // 2, self._land, name, effect)
            case OpenWatch():
                self._told_ns[name] = self.now_ns
                self._tell(name, WatchOpened())
                self._tell(name, WatchSaw(self.store.read()))
            case CloseWatch():
                self._told_ns.pop(name, None)
            case SendGrant():
                self.leader = name
            case SendBeat():
                self._later(MS, self._step, name, BeatReturned())
            case Note(event=event) if "silently died" in event:
                self.asked["another watch"] += 1
            case _:
                pass

    def _tell(self, name: str, event: Event) -> None:
        at_ns = self.now_ns + self._rng.randrange(5 * MS, 50 * MS)
        self._told_ns[name] = max(self._told_ns[name], at_ns)
        self._later(self._told_ns[name] - self.now_ns, self._hear, name, event)

    def _hear(self, name: str, event: Event) -> None:
        if name in self._told_ns:
            self._step(name, event)

    def _land(self, name: str, effect: Read | Create | Update | NameSuccessor) -> None:
        versions = len(self.store.history)
        answer: Event
        try:
            answer = Returned(effect.call_id, self._apply(effect))
        except Conflict as conflict:
            answer = Failed(effect.call_id, Failure(FailureKind.CONFLICT, str(conflict)))
        self._later(5 * MS // 2, self._step, name, answer)
        for snapshot in self.store.history[versions:]:
            for watching in self._told_ns:
                self._tell(watching, WatchSaw(snapshot))

    def _apply(self, effect: Read | Create | Update | NameSuccessor) -> Snapshot | None:
        match effect:
            case Read():
                return self.store.read()
            case Create(record=record):
                return self.store.create(record)
            case Update(record=record, seen=seen):
                return self.store.update(record, seen)
            case NameSuccessor(successor=successor, seen=seen):
                return self.store.name_successor(successor, seen)

    @property
    def named(self) -> str:
        newest = self.store.read()
        return (newest.successor or "") if newest else ""


def _with_a_line() -> Crowd:
    crowd = Crowd(200)
    crowd.run(lambda: bool(crowd.leader))
    crowd.run(lambda: bool(crowd.named))
    crowd.run_for(5 * SECOND_NS)
    return crowd


@pytest.mark.parametrize("expires", [False, True], ids=["released", "expired"])
@pytest.mark.parametrize("alive", [True, False], ids=["alive", "dead"])
def test_a_handover_among_two_hundred_standbys_is_no_stampede(alive: bool, expires: bool) -> None:
    """With the next in line alive few others write; without it still far from all."""
    crowd = _with_a_line()
    for _ in range(5):
        named = crowd.named
        if not alive:
            crowd.kill(named)
        crowd.asked.clear()
        if expires:
            crowd.kill(crowd.leader)
        else:
            crowd.release()
        took_ns = crowd.run(lambda: bool(crowd.leader))
        crowd.run_for(SECOND_NS)
        assert (crowd.leader == named) == alive
        assert crowd.asked["Update"] <= (20 if alive else 60)
        # Whoever gave the lock back reads it. Nobody takes its watch for dead over a lost race.
        assert crowd.asked["Read"] + crowd.asked["another watch"] <= 2
        most_ns = TIMING.lease_duration_ns if expires else 0
        assert took_ns < most_ns + 100 * MS + (0 if alive else COURTESY_LIMIT_NS)
        crowd.run(lambda: bool(crowd.named))
        crowd.run_for(5 * SECOND_NS)
        assert 1 <= crowd.asked["NameSuccessor"] <= 20


# --- faults of the caller --------------------------------------------------------------------


def _never(drive: Drive) -> None:
    drive.core._token()


@pytest.mark.parametrize(
    "misuse",
    [
        _never,
        lambda drive: drive.core._lose("nothing"),
        lambda drive: drive.core._record(),
        lambda drive: drive.core._count(
            election._Call(1, election._Purpose.RENEW, 0), held().record
        ),
        lambda drive: drive.core._wrote_renewal(
            election._Call(1, election._Purpose.RENEW, 0), None
        ),
        lambda drive: drive.core._wrote_acquisition(
            election._Call(1, election._Purpose.ACQUIRE, 0), None
        ),
    ],
)
def test_what_needs_a_leadership_says_so(misuse: Callable[[Drive], None]) -> None:
    """Steps that only make sense with a claim or a leadership refuse to go on without one."""
    with pytest.raises(AssertionError):
        misuse(Drive())
