"""Proof of the judge: what the witness says about lives whose instants the test decides.

The clients here are sockets of the test itself, so that each start and end happens at a known
place between two others; the last ones use real processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Self

import pytest

from tests.support.candidate import is_gone, resume, state_of, stop
from tests.support.testchild import EXIT_USAGE, command
from tests.support.wait import wait_until
from tests.support.witness import UNKNOWN, Witness, now_ns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.witness import Tree


class Life:
    """A connection to the witness that begins and ends when the test says so."""

    def __init__(
        self, witness: Witness, candidate: str, *, run: str = "1", main: int = 1, named: bool = True
    ) -> None:
        self.started_ns = now_ns()
        self.sock = socket.socket(socket.AF_UNIX)
        words = {"candidate": candidate, "run": run, "main": main, "role": "main"}
        self.hello = words | {"started_ns": self.started_ns}
        if named:
            fields = ("witness", *self.hello.values(), id(self))
            self.sock.bind("\0" + "\x1f".join(map(str, fields)))
        self.sock.connect(witness.path)

    def say_hello(self) -> Self:
        """Send the first line."""
        self.sock.sendall(json.dumps(self.hello).encode() + b"\n")
        return self

    def end(self) -> int:
        """Close, and return an instant right before."""
        before_ns = now_ns()
        self.sock.close()
        return before_ns

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


@contextlib.contextmanager
def stopped(witness: Witness) -> Iterator[None]:
    """Keep the witness from looking, so that all that happens is found by one wake-up."""
    stop(witness.pid)
    try:
        yield
    finally:
        resume(witness.pid)


def _spin(duration_ns: int) -> None:
    """Let that much time pass without letting go of the processor."""
    end_ns = now_ns() + duration_ns
    while now_ns() < end_ns:
        pass


def test_overlap_is_reported_with_its_length(witness: Witness) -> None:
    """Two trees that run at once are an overlap of the time they share."""
    with Life(witness, "a").say_hello() as old, Life(witness, "b").say_hello() as new:
        witness.wait_running(2)
        assert len(witness.overlaps()) == 1, "it is reported before either has ended"
        _spin(20_000_000)
        before_ns = old.end()
        witness.wait_running(1)
        (overlap,) = witness.overlaps()
    assert (overlap.first.candidate, overlap.second.candidate) == ("a", "b")
    assert overlap.overlap_ns >= overlap.certain_ns
    assert overlap.overlap_ns >= before_ns - new.started_ns >= 20_000_000
    assert overlap.overlap_ns <= now_ns() - new.started_ns


def test_a_handover_is_no_overlap(witness: Witness) -> None:
    """A tree that starts right after the end of the last one is none, however often.

    The next tree is told from the one that ran before, even by the same candidate.
    """
    for number in range(200):
        Life(witness, "aab"[number % 3], run=str(number)).say_hello().end()
    assert witness.overlaps() == []
    trees = witness.trees()
    assert len(trees) == 200
    with Life(witness, "b", run="200").say_hello():
        assert witness.wait_successor(trees[-1], timeout_s=10).run == "200"


def test_a_handover_a_millisecond_apart_is_a_gap(witness: Witness) -> None:
    """The time in which nobody ran is told, and between which trees."""
    before_ns = Life(witness, "a").say_hello().end()
    witness.wait_running(0)
    _spin(1_000_000)
    with Life(witness, "b").say_hello() as new:
        (gap,) = witness.gaps()
        assert (gap.first.candidate, gap.second.candidate) == ("a", "b")
        assert gap.ended_ns == new.started_ns
        assert gap.ended_ns - 1_000_000 >= gap.started_ns >= before_ns
    assert witness.overlaps() == []


@pytest.mark.parametrize("late_ns", [0, 1_000_000, 5_000_000, 10_000_000, 30_000_000])
def test_an_end_and_a_start_in_one_wake_up_are_no_overlap(witness: Witness, late_ns: int) -> None:
    """A witness that is late, by however much, does not make two trees overlap that did not."""
    old = Life(witness, "a").say_hello()
    witness.wait_running(1)
    with stopped(witness):
        old.end()
        new = Life(witness, "b").say_hello()
        _spin(late_ns)
    with new:
        witness.wait_running(1, "b")
        assert witness.overlaps() == []


def test_an_overlap_within_one_wake_up_widens_the_resolution(witness: Witness) -> None:
    """An overlap that a late witness cannot tell from a handover is within its stated doubt."""
    old = Life(witness, "a").say_hello()
    witness.wait_running(1)
    with stopped(witness), Life(witness, "b").say_hello() as new:
        _spin(30_000_000)
        overlap_ns = old.end() - new.started_ns
        assert overlap_ns >= 30_000_000
    assert witness.resolution_ns >= overlap_ns


def test_a_start_while_another_tree_is_open_is_certain(witness: Witness) -> None:
    """A late witness still knows that what is open when it looks was open at the start."""
    with Life(witness, "a").say_hello():
        witness.wait_running(1)
        with stopped(witness):
            new = Life(witness, "b").say_hello()
            new.end()
        wait_until(lambda: len(witness.trees()) == 2, timeout_s=10, what="the second tree")
        (overlap,) = witness.overlaps()
        assert overlap.second.candidate == "b"


def test_a_stopped_witness_says_how_late_it_was(witness: Witness) -> None:
    """The resolution of a verdict is no finer than the longest time without a look."""
    with stopped(witness):
        _spin(100_000_000)
    assert witness.resolution_ns >= 80_000_000


def test_processes_of_one_run_are_one_tree(witness: Witness) -> None:
    """A tree lives from the first start to the last end of its processes."""
    first, second = Life(witness, "a").say_hello(), Life(witness, "a").say_hello()
    first.end()
    (tree,) = witness.running()
    assert tree.started_ns == first.started_ns
    assert len(tree.processes) == 2
    assert len(tree.live_pids) == 1
    before_ns = second.end()
    assert witness.wait_ended(tree, timeout_s=10) >= before_ns
    assert witness.trees() == [tree], "it is the same object all its life"
    assert witness.overlaps() == []


def test_two_main_processes_of_one_token_are_two_trees(witness: Witness) -> None:
    """A candidate that runs its child twice at once under one token is found out."""
    with Life(witness, "a", main=1).say_hello(), Life(witness, "a", main=2).say_hello():
        assert len(witness.overlaps()) == 1


def test_an_end_before_the_first_line_is_recorded(witness: Witness) -> None:
    """A client that dies before it said who it is stands in the record, but proves no overlap."""
    with Life(witness, "a").say_hello():
        Life(witness, "nobody", named=False).end()
        unknown = [tree for tree in witness.trees() if tree.candidate == UNKNOWN]
        assert [tree.pids for tree in unknown] == [(os.getpid(),)]
        assert unknown[0].ended_ns is not None
        assert witness.overlaps() == []


def test_a_bound_name_tells_who_it_was_before_the_first_line(witness: Witness) -> None:
    """A process killed between its connection and its first line still counts for its tree."""
    with Life(witness, "a").say_hello():
        Life(witness, "b").end()
        (overlap,) = witness.overlaps()
        assert overlap.second.candidate == "b"


def test_a_line_may_come_in_parts(witness: Witness) -> None:
    """The first line is understood however it is cut, and several lines at once are too."""
    with Life(witness, "a", named=False) as life:
        line = json.dumps(life.hello).encode() + b"\n"
        for place in range(len(line)):
            life.sock.sendall(line[place : place + 1])
        life.sock.sendall(b'{"note": "one"}\n{"note": "two", "at_ns": 7, "more": [1]}\n')
        (tree,) = witness.running()
        assert (tree.candidate, tree.started_ns) == ("a", life.started_ns)
        notes = witness.notes("a")
        assert [note.text for note in notes] == ["one", "two"]
        assert (notes[1].at_ns, notes[1].data["more"]) == (7, [1])
        assert notes[1].pid == os.getpid()
        life.sock.sendall(b'{"note": "farewell"}\n')
    assert witness.notes("a")[-1].text == "farewell", "last words are heard"
    assert witness.notes("b") == []
    assert witness.running() == []


def test_a_line_that_is_no_json_is_trouble(witness: Witness) -> None:
    """What the witness cannot understand fails the test rather than being passed over."""
    with Life(witness, "a") as life:
        life.sock.sendall(b"what?\n")
        with pytest.raises(AssertionError, match="cannot read the line"):
            witness.sync()


def test_an_inherited_connection_counts_as_alive(witness: Witness) -> None:
    """A connection lives as long as anybody holds it."""
    life = Life(witness, "a").say_hello()
    with life.sock.dup():
        life.end()
        assert len(witness.running()) == 1
    assert witness.running() == []


# --- with real processes: one without a connection would run on unseen, and no test would fail


@contextlib.contextmanager
def started(witness: Witness, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], Tree]]:
    """A test child that is ready, and the only tree; killed at the end."""
    with subprocess.Popen(command(*flags), env=witness.env("a")) as process:
        try:
            witness.wait_note("ready")
            (tree,) = witness.trees()
            yield process, tree
        finally:
            process.kill()


def test_a_killed_process_is_dead_at_once(witness: Witness) -> None:
    """Once a killed child has been reaped, the witness says so without being waited for."""
    with started(witness) as (child, tree):
        before_ns = now_ns()
        child.kill()
        child.wait(timeout=10)
        after_ns = now_ns()
        assert witness.running() == []
    assert tree.ended_ns is not None
    assert tree.ended_ns >= before_ns
    assert tree.processes[0].alive_until_ns <= after_ns


def test_a_dead_leader_with_a_live_thread_is_alive(witness: Witness) -> None:
    """A child whose main thread is a zombie runs as long as its last thread."""
    with started(witness, "--leader-exits") as (child, tree):
        wait_until(lambda: state_of(child.pid) == "Z", timeout_s=10, what="a zombie leader")
        witness.sync()
        assert tree.running
        child.kill()
        child.wait(timeout=10)
        assert witness.running() == []


def test_children_do_not_outlive_the_witness() -> None:
    """When the witness ends the kernel kills every test child, stopped or deaf as it may be."""
    with Witness() as witness:
        flags = ("--ignore", "ALL", "--stop", "--spawn", "daemon+ignore", "--chains", "1")
        with started(witness, *flags) as (child, tree):
            (daemon,) = tree.with_role("daemon+ignore")
            witness.__exit__()
            assert child.wait(timeout=10) == -signal.SIGKILL
            wait_until(lambda: is_gone(daemon.pid), timeout_s=10, what="the daemon's death")


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
    done = subprocess.run(command("--exti", "3"), capture_output=True, check=False, timeout=10)
    assert done.returncode == EXIT_USAGE
    assert b"--exti" in done.stderr
