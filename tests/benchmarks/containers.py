"""Measures what an image costs: `python -m tests.benchmarks.containers [--write]`, as root.

The same leaderexec in three ways beside each other, at 15 / 10 / 2 s on a real API server and with
the same small child: `host`, the Python of the tests in a PID namespace; `slim`, a container of the
image that `make image` makes; `bundle`, the frozen directory in a container that has nothing but a
busybox. Of each: from its start with the lock free until its child runs, from SIGTERM to the leader
until the next child runs, the memory of a leader and of a standby. `alone` is the child as a
container without leaderexec: what the runtime takes of a start. And how large the images are.

A speed is a fact of a machine, not a property of the code: nothing is asserted here, and the ratios
say more than the figures. `--write` keeps the samples in tests/measured/containers.json.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from tests.benchmarks.record import let_pass, row, save, surroundings
from tests.benchmarks.teams import RETRY_S, TIMING
from tests.support.candidate import ROOT, in_cluster, in_pid_namespace, name_of
from tests.support.candidates import Candidates
from tests.support.containers import CHILD, SHARED, ContainerCandidates, Mount, Storage
from tests.support.controlplane import HOST, ControlPlane, GoProgram
from tests.support.kube_candidates import KubeCandidates
from tests.support.witness import Witness, now_ns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.support.candidate import Candidate
    from tests.support.witness import Tree

ALONE: Final = "alone"
KINDS: Final = ("host", "slim", "bundle")
_SETTLE_S: Final = 5  # whoever was started last has imported all that it will


@dataclass
class Kind:
    """One way of running it, with an election of its own."""

    name: str
    witness: Witness
    candidates: KubeCandidates
    child: Path
    volume: Path
    number: int = 0

    def start(self) -> Candidate:
        """Start one more candidate, of a name that none had before."""
        self.number += 1
        name = f"{self.name}-{self.number}"
        candidates = self.candidates
        if not isinstance(candidates, ContainerCandidates):
            return self._start_on_host(name)
        mounts = [Mount(CHILD, self.child)]
        if self.name == "bundle":
            mounts.append(Mount(SHARED, self.volume))
            candidates.place(name, entry_point=[f"{SHARED}/leaderexec"], mounts=mounts)
        elif self.name == ALONE:
            candidates.place(name, entry_point=[CHILD], mounts=mounts)
            return candidates.container(name).start()
        else:
            candidates.place(name, mounts=mounts)
        return candidates.start(name, child=[CHILD])

    def _start_on_host(self, name: str) -> Candidate:
        candidates = self.candidates
        secrets = candidates.plane.incluster(
            candidates.directory / f"secrets-{name}",
            candidates.token_path.read_text(),
            candidates.namespace,
        )
        slot = {
            "POD_NAME": name,
            "POD_UID": str(uuid.uuid4()),
            "POD_NAMESPACE": candidates.namespace,
            "CONTAINER_NAME": "server",
            "KUBERNETES_SERVICE_HOST": HOST,
            "KUBERNETES_SERVICE_PORT": str(candidates.plane.port),
        }
        wrapper = [*in_cluster(secrets), *in_pid_namespace()]
        child = [str(self.child)]
        return Candidates.make(candidates, name, child=child, env=slot, wrapper=wrapper).start()

    def start_leader(self) -> tuple[Candidate, Tree]:
        """Start one, and wait until its child runs."""
        candidate = self.start()
        (tree,) = self.witness.wait_running(1, candidate.name, timeout_s=60)
        return candidate, tree

    def forget(self) -> None:
        """Delete the Lease, if there is one, so that the next finds none."""
        if self.candidates.plane.lease(self.candidates.namespace, "x") is not None:
            self.candidates.delete()


def starts(kinds: Sequence[Kind], rounds: int) -> dict[str, list[float]]:
    """Return for each kind how long its starts took with the lock free, in milliseconds."""
    took: dict[str, list[float]] = {kind.name: [] for kind in kinds}
    for number in range(rounds):
        for kind in _in_turn(kinds, number):
            kind.forget()
            begun_ns = now_ns()
            candidate, tree = kind.start_leader()
            took[kind.name].append(round((tree.started_ns - begun_ns) / 1e6, 1))
            candidate.kill()
            kind.witness.wait_ended(tree)
    for name, values in took.items():
        print(row(f"{name}: start, lock free -> child runs", values, "ms"), flush=True)
    return took


def handovers(kinds: Sequence[Kind], rounds: int) -> dict[str, list[float]]:
    """Return for each kind how long nobody led after SIGTERM to the leader, in milliseconds."""
    took: dict[str, list[float]] = {kind.name: [] for kind in kinds}
    for kind in kinds:
        kind.forget()
    leaders = {kind.name: kind.start_leader() for kind in kinds}
    for number in range(rounds):
        for kind in _in_turn(kinds, number):
            leader, tree = leaders[kind.name]
            standby = kind.start()
            standby.wait_event("campaigning", timeout_s=60)
            kind.candidates.wait_successor_named(standby.identity)
            let_pass(random.uniform(0, RETRY_S))  # at any phase of its renewals
            guardian, asked_ns = leader.guardian, now_ns()
            os.kill(guardian, signal.SIGTERM)
            successor = kind.witness.wait_successor(tree, timeout_s=60)
            took[kind.name].append(round((successor.started_ns - asked_ns) / 1e6, 1))
            leader.wait()
            kind.candidates.assert_exclusive()
            leaders[kind.name] = (standby, successor)
    for name, values in took.items():
        print(row(f"{name}: SIGTERM -> next child runs", values, "ms"), flush=True)
    for leader, _ in leaders.values():
        leader.kill()
    return took


def memory(kinds: Sequence[Kind]) -> dict[str, dict[str, float]]:
    """Return for each kind what a leader and a standby take, in MiB, the child left out.

    Pages that several processes share are split among them: one pair at a time is running.
    """
    found: dict[str, dict[str, float]] = {}
    for kind in kinds:
        kind.forget()
        leader, _ = kind.start_leader()
        standby = kind.start()
        standby.wait_event("campaigning", timeout_s=60)
        let_pass(_SETTLE_S)
        found[kind.name] = {"leader_mib": _pss_mib(leader), "standby_mib": _pss_mib(standby)}
        for each in (standby, leader):
            each.kill()
        for key, value in found[kind.name].items():
            print(f"{f'{kind.name}: {key} (PSS)':60} {value:10.1f}", flush=True)
    return found


def _pss_mib(candidate: Candidate) -> float:
    own = [pid for pid in candidate.everything() if name_of(pid).startswith("leaderexec")]
    return round(sum(psutil.Process(p).memory_full_info().pss for p in own) / 2**20, 1)


def sizes(storage: Storage) -> dict[str, float]:
    """Return how large the images are, in MiB, unpacked and as they travel."""
    found = {}
    for name, image in (
        ("base", storage.base()),
        ("slim", storage.slim()),
        ("bundle", storage.bundle()),
    ):
        for how, layers in storage.layer_sizes(image).items():
            found[f"{name}_{how}_mib"] = round(layers[-1] / 2**20, 1)
    for key, value in found.items():
        print(f"{f'size of the last layer: {key}':60} {value:10.1f}", flush=True)
    return found


def _in_turn(kinds: Sequence[Kind], round_: int) -> list[Kind]:
    first = round_ % len(kinds)
    return [*kinds[first:], *kinds[:first]]


def _kinds(
    stack: contextlib.ExitStack, plane: ControlPlane, directory: Path, storage: Storage
) -> Mapping[str, Kind]:
    child = GoProgram(ROOT / "tests" / "support" / "gochild").build()
    volume = directory / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    found = {}
    for name in (*KINDS, ALONE):
        place = directory / name
        place.mkdir()
        witness = stack.enter_context(Witness())
        namespace = plane.create_namespace()
        if name == "host":
            candidates = KubeCandidates(witness, place, plane, namespace)
        else:
            image = storage.slim() if name == "slim" else storage.busybox()
            candidates = ContainerCandidates(witness, place, plane, namespace, image)
        candidates.timing = TIMING
        found[name] = Kind(name, witness, stack.enter_context(candidates), child, volume)
    carrier = found["bundle"].candidates
    assert isinstance(carrier, ContainerCandidates)
    mount = Mount(SHARED, volume, writable=True)
    carrier.place("init", image=storage.bundle(), mounts=[mount])
    assert carrier.container("init", "install", SHARED).start().wait(120) == 0
    return found


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--write", action="store_true", help="keep the samples")
    options = parser.parse_args()
    storage = Storage()
    with (
        ControlPlane() as plane,
        tempfile.TemporaryDirectory(prefix="leaderexec-bench-") as directory,
        contextlib.ExitStack() as stack,
    ):
        around = surroundings(plane)
        kinds = _kinds(stack, plane, Path(directory), storage)
        samples: dict[str, Any] = {"size": sizes(storage)}
        samples["start_ms"] = starts(list(kinds.values()), options.rounds)
        ours = [kinds[name] for name in KINDS]
        samples["handover_ms"] = handovers(ours, options.rounds)
        samples["memory"] = memory(ours)
    if options.write:
        save("containers", {"surroundings": around, "timing": list(TIMING), **samples})


if __name__ == "__main__":
    main()
