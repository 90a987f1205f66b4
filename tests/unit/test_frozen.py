"""The environment behind the launcher's marks, and where the bundle is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leaderexec import frozen

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).resolve().parents[2]
_SHOW = """
import ctypes, json, os, time
from leaderexec import frozen
frozen.restore_environment()
libc = ctypes.CDLL(None)
libc.getenv.restype = ctypes.c_char_p
names = [name.decode("latin-1") for name in os.environb]
print(json.dumps({
    "python": [[k.decode("latin-1"), v.decode("latin-1")] for k, v in os.environb.items()],
    "c": [[name, libc.getenv(name.encode("latin-1")).decode("latin-1")] for name in names],
    "old": libc.getenv(b"_PYI_ARCHIVE_FILE") is None,
    "zone": time.tzname[0],
}))
"""


def restored(environ: dict[bytes, bytes]) -> dict[str, Any]:
    """Return what a new process makes of an environment, in Latin-1 so that JSON can say it."""
    output = subprocess.check_output(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{_SHOW}"],
        env=environ,
        text=True,
    )
    result: dict[str, Any] = json.loads(output)
    return result


def test_what_was_marked_is_restored_and_nothing_else_stays() -> None:
    """Every variable comes back as it was, in its order, for Python and for C code."""
    given = {
        b"PATH": b"/bin",
        b"LD_LIBRARY_PATH": b"/lib/of/the/child",
        b"_PYI_ARCHIVE_FILE": b"the user's own",
        b"EMPTY": b"",
        b"NOT_UTF8": b"\xff\xfe=\x80",
        b"A NAME, \xe9": b"@",
        b"@": b"a mark of the user's own",
    }
    marked = {frozen.MARK + name: value for name, value in given.items()}
    ours = {b"_PYI_PARENT_PROCESS_LEVEL": b"0"}
    result = restored({**ours, **marked})
    expected = [[k.decode("latin-1"), v.decode("latin-1")] for k, v in given.items()]
    assert result["python"] == expected
    assert result["c"] == expected


def test_our_own_variables_are_gone() -> None:
    """What only the frozen Python needs to know reaches nobody else."""
    result = restored({b"_PYI_ARCHIVE_FILE": b"/bundle", frozen.MARK + b"A": b"1"})
    assert result["python"] == [["A", "1"]]
    assert result["old"]


def test_a_variable_without_a_name_is_left_out() -> None:
    """The kernel hands on `=value`, which nobody can ask for."""
    assert restored({frozen.MARK: b"value", frozen.MARK + b"A": b"1"})["python"] == [["A", "1"]]


def test_the_time_zone_is_that_of_the_restored_environment() -> None:
    """What C code has read at the start is read again."""
    assert restored({frozen.MARK + b"TZ": b"XYZ-3"})["zone"] == "XYZ"


def test_the_launcher_sets_the_same_mark() -> None:
    """Launcher and Python agree about the mark and the place of the program."""
    launcher = (ROOT / "docker" / "bundle" / "launcher.c").read_text()
    found = re.search(r"^#define MARK '(.)'", launcher, re.MULTILINE)
    assert found is not None
    assert found[1].encode() == frozen.MARK
    builder = (ROOT / "docker" / "bundle" / "build.py").read_text()
    names = re.findall(r'^(?:RUNTIME|PROGRAM): Final = "(\w+)"', builder, re.MULTILINE)
    assert f'#define PROGRAM RUNTIME "/{names[1]}"' in launcher
    assert f'#define RUNTIME "/{names[0]}"' in launcher


def test_where_the_bundle_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen program knows the directory above its runtime; any other is in no bundle."""
    assert frozen.bundle() is None
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "_MEIPASS", os.path.join("/a/bundle", "runtime"), raising=False)
    assert frozen.bundle() == "/a/bundle"
