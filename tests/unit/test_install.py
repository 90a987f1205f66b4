"""`install DIR`, with a made-up bundle: what is in DIR at each moment, and what is refused."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from leaderexec import __version__, exits, frozen, log
from leaderexec.commands.install import install
from leaderexec.config import UsageError
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]


def make_bundle(directory: Path, text: str = "one") -> Path:
    """Make a directory that is laid out like a bundle, with a script for a launcher."""
    (directory / "runtime" / "below").mkdir(parents=True)
    launcher = directory / "leaderexec"
    launcher.write_text(f'#!/bin/sh\ncat "$(dirname "$(realpath "$0")")/runtime/below/{text}"\n')
    launcher.chmod(0o755)
    (directory / "runtime" / "below" / text).write_text(text)
    (directory / "runtime" / "loader").write_text("")
    (directory / "runtime" / "loader").chmod(0o700)
    return directory


def run_from(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what runs be this bundle."""
    monkeypatch.setattr(frozen, "bundle", lambda: str(bundle))


@pytest.fixture(autouse=True)
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundle that runs."""
    made = make_bundle(tmp_path / "bundle")
    run_from(made, monkeypatch)
    return made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """An empty directory to install into."""
    directory = tmp_path / "shared"
    directory.mkdir()
    return directory


def execute(target: Path) -> str:
    """Run what is installed."""
    return subprocess.check_output([target / "leaderexec"], text=True)


def listing(target: Path) -> dict[str, tuple[int, int]]:
    """Return the inode and the time of change of everything in a directory."""
    states = {path: path.lstat() for path in sorted(target.rglob("*"))}
    return {
        str(path.relative_to(target)): (state.st_ino, state.st_ctime_ns)
        for path, state in states.items()
    }


def home_of(target: Path) -> Path:
    """Return the directory of the copy that the entry names."""
    return target / os.path.dirname(os.readlink(target / "leaderexec"))


def names(target: Path) -> list[str]:
    """Return what is in a directory."""
    return sorted(os.listdir(target))


def failing(number: int) -> Callable[..., None]:
    """Return a system call that fails with this error."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


# --- what is there afterwards -------------------------------------------------------------------


def test_it_can_be_executed_by_any_user_wherever_it_is_mounted(
    target: Path, bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Directories and programs are 0755, other files 0644, also under a umask of 077."""
    before = os.umask(0o077)
    try:
        assert install(str(target)) == exits.OK
    finally:
        os.umask(before)
    assert capfd.readouterr().out == f"{target}/leaderexec: installed, {__version__}\n"
    assert execute(target) == "one"
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in target.rglob("*")
        if not path.is_symlink()
    }
    (home,) = [name for name in names(target) if name != "leaderexec"]
    assert modes == {
        home: 0o755, "leaderexec": 0o755, "runtime": 0o755, "below": 0o755, "loader": 0o755,
        "one": 0o644,
    }  # fmt: skip
    moved = target.rename(target.parent / "moved")
    shutil.rmtree(bundle)
    assert execute(moved) == "one"


def test_the_second_time_nothing_changes(
    target: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is whole stays, to the inode; a copy may install itself there, or elsewhere."""
    install(str(target))
    before = listing(target)
    assert install(str(target)) == exits.OK
    shutil.rmtree(bundle)
    run_from((target / "leaderexec").resolve().parent, monkeypatch)
    assert install(str(target)) == exits.OK
    assert listing(target) == before
    assert capfd.readouterr().out.endswith(f"leaderexec: there already, {__version__}\n")
    other = target.parent / "other"
    other.mkdir()
    assert install(str(other)) == exits.OK
    assert names(other) == names(target)


def test_an_older_bundle_stays_for_those_who_run_it(
    target: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another version is put beside it, the entry changes over, and back again without a copy."""
    install(str(target))
    first = os.readlink(target / "leaderexec")
    kept = listing(target / os.path.dirname(first))
    run_from(make_bundle(tmp_path / "newer", "two"), monkeypatch)
    install(str(target))
    assert execute(target) == "two"
    assert listing(target / os.path.dirname(first)) == kept
    run_from(tmp_path / "bundle", monkeypatch)
    before = names(target)
    install(str(target))
    assert execute(target) == "one"
    assert os.readlink(target / "leaderexec") == first
    assert names(target) == before


#: What may have become of a copy, in which `one` is a file.
DAMAGES = {
    "missing": "rm one",
    "changed": "printf eno > one",
    "mode": "chmod 0700 .",
    "more": "touch more",
    "link": "ln -sf /etc/passwd one",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_copy_is_replaced_and_not_touched(target: Path, damage: str) -> None:
    """Whoever runs the damaged one is not disturbed; the entry names a whole one."""
    install(str(target))
    home = home_of(target)
    subprocess.run(["sh", "-c", damage], cwd=home / "runtime" / "below", check=True)
    before = listing(home)
    assert install(str(target)) == exits.OK
    assert execute(target) == "one"
    assert home_of(target).name == f"{home.name}-1"
    assert listing(home) == before
    install(str(target))
    assert len(names(target)) == 3


def test_a_file_of_that_name_is_replaced(target: Path) -> None:
    """What an earlier way of installing left gives way, and a link that leads nowhere too."""
    (target / "leaderexec").write_text("older")
    install(str(target))
    assert execute(target) == "one"
    (target / "leaderexec").unlink()
    (target / "leaderexec").symlink_to("nowhere")
    install(str(target))
    assert execute(target) == "one"


# --- interruptions and company -------------------------------------------------------------------


_STEPS = [
    ("mkdir", 1), ("mkdir", 2), ("fchmod", 1), ("fsync", 2), ("fsync", 4), ("rename", 1),
    ("symlink", 1), ("replace", 1),
]  # fmt: skip


#: Signals itself at the n-th call of a function of os.
_SIGNALED = """
import os, signal, sys
from leaderexec import frozen
from leaderexec.commands.install import install
target, bundle, name, count, signum = sys.argv[1:]
frozen.bundle = lambda: bundle
original, calls = getattr(os, name), []
def counted(*arguments, **options):
    calls.append(name)
    if len(calls) == int(count):
        os.kill(os.getpid(), int(signum))
    return original(*arguments, **options)
setattr(os, name, counted)
sys.exit(install(target))
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(("name", "count"), _STEPS)
def test_ended_at_any_step_it_leaves_nothing_half_done(
    target: Path, bundle: Path, name: str, count: int, signum: signal.Signals
) -> None:
    """TERM: no remains. KILL: what has its final name is whole, and the next run tidies up."""
    arguments = map(str, (target, bundle, name, count, int(signum)))
    ended = subprocess.run([sys.executable, "-c", _SIGNALED, *arguments], cwd=ROOT, check=False)
    if signum == signal.SIGTERM:
        assert ended.returncode == exits.SIGNALED + signum
        assert not [left for left in names(target) if left.endswith(".partial")]
    else:
        assert ended.returncode == -signum
    assert not (target / "leaderexec").is_symlink()
    assert install(str(target)) == exits.OK
    assert execute(target) == "one"
    assert len(names(target)) == 2, names(target)


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_told_to_stop_it_restores_the_handlers(
    target: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whoever called it has its own again."""
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(os, name, lambda *_: signal.raise_signal(signal.SIGTERM))
    assert install(str(target)) == exits.SIGNALED + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == handler


def test_whoever_looks_meanwhile_sees_one_that_runs(
    target: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """At every step of an install over another version the entry is of a whole one."""
    install(str(target))
    run_from(make_bundle(tmp_path / "newer", "two"), monkeypatch)
    seen = []

    def looked(step: Callable[..., Any]) -> Callable[..., Any]:
        def look_and_do(*arguments: Any, **options: Any) -> Any:
            seen.append(execute(target))
            return step(*arguments, **options)

        return look_and_do

    with monkeypatch.context() as patch:
        for name in ("mkdir", "fchmod", "rename", "symlink", "replace"):
            patch.setattr(os, name, looked(getattr(os, name)))
        install(str(target))
    assert {*seen, execute(target)} == {"one", "two"}
    assert len(seen) >= 5


def test_two_at_once_wait_for_each_other(target: Path, bundle: Path) -> None:
    """One that waits for the lock changes nothing before it has it, and can be stopped."""
    descriptor = os.open(target, os.O_RDONLY)
    remains = target / ".leaderexec-00000000.partial"
    remains.mkdir()
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    never = ("mkdir", "0", "0")
    command = [sys.executable, "-c", _SIGNALED, str(target), str(bundle), *never]
    start = partial(subprocess.Popen, command, cwd=ROOT)
    with start() as stopped, start() as waiting:
        wait_until(
            lambda: {stopped.pid, waiting.pid} <= _waiting_for_locks(),
            timeout_s=30,
            what="they wait for the lock",
        )
        stopped.terminate()
        assert stopped.wait(timeout=60) == exits.SIGNALED + signal.SIGTERM
        assert names(target) == [remains.name]
        os.close(descriptor)
        assert waiting.wait(timeout=60) == 0
    assert execute(target) == "one"
    assert len(names(target)) == 2


def _waiting_for_locks() -> set[int]:
    lines = Path("/proc/locks").read_text().splitlines()
    return {int(line.split()[5]) for line in lines if "->" in line}


def test_a_filesystem_without_locks(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done all the same, and nothing is taken for the remains of a dead run."""
    monkeypatch.setattr(fcntl, "flock", failing(errno.EOPNOTSUPP))
    (target / ".leaderexec-00000000.partial").mkdir()
    assert install(str(target)) == exits.OK
    assert execute(target) == "one"
    assert len(names(target)) == 3


def test_without_locks_another_may_be_quicker(
    target: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A copy that somebody else has put there meanwhile is as good as ours."""
    install(str(target))
    elsewhere, home = tmp_path / "elsewhere", home_of(target)
    home.rename(elsewhere)
    rename = os.rename

    def come_too_late(*names_: Path, **options: Any) -> None:
        shutil.copytree(elsewhere, home)
        rename(*names_, **options)

    monkeypatch.setattr(os, "rename", come_too_late)
    assert install(str(target)) == exits.OK
    assert home.exists()
    assert execute(target) == "one"
    assert len(names(target)) == 2


# --- refusals ------------------------------------------------------------------------------------


def test_only_a_bundle_can_be_installed(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leaderexec that needs a Python beside it says so."""
    monkeypatch.undo()
    with pytest.raises(UsageError, match="accepted: the leaderexec of the bundle"):
        install(str(target))
    assert names(target) == []


@pytest.mark.parametrize(
    ("directory", "complaint"),
    [
        ("missing", "no such file or directory; accepted: an existing"),
        ("file", "not a directory; accepted: an existing"),
        ("taken", "there is a directory"),
        # What stands for something else in a search path cannot be in it.
        ("a:b", "accepted: a path without"),
        ("a;b", "accepted: a path without"),
        ("a$b", "accepted: a path without"),
    ],
)
def test_a_directory_that_will_not_do(target: Path, directory: str, complaint: str) -> None:
    """What it is about is named, with what would do, and nothing is changed."""
    (target / "file").write_text("")
    for made in ("taken/leaderexec", "a:b", "a;b", "a$b"):
        (target / made).mkdir(parents=True)
    before = sorted(listing(target))
    with pytest.raises(UsageError, match=complaint):
        install(f"{target}/{directory}")
    assert sorted(listing(target)) == before


@pytest.mark.parametrize(
    ("name", "call", "complaint"),
    [
        # Missing rights and a read-only filesystem are the user's to change.
        ("mkdir", failing(errno.EACCES), r"cannot write there: .*; accepted: an existing"),
        ("mkdir", failing(errno.EROFS), r"cannot write there: .*; accepted: an existing"),
        ("statvfs", lambda _: SimpleNamespace(f_flag=os.ST_NOEXEC), "mounted noexec"),
    ],
)
def test_a_directory_that_cannot_be_used(
    target: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: Any, complaint: str
) -> None:
    """Where nothing could be written, or executed, nothing is installed."""
    monkeypatch.setattr(os, name, call)
    with pytest.raises(UsageError, match=complaint):
        install(str(target))
    assert names(target) == []


def test_a_disk_that_is_full(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong on the way is told in one line, and leaves nothing."""
    said: list[str] = []
    monkeypatch.setattr(log, "die_in_one_line", said.append)
    monkeypatch.setattr(shutil, "copyfileobj", failing(errno.ENOSPC))
    assert install(str(target)) == exits.INTERNAL
    assert said == [f"cannot install into '{target}': no space left on device"]
    assert names(target) == []
