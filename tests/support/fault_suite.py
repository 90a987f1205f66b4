"""Faults of a candidate's own processes that the matrix does not play, on the lock of `candidates`.

They run on the file lock and on a real Lease; the witness alone judges.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.candidate import is_gone, kill, stop
from tests.support.candidates import TAKEOVER_S
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from tests.support.candidates import Candidates


class FaultSuite:
    """Faults of one part after the other, of two at once, and of a standby's parts."""

    def test_everything_stopped_in_turn(self, candidates: Candidates) -> None:
        """A keeper, a guardian and an elector are stopped, each the leader's: no two trees run."""
        for name in "abc":
            candidates.start(name)
        (tree,) = candidates.witness.wait_running(1, timeout_s=TAKEOVER_S)
        for part in ("keeper", "guardian"):
            stop(getattr(candidates.leader(tree), part))
            tree = candidates.assert_followed(tree, timeout_s=2 * TAKEOVER_S)
        elector = candidates.leader(tree).elector
        stop(elector)
        wait_until(lambda: is_gone(elector), timeout_s=TAKEOVER_S, what="the elector is killed")
        # The next elector renews in time, or another tree follows: milliseconds decide.
        candidates.witness.wait_running(1, timeout_s=2 * TAKEOVER_S)
        candidates.assert_exclusive()

    def test_child_and_elector_killed_together(self, candidates: Candidates) -> None:
        """The child's end is reported and the lock given back, elector or not."""
        leader, tree = candidates.start_leader("a")
        candidates.start_standby("b")
        elector = leader.elector
        kill(tree.main)
        kill(elector)
        assert leader.wait() == 137
        candidates.assert_followed(tree, "b")

    @pytest.mark.parametrize("part", ["elector", "guardian"])
    def test_parts_of_a_standby_die(self, candidates: Candidates, part: str) -> None:
        """A standby's elector is replaced; its guardian's death leaves nothing behind."""
        leader, tree = candidates.start_leader("a")
        standby = candidates.start_standby("b")
        elector = standby.elector
        kill(getattr(standby, part))
        wait_until(lambda: is_gone(elector), timeout_s=TAKEOVER_S, what="the elector is gone")
        if part == "elector":
            leader.terminate()
            candidates.assert_followed(tree, "b")
        else:
            assert standby.wait() == 128 + signal.SIGKILL
            assert candidates.witness.running() == [tree]
            candidates.assert_exclusive()
