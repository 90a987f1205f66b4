"""Golden files: what is given, and exactly what is answered, as text that a person can read.

A file of `tests/unit/golden` has cases: a line that says what is given, and below it, indented, the
answer. `[in a pod]` begins a section, which is the place of its cases; `#` begins a comment.
`LEADEREXEC_REWRITE=1 make unit ARGS='-k "golden or story"'` writes the present answers into the
files; the difference is what to review. Where each section is a test of its own, one worker runs
them all (`xdist_group`).
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_DIRECTORY: Final = Path(__file__).parents[1] / "unit" / "golden"
_INDENT: Final = "    "

E = TypeVar("E")


def cases(name: str) -> Iterator[tuple[str, str]]:
    """Return the place of each case of a file and what is given."""
    place = ""
    for line in _path(name).read_text().splitlines():
        if line.startswith("["):
            place = line.strip("[]")
        elif line and not line.startswith(("#", _INDENT)):
            yield place, line


def sections(name: str) -> list[str]:
    """Return the places of a file."""
    return list(dict.fromkeys(place for place, _ in cases(name)))


def check(name: str, answer: Callable[[str, str], str], section: str | None = None) -> None:
    """Fail unless each case of a file, or of one section, is answered as the file says."""
    after = []
    place = ""
    for line in _path(name).read_text().splitlines():
        if line.startswith("["):
            place = line.strip("[]")
        asked = section in {None, place}
        if asked and line.startswith(_INDENT):
            continue
        after.append(line)
        if asked and line and not line.startswith(("#", "[", _INDENT)):
            after += [f"{_INDENT}{said}" for said in answer(place, line).splitlines()]
    check_text(name, "\n".join(after))


def check_text(name: str, text: str) -> None:
    """Fail unless a file is this text."""
    if os.environ.get("LEADEREXEC_REWRITE"):
        _path(name).write_text(text + "\n")
    before = _path(name).read_text().splitlines()
    changes = "\n".join(difflib.unified_diff(before, text.splitlines(), lineterm="", n=1))
    assert not changes, f"{name}.txt differs (see {__name__} for how to rewrite it):\n{changes}"


class Story(ABC, Generic[E]):
    """What happens to a pure core: the cases of a file are events, or a question with its mark."""

    @abstractmethod
    def play(self, text: str) -> list[E]:
        """Let one event happen, and return what the core does about it."""

    @abstractmethod
    def ask(self, what: str) -> str:
        """Answer a question to the core."""

    @abstractmethod
    def word(self, effect: E) -> str:
        """Say what an effect is; nothing, if it is none that a story tells."""

    @abstractmethod
    def wait(self, duration_ns: int) -> list[E]:
        """Let time pass, and return what the core does in it."""

    def tell(self, _place: str, line: str) -> str:
        """Return the answer to a case."""
        if line.endswith("?"):
            return self.ask(line[:-1])
        effects = [effect for event in line.split("; ") for effect in self.play(event)]
        return ", ".join(filter(None, map(self.word, effects)))

    def after(self, duration_ns: int) -> list[E]:
        """Let time pass, at whose end the core must do something, and before it nothing."""
        assert not any(map(self.word, self.wait(duration_ns - 1)))
        effects = self.wait(1)
        assert any(map(self.word, effects)), f"nothing after {duration_ns} ns"
        return effects


def words(line: str) -> list[str]:
    r"""Split what is given as a shell would; `\n` is a line's end, `{254*n}` so many letters."""
    return [
        re.sub(r"\{(\d+)\*(.+?)\}", lambda many: int(many[1]) * many[2], word)
        for quoted in shlex.split(line)
        for word in [quoted.encode("latin-1", "backslashreplace").decode("unicode_escape")]
    ]


def _path(name: str) -> Path:
    return _DIRECTORY / f"{name}.txt"
