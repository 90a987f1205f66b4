"""The options that an init has: signals rewritten, exit codes remapped, a parent's death."""

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
    ROOT,
    as_user,
    child_command,
    in_pid_namespace,
    is_gone,
    kill,
    stop,
)
from tests.support.cgroup import Group
from tests.support.required import or_skip, root_only
from tests.support.setuid import SetuidRoot
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.candidates import Candidates

# --- --rewrite-signal ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rewrite", "sent", "gets"),
    [
        ("TERM:QUIT", [signal.SIGTERM], "QUIT"),
        ("15:3", [signal.SIGINT], "QUIT"),  # what it becomes, TERM, has a rule
        ("INT:USR1,TERM:USR2", [signal.SIGINT], "USR1"),
        ("HUP:INT", [signal.SIGHUP], "INT"),
        ("TSTP:USR2", [signal.SIGTSTP], "USR2"),  # otherwise of no concern to a child
        ("USR1:RTMIN+5", [signal.SIGUSR1], "39"),
        ("USR1:0", [signal.SIGUSR1, signal.SIGUSR2], "USR2"),  # dropped, unlike what comes after it
    ],
)
def test_a_signal_is_rewritten_or_dropped(
    candidates: Candidates, rewrite: str, sent: list[int], gets: str
) -> None:
    """The child gets the other signal, once, and never the one that was sent."""
    child = child_command("--exit-on", gets, "--exit", "4")
    candidate, _ = candidates.start_leader("a", f"--rewrite-signal={rewrite}", child=child)
    for signum in sent:
        candidate.signal(signum)
    assert candidate.wait() == 4
    assert candidates.signals() == [gets]


def test_a_dropped_stop_signal_stops_all_the_same(candidates: Candidates) -> None:
    """A request to stop is one although the child is not told: it is killed when its time is up."""
    options = ("--rewrite-signal=TERM:0", "--stop-timeout=500ms")
    candidate, _ = candidates.start_leader("a", *options)
    standby = candidates.start_standby("b", *options)
    standby.terminate()
    assert standby.wait() == 143
    candidate.terminate()
    assert candidate.wait() == 137
    assert candidates.signals() == []


def test_leftovers_get_the_rewritten_stop_signal(candidates: Candidates) -> None:
    """What the child leaves behind is asked to stop in the same words."""
    child = child_command("--spawn", "plain", "--after", "0", "--exit", "5")
    candidate = candidates.start("a", "--rewrite-signal=TERM:QUIT", child=child)
    assert candidate.wait() == 5
    assert candidates.signals() == ["QUIT"]


# --- --remap-exit --------------------------------------------------------------------------------


def test_exit_codes_are_remapped(candidates: Candidates) -> None:
    """A child's end and a standby's, by the table; the codes of leaderexec itself stay."""
    options = ("--remap-exit=143:0", "--remap-exit=124:0")
    leader, _ = candidates.start_leader("a", *options)
    standby = candidates.start_standby("b", *options)
    late = candidates.start("c", "--timeout=0", *options)
    assert late.wait() == 124
    assert "not leader within --timeout" in late.log
    for each in (standby, leader):
        each.terminate()
        assert each.wait() == 0


# --- --parent-death-signal -----------------------------------------------------------------------

#: A parent that lives until it is killed, and one that is dead before we look.
_WAITS = ["sh", "-c", '"$@" & wait', "sh"]


@pytest.mark.parametrize("name", ["TERM", "KILL"])
def test_it_stops_when_its_parent_dies(candidates: Candidates, name: str) -> None:
    """As if somebody had sent the signal: the tree is dead before another runs.

    With TERM the child drains; KILL ends the guardian in the same moment.
    """
    leader, tree = candidates.start_leader("a", f"--parent-death-signal={name}", wrapper=_WAITS)
    candidates.start_standby("b")
    guardian = leader.guardian
    kill(leader.process.pid)
    candidates.assert_followed(tree, "b")
    wait_until(lambda: is_gone(guardian), timeout_s=10, what="the guardian ends")
    assert candidates.signals() == ["TERM"] * (name == "TERM")


# --- --allow-privilege-escalation ----------------------------------------------------------------


def test_privileges_are_gained_where_that_is_allowed(candidates: Candidates) -> None:
    """A child that became root may not be killed: the lock is kept until it ends."""
    options = ("--allow-privilege-escalation", "--stop-timeout=200ms")
    with or_skip(SetuidRoot) as setuid:
        child = setuid.child_command("--ignore", "TERM")
        leader, tree = candidates.start_leader("a", *options, child=child, wrapper=as_user(65534))
    assert [process.uid for process in tree.processes] == [0]
    candidates.start_standby("b")
    leader.terminate()
    leader.wait_event("killing the tree without its keeper")
    assert candidates.witness.running() == [tree]
    os.kill(tree.main, signal.SIGKILL)
    candidates.assert_followed(tree, "b")


# --- no subreaper --------------------------------------------------------------------------------

_NO_SUBREAPER = seccomp.wrapper(seccomp.PR_SET_CHILD_SUBREAPER)
_WARNING = "neither PID 1 nor a subreaper"


@root_only
def test_as_pid_1_no_subreaper_is_needed(candidates: Candidates) -> None:
    """What the child abandons falls to PID 1, and is dead before another begins."""
    child = child_command("--spawn", "daemon+ignore*2", "--after", "1", "--exit", "6")
    wrapper = [*in_pid_namespace(), *_NO_SUBREAPER]
    leader, tree = candidates.start_leader("a", wrapper=wrapper, child=child)
    candidates.start_standby("b")
    candidates.assert_followed(tree, "b")
    assert leader.wait() == 6
    assert _WARNING not in leader.log
    assert len(tree.pids) == 3


def test_without_a_subreaper_a_dead_guardians_lock_is_not_given_back(
    candidates: Candidates,
) -> None:
    """Its keeper cannot prove that nothing is left: the lease runs out instead.

    It says before what it cannot promise; one that can says nothing.
    """
    leader, tree = candidates.start_leader("a", wrapper=_NO_SUBREAPER)
    candidates.start_standby("b")
    assert _WARNING in leader.log
    assert _WARNING not in candidates.by_name["b"].log
    kill(leader.guardian)
    candidates.assert_followed(tree, "b")
    assert "the lock is not given back" in leader.log


# --- a control group of our own ------------------------------------------------------------------


def group_of(pid: int) -> str:
    """Return the group of a process in the unified hierarchy."""
    return Path(f"/proc/{pid}/cgroup").read_text().splitlines()[-1]


@pytest.fixture
def delegated() -> Iterator[tuple[list[str], Path]]:
    """A wrapper under which PID 1 owns a writable cgroup v2, as a container may; and its place."""
    mount = 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'
    with or_skip(Group) as group:
        wrapper = [
            *group.wrapper, "unshare", "--cgroup", "--mount", "sh", "-c", mount, "sh",
            *in_pid_namespace(),
        ]  # fmt: skip
        yield wrapper, group.path
        for left in group.path.glob("*/"):
            left.rmdir()


@root_only
def test_a_tree_has_a_control_group_where_it_can_be_made(
    candidates: Candidates, delegated: tuple[list[str], Path]
) -> None:
    """The whole tree is in it and nothing else, it is the same for every run, and it is removed."""
    wrapper, path = delegated
    child = child_command("--spawn", "setsid*2", "--ignore", "TERM")
    leader, tree = candidates.start_leader(
        "a", "--stop-timeout=300ms", wrapper=wrapper, child=child
    )
    ours = group_of(leader.guardian)
    assert {group_of(pid) for pid in tree.pids} == {f"{ours}/leaderexec-tree"}
    assert group_of(leader.elector) == ours
    stop(leader.elector)
    again = candidates.assert_followed(tree, "a")
    candidates.witness.wait_note("ready", "a", count=2)
    assert {group_of(pid) for pid in again.pids} == {f"{ours}/leaderexec-tree"}
    leader.terminate()
    assert leader.wait() == 137
    assert not [*path.glob("*/")]


@root_only
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


@root_only
def test_elsewhere_there_is_no_group(candidates: Candidates) -> None:
    """Off PID 1, and without a namespace of its own, the child stays in leaderexec's group."""
    for name, wrapper in (("a", []), ("b", in_pid_namespace())):
        lock = ("--election=x", f"--lock=file:{candidates.directory / name}-lock")
        candidate = candidates.start(name, wrapper=wrapper, lock=lock)
        (tree,) = candidates.witness.wait_running(1, name, timeout_s=20)
        assert len({group_of(pid) for pid in (candidate.guardian, *tree.pids)}) == 1
        candidate.terminate()
        candidate.wait()
