"""The contract of every lock, as tests: a fake that passes them may stand for the real one.

A subclass whose name begins with `Test` provides `lock_factory` and `delete`; each test gets a lock
that has no object yet.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Self

import pytest
from hypothesis import strategies as st

from leaderexec.locks.base import Absent, Conflict, Lock, LockError, Unavailable
from leaderexec.model import SECOND_US, Record, Snapshot
from tests.support.wait import wait_until

#: Each call returns another client of the same lock.
LockFactory = Callable[[], Lock]

NOW_US = 1_800_000_000_123_456
FIRST = Record(
    holder="a", lease_duration_s=15, acquire_time_us=NOW_US, renew_time_us=NOW_US, transitions=0
)

#: What is replaced in FIRST, and has to come back as it was.
RECORDS: dict[str, dict[str, Any]] = {
    "held": {},
    "free": {"holder": "", "lease_duration_s": 1, "transitions": 7},
    "whole seconds": {"acquire_time_us": 0, "renew_time_us": NOW_US // SECOND_US * SECOND_US},
    "microseconds": {"acquire_time_us": NOW_US + 1, "renew_time_us": 999_999},
    "no times": {"acquire_time_us": None, "renew_time_us": None},
    "extremes": {
        "holder": 'ö "\\\n☃𝄞',
        "lease_duration_s": 86_400,
        "transitions": 2**31 - 1,
    },
}

#: Values of unknown keys: whatever JSON can say and Python reads back as it was.
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children),
    max_leaves=5,
)


def renewed(record: Record, seconds: int = 1) -> Record:
    """Return `record` with a renewTime that is later by whole seconds."""
    return replace(record, renew_time_us=(record.renew_time_us or NOW_US) + seconds * SECOND_US)


class Watching:
    """A watch on a thread of its own, and what it yielded."""

    def __init__(self, lock: Lock, since: Snapshot | None, *, bound_s: float) -> None:
        self.yielded: list[Snapshot | None] = []
        self.error: Exception | None = None
        self._lock = lock
        self._bound_s = bound_s
        self._thread = threading.Thread(target=self._run, args=(since,), daemon=True)

    def _run(self, since: Snapshot | None) -> None:
        try:
            for version in self._lock.watch(since):
                self.yielded.append(version)
        except Exception as error:  # noqa: BLE001 - judged by the test, on its own thread
            self.error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        if self._thread.is_alive():  # an interruption that finds no watch may end the next one
            self._lock.interrupt_watch()
        self._thread.join(self._bound_s)
        if error is None:
            assert not self._thread.is_alive(), "the watch outlived its interruption"

    def wait_for_yields(self, number: int) -> None:
        """Wait until so many versions have been yielded."""
        self._wait_for(lambda: len(self.yielded) >= number, f"{number} versions yielded")

    def wait_for_last(self, version: Snapshot | None) -> None:
        """Wait until `version` is the last one that was yielded, and not the only one."""
        self._wait_for(
            lambda: len(self.yielded) > 1 and self.yielded[-1] == version, f"{version} yielded"
        )

    def wait_for_end(self) -> None:
        """Wait until the watch has returned or raised."""
        self._wait_for(lambda: not self._thread.is_alive(), "the watch ended")

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(lambda: condition() or self.error, timeout_s=self._bound_s, what=what)
        if not condition():
            raise AssertionError(f"{what}: the watch broke") from self.error


class LockContract:
    """What every lock promises."""

    #: Given to each operation.
    timeout_s = 10.0
    #: Within this a watch starts, reports and ends, and an operation without time gives up.
    bound_s = 10.0
    #: Concurrent clients, and the increments of each.
    clients = 4
    increments = 10
    #: Times are cut to multiples of this, in microseconds.
    precision_us = 1

    @pytest.fixture
    def lock_factory(self) -> LockFactory:
        """Return what makes clients of one lock that has no object yet."""
        raise NotImplementedError

    @pytest.fixture
    def delete(self) -> Callable[[], None]:
        """Return what deletes the object from outside, as a person would."""
        raise NotImplementedError

    @pytest.fixture
    def lock(self, lock_factory: LockFactory) -> Lock:
        """Return one client."""
        return lock_factory()

    def kept(self, record: Record) -> Record:
        """Return `record` as this lock keeps it."""
        times_us = (record.acquire_time_us, record.renew_time_us)
        acquired_us, renewed_us = (us and us - us % self.precision_us for us in times_us)
        return replace(record, acquire_time_us=acquired_us, renew_time_us=renewed_us)

    def watching(self, lock: Lock, since: Snapshot | None) -> Watching:
        """Watch on another thread, within the bound of this lock."""
        return Watching(lock, since, bound_s=self.bound_s)

    # --- read, create ---

    def test_what_does_not_exist_reads_as_none(self, lock: Lock) -> None:
        """A lock without an object reads as None, and reading creates none."""
        assert lock.read(self.timeout_s) is None
        assert lock.read(self.timeout_s) is None
        assert lock.description.strip()
        assert "\n" not in lock.description
        assert isinstance(lock.namespace, str)

    def test_what_exists_is_not_created(self, lock_factory: LockFactory) -> None:
        """Creating over an object is a conflict, which names verb and lock, and changes nothing."""
        created = lock_factory().create(FIRST, self.timeout_s)
        other = lock_factory()
        with pytest.raises(Conflict, match=f"^cannot create {other.description}: "):
            other.create(replace(FIRST, holder="b"), self.timeout_s)
        assert other.read(self.timeout_s) == created

    @pytest.mark.parametrize("changes", RECORDS.values(), ids=RECORDS)
    def test_a_record_survives_exactly(
        self, lock_factory: LockFactory, changes: dict[str, Any]
    ) -> None:
        """A record is read as it was created, and as it was updated, to the lock's precision."""
        record = replace(FIRST, **changes)
        lock = lock_factory()
        created = lock.create(record, self.timeout_s)
        assert created.record == self.kept(record)
        assert created.uid
        assert int(created.version) > 0
        assert lock_factory().read(self.timeout_s) == created
        between = lock.update(renewed(FIRST, 5), created, self.timeout_s)
        updated = lock.update(record, between, self.timeout_s)
        assert updated.record == self.kept(record)
        assert updated.uid == created.uid
        assert int(updated.version) > int(between.version) > int(created.version)
        assert lock_factory().read(self.timeout_s) == updated

    # --- update ---

    def test_a_stale_update_is_a_conflict(self, lock_factory: LockFactory) -> None:
        """Who has seen an older version changes nothing, and the same write lands once."""
        lock = lock_factory()
        created = lock.create(FIRST, self.timeout_s)
        updated = lock.update(renewed(FIRST), created, self.timeout_s)
        for late in (lock, lock_factory()):
            with pytest.raises(Conflict):
                late.update(renewed(FIRST), created, self.timeout_s)
        assert lock.read(self.timeout_s) == updated

    def test_another_objects_uid_is_a_conflict(self, lock: Lock) -> None:
        """The right version of another object is not what stands here."""
        created = lock.create(FIRST, self.timeout_s)
        other = replace(created, uid="00000000-0000-4000-8000-000000000000")
        with pytest.raises(Conflict):
            lock.update(renewed(FIRST), other, self.timeout_s)
        assert lock.read(self.timeout_s) == created

    def test_concurrent_writes_lose_nothing(self, lock_factory: LockFactory) -> None:
        """Clients that create, and count in one record, all at once, arrive at the sum."""
        barrier = threading.Barrier(self.clients)

        def count(lock: Lock) -> None:
            barrier.wait(self.bound_s)
            done = 0
            while done < self.increments:
                with contextlib.suppress(Conflict):
                    seen = lock.read(self.timeout_s)
                    if seen is None:
                        lock.create(replace(FIRST, transitions=1), self.timeout_s)
                    else:
                        record = renewed(seen.record)
                        more = replace(record, transitions=record.transitions + 1)
                        lock.update(more, seen, self.timeout_s)
                    done += 1

        with ThreadPoolExecutor(self.clients) as pool:
            list(pool.map(count, [lock_factory() for _ in range(self.clients)], timeout=60))
        seen = lock_factory().read(self.timeout_s)
        assert seen is not None
        assert seen.record.transitions == self.clients * self.increments

    def test_an_operation_without_time_ends(self, lock: Lock) -> None:
        """With hardly any time an operation succeeds or is unavailable, and soon."""
        started_s = time.monotonic()
        for operation in (lock.read, partial(lock.create, FIRST)):
            try:
                operation(0.001)
            except Unavailable as error:
                assert lock.description in str(error)  # noqa: PT017 - it may as well succeed
        assert time.monotonic() - started_s < self.bound_s

    # --- deletion ---

    def test_what_was_deleted_stays_so(self, lock: Lock, delete: Callable[[], None]) -> None:
        """An update creates nothing; who creates gets another uid and a greater version."""
        first = lock.create(FIRST, self.timeout_s)
        updated = lock.update(renewed(FIRST), first, self.timeout_s)
        delete()
        assert lock.read(self.timeout_s) is None
        with pytest.raises((Absent, Conflict)):
            lock.update(renewed(FIRST), updated, self.timeout_s)
        assert lock.read(self.timeout_s) is None
        second = lock.create(FIRST, self.timeout_s)
        assert second.uid != first.uid
        assert int(second.version) > int(updated.version)
        with pytest.raises(Conflict):
            lock.update(renewed(FIRST), updated, self.timeout_s)
        assert lock.read(self.timeout_s) == second

    # --- watch ---

    def test_a_watch_yields_changes_in_order(self, lock_factory: LockFactory) -> None:
        """Every yield is a version that was written, in order, and the last one is not missed."""
        lock = lock_factory()
        written = [lock.create(FIRST, self.timeout_s)]
        with self.watching(lock_factory(), written[0]) as watching:
            watching.wait_for_yields(1)
            for seconds in range(1, 11):
                written.append(lock.update(renewed(FIRST, seconds), written[-1], self.timeout_s))
            watching.wait_for_last(written[-1])
        places = [written.index(version) for version in watching.yielded if version is not None]
        assert len(places) == len(watching.yielded)
        assert places == sorted(set(places))
        assert watching.error is None

    def test_a_watch_yields_each_change_that_stands(self, lock: Lock) -> None:
        """What stands until the watch has seen it is yielded, also to who wrote it.

        Nor is what changed between the read and the watch passed over.
        """
        written = [lock.create(FIRST, self.timeout_s)]
        written.append(lock.update(renewed(FIRST), written[-1], self.timeout_s))
        with self.watching(lock, written[0]) as watching:
            for seconds in range(2, 5):
                watching.wait_for_last(written[-1])
                written.append(lock.update(renewed(FIRST, seconds), written[-1], self.timeout_s))
            watching.wait_for_last(written[-1])
            assert lock.read(self.timeout_s) == written[-1]
        assert watching.yielded == written

    def test_a_watch_yields_creation_and_deletion(
        self, lock_factory: LockFactory, delete: Callable[[], None]
    ) -> None:
        """A watch since None yields None and then the object; its deletion is yielded as None."""
        lock = lock_factory()
        with self.watching(lock_factory(), None) as watching:
            watching.wait_for_yields(1)
            created = lock.create(FIRST, self.timeout_s)
            watching.wait_for_last(created)
            delete()
            watching.wait_for_last(None)
            second = lock.create(FIRST, self.timeout_s)
            watching.wait_for_last(second)
        assert watching.yielded == [None, created, None, second]
        assert watching.error is None

    # --- the end of a watch ---

    def test_an_interruption_ends_one_watch(self, lock: Lock) -> None:
        """Before a watch, or while it starts, an interruption is not lost; then another works."""
        lock.interrupt_watch()
        for number in range(20):
            with self.watching(lock, None) as watching:
                if number:
                    lock.interrupt_watch()
                watching.wait_for_end()
            assert watching.yielded in ([], [None])
            assert watching.error is None
        with self.watching(lock, None) as watching:
            watching.wait_for_yields(1)
        created = lock.create(FIRST, self.timeout_s)
        with self.watching(lock, None) as again:
            again.wait_for_last(created)
        assert again.yielded == [None, created]

    def test_closing_ends_the_watch(self, lock: Lock) -> None:
        """A closed lock watches no more; how its watch ends is its own affair."""
        with self.watching(lock, None) as watching:
            watching.wait_for_yields(1)
            lock.close()
            watching.wait_for_end()
        assert watching.error is None or isinstance(watching.error, LockError)


class SuccessorContract(LockContract):
    """What a lock promises besides that notes who is next in line."""

    @pytest.mark.parametrize("name", ["b", 'ö "\\\n☃𝄞 <&>'])
    def test_a_successor_is_noted(self, lock_factory: LockFactory, name: str) -> None:
        """Naming changes the successor and the version, is what others read, and is taken back."""
        created = lock_factory().create(FIRST, self.timeout_s)
        assert created.successor == "", "nobody, which is not the same as keeping none"
        lock = lock_factory()
        seen = lock.read(self.timeout_s)
        assert seen == created
        for successor in (name, "another", ""):
            named = lock.name_successor(successor, seen, self.timeout_s)
            assert named == replace(created, version=named.version, successor=successor)
            assert int(named.version) > int(seen.version)
            assert lock_factory().read(self.timeout_s) == named
            seen = named

    @pytest.mark.parametrize(
        "writes",
        [
            pytest.param([("a", "b"), ("", "b"), ("c", "")], id="given back, taken by another"),
            pytest.param([("a", "b"), ("b", "")], id="expired, taken by the successor"),
        ],
    )
    def test_a_successor_is_kept_until_the_lock_is_taken(
        self, lock_factory: LockFactory, writes: list[tuple[str, str]]
    ) -> None:
        """Writes of the holder leave it standing; once another holds the lock, nobody is next."""
        lock = lock_factory()
        created = lock.create(FIRST, self.timeout_s)
        seen = lock_factory().name_successor("b", created, self.timeout_s)
        for holder, successor in writes:
            record = replace(renewed(seen.record), holder=holder)
            seen = lock.update(record, seen, self.timeout_s)
            assert seen.successor == successor
            assert seen.record == self.kept(record)
            assert lock_factory().read(self.timeout_s) == seen

    def test_naming_and_renewing_do_not_undo_each_other(self, lock_factory: LockFactory) -> None:
        """Who has seen another version or object names nobody, and who missed that renews not."""
        lock, late = lock_factory(), lock_factory()
        created = lock.create(FIRST, self.timeout_s)
        updated = lock.update(renewed(FIRST), created, self.timeout_s)
        other = replace(updated, uid="00000000-0000-4000-8000-000000000000")
        for seen in (created, other):
            expected = f"^cannot name a successor in {lock.description}: "
            with pytest.raises(Conflict, match=expected):
                late.name_successor("b", seen, self.timeout_s)
        assert lock.read(self.timeout_s) == updated
        named = late.name_successor("b", updated, self.timeout_s)
        with pytest.raises(Conflict):
            lock.update(renewed(FIRST, 2), updated, self.timeout_s)
        assert lock.read(self.timeout_s) == named

    def test_naming_brings_nothing_back(self, lock: Lock, delete: Callable[[], None]) -> None:
        """Naming in what was deleted fails, creates nothing, and reaches no newer object."""
        first = lock.create(FIRST, self.timeout_s)
        delete()
        with pytest.raises((Absent, Conflict)):
            lock.name_successor("b", first, self.timeout_s)
        second = lock.create(FIRST, self.timeout_s)
        with pytest.raises(Conflict):
            lock.name_successor("b", first, self.timeout_s)
        assert lock.read(self.timeout_s) == second

    def test_a_watch_yields_a_naming(self, lock_factory: LockFactory) -> None:
        """A change of nothing but the successor is a version that is yielded."""
        lock = lock_factory()
        created = lock.create(FIRST, self.timeout_s)
        with self.watching(lock_factory(), created) as watching:
            watching.wait_for_yields(1)
            named = lock.name_successor("b", created, self.timeout_s)
            watching.wait_for_last(named)
        assert watching.yielded == [created, named]
