"""The bundle in images that hold nothing but a busybox, where an init container has put it.

The child is a static program too: there is no interpreter in such a root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.support.candidate import ROOT
from tests.support.containers import CHILD, SHARED, USER, ContainerCandidates, Mount
from tests.support.controlplane import GoProgram, Unavailable
from tests.support.required import missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.containers import Container, Image, Storage
    from tests.support.controlplane import ControlPlane
    from tests.support.witness import Witness

#: So long that nobody who takes the lock in time has waited for its end.
LONG: Final = ("--lease-duration=90s", "--renew-deadline=60s", "--retry-period=1s")


@pytest.fixture
def candidates(
    storage: Storage, control_plane: ControlPlane, namespace: str, witness: Witness, tmp_path: Path
) -> Iterator[ContainerCandidates]:
    """Containers without Python, on a Lease in the test's own namespace."""
    try:
        child = GoProgram(ROOT / "tests" / "support" / "gochild").build()
    except Unavailable as reason:
        missing("child in Go", reason)
    plain = storage.busybox()
    with ContainerCandidates(witness, tmp_path, control_plane, namespace, plain) as candidates:
        candidates.mounts = [Mount(CHILD, child)]
        yield candidates


def volume_for(candidates: ContainerCandidates, name: str) -> Path:
    """Return a volume that is empty, and open to everybody, as an emptyDir is."""
    path = candidates.directory / f"volume-{name}"
    path.mkdir()
    path.chmod(0o777)
    return path


def install(candidates: ContainerCandidates, carrier: Image, name: str, volume: Path) -> None:
    """Run the init container of a pod to its end."""
    candidates.place(name, image=carrier, mounts=[Mount(SHARED, volume, writable=True)])
    container = candidates.container(name, "install", SHARED).start()
    assert container.wait(120) == 0, container.log


def start(candidates: ContainerCandidates, name: str, volume: Path) -> Container:
    """Start a pod's main container, with the bundle in its volume."""
    entry_point = [f"{SHARED}/leaderexec"]
    candidates.place(name, entry_point=entry_point, mounts=[Mount(SHARED, volume)])
    return candidates.make(name, child=[CHILD]).start()


def test_an_init_container_brings_leaderexec_to_any_image(
    candidates: ContainerCandidates, storage: Storage
) -> None:
    """Where there is only a busybox it leads, is restarted in its slot, and hands over.

    An init container that runs again, for a pod that is started anew, does not disturb it.
    """
    candidates.timing = LONG
    carrier = storage.bundle()
    volumes = [volume_for(candidates, name) for name in "ab"]
    for name, volume in zip("ab", volumes, strict=True):
        install(candidates, carrier, f"init-{name}", volume)
    killed = start(candidates, "a", volumes[0])
    (first,) = candidates.witness.wait_running(1, "a", timeout_s=60)
    assert killed.init == killed.guardian, "the launcher, the loader and Python are one process"
    (child,) = first.processes
    assert child.uid == USER
    killed.runtime_kill("KILL")
    assert killed.wait() == 137
    candidates.witness.wait_ended(first)
    candidates.pods["server-again"] = killed.pod
    install(candidates, carrier, "init-again", volumes[0])
    leader = start(candidates, "again", volumes[0])
    tree = candidates.witness.wait_successor(first, timeout_s=60)
    assert (tree.candidate, leader.identity) == ("again", killed.identity)
    start(candidates, "b", volumes[1]).wait_event(f"leader is {leader.identity}", timeout_s=60)
    install(candidates, carrier, "init-beside", volumes[0])
    leader.terminate()
    assert candidates.witness.wait_successor(tree, timeout_s=60).candidate == "b"
    assert leader.wait() == 0, "the child's own code"
    candidates.assert_exclusive()
