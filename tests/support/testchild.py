"""The test child: a child that does whatever a child may do, and tells the witness about it.

`command(...)` returns the argv that starts it. Without flags it stays alive, notes every signal it
receives, and then does what the signal does by default. Each of its processes connects to the
witness as its first act (see `witness`) and dies when the witness ends. When everything asked for
is in place it leaves the note `ready`.

Who it is (also from the environment; grandchildren with an empty one get it by argv):
  --witness PATH        the witness's socket (WITNESS_SOCKET)
  --candidate TAG       whose child it is (WITNESS_CANDIDATE)
  --run ID              its run (LEADER_FENCING_TOKEN, else its pid)
  --main PID            the main process of its tree (itself). A shell that starts several
                        test children of one tree must give all of them the same: `--main $$`
  --role NAME           what it is in the tree (main)
How it ends:
  --exit CODE           with this code whenever it ends by itself (0)
  --after S             this many seconds after it is ready
  --exit-on SIGNALS     at one of these signals (TERM,INT or ALL)
  --drain S             that long after the first TERM
  --ignore SIGNALS      these are noted, and nothing else
  --stop                stops itself (SIGSTOP) when it is ready
What it starts:
  --spawn KIND[*N]      N grandchildren (repeatable); KIND is one or several, joined by +, of
                        plain, setsid (own session), daemon (forked twice, own session, std streams
                        on /dev/null), emptyenv (executed with no environment), ignore (all signals
                        that can be), busy (one CPU each)
  --chains N            N fork chains: each link is in its own session, forks the next and exits at
                        once, for ever; they block every signal
  --chain-every K       only each Kth link connects; those between hold its connection (1)
  --fork-exit           a background worker does all the rest; the main process only waits for it
                        to be connected and ends
  --leader-exits        the main thread ends when it is ready, another goes on; signals are no
                        longer noted, only --ignore is obeyed
What it says:
  --env-note            the note `env` with its environment in `env`
  --state-note          the note `state`: pid, pgid, and the `blocked` and `ignored` signals
                        it was started with (Python itself ignores PIPE and XFSZ before it can look)
  --heartbeat PATH      appends `BOOTTIME_NS PID` to a file, again and again
What it changes:
  --uid N               drops to this user and group, then connects anew
  --become-root         becomes root entirely, where its effective user is (see `setuid`)
  -- PROGRAM ARG...     becomes another program, which holds the connection until it dies and shares
                        it with what it starts; no flags are obeyed but those of who it is

Owns: the behaviours of children. Must not know: leaderexec.
It uses no module that is slow to import: it guards the instant of its own start, since the time
until its stamp is time in which it runs unwitnessed.
"""

from __future__ import annotations

import os
import time

STARTED_NS = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

import _socket  # noqa: E402 - the stamp comes first
import fcntl  # noqa: E402
import sys  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any, NoReturn
else:
    import _signal as signal  # without the enums, which take longer than all the rest

EXIT_USAGE = 64
EXIT_NO_WITNESS = 97

_SYS_EXIT = {"x86_64": 60, "aarch64": 93, "riscv64": 93}
_KINDS = {"plain", "setsid", "daemon", "emptyenv", "ignore", "busy"}
_ALIASES = {"SIGCLD", "SIGIOT", "SIGPOLL"}
_HARMLESS = {"CONT", "URG", "WINCH"}
_NAME_MAX = 107
_BEAT_S = 0.01
_SEPARATOR = "\x1f"
_ALL = signal.valid_signals()


def command(*flags: str) -> list[str]:
    """Return the argv of a test child with these flags.

    It imports this file rather than running it, since a script is compiled anew at every start.
    """
    here = os.path.dirname(os.path.realpath(__file__))
    boot = f"import sys; sys.path.insert(0, {here!r}); import testchild; testchild.main()"
    return [sys.executable, "-I", "-S", "-c", boot, *flags]


def now_ns() -> int:
    """Return CLOCK_BOOTTIME in nanoseconds."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def signal_name(number: int) -> str:
    """Return a signal's name without its SIG."""
    for name in dir(signal):
        known = name[:3] == "SIG" and name[3] != "_" and name not in _ALIASES
        if known and getattr(signal, name) == number:
            return name[3:]
    return str(number)


def signal_number(name: str) -> int:
    """Return the number of a signal given by name or number."""
    return int(name) if name.isdigit() else int(getattr(signal, "SIG" + name))


def signal_names(text: str) -> set[str]:
    """Read a list such as `TERM,INT`, or ALL."""
    if text == "ALL":
        return {signal_name(number) for number in _ALL} - _HARMLESS
    return {signal_name(signal_number(name)) for name in text.split(",")}


class Options:
    """What the flags say; each attribute is the flag of its name."""

    def __init__(self, env: dict[str, str]) -> None:
        self.witness = env.get("WITNESS_SOCKET", "")
        self.candidate = env.get("WITNESS_CANDIDATE", "")
        self.run = env.get("LEADER_FENCING_TOKEN", "")
        self.main = 0
        self.role = "main"
        self.exit = 0
        self.after = -1.0
        self.exit_on: set[str] = set()
        self.drain = -1.0
        self.ignore: set[str] = set()
        self.stop = False
        self.spawn: list[str] = []
        self.chains = 0
        self.chain_every = 1
        self.fork_exit = False
        self.leader_exits = False
        self.env_note = False
        self.state_note = False
        self.heartbeat = ""
        self.uid = -1
        self.become_root = False
        #: Only between test children: a grandchild closes it once it is connected.
        self.ready_fd = -1

    def parse(self, argv: list[str]) -> None:
        """Read the flags; ValueError tells which one cannot be read."""
        words = iter(argv)
        for word in words:
            name = word[2:].replace("-", "_")
            if word[:2] != "--" or name not in vars(self):
                raise ValueError(word)
            old = getattr(self, name)
            new: object
            if isinstance(old, bool):
                new = True
            else:
                text = next(words, "")
                if isinstance(old, set):
                    new = signal_names(text)
                elif isinstance(old, list):
                    new = [*old, text]
                else:
                    new = type(old)(text)
            setattr(self, name, new)
        for kind in self.spawn:
            if not set(kind.split("*")[0].split("+")) <= _KINDS:
                raise ValueError(kind)


class Child:
    """One process of the tree: its connection to the witness, and what it does."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._sock: _socket.socket | None = None
        self._end_ns = 0
        self._draining = False
        self._gate_fd = -1  # ends when every grandchild is connected
        self._beat_fd = -1

    # --- the witness

    def connect(self, role: str, started_ns: int) -> None:
        """Connect as the process this is, then let go of a connection inherited by fork."""
        inherited = self._sock
        options = self.options
        options.role = role
        if not options.witness:
            return
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        who = (options.candidate, options.run, str(options.main), role, str(started_ns))
        name = "\0" + _SEPARATOR.join(("witness", *who, str(os.getpid())))
        encoded = name.encode()
        try:
            if len(encoded) <= _NAME_MAX:  # else only the first line tells
                sock.bind(encoded)
            sock.connect(options.witness)
            # The kernel kills this process, stopped or not, when the witness closes its end.
            fcntl.fcntl(sock, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(sock, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(sock, fcntl.F_SETFL, fcntl.fcntl(sock, fcntl.F_GETFL) | os.O_ASYNC)
            words = (
                f'{{"candidate": {quote(options.candidate)}, "run": {quote(options.run)}, '
                f'"main": {options.main}, "role": {quote(role)}, "started_ns": {started_ns}}}\n'
            )
            sock.sendall(words.encode(), _socket.MSG_NOSIGNAL)
        except OSError as error:
            if inherited is None:
                os.write(2, f"testchild: cannot reach the witness: {error}\n".encode())
            os._exit(EXIT_NO_WITNESS)
        self._sock = sock
        if inherited is not None:
            inherited.close()

    def note(self, text: str, fields: str = "") -> None:
        """Tell the witness something; `fields` are further JSON members."""
        if self._sock is not None:
            words = f'{{"note": {quote(text)}, "at_ns": {now_ns()}{fields}}}\n'
            try:
                self._sock.sendall(words.encode(errors="surrogateescape"), _socket.MSG_NOSIGNAL)
            except OSError:
                os._exit(EXIT_NO_WITNESS)

    def become(self, program: list[str]) -> NoReturn:
        """Execute a program, with the connection and with the signals as they were."""
        if self._sock is not None:
            os.set_inheritable(self._sock.fileno(), True)
        for number in _IGNORED_AT_START - {signal.SIGPIPE, signal.SIGXFSZ}:  # Python's own
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, _BLOCKED_AT_START)
        os.execvp(program[0], program)

    # --- the main process

    def perform(self) -> NoReturn:
        """Do everything the flags say; never returns."""
        options = self.options
        if options.become_root and not os.geteuid():
            os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        if options.uid >= 0:
            if not os.getuid():
                os.setgroups([])
            os.setgid(options.uid)
            os.setuid(options.uid)
            self.connect(options.role, now_ns())
        self._tell()
        if options.fork_exit:
            self._into_background()
        self._start_others()
        self.note("ready")
        if options.after >= 0:
            self._end_ns = now_ns() + int(options.after * 1e9)
        if options.heartbeat:
            self._beat_fd = os.open(options.heartbeat, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        if options.stop:
            os.kill(os.getpid(), signal.SIGSTOP)
        if options.leader_exits:
            self._exit_leader()
        self.live()

    def live(self) -> NoReturn:
        """Wait for signals, beats and the end."""
        while True:
            now = now_ns()
            wait_ns = self._end_ns - now if self._end_ns else 3600 * 10**9
            if self._end_ns and wait_ns <= 0:
                self.end()
            if self._beat_fd >= 0:
                os.write(self._beat_fd, f"{now} {os.getpid()}\n".encode())
                wait_ns = min(wait_ns, int(_BEAT_S * 1e9))
            info = signal.sigtimedwait(_ALL, wait_ns / 1e9)
            if info is not None:
                self._on_signal(info.si_signo, info.si_pid)

    def end(self) -> NoReturn:
        """End as the flags say."""
        os._exit(self.options.exit)

    def _on_signal(self, number: int, sender: int) -> None:
        if number == signal.SIGCHLD:
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass
            return
        options = self.options
        name = signal_name(number)
        self.note(f"signal {name}", f', "from": {sender}')
        if name in options.ignore:
            return
        if options.drain >= 0 and name == "TERM":
            if not self._draining:
                self._end_ns = now_ns() + int(options.drain * 1e9)
            self._draining = True
        elif name in options.exit_on:
            self.end()
        elif name not in _HARMLESS:
            self._by_default(number)

    def _by_default(self, number: int) -> None:
        """Let a signal do what it does by default; returns from stops only."""
        import resource  # noqa: PLC0415 - slow to import, and seldom needed

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        signal.pthread_sigmask(signal.SIG_BLOCK, {number})
        if number not in {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}:
            os._exit(128 + number)  # PID 1 of a namespace is spared the default

    def _tell(self) -> None:
        options = self.options
        if not (options.env_note or options.state_note):
            return
        import json  # noqa: PLC0415 - slow to import, and seldom needed

        if options.env_note:
            self.note("env", f', "env": {json.dumps(dict(os.environ))}')
        if options.state_note:
            self.note("state", f', "state": {json.dumps(self._state())}')

    def _state(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "pgid": os.getpgid(0),
            "blocked": sorted(map(signal_name, _BLOCKED_AT_START)),
            "ignored": sorted(map(signal_name, _IGNORED_AT_START)),
        }

    # --- other processes

    def _into_background(self) -> None:
        """Go on in a forked worker; the main process ends when the worker is connected."""
        reader, writer = os.pipe()
        if os.fork():
            os.close(writer)
            os.read(reader, 1)
            self.end()
        os.close(reader)
        self.connect("worker", now_ns())
        os.close(writer)

    def _start_others(self) -> None:
        """Start grandchildren and chains, and wait until every one of them is connected."""
        options = self.options
        if not options.spawn and not options.chains:
            return
        reader, writer = os.pipe()
        self._gate_fd, opener = os.pipe()
        for kind in options.spawn:
            name, _, count = kind.partition("*")
            for _ in range(int(count or 1)):
                if not os.fork():
                    os.close(reader)
                    os.close(opener)
                    self._be_grandchild(name, writer)
        for _ in range(options.chains):
            if not os.fork():
                for fd in (reader, opener, self._gate_fd):
                    os.close(fd)
                self._be_chain(writer)
        os.close(writer)
        os.read(reader, 1)
        for fd in (reader, opener, self._gate_fd):
            os.close(fd)

    def _be_grandchild(self, kind: str, ready_fd: int) -> NoReturn:
        """Be a process of this kind; never returns."""
        parts = set(kind.split("+"))
        old = self.options
        options = self.options = Options({})
        options.witness, options.candidate = old.witness, old.candidate
        options.run, options.main = old.run, old.main
        if parts & {"setsid", "daemon"}:
            os.setsid()
        if "daemon" in parts:
            if os.fork():
                os._exit(0)
            null = os.open(os.devnull, os.O_RDWR)
            for fd in range(3):
                os.dup2(null, fd)
        if "ignore" in parts:
            options.ignore = signal_names("ALL")
        if "emptyenv" in parts:
            self._exec_empty(parts, kind, ready_fd)
        self.connect(kind, now_ns())
        self.serve(parts, ready_fd)

    def serve(self, parts: set[str], ready_fd: int) -> NoReturn:
        """Do what a connected grandchild of this kind does; never returns."""
        os.close(ready_fd)
        if "busy" in parts:
            if self._gate_fd >= 0:
                os.read(self._gate_fd, 1)  # the others would never get to start
            self._give_back_signals()
            while True:
                pass
        self.live()

    def _exec_empty(self, parts: set[str], kind: str, ready_fd: int) -> NoReturn:
        """Execute this file again without any environment."""
        options = self.options
        os.set_inheritable(ready_fd, True)
        flags = ["--witness", options.witness, "--candidate", options.candidate]
        flags += ["--run", options.run, "--main", str(options.main)]
        flags += ["--role", kind, "--ready-fd", str(ready_fd)]
        flags += ["--ignore", "ALL"] if "ignore" in parts else []
        os.execve(sys.executable, command(*flags), {})

    def _be_chain(self, ready_fd: int) -> NoReturn:
        """Be the links of a chain, one after the other; never returns."""
        os.setsid()
        link = 0
        while True:
            if link % self.options.chain_every == 0:
                self.connect("chain", now_ns())
            if ready_fd >= 0:
                os.close(ready_fd)
                ready_fd = -1
            link += 1
            try:
                if os.fork():
                    os._exit(0)
            except BlockingIOError:
                continue  # no room for another process just now
            os.setsid()

    def _exit_leader(self) -> NoReturn:
        """End the main thread alone, so that the process has a dead leader and a live thread."""
        import _thread  # noqa: PLC0415 - slow to import, and seldom needed
        import ctypes  # noqa: PLC0415

        syscall = ctypes.CDLL(None).syscall
        self._give_back_signals()
        _thread.start_new_thread(time.sleep, (1e6,))
        syscall(_SYS_EXIT.get(os.uname().machine, 1), 0)
        os._exit(EXIT_USAGE)  # no such system call here

    def _give_back_signals(self) -> None:
        """Leave the signals to the kernel: ignored or by default."""
        for name in self.options.ignore - {"KILL", "STOP"}:
            signal.signal(signal_number(name), signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())


def quote(text: str) -> str:
    """Write a JSON string, as far as the witness needs it."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char for char in plain if char >= " ") + '"'


_BLOCKED_AT_START: set[int] = set()
_IGNORED_AT_START: set[int] = set()


def _take_signals() -> None:
    """Block every signal, and undo what Python changed; remember how it was."""
    _BLOCKED_AT_START.update(signal.pthread_sigmask(signal.SIG_BLOCK, _ALL))
    for number in _ALL - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) == signal.SIG_IGN:
            _IGNORED_AT_START.add(number)
        signal.signal(number, signal.SIG_DFL)


def main() -> NoReturn:
    """Read the flags, connect, perform."""
    _take_signals()
    options = Options(dict(os.environ))
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    try:
        options.parse(sys.argv[1:split])
    except (ValueError, AttributeError) as error:
        os.write(2, f"testchild: cannot read the flags: {error}\n{__doc__}".encode())
        os._exit(EXIT_USAGE)
    options.main = options.main or os.getpid()
    options.run = options.run or str(options.main)
    child = Child(options)
    child.connect(options.role, STARTED_NS)
    if sys.argv[split:]:
        child.become(sys.argv[split + 1 :])
    if options.ready_fd >= 0:
        child.serve(set(options.role.split("+")), options.ready_fd)
    child.perform()
