"""The identity of a container's slot, which outlives the container (DESIGN's rule of identity)."""

from __future__ import annotations

import os
import shlex
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.support.candidate import LONG, in_pid_namespace, kill, parent_of

if TYPE_CHECKING:
    from tests.support.kube_candidates import KubeCandidates

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a PID namespace needs root")


@pytest.fixture
def slot(namespace: str) -> dict[str, str]:
    """What the downward API says of a container."""
    return {
        "POD_NAME": "server-0",
        "POD_NAMESPACE": namespace,
        "POD_UID": str(uuid.uuid4()),
        "CONTAINER_NAME": "server",
    }


def test_a_restarted_container_takes_its_lease_back_at_once(
    candidates: KubeCandidates, slot: dict[str, str]
) -> None:
    """Killed with all that is in it, and started again in its slot, a container leads again."""
    candidates.timing = LONG
    first, tree = candidates.start_leader("a", env=slot, wrapper=in_pid_namespace())
    identity = f"server-0_leaderexec-{slot['POD_UID']}-server@{os.uname().nodename}"
    assert first.identity == identity
    spec = candidates.spec
    assert spec["holderIdentity"] == identity
    standby = candidates.start_standby("b")
    standby.wait_event(f"leader is {identity}")
    kill(first.guardian)
    first.wait()
    assert not candidates.witness.running(), "PID 1 takes everything along"
    again = candidates.start("c", env=slot, wrapper=in_pid_namespace())
    successor = candidates.assert_followed(tree, "c", timeout_s=30)  # half of the lease
    assert again.identity == identity
    assert int(successor.run) > int(tree.run), "another leadership has another token"
    assert candidates.spec["leaseTransitions"] == spec["leaseTransitions"], "the holder is the same"


def test_a_second_instance_in_the_slot_never_takes_the_lease(
    candidates: KubeCandidates, slot: dict[str, str]
) -> None:
    """What `kubectl exec` starts has the slot's variables, and yet another identity."""
    candidates.timing = LONG
    first, tree = candidates.start_leader("a", env=slot, wrapper=in_pid_namespace())
    inside = ["nsenter", f"--target={first.guardian}", "--pid", "--mount", "--"]
    # Within the container, and in a PID namespace of its own, where it is process 1 as well.
    for name, wrapper in (("b", inside), ("c", [*inside, *in_pid_namespace()])):
        second = candidates.start(name, env=slot, wrapper=wrapper)
        second.wait_event(f"leader is {first.identity}")
        assert second.identity != first.identity
        assert second.identity.startswith("server-0_leaderexec-")
    assert candidates.witness.running() == [tree]
    candidates.assert_exclusive()


def test_without_pid_1_there_is_no_slot(candidates: KubeCandidates, slot: dict[str, str]) -> None:
    """Behind a shell, or with a shared PID namespace, a restart proves nothing of the old child."""
    script = f'exec {shlex.join(in_pid_namespace())} sh -c \'"$@"; exit $?\' sh "$@"'
    candidate, _ = candidates.start_leader("a", env=slot, wrapper=["sh", "-c", script, "sh"])
    assert slot["POD_UID"] not in candidate.identity
    assert parent_of(candidate.guardian) > 0
