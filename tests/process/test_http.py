"""HTTP of real candidates on the file lock: what is told, and that telling it disturbs nobody.

What a single server answers, and to whom it does not, is in tests/unit/test_server.py.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support.candidate import (
    BRISK,
    ROOT,
    STUBBORN,
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
from tests.support.candidates import TAKEOVER_S
from tests.support.http_clients import (
    BOUND_S,
    HTTP,
    EventReader,
    ask,
    leads,
    metrics_of,
    shown_leader,
    status_of,
    until,
    wait_leads,
    wait_shown,
)
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from tests.support.candidate import Candidate
    from tests.support.candidates import Candidates

_ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")

#: Survives what kills electors, however often.
LONG = ("--lease-duration=60s", "--renew-deadline=40s", "--retry-period=1s")


def wait_another_server(candidate: Candidate, former: int) -> int:
    """Wait until another server runs, and return its pid."""
    return until(
        lambda: next((p for p in _servers(candidate) if p != former), 0), f"a server after {former}"
    )


def _servers(candidate: Candidate) -> list[int]:
    return [p for p in children_of(candidate.guardian) if name_of(p) == "leaderexec-http"]


def renewed_at(candidates: Candidates) -> str:
    """Return the time of the last renewal, as the lock's file has it."""
    document = json.loads((candidates.directory / "lock").read_text())
    time: str = document["record"]["renewTime"]
    return time


def wait_renewals(candidates: Candidates, number: int) -> None:
    """Wait until the lock has been renewed so often."""
    seen = {renewed_at(candidates)}

    def enough() -> bool:
        seen.add(renewed_at(candidates))
        return len(seen) > number

    wait_until(enough, timeout_s=number * TAKEOVER_S, what=f"{number} renewals")


def with_tornado(candidates: Candidates, text: str) -> dict[str, str]:
    """Return an environment in which what a server needs is this module."""
    package = candidates.directory / "other" / "tornado"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(text)
    return {"PYTHONPATH": f"{package.parent}:{ROOT}"}


# --- what is told ----------------------------------------------------------------------------


def test_every_path_on_a_leader_and_on_a_standby(candidates: Candidates) -> None:
    """Both show the same leader by the same name; only the leader is the leader, and ready."""
    candidates.timing = LONG
    a, tree = candidates.start_leader("a", HTTP, "--ready=leader")
    b = candidates.start_standby("b", HTTP, "--ready=leader")
    host = os.uname().nodename
    led, stood = wait_leads(a), b.port
    wait_shown(stood, host)
    for path in ("/", "/any/path", "/leader"):
        assert json.loads(ask(led, path).body)["identity"] == a.identity
        assert json.loads(ask(stood, path).body)["name"] == host
    assert (ask(led, "/leader").status, ask(stood, "/leader").status) == (200, 503)
    assert (ask(led, "/readyz").body, ask(stood, "/readyz").body) == (b"ok", b"not the leader")
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
    with EventReader(led) as of_a, EventReader(stood) as of_b:
        assert (of_a.who(), of_b.who()) == ((host, True), (host, False))


def test_a_handover_is_told_on_both_sides(candidates: Candidates) -> None:
    """A leader that drains is no leader but still the holder; then the other's name is shown."""
    child = child_command("--ignore", "TERM")
    a, tree = candidates.start_leader("a", HTTP, "--id=a", "--stop-timeout=1h", child=child)
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
        candidates.assert_followed(tree, by="b")
        of_b.wait_who("b", leader=True)
    assert (leads(stood), shown_leader(stood)) == (True, "b")
    assert metrics_of(stood)["leaderexec_handovers_total"] == 1
    with pytest.raises(ConnectionRefusedError):
        ask(led)


# --- the life of a server --------------------------------------------------------------------


def test_the_death_of_electors_is_told_by_a_server_that_lives(candidates: Candidates) -> None:
    """The same server, its readers too, outlives elector after elector; 503 while there is none."""
    candidates.timing = LONG
    # Draining, or the server might hear in one wake-up that the lock is given back too.
    a, tree = candidates.start_leader("a", HTTP, "--id=a", child=child_command("--drain", "2"))
    port = wait_leads(a)
    server = a.part("http")

    def dead() -> bool:
        kill(a.elector)  # after each of them the wait for the next is longer
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
    """A connection made while there is none is answered by the next, on the same port.

    However seldom guardian and elector have to do, and however often a server dies, the next one is
    forked a second later; the child never notices.
    """
    candidates.timing = ("--lease-duration=10m", "--renew-deadline=5m", "--retry-period=2m")
    a, tree = candidates.start_leader("a", HTTP)
    port = wait_leads(a)
    server, guardian, elector = a.part("http"), a.guardian, a.elector
    descriptors = os.listdir(f"/proc/{guardian}/fd")
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
    server = wait_another_server(a, server)
    for _ in range(4):
        kill(server)
        server = wait_another_server(a, server)
    assert wait_leads(a) == port
    assert os.listdir(f"/proc/{guardian}/fd") == descriptors
    assert (a.elector, candidates.witness.running()) == (elector, [tree])


def test_a_stopped_server_holds_up_nobody(candidates: Candidates) -> None:
    """For longer than a lease nobody listens to what is reported: the child never notices."""
    candidates.timing = BRISK
    a, tree = candidates.start_leader("a", HTTP)
    wait_leads(a)
    server, elector = a.part("http"), a.elector
    stop(server)
    wait_renewals(candidates, 10)
    assert state_of(server) == "T"
    assert (a.elector, candidates.witness.running()) == (elector, [tree])
    resume(server)
    assert ask(wait_leads(a), "/livez").status == 200
    assert a.part("http") == server
    assert not a.events("stopping")


def test_a_server_that_cannot_start_disturbs_nobody(candidates: Candidates) -> None:
    """Where what it needs is broken, each server ends at once; the child runs all the same."""
    candidates.timing = LONG
    a, tree = candidates.start_leader(
        "a", HTTP, env=with_tornado(candidates, "raise ImportError('broken')")
    )
    a.wait_event("the server died", count=4, timeout_s=BOUND_S)
    assert a.events("internal error")[0]["error"] == "ImportError: broken"
    assert candidates.witness.running() == [tree]
    assert not a.events("stopping")
    a.terminate()
    assert a.wait() == 143


# --- the end of a guardian -------------------------------------------------------------------


def listens(pid: int, port: int) -> bool:
    """Whether a process has a socket that listens on a port."""
    sockets = psutil.Process(pid).net_connections("tcp")
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in sockets)


@pytest.mark.parametrize("hangs", [False, True])
def test_nothing_keeps_the_port_of_a_guardian_that_died(
    candidates: Candidates, hangs: bool
) -> None:
    """The next leaderexec binds it at once, even if the server of the dead one hangs.

    Elector and keeper, who may have a tree to kill yet, and the child hold no listener.
    """
    env = with_tornado(candidates, "import time; time.sleep(3600)") if hangs else {}
    a, tree = candidates.start_leader("a", HTTP, child=child_command(*STUBBORN), env=env)
    parts = [a.part(name) for name in ("http", "elec", "keep")]
    if not hangs:
        wait_leads(a)
    holders = [pid for pid in (a.guardian, *parts, tree.main) if listens(pid, a.port)]
    assert holders == [a.guardian, parts[0]]
    kill(a.guardian)
    wait_until(lambda: is_gone(parts[0]), timeout_s=TAKEOVER_S, what="the server is gone")
    other = (f"--lock=file:{candidates.directory / 'other-lock'}", "--election=y")
    b = candidates.start("b", *other, f"--http=127.0.0.1:{a.port}", "--id=b")
    assert (b.port, wait_leads(b)) == (a.port, a.port)
    candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    wait_until(lambda: all(map(is_gone, parts)), timeout_s=TAKEOVER_S, what="all ended")


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
    candidates.assert_followed(tree)
    wait_leads(a)
    assert ask(port, "/livez").status == 200
    assert (a.guardian, is_gone(server)) == (guardian, True)


# --- the child, and where it listens ---------------------------------------------------------


def test_the_child_is_told_where_to_ask(candidates: Candidates) -> None:
    """What its variables name answers (the words are in test_cli)."""
    a, _ = candidates.start_leader("a", "--http=:0", "--id=a", child=child_command("--env-note"))
    wait_leads(a)
    env: dict[str, str] = candidates.witness.wait_note("env", "a").data["env"]
    assert env["ELECTOR_PATH"] == f"localhost:{a.port}"
    wait_shown(a.port, "a")
    for variable in ("ELECTOR_GET_URL", "ELECTOR_SSE_URL"):
        with urllib.request.urlopen(env[variable], timeout=BOUND_S) as reply:
            assert b'"name":"a"' in reply.readline()


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
    a = candidates.start("a", f"--http={http}", "--id=a", child=(), wrapper=wrapper)
    a.wait_event("serving HTTP")
    code = f"import urllib.request as r; print(r.urlopen('http://127.0.0.1:{a.port}/').status)"
    inside = ["nsenter", f"--net=/proc/{a.guardian}/ns/net", sys.executable, "-c", code]
    assert subprocess.check_output(inside, text=True) == "200\n"


@pytest.mark.parametrize("serve", [True, False])
def test_without_http_nobody_pays_for_it(candidates: Candidates, serve: bool) -> None:
    """With `--http=` there is no server, nothing for the child to ask, and nothing is imported."""
    a, _ = candidates.start_leader(
        "a",
        HTTP if serve else "--http=",
        env={"PYTHONPROFILEIMPORTTIME": "1"},
        child=child_command("--env-note"),
    )
    wait_renewals(candidates, 2)
    env = candidates.witness.wait_note("env", "a").data["env"]
    if serve:
        metrics_of(a.port)
    assert len([name for name in env if "ELECTOR" in name]) == (3 if serve else 0)
    lines = [line for line in a.log.splitlines() if line.startswith("import time:")]
    assert lines, "imports are told at all"
    modules = {line.rpartition("|")[2].strip() for line in lines}
    needed = {"tornado", "prometheus_client", "leaderexec.server"}
    assert modules & needed == (needed if serve else set())
    if not serve:
        assert not _servers(a)
        assert not a.events("serving")
