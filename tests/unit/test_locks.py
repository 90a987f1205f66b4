"""The contract suite, asked of the locks that need nothing but this machine.

Owns: how to make and delete each of these locks; what is asked stands in `lock_contract`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from leaderexec.locks.file import FileLock
from leaderexec.locks.memory import MemoryLock, MemoryStore
from tests.support.lock_contract import (
    FIRST,
    LockContract,
    LockFactory,
    SuccessorContract,
    renewed,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from leaderexec.locks.base import Lock


class TestMemoryLock(SuccessorContract):
    """The lock in memory keeps the contract."""

    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()

    @pytest.fixture
    def lock_factory(self, store: MemoryStore) -> LockFactory:
        return lambda: MemoryLock(store)

    @pytest.fixture
    def delete(self, store: MemoryStore) -> Callable[[], None]:
        return store.delete

    def test_a_watch_yields_every_change(self, lock_factory: LockFactory) -> None:
        """Other than the contract asks, this watch passes nothing over."""
        lock = lock_factory()
        written = [lock.create(FIRST, self.timeout_s)]
        for seconds in range(1, 50):
            written.append(lock.update(renewed(FIRST, seconds), written[-1], self.timeout_s))
        with self.watching(lock, written[0]) as watching:
            watching.wait_for_last(written[-1])
        assert watching.yielded == written


class TestFileLock(LockContract):
    """The lock in a file keeps the contract."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "x.lock"

    @pytest.fixture
    def lock_factory(self, path: Path) -> LockFactory:
        return lambda: FileLock(str(path), "x")

    @pytest.fixture
    def delete(self, path: Path) -> Callable[[], None]:
        return path.unlink

    def test_it_keeps_no_successor(self, lock: Lock) -> None:
        """Its versions say that there is no such thing, and it refuses to note one."""
        created = lock.create(FIRST, self.timeout_s)
        assert created.successor is None
        assert lock.update(renewed(FIRST), created, self.timeout_s).successor is None
        with pytest.raises(NotImplementedError, match="keeps no successor 'b'"):
            lock.name_successor("b", created, self.timeout_s)
