"""The packages: wheel and sdist can be built, installed and run where nothing else is.

Needs the package index, as the environment of the tests itself did.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from leaderexec import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[2]
#: The packages are built once, by one worker.
pytestmark = pytest.mark.xdist_group("packages")


def run(argv: Sequence[str | Path], cwd: Path) -> str:
    """Run a program that knows nothing of this tree, and return what it printed."""
    hidden = ("PYTHON", "COVERAGE_", "VIRTUAL_ENV")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    done = subprocess.run(
        argv, cwd=cwd, env=environ, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{argv}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist, and the wheel built from it."""
    directory = tmp_path_factory.mktemp("packages")
    # From a copy, because a build writes into the tree.
    source = directory / "source"
    source.mkdir()
    names = ["leaderexec", "pyproject.toml", "setup.cfg", "README.md", "LICENSE", "MANIFEST.in"]
    present = [name for name in names if (ROOT / name).exists()]
    run(["cp", "-r", *[ROOT / name for name in present], source], directory)
    run([sys.executable, "-m", "build", "--outdir", directory / "dist", source], directory)
    return directory / "dist"


def test_installs_and_runs_in_a_clean_environment(packages: Path, tmp_path: Path) -> None:
    """From the wheel, which the sdist has made, a new environment gets a command that runs."""
    (package,) = packages.glob("*.whl")
    environment = tmp_path / "venv"
    run([sys.executable, "-m", "venv", "--without-pip", environment], tmp_path)
    python = environment / "bin" / "python"
    run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", package], tmp_path)
    command = environment / "bin" / "leaderexec"
    assert run([command, "--version"], tmp_path) == f"leaderexec {__version__}\n"
    place = run([python, "-c", "import leaderexec; print(leaderexec.__file__)"], tmp_path)
    assert place.startswith(str(environment)), "not the one of this tree"
    election = ["--election=x", f"--lock=file:{tmp_path / 'lock'}"]
    assert run([command, *election, "--", "/bin/echo", "hello"], tmp_path) == "hello\n"


def test_the_packages_have_what_they_need(packages: Path) -> None:
    """Both carry every module, the mark of a typed package, and the licence."""
    (wheel,) = packages.glob("*.whl")
    (sdist,) = packages.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    with tarfile.open(sdist) as tar:
        in_sdist = {name.partition("/")[2] for name in tar.getnames()}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "leaderexec").rglob("*.py")}
    assert {*modules, "leaderexec/py.typed"} <= in_wheel
    assert {*modules, "leaderexec/py.typed", "pyproject.toml", "README.md", "LICENSE"} <= in_sdist
    assert any(re.fullmatch(r"leaderexec-[^/]*/licenses/LICENSE", name) for name in in_wheel)
    outside = {name for name in in_wheel if not name.startswith(("leaderexec/", "leaderexec-"))}
    assert not outside, "nothing else is installed"
