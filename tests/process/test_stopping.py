"""Stopping: which signal reaches whom, in which order things end, and what they return."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.candidate import BRISK, child_command, state_of, stop
from tests.support.candidates import Candidates  # noqa: TC001 - fixtures are typed at run time too
from tests.support.witness import now_ns


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_requests_to_stop_send_the_stop_signal(
    candidates: Candidates, signum: signal.Signals
) -> None:
    """TERM, INT and QUIT all make the child get the stop signal, and its code ours."""
    child = child_command("--exit-on", "USR2", "--exit", "9", "--ignore", "TERM,INT,QUIT")
    candidate, _ = candidates.start_leader("a", "--stop-signal=USR2", child=child)
    candidate.signal(signum)
    assert candidate.wait() == 9
    assert [n.text for n in candidates.witness.notes("a") if "signal" in n.text] == ["signal USR2"]


def test_the_stop_signal_itself_is_a_request_to_stop(candidates: Candidates) -> None:
    """Sending us the configured stop signal stops the child."""
    candidate, _ = candidates.start_leader(
        "a", "--stop-signal=HUP", child=child_command("--exit-on", "HUP")
    )
    candidate.signal(signal.SIGHUP)
    assert candidate.wait() == 0


@pytest.mark.parametrize("name", ["HUP", "USR1", "USR2", "WINCH", "RTMIN+3"])
def test_other_signals_are_forwarded_to_a_leaders_child(candidates: Candidates, name: str) -> None:
    """A leader passes on what is not for itself."""
    number = signal.SIGRTMIN + 3 if name == "RTMIN+3" else signal.Signals[f"SIG{name}"]
    candidate, _ = candidates.start_leader(
        child=child_command("--ignore", "ALL", "--exit-on", "INT")
    )
    candidate.signal(number)
    candidates.witness.wait_note(f"signal {37 if name == 'RTMIN+3' else name}", "a")


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_standby_ignores_signals_for_a_child(
    candidates: Candidates, signum: signal.Signals
) -> None:
    """HUP, USR1 and USR2 neither end a standby nor reach its later child."""
    leader, _ = candidates.start_leader("a")
    standby = candidates.start_standby("b")
    standby.signal(signum)
    leader.terminate()
    candidates.witness.wait_running(1, "b")
    candidates.witness.wait_note("ready", "b")
    assert not [n for n in candidates.witness.notes("b") if n.text.startswith("signal")]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_standby_ended_by_a_signal(candidates: Candidates, signum: signal.Signals) -> None:
    """A standby exits with 128+n at once, and never starts its child."""
    leader, tree = candidates.start_leader("a")
    standby = candidates.start_standby("b")
    standby.signal(signum)
    assert standby.wait(10) == 128 + signum
    assert not candidates.witness.trees("b")
    assert tree.running
    leader.terminate()
    assert leader.wait() == 143


def test_a_child_that_ignores_the_stop_signal_is_killed(candidates: Candidates) -> None:
    """After the stop timeout comes SIGKILL, and 137."""
    candidate, _ = candidates.start_leader(
        "a", "--stop-timeout=500ms", child=child_command("--ignore", "ALL")
    )
    candidate.terminate()
    assert candidate.wait() == 137


def test_a_second_interrupt_kills_at_once(candidates: Candidates) -> None:
    """Ctrl-C twice does not wait for the stop timeout."""
    candidate, _ = candidates.start_leader(
        "a", "--stop-timeout=1h", child=child_command("--ignore", "ALL")
    )
    candidate.signal(signal.SIGINT)
    candidates.witness.wait_note("signal TERM", "a")
    candidate.signal(signal.SIGINT)
    assert candidate.wait() == 137


def test_a_second_term_is_forwarded(candidates: Candidates) -> None:
    """A second TERM reaches the child, whatever the stop signal is."""
    candidate, _ = candidates.start_leader(
        "a", "--stop-signal=USR1", child=child_command("--ignore", "USR1", "--exit-on", "TERM")
    )
    candidate.terminate()
    candidates.witness.wait_note("signal USR1", "a")
    candidate.terminate()
    assert candidate.wait() == 0


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


def test_signal_group_reaches_the_whole_group(candidates: Candidates) -> None:
    """With --signal-group the stop signal goes to every process of the child's group."""
    child = child_command("--spawn", "plain*2", "--ignore", "TERM", "--exit-on", "INT")
    candidate, tree = candidates.start_leader("a", "--signal-group", child=child)
    candidate.terminate()
    candidates.witness.wait_note("signal TERM", "a", count=3)
    assert {n.pid for n in candidates.witness.notes("a") if n.text == "signal TERM"} == set(
        tree.pids
    )


def test_a_stopped_child_is_continued_to_take_the_stop_signal(candidates: Candidates) -> None:
    """TERM to a stopped child is followed by CONT, so that it does not wait for SIGKILL."""
    candidate, tree = candidates.start_leader(
        "a", "--stop-timeout=1h", child=child_command("--exit-on", "TERM", "--exit", "8")
    )
    stop(tree.main)
    candidate.terminate()
    assert candidate.wait() == 8


def test_a_child_that_stops_itself_is_killed_with_its_tree(candidates: Candidates) -> None:
    """A stopped grandchild does not survive."""
    child = child_command("--spawn", "stopped", "--spawn", "setsid+ignore")
    candidate, tree = candidates.start_leader("a", "--stop-timeout=500ms", child=child)
    candidate.terminate()
    candidate.wait()
    candidates.witness.wait_ended(tree)


def test_the_lease_is_renewed_while_the_child_drains(candidates: Candidates) -> None:
    """A drain longer than the lease keeps the lock, and the successor starts after it (G2)."""
    child = child_command("--drain", "8", "--exit", "0")
    leader, tree = candidates.start_leader("a", child=child)
    candidates.start_standby("b")
    leader.terminate()
    assert leader.wait(60) == 0
    successor = candidates.witness.wait_successor(tree, timeout_s=20)
    assert successor.candidate == "b"
    candidates.assert_exclusive()


def test_handover_does_not_wait_for_a_poll(candidates: Candidates) -> None:
    """A voluntary stop releases at once and the standby's watch starts its child (G4).

    With a lease of an hour nothing but the release and the watch can have done it.
    """
    candidates.timing = ("--lease-duration=1h", "--renew-deadline=50m", "--retry-period=40m")
    leader, tree = candidates.start_leader("a")
    candidates.start_standby("b").wait_event(
        "leader is " + leader.events("campaigning")[0]["identity"]
    )
    leader.terminate()
    assert candidates.witness.wait_successor(tree, timeout_s=20).candidate == "b"
    assert leader.wait() == 143
    candidates.assert_exclusive()


def test_many_handovers_are_exclusive_and_ordered(candidates: Candidates) -> None:
    """Twenty voluntary handovers among three: old tree dead, lock given back, next tree."""
    for name in "abc":
        candidates.start(name)
    (tree,) = candidates.witness.wait_running(1, timeout_s=20)
    for _ in range(20):
        leader = candidates.leader(tree)
        leader.terminate()
        successor = candidates.witness.wait_successor(tree, timeout_s=20)
        assert leader.wait() == 143
        leader.start()
        tree = successor
    candidates.assert_exclusive()


def test_timeout_zero_tries_once(candidates: Candidates) -> None:
    """With --timeout=0 a held lock ends us with 124, a free one is taken."""
    leader, _ = candidates.start_leader("a")
    assert candidates.start("b", "--timeout=0").wait(20) == 124
    leader.terminate()
    assert leader.wait() == 143
    third, _ = candidates.start_leader("c", "--timeout=0")
    third.terminate()
    assert third.wait() == 143


def test_timeout_gives_up_campaigning(candidates: Candidates) -> None:
    """--timeout bounds how long we stand by."""
    candidates.start_leader("a")
    standby = candidates.start("b", "--timeout=1s")
    assert standby.wait(20) == 124
    assert "--timeout" in standby.log
    assert not candidates.witness.trees("b")


def test_a_stopped_standby_group_does_not_disturb(candidates: Candidates) -> None:
    """A standby that is stopped as a whole and continued later stands by as before."""
    leader, tree = candidates.start_leader("a")
    standby = candidates.start_standby("b")
    parts = [standby.guardian, standby.elector]
    for pid in parts:
        stop(pid)
    assert {state_of(pid) for pid in parts} == {"T"}
    leader.terminate()
    assert leader.wait() == 143
    candidates.witness.wait_ended(tree)
    for pid in parts:
        os.kill(pid, signal.SIGCONT)
    assert candidates.witness.wait_successor(tree, timeout_s=20).candidate == "b"
    candidates.assert_exclusive()


def test_term_at_every_step_of_starting(candidates: Candidates) -> None:
    """SIGTERM at any moment of acquiring and starting ends us, with nothing left and the lock free.

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
