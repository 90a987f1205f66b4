"""The record in a file on a local filesystem, for candidates that share a directory.

Owns three names in one directory: PATH, the record as JSON; PATH.lock, whose flock serialises the
writers and which keeps the highest version ever issued; PATH.lock.new, a version being written. It
must not know the election's rules: it compares and swaps, and expiry is no concern of its.

The document: `{"election": "x", "uid": "5f…", "resourceVersion": "7", "record": {"holderIdentity":
"a", "leaseDurationSeconds": 15, "acquireTime": "…Z", "renewTime": "…Z", "leaseTransitions": 0}}`.
Unknown keys survive on both levels. In the record a missing or null value means what it means in a
Lease: no holder, no time, no transitions; a duration of 0 is handed up as it is, and says nothing
about when the holder stops. Anything else that is not such a document (empty, truncated, of another
type, too large) is an error, never a free lock; a document of another election is refused.

The races and crashes it guards against:

- Two writers: read, compare and rename happen under the flock. It belongs to one operation: taken
  without blocking, retried until the timeout, since whoever holds it may be stopped, and given back
  by an explicit unlock, because a process forked meanwhile has inherited the descriptor.
- A reader beside a writer: PATH is only ever replaced by rename, so an opened file is one whole
  version, and readers need no flock. What a finished write left is what the next read finds.
- A crash at any instant of a write: the new version is complete on disk before it takes the name,
  and the name is on disk before the write returns, so that no fencing token is issued twice. What
  is left of PATH.lock.new belongs to nobody, since its writer held the flock; the next removes it.
- PATH deleted by hand: versions go on from the highest one in PATH.lock, which is on disk before a
  version can be seen. A number torn by a power cut fails its checksum, and PATH's own counts. With
  both files gone versions start again at 1, under another uid.
- PATH.lock deleted by hand: a writer compares what it has locked with what bears the name, when it
  has the flock and again before the rename. Between that look and the rename remains a gap that
  cannot be closed: nobody but a person deletes this file, and nobody should.
- PATH a symbolic link: resolved once, at the start, so that all names of one file share one
  PATH.lock; a link put in its place later is refused. A file that is a mount point of its own
  cannot be replaced by rename; share its directory.
- A change between reading and watching: a watch reads again once inotify reports to it.

Network filesystems are unsuitable: flock may be local to a machine there, reads may be cached, and
inotify is silent about other machines.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import json
import os
import re
import reprlib
import select
import stat
import struct
import threading
import time
import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from leaderexec.locks.base import Absent, Conflict, Forbidden, Lock, Unavailable
from leaderexec.locks.fields import from_fields, parse_object, to_fields
from leaderexec.locks.timestamps import format_us
from leaderexec.model import Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leaderexec.model import Record

#: Larger than any record with its unknown keys has a reason to be.
MAX_BYTES: Final = 64 * 1024

_MAX_VERSION: Final = 2**63 - 1
_VERSION: Final = re.compile(r"[1-9][0-9]{0,18}")
_HIGHEST: Final = re.compile(rb"([0-9]{19}) ([0-9a-f]{8})\n")
_HIGHEST_BYTES: Final = 29
_PAUSE_S: Final = 0.001

_REFUSALS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
#: What a filesystem answers that cannot sync a directory; there is nothing more to be done there.
_NO_DIRECTORY_SYNC: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP})

_NOT_THROUGH_LINKS: Final = os.O_CLOEXEC | os.O_NOFOLLOW
#: Opening what is not a regular file must neither block nor make it our terminal.
_CAREFUL: Final = _NOT_THROUGH_LINKS | os.O_NONBLOCK | os.O_NOCTTY


class _Unusable(Exception):
    """What was found cannot serve as this lock; the message says what is wrong with it."""


class _Foreign(_Unusable):
    """The file holds the record of another election."""


# --- the document ----------------------------------------------------------------------------


class _Stored(NamedTuple):
    """What PATH held: the whole document, what it says, and the file's permissions."""

    document: dict[str, Any]
    snapshot: Snapshot
    permissions: int


def _decode(data: bytes, election: str) -> tuple[dict[str, Any], Snapshot]:
    """Read a whole document; raise _Unusable naming what is wrong."""
    if not data:
        raise _Unusable("it is empty")
    if len(data) > MAX_BYTES:
        raise _Unusable(f"it is larger than {MAX_BYTES} bytes")
    try:
        text = data.decode("utf-8")
    except ValueError as error:
        raise _Unusable(f"it is not JSON: {error}") from error
    try:
        document = parse_object(text)
    except ValueError as error:
        raise _Unusable(f"it {error}") from error
    theirs = document.get("election")
    if not isinstance(theirs, str):
        raise _Unusable(f"election is not a string: {reprlib.repr(theirs)}")
    if theirs != election:
        raise _Foreign(f"it holds the record of election {theirs[:253]!r}, not {election!r}")
    uid = document.get("uid")
    if not isinstance(uid, str) or not uid:
        raise _Unusable(f"uid is not a string with content: {reprlib.repr(uid)}")
    version = document.get("resourceVersion")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise _Unusable(f"resourceVersion is not a number in a string: {reprlib.repr(version)}")
    if int(version) > _MAX_VERSION:
        raise _Unusable(f"resourceVersion is larger than {_MAX_VERSION}: {version}")
    fields = document.get("record")
    if not isinstance(fields, dict):
        raise _Unusable(f"record is not an object: {reprlib.repr(fields)}")
    try:
        record = from_fields(fields)
    except ValueError as error:
        raise _Unusable(str(error)) from error
    return document, Snapshot(record, uid, version, origin=document)


def _encode(document: dict[str, Any], election: str, record: Record) -> tuple[bytes, Snapshot]:
    """Write a whole document, and make sure that it can be read again as what it is."""
    try:
        data = json.dumps(document, allow_nan=False).encode("ascii") + b"\n"
    except (ValueError, RecursionError) as error:
        raise _Unusable(f"the record cannot be written as JSON: {error}") from error
    try:
        _, snapshot = _decode(data, election)
    except _Unusable as error:
        raise _Unusable(f"the record could not be read again: {error}") from error
    if snapshot.record != record:
        raise _Unusable(f"the record could not be read again as it is: {record}")
    return data, snapshot


# --- the file --------------------------------------------------------------------------------


class _Files:
    """The names in one directory, and the order of system calls that makes a write safe."""

    def __init__(self, path: str, election: str) -> None:
        self.folder, name = os.path.split(os.path.realpath(path))
        self.name = name or "."  # the root directory, which is no regular file
        self.guard = f"{self.name}.lock"
        self.fresh = f"{self.name}.lock.new"
        self.election = election

    @contextlib.contextmanager
    def opened_folder(self) -> Iterator[int]:
        """Open the directory: one operation sees one directory, whatever becomes of its name.

        This also tells a missing file from a missing directory, which is no free lock.
        """
        try:
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise _Unusable(f"directory {self.folder} does not exist") from error
        except NotADirectoryError as error:
            raise _Unusable(f"{self.folder} is not a directory") from error
        try:
            yield folder
        finally:
            os.close(folder)

    def load(self, folder: int) -> _Stored | None:
        """Read the version that bears the name now, None when nothing does."""
        try:
            fd = os.open(self.name, os.O_RDONLY | _CAREFUL, dir_fd=folder)
        except FileNotFoundError:
            return None
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise _Unusable("it is not a regular file")
            data = b""
            while len(data) <= MAX_BYTES and (more := os.read(fd, MAX_BYTES + 1 - len(data))):
                data += more
        finally:
            os.close(fd)
        document, snapshot = _decode(data, self.election)
        return _Stored(document, snapshot, stat.S_IMODE(status.st_mode) & 0o777)

    @contextlib.contextmanager
    def locked(self, folder: int, timeout_s: float) -> Iterator[int]:
        """Hold the flock; raise _Unusable when it cannot be had in time."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            guard = self._open_guard(folder)
            try:
                self._flock(guard, deadline_s)
                if self.guards(guard, folder):
                    yield guard
                    return
            finally:
                # Closing alone would leave the flock with a process that was forked meanwhile.
                try:
                    fcntl.flock(guard, fcntl.LOCK_UN)
                finally:
                    os.close(guard)
            # It was deleted by hand before we had it; the others lock the file of that name now.
            if time.monotonic() >= deadline_s:
                raise _Unusable(f"{self.guard} keeps being replaced")

    def _flock(self, guard: int, deadline_s: float) -> None:
        if not stat.S_ISREG(os.fstat(guard).st_mode):
            raise _Unusable(f"{self.guard} is not a regular file")
        started_s = time.monotonic()
        while True:
            try:
                fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                now_s = time.monotonic()
                if now_s >= deadline_s:
                    raise _Unusable(
                        f"another process has kept {self.guard} locked for "
                        f"{now_s - started_s:.3g}s and may be stopped"
                    ) from None
                time.sleep(_PAUSE_S)
            else:
                return

    def _open_guard(self, folder: int) -> int:
        # Not in one call: where the directory is sticky and writable for all, the kernel refuses
        # O_CREAT on a file that belongs to another user (fs.protected_regular).
        while True:
            with contextlib.suppress(FileNotFoundError):
                return os.open(self.guard, os.O_RDWR | _CAREFUL, dir_fd=folder)
            with contextlib.suppress(FileExistsError):
                return os.open(
                    self.guard, os.O_RDWR | os.O_CREAT | os.O_EXCL | _CAREFUL, 0o666, dir_fd=folder
                )

    def guards(self, guard: int, folder: int) -> bool:
        """Whether the file that was locked is the one that others would lock."""
        try:
            named = os.stat(self.guard, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(os.fstat(guard), named)

    def next_version(self, guard: int, stored: _Stored | None) -> int:
        """Issue the next version: on disk as issued before anyone can see it."""
        number = max(self.highest(guard), int(stored.snapshot.version) if stored else 0) + 1
        if number > _MAX_VERSION:
            raise _Unusable(f"no version is left after {_MAX_VERSION}")
        digits = f"{number:019}".encode("ascii")
        line = digits + b" %08x\n" % zlib.crc32(digits)
        if os.pwrite(guard, line, 0) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.guard)
        os.fdatasync(guard)
        return number

    def highest(self, guard: int) -> int:
        """Read the highest version ever issued, 0 when that was never written or is torn."""
        line = os.pread(guard, _HIGHEST_BYTES + 1, 0)
        if len(line) > _HIGHEST_BYTES:
            # Another program's file, or another lock's record: it must not be overwritten.
            raise _Unusable(f"{self.guard} is not its lock file: it has other content")
        match = _HIGHEST.fullmatch(line)
        if match is None or zlib.crc32(match[1]) != int(match[2], 16):
            return 0
        return int(match[1])

    def replace(self, folder: int, guard: int, data: bytes, permissions: int | None) -> None:
        """Give the name to a new version, wholly or not at all; on return it is on disk."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.fresh, dir_fd=folder)  # left by a writer that died
        fd = os.open(
            self.fresh,
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOT_THROUGH_LINKS,
            0o666,
            dir_fd=folder,
        )
        try:
            try:
                if permissions is not None:
                    with contextlib.suppress(OSError):  # a filesystem without permissions
                        os.fchmod(fd, permissions)
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(fd, rest) :]
                os.fsync(fd)
            finally:
                os.close(fd)
            ours = self.guards(guard, folder)
            if ours:
                os.rename(self.fresh, self.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(self.fresh, dir_fd=folder)
            raise
        if not ours:
            # Somebody else may be writing PATH.lock.new by now: leave it to them.
            raise _Unusable(f"{self.guard} was deleted or replaced during the write")
        try:
            os.fsync(folder)
        except OSError as error:
            if error.errno not in _NO_DIRECTORY_SYNC:
                raise


def check(path: str, election: str) -> str | None:
    """Say why `path` cannot serve as the lock of `election`, None when it can; write nothing."""
    if not path or "\0" in path:
        return "it is not a possible file name"
    try:
        files = _Files(path, election)
        with files.opened_folder() as folder:
            # For the directory everything is needed: search it, change it, sync and watch it.
            if not _accessible(".", os.R_OK | os.W_OK | os.X_OK, folder):
                return f"directory {files.folder} is not readable and writable"
            guard = _status(files.guard, folder)
            if guard is not None:
                if not stat.S_ISREG(guard.st_mode):
                    return f"{files.guard} is not a regular file"
                if not _accessible(files.guard, os.R_OK | os.W_OK, folder):
                    return f"{files.guard} is not readable and writable"
                if guard.st_size > _HIGHEST_BYTES:
                    return f"{files.guard} is not its lock file: it has other content"
            status = _status(files.name, folder)
            if status is not None and not stat.S_ISREG(status.st_mode):
                return "it is not a regular file"
            files.load(folder)
    except OSError as error:
        return _reason(error, os.path.basename(path))
    except _Unusable as error:
        return str(error)
    return None


def _accessible(name: str, mode: int, folder: int) -> bool:
    return os.access(name, mode, dir_fd=folder, effective_ids=True)


def _status(name: str, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _reason(error: OSError, name: str) -> str:
    reason = error.strerror or str(error)
    if error.errno == errno.EBUSY:
        return f"{reason}: a mount point cannot be replaced, share its directory instead"
    if error.filename not in {None, name}:
        return f"{reason}: {os.fsdecode(error.filename)}"
    return reason


# --- inotify ---------------------------------------------------------------------------------


class _Inotify:
    """The kernel's reports about names in one directory (inotify(7)); a descriptor to poll."""

    # Creation is not asked for: a file that is being created is empty, and is reported when it is
    # closed or renamed, which is when it can be read.
    _ABOUT_NAMES: Final = 0x8 | 0x40 | 0x80 | 0x200  # CLOSE_WRITE, MOVED_FROM, MOVED_TO, DELETE
    _ABOUT_FOLDER: Final = 0x400 | 0x800  # DELETE_SELF, MOVE_SELF
    _ONLY_DIRECTORIES: Final = 0x1000000
    _ENDED: Final = 0x400 | 0x800 | 0x2000 | 0x8000  # the same, UNMOUNT, IGNORED
    _OVERFLOWED: Final = 0x4000
    _EVENT: Final = struct.Struct("iIII")  # watch, mask, cookie, length of the name
    _BUFFER_BYTES: Final = 16 * 1024

    def __init__(self, folder: str) -> None:
        libc = _libc()
        self.fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self.fd < 0:
            raise _last_error("inotify_init1")
        mask = self._ABOUT_NAMES | self._ABOUT_FOLDER | self._ONLY_DIRECTORIES
        if libc.inotify_add_watch(self.fd, os.fsencode(folder), mask) < 0:
            error = _last_error("inotify_add_watch")
            os.close(self.fd)
            raise error

    def close(self) -> None:
        os.close(self.fd)

    def changed(self, name: str) -> bool:
        """Take the reports that are waiting; whether one may be about `name`.

        Raise _Unusable when no more will come.
        """
        try:
            data = os.read(self.fd, self._BUFFER_BYTES)
        except BlockingIOError:
            return False
        about = False
        at = 0
        while at < len(data):
            _, mask, _, length = self._EVENT.unpack_from(data, at)
            at += self._EVENT.size
            if mask & self._ENDED:
                raise _Unusable("its directory was deleted, moved or unmounted")
            found = data[at : at + length].rstrip(b"\0")
            about = about or bool(mask & self._OVERFLOWED) or found == os.fsencode(name)
            at += length
        return about


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.inotify_init1.argtypes = (ctypes.c_int,)
    libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
    return libc


def _last_error(call: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{call}: {os.strerror(code)}")


# --- the lock --------------------------------------------------------------------------------


class FileLock(Lock):
    """The lock of `election` in the file `path`.

    Nothing is opened between operations, so a lock may be built before a fork. At most one watch
    runs at a time; an interruption that finds none running ends the next one as it starts.
    """

    def __init__(self, path: str, election: str) -> None:
        self.description = f"file:{path}"
        self.namespace = ""
        self._files = _Files(path, election)
        self._waking = threading.Lock()
        self._interrupted = False
        self._closed = False
        self._wake: int | None = None  # eventfd of the running watch

    def read(self, timeout_s: float) -> Snapshot | None:  # noqa: ARG002 - nothing here waits
        """Return the version that bears the name now."""
        return self._read("read")

    def create(self, record: Record, timeout_s: float) -> Snapshot:
        """Write the first version of a document with a uid of its own."""
        files = self._files
        with (
            self._translated("create"),
            files.opened_folder() as folder,
            files.locked(folder, timeout_s) as guard,
        ):
            if files.load(folder) is not None:
                raise Conflict(f"cannot create {self.description}: it exists")
            uid = os.urandom(16).hex()
            return self._write(folder, guard, None, {"uid": uid}, record)

    def update(self, record: Record, seen: Snapshot, timeout_s: float) -> Snapshot:
        """Replace `seen` by `record`; what else the document carries is taken from the file."""
        files = self._files
        with (
            self._translated("update"),
            files.opened_folder() as folder,
            files.locked(folder, timeout_s) as guard,
        ):
            stored = files.load(folder)
            if stored is None:
                raise Absent(f"cannot update {self.description}: it does not exist")
            found = stored.snapshot
            # An editor does not count versions: the record itself is compared as well, so that a
            # holder put there by hand is not overwritten.
            if found != seen:
                raise Conflict(
                    f"cannot update {self.description}: it is at version {found.version} of "
                    f"{found.uid}, no longer what was seen, {seen.version} of {seen.uid}"
                )
            return self._write(folder, guard, stored, stored.document, record)

    def _write(
        self,
        folder: int,
        guard: int,
        stored: _Stored | None,
        kept: dict[str, Any],
        record: Record,
    ) -> Snapshot:
        number = self._files.next_version(guard, stored)
        election = self._files.election
        try:
            fields = {**kept.get("record", {}), **to_fields(record, format_us)}
        except ValueError as error:
            raise _Unusable(f"the record cannot be written: {error}") from error
        document = {
            "election": election,
            **kept,
            "resourceVersion": str(number),
            "record": fields,
        }
        data, snapshot = _encode(document, election, record)
        self._files.replace(folder, guard, data, stored.permissions if stored else None)
        return snapshot

    def watch(self, since: Snapshot | None) -> Iterator[Snapshot | None]:
        """Yield each version that is found after a report of inotify.

        Versions that follow each other faster than they are read may be passed over.
        """
        with self._wakeable() as wake:
            if self._ending():
                return
            with self._translated("watch"):
                reports = _Inotify(self._files.folder)
            with contextlib.closing(reports):
                waiting = select.poll()
                waiting.register(wake, select.POLLIN)
                waiting.register(reports.fd, select.POLLIN)
                seen = since
                yield seen
                while not self._ending():
                    found = self._read("watch")
                    if found != seen:
                        seen = found
                        yield found
                        continue
                    with self._translated("watch"):
                        while not reports.changed(self._files.name) and not self._told_to_end():
                            waiting.poll()

    def interrupt_watch(self) -> None:
        """End the running watch, or else the next one."""
        with self._waking:
            self._interrupted = True
            self._wake_up()

    def close(self) -> None:
        """End the running watch and every later one."""
        with self._waking:
            self._closed = True
            self._wake_up()

    def _wake_up(self) -> None:
        if self._wake is not None:
            os.eventfd_write(self._wake, 1)

    @contextlib.contextmanager
    def _wakeable(self) -> Iterator[int]:
        with self._translated("watch"):
            wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        with self._waking:
            self._wake = wake
        try:
            yield wake
        finally:
            with self._waking:  # nobody may write to the number once it is another file's
                self._wake = None
                os.close(wake)

    def _told_to_end(self) -> bool:
        with self._waking:
            return self._interrupted or self._closed

    def _ending(self) -> bool:
        """Whether the watch must return now; if so, the interruption has done its work."""
        with self._waking:
            ending = self._interrupted or self._closed
            self._interrupted = False
            return ending

    def _read(self, verb: str) -> Snapshot | None:
        with self._translated(verb), self._files.opened_folder() as folder:
            stored = self._files.load(folder)
        return stored.snapshot if stored else None

    @contextlib.contextmanager
    def _translated(self, verb: str) -> Iterator[None]:
        """Turn what the operating system and the file say into the errors of a lock."""
        failed = f"cannot {verb} {self.description}"
        try:
            yield
        except _Foreign as error:
            raise Forbidden(f"{failed}: {error}") from error
        except _Unusable as error:
            raise Unavailable(f"{failed}: {error}") from error
        except OSError as error:
            reason = f"{failed}: {_reason(error, self._files.name)}"
            if error.errno in _REFUSALS:
                raise Forbidden(reason) from error
            raise Unavailable(reason) from error
