"""The bundle where nothing else is: a root with a static busybox, /proc and /dev/null.

What an installed bundle does in images and pods is in the container lane; here are the launcher,
what it keeps from whom, and that everything which is imported late can be.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from leaderexec import __version__
from tests.support.bundle import Bundled, Root, bundle
from tests.support.candidate import (
    Candidate,
    child_command,
    children_of,
    is_gone,
    kill,
    name_of,
)
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.candidates import Candidates

#: One root, and one bundle in it, for all tests of this module.
pytestmark = pytest.mark.xdist_group("bundle")
_ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="changing the root needs root")
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


@_ROOT_ONLY
@pytest.mark.parametrize("uid", [None, NOBODY], ids=["root", "nobody"])
@pytest.mark.parametrize("init", [True, False], ids=["init", "below"])
def test_runs_stops_and_exits_where_nothing_else_is(
    root: Root, tmp_path: Path, uid: int | None, init: bool
) -> None:
    """As PID 1 or not, as root or not: it leads, its child drains, its exit code is ours."""
    wrapper = root.wrapper(init=init, uid=uid)
    with started(tmp_path, command=_SERVER, wrapper=wrapper) as candidate:
        wait_until(
            lambda: candidate.output == f"running as {uid or 0}\n",
            timeout_s=BOUND_S,
            what=f"the child runs; log:\n{candidate.log}",
        )
        guardian = candidate.guardian
        status = Path(f"/proc/{guardian}/status").read_text()
        assert ("\nNSpid:\t" + f"{guardian}" + ("\t1\n" if init else "\n")) in status
        assert f"\nUid:\t{uid or 0}\t" in status
        candidate.terminate()
        assert candidate.wait(BOUND_S) == 7
        assert candidate.output.endswith("stopping\n")
        assert [event["outcome"] for event in candidate.events("lock given back")] == ["released"]


@_ROOT_ONLY
@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("/bin/true",), 0),
        (("sh", "-c", "exit 113"), 113),
        (("sh", "-c", "kill -9 $$"), 137),
        (("/etc",), 126),
        (("no-such-command",), 127),
    ],
)
def test_exit_codes(root: Root, command: Sequence[str], code: int) -> None:
    """The codes are those of any leaderexec."""
    run(root.wrapper(), *LOCK, "--", *command, code=code)


@_ROOT_ONLY
def test_arguments_reach_the_child_as_they_are(root: Root) -> None:
    """Also an empty one, one that is not UTF-8, and what a loader would take for its own."""
    words = [b"--", b"/bin/printf", b"[%s]", b"", b"\xff\xfe", b"--library-path", b"a b", b"--help"]
    given = [os.fsdecode(word) for word in words]
    done = run(root.wrapper(), *LOCK, *given)
    assert done.stdout == b"[][\xff\xfe][--library-path][a b][--help]"


@_ROOT_ONLY
def test_it_stays_one_process(root: Root, tmp_path: Path) -> None:
    """Launcher, loader and Python are one after the other what was started: no parent between."""
    with started(tmp_path, command=("sleep", "600"), wrapper=root.wrapper()) as candidate:
        assert candidate.guardian == candidate.process.pid
        assert candidate.elector in children_of(candidate.process.pid)


@_ROOT_ONLY
def test_version_and_help(root: Root) -> None:
    """What needs no lock works as well."""
    assert run(root.wrapper(), "--version").stdout == f"leaderexec {__version__}\n".encode()
    assert run(root.wrapper(), "--help").stdout.startswith(b"Usage: leaderexec")


@_ROOT_ONLY
def test_complaints_are_one_line(root: Root) -> None:
    """A wrong use, a kubeconfig that is missing, and no credentials at all."""
    for words, expected in [
        (["--election=x", "--kubeconfig=/nowhere", "--", "true"], b"no such file or directory"),
        (["--election=x", "--", "true"], b"no credentials for a Kubernetes API server"),
        (["--elektion=x"], b"did you mean --election?"),
        (["install", "/nowhere"], b"no such file or directory; accepted: "),
    ]:
        said = run(root.wrapper(), *words, code=2).stderr
        assert expected in said
        assert said.count(b"\n") == 1


@_ROOT_ONLY
def test_without_proc_it_says_so(root: Root) -> None:
    """The launcher finds itself by /proc; without one it names what is missing."""
    done = run(root.wrapper(proc=False), "--version", code=2)
    assert b"accepted: a /proc that is mounted" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_path_that_a_loader_would_misread_is_refused(tmp_path: Path) -> None:
    """The launcher says so, instead of a loader that finds no library."""
    odd = tmp_path / "a:b"
    shutil.copytree(bundle(), odd)
    done = subprocess.run([odd / "leaderexec"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "accepted: a path without" in done.stderr


# --- what reaches whom -------------------------------------------------------------------------

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
#: What every Python makes of it: the first of two, and nothing that has no name.
_RECEIVED = [
    string
    for string in _STRINGS
    if string not in {b"TWICE=second", b"no variable at all", b"=nameless"}
]


@_ROOT_ONLY
def test_the_childs_environment_is_what_was_given(root: Root) -> None:
    """Byte for byte and in its order, whatever it says; ours is added at its end."""
    wrapper = [*root.wrapper(), *root.with_environment(_STRINGS)]
    done = run(wrapper, *LOCK, "--", "/bin/cat", "/proc/self/environ")
    *received, end = done.stdout.split(b"\0")
    assert end == b""
    assert received[: len(_RECEIVED)] == _RECEIVED
    added = received[len(_RECEIVED) :]
    assert b"LEADER_ELECTION=x" in added
    assert all(string.startswith(b"LEADER_") for string in added)


@_ROOT_ONLY
def test_an_empty_environment_stays_empty(root: Root) -> None:
    """The child gets what leaderexec is there to add, and nothing of the bundle's."""
    wrapper = [*root.wrapper(), *root.with_environment([])]
    done = run(wrapper, *LOCK, "--", "/bin/cat", "/proc/self/environ")
    *received, _ = done.stdout.split(b"\0")
    assert received
    assert all(string.startswith(b"LEADER_") for string in received)


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


def test_it_is_a_candidate_like_any_other(candidates: Candidates) -> None:
    """On this machine too, a bundle and an unfrozen one hand the election to each other."""
    frozen = Bundled(
        "b",
        [*candidates.lock, *candidates.timing, "--log-level=debug"],
        child_command(),
        candidates.directory,
        env=candidates.witness.env("b"),
    )
    frozen.program = str(bundle() / "leaderexec")
    candidates.by_name["b"] = frozen
    leader, tree = candidates.start_leader("a")
    frozen.start().wait_event("campaigning", timeout_s=BOUND_S)
    leader.terminate()
    assert leader.wait() == 143
    candidates.witness.wait_successor(tree, timeout_s=BOUND_S)
    (tree,) = candidates.witness.wait_running(1, "b", timeout_s=BOUND_S)
    candidates.start_standby("a")
    kill(frozen.guardian)
    candidates.witness.wait_successor(tree, timeout_s=BOUND_S)
    candidates.assert_exclusive()


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


@_ROOT_ONLY
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
        wait_until(
            lambda: any(name_of(p) == "sleep" for p in children_of(keeper)),
            timeout_s=BOUND_S,
            what=f"the child runs; log:\n{candidate.log}",
        )
        parts = [candidate.guardian, candidate.elector, keeper, candidate.part("http")]
        for part in parts:
            used = files_of(part)
            assert any("/runtime/libpython" in path for path in used)
            assert not [path for path in used if "/leaderexec/" not in path]
        assert "ld.so" not in candidate.log


# --- what is imported late ---------------------------------------------------------------------


@_ROOT_ONLY
def test_serves_http_and_metrics(root: Root, tmp_path: Path) -> None:
    """The server, its metrics and what psutil says of the tree are in the bundle."""
    with started(
        tmp_path, "--http=127.0.0.1:0", command=("sleep", "600"), wrapper=root.wrapper(init=True)
    ) as candidate:
        url = f"http://127.0.0.1:{candidate.port}"
        wrapper = root.wrapper()

        def told(path: str) -> str:
            ask = [*wrapper, "/bin/wget", "-q", "-O", "-", f"{url}{path}"]
            return subprocess.run(ask, capture_output=True, text=True, check=False).stdout

        identity = candidate.identity
        wait_until(lambda: "leaderexec_tree_processes 1.0" in told("/metrics"), timeout_s=BOUND_S,
                   what=f"metrics tell of the child; log:\n{candidate.log}")  # fmt: skip
        assert f'leaderexec_info{{identity="{identity}",version="{__version__}"}} 1.0' in told(
            "/metrics"
        )
        assert '"name"' in told("/")


@_ROOT_ONLY
def test_an_elector_that_dies_is_started_again(root: Root, tmp_path: Path) -> None:
    """Another elector finds its modules, and the child does not notice."""
    with started(tmp_path, command=_SERVER, wrapper=root.wrapper(init=True)) as candidate:
        wait_until(lambda: candidate.output, timeout_s=BOUND_S, what="the child runs")
        before = candidate.elector
        (child,) = children_of(candidate.keeper)
        kill(before)
        wait_until(lambda: candidate.elector != before, timeout_s=BOUND_S, what="another elector")
        renewed = (root.directory / "tmp" / "lock").read_bytes()
        wait_until(
            lambda: (root.directory / "tmp" / "lock").read_bytes() != renewed,
            timeout_s=BOUND_S,
            what="another renewal",
        )
        assert not is_gone(child)
        candidate.terminate()
        assert candidate.wait(BOUND_S) == 7


# --- install -----------------------------------------------------------------------------------


@_ROOT_ONLY
@pytest.mark.parametrize("uid", [None, NOBODY], ids=["root", "nobody"])
def test_installs_itself_for_any_user(root: Root, uid: int | None) -> None:
    """As an init container does, under any umask; then whoever it is runs it from there."""
    shared = root.directory / "tmp" / "shared"
    shared.mkdir()
    if uid is not None:
        os.chown(shared, uid, uid)
    umask = ["/bin/sh", "-c", 'umask 077; exec "$@"', "sh"]
    done = run([*umask, *root.wrapper(init=True, uid=uid)], "install", "/tmp/shared")
    assert done.stdout == f"/tmp/shared/leaderexec: installed, {__version__}\n".encode()
    again = run(root.wrapper(init=True, uid=uid), "install", "/tmp/shared")
    assert again.stdout == f"/tmp/shared/leaderexec: there already, {__version__}\n".encode()
    # Elsewhere, as the main container may mount it, and without what it was copied from.
    moved = root.directory / "tmp" / "moved"
    shared.rename(moved)
    moved.chmod(0o755)
    done = subprocess.run(
        [*root.wrapper(uid=12345), "/tmp/moved/leaderexec", *LOCK, "--", "echo", "hello"],
        capture_output=True, env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"hello\n"), done.stderr
    for path in moved.rglob("*"):
        assert path.lstat().st_uid == (uid or 0)


@_ROOT_ONLY
def test_install_as_init_can_be_stopped(root: Root) -> None:
    """TERM ends an install that waits, also as PID 1, and leaves nothing."""
    shared = root.directory / "tmp" / "shared"
    shared.mkdir()
    descriptor = os.open(shared, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    command = [*root.wrapper(init=True), "/leaderexec/leaderexec", "install", "/tmp/shared"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            (init,) = wait_until(
                lambda: _waiting_below(process.pid), timeout_s=BOUND_S, what="it waits for the lock"
            )
            os.kill(init, signal.SIGTERM)
            assert process.wait(BOUND_S) == 143
        finally:
            process.kill()
    os.close(descriptor)
    assert list(shared.iterdir()) == []


def _waiting_below(pid: int) -> list[int]:
    lines = Path("/proc/locks").read_text().splitlines()
    waiting = {int(line.split()[5]) for line in lines if "->" in line}
    return [child for child in children_of(pid) if child in waiting]
