"""Measures what an image costs: `python -m tests.benchmarks.image_costs [--write]`, as root.

The same leaderexec and small child in three ways beside each other: `host`, the Python of the tests
in a PID namespace; `slim`, a container of the image that `make image` makes; `bundle`, the frozen
directory in a container that has nothing but a busybox. `alone` is the child as a container without
leaderexec: what the runtime takes of a start.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks.harness import SETTLE_S, in_turn, let_pass, pss_mib, rounded, run, spread
from tests.measured import table
from tests.support.candidate import ROOT, in_pid_namespace, name_of
from tests.support.competitors import Leaderexec, slot_of
from tests.support.containers import CHILD, SHARED, ContainerCandidates, Mount, Storage
from tests.support.controlplane import GoProgram
from tests.support.election import TIMING
from tests.support.kube_candidates import KubeCandidates
from tests.support.witness import Witness, now_ns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.candidate import Candidate
    from tests.support.controlplane import ControlPlane
    from tests.support.witness import Tree

ALONE: Final = "alone"
WAYS: Final = {"host": "no image", "slim": "slim", "bundle": "bundle, in a busybox"}


@dataclass
class Way:
    """One way of running it, with an election of its own."""

    name: str
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
            slot = slot_of(candidates.namespace, name)
            return Leaderexec(candidates, in_pod=True).start(
                name, child=[str(self.child)], env=slot, wrapper=in_pid_namespace()
            )
        others = {"bundle": f"{SHARED}/leaderexec", ALONE: CHILD}
        own = {"entry_point": [others[self.name]]} if self.name in others else {}
        mounts = [Mount(CHILD, self.child), Mount(SHARED, self.volume)]
        candidates.place(name, mounts=mounts, **own)
        if self.name == ALONE:
            return candidates.container(name).start()
        return candidates.start(name, child=[CHILD])

    def start_leader(self) -> tuple[Candidate, Tree]:
        """Start one, and wait until its child runs."""
        candidate = self.start()
        (tree,) = self.candidates.witness.wait_running(1, candidate.name, timeout_s=60)
        return candidate, tree

    def forget(self) -> None:
        """Delete the Lease, if there is one, so that the next finds none."""
        if self.candidates.plane.lease(self.candidates.namespace, "x") is not None:
            self.candidates.delete()


def _starts(ways: Sequence[Way], rounds: int) -> dict[str, list[float]]:
    took: dict[str, list[float]] = {way.name: [] for way in ways}
    for number in range(rounds):
        for way in in_turn(ways, number):
            way.forget()
            begun_ns = now_ns()
            candidate, tree = way.start_leader()
            took[way.name].append((tree.started_ns - begun_ns) / 1e6)
            candidate.kill()
            way.candidates.witness.wait_ended(tree)
    return took


def _memory(ways: Sequence[Way]) -> dict[str, dict[str, float]]:
    """Return what a leader and a standby take without the child; one pair at a time is running."""
    found: dict[str, dict[str, float]] = {}
    for way in ways:
        way.forget()
        both = {"leader": way.start_leader()[0], "standby": way.start()}
        both["standby"].wait_event("campaigning", timeout_s=60)
        let_pass(SETTLE_S)
        found[way.name] = {
            key: pss_mib(p for p in each.everything() if name_of(p).startswith("leaderexec"))
            for key, each in both.items()
        }
        for each in both.values():
            each.kill()
    return found


def measure(plane: ControlPlane, directory: Path, options: Any) -> str:
    """Tell what each way of running it costs."""
    storage = Storage()
    child = GoProgram(ROOT / "tests" / "support" / "gochild").build()
    volume = directory / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    with contextlib.ExitStack() as stack:
        ways = []
        for name in (*WAYS, ALONE):
            place = directory / name
            place.mkdir()
            place_in = (stack.enter_context(Witness()), place, plane, plane.create_namespace())
            if name == "host":
                candidates = KubeCandidates(*place_in)
            else:
                image = storage.slim() if name == "slim" else storage.busybox()
                candidates = ContainerCandidates(*place_in, image)
            candidates.timing = TIMING
            ways.append(Way(name, stack.enter_context(candidates), child, volume))
        carrier = ways[-1].candidates
        assert isinstance(carrier, ContainerCandidates)
        mount = Mount(SHARED, volume, writable=True)
        carrier.place("init", image=storage.bundle(), mounts=[mount])
        assert carrier.container("init", "install", SHARED).start().wait(120) == 0
        starts = _starts(ways, options.rounds)
        used = _memory(ways[:-1])
    rows: list[Sequence[str]] = [
        ("from its start, lock free, until its child runs", *(spread(starts[w]) for w in WAYS))
    ]
    for who in ("leader", "standby"):
        cells = (f"{rounded(used[way][who])} MiB" for way in WAYS)
        rows.append((f"memory of a {who} (PSS)", *cells))
    unpacked, packed = [], []
    for image in (storage.slim(), storage.bundle()):
        unpacked.append(f"{rounded(image.sizes[-1] / 2**20)} MiB")
        with storage.last_layer(image) as layer:
            packed.append(f"{rounded(layer.stat().st_size / 2**20)} MiB")
    rows.append(("its layer, unpacked", "-", *unpacked))
    rows.append(("its layer, as it travels", "-", *packed))
    return (
        f"{table(('A candidate', *WAYS.values()), rows)}\n\n"
        f"Median (least to most) of {options.rounds} rounds, each way in turn; the child alone, as "
        f"a container without leaderexec, takes {spread(starts[ALONE])} to start."
    )


if __name__ == "__main__":
    run("image_costs", __doc__, measure, rounds=20)
