"""Log lines on standard error that never block the process which writes them.

Owns a private, non-blocking way to what descriptor 2 points to, and the shape of a line. A log
pipe that nobody reads must not stop a guardian at the deadline, so a line that does not fit is
dropped, counted, and the count reported with the next line that fits. The child's own descriptor
stays exactly as it was: O_NONBLOCK belongs to the open file description, which is shared, hence
the reopening.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import stat
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Final, Protocol

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping

#: What a pipe takes as a whole or not at all (the least that Linux guarantees).
_PIPE_BUF: Final = select.PIPE_BUF

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Log(Protocol):
    """What the processes log through."""

    def debug(self, event: str, **fields: object) -> object:
        """Log what only a developer wants to know."""

    def info(self, event: str, **fields: object) -> object:
        """Log what happened as it should."""

    def warning(self, event: str, **fields: object) -> object:
        """Log what somebody may have to look at."""

    def error(self, event: str, **fields: object) -> object:
        """Log what somebody must look at."""

    def bind(self, **fields: object) -> Log:
        """Return a log that adds `fields` to each line."""


class Sink:
    """Writes whole lines to a descriptor, or drops them."""

    def __init__(self, fd: int = 2) -> None:
        #: How many lines were dropped since the last that was written.
        self.dropped = 0
        #: How many were dropped at all.
        self.dropped_in_all = 0
        self._write = _way_to(fd)

    def line(self, text: str) -> None:
        """Write `text` and a newline, unless it would block."""
        if self.dropped:
            notice = f"leaderexec: {self.dropped} log lines dropped, nobody read them\n"
            if not self._write(notice.encode()):
                self._drop()
                return
            self.dropped = 0
        data = text.encode(errors="backslashreplace")[: _PIPE_BUF - 1] + b"\n"
        if not self._write(data):
            self._drop()

    def _drop(self) -> None:
        self.dropped += 1
        self.dropped_in_all += 1

    # The methods that structlog calls on the logger at the end of its chain.
    msg = debug = info = warning = error = critical = line


def _way_to(fd: int) -> Callable[[bytes], bool]:
    """Choose how to write to `fd` without blocking."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return lambda _: True  # closed: nobody wants to know
    if stat.S_ISSOCK(mode):
        return _by_socket(fd)
    if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        # A file does not block, and a second open file description would have its own offset.
        return _by_descriptor(os.dup(fd))
    try:
        private = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return _by_poll(os.dup(fd))
    return _by_descriptor(private)


def _by_descriptor(fd: int) -> Callable[[bytes], bool]:
    def write(data: bytes) -> bool:
        with contextlib.suppress(OSError):
            return os.write(fd, data) == len(data)
        return False

    return write


def _by_poll(fd: int) -> Callable[[bytes], bool]:
    """Ask first: a pipe that polls writable takes PIPE_BUF bytes, unless the child is faster.

    Where the kernel can, the write itself is told not to wait, which leaves the child no chance.
    """
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    write_now = _by_descriptor(fd)

    def write(data: bytes) -> bool:
        ready = poll.poll(0)
        if not ready or not ready[0][1] & select.POLLOUT:
            return False
        try:
            return os.pwritev(fd, [data], -1, os.RWF_NOWAIT) == len(data)
        except BlockingIOError:
            return False
        except OSError:
            return write_now(data)

    return write


def _by_socket(fd: int) -> Callable[[bytes], bool]:
    sock = socket.socket(fileno=os.dup(fd))

    def write(data: bytes) -> bool:
        with contextlib.suppress(OSError):
            return sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(data)
        return False

    return write


#: The sinks of this process's logs, for counting.
_SINKS: Final[list[Sink]] = []


def lines_dropped() -> int:
    """Return how many lines this process, and before a fork its parent, had to drop."""
    return sum(sink.dropped_in_all for sink in _SINKS)


def configure(*, level: str, form: str, environ: Mapping[str, str], role: str) -> Log:
    """Return the log of this process and of those that it forks.

    `form` is `console`, `json`, or `auto`: console when standard error is a terminal. NO_COLOR is
    honoured (no-color.org).
    """
    sink = Sink()
    _SINKS.append(sink)
    if form == "auto":
        form = "console" if os.isatty(2) else "json"
    render: structlog.typing.Processor
    if form == "console":
        render = structlog.dev.ConsoleRenderer(
            colors=os.isatty(2) and not environ.get("NO_COLOR"), pad_event_to=0
        )
    else:
        render = _json
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: sink,
        cache_logger_on_first_use=True,
    )
    log: Log = structlog.get_logger(role=role)
    return log


_RENDER_JSON: Final = structlog.processors.JSONRenderer(sort_keys=False, ensure_ascii=False)


def _json(logger: object, name: str, event: MutableMapping[str, object]) -> str:
    """Render one JSON object that fits a pipe, shortened rather than cut in the middle."""
    line = str(_RENDER_JSON(logger, name, event))
    if len(line.encode(errors="backslashreplace")) < _PIPE_BUF:
        return line
    short: dict[str, object] = {k: event[k] for k in ("timestamp", "level", "role") if k in event}
    short["event"] = str(event.get("event"))[:500]
    short["truncated"] = True
    return str(_RENDER_JSON(logger, name, short))


def die_in_one_line(message: str) -> None:
    """Say on standard error, and to Kubernetes where it asks for it, why we end.

    /dev/termination-log is the default terminationMessagePath of a container.
    """
    line = f"leaderexec: {message}"
    Sink().line(line)
    path = "/dev/termination-log"
    with contextlib.suppress(OSError):
        if os.path.exists(path):
            fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "wb") as file:
                file.truncate(0) if stat.S_ISREG(os.fstat(fd).st_mode) else None
                file.write(line.encode(errors="backslashreplace")[:4095] + b"\n")


def quiet_standard_library() -> None:
    """Keep libraries from writing to standard error themselves, where they might block."""
    logging.lastResort = None
    logging.getLogger().addHandler(logging.NullHandler())
    warnings.simplefilter("ignore")
    threading.excepthook = lambda _: None
    sys.unraisablehook = lambda _: None
