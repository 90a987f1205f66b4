"""Where and how leaderexec is started: odd descriptors, priorities, limits, neighbours, powers."""

from __future__ import annotations

import os
import pty
import signal
import sys
import termios
from typing import TYPE_CHECKING

import pytest

from tests.support.candidate import (
    BRISK,
    LONG,
    as_user,
    child_command,
    in_pid_namespace,
    is_gone,
    kill,
    state_of,
)
from tests.support.candidates import TAKEOVER_S
from tests.support.required import root_only
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from tests.support.candidates import Candidates


def test_started_without_standard_descriptors(candidates: Candidates) -> None:
    """No process of leaderexec takes closed 0, 1 and 2, and the child starts without them."""
    wrapper = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    fds = candidates.directory / "fds"
    child = ["/bin/sh", "-c", f"ls /proc/$$/fd > {fds}; exit 5"]
    assert candidates.start("a", wrapper=wrapper, child=child).wait() == 5
    listed = [int(fd) for fd in fds.read_text().split()] if fds.exists() else []
    assert not [fd for fd in listed if fd > 1], "only what the shell itself opens"


def test_processes_that_were_there_before_are_left_alone(candidates: Candidates) -> None:
    """Background jobs of the shell that became leaderexec are no part of the tree."""
    pid_path = candidates.directory / "stranger"
    wrapper = ["/bin/sh", "-c", f'sleep 600 & echo $! > {pid_path}; exec "$@"', "sh"]
    leader, tree = candidates.start_leader("a", wrapper=wrapper, child=child_command())
    stranger = int(pid_path.read_text())
    try:
        kill(leader.keeper)
        candidates.assert_followed(tree)
        leader.terminate()
        assert leader.wait() == 143
        assert not is_gone(stranger)
    finally:
        os.kill(stranger, signal.SIGKILL)


@root_only
def test_a_command_that_a_capability_reaches(candidates: Candidates) -> None:
    """What execve would run is not refused for what the modes say of the user."""
    program = candidates.directory / "private" / "program"
    program.parent.mkdir(mode=0o700)
    program.write_text("#!/bin/sh\nexit 7\n")
    program.chmod(0o700)
    assert candidates.start("a", wrapper=as_user(65534), child=[str(program)]).wait() == 7


def test_all_signals_blocked_by_the_parent(candidates: Candidates) -> None:
    """An inherited mask does not reach the child, an ignored CHLD does; TERM is heard."""
    script = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); "
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    leader, _ = candidates.start_leader(
        "a", wrapper=[sys.executable, "-c", script], child=child_command("--state-note")
    )
    state = candidates.witness.wait_note("state", "a").data["state"]
    assert state["blocked"] == []
    assert "CHLD" in state["ignored"]
    leader.terminate()
    assert leader.wait() == 143


@root_only
@pytest.mark.parametrize("policy", ["other", "batch", "idle"])
def test_the_child_is_scheduled_as_leaderexec_was(candidates: Candidates, policy: str) -> None:
    """The keeper may have a better priority; the child has the one that the user chose.

    One that not every user could choose is in test_init.
    """
    leader, tree = candidates.start_leader("a", wrapper=("chrt", f"--{policy}", "0"))
    assert os.sched_getscheduler(tree.main) == getattr(os, f"SCHED_{policy.upper()}")
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, tree.main) == usual
    assert policy != "other" or os.getpriority(os.PRIO_PROCESS, leader.keeper) < usual


@root_only
def test_proc_of_another_namespace_is_refused(candidates: Candidates) -> None:
    """With a /proc that shows other numbers the tree could not be found: it does not start."""
    candidate = candidates.start("a", wrapper=["unshare", "--pid", "--fork", "--kill-child"])
    assert candidate.wait() == 2
    assert "/proc" in candidate.log


@root_only
def test_a_tree_that_may_not_be_killed_is_never_released(candidates: Candidates) -> None:
    """Rule 9: where a kill is refused, the lock is kept, even if then the guardian dies."""
    candidates.timing = LONG
    child = child_command("--uid", "65534", "--ignore", "TERM")
    leader, tree = candidates.start_leader(
        "a",
        "--stop-timeout=200ms",
        child=child,
        wrapper=["setpriv", "--bounding-set=-kill", "--inh-caps=-kill"],
    )
    candidates.start_standby("b").wait_event(f"leader is {leader.identity}")
    leader.terminate()
    leader.wait_event("killing the tree without its keeper")
    guardian, elector = leader.guardian, leader.elector
    assert not is_gone(guardian)
    assert candidates.witness.running() == [tree]
    kill(guardian)
    wait_until(lambda: is_gone(elector), timeout_s=20, what="the elector ends")
    assert "not given back" in leader.log
    assert candidates.witness.running() == [tree], "nobody else runs while the lease lasts"
    os.kill(tree.main, signal.SIGKILL)
    candidates.assert_exclusive()


@pytest.mark.parametrize(
    ("wrapper", "refused"), [((), os.geteuid() != 0), (("unshare", "--user"), True)]
)
def test_without_the_power_to_kill_anybody_the_child_gains_no_privileges(
    candidates: Candidates, wrapper: tuple[str, ...], refused: bool
) -> None:
    """Rule 9: unless it is root, no setuid program below becomes one that it may not kill."""
    child = ["/bin/sh", "-c", "grep NoNewPrivs /proc/self/status"]
    assert candidates.start("a", wrapper=wrapper, child=child).wait() == 0
    assert candidates.by_name["a"].output.split() == ["NoNewPrivs:", str(int(refused))]


@root_only
def test_two_instances_in_one_slot_have_two_names(candidates: Candidates) -> None:
    """Rule 12: the slot's name is one process's, even where several are PID 1 and know the slot."""
    slot = {"POD_UID": "0" * 32, "CONTAINER_NAME": "server"}
    first = candidates.start("a", env=slot, wrapper=in_pid_namespace())
    (tree,) = candidates.witness.wait_running(1, "a", timeout_s=TAKEOVER_S)
    assert "_leaderexec-" + "0" * 32 in first.identity
    second = candidates.start("b", env=slot, wrapper=in_pid_namespace())
    assert second.identity != first.identity
    second.wait_event(f"leader is {first.identity}")
    assert candidates.witness.running() == [tree]
    candidates.assert_exclusive()


@pytest.mark.alone
def test_a_storm_of_forks_keeps_no_process_from_answering(candidates: Candidates) -> None:
    """Processes that fork as fast as they can do not make guardian and keeper look dead."""
    candidates.timing = BRISK  # the elector has to share the processor
    child = child_command("--chains", "60", "--chain-every", "50", "--ignore", "TERM")
    leader, tree = candidates.start_leader("a", "--stop-timeout=500ms", child=child)
    candidates.start_standby("b")
    guardian = leader.guardian
    leader.terminate()
    assert leader.wait(timeout_s=120) == 137
    assert is_gone(guardian)
    assert "is silent" not in leader.log
    candidates.witness.wait_ended(tree)
    candidates.assert_followed(tree)


def test_the_elector_writes_to_a_terminal_with_tostop(candidates: Candidates) -> None:
    """A background process that logs to such a terminal is not stopped by it."""
    master, slave = pty.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[3] |= termios.TOSTOP
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    leader = candidates.make("a", stderr=slave, wrapper=["setsid", "--ctty", "--wait"])
    leader.stdin = slave
    leader.start()
    os.close(slave)
    os.set_blocking(master, False)
    (tree,) = candidates.witness.wait_running(1, "a", timeout_s=20)
    assert tree.running
    assert state_of(leader.elector) != "T"
    leader.terminate()
    assert leader.wait() == 143
    os.close(master)
