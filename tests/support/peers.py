"""Peers: programs that others made and ship for what leaderexec does, in elections of the tests.

Owns: how they are had (each pinned by a module of its own under `tests/peers`, with its own
versions of everything, and built once into the cache of the control plane's programs), what they
may do in the API, and starting them in the election of a `KubeCandidates`, around a test child.
Must not know: what leaderexec promises. Which tree ran when is the witness's to say.

Each is one process with its child below it, and has rules of its own:

`k8s-await-election`  client-go's elector on the Lease, with the credentials of a pod (root only)
                      and a proxy where the election has one for it. It needs the rights that ours
                      need and no others: it writes no events, and Endpoints only where it is to
                      route a Service. No signal is handled: asked to stop it dies at once, its
                      child lives on, the lock is not given back. When no renewal succeeds within
                      the renew deadline it kills its child, without asking it, and exits with 1;
                      but if the lock could still be read then, it first tries to give it back,
                      which nothing bounds: while that write hangs, the child runs. It also exits
                      with 1 when its child failed in any way.
`etcdctl`             `etcdctl lock` on the etcd of the control plane, with no proxy: faults of the
                      API do not reach it, those of etcd and of its own process do. Asked to stop
                      it does nothing while its child runs, and the child is not told. That the
                      lock is lost it does not notice. It exits with its child's code, or with 255
                      when that died by a signal; a standby that is asked to stop exits with 1.

Killed they leave their child alive, unless they are PID 1: give `in_pid_namespace()` as `wrapper`
for what a container does.
"""

from __future__ import annotations

import functools
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.candidate import (
    Candidate,
    child_command,
    children_of,
    in_cluster,
    kill,
    name_of,
)
from tests.support.controlplane import GoProgram, Unavailable
from tests.support.required import missing
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Unpack

    from tests.support.candidates import How
    from tests.support.kube_candidates import KubeCandidates
    from tests.support.witness import Tree

#: The makes, and the main package of each, which is also the name of its module.
PACKAGES: Final = {
    "k8s-await-election": "github.com/linbit/k8s-await-election",
    "etcdctl": "go.etcd.io/etcd/etcdctl/v3",
}
MAKES: Final = tuple(PACKAGES)

_MODULES: Final = Path(__file__).resolve().parents[1] / "peers"
_ACCOUNT: Final = "peer"
_ELECTION: Final = "x"  # as KubeCandidates's
_COMM_MAX: Final = 15  # the kernel keeps no more of a name
_ETCDCTL_TIMEOUT_S: Final = 60


def program(make: str) -> Path:
    """Return the path of the program; the first call on a machine builds it, which takes minutes.

    Where it cannot be built the test that calls this is skipped, or fails if
    `LEADEREXEC_REQUIRE_KUBE=1`.
    """
    built = _built(make)
    return built if isinstance(built, Path) else missing(make, built)


@functools.cache
def _built(make: str) -> Path | Unavailable:
    # A failure is kept too: it may have taken as long as a success.
    try:
        return GoProgram(_MODULES / make, package=PACKAGES[make]).build()
    except Unavailable as reason:
        return reason


def version(make: str) -> str:
    """Return the version that is built, as its go.mod pins it."""
    return _required(make, PACKAGES[make])


def description(make: str) -> str:
    """Return what a report calls a make: its name, its version, that of the elector in it."""
    if make == "etcdctl":
        return f"etcdctl lock {version(make)}"
    return f"{make} {version(make)} (client-go {_required(make, 'k8s.io/client-go')})"


def _required(make: str, module: str) -> str:
    go_mod = (_MODULES / make / "go.mod").read_text()
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", go_mod, re.MULTILINE)
    assert found is not None, f"{make}'s go.mod does not require {module}"
    return found[1]


@dataclass
class Peer(Candidate):
    """One candidate of a peer's make."""

    make: str = MAKES[0]

    def argv(self) -> list[str]:
        """Return how it is started, as far as its command."""
        return [*self.wrapper, str(program(self.make)), *self.options]

    @property
    def identity(self) -> str:
        """The name it campaigns under; the lock of etcdctl knows none."""
        return self.name

    @property
    def guardian(self) -> int:
        """The pid of the program: it has no other parts."""
        root = self.process.pid
        return wait_until(
            lambda: next(
                (p for p in (root, *children_of(root)) if name_of(p) == self.make[:_COMM_MAX]), 0
            ),
            timeout_s=20,
            what=f"the program of {self.name}; log:\n{self.log[-2000:]}",
        )

    @property
    def child(self) -> int:
        """The pid of its child, waiting until there is one."""
        guardian = self.guardian
        return wait_until(
            lambda: next(iter(children_of(guardian)), 0),
            timeout_s=20,
            what=f"the child of {self.name}; log:\n{self.log[-2000:]}",
        )

    def kill_alone(self) -> None:
        """Kill the program and not its child; wait until it is dead."""
        kill(self.guardian)
        self.process.wait()


class Peers:
    """The candidates of peers' makes in the election of a test, ended with leaderexec's own.

    They have an account of their own, with the rights to the Lease that ours have. Their timing is
    leaderexec's: `candidates.timing` for k8s-await-election, `lease_s` as the ttl of etcdctl.
    Options that a test gives come last, and the last one counts: for k8s-await-election, which has
    no options, the three of the timing, which become its environment; for etcdctl its own.
    Making this builds the programs, or skips the test.
    """

    def __init__(self, candidates: KubeCandidates) -> None:
        for make in MAKES:
            program(make)
        self.candidates = candidates
        candidates.plane.service_account(candidates.namespace, _ACCOUNT)
        candidates.plane.grant(candidates.namespace, _ACCOUNT, _ELECTION)
        self._token = candidates.plane.token(candidates.namespace, _ACCOUNT)

    def make(self, name: str, make: str, *options: str, **how: Unpack[How]) -> Peer:
        """Return a peer that is not started; its identity is its name."""
        child = how.get("child")
        command = child_command() if child is None else child
        env = {**self.candidates.witness.env(name), **(how.get("env") or {})}
        wrapper = how.get("wrapper", ())
        if make == "etcdctl":
            peer = self._etcdctl(name, options, command, env, wrapper)
        else:
            peer = self._await_election(name, options, command, env, wrapper)
        self.candidates.by_name[name] = peer
        return peer

    def start(self, name: str, make: str, *options: str, **how: Unpack[How]) -> Peer:
        """Make a peer and start it."""
        return self.make(name, make, *options, **how).start()

    def start_leader(
        self, name: str, make: str, *options: str, **how: Unpack[How]
    ) -> tuple[Peer, Tree]:
        """Start a peer and wait until the witness sees its tree, ready."""
        peer = self.start(name, make, *options, **how)
        (tree,) = self.candidates.witness.wait_running(1, name, timeout_s=20)
        self.candidates.witness.wait_note("ready", name)
        return peer, tree

    def start_standby(self, name: str, make: str, *options: str, **how: Unpack[How]) -> Peer:
        """Start a peer and wait until it stands by."""
        peer = self.start(name, make, *options, **how)
        self.wait_standing(peer)
        return peer

    def wait_standing(self, peer: Peer, *, timeout_s: float = 20) -> None:
        """Wait until a peer has found the lock taken by a leader of its make, and waits for it.

        The keys in etcd do not say whose they are, so there must be one for each peer that lives;
        one that was just killed leaves its key behind for a while, and is taken for a peer here.
        """
        others = (c for c in self.candidates.by_name.values() if isinstance(c, Peer) and c.started)
        living = sum(c.make == "etcdctl" and c.process.poll() is None for c in others)
        wait_until(
            lambda: (
                len(self.queue()) >= living
                if peer.make == "etcdctl"
                else "long live our new leader" in peer.log
            ),
            timeout_s=timeout_s,
            what=f"{peer.name} stands by; log:\n{peer.log[-2000:]}",
        )

    def _await_election(
        self,
        name: str,
        options: Sequence[str],
        command: Sequence[str],
        env: Mapping[str, str],
        wrapper: Sequence[str],
    ) -> Peer:
        candidates = self.candidates
        secrets = candidates.plane.incluster(
            candidates.directory / f"secrets-{name}", self._token, candidates.namespace
        )
        proxy = candidates.proxies.get(name)
        prefix = "K8S_AWAIT_ELECTION"
        return Peer(
            name=name,
            options=command,  # it has none of its own, and does not know `--`
            command=(),
            directory=candidates.directory,
            env={
                "KUBERNETES_SERVICE_HOST": "127.0.0.1",
                "KUBERNETES_SERVICE_PORT": str(proxy.port if proxy else candidates.plane.port),
                f"{prefix}_ENABLED": "1",
                f"{prefix}_NAME": _ELECTION,
                f"{prefix}_LOCK_NAME": _ELECTION,
                f"{prefix}_LOCK_NAMESPACE": candidates.namespace,
                f"{prefix}_IDENTITY": name,
                **dict(_as_variable(prefix, option) for option in (*candidates.timing, *options)),
                **env,
            },
            wrapper=(*wrapper, *in_cluster(secrets)),
            make="k8s-await-election",
        )

    # --- etcd

    @property
    def lock_name(self) -> str:
        """The name of the lock in etcd, which all tests share."""
        return f"{self.candidates.namespace}/{_ELECTION}"

    def etcdctl(self, *arguments: str) -> str:
        """Run an etcdctl of the tests' own and return what it printed."""
        return subprocess.run(
            [program("etcdctl"), self._endpoints(), *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=_ETCDCTL_TIMEOUT_S,
        ).stdout

    def queue(self) -> list[str]:
        """Return the keys of those who hold the lock or wait for it: the first one holds it."""
        keys = ("--prefix", "--keys-only", "--sort-by=CREATE")
        return self.etcdctl("get", f"{self.lock_name}/", *keys).split()

    def _endpoints(self) -> str:
        flag = "--advertise-client-urls="
        urls = (
            word.removeprefix(flag) for word in self.candidates.plane.etcd._argv if flag in word
        )
        return f"--endpoints={next(urls)}"

    def _etcdctl(
        self,
        name: str,
        options: Sequence[str],
        command: Sequence[str],
        env: Mapping[str, str],
        wrapper: Sequence[str],
    ) -> Peer:
        assert name not in self.candidates.proxies, "etcdctl does not pass a proxy of the API"
        ttl = f"--ttl={self.candidates.lease_s:g}"
        return Peer(
            name=name,
            options=[self._endpoints(), "lock", ttl, *options, self.lock_name],
            command=command,
            directory=self.candidates.directory,
            env=env,
            wrapper=wrapper,
            make="etcdctl",
        )


def _as_variable(prefix: str, option: str) -> tuple[str, str]:
    """Return the variable that says what a flag such as `--lease-duration=8s` says."""
    found = re.fullmatch(r"--(lease-duration|renew-deadline|retry-period)=(\d+)s", option)
    # What it cannot read as a whole number of seconds it would pass over in silence.
    assert found is not None, f"k8s-await-election cannot be told {option}"
    return f"{prefix}_{found[1].replace('-', '_').upper()}", found[2]
