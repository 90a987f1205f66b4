"""Runs all that there is: `python -m tests.nightly [--fresh] [STEP...]`.

Owns: which steps there are, what is kept of each, and the summary. A step that has passed on the
present sources is not run again, so that a run that was interrupted goes on where it ended.
Must not know: what a step does.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "build" / "nightly"
_MINOR_VERSIONS: Final = range(11, 21)
_STEP_TIMEOUT_S: Final = 4 * 3600


@dataclass(frozen=True, slots=True)
class Result:
    """How a step ended: on which sources, with which exit code, and its last line."""

    sources: str
    code: int
    took_s: float
    last_line: str


def sources(root: Path = ROOT) -> str:
    """Return a digest of all that a result depends on: every file that git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    digest = hashlib.sha256()
    for name in sorted(set(listed.split("\0")) - {""}):
        # A file that was removed and is still in the index has no content.
        with contextlib.suppress(FileNotFoundError):
            content = (root / name).read_bytes()
            digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _starts(python: str) -> bool:
    started = subprocess.run([python, "-c", "import ensurepip"], capture_output=True, check=False)
    return started.returncode == 0


def steps() -> dict[str, list[str]]:
    """Return the steps in their order, each with its command; the cheapest come first.

    Among them are the unit and the process lane with every other supported Python that is found
    and starts; the entry of a version manager may not.
    """
    lanes = [sys.executable, "-m", "tests.lanes"]
    found = {
        "lint": ["make", "lint"],
        "coverage": [*lanes, "--coverage", "unit", "process", "--", "--nightly"],
        "fuzz": [*lanes, "unit", "--", "-k", "fuzz or channel", "--hypothesis-profile=nightly"],
        "kube": [*lanes, "kube", "--", "--nightly"],
        "container": [*lanes, "container", "--", "--nightly"],
    }
    for minor in _MINOR_VERSIONS:
        python = shutil.which(f"python3.{minor}")
        if python is None or minor == sys.version_info.minor:
            continue
        if _starts(python):
            for lane in ("unit", "process"):
                found[f"{lane}-python3.{minor}"] = ["make", f"PYTHON={python}", lane]
    others = ("mutants", "soak", "crowded-handover", "matrix")
    return found | {name: ["make", name] for name in others}


def run(name: str, command: Sequence[str], digest: str, directory: Path) -> Result:
    """Run a step, with its output in `NAME.log`, and keep its result in `NAME.json`."""
    began_s = time.monotonic()
    log = directory / f"{name}.log"
    with log.open("wb") as output:
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=_STEP_TIMEOUT_S,
                check=False,
            )
            code = done.returncode
        except subprocess.TimeoutExpired:
            code = 124
    lines = log.read_text(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    result = Result(digest, code, time.monotonic() - began_s, last)
    scratch = directory / f".{name}.json"
    scratch.write_text(json.dumps(asdict(result)))
    scratch.replace(directory / f"{name}.json")
    return result


def kept(name: str, digest: str, directory: Path) -> Result | None:
    """Return the result of a step that has passed on these sources, if there is one."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        result = Result(**json.loads((directory / f"{name}.json").read_text()))
        if result.sources == digest and result.code == 0:
            return result
    return None


def summary(results: Mapping[str, Result]) -> Iterator[str]:
    """Yield a line for each step, and one for all."""
    for name, result in results.items():
        verdict = "passed" if result.code == 0 else f"FAILED ({result.code})"
        yield f"{name:20} {verdict:12} {result.took_s:6.0f} s  {result.last_line[:100]}"
    failed = sum(result.code != 0 for result in results.values())
    yield f"nightly: {len(results) - failed} steps passed, {failed} failed"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps that were asked for, all of them if none was; 0 when every one passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.nightly", description=__doc__)
    parser.add_argument("--fresh", action="store_true", help="run again what has passed")
    parser.add_argument("steps", nargs="*", metavar="STEP")
    options = parser.parse_args(argv)
    every = steps()
    if unknown := [name for name in options.steps if name not in every]:
        parser.error(f"no such step: {', '.join(unknown)}; there are {', '.join(every)}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    digest = sources()
    results: dict[str, Result] = {}
    for name in options.steps or every:
        found = None if options.fresh else kept(name, digest, RESULTS)
        print(f"{name}: {'has passed' if found else ' '.join(every[name])}", flush=True)
        results[name] = found or run(name, every[name], digest, RESULTS)
    print(*summary(results), sep="\n", flush=True)
    return int(any(result.code for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
