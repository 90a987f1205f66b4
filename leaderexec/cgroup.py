"""One control group for one tree, where the container owns a writable cgroup v2.

Owns the group's directory, entering it and killing all that is in it by one write (cgroup.kill,
Linux 5.14). It is a second way to the same end, and never the proof of it: that is the keeper's.
Must not know when to kill.

Only in a cgroup namespace of our own, whose root is ours, and only as PID 1: elsewhere the groups
belong to whoever manages the machine, and what we left of them would outlive us. Most containers
see the hierarchy read-only; there is then no group, and nothing else changes.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import Final

_KILL: Final = "cgroup.kill"
_MEMBERS: Final = "cgroup.procs"
#: What /proc/self/cgroup says of the unified hierarchy to the root of a namespace.
_AT_THE_ROOT: Final = b"0::/"
#: Root and mount point of a whole cgroup v2 hierarchy in /proc/self/mountinfo (proc(5)).
_MOUNT = re.compile(rb"\S+ \S+ \S+ / (\S+) .*? - cgroup2 ")
_ESCAPED = re.compile(rb"\\([0-7]{3})")


def find() -> str | None:
    """Return where the root of our own cgroup v2 namespace is mounted, None if we have none."""
    try:
        with open("/proc/self/cgroup", "rb") as file:
            if _AT_THE_ROOT not in file.read().splitlines():
                return None
        with open("/proc/self/mountinfo", "rb") as file:
            matches = [_MOUNT.match(line) for line in file]
    except OSError:
        return None
    for match in matches:
        if match:
            escaped = _ESCAPED.sub(lambda octal: bytes([int(octal[1], 8)]), match[1])
            path = os.fsdecode(escaped)
            # The machine's own root has none: whoever is there is in no namespace of his own.
            return path if os.path.exists(f"{path}/{_KILL}") else None
    return None


class TreeGroup:
    """The group `path`, made here; raises OSError. Its descriptors close at exec."""

    def __init__(self, path: str) -> None:
        self._path = path
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(path)  # of a former life; nobody is in it, or this fails
        os.mkdir(path)
        self._fds: list[int] = []
        try:
            for name in (_KILL, _MEMBERS):
                self._fds.append(os.open(f"{path}/{name}", os.O_WRONLY | os.O_CLOEXEC))
        except OSError:  # a kernel without it, or files that are not ours to write
            self.remove()
            raise

    def enter(self) -> None:
        """Put the calling process into the group, and so whatever it will start; raise OSError."""
        os.write(self._fds[1], b"0")

    def kill(self) -> None:
        """Kill everything in the group at once, as far as the kernel has that."""
        with contextlib.suppress(OSError):
            os.write(self._fds[0], b"1")

    def remove(self) -> None:
        """Remove the group, which must be empty; one that is not stays."""
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        with contextlib.suppress(OSError):
            os.rmdir(self._path)


def make(name: str) -> TreeGroup | None:
    """Make a group for one tree at a time below our own, None where that cannot be had."""
    root = find() if os.getpid() == 1 else None
    if root is None:
        return None
    try:
        return TreeGroup(f"{root}/{name}")
    except OSError:
        return None
