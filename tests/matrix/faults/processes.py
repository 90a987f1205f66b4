"""Processes of a candidate that are stopped, killed, asked to stop, or end by themselves.

Where a part of leaderexec is addressed that a competitor does not have, no competitor plays the
fault. A wrapper that is to be PID 1 is started in a PID namespace of its own, where the kernel
kills everything with it, as in a container.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Final

from tests.matrix.model import EVERYBODY, WRAPPED, After, Fault, Kind
from tests.support.candidate import in_pid_namespace, is_gone, state_of
from tests.support.competitors import AWAIT_ELECTION, OURS, slot_of
from tests.support.witness import now_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.matrix.scenario import Scenario
    from tests.support.candidate import Candidate

GROUP: Final = "processes"

#: A descendant that is hard to find and hard to stop.
_STUBBORN: Final = ("--spawn", "setsid+emptyenv+ignore")
#: A handover so soon that nobody can have waited for the end of a lease.
_AT_ONCE: Final = 0.75
#: So long that a leader within the bounds of a fault has not waited for its end.
_LONG: Final = ("--lease-duration=60s", "--renew-deadline=40s", "--retry-period=1s")


# --- the wrapper ------------------------------------------------------------------------------


def _wrapper_stopped(scenario: Scenario) -> None:
    leader = scenario.pair(child=("--ignore", "TERM"))
    wrapper = scenario.wrapper_of(leader)
    scenario.stop(wrapper, "the wrapper")
    if scenario.successor():
        scenario.elapse(2.5)


def _wrapper_stopped_and_resumed(scenario: Scenario) -> None:
    leader = scenario.pair(child=("--ignore", "TERM"))
    wrapper = scenario.wrapper_of(leader)
    scenario.stop(wrapper, "the wrapper")
    scenario.successor()
    if scenario.ours:
        scenario.require("its elector killed the stopped guardian", is_gone(wrapper))
    else:
        scenario.resume(wrapper, "the wrapper")


def _init_stopped_and_resumed(scenario: Scenario) -> None:
    leader = scenario.leader(child=("--ignore", "TERM"), wrapper=in_pid_namespace())
    standby = scenario.standby()
    wrapper = scenario.wrapper_of(leader)
    scenario.stop(wrapper, "PID 1")
    second = scenario.successor()
    scenario.require("PID 1 is still stopped when another leads", state_of(wrapper) == "T")
    scenario.resume(wrapper, "PID 1")
    if scenario.ours and second:
        standby.terminate()
        third = scenario.successor(second)
        scenario.require("resumed, it leads again", third and third.candidate == "a")


def _wrapper_killed(wrapper: Sequence[str] = ()) -> Callable[[Scenario], None]:
    def play(scenario: Scenario) -> None:
        leader = scenario.pair(child=_STUBBORN, wrapper=wrapper)
        scenario.kill(scenario.wrapper_of(leader), "the wrapper")
        scenario.successor()

    return play


def _container_restarted(scenario: Scenario) -> None:
    slot = slot_of(scenario.candidates.namespace)
    leader = scenario.leader(*_LONG, child=_STUBBORN, wrapper=in_pid_namespace(), env=slot)
    scenario.standby("b", *_LONG)
    scenario.kill(scenario.wrapper_of(leader), "PID 1 of the container")
    scenario.require("nothing of the container is left", scenario.ends())
    scenario.exit_code(leader)
    # A competitor's tree is known by a pid, which in a new namespace may be the same again.
    again = () if scenario.ours else ("--run", "again")
    scenario.start("a", *_LONG, child=again, wrapper=in_pid_namespace(), env=slot)
    scenario.successor()


# --- a request to stop ------------------------------------------------------------------------


def _term(scenario: Scenario) -> None:
    leader = scenario.pair(child=("--drain", "0.5", "--exit", "7"))
    scenario.deliver(scenario.wrapper_of(leader), "the wrapper")
    scenario.successor(leases=3)
    if scenario.ours:
        scenario.require("it exits as its child did", scenario.exit_code(leader) == 7)


def _term_and_a_long_drain(scenario: Scenario) -> None:
    options = [f"--stop-timeout={4 * scenario.timing.lease_s}s"] if scenario.ours else []
    drain = ("--drain", str(1.25 * scenario.timing.lease_s), "--exit", "7")
    leader = scenario.pair(*options, child=drain)
    scenario.deliver(scenario.wrapper_of(leader), "the wrapper")
    scenario.successor(leases=4)
    if scenario.ours:
        scenario.require("the child was given its time", scenario.exit_code(leader) == 7)


# --- the child --------------------------------------------------------------------------------


def _child_ends(signum: signal.Signals, code: int) -> Callable[[Scenario], None]:
    def play(scenario: Scenario) -> None:
        leader = scenario.pair(child=("--exit-on", "USR1", "--exit", "3"))
        scenario.kill(scenario.child_of(scenario.tree), "the child", signum)
        scenario.successor(leases=3)
        if scenario.ours:
            scenario.require(f"it exits with {code}", scenario.exit_code(leader) == code)

    return play


def _child_stopped_and_continued(scenario: Scenario) -> None:
    scenario.pair()
    child = scenario.child_of(scenario.tree)
    scenario.stop(child, "the child")
    scenario.elapse(1.5)
    scenario.require("nobody else continued the child", state_of(child) == "T")
    scenario.resume(child, "the child")
    scenario.elapse(1.75)


def _child_stopped_then_term(scenario: Scenario) -> None:
    leader = scenario.pair(child=("--exit-on", "TERM", "--exit", "7"))
    scenario.stop(scenario.child_of(scenario.tree), "the child")
    scenario.deliver(scenario.wrapper_of(leader), "the wrapper")
    scenario.successor(leases=3)
    if scenario.ours:
        scenario.require("the child could stop by itself", scenario.exit_code(leader) == 7)


# --- elector and keeper -----------------------------------------------------------------------


def _elector_stopped(scenario: Scenario) -> None:
    leader = scenario.pair(child=("--ignore", "TERM"))
    elector = leader.elector
    scenario.stop(elector, "the elector")
    found_out = scenario.came(lambda: is_gone(elector), timeout_s=scenario.patience_s())
    scenario.require("the silent elector is killed", found_out)
    scenario.elapse(1.5)


def _elector_killed(times: int) -> Callable[[Scenario], None]:
    def play(scenario: Scenario) -> None:
        leader = scenario.pair()
        for number in range(1, times + 1):
            scenario.kill(leader.elector, f"elector {number}")
            resumed = scenario.came(
                lambda n=number: len(leader.events("resumed leadership")) >= n,  # type: ignore[misc]
                timeout_s=scenario.patience_s(),
            )
            scenario.require("another elector goes on for it", resumed)
            if not resumed:
                return
            scenario.elapse(2 * number / times)

    return play


def _keeper_stopped(scenario: Scenario) -> None:
    leader = scenario.pair(child=_STUBBORN)
    scenario.stop(leader.keeper, "the keeper")
    scenario.require("the tree is killed without its keeper", scenario.ends())
    scenario.require("another child follows", scenario.successor())


def _keeper_killed(wrapper: Sequence[str] = ()) -> Callable[[Scenario], None]:
    def play(scenario: Scenario) -> None:
        leader = scenario.leader(child=_STUBBORN, wrapper=wrapper)
        guardian = leader.guardian
        scenario.standby()
        scenario.kill(leader.keeper, "the keeper")
        scenario.require("what it left is killed", scenario.ends())
        scenario.require("another child follows", scenario.successor())
        scenario.require("the guardian lives on", not is_gone(guardian))

    return play


def _spare_keeper(inflict: Callable[[Scenario, int, str], None]) -> Callable[[Scenario], None]:
    """Befall the keeper that a standby has in store, and hand over to it at once."""

    def play(scenario: Scenario) -> None:
        leader = scenario.leader()
        standby = scenario.standby()
        inflict(scenario, standby.keeper, "the standby's keeper")
        leader.terminate()
        scenario.successor()

    return play


# --- stopped between decision and deed ---------------------------------------------------------


def _acquired_by(scenario: Scenario, name: str) -> None:
    """Ask the leader to stop, and wait until the lock is another's."""
    identity = scenario.candidate(name).identity
    scenario.candidate("a").terminate()
    scenario.prove(
        f"{name} has the lock", lambda: scenario.candidates.spec.get("holderIdentity") == identity
    )


def _stands_by_again(scenario: Scenario, name: str) -> None:
    """Require of a candidate that slept through its leadership that it starts nothing for it."""
    proxy = scenario.proxy(name)
    standing = scenario.came(
        lambda: proxy.counters()["watches_open"] > 0, timeout_s=scenario.patience_s()
    )
    scenario.require("resumed, it stands by", standing)
    scenario.require(
        "no child was started for the old leadership", not scenario.witness.trees(name)
    )


def _grant_waits(scenario: Scenario) -> None:
    scenario.leader()
    slow = scenario.standby("b", wrapper=in_pid_namespace())
    guardian = slow.guardian
    scenario.stop(guardian, "the standby's guardian, PID 1")
    _acquired_by(scenario, "b")
    scenario.standby("c")
    scenario.successor()
    scenario.resume(guardian, "the standby's guardian")
    _stands_by_again(scenario, "b")


def _order_waits(scenario: Scenario) -> None:
    scenario.leader()
    slow = scenario.standby("b", wrapper=in_pid_namespace())
    guardian, keeper = slow.guardian, slow.keeper
    scenario.stop(keeper, "the standby's keeper")
    _acquired_by(scenario, "b")
    scenario.prove("its guardian has decided to start the child", lambda: slow.events("running"))
    scenario.stop(guardian, "the standby's guardian, PID 1")
    scenario.standby("c")
    scenario.successor()
    scenario.resume(keeper, "the standby's keeper")
    scenario.resume(guardian, "the standby's guardian")  # the order may wait for it as well
    ended = scenario.came(lambda: is_gone(keeper), timeout_s=scenario.patience_s())
    scenario.require("the keeper ends without a child", ended)
    _stands_by_again(scenario, "b")


# --- several at once --------------------------------------------------------------------------


def _parts(scenario: Scenario, leader: Candidate) -> dict[str, int]:
    """Return every process of a leader but the child's."""
    if not scenario.ours:
        return {"the wrapper": scenario.wrapper_of(leader)}
    return {
        "the elector": leader.elector,
        "the keeper": leader.keeper,
        "the guardian": leader.guardian,
    }


def _all_killed(child: Sequence[str], *, promised: bool) -> Callable[[Scenario], None]:
    def play(scenario: Scenario) -> None:
        leader = scenario.pair(child=child)
        parts = _parts(scenario, leader)
        for what, pid in parts.items():  # so that none can act on the death of another
            scenario.stop(pid, what)
        # The guardian last: the kernel continues what is stopped in the groups that it orphans.
        for what, pid in parts.items():
            scenario.kill(pid, what)
        if promised:
            scenario.require("the child dies with its keeper", scenario.ends(leases=0.5))
        scenario.successor()

    return play


def _all_stopped(scenario: Scenario) -> None:
    leader = scenario.pair(child=("--ignore", "TERM"))
    parts = _parts(scenario, leader)
    for what, pid in parts.items():
        scenario.stop(pid, what)
    scenario.successor()
    scenario.elapse(2.5)
    resumed_ns = now_ns()
    for what, pid in parts.items():
        scenario.resume(pid, what)
    if scenario.ends(leases=3) and scenario.tree.ended_ns:
        scenario.facts["dead_after_resumption_s"] = (scenario.tree.ended_ns - resumed_ns) / 1e9


# --- the log ----------------------------------------------------------------------------------


def _is_full(pipe: int) -> bool:
    try:
        os.write(pipe, b"x" * 4096)
    except BlockingIOError:
        return True
    return False


def _log_pipe_full(scenario: Scenario) -> None:
    path = scenario.directory / "log-pipe"
    os.mkfifo(path)
    # Open until the cell's process ends: writing to what nobody has open fails, and never blocks.
    pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    leader = scenario.leader(
        child=("--ignore", "TERM"), wrapper=["sh", "-c", 'exec "$@" 2>"$0"', str(path)]
    )
    scenario.standby()
    stderr = os.readlink(f"/proc/{scenario.wrapper_of(leader)}/fd/2")
    scenario.prove("the wrapper's standard error is the pipe", lambda: stderr == str(path))
    scenario.begin()
    scenario.prove("the pipe is full", lambda: _is_full(pipe))
    scenario.network("a", lambda proxy: proxy.refuse(), "connections_closed")
    scenario.successor()
    scenario.ends(leases=1)
    scenario.prove("it is still full", lambda: _is_full(pipe))
    scenario.proxy("a").pass_through()


FAULTS: Final = (
    Fault(
        "wrapper stopped", GROUP, "the process that wraps the child is stopped for good",
        _wrapper_stopped, competitors=EVERYBODY, quick=True,
    ),
    Fault(
        "wrapper stopped and resumed", GROUP, "the same, and it goes on when another leads",
        _wrapper_stopped_and_resumed, competitors=EVERYBODY,
    ),
    Fault(
        "PID 1 stopped and resumed", GROUP,
        "the wrapper is PID 1, is stopped from outside and goes on when another leads",
        _init_stopped_and_resumed, competitors=WRAPPED,
    ),
    Fault(
        "wrapper killed", GROUP, "the process that wraps the child is killed",
        _wrapper_killed(), competitors=EVERYBODY, quick=True, gap_leases=_AT_ONCE,
    ),
    Fault(
        "PID 1 killed", GROUP, "the wrapper is PID 1 and is killed, and all that runs below it",
        _wrapper_killed(in_pid_namespace()), competitors=WRAPPED,
    ),
    Fault(
        "container restarted in its slot", GROUP,
        "a container is killed and starts anew in its pod while its lease of a minute lasts",
        _container_restarted, competitors=(OURS, AWAIT_ELECTION), after=After.SAME_CANDIDATE,
    ),
    Fault(
        "SIGTERM", GROUP, "the wrapper is asked to stop",
        _term, competitors=EVERYBODY, quick=True, gap_leases=_AT_ONCE,
    ),
    Fault(
        "SIGTERM, long drain", GROUP,
        "the wrapper is asked to stop, and the child takes longer than a lease to do so",
        _term_and_a_long_drain, competitors=EVERYBODY, gap_leases=_AT_ONCE,
    ),
    Fault(
        "child ends", GROUP, "the child ends by itself",
        _child_ends(signal.SIGUSR1, 3), competitors=EVERYBODY, gap_leases=_AT_ONCE,
    ),
    Fault(
        "child killed", GROUP, "the child is killed",
        _child_ends(signal.SIGKILL, 137), competitors=EVERYBODY, gap_leases=_AT_ONCE,
    ),
    Fault(
        "child stopped and continued", GROUP, "the child is stopped for longer than a lease",
        _child_stopped_and_continued, competitors=EVERYBODY, after=After.KEPT,
    ),
    Fault(
        "child stopped, then SIGTERM", GROUP,
        "the wrapper is asked to stop while its child is stopped",
        _child_stopped_then_term, competitors=EVERYBODY, gap_leases=_AT_ONCE,
    ),
    Fault(
        "elector stopped", GROUP, "the process that renews the lease is stopped for good",
        _elector_stopped, competitors=(OURS,), after=After.ANYTHING,
    ),
    Fault(
        "elector killed", GROUP, "the process that renews the lease is killed",
        _elector_killed(1), competitors=(OURS,), after=After.KEPT, quick=True,
    ),
    Fault(
        "elector killed ten times", GROUP, "the same ten times within two leases",
        _elector_killed(10), competitors=(OURS,), after=After.KEPT,
    ),
    Fault(
        "keeper stopped", GROUP, "the child's parent is stopped, below it hide descendants",
        _keeper_stopped, competitors=(OURS,), after=After.ANYTHING,
    ),
    Fault(
        "keeper killed", GROUP, "the child's parent is killed, below it hide descendants",
        _keeper_killed(), competitors=(OURS,), after=After.ANYTHING, quick=True,
    ),
    Fault(
        "keeper killed below PID 1", GROUP, "the same where the guardian is PID 1",
        _keeper_killed(in_pid_namespace()), competitors=(OURS,), after=After.ANYTHING,
    ),
    Fault(
        "spare keeper killed", GROUP, "the next child's parent is killed before it is needed",
        _spare_keeper(lambda scenario, pid, what: scenario.kill(pid, what)), competitors=(OURS,),
        gap_leases=_AT_ONCE,
    ),
    Fault(
        "spare keeper stopped", GROUP, "the next child's parent is stopped before it is needed",
        _spare_keeper(lambda scenario, pid, what: scenario.stop(pid, what)), competitors=(OURS,),
    ),
    Fault(
        "grant taken up too late", GROUP,
        "a guardian is stopped when its elector acquires, and goes on when another leads",
        _grant_waits, competitors=(OURS,),
    ),
    Fault(
        "start carried out too late", GROUP,
        "keeper and guardian are stopped between the decision to start the child and its start,"
        " and go on when another leads",
        _order_waits, competitors=(OURS,),
    ),
    Fault(
        "all killed at once", GROUP,
        "guardian, elector and keeper are killed in one instant; the child has no descendants",
        _all_killed((), promised=True), competitors=(OURS,),
    ),
    Fault(
        "all killed at once, descendants", GROUP,
        "guardian, elector and keeper are killed in one instant, off PID 1, and a descendant of"
        " the child lives on",
        _all_killed(_STUBBORN, promised=False), kind=Kind.REPORTED, competitors=(OURS,),
    ),
    Fault(
        "all killed at once, other user", GROUP,
        "guardian, elector and keeper are killed in one instant, off PID 1, and the child has"
        " changed its user",
        _all_killed(("--uid", "65534"), promised=False), kind=Kind.REPORTED, competitors=(OURS,),
    ),
    Fault(
        "all stopped at once", GROUP,
        "every process but the child is stopped, and goes on two and a half leases later",
        _all_stopped, kind=Kind.REPORTED, competitors=EVERYBODY,
    ),
    Fault(
        "log pipe full", GROUP,
        "nobody reads standard error, and the API refuses the leader",
        _log_pipe_full, competitors=(OURS, AWAIT_ELECTION),
    ),
)  # fmt: skip
