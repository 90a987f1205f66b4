"""Decides for the guardian: when a tree may start, when it must stop, when it must be dead.

A pure state machine: events in the past tense and the time (nanoseconds on CLOCK_BOOTTIME) go in,
effects in the imperative come out. It owns the deadlines of the tree and the lives of the
elector; it must not know time, os, processes or the lock.

The rules that it keeps:

- A tree lives only inside a grant. Grants are absolute: of an old generation, with a deadline that
  has passed or is not later than the present one, they are ignored; another leadership's grant
  never extends a running tree.
- Stopping is irrevocable: a renewal that comes late moves the kill deadline, nothing else.
- The lock is given back only after the last process of the tree has been reaped.
- Lateness counts: a wake-up that came late is added to the margin from then on.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, assert_never

from leaderexec.model import SECOND_NS, Grant, Timing, Token, seconds
from leaderexec.vigil import Vigil

if TYPE_CHECKING:
    from collections.abc import Mapping


# --- states ----------------------------------------------------------------------------------


class State(Enum):
    """What the guardian has of a tree."""

    IDLE = "idle"
    RUNNING = "running"
    STOPPING = "stopping"
    KILLING = "killing"
    GONE = "gone"
    ENDED = "ended"


class Cause(Enum):
    """Why the state changes."""

    GRANTED = "a grant arrived"
    STOP_ASKED = "we were asked to stop"
    OVERDUE = "no renewal within the renew deadline"
    CHILD_ENDED = "the child ended by itself"
    DEADLINE = "the time to stop is over"
    LOST = "the lock belongs to another"
    KILL_ASKED = "we were asked to kill"
    KEEPER_FAILED = "the keeper died or is silent"
    TREE_ENDED = "the last process of the tree was reaped"
    TIMED_OUT = "not leader within the campaign timeout"
    RELEASED = "the lock is given back"
    WITHDREW = "the same, and we are ending"


#: All transitions; the diagram in ARCHITECTURE.md is generated from this table.
TRANSITIONS: Final[Mapping[tuple[State, Cause], State]] = {
    (State.IDLE, Cause.GRANTED): State.RUNNING,
    (State.IDLE, Cause.STOP_ASKED): State.GONE,
    (State.IDLE, Cause.TIMED_OUT): State.GONE,
    (State.RUNNING, Cause.STOP_ASKED): State.STOPPING,
    (State.RUNNING, Cause.OVERDUE): State.STOPPING,
    (State.RUNNING, Cause.CHILD_ENDED): State.STOPPING,
    (State.RUNNING, Cause.LOST): State.KILLING,
    (State.RUNNING, Cause.KEEPER_FAILED): State.KILLING,
    (State.RUNNING, Cause.TREE_ENDED): State.GONE,
    (State.STOPPING, Cause.DEADLINE): State.KILLING,
    (State.STOPPING, Cause.LOST): State.KILLING,
    (State.STOPPING, Cause.KILL_ASKED): State.KILLING,
    (State.STOPPING, Cause.KEEPER_FAILED): State.KILLING,
    (State.STOPPING, Cause.TREE_ENDED): State.GONE,
    (State.KILLING, Cause.TREE_ENDED): State.GONE,
    (State.GONE, Cause.RELEASED): State.IDLE,
    (State.GONE, Cause.WITHDREW): State.ENDED,
}


class IllegalTransition(Exception):
    """The caller broke the protocol; the state is unchanged."""


class OnLoss(Enum):
    """What follows when leadership is lost and the tree is dead."""

    STANDBY = "standby"
    EXIT = "exit"


# --- events ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Woke:
    """The time that was asked for has come, or something unrelated woke us."""


@dataclass(frozen=True, slots=True)
class Granted:
    """The elector sent a grant."""

    grant: Grant


@dataclass(frozen=True, slots=True)
class LeadershipLost:
    """The elector read that the lock belongs to another."""

    generation: int
    token: Token
    reason: str


@dataclass(frozen=True, slots=True)
class Stood:
    """The elector tried, and another candidate leads or the lock cannot be reached."""


@dataclass(frozen=True, slots=True)
class Released:
    """The elector has given the lock back as far as it could."""

    generation: int
    token: Token | None
    retired: bool


@dataclass(frozen=True, slots=True)
class ElectorHeard:
    """A heartbeat of the elector arrived."""

    generation: int


@dataclass(frozen=True, slots=True)
class ElectorEnded:
    """The elector has been reaped, with all of its process group."""

    generation: int


@dataclass(frozen=True, slots=True)
class KeeperHeard:
    """A sign of life of the keeper."""


@dataclass(frozen=True, slots=True)
class KeeperDied:
    """The keeper ended before its tree did."""


@dataclass(frozen=True, slots=True)
class NotStarted:
    """The child was not executed, because its time was over before it began."""


@dataclass(frozen=True, slots=True)
class ChildEnded:
    """The direct child has been reaped; `exit_code` is what a shell would report."""

    exit_code: int


@dataclass(frozen=True, slots=True)
class TreeEnded:
    """No process of the tree is left."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """A signal asked us to stop; `kill` for the second interrupt.

    `send` is what a running child is sent for it.
    """

    signum: int
    send: int
    kill: bool


@dataclass(frozen=True, slots=True)
class SignalArrived:
    """A signal arrived that a leader's child should see."""

    signum: int


Event = (
    Woke
    | Granted
    | LeadershipLost
    | Stood
    | Released
    | ElectorHeard
    | ElectorEnded
    | KeeperHeard
    | KeeperDied
    | NotStarted
    | ChildEnded
    | TreeEnded
    | StopAsked
    | SignalArrived
)


# --- effects ---------------------------------------------------------------------------------


class Scope(Enum):
    """Which processes of the tree a signal is for."""

    CHILD = "child"
    GROUP = "group"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class StartElector:
    """Fork an elector and call it by this generation."""

    generation: int


@dataclass(frozen=True, slots=True)
class KillElector:
    """Kill the elector and its process group."""


@dataclass(frozen=True, slots=True)
class StartTree:
    """Fork a keeper and let it start the child, unless `stop_at_ns` has passed by then."""

    grant: Grant
    stop_at_ns: int
    kill_at_ns: int


@dataclass(frozen=True, slots=True)
class SignalTree:
    """Send a signal to the tree; `stop` marks the stop signal (a stopped child is continued)."""

    signum: int
    scope: Scope
    stop: bool


@dataclass(frozen=True, slots=True)
class SetDeadline:
    """Tell the keeper when to kill the tree, whether or not it hears from us again."""

    kill_at_ns: int


@dataclass(frozen=True, slots=True)
class KillTree:
    """Tell the keeper to kill everything until nothing is left."""


@dataclass(frozen=True, slots=True)
class TakeOver:
    """Kill the keeper, and then whatever falls to us, until nothing of the tree is left."""


@dataclass(frozen=True, slots=True)
class PingKeeper:
    """Ask the keeper for a sign of life."""


@dataclass(frozen=True, slots=True)
class AskRelease:
    """Tell the elector that no tree is left; `retire` when we are ending."""

    token: Token | None
    retire: bool


@dataclass(frozen=True, slots=True)
class End:
    """Leave with this exit code; `failure` says in a line what went wrong, if anything did."""

    exit_code: int
    failure: str


@dataclass(frozen=True, slots=True)
class Note:
    """Log one line."""

    level: str
    event: str
    fields: Mapping[str, object]


Effect = (
    StartElector
    | KillElector
    | StartTree
    | SignalTree
    | SetDeadline
    | KillTree
    | TakeOver
    | PingKeeper
    | AskRelease
    | End
    | Note
)


# --- the machine -----------------------------------------------------------------------------

#: Exit codes that this machine decides; the command line documents them.
LOST_EXIT: Final = 75
TIMEOUT_EXIT: Final = 124

#: How long a keeper that was told to kill may take before the guardian does it itself.
_KEEPER_PATIENCE_NS: Final = SECOND_NS // 2
#: How long the elector may take to give back before we leave without its answer; it bounds itself
#: at 8 s.
_RELEASE_PATIENCE_NS: Final = 9 * SECOND_NS
_RESPAWN_NS: Final = SECOND_NS // 4


class _Why(Enum):
    """What ended a run first, which decides what follows it."""

    ASKED = auto()
    ENDED = auto()
    LOST = auto()


class Tenure:
    """The guardian's decisions over the life of one leaderexec.

    `stop_timeout_ns` bounds how long a tree may drain after the stop signal; `campaign_timeout_ns`
    how long to stand by (0: one try, None: for ever); `signal_group` sends the stop signal to the
    child's whole process group. `remap_exits` replaces exit codes of a child, or of a candidate
    that a signal ended, never those that are decided here. Without a child (`has_child`) a
    leadership runs an empty tree, which is gone as soon as it is to stop.
    """

    def __init__(
        self,
        *,
        timing: Timing,
        stop_signal: int,
        stop_timeout_ns: int,
        on_loss: OnLoss,
        campaign_timeout_ns: int | None,
        signal_group: bool,
        now_ns: int,
        remap_exits: Mapping[int, int] | None = None,
        has_child: bool = True,
    ) -> None:
        self.state = State.IDLE
        #: When to step with `Woke` at the latest; None while only events matter.
        self.wake_at_ns: int | None = now_ns
        #: The grant under which the present tree was started, kept until the lock is given back.
        self.grant: Grant | None = None
        self.generation = 0
        self._timing = timing
        self._stop_signal = stop_signal
        self._stop_timeout_ns = stop_timeout_ns
        self._on_loss = on_loss
        self._campaign_timeout_ns = campaign_timeout_ns
        self._scope = Scope.GROUP if signal_group else Scope.CHILD
        self._remap_exits = remap_exits or {}
        self._has_child = has_child
        self._now_ns = now_ns
        self._effects: list[Effect] = []
        self._lateness_ns = 0

        self._campaign_since_ns = now_ns
        self._expires_at_ns = now_ns
        self._stop_at_ns = now_ns
        self._stop_by_ns: int | None = None
        self._kill_at_ns = now_ns
        self._take_over_at_ns: int | None = None
        self._taken_over = False
        self._why: _Why | None = None
        self._ending = False
        self._exit_code = 0
        self._failure = ""
        self._child_exit_code: int | None = None
        self._leave_at_ns: int | None = None
        self._ask_again_at_ns = now_ns

        self._elector_alive = False
        self._elector_killed = False
        self._elector_start_ns = now_ns
        self._elector_since_ns = now_ns
        self._elector_failures = 0
        self._elector = self._new_vigil()
        self._keeper = self._new_vigil()
        self._ping_at_ns = now_ns

    # --- the one entrance ---

    def step(self, event: Event, now_ns: int) -> list[Effect]:
        """Take note of `event` at `now_ns` and return what is to be done, in order."""
        self._now_ns = now_ns
        self._effects = []
        if self.wake_at_ns is not None and now_ns > self.wake_at_ns:
            self._was_late(now_ns - self.wake_at_ns)
        match event:
            case Woke():
                pass
            case Granted(grant=grant):
                self._granted(grant)
            case LeadershipLost():
                self._lost(event)
            case Stood():
                if self.state is State.IDLE and self._campaign_timeout_ns == 0:
                    self._time_out()
            case Released():
                self._released(event)
            case ElectorHeard(generation=generation):
                if generation == self.generation:
                    self._elector.heard(now_ns)
            case ElectorEnded(generation=generation):
                self._elector_ended(generation)
            case KeeperHeard():
                self._keeper.heard(now_ns)
            case KeeperDied():
                self._taken_over = False  # what it left has fallen to us only now
                self._keeper_failed("the keeper died")
            case NotStarted():
                self._because(_Why.LOST)
            case ChildEnded(exit_code=exit_code):
                self._child_ended(exit_code)
            case TreeEnded():
                self._tree_ended()
            case StopAsked():
                self._stop_asked(event)
            case SignalArrived(signum=signum):
                if self.state in {State.RUNNING, State.STOPPING}:
                    self._effects.append(SignalTree(signum, self._scope, stop=False))
            case _:
                assert_never(event)
        self._act()
        self.check_invariants()
        return self._effects

    def resumed(self, now_ns: int) -> None:
        """We were stopped because the terminal's user wanted it: what was due meanwhile is due now.

        To be called before anything else is; it is no lateness, and grants may be waiting.
        """
        if self.wake_at_ns is not None:
            self.wake_at_ns = max(self.wake_at_ns, now_ns)

    def check_invariants(self) -> None:
        """Raise AssertionError when the state contradicts itself."""
        has_tree = self.state in {State.RUNNING, State.STOPPING, State.KILLING}
        if has_tree and self.grant is None:
            raise AssertionError("a tree without a grant")
        if self.state is State.RUNNING and not self._stop_at_ns <= self._kill_at_ns:
            raise AssertionError("a tree that would be killed before it is asked to stop")
        if has_tree and self._kill_at_ns > self._expires_at_ns - self._timing.margin_ns:
            raise AssertionError("a tree that would outlive its lease less the margin")
        if self.state in {State.IDLE, State.ENDED} and self.grant is not None:
            raise AssertionError("a grant that nobody uses")

    @property
    def renew_by_ns(self) -> int | None:
        """When leading is over unless another grant comes; None without a grant."""
        return None if self.grant is None else self._stop_at_ns

    @property
    def kill_at_ns(self) -> int:
        """When the present tree must be killed, whatever else happens."""
        if self._stop_by_ns is None:
            return self._kill_at_ns
        return min(self._kill_at_ns, self._stop_by_ns)

    # --- small helpers ---

    def _new_vigil(self) -> Vigil:
        return Vigil(
            bound_ns=self._timing.silence_bound_ns,
            pause_ns=2 * self._timing.heartbeat_ns,
            now_ns=self._now_ns,
        )

    def _move(self, cause: Cause, level: str = "info", **fields: object) -> None:
        try:
            after = TRANSITIONS[self.state, cause]
        except KeyError:
            raise IllegalTransition(f"{self.state.value}: {cause.value}") from None
        before, self.state = self.state, after
        fields = {"before": before.value, "reason": cause.value, **fields}
        self._effects.append(Note(level, after.value, fields))

    def _was_late(self, late_ns: int) -> None:
        """Add the worst lateness seen to the margin, as far as the grace on loss can pay for it."""
        worst_ns = min(late_ns, self._timing.grace_on_loss_ns)
        if worst_ns > self._lateness_ns:
            self._lateness_ns = worst_ns
            if self.grant is not None:
                self._set_limits(self.grant)
            if self.state in {State.RUNNING, State.STOPPING}:
                self._effects.append(SetDeadline(self.kill_at_ns))

    def _set_limits(self, grant: Grant) -> None:
        self._expires_at_ns = grant.expires_at_ns
        last_ns = grant.expires_at_ns - self._timing.margin_ns
        # A grant that others' short durations bound has no grace on loss that could pay for our
        # lateness. It must last until the next renewal, or each leadership would end in its first.
        least_ns = grant.renewed_at_ns + self._timing.least_term_ns
        self._kill_at_ns = min(last_ns, max(last_ns - self._lateness_ns, least_ns))
        self._stop_at_ns = min(
            grant.renewed_at_ns + self._timing.renew_deadline_ns, self._kill_at_ns
        )

    # --- grants ---

    def _granted(self, grant: Grant) -> None:
        if grant.generation != self.generation:
            return
        now_ns = self._now_ns
        if self.state is State.IDLE:
            self._set_limits(grant)
            if now_ns >= self._stop_at_ns:
                return  # it took too long to arrive; the next renewal will bring another
            self.grant = grant
            self._why = None
            self._child_exit_code = None
            self._stop_by_ns = None
            self._take_over_at_ns = None
            self._taken_over = False
            self._keeper = self._new_vigil()
            self._ping_at_ns = now_ns + self._timing.heartbeat_ns
            self._move(Cause.GRANTED, "debug", token=grant.token)
            if self._has_child:
                self._effects.append(StartTree(grant, self._stop_at_ns, self._kill_at_ns))
            else:
                leader = grant.claim.holder
                self._effects.append(Note("info", f"leader is {leader}", {"leader": leader}))
            return
        held = self.grant
        if held is None or self.state is State.GONE or grant.token != held.token:
            return
        if grant.expires_at_ns <= held.expires_at_ns or now_ns >= grant.expires_at_ns:
            return
        self.grant = grant
        self._set_limits(grant)
        self._effects.append(SetDeadline(self.kill_at_ns))

    def _lost(self, event: LeadershipLost) -> None:
        if event.generation != self.generation:
            return
        held = self.grant
        if self.state in {State.RUNNING, State.STOPPING} and held and held.token == event.token:
            self._kill(Cause.LOST, detail=event.reason)
        elif self.state is State.IDLE:
            self._effects.append(AskRelease(event.token, retire=False))

    # --- the tree ---

    def _child_ended(self, exit_code: int) -> None:
        if self._child_exit_code is not None:
            return
        self._pass_deadlines()
        self._child_exit_code = exit_code
        if self.state is State.RUNNING:
            self._stop(Cause.CHILD_ENDED, exit_code=exit_code)
        elif self.state is State.STOPPING:
            # What the child left behind has the rest of its time.
            self._effects.append(SignalTree(self._stop_signal, Scope.ALL, stop=True))

    def _stop(self, cause: Cause, *, send: int | None = None, **fields: object) -> None:
        self._because(
            {
                Cause.STOP_ASKED: _Why.ASKED,
                Cause.OVERDUE: _Why.LOST,
                Cause.CHILD_ENDED: _Why.ENDED,
            }[cause]
        )
        self._stop_by_ns = self._now_ns + self._stop_timeout_ns
        grace = seconds(max(0, self.kill_at_ns - self._now_ns))
        self._move(cause, "warning" if cause is Cause.OVERDUE else "info", grace=grace, **fields)
        scope = Scope.ALL if cause is Cause.CHILD_ENDED else self._scope
        self._effects.append(SetDeadline(self.kill_at_ns))
        self._effects.append(SignalTree(send or self._stop_signal, scope, stop=True))

    def _because(self, why: _Why) -> None:
        if self._why is None:
            self._why = why

    def _kill(self, cause: Cause, **fields: object) -> None:
        if cause in {Cause.LOST, Cause.KEEPER_FAILED}:
            self._because(_Why.LOST)
        self._move(cause, "warning", **fields)
        self._take_over_at_ns = self._now_ns + _KEEPER_PATIENCE_NS
        self._effects.append(KillTree())

    def _keeper_failed(self, detail: str) -> None:
        if self.state in {State.RUNNING, State.STOPPING}:
            self._kill(Cause.KEEPER_FAILED, detail=detail)
        if self.state is State.KILLING:
            self._take_over()

    def _take_over(self) -> None:
        self._take_over_at_ns = None
        if not self._taken_over:
            self._taken_over = True
            self._effects.append(TakeOver())

    def _tree_ended(self) -> None:
        if self.state not in {State.RUNNING, State.STOPPING, State.KILLING}:
            return
        self._pass_deadlines()
        held = self.grant
        if held is None:
            raise AssertionError("a tree without a grant")
        if self._child_exit_code is None:
            # There is none, it never ran, or its keeper died with what it knew of it.
            self._because(_Why.LOST)
            self._child_exit_code = 137
        self._take_over_at_ns = None
        self._because(_Why.ENDED)
        if self._has_child:
            self._move(Cause.TREE_ENDED, exit_code=self._child_exit_code)
        else:
            self._move(Cause.TREE_ENDED)
        if self._why is not _Why.LOST:
            self._will_end(self._child_exit_code)
        elif self._on_loss is OnLoss.EXIT:
            self._fail(LOST_EXIT, "leadership lost")
        elif self._ending:
            self._will_end(self._child_exit_code)
        self._ask_release()

    def _will_end(self, exit_code: int) -> None:
        self._ending = True
        self._exit_code = self._remap_exits.get(exit_code, exit_code)

    def _fail(self, exit_code: int, failure: str) -> None:
        self._ending = True
        self._exit_code = exit_code
        self._failure = failure

    # --- giving back, ending ---

    def _ask_release(self) -> None:
        if self._ending and self._leave_at_ns is None:
            self._leave_at_ns = self._now_ns + _RELEASE_PATIENCE_NS
        self._ask_again_at_ns = self._now_ns + self._timing.silence_bound_ns
        token = self.grant.token if self.grant else None
        self._effects.append(AskRelease(token, retire=self._ending))

    def _released(self, event: Released) -> None:
        if event.generation != self.generation or self.state is not State.GONE:
            return
        if self._ending:
            if event.retired:
                self._end()
            return
        if self.grant is not None and event.token == self.grant.token:
            self.grant = None
            self._campaign_since_ns = self._now_ns
            self._move(Cause.RELEASED, next="campaigning again")

    def _end(self) -> None:
        self.grant = None
        self._leave_at_ns = None
        self._move(Cause.WITHDREW, "debug", exit_code=self._exit_code)
        self._effects.append(End(self._exit_code, self._failure))

    def _time_out(self) -> None:
        self._fail(TIMEOUT_EXIT, "not leader within --timeout")
        self._move(Cause.TIMED_OUT, "error")
        self._ask_release()

    def _stop_asked(self, event: StopAsked) -> None:
        signum = event.signum
        match self.state:
            case State.IDLE:
                self._will_end(128 + signum)
                self._move(Cause.STOP_ASKED, signal=signum)
                self._ask_release()
            case State.RUNNING:
                self._ending = True
                if not self._has_child:
                    self._child_exit_code = 128 + signum
                self._stop(Cause.STOP_ASKED, send=event.send, signal=signum)
            case State.STOPPING:
                if event.kill:
                    self._ending = True
                    self._kill(Cause.KILL_ASKED)
                elif self._ending:
                    self._effects.append(SignalTree(signum, self._scope, stop=False))
                self._ending = True
            case State.KILLING:
                self._ending = True
            case State.GONE:
                if not self._ending:
                    self._will_end(128 + signum)
                    self._ask_release()
            case State.ENDED:
                pass
            case _:
                assert_never(self.state)

    # --- the elector ---

    def _elector_ended(self, generation: int) -> None:
        if generation != self.generation or not self._elector_alive:
            return
        self._elector_alive = False
        if self.state is State.ENDED:
            return
        lived_ns = self._now_ns - self._elector_since_ns
        if lived_ns > self._timing.renew_deadline_ns:
            self._elector_failures = 0
        delay_ns = min(
            self._elector_failures * _RESPAWN_NS, self._timing.retry_period_ns
        )  # the first successor comes at once: it may renew in time
        self._elector_failures += 1
        self._elector_start_ns = self._now_ns + delay_ns
        self._effects.append(
            Note("warning", "the elector died, starting another", {"delay": seconds(delay_ns)})
        )

    def _start_elector(self) -> None:
        self.generation += 1
        self._elector_alive = True
        self._elector_killed = False
        self._elector_since_ns = self._now_ns
        self._elector = self._new_vigil()
        self._effects.append(StartElector(self.generation))
        if self.state is State.GONE:
            self._effects.append(
                AskRelease(self.grant.token if self.grant else None, retire=self._ending)
            )

    # --- what is to be done now ---

    def _act(self) -> None:
        self.wake_at_ns = None
        if self.state is State.ENDED:
            return
        now_ns = self._now_ns
        if not self._elector_alive:
            if now_ns >= self._elector_start_ns:
                self._start_elector()
            else:
                self._wake(self._elector_start_ns)
        if self._elector_alive and not self._elector_killed:
            if self._elector.silent(now_ns):
                self._elector_killed = True
                self._effects.append(
                    Note("error", "the elector is silent, killing it", {})
                )  # fmt: skip
                self._effects.append(KillElector())
            else:
                self._wake(self._elector.due_ns)
        if not self._has_child:
            self._pass_deadlines()
            if self.state in {State.STOPPING, State.KILLING}:
                self._tree_ended()
        match self.state:
            case State.IDLE:
                self._act_idle()
            case State.RUNNING | State.STOPPING | State.KILLING:
                self._act_tree()
            case State.GONE:
                if self._leave_at_ns is not None and now_ns >= self._leave_at_ns:
                    self._effects.append(
                        Note("error", "leaving without knowing whether the lock is given back", {})
                    )
                    self._end()
                    return
                if self._leave_at_ns is not None:
                    self._wake(self._leave_at_ns)
                if now_ns >= self._ask_again_at_ns:
                    self._ask_release()  # the answer may have been lost with a full socket
                self._wake(self._ask_again_at_ns)
            case _:
                assert_never(self.state)

    def _pass_deadlines(self) -> None:
        """Let the time that has passed count before what is heard of the tree.

        When we were stopped ourselves, the keeper has killed the tree at its deadline: its end is
        then the end of our leadership, not an end of the child's own.
        """
        if self.state is State.RUNNING and self._now_ns >= self._stop_at_ns:
            self._stop(Cause.OVERDUE)
        if self.state is State.STOPPING and self._now_ns >= self.kill_at_ns:
            self._kill(Cause.DEADLINE)

    def _wake(self, at_ns: int) -> None:
        if self.wake_at_ns is None or at_ns < self.wake_at_ns:
            self.wake_at_ns = at_ns

    def _act_idle(self) -> None:
        if self._campaign_timeout_ns:
            out_at_ns = self._campaign_since_ns + self._campaign_timeout_ns
            if self._now_ns >= out_at_ns:
                self._time_out()
            else:
                self._wake(out_at_ns)

    def _act_tree(self) -> None:
        now_ns = self._now_ns
        self._pass_deadlines()
        if self.state is State.KILLING:
            if self._take_over_at_ns is not None:
                if now_ns >= self._take_over_at_ns:
                    self._take_over()
                else:
                    self._wake(self._take_over_at_ns)
            return
        self._wake(self._stop_at_ns if self.state is State.RUNNING else self.kill_at_ns)
        if not self._has_child:
            return
        if self._keeper.silent(now_ns):
            self._keeper_failed("the keeper is silent")
            return
        if now_ns >= self._ping_at_ns:
            self._ping_at_ns = now_ns + self._timing.heartbeat_ns
            self._effects.append(PingKeeper())
        self._wake(self._ping_at_ns)
        self._wake(self._keeper.due_ns)
