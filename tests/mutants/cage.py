"""Runs one pytest so that whatever it starts ends with it: `cage BOUND_S DIRECTORY COMMAND...`.

A mutant is a leaderexec that may leave its tree, its keeper or itself behind; here all of that
falls to this process, which is a subreaper, and is killed. The end of its standard input, of which
the runner holds the other end, is the request to stop.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from leaderexec import linux
from leaderexec.model import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Sequence

#: How a run that was not at its end in time ends here, as for timeout(1).
TIMED_OUT: Final = 124

#: How long an interrupted pytest may take to end what its tests have started.
_CLEAN_UP_NS: Final = 60 * SECOND_NS
_SWEEP_NS: Final = 20 * SECOND_NS
_SWEEP_PAUSE_NS: Final = SECOND_NS // 50


def run(bound_s: float, directory: str, command: Sequence[str]) -> int:
    """Run the command, at most for so long, and return its exit code; nothing of it is left."""
    linux.become_subreaper()
    deadline_ns = linux.boottime_ns() + int(bound_s * SECOND_NS)
    # What runs in the background ignores some; children of candidates would inherit it.
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(signum, signal.SIG_DFL)
    pid = subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL).pid
    ended = os.pidfd_open(pid)
    ready = _wait({0, ended}, deadline_ns)
    if ended not in ready:
        os.kill(pid, signal.SIGINT)
        _wait({ended}, linux.boottime_ns() + _CLEAN_UP_NS)
    status = _sweep(pid)
    if not ready:
        return TIMED_OUT
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _wait(fds: set[int], deadline_ns: int) -> set[int]:
    """Return which of these can be read, none if none could in time."""
    waiting = select.poll()
    for fd in fds:
        waiting.register(fd, select.POLLIN)
    left_ms = max(0, deadline_ns - linux.boottime_ns()) // 1_000_000
    return {fd for fd, _ in waiting.poll(left_ms)}


def _sweep(pid: int) -> int:
    """Kill all that is left until nothing is, and return how `pid` ended."""
    found = 0
    until_ns = linux.boottime_ns() + _SWEEP_NS
    while linux.boottime_ns() < until_ns:
        reaped = linux.reap()
        found = dict(reaped.ended).get(pid, found)
        if not reaped.any_left:
            break
        linux.kill_sweep()
        _wait(set(), linux.boottime_ns() + _SWEEP_PAUSE_NS)
    return found


if __name__ == "__main__":
    sys.exit(run(float(sys.argv[1]), sys.argv[2], sys.argv[3:]))
