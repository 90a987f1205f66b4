"""An exec credential plugin that gives a token, or hangs and leaves a daemon behind.

Owns the script, the kubeconfig that names it, and every process it leaves: all of them end by
themselves after a bound, and with this object at the latest. `runs`, `hanging` and `daemons` prove
what it did.
Must not know: who runs it.

The daemon is in a session of its own and no descendant of the plugin, once that has ended: whoever
runs the plugin cannot end it by a process group, and finds it among its own orphans at best.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
from typing import TYPE_CHECKING, Final, Self

import yaml

from tests.support.candidate import is_gone
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from pathlib import Path

#: What is left behind ends by itself after this long.
BOUND_S: Final = 300

_API_VERSION: Final = "client.authentication.k8s.io/v1"
_SCRIPT: Final = """#!/bin/sh
cd {directory} || exit
echo $$ >> runs
if test -e hang; then
    exec 3>&1
    test -s hang || exec 3>/dev/null
    setsid sh -c 'echo $$ >> daemons; exec sleep {bound_s}' </dev/null >&3 2>/dev/null &
    exec 3>&-
    echo $$ >> hanging
    left={bound_s}
    while test -e hang && test $left -gt 0; do sleep 1; left=$((left - 1)); done
fi
printf '{{"apiVersion":"{version}","kind":"ExecCredential","status":{{"token":"%s"}}}}\\n' \\
    "$(cat {token})"
"""


class ExecPlugin:
    """A plugin in a directory of its own that prints what the file `token_path` has."""

    def __init__(self, directory: Path, token_path: Path) -> None:
        self.directory = directory / "plugin"
        self.command = self.directory / "plugin"
        self._token_path = token_path

    def __enter__(self) -> Self:
        """Write the script."""
        self.directory.mkdir()
        script = _SCRIPT.format(
            directory=shlex.quote(str(self.directory)),
            token=shlex.quote(str(self._token_path.resolve())),
            version=_API_VERSION,
            bound_s=BOUND_S,
        )
        self.command.write_text(script)
        self.command.chmod(0o755)
        return self

    def __exit__(self, *_: object) -> None:
        """End whatever it left."""
        self.go_on()
        for pid in [*self.hanging, *self.daemons]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def write_into(self, kubeconfig: Path) -> None:
        """Let the user of this kubeconfig be whom the plugin gives a token for."""
        config = yaml.safe_load(kubeconfig.read_text())
        (user,) = config["users"]
        user["user"] = {
            "exec": {
                "apiVersion": _API_VERSION,
                "command": str(self.command),
                "interactiveMode": "Never",
            }
        }
        kubeconfig.write_text(yaml.safe_dump(config))

    def hang(self, *, keep_output: bool = False) -> None:
        """Let every later run start a daemon and say nothing until `go_on`.

        With `keep_output` the daemon keeps the plugin's standard output open: whoever reads that to
        its end goes on waiting when the plugin is dead.
        """
        part = self.directory / "part"
        part.write_text("keep output\n" if keep_output else "")
        part.rename(self.directory / "hang")

    def go_on(self) -> None:
        """Let those that hang give their token within a second, and later ones at once."""
        (self.directory / "hang").unlink(missing_ok=True)

    @property
    def runs(self) -> int:
        """How often it was run."""
        return len(self._noted("runs"))

    @property
    def hanging(self) -> list[int]:
        """The pids of those that hang now."""
        return self._alive("hanging")

    @property
    def daemons(self) -> list[int]:
        """The pids of the daemons that are alive."""
        return self._alive("daemons")

    def wait_hanging(self, count: int = 1, *, timeout_s: float = 30) -> list[int]:
        """Wait until so many hang, each with a daemon, and return the pids of the daemons."""
        wait_until(
            lambda: len(self.hanging) >= count and len(self.daemons) >= count,
            timeout_s=timeout_s,
            what=f"{count} plugins hang",
        )
        return self.daemons

    def _noted(self, name: str) -> list[int]:
        with contextlib.suppress(FileNotFoundError):
            return [int(line) for line in (self.directory / name).read_text().splitlines()]
        return []

    def _alive(self, name: str) -> list[int]:
        return [pid for pid in self._noted(name) if not is_gone(pid) and self._is_ours(pid)]

    def _is_ours(self, pid: int) -> bool:
        """Whether this pid still belongs to the plugin, by where it works."""
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/{pid}/cwd") == os.path.realpath(self.directory)
        return False
