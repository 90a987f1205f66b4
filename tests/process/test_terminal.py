"""Terminals: whose keys they are, what Ctrl-Z stops, and what a shell makes of us.

Each test types at the master side of a terminal. The shell is a real interactive bash; without one
the guardian is the leader of its session, as it is in a container with a terminal.
"""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import signal
import struct
import termios
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.candidate import (
    BRISK,
    child_command,
    children_of,
    in_pid_namespace,
    is_gone,
    is_pending,
    kill,
    state_of,
    stop,
)
from tests.support.fault_suite import TAKEOVER_S
from tests.support.required import missing, or_skip
from tests.support.slowfs import SlowExecutable, script_of
from tests.support.wait import wait_until
from tests.support.witness import now_ns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support.candidate import Candidate
    from tests.support.candidates import Candidates

CTRL_BACKSLASH: Final = "\x1c"
CTRL_C: Final = "\x03"
CTRL_Z: Final = "\x1a"

#: Nothing that is stopped for less than many seconds is taken for dead.
LONG: Final = ("--lease-duration=60s", "--renew-deadline=40s", "--retry-period=1s")
#: A renewal is missed long before the guardian is taken for dead.
PATIENT: Final = ("--lease-duration=60s", "--renew-deadline=10s", "--retry-period=8s")
BOUND_S: Final = 20.0

#: Leaves how it was called in a script, for an interactive shell to run: `bash NAME.job`.
_SHELL: Final = (
    'name=$WITNESS_CANDIDATE; printf "exec%s 2>>%q.log\\n" "$(printf " %q" "$@")" "$name" '
    '> "$name.job"; PS1="> " exec bash --norc --noprofile --noediting -i'
)
_ROOT_ONLY: Final = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")

SESSION_LEADER: Final = ("setsid", "--ctty", "--wait")
#: As a container runtime starts it: PID 1 and the leader of a session with a terminal.
CONTAINER: Final = (*in_pid_namespace(), "setsid", "--ctty")


class Screen:
    """A terminal: what is typed at it, what it shows, and who has it."""

    def __init__(self) -> None:
        self._master, self.slave = pty.openpty()
        os.set_blocking(self._master, False)
        self._shown = ""

    def press(self, keys: str) -> None:
        """Type `keys`."""
        os.write(self._master, keys.encode())

    def enter(self, line: str) -> None:
        """Type a line, and Enter."""
        self.press(line + "\r")

    @property
    def shown(self) -> str:
        """All that was shown so far."""
        try:
            while data := os.read(self._master, 65536):
                self._shown += data.decode(errors="replace")
        except OSError:
            pass
        return self._shown

    def wait_shown(self, text: str) -> None:
        """Wait until it shows `text`."""
        wait_until(
            lambda: text in self.shown,
            timeout_s=BOUND_S,
            what=lambda: f"{text!r} is shown; shown: {self.shown[-2000:]}",
        )

    @property
    def holder(self) -> int:
        """The process group in its foreground."""
        return os.tcgetpgrp(self._master)

    def wait_holder(self, group: int) -> None:
        """Wait until `group` is in its foreground."""
        wait_until(
            lambda: self.holder == group,
            timeout_s=BOUND_S,
            what=lambda: f"{group} has it, not {self.holder}; shown: {self.shown[-2000:]}",
        )

    def resize(self, rows: int) -> None:
        """Give it another size."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 80, 0, 0))

    def has_modes(self, flags: int) -> bool:
        """Whether these local modes are set."""
        return bool(termios.tcgetattr(self._master)[3] & flags == flags)

    def hang_up(self) -> None:
        """Close the side that we are at, as a terminal's window does."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1


@pytest.fixture
def screen() -> Iterator[Screen]:
    """A terminal, hung up with the test."""
    terminal = Screen()
    yield terminal
    terminal.hang_up()


@pytest.fixture(autouse=True)
def _long_leases(candidates: Candidates) -> None:
    candidates.timing = LONG


def start_on(
    candidates: Candidates,
    screen: Screen,
    name: str,
    *options: str,
    child: Sequence[str] | None = None,
    wrapper: Sequence[str] = SESSION_LEADER,
    stderr: int | None = None,
) -> Candidate:
    """Start a candidate that has the terminal."""
    candidate = candidates.make(name, *options, child=child, wrapper=wrapper, stderr=stderr)
    candidate.stdin = screen.slave
    candidate.start()
    os.close(screen.slave)  # it is hung up when nobody else has it
    return candidate


def start_shell(
    candidates: Candidates,
    screen: Screen,
    name: str,
    *options: str,
    child: Sequence[str] | None = None,
) -> Candidate:
    """Start an interactive shell for the candidate: `bash NAME.job` is to be typed."""
    if not shutil.which("bash"):
        missing("bash", "an interactive shell is needed")
    wrapper = (*SESSION_LEADER, "bash", "-c", _SHELL, "bash")
    candidate = start_on(
        candidates, screen, name, *options, child=child, wrapper=wrapper, stderr=screen.slave
    )
    screen.wait_shown("> ")
    return candidate


def shell_of(candidate: Candidate) -> int:
    """Return the pid, and the process group, of its shell."""
    (shell,) = children_of(candidate.process.pid)
    return shell


def wait_tree(candidates: Candidates, name: str) -> int:
    """Wait until its child is ready, and return the pid, which is the process group's."""
    (tree,) = candidates.witness.wait_running(1, name, timeout_s=BOUND_S)
    candidates.witness.wait_note("ready", name)
    return tree.main


def wait_state(pid: int, *, stopped: bool) -> None:
    """Wait until a process is stopped, or is not."""
    wait_until(
        lambda: (state_of(pid) == "T") is stopped,
        timeout_s=BOUND_S,
        what=lambda: f"{pid} is {'' if stopped else 'not '}stopped: {state_of(pid)}",
    )


def wait_output(candidate: Candidate, text: str) -> None:
    """Wait until `text` was written to the standard output of a shell or its job."""
    wait_until(
        lambda: text in candidate.output,
        timeout_s=BOUND_S,
        what=lambda: f"{text!r} is written; log:\n{candidate.log[-2000:]}",
    )


def suspend(screen: Screen, candidate: Candidate) -> None:
    """Press Ctrl-Z, and see the shell take the terminal from a job that is stopped."""
    guardian = candidate.guardian
    screen.press(CTRL_Z)
    wait_state(guardian, stopped=True)
    screen.wait_holder(shell_of(candidate))
    screen.wait_shown("Stopped")


def signals(candidates: Candidates, name: str) -> list[str]:
    """Return all signals that its children were ever sent, in order."""
    words = [note.text.partition(" ") for note in candidates.witness.notes(name)]
    return [rest for word, _, rest in words if word == "signal"]


# --- Ctrl-Z, with a shell --------------------------------------------------------------------


@pytest.mark.slow
def test_ctrl_z_and_fg(candidates: Candidates, screen: Screen) -> None:
    """The whole job stops and goes on: same child, still leading, though a renewal was missed.

    What the elector renewed while the guardian was stopped is heard before the time counts.
    """
    candidates.timing = PATIENT
    a = start_shell(candidates, screen, "a")
    screen.enter("bash a.job")
    child = wait_tree(candidates, "a")
    screen.wait_holder(child)
    suspend(screen, a)
    assert state_of(child) == "T"
    over_ns = now_ns() + 10_500_000_000
    wait_until(lambda: now_ns() > over_ns, timeout_s=BOUND_S, what="the renew deadline is past")
    screen.enter("fg")
    wait_state(child, stopped=False)
    screen.wait_holder(child)
    a.wait_event("continued")
    screen.resize(30)
    candidates.witness.wait_note("signal WINCH", "a")
    assert signals(candidates, "a") == ["TSTP", "CONT", "WINCH"]
    (tree,) = candidates.witness.running()
    assert tree.main == child
    assert not a.events("stopping")
    candidates.assert_exclusive()


def test_ctrl_z_again_and_again(candidates: Candidates, screen: Screen) -> None:
    """A job is stopped and continued as often as somebody likes, with one CONT for each TSTP."""
    a = start_shell(candidates, screen, "a")
    screen.enter("bash a.job")
    child = wait_tree(candidates, "a")
    for number in range(1, 6):
        suspend(screen, a)
        screen.enter("fg")
        screen.wait_holder(child)
        # A TSTP would take back a CONT that still waits to be read.
        candidates.witness.wait_note("signal CONT", "a", count=number)
    assert signals(candidates, "a") == ["TSTP", "CONT"] * 5


def test_ctrl_z_and_no_fg(candidates: Candidates, screen: Screen) -> None:
    """Rule 16: a job that nobody continues is dead before another leads."""
    candidates.timing = BRISK
    a = start_shell(candidates, screen, "a", child=child_command("--ignore", "TERM"))
    screen.enter("bash a.job")
    wait_tree(candidates, "a")
    candidates.start_standby("b")
    guardian = a.guardian
    suspend(screen, a)
    (tree,) = candidates.witness.trees("a")
    successor = candidates.witness.wait_successor(tree, timeout_s=2 * TAKEOVER_S)
    assert successor.candidate == "b"
    assert is_gone(guardian)
    assert a.events("stopped: leadership is lost and the tree killed unless continued")
    screen.enter("")
    screen.wait_shown("Killed")
    candidates.assert_exclusive()


def test_ctrl_z_and_the_death_of_the_keeper(candidates: Candidates, screen: Screen) -> None:
    """What a dead keeper leaves falls to the guardian, which goes on to end it in time."""
    candidates.timing = BRISK
    child = child_command("--ignore", "TERM", "--spawn", "setsid+ignore")
    a = start_shell(candidates, screen, "a", child=child)
    screen.enter("bash a.job")
    wait_tree(candidates, "a")
    candidates.start_standby("b")
    suspend(screen, a)
    (tree,) = candidates.witness.trees("a")
    assert len(tree.pids) == 2
    kill(a.keeper)
    candidates.witness.wait_successor(tree, timeout_s=2 * TAKEOVER_S)
    candidates.assert_exclusive()


def test_a_stopped_job_is_ended(candidates: Candidates, screen: Screen) -> None:
    """`kill %1` of a shell, which is TERM and CONT, ends a stopped job and gives the lock back."""
    child = child_command("--exit-on", "TERM", "--spawn", "plain")
    a = start_shell(candidates, screen, "a", child=child)
    screen.enter("bash a.job")
    wait_tree(candidates, "a")
    candidates.start_standby("b")
    suspend(screen, a)
    (tree,) = candidates.witness.trees("a")
    for pid in tree.pids:  # one that stops only after the TERM is not continued
        wait_state(pid, stopped=True)
    screen.enter("kill %1")
    assert candidates.witness.wait_successor(tree, timeout_s=BOUND_S).candidate == "b"
    candidates.assert_exclusive()


def test_a_term_waits_for_a_stopped_job(candidates: Candidates, screen: Screen) -> None:
    """TERM to a stopped guardian is obeyed when it is continued, as with any stopped process."""
    a = start_shell(
        candidates, screen, "a", child=child_command("--exit-on", "TERM", "--exit", "7")
    )
    screen.enter("bash a.job")
    child = wait_tree(candidates, "a")
    guardian = a.guardian
    suspend(screen, a)
    os.kill(guardian, signal.SIGTERM)
    assert state_of(child) == "T"
    screen.enter("fg; echo code=$?")
    wait_output(a, "code=7")
    screen.wait_holder(shell_of(a))


def test_ctrl_z_and_bg(candidates: Candidates, screen: Screen) -> None:
    """`bg` continues the child without the terminal, which is the shell's until the end."""
    a = start_shell(candidates, screen, "a", child=child_command("--exit-on", "TERM"))
    screen.enter("bash a.job")
    child = wait_tree(candidates, "a")
    guardian = a.guardian
    suspend(screen, a)
    screen.enter("bg")
    wait_state(child, stopped=False)
    candidates.witness.wait_note("signal CONT", "a")
    shell = shell_of(a)
    assert screen.holder == shell
    os.kill(guardian, signal.SIGTERM)
    wait_until(lambda: is_gone(guardian), timeout_s=BOUND_S, what="the end of the guardian")
    assert screen.holder == shell, "nobody took the terminal from the shell"
    screen.enter("echo still $((40 + 2))")
    wait_output(a, "still 42")
    assert signals(candidates, "a") == ["TSTP", "CONT", "TERM"]


def test_a_child_that_stops_itself(candidates: Candidates, screen: Screen) -> None:
    """Programs that stop themselves with SIGSTOP stop the job too; else nobody had the terminal."""
    a = start_shell(candidates, screen, "a", child=child_command("--stop"))
    screen.enter("bash a.job")
    child = wait_tree(candidates, "a")
    wait_state(a.guardian, stopped=True)
    screen.wait_holder(shell_of(a))
    screen.enter("fg")
    screen.wait_holder(child)
    wait_state(child, stopped=False)


def test_ctrl_z_on_a_standby(candidates: Candidates, screen: Screen) -> None:
    """A standby stops and goes on like any process, and can still become the leader."""
    leader, tree = candidates.start_leader("l")
    a = start_shell(candidates, screen, "a")
    screen.enter("bash a.job")
    a.wait_event(f"leader is {leader.identity}")
    suspend(screen, a)
    screen.enter("fg")
    wait_state(a.guardian, stopped=False)
    leader.terminate()
    successor = candidates.witness.wait_successor(tree, timeout_s=BOUND_S)
    assert successor.candidate == "a"
    screen.wait_holder(successor.main)
    candidates.assert_exclusive()


def test_ctrl_z_while_the_child_drains(candidates: Candidates, screen: Screen) -> None:
    """A child that was asked to stop is not left stopped: it drains to its end."""
    child = child_command("--drain", "2", "--exit", "3")
    a = start_shell(candidates, screen, "a", "--stop-timeout=1h", child=child)
    screen.enter("bash a.job; echo code=$?")
    wait_tree(candidates, "a")
    a.terminate()
    candidates.witness.wait_note("signal TERM", "a")
    screen.press(CTRL_Z)
    candidates.witness.wait_note("signal TSTP", "a")
    screen.wait_shown("^Z")
    wait_output(a, "code=3")
    assert signals(candidates, "a") == ["TERM", "TSTP", "CONT"]


# --- pipelines and the background ------------------------------------------------------------


def test_ctrl_z_on_a_pipeline(candidates: Candidates, screen: Screen) -> None:
    """Whoever is in a pipeline with us stops and goes on with us."""
    a = start_shell(candidates, screen, "a", child=child_command("--exit-on", "TERM"))
    screen.enter("bash a.job | cat")
    child = wait_tree(candidates, "a")
    guardian = a.guardian
    shell = shell_of(a)
    (cat,) = [pid for pid in children_of(shell) if pid != guardian]
    suspend(screen, a)
    assert [state_of(pid) for pid in (guardian, cat, child)] == ["T"] * 3
    screen.enter("fg")
    for pid in (guardian, cat, child):
        wait_state(pid, stopped=False)
    screen.press(CTRL_C)
    wait_until(lambda: is_gone(guardian), timeout_s=BOUND_S, what="the end of the guardian")
    screen.wait_holder(shell)


def test_a_pipelines_child_that_asks_gets_the_terminal(
    candidates: Candidates, screen: Screen
) -> None:
    """A child that is not given the terminal at its start has it when it reads from it."""
    got = candidates.directory / "got"
    child = ["bash", "-c", f"read -r line </dev/tty; echo $line > {got}"]
    start_shell(candidates, screen, "a", child=child)
    screen.enter("true | bash a.job")
    candidates.by_name["a"].wait_event("child started")
    screen.enter("hello")
    wait_until(
        lambda: got.exists() and got.read_text() == "hello\n", timeout_s=BOUND_S, what="the line"
    )


def test_started_in_the_background(candidates: Candidates, screen: Screen) -> None:
    """The child of a background job has no terminal, and gets it with `fg`'s CONT, unseen."""
    a = start_shell(candidates, screen, "a")
    screen.enter("bash a.job &")
    child = wait_tree(candidates, "a")
    assert screen.holder == shell_of(a)
    screen.enter("fg")
    screen.wait_holder(a.guardian)
    a.signal(signal.SIGCONT)  # which bash sends to stopped jobs only, others always
    screen.wait_holder(child)
    screen.resize(30)
    candidates.witness.wait_note("signal WINCH", "a")
    assert signals(candidates, "a") == ["WINCH"]
    suspend(screen, a)


def test_keys_for_a_job_that_was_in_the_background(candidates: Candidates, screen: Screen) -> None:
    """Where `fg` told us nothing, Ctrl-Z stops the job as well, and Ctrl-C ends it."""
    a = start_shell(candidates, screen, "a", child=child_command("--exit-on", "TERM"))
    screen.enter("bash a.job &")
    child = wait_tree(candidates, "a")
    screen.enter("fg")
    screen.wait_holder(a.guardian)
    suspend(screen, a)
    assert state_of(child) == "T"
    screen.enter("bg")
    candidates.witness.wait_note("signal CONT", "a")  # which TERM may overtake
    screen.enter("fg; echo code=$?")
    screen.wait_holder(a.guardian)
    screen.press(CTRL_C)
    wait_output(a, "code=0")
    assert signals(candidates, "a") == ["TSTP", "CONT", "TERM"]


def test_reading_in_the_background(candidates: Candidates, screen: Screen) -> None:
    """A background child that reads from the terminal stops the job until `fg`, which hands it."""
    got = candidates.directory / "got"
    child = ["bash", "-c", f"read -r line; echo $line > {got}"]
    a = start_shell(candidates, screen, "a", child=child)
    screen.enter("bash a.job &")
    a.wait_event("child started")
    wait_state(a.guardian, stopped=True)
    screen.enter("jobs -l")
    wait_output(a, "tty input")
    screen.enter("fg")
    wait_until(lambda: screen.holder != shell_of(a), timeout_s=BOUND_S, what="in the foreground")
    screen.enter("hello")
    wait_until(
        lambda: got.exists() and got.read_text() == "hello\n", timeout_s=BOUND_S, what="the line"
    )


def test_fg_before_the_child_starts(candidates: Candidates, screen: Screen) -> None:
    """A standby that was started in the background and is not there any more hands it over."""
    leader, tree = candidates.start_leader("l")
    a = start_shell(candidates, screen, "a")
    screen.enter("bash a.job &")
    a.wait_event(f"leader is {leader.identity}")
    screen.enter("fg")
    screen.wait_holder(a.guardian)
    leader.terminate()
    successor = candidates.witness.wait_successor(tree, timeout_s=BOUND_S)
    screen.wait_holder(successor.main)


# --- without a shell -------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", [SESSION_LEADER, pytest.param(CONTAINER, marks=_ROOT_ONLY)])
def test_ctrl_z_where_nobody_could_continue(
    candidates: Candidates, screen: Screen, wrapper: Sequence[str]
) -> None:
    """As in `docker run -it`: the child is continued at once, keeps the terminal, and leads on."""
    a = start_on(candidates, screen, "a", wrapper=wrapper)
    (tree,) = candidates.witness.wait_running(1, "a", timeout_s=BOUND_S)
    candidates.witness.wait_note("ready", "a")
    for count in (1, 2):
        screen.press(CTRL_Z)
        candidates.witness.wait_note("signal CONT", "a", count=count)
    assert signals(candidates, "a") == ["TSTP", "CONT"] * 2
    assert state_of(a.guardian) != "T"
    screen.press(CTRL_C)
    candidates.witness.wait_note("signal INT", "a")
    assert a.wait() == 130
    candidates.witness.wait_ended(tree)
    assert signals(candidates, "a") == ["TSTP", "CONT"] * 2 + ["INT"]


def test_an_operators_stop_is_left_alone(candidates: Candidates, screen: Screen) -> None:
    """Where no shell is, SIGSTOP to the child is not undone: somebody wants to look at it."""
    a = start_on(candidates, screen, "a", child=child_command("--ignore", "USR1"))
    child = wait_tree(candidates, "a")
    stop(child)
    screen.press(CTRL_Z)  # nobody's any more: it is stopped already
    a.signal(signal.SIGUSR1)
    wait_until(lambda: is_pending(child, signal.SIGUSR1), timeout_s=BOUND_S, what="USR1 waits")
    assert state_of(child) == "T"
    os.kill(child, signal.SIGCONT)
    candidates.witness.wait_note("signal USR1", "a")


# --- the other keys, and the size ------------------------------------------------------------


@pytest.mark.parametrize("wrapper", [SESSION_LEADER, pytest.param(CONTAINER, marks=_ROOT_ONLY)])
def test_what_a_child_with_a_terminal_ever_gets(
    candidates: Candidates, screen: Screen, wrapper: Sequence[str]
) -> None:
    """Each key and each resize reaches the child once, and nothing else ever does."""
    child = child_command("--ignore", "INT,QUIT,HUP", "--exit-on", "TERM", "--exit", "5")
    a = start_on(candidates, screen, "a", child=child, wrapper=wrapper)
    (tree,) = candidates.witness.wait_running(1, "a", timeout_s=BOUND_S)
    candidates.witness.wait_note("ready", "a")
    expected = []
    for keys, name in ((CTRL_C, "INT"), (CTRL_BACKSLASH, "QUIT"), (CTRL_C, "INT")):
        screen.press(keys)
        expected.append(name)
        candidates.witness.wait_note(f"signal {name}", "a", count=expected.count(name))
    screen.resize(30)  # as the kernel tells it
    candidates.witness.wait_note("signal WINCH", "a")
    a.signal(signal.SIGWINCH)  # as a runtime does
    candidates.witness.wait_note("signal WINCH", "a", count=2)
    a.terminate()
    assert a.wait() == 5
    candidates.witness.wait_ended(tree)
    assert signals(candidates, "a") == [*expected, "WINCH", "WINCH", "TERM"]


@pytest.mark.parametrize(("keys", "code"), [(CTRL_C, 130), (CTRL_BACKSLASH, 131)])
def test_keys_end_a_standby(candidates: Candidates, screen: Screen, keys: str, code: int) -> None:
    """A standby has the terminal itself, and ends by its keys."""
    leader, tree = candidates.start_leader("l")
    a = start_shell(candidates, screen, "a")
    screen.enter("bash a.job")
    a.wait_event(f"leader is {leader.identity}")
    screen.wait_holder(a.guardian)
    screen.press(keys)
    screen.wait_holder(shell_of(a))
    screen.enter("echo code=$?")
    wait_output(a, f"code={code}")
    assert candidates.witness.running() == [tree]


def test_the_terminal_is_ours_again(candidates: Candidates, screen: Screen) -> None:
    """A lost child leaves a standby that can be interrupted, whatever modes it had set."""
    child = ["bash", "-c", 'stty raw -echo; exec "$@"', "bash", *child_command()]
    a = start_on(candidates, screen, "a", child=child)
    first = wait_tree(candidates, "a")
    screen.wait_holder(first)
    assert not screen.has_modes(termios.ISIG)
    (tree,) = candidates.witness.trees("a")
    candidates.start_standby("b")
    kill(a.keeper)
    assert candidates.witness.wait_successor(tree, timeout_s=BOUND_S).candidate == "b"
    screen.wait_holder(a.guardian)
    assert screen.has_modes(termios.ISIG | termios.ECHO | termios.ICANON)
    screen.press(CTRL_C)
    assert a.wait() == 130


def test_the_next_child_has_the_terminal_too(candidates: Candidates, screen: Screen) -> None:
    """With a second leadership the terminal is handed over again."""
    a = start_on(candidates, screen, "a", child=child_command("--ignore", "INT"))
    wait_tree(candidates, "a")
    (tree,) = candidates.witness.trees("a")
    kill(a.keeper)
    successor = candidates.witness.wait_successor(tree, timeout_s=BOUND_S)
    screen.wait_holder(successor.main)
    candidates.witness.wait_note("ready", "a", count=2)
    screen.press(CTRL_C)
    candidates.witness.wait_note("signal INT", "a")


def test_the_terminal_of_a_child_that_nobody_told_of(
    candidates: Candidates, screen: Screen, tmp_path: Path
) -> None:
    """A child may die in exec, with its keeper, when it has the terminal: the next one gets it."""
    leader, tree = candidates.start_leader("l")
    with or_skip(lambda: SlowExecutable(tmp_path, script_of(child_command()))) as slow:
        wrapper = (*SESSION_LEADER, *slow.wrapper)
        a = start_on(candidates, screen, "a", child=[str(slow.path)], wrapper=wrapper)
        a.wait_event(f"leader is {leader.identity}")
        slow.hang(killable=True)
        leader.terminate()
        (hung,) = slow.wait_hung()
        screen.wait_holder(hung)
        kill(a.keeper)
        wait_until(lambda: is_gone(hung), timeout_s=BOUND_S, what="it dies with its keeper")
        slow.go_on()
        successor = candidates.witness.wait_successor(tree, timeout_s=BOUND_S)
        assert successor.candidate == "a"
        screen.wait_holder(successor.main)


def test_modes_that_a_child_leaves_on_purpose(candidates: Candidates, screen: Screen) -> None:
    """A child that ends by itself may have been started to change the terminal, as stty is."""
    a = start_shell(candidates, screen, "a", child=["stty", "-echo"])
    screen.enter("bash a.job")
    a.wait_event("gone")
    screen.wait_holder(shell_of(a))
    assert not screen.has_modes(termios.ECHO)


def test_leftovers_do_not_keep_the_terminal(candidates: Candidates, screen: Screen) -> None:
    """When the child has ended, Ctrl-C is ours, and the second kills what it has left."""
    child = child_command("--fork-exit", "--ignore", "ALL")
    a = start_on(candidates, screen, "a", "--stop-timeout=1h", child=child)
    (tree,) = candidates.witness.wait_running(1, "a", timeout_s=BOUND_S)
    guardian = a.guardian
    screen.wait_holder(guardian)
    screen.press(CTRL_C)
    screen.wait_shown("^C")
    wait_until(
        lambda: not is_pending(guardian, signal.SIGINT), timeout_s=BOUND_S, what="INT is read"
    )
    assert not is_gone(guardian)
    assert tree.running
    screen.press(CTRL_C)
    a.wait()
    candidates.witness.wait_ended(tree)


# --- the terminal goes -----------------------------------------------------------------------


def test_the_terminal_of_a_leader_hangs_up(candidates: Candidates, screen: Screen) -> None:
    """Its child gets HUP once and nothing else, and may live on."""
    child = child_command("--ignore", "HUP", "--exit-on", "TERM")
    a = start_on(candidates, screen, "a", child=child)
    wait_tree(candidates, "a")
    screen.hang_up()
    candidates.witness.wait_note("signal HUP", "a")
    a.terminate()
    assert a.wait() == 0
    assert signals(candidates, "a") == ["HUP", "TERM"]


def test_the_terminal_of_a_standby_hangs_up(candidates: Candidates, screen: Screen) -> None:
    """A standby whose terminal is gone ends: nobody would see it lead, or could interrupt it."""
    leader, _ = candidates.start_leader("l")
    a = start_on(candidates, screen, "a")
    a.wait_event(f"leader is {leader.identity}")
    screen.hang_up()
    assert a.wait() == 129


def test_a_standby_with_a_terminal_ignores_other_hangups(
    candidates: Candidates, screen: Screen
) -> None:
    """A HUP that somebody sends is not for a standby while its terminal is there."""
    leader, tree = candidates.start_leader("l")
    a = start_on(candidates, screen, "a")
    a.wait_event(f"leader is {leader.identity}")
    a.signal(signal.SIGHUP)
    leader.terminate()
    assert candidates.witness.wait_successor(tree, timeout_s=BOUND_S).candidate == "a"
    assert not signals(candidates, "a")


def test_a_child_starts_though_the_terminal_is_gone(candidates: Candidates, screen: Screen) -> None:
    """With HUP ignored a standby outlives its terminal, and its child starts without one."""
    leader, tree = candidates.start_leader("l")
    wrapper = (*SESSION_LEADER, "sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    a = start_on(candidates, screen, "a", wrapper=wrapper)
    a.wait_event(f"leader is {leader.identity}")
    screen.hang_up()
    leader.terminate()
    assert candidates.witness.wait_successor(tree, timeout_s=BOUND_S).candidate == "a"


def test_a_stopped_job_whose_terminal_hangs_up(candidates: Candidates, screen: Screen) -> None:
    """The shell's last HUP and CONT reach the child of a stopped job, and the lock is free."""
    a = start_shell(candidates, screen, "a", child=child_command("--exit-on", "HUP"))
    screen.enter("bash a.job")
    wait_tree(candidates, "a")
    candidates.start_standby("b")
    suspend(screen, a)
    (tree,) = candidates.witness.trees("a")
    screen.hang_up()
    assert candidates.witness.wait_successor(tree, timeout_s=BOUND_S).candidate == "b"
    candidates.assert_exclusive()


# --- none at all -----------------------------------------------------------------------------


def test_without_a_terminal_nothing_is_about_a_job(candidates: Candidates) -> None:
    """TSTP and CONT are passed on, and a child that is stopped stops nobody else."""
    a, tree = candidates.start_leader("a", child=child_command("--ignore", "USR1"))
    a.signal(signal.SIGTSTP)
    # A CONT would take back a TSTP that still waits to be read.
    candidates.witness.wait_note("signal TSTP", "a")
    wait_state(tree.main, stopped=True)
    a.signal(signal.SIGCONT)
    candidates.witness.wait_note("signal CONT", "a")
    stop(tree.main)
    a.signal(signal.SIGUSR1)
    wait_until(
        lambda: is_pending(tree.main, signal.SIGUSR1),
        timeout_s=BOUND_S,
        what="the guardian, which is not stopped, passes on USR1",
    )
    assert state_of(a.guardian) != "T"
    os.kill(tree.main, signal.SIGCONT)
    candidates.witness.wait_note("signal USR1", "a")
    candidates.witness.wait_note("signal CONT", "a", count=2)
    assert sorted(signals(candidates, "a")) == ["CONT", "CONT", "TSTP", "USR1"]
