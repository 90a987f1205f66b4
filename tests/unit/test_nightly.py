"""Tests of the run of everything: what is run again, and what its summary says."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests import nightly

if TYPE_CHECKING:
    from pathlib import Path


def _script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_a_step_that_has_passed_on_these_sources_is_kept(tmp_path: Path) -> None:
    """Its result is found again for the same sources only."""
    result = nightly.run("good", ["echo", "all is well"], "one", tmp_path)
    assert (result.code, result.last_line) == (0, "all is well")
    assert nightly.kept("good", "one", tmp_path) == result
    assert nightly.kept("good", "two", tmp_path) is None
    assert nightly.kept("other", "one", tmp_path) is None


def test_a_step_that_has_failed_is_run_again(tmp_path: Path) -> None:
    """A failure is told with its exit code, and is not kept as a success."""
    result = nightly.run("bad", ["sh", "-c", "echo broken >&2; exit 3"], "one", tmp_path)
    assert (result.code, result.last_line) == (3, "broken")
    assert nightly.kept("bad", "one", tmp_path) is None
    *_, bad, total = nightly.summary({"bad": result})
    assert "FAILED (3)" in bad
    assert total == "nightly: 0 steps passed, 1 failed"


def test_a_damaged_result_is_no_result(tmp_path: Path) -> None:
    """What an interrupted write left is not read as a success."""
    for text in ("", "{}", '{"sources": "one", "code": 0}', "[]"):
        (tmp_path / "step.json").write_text(text)
        assert nightly.kept("step", "one", tmp_path) is None


def test_the_digest_follows_every_file_that_git_would_add(tmp_path: Path) -> None:
    """A changed, a new and a removed file give another digest; an ignored one does not."""

    def git(*arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / ".gitignore").write_text("build/\n")
    (tmp_path / "one").write_text("1")
    git("add", ".")
    seen = [nightly.sources(tmp_path)]
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "log").write_text("x")
    assert nightly.sources(tmp_path) == seen[0]
    for change in (
        lambda: (tmp_path / "one").write_text("2"),
        lambda: (tmp_path / "new").write_text(""),
        (tmp_path / "one").unlink,
    ):
        change()
        seen.append(nightly.sources(tmp_path))
    assert len(set(seen)) == len(seen)


def test_interpreters_that_start_are_found(tmp_path: Path) -> None:
    """Every supported Python on the path is used, but for one that does not start."""
    _script(tmp_path / "python3.10", "exit 0")
    _script(tmp_path / "python3.18", "exit 0")
    _script(tmp_path / "python3.19", "exit 127")
    found = nightly.interpreters(str(tmp_path))
    assert found == {"python3.18": str(tmp_path / "python3.18")}
    names = nightly.steps(found)
    assert {"unit-python3.18", "process-python3.18"} <= set(names)
    assert names["unit-python3.18"] == ["make", f"PYTHON={found['python3.18']}", "unit"]
