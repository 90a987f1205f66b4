"""A candidate: a real leaderexec process around a test child, and a way to reach each of its parts.

Owns starting, finding, signalling and ending them. Everything it starts is ended with it, by pid,
and whatever a test left stopped is killed as it is. Which tree ran when is the witness's to say.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.support import testchild
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]

#: The shortest lawful setting, for tests that wait for a lease to end.
FAST = ("--lease-duration=5s", "--renew-deadline=2s", "--retry-period=1s")
FAST_LEASE_S = 5.0
#: Short, but with room for a loaded machine.
BRISK = ("--lease-duration=8s", "--renew-deadline=4s", "--retry-period=1s")
BRISK_LEASE_S = 8.0
#: Nobody loses a lease, and nothing that is stopped for some seconds is taken for dead.
LONG = ("--lease-duration=60s", "--renew-deadline=40s", "--retry-period=1s")

#: The flags of a test child with a descendant that is hard to find and hard to stop.
STUBBORN = ("--spawn", "setsid+emptyenv+ignore")


def _told(pid: int, name: str) -> str:
    """Return what /proc tells of a process, nothing when there is none."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/{name}").read_text()
    return ""


def state_of(pid: int) -> str:
    """Return the state letter of a process (T when stopped), empty when there is none."""
    return _told(pid, "stat").rpartition(")")[2][1:2]


def is_pending(pid: int, signum: int) -> bool:
    """Whether a process has been sent a signal and has not yet taken it."""
    masks = re.findall(r"S[ih][gd]Pnd:\s*(\w+)", _told(pid, "status"))
    return any(int(mask, 16) & 1 << signum - 1 for mask in masks)


def name_of(pid: int) -> str:
    """Return the name that a process has given itself."""
    return _told(pid, "comm").strip()


def parent_of(pid: int) -> int:
    """Return the parent of a process, 0 when there is none."""
    return int((_told(pid, "stat").rpartition(")")[2].split() or "00")[1])


def children_of(pid: int) -> list[int]:
    """Return the children of a process."""
    return [p for p in map(int, filter(str.isdigit, os.listdir("/proc"))) if parent_of(p) == pid]


def is_gone(pid: int) -> bool:
    """Whether a process is dead, reaped or not."""
    return state_of(pid) in {"", "Z", "X"}


@dataclass
class Candidate:
    """One leaderexec: `options` before the command, `command` after the `--`; none only elects.

    `wrapper` is put in front of it (`unshare ...`); the guardian is then found below it.
    """

    name: str
    options: Sequence[str]
    command: Sequence[str]
    directory: Path
    env: Mapping[str, str] = field(default_factory=dict)
    wrapper: Sequence[str] = ()
    stdin: int = subprocess.DEVNULL
    stderr: int | None = None
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it; its standard error goes to `log_path` unless `stderr` is a descriptor."""
        # Only what a test says: nothing of the machine's own configuration.
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(self.directory)}
        for name in ("COVERAGE_PROCESS_START", "COVERAGE_FILE"):
            if name in os.environ:
                env[name] = os.environ[name]
        with self.log_path.open("ab") as log, self.output_path.open("ab") as output:
            self._process = subprocess.Popen(
                [*self.argv(), *(["--", *self.command] if self.command else [])],
                env={**env, **self.env},
                stdin=self.stdin,
                stdout=output,
                stderr=log if self.stderr is None else self.stderr,
                cwd=self.directory,
                start_new_session=True,
            )
        return self

    def argv(self) -> list[str]:
        """Return how it is started, as far as its command."""
        return [*self.wrapper, sys.executable, "-m", "leaderexec", *self.options]

    @property
    def log_path(self) -> Path:
        """Where its standard error goes."""
        return self.directory / f"{self.name}.log"

    @property
    def output_path(self) -> Path:
        """Where its standard output goes."""
        return self.directory / f"{self.name}.out"

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self.log_path.read_text(errors="replace")

    @property
    def output(self) -> str:
        """What its child has said so far."""
        return self.output_path.read_text(errors="replace")

    def events(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return its log lines, or those of one event."""
        lines = []
        for line in self.log.splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
        return [x for x in lines if isinstance(x, dict) and event in {None, x.get("event")}]

    def wait_event(self, event: str, *, count: int = 1, timeout_s: float = 15) -> dict[str, Any]:
        """Wait until it has logged `event` so often, and return the last one."""
        wait_until(
            lambda: len(self.events(event)) >= count,
            timeout_s=timeout_s,
            what=f"{self.name} logs {event!r} ({count}); log:\n{self.log[-3000:]}",
        )
        return self.events(event)[-1]

    @property
    def identity(self) -> str:
        """The name it campaigns under."""
        return str(self.wait_event("campaigning")["identity"])

    @property
    def port(self) -> int:
        """The port that it serves on."""
        return int(self.wait_event("serving")["port"])

    @property
    def started(self) -> bool:
        """Whether it was started at all."""
        return self._process is not None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that was started."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process

    # --- its parts

    @property
    def guardian(self) -> int:
        """The pid of the guardian."""
        return self.wait_named("leaderexec")

    def wait_named(self, name: str) -> int:
        """Wait until a process of it has this name, and return its pid."""
        return wait_until(
            lambda: next((p for p in self.everything() if name_of(p) == name), 0),
            timeout_s=20,
            what=f"the {name} of {self.name}; log:\n{self.log[-2000:]}",
        )

    def part(self, name: str) -> int:
        """The pid of its `elec`tor, `keep`er or `http` server, waiting until there is one."""
        return self.wait_named(f"leaderexec-{name}")

    @property
    def elector(self) -> int:
        """The pid of the elector."""
        return self.part("elec")

    @property
    def keeper(self) -> int:
        """The pid of the keeper."""
        return self.part("keep")

    def everything(self) -> list[int]:
        """The pids of all that belongs to it now, the tree included."""
        return _with_all_below(self.process.pid)

    # --- what is done to it

    def signal(self, signum: int) -> None:
        """Signal the guardian."""
        os.kill(self.guardian, signum)

    def terminate(self) -> None:
        """Ask it to stop."""
        self.signal(signal.SIGTERM)

    def wait(self, timeout_s: float = 40) -> int:
        """Wait for its end and return the exit code, 128+n for a signal."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end; log:\n{self.log[-4000:]}") from None
        return code if code >= 0 else 128 - code

    def kill(self) -> None:
        """Kill it and everything below it, whatever state it is in."""
        if self._process is None or self._process.poll() is not None:
            return  # its number may be another's by now
        for pid in reversed(self.everything()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()


def _with_all_below(root: int) -> list[int]:
    """Return a pid and those of all its descendants, found in one pass: there may be hundreds."""
    below: dict[int, list[int]] = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        below.setdefault(parent_of(pid), []).append(pid)
    found = [root]
    for pid in found:
        found += below.get(pid, [])
    return found


def stop(pid: int, timeout_s: float = 10) -> None:
    """Stop a process and wait until it is: the fault has taken effect."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: state_of(pid) in {"T", "t"}, timeout_s=timeout_s, what=f"{pid} is stopped")


def resume(pid: int) -> None:
    """Continue a stopped process, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def kill(pid: int) -> None:
    """Kill a process and wait until it is dead."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_gone(pid), timeout_s=10, what=f"{pid} is dead")


def child_command(*flags: str) -> list[str]:
    """Return the command of a test child."""
    return testchild.command(*flags)


def in_pid_namespace() -> list[str]:
    """Return the wrapper that makes the guardian PID 1 of a PID namespace of its own."""
    return ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def in_cluster(directory: Path) -> list[str]:
    """Return the wrapper under which a process finds `directory` where a pod has its token."""
    target = "/run/secrets/kubernetes.io/serviceaccount"
    script = (
        "mount -t tmpfs tmpfs /run && "
        f"mkdir -p {target} && mount --bind {shlex.quote(str(directory))} {target} && "
        'exec "$@"'
    )
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


def as_user(uid: int) -> list[str]:
    """Return the wrapper under which a candidate is this user, without rights over processes.

    One right is left to it: to files whose modes would keep it out, since the interpreter and a
    test's directory may be root's alone.
    """
    rights = "-all,+dac_override"
    return [
        "setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups",
        f"--inh-caps={rights}", f"--ambient-caps={rights}", "--",
    ]  # fmt: skip
