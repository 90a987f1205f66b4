"""Faults of a candidate's own processes on a real Lease; the matrix plays the others there."""

from __future__ import annotations

from tests.support.fault_suite import FaultSuite


class TestFaultsOnALease(FaultSuite):
    """The suite, with candidates on one Lease."""
