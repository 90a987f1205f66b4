"""Clients of the HTTP side, and a server process whose guardian does nothing."""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import socket
import subprocess
import time
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from typing import TYPE_CHECKING, Any, Final, Self

import psutil

from leaderexec import channel, linux, log, server
from leaderexec.board import Board
from leaderexec.channel import LockIs, TenureIs
from leaderexec.model import SECOND_NS, Timing
from tests.support.candidate import is_gone, kill
from tests.support.wait import T, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from leaderexec.board import News
    from leaderexec.model import Now
    from tests.support.candidate import Candidate

ELECTION = "my-app"
OURS = "host_leaderexec-0123456789abcdef"
#: The shortest lawful timing, so that silence is noticed soon.
FAST = Timing(5, 2 * SECOND_NS, SECOND_NS)
#: Longer than anything here takes, on however busy a machine.
BOUND_S = 30.0
#: What a candidate is given to be asked; see Candidate.port.
HTTP = "--http=127.0.0.1:0"


_LOCK: Final = LockIs(
    generation=1,
    holder="",
    until_ns=0,
    since_us=1_531_388_099_500_000,
    lease_duration_s=15,
    transitions=3,
    slow_renewals=0,
    lines_dropped=0,
)
_STANDING: Final = TenureIs(
    state="idle",
    elector_is_alive=True,
    lock="lease ns/my-app",
    namespace="ns",
    token=None,
    transitions=None,
    renew_by_ns=None,
    keeper_pid=None,
    child_pid=None,
    grants=0,
    leaderships=0,
    child_starts=0,
    elector_starts=1,
    lines_dropped=0,
)


def until(condition: Callable[[], T], what: str) -> T:
    """Wait for a condition as long as anything here may take."""
    return wait_until(condition, timeout_s=BOUND_S, what=what)


def lock_is(holder: str, until_ns: int, **changed: Any) -> LockIs:
    """Return what an elector says of the lock."""
    return replace(_LOCK, holder=holder, until_ns=until_ns, **changed)


def standing(**changed: Any) -> TenureIs:
    """Return what the guardian of a standby says."""
    return replace(_STANDING, **changed)


def leading(renew_by_ns: int, **changed: Any) -> TenureIs:
    """Return what the guardian of a leader says."""
    once = dict.fromkeys(("grants", "leaderships", "child_starts"), 1)
    facts = {"state": "running", "token": 41, "transitions": 3, **once, **changed}
    return standing(renew_by_ns=renew_by_ns, **facts)


def board_of(now: Now, timing: Timing, **changed: bool) -> Board:
    """Return the board of a candidate that goes by a name that leaderexec made."""
    options = {"identity_is_generated": True, "leader_only": False, **changed}
    return Board(election=ELECTION, identity=OURS, timing=timing, now=now, **options)


@dataclass(frozen=True)
class Reply:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(
    port: int,
    path: str = "/",
    method: str = "GET",
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Ask over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=BOUND_S)
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        response = connection.getresponse()
        return Reply(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


def has_ipv6() -> bool:
    """Whether this machine has an IPv6 address of its own, as not every container has."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def shown_leader(port: int) -> str:
    """Return who leads, as any client of 2016 would learn it."""
    return str(json.loads(ask(port).body)["name"])


def leads(port: int) -> bool:
    """Whether the candidate that serves here is shown as the leader."""
    return ask(port, "/leader").status == 200


def status_of(port: int) -> dict[str, Any]:
    """Return all that /status tells."""
    status: dict[str, Any] = json.loads(ask(port, "/status").body)
    return status


def metrics_of(port: int) -> dict[str, float]:
    """Return the value of each metric, by its name with its labels."""
    text = ask(port, "/metrics").body.decode()
    return {
        name: float(value) for name, value in re.findall(r"^([^#\n]+) (\S+)$", text, re.MULTILINE)
    }


def wait_leads(candidate: Candidate) -> int:
    """Wait until a candidate's own server knows that it leads, and return its port."""
    port = candidate.port
    until(lambda: leads(port), f"{candidate.name} leads")
    return port


def wait_shown(port: int, name: str) -> None:
    """Wait until a server shows this leader."""
    until(lambda: shown_leader(port) == name, f"{name!r} is shown as the leader")


class EventReader:
    """Reads server-sent events over a connection of its own, closed with its context."""

    def __init__(self, port: int, path: str = "/events") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=BOUND_S)
        self._connection.request("GET", path)
        self._response = self._connection.getresponse()
        self.status = self._response.status
        self.headers = self._response.headers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()
        self._connection.close()

    def line(self) -> str:
        """Return the next line that is not empty, empty at the end."""
        while (line := self._response.readline()) == b"\n":
            pass
        return line.decode().rstrip("\n")

    def data(self) -> str:
        """Return what the next event says, passing over signs of life for a while."""
        end_s = time.monotonic() + BOUND_S
        while (line := self.line()).startswith(":"):
            assert time.monotonic() < end_s, "signs of life, and no event"
        field, _, value = line.partition(": ")
        assert field == "data", line
        return value

    def who(self) -> tuple[str, bool]:
        """Return what the next event says: who leads, and whether the one that tells it does."""
        event = json.loads(self.data())
        return event["name"], event["leader"]

    def wait_who(self, name: str, leader: bool) -> None:
        """Read until this is told."""
        while self.who() != (name, leader):
            pass


class ServerUnderTest:
    """A server in a process of its own, and all that it is given.

    `descriptors` bounds how many the process may open, beyond those that it is given.
    """

    def __init__(self, *, descriptors: int | None = None) -> None:
        self._descriptors = descriptors
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self._guardian = subprocess.Popen(["sleep", "600"])
        self._guardian_pidfd = os.pidfd_open(self._guardian.pid)
        self._ours, self._theirs = channel.pair()
        self.pid = 0

    def __enter__(self) -> Self:
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
        return self

    def __exit__(self, *_: object) -> None:
        if self.pid:
            kill(self.pid)
            self.exit_status()
        self.kill_guardian()
        os.close(self._guardian_pidfd)
        for each in (self._ours, self._theirs, self._listener):
            each.close()

    def _serve(self) -> None:
        if self._descriptors is not None:
            taken = set(map(int, os.listdir("/proc/self/fd")))
            free = (fd for fd in count() if fd not in taken)
            end = next(islice(free, self._descriptors, None))
            resource.setrlimit(resource.RLIMIT_NOFILE, (end, end))
        server.serve(
            channel=self._theirs,
            guardian_pidfd=self._guardian_pidfd,
            listeners=[self._listener],
            board=board_of(linux.now(), timing=FAST),
            log=log.configure(level="error", form="json", environ={}, role="server"),
        )

    def exit_status(self) -> int:
        """Wait for the server to end and return its exit code."""
        until(lambda: is_gone(self.pid), "the server ended")
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def kill_guardian(self) -> None:
        """Let the guardian die, seen by the server and reaped by its parent."""
        self._guardian.kill()
        self._guardian.wait()

    def tell(self, *messages: News) -> None:
        """Send what guardian or elector would."""
        for message in messages:
            until(partial(self._ours.send, message), "sent")

    def hang_up(self) -> None:
        """Close the writing end."""
        self._ours.close()

    def ask(self, path: str, method: str = "GET", **how: Any) -> Reply:
        """Ask over a connection of its own."""
        return ask(self.port, path, method, **how)

    def connect(self, sent: bytes = b"", *, receive_bytes: int | None = None) -> socket.socket:
        """Open a bare connection and send something; `receive_bytes` bounds what it buffers."""
        sock = socket.socket()
        sock.settimeout(BOUND_S)
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.connect(("127.0.0.1", self.port))
        sock.sendall(sent)
        return sock

    def clients(self) -> int:
        """Return how many connections the server has accepted and not closed."""
        connections = psutil.Process(self.pid).net_connections("tcp")
        return sum(each.status != psutil.CONN_LISTEN for each in connections)

    def wait_clients(self, number: int) -> None:
        """Wait until so many are connected."""
        until(lambda: self.clients() == number, f"{number} are connected")


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
        rest_of(sock)
    except BlockingIOError:
        return False
    finally:
        sock.settimeout(BOUND_S)
    return True
