"""What administrators do to the Lease, the token, the role and the namespace.

What expires, is taken, blanked or relabelled the matrix plays (`tests/matrix/faults`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.candidate import FAST, FAST_LEASE_S, child_command
from tests.support.controlplane import lease_path
from tests.support.plugin import ExecPlugin
from tests.support.wait import wait_until
from tests.support.witness import now_ns

if TYPE_CHECKING:
    from tests.support.candidate import Candidate
    from tests.support.kube_candidates import KubeCandidates

_STUBBORN = child_command("--ignore", "TERM")


@pytest.fixture
def candidates(candidates: KubeCandidates) -> KubeCandidates:
    """Candidates with the shortest lawful lease."""
    candidates.timing, candidates.lease_s = FAST, FAST_LEASE_S
    return candidates


def wait_told(candidate: Candidate, *words: str) -> None:
    """Wait until one event of a candidate has all these words."""
    wait_until(
        lambda: any(all(word in event["event"] for word in words) for event in candidate.events()),
        timeout_s=20,
        what=f"an event with {words}",
    )


def test_deleted_while_leading(candidates: KubeCandidates) -> None:
    """A deletion is a loss: the tree is killed at once; standbys wait for the old lease to end."""
    leader, tree = candidates.start_leader("a", child=_STUBBORN)
    candidates.start_standby("b").wait_event(f"leader is {leader.identity}")
    candidates.delete()
    assert "deleted" in leader.wait_event("leadership lost")["reason"]
    candidates.assert_followed(tree)


def test_a_standby_waits_out_a_deleted_lease(candidates: KubeCandidates) -> None:
    """A lease deleted while its holder is cut off is not created anew before it has ended."""
    candidates.proxied("a")
    leader, tree = candidates.start_leader("a", child=_STUBBORN)
    candidates.start_standby("b").wait_event(f"leader is {leader.identity}")
    candidates.proxies["a"].black_hole()
    candidates.proxies["a"].wait_counter("black_holed", 1)
    deleted_ns = now_ns()
    candidates.delete()
    candidates.assert_followed(tree, "b")
    assert tree.ended_ns is not None
    assert tree.ended_ns > deleted_ns, "the old tree outlived the deletion, and was waited for"


def test_overwritten_by_hand(candidates: KubeCandidates) -> None:
    """Another holder in the record is a loss, seen by a quorum read: SIGKILL at once."""
    leader, tree = candidates.start_leader("a", child=_STUBBORN)
    candidates.patch({"spec": {"holderIdentity": "intruder"}})
    assert "intruder" in leader.wait_event("leadership lost")["reason"]
    assert candidates.spec["holderIdentity"] == "intruder", "not stolen back before it has expired"
    candidates.assert_followed(tree)
    assert candidates.spec["leaseTransitions"] == 1


def test_on_loss_exit(candidates: KubeCandidates) -> None:
    """With --on-loss=exit a loss ends the candidate with 75, whatever the child returned."""
    leader, _ = candidates.start_leader("a", "--on-loss=exit")
    candidates.patch({"spec": {"holderIdentity": "intruder"}})
    assert leader.wait() == 75
    assert leader.log.rstrip().endswith("leaderexec: leadership lost")


def test_a_lease_that_nobody_ever_held(candidates: KubeCandidates) -> None:
    """An object made by hand, without a spec, is taken."""
    body = {"metadata": {"name": "x", "labels": {"made": "by-hand"}}}
    status, _ = candidates.plane.request("POST", lease_path(candidates.namespace), body)
    assert status == 201
    candidates.start_leader("a")
    assert candidates.lease["metadata"]["labels"] == {"made": "by-hand"}
    assert candidates.spec["leaseTransitions"] == 1


def test_a_foreign_holder_is_waited_for_by_its_own_duration(candidates: KubeCandidates) -> None:
    """Expiry is judged by the record's duration from the moment it was first seen (G5)."""
    leader, _ = candidates.start_leader("a")
    leader.terminate()
    leader.wait()
    candidates.patch({"spec": {"holderIdentity": "other", "leaseDurationSeconds": 3}})
    seen_ns = now_ns()
    candidates.start("b")
    (tree,) = candidates.witness.wait_running(1, "b", timeout_s=30)
    assert tree.started_ns > seen_ns + 3 * 10**9


def test_a_refused_token_is_told_and_never_logged(candidates: KubeCandidates) -> None:
    """A refusal is told, the token stays out of the log, and another token brings it back."""
    candidates.proxied("a")
    leader, tree = candidates.start_leader("a")
    token = candidates.token_path.read_text()
    candidates.token_path.write_text("not-a-token")
    candidates.proxies["a"].answer(401)  # what an API server says once the token has expired
    candidates.witness.wait_ended(tree, timeout_s=20)
    candidates.proxies["a"].pass_through()
    wait_told(leader, "401")
    candidates.token_path.write_text(token)
    candidates.assert_followed(tree, "a")
    assert not any(secret in leader.log for secret in (token, token.split(".")[2], "not-a-token"))


def test_a_right_that_is_missing_is_named_until_it_is_there(candidates: KubeCandidates) -> None:
    """A role that lacks a verb is named as such, and the candidate tries until it has it."""
    candidates.plane.revoke(candidates.namespace, candidates.account, "x")
    candidate = candidates.start("a")
    wait_told(candidate, "forbidden", "'leases'", "'get'", "resourceNames [x]")
    candidates.plane.grant(candidates.namespace, candidates.account, "x")
    candidates.witness.wait_running(1, "a", timeout_s=30)


def test_a_missing_namespace_is_named_and_retried(candidates: KubeCandidates) -> None:
    """A namespace that does not exist yet is named; when it is made, the election begins."""
    name = f"later-{candidates.namespace}"
    kubeconfig = f"--kubeconfig={candidates.plane.admin_kubeconfig}"
    candidate = candidates.start("a", f"--namespace={name}", kubeconfig)
    wait_told(candidate, f"namespace {name} does not exist")
    candidates.plane.create_namespace(name)
    candidates.witness.wait_running(1, "a", timeout_s=30)


def test_namespace_of_the_kubeconfig(candidates: KubeCandidates) -> None:
    """Without --namespace the kubeconfig's context decides, and the child is told."""
    leader, _ = candidates.start_leader("a", child=child_command("--env-note"))
    env = candidates.witness.wait_note("env", "a").data["env"]
    assert env["LEADER_NAMESPACE"] == candidates.namespace
    assert leader.events("campaigning")[0]["lock"] == f"lease {candidates.namespace}/x"


def test_a_kubeconfig_that_cannot_be_used_is_refused(candidates: KubeCandidates) -> None:
    """A kubeconfig without the context asked for ends the candidate with 2 before anything runs."""
    candidate = candidates.start("a", "--context=nowhere")
    assert candidate.wait() == 2
    assert "nowhere" in candidate.log
    assert not candidates.witness.trees()


def test_exec_plugin(candidates: KubeCandidates) -> None:
    """A kubeconfig whose user is an exec plugin works."""
    kubeconfig = candidates.plane.kubeconfig_for("no token", namespace=candidates.namespace)
    with ExecPlugin(candidates.directory, candidates.token_path) as plugin:
        plugin.write_into(kubeconfig)
        candidate, _ = candidates.start_leader("a", f"--kubeconfig={kubeconfig}")
        candidate.terminate()
        assert candidate.wait() == 143
