"""Without a command: only elected, as a sidecar of 2016 is."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.candidate import (
    children_of,
    in_pid_namespace,
    kill,
    name_of,
    resume,
    state_of,
    stop,
)
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from tests.support.candidate import Candidate
    from tests.support.candidates import Candidates

#: No command.
SIDECAR = ()


def start_sidecar(candidates: Candidates, name: str, *options: str) -> Candidate:
    """Start a candidate that only elects, under the name that it has here."""
    return candidates.start(name, f"--id={name}", *options, child=SIDECAR)


def test_sidecars_elect_and_hand_over(candidates: Candidates) -> None:
    """One leads and says so, the other says who does; asked to stop, it gives the lock back."""
    a = start_sidecar(candidates, "a")
    a.wait_event("leader is a")
    b = start_sidecar(candidates, "b")
    b.wait_event("leader is a")
    assert not [p for p in children_of(a.guardian) if name_of(p) == "leaderexec-keep"]
    a.terminate()
    assert a.wait() == 128 + signal.SIGTERM
    b.wait_event("leader is b")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_leader_without_a_child_ended_by_a_signal(
    candidates: Candidates, signum: signal.Signals
) -> None:
    """It exits with 128+n whether it leads or not, for there is no child whose code it could be."""
    a = start_sidecar(candidates, "a")
    a.wait_event("leader is a")
    a.signal(signum)
    assert a.wait() == 128 + signum


def test_beside_a_candidate_with_a_child(candidates: Candidates) -> None:
    """Who only elects stands in the same election: the child runs at its own candidate's turn."""
    a = start_sidecar(candidates, "a")
    a.wait_event("leader is a")
    candidates.start_standby("b").wait_event("leader is a")
    assert not candidates.witness.running()
    a.terminate()
    (tree,) = candidates.witness.wait_running(1, "b", timeout_s=20)
    assert a.wait() == 128 + signal.SIGTERM
    a.start()
    a.wait_event(f"leader is {candidates.by_name['b'].identity}")
    assert candidates.witness.running() == [tree]


def test_the_election_outlives_its_elector(candidates: Candidates) -> None:
    """A killed elector is replaced by one that goes on leading under the same token."""
    a = start_sidecar(candidates, "a")
    a.wait_event("leader is a")
    kill(a.elector)
    a.wait_event("resumed leadership")
    assert len(a.events("became leader")) == 1


def test_a_stopped_elector_ends_the_leadership(candidates: Candidates) -> None:
    """Without renewals we stop leading at the renew deadline, and campaign again afterwards."""
    a = start_sidecar(candidates, "a")
    a.wait_event("leader is a")
    elector = a.elector
    stop(elector)
    gone = a.wait_event("gone")
    assert gone["before"] in {"stopping", "killing"}  # the latter if we were late for the former
    a.wait_event("leader is a", count=2, timeout_s=30)
    resume(elector)


def test_loss_ends_it_if_asked_to(candidates: Candidates) -> None:
    """With --on-loss=exit a lost leadership is 75 without a child as well."""
    a = start_sidecar(candidates, "a", "--on-loss=exit")
    a.wait_event("leader is a")
    stop(a.elector)
    assert a.wait() == 75


@pytest.mark.skipif(os.geteuid() != 0, reason="a PID namespace needs root")
def test_as_pid_1_it_reaps(candidates: Candidates) -> None:
    """Orphans that fall to the first process of a container do not stay as zombies."""
    pid_path = candidates.directory / "orphan"
    script = f'setsid sh -c "sleep 1 & echo started > {pid_path}" & exec "$@"'
    wrapper = [*in_pid_namespace(), "/bin/sh", "-c", script, "sh"]
    a = candidates.make("a", "--id=a", child=SIDECAR, wrapper=wrapper).start()
    a.wait_event("leader is a")
    wait_until(pid_path.exists, timeout_s=20, what="the orphan-to-be has started")
    ours = {a.elector}
    wait_until(
        lambda: set(children_of(a.guardian)) <= ours,
        timeout_s=20,
        what="every orphan is reaped",
    )
    assert state_of(a.guardian) in {"S", "R"}
