"""A control group that limits how much processor time its processes get, on cgroup v1 or v2.

Owns one group: made empty, entered by what is started under `wrapper`, removed when it is empty
again. `throttled` proves that a limit took effect.
"""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from pathlib import Path
from typing import Self

from tests.support.wait import wait_until

_PERIOD_US = 100_000
_ROOT = Path("/sys/fs/cgroup")


class NoCgroup(Exception):
    """This machine or this user cannot limit processor time."""


class CpuGroup:
    """A group of processes whose processor time can be limited, as root only."""

    def __init__(self) -> None:
        name = f"leaderexec-test-{uuid.uuid4().hex[:8]}"
        self._v2 = (_ROOT / "cgroup.controllers").exists()
        self.path = (_ROOT if self._v2 else _ROOT / "cpu") / name

    def __enter__(self) -> Self:
        """Make the group."""
        try:
            if self._v2 and "cpu" not in (_ROOT / "cgroup.subtree_control").read_text():
                (_ROOT / "cgroup.subtree_control").write_text("+cpu")
            self.path.mkdir()
            self.limit(100)
        except OSError as error:
            raise NoCgroup(str(error)) from error
        return self

    def __exit__(self, *_: object) -> None:
        """Lift the limit, kill what is left, and remove the group once it is empty."""
        self.limit(1000)
        for pid in (self.path / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        wait_until(
            lambda: not (self.path / "cgroup.procs").read_text(),
            timeout_s=30,
            what="the group is empty",
        )
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def limit(self, percent: int) -> None:
        """Allow this much of one processor."""
        quota_us = _PERIOD_US * percent // 100
        if self._v2:
            (self.path / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}")
        else:
            (self.path / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (self.path / "cpu.cfs_quota_us").write_text(str(quota_us))

    @property
    def wrapper(self) -> list[str]:
        """What to put before a command so that it starts inside."""
        return ["sh", "-c", f'echo $$ > {self.path}/cgroup.procs && exec "$@"', "sh"]

    @property
    def throttled(self) -> int:
        """In how many periods the limit took effect so far."""
        for line in (self.path / "cpu.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "nr_throttled":
                return int(value)
        raise NoCgroup(f"{self.path} has no statistics (pid {os.getpid()})")
