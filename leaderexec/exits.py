"""The exit codes of leaderexec and how a child's end becomes one of them.

Owns the numbers and the table that `--help` and the README show. It must not know who exits.
"""

from __future__ import annotations

import errno
import os
from typing import Final

OK: Final = 0
USAGE: Final = 2
LOST: Final = 75
TIMEOUT: Final = 124
INTERNAL: Final = 125
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
SIGNALED: Final = 128

#: Every exit code and what it says, in the order in which people read about them.
EXIT_CODES: Final[tuple[tuple[str, str], ...]] = (
    (
        "the child's own",
        f"the child ended by itself or after a requested stop; {SIGNALED}+n if signal n ended it",
    ),
    (str(OK), "with --wait-for-leader: some candidate leads"),
    (str(USAGE), "wrong usage: nothing was run and nothing was written"),
    (str(LOST), "leadership was lost and --on-loss is exit, whatever the child returned"),
    (
        str(TIMEOUT),
        "--timeout was reached before this candidate led, or with --wait-for-leader anybody",
    ),
    (str(INTERNAL), "internal error"),
    (str(NOT_EXECUTABLE), "COMMAND was found but cannot be executed"),
    (str(NOT_FOUND), "COMMAND was not found"),
    (f"{SIGNALED}+n", "signal n ended a candidate that was not leading, or that has no COMMAND"),
)


def from_wait_status(status: int) -> int:
    """Turn what `waitpid` reported of an ended process into an exit code: its own, or 128+n."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else SIGNALED - code


def from_exec_errno(error: int) -> int:
    """Turn the reason why a command could not be executed into an exit code, as shells do."""
    return NOT_FOUND if error in {errno.ENOENT, errno.ENOTDIR} else NOT_EXECUTABLE
