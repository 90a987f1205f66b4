"""What administrators do to the Lease, the token, the role and the namespace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.candidate import BRISK_LEASE_S, child_command
from tests.support.controlplane import lease_path
from tests.support.wait import wait_until
from tests.support.witness import now_ns

if TYPE_CHECKING:
    from tests.support.kube_candidates import KubeCandidates

TAKEOVER_S = 5 * BRISK_LEASE_S


def test_deleted_while_leading(candidates: KubeCandidates) -> None:
    """A deletion is a loss: the tree is killed at once; standbys wait for the old lease to end."""
    leader, tree = candidates.start_leader("a", child=child_command("--ignore", "TERM"))
    candidates.start_standby("b").wait_event(f"leader is {leader.identity}")
    candidates.delete()
    candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    assert "deleted" in leader.wait_event("leadership lost")["reason"]
    candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
    candidates.assert_exclusive()


def test_a_standby_waits_out_a_deleted_lease(candidates: KubeCandidates) -> None:
    """A lease deleted while its holder is cut off is not created anew before it has ended."""
    candidates.proxied("a")
    _, tree = candidates.start_leader("a", child=child_command("--ignore", "TERM"))
    candidates.start_standby("b").wait_event(f"leader is {candidates.by_name['a'].identity}")
    candidates.proxies["a"].black_hole()
    candidates.proxies["a"].wait_counter("black_holed", 1)
    deleted_ns = now_ns()
    candidates.delete()
    successor = candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
    assert successor.candidate == "b"
    assert tree.ended_ns is not None
    assert tree.ended_ns > deleted_ns, "the old tree outlived the deletion, and was waited for"
    candidates.assert_exclusive()


def test_overwritten_by_hand(candidates: KubeCandidates) -> None:
    """Another holder in the record is a loss, seen by a quorum read: SIGKILL at once."""
    leader, tree = candidates.start_leader("a", child=child_command("--ignore", "TERM"))
    candidates.patch({"spec": {"holderIdentity": "intruder"}})
    candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    assert "intruder" in leader.wait_event("leadership lost")["reason"]
    assert candidates.spec["holderIdentity"] == "intruder", "not stolen back before it has expired"
    candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
    assert candidates.spec["leaseTransitions"] == 1


def test_blanked_by_hand(candidates: KubeCandidates) -> None:
    """A record freed by hand is a loss too, and the candidate campaigns again in place."""
    leader, tree = candidates.start_leader("a")
    candidates.patch({"spec": {"holderIdentity": ""}})
    candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    assert candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S).candidate == "a"
    assert leader.events("leadership lost")
    candidates.assert_exclusive()


def test_on_loss_exit(candidates: KubeCandidates) -> None:
    """With --on-loss=exit a loss ends us with 75, whatever the child returned."""
    leader, _ = candidates.start_leader("a", "--on-loss=exit")
    candidates.patch({"spec": {"holderIdentity": "intruder"}})
    assert leader.wait() == 75
    assert leader.log.rstrip().endswith("leaderexec: leadership lost")


def test_a_lease_that_nobody_ever_held(candidates: KubeCandidates) -> None:
    """An object made by hand, without a spec, is taken."""
    status, _ = candidates.plane.request(
        "POST",
        lease_path(candidates.namespace),
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "x", "labels": {"made": "by-hand"}},
        },
    )
    assert status == 201
    candidates.start_leader("a")
    assert candidates.lease["metadata"]["labels"] == {"made": "by-hand"}
    assert candidates.spec["leaseTransitions"] == 1


def test_a_foreign_holder_is_waited_for_by_its_own_duration(candidates: KubeCandidates) -> None:
    """Expiry is judged by the record's duration from the moment we first saw it (G5)."""
    leader, _ = candidates.start_leader("a")
    leader.terminate()
    leader.wait()
    candidates.patch({"spec": {"holderIdentity": "other", "leaseDurationSeconds": 4}})
    seen_ns = now_ns()
    candidates.start("b")
    (tree,) = candidates.witness.wait_running(1, "b", timeout_s=TAKEOVER_S)
    assert tree.started_ns > seen_ns + 4 * 10**9


def test_expired_token_then_rotated(candidates: KubeCandidates) -> None:
    """With a token that is refused the tree is dead in time; with another, leadership returns."""
    candidates.proxied("a")
    leader, tree = candidates.start_leader("a")
    candidates.token_path.write_text("not-a-token")
    candidates.proxies["a"].answer(401)  # what an API server says once the token has expired
    candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    assert candidates.proxies["a"].counters()["answered"] > 0
    candidates.proxies["a"].pass_through()
    wait_until(
        lambda: any("401" in e["event"] for e in leader.events()),
        timeout_s=20,
        what="the refusal is told",
    )
    candidates.token_path.write_text(
        candidates.plane.token(candidates.namespace, candidates.account)
    )
    assert candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S).candidate == "a"
    assert leader.process.poll() is None
    candidates.assert_exclusive()


def test_no_token_is_ever_logged(candidates: KubeCandidates) -> None:
    """Whatever happens to the token, it stays out of the log."""
    candidates.proxied("a")
    leader, tree = candidates.start_leader("a")
    candidates.proxies["a"].answer(401)
    candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    token = candidates.token_path.read_text()
    assert token not in leader.log
    assert token.split(".")[2] not in leader.log


def test_role_taken_and_given_back(candidates: KubeCandidates) -> None:
    """Without the right to update the tree ends in time; the log names the rule; it comes back."""
    leader, tree = candidates.start_leader("a")
    candidates.plane.revoke(candidates.namespace, candidates.account, "x")
    candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    told = wait_until(
        lambda: [e["event"] for e in leader.events() if "forbidden" in e["event"]],
        timeout_s=10,
        what="the refusal is told",
    )
    assert "'leases'" in told[0]
    assert "'update'" in told[0]
    assert "resourceNames [x]" in told[0]
    candidates.plane.grant(candidates.namespace, candidates.account, "x")
    assert candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S).candidate == "a"
    candidates.assert_exclusive()


def test_no_right_to_create(candidates: KubeCandidates) -> None:
    """A role without create is named as such, and retried until it is there."""
    candidates.plane.revoke(candidates.namespace, candidates.account, "x")
    candidate = candidates.start("a")
    wait_until(
        lambda: any("'get'" in e["event"] for e in candidate.events()),
        timeout_s=20,
        what="the missing right is told",
    )
    candidates.plane.grant(candidates.namespace, candidates.account, "x")
    candidates.witness.wait_running(1, "a", timeout_s=TAKEOVER_S)


def test_a_missing_namespace_is_named_and_retried(candidates: KubeCandidates) -> None:
    """A namespace that does not exist yet is named; when it is made, the election begins."""
    kubeconfig = candidates.plane.admin_kubeconfig
    name = f"later-{candidates.namespace}"
    candidate = candidates.make(
        "a", lock=["--election=x", f"--namespace={name}"], env={"KUBECONFIG": str(kubeconfig)}
    )
    candidate.options = [o for o in candidate.options if not o.startswith("--kubeconfig=")]
    candidate.start()
    wait_until(
        lambda: any(f"namespace {name} does not exist" in e["event"] for e in candidate.events()),
        timeout_s=20,
        what="the namespace is named",
    )
    candidates.plane.create_namespace(name)
    candidates.witness.wait_running(1, "a", timeout_s=TAKEOVER_S)


def test_namespace_of_the_kubeconfig(candidates: KubeCandidates) -> None:
    """Without --namespace the kubeconfig's context decides, and the child is told."""
    leader, _ = candidates.start_leader("a", child=child_command("--env-note"))
    env = candidates.witness.wait_note("env", "a").data["env"]
    assert env["LEADER_NAMESPACE"] == candidates.namespace
    assert leader.events("campaigning")[0]["lock"] == f"lease {candidates.namespace}/x"


def test_a_kubeconfig_that_cannot_be_used_is_refused(candidates: KubeCandidates) -> None:
    """A kubeconfig without the context asked for ends us with 2 before anything runs."""
    candidate = candidates.start("a", "--context=nowhere")
    assert candidate.wait() == 2
    assert "nowhere" in candidate.log
    assert not candidates.witness.trees()


def test_exec_plugin(candidates: KubeCandidates) -> None:
    """A kubeconfig whose user is an exec plugin works, and gets a fresh token after a 401."""
    token_path = candidates.token_path
    plugin = candidates.directory / "plugin"
    plugin.write_text(
        "#!/bin/sh\n"
        f"echo run >> {candidates.directory}/plugin-runs\n"
        'printf \'{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential",'
        f'"status":{{"token":"%s"}}}}\' "$(cat {token_path})"\n'
    )
    plugin.chmod(0o755)
    kubeconfig = candidates.plane.kubeconfig_for("unused", namespace=candidates.namespace)
    text = kubeconfig.read_text()
    start = text.index("    token:")
    text = (
        text[:start]
        + (
            "    exec:\n"
            "      apiVersion: client.authentication.k8s.io/v1\n"
            f"      command: {plugin}\n"
            "      interactiveMode: Never\n"
        )
        + text[text.index("\n", start) + 1 :]
    )
    kubeconfig.write_text(text)
    candidate = candidates.make("a", f"--kubeconfig={kubeconfig}").start()
    candidates.witness.wait_running(1, "a", timeout_s=20)
    assert (candidates.directory / "plugin-runs").read_text()
    candidate.terminate()
    assert candidate.wait() == 143
