"""What differs when leaderexec runs from the bundle: where it lies, how variables reach it.

Owns the agreement with the bundle's launcher (docker/bundle/launcher.c) about the environment, and
the place of the bundle. Must not know what is done with either. It runs before everything else, and
imports accordingly little.

Guards against a mix-up of two environments: what the loader and Python need of their own must not
reach the child or a credential plugin, and what is meant for those, such as LD_PRELOAD, must not
reach the loader.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Final

#: The launcher puts it before each string of the environment that it was given itself.
MARK: Final = b"@"


def restore_environment() -> None:
    """Make `os.environ`, and what C code reads, what the launcher was given.

    As in every Python, of several values of one name the first counts, and what is no NAME=VALUE
    is left out.
    """
    given = {
        name.removeprefix(MARK): value
        for name, value in os.environb.items()
        if name.startswith(MARK)
    }
    os.environb.clear()
    for name, value in given.items():
        if name:  # there is no way to set it, and nobody could read it
            os.environb[name] = value
    time.tzset()


def bundle() -> str | None:
    """Return the directory of the bundle that is running, None when it is no bundle."""
    if not getattr(sys, "frozen", False):
        return None
    runtime: str = sys._MEIPASS  # type: ignore[attr-defined]  # noqa: SLF001 - PyInstaller's name
    return os.path.dirname(runtime)
