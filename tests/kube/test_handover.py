"""Handing over on a real Lease: the order of things, and what is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.candidate import child_command
from tests.support.controlplane import service_account_user
from tests.support.proxy import Match
from tests.support.required import root_only
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from tests.support.kube_candidates import KubeCandidates


def wait_renewals(candidates: KubeCandidates, number: int) -> None:
    """Wait until the Lease was written that often, from now on."""

    def version() -> int:
        return int(candidates.lease["metadata"]["resourceVersion"])

    before = version()
    wait_until(lambda: version() >= before + number, timeout_s=20, what=f"{number} renewals")


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
    wait_renewals(candidates, 1)
    assert candidates.witness.running() == [tree], "a label is no loss"
    leader.terminate()
    leader.wait()
    metadata = candidates.lease["metadata"]
    assert metadata["labels"] == {"app": "mine"}
    assert metadata["annotations"] == {"note": "kept"}
    assert metadata["ownerReferences"][0]["name"] == "o"


def test_a_leader_writes_once_a_period_and_a_standby_asks_nothing(
    candidates: KubeCandidates,
) -> None:
    """Over six renewals the leader makes PUTs only; a standby's watch needs no request."""
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
    wait_until(lambda: len(verbs()) >= before + 6, timeout_s=40, what="six renewals")
    assert set(verbs()[before:]) == {"update"}


def test_one_identity_twice_makes_no_two_leaders(candidates: KubeCandidates) -> None:
    """Candidates that were given the same --id do not take each other's record for their own."""
    _, tree = candidates.start_leader("a", "--id=same")
    candidates.start_standby("b", "--id=same").wait_event("leader is same")
    wait_renewals(candidates, 4)
    assert candidates.witness.running() == [tree]
    candidates.by_name["a"].terminate()
    candidates.assert_followed(tree, "b", timeout_s=30)


@root_only
def test_in_cluster_with_a_rotated_token(candidates: KubeCandidates) -> None:
    """A pod's own credentials serve, and a token that was replaced is read again."""
    short = candidates.plane.sign_token(candidates.namespace, candidates.account, -50.0)
    candidates.token_path.write_text(short)  # good for ten seconds more: the server has a leeway
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
    wait_renewals(candidates, 2)
    assert candidates.witness.running() == [tree]
    leader.terminate()
    assert leader.wait() == 143


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
