"""The bundle where nothing else is: a root with a static busybox, /proc and /dev/null.

Here are the launcher, what it keeps from whom, and that everything which is imported late can be;
credentials are in the kube lane, an installed bundle in images is in the container lane.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from leaderexec import __version__
from tests.support.bundle import Bundled, Root, bundle
from tests.support.candidate import Candidate, children_of, is_gone, kill, name_of
from tests.support.required import root_only
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: One root, and one bundle in it, for all tests of this module.
pytestmark = pytest.mark.xdist_group("bundle")
#: A machine may be slow, and a leader's first start reads everything from the disk.
BOUND_S = 60
LOCK = ("--election=x", "--lock=file:/tmp/lock")
NOBODY = 65534
#: Notes that it runs, and that it was asked to stop.
_SERVER = (
    "/bin/sh",
    "-c",
    'trap "echo stopping; exit 7" TERM; echo running as $(id -u); while :; do sleep 0.1; done',
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """The root of this module's tests; what they leave in it is in /tmp."""
    return Root(tmp_path_factory.mktemp("bundle") / "root")


@pytest.fixture(autouse=True)
def clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave nothing in the root's /tmp for the next test."""
    yield
    if "root" in request.fixturenames:
        for path in (request.getfixturevalue("root").directory / "tmp").iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def run(
    wrapper: Sequence[str], *words: str, code: int = 0, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the bundle in a root until it ends, with this exit code."""
    done = subprocess.run(
        [*wrapper, "/leaderexec/leaderexec", *words],
        env=env or {"PATH": "/bin:/usr/bin:/sbin:/usr/sbin"},
        capture_output=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == code, done.stderr.decode(errors="replace")
    return done


def wait_for(candidate: Bundled, condition: Callable[[], object], what: str) -> None:
    """Wait for what is due in a candidate."""
    wait_until(condition, timeout_s=BOUND_S, what=lambda: f"{what}; log:\n{candidate.log}")


@contextlib.contextmanager
def started(
    directory: Path, *options: str, command: Sequence[str], wrapper: Sequence[str]
) -> Iterator[Bundled]:
    """Start a bundle as candidate `a`, and kill what is left of it."""
    candidate = Bundled("a", [*LOCK, *options], command, directory, wrapper=wrapper)
    try:
        yield candidate.start()
    finally:
        candidate.kill()


def files_of(pid: int) -> set[str]:
    """Return the paths of all files that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if " /" in line}


# --- it starts ---------------------------------------------------------------------------------


@root_only
@pytest.mark.parametrize("uid", [None, NOBODY], ids=["root", "nobody"])
@pytest.mark.parametrize("init", [True, False], ids=["init", "below"])
def test_runs_stops_and_exits_where_nothing_else_is(
    root: Root, tmp_path: Path, uid: int | None, init: bool
) -> None:
    """As PID 1 or not, as root or not: it leads, its child drains, and it exits as its child.

    Launcher, loader and Python are one after the other what was started: no parent between.
    """
    wrapper = root.wrapper(init=init, uid=uid)
    with started(tmp_path, command=_SERVER, wrapper=wrapper) as candidate:
        expected = f"running as {uid or 0}\n"
        wait_for(candidate, lambda: candidate.output == expected, "the child runs")
        guardian = candidate.guardian
        status = Path(f"/proc/{guardian}/status").read_text()
        assert ("\nNSpid:\t" + f"{guardian}" + ("\t1\n" if init else "\n")) in status
        assert f"\nUid:\t{uid or 0}\t" in status
        assert init or guardian == candidate.process.pid
        candidate.terminate()
        assert candidate.wait(BOUND_S) == 7
        assert candidate.output.endswith("stopping\n")
        assert [event["outcome"] for event in candidate.events("lock given back")] == ["released"]


@root_only
def test_it_answers_as_any_leaderexec(root: Root) -> None:
    """Version, help, exit codes, and complaints of one line; also where there is no /proc."""
    assert run(root.wrapper(), "--version").stdout == f"leaderexec {__version__}\n".encode()
    assert run(root.wrapper(), "--help").stdout.startswith(b"Usage: leaderexec")
    run(root.wrapper(), *LOCK, "--", "sh", "-c", "kill -9 $$", code=137)
    for words, code, expected in [
        ([*LOCK, "--", "no-such-command"], 127, b"no-such-command"),
        (["--election=x", "--kubeconfig=/nowhere", "--", "true"], 2, b"no such file or directory"),
        (["--election=x", "--", "true"], 2, b"no credentials for a Kubernetes API server"),
        (["--elektion=x"], 2, b"did you mean --election?"),
    ]:
        said = run(root.wrapper(), *words, code=code).stderr
        assert expected in said
        assert said.count(b"\n") == 1
    said = run(root.wrapper(proc=False), "--version", code=2).stderr
    assert b"accepted: a /proc that is mounted" in said
    assert said.count(b"\n") == 1


def test_a_path_that_a_loader_would_misread_is_refused(tmp_path: Path) -> None:
    """The launcher says so, instead of a loader that finds no library."""
    odd = tmp_path / "a:b"
    shutil.copytree(bundle(), odd)
    done = subprocess.run([odd / "leaderexec"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "accepted: a path without" in done.stderr


# --- what reaches whom -------------------------------------------------------------------------

#: What a loader would take for its own, and what is not UTF-8 or empty.
_WORDS = [b"[%s]", b"", b"\xff\xfe", b"--library-path", b"a b", b"--help"]
_STRINGS = [
    b"LD_LIBRARY_PATH=/the/user's:own",
    b"LD_LIBRARY_PATH_ORIG=and this",
    b"LD_PRELOAD=/tmp/preloaded.so",
    b"LD_DEBUG=all",
    b"GLIBC_TUNABLES=glibc.malloc.check=3",
    b"MALLOC_PERTURB_=165",
    b"LOCPATH=/nowhere",
    b"LC_ALL=tr_TR.ISO-8859-9",
    b"_PYI_ARCHIVE_FILE=/somebody/elses",
    b"_PYI_PARENT_PROCESS_LEVEL=1",
    b"_PYI_APPLICATION_HOME_DIR=/nowhere",
    b"_PYI_SPLASH_IPC=0",
    b"_MEIPASS2=/nowhere",
    b"PYINSTALLER_RESET_ENVIRONMENT=1",
    b"PYTHONHOME=/nowhere",
    b"PYTHONPATH=/nowhere",
    b"PYTHONSTARTUP=/nowhere",
    b"PYTHONUTF8=0",
    b"TWICE=first",
    b"TWICE=second",
    b"NOT_UTF8=\xff\xfe\x80",
    b"\xe9\xff=a name that is not UTF-8",
    b"EMPTY=",
    b"LINES=a\nb\tc",
    b"@MARKED=@",
    b"@=a mark alone",
    b"a b.c-d=what no shell would set",
    b"no variable at all",
    b"=nameless",
    b"PATH=/bin",
    b"Z=last",
]


@root_only
@pytest.mark.parametrize("given", [_STRINGS, []], ids=["odd", "empty"])
def test_the_child_gets_environment_and_arguments_as_they_are(
    root: Root, given: list[bytes]
) -> None:
    """Byte for byte and in its order, whatever it says; only LEADER_ variables are added."""
    wrapper = [*root.wrapper(), *root.with_environment(given)]
    done = run(wrapper, *LOCK, "--", "/bin/cat", "/proc/self/environ")
    *received, end = done.stdout.split(b"\0")
    assert end == b""
    # What every Python makes of it: the first of two, and nothing that has no name.
    dropped = {b"TWICE=second", b"no variable at all", b"=nameless"}
    kept = [string for string in given if string not in dropped]
    assert received[: len(kept)] == kept
    added = received[len(kept) :]
    assert b"LEADER_ELECTION=x" in added
    assert all(string.startswith(b"LEADER_") for string in added)
    done = run(wrapper, *LOCK, "--", "/bin/printf", *map(os.fsdecode, _WORDS))
    assert done.stdout == b"[][\xff\xfe][--library-path][a b][--help]"


@pytest.mark.parametrize("closing", ["", "<&- >&- 2>&-", "<&-", "7</dev/null"])
def test_the_child_finds_what_it_finds_without_the_bundle(tmp_path: Path, closing: str) -> None:
    """Signals, descriptors, limits, priority and umask are those under an unfrozen leaderexec."""
    script = (
        "grep -E '^(Sig(Ign|Blk|Cgt)|ShdPnd|Umask|NoNewPrivs|Cap|Seccomp:)' /proc/self/status; "
        "cat /proc/self/limits; readlink /proc/$$/fd/*; umask; pwd; "
        "cut -d' ' -f17-19 /proc/self/stat"
    )
    odd = (
        "import os, signal, sys; signal.signal(signal.SIGUSR1, signal.SIG_IGN); os.umask(0o27); "
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]); "
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    seen = []
    for kind in (Candidate, Bundled):
        directory = tmp_path / "here"
        directory.mkdir()
        candidate = kind(
            "a",
            ["--election=x", f"--lock=file:{directory}/lock"],
            ["/bin/sh", "-c", f"cd /; {{ {script}; }} > {directory}/seen"],
            directory,
            wrapper=[sys.executable, "-c", odd, "/bin/sh", "-c", f'exec "$@" {closing}', "sh"],
        )
        if isinstance(candidate, Bundled):
            candidate.program = str(bundle() / "leaderexec")
        assert candidate.start().wait(BOUND_S) == 0, candidate.log
        seen.append((directory / "seen").read_text().splitlines())
        directory.rename(tmp_path / kind.__name__)
    assert seen[0] == seen[1]
    assert any(line.startswith("SigIgn") for line in seen[0])


# --- what the image has, and we do not use -----------------------------------------------------


@pytest.fixture
def hostile(root: Root) -> Iterator[Root]:
    """The root with libraries, a cache and settings that would break whoever loads them."""
    made = [root.directory / name for name in ("lib", "lib64", "usr")]
    loader = "lib/x86_64-linux-gnu"
    for place in ("lib", "lib64", "usr/lib", loader, f"usr/{loader}"):
        (root.directory / place).mkdir(parents=True)
        for library in (bundle() / "runtime").glob("lib*.so*"):
            (root.directory / place / library.name).write_text("no library")
        for service in ("dns", "files", "resolve", "compat"):
            (root.directory / place / f"libnss_{service}.so.2").write_text("no library")
    texts = {
        "ld.so.preload": "/lib/libc.so.6\n",
        "nsswitch.conf": "passwd: compat resolve\nhosts: files resolve dns\n",
        "hosts": "127.0.0.1 known.test\n",
        "passwd": "root:x:0:0:root:/:/bin/sh\n",
    }
    for name, text in texts.items():
        (root.directory / "etc" / name).write_text(text)
    yield root
    for path in made:
        shutil.rmtree(path)
    for name in texts:
        (root.directory / "etc" / name).unlink()


@root_only
def test_nothing_of_the_image_is_loaded(hostile: Root, tmp_path: Path) -> None:
    """With libraries of the same names that are none, a preload file and foreign name services."""
    # The machine's own loader, told the same, trips over what the image has.
    (runtime,) = (bundle() / "runtime").glob("ld-linux-*")
    own = Path("/lib64" if (Path("/lib64") / runtime.name).exists() else "/lib") / runtime.name
    shutil.copy(own, hostile.directory / "tmp" / "loader")
    tripped = subprocess.run(
        [*hostile.wrapper(), "/tmp/loader", "--inhibit-cache", "--library-path",
         "/leaderexec/runtime", "/leaderexec/runtime/frozen", "--version"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "/etc/ld.so.preload" in tripped.stderr
    options = ("--http=known.test:0",)
    wrapper = hostile.wrapper(init=True)
    with started(tmp_path, *options, command=("sleep", "600"), wrapper=wrapper) as candidate:
        keeper = candidate.keeper
        wait_for(candidate, lambda: "sleep" in map(name_of, children_of(keeper)), "the child runs")
        parts = [candidate.guardian, candidate.elector, keeper, candidate.part("http")]
        for part in parts:
            used = files_of(part)
            assert any("/runtime/libpython" in path for path in used)
            assert not [path for path in used if "/leaderexec/" not in path]
        assert "ld.so" not in candidate.log


# --- what is imported late ---------------------------------------------------------------------


@root_only
def test_server_and_a_second_elector_find_their_modules(root: Root, tmp_path: Path) -> None:
    """HTTP, metrics and what psutil says of the tree; the child does not notice a new elector."""
    wrapper = root.wrapper(init=True)
    with started(tmp_path, "--http=127.0.0.1:0", command=_SERVER, wrapper=wrapper) as candidate:
        url = f"http://127.0.0.1:{candidate.port}"

        def told(path: str) -> str:
            ask = [*root.wrapper(), "/bin/wget", "-q", "-O", "-", f"{url}{path}"]
            return subprocess.run(ask, capture_output=True, text=True, check=False).stdout

        info = f'leaderexec_info{{identity="{candidate.identity}",version="{__version__}"}} 1.0'
        wait_for(candidate, lambda: "leaderexec_tree_processes " in told("/metrics"), "metrics")
        assert info in told("/metrics")
        assert '"name"' in told("/")
        wait_for(candidate, lambda: candidate.output, "the child runs")
        before = candidate.elector
        (child,) = children_of(candidate.keeper)
        kill(before)
        wait_for(candidate, lambda: candidate.elector != before, "another elector")
        lock = root.directory / "tmp" / "lock"
        renewed = lock.read_bytes()
        wait_for(candidate, lambda: lock.read_bytes() != renewed, "another renewal")
        assert not is_gone(child)
