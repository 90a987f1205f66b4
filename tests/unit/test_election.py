"""Tests of the elector's decisions, one rule each, on one core driven by hand in virtual time.

Owns the drive: a core, two clocks that only the test moves, and the calls that wait for an answer.
The lock is whatever the test answers, so that each test shows what the rule is about.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
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
from leaderexec.model import SECOND_NS, SECOND_US, Claim, Now, Record, Snapshot, Timing, Token

if TYPE_CHECKING:
    from collections.abc import Callable

TIMING: Final = Timing()
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
) -> Snapshot:
    """Return a version of the lock that `by` holds."""
    record = Record(by, duration_s, acquired_us, renewed_us, transitions)
    return Snapshot(record, uid, str(version))


FREE: Final = held("", duration_s=1)


class Drive:
    """One election core, its clocks, and the call that waits for an answer."""

    def __init__(
        self,
        *,
        unique: bool = True,
        timing: Timing = TIMING,
        inherited: Holding | None = None,
        generation: int = 1,
    ) -> None:
        self.now_ns = START_NS
        self.wall_us = WALL_US
        self.effects: list[Effect] = []
        self.call: Read | Create | Update | None = None
        self.answering = True
        self.core = Election(
            identity="a",
            unique=unique,
            timing=timing,
            generation=generation,
            jitter=lambda: 0.5,
            now=self.now(),
            inherited=inherited,
        )

    def now(self) -> Now:
        return Now(self.now_ns, self.wall_us)

    def step(self, event: Event | None = None) -> list[Effect]:
        """Step once; remember the call, answer heartbeats unless the guardian is to be silent."""
        effects = self.core.step(event or Woke(), self.now())
        for effect in effects:
            if isinstance(effect, Read | Create | Update):
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

    def take_call(self) -> Read | Create | Update:
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
        assert isinstance(call, Create | Update)
        return Snapshot(call.record, uid or (call.seen.uid if isinstance(call, Update) else "u1"),
                        str(version))  # fmt: skip

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
    (effect,) = [e for e in effects if isinstance(e, kind)]
    return effect


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


def test_a_name_that_nobody_else_can_have_is_enough() -> None:
    """A container that restarts in its slot takes its own lease back at once."""
    drive = Drive()
    drive.step()
    update = only(drive.answer(held("a")), Update)
    assert update.record.transitions == held().record.transitions
    assert update.record.acquire_time_us == held().record.acquire_time_us


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
    effects = drive.fail(FailureKind.CONFLICT)
    assert notes(effects, "silently died")
    assert CloseWatch in kinds(effects)
    effects = drive.answer(held(version=40, renewed_us=WALL_US + 14))
    assert OpenWatch in kinds(effects)


def test_a_conflict_over_a_free_lock_does_not_blame_the_watch() -> None:
    """Losing a race for a released lock is ordinary."""
    drive = Drive()
    drive.stand_by()
    drive.step(WatchSaw(held("", version=6)))
    assert not notes(drive.fail(FailureKind.CONFLICT), "silently died")


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
