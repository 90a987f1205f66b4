"""Log lines: their shape, and that writing them never waits for a reader."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from leaderexec.log import Sink
from tests.support.candidate import ROOT
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _open_descriptors() -> set[int]:
    return {int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Close what a test has opened: a sink never does, since it lives as long as its process."""
    before = _open_descriptors()
    yield
    for fd in _open_descriptors() - before:
        os.close(fd)


def _unread(kind: str) -> tuple[int, int]:
    """Return two ends of what nobody reads."""
    if kind == "socket":
        left, right = socket.socketpair()
        return left.detach(), right.detach()
    return os.pipe()


each_kind = pytest.mark.parametrize("kind", ["pipe", "refused", "socket"])
real_open = os.open


def refused(path: str, flags: int) -> int:
    """Open anything but a descriptor anew, as when another user made it."""
    if path.startswith("/proc/self/fd/"):
        raise PermissionError(path)
    return real_open(path, flags)


def _drain(fd: int) -> bytes:
    os.set_blocking(fd, False)
    data = b""
    with contextlib.suppress(BlockingIOError):
        while part := os.read(fd, 65536):
            data += part
    return data


# The socket's descriptor is closed, and only then collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@each_kind
def test_what_is_full_drops_lines_and_says_how_many(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Nobody reads: lines are dropped; somebody reads again: the count comes first.

    Also where a pipe cannot be opened anew, and by a socket, as under a service manager.
    """
    reading, writing = _unread(kind)
    if kind == "refused":
        monkeypatch.setattr(os, "open", refused)
    sink = Sink(writing)
    for _ in range(3000):
        sink.line("x" * 100)
    assert sink.dropped > 0
    dropped = sink.dropped
    assert os.get_blocking(writing), "the descriptor that others share is as it was"
    _drain(reading)
    sink.line("after")
    text = _drain(reading).decode()
    assert f"{dropped} log lines dropped" in text
    assert text.endswith("after\n")
    assert sink.dropped == 0


_UNREAD = """
import os, sys
from leaderexec.log import Sink
from tests.unit.test_log import refused
if sys.argv[1] == "refused":
    os.open = refused
sink = Sink(2)
for _ in range(3000):
    sink.line("x" * 100)
os._exit(5 if sink.dropped else 6)
"""


@each_kind
def test_a_process_whose_log_nobody_reads_goes_on(kind: str) -> None:
    """Rule 8: neither a pipe, nor one that cannot be opened anew, nor a socket holds it up."""
    _, writing = _unread(kind)
    script = [sys.executable, "-c", _UNREAD, kind]
    with subprocess.Popen(script, cwd=ROOT, stderr=writing) as process:
        try:
            wait_until(lambda: process.poll() is not None, timeout_s=30, what="it ends, unread")
        finally:
            process.kill()
    assert process.returncode == 5


def test_a_file_is_appended_to_in_turn(tmp_path: Path) -> None:
    """A file has one offset, shared with the child: neither overwrites the other."""
    path = tmp_path / "log"
    with path.open("wb") as file:
        sink = Sink(file.fileno())
        sink.line("ours")
        os.write(file.fileno(), b"the child's\n")
        sink.line("ours again")
    assert path.read_text() == "ours\nthe child's\nours again\n"


def test_no_descriptor_at_all() -> None:
    """Without a standard error there is nothing to write to, and nothing fails."""
    reading, writing = os.pipe()
    os.close(writing)
    os.close(reading)
    Sink(writing).line("nobody")


_SCRIPT = """
import os, sys
from leaderexec import log
log_ = log.configure(level=sys.argv[1], form=sys.argv[2], environ=os.environ, role="guardian")
log_.debug("quiet")
log_.info("hello", n=1, text="a\\nb\\udcff")
log_.warning("long", text="x" * 10000)
"""


def _lines(level: str, form: str) -> list[str]:
    script = [sys.executable, "-c", _SCRIPT, level, form]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, check=True)
    return done.stderr.decode().splitlines()


def test_json_lines_are_whole_objects() -> None:
    """Every line can be parsed, however long or odd what it says."""
    hello, long = (json.loads(line) for line in _lines("info", "auto"))
    assert hello["event"] == "hello"
    assert hello["role"] == "guardian"
    assert hello["level"] == "info"
    assert hello["timestamp"].endswith("Z")
    assert long["event"] == "long"
    assert long["truncated"] is True
    assert len(_lines("debug", "json")) == 3
    assert len(_lines("error", "json")) == 0


def test_console_lines_are_for_people() -> None:
    """One readable line each, without colours where nobody could see them."""
    lines = _lines("info", "console")
    assert len(lines) == 2
    assert "hello" in lines[0]
    assert "\x1b" not in "".join(lines)
