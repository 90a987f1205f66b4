"""Plays the matrix: which cells there are, when each is played, and what all of them say together.

Owns: the plan, the processes in which cells are played (each forked from here, so that one that
hangs or dies takes nobody along), the results on disk, and the servers of the control plane, which
all cells share. Independent cells are played at once, each in a namespace of its own; a fault
that disturbs the control plane is played alone, by all its contestants together, and what it asks
for is done when the last of them has come to that point. Who is played alone begins when what the
last one left is reaped.

What was played is kept: a second run plays only what is missing, was invalid, or was played by
other sources. A run has failed when leaderexec broke a promise, when a cell is invalid, and when
the client-go rival did not overlap while it was stopped: then the rig cannot see what it is there
to see.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import asdict, dataclass
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import psutil

from tests.matrix.model import BRISK, CLIENT_GO, DEFAULT, OURS, Cell, Fault, Timing, judge
from tests.matrix.scenario import Invalid, Scenario
from tests.support import wait
from tests.support.kube_candidates import KubeCandidates
from tests.support.witness import Witness, now_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tests.support.controlplane import ControlPlane

ROOT: Final = Path(__file__).resolve().parents[2]

#: The fault in which a wrapper is stopped: without an overlap of the rival the rig is broken.
RIG_CHECK: Final = "wrapper stopped"

_CELL_TIMEOUT_S: Final = 420
_CLEAN_UP_S: Final = 30
#: How long a machine may take to reap what a peer left, and how many processes are no matter.
_SETTLE_S: Final = 180
_FEW: Final = 200
#: Many cells wait for leases at once: they must not spend the processor on looking.
_POLL_S: Final = 0.03

#: What a fault may ask to have done to the control plane; each returns what proves it.
SERVER_ORDERS: Final[dict[str, Callable[[ControlPlane], str]]] = {
    "stop kube-apiserver": lambda plane: _gone(plane.stop_apiserver, plane.apiserver),
    "start kube-apiserver": lambda plane: _serves(plane.start_apiserver, plane),
    "pause kube-apiserver": lambda plane: _done(plane.pause_apiserver, "state T"),
    "resume kube-apiserver": lambda plane: _serves(plane.resume_apiserver, plane),
    "stop etcd": lambda plane: _gone(plane.stop_etcd, plane.etcd),
    "start etcd": lambda plane: _serves(plane.start_etcd, plane),
    "pause etcd": lambda plane: _done(plane.etcd.pause, "state T"),
    "resume etcd": lambda plane: _serves(plane.etcd.resume, plane),
}


def _done(act: Callable[[], None], proof: str) -> str:
    act()
    return proof


def _gone(act: Callable[[], None], server: Any) -> str:
    act()
    if server.running:
        raise Invalid("it still runs")
    return "no process"


def _serves(act: Callable[[], None], plane: ControlPlane) -> str:
    act()
    plane.ensure_ready()
    return "ready"


# --- the plan ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """A cell that is to be played."""

    fault: Fault
    contestant: str
    timing: Timing
    run: int

    @property
    def name(self) -> str:
        """What it is called on disk and in what is printed."""
        return f"{self.fault.name}, {self.contestant}, {self.timing.name}, {self.run}"

    @property
    def file(self) -> str:
        """The name of its result's file."""
        return "".join(c if c.isalnum() else "-" for c in self.name) + ".json"


def plan(faults: Iterable[Fault], *, runs: int, makes: Sequence[str]) -> list[Entry]:
    """Return every cell: ours so many times with the brisk timing, all once with the default."""
    entries = []
    for fault in faults:
        fitting = [make for make in fault.makes if make in makes]
        if OURS in fitting:
            entries += [Entry(fault, OURS, BRISK, run) for run in range(1, runs + 1)]
        entries += [Entry(fault, make, DEFAULT, 1) for make in fitting]
    return entries


def plan_quick(faults: Sequence[Fault]) -> list[Entry]:
    """Return the subset that CI plays: ours once, brisk, and the rival that must overlap."""
    entries = [
        Entry(fault, OURS, BRISK, 1) for fault in faults if fault.quick and OURS in fault.makes
    ]
    rig = [fault for fault in faults if fault.name == RIG_CHECK]
    return [*entries, *(Entry(fault, CLIENT_GO, BRISK, 1) for fault in rig)]


def sources() -> str:
    """Return a digest of all that a result depends on: what is tested, and what tests it."""
    digest = hashlib.sha256()
    for folder in ("leaderexec", "tests/matrix", "tests/support", "tests/rivals", "tests/peers"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".py", ".go", ".mod", ".sum"}:
                content = path.read_bytes()
                digest.update(f"{path.relative_to(ROOT)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


# --- results ----------------------------------------------------------------------------------


class Results:
    """What was played, a file for each cell, in a directory; nothing is found in it if `fresh`."""

    def __init__(self, directory: Path, sources_digest: str, *, fresh: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._sources = sources_digest
        self._fresh = fresh

    def find(self, entry: Entry) -> Cell | None:
        """Return a cell that was played by these sources and is valid, None if there is none."""
        if self._fresh:
            return None
        try:
            found = json.loads((self.directory / entry.file).read_text())
        except (OSError, ValueError):
            return None
        if found.pop("sources", None) != self._sources:
            return None
        cell = Cell(**found)
        return None if cell.invalid else cell

    def keep(self, entry: Entry, cell: Cell) -> None:
        """Write a cell down, in one step."""
        part = self.directory / f"{entry.file}.part"
        part.write_text(json.dumps({**asdict(cell), "sources": self._sources}, indent=1))
        part.replace(self.directory / entry.file)


# --- one cell, in a process of its own --------------------------------------------------------


def play(
    entry: Entry, plane: ControlPlane, directory: Path, link: connection.Connection | None
) -> Cell:
    """Play one cell and judge it."""
    started_s = time.monotonic()
    cell = Cell(entry.fault.name, entry.contestant, entry.timing.name, entry.run)
    try:
        with (
            Witness() as witness,
            KubeCandidates(witness, directory, plane, plane.create_namespace()) as candidates,
        ):
            scenario = Scenario(entry.contestant, entry.fault, entry.timing, candidates, link)
            entry.fault.play(scenario)
            scenario.read(cell)
    except Invalid as reason:
        cell.invalid = str(reason)
    except Exception as error:  # noqa: BLE001 - whatever the rig did, the cell proves nothing
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
    code = 1
    try:
        # Only who is played alone may have something done to what all share.
        link.send(play(entry, plane, directory, link if entry.fault.alone else None))
        code = 0
    finally:
        os._exit(code)


def _leave(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, _do_nothing)  # a second one would end the cleaning up
    raise SystemExit(1)  # what the cell has started is ended on the way out


def _do_nothing(*_: object) -> None:
    """Take a signal; ignoring it instead would be inherited by all that the cell starts."""


class _Played:
    """A cell that is being played, as the parent sees it."""

    def __init__(self, entry: Entry, plane: ControlPlane, directory: Path) -> None:
        self.entry = entry
        self.order = ""  # what it waits for
        self.link, theirs = multiprocessing.Pipe()
        self.until_s = time.monotonic() + _CELL_TIMEOUT_S
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=_be_a_cell, args=(entry, plane, directory, theirs))
        self.process.start()
        theirs.close()

    def invalid(self, reason: str) -> Cell:
        """Return the cell as one that proves nothing."""
        entry = self.entry
        cell = Cell(entry.fault.name, entry.contestant, entry.timing.name, entry.run)
        cell.invalid = reason
        return cell

    def end(self) -> None:
        """End its process, and let it clean up first."""
        self.process.join(_CLEAN_UP_S if self.process.exitcode is None and not self.order else 0)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(_CLEAN_UP_S)
        self.process.kill()
        self.process.join()
        self.link.close()


# --- all of them ------------------------------------------------------------------------------


class Match:
    """Plays a plan on one control plane, `jobs` cells at once."""

    def __init__(
        self,
        plane: ControlPlane,
        results: Results,
        *,
        jobs: int,
        tell: Callable[[Entry, Cell], None],
    ) -> None:
        self._plane = plane
        self._results = results
        self._jobs = jobs
        self._tell = tell
        self._processes_before = _processes()

    def play(self, entries: Sequence[Entry]) -> dict[Entry, Cell]:
        """Play what is not yet played, and return all cells of the plan."""
        cells = {entry: cell for entry in entries if (cell := self._results.find(entry))}
        missing = [entry for entry in entries if entry not in cells]
        # Long ones first, so that the last ones do not run alone. The runs of one row are kept
        # apart: together they would ask of the machine the same at the same moment.
        independent = sorted(
            (entry for entry in missing if not entry.fault.alone),
            key=lambda entry: (-entry.timing.lease_s, entry.run),
        )
        for batch in [(independent, self._jobs), *_alone(missing)]:
            for entry, cell in self._play_batch(*batch):
                self._results.keep(entry, cell)
                self._tell(entry, cell)
                cells[entry] = cell
        return cells

    def _play_batch(self, entries: Sequence[Entry], at_once: int) -> Iterator[tuple[Entry, Cell]]:
        pending = list(entries)
        playing: list[_Played] = []
        with tempfile.TemporaryDirectory(prefix="leaderexec-matrix-") as scratch:
            try:
                while pending or playing:
                    while pending and len(playing) < at_once:
                        directory = Path(tempfile.mkdtemp(dir=scratch))
                        directory.chmod(0o755)
                        playing.append(_Played(pending.pop(0), self._plane, directory))
                    for played, cell in self._look(playing):
                        playing.remove(played)
                        played.end()
                        yield played.entry, cell
                    if not playing:
                        self._settle()
                    self._obey(playing, everybody=at_once == 1 or not pending)
            finally:
                for played in playing:
                    played.process.terminate()
                for played in playing:
                    played.end()
        # Cells that died on the way may have left a server as they had it made.
        self._plane.ensure_ready()

    def _settle(self) -> None:
        """Wait until the machine has no more processes than it had, or nearly.

        A peer's tree falls to an init that may be slower to reap than it was to fork, and until
        then nothing can be started. Where it never ends, the next cell says so.
        """
        with contextlib.suppress(AssertionError):
            wait.wait_until(
                lambda: _processes() < self._processes_before + _FEW,
                timeout_s=_SETTLE_S,
                what="what a cell left is reaped",
            )

    def _look(self, playing: Sequence[_Played]) -> Iterator[tuple[_Played, Cell]]:
        """Wait for news, and yield the cells that are over."""
        links = {played.link: played for played in playing if not played.order}
        for ready in connection.wait(list(links), timeout=1.0):
            assert isinstance(ready, connection.Connection)
            played = links[ready]
            try:
                words = ready.recv()
            except EOFError:
                yield played, played.invalid("its process died")
                continue
            if isinstance(words, Cell):
                yield played, words
            else:
                played.order = str(words)
        for played in playing:
            if time.monotonic() > played.until_s:
                yield played, played.invalid(f"not over after {_CELL_TIMEOUT_S} s")

    def _obey(self, playing: Sequence[_Played], *, everybody: bool) -> None:
        """Do to the control plane what all that are being played wait for."""
        orders = {played.order for played in playing}
        if not playing or not everybody or "" in orders or len(orders) > 1:
            return
        (order,) = orders
        began_ns = now_ns()
        try:
            answer: str | Exception = SERVER_ORDERS[order](self._plane)
        except Exception as error:  # noqa: BLE001 - those who asked for it must hear of it
            answer = error
        for played in playing:
            played.order = ""
            with contextlib.suppress(OSError):
                played.link.send((answer, began_ns))


def _processes() -> int:
    """Return how many processes the machine has, those included that nobody has reaped."""
    return len(psutil.pids())


def _alone(entries: Sequence[Entry]) -> Iterator[tuple[list[Entry], int]]:
    """Yield the cells of each fault that is played alone, and how many of them at once."""
    for fault in dict.fromkeys(e.fault for e in entries if e.fault.alone):
        batch = [entry for entry in entries if entry.fault is fault]
        yield batch, len(batch) if fault.together else 1


def verdict(cells: dict[Entry, Cell]) -> list[str]:
    """Return what is wrong with a whole run, a line each; nothing if all is well."""
    wrong = []
    for entry, cell in cells.items():
        if cell.invalid:
            wrong.append(f"invalid: {entry.name}: {cell.invalid}")
        wrong += [f"BROKEN: {entry.name}: {promise}" for promise in cell.broken]
    rig = [
        cell
        for entry, cell in cells.items()
        if entry.fault.name == RIG_CHECK and entry.contestant == CLIENT_GO
    ]
    if any(not cell.invalid and not cell.overlap_s for cell in rig):
        wrong.append("the rig is broken: the client-go rival was stopped and did not overlap")
    return wrong


def count(cells: dict[Entry, Cell]) -> Counter[str]:
    """Count cells by how they came out."""
    return Counter(
        "invalid" if cell.invalid else "broken" if cell.broken else "held"
        for cell in cells.values()
    )
