"""Tries the mutants: `python -m tests.mutants [-k WORD] [--jobs N] [--list]`.

First the control, which is every named test on what is not mutated; then each mutant. The exit code
is 0 when the control passes and every mutant is killed: see `trial`.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.mutants.catalogue import RULES
from tests.mutants.trial import Bench, Mutant, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.mutants.trial import Result

#: How much is shown of what pytest printed when something is not as it should be.
_SHOWN_LINES: Final = 40


def chosen(word: str) -> list[Mutant]:
    """Return the mutants that have `word` in their name, rule, file or test; all if it is empty."""
    return [
        mutant
        for rule in RULES
        for mutant in rule.mutants
        if word in " ".join([_line(mutant), *mutant.tests, *(edit.path for edit in mutant.edits)])
    ]


def controls(mutants: Sequence[Mutant]) -> list[Mutant]:
    """Return for each file its named tests, to be run without a mutation; the slowest first."""
    files: dict[str, list[str]] = {}
    for test in dict.fromkeys(test for mutant in mutants for test in mutant.tests):
        files.setdefault(test.partition("::")[0], []).append(test)
    order = sorted(files, key=lambda name: (name.startswith("tests/unit/"), -len(files[name])))
    return [Mutant(name, (), f"{len(files[name])} named", (), tuple(files[name])) for name in order]


def run(mutants: Sequence[Mutant], jobs: int, directory: Path) -> int:
    """Try everything, print the table, and return the exit code."""
    bench = Bench(directory)
    counts: Counter[Verdict] = Counter()
    troubles: list[tuple[str, Result]] = []
    with ThreadPoolExecutor(jobs) as pool:
        trials = {pool.submit(bench.attempt, each): each for each in (*controls(mutants), *mutants)}
        try:
            for future in as_completed(trials):
                result, mutant = future.result(), trials[future]
                counts[result.verdict] += 1
                said = f"{result.verdict.value:<15} {result.took_s:5.0f} s  {_line(mutant)}"
                print(said, flush=True)
                if result.verdict not in {Verdict.KILLED, Verdict.CONTROL}:
                    troubles.append((mutant.name, result))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            bench.close()
            raise
    for name, result in troubles:
        printed = "\n".join(f"    {x}" for x in result.output.splitlines()[-_SHOWN_LINES:])
        print(f"\n{name}: {result.verdict.value}: {result.why}\n{printed}")
    found = ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict)
    print(f"{len(mutants)} mutants: {found}")
    return 1 if troubles or not mutants else 0


def _line(mutant: Mutant) -> str:
    rules = ", ".join(f"rule {rule}" if rule.isdigit() else rule for rule in mutant.rules)
    return f"{rules:<14} {mutant.name:<46} {mutant.removes}"


def main(argv: Sequence[str]) -> int:
    """Do what the words say."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("-k", default="", metavar="WORD", help="only those that have it somewhere")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="at once (2)")
    parser.add_argument("--list", action="store_true", help="show them and try none")
    options = parser.parse_args(argv)
    mutants = chosen(options.k)
    if options.list:
        for mutant in mutants:
            print(_line(mutant), *(f"    {test}" for test in mutant.tests), sep="\n")
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
