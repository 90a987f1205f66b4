"""Tests of the guardian's decisions, one rule each, on one core driven by hand in virtual time.

Owns the drive: a core and a clock that only the test moves. Most rules are stories of
golden/tenure.txt; a function stands where a story is not enough. What the processes would do with
the effects is the simulation's business.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any, Final

import pytest

from leaderexec.model import SECOND_NS, Claim, Grant, Timing, Token
from leaderexec.tenure import (
    TRANSITIONS,
    AskRelease,
    Cause,
    ChildEnded,
    Effect,
    ElectorEnded,
    ElectorHeard,
    End,
    Event,
    Granted,
    IllegalTransition,
    KeeperDied,
    KeeperHeard,
    KillElector,
    KillTree,
    LeadershipLost,
    Note,
    NotStarted,
    OnLoss,
    PingKeeper,
    Released,
    SetDeadline,
    SignalArrived,
    SignalTree,
    StartElector,
    StartTree,
    State,
    Stood,
    StopAsked,
    TakeOver,
    Tenure,
    TreeEnded,
    Woke,
)
from tests.support import golden

if TYPE_CHECKING:
    from collections.abc import Callable

S: Final = SECOND_NS
TIMING: Final = Timing()
MARGIN_NS: Final = TIMING.margin_ns
START_NS: Final = 1_000 * S
HUP, INT, QUIT, USR1, TERM = 1, 2, 3, 10, 15
TOKEN: Final = Token(10)


class Drive:
    """One tenure core and its clock; both others are heard all the time unless they are silent."""

    def __init__(
        self, *, timing: Timing = TIMING, stop_timeout_s: int = 20, **changes: Any
    ) -> None:
        self.now_ns = START_NS
        self.elector_beats = True
        self.keeper_answers = True
        facts: dict[str, Any] = {
            "on_loss": OnLoss.STANDBY,
            "campaign_timeout_ns": None,
            "signal_group": False,
            **changes,
        }
        self.core = Tenure(
            timing=timing,
            stop_signal=TERM,
            stop_timeout_ns=stop_timeout_s * S,
            now_ns=self.now_ns,
            **facts,
        )
        self.effects: list[Effect] = []
        self._beat_at_ns = START_NS

    def is_in(self, state: State) -> bool:
        return self.core.state is state

    def step(self, event: Event | None = None) -> list[Effect]:
        effects = self.core.step(event or Woke(), self.now_ns)
        wake_ns = self.core.wake_at_ns
        assert wake_ns is None or wake_ns > self.now_ns, "a loop without a pause"
        if wake_ns is None and not self.is_in(State.ENDED):
            assert self.core._elector_killed, "nothing would ever happen again"
        if PingKeeper() in effects and self.keeper_answers:
            effects = effects + self.core.step(KeeperHeard(), self.now_ns)
        self.effects += effects
        return effects

    def wait(self, for_ns: int) -> list[Effect]:
        """Let time pass, waking the core in time; the elector beats as long as it is to."""
        until_ns = self.now_ns + for_ns
        effects: list[Effect] = []
        while True:
            due = [until_ns]
            if self.core.wake_at_ns is not None:
                due.append(self.core.wake_at_ns)
            if self.elector_beats:
                due.append(self._beat_at_ns)
            self.now_ns = max(self.now_ns, min(due))
            if self.elector_beats and self.now_ns >= self._beat_at_ns:
                self._beat_at_ns = self.now_ns + TIMING.heartbeat_ns
                effects += self.step(ElectorHeard(self.core.generation))
            if self.core.wake_at_ns is not None and self.core.wake_at_ns <= self.now_ns:
                effects += self.step()
            if self.now_ns >= until_ns:
                return effects

    def oversleep(self, by_ns: int) -> list[Effect]:
        """Wake later than the core asked for."""
        assert self.core.wake_at_ns is not None
        self.now_ns = self.core.wake_at_ns + by_ns
        return self.step()

    def grant(
        self,
        *,
        sent_ns: int | None = None,
        token: Token = TOKEN,
        generation: int | None = None,
        duration_s: int = 15,
    ) -> Granted:
        """Return a grant for a renewal that was sent just now."""
        sent_ns = self.now_ns if sent_ns is None else sent_ns
        generation = self.core.generation if generation is None else generation
        expires_ns = sent_ns + duration_s * S
        return Granted(Grant(generation, token, "u1", Claim("a", 0, 0), sent_ns, expires_ns))

    def granted(self, **changes: Any) -> list[Effect]:
        return self.step(self.grant(**changes))

    def renew_for(self, seconds: int) -> list[Effect]:
        """Let time pass in which a renewal succeeds every second."""
        return [e for _ in range(seconds) for e in self.wait(S) + self.granted()]

    def lost(self, token: Token = TOKEN, generation: int | None = None) -> list[Effect]:
        generation = self.core.generation if generation is None else generation
        return self.step(LeadershipLost(generation, token, "held by b"))

    def ask(self, signum: int = TERM, *, kill: bool = False) -> list[Effect]:
        return self.step(StopAsked(signum, TERM, kill))

    def released(self, *, retired: bool = False, token: Token | None = TOKEN) -> list[Effect]:
        return self.step(Released(self.core.generation, token, retired))

    def ends_with(self, exit_code: int = 0) -> list[Effect]:
        """The child and then its tree end."""
        return self.step(ChildEnded(exit_code)) + self.step(TreeEnded())


def kinds(effects: list[Effect]) -> set[type]:
    return {type(e) for e in effects}


def campaigning(**changes: Any) -> Drive:
    """Return a standby that has an elector."""
    drive = Drive(**changes)
    drive.step()
    return drive


def running(**changes: Any) -> Drive:
    """Return a leader whose tree was started."""
    drive = campaigning(**changes)
    drive.granted()
    return drive


def giving_back(**changes: Any) -> Drive:
    """Return one that lost the lock, and whose tree is dead."""
    drive = running(**changes)
    drive.lost()
    drive.step(TreeEnded())
    return drive


def leads(drive: Drive) -> bool:
    """Whether it would say so."""
    return drive.is_in(State.RUNNING) and (drive.core.renew_by_ns or 0) > drive.now_ns


# --- rules as stories ------------------------------------------------------------------------

_SIGNALS: Final = {"HUP": HUP, "INT": INT, "QUIT": QUIT, "USR1": USR1, "TERM": TERM}
_WORDS: Final[dict[type, str]] = {
    KillElector: "kill the elector",
    KillTree: "kill the tree",
    TakeOver: "take over",
    Note: "",
    PingKeeper: "",
}
_EVENTS: Final[dict[str, Event]] = {
    "wakes": Woke(),
    "stood": Stood(),
    "keeper dies": KeeperDied(),
    "not started": NotStarted(),
    "tree ends": TreeEnded(),
}
_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "no-child": {"has_child": False},
    "exit": {"on_loss": OnLoss.EXIT},
    "group": {"signal_group": True},
    "short": {"timing": Timing(10, 5 * S, 5 * S // 2)},
    "remaps": {"remap_exits": {143: 0, 7: 3, 75: 0, 124: 0}},
}


def word(effect: Effect) -> str:
    """Say what an effect is; nothing, if it is a note or a ping."""
    match effect:
        case StartElector(generation=generation):
            return f"start elector {generation}"
        case StartTree(stop_at_ns=stop_ns, kill_at_ns=kill_ns):
            return f"start a tree until {at(stop_ns)}, {at(kill_ns)}"
        case SetDeadline(kill_at_ns=kill_ns):
            return f"kill at {at(kill_ns)}"
        case SignalTree(signum=signum, scope=scope, stop=stop):
            (name,) = (name for name, number in _SIGNALS.items() if number == signum)
            return f"send {name} to {scope.value}{'' if stop else ' as it came'}"
        case AskRelease(token=token, retire=retire):
            return f"ask for release {token or ''}".rstrip() + (" for good" if retire else "")
        case End(exit_code=code, failure=failure):
            return f"exit {code}" + (f": {failure}" if failure else "")
        case _:
            return _WORDS[type(effect)]


def at(now_ns: int) -> str:
    return f"{(now_ns - START_NS) / S:g}"


def numbers(words: list[str]) -> dict[str, Any]:
    """Return what `name=number` and `name=none` stand for; times are seconds since the start."""
    found: dict[str, Any] = {}
    for text in words:
        name, value = text.split("=")
        if name == "sent":
            found["sent_ns"] = START_NS + int(value) * S
        else:
            found[name] = None if value == "none" else int(value)
    return found


class Story(golden.Story[Effect]):
    """Lets happen to a core what the lines of a story say."""

    drive: Drive

    def word(self, effect: Effect) -> str:
        return word(effect)

    def wait(self, duration_ns: int) -> list[Effect]:
        return self.drive.wait(duration_ns)

    def ask(self, what: str) -> str:
        drive, core = self.drive, self.drive.core
        match what:
            case "state":
                return core.state.value
            case "kill in":
                return f"{(core.kill_at_ns - drive.now_ns) / S:g}"
            case "renew by":
                return "never" if core.renew_by_ns is None else at(core.renew_by_ns)
            case "leads":
                return str(leads(drive)).lower()
            case "granted until":
                assert core.grant is not None
                return at(core.grant.expires_at_ns)
        raise ValueError(what)

    def play(self, text: str) -> list[Effect]:
        """Let one thing happen, and return what the core does about it."""
        if text in _EVENTS:
            return self.drive.step(_EVENTS[text])
        match text.split(" "):
            case ["starting"]:
                self.drive = Drive()
            case ["campaigning", *options]:
                self.drive = self.begin(campaigning, options)
            case ["running", *options]:
                self.drive = self.begin(running, options)
            case ["giving", "back"]:
                self.drive = giving_back()
            case ["wait", seconds]:
                return self.drive.wait(round(float(seconds) * S))
            case ["after", seconds]:
                return self.after(round(float(seconds) * S))
            case ["sleep", seconds]:
                self.drive.now_ns += int(seconds) * S
            case ["oversleep", seconds]:
                return self.drive.oversleep(round(float(seconds) * S))
            case ["elector", "silent"]:
                self.drive.elector_beats = False
            case ["keeper", "silent"]:
                self.drive.keeper_answers = False
            case words:
                return self.hear(words)
        return []

    @staticmethod
    def begin(how: Callable[..., Drive], options: list[str]) -> Drive:
        changes: dict[str, Any] = {}
        for option in options:
            match option.split("="):
                case ["stop", seconds]:
                    changes["stop_timeout_s"] = int(seconds)
                case ["timeout", seconds]:
                    changes["campaign_timeout_ns"] = int(seconds) * S
                case _:
                    changes |= _OPTIONS[option]
        return how(**changes)

    def hear(self, words: list[str]) -> list[Effect]:
        """Let somebody say something."""
        drive = self.drive
        generation = drive.core.generation
        match words:
            case ["grant", *changes]:
                return drive.granted(**numbers(changes))
            case ["renew", "for", seconds]:
                effects = drive.renew_for(int(seconds))
                return [effect for effect in effects if not isinstance(effect, SetDeadline)]
            case ["lost", *changes]:
                return drive.lost(**numbers(changes))
            case ["released" | "retired" as what, *changes]:
                facts = {"generation": generation, "token": TOKEN, **numbers(changes)}
                return drive.step(Released(retired=what == "retired", **facts))
            case ["asked", *signals]:
                names = [name for name in signals if name != "kill"] or ["TERM"]
                send = _SIGNALS[names[-1]] if len(names) > 1 else TERM
                return drive.step(StopAsked(_SIGNALS[names[0]], send, "kill" in signals))
            case ["signal", name]:
                return drive.step(SignalArrived(_SIGNALS[name]))
            case ["child", "ends", code]:
                return drive.step(ChildEnded(int(code)))
            case ["ends", code]:
                return drive.ends_with(int(code))
            case ["elector", "ends", *which]:
                return drive.step(ElectorEnded(int(which[0]) if which else generation))
            case ["elector", "of", "old", "beats", "for", seconds]:
                return [
                    effect
                    for _ in range(int(seconds))
                    for effect in drive.wait(S) + drive.step(ElectorHeard(1))
                ]
        raise ValueError(words)


@pytest.mark.xdist_group("stories of the guardian")
@pytest.mark.parametrize("rule", golden.sections("tenure"))
def test_story(rule: str) -> None:
    """What the guardian does is what stands there, and nothing else."""
    golden.check("tenure", Story().tell, rule)


# --- the table -------------------------------------------------------------------------------

#: Ways through a tenure, one event after the other, that together take every transition.
_SCRIPTS: Final[list[list[Callable[[Drive], object]]]] = [
    [Drive.granted, Drive.ask, Drive.ends_with, lambda d: d.released(retired=True)],
    [Drive.granted, lambda d: d.wait(15 * S), Drive.ends_with, Drive.released],
    [Drive.granted, lambda d: d.ask(INT), lambda d: d.ask(INT, kill=True)],
    [Drive.granted, Drive.ask, Drive.lost],
    [Drive.granted, Drive.ask, lambda d: d.step(KeeperDied())],
    [Drive.granted, Drive.lost],
    [Drive.granted, lambda d: d.step(KeeperDied())],
    [Drive.granted, lambda d: d.step(TreeEnded())],
    [Drive.granted, lambda d: d.step(ChildEnded(0))],
    [Drive.ask],
    [lambda d: d.wait(30 * S)],
]


def test_every_transition_of_the_table_is_reached() -> None:
    """No line of the table is dead: each is taken by a sequence of lawful events."""
    taken: set[tuple[State, Cause]] = set()
    for script in _SCRIPTS:
        drive = campaigning(campaign_timeout_ns=30 * S)
        for event in script:
            event(drive)
        taken |= {
            (State(note.fields["before"]), Cause(note.fields["reason"]))
            for note in drive.effects
            if isinstance(note, Note) and "before" in note.fields
        }
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
    ("change", "problem"),
    [
        ({"grant": None}, "without a grant"),
        ({"_kill_at_ns": START_NS + 15 * S - MARGIN_NS + 1}, "outlive its lease"),
        ({"_stop_at_ns": START_NS + 15 * S}, "before it is asked"),
        ({"state": State.IDLE}, "nobody uses"),
    ],
)
def test_contradictions_are_noticed(change: dict[str, Any], problem: str) -> None:
    """The invariants see a tree that nobody allowed or that would live too long."""
    core = running().core
    for name, value in change.items():
        setattr(core, name, value)
    with pytest.raises(AssertionError, match=problem):
        core.check_invariants()


# --- what is not a story ---


def test_electors_that_die_again_and_again_are_started_less_often() -> None:
    """The delay grows to the retry period, and is forgotten by one that lives."""
    drive = campaigning()
    delays = []
    for _ in range(12):
        since_ns = drive.now_ns
        effects = drive.step(ElectorEnded(drive.core.generation))
        while StartElector not in kinds(effects):
            effects = drive.wait(50_000_000)
        delays.append(drive.now_ns - since_ns)
    assert delays[0] == 0
    assert delays == sorted(delays)
    assert delays[-1] == TIMING.retry_period_ns
    drive.wait(TIMING.renew_deadline_ns + 1)
    assert StartElector in kinds(drive.step(ElectorEnded(drive.core.generation)))


def test_the_keeper_is_asked_for_signs_of_life() -> None:
    """A ping every heartbeat while a tree runs."""
    assert running().renew_for(20).count(PingKeeper()) == 10


def test_a_leadership_without_a_child_is_never_between_leading_and_gone() -> None:
    """Stopping and killing pass within the step that began them, whatever the order of events."""
    events: list[Callable[[Drive], object]] = [
        lambda drive: drive.granted(token=Token(len(seen))),
        Drive.granted,
        Drive.lost,
        lambda drive: drive.released(retired=len(seen) % 2 == 0),
        lambda drive: drive.step(ElectorEnded(drive.core.generation)),
        lambda drive: drive.wait(9 * S),
        lambda drive: drive.step(Stood()),
        Drive.ask,
    ]
    seen: list[State] = []
    for order in product(events, repeat=4):
        drive = campaigning(has_child=False)
        for event in order:
            event(drive)
            seen.append(drive.core.state)
    assert set(seen) == {State.IDLE, State.RUNNING, State.GONE, State.ENDED}
