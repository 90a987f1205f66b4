"""Children of several kinds: servers in Go and in Node, and a shell pipeline.

Each is a `Kind`: how it is started, which processes it consists of, and how work is given to it.
Every one of its processes holds a connection to the witness. What all of them have in common:

- GATE: work that was begun is done when this file exists, so that a test says what happens while.
- CODE: what the main process exits with when it was asked to stop and has done what was begun.
- STUBBORN: nothing but SIGKILL ends any of its processes.
- On standard output stands `draining` when it was asked to stop.
"""

from __future__ import annotations

import http.client
import re
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.candidate import child_command
from tests.support.controlplane import GoProgram, Unavailable
from tests.support.required import missing
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.candidate import Candidate

_HERE: Final = Path(__file__).resolve().parent
_BOUND_S: Final = 60.0


@dataclass(frozen=True)
class Kind:
    """A kind of child: `roles` are those of its processes, as the witness knows them.

    `command` returns the words before GATE, CODE and STUBBORN, `after` those behind them. `begin`
    gives work to a child that is ready, and returns, when that has begun, what waits until it is
    done, and fails unless it was done rightly.
    """

    roles: tuple[str, ...]
    command: Callable[[], list[str]]
    begin: Callable[[Candidate], Callable[[], None]]
    after: Callable[[], list[str]] = list


def _wait_output(candidate: Candidate, pattern: str) -> str:
    """Wait until a child has said something, and return what is in the group of the pattern."""
    found = wait_until(
        lambda: re.search(pattern, candidate.output),
        timeout_s=_BOUND_S,
        what=f"{candidate.name} says {pattern!r}; log:\n{candidate.log[-2000:]}",
    )
    assert found is not None
    return found[found.lastindex or 0]


def wait_draining(candidate: Candidate) -> None:
    """Wait until a child has taken a request to stop."""
    _wait_output(candidate, "draining\n")


# --- servers


def _ask(candidate: Candidate) -> Callable[[], None]:
    """Ask a server for something quick, then for something slow."""
    port = int(_wait_output(candidate, r"port (\d+)\n"))
    _request(port, "/")()
    answered = _request(port, "/slow")
    _wait_output(candidate, "begun\n")
    return answered


def _request(port: int, path: str) -> Callable[[], None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_BOUND_S)
    connection.request("GET", path)

    def answered() -> None:
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"answered")
        connection.close()

    return answered


@cache
def _built() -> Path | Unavailable:
    try:
        return GoProgram(_HERE / "goserver").build()
    except Unavailable as reason:
        return reason


def _go() -> list[str]:
    built = _built()
    path = built if isinstance(built, Path) else missing("goserver", built)
    return [*child_command(), "--", str(path)]


def _node() -> list[str]:
    node = shutil.which("node") or missing("node", "the package nodejs has it")
    return [*child_command(), "--", node, str(_HERE / "node_child.mjs")]


# --- a pipeline, whose work is what flows through it


def _pipeline() -> list[str]:
    return [*child_command(), "--", "sh", str(_HERE / "pipeline.sh")]


def _flow(candidate: Candidate) -> Callable[[], None]:
    _wait_output(candidate, "answer 3\n")

    def flowed() -> None:
        number = int(_wait_output(candidate, r"answer and that was (\d+)\n"))
        answers = re.findall(r"answer (.*)\n", candidate.output)
        assert answers == [*map(str, range(1, number + 1)), f"and that was {number}"]

    return flowed


KINDS: Final = {
    # One process that serves, and one that works for it.
    "go": Kind(("main", "worker"), _go, _ask),
    # A cluster: a primary, and workers that serve.
    "node": Kind(("main", "worker", "worker"), _node, _ask),
    "pipeline": Kind(("main", "source", "filter", "sink"), _pipeline, _flow, child_command),
}
