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
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Generator

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
    """A plugin of pytest that fails a test that leaves anything behind, unless it failed before."""

    def __init__(self) -> None:
        self._allowed: set[str] = set()
        self._has_failed = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, None, None]:
        """Take what there is before a test as given."""
        self._allowed = running()
        self._has_failed = False
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[object]
    ) -> Generator[None, object, object]:
        """Let a fixture that serves several tests keep what it makes."""
        before = running() if fixturedef.scope != "function" else None
        try:
            return (yield)
        finally:
            if before is not None:
                self._allowed |= running() - before

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self,
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note a failure: such a test may not have come to the end where it tidies up."""
        report = yield
        self._has_failed |= report.failed
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, None, None]:
        """Wait for the end of what ends by itself, and judge the rest."""
        result = yield
        if not self._has_failed:
            wait_until(
                lambda: not (running() - self._allowed),
                timeout_s=_PATIENCE_S,
                what=lambda: (
                    f"the test leaves behind {', '.join(sorted(running() - self._allowed))}"
                ),
            )
        return result
