"""The fault suite on a real Lease, and the long stops with the default timing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.candidate import child_command, in_pid_namespace, resume, state_of, stop
from tests.support.fault_suite import STUBBORN, TAKEOVER_S, FaultSuite, stop_elector
from tests.support.wait import wait_until
from tests.support.witness import now_ns

if TYPE_CHECKING:
    from tests.support.kube_candidates import KubeCandidates


class TestFaultsOnALease(FaultSuite):
    """The whole suite, candidates on one Lease."""


@pytest.mark.slow
@pytest.mark.parametrize("part", ["elector", "guardian", "init"])
def test_stopped_for_forty_seconds_with_the_default_timing(
    candidates: KubeCandidates, part: str
) -> None:
    """With 15/10/2 s, forty seconds of a stopped elector or guardian make no overlap."""
    candidates.timing = ()
    leader, tree = candidates.start_leader(
        "a",
        child=child_command(*STUBBORN),
        wrapper=in_pid_namespace() if part == "init" else (),
    )
    candidates.start_standby("b")
    victim = leader.elector if part == "elector" else leader.guardian
    stopped_ns = now_ns()
    if part == "elector":
        stop_elector(candidates, leader, tree, 60)
    else:
        stop(victim)
        candidates.witness.wait_ended(tree, timeout_s=20)
        candidates.witness.wait_successor(tree, timeout_s=60)
    wait_until(
        lambda: now_ns() - stopped_ns > 40 * 10**9, timeout_s=45, what="forty seconds are over"
    )
    if part == "init":
        assert state_of(victim) == "T"
    resume(victim)
    candidates.start_standby("c")
    candidates.witness.wait_running(1, timeout_s=TAKEOVER_S)
    candidates.assert_exclusive()
