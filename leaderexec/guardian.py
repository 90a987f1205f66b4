"""Owns time: the process that users start. One poll loop that carries out what tenure decides.

The guardian forks the elector, for each run of the child a keeper, and, if anything is served, the
server. It has no threads and uses no network (the listening sockets it only holds), so that nothing
but the kernel can delay it: PID 1 in a container. Every signal is blocked for its whole life and
read from a descriptor.

Races it guards: a keeper is known to the elector (the pipe that will prove its tree dead is sent)
before it may start anything, so that an elector which outlives us waits for it; what a dead keeper
leaves falls to us, because we are a subreaper ourselves, and is killed before anything else is
believed. Nothing here loops for as long as a tree pleases: whatever it does, the elector is
answered and the deadline kept.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, assert_never

from leaderexec import cgroup, exits, linux, log, tenure, terminal
from leaderexec import channel as wire
from leaderexec.channel import Channel, ChannelClosed, Message
from leaderexec.keeper import UNPROVEN, ChildSpec, Keeper
from leaderexec.model import SECOND_NS, Claim, Grant, Timing, Token, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from socket import socket

    from leaderexec.log import Log
    from leaderexec.terminal import Terminal

#: What keepers call themselves.
KEEPER_NAME: Final = "leaderexec-keep"
#: What servers call themselves.
SERVER_NAME: Final = "leaderexec-http"

#: Signals that ask a process to stop, besides the configured stop signal.
_STOP_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
#: Signals that concern the guardian or the terminal, never the child.
_OWN_SIGNALS: Final = frozenset({signal.SIGCHLD, signal.SIGTTIN, signal.SIGTTOU})
#: What continues a stopped child, and all that was stopped with it.
_CONTINUE: Final = wire.Signal(signal.SIGCONT, tenure.Scope.GROUP.value, stop=False)
#: While it kills what fell to it, the guardian sweeps this often.
_SWEEP_PAUSE_MS: Final = 10
#: How long processes of ours may take to end when we do.
_LEAVE_NS: Final = 2 * SECOND_NS


@dataclass(frozen=True, slots=True)
class ElectorSeat:
    """What a new elector is given: its end of the channel and what a former one held.

    `guardian_pidfd` tells the guardian's death; `proof_fd`, if there is a tree already, its end
    (keeper.PROOF). `grant` is the last one under which a tree was started and not yet given back.
    `reports` is where a server wants to be told of the lock, if there is one. `nice` is the
    priority that we were started with.
    """

    channel: Channel
    guardian_pidfd: int
    proof_fd: int | None
    generation: int
    grant: Grant | None
    reports: Channel | None
    nice: int


@dataclass(frozen=True, slots=True)
class ServerSeat:
    """What a new server is given: where guardian and elector report to."""

    reports: Channel
    guardian_pidfd: int


@dataclass(frozen=True, slots=True)
class Service:
    """What is served: `run` turns a forked process into a server on the `listeners`.

    The listening sockets stay open here, so that a server may die and be forked again while its
    clients wait.
    """

    run: Callable[[ServerSeat], None]
    listeners: Sequence[socket]


@dataclass(frozen=True, slots=True)
class Orders:
    """What the guardian is to do: the child, and the rules for running it.

    `path` is None when there is none: then a leadership is all that there is. `rewrite_signals`
    says what the child is sent in place of a signal (0: nothing), whoever decided to send it.
    """

    path: str | None
    argv: tuple[str, ...]
    environ: Mapping[str, str]
    election: str
    identity: str
    timing: Timing
    stop_signal: int
    stop_timeout_ns: int
    on_loss: tenure.OnLoss
    campaign_timeout_ns: int | None
    signal_group: bool
    rewrite_signals: Mapping[int, int]
    remap_exits: Mapping[int, int]
    allow_privilege_escalation: bool


class _Peer:
    """A forked process of ours: its pid, its pidfd, and our end of the channel to it."""

    def __init__(self, pid: int, channel: Channel) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.channel = channel

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        os.close(self.pidfd)
        self.channel.close()


class _Reports:
    """Tells the server what the guardian has, on every change and at every heartbeat.

    One socketpair for all servers and electors to come: a message is lost only when its buffer is
    full, and then the next one tells the same.
    """

    def __init__(self, heartbeat_ns: int) -> None:
        self.ours, self.theirs = wire.pair()
        self.totals = dict.fromkeys(("grants", "leaderships", "child_starts", "elector_starts"), 0)
        self._bulletin: wire.Bulletin[wire.TenureIs] = wire.Bulletin(self.ours, heartbeat_ns)
        self._token: int | None = None

    def tell(self, *, token: int | None, **facts: Any) -> None:
        if token is not None and token != self._token:
            self._token = token
            self.totals["leaderships"] += 1
        fields = {**facts, **self.totals}
        news = wire.TenureIs(token=token, lines_dropped=log.lines_dropped(), **fields)
        self._bulletin.tell(news, linux.boottime_ns())

    def forget(self) -> None:
        """Tell everything anew: there is another server."""
        self._bulletin.told = None


class Guardian:
    """The life of one leaderexec. `run_elector` turns a forked process into an elector."""

    def __init__(
        self,
        orders: Orders,
        run_elector: Callable[[ElectorSeat], None],
        log_: Log,
        service: Service | None = None,
    ) -> None:
        self._orders = orders
        self._run_elector = run_elector
        self._log = log_
        self._service = service
        self._server_pid: int | None = None
        self._server_from_ns = 0
        self._reports = _Reports(orders.timing.heartbeat_ns) if service else None
        self._lock = ""
        self._namespace = ""
        self._opened = False
        self._interrupts = 0
        self._fatal = ""
        self._exit_code: int | None = None
        self._elector: _Peer | None = None
        self._elector_generation = 0
        self._keeper: _Peer | None = None
        # A keeper that waits for its first order, and the reading end of its pipe.
        self._spare: tuple[_Peer, int] | None = None
        self._spare_from_ns = 0
        # The reading end of the pipe that proves the end of the present tree.
        self._proof_fd: int | None = None
        # The child's pid and pidfd, once it has been executed.
        self._child: tuple[int, int] | None = None
        self._taking_over = False
        # What ended before signals were taken by descriptor sends none any more.
        self._more_to_reap = True
        # Children that were there before us are nobody's tree.
        self._strangers = set(linux.children())
        self._terminal = terminal.find()
        # The signal by which our job is to be stopped when this turn is over.
        self._stop_job_by: int | None = None
        self._job_was_stopped = False
        self._is_init = os.getpid() == 1
        self._group = cgroup.make("leaderexec-tree")
        self._nice = os.getpriority(os.PRIO_PROCESS, 0)
        linux.be_prompt()

        linux.name_process("leaderexec")
        self._chld_was_ignored = signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if ignored, exit codes would be lost
        signal.pthread_sigmask(signal.SIG_BLOCK, linux.ALL_SIGNALS)
        self._signals = linux.SignalFd(linux.ALL_SIGNALS)
        self._timer = linux.BoottimeTimer()
        self._pidfd = os.pidfd_open(os.getpid())
        self._is_subreaper = self._is_init or linux.become_subreaper()
        if not self._is_subreaper:
            log_.warning(
                "neither PID 1 nor a subreaper: what the child abandons may outlive the leadership"
            )
        self._poll = select.poll()
        self._poll.register(self._signals.fileno(), select.POLLIN)
        self._poll.register(self._timer.fileno(), select.POLLIN)
        self._tenure = tenure.Tenure(
            timing=orders.timing,
            stop_signal=orders.stop_signal,
            stop_timeout_ns=orders.stop_timeout_ns,
            on_loss=orders.on_loss,
            campaign_timeout_ns=orders.campaign_timeout_ns,
            signal_group=orders.signal_group,
            remap_exits=orders.remap_exits,
            now_ns=linux.boottime_ns(),
            has_child=orders.path is not None,
        )

    def run(self) -> int:
        """Serve until tenure says that it is over, and return the exit code."""
        self._step(tenure.Woke())
        while self._exit_code is None:
            self._timer.set(self._wake_at_ns())
            ready = {fd for fd, _ in self._poll.poll(self._patience_ms())}
            if self._timer.fileno() in ready:
                self._timer.clear()
            # A request to stop goes before a grant that is waiting, and grants before anything
            # for which the time matters: after a pause of our own they may extend it.
            arrived = self._signals.receive() if self._signals.fileno() in ready else []
            self._take_stop_signals(arrived)
            if self._elector:
                self._listen(self._elector)
            self._take_other_signals(arrived)
            if self._keeper and self._keeper.channel.fileno() in ready:
                self._listen(self._keeper)
            if self._taking_over:
                self._sweep()
            self._step(tenure.Woke())
            self._keep_spare()
            self._keep_server()
            self._report()
            if self._terminal and self._stop_job_by:
                self._stop_job(self._terminal, self._stop_job_by)
        self._leave()
        return self._exit_code

    # --- what arrives ---

    def _step(self, event: tenure.Event) -> None:
        if self._exit_code is None:
            for effect in self._tenure.step(event, linux.boottime_ns()):
                self._carry_out(effect)

    def _wake_at_ns(self) -> int | None:
        times = [self._tenure.wake_at_ns]
        if self._service and not self._server_pid:
            times.append(self._server_from_ns)
        return min((at_ns for at_ns in times if at_ns is not None), default=None)

    def _patience_ms(self) -> int | None:
        """How long to wait for something to happen besides the timer."""
        if self._more_to_reap:
            return 0
        return _SWEEP_PAUSE_MS if self._taking_over else None

    def _take_stop_signals(self, arrived: list[int]) -> None:
        for signum in arrived:
            if self._is_stop(signum):
                if signum == signal.SIGINT:
                    self._interrupts += 1
                kill = signum == signal.SIGINT and self._interrupts > 1
                # A rule for this very signal goes before the stop signal, which may have its own.
                rewritten = signum in self._orders.rewrite_signals
                send = signum if rewritten else self._orders.stop_signal
                self._step(tenure.StopAsked(signum, send, kill))

    def _take_other_signals(self, arrived: list[int]) -> None:
        flooded = len(arrived) >= linux.SIGNALS_AT_ONCE
        if signal.SIGCHLD in arrived or self._more_to_reap or flooded:
            self._reap()
        for signum in arrived:
            own = signum in _OWN_SIGNALS and signum not in self._orders.rewrite_signals
            if not self._is_stop(signum) and not self._is_for_job(signum) and not own:
                self._step(tenure.SignalArrived(signum))

    def _is_stop(self, signum: int) -> bool:
        return signum in _STOP_SIGNALS or signum == self._orders.stop_signal

    def _listen(self, peer: _Peer) -> None:
        try:
            messages = peer.channel.receive()
        except ChannelClosed:
            # Its end will be reaped; until then there is nothing to hear.
            self._unregister(peer)
            return
        for _, fd in messages:
            if fd is not None:
                os.close(fd)  # nobody has any to send us
        # Grants are absolute, so that the newest says all that the older ones do. It goes first:
        # after a pause of our own, time must not count before the renewals of that time.
        grants = [message for message, _ in messages if isinstance(message, wire.GrantSent)]
        for grant in reversed(grants):
            self._take(grant)
        for message, _ in messages:
            if not isinstance(message, wire.GrantSent):
                self._take(message)

    def _take(self, message: Message) -> None:
        match message:
            case wire.Opened(lock=lock, namespace=namespace):
                self._opened_lock(lock, namespace)
            case wire.Refused(message=text):
                self._refused(text)
            case wire.GrantSent():
                self._count("grants")
                self._step(tenure.Granted(_grant(message)))
            case wire.LostSent(generation=generation, token=token, reason=reason):
                self._step(tenure.LeadershipLost(generation, Token(token), reason))
            case wire.StandingSent():
                self._step(tenure.Stood())
            case wire.ReleasedSent(generation=generation, token=number, retired=retired):
                token_ = None if number is None else Token(number)
                self._step(tenure.Released(generation, token_, retired))
            case wire.Beat(generation=generation):
                if self._elector:
                    self._elector.channel.send(wire.BeatAnswered())
                self._step(tenure.ElectorHeard(generation))
            case wire.Pong():
                self._step(tenure.KeeperHeard())
            case wire.ChildStarted(pid=pid):
                self._know_child(pid)
                self._count("child_starts")
                self._log.info("child started", pid=pid, command=self._orders.argv[0])
            case wire.ChildNotStarted(errno=errno):
                self._not_started(errno)
            case wire.ChildStopped(pid=pid, signum=signum):
                if self._terminal:
                    self._child_stopped(self._terminal, pid, signum)
            case wire.ChildStatus(status=status):
                self._take_terminal_back(ended_by_itself=status & 0x7F == 0)
                try:
                    code = exits.from_wait_status(status)
                except (ValueError, OverflowError):  # no status that a kernel gives
                    code = exits.INTERNAL
                if self._reports:
                    self._reports.ours.send(wire.ChildExited(code))
                self._step(tenure.ChildEnded(code))
            case _:
                self._log.error("unexpected message", message=type(message).__name__)

    def _opened_lock(self, lock: str, namespace: str) -> None:
        self._lock = lock
        self._namespace = namespace
        if self._opened:
            return
        self._opened = True
        timing = self._orders.timing
        self._log.info(
            "campaigning",
            election=self._orders.election,
            identity=self._orders.identity,
            lock=lock,
            lease_duration=seconds(timing.lease_duration_ns),
            renew_deadline=seconds(timing.renew_deadline_ns),
            retry_period=seconds(timing.retry_period_ns),
            grace_on_loss=seconds(timing.grace_on_loss_ns),
            stop_timeout=seconds(self._orders.stop_timeout_ns),
        )

    def _refused(self, text: str) -> None:
        if self._opened:
            # It worked before: whatever is wrong now may be mended, as any trouble with the API.
            self._log.error("the lock cannot be opened any more", reason=text)
            return
        self._fatal = text
        self._exit_code = exits.USAGE

    def _not_started(self, errno: int | None) -> None:
        if errno is None:
            self._log.warning("child not started: its time was over before it began")
            self._step(tenure.NotStarted())
            return
        code = exits.from_exec_errno(errno)
        try:
            reason = os.strerror(errno)
        except OverflowError:
            reason = f"error {errno}"
        self._fatal = f"cannot execute {self._orders.argv[0]!r}: {reason}"
        self._log.error(self._fatal)
        self._step(tenure.ChildEnded(code))

    # --- the terminal ---

    def _child_stopped(self, ours: Terminal, child: int, signum: int) -> None:
        """Make the child's stop one of our job, or undo what nobody could undo.

        Whoever touched the terminal while it was our job's gets it. SIGSTOP may be the child's own
        wish or an operator's: it stops the job only while the child has the terminal, which nobody
        could use otherwise.
        """
        if signum not in terminal.STOP_SIGNALS or not linux.is_stopped(child):
            return  # somebody was faster
        if self._child is None:
            self._know_child(child)  # stopped before it was executed
        if signum in terminal.BACKGROUND_SIGNALS and ours.lend(child):
            self._tell_keeper(_CONTINUE)
        elif self._tenure.state is tenure.State.RUNNING and ours.has_shell():
            if signum != signal.SIGSTOP:
                self._stop_job_by = signum
            elif ours.is_with(child):
                self._stop_job_by = signal.SIGTSTP
        elif signum == signal.SIGTSTP:
            self._tell_keeper(_CONTINUE)

    def _is_for_job(self, signum: int) -> bool:
        """Take a signal that is about the job, or say that it is one like any other."""
        ours = self._terminal
        if ours is None:
            return False
        match signum:
            case signal.SIGTSTP if signum not in self._orders.rewrite_signals:
                # Ctrl-Z while the terminal is ours.
                if not ours.has_shell():
                    pass  # as the kernel has it
                elif self._keeper is None:
                    self._stop_job_by = signum
                elif self._tenure.state is tenure.State.RUNNING:
                    # If that stops the child, the keeper will tell.
                    self._tell_keeper(wire.Signal(signum, tenure.Scope.GROUP.value, stop=False))
                return True
            case signal.SIGCONT if signum not in self._orders.rewrite_signals:  # `fg` or `bg`
                self._job_continued(ours)
                return True
            case signal.SIGHUP if self._keeper is None and ours.is_gone():
                # Nobody would ever see or end a standby whose terminal is gone.
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    self._step(tenure.StopAsked(signum, signum, kill=False))
                return True
        return False

    def _job_continued(self, ours: Terminal) -> None:
        was_stopped, self._job_was_stopped = self._job_was_stopped, False
        if self._child is None:
            return
        child, _ = self._child
        if ours.is_lent:
            ours.lend(child)
        if was_stopped or linux.is_stopped(child):
            self._tell_keeper(_CONTINUE)

    def _stop_job(self, ours: Terminal, signum: int) -> None:
        """Stop, as the shell that waits for us expects, until it continues us.

        Between two turns, so that what has arrived meanwhile is heard before the time counts.
        Deadlines hold without us: the keeper kills the tree at its own, and the elector stops
        renewing and kills us when we are silent for too long. Whoever is to stop for good is not
        stopped by the way.
        """
        self._stop_job_by = None
        may_stop = self._tenure.state in {tenure.State.IDLE, tenure.State.RUNNING}
        must_end = any(self._is_stop(each) for each in signal.sigpending())
        if not may_stop or must_end or self._taking_over:
            return
        if self._keeper and not (self._child and linux.is_stopped(self._child[0])):
            return  # it was continued, or has ended
        since_ns = linux.boottime_ns()
        if self._tenure.grant:
            silence_ns = self._orders.timing.silence_bound_ns - self._orders.timing.heartbeat_ns
            left_ns = min(self._tenure.kill_at_ns - since_ns, silence_ns)
            self._log.warning(
                "stopped: leadership is lost and the tree killed unless continued",
                within=seconds(left_ns),
            )
        if self._child:
            ours.take_back(self._child[0])
        self._job_was_stopped = ours.stop_job(signum)
        if self._job_was_stopped:
            now_ns = linux.boottime_ns()
            self._tenure.resumed(now_ns)
            self._log.info("continued", after=seconds(now_ns - since_ns))
        elif signum not in terminal.BACKGROUND_SIGNALS:  # these would stop it again at once
            self._job_was_stopped = True
            self._job_continued(ours)

    def _take_terminal_back(self, *, ended_by_itself: bool) -> None:
        """Have the terminal again after the child, so that a standby can be interrupted."""
        if not self._terminal:
            return
        taken = self._terminal.take_back(self._child[0] if self._child else 0)
        if taken and not ended_by_itself:
            self._terminal.restore_modes()

    # --- processes ---

    def _reap(self) -> None:
        elector = self._elector
        if elector and _has_ended(elector.pidfd):
            # Before it is reaped, so that the number of its group is still its own.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(elector.pid, signal.SIGKILL)
        reaped = linux.reap()
        self._more_to_reap = reaped.more
        for pid, status in reaped.ended:
            self._strangers.discard(pid)
            if self._elector and pid == self._elector.pid:
                self._elector_ended()
            elif self._keeper and pid == self._keeper.pid:
                self._keeper_ended(status)
            elif self._spare and pid == self._spare[0].pid:
                self._drop_spare()
            elif pid == self._server_pid:
                self._server_pid = None
                self._log.error("the server died", status=exits.from_wait_status(status))

    def _elector_ended(self) -> None:
        elector = self._elector
        if elector is None:
            return
        generation = self._elector_generation
        self._listen(elector)  # what it sent before it died is still true
        self._unregister(elector)
        elector.close()
        self._elector = None
        self._step(tenure.ElectorEnded(generation))

    def _keeper_ended(self, status: int) -> None:
        keeper = self._keeper
        if keeper is None:
            return
        self._listen(keeper)
        self._unregister(keeper)
        keeper.close()
        self._keeper = None
        if self._taking_over:
            return
        if status == 0:
            self._tree_ended()
        elif os.WIFEXITED(status) and os.WEXITSTATUS(status) == UNPROVEN:
            self._taking_over = True  # what it could not see has fallen to us, if we are PID 1
        else:
            self._log.error("the keeper died", status=exits.from_wait_status(status))
            self._step(tenure.KeeperDied())

    def _spared(self) -> frozenset[int]:
        ours = {self._elector.pid if self._elector else 0, self._server_pid or 0}
        return frozenset(ours | self._strangers)

    def _sweep(self) -> None:
        """Kill what fell to us; when none is left but elector and server, the tree is dead.

        The list of children is exact, because only this thread forks and reaps, and every process
        of the tree has an ancestor in it. One pass a turn: the elector must hear from us.
        """
        try:
            swept = linux.kill_sweep(self._spared())
        except OSError:
            return  # out of descriptors or memory: what is left is not known
        self._reap()
        if not swept and self._keeper is None:
            self._taking_over = False
            self._tree_ended()

    def _tree_ended(self) -> None:
        if self._proof_fd is not None:
            os.close(self._proof_fd)
            self._proof_fd = None
        # Of a child that we were never told of, only its death shows that it is nobody's now.
        self._take_terminal_back(ended_by_itself=False)
        self._drop_child()
        self._step(tenure.TreeEnded())

    def _unregister(self, peer: _Peer) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._poll.unregister(peer.channel.fileno())

    def _fork_elector(self, generation: int) -> None:
        ours, theirs = wire.pair()
        self._elector_generation = generation
        try:
            pid = os.fork()
        except OSError as error:
            self._log.error("cannot fork the elector", error=str(error))
            self._step(tenure.ElectorEnded(generation))
            return
        if pid == 0:
            ours.close()
            seat = ElectorSeat(
                theirs,
                self._pidfd,
                self._proof_fd,
                generation,
                self._tenure.grant,
                self._reports.ours if self._reports else None,
                self._nice,
            )
            self._forked("leaderexec-elec", lambda: self._run_elector(seat))
        self._count("elector_starts")
        theirs.close()
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        self._elector = _Peer(pid, ours)
        self._poll.register(ours.fileno(), select.POLLIN)

    def _keep_server(self) -> None:
        """See to it that a server runs; one that dies again and again is no hurry."""
        now_ns = linux.boottime_ns()
        service, reports = self._service, self._reports
        if not service or not reports or self._server_pid or now_ns < self._server_from_ns:
            return
        self._server_from_ns = now_ns + SECOND_NS
        guardian = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._log.error("cannot fork the server", error=str(error))
            return
        if pid == 0:
            seat = ServerSeat(reports.theirs, self._pidfd)

            def serve() -> None:
                # One that hangs must not keep the port from our successor either.
                linux.die_with_parent(guardian)
                linux.be_ordinary(self._nice)
                service.run(seat)

            self._forked(SERVER_NAME, serve)
        self._server_pid = pid
        reports.forget()

    def _report(self) -> None:
        if not self._reports:
            return
        grant = self._tenure.grant
        self._reports.tell(
            state=self._tenure.state.value,
            elector_is_alive=self._elector is not None,
            lock=self._lock,
            namespace=self._namespace,
            token=grant.token if grant else None,
            transitions=grant.claim.transitions if grant else None,
            renew_by_ns=self._tenure.renew_by_ns,
            keeper_pid=self._keeper.pid if self._keeper else None,
            child_pid=self._child[0] if self._child else None,
        )

    def _count(self, what: str) -> None:
        if self._reports:
            self._reports.totals[what] += 1

    def _fork_keeper(self) -> None:
        """Fork a keeper ahead of its use: a handover should not wait for it."""
        ours, theirs = wire.pair()
        reading_fd, proof_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            pid = os.fork()
        except OSError as error:
            self._log.error("cannot fork a keeper", error=str(error))
            for fd in (reading_fd, proof_fd):
                os.close(fd)
            ours.close()
            theirs.close()
            return
        if pid == 0:
            ours.close()

            def keep() -> int:
                return Keeper(
                    channel=theirs,
                    guardian_pidfd=self._pidfd,
                    proof_fd=proof_fd,
                    is_subreaper=linux.become_subreaper(),
                    spec=self._child_spec(),
                    log=self._log.bind(role="keeper"),
                ).run()

            self._forked(KEEPER_NAME, keep)
        theirs.close()
        os.close(proof_fd)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        self._spare = (_Peer(pid, ours), reading_fd)

    def _keep_spare(self) -> None:
        """See to it that a keeper waits while we stand by; one that dies is no hurry."""
        now_ns = linux.boottime_ns()
        idle = self._tenure.state is tenure.State.IDLE and self._orders.path is not None
        if idle and self._spare is None and now_ns >= self._spare_from_ns:
            self._spare_from_ns = now_ns + SECOND_NS
            self._fork_keeper()

    def _drop_spare(self) -> None:
        if self._spare:
            keeper, reading_fd = self._spare
            keeper.close()
            os.close(reading_fd)
            self._spare = None

    def _start_tree(self, effect: tenure.StartTree) -> None:
        self._fatal = ""
        if self._spare is None:
            self._fork_keeper()
        if self._spare is None:
            self._tree_ended()
            return
        self._keeper, self._proof_fd = self._spare
        self._spare = None
        channel = self._keeper.channel
        self._poll.register(channel.fileno(), select.POLLIN)
        if self._terminal:
            self._terminal.remember_modes()
        # An elector that does not know the keeper could give the lock back while it lives.
        if self._elector and self._elector.channel.send(wire.KeeperForked(), self._proof_fd):
            grant = effect.grant
            channel.send(
                wire.Go(
                    effect.stop_at_ns,
                    effect.kill_at_ns,
                    self._namespace,
                    grant.token,
                    grant.claim.transitions,
                )
            )
        else:
            self._log.warning("child not started: the elector does not listen")
            channel.hang_up()

    def _forked(self, name: str, body: Callable[[], int | None]) -> NoReturn:
        """Run a forked process's life, in a process group of its own, and never return.

        What `body` returns is its exit code, 0 for nothing.
        """
        code = 125
        try:
            os.setpgid(0, 0)
            linux.name_process(name)
            linux.be_prompt()
            self._signals.close()
            self._timer.close()
            if self._service and name != SERVER_NAME:
                # Whoever outlives us must not keep the port from our successor.
                for listener in self._service.listeners:
                    listener.close()
            for peer in (self._elector, self._keeper, self._spare and self._spare[0]):
                if peer:
                    peer.channel.close()
            code = body() or 0
        except BaseException as error:  # noqa: BLE001 - the last frame of this process
            self._log.error(
                "internal error", process=name, error=f"{type(error).__name__}: {error}"
            )
        finally:
            os._exit(code)

    def _child_spec(self) -> ChildSpec:
        if self._orders.path is None:
            raise AssertionError("a keeper without a command")
        return ChildSpec(
            path=self._orders.path,
            argv=self._orders.argv,
            env={
                # A variable without a name could not be passed on by exec.
                **{name: value for name, value in self._orders.environ.items() if name},
                "LEADER_ELECTION": self._orders.election,
                "LEADER_IDENTITY": self._orders.identity,
            },
            nice=self._nice,
            no_new_privs=os.geteuid() != 0 and not self._orders.allow_privilege_escalation,
            terminal_of=self._terminal.group if self._terminal and self._terminal.is_lent else None,
            tells_stops=self._terminal is not None,
            group=self._group,
            ignores_chld=self._chld_was_ignored,
        )

    # --- what tenure decides ---

    def _carry_out(self, effect: tenure.Effect) -> None:
        match effect:
            case tenure.StartElector(generation=generation):
                self._fork_elector(generation)
            case tenure.KillElector():
                if self._elector:
                    self._elector.kill()
            case tenure.StartTree():
                self._start_tree(effect)
            case tenure.SignalTree(signum=signum, scope=scope, stop=stop):
                if send := self._orders.rewrite_signals.get(signum, signum):
                    self._tell_keeper(wire.Signal(send, scope.value, stop))
            case tenure.SetDeadline(kill_at_ns=kill_at_ns):
                self._tell_keeper(wire.Deadline(kill_at_ns))
            case tenure.KillTree():
                self._kill_child()
                self._tell_keeper(wire.Kill())
            case tenure.PingKeeper():
                self._tell_keeper(wire.Ping())
            case tenure.TakeOver():
                self._take_over()
            case tenure.AskRelease(token=token, retire=retire):
                if self._elector:
                    self._elector.channel.send(wire.TreeIsGone(token, retire))
            case tenure.End(exit_code=exit_code, failure=failure):
                self._exit_code = exit_code
                self._fatal = self._fatal or failure
            case tenure.Note(level=level, event=event, fields=fields):
                getattr(self._log, level)(event, **fields)
            case _:
                assert_never(effect)

    def _kill_child(self) -> None:
        """Kill the child's group in one call: on a starved processor the keeper may be late.

        While the child is alive its number names no other group.
        """
        if self._child and not _has_ended(self._child[1]):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child[0], signal.SIGKILL)

    def _know_child(self, pid: int) -> None:
        self._drop_child()
        with contextlib.suppress(OSError, OverflowError):
            self._child = (pid, os.pidfd_open(pid))

    def _drop_child(self) -> None:
        if self._child:
            os.close(self._child[1])
            self._child = None

    def _tell_keeper(self, message: Message) -> None:
        if self._keeper:
            self._keeper.channel.send(message)

    def _take_over(self) -> None:
        """Kill the keeper and everything that falls to us with its death.

        As PID 1 of a namespace one call kills every process in it at once; that takes the elector
        along, which is started anew.
        """
        self._log.warning("killing the tree without its keeper")
        if self._keeper:
            if not self._is_subreaper:
                linux.kill_below(self._keeper.pid)
            self._keeper.kill()
        if self._is_init:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(-1, signal.SIGKILL)
        self._taking_over = True

    # --- the end ---

    def _leave(self) -> None:
        """Let the elector end, then see to it that nothing of ours is left."""
        if self._elector:
            until_ns = linux.boottime_ns() + _LEAVE_NS // 2
            waiting = select.poll()
            waiting.register(self._elector.pidfd, select.POLLIN)
            left_ms = max(0, until_ns - linux.boottime_ns()) // 1_000_000
            waiting.poll(left_ms if self._exit_code != exits.USAGE else 0)
        until_ns = linux.boottime_ns() + _LEAVE_NS
        waiting = select.poll()
        waiting.register(self._signals.fileno(), select.POLLIN)
        while linux.boottime_ns() < until_ns and linux.kill_sweep(frozenset(self._strangers)):
            for pid, _ in linux.reap().ended:
                self._strangers.discard(pid)
            waiting.poll(_SWEEP_PAUSE_MS)
            self._signals.receive()
        if self._group:
            self._group.remove()
        if self._fatal:
            log.die_in_one_line(self._fatal)


def _grant(message: wire.GrantSent) -> Grant:
    return Grant(
        generation=message.generation,
        token=Token(message.token),
        uid=message.uid,
        claim=Claim(message.holder, message.acquire_time_us, message.transitions),
        renewed_at_ns=message.renewed_at_ns,
        expires_at_ns=message.expires_at_ns,
    )


def _has_ended(pidfd: int) -> bool:
    ready = select.poll()
    ready.register(pidfd, select.POLLIN)
    return bool(ready.poll(0))
