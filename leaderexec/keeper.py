"""Owns one tree: executes the child, passes signals on, reaps, and kills until nothing is left.

A keeper is a process of its own and the subreaper of everything that the child starts, so that it
lives exactly as long as the tree: it exits with 0 when the kernel says that it has no children
left (ECHILD), and for no other reason. "The tree is dead" is then one fact for the guardian: the
keeper has been reaped.

It kills the tree by itself when its deadline passes, when the guardian dies, and when it is told
to; a guardian that hangs or is stopped therefore changes nothing about when the tree dies. It has
no threads (the parent-death signal of its child belongs to the thread that forked it) and must not
know the lock.

Races it guards: a stop signal between fork and exec (signals stay blocked until just before exec,
so it is not lost); a process that slept between the decision to start and exec (the clock is read
last); descendants that leave the group or the session, or fork faster than one sweep (they are
reparented to us).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
from dataclasses import dataclass
from errno import EINVAL, ENOEXEC
from typing import TYPE_CHECKING, Final, NoReturn

from leaderexec import linux
from leaderexec.channel import (
    Channel,
    ChannelClosed,
    ChildNotStarted,
    ChildStarted,
    ChildStatus,
    ChildStopped,
    Deadline,
    Go,
    Kill,
    Message,
    Ping,
    Pong,
    Signal,
)
from leaderexec.tenure import Scope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leaderexec.cgroup import TreeGroup
    from leaderexec.log import Log

#: What a keeper writes when nothing of its tree is left.
PROOF: Final = b"."
#: How a keeper ends that cannot know whether anything of its tree is left.
UNPROVEN: Final = 3
#: How long to wait for a killed process to become reapable before sweeping again.
_SWEEP_PAUSE_MS: Final = 20
#: What the forked child writes instead of an errno when its time was over before it began.
_TOO_LATE: Final = -1


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to execute: `path` with `argv` and `env`, to which the leadership's is added.

    `nice` is the priority that we were started with. `no_new_privs` keeps setuid programs from
    escaping our signals. `terminal_of` is the process group that hands the terminal on standard
    input to the child if it has it then, None if none would. `tells_stops` says that somebody wants
    to know when the child is stopped. `group` is the control group for the tree, if there is one.
    `ignores_chld` is how we were started: exec keeps ignored signals.
    """

    path: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    nice: int
    no_new_privs: bool
    terminal_of: int | None
    tells_stops: bool = False
    group: TreeGroup | None = None
    ignores_chld: bool = False


class Keeper:
    """The life of one keeper, from a fork of the guardian to ECHILD.

    It is forked ahead, while the guardian stands by, and waits for `Go`. Unless it `is_subreaper`,
    what the child abandons falls to PID 1.
    `channel` leads to the guardian, whose death `guardian_pidfd` tells. `proof_fd` is the only
    writing end of a pipe: a byte in it proves that no process of the tree is left, while its end
    without a byte proves only that the keeper is dead. All signals are blocked.
    """

    def __init__(
        self,
        *,
        channel: Channel,
        guardian_pidfd: int,
        proof_fd: int,
        is_subreaper: bool,
        spec: ChildSpec,
        log: Log,
    ) -> None:
        self._channel = channel
        self._proof_fd = proof_fd
        self._is_subreaper = is_subreaper
        self._guardian_pidfd = guardian_pidfd
        self._spec = spec
        self._log = log
        self._signals = linux.SignalFd(linux.ALL_SIGNALS)
        self._timer = linux.BoottimeTimer()
        self._poll = select.poll()
        for source in (self._channel, self._signals, self._timer):
            self._poll.register(source.fileno(), select.POLLIN)
        self._poll.register(guardian_pidfd, select.POLLIN)
        self._child = 0
        self._child_reaped = False
        self._exec_error_fd: int | None = None
        self._killing = False
        self._more_to_reap = False

    def run(self) -> int:
        """Serve until nothing of the tree is left; return UNPROVEN if that is not certain, or 0."""
        while not self._killing:
            ready = {fd for fd, _ in self._poll.poll(0 if self._more_to_reap else None)}
            if self._timer.fileno() in ready or self._guardian_pidfd in ready:
                self._killing = True
                continue
            if self._channel.fileno() in ready:
                self._take_messages()
            if self._exec_error_fd in ready:
                self._report_exec()
            if self._signals.fileno() in ready:
                self._take_signals(self._signals.receive())
            if self._child and not self._reap():
                break
        else:
            self._kill_all()
        self._report_exec()
        if not self._is_subreaper:
            return UNPROVEN
        # Nothing is left: this byte, and not our death, is the proof of it.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._proof_fd, PROOF)
        return 0

    def _take_signals(self, arrived: list[int]) -> None:
        tells = self._spec.tells_stops and not self._child_reaped
        if tells and self._child and signal.SIGCHLD in arrived:
            signum = linux.stopped_by(self._child)
            if signum is not None:
                self._channel.send(ChildStopped(self._child, signum))

    # --- messages ---

    def _take_messages(self) -> None:
        try:
            messages = self._channel.receive()
        except ChannelClosed:
            self._killing = True
            return
        for message, _ in messages:
            self._take(message)

    def _take(self, message: Message) -> None:
        match message:
            case Go():
                self._timer.set(message.kill_at_ns)
                if not self._child:
                    self._start(message)
            case Deadline(kill_at_ns=kill_at_ns):
                self._timer.set(kill_at_ns)
            case Signal():
                self._signal(message)
            case Kill():
                self._killing = True
            case Ping():
                self._channel.send(Pong())
            case _:
                self._log.error("unexpected message", message=type(message).__name__)

    def _signal(self, message: Signal) -> None:
        if message.scope == Scope.ALL.value:
            targets = linux.descendants(os.getpid())
        elif self._child_reaped or not self._child:
            return
        else:
            targets = [self._child]
        if message.scope == Scope.GROUP.value:
            # The child has not been reaped, so that its number cannot name another group.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child, message.signum)
        else:
            for pid in targets:
                linux.kill_quietly(pid, message.signum)
        if not message.stop:
            return
        for pid in targets:
            if linux.is_stopped(pid):
                # A stopped process would take the signal only when somebody continues it.
                linux.kill_quietly(pid, signal.SIGCONT)

    # --- the child ---

    def _start(self, go: Go) -> None:
        error_fd, child_error_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        keeper = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(error_fd)
            os.close(child_error_fd)
            self._channel.send(ChildNotStarted(error.errno))
            self._killing = True  # nothing to kill: this ends the keeper
            return
        if pid == 0:
            _become_child(self._spec, go, keeper, child_error_fd)
        os.close(child_error_fd)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # the child does so too: whoever comes first
        self._child = pid
        self._exec_error_fd = error_fd
        self._poll.register(error_fd, select.POLLIN)

    def _report_exec(self) -> None:
        """Tell how exec went: the pipe closes with a successful exec, and with any death."""
        if self._exec_error_fd is None:
            return
        try:
            data = os.read(self._exec_error_fd, 4)
        except BlockingIOError:
            return
        self._poll.unregister(self._exec_error_fd)
        os.close(self._exec_error_fd)
        self._exec_error_fd = None
        if not data:
            self._channel.send(ChildStarted(self._child))
            return
        (errno,) = struct.unpack("i", data)
        self._channel.send(ChildNotStarted(None if errno == _TOO_LATE else errno))

    def _reap(self) -> bool:
        """Reap, report the child's end, and return whether any process is left."""
        reaped = linux.reap()
        self._more_to_reap = reaped.more
        orphans = [pid for pid, _ in reaped.ended if pid != self._child]
        if orphans and not self._killing:  # then nothing may cost time: forks would win
            self._log.debug("orphans reaped", number=len(orphans))
        for pid, status in reaped.ended:
            if pid == self._child:
                self._child_reaped = True
                self._report_exec()
                self._channel.send(ChildStatus(status))
        return reaped.any_left

    # --- the end ---

    def _kill_all(self) -> None:
        """Kill until ECHILD: first what one call reaches, then whatever falls to us."""
        if not self._is_subreaper:
            # Below what dies here there may be others, which would fall to nobody of ours.
            linux.kill_below(os.getpid())
        if self._child and not self._child_reaped:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child, signal.SIGKILL)
        waiting = select.poll()
        waiting.register(self._signals.fileno(), select.POLLIN)
        killed: set[int] = set()
        group = self._spec.group
        while True:
            try:
                targets = set(linux.kill_sweep())
            except OSError:
                targets = set()  # out of descriptors or memory: what is left is not known
            if group:
                # Not before the first sweep: it waits for a lock that all of the machine shares.
                group.kill()
                group = None
            if not self._reap():
                return
            if targets <= killed and not self._more_to_reap:
                waiting.poll(_SWEEP_PAUSE_MS)
                self._signals.receive()
            # Numbers are reused: remember no more than the present sweep.
            killed = targets


def _become_child(spec: ChildSpec, go: Go, keeper: int, error_fd: int) -> NoReturn:
    """Turn the forked process into the command. All signals are still blocked."""
    errno = 0
    try:
        os.setpgid(0, 0)
        linux.die_with_parent(keeper)
        if spec.group:
            with contextlib.suppress(OSError):  # it dies by the sweep as well
                spec.group.enter()
        if spec.terminal_of is not None:
            _take_terminal(spec.terminal_of)
        linux.be_ordinary(spec.nice)
        if spec.no_new_privs:
            linux.refuse_new_privileges()
        env = {
            **spec.env,
            "LEADER_NAMESPACE": go.namespace,
            "LEADER_FENCING_TOKEN": str(go.token),
            "LEADER_TRANSITIONS": str(go.transitions),
        }
        # Python ignores these two, and handles the interrupt in a way that exec would lose.
        for signum in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(signum, signal.SIG_DFL)
        if spec.ignores_chld:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        errno = _execute(spec, env, go.stop_at_ns)
    except OSError as error:
        errno = error.errno or EINVAL
    except ValueError:  # an argument or a variable that exec cannot take
        errno = EINVAL
    finally:
        with contextlib.suppress(OSError):
            os.write(error_fd, struct.pack("i", errno))
        os._exit(127)


def _execute(spec: ChildSpec, env: Mapping[str, str], stop_at_ns: int) -> int:
    """Execute as execvp(3) does: what is in no format that the kernel knows is the shell's.

    Returns only to say why it could not. The clock is read last, each time.
    """
    by_shell = "/bin/sh", ("/bin/sh", spec.path, *spec.argv[1:])
    errno = 0
    for path, argv in ((spec.path, spec.argv), by_shell):
        if linux.boottime_ns() >= stop_at_ns:
            return _TOO_LATE
        try:
            os.execve(path, argv, env)
        except OSError as error:
            errno = errno or error.errno or EINVAL
            if errno != ENOEXEC:
                break
    return errno


def _take_terminal(of: int) -> None:
    """Bring ourselves to the foreground if `of` is there; a terminal that is gone is no matter."""
    with contextlib.suppress(OSError):
        if os.tcgetpgrp(0) == of:
            os.tcsetpgrp(0, os.getpid())
