"""What a fault matrix is made of: faults, timings, and the cells that come of playing them.

A *promise* that leaderexec makes is broken by any overlap and by whatever else it says that must
come of the fault; a *bound* allows an overlap of a stated length; what is *reported* is measured
and not judged, because nobody promises anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from tests.support.competitors import AWAIT_ELECTION, CLIENT_GO, ETCDCTL, OURS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.matrix.scenario import Scenario

#: Competitors that a fault can fit: all, those that can be PID 1, and two.
EVERYBODY: Final = (OURS, AWAIT_ELECTION, CLIENT_GO, ETCDCTL)
WRAPPED: Final = (OURS, AWAIT_ELECTION, ETCDCTL)
WITH_CLIENT_GO: Final = (OURS, CLIENT_GO)

#: A witness that may have missed more than this proves nothing.
COARSEST_S: Final = 1.0


class Kind(Enum):
    """What leaderexec says of a fault."""

    PROMISE = "promise"
    BOUND = "bound"
    REPORTED = "reported"


class After(Enum):
    """What must come of a fault."""

    KEPT = "the same child throughout"
    SUCCESSOR = "another child follows"
    SAME_CANDIDATE = "another child of the same candidate follows"
    ANYTHING = "one child runs in the end"
    NOBODY = "nobody runs in the end"


@dataclass(frozen=True, slots=True)
class Timing:
    """The durations that all candidates of a cell are given."""

    lease_s: int
    renew_s: int
    retry_s: int

    @property
    def name(self) -> str:
        """How it is written: `8/5/1`."""
        return f"{self.lease_s}/{self.renew_s}/{self.retry_s}"

    @property
    def options(self) -> tuple[str, ...]:
        """The flags of leaderexec and of client-go's elector."""
        return (
            f"--lease-duration={self.lease_s}s",
            f"--renew-deadline={self.renew_s}s",
            f"--retry-period={self.retry_s}s",
        )


BRISK: Final = Timing(8, 5, 1)
DEFAULT: Final = Timing(15, 10, 2)


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the matrix.

    `play` starts candidates, inflicts the fault and proves it, all through a `Scenario`.
    `competitors` are those that it fits. `alone` faults disturb the whole machine, those with their
    `own_plane` a control plane. `quick` ones belong to the subset of the kube lane.
    `overlap_s` is what a bound allows, for each timing; `gap_leases` bounds how long nobody may
    run, in lease durations, counted from the first tree's end, or from the end of a fault that
    keeps everybody from leading (`Scenario.mended`).
    """

    name: str
    group: str
    about: str
    play: Callable[[Scenario], None] = field(repr=False)
    kind: Kind = Kind.PROMISE
    after: After = After.SUCCESSOR
    competitors: tuple[str, ...] = (OURS, AWAIT_ELECTION, CLIENT_GO)
    alone: bool = False
    own_plane: bool = False
    quick: bool = False
    overlap_s: Callable[[Timing], float] = field(default=lambda _: 0.0, repr=False)
    gap_leases: float = 2.5


@dataclass(slots=True)
class Cell:
    """What came of one fault, played by one competitor.

    `broken` are the promises that were broken, `invalid` says why the cell proves nothing.
    `overlap_s` is the longest time for which two trees ran, `overlap_open` whether they still did
    when nobody waited any longer. `gap_s` is the longest time in which nobody ran, `stop_s` the
    time from the fault to the end of the first tree, `spare_s` the least time that was left of a
    lease when a tree of it was dead. `facts` are what the fault itself measured.
    """

    fault: str
    competitor: str
    timing: str
    run: int
    invalid: str = ""
    broken: list[str] = field(default_factory=list)
    proofs: list[str] = field(default_factory=list)
    ran_before: bool = False
    kept: bool = False
    trees: list[str] = field(default_factory=list)
    running: int = 0
    overlap_s: float = 0.0
    overlap_open: bool = False
    resolution_s: float = 0.0
    gap_s: float | None = None
    stop_s: float | None = None
    spare_s: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    took_s: float = 0.0


def judge(fault: Fault, timing: Timing, cell: Cell) -> None:
    """Say of a cell what makes it invalid, and which promises it breaks."""
    if cell.invalid:
        return
    if not cell.ran_before:
        cell.invalid = "no child ran before the fault"
    elif not cell.proofs:
        cell.invalid = "no fault was proved to have taken effect"
    elif cell.resolution_s > COARSEST_S:
        cell.invalid = f"the witness may have missed {cell.resolution_s:.2f} s"
    if cell.invalid or cell.competitor != OURS or fault.kind is Kind.REPORTED:
        return
    allowed_s = fault.overlap_s(timing) if fault.kind is Kind.BOUND else 0.0
    if cell.overlap_s > allowed_s or (cell.overlap_open and not allowed_s):
        cell.broken.append(f"two trees ran at once for {cell.overlap_s:.3f} s")
    if cell.spare_s is not None and cell.spare_s <= 0:
        cell.broken.append(f"a tree outlived its lease by {-cell.spare_s:.3f} s")
    _judge_aftermath(fault, timing, cell)


def _judge_aftermath(fault: Fault, timing: Timing, cell: Cell) -> None:
    names = [tree.partition("/")[0] for tree in cell.trees]
    if fault.after is After.KEPT and not cell.kept:
        cell.broken.append(f"the child was not kept: {', '.join(cell.trees)}")
    if fault.after is After.SUCCESSOR and len(set(names)) < 2:
        cell.broken.append("no other candidate's child followed")
    if fault.after is After.SAME_CANDIDATE and (len(names) < 2 or len(set(names)) > 1):
        cell.broken.append(f"followed by {', '.join(cell.trees[1:]) or 'nobody'}")
    expected = 0 if fault.after is After.NOBODY else 1
    if cell.running != expected:
        cell.broken.append(f"{cell.running} children in the end, not {expected}")
    if cell.gap_s is not None and cell.gap_s > fault.gap_leases * timing.lease_s:
        cell.broken.append(f"nobody ran for {cell.gap_s:.1f} s")
