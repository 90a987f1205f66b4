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
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.candidate import (
    as_user,
    child_command,
    children_of,
    in_pid_namespace,
    is_gone,
    is_pending,
    kill,
    name_of,
    state_of,
)
from tests.support.inits import DIRECT, MAKES, OURS, Init, make_init, program_of, sheet
from tests.support.testchild import signal_name
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from tests.support.candidates import Candidates
    from tests.support.witness import Tree

#: Nobody loses a lease here, however slow the machine.
UNHURRIED: Final = ("--lease-duration=2m", "--renew-deadline=90s", "--retry-period=2s")
BOUND_S: Final = 40.0
#: So many at once: more would only wait for each other.
_AT_ONCE: Final = 4

_root_only = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and other users need root")
every_init = pytest.mark.parametrize("make", MAKES)
every_program = pytest.mark.parametrize("make", sorted({program_of(make) for make in MAKES}))
as_pid_1 = pytest.mark.parametrize(
    "wrapper",
    [pytest.param((), id="below"), pytest.param(in_pid_namespace(), id="pid1", marks=_root_only)],
)


@pytest.fixture(autouse=True)
def _unhurried(candidates: Candidates) -> None:
    candidates.timing = UNHURRIED


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


def _exit_codes(candidates: Candidates, make: str, children: Iterable[Sequence[str]]) -> list[int]:
    """Run each child under an init of its own, and return the codes with which the inits ended."""
    codes: list[int] = []
    running: list[Init] = []

    def wait_for_first() -> None:
        init = running.pop(0)
        codes.append(init.wait())
        del candidates.by_name[init.name]

    for child in children:
        init = make_init(candidates, make, child=child)
        init.start()
        running.append(init)
        if len(running) == _AT_ONCE:
            wait_for_first()
    while running:
        wait_for_first()
    return codes


@pytest.mark.slow
@every_program
def test_all_256_exit_codes_are_faithful(candidates: Candidates, make: str) -> None:
    """Whatever code the child exits with, the init does: none has a meaning of its own here."""
    children = (["sh", "-c", f"exit {code}"] for code in range(256))
    assert _exit_codes(candidates, make, children) == list(range(256))


#: Signals that end no process by default.
_HARMLESS: Final = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
_STOPPING: Final = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
_ENDING: Final = sorted(set(range(1, 65)) - _HARMLESS - _STOPPING)


@pytest.fixture(autouse=True, scope="module")
def _library_signals() -> None:
    """Undo that GNU make ignores the C library's own two signals in all that it starts."""
    number = {"x86_64": 13, "aarch64": 134}[os.uname().machine]  # rt_sigaction
    default = ctypes.create_string_buffer(32)
    for signum in (32, 33):
        ctypes.CDLL(None).syscall(number, signum, default, None, 8)


@every_program
def test_the_death_by_every_signal_is_faithful(candidates: Candidates, make: str) -> None:
    """A child that signal n ended makes 128+n, for each of the signals that can, real-time too."""
    script = "ulimit -c 0; kill -$0 $$; sleep 3600"
    children = (["sh", "-c", script, str(number)] for number in _ENDING)
    assert _exit_codes(candidates, make, children) == [128 + number for number in _ENDING]


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
def test_what_cannot_be_executed(
    candidates: Candidates, tmp_path: Path, make: str, what: str
) -> None:
    """127 for what is not there and 126 for what cannot be run, as of a shell."""
    path = tmp_path / what
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
    # The end of a long path is cut off.
    assert str(path)[:40] in init.log


@every_program
def test_a_script_without_a_first_line(candidates: Candidates, tmp_path: Path, make: str) -> None:
    """What is in no format that the kernel knows is run by a shell, as execvp has it."""
    path = tmp_path / "script"
    path.write_text('exit "$1"\n')
    path.chmod(0o755)
    assert make_init(candidates, make, child=[str(path), "7"]).start().wait() == 7


# --- signals

#: What becomes of a signal that is sent to the init, where the child does not get the same: these,
#: or the name of another signal.
NOTHING: Final = "nothing"
DEATH: Final = "the init dies"

#: Those of the C library, which nobody can block by its means.
_LIBRARY: Final = {32: DEATH, 33: DEATH}
_TINI: Final[dict[int, str]] = {
    # It leaves faults alone, also where they are none of its own.
    **dict.fromkeys(
        map(
            int,
            (
                signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE,
                signal.SIGSEGV, signal.SIGSYS,
            ),
        ),
        DEATH,
    ),
    signal.SIGCHLD: NOTHING,
    signal.SIGTTIN: NOTHING,
    signal.SIGTTOU: NOTHING,
    **_LIBRARY,
}  # fmt: skip
_DUMB_INIT: Final[dict[int, str]] = {signal.SIGCHLD: NOTHING, **_LIBRARY}
_OURS: Final[dict[int, str]] = {
    signal.SIGCHLD: NOTHING,
    # Requests to stop, which become the stop signal: --rewrite-signal passes them on as they are.
    signal.SIGINT: "TERM",
    signal.SIGQUIT: "TERM",
    # About a terminal that somebody else has.
    signal.SIGTTIN: NOTHING,
    signal.SIGTTOU: NOTHING,
    **_LIBRARY,
}
FATES: Final[dict[str, dict[int, str]]] = {
    "tini": _TINI,
    "tini -g": _TINI,
    # A child in a session of its own would not be stopped by these; the init stops as well.
    "dumb-init": {
        **_DUMB_INIT,
        signal.SIGTSTP: "STOP",
        signal.SIGTTIN: "STOP",
        signal.SIGTTOU: "STOP",
    },
    "dumb-init -c": _DUMB_INIT,
    "leaderexec": _OURS,
    "leaderexec --signal-group": _OURS,
}
_SENDABLE: Final = sorted(set(range(1, 65)) - {signal.SIGKILL, signal.SIGSTOP})
#: Signals are taken lowest first: once this one has arrived, no other is still on its way.
_LAST: Final = 64


def _fate(candidates: Candidates, init: Init, tree: Tree, signum: int) -> str:
    """Send a signal to an init, and say what became of it; the child notes all and obeys none."""
    pid, child = init.guardian, tree.pids[0]
    before = len(candidates.witness.notes(init.name))
    os.kill(pid, signum)
    last = [signal_name(_LAST)]

    def told() -> list[str]:
        return [
            note.text.partition(" ")[2] for note in candidates.witness.notes(init.name)[before:]
        ]

    def fate() -> str | None:
        if is_gone(pid):
            return DEATH
        if state_of(child) == "T":
            return "STOP"
        names = told()
        if state_of(pid) == "T" and names:
            os.kill(pid, signal.SIGCONT)  # it stops itself as well, when it has passed that on
        if signum in _final_for(init):
            return names[0] if names else None
        if names[-1:] != last:
            return None
        continued = [] if signum == signal.SIGCONT else ["CONT"]
        others = [name for name in names if name not in continued + last * (signum != _LAST)]
        assert len(others) <= 1, f"{others} for one {signal_name(signum)}"
        return others[0] if others else NOTHING

    if signum != _LAST and signum not in _final_for(init):
        what = f"{init.make} takes {signal_name(signum)}"
        wait_until(
            lambda: is_gone(pid) or not is_pending(pid, signum) or told(),
            timeout_s=BOUND_S,
            what=what,
        )
        if not is_gone(pid):
            os.kill(pid, _LAST)
    what = f"the fate of {signal_name(signum)}"
    found = candidates.witness.wait_for(fate, timeout_s=BOUND_S, what=what)
    if found == "STOP":

        def is_over() -> bool:
            for each in (child, pid):
                if state_of(each) == "T":
                    os.kill(each, signal.SIGCONT)
            return last[0] in told()

        candidates.witness.wait_for(is_over, timeout_s=BOUND_S, what="both are continued")
    return found


def _final_for(init: Init) -> frozenset[int]:
    """Return the signals after which an init is on its way out."""
    requests = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
    return frozenset(map(int, requests)) if init.make in OURS else frozenset()


@every_init
@as_pid_1
def test_every_signal_reaches_the_child_once(
    candidates: Candidates, make: str, wrapper: Sequence[str]
) -> None:
    """What is sent to the init the child gets as it is, or as the table says; real-time too.

    PID 1 of a namespace cannot die of a signal that it leaves alone.
    """
    expected: dict[str, str] = {}
    found: dict[str, str] = {}
    running: tuple[Init, Tree] | None = None
    for signum in _SENDABLE:
        name = signal_name(signum)
        fate = FATES[make].get(signum, name)
        expected[name] = NOTHING if wrapper and fate == DEATH else fate
        if running is None:
            running = _start_child(candidates, make, "--ignore", "ALL", wrapper=wrapper)
        found[name] = _fate(candidates, *running, signum)
        if found[name] == DEATH or signum in _final_for(running[0]):
            running[0].kill()
            running = None
    assert found == expected


#: Whether a signal reaches all of the child's process group.
_TO_THE_GROUP: Final = {
    "tini": False,
    "tini -g": True,
    "dumb-init": True,
    "dumb-init -c": False,
    "leaderexec": False,
    "leaderexec --signal-group": True,
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
        assert reached == set(tree.pids if _TO_THE_GROUP[make] else tree.pids[:1])


#: Whether the child leads a process group, and a session.
_LEADS: Final = {
    "tini": (True, False),
    "tini -g": (True, False),
    "dumb-init": (True, True),
    "dumb-init -c": (False, False),
    "leaderexec": (True, False),
    "leaderexec --signal-group": (True, False),
}


@every_init
@as_pid_1
def test_groups_and_sessions(candidates: Candidates, make: str, wrapper: Sequence[str]) -> None:
    """The child has a process group of its own and, where the table says so, a session."""
    init = make_init(candidates, make, wrapper=wrapper).start()
    child = init.wait_child()
    assert (os.getpgid(child) == child, os.getsid(child) == child) == _LEADS[make]
    if not _LEADS[make][1]:
        assert os.getsid(child) == os.getsid(init.guardian)


# --- what a child is given

_IGNORED: Final = {1, 2, 3, 10, 12, 14, 15, 20, 34, 64}
_BLOCKED: Final = {1, 10, 15, 35, 63}
_SURROUNDINGS: Final = f"""
import fcntl, os, resource, signal, socket, sys
os.chdir(sys.argv[1])
os.umask(0o027)
os.nice(4)
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


def _without_leadership(environ: str) -> str:
    return "\0".join(word for word in environ.split("\0") if not word.startswith("LEADER_"))


def _without_tree_group(cgroups: str) -> str:
    """Leave out the group below its own that ours makes for the tree where the hierarchy is its."""
    return re.sub(r"(?m)^(0::/.*?)/?leaderexec-tree$", r"\1", cgroups)


@_root_only
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
    sheets = []
    for each in (DIRECT, make):
        init = make_init(
            candidates, each, "--allow-privilege-escalation", wrapper=surroundings, env=_BYTES
        ).start()
        child = init.wait_child()
        assert children_of(child) == []
        sheets.append(sheet(init, child))
    expected, found = sheets
    assert "LATIN=\xe9t\xe9 \xff\0" in expected["environ"]
    assert expected["SigIgn"] == _mask(_IGNORED)
    assert expected["SigBlk"] == _mask(_BLOCKED)
    if make in OURS:
        found["environ"] = _without_leadership(found["environ"])
        found["cgroup"] = _without_tree_group(found["cgroup"])
    assert found == {**expected, **_CHANGED[make]}


@every_program
@pytest.mark.parametrize("env", [{}, {"LANG": "C"}, {"LC_CTYPE": "POSIX"}], ids=str)
def test_no_variable_is_added(candidates: Candidates, make: str, env: Mapping[str, str]) -> None:
    """Without a locale, the rule in containers, the environment is passed on as it is."""
    seen = []
    for each in (DIRECT, make):
        init = make_init(candidates, each, env=env).start()
        seen.append(_without_leadership(sheet(init, init.wait_child())["environ"]))
    assert seen[1] == seen[0]


def test_ignored_child_signals_stay_ignored(candidates: Candidates) -> None:
    """We must hear of our children's ends; the child still starts with what it was given."""
    script = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    wrapper = [sys.executable, "-I", "-S", "-c", script]
    init = make_init(candidates, "leaderexec", wrapper=wrapper, child=["sh", "-c", "exit 7"])
    inside = make_init(candidates, "leaderexec", wrapper=wrapper).start()
    ignored = int(sheet(inside, inside.wait_child())["SigIgn"], 16)
    assert ignored & 1 << (signal.SIGCHLD - 1)
    inside.terminate()
    assert init.start().wait() == 7


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


@_root_only
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
        pytest.param(DIRECT, in_pid_namespace(), id="pid1-none", marks=_root_only),
        pytest.param("tini", in_pid_namespace(), id="pid1-tini", marks=_root_only),
        pytest.param("dumb-init", in_pid_namespace(), id="pid1-dumb-init", marks=_root_only),
        pytest.param("leaderexec", in_pid_namespace(), id="pid1-leaderexec", marks=_root_only),
        pytest.param("tini -s", (), id="subreaper-tini"),
        pytest.param("leaderexec", (), id="subreaper-leaderexec"),
    ],
)
def test_orphans_are_reaped_while_the_child_runs(
    candidates: Candidates, make: str, wrapper: Sequence[str]
) -> None:
    """Hundreds of processes that the child has abandoned leave no zombie; those that live stay."""
    init = make_init(candidates, make, child=_ABANDONING, wrapper=wrapper).start()
    child = init.wait_child("tail")
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


#: Whether what ignores TERM, in a session of its own, outlives the child, and whether the child
#: outlives an init that was killed.
_OUTLIVES: Final = {"tini": True, "dumb-init": True, "leaderexec": False}


@every_program
def test_what_the_child_leaves(candidates: Candidates, make: str) -> None:
    """When the child has ended, ours alone ends when nothing that it started is left."""
    init = make_init(
        candidates,
        make,
        "--stop-timeout=1s",
        child=child_command("--spawn", "setsid+ignore", "--after", "0.2", "--exit", "5"),
    ).start()
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
