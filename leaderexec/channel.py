"""Messages between guardian, elector, keeper and server, over socketpairs.

Owns their encoding and nothing of their meaning. A SOCK_SEQPACKET socket keeps message
boundaries, so that a writer which dies in the middle leaves no half message; it is non-blocking
at both ends, so that a reader which hangs or is stopped never blocks the writer. What cannot be
decoded is dropped and counted: a broken peer must not break this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
from dataclasses import dataclass, fields
from typing import Any, Final, Generic, TypeVar, get_type_hints

#: Large enough for any message; what is longer is not ours.
_MAX_BYTES: Final = 16384
#: More than a socket holds, so that all that waits is taken, and whoever floods us gets one turn.
_PACKETS_AT_ONCE: Final = 1024
#: More than any clock, version or pid of ours; greater ones would overflow where they are used.
_MAX_INT: Final = 2**63 - 1


# --- elector to guardian ---


@dataclass(frozen=True, slots=True)
class Opened:
    """The lock can be used: what it is called, and the namespace (empty if it has none)."""

    lock: str
    namespace: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The lock cannot be used as configured; the message is for the user."""

    message: str


@dataclass(frozen=True, slots=True)
class GrantSent:
    """See model.Grant and model.Claim, whose fields these are."""

    generation: int
    token: int
    uid: str
    holder: str
    acquire_time_us: int | None
    transitions: int
    renewed_at_ns: int
    expires_at_ns: int


@dataclass(frozen=True, slots=True)
class LostSent:
    """The lock belongs to another."""

    generation: int
    token: int
    reason: str


@dataclass(frozen=True, slots=True)
class StandingSent:
    """A try did not make us leader."""

    leader: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReleasedSent:
    """The lock is given back as far as it could be."""

    generation: int
    token: int | None
    outcome: str
    retired: bool


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat."""

    generation: int


# --- guardian to elector ---


@dataclass(frozen=True, slots=True)
class BeatAnswered:
    """The answer to a heartbeat."""


@dataclass(frozen=True, slots=True)
class KeeperForked:
    """A keeper exists; the pipe that will prove its tree dead comes with the message."""


@dataclass(frozen=True, slots=True)
class TreeIsGone:
    """No process of the tree is left."""

    token: int | None
    retire: bool


# --- elector and guardian to server ---
# What is told is absolute, totals included, so that a message that was lost is mended by the next.


@dataclass(frozen=True, slots=True)
class LockIs:
    """What the elector knows of the lock.

    `holder` is empty when there is none or it is not known; it is to be believed until
    `until_ns`, and has been so since `since_us` on the wall clock. `slow_renewals` counts renewals
    that needed a read first.
    """

    generation: int
    holder: str
    until_ns: int
    since_us: int
    lease_duration_s: int
    transitions: int
    slow_renewals: int
    lines_dropped: int


@dataclass(frozen=True, slots=True)
class CallTook:
    """A call to the lock has ended: what for, how (`ok` or the kind of failure), after how long."""

    purpose: str
    outcome: str
    took_ns: int


@dataclass(frozen=True, slots=True)
class TenureIs:
    """What the guardian has: its state (`tenure.State`), its elector, its tree.

    While there is a grant, `token` is its leadership and `renew_by_ns` the instant at which
    leading is over unless another comes. `keeper_pid` is the root of the tree.
    """

    state: str
    elector_is_alive: bool
    lock: str
    namespace: str
    token: int | None
    transitions: int | None
    renew_by_ns: int | None
    keeper_pid: int | None
    child_pid: int | None
    grants: int
    leaderships: int
    child_starts: int
    elector_starts: int
    lines_dropped: int


@dataclass(frozen=True, slots=True)
class ChildExited:
    """A child has ended, with what a shell would report."""

    exit_code: int


# --- guardian to keeper ---


@dataclass(frozen=True, slots=True)
class Go:
    """Start the child unless `stop_at_ns` has passed; kill everything at `kill_at_ns`.

    The rest is what the child is told of its leadership.
    """

    stop_at_ns: int
    kill_at_ns: int
    namespace: str
    token: int
    transitions: int


@dataclass(frozen=True, slots=True)
class Deadline:
    """Kill everything at `kill_at_ns`, no sooner and no later."""

    kill_at_ns: int


@dataclass(frozen=True, slots=True)
class Signal:
    """Send a signal to the child, its group, or all of the tree (`tenure.Scope`)."""

    signum: int
    scope: str
    stop: bool


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill everything now."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Say that you are alive."""


# --- keeper to guardian ---


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping."""


@dataclass(frozen=True, slots=True)
class ChildStarted:
    """The child has been executed."""

    pid: int


@dataclass(frozen=True, slots=True)
class ChildNotStarted:
    """The child was not executed: `errno` says why, None when its time was over before."""

    errno: int | None


@dataclass(frozen=True, slots=True)
class ChildStopped:
    """The child was stopped by this signal, in the terminal that we share."""

    pid: int
    signum: int


@dataclass(frozen=True, slots=True)
class ChildStatus:
    """The child has been reaped with this wait status."""

    status: int


Message = (
    Opened
    | Refused
    | GrantSent
    | LostSent
    | StandingSent
    | ReleasedSent
    | Beat
    | BeatAnswered
    | KeeperForked
    | TreeIsGone
    | LockIs
    | CallTook
    | TenureIs
    | ChildExited
    | Go
    | Deadline
    | Signal
    | Kill
    | Ping
    | Pong
    | ChildStarted
    | ChildNotStarted
    | ChildStopped
    | ChildStatus
)

_M = TypeVar("_M", bound=Message)

_TYPES: Final[dict[str, type[Any]]] = {cls.__name__: cls for cls in Message.__args__}
_FIELDS: Final[dict[str, list[tuple[str, Any]]]] = {
    name: [(f.name, get_type_hints(cls)[f.name]) for f in fields(cls)]
    for name, cls in _TYPES.items()
}


class Undecodable(ValueError):
    """Bytes that are not a message of ours."""


def encode(message: Message) -> bytes:
    """Write a message as a JSON array: its name, then its fields in order."""
    name = type(message).__name__
    values = [getattr(message, field) for field, _ in _FIELDS[name]]
    return json.dumps([name, *values], separators=(",", ":")).encode()


def decode(data: bytes) -> Message:
    """Read what `encode` wrote; raise Undecodable for anything else."""
    try:
        items = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Undecodable(f"not JSON: {data[:80]!r}") from error
    if not isinstance(items, list) or not items or not isinstance(items[0], str):
        raise Undecodable(f"not a message: {data[:80]!r}")
    name, values = items[0], items[1:]
    expected = _FIELDS.get(name)
    if expected is None or len(values) != len(expected):
        raise Undecodable(f"no such message: {data[:80]!r}")
    for (field, hint), value in zip(expected, values, strict=True):
        # bool is an int to isinstance, and must not pass for a number.
        fits = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
        if isinstance(value, int) and not -_MAX_INT <= value <= _MAX_INT:
            fits = False
        if not fits:
            raise Undecodable(f"{name}.{field} is {value!r}")
    message: Message = _TYPES[name](*values)
    return message


class ChannelClosed(Exception):
    """The other end is closed: its process is dead or ending."""


class Channel:
    """One end of a socketpair."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        #: How many packets could not be decoded.
        self.garbage = 0

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._socket.fileno()

    def send(self, message: Message, fd: int | None = None) -> bool:
        """Send, or return False at once when the peer is gone or does not read."""
        data = encode(message)
        try:
            if fd is None:
                self._socket.send(data, socket.MSG_NOSIGNAL)
            else:
                socket.send_fds(self._socket, [data], [fd], socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    def receive(self) -> list[tuple[Message, int | None]]:
        """Return what waits to be read, each with the descriptor that came along.

        Raise ChannelClosed when the peer has closed and everything before has been returned.
        """
        received: list[tuple[Message, int | None]] = []
        for _ in range(_PACKETS_AT_ONCE):
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, _MAX_BYTES, 1)
            except (BlockingIOError, InterruptedError):
                return received
            except ConnectionResetError:
                continue  # the peer closed without reading all; what it wrote before is still there
            if not data and not fds and self._peer_has_closed():
                if received:
                    return received
                raise ChannelClosed
            for fd in fds:
                os.set_inheritable(fd, False)
            try:
                received.append((decode(data), fds[0] if fds else None))
            except Undecodable:
                self.garbage += 1
                for fd in fds:
                    os.close(fd)
        return received

    def _peer_has_closed(self) -> bool:
        """Tell the end from an empty packet: to read, they are the same."""
        poll = select.poll()
        poll.register(self._socket, select.POLLRDHUP)
        return bool(poll.poll(0))

    def hang_up(self) -> None:
        """Let the peer see the end; what it has sent can still be received."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


class Bulletin(Generic[_M]):
    """Tells one absolute message over and over: on every change, and again at every heartbeat.

    What is lost, because its reader is slow or was not there yet, is mended by the next.
    """

    def __init__(self, channel: Channel, heartbeat_ns: int) -> None:
        self.channel = channel
        #: What was told last, None if nothing was or a new reader is to be told everything.
        self.told: _M | None = None
        self._told_ns = 0
        self._heartbeat_ns = heartbeat_ns

    def tell(self, message: _M, now_ns: int) -> None:
        """Send `message` if it is news, or if it is time to say it again."""
        due = now_ns >= self._told_ns + self._heartbeat_ns
        if (message != self.told or due) and self.channel.send(message):
            self.told, self._told_ns = message, now_ns


def pair() -> tuple[Channel, Channel]:
    """Return the two ends of a new channel."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(left), Channel(right)
