"""The child: how it is started, what it is given, how its end becomes an exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.candidate import ROOT, child_command, children_of, is_gone, state_of
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.candidates import Candidates


@pytest.mark.parametrize("code", [0, 3, 77])
def test_exit_code_of_a_child_that_ends_by_itself(candidates: Candidates, code: int) -> None:
    """The child's own exit code is ours."""
    candidate = candidates.start("a", child=child_command("--after", "0.1", "--exit", str(code)))
    assert candidate.wait() == code


@pytest.mark.parametrize("name", ["SEGV", "KILL", "TERM"])
def test_exit_code_of_a_child_that_dies_of_a_signal(candidates: Candidates, name: str) -> None:
    """A child that signal n ended makes us exit with 128+n."""
    candidate = candidates.start("a", child=child_command("--after", "0.1", "--die", name))
    assert candidate.wait() == 128 + signal.Signals[f"SIG{name}"]


def test_a_child_that_forks_and_exits_leaves_a_tree_that_is_stopped(candidates: Candidates) -> None:
    """When the main process ends, what it left is stopped and reaped before the release."""
    candidate = candidates.start("a", child=child_command("--fork-exit", "--exit", "5"))
    assert candidate.wait() in {0, 5}
    (tree,) = candidates.witness.trees("a")
    assert tree.ended_ns is not None
    assert len(tree.pids) > 1
    assert any(note.text == "signal TERM" for note in candidates.witness.notes("a"))


def test_leftovers_that_ignore_the_stop_signal_are_killed_in_time(candidates: Candidates) -> None:
    """A left-over process that ignores TERM has the rest of the stop timeout, then SIGKILL."""
    child = child_command("--spawn", "setsid+ignore", "--after", "0.2", "--exit", "4")
    candidate = candidates.start("a", "--stop-timeout=1s", child=child)
    assert candidate.wait() == 4
    (tree,) = candidates.witness.trees("a")
    assert not tree.running
    assert candidate.events("killing")


def test_environment_is_unchanged_but_for_the_leadership(
    candidates: Candidates, tmp_path: Path
) -> None:
    """The child gets our environment and the five LEADER_ variables."""
    path = tmp_path / "env.json"
    candidate = candidates.start(
        "a",
        "--id=me",
        child=child_command("--env-file", str(path), "--after", "0.1"),
        env={"MINE": "1", "ODD": "a=b\tc"},
    )
    assert candidate.wait() == 0
    env = json.loads(path.read_text())
    assert env["MINE"] == "1"
    assert env["ODD"] == "a=b\tc"
    assert env["LEADER_ELECTION"] == "x"
    assert env["LEADER_NAMESPACE"] == ""
    assert env["LEADER_IDENTITY"] == "me"
    assert int(env["LEADER_FENCING_TOKEN"]) > 0
    assert env["LEADER_TRANSITIONS"] == "0"
    added = {name for name in env if name.startswith("LEADER_")}
    assert len(added) == 5


def test_fencing_tokens_grow(candidates: Candidates) -> None:
    """Each leadership's token is greater than those before it."""
    tokens = []
    for number in range(4):
        name = f"c{number}"
        assert candidates.start(name, child=child_command("--after", "0")).wait() == 0
        tokens += [int(tree.run) for tree in candidates.witness.trees(name)]
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 4


def test_child_starts_with_a_clean_signal_state(candidates: Candidates) -> None:
    """No signal is blocked or ignored because of us, and the child leads its process group."""
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


def test_standard_input_passes_through(candidates: Candidates) -> None:
    """What is written to our standard input the child reads."""
    candidate = candidates.make("a", child=["/bin/cat"])
    candidate.stdin = subprocess.PIPE
    candidate.start()
    assert candidate.process.stdin is not None
    candidate.process.stdin.write(b"hello\n")
    candidate.process.stdin.close()
    assert candidate.wait() == 0
    assert candidate.output == "hello\n"


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
    """What cannot be executed any more at the takeover ends us, and the lock is given back."""
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
    third, _ = candidates.start_leader("c")
    third.terminate()
    third.wait()
    candidates.assert_exclusive()


def test_usage_errors_exit_with_2_and_write_nothing(candidates: Candidates, tmp_path: Path) -> None:
    """A wrong value is refused in one line before anything runs."""
    candidate = candidates.start("a", "--lease-duration=banana")
    assert candidate.wait() == 2
    assert candidate.log.count("\n") == 1
    assert "--lease-duration" in candidate.log
    assert "banana" in candidate.log
    assert not (tmp_path / "lock").exists()


def test_a_lock_of_another_election_is_refused(candidates: Candidates, tmp_path: Path) -> None:
    """A file that holds another election's record is left alone."""
    assert candidates.start("a", child=["/bin/true"]).wait() == 0
    before = (tmp_path / "lock").read_text()
    candidates.lock = ("--election=y", *candidates.lock[1:])
    other = candidates.start("b", child=["/bin/true"])
    assert other.wait() == 2
    assert "'x'" in other.log
    assert (tmp_path / "lock").read_text() == before


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


@pytest.mark.parametrize("number", [1000, 50])
def test_zombies_are_reaped_while_the_child_runs(candidates: Candidates, number: int) -> None:
    """Orphans of the child are reaped by the keeper, however many."""
    script = f"i=0; while [ $i -lt {number} ]; do (true & ); i=$((i+1)); done; echo done; sleep 60"
    candidate = candidates.start("a", child=["/bin/sh", "-c", script])
    keeper = candidate.keeper
    wait_until(lambda: "done" in candidate.output, timeout_s=30, what="all orphans forked")
    wait_until(
        lambda: not [p for p in children_of(keeper) if state_of(p) == "Z"],
        timeout_s=10,
        what="no zombies are left",
    )
    candidate.wait_event("orphans reaped")
    candidate.terminate()
    assert candidate.wait() == 143


def test_processes_have_groups_of_their_own(candidates: Candidates) -> None:
    """One signal to a group cannot stop guardian, elector, keeper and child together."""
    candidate, tree = candidates.start_leader()
    pids = [candidate.guardian, candidate.elector, candidate.keeper, tree.main]
    assert len({os.getpgid(pid) for pid in pids}) == 4
    os.killpg(os.getpgid(candidate.elector), signal.SIGTERM)
    candidate.terminate()
    assert candidate.wait() == 143
    assert all(is_gone(pid) for pid in pids)


def test_nothing_is_left_running(candidates: Candidates) -> None:
    """After the end no process of ours or of the tree is left."""
    child = child_command("--spawn", "setsid*2", "--spawn", "daemon")
    candidate, tree = candidates.start_leader(child=child)
    pids = [*candidate.everything(), *tree.pids]
    candidate.terminate()
    assert candidate.wait() == 143
    wait_until(lambda: all(is_gone(p) for p in pids), timeout_s=5, what="everything is gone")


def test_termination_log_gets_the_fatal_line(candidates: Candidates, tmp_path: Path) -> None:
    """A fatal exit writes its one line where Kubernetes reads it."""
    if os.geteuid() != 0:
        pytest.skip("mounting over /dev/termination-log needs root")
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
