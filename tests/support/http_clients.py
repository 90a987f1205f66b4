"""Clients of the HTTP side, civil and hostile, and a server process with a guardian that is idle.

Owns the connections of the clients; the process, the sockets and the channel of one server under
test, and the messages that guardian and elector would send. Must not know: what the answers should
be. Everything it starts is ended with it, by pid.

The hostile ones are a `Crowd`, a process of their own: it takes no time from whoever measures.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import resource
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from leaderexec import channel, linux, log, server
from leaderexec.board import Board
from leaderexec.channel import LockIs, TenureIs
from leaderexec.model import SECOND_NS, Timing
from tests.support.candidate import is_gone, kill
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from leaderexec.board import News
    from tests.support.candidate import Candidate

ELECTION = "my-app"
OURS = "host_leaderexec-0123456789abcdef"
#: The shortest lawful timing, so that silence is noticed soon.
FAST = Timing(5, 2 * SECOND_NS, SECOND_NS)
#: As /proc/net/tcp has it.
_LISTENING = "0A"
#: Longer than anything here takes, on however busy a machine.
BOUND_S = 30.0
#: What a candidate is given to be asked; see Candidate.port.
HTTP = "--http=127.0.0.1:0"


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


def ask(
    port: int,
    path: str = "/",
    method: str = "GET",
    *,
    host: str = "127.0.0.1",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Ask over a connection of its own."""
    connection = http.client.HTTPConnection(host, port, timeout=BOUND_S)
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
    wait_until(lambda: leads(port), timeout_s=BOUND_S, what=f"{candidate.name} leads")
    return port


def wait_shown(port: int, name: str) -> None:
    """Wait until a server shows this leader."""
    wait_until(
        lambda: shown_leader(port) == name,
        timeout_s=BOUND_S,
        what=f"{name!r} is shown as the leader",
    )


class EventReader:
    """Reads server-sent events over a connection of its own, closed with its context."""

    def __init__(self, port: int, path: str = "/events", *, host: str = "127.0.0.1") -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=BOUND_S)
        self._connection.request("GET", path)
        self._response = self._connection.getresponse()
        self.status = self._response.status
        self.headers = self._response.headers

    def __enter__(self) -> Self:
        """Read."""
        return self

    def __exit__(self, *_: object) -> None:
        """Go away."""
        self.close()

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
        self.guardian = _fork_idle()  # first, so that it holds no end of the channel
        self._ours, self._theirs = channel.pair()
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
        return ask(self.port, path, method, body=body, headers=headers)

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
        return accepted(self.port)


def _fork_idle() -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            linux.die_with_parent(parent)
            signal.pause()
        finally:
            os._exit(0)
    return pid


def accepted(port: int) -> int:
    """Return how many connections to a port of ours were accepted and not closed, as of now."""
    with open("/proc/net/tcp") as file:
        lines = [line.split() for line in file.readlines()[1:]]
    here = f":{port:04X}"
    # A set, because a line may come twice while others come and go.
    inodes = {
        inode
        for _, local, _, state, _, _, _, _, _, inode, *_ in lines
        if local.endswith(here) and state != _LISTENING
    }
    return len(inodes - {"0"})


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


# --- the crowd: a process of its own ---------------------------------------------------------

_ROOT: Final = Path(__file__).resolve().parents[2]
#: How often the crowd looks at its connections.
_PASS_S: Final = 0.02
#: How many connections it makes at most each time.
_AT_ONCE: Final = 20
#: How often one that trickles sends a byte.
_TRICKLE_S: Final = 0.5
_SENT_FIRST: Final = {
    "idle": b"",
    "slow": b"GET /status HTTP/1.1\r\nHost: x\r\nX-Slow: ",
    "reset": b"GET /metrics HTTP/1.1\r\nHost: x\r\n",
}


class Crowd:
    """Hostile clients of one port.

    `idle` connections that say nothing, `slow` ones whose headers never end, and each time it
    looks, which is 50 times a second, `reset` ones that ask for something and vanish. Whatever the
    server closes is opened again, up to a thousand a second.
    """

    def __init__(self, port: int, *, idle: int = 0, slow: int = 0, reset: int = 0) -> None:
        self._argv = [sys.executable, "-m", "tests.support.http_clients"]
        self._argv += map(str, (port, idle, slow, reset))
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Start them."""
        self._process = subprocess.Popen(
            self._argv, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        """End them: their process takes every connection along."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def counts(self) -> dict[str, int]:
        """Return what they did so far.

        `open` are connected now, as far as they know; `opened` were, and `cut_off` of these by the
        server; `reset` were connected and reset; `failed` could not connect.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        counts: dict[str, int] = json.loads(self._process.stdout.readline())
        return counts


class _Mob:
    """What the process of a crowd does."""

    def __init__(self, port: int, idle: int, slow: int, reset: int) -> None:
        self._port = port
        self._missing = {"idle": idle, "slow": slow}
        self._resets = reset
        self._selector = selectors.DefaultSelector()
        self._slow: set[socket.socket] = set()
        self._counts = dict.fromkeys(("open", "opened", "cut_off", "reset", "failed"), 0)

    def run(self) -> NoReturn:
        """Be a crowd until killed."""
        self._selector.register(sys.stdin, selectors.EVENT_READ)
        next_pass_s = next_trickle_s = time.monotonic()
        while True:
            for key, _ in self._selector.select(max(0.0, next_pass_s - time.monotonic())):
                if isinstance(key.fileobj, socket.socket):
                    self._read(key.fileobj, key.data)
                elif sys.stdin.readline():
                    print(json.dumps(self._counts), flush=True)
                else:
                    os._exit(0)
            now_s = time.monotonic()
            if now_s >= next_pass_s:
                next_pass_s = now_s + _PASS_S
                self._fill_up()
            if now_s >= next_trickle_s:
                next_trickle_s = now_s + _TRICKLE_S
                for sock in self._slow:
                    with contextlib.suppress(OSError):
                        sock.send(b"x")

    def _fill_up(self) -> None:
        """Connect what is missing."""
        for kind in islice(self._wanted(), _AT_ONCE):
            sock = self._connect(kind)
            if sock is None:
                return
            self._missing[kind] -= 1
            self._counts["open"] += 1
            self._selector.register(sock, selectors.EVENT_READ, kind)
            if kind == "slow":
                self._slow.add(sock)
        for _ in range(self._resets):
            sock = self._connect("reset")
            if sock is not None:
                self._counts["reset"] += 1
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()

    def _wanted(self) -> Iterator[str]:
        for kind in self._missing:
            while self._missing[kind] > 0:
                yield kind

    def _connect(self, kind: str) -> socket.socket | None:
        sock = socket.socket()
        sock.settimeout(1)
        try:
            sock.connect(("127.0.0.1", self._port))
            sock.sendall(_SENT_FIRST[kind])
        except OSError:
            self._counts["failed"] += 1
            sock.close()
            return None
        sock.setblocking(False)
        self._counts["opened"] += 1
        return sock

    def _read(self, sock: socket.socket, kind: str) -> None:
        try:
            if sock.recv(65536):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._selector.unregister(sock)
        self._slow.discard(sock)
        sock.close()
        self._missing[kind] += 1
        self._counts["open"] -= 1
        self._counts["cut_off"] += 1


def main() -> NoReturn:
    """Be the crowd of `PORT IDLE SLOW RESET`."""
    raise_file_limit(8192)
    port, idle, slow, reset = map(int, sys.argv[1:])
    _Mob(port, idle, slow, reset).run()


def raise_file_limit(wanted: int) -> None:
    """Let this process open so many files, or fail: a crowd that cannot be is none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))


if __name__ == "__main__":
    main()
