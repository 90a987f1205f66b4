"""Candidates of one election, on one file lock unless a test says otherwise.

Owns starting several candidates the same way, finding the leader among them by what the witness
saw, and ending them. The verdict of every test about exclusivity is `assert_exclusive`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self, TypedDict

from tests.support.candidate import FAST, FAST_LEASE_S, Candidate, child_command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Unpack

    from tests.support.witness import Tree, Witness


#: A child that keeps the processor busy takes long to be ready, and so does who starts beside it.
_START_S: Final = 60.0
#: Generous: a loaded machine may take long, and no test asserts a speed.
TAKEOVER_S: Final = 4 * FAST_LEASE_S


class How(TypedDict, total=False):
    """How a candidate differs from the others of a test.

    `child` is its command instead of a test child, an empty one only elects; `lock` stands for the
    options of the election, `env` is added to the environment, `stderr` is a descriptor for its
    log.
    """

    child: Sequence[str] | None
    lock: Sequence[str] | None
    env: Mapping[str, str] | None
    wrapper: Sequence[str]
    stderr: int | None


class Candidates:
    """The candidates of a test.

    `lock` holds the options that name the election and its lock; tests of other locks replace it.
    """

    def __init__(self, witness: Witness, directory: Path) -> None:
        self.witness = witness
        self.directory = directory
        self.lock: Sequence[str] = ("--election=x", f"--lock=file:{directory / 'lock'}")
        self.timing: Sequence[str] = FAST
        #: The lease duration of that timing.
        self.lease_s = FAST_LEASE_S
        #: How long a takeover may take with it, on a loaded machine.
        self.takeover_s = TAKEOVER_S
        self.by_name: dict[str, Candidate] = {}

    def __enter__(self) -> Self:
        """Start nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill whatever is left."""
        for candidate in self.by_name.values():
            candidate.kill()

    def make(self, name: str, *options: str, **how: Unpack[How]) -> Candidate:
        """Return a candidate that is not started."""
        child = how.get("child")
        candidate = Candidate(
            name=name,
            options=[*(how.get("lock") or self.lock), *self.timing, "--log-level=debug", *options],
            command=child_command() if child is None else child,
            directory=self.directory,
            env={**self.witness.env(name), **(how.get("env") or {})},
            wrapper=how.get("wrapper", ()),
            stderr=how.get("stderr"),
        )
        self.by_name[name] = candidate
        return candidate

    def start(self, name: str, *options: str, **how: Unpack[How]) -> Candidate:
        """Make a candidate and start it."""
        return self.make(name, *options, **how).start()

    def start_leader(
        self, name: str = "a", *options: str, **how: Unpack[How]
    ) -> tuple[Candidate, Tree]:
        """Start a candidate and wait until the witness sees its tree, ready."""
        candidate = self.start(name, *options, **how)
        (tree,) = self.witness.wait_running(1, name, timeout_s=_START_S)
        self.witness.wait_note("ready", name, timeout_s=_START_S)
        return candidate, tree

    def start_standby(self, name: str = "b", *options: str, **how: Unpack[How]) -> Candidate:
        """Start a candidate and wait until it stands by."""
        candidate = self.start(name, *options, **how)
        candidate.wait_event("campaigning", timeout_s=_START_S)
        return candidate

    def leader(self, tree: Tree) -> Candidate:
        """Return the candidate whose tree this is."""
        return self.by_name[tree.candidate]

    def assert_followed(
        self, tree: Tree, by: str | None = None, *, timeout_s: float | None = None
    ) -> Tree:
        """Wait for the tree after this one, which is `by`'s, and fail if two ever ran at once."""
        timeout_s = self.takeover_s if timeout_s is None else timeout_s
        successor = self.witness.wait_successor(tree, timeout_s=timeout_s)
        assert by in {None, successor.candidate}
        self.assert_exclusive()
        return successor

    def signals(self, name: str = "a") -> list[str]:
        """Return the signals that the processes of a candidate's trees were sent, in order."""
        words = [note.text.partition(" ") for note in self.witness.notes(name)]
        return [rest for word, _, rest in words if word == "signal"]

    def assert_exclusive(self) -> None:
        """Fail if the witness saw two trees at once."""
        overlaps = self.witness.overlaps()
        assert not overlaps, f"two trees ran at once: {overlaps}"
