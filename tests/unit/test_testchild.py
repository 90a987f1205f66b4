"""What the witness's verdict rests on: it sees every process of a test child, whatever that does.

A process without a connection would be a tree that runs on unseen, and no test would fail. All else
that a test child does is found out by the tests that use it. A dead main thread with a live one,
and the death with the witness, are in test_witness.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support import testchild

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.witness import Tree, Witness


@contextlib.contextmanager
def started(witness: Witness, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], Tree]]:
    """A test child that is ready, and the only tree; killed at the end."""
    with subprocess.Popen(testchild.command(*flags), env=witness.env("a")) as process:
        try:
            witness.wait_note("ready")
            (tree,) = witness.trees()
            yield process, tree
        finally:
            process.kill()


@pytest.mark.parametrize(
    "kind", ["plain", "setsid", "daemon", "emptyenv", "setsid+emptyenv+ignore"]
)
def test_grandchildren_are_seen(witness: Witness, kind: str) -> None:
    """Each kind of grandchild is of the tree, is what it is named for, and is heard of."""
    with started(witness, "--spawn", f"{kind}*2") as (child, tree):
        grandchildren = tree.with_role(kind)
        assert len(grandchildren) == 2
        for count, pid in enumerate([each.pid for each in grandchildren], start=1):
            own_session = "setsid" in kind or kind == "daemon"
            assert (os.getsid(pid) != os.getsid(child.pid)) == own_session
            with open(f"/proc/{pid}/environ", "rb") as environ:
                assert (environ.read() == b"") == ("emptyenv" in kind)
            os.kill(pid, signal.SIGTERM)
            assert witness.wait_note("signal TERM", count=count).pid == pid
        if "ignore" in kind:
            assert len(tree.live_pids) == 3
        else:
            witness.wait_for(lambda: tree.live_pids == (child.pid,), what="the end of the others")


@pytest.mark.parametrize("every", [1, 5])
def test_chains_are_seen_throughout(witness: Witness, every: int) -> None:
    """A chain stays connected while its links come and go, each in its own session."""
    with started(witness, "--chains", "2", "--chain-every", str(every)) as (child, tree):
        before = len(tree.processes)
        child.kill()
        child.wait(timeout=10)
        witness.wait_for(lambda: len(tree.processes) > before + 20, what="twenty links")
        assert tree.running


def test_unknown_flags_are_refused() -> None:
    """A misspelt flag fails, rather than leaving out what a test wants of its child."""
    command = testchild.command("--exti", "3")
    done = subprocess.run(command, capture_output=True, check=False, timeout=10)
    assert done.returncode == testchild.EXIT_USAGE
    assert b"--exti" in done.stderr
