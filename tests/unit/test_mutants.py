"""The catalogue of mutants is true of the present source and of the present tests.

To try the mutants takes minutes and is `python -m tests.mutants`.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from typing import Final

from tests.mutants.catalogue import RULES
from tests.mutants.trial import ROOT, environment, mutated

MUTANTS: Final = [mutant for rule in RULES for mutant in rule.mutants]


def test_every_mutant_applies_to_the_present_source_and_compiles() -> None:
    """Each code stands exactly once where it is said to, and what replaces it is a program."""
    for mutant in MUTANTS:
        for path, text in mutated(mutant, ROOT).items():
            before = ast.parse((ROOT / "leaderexec" / path).read_text())
            assert ast.dump(ast.parse(text)) != ast.dump(before), mutant.name
            compile(text, f"{mutant.name}: {path}", "exec")


def test_every_named_test_exists() -> None:
    """Pytest finds each of them, down to its parameters."""
    named = sorted({test for mutant in MUTANTS for test in mutant.tests})
    assert all(re.match(r"tests/(unit|process|kube)/\w+\.py::", test) for test in named)
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    found = subprocess.run(
        [*command, *named],
        cwd=ROOT,
        env=environment(ROOT),
        capture_output=True,
        text=True,
        check=False,
    )
    missing = [line for line in found.stdout.splitlines() if line.startswith("ERROR")]
    assert found.returncode == 0, missing or found.stdout[-2000:]


def test_every_rule_has_a_mutant_or_a_reason() -> None:
    """All rules and guarantees in their order, each with a sentence; mutants are told apart."""
    names = [*(str(number) for number in range(1, 19)), *(f"G{number}" for number in range(1, 7))]
    assert [rule.name for rule in RULES] == names
    for rule in RULES:
        assert rule.says.endswith(".")
        assert rule.mutants or rule.without
    for mutant in MUTANTS:
        assert mutant.removes, mutant.name
        assert mutant.tests, mutant.name
        assert set(mutant.rules) <= set(names), mutant.name
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
