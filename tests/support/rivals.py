"""Candidates of other makes, for elections in which leaderexec is not alone.

Owns: how their program is had (built from the Go module in `tests/rivals`, once, into the cache of
the control plane's programs), what they may do in the API, and starting them in the election of a
`KubeCandidates`, around a test child, with a proxy where the election has one for them.
Must not know: what leaderexec promises. Which tree ran when is the witness's to say.

The makes keep their own rules only, with what is wrong with them:

`clientgo`     client-go's elector on the Lease, as good a peer as can be made with it. Asked to
               stop it stops its child (SIGTERM, after five seconds SIGKILL), then gives the lock
               back. It kills its child when no reply to a renewal came within the renew deadline.
               Then it exits with 1, or with `--again` campaigns again.
`legacy2016`   the leader-elector of 2016, on the annotation of an Endpoints object. It never gives
               the lock back, judges by its own `--ttl`, and kills its child half of that after its
               last renewal, even if it has read long before that the lock is another's. Nothing
               bounds its requests: in a black hole it hangs, and its child runs. It campaigns for
               ever.

Both exit with 143 when they were asked to stop, and with their child's code when that ended by
itself. Both kill their direct child alone, so a test child must not spawn; and when they are killed
themselves, their child lives on.
"""

from __future__ import annotations

import functools
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.candidate import Candidate, child_command
from tests.support.controlplane import GoProgram, Unavailable
from tests.support.required import missing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.kube_candidates import KubeCandidates
    from tests.support.witness import Tree

MAKES: Final = ("clientgo", "legacy2016")
MODULE: Final = Path(__file__).resolve().parents[1] / "rivals"
#: What the legacy make reads and writes.
ANNOTATION: Final = "control-plane.alpha.kubernetes.io/leader"

_ACCOUNT: Final = "rival"
_ELECTION: Final = "x"  # as KubeCandidates's


def endpoints_path(namespace: str, name: str | None = None) -> str:
    """Return the path of an Endpoints object, or of all those of a namespace."""
    path = f"/api/v1/namespaces/{namespace}/endpoints"
    return f"{path}/{name}" if name else path


def program() -> Path:
    """Return the path of the program; the first call on a machine builds it, which takes minutes.

    Where it cannot be built the test that calls this is skipped, or fails if
    `LEADEREXEC_REQUIRE_KUBE=1`.
    """
    built = _built()
    return built if isinstance(built, Path) else missing("rivals", built)


@functools.cache
def _built() -> Path | Unavailable:
    # A failure is kept too: it may have taken as long as a success.
    try:
        return GoProgram(MODULE).build()
    except Unavailable as reason:
        return reason


@dataclass
class Rival(Candidate):
    """One candidate of another make: a single process, with the child below it."""

    make: str = MAKES[0]

    def argv(self) -> list[str]:
        """Return how it is started: the program, its make, what it is told."""
        return [str(program()), self.make, *self.options]

    def signal(self, signum: int) -> None:
        """Signal it, and not its child."""
        self.process.send_signal(signum)

    def kill_alone(self) -> None:
        """Kill it and let its child live, as its make does; wait until it is dead."""
        self.signal(signal.SIGKILL)
        self.process.wait()


class Rivals:
    """The candidates of other makes in the election of a test, ended with leaderexec's own.

    They have an account of their own, with the rights to the Lease and the Endpoints that ours have
    to their lock. Their timing is leaderexec's: `candidates.timing` for clientgo, whose flags
    have the same names, and `lease_s` as the ttl of legacy2016. Options that a test gives come
    last, and the last one counts. Making this builds the program, or skips the test.
    """

    def __init__(self, candidates: KubeCandidates) -> None:
        program()
        self.candidates = candidates
        self._token_path = candidates.directory / "rival-token"
        candidates.plane.service_account(candidates.namespace, _ACCOUNT)
        for resource in ("leases", "endpoints"):
            candidates.plane.grant(candidates.namespace, _ACCOUNT, _ELECTION, resource=resource)
        self._token_path.write_text(candidates.plane.token(candidates.namespace, _ACCOUNT))

    def make(
        self, name: str, make: str, *options: str, child: Sequence[str] | None = None
    ) -> Rival:
        """Return a rival that is not started; its identity is its name."""
        proxy = self.candidates.proxies.get(name)
        kubeconfig = self.candidates.plane.kubeconfig_for(
            token_file=self._token_path,
            namespace=self.candidates.namespace,
            server_url=proxy.url if proxy else None,
        )
        own = {
            "clientgo": [f"--namespace={self.candidates.namespace}", *self.candidates.timing],
            "legacy2016": [
                f"--election-namespace={self.candidates.namespace}",
                f"--ttl={self.candidates.lease_s:g}s",
            ],
        }
        common = [f"--kubeconfig={kubeconfig}", f"--election={_ELECTION}", f"--id={name}"]
        rival = Rival(
            name=name,
            options=[*common, *own[make], *options],
            command=child_command() if child is None else child,
            directory=self.candidates.directory,
            env=self.candidates.witness.env(name),
            make=make,
        )
        self.candidates.by_name[name] = rival
        return rival

    def start(
        self, name: str, make: str, *options: str, child: Sequence[str] | None = None
    ) -> Rival:
        """Make a rival and start it."""
        return self.make(name, make, *options, child=child).start()

    def start_leader(
        self, name: str, make: str, *options: str, child: Sequence[str] | None = None
    ) -> tuple[Rival, Tree]:
        """Start a rival and wait until the witness sees its tree, ready."""
        rival = self.start(name, make, *options, child=child)
        (tree,) = self.candidates.witness.wait_running(1, name, timeout_s=20)
        self.candidates.witness.wait_note("ready", name)
        return rival, tree

    def start_standby(
        self,
        name: str,
        make: str,
        *options: str,
        leader: str,
        child: Sequence[str] | None = None,
    ) -> Rival:
        """Start a rival and wait until it has seen that the identity `leader` leads."""
        rival = self.start(name, make, *options, child=child)
        rival.wait_event(f"leader is {leader}")
        return rival

    # --- the object of the legacy make

    @property
    def annotation(self) -> str:
        """The record on the Endpoints object, as it is now and as it stands there."""
        path = endpoints_path(self.candidates.namespace, _ELECTION)
        status, body = self.candidates.plane.request("GET", path)
        assert status == 200, body
        return str(body["metadata"]["annotations"][ANNOTATION])
