"""The contract suite on real objects of each kind, as a ServiceAccount with no more than its role.

Owns: the role that each kind needs, and what the contract cannot ask: which parts of an object a
write leaves alone.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from leaderexec.locks import kubeapi
from leaderexec.locks.annotation import ConfigMapLock, EndpointsLock
from leaderexec.locks.lease import LeaseLock
from leaderexec.model import SECOND_US
from tests.support.lock_contract import FIRST, SuccessorContract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from leaderexec.locks.base import Lock
    from leaderexec.locks.kubeobject import KubernetesLock
    from tests.support.controlplane import ControlPlane


class ObjectContract(SuccessorContract):
    """What every lock on an object promises; a subclass says on which."""

    timeout_s = 20.0
    bound_s = 20.0
    increments = 5

    lock_class: ClassVar[type[KubernetesLock]]
    resource: ClassVar[str]
    #: The path of all objects of the kind, up to the namespace.
    api: ClassVar[str]

    @pytest.fixture
    def path(self, namespace: str) -> str:
        return f"{self.api}/namespaces/{namespace}/{self.resource}/x"

    @pytest.fixture
    def lock_factory(
        self, control_plane: ControlPlane, namespace: str
    ) -> Iterator[Callable[[], Lock]]:
        """Clients of the object `x` in the test's namespace, with the role that the lock names."""
        control_plane.service_account(namespace, "candidate")
        control_plane.grant(namespace, "candidate", "x", resource=self.resource)
        token = control_plane.token(namespace, "candidate")
        kubeconfig = control_plane.kubeconfig_for(token, namespace=namespace)
        credentials = kubeapi.Credentials(in_cluster=False, kubeconfig=str(kubeconfig))
        with contextlib.ExitStack() as clients:

            def client() -> Lock:
                lock = self.lock_class(kubeapi.Api(credentials), namespace, "x")
                clients.callback(lock.close)
                return lock

            yield client

    @pytest.fixture
    def delete(self, control_plane: ControlPlane, path: str) -> Callable[[], None]:
        """Delete the object as the administrator."""

        def delete_now() -> None:
            status, body = control_plane.request("DELETE", path)
            assert status == 200, body

        return delete_now

    def test_a_naming_touches_nothing_else(
        self, lock: Lock, control_plane: ControlPlane, path: str
    ) -> None:
        """The object on the server differs by one annotation; the record stays byte for byte."""
        created = lock.create(FIRST, self.timeout_s)
        _, before = control_plane.request("GET", path)
        lock.name_successor("b", created, self.timeout_s)
        _, after = control_plane.request("GET", path)
        assert after["metadata"]["annotations"].pop("leaderexec/successor") == "b"
        assert without_bookkeeping(after) == without_bookkeeping(before)

    def test_naming_whom_it_names_changes_nothing(self, lock: Lock) -> None:
        """The server answers an identical write with success and the version that there was."""
        created = lock.create(FIRST, self.timeout_s)
        named = lock.name_successor("b", created, self.timeout_s)
        assert lock.name_successor("b", named, self.timeout_s) == named


def without_bookkeeping(body: dict[str, Any]) -> dict[str, Any]:
    """Return an object without what the server changes with every write."""
    metadata = {
        key: value
        for key, value in body["metadata"].items()
        if key not in {"resourceVersion", "managedFields"}
    }
    # No annotations may be written in two ways.
    metadata["annotations"] = metadata.get("annotations") or {}
    return {**body, "metadata": metadata}


class TestLeaseLock(ObjectContract):
    """What every lock promises, by a Lease."""

    lock_class = LeaseLock
    resource = "leases"
    api = "/apis/coordination.k8s.io/v1"


class TestEndpointsLock(ObjectContract):
    """What every lock promises, by the annotation of an Endpoints object."""

    precision_us = SECOND_US
    lock_class = EndpointsLock
    resource = "endpoints"
    api = "/api/v1"


class TestConfigMapLock(ObjectContract):
    """What every lock promises, by the annotation of a ConfigMap."""

    precision_us = SECOND_US
    lock_class = ConfigMapLock
    resource = "configmaps"
    api = "/api/v1"
