"""Tries the mutants: `python -m tests.mutants [-k WORD] [--jobs N] [--list]`.

Owns: the order, the table on standard output and its last line, a count. First the control, which
is every named test on what is not mutated; then each mutant. All is well, and the exit code 0, when
the control passes and every mutant is killed: see `trial`.
Must not know: how one of them is tried.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.mutants.catalogue import MUTANTS
from tests.mutants.trial import Bench, Interrupted, Result, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from tests.mutants.trial import Mutant

#: How much is shown of what pytest printed when something is not as it should be.
_SHOWN_LINES: Final = 40


def chosen(mutants: Sequence[Mutant], word: str) -> list[Mutant]:
    """Return those that have `word` in their name, rule, file or test; all if it is empty."""
    return [mutant for mutant in mutants if word in _haystack(mutant)]


def _haystack(mutant: Mutant) -> str:
    paths = [edit.path for edit in mutant.edits]
    return " ".join([mutant.name, rules_of(mutant), mutant.removes, *paths, *mutant.tests])


def rules_of(mutant: Mutant) -> str:
    """Return which rules and guarantees a mutant breaks, as people call them."""
    return ", ".join(f"rule {rule}" if rule.isdigit() else rule for rule in mutant.rules)


def control_of(mutants: Sequence[Mutant]) -> dict[str, list[str]]:
    """Return the named tests, each once, by their files."""
    files: dict[str, list[str]] = {}
    for test in dict.fromkeys(test for mutant in mutants for test in mutant.tests):
        files.setdefault(test.partition("::")[0], []).append(test)
    return files


def run(mutants: Sequence[Mutant], jobs: int, directory: Path) -> int:
    """Try everything, print the table, and return the exit code."""
    bench = Bench(directory)
    well = True
    counts: Counter[Verdict] = Counter()
    passed = 0
    troubles: list[tuple[str, Result]] = []
    with ThreadPoolExecutor(jobs) as pool:
        what: dict[Future[Result], Mutant | tuple[str, list[str]]] = {}
        # The longest first, so that no job is left alone with it at the end.
        for name, tests in sorted(control_of(mutants).items(), key=_longest_first):
            what[pool.submit(_quiet(bench.try_control), tests)] = (name, tests)
        for mutant in mutants:
            what[pool.submit(_quiet(bench.try_mutant), mutant)] = mutant
        try:
            for future in as_completed(what):
                result, subject = future.result(), what[future]
                if isinstance(subject, tuple):
                    name, tests = subject
                    fine = result.verdict is Verdict.SURVIVED
                    passed += len(tests) if fine else 0
                    verdict = "control passes" if fine else "control failed"
                    row = (verdict, result.took_s, f"{len(tests)} named", name, "")
                else:
                    name = subject.name
                    fine = result.verdict is Verdict.KILLED
                    counts[result.verdict] += 1
                    row = (
                        result.verdict.value, result.took_s, rules_of(subject), name,
                        subject.removes,
                    )  # fmt: skip
                print(_line(*row), flush=True)
                if not fine:
                    well = False
                    troubles.append((name, result))
        except BaseException:
            for future in what:
                future.cancel()
            bench.close()
            raise
    for name, result in troubles:
        printed = "\n".join(f"    {x}" for x in result.output.splitlines()[-_SHOWN_LINES:])
        print(f"\n{name}: {result.verdict.value}: {result.why}\n{printed}")
    parts = [f"{counts[verdict]} {verdict.value}" for verdict in Verdict]
    print(f"{len(mutants)} mutants: {', '.join(parts)}; control: {passed} named tests passed")
    return 0 if well and mutants else 1


def _longest_first(control: tuple[str, list[str]]) -> tuple[bool, int]:
    name, tests = control
    return name.startswith("tests/unit/"), -len(tests)


def _quiet(trial: Callable[..., Result]) -> Callable[..., Result]:
    """Return `trial`, which is of no interest any more once all is being interrupted."""

    def tried(*args: object) -> Result:
        with contextlib.suppress(Interrupted):
            return trial(*args)
        return Result(Verdict.ERRORED, "interrupted")

    return tried


def _line(verdict: str, took_s: float, rules: str, name: str, removes: str) -> str:
    return f"{verdict:<15} {took_s:5.0f} s  {rules:<14} {name:<46} {removes}".rstrip()


def main(argv: Sequence[str]) -> int:
    """Do what the words say."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("-k", default="", metavar="WORD", help="only those that have it somewhere")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="at once (2)")
    parser.add_argument("--list", action="store_true", help="show them and try none")
    options = parser.parse_args(argv)
    mutants = chosen(MUTANTS, options.k)
    if options.list:
        for mutant in mutants:
            print(f"{rules_of(mutant):<14} {mutant.name:<46} {mutant.removes}")
            print(*(f"    {test}" for test in mutant.tests), sep="\n")
        print(f"{len(mutants)} mutants")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="lx-") as directory:
        try:
            return run(mutants, options.jobs, Path(directory))
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
