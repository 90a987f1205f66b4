"""Tests of the HTTP server in a process of its own: what it answers, and to whom it does not.

Clients are sockets and http.client; guardian and elector are the test itself, which sends what
they would. See test_board for what the answers mean.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Final

import psutil
import pytest

from leaderexec import server
from leaderexec.board import STATUS, Board
from leaderexec.channel import CallTook, ChildExited, Ping
from leaderexec.linux import boottime_ns
from leaderexec.metrics import METRICS
from leaderexec.model import SECOND_NS
from leaderexec.server import PATHS
from tests.support.candidate import state_of
from tests.support.http_clients import (
    BOUND_S,
    OURS,
    ServerUnderTest,
    is_closed,
    leading,
    lock_is,
    rest_of,
    standing,
)
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Later than any test lasts.
LATER_NS: Final = 600 * SECOND_NS
GET: Final = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"


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


def stand_by(served: ServerUnderTest, holder: str = "other") -> None:
    """Tell a server that somebody else leads, and wait until it knows."""
    served.tell(standing(), lock_is(holder, boottime_ns() + LATER_NS))
    wait_until(lambda: name(served) == holder, timeout_s=BOUND_S, what="told who leads")


def lead(served: ServerUnderTest, *, renew_by_ns: int | None = None) -> None:
    """Tell a server that it leads."""
    later_ns = boottime_ns() + LATER_NS
    served.tell(leading(renew_by_ns or later_ns), lock_is(OURS, later_ns))


def name(served: ServerUnderTest) -> str:
    """Return who leads, as any client of 2016 would learn it."""
    return str(json.loads(served.ask("/").body)["name"])


def metric(served: ServerUnderTest, name_: str) -> float:
    """Return the value of a metric without labels."""
    (line,) = re.findall(rf"^{name_} (\S+)$", served.ask("/metrics").body.decode(), re.MULTILINE)
    return float(line)


def assert_sleeps(served: ServerUnderTest) -> None:
    """Fail if the server takes more than a quarter of a processor while nothing happens."""
    process = psutil.Process(served.pid)
    before_s = sum(process.cpu_times()[:2])
    end_ns = boottime_ns() + 2 * SECOND_NS
    wait_until(lambda: boottime_ns() > end_ns, timeout_s=BOUND_S, what="time passed")
    assert sum(process.cpu_times()[:2]) - before_s < 0.5


# --- the contract of 2016 --------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_any_path_and_any_method_tell_who_leads(standby: ServerUnderTest, method: str) -> None:
    """What is no path of ours is answered as in 2016, whatever is asked of it."""
    for path in ("/", "/anything", "/livez/", "/leader.json", "/?livez", "/%2f", "*"):
        reply = standby.ask(path, method, body=b"ignored" if method in {"POST", "PUT"} else None)
        assert reply.status == 200, path
        assert reply.headers["Content-Type"] == "application/json"
        assert reply.body == (
            b'{"name":"other","identity":"other","last_update":"2018-07-12T09:34:59Z"}'
        )


def test_nobody_is_known_at_first(served: ServerUnderTest) -> None:
    """Without news the name is empty, as it always was."""
    assert served.ask("/").body.startswith(b'{"name":"","identity":""')


def test_a_suffix_of_ours_is_hidden(served: ServerUnderTest) -> None:
    """Who compares the name with a host name finds it."""
    lead(served)
    wait_until(lambda: name(served) == "host", timeout_s=BOUND_S, what="told who leads")
    assert json.loads(served.ask("/").body)["identity"] == OURS


def test_a_name_that_was_given_is_shown_as_it_is() -> None:
    """--id looks like ours and is not: the server is told which it is."""
    with ServerUnderTest(identity_is_generated=False) as served:
        lead(served)
        wait_until(lambda: name(served) == OURS, timeout_s=BOUND_S, what="told who leads")


def test_an_answer_ends_with_its_time_without_another_word(served: ServerUnderTest) -> None:
    """When guardian and elector are stopped, neither a holder nor a leader is shown for ever."""
    over_ns = boottime_ns() + SECOND_NS
    served.tell(leading(over_ns), lock_is("other", over_ns))
    replies = {}

    def over() -> bool:
        before_ns = boottime_ns()
        for path in ("/", "/leader"):
            replies[path] = served.ask(path)
        if boottime_ns() < over_ns:
            assert json.loads(replies["/"].body)["name"] in {"", "other"}  # "" until it has heard
        else:
            return before_ns >= over_ns
        return False

    wait_until(over, timeout_s=BOUND_S, what="its time was over")
    assert json.loads(replies["/"].body)["name"] == ""
    assert replies["/leader"].status == 503


# --- our own paths ---------------------------------------------------------------------------


def test_only_the_leader_is_the_leader(standby: ServerUnderTest) -> None:
    """503 on a standby, 200 on the leader, 503 again while its child stops; always who leads."""
    assert standby.ask("/leader").status == 503
    assert standby.ask("/leader").body == standby.ask("/").body
    lead(standby)
    wait_until(lambda: standby.ask("/leader").status == 200, timeout_s=BOUND_S, what="leads")
    assert standby.ask("/leader?x=y").body == standby.ask("/").body
    standby.tell(leading(boottime_ns() + LATER_NS, state="stopping"))
    wait_until(lambda: standby.ask("/leader").status == 503, timeout_s=BOUND_S, what="stops")
    assert name(standby) == "host"


@pytest.mark.parametrize("path", ["/livez", "/healthz", "/readyz"])
def test_a_probe_says_ok_or_why_not(standby: ServerUnderTest, path: str) -> None:
    """A probe's answer is for people too."""
    reply = standby.ask(path)
    assert (reply.status, reply.body) == (200, b"ok")
    standby.tell(standing(elector_is_alive=False))
    wait_until(lambda: standby.ask(path).status == 503, timeout_s=BOUND_S, what="it was told")
    reply = standby.ask(path)
    assert reply.body == b"the elector is dead"
    assert reply.headers["Content-Type"].startswith("text/plain")


def test_live_is_not_ready(served: ServerUnderTest) -> None:
    """Before the lock is open a candidate is alive, and not to be counted on."""
    assert served.ask("/livez").status == 200
    assert served.ask("/readyz").body == b"the lock is not open yet"


def test_silence_is_noticed_although_nobody_asks(standby: ServerUnderTest) -> None:
    """The server looks by itself, so that a question after a while finds others silent, not us.

    Each question comes so long after the one before that it would excuse the silence, if questions
    were the only looks.
    """
    assert standby.ask("/livez").status == 200

    def found() -> bool:
        next_ns = boottime_ns() + 5 * SECOND_NS // 2
        wait_until(lambda: boottime_ns() > next_ns, timeout_s=BOUND_S, what="time passed")
        return standby.ask("/livez").status == 503

    wait_until(found, timeout_s=BOUND_S, what="silence was noticed")


def test_the_status_is_the_documented_object(standby: ServerUnderTest) -> None:
    """JSON with the keys of the table in its order."""
    reply = standby.ask("/status")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
    status = json.loads(reply.body)
    assert list(status) == [key for key, _, _ in STATUS]
    assert status["name"] == "other"


def test_metrics_are_told_in_the_format_that_was_asked_for(standby: ServerUnderTest) -> None:
    """All of the table, from news that went through the channel."""
    standby.tell(CallTook("renew", "ok", 1000), ChildExited(3))
    wait_until(
        lambda: b'leaderexec_child_exits_total{code="3"} 1.0\n' in standby.ask("/metrics").body,
        timeout_s=BOUND_S,
        what="the exit was counted",
    )
    reply = standby.ask("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert reply.headers["Content-Type"].startswith("application/openmetrics-text")
    assert reply.body.endswith(b"# EOF\n")
    for name_, *_ in METRICS:
        assert f"# TYPE {name_.removesuffix('_total')} ".encode() in reply.body


def test_a_tree_is_measured_by_a_scrape(standby: ServerUnderTest) -> None:
    """The keeper that the guardian names is the root of what is counted."""
    standby.tell(leading(boottime_ns() + LATER_NS, keeper_pid=os.getpid()))
    wait_until(  # the server and its guardian are our children
        lambda: metric(standby, "leaderexec_tree_processes") >= 2,
        timeout_s=BOUND_S,
        what="measured",
    )


def test_every_documented_path_is_our_own(standby: ServerUnderTest) -> None:
    """The table has no path that is answered as any other would be."""
    lead(standby)
    wait_until(lambda: name(standby) == "host", timeout_s=BOUND_S, what="told who leads")
    for path, meaning in PATHS:
        assert meaning
        assert standby.ask(path, "POST").status == 405, path
        head = standby.ask(path, "HEAD")
        assert head.status == 200, path
        types = {"application/json", "text/plain", "text/event-stream"}
        assert head.headers["Content-Type"].partition(";")[0] in types


def test_a_path_of_ours_takes_get_and_head_only(standby: ServerUnderTest) -> None:
    """Other methods are told what would be accepted."""
    reply = standby.ask("/livez", "POST", body=b"{}")
    assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD")
    assert reply.body == b"POST /livez: accepted: GET, HEAD"


@pytest.mark.parametrize("path", ["/", "/leader", "/livez", "/status", "/metrics", "/events"])
def test_head_has_the_headers_and_no_body(standby: ServerUnderTest, path: str) -> None:
    """The next answer on the same connection begins where the body would have been."""
    head = GET.replace(b"GET", b"HEAD") % path.encode()
    last = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") % b"/livez"
    with standby.connect(head + last) as sock:
        first, second, body = rest_of(sock).decode().split("\r\n\r\n")
    assert first.startswith("HTTP/1.1 503" if path == "/leader" else "HTTP/1.1 200")
    assert ("Content-Length: " in first) is (path != "/events")
    assert second.startswith("HTTP/1.1 200")
    assert body == "ok"


def test_answers_are_not_to_be_stored(standby: ServerUnderTest) -> None:
    """A cache would tell of a leader that was; nothing tells which server this is."""
    for path in ("/", "/leader", "/livez", "/readyz", "/status", "/metrics", "/nothing"):
        headers = standby.ask(path).headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["Date"].endswith("GMT")
        assert "Server" not in headers


def test_a_defect_of_ours_is_answered_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong with one answer, the next is given."""
    monkeypatch.setattr(Board, "status", lambda *_: 1 / 0)
    with ServerUnderTest() as served:
        assert served.ask("/status").status == 500
        assert served.ask("/livez").status == 200


# --- the protocol ----------------------------------------------------------------------------


def test_a_connection_is_kept_for_the_next_request(standby: ServerUnderTest) -> None:
    """HTTP/1.1 keeps it unless told otherwise, also after a body that nobody wanted."""
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    with standby.connect(post) as sock:
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        sock.sendall(GET % b"/livez")
        assert sock.recv(65536).endswith(b"\r\n\r\nok")
        wait_until(lambda: standby.clients() == 1, timeout_s=BOUND_S, what="it alone is left")
        assert metric(standby, "leaderexec_http_connections") == 2
    wait_until(lambda: standby.clients() == 0, timeout_s=BOUND_S, what="it was closed")


@pytest.mark.parametrize("kept", [False, True])
def test_http_1_0(standby: ServerUnderTest, kept: bool) -> None:
    """An old client gets its answer and an end, unless it asks for more."""
    keep = b"Connection: keep-alive\r\n" if kept else b""
    with standby.connect(b"GET /livez HTTP/1.0\r\n" + keep + b"\r\n") as sock:
        if kept:
            assert sock.recv(65536).endswith(b"\r\n\r\nok")
            sock.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        assert rest_of(sock).endswith(b"\r\n\r\nok")


def test_a_chunked_body_is_received_and_ignored(standby: ServerUnderTest) -> None:
    """Neither of the two ways to send a body makes a difference."""
    chunked = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n"
    with standby.connect(chunked + b"\r\n3\r\nabc\r\n0\r\n\r\n") as sock:
        assert rest_of(sock).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10001\r\n" + b"x" * 65537,
        b"GET / HTTP/1.1\r\nX: " + b"x" * 16384 + b"\r\n\r\n",
        b"x" * 40000,
    ],
    ids=["no-http", "http2", "tls", "length", "both", "chunks", "header", "endless"],
)
def test_what_is_no_request_or_too_large_is_cut_off(
    standby: ServerUnderTest, request_: bytes
) -> None:
    """The connection ends, without the answer that a good request would have had."""
    with standby.connect() as sock:
        with suppress(BrokenPipeError, ConnectionResetError):  # cut off while we are sending
            sock.sendall(request_)
        assert b" 200 " not in rest_of(sock)
    assert name(standby) == "other"


def test_a_body_that_is_too_large_is_refused_unread(standby: ServerUnderTest) -> None:
    """Nobody waits for what is not going to be read."""
    with standby.connect(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n") as sock:
        assert rest_of(sock).startswith(b"HTTP/1.1 400")


def test_the_largest_request_is_answered(standby: ServerUnderTest) -> None:
    """Up to the bounds nothing is refused, however it comes in pieces."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\nConnection: close\r\nX: "
    head += b"x" * (16384 - len(head) - 4) + b"\r\n\r\n"
    assert len(head) == 16384
    with standby.connect(head[:1]) as sock:
        wait_until(lambda: standby.clients() == 1, timeout_s=BOUND_S, what="it was accepted")
        assert name(standby) == "other"
        sock.sendall(head[1:] + b"x" * 65536)
        assert rest_of(sock).startswith(b"HTTP/1.1 200")


def test_a_client_that_has_said_all_gets_its_answer(standby: ServerUnderTest) -> None:
    """A connection that is closed for writing is answered, and then does not stay."""
    with standby.connect() as sock:
        sock.sendall(GET % b"/livez")
        sock.shutdown(socket.SHUT_WR)
        assert rest_of(sock).endswith(b"\r\n\r\nok")
        wait_until(lambda: standby.clients() == 0, timeout_s=BOUND_S, what="it was closed")


# --- events ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/events", "/sse"])
def test_events_tell_of_the_present_and_of_every_change(
    standby: ServerUnderTest, path: str
) -> None:
    """One event at once, then one for each change of the holder or of the leader flag."""
    reader = standby.read_events(path)
    assert reader.headers["Content-Type"] == "text/event-stream"
    assert reader.headers["Cache-Control"] == "no-store"
    since = '"last_update":"2018-07-12T09:34:59Z"'
    assert reader.data() == f'{{"name":"other","identity":"other",{since},"leader":false}}'
    later_ns = boottime_ns() + LATER_NS
    standby.tell(lock_is("other", later_ns + 1), standing(lines_dropped=1))  # nothing changed
    standby.tell(lock_is(OURS, later_ns))
    assert reader.data() == f'{{"name":"host","identity":"{OURS}",{since},"leader":false}}'
    standby.tell(leading(later_ns))
    assert reader.data() == f'{{"name":"host","identity":"{OURS}",{since},"leader":true}}'
    reader.close()


def test_events_tell_what_time_changes(standby: ServerUnderTest) -> None:
    """A leader whose time is over, and then a holder, are told of without another word."""
    now_ns = boottime_ns()
    standby.tell(leading(now_ns + LATER_NS), lock_is(OURS, now_ns + LATER_NS))
    wait_until(lambda: name(standby) == "host", timeout_s=BOUND_S, what="told who leads")
    reader = standby.read_events()
    first = json.loads(reader.data())
    assert (first["name"], first["leader"]) == ("host", True)
    now_ns = boottime_ns()
    standby.tell(leading(now_ns + SECOND_NS))
    event = json.loads(reader.data())
    assert (event["name"], event["leader"]) == ("host", False)
    assert boottime_ns() >= now_ns + SECOND_NS
    now_ns = boottime_ns()
    standby.tell(lock_is(OURS, now_ns + SECOND_NS))
    event = json.loads(reader.data())
    assert (event["name"], event["leader"]) == ("", False)
    assert boottime_ns() >= now_ns + SECOND_NS
    reader.close()


def test_a_reader_hears_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """Now and then a comment, which no client takes for an event."""
    monkeypatch.setattr(server, "_KEEP_ALIVE_NS", SECOND_NS // 2)
    with ServerUnderTest() as served:
        reader = served.read_events()
        reader.data()
        assert reader.line().startswith(":")
        assert reader.line().startswith(":")
        served.tell(lock_is("other", boottime_ns() + LATER_NS))
        assert json.loads(reader.data())["name"] == "other"
        reader.close()


def test_a_reader_of_http_1_0(standby: ServerUnderTest) -> None:
    """Without chunks the events are the same."""
    with standby.connect(b"GET /events HTTP/1.0\r\n\r\n") as sock:
        file = sock.makefile("rb")
        assert file.readline().startswith(b"HTTP/1.1 200")
        while file.readline() != b"\r\n":
            pass
        assert json.loads(file.readline().partition(b": ")[2])["name"] == "other"
        file.close()


def test_a_reader_that_leaves_is_forgotten(standby: ServerUnderTest) -> None:
    """Whether it closes both ways or only its own, nothing of it stays."""
    reader = standby.read_events()
    reader.data()
    half = standby.connect(GET % b"/events")
    assert half.recv(65536)
    wait_until(lambda: standby.clients() == 2, timeout_s=BOUND_S, what="both are there")
    reader.close()
    half.shutdown(socket.SHUT_WR)
    wait_until(lambda: standby.clients() == 0, timeout_s=BOUND_S, what="both were closed")
    half.close()


def test_readers_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is told so, and may come back when another has left."""
    monkeypatch.setattr(server, "_EVENT_READERS", 3)
    with ServerUnderTest() as served:
        readers = [served.read_events() for _ in range(3)]
        assert [reader.status for reader in readers] == [200] * 3
        refused = served.read_events()
        assert (refused.status, refused.line()) == (503, "3 event readers are the most accepted")
        refused.close()
        readers.pop().close()

        def accepted() -> bool:
            readers.append(served.read_events())
            return readers[-1].status == 200

        wait_until(accepted, timeout_s=BOUND_S, what="there was room again")
        for reader in readers:
            reader.close()


def test_a_reader_that_does_not_read_is_dropped(standby: ServerUnderTest) -> None:
    """It costs neither memory nor the others' time; who reads misses nothing."""
    slow = standby.connect(GET % b"/events", receive_bytes=2048)
    reader = standby.read_events()
    assert json.loads(reader.data())["name"] == "other"
    wait_until(lambda: standby.clients() == 2, timeout_s=BOUND_S, what="both are there")
    later_ns = boottime_ns() + LATER_NS
    told = 0
    while standby.clients() == 2:
        told += 1
        assert told < 1000, "the slow one is still there"
        standby.tell(lock_is(f"holder-{told}", later_ns))
        assert json.loads(reader.data())["name"] == f"holder-{told}"
    assert f"holder-{told}".encode() not in rest_of(slow)
    slow.close()
    reader.close()


# --- hostile clients -------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerUnderTest]:
    """A server that cuts off after a second, to which a client need not be patient."""
    monkeypatch.setattr(server, "_REQUEST_NS", SECOND_NS)
    with ServerUnderTest() as under_test:
        stand_by(under_test)
        yield under_test


def _trickle(data: bytes) -> Callable[[socket.socket], object]:
    """Return a client that sends a byte whenever it is asked to, and then nothing more."""
    left = iter(data)

    def send(sock: socket.socket) -> None:
        byte = next(left, None)
        if byte is not None:
            with suppress(BrokenPipeError, ConnectionResetError):  # it has just been cut off
                sock.send(bytes([byte]))

    return send


@pytest.mark.parametrize(
    ("sent", "then"),
    [
        (b"", _trickle(b"")),
        (b"GET / HTTP/1.1\r\nX: ", _trickle(b"x" * 16000)),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n", _trickle(b"x" * 59999)),
        (GET % b"/", _trickle(b"")),
    ],
    ids=["silent", "header", "body", "idle"],
)
def test_whoever_takes_too_long_is_cut_off(
    impatient: ServerUnderTest, sent: bytes, then: Callable[[socket.socket], object]
) -> None:
    """Whether it says nothing, or trickles so that it never ends, or is only idle."""
    with impatient.connect(sent) as sock:

        def closed() -> bool:
            then(sock)
            return is_closed(sock)

        wait_until(closed, timeout_s=BOUND_S, what="it was cut off")
    assert name(impatient) == "other"


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

        wait_until(cut_off, timeout_s=BOUND_S, what="it was cut off")
    assert name(impatient) == "other"


def test_whoever_keeps_asking_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is one request's, not the connection's."""
    # Long enough that neither end is kept from running for so long between two requests.
    monkeypatch.setattr(server, "_REQUEST_NS", 5 * SECOND_NS)
    with ServerUnderTest() as served, served.connect() as sock:
        end_ns = boottime_ns() + 6 * SECOND_NS

        def asked_until_then() -> bool:
            sock.sendall(GET % b"/")
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")
            return boottime_ns() > end_ns

        wait_until(asked_until_then, timeout_s=BOUND_S, what="time passed")


def test_event_readers_stay_however_long(impatient: ServerUnderTest) -> None:
    """Who reads events owes nothing more."""
    reader = impatient.read_events()
    reader.data()
    end_ns = boottime_ns() + 3 * SECOND_NS
    wait_until(lambda: boottime_ns() > end_ns, timeout_s=BOUND_S, what="time passed")
    stand_by(impatient, "another")
    assert json.loads(reader.data())["name"] == "another"
    reader.close()


def test_a_crowd_does_not_keep_a_probe_out(standby: ServerUnderTest) -> None:
    """Six hundred connections that say nothing: the oldest go, the readers stay, we get in."""
    with ExitStack() as stack:
        readers = [standby.read_events() for _ in range(50)]
        for reader in readers:
            stack.callback(reader.close)
            assert json.loads(reader.data())["name"] == "other"
        idle = [stack.enter_context(standby.connect()) for _ in range(600)]
        assert name(standby) == "other"
        # Room was made for the one that asked, and it has left.
        wait_until(lambda: standby.clients() == 511, timeout_s=BOUND_S, what="511 are connected")
        assert metric(standby, "leaderexec_http_connections") == 512
        wait_until(lambda: is_closed(idle[0]), timeout_s=BOUND_S, what="the oldest went")
        assert not is_closed(idle[-1])
        stand_by(standby, "another")
        assert {json.loads(reader.data())["name"] for reader in readers} == {"another"}
    wait_until(lambda: standby.clients() == 0, timeout_s=BOUND_S, what="all were closed")
    wait_until(  # a reader is forgotten a moment after its end
        lambda: metric(standby, "leaderexec_http_connections") == 1,
        timeout_s=BOUND_S,
        what="all were forgotten",
    )


def test_without_descriptors_the_oldest_makes_room() -> None:
    """At the limit of descriptors a probe gets in as well."""
    with ServerUnderTest(descriptors=30) as served, ExitStack() as stack:
        idle = [stack.enter_context(served.connect()) for _ in range(60)]
        assert served.ask("/livez").body == b"ok"
        wait_until(lambda: is_closed(idle[0]), timeout_s=BOUND_S, what="the oldest went")
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


def test_it_ends_with_its_guardian(standby: ServerUnderTest) -> None:
    """Nothing of a leaderexec outlives it, whoever is connected."""
    reader = standby.read_events()
    reader.data()
    standby.kill_guardian()
    assert standby.exit_status() == 0
    assert reader.line() == ""
    reader.close()


def test_it_does_not_end_with_the_channel(standby: ServerUnderTest) -> None:
    """A guardian that is dying is not dead; until it is, what it said holds, and nothing spins."""
    standby.hang_up()
    assert_sleeps(standby)
    assert name(standby) == "other"
    standby.kill_guardian()
    assert standby.exit_status() == 0


def test_clients_wait_for_its_successor(standby: ServerUnderTest) -> None:
    """Whoever connects while there is none is answered by the next, on the same socket."""
    standby.kill()
    with standby.connect(GET % b"/livez") as sock:
        standby.start()
        assert sock.recv(65536).endswith(b"\r\n\r\nok")
    stand_by(standby, "another")


def test_signals_are_for_the_guardian(standby: ServerUnderTest) -> None:
    """What a terminal or a service manager sends to everybody does not end or stop it."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
        os.kill(standby.pid, signum)
    assert name(standby) == "other"
    assert state_of(standby.pid) not in {"T", "Z"}


def test_what_is_no_news_is_passed_over(standby: ServerUnderTest) -> None:
    """A message for somebody else ends nothing, and what follows it is heard."""
    message: Any = Ping()
    standby.tell(message)
    stand_by(standby, "another")
