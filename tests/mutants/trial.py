"""One mutant on trial: a tree of its own, the named tests in it, and what their report says.

A mutant is killed when each of its tests failed by an assertion of the tests, while it ran. All
else is told apart and is no kill: see `Verdict`, `_case` and `_doubted`. The mutated tree comes
first on the path, before the editable install.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.mutants import cage
from tests.mutants.edit import NotApplied, replaced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.mutants.edit import Edit

ROOT: Final = Path(__file__).resolve().parents[2]

#: How long the tests of one mutant may take, and how much longer for each test of a control.
_BOUND_S, _EACH_S = 900, 30
_NOT_COPIED: Final = ("__pycache__", "build", "dist", "*.egg-info", ".*")
#: Of the environment a test run gets nothing that points to another tree.
_HIDDEN: Final = ("PYTHON", "PYTEST", "COVERAGE", "HYPOTHESIS", "LEADEREXEC_")
_KEPT: Final = frozenset({"LEADEREXEC_TEST_CACHE"})

#: How the text of a failure ends: where it was raised, and what.
_RAISED: Final = re.compile(r"^(\S+):\d+: (\w+)\s*\Z", re.MULTILINE)
_ASSERTIONS: Final = frozenset({"AssertionError", "Failed"})
#: What a process says that broke by a defect: such a mutant would prove nothing about a rule.
_DEFECT: Final = re.compile(
    rb"internal error.*?(?:Assertion|Attribute|Index|Key|Name|Type|UnboundLocal|Value)Error"
    rb"|internal error.*?IllegalTransition"
)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A leaderexec without one line, and the tests that must fail then.

    `rules` are numbers of DESIGN's safety rules, or names of its guarantees; `removes` says in a
    few words what is gone. More than one edit is needed where two lines do the same.
    """

    name: str
    rules: tuple[str, ...]
    removes: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


class Verdict(Enum):
    """What became of a mutant, or of the control."""

    KILLED = "killed"
    SURVIVED = "survived"
    ERRORED = "errored"
    TIMED_OUT = "timed out"
    SKIPPED = "skipped"
    NOT_APPLIED = "does not apply"
    CONTROL = "control passes"


@dataclass(frozen=True, slots=True)
class Result:
    """A verdict, why if it is no kill, how long it took, and what pytest printed."""

    verdict: Verdict
    why: str = ""
    took_s: float = 0.0
    output: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """How one test ended: `passed`, `skipped`, `errored`, or `failed` by an assertion of tests."""

    name: str
    end: str
    why: str = ""


class Bench:
    """Where trials take place: a copy of everything, and what ends the runs that are under way."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count()
        # Once, so that all trials judge the same tree, whatever is edited meanwhile.
        self._pristine = directory / "pristine"
        copy(ROOT, self._pristine)
        # Standard input of every cage: its end, also by the death of this process, ends them all.
        self._stop, self._hold = os.pipe()

    def close(self) -> None:
        """End all runs, and any other as soon as it begins."""
        os.close(self._hold)

    def attempt(self, mutant: Mutant) -> Result:
        """Apply a mutant to a tree of its own, run its tests there, and judge.

        Without an edit it is the control: all of its tests must pass.
        """
        started_s = time.monotonic()
        place = self._directory / str(next(self._numbers))  # short: messages cut long paths
        tree = place / "tree"
        bound_s = _BOUND_S + (0 if mutant.edits else _EACH_S * len(mutant.tests))
        copy(self._pristine, tree)
        try:
            for path, text in mutated(mutant, tree).items():
                (tree / "leaderexec" / path).write_text(text)
            run = subprocess.run(
                [
                    *(sys.executable, "-m", cage.__name__, str(bound_s), str(tree)),
                    *(
                        sys.executable,
                        "-m",
                        "pytest",
                        *mutant.tests,
                        "-q",
                        "-p",
                        "no:cacheprovider",
                    ),
                    *(f"--junit-xml={place / 'report.xml'}", f"--basetemp={place / 't'}"),
                    "--override-ini=junit_logging=no",
                ],
                cwd=ROOT,
                env=environment(tree),
                stdin=self._stop,
                stdout=(place / "output").open("wb"),
                stderr=subprocess.STDOUT,
                start_new_session=True,
                check=False,
            )
            result = judge(run.returncode, read_report(place / "report.xml"), mutant)
            if result.verdict is Verdict.KILLED:
                result = _doubted(result, mutant, place)
            printed = (place / "output").read_text(errors="replace")
        except NotApplied as error:
            return Result(Verdict.NOT_APPLIED, str(error))
        finally:
            shutil.rmtree(place, ignore_errors=True)
        took_s = time.monotonic() - started_s
        return Result(result.verdict, result.why, took_s, printed)


def _doubted(result: Result, mutant: Mutant, place: Path) -> Result:
    """Take back a kill whose tests ran another module, or a process with a defect of its own."""
    for edit in mutant.edits:
        source = place / "tree" / "leaderexec" / edit.path
        if not any(source.parent.glob(f"__pycache__/{source.stem}.*.pyc")):
            return Result(Verdict.ERRORED, f"nobody imported {edit.path}")
    for log in place.glob("t/**/*.log"):
        if found := _DEFECT.search(log.read_bytes()):
            return Result(Verdict.ERRORED, found[0].decode(errors="replace"))
    return result


def copy(source: Path, target: Path) -> None:
    """Copy a tree without what was compiled in it: that would name files of the other."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*_NOT_COPIED), symlinks=True)


def mutated(mutant: Mutant, tree: Path) -> dict[str, str]:
    """Return the new texts of the files that a mutant changes, by their paths in leaderexec.

    Raise NotApplied, with the name of the mutant, if there is not one place for each edit.
    """
    texts: dict[str, str] = {}
    for edit in mutant.edits:
        source = tree / "leaderexec" / edit.path
        try:
            if not source.exists():
                raise NotApplied(f"there is no leaderexec/{edit.path}")
            texts[edit.path] = replaced(edit, texts.get(edit.path) or source.read_text())
        except NotApplied as error:
            raise NotApplied(f"mutant {mutant.name}: {error}") from error
    return texts


def environment(tree: Path) -> dict[str, str]:
    """Return the environment of a test run in which `leaderexec` and `tests` are those of `tree`.

    The cage gets it too and imports what lies in its own directory, which comes first.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or not name.startswith(_HIDDEN)
    }
    return {**kept, "PYTHONPATH": str(tree)}


def read_report(path: Path) -> list[Case]:
    """Read how each test in a JUnit report ended; nothing if there is none.

    A test that failed stays a failed one, whatever it then left behind.
    """
    try:
        suites = ET.parse(path).getroot()
    except (OSError, ET.ParseError):
        return []
    cases: dict[tuple[str, str], Case] = {}
    for element in suites.iter("testcase"):
        key = (element.get("classname", ""), element.get("name", ""))
        if key not in cases or cases[key].end != "failed":
            cases[key] = _case(element)
    return [*cases.values()]


def _case(case: ET.Element) -> Case:
    name = case.get("name", "")
    if (error := case.find("error")) is not None:  # outside of the call
        return Case(name, "errored", error.get("message", ""))
    if (skip := case.find("skipped")) is not None:
        return Case(name, "skipped", skip.get("message", ""))
    if (failure := case.find("failure")) is None:
        return Case(name, "passed")
    where = _RAISED.search(failure.text or "")
    if where and where[1].startswith("tests/") and where[2] in _ASSERTIONS:
        return Case(name, "failed")
    raised = f"{where[2]} in {where[1]}" if where else failure.get("message", "")
    return Case(name, "errored", f"not an assertion of the tests: {raised}")


def judge(code: int, cases: Sequence[Case], mutant: Mutant) -> Result:
    """Return what pytest's exit code and report mean for a mutant, or for the control."""
    if code == cage.TIMED_OUT:
        return Result(Verdict.TIMED_OUT, "not at its end in time")
    if code not in {0, 1} or len(cases) < len(mutant.tests):
        return Result(Verdict.ERRORED, f"pytest ended with {code} and {len(cases)} tests")
    verdicts = {
        "errored": Verdict.ERRORED,
        "skipped": Verdict.SKIPPED,
        "passed": Verdict.SURVIVED,
        "failed": Verdict.ERRORED,
    }
    for case in cases:
        if case.end != ("failed" if mutant.edits else "passed"):
            why = ": ".join([case.name, case.end, *case.why.splitlines()[:1]])
            return Result(verdicts[case.end], why)
    return Result(Verdict.KILLED if mutant.edits else Verdict.CONTROL)
