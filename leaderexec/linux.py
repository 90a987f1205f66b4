"""The few Linux calls that the standard library of Python 3.11 lacks, and the clocks.

Owns the ctypes bindings for prctl, signalfd and timerfd, the reading of CLOCK_BOOTTIME, and what
/proc says of children. Everything here is a thin call; nothing here decides.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
import time
import zlib
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

from leaderexec.model import SECOND_NS, Now

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LIBC: Final = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38

_SCHED_SETATTR: Final = {
    "x86_64": 314, "aarch64": 274, "riscv64": 274, "ppc64le": 355, "s390x": 345,
}  # fmt: skip
_BEST_NICE: Final = -20
#: The shortest slice that the scheduler accepts.
_SLICE_NS: Final = 100_000

_CLOCK_BOOTTIME: Final = 7
_TFD_TIMER_ABSTIME: Final = 1
_SIGSET_BYTES: Final = 128
_SIGINFO_BYTES: Final = 128
_NAME_BYTES: Final = 90
#: How many signals are taken before everything else has its turn.
SIGNALS_AT_ONCE: Final = 64

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


def become_subreaper() -> bool:
    """Receive the orphans among our descendants, as PID 1 would; False where that is refused."""
    try:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1, "PR_SET_CHILD_SUBREAPER")
    except OSError:  # by a seccomp filter, or by a kernel of another make
        return False
    return True


def die_with_parent(parent: int) -> None:
    """Have the kernel kill us when our parent thread ends; leave at once if it has already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, "PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        os._exit(125)


def die_of_parents_death(signum: int, parent: int) -> None:
    """Have the kernel send us `signum` when our parent ends; at once if `parent` has already."""
    _prctl(_PR_SET_PDEATHSIG, signum, "PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        os.kill(os.getpid(), signum)


def refuse_new_privileges() -> None:
    """Keep setuid programs from becoming somebody whom we may not kill."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, "PR_SET_NO_NEW_PRIVS")


def name_process(name: str) -> None:
    """Set what ps and top show (15 bytes at most)."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    _check(_LIBC.prctl(_PR_SET_NAME, buffer, 0, 0, 0), "prctl(PR_SET_NAME)")


def be_prompt() -> None:
    """Ask the scheduler to run all our threads soon after a wake-up, however busy the tree is.

    A short slice (Linux 6.12) gives an early virtual deadline and needs no privilege; the best
    nice value needs one and is taken where it may be. Whatever is refused is done without. Threads
    that are started later inherit it.
    """
    for thread in _threads():
        if not _schedule(thread, _BEST_NICE, _SLICE_NS):
            _schedule(thread, os.getpriority(os.PRIO_PROCESS, thread), _SLICE_NS)


def be_ordinary(nice: int) -> None:
    """Undo `be_prompt`, as far as we may: a child is scheduled as if we were not there."""
    for thread in _threads():
        _schedule(thread, nice, 0)


def _threads() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/task")]
    except OSError:
        return [0]  # whoever calls


def _schedule(thread: int, nice: int, slice_ns: int) -> bool:
    number = _SCHED_SETATTR.get(os.uname().machine)
    try:
        if number is None or os.sched_getscheduler(thread) != os.SCHED_OTHER:
            return False
    except ProcessLookupError:
        return False
    attributes = struct.pack("IIQiIQQQ", 48, os.SCHED_OTHER, 0, nice, 0, slice_ns, 0, 0)
    return int(_LIBC.syscall(number, thread, attributes, 0)) == 0


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
        """Return the numbers of signals that have arrived, no more of them than take no time.

        Whoever sends them by the thousand must not keep us from looking at the clock: the rest is
        there when it is polled for again. That nobody reads a pipe of our own is not among them:
        a write tells.
        """
        received = []
        me = os.getpid()
        with contextlib.suppress(BlockingIOError):
            for _ in range(SIGNALS_AT_ONCE):
                data = os.read(self._fd, _SIGINFO_BYTES)
                signum, _errno, _code, sender = struct.unpack_from("IiiI", data)
                if (signum, sender) != (signal.SIGPIPE, me):
                    received.append(signum)
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


def given_environment() -> dict[str, str]:
    """Return the environment that this process was given.

    Where there is no locale, Python sets one (PEP 538) before any code of ours runs. As in every
    Python the first value of a name counts, and what is no NAME=VALUE is left out.
    """
    try:
        with open("/proc/self/environ", "rb") as file:
            block = file.read()
    except OSError:
        return dict(os.environ)
    given: dict[str, str] = {}
    for word in block.split(b"\0"):
        name, equals, value = word.partition(b"=")
        if name and equals:
            given.setdefault(os.fsdecode(name), os.fsdecode(value))
    return given


def proc_is_ours() -> bool:
    """Whether /proc shows the PID namespace that we are in: elsewhere its numbers mislead."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def claim_name(name: str) -> socket.socket | None:
    """Take a name that one process of this network namespace can have; None if it is taken.

    The name is an abstract socket's: it is given back by the kernel when the last process that has
    the descriptor ends, however it ends.
    """
    data = os.fsencode(name)
    # As much of it as fits, and a checksum for the rest: two that collide only miss the name.
    address = b"\0" + data[:_NAME_BYTES] + b"-%08x" % zlib.crc32(data)
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(address)
    except OSError:
        claim.close()
        return None
    return claim


def hold_standard_descriptors() -> None:
    """Keep 0, 1 and 2 from being taken by something else if we were started without them.

    The child still starts without: the placeholder closes at exec.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)  # takes the lowest number: this one


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
    except OSError:  # it has ended, or hidepid= hides it
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


def ancestors() -> Iterator[int]:
    """Return our parent, its parent, and so on, as far as this namespace shows them."""
    pid: int | None = os.getppid()
    while pid:
        yield pid
        pid = _parent(pid)


def runs_below(name: str) -> bool:
    """Whether one of our ancestors calls itself `name`."""
    for pid in chain([os.getpid()], ancestors()):
        try:
            with open(f"/proc/{pid}/comm") as file:
                if file.read().rstrip("\n") == name:
                    return True
        except OSError:  # it has ended, or hidepid= hides it
            return False
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


def kill_below(root: int) -> None:
    """Kill what is below `root` now, as far as it can be seen: no proof that all is dead."""
    with contextlib.suppress(OSError):
        for pid in descendants(root):
            kill_quietly(pid, signal.SIGKILL)


def kill_sweep(spare: frozenset[int] = frozenset()) -> list[int]:
    """Kill all of our children but `spare`, and return them.

    Call it again after reaping until nothing is left: a tree that forks faster than one sweep
    falls to us child by child, because we are its subreaper.
    """
    # New children are appended: those that can fork come last, behind the zombies.
    targets = [pid for pid in reversed(children()) if pid not in spare]
    for pid in targets:
        kill_quietly(pid, signal.SIGKILL)
    return targets


@dataclass(frozen=True, slots=True)
class Reaped:
    """What one look for ended children found: (pid, wait status) of each.

    `any_left` tells whether there are children still, `more` that there may be more ended ones.
    """

    ended: list[tuple[int, int]]
    any_left: bool
    more: bool


#: In a storm of forks there is always another zombie: no look for them may last.
_REAP_AT_ONCE: Final = 128


def reap() -> Reaped:
    """Reap children that have ended, up to a number that takes no time.

    The one place that waits, so that no exit status is ever lost to another waiter.
    """
    ended: list[tuple[int, int]] = []
    try:
        while len(ended) < _REAP_AT_ONCE:
            found = os.waitpid(-1, os.WNOHANG)
            if not found[0]:
                return Reaped(ended, any_left=True, more=False)
            ended.append(found)
    except ChildProcessError:
        return Reaped(ended, any_left=False, more=False)
    return Reaped(ended, any_left=True, more=True)


def stopped_by(child: int) -> int | None:
    """Return the signal that has stopped our child, once for each time that it was stopped.

    It looks for stops alone: an exit status is left to `reap`.
    """
    with contextlib.suppress(ChildProcessError):
        found = os.waitid(os.P_PID, child, os.WSTOPPED | os.WNOHANG)
        return found.si_status if found else None
    return None
