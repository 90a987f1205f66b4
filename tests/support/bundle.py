"""The bundle for the tests, built once for each state of the sources, and roots to run it in.

Owns: when it must be built again, the place of it in the cache, and a root in which there is
nothing but a static busybox, /proc and /dev/null: no Python, no shell of the machine, no C library,
no loader.
Must not know: what is in the bundle.
Guards against: a test that runs a bundle of older sources, or one that finds by accident on this
machine what the bundle lacks.

    root = bundle.Root(tmp_path / "root")  # has busybox in /bin and the bundle in /leaderexec
    subprocess.run([*root.wrapper(init=True), "/leaderexec/leaderexec", "--version"])

`python -m tests.support.bundle` builds it and prints its path.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import platform
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support import controlplane
from tests.support.candidate import Candidate
from tests.support.controlplane import Unavailable
from tests.support.required import missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT: Final = Path(__file__).resolve().parents[2]
BUILDER: Final = ROOT / "docker" / "bundle" / "build.py"

_KEPT: Final = 3
_SCRATCH: Final = ".bundle-"


def bundle() -> Path:
    """Return the directory of the bundle of the present sources; build it unless the cache has it.

    The first build installs PyInstaller from the package index and takes a minute or two, another
    one half a minute. Processes that want it at the same time wait for each other. Where it cannot
    be built, the test is skipped, or fails where everything is required.
    """
    try:
        return ensure()
    except Unavailable as error:
        missing("bundle", error)


@functools.cache
def ensure() -> Path:
    """Return the same, or raise `Unavailable`."""
    cache = controlplane._cache()
    built = cache / f"bundle-{_digest(_sources())}"
    if (built / "leaderexec").exists():
        return built
    environment = cache / f"bundle-environment-{_digest([ROOT / 'pyproject.toml'])}"
    with _locked(cache / "bundle-lock"):
        if not (built / "leaderexec").exists():
            for leftover in cache.glob(f"{_SCRATCH}*"):  # of a build that was killed
                shutil.rmtree(leftover, ignore_errors=True)
            # What is complete is put into its place in one step, below and by the builder.
            with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=cache) as scratch:
                fresh = Path(scratch) / "bundle"
                command = [sys.executable, str(BUILDER), f"--output={fresh}"]
                controlplane._run([*command, f"--environment={environment}"])
                os.utime(fresh)  # what is built has a date of its own
                fresh.rename(built)
            _forget_old(cache)
    return built


def _sources() -> list[Path]:
    found = [*(ROOT / "leaderexec").rglob("*.py"), *BUILDER.parent.glob("*.*")]
    return [*sorted(found), ROOT / "pyproject.toml"]


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256(f"{sys.version} {platform.machine()}\n".encode())
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _forget_old(cache: Path) -> None:
    """Remove all but the newest few: another run may be using one of those."""
    for pattern in ("bundle-[0-9a-f]*", "bundle-environment-*"):
        found = [path for path in cache.glob(pattern) if path.is_dir()]
        for path in sorted(found, key=lambda path: path.stat().st_mtime)[:-_KEPT]:
            shutil.rmtree(path, ignore_errors=True)


# --- a root with nothing in it ----------------------------------------------------------------


def busybox() -> Path:
    """Return a static busybox: the machine's, or that of the distribution's package."""
    found = shutil.which("busybox")
    if found and b"/ld-" not in Path(found).read_bytes()[:4096]:
        return Path(found)
    cached = controlplane._cache() / "busybox"
    try:
        with _locked(controlplane._cache() / "busybox-lock"):
            if not cached.exists():
                _unpack_busybox(cached)
    except (OSError, ValueError, Unavailable) as error:
        missing("busybox that is static (on Debian: apt-get install busybox-static)", error)
    return cached


def _unpack_busybox(target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=target.parent) as scratch:
        directory = Path(scratch)
        controlplane._run(["/usr/bin/apt-get", "download", "busybox-static"], directory=directory)
        (package,) = directory.glob("*.deb")
        controlplane._run(["/usr/bin/dpkg-deb", "-x", str(package), f"{scratch}/unpacked"])
        (program,) = directory.glob("unpacked/**/bin/busybox")
        program.rename(target)


#: Executes a command with the strings in a file, as they are, for its environment.
_WITH_ENVIRONMENT: Final = r"""
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static char text[1 << 20], *strings[1 << 12];

int main(int argc, char **argv)
{
    int count = 0, file = argc > 2 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1;
    ssize_t size = read(file, text, sizeof text);
    for (char *at = text; size > 0 && at < text + size; at += strlen(at) + 1)
        strings[count++] = at;
    execve(argv[2], argv + 2, strings);
    return 99;
}
"""


class Root:
    """A root directory that holds busybox in /bin and the bundle in /leaderexec.

    The bundle is a copy, since a link to it could not be followed from inside. Needs root.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("bin", "dev", "etc", "proc", "tmp", "var"):
            (directory / name).mkdir(parents=True)
        (directory / "tmp").chmod(0o1777)
        (directory / "dev" / "null").touch()
        program = directory / "bin" / "busybox"
        shutil.copy(busybox(), program)
        program.chmod(0o755)
        for applet in controlplane._run([str(program), "--list"]).split():
            if applet != program.name:
                (directory / "bin" / applet).symlink_to(program.name)
        shutil.copytree(bundle(), directory / "leaderexec")
        # A user other than root must be able to reach it, as in an image.
        for path in (directory, *directory.parents):
            if path.stat().st_uid == os.getuid() and not path.stat().st_mode & 0o001:
                path.chmod(path.stat().st_mode | 0o011)

    def wrapper(
        self, *, init: bool = False, uid: int | None = None, proc: bool = True
    ) -> list[str]:
        """Return what to put before a command to run it inside, as PID 1 or as another user.

        Mounts are made in a namespace of their own and are gone with it.
        """
        root = shlex.quote(str(self.directory))
        steps = [f"mount --bind /dev/null {root}/dev/null"]
        if proc:
            steps.append(f"mount -t proc proc {root}/proc")
        unshare = ["/usr/bin/unshare", "--mount"]
        if init:
            unshare += ["--pid", "--fork", "--kill-child"]
        user = [] if uid is None else [f"--userspec={uid}:{uid}"]
        script = " && ".join([*steps, 'exec "$@"'])
        chroot = ["/usr/sbin/chroot", *user, str(self.directory)]
        return [*unshare, "/bin/sh", "-c", script, "sh", *chroot]

    def with_environment(self, strings: Sequence[bytes]) -> list[str]:
        """Return what to put between wrapper and command, for exactly this environment.

        Also one that no shell and no Python would pass on: strings that occur twice, or name no
        variable.
        """
        program = self.directory / "bin" / "with-environment"
        if not program.exists():
            source = program.with_suffix(".c")
            source.write_text(_WITH_ENVIRONMENT)
            controlplane._run(["/usr/bin/cc", "-static", "-Os", "-o", str(program), str(source)])
        (self.directory / "tmp" / "environment").write_bytes(b"\0".join([*strings, b""]))
        return ["/bin/with-environment", "/tmp/environment"]


class Bundled(Candidate):
    """A candidate that is the bundle; `program` is where its launcher is for whoever starts it."""

    program: str = "/leaderexec/leaderexec"

    def argv(self) -> list[str]:
        """Return how it is started, as far as its command."""
        return [*self.wrapper, self.program, *self.options]


if __name__ == "__main__":
    try:
        print(ensure())
    except Unavailable as error:
        sys.exit(str(error))
