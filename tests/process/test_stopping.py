"""Stopping: what a request to stop does to real processes, and in which order things end.

What every signal does to leaderexec stands beside tini and dumb-init in test_init.
"""

from __future__ import annotations

import signal

import pytest

from tests.support.candidate import BRISK, child_command, stop
from tests.support.candidates import Candidates  # noqa: TC001 - fixtures are typed at run time too
from tests.support.witness import now_ns


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR2])
def test_requests_to_stop_send_the_stop_signal(
    candidates: Candidates, signum: signal.Signals
) -> None:
    """TERM, INT, QUIT and the stop signal itself stop the child, whose code counts."""
    child = child_command("--exit-on", "USR2", "--exit", "9", "--ignore", "TERM,INT,QUIT")
    candidate, _ = candidates.start_leader("a", "--stop-signal=USR2", child=child)
    candidate.signal(signum)
    assert candidate.wait() == 9
    assert candidates.signals() == ["USR2"]


def test_the_stop_signal_goes_to_the_direct_child_only(candidates: Candidates) -> None:
    """Grandchildren are the child's business until it has ended, then they get it too."""
    child = child_command("--spawn", "plain", "--drain", "0.3", "--exit", "6")
    candidate, tree = candidates.start_leader(child=child)
    candidate.terminate()
    assert candidate.wait() == 6
    notes = [n for n in candidates.witness.notes("a") if n.text == "signal TERM"]
    assert notes[0].pid == tree.main
    drained_ns = notes[0].at_ns + 300_000_000
    assert all(n.at_ns >= drained_ns for n in notes[1:]), "not before the direct child has ended"
    assert {n.pid for n in notes} == set(tree.pids)


def test_a_stopped_child_is_continued_to_take_the_stop_signal(candidates: Candidates) -> None:
    """TERM to a stopped child is followed by CONT, so that it does not wait for SIGKILL."""
    candidate, tree = candidates.start_leader(
        "a", "--stop-timeout=10s", child=child_command("--exit-on", "TERM", "--exit", "8")
    )
    stop(tree.main)
    candidate.terminate()
    assert candidate.wait() == 8


def test_the_lease_is_renewed_while_the_child_drains(candidates: Candidates) -> None:
    """A drain longer than the lease keeps the lock, and the successor starts after it (G2)."""
    leader, tree = candidates.start_leader("a", child=child_command("--drain", "7"))
    candidates.start_standby("b")
    leader.terminate()
    assert leader.wait(60) == 0
    candidates.assert_followed(tree, "b")


def test_handover_does_not_wait_for_a_poll(candidates: Candidates) -> None:
    """A voluntary stop releases at once and the standby's watch starts its child (G4).

    With a lease of an hour nothing but the release and the watch can have done it.
    """
    candidates.timing = ("--lease-duration=1h", "--renew-deadline=50m", "--retry-period=40m")
    leader, tree = candidates.start_leader("a")
    candidates.start_standby("b").wait_event(f"leader is {leader.identity}")
    leader.terminate()
    candidates.assert_followed(tree, "b")
    assert leader.wait() == 143


def test_term_at_every_step_of_starting(candidates: Candidates) -> None:
    """SIGTERM at any moment of acquiring and starting: 143, nothing is left, the lock is free.

    The moments are spread over the start; whether the child had begun decides between the codes
    only in who was signalled: both are 143.
    """
    candidates.timing = BRISK  # on a loaded machine a start must not last longer than a silence may
    for step in range(24):
        name = f"s{step}"
        candidate = candidates.start(name)
        until_ns = now_ns() + step * 25_000_000
        while now_ns() < until_ns or not _blocks_term(candidate.process.pid):
            assert candidate.process.poll() is None
        candidate.terminate()
        assert candidate.wait(20) == 143
        assert all(not tree.running for tree in candidates.witness.trees(name))
    last = candidates.start("last", "--timeout=0", child=["/bin/true"])
    assert last.wait() == 0
    candidates.assert_exclusive()


def _blocks_term(pid: int) -> bool:
    """Whether the guardian is there: before it blocks signals, TERM just ends an interpreter."""
    with open(f"/proc/{pid}/status") as status:
        blocked = next(line for line in status if line.startswith("SigBlk:"))
    return int(blocked.split()[1], 16) & (1 << (signal.SIGTERM - 1)) != 0
