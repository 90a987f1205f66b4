"""A wall clock that steps, under one candidate: a preloaded library that moves no other clock.

Not libfaketime: told to leave CLOCK_MONOTONIC (and with it CLOCK_BOOTTIME) alone, it still rewrites
the deadline of clock_nanosleep on it, and Python's time.sleep fails or sleeps for years.

Only programs that read the clock through the C library are under it: not those in Go. Nothing that
waits is changed, so a wait until an instant of the wall clock would be off; Python has none.
"""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, Self

from tests.support.lacking import Lacking

_NS: Final = 1_000_000_000
#: Several clocks are read one after the other, and who reads them may be kept from running between
#: two; the true one may be slewed meanwhile. Less than any step that a test takes.
_SLACK_S: Final = 0.5

_SOURCE: Final = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset_ns;  /* a shared page: a step reaches who already runs */

__attribute__((constructor)) static void take_offset(void)
{
    const char *path = getenv("WALL_CLOCK_OFFSET_FILE");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *page = mmap(NULL, sizeof *offset_ns, PROT_READ, MAP_SHARED, fd, 0);
    if (fd < 0 || page == MAP_FAILED) {
        perror("cannot read WALL_CLOCK_OFFSET_FILE");
        _exit(97);
    }
    close(fd);
    offset_ns = page;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = syscall(SYS_clock_gettime, clock, now);
    int wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI;
    if (!result && wall && offset_ns) {
        int64_t at_ns = now->tv_sec * INT64_C(1000000000) + now->tv_nsec + *offset_ns;
        now->tv_sec = at_ns / 1000000000;
        now->tv_nsec = at_ns % 1000000000;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *where)
{
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (where)
        *where = exact.tv_sec;
    return exact.tv_sec;
}
"""

_CLOCKS: Final = (time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC, time.CLOCK_REALTIME)
_READ_CLOCKS: Final = f"import time; print(*map(time.clock_gettime_ns, {_CLOCKS}))"


class SteppedClock:
    """The wall clock of a candidate that is given `env`, and of its child; true until `step`."""

    def __init__(self, directory: Path) -> None:
        self._offset_path = directory / "wall-clock-offset"
        self._library_path = directory / "wall-clock.so"
        self.env = {
            "LD_PRELOAD": str(self._library_path),
            "WALL_CLOCK_OFFSET_FILE": str(self._offset_path),
        }

    def __enter__(self) -> Self:
        """Build the library, and prove that under it every clock is true as yet."""
        command = ["cc", "-shared", "-fPIC", "-O2", "-x", "c", "-", "-o", str(self._library_path)]
        try:
            subprocess.run(command, input=_SOURCE, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Lacking(f"cannot build it (the packages gcc and libc6-dev?): {error}") from error
        self.step(0)
        return self

    def __exit__(self, *_: object) -> None:
        """Set the clock right for whoever still runs under it."""
        self._write(0)

    def step(self, offset_s: float) -> float:
        """Let the wall clock be off the true one by this much, from now on; prove and return it.

        A process with `env` reads its clocks, which are compared with the true ones around it: no
        other clock is moved.
        """
        self._write(offset_s)
        before = [*map(time.clock_gettime_ns, _CLOCKS)]
        command = [sys.executable, "-I", "-S", "-c", _READ_CLOCKS]
        told = subprocess.run(command, env=self.env, capture_output=True, check=True, timeout=60)
        after = [*map(time.clock_gettime_ns, _CLOCKS)]
        boottime_ns, monotonic_ns, wall_ns = map(int, told.stdout.split())
        assert before[0] <= boottime_ns <= after[0], "CLOCK_BOOTTIME was moved"
        assert before[1] <= monotonic_ns <= after[1], "CLOCK_MONOTONIC was moved"
        # From the boot time at which it looked follows what the true wall clock showed then.
        seen_s = float(wall_ns - (before[2] - before[0] + boottime_ns)) / _NS
        off = abs(seen_s - offset_s) < _SLACK_S
        assert off, f"the wall clock is off by {seen_s:g} s, not {offset_s:g} s"
        return seen_s

    def covers(self, pid: int) -> bool:
        """Whether this process has the library loaded, and with it every step there is."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return str(self._library_path) in Path(f"/proc/{pid}/maps").read_text()
        return False

    def _write(self, offset_s: float) -> None:
        with self._offset_path.open("r+b" if self._offset_path.exists() else "wb") as file:
            file.write(struct.pack("q", int(offset_s * _NS)))  # one word: seen whole
