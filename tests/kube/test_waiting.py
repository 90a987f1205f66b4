"""--wait-for-leader on a Lease: with the right to read alone, and through refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.candidates import Candidates
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from tests.support.candidate import Candidate
    from tests.support.kube_candidates import KubeCandidates

_ACCOUNT = "looker"


def _waiter(candidates: KubeCandidates) -> Candidate:
    """Start one that waits, under an account without any rights."""
    candidates.plane.service_account(candidates.namespace, _ACCOUNT)
    token_path = candidates.directory / "looker-token"
    token_path.write_text(candidates.plane.token(candidates.namespace, _ACCOUNT))
    kubeconfig = candidates.plane.kubeconfig_for(
        token_file=token_path, namespace=candidates.namespace, server_url=None
    )
    lock = [*candidates.lock, f"--kubeconfig={kubeconfig}"]
    return Candidates.make(candidates, "w", "--wait-for-leader", child=(), lock=lock).start()


def _let_it_read(candidates: KubeCandidates) -> None:
    """Give that account the right to read the Lease, and no other."""
    rule = {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "resourceNames": ["x"],
        "verbs": ["get"],
    }
    metadata = {"name": "looks", "namespace": candidates.namespace}
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
        candidates.plane.apply(manifest)


def test_it_ends_when_somebody_leads(candidates: KubeCandidates) -> None:
    """Refused at first, it goes on; the right to get is enough; a leader's renewal ends it."""
    waiter = _waiter(candidates)
    refused = wait_until(
        lambda: waiter.events("cannot see who leads"), timeout_s=30, what="the refusal is told"
    )
    assert "'get'" in refused[0]["reason"]
    _let_it_read(candidates)
    assert waiter.process.poll() is None, "nobody leads"
    leader, _ = candidates.start_leader("a")
    assert waiter.wait(60) == 0
    assert waiter.events(f"leader is {leader.identity}")


def test_it_writes_nothing(candidates: KubeCandidates) -> None:
    """Under an account that may write, a wait that nobody ends leaves no Lease."""
    waiter = candidates.start("w", "--wait-for-leader", "--timeout=4s", child=())
    assert waiter.wait(60) == 124
    assert candidates.plane.lease(candidates.namespace, "x") is None
