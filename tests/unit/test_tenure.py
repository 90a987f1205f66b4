"""Tests of the guardian's decisions, one rule each, on one core driven by hand in virtual time.

Owns the drive: a core, a clock that only the test moves, and short ways to make events. What the
processes would do with the effects is the simulation's business.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Final, TypeVar

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
    from collections.abc import Callable, Mapping

TIMING: Final = Timing()
MARGIN_NS: Final = TIMING.margin_ns
START_NS: Final = 1_000 * SECOND_NS
HUP, INT, USR1, TERM = 1, 2, 10, 15
TOKEN: Final = Token(10)

T = TypeVar("T")


class Drive:
    """One tenure core and its clock; both peers are heard all the time unless they are silent."""

    def __init__(
        self,
        *,
        timing: Timing = TIMING,
        stop_timeout_s: int = 20,
        on_loss: OnLoss = OnLoss.STANDBY,
        campaign_timeout_ns: int | None = None,
        signal_group: bool = False,
        remap_exits: Mapping[int, int] | None = None,
        has_child: bool = True,
    ) -> None:
        self.now_ns = START_NS
        self.elector_beats = True
        self.keeper_answers = True
        self.core = Tenure(
            timing=timing,
            stop_signal=TERM,
            stop_timeout_ns=stop_timeout_s * SECOND_NS,
            on_loss=on_loss,
            campaign_timeout_ns=campaign_timeout_ns,
            signal_group=signal_group,
            remap_exits=remap_exits,
            now_ns=self.now_ns,
            has_child=has_child,
        )
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
        return Granted(
            Grant(
                generation=self.core.generation if generation is None else generation,
                token=token,
                uid="u1",
                claim=Claim("a", 0, 0),
                renewed_at_ns=sent_ns,
                expires_at_ns=sent_ns + duration_s * SECOND_NS,
            )
        )

    def run(self) -> StartTree:
        """Start an elector and, with its first grant, a tree."""
        self.step()
        return only(self.step(self.grant()), StartTree)

    def lost(self, token: Token = TOKEN, generation: int | None = None) -> list[Effect]:
        generation = self.core.generation if generation is None else generation
        return self.step(LeadershipLost(generation, token, "held by b"))

    def ask(self, signum: int = TERM, *, kill: bool = False) -> list[Effect]:
        return self.step(StopAsked(signum, TERM, kill))

    def released(self, *, retired: bool = False, token: Token | None = TOKEN) -> list[Effect]:
        return self.step(Released(self.core.generation, token, retired))

    def ends_with(self, exit_code: int = 0) -> list[Effect]:
        """The child and then its tree end."""
        effects = self.step(ChildEnded(exit_code))
        return effects + self.step(TreeEnded())


def only(effects: list[Effect], kind: type[T]) -> T:
    """Return the one effect of this kind."""
    found = [e for e in effects if isinstance(e, kind)]
    assert len(found) == 1, f"not one {kind.__name__} in {effects}"
    return found[0]


def kinds(effects: list[Effect]) -> set[type]:
    return {type(e) for e in effects}


def running(**changes: object) -> Drive:
    drive = Drive(**changes)  # type: ignore[arg-type]
    drive.run()
    return drive


# --- the table -------------------------------------------------------------------------------


def _scripts() -> list[Callable[[Drive], object]]:
    """Ways through a tenure that together take every transition."""

    def stopped(drive: Drive) -> None:
        drive.ask()
        drive.ends_with()
        drive.released(retired=True)

    def overdue(drive: Drive) -> None:
        drive.wait(15 * SECOND_NS)
        drive.ends_with()
        drive.released()

    def killed(drive: Drive) -> None:
        drive.ask(INT)
        drive.ask(INT, kill=True)

    def lost_while_stopping(drive: Drive) -> None:
        drive.ask()
        drive.lost()

    def keeper_fails_while_stopping(drive: Drive) -> None:
        drive.ask()
        drive.step(KeeperDied())

    return [
        stopped,
        overdue,
        killed,
        lost_while_stopping,
        keeper_fails_while_stopping,
        lambda drive: drive.lost(),
        lambda drive: drive.step(KeeperDied()),
        lambda drive: drive.step(TreeEnded()),
        lambda drive: drive.step(ChildEnded(0)),
    ]


def test_every_transition_of_the_table_is_reached() -> None:
    """No line of the table is dead: each is taken by a sequence of lawful events."""
    taken: set[tuple[State, Cause]] = set()

    class Spy(Drive):
        def step(self, event: Event | None = None) -> list[Effect]:
            effects = super().step(event)
            for note in effects:
                if isinstance(note, Note) and "before" in note.fields:
                    taken.add((State(note.fields["before"]), Cause(note.fields["reason"])))
            return effects

    for script in _scripts():
        drive = Spy()
        drive.run()
        script(drive)
    asked = Spy()
    asked.step()
    asked.ask()
    impatient = Spy(campaign_timeout_ns=SECOND_NS)
    impatient.step()
    impatient.wait(2 * SECOND_NS)
    assert taken == set(TRANSITIONS)


def test_what_the_table_does_not_name_raises_and_changes_nothing() -> None:
    """Every pair outside of the table is refused in every state."""
    for state, cause in set(product(State, Cause)) - set(TRANSITIONS):
        core = Drive().core
        core.state = state
        with pytest.raises(IllegalTransition, match=f"{state.value}: "):
            core._move(cause)
        assert core.state is state


def test_a_tree_without_a_grant_is_a_contradiction() -> None:
    """The invariants see a tree that nobody allowed."""
    core = Drive().core
    core.state = State.RUNNING
    with pytest.raises(AssertionError, match="without a grant"):
        core.check_invariants()


def test_a_tree_that_would_outlive_its_lease_is_a_contradiction() -> None:
    """The invariants see a kill deadline inside the margin."""
    drive = running()
    drive.core._kill_at_ns += 1
    with pytest.raises(AssertionError, match="outlive its lease"):
        drive.core.check_invariants()


def test_a_kill_before_the_stop_is_a_contradiction() -> None:
    """The invariants see a tree that would never be asked to stop."""
    drive = running()
    drive.core._stop_at_ns = drive.core._kill_at_ns + 1
    with pytest.raises(AssertionError, match="before it is asked"):
        drive.core.check_invariants()


def test_a_grant_kept_while_idle_is_a_contradiction() -> None:
    """The invariants see a grant of a leadership that was given back."""
    drive = running()
    drive.core.state = State.IDLE
    with pytest.raises(AssertionError, match="nobody uses"):
        drive.core.check_invariants()


# --- grants ----------------------------------------------------------------------------------


def test_a_grant_starts_a_tree_with_both_deadlines() -> None:
    """Stop at t0 + renew deadline, kill at t0 + lease duration - margin."""
    start = Drive().run()
    assert start.stop_at_ns == START_NS + 10 * SECOND_NS
    assert start.kill_at_ns == START_NS + 15 * SECOND_NS - MARGIN_NS


def test_a_grant_counts_from_when_its_renewal_was_sent() -> None:
    """However late the grant arrives, its deadlines are those of the sending."""
    drive = Drive()
    drive.step()
    grant = drive.grant()
    drive.wait(4 * SECOND_NS)
    assert only(drive.step(grant), StartTree).stop_at_ns == START_NS + 10 * SECOND_NS


def test_a_grant_that_arrives_after_its_stop_deadline_starts_nothing() -> None:
    """Rule 7: what has passed is ignored; the next renewal brings another."""
    drive = Drive()
    drive.step()
    late = drive.grant(sent_ns=START_NS - 10 * SECOND_NS)
    assert StartTree not in kinds(drive.step(late))
    assert drive.is_in(State.IDLE)
    assert StartTree in kinds(drive.step(drive.grant()))


def test_a_grant_of_another_generation_is_ignored() -> None:
    """Rule 7: only the present elector's word counts, whatever the dead one had sent."""
    drive = Drive()
    drive.step()
    drive.step(drive.grant(generation=0))
    assert drive.is_in(State.IDLE)
    drive.run()
    held = drive.core.grant
    drive.wait(SECOND_NS)
    drive.step(drive.grant(generation=7))
    assert drive.core.grant == held


def test_a_renewal_moves_both_deadlines_and_tells_the_keeper() -> None:
    """A running tree goes on as long as renewals come in time."""
    drive = running()
    for _ in range(20):
        drive.wait(2 * SECOND_NS)
        moved = only(drive.step(drive.grant()), SetDeadline)
        assert moved.kill_at_ns == drive.now_ns + 15 * SECOND_NS - MARGIN_NS
    assert drive.is_in(State.RUNNING)


def test_a_grant_that_is_not_later_is_ignored() -> None:
    """Rule 7: T not above the present T changes nothing."""
    drive = running()
    drive.wait(SECOND_NS)
    assert SetDeadline not in kinds(drive.step(drive.grant(sent_ns=START_NS)))
    assert SetDeadline not in kinds(drive.step(drive.grant(sent_ns=START_NS - 1)))


def test_a_grant_that_has_expired_is_ignored() -> None:
    """Rule 7: T in the past extends nothing, even if it is later than the present T."""
    drive = running()
    drive.ask()
    drive.now_ns += 60 * SECOND_NS
    held = drive.core.grant
    drive.step(drive.grant(sent_ns=START_NS + 5 * SECOND_NS))
    assert drive.core.grant == held


def test_another_leaderships_grant_never_extends_a_running_tree() -> None:
    """Rule 7: another token is another leadership, with another child to start."""
    drive = running()
    drive.wait(SECOND_NS)
    effects = drive.step(drive.grant(token=Token(11)))
    assert not {SetDeadline, StartTree} & kinds(effects)


def test_no_second_tree_is_started_beside_the_first() -> None:
    """One guardian, one tree at a time: not while running, nor before the lock is given back."""
    drive = running()
    assert StartTree not in kinds(drive.step(drive.grant()))
    drive.lost()
    assert StartTree not in kinds(drive.step(drive.grant(token=Token(11))))
    drive.step(TreeEnded())
    assert StartTree not in kinds(drive.step(drive.grant(token=Token(11))))
    drive.released()
    assert StartTree in kinds(drive.step(drive.grant(token=Token(11))))


# --- losing ----------------------------------------------------------------------------------


def test_without_renewals_the_tree_is_asked_to_stop_and_then_killed() -> None:
    """Stop signal at the renew deadline, SIGKILL to everything at lease - margin."""
    drive = running()
    assert SignalTree not in kinds(drive.wait(10 * SECOND_NS - 1))
    assert only(drive.wait(1), SignalTree) == SignalTree(TERM, Scope.CHILD, stop=True)
    assert drive.is_in(State.STOPPING)
    assert KillTree not in kinds(drive.wait(5 * SECOND_NS - MARGIN_NS - 1))
    assert KillTree in kinds(drive.wait(1))


def test_stopping_is_irrevocable() -> None:
    """A late renewal moves the kill deadline, and nothing else."""
    drive = running()
    drive.wait(10 * SECOND_NS)
    drive.wait(SECOND_NS)
    effects = drive.step(drive.grant())
    assert only(effects, SetDeadline).kill_at_ns == drive.now_ns + 15 * SECOND_NS - MARGIN_NS
    assert not {SignalTree, StartTree} & kinds(effects)
    assert drive.is_in(State.STOPPING)
    drive.ends_with()
    assert drive.is_in(State.GONE)


def test_a_late_renewal_does_not_extend_the_stop_timeout() -> None:
    """The grace of a stop is bounded from the stop signal on, however long the lease is renewed."""
    drive = running(stop_timeout_s=3)
    drive.ask()
    for _ in range(2):
        drive.wait(SECOND_NS)
        drive.step(drive.grant())
    assert KillTree not in kinds(drive.wait(SECOND_NS - 1))
    assert KillTree in kinds(drive.wait(1))


def test_a_lock_that_belongs_to_another_kills_at_once() -> None:
    """Loss to another holder is not a missed renewal: there is no grace."""
    drive = running()
    effects = drive.lost()
    assert KillTree in kinds(effects)
    assert SignalTree not in kinds(effects)


def test_a_loss_while_draining_kills_at_once() -> None:
    """A tree that was asked to stop has no more right to another's lease than a running one."""
    drive = running()
    drive.ask()
    assert KillTree in kinds(drive.lost())


def test_the_loss_of_another_leadership_is_not_ours() -> None:
    """An old elector's word, or an old token, kills nothing."""
    drive = running()
    assert KillTree not in kinds(drive.lost(token=Token(9)))
    assert KillTree not in kinds(drive.lost(generation=0))
    assert drive.is_in(State.RUNNING)


def test_a_loss_before_anything_was_started_is_answered() -> None:
    """The elector waits to hear that there is no tree before it tries again."""
    drive = Drive()
    drive.step()
    assert only(drive.lost(), AskRelease) == AskRelease(TOKEN, retire=False)


def test_after_a_loss_the_campaign_goes_on() -> None:
    """--on-loss=standby: tree dead, lock given back, campaigning again in place."""
    drive = running()
    drive.lost()
    effects = drive.step(TreeEnded())
    assert only(effects, AskRelease) == AskRelease(TOKEN, retire=False)
    drive.released()
    assert drive.is_in(State.IDLE)


@pytest.mark.parametrize("child", [0, 3, 137, 143])
def test_with_on_loss_exit_a_loss_ends_with_75_whatever_the_child_returned(child: int) -> None:
    """--on-loss=exit: 75 for a missed renewal as for another holder."""
    for lose in (Drive.lost, lambda drive: drive.wait(10 * SECOND_NS)):
        drive = running(on_loss=OnLoss.EXIT)
        lose(drive)
        drive.step(ChildEnded(child))
        assert only(drive.step(TreeEnded()), AskRelease).retire
        assert only(drive.released(retired=True), End).exit_code == LOST_EXIT


def test_a_release_that_is_not_for_this_leadership_changes_nothing() -> None:
    """Another generation's or another token's release does not let the next tree start."""
    drive = running()
    drive.lost()
    drive.step(TreeEnded())
    drive.step(Released(0, TOKEN, retired=False))
    drive.released(token=Token(9))
    drive.released(token=None)
    assert drive.is_in(State.GONE)


def test_a_release_that_is_not_answered_is_asked_for_again() -> None:
    """Whichever message was lost, the candidate does not stand there for ever."""
    drive = running()
    drive.lost()
    drive.step(TreeEnded())
    effects = drive.wait(3 * TIMING.silence_bound_ns)
    assert [e for e in effects if isinstance(e, AskRelease)] == [
        AskRelease(TOKEN, retire=False)
    ] * 3


def test_asking_again_does_not_put_off_leaving() -> None:
    """The nine seconds count from the first time."""
    drive = running()
    drive.lost()
    drive.step(TreeEnded())
    drive.wait(8 * SECOND_NS)
    drive.ask()
    assert End in kinds(drive.wait(9 * SECOND_NS))


def test_a_release_out_of_the_blue_changes_nothing() -> None:
    """While a tree runs nothing was asked to be released."""
    drive = running()
    drive.released()
    assert drive.is_in(State.RUNNING)


# --- lateness --------------------------------------------------------------------------------


def test_lateness_is_added_to_the_margin_from_then_on() -> None:
    """Rule 17: a starved guardian kills earlier by as much as it was late."""
    drive = running()
    assert drive.core.wake_at_ns is not None
    drive.now_ns = drive.core.wake_at_ns + 300_000_000
    drive.step()
    drive.step(drive.grant())
    assert drive.core.kill_at_ns == drive.now_ns + 15 * SECOND_NS - MARGIN_NS - 300_000_000


def test_the_worst_lateness_counts() -> None:
    """Rule 17: a smaller lateness later does not give time back."""
    drive = running()
    for late_ns in (300_000_000, 100_000_000):
        assert drive.core.wake_at_ns is not None
        drive.now_ns = drive.core.wake_at_ns + late_ns
        drive.step()
    drive.step(drive.grant())
    assert drive.core.kill_at_ns == drive.now_ns + 15 * SECOND_NS - MARGIN_NS - 300_000_000


def test_lateness_takes_no_more_than_the_grace() -> None:
    """Rule 17: however late, a child is not stopped before the renew deadline."""
    drive = Drive()
    drive.step()
    drive.now_ns += 3600 * SECOND_NS
    drive.step()
    start = only(drive.step(drive.grant()), StartTree)
    assert start.stop_at_ns == start.kill_at_ns == drive.now_ns + 10 * SECOND_NS


def test_lateness_moves_the_keepers_deadline_too() -> None:
    """Rule 17: "from then on" holds for the process that kills when the guardian hangs."""
    drive = running()
    assert drive.core.wake_at_ns is not None
    drive.now_ns = drive.core.wake_at_ns + 300_000_000
    moved = only(drive.step(), SetDeadline)
    assert moved.kill_at_ns == START_NS + 15 * SECOND_NS - MARGIN_NS - 300_000_000


def test_a_guardian_that_was_stopped_beyond_its_deadlines_takes_it_for_a_loss() -> None:
    """The keeper has killed meanwhile: that end is not the child's own; the campaign goes on."""
    drive = running()
    drive.now_ns += 40 * SECOND_NS
    drive.step(ChildEnded(137))
    drive.step(TreeEnded())
    assert drive.is_in(State.GONE)
    drive.released()
    assert drive.is_in(State.IDLE)


def test_lateness_leaves_a_short_grant_long_enough_for_the_next_renewal() -> None:
    """Rule 17 beside short peers: whatever was late once, leaderships do not end in their first."""
    timing = Timing(10, 5 * SECOND_NS, 5 * SECOND_NS // 2)
    for late_ms, lasts_ms in ((0, 3900), (200, 3700), (1000, 3000), (3_600_000, 3000)):
        drive = Drive(timing=timing)
        drive.step()
        assert drive.core.wake_at_ns is not None
        drive.now_ns = drive.core.wake_at_ns + late_ms * 1_000_000
        drive.step()
        start = only(drive.step(drive.grant(duration_s=6)), StartTree)
        assert start.stop_at_ns == start.kill_at_ns == drive.now_ns + lasts_ms * 1_000_000
        for _ in range(10):
            drive.wait(timing.retry_period_ns)
            drive.step(drive.grant(duration_s=6))
            assert drive.is_in(State.RUNNING), "a renewal every retry period is enough"
        drive.wait(2 * timing.retry_period_ns)
        assert not drive.is_in(State.RUNNING)


# --- requests to stop --------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [TERM, INT, 3])
def test_a_standby_that_is_asked_to_stop_ends_with_128_plus_n(signum: int) -> None:
    """Nothing runs: the elector is asked to withdraw, then we leave."""
    drive = Drive()
    drive.step()
    assert only(drive.ask(signum), AskRelease) == AskRelease(None, retire=True)
    assert only(drive.released(retired=True, token=None), End).exit_code == 128 + signum
    assert drive.is_in(State.ENDED)


def test_a_request_to_stop_before_the_grant_starts_nothing() -> None:
    """Rule 14: TERM before spawn means no spawn, and the lock is resigned."""
    drive = Drive()
    drive.step()
    drive.ask()
    assert StartTree not in kinds(drive.step(drive.grant()))


def test_the_childs_own_code_is_returned_after_a_requested_stop() -> None:
    """A leader that is asked to stop returns what its child made of it."""
    drive = running()
    effects = drive.ask()
    assert only(effects, SignalTree) == SignalTree(TERM, Scope.CHILD, stop=True)
    assert only(drive.ends_with(7), AskRelease) == AskRelease(TOKEN, retire=True)
    assert only(drive.released(retired=True), End).exit_code == 7


def test_the_child_is_sent_what_a_request_says() -> None:
    """A request says which signal it becomes; what the child leaves gets the stop signal."""
    drive = running()
    effects = drive.step(StopAsked(INT, USR1, kill=False))
    assert only(effects, SignalTree) == SignalTree(USR1, Scope.CHILD, stop=True)
    left = drive.step(ChildEnded(0))
    assert only(left, SignalTree) == SignalTree(TERM, Scope.ALL, stop=True)


def test_exit_codes_are_remapped() -> None:
    """The child's code, and that of a candidate which a signal ended, are what the user wants."""
    remap = {143: 0, 7: 3, 0: 9}
    drive = running(remap_exits=remap)
    drive.ends_with(7)
    assert only(drive.released(retired=True), End) == End(3, "")
    standby = Drive(remap_exits=remap)
    standby.step()
    standby.ask()
    assert only(standby.released(retired=True, token=None), End) == End(0, "")


def test_exit_codes_of_ours_are_never_remapped() -> None:
    """A loss and a timeout are told as documented, and with a line, unlike a child's same code."""
    remap = {75: 0, 124: 0}
    drive = running(remap_exits=remap, on_loss=OnLoss.EXIT)
    drive.lost()
    drive.ends_with(0)
    assert only(drive.released(retired=True), End) == End(75, "leadership lost")
    timed = Drive(remap_exits=remap, campaign_timeout_ns=0)
    timed.step()
    timed.step(Stood())
    left = timed.released(retired=True, token=None)
    assert only(left, End) == End(124, "not leader within --timeout")
    of_child = running()
    of_child.ends_with(75)
    assert only(of_child.released(retired=True), End) == End(75, "")


def test_a_stop_may_go_to_the_childs_group() -> None:
    """--signal-group."""
    assert only(running(signal_group=True).ask(), SignalTree).scope is Scope.GROUP


def test_while_a_tree_drains_the_lock_is_not_given_back() -> None:
    """G2: only the end of the last process makes us ask for the release."""
    drive = running()
    effects = drive.ask()
    for _ in range(5):
        effects += drive.wait(SECOND_NS)
        effects += drive.step(drive.grant())
    effects += drive.step(ChildEnded(0))
    effects += drive.wait(SECOND_NS)
    assert AskRelease not in kinds(effects)
    assert AskRelease in kinds(drive.step(TreeEnded()))


def test_a_drain_is_bounded_by_the_stop_timeout() -> None:
    """With renewals coming, the tree may drain for --stop-timeout and is killed then."""
    drive = running(stop_timeout_s=20)
    drive.ask()
    effects: list[Effect] = []
    for _ in range(19):
        effects += drive.wait(SECOND_NS)
        effects += drive.step(drive.grant())
    assert KillTree not in kinds(effects)
    assert KillTree in kinds(drive.wait(SECOND_NS))


def test_a_drain_is_bounded_by_the_lease_when_renewals_fail() -> None:
    """The kill deadline of the last grant holds, however long --stop-timeout is."""
    drive = running(stop_timeout_s=3600)
    drive.ask()
    assert KillTree not in kinds(drive.wait(15 * SECOND_NS - MARGIN_NS - 1))
    assert KillTree in kinds(drive.wait(1))


def test_no_stop_timeout_means_no_grace() -> None:
    """--stop-timeout=0 kills at once."""
    drive = running(stop_timeout_s=0)
    assert KillTree in kinds(drive.ask())


def test_a_second_interrupt_kills_at_once() -> None:
    """A person who presses Ctrl-C twice means it."""
    drive = running()
    drive.ask(INT)
    assert KillTree in kinds(drive.ask(INT, kill=True))
    drive.step(ChildEnded(137))
    drive.step(TreeEnded())
    assert only(drive.released(retired=True), End).exit_code == 137


def test_a_second_term_is_forwarded() -> None:
    """The child decides what a repeated SIGTERM means."""
    drive = running()
    drive.ask()
    assert only(drive.ask(), SignalTree) == SignalTree(TERM, Scope.CHILD, stop=False)
    assert drive.is_in(State.STOPPING)


def test_a_request_to_stop_during_a_loss_ends_us_with_the_childs_code() -> None:
    """A tree that is stopping because of a missed renewal is not started again after TERM."""
    drive = running()
    drive.wait(10 * SECOND_NS)
    assert SignalTree not in kinds(drive.ask())
    drive.ends_with(5)
    assert only(drive.released(retired=True), End).exit_code == 5


def test_a_request_to_stop_while_killing_ends_us_with_the_childs_code() -> None:
    """The same when the lock was lost to another."""
    drive = running()
    drive.lost()
    drive.ask()
    drive.ends_with(137)
    assert only(drive.released(retired=True), End).exit_code == 137


def test_a_request_to_stop_while_giving_back_ends_us_with_128_plus_n() -> None:
    """Nothing runs any more, so the signal decides the code; a second one changes nothing."""
    drive = running()
    drive.lost()
    drive.step(TreeEnded())
    assert only(drive.ask(), AskRelease).retire
    assert AskRelease not in kinds(drive.ask(INT))
    drive.released()
    assert drive.is_in(State.GONE)
    assert only(drive.released(retired=True), End).exit_code == 143


def test_requests_after_the_end_are_ignored() -> None:
    """Nothing happens twice."""
    drive = Drive()
    drive.step()
    drive.ask()
    drive.released(retired=True, token=None)
    assert not drive.ask()
    assert not drive.step(ElectorEnded(1))
    assert drive.core.wake_at_ns is None


def test_we_leave_without_the_electors_answer_after_a_while() -> None:
    """An elector that never answers does not hold the exit for ever: nine seconds."""
    drive = running()
    drive.ask()
    drive.ends_with(4)
    assert End not in kinds(drive.wait(9 * SECOND_NS - 1))
    assert only(drive.wait(1), End).exit_code == 4


def test_other_signals_reach_a_leaders_child_only() -> None:
    """A standby ignores HUP, USR1, USR2, which a leader forwards."""
    drive = Drive()
    drive.step()
    assert SignalTree not in kinds(drive.step(SignalArrived(HUP)))
    drive.run()
    assert only(drive.step(SignalArrived(USR1)), SignalTree).signum == USR1
    drive.ask()
    assert only(drive.step(SignalArrived(HUP)), SignalTree) == SignalTree(
        HUP, Scope.CHILD, stop=False
    )
    drive.lost()
    assert SignalTree not in kinds(drive.step(SignalArrived(HUP)))


# --- the child's own end -----------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 3, 139])
def test_a_child_that_ends_by_itself_ends_us_with_its_code(code: int) -> None:
    """The lock is given back for good and the child's own code returned."""
    drive = running()
    effects = drive.ends_with(code)
    assert only(effects, AskRelease) == AskRelease(TOKEN, retire=True)
    assert only(drive.released(retired=True), End).exit_code == code


def test_what_a_child_leaves_behind_is_stopped_and_then_killed() -> None:
    """Rule 14: leftovers get the stop signal, then the rest of the grace, then SIGKILL."""
    drive = running(stop_timeout_s=5)
    effects = drive.step(ChildEnded(0))
    assert only(effects, SignalTree) == SignalTree(TERM, Scope.ALL, stop=True)
    assert KillTree not in kinds(drive.wait(5 * SECOND_NS - 1))
    assert KillTree in kinds(drive.wait(1))


def test_leftovers_of_a_stopped_child_get_the_stop_signal() -> None:
    """The direct child is gone first, then everything else hears of it."""
    drive = running()
    drive.ask()
    drive.wait(SECOND_NS)
    effects = drive.step(ChildEnded(0))
    assert only(effects, SignalTree) == SignalTree(TERM, Scope.ALL, stop=True)
    assert not kinds(drive.step(ChildEnded(9))) & {SignalTree}


def test_a_request_to_stop_while_leftovers_stop_keeps_the_childs_code() -> None:
    """The child had ended by itself before."""
    drive = running()
    drive.step(ChildEnded(3))
    drive.ask()
    drive.step(TreeEnded())
    assert only(drive.released(retired=True), End).exit_code == 3


def test_a_loss_after_the_childs_own_end_keeps_its_code() -> None:
    """What ended the run first decides."""
    drive = running(on_loss=OnLoss.EXIT)
    drive.step(ChildEnded(3))
    drive.lost()
    drive.step(TreeEnded())
    assert only(drive.released(retired=True), End).exit_code == 3


def test_a_child_that_never_ran_is_a_loss() -> None:
    """Where no tree could be started the lock is given back and the campaign goes on."""
    drive = running()
    assert not only(drive.step(TreeEnded()), AskRelease).retire
    drive.released()
    assert drive.is_in(State.IDLE)


@pytest.mark.parametrize("on_loss", OnLoss)
def test_a_child_whose_time_was_over_before_it_began_is_a_loss(on_loss: OnLoss) -> None:
    """The status of the process that did not become the command says nothing about the command."""
    drive = running(on_loss=on_loss)
    drive.step(NotStarted())
    drive.step(ChildEnded(127))
    asked = only(drive.step(TreeEnded()), AskRelease)
    assert asked.retire == (on_loss is OnLoss.EXIT)
    if asked.retire:
        assert only(drive.released(retired=True), End).exit_code == LOST_EXIT


def test_the_end_of_a_tree_that_is_not_there_is_ignored() -> None:
    """A second word about the same end changes nothing."""
    drive = Drive()
    drive.step()
    assert AskRelease not in kinds(drive.step(TreeEnded()))
    assert drive.is_in(State.IDLE)


# --- the campaign ------------------------------------------------------------------------------


def test_a_campaign_is_given_up_after_its_timeout() -> None:
    """--timeout: 124, and whatever was tried is given back."""
    drive = Drive(campaign_timeout_ns=30 * SECOND_NS)
    drive.step()
    assert AskRelease not in kinds(drive.wait(30 * SECOND_NS - 1))
    assert only(drive.wait(1), AskRelease) == AskRelease(None, retire=True)
    assert only(drive.released(retired=True, token=None), End).exit_code == TIMEOUT_EXIT


def test_with_timeout_zero_one_try_decides() -> None:
    """--timeout=0: the first try that does not make us leader ends it with 124."""
    drive = Drive(campaign_timeout_ns=0)
    drive.step()
    drive.wait(60 * SECOND_NS)
    assert drive.is_in(State.IDLE)
    drive.step(Stood())
    assert only(drive.released(retired=True, token=None), End).exit_code == TIMEOUT_EXIT


def test_with_timeout_zero_a_try_that_succeeds_runs() -> None:
    """--timeout=0: once leader, nobody counts tries any more."""
    drive = running(campaign_timeout_ns=0)
    drive.step(Stood())
    assert drive.is_in(State.RUNNING)


def test_without_a_timeout_standing_by_goes_on() -> None:
    """A failed try is no reason to end."""
    drive = Drive()
    drive.step()
    drive.step(Stood())
    drive.wait(3600 * SECOND_NS)
    assert drive.is_in(State.IDLE)


def test_a_campaign_after_a_loss_has_all_of_its_timeout() -> None:
    """The time spent leading does not count."""
    drive = running(campaign_timeout_ns=30 * SECOND_NS)
    drive.wait(9 * SECOND_NS)
    drive.lost()
    drive.step(TreeEnded())
    drive.released()
    drive.wait(30 * SECOND_NS - 1)
    assert drive.is_in(State.IDLE)
    drive.wait(1)
    assert drive.is_in(State.GONE)


# --- the elector's life ------------------------------------------------------------------------


def test_an_elector_is_started_first() -> None:
    """The first generation is 1."""
    assert only(Drive().step(), StartElector).generation == 1


def test_a_dead_elector_is_followed_at_once() -> None:
    """The first successor comes without delay: it may renew in time for the child to run on."""
    drive = running()
    effects = drive.step(ElectorEnded(1))
    assert only(effects, StartElector).generation == 2
    assert drive.is_in(State.RUNNING)
    assert AskRelease not in kinds(effects)


def test_electors_that_die_again_and_again_are_started_less_often() -> None:
    """The delay grows to the retry period, and is forgotten by one that lives."""
    drive = Drive()
    drive.step()
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


def test_the_end_of_an_older_elector_is_old_news() -> None:
    """Only the present one is followed."""
    drive = Drive()
    drive.step()
    drive.step(ElectorEnded(1))
    assert StartElector not in kinds(drive.step(ElectorEnded(1)))
    assert drive.core.generation == 2


def test_a_successor_is_told_of_a_release_that_is_due() -> None:
    """An elector that dies while giving back is followed by one that is asked to."""
    drive = running()
    drive.lost()
    drive.step(TreeEnded())
    assert only(drive.step(ElectorEnded(1)), AskRelease) == AskRelease(TOKEN, retire=False)


def test_a_renewal_of_the_successor_keeps_the_tree_running() -> None:
    """The same token from the next generation extends the tree."""
    drive = running()
    drive.wait(SECOND_NS)
    drive.step(ElectorEnded(1))
    assert SetDeadline in kinds(drive.step(drive.grant(generation=2)))


def test_a_silent_elector_of_a_leader_is_killed() -> None:
    """Stopped or hung: after the silence bound it is killed, and its successor starts."""
    drive = running()
    drive.elector_beats = False
    effects: list[Effect] = []
    while KillElector not in kinds(effects):
        effects = drive.wait(SECOND_NS)
        drive.step(drive.grant())
    silence_ns = drive.now_ns - START_NS
    assert silence_ns <= TIMING.silence_bound_ns + 2 * TIMING.heartbeat_ns
    assert KillElector not in kinds(drive.wait(SECOND_NS))
    assert StartElector in kinds(drive.step(ElectorEnded(1)))


@pytest.mark.parametrize("gone", [False, True])
def test_a_silent_elector_of_a_standby_is_killed(gone: bool) -> None:
    """A standby whose elector hangs would never lead again."""
    drive = Drive()
    drive.step()
    if gone:
        drive.run()
        drive.lost()
        drive.step(TreeEnded())
    drive.elector_beats = False
    assert KillElector in kinds(drive.wait(10 * TIMING.silence_bound_ns))


def test_a_beat_of_an_older_elector_is_no_sign_of_life() -> None:
    """What the dead one had sent does not excuse its silent successor."""
    drive = running()
    drive.step(ElectorEnded(1))
    drive.elector_beats = False
    effects: list[Effect] = []
    for _ in range(14):
        effects += drive.wait(SECOND_NS)
        effects += drive.step(ElectorHeard(1))
    assert KillElector in kinds(effects)


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
def test_a_pause_of_our_own_does_not_make_the_elector_silent(pause_s: int) -> None:
    """After a suspend everybody has been silent; that proves nothing."""
    drive = Drive()
    drive.step()
    drive.now_ns += pause_s * SECOND_NS
    assert KillElector not in kinds(drive.step())


# --- the keeper's life -------------------------------------------------------------------------


def test_the_keeper_is_asked_for_signs_of_life() -> None:
    """A ping every heartbeat while a tree runs."""
    drive = running()
    effects: list[Effect] = []
    for _ in range(10):
        effects += drive.wait(2 * SECOND_NS)
        effects += drive.step(drive.grant())
    assert sum(isinstance(e, PingKeeper) for e in effects) == 10


def test_a_silent_keeper_is_replaced_by_us() -> None:
    """A stopped keeper cannot kill: it is told to, then killed, and its tree falls to us."""
    drive = running()
    drive.keeper_answers = False
    effects: list[Effect] = []
    while TakeOver not in kinds(effects):
        effects = drive.wait(SECOND_NS)
        drive.step(drive.grant())
    assert KillTree in kinds(effects)
    assert drive.now_ns - START_NS <= TIMING.silence_bound_ns + 2 * TIMING.heartbeat_ns
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
    assert TakeOver in kinds(drive.wait(SECOND_NS))
    assert TakeOver in kinds(drive.step(KeeperDied()))
    assert TakeOver not in kinds(drive.wait(SECOND_NS))


def test_a_keeper_that_does_not_kill_in_time_is_taken_over_from() -> None:
    """Told to kill, it has half a second: the margin must pay for both ways."""
    drive = running()
    drive.lost()
    assert TakeOver not in kinds(drive.wait(500_000_000 - 1))
    assert TakeOver in kinds(drive.wait(1))


def test_the_death_of_a_keeper_without_a_tree_is_ignored() -> None:
    """Nothing runs, nothing falls to us."""
    drive = Drive()
    drive.step()
    assert TakeOver not in kinds(drive.step(KeeperDied()))
    assert drive.is_in(State.IDLE)


def test_a_dead_keeper_is_a_loss() -> None:
    """--on-loss=exit: a run that ended because its keeper died returns 75."""
    drive = running(on_loss=OnLoss.EXIT)
    drive.step(KeeperDied())
    drive.step(TreeEnded())
    assert only(drive.released(retired=True), End).exit_code == LOST_EXIT


# --- without a child -----------------------------------------------------------------------------

#: What concerns a tree, which is not there.
_TREES: Final = {StartTree, PingKeeper, TakeOver}


def sidecar(**changes: object) -> Drive:
    """Return a candidate without a child that has an elector."""
    drive = Drive(has_child=False, **changes)  # type: ignore[arg-type]
    drive.step()
    return drive


def leading(**changes: object) -> Drive:
    """Return one that leads."""
    drive = sidecar(**changes)
    drive.step(drive.grant())
    assert drive.is_in(State.RUNNING)
    return drive


def leads(drive: Drive) -> bool:
    """Whether it would say so."""
    core = drive.core
    return drive.is_in(State.RUNNING) and (core.renew_by_ns or 0) > drive.now_ns


def test_a_grant_without_a_child_is_a_leadership_without_a_tree() -> None:
    """It leads as soon as it is granted, and says who does; no keeper is asked for anything."""
    drive = sidecar()
    assert not leads(drive)
    effects = drive.step(drive.grant())
    assert "leader is a" in [e.event for e in effects if isinstance(e, Note)]
    for _ in range(30):
        effects += drive.wait(2 * SECOND_NS)
        effects += drive.step(drive.grant())
        assert leads(drive)
    assert not _TREES & kinds(effects)
    assert AskRelease not in kinds(effects)


def test_when_leading_is_over_is_known() -> None:
    """Each renewal moves it; without a grant there is no such time."""
    drive = sidecar()
    times = [drive.core.renew_by_ns]
    drive.step(drive.grant())
    times.append(drive.core.renew_by_ns)
    drive.wait(3 * SECOND_NS)
    drive.step(drive.grant())
    times.append(drive.core.renew_by_ns)
    drive.lost()
    drive.released()
    times.append(drive.core.renew_by_ns)
    assert times == [None, START_NS + 10 * SECOND_NS, START_NS + 13 * SECOND_NS, None]


def test_without_renewals_a_leadership_without_a_child_is_over_at_once() -> None:
    """At the renew deadline nothing has to be stopped: the lock is given back in the same step."""
    drive = leading()
    assert AskRelease not in kinds(drive.wait(10 * SECOND_NS - 1))
    assert leads(drive)
    assert only(drive.wait(1), AskRelease) == AskRelease(TOKEN, retire=False)
    assert drive.is_in(State.GONE)
    drive.step(drive.grant())
    assert drive.is_in(State.GONE), "irrevocable"
    drive.released()
    assert drive.is_in(State.IDLE)
    drive.step(drive.grant(token=Token(11)))
    assert leads(drive)


def test_a_guardian_that_was_stopped_beyond_the_deadline_does_not_say_that_it_leads() -> None:
    """The time that has passed counts before anything else is believed."""
    drive = leading()
    drive.now_ns += 40 * SECOND_NS
    assert not leads(drive), "whoever looks at the time knows, before we run again"
    assert only(drive.step(), AskRelease) == AskRelease(TOKEN, retire=False)


def test_a_loss_without_a_child_is_over_at_once() -> None:
    """Held by another: gone in the same step, and then a standby again."""
    drive = leading()
    effects = drive.lost()
    assert only(effects, AskRelease) == AskRelease(TOKEN, retire=False)
    assert not _TREES & kinds(effects)
    drive.released()
    assert drive.is_in(State.IDLE)


@pytest.mark.parametrize("lose", [Drive.lost, lambda drive: drive.wait(10 * SECOND_NS)])
def test_with_on_loss_exit_a_loss_without_a_child_ends_with_75(
    lose: Callable[[Drive], list[Effect]],
) -> None:
    """--on-loss=exit, for another holder as for a missed renewal."""
    drive = leading(on_loss=OnLoss.EXIT)
    assert only(lose(drive), AskRelease) == AskRelease(TOKEN, retire=True)
    assert only(drive.released(retired=True), End).exit_code == LOST_EXIT


def _not_leading(drive: Drive) -> None:
    pass


def _leading(drive: Drive) -> None:
    drive.step(drive.grant())


def _giving_back(drive: Drive) -> None:
    drive.step(drive.grant())
    drive.lost()


def _leading_without_an_elector(drive: Drive) -> None:
    drive.step(drive.grant())
    drive.step(ElectorEnded(1))
    drive.step(ElectorEnded(2))


@pytest.mark.parametrize("signum", [HUP, INT, 3, TERM])
@pytest.mark.parametrize("kill", [False, True])
@pytest.mark.parametrize(
    "come_to", [_not_leading, _leading, _giving_back, _leading_without_an_elector]
)
def test_a_request_to_stop_without_a_child_ends_with_128_plus_n(
    come_to: Callable[[Drive], None], signum: int, kill: bool
) -> None:
    """In each state: the lock is given back for good, and the signal decides the code."""
    drive = sidecar()
    come_to(drive)
    effects = drive.ask(signum, kill=kill)
    assert drive.is_in(State.GONE)
    assert AskRelease in kinds(effects)
    assert all(e.retire for e in effects if isinstance(e, AskRelease))
    assert not leads(drive)
    assert not {AskRelease, End} & kinds(drive.ask(TERM)), "once is enough"
    assert only(drive.released(retired=True), End).exit_code == 128 + signum
    assert not drive.ask(signum)


def test_a_request_to_stop_after_the_deadline_still_ends_with_128_plus_n() -> None:
    """We were stopped, the lease ran out, and the first thing that we hear is TERM."""
    drive = leading(on_loss=OnLoss.EXIT)
    drive.now_ns += 60 * SECOND_NS
    drive.ask()
    assert only(drive.released(retired=True), End).exit_code == 143


def test_an_elector_that_is_killed_costs_a_leadership_without_a_child_nothing() -> None:
    """Its heir renews in time; one that does not is a missed renewal."""
    drive = leading()
    drive.wait(SECOND_NS)
    assert only(drive.step(ElectorEnded(1)), StartElector).generation == 2
    assert leads(drive)
    drive.wait(SECOND_NS)
    drive.step(drive.grant(generation=2))
    assert drive.core.renew_by_ns == drive.now_ns + 10 * SECOND_NS
    drive.step(ElectorEnded(2))
    effects = drive.wait(10 * SECOND_NS)
    assert AskRelease(TOKEN, retire=False) in effects
    effects = drive.step(ElectorEnded(3)) + drive.wait(SECOND_NS)
    assert only(effects, AskRelease) == AskRelease(TOKEN, retire=False), "of its heir"


def test_a_silent_elector_of_a_leader_without_a_child_is_killed() -> None:
    """Nothing else of the vigil depends on a tree."""
    drive = leading()
    drive.elector_beats = False
    effects: list[Effect] = []
    for _ in range(15):
        effects += drive.wait(SECOND_NS)
        effects += drive.step(drive.grant())
    assert KillElector in kinds(effects)
    assert leads(drive)


def test_a_late_wake_up_shortens_a_leadership_without_a_child_by_nothing_but_its_grace() -> None:
    """Rule 17 takes from the grace on loss, which a leadership without a child does not use."""
    drive = leading()
    assert drive.core.wake_at_ns is not None
    drive.now_ns = drive.core.wake_at_ns + 300_000_000
    drive.step()
    assert drive.core.renew_by_ns == START_NS + 10 * SECOND_NS


def test_other_signals_change_nothing_without_a_child() -> None:
    """There is nobody to pass them on to."""
    drive = leading()
    drive.step(SignalArrived(USR1))
    assert leads(drive)


def test_a_campaign_without_a_child_is_given_up_after_its_timeout() -> None:
    """--timeout means the same."""
    drive = sidecar(campaign_timeout_ns=30 * SECOND_NS)
    assert only(drive.wait(30 * SECOND_NS), AskRelease).retire
    assert only(drive.released(retired=True, token=None), End).exit_code == TIMEOUT_EXIT


def test_a_leadership_without_a_child_is_never_between_leading_and_gone() -> None:
    """Stopping and killing pass within the step that began them, whatever the order of events."""
    events: list[Callable[[Drive], object]] = [
        lambda drive: drive.step(drive.grant(token=Token(len(seen)))),
        lambda drive: drive.step(drive.grant()),
        Drive.lost,
        Drive.released,
        lambda drive: drive.released(retired=True),
        lambda drive: drive.step(ElectorEnded(drive.core.generation)),
        lambda drive: drive.wait(9 * SECOND_NS),
        lambda drive: drive.step(SignalArrived(HUP)),
        lambda drive: drive.step(Stood()),
        Drive.ask,
    ]
    seen = []
    for order in product(range(len(events)), repeat=4):
        drive = sidecar()
        for number in order:
            events[number](drive)
            seen.append(drive.core.state)
    assert set(seen) == {State.IDLE, State.RUNNING, State.GONE, State.ENDED}
