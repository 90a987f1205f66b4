"""leaderexec and another elector in one election: exactly one leads, in every order of takeovers.

There are two candidates, so that every change of leader is one between makes of electors. The
timing of both is the same, and the other one keeps its own rules: should its child outlive its
lease, that is its own overlap and is told; those of leaderexec must be none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.candidate import FAST, FAST_LEASE_S
from tests.support.competitors import ClientGo, Legacy2016

if TYPE_CHECKING:
    from tests.support.candidate import Candidate
    from tests.support.kube_candidates import KubeCandidates
    from tests.support.witness import Tree

OURS, THEIRS = "ours", "theirs"
#: A successor within this: a lease, a slow way of trying, and a loaded machine.
_CHANGE_S = 60
#: As short as the elector of 2016 may have it: a ttl of 5 s would leave the child no time to stop.
_LEGACY = ("--lease-duration=6s", "--renew-deadline=3s", "--retry-period=1.5s")


def _ask_to_stop(leader: Candidate) -> None:
    leader.terminate()
    leader.wait()


@pytest.mark.parametrize("other", [ClientGo, Legacy2016], ids=lambda other: other.name)
def test_changes_between_leaderexec_and_another(
    candidates: KubeCandidates, other: type[ClientGo | Legacy2016]
) -> None:
    """Each takes over after a stop, a kill or a black hole, and leaderexec never overlaps.

    Each reads what the other wrote, and counts transitions on.
    """
    legacy = other is Legacy2016
    candidates.timing, candidates.lease_s = (_LEGACY, 6.0) if legacy else (FAST, FAST_LEASE_S)
    if legacy:
        candidates.hold_on("endpoints")
    candidates.proxied(OURS)
    competitor = other(candidates)
    ours, tree = candidates.start_leader(OURS, f"--id={OURS}")
    theirs = competitor.start(THEIRS)
    competitor.wait_standing(theirs)
    transitions = [0]

    def follow(tree: Tree, by: Candidate) -> Tree:
        """Wait until the other one leads, as the object says too."""
        successor = candidates.witness.wait_successor(tree, timeout_s=_CHANGE_S)
        assert successor.candidate == by.name
        record = competitor.record
        assert record["holderIdentity"] == by.name
        transitions.append(record["leaderTransitions" if legacy else "leaseTransitions"])
        return successor

    def stand_by(candidate: Candidate, leader: Candidate) -> None:
        """Start a candidate again, and wait until it has read that the other one leads."""
        seen = len(candidate.events(f"leader is {leader.name}"))
        candidate.start().wait_event(f"leader is {leader.name}", count=seen + 1, timeout_s=30)

    proxy = candidates.proxies[OURS]
    proxy.black_hole()
    tree = follow(tree, by=theirs)
    proxy.pass_through()
    ours.wait_event(f"leader is {THEIRS}", timeout_s=_CHANGE_S)
    _ask_to_stop(theirs)
    tree = follow(tree, by=ours)
    stand_by(theirs, ours)
    _ask_to_stop(ours)
    tree = follow(tree, by=theirs)
    stand_by(ours, theirs)
    theirs.kill()
    follow(tree, by=ours)

    overlaps = candidates.witness.overlaps()
    print(*(f"{other.name}'s child outlived its lease: {overlap}" for overlap in overlaps))
    assert not [pair for pair in overlaps if pair.first.candidate == OURS], overlaps
    if legacy:
        # Its renewals write 0 again, so what it hands on is 1 or 0, and ours is one more.
        assert all(transitions[n + 1] - 1 in {0, transitions[n]} for n in (1, 3))
    else:
        assert transitions == [0, 1, 2, 3, 4]
