"""Clients of the HTTP side, and a server process for them with a guardian that does nothing.

Owns the processes, sockets and the channel of one server under test, and the messages that
guardian and elector would send. Must not know: what the answers should be. Everything it starts is
ended with it, by pid.
"""

from __future__ import annotations

import http.client
import os
import resource
import signal
import socket
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from typing import TYPE_CHECKING, Any, Self

from leaderexec import channel, linux, log, server
from leaderexec.board import Board
from leaderexec.channel import LockIs, TenureIs
from leaderexec.model import SECOND_NS, Timing
from tests.support.candidates import is_gone, kill
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leaderexec.board import News

ELECTION = "my-app"
OURS = "host_leaderexec-0123456789abcdef"
#: The shortest lawful timing, so that silence is noticed soon.
FAST = Timing(5, 2 * SECOND_NS, SECOND_NS)
#: As /proc/net/tcp has it.
_LISTENING = "0A"
#: Longer than anything here takes, on however busy a machine.
BOUND_S = 30.0


def lock_is(holder: str, until_ns: int, **changed: Any) -> LockIs:
    """Return what an elector says of the lock."""
    facts: dict[str, Any] = {
        "generation": 1,
        "holder": holder,
        "until_ns": until_ns,
        "since_us": 1_531_388_099_500_000,
        "lease_duration_s": 15,
        "transitions": 3,
        "slow_renewals": 0,
        "lines_dropped": 0,
    }
    return LockIs(**{**facts, **changed})


def standing(**changed: Any) -> TenureIs:
    """Return what the guardian of a standby says."""
    facts: dict[str, Any] = {
        "state": "idle",
        "elector_is_alive": True,
        "lock": "lease ns/my-app",
        "namespace": "ns",
        "token": None,
        "transitions": None,
        "renew_by_ns": None,
        "keeper_pid": None,
        "child_pid": None,
        "grants": 0,
        "leaderships": 0,
        "child_starts": 0,
        "elector_starts": 1,
        "lines_dropped": 0,
    }
    return TenureIs(**{**facts, **changed})


def leading(renew_by_ns: int, **changed: Any) -> TenureIs:
    """Return what the guardian of a leader says."""
    facts: dict[str, Any] = {
        "state": "running",
        "token": 41,
        "transitions": 3,
        "renew_by_ns": renew_by_ns,
        "grants": 1,
        "leaderships": 1,
        "child_starts": 1,
    }
    return standing(**{**facts, **changed})


@dataclass(frozen=True)
class Reply:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class EventReader:
    """Reads server-sent events over a connection of its own."""

    def __init__(self, port: int, path: str = "/events") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=BOUND_S)
        self._connection.request("GET", path)
        self._response = self._connection.getresponse()
        self.status = self._response.status
        self.headers = self._response.headers

    def line(self) -> str:
        """Return the next line that is not empty, empty at the end."""
        while (line := self._response.readline()) == b"\n":
            pass
        return line.decode().rstrip("\n")

    def data(self) -> str:
        """Return what the next event says, passing over signs of life."""
        while (line := self.line()).startswith(":"):
            pass
        field, _, value = line.partition(": ")
        assert field == "data", line
        return value

    def close(self) -> None:
        """Go away."""
        self._response.close()
        self._connection.close()


class ServerUnderTest:
    """A server in a process of its own, and all that it is given.

    `descriptors` bounds how many the process may open, beyond those that it is given.
    """

    def __init__(self, *, descriptors: int | None = None, **of_board: Any) -> None:
        self._descriptors = descriptors
        self._of_board = of_board
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self._ours, self._theirs = channel.pair()
        self.guardian = _fork_idle()
        self._guardian_pidfd = os.pidfd_open(self.guardian)
        self.pid = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.kill_guardian()
        os.close(self._guardian_pidfd)
        self._ours.close()
        self._theirs.close()
        self._listener.close()

    def start(self) -> None:
        """Fork the server, as the guardian would."""
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                self._ours.close()
                self._serve()
                code = 0
            finally:
                os._exit(code)

    def _serve(self) -> None:
        if self._descriptors is not None:
            taken = set(map(int, os.listdir("/proc/self/fd")))
            free = (fd for fd in count() if fd not in taken)
            end = next(islice(free, self._descriptors, None))
            resource.setrlimit(resource.RLIMIT_NOFILE, (end, end))
        options: dict[str, Any] = {
            "election": ELECTION,
            "identity": OURS,
            "identity_is_generated": True,
            "timing": FAST,
            "leader_only": False,
            "now": linux.now(),
        }
        server.serve(
            channel=self._theirs,
            guardian_pidfd=self._guardian_pidfd,
            listeners=[self._listener],
            board=Board(**{**options, **self._of_board}),
            log=log.configure(level="error", form="json", environ={}, role="server"),
        )

    def kill(self) -> None:
        """Kill the server and reap it."""
        if self.pid:
            kill(self.pid)
            os.waitpid(self.pid, 0)
            self.pid = 0

    def exit_status(self) -> int:
        """Wait for the server to end by itself and return its exit code."""
        wait_until(lambda: is_gone(self.pid), timeout_s=BOUND_S, what="the server ended")
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def kill_guardian(self) -> None:
        """Let the guardian die, seen by the server and reaped by its parent."""
        if self.guardian:
            kill(self.guardian)
            os.waitpid(self.guardian, 0)
            self.guardian = 0

    def tell(self, *messages: News) -> None:
        """Send what guardian or elector would."""
        for message in messages:
            wait_until(partial(self._ours.send, message), timeout_s=BOUND_S, what="sent")

    def hang_up(self) -> None:
        """Close the writing end."""
        self._ours.close()

    def ask(
        self,
        path: str,
        method: str = "GET",
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Ask over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=BOUND_S)
        try:
            connection.request(method, path, body=body, headers=dict(headers or {}))
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def connect(self, sent: bytes = b"", *, receive_bytes: int | None = None) -> socket.socket:
        """Open a bare connection and send something; `receive_bytes` bounds what it buffers."""
        sock = socket.socket()
        sock.settimeout(BOUND_S)
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.connect(("127.0.0.1", self.port))
        sock.sendall(sent)
        return sock

    def read_events(self, path: str = "/events") -> EventReader:
        """Begin to read events."""
        return EventReader(self.port, path)

    def clients(self) -> int:
        """Return how many connections the server has accepted and not closed."""
        with open("/proc/net/tcp") as file:
            lines = [line.split() for line in file.readlines()[1:]]
        here = f":{self.port:04X}"
        return sum(
            local.endswith(here) and state != _LISTENING and inode != "0"
            for _, local, _, state, _, _, _, _, _, inode, *_ in lines
        )


def _fork_idle() -> int:
    pid = os.fork()
    if pid == 0:
        try:
            signal.pause()
        finally:
            os._exit(0)
    return pid


def rest_of(sock: socket.socket) -> bytes:
    """Return what still comes until the peer closes, however it closes."""
    received = b""
    try:
        while data := sock.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def is_closed(sock: socket.socket) -> bool:
    """Whether the peer has closed, as far as is known now; what it sent before is thrown away."""
    sock.setblocking(False)
    try:
        while data := sock.recv(65536):
            del data
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    finally:
        sock.settimeout(BOUND_S)
    return True
