"""What only the lock in a file promises: crashes, errors and people at any instant.

The system calls of `leaderexec.locks.file` go wrong one by one, processes are killed and stopped
inside them, and files have been written by somebody else. The contract suite asks the rest.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import itertools
import json
import os
import signal
import stat
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.context import ForkContext, ForkProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from leaderexec.locks import file as file_module
from leaderexec.locks.base import Absent, Conflict, Forbidden, LockError, Unavailable
from leaderexec.locks.file import MAX_BYTES, FileLock, check
from leaderexec.model import Snapshot
from tests.support import golden
from tests.support.lock_contract import FIRST, Watching, json_values, renewed

TIMEOUT_S = 10.0
NEXT = renewed(FIRST)
NOBODY = 65534

#: Each example writes a file, or several: some hundreds are enough.
rewriting_one_file = settings(
    max_examples=max(150, settings().max_examples // 7),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the record is; the directory holds nothing else."""
    return tmp_path / "x"


@pytest.fixture
def lock(path: Path) -> FileLock:
    """A client of the lock at `path`."""
    return lock_of(path)


@pytest.fixture
def created(lock: FileLock) -> Snapshot:
    """The first version of the record."""
    return lock.create(FIRST, TIMEOUT_S)


def lock_of(path: Path, election: str = "x") -> FileLock:
    """Return another client of the lock at `path`."""
    return FileLock(str(path), election)


def document(**changes: Any) -> dict[str, Any]:
    """Return a document as others may write it, held by `a`, with changes on either level."""
    record = {
        "holderIdentity": "a",
        "leaseDurationSeconds": 15,
        "acquireTime": "2018-07-12T09:34:59.000000Z",
        "renewTime": "2018-07-12T09:35:01.500000Z",
        "leaseTransitions": 3,
    }
    inner = {key: changes.pop(key) for key in record if key in changes}
    whole = {"election": "x", "uid": "5f1c", "resourceVersion": "7", "record": {**record, **inner}}
    return {**whole, **changes}


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


@contextlib.contextmanager
def forked(function: Callable[[], object]) -> Iterator[ForkProcess]:
    """Run `function` in a child, which exits 0 if nothing is raised and does not outlive this."""
    process = ForkContext().Process(target=function)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def run(function: Callable[[], object]) -> int | None:
    """Run `function` in a child and return its exit code, negative for a signal."""
    with forked(function) as child:
        child.join(30)
        return child.exitcode


@contextlib.contextmanager
def stopped_before(name: str, function: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """Run `function` in a child, stopped right before the first call of a name until told to."""

    def run_and_stop() -> None:
        with interposed(at(name, lambda: os.kill(os.getpid(), signal.SIGSTOP))):
            function()

    with forked(run_and_stop) as child:
        assert child.pid

        def go_on() -> None:
            os.kill(child.pid or 0, signal.SIGCONT)
            child.join(30)
            assert child.exitcode == 0

        _, status = os.waitpid(child.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), "it ended instead"
        yield go_on


#: Stands between the lock and a system call: gets its name, the call itself, its arguments.
Call = Callable[..., Any]
Interposed = Callable[[str, Call, tuple[Any, ...]], Any]

#: The system calls by which the lock touches the disk.
SYSTEM_CALLS = {
    *("open", "close", "read", "write", "pread", "pwrite", "fsync", "fdatasync"),
    *("flock", "fstat", "stat", "fchmod", "rename", "unlink"),
}


@contextlib.contextmanager
def interposed(between: Interposed) -> Iterator[None]:
    """Let `between` have every system call of the lock."""

    def stand_in(name: str, real: Call, *args: Any, **named: Any) -> Any:
        return between(name, functools.partial(real, **named), args)

    with pytest.MonkeyPatch.context() as patch:
        for module in (os, fcntl):
            known = vars(module)
            calls = {
                name: functools.partial(stand_in, name, known[name])
                for name in SYSTEM_CALLS & set(known)
            }
            patch.setattr(file_module, module.__name__, SimpleNamespace(**known | calls))
        yield


@contextlib.contextmanager
def recorded() -> Iterator[list[tuple[str, Any]]]:
    """Note each call and the first thing that it is about."""
    calls: list[tuple[str, Any]] = []

    def between(name: str, call: Call, args: tuple[Any, ...]) -> Any:
        result = call(*args)
        calls.append((name, result if name == "open" else args[0]))
        return result

    with interposed(between):
        yield calls


def at(wanted: int | str, act: Callable[[], object]) -> Interposed:
    """Do something right before a call: the first of a name, or the so-manieth of all."""
    seen: list[int | str] = []

    def between(name: str, call: Call, args: tuple[Any, ...]) -> Any:
        is_first = name not in seen
        seen.append(name)
        if wanted == len(seen) or (wanted == name and is_first):
            try:
                act()
            except OSError:
                if name == "close":  # as in the kernel, the descriptor is closed all the same
                    call(*args)
                raise
        return call(*args)

    return between


def fail(code: int) -> None:
    """Fail as a system call fails."""
    raise OSError(code, os.strerror(code))


def failing(wanted: int | str, code: int) -> Interposed:
    """Let one call fail."""
    return at(wanted, functools.partial(fail, code))


def cut_short(wanted: str, length: Callable[[int], int], act: Callable[[], object]) -> Interposed:
    """Let a call write a part only, and do something after it."""

    def between(name: str, call: Call, args: tuple[Any, ...]) -> Any:
        if name != wanted:
            return call(*args)
        written = call(args[0], args[1][: length(len(args[1]))], *args[2:])
        act()
        return written

    return between


def die() -> None:
    """Die as a process dies that has no say in it."""
    os.kill(os.getpid(), signal.SIGKILL)


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


def write_and_crash(path: Path, old: Snapshot | None, between: Interposed) -> int | None:
    """Write in a process of its own and return how that ended."""

    def write() -> None:
        with interposed(between):
            if old is None:
                lock_of(path).create(NEXT, TIMEOUT_S)
            else:
                lock_of(path).update(NEXT, old, TIMEOUT_S)

    return run(write)


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
    # Without time to wait: the flock of a dead writer is gone with it.
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


@pytest.mark.parametrize("beginning", ["nothing", "deleted", "existing", "leftover"])
def test_a_crash_at_any_call_leaves_the_old_or_the_new(tmp_path: Path, beginning: str) -> None:
    """Before or within whichever call a writer is killed: one whole version, no number twice."""
    landed: list[bool] = []
    code: int | None = -signal.SIGKILL
    while code == -signal.SIGKILL:
        path = tmp_path / str(len(landed)) / "x"
        old, highest = before_the_crash(path, beginning)
        code = write_and_crash(path, old, at(len(landed) + 1, die))
        landed.append(assert_survived(path, old, highest))
    assert code == 0
    for call in ("pwrite", "write"):
        path = tmp_path / call / "x"
        old, highest = before_the_crash(path, beginning)
        half = cut_short(call, lambda length: length // 2, die)
        assert write_and_crash(path, old, half) == -signal.SIGKILL
        assert not assert_survived(path, old, highest), f"half of a {call}"
    assert len(landed) > 15
    assert landed == sorted(landed), "once the name is given, it is given"
    assert set(landed) == {False, True}


def test_a_version_is_on_disk_before_it_counts(lock: FileLock, created: Snapshot) -> None:
    """The number, the content, the name and the directory are synced in the order that matters."""
    with recorded() as calls:
        lock.update(NEXT, created, TIMEOUT_S)
    # The third is the record itself.
    folder, guard, _, fresh = (what for name, what in calls if name == "open")
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
def test_a_torn_number_falls_back_to_the_record(path: Path, lock: FileLock, torn: bytes) -> None:
    """What a power cut left of the highest version is not believed; the record's own is."""
    path.write_text(json.dumps(document(resourceVersion="41")))
    path.with_name("x.lock").write_bytes(torn)
    assert lock.update(FIRST, existing(lock), TIMEOUT_S).version == "42"
    path.unlink()
    assert lock.create(FIRST, TIMEOUT_S).version == "43"


def test_versions_survive_what_people_delete(path: Path, lock: FileLock) -> None:
    """Either file may go, or an older record come back, and the versions go on.

    With both files gone they begin again, as another object.
    """
    first = lock.create(FIRST, TIMEOUT_S)
    path.unlink()
    with pytest.raises(Absent, match=f"cannot update file:{path}: it does not exist"):
        lock.update(NEXT, first, TIMEOUT_S)
    second = lock.create(FIRST, TIMEOUT_S)
    backup = path.read_bytes()
    path.with_name("x.lock").unlink()
    third = lock.update(NEXT, second, TIMEOUT_S)
    path.write_bytes(backup)
    with pytest.raises(Conflict):
        lock.update(renewed(NEXT), third, TIMEOUT_S)
    fourth = lock.update(NEXT, existing(lock), TIMEOUT_S)
    path.unlink()
    path.with_name("x.lock").unlink()
    again = lock.create(FIRST, TIMEOUT_S)
    versions = [snapshot.version for snapshot in (first, second, third, fourth, again)]
    assert versions == ["1", "2", "3", "4", "1"]
    assert len({first.uid, second.uid, again.uid}) == 3


def test_the_last_version_is_the_end(path: Path, lock: FileLock) -> None:
    """Where no greater version exists, nothing is written."""
    path.write_text(json.dumps(document(resourceVersion=str(2**63 - 1))))
    seen = existing(lock)
    with pytest.raises(Unavailable, match="no version is left"):
        lock.update(FIRST, seen, TIMEOUT_S)
    assert existing(lock) == seen


# --- errors of the operating system ----------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        *((Forbidden, code) for code in (errno.EACCES, errno.EPERM, errno.EROFS)),
        *((Unavailable, code) for code in (errno.ENOSPC, errno.EIO, errno.ENOLCK, errno.ESTALE)),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
def test_an_error_of_any_call_is_a_lock_error(
    path: Path, lock: FileLock, created: Snapshot, code: int, kind: type[LockError]
) -> None:
    """Whichever call fails: an error of a lock, one whole version, nothing left open or locked."""
    with recorded() as calls:
        seen = lock.update(NEXT, created, TIMEOUT_S)
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
        assert names(path.parent) == {"x", "x.lock"}
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


@pytest.mark.usefixtures("created")
def test_a_read_that_fails_is_no_free_lock(path: Path, lock: FileLock) -> None:
    """Whichever call of a read fails, it raises; it never says that there is nothing."""
    with recorded() as noted:
        lock.read(TIMEOUT_S)
    for number in range(1, len(noted) + 1):
        with (
            interposed(failing(number, errno.EIO)),
            pytest.raises(Unavailable, match=f"cannot read file:{path}: Input/output error"),
        ):
            lock.read(TIMEOUT_S)
    assert len(noted) >= 5


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (cut_short("pwrite", lambda _: 5, lambda: None), r"No space left on device: x\.lock"),
        (failing("rename", errno.EBUSY), "share its directory instead"),
    ],
    ids=["the disk is full", "the file is a mount point"],
)
def test_a_write_that_fails_is_explained_and_keeps_the_old_version(
    path: Path, lock: FileLock, created: Snapshot, trouble: Interposed, words: str
) -> None:
    """A number cut short, or a mounted file: there is no leftover, and the next write works."""
    with interposed(trouble), pytest.raises(Unavailable, match=words):
        lock.update(NEXT, created, TIMEOUT_S)
    assert existing(lock) == created
    assert names(path.parent) == {"x", "x.lock"}
    assert int(lock.update(NEXT, created, TIMEOUT_S).version) > int(created.version)


@pytest.mark.parametrize("code", [errno.EIO, errno.EINVAL, errno.EOPNOTSUPP])
def test_a_name_that_may_not_be_on_disk_is_no_success(lock: FileLock, code: int) -> None:
    """What a power cut may undo is not reported as done, unless directories know no sync."""

    def between(name: str, call: Call, args: tuple[Any, ...]) -> Any:
        if name == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode):
            fail(code)
        return call(*args)

    fails = pytest.raises(Unavailable, match="Input/output error")
    with interposed(between), fails if code == errno.EIO else contextlib.nullcontext():
        lock.create(FIRST, TIMEOUT_S)
    assert existing(lock).record == FIRST


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
        path, guard = folder / "x", folder / "x.lock"
        lock = lock_of(path)
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)

        def without_privileges() -> None:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            folder.chmod(0o555)
            with pytest.raises(Forbidden, match=r"create .*: Permission denied: x\.lock"):
                lock.create(FIRST, TIMEOUT_S)
            assert "is not readable and writable" in str(check(str(path), "x"))
            folder.chmod(0o755)
            seen = lock.create(FIRST, TIMEOUT_S)
            guard.chmod(0o444)
            with pytest.raises(Forbidden, match=r"update .*: Permission denied: x\.lock"):
                lock.update(NEXT, seen, TIMEOUT_S)
            assert check(str(path), "x") == "x.lock is not readable and writable"
            path.chmod(0)
            with pytest.raises(Forbidden, match=r"read .*: Permission denied$"):
                lock.read(TIMEOUT_S)
            folder.chmod(0)
            with pytest.raises(Forbidden, match=r"watch .*: Permission denied"):
                next(iter(lock.watch(None)))
            folder.chmod(0o755)

        assert run(without_privileges) == 0


# --- other processes and people at work on the same files ------------------------------------


def test_a_stopped_writer_blocks_nobody_for_ever(
    path: Path, lock: FileLock, created: Snapshot
) -> None:
    """While a writer is stopped others read, and cannot write, and are told so in time."""
    with stopped_before("rename", lambda: lock.update(NEXT, created, TIMEOUT_S)) as go_on:
        assert existing(lock) == created
        for timeout_s in (0.0, 0.3):
            started_s = time.monotonic()
            with pytest.raises(Unavailable, match=r"another process has kept x\.lock locked"):
                lock_of(path).update(renewed(NEXT), created, timeout_s)
            assert timeout_s <= time.monotonic() - started_s < 5
        go_on()
    assert existing(lock).record == NEXT


def test_a_child_forked_during_a_write_keeps_no_lock(
    path: Path, lock: FileLock, created: Snapshot
) -> None:
    """A process that inherited the descriptor does not inherit the exclusion."""
    with contextlib.ExitStack() as stack:
        fork = functools.partial(stack.enter_context, forked(signal.pause))
        with interposed(at("rename", fork)):
            updated = lock.update(NEXT, created, TIMEOUT_S)
        assert lock_of(path).update(renewed(NEXT), updated, 0.0).record == renewed(NEXT)


def test_a_lock_file_deleted_during_a_write_stops_it(
    path: Path, lock: FileLock, created: Snapshot
) -> None:
    """A writer whose PATH.lock was deleted meanwhile does not overwrite what others wrote."""

    def update_late() -> None:
        with pytest.raises(Unavailable, match=r"x\.lock was deleted or replaced"):
            lock_of(path).update(replace(FIRST, holder="late"), created, TIMEOUT_S)

    with stopped_before("fsync", update_late) as go_on:
        path.with_name("x.lock").unlink()
        updated = lock.update(NEXT, created, 0.0)
        go_on()
    assert existing(lock) == updated
    assert lock.update(renewed(NEXT), updated, TIMEOUT_S).record == renewed(NEXT)


def test_a_lock_file_deleted_before_the_flock_is_not_used(
    path: Path, lock: FileLock, created: Snapshot
) -> None:
    """Who locked a file that no longer bears the name locks the one that does, if any stays."""
    guard = path.with_name("x.lock")
    with interposed(at("flock", guard.unlink)):
        updated = lock.update(NEXT, created, TIMEOUT_S)
    assert guard.exists()
    assert existing(lock) == updated

    def between(name: str, call: Call, args: tuple[Any, ...]) -> Any:
        if name == "flock":
            guard.unlink(missing_ok=True)
        return call(*args)

    with interposed(between), pytest.raises(Unavailable, match=r"x\.lock keeps being replaced"):
        lock.update(renewed(NEXT), updated, 0.05)
    assert existing(lock) == updated


def test_a_holder_put_there_by_hand_is_not_overwritten(
    path: Path, lock: FileLock, created: Snapshot
) -> None:
    """A record that was edited without a new version is a conflict for who saw the old one."""
    overwrite(path, '"holderIdentity": "a"', '"holderIdentity": "b"')
    with pytest.raises(Conflict):
        lock.update(NEXT, created, TIMEOUT_S)
    assert existing(lock).record.holder == "b"


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


# --- the document ----------------------------------------------------------------------------


def test_the_document_is_the_documented_one(path: Path, lock: FileLock) -> None:
    """The file holds exactly what the format says, on one line that a person can read."""
    created = lock.create(replace(FIRST, acquire_time_us=None), TIMEOUT_S)
    text = path.read_text()
    assert text.endswith("}\n")
    assert text.count("\n") == 1
    assert json.loads(text) == document(
        uid=created.uid,
        resourceVersion="1",
        acquireTime=None,
        renewTime="2027-01-15T08:00:00.123456Z",
        leaseTransitions=0,
    )


def test_golden_documents(path: Path, lock: FileLock) -> None:
    """A record is read as it is meant; anything else is an error, for every operation alike."""

    def answer(place: str, given: str) -> str:
        if place == "a document with this value":
            key, _, value = given.partition(" ")
            data = json.dumps(document(**{key: 0})).replace(f'"{key}": 0', f'"{key}": {value}')
        else:
            (data,) = golden.words(given)
        path.write_bytes(data.encode("utf-8" if place.startswith("a document") else "latin-1"))
        complaints = set()
        calls: dict[str, Callable[[], Snapshot | None]] = {
            "read": lambda: lock.read(TIMEOUT_S),
            "create": lambda: lock.create(FIRST, TIMEOUT_S),
            "update": lambda: lock.update(NEXT, Snapshot(FIRST, "5f1c", "7"), TIMEOUT_S),
        }
        for verb, call in calls.items():
            try:
                found = call()
            except (Unavailable, Forbidden) as error:
                complaint = str(error).removeprefix(f"cannot {verb} file:{path}: ")
                complaints.add(f"{type(error).__name__}: {complaint}")
            else:
                assert found is not None
                return repr(found.record)
        (complaint,) = complaints
        return complaint

    golden.check("file-lock", answer)


@pytest.mark.usefixtures("created")
def test_another_elections_record_is_refused(path: Path) -> None:
    """A record of another election is neither read as free nor overwritten, and is named."""
    before = path.read_bytes()
    lock = lock_of(path, "other")
    calls: dict[str, Callable[[], object]] = {
        "read": lambda: lock.read(TIMEOUT_S),
        "create": lambda: lock.create(FIRST, TIMEOUT_S),
        "update": lambda: lock.update(NEXT, existing(lock_of(path)), TIMEOUT_S),
        "watch": lambda: list(itertools.islice(lock.watch(None), 2)),
    }
    for verb, call in calls.items():
        with pytest.raises(Forbidden, match=f"^cannot {verb} .* election 'x', not 'other'$"):
            call()
    assert path.read_bytes() == before


WHOLE = json.dumps(document()).encode()
damaged = st.tuples(
    st.sampled_from(
        ["election", "uid", "resourceVersion", "other", "leaseDurationSeconds", "renewTime"]
    ),
    json_values,
).map(lambda change: json.dumps(document(**dict([change]))).encode())


@rewriting_one_file
@example(b"[" * 60_000)
@example(b"9" * 5_000)
@given(st.binary(max_size=200) | st.integers(0, len(WHOLE) - 1).map(lambda n: WHOLE[:n]) | damaged)
def test_what_is_no_record_is_never_a_free_lock(path: Path, content: bytes) -> None:
    """Bytes, a document cut short or with another value: held or an error, never created over."""
    path.write_bytes(content)
    lock = lock_of(path)
    with contextlib.suppress(Unavailable, Forbidden):
        assert existing(lock).record.holder == "a"
    with pytest.raises((Conflict, Unavailable, Forbidden)):
        lock.create(NEXT, TIMEOUT_S)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "changes",
    [
        {"holder": "h" * MAX_BYTES},
        {"holder": "\ud834\udd1e"},  # as JSON this is one character
        {"lease_duration_s": -1},
        {"lease_duration_s": 2**31},
        {"transitions": 2**31},
        {"renew_time_us": 10**18},
        {"acquire_time_us": -(10**18)},
    ],
    ids=["too large", "surrogates", "negative", "long", "many changes", "late", "early"],
)
def test_nothing_is_written_that_could_not_be_read(
    lock: FileLock, created: Snapshot, changes: dict[str, Any]
) -> None:
    """A record that the format cannot hold is refused, and the old one stays."""
    with pytest.raises(Unavailable, match=r"cannot update .*: the record c"):
        lock.update(replace(FIRST, **changes), created, TIMEOUT_S)
    assert existing(lock) == created
    assert lock.update(NEXT, created, TIMEOUT_S).record == NEXT


def test_deep_nesting_is_carried_on_or_refused(path: Path, lock: FileLock) -> None:
    """An unknown value nested as deep as it gets never breaks a reader or a writer."""
    for depth in (10, 100, 500, 900, 990, 2_000, 20_000):
        text = json.dumps(document(deep=0)).replace(": 0}", ": " + "[" * depth + "]" * depth + "}")
        path.write_text(text)
        updated = None
        with contextlib.suppress(Unavailable):
            updated = lock.update(FIRST, existing(lock), TIMEOUT_S)
        after = path.read_text()
        assert after == text if updated is None else "[" * depth + "]" * depth in after


# --- watching --------------------------------------------------------------------------------


def test_an_edit_by_hand_is_seen(path: Path, lock: FileLock, created: Snapshot) -> None:
    """A change without a new version is a change, so is a copy put there; garbage is an error."""
    edited = replace(created, record=replace(FIRST, holder="b"))
    with Watching(lock, created, bound_s=10) as watching:
        watching.wait_for_yields(1)
        overwrite(path, '"holderIdentity": "a"', '"holderIdentity": "b"')
        watching.wait_for_last(edited)
        path.rename(path.with_name("away"))
        watching.wait_for_last(None)
        path.with_name("away").rename(path)
        watching.wait_for_last(edited)
        overwrite(path, "{", "?")
        watching.wait_for_end()
    assert isinstance(watching.error, Unavailable)
    assert "it is not JSON" in str(watching.error)


@pytest.mark.parametrize("go", [Path.rmdir, lambda folder: folder.rename(f"{folder}-2")])
def test_a_watch_ends_with_its_directory(tmp_path: Path, go: Callable[[Path], object]) -> None:
    """When the directory goes, no report will come any more: the watch says so."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with Watching(lock_of(folder / "x"), None, bound_s=10) as watching:
        watching.wait_for_yields(1)
        go(folder)
        watching.wait_for_end()
    assert isinstance(watching.error, Unavailable)
    assert str(watching.error).startswith(f"cannot watch file:{folder}/x: ")


@pytest.mark.parametrize(
    ("call", "code"), [("inotify_init1", errno.EMFILE), ("inotify_add_watch", errno.ENOSPC)]
)
def test_without_inotify_the_watch_is_unavailable(
    lock: FileLock, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    """Where the kernel has no report to give, the watch says so before it yields anything."""

    def refuse(*_: object) -> int:
        ctypes.set_errno(code)
        return -1

    libc = SimpleNamespace(inotify_init1=lambda flags: os.eventfd(0, flags))
    setattr(libc, call, refuse)
    monkeypatch.setattr(file_module, "_libc", lambda: libc)
    before = open_descriptors()
    with pytest.raises(Unavailable) as caught:
        next(iter(lock.watch(None)))
    assert str(caught.value) == f"cannot watch {lock.description}: {call}: {os.strerror(code)}"
    assert open_descriptors() == before


def test_lost_reports_are_made_up_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the kernel's queue overflows, the file is read, since it may have been among them."""
    with contextlib.closing(file_module._Inotify(str(path.parent))) as reports:
        assert not reports.changed("x")
        path.with_name("other").write_text("")
        assert not reports.changed("x")
        overflow = struct.pack("iIII", -1, 0x4000, 0, 0)
        monkeypatch.setattr(os, "read", lambda *_: overflow)
        assert reports.changed("x")
        monkeypatch.undo()


def test_an_abandoned_watch_leaves_nothing_open(path: Path, lock: FileLock) -> None:
    """A watch that is closed, interrupted or broken gives its descriptors back."""
    before = open_descriptors()
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


def test_golden_paths(tmp_path: Path) -> None:
    """Each reason is named before anything runs, and is never taken for a free lock later."""
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("folder")
    lock_of(tmp_path / "other", "other").create(FIRST, TIMEOUT_S)
    (tmp_path / "taken.lock").write_text("another program's file, of whatever kind")
    (tmp_path / "in-the-way.lock").mkdir()

    def answer(place: str, given: str) -> str:
        (name,) = golden.words(given)
        path = name.replace("TMP", str(tmp_path))
        problem = str(check(path, "x"))
        if "\0" not in name and name:
            lock = FileLock(path, "x")
            with pytest.raises((Unavailable, Forbidden), match="cannot create file:"):
                lock.create(FIRST, 0.05)
            if place == "the path":
                with pytest.raises((Unavailable, Forbidden), match="cannot read file:"):
                    lock.read(TIMEOUT_S)
        return problem.replace(str(tmp_path), "TMP")

    golden.check("file-lock-paths", answer)
    assert (tmp_path / "taken.lock").read_text().startswith("another program's")
