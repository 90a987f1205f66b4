"""The contestants of the matrix: how each is started, and where its parts are.

Owns: the differences between makes that a fault must not care about; one object for each make
and cell. Must not know: any fault.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

import leaderexec
from tests.matrix.model import AWAIT_ELECTION, CLIENT_GO, ETCDCTL, OURS
from tests.support import peers, rivals
from tests.support.peers import Peer, Peers
from tests.support.rivals import Rivals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Unpack

    from tests.support.candidate import Candidate
    from tests.support.candidates import How
    from tests.support.kube_candidates import KubeCandidates

_STANDING_S: Final = 60.0


class Contestant(Protocol):
    """One make in one election. `proxied` says whether it speaks to the API server."""

    name: ClassVar[str]
    proxied: ClassVar[bool]

    def start(self, name: str, *options: str, **how: Unpack[How]) -> Candidate:
        """Start a candidate in the election, behind its proxy if there is one for it."""

    def wait_standing(self, candidate: Candidate) -> None:
        """Wait until a candidate has seen the lock and waits for it; raise AssertionError."""

    def wrapper_pid(self, candidate: Candidate) -> int:
        """Return the pid of the process that wraps the child and would be signalled."""


class Leaderexec:
    """Ours."""

    name: ClassVar[str] = OURS
    proxied: ClassVar[bool] = True

    def __init__(self, candidates: KubeCandidates) -> None:
        self._candidates = candidates

    def start(self, name: str, *options: str, **how: Unpack[How]) -> Candidate:
        """Start leaderexec with the pod's credentials."""
        return self._candidates.start(name, *options, **how)

    def wait_standing(self, candidate: Candidate) -> None:
        """Wait until its watch is open: from then on it is told of whatever happens."""
        proxy = self._candidates.proxy(candidate.name)
        proxy.wait_counter("watches_open", 1, timeout_s=_STANDING_S)

    def wrapper_pid(self, candidate: Candidate) -> int:
        """Return the guardian."""
        return candidate.guardian


class ClientGo:
    """The rival that is as good as can be made with client-go: it campaigns again after a loss."""

    name: ClassVar[str] = CLIENT_GO
    proxied: ClassVar[bool] = True

    def __init__(self, candidates: KubeCandidates) -> None:
        self._candidates = candidates
        self._rivals = Rivals(candidates)

    def start(self, name: str, *options: str, **how: Unpack[How]) -> Candidate:
        """Start the rival with an account of its own, as it is: it reads no variables."""
        return self._rivals.start(name, "clientgo", "--again", *options, child=how.get("child"))

    def wait_standing(self, candidate: Candidate) -> None:
        """Wait until it has read the lock and found it taken."""
        proxy = self._candidates.proxy(candidate.name)
        proxy.wait_counter("replied", 1, timeout_s=_STANDING_S)

    def wrapper_pid(self, candidate: Candidate) -> int:
        """Return its process."""
        return candidate.process.pid


class _Peer:
    """A program that others made; see `tests.support.peers` for what each does."""

    name: ClassVar[str]
    proxied: ClassVar[bool]
    _make: ClassVar[str]

    def __init__(self, candidates: KubeCandidates) -> None:
        self._peers = Peers(candidates)

    def start(self, name: str, *options: str, **how: Unpack[How]) -> Candidate:
        """Start the peer with an account of its own."""
        return self._peers.start(name, self._make, *options, **how)

    def wait_standing(self, candidate: Candidate) -> None:
        """Wait until it has found the lock taken."""
        assert isinstance(candidate, Peer)
        self._peers.wait_standing(candidate, timeout_s=_STANDING_S)

    def wrapper_pid(self, candidate: Candidate) -> int:
        """Return its process."""
        return candidate.guardian


class AwaitElection(_Peer):
    """The nearest peer."""

    name = AWAIT_ELECTION
    proxied = True
    _make = "k8s-await-election"


class EtcdctlLock(_Peer):
    """A lock in etcd itself: no fault of the API server or of the way to it reaches it."""

    name = ETCDCTL
    proxied = False
    _make = "etcdctl"


MAKES: Final[Mapping[str, Callable[[KubeCandidates], Contestant]]] = {
    OURS: Leaderexec,
    AWAIT_ELECTION: AwaitElection,
    CLIENT_GO: ClientGo,
    ETCDCTL: EtcdctlLock,
}


def versions() -> dict[str, str]:
    """Return the version of each contestant."""
    go_mod = (rivals.MODULE / "go.mod").read_text()
    found = re.search(r"k8s\.io/client-go (v\S+)", go_mod)
    assert found is not None, "the rivals do not use client-go"
    return {
        OURS: leaderexec.__version__,
        AWAIT_ELECTION: peers.version("k8s-await-election"),
        CLIENT_GO: found[1],
        ETCDCTL: peers.version("etcdctl"),
    }
