"""Children as people have them: in Go, in Node, a shell pipeline.

Each starts, drains and dies rightly, below another process and as the child of PID 1. The witness
knows every one of their processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from leaderexec.locks.file import FileLock
from tests.support.candidate import LONG, state_of
from tests.support.kinds import KINDS, wait_draining
from tests.support.required import as_pid_1
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.candidate import Candidate
    from tests.support.candidates import Candidates
    from tests.support.kinds import Kind
    from tests.support.witness import Tree

BOUND_S: Final = 60.0
#: No code that anybody else would end with.
CODE: Final = 23

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


class Pair:
    """A leader and a standby, whose children are of one kind; none loses its lease by itself."""

    def __init__(self, candidates: Candidates, kind: Kind, wrapper: Sequence[str]) -> None:
        candidates.timing = LONG
        self.candidates = candidates
        self.kind = kind
        self._wrapper = wrapper
        self.gate = candidates.directory / "gate"

    def start(self, *options: str, stubborn: bool = False) -> tuple[Candidate, Tree, Candidate]:
        """Start a leader with the whole tree of its child, and a standby with an obedient child."""
        child = self._child(stubborn=stubborn)
        start, wrapper = self.candidates.start, self._wrapper
        leader = start("a", *options, child=child, wrapper=wrapper)
        tree = self._wait_tree("a")
        standby = start("b", child=self._child(stubborn=False), wrapper=wrapper)
        standby.wait_event(f"leader is {leader.identity}", timeout_s=BOUND_S)
        return leader, tree, standby

    def _child(self, *, stubborn: bool) -> list[str]:
        words = [str(self.gate), str(CODE), str(int(stubborn))]
        return [*self.kind.command(), *words, *self.kind.after()]

    def _wait_tree(self, name: str) -> Tree:
        expected = sorted(self.kind.roles)

        def whole() -> Tree | None:
            trees = self.candidates.witness.running(name)
            roles = [[process.role for process in tree.processes] for tree in trees]
            return trees[0] if list(map(sorted, roles)) == [expected] else None

        return self.candidates.witness.wait_for(
            whole, timeout_s=BOUND_S, what=f"{name} runs {expected}"
        )

    def assert_handed_over(self, tree: Tree, pids: Sequence[int]) -> None:
        """Fail unless all that the leader was is gone and reaped, and only then the other began."""
        self.candidates.witness.wait_ended(tree, timeout_s=BOUND_S)
        # A killed process closes its connections before it is reaped.
        wait_until(
            lambda: not any(map(state_of, pids)),
            timeout_s=BOUND_S,
            what=lambda: f"nothing is left: {[*map(state_of, pids)]}",
        )
        self._wait_tree("b")
        self.candidates.assert_exclusive()


@pytest.fixture
def pair(candidates: Candidates, kind: Kind, wrapper: Sequence[str]) -> Pair:
    """Candidates of one kind."""
    return Pair(candidates, kind, wrapper)


@every_kind
@as_pid_1
def test_drains_in_order(pair: Pair) -> None:
    """Asked to stop it finishes what it has begun, under the lock; then the other one starts."""
    leader, tree, standby = pair.start()
    finish = pair.kind.begin(leader)
    pids = leader.everything()
    leader.terminate()
    wait_draining(leader)
    seen = FileLock(str(pair.candidates.directory / "lock"), "x").read(1)
    assert seen is not None
    assert seen.record.holder == leader.identity
    assert pair.candidates.witness.running() == [tree]
    pair.gate.touch()
    finish()
    assert leader.wait() == CODE
    pair.assert_handed_over(tree, pids)
    finish = pair.kind.begin(standby)
    standby.terminate()
    finish()
    assert standby.wait() == CODE


@every_kind
@as_pid_1
def test_what_ignores_the_stop_signal_is_killed(pair: Pair) -> None:
    """At --stop-timeout all processes of a child that ignores TERM are killed, and then reaped."""
    leader, tree, _ = pair.start("--stop-timeout=700ms", stubborn=True)
    pids = leader.everything()
    leader.terminate()
    assert leader.wait() == 137
    assert leader.events("killing")
    assert "draining" not in leader.output
    pair.assert_handed_over(tree, pids)
