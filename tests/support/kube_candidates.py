"""Candidates on a real Lease: a ServiceAccount with exactly the documented RBAC, a proxy if asked.

Owns the credentials and the proxies of one test. Each candidate that is asked for `proxied` talks
to the API server through a proxy of its own, whose log also stamps each of its requests.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from tests.support.candidate import BRISK, BRISK_LEASE_S, Candidate, in_cluster
from tests.support.candidates import Candidates
from tests.support.controlplane import HOST, lease_path
from tests.support.proxy import Proxy
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Unpack

    from tests.support.candidates import How
    from tests.support.controlplane import ControlPlane
    from tests.support.witness import Tree, Witness

#: What a proxy may be called too, for a candidate that asks for its address.
API_NAME: Final = "api.leaderexec.test"


class KubeCandidates(Candidates):
    """The candidates of a test whose lock is the Lease `x` in the test's own namespace."""

    def __init__(
        self, witness: Witness, directory: Path, plane: ControlPlane, namespace: str
    ) -> None:
        super().__init__(witness, directory)
        self.plane = plane
        self.namespace = namespace
        self.account = "candidate"
        self.lock = ("--election=x",)
        self.timing = BRISK
        self.lease_s = BRISK_LEASE_S
        self.takeover_s = 5 * BRISK_LEASE_S
        self.proxies: dict[str, Proxy] = {}
        self._stack = contextlib.ExitStack()
        plane.service_account(namespace, self.account)
        plane.grant(namespace, self.account, "x")
        self.token_path = directory / "token"
        self.token_path.write_text(plane.token(namespace, self.account))

    def hold_on(self, resource: str) -> None:
        """Hold the election on an object of another resource than leases."""
        self.plane.grant(self.namespace, self.account, "x", resource=resource)
        self.lock = ("--election=x", f"--lock={resource}")

    def __exit__(self, *exc: object) -> None:
        """Kill the candidates, then end the proxies."""
        super().__exit__(*exc)
        self._stack.close()

    def proxy(self, name: str) -> Proxy:
        """Return the proxy of a candidate, started if need be."""
        if name not in self.proxies:
            directory = self.directory / f"proxy-{name}"
            directory.mkdir()
            cert, key = self.plane.ca.issue_server(directory, (HOST, "localhost", API_NAME))
            self.proxies[name] = self._stack.enter_context(
                Proxy(self.plane.url, cert=cert, key=key, upstream_ca=self.plane.ca_cert_path)
            )
        return self.proxies[name]

    def proxied(self, *names: str) -> None:
        """Put a proxy before each of these candidates, before they are started."""
        for name in names:
            self.proxy(name)

    def make(self, name: str, *options: str, **how: Unpack[How]) -> Candidate:
        """Make a candidate with a kubeconfig of the ServiceAccount."""
        proxy = self.proxies.get(name)
        kubeconfig = self.plane.kubeconfig_for(
            token_file=self.token_path,
            namespace=self.namespace,
            server_url=proxy.url if proxy else None,
        )
        how["lock"] = [*(how.get("lock") or self.lock), f"--kubeconfig={kubeconfig}"]
        return super().make(name, *options, **how)

    def start_in_cluster(self, name: str, *options: str) -> Candidate:
        """Start a candidate that finds its credentials where a pod has them (as root only)."""
        secrets = self.plane.incluster(
            self.directory / f"secrets-{name}", self.token_path.read_text(), self.namespace
        )
        port = self.proxies[name].port if name in self.proxies else self.plane.port
        env = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(port)}
        wrapper = in_cluster(secrets)
        return Candidates.make(self, name, *options, env=env, wrapper=wrapper).start()

    # --- the object

    @property
    def lease(self) -> dict[str, Any]:
        """The Lease as it is now."""
        found = self.plane.lease(self.namespace, "x")
        assert found is not None, "there is no Lease"
        return found

    @property
    def spec(self) -> dict[str, Any]:
        """What the Lease says now."""
        spec: dict[str, Any] = self.lease["spec"]
        return spec

    @property
    def successor(self) -> str:
        """Who stands in the Lease as the next in line; empty for nobody."""
        annotations = self.lease["metadata"].get("annotations", {})
        return str(annotations.get("leaderexec/successor", ""))

    def wait_successor_named(self, *identities: str) -> None:
        """Wait until one of these standbys stands in the Lease as the next in line."""
        what = f"one of {identities} is next in line"
        wait_until(lambda: self.successor in identities, timeout_s=30, what=what)

    def last_write_ns(self, name: str) -> int:
        """When a proxied candidate's last write that succeeded reached the proxy.

        That is no earlier than it was sent.
        """
        writes = [r for r in self.proxies[name].requests() if r.method in {"POST", "PUT"}]
        return max(r.at_ns for r in writes if r.upstream_status in {200, 201})

    @staticmethod
    def assert_in_time(tree: Tree, renewed_ns: int, lease_s: float) -> None:
        """Fail unless the tree was dead before anybody could have acquired."""
        assert tree.ended_ns is not None
        assert tree.alive_until_ns < renewed_ns + lease_s * 1e9

    def patch(self, change: Mapping[str, Any]) -> None:
        """Change the Lease by hand, as the administrator."""
        status, body = self.plane.request(
            "PATCH",
            lease_path(self.namespace, "x"),
            change,
            content_type="application/merge-patch+json",
        )
        assert status == 200, body

    def delete(self) -> None:
        """Delete the Lease by hand."""
        status, body = self.plane.request("DELETE", lease_path(self.namespace, "x"))
        assert status == 200, body
