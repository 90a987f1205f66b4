"""Garbage on the way from the elector to the guardian, between real processes on the file lock.

Owns the way in: a duplicate of the elector's own end of the channel, taken out of the living
process, so that what is sent by it is to the guardian the elector's word. What single packets do is
tried ten thousand times in tests/unit/test_fuzz_channel.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import socket
import threading
from typing import TYPE_CHECKING, Final

import pytest

from leaderexec import channel as wire
from tests.support.candidate import child_command, is_gone, resume, stop
from tests.support.fault_suite import STUBBORN, TAKEOVER_S
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.candidates import Candidates

_PIDFD_GETFD: Final = 438
_FAR_NS: Final = 2**62
#: A generation and a token that no elector of a short test comes to.
_NO_GENERATION: Final = 999
_NO_TOKEN: Final = 2**40

#: Messages that change nothing: of another generation, leadership or direction, or of no meaning.
_MESSAGES: Final[list[wire.Message]] = [
    wire.GrantSent(_NO_GENERATION, 1, "u", "me", None, 0, 1, _FAR_NS),
    wire.GrantSent(1, _NO_TOKEN, "u", "me", None, 0, 1, _FAR_NS),
    wire.LostSent(_NO_GENERATION, 1, "garbage"),
    wire.LostSent(1, _NO_TOKEN, "garbage"),
    wire.ReleasedSent(1, _NO_TOKEN, "garbage", retired=False),
    wire.Beat(_NO_GENERATION),
    wire.Opened("garbage \n\0", "default"),
    wire.Refused("garbage"),
    wire.StandingSent("\ud800", "garbage"),
    wire.KeeperForked(),
    wire.TreeIsGone(None, retire=True),
    wire.Deadline(_FAR_NS),
    wire.Kill(),
    wire.Ping(),
    wire.Pong(),
]


def _garbage(count: int) -> Iterator[bytes]:
    """Yield packets that no elector sends, the same ones every time."""
    rng = random.Random(1)
    for _ in range(count):
        data = wire.encode(rng.choice(_MESSAGES))
        kind = rng.random()
        if kind < 0.3:
            yield data
        elif kind < 0.5:
            yield data[: rng.randrange(len(data))]  # the empty packet, too
        elif kind < 0.7:
            at = rng.randrange(len(data))
            yield data[:at] + rng.randbytes(2) + data[at:]
        elif kind < 0.9:
            yield rng.randbytes(rng.randrange(1, 60))
        else:
            yield rng.choice([b"[" * 9000, b"9" * 16000, b"[" + b"0," * 9000])


def _way_in(elector: int) -> socket.socket:
    """Duplicate the elector's end of its channel: the one socket that it has."""
    pidfd = os.pidfd_open(elector)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        for name in os.listdir(f"/proc/{elector}/fd"):
            with contextlib.suppress(FileNotFoundError):
                if not os.readlink(f"/proc/{elector}/fd/{name}").startswith("socket:"):
                    continue
            fd = libc.syscall(_PIDFD_GETFD, pidfd, int(name), 0)
            if fd < 0:
                pytest.skip(f"pidfd_getfd: {os.strerror(ctypes.get_errno())}")
            sock = socket.socket(fileno=fd)
            if sock.type == socket.SOCK_SEQPACKET:
                return sock
            sock.close()
    finally:
        os.close(pidfd)
    raise AssertionError("the elector has no channel")


def _fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _send(sock: socket.socket, data: bytes, *, fd: int | None = None) -> bool:
    """Send a packet as soon as there is room for it; False when the guardian has closed its end."""
    fds = [] if fd is None else [fd]

    def sent() -> str:
        try:
            socket.send_fds(sock, [data], fds, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return ""
        except (BrokenPipeError, ConnectionResetError):
            return "closed"
        return "sent"

    return wait_until(sent, timeout_s=20, what="the guardian reads") == "sent"


@pytest.mark.alone
def test_a_burst_of_garbage_is_survived(candidates: Candidates) -> None:
    """Thousands of packets that no elector sends: the same guardian has a tree, and no descriptor.

    A burst may keep true grants from arriving: the child runs on, or another one follows it.
    Afterwards the guardian stops as ever, and nothing of it is left.
    """
    leader, tree = candidates.start_leader("a", child=child_command(*STUBBORN))
    guardian = leader.guardian
    leader.wait_event("child started")
    before = _fds(guardian)
    with _way_in(leader.elector) as sock:
        for number, data in enumerate(_garbage(3000)):
            if not _send(sock, data, fd=sock.fileno() if number % 3 == 0 else None):
                assert number > 10, "hardly anything was sent"
                break
    leader.wait_event("unexpected message", timeout_s=TAKEOVER_S)  # the fault took effect
    assert leader.guardian == guardian

    def settled() -> bool:
        return len(candidates.witness.running()) == 1 and _fds(guardian) == before

    wait_until(
        settled,
        timeout_s=TAKEOVER_S,
        what=f"a tree runs, and the guardian has {before} descriptors again",
    )
    (tree,) = candidates.witness.running()
    candidates.start_standby("b")
    everything = leader.everything()
    leader.terminate()
    assert leader.wait() == 143
    assert candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S).candidate == "b"
    wait_until(lambda: all(map(is_gone, everything)), timeout_s=10, what="nothing is left over")
    candidates.assert_exclusive()


@pytest.mark.alone
def test_a_flood_of_garbage_gives_no_tree_more_time(candidates: Candidates) -> None:
    """While a stopped elector's channel is flooded with grants of others, its tree dies in time."""
    leader, tree = candidates.start_leader("a", child=child_command(*STUBBORN))
    guardian, elector = leader.guardian, leader.elector
    candidates.start_standby("b")
    with _way_in(elector) as sock, _flood(sock):
        stop(elector)
        successor = candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
        resume(elector)
    assert successor.candidate == "b"
    assert leader.guardian == guardian
    wait_until(lambda: is_gone(elector), timeout_s=TAKEOVER_S, what="the elector is replaced")
    candidates.assert_exclusive()


@pytest.mark.alone
def test_a_flood_of_garbage_does_not_keep_the_guardian_from_stopping(
    candidates: Candidates,
) -> None:
    """Whoever floods its channel does not take the guardian's attention from a request to stop."""
    leader, tree = candidates.start_leader("a")
    with _way_in(leader.elector) as sock, _flood(sock):
        leader.terminate()
        candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    assert leader.wait() == 143
    candidates.assert_exclusive()


@contextlib.contextmanager
def _flood(sock: socket.socket) -> Iterator[None]:
    """Send garbage as fast as it is read, until left."""
    packets = list(_garbage(500))
    sent = 0
    over = threading.Event()
    sock.settimeout(0.1)

    def send() -> None:
        nonlocal sent
        while not over.is_set():
            try:
                sock.send(packets[sent % len(packets)], socket.MSG_NOSIGNAL)
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                return  # the guardian has ended, or has done with this elector
            sent += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        wait_until(lambda: sent > 2000, timeout_s=20, what="the guardian reads the flood")
        yield
    finally:
        over.set()
        thread.join()
