"""Terminals: whose keys they are, what Ctrl-Z stops, and what a shell makes of leaderexec.

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
    LONG,
    child_command,
    children_of,
    in_pid_namespace,
    is_gone,
    is_pending,
    kill,
    state_of,
    stop,
)
from tests.support.candidates import TAKEOVER_S
from tests.support.required import missing, or_skip, root_only
from tests.support.slowfs import SlowExecutable, script_of
from tests.support.wait import wait_until
from tests.support.witness import now_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.support.candidate import Candidate
    from tests.support.candidates import Candidates
    from tests.support.witness import Tree

CTRL_BACKSLASH: Final = "\x1c"
CTRL_C: Final = "\x03"
CTRL_Z: Final = "\x1a"

#: A renewal is missed long before the guardian is taken for dead.
PATIENT: Final = ("--lease-duration=60s", "--renew-deadline=5s", "--retry-period=4s")

#: Leaves how it was called in a script, for an interactive shell to run: `bash a.job`.
_SHELL: Final = (
    'name=$WITNESS_CANDIDATE; printf "exec%s 2>>%q.log\\n" "$(printf " %q" "$@")" "$name" '
    '> "$name.job"; PS1="> " exec bash --norc --noprofile --noediting -i'
)
SESSION_LEADER: Final = ("setsid", "--ctty", "--wait")
#: As a container runtime starts it: PID 1 and the leader of a session with a terminal.
CONTAINER: Final = (*in_pid_namespace(), "setsid", "--ctty")
without_a_shell: Final = pytest.mark.parametrize(
    "wrapper", [SESSION_LEADER, pytest.param(CONTAINER, marks=root_only)], ids=["session", "pid1"]
)


def until(condition: Callable[[], object], what: str | Callable[[], str]) -> None:
    """Wait for a condition."""
    wait_until(condition, timeout_s=20, what=what)


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
        until(lambda: text in self.shown, lambda: f"{text!r} is shown: {self.shown[-2000:]}")

    @property
    def holder(self) -> int:
        """The process group in its foreground."""
        return os.tcgetpgrp(self._master)

    def wait_holder(self, group: int) -> None:
        """Wait until `group` is in its foreground."""
        until(
            lambda: self.holder == group,
            lambda: f"{group} has it, not {self.holder}; shown: {self.shown[-2000:]}",
        )

    def resize(self, rows: int) -> None:
        """Give it another size."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 80, 0, 0))

    def has_modes(self, flags: int) -> bool:
        """Whether these local modes are set."""
        return bool(termios.tcgetattr(self._master)[3] & flags == flags)

    def hang_up(self) -> None:
        """Close the master side, as a terminal's window does."""
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
    *options: str,
    child: Sequence[str] | None = None,
    wrapper: Sequence[str] = SESSION_LEADER,
    stderr: int | None = None,
) -> Candidate:
    """Start a candidate that has the terminal."""
    candidate = candidates.make("a", *options, child=child, wrapper=wrapper, stderr=stderr)
    candidate.stdin = screen.slave
    candidate.start()
    os.close(screen.slave)  # it is hung up when nobody else has it
    return candidate


def start_shell(
    candidates: Candidates,
    screen: Screen,
    line: str,
    *options: str,
    child: Sequence[str] | None = None,
) -> Candidate:
    """Start an interactive shell, and type the line that starts the candidate: `bash a.job`."""
    if not shutil.which("bash"):
        missing("bash", "an interactive shell is needed")
    wrapper = (*SESSION_LEADER, "bash", "-c", _SHELL, "bash")
    a = start_on(candidates, screen, *options, child=child, wrapper=wrapper, stderr=screen.slave)
    screen.wait_shown("> ")
    screen.enter(line)
    return a


def start_job(
    candidates: Candidates, screen: Screen, *flags: str, line: str = "bash a.job"
) -> tuple[Candidate, int]:
    """Have a shell start a candidate, and wait for its test child with these flags."""
    a = start_shell(candidates, screen, line, child=child_command(*flags))
    return a, wait_tree(candidates)


def start_second(candidates: Candidates, screen: Screen, line: str = "bash a.job") -> Candidate:
    """Have a shell start a candidate that stands by; another one leads."""
    leader, _ = candidates.start_leader("l")
    a = start_shell(candidates, screen, line)
    a.wait_event(f"leader is {leader.identity}")
    return a


def shell_of(candidate: Candidate) -> int:
    """Return the pid, and the process group, of its shell."""
    (shell,) = children_of(candidate.process.pid)
    return shell


def wait_tree(candidates: Candidates) -> int:
    """Wait until the child is ready, and return the pid, which is the process group's."""
    (tree,) = candidates.witness.wait_running(1, "a", timeout_s=TAKEOVER_S)
    candidates.witness.wait_note("ready", "a")
    return tree.main


def wait_state(pid: int, *, stopped: bool) -> None:
    """Wait until a process is stopped, or is not."""
    until(
        lambda: (state_of(pid) == "T") is stopped,
        lambda: f"{pid} is {'' if stopped else 'not '}stopped: {state_of(pid)}",
    )


def wait_output(candidate: Candidate, text: str) -> None:
    """Wait until `text` was written to the standard output of a shell or its job."""
    until(lambda: text in candidate.output, lambda: f"{text!r} is written: {candidate.log[-2000:]}")


def suspend(screen: Screen, candidate: Candidate) -> None:
    """Press Ctrl-Z, and see the shell take the terminal from a job that is stopped."""
    guardian = candidate.guardian
    shown = screen.shown.count("Stopped")
    screen.press(CTRL_Z)
    wait_state(guardian, stopped=True)
    screen.wait_holder(shell_of(candidate))
    until(lambda: screen.shown.count("Stopped") > shown, "the shell says that it is stopped")


def tree_and_standby(candidates: Candidates) -> Tree:
    """Start a standby, and return the leader's tree."""
    candidates.start_standby("b")
    (tree,) = candidates.witness.trees("a")
    return tree


# --- Ctrl-Z, with a shell --------------------------------------------------------------------


def test_ctrl_z_and_fg(candidates: Candidates, screen: Screen) -> None:
    """The whole job stops and goes on, again and again: same child, though a renewal was missed.

    What the elector renewed while the guardian was stopped is heard before the time counts.
    """
    candidates.timing = PATIENT
    a, child = start_job(candidates, screen)
    screen.wait_holder(child)
    for number, stopped_s in enumerate((0, 0, 5.5), start=1):
        suspend(screen, a)
        assert state_of(child) == "T"
        over_ns = now_ns() + int(stopped_s * 1e9)
        until(lambda over_ns=over_ns: now_ns() > over_ns, "the renew deadline is past")  # type: ignore[misc]
        screen.enter("fg")
        screen.wait_holder(child)
        # A TSTP would take back a CONT that still waits to be read.
        candidates.witness.wait_note("signal CONT", "a", count=number)
    a.wait_event("continued", count=3)
    screen.resize(30)
    candidates.witness.wait_note("signal WINCH", "a")
    assert candidates.signals() == ["TSTP", "CONT"] * 3 + ["WINCH"]
    assert [tree.main for tree in candidates.witness.running()] == [child]
    assert not a.events("stopping")


def test_ctrl_z_and_no_fg(candidates: Candidates, screen: Screen) -> None:
    """Rule 16: a job that nobody continues is dead before another leads."""
    candidates.timing = BRISK
    a, _ = start_job(candidates, screen, "--ignore", "TERM")
    tree, guardian = tree_and_standby(candidates), a.guardian
    suspend(screen, a)
    candidates.assert_followed(tree, "b", timeout_s=2 * TAKEOVER_S)
    assert is_gone(guardian)
    assert a.events("stopped: leadership is lost and the tree killed unless continued")
    screen.enter("")
    screen.wait_shown("Killed")


def test_ctrl_z_and_the_death_of_the_keeper(candidates: Candidates, screen: Screen) -> None:
    """What a dead keeper leaves falls to the guardian, which goes on to end it in time."""
    candidates.timing = BRISK
    a, _ = start_job(candidates, screen, "--ignore", "TERM", "--spawn", "setsid+ignore")
    tree = tree_and_standby(candidates)
    suspend(screen, a)
    assert len(tree.pids) == 2
    kill(a.keeper)
    candidates.assert_followed(tree, timeout_s=2 * TAKEOVER_S)


@pytest.mark.parametrize("how", ["kill %1", "the terminal hangs up"])
def test_a_stopped_job_is_ended(candidates: Candidates, screen: Screen, how: str) -> None:
    """A shell's TERM or HUP, and its CONT, reach the child of a stopped job; the lock is free."""
    a, _ = start_job(candidates, screen, "--exit-on", "TERM,HUP", "--spawn", "plain")
    tree = tree_and_standby(candidates)
    suspend(screen, a)
    for pid in tree.pids:  # one that stops only after the TERM is not continued
        wait_state(pid, stopped=True)
    if how == "kill %1":
        screen.enter(how)
    else:
        screen.hang_up()
    candidates.assert_followed(tree, "b")


def test_ctrl_z_and_bg(candidates: Candidates, screen: Screen) -> None:
    """`bg` continues the child without the terminal, which is the shell's until the end."""
    a, child = start_job(candidates, screen, "--exit-on", "TERM")
    guardian = a.guardian
    suspend(screen, a)
    screen.enter("bg")
    wait_state(child, stopped=False)
    candidates.witness.wait_note("signal CONT", "a")
    shell = shell_of(a)
    assert screen.holder == shell
    os.kill(guardian, signal.SIGTERM)
    until(lambda: is_gone(guardian), "the end of the guardian")
    assert screen.holder == shell, "nobody took the terminal from the shell"
    screen.enter("echo still $((40 + 2))")
    wait_output(a, "still 42")
    assert candidates.signals() == ["TSTP", "CONT", "TERM"]


def test_a_child_that_stops_itself(candidates: Candidates, screen: Screen) -> None:
    """Programs that stop themselves with SIGSTOP stop the job too; else nobody had the terminal."""
    a, child = start_job(candidates, screen, "--stop")
    wait_state(a.guardian, stopped=True)
    screen.wait_holder(shell_of(a))
    screen.enter("fg")
    screen.wait_holder(child)
    wait_state(child, stopped=False)


@pytest.mark.parametrize("background", [False, True])
def test_fg_of_a_standby(candidates: Candidates, screen: Screen, background: bool) -> None:
    """A standby that was stopped or in the background and is continued hands over the terminal."""
    a = start_second(candidates, screen, "bash a.job &" if background else "bash a.job")
    (tree,) = candidates.witness.trees("l")
    if not background:
        suspend(screen, a)
    screen.enter("fg")
    screen.wait_holder(a.guardian)
    candidates.by_name["l"].terminate()
    screen.wait_holder(candidates.assert_followed(tree, "a").main)


def test_ctrl_z_while_the_child_drains(candidates: Candidates, screen: Screen) -> None:
    """A child that was asked to stop is not left stopped: it drains to its end."""
    flags = ("--drain", "2", "--exit", "3")
    a, _ = start_job(candidates, screen, *flags, line="bash a.job; echo code=$?")
    a.terminate()
    candidates.witness.wait_note("signal TERM", "a")
    screen.press(CTRL_Z)
    candidates.witness.wait_note("signal TSTP", "a")
    screen.wait_shown("^Z")
    wait_output(a, "code=3")
    assert candidates.signals() == ["TERM", "TSTP", "CONT"]


# --- pipelines and the background ------------------------------------------------------------


def test_ctrl_z_on_a_pipeline(candidates: Candidates, screen: Screen) -> None:
    """The others of a pipeline stop and go on with it."""
    a, child = start_job(candidates, screen, "--exit-on", "TERM", line="bash a.job | cat")
    guardian, shell = a.guardian, shell_of(a)
    (cat,) = [pid for pid in children_of(shell) if pid != guardian]
    suspend(screen, a)
    assert [state_of(pid) for pid in (guardian, cat, child)] == ["T"] * 3
    screen.enter("fg")
    for pid in (guardian, cat, child):
        wait_state(pid, stopped=False)
    screen.press(CTRL_C)
    until(lambda: is_gone(guardian), "the end of the guardian")
    screen.wait_holder(shell)


@pytest.mark.parametrize("told", [True, False])
def test_started_in_the_background(candidates: Candidates, screen: Screen, told: bool) -> None:
    """The child of a background job has no terminal, and gets it with `fg`'s CONT, unseen.

    Where `fg` tells the guardian nothing, Ctrl-Z stops the job as well, and Ctrl-C ends it.
    """
    a, child = start_job(candidates, screen, "--exit-on", "TERM", line="bash a.job &")
    assert screen.holder == shell_of(a)
    screen.enter("fg")
    screen.wait_holder(a.guardian)
    if told:
        a.signal(signal.SIGCONT)  # which bash sends to stopped jobs only, others always
        screen.wait_holder(child)
        screen.resize(30)
        candidates.witness.wait_note("signal WINCH", "a")
        assert candidates.signals() == ["WINCH"]
    suspend(screen, a)
    assert state_of(child) == "T"
    if not told:
        screen.enter("bg")
        candidates.witness.wait_note("signal CONT", "a")  # which TERM may overtake
        screen.enter("fg; echo code=$?")
        screen.wait_holder(a.guardian)
        screen.press(CTRL_C)
        wait_output(a, "code=0")
        assert candidates.signals() == ["TSTP", "CONT", "TERM"]


@pytest.mark.parametrize("line", ["true | bash a.job", "bash a.job &"])
def test_a_child_that_reads_gets_the_terminal(
    candidates: Candidates, screen: Screen, line: str
) -> None:
    """One that is not given it at its start has it when it reads, in the background after `fg`."""
    child = ["bash", "-c", "read -r line </dev/tty; echo got $line"]
    a = start_shell(candidates, screen, line, child=child)
    a.wait_event("child started")
    if line.endswith("&"):
        wait_state(a.guardian, stopped=True)
        screen.enter("jobs -l")
        wait_output(a, "tty input")
        screen.enter("fg")
        until(lambda: screen.holder != shell_of(a), "in the foreground")
    screen.enter("hello")
    wait_output(a, "got hello")


# --- without a shell -------------------------------------------------------------------------


@without_a_shell
def test_ctrl_z_where_nobody_could_continue(
    candidates: Candidates, screen: Screen, wrapper: Sequence[str]
) -> None:
    """As in `docker run -it`: the child is continued at once, keeps the terminal, and leads on."""
    a = start_on(candidates, screen, wrapper=wrapper)
    wait_tree(candidates)
    for count in (1, 2):
        screen.press(CTRL_Z)
        candidates.witness.wait_note("signal CONT", "a", count=count)
    assert candidates.signals() == ["TSTP", "CONT"] * 2
    assert state_of(a.guardian) != "T"
    screen.press(CTRL_C)
    assert a.wait() == 130
    candidates.witness.wait_running(0)
    assert candidates.signals() == ["TSTP", "CONT"] * 2 + ["INT"]


def test_an_operators_stop_is_left_alone(candidates: Candidates, screen: Screen) -> None:
    """Where no shell is, SIGSTOP to the child is not undone: somebody wants to look at it."""
    a = start_on(candidates, screen, child=child_command("--ignore", "USR1"))
    child = wait_tree(candidates)
    stop(child)
    screen.press(CTRL_Z)  # nobody's any more: it is stopped already
    a.signal(signal.SIGUSR1)
    until(lambda: is_pending(child, signal.SIGUSR1), "USR1 waits")
    assert state_of(child) == "T"
    os.kill(child, signal.SIGCONT)
    candidates.witness.wait_note("signal USR1", "a")


# --- the other keys, and the size ------------------------------------------------------------


@without_a_shell
def test_what_a_child_with_a_terminal_ever_gets(
    candidates: Candidates, screen: Screen, wrapper: Sequence[str]
) -> None:
    """Each key, each resize and the end of the terminal reach it once, and nothing else does."""
    child = child_command("--ignore", "INT,QUIT,HUP", "--exit-on", "TERM", "--exit", "5")
    a = start_on(candidates, screen, child=child, wrapper=wrapper)
    wait_tree(candidates)
    expected = []
    for keys, name in ((CTRL_C, "INT"), (CTRL_BACKSLASH, "QUIT"), (CTRL_C, "INT")):
        screen.press(keys)
        expected.append(name)
        candidates.witness.wait_note(f"signal {name}", "a", count=expected.count(name))
    screen.resize(30)  # as the kernel tells it
    candidates.witness.wait_note("signal WINCH", "a")
    a.signal(signal.SIGWINCH)  # as a runtime does
    candidates.witness.wait_note("signal WINCH", "a", count=2)
    screen.hang_up()
    candidates.witness.wait_note("signal HUP", "a")
    a.terminate()
    assert a.wait() == 5
    assert candidates.signals() == [*expected, "WINCH", "WINCH", "HUP", "TERM"]


@pytest.mark.parametrize(("keys", "code"), [(CTRL_C, 130), (CTRL_BACKSLASH, 131)])
def test_keys_end_a_standby(candidates: Candidates, screen: Screen, keys: str, code: int) -> None:
    """A standby has the terminal itself, and ends by its keys."""
    a = start_second(candidates, screen)
    screen.wait_holder(a.guardian)
    screen.press(keys)
    screen.wait_holder(shell_of(a))
    screen.enter("echo code=$?")
    wait_output(a, f"code={code}")
    assert [tree.candidate for tree in candidates.witness.running()] == ["l"]


def test_the_terminal_is_the_guardians_again(candidates: Candidates, screen: Screen) -> None:
    """A lost child leaves a standby that can be interrupted, whatever modes it had set."""
    child = ["bash", "-c", 'stty raw -echo; exec "$@"', "bash", *child_command()]
    a = start_on(candidates, screen, child=child)
    screen.wait_holder(wait_tree(candidates))
    assert not screen.has_modes(termios.ISIG)
    tree = tree_and_standby(candidates)
    kill(a.keeper)
    candidates.assert_followed(tree, "b")
    screen.wait_holder(a.guardian)
    modes = termios.ISIG | termios.ECHO | termios.ICANON
    until(lambda: screen.has_modes(modes), "the modes are those of before")
    screen.press(CTRL_C)
    assert a.wait() == 130


def test_the_terminal_of_a_child_that_nobody_told_of(
    candidates: Candidates, screen: Screen, tmp_path: Path
) -> None:
    """A child may die in exec, with its keeper, when it has the terminal: the next one gets it."""
    leader, tree = candidates.start_leader("l")
    with or_skip(lambda: SlowExecutable(tmp_path, script_of(child_command()))) as slow:
        wrapper = (*SESSION_LEADER, *slow.wrapper)
        a = start_on(candidates, screen, child=[str(slow.path)], wrapper=wrapper)
        a.wait_event(f"leader is {leader.identity}")
        slow.hang(killable=True)
        leader.terminate()
        (hung,) = slow.wait_hung()
        screen.wait_holder(hung)
        kill(a.keeper)
        until(lambda: is_gone(hung), "it dies with its keeper")
        slow.go_on()
        screen.wait_holder(candidates.assert_followed(tree, "a").main)


def test_modes_that_a_child_leaves_on_purpose(candidates: Candidates, screen: Screen) -> None:
    """A child that ends by itself may have been started to change the terminal, as stty is."""
    a = start_shell(candidates, screen, "bash a.job", child=["stty", "-echo"])
    a.wait_event("gone")
    screen.wait_holder(shell_of(a))
    assert not screen.has_modes(termios.ECHO)


def test_leftovers_do_not_keep_the_terminal(candidates: Candidates, screen: Screen) -> None:
    """When the child has ended, Ctrl-C is the guardian's, and the second kills what is left."""
    child = child_command("--fork-exit", "--ignore", "ALL")
    a = start_on(candidates, screen, "--stop-timeout=1h", child=child)
    (tree,) = candidates.witness.wait_running(1, "a", timeout_s=TAKEOVER_S)
    guardian = a.guardian
    screen.wait_holder(guardian)
    screen.press(CTRL_C)
    screen.wait_shown("^C")
    until(lambda: not is_pending(guardian, signal.SIGINT), "INT is read")
    assert not is_gone(guardian)
    assert tree.running
    screen.press(CTRL_C)
    a.wait()
    candidates.witness.wait_ended(tree)


# --- the terminal goes -----------------------------------------------------------------------


#: A shell's `nohup`.
_NO_HUP: Final = (*SESSION_LEADER, "sh", "-c", 'trap "" HUP; exec "$@"', "sh")


@pytest.mark.parametrize("what", ["terminal gone", "HUP sent", "terminal gone, HUP ignored"])
def test_hang_ups_of_a_standby(candidates: Candidates, screen: Screen, what: str) -> None:
    """It ends with its terminal, since nobody would see it lead or could interrupt it.

    With HUP ignored it outlives that, and its child starts without one. A HUP that somebody sends
    is not for a standby while its terminal is there.
    """
    leader, tree = candidates.start_leader("l")
    wrapper = _NO_HUP if "ignored" in what else SESSION_LEADER
    a = start_on(candidates, screen, wrapper=wrapper)
    a.wait_event(f"leader is {leader.identity}")
    if what == "HUP sent":
        a.signal(signal.SIGHUP)
    else:
        screen.hang_up()
    if what == "terminal gone":
        assert a.wait() == 129
        return
    leader.terminate()
    candidates.assert_followed(tree, "a")
    assert not candidates.signals()
