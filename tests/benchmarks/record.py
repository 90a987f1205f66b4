"""What a benchmark leaves behind: JSON of record beside the versions and the machine it is of.

Owns: where the records are, what is said of a run's surroundings, and how distributions are put.
Must not know: what was measured.
Guards against: a figure that nobody can place.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psutil

from leaderexec import __version__
from tests.measured import AWAIT, CLIENT_GO, DIRECTORY, OURS
from tests.support import peers, rivals
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.support.controlplane import ControlPlane


def surroundings(plane: ControlPlane) -> dict[str, Any]:
    """Return the versions of everything, the size of the machine, and when this is."""
    _, kube = plane.request("GET", "/version")
    etcd = subprocess.run(
        [plane.binaries.etcd, "--version"], capture_output=True, text=True, check=True
    ).stdout
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "kube_apiserver": kube["gitVersion"],
        "etcd": etcd.split()[2],
        OURS: __version__,
        AWAIT: peers.description(AWAIT),
        CLIENT_GO: f"an elector made with client-go {_required_client_go()}",
    }


def _required_client_go() -> str:
    found = re.search(r"k8s\.io/client-go (v\S+)", (rivals.MODULE / "go.mod").read_text())
    assert found is not None, "the rivals do not require client-go"
    return found[1]


def save(name: str, record: Mapping[str, Any]) -> None:
    """Write the record of a benchmark."""
    path = DIRECTORY / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {path.parent.name}/{path.name}")


def row(name: str, values: Sequence[float], unit: str) -> str:
    """Put a distribution into one line."""
    ordered = sorted(values)
    p90 = ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]
    return (
        f"{name:60} min {ordered[0]:9.1f}  median {statistics.median(ordered):9.1f}  "
        f"p90 {p90:9.1f}  max {ordered[-1]:9.1f} {unit}  (n={len(ordered)})"
    )


def let_pass(duration_s: float) -> None:
    """Wait, where time is what is waited for: for a phase, or for a window to be over."""
    until_s = time.monotonic() + duration_s
    wait_until(lambda: time.monotonic() >= until_s, timeout_s=duration_s + 5, what="time passes")
