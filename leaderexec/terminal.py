"""Knows the terminal that we were started in: who has it, and what stopping means there.

Owns handing it to the child's process group and taking it back, its modes, and the stop of our own
job. Must not know when: the guardian does. The child has a group of its own (rule 16), so that
what a shell does for its job, we do for ours: the terminal's keys are the child's while it runs, a
stopped child is a stopped job, and what ended badly leaves no terminal that shows no keys.

Races it guards: the terminal is taken from nobody but the child or the dead, since by then it may
be another job's or the shell's. Only a shell with job control above us could ever continue what a
terminal has stopped; the kernel has the last word on whether there is one, when we stop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import termios
from typing import Any, Final

from leaderexec import linux

#: What stops a process that touches the terminal of others.
BACKGROUND_SIGNALS: Final = frozenset({signal.SIGTTIN, signal.SIGTTOU})
#: All that can stop a process.
STOP_SIGNALS: Final = BACKGROUND_SIGNALS | {signal.SIGTSTP, signal.SIGSTOP}


def find() -> Terminal | None:
    """Return our controlling terminal if we have one, whatever was redirected."""
    for fd in (0, 1, 2):
        with contextlib.suppress(OSError):
            os.tcgetpgrp(fd)
            return Terminal(fd)
    with contextlib.suppress(OSError):
        return Terminal(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC))
    return None


class Terminal:
    """Our controlling terminal behind `fd`. All signals are blocked."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._modes: list[Any] | None = None
        #: Our process group: the job, as a shell has it.
        self.group = os.getpgrp()
        #: Whether the child has the terminal whenever our job has it. One that neither reads from
        #: it nor writes to it itself may be part of a pipeline with somebody who does: it must ask.
        self.is_lent = fd == 0 and not _is_pipe(1)

    # --- who has it

    def is_with(self, group: int) -> bool:
        """Whether it is in the hands of `group`."""
        return self._holder() == group

    def is_gone(self) -> bool:
        """Whether it was hung up."""
        try:
            os.tcgetpgrp(self._fd)
        except OSError:
            return True
        return False

    def lend(self, group: int) -> bool:
        """Hand it to `group` if our job has it; return whether `group` has it now."""
        if self._is_free():
            self.remember_modes()
            with contextlib.suppress(OSError):
                os.tcsetpgrp(self._fd, group)
        return self.is_with(group)

    def take_back(self, group: int) -> bool:
        """Take it from `group`, or from whoever is dead; return whether that was done."""
        if self.is_with(self.group) or not (self.is_with(group) or self._is_free()):
            return False
        with contextlib.suppress(OSError):
            os.tcsetpgrp(self._fd, self.group)
        return self.is_with(self.group)

    def _holder(self) -> int | None:
        try:
            return os.tcgetpgrp(self._fd) or None  # 0: a group that our namespace does not show
        except OSError:
            return None

    def _is_free(self) -> bool:
        """Whether it is our job's own, or that of a group without processes."""
        holder = self._holder()
        if holder is None or holder == self.group:
            return holder is not None
        # Signal 0 to group 1 would mean everybody; where we are not that group, it is alive.
        return holder > 1 and not _is_alive(holder)

    # --- its modes

    def remember_modes(self) -> None:
        """Take note of how our job has it, before the child may change that."""
        if self._is_free():
            with contextlib.suppress(termios.error):
                self._modes = termios.tcgetattr(self._fd)

    def restore_modes(self) -> None:
        """Set it as it was: without echo or interrupts it would be of no use to us or a shell."""
        if self._modes is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._fd, termios.TCSANOW, self._modes)

    # --- the job

    def has_shell(self) -> bool:
        """Whether somebody above could continue us: our process group is not orphaned.

        An ancestor within the session but outside of the group, as the kernel has it, except that
        only our own line is asked. PID 1 of a namespace cannot be stopped from within.
        """
        if os.getpid() == 1:
            return False
        with contextlib.suppress(OSError):  # an ancestor has just ended, or is not ours to ask
            for ancestor in linux.ancestors():
                if os.getsid(ancestor) != os.getsid(0):
                    return False
                if os.getpgid(ancestor) != self.group:
                    return True
        return False

    def stop_job(self, signum: int) -> bool:
        """Stop our whole job with a stop signal of the terminal; return when it is continued.

        False if nobody stopped: the kernel spares orphaned groups, and who ignores the signal.
        """
        os.kill(0, signum)  # whoever is in a pipeline with us stops too
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signum})
        # We are stopped here.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signum})
        # It clears stop signals that wait, as they clear it: this one came after.
        return signal.SIGCONT in signal.sigpending()


def _is_pipe(fd: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(fd).st_mode)
    except OSError:
        return False


def _is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
