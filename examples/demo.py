"""Three candidates, one lock, one port: what leaderexec does, shown on this machine in seconds.

`make demo` runs it. Each candidate is a leaderexec around its own `hello_server.py`, all of them on
the same port, so that two servers at once are impossible: the second could not bind, its candidate
would end, and the demo would fail. Needs no Kubernetes, no network and no root.

Nothing is left running, however it ends: candidates are killed by the kernel when the demo dies,
and since the demo is a subreaper, whatever a killed wrapper leaves falls to it and is awaited.
"""

# ruff: noqa: INP001, T201 - examples are scripts, and this one talks

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TypeVar

from leaderexec import linux

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

#: The shortest lawful setting. Only a machine that dies without a word is waited for so long.
TIMING = ("--lease-duration=5s", "--renew-deadline=2s", "--retry-period=1s")
SERVER = Path(__file__).resolve().with_name("hello_server.py")
#: No step takes long; a loaded machine may.
PATIENCE_S = 60.0
POLL_S = 0.005


class Failed(Exception):
    """The demo did not see what it promised."""


class Answer(NamedTuple):
    """What the server says: who runs it, under which fencing token, and its pid."""

    name: str
    fencing_token: str
    pid: int


@dataclass
class Candidate:
    """One leaderexec and where its log goes; `may_end` once it has been told to."""

    name: str
    process: subprocess.Popen[bytes]
    log_path: Path
    may_end: bool = False

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self.log_path.read_text(errors="replace")


class Demo:
    """The candidates, their lock, and what is done to them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = _free_port()
        self._candidates: dict[str, Candidate] = {}
        self._started_s = time.monotonic()

    def run(self) -> None:
        """Tell the story."""
        self._say(f"starting a, b and c: one lock, each with a server for port {self._port}")
        for name in "abc":
            self._start(name)
        first = self._wait(self._ask, "an answer on the port")
        standbys = [c for c in self._candidates.values() if c.name != first.name]
        self._wait(
            lambda: all(f"leader is {first.name}" in c.log for c in standbys),
            "two candidates that stand by",
        )
        self._say(
            f"{first.name} leads: its server answers, with fencing token {first.fencing_token}; "
            f"{' and '.join(c.name for c in standbys)} stand by"
        )

        leader = self._candidates[first.name]
        self._say(f"killing {leader.name}'s wrapper with SIGKILL")
        leader.may_end = True
        second, took_s = self._successor(first, leader.process.kill)
        self._say(
            f"{second.name} answers after {took_s:.2f} s, with fencing token "
            f"{second.fencing_token}; {first.name}'s server died with its wrapper"
        )

        leader = self._candidates[second.name]
        self._say(f"asking {leader.name} to stop with SIGTERM")
        leader.may_end = True
        third, took_s = self._successor(second, leader.process.terminate)
        code = leader.process.wait(PATIENCE_S)
        self._say(
            f"{third.name} answers after {took_s:.2f} s, with fencing token "
            f"{third.fencing_token}; {leader.name} stopped its server first and exited with {code}"
        )

        leader = self._candidates[third.name]
        self._say(f"asking {leader.name} to stop as well")
        leader.may_end = True
        leader.process.terminate()
        code = leader.process.wait(PATIENCE_S)
        if self._ask():
            raise Failed("the server outlived its wrapper")
        self._wait(_nobody_is_left, "the end of every process")
        self._say(f"{leader.name} exited with {code}; the port is silent, no process is left")

    def report(self) -> None:
        """Show the candidates' logs."""
        for candidate in self._candidates.values():
            print(f"--- log of {candidate.name} ---\n{candidate.log}", flush=True)

    def clean_up(self) -> None:
        """End whatever is left, first politely."""
        for candidate in self._candidates.values():
            with contextlib.suppress(ProcessLookupError):
                candidate.process.terminate()
        for candidate in self._candidates.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                candidate.process.wait(5)
        until_s = time.monotonic() + 5
        while linux.kill_sweep() and time.monotonic() < until_s:
            for candidate in self._candidates.values():
                candidate.process.poll()
            _nobody_is_left()
            time.sleep(POLL_S)

    # --- steps ---

    def _start(self, name: str) -> None:
        log_path = self._directory / f"{name}.log"
        own = {k: v for k, v in os.environ.items() if not k.startswith(("LEADER_", "LEADEREXEC_"))}
        demo = os.getpid()
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [
                    sys.executable, "-m", "leaderexec", "--election=demo", f"--id={name}",
                    f"--lock=file:{self._directory / 'lock'}", *TIMING, "--log-format=json", "--",
                    sys.executable, str(SERVER), f"--listen=127.0.0.1:{self._port}",
                ],
                env=own,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: linux.die_with_parent(demo),  # noqa: PLW1509 - no threads
            )  # fmt: skip
        self._candidates[name] = Candidate(name, process, log_path)

    def _successor(self, before: Answer, act: Callable[[], None]) -> tuple[Answer, float]:
        """Do something to the leader, and wait for the answer of another."""
        since_s = time.monotonic()
        act()

        def another() -> Answer | None:
            answer = self._ask()
            return answer if answer and answer.name != before.name else None

        answer = self._wait(another, f"an answer of another than {before.name}")
        took_s = time.monotonic() - since_s
        if int(answer.fencing_token) <= int(before.fencing_token):
            raise Failed("the fencing token did not grow")
        if _is_alive(before.pid):
            raise Failed(f"the server of {before.name} is still alive")
        return answer, took_s

    def _ask(self) -> Answer | None:
        """Ask the server who it is; None when nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=2)
        try:
            connection.request("GET", "/")
            return Answer(**json.loads(connection.getresponse().read()))
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()

    def _wait(self, condition: Callable[[], T | None], what: str) -> T:
        """Wait until `condition` is true, as long as no candidate ends that should not."""
        until_s = time.monotonic() + PATIENCE_S
        while True:
            late = time.monotonic() >= until_s
            value = condition()
            if value:
                return value
            for candidate in self._candidates.values():
                code = candidate.process.poll()
                if code is not None and not candidate.may_end:
                    raise Failed(f"{candidate.name} ended by itself with {code}")
            if late:
                raise Failed(f"not within {PATIENCE_S:g} s: {what}")
            time.sleep(POLL_S)

    def _say(self, words: str) -> None:
        print(f"{time.monotonic() - self._started_s:5.2f} s  {words}", flush=True)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _nobody_is_left() -> bool:
    """Reap what has ended, orphans that fell to us included; whether that was all."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def _is_alive(pid: int) -> bool:
    """Whether a process is neither dead nor waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _leave(signum: int, _: object) -> NoReturn:
    sys.exit(128 + signum)


def main() -> int:
    """Run the demo; 0 when everything was seen."""
    linux.become_subreaper()
    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(signum, _leave)
    with tempfile.TemporaryDirectory(prefix="leaderexec-demo-") as directory:
        demo = Demo(Path(directory))
        try:
            demo.run()
        except (Failed, subprocess.TimeoutExpired) as failure:
            demo.report()
            print(f"failed: {failure}", flush=True)
            return 1
        finally:
            for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(signum, signal.SIG_IGN)
            demo.clean_up()
    return 0


if __name__ == "__main__":
    sys.exit(main())
