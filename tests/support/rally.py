"""Candidates of one election, on one file lock unless a test says otherwise.

Owns starting several candidates the same way, finding the leader among them by what the witness
saw, and ending them. The verdict of every test about exclusivity is `assert_exclusive`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from tests.support.candidates import FAST, FAST_LEASE_S, Candidate, puppet_command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.support.witness import Tree, Witness


class Rally:
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
        self.candidates: dict[str, Candidate] = {}

    def __enter__(self) -> Self:
        """Start nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill whatever is left."""
        for candidate in self.candidates.values():
            candidate.kill()

    def make(
        self,
        name: str,
        *options: str,
        child: Sequence[str] | None = None,
        lock: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
        stderr: int | None = None,
    ) -> Candidate:
        """Return a candidate that is not started.

        Its child is a puppet unless `child` is given; an empty one only elects.
        """
        candidate = Candidate(
            name=name,
            options=[*(lock or self.lock), *self.timing, "--log-level=debug", *options],
            command=puppet_command() if child is None else child,
            directory=self.directory,
            env={**self.witness.env(name), **(env or {})},
            wrapper=wrapper,
            stderr=stderr,
        )
        self.candidates[name] = candidate
        return candidate

    def start(
        self,
        name: str,
        *options: str,
        child: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
        stderr: int | None = None,
    ) -> Candidate:
        """Make a candidate and start it."""
        return self.make(
            name, *options, child=child, env=env, wrapper=wrapper, stderr=stderr
        ).start()

    def start_leader(
        self,
        name: str = "a",
        *options: str,
        child: Sequence[str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> tuple[Candidate, Tree]:
        """Start a candidate and wait until the witness sees its tree, ready."""
        candidate = self.start(name, *options, child=child, wrapper=wrapper)
        (tree,) = self.witness.wait_running(1, name, timeout_s=20)
        self.witness.wait_note("ready", name)
        return candidate, tree

    def start_standby(
        self, name: str = "b", *options: str, child: Sequence[str] | None = None
    ) -> Candidate:
        """Start a candidate and wait until it stands by."""
        candidate = self.start(name, *options, child=child)
        candidate.wait_event("campaigning")
        return candidate

    def leader(self, tree: Tree) -> Candidate:
        """Return the candidate whose tree this is."""
        return self.candidates[tree.candidate]

    def assert_exclusive(self) -> None:
        """Fail if the witness saw two trees at once."""
        overlaps = self.witness.overlaps()
        assert not overlaps, f"two trees ran at once: {overlaps}"
