"""Names that can hang: a DNS server on loopback, and the wrapper under which a process asks it.

Owns the server, the addresses it gives out, and the counts that prove what it did with queries.
Must not know: who asks, and for what. Names end in .test, which no other server answers.

A process that is not under `wrapper` never asks it; one that is asks nobody else, and waits for a
swallowed answer for as long as its C library can be told to (30 s, five times).
"""

from __future__ import annotations

import contextlib
import random
import shlex
import socket
import struct
import threading
from typing import TYPE_CHECKING, Final, Self

from tests.support.lacking import Lacking

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_PORT: Final = 53  # a resolv.conf cannot name another
_HEADER: Final = struct.Struct(">HHHHHH")
_A: Final = 1
_IN: Final = 1
_RESPONSE: Final = 0x8180  # recursion asked for and available
_NO_SUCH_NAME: Final = 3
_TTL_S: Final = 0  # nobody may remember an answer
_TICK_S: Final = 0.1


class NameServer:
    """Answers for `names` with 127.0.0.1; everything else does not exist. Root only."""

    def __init__(self, directory: Path, names: Sequence[str]) -> None:
        self.names = tuple(name.lower() for name in names)
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
        for _ in range(100):
            self.address = f"127.53.{random.randrange(256)}.{random.randrange(1, 255)}"
            try:
                self._socket.bind((self.address, _PORT))
                break
            except PermissionError as error:
                self._socket.close()
                raise Lacking("port 53 needs root") from error
            except OSError:
                continue
        else:
            self._socket.close()
            raise Lacking("no loopback address is free")
        self._socket.settimeout(_TICK_S)
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
            with contextlib.suppress(struct.error, IndexError, OSError):
                self._socket.sendto(self._answer(query), asker)
                self.answered += 1

    def _answer(self, query: bytes) -> bytes:
        """Return the answer to the one question of a query."""
        number = _HEADER.unpack_from(query)[0]
        labels = []
        at = _HEADER.size
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length].decode("ascii", "replace"))
            at += 1 + length
        kind, family = struct.unpack_from(">HH", query, at + 1)
        question = query[_HEADER.size : at + 5]
        known = ".".join(labels).lower() in self.names
        if not known or (kind, family) != (_A, _IN):
            code = 0 if known else _NO_SUCH_NAME  # it exists, but has nothing of that kind
            return _HEADER.pack(number, _RESPONSE | code, 1, 0, 0, 0) + question
        name_above = struct.pack(">H", 0xC000 | _HEADER.size)
        address = socket.inet_aton("127.0.0.1")
        record = name_above + struct.pack(">HHIH", _A, _IN, _TTL_S, len(address)) + address
        return _HEADER.pack(number, _RESPONSE, 1, 1, 0, 0) + question + record
