"""An election whose children write down when they began to run, and whose they are.

Owns one election of a benchmark: the candidates of one competitor, and the stamps of their
children. No witness: where hundreds stand by, or where milliseconds count, a judge would be in the
way.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from tests.support.competitors import COMPETITORS, OURS
from tests.support.controlplane import lease_path, service_account_user
from tests.support.kube_candidates import KubeCandidates
from tests.support.wait import wait_until
from tests.support.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.support.candidate import Candidate
    from tests.support.controlplane import ControlPlane, Request

#: client-go's defaults, which are leaderexec's too.
TIMING = ("--lease-duration=15s", "--renew-deadline=10s", "--retry-period=2s")
LEASE_S = 15.0
RETRY_S = 2.0

#: The child of every candidate; it needs STAMPS and CANDIDATE in its environment.
CHILD = ("/bin/bash", "-c", 'echo "$$ $EPOCHREALTIME $CANDIDATE" >> "$STAMPS"; exec sleep infinity')


class Start(NamedTuple):
    """A child began to run: the pid that it has for itself, the wall clock, whose child it is."""

    pid: int
    at_s: float
    candidate: str


class Election:
    """Candidates of one competitor at the default timing; with a pod's credentials as root."""

    def __init__(self, plane: ControlPlane, directory: Path, competitor: str = OURS) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.plane = plane
        self.namespace = plane.create_namespace()
        # Nobody connects to this witness: it only names the candidates.
        witness = Witness(directory / "nobody")
        self.candidates = KubeCandidates(witness, directory, plane, self.namespace)
        self.candidates.timing, self.candidates.lease_s = TIMING, LEASE_S
        self.competitor = COMPETITORS[competitor](self.candidates, in_pod=os.geteuid() == 0)
        self.stamps = directory / "stamps"
        self.stamps.touch()

    @property
    def name(self) -> str:
        """The competitor's."""
        return self.competitor.name

    def make(
        self,
        name: str,
        *options: str,
        env: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> Candidate:
        """Return a candidate that is not started."""
        if self.name == OURS:
            options = ("--log-level=info", *options)  # a test's says more
        stamped = {"STAMPS": str(self.stamps), "CANDIDATE": name, **(env or {})}
        return self.competitor.make(name, *options, child=CHILD, env=stamped, wrapper=wrapper)

    def lead(self, candidate: Candidate) -> Start:
        """Start a candidate, and wait until its child runs."""
        count = len(self.starts())
        candidate.start()
        return self.wait_starts(count + 1)

    def stand_by(self, candidate: Candidate) -> None:
        """Start a candidate, anew if need be, and wait until it has seen who leads."""
        candidate.log_path.write_text("")
        self.competitor.wait_standing(candidate.start())

    @property
    def leader(self) -> Candidate:
        """The candidate whose child was started last."""
        return self.candidates.by_name[self.starts()[-1].candidate]

    def starts(self) -> list[Start]:
        """Return every start of a child, in their order."""
        words = (line.split() for line in self.stamps.read_text().splitlines())
        return [Start(int(pid), float(stamp), candidate) for pid, stamp, candidate in words]

    def wait_starts(self, count: int) -> Start:
        """Wait for the start number `count` and return the last one."""
        wait_until(lambda: len(self.starts()) >= count, timeout_s=60, what=f"{count} starts")
        return self.starts()[-1]

    def requests(self) -> list[Request]:
        """Return what these candidates have asked of the API server about the Lease."""
        user = service_account_user(self.namespace, self.candidates.account)
        return [r for r in self.plane.requests(self.namespace, "x") if r.user == user]

    def forget(self) -> None:
        """Delete the Lease, so that who comes next finds none; nobody may stand by."""
        self.plane.request("DELETE", lease_path(self.namespace, "x"))

    def end(self) -> None:
        """Kill whatever is left of the candidates."""
        for candidate in self.candidates.by_name.values():
            candidate.kill()
