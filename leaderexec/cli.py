"""The command: reads what the user wants, puts the parts together, and turns the end into a code.

Owns the composition and nothing else: which lock, which elector, which guardian.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from typing import TYPE_CHECKING, NoReturn

from leaderexec import __version__, config, exits, linux, log, tenure
from leaderexec.elector import Candidacy, Elector, LockRefused
from leaderexec.guardian import KEEPER_NAME, ElectorSeat, Guardian, Orders

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from leaderexec.config import Config
    from leaderexec.locks.base import Lock
    from leaderexec.log import Log


def main() -> NoReturn:
    """Run the command `leaderexec` and exit with its code."""
    linux.hold_standard_descriptors()
    code = run(sys.argv[1:], os.environ.copy())
    with contextlib.suppress(AttributeError, OSError):  # closed, or nobody reads it any more
        sys.stdout.flush()
    # Nothing is left to tidy up, and taking an interpreter apart costs the processor just when the
    # next leader needs it.
    os._exit(code)


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Do what `argv` says and return the exit code."""
    try:
        parsed = config.parse(argv, environ)
        match parsed:
            case config.HelpRequested():
                print(config.help_text(shutil.get_terminal_size().columns))  # noqa: T201
                return exits.OK
            case config.VersionRequested():
                print(f"leaderexec {__version__}")  # noqa: T201
                return exits.OK
        if not linux.proc_is_ours():
            raise config.UsageError(
                "/proc: it shows another PID namespace, where processes have other numbers; "
                "accepted: a /proc mounted inside, as by unshare --mount-proc"
            )
        path = config.resolve_command(parsed.command[0], environ.get("PATH"))
        _check_lock(parsed)
    except config.UsageError as error:
        log.die_in_one_line(str(error))
        return exits.USAGE
    except config.CommandError as error:
        log.die_in_one_line(str(error))
        return error.exit_code
    try:
        return _serve(parsed, path, environ)
    except Exception as error:  # noqa: BLE001 - what is left is a defect of ours
        log.die_in_one_line(f"internal error: {type(error).__name__}: {error}")
        return exits.INTERNAL


def _serve(settings: Config, path: str, environ: Mapping[str, str]) -> int:
    log_ = log.configure(
        level=settings.log_level, form=settings.log_format, environ=environ, role="guardian"
    )
    candidacy = Candidacy(settings.identity, settings.identity_is_generated, settings.timing)
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
    )
    return Guardian(orders, _elector_of(settings, candidacy, log_), log_).run()


def _elector_of(settings: Config, candidacy: Candidacy, log_: Log) -> Callable[[ElectorSeat], None]:
    def run_elector(seat: ElectorSeat) -> None:
        Elector(seat, candidacy, lambda: _open_lock(settings), log_).run()

    return run_elector


def _check_lock(settings: Config) -> None:
    """Refuse, before anything runs, a lock file that cannot serve."""
    if isinstance(settings.lock, config.FileLockSpec):
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
    if isinstance(settings.lock, config.FileLockSpec):
        from leaderexec.locks.file import FileLock  # noqa: PLC0415

        lock = FileLock(settings.lock.path, settings.election)
    else:
        from leaderexec.locks import kubeapi, lease  # noqa: PLC0415

        try:
            api = kubeapi.Api(
                kubeapi.Credentials(settings.in_cluster, settings.kubeconfig, settings.context)
            )
            lock = lease.LeaseLock(api, settings.namespace or api.namespace(), settings.election)
        except kubeapi.NotConfigured as error:
            raise LockRefused(str(error)) from error
    _refuse_nesting(settings.election, lock.namespace)
    return lock


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
