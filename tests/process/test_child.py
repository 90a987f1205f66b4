"""The child: how it is started, what it is given, how its end becomes an exit code."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.candidate import ROOT, child_command, is_gone
from tests.support.required import root_only

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.candidates import Candidates


def test_a_child_that_forks_and_exits_leaves_a_tree_that_is_stopped(candidates: Candidates) -> None:
    """When the main process ends, what it left is stopped and reaped before the release."""
    candidate = candidates.start("a", child=child_command("--fork-exit", "--exit", "5"))
    assert candidate.wait() in {0, 5}
    (tree,) = candidates.witness.trees("a")
    assert tree.ended_ns is not None
    assert len(tree.pids) > 1
    assert "TERM" in candidates.signals()


def test_the_child_is_told_of_its_leadership(candidates: Candidates) -> None:
    """The child gets five LEADER_ variables; the rest of its environment is compared in test_init.

    A fencing token is greater than those before it.
    """
    tokens = []
    for name in "abc":
        child = child_command("--env-note", "--after", "0")
        assert candidates.start(name, f"--id={name}", child=child).wait() == 0
        env = candidates.witness.wait_note("env", name).data["env"]
        told = {key[7:]: value for key, value in env.items() if key.startswith("LEADER_")}
        tokens.append(int(told.pop("FENCING_TOKEN")))
        assert told.pop("TRANSITIONS") == str(len(tokens) - 1)
        assert told == {"ELECTION": "x", "NAMESPACE": "", "IDENTITY": name}
    assert tokens == sorted(set(tokens))


def test_child_starts_with_a_clean_signal_state(candidates: Candidates) -> None:
    """No signal is blocked or ignored that was not before; the child leads its process group."""
    candidate = candidates.start("a", child=child_command("--state-note"))
    state = candidates.witness.wait_note("state", "a").data["state"]
    assert state["blocked"] == []
    assert set(state["ignored"]) <= {"PIPE", "XFSZ"}  # the test child's own Python
    assert state["pgid"] == state["pid"]
    candidate.terminate()
    assert candidate.wait() == 143


def test_no_descriptor_of_ours_reaches_the_child(candidates: Candidates) -> None:
    """A plain command sees the three standard streams and nothing else."""
    candidate = candidates.start("a", child=["/bin/sh", "-c", "ls /proc/self/fd | tr '\\n' ' '"])
    assert candidate.wait() == 0
    # The fourth is the one with which ls reads the directory.
    assert candidate.output.split() == ["0", "1", "2", "3"]


def test_sigpipe_ends_a_child_as_it_would_without_us(candidates: Candidates) -> None:
    """Python's ignored SIGPIPE is not passed on: `yes | head` ends quietly."""
    candidate = candidates.start("a", child=["/bin/sh", "-c", "yes | head -1; exit 9"])
    assert candidate.wait() == 9
    assert "Broken pipe" not in candidate.log


@pytest.mark.parametrize(("mode", "code"), [(None, 127), (0o644, 126)])
def test_a_command_that_cannot_run_is_refused_before_campaigning(
    candidates: Candidates, tmp_path: Path, mode: int | None, code: int
) -> None:
    """Not found is 127, not executable 126, and no lock is written."""
    path = tmp_path / "server"
    if mode is not None:
        path.write_text("#!/bin/sh\n")
        path.chmod(mode)
    candidate = candidates.start("a", child=[str(path)])
    assert candidate.wait() == code
    assert str(path) in candidate.log
    assert not (tmp_path / "lock").exists()


def test_a_command_that_vanishes_while_standing_by_gives_127(
    candidates: Candidates, tmp_path: Path
) -> None:
    """What cannot be executed any more at the takeover ends it, and the lock is given back."""
    path = tmp_path / "server"
    path.write_text("#!/bin/sh\nsleep 60\n")
    path.chmod(0o755)
    leader, tree = candidates.start_leader("a")
    standby = candidates.start_standby("b", child=[str(path)])
    path.unlink()
    leader.terminate()
    assert standby.wait() == 127
    assert leader.wait() == 143
    candidates.witness.wait_ended(tree)
    candidates.start("c")
    candidates.assert_followed(tree, "c")


@pytest.mark.parametrize("cleared", [False, True])
def test_nested_in_the_same_election_is_refused(candidates: Candidates, cleared: bool) -> None:
    """A leaderexec inside the child's tree would wait for itself for ever."""
    inner = [sys.executable, "-m", "leaderexec", *candidates.lock, "--", "/bin/true"]
    if cleared:
        script = f'env -i PYTHONPATH={ROOT} "$@"; exit $?'
        inner = ["/bin/sh", "-c", script, "sh", *inner]
    candidate = candidates.start("a", child=inner)
    assert candidate.wait() == 2
    assert "already runs inside election" in candidate.log


def test_processes_have_groups_of_their_own(candidates: Candidates) -> None:
    """One signal to a group cannot stop guardian, elector, keeper and child together."""
    candidate, tree = candidates.start_leader()
    pids = [candidate.guardian, candidate.elector, candidate.keeper, tree.main]
    assert len({os.getpgid(pid) for pid in pids}) == 4
    os.killpg(os.getpgid(candidate.elector), signal.SIGTERM)
    candidate.terminate()
    assert candidate.wait() == 143
    assert all(is_gone(pid) for pid in pids)


@root_only
def test_termination_log_gets_the_fatal_line(candidates: Candidates, tmp_path: Path) -> None:
    """A fatal exit writes its one line where Kubernetes reads it."""
    log = tmp_path / "termination-log"
    log.write_text("old content that is longer than the line which replaces it, by a lot of words")
    script = (
        f"mount -t tmpfs tmpfs /dev && touch /dev/termination-log /dev/null && "
        f'mount --bind {log} /dev/termination-log && exec "$@"'
    )
    wrapper = ["unshare", "--mount", "sh", "-c", script, "sh"]
    candidate = candidates.start("a", "--timeout=nonsense", wrapper=wrapper)
    assert candidate.wait() == 2
    assert log.read_text() == candidate.log
