"""Proof of the judge: what the witness says about lives whose instants the test decides.

The clients here are sockets of the test itself, so that each start and end happens at a known
place between two others; `test_testchild` does the same with real processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Self

import pytest

from tests.support.candidate import is_gone, resume, state_of, stop
from tests.support.testchild import command
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


@pytest.fixture
def witness() -> Iterator[Witness]:
    """A running witness."""
    with Witness() as running:
        yield running


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
    assert witness.max_overlap_s() == overlap.overlap_ns / 1e9


def test_a_handover_is_no_overlap(witness: Witness) -> None:
    """A tree that starts right after the end of the last one is none, however often."""
    for number in range(200):
        Life(witness, "ab"[number % 2], run=str(number)).say_hello().end()
    assert witness.overlaps() == []
    assert witness.max_overlap_s() == 0
    assert len(witness.trees()) == 200


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
        assert witness.notes("b") == []


def test_last_words_are_heard(witness: Witness) -> None:
    """A note sent right before the end is not lost, nor is the end."""
    life = Life(witness, "a").say_hello()
    life.sock.sendall(b'{"note": "farewell"}\n')
    life.end()
    assert [note.text for note in witness.notes()] == ["farewell"]
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


def test_thousands_of_connections_are_kept_apart(witness: Witness) -> None:
    """Thousands of processes at once lose none, and their end is seen whole."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(3000, hard - 200)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 200), hard))
    try:
        with contextlib.ExitStack() as lives:
            for _ in range(count):
                lives.enter_context(Life(witness, "a").say_hello())
            (tree,) = witness.running()
            assert len(tree.live_pids) == count
        assert witness.running() == []
        assert len(tree.processes) == count
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_successor_is_waited_for(witness: Witness) -> None:
    """The next tree is told from the one that ran before, even by the same candidate."""
    Life(witness, "a", run="1").say_hello().end()
    (old,) = witness.trees()
    with Life(witness, "a", run="2").say_hello():
        assert witness.wait_successor(old, timeout_s=10).run == "2"


# --- with real processes


def test_a_killed_process_is_dead_at_once(witness: Witness) -> None:
    """Once a killed child has been reaped, the witness says so without being waited for."""
    with _child(witness, "a") as child:
        tree = _ready(witness)
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
    with _child(witness, "a", "--leader-exits") as child:
        tree = _ready(witness)
        wait_until(lambda: state_of(child.pid) == "Z", timeout_s=10, what="a zombie leader")
        witness.sync()
        assert tree.running
        child.kill()
        child.wait(timeout=10)
        assert witness.running() == []


def test_a_hidden_grandchild_keeps_the_tree_alive(witness: Witness) -> None:
    """A grandchild in another session, with an empty environment, is of the tree."""
    with _child(witness, "a", "--spawn", "setsid+emptyenv+ignore") as child:
        tree = _ready(witness)
        child.kill()
        child.wait(timeout=10)
        witness.sync()
        assert tree.running
        (grandchild,) = tree.with_role("setsid+emptyenv+ignore")
        assert tree.live_pids == (grandchild.pid,)
        with open(f"/proc/{grandchild.pid}/environ", "rb") as environ:
            assert environ.read() == b""
        assert os.getsid(grandchild.pid) not in {os.getsid(0), child.pid}
        os.kill(grandchild.pid, signal.SIGKILL)
        witness.wait_ended(tree, timeout_s=10)


def test_children_do_not_outlive_the_witness() -> None:
    """When the witness ends the kernel kills every test child, stopped or deaf as it may be."""
    with Witness() as witness:
        argv = command("--ignore", "ALL", "--stop", "--spawn", "daemon+ignore", "--chains", "1")
        with subprocess.Popen(argv, env=witness.env("a")) as child:
            tree = _ready(witness)
            (daemon,) = tree.with_role("daemon+ignore")
            witness.__exit__()
            assert child.wait(timeout=10) == -signal.SIGKILL
            wait_until(lambda: is_gone(daemon.pid), timeout_s=10, what="the daemon's death")


@contextlib.contextmanager
def _child(witness: Witness, candidate: str, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command(*flags), env=witness.env(candidate)) as child:
        try:
            yield child
        finally:
            child.kill()


def _ready(witness: Witness) -> Tree:
    witness.wait_note("ready")
    (tree,) = witness.running()
    return tree
