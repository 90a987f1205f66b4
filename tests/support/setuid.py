"""A child that runs as root under a guardian that does not.

Owns a copy of `env` that is setuid root, and the proof that this machine obeys it.
Must not know: who starts it.

As root it cannot be signalled by whoever started it. A guardian without privileges therefore
forbids its tree new ones, and then the bit does nothing: the same command runs as its caller.
Copying `env` rather than compiling a program needs no compiler: it executes its arguments, and the
test child (`--become-root`) does the rest.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tests.support.candidate import as_user, child_command
from tests.support.lacking import Lacking

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Whoever starts it in the proof; nobody.
_UID: Final = 65534
_USERS: Final = (_UID, 0)  # the real and the effective one


class SetuidRoot:
    """`command` starts something as root, whoever executes it; root only."""

    def __init__(self) -> None:
        self._directory: Path | None = None

    def __enter__(self) -> Self:
        """Copy the program to a place where the bit counts, and prove that it does."""
        if os.geteuid():
            raise Lacking("only root can make a program setuid root")
        env = shutil.which("env")
        if env is None:
            raise Lacking("no env: the package coreutils has it")
        # Temporary directories are often mounted nosuid.
        for place in (tempfile.gettempdir(), "/var/tmp", "/opt", "/"):
            with contextlib.suppress(OSError):
                if os.statvfs(place).f_flag & (os.ST_NOSUID | os.ST_NOEXEC):
                    continue
                self._directory = Path(tempfile.mkdtemp(prefix="leaderexec-setuid-", dir=place))
                break
        else:
            raise Lacking("every place for it is mounted nosuid or noexec")
        try:
            self._directory.chmod(0o755)
            shutil.copyfile(env, self.path)
            self.path.chmod(0o4755)
            users = self.read()
            if users != _USERS:
                raise Lacking(f"the bit has no effect here: real and effective user {users}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the program: nobody shall find it."""
        if self._directory is not None:
            shutil.rmtree(self._directory)
            self._directory = None

    @property
    def path(self) -> Path:
        """The program."""
        assert self._directory is not None, "used outside of its context"
        return self._directory / "env"

    def command(self, *command: str) -> list[str]:
        """Return this command so that its effective user is root; the real one stays."""
        return [str(self.path), *command]

    def child_command(self, *flags: str) -> list[str]:
        """Return the command of a test child that becomes root entirely, where it is let."""
        return self.command(*child_command("--become-root", *flags))

    def read(self, prefix: Sequence[str] = ()) -> tuple[int, int]:
        """Run it as nobody, and return what real and effective user it then has."""
        script = "import os; print(os.getuid(), os.geteuid())"
        command = self.command(sys.executable, "-I", "-S", "-c", script)
        result = subprocess.run(
            [*as_user(_UID), *prefix, *command],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=60,
        )
        real, effective = map(int, result.stdout.split())
        return real, effective
