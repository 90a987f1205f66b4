"""`leaderexec install DIR`: put the running bundle where other images can execute it.

Owns what is in DIR and in which order it appears there:

    DIR/leaderexec -> leaderexec-VERSION-DIGEST/leaderexec     replaced in one step
    DIR/leaderexec-VERSION-DIGEST/                             renamed into its place when complete
    DIR/.leaderexec-XXXXXXXX.partial                           being copied, or left by a dead run

Must not know how the bundle is made, nor what it is used for.

Guards against three races. Whoever looks meanwhile sees the old bundle, the new one or none, never
half of one: nothing that has its final name is ever changed. Two that install at once wait for each
other, by a lock on DIR, so that what one of them copies is not taken for a dead run's remains. And
a leaderexec that runs from DIR goes on: it reads its modules when it needs them, an elector that is
started again does so late, and nobody can see from here, in another container than it, whether it
still runs. So older bundles stay; to remove one is for those who know that nobody uses it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import stat
from typing import TYPE_CHECKING, Final, NoReturn

from leaderexec import __version__, exits, frozen, log
from leaderexec.config import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_NAME: Final = "leaderexec"
_PREFIX: Final = f".{_NAME}-"
_SUFFIX: Final = ".partial"
_DIRECTORY_MODE: Final = 0o755
_EXECUTABLE_MODE: Final = 0o755
_FILE_MODE: Final = 0o644
_ACCEPTED: Final = (
    "accepted: an existing directory that can be written to and is not mounted noexec"
)
#: What the user can mend by naming another directory, or this one's rights.
_REFUSALS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
#: How a filesystem says that it has no locks.
_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})
#: A loader separates directories by the first two, and replaces words after the third.
_NOT_IN_PATHS: Final = ":;$"


def install(directory: str) -> int:
    """Make DIR/leaderexec the bundle that is running, and return the exit code."""
    bundle = frozen.bundle()
    if bundle is None:
        raise UsageError(
            "install: this leaderexec needs the Python that it runs on, so that a copy of it would "
            "not run elsewhere; accepted: the leaderexec of the bundle"
        )
    _check(directory)
    try:
        with _interruptible():
            changed = _install(bundle, os.path.realpath(directory))
    except _Interrupted as interrupted:
        return exits.SIGNALED + interrupted.signum
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        if error.errno in _REFUSALS:
            raise UsageError(
                f"install {directory!r}: cannot write there: {reason}; {_ACCEPTED}"
            ) from error
        log.die_in_one_line(f"cannot install into {directory!r}: {reason}")
        return exits.INTERNAL
    place = f"{directory.rstrip('/')}/{_NAME}"
    print(f"{place}: {'installed' if changed else 'there already'}, {__version__}")  # noqa: T201
    return exits.OK


def _check(directory: str) -> None:
    """Refuse a directory from which nothing could be executed, before anything is written."""
    label = f"install {directory!r}"
    try:
        mode = os.stat(directory).st_mode
        flags = os.statvfs(directory).f_flag
    except (OSError, ValueError) as error:
        reason = os.strerror(getattr(error, "errno", None) or errno.EINVAL).lower()
        raise UsageError(f"{label}: {reason}; {_ACCEPTED}") from None
    if not stat.S_ISDIR(mode):
        raise UsageError(f"{label}: not a directory; {_ACCEPTED}")
    if flags & os.ST_NOEXEC:
        raise UsageError(f"{label}: mounted noexec; {_ACCEPTED}")
    path = os.path.realpath(directory)
    if any(letter in path for letter in _NOT_IN_PATHS):
        raise UsageError(
            f"{label}: a loader would not find libraries below {path!r}; accepted: a path without "
            f"{', '.join(map(repr, _NOT_IN_PATHS))}"
        )
    link = os.path.join(directory, _NAME)
    if os.path.isdir(link) and not os.path.islink(link):
        raise UsageError(f"{label}: there is a directory {link!r}; {_ACCEPTED}")


class _Interrupted(BaseException):
    """A signal asks us to end; what is half done is removed on the way out."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let signals end what is within in an orderly way; as PID 1 they would not at all."""

    def interrupt(signum: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - as called
        raise _Interrupted(signum)

    ending = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    before = {signum: signal.signal(signum, interrupt) for signum in ending}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _install(bundle: str, directory: str) -> bool:
    """Return whether anything had to be changed."""
    content = _content(bundle)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _lock(descriptor):
            _sweep(directory)
        name = _place(bundle, content, directory)
        changed = not os.path.lexists(os.path.join(directory, name))
        if changed:
            _copy(bundle, content, directory, name)
        target = os.path.join(name, _NAME)
        link = os.path.join(directory, _NAME)
        if not os.path.islink(link) or os.readlink(link) != target:
            _link(target, link)
            changed = True
        os.fsync(descriptor)
        return changed
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Wait until nobody else installs here; False where locks do not exist."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _sweep(directory: str) -> None:
    """Remove what runs that were killed have left: under the lock nobody else is at it."""
    for name in os.listdir(directory):
        if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
            _remove(os.path.join(directory, name))


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


def _content(bundle: str) -> dict[str, int]:
    """Return the mode of every file and directory of the bundle, parents first."""
    content: dict[str, int] = {}
    for parent, directories, files in os.walk(bundle):
        directories.sort()
        for name in [*directories, *sorted(files)]:
            path = os.path.join(parent, name)
            mode = os.stat(path).st_mode
            kind = _EXECUTABLE_MODE if mode & stat.S_IXUSR else _FILE_MODE
            content[os.path.relpath(path, bundle)] = (
                stat.S_IFDIR | _DIRECTORY_MODE if stat.S_ISDIR(mode) else stat.S_IFREG | kind
            )
    return content


def _place(bundle: str, content: dict[str, int], directory: str) -> str:
    """Return the name under which this bundle is, or is to be, in DIR.

    One that was damaged is not repaired, since somebody may be running it: it is passed over.
    """
    digest = hashlib.sha256()
    for name, mode in content.items():
        digest.update(f"{name}\0{mode:o}\0".encode(errors="surrogateescape"))
        if stat.S_ISREG(mode):
            with open(os.path.join(bundle, name), "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    base = f"{_NAME}-{__version__}-{digest.hexdigest()[:12]}"
    name, count = base, 1
    while os.path.lexists(path := os.path.join(directory, name)):
        if _is_whole(path, bundle, content):
            break
        name, count = f"{base}-{count}", count + 1
    return name


def _is_whole(path: str, bundle: str, content: dict[str, int]) -> bool:
    """Tell whether a copy has all that the bundle has, for everybody to use.

    Some filesystems allow more than they were told.
    """
    import filecmp  # noqa: PLC0415 - only where one is there already

    try:
        if _content(path).keys() != content.keys():
            return False
        for name, mode in {"": stat.S_IFDIR | _DIRECTORY_MODE, **content}.items():
            copied = os.path.join(path, name)
            found = os.lstat(copied).st_mode
            if stat.S_IFMT(found) != stat.S_IFMT(mode) or mode & ~found:
                return False
            original = os.path.join(bundle, name)
            if stat.S_ISREG(mode) and not filecmp.cmp(copied, original, shallow=False):
                return False
    except OSError:
        return False
    return True


def _temporary(directory: str) -> str:
    return os.path.join(directory, f"{_PREFIX}{secrets.token_hex(4)}{_SUFFIX}")


def _copy(bundle: str, content: dict[str, int], directory: str, name: str) -> None:
    """Copy the bundle, bring it to the disk, and give it its name."""
    temporary = _temporary(directory)
    try:
        os.mkdir(temporary, 0o700)
        for below, mode in content.items():
            target = os.path.join(temporary, below)
            if stat.S_ISDIR(mode):
                os.mkdir(target)
                os.chmod(target, stat.S_IMODE(mode))
                continue
            with open(os.path.join(bundle, below), "rb") as source, open(target, "xb") as copy:
                shutil.copyfileobj(source, copy)
                copy.flush()
                os.fchmod(copy.fileno(), stat.S_IMODE(mode))
                os.fsync(copy.fileno())
        for below in ("", *(below for below, mode in content.items() if stat.S_ISDIR(mode))):
            _sync_directory(os.path.join(temporary, below))
        os.chmod(temporary, _DIRECTORY_MODE)
        with contextlib.suppress(FileExistsError):
            _rename(temporary, os.path.join(directory, name))
        _sync_directory(directory)
    finally:
        _remove(temporary)  # unless it has its name


def _rename(old: str, new: str) -> None:
    try:
        os.rename(old, new)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:  # without locks another may have been quicker
            raise FileExistsError(errno.EEXIST, "there already", new) from error
        raise


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(target: str, link: str) -> None:
    temporary = _temporary(os.path.dirname(link))
    try:
        os.symlink(target, temporary)
        os.replace(temporary, link)
    except BaseException:
        _remove(temporary)
        raise
