"""Runs a whole cluster in virtual time: candidates, their processes, one lock, a bad network.

Owns true time, which nobody in the cluster can see: every host has a boot time clock with an offset
and a rate of its own and a wall clock that people set. A candidate is a guardian (the real core of
`tenure`), an elector (the real core of `election`) and a model of a keeper; the lock is a model of
a Kubernetes object. Requests and replies get lost, come late, come twice; processes are late, are
stopped, and die. A container that was killed comes back in its slot under the name that it had,
while what its former life has sent may still be on its way.

An observer in true time judges (`Verdict`): trees that overlap, locks given back while their tree
lived, and, once the faults have stopped, how long it takes until exactly one candidate runs. A
candidate without a child has a `Say` where others have a tree. A process that asks to be woken in
the past, or makes requests without a pause, raises. Everything is drawn from one seed.

It must not decide anything for the cores: it only carries out their effects, as the real processes
do. A fault is what the design promises to survive: the guardian and the keeper of one candidate are
not disturbed at the same time unless the tree cannot hide from the death of its keeper, rates stay
within half a percent, and starvation plus killing stay within two seconds. People who edit or
delete the lock are an option (`Setup.hands`) whose overlaps are no broken promise.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, assert_never

from leaderexec import election, tenure
from leaderexec.election import Election, Failure, FailureKind, Holding
from leaderexec.locks.base import successor_after
from leaderexec.model import (
    SECOND_NS,
    SECOND_US,
    Grant,
    LockTraits,
    Now,
    Record,
    Snapshot,
    Timing,
    Token,
)
from leaderexec.tenure import Tenure

if TYPE_CHECKING:
    from collections.abc import Callable

MS: Final = 1_000_000
#: Where all clocks of all hosts count from, so that nothing depends on small numbers.
_EPOCH_US: Final = 1_700_000_000_000_000
TERM: Final = 15
INT: Final = 2

#: What no elector needs within a second.
_MOST_CALLS: Final = 12
#: How late a process of a starved host may be, and how long killing a tree may take.
_LATE_NS: Final = 250 * MS
_KILL_NS: Final = 800 * MS

#: Settings for schedules: a short one, in which little virtual time holds many leases, the default
#: one, in which replies may be late by more than the margin, and that of `--ttl=10s`.
SHORT: Final = Timing(5, 2 * SECOND_NS, SECOND_NS)
DEFAULT: Final = Timing()
OLD: Final = Timing(10, 5 * SECOND_NS, 5 * SECOND_NS // 2)

#: What the locks of 2016 ask of an election.
TRAITS_OF_2016: Final = LockTraits(time_unit_us=SECOND_US, peers_judge_by_own_duration=True)

_Request = election.Read | election.Create | election.Update | election.NameSuccessor


# --- what a schedule is made of --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setup:
    """The rules of one simulated cluster; what is random comes from the seed.

    `elections` and `tenures` build the cores, so that a test can put a mutant in their place. The
    lock keeps a `line` or does not. `put_creates` lets a PUT to a deleted object create another
    one. Candidates are PID 1 of a container that knows its slot with the probability `pid1`, have
    an id that others have too with `verbatim`, and no child with `sidecars`. With `voluntary`
    children end by themselves and people ask candidates to stop; a
    candidate that ended is followed by another on its host, `restart_ns` later at the latest.
    """

    candidates: int = 5
    timing: Timing = SHORT
    duration_ns: int = 60 * SECOND_NS
    fault_every_ns: int = 4 * SECOND_NS
    skew_ppm: int = 5000
    wall_spread_us: int = 10 * SECOND_US
    pid1: float = 0.3
    verbatim: float = 0.0
    sidecars: float = 0.0
    traits: LockTraits = field(default_factory=LockTraits)
    line: bool = True
    hands: bool = False
    put_creates: bool = False
    voluntary: bool = True
    restart_ns: int = 8 * SECOND_NS
    stop_timeouts_s: tuple[int, ...] = (1, 20, 3600)
    on_losses: tuple[tenure.OnLoss, ...] = tuple(tenure.OnLoss)
    elections: Callable[..., Election] = Election
    tenures: Callable[..., Tenure] = Tenure


@dataclass(slots=True)
class Verdict:
    """What the observer saw."""

    overlaps: list[str] = field(default_factory=list)
    early_releases: list[str] = field(default_factory=list)
    trees: int = 0
    named: int = 0

    def assert_safe(self) -> None:
        """Raise AssertionError if a promise about exclusivity was broken."""
        if self.overlaps or self.early_releases:
            raise AssertionError(f"{self.overlaps} {self.early_releases}")


# --- time ------------------------------------------------------------------------------------


class _Loop:
    """True time, and what is to happen in it."""

    __slots__ = ("_heap", "_seq", "now")

    def __init__(self) -> None:
        self.now = 0
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._seq = 0

    def at(self, at_ns: int, act: Callable[..., None], *args: Any) -> None:
        self._seq += 1
        heapq.heappush(self._heap, (max(at_ns, self.now), self._seq, act, args))

    def after(self, for_ns: int, act: Callable[..., None], *args: Any) -> None:
        self.at(self.now + for_ns, act, *args)

    def run(self, until_ns: int) -> None:
        heap = self._heap
        while heap and heap[0][0] <= until_ns:
            self.now, _, act, args = heapq.heappop(heap)
            act(*args)
        self.now = until_ns


@dataclass(slots=True)
class _Clocks:
    """What one host believes about time."""

    _loop: _Loop
    _offset_ns: int
    ppm: int
    wall_offset_us: int

    def boot_ns(self) -> int:
        return self.read().boot_ns

    def read(self) -> Now:
        now = self._loop.now
        elapsed = now + now * self.ppm // 1_000_000
        return Now(self._offset_ns + elapsed, self.wall_offset_us + elapsed // 1000)

    def when(self, boot_ns: int) -> int:
        """Return the true time at which the boot time clock shows `boot_ns`, or just after."""
        return (boot_ns - self._offset_ns) * 1_000_000 // (1_000_000 + self.ppm) + 2


# --- processes -------------------------------------------------------------------------------


class _Process:
    """Something that sleeps until a message or a time comes, and can be late, stopped or dead."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.alive = True
        self.paused = False
        self._loop = host.world.loop
        self._inbox: list[tuple[int, Any]] = []
        self._called = False
        self._timer_ns: int | None = None
        self._pauses = 0

    def wake_at_boot_ns(self) -> int | None:
        """Return when to run at the latest, on the host's boot time clock."""
        raise NotImplementedError

    def run(self, messages: list[Any]) -> None:
        """Handle messages and whatever is due."""
        raise NotImplementedError

    def tell(self, message: Any, rank: int = 0) -> None:
        """Deliver a message; those of lower rank are read first, as a poll loop would."""
        if self.alive:
            self._inbox.append((rank, message))
            if not self.paused and not self._called:
                self.call(self.host.lateness())

    def pause(self, for_ns: int | None) -> None:
        """Stop the process, for good if `for_ns` is None."""
        if self.alive and not self.paused:
            self.paused = True
            self._pauses += 1
            if for_ns is not None:
                self._loop.after(for_ns, self._end_pause, self._pauses)

    def resume(self) -> None:
        """Continue the process; it finds everything that came meanwhile."""
        if self.paused:
            self.paused = False
            if not self._called:
                self.call(self.host.lateness())

    def die(self) -> bool:
        """End at once and return whether it was alive."""
        was_alive, self.alive = self.alive, False
        self._inbox.clear()
        return was_alive

    def _end_pause(self, number: int) -> None:
        if number == self._pauses:
            self.resume()

    def call(self, after_ns: int) -> None:
        """Let it run then, with whatever has come."""
        self._called = True
        self._loop.after(after_ns, self._answer)

    def _answer(self) -> None:
        self._called = False
        if self.alive and not self.paused:
            self._run()

    def _ring(self, at_ns: int) -> None:
        if at_ns == self._timer_ns and self.alive and not self.paused:
            self._run()

    def _run(self) -> None:
        inbox = self._inbox
        if len(inbox) > 1:
            inbox.sort(key=itemgetter(0))
        messages = [message for _, message in inbox]
        inbox.clear()
        self.run(messages)
        if not self.alive:
            return
        wake_ns = self.wake_at_boot_ns()
        self._timer_ns = None
        if wake_ns is not None:
            at_ns = max(self.host.clocks.when(wake_ns), self._loop.now) + self.host.lateness()
            self._timer_ns = at_ns
            self._loop.at(at_ns, self._ring, at_ns)


class Tree:
    """The processes that one run of the command has become."""

    #: What a trace says of it.
    role, begins, ends = "tree", "lives", "is dead"

    def __init__(self, candidate: Candidate, keeper: Keeper, token: Token) -> None:
        world = candidate.host.world
        rng = world.rng
        self.candidate = candidate
        self.name = f"{candidate.name}/{token}"
        self.alive = True
        self.child_alive = True
        self._keeper = keeper
        self._world = world
        #: Whether something of it outlives a keeper that is killed.
        self.hides = rng.random() < 0.5
        self._leaves_behind = rng.random() < 0.3
        self.ignores_stop = rng.random() < 0.4
        self.drain_ns = int(rng.random() ** 2 * 2 * world.setup.timing.lease_duration_ns)
        if candidate.host.drain_ns is not None:
            self.drain_ns = candidate.host.drain_ns
            self.ignores_stop = self.drain_ns < 0
        if world.setup.voluntary and rng.random() < 0.25:
            world.loop.after(int(rng.random() * 20 * SECOND_NS), self._end_by_itself)

    def stop(self, *, everything: bool) -> None:
        """Receive the stop signal."""
        if not self.ignores_stop:
            end = self.end if everything and not self.child_alive else self._child_ends
            self._world.loop.after(self.drain_ns, end)

    def kill(self) -> None:
        """Receive SIGKILL everywhere; dying takes its time."""
        world = self._world
        world.loop.after(int(world.rng.random() * _KILL_NS), self.end)

    def _end_by_itself(self) -> None:
        if not self._world.calm:
            self._child_ends()

    def _child_ends(self) -> None:
        if self.alive and self.child_alive:
            self.child_alive = False
            if self._leaves_behind:
                self._keeper.tell("child ended")
            else:
                self.end()

    def end(self) -> None:
        if self.alive:
            self.alive = False
            self.child_alive = False
            self._world.tree_ended(self)
            self._keeper.tell("tree ended")
            if self.candidate.taking_over:
                self.candidate.swept()


class Say:
    """What a candidate without a child says while it leads; it stands where others have a tree."""

    role, begins, ends = "name", "says that it leads", "says so no more"

    def __init__(self, candidate: Candidate, token: Token) -> None:
        self.candidate = candidate
        self.name = f"{candidate.name}/{token}"


class Keeper(_Process):
    """A model of `keeper.Keeper`: it kills at its deadline, when told to, and with the guardian."""

    def __init__(self, candidate: Candidate, token: Token) -> None:
        super().__init__(candidate.host)
        self.candidate = candidate
        self.tree: Tree | None = None
        self._token = token
        self._deadline_ns: int | None = None
        self._killing = False
        self._reported = False

    def wake_at_boot_ns(self) -> int | None:
        return None if self._killing else self._deadline_ns

    def run(self, messages: list[Any]) -> None:
        late = self._deadline_ns is not None and self.host.clocks.boot_ns() >= self._deadline_ns
        if not self._killing and (late or not self.candidate.guardian.alive):
            self._kill()
        for message in messages:
            if not self.alive:
                return
            self._take(message)
        if self.alive and self._killing and self.tree is None:
            self._exit()

    def _take(self, message: Any) -> None:
        guardian = self.candidate.guardian
        match message:
            case "tree ended" | "child ended":
                if not self._reported:
                    self._reported = True
                    guardian.tell(tenure.ChildEnded(3), 2)
                if message == "tree ended":
                    self._exit()
            case _ if self._killing:
                pass  # the loop that kills reads no messages
            case tenure.StartTree(stop_at_ns=stop_at_ns, kill_at_ns=kill_at_ns):
                self._deadline_ns = kill_at_ns
                if self.host.clocks.boot_ns() >= stop_at_ns:
                    guardian.tell(tenure.NotStarted(), 2)
                    guardian.tell(tenure.ChildEnded(127), 2)
                    self._exit()
                    return
                self.tree = Tree(self.candidate, self, self._token)
                self.host.world.tree_started(self.tree)
            case tenure.SetDeadline(kill_at_ns=kill_at_ns):
                self._deadline_ns = kill_at_ns
            case tenure.SignalTree(scope=scope, stop=stop):
                if self.tree and stop:
                    self.tree.stop(everything=scope is tenure.Scope.ALL)
            case tenure.KillTree() | "guardian died" | "closed":
                self._kill()
            case tenure.PingKeeper():
                guardian.tell(tenure.KeeperHeard(), 2)
            case _:
                raise AssertionError(message)

    def _kill(self) -> None:
        if not self._killing:
            self._killing = True
            if self.tree is not None:
                self.tree.kill()

    def _exit(self) -> None:
        if self.die():
            self.candidate.keeper_ended(self, orderly=True)


class Guardian(_Process):
    """Carries out what `tenure` decides, as `guardian.Guardian` does."""

    def __init__(self, candidate: Candidate) -> None:
        super().__init__(candidate.host)
        setup = candidate.host.world.setup
        rng = candidate.host.world.rng
        self.candidate = candidate
        self.core = setup.tenures(
            timing=candidate.host.timing,
            stop_signal=TERM,
            stop_timeout_ns=rng.choice(setup.stop_timeouts_s) * SECOND_NS,
            on_loss=rng.choice(setup.on_losses),
            campaign_timeout_ns=None,
            signal_group=False,
            now_ns=self.host.clocks.boot_ns(),
            has_child=candidate.has_child,
        )

    def wake_at_boot_ns(self) -> int | None:
        return self.core.wake_at_ns

    def die(self) -> bool:
        was_alive = super().die()
        self.candidate.speak()
        return was_alive

    def run(self, messages: list[Any]) -> None:
        for message in messages or (tenure.Woke(),):
            if not self.alive:
                return
            if isinstance(message, tenure.ElectorHeard):
                elector = self.candidate.elector
                if elector is not None:
                    elector.tell(election.BeatReturned())
            now_ns = self.host.clocks.boot_ns()
            for effect in self.core.step(message, now_ns):
                self._carry_out(effect)
            _check_wake(self.core.wake_at_ns, now_ns)
            self.candidate.speak()

    def _carry_out(self, effect: tenure.Effect) -> None:
        candidate = self.candidate
        match effect:
            case tenure.Note():
                candidate.note(effect)
            case tenure.StartElector(generation=generation):
                candidate.start_elector(generation, self.core.grant)
            case tenure.KillElector():
                candidate.kill_elector()
            case tenure.StartTree():
                candidate.start_keeper(effect)
            case (
                tenure.SignalTree() | tenure.SetDeadline() | tenure.KillTree() | tenure.PingKeeper()
            ):
                if candidate.keeper is not None:
                    candidate.keeper.tell(effect)
            case tenure.TakeOver():
                candidate.take_over()
            case tenure.AskRelease(token=token, retire=retire):
                if candidate.elector is not None:
                    candidate.elector.tell(election.TreeGone(token, retire))
            case tenure.End():
                candidate.end()
            case _:
                assert_never(effect)


@dataclass(frozen=True, slots=True)
class KeeperEnded:
    """What the pipe of a keeper tells an elector: its end, and whether it proves the tree's."""

    keeper: Keeper
    orderly: bool


class Elector(_Process):
    """Carries out what `election` decides, as `elector.Elector` does."""

    def __init__(self, candidate: Candidate, generation: int, grant: Grant | None) -> None:
        super().__init__(candidate.host)
        self.candidate = candidate
        self.generation = generation
        self._keeper = candidate.keeper
        self._unproven = False
        self._guardian_dead = False
        self._watch: _Watch | None = None
        #: When the last of its requests were made, in true time.
        self.called_ns: deque[int] = deque(maxlen=_MOST_CALLS)
        host = candidate.host
        inherited = None
        if grant:
            granted_ns = grant.expires_at_ns - grant.renewed_at_ns
            inherited = Holding(grant.token, grant.uid, grant.claim, granted_ns)
        self.core = host.elections(
            identity=candidate.identity,
            unique=candidate.unique,
            slot=candidate.slot,
            timing=host.timing,
            generation=generation,
            jitter=host.world.rng.random,
            now=host.clocks.read(),
            inherited=inherited,
            traits=host.world.setup.traits,
        )

    def wake_at_boot_ns(self) -> int | None:
        return self.core.wake_at_ns

    def die(self) -> bool:
        if self._watch is not None:
            self._watch.close()
        return super().die()

    def overdue(self, call_id: int) -> None:
        """Exit, as the process does whose worker hangs in a call."""
        call = self.core._call
        if self.alive and call is not None and call.call_id == call_id:
            if self.paused:
                loop = self.host.world.loop
                loop.after(SECOND_NS, self.overdue, call_id)
            else:
                self.candidate.kill_elector()

    def run(self, messages: list[Any]) -> None:
        if not messages:
            self._step(election.Woke())
            return
        for message in messages:
            if not self.alive:
                return
            match message:
                case Keeper():
                    self._keeper = message
                case "guardian died":
                    self._guardian_dead = True
                    self._step(election.GuardianDied())
                    if self._keeper is None:
                        self._leave_guardian()
                case KeeperEnded():
                    self._hear_keepers_end(message)
                case _:
                    self._step(message)

    def _hear_keepers_end(self, end: KeeperEnded) -> None:
        if end.keeper is not self._keeper:
            return
        self._keeper = None
        self._unproven = not end.orderly
        if self._unproven:
            self._step(election.KeeperDied())
        if self._guardian_dead:
            self._leave_guardian()

    def _leave_guardian(self) -> None:
        if self._unproven:
            self.candidate.elector_ends(self)
        else:
            self._step(election.TreeGone(None, retire=True))

    def _step(self, event: election.Event) -> None:
        if self.alive:
            now = self.host.clocks.read()
            for effect in self.core.step(event, now):
                self._carry_out(effect)
            _check_wake(self.core.wake_at_ns, now.boot_ns)

    def _carry_out(self, effect: election.Effect) -> None:
        guardian = self.candidate.guardian
        if self.host.world.listener is not None:
            self.host.world.listener(effect)
        match effect:
            case election.Note():
                self.candidate.note(effect)
            case election.Read() | election.Create() | election.Update() | election.NameSuccessor():
                self.host.network.call(self, effect)
            case election.SendBeat():
                guardian.tell(tenure.ElectorHeard(self.generation), 1)
            case election.SendGrant(grant=grant):
                guardian.tell(tenure.Granted(grant), 1)
            case election.SendLost(token=token, reason=reason):
                guardian.tell(tenure.LeadershipLost(self.generation, token, reason), 1)
            case election.SendStanding():
                guardian.tell(tenure.Stood(), 1)
            case election.SendReleased(token=token, retired=retired):
                guardian.tell(tenure.Released(self.generation, token, retired), 1)
                if retired:
                    self.candidate.elector_ends(self)
            case election.OpenWatch():
                self._watch = self.host.network.open_watch(self)
            case election.CloseWatch():
                if self._watch is not None:
                    self._watch.close()
                    self._watch = None
            case election.KillGuardian():
                if not self.candidate.pid1:
                    self.candidate.kill_guardian()
            case _:
                assert_never(effect)


def _check_wake(wake_ns: int | None, now_ns: int) -> None:
    if wake_ns is not None and wake_ns <= now_ns:
        raise AssertionError(f"to be woken {now_ns - wake_ns} ns ago: a loop without a pause")


class Candidate:
    """One life of one leaderexec: a guardian and everything that it forks."""

    def __init__(
        self, host: Host, name: str, identity: str, *, unique: bool, slot: bool = False
    ) -> None:
        self.host = host
        self.name = name
        self.identity = identity
        self.unique = unique
        self.slot = slot
        self.pid1 = host.pid1
        self.has_child: bool = not host.sidecar
        self.elector: Elector | None = None
        self.keeper: Keeper | None = None
        self.taking_over = False
        self.ended = False
        self.guardian = Guardian(self)
        self.guardian.call(0)

    # --- what the guardian does ---

    def start_elector(self, generation: int, grant: Grant | None) -> None:
        self.elector = Elector(self, generation, grant)
        self.elector.call(10 * MS + int(self.host.world.rng.random() * 300 * MS))

    def start_keeper(self, effect: tenure.StartTree) -> None:
        keeper = Keeper(self, effect.grant.token)
        self.keeper = keeper
        if self.elector is not None and self.elector.alive:
            self.elector.tell(keeper)
            keeper.tell(effect)
        else:
            keeper.tell("closed")

    def take_over(self) -> None:
        self.taking_over = True
        keeper, self.keeper = self.keeper, None
        if keeper is not None and keeper.die() and self.elector is not None:
            self.elector.tell(KeeperEnded(keeper, orderly=False), 3)
        if self.pid1:
            self.kill_elector()
        if self.tree is not None:
            self.tree.kill()
        else:
            self.swept()

    def swept(self) -> None:
        """Nothing of the tree is left after the guardian took over."""
        self.taking_over = False
        self.guardian.tell(tenure.TreeEnded(), 2)

    def end(self) -> None:
        """The guardian leaves; its elector has a second to do so, but not after PID 1."""
        self.guardian.die()
        self.host.world.loop.after(0 if self.pid1 else SECOND_NS, self._left)

    def speak(self) -> None:
        """Let the observer know whether a candidate without a child says that it leads."""
        if self.has_child:
            return
        world, clocks, core = self.host.world, self.host.clocks, self.guardian.core
        until_ns = core.renew_by_ns if core.state is tenure.State.RUNNING else None
        said = world.living.get(self)
        if core.grant and until_ns and self.guardian.alive and clocks.boot_ns() < until_ns:
            if said is None:
                world.tree_started(Say(self, core.grant.token))
            world.loop.at(clocks.when(until_ns), self.speak)
        elif said is not None:
            world.tree_ended(said)

    def _left(self) -> None:
        if self.elector is not None:
            self.elector.die()
        self.gone()

    # --- deaths ---

    def kill_elector(self) -> None:
        if self.elector is not None:
            self.elector_ends(self.elector)

    def elector_ends(self, elector: Elector) -> None:
        if elector.die():
            self.elector = None
            self.guardian.tell(tenure.ElectorEnded(elector.generation), 1)

    def kill_guardian(self) -> None:
        if not self.guardian.die():
            return
        if self.pid1:
            # The kernel ends every process of the namespace with its first.
            if self.elector is not None:
                self.elector.die()
            if self.keeper is not None:
                self.keeper.die()
            if self.tree is not None:
                self.tree.end()
        else:
            if self.elector is not None:
                self.elector.tell("guardian died", 1)
            if self.keeper is not None:
                self.keeper.tell("guardian died")
            elif self.tree is not None:
                raise AssertionError("two faults at once: nobody is left to kill the tree")
        self.gone()

    def kill_keeper(self) -> None:
        keeper = self.keeper
        if keeper is None or not keeper.die():
            return
        tree = keeper.tree
        if tree is not None and not tree.hides:
            tree.end()
        self.keeper_ended(keeper, orderly=False)

    def keeper_ended(self, keeper: Keeper, *, orderly: bool) -> None:
        if self.keeper is keeper:
            self.keeper = None
        if self.elector is not None:
            self.elector.tell(KeeperEnded(keeper, orderly), 3)
        self.guardian.tell(tenure.TreeEnded() if orderly else tenure.KeeperDied(), 2)

    @property
    def tree(self) -> Tree | None:
        """The tree that lives, if one does."""
        living = self.host.world.living.get(self)
        return living if isinstance(living, Tree) else None

    def gone(self) -> None:
        if not self.ended:
            self.ended = True
            self.host.candidate_gone()

    def note(self, note: election.Note | tenure.Note) -> None:
        self.host.world.note(f"{self.name}: {note.event} {note.fields}")


# --- hosts and their networks ----------------------------------------------------------------


class Host:
    """A machine: its clocks, its network, how starved it is, and the candidate that lives on it.

    `timing` and `elections` are those of the candidate.
    """

    def __init__(
        self, world: World, name: str, timing: Timing, elections: Callable[..., Election]
    ) -> None:
        rng, setup = world.rng, world.setup
        self.world = world
        self.name = name
        self.timing = timing
        self.elections = elections
        self.pid1 = rng.random() < setup.pid1
        self.verbatim = rng.random() < setup.verbatim
        self.sidecar = rng.random() < setup.sidecars
        self.clocks = _Clocks(
            world.loop,
            rng.randrange(10**15),
            rng.choice((-1, 1)) * setup.skew_ppm
            if rng.random() < 0.5
            else rng.randint(-setup.skew_ppm, setup.skew_ppm),
            _EPOCH_US + int(rng.random() * setup.wall_spread_us),
        )
        self.network = Network(self)
        self.starved = False
        #: How long its trees drain, if the test says so; less than 0: they ignore the stop signal.
        self.drain_ns: int | None = None
        self._lives = 0
        self.candidate = self._new_candidate()

    def lateness(self) -> int:
        """How late the next process runs that has something to do."""
        world = self.world
        late = world.rng.random()
        if self.starved:
            return int(late * _LATE_NS)
        return 20_000 + int(late * MS)

    def candidate_gone(self) -> None:
        world = self.world
        most_ns = min(SECOND_NS, world.setup.restart_ns) if world.calm else world.setup.restart_ns
        world.loop.after(int(world.rng.random() * most_ns), self._start_again)

    def _start_again(self) -> None:
        self.candidate = self._new_candidate()

    def _new_candidate(self) -> Candidate:
        self._lives += 1
        name = f"{self.name}.{self._lives}"
        if self.verbatim:
            return Candidate(self, name, "verbatim", unique=False)
        identity = self.name if self.pid1 else name
        return Candidate(self, name, identity, unique=True, slot=self.pid1)


@dataclass(slots=True)
class _Fate:
    """What becomes of one request and of its reply."""

    there_ns: int
    back_ns: int
    lands: bool = True
    replies: bool = True
    refusal: Failure | None = None


class Network:
    """How requests fare between one host and the lock.

    `mode` is ok, or one of MODES: deaf loses all replies, held lets requests land within a minute,
    trickle never ends a reply.
    """

    MODES: Final = (
        *("slow", "slow", "slow"),
        *("lossy", "held", "deaf", "hole", "refused", "forbidden", "busy", "broken", "trickle"),
    )

    def __init__(self, host: Host) -> None:
        self.host = host
        self.mode = "ok"
        self.watches: list[_Watch] = []
        self._base_ns = int((0.5 + host.world.rng.random() * 10) * MS)

    def call(self, elector: Elector, effect: _Request) -> None:
        """Send a request; it may land once, twice, late or never, and so may its reply."""
        world = self.host.world
        rng, loop = world.rng, world.loop
        now = loop.now
        called = elector.called_ns
        called.append(now)
        if len(called) == _MOST_CALLS and now - called[0] < SECOND_NS:
            raise AssertionError(f"{_MOST_CALLS} requests within a second")
        fate = self._fate()
        if fate.refusal is not None:
            failed = election.Failed(effect.call_id, fate.refusal)
            self._reply(elector, now + fate.back_ns, failed)
            if fate.lands:
                world.in_flight(fate.there_ns, self._land, elector, effect, None)
            return
        timeout_ns = self.host.timing.call_timeout_ns
        in_time = fate.lands and fate.replies and fate.there_ns + fate.back_ns <= timeout_ns
        if fate.lands:
            reply_at_ns = now + fate.there_ns + fate.back_ns if in_time else None
            world.in_flight(fate.there_ns, self._land, elector, effect, reply_at_ns)
            if rng.random() < (0.3 if self.mode == "lossy" else 0.02):
                again_ns = int(rng.random() * (1 if rng.random() < 0.5 else 60) * SECOND_NS)
                world.in_flight(fate.there_ns + again_ns, self._land, elector, effect, None)
        if in_time:
            return
        if self.mode == "trickle" and rng.random() < 0.5:
            overdue_ns = max(self.host.timing.renew_deadline_ns, 5 * SECOND_NS)
            loop.after(overdue_ns, elector.overdue, effect.call_id)
            return
        failure = Failure(FailureKind.UNAVAILABLE, "timed out")
        self._reply(elector, now + timeout_ns, election.Failed(effect.call_id, failure))

    def _fate(self) -> _Fate:
        """Draw what becomes of the next request."""
        rng = self.host.world.rng
        timeout_ns = self.host.timing.call_timeout_ns
        fate = _Fate(self._latency_ns(), self._latency_ns())
        match self.mode:
            case "ok":
                pass
            case "slow":
                fate.there_ns = int(rng.random() ** 2 * timeout_ns)
                fate.back_ns = int(rng.random() * timeout_ns)
            case "lossy":
                fate.lands = rng.random() < 0.7
                fate.replies = rng.random() < 0.6
                if rng.random() < 0.3:
                    fate.there_ns = int(rng.random() * 3 * timeout_ns)
                if rng.random() < 0.3:
                    fate.back_ns = int(rng.random() * timeout_ns)
            case "held":
                fate.there_ns = int(rng.random() * 60 * SECOND_NS)
            case "hole":
                fate.lands = False
            case "trickle" | "deaf":
                fate.replies = False
            case "refused" | "forbidden" | "busy" | "broken":
                denied = self.mode == "forbidden"
                kind = FailureKind.FORBIDDEN if denied else FailureKind.UNAVAILABLE
                wish_ns = int(rng.random() * 5 * SECOND_NS) if self.mode == "busy" else None
                fate.refusal = Failure(kind, self.mode, wish_ns)
                # A gateway says 502 whatever the server behind it has done.
                fate.lands = self.mode == "broken" and rng.random() < 0.6
            case _:
                raise AssertionError(self.mode)
        return fate

    def open_watch(self, elector: Elector) -> _Watch:
        """Watch the lock from the version in the server's cache, which may be stale."""
        watch = _Watch(self, elector)
        self.watches.append(watch)
        mode = self.mode
        world = self.host.world
        delay_ns = 2 * self._latency_ns()
        if mode == "forbidden":
            watch.end(delay_ns, Failure(FailureKind.FORBIDDEN, "forbidden to watch"))
        elif mode in {"refused", "busy", "broken"} or (
            mode == "lossy" and world.rng.random() < 0.5
        ):
            watch.end(delay_ns, Failure(FailureKind.UNAVAILABLE, "cannot watch"))
        elif mode in {"hole", "trickle", "held", "deaf"}:
            watch.silent = True
        else:
            watch.open(delay_ns)
        return watch

    def watch_delay_ns(self) -> int:
        """How long an event of a watch is on its way."""
        if self.mode in {"slow", "held", "trickle"}:
            return int(self.host.world.rng.random() * 3 * SECOND_NS)
        return self._latency_ns()

    def _latency_ns(self) -> int:
        return int(self._base_ns * (0.5 + self.host.world.rng.random()))

    def _land(self, elector: Elector, effect: _Request, reply_at_ns: int | None) -> None:
        result = self.host.world.server.apply(elector.candidate, effect)
        if reply_at_ns is not None:
            self._reply(elector, reply_at_ns, result)

    def _reply(self, elector: Elector, at_ns: int, event: election.Event) -> None:
        self.host.world.loop.at(at_ns, elector.tell, event, 2)


class _Watch:
    """One watch: what it delivers comes in order, late, or, silently, never."""

    def __init__(self, network: Network, elector: Elector) -> None:
        self.silent = False
        self.is_open = False
        self._network = network
        self._elector: Elector | None = elector
        self._last_ns = 0
        self._ended = False

    def open(self, delay_ns: int) -> None:
        world = self._network.host.world
        world.loop.after(delay_ns // 2, self._opened, delay_ns - delay_ns // 2)
        world.loop.after(int((20 + world.rng.random() * 60) * SECOND_NS), self.end, 0, None)

    def _opened(self, delay_ns: int) -> None:
        if self._ended:
            return
        self.is_open = True
        self._tell(delay_ns, election.WatchOpened())
        world = self._network.host.world
        history = world.server.history[-1 if world.rng.random() < 0.8 else -4 :]
        for snapshot in history if history[0] is not None else history[1:]:
            self._tell(delay_ns, election.WatchSaw(snapshot))

    def see(self, snapshot: Snapshot | None) -> None:
        if self.is_open and not self._ended and not self.silent:
            self._tell(self._network.watch_delay_ns(), election.WatchSaw(snapshot))

    def end(self, delay_ns: int, failure: Failure | None) -> None:
        if not self._ended:
            self._tell(delay_ns, election.WatchEnded(failure))
            self._ended = True
            self._forget()

    def close(self) -> None:
        self._ended = True
        self._elector = None
        self._forget()

    def _forget(self) -> None:
        if self in self._network.watches:
            self._network.watches.remove(self)

    def _tell(self, delay_ns: int, event: election.Event) -> None:
        loop = self._network.host.world.loop
        self._last_ns = max(self._last_ns, loop.now + delay_ns)
        loop.at(self._last_ns, self._deliver, event)

    def _deliver(self, event: election.Event) -> None:
        if self._elector is not None and not self.silent:
            self._elector.tell(event, 2)


# --- the lock --------------------------------------------------------------------------------


class Server:
    """A Kubernetes object as its API server changes it."""

    def __init__(self, world: World) -> None:
        self.history: list[Snapshot | None] = [None]
        self._world = world
        self._version = 0
        self._objects = 0

    @property
    def newest(self) -> Snapshot | None:
        return self.history[-1]

    def apply(self, candidate: Candidate, effect: _Request) -> election.Event:
        """Carry out one request and return what is answered."""
        match effect:
            case election.Read(call_id=call_id):
                return election.Returned(call_id, self.newest)
            case election.Create(call_id=call_id, record=record):
                if self.newest is not None:
                    return _failed(call_id, FailureKind.CONFLICT)
                return election.Returned(call_id, self._write(candidate, record, None, ""))
            case election.Update(call_id=call_id, record=record, seen=seen):
                return self._put(candidate, call_id, record, seen, successor_after(record, seen))
            case election.NameSuccessor(call_id=call_id, successor=successor, seen=seen):
                self._world.verdict.named += 1
                return self._put(candidate, call_id, seen.record, seen, successor)
            case _:
                assert_never(effect)

    def _put(
        self, candidate: Candidate, call_id: int, record: Record, seen: Snapshot, successor: str
    ) -> election.Event:
        found = self.newest
        if found is None:
            if not self._world.setup.put_creates:
                return _failed(call_id, FailureKind.ABSENT)
        elif (found.uid, found.version) != (seen.uid, seen.version):
            return _failed(call_id, FailureKind.CONFLICT)
        elif self._cut(record) == found.record and successor == (found.successor or ""):
            return election.Returned(call_id, found)
        return election.Returned(call_id, self._write(candidate, record, found, successor))

    # --- by hand ---

    def delete(self) -> None:
        if self.newest is not None:
            self._show(None)

    def patch(self, **changes: Any) -> None:
        """Change the record; without changes it is a label, another version of the same record."""
        if (found := self.newest) is not None:
            self._publish(replace(found, record=replace(found.record, **changes)))

    def name(self, successor: str) -> None:
        """Put somebody in line."""
        if (found := self.newest) is not None and found.successor is not None:
            self._publish(replace(found, successor=successor))

    def _write(
        self, candidate: Candidate, record: Record, over: Snapshot | None, successor: str
    ) -> Snapshot:
        if over is None:
            self._objects += 1
        uid = over.uid if over is not None else f"object-{self._objects}"
        line = successor if self._world.setup.line else None
        if not record.holder:
            self._world.released_by(candidate)
        return self._publish(Snapshot(self._cut(record), uid, "", line))

    def _publish(self, changed: Snapshot) -> Snapshot:
        self._version += 1
        snapshot = replace(changed, version=str(self._version))
        self._show(snapshot)
        return snapshot

    def _show(self, snapshot: Snapshot | None) -> None:
        self.history.append(snapshot)
        for host in self._world.hosts:
            for watch in host.network.watches:
                watch.see(snapshot)

    def _cut(self, record: Record) -> Record:
        """Return a record with its times in the units of the lock."""
        unit_us = self._world.setup.traits.time_unit_us
        return replace(
            record,
            acquire_time_us=(record.acquire_time_us or 0) // unit_us * unit_us,
            renew_time_us=(record.renew_time_us or 0) // unit_us * unit_us,
        )


def _failed(call_id: int, kind: FailureKind) -> election.Failed:
    return election.Failed(call_id, Failure(kind, kind.name.lower()))


# --- everything ------------------------------------------------------------------------------


class World:
    """One cluster, one election, one schedule.

    `run` is a whole schedule: faults for `setup.duration_ns`, then calm until one candidate leads.
    A test that wants to decide by itself what happens calls `advance` and the `disturb` methods.
    """

    def __init__(self, seed: int, setup: Setup, *, trace: bool = False) -> None:
        self.rng = random.Random(seed)
        self.setup = setup
        self.loop = _Loop()
        self.verdict = Verdict()
        self.trace: list[str] | None = [] if trace else None
        #: Is told whatever an elector does.
        self.listener: Callable[[election.Effect], None] | None = None
        self.calm = False
        self.living: dict[Candidate, Tree | Say] = {}
        self._in_flight: dict[int, tuple[Callable[..., None], tuple[Any, ...]]] = {}
        self._sent = 0
        self.hosts: list[Host] = []
        self.server = Server(self)
        for number in range(setup.candidates):
            self.add_host(f"host{number}")

    def add_host(
        self,
        name: str,
        timing: Timing | None = None,
        elections: Callable[..., Election] | None = None,
    ) -> Host:
        """Add a machine with a candidate that starts now."""
        setup = self.setup
        host = Host(self, name, timing or setup.timing, elections or setup.elections)
        self.hosts.append(host)
        return host

    # --- a whole schedule ---

    def run(self) -> Verdict:
        """Disturb, then calm down, and return what the observer saw."""
        self.storm()
        self.settle()
        return self.verdict

    def storm(self) -> Verdict:
        """Disturb for `setup.duration_ns`, and return what the observer saw so far."""
        setup, loop, rng = self.setup, self.loop, self.rng
        while loop.now < setup.duration_ns:
            self.advance(int(rng.expovariate(1 / setup.fault_every_ns)))
            self.disturb_anything(rng)
        return self.verdict

    def advance(self, for_ns: int) -> None:
        self.loop.run(self.loop.now + for_ns)

    def settle(self) -> None:
        """Stop all faults and wait until exactly one candidate runs; raise if none does in time."""
        self.calm = True
        since_ns = self.loop.now
        for host in self.hosts:
            host.starved = False
            host.network.mode = "ok"
            host.candidate.guardian.resume()
        pending, self._in_flight = self._in_flight, {}
        for act, args in pending.values():
            act(*args)
        while self.loop.now < since_ns + self.settle_bound_ns:
            self.advance(SECOND_NS // 2)
            for candidate, tree in self.living.items():
                # A child that ignores the stop signal keeps the lock for as long as it may drain.
                stopping = candidate.guardian.core.state is tenure.State.STOPPING
                if stopping and isinstance(tree, Tree):
                    tree.kill()
            if self.leads() is not None:
                return
        raise AssertionError(
            f"nobody leads {self.settle_bound_ns / SECOND_NS:.0f} s after the faults have stopped"
        )

    @property
    def settle_bound_ns(self) -> int:
        """How long it may take: two leases, the silence of a hung process, and some tries."""
        timing = self.setup.timing
        return (
            3 * timing.lease_duration_ns
            + 2 * timing.silence_bound_ns
            + 6 * timing.retry_period_ns
            + 10 * SECOND_NS
        )

    @property
    def named(self) -> str:
        """Who is next in line."""
        newest = self.server.newest
        return (newest.successor or "") if newest else ""

    def leads(self) -> Candidate | None:
        """Return the candidate that holds the lock and runs, if there is one and no other."""
        if len(self.living) != 1:
            return None
        (candidate,) = self.living
        newest = self.server.newest
        running = candidate.guardian.core.state is tenure.State.RUNNING
        held = newest is not None and newest.record.holder == candidate.identity
        return candidate if running and held and candidate.guardian.alive else None

    # --- faults ---

    def disturb_anything(self, rng: random.Random) -> None:
        """One fault, drawn from all."""
        host = rng.choice(self.hosts)
        leaders = [h for h in self.hosts if h.candidate in self.living]
        if leaders and rng.random() < 0.5:
            host = rng.choice(leaders)
        lease_ns = self.setup.timing.lease_duration_ns
        kind = rng.random()
        if kind < 0.35:
            mode = rng.choice(Network.MODES)
            for_ns = int(rng.random() * 2.5 * lease_ns)
            self.disturb_network(host, mode, for_ns)
            if mode == "slow" and rng.random() < 0.7:
                # Bad networks get worse.
                self.loop.after(for_ns + MS, self.disturb_network, host, "hole", 2 * lease_ns)
        elif kind < 0.42:
            mode = rng.choice(("refused", "busy", "hole", "broken", "slow"))
            for other in self.hosts:
                self.disturb_network(other, mode, int(rng.random() * 2 * lease_ns))
        elif kind < 0.57:
            role = rng.choice(("guardian", "elector", "keeper"))
            for_ns = int(rng.random() * 4 * lease_ns)
            self.pause(host, role, None if rng.random() < 0.2 else for_ns)
        elif kind < 0.76:
            self.kill(host, rng.choice(("guardian", "elector", "elector", "keeper")))
        elif kind < 0.81:
            host.starved = True
            self.loop.after(int(rng.random() * 2 * lease_ns), setattr, host, "starved", False)
        elif kind < 0.86:
            host.clocks.wall_offset_us += rng.choice((-3600, -2, -1, 1, 3600)) * SECOND_US
        elif kind < 0.91:
            self.break_watch(host, orderly=rng.random() < 0.3)
        elif kind < 0.96:
            if self.setup.voluntary:
                self.ask_to_stop(host, rng.choice((TERM, INT)))
        elif self.setup.hands:
            self.meddle(rng.randrange(4))
        elif rng.random() < 0.5:
            self.server.patch()
        else:
            self.note("somebody who is not there is next in line")
            self.server.name("nobody that lives")

    def disturb_network(self, host: Host, mode: str, for_ns: int) -> None:
        if self.calm:
            return
        network = host.network
        network.mode = mode
        self.note(f"network of {host.name}: {mode} for {for_ns / SECOND_NS:.2f}s")
        if mode in {"hole", "held", "trickle", "deaf"}:
            for watch in network.watches:
                watch.silent = True
        elif mode == "refused":
            for watch in list(network.watches):
                watch.end(0, Failure(FailureKind.UNAVAILABLE, "reset"))
        self.loop.after(for_ns, self._mend_network, network, mode)

    def _mend_network(self, network: Network, mode: str) -> None:
        if network.mode == mode:
            network.mode = "ok"

    def pause(self, host: Host, role: str, for_ns: int | None) -> None:
        """Stop a process, unless that made two faults of one candidate at once."""
        candidate = host.candidate
        process: _Process | None = None
        if role == "elector":
            process = candidate.elector
        elif role == "guardian" and self._keeper_is_well(candidate):
            process = candidate.guardian
        elif role == "keeper" and self._guardian_is_well(candidate):
            process = candidate.keeper
        if process is not None:
            self.note(f"SIGSTOP {role} of {candidate.name} for {for_ns}")
            process.pause(for_ns)

    def kill(self, host: Host, role: str) -> None:
        """Kill a process, with the same exception."""
        candidate = host.candidate
        self.note(f"SIGKILL {role} of {candidate.name}")
        if role == "elector":
            candidate.kill_elector()
        elif role == "guardian" and (candidate.pid1 or self._keeper_is_well(candidate)):
            candidate.kill_guardian()
        elif role == "keeper" and (
            self._guardian_is_well(candidate)
            or (candidate.tree is not None and not candidate.tree.hides)
        ):
            candidate.kill_keeper()

    def _keeper_is_well(self, candidate: Candidate) -> bool:
        if candidate.keeper is None:
            return not candidate.taking_over and candidate.tree is None
        return not candidate.taking_over and not candidate.keeper.paused

    def _guardian_is_well(self, candidate: Candidate) -> bool:
        return candidate.guardian.alive and not candidate.guardian.paused

    def break_watch(self, host: Host, *, orderly: bool) -> None:
        for watch in list(host.network.watches):
            if orderly:
                watch.end(0, None)
            else:
                watch.silent = True

    def ask_to_stop(self, host: Host, signum: int) -> None:
        self.note(f"signal {signum} to {host.candidate.name}")
        host.candidate.guardian.tell(tenure.StopAsked(signum, send=TERM, kill=False))

    def meddle(self, how: int) -> None:
        """Edit the lock as a person would who does not know better."""
        self.note(f"meddle {how}")
        if how == 0:
            self.server.delete()
        else:
            self.server.patch(**({"holder": "a-person"}, {"holder": ""}, {})[how - 1])

    # --- what happens ---

    def in_flight(self, for_ns: int, act: Callable[..., None], *args: Any) -> None:
        """Let a request travel; when the faults stop, all that still travel arrive."""
        self._sent += 1
        self._in_flight[self._sent] = (act, args)
        self.loop.after(for_ns, self._arrive, self._sent)

    def _arrive(self, number: int) -> None:
        travelling = self._in_flight.pop(number, None)
        if travelling is not None:
            act, args = travelling
            act(*args)

    def tree_started(self, tree: Tree | Say) -> None:
        for other in self.living.values():
            self.verdict.overlaps.append(f"Overlap of {other.name} and {tree.name}")
        self.note(
            f"{tree.role} {tree.name} {tree.begins}; beside: "
            f"{[other.name for other in self.living.values()]}"
        )
        self.living[tree.candidate] = tree
        self.verdict.trees += 1

    def tree_ended(self, tree: Tree | Say) -> None:
        self.note(f"{tree.role} {tree.name} {tree.ends}")
        del self.living[tree.candidate]

    def released_by(self, candidate: Candidate) -> None:
        """A release has landed: no tree of whoever sent it may live, in whichever of its lives."""
        self.note(f"{candidate.name} releases")
        for tree in self.living.values():
            if tree.candidate.host is candidate.host:
                at_s = self.loop.now / SECOND_NS
                self.verdict.early_releases.append(f"{tree.name} at {at_s:.3f}")

    def note(self, line: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.loop.now / SECOND_NS:9.4f} {line}")
