"""The proxy between one candidate and its API server: it can do to them what a network can.

Owns: the faults, and the proof that each took effect (counters, and a log of all requests).
Must not know: elections, leases, leaderexec.

It is a process of its own, so that it goes on while a test or a candidate is stopped, and takes its
orders over a control channel; it ends with it. HTTPS is terminated with the given certificate and
spoken to the upstream anew, headers (and so tokens) pass through as they are. It speaks HTTP/1.1,
one upstream connection per client connection, so that what the upstream does to a connection
befalls one client only.

The race it guards: a fault is switched on in one process while requests fly in two others. An order
has taken effect when its method returns: nothing that reaches the proxy later escapes it. What
reached it before may already be upstream; `hold` and `lose_reply` catch a chosen request instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import ssl
import struct
import sys
import termios
from collections import Counter
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar
from urllib.parse import parse_qs, urlsplit

from tests.support.controlled import ControlledProcess
from tests.support.wait import wait_until
from tests.support.witness import now_ns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
    from pathlib import Path

    _Pieces = AsyncGenerator[tuple[bytes, bool], None]

T = TypeVar("T")

_LIMIT = 1 << 20
_RST = struct.pack("ii", 1, 0)  # SO_LINGER: close at once, and say so with a reset


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests a fault is for: all that is given must hold.

    `path` is a substring of the request target, query included. `times` means only the first so
    many that match the rest. `upstream_status` is for what happens to a reply that is delayed:
    until then no request has one.
    """

    method: str | None = None
    path: str | None = None
    watch: bool | None = None
    upstream_status: int | None = None
    times: int | None = None

    def covers(self, request: Request) -> bool:
        """Whether it is for this request, counts aside."""
        return (
            self.method in {None, request.method}
            and (self.path is None or self.path in request.path)
            and self.watch in {None, request.watch}
            and self.upstream_status in {None, request.upstream_status}
        )


@dataclass(slots=True)
class Request:
    """One request that reached the proxy.

    `action` is the fault that was done to it, empty for none. `status` is what the client was told,
    0 for nothing; `upstream_status` is what the upstream told the proxy.
    """

    number: int
    method: str
    path: str
    watch: bool
    at_ns: int  # on CLOCK_BOOTTIME, as every instant here
    forwarded_ns: int = 0
    replied_ns: int = 0
    status: int = 0
    upstream_status: int = 0
    action: str = ""


# --- the client: what a test holds ------------------------------------------------------------


class Proxy:
    """A running proxy process; use it as a context manager.

    `upstream` is an URL such as `https://127.0.0.1:6443`. `cert` and `key` are what the proxy shows
    its clients, `upstream_ca` what it trusts; all are paths of PEM files.

    There is one mode at a time (`pass_through`, `black_hole`, `refuse`, `reset`); `trickle`,
    `delay` and the faults for matching requests come on top. Of several faults that match a request
    the one ordered last is done. `pass_through` takes all of them back.
    """

    def __init__(self, upstream: str, *, cert: Path, key: Path, upstream_ca: Path) -> None:
        words = (upstream, str(cert), str(key), str(upstream_ca))
        self._process = ControlledProcess("tests.support.proxy", *words)
        self.port = 0

    def __enter__(self) -> Self:
        """Start the process and wait until it listens."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._process)
            self.port = self._hear()["port"]
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End the process and with it every connection."""
        self._process.__exit__()

    @property
    def url(self) -> str:
        """The address for the candidate."""
        return f"https://127.0.0.1:{self.port}"

    # --- modes

    def pass_through(self) -> None:
        """Take back every mode and fault; what a black hole swallowed is delivered late.

        Requests that are held stay held until `release_held`.
        """
        self._order("pass_through")

    def black_hole(self) -> None:
        """Forward nothing in either direction, close nothing, let new connections hang."""
        self._order("black_hole")

    def refuse(self) -> None:
        """Close every connection, and have new ones refused."""
        self._order("refuse")

    def reset(self) -> None:
        """Reset every connection, and new ones as soon as they are made."""
        self._order("reset")

    def reset_mid_response(self, match: Match | None = None) -> None:
        """Forward requests, and reset the connection in the middle of the response's body."""
        self._order("rule", kind="reset_mid_response", match=match)

    def delay(self, seconds: float, *, match: Match | None = None) -> None:
        """Forward requests, and begin their replies that much later; 0 takes it back."""
        self._order("delay", seconds=seconds, match=match)

    def trickle(self, bytes_per_s: float) -> None:
        """Send everything to the client at this rate; 0 takes it back."""
        self._order("trickle", bytes_per_s=bytes_per_s)

    # --- faults for matching requests

    def answer(
        self, status: int, headers: Mapping[str, str] | None = None, match: Match | None = None
    ) -> None:
        """Answer in the upstream's place, with a Kubernetes Status of this code."""
        fields = {"Content-Type": "application/json", **(headers or {})}
        self._order("rule", kind="answer", match=match, status=status, headers=fields)

    def answer_garbage(self, garbage: bytes, match: Match | None = None) -> None:
        """Answer with these bytes, which need not be HTTP, and close the connection."""
        self._order("rule", kind="garbage", match=match, body=garbage.decode("latin-1"))

    def hold(self, match: Match | None = None) -> None:
        """Keep requests back; they are forwarded at `release_held`, even if the client has left."""
        self._order("rule", kind="hold", match=match)

    def held(self) -> list[Request]:
        """Return the requests kept back at the moment."""
        return [Request(**request) for request in self._order("held")["held"]]

    def release_held(self) -> int:
        """Forward what is kept back, and return how many that were; the order to hold stands."""
        return int(self._order("release_held")["count"])

    def lose_reply(self, match: Match | None = None, *, silently: bool = False) -> None:
        """Forward requests and drop the whole replies; then reset, or silently say nothing."""
        self._order("rule", kind="lose_reply", match=match, silently=silently)

    def cut_watches(self, *, silently: bool) -> int:
        """Cut every open watch, and return how many that were; later watches are not concerned.

        Silently: the connection stays open and nothing more comes. Otherwise it is closed.
        """
        return int(self._order("cut_watches", silently=silently)["count"])

    # --- proof

    def counters(self) -> Counter[str]:
        """Return what happened so far; a counter that never counted is 0.

        Connections: connections, connections_open, connections_black_holed, connections_closed (by
        `refuse`), resets. Requests: requests, watches, watches_open, forwarded, upstream_errors,
        replied (to the end, by whomever). Faults: answered, held, delayed, replies_lost,
        resets_mid_response, watches_cut, black_holed (requests and pieces of replies that had to
        wait). Bytes: trickled_bytes, dropped_bytes. What could not be understood: not_http.
        """
        return Counter(self._order("counters")["counters"])

    def wait_counter(self, name: str, at_least: int, *, timeout_s: float = 10) -> int:
        """Wait until a counter has come that far, and return it."""

        def far_enough() -> int | None:
            value = self.counters()[name]
            return value if value >= at_least else None

        what = f"{name} >= {at_least} at the proxy"
        try:
            return wait_until(far_enough, timeout_s=timeout_s, what=what) or 0
        except AssertionError as error:
            error.add_note(f"counters: {dict(self.counters())}")
            raise

    def requests(self, match: Match | None = None) -> list[Request]:
        """Return every request that reached the proxy, of those that match, in order."""
        everything = [Request(**request) for request in self._order("requests")["requests"]]
        return [request for request in everything if match is None or match.covers(request)]

    # --- within

    def _order(self, name: str, *, match: Match | None = None, **params: Any) -> dict[str, Any]:
        words = {"order": name, "match": asdict(match or Match()), **params}
        self._process.tell(json.dumps(words).encode())
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        words: dict[str, Any] = json.loads(self._process.hear())
        assert "trouble" not in words, f"the proxy is in trouble: {words['trouble']}"
        return words


# --- the server: a process of its own ---------------------------------------------------------


class _Closed(Exception):
    """The connection is to be closed, by an order or by the peer."""


class _Reader(asyncio.StreamReader):
    """A stream that also tells when its peer has left while nobody reads from it."""

    def __init__(self) -> None:
        super().__init__(limit=_LIMIT)
        self.left = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.left.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self.left.set()


class _Stream(NamedTuple):
    """One side of a connection."""

    reader: _Reader
    writer: asyncio.StreamWriter

    def abort(self) -> None:
        """Close at once; what is not sent yet is lost."""
        self.writer.transport.abort()


async def _open(connect: Callable[..., Awaitable[tuple[Any, Any]]]) -> _Stream:
    reader = _Reader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await connect(lambda: protocol)
    writer = asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
    return _Stream(reader, writer)


@dataclass(slots=True)
class _Head:
    """The first lines of a request or a response."""

    raw: bytes
    first: list[str]
    headers: dict[str, str]

    @property
    def chunked(self) -> bool:
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    @property
    def length(self) -> int:
        return int(self.headers.get("content-length", "-1" if self.chunked else "0"))

    @property
    def last(self) -> bool:
        """Whether the connection ends with this message."""
        return "close" in self.headers.get("connection", "").lower() or "HTTP/1.0" in self.first


@dataclass(slots=True)
class _Rule:
    """A fault for matching requests."""

    kind: str
    match: Match
    params: dict[str, Any]
    seen: int = 0

    def takes(self, request: Request) -> bool:
        """Whether it is for this request; counts it if it matches."""
        if not self.match.covers(request):
            return False
        self.seen += 1
        return self.match.times is None or self.seen <= self.match.times


async def _read_head(reader: _Reader) -> _Head:
    """Read the lines up to the empty one."""
    raw = await reader.readuntil(b"\r\n\r\n")
    first, *lines = raw.decode("latin-1").split("\r\n")
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return _Head(raw, first.split(" ", 2), {name.lower(): text.strip() for name, text in pairs})


async def _pieces(reader: _Reader, head: _Head) -> _Pieces:
    """Yield the body that follows a head, in raw pieces as they come, and which is the last."""
    if head.chunked:
        size = -1
        while size:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            if size:
                yield line + await reader.readexactly(size + 2), False
            else:
                while line != b"\r\n":
                    yield line, False
                    line = await reader.readuntil(b"\r\n")
                yield line, True
    else:
        left = head.length
        while left:
            piece = await reader.read(min(left, 65536))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            yield piece, not left


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock


class _Server:
    """What every connection shares: the mode, the faults, the counters."""

    def __init__(self, upstream: str, cert: str, key: str, upstream_ca: str) -> None:
        self.mode = "pass_through"
        self.rules: list[_Rule] = []
        self.delays: list[_Rule] = []
        self.bytes_per_s = 0.0
        self.counters: Counter[str] = Counter()
        self.requests: list[Request] = []
        self.connections: set[_Connection] = set()
        self.server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server_tls.load_cert_chain(cert, key)
        self.upstream_tls = ssl.create_default_context(cafile=upstream_ca)
        place = urlsplit(upstream)
        self.upstream = (place.hostname or "", place.port or 0)
        self._changed = asyncio.Event()
        self._reserve = _bound(0)
        self.port = self._reserve.getsockname()[1]
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # --- orders

    async def run(self) -> None:
        """Serve until the control channel ends."""
        reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=os.dup(0)))
        self._listen()
        writer.write(json.dumps({"port": self.port}).encode() + b"\n")
        while line := await reader.readline():
            words = json.loads(line)
            match = Match(**words.pop("match"))
            try:
                reply = self._obey(words.pop("order"), match, words)
            except Exception as error:  # noqa: BLE001 - the test is told
                reply = {"trouble": repr(error)}
            writer.write(json.dumps(reply or {}).encode() + b"\n")
            await writer.drain()

    def _obey(self, order: str, match: Match, words: dict[str, Any]) -> dict[str, Any] | None:
        """Carry out one order before anything else happens."""
        match order:
            case "pass_through" | "black_hole" | "refuse" | "reset":
                self._set_mode(order)
            case "rule":
                self.rules.insert(0, _Rule(words.pop("kind"), match, words))
            case "delay":
                kept = [rule for rule in self.delays if rule.match != match]
                kept = [*kept, _Rule("delay", match, words)] if words["seconds"] else kept
                self.delays = kept
            case "trickle":
                self.bytes_per_s = words["bytes_per_s"]
            case "counters":
                return {"counters": self._count_now()}
            case "requests":
                return {"requests": [asdict(request) for request in self.requests]}
            case "held":
                held = [asdict(one.request) for one in self.connections if one.held and one.request]
                return {"held": sorted(held, key=lambda request: request["number"])}
            case "release_held":
                waiting = [one.held for one in self.connections if one.held]
                for event in waiting:
                    event.set()
                return {"count": len(waiting)}
            case "cut_watches":
                watches = [one for one in self.connections if one.watching]
                for connection in watches:
                    connection.cut(silently=words["silently"])
                return {"count": len(watches)}
            case _:
                raise ValueError(order)
        self._wake()
        return None

    def _set_mode(self, mode: str) -> None:
        self.mode = mode
        if mode == "pass_through":
            self.rules.clear()
            self.delays.clear()
            self.bytes_per_s = 0
        if mode == "refuse":
            self._stop_listening()
        else:
            self._listen()
        if mode in {"refuse", "reset"}:
            for connection in list(self.connections):
                self.counters["resets" if mode == "reset" else "connections_closed"] += 1
                connection.end(reset=mode == "reset")

    def _count_now(self) -> dict[str, int]:
        now = Counter(self.counters)
        now["connections_open"] = sum(not one.client_left for one in self.connections)
        now["watches_open"] = sum(one.watching and not one.client_left for one in self.connections)
        return dict(now)

    # --- the listening socket

    def _listen(self) -> None:
        """Listen on the reserved port, which nobody else can take while it is refused."""
        if self._listener is None:
            self._listener = _bound(self.port)
            self._listener.listen(1024)
            self._listener.setblocking(False)
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.counters["connections"] += 1
        connection = _Connection(self, sock)
        if self.mode == "reset":
            self.counters["resets"] += 1
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
            sock.close()
            return
        self.connections.add(connection)
        connection.task = asyncio.get_running_loop().create_task(connection.run())
        self._tasks.add(connection.task)
        connection.task.add_done_callback(self._tasks.discard)

    # --- waiting for orders

    def _wake(self) -> None:
        """Let everybody who waits for a change look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def gate(self, counter: str, count: int = 1) -> None:
        """Wait as long as there is a black hole; `counter` counts what had to."""
        if self.mode == "black_hole":
            self.counters[counter] += count
        while self.mode == "black_hole":
            await self._changed.wait()

    async def pause(self, seconds: float) -> None:
        """Wait that long, or until the next order."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def rule_for(self, request: Request) -> _Rule | None:
        """Return the fault that is for this request."""
        return next((rule for rule in self.rules if rule.takes(request)), None)

    async def lag(self, request: Request) -> None:
        """Wait as long as the delays for this request say."""
        for rule in list(self.delays):
            if rule.takes(request):
                self.counters["delayed"] += 1
                end_ns = now_ns() + int(rule.params["seconds"] * 1e9)
                while rule in self.delays and (left_ns := end_ns - now_ns()) > 0:
                    await self.pause(left_ns / 1e9)


class _Connection:
    """One client connection, and the upstream connection made for it."""

    def __init__(self, server: _Server, sock: socket.socket) -> None:
        self.server = server
        self.task: asyncio.Task[None] | None = None
        self.request: Request | None = None
        self.watching = False
        self.held: asyncio.Event | None = None
        self._sock = sock
        self._ours = True  # to close; later a transport does
        self._client: _Stream | None = None
        self._upstream: _Stream | None = None
        self._frozen = False

    @property
    def client_left(self) -> bool:
        """Whether the client has closed, as far as the proxy heard."""
        return self._client is not None and self._client.reader.left.is_set()

    # --- orders

    def end(self, *, reset: bool) -> None:
        """Close the client's side at once; a held request lives on without it."""
        if reset:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        if self._client is not None:
            self._client.abort()
        elif self._ours:
            self._sock.close()
        if self.task is not None and self.held is None:
            self.task.cancel()

    def cut(self, *, silently: bool) -> None:
        """Cut the watch."""
        self.server.counters["watches_cut"] += 1
        self.watching = False
        if silently:
            self._frozen = True
        else:
            self.end(reset=False)

    # --- the connection's life

    async def run(self) -> None:
        """Serve the client until one side ends."""
        try:
            await self.server.gate("connections_black_holed")
            loop = asyncio.get_running_loop()
            self._ours = False
            self._client = await _open(
                lambda protocol: loop.connect_accepted_socket(
                    protocol, self._sock, ssl=self.server.server_tls
                )
            )
            while await self._serve_one():
                pass
        except (_Closed, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except (ValueError, IndexError, asyncio.LimitOverrunError):
            self.server.counters["not_http"] += 1
        finally:
            self.watching = False
            for stream in (self._client, self._upstream):
                if stream is not None:
                    stream.abort()
            if self._ours:
                self._sock.close()
            self.server.connections.discard(self)

    async def _serve_one(self) -> bool:
        """Serve one request; return whether the connection goes on."""
        assert self._client is not None
        server = self.server
        head = await _read_head(self._client.reader)
        body = b"".join([piece async for piece, _ in _pieces(self._client.reader, head)])
        method, path = head.first[:2]
        watch = parse_qs(urlsplit(path).query).get("watch", [""])[0] in {"1", "true"}
        number = len(server.requests) + 1
        request = Request(number, method, path, watch, now_ns())
        self.request = request
        server.requests.append(request)
        server.counters["requests"] += 1
        server.counters["watches"] += watch
        await server.gate("black_holed")
        rule = server.rule_for(request)
        if rule is not None:
            request.action = rule.kind
        if rule is not None and rule.kind in {"answer", "garbage"}:
            return await self._answer(rule, request)
        if rule is not None and rule.kind == "hold":
            await self._hold()
        reply = await self._forward(head.raw + body, request)
        return await self._pass_on(reply, request, rule) and not head.last

    async def _answer(self, rule: _Rule, request: Request) -> bool:
        """Answer in the upstream's place."""
        await self.server.lag(request)
        self.server.counters["answered"] += 1
        if rule.kind == "garbage":
            await self._send(rule.params["body"].encode("latin-1"), request)
            raise _Closed
        status = HTTPStatus(rule.params["status"])
        words = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        words |= {"message": "answered by the proxy", "reason": status.phrase.replace(" ", "")}
        body = json.dumps({**words, "code": status})
        headers = {"Content-Length": str(len(body)), **rule.params["headers"]}
        lines = [f"HTTP/1.1 {status} {status.phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join(lines) + "\r\n\r\n"
        await self._send((head + body).encode("latin-1"), request, status=status, last=True)
        return True

    async def _hold(self) -> None:
        """Wait until the request is released."""
        self.server.counters["held"] += 1
        self.held = asyncio.Event()
        await self.held.wait()
        self.held = None

    async def _forward(self, data: bytes, request: Request) -> _Head:
        """Send a request upstream and return the head of the response."""
        try:
            upstream = await self._connect_upstream()
            await self.server.gate("black_holed")  # the last look before the first byte
            request.forwarded_ns = now_ns()
            self.server.counters["forwarded"] += 1
            upstream.writer.write(data)
            await upstream.writer.drain()
            reply = await self._from_upstream(_read_head(upstream.reader))
        except (OSError, asyncio.IncompleteReadError):
            self.server.counters["upstream_errors"] += 1
            self.end(reset=True)
            raise _Closed from None
        request.upstream_status = int(reply.first[1])
        return reply

    async def _connect_upstream(self) -> _Stream:
        """Return the upstream connection, a new one if there is none any more."""
        if self._upstream is None or self._upstream.reader.left.is_set():
            if self._upstream is not None:
                self._upstream.abort()
            host, port = self.server.upstream
            loop = asyncio.get_running_loop()
            self._upstream = await _open(
                lambda protocol: loop.create_connection(
                    protocol, host, port, ssl=self.server.upstream_tls
                )
            )
        return self._upstream

    async def _pass_on(self, reply: _Head, request: Request, rule: _Rule | None) -> bool:
        """Send a response to the client; return whether the connection goes on."""
        assert self._client is not None
        assert self._upstream is not None
        server = self.server
        status = request.upstream_status
        last = reply.length == 0
        pieces = _pieces(self._upstream.reader, reply)
        if rule is not None and rule.kind == "lose_reply":
            size = len(reply.raw)
            if not request.watch:
                size += sum([len(piece) async for piece, _ in pieces])
            server.counters["replies_lost"] += 1
            server.counters["dropped_bytes"] += size
            if rule.params["silently"]:
                await self._client.reader.left.wait()
            self.end(reset=True)
            raise _Closed
        await server.lag(request)
        self.watching = request.watch and status == HTTPStatus.OK
        await self._send(reply.raw, request, status=status, last=last)
        if not last and rule is not None and rule.kind == "reset_mid_response":
            await self._break_off(pieces, request)
        while not last:
            piece, last = await self._from_upstream(anext(pieces, (b"", True)))
            await self._send(piece, request, last=last)
        self.watching = False
        return not reply.last

    async def _break_off(self, pieces: _Pieces, request: Request) -> None:
        """Send half of the first piece, then reset."""
        piece, _ = await self._from_upstream(anext(pieces, (b"", True)))
        half = piece[: len(piece) // 2]
        await self._send(half, request)
        # A reset drops what the kernel has not sent yet; under load it puts small pieces off.
        for _ in range(1000):
            if not struct.unpack("i", fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(4)))[0]:
                break
            await self.server.pause(0.001)
        self.server.counters["resets_mid_response"] += 1
        self.server.counters["dropped_bytes"] += len(piece) - len(half)
        self.end(reset=True)
        raise _Closed

    async def _from_upstream(self, reading: Awaitable[T]) -> T:
        """Read from the upstream unless the client leaves first; a black hole hides that it did."""
        assert self._client is not None
        reader = asyncio.ensure_future(reading)
        left = asyncio.ensure_future(self._client.reader.left.wait())
        try:
            while not reader.done():
                waited = {reader} if left.done() else {reader, left}
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                if left.done() and not reader.done():
                    await self.server.gate("black_holed", 0)
                    if self.watching or self._frozen:
                        raise _Closed
            return reader.result()
        finally:
            reader.cancel()
            left.cancel()

    async def _send(
        self, data: bytes, request: Request, *, status: int = 0, last: bool = False
    ) -> None:
        """Send to the client, as fast as the faults allow; note the end before it is seen."""
        assert self._client is not None
        server = self.server
        while data or last:
            await server.gate("black_holed")
            if self._frozen or self.client_left:
                server.counters["dropped_bytes"] += len(data)
                await self._client.reader.left.wait()
                raise _Closed
            rate = server.bytes_per_s
            size = max(1, int(rate / 20)) if rate else max(1, len(data))
            piece, data = data[:size], data[size:]
            request.status = request.status or status
            if last and not data:
                last = False
                self.watching = False
                request.replied_ns = now_ns()
                server.counters["replied"] += 1
            self._client.writer.write(piece)
            await self._client.writer.drain()
            if rate:
                server.counters["trickled_bytes"] += len(piece)
                request.action = request.action or "trickle"
                end_ns = now_ns() + int(len(piece) / rate * 1e9)
                while server.bytes_per_s == rate and (left_ns := end_ns - now_ns()) > 0:
                    await server.pause(left_ns / 1e9)


def main() -> None:
    """Be the proxy: stdin is the control channel."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # broken connections are the purpose

    async def serve() -> None:
        await _Server(*sys.argv[2:]).run()
        os._exit(0)

    asyncio.run(serve())
