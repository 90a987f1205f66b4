"""Owns the lock: the one process that talks to it. Carries out what election decides.

The main thread serves the channel and the deadlines and never waits for the lock; one worker
thread makes the calls, one at a time; a watch thread reads the watch while standing by. A call may
hang anywhere (name resolution, an exec plugin, a server that trickles), and a thread cannot be
ended, so a worker that is overdue ends the whole process: the guardian starts another.

When the guardian dies the elector outlives it: it waits for the keeper's proof that nothing of the
tree is left, gives the lock back, and ends. It is forked before anything of Kubernetes is imported,
which its worker does.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import select
import signal
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, assert_never

from leaderexec import channel as wire
from leaderexec import election, linux, log
from leaderexec.channel import ChannelClosed, Message
from leaderexec.keeper import PROOF
from leaderexec.locks.base import (
    Absent,
    Conflict,
    Forbidden,
    LockError,
    LockRefused,
    Unavailable,
)
from leaderexec.model import SECOND_NS, Now, Token

if TYPE_CHECKING:
    from collections.abc import Callable

    from leaderexec.channel import Channel
    from leaderexec.guardian import ElectorSeat
    from leaderexec.locks.base import Lock
    from leaderexec.log import Log
    from leaderexec.model import Grant, LockTraits, Snapshot, Timing

#: How long opening the lock may take: it imports a large package, perhaps on a starved processor.
_OPEN_BOUND_NS: Final = 30 * SECOND_NS
#: How long a thread may keep another waiting: a handover passes through all of them.
_SWITCH_S: Final = 0.0005
#: How long a standby that is not next in line leaves what its watch tells.
_REST_S: Final = (0.1, 0.4)
#: The least that a call is given before the process is ended for it.
_CALL_BOUND_NS: Final = 5 * SECOND_NS
#: Others may write names as long as a book: no more of them than fits a message is passed on.
_TOLD_CHARS: Final = 600


@dataclass(frozen=True, slots=True)
class Candidacy:
    """Who campaigns: `identity` as written into the record, `unique` if nobody else can have it.

    `slot` says that it is a container's, which takes back what its former life held.
    `traits` are those of the lock that will be opened.
    """

    identity: str
    unique: bool
    slot: bool
    timing: Timing
    traits: LockTraits


@dataclass(frozen=True, slots=True)
class _LockOpened:
    lock: Lock


@dataclass(frozen=True, slots=True)
class _LockRefused:
    message: str


@dataclass(frozen=True, slots=True)
class _FromWatch:
    """An event of one watch; those of a watch that was closed since are dropped."""

    watch_id: int
    event: election.Event


_Arrival = election.Event | _LockOpened | _LockRefused | _FromWatch
_Job = tuple[int, str, "Callable[[Lock, float], Snapshot | None]"]


class _Inbox:
    """What the threads hand to the main thread, with a descriptor to poll."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_Arrival] = queue.SimpleQueue()
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        return self._fd

    def put(self, arrival: _Arrival) -> None:
        self._queue.put(arrival)
        os.eventfd_write(self._fd, 1)

    def take(self) -> list[_Arrival]:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)
        arrivals = []
        with contextlib.suppress(queue.Empty):
            while True:
                arrivals.append(self._queue.get_nowait())
        return arrivals


class _Worker:
    """Opens the lock, then makes one call at a time on a thread of its own."""

    def __init__(self, open_lock: Callable[[], Lock], timeout_s: float, inbox: _Inbox) -> None:
        self._open_lock = open_lock
        self._timeout_s = timeout_s
        self._inbox = inbox
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._lock: Lock | None = None
        threading.Thread(target=self._run, name="worker", daemon=True).start()

    def submit(self, job: _Job) -> None:
        self._jobs.put(job)

    def _run(self) -> None:
        while True:
            call_id, verb, call = self._jobs.get()
            self._inbox.put(self._do(call_id, verb, call))

    def _do(
        self, call_id: int, verb: str, call: Callable[[Lock, float], Snapshot | None]
    ) -> _Arrival:
        try:
            if self._lock is None:
                self._lock = self._open_lock()
                self._inbox.put(_LockOpened(self._lock))
            return election.Returned(call_id, call(self._lock, self._timeout_s))
        except LockRefused as refusal:
            return _LockRefused(str(refusal))
        except LockError as error:
            return election.Failed(call_id, _failure(error))
        except Exception as error:  # noqa: BLE001 - a library's surprise is one more failed call
            return election.Failed(
                call_id,
                election.Failure(
                    election.FailureKind.UNAVAILABLE,
                    f"cannot {verb} the lock: {type(error).__name__}: {error}",
                ),
            )


def _failure(error: LockError) -> election.Failure:
    kind = election.FailureKind.UNAVAILABLE
    retry_after_ns = None
    match error:
        case Conflict():
            kind = election.FailureKind.CONFLICT
        case Absent():
            kind = election.FailureKind.ABSENT
        case Forbidden():
            kind = election.FailureKind.FORBIDDEN
        case Unavailable(retry_after_s=wish_s) if wish_s is not None:
            retry_after_ns = int(wish_s * SECOND_NS)
        case _:
            pass
    return election.Failure(kind, str(error), retry_after_ns)


def _watch(lock: Lock, since: Snapshot | None, identity: str, watch_id: int, inbox: _Inbox) -> None:
    """Read one watch to its end.

    Hundreds of standbys are told of a release at the same time. Those that are not next in line
    turn over once more, so that the one that is, and the server, find a processor.
    """
    failure: election.Failure | None = None
    rested_s = 0.0
    try:
        versions = lock.watch(since)
        for first, snapshot in enumerate(versions):
            event = election.WatchSaw(snapshot) if first else election.WatchOpened()
            is_next = snapshot is None or snapshot.successor in {None, "", identity}
            if first and not is_next and time.monotonic() > rested_s + _REST_S[0]:
                time.sleep(random.uniform(*_REST_S))  # noqa: S311 - spreads load, guards nothing
                rested_s = time.monotonic()
            inbox.put(_FromWatch(watch_id, event))
    except LockError as error:
        failure = _failure(error)
    except Exception as error:  # noqa: BLE001 - a library's surprise is one more broken watch
        failure = election.Failure(
            election.FailureKind.UNAVAILABLE,
            f"cannot watch the lock: {type(error).__name__}: {error}",
        )
    inbox.put(_FromWatch(watch_id, election.WatchEnded(failure)))


class Elector:
    """The life of one elector, from a fork of the guardian to its retirement.

    `open_lock` is called on the worker, may take its time, and raises LockRefused for what only
    the user can mend.
    """

    def __init__(
        self,
        seat: ElectorSeat,
        candidacy: Candidacy,
        open_lock: Callable[[], Lock],
        log_: Log,
    ) -> None:
        log.quiet_standard_library()
        sys.setswitchinterval(_SWITCH_S)
        _shrug_off_signals()
        self._log = log_.bind(role="elector")
        self._seat = seat
        self._timing = candidacy.timing
        self._channel = seat.channel
        self._guardian_dead = False
        self._proof_fd = seat.proof_fd
        # The keeper died before its tree: only the guardian can end it, and tell that it did.
        self._unproven = False
        self._inbox = _Inbox()
        self._timer = linux.BoottimeTimer()
        self._poll = select.poll()
        for fd in (
            seat.channel.fileno(),
            seat.guardian_pidfd,
            self._inbox.fileno(),
            self._timer.fileno(),
        ):
            self._poll.register(fd, select.POLLIN)
        if self._proof_fd is not None:
            self._poll.register(self._proof_fd, select.POLLIN)
        self._worker = _Worker(open_lock, candidacy.timing.call_timeout_ns / SECOND_NS, self._inbox)
        self._lock: Lock | None = None
        self._busy_since_ns: int | None = None
        self._called_ns = 0
        self._is_prompt = True  # as every process that the guardian forks
        self._watch_id = 0
        self._watch_thread: threading.Thread | None = None
        self._done = False
        self._reports = seat.reports and _Reports(
            seat.reports, seat.generation, candidacy.timing.heartbeat_ns
        )
        self._core = election.Election(
            identity=candidacy.identity,
            unique=candidacy.unique,
            slot=candidacy.slot,
            timing=candidacy.timing,
            generation=seat.generation,
            jitter=random.random,
            now=linux.now(),
            inherited=_holding(seat.grant) if seat.grant else None,
            traits=candidacy.traits,
        )

    def run(self) -> None:
        """Serve until retired; raise TimeoutError when the worker is overdue."""
        self._step(election.Woke())
        while not self._done:
            self._timer.set(self._wake_at_ns())
            ready = {fd for fd, _ in self._poll.poll()}
            if self._timer.fileno() in ready:
                self._timer.clear()
            # The guardian's words first: after a pause of our own they tell that it is alive.
            if self._channel.fileno() in ready:
                self._listen()
            if self._seat.guardian_pidfd in ready:
                self._guardian_died()
            if self._inbox.fileno() in ready:
                for arrival in self._inbox.take():
                    self._take_arrival(arrival)
            if self._proof_fd in ready:
                self._take_proof()
            self._step(election.Woke())
            if self._reports:
                self._reports.tell(self._core, linux.now())
            self._check_worker()

    # --- deadlines ---

    def _wake_at_ns(self) -> int | None:
        times = [t for t in (self._core.wake_at_ns, self._overdue_at_ns()) if t is not None]
        return min(times, default=None)

    def _overdue_at_ns(self) -> int | None:
        if self._busy_since_ns is None:
            return None
        if self._lock is None:
            return self._busy_since_ns + _OPEN_BOUND_NS
        return self._busy_since_ns + max(self._timing.renew_deadline_ns, _CALL_BOUND_NS)

    def _check_worker(self) -> None:
        overdue_at_ns = self._overdue_at_ns()
        if not self._done and overdue_at_ns and linux.boottime_ns() >= overdue_at_ns:
            raise TimeoutError("a call to the lock hangs beyond its deadline")

    # --- what arrives ---

    def _listen(self) -> None:
        try:
            messages = self._channel.receive()
        except ChannelClosed:
            # The guardian is dying: its pidfd will tell when it is dead.
            self._poll.unregister(self._channel.fileno())
            return
        for message, fd in messages:
            self._take(message, fd)

    def _take(self, message: Message, fd: int | None) -> None:
        match message:
            case wire.BeatAnswered():
                self._step(election.BeatReturned())
            case wire.KeeperForked():
                self._drop_proof()
                if fd is None:
                    # Lost at the limit of descriptors: a successor inherits it.
                    raise OSError("the keeper's pipe did not arrive")
                self._proof_fd = fd
                self._unproven = False
                self._poll.register(fd, select.POLLIN)
            case wire.TreeIsGone(token=number, retire=retire):
                token = None if number is None else Token(number)
                self._unproven = False
                self._step(election.TreeGone(token, retire))
            case _:
                self._log.error("unexpected message", message=type(message).__name__)

    def _guardian_died(self) -> None:
        with contextlib.suppress(KeyError):
            self._poll.unregister(self._channel.fileno())
        self._poll.unregister(self._seat.guardian_pidfd)
        with contextlib.suppress(ChannelClosed):
            for message, fd in self._channel.receive():  # a keeper may have been announced
                self._take(message, fd)
        self._guardian_dead = True
        self._log.error("the guardian died")
        self._step(election.GuardianDied())
        if self._proof_fd is None:
            self._leave_guardian()

    def _take_proof(self) -> None:
        """Hear what the keeper's pipe says: a byte from a tree's end, or its own end alone."""
        if self._proof_fd is None:
            return
        self._unproven = os.read(self._proof_fd, 1) != PROOF
        self._drop_proof()
        if self._unproven:
            if not self._guardian_dead:
                # What the keeper left falls to the guardian, which may have stopped itself (Ctrl-Z)
                # and must go on to end it.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(self._seat.guardian_pidfd, signal.SIGCONT)
            self._step(election.KeeperDied())
        if self._guardian_dead:
            self._leave_guardian()

    def _drop_proof(self) -> None:
        if self._proof_fd is not None:
            self._poll.unregister(self._proof_fd)
            os.close(self._proof_fd)
            self._proof_fd = None

    def _leave_guardian(self) -> None:
        """Give the lock back after the guardian's death, if no tree can be left."""
        if self._unproven:
            self._log.error("the keeper died too: the lock is not given back, its lease expires")
            self._done = True
            return
        self._step(election.TreeGone(None, retire=True))

    def _take_arrival(self, arrival: _Arrival) -> None:
        match arrival:
            case _LockOpened(lock=lock):
                self._lock = lock
                self._busy_since_ns = linux.boottime_ns()
                self._channel.send(wire.Opened(lock.description, lock.namespace))
            case _LockRefused(message=message):
                self._busy_since_ns = None
                self._channel.send(wire.Refused(message[:4000]))
                self._done = True
            case _FromWatch(watch_id=watch_id, event=event):
                if watch_id == self._watch_id:
                    self._step(event)
            case _:
                if isinstance(arrival, election.Returned | election.Failed):
                    if self._reports:
                        self._reports.tell_call(self._core.calling, arrival, self._called_ns)
                    self._busy_since_ns = None
                self._step(arrival)

    # --- what election decides ---

    def _step(self, event: election.Event) -> None:
        if not self._done:
            effects = self._core.step(event, linux.now())
            self._keep_pace()
            for effect in effects:
                self._carry_out(effect)

    def _keep_pace(self) -> None:
        """Be prompt while others depend on it; hundreds of standbys must not starve a new child."""
        is_prompt = self._core.state is not election.State.STANDBY or self._core.is_next
        if is_prompt is not self._is_prompt:
            self._is_prompt = is_prompt
            linux.be_prompt() if is_prompt else linux.be_ordinary(self._seat.nice)

    def _carry_out(self, effect: election.Effect) -> None:
        match effect:
            case election.Read() | election.Create() | election.Update() | election.NameSuccessor():
                self._busy_since_ns = self._called_ns = linux.boottime_ns()
                self._worker.submit(_job(effect))
            case election.OpenWatch(since=since):
                self._open_watch(since)
            case election.CloseWatch():
                self._watch_id += 1
                if self._lock is not None:
                    self._lock.interrupt_watch()
            case election.SendGrant(grant=grant):
                self._channel.send(
                    wire.GrantSent(
                        generation=grant.generation,
                        token=grant.token,
                        uid=grant.uid,
                        holder=grant.claim.holder,
                        acquire_time_us=grant.claim.acquire_time_us,
                        transitions=grant.claim.transitions,
                        renewed_at_ns=grant.renewed_at_ns,
                        expires_at_ns=grant.expires_at_ns,
                    )
                )
            case election.SendLost(token=token, reason=reason):
                self._channel.send(
                    wire.LostSent(self._seat.generation, token, reason[:_TOLD_CHARS])
                )
            case election.SendStanding(leader=leader, reason=reason):
                self._channel.send(wire.StandingSent(leader[:_TOLD_CHARS], reason[:_TOLD_CHARS]))
            case election.SendReleased(token=token, outcome=outcome, retired=retired):
                self._done = self._done or retired
                self._channel.send(
                    wire.ReleasedSent(self._seat.generation, token, outcome, retired)
                )
            case election.SendBeat():
                self._channel.send(wire.Beat(self._seat.generation))
            case election.KillGuardian():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._seat.guardian_pidfd, signal.SIGKILL)
            case election.Note(level=level, event=event, fields=fields):
                getattr(self._log, level)(event, **fields)
            case _:
                assert_never(effect)

    def _open_watch(self, since: Snapshot | None) -> None:
        self._watch_id += 1
        lock = self._lock
        if lock is None or (self._watch_thread is not None and self._watch_thread.is_alive()):
            # One that hangs blocks the next, so that threads never pile up; polling goes on.
            failure = election.Failure(
                election.FailureKind.UNAVAILABLE, "cannot watch the lock: the last watch hangs"
            )
            self._inbox.put(_FromWatch(self._watch_id, election.WatchEnded(failure)))
            return
        self._watch_thread = threading.Thread(
            target=_watch,
            args=(lock, since, self._core.identity, self._watch_id, self._inbox),
            name="watch",
            daemon=True,
        )
        self._watch_thread.start()


class _Reports:
    """Tells the server what is known of the lock, on every change and at every heartbeat."""

    def __init__(self, channel: Channel, generation: int, heartbeat_ns: int) -> None:
        self._bulletin: wire.Bulletin[wire.LockIs] = wire.Bulletin(channel, heartbeat_ns)
        self._generation = generation

    def tell(self, core: election.Election, now: Now) -> None:
        if core.state is election.State.RESUMING:
            return  # what our predecessor told holds until we know better
        told = self._bulletin.told
        holder = core.leader[:_TOLD_CHARS] if core.leader_until_ns > now.boot_ns else ""
        record = core.record
        news = wire.LockIs(
            generation=self._generation,
            holder=holder,
            until_ns=core.leader_until_ns,
            since_us=told.since_us if told and told.holder == holder else now.wall_us,
            lease_duration_s=record.lease_duration_s if record else 0,
            transitions=record.transitions if record else 0,
            slow_renewals=core.slow_renewals,
            lines_dropped=log.lines_dropped(),
        )
        self._bulletin.tell(news, now.boot_ns)

    def tell_call(
        self, purpose: str, end: election.Returned | election.Failed, called_ns: int
    ) -> None:
        outcome = "ok" if isinstance(end, election.Returned) else end.failure.kind.name.lower()
        took_ns = linux.boottime_ns() - called_ns
        self._bulletin.channel.send(wire.CallTook(purpose, outcome, took_ns))


def _holding(grant: Grant) -> election.Holding:
    granted_ns = grant.expires_at_ns - grant.renewed_at_ns
    return election.Holding(grant.token, grant.uid, grant.claim, granted_ns)


def _job(
    effect: election.Read | election.Create | election.Update | election.NameSuccessor,
) -> _Job:
    match effect:
        case election.Read(call_id=call_id):
            return call_id, "read", lambda lock, timeout_s: lock.read(timeout_s)
        case election.Create(call_id=call_id, record=record):
            return call_id, "create", lambda lock, timeout_s: lock.create(record, timeout_s)
        case election.Update(call_id=call_id, record=record, seen=seen):
            return call_id, "update", lambda lock, timeout_s: lock.update(record, seen, timeout_s)
        case election.NameSuccessor(call_id=call_id, successor=successor, seen=seen):
            return (
                call_id,
                "update",
                lambda lock, timeout_s: lock.name_successor(successor, seen, timeout_s),
            )
        case _:
            assert_never(effect)


def _shrug_off_signals() -> None:
    """Leave requests to stop to the guardian: they may reach every process of a service at once.

    Handlers that do nothing, rather than ignored signals, because exec plugins inherit the latter.
    """
    for signum in (
        signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1,
        signal.SIGUSR2, signal.SIGTSTP, signal.SIGALRM,
    ):  # fmt: skip
        signal.signal(signum, lambda *_: None)
    # With `stty tostop` a background process that writes to the terminal is stopped, unless this
    # signal is blocked; a handler would make the write fail for ever.
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGTTOU})
