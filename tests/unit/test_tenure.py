"""Tests of the guardian's decisions, one rule each, on one core driven by hand in virtual time.

Owns the drive: a core, a clock that only the test moves, and short ways to make events. What the
processes would do with the effects is the simulation's business.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pytest

from leaderexec.model import SECOND_NS, Claim, Grant, Timing, Token
from leaderexec.tenure import (
    LOST_EXIT,
    TIMEOUT_EXIT,
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
    Scope,
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

if TYPE_CHECKING:
    from collections.abc import Callable

S: Final = SECOND_NS
TIMING: Final = Timing()
MARGIN_NS: Final = TIMING.margin_ns
START_NS: Final = 1_000 * S
LATE_NS: Final = 300_000_000
HUP, INT, QUIT, USR1, TERM = 1, 2, 3, 10, 15
TOKEN: Final = Token(10)
RETRY: Final = AskRelease(TOKEN, retire=False)
LEAVE: Final = AskRelease(TOKEN, retire=True)
STOP: Final = SignalTree(TERM, Scope.CHILD, stop=True)
STOP_ALL: Final = SignalTree(TERM, Scope.ALL, stop=True)

T = TypeVar("T")


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

    def after(self, for_ns: int, kind: type[T]) -> T:
        """Assert that the effect of this kind comes then and not before."""
        assert kind not in kinds(self.wait(for_ns - 1))
        return only(self.wait(1), kind)

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

    def left_with(self) -> End:
        """Return with what it ends once the elector has retired."""
        return only(self.released(retired=True), End)


def only(effects: list[Effect], kind: type[T]) -> T:
    """Return the one effect of this kind."""
    found = [e for e in effects if isinstance(e, kind)]
    assert len(found) == 1, f"not one {kind.__name__} in {effects}"
    return found[0]


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


# --- grants ----------------------------------------------------------------------------------


def test_a_grant_starts_a_tree_with_both_deadlines() -> None:
    """Stop at t0 + renew deadline, kill at t0 + lease - margin, however late it arrives."""
    drive = campaigning()
    grant = drive.grant()
    drive.wait(4 * S)
    start = only(drive.step(grant), StartTree)
    assert start.stop_at_ns == START_NS + 10 * S
    assert start.kill_at_ns == START_NS + 15 * S - MARGIN_NS


def test_a_grant_that_arrives_after_its_stop_deadline_starts_nothing() -> None:
    """Rule 7: what has passed is ignored; the next renewal brings another."""
    drive = campaigning()
    assert StartTree not in kinds(drive.granted(sent_ns=START_NS - 10 * S))
    assert drive.is_in(State.IDLE)
    assert StartTree in kinds(drive.granted())


def test_a_grant_of_another_generation_is_ignored() -> None:
    """Rule 7: only the present elector's word counts, whatever the dead one had sent."""
    drive = campaigning()
    drive.granted(generation=0)
    assert drive.is_in(State.IDLE)
    drive.granted()
    held = drive.core.grant
    drive.wait(S)
    drive.granted(generation=7)
    assert drive.core.grant == held


def test_a_renewal_moves_both_deadlines_and_tells_the_keeper() -> None:
    """A running tree goes on as long as renewals come in time."""
    drive = running()
    for _ in range(20):
        drive.wait(2 * S)
        moved = only(drive.granted(), SetDeadline)
        assert moved.kill_at_ns == drive.now_ns + 15 * S - MARGIN_NS
    assert drive.is_in(State.RUNNING)


def test_a_grant_that_is_not_later_is_ignored() -> None:
    """Rule 7: T not above the present T changes nothing."""
    drive = running()
    drive.wait(S)
    assert SetDeadline not in kinds(drive.granted(sent_ns=START_NS))
    assert SetDeadline not in kinds(drive.granted(sent_ns=START_NS - 1))


def test_a_grant_that_has_expired_is_ignored() -> None:
    """Rule 7: T in the past extends nothing, even if it is later than the present T."""
    drive = running()
    drive.ask()
    drive.now_ns += 60 * S
    held = drive.core.grant
    drive.granted(sent_ns=START_NS + 5 * S)
    assert drive.core.grant == held


def test_another_leaderships_grant_never_extends_a_running_tree() -> None:
    """Rule 7: another token is another leadership, with another child to start."""
    drive = running()
    drive.wait(S)
    assert not {SetDeadline, StartTree} & kinds(drive.granted(token=Token(11)))


def test_no_second_tree_is_started_beside_the_first() -> None:
    """One guardian, one tree at a time: not while running, nor before the lock is given back."""
    drive = running()
    assert StartTree not in kinds(drive.granted())
    drive.lost()
    assert StartTree not in kinds(drive.granted(token=Token(11)))
    drive.step(TreeEnded())
    assert StartTree not in kinds(drive.granted(token=Token(11)))
    drive.released()
    assert StartTree in kinds(drive.granted(token=Token(11)))


# --- losing ----------------------------------------------------------------------------------


def test_without_renewals_the_tree_is_asked_to_stop_and_then_killed() -> None:
    """Stop signal at the renew deadline, SIGKILL to everything at lease - margin."""
    drive = running()
    assert drive.after(10 * S, SignalTree) == STOP
    assert drive.is_in(State.STOPPING)
    drive.after(5 * S - MARGIN_NS, KillTree)


def test_stopping_is_irrevocable() -> None:
    """A late renewal moves the kill deadline, and nothing else."""
    drive = running()
    drive.wait(11 * S)
    effects = drive.granted()
    assert only(effects, SetDeadline).kill_at_ns == drive.now_ns + 15 * S - MARGIN_NS
    assert not {SignalTree, StartTree} & kinds(effects)
    assert drive.is_in(State.STOPPING)
    drive.ends_with()
    assert drive.is_in(State.GONE)


def test_a_late_renewal_does_not_extend_the_stop_timeout() -> None:
    """The grace of a stop is bounded from the stop signal on, however long the lease is renewed."""
    drive = running(stop_timeout_s=3)
    drive.ask()
    drive.renew_for(2)
    drive.after(S, KillTree)


def test_a_lock_that_belongs_to_another_kills_at_once() -> None:
    """Loss to another holder is not a missed renewal: there is no grace, not even for a drain."""
    drive = running()
    effects = drive.lost()
    assert KillTree in kinds(effects)
    assert SignalTree not in kinds(effects)
    draining = running()
    draining.ask()
    assert KillTree in kinds(draining.lost())


def test_the_loss_of_another_leadership_is_not_ours() -> None:
    """An old elector's word, or an old token, kills nothing."""
    drive = running()
    assert KillTree not in kinds(drive.lost(token=Token(9)) + drive.lost(generation=0))
    assert drive.is_in(State.RUNNING)


def test_a_loss_before_anything_was_started_is_answered() -> None:
    """The elector waits to hear that there is no tree before it tries again."""
    assert only(campaigning().lost(), AskRelease) == RETRY


def test_after_a_loss_the_campaign_goes_on() -> None:
    """--on-loss=standby: tree dead, lock given back, campaigning again in place."""
    drive = running()
    drive.lost()
    assert only(drive.step(TreeEnded()), AskRelease) == RETRY
    drive.released()
    assert drive.is_in(State.IDLE)


def test_a_release_that_is_not_for_this_leadership_changes_nothing() -> None:
    """Another generation's or another token's release does not let the next tree start."""
    drive = giving_back()
    drive.step(Released(0, TOKEN, retired=False))
    drive.released(token=Token(9))
    drive.released(token=None)
    assert drive.is_in(State.GONE)
    still_running = running()
    still_running.released()
    assert still_running.is_in(State.RUNNING)


def test_a_release_that_is_not_answered_is_asked_for_again() -> None:
    """Whichever message was lost, the candidate does not stand there for ever."""
    effects = giving_back().wait(3 * TIMING.silence_bound_ns)
    assert [e for e in effects if isinstance(e, AskRelease)] == [RETRY] * 3


def test_asking_again_does_not_put_off_leaving() -> None:
    """The nine seconds count from the first time."""
    drive = giving_back()
    drive.wait(8 * S)
    drive.ask()
    assert End in kinds(drive.wait(9 * S))


# --- lateness --------------------------------------------------------------------------------


def test_lateness_is_added_to_the_margin_from_then_on() -> None:
    """Rule 17: a starved guardian kills earlier by as much as it was late."""
    drive = running()
    drive.oversleep(LATE_NS)
    drive.granted()
    assert drive.core.kill_at_ns == drive.now_ns + 15 * S - MARGIN_NS - LATE_NS


def test_the_worst_lateness_counts() -> None:
    """Rule 17: a smaller lateness later does not give time back."""
    drive = running()
    drive.oversleep(LATE_NS)
    drive.oversleep(LATE_NS // 3)
    drive.granted()
    assert drive.core.kill_at_ns == drive.now_ns + 15 * S - MARGIN_NS - LATE_NS


def test_lateness_takes_no_more_than_the_grace() -> None:
    """Rule 17: however late, a child is not stopped before the renew deadline."""
    drive = campaigning()
    drive.oversleep(3600 * S)
    start = only(drive.granted(), StartTree)
    assert start.stop_at_ns == start.kill_at_ns == drive.now_ns + 10 * S


def test_lateness_moves_the_keepers_deadline_too() -> None:
    """Rule 17: "from then on" holds for the process that kills when the guardian hangs."""
    moved = only(running().oversleep(LATE_NS), SetDeadline)
    assert moved.kill_at_ns == START_NS + 15 * S - MARGIN_NS - LATE_NS


def test_a_guardian_that_was_stopped_beyond_its_deadlines_takes_it_for_a_loss() -> None:
    """The keeper has killed meanwhile: that end is not the child's own; the campaign goes on."""
    drive = running()
    drive.now_ns += 40 * S
    drive.ends_with(137)
    assert drive.is_in(State.GONE)
    drive.released()
    assert drive.is_in(State.IDLE)


@pytest.mark.parametrize(
    ("late_ms", "lasts_ms"), [(0, 3900), (200, 3700), (1000, 3000), (3_600_000, 3000)]
)
def test_lateness_leaves_a_short_grant_long_enough_for_the_next_renewal(
    late_ms: int, lasts_ms: int
) -> None:
    """Rule 17 beside short leases: whatever was late, leaderships do not end in their first."""
    timing = Timing(10, 5 * S, 5 * S // 2)
    drive = campaigning(timing=timing)
    drive.oversleep(late_ms * 1_000_000)
    start = only(drive.granted(duration_s=6), StartTree)
    assert start.stop_at_ns == start.kill_at_ns == drive.now_ns + lasts_ms * 1_000_000
    for _ in range(10):
        drive.wait(timing.retry_period_ns)
        drive.granted(duration_s=6)
        assert drive.is_in(State.RUNNING), "a renewal every retry period is enough"
    drive.wait(2 * timing.retry_period_ns)
    assert not drive.is_in(State.RUNNING)


# --- requests to stop --------------------------------------------------------------------------


def test_a_request_to_stop_before_the_grant_starts_nothing() -> None:
    """Rule 14: TERM before spawn means no spawn, and the lock is resigned."""
    drive = campaigning()
    drive.ask()
    assert StartTree not in kinds(drive.granted())


def test_the_child_is_sent_what_a_request_says() -> None:
    """A request says which signal it becomes; what the child leaves gets the stop signal."""
    drive = running()
    effects = drive.step(StopAsked(INT, USR1, kill=False))
    assert only(effects, SignalTree) == SignalTree(USR1, Scope.CHILD, stop=True)
    assert only(drive.step(ChildEnded(0)), SignalTree) == STOP_ALL
    assert only(running(signal_group=True).ask(), SignalTree).scope is Scope.GROUP


def test_while_a_tree_drains_the_lock_is_not_given_back() -> None:
    """G2: only the end of the last process makes us ask for the release."""
    drive = running()
    effects = drive.ask() + drive.renew_for(5) + drive.step(ChildEnded(0)) + drive.wait(S)
    assert AskRelease not in kinds(effects)
    assert only(drive.step(TreeEnded()), AskRelease) == LEAVE


def test_a_drain_is_bounded_by_the_stop_timeout() -> None:
    """With renewals coming, the tree may drain for --stop-timeout and is killed then."""
    drive = running(stop_timeout_s=20)
    effects = drive.ask() + drive.renew_for(19)
    assert KillTree not in kinds(effects)
    assert KillTree in kinds(drive.wait(S))
    assert KillTree in kinds(running(stop_timeout_s=0).ask()), "no time means no grace"


def test_a_drain_is_bounded_by_the_lease_when_renewals_fail() -> None:
    """The kill deadline of the last grant holds, however long --stop-timeout is."""
    drive = running(stop_timeout_s=3600)
    drive.ask()
    drive.after(15 * S - MARGIN_NS, KillTree)


def test_a_second_interrupt_kills_and_a_second_term_is_forwarded() -> None:
    """Ctrl-C twice is meant; what a repeated SIGTERM means the child decides."""
    drive = running()
    drive.ask()
    assert only(drive.ask(), SignalTree) == SignalTree(TERM, Scope.CHILD, stop=False)
    assert drive.is_in(State.STOPPING)
    assert KillTree in kinds(drive.ask(INT, kill=True))
    overdue = running()
    overdue.wait(10 * S)
    assert SignalTree not in kinds(overdue.ask()), "the stop signal comes once"


def test_we_leave_without_the_electors_answer_after_a_while() -> None:
    """An elector that never answers does not hold the exit for ever; then nothing happens twice."""
    drive = running()
    drive.ask()
    drive.ends_with(4)
    assert drive.after(9 * S, End).exit_code == 4
    assert not drive.ask()
    assert not drive.step(ElectorEnded(1))
    assert drive.core.wake_at_ns is None


def test_other_signals_reach_a_leaders_child_only() -> None:
    """A standby ignores HUP, USR1, USR2, which a leader forwards."""
    drive = campaigning()
    assert SignalTree not in kinds(drive.step(SignalArrived(HUP)))
    drive.granted()
    assert only(drive.step(SignalArrived(USR1)), SignalTree).signum == USR1
    drive.ask()
    forwarded = only(drive.step(SignalArrived(HUP)), SignalTree)
    assert forwarded == SignalTree(HUP, Scope.CHILD, stop=False)
    drive.lost()
    assert SignalTree not in kinds(drive.step(SignalArrived(HUP)))


# --- how it ends -------------------------------------------------------------------------------

_EXIT: Final = {"on_loss": OnLoss.EXIT}
_REMAPS: Final = {"remap_exits": {143: 0, 7: 3, 75: 0, 124: 0}}
_AT_ONCE: Final = {"campaign_timeout_ns": 0}


def _overdue(drive: Drive) -> None:
    drive.wait(10 * S)


@pytest.mark.parametrize(
    ("changes", "events", "end"),
    [
        ({}, [Drive.ends_with], End(0, "")),
        ({}, [lambda d: d.ends_with(139)], End(139, "")),
        ({}, [Drive.ask, lambda d: d.ends_with(7)], End(7, "")),
        (
            {},
            [lambda d: d.step(ChildEnded(3)), Drive.ask, lambda d: d.step(TreeEnded())],
            End(3, ""),
        ),
        (_EXIT, [lambda d: d.step(ChildEnded(3)), Drive.lost, Drive.ends_with], End(3, "")),
        ({}, [_overdue, Drive.ask, lambda d: d.ends_with(5)], End(5, "")),
        ({}, [Drive.lost, Drive.ask, lambda d: d.ends_with(137)], End(137, "")),
        ({}, [Drive.lost, Drive.ends_with, Drive.ask, lambda d: d.ask(INT)], End(143, "")),
        (_EXIT, [Drive.lost, Drive.ends_with], End(LOST_EXIT, "leadership lost")),
        (_EXIT, [_overdue, lambda d: d.ends_with(143)], End(LOST_EXIT, "leadership lost")),
        (
            _EXIT,
            [lambda d: d.step(KeeperDied()), lambda d: d.step(TreeEnded())],
            End(LOST_EXIT, "leadership lost"),
        ),
        (
            _EXIT,
            [lambda d: d.step(NotStarted()), lambda d: d.ends_with(127)],
            End(LOST_EXIT, "leadership lost"),
        ),
        (_REMAPS, [lambda d: d.ends_with(7)], End(3, "")),
        (_REMAPS, [Drive.lost, Drive.ends_with, Drive.ask], End(0, "")),
        (_EXIT | _REMAPS, [Drive.lost, Drive.ends_with], End(LOST_EXIT, "leadership lost")),
        ({}, [lambda d: d.ends_with(75)], End(75, "")),
    ],
    ids=[
        "the child ends",
        "the child is killed by a signal",
        "a request, then the child's own code",
        "a request while leftovers stop",
        "a loss after the child's own end",
        "a request after a missed renewal",
        "a request while it is killed",
        "two requests while giving back",
        "a loss",
        "a missed renewal",
        "a dead keeper",
        "a child whose time was over before it began",
        "a remapped code of the child",
        "a remapped code of a request",
        "the code of a loss is never remapped",
        "a child's 75 is not the loss's",
    ],
)
def test_the_exit_code_is_of_what_ended_the_run_first(
    changes: dict[str, Any], events: list[Callable[[Drive], object]], end: End
) -> None:
    """The lock is given back for good, the code is the child's or says what ended the run."""
    drive = running(**changes)
    for event in events:
        event(drive)
    asked = [effect for effect in drive.effects if isinstance(effect, AskRelease)]
    assert asked[-1] == LEAVE
    assert drive.left_with() == end


def test_a_child_that_never_ran_is_a_loss() -> None:
    """Where no tree could be started the lock is given back and the campaign goes on."""
    for refused in (False, True):
        drive = running()
        if refused:
            drive.step(NotStarted())
            drive.step(ChildEnded(127))
        assert only(drive.step(TreeEnded()), AskRelease) == RETRY
        drive.released()
        assert drive.is_in(State.IDLE)


def test_what_a_child_leaves_behind_is_stopped_and_then_killed() -> None:
    """Rule 14: leftovers get the stop signal, then the rest of the grace, then SIGKILL."""
    drive = running(stop_timeout_s=5)
    assert only(drive.step(ChildEnded(0)), SignalTree) == STOP_ALL
    drive.after(5 * S, KillTree)


def test_leftovers_of_a_stopped_child_get_the_stop_signal() -> None:
    """The direct child is gone first, then everything else hears of it."""
    drive = running()
    drive.ask()
    drive.wait(S)
    assert only(drive.step(ChildEnded(0)), SignalTree) == STOP_ALL
    assert SignalTree not in kinds(drive.step(ChildEnded(9)))


def test_the_end_of_a_tree_or_keeper_that_is_not_there_is_ignored() -> None:
    """A second word about the same end changes nothing."""
    drive = campaigning()
    effects = drive.step(TreeEnded()) + drive.step(KeeperDied())
    assert not {AskRelease, TakeOver} & kinds(effects)
    assert drive.is_in(State.IDLE)


# --- the campaign ------------------------------------------------------------------------------


@pytest.mark.parametrize("has_child", [True, False])
def test_a_campaign_is_given_up_after_its_timeout(has_child: bool) -> None:
    """--timeout: 124, which is never remapped, and whatever was tried is given back."""
    drive = campaigning(campaign_timeout_ns=30 * S, has_child=has_child, **_REMAPS)
    assert drive.after(30 * S, AskRelease) == AskRelease(None, retire=True)
    assert drive.left_with() == End(TIMEOUT_EXIT, "not leader within --timeout")


def test_with_timeout_zero_one_try_decides() -> None:
    """--timeout=0: the first try that does not make us leader ends it with 124."""
    drive = campaigning(**_AT_ONCE)
    drive.wait(60 * S)
    assert drive.is_in(State.IDLE)
    drive.step(Stood())
    assert drive.left_with().exit_code == TIMEOUT_EXIT
    leader = running(**_AT_ONCE)
    leader.step(Stood())
    assert leader.is_in(State.RUNNING), "once leader, nobody counts tries any more"
    patient = campaigning()
    patient.step(Stood())
    patient.wait(3600 * S)
    assert patient.is_in(State.IDLE), "without a timeout standing by goes on"


def test_a_campaign_after_a_loss_has_all_of_its_timeout() -> None:
    """The time spent leading does not count."""
    drive = running(campaign_timeout_ns=30 * S)
    drive.wait(9 * S)
    drive.lost()
    drive.step(TreeEnded())
    drive.released()
    drive.after(30 * S, AskRelease)


# --- the elector's life ------------------------------------------------------------------------


def test_a_dead_elector_is_followed_at_once() -> None:
    """It may renew in time for the child to run on: the same token extends the tree."""
    drive = Drive()
    assert only(drive.step(), StartElector).generation == 1
    drive.granted()
    drive.wait(S)
    effects = drive.step(ElectorEnded(1))
    assert only(effects, StartElector).generation == 2
    assert drive.is_in(State.RUNNING)
    assert AskRelease not in kinds(effects)
    assert StartElector not in kinds(drive.step(ElectorEnded(1))), "old news"
    assert SetDeadline in kinds(drive.granted(generation=2))


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


def test_a_successor_is_told_of_a_release_that_is_due() -> None:
    """An elector that dies while giving back is followed by one that is asked to."""
    assert only(giving_back().step(ElectorEnded(1)), AskRelease) == RETRY


@pytest.mark.parametrize("has_child", [True, False])
def test_a_silent_elector_of_a_leader_is_killed(has_child: bool) -> None:
    """Stopped or hung: after the silence bound it is killed, and its successor starts."""
    drive = running(has_child=has_child)
    drive.elector_beats = False
    bound_s = (TIMING.silence_bound_ns + 2 * TIMING.heartbeat_ns) // S
    assert KillElector in kinds(drive.renew_for(bound_s))
    assert KillElector not in kinds(drive.wait(S))
    assert StartElector in kinds(drive.step(ElectorEnded(1)))


@pytest.mark.parametrize("come_to", [campaigning, giving_back])
def test_a_silent_elector_of_a_standby_is_killed(come_to: Callable[[], Drive]) -> None:
    """A standby whose elector hangs would never lead again."""
    drive = come_to()
    drive.elector_beats = False
    assert KillElector in kinds(drive.wait(10 * TIMING.silence_bound_ns))


def test_a_beat_of_an_older_elector_is_no_sign_of_life() -> None:
    """What the dead one had sent does not excuse its silent successor."""
    drive = running()
    drive.step(ElectorEnded(1))
    drive.elector_beats = False
    for _ in range(14):
        drive.wait(S)
        drive.step(ElectorHeard(1))
    assert KillElector in kinds(drive.effects)


@pytest.mark.parametrize("pause_s", [5, 9, 12, 20, 3600])
def test_a_pause_of_our_own_does_not_make_the_elector_silent(pause_s: int) -> None:
    """After a suspend everybody has been silent; that proves nothing."""
    drive = campaigning()
    drive.now_ns += pause_s * S
    assert KillElector not in kinds(drive.step())


# --- the keeper's life -------------------------------------------------------------------------


def test_the_keeper_is_asked_for_signs_of_life() -> None:
    """A ping every heartbeat while a tree runs."""
    assert running().renew_for(20).count(PingKeeper()) == 10


def test_a_silent_keeper_is_replaced_by_us() -> None:
    """A stopped keeper cannot kill: it is told to, then killed, and its tree falls to us."""
    drive = running()
    drive.keeper_answers = False
    effects = drive.renew_for((TIMING.silence_bound_ns + 2 * TIMING.heartbeat_ns) // S)
    assert {KillTree, TakeOver} <= kinds(effects)
    assert drive.is_in(State.KILLING)


def test_a_dead_keepers_tree_falls_to_us() -> None:
    """What a killed keeper leaves is killed before anything else is believed."""
    drive = running()
    effects = drive.step(KeeperDied())
    assert TakeOver in kinds(effects)
    assert AskRelease not in kinds(effects)
    assert AskRelease in kinds(drive.step(TreeEnded()))


def test_a_keeper_that_died_while_killing_is_taken_over_from() -> None:
    """What it leaves has fallen to us only now, even if we had begun before."""
    drive = running()
    drive.lost()
    assert TakeOver in kinds(drive.wait(S))
    assert TakeOver in kinds(drive.step(KeeperDied()))
    assert TakeOver not in kinds(drive.wait(S))


def test_a_keeper_that_does_not_kill_in_time_is_taken_over_from() -> None:
    """Told to kill, it has half a second: the margin must pay for both ways."""
    drive = running()
    drive.lost()
    drive.after(S // 2, TakeOver)


# --- without a child -----------------------------------------------------------------------------

#: What concerns a tree, which is not there.
_TREES: Final = {StartTree, PingKeeper, TakeOver}


def sidecar(**changes: Any) -> Drive:
    """Return a candidate without a child that has an elector."""
    return campaigning(has_child=False, **changes)


def leading(**changes: Any) -> Drive:
    """Return one that leads."""
    return running(has_child=False, **changes)


def leads(drive: Drive) -> bool:
    """Whether it would say so."""
    return drive.is_in(State.RUNNING) and (drive.core.renew_by_ns or 0) > drive.now_ns


def test_a_grant_without_a_child_is_a_leadership_without_a_tree() -> None:
    """It leads as soon as it is granted, and says who does; no keeper is asked for anything."""
    drive = sidecar()
    assert (drive.core.renew_by_ns, leads(drive)) == (None, False)
    drive.granted()
    assert "leader is a" in [e.event for e in drive.effects if isinstance(e, Note)]
    for _ in range(30):
        assert drive.core.renew_by_ns == drive.now_ns + 10 * S
        drive.wait(2 * S)
        drive.granted()
        drive.step(SignalArrived(USR1))  # there is nobody to pass it on to
        assert leads(drive)
    assert not (_TREES | {AskRelease}) & kinds(drive.effects)


def test_without_renewals_a_leadership_without_a_child_is_over_at_once() -> None:
    """At the renew deadline nothing has to be stopped: the lock is given back in the same step."""
    drive = leading()
    assert AskRelease not in kinds(drive.wait(10 * S - 1))
    assert leads(drive)
    assert only(drive.wait(1), AskRelease) == RETRY
    assert drive.is_in(State.GONE)
    drive.granted()
    assert drive.is_in(State.GONE), "irrevocable"
    drive.released()
    assert drive.is_in(State.IDLE)
    drive.granted(token=Token(11))
    assert leads(drive)


def test_a_guardian_that_was_stopped_beyond_the_deadline_does_not_say_that_it_leads() -> None:
    """The time that has passed counts before anything else is believed."""
    drive = leading()
    drive.now_ns += 40 * S
    assert not leads(drive), "whoever looks at the time knows, before we run again"
    assert only(drive.step(), AskRelease) == RETRY


def test_a_loss_without_a_child_is_over_at_once() -> None:
    """Held by another: gone in the same step, and then a standby again."""
    drive = leading()
    assert only(drive.lost(), AskRelease) == RETRY
    assert not _TREES & kinds(drive.effects)
    drive.released()
    assert drive.is_in(State.IDLE)
    assert drive.core.renew_by_ns is None


@pytest.mark.parametrize("lose", [Drive.lost, _overdue])
def test_with_on_loss_exit_a_loss_without_a_child_ends_with_75(
    lose: Callable[[Drive], object],
) -> None:
    """--on-loss=exit, for another holder as for a missed renewal."""
    drive = leading(on_loss=OnLoss.EXIT)
    lose(drive)
    assert drive.left_with().exit_code == LOST_EXIT


def _lose_electors(drive: Drive) -> None:
    drive.step(ElectorEnded(1))
    drive.step(ElectorEnded(2))


@pytest.mark.parametrize("signum", [HUP, INT, QUIT, TERM])
@pytest.mark.parametrize("kill", [False, True])
@pytest.mark.parametrize(
    ("has_child", "before"),
    [
        (True, []),
        (False, []),
        (False, [Drive.granted]),
        (False, [Drive.granted, Drive.lost]),
        (False, [Drive.granted, _lose_electors]),
    ],
    ids=["standby with a child", "standby", "leading", "giving back", "leading without an elector"],
)
def test_a_request_to_stop_without_a_tree_ends_with_128_plus_n(
    has_child: bool, before: list[Callable[[Drive], object]], signum: int, kill: bool
) -> None:
    """In each state: the lock is given back for good, and the signal decides the code."""
    drive = campaigning(has_child=has_child)
    for event in before:
        event(drive)
    effects = drive.ask(signum, kill=kill)
    assert drive.is_in(State.GONE)
    assert AskRelease in kinds(effects)
    assert all(e.retire for e in effects if isinstance(e, AskRelease))
    assert not leads(drive)
    assert not {AskRelease, End} & kinds(drive.ask(TERM)), "once is enough"
    drive.released()
    assert drive.is_in(State.GONE)
    assert drive.left_with().exit_code == 128 + signum
    assert not drive.ask(signum)


def test_a_request_to_stop_after_the_deadline_still_ends_with_128_plus_n() -> None:
    """We were stopped, the lease ran out, and the first thing that we hear is TERM."""
    drive = leading(on_loss=OnLoss.EXIT)
    drive.now_ns += 60 * S
    drive.ask()
    assert drive.left_with().exit_code == 143


def test_an_elector_that_is_killed_costs_a_leadership_without_a_child_nothing() -> None:
    """Its heir renews in time; one that does not is a missed renewal."""
    drive = leading()
    drive.wait(S)
    assert only(drive.step(ElectorEnded(1)), StartElector).generation == 2
    assert leads(drive)
    drive.wait(S)
    drive.granted()
    assert drive.core.renew_by_ns == drive.now_ns + 10 * S
    drive.step(ElectorEnded(2))
    assert RETRY in drive.wait(10 * S)
    effects = drive.step(ElectorEnded(3)) + drive.wait(S)
    assert only(effects, AskRelease) == RETRY, "of its heir"


def test_a_late_wake_up_shortens_a_leadership_without_a_child_by_nothing_but_its_grace() -> None:
    """Rule 17 takes from the grace on loss, which a leadership without a child does not use."""
    drive = leading()
    drive.oversleep(LATE_NS)
    assert drive.core.renew_by_ns == START_NS + 10 * S


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
        drive = sidecar()
        for event in order:
            event(drive)
            seen.append(drive.core.state)
    assert set(seen) == {State.IDLE, State.RUNNING, State.GONE, State.ENDED}
