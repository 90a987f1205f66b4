"""A process of the tests that takes orders over a socket, its standard input, and ends with it.

It goes on while a test or a candidate is stopped. It uses the standard library only.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Self

_ROOT = Path(__file__).resolve().parents[2]
_PATIENCE_S = 60  # a machine so starved that an answer takes longer proves nothing


class ControlledProcess:
    """Runs `main()` of a module of tests; use it as a context manager."""

    def __init__(self, module: str, *words: str, stdout: int | None = None) -> None:
        boot = f"import sys; sys.path.insert(0, sys.argv[1]); from {module} import main; main()"
        self._argv = [sys.executable, "-I", "-S", "-c", boot, str(_ROOT), *words]
        self._stdout = stdout
        self._unread = b""

    def __enter__(self) -> Self:
        self._control, theirs = socket.socketpair()
        self._control.settimeout(_PATIENCE_S)
        with theirs:
            self._process = subprocess.Popen(
                self._argv, stdin=theirs.fileno(), stdout=self._stdout, start_new_session=True
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """Its pid."""
        return self._process.pid

    def tell(self, line: bytes) -> None:
        """Send it a line."""
        self._control.sendall(line + b"\n")

    def hear(self) -> bytes:
        """Wait for a line from it, and return it."""
        while b"\n" not in self._unread:
            part = self._control.recv(1 << 20)
            assert part, f"{self._argv[-1]}: the process is gone"
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        return line
