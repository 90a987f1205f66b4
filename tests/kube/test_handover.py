"""Handing over on a real Lease: the order of things, and what is written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.candidates import puppet_command
from tests.support.controlplane import service_account_user
from tests.support.proxy import Match
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from tests.support.kube_rally import KubeRally


def test_twenty_handovers_in_order(rally: KubeRally) -> None:
    """Twenty times: the old tree is reaped, the lock given back, then the next child runs."""
    rally.proxied("a", "b", "c")
    child = puppet_command("--drain", "0.2")  # longer than the witness may look late
    for name in "abc":
        rally.start(name, child=child)
    (tree,) = rally.witness.wait_running(1, timeout_s=20)
    for _ in range(20):
        leader = rally.leader(tree)
        leader.terminate()
        successor = rally.witness.wait_successor(tree, timeout_s=30)
        assert leader.wait() == 0
        puts = rally.proxies[leader.name].requests(Match(method="PUT"))
        release = puts[-1]  # nothing is written after giving back
        assert tree.ended_ns is not None
        assert tree.alive_until_ns < release.at_ns < successor.started_ns
        leader.start()
        tree = successor
    rally.assert_exclusive()


def test_a_record_that_others_can_read(rally: KubeRally) -> None:
    """The Lease says who leads for how long, in client-go's terms, and is blank when given back."""
    leader, tree = rally.start_leader("a", "--id=me")
    spec = rally.spec
    assert spec["holderIdentity"] == "me"
    assert spec["leaseDurationSeconds"] == 8
    assert spec["leaseTransitions"] == 0
    assert spec["acquireTime"].endswith("Z")
    assert len(spec["renewTime"]) == len("2006-01-02T15:04:05.000000Z")
    assert int(tree.run) <= int(rally.lease["metadata"]["resourceVersion"])
    leader.terminate()
    assert leader.wait() == 143
    spec = rally.spec
    assert spec["holderIdentity"] == ""
    assert spec["leaseDurationSeconds"] == 1
    assert spec["leaseTransitions"] == 0


def test_what_others_wrote_survives(rally: KubeRally) -> None:
    """Labels, annotations and owners of the object outlive acquiring, renewing and giving back."""
    leader, tree = rally.start_leader("a")
    marks = {
        "metadata": {
            "labels": {"app": "mine"},
            "annotations": {"note": "kept"},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "u-1"}
            ],
        }
    }
    rally.patch(marks)
    version = rally.lease["metadata"]["resourceVersion"]
    wait_until(
        lambda: int(rally.lease["metadata"]["resourceVersion"]) > int(version),
        timeout_s=20,
        what="a renewal after the change",
    )
    assert rally.witness.running() == [tree], "a label is no loss"
    leader.terminate()
    leader.wait()
    metadata = rally.lease["metadata"]
    assert metadata["labels"] == {"app": "mine"}
    assert metadata["annotations"] == {"note": "kept"}
    assert metadata["ownerReferences"][0]["name"] == "o"


def test_transitions_and_tokens_grow(rally: KubeRally) -> None:
    """Each new leadership counts a transition and has a greater token."""
    seen = []
    for number in range(3):
        leader, tree = rally.start_leader(f"c{number}")
        seen.append((rally.spec["leaseTransitions"], int(tree.run)))
        leader.terminate()
        leader.wait()
    assert [transitions for transitions, _ in seen] == [0, 1, 2]
    assert [token for _, token in seen] == sorted({token for _, token in seen})


def test_a_leader_writes_once_a_period_and_a_standby_asks_nothing(rally: KubeRally) -> None:
    """Over twelve renewals the leader makes PUTs only; a standby's watch needs no request."""
    leader, _ = rally.start_leader("a")
    standby = rally.start_standby("b")
    standby.wait_event(f"leader is {leader.identity}")
    user = service_account_user(rally.namespace, rally.account)

    def verbs() -> list[str]:
        requests = rally.plane.requests(rally.namespace, "x")
        return [request.verb for request in requests if request.user == user]

    wait_until(lambda: "watch" in verbs(), timeout_s=10, what="the standby watches")
    rally.wait_successor_named(standby.identity)
    renewed = rally.spec["renewTime"]
    wait_until(
        lambda: rally.spec["renewTime"] > renewed,
        timeout_s=10,
        what="a renewal over the version that the standby made",
    )
    before = len(verbs())
    wait_until(lambda: len(verbs()) >= before + 12, timeout_s=40, what="twelve renewals")
    assert set(verbs()[before:]) == {"update"}


def test_one_identity_twice_makes_no_two_leaders(rally: KubeRally) -> None:
    """Candidates that were given the same --id do not take each other's record for their own."""
    _, tree = rally.start_leader("a", "--id=same")
    rally.start_standby("b", "--id=same").wait_event("leader is same")
    version = int(rally.lease["metadata"]["resourceVersion"])
    wait_until(
        lambda: int(rally.lease["metadata"]["resourceVersion"]) >= version + 4,
        timeout_s=20,
        what="some renewals beside the other",
    )
    assert rally.witness.running() == [tree]
    rally.candidates["a"].terminate()
    assert rally.witness.wait_successor(tree, timeout_s=30).candidate == "b"
    rally.assert_exclusive()


@pytest.mark.skipif(os.geteuid() != 0, reason="placing a pod's credentials needs root")
def test_in_cluster_with_a_rotated_token(rally: KubeRally) -> None:
    """A pod's own credentials serve, and a token that was replaced is read again."""
    short = rally.plane.sign_token(rally.namespace, rally.account, -50.0)
    rally.token_path.write_text(short)  # accepted for ten seconds more: the server has a leeway
    rally.proxied("a")
    leader = rally.start_in_cluster("a")
    (tree,) = rally.witness.wait_running(1, "a", timeout_s=20)
    fresh = rally.plane.token(rally.namespace, rally.account)
    rally.plane.incluster(rally.directory / "secrets-a", fresh, rally.namespace)
    proxy = rally.proxies["a"]
    wait_until(
        lambda: any(r.status == 401 for r in proxy.requests()),
        timeout_s=60,
        what="the old token is refused",
    )
    version = int(rally.lease["metadata"]["resourceVersion"])
    wait_until(
        lambda: int(rally.lease["metadata"]["resourceVersion"]) > version + 1,
        timeout_s=20,
        what="renewals with the new token",
    )
    assert rally.witness.running() == [tree]
    leader.terminate()
    assert leader.wait() == 143


def test_drain_longer_than_the_lease(rally: KubeRally) -> None:
    """While the child drains the lease is renewed, and nobody else starts (G2)."""
    leader, tree = rally.start_leader("a", child=puppet_command("--drain", "12"))
    rally.start_standby("b")
    leader.terminate()
    assert leader.wait(60) == 0
    rally.witness.wait_successor(tree, timeout_s=30)
    rally.assert_exclusive()


def test_the_next_in_line_is_named_and_goes_first(rally: KubeRally) -> None:
    """A standby notes itself in the Lease, disturbs nothing by it, and leads after the release."""
    leader, tree = rally.start_leader("a", "--id=a")
    rally.start_standby("b", "--id=b").wait_event("leader is a")
    rally.wait_successor_named("b")
    rally.start_standby("c", "--id=c").wait_event("leader is a")
    assert rally.spec["holderIdentity"] == "a"
    firsts = 0
    for _ in range(3):
        heir = rally.successor
        leader.terminate()
        tree = rally.witness.wait_successor(tree, timeout_s=30)
        assert leader.wait() == 143
        firsts += tree.candidate == heir
        leader.start()
        leader = rally.leader(tree)
        rally.wait_successor_named(*({"a", "b", "c"} - {tree.candidate}))
        assert rally.witness.running() == [tree]
    assert firsts >= 2, "one that is kept from running for half a second is not waited for"
    rally.assert_exclusive()


def test_a_dead_successor_is_waited_for_in_moments_only(rally: KubeRally) -> None:
    """Who is next in line may be gone by the time of the release: then another one leads."""
    rally.timing = ("--lease-duration=90s", "--renew-deadline=60s", "--retry-period=1s")
    leader, tree = rally.start_leader("a", "--id=a")
    heir = rally.start_standby("b", "--id=b")
    rally.wait_successor_named("b")
    rally.start_standby("c", "--id=c").wait_event("leader is a")
    heir.kill()
    leader.terminate()
    assert rally.witness.wait_successor(tree, timeout_s=30).candidate == "c"
    rally.assert_exclusive()
