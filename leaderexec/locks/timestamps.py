"""RFC 3339 times on the wire, as whole microseconds since the epoch.

Owns the two directions of the format: written with `Z` and either exactly six fractional digits, as
a Lease's MicroTime has them, or none, as a Time has it; read in whatever form of RFC 3339 another
writer chose. It must not know which record a time stands in, and no time here is ever compared with
a clock: they are for display and for other readers.

Guards against the traps of `datetime`, which writes a whole second without a fraction (refused as
a MicroTime), cannot hold the year 0 or a leap second, and overflows on an offset at the end of the
year 9999. Anything that is not a time raises ValueError and nothing else.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Final

from leaderexec.model import SECOND_US

_DAY_S: Final = 86_400
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
#: The Gregorian calendar repeats after this, which carries the year 0 into what `date` can hold.
_CYCLE_YEARS: Final = 400
_CYCLE_DAYS: Final = 146_097

#: The first and the last microsecond that can be written: the years 0000 to 9999.
MIN_US: Final = (date(_CYCLE_YEARS, 1, 1).toordinal() - _CYCLE_DAYS - _EPOCH_DAY) * (
    _DAY_S * SECOND_US
)
MAX_US: Final = (date.max.toordinal() + 1 - _EPOCH_DAY) * _DAY_S * SECOND_US - 1

_RFC3339: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]"
    r"([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9]|60)(?:\.([0-9]{1,9}))?"
    r"(?:[Zz]|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))"
)


def format_us(time_us: int) -> str:
    """Write microseconds since the epoch as `2018-07-12T09:34:59.000000Z`.

    Raise ValueError outside the years 0000 to 9999, which the format cannot express.
    """
    return f"{_up_to_the_second(time_us)}.{time_us % SECOND_US:06}Z"


def format_whole_us(time_us: int) -> str:
    """Write microseconds since the epoch as `2018-07-12T09:34:59Z`, the second they lie in.

    Raise ValueError as `format_us` does.
    """
    return f"{_up_to_the_second(time_us)}Z"


def _up_to_the_second(time_us: int) -> str:
    if not MIN_US <= time_us <= MAX_US:
        raise ValueError(f"{time_us} us is not within the years 0000 to 9999")
    days, second_of_day = divmod(time_us // SECOND_US, _DAY_S)
    ordinal = days + _EPOCH_DAY
    shifted = ordinal < 1  # the year 0
    day = date.fromordinal(ordinal + _CYCLE_DAYS if shifted else ordinal)
    year = day.year - _CYCLE_YEARS if shifted else day.year
    minutes, second = divmod(second_of_day, 60)
    hour, minute = divmod(minutes, 60)
    return f"{year:04}-{day.month:02}-{day.day:02}T{hour:02}:{minute:02}:{second:02}"


def parse_us(text: str) -> int:
    """Read any RFC 3339 time as microseconds since the epoch, truncating nanoseconds.

    A leap second (`:60`) counts as the first second of the next minute. Raise ValueError for
    everything that is not such a time, or that lies outside the years 0000 to 9999 once its offset
    is taken off, so that whatever was read can be written again.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"{_shortened(text)} is not an RFC 3339 time")
    year, month, day, hour, minute, second = (int(match[group]) for group in range(1, 7))
    try:
        ordinal = date(year or _CYCLE_YEARS, month, day).toordinal()
    except ValueError as error:
        raise ValueError(f"{_shortened(text)} is not an RFC 3339 time: {error}") from None
    if year == 0:
        ordinal -= _CYCLE_DAYS
    total_s = (ordinal - _EPOCH_DAY) * _DAY_S + hour * 3600 + minute * 60 + second
    if match[8] is not None:
        offset_s = int(match[9]) * 3600 + int(match[10]) * 60
        total_s += offset_s if match[8] == "-" else -offset_s
    time_us = total_s * SECOND_US + int((match[7] or "").ljust(6, "0")[:6])
    if not MIN_US <= time_us <= MAX_US:
        raise ValueError(f"{_shortened(text)} is not within the years 0000 to 9999")
    return time_us


def _shortened(text: str) -> str:
    """Quote what was read for a message of one line, whatever its length."""
    longest = 40
    return repr(text if len(text) <= longest else text[:longest] + "…")
