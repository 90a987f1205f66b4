"""The few Linux calls that the standard library of Python 3.11 lacks, and the clocks.

Owns the ctypes bindings for prctl, signalfd and timerfd, the reading of CLOCK_BOOTTIME, and what
/proc says of children. Everything here is a thin call; nothing here decides.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
import time
from typing import TYPE_CHECKING, Final

from leaderexec.model import SECOND_NS, Now

if TYPE_CHECKING:
    from collections.abc import Iterable

_LIBC: Final = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38

_SCHED_SETATTR: Final = {
    "x86_64": 314, "aarch64": 274, "riscv64": 274, "ppc64le": 355, "s390x": 345,
}  # fmt: skip
_SCHED_OTHER: Final = 0
_SCHED_FLAG_RESET_ON_FORK: Final = 1
_BEST_NICE: Final = -20
#: The shortest slice that the scheduler accepts.
_SLICE_NS: Final = 100_000

_CLOCK_BOOTTIME: Final = 7
_TFD_TIMER_ABSTIME: Final = 1
_SIGSET_BYTES: Final = 128
_SIGINFO_BYTES: Final = 128

#: All signals that can be blocked.
ALL_SIGNALS: Final = frozenset(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}


def boottime_ns() -> int:
    """Read the clock that decides: it advances while the machine is suspended."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def now() -> Now:
    """Read both clocks."""
    return Now(boottime_ns(), time.time_ns() // 1000)


def _check(result: int, call: str) -> int:
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{call}: {os.strerror(errno)}")
    return result


def _prctl(option: int, value: int, call: str) -> None:
    _check(_LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl({call})")


def become_subreaper() -> None:
    """Receive the orphans among our descendants, as PID 1 would."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, "PR_SET_CHILD_SUBREAPER")


def die_with_parent(parent: int) -> None:
    """Have the kernel kill us when our parent thread ends; leave at once if it has already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, "PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        os._exit(125)


def refuse_new_privileges() -> None:
    """Keep setuid programs from becoming somebody whom we may not kill."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, "PR_SET_NO_NEW_PRIVS")


def name_process(name: str) -> None:
    """Set what ps and top show (15 bytes at most)."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    _check(_LIBC.prctl(_PR_SET_NAME, buffer, 0, 0, 0), "prctl(PR_SET_NAME)")


def be_prompt() -> None:
    """Ask the scheduler to run us soon after a wake-up, however busy the tree is.

    A short slice (Linux 6.12) gives an early virtual deadline and needs no privilege; the best
    nice value needs one and is taken where it may be. Children start without either
    (SCHED_FLAG_RESET_ON_FORK). Whatever is refused is done without.
    """
    number = _SCHED_SETATTR.get(os.uname().machine)
    if number is None:
        return
    for nice in (_BEST_NICE, os.getpriority(os.PRIO_PROCESS, 0)):
        attributes = struct.pack(
            "IIQiIQQQ", 48, _SCHED_OTHER, _SCHED_FLAG_RESET_ON_FORK, nice, 0, _SLICE_NS, 0, 0
        )
        if _LIBC.syscall(number, 0, attributes, 0) == 0:
            return


class SignalFd:
    """Signals as something to poll for. They must be blocked in the calling thread."""

    def __init__(self, signals: Iterable[int]) -> None:
        mask = ctypes.create_string_buffer(_SIGSET_BYTES)
        _LIBC.sigemptyset(mask)
        for signum in signals:
            _LIBC.sigaddset(mask, int(signum))
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        self._fd = _check(_LIBC.signalfd(-1, mask, flags), "signalfd")

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._fd

    def receive(self) -> list[int]:
        """Return the numbers of the signals that have arrived."""
        received = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._fd, _SIGINFO_BYTES):
                received.append(struct.unpack_from("I", data)[0])
        return received

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)


class BoottimeTimer:
    """One absolute wake-up on CLOCK_BOOTTIME: poll's own timeout would sleep through a suspend."""

    def __init__(self) -> None:
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        self._fd = _check(_LIBC.timerfd_create(_CLOCK_BOOTTIME, flags), "timerfd_create")
        self._at_ns: int | None = None

    def fileno(self) -> int:
        """Return the descriptor to poll; it is readable from the wake-up on until set again."""
        return self._fd

    def set(self, at_ns: int | None) -> None:
        """Wake at `at_ns`, at once if that has passed, never if it is None."""
        if at_ns == self._at_ns:
            return
        self._at_ns = at_ns
        # A zero disarms; anything in the past fires at once.
        value = 0 if at_ns is None else max(1, at_ns)
        spec = struct.pack("qqqq", 0, 0, value // SECOND_NS, value % SECOND_NS)
        _check(_LIBC.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, spec, None), "timerfd_settime")

    def clear(self) -> None:
        """Take note that the wake-up has been seen."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)
        self._at_ns = -1

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)


def children() -> list[int]:
    """Return the pids of our children, zombies included.

    Exact when one thread alone forks and reaps: entries leave the list only by being reaped, so a
    read of it misses none, and every process of a tree has an ancestor in it. Without
    CONFIG_PROC_CHILDREN all of /proc is searched instead.
    """
    pid = os.getpid()
    try:
        with open(f"/proc/self/task/{pid}/children", "rb") as file:
            return [int(word) for word in file.read().split()]
    except FileNotFoundError:
        return children_by_search(pid)


def children_by_search(pid: int) -> list[int]:
    """Find the children of `pid` by reading the parent of every process."""
    return [child for child in _pids() if _parent(child) == pid]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> list[bytes]:
    """Return the fields of /proc/PID/stat after the name: state, parent, group, session, ..."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _parent(pid: int) -> int | None:
    stat = _stat(pid)
    return int(stat[1]) if stat else None


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped the process."""
    return _stat(pid)[:1] == [b"T"]


def descendants(root: int) -> list[int]:
    """Return the pids below `root`: a snapshot, which a process that forks can slip through."""
    below: dict[int, list[int]] = {}
    for pid in _pids():
        parent = _parent(pid)
        if parent is not None:
            below.setdefault(parent, []).append(pid)
    found: list[int] = []
    pending = [root]
    while pending:
        pending += (some := below.pop(pending.pop(), []))
        found += some
    return found


def runs_below(name: str) -> bool:
    """Whether one of our ancestors calls itself `name`."""
    pid: int | None = os.getpid()
    while pid:
        try:
            with open(f"/proc/{pid}/comm") as file:
                if file.read().rstrip("\n") == name:
                    return True
        except (FileNotFoundError, ProcessLookupError):
            return False
        pid = _parent(pid)
    return False


def kill_quietly(pid: int, signum: int) -> bool:
    """Send a signal; return False when it may not be sent, True when it was or nobody is there."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return True


def kill_sweep(spare: frozenset[int] = frozenset()) -> list[int]:
    """Kill all of our children but `spare`, and return them.

    Call it again after reaping until nothing is left: a tree that forks faster than one sweep
    falls to us child by child, because we are its subreaper.
    """
    targets = [pid for pid in children() if pid not in spare]
    for pid in targets:
        kill_quietly(pid, signal.SIGKILL)
    return targets


def reap() -> tuple[list[tuple[int, int]], bool]:
    """Reap all children that have ended: (pid, wait status) each, and whether any are left.

    The one place that waits, so that no exit status is ever lost to another waiter.
    """
    reaped = []
    try:
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            reaped.append(found)
    except ChildProcessError:
        return reaped, False
    return reaped, True
