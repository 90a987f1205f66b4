"""Garbage from our own processes: the guardian survives it, and no tree gets more time by it.

Owns thousands of conversations of a real guardian, which forks nobody and lives on a clock of the
test's, with an elector and a keeper that have lost their minds: packets that are no messages, or
nearly, or true messages with any values, each with a descriptor or without. What a grant is, is
decided here by other code than the guardian's.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from leaderexec import channel as wire
from leaderexec import guardian as guardian_module
from leaderexec import linux, log, tenure
from leaderexec.channel import Channel, Undecodable
from leaderexec.guardian import Guardian, Orders
from leaderexec.model import SECOND_NS, Timing

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("unmeasured")

START_NS: Final = 1_000 * SECOND_NS
TIMING: Final = Timing(5, 2 * SECOND_NS, SECOND_NS)
ORDERS: Final = Orders(
    path="/bin/true",
    argv=("true",),
    environ={},
    election="x",
    identity="me",
    timing=TIMING,
    stop_signal=signal.SIGTERM,
    stop_timeout_ns=20 * SECOND_NS,
    on_loss=tenure.OnLoss.STANDBY,
    campaign_timeout_ns=None,
    signal_group=False,
    rewrite_signals={},
    remap_exits={},
    allow_privilege_escalation=False,
)
WITH_TREE: Final = {tenure.State.RUNNING, tenure.State.STOPPING, tenure.State.KILLING}

# --- what is sent ---

_TIMES: Final = [START_NS + quarters * SECOND_NS // 4 for quarters in range(-8, 40)]
_NUMBERS: Final = st.sampled_from([*range(-1, 9), 127, 137, 256, 0x137F, 0xFFFF, *_TIMES])
_HUGE: Final = (2**31, 2**32, 2**63 - 1, 2**63, 2**64, 10**30, 10**400)
_ODD: Final[st.SearchStrategy[Any]] = st.sampled_from(
    [None, True, False, 1.0, float("nan"), [], {}, [[1]], "", "me", *_HUGE, *(-n for n in _HUGE)]
)
_BY_HINT: Final[dict[Any, st.SearchStrategy[Any]]] = {
    int: _NUMBERS,
    int | None: _NUMBERS | st.none(),
    str: st.sampled_from(["", "u", "me", "child", "ö\n\0", "\ud800", "x" * 9000]),
    bool: st.booleans(),
}
_PLACES: Final = st.integers(0, 250)
_BYTES: Final = st.sampled_from([b"", b",", b"1", b"]", b'"', b"\0", b"\xff", b"9999999999"])


@st.composite
def _messages(draw: st.DrawFn) -> bytes:
    """Draw what is a message by its name, more or less."""
    name = draw(st.sampled_from(sorted(wire._FIELDS)))
    values = [draw(_BY_HINT[hint]) for _, hint in wire._FIELDS[name]]
    if not draw(st.integers(0, 4)):  # one in five
        values.append(draw(_ODD))
        del values[draw(_PLACES) % len(values)]  # the others move, and have other types
    return json.dumps([name, *values]).encode()


#: Grants as an elector would send them, to this guardian or to another.
_GRANTS: Final = st.sampled_from(
    [
        wire.encode(
            wire.GrantSent(generation, token, "u", "me", None, 0, at_ns, at_ns + s * SECOND_NS)
        )
        for generation, token, at_ns, s in product(
            (1, 1, 1, 0, 2),
            (7, 7, 7, 8),
            range(START_NS - 2 * SECOND_NS, START_NS + 10 * SECOND_NS, SECOND_NS // 4),
            (5, 5, 5, 5, 1, 8, -3, 0, 60),
        )
    ]
)


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    """Draw a message with some bytes of it gone, changed or more."""
    data = draw(_GRANTS | _messages())
    at = draw(_PLACES) % len(data)
    return data[:at] + draw(_BYTES) + data[at + draw(st.integers(0, 3)) :]


_PACKETS: Final = st.one_of(
    _GRANTS,
    _GRANTS,
    _messages(),
    _messages(),
    _messages(),
    _damaged(),
    st.binary(max_size=8),
    st.sampled_from([b"", b"[" * 9000, b'["Beat",1]' + b" " * 20_000, b"1" * 9000]),
)


class Packet(NamedTuple):
    """What one of the two sends, with or without a descriptor."""

    by: str
    data: bytes
    with_fd: bool = False


_TURNS: Final = st.lists(
    st.one_of(
        st.lists(
            st.builds(
                Packet,
                st.sampled_from(["elector", "elector", "keeper"]),
                _PACKETS,
                st.sampled_from([False, False, True]),
            ),
            min_size=1,
            max_size=3,
        ),
        st.integers(1, 12).map(lambda quarters: quarters * SECOND_NS // 4),
        st.just("the tree ends"),
    ),
    max_size=6,
)


# --- who hears it ---


class Deaf(Guardian):
    """A guardian that hears and decides, and forks, kills and tells nobody."""

    def __init__(self, log_: log.Log) -> None:
        super().__init__(ORDERS, lambda _: None, log_)
        self.effects: list[tenure.Effect] = []
        self._sockets: list[socket.socket] = []
        self.peers = {name: self._peer() for name in ("elector", "keeper")}
        self._elector = self.peers["elector"][0]
        self._step(tenure.Woke())

    @property
    def deadline_ns(self) -> int | None:
        """When the present tree is killed, None without one."""
        return self._tenure.kill_at_ns if self._tenure.state in WITH_TREE else None

    @property
    def held(self) -> tuple[int, int | None]:
        """The generation and the token of the present leadership."""
        grant = self._tenure.grant
        return self._tenure.generation, None if grant is None else grant.token

    def turn(self) -> list[tenure.Effect]:
        """Do what a turn of the loop does with what has arrived; return what was decided."""
        self.effects = []
        if self._elector:
            self._listen(self._elector)
        if self._keeper:
            self._listen(self._keeper)
        self._step(tenure.Woke())
        self._timer.set(self._wake_at_ns())
        return self.effects

    def close(self) -> None:
        self._drop_child()
        for peer, theirs in self.peers.values():
            peer.close()
            theirs.close()
        self._signals.close()
        self._timer.close()
        os.close(self._pidfd)

    def _peer(self) -> tuple[guardian_module._Peer, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)
        return guardian_module._Peer(os.getpid(), Channel(ours)), theirs

    def _carry_out(self, effect: tenure.Effect) -> None:
        self.effects.append(effect)
        match effect:
            case tenure.StartTree():
                self._keeper = self.peers["keeper"][0]
            case tenure.Note() | tenure.End():
                super()._carry_out(effect)
            case _:
                pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Let the guardian read this clock, and leave this process's signals and name alone."""
    clock = Mock(return_value=START_NS)
    monkeypatch.setattr(linux, "boottime_ns", clock)
    for name in ("be_prompt", "become_subreaper", "name_process"):
        monkeypatch.setattr(linux, name, lambda *_: True)
    monkeypatch.setattr(signal, "pthread_sigmask", lambda *_: set())
    return clock


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[log.Log]:
    """The log as it is, on a descriptor that takes everything."""
    fd = os.open("/dev/null", os.O_WRONLY)
    monkeypatch.setattr(log, "_way_to", log._by_descriptor)  # not another one, which stays open
    sink = log.Sink(fd)
    monkeypatch.setattr(log, "Sink", lambda: sink)
    monkeypatch.setattr(log, "_SINKS", [])
    yield log.configure(level="debug", form="json", environ={}, role="guardian")
    os.close(fd)


def open_fds() -> int:
    """Return how many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


def send(sock: socket.socket, packet: Packet) -> None:
    """Send a packet as it is."""
    socket.send_fds(sock, [packet.data], [0] if packet.with_fd else [], socket.MSG_NOSIGNAL)


class Extension(NamedTuple):
    """A grant as it stands in a packet: whose, and until when a tree may live under it."""

    generation: int
    token: int
    kill_at_ns: int


def extension(data: bytes) -> Extension | None:
    """Read a packet as a grant, by the letter; None for everything else."""
    try:
        items = json.loads(data[:16384])
    except (ValueError, RecursionError):
        return None
    if not isinstance(items, list) or len(items) != 9 or items[0] != "GrantSent":
        return None
    numbers = [items[at] for at in (1, 2, 6, 7, 8)]
    texts = [items[3], items[4]]
    if not all(type(n) is int for n in numbers) or not all(type(t) is str for t in texts):
        return None
    if items[5] is not None and type(items[5]) is not int:
        return None
    return Extension(items[1], items[2], items[8] - TIMING.margin_ns)


@dataclass
class Judge:
    """Compares what a guardian has before and after each turn."""

    guardian: Deaf
    seen: set[str]
    #: All that were sent: what follows an empty packet, which looks like the end, is heard later.
    sent: list[Extension] = field(default_factory=list)

    def turn(self, packets: list[Packet]) -> None:
        """Let the packets be heard; assert that no tree was given time by anything but a grant."""
        guardian = self.guardian
        before_ns, (generation, token) = guardian.deadline_ns, guardian.held
        had_child = guardian._child is not None
        fds = open_fds()
        for packet in packets:
            send(guardian.peers[packet.by][1], packet)
        effects = guardian.turn()
        assert open_fds() - fds == (guardian._child is not None) - had_child, "descriptors leaked"
        self.sent += filter(None, (extension(packet.data) for packet in packets))
        for packet in packets:
            with suppress(Undecodable):
                self.seen.add(type(wire.decode(packet.data)).__name__)
        grants = [grant for grant in self.sent if grant.generation == generation]
        after_ns, (generation_after, token_after) = guardian.deadline_ns, guardian.held
        started = [effect for effect in effects if isinstance(effect, tenure.StartTree)]
        told_ns = [
            effect.kill_at_ns for effect in effects if isinstance(effect, tenure.SetDeadline)
        ]
        assert generation_after == generation
        if started:
            (start,) = started
            assert before_ns is None, "a second tree"
            token, before_ns = token_after, start.kill_at_ns
            assert any(g.token == token and start.kill_at_ns <= g.kill_at_ns for g in grants)
            assert start.stop_at_ns > linux.boottime_ns()
            self.seen.add("started")
        if before_ns is None:
            assert after_ns is None, "a tree without a start"
            assert not told_ns
            return
        latest_ns = max([before_ns, *(g.kill_at_ns for g in grants if g.token == token)])
        assert all(kill_at_ns <= latest_ns for kill_at_ns in told_ns)
        if after_ns is None:
            return
        assert token_after == token
        assert after_ns <= latest_ns
        self.seen.add("extended" if after_ns > before_ns else "kept")


def _grant(expires_ns: int = START_NS + 5 * SECOND_NS) -> list[Packet]:
    message = wire.GrantSent(1, 7, "u", "me", None, 0, START_NS, expires_ns)
    return [Packet("elector", wire.encode(message))]


#: What a keeper says that no process can be, and no kernel reports.
_ODD_NUMBERS: Final = [
    [Packet("keeper", wire.encode(message))]
    for message in (
        wire.ChildStarted(10**30),
        wire.ChildNotStarted(10**30),
        wire.ChildStatus(0x137F),
        wire.ChildStatus(10**30),
    )
]


@settings(
    max_examples=settings().max_examples // 2,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(turns=_TURNS, leads=st.booleans())
@example(turns=[[Packet("elector", b"", with_fd=True)]], leads=True)
@example(turns=[[Packet("elector", wire.encode(wire.Beat(1)), with_fd=True)]], leads=True)
@example(turns=_ODD_NUMBERS, leads=True)
@example(turns=[_grant(10**400), 10 * SECOND_NS], leads=True)
def _converse(clock: Mock, nowhere: log.Log, seen: set[str], turns: list[Any], leads: bool) -> None:
    clock.return_value = START_NS
    guardian = Deaf(nowhere)
    judge = Judge(guardian, seen)
    try:
        if leads:
            judge.turn(_grant())
            assert guardian.deadline_ns == START_NS + 5 * SECOND_NS - TIMING.margin_ns
        for turn in turns:
            if guardian._exit_code is not None:
                break
            if isinstance(turn, int):
                clock.return_value += turn
                judge.turn([])
            elif isinstance(turn, str):
                guardian._tree_ended()
                seen.add("ended")
            else:
                judge.turn(turn)
    finally:
        guardian.close()


def test_no_garbage_gives_a_tree_more_time(clock: Mock, nowhere: log.Log) -> None:
    """Whatever elector and keeper send, the guardian survives and keeps to its grants.

    A tree starts, and its kill deadline moves later, by a grant of the present elector alone, for
    a running tree one of its own leadership; and no descriptor that came along stays open.
    """
    seen: set[str] = set()
    _converse(clock, nowhere, seen)
    assert seen == {"started", "extended", "kept", "ended", *wire._FIELDS}
