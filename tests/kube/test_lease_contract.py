"""The contract suite on a real Lease, as a ServiceAccount with the documented role."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from leaderexec.locks import kubeapi
from leaderexec.locks.lease import LeaseLock
from tests.support.controlplane import lease_path
from tests.support.lock_contract import LockContract

if TYPE_CHECKING:
    from collections.abc import Callable

    from leaderexec.locks.base import Lock
    from tests.support.controlplane import ControlPlane


class TestLeaseLock(LockContract):
    """What every lock promises, by a Lease."""

    timeout_s = 20.0
    bound_s = 20.0
    increments = 5

    @pytest.fixture
    def lock_factory(self, control_plane: ControlPlane, namespace: str) -> Callable[[], Lock]:
        """Clients of the Lease `x` in the test's namespace."""
        control_plane.service_account(namespace, "candidate")
        control_plane.grant(namespace, "candidate", "x")
        token = control_plane.token(namespace, "candidate")
        kubeconfig = control_plane.kubeconfig_for(token, namespace=namespace)

        def client() -> Lock:
            credentials = kubeapi.Credentials(in_cluster=False, kubeconfig=str(kubeconfig))
            return LeaseLock(kubeapi.Api(credentials), namespace, "x")

        return client

    @pytest.fixture
    def delete(self, control_plane: ControlPlane, namespace: str) -> Callable[[], None]:
        """Delete the Lease as the administrator."""

        def delete_now() -> None:
            status, body = control_plane.request("DELETE", lease_path(namespace, "x"))
            assert status == 200, body

        return delete_now
