"""What shows that somebody leads, as far as one who only looks can tell."""

from __future__ import annotations

from dataclasses import replace

from leaderexec.model import Record
from leaderexec.waiting import Sightings

HELD = Record("a", 15, 1, 1, 0)
RENEWED = replace(HELD, renew_time_us=2)
FREE = replace(RENEWED, holder="", lease_duration_s=1)


def leaders(*records: Record | None) -> list[str | None]:
    """Return what each of these, seen one after the other, shows."""
    sightings = Sightings()
    return [sightings.saw(record) for record in records]


def test_a_record_alone_shows_nobody() -> None:
    """Its leader may be dead, however often it is read."""
    assert leaders(HELD, HELD, HELD) == [None, None, None]


def test_a_renewal_shows_a_leader() -> None:
    """Whoever renews while we look is alive."""
    assert leaders(HELD, HELD, RENEWED) == [None, None, "a"]


def test_an_acquisition_shows_a_leader() -> None:
    """Of a lock that was free, or was not there, whoever takes it leads."""
    assert leaders(FREE, replace(HELD, holder="b")) == [None, "b"]
    assert leaders(None, None, HELD) == [None, None, "a"]


def test_a_release_shows_nobody() -> None:
    """It is a change of the record as well, but by somebody who goes."""
    assert leaders(HELD, FREE) == [None, None]
    assert leaders(HELD, None) == [None, None]
