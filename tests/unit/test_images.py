"""What the images are made from: the locks name everything, by hashes, for every machine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
LOCKS: Final = ("requirements", "build")
_PIN: Final = re.compile(r"([a-z0-9-]+)==[0-9][^ ;]*")
_HASH: Final = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def pinned(name: str) -> dict[str, str]:
    """Return the entries of a lock file by the names of the packages."""
    text = (ROOT / "docker" / f"{name}.lock").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {line.partition("==")[0]: line for line in lines}


def required(lines: list[str]) -> set[str]:
    """Return the names in requirements."""
    found = (re.match(r"[A-Za-z0-9-]+", line) for line in lines if not line.startswith("#"))
    return {match[0].lower() for match in found if match}


@pytest.mark.parametrize("name", LOCKS)
def test_each_entry_is_a_version_with_its_hashes(name: str) -> None:
    """Nothing is left open: no range, no marker of one machine, no address, no missing hash."""
    entries = pinned(name)
    assert entries
    for package, line in entries.items():
        pin, *hashes = line.split()
        assert _PIN.fullmatch(pin), line
        assert hashes, package
        assert all(_HASH.fullmatch(each) for each in hashes), line


def test_everything_that_is_required_is_locked() -> None:
    """What pyproject.toml and docker/build.in want is locked; `make lock` renews it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert required(project["project"]["dependencies"]) <= set(pinned("requirements"))
    build = required((ROOT / "docker" / "build.in").read_text().splitlines())
    assert set(pinned("build")) == build
    assert required(project["build-system"]["requires"]) <= build


def test_what_is_left_out_is_not_needed() -> None:
    """The packages that the image goes without are named in one place, and locked nowhere."""
    makefile = (ROOT / "Makefile").read_text()
    (names,) = re.findall(r"^UNUSED := (.*)$", makefile, re.MULTILINE)
    assert not set(names.split()) & set(pinned("requirements"))
    for name in names.split():
        module = name.replace("-", "_")
        for path in (ROOT / "leaderexec").rglob("*.py"):
            assert not re.search(rf"\bimport {module}\b|\bfrom {module}\b", path.read_text()), path
