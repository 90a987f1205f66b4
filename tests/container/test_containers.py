"""Containers of the image in an election: each is PID 1, on a read-only root, without any rights.

The runtime is runc, and what a kubelet would do is done by hand: the account's files, the variables
of the downward API, the signals, and the start of another container in the slot of a dead one.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import yaml

from tests.container.conftest import SHELLS
from tests.support.candidate import FAST, FAST_LEASE_S, ROOT
from tests.support.cgroup import MemoryGroup, NoCgroup
from tests.support.containers import USER, Container, Mount, child_command
from tests.support.required import missing
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.containers import ContainerCandidates
    from tests.support.witness import Tree

#: So long that nobody who takes the lock in time has waited for its end.
LONG: Final = ("--lease-duration=90s", "--renew-deadline=60s", "--retry-period=1s")
#: What leaderexec, its child and the cache of what both read fit into.
LIMIT_MIB: Final = 256


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


def test_a_whole_tree_is_dead_before_the_next_one(candidates: ContainerCandidates) -> None:
    """Daemons that ignore every signal are killed and reaped before another container leads."""
    candidates.timing = LONG
    stubborn = child_command("--spawn", "daemon+ignore*3", "--drain", "0.5")
    leader = candidates.start("a", "--stop-timeout=2s", child=stubborn)
    (tree,) = candidates.witness.wait_running(1, timeout_s=40)
    candidates.witness.wait_note("ready", "a")
    assert len(tree.processes) == 4
    candidates.start_standby("b")
    leader.terminate()
    assert candidates.witness.wait_successor(tree, timeout_s=40).candidate == "b"
    assert tree.ended_ns
    assert leader.wait() == 0, "the child ended by itself once it was asked to"
    candidates.assert_exclusive()


def test_a_killed_container_takes_its_lease_back_in_its_slot(
    candidates: ContainerCandidates,
) -> None:
    """Killed with all that is in it, and started again in its slot, a container leads again."""
    candidates.timing = LONG
    leader, tree = start_leader(candidates)
    pod = leader.pod
    assert leader.identity == f"{pod.name}_leaderexec-{pod.uid}-server"
    candidates.start_standby("b").wait_event(f"leader is {leader.identity}", timeout_s=40)
    leader.runtime_kill("KILL")
    assert leader.wait() == 137
    candidates.witness.wait_ended(tree)
    take_back(candidates, leader, tree)


def take_back(candidates: ContainerCandidates, leader: Container, tree: Tree) -> None:
    """Start another container in the slot of a dead one, and see it lead at once, and not `b`."""
    transitions = candidates.spec["leaseTransitions"]
    candidates.place("again", pod=leader.pod.name)
    again = candidates.start("again")
    successor = candidates.witness.wait_successor(tree, timeout_s=40)
    assert (successor.candidate, again.identity) == ("again", leader.identity)
    assert int(successor.run) > int(tree.run), "another leadership has another token"
    assert candidates.spec["leaseTransitions"] == transitions, "the holder is the same"
    candidates.assert_exclusive()


def test_a_killed_container_that_stays_away_is_succeeded(candidates: ContainerCandidates) -> None:
    """When nothing is started in a dead container's slot, the next leads when its lease is over."""
    candidates.timing = FAST
    leader, tree = start_leader(candidates)
    candidates.start_standby("b").wait_event(f"leader is {leader.identity}", timeout_s=40)
    leader.runtime_kill("KILL")
    dead_ns = candidates.witness.wait_ended(tree)
    successor = candidates.witness.wait_successor(tree, timeout_s=FAST_LEASE_S + 40)
    assert successor.candidate == "b"
    assert successor.started_ns > dead_ns
    candidates.assert_exclusive()


def test_an_init_container_waits_for_a_leader(candidates: ContainerCandidates) -> None:
    """Waiting ends with 0 when a container leads, and not before; it never stands in the lock."""
    candidates.place("waiter", pod="client")
    waiter = candidates.container("waiter", *candidates.lock, "--wait-for-leader", "--timeout=120s")
    waiter.start()
    wait_until(
        lambda: candidates.plane.requests(candidates.namespace, "x"), timeout_s=40, what="it looks"
    )
    assert waiter.process.poll() is None
    leader, _ = start_leader(candidates)
    assert waiter.wait(60) == 0, waiter.log
    assert candidates.spec["holderIdentity"] == leader.identity


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


# --- out of memory ---------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[MemoryGroup]:
    """A group of limited memory, for one container."""
    try:
        with MemoryGroup(LIMIT_MIB) as group:
            yield group
    except NoCgroup as reason:
        missing("cgroup with limited memory", reason)


def test_a_child_killed_for_its_memory(
    candidates: ContainerCandidates, memory: MemoryGroup
) -> None:
    """When the kernel kills the child for its memory the lock is given back, and the next leads."""
    candidates.timing = LONG
    candidates.place("a", group=memory)
    leader = candidates.make("a", child=child_command("--eat", str(2 * LIMIT_MIB)))
    standby = candidates.make("b")
    leader.start()
    leader.wait_event("became leader", timeout_s=40)
    standby.start()
    wait_until(lambda: memory.oom_kills == 1, timeout_s=60, what="the child is killed")
    candidates.witness.wait_running(1, "b", timeout_s=40)
    assert leader.wait() == 137
    assert memory.oom_kills == 1, "nothing else had to die"
    assert not leader.events("lease lost")
    (tree,) = candidates.witness.trees("a")
    assert tree.started_ns
    candidates.assert_exclusive()


def test_a_container_killed_for_its_memory_comes_back(
    candidates: ContainerCandidates, memory: MemoryGroup
) -> None:
    """When the kernel kills all of a container for its memory, the next in its slot leads."""
    candidates.timing = LONG
    candidates.place("a", group=memory)
    leader, tree = start_leader(candidates)
    assert set(leader.everything()) - {leader.process.pid} <= set(memory.pids)
    candidates.start_standby("b").wait_event(f"leader is {leader.identity}", timeout_s=40)
    memory.oom_kill_all()
    assert leader.wait() == 137
    candidates.witness.wait_ended(tree)
    take_back(candidates, leader, tree)
