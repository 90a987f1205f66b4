"""Tests of the elector's decisions, one rule each, on one core driven by hand in virtual time.

Owns the drive: a core, two clocks that only the test moves, and the calls that wait for an answer.
The lock is whatever the test answers. Most rules are stories of golden/election.txt; a function
stands where a story is not enough.
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
from tests.support import golden

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

    def lands(self, version: int) -> Snapshot:
        """Return what the lock is once the write in flight has landed."""
        call = self.call
        if isinstance(call, Create):
            self.landed = Snapshot(call.record, "u1", str(version))
        elif isinstance(call, NameSuccessor):
            self.landed = replace(call.seen, version=str(version), successor=call.successor)
        else:
            assert isinstance(call, Update)
            line = None if call.seen.successor is None else successor_after(call.record, call.seen)
            self.landed = Snapshot(call.record, "u1", str(version), line)
        self.led = self.landed if self.landed.record.holder else self.led
        return self.landed

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


# --- rules as stories ------------------------------------------------------------------------

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
_EVENTS: Final[dict[str, Event]] = {
    "wakes": Woke(),
    "watch opens": WatchOpened(),
    "watch ends": WatchEnded(None),
    "watch breaks": WatchEnded(Failure(FailureKind.UNAVAILABLE, "reset")),
    "keeper dies": KeeperDied(),
    "guardian dies": GuardianDied(),
    "leave": TreeGone(None, retire=True),
}
_FLAGS: Final[dict[str, dict[str, Any]]] = {
    "shared": {"unique": False},
    "slot": {"slot": True},
    "old": {"timing": OLD, "traits": OLD_TRAITS},
    "short": {"timing": Timing(15, 10 * S, S), "traits": OLD_TRAITS},
}


def word(effect: Effect) -> str:
    """Say what an effect is; nothing, if it is a note or a heartbeat."""
    match effect:
        case Update(record=Record(holder=""), seen=seen):
            return f"release over {seen.version}"
        case Update(record=record, seen=seen):
            claim = Claim(record.holder, record.acquire_time_us, record.transitions)
            if claim.made(seen.record):
                return f"renew over {seen.version}"
            return f"take over {seen.version} as transition {record.transitions}"
        case SendGrant(grant=grant):
            return (
                f"grant {grant.token} from {at(grant.renewed_at_ns)} to {at(grant.expires_at_ns)}"
            )
        case SendLost(token=token, reason=reason):
            return f"lost {token}: {reason}"
        case SendReleased(token=token, outcome=outcome, retired=retired):
            return f"{outcome} {token or ''}".rstrip() + (" for good" if retired else "")
        case SendStanding(leader=leader):
            return f"stand by {leader or 'nobody'}"
        case _:
            return _WORDS[type(effect)]


def at(now_ns: int) -> str:
    return f"{(now_ns - START_NS) / S:g}"


def fields(words: list[str]) -> dict[str, Any]:
    """Return the fields that `name=value` stand for; times are seconds since the start."""
    found: dict[str, Any] = {}
    for text in words:
        name, value = text.split("=")
        match name:
            case "renewed" | "acquired":
                time_us = WALL_US + int(value) * SECOND_US
                found["renew_time_us" if name == "renewed" else "acquire_time_us"] = time_us
            case "duration":
                found["lease_duration_s"] = int(value)
            case "transitions":
                found["transitions"] = int(value)
            case "line":
                found["successor"] = value
            case _:
                found[name] = value
    return found


def snapshot(words: list[str]) -> Snapshot | None:
    match words:
        case ["nothing"]:
            return None
        case ["free", version, *more]:
            return changed(freed(int(version)), **fields(more))
        case [holder, version, *more]:
            return changed(held(holder, version=int(version)), **fields(more))
    raise ValueError(words)


class Story(golden.Story[Effect]):
    """Lets happen to a core what the lines of a story say."""

    drive: Drive

    def word(self, effect: Effect) -> str:
        return word(effect)

    def wait(self, duration_ns: int) -> list[Effect]:
        return self.drive.wait(duration_ns)

    def ask(self, what: str) -> str:
        name = what.replace(" ", "_")
        if name == "writes":
            found: Any = self.drive.written()
        elif name == "leader_until":
            return at(self.drive.core.leader_until_ns)
        else:
            found = getattr(self.drive.core, name)
        if not isinstance(found, Record):
            return str(found.value if isinstance(found, State) else found)
        renewed_s = ((found.renew_time_us or 0) - WALL_US) / SECOND_US
        acquired_s = ((found.acquire_time_us or 0) - WALL_US) / SECOND_US
        return (
            f"{found.holder or 'nobody'} for {found.lease_duration_s} s, renewed at {renewed_s:g}, "
            f"acquired at {acquired_s:g}, transition {found.transitions}"
        )

    def play(self, text: str) -> list[Effect]:
        """Let one thing happen, and return what the core does about it."""
        if text in _EVENTS:
            return self.drive.step(_EVENTS[text])
        match text.split(" "):
            case ["starting", *what]:
                self.begin(Drive, what)
            case ["heir"]:
                self.drive = heir()
            case ["naming"]:
                self.drive = naming()
            case ["releasing"]:
                self.drive = releasing()
            case [("trying" | "leading" | "renewing") as how, *what]:
                self.begin({"trying": trying, "leading": leading, "renewing": renewing}[how], what)
            case ["standing", "by", *what]:
                self.begin(standing_by, what)
            case ["wait", seconds]:
                return self.drive.wait(int(float(seconds) * S))
            case ["after", seconds]:
                return self.after(round(float(seconds) * S))
            case ["late", seconds]:
                self.drive.tick(int(float(seconds) * S))
            case ["sets", "back", seconds]:
                self.drive.wall_us -= int(float(seconds) * SECOND_US)
            case ["jitter", fraction]:
                self.drive.jitter = float(fraction)
            case ["guardian", "silent"]:
                self.drive.answering = False
            case ["guardian", "answers"]:
                self.drive.answering = True
                return self.drive.step(BeatReturned())
            case ["tree", "gone", *token] if token != ["for", "good"]:
                return self.drive.tree_gone(*map(int, token))
            case ["tree", "gone", "for", "good"]:
                return self.drive.tree_gone(retire=True)
            case _:
                return self.answer(text.split(" "))
        return []

    def begin(self, how: Callable[..., Drive], what: list[str]) -> None:
        changes: dict[str, Any] = {}
        for flag in set(what) & set(_FLAGS):
            changes |= _FLAGS[flag]
            what.remove(flag)
        self.drive = how(snapshot(what), **changes) if what else how(**changes)

    def answer(self, words: list[str]) -> list[Effect]:
        """Let the watch or the call in flight have this answer."""
        drive = self.drive
        match words:
            case ["sees", "landed", *what]:
                return drive.sees(changed(drive.landed, **fields(what)))
            case ["sees", *what]:
                return drive.sees(snapshot(what))
            case ["reads", *what]:
                return drive.answer(snapshot(what))
            case ["finds", *what]:
                return drive.answer(changed(drive.landed, **fields(what)))
            case ["restored", version]:
                found = replace(drive.led, version=version)
                return drive.answer(found) if drive.call else drive.sees(found)
            case ["lands", version, *what]:
                return drive.answer(changed(drive.lands(int(version)), **fields(what)))
            case ["twin", version]:
                drive.lands(int(version))
                return []
            case ["lost", version]:
                drive.lands(int(version))
                return drive.reply_is_lost()
            case ["renews", "for", seconds]:
                return self.renews(int(seconds))
            case ["other", "renews", "for", seconds, *what]:
                return self.other_renews(int(seconds), fields(what))
            case [kind, *wish]:
                return drive.fail(FailureKind[kind.upper()], *(int(text) * S for text in wish))
        raise ValueError(words)

    def other_renews(self, seconds: int, changes: dict[str, Any]) -> list[Effect]:
        """Let another renew every second, whether that is watched or read."""
        effects: list[Effect] = []
        for version in range(100, 100 + seconds):
            effects += self.drive.wait(S)
            found = changed(held(version=version, renewed_us=self.drive.wall_us), **changes)
            reads = isinstance(self.drive.call, Read)
            effects += self.drive.answer(found) if reads else self.drive.sees(found)
        return effects

    def renews(self, seconds: int) -> list[Effect]:
        effects: list[Effect] = []
        for version in range(11, 11 + seconds):
            effects += self.drive.wait(S)
            effects += self.drive.succeeds(version) if self.drive.call else []
        return [effect for effect in effects if not isinstance(effect, Update | SendGrant)]


@pytest.mark.xdist_group("stories of the elector")
@pytest.mark.parametrize("rule", golden.sections("election"))
def test_story(rule: str) -> None:
    """What the elector does is what stands there, and nothing else."""
    golden.check("election", Story().tell, rule)


def test_an_answer_to_another_call_is_ignored() -> None:
    """A reply that nobody waits for (any more) changes nothing."""
    drive = Drive()
    drive.step()
    assert not kinds(drive.step(Returned(99, FREE))) - {Note}
    assert not kinds(drive.step(Failed(99, Failure(FailureKind.CONFLICT, "")))) - {Note}
    assert drive.core.state is State.STANDBY


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


# --- renewing --------------------------------------------------------------------------------


def test_a_repeated_failure_is_logged_loudly_once() -> None:
    """The first of the same failures is a warning, the others are for debugging."""
    drive = leading()
    for level in ("warning", "debug", "debug"):
        drive.wait(2 * S)
        assert [note.level for note in notes(drive.reply_is_lost(), "unavailable")] == [level]


# --- giving back -----------------------------------------------------------------------------


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


def test_every_new_leader_is_announced_once() -> None:
    """`leader is NAME` is logged when a standby sees a new leader, not with each renewal."""
    drive = standing_by()
    drive.sees(held(version=6, renewed_us=1))
    assert len(notes(drive.effects, "leader is b")) == 1
    assert notes(drive.sees(held("c", version=7)), "leader is c")
    assert drive.core.leader == "c"


# --- the guardian ----------------------------------------------------------------------------


def test_heartbeats_are_sent_every_retry_period() -> None:
    """The guardian hears from the elector however quiet the lock is."""
    assert standing_by(held(duration_s=3600)).wait(20 * S).count(SendBeat()) == 10


@pytest.mark.parametrize("pause_s", [5, 9, 12, 20, 3600])
def test_a_pause_of_our_own_does_not_make_the_guardian_silent(pause_s: int) -> None:
    """After a suspend everybody has been silent; that proves nothing."""
    drive = leading()
    drive.tick(pause_s * S)
    assert KillGuardian not in kinds(drive.step())


# --- the line ----------------------------------------------------------------------------------


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
