"""The command: reads what the user wants, puts the parts together, and turns the end into a code.

Owns the composition and nothing else: which lock, which elector, which guardian.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NoReturn

from leaderexec import __version__, config, exits, frozen, linux, log, tenure
from leaderexec.config import (
    AnnotatedKind,
    AnnotationLockSpec,
    FileLockSpec,
    LeaseLockSpec,
    Ready,
)
from leaderexec.elector import Candidacy, Elector
from leaderexec.guardian import KEEPER_NAME, ElectorSeat, Guardian, Orders, Service
from leaderexec.locks.base import LockRefused
from leaderexec.model import SECOND_US, LockTraits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from leaderexec.config import Config, HttpSpec
    from leaderexec.guardian import ServerSeat
    from leaderexec.locks.base import Lock
    from leaderexec.locks.kubeobject import KubernetesLock
    from leaderexec.log import Log

#: How many clients may wait to be accepted, above all while a server starts.
_BACKLOG: Final = 128
#: How the kernel says that an address is none of this machine, or of a family that it lacks.
_NOT_HERE: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


def main() -> NoReturn:
    """Run the command `leaderexec` and exit with its code."""
    linux.hold_standard_descriptors()
    if not frozen.bundle():  # there the launcher has seen to it
        given = linux.given_environment()
        os.environ.clear()
        os.environ.update(given)
    code = run(sys.argv[1:], os.environ.copy(), os.getppid())
    with contextlib.suppress(AttributeError, OSError):  # closed, or nobody reads it any more
        sys.stdout.flush()
    # Nothing is left to tidy up, and taking an interpreter apart costs the processor just when the
    # next leader needs it.
    os._exit(code)


def run(argv: Sequence[str], environ: Mapping[str, str], parent: int) -> int:
    """Do what `argv` says and return the exit code; `parent` is the process that started us."""
    try:
        parsed = config.parse(argv, environ)
        match parsed:
            case config.HelpRequested():
                print(config.help_text(shutil.get_terminal_size().columns))  # noqa: T201
                return exits.OK
            case config.VersionRequested():
                print(f"leaderexec {__version__}")  # noqa: T201
                return exits.OK
            case config.InstallRequested(directory):
                from leaderexec.commands.install import install  # noqa: PLC0415 - only who asks

                return install(directory)
        if parsed.parent_death_signal is not None:
            # While this is the only thread, to whose parent the kernel looks.
            linux.die_of_parents_death(parsed.parent_death_signal, parent)
        if not linux.proc_is_ours():
            raise config.UsageError(
                "/proc: it shows another PID namespace, where processes have other numbers; "
                "accepted: a /proc mounted inside, as by unshare --mount-proc"
            )
        path = None
        if parsed.command:
            path = config.resolve_command(parsed.command[0], environ.get("PATH"))
        _check_lock(parsed)
        if parsed.wait_for_leader:
            return _wait_for_leader(parsed, environ)
        listeners = _listen(parsed.http) if parsed.http else []
    except config.UsageError as error:
        log.die_in_one_line(str(error))
        return exits.USAGE
    except config.CommandError as error:
        log.die_in_one_line(str(error))
        return error.exit_code
    except OSError as error:
        log.die_in_one_line(f"internal error: {type(error).__name__}: {error}")
        return exits.INTERNAL
    try:
        return _serve(parsed, path, environ, listeners)
    except Exception as error:  # noqa: BLE001 - what is left is a defect of ours
        log.die_in_one_line(f"internal error: {type(error).__name__}: {error}")
        return exits.INTERNAL


def _serve(
    settings: Config, path: str | None, environ: Mapping[str, str], listeners: list[socket.socket]
) -> int:
    log_ = log.configure(
        level=settings.log_level, form=settings.log_format, environ=environ, role="guardian"
    )
    # Held for as long as we live: nobody else may go by the slot's name.
    claim = linux.claim_name(settings.slot.claim) if settings.slot else None  # or it is taken
    if settings.slot and claim:
        settings = replace(settings, identity=settings.slot.identity)
    service = None
    if listeners and settings.http:
        port = listeners[0].getsockname()[1]
        environ = {**environ, **_elector_variables(settings.http.host, port)}
        service = Service(lambda seat: _serve_http(seat, settings, listeners, log_), listeners)
        log_.info("serving", host=settings.http.host, port=port)
    if path is None:
        log_.info("no COMMAND: this candidate only elects")
    orders = Orders(
        path=path,
        argv=settings.command,
        environ=environ,
        election=settings.election,
        identity=settings.identity,
        timing=settings.timing,
        stop_signal=settings.stop_signal,
        stop_timeout_ns=settings.stop_timeout_ns,
        on_loss=tenure.OnLoss(settings.on_loss.value),
        campaign_timeout_ns=settings.campaign_timeout_ns,
        signal_group=settings.signal_group,
        rewrite_signals=settings.rewrite_signals,
        remap_exits=settings.remap_exits,
        allow_privilege_escalation=settings.allow_privilege_escalation,
    )

    def run_elector(seat: ElectorSeat) -> None:
        traits = _TRAITS_2016 if isinstance(settings.lock, AnnotationLockSpec) else LockTraits()
        candidacy = Candidacy(
            identity=settings.identity,
            unique=settings.identity_is_generated,
            slot=claim is not None,
            timing=settings.timing,
            traits=traits,
        )
        Elector(seat, candidacy, lambda: _open_lock(settings), log_).run()

    return Guardian(orders, run_elector, log_, service).run()


def _wait_for_leader(settings: Config, environ: Mapping[str, str]) -> int:
    from leaderexec import waiting  # noqa: PLC0415 - only who asks for it pays for it

    log_ = log.configure(
        level=settings.log_level, form=settings.log_format, environ=environ, role="waiter"
    )
    return waiting.wait(
        lambda: _open_lock(settings), settings.timing, settings.campaign_timeout_ns, log_
    )


#: An annotation holds whole seconds, and leader-electors of 2016 wait for their own --ttl.
_TRAITS_2016: Final = LockTraits(time_unit_us=SECOND_US, peers_judge_by_own_duration=True)


def _listen(http: HttpSpec) -> list[socket.socket]:
    """Open the listening sockets, before anything runs: a port that is taken is refused.

    Of a name's addresses one that is here is enough: without IPv6 `localhost` may still have one.
    """
    listeners: list[socket.socket] = []
    port = http.port
    not_here: OSError | None = None
    try:
        if not http.host and socket.has_dualstack_ipv6():
            listeners.append(
                socket.create_server(
                    ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG
                )
            )
        else:
            found = socket.getaddrinfo(
                http.host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, address in dict.fromkeys((row[0], row[4]) for row in found):
                try:
                    listeners.append(
                        socket.create_server(
                            (str(address[0]), port, *address[2:]), family=family, backlog=_BACKLOG
                        )
                    )
                except OSError as error:
                    if error.errno not in _NOT_HERE:
                        raise
                    not_here = error
                    continue
                port = listeners[0].getsockname()[1]
        if not_here and not listeners:
            raise not_here
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise config.UsageError(
            f"--http {config.authority(http.host, http.port)}: cannot listen: "
            f"{error.strerror or error}; accepted: an address of this machine with a free port"
        ) from error
    for listener in listeners:
        listener.setblocking(False)
    return listeners


def _elector_variables(host: str, port: int) -> dict[str, str]:
    """Return what tells the child where to ask who leads: the names are NAIS's."""
    if host in {"", "0.0.0.0", "::"}:  # noqa: S104 - recognised, not bound to
        host = "localhost"
    address = config.authority(host, port)
    return {
        "ELECTOR_PATH": address,
        "ELECTOR_GET_URL": f"http://{address}/",
        "ELECTOR_SSE_URL": f"http://{address}/events",
    }


def _serve_http(
    seat: ServerSeat, settings: Config, listeners: Sequence[socket.socket], log_: Log
) -> None:
    from leaderexec import board, server  # noqa: PLC0415 - only who asks for it pays for it

    server.serve(
        channel=seat.reports,
        guardian_pidfd=seat.guardian_pidfd,
        listeners=listeners,
        board=board.Board(
            election=settings.election,
            identity=settings.identity,
            identity_is_generated=settings.identity_is_generated,
            timing=settings.timing,
            leader_only=settings.ready is Ready.LEADER,
            now=linux.now(),
        ),
        log=log_,
    )


def _check_lock(settings: Config) -> None:
    """Refuse, before anything runs, a lock file that cannot serve."""
    if isinstance(settings.lock, FileLockSpec):
        from leaderexec.locks import file  # noqa: PLC0415 - only who asks for it pays for it

        problem = file.check(settings.lock.path, settings.election)
        if problem:
            raise config.UsageError(
                f"--lock file:{settings.lock.path}: {problem}; accepted: a path in an existing, "
                "writable local directory, used by one election"
            )


def _open_lock(settings: Config) -> Lock:
    """Open the lock, on the elector's worker: this imports what the guardian never does."""
    lock: Lock
    if isinstance(settings.lock, FileLockSpec):
        from leaderexec.locks.file import FileLock  # noqa: PLC0415

        lock = FileLock(settings.lock.path, settings.election)
    else:
        from leaderexec.locks import kubeapi  # noqa: PLC0415

        try:
            api = kubeapi.Api(
                kubeapi.Credentials(settings.in_cluster, settings.kubeconfig, settings.context)
            )
            namespace = settings.namespace or api.namespace()
            lock = _kind_of(settings.lock)(api, namespace, settings.election)
        except kubeapi.NotConfigured as error:
            raise LockRefused(str(error)) from error
    if not settings.wait_for_leader:
        _refuse_nesting(settings.election, lock.namespace)
    return lock


def _kind_of(spec: LeaseLockSpec | AnnotationLockSpec) -> type[KubernetesLock]:
    if isinstance(spec, LeaseLockSpec):
        from leaderexec.locks.lease import LeaseLock  # noqa: PLC0415

        return LeaseLock
    from leaderexec.locks.annotation import ConfigMapLock, EndpointsLock  # noqa: PLC0415

    return EndpointsLock if spec.kind is AnnotatedKind.ENDPOINTS else ConfigMapLock


def _refuse_nesting(election: str, namespace: str) -> None:
    """Refuse to wait for ourselves: the tree of an ancestor runs inside the very same election.

    Our own environment tells, unless it was cleared; then that of an ancestor does.
    """
    try:
        config.refuse_nesting(election, namespace, os.environ)
        if not linux.runs_below(KEEPER_NAME):
            return
        import psutil  # noqa: PLC0415 - only a nested one pays for it

        for ancestor in psutil.Process().parents():
            with contextlib.suppress(psutil.Error):
                config.refuse_nesting(election, namespace, ancestor.environ())
    except config.UsageError as error:
        raise LockRefused(str(error)) from error


if __name__ == "__main__":
    main()
