"""Proof of the proxy: each fault takes effect, shows in the counters, and can be taken back.

The upstream is a small HTTPS server of the test, so that what reached it is known.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import socket
import ssl
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pytest

from tests.support.controlplane import CertificateAuthority
from tests.support.proxy import Match, Proxy
from tests.support.wait import wait_until
from tests.support.witness import now_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PUT = Match(method="PUT")
WATCH = "/things?watch=true"
TIMEOUT_S = 20


class Upstream:
    """An HTTP server that remembers what was put, and streams what is published."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self.puts: list[str] = []
        self.watchers: list[queue.Queue[str | None]] = []
        upstream = self

        class Handler(_Handler):
            server_state = upstream

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Connections break here; that is the purpose."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"

    def publish(self, event: str | None) -> None:
        """Send an event to every watcher; None ends their streams."""
        for watcher in self.watchers:
            watcher.put(event)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        """End all streams, and listen no more."""
        self.publish(None)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Handler(BaseHTTPRequestHandler):
    """What the upstream answers."""

    protocol_version = "HTTP/1.1"
    server_state: Upstream

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Serve a watch, the request's own headers, or a text."""
        if self.path == WATCH:
            self._watch()
        elif self.path == "/headers":
            self._reply(json.dumps(dict(self.headers)))
        elif self.path == "/none":
            self.send_response(204)
            self.end_headers()
        else:
            self._reply("hello " * 100)

    def do_PUT(self) -> None:
        """Remember the body."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size + 2)[:-2]
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server_state.puts.append(body.decode())
        self._reply("put")

    def _reply(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def _watch(self) -> None:
        events: queue.Queue[str | None] = queue.Queue()
        self.server_state.watchers.append(events)
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while event := events.get():
            line = event.encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.write(b"0\r\n\r\n")


class Reply(NamedTuple):
    """What a client got."""

    status: int
    text: str
    headers: http.client.HTTPMessage


class Stage:
    """An upstream, a proxy before it, and clients."""

    def __init__(self, upstream: Upstream, proxy: Proxy, tls: ssl.SSLContext) -> None:
        self.upstream = upstream
        self.proxy = proxy
        self._tls = tls
        self._threads = ThreadPoolExecutor(8)

    def connect(self) -> http.client.HTTPSConnection:
        """Return a client that has not connected yet."""
        return http.client.HTTPSConnection(
            "127.0.0.1", self.proxy.port, timeout=TIMEOUT_S, context=self._tls
        )

    def get(self, path: str = "/", method: str = "GET", body: Any = None) -> Reply:
        """Make one request on a connection of its own."""
        client = self.connect()
        with contextlib.closing(client):
            return ask(client, path, method, body)

    def start(self, path: str = "/", method: str = "GET", body: Any = None) -> Future[Reply]:
        """Make one request in the background."""
        return self._threads.submit(self.get, path, method, body)

    def close(self) -> None:
        """Wait for every client; the proxy must have ended before."""
        self._threads.shutdown()


def ask(
    client: http.client.HTTPConnection, path: str = "/", method: str = "GET", body: Any = None
) -> Reply:
    """Make one request on a connection."""
    chunked = body is not None and not isinstance(body, str)
    client.request(method, path, body=body, encode_chunked=chunked)
    response = client.getresponse()
    return Reply(response.status, response.read().decode(errors="replace"), response.headers)


def drain(client: http.client.HTTPConnection) -> None:
    """Read below TLS, which may take a reset for an end, until the connection ends."""
    with socket.socket(fileno=os.dup(client.sock.fileno())) as raw:
        raw.settimeout(TIMEOUT_S)
        while raw.recv(65536):
            pass


class Watch:
    """A client that watches."""

    def __init__(self, stage: Stage) -> None:
        self.client = stage.connect()
        before = len(stage.upstream.watchers)
        self.client.request("GET", WATCH)
        self.response = self.client.getresponse()
        wait_until(
            lambda: len(stage.upstream.watchers) > before, timeout_s=TIMEOUT_S, what="a watcher"
        )

    def read(self) -> bytes:
        """Return the next line."""
        return self.response.readline()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.response.close()
        self.client.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A proxy that terminates TLS before an upstream that speaks TLS."""
    authority = CertificateAuthority(tmp_path)
    ca, (cert, key) = authority.cert_path, authority.issue_server(tmp_path)
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_tls.load_cert_chain(cert, key)
    with Upstream(server_tls) as upstream:
        with Proxy(upstream.url, cert=cert, key=key, upstream_ca=ca) as proxy:
            stage = Stage(upstream, proxy, ssl.create_default_context(cafile=str(ca)))
            yield stage
        stage.close()


def last(stage: Stage, method: str = "GET") -> Any:
    """Return the log's last entry of a method."""
    return stage.proxy.requests(Match(method=method))[-1]


def test_requests_and_replies_pass_unchanged(stage: Stage) -> None:
    """Bodies, chunks and headers, a token among them, pass on one connection, and are logged."""
    before_ns = now_ns()
    with contextlib.closing(stage.connect()) as client:
        assert ask(client).text == "hello " * 100
        assert ask(client, method="PUT", body="one").text == "put"
        assert ask(client, method="PUT", body=iter([b"one ", b"two"])).text == "put"
        assert ask(client, "/none").status == 204
        client.request("GET", "/headers", headers={"Authorization": "Bearer secret"})
        assert json.loads(client.getresponse().read())["Authorization"] == "Bearer secret"
        assert stage.proxy.counters()["connections_open"] == 1
    assert stage.upstream.puts == ["one", "one two"]
    counters = stage.proxy.counters()
    assert counters["connections"] == 1
    assert counters["requests"] == counters["forwarded"] == counters["replied"] == 5
    assert (counters["requests_GET"], counters["requests_PUT"]) == (3, 2)
    request = last(stage, "PUT")
    assert (request.path, request.status, request.upstream_status) == ("/", 200, 200)
    assert before_ns < request.at_ns <= request.forwarded_ns <= request.replied_ns < now_ns()


def test_events_of_a_watch_arrive_as_they_happen(stage: Stage) -> None:
    """So does its end; a watch whose client leaves does not stay open at the proxy."""
    with Watch(stage) as watch:
        for event in ("one", "two"):
            stage.upstream.publish(event)
            assert watch.read() == event.encode() + b"\n"
        assert stage.proxy.counters()["watches_open"] == 1
        stage.upstream.publish(None)
        assert watch.read() == b""
        assert stage.proxy.counters()["watches_open"] == 0
    with Watch(stage):
        assert stage.proxy.counters()["watches"] == 2
    wait_until(
        lambda: stage.proxy.counters()["connections_open"] == 0,
        timeout_s=TIMEOUT_S,
        what="the connection's end",
    )


def test_black_hole_lets_nothing_through_and_closes_nothing(stage: Stage) -> None:
    """Old and new connections hang; afterwards all is delivered, though a client has given up."""
    with (
        contextlib.closing(stage.connect()) as client,
        contextlib.closing(stage.connect()) as impatient,
        Watch(stage) as watch,
    ):
        ask(client)
        ask(impatient)
        stage.proxy.black_hole()
        client.request("PUT", "/", body="old connection")
        impatient.request("PUT", "/", body="given up")
        stage.proxy.wait_counter("black_holed", 2)
        impatient.close()
        later = stage.start("/", "PUT", "new connection")
        stage.proxy.wait_counter("connections_black_holed", 1)
        stage.upstream.publish("event")
        stage.proxy.wait_counter("black_holed", 3)
        watch.client.sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            watch.response.fp.peek() or watch.read()
        assert not later.done()
        assert stage.upstream.puts == []
        assert not last(stage, "PUT").forwarded_ns
        stage.proxy.pass_through()
        assert client.getresponse().read() == b"put"
        assert later.result(TIMEOUT_S).text == "put"
    stage.proxy.wait_counter("dropped_bytes", 1)
    assert sorted(stage.upstream.puts) == ["given up", "new connection", "old connection"]
    told = [(one.upstream_status, one.status) for one in stage.proxy.requests(PUT)]
    assert sorted(told) == [(200, 0), (200, 200), (200, 200)]


def test_refuse_closes_and_refuses(stage: Stage) -> None:
    """Refusing closes what is open; new connections are refused until it is taken back."""
    with contextlib.closing(stage.connect()) as client:
        ask(client)
        stage.proxy.refuse()
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError, ssl.SSLError)):
            ask(client)
    with pytest.raises(ConnectionRefusedError):
        stage.get()
    assert stage.proxy.counters()["connections_closed"] == 1
    stage.proxy.pass_through()
    assert stage.get().status == 200


def test_reset_resets_old_and_new_connections(stage: Stage) -> None:
    """What is open, idle or a watch, ends in a reset, and so does every new connection."""
    address = ("127.0.0.1", stage.proxy.port)
    with socket.create_connection(address, TIMEOUT_S) as old, Watch(stage) as watch:
        stage.proxy.wait_counter("connections", 2)
        stage.proxy.reset()
        with pytest.raises(ConnectionResetError):
            old.recv(1)
        with pytest.raises(ConnectionResetError):
            drain(watch.client)
    # Not over TLS: SSLSocket leaks itself when the reset comes before it asks for its peer.
    with (
        pytest.raises((ConnectionResetError, BrokenPipeError)),
        socket.create_connection(address, TIMEOUT_S) as new,
    ):
        new.recv(1)
    assert stage.proxy.counters()["resets"] == 3
    stage.proxy.pass_through()
    assert stage.get().status == 200


def test_reset_in_the_middle_of_a_response(stage: Stage) -> None:
    """The request is applied, the client sees the head and a part of the body, then a reset."""
    stage.proxy.reset_mid_response(Match(path="/", times=1))
    with contextlib.closing(stage.connect()) as client:
        client.request("GET", "/")
        response = client.getresponse()
        assert response.status == 200
        assert 0 < len(response.fp.peek()) < 600
        with pytest.raises(ConnectionResetError):
            drain(client)
        response.close()
    assert stage.proxy.counters()["resets_mid_response"] == 1
    assert last(stage).action == "reset_mid_response"
    assert stage.get().status == 200


def test_delay_of_a_reply(stage: Stage) -> None:
    """A reply comes later than that, though its request was applied before, or when taken back."""
    stage.proxy.delay(0.2, match=PUT)
    assert stage.get("/", "PUT", "one").status == 200
    request = last(stage, "PUT")
    assert request.replied_ns - request.forwarded_ns >= 200_000_000
    stage.proxy.delay(0, match=PUT)
    assert stage.get("/", "PUT", "two").status == 200
    assert stage.proxy.counters()["delayed"] == 1
    # What the upstream answered otherwise is not counted for the nth of a status.
    stage.proxy.delay(3600, match=Match(upstream_status=204, nth=1))
    assert stage.get().status == 200
    future = stage.start("/none")
    stage.proxy.wait_counter("delayed", 2)
    assert not future.done()
    stage.proxy.pass_through()
    assert future.result(TIMEOUT_S).status == 204


def test_trickle_sends_byte_by_byte(stage: Stage) -> None:
    """A trickling response has begun but does not end, until the trickle is taken back."""
    stage.proxy.trickle(1)
    future = stage.start()
    stage.proxy.wait_counter("trickled_bytes", 1)
    assert not future.done()
    assert last(stage).action == "trickle"
    stage.proxy.trickle(100_000)
    assert future.result(TIMEOUT_S).text == "hello " * 100
    stage.proxy.trickle(0)
    before = stage.proxy.counters()["trickled_bytes"]
    assert stage.get().status == 200
    assert stage.proxy.counters()["trickled_bytes"] == before


@pytest.mark.parametrize("status", [401, 403, 409, 429, 500, 503])
def test_answers_in_the_upstreams_place(stage: Stage, status: int) -> None:
    """A status is answered as an API server would, on a connection that goes on."""
    stage.proxy.answer(status, headers={"Retry-After": "7"}, match=PUT)
    with contextlib.closing(stage.connect()) as client:
        reply = ask(client, method="PUT", body="one")
        assert reply.status == status
        assert json.loads(reply.text)["code"] == status
        assert reply.headers["Retry-After"] == "7"
        assert stage.upstream.puts == []
        assert ask(client).text == "hello " * 100
        assert stage.proxy.counters()["answered"] == stage.proxy.counters()["connections"] == 1
        assert (last(stage, "PUT").status, last(stage, "PUT").forwarded_ns) == (status, 0)
        stage.proxy.pass_through()
        assert ask(client, method="PUT", body="two").text == "put"


def test_answers_with_garbage(stage: Stage) -> None:
    """What comes back need not be HTTP."""
    stage.proxy.answer_garbage(b"\x00\x01\x02 nonsense\r\n\r\n")
    with pytest.raises(http.client.HTTPException):
        stage.get()


def test_a_fault_is_for_the_requests_that_match(stage: Stage) -> None:
    """By count, by path, by being a watch; of two for one request the one ordered last is done."""
    stage.proxy.answer(500, match=Match(method="GET", nth=2))
    assert [stage.get().status for _ in range(3)] == [200, 500, 200]
    stage.proxy.pass_through()
    stage.proxy.answer(500, match=Match(times=3))
    stage.proxy.answer(503, match=Match(times=2))
    assert [stage.get().status for _ in range(6)] == [503, 503, 500, 500, 500, 200]
    stage.proxy.answer(403, match=Match(watch=True))
    stage.proxy.answer(404, match=Match(path="/head"))
    assert stage.get(WATCH).status == 403
    assert stage.get("/headers").status == 404
    assert stage.get().status == 200


def test_hold_keeps_a_request_until_it_is_released(stage: Stage) -> None:
    """A held request is not applied before its release, and then it is answered."""
    stage.proxy.hold(Match(method="PUT", times=1))
    future = stage.start("/", "PUT", "held")
    stage.proxy.wait_counter("held_now", 1)
    assert stage.get("/", "PUT", "next").status == 200
    assert stage.upstream.puts == ["next"]
    assert [request.method for request in stage.proxy.held()] == ["PUT"]
    stage.proxy.pass_through()
    assert stage.proxy.counters()["held_now"] == 1
    assert stage.proxy.release_held() == 1
    assert future.result(TIMEOUT_S).text == "put"
    assert stage.upstream.puts == ["next", "held"]
    assert stage.proxy.counters()["released"] == 1


@pytest.mark.parametrize("mode", ["leave", "reset", "refuse"])
def test_a_held_request_lands_though_its_client_has_gone(stage: Stage, mode: str) -> None:
    """A late PUT lands: its release outlives its client, however that was lost."""
    stage.proxy.hold(PUT)
    client = stage.connect()
    client.request("PUT", "/", body="late")
    stage.proxy.wait_counter("held_now", 1)
    modes: dict[str, Callable[[], None]] = {
        "leave": client.close,
        "reset": stage.proxy.reset,
        "refuse": stage.proxy.refuse,
    }
    modes[mode]()
    stage.proxy.pass_through()
    assert stage.proxy.release_held() == 1
    wait_until(lambda: stage.upstream.puts == ["late"], timeout_s=TIMEOUT_S, what="the late put")
    client.close()


@pytest.mark.parametrize("silently", [False, True])
def test_a_request_whose_reply_is_lost_was_applied(stage: Stage, silently: bool) -> None:
    """The upstream applies it; the client gets a reset, or hears nothing on an open connection."""
    stage.proxy.lose_reply(Match(method="PUT", times=1), silently=silently)
    with contextlib.closing(stage.connect()) as client:
        client.request("PUT", "/", body="lost")
        stage.proxy.wait_counter("replies_lost", 1)
        assert stage.upstream.puts == ["lost"]
        if silently:
            client.sock.settimeout(0.05)
        with pytest.raises(TimeoutError if silently else ConnectionError):
            client.getresponse()
        assert stage.proxy.counters()["connections_open"] == silently
    assert stage.proxy.counters()["dropped_bytes"] > 0
    assert (last(stage, "PUT").upstream_status, last(stage, "PUT").status) == (200, 0)
    assert stage.get("/", "PUT", "next").status == 200


def test_a_watch_cut_silently_stays_open_and_says_nothing(stage: Stage) -> None:
    """A silently dead watch gets no event any more; a new one does."""
    with Watch(stage) as watch:
        assert stage.proxy.cut_watches(silently=True) == 1
        stage.upstream.publish("event")
        stage.proxy.wait_counter("dropped_bytes", 1)
        watch.client.sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            watch.read()
        with Watch(stage) as other:
            stage.upstream.publish("again")
            assert other.read() == b"again\n"
    assert stage.proxy.counters()["watches_cut"] == 1


def test_a_watch_cut_loudly_ends(stage: Stage) -> None:
    """A cut watch is closed; other connections are not concerned."""
    with contextlib.closing(stage.connect()) as client, Watch(stage) as watch:
        ask(client)
        assert stage.proxy.cut_watches(silently=False) == 1
        with contextlib.suppress(ConnectionError, http.client.IncompleteRead, ssl.SSLError):
            assert watch.read() == b""
        assert ask(client).status == 200


def test_an_upstream_that_is_gone_is_a_reset(stage: Stage) -> None:
    """Without an upstream a client's connection breaks, and the counter says why."""
    stage.upstream.stop()
    with pytest.raises(ConnectionError):
        stage.get()
    assert stage.proxy.counters()["upstream_errors"] == 1
