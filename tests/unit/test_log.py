"""Log lines: their shape, and that writing them never waits for a reader."""

from __future__ import annotations

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
    listed = map(int, os.listdir("/proc/self/fd"))
    return {fd for fd in listed if os.path.exists(f"/proc/self/fd/{fd}")}


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Close what a test has opened: a sink never does, since it lives as long as its process."""
    before = _open_descriptors()
    yield
    for fd in _open_descriptors() - before:
        os.close(fd)


def _drain(fd: int) -> bytes:
    os.set_blocking(fd, False)
    data = b""
    try:
        while part := os.read(fd, 65536):
            data += part
    except BlockingIOError:
        pass
    return data


@pytest.mark.parametrize("reopened", [True, False])
def test_a_full_pipe_drops_lines_and_says_how_many(
    monkeypatch: pytest.MonkeyPatch, reopened: bool
) -> None:
    """Nobody reads: lines are dropped; somebody reads again: the count comes first.

    Also where the pipe cannot be opened anew, as when another user made it.
    """
    reading, writing = os.pipe()
    real_open = os.open

    def refused(path: str, flags: int) -> int:
        if path.startswith("/proc/self/fd/"):
            raise PermissionError(path)
        return real_open(path, flags)

    if not reopened:
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


# Its descriptor is closed, and only then collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_socket_is_never_waited_for() -> None:
    """Standard error may be a socket, as under a service manager."""
    left, right = socket.socketpair()
    with left, right:
        sink = Sink(right.fileno())
        for _ in range(20_000):
            sink.line("x" * 100)
        assert sink.dropped > 0


_UNREAD = """
import os, sys
from leaderexec.log import Sink
real_open = os.open
def refused(path, *rest):
    if path.startswith("/proc/self/fd/"):
        raise PermissionError(path)
    return real_open(path, *rest)
if sys.argv[1] == "refused":
    os.open = refused
sink = Sink(2)
for _ in range(20_000):
    sink.line("x" * 100)
os._exit(5 if sink.dropped else 6)
"""


@pytest.mark.parametrize("kind", ["pipe", "refused", "socket"])
def test_a_process_whose_log_nobody_reads_goes_on(kind: str) -> None:
    """Rule 8: neither a pipe, nor one that cannot be opened anew, nor a socket holds it up."""
    if kind == "socket":
        left, right = (each.detach() for each in socket.socketpair())
    else:
        left, right = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", _UNREAD, kind], cwd=ROOT, stderr=right)
    try:
        wait_until(lambda: process.poll() is not None, timeout_s=30, what="it ends, unread")
        assert process.wait() == 5
    finally:
        process.kill()
        process.wait()
        os.close(left)
        os.close(right)


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
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, level, form],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
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
