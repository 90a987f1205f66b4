"""A wall clock that steps, under one candidate: a preloaded library that moves no other clock.

A reading proves both halves of the fault: a process under the library sees the stepped wall clock,
and its CLOCK_BOOTTIME and CLOCK_MONOTONIC are those of everybody.

Not libfaketime: told to leave CLOCK_MONOTONIC (and with it CLOCK_BOOTTIME) alone, it still rewrites
the deadline of clock_nanosleep on it, and Python's time.sleep fails or sleeps for years.

Only programs that read the clock through the C library are under it: not those in Go. Nothing that
waits is changed, so a wait until an instant of the wall clock would be off; Python has none.
"""

from __future__ import annotations

import contextlib
import json
import shutil
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

_READ_CLOCKS: Final = """
import json, time
print(json.dumps([time.clock_gettime_ns(time.CLOCK_BOOTTIME),
                  time.clock_gettime_ns(time.CLOCK_MONOTONIC),
                  time.clock_gettime_ns(time.CLOCK_REALTIME), time.time_ns()]))
"""


class SteppedClock:
    """The wall clock of whatever runs with `env`; true until `step`.

    Pass `env` to a candidate. Its child inherits it: harmless for a test child, whose stamps are
    boot time.
    """

    def __init__(self, directory: Path) -> None:
        self._offset_path = directory / "wall-clock-offset"
        self._library_path = directory / "wall-clock.so"
        self.env = {
            "LD_PRELOAD": str(self._library_path),
            "WALL_CLOCK_OFFSET_FILE": str(self._offset_path),
        }

    def __enter__(self) -> Self:
        """Build the library, and prove that under it every clock is true as yet."""
        compiler = shutil.which("cc")
        if compiler is None:
            raise Lacking("no C compiler: the packages gcc and libc6-dev have one")
        command = [compiler, "-shared", "-fPIC", "-O2", "-x", "c", "-", "-o"]
        built = subprocess.run(
            [*command, str(self._library_path)],
            input=_SOURCE,
            text=True,
            stderr=subprocess.PIPE,
            check=False,
        )
        if built.returncode:
            raise Lacking(f"cannot build it (the package libc6-dev?): {built.stderr}")
        self.step(0)
        return self

    def __exit__(self, *_: object) -> None:
        """Set the clock right for whoever still runs under it."""
        self._write(0)

    def step(self, offset_s: float) -> float:
        """Let the wall clock be off the true one by this much, from now on; prove and return it.

        It is counted from the true time, not from the last step: `step(0)` sets it right again. A
        process with `env` reads its clocks, which are compared with the true ones around it.
        """
        self._write(offset_s)
        before = _clocks_ns()
        command = [sys.executable, "-I", "-S", "-c", _READ_CLOCKS]
        result = subprocess.run(
            command, env=self.env, stdout=subprocess.PIPE, check=True, timeout=60
        )
        after = _clocks_ns()
        boottime_ns, monotonic_ns, *walls_ns = json.loads(result.stdout)
        assert before[0] <= boottime_ns <= after[0], "CLOCK_BOOTTIME was moved"
        assert before[1] <= monotonic_ns <= after[1], "CLOCK_MONOTONIC was moved"
        # From the boot time at which it looked follows what the true wall clock showed then.
        true_ns = before[2] - before[0] + boottime_ns
        offsets_s = [float(wall_ns - true_ns) / _NS for wall_ns in walls_ns]
        off = all(abs(seen_s - offset_s) < _SLACK_S for seen_s in offsets_s)
        assert off, f"the wall clock is off by {offsets_s}, not {offset_s:g} s"
        return offsets_s[0]

    def covers(self, pid: int) -> bool:
        """Whether this process has the library loaded, and with it every step there is."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return str(self._library_path) in Path(f"/proc/{pid}/maps").read_text()
        return False

    def _write(self, offset_s: float) -> None:
        with self._offset_path.open("r+b" if self._offset_path.exists() else "wb") as file:
            file.write(struct.pack("q", int(offset_s * _NS)))  # one word: seen whole


def _clocks_ns() -> tuple[int, int, int]:
    return (
        time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        time.clock_gettime_ns(time.CLOCK_MONOTONIC),
        time.time_ns(),
    )
