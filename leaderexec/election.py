"""Decides for the elector: when to try, renew, give back; what a reply of the lock means.

A pure state machine: events in the past tense and the time go in, effects in the imperative come
out. It owns every decision about the lock and performs none; it must not know time, os, threads or
Kubernetes. The algorithm is client-go's (tools/leaderelection), corrected:

- A renewal counts from *before* it was sent, and only if it changed the object's version: an
  identical PUT is answered 200 and renews nothing.
- Every write's renewTime is a whole second after the last, since others compare whole seconds.
- One request is in flight at a time. A write whose reply was lost may still land: it is recognised
  by its claim, and it can only land once, because each write names the version that it replaces.
- Nothing is granted from observation: an elector grants after its own first counted write only.
- A record is ours if this guardian's electors wrote it, never for the holder's name alone, which
  anybody can write; but for a container's slot, whose former life is provably dead.
- A deletion frees nothing before the last record that was seen has expired.
- Where others judge by their own durations, the shortest that was seen bounds what we grant.

Many standbys see a release at the same time. One of them has named itself next in line before, at
leisure, and goes first; the others give it a moment, and then go at moments of their own. Nobody
in line, or a lock that keeps no line: everybody goes at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, assert_never

from leaderexec.model import (
    SECOND_US,
    Claim,
    Grant,
    LockTraits,
    Now,
    Record,
    Snapshot,
    Timing,
    Token,
    seconds,
)
from leaderexec.vigil import Vigil

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


# --- states ----------------------------------------------------------------------------------


class State(Enum):
    """What the elector is to the lock."""

    STANDBY = "standby"
    RESUMING = "resuming"
    LEADER = "leader"
    RELEASING = "releasing"
    RETIRED = "retired"


class Cause(Enum):
    """Why the state changes."""

    ACQUIRED = "our write made us holder"
    RENEWED = "our first write renewed what a former elector held"
    LOST = "the record is no longer ours"
    TREE_GONE = "the guardian has no tree (any more)"
    RELEASED = "the lock is given back, or was not ours"
    WITHDREW = "the same, and the guardian is ending"


#: All transitions; the diagram in ARCHITECTURE.md is generated from this table.
TRANSITIONS: Final[Mapping[tuple[State, Cause], State]] = {
    (State.STANDBY, Cause.ACQUIRED): State.LEADER,
    (State.STANDBY, Cause.TREE_GONE): State.RELEASING,
    (State.RESUMING, Cause.RENEWED): State.LEADER,
    (State.RESUMING, Cause.LOST): State.STANDBY,
    (State.RESUMING, Cause.TREE_GONE): State.RELEASING,
    (State.LEADER, Cause.LOST): State.STANDBY,
    (State.LEADER, Cause.TREE_GONE): State.RELEASING,
    (State.RELEASING, Cause.RELEASED): State.STANDBY,
    (State.RELEASING, Cause.WITHDREW): State.RETIRED,
}


class IllegalTransition(Exception):
    """The caller broke the protocol; the state is unchanged."""


# --- events ----------------------------------------------------------------------------------


class FailureKind(Enum):
    """How a call to the lock failed: see the errors of locks.base."""

    CONFLICT = auto()
    ABSENT = auto()
    FORBIDDEN = auto()
    UNAVAILABLE = auto()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no result, in a message for people."""

    kind: FailureKind
    message: str
    retry_after_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Woke:
    """The time that the core asked to be woken at has come, or something unrelated woke us."""


@dataclass(frozen=True, slots=True)
class Returned:
    """A call succeeded; `snapshot` is None when a read found no object."""

    call_id: int
    snapshot: Snapshot | None


@dataclass(frozen=True, slots=True)
class Failed:
    """A call failed."""

    call_id: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class WatchOpened:
    """The watch is established: whatever changes from now on will be seen."""


@dataclass(frozen=True, slots=True)
class WatchSaw:
    """The watch delivered a version, None for a deletion."""

    snapshot: Snapshot | None


@dataclass(frozen=True, slots=True)
class WatchEnded:
    """The watch is over; `failure` is None when the server ended it in an orderly way."""

    failure: Failure | None


@dataclass(frozen=True, slots=True)
class BeatReturned:
    """The guardian answered a heartbeat: it is alive."""


@dataclass(frozen=True, slots=True)
class GuardianDied:
    """The guardian is provably dead; its keeper may still be killing the tree."""


@dataclass(frozen=True, slots=True)
class KeeperDied:
    """The keeper died before its tree: the guardian is the only one left to end it."""


@dataclass(frozen=True, slots=True)
class TreeGone:
    """No process of the tree of `token` is left: give the lock back, for good if `retire`.

    `token` is None when the guardian never had a tree.
    """

    token: Token | None
    retire: bool


Event = (
    Woke
    | Returned
    | Failed
    | WatchOpened
    | WatchSaw
    | WatchEnded
    | BeatReturned
    | GuardianDied
    | KeeperDied
    | TreeGone
)


# --- effects ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Read:
    """Read the lock."""

    call_id: int


@dataclass(frozen=True, slots=True)
class Create:
    """Create the lock's object with `record`."""

    call_id: int
    record: Record


@dataclass(frozen=True, slots=True)
class Update:
    """Replace `seen` by `record`."""

    call_id: int
    record: Record
    seen: Snapshot


@dataclass(frozen=True, slots=True)
class NameSuccessor:
    """Note in the object, as it was seen, that `successor` is next in line."""

    call_id: int
    successor: str
    seen: Snapshot


@dataclass(frozen=True, slots=True)
class OpenWatch:
    """Start watching for versions after `since`."""

    since: Snapshot | None


@dataclass(frozen=True, slots=True)
class CloseWatch:
    """Stop watching; nothing of the watch is delivered any more."""


@dataclass(frozen=True, slots=True)
class SendGrant:
    """Tell the guardian that a tree may run."""

    grant: Grant


@dataclass(frozen=True, slots=True)
class SendLost:
    """Tell the guardian that the lock belongs to another: the tree must die at once."""

    token: Token
    reason: str


@dataclass(frozen=True, slots=True)
class SendStanding:
    """Tell the guardian that a try did not make us leader; `leader` is empty when unknown."""

    leader: str
    reason: str


@dataclass(frozen=True, slots=True)
class SendReleased:
    """Tell the guardian that the lock is given back (or why not), and whether we are done."""

    token: Token | None
    outcome: str
    retired: bool


@dataclass(frozen=True, slots=True)
class SendBeat:
    """Send a heartbeat to the guardian."""


@dataclass(frozen=True, slots=True)
class KillGuardian:
    """The guardian has been silent for too long: kill it, so that the keeper ends the tree."""


@dataclass(frozen=True, slots=True)
class Note:
    """Log one line."""

    level: str
    event: str
    fields: Mapping[str, object] = field(default_factory=dict)


Effect = (
    Read
    | Create
    | Update
    | NameSuccessor
    | OpenWatch
    | CloseWatch
    | SendGrant
    | SendLost
    | SendStanding
    | SendReleased
    | SendBeat
    | KillGuardian
    | Note
)


# --- the machine -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Holding:
    """What a guardian knows of a leadership, handed to the elector that follows a dead one.

    `granted_ns` is how long its grants lasted, None for as long as the record says.
    """

    token: Token
    uid: str
    claim: Claim
    granted_ns: int | None = None


class _Purpose(Enum):
    READ = auto()
    ACQUIRE = auto()
    RENEW = auto()
    RELEASE = auto()
    NAME_SUCCESSOR = auto()


@dataclass(frozen=True, slots=True)
class _Call:
    call_id: int
    purpose: _Purpose
    sent_ns: int
    record: Record | None = None
    seen: Snapshot | None = None
    repeated: bool = False


class _Watch(Enum):
    CLOSED = auto()
    OPENING = auto()
    OPEN = auto()


#: A release that the server does not confirm is given up after this long: with the default stop
#: timeout of 20 s it ends within the 30 s that Kubernetes gives a pod.
_RELEASE_BOUND_NS: Final = 8_000_000_000
#: How long others leave a free lock to the one that is next in line, in case it is alive: more
#: than its write and the news of it take. Then they go at moments that are spread over as
#: much as keeps two hundred of them from writing in the same moment.
_COURTESY_NS: Final = 150_000_000
_COURTESY_SPREAD_NS: Final = 400_000_000
#: Over how many retry periods, and how long at most, standbys spread naming themselves next.
_NAME_SPREAD_PERIODS: Final = 5
_NAME_SPREAD_LIMIT_NS: Final = 60_000_000_000


class Election:
    """One candidate of one election.

    `identity` goes into the record; `unique` says that no other process can have the same one, and
    `slot` that it is a container's, which is dead with all that was in it before another has its
    name: what the record says under it is then ours, whoever wrote it. `traits` are the lock's.
    `inherited` is what a former elector of this guardian held, if anything. `jitter` returns
    numbers in [0, 1). `generation` numbers the electors of one guardian.

    What a grant means in deadlines is the guardian's business, not this machine's.
    """

    def __init__(
        self,
        *,
        identity: str,
        unique: bool,
        timing: Timing,
        generation: int,
        jitter: Callable[[], float],
        now: Now,
        slot: bool = False,
        inherited: Holding | None = None,
        traits: LockTraits | None = None,
    ) -> None:
        self.identity = identity
        self.state = State.STANDBY if inherited is None else State.RESUMING
        #: When to step with `Woke` at the latest; None while only events matter.
        self.wake_at_ns: int | None = now.boot_ns
        #: How many renewals needed a read first.
        self.slow_renewals = 0
        self._unique = unique
        self._slot = slot
        self._traits = traits or LockTraits()
        self._timing = timing
        self._generation = generation
        self._jitter = jitter
        self._now = now
        self._effects: list[Effect] = []

        # What is known of the lock. `_stamp_ns` is when the record was last seen to change.
        self._seen: Snapshot | None = None
        self._absent = False
        self._seen_ns = now.boot_ns
        # A conflict has told that what was seen is no longer so.
        self._outdated = False
        self._stamp_ns = now.boot_ns
        self._must_read = True
        self._poll_at_ns = now.boot_ns
        self._announced = ""
        self._stood = False
        self._complaint = ""
        # The shortest duration by which somebody else may judge our record.
        self._shortest_ns = inherited.granted_ns if inherited else None
        self._told_short = ""

        # The line: how long we leave the lock to whoever is next, and when we name ourselves.
        self._courtesy_ns = 0
        self._name_at_ns: int | None = None
        self._name_spread_ns = _NAME_SPREAD_PERIODS * timing.retry_period_ns

        # What is ours: the claim of the newest attempt, and the leadership that came of it.
        self._claim = inherited.claim if inherited else None
        # A write that may still land, because its reply has not come, and what it replaces.
        self._attempt_open = False
        self._attempt_over: Snapshot | None = None
        self._holding = inherited
        self._counted_ns = now.boot_ns
        self._written_us = 0
        self._renew_at_ns = now.boot_ns

        self._call: _Call | None = None
        self._calls = 0
        self._watch = _Watch.CLOSED
        self._watch_at_ns = now.boot_ns
        self._watch_forbidden = False

        # The guardian: whether it lives, and whether a tree of a lost leadership does.
        self._guardian = Vigil(
            bound_ns=timing.silence_bound_ns, pause_ns=2 * timing.heartbeat_ns, now_ns=now.boot_ns
        )
        self._beat_at_ns = now.boot_ns
        self._guardian_dead = False
        self._guardian_killed = False
        self._guardian_needed = False
        self._tree_of: Token | None = inherited.token if inherited else None
        self._hold_off_ns = now.boot_ns
        self._retire = False
        self._may_hold = False
        self._release_by_ns = now.boot_ns

    # --- the one entrance ---

    def step(self, event: Event, now: Now) -> list[Effect]:
        """Take note of `event` at `now` and return what is to be done, in order."""
        self._now = now
        self._effects = []
        match event:
            case Woke():
                pass
            case Returned():
                self._returned(event)
            case Failed():
                self._failed(event)
            case WatchOpened():
                if self._watch is _Watch.OPENING:
                    self._watch = _Watch.OPEN
                    self._watch_forbidden = False
                    self._name_at_ns = None  # a moment that has passed meanwhile is not our own
            case WatchSaw(snapshot=snapshot):
                watched = self._watch is not _Watch.CLOSED and self.state is State.STANDBY
                if watched and self._observe(snapshot):
                    self._must_read = False  # it says what a read was to find out
            case WatchEnded(failure=failure):
                self._watch_ended(failure)
            case BeatReturned():
                self._guardian.heard(now.boot_ns)
            case GuardianDied():
                self._guardian_dead = True
            case KeeperDied():
                self._guardian_needed = True
            case TreeGone(token=token, retire=retire):
                self._tree_gone(token, retire=retire)
            case _:
                assert_never(event)
        self._act()
        self.check_invariants()
        return self._effects

    def check_invariants(self) -> None:
        """Raise AssertionError when the state contradicts itself."""
        if self.state in {State.LEADER, State.RESUMING} and self._holding is None:
            raise AssertionError(f"{self.state.value} without a leadership")
        if self.state is State.STANDBY and self._holding is not None:
            raise AssertionError("standby that still holds a leadership")
        if self.state is State.RETIRED and self._watch is not _Watch.CLOSED:
            raise AssertionError("retired, and still watching")

    @property
    def leader(self) -> str:
        """The holder as last seen, ourselves included; empty when nobody or unknown."""
        return self.record.holder if self.record else ""

    @property
    def record(self) -> Record | None:
        """The record as last seen, None when there is none."""
        return self._present.record if self._present else None

    @property
    def leader_until_ns(self) -> int:
        """Until when `leader` is to be believed: ourselves until a renewal is overdue."""
        if self._holding is not None and self.state is not State.RESUMING:
            return self._counted_ns + min(self._timing.renew_deadline_ns, self._room_ns)
        if self._seen is None or self._named(self._seen.record):
            return self._now.boot_ns  # not led, whatever stands there in our name
        return self._expiry_ns(self._seen.record)

    @property
    def is_next(self) -> bool:
        """Whether we are named as the next in line."""
        return self._seen is not None and self._seen.successor == self.identity

    @property
    def calling(self) -> str:
        """What the call in flight is for, empty without one."""
        return "" if self._call is None else self._call.purpose.name.lower()

    # --- small helpers ---

    @property
    def _present(self) -> Snapshot | None:
        """What was last seen, None if it was seen to be deleted since."""
        return None if self._absent else self._seen

    def _move(self, cause: Cause, **fields: object) -> None:
        try:
            after = TRANSITIONS[self.state, cause]
        except KeyError:
            raise IllegalTransition(f"{self.state.value}: {cause.value}") from None
        before, self.state = self.state, after
        if before is State.STANDBY and self._watch is not _Watch.CLOSED:
            self._close_watch()
        self._note(
            "debug", "election state", before=before.value, after=after.value, reason=cause.value,
            **fields,
        )  # fmt: skip

    def _note(self, level: str, event: str, **fields: object) -> None:
        self._effects.append(Note(level, event, fields))

    def _complain(self, failure: Failure) -> None:
        """Log a failure loudly when it is new, quietly while it repeats."""
        level = "debug" if failure.message == self._complaint else "warning"
        self._complaint = failure.message
        self._note(level, failure.message)

    def _mine(self, record: Record) -> bool:
        if record.holder != self.identity:
            return False
        return self._slot or (self._claim is not None and self._claim.made(record))

    def _named(self, record: Record) -> bool:
        """Whether it names us and nobody else, though another hand than ours may have written it.

        An elector of ours that died between its acquisition and the grant leaves such a record.
        """
        return self._mine(record) or (self._unique and record.holder == self.identity)

    def _retry_ns(self) -> int:
        """When to try again as a standby: the retry period times 1 to 2.2, as client-go."""
        return self._now.boot_ns + int(self._timing.retry_period_ns * (1 + 1.2 * self._jitter()))

    def _close_watch(self) -> None:
        self._watch = _Watch.CLOSED
        self._effects.append(CloseWatch())

    # --- what was seen ---

    def _observe(self, snapshot: Snapshot | None, asked_ns: int | None = None) -> bool:
        """Store what was read, written or watched, unless it is old; stamp a changed record.

        `asked_ns` is when the call was sent, None for a watch. A watch may lag behind what we have
        seen; the answer to a call that was sent after that may not, whatever its version says.

        The comparison is of records, not of versions, so that a label that somebody keeps
        changing does not keep a dead leader's lease alive.
        """
        before = self._seen
        if snapshot is None:
            self._absent = True
            if self._outdated:
                # There was a version that we never saw: count from now, at the latest it was then.
                self._stamp_ns = self._now.boot_ns
            self._outdated = False
            return True
        if before is not None and before.uid == snapshot.uid and _older(snapshot, before):
            if asked_ns is None or asked_ns < self._seen_ns:
                return False
            self._note("warning", "the versions of the lock went back", version=snapshot.version)
        changed = before is None or before.uid != snapshot.uid or before.record != snapshot.record
        if before is None or _line(before) != _line(snapshot):
            self._learn_line(snapshot)
        self._seen = snapshot
        self._seen_ns = self._now.boot_ns
        self._outdated = False
        self._absent = False
        if changed:
            self._stamp_ns = self._now.boot_ns
        holder = snapshot.record.holder
        self._learn_duration(snapshot.record)
        if self.state is State.STANDBY and holder and holder != self._announced:
            self._announced = holder
            if not self._named(snapshot.record):
                self._note("info", f"leader is {holder}", leader=holder)
                self._effects.append(SendStanding(holder, "held by another candidate"))
                self._stood = True
            elif not self._mine(snapshot.record):
                self._note("warning", "our name is in a record that is not ours: waiting it out")
        if holder != self.identity and self._holding is None and not self._attempt_open:
            self._claim = None  # what we wrote is history: who restores it makes nobody leader
        return True

    def _learn_line(self, snapshot: Snapshot) -> None:
        """Choose how long to leave the lock to whoever is next in line, should it become free."""
        self._courtesy_ns = 0
        if snapshot.successor not in {None, "", self.identity}:
            self._courtesy_ns = _COURTESY_NS + int(_COURTESY_SPREAD_NS * self._jitter())
        self._name_at_ns = None
        self._name_spread_ns = _NAME_SPREAD_PERIODS * self._timing.retry_period_ns

    def _learn_duration(self, record: Record) -> None:
        """Take note of a duration by which its holder would judge our record."""
        heeded = self._traits.peers_judge_by_own_duration and record.holder
        if not heeded or record.lease_duration_ns < 1 or self._named(record):
            return
        known_ns = self._shortest_ns
        if known_ns is None or record.lease_duration_ns < known_ns:
            self._shortest_ns = record.lease_duration_ns

    @property
    def _lease_ns(self) -> int:
        """What our renewals are worth: no more than others leave us."""
        own_ns = self._timing.lease_duration_ns
        return own_ns if self._shortest_ns is None else min(own_ns, self._shortest_ns)

    @property
    def _room_ns(self) -> int:
        """How long after a renewal a child may run at all."""
        return self._lease_ns - self._timing.margin_ns

    def _may_lead(self) -> bool:
        """Whether a leadership could last from one renewal to the next; say so when it could not.

        A candidate that takes the lock by a shorter clock than ours would find our child alive.
        """
        if self._room_ns > self._timing.least_term_ns:
            return True
        message = (
            f"standing by: another candidate takes a lock that was not renewed for "
            f"{seconds(self._lease_ns)}, too soon for --retry-period "
            f"{seconds(self._timing.retry_period_ns)} and a margin of "
            f"{seconds(self._timing.margin_ns)}; give all candidates one --ttl"
        )
        if message != self._told_short:
            self._told_short = message
            self._note("error", message)
        return False

    def _expiry_ns(self, record: Record) -> int:
        # A record without a duration says nothing about when its holder stops: assume ours.
        return self._stamp_ns + (record.lease_duration_ns or self._timing.lease_duration_ns)

    def _free_at_ns(self) -> int:
        """When the lock may be taken, as far as has been seen."""
        seen = self._seen
        if seen is None or self._mine(seen.record):
            return self._now.boot_ns
        if not seen.record.holder:
            return self._stamp_ns + self._courtesy_ns
        return self._expiry_ns(seen.record) + self._courtesy_ns

    # --- replies ---

    def _take_call(self, call_id: int) -> _Call | None:
        call = self._call
        if call is None or call.call_id != call_id:
            return None
        self._call = None
        return call

    def _returned(self, event: Returned) -> None:
        call = self._take_call(event.call_id)
        if call is None:
            return
        self._complaint = ""
        match call.purpose:
            case _Purpose.READ:
                self._must_read = False
                self._poll_at_ns = self._retry_ns()
                self._observe(event.snapshot, call.sent_ns)
                if self._attempt_open and self._attempt_over != event.snapshot:
                    self._attempt_open = False  # landed, or never will: its version has passed
                self._read_as_holder()
            case _Purpose.ACQUIRE:
                self._attempt_open = False
                self._wrote_acquisition(call, event.snapshot)
            case _Purpose.RENEW:
                self._wrote_renewal(call, event.snapshot)
            case _Purpose.NAME_SUCCESSOR:
                self._observe(event.snapshot, call.sent_ns)
            case _Purpose.RELEASE:
                self._observe(event.snapshot, call.sent_ns)
                if self.state is State.RELEASING:
                    self._finish_release("released")
            case _:
                assert_never(call.purpose)

    def _doubt_claim(self) -> None:
        """Do not know a write of unknown fate by its claim where two can make the same one.

        Two processes under one --id that try in the same unit of time write the same record.
        """
        if not self._unique and self._traits.time_unit_us > 1:
            self._claim = None

    def _read_as_holder(self) -> None:
        """Compare what a quorum read returned with what we believe to hold."""
        if self.state not in {State.LEADER, State.RESUMING} or self._holding is None:
            return
        if self._absent or self._seen is None:
            self._lose("the lock's object was deleted")
        elif self._seen.uid != self._holding.uid:
            self._lose("the lock's object was replaced by another")
        elif not self._holding.claim.made(self._seen.record):
            self._lose(f"held by {self._seen.record.holder or 'nobody'}")
        else:
            self._renew_at_ns = self._now.boot_ns

    def _lose(self, reason: str) -> None:
        holding = self._holding
        if holding is None:
            raise AssertionError("nothing to lose")
        self._holding = None
        seen = self._present
        if not self._unique or (seen is not None and seen.record.holder != self.identity):
            # Known is only what we wrote ourselves before it was deleted, where no twin can have
            # written the same.
            self._claim = None
        self._tree_of = holding.token
        self._move(Cause.LOST, detail=reason)
        self._note("error", "leadership lost", reason=reason, token=holding.token)
        self._effects.append(SendLost(holding.token, reason))
        self._must_read = True

    def _wrote_acquisition(self, call: _Call, snapshot: Snapshot | None) -> None:
        record = call.record
        if record is None or snapshot is None or self._claim is None:
            raise AssertionError("an acquisition writes a record")
        if call.seen is not None and snapshot.uid != call.seen.uid:
            # The object was deleted while we looked, and the server let the PUT create another.
            # Who held the deleted one may hold it still: wait out our own record as all others do.
            self._note("warning", "the lock's object was deleted and created anew by our write")
            self._hold_off_ns = max(
                self._hold_off_ns, self._now.boot_ns + self._timing.lease_duration_ns
            )
            self._observe(snapshot, call.sent_ns)
            return
        if call.seen is not None and snapshot.version == call.seen.version:
            self._must_read = True  # answered 200, changed nothing
            self._poll_at_ns = self._retry_ns()
            return
        self._observe(snapshot, call.sent_ns)
        if not _kept(record, snapshot.record):
            self._rewritten()
            self._poll_at_ns = self._retry_ns()
            return
        if self.state is not State.STANDBY:
            return  # told to give back while the write was in flight: _act releases it
        token = Token(int(snapshot.version))
        self._holding = Holding(token, snapshot.uid, self._claim)
        self._move(Cause.ACQUIRED, token=token)
        self._note("info", "became leader", token=token, transitions=record.transitions)
        self._announced = self.identity
        self._count(call, record)

    def _rewritten(self) -> None:
        """Take a write for void that something else has changed: nobody goes by what we wrote."""
        self._note(
            "warning", "what we wrote into the lock was changed on its way: it does not count"
        )
        self._must_read = True

    def _wrote_renewal(self, call: _Call, snapshot: Snapshot | None) -> None:
        if snapshot is None or call.record is None or call.seen is None:
            raise AssertionError("a renewal writes a record over another")
        if snapshot.uid != call.seen.uid:
            self._seen, self._absent = snapshot, False
            if self.state in {State.LEADER, State.RESUMING}:
                self._lose("the lock's object was deleted")
            return
        if snapshot.version == call.seen.version:
            # Answered 200, renewed nothing: try again, with a later time and after a pause.
            self._renew_at_ns = self._now.boot_ns + self._timing.retry_period_ns // 4
            return
        self._observe(snapshot, call.sent_ns)
        if not _kept(call.record, snapshot.record):
            self._rewritten()
            self._renew_at_ns = self._now.boot_ns + self._timing.retry_period_ns // 4
            return
        if self.state is State.RESUMING:
            self._move(Cause.RENEWED)
            self._note("info", "resumed leadership", token=self._token())
        if self.state is State.LEADER:
            self._count(call, call.record)

    def _token(self) -> Token:
        if self._holding is None:
            raise AssertionError("no leadership, no token")
        return self._holding.token

    def _count(self, call: _Call, record: Record) -> None:
        """Grant what a write that took effect is worth, counted from before it was sent."""
        holding = self._holding
        if holding is None:
            raise AssertionError("no leadership to count for")
        self._counted_ns = call.sent_ns
        self._renew_at_ns = call.sent_ns + self._timing.retry_period_ns
        self._effects.append(
            SendGrant(
                Grant(
                    generation=self._generation,
                    token=holding.token,
                    uid=holding.uid,
                    claim=holding.claim,
                    renewed_at_ns=call.sent_ns,
                    expires_at_ns=call.sent_ns + min(record.lease_duration_ns, self._lease_ns),
                )
            )
        )

    def _failed(self, event: Failed) -> None:
        call = self._take_call(event.call_id)
        if call is None:
            return
        failure = event.failure
        kind = failure.kind
        if call.purpose is _Purpose.ACQUIRE:
            self._doubt_claim()
            if kind is not FailureKind.UNAVAILABLE and not call.repeated:
                # Refused: nothing of ours can have landed; whatever is there, it is not this.
                self._attempt_open, self._claim = False, None
        if kind is FailureKind.CONFLICT:
            if call.purpose is _Purpose.ACQUIRE:
                # Somebody was faster, or our own lost write had landed: what we see will tell.
                self._attempt_open = False
                self._outdated = self._present == call.seen
            self._must_read = True
            self._poll_at_ns = self._now.boot_ns
            if self._watch is _Watch.OPEN:
                # Whoever was faster needs the server now; the watch is about to tell who it is,
                # unless it was faster than the reply.
                self._must_read = self._outdated
                self._poll_at_ns += self._timing.retry_period_ns // 2
            return
        if kind is FailureKind.ABSENT:
            if self.state in {State.LEADER, State.RESUMING}:
                self._lose("the lock's object was deleted")
            self._absent = True
            self._attempt_open = False
            return
        self._complain(failure)
        if self.state is State.STANDBY:
            # A server's wish is granted up to a lease: who asks for an hour must not have it.
            wish_ns = min(failure.retry_after_ns or 0, self._timing.lease_duration_ns)
            self._poll_at_ns = max(self._retry_ns(), self._now.boot_ns + wish_ns)
            self._must_read = True
            if self._watch is _Watch.OPEN and kind is FailureKind.UNAVAILABLE:
                self._close_watch()  # it may be as dead as the connection that just failed
                self._watch_at_ns = self._poll_at_ns
            if not self._stood:
                self._stood = True
                self._effects.append(SendStanding("", failure.message))
        else:
            self._retry_as_holder(call, failure)

    def _retry_as_holder(self, call: _Call, failure: Failure) -> None:
        """Try again a retry period after the failed call, later if the server asks for it.

        A wish beyond the renew deadline is cut so that one more try fits before it.
        """
        now_ns = self._now.boot_ns
        at_ns = max(now_ns, call.sent_ns + self._timing.retry_period_ns)
        if failure.retry_after_ns is not None:
            last_ns = (
                self._counted_ns + self._timing.renew_deadline_ns - self._timing.retry_period_ns
            )
            at_ns = max(at_ns, min(now_ns + failure.retry_after_ns, last_ns))
        if self.state is State.RELEASING:
            at_ns = now_ns + self._timing.retry_period_ns // 4
            self._must_read = True
        if call.purpose is _Purpose.READ:
            self._must_read = True
        self._renew_at_ns = at_ns
        self._poll_at_ns = at_ns

    def _watch_ended(self, failure: Failure | None) -> None:
        if self._watch is _Watch.CLOSED:
            return
        self._watch = _Watch.CLOSED
        now_ns = self._now.boot_ns
        if failure is None:
            # Watches end now and then. What changed meanwhile is read, at a moment of our own,
            # since all standbys' watches may have ended at once.
            wait_ns = int(self._jitter() * self._timing.retry_period_ns / 4)
        elif failure.kind is FailureKind.FORBIDDEN:
            if not self._watch_forbidden:
                self._note(
                    "warning", f"{failure.message}; polling every retry period instead of watching"
                )
            self._watch_forbidden = True
            wait_ns = self._timing.retry_period_ns
        else:
            self._note("debug", failure.message)
            wait_ns = int(self._timing.retry_period_ns * (0.5 + self._jitter() / 2))
        self._poll_at_ns = now_ns + wait_ns
        self._watch_at_ns = now_ns + wait_ns
        if self._watch_forbidden:
            self._watch_at_ns = now_ns + self._timing.lease_duration_ns

    # --- the guardian's words ---

    def _tree_gone(self, token: Token | None, *, retire: bool) -> None:
        self._retire = self._retire or retire
        self._guardian_needed = False
        if self._tree_of == token or retire:
            self._tree_of = None
        holding = self._holding
        if self.state in {State.RELEASING, State.RETIRED}:
            return
        if not retire and (
            holding is None or (self.state is State.LEADER and holding.token != token)
        ):
            if token is not None:
                self._effects.append(SendReleased(token, "not held", retired=False))
            return
        self._start_release()

    def _start_release(self) -> None:
        seen = self._present
        self._may_hold = (
            self._holding is not None
            or self._attempt_open
            or (seen is not None and self._mine(seen.record))
        )
        self._release_by_ns = self._now.boot_ns + min(
            self._timing.renew_deadline_ns, _RELEASE_BOUND_NS
        )
        self._renew_at_ns = self._now.boot_ns
        self._must_read = self._must_read or self._seen is None
        self._move(Cause.TREE_GONE)

    def _finish_release(self, outcome: str) -> None:
        token = self._holding.token if self._holding else None
        if self._holding is not None or outcome == "released":
            level = "info" if outcome == "released" else "warning"
            self._note(level, "lock given back", outcome=outcome, token=token)
        if outcome == "released":
            self._claim = None
        self._holding = None
        self._may_hold = False
        self._tree_of = None
        self._attempt_open = self._attempt_open and outcome == "unconfirmed"
        self._move(Cause.WITHDREW if self._retire else Cause.RELEASED)
        self._effects.append(SendReleased(token, outcome, retired=self._retire))
        # Whoever waited goes first; without anybody waiting we are back after a retry period.
        self._hold_off_ns = max(self._hold_off_ns, self._retry_ns())
        self._announced = ""
        self._stood = False
        self._must_read = True
        self._poll_at_ns = self._now.boot_ns

    # --- what is to be done now ---

    def _act(self) -> None:
        self.wake_at_ns = None
        if self.state is State.RETIRED:
            return
        now_ns = self._now.boot_ns
        if not self._guardian_dead and now_ns >= self._beat_at_ns:
            self._effects.append(SendBeat())
            self._beat_at_ns = now_ns + self._timing.heartbeat_ns
        silent = self._guardian.silent(now_ns) and not self._guardian_dead
        match self.state:
            case State.STANDBY:
                self._act_standby(silent=silent)
            case State.RESUMING | State.LEADER:
                self._act_holder(silent=silent)
            case State.RELEASING:
                self._act_releasing()
            case _:
                assert_never(self.state)
        if not self._guardian_dead:
            self._wake(self._beat_at_ns)

    def _wake(self, at_ns: int) -> None:
        if self.wake_at_ns is None or at_ns < self.wake_at_ns:
            self.wake_at_ns = at_ns

    def _act_standby(self, *, silent: bool) -> None:
        if silent or self._guardian_dead or self._call is not None:
            return
        now_ns = self._now.boot_ns
        if self._must_read:
            if now_ns < self._poll_at_ns:
                self._wake(self._poll_at_ns)
                return
            if self._outdated and self._watch is _Watch.OPEN:
                # The record has changed and the watch did not say so.
                self._note("warning", "the watch has silently died: opening another")
                self._close_watch()
            self._issue(_Purpose.READ)
            return
        try_at_ns = max(self._free_at_ns(), self._hold_off_ns)
        if self._tree_of is None and now_ns >= try_at_ns and self._may_lead():
            self._try()
            return
        if self._tree_of is None and now_ns < try_at_ns:
            self._wake(try_at_ns)
        if self._watch is _Watch.CLOSED:
            if now_ns >= self._watch_at_ns:
                self._watch = _Watch.OPENING
                self._effects.append(OpenWatch(self._present))
            else:
                self._wake(self._watch_at_ns)
        if self._watch is _Watch.OPEN:
            self._stand_in_line()
        elif now_ns >= self._poll_at_ns:
            self._issue(_Purpose.READ)
        else:
            self._wake(self._poll_at_ns)

    def _stand_in_line(self) -> None:
        """Name ourselves next where nobody is, at a moment of our own: there is no hurry."""
        seen = self.record
        if self._seen is None or seen is None or self._seen.successor != "":
            return
        if seen.holder in {"", self.identity} or not self._may_lead():
            return
        if self._name_at_ns is None:
            self._name_at_ns = self._now.boot_ns + int(self._name_spread_ns * self._jitter())
        if self._now.boot_ns < self._name_at_ns:
            self._wake(self._name_at_ns)
            return
        self._name_at_ns = None
        # Should it be in vain, as where something takes the name out again: less and less often.
        self._name_spread_ns = min(2 * self._name_spread_ns, _NAME_SPREAD_LIMIT_NS)
        self._issue(_Purpose.NAME_SUCCESSOR, seen=self._seen)

    def _try(self) -> None:
        """Write ourselves into the record."""
        seen = self._present
        repeated = self._attempt_open
        if seen is not None and self._mine(seen.record):
            repeated = True
            # A write of ours whose reply was lost has landed: renew it, so that it counts.
            record = seen.record
            acquire_time_us, transitions = record.acquire_time_us, record.transitions
        else:
            acquire_time_us = self._in_units(self._now.wall_us)
            if self._attempt_open and self._claim is not None and seen == self._attempt_over:
                # The last attempt may still land, over the same version: both make one claim.
                acquire_time_us = self._claim.acquire_time_us or acquire_time_us
            transitions = 0 if seen is None else seen.record.transitions + 1
        self._claim = Claim(self.identity, acquire_time_us, transitions)
        self._attempt_open = True
        self._attempt_over = seen
        self._issue(_Purpose.ACQUIRE, self._record(), seen, repeated=repeated)

    def _act_holder(self, *, silent: bool) -> None:
        if silent:
            # Nobody takes our grants: stop renewing, and make sure that the tree ends.
            if not self._guardian_killed and not self._guardian_needed:
                self._guardian_killed = True
                self._note("error", "the guardian is silent: no more renewals, killing it")
                self._effects.append(KillGuardian())
            return
        self._guardian_killed = False
        if self._call is not None:
            return
        if self._now.boot_ns < self._renew_at_ns:
            self._wake(self._renew_at_ns)
        elif self._must_read or self._seen is None:
            self.slow_renewals += 1
            self._issue(_Purpose.READ)
        else:
            self._issue(_Purpose.RENEW, self._record(), self._seen)

    def _act_releasing(self) -> None:
        now_ns = self._now.boot_ns
        if not self._may_hold:
            self._finish_release("not held")
            return
        if now_ns >= self._release_by_ns:
            self._finish_release("unconfirmed")
            return
        self._wake(self._release_by_ns)
        if self._call is not None:
            return
        if now_ns < self._renew_at_ns:
            self._wake(self._renew_at_ns)
        elif self._must_read:
            self._issue(_Purpose.READ)
        elif self._absent or self._seen is None or not self._mine(self._seen.record):
            if not self._attempt_open:
                self._finish_release("not held")
                return
            # What a lost attempt would replace is still there, so that it may yet land.
            self._must_read = True
            self._renew_at_ns = now_ns + self._timing.retry_period_ns // 4
            self._wake(self._renew_at_ns)
        else:
            free = Record(
                holder="",
                lease_duration_s=1,
                acquire_time_us=self._in_units(self._now.wall_us),
                renew_time_us=self._next_write_us(),
                transitions=self._seen.record.transitions,
            )
            self._issue(_Purpose.RELEASE, free, self._seen)

    def _record(self) -> Record:
        if self._claim is None:
            raise AssertionError("a write needs a claim")
        return Record(
            holder=self.identity,
            lease_duration_s=self._timing.lease_duration_s,
            acquire_time_us=self._claim.acquire_time_us,
            renew_time_us=self._next_write_us(),
            transitions=self._claim.transitions,
        )

    def _next_write_us(self) -> int:
        """The wall clock, but in a later whole second than any write of ours that may have landed.

        Others compare records in whole seconds: a renewal within the same second, or after the
        wall clock was set back, would renew nothing in their eyes.
        """
        last_us = self._written_us
        if self._seen is not None and self._mine(self._seen.record):
            last_us = max(last_us, self._seen.record.renew_time_us or 0)
        return self._in_units(max(self._now.wall_us, (last_us // SECOND_US + 1) * SECOND_US))

    def _in_units(self, time_us: int) -> int:
        return time_us // self._traits.time_unit_us * self._traits.time_unit_us

    def _issue(
        self,
        purpose: _Purpose,
        record: Record | None = None,
        seen: Snapshot | None = None,
        *,
        repeated: bool = False,
    ) -> None:
        self._calls += 1
        call = _Call(self._calls, purpose, self._now.boot_ns, record, seen, repeated)
        self._call = call
        if purpose is _Purpose.NAME_SUCCESSOR and seen is not None:
            self._effects.append(NameSuccessor(call.call_id, self.identity, seen))
            return
        if record is None:
            self._effects.append(Read(call.call_id))
            return
        self._written_us = max(self._written_us, record.renew_time_us or 0)
        if seen is None:
            self._effects.append(Create(call.call_id, record))
        else:
            self._effects.append(Update(call.call_id, record, seen))


def _line(snapshot: Snapshot) -> tuple[str, str | None]:
    """Return who holds the lock and who is next."""
    return snapshot.record.holder, snapshot.successor


def _kept(written: Record, found: Record) -> bool:
    """Whether the lock keeps what was written, as far as others judge by it."""
    claim = Claim(written.holder, written.acquire_time_us, written.transitions)
    return claim.made(found) and written.lease_duration_s == found.lease_duration_s


def _older(snapshot: Snapshot, than: Snapshot) -> bool:
    """Whether one version of an object precedes another, where versions are comparable."""
    try:
        return int(snapshot.version) < int(than.version)
    except ValueError:
        return False
