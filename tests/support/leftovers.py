"""What a test leaves behind in its own process: threads, children and descriptors.

Owns: what is counted, and what a fixture of a session or of a module may keep for the tests after
the first. A thread left behind takes the next test's signals, a child its pid, a descriptor its
end of file.
Must not know: what is tested.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

from tests.support.wait import wait_until

#: What ends by itself, such as the thread of a server that was told to, has this long.
_PATIENCE_S: Final = 5.0
#: Opened by libraries once, at their first use, for the life of the process.
_LASTING: Final = ("/dev/urandom", "anon_inode:[eventpoll]")


def running() -> set[str]:
    """Return what there is now, each in words that tell it from any other."""
    found = {f"the thread {thread.name} ({thread.ident})" for thread in threading.enumerate()}
    for task in Path("/proc/self/task").iterdir():
        # A thread may end while its name is read.
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        found |= {f"the child {pid}" for pid in children}
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # the one that lists the others
            continue
        if target not in _LASTING:
            found.add(f"the descriptor {number} of {target}")
    return found


class Leftovers:
    """Compares what there is after a test with what there was before it."""

    def __init__(self) -> None:
        self._allowed: set[str] = set()

    def begin(self) -> None:
        """Take what there is as given: a test is about to be set up."""
        self._allowed = running()

    def keep(self, before: set[str]) -> None:
        """Allow what came since `before`: a fixture that outlives the test has made it."""
        self._allowed |= running() - before

    def judge(self) -> None:
        """Raise AssertionError if the test has left anything, and does not end it soon."""
        wait_until(
            lambda: not (running() - self._allowed),
            timeout_s=_PATIENCE_S,
            what=lambda: f"the test leaves behind {', '.join(sorted(running() - self._allowed))}",
        )
