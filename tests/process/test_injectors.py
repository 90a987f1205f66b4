"""The faults that other tests inject: each takes effect, says so by a reading, and leaves nothing.

Where a machine cannot have one, its tests are skipped with the reason.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
import yaml

from tests.support import plugin as plugin_module
from tests.support.candidate import ROOT, as_user, child_command, is_gone, parent_of, state_of
from tests.support.cgroup import CpuGroup, KillGroup, MemoryGroup, NoCgroup
from tests.support.clock import SLACK_S, NoSteppedClock, SteppedClock
from tests.support.names import NameServer
from tests.support.plugin import ExecPlugin
from tests.support.required import or_skip
from tests.support.setuid import SetuidRoot
from tests.support.slowfs import SlowExecutable, script_of
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.candidates import Candidates
    from tests.support.witness import Witness

T = TypeVar("T")

NOBODY = 65534
NAME = "api.leaderexec.test"
#: The whole of a small process, with some memory of its own.
HOLDER = "x = b'x' * (8 << 20); print('here', flush=True); input()"


class Started:
    """Processes of one test, all dead at its end."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []

    def __call__(
        self, command: Sequence[str], env: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start one."""
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._processes.append(process)
        return process

    def python(
        self, script: str, prefix: Sequence[str] = (), env: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start an interpreter, and wait for its first line."""
        process = self([*prefix, sys.executable, "-I", "-S", "-c", script], env)
        assert line_of(process)
        return process

    def end(self) -> None:
        """Kill all that is left."""
        for process in self._processes:
            with process:  # closes its pipes, rather than reading them to an end that may not come
                process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    """Return the next line that it prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ask(process: subprocess.Popen[str]) -> str:
    """Send an empty line, and return the answer."""
    assert process.stdin is not None
    print(file=process.stdin, flush=True)
    return line_of(process)


@pytest.fixture
def started() -> Iterator[Started]:
    """A way to start processes that end with the test."""
    processes = Started()
    yield processes
    processes.end()


# --- the wall clock


@pytest.mark.parametrize("offset_s", [3600, -3600, -1.25])
def test_clock_steps(tmp_path: Path, offset_s: float) -> None:
    """A step moves the wall clock alone, and the next step counts from the true time."""
    with or_skip(lambda: SteppedClock(tmp_path)) as clock:
        clock.step(offset_s)
        assert clock.read().wall_s == pytest.approx(offset_s, abs=SLACK_S)
        assert abs(clock.step(0).wall_s) < SLACK_S


def test_clock_steps_under_a_running_process(tmp_path: Path, started: Started) -> None:
    """Who runs already sees the step, and sleeps and waits go on as if there were none."""
    script = """
import select, threading, time
print("here", flush=True)
while True:
    input()
    begun_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    time.sleep(0.05)
    threading.Event().wait(0.05)
    select.select([], [], [], 0.05)
    print(time.time(), time.clock_gettime_ns(time.CLOCK_BOOTTIME) - begun_ns, flush=True)
"""
    with or_skip(lambda: SteppedClock(tmp_path)) as clock:
        process = started.python(script, env=clock.env)
        assert clock.covers(process.pid)
        for offset_s in (3600, -3600):
            clock.step(offset_s)
            wall_s, waited_ns = map(float, ask(process).split())
            assert wall_s - time.time() == pytest.approx(offset_s, abs=60)
            assert waited_ns >= 150_000_000


def test_clock_under_a_candidate(tmp_path: Path, candidates: Candidates) -> None:
    """A candidate's own clock steps; its child's stamps do not, and it can be spared altogether."""
    with or_skip(lambda: SteppedClock(tmp_path)) as clock:
        began_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        child = child_command()
        leader = candidates.start("a", child=child, env=clock.env)
        (tree,) = candidates.witness.wait_running(1, "a", timeout_s=30)
        lock = ["--election=y", f"--lock=file:{candidates.directory / 'other-lock'}"]
        spared = candidates.make("b", child=clock.without(child), env=clock.env, lock=lock).start()
        (other,) = candidates.witness.wait_running(1, "b", timeout_s=30)
        assert all(map(clock.covers, (leader.guardian, leader.elector, tree.main, spared.guardian)))
        assert not clock.covers(other.main)
        assert began_ns < tree.started_ns < time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        clock.step(3600)

        def is_ahead() -> bool:
            record = json.loads((candidates.directory / "lock").read_text())["record"]
            renewed = datetime.fromisoformat(record["renewTime"])
            return (renewed - datetime.now(UTC)).total_seconds() > 1800

        wait_until(is_ahead, timeout_s=30, what="it renews by the stepped clock")
        assert tree.running


def test_clock_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler there is no such clock, and the packages to install are named."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoSteppedClock, match="gcc"), SteppedClock(tmp_path):
        pass


# --- a filesystem that hangs


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowExecutable]:
    """A program that says hello, on a filesystem that may hang."""
    with or_skip(lambda: SlowExecutable(tmp_path, script_of(["echo", "hello"]))) as executable:
        yield executable


def test_slow_executable_is_seen_under_the_wrapper_alone(
    slow: SlowExecutable, started: Started
) -> None:
    """It runs, from the same directory; outside of its namespace there is nothing."""
    assert line_of(started([*slow.wrapper, str(slow.path), "you"])) == "hello you"
    assert line_of(started([*slow.wrapper, "pwd"])) == os.getcwd()
    assert not slow.path.exists()


def test_slow_executable_is_a_binary(tmp_path: Path, started: Started) -> None:
    """A binary of many pages is served as it is."""
    original = Path(sys.executable).resolve()
    with or_skip(lambda: SlowExecutable(tmp_path, original.read_bytes())) as slow:
        process = started([*slow.wrapper, "cmp", str(slow.path), str(original)])
        assert process.wait(60) == 0


def test_slow_executable_hangs_and_goes_on(slow: SlowExecutable, started: Started) -> None:
    """An exec hangs in the kernel, SIGKILL does not end it, and it ends when it is answered."""
    slow.hang()
    process = started([*slow.wrapper, str(slow.path)])
    other = started([*slow.wrapper, str(slow.path)])
    assert sorted(slow.wait_hung(2)) == sorted([process.pid, other.pid])
    process.kill()
    wait_until(lambda: state_of(process.pid) == "D", timeout_s=30, what="it waits on regardless")
    assert process.pid in slow.waiting()
    slow.go_on()
    assert process.wait(60) == -signal.SIGKILL
    assert line_of(other) == "hello"
    assert slow.waiting() == []


def test_slow_executable_hangs_killably(slow: SlowExecutable, started: Started) -> None:
    """Where the hang can be ended, SIGKILL ends it at once."""
    slow.hang(killable=True)
    process = started([*slow.wrapper, str(slow.path)])
    assert slow.wait_hung() == [process.pid]
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    assert slow.waiting() == []


def test_slow_executable_waits_for_no_request_that_was_withdrawn(
    tmp_path: Path, slow: SlowExecutable, started: Started
) -> None:
    """Its server goes on when the request it was told of is gone before it has read it."""
    assert not slow.waiting()  # it can be mounted here
    mount_point = tmp_path / "mine"
    mount_point.mkdir()
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.support.slowfs import _mount, _Server
server = _Server(_mount({str(mount_point)!r}), None, b"")
print(server._take(), server._take(), server._take(), flush=True)
"""
    process = started([sys.executable, "-I", "-S", "-c", script])
    assert process.wait(60) == 0
    assert line_of(process) == "True True True"


@pytest.mark.parametrize("how", ["left", "killed"])
def test_slow_executable_leaves_nothing_hung(tmp_path: Path, started: Started, how: str) -> None:
    """With its end, or with the death of its server, whoever hangs is told of an error."""
    with or_skip(lambda: SlowExecutable(tmp_path, script_of(["true"]))) as slow:
        slow.hang()
        process = started([*slow.wrapper, str(slow.path)])
        slow.wait_hung()
        if how == "killed":
            assert slow._server is not None
            slow._server.kill()
            assert process.wait(60) == 126
    assert process.wait(60) == 126
    assert list((tmp_path / "slow").iterdir()) == []


def test_slow_executable_under_a_candidate(tmp_path: Path, candidates: Candidates) -> None:
    """A new leader's child hangs in exec, and runs when the filesystem answers."""
    with or_skip(lambda: SlowExecutable(tmp_path, script_of(child_command()))) as slow:
        first, tree = candidates.start_leader("a")
        second = candidates.make("b", child=[str(slow.path)], wrapper=slow.wrapper).start()
        second.wait_event(f"leader is {first.identity}")  # it has looked at its command by now
        slow.hang()
        first.terminate()
        (pid,) = slow.wait_hung()
        assert parent_of(pid) == second.keeper
        candidates.witness.wait_ended(tree)
        assert not candidates.witness.running()
        slow.go_on()
        assert candidates.witness.wait_successor(tree, timeout_s=30).main == pid
        candidates.assert_exclusive()


# --- names


def test_names_answer_and_hang(tmp_path: Path, started: Started) -> None:
    """A name is found, then a look-up hangs for as long as nobody answers, then names are found."""
    script = f"import socket; print('here', flush=True); print(socket.gethostbyname('{NAME}'))"
    with or_skip(lambda: NameServer(tmp_path, [NAME])) as names:
        assert line_of(started.python(script, names.wrapper)) == "127.0.0.1"
        names.wait_answered()
        names.hang()
        hung = started.python(script, names.wrapper)
        names.wait_swallowed()
        answered = names.answered
        assert hung.poll() is None
        names.go_on()
        assert line_of(started.python(script, names.wrapper)) == "127.0.0.1"
        names.wait_answered(answered + 1)
        assert hung.poll() is None, "what was swallowed stays so"


def test_names_know_only_their_own(tmp_path: Path, started: Started) -> None:
    """Other names do not exist, a name has no other kind of address, and nonsense is survived."""
    script = f"""
import socket
print("here", flush=True)
print(socket.getaddrinfo("{NAME.upper()}", 1, type=socket.SOCK_STREAM))
try:
    socket.getaddrinfo("other.leaderexec.test", 1)
except socket.gaierror as error:
    print(error.errno == socket.EAI_NONAME)
"""
    with or_skip(lambda: NameServer(tmp_path, [NAME])) as names:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"nonsense", (names.address, 53))
        process = started.python(script, names.wrapper)
        assert line_of(process).count("127.0.0.1") == 1
        assert line_of(process) == "True"


# --- control groups


def test_cpu_group_throttles(started: Started) -> None:
    """A busy process inside is held back, which the group counts."""
    with or_skip(CpuGroup) as group:
        group.limit(5)
        started.python("print('here', flush=True)\nwhile True: pass", group.wrapper)
        wait_until(lambda: group.throttled > 3, timeout_s=60, what="it is throttled")
    assert not group.path.exists()


def test_kill_group_kills_all_at_once(started: Started) -> None:
    """All that is inside dies, in sessions of its own or not, and nothing else."""
    with or_skip(KillGroup) as group:
        inside = [started.python(HOLDER, [*prefix, *group.wrapper]) for prefix in ([], ["setsid"])]
        outside = started.python(HOLDER)
        moved = started.python(HOLDER)
        group.add(moved.pid)
        assert len(group.pids) == 3
        group.kill()
        assert [process.wait(60) for process in [*inside, moved]] == [-signal.SIGKILL] * 3
        assert outside.poll() is None


def test_memory_group_kills_the_hungry(candidates: Candidates) -> None:
    """A child that takes more than its group has is killed by the kernel, after it was ready."""
    with or_skip(lambda: MemoryGroup(64)) as group:
        child = [*group.wrapper, *child_command("--eat", "200")]
        leader = candidates.start("a", child=child)
        (tree,) = candidates.witness.wait_for(
            lambda: candidates.witness.trees("a") or None, timeout_s=30, what="a tree of a"
        )
        candidates.witness.wait_ended(tree, timeout_s=30)
        assert leader.wait() == 137
        assert group.oom_kills == 1
        notes = [note.text for note in candidates.witness.notes("a")]
        assert "ready" in notes
        assert "eaten" not in notes


def test_memory_group_lets_the_modest_live(witness: Witness, started: Started) -> None:
    """A child that fits is not killed: it says that it has eaten."""
    with or_skip(lambda: MemoryGroup(128)) as group:
        started([*group.wrapper, *child_command("--eat", "40")], witness.env("a"))
        witness.wait_note("eaten", "a", timeout_s=30)
        assert group.oom_kills == 0


def test_memory_group_kills_exactly_the_elector(candidates: Candidates) -> None:
    """The OOM killer takes an elector of our choice, from outside; its child does not notice."""
    candidates.timing = ("--lease-duration=30s", "--renew-deadline=20s", "--retry-period=1s")
    leader, tree = candidates.start_leader("a")
    old = leader.elector
    with or_skip(MemoryGroup) as group:
        group.oom_kill(old)
        assert is_gone(old)
        leader.wait_event("resumed leadership", timeout_s=30)
        assert tree.running


def test_memory_group_kills_exactly_one_of_several(started: Started) -> None:
    """Among processes that were started inside, the chosen one dies and the others live."""
    with or_skip(MemoryGroup) as group:
        several = [started.python(HOLDER, group.wrapper) for _ in range(3)]
        group.oom_kill(several[1].pid)
        assert several[1].wait(60) == -signal.SIGKILL
        assert [process.poll() for process in several] == [None, -signal.SIGKILL, None]


def test_memory_group_kills_all(started: Started) -> None:
    """A group that runs out of memory can die as a whole, and it is told how."""
    with or_skip(MemoryGroup) as group:
        several = [started.python(HOLDER, group.wrapper) for _ in range(3)]
        try:
            how = group.oom_kill_all()
        except NoCgroup as reason:
            pytest.skip(str(reason))
        assert [process.wait(60) for process in several] == [-signal.SIGKILL] * 3
        assert how
        assert group.oom_kills >= 1
    assert not group.path.exists()


# --- a child that is somebody else


def test_setuid_root_cannot_be_killed_by_its_starter(witness: Witness, started: Started) -> None:
    """A test child that nobody has started is root, and nobody cannot signal it."""
    with or_skip(SetuidRoot) as setuid:
        command = [*as_user(NOBODY), *setuid.child_command("--state-note")]
        started(command, witness.env("a"))
        state = witness.wait_note("state", "a", timeout_s=30)
        (tree,) = witness.running("a")
        assert [process.uid for process in tree.processes] == [0]
        attempt = ["sh", "-c", f"kill -KILL {state.pid}"]
        refused = subprocess.run(
            [*as_user(NOBODY), *attempt], check=False, stderr=subprocess.PIPE, text=True
        )
        assert "permitted" in refused.stderr
        assert not is_gone(state.pid)


def test_setuid_root_is_nothing_without_new_privileges() -> None:
    """Where new privileges are forbidden, the same command runs as its caller."""
    with or_skip(SetuidRoot) as setuid:
        assert setuid.read() == (NOBODY, 0)
        assert setuid.read(["setpriv", "--no-new-privs"]) == (NOBODY, NOBODY)
        path = setuid.path
    assert not path.exists()


def test_setuid_root_under_a_candidate(candidates: Candidates) -> None:
    """A candidate that is nobody runs, and its setuid child is nobody too."""
    with or_skip(SetuidRoot) as setuid:
        leader, tree = candidates.start_leader(
            "a", child=setuid.child_command(), wrapper=as_user(NOBODY)
        )
        assert os.stat(f"/proc/{leader.guardian}").st_uid == NOBODY
        assert [process.uid for process in tree.processes] == [NOBODY]


@pytest.mark.skipif(os.geteuid() != 0, reason="changing users needs root")
def test_a_candidate_of_another_user(candidates: Candidates) -> None:
    """A candidate that is nobody leads, without any right over the processes of others."""
    leader, tree = candidates.start_leader("a", wrapper=as_user(NOBODY))
    assert {os.stat(f"/proc/{pid}").st_uid for pid in leader.everything()} == {NOBODY}
    status = Path(f"/proc/{leader.guardian}/status").read_text()
    effective = int(next(x for x in status.splitlines() if x.startswith("CapEff:")).split()[1], 16)
    assert effective == 1 << 1, "the right to files alone"
    assert tree.running


# --- an exec plugin


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[ExecPlugin]:
    """A plugin that gives a token."""
    token_path = tmp_path / "token"
    token_path.write_text("secret")
    with ExecPlugin(tmp_path, token_path) as exec_plugin:
        yield exec_plugin


def test_plugin_gives_a_token(plugin: ExecPlugin, tmp_path: Path) -> None:
    """It prints a credential, and a kubeconfig names it in place of a token."""
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("users: [{name: me, user: {token: old}}]\n")
    plugin.write_into(kubeconfig)
    (user,) = yaml.safe_load(kubeconfig.read_text())["users"]
    command = user["user"]["exec"]["command"]
    result = subprocess.run([command], stdout=subprocess.PIPE, check=True, timeout=60)
    assert json.loads(result.stdout)["status"] == {"token": "secret"}
    assert plugin.runs == 1
    assert plugin.hanging == plugin.daemons == []


@pytest.mark.parametrize("keep_output", [False, True])
def test_plugin_hangs_and_leaves_a_daemon(
    plugin: ExecPlugin, started: Started, keep_output: bool
) -> None:
    """It hangs until it may go on; a killed one leaves its daemon, with its output if asked to."""
    plugin.hang(keep_output=keep_output)
    process = started([str(plugin.command)])
    (daemon,) = plugin.wait_hanging()
    assert plugin.hanging == [process.pid]
    assert os.getsid(daemon) == daemon
    output = os.readlink(f"/proc/{daemon}/fd/1")
    assert output.startswith("pipe:") == keep_output
    process.kill()
    process.wait(60)
    assert plugin.hanging == []
    assert plugin.daemons == [daemon]
    os.kill(daemon, signal.SIGKILL)
    wait_until(lambda: plugin.daemons == [], timeout_s=30, what="no daemon is left")
    again = started([str(plugin.command)])
    plugin.wait_hanging()
    plugin.go_on()
    assert json.loads(line_of(again))["status"] == {"token": "secret"}


def test_plugin_leaves_nothing_for_ever(
    tmp_path: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What hangs or was left ends with the plugin's context, and after a bound by itself."""
    (tmp_path / "token").write_text("secret")
    with ExecPlugin(tmp_path, tmp_path / "token") as exec_plugin:
        exec_plugin.hang()
        process = started([str(exec_plugin.command)])
        (daemon,) = exec_plugin.wait_hanging()
    assert process.wait(60) == -signal.SIGKILL
    wait_until(lambda: is_gone(daemon), timeout_s=30, what="the daemon is dead")
    monkeypatch.setattr(plugin_module, "BOUND_S", 1)
    (tmp_path / "short").mkdir()
    with ExecPlugin(tmp_path / "short", tmp_path / "token") as exec_plugin:
        exec_plugin.hang()
        process = started([str(exec_plugin.command)])
        assert process.wait(60) == 0
        wait_until(lambda: exec_plugin.daemons == [], timeout_s=30, what="the daemon has ended")
