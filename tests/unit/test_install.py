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
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from leaderexec import __version__, config, exits, frozen
from leaderexec.commands.install import install
from leaderexec.config import HelpRequested, InstallRequested, UsageError, parse
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
_ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


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


@pytest.fixture
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
    found = {}
    for path in sorted(target.rglob("*")):
        state = path.lstat()
        found[str(path.relative_to(target))] = (state.st_ino, state.st_ctime_ns)
    return found


def names(target: Path) -> list[str]:
    """Return what is in a directory."""
    return sorted(os.listdir(target))


# --- the words ---------------------------------------------------------------------------------


def test_install_is_a_subcommand() -> None:
    """As the first word it is no command of the user's."""
    assert parse(["install", "/shared"], {}) == InstallRequested("/shared")
    assert parse(["install", "--", "-odd"], {}) == InstallRequested("-odd")
    assert parse(["install", "--help"], {}) == HelpRequested()
    assert parse(["install", "/shared"], {"LEADEREXEC_ELECTION": "x"}) == InstallRequested(
        "/shared"
    )


@pytest.mark.parametrize(
    "argv",
    [["--election=x", "install", "/a"], ["--election=x", "--", "install", "/a"]],
)
def test_a_command_of_that_name_can_still_be_run(argv: list[str], tmp_path: Path) -> None:
    """After an option or after -- it is a COMMAND."""
    parsed = parse([argv[0], f"--lock=file:{tmp_path}/lock", *argv[1:]], {})
    assert isinstance(parsed, config.Config)
    assert parsed.command == ("install", "/a")


@pytest.mark.parametrize("words", [[], [""], ["/a", "/b"], ["--force"], ["--", "/a", "/b"]])
def test_install_takes_one_directory(words: list[str]) -> None:
    """Whatever else is said is refused in one line that tells both ways to mean it."""
    with pytest.raises(UsageError, match=r"accepted: leaderexec install DIR, .* -- install") as no:
        parse(["install", *words], {})
    assert "\n" not in str(no.value)


# --- what is there afterwards -------------------------------------------------------------------


@pytest.mark.usefixtures("bundle")
def test_it_can_be_executed_by_any_user_whatever_the_umask(
    target: Path, capfd: pytest.CaptureFixture[str]
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


@pytest.mark.usefixtures("bundle")
def test_the_second_time_nothing_changes(target: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What is there and whole stays, to the inode."""
    install(str(target))
    before = listing(target)
    assert install(str(target)) == exits.OK
    assert listing(target) == before
    assert capfd.readouterr().out.endswith(f"leaderexec: there already, {__version__}\n")


def test_from_the_copy_itself(target: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed one may be told to install itself where it is, or elsewhere."""
    install(str(target))
    shutil.rmtree(bundle)
    run_from((target / "leaderexec").resolve().parent, monkeypatch)
    before = listing(target)
    assert install(str(target)) == exits.OK
    assert listing(target) == before
    other = target.parent / "other"
    other.mkdir()
    assert install(str(other)) == exits.OK
    assert names(other) == names(target)


@pytest.mark.usefixtures("bundle")
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


@pytest.mark.usefixtures("bundle")
@pytest.mark.parametrize("damage", ["missing", "changed", "mode", "more", "link"])
def test_a_damaged_copy_is_replaced_and_not_touched(target: Path, damage: str) -> None:
    """Whoever runs the damaged one is not disturbed; the entry names a whole one."""
    install(str(target))
    home = target / os.path.dirname(os.readlink(target / "leaderexec"))
    victim = home / "runtime" / "below" / "one"
    if damage == "missing":
        victim.unlink()
    elif damage == "changed":
        victim.write_text("eno")
    elif damage == "mode":
        (home / "runtime").chmod(0o700)
    elif damage == "more":
        (home / "runtime" / "more").write_text("")
    else:
        victim.unlink()
        victim.symlink_to("/etc/passwd")
    before = listing(home)
    assert install(str(target)) == exits.OK
    assert execute(target) == "one"
    assert os.path.dirname(os.readlink(target / "leaderexec")) == f"{home.name}-1"
    assert listing(home) == before
    install(str(target))
    assert len(names(target)) == 3


@pytest.mark.usefixtures("bundle")
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


def _interrupt_at(
    monkeypatch: pytest.MonkeyPatch, name: str, count: int, act: Callable[[], object]
) -> list[int]:
    """Do something at the n-th call of a function of os, and return the calls."""
    original: Callable[..., Any] = getattr(os, name)
    calls: list[int] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == count:
            act()
        return original(*arguments, **options)

    monkeypatch.setattr(os, name, counted)
    return calls


_STEPS = [
    ("mkdir", 1), ("mkdir", 2), ("fchmod", 1), ("fsync", 2), ("fsync", 4), ("rename", 1),
    ("symlink", 1), ("replace", 1),
]  # fmt: skip


@pytest.mark.usefixtures("bundle")
@pytest.mark.parametrize(("name", "count"), _STEPS)
def test_told_to_stop_it_leaves_nothing_half_done(
    target: Path, monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    """TERM at any step: no remains, no entry that does not run, and the next time it is done."""
    with monkeypatch.context() as patched:
        calls = _interrupt_at(
            patched,
            name,
            count,
            lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM),
        )
        assert install(str(target)) == exits.SIGNALED + signal.SIGTERM
    assert len(calls) >= count, "the signal came"
    assert not [left for left in names(target) if left.endswith(".partial")]
    assert not (target / "leaderexec").is_symlink()
    assert install(str(target)) == exits.OK
    assert execute(target) == "one"
    assert len(names(target)) == 2


_KILLED = """
import os, signal, sys
from leaderexec import frozen
from leaderexec.commands.install import install
target, bundle, name, count = sys.argv[1:]
frozen.bundle = lambda: bundle
original, calls = getattr(os, name), []
def counted(*arguments, **options):
    calls.append(name)
    if len(calls) == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **options)
setattr(os, name, counted)
install(target)
"""


@pytest.mark.parametrize(("name", "count"), _STEPS)
def test_what_a_killed_run_leaves_is_removed_by_the_next(
    target: Path, bundle: Path, name: str, count: int
) -> None:
    """KILL at any step: what is there by its final name is whole, and the next run tidies up."""
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, target, bundle, name, str(count)], cwd=ROOT, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (target / "leaderexec").is_symlink()
    assert install(str(target)) == exits.OK
    assert execute(target) == "one"
    assert len(names(target)) == 2, names(target)


@pytest.mark.usefixtures("bundle")
def test_whoever_looks_meanwhile_sees_one_that_runs(
    target: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """While two versions replace each other over and over, every execution is of a whole one."""
    install(str(target))
    newer = make_bundle(tmp_path / "newer", "two")
    seen: set[str] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            # As the kernel does for an executable: the link is followed once.
            program = target / os.readlink(target / "leaderexec")
            seen.add(subprocess.check_output([program], text=True))

    with ThreadPoolExecutor() as pool:
        watcher = pool.submit(look)
        try:
            for count in range(400):
                run_from(newer if count % 2 else tmp_path / "bundle", monkeypatch)
                install(str(target))
        finally:
            done.set()
        watcher.result(timeout=60)  # what it has met with, if anything
    assert seen == {"one", "two"}


_INSTALL = """
import sys
from leaderexec import frozen
from leaderexec.commands.install import install
frozen.bundle = lambda: sys.argv[2]
sys.exit(install(sys.argv[1]))
"""


def test_two_at_once_wait_for_each_other(target: Path, bundle: Path) -> None:
    """One that waits for the lock changes nothing before it has it."""
    descriptor = os.open(target, os.O_RDONLY)
    remains = target / ".leaderexec-00000000.partial"
    remains.mkdir()
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    command = [sys.executable, "-c", _INSTALL, str(target), str(bundle)]
    with subprocess.Popen(command, cwd=ROOT) as waiting:
        wait_until(
            lambda: waiting.pid in _waiting_for_locks(), timeout_s=30, what="it waits for the lock"
        )
        assert names(target) == [remains.name]
        os.close(descriptor)
        assert waiting.wait(timeout=60) == 0
    assert execute(target) == "one"
    assert len(names(target)) == 2


def _waiting_for_locks() -> set[int]:
    lines = Path("/proc/locks").read_text().splitlines()
    return {int(line.split()[5]) for line in lines if "->" in line}


def test_many_at_once(target: Path, bundle: Path) -> None:
    """Eight runs at once end well, with one copy and one entry."""
    command = [sys.executable, "-c", _INSTALL, str(target), str(bundle)]
    running = [subprocess.Popen(command, cwd=ROOT) for _ in range(8)]
    assert [process.wait(timeout=120) for process in running] == [0] * 8
    assert execute(target) == "one"
    assert len(names(target)) == 2


@pytest.mark.usefixtures("bundle")
def test_a_filesystem_without_locks(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done all the same, and nothing is taken for the remains of a dead run."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    (target / ".leaderexec-00000000.partial").mkdir()
    assert install(str(target)) == exits.OK
    assert execute(target) == "one"
    assert len(names(target)) == 3


@pytest.mark.usefixtures("bundle")
def test_without_locks_another_may_be_quicker(
    target: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A copy that somebody else has put there meanwhile is as good as ours."""
    install(str(target))
    elsewhere = tmp_path / "elsewhere"
    (target / os.path.dirname(os.readlink(target / "leaderexec"))).rename(elsewhere)
    home = target / os.path.dirname(os.readlink(target / "leaderexec"))
    calls = _interrupt_at(monkeypatch, "rename", 1, lambda: shutil.copytree(elsewhere, home))
    assert install(str(target)) == exits.OK
    assert calls
    assert execute(target) == "one"
    assert len(names(target)) == 2


# --- refusals ------------------------------------------------------------------------------------


def test_only_a_bundle_can_be_installed(target: Path) -> None:
    """A leaderexec that needs a Python beside it says so."""
    with pytest.raises(UsageError, match="accepted: the leaderexec of the bundle"):
        install(str(target))
    assert names(target) == []


@pytest.mark.usefixtures("bundle")
def test_a_directory_that_is_none(target: Path) -> None:
    """What is missing, or is a file, is named, with what would do."""
    with pytest.raises(UsageError, match="no such file or directory; accepted: an existing"):
        install(f"{target}/missing")
    (target / "file").write_text("")
    with pytest.raises(UsageError, match="not a directory; accepted: an existing"):
        install(f"{target}/file")
    (target / "leaderexec").mkdir()
    with pytest.raises(UsageError, match="there is a directory"):
        install(str(target))


@pytest.mark.usefixtures("bundle")
@pytest.mark.parametrize("letter", [":", ";", "$"])
def test_a_path_that_a_loader_would_misread(target: Path, letter: str) -> None:
    """What stands for something else in a search path cannot be in it."""
    odd = target / f"a{letter}b"
    odd.mkdir()
    with pytest.raises(UsageError, match="accepted: a path without"):
        install(str(odd))
    assert names(odd) == []


@pytest.mark.usefixtures("bundle")
@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_directory_that_cannot_be_written_to(
    target: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Missing rights and a read-only filesystem are the user's to change: usage."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(UsageError, match=r"cannot write there: .*; accepted: an existing"):
        install(str(target))


@pytest.mark.usefixtures("bundle")
def test_a_disk_that_is_full(
    target: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What goes wrong on the way is told in one line, and leaves nothing."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfileobj", refuse)
        assert install(str(target)) == exits.INTERNAL
    said = capfd.readouterr().err
    assert f"cannot install into '{target}': no space left on device" in said
    assert said.count("\n") == 1
    assert names(target) == []


@_ROOT_ONLY
def test_mounted_noexec(target: Path, bundle: Path) -> None:
    """Where nothing could be executed nothing is installed."""
    script = (
        "import sys; from leaderexec import frozen; from leaderexec.cli import run;"
        "frozen.bundle = lambda: sys.argv[2]; sys.exit(run(['install', sys.argv[1]], {}, 1))"
    )
    mount = 'mount -t tmpfs -o noexec none "$0" && "$@"; code=$?; ls -A "$0"; exit $code'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, target, sys.executable, "-c", script, target,
         bundle],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == exits.USAGE
    assert "mounted noexec; accepted: an existing" in done.stderr
    assert done.stdout == ""
