"""Plays the matrix: which cells there are, when each is played, and what all of them say together.

Each cell is played in a process forked from here, so that one that hangs or dies harms no other.
Cells share a control plane, each with a namespace of its own, unless their fault disturbs that, and
are played at once, unless it disturbs the machine. What was played is kept: a second run plays only
what is missing, was invalid, or was played by other sources.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import psutil

from tests.matrix.model import BRISK, DEFAULT, Cell, Fault, Timing, judge
from tests.matrix.scenario import Invalid, Scenario
from tests.support import wait
from tests.support.competitors import CLIENT_GO, OURS
from tests.support.controlplane import ControlPlane, add_files
from tests.support.kube_candidates import KubeCandidates
from tests.support.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

ROOT: Final = Path(__file__).resolve().parents[2]
RESULTS: Final = ROOT / "build" / "matrix"

#: The fault in which a wrapper is stopped: unless client-go's overlaps, overlaps cannot be seen.
SIGHT_CHECK: Final = "wrapper stopped"

_CELL_TIMEOUT_S: Final = 420
_CLEAN_UP_S: Final = 30
#: For the reaping of what a cell left: how long it may take, and how many processes are no matter.
_SETTLE_S: Final = 180
_FEW: Final = 200
#: Many cells wait for leases at once: they must not spend the processor on looking.
_POLL_S: Final = 0.03


# --- the plan ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """A cell that is to be played."""

    fault: Fault
    competitor: str
    timing: Timing
    run: int = 1

    @property
    def name(self) -> str:
        """What it is called in what is printed."""
        return f"{self.fault.name}, {self.competitor}, {self.timing.name}, {self.run}"

    def cell(self, invalid: str = "") -> Cell:
        """Return a cell of which nothing is known yet, or why it proves nothing."""
        return Cell(self.fault.name, self.competitor, self.timing.name, self.run, invalid)


def plan(faults: Iterable[Fault], *, runs: int) -> list[Entry]:
    """Return every cell: ours so many times with the brisk timing, all once with the default."""
    entries = []
    for fault in faults:
        if OURS in fault.competitors:
            entries += [Entry(fault, OURS, BRISK, run) for run in range(1, runs + 1)]
        entries += [Entry(fault, name, DEFAULT) for name in fault.competitors]
    return entries


def plan_quick(faults: Iterable[Fault]) -> list[Entry]:
    """Return the subset that the kube lane plays: ours once, brisk, and the check of the sight."""
    return [
        Entry(fault, name, BRISK)
        for fault in faults
        if fault.quick
        for name in ((OURS, CLIENT_GO) if fault.name == SIGHT_CHECK else (OURS,))
    ]


@functools.cache
def sources() -> str:
    """Return a digest of all that a result depends on: what is tested, and what tests it."""
    digest = hashlib.sha256()
    for folder in ("leaderexec", "tests/matrix", "tests/support", "tests/competitors"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".py", ".go", ".mod", ".sum"}:
                add_files(digest, ROOT, [path])
    return digest.hexdigest()


def _path(entry: Entry) -> Path:
    return RESULTS / f"{''.join(c if c.isalnum() else '-' for c in entry.name)}.json"


def find(entry: Entry) -> Cell | None:
    """Return a cell that the present sources have played and that is valid, if there is one."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(_path(entry).read_text())
        if found.pop("sources") == sources() and not found["invalid"]:
            return Cell(**found)
    return None


def keep(entry: Entry, cell: Cell) -> None:
    """Write a cell down; one that was cut short is no JSON, and is played again."""
    _path(entry).write_text(json.dumps({**asdict(cell), "sources": sources()}, indent=1))


# --- one cell, in a process of its own --------------------------------------------------------


def play(entry: Entry, plane: ControlPlane, directory: Path) -> Cell:
    """Play one cell, on a control plane of its own if its fault disturbs that, and judge it."""
    started_s = time.monotonic()
    cell = entry.cell()
    try:
        with contextlib.ExitStack() as stack:
            if entry.fault.own_plane:
                plane = stack.enter_context(ControlPlane(plane.binaries))
            witness = stack.enter_context(Witness())
            candidates = stack.enter_context(
                KubeCandidates(witness, directory, plane, plane.create_namespace())
            )
            scenario = Scenario(entry.competitor, entry.fault, entry.timing, candidates)
            entry.fault.play(scenario)
            scenario.read(cell)
    except Invalid as reason:
        cell.invalid = str(reason)
    except Exception as error:  # noqa: BLE001 - whatever went wrong here, the cell proves nothing
        cell.invalid = f"{type(error).__name__}: {error}"
        cell.facts["traceback"] = traceback.format_exc()
    cell.took_s = round(time.monotonic() - started_s, 1)
    judge(entry.fault, entry.timing, cell)
    return cell


def _be_a_cell(
    entry: Entry, plane: ControlPlane, directory: Path, link: connection.Connection
) -> NoReturn:
    """Play a cell in a forked process and send it to the parent, which alone may end it early."""
    signal.signal(signal.SIGINT, _do_nothing)  # a terminal sends it to cells and parent alike
    signal.signal(signal.SIGTERM, _leave)
    wait.POLL_S = _POLL_S
    try:
        link.send(play(entry, plane, directory))
    finally:
        os._exit(0)


def _leave(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, _do_nothing)  # a second one would end the cleaning up
    raise SystemExit(1)  # what the cell has started is ended on the way out


def _do_nothing(*_: object) -> None:
    """Take a signal; ignoring it instead would be inherited by all that the cell starts."""


class _Played:
    """A cell that is being played, as the parent sees it."""

    def __init__(self, entry: Entry, plane: ControlPlane, scratch: str) -> None:
        self.entry = entry
        self.link, theirs = multiprocessing.Pipe()
        self._until_s = time.monotonic() + _CELL_TIMEOUT_S
        directory = Path(tempfile.mkdtemp(dir=scratch))
        directory.chmod(0o755)
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_be_a_cell, args=(entry, plane, directory, theirs))
        self._process.start()
        theirs.close()

    def cell(self) -> Cell | None:
        """Return the cell if it is over, ended or not."""
        cell = None
        if self.link.poll():
            try:
                cell = self.link.recv()
            except EOFError:
                cell = self.entry.cell("its process died")
        elif time.monotonic() > self._until_s:
            cell = self.entry.cell(f"not over after {_CELL_TIMEOUT_S} s")
        return cell

    def end(self, clean_up_s: float = _CLEAN_UP_S) -> None:
        """End its process, and let it clean up first."""
        self._process.join(clean_up_s)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(_CLEAN_UP_S)
        self._process.kill()
        self._process.join()
        self.link.close()


# --- all of them ------------------------------------------------------------------------------


def play_all(
    entries: Sequence[Entry],
    plane: ControlPlane,
    *,
    jobs: int,
    tell: Callable[[Entry, Cell], None],
) -> dict[Entry, Cell]:
    """Play what is not yet played, `jobs` cells at once, and return all cells of the plan."""
    cells = {entry: cell for entry in entries if (cell := find(entry))}
    # Long ones first, so that the last ones do not run alone. The runs of one row are kept
    # apart: together they would ask of the machine the same at the same moment.
    missing = sorted(
        (entry for entry in entries if entry not in cells),
        key=lambda entry: (-entry.timing.lease_s, entry.run),
    )
    for at_once, alone, own_plane in ((jobs, 0, 0), (max(1, jobs // 2), 0, 1), (1, 1, 0)):
        batch = [e for e in missing if (e.fault.alone, e.fault.own_plane) == (alone, own_plane)]
        for entry, cell in _play_batch(batch, plane, at_once):
            keep(entry, cell)
            tell(entry, cell)
            cells[entry] = cell
    return {entry: cells[entry] for entry in entries}


def _play_batch(
    entries: Sequence[Entry], plane: ControlPlane, at_once: int
) -> Iterator[tuple[Entry, Cell]]:
    most_processes = len(psutil.pids()) + _FEW
    pending = list(entries)
    playing: list[_Played] = []
    with tempfile.TemporaryDirectory(prefix="leaderexec-matrix-") as scratch:
        try:
            while pending or playing:
                while pending and len(playing) < at_once:
                    playing.append(_Played(pending.pop(0), plane, scratch))
                connection.wait([played.link for played in playing], timeout=1.0)
                for played in list(playing):
                    if cell := played.cell():
                        playing.remove(played)
                        played.end()
                        yield played.entry, cell
                # A competitor's tree falls to an init that may reap more slowly than it forked, and
                # until then nothing can be started. Where it never ends, the next cell says so.
                if at_once == 1 and not playing:
                    with contextlib.suppress(AssertionError):
                        wait.wait_until(
                            lambda: len(psutil.pids()) < most_processes,
                            timeout_s=_SETTLE_S,
                            what="what a cell left is reaped",
                        )
        finally:
            for played in playing:
                played.end(0)


def verdict(cells: dict[Entry, Cell]) -> list[str]:
    """Return what is wrong with a whole run, a line each; nothing if all is well."""
    wrong = []
    for entry, cell in cells.items():
        if cell.invalid:
            wrong.append(f"invalid: {entry.name}: {cell.invalid}")
        elif not cell.overlap_s and (cell.fault, cell.competitor) == (SIGHT_CHECK, CLIENT_GO):
            wrong.append("nothing can be seen: client-go's elector was stopped, without an overlap")
        wrong += [f"BROKEN: {entry.name}: {promise}" for promise in cell.broken]
    return wrong
