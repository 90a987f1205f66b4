"""What the child may be: stubborn, scattered, of another user, half dead, or not even executed.

A network that swallows everything is what befalls most of them, so that the tree must be dead at a
deadline and not when it pleases; all that is left of it counts for the witness.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.matrix.arena import BLACK_HOLED
from tests.matrix.model import AWAIT_ELECTION, CLIENT_GO, ETCDCTL, OURS, Scenario
from tests.support.candidates import as_user, is_gone, puppet_command, state_of
from tests.support.setuid import SetuidRoot
from tests.support.slowfs import SlowExecutable, script_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.matrix.arena import Arena

GROUP: Final = "tree"
_EVERYBODY: Final = (OURS, AWAIT_ELECTION, CLIENT_GO, ETCDCTL)

_NOBODY: Final = 65534
_CHAINS: Final = 20
#: Each link that is seen stands for this many.
_CHAIN_EVERY: Final = 50


def _cut_off(arena: Arena) -> None:
    """Let the leader's network swallow everything until somebody else leads."""
    arena.black_hole("a")
    arena.successor()
    arena.ends(leases=1)
    arena.proxy("a").pass_through()


def _child_cut_off(*child: str) -> Callable[[Arena], None]:
    def play(arena: Arena) -> None:
        arena.leader(child=child)
        arena.standby()
        _cut_off(arena)

    return play


def _fork_chains(arena: Arena) -> None:
    chains = ("--chains", str(_CHAINS), "--chain-every", str(_CHAIN_EVERY))
    arena.leader(child=(*chains, "--ignore", "ALL"))
    arena.standby()

    def links() -> int:
        arena.witness.sync()
        return len(arena.tree.with_role("chain"))

    arena.prove("the chains go on and on", lambda: links() > 3 * _CHAINS)
    _cut_off(arena)
    arena.facts["links_seen"] = links()


def _main_thread_gone(arena: Arena) -> None:
    arena.leader(child=("--leader-exits", "--ignore", "ALL"))
    arena.standby()
    main = arena.child_of(arena.tree)
    arena.prove("the main thread has ended", lambda: state_of(main) == "Z")
    arena.prove("another thread goes on", lambda: arena.witness.running() == [arena.tree])
    _cut_off(arena)


def _daemons_left(arena: Arena) -> None:
    leader = arena.leader(child=("--spawn", "daemon*3"))
    arena.standby()
    arena.kill(arena.child_of(arena.tree), "the child", signal.SIGKILL)
    arena.successor(leases=3)
    if arena.ours:
        arena.require("we exit with 137", arena.exit_code(leader) == 137)


def _other_user(arena: Arena) -> None:
    arena.leader(child=("--uid", str(_NOBODY), "--ignore", "TERM"))
    arena.standby()
    _prove_users(arena, {_NOBODY})
    _cut_off(arena)


def _other_user_and_wrapper_killed(arena: Arena) -> None:
    leader = arena.leader(child=("--uid", str(_NOBODY), "--ignore", "TERM"))
    arena.standby()
    _prove_users(arena, {_NOBODY})
    arena.kill(arena.wrapper_of(leader), "the wrapper")
    arena.successor()


def _prove_users(arena: Arena, users: set[int]) -> None:
    """Prove whose processes the tree is made of now."""

    def found() -> set[int]:
        arena.witness.sync()
        return {process.uid for process in arena.tree.processes if process.ended_ns is None}

    arena.prove(f"the child runs as {users}", lambda: found() == users)


def _kubeconfig_in(directory: Path, arena: Arena, name: str) -> str:
    """Write a candidate's kubeconfig where users other than root find it; return the option."""
    rally = arena.rally
    private = arena.plane.kubeconfig_for(
        token_file=rally.token_path, namespace=rally.namespace, server_url=arena.proxy(name).url
    )
    public = directory / f"kubeconfig-{name}"
    public.write_bytes(Path(private).read_bytes())
    return f"--kubeconfig={public}"


def _setuid(arena: Arena) -> None:
    with SetuidRoot() as program:
        arena.prove("the program makes a root of nobody", lambda: program.read() == (_NOBODY, 0))
        arena.leader(
            _kubeconfig_in(program.path.parent, arena, "a"),
            command=program.puppet("--ignore", "TERM"),
            wrapper=as_user(_NOBODY),
        )
        arena.standby()
        arena.require(
            "the child cannot become somebody whom its guardian may not kill",
            {process.uid for process in arena.tree.processes} == {_NOBODY},
        )
        _cut_off(arena)


def _cut_off_in_exec(arena: Arena, name: str) -> None:
    """Cut a candidate off whose child hangs in exec; it may ask nothing any more by then.

    A Go program may hang with its child: fork keeps one of the runtime's processors until exec is
    done, and what must stop all of them, as the collector of garbage does, waits for that one.
    """
    if arena.make == OURS:
        arena.black_hole(name)
        return
    proxy = arena.proxy(name)
    before = proxy.counters()
    arena.begin()
    proxy.black_hole()
    silent_from_s = time.monotonic() + arena.timing.lease_s

    def cut_off() -> str:
        now = proxy.counters()
        if any(now[counter] > before[counter] for counter in BLACK_HOLED):
            return "its requests are lost"
        silent = now["requests"] == before["requests"] and time.monotonic() > silent_from_s
        return "it has asked nothing for a lease" if silent else ""

    arena.proofs.append(arena.prove(f"{name} is cut off", cut_off))


def _exec_hangs(*, killable: bool) -> Callable[[Arena], None]:
    """Let a standby's child hang in exec, cut it off, and end the hang when another leads."""

    def play(arena: Arena) -> None:
        with SlowExecutable(arena.directory, script_of(puppet_command())) as slow:
            arena.leader()
            standby = arena.standby("b", command=[str(slow.path)], wrapper=slow.wrapper)
            slow.hang(killable=killable)
            arena.kill(arena.child_of(arena.tree), "the leader's child")
            (child,) = slow.wait_hung(timeout_s=arena.patience_s())
            arena.prove("the standby's child hangs in exec", lambda: slow.waiting() == [child])
            holder = standby.identity
            arena.prove("it leads", lambda: arena.rally.spec.get("holderIdentity") == holder)
            arena.standby("c")
            _cut_off_in_exec(arena, "b")
            arena.successor()
            if killable:
                arena.require("what hangs is dead when another leads", is_gone(child))
            slow.go_on()
            ended = arena.came(lambda: is_gone(child), timeout_s=arena.patience_s(3))
            arena.require("what hung is dead", ended)
            arena.require("it never ran", not arena.witness.trees("b"))
        arena.proxy("b").pass_through()

    return play


SCENARIOS: Final = (
    Scenario(
        "fork chains", GROUP,
        "twenty chains of processes that fork, change session and exit, when the leader is cut off",
        _fork_chains, alone=True,
    ),
    Scenario(
        "stubborn tree", GROUP,
        "child and grandchildren ignore every signal, these in sessions of their own and without"
        " environment, when the leader is cut off",
        _child_cut_off("--ignore", "ALL", "--spawn", "setsid+emptyenv+ignore*3"), quick=True,
    ),
    Scenario(
        "daemons left behind", GROUP, "the child is killed, and daemons that it started are left",
        _daemons_left, makes=_EVERYBODY, gap_leases=0.75,
    ),
    Scenario(
        "main thread gone", GROUP,
        "the child's main thread has ended, another works on, when the leader is cut off",
        _main_thread_gone,
    ),
    Scenario(
        "child of another user", GROUP, "the child has dropped its privileges, as gosu does, when"
        " the leader is cut off",
        _other_user,
    ),
    Scenario(
        "wrapper of another user's child killed", GROUP,
        "the same child, when the process that wraps it is killed",
        _other_user_and_wrapper_killed, makes=_EVERYBODY, gap_leases=0.75,
    ),
    Scenario(
        "setuid child", GROUP,
        "a guardian that is not root starts a program that is setuid root, and is cut off",
        _setuid, makes=(OURS,),
    ),
    Scenario(
        "exec hangs", GROUP,
        "the next child's executable is on a filesystem that hangs, its leader is cut off, and the"
        " filesystem goes on when another leads",
        _exec_hangs(killable=True), makes=(OURS, AWAIT_ELECTION),
    ),
    Scenario(
        "exec hangs, cannot be killed", GROUP,
        "the same, and what hangs is in uninterruptible sleep",
        _exec_hangs(killable=False), makes=(OURS, AWAIT_ELECTION),
    ),
)  # fmt: skip
