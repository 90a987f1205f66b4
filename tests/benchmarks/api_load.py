"""Measures what very many standbys cost the API server: `python -m tests.benchmarks.api_load`.

A real leaderexec leads and renews all the time. Beside it, in turn: nobody; a thousand standbys as
leaderexec's are, each with a watch (`tests.benchmarks.watchers`); a thousand electors of client-go,
each asking every retry period times 1 to 2.2 (`tests/competitors/electors/standbys.go`). It counts
what kube-apiserver and etcd take over what they take in a window with nobody.

The audit log of the tests is off, since each request would be a line in it. All standbys share a
token, which the server remembers: in a cluster those that ask often would cost it a little more.
"""

from __future__ import annotations

import contextlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks.harness import let_pass, ratio, rounded, run
from tests.measured import table
from tests.support.competitors import OURS, ClientGo, OtherCandidate, program
from tests.support.election import RETRY_S, Election
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.controlplane import ControlPlane

IDLE, WATCHES, POLLS = "idle", "watches", "polls"
_SERVERS: Final = (
    ("kube-apiserver, of one processor", "apiserver_percent", "%"),
    ("etcd, of one processor", "etcd_percent", "%"),
    ("memory in use of kube-apiserver", "apiserver_live_mib", "MiB"),
)
_POLL_S: Final = 1.6 * RETRY_S  # the mean of what client-go waits
_PROCESSES: Final = 4  # a thousand threads in one would wait for each other
_START_S: Final = 240
_SETTLE_S: Final = 8
#: So much of what is to be expected must have come: else there was another load than is said.
_ENOUGH: Final = 0.9


def _said(load: Sequence[OtherCandidate]) -> list[int]:
    """Return the sums of the last numbers that each has said, none before all have."""
    lines = []
    for each in load:
        assert each.process.poll() is None, each.log[-2000:]
        lines.append(each.output.rpartition("\n")[0].rpartition("\n")[2].split())
    return [sum(map(int, column)) for column in zip(*lines, strict=True)] if all(lines) else []


class Stage:
    """A control plane with one leader, and what comes to stand by beside it."""

    def __init__(self, plane: ControlPlane, directory: Path, count: int) -> None:
        self.plane = plane
        self.directory = directory
        self.count = count
        self.election = Election(plane, directory / "election")
        self.election.lead(self.election.make("leader"))
        kubeconfig = plane.kubeconfig_for(
            token_file=self.election.candidates.token_path, namespace=self.election.namespace
        )
        namespace = f"--namespace={self.election.namespace}"
        self._flags = (f"--kubeconfig={kubeconfig}", namespace, "--election=x")

    @contextlib.contextmanager
    def _load(self, phase: str) -> Iterator[Sequence[OtherCandidate]]:
        """Start the standbys of a phase, and wait until all are there; they end with this."""
        commands = []
        if phase == WATCHES:
            words = ["-m", "tests.benchmarks.watchers", *self._flags]
            shares = (len(range(n, self.count, _PROCESSES)) for n in range(_PROCESSES))
            commands = [(Path(sys.executable), [*words, f"--count={n}"]) for n in shares if n]
        elif phase == POLLS:
            words = ["standbys", *self._flags, f"--count={self.count}"]
            commands = [(program(ClientGo.module), words)]
        directory = Path(tempfile.mkdtemp(dir=self.directory))
        load = []
        for number, (file, words) in enumerate(commands):
            # They run until the end of their standard input.
            one = OtherCandidate(f"{number}", words, (), directory, stdin=subprocess.PIPE)
            one.program = file
            load.append(one.start())
        # A watch is open, or everybody has asked twice.
        enough = {IDLE: 0, WATCHES: self.count, POLLS: 2 * self.count}[phase]
        wait_until(
            lambda: (_said(load) or [0])[0] >= enough,
            timeout_s=_START_S,
            what=f"{self.count} standbys are there",
        )
        try:
            yield load
        finally:
            for each in load:
                each.process.kill()  # its connections end all at once
                each.process.communicate()

    def measure(self, phase: str, window_s: float) -> dict[str, float]:
        """Return what the servers took in a window of a phase."""
        servers = {"apiserver_percent": self.plane.apiserver, "etcd_percent": self.plane.etcd}
        with self._load(phase) as load:
            let_pass(_SETTLE_S)
            before = {key: server.cpu_s() for key, server in servers.items()}
            said_before, since_s = _said(load), time.monotonic()
            let_pass(window_s)
            took_s = time.monotonic() - since_s
            took = {key: server.cpu_s() - before[key] for key, server in servers.items()}
            said = [now - then for now, then in zip(_said(load), said_before, strict=True)]
            found = {key: 100 * cpu_s / took_s for key, cpu_s in took.items()}
            found["apiserver_live_mib"] = self._live_mib()
            if phase != IDLE:
                # Of watches it is the events that were received, of polls the requests.
                *_, done, failed = said
                expected = self.count * took_s / (RETRY_S if phase == WATCHES else _POLL_S)
                assert done >= _ENOUGH * expected, f"{done} {phase}, not {expected:.0f}"
                assert failed <= (1 - _ENOUGH) * self.count, f"{failed} failures"
                found["done_per_s"] = done / took_s
        assert len(self.election.starts()) == 1, "the leader has changed"
        print(json.dumps({"phase": phase, **found}), flush=True)
        return found

    def _live_mib(self) -> float:
        """Return the memory of kube-apiserver that is in use: live objects, and stacks.

        What it has got from the kernel is about twice that, and does not shrink from one phase to
        the next. The heap is collected when it has grown by as much as it and the stacks had.
        """
        status, body = self.plane.request("GET", "/metrics")
        assert status == HTTPStatus.OK, body
        found = re.findall(
            r"^go_memstats_(?:next_gc|stack_inuse)_bytes (\S+)", body["message"], re.MULTILINE
        )
        return sum(map(float, found)) / 2 / 2**20


def _without_audit(directory: Path) -> list[str]:
    policy = directory / "no-audit.yaml"
    policy.write_text("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None}]\n")
    return [f"--audit-policy-file={policy}"]


def measure(plane: ControlPlane, directory: Path, options: Any) -> str:
    """Tell what watches and polls cost over what nobody does, in means of several windows."""
    stage = Stage(plane, directory, options.count)
    found: dict[str, list[dict[str, float]]] = {IDLE: [], WATCHES: [], POLLS: []}
    try:
        for number in range(options.rounds):
            pair = (WATCHES, POLLS) if number % 2 == 0 else (POLLS, WATCHES)
            for phase in (IDLE, *pair):
                found[phase].append(stage.measure(phase, options.window))
        found[IDLE].append(stage.measure(IDLE, options.window))
    finally:
        stage.election.end()

    def mean(phase: str, key: str) -> float:
        return statistics.fmean(window[key] for window in found[phase])

    rows = []
    for what, key, unit in _SERVERS:
        watches, polls = (mean(phase, key) - mean(IDLE, key) for phase in (WATCHES, POLLS))
        rows.append((what, f"{watches:+.1f} {unit}", f"{polls:+.1f} {unit}", ratio(watches, polls)))
    asked = rounded(mean(POLLS, "done_per_s"))
    rows.append(("requests per second", "a new watch now and then", asked, ""))
    head = (
        "Over what the leader alone costs",
        f"{options.count:,} standbys of {OURS}: watches",
        f"{options.count:,} of client-go: polls",
        "watches to polls",
    )
    return (
        f"{table(head, rows)}\n\n"
        f"Means of {options.rounds} windows of {options.window:g} s each in turn; with the leader "
        f"alone kube-apiserver takes {mean(IDLE, 'apiserver_percent'):.1f} % of a processor."
    )


if __name__ == "__main__":
    run("api_load", __doc__, measure, _without_audit, count=1000, rounds=2, window=60.0)
