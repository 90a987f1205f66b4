"""The bundle on a real Lease, with each kind of credentials.

The bundle carries a part of the kubernetes package only, and stand-ins for the rest; each way to
credentials imports another part of that.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import pytest
import yaml

from tests.support.bundle import Bundled, bundle
from tests.support.candidate import child_command
from tests.support.candidates import Candidates
from tests.support.competitors import pod_of
from tests.support.plugin import ExecPlugin
from tests.support.required import root_only

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.candidate import Candidate
    from tests.support.kube_candidates import KubeCandidates

BOUND_S = 60
#: What credential plugins, as foreign programs, must get as it was given.
GIVEN = {
    "LD_LIBRARY_PATH": "/the/users/own",
    "_PYI_ARCHIVE_FILE": "/somebody/elses",
    "PYTHONHOME": "/nowhere",
}


def bundled(candidates: KubeCandidates, candidate: Candidate) -> Bundled:
    """Let a candidate that is not started be the bundle."""
    changed = Bundled(**vars(candidate))
    changed.program = str(bundle() / "leaderexec")
    candidates.by_name[candidate.name] = changed
    return changed


def kubeconfig_of(candidate: Candidate) -> Path:
    """Return the kubeconfig that a candidate was told."""
    (option,) = [word for word in candidate.options if word.startswith("--kubeconfig=")]
    return Path(option.partition("=")[2])


def assert_leads_and_releases(candidates: KubeCandidates, candidate: Bundled) -> None:
    """Start it, see its tree run, end it, and see the Lease given back."""
    candidate.start()
    (tree,) = candidates.witness.wait_running(1, candidate.name, timeout_s=BOUND_S)
    assert candidates.spec["holderIdentity"] == candidate.identity
    candidate.terminate()
    assert candidate.wait(BOUND_S) == 143
    candidates.witness.wait_ended(tree)
    assert candidates.spec["holderIdentity"] == ""


@root_only
def test_in_a_pod_a_standby_takes_over(candidates: KubeCandidates) -> None:
    """With a service account's token, a watch tells it of a release; models are never loaded."""
    leader, tree = candidates.start_leader("a")
    wrapper, env = pod_of(candidates, "b")
    standby = bundled(candidates, Candidates.make(candidates, "b", env=env, wrapper=wrapper))
    standby.start().wait_event(f"leader is {leader.identity}", timeout_s=BOUND_S)
    maps = Path(f"/proc/{standby.elector}/maps").read_text()
    assert "libssl" in maps, "it has talked to the server"
    assert "pydantic" not in maps, "the whole package was imported"
    leader.terminate()
    successor = candidates.witness.wait_successor(tree, timeout_s=BOUND_S)
    assert successor.candidate == "b"
    candidates.assert_exclusive()


def test_a_credential_plugin_gets_the_environment_as_it_was(candidates: KubeCandidates) -> None:
    """A plugin is a foreign program: what we need of our own would break it."""
    candidate = candidates.make("a", env=GIVEN, child=["env", "-u", "PYTHONHOME", *child_command()])
    with ExecPlugin(candidates.directory, candidates.token_path) as plugin:
        plugin.write_into(kubeconfig_of(candidate))
        assert_leads_and_releases(candidates, bundled(candidates, candidate))
        assert {f"{name}={value}".encode() for name, value in GIVEN.items()} <= plugin.environ
        assert not [s for s in plugin.environ if s.startswith((b"@", b"_PYI_PARENT"))]


@pytest.fixture
def issuer(
    candidates: KubeCandidates, tmp_path: Path
) -> Iterator[tuple[str, list[dict[str, list[str]]]]]:
    """An OpenID Connect issuer: its URL, and the refreshes that it was asked for.

    What it issues is a token that the API server accepts: that of the service account.
    """
    asked: list[dict[str, list[str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            if size:
                asked.append(parse_qs(self.rfile.read(size).decode()))
            token = candidates.token_path.read_text()
            document = {
                "token_endpoint": f"{url}/token", "access_token": "a", "token_type": "Bearer",
                "id_token": token, "refresh_token": "another",
            }  # fmt: skip
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *_: object) -> None:
            pass

    cert, key = candidates.plane.ca.issue_server(tmp_path / "issuer")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = f"https://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield url, asked
        finally:
            server.shutdown()
            thread.join()


def test_openid_connect_refreshes_a_token_that_is_past(
    candidates: KubeCandidates, issuer: tuple[str, list[dict[str, list[str]]]]
) -> None:
    """The package's own client asks the issuer, with the parts of it that the bundle has."""
    url, asked = issuer
    candidate = candidates.make("a")
    path = kubeconfig_of(candidate)
    config = yaml.safe_load(path.read_text())
    claims = json.dumps({"exp": int(time.time()) - 3600}).encode()
    past = base64.urlsafe_b64encode(claims + b" " * (-len(claims) % 3)).decode()
    config["users"][0]["user"] = {
        "auth-provider": {
            "name": "oidc",
            "config": {
                "client-id": "us",
                "client-secret": "the client's secret",
                "id-token": f"e30.{past}.e30",
                "idp-issuer-url": url,
                "idp-certificate-authority-data": base64.b64encode(
                    candidates.plane.ca.pem.encode()
                ).decode(),
                "refresh-token": "one",
            },
        }
    }
    path.write_text(yaml.safe_dump(config))
    assert_leads_and_releases(candidates, bundled(candidates, candidate))
    assert asked[0]["refresh_token"] == ["one"]
