"""The rig itself: that the control plane is a real one, and that it dies with the tests."""

from __future__ import annotations

import json
import os
import select
import signal
import ssl
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.controlplane import (
    HOST,
    Binaries,
    ControlPlane,
    Unavailable,
    ensure_binaries,
    free_port,
    lease_path,
    service_account_user,
)
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parents[2]


def _lease(name: str, holder: str, metadata: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"metadata": {**(metadata or {}), "name": name}, "spec": {"holderIdentity": holder}}


def _account(control_plane: ControlPlane, namespace: str, lease_name: str) -> str:
    """Create a service account that may use one lease, and return a token of it."""
    control_plane.service_account(namespace, "app")
    control_plane.grant(namespace, "app", lease_name)
    return control_plane.token(namespace, "app")


def test_it_is_a_real_api_server(control_plane: ControlPlane, namespace: str) -> None:
    """The raw requests and the real kubectl see the same real server."""
    version = json.loads(control_plane.kubectl("version", "-o", "json"))
    assert control_plane.request("GET", "/version") == (200, version["serverVersion"])
    applied = control_plane.apply(
        f"apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata:\n  namespace: {namespace}\n"
        "  name: applied\nspec:\n  holderIdentity: kubectl\n"
    )
    assert applied == "lease.coordination.k8s.io/applied created\n"
    lease = control_plane.lease(namespace, "applied")
    assert lease is not None
    assert lease["spec"] == {"holderIdentity": "kubectl"}
    assert control_plane.lease(namespace, "other") is None


def test_a_grant_is_exactly_what_it_says(control_plane: ControlPlane, namespace: str) -> None:
    """A token may create leases and get, update and watch its own, and nothing else at all."""
    token = _account(control_plane, namespace, "mine")
    everybody, mine, other = (lease_path(namespace, name) for name in (None, "mine", "other"))

    def ask(method: str, path: str, body: Mapping[str, Any] | None = None) -> int:
        return control_plane.request(method, path, body, token=token)[0]

    assert ask("POST", everybody, _lease("mine", "a")) == 201
    status, lease = control_plane.request("GET", mine, token=token)
    assert status == 200
    assert ask("PUT", mine, _lease("mine", "b", lease["metadata"])) == 200
    assert ask("POST", everybody, _lease("other", "a")) == 201
    assert ask("GET", other) == 403
    assert ask("PUT", other, _lease("other", "b")) == 403
    assert ask("GET", everybody) == 403
    assert ask("DELETE", mine) == 403
    assert ask("DELETE", everybody) == 403
    assert ask("GET", lease_path("default", "mine")) == 403
    assert ask("POST", lease_path("default"), _lease("mine", "a")) == 403
    assert ask("GET", f"/api/v1/namespaces/{namespace}/configmaps") == 403
    status, body = control_plane.request(
        "PATCH", mine, {}, content_type="application/merge-patch+json", token=token
    )
    assert status == 403
    assert body["message"] == (
        'leases.coordination.k8s.io "mine" is forbidden: '
        f'User "{service_account_user(namespace, "app")}" cannot patch resource "leases" '
        f'in API group "coordination.k8s.io" in the namespace "{namespace}"'
    )


def test_a_watch_by_name_is_within_the_grant(control_plane: ControlPlane, namespace: str) -> None:
    """A watch needs a field selector of the granted name, and begins to answer at once."""
    token = _account(control_plane, namespace, "mine")
    watch = f"{lease_path(namespace)}?watch=true"
    for refused in (watch, f"{watch}&fieldSelector=metadata.name%3Dother"):
        assert control_plane.request("GET", refused, token=token)[0] == 403
    path = f"{watch}&fieldSelector=metadata.name%3Dmine"
    with control_plane.stream("GET", path, token=token) as response:
        assert response.status == 200
        control_plane.request("POST", lease_path(namespace), _lease("other", "a"))
        control_plane.request("POST", lease_path(namespace), _lease("mine", "a"))
        event = json.loads(response.readline())
    assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "mine")


def test_what_is_revoked_is_refused(control_plane: ControlPlane, namespace: str) -> None:
    """Once `revoke` returns, the next request is refused."""
    token = _account(control_plane, namespace, "mine")
    assert control_plane.request("GET", lease_path(namespace, "mine"), token=token)[0] == 404
    control_plane.revoke(namespace, "app", "mine")
    assert control_plane.request("GET", lease_path(namespace, "mine"), token=token)[0] == 403
    control_plane.grant(namespace, "app", "mine")
    assert control_plane.request("GET", lease_path(namespace, "mine"), token=token)[0] == 404


def test_a_token_signed_here_counts_until_it_expires(
    control_plane: ControlPlane, namespace: str
) -> None:
    """A token of the rig's own making is taken like any other, and refused once it has expired."""
    _account(control_plane, namespace, "mine")
    for lifetime_s, expected in ((30, 404), (-120, 401)):
        token = control_plane.sign_token(namespace, "app", lifetime_s)
        path = lease_path(namespace, "mine")
        assert control_plane.request("GET", path, token=token)[0] == expected


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_data_outlive_the_servers(
    control_plane: ControlPlane, namespace: str, how: signal.Signals
) -> None:
    """Servers that are ended and started again have the same address, objects and tokens."""
    token = _account(control_plane, namespace, "mine")
    url, pid = control_plane.url, control_plane.apiserver_pid
    control_plane.request("POST", lease_path(namespace), _lease("mine", "a"), token=token)
    lease = control_plane.lease(namespace, "mine")
    control_plane.stop_apiserver(how)
    with pytest.raises(ConnectionRefusedError):
        control_plane.request("GET", "/readyz")
    control_plane.stop_etcd()
    control_plane.start_etcd()
    control_plane.start_apiserver()
    assert control_plane.url == url
    assert control_plane.apiserver_pid != pid
    path = lease_path(namespace, "mine")
    assert control_plane.request("GET", path, token=token) == (200, lease)


def test_a_paused_server_is_silent(control_plane: ControlPlane, namespace: str) -> None:
    """A paused server accepts connections and answers nobody, until it is resumed."""
    path = lease_path(namespace, "mine")
    control_plane.pause_apiserver()
    with pytest.raises(TimeoutError):
        control_plane.request("GET", path, timeout_s=0.2)
    control_plane.resume_apiserver()
    assert control_plane.request("GET", path)[0] == 404


def test_a_stopped_server_comes_back(control_plane: ControlPlane, namespace: str) -> None:
    """Whatever a test has done to the servers, one call makes them ready for the next."""
    control_plane.pause_apiserver()
    control_plane.stop_etcd()
    control_plane.ensure_ready()
    assert control_plane.request("GET", lease_path(namespace, "mine"))[0] == 404


def test_requests_are_counted(control_plane: ControlPlane, namespace: str) -> None:
    """Who asked for what, and what the answer was, can be told for each lease."""
    token = _account(control_plane, namespace, "mine")
    for _ in range(3):
        control_plane.request("GET", lease_path(namespace, "mine"), token=token)
    control_plane.request("POST", lease_path(namespace), _lease("mine", "a"), token=token)
    control_plane.request("DELETE", lease_path(namespace, "mine"), token=token)
    control_plane.request("GET", lease_path(namespace, "other"))
    watch = f"{lease_path(namespace)}?watch=true&fieldSelector=metadata.name%3Dmine"
    with control_plane.stream("GET", watch, token=token):
        pass
    app, admin = service_account_user(namespace, "app"), "test-admin"
    expected = Counter(
        {(app, "get", 404): 3, (app, "create", 201): 1, (app, "delete", 403): 1}
        | {(app, "watch", 200): 1, (admin, "get", 404): 1}
    )
    wait_until(
        lambda: Counter(entry[:3] for entry in control_plane.requests(namespace)) == expected,
        timeout_s=10,
        what="that all requests are counted",
    )
    others = control_plane.requests(namespace, "other")
    assert [entry[:3] for entry in others] == [(admin, "get", 404)]
    assert control_plane.requests(namespace, resource="configmaps") == []
    assert control_plane.apiserver_cpu_s() > 0


def test_kubeconfigs_and_the_files_of_a_pod(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """Clients get in with a token, with a file that has one, and with what a pod has."""
    token = _account(control_plane, namespace, "mine")
    pod = control_plane.incluster(tmp_path / "pod", "outdated", namespace)
    assert control_plane.incluster(pod, token, namespace) == pod
    assert (pod / "token").read_text() == token
    assert (pod / "namespace").read_text() == namespace
    assert (pod / "ca.crt").read_text() == control_plane.ca_cert_path.read_text()
    assert sorted(path.name for path in pod.iterdir() if not path.name.startswith("..")) == [
        "ca.crt",
        "namespace",
        "token",
    ]
    for kubeconfig in (
        control_plane.kubeconfig_for(token, namespace=namespace),
        control_plane.kubeconfig_for(token_file=pod / "token", namespace=namespace),
    ):
        who = control_plane.kubectl("--kubeconfig", str(kubeconfig), "auth", "whoami", "-o", "json")
        user = json.loads(who)["status"]["userInfo"]["username"]
        assert user == service_account_user(namespace, "app")


def test_a_serving_certificate_is_trusted(control_plane: ControlPlane, tmp_path: Path) -> None:
    """A server of a test with an issued certificate is trusted for 127.0.0.1, and only for it."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(*control_plane.issue_serving_cert(tmp_path))
    client_context = ssl.create_default_context(cafile=control_plane.ca_cert_path)

    def shake_hands(host: str) -> None:
        to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = client_context.wrap_bio(to_client, to_server, server_hostname=host)
        server = server_context.wrap_bio(to_server, to_client, server_side=True)
        for side in (client, server, client):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        assert client.getpeercert(), "the handshake is not complete"

    shake_hands(HOST)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands("127.0.0.2")


def test_the_servers_die_with_their_owner(tmp_path: Path, control_plane: ControlPlane) -> None:
    """When the process that started them is killed, the servers die too, even a paused one."""
    environment = os.environ | {
        "TMPDIR": str(tmp_path),
        "KUBEBUILDER_ASSETS": str(control_plane.binaries.etcd.parent),
    }
    command = [sys.executable, "-m", "tests.support.controlplane", "run"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        exports = {}
        while (line := owner.stdout.readline()).startswith("export "):
            name, value = line.removeprefix("export ").split("=", 1)
            exports[name] = value.strip().strip('"')
        pids = [int(exports[name]) for name in ("ETCD_PID", "APISERVER_PID")]
        descriptors = [os.pidfd_open(pid) for pid in pids]
        os.kill(pids[1], signal.SIGSTOP)
        owner.kill()
    for pid, descriptor in zip(pids, descriptors, strict=True):
        assert select.select([descriptor], [], [], 10)[0], f"{pid} outlived its owner"
        os.close(descriptor)


def test_programs_that_are_not_there_are_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, control_plane: ControlPlane
) -> None:
    """A directory without all the programs is refused; one with them is used as it is."""
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    with pytest.raises(Unavailable, match="no etcd, kube-apiserver, kubectl in"):
        ensure_binaries()
    directory = control_plane.binaries.etcd.parent
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(directory))
    assert ensure_binaries() == Binaries.in_directory(directory)


def test_ports_are_not_handed_out_twice() -> None:
    """Ports differ, and none is one that the kernel gives to outgoing connections."""
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == len(ports)
    words = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    assert not any(int(words[0]) <= port <= int(words[1]) for port in ports)
