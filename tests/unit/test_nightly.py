"""Tests of the run of everything: what is run again, and what its summary says."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests import nightly

if TYPE_CHECKING:
    from pathlib import Path


def test_only_what_has_passed_on_these_sources_is_kept(tmp_path: Path) -> None:
    """A failure, a result for other sources and one that was damaged are run again."""
    good = nightly.run("good", ["echo", "all is well"], "one", tmp_path)
    assert (good.code, good.last_line) == (0, "all is well")
    assert nightly.kept("good", "one", tmp_path) == good
    assert nightly.kept("good", "two", tmp_path) is None
    bad = nightly.run("bad", ["sh", "-c", "echo broken >&2; exit 3"], "one", tmp_path)
    assert (bad.code, bad.last_line) == (3, "broken")
    assert nightly.kept("bad", "one", tmp_path) is None
    *_, line, total = nightly.summary({"good": good, "bad": bad})
    assert "FAILED (3)" in line
    assert total == "nightly: 1 steps passed, 1 failed"
    for text in ("", "{}", '{"sources": "one", "code": 0}', "[]"):
        (tmp_path / "good.json").write_text(text)
        assert nightly.kept("good", "one", tmp_path) is None


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
