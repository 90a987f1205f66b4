"""HTTP of real candidates on the file lock: what is told, and that telling it disturbs nobody.

What a single server answers, and to whom it does not, is in tests/unit/test_server.py; here are
the guardian that keeps it, the elector that reports to it, and the child beside it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from leaderexec.board import shown_name
from tests.support.candidate import (
    BRISK,
    ROOT,
    child_command,
    children_of,
    in_pid_namespace,
    is_gone,
    kill,
    name_of,
    resume,
    state_of,
    stop,
)
from tests.support.fault_suite import STUBBORN, TAKEOVER_S
from tests.support.http_clients import (
    BOUND_S,
    HTTP,
    EventReader,
    ask,
    has_ipv6,
    leads,
    metrics_of,
    shown_leader,
    status_of,
    wait_leads,
    wait_shown,
)
from tests.support.wait import wait_until
from tests.support.witness import now_ns

if TYPE_CHECKING:
    from tests.support.candidate import Candidate
    from tests.support.candidates import Candidates

_IPV6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
_ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")

#: Survives what kills electors, however often.
LONG = ("--lease-duration=60s", "--renew-deadline=40s", "--retry-period=1s")
#: In the words of FAST.
RENEW_DEADLINE_NS = 2 * 10**9


def wait_another_server(candidate: Candidate, former: int) -> int:
    """Wait until another server runs, and return its pid."""
    return wait_until(
        lambda: next((p for p in _servers(candidate) if p != former), 0),
        timeout_s=BOUND_S,
        what=f"a server after {former}",
    )


def _servers(candidate: Candidate) -> list[int]:
    return [p for p in children_of(candidate.guardian) if name_of(p) == "leaderexec-http"]


def _left_of(candidate: Candidate) -> list[str]:
    """What is alive of the session in which a candidate was started."""
    session = candidate.process.pid
    left = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(pid) == session and not is_gone(pid):
                left.append(name_of(pid))
    return left


def renewed_at(candidates: Candidates) -> str:
    """Return the time of the last renewal, as the lock's file has it."""
    document = json.loads((candidates.directory / "lock").read_text())
    time: str = document["record"]["renewTime"]
    return time


def wait_renewals(candidates: Candidates, number: int) -> None:
    """Wait until the lock has been renewed so often."""
    for _ in range(number):
        before = renewed_at(candidates)
        wait_until(
            lambda t=before: renewed_at(candidates) != t,  # type: ignore[misc]
            timeout_s=TAKEOVER_S,
            what="another renewal",
        )


# --- what is told ----------------------------------------------------------------------------


def test_every_path_on_a_leader_and_on_a_standby(candidates: Candidates) -> None:
    """Both show the same leader by the same name; only the leader's /leader is 200."""
    candidates.timing = LONG
    a, tree = candidates.start_leader("a", HTTP)
    b = candidates.start_standby("b", HTTP)
    host = shown_name(a.identity)
    assert host == os.uname().nodename
    led, stood = wait_leads(a), b.port
    wait_shown(stood, host)
    for path in ("/", "/any/path", "/leader"):
        assert json.loads(ask(led, path).body)["identity"] == a.identity
        assert json.loads(ask(stood, path).body)["name"] == host
    codes = {path: (ask(led, path).status, ask(stood, path).status) for path in ("/", "/leader")}
    assert codes == {"/": (200, 200), "/leader": (200, 503)}
    for path in ("/livez", "/healthz", "/readyz"):
        assert (ask(led, path).body, ask(stood, path).body) == (b"ok", b"ok")
    status = status_of(led)
    assert (status["leader"], status["state"]) == (True, "running")
    assert (status["child_pid"], status["fencing_token"]) == (tree.main, int(tree.run))
    assert (status["holder"], status["lease_duration_s"]) == (a.identity, 60)
    assert 0 < status["renew_within_s"] <= 40
    status = status_of(stood)
    assert (status["leader"], status["state"], status["child_pid"]) == (False, "idle", None)
    assert (status["holder"], status["identity"]) == (a.identity, b.identity)
    master = 'leader_election_master_status{name="x"}'
    assert (metrics_of(led)[master], metrics_of(stood)[master]) == (1, 0)
    assert metrics_of(led)["leaderexec_tree_processes"] == 1
    for path in ("/events", "/sse"):
        with EventReader(led, path) as of_a, EventReader(stood, path) as of_b:
            assert (of_a.who(), of_b.who()) == ((host, True), (host, False))


def test_a_handover_is_told_on_both_sides(candidates: Candidates) -> None:
    """A leader that drains is no leader but still the holder; then the other's name is shown."""
    a, tree = candidates.start_leader(
        "a", HTTP, "--id=a", "--stop-timeout=1h", child=child_command("--ignore", "TERM")
    )
    b = candidates.start_standby("b", HTTP, "--id=b")
    led, stood = wait_leads(a), b.port
    wait_shown(stood, "a")
    with EventReader(led) as of_a, EventReader(stood) as of_b:
        assert (of_a.who(), of_b.who()) == (("a", True), ("a", False))
        a.terminate()
        assert of_a.who() == ("a", False)
        wait_renewals(candidates, 3)
        reply = ask(led, "/leader")
        assert (reply.status, json.loads(reply.body)["name"]) == (503, "a")
        assert (ask(led, "/livez").status, ask(led, "/readyz").status) == (200, 200)
        assert (leads(stood), shown_leader(stood)) == (False, "a")
        assert status_of(led)["state"] == "stopping"
        assert candidates.witness.running() == [tree], "still draining"
        kill(tree.main)
        assert a.wait() == 137
        assert candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S).candidate == "b"
        told = [of_b.who()]
        while told[-1] != ("b", True):
            told.append(of_b.who())
    assert [name for name, leader in told if leader] == ["b"]
    assert {name for name, _ in told} <= {"", "b"}
    assert (leads(stood), shown_leader(stood)) == (True, "b")
    assert metrics_of(stood)["leaderexec_handovers_total"] == 1
    with pytest.raises(ConnectionRefusedError):
        ask(led)
    candidates.assert_exclusive()


def test_nothing_is_shown_for_longer_than_it_holds(candidates: Candidates) -> None:
    """With guardian and elector stopped the server tells by itself that the time is over."""
    a, tree = candidates.start_leader("a", HTTP)
    port = wait_leads(a)
    server = a.part("http")
    tellers = [a.guardian, a.elector]
    asked_ns = dict.fromkeys(("name", "leader", "live"), 0)

    def over() -> bool:
        before_ns = now_ns()
        shown = {"name": shown_leader(port) != "", "leader": leads(port)}
        shown["live"] = ask(port, "/livez").status == 200
        asked_ns.update({what: before_ns for what, yes in shown.items() if yes})
        return not any(shown.values())

    with EventReader(port) as reader:
        while not reader.who()[1]:
            pass
        for pid in tellers:
            stop(pid)
        stopped_ns = now_ns()
        wait_until(over, timeout_s=TAKEOVER_S, what="nothing is shown any more")
        while reader.who() != ("", False):
            pass
    assert [state_of(pid) for pid in tellers] == ["T", "T"], "nobody can have told it"
    assert max(asked_ns.values()) <= stopped_ns + RENEW_DEADLINE_NS
    assert ask(port, "/livez").body
    assert not status_of(port)["live"]
    assert status_of(port)["renew_within_s"] is None
    assert a.part("http") == server
    candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)  # by its keeper


def test_ready_may_mean_the_leader_alone(candidates: Candidates) -> None:
    """With --ready=leader a standby is alive and not ready, and says why."""
    a, _ = candidates.start_leader("a", HTTP, "--ready=leader")
    b = candidates.start_standby("b", HTTP, "--ready=leader")
    led, stood = wait_leads(a), b.port
    wait_shown(stood, os.uname().nodename)
    assert ask(led, "/readyz").status == 200
    reply = ask(stood, "/readyz")
    assert (reply.status, reply.body) == (503, b"not the leader")
    assert ask(stood, "/livez").status == 200


def test_a_sidecar_serves_until_it_ends(candidates: Candidates) -> None:
    """Asked to stop, one without a child leads no more, answers while it cannot give back, ends."""
    a = candidates.start("a", HTTP, "--id=a", child=())
    port = wait_leads(a)
    wait_shown(port, "a")
    assert status_of(port)["child_pid"] is None
    server, guardian = a.part("http"), a.guardian
    stop(a.elector)
    a.terminate()
    wait_until(lambda: not leads(port), timeout_s=TAKEOVER_S, what="it leads no more")
    assert (status_of(port)["state"], is_gone(guardian)) == ("gone", False)
    assert ask(port, "/metrics").status == 200
    assert a.wait() == 128 + signal.SIGTERM
    assert is_gone(server)
    with pytest.raises(ConnectionRefusedError):
        ask(port)
    assert _left_of(a) == []


# --- the life of a server --------------------------------------------------------------------


def test_the_death_of_electors_is_told_by_a_server_that_lives(candidates: Candidates) -> None:
    """The same server, its readers too, outlives elector after elector; 503 while there is none."""
    candidates.timing = LONG
    # Draining, or the server might hear in one wake-up that the lock is given back too.
    child = child_command("--drain", "2")
    a, tree = candidates.start_leader("a", HTTP, "--id=a", child=child)
    port = wait_leads(a)
    server = a.part("http")

    def dead() -> bool:
        kill(a.elector)  # each of them makes us wait longer for the next
        reply = ask(port, "/livez")
        return reply.status == 503 and reply.body == b"the elector is dead"

    wait_renewals(candidates, 2)  # a later elector would tell a later second
    with EventReader(port) as reader:
        assert reader.who() == ("a", True)
        wait_until(dead, timeout_s=TAKEOVER_S, what="no elector lives, and that is told")
        assert leads(port), "the lease has not run out"
        wait_until(
            lambda: ask(port, "/livez").status == 200, timeout_s=TAKEOVER_S, what="one lives"
        )
        a.wait_event("resumed leadership")
        assert metrics_of(port)["leaderexec_elector_starts_total"] >= 2
        assert candidates.witness.running() == [tree]
        assert a.part("http") == server
        a.terminate()
        assert reader.who() == ("a", False), "nothing has changed for a reader until now"
    assert a.wait() == 0


def test_a_server_that_died_is_replaced_and_its_clients_wait(candidates: Candidates) -> None:
    """A connection made while there is none is answered by the next, on the same port."""
    candidates.timing = LONG
    a, tree = candidates.start_leader("a", HTTP)
    port = wait_leads(a)
    server, guardian = a.part("http"), a.guardian
    with EventReader(port) as reader:
        reader.data()
        stop(guardian)  # or there would be another at once
        kill(server)
        assert reader.line() == "", "its own clients know at once"
    with socket.create_connection(("127.0.0.1", port), timeout=BOUND_S) as waiting:
        waiting.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert [state_of(p) for p in children_of(guardian) if p == server] == ["Z"]
        resume(guardian)
        answer = b"".join(iter(lambda: waiting.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert wait_another_server(a, server)
    assert (a.port, wait_leads(a)) == (port, port)
    assert candidates.witness.running() == [tree]


def test_the_second_death_of_a_server_is_not_waited_for_longer(candidates: Candidates) -> None:
    """However seldom guardian and elector have to do, a server is forked a second later."""
    candidates.timing = ("--lease-duration=10m", "--renew-deadline=5m", "--retry-period=2m")
    a, tree = candidates.start_leader("a", HTTP)
    wait_leads(a)
    first = a.part("http")
    kill(first)
    second = wait_another_server(a, first)
    kill(second)  # within a second of its fork, or almost
    assert wait_another_server(a, second)
    assert candidates.witness.running() == [tree]


@pytest.mark.slow
def test_a_stopped_server_holds_up_nobody(candidates: Candidates) -> None:
    """For longer than a lease nobody listens to what is reported: the child never notices."""
    candidates.timing = BRISK
    a, tree = candidates.start_leader("a", HTTP)
    port = wait_leads(a)
    server, elector = a.part("http"), a.elector
    stop(server)
    wait_renewals(candidates, 10)
    assert state_of(server) == "T"
    assert (a.elector, candidates.witness.running()) == (elector, [tree])
    resume(server)
    wait_leads(a)
    assert ask(port, "/livez").status == 200
    assert a.part("http") == server
    assert not a.events("stopping")


@pytest.mark.slow
def test_a_server_that_dies_again_and_again_disturbs_nobody(candidates: Candidates) -> None:
    """Twenty deaths, each as soon as there is another to die, with no renewal missed."""
    candidates.timing = BRISK
    a, tree = candidates.start_leader("a", HTTP)
    port = wait_leads(a)
    elector = a.elector
    server = a.part("http")
    descriptors = os.listdir(f"/proc/{a.guardian}/fd")
    for _ in range(20):
        kill(server)
        server = wait_another_server(a, server)
    wait_leads(a)
    assert os.listdir(f"/proc/{a.guardian}/fd") == descriptors
    assert ask(port, "/livez").status == 200
    assert (a.elector, candidates.witness.running()) == (elector, [tree])
    assert not a.events("stopping")


def test_a_server_that_cannot_start_disturbs_nobody(candidates: Candidates) -> None:
    """Where what it needs is broken, each server ends at once; the child runs all the same."""
    candidates.timing = LONG
    broken = candidates.directory / "broken" / "tornado"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('broken')")
    env = {"PYTHONPATH": f"{broken.parent}:{ROOT}"}
    a = candidates.start("a", HTTP, env=env)
    (tree,) = candidates.witness.wait_running(1, "a", timeout_s=TAKEOVER_S)
    a.wait_event("the server died", count=4, timeout_s=BOUND_S)
    assert a.events("internal error")[0]["error"] == "ImportError: broken"
    assert candidates.witness.running() == [tree]
    assert not a.events("stopping")
    a.terminate()
    assert a.wait() == 143
    assert _left_of(a) == []


# --- the end of a guardian -------------------------------------------------------------------


@pytest.mark.parametrize("hangs", [False, True])
def test_nothing_keeps_the_port_of_a_guardian_that_died(
    candidates: Candidates, hangs: bool
) -> None:
    """The next leaderexec binds it at once, even if the server of the dead one hangs."""
    env = {}
    if hangs:
        hung = candidates.directory / "hung" / "tornado"
        hung.mkdir(parents=True)
        (hung / "__init__.py").write_text("import time; time.sleep(3600)")
        env = {"PYTHONPATH": f"{hung.parent}:{ROOT}"}
    a = candidates.start("a", HTTP, child=child_command(*STUBBORN), env=env)
    (tree,) = candidates.witness.wait_running(1, "a", timeout_s=TAKEOVER_S)
    candidates.witness.wait_note("ready", "a")
    parts = [a.part(name) for name in ("http", "elec", "keep")]
    if not hangs:
        wait_leads(a)
    kill(a.guardian)
    wait_until(lambda: is_gone(parts[0]), timeout_s=TAKEOVER_S, what="the server is gone")
    other = (f"--lock=file:{candidates.directory / 'other'}", "--election=y")
    b = candidates.start("b", *other, f"--http=127.0.0.1:{a.port}", "--id=b")
    assert (b.port, wait_leads(b)) == (a.port, a.port)
    candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    for pid in parts:
        wait_until(lambda p=pid: is_gone(p), timeout_s=TAKEOVER_S, what=f"{pid} ended")  # type: ignore[misc]


def _sockets(pid: int) -> set[str]:
    """Return the inodes of a process's sockets."""
    found = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
            found |= {target[8:-1]} if target.startswith("socket:[") else set()
    return found


def test_who_outlives_a_guardian_has_not_its_port(candidates: Candidates) -> None:
    """Elector and keeper, who may have a tree to kill yet, and the child hold no listener."""
    a, tree = candidates.start_leader("a", HTTP)
    here = f"0100007F:{wait_leads(a):04X}"
    with open("/proc/net/tcp") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    (listener,) = {row[9] for row in rows if row[1] == here and row[3] == "0A"}
    assert listener in _sockets(a.guardian) & _sockets(a.part("http"))
    for pid in (a.elector, a.keeper, tree.main):
        assert listener not in _sockets(pid), name_of(pid)


@_ROOT_ONLY
def test_as_pid_1_a_take_over_costs_one_server(candidates: Candidates) -> None:
    """What kills all of a namespace kills the server too: the next one answers on the same port."""
    a, tree = candidates.start_leader(
        "a", HTTP, child=child_command(*STUBBORN), wrapper=in_pid_namespace()
    )
    port = wait_leads(a)
    server, guardian = a.part("http"), a.guardian
    kill(a.keeper)
    candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    assert wait_another_server(a, server)
    candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
    wait_leads(a)
    assert ask(port, "/livez").status == 200
    assert (a.guardian, is_gone(server)) == (guardian, True)
    candidates.assert_exclusive()


# --- signals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signals_to_everybody_end_the_server_last(
    candidates: Candidates, signum: signal.Signals
) -> None:
    """A service manager that signals each process does not silence who tells of the drain."""
    child = child_command("--ignore", "TERM,INT")
    a, tree = candidates.start_leader("a", HTTP, "--stop-timeout=1h", child=child)
    port = wait_leads(a)
    server = a.part("http")
    for pid in a.everything():
        os.kill(pid, signum)
    wait_until(lambda: not leads(port), timeout_s=TAKEOVER_S, what="it drains")
    assert ask(port, "/livez").status == 200
    kill(tree.main)
    assert a.wait() == 137
    assert is_gone(server)
    assert not a.events("the server died")


def test_a_terminals_interrupt_is_the_childs(candidates: Candidates) -> None:
    """Ctrl-C reaches the child alone; the server answers until the guardian ends."""
    master, slave = pty.openpty()
    a = candidates.make(
        "a",
        HTTP,
        child=child_command("--ignore", "INT"),
        wrapper=["setsid", "--ctty", "--wait"],
    )
    a.stdin = slave
    a.start()
    os.close(slave)
    (tree,) = candidates.witness.wait_running(1, "a", timeout_s=TAKEOVER_S)
    candidates.witness.wait_note("ready", "a")
    port = wait_leads(a)
    server = a.part("http")
    os.write(master, b"\x03")
    candidates.witness.wait_note("signal INT", "a")
    assert leads(port)
    assert a.part("http") == server
    a.terminate()
    candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    assert a.wait() == 143
    os.close(master)


# --- the child -------------------------------------------------------------------------------


def _facts(candidates: Candidates) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the environment and the state that a test child has noted."""
    env: dict[str, str] = candidates.witness.wait_note("env", "a").data["env"]
    state: dict[str, Any] = candidates.witness.wait_note("state", "a").data["state"]
    return env, state


@pytest.mark.parametrize(
    ("http", "host"),
    [
        ("127.0.0.1:0", "127.0.0.1"),
        ("0.0.0.0:0", "localhost"),
        ("localhost:0", "localhost"),
        (":0", "localhost"),
        pytest.param("[::1]:0", "[::1]", marks=_IPV6),
    ],
)
def test_the_child_is_told_where_to_ask(candidates: Candidates, http: str, host: str) -> None:
    """The three variables name what answers, and nothing of ours is open in the child."""
    child = child_command("--env-note", "--state-note")
    a, _ = candidates.start_leader("a", f"--http={http}", "--id=a", child=child)
    wait_until(
        lambda: any(each.get("event") == "serving HTTP" for each in a.events()),
        timeout_s=BOUND_S,
        what="it serves",
    )
    env, state = _facts(candidates)
    told = {name: value for name, value in env.items() if name.startswith("ELECTOR_")}
    assert told == {
        "ELECTOR_PATH": f"{host}:{a.port}",
        "ELECTOR_GET_URL": f"http://{host}:{a.port}/",
        "ELECTOR_SSE_URL": f"http://{host}:{a.port}/events",
    }

    def name() -> str:
        with urllib.request.urlopen(env["ELECTOR_GET_URL"], timeout=BOUND_S) as reply:
            return str(json.load(reply)["name"])

    wait_until(lambda: name() == "a", timeout_s=BOUND_S, what="its name is told")
    with urllib.request.urlopen(env["ELECTOR_SSE_URL"], timeout=BOUND_S) as reply:
        assert b'"name":"a"' in reply.readline()
    # Besides the standard streams there is what lists them.
    assert {fd: to for fd, to in state["fds"].items() if int(fd) > 2 and "/fd" not in to} == {}


def test_no_descriptor_of_ours_reaches_the_child(candidates: Candidates) -> None:
    """A plain command sees the three standard streams: no listener, no report channel."""
    a = candidates.start("a", HTTP, child=["/bin/sh", "-c", "ls /proc/self/fd | tr '\\n' ' '"])
    assert a.wait() == 0
    # The fourth is the one with which ls reads the directory.
    assert a.output.split() == ["0", "1", "2", "3"]


# --- where it listens ------------------------------------------------------------------------


def _answers(host: str, port: int) -> bool:
    try:
        return ask(port, "/livez", host=host).status == 200
    except OSError:
        return False


@pytest.mark.parametrize(
    ("http", "answering"),
    [
        pytest.param(":0", {"127.0.0.1", "::1"}, marks=_IPV6),
        ("127.0.0.1:0", {"127.0.0.1"}),
        pytest.param("[::1]:0", {"::1"}, marks=_IPV6),
        pytest.param("[::]:0", {"::1"}, marks=_IPV6),
        ("0.0.0.0:0", {"127.0.0.1"}),
    ],
)
def test_it_listens_where_it_was_told_to(
    candidates: Candidates, http: str, answering: set[str]
) -> None:
    """A port alone means both families; an address means itself."""
    a = candidates.start("a", f"--http={http}", child=())
    a.wait_event("serving HTTP")
    assert {host for host in ("127.0.0.1", "::1") if _answers(host, a.port)} == answering


@_ROOT_ONLY
@pytest.mark.parametrize("http", [":0", "localhost:0"])
def test_a_family_that_this_machine_lacks_is_done_without(
    candidates: Candidates, http: str
) -> None:
    """In a container without IPv6, where `localhost` still has such an address, IPv4 serves."""
    hosts = candidates.directory / "hosts"
    hosts.write_text("::1 localhost\n127.0.0.1 localhost\n")
    script = (
        "ip link set lo up && echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 && "
        f'mount --bind {hosts} /etc/hosts && exec "$@"'
    )
    wrapper = ["unshare", "--net", "--mount", "sh", "-c", script, "sh"]
    a = candidates.make("a", f"--http={http}", "--id=a", child=(), wrapper=wrapper).start()
    a.wait_event("serving HTTP")
    inside = ["nsenter", f"--net=/proc/{a.guardian}/ns/net"]
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        "from tests.support.http_clients import ask; print(ask(int(sys.argv[2])).status)"
    )
    asked = subprocess.run(
        [*inside, sys.executable, "-c", code, str(ROOT), str(a.port)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout == "200\n"


@pytest.mark.parametrize(
    ("http", "reason"),
    [
        ("127.0.0.1:{port}", "Address already in use"),
        (":{port}", "Address already in use"),
        ("192.0.2.1:0", "Cannot assign requested address"),
        ("no-such-host.invalid:0", "not known"),
    ],
)
def test_where_it_cannot_listen_is_refused(candidates: Candidates, http: str, reason: str) -> None:
    """One line that names flag, value and what is accepted; nothing was run, nothing is left."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        http = http.format(port=taken.getsockname()[1])
        a = candidates.start("a", f"--http={http}")
        assert a.wait() == 2
    (line,) = a.log.splitlines()
    assert line.startswith(f"leaderexec: --http {http}: cannot listen: ")
    assert reason in line
    assert "accepted: " in line
    assert _left_of(a) == []
    assert not candidates.witness.trees()
    assert not (candidates.directory / "lock").exists()


def _imported(candidate: Candidate) -> set[str]:
    """Return which of the modules that only HTTP needs were imported by any process."""
    lines = [line for line in candidate.log.splitlines() if line.startswith("import time:")]
    assert lines, "imports are told at all"
    modules = {line.rpartition("|")[2].strip() for line in lines}
    return modules & {"tornado", "prometheus_client", "leaderexec.server"}


@pytest.mark.parametrize("serve", [True, False])
def test_without_http_nobody_pays_for_it(candidates: Candidates, serve: bool) -> None:
    """With `--http=` there is no server, nothing for the child to ask, and nothing is imported."""
    a = candidates.start(
        "a",
        HTTP if serve else "--http=",
        env={"PYTHONPROFILEIMPORTTIME": "1"},
        child=child_command("--env-note"),
    )
    candidates.witness.wait_note("ready", "a", timeout_s=TAKEOVER_S)
    wait_renewals(candidates, 2)
    told = {
        name for name in candidates.witness.wait_note("env", "a").data["env"] if "ELECTOR" in name
    }
    if serve:
        metrics_of(a.port)
        assert len(told) == 3
        assert len(_imported(a)) == 3
    else:
        assert not told
        assert not _servers(a)
        assert not a.events("serving")
        assert _imported(a) == set()
