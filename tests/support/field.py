"""Candidates on a real Lease around a shell that writes down when it began to run, and whose it is.

Owns one election of a benchmark: the credentials, as a pod has them where that is possible (root),
the candidates, and the stamps of their children. No witness: where hundreds stand by, or where
milliseconds count, a judge would be in the way.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from tests.support.candidate import Candidate, in_cluster
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.support.controlplane import ControlPlane

#: The child of every candidate; it needs STAMPS and CANDIDATE in its environment.
CHILD = ("/bin/bash", "-c", 'echo "$$ $EPOCHREALTIME $CANDIDATE" >> "$STAMPS"; exec sleep infinity')


class Start(NamedTuple):
    """A child began to run: the pid that it has for itself, the wall clock, whose child it is."""

    pid: int
    at_s: float
    candidate: str


class Field:
    """Candidates of one election, `x` in a namespace of its own, under one ServiceAccount."""

    account = "bench"

    def __init__(self, plane: ControlPlane, directory: Path) -> None:
        self.plane = plane
        self.directory = directory
        self.namespace = plane.create_namespace()
        plane.service_account(self.namespace, self.account)
        plane.grant(self.namespace, self.account, "x")
        self.token = plane.token(self.namespace, self.account)
        self.stamps = directory / "stamps"
        self.stamps.touch()
        self._secrets = directory / "secrets"

    def candidate(
        self,
        name: str,
        *options: str,
        env: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> Candidate:
        """Return a candidate that is not started."""
        env = {**self.child_env(name), **(env or {})}
        options = ("--election=x", *options)
        if os.geteuid() == 0:
            if not self._secrets.exists():
                self.plane.incluster(self._secrets, self.token, self.namespace)
            wrapper = (*wrapper, *in_cluster(self._secrets))
            env |= {
                "KUBERNETES_SERVICE_HOST": "127.0.0.1",
                "KUBERNETES_SERVICE_PORT": str(self.plane.port),
            }
        else:
            kubeconfig = self.plane.kubeconfig_for(self.token, namespace=self.namespace)
            options = (*options, f"--kubeconfig={kubeconfig}")
        return Candidate(name, options, CHILD, self.directory, env, wrapper)

    def child_env(self, name: str) -> dict[str, str]:
        """Return what the child of a candidate of that name must be told."""
        return {"STAMPS": str(self.stamps), "CANDIDATE": name}

    def starts(self) -> list[Start]:
        """Return every start of a child, in their order."""
        words = (line.split() for line in self.stamps.read_text().splitlines())
        return [Start(int(pid), float(stamp), candidate) for pid, stamp, candidate in words]

    def wait_starts(self, count: int) -> Start:
        """Wait for the start number `count` and return the last one."""
        wait_until(lambda: len(self.starts()) >= count, timeout_s=60, what=f"{count} starts")
        return self.starts()[-1]
