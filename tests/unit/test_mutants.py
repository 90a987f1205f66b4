"""The mutants' own judge: what it calls killed is killed, and nothing else is.

Owns: a tiny tree in which one line decides, and tests of it that end in every way there is. The
catalogue is checked against the present source and tests here, so that it cannot rot unnoticed; to
try the mutants takes minutes and is `python -m tests.mutants`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import pytest

from leaderexec import __version__
from tests.mutants import __main__ as runner
from tests.mutants import cage, trial
from tests.mutants.catalogue import MUTANTS, NOT_CODE
from tests.mutants.edit import Edit, NotApplied, replaced
from tests.mutants.trial import (
    ROOT,
    Bench,
    Case,
    Interrupted,
    Mutant,
    Verdict,
    apply,
    copy,
    environment,
    judge,
    mutated,
    read_report,
)
from tests.support.candidate import is_gone
from tests.support.wait import wait_until

RULES: Final = {str(number) for number in range(1, 19)}
GUARANTEES: Final = {f"G{number}" for number in range(1, 7)}

# --- the catalogue ---------------------------------------------------------------------------


def test_every_mutant_applies_to_the_present_source_and_compiles() -> None:
    """Each code stands exactly once where it is said to, and what replaces it is a program."""
    for mutant in MUTANTS:
        for path, text in mutated(mutant, ROOT).items():
            assert text != (ROOT / "leaderexec" / path).read_text(), mutant.name
            compile(text, f"{mutant.name}: {path}", "exec")


def test_every_named_test_exists() -> None:
    """Pytest finds each of them, down to its parameters."""
    named = sorted({test for mutant in MUTANTS for test in mutant.tests})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    found = subprocess.run(
        [*command, *named], cwd=ROOT, env=environment(ROOT), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    missing = [line for line in found.stdout.splitlines() if line.startswith("ERROR")]
    assert found.returncode == 0, missing or found.stdout[-2000:]


def test_every_rule_has_a_mutant_or_a_reason() -> None:
    """Rules 1 to 18 and all guarantees; what is no code says so."""
    broken = {rule for mutant in MUTANTS for rule in mutant.rules}
    assert broken <= RULES | GUARANTEES
    assert broken | {str(rule) for rule in NOT_CODE} == RULES | GUARANTEES
    assert all(NOT_CODE.values())


def test_every_mutant_is_told_apart_and_judged() -> None:
    """Names are unique, and each has tests of a lane."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    for mutant in MUTANTS:
        assert mutant.tests, mutant.name
        assert all(re.match(r"tests/(unit|process|kube)/\w+\.py::", t) for t in mutant.tests)
        assert mutant.rules, mutant.name
        assert mutant.removes, mutant.name


# --- code that is found and replaced ---------------------------------------------------------

_SOURCE: Final = """
LIMIT = 3  # of all

class Guard:
    limit = LIMIT

    def check(self, asked):
        self.ask(asked, by=self.limit)
        if asked is None:
            return False  # nobody asked
        elif asked > self.limit:
            self.note(f"{asked} > {self.limit}")
            return False
        def note(asked):
            return not asked
        return asked

    def note(self, text):
        names = {"ä": "ö€𝄞", text: (text or
                                      LIMIT)}; return names

def check(asked):
    return asked is None
"""


def edited(function: str, old: str, new: str, source: str = _SOURCE) -> str:
    """Return the source in which this code of a function has become other code."""
    return replaced(Edit("guard.py", function, old, new), source)


def changed(before: str, after: str) -> str:
    """Return the source in which a text that stands there once has become another."""
    assert _SOURCE.count(before) == 1
    return _SOURCE.replace(before, after)


@pytest.mark.parametrize(
    ("function", "old", "new", "before", "after"),
    [
        ("Guard.check", "asked > self.limit", "False", "asked > self.limit:", "False:"),
        ("Guard.check", "by=self.limit", "by=0", "by=self.limit", "by=0"),
        ("Guard.check.note", "not asked", "a + b", "not asked", "(a + b)"),
        ("Guard.note", "text\nor LIMIT", "0", "text or\n" + " " * 38 + "LIMIT", "0"),
        ("Guard", "LIMIT", "4", "limit = LIMIT", "limit = 4"),
        ("", "LIMIT = 3", "", "LIMIT = 3", "pass"),
        ("check", "asked is None", "True", "return asked is None", "return True"),
    ],
)
def test_an_expression_is_replaced_and_no_other_text(
    function: str, old: str, new: str, before: str, after: str
) -> None:
    """What stands around it stays as it was, in the function that is named and nowhere else."""
    assert edited(function, old, new) == changed(before, after)


_IF: Final = """
    if asked > self.limit:
        self.note(f"{asked} > {self.limit}")
        return False
"""
_ELIF: Final = """        elif asked > self.limit:
            self.note(f"{asked} > {self.limit}")
            return False
"""


@pytest.mark.parametrize(
    ("function", "old", "new", "before", "after"),
    [
        ("Guard.check", "self.ask(asked, by=self.limit)", "",
         "self.ask(asked, by=self.limit)\n", "pass\n"),
        ("Guard.check", "self.ask(asked, by=self.limit)", "if asked:\n    a()\nb()",
         "self.ask(asked, by=self.limit)\n",
         "if asked:\n            a()\n        b()\n"),
        ("Guard.check", "self.note(f'{asked} > {self.limit}')\nreturn False", "return True",
         'self.note(f"{asked} > {self.limit}")\n            return False\n', "return True\n"),
        ("Guard.check", "def note(asked):\n    return not asked\nreturn asked", "",
         "def note(asked):\n            return not asked\n        return asked\n", "pass\n"),
        ("Guard.check", _IF, "", _ELIF, "        else:\n            pass\n"),
        ("Guard.check", _IF, "if asked:\n    a()", _ELIF,
         "        elif asked:\n            a()\n"),
        ("Guard.note", "return names", "", "return names", "pass"),
    ],
)  # fmt: skip
def test_statements_are_replaced_where_they_stand(
    function: str, old: str, new: str, before: str, after: str
) -> None:
    """A run of them is found in one body, and what replaces it is indented like it."""
    assert edited(function, old, new) == changed(before, after)


def test_only_the_code_counts() -> None:
    """A comment, a line break, other quotes or another place in the function change nothing."""
    function, old, new = "f", 'ask(a, "b")', 'tell("ä")'
    for body in (
        "    x = 1\n    {}\n",
        "    {}  # why\n    x = 1\n",
        "    with x:\n        # because\n        if a: {}\n",
    ):
        for written in (
            'ask(a, "b")',
            "ask(a, 'b')",
            "ask(  # it\n        a,\n        'b',\n    )",
        ):
            source = "def f():\n" + body
            found = edited(function, old, new, source.format(written))
            assert found == source.format('tell("ä")')


def test_columns_are_counted_in_bytes() -> None:
    """What is not ASCII before a match or in it shifts nothing."""
    found = edited("Guard.note", '"ö€𝄞"', '"ß"')
    assert found == changed('"ä": "ö€𝄞", text', '"ä": "ß", text')
    found = edited("Guard.note", "text or LIMIT", "0")
    assert '{"ä": "ö€𝄞", text: (0)}; return names\n' in found


@pytest.mark.parametrize(
    ("function", "old", "why"),
    [
        ("Guard.check", "return False", "2 places in Guard.check of leaderexec/guard.py match"),
        ("Guard.check", "text", "0 places in Guard.check of leaderexec/guard.py match"),
        ("Guard", "return False", "0 places in Guard of leaderexec/guard.py match"),
        ("", "return False", "0 places in leaderexec/guard.py match"),
        ("Guard.sleep", "asked", "there is no Guard.sleep in leaderexec/guard.py"),
        ("note", "asked", "there is no note in leaderexec/guard.py"),
    ],
)
def test_what_is_not_there_once_is_refused(function: str, old: str, why: str) -> None:
    """The message says how many places match, in which function, and what was looked for."""
    with pytest.raises(NotApplied, match=re.escape(why)) as refused:
        edited(function, old, "None")
    assert "match" not in why or str(refused.value).endswith(f", not one: {old}")


def test_text_that_would_be_another_program_is_refused() -> None:
    """What cannot stand where the old code stood is found out by reading the result."""
    source = "def f():\n    if x: a(); b()\n"
    with pytest.raises(NotApplied, match=r"guard\.py cannot be changed here: a\(\)"):
        edited("f", "a()", "if y:\n    c()", source)


# --- the judge, on a tree where one line decides ---------------------------------------------

_RULE: Final = """
def safe() -> bool:
    return True

def check() -> None:
    assert safe()
"""
_TESTS: Final = """
import os, signal, subprocess
from pathlib import Path
import pytest
from leaderexec import rule

@pytest.fixture
def fixture():
    assert rule.safe()

@pytest.fixture
def ending():
    yield
    assert rule.safe()

def test_that_asserts(): assert rule.safe()
def test_that_asserts_too(): assert rule.safe()
def test_that_expects_an_error():
    with pytest.raises(ZeroDivisionError):
        1 / (0 if rule.safe() else 1)
def test_that_does_not_look(): pass
def test_that_breaks_in_its_fixture(fixture): pass
def test_that_breaks_at_its_end(ending): pass
def test_that_raises():
    if not rule.safe(): raise RuntimeError
def test_of_what_asserts_itself(): rule.check()
def test_that_is_skipped():
    if not rule.safe(): pytest.skip("not here")
def test_that_hangs():
    if not rule.safe(): signal.pause()
def test_that_takes_pytest_along():
    if not rule.safe(): os._exit(1)
def test_beside_a_defect(tmp_path):
    if not rule.safe():
        (tmp_path / "a.log").write_text('{"event": "internal error", "error": "NameError: x"}')
    assert rule.safe()
def test_of_another_module(): assert "safe" not in Path("leaderexec/unused.py").read_text()
def test_that_leaves_a_process():
    if not rule.safe():
        left = subprocess.Popen(["sleep", "600"], start_new_session=True)
        Path(os.environ["LEFT"]).write_text(f"{left.pid} {os.getpid()}")
        signal.pause()
"""
_UNSAFE: Final = Edit("rule.py", "safe", "return True", "return False")
_HERE: Final = "tests/unit/test_rule.py::"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench for the tiny tree."""
    source = tmp_path / "source"
    for folder in ("leaderexec", "tests/unit"):
        (source / folder).mkdir(parents=True)
        (source / folder / "__init__.py").touch()
    (source / "tests" / "__init__.py").touch()
    (source / "setup.cfg").write_text("[tool:pytest]\n")
    (source / "leaderexec" / "rule.py").write_text(_RULE)
    (source / "leaderexec" / "unused.py").touch()
    (source / "tests" / "unit" / "test_rule.py").write_text(_TESTS)
    (tmp_path / "bench").mkdir()
    return Bench(tmp_path / "bench", source)


def unsafe(*tests: str, edit: Edit = _UNSAFE) -> Mutant:
    """Return the mutant whose rule does not hold, with these tests of the tiny tree."""
    return Mutant("unsafe", ("1",), "all", (edit,), tuple(_HERE + test for test in tests))


def test_a_mutant_whose_tests_fail_is_killed(bench: Bench) -> None:
    """Each of the named tests failed by an assertion of its own; the tree is gone after it."""
    mutant = unsafe("test_that_asserts", "test_that_asserts_too", "test_that_expects_an_error")
    result = bench.try_mutant(mutant)
    assert (result.verdict, result.why) == (Verdict.KILLED, "")
    assert "3 failed" in result.output
    assert [path.name for path in bench.directory.iterdir()] == ["pristine"]


@pytest.mark.parametrize(
    ("tests", "verdict", "why"),
    [
        (["test_that_asserts", "test_that_does_not_look"], Verdict.SURVIVED, "does_not_look"),
        (["test_that_asserts", "test_of_what_asserts_itself"], Verdict.ERRORED, "rule.py"),
        (["test_that_takes_pytest_along"], Verdict.ERRORED, "pytest ended with 1 and 0 tests"),
        (["test_beside_a_defect"], Verdict.ERRORED, "internal error"),
        (["test_that_is_not_there"], Verdict.ERRORED, "pytest ended with 4"),
    ],
)
def test_what_is_no_kill_is_told_apart(
    bench: Bench, tests: list[str], verdict: Verdict, why: str
) -> None:
    """One test that passes, breaks, crashes or is missing, or a process with a defect, decides."""
    result = bench.try_mutant(unsafe(*tests))
    assert result.verdict is verdict
    assert why in result.why


def test_every_end_of_a_test_is_read(bench: Bench) -> None:
    """A report tells failures by an assertion of the tests from all else."""
    place = bench.directory / "1"
    copy(bench.pristine, place / "tree")
    apply(unsafe(), place / "tree")
    fatal = ("hangs", "takes_pytest", "leaves_a_process")
    names = [name for name in re.findall(r"def (test_\w+)", _TESTS) if not name.endswith(fatal)]
    tests = [_HERE + name for name in names if not any(word in name for word in fatal)]
    assert bench._run(place, tests, 60) == 1
    cases = read_report(place / "report.xml")
    ends = {case.name: case.end for case in cases}
    assert {name for name, end in ends.items() if end == "failed"} == {
        "test_that_asserts",
        "test_that_asserts_too",
        "test_that_expects_an_error",
        "test_beside_a_defect",
    }
    assert {name for name, end in ends.items() if end == "passed"} == {
        "test_that_does_not_look",
        "test_of_another_module",
    }
    assert {name for name, end in ends.items() if end == "skipped"} == {"test_that_is_skipped"}
    assert {name for name, end in ends.items() if end == "errored"} == {
        "test_that_breaks_in_its_fixture",
        "test_that_breaks_at_its_end",
        "test_that_raises",
        "test_of_what_asserts_itself",
    }


@pytest.mark.parametrize(
    ("code", "ends", "verdict"),
    [
        (1, ["failed", "failed"], Verdict.KILLED),
        (1, ["failed"], Verdict.ERRORED),
        (1, ["failed", "passed"], Verdict.SURVIVED),
        (0, ["passed", "passed"], Verdict.SURVIVED),
        (1, ["failed", "errored"], Verdict.ERRORED),
        (1, ["failed", "skipped"], Verdict.SKIPPED),
        (0, ["skipped", "passed"], Verdict.SKIPPED),
        (1, ["errored", "skipped", "passed"], Verdict.ERRORED),
        (2, ["failed", "failed"], Verdict.ERRORED),
        (137, ["failed", "failed"], Verdict.ERRORED),
        (cage.TIMED_OUT, ["failed", "failed"], Verdict.TIMED_OUT),
    ],
)
def test_only_failures_of_all_tests_are_a_kill(
    code: int, ends: list[str], verdict: Verdict
) -> None:
    """Of two named tests both must fail, in a pytest that came to its end."""
    assert judge(code, [Case("test", end) for end in ends], 2).verdict is verdict


def test_a_mutant_that_hangs_is_no_kill(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that is not at its end in time has not failed."""
    monkeypatch.setitem(trial._BOUNDS_S, "unit", 3.0)
    assert bench.try_mutant(unsafe("test_that_hangs")).verdict is Verdict.TIMED_OUT


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (
            Edit("rule.py", "safe", "x()", "True"),
            "0 places in safe of leaderexec/rule.py match, not one: x()",
        ),
        (Edit("rule.py", "sure", "True", "False"), "there is no sure in leaderexec/rule.py"),
        (Edit("none.py", "safe", "True", "False"), "there is no leaderexec/none.py"),
        (Edit("rule.py", "safe", "return (", ""), "this is no code, or not of one kind: return ("),
    ],
)
def test_a_mutant_that_does_not_apply_is_no_kill(bench: Bench, edit: Edit, why: str) -> None:
    """Where code, function or file is not there, the mutant is named and nothing is run."""
    result = bench.try_mutant(unsafe("test_that_asserts", edit=edit))
    assert result.verdict is Verdict.NOT_APPLIED
    assert result.why.startswith(f"mutant unsafe: {why}")
    assert not result.output


def test_a_mutant_that_nobody_imports_is_no_kill(bench: Bench) -> None:
    """A failure says nothing about a module that did not run."""
    (bench.pristine / "leaderexec" / "unused.py").write_text("x = 1\n")
    mutant = unsafe("test_of_another_module", edit=Edit("unused.py", "", "x = 1", "safe = 1"))
    result = bench.try_mutant(mutant)
    assert (result.verdict, result.why) == (Verdict.ERRORED, "nobody imported unused.py")


def test_the_control_passes_only_if_every_test_does(bench: Bench) -> None:
    """Without a mutant the named tests pass, or the mutants that they judge prove nothing."""
    fine = [_HERE + name for name in ("test_that_asserts", "test_that_hangs")]
    assert bench.try_control(fine).verdict is Verdict.SURVIVED
    apply(unsafe(), bench.pristine)
    result = bench.try_control([_HERE + "test_that_asserts", _HERE + "test_that_does_not_look"])
    assert result.verdict is Verdict.ERRORED
    assert "test_that_asserts" in result.why


def test_an_interruption_leaves_nothing_running(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the bench closes, its pytest ends, and what a test has hidden in another session too."""
    left = tmp_path / "left"
    monkeypatch.setenv("LEFT", str(left))
    interrupted: list[BaseException] = []

    def attempt() -> None:
        try:
            bench.try_mutant(unsafe("test_that_leaves_a_process"))
        except Interrupted as error:
            interrupted.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    wait_until(lambda: left.exists() and left.read_text(), timeout_s=60, what="it has begun")
    pids = [int(word) for word in left.read_text().split()]
    assert not any(is_gone(pid) for pid in pids)
    bench.close()
    thread.join(60)
    assert len(interrupted) == 1
    assert all(is_gone(pid) for pid in pids)
    with pytest.raises(Interrupted):
        bench.try_mutant(unsafe("test_that_asserts"))


# --- the real tree ---------------------------------------------------------------------------

_BOTH: Final = """
import sys
from pathlib import Path
import leaderexec
from tests.support.candidate import Candidate
candidate = Candidate("a", ["--version"], [], Path(sys.argv[1])).start()
assert candidate.wait() == 0
print(leaderexec.__version__, candidate.output)
"""


def test_tests_and_candidates_run_what_was_mutated(tmp_path: Path) -> None:
    """The tree wins over the editable install, in pytest and in every process of a candidate."""
    copy(ROOT, tmp_path / "tree")
    edit = Edit("__init__.py", "", f'"{__version__}"', f'"mutant-of-{__version__}"')
    apply(unsafe(edit=edit), tmp_path / "tree")
    done = subprocess.run(
        [sys.executable, "-c", _BOTH, str(tmp_path)],
        cwd="/",
        env=environment(tmp_path / "tree"),
        capture_output=True,
        text=True,
        check=True,
    )
    in_tests, command, in_candidate = done.stdout.split()
    assert command == "leaderexec"
    assert in_tests == in_candidate
    assert in_tests.startswith("mutant-of-")
    assert trial.was_imported(tmp_path / "tree", "__init__.py")


def test_nothing_of_ours_points_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that change what Python or pytest load do not reach a trial."""
    for name in ("PYTHONSTARTUP", "PYTEST_ADDOPTS", "COVERAGE_PROCESS_START", "LEADEREXEC_SEED"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("LEADEREXEC_TEST_CACHE", "kept")
    found = environment(Path("/tree"))
    assert found["PYTHONPATH"] == "/tree"
    assert found["LEADEREXEC_TEST_CACHE"] == "kept"
    assert found["PATH"] == os.environ["PATH"]
    assert "x" not in found.values()


# --- the command -----------------------------------------------------------------------------


def test_a_word_chooses_by_name_rule_file_or_test() -> None:
    """-k finds what a person would look for, and without it all are meant."""
    assert runner.chosen(MUTANTS, "") == list(MUTANTS)
    assert {m.rules for m in runner.chosen(MUTANTS, "rule 17")} == {("17",)}
    assert runner.chosen(MUTANTS, "vigil.py")
    assert runner.chosen(MUTANTS, "test_stopping_is_irrevocable")
    (one,) = runner.chosen(MUTANTS, "no-hundredth")
    assert runner.control_of([one, one]) == {"tests/unit/test_model.py": [*one.tests]}


def test_the_list_shows_and_tries_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """--list names the mutants, their rules and tests, and how many there are."""
    assert runner.main(["--list", "-k", "rule 18"]) == 0
    text = capsys.readouterr().out
    assert "rule 18" in text
    assert "test_config.py::test_defaults" in text
    assert text.endswith("1 mutants\n")


@pytest.mark.parametrize("well", [True, False])
def test_the_last_line_counts_and_the_code_tells(
    bench: Bench, well: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 only if the control passes and every mutant is killed; what is wrong is shown."""
    monkeypatch.setattr(runner, "Bench", lambda _: bench)
    tests = ["test_that_asserts"] if well else ["test_that_does_not_look"]
    mutants = [unsafe("test_that_asserts_too"), unsafe(*tests)]
    assert runner.run(mutants, 2, bench.directory) == (0 if well else 1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith(
        f"2 mutants: {2 if well else 1} killed, {0 if well else 1} survived"
    )
    assert lines[-1].endswith("control: 2 named tests passed")
    assert any(line.startswith("control passes") for line in lines)
    assert any("test_that_does_not_look" in line for line in lines) is not well


def test_nothing_chosen_is_not_well(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word that finds no mutant does not pass for success."""
    monkeypatch.setattr(runner, "Bench", lambda _: bench)
    assert runner.run([], 1, bench.directory) == 1
