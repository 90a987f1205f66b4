"""Times on the wire: what is written is what a MicroTime must be, and anything may be read."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaderexec.locks.timestamps import MAX_US, MIN_US, format_us, parse_us

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


@given(st.one_of(st.text(), nearly_times))
def test_no_text_raises_anything_but_value_error(text: str) -> None:
    """What is read is a time that can be written, or a ValueError of one line."""
    try:
        time_us = parse_us(text)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017 - it may as well be a time
        return
    assert parse_us(format_us(time_us)) == time_us


@given(st.integers())
def test_no_number_raises_anything_but_value_error(time_us: int) -> None:
    """What cannot be written in four digits of a year is a ValueError."""
    if MIN_US <= time_us <= MAX_US:
        assert format_us(time_us)
    else:
        with pytest.raises(ValueError, match="not within the years"):
            format_us(time_us)


@pytest.mark.parametrize(
    ("time_us", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (1_531_388_099_000_000, "2018-07-12T09:34:59.000000Z"),
        (1_709_164_800_000_001, "2024-02-29T00:00:00.000001Z"),
        (MIN_US, "0000-01-01T00:00:00.000000Z"),
        (MIN_US + 366 * 86_400_000_000, "0001-01-01T00:00:00.000000Z"),
        (MAX_US, "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_known_times_are_written(time_us: int, text: str) -> None:
    """Written times have exactly six fractional digits and end with Z."""
    assert format_us(time_us) == text
    assert parse_us(text) == time_us


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2018-07-12T09:34:59Z", "2018-07-12T09:34:59.000000Z"),
        ("2018-07-12t09:34:59z", "2018-07-12T09:34:59.000000Z"),
        ("2018-07-12T09:34:59.5Z", "2018-07-12T09:34:59.500000Z"),
        ("2018-07-12T09:34:59.123456789Z", "2018-07-12T09:34:59.123456Z"),
        ("2018-07-12T11:34:59+02:00", "2018-07-12T09:34:59.000000Z"),
        ("2018-07-12T00:04:59.25-09:30", "2018-07-12T09:34:59.250000Z"),
        ("2018-07-12T09:34:59-00:00", "2018-07-12T09:34:59.000000Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000000Z"),
        ("2016-12-31T15:59:60.75-08:00", "2017-01-01T00:00:00.750000Z"),
        ("0000-02-29T00:00:00Z", "0000-02-29T00:00:00.000000Z"),
        ("0001-01-01T00:00:00+00:01", "0000-12-31T23:59:00.000000Z"),
    ],
)
def test_every_form_is_read(text: str, same: str) -> None:
    """Offsets, few or many digits, small letters and leap seconds are all RFC 3339."""
    assert format_us(parse_us(text)) == same


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "1531388099",
        "2018-07-12",
        "2018-07-12T09:34Z",
        "2018-07-12T09:34:59",
        "2018-07-12 09:34:59Z",
        "2018-07-12T09:34:59.Z",
        "2018-07-12T09:34:59,5Z",
        "2018-07-12T09:34:59.1234567890Z",
        "2018-07-12T09:34:59+0200",
        "2018-07-12T09:34:59+24:00",
        "2018-07-12T09:34:59+02:60",
        "2018-07-12T09:34:59Z\n",
        " 2018-07-12T09:34:59Z",
        "2018-07-12T24:00:00Z",
        "2018-07-12T09:60:00Z",
        "2018-07-12T09:34:61Z",
        "2018-00-12T09:34:59Z",
        "2018-13-12T09:34:59Z",
        "2018-02-29T09:34:59Z",
        "1900-02-29T09:34:59Z",
        "0000-01-01T00:00:00+00:01",
        "9999-12-31T23:59:60Z",
        "9999-12-31T23:59:59-00:01",
        "10000-01-01T00:00:00Z",
        "-001-01-01T00:00:00Z",
        "٢٠١٨-07-12T09:34:59Z",
    ],
)
def test_garbage_is_refused(text: str) -> None:
    """What is no RFC 3339 time, or no time that could be written again, is a ValueError."""
    with pytest.raises(ValueError, match="is not"):
        parse_us(text)
