"""What the child may be: stubborn, scattered, of another user, half dead, or not even executed.

A network that swallows everything is what befalls most of them, so that the tree must be dead at a
deadline and not when it pleases; all that is left of it counts for the witness.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.matrix.model import EVERYBODY, Fault
from tests.matrix.scenario import BLACK_HOLED
from tests.support.candidate import as_user, child_command, is_gone, state_of
from tests.support.competitors import AWAIT_ELECTION, OURS
from tests.support.setuid import SetuidRoot
from tests.support.slowfs import SlowExecutable, script_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.matrix.scenario import Scenario

GROUP: Final = "tree"

_NOBODY: Final = 65534
_CHAINS: Final = 20
#: Each link that is seen stands for this many.
_CHAIN_EVERY: Final = 50


def _cut_off(scenario: Scenario) -> None:
    """Let the leader's network swallow everything until somebody else leads."""
    scenario.black_hole("a")
    scenario.successor()
    scenario.ends(leases=1)
    scenario.proxy("a").pass_through()


def _child_cut_off(*child: str) -> Callable[[Scenario], None]:
    def play(scenario: Scenario) -> None:
        scenario.pair(child=child)
        _cut_off(scenario)

    return play


def _fork_chains(scenario: Scenario) -> None:
    chains = ("--chains", str(_CHAINS), "--chain-every", str(_CHAIN_EVERY))
    scenario.pair(child=(*chains, "--ignore", "ALL"))

    def links() -> int:
        scenario.witness.sync()
        return len(scenario.tree.with_role("chain"))

    scenario.prove("the chains go on and on", lambda: links() > 3 * _CHAINS)
    _cut_off(scenario)
    scenario.facts["links_seen"] = links()


def _main_thread_gone(scenario: Scenario) -> None:
    scenario.pair(child=("--leader-exits", "--ignore", "ALL"))
    main = scenario.child_of(scenario.tree)
    scenario.prove("the main thread has ended", lambda: state_of(main) == "Z")
    scenario.prove("another thread goes on", lambda: scenario.witness.running() == [scenario.tree])
    _cut_off(scenario)


def _daemons_left(scenario: Scenario) -> None:
    leader = scenario.pair(child=("--spawn", "daemon*3"))
    scenario.kill(scenario.child_of(scenario.tree), "the child", signal.SIGKILL)
    scenario.successor(leases=3)
    if scenario.ours:
        scenario.require("it exits with 137", scenario.exit_code(leader) == 137)


def _other_user(scenario: Scenario) -> None:
    scenario.pair(child=("--uid", str(_NOBODY), "--ignore", "TERM"))
    _prove_users(scenario, {_NOBODY})
    _cut_off(scenario)


def _other_user_and_wrapper_killed(scenario: Scenario) -> None:
    leader = scenario.pair(child=("--uid", str(_NOBODY), "--ignore", "TERM"))
    _prove_users(scenario, {_NOBODY})
    scenario.kill(scenario.wrapper_of(leader), "the wrapper")
    scenario.successor()


def _prove_users(scenario: Scenario, users: set[int]) -> None:
    """Prove whose processes the tree is made of now."""

    def found() -> set[int]:
        scenario.witness.sync()
        return {process.uid for process in scenario.tree.processes if process.ended_ns is None}

    scenario.prove(f"the child runs as {users}", lambda: found() == users)


def _kubeconfig_in(directory: Path, scenario: Scenario, name: str) -> str:
    """Write a candidate's kubeconfig where users other than root find it; return the option."""
    candidates = scenario.candidates
    private = scenario.plane.kubeconfig_for(
        token_file=candidates.token_path,
        namespace=candidates.namespace,
        server_url=scenario.proxy(name).url,
    )
    public = directory / f"kubeconfig-{name}"
    public.write_bytes(Path(private).read_bytes())
    return f"--kubeconfig={public}"


def _setuid(scenario: Scenario) -> None:
    with SetuidRoot() as program:
        scenario.prove("the program makes a root of nobody", lambda: program.read() == (_NOBODY, 0))
        scenario.leader(
            _kubeconfig_in(program.path.parent, scenario, "a"),
            command=program.child_command("--ignore", "TERM"),
            wrapper=as_user(_NOBODY),
        )
        scenario.standby()
        scenario.require(
            "the child cannot become somebody whom its guardian may not kill",
            {process.uid for process in scenario.tree.processes} == {_NOBODY},
        )
        _cut_off(scenario)


def _cut_off_in_exec(scenario: Scenario, name: str) -> None:
    """Cut a candidate off whose child hangs in exec; it may ask nothing any more by then.

    A Go program may hang with its child: fork keeps one of the runtime's processors until exec is
    done, and what must stop all of them, as the collector of garbage does, waits for that one.
    """
    if scenario.competitor == OURS:
        scenario.black_hole(name)
        return
    proxy = scenario.proxy(name)
    before = proxy.counters()
    scenario.begin()
    proxy.black_hole()
    silent_from_s = time.monotonic() + scenario.timing.lease_s

    def cut_off() -> str:
        now = proxy.counters()
        if any(now[counter] > before[counter] for counter in BLACK_HOLED):
            return "its requests are lost"
        silent = now["requests"] == before["requests"] and time.monotonic() > silent_from_s
        return "it has asked nothing for a lease" if silent else ""

    scenario.proofs.append(scenario.prove(f"{name} is cut off", cut_off))


def _exec_hangs(*, killable: bool) -> Callable[[Scenario], None]:
    """Let a standby's child hang in exec, cut it off, and end the hang when another leads."""

    def play(scenario: Scenario) -> None:
        with SlowExecutable(scenario.directory, script_of(child_command())) as slow:
            scenario.leader()
            standby = scenario.standby("b", command=[str(slow.path)], wrapper=slow.wrapper)
            slow.hang(killable=killable)
            scenario.kill(scenario.child_of(scenario.tree), "the leader's child")
            (child,) = slow.wait_hung(timeout_s=scenario.patience_s())
            scenario.prove("the standby's child hangs in exec", lambda: slow.waiting() == [child])
            holder = standby.identity
            scenario.prove(
                "it leads", lambda: scenario.candidates.spec.get("holderIdentity") == holder
            )
            scenario.standby("c")
            _cut_off_in_exec(scenario, "b")
            scenario.successor()
            if killable:
                scenario.require("what hangs is dead when another leads", is_gone(child))
            slow.go_on()
            ended = scenario.came(lambda: is_gone(child), timeout_s=scenario.patience_s(3))
            scenario.require("what hung is dead", ended)
            scenario.require("it never ran", not scenario.witness.trees("b"))
        scenario.proxy("b").pass_through()

    return play


FAULTS: Final = (
    Fault(
        "fork chains", GROUP,
        "twenty chains of processes that fork, change session and exit, when the leader is cut off",
        _fork_chains, alone=True,
    ),
    Fault(
        "stubborn tree", GROUP,
        "child and grandchildren ignore every signal, these in sessions of their own and without"
        " environment, when the leader is cut off",
        _child_cut_off("--ignore", "ALL", "--spawn", "setsid+emptyenv+ignore*3"), quick=True,
    ),
    Fault(
        "daemons left behind", GROUP, "the child is killed, and daemons that it started are left",
        _daemons_left, competitors=EVERYBODY, gap_leases=0.75,
    ),
    Fault(
        "main thread gone", GROUP,
        "the child's main thread has ended, another works on, when the leader is cut off",
        _main_thread_gone,
    ),
    Fault(
        "child of another user", GROUP, "the child has dropped its privileges, as gosu does, when"
        " the leader is cut off",
        _other_user,
    ),
    Fault(
        "wrapper of another user's child killed", GROUP,
        "the same child, when the process that wraps it is killed",
        _other_user_and_wrapper_killed, competitors=EVERYBODY, gap_leases=0.75,
    ),
    Fault(
        "setuid child", GROUP,
        "a guardian that is not root starts a program that is setuid root, and is cut off",
        _setuid, competitors=(OURS,),
    ),
    Fault(
        "exec hangs", GROUP,
        "the next child's executable is on a filesystem that hangs, its leader is cut off, and the"
        " filesystem goes on when another leads",
        _exec_hangs(killable=True), competitors=(OURS, AWAIT_ELECTION),
    ),
    Fault(
        "exec hangs, cannot be killed", GROUP,
        "the same, and what hangs is in uninterruptible sleep",
        _exec_hangs(killable=False), competitors=(OURS, AWAIT_ELECTION),
    ),
)  # fmt: skip
