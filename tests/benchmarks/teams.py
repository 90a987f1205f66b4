"""The makes that are measured beside each other: three candidates of each, in elections of its own.

Owns: starting a candidate of any make around the child of `Field`, as a pod would where it makes a
difference, and what of its processes is its own and what the child. As root only: a pod's
credentials and PID namespaces need it.
Must not know: what is measured.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.measured import AWAIT, CLIENT_GO, OURS
from tests.support.candidate import Candidate, in_pid_namespace, name_of, stop
from tests.support.controlplane import lease_path
from tests.support.field import CHILD, Field
from tests.support.kube_candidates import KubeCandidates
from tests.support.peers import Peers
from tests.support.rivals import Rival, Rivals
from tests.support.wait import wait_until
from tests.support.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from tests.support.controlplane import ControlPlane

MAKES: Final = (OURS, AWAIT, CLIENT_GO)
NAMES: Final = "abc"
#: client-go's defaults, which are ours too.
TIMING: Final = ("--lease-duration=15s", "--renew-deadline=10s", "--retry-period=2s")
LEASE_S: Final = 15.0
RETRY_S: Final = 2.0

_CHILD_NAME: Final = "sleep"
#: What each make says when it has seen that another leads.
_STANDS_BY: Final = {
    OURS: '"leader is ',
    CLIENT_GO: '"leader is ',
    AWAIT: "long live our new leader",
}


class PeerField(Field):
    """An election of another make, around the same child."""

    def __init__(self, plane: ControlPlane, directory: Path, make: str) -> None:
        super().__init__(plane, directory)
        # Nobody connects to this witness: it only names the candidates.
        candidates = KubeCandidates(Witness(directory / "nobody"), directory, plane, self.namespace)
        candidates.timing, candidates.lease_s = TIMING, LEASE_S
        self._make = make
        self._rivals = Rivals(candidates) if make == CLIENT_GO else None
        self._peers = Peers(candidates) if make != CLIENT_GO else None

    def candidate(
        self,
        name: str,
        *options: str,
        env: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> Candidate:
        """Return a candidate that is not started."""
        env = {**self.child_env(name), **(env or {})}
        if self._peers is not None:
            return self._peers.make(
                name, self._make, *options, child=CHILD, env=env, wrapper=wrapper
            )
        assert self._rivals is not None
        assert not wrapper, "the rival has no wrapper"
        rival = self._rivals.make(name, self._make, *options, child=CHILD)
        rival.env = {**rival.env, **env}
        return rival


class Death:
    """The instant at which a process dies, noted when it happens."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.at_s: float | None = None
        self._pidfd = os.pidfd_open(pid)
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        poll.poll()
        self.at_s = time.time()
        os.close(self._pidfd)

    def wait_s(self) -> float:
        """Wait for it and return the wall clock then."""
        return wait_until(lambda: self.at_s, timeout_s=60, what=f"{self.pid} is dead") or 0.0


class Asked(NamedTuple):
    """A leader to which something was done, when, and how many children had run by then."""

    leader: Candidate
    child: Death
    at_s: float
    starts: int
    restarted: bool = False


@dataclass
class Team:
    """The candidates of one make, each in the PID namespace of a container if `contained`."""

    make: str
    election: Field
    contained: bool
    candidates: dict[str, Candidate] = field(default_factory=dict)

    @classmethod
    def of(
        cls, make: str, plane: ControlPlane, directory: Path, *, contained: bool = False
    ) -> Team:
        """Return a team of which nobody is started."""
        directory = directory / make
        directory.mkdir(parents=True)
        election = Field(plane, directory) if make == OURS else PeerField(plane, directory, make)
        # The rival is one process that takes its child along as well as a container's end would.
        contained = contained and make != CLIENT_GO
        team = cls(make, election, contained)
        for name in NAMES:
            slot = {
                "POD_NAME": name,
                "POD_UID": str(uuid.uuid4()),
                "POD_NAMESPACE": election.namespace,
                "CONTAINER_NAME": "server",
            }
            team.candidates[name] = election.candidate(
                name,
                *(TIMING if make == OURS else ()),
                env=slot if contained else {},
                wrapper=in_pid_namespace() if contained else (),
            )
        return team

    def start_all(self) -> None:
        """Start them; return when one leads and the others have seen it."""
        first, *others = self.candidates.values()
        first.start()
        self.election.wait_starts(1)
        for candidate in others:
            self.stand_by(candidate)

    def stand_by(self, candidate: Candidate) -> None:
        """Start a candidate, anew if need be, and wait until it has seen who leads."""
        candidate.log_path.write_text("")
        candidate.start()
        wait_until(
            lambda: _STANDS_BY[self.make] in candidate.log,
            timeout_s=60,
            what=f"{candidate.name} stands by; log:\n{candidate.log[-2000:]}",
        )

    @property
    def leader(self) -> Candidate:
        """The candidate whose child was started last."""
        return self.candidates[self.election.starts()[-1].candidate]

    def end(self) -> None:
        """Kill whatever is left of them."""
        for candidate in self.candidates.values():
            if candidate.started:
                candidate.kill()

    def forget(self) -> None:
        """Delete the Lease, so that who comes next finds none; nobody may stand by."""
        self.election.plane.request("DELETE", lease_path(self.election.namespace, "x"))

    # --- what is done to a leader

    def ask_to_stop(self) -> Asked:
        """SIGTERM to the leader, as a pod's deletion sends it."""
        return self._act(lambda root, _: os.kill(root, signal.SIGTERM))

    def kill_wrapper(self) -> Asked:
        """SIGKILL to the leader, and to nothing that it has started."""
        assert not self.contained, "PID 1 takes everything along"
        return self._act(lambda root, _: os.kill(root, signal.SIGKILL))

    def kill_all(self) -> Asked:
        """Everything of the leader dies in one moment, as with its node."""
        assert self.contained or self.make == CLIENT_GO, "off PID 1 it would not be one moment"

        def kill_both(root: int, child: int) -> None:
            if not self.contained:
                stop(root)  # what it does at its child's end it does not do
                os.kill(child, signal.SIGKILL)
            os.kill(root, signal.SIGKILL)

        return self._act(kill_both)

    def restart_container(self) -> Asked:
        """The same, and it is started again at once under its name."""
        asked = self.kill_all()
        asked.leader.process.wait()
        asked.leader.log_path.write_text("")
        asked.leader.start()
        return asked._replace(restarted=True)

    def _act(self, act: Callable[[int, int], None]) -> Asked:
        leader = self.leader
        root, child = root_of(leader), Death(child_of(leader))
        starts = len(self.election.starts())
        at_s = time.time()
        act(root, child.pid)
        return Asked(leader, child, at_s, starts)

    def outcome(self, asked: Asked) -> Outcome:
        """Wait for the next child, and bring the old leader back as a standby."""
        start = self.election.wait_starts(asked.starts + 1)
        died_s = asked.child.at_s
        if died_s is None:  # it runs beside the new one, and would for ever
            os.kill(asked.child.pid, signal.SIGKILL)
            asked.child.wait_s()
        outcome = Outcome(
            ms=1000 * (start.at_s - asked.at_s),
            overlap_ms=None if died_s is None else max(0.0, 1000 * (died_s - start.at_s)),
            by_itself=start.candidate == asked.leader.name,
        )
        if not asked.restarted:
            asked.leader.wait()
            self.stand_by(asked.leader)
        return outcome


class Outcome(NamedTuple):
    """How long until the next child ran, and how long the old one ran beside it.

    `overlap_ms` is None when the old child was still there when the next one had long begun.
    `by_itself`: the next child is the same candidate's.
    """

    ms: float
    overlap_ms: float | None
    by_itself: bool


def root_of(candidate: Candidate) -> int:
    """Return the pid of the program itself, wherever its wrapper has put it."""
    return candidate.process.pid if isinstance(candidate, Rival) else candidate.guardian


def child_of(candidate: Candidate) -> int:
    """Return the pid of its child, waiting until there is one and it has become what it will be."""
    return wait_until(
        lambda: next((p for p in candidate.everything() if name_of(p) == _CHILD_NAME), 0),
        timeout_s=20,
        what=f"the child of {candidate.name}",
    )


def own_processes(candidate: Candidate) -> list[int]:
    """Return the pids of what is not its child: the program's own, without what started it."""
    everything = candidate.everything()
    return [p for p in everything if name_of(p) not in {_CHILD_NAME, "bash", "unshare", "sh"}]


def in_turn(teams: Sequence[Team], round_: int) -> list[Team]:
    """Return the teams in the order of a round: each is first as often as any other."""
    first = round_ % len(teams)
    return [*teams[first:], *teams[:first]]
