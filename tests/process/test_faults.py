"""The fault suite on the file lock, and what only needs one machine: a log that nobody reads."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from leaderexec.locks.base import Conflict
from leaderexec.locks.file import FileLock
from tests.support.candidate import child_command, is_gone, kill, resume, stop
from tests.support.fault_suite import TAKEOVER_S, FaultSuite
from tests.support.hang import HangingLock
from tests.support.wait import wait_until
from tests.support.witness import now_ns

if TYPE_CHECKING:
    from tests.support.candidates import Candidates


class TestFaultsOnTheFileLock(FaultSuite):
    """The whole suite, candidates on one file lock."""


def test_a_log_that_nobody_reads_blocks_nothing(candidates: Candidates) -> None:
    """With standard error a full pipe, leadership is kept, lost and left as ever."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    try:
        while os.write(write_fd, b"x" * 4096):
            pass
    except BlockingIOError:
        pass
    os.set_blocking(write_fd, True)
    leader = candidates.start("a", stderr=write_fd)
    (tree,) = candidates.witness.wait_running(1, "a", timeout_s=TAKEOVER_S)
    candidates.start_standby("b")
    kill(leader.keeper)  # makes the guardian log, kill and log again
    candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
    leader.terminate()
    assert leader.wait() == 143
    os.close(read_fd)
    os.close(write_fd)
    candidates.assert_exclusive()


def test_the_childs_standard_error_stays_blocking(candidates: Candidates) -> None:
    """Our own way to the log does not change the descriptor that the child shares with us."""
    read_fd, write_fd = os.pipe()
    leader = candidates.start("a", stderr=write_fd, child=child_command("--stderr", "100"))
    candidates.witness.wait_running(1, "a", timeout_s=TAKEOVER_S)
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
    assert not is_gone(leader.guardian)


@pytest.mark.skipif(os.geteuid() != 0, reason="changing users needs root")
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
    assert candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S).candidate == "b"
    candidates.assert_exclusive()


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
    assert candidates.witness.wait_successor(tree, timeout_s=2 * TAKEOVER_S).run != token
    assert token not in [other.run for other in candidates.witness.trees("b")]
    candidates.assert_exclusive()


def test_a_call_that_hangs_ends_the_elector(candidates: Candidates) -> None:
    """Rule 11: a worker that is overdue cannot be ended but with its process; another follows."""
    lock = HangingLock(candidates.directory)
    leader = candidates.start("a", env=lock.env)
    (tree,) = candidates.witness.wait_running(1, "a", timeout_s=TAKEOVER_S)
    elector = leader.elector
    lock.hang()
    candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    wait_until(lambda: is_gone(elector), timeout_s=TAKEOVER_S, what="the elector that hangs ends")
    lock.release()
    candidates.witness.wait_successor(tree, timeout_s=2 * TAKEOVER_S)
    candidates.assert_exclusive()
