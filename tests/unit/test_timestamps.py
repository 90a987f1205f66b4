"""Times on the wire: what is written is what a MicroTime must be, and anything may be read."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaderexec.locks.timestamps import MAX_US, MIN_US, format_us, format_whole_us, parse_us
from tests.support import golden

MICRO_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: Texts that are nearly times, which arbitrary text never is.
nearly_times = st.from_regex(
    r"\A[0-9]{3,5}-[0-9]{1,2}-[0-9]{1,2}[Tt ][0-9]{1,2}:[0-9]{1,2}:[0-9]{1,2}"
    r"(\.[0-9]{0,12})?([Zz]|[+-][0-9]{1,2}:?[0-9]{1,2})?\Z"
)


@given(st.integers(MIN_US, MAX_US))
def test_what_was_written_is_read_exactly(time_us: int) -> None:
    """Every microsecond of the years 0 to 9999 is written as a MicroTime and read back."""
    text = format_us(time_us)
    assert MICRO_TIME.fullmatch(text)
    assert parse_us(text) == time_us


@given(st.datetimes(), st.integers(-1439, 1439))
def test_datetime_agrees(moment: datetime, offset_min: int) -> None:
    """An independent implementation means the same instant, at whatever offset it writes it."""
    zone = timezone(timedelta(minutes=offset_min))
    text = moment.replace(tzinfo=zone).isoformat()
    expected_us = (moment - EPOCH.replace(tzinfo=None)) // timedelta(microseconds=1)
    expected_us -= offset_min * 60_000_000
    if MIN_US <= expected_us <= MAX_US:
        assert parse_us(text) == expected_us
    else:
        with pytest.raises(ValueError, match="not within the years"):
            parse_us(text)


@settings(max_examples=max(300, settings().max_examples // 3))
@given(st.one_of(st.text(), nearly_times))
def test_no_text_raises_anything_but_value_error(text: str) -> None:
    """What is read is a time that can be written, or a ValueError of one line."""
    try:
        time_us = parse_us(text)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017 - it may as well be a time
        return
    assert parse_us(format_us(time_us)) == time_us


@pytest.mark.parametrize(
    ("time_us", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (1_709_164_800_000_001, "2024-02-29T00:00:00.000001Z"),
        (MIN_US, "0000-01-01T00:00:00.000000Z"),
        (MIN_US + 366 * 86_400_000_000, "0001-01-01T00:00:00.000000Z"),
        (MAX_US, "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_known_times_are_written(time_us: int, text: str) -> None:
    """Written times have exactly six fractional digits, or none, and end with Z."""
    assert format_us(time_us) == text
    assert parse_us(text) == time_us
    assert format_whole_us(time_us) == text[: -len(".000000Z")] + "Z"


@pytest.mark.parametrize("time_us", [MIN_US - 1, MAX_US + 1, 10**30])
def test_a_year_of_five_digits_is_not_written(time_us: int) -> None:
    """What cannot be written in four digits of a year is a ValueError."""
    with pytest.raises(ValueError, match="not within the years"):
        format_us(time_us)


def test_golden_times() -> None:
    """Every form of RFC 3339 is read, and what is none, or could not be written, is told."""

    def answer(_: str, given: str) -> str:
        (text,) = golden.words(given)
        try:
            return format_us(parse_us(text))
        except ValueError as error:
            return str(error).partition(": ")[0]  # the rest is the words of one release of Python

    golden.check("timestamps", answer)
