"""What only the lock in a file promises: crashes, errors and people at any instant.

Owns: the system calls of `leaderexec.locks.file` going wrong one by one, processes killed and
stopped inside them, and files that somebody else has written.
Must not know: what the contract suite already asks.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import random
import resource
import select
import signal
import stat
import struct
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leaderexec.locks import file as file_module
from leaderexec.locks.base import Absent, Conflict, Forbidden, LockError, Unavailable
from leaderexec.locks.file import MAX_BYTES, FileLock, check
from leaderexec.model import SECOND_US, Record, Snapshot
from tests.support.lock_contract import FIRST, Watching, json_values, renewed
from tests.support.wait import wait_until

TIMEOUT_S = 10.0
NEXT = renewed(FIRST)
NOBODY = 65534

rewriting_one_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the record is; the directory holds nothing else."""
    return tmp_path / "x"


def lock_of(path: Path) -> FileLock:
    """Return another client of the lock at `path`."""
    return FileLock(str(path), "x")


def document(**changes: Any) -> dict[str, Any]:
    """Return a document as others may write it, held by `a`."""
    return {
        "election": "x",
        "uid": "5f1c",
        "resourceVersion": "7",
        "record": {
            "holderIdentity": "a",
            "leaseDurationSeconds": 15,
            "acquireTime": "2018-07-12T09:34:59.000000Z",
            "renewTime": "2018-07-12T09:35:01.500000Z",
            "leaseTransitions": 3,
        },
        **changes,
    }


def document_with_record(**changes: Any) -> dict[str, Any]:
    """Return a document whose record differs."""
    return document(record={**document()["record"], **changes})


def overwrite(path: Path, old: str, new: str) -> None:
    """Edit a file in place, by one write, so that a reader sees either the old or the new."""
    assert len(old) == len(new)
    with path.open("rb+", buffering=0) as file:
        file.seek(file.read().index(old.encode()))
        file.write(new.encode())


def names(folder: Path) -> set[str]:
    """List a directory."""
    return {entry.name for entry in folder.iterdir()}


def open_descriptors() -> int:
    """Count the descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def existing(lock: FileLock) -> Snapshot:
    """Read what must be there."""
    seen = lock.read(TIMEOUT_S)
    assert seen is not None
    return seen


# --- other processes, and calls that go wrong ------------------------------------------------


def forked(function: Callable[[], object]) -> int:
    """Run `function` in a child of its own and return its pid; it exits 0 if nothing is raised."""
    pid = os.fork()
    if pid:
        return pid
    try:
        function()
    except BaseException:  # noqa: BLE001 - a child must never return into the test runner
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ended(pid: int) -> int:
    """Wait for a child's end and return its exit code, negative for a signal."""
    pidfd = os.pidfd_open(pid)
    try:
        waiting = select.poll()
        waiting.register(pidfd, select.POLLIN)
        assert waiting.poll(30_000), f"child {pid} did not end"
    finally:
        os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def stopped(pid: int) -> None:
    """Wait until a child has stopped."""

    def seen() -> bool:
        found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        assert not found or os.WIFSTOPPED(status), "it ended instead"
        return bool(found)

    wait_until(seen, timeout_s=30, what=f"child {pid} stopped")


@contextlib.contextmanager
def killed_at_the_end(pid: int) -> Iterator[int]:
    """Leave no child behind, whatever a test finds."""
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


#: Stands between the lock and a system call: gets its name, the call itself, its arguments.
Interposed = Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]

#: The system calls by which the lock touches the disk.
SYSTEM_CALLS = {
    "close",
    "fchmod",
    "fdatasync",
    "flock",
    "fstat",
    "fsync",
    "open",
    "pread",
    "pwrite",
    "read",
    "rename",
    "stat",
    "unlink",
    "write",
}


class Interposer:
    """Stands for the modules `os` and `fcntl` in the lock's module."""

    def __init__(self, module: Any, between: Interposed) -> None:
        self._module = module
        self._between = between

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._module, name)
        if name not in SYSTEM_CALLS:
            return real
        return lambda *args, **kwargs: self._between(name, real, args, kwargs)


@contextlib.contextmanager
def interposed(between: Interposed) -> Iterator[None]:
    """Let `between` have every system call of the lock."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_module, "os", Interposer(os, between))
        patch.setattr(file_module, "fcntl", Interposer(fcntl, between))
        yield


def recorded(calls: list[tuple[str, Any]]) -> Interposed:
    """Note each call and the first thing that it is about."""

    def between(
        name: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        result = real(*args, **kwargs)
        calls.append((name, result if name == "open" else args[0]))
        return result

    return between


def at_call(number: int, act: Callable[[], object]) -> Interposed:
    """Do something right before a call."""
    count = 0

    def between(
        _: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        nonlocal count
        count += 1
        if count == number:
            act()
        return real(*args, **kwargs)

    return between


def at_name(wanted: str, act: Callable[[], object]) -> Interposed:
    """Do something right before the first call of a name."""
    done = False

    def between(
        name: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        nonlocal done
        if name == wanted and not done:
            done = True
            act()
        return real(*args, **kwargs)

    return between


def failing(number: int, code: int) -> Interposed:
    """Let one call fail; a descriptor is closed all the same, as in the kernel."""
    count = 0

    def between(
        name: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        nonlocal count
        count += 1
        if count == number:
            if name == "close":
                real(*args, **kwargs)
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    return between


def die() -> None:
    """Die as a process dies that has no say in it."""
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    """Stop until somebody sends SIGCONT."""
    os.kill(os.getpid(), signal.SIGSTOP)


# --- crashes ---------------------------------------------------------------------------------


def before_the_crash(path: Path, beginning: str) -> tuple[Snapshot | None, int]:
    """Prepare a directory; return what is there, and the highest version that ever was."""
    path.parent.mkdir()
    if beginning == "nothing":
        return None, 0
    highest = int(lock_of(path).create(FIRST, TIMEOUT_S).version)
    if beginning == "deleted":
        path.unlink()
        return None, highest
    raw = json.loads(path.read_text())
    raw["ours"] = {"kept": [1]}
    raw["record"]["strategy"] = "kept"
    path.write_text(json.dumps(raw))
    if beginning == "leftover":
        path.with_name("x.lock.new").write_text("half a rec")
    return existing(lock_of(path)), highest


def write_and_crash(path: Path, old: Snapshot | None, between: Interposed) -> int:
    """Write in a process of its own and return how that ended."""

    def write() -> None:
        with interposed(between):
            if old is None:
                lock_of(path).create(NEXT, TIMEOUT_S)
            else:
                lock_of(path).update(NEXT, old, TIMEOUT_S)

    return ended(forked(write))


def assert_survived(path: Path, old: Snapshot | None, highest: int) -> bool:
    """Assert that the lock is whole and works; return whether the write had landed."""
    lock = lock_of(path)
    found = lock.read(TIMEOUT_S)
    landed = found != old
    if landed:
        assert found is not None
        assert found.record == NEXT
        assert int(found.version) > highest
        assert old is None or found.uid == old.uid
        highest = int(found.version)
    third = renewed(NEXT)
    after = lock.update(third, found, 0.0) if found else lock.create(third, 0.0)
    assert existing(lock) == after
    assert int(after.version) > highest
    assert names(path.parent) == {"x", "x.lock"}
    if old is not None:
        raw = json.loads(path.read_text())
        assert raw["ours"] == {"kept": [1]}
        assert raw["record"]["strategy"] == "kept"
    path.unlink()
    assert int(lock.create(FIRST, TIMEOUT_S).version) > int(after.version)
    return landed


BEGINNINGS = ["nothing", "deleted", "existing", "leftover"]


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_crash_at_any_call_leaves_the_old_or_the_new(tmp_path: Path, beginning: str) -> None:
    """Before whichever call a writer is killed: one whole version, no number used twice."""
    landed: list[bool] = []
    code = -signal.SIGKILL
    while code == -signal.SIGKILL:
        path = tmp_path / str(len(landed)) / "x"
        old, highest = before_the_crash(path, beginning)
        code = write_and_crash(path, old, at_call(len(landed) + 1, die))
        landed.append(assert_survived(path, old, highest))
    assert code == 0
    assert len(landed) > 15
    assert landed == sorted(landed), "once the name is given, it is given"
    assert set(landed) == {False, True}


@pytest.mark.parametrize("beginning", BEGINNINGS)
@pytest.mark.parametrize("call", ["pwrite", "write"])
def test_a_crash_within_a_write_leaves_the_old(tmp_path: Path, beginning: str, call: str) -> None:
    """When a writer is killed with half of something written, the write has not happened."""
    path = tmp_path / "folder" / "x"
    old, highest = before_the_crash(path, beginning)

    def between(
        name: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if name == call:
            real(args[0], args[1][: len(args[1]) // 2], *args[2:])
            die()
        return real(*args, **kwargs)

    assert write_and_crash(path, old, between) == -signal.SIGKILL
    assert not assert_survived(path, old, highest)


def test_writers_killed_at_random_lose_nothing(path: Path) -> None:
    """While writers are killed in full flight, every read finds one whole version, none older."""
    randomness = random.Random(7)
    first = lock_of(path).create(FIRST, TIMEOUT_S)

    def write_for_ever() -> None:
        lock = lock_of(path)
        while True:
            seen = existing(lock)
            record = renewed(replace(seen.record, transitions=seen.record.transitions + 1))
            with contextlib.suppress(Conflict):
                lock.update(record, seen, TIMEOUT_S)

    reader = lock_of(path)
    last = (int(first.version), 0)
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(killed_at_the_end(forked(write_for_ever)))]
        writers.append(stack.enter_context(killed_at_the_end(forked(write_for_ever))))

        def read_for(duration_s: float) -> bool:
            nonlocal last
            until_s = time.monotonic() + duration_s
            while time.monotonic() < until_s:
                seen = existing(reader)
                mark = (int(seen.version), seen.record.transitions)
                assert mark[0] >= last[0]
                assert mark[1] >= last[1]
                assert (mark[0] == last[0]) == (mark[1] == last[1])
                last = mark
            return last[1] > 0

        # A disk may be slow to take the first write.
        wait_until(lambda: read_for(0.02), timeout_s=30, what="a write has landed")
        for _ in range(30):
            read_for(randomness.uniform(0.002, 0.02))
            victim = writers.pop(randomness.randrange(2))
            os.kill(victim, signal.SIGKILL)
            assert ended(victim) == -signal.SIGKILL
            writers.append(stack.enter_context(killed_at_the_end(forked(write_for_ever))))
    after = reader.update(NEXT, existing(reader), TIMEOUT_S)
    assert int(after.version) > last[0]
    assert names(path.parent) == {"x", "x.lock"}


def test_a_version_is_on_disk_before_it_counts(path: Path) -> None:
    """The number, the content, the name and the directory are synced in the order that matters."""
    created = lock_of(path).create(FIRST, TIMEOUT_S)
    calls: list[tuple[str, Any]] = []
    with interposed(recorded(calls)):
        lock_of(path).update(NEXT, created, TIMEOUT_S)
    folder, guard, _, fresh = (
        what for name, what in calls if name == "open"
    )  # the third is the record itself
    order = [
        calls.index(("flock", guard)),
        calls.index(("pwrite", guard)),
        calls.index(("fdatasync", guard)),
        calls.index(("rename", "x.lock.new")),
        calls.index(("fsync", folder)),
        len(calls) - 1 - calls[::-1].index(("flock", guard)),
    ]
    assert order == sorted(order)
    # Descriptors are reused: what is synced as `fresh` must come between its open and the rename.
    opened = max(at for at, call in enumerate(calls) if call == ("open", fresh))
    synced = [at for at, call in enumerate(calls) if call == ("fsync", fresh)]
    written = [at for at, call in enumerate(calls) if call == ("write", fresh)]
    assert opened < max(written) < min(synced) < calls.index(("rename", "x.lock.new"))


@pytest.mark.parametrize(
    "torn",
    [
        b"",
        b"0000000",
        b"\0" * 29,
        b"0000000000000000099 00000000\n",
        b"0000000000000000099 zzzzzzzz\n",
        b"no number at all",
    ],
)
def test_a_torn_number_falls_back_to_the_record(path: Path, torn: bytes) -> None:
    """What a power cut left of the highest version is not believed; the record's own is."""
    path.write_text(json.dumps(document(resourceVersion="41")))
    path.with_name("x.lock").write_bytes(torn)
    lock = lock_of(path)
    assert lock.update(FIRST, existing(lock), TIMEOUT_S).version == "42"
    path.unlink()
    assert lock.create(FIRST, TIMEOUT_S).version == "43"


def test_versions_survive_what_people_delete(path: Path) -> None:
    """Either file may be deleted and the versions go on; with both they begin again, as another."""
    lock = lock_of(path)
    first = lock.create(FIRST, TIMEOUT_S)
    path.unlink()
    second = lock.create(FIRST, TIMEOUT_S)
    path.with_name("x.lock").unlink()
    third = lock.update(NEXT, second, TIMEOUT_S)
    path.unlink()
    path.with_name("x.lock").unlink()
    again = lock.create(FIRST, TIMEOUT_S)
    assert [snapshot.version for snapshot in (first, second, third, again)] == ["1", "2", "3", "1"]
    assert len({first.uid, second.uid, again.uid}) == 3


def test_a_backup_put_back_reuses_no_version(path: Path) -> None:
    """After an older record has been restored, the next version is still greater than any."""
    lock = lock_of(path)
    created = lock.create(FIRST, TIMEOUT_S)
    backup = path.read_bytes()
    updated = lock.update(NEXT, created, TIMEOUT_S)
    path.write_bytes(backup)
    with pytest.raises(Conflict):
        lock.update(renewed(NEXT), updated, TIMEOUT_S)
    assert int(lock.update(NEXT, existing(lock), TIMEOUT_S).version) > int(updated.version)


def test_the_last_version_is_the_end(path: Path) -> None:
    """Where no greater version exists, nothing is written."""
    path.write_text(json.dumps(document(resourceVersion=str(2**63 - 1))))
    lock = lock_of(path)
    seen = existing(lock)
    with pytest.raises(Unavailable, match="no version is left"):
        lock.update(FIRST, seen, TIMEOUT_S)
    assert existing(lock) == seen


# --- errors of the operating system ----------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.EACCES, Forbidden),
        (errno.EPERM, Forbidden),
        (errno.EROFS, Forbidden),
        (errno.ENOSPC, Unavailable),
        (errno.EDQUOT, Unavailable),
        (errno.EIO, Unavailable),
        (errno.ENOLCK, Unavailable),
        (errno.EMFILE, Unavailable),
        (errno.ESTALE, Unavailable),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
def test_an_error_of_any_call_is_a_lock_error(
    tmp_path: Path, code: int, kind: type[LockError]
) -> None:
    """Whichever call fails: an error of a lock, one whole version, nothing left open or locked."""
    path = tmp_path / "x"
    lock = lock_of(path)
    seen = lock.create(FIRST, TIMEOUT_S)
    calls: list[tuple[str, Any]] = []
    with interposed(recorded(calls)):
        seen = lock.update(NEXT, seen, TIMEOUT_S)
    open_before = open_descriptors()
    errors: list[LockError] = []
    for number in range(1, len(calls) + 1):
        record = renewed(FIRST, 10 + number)
        before = len(errors)
        with interposed(failing(number, code)):
            try:
                lock.update(record, seen, TIMEOUT_S)
            except LockError as error:
                errors.append(error)
        assert open_descriptors() == open_before
        assert names(tmp_path) == {"x", "x.lock"}
        found = existing(lock)
        assert found.record == record or (len(errors) > before and found == seen)
        seen = lock.update(FIRST, found, 0.0)
        assert int(seen.version) > int(found.version)
    assert len(errors) > 15
    for caught in errors:
        assert type(caught) is kind
        assert str(caught).startswith(f"cannot update {lock.description}: ")
        assert os.strerror(code) in str(caught)
        assert caught.__cause__ is not None


def test_a_read_that_fails_is_no_free_lock(path: Path) -> None:
    """Whichever call of a read fails, it raises; it never says that there is nothing."""
    lock = lock_of(path)
    lock.create(FIRST, TIMEOUT_S)
    noted: list[tuple[str, Any]] = []
    with interposed(recorded(noted)):
        lock.read(TIMEOUT_S)
    for number in range(1, len(noted) + 1):
        with (
            interposed(failing(number, errno.EIO)),
            pytest.raises(Unavailable, match=f"cannot read file:{path}: Input/output error"),
        ):
            lock.read(TIMEOUT_S)
    assert len(noted) >= 5


def test_a_full_disk_keeps_the_old_version(path: Path) -> None:
    """A write that is cut short by a limit leaves the old version and no leftover."""
    lock = lock_of(path)
    created = lock.create(FIRST, TIMEOUT_S)

    def write_beyond_the_limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))
        with pytest.raises(Unavailable, match="File too large"):
            lock.update(NEXT, created, TIMEOUT_S)

    assert ended(forked(write_beyond_the_limit)) == 0
    assert existing(lock) == created
    assert names(path.parent) == {"x", "x.lock"}


def test_a_number_that_does_not_fit_on_the_disk_is_not_issued(path: Path) -> None:
    """When the highest version can be written in part only, nothing else is written."""
    lock = lock_of(path)
    created = lock.create(FIRST, TIMEOUT_S)

    def between(
        name: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if name == "pwrite":
            return real(args[0], args[1][:5], *args[2:])
        return real(*args, **kwargs)

    with (
        interposed(between),
        pytest.raises(Unavailable, match=r"No space left on device: x\.lock"),
    ):
        lock.update(NEXT, created, TIMEOUT_S)
    assert existing(lock) == created
    assert int(lock.update(NEXT, created, TIMEOUT_S).version) > int(created.version)


def directory_sync_failing(code: int) -> Interposed:
    """Let the sync of the directory fail, the last step of a write."""

    def between(
        name: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if name == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode):
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    return between


def test_a_name_that_may_not_be_on_disk_is_no_success(path: Path) -> None:
    """A write that others see, but that a power cut may undo, is not reported as done."""
    with (
        interposed(directory_sync_failing(errno.EIO)),
        pytest.raises(Unavailable, match="Input/output error"),
    ):
        lock_of(path).create(FIRST, TIMEOUT_S)
    assert existing(lock_of(path)).record == FIRST


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_directory_that_cannot_be_synced_will_do(path: Path, code: int) -> None:
    """A filesystem that knows no sync of directories is no reason to fail."""
    with interposed(directory_sync_failing(code)):
        created = lock_of(path).create(FIRST, TIMEOUT_S)
    assert existing(lock_of(path)) == created


def test_a_missing_directory_is_no_free_lock(tmp_path: Path) -> None:
    """Without its directory the lock is unavailable, and says what is missing."""
    lock = lock_of(tmp_path / "gone" / "x")
    with pytest.raises(Unavailable, match=f"directory {tmp_path}/gone does not exist"):
        lock.read(TIMEOUT_S)
    with pytest.raises(Unavailable, match=r"cannot create .*: directory .* does not exist"):
        lock.create(FIRST, TIMEOUT_S)
    with pytest.raises(Unavailable, match=r"cannot watch .*: "):
        next(iter(lock.watch(None)))
    (tmp_path / "gone").write_text("")
    with pytest.raises(Unavailable, match="is not a directory"):
        lock.read(TIMEOUT_S)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """Directories, pipes, sockets and loops of links are told apart from a free lock, at once."""
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("directory", "pipe", "loop"):
        lock = lock_of(tmp_path / name)
        with pytest.raises(Unavailable, match=r"not a regular file|symbolic links"):
            lock.read(TIMEOUT_S)
        with pytest.raises(Unavailable):
            lock.create(FIRST, TIMEOUT_S)
    with pytest.raises(Unavailable, match="not a regular file"):
        FileLock("/", "x").read(TIMEOUT_S)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("away", path)])
@pytest.mark.parametrize("suffix", [".lock", ".lock.new"])
def test_what_stands_in_the_way_is_named(
    path: Path, make: Callable[[Path], None], suffix: str
) -> None:
    """Something else under a name of the lock is either removed or named, never followed."""
    in_the_way = path.with_name(f"x{suffix}")
    make(in_the_way)
    problem = ""
    try:
        lock_of(path).create(FIRST, 0.05)
    except Unavailable as error:
        problem = str(error)
    assert path.exists() == (not problem)
    assert in_the_way.name in problem or not problem
    assert not path.with_name("away").exists()


def test_another_programs_lock_file_is_not_overwritten(path: Path) -> None:
    """A PATH.lock with other content is refused and left as it is."""
    other = lock_of(path.with_name("x.lock"))
    created = other.create(FIRST, TIMEOUT_S)
    with pytest.raises(Unavailable, match=r"x\.lock is not its lock file: it has other content"):
        lock_of(path).create(FIRST, TIMEOUT_S)
    assert existing(other) == created


def test_permissions_are_the_umask_and_then_the_files_own(path: Path) -> None:
    """New files get what the umask leaves; what somebody sets on the record survives updates."""
    previous = os.umask(0o027)
    try:
        created = lock_of(path).create(FIRST, TIMEOUT_S)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert stat.S_IMODE(path.with_name("x.lock").stat().st_mode) == 0o640
    path.chmod(0o604)
    lock_of(path).update(NEXT, created, TIMEOUT_S)
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_missing_permissions_are_forbidden() -> None:
    """Who may not write the directory, or not read the record, is told that it is forbidden."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "x"
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)

        def unprivileged(steps: Callable[[], None]) -> None:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            steps()

        def steps() -> None:
            lock = lock_of(path)
            folder.chmod(0o555)
            with pytest.raises(Forbidden, match=r"cannot create file:.*: Permission denied: x\.l"):
                lock.create(FIRST, TIMEOUT_S)
            assert "is not readable and writable" in str(check(str(path), "x"))
            folder.chmod(0o755)
            created = lock.create(FIRST, TIMEOUT_S)
            folder.chmod(0o555)
            with pytest.raises(Forbidden, match=r"cannot update file:.*: Permission denied"):
                lock.update(NEXT, created, TIMEOUT_S)
            assert existing(lock) == created
            path.chmod(0)
            with pytest.raises(Forbidden, match=r"cannot read file:.*: Permission denied$"):
                lock.read(TIMEOUT_S)
            path.chmod(0o644)
            folder.chmod(0o755)
            path.with_name("x.lock").chmod(0o444)
            with pytest.raises(Forbidden, match=r"cannot update .*: Permission denied: x\.lock"):
                lock.update(NEXT, created, TIMEOUT_S)
            assert check(str(path), "x") == "x.lock is not readable and writable"
            folder.chmod(0)
            with pytest.raises(Forbidden, match="cannot read"):
                lock.read(TIMEOUT_S)
            with pytest.raises(Forbidden, match="cannot watch"):
                next(iter(lock.watch(None)))
            folder.chmod(0o755)

        assert ended(forked(lambda: unprivileged(steps))) == 0


# --- other processes beside us ---------------------------------------------------------------


def test_processes_count_together(path: Path) -> None:
    """Processes that count in one record, all at once, arrive at the sum."""
    processes, increments = 6, 25

    def count() -> None:
        lock = lock_of(path)
        done = 0
        while done < increments:
            with contextlib.suppress(Conflict):
                seen = lock.read(TIMEOUT_S)
                if seen is None:
                    lock.create(replace(FIRST, transitions=1), TIMEOUT_S)
                else:
                    more = replace(seen.record, transitions=seen.record.transitions + 1)
                    lock.update(more, seen, TIMEOUT_S)
                done += 1

    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(killed_at_the_end(forked(count))) for _ in range(processes)]
        assert [ended(pid) for pid in children] == [0] * processes
    seen = existing(lock_of(path))
    assert seen.record.transitions == processes * increments
    assert int(seen.version) == processes * increments


def test_a_stopped_writer_blocks_nobody_for_ever(path: Path) -> None:
    """While a writer is stopped others read, and cannot write, and are told so in time."""
    lock = lock_of(path)
    created = lock.create(FIRST, TIMEOUT_S)

    def update_and_stop() -> None:
        with interposed(at_name("rename", stop)):
            lock_of(path).update(NEXT, created, TIMEOUT_S)

    with killed_at_the_end(forked(update_and_stop)) as pid:
        stopped(pid)
        assert existing(lock) == created
        for timeout_s in (0.0, 0.3):
            started_s = time.monotonic()
            with pytest.raises(Unavailable, match=r"another process has kept x\.lock locked"):
                lock.update(replace(FIRST, holder="b"), created, timeout_s)
            assert timeout_s <= time.monotonic() - started_s < 5
        os.kill(pid, signal.SIGCONT)
        assert ended(pid) == 0
    assert existing(lock).record == NEXT
    with pytest.raises(Conflict):
        lock.update(replace(FIRST, holder="b"), created, TIMEOUT_S)


def test_a_dead_writers_lock_is_free(path: Path) -> None:
    """The flock of a writer that was killed while it was stopped is gone with it."""
    lock = lock_of(path)
    created = lock.create(FIRST, TIMEOUT_S)

    def update_and_stop() -> None:
        with interposed(at_name("rename", stop)):
            lock_of(path).update(NEXT, created, TIMEOUT_S)

    with killed_at_the_end(forked(update_and_stop)) as pid:
        stopped(pid)
    assert lock.update(NEXT, created, 0.0).record == NEXT


def test_a_writer_waits_for_another(path: Path) -> None:
    """Within its time a writer waits until the flock is free."""
    lock = lock_of(path)
    created = lock.create(FIRST, TIMEOUT_S)
    with path.with_name("x.lock").open("rb+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def update() -> None:
            lock_of(path).update(NEXT, created, 30)

        with killed_at_the_end(forked(update)) as pid:
            waiting = Path(f"/proc/{pid}/fd")
            wait_until(
                lambda: any(
                    os.path.realpath(entry) == str(path.with_name("x.lock"))
                    for entry in waiting.iterdir()
                ),
                timeout_s=10,
                what="the writer has opened the lock file",
            )
            assert existing(lock) == created
            fcntl.flock(other, fcntl.LOCK_UN)
            assert ended(pid) == 0
    assert existing(lock).record == NEXT


def test_a_child_forked_during_a_write_keeps_no_lock(path: Path) -> None:
    """A process that inherited the descriptor does not inherit the exclusion."""
    lock = lock_of(path)
    created = lock.create(FIRST, TIMEOUT_S)
    children: list[int] = []

    def fork_and_stay() -> None:
        children.append(forked(signal.pause))

    with interposed(at_name("rename", fork_and_stay)):
        updated = lock.update(NEXT, created, TIMEOUT_S)
    with killed_at_the_end(children[0]):
        assert lock_of(path).update(renewed(NEXT), updated, 0.0).record == renewed(NEXT)


def test_nothing_stays_open_between_operations(path: Path) -> None:
    """A lock at rest has no descriptor that a fork could inherit."""
    before = open_descriptors()
    lock = lock_of(path)
    created = lock.create(FIRST, TIMEOUT_S)
    lock.update(NEXT, created, TIMEOUT_S)
    with pytest.raises(Conflict):
        lock.update(NEXT, created, TIMEOUT_S)
    lock.read(TIMEOUT_S)
    assert open_descriptors() == before


# --- people beside us ------------------------------------------------------------------------


def test_a_lock_file_deleted_during_a_write_stops_it(path: Path) -> None:
    """A writer whose PATH.lock was deleted meanwhile does not overwrite what others wrote."""
    lock = lock_of(path)
    created = lock.create(FIRST, TIMEOUT_S)

    def update_and_stop() -> None:
        with (
            interposed(at_name("fsync", stop)),
            pytest.raises(Unavailable, match=r"x\.lock was deleted or replaced"),
        ):
            lock_of(path).update(replace(FIRST, holder="late"), created, TIMEOUT_S)

    with killed_at_the_end(forked(update_and_stop)) as pid:
        stopped(pid)
        path.with_name("x.lock").unlink()
        updated = lock.update(NEXT, created, 0.0)
        os.kill(pid, signal.SIGCONT)
        assert ended(pid) == 0
    assert existing(lock) == updated
    assert lock.update(renewed(NEXT), updated, TIMEOUT_S).record == renewed(NEXT)


def test_a_lock_file_deleted_before_the_flock_is_not_used(path: Path) -> None:
    """Who locked a file that no longer bears the name locks the one that does."""
    lock = lock_of(path)
    created = lock.create(FIRST, TIMEOUT_S)
    guard = path.with_name("x.lock")
    with interposed(at_name("flock", guard.unlink)):
        updated = lock.update(NEXT, created, TIMEOUT_S)
    assert guard.exists()
    assert existing(lock) == updated


def test_a_lock_file_that_never_stays_is_given_up(path: Path) -> None:
    """A PATH.lock that is deleted again and again ends in an error, not in a loop."""
    guard = path.with_name("x.lock")

    def between(
        name: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if name == "flock":
            guard.unlink(missing_ok=True)
        return real(*args, **kwargs)

    with interposed(between), pytest.raises(Unavailable, match=r"x\.lock keeps being replaced"):
        lock_of(path).create(FIRST, 0.05)
    assert not path.exists()


def test_a_holder_put_there_by_hand_is_not_overwritten(path: Path) -> None:
    """A record that was edited without a new version is a conflict for who saw the old one."""
    lock = lock_of(path)
    created = lock.create(FIRST, TIMEOUT_S)
    raw = json.loads(path.read_text())
    raw["record"]["holderIdentity"] = "by hand"
    path.write_text(json.dumps(raw))
    with pytest.raises(Conflict):
        lock.update(NEXT, created, TIMEOUT_S)
    assert existing(lock).record.holder == "by hand"


def test_all_names_of_one_file_are_one_lock(tmp_path: Path) -> None:
    """Through a link to the file or to its directory the same record and flock are used."""
    (tmp_path / "real").mkdir()
    (tmp_path / "alias").symlink_to("real")
    (tmp_path / "link").symlink_to("real/x")
    direct = lock_of(tmp_path / "real" / "x")
    created = lock_of(tmp_path / "link").create(FIRST, TIMEOUT_S)
    assert existing(direct) == created
    updated = lock_of(tmp_path / "alias" / "x").update(NEXT, created, TIMEOUT_S)
    assert existing(lock_of(tmp_path / "link")) == updated
    assert names(tmp_path) == {"real", "alias", "link"}
    assert names(tmp_path / "real") == {"x", "x.lock"}
    assert (tmp_path / "link").is_symlink()


def test_a_link_put_in_its_place_later_is_refused(tmp_path: Path, path: Path) -> None:
    """What was a file when the lock was made and is a link now leads nowhere."""
    lock = lock_of(path)
    lock.create(FIRST, TIMEOUT_S)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to("elsewhere")
    with pytest.raises(Unavailable, match="symbolic links"):
        lock.read(TIMEOUT_S)


def test_a_mount_point_is_explained(path: Path) -> None:
    """Where the kernel will not rename over a mounted file, the message says what to do."""
    created = lock_of(path).create(FIRST, TIMEOUT_S)

    def busy() -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), "x.lock.new", None, "x")

    with (
        interposed(at_name("rename", busy)),
        pytest.raises(Unavailable, match="share its directory instead"),
    ):
        lock_of(path).update(NEXT, created, TIMEOUT_S)


# --- the document ----------------------------------------------------------------------------


def test_the_document_is_the_documented_one(path: Path) -> None:
    """The file holds exactly what the format says, on one line that a person can read."""
    lock = lock_of(path)
    created = lock.create(replace(FIRST, acquire_time_us=None), TIMEOUT_S)
    text = path.read_text()
    assert text.endswith("}\n")
    assert text.count("\n") == 1
    assert json.loads(text) == {
        "election": "x",
        "uid": created.uid,
        "resourceVersion": "1",
        "record": {
            "holderIdentity": "a",
            "leaseDurationSeconds": 15,
            "acquireTime": None,
            "renewTime": "2027-01-15T08:00:00.123456Z",
            "leaseTransitions": 0,
        },
    }


def test_a_document_of_others_is_read(path: Path) -> None:
    """A document with other keys, another order and other forms of time is understood."""
    path.write_text(json.dumps(document(kind="Lease", metadata={"labels": {}}), indent=2))
    seen = existing(lock_of(path))
    assert (seen.uid, seen.version) == ("5f1c", "7")
    assert seen.record == Record(
        holder="a",
        lease_duration_s=15,
        acquire_time_us=1_531_388_099 * SECOND_US,
        renew_time_us=1_531_388_101 * SECOND_US + 500_000,
        transitions=3,
    )


@pytest.mark.parametrize("missing", [None, "absent"])
def test_what_is_missing_means_what_it_means_in_a_lease(path: Path, missing: object) -> None:
    """No holder is a free lock; no time, no transitions and no duration are handed up as such."""
    record = dict.fromkeys(document()["record"]) if missing is None else {}
    path.write_text(json.dumps(document(record=record)))
    assert existing(lock_of(path)).record == Record(holder="", lease_duration_s=0)


@rewriting_one_file
@given(
    st.dictionaries(st.text(), json_values, max_size=4),
    st.dictionaries(st.text(), json_values, max_size=4),
)
def test_unknown_keys_survive(path: Path, outer: dict[str, Any], inner: dict[str, Any]) -> None:
    """Whatever else a document carries is carried on by an update, on both levels."""
    known = document()
    raw = {**outer, **known, "record": {**inner, **known["record"]}}
    path.write_text(json.dumps(raw))
    lock = lock_of(path)
    updated = lock.update(FIRST, existing(lock), TIMEOUT_S)
    after = json.loads(path.read_text())
    assert after.pop("resourceVersion") == updated.version
    assert {key: after[key] for key in raw if key not in {"resourceVersion", "record"}} == {
        key: raw[key] for key in raw if key not in {"resourceVersion", "record"}
    }
    assert {key: after["record"][key] for key in inner if key not in known["record"]} == {
        key: inner[key] for key in inner if key not in known["record"]
    }
    assert existing(lock).record == FIRST


def test_another_elections_record_is_refused(path: Path) -> None:
    """A record of another election is neither read as free nor overwritten, and is named."""
    created = FileLock(str(path), "other").create(FIRST, TIMEOUT_S)
    before = path.read_bytes()
    lock = lock_of(path)
    expected = f"file:{path}: it holds the record of election 'other', not 'x'"
    with pytest.raises(Forbidden) as caught:
        lock.read(TIMEOUT_S)
    assert str(caught.value) == f"cannot read {expected}"
    with pytest.raises(Forbidden) as caught:
        lock.create(FIRST, TIMEOUT_S)
    assert str(caught.value) == f"cannot create {expected}"
    with pytest.raises(Forbidden) as caught:
        lock.update(NEXT, created, TIMEOUT_S)
    assert str(caught.value) == f"cannot update {expected}"
    watch = lock.watch(None)
    assert next(watch) is None
    with pytest.raises(Forbidden) as caught:
        next(watch)
    assert str(caught.value) == f"cannot watch {expected}"
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it is empty"),
        (b"\n", "it is not JSON"),
        (b"{", "it is not JSON"),
        (b"\xff\xfe", "it is not JSON"),
        (b"\xef\xbb\xbf{}", "it is not JSON"),
        (b"[" * 60_000, "it is not JSON"),
        (b"9" * 5_000, "it is not JSON"),
        (b" " * MAX_BYTES + b"{}", f"it is larger than {MAX_BYTES} bytes"),
        (b"null", "it is not a JSON object: None"),
        (b"[]", r"it is not a JSON object: \[\]"),
        (b"{}", "election is not a string: None"),
        (document(election=7), "election is not a string: 7"),
        (document(uid=None), "uid is not a string with content: None"),
        (document(uid=""), "uid is not a string with content: ''"),
        (document(resourceVersion=7), "resourceVersion is not a number in a string: 7"),
        (document(resourceVersion="07"), "resourceVersion is not a number in a string: '07'"),
        (document(resourceVersion="-1"), "resourceVersion is not a number in a string: '-1'"),
        (document(resourceVersion="٣"), "resourceVersion is not a number in a string: '٣'"),
        (document(resourceVersion="9" * 19), "resourceVersion is larger than 9223372036854775807"),
        (document(resourceVersion="9" * 20), "resourceVersion is not a number in a string"),
        (document(record=None), "record is not an object: None"),
        (document(record=[]), r"record is not an object: \[\]"),
        (document_with_record(holderIdentity=7), "holderIdentity is not a string: 7"),
        (document_with_record(leaseDurationSeconds="15"), "leaseDurationSeconds is not a whole n"),
        (document_with_record(leaseDurationSeconds=15.0), "leaseDurationSeconds is not a whole n"),
        (document_with_record(leaseDurationSeconds=True), "leaseDurationSeconds is not a whole n"),
        (document_with_record(leaseDurationSeconds=-1), "leaseDurationSeconds is not a whole num"),
        (document_with_record(leaseDurationSeconds=2**31), "leaseDurationSeconds is not a whole"),
        (document_with_record(leaseTransitions=[]), "leaseTransitions is not a whole number"),
        (document_with_record(renewTime="now"), "renewTime: 'now' is not an RFC 3339 time"),
        (document_with_record(acquireTime=7), "acquireTime is not a string: 7"),
        (document(other=float("nan")), "it is not JSON: NaN is not JSON"),
        (document(other=float("inf")), "it is not JSON: Infinity is not JSON"),
        (json.dumps(document(other=0)).replace(": 0}", ": 1e999}").encode(), "out of range"),
    ],
    ids=lambda value: value[:20] if isinstance(value, bytes | str) else "document",
)
def test_what_is_wrong_is_named(path: Path, content: object, problem: str) -> None:
    """A document that cannot be understood is an error that says why, for every operation."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.write_bytes(data)
    lock = lock_of(path)
    seen = Snapshot(FIRST, "5f1c", "7")
    with pytest.raises(Unavailable, match=f"^cannot read file:{path}: .*{problem}"):
        lock.read(TIMEOUT_S)
    with pytest.raises(Unavailable, match=f"^cannot create file:{path}: .*{problem}"):
        lock.create(FIRST, TIMEOUT_S)
    with pytest.raises(Unavailable, match=f"^cannot update file:{path}: .*{problem}"):
        lock.update(NEXT, seen, TIMEOUT_S)
    assert path.read_bytes() == data


@rewriting_one_file
@given(st.binary(max_size=200))
def test_garbage_is_never_a_free_lock(path: Path, content: bytes) -> None:
    """Arbitrary bytes raise an error of a lock, for every operation, and stay as they are."""
    path.write_bytes(content)
    lock = lock_of(path)
    with pytest.raises((Unavailable, Forbidden)):
        lock.read(TIMEOUT_S)
    with pytest.raises((Unavailable, Forbidden)):
        lock.create(FIRST, TIMEOUT_S)
    assert path.read_bytes() == content


@rewriting_one_file
@given(
    st.sampled_from(
        [
            *("election", "uid", "resourceVersion", "other"),
            *("leaseDurationSeconds", "acquireTime", "renewTime", "leaseTransitions"),
        ]
    ),
    json_values,
)
def test_a_damaged_document_is_never_a_free_lock(path: Path, key: str, value: object) -> None:
    """With any one value replaced by any other, the holder is still seen or an error raised."""
    within = key in document()["record"]
    raw = document_with_record(**{key: value}) if within else document(**{key: value})
    path.write_text(json.dumps(raw))
    lock = lock_of(path)
    with contextlib.suppress(Unavailable, Forbidden):
        assert existing(lock).record.holder == "a"
    with pytest.raises((Conflict, Unavailable, Forbidden)):
        lock.create(NEXT, TIMEOUT_S)


def test_every_truncation_is_noticed(path: Path) -> None:
    """A document of which the end is missing is never taken for a whole one."""
    whole = json.dumps(document()).encode()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(Unavailable):
            lock_of(path).read(TIMEOUT_S)


@pytest.mark.parametrize(
    "record",
    [
        replace(FIRST, holder="h" * MAX_BYTES),
        replace(FIRST, lease_duration_s=-1),
        replace(FIRST, lease_duration_s=2**31),
        replace(FIRST, transitions=2**31),
        replace(FIRST, renew_time_us=10**18),
        replace(FIRST, acquire_time_us=-(10**18)),
        replace(FIRST, holder="\ud834\udd1e"),  # as JSON this is one character
    ],
    ids=["size", "negative", "duration", "transitions", "late", "early", "surrogates"],
)
def test_nothing_is_written_that_could_not_be_read(path: Path, record: Record) -> None:
    """A record that the format cannot hold is refused, and the old one stays."""
    lock = lock_of(path)
    created = lock.create(FIRST, TIMEOUT_S)
    with pytest.raises(Unavailable, match=r"cannot update .*: the record c"):
        lock.update(record, created, TIMEOUT_S)
    assert existing(lock) == created
    assert lock.update(NEXT, created, TIMEOUT_S).record == NEXT


def test_deep_nesting_is_carried_on_or_refused(path: Path) -> None:
    """An unknown value nested as deep as it gets never breaks a reader or a writer."""
    for depth in (10, 100, 500, 900, 990, 2_000, 20_000):
        text = json.dumps(document(deep=0)).replace(": 0}", ": " + "[" * depth + "]" * depth + "}")
        path.write_text(text)
        lock = lock_of(path)
        updated = None
        with contextlib.suppress(Unavailable):
            updated = lock.update(FIRST, existing(lock), TIMEOUT_S)
        after = path.read_text()
        assert after == text if updated is None else "[" * depth + "]" * depth in after


# --- watching --------------------------------------------------------------------------------


def test_an_idle_watch_reads_nothing(path: Path) -> None:
    """A watch sleeps while nothing happens to its own name, whatever happens beside it."""
    lock = lock_of(path)
    created = lock.create(FIRST, TIMEOUT_S)
    reads = 0

    def between(
        name: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        nonlocal reads
        if name == "open" and args[0] == "x":
            reads += 1
        return real(*args, **kwargs)

    with interposed(between), Watching(lock_of(path), created, bound_s=10) as watching:
        watching.wait_for_yields(1)
        wait_until(lambda: reads == 1, timeout_s=10, what="the first look")
        for number in range(300):
            (path.parent / f"other-{number}").write_text("")
            (path.parent / f"other-{number}").unlink()
        path.write_text(
            path.read_text().replace('"resourceVersion": "1"', '"resourceVersion": "2"')
        )
        watching.wait_for_last(replace(created, version="2"))
    assert reads <= 3  # the first look, the change, and one more look after it


def test_an_edit_by_hand_is_seen(path: Path) -> None:
    """A change of the record without a new version is a change, and so is a copy put there."""
    lock = lock_of(path)
    created = lock.create(FIRST, TIMEOUT_S)
    with Watching(lock_of(path), created, bound_s=10) as watching:
        watching.wait_for_yields(1)
        overwrite(path, '"holderIdentity": "a"', '"holderIdentity": "b"')
        watching.wait_for_last(replace(created, record=replace(FIRST, holder="b")))
        path.rename(path.with_name("away"))
        watching.wait_for_last(None)
        path.with_name("away").rename(path)
        watching.wait_for_last(replace(created, record=replace(FIRST, holder="b")))
    assert watching.error is None


@pytest.mark.parametrize("how", ["removed", "renamed"])
def test_a_watch_ends_with_its_directory(tmp_path: Path, how: str) -> None:
    """When the directory goes, no report will come any more: the watch says so."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with Watching(lock_of(folder / "x"), None, bound_s=10) as watching:
        watching.wait_for_yields(1)
        if how == "removed":
            folder.rmdir()
        else:
            folder.rename(tmp_path / "other")
        watching.wait_for_end()
    assert isinstance(watching.error, Unavailable)
    assert str(watching.error).startswith(f"cannot watch file:{folder}/x: ")


def test_a_record_that_breaks_ends_the_watch(path: Path) -> None:
    """A watch that meets what it cannot read raises, as a read would."""
    lock = lock_of(path)
    created = lock.create(FIRST, TIMEOUT_S)
    with Watching(lock, created, bound_s=10) as watching:
        watching.wait_for_yields(1)
        overwrite(path, "{", "?")
        watching.wait_for_end()
    assert isinstance(watching.error, Unavailable)
    assert "it is not JSON" in str(watching.error)


class _RefusingLibc:
    """Stands for a C library whose kernel has reached a limit."""

    def __init__(self, failing_call: str, code: int) -> None:
        self._failing_call = failing_call
        self._code = code

    def inotify_init1(self, flags: int) -> int:
        if self._failing_call == "inotify_init1":
            ctypes.set_errno(self._code)
            return -1
        return os.eventfd(0, flags)

    def inotify_add_watch(self, *_: object) -> int:
        ctypes.set_errno(self._code)
        return -1


@pytest.mark.parametrize(
    ("failing_call", "code"),
    [
        ("inotify_init1", errno.EMFILE),
        ("inotify_init1", errno.ENOSYS),
        ("inotify_add_watch", errno.ENOSPC),
    ],
)
def test_without_inotify_the_watch_is_unavailable(
    path: Path, monkeypatch: pytest.MonkeyPatch, failing_call: str, code: int
) -> None:
    """Where the kernel has no report to give, the watch says so before it yields anything."""
    monkeypatch.setattr(file_module, "_libc", lambda: _RefusingLibc(failing_call, code))
    lock = lock_of(path)
    before = open_descriptors()
    with pytest.raises(Unavailable) as caught:
        next(iter(lock.watch(None)))
    assert str(caught.value) == f"cannot watch file:{path}: {failing_call}: {os.strerror(code)}"
    assert open_descriptors() == before


def test_without_descriptors_the_watch_is_unavailable(path: Path) -> None:
    """A process that may open nothing more gets the error of a lock."""
    lock = lock_of(path)

    def watch_without_descriptors() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
        with pytest.raises(Unavailable, match=r"cannot watch .*: Too many open files"):
            next(iter(lock.watch(None)))

    assert ended(forked(watch_without_descriptors)) == 0


def test_lost_reports_are_made_up_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the kernel's queue overflows, the file is read, since it may have been among them."""
    reports = file_module._Inotify(str(path.parent))
    try:
        assert not reports.changed("x")
        path.with_name("other").write_text("")
        assert not reports.changed("x")
        overflow = struct.pack("iIII", -1, 0x4000, 0, 0)
        monkeypatch.setattr(os, "read", lambda *_: overflow)
        assert reports.changed("x")
    finally:
        monkeypatch.undo()
        reports.close()


def test_an_abandoned_watch_leaves_nothing_open(path: Path) -> None:
    """A watch that is closed, interrupted or broken gives its descriptors back."""
    before = open_descriptors()
    lock = lock_of(path)
    abandoned = iter(lock.watch(None))
    assert next(abandoned) is None
    assert open_descriptors() == before + 2
    del abandoned
    assert open_descriptors() == before
    lock.interrupt_watch()
    assert list(lock.watch(None)) == []
    path.write_text("broken")
    with pytest.raises(Unavailable):
        list(lock.watch(None))
    lock.close()
    assert list(lock.watch(None)) == []
    assert open_descriptors() == before


# --- check -----------------------------------------------------------------------------------


def test_check_finds_nothing_wrong_and_writes_nothing(path: Path) -> None:
    """A fresh path and a path in use both pass, and nothing is created or changed."""
    assert check(str(path), "x") is None
    assert names(path.parent) == set()
    lock_of(path).create(FIRST, TIMEOUT_S)
    before = {name: (path.parent / name).read_bytes() for name in names(path.parent)}
    assert check(str(path), "x") is None
    assert {name: (path.parent / name).read_bytes() for name in names(path.parent)} == before


def test_check_says_what_is_wrong(tmp_path: Path, path: Path) -> None:
    """Each reason why a path cannot serve is named before anything runs."""
    assert check("", "x") == "it is not a possible file name"
    assert check("a\0b", "x") == "it is not a possible file name"
    assert check("/", "x") is not None
    assert check(f"{tmp_path}/gone/x", "x") == f"directory {tmp_path}/gone does not exist"
    (tmp_path / "file").write_text("")
    assert check(f"{tmp_path}/file/x", "x") == f"{tmp_path}/file is not a directory"
    assert check(str(tmp_path), "x") == "it is not a regular file"
    os.mkfifo(tmp_path / "pipe")
    assert check(f"{tmp_path}/pipe", "x") == "it is not a regular file"
    assert check(f"{tmp_path}/file", "x") == "it is empty"
    (tmp_path / "loop").symlink_to("loop")
    assert check(f"{tmp_path}/loop", "x") == "it is not a regular file"
    assert check(f"{tmp_path}/{'n' * 300}", "x") is not None
    FileLock(str(path), "other").create(FIRST, TIMEOUT_S)
    assert check(str(path), "x") == "it holds the record of election 'other', not 'x'"
    assert check(f"{tmp_path}/y", "x") is None
    (tmp_path / "y.lock").write_text("somebody else's file, of whatever kind")
    assert check(f"{tmp_path}/y", "x") == "y.lock is not its lock file: it has other content"
    (tmp_path / "z.lock").mkdir()
    assert check(f"{tmp_path}/z", "x") == "z.lock is not a regular file"


def test_an_update_of_nothing_is_absent(path: Path) -> None:
    """Where the file was deleted the update says that it is gone, not that it changed."""
    lock = lock_of(path)
    created = lock.create(FIRST, TIMEOUT_S)
    path.unlink()
    with pytest.raises(Absent, match=f"cannot update file:{path}: it does not exist"):
        lock.update(NEXT, created, TIMEOUT_S)
