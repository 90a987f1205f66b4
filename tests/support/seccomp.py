"""A wrapper under which one prctl is refused, as strict seccomp profiles of runtimes do.

Run as `python3 -I -S tests/support/seccomp.py OPTION COMMAND...`: from then on prctl(OPTION, ...)
fails with EPERM for the command and all that it starts; everything else is as before.

The program of the filter is as seccomp(2) has it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from typing import Final

PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_FILTER_MODE: Final = 2
_PRCTL: Final = {"x86_64": 157, "aarch64": 167, "riscv64": 167, "ppc64le": 171, "s390x": 172}
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
#: Where a filter finds the call's number, and the lower half of its first argument.
_NUMBER_AT, _ARGUMENT_AT = 0, 16


def wrapper(option: int) -> list[str]:
    """What to put before a command so that this prctl is refused to it."""
    return [sys.executable, "-I", "-S", os.path.realpath(__file__), str(option)]


def _refuse(option: int) -> None:
    steps = (
        (_LOAD_WORD, 0, 0, _NUMBER_AT),
        (_JUMP_IF_EQUAL, 0, 3, _PRCTL[platform.machine()]),
        (_LOAD_WORD, 0, 0, _ARGUMENT_AT),
        (_JUMP_IF_EQUAL, 0, 1, option),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    )
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    header = ctypes.create_string_buffer(
        struct.pack("@HP", len(steps), ctypes.addressof(program)), struct.calcsize("@HP")
    )
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() and libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    if libc.prctl(_PR_SET_SECCOMP, _FILTER_MODE, ctypes.c_void_p(ctypes.addressof(header)), 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")


if __name__ == "__main__":
    _refuse(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
