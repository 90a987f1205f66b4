"""Answers HTTP: a process of its own, so that no client can hold up the one that owns the time.

Owns the connections and nothing of the election: guardian and elector tell it what they know over
a channel, it asks nothing and tells nobody but its clients. An answer holds at the time at which it
was asked for, whether or not anybody has said something lately (see board). The guardian opened the
listening sockets and keeps them open, so that this process may die and be forked again while
clients wait in the kernel's queue.

Clients are not trusted: connections, event readers, headers and bodies are bounded in number or
size, and whoever has not sent a request and taken its answer in ten seconds is cut off, however
busily it trickles. When all places are taken, the connection that has been there longest makes
room for the newest: a probe always gets in.
"""

from __future__ import annotations

import asyncio
import errno
import json
import signal
import socket
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

from tornado.http1connection import HTTP1ConnectionParameters, HTTP1ServerConnection
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
    format_timestamp,
)
from tornado.iostream import IOStream

from leaderexec import board as news
from leaderexec import linux
from leaderexec.channel import ChannelClosed
from leaderexec.config import authority
from leaderexec.log import quiet_standard_library
from leaderexec.model import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from leaderexec.board import Board
    from leaderexec.channel import Channel
    from leaderexec.log import Log
    from leaderexec.metrics import TreeMeter

#: What there is to ask for, by GET or HEAD. Everything else is the contract of 2016.
PATHS: Final[tuple[tuple[str, str], ...]] = (
    ("/leader", "200 if this candidate leads, else 503; the answer itself is that of `/`"),
    ("/livez", "200 if all is well, else 503 and why a restart may help"),
    ("/healthz", "the same"),
    ("/readyz", "200 if this candidate is ready, else 503 and why not"),
    ("/status", "all that is worth knowing, as JSON"),
    ("/events", "server-sent events: who leads, now and whenever it changes"),
    ("/sse", "the same"),
    ("/metrics", "for Prometheus"),
)
_OWN: Final = frozenset(path for path, _ in PATHS)
_METHODS: Final = ("GET", "HEAD")

_CONNECTIONS: Final = 512
_EVENT_READERS: Final = 128
#: How long a request and its answer may take, and how long a connection may be idle.
_REQUEST_NS: Final = 10 * SECOND_NS
#: How long an event reader hears nothing at most: proxies close what is silent for long.
_KEEP_ALIVE_NS: Final = 15 * SECOND_NS
_HEADER_BYTES: Final = 16 * 1024
_BODY_BYTES: Final = 64 * 1024
#: Unread events: beyond this a reader is too slow. It can always come back for the newest.
_EVENT_BYTES: Final = 16 * 1024
#: How long the kernel tries to reach a client that has vanished.
_UNREACHABLE_MS: Final = 30_000
_ACCEPT_PAUSE_S: Final = 0.1
#: Timers of asyncio stand still while the machine is suspended, hence short ones.
_LOOK_S: Final = 1.0

_TEXT: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"
_EVENTS: Final = "text/event-stream"


def serve(
    *,
    channel: Channel,
    guardian_pidfd: int,
    listeners: Sequence[socket.socket],
    board: Board,
    log: Log,
) -> None:
    """Answer whoever connects to `listeners`, until the guardian is dead.

    To be called in a process of its own: it blocks the signals, which are for the guardian.
    """
    quiet_standard_library()
    # A terminal or a service manager sends them to all of us, but the guardian says when it ends.
    signal.pthread_sigmask(signal.SIG_BLOCK, linux.ALL_SIGNALS)
    asyncio.run(_Server(channel, guardian_pidfd, listeners, board, log).run())


@dataclass(frozen=True, slots=True)
class _Page:
    """An answer that is complete."""

    code: int
    content_type: str
    body: bytes
    headers: Mapping[str, str]


def _page(code: int, content_type: str, text: str, **headers: str) -> _Page:
    return _Page(code, content_type, text.encode(), headers)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


class _Client(HTTPServerConnectionDelegate):
    """One connection."""

    def __init__(self, server: _Server, stream: IOStream) -> None:
        self.server = server
        self.stream = stream
        #: Since when it owes us a request, or to have taken the answer.
        self.since_ns = linux.boottime_ns()
        #: Set once it reads events.
        self.reader: _Reader | None = None

    def start_request(
        self, server_conn: object, request_conn: HTTPConnection
    ) -> HTTPMessageDelegate:
        del server_conn
        return _Request(self, request_conn)

    def on_close(self, server_conn: object) -> None:
        del server_conn
        self.server.forget(self)

    def answered(self, _: asyncio.Future[None]) -> None:
        """Take note that it has taken an answer."""
        self.since_ns = linux.boottime_ns()


class _Reader:
    """Somebody who reads events."""

    def __init__(self, stream: IOStream, connection: HTTPConnection) -> None:
        # Without a bound the kernel would keep megabytes for whoever does not read.
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _EVENT_BYTES)
        stream.set_nodelay(True)
        self._stream = stream
        self._connection = connection
        self._told = ""
        self._told_ns = 0

    def tell(self, event: str, now_ns: int) -> bool:
        """Send an event that is news to it, and a sign of life now and then.

        Return False, having sent nothing, when it has not read what it was sent before.
        """
        if event != self._told:
            text = f"data: {event}\n\n"
        elif now_ns - self._told_ns >= _KEEP_ALIVE_NS:
            text = ": nothing new\n\n"
        else:
            return True
        if self._stream.writing():
            return False
        self._told = event
        self._told_ns = now_ns
        self._connection.write(text.encode())
        return True


class _Request(HTTPMessageDelegate):
    """One request, whose body is received and thrown away."""

    def __init__(self, client: _Client, connection: HTTPConnection) -> None:
        self._client = client
        self._connection = connection
        self._line = RequestStartLine("", "", "")
        self._headers = HTTPHeaders()

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> None:
        self._line = cast("RequestStartLine", start_line)
        self._headers = headers

    def finish(self) -> None:
        self._client.server.answer(self._client, self._connection, self._line, self._headers)


class _Server:
    """The life of one server, from a fork of the guardian to the guardian's end."""

    def __init__(
        self,
        channel: Channel,
        guardian_pidfd: int,
        listeners: Sequence[socket.socket],
        board: Board,
        log: Log,
    ) -> None:
        self._channel: Channel | None = channel
        self._guardian_pidfd = guardian_pidfd
        self._listeners = listeners
        self._board = board
        self._log = log.bind(role="server")
        # In the order in which they came.
        self._clients: dict[_Client, None] = {}
        self._parameters = HTTP1ConnectionParameters(
            chunk_size=_HEADER_BYTES, max_header_size=_HEADER_BYTES, max_body_size=_BODY_BYTES
        )
        self._meter: TreeMeter | None = None
        self._next_look: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Serve until the guardian is dead."""
        self._loop = asyncio.get_running_loop()
        guardian_died = asyncio.Event()
        self._loop.add_reader(self._guardian_pidfd, guardian_died.set)
        if self._channel is not None:
            self._loop.add_reader(self._channel.fileno(), self._look)
        for listener in self._listeners:
            listener.setblocking(False)
            self._listen_to(listener)
        self._look()
        self._log.info("serving HTTP", addresses=[_address(each) for each in self._listeners])
        await guardian_died.wait()

    # --- what guardian and elector say ---

    def _hear(self) -> None:
        if self._channel is None:
            return
        try:
            messages = self._channel.receive()
        except ChannelClosed:
            # The guardian is dying: its pidfd will tell when it is dead.
            self._loop.remove_reader(self._channel.fileno())
            self._channel = None
            return
        now_ns = linux.boottime_ns()
        for message, _ in messages:
            if isinstance(message, news.News):
                self._board.take(message, now_ns)
            else:
                self._log.error("unexpected message", message=type(message).__name__)

    def _look(self) -> None:
        """Do what is due, and see to it that this is done again in time."""
        self._hear()
        now_ns = linux.boottime_ns()
        change_ns = self._board.next_change_ns(now_ns)
        wait_s = _LOOK_S
        if change_ns is not None:
            wait_s = min(wait_s, (change_ns - now_ns) / SECOND_NS)
        if self._next_look is not None:
            self._next_look.cancel()
        self._next_look = self._loop.call_later(wait_s, self._look)
        self._board.look(now_ns)
        event = _json(self._board.event(now_ns))
        for client in list(self._clients):
            if client.reader is not None:
                in_time = client.reader.tell(event, now_ns)
            else:
                in_time = now_ns - client.since_ns <= _REQUEST_NS
            if not in_time:
                self._cut_off(client)

    # --- connections ---

    def _listen_to(self, listener: socket.socket) -> None:
        self._loop.add_reader(listener.fileno(), self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        """Take one client, who is read before the next is taken.

        One at a time also because at the limit of descriptors accepting fails even if nobody waits.
        """
        try:
            sock, _ = listener.accept()
        except OSError as error:
            if error.errno != errno.EMFILE or not self._make_room():
                # Nothing to be done now; the socket stays readable, which must not make us spin.
                self._loop.remove_reader(listener.fileno())
                self._loop.call_later(_ACCEPT_PAUSE_S, self._listen_to, listener)
            return
        self._welcome(sock)

    def _welcome(self, sock: socket.socket) -> None:
        if len(self._clients) >= _CONNECTIONS:
            self._make_room()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREACHABLE_MS)
        stream = IOStream(sock, max_buffer_size=2 * _HEADER_BYTES)
        client = _Client(self, stream)
        self._clients[client] = None
        HTTP1ServerConnection(stream, self._parameters).start_serving(client)

    def _make_room(self) -> bool:
        """Close the connection that has been there longest and reads no events."""
        for client in self._clients:
            if client.reader is None:
                self._cut_off(client)
                return True
        return False

    def _cut_off(self, client: _Client) -> None:
        self.forget(client)
        client.stream.close()

    def forget(self, client: _Client) -> None:
        """Take note that a connection is closed, or will be at once."""
        self._clients.pop(client, None)

    # --- requests ---

    def answer(
        self,
        client: _Client,
        connection: HTTPConnection,
        line: RequestStartLine,
        headers: HTTPHeaders,
    ) -> None:
        """Answer a request that has been received as a whole."""
        path = line.path.partition("?")[0]
        try:
            page = self._page(path, line.method, headers)
        except Exception as error:  # noqa: BLE001 - a defect of ours must not be mute
            self._log.error(
                "internal error", path=path[:100], error=f"{type(error).__name__}: {error}"
            )
            page = _page(500, _TEXT, "internal error")
        if page is None:
            self._start_events(client, connection, line.method)
            return
        head = _head(page.content_type)
        head["Content-Length"] = str(len(page.body))
        head.update(page.headers)
        body = b"" if line.method == "HEAD" else page.body
        sent = connection.write_headers(_start(page.code), head, body)
        sent.add_done_callback(client.answered)
        connection.finish()

    def _page(self, path: str, method: str, headers: HTTPHeaders) -> _Page | None:
        """Return the answer to a request, None for one that goes on."""
        if path in _OWN and method not in _METHODS:
            allowed = ", ".join(_METHODS)
            return _page(405, _TEXT, f"{method} {path}: accepted: {allowed}", Allow=allowed)
        board = self._board
        now_ns = linux.boottime_ns()
        match path:
            case "/livez" | "/healthz":
                return _verdict(board.live(now_ns))
            case "/readyz":
                return _verdict(board.ready(now_ns))
            case "/leader":
                code = 200 if board.leads(now_ns) else 503
                return _page(code, _JSON, _json(board.legacy(now_ns)))
            case "/status":
                return _page(200, _JSON, _json(board.status(now_ns)))
            case "/metrics":
                return self._metrics(headers.get("Accept", ""), now_ns)
            case "/events" | "/sse":
                readers = sum(client.reader is not None for client in self._clients)
                if readers >= _EVENT_READERS:
                    return _page(503, _TEXT, f"{readers} event readers are the most accepted")
                return None
            case _:
                return _page(200, _JSON, _json(board.legacy(now_ns)))

    def _metrics(self, accept: str, now_ns: int) -> _Page:
        from leaderexec import metrics  # noqa: PLC0415 - a server that nobody scrapes goes without

        if self._meter is None:
            self._meter = metrics.TreeMeter()
        tenure = self._board.tenure
        usage = self._meter.measure(tenure.keeper_pid if tenure else None, now_ns)
        content_type, body = metrics.render(self._board, now_ns, usage, len(self._clients), accept)
        return _Page(200, content_type, body, {})

    def _start_events(self, client: _Client, connection: HTTPConnection, method: str) -> None:
        if client.stream.closed():
            return  # it made room for another before its request was read
        if method != "HEAD":
            client.reader = _Reader(client.stream, connection)
        connection.write_headers(_start(200), _head(_EVENTS))
        if client.reader is None:
            connection.finish()
            return
        now_ns = linux.boottime_ns()
        client.reader.tell(_json(self._board.event(now_ns)), now_ns)


def _verdict(problem: str) -> _Page:
    return _page(503, _TEXT, problem) if problem else _page(200, _TEXT, "ok")


def _start(code: int) -> ResponseStartLine:
    return ResponseStartLine("HTTP/1.1", code, HTTPStatus(code).phrase)


def _head(content_type: str) -> HTTPHeaders:
    return HTTPHeaders(
        {
            "Content-Type": content_type,
            "Cache-Control": "no-store",
            "Date": format_timestamp(linux.now().wall_us / 1e6),
        }
    )


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return authority(host, port)
