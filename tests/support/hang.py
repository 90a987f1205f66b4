"""A file lock that hangs: where the file `hung` is, no flock of one candidate returns any more.

Owns: a directory of modules that a candidate's processes import when they start, and the file. It
is what a filesystem does whose server is gone: every elector of the candidate hangs, one after the
other, and its lease runs out. Must not know: what the candidate then does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.support.candidate import ROOT

if TYPE_CHECKING:
    from pathlib import Path

_MODULE: Final = """
import fcntl, os, time
flock = fcntl.flock
def hang(*args):
    while os.path.exists({path!r}):
        time.sleep(0.05)
    return flock(*args)
fcntl.flock = hang
"""


class HangingLock:
    """The lock of a candidate that is started with `env`; it hangs from `hang` to `release`."""

    def __init__(self, directory: Path) -> None:
        self._hung = directory / "hung"
        modules = directory / "modules"
        modules.mkdir()
        (modules / "sitecustomize.py").write_text(_MODULE.format(path=str(self._hung)))
        self.env: Final = {"PYTHONPATH": f"{modules}:{ROOT}"}

    def hang(self) -> None:
        """Have every call hang from now on."""
        self._hung.touch()

    def release(self) -> None:
        """Have the calls return."""
        self._hung.unlink()
