"""The bundle for the tests, built once for each state of the sources, and roots to run it in.

Owns: when it must be built again, the place of it in the cache, and a root in which there is
nothing but a static busybox, /proc and /dev/null: no Python, no shell of the machine, no C library,
no loader.
Must not know: what is in the bundle.
Guards against: a test that runs a bundle of older sources, or one that finds by accident on this
machine what the bundle lacks.

    root = bundle.Root(tmp_path / "root")  # has busybox in /bin and the bundle in /leaderexec
    subprocess.run([*root.wrapper(init=True), "/leaderexec/leaderexec", "--version"])
"""

from __future__ import annotations

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
from tests.support.controlplane import Unavailable, add_files, locked
from tests.support.required import missing

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT: Final = Path(__file__).resolve().parents[2]
BUILDER: Final = ROOT / "docker" / "bundle" / "build.py"

_KEPT: Final = 3
_SCRATCH: Final = ".bundle-"


@functools.cache
def bundle() -> Path:
    """Return the directory of the bundle of the present sources; build it unless the cache has it.

    The first build installs PyInstaller from the package index and takes a minute or two, another
    one half a minute. Processes that want it at the same time wait for each other. Where it cannot
    be built, the test is skipped, or fails where everything is required.
    """
    built = controlplane.cache_directory() / f"bundle-{_digest(_sources())}"
    if not (built / "leaderexec").exists():
        try:
            _build(built)
        except Unavailable as error:
            missing("bundle", error)
    return built


def _build(built: Path) -> None:
    cache = built.parent
    environment = cache / f"bundle-environment-{_digest([ROOT / 'pyproject.toml'])}"
    with locked(cache / "bundle-lock"):
        if (built / "leaderexec").exists():
            return
        for leftover in cache.glob(f"{_SCRATCH}*"):  # of a build that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        # What is complete is put into its place in one step, here and by the builder.
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=cache) as scratch:
            fresh = Path(scratch) / "bundle"
            command = [sys.executable, str(BUILDER), f"--output={fresh}"]
            controlplane.run_step([*command, f"--environment={environment}"])
            os.utime(fresh)  # what is built has a date of its own
            fresh.rename(built)
        # All but the newest few are removed: another run may be using one of those.
        for pattern in ("bundle-[0-9a-f]*", "bundle-environment-*"):
            found = [path for path in cache.glob(pattern) if path.is_dir()]
            for path in sorted(found, key=lambda path: path.stat().st_mtime)[:-_KEPT]:
                shutil.rmtree(path, ignore_errors=True)


def _sources() -> list[Path]:
    found = [*(ROOT / "leaderexec").rglob("*.py"), *BUILDER.parent.glob("*.*")]
    return [*sorted(found), ROOT / "pyproject.toml"]


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256(f"{sys.version} {platform.machine()}\n".encode())
    add_files(digest, ROOT, paths)
    return digest.hexdigest()[:16]


# --- a root with nothing in it ----------------------------------------------------------------


def busybox() -> Path:
    """Return a static busybox: the machine's, or that of the distribution's package."""
    found = shutil.which("busybox")
    if found and b"/ld-" not in Path(found).read_bytes()[:4096]:
        return Path(found)
    cached = controlplane.cache_directory() / "busybox"
    try:
        with locked(controlplane.cache_directory() / "busybox-lock"):
            if not cached.exists():
                _unpack_busybox(cached)
    except (OSError, ValueError, Unavailable) as error:
        missing("busybox that is static (on Debian: apt-get install busybox-static)", error)
    return cached


def _unpack_busybox(target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=target.parent) as scratch:
        directory = Path(scratch)
        controlplane.run_step(
            ["/usr/bin/apt-get", "download", "busybox-static"], directory=directory
        )
        (package,) = directory.glob("*.deb")
        controlplane.run_step(["/usr/bin/dpkg-deb", "-x", str(package), f"{scratch}/unpacked"])
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


def fill_with_busybox(root: Path) -> None:
    """Put a busybox with all of its applets, and directories with nothing in them, into a root."""
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "var"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    program = root / "bin" / "busybox"
    shutil.copy(busybox(), program)
    program.chmod(0o755)
    for applet in controlplane.run_step([str(program), "--list"]).split():
        if applet != program.name:
            (root / "bin" / applet).symlink_to(program.name)


class Root:
    """A root directory that holds busybox in /bin and the bundle in /leaderexec.

    The bundle is a copy, since a link to it could not be followed from inside. Needs root.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        fill_with_busybox(directory)
        (directory / "dev" / "null").touch()
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
            controlplane.run_step(
                ["/usr/bin/cc", "-static", "-Os", "-o", str(program), str(source)]
            )
        (self.directory / "tmp" / "environment").write_bytes(b"\0".join([*strings, b""]))
        return ["/bin/with-environment", "/tmp/environment"]


class Bundled(Candidate):
    """A candidate that is the bundle; `program` is where its launcher is for whoever starts it."""

    program: str = "/leaderexec/leaderexec"

    def argv(self) -> list[str]:
        """Return how it is started, as far as its command."""
        return [*self.wrapper, self.program, *self.options]
