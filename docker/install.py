"""Installs leaderexec for the image, from wheels alone: the build stage of docker/Dockerfile.

`python3 -I docker/install.py WHEELS OUT`, in a container, with the sources in the working
directory. Makes a virtual environment in /opt/leaderexec, so that the child sees nothing of our
packages nor we of its, and moves it to OUT/opt/leaderexec with a link in OUT/usr/local/bin.

Owns: what is in the image beside its base, and that the same sources and wheels make the same
bytes: no index, no timestamps, no bytecode that depends on either. Must not know: Kubernetes, and
which base this is.
"""

# ruff: noqa: INP001 - run by its path, where no package is

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Final

HOME: Final = Path("/opt/leaderexec")
LINK: Final = Path("usr/local/bin/leaderexec")
PYTHON: Final = HOME / "bin" / "python"
#: Isolated (-I), because the variables in a container are meant for the child: a PYTHONPATH or
#: PYTHONHOME of the child's must not change what we run.
LAUNCHER: Final = f"""\
#!{PYTHON} -I
from leaderexec.cli import main

main()
"""
#: Parts of packages that nothing here imports.
LEFT_OUT: Final = ("kubernetes/aio",)
#: Generated code, several times the size of all the rest, which an elector in a cluster never
#: imports and a kubeconfig needs as a whole: bytecode without sources.
WITHOUT_SOURCES: Final = ("kubernetes/client/api", "kubernetes/client/models")


def main() -> None:
    """Install, leave out, compile, and put everything in its place."""
    wheels = Path(sys.argv[1]).resolve() / "{}.{}".format(*sys.version_info)
    out = Path(sys.argv[2])
    if not wheels.is_dir():
        sys.exit(f"no wheels for this Python in {wheels}: tell make IMAGE_PYTHON={wheels.name}")
    (pip,) = wheels.glob("pip-*.whl")
    os.umask(0o022)
    venv.create(HOME, symlinks=True)
    with tempfile.TemporaryDirectory() as tools:
        install: list[str | Path] = [PYTHON, pip / "pip", "install", "--quiet"]
        install += ["--disable-pip-version-check", "--no-warn-script-location"]
        install += ["--no-cache-dir", "--no-input", "--no-index", f"--find-links={wheels}"]
        install += ["--no-deps", "--no-compile"]
        locked = [*install, "--require-hashes"]
        _run([*locked, f"--target={tools}", "--requirement=docker/build.lock"])
        _run([*locked, "--requirement=docker/requirements.lock"])
        _run([*install, "--no-build-isolation", "."], PYTHONPATH=tools)
    (packages,) = HOME.glob("lib/python3*/site-packages")
    _leave_out(packages)
    _compile(packages)
    launcher = HOME / "bin" / "leaderexec"
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    (out / LINK).parent.mkdir(parents=True)
    (out / LINK).symlink_to(launcher)
    shutil.copytree(HOME, out / HOME.relative_to("/"), symlinks=True)
    _level(out, int(os.environ.get("SOURCE_DATE_EPOCH", "0")))


def _run(argv: list[str | Path], **environ: str) -> None:
    # With the same seed for hashes, whatever goes into a file by the order of a set is the same.
    env = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0", **environ}
    if "SOURCE_DATE_EPOCH" in os.environ:
        env["SOURCE_DATE_EPOCH"] = os.environ["SOURCE_DATE_EPOCH"]
    subprocess.run(argv, env=env, check=True)


def _leave_out(packages: Path) -> None:
    for part in LEFT_OUT:
        shutil.rmtree(packages / part)
    for script in (HOME / "bin").iterdir():
        if not script.name.startswith("python"):
            script.unlink()
    shutil.rmtree(HOME / "include", ignore_errors=True)


def _compile(packages: Path) -> None:
    """Compile everything, in a fixed order, into files that no clock has a part in."""
    # The root filesystem is read-only, and its files never change: nothing is looked up again.
    command: list[str | Path] = [PYTHON, "-m", "compileall", "-q"]
    command.append("--invalidation-mode=unchecked-hash")
    without = [packages / part for part in WITHOUT_SOURCES]
    _run([*command, "-b", *without])
    for source in (source for part in without for source in part.rglob("*.py")):
        source.unlink()
    _run([*command, packages])


def _level(out: Path, at_s: int) -> None:
    """Give every file the same modes and times, whatever those of the sources were."""
    for path in sorted(out.rglob("*"), reverse=True):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)
        os.utime(path, (at_s, at_s), follow_symlinks=False)


if __name__ == "__main__":
    main()
