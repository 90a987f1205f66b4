"""Waits until somebody leads, and does nothing else: for init containers and scripts.

Owns the time and the signals of such a wait, and the one process that reads the lock meanwhile.
A reading may hang anywhere, as in an elector, so it has a process of its own, which is replaced
when it is silent. Nothing is ever written.

Somebody leads who is seen to renew the lock, or to take it, while we look: a record alone may be a
dead leader's, and its times are those of another machine's clock. It must not know how a lock
works, nor who may lead.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from typing import TYPE_CHECKING, Final, NoReturn

from leaderexec import exits, linux, log
from leaderexec.locks.base import LockError, LockRefused
from leaderexec.model import SECOND_NS, seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from leaderexec.locks.base import Lock
    from leaderexec.log import Log
    from leaderexec.model import Record, Timing

#: How long opening the lock and reading it once may take, beside the pause between two readings; it
#: imports a large package.
_SILENCE_NS: Final = 30 * SECOND_NS
_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
_DYING_S: Final = 1.0
_SIGN_OF_LIFE: Final = b"."


class Sightings:
    """What was seen of one lock, and whether that shows a leader at work."""

    def __init__(self) -> None:
        self._looked = False
        self._last: Record | None = None

    def saw(self, record: Record | None) -> str | None:
        """Take note of the record, None where there is no lock; return the leader if one works."""
        first, self._looked = not self._looked, True
        before, self._last = self._last, record
        if first or record is None or record == before:
            return None
        return record.holder or None


def wait(open_lock: Callable[[], Lock], timing: Timing, timeout_ns: int | None, log_: Log) -> int:
    """Return 0 once somebody leads, 124 after `timeout_ns`, 128+n for a signal that ends us.

    `open_lock` raises LockRefused for what only the user can mend: that gives 2. All reading is
    done in a process of its own, every retry period.
    """
    linux.name_process("leaderexec")
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ending = [signum for signum in _ENDING if signal.getsignal(signum) is not signal.SIG_IGN]
    signal.pthread_sigmask(signal.SIG_BLOCK, linux.ALL_SIGNALS)
    signals = linux.SignalFd(linux.ALL_SIGNALS)
    timer = linux.BoottimeTimer()
    until_ns = None if timeout_ns is None else linux.boottime_ns() + timeout_ns
    reader = _Reader(open_lock, timing, log_)
    while True:
        now_ns = linux.boottime_ns()
        if until_ns is not None and now_ns >= until_ns:
            reader.kill()
            log.die_in_one_line("nobody leads within --timeout")
            return exits.TIMEOUT
        if now_ns >= reader.due_ns:
            reader.renew()
        timer.set(min(filter(None, (until_ns, reader.due_ns))))
        poll = select.poll()
        for fd in (signals.fileno(), timer.fileno(), reader.fd):
            if fd is not None:
                poll.register(fd, select.POLLIN)
        poll.poll()
        timer.clear()
        reader.listen()
        for signum in signals.receive():
            if signum in ending:
                reader.kill()
                return exits.SIGNALED + signum
        code = reader.reap()
        if code is not None:
            return code


class _Reader:
    """The process that reads the lock, and its successors."""

    def __init__(self, open_lock: Callable[[], Lock], timing: Timing, log_: Log) -> None:
        self._open_lock = open_lock
        self._timing = timing
        self._log = log_
        self._silence_ns = _SILENCE_NS + timing.retry_period_ns + timing.call_timeout_ns
        self._pid = 0
        #: What tells of its life, None when it has ended.
        self.fd: int | None = None
        #: When it is replaced for its silence.
        self.due_ns = 0
        self.renew()

    def renew(self) -> None:
        """End what is left of the present one and start another."""
        self.kill()
        parent = os.getpid()
        self.fd, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.due_ns = linux.boottime_ns() + self._silence_ns
        self._pid = os.fork()
        if not self._pid:
            os.close(self.fd)
            self._be_it(theirs, parent)
        os.close(theirs)
        with contextlib.suppress(OSError):
            os.setpgid(self._pid, self._pid)

    def listen(self) -> None:
        """Hear that it lives; at its end there is nothing to hear any more."""
        if self.fd is None:
            return
        with contextlib.suppress(BlockingIOError):
            if os.read(self.fd, 4096):
                self.due_ns = linux.boottime_ns() + self._silence_ns
            else:
                self._close()

    def reap(self) -> int | None:
        """Reap whoever has ended; return our exit code if it was the reader, and knew it."""
        code = None
        for pid, status in linux.reap().ended:
            if pid != self._pid:
                continue  # an exec plugin's, where we are PID 1
            self._pid = 0
            code = exits.from_wait_status(status)
            if code not in {exits.OK, exits.USAGE}:
                self._log.error("the reader died", status=code)
                self.due_ns = linux.boottime_ns() + SECOND_NS
                code = None
        return code

    def kill(self) -> None:
        """Kill it with what it has started, and wait a moment for that, but no longer."""
        if self._pid:
            pidfd = os.pidfd_open(self._pid)
            for kill in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError):
                    kill(self._pid, signal.SIGKILL)
            select.select([pidfd], [], [], _DYING_S)
            os.close(pidfd)
            self._pid = 0
        self._close()

    def _close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def _be_it(self, alive_fd: int, parent: int) -> NoReturn:
        code = exits.INTERNAL
        try:
            os.setpgid(0, 0)
            linux.die_with_parent(parent)
            linux.name_process("leaderexec-read")
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            log.quiet_standard_library()
            _read(self._open_lock(), self._timing, alive_fd, self._log.bind(role="reader"))
            code = exits.OK
        except LockRefused as refusal:
            log.die_in_one_line(str(refusal))
            code = exits.USAGE
        except BaseException as error:  # noqa: BLE001 - the last frame of this process
            self._log.error("internal error", error=f"{type(error).__name__}: {error}")
        finally:
            os._exit(code)


def _read(lock: Lock, timing: Timing, alive_fd: int, log_: Log) -> None:
    """Read the lock until somebody is seen to lead."""
    sightings = Sightings()
    period_s = timing.retry_period_ns / SECOND_NS
    log_.info(
        "waiting for a leader", lock=lock.description, looking_every=seconds(timing.retry_period_ns)
    )
    while True:
        try:
            snapshot = lock.read(timing.call_timeout_ns / SECOND_NS)
            leader = sightings.saw(snapshot.record if snapshot else None)
            if leader:
                event = f"leader is {leader}"  # the words of the leader-elector of 2016
                log_.info(event, leader=leader)
                return
        except LockError as error:
            log_.warning("cannot see who leads", reason=str(error))
        with contextlib.suppress(BlockingIOError):
            os.write(alive_fd, _SIGN_OF_LIFE)
        time.sleep(period_s)
