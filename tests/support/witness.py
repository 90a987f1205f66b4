"""The witness: the one process that says whether two trees of a child ran at once.

Owns: who was alive when. Every process of a test child (see `testchild`) connects to a local socket
the moment it starts and holds the connection until it dies; the kernel closes it at the death,
however that came about, and the witness notes both instants on CLOCK_BOOTTIME. A *tree* is every
connection of one candidate, one run and one main process, from the first start to the last end.
Must not know: elections, leases, the API, leaderexec.

The race it guards: one wake-up may find that the old tree has closed *and* that a new one has
opened, and the order of the two in that list says nothing. So no instant is taken for more than is
known about it. A start is the starting process's own stamp: it certainly ran by then. An end lies
between the last look that still found the connection open and the look that found it closed; the
witness looks at every connection again right after each accept, so a tree that was open while
another opened is known to have been. An overlap is reported when the two trees *certainly* ran at
once, and its length is the longest it can have been. A pair that only *may* have overlapped is no
verdict, but widens `Witness.resolution_ns`, together with the longest time for which the witness
itself was kept from looking. An overlap longer than that cannot have been missed.

The server half uses the standard library only and starts under `python -I -S`; it writes its events
as JSON lines to stdout and ends when its standard input does. Test children die with it.

The protocol, for children that are no test children: connect to the socket, send one line
`{"candidate": "a", "run": "17", "main": 4711, "role": "main", "started_ns": 123}`, stay connected.
Later lines `{"note": "text", ...}` are kept as notes. A client may also bind its socket, before it
connects, to the abstract name `witness<US>candidate<US>run<US>main<US>role<US>started_ns<US>pid`
(<US> is 0x1f): then it is known from the first instant, even if it is killed before its first line.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from tests.support.controlled import ControlledProcess
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")

UNKNOWN = "unknown"
NAME_PREFIX = "witness"
NAME_SEPARATOR = "\x1f"

_READY = b"ready"
_TICK_S = 0.01
_TICK_NS = 10_000_000
_BACKLOG = 4096
_CLOSED = select.EPOLLHUP | select.EPOLLRDHUP | select.EPOLLERR


def now_ns() -> int:
    """Return CLOCK_BOOTTIME in nanoseconds, the clock of every instant here."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


# --- the server: a process of its own ---------------------------------------------------------


@dataclass(slots=True)
class _Connection:
    """One process that is connected, as the server sees it."""

    number: int
    sock: socket.socket
    buffer: bytes = b""


class _Server:
    """The loop of the witness process: look, note, look again."""

    def __init__(self, path: str, control: socket.socket, log_fd: int) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._listener.bind(path)
        Path(path).chmod(0o777)
        self._control = control
        self._control.setblocking(False)
        self._log_fd = log_fd
        self._pending: list[str] = []
        self._written = 0
        self._connections: dict[int, _Connection] = {}
        self._numbers = 0
        self._epoll = select.epoll()
        self._open_at_ns = now_ns()  # every connection in the table was open then
        self._looked_ns = self._open_at_ns
        self._registered = 0  # the number of the last connection in the table
        self._looked_at = 0  # that number at the last look
        self._lateness_ns = 0
        self._done = False

    def run(self) -> None:
        """Serve until the control channel ends."""
        self._listener.listen(_BACKLOG)
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self._epoll.register(self._control.fileno(), select.EPOLLIN | select.EPOLLRDHUP)
        self._reply(_READY)
        while not self._done:
            self._round(_TICK_S)
            self._flush()

    def _round(self, timeout_s: float) -> None:
        """Look once and handle what was found: ends first, then words, then new connections."""
        ready = self._look(timeout_s)
        for fd in ready:
            if fd in self._connections:
                self._read(self._connections[fd])
        if self._listener.fileno() in ready:
            self._accept_all()
        if self._control.fileno() in ready:
            self._obey()

    def _look(self, timeout_s: float) -> set[int]:
        """Ask the kernel for everything that is ready, and note at once every end among it."""
        before_ns = now_ns()
        found = self._epoll.poll(timeout_s, len(self._connections) + 16)
        after_ns = now_ns()
        allowed_ns = _TICK_NS if timeout_s else 0
        late_ns = (before_ns - self._looked_ns, after_ns - before_ns - allowed_ns)
        self._lateness_ns = max(self._lateness_ns, *late_ns)
        ready = set()
        for fd, mask in found:
            if mask & _CLOSED and fd in self._connections:
                connection = self._connections[fd]
                # How long this look waited tells nothing of when the end came: the witness may have
                # been stopped meanwhile. What the last look found open was open when that began;
                # one that was never seen open may have ended long before it was accepted.
                alive_ns = self._open_at_ns if connection.number <= self._looked_at else 0
                self._close(connection, alive_ns, after_ns)
            else:
                ready.add(fd)
        self._open_at_ns = before_ns
        self._looked_at = self._registered
        self._looked_ns = after_ns
        return ready

    def _accept_all(self) -> None:
        """Take in every waiting connection; after each, look at all the others."""
        for _ in range(2 * _BACKLOG):
            try:
                sock, name = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._log({"event": "trouble", "t": now_ns(), "what": f"cannot accept: {error}"})
                return
            opened_ns = now_ns()
            sock.setblocking(False)
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pid, uid, _gid = struct.unpack("iII", credentials)
            self._numbers += 1
            connection = _Connection(self._numbers, sock)
            event = {"event": "opened", "t": opened_ns, "id": self._numbers, "pid": pid, "uid": uid}
            self._log(event | _identity_of_name(name))
            # The look comes before this connection is in the table: what is left in the table
            # afterwards was still open while this one already was.
            self._look(0)
            self._connections[sock.fileno()] = connection
            self._registered = connection.number
            self._epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLRDHUP)

    def _read(self, connection: _Connection) -> None:
        """Take in whole lines; keep the rest for later."""
        with contextlib.suppress(OSError):
            while data := connection.sock.recv(65536):
                connection.buffer += data
        *lines, connection.buffer = connection.buffer.split(b"\n")
        for line in lines:
            try:
                words = json.loads(line)
                event = "note" if "note" in words else "hello"
                self._log({**words, "event": event, "t": now_ns(), "id": connection.number})
            except (ValueError, TypeError) as error:
                what = f"cannot read the line {line[:100]!r}: {error}"
                self._log({"event": "trouble", "t": now_ns(), "what": what})

    def _close(self, connection: _Connection, alive_ns: int, closed_ns: int) -> None:
        """Note the end of a connection, after its last words."""
        self._read(connection)
        fd = connection.sock.fileno()
        self._epoll.unregister(fd)
        del self._connections[fd]
        connection.sock.close()
        self._log(
            {"event": "closed", "t": closed_ns, "id": connection.number, "alive_ns": alive_ns}
        )

    def _obey(self) -> None:
        """Answer a sync, after everything that came before it; end with the control channel."""
        try:
            words = self._control.recv(65536)
        except BlockingIOError:
            return
        if not words:
            self._done = True
            return
        for _ in range(words.count(b"\n")):
            # First ends and words, then the newcomers, then the newcomers' words and ends.
            for _ in range(3):
                ready = self._look(0)
                for fd in ready & self._connections.keys():
                    self._read(self._connections[fd])
                if self._listener.fileno() in ready:
                    self._accept_all()
            self._flush()
            self._reply(b"%d %d %d" % (self._written, now_ns(), self._lateness_ns))

    def _reply(self, words: bytes) -> None:
        self._control.setblocking(True)
        self._control.sendall(words + b"\n")
        self._control.setblocking(False)

    def _log(self, event: dict[str, Any]) -> None:
        self._pending.append(json.dumps(event))

    def _flush(self) -> None:
        if self._pending:
            data = ("\n".join(self._pending) + "\n").encode()
            self._pending.clear()
            while data:
                written = os.write(self._log_fd, data)
                self._written += written
                data = data[written:]


def _identity_of_name(name: object) -> dict[str, Any]:
    """Read the identity a client bound its socket to, if it did."""
    if not isinstance(name, bytes):
        return {}
    parts = name.lstrip(b"\0").decode(errors="replace").split(NAME_SEPARATOR)
    if len(parts) != 7 or parts[0] != NAME_PREFIX:
        return {}
    _prefix, candidate, run, main_pid, role, started_ns, _pid = parts
    numbers = {"main": int(main_pid), "started_ns": int(started_ns)}
    return {"candidate": candidate, "run": run, "role": role, **numbers}


def _raise_priority() -> None:
    """Run before everything else where that is allowed: lateness is doubt."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(10))
        return
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)


def _raise_file_limit() -> None:
    """Allow as many connections as the system lets this process have."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (max(hard, 65536), hard):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            return


def main() -> None:
    """Be the witness: `argv[-1]` is the path, stdin the control channel, stdout the log."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _raise_priority()
    _raise_file_limit()
    with socket.socket(fileno=os.dup(0)) as control:
        _Server(sys.argv[-1], control, 1).run()


# --- the client: what a test holds ------------------------------------------------------------


@dataclass(eq=False, slots=True)
class Process:
    """One connection: a process of a tree, or several that share the connection by fork.

    `started_ns` is the process's own stamp, `ended_ns` the look that found it dead, and
    `alive_until_ns` the latest instant at which it is known to have been alive.
    """

    pid: int
    uid: int
    role: str
    started_ns: int
    alive_until_ns: int
    ended_ns: int | None = None


@dataclass(eq=False, slots=True)
class Tree:
    """Every process of one run of one candidate's child; updated in place by `Witness.sync`."""

    candidate: str
    run: str
    main: int
    processes: list[Process] = field(default_factory=list)
    #: The first instant at which a process of the tree is known to have run.
    started_ns: int = 0
    #: The latest instant at which a process of the tree is known to have been alive. What came
    #: after its end came after this, however late the witness looked; after `ended_ns` it came only
    #: if the witness was in time.
    alive_until_ns: int = 0
    _live: int = 0
    _ended_ns: int = 0

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes it a tree of its own."""
        return (self.candidate, self.run, self.main)

    @property
    def ended_ns(self) -> int | None:
        """The instant by which the last process was dead; None while one lives."""
        return None if self._live else self._ended_ns

    @property
    def running(self) -> bool:
        """Whether a process of the tree is alive."""
        return self._live > 0

    @property
    def pids(self) -> tuple[int, ...]:
        """The pids of all its processes, dead or alive, in the order of their connections."""
        return tuple(process.pid for process in self.processes)

    @property
    def live_pids(self) -> tuple[int, ...]:
        """The pids of the processes that are still connected."""
        return tuple(process.pid for process in self.processes if process.ended_ns is None)

    def with_role(self, role: str) -> list[Process]:
        """Return its processes of one role, dead or alive."""
        return [process for process in self.processes if process.role == role]

    def __str__(self) -> str:
        state = "running" if self.running else "ended"
        return f"{self.candidate}/{self.run} (main {self.main}, {state})"

    __repr__ = __str__


class Overlap(NamedTuple):
    """Two trees that certainly ran at once, `overlap_ns` long at most, `certain_ns` at least."""

    first: Tree
    second: Tree
    overlap_ns: int
    certain_ns: int


class Gap(NamedTuple):
    """A time in which no tree ran, between two that did."""

    first: Tree
    second: Tree
    started_ns: int
    ended_ns: int


class Note(NamedTuple):
    """Something a process of a child told the witness; `at_ns` is its own stamp if it gave one."""

    candidate: str
    run: str
    pid: int
    role: str
    text: str
    at_ns: int
    data: dict[str, Any]


def _key(process: Process, event: dict[str, Any]) -> tuple[str, str, int]:
    """Return the tree a process says it is of: candidate, run, main."""
    if "candidate" not in event:
        return (UNKNOWN, f"pid-{process.pid}", process.pid)
    return (str(event["candidate"]), str(event.get("run", "")), int(event.get("main", 0)))


class Witness:
    """A running witness process, and the verdicts drawn from what it saw.

    Use it as a context manager. When it ends, the kernel kills the test children that are still
    connected: each has asked for that, so no test leaves children behind.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self._directory = None if path else tempfile.mkdtemp(prefix="witness-")
        if self._directory:
            Path(self._directory).chmod(0o755)
        self.path = str(path or Path(self._directory or "") / "socket")
        self._process: ControlledProcess | None = None
        self._log_fd = -1
        self._offset = 0
        self._now_ns = 0
        self._lateness_ns = 0
        self._trees: dict[tuple[str, str, int], Tree] = {}
        self._connections: dict[int, tuple[Process, Tree]] = {}
        self._notes: list[Note] = []
        self._troubles: list[str] = []

    def __enter__(self) -> Self:
        """Start the process and wait until it listens."""
        self._log_fd = os.memfd_create("witness-log")
        process = ControlledProcess("tests.support.witness", self.path, stdout=self._log_fd)
        self._process = process.__enter__()
        try:
            assert process.hear() == _READY, "the witness did not start"
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the process; the test children still connected die with it."""
        if self._process is not None:
            self._process.__exit__()
            self._process = None
        if self._log_fd >= 0:
            os.close(self._log_fd)
            self._log_fd = -1
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)
        else:
            Path(self.path).unlink(missing_ok=True)

    @property
    def pid(self) -> int:
        """The pid of the witness process."""
        assert self._process is not None, "the witness does not run"
        return self._process.pid

    def env(self, candidate: str) -> dict[str, str]:
        """Return the environment variables that make a test child a child of `candidate`."""
        return {"WITNESS_SOCKET": self.path, "WITNESS_CANDIDATE": candidate}

    # --- what was seen

    def sync(self) -> None:
        """Take in everything that happened before this call."""
        assert self._process is not None, "the witness does not run"
        self._process.tell(b"sync")
        offset, self._now_ns, self._lateness_ns = map(int, self._process.hear().split())
        data = b""
        while self._offset < offset:
            part = os.pread(self._log_fd, offset - self._offset, self._offset)
            self._offset += len(part)
            data += part
        for line in data.splitlines():
            self._take(json.loads(line))
        assert not self._troubles, f"the witness is in trouble: {self._troubles}"

    def notes(self, candidate: str | None = None) -> list[Note]:
        """Return what the children told, of one candidate or of all."""
        self.sync()
        return [note for note in self._notes if candidate in {None, note.candidate}]

    def trees(self, candidate: str | None = None) -> list[Tree]:
        """Return every tree there ever was, in the order of their starts."""
        self.sync()
        chosen = (tree for tree in self._trees.values() if candidate in {None, tree.candidate})
        return sorted(chosen, key=lambda tree: tree.started_ns)

    def running(self, candidate: str | None = None) -> list[Tree]:
        """Return the trees that are alive."""
        return [tree for tree in self.trees(candidate) if tree.running]

    # --- verdicts

    def overlaps(self) -> list[Overlap]:
        """Return every pair of trees that certainly ran at once.

        Connections that never said whose they are (candidate `unknown`) take no part: nobody can
        say that they are not of the same tree.
        """
        self.sync()
        return [pair for pair in self._pairs() if pair.certain_ns >= 0]

    def gaps(self) -> list[Gap]:
        """Return every time in which nobody ran, between the first start and the last."""
        gaps = []
        last: Tree | None = None
        last_ns = 0
        for tree in self._known(self.trees()):
            if last is not None and tree.started_ns > last_ns:
                gaps.append(Gap(last, tree, last_ns, tree.started_ns))
            ended_ns = tree.ended_ns or self._now_ns
            if ended_ns >= last_ns:
                last, last_ns = tree, ended_ns
        return gaps

    @property
    def resolution_ns(self) -> int:
        """The longest overlap that may have gone unseen: own lateness, and undecided pairs."""
        self.sync()
        undecided = (pair.overlap_ns for pair in self._pairs() if pair.certain_ns < 0)
        return max(self._lateness_ns, *undecided, 0)

    # --- waiting

    def wait_for(self, condition: Callable[[], T | None], *, timeout_s: float = 10, what: str) -> T:
        """Wait until `condition`, asked after a sync each time, is true; return its value."""

        def look() -> T | None:
            self.sync()
            return condition()

        try:
            found = wait_until(look, timeout_s=timeout_s, what=what)
        except AssertionError as error:
            told = [f"{note.candidate}: {note.text}" for note in self._notes[-10:]]
            error.add_note(f"trees: {list(self._trees.values())}; last notes: {told}")
            raise
        assert found is not None
        return found

    def wait_running(
        self, n: int = 1, candidate: str | None = None, *, timeout_s: float = 10
    ) -> list[Tree]:
        """Wait until exactly `n` trees run, of one candidate or of all, and return them."""

        def enough() -> tuple[list[Tree]] | None:
            running = self.running(candidate)
            # One that has not yet said whose it is may turn out to be of another tree.
            known = len(self._known(running)) == len(running) == n
            return (running,) if known else None

        what = f"{n} running trees of {candidate or 'anyone'}"
        return self.wait_for(enough, timeout_s=timeout_s, what=what)[0]

    def wait_ended(self, tree: Tree, *, timeout_s: float = 10) -> int:
        """Wait until every process of the tree is dead, and return when that was."""
        what = f"the end of {tree}"
        return self.wait_for(lambda: tree.ended_ns, timeout_s=timeout_s, what=what)

    def wait_successor(self, tree: Tree, *, timeout_s: float = 10) -> Tree:
        """Wait until a tree runs that started after `tree`, and return it."""

        def successor() -> Tree | None:
            running = self._known(self.running())
            later = (new for new in running if new.started_ns > tree.started_ns)
            return next(later, None)

        return self.wait_for(successor, timeout_s=timeout_s, what=f"a successor of {tree}")

    def wait_note(
        self, text: str, candidate: str | None = None, *, count: int = 1, timeout_s: float = 10
    ) -> Note:
        """Wait until `text` has been noted `count` times, and return that note."""

        def noted() -> Note | None:
            notes = [note for note in self.notes(candidate) if note.text == text]
            return notes[count - 1] if len(notes) >= count else None

        what = f"note {text!r} of {candidate or 'anyone'}"
        return self.wait_for(noted, timeout_s=timeout_s, what=what)

    # --- within

    def _take(self, event: dict[str, Any]) -> None:
        """Bring the trees up to date with one event of the log."""
        match event["event"]:
            case "opened":
                # That it was accepted does not mean that it was still alive by then.
                alive_ns = min(event["t"], event.get("started_ns", 0))
                role = event.get("role", UNKNOWN)
                process = Process(
                    event["pid"], event["uid"], role, alive_ns or event["t"], alive_ns
                )
                self._connections[event["id"]] = (process, self._join(process, event))
            case "hello":
                process, tree = self._connections[event["id"]]
                stamp_ns = event.get("started_ns")
                if isinstance(stamp_ns, int):
                    process.started_ns = min(process.started_ns, stamp_ns)
                    process.alive_until_ns = max(process.alive_until_ns, process.started_ns)
                process.role = str(event.get("role", UNKNOWN))
                # A tree that is only confirmed stays as it is: the same object, and untouched.
                if tree.key != _key(process, event):
                    self._connections[event["id"]] = (process, self._join(process, event))
                    self._leave(process, tree)
            case "note":
                process, tree = self._connections[event["id"]]
                at_ns = event.get("at_ns") or event["t"]
                who = (tree.candidate, tree.run, process.pid, process.role)
                self._notes.append(Note(*who, str(event["note"]), at_ns, event))
            case "closed":
                process, tree = self._connections.pop(event["id"])
                process.alive_until_ns = max(process.alive_until_ns, event["alive_ns"])
                process.ended_ns = event["t"]
                tree._live -= 1
                tree._ended_ns = max(tree._ended_ns, process.ended_ns)
                tree.alive_until_ns = max(tree.alive_until_ns, process.alive_until_ns)
            case _:
                self._troubles.append(event["what"])

    def _join(self, process: Process, event: dict[str, Any]) -> Tree:
        """Put a process into the tree it says it is of."""
        key = _key(process, event)
        tree = self._trees.setdefault(key, Tree(*key))
        tree.processes.append(process)
        tree._live += 1
        tree.started_ns = min(tree.started_ns or process.started_ns, process.started_ns)
        return tree

    def _leave(self, process: Process, tree: Tree) -> None:
        """Take a process out of the tree it was thought to be of."""
        tree.processes.remove(process)
        tree._live -= 1
        if tree.processes:
            tree.started_ns = min(other.started_ns for other in tree.processes)
        else:
            del self._trees[tree.key]

    @staticmethod
    def _known(trees: Iterable[Tree]) -> list[Tree]:
        return [tree for tree in trees if tree.candidate != UNKNOWN]

    def _pairs(self) -> Iterator[Overlap]:
        """Yield every two trees that may have run at once."""
        trees = sorted(self._known(self._trees.values()), key=lambda tree: tree.started_ns)
        ends = {tree: self._now_ns if tree.running else tree._ended_ns for tree in trees}
        alive = {tree: self._now_ns if tree.running else tree.alive_until_ns for tree in trees}
        open_trees: list[Tree] = []
        for second in trees:
            started_ns = second.started_ns
            open_trees = [first for first in open_trees if ends[first] > started_ns]
            for first in open_trees:
                longest_ns = min(ends[first], ends[second]) - started_ns
                certain_ns = min(alive[first], alive[second]) - started_ns
                if longest_ns > 0:
                    yield Overlap(first, second, longest_ns, certain_ns)
            open_trees.append(second)
