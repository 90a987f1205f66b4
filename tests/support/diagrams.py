"""Writes into the documents what the code knows: state diagrams and tables, between markers.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end: NAME -->`; other files are
generated as a whole. `python -m tests.support.diagrams` says which are stale and ends with 1 if any
is; `--write` rewrites them.
"""

from __future__ import annotations

import argparse
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from leaderexec import board, config, election, metrics, server, tenure
from leaderexec.exits import EXIT_CODES
from leaderexec.model import SECOND_NS, Timing, seconds
from tests import measured
from tests.matrix import report
from tests.measured import table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from enum import Enum
    from types import ModuleType

ROOT: Final = Path(__file__).resolve().parents[2]

_PART = re.compile(
    r"(?P<begin><!-- generated: (?P<name>[a-z-]+) -->\n).*?(?P<end><!-- end: (?P=name) -->)",
    re.DOTALL,
)


# --- what is generated -----------------------------------------------------------------------


def state_diagram(module: ModuleType, *entries: Enum) -> str:
    """Draw a module's table of transitions; it ends where nothing leads on."""
    transitions: Mapping[tuple[Enum, Enum], Enum] = module.TRANSITIONS
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f"    [*] --> {state.value}" for state in entries]
    lines += [
        f"    {before.value} --> {after.value}: {cause.value}"
        for (before, cause), after in transitions.items()
    ]
    sources = {before for before, _ in transitions}
    ends = dict.fromkeys(after for after in transitions.values() if after not in sources)
    lines += [f"    {state.value} --> [*]" for state in ends]
    return "\n".join([*lines, "```"])


def _options() -> str:
    """One table of options for each section of --help."""
    parts = []
    for group in config.Group:
        rows = [_option_row(option) for option in config.OPTIONS if option.group is group]
        parts.append(f"**{group.value}**\n\n" + table(("Flag", "Variable", "Default", ""), rows))
    return "\n\n".join(parts)


def _option_row(option: config.Option[object]) -> Sequence[str]:
    flags = ", ".join(f"`{spelling}`" for spelling in option.spellings)
    if option.metavar is not None:
        flags += f" `{option.metavar}`"
    default = option.otherwise or (f"`{option.default}`" if option.default else "")
    variables = ", ".join(f"`{variable}`" for variable in option.variables)
    return (flags, variables, default, option.help)


def _http_paths() -> str:
    return table(("Path", "Answer"), ((f"`{path}`", meaning) for path, meaning in server.PATHS))


def _http_status() -> str:
    rows = ((f"`{key}`", kind, meaning) for key, kind, meaning in board.STATUS)
    return table(("Key", "Type", ""), rows)


def _metrics() -> str:
    rows = (
        (f"`{name}`", kind, ", ".join(f"`{label}`" for label in labels), text)
        for name, kind, labels, text in metrics.METRICS
    )
    return table(("Metric", "Type", "Labels", ""), rows)


_TIMINGS: Final = (
    ("default, as client-go's", Timing()),
    ("`--ttl=10s`, as in 2016", Timing(10, 5 * SECOND_NS, 5 * SECOND_NS // 2)),
    ("the shortest", Timing(5, 2 * SECOND_NS, SECOND_NS)),
    ("a long lease", Timing(90, 70 * SECOND_NS, 5 * SECOND_NS)),
)


def _timings() -> str:
    for _, timing in _TIMINGS:
        timing.validate()
    columns: Mapping[str, Callable[[Timing], int]] = {
        "lease duration": lambda t: t.lease_duration_ns,
        "renew deadline: stop signal at t0 +": lambda t: t.renew_deadline_ns,
        "retry period": lambda t: t.retry_period_ns,
        "margin": lambda t: t.margin_ns,
        "SIGKILL at t0 +": lambda t: t.lease_duration_ns - t.margin_ns,
        "grace on loss": lambda t: t.grace_on_loss_ns,
    }
    rows = [(name, *(seconds(of(t)) for of in columns.values())) for name, t in _TIMINGS]
    return f"{_time_line(_TIMINGS[0][1])}\n\n{table(('', *columns), rows)}"


def _time_line(timing: Timing) -> str:
    """Draw what happens after a renewal that was the last to count."""
    stop_ns, end_ns = timing.renew_deadline_ns, timing.lease_duration_ns
    kill_ns = end_ns - timing.margin_ns
    bars = (
        ("child and its tree", "runs undisturbed", 0, stop_ns),
        ("", "stop signal, grace", stop_ns, kill_ns),
        ("", "SIGKILL, margin", kill_ns, end_ns),
        ("lease", "nobody else may acquire", 0, end_ns),
        ("", "free to take", end_ns, end_ns * 5 // 4),
    )
    lines = ["```mermaid", "gantt", "    dateFormat x", "    axisFormat t0 + %-S s"]
    for section, what, *instants_ns in bars:
        from_ms, to_ms = (instant_ns // 1_000_000 for instant_ns in instants_ns)
        lines += [f"    section {section}"] if section else []
        lines.append(f"    {what} :{from_ms}, {to_ms}")
    return "\n".join([*lines, "```"])


PARTS: Final[Mapping[str, Mapping[str, Callable[[], str]]]] = {
    "README.md": {
        "options": _options,
        "exit-codes": partial(table, ("Code", "When"), EXIT_CODES),
        "http-paths": _http_paths,
        "http-status": _http_status,
        "metrics": _metrics,
        "timings": _timings,
        "measured-matrix": report.summary,
        **measured.PARTS,
    },
    "ARCHITECTURE.md": {
        "election-states": partial(
            state_diagram, election, election.State.STANDBY, election.State.RESUMING
        ),
        "tenure-states": partial(state_diagram, tenure, tenure.State.IDLE),
    },
}

#: What is generated as a whole.
FILES: Final[Mapping[str, Callable[[], str]]] = {
    "tests/measured/matrix.md": lambda: report.page(report.load()["faults"]),
}


# --- where it goes ---------------------------------------------------------------------------


def _made(parts: Mapping[str, Callable[[], str]], part: re.Match[str]) -> str:
    return f"{part['begin']}\n{parts[part['name']]()}\n\n{part['end']}"


def _generated() -> Iterator[tuple[Path, str]]:
    """Yield each file with what it is to be; raise ValueError when its markers do not fit."""
    for name, parts in PARTS.items():
        text = (ROOT / name).read_text()
        found = [match["name"] for match in _PART.finditer(text)]
        if sorted(found) != sorted(parts):
            raise ValueError(f"{name} has the generated parts {sorted(found)}, not {sorted(parts)}")
        yield ROOT / name, _PART.sub(partial(_made, parts), text)
    for name, whole in FILES.items():
        yield ROOT / name, whole()


def stale() -> list[str]:
    """Name the files that are not what the code and the records say."""
    return [
        f"{path.name}: what is generated is stale; `make format` rewrites it"
        for path, text in _generated()
        if path.read_text() != text
    ]


def main() -> int:
    """Check the documents, or rewrite them."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.diagrams", description=__doc__)
    parser.add_argument("--write", action="store_true", help="rewrite what is stale")
    if parser.parse_args().write:
        for path, text in _generated():
            path.write_text(text)
        return 0
    problems = stale()
    print(*problems, sep="\n", end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
