"""Tests of the elector's decisions, one rule each, on one core driven by hand in virtual time.

Owns the drive: a core, two clocks that only the test moves, and the calls that wait for an answer.
The lock is whatever the test answers. Most rules are a row of `RULES`; a function stands where a
story is not one line of events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain, pairwise, product
from typing import Any, Final, TypeVar

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
SILENCE_S: Final = (TIMING.silence_bound_ns + 2 * TIMING.heartbeat_ns) // S

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


def changed(snapshot: Snapshot, **changes: Any) -> Snapshot:
    """Return a version with other fields, its own or its record's."""
    own = {name: changes.pop(name) for name in ("uid", "version", "successor") if name in changes}
    return replace(snapshot, record=replace(snapshot.record, **changes), **own)


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
        #: What the lock was after the last write that landed, and after the last that held it.
        self.landed = self.led = FREE
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

    def lands(self, version: int, *, uid: str = "u1") -> Snapshot:
        """Return what the lock is once the write in flight has landed."""
        call = self.call
        if isinstance(call, Create):
            self.landed = Snapshot(call.record, uid, str(version))
        elif isinstance(call, NameSuccessor):
            self.landed = replace(
                call.seen, version=str(version), uid=uid, successor=call.successor
            )
        else:
            assert isinstance(call, Update)
            line = None if call.seen.successor is None else successor_after(call.record, call.seen)
            self.landed = Snapshot(call.record, uid, str(version), line)
        self.led = self.landed if self.landed.record.holder else self.led
        return self.landed

    def succeeds(self, version: int, *, uid: str = "u1") -> list[Effect]:
        """Let the write in flight land as this version, and its reply arrive."""
        return self.answer(self.lands(version, uid=uid))

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


def heir() -> Drive:
    """Return the elector that follows a dead one which led; what that wrote has landed."""
    found = held("a", version=20)
    claim = Claim("a", found.record.acquire_time_us, found.record.transitions)
    drive = Drive(inherited=Holding(Token(10), "u1", claim), generation=2)
    drive.landed = found
    drive.step()
    return drive


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


# --- rules -----------------------------------------------------------------------------------

Step = Callable[[Drive], list[Effect]]

_WORDS: Final[dict[type, str]] = {
    Read: "read",
    Create: "create",
    NameSuccessor: "name itself",
    OpenWatch: "watch",
    CloseWatch: "unwatch",
    KillGuardian: "kill the guardian",
    Note: "",
    SendBeat: "",
}


def _word(effect: Effect) -> str:
    match effect:
        case Update(record=Record(holder=""), seen=seen):
            return f"release over {seen.version}"
        case Update(record=record, seen=seen):
            claim = Claim(record.holder, record.acquire_time_us, record.transitions)
            verb = "renew" if claim.made(seen.record) else f"take {record.transitions}"
            return f"{verb} over {seen.version}"
        case SendGrant(grant=grant):
            from_s, to_s = (
                (grant.renewed_at_ns - START_NS) / S,
                (grant.expires_at_ns - START_NS) / S,
            )
            return f"grant {grant.token} from {from_s:g} to {to_s:g}"
        case SendLost(token=token, reason=reason):
            return f"lost {token}: {reason}"
        case SendReleased(token=token, outcome=outcome, retired=retired):
            return f"{outcome} {token}{' for good' if retired else ''}"
        case SendStanding(leader=leader):
            return f"stand by {leader or 'nobody'}"
        case _:
            return _WORDS[type(effect)]


def words(effects: list[Effect]) -> str:
    """Say what the core does, but for what it logs and its heartbeats."""
    return ", ".join(filter(None, map(_word, effects)))


def wait(seconds: float) -> Step:
    return lambda drive: drive.wait(int(seconds * S))


def tick(seconds: float) -> Step:
    return lambda drive: drive.tick(int(seconds * S)) or []


def after(seconds: float) -> Step:
    """Nothing is done until then."""

    def step(drive: Drive) -> list[Effect]:
        assert not words(drive.wait(int(seconds * S) - 1))
        return drive.wait(1)

    return step


def tells(event: Event) -> Step:
    return lambda drive: drive.step(event)


def sees(snapshot: Snapshot | None) -> Step:
    """The watch delivers this version."""
    return tells(WatchSaw(snapshot))


def reads(snapshot: Snapshot | None) -> Step:
    """The call in flight returns this version."""
    return lambda drive: drive.answer(snapshot)


def finds(**changes: Any) -> Step:
    """The call in flight returns what has landed last, with these changes."""
    return lambda drive: drive.answer(changed(drive.landed, **changes))


def lands(version: int, **changes: Any) -> Step:
    return lambda drive: drive.succeeds(version, **changes)


def lost(version: int) -> Step:
    """The write in flight lands as this version, and its reply is lost."""
    return lambda drive: drive.lands(version) and drive.reply_is_lost()


def fails(kind: FailureKind, retry_after_s: int = 0) -> Step:
    return lambda drive: drive.fail(kind, retry_after_s * S or None)


def gone(token: int | None = 10, *, retire: bool = False) -> Step:
    """The guardian says that its tree is gone."""
    return tells(TreeGone(None if token is None else Token(token), retire=retire))


def has(**facts: Any) -> Step:
    """The core has come to this."""

    def step(drive: Drive) -> list[Effect]:
        assert {name: getattr(drive.core, name) for name in facts} == facts
        return []

    return step


def writes(**fields: Any) -> Step:
    """The record that is being written has these fields; its time is that or a later one."""

    def step(drive: Drive) -> list[Effect]:
        least_us = fields.pop("least_us", 0)
        assert drive.renewed_us() >= least_us
        assert {name: getattr(drive.written(), name) for name in fields} == fields
        return []

    return step


def sets_back(seconds: int) -> Step:
    """The wall clock is set back."""

    def step(drive: Drive) -> list[Effect]:
        drive.wall_us -= seconds * SECOND_US
        return []

    return step


def restored(version: int) -> Step:
    """Somebody writes again what once was the candidate's own record, and it is seen."""

    def step(drive: Drive) -> list[Effect]:
        found = replace(drive.led, version=str(version))
        return drive.answer(found) if drive.call else drive.sees(found)

    return step


def silent(drive: Drive) -> list[Effect]:
    """The guardian answers no heartbeat any more."""
    drive.answering = False
    return []


def answers(drive: Drive) -> list[Effect]:
    drive.answering = True
    return drive.step(BeatReturned())


def renews_for(seconds: int) -> Step:
    """Renewals succeed, one version after the other."""

    def step(drive: Drive) -> list[Effect]:
        effects: list[Effect] = []
        for version in range(11, 11 + seconds):
            effects += drive.wait(S)
            effects += drive.succeeds(version) if drive.call else []
        return [e for e in effects if not isinstance(e, Update | SendGrant)]

    return step


woke: Final = tells(Woke())
opened: Final = tells(WatchOpened())
conflict: Final = fails(FailureKind.CONFLICT)
absent: Final = fails(FailureKind.ABSENT)
unavailable: Final = fails(FailureKind.UNAVAILABLE)
forbidden: Final = fails(FailureKind.FORBIDDEN)
leave: Final = gone(None, retire=True)
DELETED: Final = "the lock's object was deleted"

#: A rule, and a story that shows it: how it begins, and then the events. A string after events is
#: all that the core does about the last of them.
RULES: Final[dict[str, list[tuple[Any, ...]]]] = {
    "an answer to another call is ignored": [
        (Drive, woke, tells(Returned(99, FREE)), ""),
        (tells(Failed(99, Failure(FailureKind.CONFLICT, ""))), ""),
        (has(state=State.STANDBY),),
    ],
    # --- acquiring
    "an absent lock is created": [
        (Drive, woke, "read"),
        (reads(ABSENT), "create"),
        (writes(transitions=0, acquire_time_us=WALL_US), lands(1), "grant 1 from 0 to 15"),
        (has(state=State.LEADER),),
    ],
    "a released lock is taken at once": [(Drive, woke, reads(FREE), "take 4 over 5")],
    # Rule: T = t0 + the duration that was written, however late the reply is.
    "a grant counts from before the write was sent": [
        (trying, tick(4), lands(10), "grant 10 from 0 to 15, renew over 10")
    ],
    "a held lock is tried when its own duration has passed since it changed": [
        (partial(standing_by, held(duration_s=33, renewed_us=0)), after(33), "take 4 over 5")
    ],
    "each renewal that is seen starts the wait anew": [
        (
            standing_by,
            wait(14),
            sees(held(version=6, renewed_us=WALL_US + 1)),
            after(15),
            "take 4 over 6",
        )
    ],
    "labels that change do not keep a dead leaders lease alive": [
        (
            standing_by,
            wait(7),
            sees(held(version=6)),
            wait(7),
            sees(held(version=7)),
            after(1),
            "take 4 over 7",
        )
    ],
    "a record without a duration is given ours": [
        (partial(standing_by, held(duration_s=0)), after(15), "take 4 over 5")
    ],
    # Rule 2: the holder of the deleted object may run until its duration has passed.
    "a stamp is kept across a deletion": [
        (standing_by, wait(5), sees(ABSENT), after(10), "create")
    ],
    # Rule 2: the writer of what a dead watch did not deliver may run although it was deleted.
    "a version that was missed and deleted is waited out": [
        (standing_by, wait(15), conflict, wait(1), "unwatch, read"),
        (reads(ABSENT), "watch"),
        (opened, after(15), "create"),
    ],
    "a watch that lags behind our own read is ignored": [
        (partial(standing_by, held(version=9)), wait(5), sees(held("c", version=8)), ""),
        (has(leader="b"), after(10), "take 4 over 9"),
    ],
    # A quorum read that was sent after a version was seen shows what is, not what was.
    "a read is believed even if the versions went back": [
        (renewing, conflict, reads(held("b", version=4)), "lost 10: held by b")
    ],
    "versions that are not numbers are all newer": [
        (
            partial(standing_by, changed(held(), version="x")),
            sees(changed(held("c"), version="w")),
            has(leader="c"),
        )
    ],
    "losing the race is noticed and announced": [
        (trying, conflict, "read"),
        (reads(held("c", version=6)), "stand by c, watch"),
        (has(leader="c"),),
    ],
    "an object deleted under an attempt is created anew": [
        (standing_by, wait(15), absent, "create")
    ],
    # Rule 2: 201 on a PUT grants nothing, since the deleted object's holder may still run.
    "an attempt that created another object is no leadership": [
        (trying, lands(30, uid="u2"), "watch"),
        (has(state=State.STANDBY),),
    ],
    # Rule 2: what the deleted object's holder may still use stays taken for a lease duration.
    "an object created by mistake is not offered to the others": [
        (standing_by, wait(15), lands(30, uid="u2"), ""),
        (after(15), "renew over 30"),
    ],
    # Rule 1: 200 with the version unchanged made nobody leader.
    "an attempt that changed nothing is no leadership": [
        (trying, lands(5), ""),
        (has(state=State.STANDBY),),
    ],
    # Rule 3: a late landing acquisition is its own, but only the next counted write grants.
    "a write whose reply was lost is recognised and renewed before it counts": [
        (partial(trying, unique=False), tick(5), lost(6), wait(5), finds(), "renew over 6"),
        (lands(7), "grant 7 from 10 to 25"),
    ],
    "two attempts over one version make one claim": [
        (partial(trying, unique=False), lost(6), wait(5), reads(FREE), "take 4 over 5"),
        (conflict, "read"),
        (finds(), "renew over 6"),
    ],
    # Once the version that a lost attempt replaces has passed, the attempt cannot land.
    "an attempt over another version makes another claim": [
        (partial(trying, unique=False), lost(6), wait(5), reads(freed(8)), "take 4 over 8"),
        (conflict, finds(version="9"), "stand by a, watch"),
    ],
    # --- identity (rule 12)
    "a name that may be used twice proves nothing": [
        (partial(standing_by, held("a"), unique=False), after(15), "take 4 over 5")
    ],
    "a name alone is not enough though nobody else can have it": [
        (standing_by, sees(held("a", version=6)), ""),
        (after(15), "take 4 over 6"),
    ],
    "after a deletion our own record is no reason to wait": [
        (renewing, absent, "lost 10: the lock's object was deleted"),
        (wait(2), "read"),
        (reads(ABSENT), "watch"),
        (gone(), "not held 10, create"),
    ],
    "a leader whose name another writes has lost": [
        (
            renewing,
            conflict,
            reads(held("a", version=12, acquired_us=WALL_US + 5)),
            "lost 10: held by a",
        )
    ],
    # --- renewing
    "a leader renews every retry period": [
        (leading, after(2), "renew over 10"),
        (tick(1), lands(17), "grant 10 from 2 to 17"),
        (after(1), "renew over 17"),
    ],
    # Rule 1: a wall clock that is set back does not make a renewal an identical write.
    "renew time moves on when the wall clock is set back": [
        (leading, sets_back(3600), wait(2), writes(renew_time_us=WALL_US + SECOND_US))
    ],
    "renew time is later than that of a write whose reply was lost": [
        (renewing, unavailable, sets_back(2), wait(2), writes(least_us=WALL_US + 3 * SECOND_US))
    ],
    # Rule 1: 200 with the version unchanged renewed nothing.
    "a renewal that changed no version is not counted": [
        (renewing, lands(10), ""),
        (wait(1), "renew over 10"),
    ],
    # Rule 2: 201 or another uid while leading means lost, and so does 404.
    "a renewal that created another object is a loss": [
        (renewing, lands(30, uid="u2"), "lost 10: the lock's object was deleted")
    ],
    "a deleted object is a loss": [(renewing, absent, "lost 10: the lock's object was deleted")],
    "a conflict is a loss if a read shows another holder": [
        (renewing, conflict, "read"),
        (reads(held("b", version=12)), "lost 10: held by b"),
    ],
    "a conflict is a loss if a read shows nobody": [
        (renewing, conflict, reads(freed(12)), "lost 10: held by nobody")
    ],
    "a conflict is a loss if a read shows another object": [
        (
            renewing,
            conflict,
            finds(version="12", uid="u2"),
            "lost 10: the lock's object was replaced by another",
        )
    ],
    "a conflict is a loss if a read shows a deletion": [
        (renewing, conflict, reads(ABSENT), "lost 10: the lock's object was deleted")
    ],
    "a conflict with our own lost renewal is none": [
        (renewing, lost(11), wait(2), conflict, "read"),
        (finds(), "renew over 11"),
    ],
    "a label that another changes does not cost the leadership": [
        (renewing, conflict, "read"),
        (has(slow_renewals=1), finds(version="11"), "renew over 11"),
        (lands(12), "grant 10 from 2 to 17"),
    ],
    "a naming does not cost the leadership": [
        (
            partial(renewing, freed(line="")),
            conflict,
            finds(version="11", successor="b"),
            "renew over 11",
        ),
        (lands(12), "grant 10 from 2 to 17"),
    ],
    "a lost reply is followed by another try": [
        (renewing, tick(0.5), unavailable, after(1.5), "renew over 10")
    ],
    # 429: Retry-After is honoured, but one more try fits before the renew deadline.
    "a server that asks for patience gets it within the deadline": [
        (renewing, fails(FailureKind.UNAVAILABLE, 4), after(4), "renew over 10"),
        (fails(FailureKind.UNAVAILABLE, 3600), after(2), "renew over 10"),
    ],
    # Rule 3.
    "one request is in flight at a time": [(renewing, wait(60), "")],
    "after a loss there is no new try before the tree is gone": [
        (renewing, absent, wait(5), "read"),
        (reads(freed(12)), "watch"),
        (gone(), "not held 10, take 4 over 12"),
    ],
    # --- resuming (rule 3)
    "an heir reads first and grants after its own write only": [
        (heir, finds(), "renew over 20"),
        (has(state=State.RESUMING), lands(21), "grant 10 from 0 to 15"),
        (has(state=State.LEADER),),
    ],
    "an heir whose predecessors renewal lands late goes on": [
        (heir, finds(), conflict, "read"),
        (finds(version="21", renew_time_us=WALL_US + 1), "renew over 21"),
        (lands(22), "grant 10 from 0 to 15"),
    ],
    "an heir writes a later second than its predecessor": [
        (
            heir,
            finds(renew_time_us=WALL_US + 9 * SECOND_US),
            writes(least_us=WALL_US + 10 * SECOND_US),
        )
    ],
    "an heir retries while the lock cannot be reached": [
        (heir, unavailable, wait(2), "read"),
        (finds(), "renew over 20"),
    ],
    "an heir of a tree that is gone gives back": [
        (heir, gone(), ""),
        (finds(), "release over 20"),
        (lands(21), "released 10, read"),
    ],
    # For a leadership that goes on the name is not enough: another token is another tree.
    "an heir with a unique name does not resume by its name": [
        (heir, finds(transitions=4), "lost 10: held by a"),
        (wait(2), ""),
        (finds(transitions=4), "?"),
        (opened, wait(26), "?"),
        (gone(), "?"),
    ],
    # --- giving back
    "a release writes nobody for one second": [
        (
            releasing,
            writes(holder="", lease_duration_s=1, transitions=4),
            writes(renew_time_us=WALL_US + SECOND_US),
        )
    ],
    "after a release others have a chance before the same candidate tries": [
        (releasing, lands(11), "released 10, read"),
        (has(state=State.STANDBY), finds(), "watch"),
        (wait(1.9), ""),
        (wait(5), "take 5 over 11"),
    ],
    "a release for good retires": [
        (releasing, gone(retire=True), ""),
        (lands(11), "released 10 for good"),
        (has(state=State.RETIRED, wake_at_ns=None), woke, ""),
    ],
    # Rule 3: release starts after the last renewal has returned or timed out.
    "a release waits for the renewal in flight": [
        (renewing, gone(), ""),
        (lands(11), "release over 11"),
    ],
    "a conflict on release is read and tried again only if still mine": [
        (renewing, lost(11), gone(), "release over 10"),
        (conflict, "read"),
        (finds(), "release over 11"),
    ],
    # G5: releasing never overwrites another, and what was deleted stays deleted.
    "a conflict on release with another holder is left alone": [
        (releasing, conflict, reads(held("b", version=12)), "not held 10")
    ],
    "a release of a deleted object resurrects nothing": [(releasing, absent, "not held 10")],
    # Eight seconds at most, so that a pod ends within its 30 s.
    "a release that nobody confirms is given up in time": [
        (releasing, after(8), "unconfirmed 10"),
        (lands(11), "read"),
    ],
    "a release whose reply was lost is found done": [
        (releasing, lost(11), wait(1), "read"),
        (finds(), "not held 10"),
    ],
    "a release over a naming is tried again": [
        (partial(leading, freed(line="")), gone(retire=True), conflict, "read"),
        (finds(version="11", successor="b"), "release over 11"),
        (lands(12), "released 10 for good"),
    ],
    "a standby that ends writes nothing": [(standing_by, leave, "unwatch, not held None for good")],
    "a standby that ends after its attempt was refused writes nothing": [
        (trying, forbidden, leave, "not held None for good")
    ],
    # Rule 14: a request to stop during an acquisition waits for its outcome and undoes it.
    "a standby that ends while acquiring releases what landed": [
        (trying, leave, ""),
        (lands(10), "release over 10"),
        (lands(11), "released None for good"),
    ],
    # Rule 14: the lock is read first.
    "a standby that ends with a lost attempt releases what landed": [
        (trying, lost(10), leave, "read"),
        (finds(), "release over 10"),
    ],
    "a later attempt that was refused does not hide the lost one": [
        (trying, lost(10), wait(5), reads(FREE), "take 4 over 5"),
        (forbidden, leave, "read"),
        (finds(), "release over 10"),
    ],
    # Rule 14: the version that a lost attempt replaces is still there, so it can still land.
    "a standby that ends waits for an attempt that may still land": [
        (trying, unavailable, leave, "read"),
        (reads(FREE), ""),
    ],
    "a tree of another leadership that is gone does not cost this one": [
        (leading, gone(9), "not held 9"),
        (has(state=State.LEADER),),
    ],
    # --- watching and polling
    # G4: a release is followed at once.
    "a standby watches instead of polling": [
        (standing_by, wait(14.9), ""),
        (sees(freed()), "take 4 over 6"),
    ],
    "a leader does not watch": [
        (standing_by, sees(freed()), lands(10), "unwatch, grant 10 from 0 to 15"),
        (sees(held("b", version=11)), ""),
        (tells(WatchEnded(None)), ""),
        (has(state=State.LEADER),),
    ],
    "a watch that ends is opened again after a read": [
        (standing_by, tells(WatchEnded(None)), wait(2), "watch, read"),
        (reads(held()), ""),
    ],
    "a watch that breaks is opened again after a read": [
        (
            standing_by,
            tells(WatchEnded(Failure(FailureKind.UNAVAILABLE, "reset"))),
            wait(2),
            "watch, read",
        ),
        (reads(held()), ""),
    ],
    # The try conflicts, which shows it; the watch is given a moment.
    "a silently dead watch costs no more than a lease": [
        (standing_by, wait(15), conflict, ""),
        (wait(1), "unwatch, read"),
        (reads(held(version=40, renewed_us=WALL_US + 14)), "watch"),
    ],
    "a watch that dies after a release is replaced": [
        (standing_by, sees(freed()), conflict, ""),
        (wait(1), "unwatch, read"),
        (reads(held(version=40, renewed_us=WALL_US + 14)), "watch"),
    ],
    "a refusal does not blame the watch": [
        (standing_by, sees(freed()), forbidden, wait(5), "read")
    ],
    "a standby keeps trying while the lock cannot be reached": [
        (Drive, woke, forbidden, "stand by nobody"),
        (wait(4.4), "read"),
        (unavailable, ""),
        (wait(4.4), "read"),
        (forbidden, ""),
        (wait(4.4), "read"),
    ],
    # 429: as long as Retry-After says, but no longer than a lease.
    "a standby does what the server asks for": [
        (Drive, woke, fails(FailureKind.UNAVAILABLE, 7), "stand by nobody"),
        (after(7), "read"),
    ],
    "a standby does not wait for an hour that the server asks for": [
        (Drive, woke, fails(FailureKind.UNAVAILABLE, 3600), "stand by nobody"),
        (after(15), "read"),
    ],
    "a failing connection takes its watch along": [(standing_by, wait(15), unavailable, "unwatch")],
    # --- the guardian
    # Its keeper must end the tree; in a container it cannot be killed, and may come back.
    "a leader whose guardian is silent stops renewing and kills it": [
        (leading, silent, renews_for(SILENCE_S), "kill the guardian"),
        (wait(60), ""),
        (answers, "renew over 20"),
    ],
    # With the keeper dead, killing a silent guardian would leave the tree to nobody.
    "a guardian that alone can end the tree is not killed": [
        (leading, tells(KeeperDied()), silent, renews_for(40), ""),
        (wait(20), ""),
    ],
    "a standby whose guardian is silent does not try": [
        (standing_by, silent, wait(60), ""),
        (answers, "take 4 over 5"),
    ],
    "a standby whose guardian died does not try": [
        (standing_by, tells(GuardianDied()), sees(freed()), "")
    ],
    # The keeper of a dead guardian still kills.
    "a dead guardians lock is renewed until its tree is gone": [
        (leading, tells(GuardianDied()), wait(2), "renew over 10"),
        (lands(11), wait(2), "renew over 11"),
        (lands(12), leave, "release over 12"),
        (lands(13), "released 10 for good"),
    ],
    # --- the line
    # Within the courtesy the news arrive, and nothing has been asked of the server.
    "others give up when they see a holder": [
        (
            partial(standing_by, held(line="c")),
            sees(freed(line="c")),
            wait(COURTESY_NS / S - 0.01),
            "",
        ),
        (sees(held("c", version=7, line="")), "stand by c"),
        (wait(COURTESY_LIMIT_NS / S), ""),
    ],
    # An ancient successor costs the courtesy once for each time the lock is free.
    "a line of the dead does not keep the only candidate away": [
        (partial(trying, freed(line="dead for a year")), "read, watch"),
        (wait(COURTESY_LIMIT_NS / S), "take 4 over 6"),
        (unavailable, wait(5), "read"),
        (reads(freed(line="dead for a year")), "take 4 over 6"),
        (lands(9), "unwatch, grant 9 from 5.55 to 20.55"),
    ],
    # A twin under the same --id leads: in line behind it, the name would be the leader's own.
    "nobody is in line behind its own name": [
        (partial(standing_by, held("a", line=""), unique=False), after(15), "take 4 over 5")
    ],
    # While the tree of a lost leadership still dies, a free lock is left alone, unnamed.
    "a free lock has no line": [
        (
            partial(renewing, freed(line="")),
            conflict,
            reads(held("b", version=12, line="")),
            "lost 10: held by b",
        ),
        (wait(2), ""),
        (reads(held("b", version=12, line="")), "?"),
        (opened, sees(freed(13, line="")), wait(14), "?"),
    ],
    # The naming was too late, which is its answer: then the lock is free, with nobody in line.
    "a release that comes while naming is followed at once": [
        (naming, sees(freed(line="")), ""),
        (conflict, "take 4 over 6"),
    ],
    # The naming landed, the release did, and the watch was faster than the reply.
    "an answer to a naming that is older than the release is no news": [
        (naming, sees(freed(7, line="a")), tick(0.001), ""),
        (lands(6), ""),
    ],
    # The connection of a lost reply may be as dead as that of the watch.
    "a naming whose reply was lost is found done": [
        (naming, lost(6), "unwatch"),
        (wait(5), "read"),
        (finds(), "watch"),
        (opened, wait(2), ""),
        (sees(freed(8, line="a")), "take 4 over 8"),
    ],
    # Whether it lands or not, nobody holds anything.
    "a standby that ends does not wait for its naming": [
        (naming, leave, "unwatch, not held None for good"),
        (has(state=State.RETIRED), lands(6), ""),
    ],
    # --- a container in its slot
    # A late acquisition of the killed life, seen by the watch of its next one.
    "a slot takes its lease back as soon as it is seen": [
        (
            partial(standing_by, freed(5, line="c"), slot=True),
            sees(held("a", version=7)),
            "renew over 7",
        )
    ],
    "a slot that meets late renewals of its former life leads after its own write": [
        (partial(trying, held("a", version=7), slot=True), writes(transitions=3), conflict, "read"),
        (reads(held("a", version=8, renewed_us=WALL_US + 8 * SECOND_US)), "renew over 8"),
        (writes(least_us=WALL_US + 9 * SECOND_US), lands(10), "grant 10 from 0 to 15"),
    ],
    "a slot that meets a late release of its former life acquires": [
        (
            partial(trying, held("a", version=7), slot=True),
            conflict,
            reads(freed(8)),
            "take 4 over 8",
        ),
        (lands(9), "grant 9 from 0 to 15"),
    ],
    "a slot whose lease another has taken waits like everybody": [
        (partial(trying, held("a", version=7), slot=True), conflict, "read"),
        (reads(held("b", version=8)), "stand by b, watch"),
        (opened, after(15), "take 4 over 8"),
    ],
    # --- what is told of the lock
    # Each counted renewal puts the time off; giving back does not end it before it is done.
    "a leader is to be believed until a renewal is overdue": [
        (
            leading,
            has(leader_until_ns=START_NS + 10 * S),
            wait(2),
            tick(1),
            lands(11),
            has(leader="a", leader_until_ns=START_NS + 12 * S),
            gone(),
            has(leader_until_ns=START_NS + 12 * S),
            lands(12),
            has(leader=""),
        )
    ],
    # After its tree must be dead nobody says that it leads.
    "a leader that short durations bound is believed for less": [
        (
            partial(
                standing_by, held(duration_s=5), timing=Timing(15, 10 * S, S), traits=OLD_TRAITS
            ),
            sees(freed()),
            lands(10),
            has(leader_until_ns=START_NS + 5 * S - TIMING.margin_ns),
        )
    ],
    # From when its record was last seen to change, also while this one is leaving.
    "another leader is to be believed until its lease runs out": [
        (
            partial(standing_by, held(duration_s=20)),
            wait(1),
            sees(held(version=6, duration_s=20)),
            has(leader_until_ns=START_NS + 20 * S),
            sees(held(version=7, duration_s=20, renewed_us=WALL_US + 5)),
            leave,
            has(leader="b", leader_until_ns=START_NS + 21 * S),
        )
    ],
    # Told to leave while trying, it may hold the lock, but never led.
    "an acquisition that is to be undone makes nobody a leader": [
        (
            partial(standing_by, held(duration_s=1)),
            wait(1),
            leave,
            has(state=State.RELEASING),
            has(leader_until_ns=START_NS + S),
        )
    ],
    # A restored former record does not make its writer leader beside the present one.
    "a record that was ours frees nothing once another has led": [
        (renewing, conflict, reads(held("b", version=12)), "lost 10: held by b"),
        (gone(), "not held 10"),
        (wait(2), ""),
        (reads(held("b", version=12)), "?"),
        (opened, restored(13), "?"),
        (after(15), "?"),
    ],
    "a record that was given back frees nothing when it is restored": [
        (releasing, lands(11), "released 10, read"),
        (restored(12), "watch"),
        (opened, after(15), "take 5 over 12"),
    ],
    "leader record and next in line are as last seen": [
        (
            Drive,
            has(leader="", record=None, is_next=False),
            woke,
            reads(held(line="c")),
            opened,
            has(leader="b", record=held().record, is_next=False),
            sees(held(version=6, line="a")),
            has(leader="b", is_next=True),
            sees(ABSENT),
            has(leader="", record=None),
        )
    ],
    # From when it is made until its answer has been taken note of.
    "a call is told by what it is for": [
        (
            naming,
            has(calling="name_successor"),
            conflict,
            has(calling=""),
            sees(freed(line="a")),
            has(calling="acquire"),
            lands(10),
            wait(2),
            has(calling="renew"),
            conflict,
            has(calling="read"),
            gone(retire=True),
            finds(),
            has(calling="release"),
        )
    ],
}


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str) -> None:
    """Every event of the story has these effects and no others."""
    begin, *story = chain.from_iterable(RULES[rule])
    drive = begin()
    effects = drive.effects
    for part in story:
        if isinstance(part, str):
            assert words(effects) == part
        else:
            effects = part(drive)


# --- the table -------------------------------------------------------------------------------


def test_every_transition_of_the_table_is_reached() -> None:
    """No line of the table is dead: each is taken by a sequence of lawful events."""
    released, lost, drop = releasing(), renewing(), Drive()
    released.succeeds(11)
    lost.fail(FailureKind.ABSENT)
    drop.leave()
    resumed, displaced, orphaned = heir(), heir(), heir()
    resumed.answer(resumed.landed)
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


# --- acquiring -------------------------------------------------------------------------------


# --- identity --------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"holder": "b"}, {"lease_duration_s": 3}, {"transitions": 9}])
def test_a_write_that_was_changed_on_its_way_counts_for_nothing(change: dict[str, Any]) -> None:
    """Others go by what the lock says, and not by what we sent to it: there is no grant for it."""
    for drive in (trying(), renewing()):
        state, landed = drive.core.state, drive.lands(11)
        effects = drive.answer(replace(landed, record=replace(landed.record, **change)))
        assert SendGrant not in kinds(effects)
        assert drive.core.state is state
    assert Read in kinds(drive.wait(S)), "a quorum read tells whose it is"


def test_one_id_and_one_microsecond_do_not_make_two_leaders() -> None:
    """Rule 12: not even twins that try at the same instant both lead."""
    winner, loser = trying(unique=False), trying(unique=False)
    landed = winner.lands(6)
    winner.answer(landed)
    assert Read in kinds(loser.conflict())
    assert Update not in kinds(loser.answer(landed) + loser.wait(15 * S - 1))


# --- renewing --------------------------------------------------------------------------------


def test_a_repeated_failure_is_logged_loudly_once() -> None:
    """The first of the same failures is a warning, the others are for debugging."""
    drive = leading()
    for level in ("warning", "debug", "debug"):
        drive.wait(2 * S)
        assert [note.level for note in notes(drive.reply_is_lost(), "unavailable")] == [level]


# --- resuming --------------------------------------------------------------------------------


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
    drive = heir()
    effects = drive.answer(found)
    assert only(effects, SendLost).token == 10
    assert drive.core.state is State.STANDBY
    assert not WRITES & kinds(effects), "not before the tree of the lost leadership is gone"


# --- giving back -----------------------------------------------------------------------------


NOT_HELD: Final = SendReleased(None, "not held", retired=True)


# --- watching and polling --------------------------------------------------------------------

FORBIDDEN: Final = WatchEnded(Failure(FailureKind.FORBIDDEN, "no watch"))


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


def test_the_end_of_a_watch_that_was_closed_is_ignored() -> None:
    """Closing a watch makes it end: that is no news."""
    drive = standing_by()
    drive.core._close_watch()
    drive.core._watch_at_ns = drive.now_ns + S
    polls_at_ns = drive.core._poll_at_ns
    drive.step(WatchEnded(None))
    assert drive.core._poll_at_ns == polls_at_ns


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


def test_every_new_leader_is_announced_once() -> None:
    """`leader is NAME` is logged when a standby sees a new leader, not with each renewal."""
    drive = standing_by()
    drive.sees(held(version=6, renewed_us=1))
    assert len(notes(drive.effects, "leader is b")) == 1
    assert notes(drive.sees(held("c", version=7)), "leader is c")
    assert drive.core.leader == "c"


# --- the guardian ----------------------------------------------------------------------------


def test_heartbeats_are_sent_every_retry_period() -> None:
    """The guardian hears from us however quiet the lock is."""
    assert standing_by(held(duration_s=3600)).wait(20 * S).count(SendBeat()) == 10


@pytest.mark.parametrize("pause_s", [5, 9, 12, 20, 3600])
def test_a_pause_of_our_own_does_not_make_the_guardian_silent(pause_s: int) -> None:
    """After a suspend everybody has been silent; that proves nothing."""
    drive = leading()
    drive.tick(pause_s * S)
    assert KillGuardian not in kinds(drive.step())


# --- the line ----------------------------------------------------------------------------------


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


# --- what is told of the lock ------------------------------------------------------------------


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
