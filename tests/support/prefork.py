"""A child that is a pre-forking server in Python, as kinds.py has it and as gunicorn is one.

A master opens the port and forks workers, each of which answers one request at a time. It replaces
workers that die. Asked to stop it asks them to, which first answer what they have begun, and exits
with its code when the last of them has been reaped.

Run with GATE CODE STUBBORN: a request for /slow is answered when the file GATE exists; with
STUBBORN 1 nothing but SIGKILL ends any of the processes. They say on standard output where they
listen, that a slow request was begun, and that they drain.

Owns: the master and its workers. Must not know: leaderexec.
Races it guards: a worker that is told to stop before it has its handler (the signal stays blocked
until then), or just before it waits for a request (it waits for both at once).
"""

from __future__ import annotations

import os
import sys

from tests.support import testchild
from tests.support.wait import wait_until
from tests.support.witnessed import connected

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import NoReturn

_WORKERS = 3
_BOUND_S = 600.0


class Master:
    """The process that owns the port and the workers."""

    def __init__(self, process: testchild.Child, listener: socket.socket, gate: str) -> None:
        self._process = process
        self._listener = listener
        self._gate = gate
        self._workers: set[int] = set()
        self._stopping = False

    def serve(self, *, stubborn: bool) -> None:
        """Keep the workers until the last one has ended after a request to stop."""
        import signal  # noqa: PLC0415 - slow to import, as in the test child

        signals = {signal.SIGCHLD}
        if stubborn:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        else:
            signals.add(signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        ready, told = os.pipe()
        for _ in range(_WORKERS):
            self._fork(told)
        for _ in range(_WORKERS):
            os.read(ready, 1)
        print("port", self._listener.getsockname()[1], flush=True)
        while self._workers or not self._stopping:
            if signal.sigwait(signals) == signal.SIGTERM:
                print("draining", flush=True)
                self._stopping = True
                for pid in self._workers:  # none is reaped by anybody else meanwhile
                    os.kill(pid, signal.SIGTERM)
            self._reap(told)

    def _reap(self, told: int) -> None:
        while self._workers:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            self._workers.discard(pid)
            if not self._stopping:
                self._fork(told)

    def _fork(self, told: int) -> None:
        pid = os.fork()
        if pid:
            self._workers.add(pid)
            return
        self._process.connect("worker", testchild.now_ns())
        Worker(self._listener, self._gate).serve(told)


class Worker:
    """One of the processes that answer."""

    def __init__(self, listener: socket.socket, gate: str) -> None:
        self._listener = listener
        self._gate = gate

    def serve(self, told: int) -> NoReturn:
        """Answer, one request after the other, until asked to stop."""
        import select  # noqa: PLC0415 - as above
        import signal  # noqa: PLC0415

        woken, waker = os.pipe()
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker)
        if signal.getsignal(signal.SIGTERM) != signal.SIG_IGN:
            signal.signal(signal.SIGTERM, lambda *_: None)  # what counts is the byte in the pipe
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        os.write(told, b".")
        while True:
            ready, _, _ = select.select([woken, self._listener.fileno()], [], [])
            if woken in ready:
                os._exit(0)
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                continue  # another worker was faster
            with connection:
                connection.setblocking(True)
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            data = connection.recv(4096)
            if not data:
                return
            request += data
        if request.startswith(b"GET /slow "):
            print("begun", flush=True)
            wait_until(lambda: os.path.exists(self._gate), timeout_s=_BOUND_S, what=self._gate)
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 8\r\n\r\nanswered")


def main() -> NoReturn:
    """Connect, open the port, serve."""
    process = connected([])
    gate, code, stubborn = sys.argv[1:]
    import socket  # noqa: PLC0415 - as above

    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    Master(process, listener, gate).serve(stubborn=stubborn == "1")
    os._exit(int(code))
