"""Handing over on a real Lease: the order of things, and what is written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.candidate import child_command
from tests.support.controlplane import service_account_user
from tests.support.proxy import Match
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from tests.support.kube_candidates import KubeCandidates


def test_twenty_handovers_in_order(candidates: KubeCandidates) -> None:
    """Twenty times: the old tree is reaped, the lock given back, then the next child runs."""
    candidates.proxied("a", "b", "c")
    child = child_command("--drain", "0.2")  # longer than the witness may look late
    for name in "abc":
        candidates.start(name, child=child)
    (tree,) = candidates.witness.wait_running(1, timeout_s=20)
    for _ in range(20):
        leader = candidates.leader(tree)
        leader.terminate()
        successor = candidates.witness.wait_successor(tree, timeout_s=30)
        assert leader.wait() == 0
        puts = candidates.proxies[leader.name].requests(Match(method="PUT"))
        release = puts[-1]  # nothing is written after giving back
        assert tree.ended_ns is not None
        assert tree.alive_until_ns < release.at_ns < successor.started_ns
        leader.start()
        tree = successor
    candidates.assert_exclusive()


def test_a_record_that_others_can_read(candidates: KubeCandidates) -> None:
    """The Lease says who leads for how long, in client-go's terms, and is blank when given back."""
    leader, tree = candidates.start_leader("a", "--id=me")
    spec = candidates.spec
    assert spec["holderIdentity"] == "me"
    assert spec["leaseDurationSeconds"] == 8
    assert spec["leaseTransitions"] == 0
    assert spec["acquireTime"].endswith("Z")
    assert len(spec["renewTime"]) == len("2006-01-02T15:04:05.000000Z")
    assert int(tree.run) <= int(candidates.lease["metadata"]["resourceVersion"])
    leader.terminate()
    assert leader.wait() == 143
    spec = candidates.spec
    assert spec["holderIdentity"] == ""
    assert spec["leaseDurationSeconds"] == 1
    assert spec["leaseTransitions"] == 0


def test_what_others_wrote_survives(candidates: KubeCandidates) -> None:
    """Labels, annotations and owners of the object outlive acquiring, renewing and giving back."""
    leader, tree = candidates.start_leader("a")
    marks = {
        "metadata": {
            "labels": {"app": "mine"},
            "annotations": {"note": "kept"},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "u-1"}
            ],
        }
    }
    candidates.patch(marks)
    version = candidates.lease["metadata"]["resourceVersion"]
    wait_until(
        lambda: int(candidates.lease["metadata"]["resourceVersion"]) > int(version),
        timeout_s=20,
        what="a renewal after the change",
    )
    assert candidates.witness.running() == [tree], "a label is no loss"
    leader.terminate()
    leader.wait()
    metadata = candidates.lease["metadata"]
    assert metadata["labels"] == {"app": "mine"}
    assert metadata["annotations"] == {"note": "kept"}
    assert metadata["ownerReferences"][0]["name"] == "o"


def test_transitions_and_tokens_grow(candidates: KubeCandidates) -> None:
    """Each new leadership counts a transition and has a greater token."""
    seen = []
    for number in range(3):
        leader, tree = candidates.start_leader(f"c{number}")
        seen.append((candidates.spec["leaseTransitions"], int(tree.run)))
        leader.terminate()
        leader.wait()
    assert [transitions for transitions, _ in seen] == [0, 1, 2]
    assert [token for _, token in seen] == sorted({token for _, token in seen})


def test_a_leader_writes_once_a_period_and_a_standby_asks_nothing(
    candidates: KubeCandidates,
) -> None:
    """Over twelve renewals the leader makes PUTs only; a standby's watch needs no request."""
    leader, _ = candidates.start_leader("a")
    standby = candidates.start_standby("b")
    standby.wait_event(f"leader is {leader.identity}")
    user = service_account_user(candidates.namespace, candidates.account)

    def verbs() -> list[str]:
        requests = candidates.plane.requests(candidates.namespace, "x")
        return [request.verb for request in requests if request.user == user]

    wait_until(lambda: "watch" in verbs(), timeout_s=10, what="the standby watches")
    candidates.wait_successor_named(standby.identity)
    renewed = candidates.spec["renewTime"]
    wait_until(
        lambda: candidates.spec["renewTime"] > renewed,
        timeout_s=10,
        what="a renewal over the version that the standby made",
    )
    before = len(verbs())
    wait_until(lambda: len(verbs()) >= before + 12, timeout_s=40, what="twelve renewals")
    assert set(verbs()[before:]) == {"update"}


def test_one_identity_twice_makes_no_two_leaders(candidates: KubeCandidates) -> None:
    """Candidates that were given the same --id do not take each other's record for their own."""
    _, tree = candidates.start_leader("a", "--id=same")
    candidates.start_standby("b", "--id=same").wait_event("leader is same")
    version = int(candidates.lease["metadata"]["resourceVersion"])
    wait_until(
        lambda: int(candidates.lease["metadata"]["resourceVersion"]) >= version + 4,
        timeout_s=20,
        what="some renewals beside the other",
    )
    assert candidates.witness.running() == [tree]
    candidates.by_name["a"].terminate()
    assert candidates.witness.wait_successor(tree, timeout_s=30).candidate == "b"
    candidates.assert_exclusive()


@pytest.mark.skipif(os.geteuid() != 0, reason="placing a pod's credentials needs root")
def test_in_cluster_with_a_rotated_token(candidates: KubeCandidates) -> None:
    """A pod's own credentials serve, and a token that was replaced is read again."""
    short = candidates.plane.sign_token(candidates.namespace, candidates.account, -50.0)
    candidates.token_path.write_text(
        short
    )  # accepted for ten seconds more: the server has a leeway
    candidates.proxied("a")
    leader = candidates.start_in_cluster("a")
    (tree,) = candidates.witness.wait_running(1, "a", timeout_s=20)
    fresh = candidates.plane.token(candidates.namespace, candidates.account)
    candidates.plane.incluster(candidates.directory / "secrets-a", fresh, candidates.namespace)
    proxy = candidates.proxies["a"]
    wait_until(
        lambda: any(r.status == 401 for r in proxy.requests()),
        timeout_s=60,
        what="the old token is refused",
    )
    version = int(candidates.lease["metadata"]["resourceVersion"])
    wait_until(
        lambda: int(candidates.lease["metadata"]["resourceVersion"]) > version + 1,
        timeout_s=20,
        what="renewals with the new token",
    )
    assert candidates.witness.running() == [tree]
    leader.terminate()
    assert leader.wait() == 143


def test_drain_longer_than_the_lease(candidates: KubeCandidates) -> None:
    """While the child drains the lease is renewed, and nobody else starts (G2)."""
    leader, tree = candidates.start_leader("a", child=child_command("--drain", "12"))
    candidates.start_standby("b")
    leader.terminate()
    assert leader.wait(60) == 0
    candidates.witness.wait_successor(tree, timeout_s=30)
    candidates.assert_exclusive()


def test_the_next_in_line_is_named_and_goes_first(candidates: KubeCandidates) -> None:
    """A standby notes itself in the Lease, disturbs nothing by it, and leads after the release."""
    leader, tree = candidates.start_leader("a", "--id=a")
    candidates.start_standby("b", "--id=b").wait_event("leader is a")
    candidates.wait_successor_named("b")
    candidates.start_standby("c", "--id=c").wait_event("leader is a")
    assert candidates.spec["holderIdentity"] == "a"
    firsts = 0
    for _ in range(3):
        heir = candidates.successor
        leader.terminate()
        tree = candidates.witness.wait_successor(tree, timeout_s=30)
        assert leader.wait() == 143
        firsts += tree.candidate == heir
        leader.start()
        leader = candidates.leader(tree)
        candidates.wait_successor_named(*({"a", "b", "c"} - {tree.candidate}))
        assert candidates.witness.running() == [tree]
    assert firsts >= 2, "one that is kept from running for half a second is not waited for"
    candidates.assert_exclusive()


def test_a_dead_successor_is_waited_for_in_moments_only(candidates: KubeCandidates) -> None:
    """Who is next in line may be gone by the time of the release: then another one leads."""
    candidates.timing = ("--lease-duration=90s", "--renew-deadline=60s", "--retry-period=1s")
    leader, tree = candidates.start_leader("a", "--id=a")
    heir = candidates.start_standby("b", "--id=b")
    candidates.wait_successor_named("b")
    candidates.start_standby("c", "--id=c").wait_event("leader is a")
    heir.kill()
    leader.terminate()
    assert candidates.witness.wait_successor(tree, timeout_s=30).candidate == "c"
    candidates.assert_exclusive()
