"""The record as JSON: the fields of client-go's LeaderElectionRecord, wherever they stand.

Owns the two directions between a Record and its five fields, and how strictly JSON from outside is
read. Which name the transitions go by and how fine the times are written differs from place to
place, and the place says so. It must not know what surrounds the fields.

Guards against other writers: a missing or null field means what it means to client-go (no holder,
no time, no transitions), and a duration of 0 is handed up as it is; anything else of another type
raises ValueError naming the field, and is never taken for a free lock.
"""

from __future__ import annotations

import json
import math
import reprlib
from typing import TYPE_CHECKING, Any, Final

from leaderexec.locks.timestamps import parse_us
from leaderexec.model import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: What a Lease calls the number of transitions.
LEASE_TRANSITIONS: Final = "leaseTransitions"

_MAX_INT32: Final = 2**31 - 1


def to_fields(
    record: Record, write_time: Callable[[int], str], transitions: str = LEASE_TRANSITIONS
) -> dict[str, object]:
    """Return the fields of `record`, in client-go's order.

    `write_time` writes microseconds since the epoch. Raise ValueError for a time that it refuses.
    """
    return {
        "holderIdentity": record.holder,
        "leaseDurationSeconds": record.lease_duration_s,
        "acquireTime": _optional(record.acquire_time_us, write_time),
        "renewTime": _optional(record.renew_time_us, write_time),
        transitions: record.transitions,
    }


def from_fields(fields: Mapping[str, object], transitions: str = LEASE_TRANSITIONS) -> Record:
    """Read a record, whatever other fields there are; raise ValueError naming the wrong one."""
    holder = fields.get("holderIdentity")
    if holder is not None and not isinstance(holder, str):
        raise ValueError(f"holderIdentity is not a string: {reprlib.repr(holder)}")
    return Record(
        holder=holder or "",
        lease_duration_s=_whole(fields, "leaseDurationSeconds"),
        acquire_time_us=_time(fields, "acquireTime"),
        renew_time_us=_time(fields, "renewTime"),
        transitions=_whole(fields, transitions),
    )


def parse_object(text: str) -> dict[str, Any]:
    """Read a JSON object that can be written again; raise ValueError saying what it is not."""
    try:
        value = json.loads(text, parse_float=_finite, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"is not a JSON object: {reprlib.repr(value)}")
    return value


def _optional(time_us: int | None, write_time: Callable[[int], str]) -> str | None:
    return None if time_us is None else write_time(time_us)


def _time(fields: Mapping[str, object], key: str) -> int | None:
    value = fields.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{key} is not a string: {reprlib.repr(value)}")
    try:
        return parse_us(value)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _whole(fields: Mapping[str, object], key: str) -> int:
    value = fields.get(key)
    if value is None:
        return 0
    # A bool is an int to isinstance, and a float is not what others write.
    if type(value) is not int or not 0 <= value <= _MAX_INT32:
        raise ValueError(
            f"{key} is not a whole number from 0 to {_MAX_INT32}: {reprlib.repr(value)}"
        )
    return value


def _finite(text: str) -> float:
    """Refuse a number that would be read as infinity and written as something else."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{reprlib.repr(text)} is out of range")
    return value


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")
