"""The fault suite on the file lock, and what only needs one machine: a log that nobody reads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.support.candidates import kill, puppet_command
from tests.support.fault_suite import TAKEOVER_S, FaultSuite

if TYPE_CHECKING:
    from tests.support.rally import Rally


class TestFaultsOnTheFileLock(FaultSuite):
    """The whole suite, candidates on one file lock."""


def test_a_log_that_nobody_reads_blocks_nothing(rally: Rally) -> None:
    """With standard error a full pipe, leadership is kept, lost and left as ever."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    try:
        while os.write(write_fd, b"x" * 4096):
            pass
    except BlockingIOError:
        pass
    os.set_blocking(write_fd, True)
    leader = rally.start("a", stderr=write_fd)
    (tree,) = rally.witness.wait_running(1, "a", timeout_s=TAKEOVER_S)
    rally.start_standby("b")
    kill(leader.keeper)  # makes the guardian log, kill and log again
    rally.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    rally.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
    leader.terminate()
    assert leader.wait() == 143
    os.close(read_fd)
    os.close(write_fd)
    rally.assert_exclusive()


def test_the_childs_standard_error_stays_blocking(rally: Rally) -> None:
    """Our own way to the log does not change the descriptor that the child shares with us."""
    read_fd, write_fd = os.pipe()
    leader = rally.start("a", stderr=write_fd, child=puppet_command("--stderr", "100"))
    rally.witness.wait_running(1, "a", timeout_s=TAKEOVER_S)
    assert os.get_blocking(write_fd)
    leader.terminate()
    assert leader.wait() == 143
    os.close(read_fd)
    os.close(write_fd)
