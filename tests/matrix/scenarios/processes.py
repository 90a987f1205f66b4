"""Processes of a candidate that are stopped, killed, asked to stop, or end by themselves.

Where a part of leaderexec is addressed that a peer does not have, the scenario is ours alone. A
wrapper that is to be PID 1 is started in a PID namespace of its own, where the kernel kills
everything with it, as in a container.
"""

from __future__ import annotations

import os
import signal
import uuid
from typing import TYPE_CHECKING, Final

from tests.matrix.model import AWAIT_ELECTION, CLIENT_GO, ETCDCTL, OURS, After, Kind, Scenario
from tests.support.candidates import in_pid_namespace, is_gone, state_of
from tests.support.witness import now_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.matrix.arena import Arena
    from tests.support.candidates import Candidate

GROUP: Final = "processes"
_EVERYBODY: Final = (OURS, AWAIT_ELECTION, CLIENT_GO, ETCDCTL)
#: Those that can be started behind something else, and so be PID 1.
_WRAPPED: Final = (OURS, AWAIT_ELECTION, ETCDCTL)

#: A descendant that is hard to find and hard to stop.
_STUBBORN: Final = ("--spawn", "setsid+emptyenv+ignore")
#: A handover so soon that nobody can have waited for the end of a lease.
_AT_ONCE: Final = 0.75
#: So long that whoever leads within the bounds of a scenario has not waited for its end.
_LONG: Final = ("--lease-duration=60s", "--renew-deadline=40s", "--retry-period=1s")


# --- the wrapper ------------------------------------------------------------------------------


def _wrapper_stopped(arena: Arena) -> None:
    leader = arena.leader(child=("--ignore", "TERM"))
    arena.standby()
    wrapper = arena.wrapper_of(leader)
    arena.stop(wrapper, "the wrapper")
    if arena.successor():
        arena.elapse(2.5)


def _wrapper_stopped_and_resumed(arena: Arena) -> None:
    leader = arena.leader(child=("--ignore", "TERM"))
    arena.standby()
    wrapper = arena.wrapper_of(leader)
    arena.stop(wrapper, "the wrapper")
    arena.successor()
    if arena.ours:
        arena.require("its elector killed the stopped guardian", is_gone(wrapper))
    else:
        arena.resume(wrapper, "the wrapper")


def _init_stopped_and_resumed(arena: Arena) -> None:
    leader = arena.leader(child=("--ignore", "TERM"), wrapper=in_pid_namespace())
    standby = arena.standby()
    wrapper = arena.wrapper_of(leader)
    arena.stop(wrapper, "PID 1")
    second = arena.successor()
    arena.require("PID 1 is still stopped when another leads", state_of(wrapper) == "T")
    arena.resume(wrapper, "PID 1")
    if arena.ours and second:
        standby.terminate()
        third = arena.successor(second)
        arena.require("resumed, it leads again", third and third.candidate == "a")


def _wrapper_killed(wrapper: Sequence[str] = ()) -> Callable[[Arena], None]:
    def play(arena: Arena) -> None:
        leader = arena.leader(child=_STUBBORN, wrapper=wrapper)
        arena.standby()
        arena.kill(arena.wrapper_of(leader), "the wrapper")
        arena.successor()

    return play


def _container_restarted(arena: Arena) -> None:
    slot = {
        "POD_NAME": "server-0",
        "POD_NAMESPACE": arena.rally.namespace,
        "POD_UID": str(uuid.uuid4()),
        "CONTAINER_NAME": "server",
    }
    leader = arena.leader(*_LONG, child=_STUBBORN, wrapper=in_pid_namespace(), env=slot)
    arena.standby("b", *_LONG)
    arena.kill(arena.wrapper_of(leader), "PID 1 of the container")
    arena.require("nothing of the container is left", arena.ends())
    arena.exit_code(leader)
    # A peer's tree is known by a pid, which in a new namespace may be the same again.
    again = () if arena.ours else ("--run", "again")
    arena.start("a", *_LONG, child=again, wrapper=in_pid_namespace(), env=slot)
    arena.successor()


# --- a request to stop ------------------------------------------------------------------------


def _term(arena: Arena) -> None:
    leader = arena.leader(child=("--drain", "0.5", "--exit", "7"))
    arena.standby()
    arena.deliver(arena.wrapper_of(leader), "the wrapper")
    arena.successor(leases=3)
    if arena.ours:
        arena.require("the child's exit code is ours", arena.exit_code(leader) == 7)


def _term_and_a_long_drain(arena: Arena) -> None:
    options = [f"--stop-timeout={4 * arena.timing.lease_s}s"] if arena.ours else []
    drain = ("--drain", str(1.25 * arena.timing.lease_s), "--exit", "7")
    leader = arena.leader(*options, child=drain)
    arena.standby()
    arena.deliver(arena.wrapper_of(leader), "the wrapper")
    arena.successor(leases=4)
    if arena.ours:
        arena.require("the child was given its time", arena.exit_code(leader) == 7)


# --- the child --------------------------------------------------------------------------------


def _child_ends(signum: signal.Signals, code: int) -> Callable[[Arena], None]:
    def play(arena: Arena) -> None:
        leader = arena.leader(child=("--exit-on", "USR1", "--exit", "3"))
        arena.standby()
        arena.kill(arena.child_of(arena.tree), "the child", signum)
        arena.successor(leases=3)
        if arena.ours:
            arena.require(f"we exit with {code}", arena.exit_code(leader) == code)

    return play


def _child_stopped_and_continued(arena: Arena) -> None:
    arena.leader()
    arena.standby()
    child = arena.child_of(arena.tree)
    arena.stop(child, "the child")
    arena.elapse(1.5)
    arena.require("nobody else continued the child", state_of(child) == "T")
    arena.resume(child, "the child")
    arena.elapse(1.75)


def _child_stopped_then_term(arena: Arena) -> None:
    leader = arena.leader(child=("--exit-on", "TERM", "--exit", "7"))
    arena.standby()
    arena.stop(arena.child_of(arena.tree), "the child")
    arena.deliver(arena.wrapper_of(leader), "the wrapper")
    arena.successor(leases=3)
    if arena.ours:
        arena.require("the child could stop by itself", arena.exit_code(leader) == 7)


# --- elector and keeper -----------------------------------------------------------------------


def _elector_stopped(arena: Arena) -> None:
    leader = arena.leader(child=("--ignore", "TERM"))
    arena.standby()
    elector = leader.elector
    arena.stop(elector, "the elector")
    found_out = arena.came(lambda: is_gone(elector), timeout_s=arena.patience_s())
    arena.require("the silent elector is killed", found_out)
    arena.elapse(1.5)


def _elector_killed(times: int) -> Callable[[Arena], None]:
    def play(arena: Arena) -> None:
        leader = arena.leader()
        arena.standby()
        for number in range(1, times + 1):
            arena.kill(leader.elector, f"elector {number}")
            resumed = arena.came(
                lambda n=number: len(leader.events("resumed leadership")) >= n,  # type: ignore[misc]
                timeout_s=arena.patience_s(),
            )
            arena.require("another elector goes on for it", resumed)
            if not resumed:
                return
            arena.elapse(2 * number / times)

    return play


def _keeper_stopped(arena: Arena) -> None:
    leader = arena.leader(child=_STUBBORN)
    arena.standby()
    arena.stop(leader.keeper, "the keeper")
    arena.require("the tree is killed without its keeper", arena.ends())
    arena.require("another child follows", arena.successor())


def _keeper_killed(wrapper: Sequence[str] = ()) -> Callable[[Arena], None]:
    def play(arena: Arena) -> None:
        leader = arena.leader(child=_STUBBORN, wrapper=wrapper)
        guardian = leader.guardian
        arena.standby()
        arena.kill(leader.keeper, "the keeper")
        arena.require("what it left is killed", arena.ends())
        arena.require("another child follows", arena.successor())
        arena.require("the guardian lives on", not is_gone(guardian))

    return play


def _spare_keeper(inflict: Callable[[Arena, int, str], None]) -> Callable[[Arena], None]:
    """Befall the keeper that a standby has in store, and hand over to it at once."""

    def play(arena: Arena) -> None:
        leader = arena.leader()
        standby = arena.standby()
        inflict(arena, standby.keeper, "the standby's keeper")
        leader.terminate()
        arena.successor()

    return play


# --- stopped between decision and deed ---------------------------------------------------------


def _acquired_by(arena: Arena, name: str) -> None:
    """Ask the leader to stop, and wait until the lock is another's."""
    identity = arena.candidate(name).identity
    arena.candidate("a").terminate()
    arena.prove(f"{name} has the lock", lambda: arena.rally.spec.get("holderIdentity") == identity)


def _stands_by_again(arena: Arena, name: str) -> None:
    """Require of a candidate that slept through its leadership that it starts nothing for it."""
    proxy = arena.proxy(name)
    standing = arena.came(
        lambda: proxy.counters()["watches_open"] > 0, timeout_s=arena.patience_s()
    )
    arena.require("resumed, it stands by", standing)
    arena.require("no child was started for the old leadership", not arena.witness.trees(name))


def _grant_waits(arena: Arena) -> None:
    arena.leader()
    slow = arena.standby("b", wrapper=in_pid_namespace())
    guardian = slow.guardian
    arena.stop(guardian, "the standby's guardian, PID 1")
    _acquired_by(arena, "b")
    arena.standby("c")
    arena.successor()
    arena.resume(guardian, "the standby's guardian")
    _stands_by_again(arena, "b")


def _order_waits(arena: Arena) -> None:
    arena.leader()
    slow = arena.standby("b", wrapper=in_pid_namespace())
    guardian, keeper = slow.guardian, slow.keeper
    arena.stop(keeper, "the standby's keeper")
    _acquired_by(arena, "b")
    arena.prove("its guardian has decided to start the child", lambda: slow.events("running"))
    arena.stop(guardian, "the standby's guardian, PID 1")
    arena.standby("c")
    arena.successor()
    arena.resume(keeper, "the standby's keeper")
    arena.resume(guardian, "the standby's guardian")  # the order may wait for it as well
    ended = arena.came(lambda: is_gone(keeper), timeout_s=arena.patience_s())
    arena.require("the keeper ends without a child", ended)
    _stands_by_again(arena, "b")


# --- several at once --------------------------------------------------------------------------


def _parts(arena: Arena, leader: Candidate) -> dict[str, int]:
    """Return every process of a leader but the child's."""
    if not arena.ours:
        return {"the wrapper": arena.wrapper_of(leader)}
    return {
        "the elector": leader.elector,
        "the keeper": leader.keeper,
        "the guardian": leader.guardian,
    }


def _all_killed(child: Sequence[str], *, promised: bool) -> Callable[[Arena], None]:
    def play(arena: Arena) -> None:
        leader = arena.leader(child=child)
        arena.standby()
        parts = _parts(arena, leader)
        for what, pid in parts.items():  # so that none can act on the death of another
            arena.stop(pid, what)
        # The guardian last: the kernel continues what is stopped in the groups that it orphans.
        for what, pid in parts.items():
            arena.kill(pid, what)
        if promised:
            arena.require("the child dies with its keeper", arena.ends(leases=0.5))
        arena.successor()

    return play


def _all_stopped(arena: Arena) -> None:
    leader = arena.leader(child=("--ignore", "TERM"))
    arena.standby()
    parts = _parts(arena, leader)
    for what, pid in parts.items():
        arena.stop(pid, what)
    arena.successor()
    arena.elapse(2.5)
    resumed_ns = now_ns()
    for what, pid in parts.items():
        arena.resume(pid, what)
    if arena.ends(leases=3) and arena.tree.ended_ns:
        arena.facts["dead_after_resumption_s"] = (arena.tree.ended_ns - resumed_ns) / 1e9


# --- the log ----------------------------------------------------------------------------------


def _is_full(pipe: int) -> bool:
    try:
        os.write(pipe, b"x" * 4096)
    except BlockingIOError:
        return True
    return False


def _log_pipe_full(arena: Arena) -> None:
    path = arena.directory / "log-pipe"
    os.mkfifo(path)
    # Open until the cell's process ends: writing to what nobody has open fails, and never blocks.
    pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    leader = arena.leader(
        child=("--ignore", "TERM"), wrapper=["sh", "-c", 'exec "$@" 2>"$0"', str(path)]
    )
    arena.standby()
    stderr = os.readlink(f"/proc/{arena.wrapper_of(leader)}/fd/2")
    arena.prove("the wrapper's standard error is the pipe", lambda: stderr == str(path))
    arena.begin()
    arena.prove("the pipe is full", lambda: _is_full(pipe))
    arena.network("a", lambda proxy: proxy.refuse(), "connections_closed")
    arena.successor()
    arena.ends(leases=1)
    arena.prove("it is still full", lambda: _is_full(pipe))
    arena.proxy("a").pass_through()


SCENARIOS: Final = (
    Scenario(
        "wrapper stopped", GROUP, "the process that wraps the child is stopped for good",
        _wrapper_stopped, makes=_EVERYBODY, quick=True,
    ),
    Scenario(
        "wrapper stopped and resumed", GROUP, "the same, and it goes on when another leads",
        _wrapper_stopped_and_resumed, makes=_EVERYBODY,
    ),
    Scenario(
        "PID 1 stopped and resumed", GROUP,
        "the wrapper is PID 1, is stopped from outside and goes on when another leads",
        _init_stopped_and_resumed, makes=_WRAPPED,
    ),
    Scenario(
        "wrapper killed", GROUP, "the process that wraps the child is killed",
        _wrapper_killed(), makes=_EVERYBODY, quick=True, gap_leases=_AT_ONCE,
    ),
    Scenario(
        "PID 1 killed", GROUP, "the wrapper is PID 1 and is killed, and all that runs below it",
        _wrapper_killed(in_pid_namespace()), makes=_WRAPPED,
    ),
    Scenario(
        "container restarted in its slot", GROUP,
        "a container is killed and starts anew in its pod while its lease of a minute lasts",
        _container_restarted, makes=(OURS, AWAIT_ELECTION), after=After.SAME_CANDIDATE,
    ),
    Scenario(
        "SIGTERM", GROUP, "the wrapper is asked to stop",
        _term, makes=_EVERYBODY, quick=True, gap_leases=_AT_ONCE,
    ),
    Scenario(
        "SIGTERM, long drain", GROUP,
        "the wrapper is asked to stop, and the child takes longer than a lease to do so",
        _term_and_a_long_drain, makes=_EVERYBODY, gap_leases=_AT_ONCE,
    ),
    Scenario(
        "child ends", GROUP, "the child ends by itself",
        _child_ends(signal.SIGUSR1, 3), makes=_EVERYBODY, gap_leases=_AT_ONCE,
    ),
    Scenario(
        "child killed", GROUP, "the child is killed",
        _child_ends(signal.SIGKILL, 137), makes=_EVERYBODY, gap_leases=_AT_ONCE,
    ),
    Scenario(
        "child stopped and continued", GROUP, "the child is stopped for longer than a lease",
        _child_stopped_and_continued, makes=_EVERYBODY, after=After.KEPT,
    ),
    Scenario(
        "child stopped, then SIGTERM", GROUP,
        "the wrapper is asked to stop while its child is stopped",
        _child_stopped_then_term, makes=_EVERYBODY, gap_leases=_AT_ONCE,
    ),
    Scenario(
        "elector stopped", GROUP, "the process that renews the lease is stopped for good",
        _elector_stopped, makes=(OURS,), after=After.ANYTHING,
    ),
    Scenario(
        "elector killed", GROUP, "the process that renews the lease is killed",
        _elector_killed(1), makes=(OURS,), after=After.KEPT, quick=True,
    ),
    Scenario(
        "elector killed ten times", GROUP, "the same ten times within two leases",
        _elector_killed(10), makes=(OURS,), after=After.KEPT,
    ),
    Scenario(
        "keeper stopped", GROUP, "the child's parent is stopped, below it hide descendants",
        _keeper_stopped, makes=(OURS,), after=After.ANYTHING,
    ),
    Scenario(
        "keeper killed", GROUP, "the child's parent is killed, below it hide descendants",
        _keeper_killed(), makes=(OURS,), after=After.ANYTHING, quick=True,
    ),
    Scenario(
        "keeper killed below PID 1", GROUP, "the same where the guardian is PID 1",
        _keeper_killed(in_pid_namespace()), makes=(OURS,), after=After.ANYTHING,
    ),
    Scenario(
        "spare keeper killed", GROUP, "the next child's parent is killed before it is needed",
        _spare_keeper(lambda arena, pid, what: arena.kill(pid, what)), makes=(OURS,),
        gap_leases=_AT_ONCE,
    ),
    Scenario(
        "spare keeper stopped", GROUP, "the next child's parent is stopped before it is needed",
        _spare_keeper(lambda arena, pid, what: arena.stop(pid, what)), makes=(OURS,),
    ),
    Scenario(
        "grant taken up too late", GROUP,
        "a guardian is stopped when its elector acquires, and goes on when another leads",
        _grant_waits, makes=(OURS,),
    ),
    Scenario(
        "start carried out too late", GROUP,
        "keeper and guardian are stopped between the decision to start the child and its start,"
        " and go on when another leads",
        _order_waits, makes=(OURS,),
    ),
    Scenario(
        "all killed at once", GROUP,
        "guardian, elector and keeper are killed in one instant; the child has no descendants",
        _all_killed((), promised=True), makes=(OURS,),
    ),
    Scenario(
        "all killed at once, descendants", GROUP,
        "guardian, elector and keeper are killed in one instant, off PID 1, and a descendant of"
        " the child lives on",
        _all_killed(_STUBBORN, promised=False), kind=Kind.REPORTED, makes=(OURS,),
    ),
    Scenario(
        "all killed at once, other user", GROUP,
        "guardian, elector and keeper are killed in one instant, off PID 1, and the child has"
        " changed its user",
        _all_killed(("--uid", "65534"), promised=False), kind=Kind.REPORTED, makes=(OURS,),
    ),
    Scenario(
        "all stopped at once", GROUP,
        "every process but the child is stopped, and goes on two and a half leases later",
        _all_stopped, kind=Kind.REPORTED, makes=_EVERYBODY,
    ),
    Scenario(
        "log pipe full", GROUP,
        "nobody reads standard error, and the API refuses the leader",
        _log_pipe_full, makes=(OURS, AWAIT_ELECTION),
    ),
)  # fmt: skip
