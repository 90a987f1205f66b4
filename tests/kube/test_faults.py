"""The fault suite on a real Lease, and the long stops with the default timing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.candidates import in_pid_namespace, puppet_command, resume, state_of, stop
from tests.support.fault_suite import STUBBORN, TAKEOVER_S, FaultSuite, stop_elector
from tests.support.wait import wait_until
from tests.support.witness import now_ns

if TYPE_CHECKING:
    from tests.support.kube_rally import KubeRally


class TestFaultsOnALease(FaultSuite):
    """The whole suite, candidates on one Lease."""


@pytest.mark.slow
@pytest.mark.parametrize("part", ["elector", "guardian", "init"])
def test_stopped_for_forty_seconds_with_the_default_timing(rally: KubeRally, part: str) -> None:
    """With 15/10/2 s, forty seconds of a stopped elector or guardian make no overlap."""
    rally.timing = ()
    leader, tree = rally.start_leader(
        "a",
        child=puppet_command(*STUBBORN),
        wrapper=in_pid_namespace() if part == "init" else (),
    )
    rally.start_standby("b")
    victim = leader.elector if part == "elector" else leader.guardian
    stopped_ns = now_ns()
    if part == "elector":
        stop_elector(rally, leader, tree, 60)
    else:
        stop(victim)
        rally.witness.wait_ended(tree, timeout_s=20)
        rally.witness.wait_successor(tree, timeout_s=60)
    wait_until(
        lambda: now_ns() - stopped_ns > 40 * 10**9, timeout_s=45, what="forty seconds are over"
    )
    if part == "init":
        assert state_of(victim) == "T"
    resume(victim)
    rally.start_standby("c")
    rally.witness.wait_running(1, timeout_s=TAKEOVER_S)
    rally.assert_exclusive()
