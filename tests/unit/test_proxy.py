"""Proof of the proxy: what it does to chosen requests and to watches, and what it says of that.

That a refused, reset or trickling network does what it is for is found out by the cells of the
matrix: a leader that it does not cut off goes on.

The upstream is a small HTTPS server of the test, so that what reached it is known.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import ssl
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

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
TEXT = "hello " * 100
TIMEOUT_S = 20

#: Status and text.
Reply = tuple[int, str]


class Upstream(ThreadingHTTPServer):
    """An HTTP server that remembers what was put, and streams what is published."""

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.puts: list[str] = []
        self.watchers: list[queue.Queue[str | None]] = []
        self.socket = tls.wrap_socket(self.socket, server_side=True)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()

    def handle_error(self, *_: object) -> None:
        """Connections break here; that is the purpose."""

    def publish(self, event: str | None) -> None:
        """Send an event to every watcher; None ends their streams."""
        for watcher in self.watchers:
            watcher.put(event)

    def stop(self) -> None:
        """End all streams, and listen no more."""
        self.publish(None)
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    """What the upstream answers."""

    protocol_version = "HTTP/1.1"
    server: Upstream

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Serve a watch, nothing, or a text."""
        if self.path == WATCH:
            self._watch()
        elif self.path == "/none":
            self.send_response(204)
            self.end_headers()
        else:
            self._reply(TEXT)

    def do_PUT(self) -> None:
        """Remember the body."""
        self.server.puts.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self._reply("put")

    def _reply(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def _watch(self) -> None:
        events: queue.Queue[str | None] = queue.Queue()
        self.server.watchers.append(events)
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while event := events.get():
            line = event.encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.write(b"0\r\n\r\n")


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

    def get(self, path: str = "/", method: str = "GET", body: str | None = None) -> Reply:
        """Make one request on a connection of its own."""
        with contextlib.closing(self.connect()) as client:
            return ask(client, path, method, body)

    def start(self, path: str = "/", method: str = "GET", body: str | None = None) -> Future[Reply]:
        """Make one request in the background."""
        return self._threads.submit(self.get, path, method, body)

    def close(self) -> None:
        """Wait for every client; the proxy must have ended before."""
        self._threads.shutdown()


def ask(
    client: http.client.HTTPConnection,
    path: str = "/",
    method: str = "GET",
    body: str | None = None,
) -> Reply:
    """Make one request on a connection, and return the status and the text of the reply."""
    client.request(method, path, body=body)
    response = client.getresponse()
    return response.status, response.read().decode()


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
    upstream = Upstream(server_tls)
    url = f"https://127.0.0.1:{upstream.server_port}"
    with Proxy(url, cert=cert, key=key, upstream_ca=ca) as proxy:
        stage = Stage(upstream, proxy, ssl.create_default_context(cafile=str(ca)))
        yield stage
    upstream.stop()
    stage.close()


def last(stage: Stage, method: str = "GET") -> Any:
    """Return the log's last entry of a method."""
    return stage.proxy.requests(Match(method=method))[-1]


def test_requests_and_replies_pass_unchanged(stage: Stage) -> None:
    """They pass on one connection, with bodies and without, and are logged."""
    before_ns = now_ns()
    with contextlib.closing(stage.connect()) as client:
        assert ask(client) == (200, TEXT)
        assert ask(client, method="PUT", body="one") == (200, "put")
        assert ask(client, "/none") == (204, "")
        assert stage.proxy.counters()["connections_open"] == 1
    assert stage.upstream.puts == ["one"]
    counters = stage.proxy.counters()
    assert counters["connections"] == 1
    assert counters["requests"] == counters["forwarded"] == counters["replied"] == 3
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
        assert later.result(TIMEOUT_S) == (200, "put")
    stage.proxy.wait_counter("dropped_bytes", 1)
    assert sorted(stage.upstream.puts) == ["given up", "new connection", "old connection"]
    told = [(one.upstream_status, one.status) for one in stage.proxy.requests(PUT)]
    assert sorted(told) == [(200, 0), (200, 200), (200, 200)]


def test_delay_of_a_reply(stage: Stage) -> None:
    """A reply comes later than that, though its request was applied before, or when taken back."""
    stage.proxy.delay(0.2, match=PUT)
    assert stage.get("/", "PUT", "one") == (200, "put")
    request = last(stage, "PUT")
    assert request.replied_ns - request.forwarded_ns >= 200_000_000
    stage.proxy.delay(0, match=PUT)
    assert stage.get("/", "PUT", "two") == (200, "put")
    assert stage.proxy.counters()["delayed"] == 1
    # What the upstream answered otherwise is not counted among the first of a status.
    stage.proxy.delay(3600, match=Match(upstream_status=204, times=1))
    assert stage.get() == (200, TEXT)
    future = stage.start("/none")
    stage.proxy.wait_counter("delayed", 2)
    assert not future.done()
    stage.proxy.pass_through()
    assert future.result(TIMEOUT_S) == (204, "")


def test_answers_in_the_upstreams_place(stage: Stage) -> None:
    """A status is answered as an API server would, on a connection that goes on."""
    stage.proxy.answer(429, headers={"Retry-After": "7"}, match=PUT)
    with contextlib.closing(stage.connect()) as client:
        client.request("PUT", "/", body="one")
        reply = client.getresponse()
        assert (reply.status, reply.headers["Retry-After"]) == (429, "7")
        assert json.load(reply)["reason"] == "TooManyRequests"
        assert stage.upstream.puts == []
        assert ask(client) == (200, TEXT)
        assert stage.proxy.counters()["answered"] == stage.proxy.counters()["connections"] == 1
        assert (last(stage, "PUT").status, last(stage, "PUT").forwarded_ns) == (429, 0)
        stage.proxy.pass_through()
        assert ask(client, method="PUT", body="two") == (200, "put")
    stage.proxy.answer_garbage(b"\x00\x01\x02 nonsense\r\n\r\n")
    with pytest.raises(http.client.HTTPException):
        stage.get()


def test_a_fault_is_for_the_requests_that_match(stage: Stage) -> None:
    """By count, by path, by being a watch; of two for one request the one ordered last is done."""
    stage.proxy.answer(500, match=Match(times=3))
    stage.proxy.answer(503, match=Match(times=2))
    assert [stage.get()[0] for _ in range(6)] == [503, 503, 500, 500, 500, 200]
    stage.proxy.answer(403, match=Match(watch=True))
    stage.proxy.answer(404, match=Match(path="/head"))
    assert [stage.get(path)[0] for path in (WATCH, "/headers", "/")] == [403, 404, 200]


def test_hold_keeps_a_request_until_it_is_released(stage: Stage) -> None:
    """A held request is not applied before its release, and then it is answered."""
    stage.proxy.hold(Match(method="PUT", times=1))
    future = stage.start("/", "PUT", "held")
    stage.proxy.wait_counter("held", 1)
    assert stage.get("/", "PUT", "next") == (200, "put")
    assert stage.upstream.puts == ["next"]
    assert [request.method for request in stage.proxy.held()] == ["PUT"]
    stage.proxy.pass_through()
    assert stage.proxy.release_held() == 1
    assert future.result(TIMEOUT_S) == (200, "put")
    assert stage.upstream.puts == ["next", "held"]
    assert stage.proxy.held() == []


@pytest.mark.parametrize("mode", ["leave", "reset", "refuse"])
def test_a_held_request_lands_though_its_client_has_gone(stage: Stage, mode: str) -> None:
    """A late PUT lands: its release outlives its client, however that was lost."""
    stage.proxy.hold(PUT)
    client = stage.connect()
    client.request("PUT", "/", body="late")
    stage.proxy.wait_counter("held", 1)
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
    assert stage.get("/", "PUT", "next") == (200, "put")


def test_a_watch_that_is_cut_stays_open_and_says_nothing_or_ends(stage: Stage) -> None:
    """A silently dead watch gets no event any more, a new one does; other connections go on."""
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
            assert stage.proxy.cut_watches(silently=False) == 1
            with contextlib.suppress(ConnectionError, http.client.IncompleteRead, ssl.SSLError):
                assert other.read() == b""
        assert stage.get() == (200, TEXT)
    assert stage.proxy.counters()["watches_cut"] == 2
