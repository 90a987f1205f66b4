"""Runs the lanes and counts: `python -m tests.lanes [--coverage] [LANE...] [-- ARG...]`.

Owns: which lanes there are, how many workers each has, what counts as a failure of a whole lane,
and the last line, `N passed, N failed, N skipped`. A lane in which nothing ran has failed, unless
its tests said why they cannot run here; with `LEADEREXEC_REQUIRE_ALL=1` a single skipped test is a
failure.
Must not know: what is tested.

A lane is one pytest whose workers share its tests, and after it a second one, without workers, for
the tests that are marked `alone`: they keep the machine too busy for the timing of any other test.

Coverage is measured with `--coverage` only, because it makes the start of every candidate slower;
each process that leaderexec forks then measures itself, but for those that are killed.
"""

from __future__ import annotations

import argparse
import configparser
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support import environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT: Final = Path(__file__).resolve().parents[1]
#: The lanes, and the workers of each for one processor: none waits in the unit lane, nearly all do
#: in the others. A container's storage takes one change at a time.
LANES: Final = {"unit": 1, "process": 2, "kube": 2, "container": 0}
#: A lane that takes longer hangs; long before that, pytest shows where a test does.
_LANE_TIMEOUT_S: Final = 3600
_TEST_TIMEOUT_S: Final = 600
_CLEAN_UP_S: Final = 60
_NOTHING: Final = "no test was found"


@dataclass
class Tally:
    """How the tests of a lane ended; `trouble` is what no single test can tell."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    trouble: str = ""

    @property
    def ran(self) -> int:
        """How many tests came to a verdict."""
        return self.passed + self.failed

    def __str__(self) -> str:
        """Say what ran, or why nothing did."""
        if not self.ran and self.skipped:
            text = f"skipped: {self._reason()}"
        else:
            text = f"ran {self.ran}"
            if self.skipped:
                text += f", skipped {self.skipped} ({self._reason()})"
        return f"{text}; failed: {self.trouble}" if self.trouble else text

    def _reason(self) -> str:
        ((reason, number),) = self.reasons.most_common(1)
        return reason if number == self.skipped else f"{reason}, and other reasons"


def read_report(path: Path) -> Tally:
    """Count the tests in a JUnit report: each once, by the worst that was said of it."""
    tally = Tally()
    try:
        suites = ET.parse(path).getroot()
    except (OSError, ET.ParseError):
        tally.trouble = "pytest left no report"
        return tally
    verdicts: dict[tuple[str, str], str] = {}
    for case in suites.iter("testcase"):
        name = (case.get("classname", ""), case.get("name", ""))
        verdict = "passed"
        if case.find("failure") is not None or case.find("error") is not None:
            verdict = "failed"
        elif (skip := case.find("skipped")) is not None and skip.get("type") == "pytest.skip":
            verdict = "skipped"
            tally.reasons[" ".join(skip.get("message", "").split()) or "no reason given"] += 1
        if verdicts.get(name) != "failed":
            verdicts[name] = verdict
    counts = Counter(verdicts.values())
    tally.passed, tally.failed, tally.skipped = (
        counts[verdict] for verdict in ("passed", "failed", "skipped")
    )
    return tally


def judge(tally: Tally, code: int | None, *, require_all: bool) -> Tally:
    """Add what the counts alone do not say: how pytest ended, and that nothing ran."""
    if code is None:
        tally.trouble = f"not at its end after {_LANE_TIMEOUT_S} s"
    elif code not in {0, 1, 5} or (code == 1 and not tally.failed):
        tally.trouble = f"pytest ended with {code}"
    elif not tally.trouble and not tally.ran and not tally.skipped:
        tally.trouble = _NOTHING
    elif not tally.trouble and tally.skipped and require_all:
        tally.trouble = "skipped tests, and all are required"
    return tally


def run_lane(lane: str, arguments: Sequence[str], measured: Mapping[str, str]) -> Tally:
    """Run one lane, with `measured` in its environment: what has workers, then what is alone."""
    workers = LANES[lane] * len(os.sched_getaffinity(0))
    shared = ["-m", "not alone"]
    if workers:
        # One group of tests, such as those of one image, stays with one worker.
        shared += [f"--numprocesses={workers}", "--dist=loadgroup"]
    tally = _run_pytest(lane, [*shared, *arguments], measured)
    alone = _run_pytest(lane, ["-m", "alone", *arguments], measured)
    tally.passed += alone.passed
    tally.failed += alone.failed
    tally.skipped += alone.skipped
    tally.reasons += alone.reasons
    # A selection may leave one of the two without a test, but not both.
    troubles = {tally.trouble, alone.trouble} - {""}
    tally.trouble = "; ".join(
        sorted(troubles - {_NOTHING} if tally.ran or tally.skipped else troubles)
    )
    return tally


def _run_pytest(lane: str, arguments: Sequence[str], measured: Mapping[str, str]) -> Tally:
    with tempfile.TemporaryDirectory(prefix="leaderexec-lane-") as directory:
        report = Path(directory) / "report.xml"
        command = [
            sys.executable, "-m", "pytest", f"tests/{lane}", f"--junit-xml={report}",
            "--durations=5", f"--override-ini=faulthandler_timeout={_TEST_TIMEOUT_S}", *arguments,
        ]  # fmt: skip
        variables = dict(os.environ)
        environment.clean_variables(variables)
        with subprocess.Popen(command, cwd=ROOT, env=variables | dict(measured)) as pytest:
            code = _wait(pytest)
        require_all = os.environ.get("LEADEREXEC_REQUIRE_ALL") == "1"
        return judge(read_report(report), code, require_all=require_all)


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
        for lane in lanes:
            measured = _coverage_of_processes(Path(directory)) if options.coverage else {}
            started_s = time.monotonic()
            tally = run_lane(lane, words[split + 1 :], measured)
            lines.append(f"{lane}: {tally} ({time.monotonic() - started_s:.0f} s)")
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
