"""A flood of garbage on the way from the elector to the guardian, between real processes.

It is sent by a duplicate of the elector's own end of the channel, taken out of the living process,
so that the guardian takes it for the elector's word. What single packets do, and to descriptors
that come with them, is tried ten thousand times in tests/unit/test_fuzz_channel.py.
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
from tests.support.candidate import STUBBORN, child_command, is_gone, resume, stop
from tests.support.candidates import TAKEOVER_S
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
    wire.TreeIsGone(None, retire=True),
    wire.Deadline(_FAR_NS),
    wire.Kill(),
]
_GARBAGE: Final = [
    *map(wire.encode, _MESSAGES),
    *(b"", b"[]", b'["Garbage"]', b"[" * 9000, b"9" * 16000),
    *(random.Random(number).randbytes(number) for number in range(1, 60)),
]


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


@contextlib.contextmanager
def _flood(sock: socket.socket) -> Iterator[None]:
    """Send garbage as fast as it is read, every third packet with a descriptor, until left."""
    sent = 0
    over = threading.Event()
    sock.settimeout(0.1)

    def send() -> None:
        nonlocal sent
        while not over.is_set():
            fds = [sock.fileno()] if sent % 3 == 0 else []
            try:
                socket.send_fds(sock, [_GARBAGE[sent % len(_GARBAGE)]], fds, socket.MSG_NOSIGNAL)
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


@pytest.mark.alone
def test_a_flood_of_garbage_gives_no_tree_more_time(candidates: Candidates) -> None:
    """While a stopped elector's channel is flooded, its tree dies in time.

    The same guardian then has another elector, and as many descriptors as before; and a flood does
    not take its attention from a request to stop.
    """
    leader, tree = candidates.start_leader(
        "a", "--stop-timeout=300ms", child=child_command(*STUBBORN)
    )
    guardian, elector = leader.guardian, leader.elector
    leader.wait_event("child started")

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{guardian}/fd"))

    before = descriptors()
    candidates.start_standby("b")
    with _way_in(elector) as sock, _flood(sock):
        stop(elector)
        successor = candidates.assert_followed(tree, "b")
        resume(elector)
    wait_until(lambda: is_gone(elector), timeout_s=TAKEOVER_S, what="the elector is replaced")
    candidates.by_name["b"].terminate()
    tree = candidates.assert_followed(successor, "a")
    assert leader.guardian == guardian
    wait_until(
        lambda: descriptors() == before,
        timeout_s=TAKEOVER_S,
        what=lambda: f"the guardian has {before} descriptors again, not {descriptors()}",
    )
    with _way_in(leader.elector) as sock, _flood(sock):
        leader.terminate()
        candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    assert leader.wait() in {137, 143}
