"""What administrators do to the Lease, the token, the role and the namespace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.candidates import BRISK_LEASE_S, puppet_command
from tests.support.controlplane import lease_path
from tests.support.wait import wait_until
from tests.support.witness import now_ns

if TYPE_CHECKING:
    from tests.support.kube_rally import KubeRally

TAKEOVER_S = 5 * BRISK_LEASE_S


def test_deleted_while_leading(rally: KubeRally) -> None:
    """A deletion is a loss: the tree is killed at once; standbys wait for the old lease to end."""
    leader, tree = rally.start_leader("a", child=puppet_command("--ignore", "TERM"))
    rally.start_standby("b").wait_event(f"leader is {leader.identity}")
    rally.delete()
    rally.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    assert "deleted" in leader.wait_event("leadership lost")["reason"]
    rally.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
    rally.assert_exclusive()


def test_a_standby_waits_out_a_deleted_lease(rally: KubeRally) -> None:
    """A lease deleted while its holder is cut off is not created anew before it has ended."""
    rally.proxied("a")
    _, tree = rally.start_leader("a", child=puppet_command("--ignore", "TERM"))
    rally.start_standby("b").wait_event(f"leader is {rally.candidates['a'].identity}")
    rally.proxies["a"].black_hole()
    rally.proxies["a"].wait_counter("black_holed", 1)
    deleted_ns = now_ns()
    rally.delete()
    successor = rally.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
    assert successor.candidate == "b"
    assert tree.ended_ns is not None
    assert tree.ended_ns > deleted_ns, "the old tree outlived the deletion, and was waited for"
    rally.assert_exclusive()


def test_overwritten_by_hand(rally: KubeRally) -> None:
    """Another holder in the record is a loss, seen by a quorum read: SIGKILL at once."""
    leader, tree = rally.start_leader("a", child=puppet_command("--ignore", "TERM"))
    rally.patch({"spec": {"holderIdentity": "intruder"}})
    rally.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    assert "intruder" in leader.wait_event("leadership lost")["reason"]
    assert rally.spec["holderIdentity"] == "intruder", "not stolen back before it has expired"
    rally.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
    assert rally.spec["leaseTransitions"] == 1


def test_blanked_by_hand(rally: KubeRally) -> None:
    """A record freed by hand is a loss too, and the candidate campaigns again in place."""
    leader, tree = rally.start_leader("a")
    rally.patch({"spec": {"holderIdentity": ""}})
    rally.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    assert rally.witness.wait_successor(tree, timeout_s=TAKEOVER_S).candidate == "a"
    assert leader.events("leadership lost")
    rally.assert_exclusive()


def test_on_loss_exit(rally: KubeRally) -> None:
    """With --on-loss=exit a loss ends us with 75, whatever the child returned."""
    leader, _ = rally.start_leader("a", "--on-loss=exit")
    rally.patch({"spec": {"holderIdentity": "intruder"}})
    assert leader.wait() == 75
    assert leader.log.rstrip().endswith("leaderexec: leadership lost")


def test_a_lease_that_nobody_ever_held(rally: KubeRally) -> None:
    """An object made by hand, without a spec, is taken."""
    status, _ = rally.plane.request(
        "POST",
        lease_path(rally.namespace),
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "x", "labels": {"made": "by-hand"}},
        },
    )
    assert status == 201
    rally.start_leader("a")
    assert rally.lease["metadata"]["labels"] == {"made": "by-hand"}
    assert rally.spec["leaseTransitions"] == 1


def test_a_foreign_holder_is_waited_for_by_its_own_duration(rally: KubeRally) -> None:
    """Expiry is judged by the record's duration from the moment we first saw it (G5)."""
    leader, _ = rally.start_leader("a")
    leader.terminate()
    leader.wait()
    rally.patch({"spec": {"holderIdentity": "other", "leaseDurationSeconds": 4}})
    seen_ns = now_ns()
    rally.start("b")
    (tree,) = rally.witness.wait_running(1, "b", timeout_s=TAKEOVER_S)
    assert tree.started_ns > seen_ns + 4 * 10**9


def test_expired_token_then_rotated(rally: KubeRally) -> None:
    """With a token that is refused the tree is dead in time; with another, leadership returns."""
    rally.proxied("a")
    leader, tree = rally.start_leader("a")
    rally.token_path.write_text("not-a-token")
    rally.proxies["a"].answer(401)  # what an API server says once the token has expired
    rally.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    assert rally.proxies["a"].counters()["answered"] > 0
    rally.proxies["a"].pass_through()
    wait_until(
        lambda: any("401" in e["event"] for e in leader.events()),
        timeout_s=20,
        what="the refusal is told",
    )
    rally.token_path.write_text(rally.plane.token(rally.namespace, rally.account))
    assert rally.witness.wait_successor(tree, timeout_s=TAKEOVER_S).candidate == "a"
    assert leader.process.poll() is None
    rally.assert_exclusive()


def test_no_token_is_ever_logged(rally: KubeRally) -> None:
    """Whatever happens to the token, it stays out of the log."""
    rally.proxied("a")
    leader, tree = rally.start_leader("a")
    rally.proxies["a"].answer(401)
    rally.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    token = rally.token_path.read_text()
    assert token not in leader.log
    assert token.split(".")[2] not in leader.log


def test_role_taken_and_given_back(rally: KubeRally) -> None:
    """Without the right to update the tree ends in time; the log names the rule; it comes back."""
    leader, tree = rally.start_leader("a")
    rally.plane.revoke(rally.namespace, rally.account, "x")
    rally.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    told = wait_until(
        lambda: [e["event"] for e in leader.events() if "forbidden" in e["event"]],
        timeout_s=10,
        what="the refusal is told",
    )
    assert "'leases'" in told[0]
    assert "'update'" in told[0]
    assert "resourceNames [x]" in told[0]
    rally.plane.grant(rally.namespace, rally.account, "x")
    assert rally.witness.wait_successor(tree, timeout_s=TAKEOVER_S).candidate == "a"
    rally.assert_exclusive()


def test_no_right_to_create(rally: KubeRally) -> None:
    """A role without create is named as such, and retried until it is there."""
    rally.plane.revoke(rally.namespace, rally.account, "x")
    candidate = rally.start("a")
    wait_until(
        lambda: any("'get'" in e["event"] for e in candidate.events()),
        timeout_s=20,
        what="the missing right is told",
    )
    rally.plane.grant(rally.namespace, rally.account, "x")
    rally.witness.wait_running(1, "a", timeout_s=TAKEOVER_S)


def test_a_missing_namespace_is_named_and_retried(rally: KubeRally) -> None:
    """A namespace that does not exist yet is named; when it is made, the election begins."""
    kubeconfig = rally.plane.admin_kubeconfig
    name = f"later-{rally.namespace}"
    candidate = rally.make(
        "a", lock=["--election=x", f"--namespace={name}"], env={"KUBECONFIG": str(kubeconfig)}
    )
    candidate.options = [o for o in candidate.options if not o.startswith("--kubeconfig=")]
    candidate.start()
    wait_until(
        lambda: any(f"namespace {name} does not exist" in e["event"] for e in candidate.events()),
        timeout_s=20,
        what="the namespace is named",
    )
    rally.plane.create_namespace(name)
    rally.witness.wait_running(1, "a", timeout_s=TAKEOVER_S)


def test_namespace_of_the_kubeconfig(rally: KubeRally) -> None:
    """Without --namespace the kubeconfig's context decides, and the child is told."""
    leader, _ = rally.start_leader("a", child=puppet_command("--env-note"))
    env = rally.witness.wait_note("env", "a").data["env"]
    assert env["LEADER_NAMESPACE"] == rally.namespace
    assert leader.events("campaigning")[0]["lock"] == f"lease {rally.namespace}/x"


def test_a_kubeconfig_that_cannot_be_used_is_refused(rally: KubeRally) -> None:
    """A kubeconfig without the context asked for ends us with 2 before anything runs."""
    candidate = rally.start("a", "--context=nowhere")
    assert candidate.wait() == 2
    assert "nowhere" in candidate.log
    assert not rally.witness.trees()


def test_exec_plugin(rally: KubeRally) -> None:
    """A kubeconfig whose user is an exec plugin works, and gets a fresh token after a 401."""
    token_path = rally.token_path
    plugin = rally.directory / "plugin"
    plugin.write_text(
        "#!/bin/sh\n"
        f"echo run >> {rally.directory}/plugin-runs\n"
        'printf \'{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential",'
        f'"status":{{"token":"%s"}}}}\' "$(cat {token_path})"\n'
    )
    plugin.chmod(0o755)
    kubeconfig = rally.plane.kubeconfig_for("unused", namespace=rally.namespace)
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
    candidate = rally.make("a", f"--kubeconfig={kubeconfig}").start()
    rally.witness.wait_running(1, "a", timeout_s=20)
    assert (rally.directory / "plugin-runs").read_text()
    candidate.terminate()
    assert candidate.wait() == 143
