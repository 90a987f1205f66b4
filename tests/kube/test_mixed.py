"""Candidates of several makes in one election: exactly one leads, whoever takes over from whom.

Two candidates, one of ours and one of another make, so that every change of leader is one between
makes. The timing of all is the same, and the peers keep their own rules: should a peer's child
outlive its lease nevertheless, that is the peer's overlap and is told; ours must be none.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.rivals import Rivals
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.candidate import Candidate
    from tests.support.kube_candidates import KubeCandidates
    from tests.support.proxy import Proxy
    from tests.support.witness import Tree

CHANGES = 10
OURS = "ours"
THEIRS = "theirs"

#: A successor within this: a lease, a peer's slow way of trying, and a loaded machine.
_CHANGE_S = 60


class Mixed:
    """The election of one test."""

    def __init__(self, candidates: KubeCandidates, make: str) -> None:
        self.election = candidates
        self.make = make
        self.legacy = make == "legacy2016"
        # As short as all makes may have it: a ttl of 5 s would leave our child no time to stop.
        ttl_s = 6
        candidates.lease_s = ttl_s
        candidates.timing = (
            f"--lease-duration={ttl_s}s",
            f"--renew-deadline={ttl_s / 2:g}s",
            f"--retry-period={ttl_s / 4:g}s",
        )
        if self.legacy:
            candidates.hold_on("endpoints")
        candidates.proxied(OURS, THEIRS)
        self.rivals = Rivals(candidates)
        candidates.make(OURS, f"--id={OURS}")
        # After a loss it campaigns again in the same process, as the others do.
        again = () if self.legacy else ("--again",)
        self.rivals.make(THEIRS, make, *again)
        self.transitions = [0]

    def start(self) -> Tree:
        """Start both, ours first."""
        ours, theirs = self.pair
        ours.start()
        (tree,) = self.election.witness.wait_running(1, OURS, timeout_s=20)
        theirs.start()
        theirs.wait_event(f"leader is {OURS}")
        return tree

    @property
    def pair(self) -> tuple[Candidate, Candidate]:
        """Ours and theirs."""
        return self.election.by_name[OURS], self.election.by_name[THEIRS]

    def follow(self, tree: Tree) -> Tree:
        """Wait until the other one leads, and compare what it wrote with what was read before."""
        successor = self.election.witness.wait_successor(tree, timeout_s=_CHANGE_S)
        assert successor.candidate != tree.candidate
        holder, transitions = self.record()
        assert holder == successor.candidate
        self.transitions.append(transitions)
        return successor

    def record(self) -> tuple[str, int]:
        """Return holder and transitions, as they stand in the object."""
        if self.legacy:
            record = json.loads(self.rivals.annotation)
            return record["holderIdentity"], record["leaderTransitions"]
        spec = self.election.spec
        return spec["holderIdentity"], spec["leaseTransitions"]

    def sees(self, name: str, leader: str, count: int) -> None:
        """Wait until a candidate has read, so many times, that another leads."""
        self.election.by_name[name].wait_event(f"leader is {leader}", count=count, timeout_s=30)

    def judge(self) -> None:
        """Fail if a child of ours ran beside another, and tell of peers that did."""
        overlaps = self.election.witness.overlaps()
        for overlap in overlaps:
            print(f"{self.make}: its child outlived its lease by {overlap.overlap_ns / 1e9:.3f} s")
        assert not [pair for pair in overlaps if pair.first.candidate == OURS], overlaps


@pytest.fixture(params=["clientgo", "legacy2016"])
def mixed(candidates: KubeCandidates, request: pytest.FixtureRequest) -> Mixed:
    """Ours and one of another make, not started."""
    return Mixed(candidates, request.param)


def end_and_return(end: Callable[[Candidate], object]) -> Callable[[Mixed, Tree], Tree]:
    """Make a change by ending the leader, which comes back as a standby."""

    def change(mixed: Mixed, tree: Tree) -> Tree:
        leader = mixed.election.leader(tree)
        seen = len(leader.events(f"leader is {_other(tree)}"))
        end(leader)
        leader.wait()
        successor = mixed.follow(tree)
        leader.start()
        mixed.sees(tree.candidate, successor.candidate, seen + 1)
        return successor

    return change


def cut_off(mixed: Mixed, tree: Tree) -> Tree:
    """Cut the leader off from the API server until the other leads."""
    proxy = mixed.election.proxies[tree.candidate]
    # The original has no timeout for a request: in a black hole it would hang, and its child live.
    if mixed.legacy and tree.candidate == THEIRS:
        _refuse(proxy)
    else:
        before = _swallowed(proxy)
        proxy.black_hole()
        wait_until(
            lambda: _swallowed(proxy) > before,
            timeout_s=30,
            what=f"the black hole swallows something of {tree.candidate}",
        )
    successor = mixed.follow(tree)
    proxy.pass_through()
    wait_until(
        lambda: _knows(mixed.election.by_name[tree.candidate], successor.candidate),
        timeout_s=_CHANGE_S,
        what=f"{tree.candidate} is back and has read who leads",
    )
    return successor


def _swallowed(proxy: Proxy) -> int:
    """Return how many requests, and connections before they came to one, met a black hole."""
    counters = proxy.counters()
    return counters["black_holed"] + counters["connections_black_holed"]


def _refuse(proxy: Proxy) -> None:
    closed = proxy.counters()["connections_closed"]
    proxy.refuse()
    proxy.wait_counter("connections_closed", closed + 1)


def _knows(candidate: Candidate, leader: str) -> bool:
    told = [e["event"] for e in candidate.events() if str(e.get("event")).startswith("leader is ")]
    return bool(told) and told[-1] == f"leader is {leader}"


def _other(tree: Tree) -> str:
    return THEIRS if tree.candidate == OURS else OURS


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        end_and_return(lambda leader: leader.terminate()),
        end_and_return(lambda leader: leader.kill()),
        cut_off,
    ],
    ids=["signals", "kills", "black holes"],
)
def test_ten_changes_between_makes(mixed: Mixed, change: Callable[[Mixed, Tree], Tree]) -> None:
    """Each change of leader is one between makes, each reads the other, and ours never overlaps."""
    tree = mixed.start()
    for _ in range(CHANGES):
        tree = change(mixed, tree)
    mixed.judge()
    if mixed.legacy:
        # Its renewals write 0 again, so what it hands on is 1 or 0, and ours is one more.
        before, ours = mixed.transitions[1::2], mixed.transitions[2::2]
        assert all(count - 1 in {0, known} for known, count in zip(before, ours, strict=True))
    else:
        assert mixed.transitions == list(range(CHANGES + 1))
