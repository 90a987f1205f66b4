"""Containers of the image in an election: each is PID 1, on a read-only root, without any rights.

The runtime is runc, and what a kubelet would do is done by hand: the account's files, the variables
of the downward API, the signals, and the start of another container in the slot of a dead one.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

from tests.container.conftest import SHELLS
from tests.support.candidate import ROOT
from tests.support.containers import USER, Container, Mount

if TYPE_CHECKING:
    from tests.support.containers import ContainerCandidates
    from tests.support.witness import Tree

#: So long that nobody who takes the lock in time has waited for its end.
LONG: Final = ("--lease-duration=90s", "--renew-deadline=60s", "--retry-period=1s")


def start_leader(candidates: ContainerCandidates, name: str = "a") -> tuple[Container, Tree]:
    """Start a container and wait until its child runs."""
    candidate = candidates.start(name)
    (tree,) = candidates.witness.wait_running(1, name, timeout_s=40)
    assert isinstance(candidate, Container)
    return candidate, tree


def status(pid: int) -> dict[str, str]:
    """Return what the kernel says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def root_of(pid: int) -> str:
    """Return how the root of a process is mounted."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    (options,) = [words[5] for words in map(str.split, lines) if words[4] == "/"]
    return options


def test_a_container_is_as_strict_as_a_pod_can_be(candidates: ContainerCandidates) -> None:
    """Guardian, elector, keeper and child run as nobody, with no right at all, and no shell."""
    leader, tree = start_leader(candidates)
    assert leader.init == leader.guardian, "leaderexec is the container's first process"
    (child,) = tree.processes
    for pid in (leader.guardian, leader.elector, leader.keeper, child.pid):
        said = status(pid)
        assert set(said["Uid"].split()) == set(said["Gid"].split()) == {str(USER)}
        rights = {said[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")}
        assert rights == {"0" * 16}
        assert (said["NoNewPrivs"], said["Seccomp"]) == ("1", "2")
        assert "ro" in root_of(pid).split(",")
    assert status(leader.guardian)["NSpid"].split()[-1] == "1"
    for shell in SHELLS:
        covered = os.stat(f"/proc/{leader.guardian}/root/usr/bin/{shell}")
        assert stat.S_ISCHR(covered.st_mode), "it cannot be executed"


def test_a_stopped_container_hands_over(candidates: ContainerCandidates) -> None:
    """Asked to stop by the runtime, a container gives the lock back, and the next one leads."""
    candidates.timing = LONG
    leader, tree = start_leader(candidates)
    standby = candidates.start_standby("b")
    standby.wait_event(f"leader is {leader.identity}", timeout_s=40)
    leader.terminate()
    successor = candidates.witness.wait_successor(tree, timeout_s=40)
    assert successor.candidate == "b"
    assert leader.wait() == 143
    candidates.witness.wait_note("signal TERM", "a")
    candidates.assert_exclusive()
    standby.terminate()
    assert standby.wait() == 143
    assert candidates.spec["holderIdentity"] == ""


def test_containers_that_share_a_volume(candidates: ContainerCandidates) -> None:
    """With the lock and the volume of the compose example, containers of one machine take turns."""
    composed = yaml.safe_load((ROOT / "examples" / "compose.yaml").read_text())
    server = composed["services"]["server"]
    volume = candidates.directory / "lock"
    volume.mkdir(mode=0o700)
    os.chown(volume, USER, USER)
    (place,) = [each.partition(":")[2] for each in server["volumes"]]
    *lock, dashes = server["entrypoint"][1:]
    assert dashes == "--"
    candidates.lock, candidates.timing = lock, LONG
    for name in "ab":
        candidates.place(name, mounts=[Mount(place, volume, writable=True)])
    leader, tree = start_leader(candidates)
    candidates.start_standby("b").wait_event(f"leader is {leader.identity}", timeout_s=40)
    leader.terminate()
    assert candidates.witness.wait_successor(tree, timeout_s=40).candidate == "b"
    assert leader.wait() == 143
    candidates.assert_exclusive()
    assert not candidates.plane.requests(candidates.namespace, "x")
