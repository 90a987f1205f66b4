"""The options that an init has: signals rewritten, exit codes remapped, and what we die of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import seccomp
from tests.support.candidate import (
    BRISK,
    ROOT,
    as_user,
    child_command,
    in_pid_namespace,
    is_gone,
    kill,
    stop,
)
from tests.support.cgroup import KillGroup
from tests.support.required import or_skip
from tests.support.setuid import SetuidRoot
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.candidate import Candidate
    from tests.support.candidates import Candidates

NOBODY = 65534
_ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and users need root")


def received(candidates: Candidates, candidate: str = "a") -> list[str]:
    """Return the signals that the processes of a candidate's tree were sent."""
    words = (note.text.split() for note in candidates.witness.notes(candidate))
    return [word[1] for word in words if word[0] == "signal"]


# --- --rewrite-signal ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rewrite", "sent", "gets"),
    [
        ("TERM:QUIT", signal.SIGTERM, "QUIT"),
        ("15:3", signal.SIGINT, "QUIT"),  # what it becomes, TERM, has a rule
        ("INT:USR1,TERM:USR2", signal.SIGINT, "USR1"),
        ("HUP:INT", signal.SIGHUP, "INT"),
        ("TSTP:USR2", signal.SIGTSTP, "USR2"),  # otherwise of no concern to a child
        ("USR1:RTMIN+5", signal.SIGUSR1, "39"),
    ],
)
def test_a_signal_is_rewritten(candidates: Candidates, rewrite: str, sent: int, gets: str) -> None:
    """The child gets the other signal, once, and never the one that was sent."""
    child = child_command("--exit-on", gets, "--exit", "4")
    candidate, _ = candidates.start_leader("a", f"--rewrite-signal={rewrite}", child=child)
    candidate.signal(sent)
    assert candidate.wait() == 4
    assert received(candidates) == [gets]


def test_a_dropped_signal_reaches_nobody(candidates: Candidates) -> None:
    """What is rewritten to 0 is not sent, and what comes after it is."""
    child = child_command("--exit-on", "USR2")
    candidate, _ = candidates.start_leader("a", "--rewrite-signal=USR1:0", child=child)
    candidate.signal(signal.SIGUSR1)
    candidate.signal(signal.SIGUSR2)
    assert candidate.wait() == 0
    assert received(candidates) == ["USR2"]


def test_a_dropped_stop_signal_stops_all_the_same(candidates: Candidates) -> None:
    """A request to stop is one although the child is not told: it is killed when its time is up."""
    options = ("--rewrite-signal=TERM:0", "--stop-timeout=500ms")
    candidate, _ = candidates.start_leader("a", *options)
    standby = candidates.start_standby("b", *options)
    standby.terminate()
    assert standby.wait() == 143
    candidate.terminate()
    assert candidate.wait() == 137
    assert received(candidates) == []


def test_leftovers_get_the_rewritten_stop_signal(candidates: Candidates) -> None:
    """What the child leaves behind is asked to stop in the same words."""
    child = child_command("--spawn", "plain", "--after", "0", "--exit", "5")
    candidate = candidates.start("a", "--rewrite-signal=TERM:QUIT", child=child)
    assert candidate.wait() == 5
    assert received(candidates) == ["QUIT"]


def test_on_loss_the_child_gets_the_rewritten_stop_signal(candidates: Candidates) -> None:
    """A stop that nobody asked for is announced as one that somebody did."""
    candidates.timing = BRISK  # with time to hear it, however late we are
    child = child_command("--exit-on", "QUIT")
    leader, tree = candidates.start_leader("a", "--rewrite-signal=TERM:QUIT", child=child)
    stop(leader.elector)
    candidates.witness.wait_ended(tree, timeout_s=30)
    assert received(candidates) == ["QUIT"]


# --- --remap-exit --------------------------------------------------------------------------------


def test_exit_codes_are_remapped(candidates: Candidates) -> None:
    """The child's own code, its death by a signal, and a standby's end by one, by the table."""
    options = ("--remap-exit=143:0", "--remap-exit=7:3,137:1")
    first, _ = candidates.start_leader("a", *options)
    standby = candidates.start_standby("b", *options)
    standby.terminate()
    assert standby.wait() == 0
    first.terminate()
    assert first.wait() == 0
    assert (
        candidates.start("c", *options, child=child_command("--after", "0", "--exit", "7")).wait()
        == 3
    )
    killed = child_command("--after", "0", "--die", "KILL")
    assert candidates.start("d", *options, child=killed).wait() == 1


def test_our_own_exit_codes_stay(candidates: Candidates) -> None:
    """A timeout is a timeout, also where a child's 124 would be told as something else."""
    candidates.start_leader("a")
    standby = candidates.start("b", "--timeout=0", "--remap-exit=124:0")
    assert standby.wait() == 124
    assert "not leader within --timeout" in standby.log


def test_a_child_that_exits_with_a_code_of_ours_is_not_told_as_a_failure(
    candidates: Candidates,
) -> None:
    """75 of a child is the child's: no leadership was lost."""
    candidate = candidates.start("a", child=child_command("--after", "0", "--exit", "75"))
    assert candidate.wait() == 75
    assert "leadership lost" not in candidate.log


# --- --parent-death-signal -----------------------------------------------------------------------

#: A parent that lives until it is killed, and one that is dead before we look.
_WAITS = ["sh", "-c", '"$@" & wait', "sh"]


def test_we_stop_when_our_parent_dies(candidates: Candidates) -> None:
    """The signal stops us as if somebody had sent it: the child drains, the lock is given back."""
    leader, tree = candidates.start_leader("a", "--parent-death-signal=TERM", wrapper=_WAITS)
    candidates.start_standby("b")
    guardian = leader.guardian
    kill(leader.process.pid)
    candidates.witness.wait_successor(tree, timeout_s=20)
    wait_until(lambda: is_gone(guardian), timeout_s=10, what="the guardian ends")
    assert received(candidates) == ["TERM"]
    candidates.assert_exclusive()


def test_without_the_option_we_outlive_our_parent(candidates: Candidates) -> None:
    """A parent's death alone ends nothing."""
    leader, tree = candidates.start_leader("a", "--rewrite-signal=USR1:USR2", wrapper=_WAITS)
    guardian = leader.guardian
    kill(leader.process.pid)
    os.kill(guardian, signal.SIGUSR1)  # it is answered after whatever the death would have sent
    candidates.witness.wait_note("signal USR2", "a")
    assert received(candidates) == ["USR2"]
    assert tree.pids
    os.kill(guardian, signal.SIGKILL)


def test_killed_by_our_parents_death(candidates: Candidates) -> None:
    """KILL ends the guardian in the same moment, and the tree with it, before another runs."""
    leader, tree = candidates.start_leader("a", "--parent-death-signal=KILL", wrapper=_WAITS)
    candidates.start_standby("b")
    kill(leader.process.pid)
    candidates.witness.wait_successor(tree, timeout_s=20)
    candidates.assert_exclusive()


# --- --allow-privilege-escalation ----------------------------------------------------------------


@pytest.fixture
def setuid() -> Iterator[SetuidRoot]:
    """A program that makes its caller root."""
    with or_skip(SetuidRoot) as program:
        yield program


def test_privileges_are_gained_where_that_is_allowed(
    candidates: Candidates, setuid: SetuidRoot
) -> None:
    """A child that became root is one that we may not kill: the lock is kept until it ends."""
    child = setuid.child_command("--ignore", "TERM")
    leader, tree = candidates.start_leader(
        "a",
        "--allow-privilege-escalation",
        "--stop-timeout=200ms",
        child=child,
        wrapper=as_user(NOBODY),
    )
    assert [process.uid for process in tree.processes] == [0]
    candidates.start_standby("b")
    leader.terminate()
    leader.wait_event("killing the tree without its keeper")
    assert candidates.witness.running() == [tree]
    os.kill(tree.main, signal.SIGKILL)
    candidates.witness.wait_successor(tree, timeout_s=30)
    candidates.assert_exclusive()


# --- no subreaper --------------------------------------------------------------------------------

_NO_SUBREAPER = seccomp.wrapper(seccomp.PR_SET_CHILD_SUBREAPER)


def _warned(candidate: Candidate) -> bool:
    return "neither PID 1 nor a subreaper" in candidate.log


def test_a_warning_where_orphans_fall_to_nobody_of_ours(candidates: Candidates) -> None:
    """It runs and stops as ever, says what it cannot promise, and its code is the child's."""
    leader, tree = candidates.start_leader(
        "a", wrapper=_NO_SUBREAPER, child=child_command("--exit", "6")
    )
    candidates.start_standby("b")
    leader.terminate()
    candidates.witness.wait_successor(tree, timeout_s=20)
    assert leader.wait() == 143
    assert _warned(leader)
    assert not _warned(candidates.by_name["b"])
    candidates.assert_exclusive()


@_ROOT_ONLY
def test_as_pid_1_no_subreaper_is_needed(candidates: Candidates) -> None:
    """What the child abandons falls to PID 1, and is dead before another begins."""
    child = child_command("--spawn", "daemon+ignore*2", "--after", "2", "--exit", "6")
    wrapper = [*in_pid_namespace(), *_NO_SUBREAPER]
    leader, tree = candidates.start_leader("a", wrapper=wrapper, child=child)
    candidates.start_standby("b")
    candidates.witness.wait_successor(tree, timeout_s=20)
    assert leader.wait() == 6
    assert not _warned(leader)
    assert len(tree.pids) == 3
    candidates.assert_exclusive()


def test_without_a_subreaper_a_dead_guardians_lock_is_not_given_back(
    candidates: Candidates,
) -> None:
    """Its keeper cannot prove that nothing is left: the lease runs out instead."""
    leader, tree = candidates.start_leader("a", wrapper=_NO_SUBREAPER)
    candidates.start_standby("b")
    kill(leader.guardian)
    candidates.witness.wait_successor(tree, timeout_s=60)
    assert "the lock is not given back" in leader.log
    candidates.assert_exclusive()


# --- a control group of our own ------------------------------------------------------------------


def group_of(pid: int) -> str:
    """Return the group of a process in the unified hierarchy."""
    return Path(f"/proc/{pid}/cgroup").read_text().splitlines()[-1]


def groups_below(path: Path) -> list[Path]:
    """Return the groups that are left in one."""
    return [inner for inner in path.iterdir() if inner.is_dir()]


@pytest.fixture
def delegated() -> Iterator[tuple[list[str], Path]]:
    """A wrapper under which PID 1 owns a writable cgroup v2, as a container may; and its place."""
    mount = 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'
    with or_skip(KillGroup) as group:
        wrapper = [
            *group.wrapper, "unshare", "--cgroup", "--mount", "sh", "-c", mount, "sh",
            *in_pid_namespace(),
        ]  # fmt: skip
        yield wrapper, group.path
        for left in groups_below(group.path):
            left.rmdir()


@_ROOT_ONLY
def test_a_tree_has_a_control_group_where_we_own_one(
    candidates: Candidates, delegated: tuple[list[str], Path]
) -> None:
    """The whole tree is in it, we are not, run after run it is the same one, and it is removed."""
    wrapper, path = delegated
    child = child_command("--spawn", "setsid*2", "--ignore", "TERM")
    leader, tree = candidates.start_leader(
        "a", "--stop-timeout=300ms", wrapper=wrapper, child=child
    )
    ours = group_of(leader.guardian)
    assert {group_of(pid) for pid in tree.pids} == {f"{ours}/leaderexec-tree"}
    assert group_of(leader.elector) == ours
    stop(leader.elector)
    again = candidates.witness.wait_successor(tree, timeout_s=30)
    candidates.witness.wait_note("ready", "a", count=2)
    assert {group_of(pid) for pid in again.pids} == {f"{ours}/leaderexec-tree"}
    leader.terminate()
    assert leader.wait() == 137
    assert not groups_below(path)
    candidates.assert_exclusive()


@_ROOT_ONLY
def test_one_write_kills_what_is_in_the_group(delegated: tuple[list[str], Path]) -> None:
    """Sessions of their own do not help; who is outside lives."""
    script = (
        "import os, select, signal\n"
        "from leaderexec import cgroup\n"
        "group = cgroup.make('tree')\n"
        "pids = []\n"
        "for number in range(5):\n"
        "    ready, tell = os.pipe()\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        group.enter(); os.setsid(); os.write(tell, b'x'); signal.pause()\n"
        "    os.read(ready, 1)\n"
        "    pids.append(pid)\n"
        "group.kill()\n"
        "ends = [os.pidfd_open(pid) for pid in pids]\n"
        "print([bool(select.select([end], [], [], 5)[0]) for end in ends])\n"
        "group.remove()\n"
        "again = cgroup.make('tree')\n"
        "print(again is not None)\n"
        "again and again.remove()\n"
    )
    command = [*delegated[0], sys.executable, "-c", script]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env=environ, check=True, stdout=subprocess.PIPE, text=True, timeout=60
    )
    assert done.stdout.split("\n")[:2] == [str([True] * 5), "True"]


@_ROOT_ONLY
def test_elsewhere_there_is_no_group(candidates: Candidates) -> None:
    """Off PID 1, and where the namespace is not our own, the child stays in our group."""
    for name, wrapper in (("a", []), ("b", in_pid_namespace())):
        lock = ("--election=x", f"--lock=file:{candidates.directory / name}-lock")
        candidate = candidates.make(name, wrapper=wrapper, lock=lock).start()
        (tree,) = candidates.witness.wait_running(1, name, timeout_s=20)
        assert len({group_of(pid) for pid in (candidate.guardian, *tree.pids)}) == 1
        candidate.terminate()
        candidate.wait()
