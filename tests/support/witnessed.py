"""Become another program as a process that the witness knows.

Connects as this process, then executes a command, which holds the connection until it dies: so a
program that knows nothing of the witness is seen from before its first instruction to its end. What
it starts without telling the witness shares the connection, which then ends with the last of them.

Owns: the way from a connection to a program, and from the tests' modules to an interpreter that
starts at once. Must not know: which program.
Like the test child it imports nothing that is slow before it is connected.
"""

from __future__ import annotations

import os
import sys

from tests.support import testchild

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def boot(module: str) -> list[str]:
    """Return the argv that runs `main` of a module with the standard library and the tests only."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    script = f"import sys; sys.path.insert(0, {root!r}); from {module} import main; main()"
    return [sys.executable, "-I", "-S", "-c", script]


def words() -> list[str]:
    """Return what makes a command known when it is put before it.

    Between the two comes a `--`, and before that may come the flags that say who it is:
    `--main`, `--role`.
    """
    return boot("tests.support.witnessed")


def connected(argv: list[str]) -> testchild.Child:
    """Return this process as the flags in `argv` and the environment identify it, connected."""
    options = testchild.Options(dict(os.environ))
    options.parse(argv)
    options.main = options.main or os.getpid()
    options.run = options.run or str(options.main)
    process = testchild.Child(options)
    process.connect(options.role, testchild.STARTED_NS)
    return process


def main() -> NoReturn:
    """Connect, and execute what follows the `--`."""
    split = sys.argv.index("--")
    process = connected(sys.argv[1:split])
    import signal  # noqa: PLC0415 - slow to import: see above

    if process._sock is not None:
        os.set_inheritable(process._sock.fileno(), True)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which this interpreter ignores
        signal.signal(number, signal.SIG_DFL)
    os.execvp(sys.argv[split + 1], sys.argv[split + 1 :])
