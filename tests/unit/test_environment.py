"""Tests of the known environment of a test session."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support import environment

ROOT = Path(__file__).resolve().parents[2]
#: Starts as under `nohup ... &` by a user with habits of their own, then loads the conftest.
_SESSION = """
import json, os, resource, signal, sys
hostile = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1]
if sys.argv[1] == "outer":
    for number in hostile:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:-1], "inner"])
inherited = [signal.getsignal(number) == signal.SIG_IGN for number in hostile]
import tests.conftest
print(json.dumps({
    "inherited": inherited,
    "ignored": [signal.getsignal(number) == signal.SIG_IGN for number in hostile],
    "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "umask": os.umask(0),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 200,
}))
"""


def test_a_session_does_not_inherit_signals_umask_or_limits() -> None:
    """Ignored and blocked signals, umask and limits of the starting shell reach no test."""
    done = subprocess.run(
        [sys.executable, "-c", _SESSION, "outer"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    told = json.loads(done.stdout)
    assert all(told["inherited"]), "the hostile start took effect"
    assert told == {
        "inherited": told["inherited"],
        "ignored": [False] * 4,
        "blocked": [],
        "umask": 0o022,
        "files": True,
    }


def test_variables_of_the_user_do_not_reach_the_tests() -> None:
    """What Python, the locale, kubectl or leaderexec would obey is removed; the rest stays."""
    variables = {
        "PYTHONPATH": "/mine",
        "LC_CTYPE": "ja_JP.eucJP",
        "LANG": "de_DE",
        "KUBECONFIG": "/mine",
        "LEADEREXEC_TTL": "7s",
        "LEADEREXEC_REQUIRE_ALL": "1",
        "PATH": "/bin",
    }
    environment.clean_variables(variables)
    assert variables == {"LC_ALL": "C.UTF-8", "LEADEREXEC_REQUIRE_ALL": "1", "PATH": "/bin"}


def test_the_home_of_a_test_is_empty_and_the_caches_are_the_users(tmp_path: Path) -> None:
    """No kubeconfig of the user is found, and what is built is still found in the user's caches."""
    assert list(Path.home().iterdir()) == []
    variables = {"HOME": "/user", "GOPATH": "/kept"}
    environment.move_home(variables, tmp_path)
    environment.move_home(variables, tmp_path)
    assert variables.pop("HOME") == str(tmp_path)
    assert variables == {
        "LEADEREXEC_TEST_CACHE": "/user/.cache",
        "GOCACHE": "/user/.cache/go-build",
        "GOENV": "/user/.config/go/env",
        "GOPATH": "/kept",
        "PIP_CACHE_DIR": "/user/.cache/pip",
        "PIP_CONFIG_FILE": "/user/.config/pip/pip.conf",
    }
