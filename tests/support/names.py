"""Names that can hang: a DNS server on loopback, and the wrapper under which a process asks it.

A process that is not under `wrapper` never asks it; one that is asks nobody else, and waits for a
swallowed answer for as long as its C library can be told to (30 s, five times).
"""

from __future__ import annotations

import random
import shlex
import socket
import threading
from typing import TYPE_CHECKING, Final, Self

from tests.support.lacking import Lacking

if TYPE_CHECKING:
    from pathlib import Path

_PORT: Final = 53  # a resolv.conf cannot name another
_HEADER_BYTES: Final = 12
#: A response with recursion, to one question: without any answer, and with one.
_NOTHING: Final = bytes.fromhex("8180 0001 0000 0000 0000")
_ONE: Final = bytes.fromhex("8180 0001 0001 0000 0000")
#: That question's name has the address 127.0.0.1 (A, IN), for no time at all.
_ADDRESS: Final = bytes.fromhex("c00c 0001 0001 00000000 0004 7f000001")


class NameServer:
    """Answers for every name with 127.0.0.1, until it hangs. Root only."""

    def __init__(self, directory: Path) -> None:
        #: How many queries got their answer, and how many never will.
        self.answered = 0
        self.swallowed = 0
        self._directory = directory
        self._hung = threading.Event()
        self._done = threading.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._thread = threading.Thread(target=self._serve, name="names", daemon=True)

    def __enter__(self) -> Self:
        """Serve on an address of its own, so that several can."""
        self.address = f"127.53.{random.randrange(256)}.{random.randrange(1, 255)}"
        try:
            self._socket.bind((self.address, _PORT))
        except OSError as error:
            self._socket.close()
            raise Lacking(f"port 53, which needs root: {error}") from error
        self._socket.settimeout(0.1)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop serving."""
        self._done.set()
        self._thread.join()
        self._socket.close()

    @property
    def wrapper(self) -> list[str]:
        """What to put before a command so that it asks this server and no other."""
        resolv = self._directory / f"resolv-{self.address}.conf"
        resolv.write_text(f"nameserver {self.address}\noptions timeout:30 attempts:5 ndots:1\n")
        nsswitch = self._directory / "nsswitch.conf"
        nsswitch.write_text("hosts: files dns\n")
        # Where there is no nsswitch.conf a C library asks files and servers anyway.
        script = (
            f"mount --bind {shlex.quote(str(resolv))} /etc/resolv.conf && "
            "if test -e /etc/nsswitch.conf; then "
            f"mount --bind {shlex.quote(str(nsswitch))} /etc/nsswitch.conf || exit; fi && "
            'exec "$@"'
        )
        return ["unshare", "--mount", "sh", "-c", script, "sh"]

    def hang(self) -> None:
        """From now on swallow every query; `swallowed` proves that one was."""
        self._hung.set()

    def _serve(self) -> None:
        while not self._done.is_set():
            try:
                query, asker = self._socket.recvfrom(4096)
            except TimeoutError:
                continue
            if self._hung.is_set():
                self.swallowed += 1
                continue
            end = query.index(0, _HEADER_BYTES) + 5
            question = query[_HEADER_BYTES:end]
            is_address = question.endswith(bytes.fromhex("00 0001 0001"))
            answer = _ONE + question + _ADDRESS if is_address else _NOTHING + question
            self._socket.sendto(query[:2] + answer, asker)
            self.answered += 1
