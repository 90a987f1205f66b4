"""An exec credential plugin that gives a token, or hangs and leaves a daemon behind.

Owns the script, the kubeconfig that names it, and every process it leaves: all of them end by
themselves after a bound, and with this object at the latest. Must not know who runs it.

The daemon is in a session of its own and no descendant of the plugin, once that has ended, and it
keeps the plugin's standard output open: a process group does not reach it, and whatever reads that
output to its end goes on waiting.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
from typing import TYPE_CHECKING, Final, Self

import yaml

from tests.support.wait import wait_until

if TYPE_CHECKING:
    from pathlib import Path

#: What is left behind ends by itself after this long.
BOUND_S: Final = 300

_API_VERSION: Final = "client.authentication.k8s.io/v1"
_SCRIPT: Final = """#!/bin/sh
cd {directory} || exit
cat /proc/$$/environ > environ
if test -e hang; then
    setsid sh -c 'echo $$ >> daemons; exec sleep {bound_s}' </dev/null 2>/dev/null &
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
        (self.directory / "hang").unlink(missing_ok=True)
        for pid in [*self._alive("hanging"), *self.daemons]:
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

    def hang(self) -> None:
        """Let every later run start a daemon and say nothing."""
        (self.directory / "hang").touch()

    @property
    def environ(self) -> set[bytes]:
        """The environment of the last run."""
        return set((self.directory / "environ").read_bytes().split(b"\0"))

    @property
    def daemons(self) -> list[int]:
        """The pids of the daemons that are alive."""
        return self._alive("daemons")

    def wait_hanging(self, *, timeout_s: float = 30) -> list[int]:
        """Wait until one hangs and its daemon runs, and return the pids of the daemons."""
        wait_until(
            lambda: self._alive("hanging") and self.daemons,
            timeout_s=timeout_s,
            what="the plugin hangs",
        )
        return self.daemons

    def _alive(self, name: str) -> list[int]:
        """Return the noted pids that still belong to the plugin, by where they work."""
        alive = []
        with contextlib.suppress(FileNotFoundError):
            for line in (self.directory / name).read_text().splitlines():
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{line}/cwd") == os.path.realpath(self.directory):
                        alive.append(int(line))
        return alive
