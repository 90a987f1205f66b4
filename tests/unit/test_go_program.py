"""How the programs of the kube lane are built and cached, with a Go that only pretends."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.controlplane import GoProgram, Unavailable

if TYPE_CHECKING:
    from pathlib import Path

# Notes each build, by its package, beside itself; what it builds is the module's source.
_GO = """#!/bin/sh
case $1 in
env) echo go1.99.0 ;;
build)
    for package; do :; done
    echo "$package" >> "$0.builds"
    while [ "$1" != -o ]; do shift; done
    cat main.go > "$2" || exit 1
    ! grep broken main.go
    ;;
esac
"""


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pretended Go, first on the path, and a cache of the test's own."""
    path = tmp_path / "bin" / "go"
    path.parent.mkdir()
    path.write_text(_GO)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("LEADEREXEC_TEST_CACHE", str(tmp_path / "cache"))
    return path


@pytest.fixture
def program(tmp_path: Path) -> GoProgram:
    """A program with one source and another name."""
    module = tmp_path / "tool"
    module.mkdir()
    (module / "go.mod").write_text("module leaderexec.test/tool\n\ngo 1.26.0\n")
    (module / "go.sum").touch()
    (module / "main.go").write_text("one")
    return GoProgram(module, links=("alias",))


def _builds(go: Path) -> list[str]:
    return go.with_name("go.builds").read_text().splitlines()


def test_the_same_sources_are_built_once(go: Path, program: GoProgram) -> None:
    """The first call builds, the second finds; other sources are another program."""
    first = program.build()
    assert first.name == "tool"
    assert first.read_text() == first.with_name("alias").read_text() == "one"
    assert program.build() == first
    assert _builds(go) == ["."]
    (program.module / "main.go").write_text("two")
    second = program.build()
    assert (first.read_text(), second.read_text()) == ("one", "two")
    assert _builds(go) == [".", "."]


def test_a_package_of_another_module_is_a_program_of_its_own(go: Path, program: GoProgram) -> None:
    """It is what Go is asked to build, in the module that pins it, and has its own place."""
    own = program.build()
    paths = {own}
    for package in ("other.test/one", "other.test/two"):
        foreign = GoProgram(program.module, package=package)
        paths.add(foreign.build())
        assert foreign.build() in paths
    assert _builds(go) == [".", "other.test/one", "other.test/two"]
    assert len(paths) == 3
    assert {path.name for path in paths} == {"tool"}


def test_a_build_that_failed_leaves_nothing(go: Path, program: GoProgram) -> None:
    """What a failed build has written is not taken for its result, and is gone."""
    (program.module / "main.go").write_text("broken")
    for _ in range(2):
        with pytest.raises(Unavailable, match="failed with code 1"):
            program.build()
    assert _builds(go) == [".", "."]
    cache = go.parents[1] / "cache" / "leaderexec-test"
    assert [path for path in cache.rglob("*") if path.is_file()] == [cache / "lock"]


def test_what_a_killed_build_left_is_removed(go: Path, program: GoProgram) -> None:
    """The next build sweeps the scratch directories of builds that never ended."""
    leftover = go.parents[1] / "cache" / "leaderexec-test" / ".scratch-old"
    leftover.mkdir(parents=True)
    (leftover / "tool").touch()
    program.build()
    assert not leftover.exists()
