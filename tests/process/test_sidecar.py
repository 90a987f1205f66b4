"""Without a command: only elected, as a sidecar of 2016 is."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.candidate import children_of, in_pid_namespace, kill, name_of, resume, stop
from tests.support.required import root_only
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from tests.support.candidate import Candidate
    from tests.support.candidates import Candidates


def start_sidecar(candidates: Candidates, name: str, *options: str) -> Candidate:
    """Start a candidate that only elects, under the name that it has here."""
    return candidates.start(name, f"--id={name}", *options, child=())


def start_leader(candidates: Candidates, *options: str) -> Candidate:
    """Start one named a, and wait until it leads."""
    a = start_sidecar(candidates, "a", *options)
    a.wait_event("leader is a")
    return a


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_sidecars_elect_and_hand_over(candidates: Candidates, signum: signal.Signals) -> None:
    """One leads and says so, the other says who does; asked to stop, it gives the lock back.

    It exits with 128+n, for there is no child whose code it could be.
    """
    a = start_leader(candidates)
    b = start_sidecar(candidates, "b")
    b.wait_event("leader is a")
    assert not [p for p in children_of(a.guardian) if name_of(p) == "leaderexec-keep"]
    a.signal(signum)
    assert a.wait() == 128 + signum
    b.wait_event("leader is b")


def test_beside_a_candidate_with_a_child(candidates: Candidates) -> None:
    """Who only elects stands in the same election: the child runs at its own candidate's turn."""
    a = start_leader(candidates)
    b = candidates.start_standby("b")
    b.wait_event("leader is a")
    assert not candidates.witness.running()
    a.terminate()
    (tree,) = candidates.witness.wait_running(1, "b", timeout_s=20)
    assert a.wait() == 128 + signal.SIGTERM
    a.start()
    a.wait_event(f"leader is {b.identity}")
    assert candidates.witness.running() == [tree]


def test_the_election_outlives_its_elector(candidates: Candidates) -> None:
    """A killed elector is replaced by one that goes on leading under the same token."""
    a = start_leader(candidates)
    kill(a.elector)
    a.wait_event("resumed leadership")
    assert len(a.events("became leader")) == 1


def test_a_stopped_elector_ends_the_leadership(candidates: Candidates) -> None:
    """Without renewals it leads no more from the renew deadline on, and campaigns again."""
    a = start_leader(candidates)
    elector = a.elector
    stop(elector)
    gone = a.wait_event("gone")
    assert gone["before"] in {"stopping", "killing"}  # the latter if it was late for the former
    a.wait_event("leader is a", count=2, timeout_s=30)
    resume(elector)


def test_loss_ends_it_if_asked_to(candidates: Candidates) -> None:
    """With --on-loss=exit a lost leadership is 75 without a child as well."""
    a = start_leader(candidates, "--on-loss=exit")
    stop(a.elector)
    assert a.wait() == 75


@root_only
@pytest.mark.parametrize("seconds", ["0", "1"], ids=["before it listens", "while it listens"])
def test_as_pid_1_it_reaps(candidates: Candidates, seconds: str) -> None:
    """Orphans that fall to the first process of a container do not stay as zombies."""
    pid_path = candidates.directory / "orphan"
    script = f'setsid sh -c "sleep {seconds} & echo started > {pid_path}" & exec "$@"'
    wrapper = [*in_pid_namespace(), "/bin/sh", "-c", script, "sh"]
    a = candidates.start("a", "--id=a", child=(), wrapper=wrapper)
    a.wait_event("leader is a")
    wait_until(pid_path.exists, timeout_s=20, what="the orphan-to-be has started")
    guardian = a.guardian
    wait_until(
        lambda: {name_of(pid) for pid in children_of(guardian)} <= {"leaderexec-elec"},
        timeout_s=20,
        what="every orphan is reaped",
    )
