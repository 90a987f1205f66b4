"""What tini and dumb-init promise, kept by leaderexec too: the same expectations, side by side.

Whoever puts leaderexec in the place of another init shall lose nothing. Each test runs under every
init, and what they do differently stands in a table: a difference is data, and never an accident.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.candidate import (
    LONG,
    as_user,
    child_command,
    children_of,
    in_pid_namespace,
    is_pending,
    kill,
    name_of,
    state_of,
)
from tests.support.inits import DIRECT, MAKES, OURS, Init, make_init, program_of, sheet
from tests.support.required import as_pid_1, root_only
from tests.support.testchild import signal_name
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.support.candidates import Candidates
    from tests.support.witness import Tree

BOUND_S: Final = 40.0

every_init = pytest.mark.parametrize("make", MAKES)
every_program = pytest.mark.parametrize("make", sorted({program_of(make) for make in MAKES}))


@pytest.fixture(autouse=True)
def _long_leases(candidates: Candidates) -> None:
    candidates.timing = LONG


def _start_child(
    candidates: Candidates, make: str, *flags: str, wrapper: Sequence[str] = ()
) -> tuple[Init, Tree]:
    """Start an init around a test child, and wait until that is ready."""
    init = make_init(candidates, make, child=child_command(*flags), wrapper=wrapper)
    init.start()
    (tree,) = candidates.witness.wait_running(1, init.name, timeout_s=BOUND_S)
    candidates.witness.wait_note("ready", init.name, timeout_s=BOUND_S)
    return init, tree


# --- exit codes


#: Those with a meaning to a shell or to leaderexec, or as the death by a signal, and a few more.
_CODES: Final = (0, 1, 2, 3, 64, 75, 77, 97, 124, 125, 126, 127, 128, 130, 137, 143, 254, 255)
#: Signals that end a process: of each kind some, and the first and the last one.
_ENDING: Final = (1, 2, 6, 9, 11, 13, 15, 31, 32, 34, 50, 64)


@every_program
def test_the_childs_end_is_the_inits(candidates: Candidates, make: str) -> None:
    """Whatever code the child exits with, the init does; a death by signal n makes 128+n."""
    death = "ulimit -c 0; kill -$0 $$; sleep 3600"
    children = [
        *(["sh", "-c", f"exit {code}"] for code in _CODES),
        *(["sh", "-c", death, str(number)] for number in _ENDING),
    ]
    codes: list[int] = []
    for first in range(0, len(children), 4):  # more at once would only wait for each other
        some = children[first : first + 4]
        inits = [make_init(candidates, make, child=child).start() for child in some]
        codes += [init.wait() for init in inits]
    assert codes == [*_CODES, *(128 + number for number in _ENDING)]


@pytest.fixture(autouse=True, scope="module")
def _library_signals() -> None:
    """Undo that GNU make ignores the C library's own two signals in all that it starts."""
    number = {"x86_64": 13, "aarch64": 134}[os.uname().machine]  # rt_sigaction
    default = ctypes.create_string_buffer(32)
    for signum in (32, 33):
        ctypes.CDLL(None).syscall(number, signum, default, None, 8)


#: What cannot be executed, and how the inits end then.
_REFUSED: Final = {
    "missing": {"tini": 127, "dumb-init": 2, "leaderexec": 127},
    "not executable": {"tini": 126, "dumb-init": 2, "leaderexec": 126},
    "directory": {"tini": 126, "dumb-init": 2, "leaderexec": 126},
    "no interpreter": {"tini": 127, "dumb-init": 2, "leaderexec": 127},
    # Shells say 127 and 126 here.
    "file/below": {"tini": 1, "dumb-init": 2, "leaderexec": 127},
    "loop": {"tini": 1, "dumb-init": 2, "leaderexec": 126},
}


@every_program
@pytest.mark.parametrize("what", _REFUSED)
def test_what_cannot_be_executed(candidates: Candidates, make: str, what: str) -> None:
    """127 for what is not there and 126 for what cannot be run, as of a shell."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # the end of a long path is cut off
        path = Path(short) / what
        match what:
            case "not executable":
                path.write_text("#!/bin/sh\n")
            case "directory":
                path.mkdir()
            case "no interpreter":
                path.write_text("#!/nonexistent/interpreter\n")
                path.chmod(0o755)
            case "file/below":
                path.parent.write_text("")
            case "loop":
                path.symlink_to(path)
        init = make_init(candidates, make, child=[str(path)]).start()
        assert init.wait() == _REFUSED[what][make]
    assert str(path) in init.log


@every_program
def test_a_script_without_a_first_line(candidates: Candidates, tmp_path: Path, make: str) -> None:
    """What is in no format that the kernel knows is run by a shell, as execvp has it."""
    path = tmp_path / "script"
    path.write_text('exit "$1"\n')
    path.chmod(0o755)
    assert make_init(candidates, make, child=[str(path), "7"]).start().wait() == 7


# --- signals

#: What becomes of a signal that is sent to the init, where the child does not get the same: these,
#: or the name of another signal. `STOP` and `TSTP`: dumb-init stops as well, unless it is PID 1.
NOTHING: Final = "nothing"
DEATH: Final = "the init dies"

#: Those of the C library, which nobody can block by its means.
_LIBRARY: Final[dict[int, str]] = {32: DEATH, 33: DEATH}
#: About a terminal that somebody else has.
_BACKGROUND: Final[dict[int, str]] = {signal.SIGTTIN: NOTHING, signal.SIGTTOU: NOTHING}
#: tini leaves faults alone, also where they are none of its own.
_FAULTS: Final = (
    signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV,
    signal.SIGSYS,
)  # fmt: skip
_COMMON: Final[dict[int, str]] = {signal.SIGCHLD: NOTHING, **_LIBRARY}
_TINI: Final[dict[int, str]] = {**_COMMON, **_BACKGROUND, **dict.fromkeys(_FAULTS, DEATH)}
#: A child in a session of its own would not be stopped by these.
_JOB: Final = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
#: Requests to stop, which become the stop signal: --rewrite-signal passes them on as they are.
_REQUESTS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_OURS: Final[dict[int, str]] = {**_COMMON, **_BACKGROUND, **dict.fromkeys(_REQUESTS, "TERM")}
FATES: Final[dict[str, dict[int, str]]] = {
    "tini": _TINI,
    "tini -g": _TINI,
    "dumb-init": {**_COMMON, **dict.fromkeys(_JOB, "STOP")},
    "dumb-init -c": _COMMON,
    "leaderexec": _OURS,
    "leaderexec --signal-group": _OURS,
}
_SENDABLE: Final = sorted(set(range(1, 65)) - {signal.SIGKILL, signal.SIGSTOP})
#: Signals are taken lowest first: once this one has arrived, no other is still on its way.
_LAST: Final = 64


def _send(candidates: Candidates, init: Init, child: int, signum: int, fate: str) -> None:
    """Send a signal to an init that survives it, and wait until it has had its fate."""
    pid = init.guardian
    os.kill(pid, signum)
    what = f"{init.make}: {signal_name(signum)} has its fate, {fate}"
    if fate == NOTHING:
        wait_until(lambda: not is_pending(pid, signum), timeout_s=BOUND_S, what=what)
    elif fate == "STOP":
        wait_until(lambda: state_of(child) == "T", timeout_s=BOUND_S, what=what)
    else:
        candidates.witness.wait_note(f"signal {fate}", init.name, timeout_s=BOUND_S)
    if init.make.startswith("dumb-init") and signum in _JOB:
        if not init.wrapper:
            wait_until(lambda: state_of(pid) == "T", timeout_s=BOUND_S, what="it stops as well")
        for each in (child, pid):
            os.kill(each, signal.SIGCONT)


@every_init
@as_pid_1
def test_every_signal_reaches_the_child_once(
    candidates: Candidates, make: str, wrapper: Sequence[str]
) -> None:
    """What is sent to the init the child gets as it is, or as the table says; real-time too.

    PID 1 of a namespace cannot die of a signal that it leaves alone.
    """
    fates = {signum: FATES[make].get(signum, signal_name(signum)) for signum in _SENDABLE}
    if wrapper:
        fates = {number: NOTHING if fate == DEATH else fate for number, fate in fates.items()}
    last = {number for number, fate in fates.items() if fate == DEATH}
    last |= set(_REQUESTS) if make in OURS else set()
    init, tree = _start_child(candidates, make, "--ignore", "ALL", wrapper=wrapper)
    for signum in sorted(set(fates) - last):
        _send(candidates, init, tree.pids[0], signum, fates[signum])
    expected = Counter(fates[signum] for signum in set(fates) - last)
    found = Counter(candidates.signals(init.name))
    if make.startswith("dumb-init"):  # it was continued as often as it stopped
        found["CONT"] = expected["CONT"]
    assert found == expected - Counter({NOTHING: 99, "STOP": 99})
    for signum in last:
        init, tree = _start_child(candidates, make, "--ignore", "ALL", wrapper=wrapper)
        init.signal(signum)
        if fates[signum] == DEATH:
            assert init.wait() == 128 + signum
        else:
            candidates.witness.wait_note(f"signal {fates[signum]}", init.name, timeout_s=BOUND_S)
            assert candidates.signals(init.name) == [fates[signum]]
        init.kill()


#: Whether a signal reaches all of the child's process group; whether the child leads one, and a
#: session.
_GROUPS: Final = {
    "tini": (False, True, False),
    "tini -g": (True, True, False),
    "dumb-init": (True, True, True),
    "dumb-init -c": (False, False, False),
    "leaderexec": (False, True, False),
    "leaderexec --signal-group": (True, True, False),
}


@every_init
@as_pid_1
def test_who_gets_a_signal(candidates: Candidates, make: str, wrapper: Sequence[str]) -> None:
    """A forwarded signal and a request to stop go to the child alone, or to its whole group."""
    init, tree = _start_child(
        candidates, make, "--ignore", "ALL", "--spawn", "plain+ignore*2", wrapper=wrapper
    )
    last = f"signal {signal_name(_LAST)}"
    for count, sent in enumerate((signal.SIGUSR1, signal.SIGTERM), start=1):
        text = f"signal {signal_name(sent)}"
        init.signal(sent)
        candidates.witness.wait_note(text, init.name, timeout_s=BOUND_S)
        for pid in tree.pids:
            os.kill(pid, _LAST)
        # Whoever has noted this one has noted all that came before.
        candidates.witness.wait_note(
            last, init.name, count=count * len(tree.pids), timeout_s=BOUND_S
        )
        reached = {note.pid for note in candidates.witness.notes(init.name) if note.text == text}
        assert reached == set(tree.pids if _GROUPS[make][0] else tree.pids[:1])


@every_init
@as_pid_1
def test_groups_and_sessions(candidates: Candidates, make: str, wrapper: Sequence[str]) -> None:
    """The child has a process group of its own and, where the table says so, a session."""
    init = make_init(candidates, make, wrapper=wrapper).start()
    child = init.wait_child()
    assert (os.getpgid(child) == child, os.getsid(child) == child) == _GROUPS[make][1:]
    if not _GROUPS[make][2]:
        assert os.getsid(child) == os.getsid(init.guardian)


# --- what a child is given

_IGNORED: Final = {1, 2, 3, 10, 12, 14, 15, 20, 34, 64}
_BLOCKED: Final = {1, 10, 15, 35, 63}
_SURROUNDINGS: Final = f"""
import fcntl, os, resource, signal, socket, sys
os.chdir(sys.argv[1])
os.umask(0o027)
os.nice(-5)  # which not every user could set itself
os.sched_setaffinity(0, {{max(os.sched_getaffinity(0))}})
resource.setrlimit(resource.RLIMIT_NOFILE, (777, 888))
resource.setrlimit(resource.RLIMIT_STACK, (4 << 20, 16 << 20))
resource.setrlimit(resource.RLIMIT_CORE, (0, 4096))
resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 16, 1 << 16))
for name, value in (("oom_score_adj", 345), ("coredump_filter", 0x35), ("timerslack_ns", 77000)):
    with open(f"/proc/self/{{name}}", "w") as file:
        file.write(str(value))
reader, writer = os.pipe()
sock = socket.socket()
sock.setblocking(False)
shared = os.open("shared", os.O_RDWR | os.O_CREAT | os.O_APPEND)
null = os.open(os.devnull, os.O_RDONLY)
directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
kept = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100)
        for fd in (reader, writer, sock.fileno(), shared, null, directory)]
os.closerange(3, 100)
for target, fd in zip((3, 4, 6, 7, 8, 9), kept):  # and none is 5
    os.dup2(fd, target)
for number in signal.valid_signals() - {{signal.SIGKILL, signal.SIGSTOP}}:
    signal.signal(number, signal.SIG_IGN if number in {_IGNORED} else signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, {_BLOCKED})
os.execvp(sys.argv[2], sys.argv[2:])
"""
_NOBODY: Final = 65534
_USERS: Final = {
    "root": (),
    "confined root": (
        "setpriv", "--bounding-set=-mknod,-sys_module", "--groups=7,4242", "--regid=42",
        "--inh-caps=+net_raw", "--ambient-caps=+net_raw", "--securebits=+noroot",
    ),
    "nobody": (*as_user(_NOBODY),),
    "nobody without new privileges": ("setpriv", "--no-new-privs", *as_user(_NOBODY)),
}  # fmt: skip
_BYTES: Final = {
    # No locale of its own, lest the C library and Python disagree about what a byte is.
    "LC_ALL": "C",
    "LATIN": os.fsdecode(b"\xe9t\xe9 \xff"),
    "LINES": "one\ntwo\n\ttab",
    "EMPTY": "",
    "EQUAL": "a=b=c",
    "bash_functions%%": "() { :; }",
    "LONG": "x" * 100_000,
}


def _mask(signals: Iterable[int]) -> str:
    return f"{sum(1 << (number - 1) for number in signals):016x}"


#: What is not as it was: an init's own way, each with its reason.
_CHANGED: Final[dict[str, dict[str, str]]] = {
    "tini": {},
    "dumb-init": {
        # It handles the first 31 and does not remember how they were.
        "SigIgn": _mask(number for number in _IGNORED if number > 31),
        "SigBlk": _mask(()),
    },
    # Nothing would ever end or stop a child that was started with its signals blocked.
    "leaderexec": {"SigBlk": _mask(())},
}


def _sheets(
    candidates: Candidates, make: str, *, wrapper: Sequence[str] = (), env: Mapping[str, str]
) -> list[dict[str, str]]:
    """Return the sheets of a child that is executed directly, and of one below an init.

    Without what ours promises: its variables, and the group that it makes below its own for the
    tree where the hierarchy is its.
    """
    sheets = []
    for each in (DIRECT, make):
        init = make_init(
            candidates, each, "--allow-privilege-escalation", wrapper=wrapper, env=env
        ).start()
        child = init.wait_child()
        assert children_of(child) == []
        found = sheet(init, child)
        words = found["environ"].split("\0")
        found["environ"] = "\0".join(word for word in words if not word.startswith("LEADER_"))
        found["cgroup"] = re.sub(r"(?m)^(0::/.*?)/?leaderexec-tree$", r"\1", found["cgroup"])
        sheets.append(found)
    return sheets


@root_only
@every_program
@pytest.mark.parametrize("user", _USERS)
@as_pid_1
def test_a_child_is_as_if_it_had_been_executed_directly(
    candidates: Candidates, tmp_path: Path, make: str, user: str, wrapper: Sequence[str]
) -> None:
    """All that /proc tells of a child is the same without an init, but for what the table says.

    Credentials, capabilities and groups, limits, priorities and processors, masks and descriptors,
    arguments and environment byte for byte, directory, namespaces and control group.
    """
    surroundings = [
        sys.executable, "-I", "-S", "-c", _SURROUNDINGS, str(tmp_path),
        "ionice", "-c", "2", "-n", "6", "setarch", "--addr-no-randomize", *wrapper, *_USERS[user],
    ]  # fmt: skip
    expected, found = _sheets(candidates, make, wrapper=surroundings, env=_BYTES)
    assert "LATIN=\xe9t\xe9 \xff\0" in expected["environ"]
    assert expected["SigIgn"] == _mask(_IGNORED)
    assert expected["SigBlk"] == _mask(_BLOCKED)
    assert found == {**expected, **_CHANGED[make]}


@every_program
@pytest.mark.parametrize("env", [{}, {"LANG": "C"}, {"LC_CTYPE": "POSIX"}], ids=str)
def test_no_variable_is_added(candidates: Candidates, make: str, env: Mapping[str, str]) -> None:
    """Without a locale, the rule in containers, the environment is passed on as it is."""
    expected, found = _sheets(candidates, make, env=env)
    assert found["environ"] == expected["environ"]


@every_program
def test_arguments_are_passed_byte_for_byte(candidates: Candidates, make: str) -> None:
    """Words that are no text, empty, very long or like options are the command's own."""
    words = ["cat", "--", "/proc/self/cmdline", os.fsdecode(b"\xff\xfe"), "", "a\nb", "--", "-e"]
    words += ["--election=other", "x" * 100_000, "*", "$HOME"]
    init = make_init(candidates, make, child=words, env={"LC_ALL": "C"}).start()
    init.wait()
    assert init.output_path.read_bytes() == b"".join(os.fsencode(w) + b"\0" for w in words)


#: What the credentials of a child say besides those of its init.
_DUMPED: Final = {"leaderexec": {"Parent death signal": "KILL"}}


@root_only
@every_program
@pytest.mark.parametrize("user", _USERS)
def test_what_a_process_can_only_say_itself(candidates: Candidates, make: str, user: str) -> None:
    """Secure bits and ambient capabilities are kept; a child of ours dies with its keeper."""
    dumps = []
    for each in (DIRECT, make):
        init = make_init(
            candidates,
            each,
            "--allow-privilege-escalation",
            child=["setpriv", "--dump"],
            wrapper=_USERS[user],
        ).start()
        assert init.wait() == 0
        lines = (line.partition(":") for line in init.output.splitlines())
        dumps.append({name: value.strip() for name, _, value in lines})
    expected, found = dumps
    assert found == {**expected, **_DUMPED.get(make, {})}


# --- orphans

#: Abandons three hundred processes, each called `sleep`; the child is called `tail`.
_ABANDONING: Final = (
    "sh", "-c", "for i in $(seq 300); do (sleep 3600 &); done; exec tail -f /dev/null"
)  # fmt: skip


@pytest.mark.parametrize(
    ("make", "wrapper"),
    [
        # Without an init they stay: what the others are measured by.
        *(
            pytest.param(make, in_pid_namespace(), id=f"pid1-{make}", marks=root_only)
            for make in (DIRECT, "tini", "dumb-init", "leaderexec")
        ),
        *(pytest.param(make, (), id=f"subreaper-{make}") for make in ("tini -s", "leaderexec")),
    ],
)
def test_orphans_are_reaped_while_the_child_runs(
    candidates: Candidates, make: str, wrapper: Sequence[str]
) -> None:
    """Hundreds of processes that the child has abandoned leave no zombie; those that live stay."""
    init = make_init(
        candidates, make, "--log-level=debug", child=_ABANDONING, wrapper=wrapper
    ).start()
    child = init.wait_named("tail")
    reaper = child if make == DIRECT else init.keeper if make in OURS else init.guardian

    def orphans(state: str) -> list[int]:
        return [pid for pid in children_of(reaper) if state_of(pid) == state and pid != child]

    wait_until(lambda: len(orphans("S")) == 300, timeout_s=BOUND_S, what="all fall to the reaper")
    spared, *ended = orphans("S")
    for pid in ended:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: orphans("S") == [spared], timeout_s=BOUND_S, what="all but one have ended")
    zombies = len(ended) if make == DIRECT else 0
    wait_until(lambda: len(orphans("Z")) == zombies, timeout_s=BOUND_S, what=f"{zombies} zombies")
    assert name_of(child) == "tail"
    if make in OURS:
        init.wait_event("orphans reaped")


#: Whether what ignores TERM, in a session of its own, outlives the child, and whether the child
#: outlives an init that was killed.
_OUTLIVES: Final = {"tini": True, "dumb-init": True, "leaderexec": False}


@every_program
def test_what_the_child_leaves(candidates: Candidates, make: str) -> None:
    """When the child has ended, ours alone ends when nothing that it started is left."""
    child = child_command("--spawn", "setsid+ignore", "--after", "0.2", "--exit", "5")
    init = make_init(candidates, make, "--stop-timeout=1s", child=child).start()
    assert init.wait() == 5
    (tree,) = candidates.witness.trees(init.name)
    assert len(tree.pids) == 2
    assert tree.running == _OUTLIVES[make]


@every_program
def test_an_init_that_is_killed(candidates: Candidates, make: str) -> None:
    """Not being PID 1, ours alone has no child left when it is killed."""
    init, tree = _start_child(candidates, make, "--spawn", "setsid+ignore")
    kill(init.guardian)
    if _OUTLIVES[make]:
        assert init.wait() == 128 + signal.SIGKILL
        os.kill(tree.pids[0], signal.SIGUSR2)  # which still reaches it, and ends it
        candidates.witness.wait_note("signal USR2", init.name, timeout_s=BOUND_S)
    else:
        candidates.witness.wait_ended(tree, timeout_s=BOUND_S)
