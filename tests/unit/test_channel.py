"""Messages between the processes: what is sent arrives, what is not ours does no harm."""

from __future__ import annotations

import os
import select
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from leaderexec import channel
from leaderexec.channel import Channel, ChannelClosed, Message, Undecodable

if TYPE_CHECKING:
    from collections.abc import Iterator

_EXAMPLES: list[Message] = [
    channel.Opened("lease ns/x", "ns"),
    channel.GrantSent(1, 2, "uid", "me", None, 3, 4, 5),
    channel.ReleasedSent(1, None, "released", retired=True),
    channel.Go(1, 2, "ns", 3, 4),
    channel.Signal(15, "child", stop=True),
    channel.ChildNotStarted(None),
    channel.Kill(),
]


@pytest.mark.parametrize("message", _EXAMPLES, ids=lambda m: type(m).__name__)
def test_what_is_encoded_is_decoded(message: Message) -> None:
    """Every field survives, whatever is None or empty."""
    assert channel.decode(channel.encode(message)) == message


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\xff", b"[", b"[" * 100_000, b"1", b"{}", b"[]", b'[["Beat"]]', b'["Nobody",1]'),
        *(b'["Beat"]', b'["Beat",1,1]', b'["Beat","1"]', b'["Beat",null]', b'["Beat",true]'),
        *(b'["Beat",1.0]', b'["Beat",NaN]', b'["Beat",[1]]', b'["Opened","lease",1]'),
    ],
    ids=lambda data: repr(data[:20]),
)
def test_what_is_no_message_is_undecodable_and_nothing_worse(data: bytes) -> None:
    """Other words, other fields, and fields of other types raise one error."""
    with pytest.raises(Undecodable):
        channel.decode(data)


def test_a_channel_carries_messages_and_a_descriptor() -> None:
    """Order and boundaries are kept; a descriptor arrives closed on exec."""
    left, right = channel.pair()
    reading, writing = os.pipe()
    assert left.send(channel.Ping())
    assert left.send(channel.KeeperForked(), reading)
    (first, none), (second, fd) = right.receive()
    assert (first, none, second) == (channel.Ping(), None, channel.KeeperForked())
    assert fd is not None
    assert not os.get_inheritable(fd)
    os.write(writing, b"x")
    assert os.read(fd, 1) == b"x"
    for each in (reading, writing, fd):
        os.close(each)
    left.close()
    right.close()


@pytest.fixture
def raw() -> Iterator[tuple[socket.socket, Channel]]:
    """A peer that sends whatever it likes, and the channel that hears it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    right = Channel(theirs)
    yield ours, right
    ours.close()
    right.close()


def test_garbage_on_the_channel_is_counted_and_passed_over(
    raw: tuple[socket.socket, Channel],
) -> None:
    """A broken peer does not break this process, and leaks no descriptor into it."""
    ours, right = raw
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(ours, [b"nonsense"], [0])
    ours.send(channel.encode(channel.Pong()))
    assert right.receive() == [(channel.Pong(), None)]
    assert right.garbage == 1
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_reader_that_does_not_read_blocks_nobody() -> None:
    """A full socket makes send say no, at once."""
    left, right = channel.pair()
    sent = 0
    while left.send(channel.Ping()):
        sent += 1
        assert sent < 100_000
    while sent:
        sent -= len(right.receive())
    left.close()
    right.close()


def test_a_flood_is_taken_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much a peer sends, whoever receives is soon back at what else it has to do."""
    monkeypatch.setattr(channel, "_PACKETS_AT_ONCE", 8)
    left, right = channel.pair()
    for number in range(20):
        left.send(channel.Beat(number))
    left.close()
    with closing(right):
        for portion in (8, 8, 4):
            assert len(right.receive()) == portion
        with pytest.raises(ChannelClosed):
            right.receive()


def test_an_empty_packet_is_not_the_end(raw: tuple[socket.socket, Channel]) -> None:
    """To read, both are nothing; only one of them is a reason to listen no more."""
    ours, right = raw
    before = len(os.listdir("/proc/self/fd"))
    ours.send(channel.encode(channel.Ping()))
    ours.send(b"")
    socket.send_fds(ours, [b""], [0])
    ours.send(channel.encode(channel.Pong()))
    assert right.receive() == [(channel.Ping(), None), (channel.Pong(), None)]
    assert right.garbage == 2
    assert len(os.listdir("/proc/self/fd")) == before
    ours.send(b"")
    assert right.receive() == []
    ours.close()
    with pytest.raises(ChannelClosed):
        right.receive()


def test_what_was_sent_before_the_end_arrives() -> None:
    """A peer that dies with unread messages of ours has still said what it said."""
    left, right = channel.pair()
    left.send(channel.Kill())
    right.send(channel.ChildStatus(0))
    right.close()
    assert left.receive() == [(channel.ChildStatus(0), None)]
    with pytest.raises(ChannelClosed):
        left.receive()
    assert not left.send(channel.Kill())
    left.close()


def test_hanging_up_is_heard() -> None:
    """The peer sees the end without the channel being closed here."""
    left, right = channel.pair()
    left.hang_up()
    ready = select.poll()
    ready.register(right.fileno(), select.POLLIN)
    assert ready.poll(1000)
    with pytest.raises(ChannelClosed):
        right.receive()
    left.close()
    right.close()
