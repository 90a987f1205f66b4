"""The HTTP server in a process of its own: what it answers, and to whom it does not.

Guardian and elector are the test itself, which sends what they would. What the answers mean is in
test_board, what is measured in test_metrics.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
from contextlib import ExitStack, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import psutil
import pytest

from leaderexec import server
from leaderexec.board import Board
from leaderexec.channel import CallTook, ChildExited, Ping
from leaderexec.linux import boottime_ns
from leaderexec.model import SECOND_NS
from leaderexec.server import PATHS
from tests.support.candidate import state_of
from tests.support.http_clients import (
    OURS,
    EventReader,
    ServerUnderTest,
    is_closed,
    leading,
    lock_is,
    metrics_of,
    rest_of,
    shown_leader,
    standing,
    until,
    wait_shown,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Later than any test lasts.
LATER_NS: Final = 600 * SECOND_NS
GET: Final = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"
POST: Final = b"POST / HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n"
SHORTLY_NS: Final = SECOND_NS // 2
SINCE: Final = '"last_update":"2018-07-12T09:34:59Z"'


@pytest.fixture
def served() -> Iterator[ServerUnderTest]:
    """A server that has been told nothing."""
    with ServerUnderTest() as under_test:
        yield under_test


@pytest.fixture
def standby(served: ServerUnderTest) -> ServerUnderTest:
    """A server that knows of another leader."""
    stand_by(served)
    return served


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerUnderTest]:
    """A server that soon cuts off, to which a client need not be patient."""
    monkeypatch.setattr(server, "_REQUEST_NS", SHORTLY_NS)
    monkeypatch.setattr(server, "_LOOK_S", 0.1)
    with ServerUnderTest() as under_test:
        stand_by(under_test)
        yield under_test


def stand_by(served: ServerUnderTest, holder: str = "other") -> None:
    """Tell a server that somebody else leads, and wait until it knows."""
    served.tell(standing(), lock_is(holder, boottime_ns() + LATER_NS))
    wait_shown(served.port, holder)


def lead(served: ServerUnderTest) -> None:
    """Tell a server that it leads, and wait until it knows."""
    later_ns = boottime_ns() + LATER_NS
    served.tell(leading(later_ns), lock_is(OURS, later_ns))
    wait_shown(served.port, "host")


def wait_status(served: ServerUnderTest, path: str, status: int) -> None:
    """Wait until a path is answered with this status."""
    until(lambda: served.ask(path).status == status, f"{status}")


def wait_passed(duration_ns: int) -> None:
    """Wait until so much time has passed."""
    end_ns = boottime_ns() + duration_ns
    until(lambda: boottime_ns() > end_ns, "time passed")


def assert_sleeps(served: ServerUnderTest) -> None:
    """Fail if the server takes more than half of a processor while nothing happens."""
    process = psutil.Process(served.pid)
    before_s = sum(process.cpu_times()[:2])
    wait_passed(SHORTLY_NS)
    assert sum(process.cpu_times()[:2]) - before_s < 0.25


# --- the contract of 2016 --------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_any_path_and_any_method_tell_who_leads(standby: ServerUnderTest, method: str) -> None:
    """What is no path of its own is answered as in 2016, whatever is asked of it."""
    for path in ("/", "/anything", "/livez/", "/leader.json", "/?livez", "/%2f", "*"):
        reply = standby.ask(path, method, body=b"ignored" if method in {"POST", "PUT"} else None)
        assert reply.status == 200, path
        assert reply.headers["Content-Type"] == "application/json"
        assert reply.body.decode() == f'{{"name":"other","identity":"other",{SINCE}}}'


# --- its own paths ---------------------------------------------------------------------------


def test_probes_and_leader_say_yes_or_why_not(standby: ServerUnderTest) -> None:
    """200 or 503: who leads is told in both cases, and a probe's answer is for people too."""
    assert standby.ask("/leader").status == 503
    assert standby.ask("/leader").body == standby.ask("/").body
    lead(standby)
    wait_status(standby, "/leader", 200)
    assert standby.ask("/leader?x=y").body == standby.ask("/").body
    assert json.loads(standby.ask("/").body)["identity"] == OURS
    for path in ("/livez", "/healthz", "/readyz"):
        assert (standby.ask(path).status, standby.ask(path).body) == (200, b"ok")
    standby.tell(standing(elector_is_alive=False))
    wait_status(standby, "/leader", 503)
    for path in ("/livez", "/healthz", "/readyz"):
        reply = standby.ask(path)
        assert (reply.status, reply.body) == (503, b"the elector is dead")
        assert reply.headers["Content-Type"].startswith("text/plain")


def test_silence_is_noticed_although_nobody_asks(standby: ServerUnderTest) -> None:
    """The server looks by itself, so that a question after a while finds the others silent.

    Each question comes so long after the one before that it would excuse the silence, if questions
    were the only looks.
    """
    assert standby.ask("/livez").status == 200

    def found() -> bool:
        wait_passed(5 * SECOND_NS // 2)
        return standby.ask("/livez").status == 503

    until(found, "silence was noticed")


def test_status_and_metrics_tell_what_the_server_was_told(standby: ServerUnderTest) -> None:
    """JSON, and metrics of the tree below the keeper, in the format that was asked for."""
    reply = standby.ask("/status")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
    assert json.loads(reply.body)["name"] == "other"
    standby.tell(CallTook("renew", "ok", 1000), ChildExited(3))
    # The keeper that the guardian names is the root of what is measured: the server is our child.
    standby.tell(leading(boottime_ns() + LATER_NS, keeper_pid=os.getpid()))
    until(lambda: metrics_of(standby.port)["leaderexec_tree_processes"] >= 2, "measured")
    assert metrics_of(standby.port)['leaderexec_child_exits_total{code="3"}'] == 1
    reply = standby.ask("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert reply.headers["Content-Type"].startswith("application/openmetrics-text")


def test_every_documented_path_takes_get_and_head_only(standby: ServerUnderTest) -> None:
    """No path of the table is answered as any other would be; what is accepted is told."""
    for path, _ in PATHS:
        reply = standby.ask(path, "POST", body=b"{}")
        assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD")
        assert reply.body.decode() == f"POST {path}: accepted: GET, HEAD"
        assert standby.ask(path, "HEAD").status == (503 if path == "/leader" else 200), path


@pytest.mark.parametrize("path", ["/", "/leader", "/livez", "/status", "/metrics", "/events"])
def test_head_has_the_headers_and_no_body(standby: ServerUnderTest, path: str) -> None:
    """The next answer on the same connection begins where the body would have been.

    A cache would tell of a leader that was, so none is to store it; nothing tells which server it
    is.
    """
    head = GET.replace(b"GET", b"HEAD") % path.encode()
    last = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") % b"/livez"
    with standby.connect(head + last) as sock:
        first, second, body = rest_of(sock).decode().split("\r\n\r\n")
    assert first.startswith("HTTP/1.1 503" if path == "/leader" else "HTTP/1.1 200")
    assert ("Content-Length: " in first) is (path != "/events")
    assert "Cache-Control: no-store" in first
    assert re.search("Date: .* GMT", first)
    assert "Server" not in first
    assert second.startswith("HTTP/1.1 200")
    assert body == "ok"


def test_a_defect_is_answered_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong with one answer, the next is given."""
    monkeypatch.setattr(Board, "status", lambda *_: 1 / 0)
    with ServerUnderTest() as served:
        assert served.ask("/status").status == 500
        assert served.ask("/livez").status == 200


# --- the protocol ----------------------------------------------------------------------------


#: What is sent, and what the answer begins with, if there is one, before the connection is closed.
PROTOCOL: Final = {
    "http 1.0": (b"GET /livez HTTP/1.0\r\n\r\n", b"HTTP/1.1 200"),
    "http 1.0 that asks for more": (
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /livez HTTP/1.0\r\n\r\n",
        b"HTTP/1.1 200",
    ),
    "chunked": (
        POST % b"Transfer-Encoding: chunked\r\nConnection: close" + b"3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200",
    ),
    "long body": (POST % b"Content-Length: 65537", b"HTTP/1.1 400"),
    "no http": (b"nonsense\r\n\r\n", b""),
    "http2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b""),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b""),
    "length": (b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b""),
    "length and chunked": (POST % b"Content-Length: 1\r\nTransfer-Encoding: chunked", b""),
    "long chunk": (POST % b"Transfer-Encoding: chunked" + b"10001\r\n" + b"x" * 65537, b""),
    "long header": (b"GET / HTTP/1.1\r\nX: " + b"x" * 16384 + b"\r\n\r\n", b""),
    "endless": (b"x" * 40000, b""),
}


@pytest.mark.parametrize(("sent", "begin"), PROTOCOL.values(), ids=PROTOCOL)
def test_how_a_request_may_come(standby: ServerUnderTest, sent: bytes, begin: bytes) -> None:
    """Old clients and bodies are borne; what is no request, or too large, is cut off at once."""
    with standby.connect() as sock:
        with suppress(BrokenPipeError, ConnectionResetError):  # cut off while it is being sent
            sock.sendall(sent)
        answer = rest_of(sock)
    assert answer.startswith(begin)
    assert (b" 200 " in answer) is (b" 200" in begin)
    assert shown_leader(standby.port) == "other"


def test_the_largest_request_is_answered(standby: ServerUnderTest) -> None:
    """Up to the bounds nothing is refused, however it comes in pieces."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\nConnection: close\r\nX: "
    head += b"x" * (16384 - len(head) - 4) + b"\r\n\r\n"
    with standby.connect(head[:1]) as sock:
        standby.wait_clients(1)
        sock.sendall(head[1:] + b"x" * 65536)
        assert rest_of(sock).startswith(b"HTTP/1.1 200")


def test_a_client_that_has_said_all_gets_its_answer(standby: ServerUnderTest) -> None:
    """A connection that is closed for writing is answered, and then does not stay."""
    with standby.connect(GET % b"/livez") as sock:
        sock.shutdown(socket.SHUT_WR)
        assert rest_of(sock).endswith(b"\r\n\r\nok")
        standby.wait_clients(0)


# --- events ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/events", "/sse"])
def test_events_tell_of_the_present_and_of_every_change(
    standby: ServerUnderTest, path: str
) -> None:
    """One event at once, then one for each change of the holder or of the leader flag."""
    with EventReader(standby.port, path) as reader:
        assert reader.headers["Content-Type"] == "text/event-stream"
        assert reader.headers["Cache-Control"] == "no-store"
        assert reader.data() == f'{{"name":"other","identity":"other",{SINCE},"leader":false}}'
        later_ns = boottime_ns() + LATER_NS
        standby.tell(lock_is("other", later_ns + 1), standing(lines_dropped=1))  # nothing changed
        standby.tell(lock_is(OURS, later_ns))
        assert reader.data() == f'{{"name":"host","identity":"{OURS}",{SINCE},"leader":false}}'
        standby.tell(leading(later_ns))
        assert reader.data() == f'{{"name":"host","identity":"{OURS}",{SINCE},"leader":true}}'


def test_events_tell_what_time_changes(standby: ServerUnderTest) -> None:
    """When guardian and elector are stopped, neither a leader nor a holder is shown for ever."""
    lead(standby)
    wait_status(standby, "/leader", 200)
    with EventReader(standby.port) as reader:
        assert reader.who() == ("host", True)
        for news, told in (
            (leading, ("host", False)),
            (lambda end_ns: lock_is(OURS, end_ns), ("", False)),
        ):
            end_ns = boottime_ns() + SHORTLY_NS
            standby.tell(news(end_ns))
            assert reader.who() == told
            assert boottime_ns() >= end_ns
            assert (shown_leader(standby.port), standby.ask("/leader").status) == (told[0], 503)


def test_a_reader_hears_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """Now and then a comment, which no client takes for an event."""
    monkeypatch.setattr(server, "_KEEP_ALIVE_NS", SECOND_NS // 10)
    monkeypatch.setattr(server, "_LOOK_S", 0.1)
    with ServerUnderTest() as served, EventReader(served.port) as reader:
        reader.data()
        assert reader.line().startswith(":")
        assert reader.line().startswith(":")
        served.tell(lock_is("other", boottime_ns() + LATER_NS))
        assert reader.who() == ("other", False)


def test_a_reader_that_leaves_is_forgotten(standby: ServerUnderTest) -> None:
    """Whether it closes both ways or only its own, nothing of it stays."""
    with standby.connect(GET % b"/events") as half:
        assert half.recv(65536)
        with EventReader(standby.port) as reader:
            reader.data()
            standby.wait_clients(2)
        half.shutdown(socket.SHUT_WR)
        standby.wait_clients(0)


def test_readers_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is told so, and may come back when another has left."""
    monkeypatch.setattr(server, "_EVENT_READERS", 2)
    with ServerUnderTest() as served, EventReader(served.port) as stays:
        with EventReader(served.port) as leaves, EventReader(served.port) as refused:
            assert [stays.status, leaves.status, refused.status] == [200, 200, 503]
            assert refused.line() == "2 event readers are the most accepted"

        def accepted() -> bool:
            with EventReader(served.port) as again:
                return again.status == 200

        until(accepted, "there was room again")


def test_a_reader_that_does_not_read_is_dropped(standby: ServerUnderTest) -> None:
    """It costs neither memory nor the others' time; who reads misses nothing."""
    slow = standby.connect(GET % b"/events", receive_bytes=2048)
    with slow, EventReader(standby.port) as reader:
        assert reader.who() == ("other", False)
        standby.wait_clients(2)
        later_ns = boottime_ns() + LATER_NS
        told = 0
        while standby.clients() == 2:
            told += 1
            assert told < 1000, "the slow one is still there"
            standby.tell(lock_is(f"holder-{told}", later_ns))
            assert reader.who() == (f"holder-{told}", False)
        assert f"holder-{told}".encode() not in rest_of(slow)


# --- hostile clients -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "trickle"),
    [
        (b"", b""),
        (b"GET / HTTP/1.1\r\nX: ", b"x" * 16000),
        (POST % b"Content-Length: 60000", b"x" * 59999),
        (GET % b"/", b""),
    ],
    ids=["silent", "header", "body", "idle"],
)
def test_whoever_takes_too_long_is_cut_off(
    impatient: ServerUnderTest, sent: bytes, trickle: bytes
) -> None:
    """Whether it says nothing, or trickles so that it never ends, or is only idle."""
    left = iter(trickle)
    with impatient.connect(sent) as sock:

        def closed() -> bool:
            for byte in islice(left, 1):
                with suppress(BrokenPipeError, ConnectionResetError):  # it has just been cut off
                    sock.send(bytes([byte]))
            return is_closed(sock)

        until(closed, "it was cut off")
    assert shown_leader(impatient.port) == "other"


def test_whoever_does_not_take_its_answers_is_cut_off(impatient: ServerUnderTest) -> None:
    """Requests without an end, and nobody who reads."""
    with impatient.connect(receive_bytes=2048) as sock:
        sock.setblocking(False)

        def cut_off() -> bool:
            try:
                while True:
                    sock.send((GET % b"/metrics") * 100)
            except BlockingIOError:
                return False
            except (BrokenPipeError, ConnectionResetError):
                return True

        until(cut_off, "it was cut off")
    assert shown_leader(impatient.port) == "other"


def test_whoever_keeps_asking_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is one request's, not the connection's; and readers of events owe nothing more."""
    # Long enough that neither end is kept from running for so long between two requests.
    monkeypatch.setattr(server, "_REQUEST_NS", 3 * SECOND_NS // 2)
    with ServerUnderTest() as served, served.connect() as sock, EventReader(served.port) as reader:
        end_ns = boottime_ns() + 2 * SECOND_NS

        def asked_until_then() -> bool:
            sock.sendall(GET % b"/")
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")
            return boottime_ns() > end_ns

        until(asked_until_then, "time passed")
        stand_by(served, "another")
        assert (reader.who(), reader.who()) == (("", False), ("another", False))


def test_a_crowd_does_not_keep_a_probe_out(standby: ServerUnderTest) -> None:
    """Six hundred connections that say nothing: the oldest go, the readers stay, we get in."""
    with ExitStack() as stack:
        readers = [stack.enter_context(EventReader(standby.port)) for _ in range(50)]
        assert {reader.who() for reader in readers} == {("other", False)}
        idle = [stack.enter_context(standby.connect()) for _ in range(600)]
        assert shown_leader(standby.port) == "other"
        standby.wait_clients(511)  # room was made for the one that asked, and it has left
        assert metrics_of(standby.port)["leaderexec_http_connections"] == 512
        until(lambda: is_closed(idle[0]), "the oldest was closed")
        assert not is_closed(idle[-1])
        stand_by(standby, "another")
        assert {reader.who() for reader in readers} == {("another", False)}
    standby.wait_clients(0)
    until(
        lambda: metrics_of(standby.port)["leaderexec_http_connections"] == 1, "all were forgotten"
    )


def test_without_descriptors_the_oldest_makes_room() -> None:
    """At the limit of descriptors a probe gets in as well."""
    with ServerUnderTest(descriptors=30) as served, ExitStack() as stack:
        idle = [stack.enter_context(served.connect()) for _ in range(60)]
        assert served.ask("/livez").body == b"ok"
        until(lambda: is_closed(idle[0]), "the oldest was closed")
        assert not is_closed(idle[-1])


def test_without_descriptors_and_without_room_it_waits_and_does_not_spin() -> None:
    """When all that it has are readers of events, the next client waits until one leaves."""
    with ServerUnderTest(descriptors=30) as served, ExitStack() as stack:
        readers = []
        while free_descriptors(served):
            readers.append(stack.enter_context(served.connect(GET % b"/events")))
            assert readers[-1].recv(1)
        waiting = stack.enter_context(served.connect(GET % b"/"))
        assert_sleeps(served)
        assert served.clients() == len(readers)
        readers[0].close()
        assert waiting.recv(65536).startswith(b"HTTP/1.1 200")


def free_descriptors(served: ServerUnderTest) -> int:
    """Return how many descriptors the server may still open."""
    end, _ = resource.prlimit(served.pid, resource.RLIMIT_NOFILE)
    taken = set(map(int, os.listdir(f"/proc/{served.pid}/fd")))
    return sum(fd not in taken for fd in range(end))


# --- its life --------------------------------------------------------------------------------


def test_it_ends_with_its_guardian_and_not_with_the_channel(standby: ServerUnderTest) -> None:
    """A guardian that is dying is not dead; until it is, what it said holds, and nothing spins."""
    with EventReader(standby.port) as reader:
        reader.data()
        standby.hang_up()
        assert_sleeps(standby)
        assert shown_leader(standby.port) == "other"
        standby.kill_guardian()
        assert standby.exit_status() == 0
        assert reader.line() == ""


def test_signals_and_other_messages_end_nothing(standby: ServerUnderTest) -> None:
    """What a terminal or a service manager sends to everybody does not end or stop it.

    A message for somebody else is passed over, and what follows it is heard.
    """
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
        os.kill(standby.pid, signum)
    message: Any = Ping()
    standby.tell(message)
    stand_by(standby, "another")
    assert state_of(standby.pid) not in {"T", "Z"}
