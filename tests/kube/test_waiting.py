"""--wait-for-leader on a Lease: with the right to read alone, and through refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.rally import Rally
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from tests.support.candidates import Candidate
    from tests.support.kube_rally import KubeRally

_ACCOUNT = "looker"


def _waiter(rally: KubeRally) -> Candidate:
    """Start one that waits, under an account without any rights."""
    rally.plane.service_account(rally.namespace, _ACCOUNT)
    token_path = rally.directory / "looker-token"
    token_path.write_text(rally.plane.token(rally.namespace, _ACCOUNT))
    kubeconfig = rally.plane.kubeconfig_for(
        token_file=token_path, namespace=rally.namespace, server_url=None
    )
    lock = [*rally.lock, f"--kubeconfig={kubeconfig}"]
    return Rally.make(rally, "w", "--wait-for-leader", child=(), lock=lock).start()


def _let_it_read(rally: KubeRally) -> None:
    """Give that account the right to read the Lease, and no other."""
    rule = {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "resourceNames": ["x"],
        "verbs": ["get"],
    }
    metadata = {"name": "looks", "namespace": rally.namespace}
    rbac = "rbac.authorization.k8s.io"
    role: dict[str, Any] = {
        "apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": metadata, "rules": [rule],
    }  # fmt: skip
    binding: dict[str, Any] = {
        "apiVersion": f"{rbac}/v1",
        "kind": "RoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "looks"},
        "subjects": [{"kind": "ServiceAccount", "name": _ACCOUNT}],
    }
    for manifest in (role, binding):
        rally.plane.apply(manifest)


def test_it_ends_when_somebody_leads(rally: KubeRally) -> None:
    """Refused at first, it goes on; the right to get is enough; a leader's renewal ends it."""
    waiter = _waiter(rally)
    refused = wait_until(
        lambda: waiter.events("cannot see who leads"), timeout_s=30, what="the refusal is told"
    )
    assert "'get'" in refused[0]["reason"]
    _let_it_read(rally)
    assert waiter.process.poll() is None, "nobody leads"
    leader, _ = rally.start_leader("a")
    assert waiter.wait(60) == 0
    assert waiter.events(f"leader is {leader.identity}")


def test_it_writes_nothing(rally: KubeRally) -> None:
    """Under an account that may write, a wait that nobody ends leaves no Lease."""
    waiter = rally.start("w", "--wait-for-leader", "--timeout=4s", child=())
    assert waiter.wait(60) == 124
    assert rally.plane.lease(rally.namespace, "x") is None
