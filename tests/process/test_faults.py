"""Faults of a candidate's own processes on the file lock.

On a Lease the matrix plays them (`tests/matrix/faults/processes.py`), but for those of `FaultSuite`
and those that only need one machine, such as a log that nobody reads.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest

from leaderexec.locks.base import Conflict
from leaderexec.locks.file import FileLock
from tests.support.candidate import (
    LONG,
    ROOT,
    STUBBORN,
    child_command,
    in_pid_namespace,
    is_gone,
    kill,
    resume,
    state_of,
    stop,
)
from tests.support.candidates import TAKEOVER_S
from tests.support.fault_suite import FaultSuite
from tests.support.required import root_only
from tests.support.wait import wait_until
from tests.support.witness import now_ns

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.candidates import Candidates


class TestFaultsOnTheFileLock(FaultSuite):
    """The suite, with candidates on one file lock."""


@pytest.mark.parametrize(
    ("inflict", "part"),
    [(kill, "guardian"), (stop, "guardian"), (kill, "keeper"), (stop, "keeper")],
    ids=["guardian-killed", "guardian-stopped", "keeper-killed", "keeper-stopped"],
)
def test_a_part_is_killed_or_stopped(
    candidates: Candidates, inflict: Callable[[int], None], part: str
) -> None:
    """All that is left of the tree dies, a stubborn descendant too, and then the next one starts.

    A guardian survives its keeper; a silent guardian is killed by its elector. With a long lease
    the next tree after a death can only come from a release.
    """
    if inflict is kill:
        candidates.timing = LONG
    leader, tree = candidates.start_leader("a", child=child_command(*STUBBORN))
    candidates.start_standby("b").wait_event(f"leader is {leader.identity}")
    guardian = leader.guardian
    inflict(getattr(leader, part))
    candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    candidates.assert_followed(tree, "b" if part == "guardian" else None)
    assert is_gone(guardian) == (part == "guardian")


@root_only
def test_a_guardian_stopped_as_init(candidates: Candidates) -> None:
    """As PID 1 it cannot be killed from within: the keeper acts, and the lease ends."""
    leader, tree = candidates.start_leader(
        "a", child=child_command(*STUBBORN), wrapper=in_pid_namespace()
    )
    candidates.start_standby("b")
    guardian = leader.guardian
    stop(guardian)
    candidates.assert_followed(tree, "b")
    assert state_of(guardian) == "T"


def test_a_stopped_elector_is_replaced(candidates: Candidates) -> None:
    """It is killed; whether the next one renews in time or another tree follows, no two run."""
    leader, _ = candidates.start_leader("a")
    candidates.start_standby("b")
    elector = leader.elector
    stop(elector)
    wait_until(lambda: is_gone(elector), timeout_s=TAKEOVER_S, what="the elector is killed")
    candidates.witness.wait_for(
        lambda: leader.events("resumed leadership") or len(candidates.witness.trees()) > 1,
        timeout_s=TAKEOVER_S,
        what="a leader again",
    )
    candidates.assert_exclusive()


def test_a_stopped_keeper_does_not_delay_a_kill(candidates: Candidates) -> None:
    """At the deadline a keeper that does not act is killed, and what it kept with it."""
    leader, tree = candidates.start_leader(
        "a", "--stop-timeout=200ms", child=child_command("--ignore", "ALL")
    )
    stop(leader.keeper)
    leader.terminate()
    assert leader.wait() == 137
    assert candidates.witness.wait_ended(tree)


def test_a_log_that_nobody_reads_blocks_nothing(candidates: Candidates) -> None:
    """With standard error a full pipe, leadership is kept, lost and left as ever.

    The child, which has the same pipe, may still wait for it: no process makes it non-blocking.
    """
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(write_fd, b"x" * 4096):
            pass
    os.set_blocking(write_fd, True)
    leader = candidates.start("a", stderr=write_fd)
    (tree,) = candidates.witness.wait_running(1, "a", timeout_s=TAKEOVER_S)
    candidates.start_standby("b")
    kill(leader.keeper)  # makes the guardian log, kill and log again
    candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    candidates.assert_followed(tree)
    assert os.get_blocking(write_fd)
    leader.terminate()
    assert leader.wait() == 143
    os.close(read_fd)
    os.close(write_fd)


def test_the_depth_of_a_tree_dies_though_its_guardian_lives_on(candidates: Candidates) -> None:
    """A lock taken over by hand kills at once, and the guardian does not end, which would kill too.

    Each level falls to the keeper only with the death of the one above it; what it left would be
    nobody's tree, and run on beside the next leader.
    """
    child = child_command("--ignore", "ALL")
    for _ in range(4):
        child = ["/bin/sh", "-c", 'setsid "$@"; exit $?', "sh", *child]
    leader, tree = candidates.start_leader("a", child=child)
    lock = FileLock(str(candidates.directory / "lock"), "x")

    def taken_over() -> bool:
        seen = lock.read(1)
        assert seen is not None
        with contextlib.suppress(Conflict):
            lock.update(replace(seen.record, holder="nobody that lives"), seen, 1)
            return True
        return False

    wait_until(taken_over, timeout_s=TAKEOVER_S, what="the record names another")
    leader.wait_event("leadership lost")
    candidates.witness.wait_ended(tree)
    leader.terminate()
    assert leader.wait() in {137, 143}  # as the killed child, or as a standby


@root_only
def test_a_dead_guardians_lock_is_kept_until_its_tree_is_dead(candidates: Candidates) -> None:
    """The elector of a dead guardian renews for as long as the keeper kills, and then gives back.

    Here the keeper may not kill for two leases, which nothing but renewals can bridge.
    """
    leader, tree = candidates.start_leader(
        "a",
        child=child_command("--uid", "65534", "--ignore", "ALL"),
        wrapper=["setpriv", "--bounding-set=-kill", "--inh-caps=-kill"],
    )
    candidates.start_standby("b").wait_event(f"leader is {leader.identity}")
    kill(leader.guardian)
    leader.wait_event("the guardian died")
    since_ns = now_ns()
    wait_until(
        lambda: now_ns() - since_ns > 2e9 * candidates.lease_s or not tree.running,
        timeout_s=TAKEOVER_S,
        what="two leases are over",
    )
    assert candidates.witness.running() == [tree]
    os.kill(tree.main, signal.SIGKILL)
    candidates.assert_followed(tree, "b")


def test_a_child_dies_with_its_keeper_whoever_else_is_stopped(candidates: Candidates) -> None:
    """The kernel kills the direct child of a dead keeper, while the guardian can kill nobody.

    The elector would continue the guardian, to do just that.
    """
    leader, tree = candidates.start_leader("a", child=child_command("--ignore", "ALL"))
    keeper = leader.keeper
    stop(leader.elector)
    stop(leader.guardian)
    kill(keeper)
    candidates.witness.wait_ended(tree)


def test_a_keeper_that_slept_beyond_the_deadline_starts_nothing(candidates: Candidates) -> None:
    """Rule 6: told to start in time and awake too late, it has nothing to run: the clock is last.

    The grant is renewed meanwhile, so that nobody else ends the keeper for its silence or the time.
    """
    candidates.timing = ("--lease-duration=12s", "--renew-deadline=4s", "--retry-period=3s")
    leader, tree = candidates.start_leader("a")
    standby = candidates.start_standby("b")
    keeper = standby.keeper
    stop(keeper)
    leader.terminate()
    token = str(standby.wait_event("became leader", timeout_s=TAKEOVER_S)["token"])
    since_ns = now_ns()
    wait_until(lambda: now_ns() - since_ns > 5e9, timeout_s=30, what="the time to stop has come")
    assert not is_gone(keeper)
    resume(keeper)
    wait_until(lambda: is_gone(keeper), timeout_s=TAKEOVER_S, what="the keeper ends")
    assert candidates.assert_followed(tree, timeout_s=2 * TAKEOVER_S).run != token
    assert token not in [other.run for other in candidates.witness.trees("b")]


#: Imported by every process of a candidate: where the file is, no flock returns any more.
_HANGING: Final = """
import fcntl, os, time
flock = fcntl.flock
def hang(*args):
    while os.path.exists({path!r}):
        time.sleep(0.05)
    return flock(*args)
fcntl.flock = hang
"""


def test_a_call_that_hangs_ends_the_elector(candidates: Candidates, tmp_path: Path) -> None:
    """Rule 11: a worker that is overdue cannot be ended but with its process; another follows.

    Here the lock hangs as on a filesystem whose server is gone.
    """
    hung = tmp_path / "hung"
    (tmp_path / "sitecustomize.py").write_text(_HANGING.format(path=str(hung)))
    leader = candidates.start("a", env={"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    (tree,) = candidates.witness.wait_running(1, "a", timeout_s=TAKEOVER_S)
    elector = leader.elector
    hung.touch()
    candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    wait_until(lambda: is_gone(elector), timeout_s=TAKEOVER_S, what="the elector that hangs ends")
    hung.unlink()
    candidates.assert_followed(tree, timeout_s=2 * TAKEOVER_S)
