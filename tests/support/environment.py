"""The surroundings of every test: the same however the session was started.

Owns: which signals are ignored or blocked, the umask, the limits, the locale, the home directory,
and the variables that the tests and all they start inherit. `nohup make test &` hands on ignored
HUP, INT and QUIT; a user has a locale, a ~/.kube/config, PYTHONPATH and limits of their own.
Must not know: what is tested.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_LOCALE: Final = "C.UTF-8"
#: What the interpreter itself ignores when it starts.
_PYTHON_IGNORES: Final = {signal.SIGPIPE, signal.SIGXFSZ}
_UMASK: Final = 0o022
#: The usual soft limit of a login and of a container.
_OPEN_FILES: Final = 1024
#: The user's variables that change what Python, the C library or leaderexec do.
_FOREIGN: Final = (
    *("PYTHON", "LC_", "LANG", "KUBECONFIG", "KUBERNETES_", "POD_", "LEADEREXEC_"),
    *("NOTIFY_SOCKET", "LISTEN_"),
)
#: The settings of the tests themselves.
_KEPT: Final = tuple(
    f"LEADEREXEC_{name}" for name in ("REQUIRE_", "TEST_", "SCHEDULES", "SEED", "REWRITE")
)


def clean_variables(environment: MutableMapping[str, str]) -> None:
    """Remove from `environment` what the user has set for other programs; set the locale."""
    for name in list(environment):
        if name.startswith(_FOREIGN) and not name.startswith(_KEPT):
            del environment[name]
    environment["LC_ALL"] = _LOCALE


def move_home(environment: MutableMapping[str, str], home: Path) -> None:
    """Make `home` the home directory; what builds programs keeps the user's caches and settings."""
    user = Path(environment.get("HOME") or Path.home())
    caches = Path(environment.get("XDG_CACHE_HOME") or user / ".cache")
    settings = Path(environment.get("XDG_CONFIG_HOME") or user / ".config")
    for name, path in {
        "LEADEREXEC_TEST_CACHE": caches,
        "GOCACHE": caches / "go-build",
        "GOENV": settings / "go" / "env",
        "GOPATH": user / "go",
        "PIP_CACHE_DIR": caches / "pip",
        "PIP_CONFIG_FILE": settings / "pip" / "pip.conf",
    }.items():
        environment.setdefault(name, str(path))
    environment["HOME"] = str(home)


def reset_process() -> None:
    """Give this process default signals with none blocked, a usual umask and usual limits."""
    for number in signal.valid_signals():
        if number in _PYTHON_IGNORES or signal.getsignal(number) is not signal.SIG_IGN:
            continue
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, default)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.umask(_UMASK)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
