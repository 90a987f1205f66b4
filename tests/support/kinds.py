"""Children of several kinds: servers in Go, Node and pre-forking Python, and a shell pipeline.

Owns: how each is started, which processes it consists of, and how work is given to it. Every one
of its processes holds a connection to the witness. What all of them have in common:

- GATE: work that was begun is done when this file exists, so that a test says what happens while.
- CODE: what the main process exits with when it was asked to stop and has done what was begun.
- STUBBORN: nothing but SIGKILL ends any of its processes.
- On standard output stands `draining` when it was asked to stop.

Must not know: leaderexec.
"""

from __future__ import annotations

import functools
import http.client
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from tests.support import witnessed
from tests.support.controlplane import GoProgram, Unavailable
from tests.support.required import missing
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from tests.support.candidate import Candidate

_HERE: Final = Path(__file__).resolve().parent
_BOUND_S: Final = 60.0
_ANSWER: Final = b"answered"


class Work(Protocol):
    """Something that a child has begun."""

    def finish(self) -> None:
        """Wait until it is done, and fail unless it was done rightly."""


class Kind(Protocol):
    """A kind of child: `roles` are those of its processes, as the witness knows them."""

    roles: tuple[str, ...]

    def command(self, gate: Path, code: int, *, stubborn: bool = False) -> list[str]:
        """Return how it is started."""

    def begin(self, candidate: Candidate) -> Work:
        """Give work to a child that is ready, and return when it has begun."""


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


class _Request:
    """A request over HTTP that is on its way."""

    def __init__(self, port: int, path: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_BOUND_S)
        self._connection.request("GET", path)

    def finish(self) -> None:
        response = self._connection.getresponse()
        assert (response.status, response.read()) == (200, _ANSWER)
        self._connection.close()


class Server:
    """A server: the program, and what it is given before GATE, CODE and STUBBORN."""

    def __init__(self, *roles: str) -> None:
        self.roles = roles

    def program(self) -> list[str]:
        """Return the words that start it."""
        raise NotImplementedError

    def command(self, gate: Path, code: int, *, stubborn: bool = False) -> list[str]:
        """Return how it is started."""
        return [*self.program(), str(gate), str(code), str(int(stubborn))]

    def begin(self, candidate: Candidate) -> Work:
        """Ask for something quick, then for something slow."""
        port = int(_wait_output(candidate, r"port (\d+)\n"))
        _Request(port, "/").finish()
        request = _Request(port, "/slow")
        _wait_output(candidate, "begun\n")
        return request


class Go(Server):
    """One process that serves, and one that works for it."""

    def program(self) -> list[str]:
        """Return the words that start it; the first call on a machine builds it."""
        built = _built()
        path = built if isinstance(built, Path) else missing("goserver", built)
        return [*witnessed.words(), "--", str(path)]


@functools.cache
def _built() -> Path | Unavailable:
    try:
        return GoProgram(_HERE / "goserver").build()
    except Unavailable as reason:
        return reason


class Node(Server):
    """A cluster: a primary, and workers that serve."""

    def program(self) -> list[str]:
        """Return the words that start it."""
        node = shutil.which("node") or missing("node", "the package nodejs has it")
        return [*witnessed.words(), "--", node, str(_HERE / "node_child.mjs")]


class Prefork(Server):
    """A master, and workers that serve."""

    def program(self) -> list[str]:
        """Return the words that start it."""
        return witnessed.boot("tests.support.prefork")


class Pipeline:
    """A shell, and the three programs of its pipeline; its work is what flows through."""

    roles: tuple[str, ...] = ("main", "source", "filter", "sink")

    def command(self, gate: Path, code: int, *, stubborn: bool = False) -> list[str]:
        """Return how it is started."""
        script = [*witnessed.words(), "--", "sh", str(_HERE / "pipeline.sh")]
        return [*script, str(gate), str(code), str(int(stubborn)), *witnessed.words()]

    def begin(self, candidate: Candidate) -> Work:
        """Wait until something has come out at the end."""
        _wait_output(candidate, "answer 3\n")
        return _Flow(candidate)


class _Flow:
    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate

    def finish(self) -> None:
        number = int(_wait_output(self._candidate, r"answer and that was (\d+)\n"))
        answers = re.findall(r"answer (.*)\n", self._candidate.output)
        assert answers == [*map(str, range(1, number + 1)), f"and that was {number}"]


KINDS: Final[dict[str, Kind]] = {
    "go": Go("main", "worker"),
    "node": Node("main", "worker", "worker"),
    "pipeline": Pipeline(),
    "prefork": Prefork("main", "worker", "worker", "worker"),
}
