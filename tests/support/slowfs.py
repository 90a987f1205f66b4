"""A filesystem that hangs: one executable on FUSE, served by a process of its own.

The mount exists in the mount namespace of the server only: a process sees it under `wrapper`.
The server ends with its control channel, however the test died: the kernel then fails everything
that waits, and the mount ends with the last process in its namespace. It speaks to /dev/fuse
directly (linux/fuse.h, protocol 7.31).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import stat
import struct
import subprocess
import sys
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from tests.support.lacking import Lacking
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

_ROOT: Final = Path(__file__).resolve().parents[2]

_LOOKUP, _FORGET, _GETATTR = 1, 2, 3
_OPEN, _READ, _INIT = 14, 15, 26
_INTERRUPT, _BATCH_FORGET = 36, 42

_IN: Final = struct.Struct("=IIQQIIII")  # length, opcode, unique, node, uid, gid, pid, padding
_OUT: Final = struct.Struct("=IiQ")  # length, error, unique
_INIT_OUT: Final = struct.Struct("=IIIIHHIIHH8I")
_ENTRY: Final = struct.Struct("=QQQQII")  # node, generation, how long to remember it (twice)
_ATTR_VALID: Final = struct.Struct("=QII")
_ATTR: Final = struct.Struct("=QQQQQQ10I")
_OPEN_OUT: Final = struct.Struct("=QII")
_MAJOR, _MINOR = 7, 31
_BUFFER_BYTES: Final = 1 << 17  # more than a request has, since nothing can be written

_ROOT_NODE, _FILE_NODE = 1, 2
_NAME: Final = b"program"


def script_of(command: Sequence[str]) -> bytes:
    """Return a program that executes this command, with further arguments behind it."""
    return f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n'.encode()


class SlowExecutable:
    """The executable `path`, visible under `wrapper` only, with the content of `program`.

    As root only. A candidate that uses it is started with `wrapper`, its command being `path`.
    """

    def __init__(self, directory: Path, program: bytes) -> None:
        self._mount_point = directory / "slow"
        self._program = program
        self.path = self._mount_point / _NAME.decode()

    def __enter__(self) -> Self:
        """Start the server and wait until it has mounted."""
        if os.geteuid():
            raise Lacking("mounting needs root")
        self._mount_point.mkdir()
        self._control, theirs = Pipe()
        with theirs:
            self._server = subprocess.Popen(
                ["unshare", "--mount", sys.executable, "-m", __name__, str(self._mount_point)],
                cwd=_ROOT,
                stdin=theirs.fileno(),
                start_new_session=True,
            )
        if problem := self._ask(self._program):
            self.__exit__()
            raise Lacking(problem)
        return self

    def __exit__(self, *_: object) -> None:
        """End the server: the kernel fails whatever hangs."""
        self._control.close()
        self._server.kill()
        self._server.wait()

    @property
    def wrapper(self) -> list[str]:
        """What to put before a command so that it sees the file; it keeps its directory."""
        enter = f"exec nsenter --mount=/proc/{self._server.pid}/ns/mnt"
        return ["sh", "-c", f'{enter} sh -c \'cd "$0" && exec "$@"\' "$PWD" "$@"', "sh"]

    def hang(self, *, killable: bool = False) -> None:
        """From now on answer nobody who opens or reads the file; `wait_hung` proves that it hangs.

        Whoever waits cannot be ended until `go_on`, not even by SIGKILL, which only takes him into
        state D. With `killable` he can, as where a server is stuck before it has looked.
        """
        self._ask("hang killable" if killable else "hang")

    def go_on(self) -> None:
        """Answer what waits, in its order, and everything from now on."""
        self._ask("go on")

    def waiting(self) -> list[int]:
        """Return the pid behind each request that hangs now."""
        pids: list[int] = self._ask("waiting")
        return pids

    def wait_hung(self, *, timeout_s: float = 30) -> list[int]:
        """Wait until a request hangs, and return the pids behind all that do."""
        return wait_until(self.waiting, timeout_s=timeout_s, what="a request hangs")

    def _ask(self, words: str | bytes) -> Any:
        self._control.send(words)
        assert self._control.poll(60), "the server is silent"
        return self._control.recv()


# --- the server: a process of its own ---------------------------------------------------------


class _Server:
    """The loop of the server process: requests of the kernel, and words of the test."""

    def __init__(self, fuse: int, control: Connection[Any, Any], content: bytes) -> None:
        self._fuse = fuse
        self._control = control
        self._content = content
        self._hung = False
        self._killable = False
        self._held: dict[int, bytes] = {}  # by the kernel's number for it

    def run(self) -> None:
        """Serve until the control channel or the mount ends, which is an error of the read."""
        while True:
            ready = wait([self._fuse, self._control])
            if self._fuse in ready:
                # What was announced may have been withdrawn.
                with contextlib.suppress(FileNotFoundError, InterruptedError, BlockingIOError):
                    self._take(os.read(self._fuse, _BUFFER_BYTES))
            if self._control in ready:
                self._obey(self._control.recv())

    def _take(self, request: bytes) -> None:
        """Serve one request, or hold it."""
        opcode, unique = _IN.unpack_from(request)[1:3]
        if opcode == _INTERRUPT:
            (which,) = struct.unpack_from("=Q", request, _IN.size)
            if self._killable and self._held.pop(which, None) is not None:
                self._reply(which, error=errno.EINTR)
        elif self._hung and opcode in {_OPEN, _READ}:
            self._held[unique] = request
        else:
            self._serve(request)

    def _obey(self, words: str) -> None:
        """Do what the test asks for, and answer with the pids of what hung until then."""
        answer = [_IN.unpack_from(request)[6] for request in self._held.values()]
        if words == "go on":
            self._hung = False
            while self._held:
                self._serve(self._held.pop(next(iter(self._held))))
        elif words != "waiting":
            self._hung, self._killable = True, words == "hang killable"
        self._control.send(answer)

    def _serve(self, request: bytes) -> None:
        _length, opcode, unique, node, *_ = _IN.unpack_from(request)
        body = request[_IN.size :]
        if opcode == _INIT:
            # No flags: it reads page by page as it is asked, and remembers nothing.
            limits = (0, 0, 1, 1, 4096, 1, 0, 0, *[0] * 8)
            self._reply(unique, _INIT_OUT.pack(_MAJOR, _MINOR, *limits))
        elif opcode == _LOOKUP:
            if node == _ROOT_NODE and body.rstrip(b"\0") == _NAME:
                entry = _ENTRY.pack(_FILE_NODE, 0, 0, 0, 0, 0)
                self._reply(unique, entry + self._attributes(_FILE_NODE))
            else:
                self._reply(unique, error=errno.ENOENT)
        elif opcode == _GETATTR:
            self._reply(unique, _ATTR_VALID.pack(0, 0, 0) + self._attributes(node))
        elif opcode == _OPEN:
            self._reply(unique, _OPEN_OUT.pack(0, 0, 0))
        elif opcode == _READ:
            _handle, offset, size = struct.unpack_from("=QQI", body)
            self._reply(unique, self._content[offset : offset + size])
        elif opcode not in {_FORGET, _BATCH_FORGET}:  # these want no answer
            self._reply(unique, error=errno.ENOSYS)

    def _attributes(self, node: int) -> bytes:
        is_file = node == _FILE_NODE
        size = len(self._content) if is_file else 0
        mode = (stat.S_IFREG if is_file else stat.S_IFDIR) | 0o755
        numbers = (0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)  # owned by root, from 1970
        return _ATTR.pack(node, size, -(-size // 512), 0, 0, 0, *numbers)

    def _reply(self, unique: int, body: bytes = b"", *, error: int = 0) -> None:
        with contextlib.suppress(FileNotFoundError):  # whoever asked is dead
            os.write(self._fuse, _OUT.pack(_OUT.size + len(body), -error, unique) + body)


def _mount(mount_point: str) -> int:
    """Mount in the mount namespace, which is this process's own; return the open /dev/fuse."""
    # Not blocking: what poll has announced may be withdrawn, by the death of who asked, before the
    # read, which would then wait for ever.
    fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    options = f"fd={fuse},rootmode=40755,user_id=0,group_id=0,allow_other,default_permissions"
    command = ["mount", "-i", "-n", "-t", "fuse", "-o", f"ro,nosuid,nodev,{options}", "slow"]
    subprocess.run([*command, mount_point], pass_fds=(fuse,), check=True)
    return fuse


def main() -> None:
    """Be the server: argv has the mount point; stdin is the control, which tells what to serve."""
    with Connection(os.dup(0)) as control:
        content = control.recv()
        try:
            fuse = _mount(sys.argv[1])
        except (OSError, subprocess.CalledProcessError) as error:
            control.send(f"cannot mount: {error}")
            return
        # The kernel's INIT is answered in the loop: nobody has to wait for it.
        control.send("")
        with contextlib.suppress(EOFError, OSError):
            _Server(fuse, control, content).run()


if __name__ == "__main__":
    main()
