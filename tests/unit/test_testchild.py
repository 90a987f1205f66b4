"""Proof of the test child: it does what its flags say, and the witness hears of it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
from typing import IO, TYPE_CHECKING

import pytest

from tests.support import testchild
from tests.support.wait import wait_until
from tests.support.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.witness import Tree

NOBODY = 65534


@pytest.fixture
def witness() -> Iterator[Witness]:
    """A running witness; it takes the test children with it."""
    with Witness() as running:
        yield running


@contextlib.contextmanager
def started(
    witness: Witness,
    *flags: str,
    stdin: int | None = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    env: dict[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A test child that is ready, killed at the end."""
    environment = witness.env("a") | (env or {})
    with subprocess.Popen(
        testchild.command(*flags), env=environment, stdin=stdin, stdout=stdout, stderr=stderr
    ) as process:
        try:
            witness.wait_note("ready")
            yield process
        finally:
            process.kill()


def tree_of(witness: Witness) -> Tree:
    """Return the only tree."""
    (tree,) = witness.trees()
    return tree


def state(pid: int) -> str:
    """Return a process's state letter, Z once it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def wait_state(pid: int, letter: str) -> None:
    """Wait until a process is in this state."""
    wait_until(lambda: state(pid) == letter, timeout_s=10, what=f"state {letter} of {pid}")


def unread(pipe: int) -> int:
    """Return how many bytes wait in a pipe."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def wait_notes(witness: Witness, count: int) -> None:
    """Wait until there are that many notes."""
    witness.wait_for(lambda: len(witness.notes()) >= count, what=f"{count} notes")


@pytest.mark.parametrize("code", [0, 3])
def test_exits_with_a_code(witness: Witness, code: int) -> None:
    """A test child ends after its time with the code it was given."""
    with started(witness, "--after", "0", "--exit", str(code)) as child:
        assert child.wait(timeout=10) == code
    assert witness.running() == []


@pytest.mark.parametrize("name", ["SEGV", "ABRT", "KILL"])
def test_dies_by_a_signal(witness: Witness, name: str) -> None:
    """A test child can end by a signal of its own."""
    with started(witness, "--after", "0", "--die", name) as child:
        assert child.wait(timeout=10) == -getattr(signal, f"SIG{name}")


def test_notes_signals_and_does_what_they_do(witness: Witness) -> None:
    """Without flags each signal is noted with its sender, then acts as it does by default."""
    with started(witness) as child:
        child.send_signal(signal.SIGWINCH)
        witness.wait_note("signal WINCH", timeout_s=10)
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=10) == -signal.SIGTERM
        assert witness.wait_note("signal TERM").data["from"] == os.getpid()


def test_ignores_signals(witness: Witness) -> None:
    """An ignored signal is noted and nothing else, however often it comes."""
    with started(witness, "--ignore", "TERM,HUP") as child:
        for count, number in enumerate((signal.SIGTERM, signal.SIGTERM, signal.SIGHUP)):
            child.send_signal(number)
            wait_notes(witness, count + 2)
        assert tree_of(witness).running
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=10) == -signal.SIGINT


def test_exits_on_a_signal(witness: Witness) -> None:
    """A signal may be answered with a code."""
    with started(witness, "--exit-on", "TERM", "--exit", "7") as child:
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=10) == 7


def test_drains(witness: Witness) -> None:
    """A draining test child lives on for its time after the first request, and then exits."""
    with started(witness, "--drain", "0.2", "--exit", "3") as child:
        child.send_signal(signal.SIGTERM)
        asked_ns = witness.wait_note("signal TERM").at_ns
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=10) == 3
        ended_ns = witness.wait_ended(tree_of(witness))
    assert ended_ns - asked_ns >= 200_000_000


def test_forks_and_exits(witness: Witness) -> None:
    """The main process ends, its background worker goes on and hears signals."""
    with started(witness, "--fork-exit", "--exit", "4") as child:
        assert child.wait(timeout=10) == 4
        tree = tree_of(witness)
        (worker,) = tree.with_role("worker")
        assert tree.live_pids == (worker.pid,)
        os.kill(worker.pid, signal.SIGTERM)
        witness.wait_note("signal TERM")
        witness.wait_ended(tree)


@pytest.mark.parametrize(
    "kind", ["plain", "setsid", "daemon", "emptyenv", "ignore", "setsid+emptyenv+ignore"]
)
def test_spawns_grandchildren(witness: Witness, kind: str) -> None:
    """Each kind of grandchild is of the tree, and has the properties it is named for."""
    with started(witness, "--spawn", f"{kind}*2") as child:
        tree = tree_of(witness)
        grandchildren = tree.with_role(kind)
        assert len(grandchildren) == 2
        for grandchild in grandchildren:
            pid = grandchild.pid
            own_session = bool(set(kind.split("+")) & {"setsid", "daemon"})
            assert (os.getsid(pid) != os.getsid(child.pid)) == own_session
            with open(f"/proc/{pid}/environ", "rb") as environ:
                assert (environ.read() == b"") == ("emptyenv" in kind)
            os.kill(pid, signal.SIGTERM)
            note = witness.wait_note("signal TERM", count=1 + grandchildren.index(grandchild))
            assert note.pid == pid
        if "ignore" in kind:
            assert len(tree.live_pids) == 3
        else:
            witness.wait_for(lambda: tree.live_pids == (child.pid,), what="the end of the others")


def test_a_daemon_has_left_its_parent(witness: Witness) -> None:
    """A daemon is a child of whoever takes in orphans."""
    with started(witness, "--spawn", "daemon") as child:
        (daemon,) = tree_of(witness).with_role("daemon")
        with open(f"/proc/{daemon.pid}/stat", encoding="utf-8") as stat:
            assert int(stat.read().rpartition(")")[2].split()[1]) != child.pid


def test_spawns_busy_and_stopped_children(witness: Witness) -> None:
    """Busy children run, stopped ones are stopped."""
    with started(witness, "--busy", "2", "--spawn", "stopped"):
        tree = tree_of(witness)
        (held,) = tree.with_role("stopped")
        wait_state(held.pid, "T")
        busy = tree.with_role("busy")
        assert len(busy) == 2
        for process in busy:
            wait_state(process.pid, "R")


@pytest.mark.parametrize("every", [1, 5])
def test_chains_go_on_for_ever(witness: Witness, every: int) -> None:
    """A chain stays connected while its links come and go, each in its own session."""
    flags = ("--chains", "2", "--chain-every", str(every), "--chain-pause", "0.002")
    with started(witness, *flags) as child:
        tree = tree_of(witness)
        before = len(tree.processes)
        child.kill()
        child.wait(timeout=10)
        witness.wait_for(
            lambda: len(tree.processes) > before + 20, timeout_s=20, what="twenty links"
        )
        assert tree.running
        assert len(set(tree.pids)) == len(tree.pids)


def test_the_leader_exits_and_a_thread_goes_on(witness: Witness, tmp_path: Path) -> None:
    """The main thread is a zombie while another one still writes."""
    beats = tmp_path / "beats"
    with started(witness, "--leader-exits", "--heartbeat", str(beats)) as child:
        wait_state(child.pid, "Z")
        size = beats.stat().st_size if beats.exists() else 0
        wait_until(
            lambda: beats.exists() and beats.stat().st_size > size, timeout_s=10, what="a beat"
        )
        witness.sync()
        assert tree_of(witness).running
        assert child.poll() is None
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=10) == -signal.SIGTERM


def test_stops_itself(witness: Witness) -> None:
    """A test child can stop itself, and goes on when it is continued."""
    with started(witness, "--stop") as child:
        wait_state(child.pid, "T")
        child.send_signal(signal.SIGCONT)
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=10) == -signal.SIGTERM


def test_echoes_stdin(witness: Witness) -> None:
    """What comes in goes out, and the end of the input is the end."""
    flags = ("--echo", "--stdout", "hello")
    pipe = subprocess.PIPE
    with started(witness, *flags, stdin=pipe, stdout=pipe) as child:
        out, _ = child.communicate(b"one\ntwo\n", timeout=10)
        assert out == b"hello\none\ntwo\n"
        assert child.returncode == 0


def test_a_full_stderr_does_not_hold_it_up(witness: Witness) -> None:
    """A test child that writes into a pipe nobody reads still hears signals."""
    with started(witness, "--stderr", "-1", "--ignore", "TERM", stderr=subprocess.PIPE) as child:
        assert child.stderr is not None
        pipe = child.stderr.fileno()
        size = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
        wait_until(lambda: size - unread(pipe) < 4096, timeout_s=10, what="a full pipe")
        child.send_signal(signal.SIGTERM)
        witness.wait_note("signal TERM")
        assert child.poll() is None


def test_writes_as_much_as_it_is_told(witness: Witness) -> None:
    """A bounded amount of stderr is written to the byte."""
    with started(witness, "--stderr", "5000", stderr=subprocess.PIPE) as child:
        witness.wait_note("stderr written")
        child.kill()
        assert child.stderr is not None
        assert len(child.stderr.read()) == 5000


def test_tells_its_environment(witness: Witness, tmp_path: Path) -> None:
    """The environment is told in a note and in a file, as it is."""
    path = tmp_path / "env.json"
    env = {"LEADER_FENCING_TOKEN": "4711", "ODD": 'a "b"\n\\c\u00e4'}
    with started(witness, "--env-note", "--env-file", str(path), env=env) as child:
        noted = witness.wait_note("env").data["env"]
        assert json.loads(path.read_text()) == noted
        assert {key: noted[key] for key in env} == env
        tree = tree_of(witness)
        assert (tree.candidate, tree.run, tree.main) == ("a", "4711", child.pid)


def test_tells_its_state(witness: Witness) -> None:
    """The note `state` says with what the process was started."""
    with started(witness, "--state-note", "--setpgid") as child:
        told = witness.wait_note("state").data["state"]
        assert told["pid"] == told["pgid"] == child.pid
        assert told["ppid"] == os.getpid()
        assert told["sid"] == os.getsid(0)
        assert told["cwd"] == os.getcwd()
        assert told["blocked"] == []
        assert "TERM" not in told["ignored"]
        assert set(told["fds"]) == {"0", "1", "2"}


def test_drops_its_user(witness: Witness) -> None:
    """A test child that drops its privileges is known by its new user."""
    uid = os.getuid() or NOBODY
    with started(witness, "--uid", str(uid)):
        assert tree_of(witness).processes[-1].uid == uid
        assert len(tree_of(witness).live_pids) == 1


def test_beats(witness: Witness, tmp_path: Path) -> None:
    """The heartbeat is a line of the instant and the pid."""
    path = tmp_path / "beats"
    with started(witness, "--heartbeat", str(path)) as child:
        wait_until(
            lambda: path.exists() and path.read_text().count("\n") > 2, timeout_s=10, what="beats"
        )
        stamps, pids = zip(*(line.split() for line in path.read_text().splitlines()), strict=True)
        assert set(pids) == {str(child.pid)}
        assert list(stamps) == sorted(stamps)


def test_unknown_flags_are_refused() -> None:
    """A misspelt flag fails with a line about it instead of being passed over."""
    done = subprocess.run(
        testchild.command("--exti", "3"), capture_output=True, check=False, timeout=10
    )
    assert done.returncode == testchild.EXIT_USAGE
    assert b"--exti" in done.stderr


def test_runs_as_a_script_without_a_witness() -> None:
    """The file itself can be run, and needs no witness to behave."""
    argv = [sys.executable, "-I", "-S", testchild.__file__, "--after", "0", "--exit", "5"]
    assert subprocess.run(argv, check=False, timeout=10, env={}).returncode == 5
