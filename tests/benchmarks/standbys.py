"""Measures what very many standbys cost the API server: `python -m tests.benchmarks.standbys`.

A real leaderexec leads and renews all the time. Beside it, in turn: nobody; a thousand standbys as
leaderexec's are, each with a watch (`tests.benchmarks.watchers`); a thousand electors of client-go,
each asking every retry period times 1 to 2.2 (`tests/rivals/standbys.go`). Both come and stay, with
a connection for each standby, before a window begins. What counts is the processor time and memory
of kube-apiserver and etcd over those of a window with nobody: the loads' own is not in it.

The audit log of the tests is off, since each request would be a line in it, unless `--audit`. All
standbys share a token, which the server remembers: in a cluster those that ask often would cost it
a little more. `--write` keeps the figures in tests/measured/standbys.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import psutil

from tests.benchmarks.record import let_pass, save, surroundings
from tests.measured import IDLE, POLLERS, WATCHES, over_idle
from tests.support.candidate import ROOT
from tests.support.controlplane import ControlPlane
from tests.support.field import Field
from tests.support.rivals import program
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

_RETRY_S: Final = 2.0
_POLL_S: Final = 1.6 * _RETRY_S  # the mean of what client-go waits
_PROCESSES: Final = 4  # a thousand threads in one would wait for each other
_START_S: Final = 240
_SETTLE_S: Final = 8
#: So much of what is to be expected must have come: else there was another load than is said.
_ENOUGH: Final = 0.9


class Load:
    """Processes that stand by, and what they say of it; they end with this."""

    def __init__(self, commands: Sequence[Sequence[str]], directory: Path) -> None:
        self._commands = commands
        self._directory = Path(tempfile.mkdtemp(dir=directory))
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        """Start them."""
        for number, command in enumerate(self._commands):
            with (
                (self._directory / f"{number}.out").open("wb") as output,
                (self._directory / f"{number}.log").open("wb") as log,
            ):
                self._processes.append(
                    subprocess.Popen(
                        command, stdin=subprocess.PIPE, stdout=output, stderr=log, cwd=ROOT
                    )
                )
        return self

    def __exit__(self, *_: object) -> None:
        """Kill them: their connections end all at once."""
        for process in self._processes:
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()

    def said(self) -> list[int]:
        """Return the sums of the last numbers that each has said, none before all have."""
        lines = []
        for number, process in enumerate(self._processes):
            assert process.poll() is None, (self._directory / f"{number}.log").read_text()[-2000:]
            text = (self._directory / f"{number}.out").read_text()
            lines.append(text.rpartition("\n")[0].rpartition("\n")[2].split())
        return [sum(map(int, column)) for column in zip(*lines, strict=True)] if all(lines) else []

    def cpu_s(self) -> float:
        """Return the processor time that they have used."""
        times = [psutil.Process(process.pid).cpu_times() for process in self._processes]
        return sum(each.user + each.system for each in times)


class Stage:
    """A control plane with one leader, and what comes to stand by beside it."""

    def __init__(self, plane: ControlPlane, directory: Path, count: int) -> None:
        self.plane = plane
        self.directory = directory
        self.count = count
        self.field = Field(plane, directory)
        self.leader = self.field.candidate("leader")
        kubeconfig = plane.kubeconfig_for(self.field.token, namespace=self.field.namespace)
        self._flags = (
            f"--kubeconfig={kubeconfig}",
            f"--namespace={self.field.namespace}",
            "--election=x",
        )

    def load(self, name: str) -> Load:
        """Return the standbys of a phase."""
        if name == WATCHES:
            share = -(-self.count // _PROCESSES)
            argv = [sys.executable, "-m", "tests.benchmarks.watchers", *self._flags]
            counts = [min(share, self.count - n * share) for n in range(_PROCESSES)]
            commands = [[*argv, f"--count={count}"] for count in counts if count > 0]
        elif name == POLLERS:
            commands = [[str(program()), "standbys", *self._flags, f"--count={self.count}"]]
        else:
            commands = []
        return Load(commands, self.directory)

    def measure(self, name: str, window_s: float) -> dict[str, Any]:
        """Let a phase begin, wait until all its standbys are there, and look for a window."""
        with self.load(name) as load:
            if name == WATCHES:
                wait_until(
                    lambda: load.said()[:1] == [self.count],
                    timeout_s=_START_S,
                    what=f"{self.count} watches are open",
                )
            elif name == POLLERS:
                wait_until(
                    lambda: (load.said() or [0])[0] >= 2 * self.count,
                    timeout_s=_START_S,
                    what="everybody has asked twice",
                )
            let_pass(_SETTLE_S)
            servers = (self.plane.apiserver, self.plane.etcd)
            before = [server.cpu_s() for server in servers]
            load_before_s, said_before = load.cpu_s(), load.said()
            since_s = time.monotonic()
            let_pass(window_s)
            took_s = time.monotonic() - since_s
            used = [server.cpu_s() - cpu_s for server, cpu_s in zip(servers, before, strict=True)]
            said = [now - then for now, then in zip(load.said(), said_before, strict=True)]
            phase = {
                "phase": name,
                "apiserver_percent": round(100 * used[0] / took_s, 2),
                "etcd_percent": round(100 * used[1] / took_s, 2),
                "apiserver_live_mib": round(self._live_mib(), 1),
                "apiserver_rss_mib": round(
                    psutil.Process(self.plane.apiserver.pid).memory_info().rss / 2**20, 1
                ),
                "load_percent": round(100 * (load.cpu_s() - load_before_s) / took_s, 1),
                "load": self._proved(name, said, load.said(), took_s),
            }
        assert len(self.field.starts()) == 1, "the leader has changed"
        print(json.dumps(phase), flush=True)
        return phase

    def _live_mib(self) -> float:
        """Return the memory of kube-apiserver that is in use: live objects, and stacks.

        What it has got from the kernel is about twice that, and does not shrink from one phase to
        the next. The heap is collected when it has grown by as much as it and the stacks had.
        """
        status, body = self.plane.request("GET", "/metrics")
        assert status == HTTPStatus.OK, body
        next_collection, stacks = (
            float(line.rpartition(" ")[2])
            for name in ("next_gc", "stack_inuse")
            for line in body["message"].splitlines()
            if line.startswith(f"go_memstats_{name}_bytes ")
        )
        return (next_collection + stacks) / 2 / 2**20

    def _proved(
        self, name: str, said: Sequence[int], total: Sequence[int], took_s: float
    ) -> dict[str, float]:
        """Return what the standbys did in the window; fail if that was not what they are for."""
        if name == WATCHES:
            _, events, ended, failed = said
            expected = self.count * took_s / _RETRY_S
            assert total[0] >= _ENOUGH * self.count, f"only {total[0]} watches are open"
            assert events >= _ENOUGH * expected, f"{events} events, not {expected:.0f}"
            assert failed <= (1 - _ENOUGH) * self.count, f"{failed} failures"
            return {"events_per_s": round(events / took_s, 1), "watches_ended": ended}
        if name == POLLERS:
            requests, failed = said
            expected = self.count * took_s / _POLL_S
            assert requests >= _ENOUGH * expected, f"{requests} requests, not {expected:.0f}"
            assert failed <= (1 - _ENOUGH) * self.count, f"{failed} failures"
            return {"requests_per_s": round(requests / took_s, 1)}
        return {}


def measure(stage: Stage, rounds: int, window_s: float) -> list[dict[str, Any]]:
    """Return the phases: watches and pollers in turn, nobody before, between and after."""
    names: list[str] = []
    for number in range(rounds):
        names += [IDLE, *((WATCHES, POLLERS) if number % 2 == 0 else (POLLERS, WATCHES))]
    stage.leader.start()
    try:
        stage.field.wait_starts(1)
        return [stage.measure(name, window_s) for name in (*names, IDLE)]
    finally:
        stage.leader.kill()


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--window", type=float, default=60, help="seconds of each phase")
    parser.add_argument("--audit", action="store_true", help="with the audit log of the tests")
    parser.add_argument("--write", action="store_true", help="keep the figures")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="leaderexec-bench-"))
        )
        arguments = []
        if not options.audit:
            policy = directory / "no-audit.json"
            nothing = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy"}
            policy.write_text(json.dumps({**nothing, "rules": [{"level": "None"}]}))
            arguments.append(f"--audit-policy-file={policy}")
        plane = stack.enter_context(ControlPlane(apiserver_arguments=arguments))
        around = surroundings(plane)
        phases = measure(Stage(plane, directory, options.count), options.rounds, options.window)
    for name in (WATCHES, POLLERS):
        print(
            f"{options.count} {name}, over idle: kube-apiserver"
            f" {over_idle(phases, name, 'apiserver_percent'):+.1f} % of a core,"
            f" {over_idle(phases, name, 'apiserver_live_mib'):+.0f} MiB live; etcd"
            f" {over_idle(phases, name, 'etcd_percent'):+.1f} %"
        )
    if options.write:
        record = {"count": options.count, "window_s": options.window, "audit": options.audit}
        save("standbys", {"surroundings": around, **record, "phases": phases})


if __name__ == "__main__":
    main()
