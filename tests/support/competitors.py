"""Competitors: leaderexec and other leader elections, all started and read in the same way.

Owns: the differences between them (how each program is had, what it is told, how it says that it
stands by), which neither a fault nor a benchmark must care about. The programs are built once from
the Go modules in `tests/competitors`, each with its own pinned versions, into the cache of the
control plane's programs. All candidates of an election share its service account.
Must not know: what leaderexec promises. Which tree ran when is the witness's to say.

Each of the others is one process with its child below it, keeps rules of its own, and leaves its
child alive when it is killed, unless it is PID 1:

- `k8s-await-election`: client-go's elector on the Lease, with the credentials of a pod (root only).
  It handles no signal: asked to stop it dies at once, and the lock is not given back. When no
  renewal succeeds within the renew deadline it kills its child and exits with 1; but if the lock
  can still be read then, it first tries to give it back, which nothing bounds.
- `client-go`: its elector on the Lease, as good as can be made with it. Asked to stop it stops its
  child (SIGTERM, after five seconds SIGKILL), then gives the lock back. It kills its child when no
  reply to a renewal came within the renew deadline, then campaigns again.
- `etcdctl lock`: on the etcd of the control plane, with no proxy, so that faults of the API do not
  reach it. Asked to stop it does nothing while its child runs. A lost lock it does not notice.
- `leader-elector 2016`: on the annotation of an Endpoints object. It never gives the lock back,
  judges by its own ttl, and kills its child half of that after its last renewal. Nothing bounds its
  requests: in a black hole it hangs, and its child runs.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import leaderexec
from tests.support.candidate import Candidate, child_command, children_of, in_cluster, name_of
from tests.support.candidates import Candidates
from tests.support.controlplane import GoProgram, Unavailable
from tests.support.required import missing
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Unpack

    from tests.support.candidates import How
    from tests.support.kube_candidates import KubeCandidates

OURS: Final = "leaderexec"
AWAIT_ELECTION: Final = "k8s-await-election"
CLIENT_GO: Final = "client-go"
ETCDCTL: Final = "etcdctl lock"
LEGACY_2016: Final = "leader-elector 2016"

#: What the elector of 2016 reads and writes.
ANNOTATION: Final = "control-plane.alpha.kubernetes.io/leader"

_MODULES: Final = Path(__file__).resolve().parents[1] / "competitors"
_ELECTION: Final = "x"  # as KubeCandidates's
_COMM_MAX: Final = 15  # the kernel keeps no more of a name


def slot_of(namespace: str, pod: str = "server-0") -> dict[str, str]:
    """Return the variables that say which container of a pod a candidate is."""
    return {
        "POD_NAME": pod,
        "POD_UID": str(uuid.uuid4()),
        "POD_NAMESPACE": namespace,
        "CONTAINER_NAME": "server",
    }


def pod_of(candidates: KubeCandidates, name: str) -> tuple[list[str], dict[str, str]]:
    """Return wrapper and environment that give a candidate what a pod has (as root only)."""
    secrets = candidates.directory / "pod-secrets"
    if not secrets.exists():
        token = candidates.token_path.read_text()
        candidates.plane.incluster(secrets, token, candidates.namespace)
    proxy = candidates.proxies.get(name)
    port = proxy.port if proxy else candidates.plane.port
    env = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(port)}
    return in_cluster(secrets), env


def program(module: str, package: str = ".") -> Path:
    """Return the path of a module's program; the first call on a machine builds it, in minutes.

    Where it cannot be built the test that calls this is skipped, or fails if
    `LEADEREXEC_REQUIRE_KUBE=1`.
    """
    built = _built(module, package)
    return built if isinstance(built, Path) else missing(module, built)


@functools.cache
def _built(module: str, package: str) -> Path | Unavailable:
    # A failure is kept too: it may have taken as long as a success.
    try:
        return GoProgram(_MODULES / module, package=package).build()
    except Unavailable as reason:
        return reason


def _required(module: str, package: str) -> str:
    """Return the version of a package that a module pins."""
    go_mod = (_MODULES / module / "go.mod").read_text()
    found = re.search(rf"^\s*(?:require )?{re.escape(package)} (v\S+)", go_mod, re.MULTILINE)
    assert found is not None, f"{module}'s go.mod does not require {package}"
    return found[1]


class Competitor:
    """One make in one election.

    `proxied` says whether it speaks to the API server, so that a proxy can stand between. With
    `in_pod` leaderexec has the credentials of a pod, as k8s-await-election always has.
    """

    name: ClassVar[str]
    proxied: ClassVar[bool] = True

    def __init__(self, candidates: KubeCandidates, *, in_pod: bool = False) -> None:
        self.candidates = candidates
        self.in_pod = in_pod

    def make(self, name: str, *options: str, **how: Unpack[How]) -> Candidate:
        """Return a candidate that is not started, with the election's timing.

        Options come last, and the last one counts.
        """
        raise NotImplementedError

    def start(self, name: str, *options: str, **how: Unpack[How]) -> Candidate:
        """Make a candidate and start it."""
        return self.make(name, *options, **how).start()

    def stands_by(self, candidate: Candidate) -> bool:
        """Whether a candidate has seen the lock and waits for it."""
        return '"leader is ' in candidate.log

    def wait_standing(self, candidate: Candidate, timeout_s: float = 60) -> None:
        """Wait until a candidate has seen the lock and waits for it."""
        wait_until(
            lambda: self.stands_by(candidate),
            timeout_s=timeout_s,
            what=f"{candidate.name} stands by; log:\n{candidate.log[-2000:]}",
        )

    @classmethod
    def version(cls) -> str:
        """Return its version and, where it differs, that of the elector in it."""
        raise NotImplementedError

    @property
    def record(self) -> dict[str, Any]:
        """What the lock says now."""
        return self.candidates.spec

    def _how_in_pod(self, name: str, how: How, **added: str) -> How:
        wrapper, env = pod_of(self.candidates, name)
        changed = how.copy()
        changed["wrapper"] = [*how.get("wrapper", ()), *wrapper]
        changed["env"] = {**env, **added, **(how.get("env") or {})}
        return changed


class Leaderexec(Competitor):
    """The product itself."""

    name = OURS

    def make(self, name: str, *options: str, **how: Unpack[How]) -> Candidate:
        """Return a leaderexec."""
        if not self.in_pod:
            return self.candidates.make(name, *options, **how)
        how = self._how_in_pod(name, how)
        return Candidates.make(self.candidates, name, *options, **how)

    def stands_by(self, candidate: Candidate) -> bool:
        """Whether its watch is open, where a proxy sees that; from then on it is told of all."""
        proxy = self.candidates.proxies.get(candidate.name)
        if proxy is None:
            return super().stands_by(candidate)
        return proxy.counters()["watches_open"] > 0

    @classmethod
    def version(cls) -> str:
        """Return its version."""
        return leaderexec.__version__


@dataclass
class OtherCandidate(Candidate):
    """One candidate of another make: a single process, with the child below it."""

    program: Path = Path()

    def argv(self) -> list[str]:
        """Return how it is started, as far as its command."""
        return [*self.wrapper, str(self.program), *self.options]

    @property
    def identity(self) -> str:
        """The name it campaigns under; the lock of etcdctl knows none."""
        return self.name

    @property
    def guardian(self) -> int:
        """The pid of the program, wherever its wrapper has put it: it has no other parts."""
        root, name = self.process.pid, self.program.name[:_COMM_MAX]
        return wait_until(
            lambda: next((p for p in (root, *children_of(root)) if name_of(p) == name), 0),
            timeout_s=20,
            what=f"the program of {self.name}; log:\n{self.log[-2000:]}",
        )


class _Other(Competitor):
    """A program that is built from a module of `tests/competitors`."""

    module: ClassVar[str]
    package: ClassVar[str] = "."
    versioned: ClassVar[str] = "k8s.io/client-go"  # the package whose version is its own

    def __init__(self, candidates: KubeCandidates, *, in_pod: bool = False) -> None:
        super().__init__(candidates, in_pod=in_pod)
        self.program = program(self.module, self.package)

    @classmethod
    def version(cls) -> str:
        """Return the version that its module pins."""
        return _required(cls.module, cls.versioned)

    def _make(
        self,
        name: str,
        options: Sequence[str],
        how: How,
        *,
        separated: bool = True,
    ) -> OtherCandidate:
        """Return a candidate whose command stands behind `--`, or without it after the options."""
        child = how.get("child")
        command = child_command() if child is None else child
        candidates = self.candidates
        candidate = OtherCandidate(
            name=name,
            options=options if separated else [*options, *command],
            command=command if separated else (),
            directory=candidates.directory,
            env={**candidates.witness.env(name), **(how.get("env") or {})},
            wrapper=how.get("wrapper", ()),
            program=self.program,
        )
        candidates.by_name[name] = candidate
        return candidate

    def _common(self, name: str) -> list[str]:
        """Return the flags that both electors of this repository have."""
        candidates = self.candidates
        proxy = candidates.proxies.get(name)
        kubeconfig = candidates.plane.kubeconfig_for(
            token_file=candidates.token_path,
            namespace=candidates.namespace,
            server_url=proxy.url if proxy else None,
        )
        return [f"--kubeconfig={kubeconfig}", f"--election={_ELECTION}", f"--id={name}"]


class AwaitElection(_Other):
    """The nearest competitor."""

    name = AWAIT_ELECTION
    module = "k8s-await-election"
    package = "github.com/linbit/k8s-await-election"

    def make(self, name: str, *options: str, **how: Unpack[How]) -> Candidate:
        """Return a k8s-await-election; only the options of the timing can be told to it."""
        prefix = "K8S_AWAIT_ELECTION"
        env = {
            f"{prefix}_ENABLED": "1",
            f"{prefix}_NAME": _ELECTION,
            f"{prefix}_LOCK_NAME": _ELECTION,
            f"{prefix}_LOCK_NAMESPACE": self.candidates.namespace,
            f"{prefix}_IDENTITY": name,
        }
        for option in (*self.candidates.timing, *options):
            found = re.fullmatch(r"--(lease-duration|renew-deadline|retry-period)=(\d+)s", option)
            # What it cannot read as a whole number of seconds it would pass over in silence.
            assert found is not None, f"{self.name} cannot be told {option}"
            env[f"{prefix}_{found[1].replace('-', '_').upper()}"] = found[2]
        return self._make(name, (), self._how_in_pod(name, how, **env), separated=False)

    def stands_by(self, candidate: Candidate) -> bool:
        """Whether it has said who leads."""
        return "long live our new leader" in candidate.log

    @classmethod
    def version(cls) -> str:
        """Return both versions."""
        return f"{_required(cls.module, cls.package)} (client-go {super().version()})"


class ClientGo(_Other):
    """The elector of this repository that is as good as can be made with client-go."""

    name = CLIENT_GO
    module = "electors"

    def make(self, name: str, *options: str, **how: Unpack[How]) -> Candidate:
        """Return an elector; its flags of the timing have leaderexec's names."""
        candidates = self.candidates
        own = [f"--namespace={candidates.namespace}", *candidates.timing, "--again"]
        return self._make(name, ["clientgo", *self._common(name), *own, *options], how)


class Legacy2016(_Other):
    """The elector of 2016, on an annotation: give the election `hold_on("endpoints")`."""

    name = LEGACY_2016
    module = "electors"

    def make(self, name: str, *options: str, **how: Unpack[How]) -> Candidate:
        """Return an elector whose ttl is the lease duration of the election."""
        candidates = self.candidates
        own = [f"--election-namespace={candidates.namespace}", f"--ttl={candidates.lease_s:g}s"]
        return self._make(name, ["legacy2016", *self._common(name), *own, *options], how)

    @property
    def record(self) -> dict[str, Any]:
        """What the annotation on the Endpoints object says now."""
        path = f"/api/v1/namespaces/{self.candidates.namespace}/endpoints/{_ELECTION}"
        status, body = self.candidates.plane.request("GET", path)
        assert status == 200, body
        record: dict[str, Any] = json.loads(body["metadata"]["annotations"][ANNOTATION])
        return record


class EtcdctlLock(_Other):
    """A lock in etcd itself: no fault of the API server or of the way to it reaches it."""

    name = ETCDCTL
    proxied = False
    module = "etcdctl"
    package = versioned = "go.etcd.io/etcd/etcdctl/v3"

    def make(self, name: str, *options: str, **how: Unpack[How]) -> Candidate:
        """Return an etcdctl whose lock is the election's, on the etcd of the control plane."""
        assert name not in self.candidates.proxies, "etcdctl does not pass a proxy of the API"
        ttl = f"--ttl={self.candidates.lease_s:g}"
        endpoints = f"--endpoints={self.candidates.plane.etcd_url}"
        words = [endpoints, "lock", ttl, *options, self._lock]
        return self._make(name, words, how)

    def stands_by(self, candidate: Candidate) -> bool:
        """Whether there is a key for each candidate that lives; keys do not say whose they are.

        One that was just killed leaves its key behind for a while, and is taken for one here.
        """
        others = (c for c in self.candidates.by_name.values() if isinstance(c, OtherCandidate))
        living = sum(c.started and c.process.poll() is None for c in others)
        words = (f"--endpoints={self.candidates.plane.etcd_url}", "get", f"{self._lock}/")
        keys = subprocess.run(
            [self.program, *words, "--prefix", "--keys-only"],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout.split()
        return candidate.started and len(keys) >= living

    @property
    def _lock(self) -> str:
        return f"{self.candidates.namespace}/{_ELECTION}"


#: Those that are compared, in the order of the columns.
COMPETITORS: Final[Mapping[str, type[Competitor]]] = {
    each.name: each for each in (Leaderexec, AwaitElection, ClientGo, EtcdctlLock)
}
