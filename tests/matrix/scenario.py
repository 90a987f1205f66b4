"""The scenario of one cell: an election of one competitor, the fault that befalls it, what is read.

Owns: starting the competitor's candidates, each behind a proxy of its own where it speaks
to the API server; the proof that each fault took effect; and what is read when all is over. A wait
here that finds nothing is no failure: how things came out is for `model.judge` to say, and a
competitor may break what it never promised. Only a fault that cannot be proved raises (`Invalid`).
Must not know: which outcome is expected.

The race it guards: a reading that is taken too early. After a fault the scenario waits until one
child alone runs or until nobody would wait any longer, so that an overlap that is still going on is
measured, and told from one that ended.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from tests.matrix.model import After, Cell, Kind
from tests.support.candidate import (
    Candidate,
    child_command,
    is_gone,
    is_pending,
    resume,
    state_of,
)
from tests.support.competitors import COMPETITORS, OURS
from tests.support.wait import wait_until
from tests.support.witness import now_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeVar

    from tests.matrix.model import Fault, Timing
    from tests.support.competitors import Competitor
    from tests.support.kube_candidates import KubeCandidates
    from tests.support.proxy import Proxy
    from tests.support.witness import Tree

    T = TypeVar("T")

#: What a proxy that is a black hole counts: a request, or the new connection that one needs.
BLACK_HOLED = ("black_holed", "connections_black_holed")
#: How long a candidate may take to start and to lead where nobody else does.
_START_S = 60.0
#: How long a fault may take to be seen to have taken effect.
_EFFECT_S = 30.0
#: How many leases somebody waits for what must come of a fault, and for an overlap to end.
_PATIENCE_LEASES = 5.0
_TAIL_LEASES = 2.0


class Invalid(Exception):
    """The cell proves nothing: the fault, or what must be there before it, was not to be had."""


class How(TypedDict, total=False):
    """How a candidate is started: what is not given is as for every other of the election.

    `child` are flags of its test child, `command` is what it runs instead of a test child,
    `competitor` another one that it is of.
    """

    child: Sequence[str]
    command: Sequence[str]
    wrapper: Sequence[str]
    env: Mapping[str, str]
    competitor: str


class Scenario:
    """One election, as a fault sees it.

    `competitor` is its name. `first` is the tree that ran before the fault, once there is one.
    `candidates`, `plane` and `witness` are there for what has no word here; servers of the control
    plane are stopped or paused by `server` only. `proxy` returns the one of a candidate.
    """

    def __init__(
        self,
        competitor: str,
        fault: Fault,
        timing: Timing,
        candidates: KubeCandidates,
    ) -> None:
        self.competitor = competitor
        self.ours = competitor == OURS
        self.timing = timing
        self.candidates = candidates
        self.directory = candidates.directory
        self.plane = candidates.plane
        self.proxy = candidates.proxy
        self.witness = candidates.witness
        self.first: Tree | None = None
        self.facts: dict[str, Any] = {}
        self.proofs: list[str] = []
        self.broken: list[str] = []
        self._fault = fault
        self._began_ns: int | None = None
        self._mended_ns = 0
        self._competitors: dict[str, Competitor] = {}
        self._made_by: dict[str, Competitor] = {}
        candidates.timing = timing.options
        candidates.lease_s = float(timing.lease_s)

    # --- what is there

    @property
    def tree(self) -> Tree:
        """The tree that ran before the fault."""
        if self.first is None:
            raise Invalid("no child ran before the fault")
        return self.first

    def candidate(self, name: str) -> Candidate:
        """Return a candidate by its name."""
        return self.candidates.by_name[name]

    # --- candidates

    def start(self, name: str, *options: str, **how: Unpack[How]) -> Candidate:
        """Start a candidate behind a proxy of its own."""
        of = how.get("competitor", self.competitor)
        if of not in self._competitors:
            self._competitors[of] = COMPETITORS[of](self.candidates)
        self._made_by[name] = competitor = self._competitors[of]
        if competitor.proxied:
            self.candidates.proxied(name)
        return competitor.start(
            name,
            *options,
            child=how.get("command") or child_command(*how.get("child", ())),
            wrapper=how.get("wrapper", ()),
            env=how.get("env"),
        )

    def leader(self, *options: str, name: str = "a", **how: Unpack[How]) -> Candidate:
        """Start a candidate and wait until its tree, which becomes `first`, is ready."""
        candidate = self.start(name, *options, **how)
        try:
            (self.first,) = self.witness.wait_running(1, name, timeout_s=_START_S)
            self.witness.wait_note("ready", name, timeout_s=_START_S)
        except AssertionError as error:
            raise Invalid(f"{name} does not lead: {error}; log: {candidate.log[-1500:]}") from None
        return candidate

    def standby(self, name: str = "b", *options: str, **how: Unpack[How]) -> Candidate:
        """Start a candidate and wait until it has seen the lock and waits for it."""
        candidate = self.start(name, *options, **how)
        try:
            self._made_by[name].wait_standing(candidate)
        except AssertionError as error:
            raise Invalid(f"{name} does not stand by: {error}") from None
        return candidate

    def pair(self, *options: str, **how: Unpack[How]) -> Candidate:
        """Start a leader, `a`, and a standby, `b`, which is as every other; return the leader."""
        leader = self.leader(*options, **how)
        self.standby()
        return leader

    def wrapper_of(self, candidate: Candidate) -> int:
        """Return the pid of what wraps the child: leaderexec's guardian, another's only process."""
        return candidate.guardian

    def child_of(self, tree: Tree) -> int:
        """Return the pid of a tree's main process, as it is seen from here."""
        return tree.with_role("main")[0].pid

    # --- faults, each with its proof

    def begin(self) -> None:
        """Note that the fault begins now; the first fault does so by itself."""
        if self._began_ns is None:
            self._began_ns = now_ns()

    def mended(self) -> None:
        """Note that what kept everybody from leading is over now."""
        self._mended_ns = now_ns()

    def prove(self, what: str, condition: Callable[[], T], *, timeout_s: float = _EFFECT_S) -> T:
        """Wait until `condition` is true, and note that it was: the fault took effect."""
        try:
            value = wait_until(condition, timeout_s=timeout_s, what=what)
        except AssertionError as error:
            raise Invalid(f"not proved: {error}") from None
        self.proofs.append(what)
        return value

    def stop(self, pid: int, what: str) -> None:
        """Stop a process (SIGSTOP)."""
        self.begin()
        os.kill(pid, signal.SIGSTOP)
        self.prove(f"{what} is stopped", lambda: state_of(pid) in {"T", "t"})

    def resume(self, pid: int, what: str) -> None:
        """Continue a stopped process."""
        resume(pid)
        self.prove(f"{what} goes on", lambda: state_of(pid) not in {"T", "t"})

    def kill(self, pid: int, what: str, signum: int = signal.SIGKILL) -> None:
        """Kill a process and wait until it is dead."""
        self.begin()
        os.kill(pid, signum)
        self.prove(f"{what} is dead", lambda: is_gone(pid))

    def deliver(self, pid: int, what: str, signum: int = signal.SIGTERM) -> None:
        """Send a process a signal and wait until it has taken it, whatever comes of that."""
        self.begin()
        os.kill(pid, signum)
        self.prove(
            f"{what} has taken {signal.Signals(signum).name}", lambda: not is_pending(pid, signum)
        )

    def network(self, name: str, inflict: Callable[[Proxy], object], *counters: str) -> None:
        """Do something to a candidate's network; one of `counters` of its proxy must count it."""
        proxy = self.proxy(name)

        def counted() -> int:
            now = proxy.counters()
            return sum(now[counter] for counter in counters)

        before = counted()
        self.begin()
        inflict(proxy)
        self.prove(f"{counters[0]} at the proxy of {name}", lambda: counted() > before)

    def black_hole(self, name: str) -> None:
        """Cut a candidate off: its next request is lost, or the new connection that it makes."""
        self.network(name, lambda proxy: proxy.black_hole(), *BLACK_HOLED)

    def server(self, order: str) -> int:
        """Do `start`, `stop`, `pause` or `resume` to a server of the cell's own control plane.

        The order names it too: `stop etcd`. Return the instant at which it was about to be done.
        """
        assert self._fault.own_plane, "others would be surprised"
        verb, _, name = order.partition(" ")
        server = self.plane.etcd if name == "etcd" else self.plane.apiserver
        at_ns = now_ns()
        self.begin()
        getattr(server, verb)()
        if verb in {"start", "resume"}:
            self.plane.wait_ready()
        elif verb == "stop" and server.running:
            raise Invalid(f"{order}: it still runs")
        self.proofs.append(order)
        return at_ns

    # --- what comes of it

    def require(self, what: str, ok: object) -> None:
        """Note a promise of this fault's own: it is broken unless `ok`."""
        if not ok:
            self.broken.append(what)

    def patience_s(self, leases: float = _PATIENCE_LEASES) -> float:
        """Return how long somebody waits for something that takes leases."""
        return leases * self.timing.lease_s + 10

    def ends(self, tree: Tree | None = None, *, leases: float = _PATIENCE_LEASES) -> bool:
        """Wait until a tree, the first unless another is given, is dead; whether it is."""
        tree = tree or self.tree
        return bool(self.came(lambda: self._seen_ended(tree), timeout_s=self.patience_s(leases)))

    def successor(
        self, tree: Tree | None = None, *, leases: float = _PATIENCE_LEASES
    ) -> Tree | None:
        """Wait for a tree that started after `tree`, the first unless another is given."""
        before = tree or self.tree
        try:
            return self.witness.wait_successor(before, timeout_s=self.patience_s(leases))
        except AssertionError:
            return None

    def exit_code(self, candidate: Candidate, *, leases: float = _PATIENCE_LEASES) -> int | None:
        """Wait for the end of a candidate, and return its code; None if it does not end."""
        ended = self.came(
            lambda: candidate.process.poll() is not None, timeout_s=self.patience_s(leases)
        )
        return candidate.wait(0) if ended else None

    def elapse(self, leases: float) -> None:
        """Let so many leases pass since the fault began, whatever happens in them."""
        assert self._began_ns is not None, "no fault has begun"
        until_ns = self._began_ns + int(leases * self.timing.lease_s * 1e9)
        self.came(lambda: now_ns() >= until_ns, timeout_s=leases * self.timing.lease_s + 60)

    def renewed(self, name: str = "a", times: int = 3) -> bool:
        """Wait until a candidate has written the lock that often from now on; whether it has."""
        before = len(self.writes(name))
        return bool(
            self.came(
                lambda: len(self.writes(name)) >= before + times,
                timeout_s=self.patience_s(),
            )
        )

    def ends_unless_renewed(self, name: str = "a", times: int = 3) -> bool:
        """Wait until the first tree is dead, or its candidate writes on; whether it is dead."""
        many = len(self.writes(name)) + times

        def decided() -> bool:
            return self._seen_ended(self.tree) or len(self.writes(name)) >= many

        self.came(decided, timeout_s=self.patience_s())
        return self._seen_ended(self.tree)

    def came(self, condition: Callable[[], T], *, timeout_s: float) -> T | None:
        """Wait until `condition` is true; None if it does not come true in that time."""
        try:
            return wait_until(condition, timeout_s=timeout_s, what="it comes")
        except AssertionError:
            return None

    def writes(self, name: str, *, told_by_ns: int | None = None) -> list[int]:
        """Return when each write of a candidate that succeeded reached its proxy.

        With `told_by_ns` only those count of which it had been told by then.
        """
        return [
            request.at_ns
            for request in self.proxy(name).requests()
            if request.method in {"POST", "PUT", "PATCH"}
            and request.upstream_status in {200, 201}
            and "/events" not in request.path
            and (told_by_ns is None or 0 < request.replied_ns <= told_by_ns)
        ]

    def _seen_ended(self, tree: Tree) -> bool:
        self.witness.sync()
        return tree.ended_ns is not None

    # --- when all is over

    def read(self, cell: Cell) -> None:
        """Wait for the end of what goes on, and write down what was seen."""
        self._settle()
        witness = self.witness
        trees = witness.trees()
        running = witness.running()
        overlaps = witness.overlaps()
        cell.trees = [f"{tree.candidate}/{tree.run}" for tree in trees]
        cell.running = len(running)
        cell.ran_before = self.first is not None
        cell.kept = trees == [self.first] and running == trees
        cell.overlap_s = max((pair.overlap_ns for pair in overlaps), default=0) / 1e9
        cell.overlap_open = any(pair.first.running and pair.second.running for pair in overlaps)
        cell.resolution_s = witness.resolution_ns / 1e9
        cell.gap_s = max((self._gap_s(gap) for gap in witness.gaps()), default=None)
        if self.first is not None and self.first.ended_ns and self._began_ns:
            cell.stop_s = (self.first.ended_ns - self._began_ns) / 1e9
        cell.spare_s = min(filter(None, map(self._spare_s, trees)), default=None)
        cell.proofs = self.proofs
        cell.facts = self.facts
        cell.broken = list(self.broken) if self.ours else []

    def _settle(self) -> None:
        expected = 0 if self._fault.after is After.NOBODY else 1
        judged = self.ours and self._fault.kind is not Kind.REPORTED
        patience = _PATIENCE_LEASES if judged else _TAIL_LEASES
        self.came(
            lambda: len(self.witness.running()) == expected, timeout_s=self.patience_s(patience)
        )

    def _gap_s(self, gap: Any) -> float:
        # Somebody may lead a moment before it is noted that all is mended.
        started_ns = max(gap.started_ns, min(self._mended_ns, gap.ended_ns))
        return float(gap.ended_ns - started_ns) / 1e9

    def _spare_s(self, tree: Tree) -> float | None:
        """Return how much of its lease was left when a tree was dead, as far as the proxy tells."""
        if tree.ended_ns is None or tree.candidate not in self.candidates.proxies:
            return None
        writes = self.writes(tree.candidate, told_by_ns=tree.ended_ns)
        if not writes:
            return None
        return (max(writes) - tree.ended_ns) / 1e9 + self.timing.lease_s
