"""What guardian and elector report to a server, whether or not anybody reads it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import Mock

import pytest

from leaderexec import channel as wire
from leaderexec import elector, guardian, linux
from leaderexec.channel import CallTook, Channel, LockIs, TenureIs
from leaderexec.election import State
from leaderexec.model import SECOND_NS, Now, Record
from tests.support.http_clients import FAST, board_of, leading, lock_is, standing

if TYPE_CHECKING:
    from collections.abc import Iterator

HEARTBEAT_NS: Final = 2 * SECOND_NS
START_NS: Final = 1_000 * SECOND_NS
NOW: Final = Now(START_NS, 1_531_388_099_500_000)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Let both tellers read this clock."""
    clock = Mock(return_value=START_NS)
    monkeypatch.setattr(linux, "boottime_ns", clock)
    return clock


@pytest.fixture
def reports() -> Iterator[guardian._Reports]:
    """What a guardian tells through."""
    made = guardian._Reports(HEARTBEAT_NS)
    yield made
    made.ours.close()
    made.theirs.close()


def tell(reports: guardian._Reports, **changed: Any) -> None:
    """Tell what the guardian of a standby would."""
    facts = {
        name: getattr(standing(**changed), name)
        for name in TenureIs.__slots__
        if name not in {*reports.totals, "lines_dropped"}
    }
    reports.tell(**facts)


def received(channel: Channel) -> list[wire.Message]:
    """Return what has arrived."""
    return [message for message, _ in channel.receive()]


def fill(channel: Channel) -> int:
    """Send until nothing more fits, and return how many messages did."""
    count = 0
    while channel.send(CallTook("renew", "ok", count)):
        count += 1
        assert count < 100_000
    return count


# --- the guardian ----------------------------------------------------------------------------


def test_a_change_a_heartbeat_and_another_server_are_told(
    reports: guardian._Reports, clock: Mock
) -> None:
    """A turn of the guardian's loop in which nothing changed says nothing until one is due.

    So silence means death. What another server's predecessor has read the new one cannot know.
    """
    for state in ("idle", "idle", "running", "running", "stopping"):
        tell(reports, state=state)
    told = received(reports.theirs)
    assert [m.state for m in told if isinstance(m, TenureIs)] == ["idle", "running", "stopping"]
    for later_ns in (HEARTBEAT_NS - 1, HEARTBEAT_NS, HEARTBEAT_NS + 1):
        clock.return_value = START_NS + later_ns
        tell(reports, state="stopping")
    again = standing(elector_starts=0, state="stopping")
    assert received(reports.theirs) == [again]
    reports.forget()
    tell(reports, state="stopping")
    assert received(reports.theirs) == [again]


def test_leaderships_are_counted_by_their_tokens(reports: guardian._Reports) -> None:
    """A grant that is kept until the lock is given back is one leadership; the next is another."""
    for token in (None, 3, 3, None, 3, 7, 7, None):
        tell(reports, token=token)
    assert reports.totals["leaderships"] == 2


def test_nobody_who_reads_blocks_the_guardian(reports: guardian._Reports) -> None:
    """With a full buffer telling returns at once; as soon as there is room the newest is told."""
    assert fill(reports.ours) > 100
    for number in range(1000):
        tell(reports, child_pid=number)
    assert not any(isinstance(m, TenureIs) for m in received(reports.theirs))
    tell(reports, child_pid=999)  # nothing has changed since, but nobody knows
    assert received(reports.theirs) == [standing(elector_starts=0, child_pid=999)]


# --- both ------------------------------------------------------------------------------------


@pytest.mark.parametrize("lock", [None, lock_is("", 0), lock_is("other", START_NS)])
def test_a_leadership_that_the_guardian_tells_first_has_a_name(lock: LockIs | None) -> None:
    """Nobody is told that we lead and that it is not known who does; when we do not, it is not."""
    told = board_of(NOW, FAST)
    if lock is not None:
        told.take(lock, START_NS)
    told.take(leading(START_NS + SECOND_NS), START_NS)
    for now_ns, expected in ((START_NS, ("host", True)), (START_NS + SECOND_NS, ("", False))):
        event = told.event(now_ns)
        assert (event["name"], event["leader"]) == expected
    assert told.next_change_ns(START_NS) == START_NS + SECOND_NS
    assert told.next_change_ns(START_NS + SECOND_NS) is None


def test_another_holder_that_the_elector_tells_first_is_shown() -> None:
    """Whoever is in the record is the holder, whatever the guardian has still to hear of it."""
    told = board_of(NOW, FAST)
    told.take(leading(START_NS + SECOND_NS), START_NS)
    told.take(lock_is("intruder", START_NS + SECOND_NS), START_NS)
    assert told.name(START_NS) == "intruder"


def test_another_elector_does_not_make_a_holder_new() -> None:
    """Since when the record says so is what was told first; another holder is another matter."""
    told = board_of(NOW, FAST)
    told.take(lock_is("other", START_NS + SECOND_NS), START_NS)
    first = told.event(START_NS)
    later_us = NOW.wall_us + 5_000_000
    told.take(lock_is("other", START_NS + SECOND_NS, since_us=later_us, generation=2), START_NS)
    assert told.event(START_NS) == first
    told.take(lock_is("next", START_NS + SECOND_NS, since_us=later_us), START_NS)
    assert told.event(START_NS)["last_update"] == "2018-07-12T09:35:04Z"


# --- the elector -----------------------------------------------------------------------------


def core(**changed: Any) -> Any:
    """Return as much of an election as is reported of one: that of a standby."""
    facts = {
        "state": State.STANDBY,
        "leader": "other",
        "leader_until_ns": START_NS + 60 * SECOND_NS,
        "record": Record("other", 15, transitions=4),
        "slow_renewals": 0,
    }
    return SimpleNamespace(**{**facts, **changed})


@pytest.fixture
def ends() -> Iterator[tuple[elector._Reports, Channel]]:
    """What an elector tells through, and where it arrives."""
    ours, theirs = wire.pair()
    yield elector._Reports(ours, 3, HEARTBEAT_NS), theirs
    ours.close()
    theirs.close()


def test_the_lock_is_told_as_it_is_known(ends: tuple[elector._Reports, Channel]) -> None:
    """On each change and at each heartbeat, since when the holder is the same.

    A holder whose time is over is not known to hold it. The successor of a dead elector says
    nothing before it knows better.
    """
    reports, theirs = ends
    later = Now(NOW.boot_ns + HEARTBEAT_NS, NOW.wall_us + 2_000_000)
    for now in (NOW, NOW, later):
        reports.tell(core(), now)
    first = LockIs(3, "other", START_NS + 60 * SECOND_NS, NOW.wall_us, 15, 4, 0, 0)
    assert received(theirs) == [first, first]
    reports.tell(core(leader="next"), later)
    assert received(theirs) == [replace(first, holder="next", since_us=later.wall_us)]
    reports.tell(core(state=State.RESUMING), later)
    assert received(theirs) == []
    assert lock_told(ends, leader_until_ns=NOW.boot_ns).holder == ""


def lock_told(ends: tuple[elector._Reports, Channel], **changed: Any) -> LockIs:
    """Return the one thing that is told of such an election."""
    reports, theirs = ends
    reports.tell(core(**changed), NOW)
    (told,) = received(theirs)
    assert isinstance(told, LockIs)
    return told


@pytest.mark.parametrize("letter", ["x", "\u2603", "\U0001f40b", "\ud800", '"'])
def test_a_long_name_is_told_in_part(ends: tuple[elector._Reports, Channel], letter: str) -> None:
    """Whatever it is made of, the message fits, or the elector would be taken for dead."""
    told = lock_told(ends, leader=letter * 100_000)
    assert set(told.holder) == {letter}
    assert len(told.holder) > 253, "no name of a host or of a pod is longer"


def test_nobody_who_reads_blocks_the_elector(ends: tuple[elector._Reports, Channel]) -> None:
    """With a full buffer telling returns at once; as soon as there is room the newest is told."""
    reports, theirs = ends
    fill(reports._bulletin.channel)
    reports.tell(core(leader="next"), NOW)
    received(theirs)
    assert lock_told(ends, leader="next").holder == "next"
