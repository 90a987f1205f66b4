"""Children as people have them: a cluster of servers in Node, and a shell pipeline.

Each starts, drains and dies rightly, below another process and as the child of PID 1. Each of its
processes holds a connection to the witness. A child in Go is in `tests/container/test_bundle.py`.

What the kinds have in common: work that was begun is done when the file GATE exists. CODE is what
the main process exits with when it was asked to stop and has done what was begun. If STUBBORN,
nothing but SIGKILL ends any of its processes. `draining` on standard output: it was asked to stop.
"""

from __future__ import annotations

import http.client
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

from leaderexec.locks.file import FileLock
from tests.support.candidate import LONG, ROOT, child_command, state_of
from tests.support.required import as_pid_1, missing
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.candidate import Candidate
    from tests.support.candidates import Candidates
    from tests.support.witness import Tree

BOUND_S: Final = 60.0
#: No code that anybody else would end with.
CODE: Final = 23
_SUPPORT: Final = ROOT / "tests" / "support"


def _wait_output(candidate: Candidate, pattern: str) -> str:
    """Wait until a child has said something, and return what is in the group of the pattern."""
    found = wait_until(
        lambda: re.search(pattern, candidate.output),
        timeout_s=BOUND_S,
        what=f"{candidate.name} says {pattern!r}; log:\n{candidate.log[-2000:]}",
    )
    assert found is not None
    return found[found.lastindex or 0]


def _node(words: Sequence[str]) -> list[str]:
    node = shutil.which("node") or missing("node", "the package nodejs has it")
    return [*child_command(), "--", node, str(_SUPPORT / "node_child.mjs"), *words]


def _ask(candidate: Candidate) -> Callable[[], None]:
    """Ask a server for something quick, then for something slow."""
    port = int(_wait_output(candidate, r"port (\d+)\n"))
    _request(port, "/")()
    answered = _request(port, "/slow")
    _wait_output(candidate, "begun\n")
    return answered


def _request(port: int, path: str) -> Callable[[], None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=BOUND_S)
    connection.request("GET", path)

    def answered() -> None:
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"answered")
        connection.close()

    return answered


def _pipeline(words: Sequence[str]) -> list[str]:
    script = str(_SUPPORT / "pipeline.sh")
    return [*child_command(), "--", "sh", script, *words, *child_command()]


def _flow(candidate: Candidate) -> Callable[[], None]:
    """Wait until something flows through the pipeline, which is its work."""
    _wait_output(candidate, "answer 3\n")

    def flowed() -> None:
        number = int(_wait_output(candidate, r"answer and that was (\d+)\n"))
        answers = re.findall(r"answer (.*)\n", candidate.output)
        assert answers == [*map(str, range(1, number + 1)), f"and that was {number}"]

    return flowed


@dataclass(frozen=True)
class Kind:
    """A kind of child: `roles` are those of its processes, as the witness knows them.

    `begin` gives work to a child that is ready, and returns, when that has begun, what waits until
    it is done, and fails unless it was done rightly.
    """

    roles: tuple[str, ...]
    command: Callable[[Sequence[str]], list[str]]
    begin: Callable[[Candidate], Callable[[], None]]


KINDS: Final = {
    "node": Kind(("main", "worker", "worker"), _node, _ask),
    "pipeline": Kind(("filter", "main", "sink", "source"), _pipeline, _flow),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


class Pair:
    """A leader and a standby, whose children are of one kind; none loses its lease by itself."""

    def __init__(self, candidates: Candidates, kind: Kind, wrapper: Sequence[str]) -> None:
        candidates.timing = LONG
        self.candidates = candidates
        self.kind = kind
        self._wrapper = wrapper
        self.gate = candidates.directory / "gate"

    def start(self, name: str, *options: str, stubborn: bool = False) -> Candidate:
        """Start a candidate."""
        child = self.kind.command([str(self.gate), str(CODE), str(int(stubborn))])
        return self.candidates.start(name, *options, child=child, wrapper=self._wrapper)

    def wait_tree(self, name: str) -> Tree:
        """Wait until every process of a child runs."""

        def whole() -> Tree | None:
            for tree in self.candidates.witness.running(name):
                if sorted(process.role for process in tree.processes) == [*self.kind.roles]:
                    return tree
            return None

        what = f"{name} runs {self.kind.roles}"
        return self.candidates.witness.wait_for(whole, timeout_s=BOUND_S, what=what)

    def assert_handed_over(self, tree: Tree, pids: Sequence[int]) -> None:
        """Fail unless all that the leader was is gone and reaped, and only then the other began."""
        self.candidates.witness.wait_ended(tree, timeout_s=BOUND_S)
        # A killed process closes its connections before it is reaped.
        wait_until(
            lambda: not any(map(state_of, pids)),
            timeout_s=BOUND_S,
            what=lambda: f"nothing is left: {[*map(state_of, pids)]}",
        )
        self.wait_tree("b")
        self.candidates.assert_exclusive()


@pytest.fixture
def pair(candidates: Candidates, kind: Kind, wrapper: Sequence[str]) -> Pair:
    """Candidates of one kind."""
    return Pair(candidates, kind, wrapper)


@every_kind
@as_pid_1
def test_drains_in_order(pair: Pair) -> None:
    """Asked to stop it finishes what it has begun, under the lock; then the other one starts."""
    leader = pair.start("a")
    tree = pair.wait_tree("a")
    standby = pair.start("b")
    standby.wait_event(f"leader is {leader.identity}", timeout_s=BOUND_S)
    finish = pair.kind.begin(leader)
    pids = leader.everything()
    leader.terminate()
    _wait_output(leader, "draining\n")
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
    leader = pair.start("a", "--stop-timeout=700ms", stubborn=True)
    tree = pair.wait_tree("a")
    pair.start("b")
    pids = leader.everything()
    leader.terminate()
    assert leader.wait() == 137
    assert leader.events("killing")
    assert "draining" not in leader.output
    pair.assert_handed_over(tree, pids)
