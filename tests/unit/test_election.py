"""Tests of the elector's decisions, one rule each, on one core driven by hand in virtual time.

Owns the drive: a core, two clocks that only the test moves, and the calls that wait for an answer.
The lock is whatever the test answers, so that each test shows what the rule is about.
"""

from __future__ import annotations

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
from leaderexec.locks.base import successor_after
from leaderexec.model import (
    SECOND_NS,
    SECOND_US,
    Claim,
    Grant,
    LockTraits,
    Now,
    Record,
    Snapshot,
    Timing,
    Token,
)

if TYPE_CHECKING:
    from collections.abc import Callable

S: Final = SECOND_NS
MS: Final = 1_000_000
TIMING: Final = Timing()
#: `--ttl=10s`, and what the locks of 2016 ask for.
OLD: Final = Timing(10, 5 * S, 5 * S // 2)
OLD_TRAITS: Final = LockTraits(time_unit_us=SECOND_US, peers_judge_by_own_duration=True)
START_NS: Final = 1_000 * S
WALL_US: Final = 1_700_000_000_000_000
ABSENT: Final = None
COURTESY_NS: Final = election._COURTESY_NS
SPREAD_NS: Final = election._COURTESY_SPREAD_NS
COURTESY_LIMIT_NS: Final = COURTESY_NS + SPREAD_NS
WRITES: Final[set[type]] = {Update, Create, NameSuccessor}
CALLS: Final = {Read} | WRITES

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


def freed(version: int = 6, *, line: str | None = None) -> Snapshot:
    """Return the lock as its holder gives it back."""
    return held("", version=version, duration_s=1, line=line)


FREE: Final = freed(5)


def only(effects: list[Effect], kind: type[T]) -> T:
    """Return the one effect of this kind."""
    found = [e for e in effects if isinstance(e, kind)]
    assert len(found) == 1, f"not one {kind.__name__} in {effects}"
    return found[0]


def kinds(effects: list[Effect]) -> set[type]:
    return {type(e) for e in effects}


def notes(effects: list[Effect], word: str) -> list[Note]:
    return [e for e in effects if isinstance(e, Note) and word in e.event]


def granted(effects: list[Effect]) -> Grant:
    return only(effects, SendGrant).grant


class Drive:
    """One election core, its clocks, and the call that waits for an answer."""

    def __init__(self, *, timing: Timing = TIMING, **changes: Any) -> None:
        self.now_ns = START_NS
        self.wall_us = WALL_US
        self.effects: list[Effect] = []
        self.call: Read | Create | Update | NameSuccessor | None = None
        #: Whether the guardian answers heartbeats.
        self.answering = True
        self.jitter = 0.5
        self.retry_ns = timing.retry_period_ns
        facts: dict[str, Any] = {"identity": "a", "unique": True, "generation": 1, **changes}
        self.core = Election(timing=timing, jitter=lambda: self.jitter, now=self.now(), **facts)

    def now(self) -> Now:
        return Now(self.now_ns, self.wall_us)

    def step(self, event: Event | None = None) -> list[Effect]:
        """Step once, remember the call, and answer a heartbeat."""
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

    def sees(self, snapshot: Snapshot | None) -> list[Effect]:
        """Let the watch deliver this version."""
        return self.step(WatchSaw(snapshot))

    def tree_gone(self, token: int = 10, *, retire: bool = False) -> list[Effect]:
        return self.step(TreeGone(Token(token), retire=retire))

    def leave(self) -> list[Effect]:
        """Let the guardian of a standby end."""
        return self.step(TreeGone(None, retire=True))

    # --- time ---

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

    def tries_after(self, for_ns: int, kind: type[T]) -> T:
        """Assert that the call of this kind, or a write, is made then and not before."""
        assert not (WRITES | {kind}) & kinds(self.wait(for_ns - 1))
        return only(self.wait(1), kind)

    def until(self, kind: type[T]) -> T:
        """Wait until a call of this kind is in flight, and return it."""
        while not isinstance(self.call, kind):
            assert self.now_ns < START_NS + 60 * S
            self.wait(100 * MS)
        return self.call

    # --- the call in flight ---

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

    def conflict(self) -> list[Effect]:
        return self.fail(FailureKind.CONFLICT)

    def reply_is_lost(self) -> list[Effect]:
        return self.fail(FailureKind.UNAVAILABLE)

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

    def succeeds(self, version: int) -> list[Effect]:
        """Let the write in flight land as this version, and its reply arrive."""
        return self.answer(self.lands(version))

    def written(self) -> Record:
        """Return the record that the call in flight writes."""
        assert isinstance(self.call, Create | Update)
        return self.call.record

    def renewed_us(self) -> int:
        time_us = self.written().renew_time_us
        assert time_us is not None
        return time_us


def standing_by(seen: Snapshot | None = None, **changes: Any) -> Drive:
    """Return a standby that has read what another holds, and whose watch is open."""
    drive = Drive(**changes)
    drive.step()
    drive.answer(seen or held())
    drive.step(WatchOpened())
    return drive


def trying(seen: Snapshot = FREE, **changes: Any) -> Drive:
    """Return a candidate whose write over a free lock is in flight."""
    drive = Drive(**changes)
    drive.step()
    drive.answer(seen)
    return drive


def leading(seen: Snapshot = FREE, **changes: Any) -> Drive:
    """Return a leader with token 10."""
    drive = trying(seen, **changes)
    drive.succeeds(10)
    return drive


def renewing(seen: Snapshot = FREE, **changes: Any) -> Drive:
    """Return a leader whose first renewal is in flight."""
    drive = leading(seen, **changes)
    drive.wait(drive.retry_ns)
    return drive


def releasing() -> Drive:
    """Return a former leader whose release is in flight."""
    drive = leading()
    drive.tree_gone()
    return drive


def heir() -> tuple[Drive, Snapshot]:
    """Return the elector that follows a dead one which led, and the lock as it left it."""
    found = held("a", version=20)
    claim = Claim("a", found.record.acquire_time_us, found.record.transitions)
    drive = Drive(inherited=Holding(Token(10), "u1", claim), generation=2)
    drive.step()
    return drive, found


# --- the table -------------------------------------------------------------------------------


def test_every_transition_of_the_table_is_reached() -> None:
    """No line of the table is dead: each is taken by a sequence of lawful events."""
    released, lost, drop = releasing(), renewing(), Drive()
    released.succeeds(11)
    lost.fail(FailureKind.ABSENT)
    drop.leave()
    (resumed, found), (displaced, _), (orphaned, _) = heir(), heir(), heir()
    resumed.answer(found)
    resumed.succeeds(21)
    displaced.answer(held("b"))
    orphaned.tree_gone(retire=True)
    effects = [
        effect
        for drive in (released, lost, drop, resumed, displaced, orphaned)
        for effect in drive.effects
    ]
    assert {
        (State(note.fields["before"]), Cause(note.fields["reason"]))
        for note in notes(effects, "election state")
    } == set(TRANSITIONS)


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
        (State.RETIRED, None, "still watching"),
    ],
)
def test_contradictions_are_noticed(state: State, holding: Holding | None, problem: str) -> None:
    """The invariants see a state that does not fit what it holds."""
    core = standing_by().core
    core.state, core._holding = state, holding
    with pytest.raises(AssertionError, match=problem):
        core.check_invariants()


_RENEWAL: Final = election._Call(1, election._Purpose.RENEW, 0)


@pytest.mark.parametrize(
    "misuse",
    [
        lambda core: core._token(),
        lambda core: core._lose("nothing"),
        lambda core: core._record(),
        lambda core: core._count(_RENEWAL, held().record),
        lambda core: core._wrote_renewal(_RENEWAL, None),
        lambda core: core._wrote_acquisition(_RENEWAL, None),
    ],
)
def test_what_needs_a_leadership_says_so(misuse: Callable[[Election], object]) -> None:
    """Steps that only make sense with a claim or a leadership refuse to go on without one."""
    with pytest.raises(AssertionError):
        misuse(Drive().core)


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
    assert only(drive.answer(ABSENT), Create).record == Record("a", 15, WALL_US, WALL_US, 0)
    drive.succeeds(1)
    assert drive.core.state is State.LEADER


def test_a_released_lock_is_taken_at_once() -> None:
    """An empty holder means free, whatever duration the record names; transitions count on."""
    update = trying().take_call()
    assert isinstance(update, Update)
    assert (update.seen, update.record.transitions) == (FREE, FREE.record.transitions + 1)


def test_a_grant_counts_from_before_the_write_was_sent() -> None:
    """Rule: T = t0 + the duration that was written, however late the reply is."""
    drive = trying()
    drive.tick(4 * S)
    grant = granted(drive.succeeds(10))
    assert (grant.renewed_at_ns, grant.expires_at_ns) == (START_NS, START_NS + 15 * S)
    assert grant.token == 10


def test_a_held_lock_is_tried_when_its_own_duration_has_passed_since_it_changed() -> None:
    """Expiry is judged by the record's duration and local observation, not by its times."""
    standing_by(held(duration_s=33, renewed_us=0)).tries_after(33 * S, Update)


def test_each_renewal_that_is_seen_starts_the_wait_anew() -> None:
    """The stamp is when the record was last seen to change."""
    drive = standing_by()
    drive.wait(14 * S)
    drive.sees(held(version=6, renewed_us=WALL_US + 1))
    drive.tries_after(15 * S, Update)


def test_labels_that_change_do_not_keep_a_dead_leaders_lease_alive() -> None:
    """Another version of the same record is no renewal."""
    drive = standing_by()
    for version in range(6, 20):
        drive.wait(S)
        drive.sees(held(version=version))
    assert only(drive.wait(S), Update).seen.version == "19"


def test_a_record_without_a_duration_is_given_ours() -> None:
    """Zero says nothing about when its holder stops."""
    standing_by(held(duration_s=0)).tries_after(15 * S, Update)


def test_a_stamp_is_kept_across_a_deletion() -> None:
    """Rule 2: who held the deleted object may run until its duration has passed."""
    drive = standing_by()
    drive.wait(5 * S)
    drive.sees(ABSENT)
    drive.tries_after(10 * S, Create)


def test_a_version_that_was_missed_and_deleted_is_waited_out() -> None:
    """Rule 2: whoever wrote what a dead watch did not deliver may run although it was deleted."""
    drive = standing_by()
    drive.wait(15 * S)
    drive.conflict()
    assert Read in kinds(drive.wait(S))
    drive.answer(ABSENT)
    drive.step(WatchOpened())
    drive.tries_after(15 * S, Create)


def test_a_watch_that_lags_behind_our_own_read_is_ignored() -> None:
    """An older version of the same object is no change."""
    drive = standing_by(held(version=9))
    drive.wait(5 * S)
    drive.sees(held("c", version=8))
    assert drive.core.leader == "b"
    assert Update in kinds(drive.wait(10 * S))


def test_a_read_is_believed_even_if_the_versions_went_back() -> None:
    """A quorum read that was sent after a version was seen shows what is, not what was."""
    drive = renewing()
    drive.conflict()
    assert SendLost in kinds(drive.answer(held("b", version=4)))


def test_versions_that_are_not_numbers_are_all_newer() -> None:
    """Without an order of versions what comes last counts."""
    drive = standing_by(replace(held(), version="x"))
    drive.sees(replace(held("c"), version="w"))
    assert drive.core.leader == "c"


def test_losing_the_race_is_noticed_and_announced() -> None:
    """A conflict is followed by a read; the new leader is told to the guardian."""
    drive = trying()
    assert Read in kinds(drive.conflict()), "at once: there is no watch that would tell"
    assert only(drive.answer(held("c", version=6)), SendStanding).leader == "c"
    assert drive.core.leader == "c"


def test_an_object_deleted_under_an_attempt_is_created_anew() -> None:
    """A PUT that finds nothing is followed by a create, since the wait is over already."""
    drive = standing_by()
    drive.wait(15 * S)
    assert Create in kinds(drive.fail(FailureKind.ABSENT))


def test_an_attempt_that_created_another_object_is_no_leadership() -> None:
    """Rule 2: 201 on a PUT grants nothing, since the deleted object's holder may still run."""
    drive = trying()
    assert SendGrant not in kinds(drive.answer(drive.lands(30, uid="u2")))
    assert drive.core.state is not State.LEADER


def test_an_object_created_by_mistake_is_not_offered_to_the_others() -> None:
    """Rule 2: what the deleted object's holder may still use stays taken for a lease duration."""
    drive = standing_by()
    drive.wait(15 * S)
    effects = drive.answer(drive.lands(30, uid="u2")) + drive.wait(15 * S - 1)
    assert "" not in [e.record.holder for e in effects if isinstance(e, Update)]


def test_an_attempt_that_changed_nothing_is_no_leadership() -> None:
    """Rule 1: 200 with the version unchanged made nobody leader."""
    drive = trying()
    assert SendGrant not in kinds(drive.succeeds(5))
    assert drive.core.state is State.STANDBY


def test_a_write_whose_reply_was_lost_is_recognised_and_renewed_before_it_counts() -> None:
    """Rule 3: a late landing acquisition is ours, but only our next counted write grants."""
    drive = trying(unique=False)
    landed = drive.lands(6)
    drive.tick(5 * S)
    drive.reply_is_lost()
    drive.wait(5 * S)
    sent_ns = drive.now_ns
    update = only(drive.answer(landed), Update)
    assert (update.seen, update.record.acquire_time_us, update.record.transitions) == (
        *(landed, landed.record.acquire_time_us, landed.record.transitions),
    )
    assert granted(drive.succeeds(7)).renewed_at_ns >= sent_ns


def test_two_attempts_over_one_version_make_one_claim() -> None:
    """Whichever of them lands, it is recognised: both name the same time of acquisition."""
    drive = trying(unique=False)
    first = drive.lands(6)
    drive.reply_is_lost()
    drive.wait(5 * S)
    second = only(drive.answer(FREE), Update)
    assert second.record.acquire_time_us == first.record.acquire_time_us
    assert Read in kinds(drive.conflict())
    assert only(drive.answer(first), Update).seen == first


def test_an_attempt_over_another_version_makes_another_claim() -> None:
    """Once the version that a lost attempt replaces has passed, the attempt cannot land."""
    drive = trying(unique=False)
    first = drive.written()
    drive.reply_is_lost()
    drive.wait(5 * S)
    second = only(drive.answer(replace(FREE, version="8")), Update)
    assert second.record.acquire_time_us != first.acquire_time_us


# --- identity --------------------------------------------------------------------------------


def test_a_name_that_may_be_used_twice_proves_nothing() -> None:
    """Rule 12: a record with our verbatim --id is another's unless this elector wrote it."""
    drive = standing_by(held("a"), unique=False)
    assert drive.call is None
    drive.tries_after(15 * S, Update)


def test_a_name_alone_is_not_enough_though_nobody_else_can_have_it() -> None:
    """Rule 12: what somebody wrote under our name, while another's tree may live, is waited out."""
    drive = standing_by()
    assert not WRITES & kinds(drive.sees(held("a", version=6)))
    drive.tries_after(15 * S, Update)


def test_after_a_deletion_our_own_record_is_no_reason_to_wait() -> None:
    """The deleted record was the loser's own, and its tree is gone: it creates another at once."""
    drive = renewing()
    effects = drive.fail(FailureKind.ABSENT)
    assert Read in kinds(drive.wait(2 * S))
    assert Create not in kinds(drive.answer(ABSENT)), "its tree may still be alive"
    assert Create in kinds(drive.tree_gone(only(effects, SendLost).token))


@pytest.mark.parametrize("change", [{"holder": "b"}, {"lease_duration_s": 3}, {"transitions": 9}])
def test_a_write_that_was_changed_on_its_way_counts_for_nothing(change: dict[str, Any]) -> None:
    """Others go by what the lock says, and not by what we sent to it: there is no grant for it."""
    for drive in (trying(), renewing()):
        state, landed = drive.core.state, drive.lands(11)
        effects = drive.answer(replace(landed, record=replace(landed.record, **change)))
        assert SendGrant not in kinds(effects)
        assert drive.core.state is state
    assert Read in kinds(drive.wait(S)), "a quorum read tells whose it is"


def test_a_leader_whose_name_another_writes_has_lost() -> None:
    """Rule 12: for a leader not even a unique name is enough, its claim must be unchanged."""
    drive = renewing()
    drive.conflict()
    effects = drive.answer(held("a", version=12, acquired_us=WALL_US + 5))
    assert only(effects, SendLost).token == 10


def test_one_id_and_one_microsecond_do_not_make_two_leaders() -> None:
    """Rule 12: not even twins that try at the same instant both lead."""
    winner, loser = trying(unique=False), trying(unique=False)
    landed = winner.lands(6)
    winner.answer(landed)
    assert Read in kinds(loser.conflict())
    assert Update not in kinds(loser.answer(landed) + loser.wait(15 * S - 1))


# --- renewing --------------------------------------------------------------------------------


def test_a_leader_renews_every_retry_period() -> None:
    """The next renewal is sent a retry period after the last one was sent; the token stays."""
    drive = leading()
    first = drive.core.record
    assert first is not None
    drive.tries_after(2 * S, Update)
    assert replace(drive.written(), renew_time_us=first.renew_time_us) == first
    drive.tick(S)
    assert granted(drive.succeeds(17)).token == 10
    assert Update in kinds(drive.wait(S))


def test_renew_time_moves_on_when_the_wall_clock_is_set_back() -> None:
    """Rule 1: a wall clock that steps back an hour does not make a renewal an identical write."""
    drive = leading()
    drive.wall_us -= 3600 * SECOND_US
    drive.wait(2 * S)
    assert drive.renewed_us() == WALL_US + SECOND_US


def test_renew_time_is_later_than_that_of_a_write_whose_reply_was_lost() -> None:
    """It may have landed."""
    drive = renewing()
    lost_us = drive.renewed_us()
    drive.reply_is_lost()
    drive.wall_us = WALL_US
    drive.wait(2 * S)
    assert drive.renewed_us() >= lost_us + SECOND_US


def test_a_renewal_that_changed_no_version_is_not_counted() -> None:
    """Rule 1: 200 with the resourceVersion unchanged renewed nothing; it is tried after a pause."""
    drive = renewing()
    assert SendGrant not in kinds(drive.succeeds(10))
    assert drive.core.state is State.LEADER
    assert drive.call is None
    assert Update in kinds(drive.wait(S))


def test_a_renewal_that_created_another_object_is_a_loss() -> None:
    """Rule 2: 201 or another uid while leading means lost."""
    drive = renewing()
    assert only(drive.answer(drive.lands(30, uid="u2")), SendLost).token == 10
    assert drive.core.state is State.STANDBY


def test_a_deleted_object_is_a_loss() -> None:
    """Rule 2: 404 while leading means lost."""
    effects = renewing().fail(FailureKind.ABSENT)
    assert only(effects, SendLost).reason == "the lock's object was deleted"


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
    drive = renewing()
    assert SendLost not in kinds(drive.conflict())
    assert reason in only(drive.answer(found), SendLost).reason


def test_a_conflict_with_our_own_lost_renewal_is_none() -> None:
    """A renewal whose reply was lost had landed: the record is still ours and renewed at once."""
    drive = renewing()
    landed = drive.lands(11)
    drive.reply_is_lost()
    drive.wait(2 * S)
    assert Read in kinds(drive.conflict())
    assert only(drive.answer(landed), Update).seen == landed


@pytest.mark.parametrize("line", ["", "b"], ids=["a label", "a naming"])
def test_what_others_may_change_does_not_cost_the_leadership(line: str) -> None:
    """It costs the leader a conflict and a read, and the newer version is renewed."""
    drive = trying(freed(line=""))
    changed = replace(drive.lands(10), version="11", successor=line)
    drive.succeeds(10)
    drive.wait(2 * S)
    assert Read in kinds(drive.conflict())
    assert drive.core.slow_renewals == 1
    assert only(drive.answer(changed), Update).seen == changed
    assert granted(drive.succeeds(12)).token == 10


def test_a_lost_reply_is_followed_by_another_try() -> None:
    """An unknown outcome is retried a retry period after the failed call was sent."""
    drive = renewing()
    drive.tick(S // 2)
    drive.reply_is_lost()
    drive.tries_after(3 * S // 2, Update)


def test_a_server_that_asks_for_patience_gets_it_within_the_deadline() -> None:
    """429: Retry-After is honoured, but one more try fits before the renew deadline."""
    drive = renewing()
    drive.fail(FailureKind.UNAVAILABLE, 4 * S)
    drive.tries_after(4 * S, Update)
    drive.fail(FailureKind.UNAVAILABLE, 3600 * S)
    assert Update in kinds(drive.wait(2 * S))
    assert drive.now_ns == START_NS + 8 * S


def test_a_repeated_failure_is_logged_loudly_once() -> None:
    """The first of the same failures is a warning, the others are for debugging."""
    drive = leading()
    for level in ("warning", "debug", "debug"):
        drive.wait(2 * S)
        assert [note.level for note in notes(drive.reply_is_lost(), "unavailable")] == [level]


def test_one_request_is_in_flight_at_a_time() -> None:
    """Rule 3: while a call is out, nothing else is sent, however long it takes."""
    assert not CALLS & kinds(renewing().wait(60 * S))


def test_after_a_loss_there_is_no_new_try_before_the_tree_is_gone() -> None:
    """A lock that becomes free again waits until the lost leadership's tree is dead."""
    drive = renewing()
    drive.fail(FailureKind.ABSENT)
    drive.wait(5 * S)
    assert Update not in kinds(drive.answer(held("", version=12)))
    effects = drive.tree_gone()
    assert only(effects, SendReleased) == SendReleased(Token(10), "not held", retired=False)
    assert Update in kinds(effects)


# --- resuming --------------------------------------------------------------------------------


def test_an_heir_reads_first_and_grants_after_its_own_write_only() -> None:
    """Rule 3: no grant from observation; the token stays."""
    drive, found = heir()
    assert SendGrant not in kinds(drive.answer(found))
    assert drive.core.state.value == "resuming"
    grant = granted(drive.succeeds(21))
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
    effects = drive.answer(found)
    assert only(effects, SendLost).token == 10
    assert drive.core.state is State.STANDBY
    assert not WRITES & kinds(effects), "not before the tree of the lost leadership is gone"


def test_an_heir_whose_predecessors_renewal_lands_late_goes_on() -> None:
    """A conflict with the dead elector's last write is no loss."""
    drive, found = heir()
    drive.answer(found)
    drive.conflict()
    drive.answer(replace(found, version="21", record=replace(found.record, renew_time_us=WALL_US)))
    assert granted(drive.succeeds(22)).token == 10


def test_an_heir_writes_a_later_second_than_its_predecessor() -> None:
    """The renewTime of the dead elector's last write, as found, is exceeded."""
    drive, found = heir()
    drive.answer(replace(found, record=replace(found.record, renew_time_us=WALL_US + 9_000_000)))
    assert drive.renewed_us() >= WALL_US + 10_000_000


def test_an_heir_retries_while_the_lock_cannot_be_reached() -> None:
    """A failed read of an heir is repeated: the tree may still be saved."""
    drive, found = heir()
    drive.reply_is_lost()
    assert Read in kinds(drive.wait(2 * S))
    assert Update in kinds(drive.answer(found))


def test_an_heir_of_a_tree_that_is_gone_gives_back() -> None:
    """The tree ended while no elector lived: the heir reads and releases without renewing."""
    drive, found = heir()
    drive.tree_gone()
    assert only(drive.answer(found), Update).record.holder == ""
    assert only(drive.succeeds(21), SendReleased).outcome == "released"


def test_an_heir_with_a_unique_name_does_not_resume_by_its_name() -> None:
    """For a leadership that goes on the name is not enough: another token is another tree."""
    drive, found = heir()
    found = replace(found, record=replace(found.record, transitions=4))
    drive.answer(found)
    assert Update not in kinds(drive.wait(30 * S))
    drive.answer(found) if isinstance(drive.call, Read) else None
    assert Update in kinds(drive.tree_gone())


# --- giving back -----------------------------------------------------------------------------


def test_a_release_writes_nobody_for_one_second() -> None:
    """As client-go: empty holder, duration 1, transitions kept, renewTime a later second."""
    drive = releasing()
    record = drive.written()
    assert (record.holder, record.lease_duration_s, record.transitions) == ("", 1, 4)
    assert drive.renewed_us() == WALL_US + SECOND_US


def test_a_release_is_told_and_the_campaign_goes_on_after_others_had_their_chance() -> None:
    """Others are given a retry period before the same candidate tries again."""
    drive = releasing()
    released = drive.lands(11)
    effects = drive.answer(released)
    assert only(effects, SendReleased) == SendReleased(Token(10), "released", retired=False)
    assert drive.core.state is State.STANDBY
    drive.answer(released)
    assert Update not in kinds(drive.wait(2 * S - 1))
    assert Update in kinds(drive.wait(5 * S))


def test_a_release_for_good_retires() -> None:
    """With the guardian ending there is nothing left to do, and nothing is done."""
    drive = releasing()
    assert not CALLS & kinds(drive.tree_gone(retire=True)), "told while it is giving back"
    assert only(drive.succeeds(11), SendReleased).retired
    assert drive.core.state is State.RETIRED
    assert drive.core.wake_at_ns is None
    assert not drive.step()


def test_a_release_waits_for_the_renewal_in_flight() -> None:
    """Rule 3: release starts after the last renewal has returned or timed out."""
    drive = renewing()
    assert not CALLS & kinds(drive.tree_gone())
    renewed = drive.lands(11)
    effects = drive.answer(renewed)
    assert SendGrant not in kinds(effects)
    assert only(effects, Update).seen == renewed


def test_a_conflict_on_release_is_read_and_tried_again_only_if_still_mine() -> None:
    """Rule 3: our own late renewal had landed, and the release replaces it."""
    drive = renewing()
    late = drive.lands(11)
    drive.reply_is_lost()
    drive.tree_gone()
    assert drive.written().holder == ""
    assert Read in kinds(drive.conflict())
    again = only(drive.answer(late), Update)
    assert (again.record.holder, again.seen) == ("", late)


def test_a_conflict_on_release_with_another_holder_is_left_alone() -> None:
    """G5: releasing never overwrites another."""
    drive = releasing()
    drive.conflict()
    effects = drive.answer(held("b", version=12))
    assert Update not in kinds(effects)
    assert only(effects, SendReleased).outcome == "not held"


def test_a_release_of_a_deleted_object_resurrects_nothing() -> None:
    """G5: what was deleted stays deleted."""
    effects = releasing().fail(FailureKind.ABSENT)
    assert only(effects, SendReleased).outcome == "not held"


def test_a_release_that_nobody_confirms_is_given_up_in_time() -> None:
    """Eight seconds at most, so that a pod ends within its 30 s."""
    drive = releasing()
    effects: list[Effect] = []
    while SendReleased not in kinds(effects):
        effects = drive.reply_is_lost() if drive.call else drive.wait(100 * MS)
    assert only(effects, SendReleased).outcome == "unconfirmed"
    assert drive.now_ns - START_NS <= 8 * S + 100 * MS
    hung = releasing()
    assert only(hung.wait(8 * S), SendReleased).outcome == "unconfirmed"
    assert SendReleased not in kinds(hung.succeeds(11)), "once is enough"


def test_a_release_whose_reply_was_lost_is_found_done() -> None:
    """Reading an empty holder after an unknown outcome is as good as a reply."""
    drive = releasing()
    landed = drive.lands(11)
    drive.reply_is_lost()
    assert Read in kinds(drive.wait(S))
    assert SendReleased in kinds(drive.answer(landed))


def test_a_release_over_a_naming_keeps_the_name() -> None:
    """The release that met a naming is tried again over it, and the name stays in line."""
    drive = trying(freed(line=""))
    mine = drive.lands(10)
    drive.answer(mine)
    drive.tree_gone(retire=True)
    assert Read in kinds(drive.conflict())
    drive.answer(replace(mine, version="11", successor="b"))
    released = drive.lands(12)
    assert (released.record.holder, released.successor) == ("", "b")
    assert only(drive.answer(released), SendReleased).outcome == "released"


NOT_HELD: Final = SendReleased(None, "not held", retired=True)


def test_a_standby_that_ends_writes_nothing() -> None:
    """Nothing was tried, or it was refused: nothing needs to be given back or looked for."""
    effects = standing_by().leave()
    assert not CALLS & kinds(effects)
    assert only(effects, SendReleased) == NOT_HELD
    assert CloseWatch in kinds(effects)
    refused = trying()
    refused.fail(FailureKind.FORBIDDEN)
    assert only(refused.leave(), SendReleased) == NOT_HELD


def test_a_standby_that_ends_while_acquiring_releases_what_landed() -> None:
    """Rule 14: a request to stop during an acquisition waits for its outcome and undoes it."""
    drive = trying()
    assert SendReleased not in kinds(drive.leave())
    effects = drive.succeeds(10)
    assert SendGrant not in kinds(effects)
    assert only(effects, Update).record.holder == ""
    assert only(drive.succeeds(11), SendReleased).retired


@pytest.mark.parametrize("then_refused", [False, True])
def test_a_standby_that_ends_with_a_lost_attempt_releases_what_landed(then_refused: bool) -> None:
    """Rule 14: the lock is read first, though a later attempt was refused with 403."""
    drive = trying()
    landed = drive.lands(10)
    drive.reply_is_lost()
    if then_refused:
        drive.wait(5 * S)
        drive.answer(FREE)
        drive.fail(FailureKind.FORBIDDEN)
    assert Read in kinds(drive.leave())
    assert only(drive.answer(landed), Update).record.holder == ""


def test_a_standby_that_ends_waits_for_an_attempt_that_may_still_land() -> None:
    """Rule 14: the version that a lost attempt replaces is still there, so it can still land."""
    drive = trying()
    drive.reply_is_lost()
    drive.leave()
    assert SendReleased not in kinds(drive.answer(FREE))


def test_a_tree_of_another_leadership_that_is_gone_does_not_cost_this_one() -> None:
    """The guardian's word about an old token is answered and changes nothing."""
    drive = leading()
    released = only(drive.tree_gone(9), SendReleased)
    assert released == SendReleased(Token(9), "not held", retired=False)
    assert drive.core.state is State.LEADER


# --- watching and polling --------------------------------------------------------------------

FORBIDDEN: Final = WatchEnded(Failure(FailureKind.FORBIDDEN, "no watch"))


def test_a_standby_watches_instead_of_polling() -> None:
    """No request is sent before the lock may be taken; G4: a release is followed at once."""
    drive = standing_by()
    assert not CALLS & kinds(drive.wait(15 * S - 1))
    assert only(drive.sees(freed()), Update).seen.version == "6"


def test_a_leader_does_not_watch() -> None:
    """The watch is closed with the acquisition, and what it still says is ignored."""
    drive = standing_by()
    drive.sees(freed())
    assert CloseWatch in kinds(drive.succeeds(10))
    assert SendLost not in kinds(drive.sees(held("b", version=11)))
    assert not drive.step(WatchEnded(None))
    assert drive.core.state is State.LEADER


def test_a_forbidden_watch_means_polling_and_is_said_once() -> None:
    """The lock is read every retry period; a permission that comes and goes is said again."""
    drive = trying(held())
    reads = opened = 0
    effects = drive.step(FORBIDDEN)
    for second in range(30):
        more = drive.wait(S)
        if OpenWatch in kinds(more):
            opened += 1
            more += drive.step(FORBIDDEN)
        if drive.call is not None:
            reads += isinstance(drive.call, Read)
            drive.answer(held(version=6 + second, renewed_us=WALL_US + second))
        effects += more
    assert len(notes(effects, "polling every retry period")) == 1
    assert 8 <= reads <= 15
    assert opened
    while OpenWatch not in kinds(drive.wait(S)):
        drive.answer(held(version=60, renewed_us=drive.wall_us)) if drive.call else None
    drive.step(WatchOpened())
    assert notes(drive.step(FORBIDDEN), "polling")


@pytest.mark.parametrize("failure", [None, Failure(FailureKind.UNAVAILABLE, "reset")])
def test_a_watch_that_ends_is_opened_again_after_a_read(failure: Failure | None) -> None:
    """What changed between two watches is read, within a retry period."""
    drive = standing_by()
    drive.step(WatchEnded(failure))
    effects = drive.wait(2 * S)
    if Read in kinds(effects):
        effects += drive.answer(held())
    assert OpenWatch in kinds(effects)


def test_the_end_of_a_watch_that_was_closed_is_ignored() -> None:
    """Closing a watch makes it end: that is no news."""
    drive = standing_by()
    drive.core._close_watch()
    drive.core._watch_at_ns = drive.now_ns + S
    polls_at_ns = drive.core._poll_at_ns
    drive.step(WatchEnded(None))
    assert drive.core._poll_at_ns == polls_at_ns


@pytest.mark.parametrize("how", ["expired", "released"])
def test_a_silently_dead_watch_costs_no_more_than_a_lease(how: str) -> None:
    """The try conflicts, which shows that the watch is dead: another is opened after a read."""
    drive = standing_by()
    drive.wait(15 * S) if how == "expired" else drive.sees(freed())
    assert Read not in kinds(drive.conflict()), "the watch is given a moment"
    effects = drive.wait(S)
    assert notes(effects, "silently died")
    assert {CloseWatch, Read} <= kinds(effects)
    assert OpenWatch in kinds(drive.answer(held(version=40, renewed_us=WALL_US + 14)))


@pytest.mark.parametrize("first", ["the watch", "the reply"])
@pytest.mark.parametrize("how", ["released", "expired", "deleted"])
def test_losing_a_race_does_not_blame_the_watch(how: str, first: str) -> None:
    """A watch that tells who was faster, before the reply or after, is alive: nothing is read."""
    drive = standing_by()
    if how != "expired":
        drive.sees(freed() if how == "released" else ABSENT)
    drive.wait(15 * S if how != "released" else 0)
    assert isinstance(drive.call, Create if how == "deleted" else Update)
    effects = drive.conflict() if first == "the reply" else []
    drive.tick(50 * MS)
    effects += drive.sees(held("c", version=9, uid="u2" if how == "deleted" else "u1"))
    effects += drive.conflict() if first == "the watch" else []
    effects += drive.wait(10 * S)
    assert not (CALLS | {CloseWatch}) & kinds(effects)
    assert not notes(effects, "silently died")
    assert drive.core.leader == "c"


def test_a_refusal_does_not_blame_the_watch() -> None:
    """403 says nothing about what the watch should have told: the read after it keeps the watch."""
    drive = standing_by()
    drive.sees(freed())
    effects = drive.fail(FailureKind.FORBIDDEN) + drive.wait(5 * S)
    assert Read in kinds(effects)
    assert CloseWatch not in kinds(effects)


def test_a_standby_keeps_trying_while_the_lock_cannot_be_reached() -> None:
    """It reads again after a retry period or two; the guardian is told of the first failure."""
    drive = Drive()
    drive.step()
    assert only(drive.fail(FailureKind.FORBIDDEN), SendStanding).leader == ""
    for kind in (FailureKind.UNAVAILABLE, FailureKind.FORBIDDEN) * 5:
        assert Read in kinds(drive.wait(22 * TIMING.retry_period_ns // 10))
        assert SendStanding not in kinds(drive.fail(kind))


@pytest.mark.parametrize(("asked_s", "waits_s"), [(7, 7), (3600, 15)])
def test_a_standby_does_what_the_server_asks_for(asked_s: int, waits_s: int) -> None:
    """429: a standby waits as long as Retry-After says, but no longer than a lease."""
    drive = Drive()
    drive.step()
    drive.fail(FailureKind.UNAVAILABLE, asked_s * S)
    drive.tries_after(waits_s * S, Read)


def test_a_failing_connection_takes_its_watch_along() -> None:
    """When a request fails, the watch over the same network is not believed any more."""
    drive = standing_by()
    drive.wait(15 * S)
    assert CloseWatch in kinds(drive.reply_is_lost())


def test_every_new_leader_is_announced_once() -> None:
    """`leader is NAME` is logged when a standby sees a new leader, not with each renewal."""
    drive = standing_by()
    drive.sees(held(version=6, renewed_us=1))
    assert len(notes(drive.effects, "leader is b")) == 1
    assert notes(drive.sees(held("c", version=7)), "leader is c")
    assert drive.core.leader == "c"


# --- the guardian ----------------------------------------------------------------------------


def wait_in_silence(drive: Drive, seconds: int) -> list[Effect]:
    """Let renewals succeed while the guardian says nothing."""
    drive.answering = False
    effects: list[Effect] = []
    for second in range(seconds):
        effects += drive.wait(S)
        if drive.call is not None:
            effects += drive.succeeds(11 + second)
    return effects


def test_heartbeats_are_sent_every_retry_period() -> None:
    """The guardian hears from us however quiet the lock is."""
    assert standing_by(held(duration_s=3600)).wait(20 * S).count(SendBeat()) == 10


def test_a_leader_whose_guardian_is_silent_stops_renewing_and_kills_it() -> None:
    """A stopped guardian counts as dead after a bounded silence: its keeper must end the tree."""
    drive = leading()
    bound_s = (TIMING.silence_bound_ns + 2 * TIMING.heartbeat_ns) // S
    assert KillGuardian in kinds(wait_in_silence(drive, bound_s))
    assert not {KillGuardian, Update, Read} & kinds(drive.wait(60 * S))
    drive.answering = True
    assert Update in kinds(drive.step(BeatReturned())), "in a container it cannot be killed"


def test_a_guardian_that_alone_can_end_the_tree_is_not_killed() -> None:
    """With the keeper dead, killing a silent guardian would leave the tree to nobody."""
    drive = leading()
    drive.step(KeeperDied())
    assert KillGuardian not in kinds(wait_in_silence(drive, 40))
    assert not {KillGuardian, Update, Read} & kinds(drive.wait(20 * S))


def test_a_standby_whose_guardian_is_silent_does_not_try() -> None:
    """Nobody would start a tree."""
    drive = standing_by()
    drive.answering = False
    assert not {Update, Read} & kinds(drive.wait(60 * S))
    drive.answering = True
    assert Update in kinds(drive.step(BeatReturned()))


@pytest.mark.parametrize("pause_s", [5, 9, 12, 20, 3600])
def test_a_pause_of_our_own_does_not_make_the_guardian_silent(pause_s: int) -> None:
    """After a suspend everybody has been silent; that proves nothing."""
    drive = leading()
    drive.tick(pause_s * S)
    assert KillGuardian not in kinds(drive.step())


def test_a_dead_guardians_lock_is_renewed_until_its_tree_is_gone() -> None:
    """The keeper of a dead guardian still kills: until it has ended the lock is kept."""
    drive = leading()
    drive.step(GuardianDied())
    for version in range(11, 16):
        drive.wait(2 * S)
        assert drive.written().holder == "a"
        drive.succeeds(version)
    assert only(drive.leave(), Update).record.holder == ""
    assert only(drive.succeeds(20), SendReleased).retired


def test_a_standby_whose_guardian_died_does_not_try() -> None:
    """A free lock is left to those who can run something."""
    drive = standing_by()
    drive.step(GuardianDied())
    assert Update not in kinds(drive.sees(freed()))


# --- the line ----------------------------------------------------------------------------------


def waits_to_name(drive: Drive) -> int:
    """Wait until it names itself and return how long that took; the leader renews every 9 s."""
    since_ns = renewed_ns = drive.now_ns
    while not isinstance(drive.call, NameSuccessor):
        assert drive.now_ns - since_ns < 120 * S, "names nobody"
        assert drive.call is None, "does something else"
        assert drive.core.wake_at_ns is not None
        next_ns = renewed_ns + 9 * S
        drive.wait(min(drive.core.wake_at_ns, next_ns) - drive.now_ns)
        if drive.now_ns == next_ns:
            renewed_ns = next_ns
            seen = drive.core._seen
            assert seen is not None
            record = replace(seen.record, renew_time_us=drive.wall_us)
            drive.sees(replace(seen, record=record, version=str(int(seen.version) + 1)))
    return drive.now_ns - since_ns


def naming() -> Drive:
    """Return a standby whose naming of itself is in flight."""
    drive = standing_by(held(line=""))
    waits_to_name(drive)
    return drive


def let_renew(drive: Drive, times: int, *, line: str, every_ns: int = 2 * S) -> list[Effect]:
    """Let another renew, with this name in line, and return what the standby does meanwhile."""
    effects: list[Effect] = []
    for version in range(100, 100 + times):
        effects += drive.wait(every_ns)
        effects += drive.sees(held(version=version, renewed_us=drive.wall_us, line=line))
    return effects


@pytest.mark.parametrize("how", ["released", "expired"])
@pytest.mark.parametrize(
    ("line", "jitter", "delay_ns"),
    [
        ("a", 0.5, 0),
        ("", 0.5, 0),
        (None, 0.5, 0),
        ("c", 0.0, COURTESY_NS),
        ("c", 0.75, COURTESY_NS + 3 * SPREAD_NS // 4),
    ],
    ids=["we are next", "nobody is next", "no line is kept", "another is next", "and much jitter"],
)
def test_others_leave_a_free_lock_to_the_one_that_is_next(
    line: str | None, jitter: float, delay_ns: int, how: str
) -> None:
    """It is dead if it has not taken the lock after a moment; without it everybody tries."""
    drive = Drive()
    drive.jitter = jitter
    drive.step()
    drive.answer(held(line=line))
    drive.step(WatchOpened())
    if how == "expired":
        delay_ns += 15 * S
        if line == "":
            drive.core._name_at_ns = START_NS + 3600 * S  # another standby names itself before
    else:
        drive.sees(freed(line=line))
    assert isinstance(drive.call, Update) == (delay_ns == 0)
    if delay_ns:
        drive.tries_after(delay_ns, Update)


def test_others_give_up_when_they_see_a_holder() -> None:
    """Within the courtesy the news arrive, and nothing has been asked of the server."""
    drive = standing_by(held(line="c"))
    effects = drive.sees(freed(line="c")) + drive.wait(COURTESY_NS - 1)
    effects += drive.sees(held("c", version=7, line="")) + drive.wait(COURTESY_LIMIT_NS)
    assert not CALLS & kinds(effects)
    assert drive.core.leader == "c"


def test_a_line_of_the_dead_does_not_keep_the_only_candidate_away() -> None:
    """An ancient successor costs the courtesy once for each time the lock is free, no more."""
    drive = trying(freed(line="dead for a year"))
    assert drive.call is None, "a candidate that starts meanwhile waits as well"
    drive.wait(COURTESY_LIMIT_NS)
    drive.reply_is_lost()
    drive.until(Read)
    assert Update in kinds(drive.answer(freed(line="dead for a year"))), "the courtesy is over"
    taken = drive.lands(9)
    assert taken.successor == ""
    drive.answer(taken)
    assert drive.core.state is State.LEADER


def test_a_standby_names_itself_once_at_a_moment_of_its_own() -> None:
    """Jitter decides when; the one that is in line has nothing more to do."""
    drive = standing_by(held(line=""))
    drive.jitter = 0.25
    waited_ns = waits_to_name(drive)
    call = drive.call
    assert isinstance(call, NameSuccessor)
    assert (call.successor, call.seen) == ("a", held(line=""))
    assert waits_to_name(standing_by(held(line=""))) == waited_ns, "drawn when the watch opened"
    drive.succeeds(6)
    assert not CALLS & kinds(let_renew(drive, 23, line="a"))


def test_renewals_that_are_seen_do_not_put_off_naming() -> None:
    """The moment is drawn once, however often the record changes until it comes."""
    waited_ns = waits_to_name(standing_by(held(line="")))
    drive = standing_by(held(line=""))
    let_renew(drive, waited_ns // S, line="", every_ns=S - 1)
    drive.wait(waited_ns % S + waited_ns // S)
    assert isinstance(drive.call, NameSuccessor)


def test_a_standby_that_sees_another_in_line_names_nobody() -> None:
    """First come, first served."""
    drive = standing_by(held(line=""))
    drive.wait(S)
    assert not WRITES & kinds(let_renew(drive, 53, line="c"))


@pytest.mark.parametrize(
    "bring",
    [
        lambda: standing_by(held(line=None)),
        lambda: standing_by(held(line="c")),
        lambda: standing_by(held(line="a")),
        lambda: trying(held(line="")),
        lambda: (standing_by(held(line="")), ABSENT),
        lambda: (standing_by(held(line="")), GuardianDied()),
        lambda: leading(freed(line="")),
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
def test_naming_needs_an_open_watch_and_another_holder(bring: Callable[[], Any]) -> None:
    """A standby that could not go first, or need not, does not stand in line."""
    drive = bring()
    if isinstance(drive, tuple):
        drive, event = drive
        drive.step(event or WatchSaw(ABSENT))
    effects: list[Effect] = []
    for version in range(10, 24):
        effects += drive.wait(S)
        if isinstance(drive.call, Read):
            effects += drive.answer(held(version=version, renewed_us=drive.wall_us, line=""))
        elif drive.call is not None:
            effects += drive.succeeds(version)
    assert NameSuccessor not in kinds(effects)


def test_nobody_is_in_line_behind_its_own_name() -> None:
    """A twin under our --id leads: in line behind it, our name would be the leader's own."""
    drive = standing_by(held("a", line=""), unique=False)
    assert not WRITES & kinds(drive.wait(15 * S - 1))


def test_a_free_lock_has_no_line() -> None:
    """While the tree of a lost leadership still dies, a free lock is left alone, unnamed."""
    drive = renewing(freed(line=""))
    drive.conflict()
    drive.answer(held("b", version=12, line=""))
    drive.until(Read)
    drive.answer(held("b", version=12, line=""))
    drive.step(WatchOpened())
    drive.sees(freed(13, line=""))
    assert not WRITES & kinds(drive.wait(14 * S))
    assert drive.call is None


def test_a_conflict_over_naming_causes_no_read_and_doubles_the_spread() -> None:
    """Of many that name themselves one succeeds, and the watch brings the news to the others."""
    drive = standing_by(held(line=""))
    waits = []
    for _ in range(8):
        waits.append(waits_to_name(drive))
        assert Read not in kinds(drive.conflict())
    assert waits[1] == 2 * waits[0]
    assert waits == sorted(waits)
    assert waits[-1] == waits[-2] == 30 * S, "half of a minute, with this jitter"
    drive.sees(held("c", version=80, line=""))
    assert waits_to_name(drive) == waits[0], "a new holder begins a new line"


def test_a_new_watch_draws_a_new_moment() -> None:
    """The watches of all standbys may have ended at once: they do not name themselves at once."""
    drive = standing_by(held(line=""))
    drive.wait(100 * MS)
    drive.step(WatchEnded(None))
    effects: list[Effect] = []
    for version in range(10, 30):
        effects += drive.wait(S)
        if drive.call is not None:
            effects += drive.answer(held(version=version, renewed_us=drive.wall_us, line=""))
    assert NameSuccessor not in kinds(effects), "another watch was not opened yet"
    drive.step(WatchOpened())
    assert drive.call is None
    assert waits_to_name(drive) > S


@pytest.mark.parametrize("dropped", [False, True], ids=["forbidden", "taken out again"])
def test_naming_in_vain_does_not_become_a_storm(dropped: bool) -> None:
    """It is tried less and less often, where 403 answers it or a webhook takes the name out."""
    drive = standing_by(held(line=""))
    names = 0
    for version in range(100, 3700):
        drive.wait(S)
        if isinstance(drive.call, NameSuccessor):
            names += 1
            seen = drive.call.seen
            unnamed = replace(seen, version=str(int(seen.version) + 1))
            drive.answer(unnamed) if dropped else drive.fail(FailureKind.FORBIDDEN)
        drive.sees(held(version=version, renewed_us=drive.wall_us, line=""))
    assert 60 <= names <= 130
    warnings = [note.level for note in notes(drive.effects, "it is forbidden")].count("warning")
    assert warnings == (0 if dropped else 1)
    assert sum(isinstance(e, Read) for e in drive.effects) == 1, "the first one"


def test_a_release_that_comes_while_naming_is_followed_at_once() -> None:
    """The naming was too late, which is its answer: then the lock is free, with nobody in line."""
    drive = naming()
    assert not WRITES & kinds(drive.sees(freed(line="")))
    assert only(drive.conflict(), Update).seen.version == "6"


def test_an_answer_to_a_naming_that_is_older_than_the_release_is_no_news() -> None:
    """The naming landed, the release did, and the watch was faster than the reply."""
    drive = naming()
    named = drive.lands(6)
    drive.tick(MS)
    drive.sees(freed(7, line="a"))
    assert only(drive.answer(named), Update).seen.version == "7"


def test_a_naming_whose_reply_was_lost_is_found_done() -> None:
    """A read after the unknown outcome shows our name; nothing is written again."""
    drive = naming()
    named = drive.lands(6)
    assert CloseWatch in kinds(drive.reply_is_lost()), "its connection may be as dead"
    drive.until(Read)
    effects = drive.answer(named) + drive.step(WatchOpened()) + drive.wait(3 * S)
    assert not WRITES & kinds(effects)
    assert Update in kinds(drive.sees(freed(8, line="a"))), "we are next"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda drive: drive.succeeds(6), Update),
        (lambda drive: drive.fail(FailureKind.ABSENT), Create),
        (lambda drive: drive.answer(drive.lands(30, uid="u2")), Update),
    ],
    ids=["it lands", "it finds nothing", "it creates another object"],
)
def test_a_naming_does_not_make_the_lock_free_sooner_or_later(
    answer: Callable[[Drive], list[Effect]], kind: type[Effect]
) -> None:
    """Rule 2: the holder has all of its lease, and of that of an object brought back by mistake."""
    drive = naming()
    lasts_ns = START_NS + 15 * S - drive.now_ns
    created = isinstance(drive.call, NameSuccessor) and drive.lands(30, uid="u2")
    assert not WRITES & kinds(answer(drive))
    drive.tries_after(15 * S if drive.core._seen == created else lasts_ns, kind)


def test_a_standby_that_ends_does_not_wait_for_its_naming() -> None:
    """Whether it lands or not, nobody holds anything: we retire at once, and its reply is lost."""
    drive = naming()
    named = drive.lands(6)
    assert only(drive.leave(), SendReleased) == NOT_HELD
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
    assert not (CALLS | {SendReleased}) & kinds(drive.leave())
    drive.succeeds(6) if kind is None else drive.fail(kind)
    for _ in range(40):
        if isinstance(drive.call, Read):
            drive.answer(landed)
        elif isinstance(drive.call, Update) and drive.call.seen == landed:
            assert drive.call.record.holder == ""
            drive.succeeds(8)
        elif drive.call is not None:
            drive.conflict()
        drive.wait(200 * MS)
    assert only(drive.effects, SendReleased).retired


def test_an_open_watch_that_is_dead_costs_few_namings_and_no_more_than_a_lease() -> None:
    """Namings conflict with renewals that are not seen; the try at the expiry shows why."""
    drive = standing_by(held(line=""))
    drive.jitter = 0.0
    names = 0
    while drive.now_ns < START_NS + 15 * S:
        drive.wait(50 * MS)
        if isinstance(drive.call, NameSuccessor):
            names += 1
            drive.jitter = 0.5
            drive.conflict()
    assert isinstance(drive.call, Update)
    drive.conflict()
    assert notes(drive.wait(S), "silently died")
    assert 1 <= names <= 4


# --- locks of old: whole seconds, and others that judge by their own durations --------------------


def old(**changes: Any) -> dict[str, Any]:
    """Return what makes a candidate one with the timing of `--ttl=10s` on a lock of 2016."""
    return {"timing": OLD, "traits": OLD_TRAITS, **changes}


def lasts_s(grant: Grant) -> float:
    return (grant.expires_at_ns - grant.renewed_at_ns) / S


def test_times_are_written_in_whole_seconds() -> None:
    """What the format cannot hold is not written, so that what is read is what was written."""
    drive = Drive(**old())
    drive.wall_us = WALL_US + 654_321
    drive.step()
    drive.answer(FREE)
    drive.succeeds(10)
    renewals: list[int] = []
    for version in range(11, 15):
        drive.wait(OLD.retry_period_ns)
        assert drive.written().acquire_time_us == WALL_US
        renewals.append(drive.renewed_us())
        drive.succeeds(version)
    drive.tree_gone(retire=True)
    renewals.append(drive.renewed_us())
    assert drive.written().acquire_time_us == WALL_US + 10 * SECOND_US, "when it became free"
    assert not any(time_us % SECOND_US for time_us in renewals)
    assert all(later - sooner >= SECOND_US for sooner, later in pairwise(renewals))


def test_whole_seconds_grow_with_every_write_within_one_second() -> None:
    """Rule 1 holds where a second has no parts: each write is in a later one than the last."""
    drive = Drive(**old())
    drive.wall_us = WALL_US + 900_000
    drive.step()
    drive.answer(FREE)
    written = [drive.renewed_us()]
    for version in range(10, 19):
        drive.succeeds(version)
        drive.core._renew_at_ns = drive.now_ns
        drive.step()
        written.append(drive.renewed_us())
    assert written == [WALL_US + n * SECOND_US for n in range(10)]


@pytest.mark.parametrize(
    ("peers_s", "granted_s"), [((8,), 8), ((8, 12), 8), ((12, 8), 8), ((12,), 10), ((10,), 10)]
)
def test_a_grant_is_no_longer_than_the_shortest_duration_seen(
    peers_s: tuple[int, ...], granted_s: int
) -> None:
    """A candidate that once wrote a shorter duration may judge our record by it."""
    drive = standing_by(held("b", version=4, duration_s=peers_s[0]), **old())
    for version, duration_s in enumerate(peers_s, 5):
        drive.sees(held(f"holder of {duration_s}", version=version, duration_s=duration_s))
    drive.sees(freed(9))
    assert drive.written().lease_duration_s == 10, "others judge us by what we are told to keep"
    sent_ns = drive.now_ns
    drive.tick(MS)
    grant = granted(drive.succeeds(10))
    assert (grant.renewed_at_ns, lasts_s(grant)) == (sent_ns, granted_s)
    drive.wait(OLD.retry_period_ns)
    assert lasts_s(granted(drive.succeeds(11))) == granted_s


@pytest.mark.parametrize(
    ("seen", "changes", "granted_s"),
    [
        (freed(5), old(slot=True), 10),
        (held("b", duration_s=0), old(slot=True), 10),
        (held("a", duration_s=3), old(slot=True), 10),
        (held("b", duration_s=3), {}, 15),
    ],
    ids=["nobody", "no duration", "a former life of ours", "on a Lease"],
)
def test_durations_that_are_nobodys_judgment_bound_nothing(
    seen: Snapshot, changes: dict[str, Any], granted_s: int
) -> None:
    """Nobody, or nobody but us, wrote it; or others wait for as long as our record says."""
    drive = standing_by(seen, **changes)
    drive.wait(10 * S)
    assert lasts_s(granted(drive.succeeds(10))) == granted_s


def test_beside_a_candidate_that_is_too_short_we_stand_by_and_say_so_once() -> None:
    """A leadership could not last from one renewal to the next: nothing is tried, nobody named."""
    drive = standing_by(held(duration_s=5, line=""), **old())
    drive.sees(freed(line=""))
    for version in range(7, 40):
        drive.wait(5 * S)
        assert drive.core.wake_at_ns is not None
        holder = "b" if version % 4 else ""
        drive.sees(held(holder, version=version, duration_s=5, line=""))
    assert not WRITES & kinds(drive.effects)
    (said,) = notes(drive.effects, "standing by")
    assert said.level == "error"
    assert "5s" in said.event
    assert "--retry-period 2.5s" in said.event
    assert only(drive.leave(), SendReleased).retired, "standing by for good is not being stuck"


def test_the_least_duration_that_serves_is_tried() -> None:
    """A leadership must outlast 1.2 retry periods of 2.5 s, after a margin of 2.1 s."""
    for duration_s, serves in ((5, False), (6, True)):
        drive = standing_by(held(duration_s=duration_s), **old())
        drive.sees(freed())
        assert (drive.call is not None) == serves


def test_an_heir_keeps_the_bound_of_its_predecessor() -> None:
    """A new elector has seen nobody, but its guardian knows how long the grants were."""
    found = held("a", version=20, duration_s=10)
    claim = Claim("a", found.record.acquire_time_us, found.record.transitions)
    for granted_s in (8, None):
        granted_ns = None if granted_s is None else granted_s * S
        drive = trying(found, **old(inherited=Holding(Token(10), "u1", claim, granted_ns)))
        for version in (21, 22):
            assert lasts_s(granted(drive.succeeds(version))) == (granted_s or 10)
            drive.wait(OLD.retry_period_ns)


# --- one id for two, on locks of old --------------------------------------------------------------


def _same_second_twins() -> tuple[Drive, Drive, Snapshot]:
    """Return the twin that won the race for a free lock, the other, and what the first wrote."""
    twins = winner, loser = Drive(**old(unique=False)), Drive(**old(unique=False))
    for twin, later_us in zip(twins, (300_000, 700_000), strict=True):
        twin.wall_us += later_us
        twin.step()
        twin.answer(held("b", duration_s=10))
        twin.step(WatchOpened())
        twin.sees(freed())
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
        loser.sees(landed)
    effects = loser.fail(kind)
    if news == "watched after":
        effects += loser.sees(landed)
    for version in range(8, 20):
        assert SendLost not in kinds(winner.wait(OLD.retry_period_ns))
        landed = winner.lands(version)
        winner.answer(landed)
        effects += loser.wait(OLD.retry_period_ns // 2)
        effects += loser.answer(landed) if isinstance(loser.call, Read) else []
        effects += loser.step(WatchOpened()) + loser.sees(landed)
        effects += loser.wait(OLD.retry_period_ns // 2)
    assert not {SendGrant, Update, Create} & kinds(effects)
    assert winner.core.state is State.LEADER


def test_twins_of_one_second_that_are_both_told_to_leave_do_not_release_each_other() -> None:
    """Rule 14 with a write of unknown fate: what looks like ours may be the twin's, and is left."""
    _, loser, landed = _same_second_twins()
    loser.reply_is_lost()
    loser.leave()
    effects = loser.answer(landed)
    assert not WRITES & kinds(effects)
    assert only(effects, SendReleased).outcome == "not held"


@pytest.mark.parametrize("unique", [False, True])
def test_a_lost_reply_costs_a_lease_where_ids_are_not_unique(unique: bool) -> None:
    """Our own write is then waited out like a twin's; under a unique name it is renewed at once."""
    drive = trying(**old(unique=unique))
    landed = drive.lands(6)
    drive.reply_is_lost()
    drive.until(Read)
    effects = drive.answer(landed)
    if unique:
        assert only(effects, Update).seen == landed
        return
    assert not WRITES & kinds(effects)
    drive.step(WatchOpened())
    again = drive.tries_after(10 * S, Update)
    assert again.record.transitions == landed.record.transitions + 1


# --- a container in its slot -------------------------------------------------------------------


def test_a_slot_takes_its_lease_back_as_soon_as_it_is_seen() -> None:
    """A late acquisition of the killed life, seen by the watch of its next one, is ours at once."""
    drive = standing_by(freed(5, line="c"), slot=True)
    assert drive.call is None, "another is next in line"
    update = only(drive.sees(held("a", version=7, line="")), Update)
    assert update.seen.version == "7"
    assert update.record.transitions == held().record.transitions


def test_a_slot_that_meets_late_renewals_of_its_former_life_leads_after_its_own_write() -> None:
    """Whichever lands first, the other conflicts; nothing is granted for what the dead wrote."""
    drive = trying(held("a", version=7), slot=True)
    assert drive.written().acquire_time_us == held().record.acquire_time_us
    for version in (8, 9):
        late_us = WALL_US + version * SECOND_US
        drive.conflict()
        drive.answer(held("a", version=version, renewed_us=late_us))
        assert drive.renewed_us() > late_us
    assert SendGrant not in kinds(drive.effects)
    grant = granted(drive.succeeds(10))
    assert (grant.token, grant.renewed_at_ns) == (10, drive.now_ns)


def test_a_slot_that_meets_a_late_release_of_its_former_life_acquires() -> None:
    """The killed life was giving back: that lands, and the lock is free."""
    drive = trying(held("a", version=7), slot=True)
    drive.conflict()
    assert only(drive.answer(freed(8, line="")), Update).record.transitions == 4
    assert granted(drive.succeeds(9)).token == 9


def test_a_slot_whose_lease_another_has_taken_waits_like_everybody() -> None:
    """The name gives no right to what another holds by now."""
    drive = trying(held("a", version=7), slot=True)
    drive.conflict()
    effects = drive.answer(held("b", version=8)) + drive.wait(TIMING.retry_period_ns)
    assert not WRITES & kinds(effects)


# --- what is told of the lock ------------------------------------------------------------------


def test_a_leader_is_to_be_believed_until_a_renewal_is_overdue() -> None:
    """Each counted renewal puts the time off; giving back does not end it before it is done."""
    drive = leading()
    assert drive.core.leader_until_ns == START_NS + 10 * S
    drive.wait(2 * S)
    drive.tick(S)
    drive.succeeds(11)
    assert (drive.core.leader, drive.core.leader_until_ns) == ("a", START_NS + 12 * S)
    drive.tree_gone()
    assert drive.core.leader_until_ns == START_NS + 12 * S
    drive.succeeds(12)
    assert drive.core.leader == ""


def test_a_leader_that_short_durations_bound_is_believed_for_less() -> None:
    """After its tree must be dead nobody says that it leads."""
    drive = standing_by(held(duration_s=5), timing=Timing(15, 10 * S, S), traits=OLD_TRAITS)
    drive.sees(freed())
    drive.succeeds(10)
    assert drive.core.leader_until_ns == START_NS + 5 * S - TIMING.margin_ns


def test_another_leader_is_to_be_believed_until_its_lease_runs_out() -> None:
    """From when its record was last seen to change, also while we ourselves are leaving."""
    drive = standing_by(held(duration_s=20))
    drive.wait(S)
    drive.sees(held(version=6, duration_s=20))
    assert drive.core.leader_until_ns == START_NS + 20 * S
    drive.sees(held(version=7, duration_s=20, renewed_us=WALL_US + 5))
    assert drive.core.leader_until_ns == START_NS + 21 * S
    drive.leave()
    assert (drive.core.leader, drive.core.leader_until_ns) == ("b", START_NS + 21 * S)


def test_an_acquisition_that_is_to_be_undone_makes_nobody_a_leader() -> None:
    """Told to leave while trying, we may hold the lock, but never led."""
    drive = standing_by(held(duration_s=1))
    drive.wait(S)
    drive.leave()
    assert drive.core.state is State.RELEASING
    assert drive.core.leader_until_ns <= drive.now_ns


@pytest.mark.parametrize("slot", [False, True])
def test_our_own_name_is_told_to_nobody_before_we_lead(slot: bool) -> None:
    """What a dead elector of ours, or a hand, wrote in our name makes nobody leader."""
    drive = Drive(slot=slot)
    assert drive.core.leader_until_ns <= drive.now_ns, "nor is anybody known before a read"
    drive.step()
    effects = drive.answer(held("a"))
    assert drive.core.leader_until_ns <= drive.now_ns
    assert SendStanding not in kinds(effects)
    assert not notes(effects, "leader is")
    assert bool(notes(effects, "our name is in a record that is not ours")) is not slot


def test_a_record_that_was_ours_frees_nothing_once_another_has_led() -> None:
    """A former leader's record that is restored does not make it leader beside the present one."""
    drive = renewing()
    ours = drive.core.record
    assert ours is not None
    drive.conflict()
    drive.answer(held("b", version=12))
    drive.tree_gone()
    drive.until(Read)
    assert OpenWatch in kinds(drive.answer(held("b", version=12)))
    drive.step(WatchOpened())
    restored = replace(held("b", version=13), record=ours)
    assert not WRITES & kinds(drive.sees(restored) + drive.wait(14 * S))
    assert Update in kinds(drive.wait(2 * S))


def test_a_record_that_was_given_back_frees_nothing_when_it_is_restored() -> None:
    """The restored record of a released leadership does not make it leader again at once."""
    drive = releasing()
    ours = drive.core.record
    assert ours is not None
    drive.succeeds(11)
    assert not WRITES & kinds(drive.answer(replace(held("a", version=12), record=ours)))
    drive.step(WatchOpened())
    assert not WRITES & kinds(drive.wait(14 * S))
    assert Update in kinds(drive.wait(2 * S))


def test_leader_record_and_next_in_line_are_as_last_seen() -> None:
    """There is none before anything was seen and after a deletion."""
    drive = Drive()

    def seen() -> tuple[str, Record | None, bool]:
        return drive.core.leader, drive.core.record, drive.core.is_next

    assert seen() == ("", None, False)
    drive.step()
    drive.answer(held(line="c"))
    drive.step(WatchOpened())
    assert seen() == ("b", held().record, False)
    drive.sees(held(version=6, line="a"))
    assert seen() == ("b", held().record, True)
    drive.sees(ABSENT)
    assert seen()[:2] == ("", None)


def test_a_call_is_told_by_what_it_is_for() -> None:
    """From when it is made until its answer has been taken note of."""
    drive = naming()
    seen = [drive.core.calling]

    def after(_: list[Effect]) -> None:
        seen.append(drive.core.calling)

    after(drive.conflict())
    after(drive.sees(freed(line="a")))
    led = drive.lands(10)
    drive.answer(led)
    after(drive.wait(2 * S))
    after(drive.conflict())
    drive.tree_gone(retire=True)
    after(drive.answer(replace(led, version="12")))
    assert seen == ["name_successor", "", "acquire", "renew", "read", "release"]
