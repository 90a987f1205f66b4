"""A lock in the memory of one process, for tests.

Owns one object and the history of its versions, shared by any number of clients on any threads. It
must not know what the tests do with it. It keeps every promise of the protocol, which the contract
suite shows, so that what is tested on it is tested on a lock.

One condition guards everything: an operation is one step, and a watch finds its place in the
history under the same condition, so that nothing falls between a read and a watch.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from leaderexec.locks.base import Absent, Conflict, Lock, successor_after
from leaderexec.model import Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leaderexec.model import Record


class MemoryStore:
    """The object that the clients of one election share."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        #: Every version there ever was, None for each time without one; the last one is the newest.
        self.history: list[Snapshot | None] = [None]
        self._version = 0
        self._objects = 0

    def read(self) -> Snapshot | None:
        """Return the newest version."""
        with self.changed:
            return self.history[-1]

    def create(self, record: Record) -> Snapshot:
        """Create the object; raise Conflict when it exists."""
        with self.changed:
            if self.history[-1] is not None:
                raise Conflict("cannot create memory: it exists")
            self._objects += 1
            return self._append(record, f"object-{self._objects}", "")

    def update(self, record: Record, seen: Snapshot) -> Snapshot:
        """Replace the version `seen`; raise Absent or Conflict when it is not the newest."""
        with self.changed:
            found = self._found("update memory", seen)
            return self._append(record, found.uid, successor_after(record, found))

    def name_successor(self, successor: str, seen: Snapshot) -> Snapshot:
        """Change who is next in line; raise as `update` does."""
        with self.changed:
            found = self._found("name a successor in memory", seen)
            return self._append(found.record, found.uid, successor)

    def delete(self) -> None:
        """Delete the object, if there is one, as a person would by hand."""
        with self.changed:
            if self.history[-1] is not None:
                self.history.append(None)
                self.changed.notify_all()

    def _found(self, verb: str, seen: Snapshot) -> Snapshot:
        """Return the newest version, which must be `seen`."""
        found = self.history[-1]
        if found is None:
            raise Absent(f"cannot {verb}: it does not exist")
        if (found.uid, found.version) != (seen.uid, seen.version):
            raise Conflict(
                f"cannot {verb}: it is at version {found.version} of {found.uid}, no longer at "
                f"{seen.version} of {seen.uid}"
            )
        return found

    def _append(self, record: Record, uid: str, successor: str) -> Snapshot:
        self._version += 1
        snapshot = Snapshot(record, uid, str(self._version), successor)
        self.history.append(snapshot)
        self.changed.notify_all()
        return snapshot


class MemoryLock(Lock):
    """One client of a store. An interruption that finds no watch running ends the next one."""

    def __init__(self, store: MemoryStore) -> None:
        self.description = "memory"
        self.namespace = ""
        self._store = store
        self._interrupted = False
        self._closed = False

    def read(self, timeout_s: float) -> Snapshot | None:  # noqa: ARG002 - nothing here waits
        """Return the newest version."""
        return self._store.read()

    def create(self, record: Record, timeout_s: float) -> Snapshot:  # noqa: ARG002 - the same
        """Create the object."""
        return self._store.create(record)

    def update(self, record: Record, seen: Snapshot, timeout_s: float) -> Snapshot:  # noqa: ARG002 - the same
        """Replace the version `seen`."""
        return self._store.update(record, seen)

    def name_successor(self, successor: str, seen: Snapshot, timeout_s: float) -> Snapshot:  # noqa: ARG002 - the same
        """Change who is next in line."""
        return self._store.name_successor(successor, seen)

    def watch(self, since: Snapshot | None) -> Iterator[Snapshot | None]:
        """Yield every version after `since`; from the newest on, if `since` never was one."""
        store = self._store
        with store.changed:
            at = len(store.history) - 1
            for place, version in enumerate(store.history):
                if version == since:
                    at = place + 1
            if self._ending():
                return
        yield since
        while True:
            with store.changed:
                while not self._told_to_end() and at == len(store.history):
                    store.changed.wait()
                if self._ending():
                    return
                version = store.history[at]
            at += 1
            yield version

    def interrupt_watch(self) -> None:
        """End the running watch, or else the next one."""
        with self._store.changed:
            self._interrupted = True
            self._store.changed.notify_all()

    def close(self) -> None:
        """End the running watch and every later one."""
        with self._store.changed:
            self._closed = True
            self._store.changed.notify_all()

    def _told_to_end(self) -> bool:
        return self._interrupted or self._closed

    def _ending(self) -> bool:
        """Whether the watch must return now; if so, the interruption has done its work."""
        ending = self._told_to_end()
        self._interrupted = False
        return ending
