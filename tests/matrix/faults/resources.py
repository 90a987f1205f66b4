"""What a machine may deny a candidate: memory, processor time, any time at all.

Played with control groups, so as root only; what a machine cannot do makes a cell invalid. A group
is left, and with it killed, only when all that it has to do with the fault is over.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from tests.matrix.model import EVERYBODY, WRAPPED, After, Fault, Kind
from tests.support.candidate import in_pid_namespace
from tests.support.cgroup import CpuGroup, FreezeGroup, Group, MemoryGroup
from tests.support.competitors import OURS
from tests.support.witness import now_ns

if TYPE_CHECKING:
    from pathlib import Path

    from tests.matrix.scenario import Scenario
    from tests.support.candidate import Candidate

GROUP: Final = "resources"

#: A container's memory, with room for a whole candidate.
_CONTAINER_MIB: Final = 512
_PLENTY_PERCENT: Final = 1000
_STARVED_PERCENT: Final = 5
_BUSY: Final = 200


def _take_in(group: Group, candidate: Candidate) -> None:
    """Move every process of a candidate and its tree into a group."""
    while missing := set(candidate.everything()) - set(group.pids):
        for pid in missing:
            with contextlib.suppress(ProcessLookupError):
                group.add(pid)


# --- memory -----------------------------------------------------------------------------------


def _oom_kill(scenario: Scenario, pid: int, what: str) -> None:
    with MemoryGroup() as group:
        scenario.begin()
        group.oom_kill(pid)
        scenario.prove(f"the OOM killer has killed {what}", lambda: group.oom_kills > 0)


def _oom_child(scenario: Scenario) -> None:
    leader = scenario.pair(child=("--ignore", "TERM"))
    _oom_kill(scenario, scenario.child_of(scenario.tree), "the child")
    scenario.successor(leases=3)
    if scenario.ours:
        scenario.require("it exits with 137", scenario.exit_code(leader) == 137)


def _oom_elector(scenario: Scenario) -> None:
    leader = scenario.pair()
    _oom_kill(scenario, leader.elector, "the elector")
    resumed = scenario.came(
        lambda: leader.events("resumed leadership"), timeout_s=scenario.patience_s()
    )
    scenario.require("another elector goes on for it", resumed)
    scenario.elapse(1.5)


def _oom_container(scenario: Scenario) -> None:
    with MemoryGroup(_CONTAINER_MIB) as group:
        scenario.pair(child=("--ignore", "TERM"), wrapper=[*group.wrapper, *in_pid_namespace()])
        scenario.begin()
        scenario.facts["how"] = group.oom_kill_all()
        scenario.prove("the OOM killer has killed", lambda: group.oom_kills > 0)
        scenario.prove("nothing of the container is left", lambda: not group.pids)
        scenario.successor()


# --- processor time ---------------------------------------------------------------------------


def _last_beat_ns(beats: Path) -> int:
    """Return when a child did something for the last time."""
    whole_lines = beats.read_text().rpartition("\n")[0].splitlines()
    return int(whole_lines[-1].split()[0])


def _starved(scenario: Scenario) -> None:
    beats = scenario.directory / "beats"
    leader = scenario.leader(
        child=("--spawn", f"busy*{_BUSY}", "--ignore", "TERM", "--heartbeat", str(beats))
    )
    scenario.standby()
    with CpuGroup() as group:
        group.limit(_PLENTY_PERCENT)
        _take_in(group, leader)  # which takes seconds
        # Before it is starved: then some would make no request in which the fault is seen.
        scenario.black_hole("a")
        before = group.throttled
        group.limit(_STARVED_PERCENT)
        scenario.prove("its processor time is used up", lambda: group.throttled > before + 5)
        successor = scenario.successor()
        scenario.ends(leases=3)
        if successor:
            # Killed processes may be there for longer: they run no code, but have no time to exit.
            worked_s = max(0.0, (_last_beat_ns(beats) - successor.started_ns) / 1e9)
            scenario.facts["worked_beside_the_next_s"] = worked_s


def _frozen(scenario: Scenario) -> None:
    beats = scenario.directory / "beats"
    leader = scenario.pair(child=("--ignore", "TERM", "--heartbeat", str(beats)))
    with FreezeGroup() as group:
        _take_in(group, leader)
        scenario.begin()
        group.freeze()
        scenario.prove("every process of the leader is frozen", lambda: group.frozen)
        scenario.successor()
        thawed_ns = now_ns()
        group.thaw()
        scenario.prove("it is thawed", lambda: not group.frozen)
        scenario.ends(leases=3)
        worked_s = max(0.0, (_last_beat_ns(beats) - thawed_ns) / 1e9)
        scenario.facts["worked_after_the_thaw_s"] = worked_s


FAULTS: Final = (
    Fault(
        "child killed for its memory", GROUP, "the OOM killer takes the child alone",
        _oom_child, competitors=EVERYBODY, gap_leases=0.75,
    ),
    Fault(
        "elector killed for its memory", GROUP, "the OOM killer takes the elector alone",
        _oom_elector, competitors=(OURS,), after=After.KEPT,
    ),
    Fault(
        "container out of memory", GROUP, "the OOM killer takes a whole container",
        _oom_container, competitors=WRAPPED,
    ),
    Fault(
        "starved of processor time", GROUP,
        "the leader is cut off, with 5 % of a processor for it and 200 busy processes of its child",
        _starved, kind=Kind.REPORTED, alone=True,
    ),
    Fault(
        "frozen", GROUP, "the leader's cgroup is frozen, and thawed when another leads",
        _frozen, kind=Kind.REPORTED, competitors=EVERYBODY,
    ),
)  # fmt: skip
