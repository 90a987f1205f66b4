"""Runs the lanes and counts: `python -m tests.lanes [--coverage] [LANE...] [-- ARG...]`.

Owns: which lanes there are, how many workers each has, what counts as a failure of a whole lane,
and the last line, `N passed, N failed, N skipped`. A lane in which nothing ran has failed, unless
its tests said why they cannot run here; with `LEADEREXEC_REQUIRE_ALL=1` a single skipped test is a
failure.
Must not know: what is tested.

A lane is one pytest whose workers share its tests. The unit lane computes and comes first; the
others mostly wait, and run at the same time, on one control plane. What is marked `alone` comes
last, one by one: it keeps the machine too busy for the timing of any other test.

Coverage is measured with `--coverage` only, because it makes the start of every candidate slower;
each process that leaderexec forks then measures itself, but for those that are killed.
"""

from __future__ import annotations

import argparse
import configparser
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support import environment
from tests.support.controlplane import SHARED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT: Final = Path(__file__).resolve().parents[1]
#: The lanes, and the workers of each for one processor: none waits in the unit lane, nearly all do
#: in the others. A container's storage takes one change at a time.
LANES: Final = {"unit": 1, "process": 2, "kube": 2, "container": 0}
#: Which lanes run at the same time, group after group.
_GROUPS: Final = (("unit",), ("process", "kube", "container"))
#: These need a control plane.
_KUBE_LANES: Final = {"kube", "container"}
#: A lane that takes longer hangs; long before that, pytest shows where a test does.
_LANE_TIMEOUT_S: Final = 3600
_TEST_TIMEOUT_S: Final = 600
_CLEAN_UP_S: Final = 60


@dataclass
class Tally:
    """How the tests of a lane ended; `trouble` is what no single test can tell."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    reason: str = ""
    trouble: str = ""
    took_s: float = 0.0

    def add(self, other: Tally) -> None:
        """Add another part of the same lane."""
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.took_s += other.took_s
        self.reason = self.reason or other.reason
        self.trouble = self.trouble or other.trouble

    def judge(self) -> None:
        """Add what is wrong with the lane as a whole, where no part of it says so."""
        if not self.trouble and not self.passed + self.failed + self.skipped:
            self.trouble = "no test was found"
        elif not self.trouble and self.skipped and os.environ.get("LEADEREXEC_REQUIRE_ALL") == "1":
            self.trouble = "skipped tests, and all are required"

    def __str__(self) -> str:
        """Say what ran, or why nothing did."""
        text = f"ran {self.passed + self.failed}"
        if self.skipped:
            text += f", skipped {self.skipped} (the first: {self.reason})"
        return f"{text}; failed: {self.trouble}" if self.trouble else text


def _read(path: Path, code: int | None) -> Tally:
    """Count the tests in a JUnit report, and say if pytest ended as no verdict makes it end."""
    tally = Tally()
    try:
        (suite,) = ET.parse(path).getroot()
    except (OSError, ValueError, ET.ParseError):
        tally.trouble = "pytest left no report"
        return tally
    tests, failures, errors, tally.skipped = (
        int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")
    )
    tally.failed = failures + errors
    tally.passed = max(0, tests - tally.failed - tally.skipped)
    if (skip := suite.find(".//skipped")) is not None:
        tally.reason = " ".join(skip.get("message", "").split())
    if code is None:
        tally.trouble = f"not at its end after {_LANE_TIMEOUT_S} s"
    elif code not in {0, 1, 5} or (code == 1 and not tally.failed):
        tally.trouble = f"pytest ended with {code}"
    return tally


class _Pytest:
    """One run of pytest on a lane, from now on; what it says is shown at once, or at its end."""

    def __init__(
        self, lane: str, arguments: Sequence[str], measured: Mapping[str, str], *, shown: bool
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="leaderexec-lane-")
        self._report = Path(self._directory.name) / "report.xml"
        self._output = None if shown else (Path(self._directory.name) / "output").open("w+b")
        self._started_s = time.monotonic()
        variables = dict(os.environ)
        environment.clean_variables(variables)
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "pytest", f"tests/{lane}", "--durations=5"),
                f"--override-ini=faulthandler_timeout={_TEST_TIMEOUT_S}",
                *(f"--junit-xml={self._report}", *arguments),
            ],
            cwd=ROOT,
            env=variables | dict(measured),
            stdout=self._output,
            stderr=self._output and subprocess.STDOUT,
        )

    def finish(self) -> Tally:
        """Wait for the end, show what was said, and return the counts."""
        code = _wait(self._process)
        took_s = time.monotonic() - self._started_s
        if self._output is not None:
            self._output.seek(0)
            shutil.copyfileobj(self._output, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            self._output.close()
        tally = _read(self._report, code)
        tally.took_s = took_s
        self._directory.cleanup()
        return tally


def run_lanes(
    lanes: Sequence[str], arguments: Sequence[str], measured: Mapping[str, str]
) -> dict[str, Tally]:
    """Run lanes, with `measured` in their environment; return the counts of each."""
    processors = len(os.sched_getaffinity(0))
    results: dict[str, Tally] = {}
    with contextlib.ExitStack() as stack:
        where: Callable[[], Mapping[str, str]] = dict
        if _KUBE_LANES & set(lanes):
            where = stack.enter_context(_control_plane())
        for group in _GROUPS:
            chosen = [lane for lane in group if lane in lanes]
            started: dict[str, _Pytest] = {}
            for lane in chosen:
                options = ["--alone=without"]
                if workers := LANES[lane] * processors:
                    # One group of tests, such as those of one image, stays with one worker.
                    options += [f"--numprocesses={workers}", "--dist=loadgroup"]
                variables = {**measured, **(where() if lane in _KUBE_LANES else {})}
                started[lane] = _Pytest(
                    lane, [*options, *arguments], variables, shown=len(chosen) == 1
                )
            results |= {lane: run.finish() for lane, run in started.items()}
        for lane, tally in results.items():
            if any("mark.alone" in path.read_text() for path in ROOT.glob(f"tests/{lane}/*.py")):
                variables = {**measured, **(where() if lane in _KUBE_LANES else {})}
                alone = _Pytest(lane, ["--alone=only", *arguments], variables, shown=True)
                tally.add(alone.finish())
            tally.judge()
    return results


@contextlib.contextmanager
def _control_plane() -> Iterator[Callable[[], Mapping[str, str]]]:
    """Begin to build and to start a control plane; yield what waits for it and says where it is.

    Where it cannot be had, no test is told of one, and each finds out for itself why.
    """
    command = [sys.executable, "-m", "tests.support.controlplane"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        found: dict[str, str] = {}

        def where() -> Mapping[str, str]:
            assert process.stdout is not None
            while SHARED not in found and (line := process.stdout.readline()):
                words = shlex.split(line.removeprefix("export "))
                name, _, value = words[0].partition("=")
                if name == SHARED:
                    found[name] = value
            return found

        try:
            yield where
        finally:
            process.terminate()
            process.wait(_CLEAN_UP_S)


def _wait(pytest: subprocess.Popen[bytes]) -> int | None:
    """Wait for pytest's end and return its code, None when it had to be interrupted."""
    try:
        return pytest.wait(_LANE_TIMEOUT_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as reason:
        # Interrupted it ends what its tests have started; a terminal has interrupted it already.
        if isinstance(reason, subprocess.TimeoutExpired):
            pytest.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            pytest.wait(_CLEAN_UP_S)
        pytest.kill()
        if isinstance(reason, KeyboardInterrupt):
            raise
        return None


def _coverage_of_processes(directory: Path) -> dict[str, str]:
    """Return the environment in which every process measures itself, forked ones included.

    The settings are those of setup.cfg, with what such processes need: they are forked, and end
    with os._exit.
    """
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    for section in settings.sections():
        if not section.startswith("coverage:"):
            settings.remove_section(section)
    settings["coverage:run"]["patch"] = "_exit, fork"
    path = directory / "coverage.cfg"
    with path.open("w") as file:
        settings.write(file)
    return {"COVERAGE_PROCESS_START": str(path)}


def _coverage(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "coverage", *arguments], cwd=ROOT, check=False)


def main() -> int:
    """Run the lanes that were asked for, all of them if none was; 0 when nothing failed."""
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(prog="python -m tests.lanes", description=__doc__)
    parser.add_argument("--coverage", action="store_true", help="measure what the tests reach")
    parser.add_argument("lanes", nargs="*", metavar="LANE", help=", ".join(LANES))
    options = parser.parse_args(words[:split])
    if unknown := [lane for lane in options.lanes if lane not in LANES]:
        parser.error(f"no such lane: {', '.join(unknown)}; there are {', '.join(LANES)}")
    lanes = options.lanes or LANES

    # Absolute, because every process has a working directory of its own.
    os.environ["COVERAGE_FILE"] = str(ROOT / ".coverage")
    _coverage("erase")
    lines: list[str] = []
    total = Tally()
    with tempfile.TemporaryDirectory(prefix="leaderexec-coverage-") as directory:
        measured = _coverage_of_processes(Path(directory)) if options.coverage else {}
        for lane, tally in run_lanes(list(lanes), words[split + 1 :], measured).items():
            lines.append(f"{lane}: {tally} ({tally.took_s:.0f} s)")
            total.passed += tally.passed
            total.failed += tally.failed or bool(tally.trouble)  # the last line never hides it
            total.skipped += tally.skipped
    if options.coverage:
        _coverage("combine", "--quiet")
        _coverage("report")
    print(*lines, sep="\n")
    print(f"{total.passed} passed, {total.failed} failed, {total.skipped} skipped", flush=True)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
