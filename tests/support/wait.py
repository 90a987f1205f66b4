"""Waiting for a condition, with a bound; the only place in the tests that sleeps.

Guards against: a test that sleeps "long enough" and then looks once, which is slow on a fast
machine and wrong on a slow one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

POLL_S = 0.003


def wait_until(condition: Callable[[], T], *, timeout_s: float, what: str | Callable[[], str]) -> T:
    """Call `condition` until it is true, and return what it returned.

    `what` may be a function, for a message that tells what is there in the end.
    It is called once more after the bound, so that a starved test process that slept through the
    whole of `timeout_s` still gets to see a condition that has come true meanwhile.
    """
    deadline_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(timeout_s * 1e9)
    while True:
        late = time.clock_gettime_ns(time.CLOCK_BOOTTIME) >= deadline_ns
        value = condition()
        if value:
            return value
        if late:
            awaited = what if isinstance(what, str) else what()
            message = f"not within {timeout_s:g} s: {awaited}; last value: {value!r}"
            raise AssertionError(message)
        time.sleep(POLL_S)
