"""Control groups: limited processor time, limited memory with the OOM killer, all frozen or killed.

On cgroup v1 and v2, also where a machine has both (controllers on v1, a bare v2 beside them).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import ClassVar, Final, Self

from tests.support.candidate import is_gone
from tests.support.lacking import Lacking
from tests.support.wait import wait_until

_PERIOD_US = 100_000
_MIB: Final = 1 << 20
#: `oom_score_adj`: what the OOM killer takes first, and what it takes next if it must.
_CHOSEN: Final = 1000
_AFTER_THE_CHOSEN: Final = 800

# Takes page after page until the OOM killer has struck once, and no page after that: a second one
# might cost another process its life. The pages are those of a file in memory, which do not count
# as this process's own, so that it is not the biggest inside.
_EATER: Final = """
import mmap, os, sys
events, most = os.open(sys.argv[1], os.O_RDONLY), int(sys.argv[2])
def kills():
    words = os.pread(events, 4096, 0).split()
    return int(words[words.index(b"oom_kill") + 1])
before, page, file = kills(), b"x" * mmap.PAGESIZE, os.memfd_create("eaten")
for _ in range(most // len(page)):
    try:
        os.write(file, page)
    except OSError as error:
        if kills() == before:
            sys.exit(f"cannot take a page: {error}")
    if kills() > before:
        break
else:
    sys.exit("took all it was allowed to, and nothing was killed")
"""


def _hierarchy(controller: str) -> tuple[Path, bool]:
    """Return where a controller is mounted, and whether that is v2; without a name any v2 is."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _device, target, kind, options = line.split()[:4]
        root = Path(target)
        if kind == "cgroup2":
            with contextlib.suppress(OSError):
                controllers = (root / "cgroup.controllers").read_text().split()
                if not controller or controller in controllers:
                    return root, True
        elif kind == "cgroup" and controller and controller in options.split(","):
            return root, False
    raise Lacking(f"no cgroup with the controller {controller}" if controller else "no cgroup v2")


class Group:
    """A group of processes, as root only."""

    #: Empty for a bare group on v2.
    controller: ClassVar[str] = ""

    def __init__(self) -> None:
        self._root, self._v2 = _hierarchy(self.controller)
        self.path = self._root / f"leaderexec-test-{uuid.uuid4().hex[:8]}"

    def __enter__(self) -> Self:
        """Make the group."""
        try:
            if self._v2 and self.controller:
                control = self._root / "cgroup.subtree_control"
                if self.controller not in control.read_text().split():
                    control.write_text(f"+{self.controller}")
            self.path.mkdir()
            self._set_up()
        except OSError as error:
            with contextlib.suppress(OSError):
                self.path.rmdir()
            raise Lacking(f"cannot make {self.path}: {error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        """Lift the limit, kill what is left, and remove the group once it is empty."""
        self._lift()
        wait_until(self._sweep, timeout_s=30, what=f"{self.path} is empty")
        # A process leaves the list a little before it leaves the group.
        wait_until(self._remove, timeout_s=30, what=f"{self.path} can be removed")

    @property
    def wrapper(self) -> list[str]:
        """What to put before a command so that it starts inside."""
        return ["sh", "-c", f'echo $$ > {self.path}/cgroup.procs && exec "$@"', "sh"]

    @property
    def pids(self) -> list[int]:
        """The processes inside; those that are dead but not reaped are no longer listed."""
        return list(map(int, (self.path / "cgroup.procs").read_text().split()))

    def add(self, pid: int) -> None:
        """Move a process inside, with what it starts from now on; its memory stays where it is."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def _set_up(self) -> None:
        """Write what a new group needs."""

    def _lift(self) -> None:
        """Undo what would keep its processes from ending."""

    def _remove(self) -> bool:
        with contextlib.suppress(OSError):
            self.path.rmdir()
        return not self.path.exists()

    def _sweep(self) -> bool:
        """Kill what is inside, and say whether there was nothing."""
        pids = self.pids
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    def _number(self, file: str, key: str) -> int:
        numbers = dict(map(str.split, (self.path / file).read_text().splitlines()))
        if key not in numbers:
            raise Lacking(f"{self.path}/{file} does not tell {key}")
        return int(numbers[key])


class CpuGroup(Group):
    """A group whose processor time can be limited."""

    controller = "cpu"

    def limit(self, percent: int) -> None:
        """Allow this much of one processor."""
        quota_us = _PERIOD_US * percent // 100
        if self._v2:
            (self.path / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}")
        else:
            (self.path / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (self.path / "cpu.cfs_quota_us").write_text(str(quota_us))

    @property
    def throttled(self) -> int:
        """In how many periods the limit took effect so far."""
        return self._number("cpu.stat", "nr_throttled")

    def _set_up(self) -> None:
        self.limit(100)

    def _lift(self) -> None:
        self.limit(1000)


class FreezeGroup(Group):
    """A group on v2, with controllers or without, whose processes the kernel can freeze."""

    @property
    def frozen(self) -> bool:
        """Whether every process inside has come to a halt."""
        return self._number("cgroup.events", "frozen") == 1

    def freeze(self) -> None:
        """Freeze what is inside."""
        (self.path / "cgroup.freeze").write_text("1")

    def thaw(self) -> None:
        """Let it go on."""
        (self.path / "cgroup.freeze").write_text("0")

    def _lift(self) -> None:
        self.thaw()


class MemoryGroup(Group):
    """A group with `limit_mib` of memory and no swap; what wants more is killed by the kernel.

    A child that eats (`--eat`) under `wrapper` dies of its own appetite. `oom_kill` has the
    OOM killer choose a process that does not, such as the elector, at an instant of the test's.
    """

    controller = "memory"

    def __init__(self, limit_mib: int = 64) -> None:
        super().__init__()
        self.limit_mib = limit_mib

    @property
    def oom_kills(self) -> int:
        """How many processes the OOM killer has killed inside so far."""
        return self._number(self._events, "oom_kill")

    def oom_kill(self, pid: int) -> None:
        """Have the OOM killer choose exactly this process, and wait until it is dead.

        It is moved inside, alone: its memory stays outside, so that the next one would be chosen
        too. Another process then takes what memory is left.
        """
        assert not self.pids, f"others are inside: {self.pids}"
        self.add(pid)
        before = self.oom_kills
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(_CHOSEN))
        eaters = self._eat(_AFTER_THE_CHOSEN)
        wait_until(lambda: is_gone(pid), timeout_s=30, what=f"{pid} is killed for its memory")
        killed = self.oom_kills - before - eaters
        assert killed == 1, f"{killed} were killed for their memory, not one"

    def oom_kill_all(self) -> str:
        """Let the group run out of memory so that all inside die; return how that was done.

        On v2 the kernel does it (`memory.oom.group`, which Kubernetes sets for a container). On v1
        it cannot: there the OOM killer kills one process, and the others are killed right after it,
        as when a container ends with its PID 1.
        """
        assert self.pids, "nothing runs inside"
        before = self.oom_kills
        if self._v2:
            (self.path / "memory.oom.group").write_text("1")
        self._eat()
        dead = (lambda: not self.pids) if self._v2 else self._sweep
        wait_until(dead, timeout_s=30, what=f"all in {self.path} are dead")
        assert self.oom_kills > before, "nothing was killed for its memory"
        return "memory.oom.group" if self._v2 else "an OOM kill of one, then SIGKILL for the others"

    def _set_up(self) -> None:
        limit = self.limit_mib * _MIB
        if self._v2:
            files = {"max": limit, "swap.max": 0}
        else:
            files = {"limit_in_bytes": limit, "swappiness": 0, "memsw.limit_in_bytes": limit}
        for name, value in files.items():
            path = self.path / f"memory.{name}"
            if path.exists() or "sw" not in name:  # swap is not counted everywhere
                path.write_text(str(value))
        _ = self.oom_kills  # it can be read

    @property
    def _events(self) -> str:
        return "memory.events" if self._v2 else "memory.oom_control"

    def _eat(self, score: int = 0) -> int:
        """Take the memory that is left until something is killed; return 1 if that was the eater.

        What a dead process had may be given back only after the kernel has looked for the next one:
        with a high `score` that is the eater, rather than another process.
        """
        scored = ["sh", "-c", f'echo {score} > /proc/self/oom_score_adj && exec "$@"', "sh"]
        eater = [sys.executable, "-I", "-S", "-c", _EATER, str(self.path / self._events)]
        most = str((self.limit_mib + 1) * _MIB)
        result = subprocess.run([*scored, *self.wrapper, *eater, most], check=False, timeout=120)
        assert result.returncode in {0, -signal.SIGKILL}, "the memory was not used up: see stderr"
        return int(result.returncode != 0)
