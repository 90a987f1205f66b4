"""What no fault of a process may do: one suite, run on the file lock and on a real Lease.

Each test proves that its fault took effect (the state of the process, its death) and that a child
ran before it; the witness alone judges. `candidates` gives candidates on the lock in question; its
timing is the shortest that is lawful unless a test needs another.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.candidate import (
    BRISK,
    FAST_LEASE_S,
    child_command,
    in_pid_namespace,
    is_gone,
    kill,
    resume,
    state_of,
    stop,
)
from tests.support.wait import wait_until
from tests.support.witness import now_ns

if TYPE_CHECKING:
    from tests.support.candidate import Candidate
    from tests.support.candidates import Candidates
    from tests.support.witness import Tree

#: Generous: a loaded machine may take long, and no test asserts a speed.
TAKEOVER_S = 4 * FAST_LEASE_S

#: A descendant that is hard to find and hard to stop.
STUBBORN = ("--spawn", "setsid+emptyenv+ignore")


def stop_elector(candidates: Candidates, leader: Candidate, tree: Tree, timeout_s: float) -> Tree:
    """Stop an elector, and return the tree that runs when it has been found out.

    Its successor may renew in time, and then the child never notices; or it is too late, and
    another tree follows. Which of both is a matter of milliseconds.
    """
    elector = leader.elector
    stops, resumptions = len(leader.events("stopping")), len(leader.events("resumed leadership"))
    stop(elector)

    def found_out() -> Tree | None:
        later = [t for t in candidates.witness.running() if t.started_ns > tree.started_ns]
        if later:
            return later[0]
        survived = len(leader.events("resumed leadership")) > resumptions
        return tree if survived and len(leader.events("stopping")) == stops else None

    found = candidates.witness.wait_for(found_out, timeout_s=timeout_s, what="a leader again")
    wait_until(lambda: is_gone(elector), timeout_s=timeout_s, what="the elector is killed")
    return found


class FaultSuite:
    """Faults of our own processes, one at a time."""

    def test_elector_killed_again_and_again(self, candidates: Candidates) -> None:
        """The elector is killed ten times over three leases: the same child runs throughout.

        Each is replaced later than the one before, up to a retry period: the renew deadline leaves
        time for that, and for a machine that pauses.
        """
        # Room for the delay and a slow start: what is counted is that every kill is made good.
        candidates.timing = ("--lease-duration=12s", "--renew-deadline=8s", "--retry-period=1s")
        candidates.lease_s = 12.0
        leader, tree = candidates.start_leader("a")
        candidates.start_standby("b")
        began_ns = now_ns()
        for number in range(1, 11):
            elector = leader.elector
            kill(elector)
            leader.wait_event("resumed leadership", count=number, timeout_s=TAKEOVER_S)
            assert leader.elector != elector
            due_ns = began_ns + int(number * 0.3e9 * candidates.lease_s)
            wait_until(lambda t=due_ns: now_ns() >= t, timeout_s=30, what="a third of a lease")  # type: ignore[misc]
        assert candidates.witness.running() == [tree]
        leader.terminate()
        assert candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S).candidate == "b"
        candidates.assert_exclusive()

    def test_guardian_killed(self, candidates: Candidates) -> None:
        """A dead guardian's tree dies, a stubborn one too, and the lock is given back at once.

        The lease is long: the takeover can only come from the release.
        """
        candidates.timing = ("--lease-duration=10m", "--renew-deadline=5m", "--retry-period=1s")
        leader, tree = candidates.start_leader("a", child=child_command(*STUBBORN))
        candidates.start_standby("b").wait_event("leader is " + leader.identity)
        kill(leader.guardian)
        candidates.witness.wait_ended(tree)
        successor = candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
        assert successor.candidate == "b"
        candidates.assert_exclusive()

    def test_guardian_killed_as_init(self, candidates: Candidates) -> None:
        """As PID 1 a dead guardian takes everything along; the lease runs out."""
        leader, tree = candidates.start_leader(
            "a", child=child_command(*STUBBORN), wrapper=in_pid_namespace()
        )
        candidates.start_standby("b")
        kill(leader.guardian)
        candidates.witness.wait_ended(tree)
        successor = candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
        assert successor.candidate == "b"
        candidates.assert_exclusive()

    @pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "init"])
    def test_keeper_killed(self, candidates: Candidates, wrapped: bool) -> None:
        """What a dead keeper leaves is killed by the guardian, which then campaigns again."""
        wrapper = in_pid_namespace() if wrapped else ()
        leader, tree = candidates.start_leader("a", child=child_command(*STUBBORN), wrapper=wrapper)
        kill(leader.keeper)
        candidates.witness.wait_ended(tree)
        again = candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
        assert again.candidate == "a"
        assert not is_gone(leader.guardian)
        candidates.assert_exclusive()

    def test_keeper_stopped(self, candidates: Candidates) -> None:
        """A stopped keeper is found out by its silence; the tree is killed without it."""
        leader, tree = candidates.start_leader("a", child=child_command(*STUBBORN))
        stop(leader.keeper)
        candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
        candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
        candidates.assert_exclusive()

    def test_keeper_stopped_does_not_delay_a_kill(self, candidates: Candidates) -> None:
        """At the deadline a keeper that does not act is killed, and what it kept with it."""
        leader, tree = candidates.start_leader(
            "a", "--stop-timeout=200ms", child=child_command("--ignore", "ALL")
        )
        stop(leader.keeper)
        leader.terminate()
        assert leader.wait() == 137
        assert candidates.witness.wait_ended(tree)

    def test_elector_stopped(self, candidates: Candidates) -> None:
        """A stopped elector is replaced; whether the child survives, no two run."""
        leader, tree = candidates.start_leader("a")
        candidates.start_standby("b")
        now_leading = candidates.leader(stop_elector(candidates, leader, tree, TAKEOVER_S))
        now_leading.terminate()
        assert now_leading.wait() == 143
        candidates.assert_exclusive()

    def test_guardian_stopped(self, candidates: Candidates) -> None:
        """A stopped guardian is killed by its elector, which gives the lock back after the tree."""
        leader, tree = candidates.start_leader("a", child=child_command(*STUBBORN))
        candidates.start_standby("b")
        guardian = leader.guardian
        stop(guardian)
        successor = candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
        assert successor.candidate == "b"
        assert is_gone(guardian)
        candidates.assert_exclusive()

    def test_guardian_stopped_as_init(self, candidates: Candidates) -> None:
        """As PID 1 it cannot be killed from within: the keeper acts, and the lease ends."""
        leader, tree = candidates.start_leader(
            "a", child=child_command(*STUBBORN), wrapper=in_pid_namespace()
        )
        candidates.start_standby("b")
        guardian = leader.guardian
        stop(guardian)
        successor = candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
        assert successor.candidate == "b"
        assert state_of(guardian) == "T"
        resume(guardian)
        leader.wait_event("campaigning", timeout_s=TAKEOVER_S)
        candidates.leader(successor).terminate()
        assert candidates.witness.wait_successor(successor, timeout_s=TAKEOVER_S).candidate == "a"
        candidates.assert_exclusive()

    def test_everything_stopped_in_turn(self, candidates: Candidates) -> None:
        """Elector, keeper and guardian are stopped in turn, the tree among them: no two run."""
        for name in "abc":
            candidates.start(name)
        (tree,) = candidates.witness.wait_running(1, timeout_s=TAKEOVER_S)
        tree = stop_elector(candidates, candidates.leader(tree), tree, 2 * TAKEOVER_S)
        for part in ("keeper", "guardian"):
            stop(getattr(candidates.leader(tree), part))
            tree = candidates.witness.wait_successor(tree, timeout_s=2 * TAKEOVER_S)
        candidates.assert_exclusive()

    def test_child_and_elector_killed_together(self, candidates: Candidates) -> None:
        """The child's end is reported and the lock given back, elector or not."""
        leader, tree = candidates.start_leader("a")
        candidates.start_standby("b")
        elector = leader.elector
        kill(tree.main)
        kill(elector)
        assert leader.wait() == 137
        assert candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S).candidate == "b"
        candidates.assert_exclusive()

    def test_fork_chains_at_the_deadline(self, candidates: Candidates) -> None:
        """Twenty chains of processes that fork, change session and exit: all die in time."""
        candidates.timing = BRISK  # the elector has to share the processor
        child = child_command("--chains", "20", "--chain-every", "50", "--ignore", "ALL")
        leader, tree = candidates.start_leader("a", "--stop-timeout=300ms", child=child)
        candidates.start_standby("b")
        leader.terminate()
        assert leader.wait() == 137
        assert candidates.witness.wait_ended(tree)
        candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
        candidates.assert_exclusive()

    def test_zombie_leader_with_a_living_thread(self, candidates: Candidates) -> None:
        """A child whose main thread has exited while another works on is not taken for dead."""
        leader, tree = candidates.start_leader(
            "a", "--stop-timeout=300ms", child=child_command("--leader-exits", "--ignore", "ALL")
        )
        candidates.start_standby("b")
        wait_until(lambda: state_of(tree.main) == "Z", timeout_s=10, what="a zombie main thread")
        assert candidates.witness.running() == [tree]
        leader.terminate()
        assert leader.wait() == 137
        candidates.witness.wait_ended(tree)
        candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
        candidates.assert_exclusive()

    @pytest.mark.parametrize("part", ["elector", "guardian"])
    def test_parts_of_a_standby_die(self, candidates: Candidates, part: str) -> None:
        """A standby's elector is replaced; its guardian's death leaves nothing behind."""
        leader, tree = candidates.start_leader("a")
        standby = candidates.start_standby("b")
        elector = standby.elector
        kill(getattr(standby, part))
        wait_until(lambda: is_gone(elector), timeout_s=TAKEOVER_S, what="the elector is gone")
        if part == "elector":
            leader.terminate()
            assert candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S).candidate == "b"
        else:
            assert standby.wait() == 128 + signal.SIGKILL
            assert candidates.witness.running() == [tree]
        candidates.assert_exclusive()
