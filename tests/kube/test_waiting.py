"""--wait-for-leader on a Lease: with the right to read alone, and through refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.candidates import Candidates

if TYPE_CHECKING:
    from tests.support.kube_candidates import KubeCandidates


def test_it_ends_when_somebody_leads(candidates: KubeCandidates) -> None:
    """Refused at first, it goes on; the right to get is enough; a leader's renewal ends it."""
    plane, namespace, account = candidates.plane, candidates.namespace, "looker"
    plane.service_account(namespace, account)
    kubeconfig = plane.kubeconfig_for(plane.token(namespace, account), namespace=namespace)
    lock = [*candidates.lock, f"--kubeconfig={kubeconfig}"]
    waiter = Candidates.make(candidates, "w", "--wait-for-leader", child=(), lock=lock).start()
    refused = waiter.wait_event("cannot see who leads", timeout_s=30)
    assert "'get'" in refused["reason"]
    for words in (
        ("role", "looks", "--verb=get", "--resource=leases", "--resource-name=x"),
        ("rolebinding", "looks", "--role=looks", f"--serviceaccount={namespace}:{account}"),
    ):
        plane.kubectl("create", *words, f"--namespace={namespace}")
    assert waiter.process.poll() is None, "nobody leads"
    leader, _ = candidates.start_leader("a")
    assert waiter.wait(60) == 0
    assert waiter.events(f"leader is {leader.identity}")


def test_it_writes_nothing(candidates: KubeCandidates) -> None:
    """Under an account that may write, a wait that nobody ends leaves no Lease."""
    waiter = candidates.start("w", "--wait-for-leader", "--timeout=2s", child=())
    assert waiter.wait(60) == 124
    assert candidates.plane.lease(candidates.namespace, "x") is None
