"""Children as people have them: in Go, in Node, a shell pipeline, a pre-forking server.

Each starts, drains and dies rightly, below another process and as the child of PID 1. The witness
knows every one of their processes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import pytest

from leaderexec.locks.file import FileLock
from tests.support.candidate import BRISK, BRISK_LEASE_S, in_pid_namespace, is_gone, state_of
from tests.support.hang import HangingLock
from tests.support.kinds import KINDS, wait_draining
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.candidate import Candidate
    from tests.support.candidates import Candidates
    from tests.support.kinds import Kind
    from tests.support.witness import Tree

#: Nobody loses a lease here unless a test takes it away.
UNHURRIED: Final = ("--lease-duration=2m", "--renew-deadline=90s", "--retry-period=2s")
BOUND_S: Final = 60.0
#: No code that anybody else would end with.
CODE: Final = 23

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
as_pid_1 = pytest.mark.parametrize(
    "wrapper",
    [
        pytest.param((), id="below"),
        pytest.param(
            in_pid_namespace(),
            id="pid1",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
        ),
    ],
)


class Pair:
    """A leader and a standby, whose children are of one kind."""

    def __init__(self, candidates: Candidates, kind: Kind, wrapper: Sequence[str]) -> None:
        self.candidates = candidates
        self.kind = kind
        self._wrapper = wrapper
        self.gate = candidates.directory / "gate"

    def start(
        self, name: str, *options: str, stubborn: bool = False, lock: HangingLock | None = None
    ) -> Candidate:
        """Start a candidate."""
        child = self.kind.command(self.gate, CODE, stubborn=stubborn)
        env = lock.env if lock else {}
        return self.candidates.start(name, *options, child=child, env=env, wrapper=self._wrapper)

    def wait_tree(self, name: str) -> Tree:
        """Wait until a candidate's child runs with all of its processes."""
        expected = sorted(self.kind.roles)

        def whole() -> Tree | None:
            trees = self.candidates.witness.running(name)
            roles = [[process.role for process in tree.processes] for tree in trees]
            return trees[0] if list(map(sorted, roles)) == [expected] else None

        return self.candidates.witness.wait_for(
            whole, timeout_s=BOUND_S, what=f"{name} runs {expected}"
        )

    def assert_handed_over(self, leader: Candidate, tree: Tree, pids: Sequence[int]) -> None:
        """Fail unless all that the leader was is gone and reaped, and only then the other began."""
        self.candidates.witness.wait_ended(tree)
        # Who is killed closes its connections before it is reaped.
        wait_until(
            lambda: not any(map(state_of, pids)),
            timeout_s=BOUND_S,
            what=lambda: f"nothing is left of {leader.name}: {[*map(state_of, pids)]}",
        )
        self.wait_tree("b")
        self.candidates.assert_exclusive()


@pytest.fixture
def pair(candidates: Candidates, kind: Kind, wrapper: Sequence[str]) -> Pair:
    """Candidates of one kind, of which none loses its lease by itself."""
    candidates.timing = UNHURRIED
    return Pair(candidates, kind, wrapper)


@every_kind
@as_pid_1
def test_drains_in_order(pair: Pair) -> None:
    """Asked to stop it finishes what it has begun, under the lock; then the other one starts."""
    leader = pair.start("a")
    tree = pair.wait_tree("a")
    standby = pair.start("b")
    standby.wait_event("campaigning", timeout_s=BOUND_S)
    work = pair.kind.begin(leader)
    pids = [*leader.everything()]
    leader.terminate()
    wait_draining(leader)
    seen = FileLock(str(pair.candidates.directory / "lock"), "x").read(1)
    assert seen is not None
    assert seen.record.holder == leader.identity
    assert pair.candidates.witness.running() == [tree]
    pair.gate.touch()
    work.finish()
    assert leader.wait() == CODE
    pair.assert_handed_over(leader, tree, pids)
    work = pair.kind.begin(standby)
    standby.terminate()
    work.finish()
    assert standby.wait() == CODE


@every_kind
@as_pid_1
def test_what_ignores_the_stop_signal_is_killed(pair: Pair) -> None:
    """At --stop-timeout all processes of a child that ignores TERM are killed, and then reaped."""
    leader = pair.start("a", "--stop-timeout=700ms", stubborn=True)
    tree = pair.wait_tree("a")
    pair.start("b").wait_event("campaigning", timeout_s=BOUND_S)
    pids = [*leader.everything()]
    leader.terminate()
    assert leader.wait() == 137
    assert leader.events("killing")
    assert "draining" not in leader.output
    pair.assert_handed_over(leader, tree, pids)


@every_kind
@as_pid_1
def test_a_lost_lease_kills_all_of_its_processes(pair: Pair) -> None:
    """A lease that runs out ends a child that ignores TERM before another one begins."""
    pair.candidates.timing, pair.candidates.lease_s = BRISK, BRISK_LEASE_S
    lock = HangingLock(pair.candidates.directory)
    leader = pair.start("a", stubborn=True, lock=lock)
    tree = pair.wait_tree("a")
    pair.start("b").wait_event(f"leader is {leader.identity}", timeout_s=BOUND_S)
    elector = leader.elector
    lock.hang()
    leader.wait_event("stopping", timeout_s=BOUND_S)
    wait_until(lambda: is_gone(elector), timeout_s=BOUND_S, what="the elector that hangs ends")
    pair.candidates.witness.wait_ended(tree, timeout_s=BOUND_S)
    pair.assert_handed_over(leader, tree, tree.pids)
    assert not is_gone(leader.guardian)
