"""The lock as the election sees it: five verbs and four ways to fail.

Owns the protocol that every lock keeps and the errors it may raise; nothing above it sees an
exception of a library below. Verified by one contract suite that all locks pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leaderexec.model import Record, Snapshot


class LockError(Exception):
    """A lock operation failed; the message reads `cannot VERB LOCK: REASON`."""


class LockRefused(Exception):
    """The lock cannot be used as it is configured; the message is for the user."""


class Conflict(LockError):
    """The object changed since it was seen (or, on create, exists): read it again."""


class Absent(LockError):
    """The object to update does not exist (any more)."""


class Forbidden(LockError):
    """The server refuses: the message names the permission that is missing."""


class Unavailable(LockError):
    """No usable answer: whether a write landed is unknown.

    `retry_after_s` is the server's wish, None when it has none.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Lock(ABC):
    """One election's record in one place, changed by compare-and-swap only.

    `read`, `create`, `update` and `name_successor` are called from one thread, one at a time, and
    return or raise within `timeout_s` as far as the operating system lets them. `watch` runs on a
    thread of its own beside them; `interrupt_watch` is called from any thread.

    What a write returns is what the lock keeps, as a read would return it: times are cut to whole
    seconds by locks whose format has no fractions.
    """

    #: What a person calls this lock: `lease default/x`.
    description: str
    #: The Kubernetes namespace, empty where the lock has none.
    namespace: str

    @abstractmethod
    def read(self, timeout_s: float) -> Snapshot | None:
        """Return the newest version (a quorum read), or None when there is no object."""

    @abstractmethod
    def create(self, record: Record, timeout_s: float) -> Snapshot:
        """Create the object with `record`; raise Conflict when one exists."""

    @abstractmethod
    def update(self, record: Record, seen: Snapshot, timeout_s: float) -> Snapshot:
        """Replace `seen` by `record`, preserving whatever else the object carries.

        A record that makes another candidate the holder leaves no successor named. Raise Conflict
        when the object is no longer at `seen.version`, or has another uid, and Absent when there
        is none. The returned uid tells a caller that a server created a new object nevertheless.
        """

    def name_successor(self, successor: str, seen: Snapshot, timeout_s: float) -> Snapshot:
        """Note in the object at `seen` who is next in line, nobody if empty; its record stays.

        It is a change of the object like any other: it makes a new version, over which a write of
        the leader is a conflict. Raises as `update` does. Never asked of a lock whose snapshots say
        None for the successor.
        """
        raise NotImplementedError(f"{self.description} keeps no successor {successor!r}")

    @abstractmethod
    def watch(self, since: Snapshot | None) -> Iterator[Snapshot | None]:
        """Yield each version after `since` (None for a deletion) until interrupted.

        Yields nothing before the watch is established, then first `since` itself once as the sign
        that it is. Returns when the server ends it in an orderly way; raises Forbidden where
        watching is not allowed, Unavailable when it breaks.
        """

    @abstractmethod
    def interrupt_watch(self) -> None:
        """Make a running `watch` end soon."""

    @abstractmethod
    def close(self) -> None:
        """Release connections and descriptors."""


def successor_after(record: Record, seen: Snapshot) -> str:
    """Return who stays named when `record` replaces `seen`: nobody once the holder is another."""
    if record.holder and record.holder != seen.record.holder:
        return ""
    return seen.successor or ""
