"""Plays dramas of elections from text files and compares what happens with what is written there.

Owns the little language of tests/unit/transcripts/*.txt and the words for effects. A file is a
sequence of blocks: commands, a line `----`, what happened because of them, a blank line. Lines that
begin with `#` are for people. Everything is played on `simulation.World` without any chance.

    candidate NAME [as-pid-1]       a candidate starts; `drains 5s` / `ignores stop`: its trees
    candidate NAME sidecar          one without a child
    start NAME                      another starts where one was killed, under the same name
    wait 2s                         time passes
    network NAME MODE               see simulation.Network; `ok` mends it
    kill NAME elector|guardian|keeper       SIGKILL
    stop NAME ...                   SIGSTOP
    cont NAME ...                   SIGCONT
    ask NAME TERM|INT               a request to stop
    exit NAME                       the child ends by itself with 3
    delete | patch FIELD=VALUE | label      somebody edits the lock
    next NAME                       somebody puts NAME in line

Renewals that succeed are counted, not listed. Set LEADEREXEC_REWRITE=1 to write what happens into
the files, and read the difference.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from leaderexec import election, tenure
from leaderexec.model import SECOND_NS, Record, Snapshot
from tests.support.simulation import DEFAULT, INT, TERM, Candidate, Host, Setup, World

if TYPE_CHECKING:
    from collections.abc import Iterator

_FOLDER: Final = Path(__file__).parent / "transcripts"
_REWRITE: Final = bool(os.environ.get("LEADEREXEC_REWRITE"))
_SIGNALS: Final = {"TERM": TERM, "INT": INT}


class Stage:
    """A world in which only the commands of a file happen."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._world = World(
            0,
            Setup(
                candidates=0,
                timing=DEFAULT,
                skew_ppm=0,
                voluntary=False,
                restarts=False,
                steady=True,
                stop_timeouts_s=(20,),
                on_losses=(tenure.OnLoss.STANDBY,),
            ),
        )
        self._world.listener = self._hear
        self._hosts: dict[str, Host] = {}
        self._renewals: dict[str, tuple[int, int]] = {}

    # --- commands ---

    def play(self, command: str) -> None:
        """Carry out one command and all that happens at once because of it."""
        verb, *words = command.split()
        match verb, words:
            case "candidate", [name, *options]:
                self._world.setup = replace(
                    self._world.setup,
                    pid1=float("as-pid-1" in options),
                    sidecars=float("sidecar" in options),
                )
                host = self._world.add_host(name)
                host.drain_ns = 0
                self._hosts[name] = host
                if "drains" in options:
                    host.drain_ns = _duration_ns(options[options.index("drains") + 1])
                if "ignores" in options:
                    host.drain_ns = -1
            case "start", [name]:
                self._hosts[name].start_again()
            case "wait", [text]:
                self._world.advance(_duration_ns(text))
            case "network", [name, "ok"]:
                self._hosts[name].network.mode = "ok"
            case "network", [name, mode]:
                self._world.disturb_network(self._hosts[name], mode, 10**6 * SECOND_NS)
            case "kill", [name, role]:
                self._world.kill(self._hosts[name], role)
            case "stop", [name, role]:
                self._world.pause(self._hosts[name], role, None)
            case "cont", [name, role]:
                process = getattr(self._hosts[name].candidate, role)
                process.resume()
            case "ask", [name, signal]:
                self._world.ask_to_stop(self._hosts[name], _SIGNALS[signal])
            case "exit", [name]:
                tree = self._hosts[name].candidate.tree
                assert tree is not None, f"{name} runs nothing"
                tree.end_by_itself()
            case "delete", []:
                self._world.server.delete()
            case "label", []:
                self._world.server.patch()
            case "next", [name]:
                self._world.server.name(name)
            case "patch", [text]:
                field, value = text.split("=")
                self._world.server.patch(**{field: value})
            case _:
                raise ValueError(f"no such command: {command}")

    def done(self) -> list[str]:
        """Return what happened since the last time."""
        self._tell_renewals()
        lines, self.lines = self.lines, []
        return lines

    # --- what happens ---

    def _say(self, who: str, what: str) -> None:
        self._tell_renewals()
        self.lines.append(f"{self._world.loop.now / SECOND_NS:7.2f}  {who:<12} {what}")

    def _tell_renewals(self) -> None:
        renewals, self._renewals = self._renewals, {}
        for name, (count, until_ns) in renewals.items():
            times = "once" if count == 1 else f"{count} times"
            self._say(f"{name} elector", f"renewed {times}, now until {_seconds(until_ns)}")

    def _hear(self, candidate: Candidate | None, role: str, what: object) -> None:
        if candidate is None:
            self._hear_lock(what)
            return
        name = candidate.identity
        match what:
            case str():
                self._say(f"{name} {role}", what)
            case election.SendGrant(grant=grant):
                core = candidate.elector.core if candidate.elector else None
                until_ns = candidate.host.clocks.when(grant.expires_at_ns)
                held = candidate.guardian.core.grant
                if core and held is not None and held.token == grant.token:
                    count, _ = self._renewals.get(name, (0, 0))
                    self._renewals[name] = (count + 1, until_ns)
                else:
                    self._say(f"{name} elector", f"grants until {_seconds(until_ns)}")
            case _:
                for words in self._words(candidate, what):
                    self._say(f"{name} {role}", words)

    def _hear_lock(self, change: object) -> None:
        assert isinstance(change, tuple)
        before, after = change
        if after is None:
            self._say("lock", "deleted")
            return
        assert isinstance(after, Snapshot)
        if not isinstance(before, Snapshot):
            self._say("lock", f"created, held by {_holder(after.record)}")
        elif before.record.holder != after.record.holder:
            self._say("lock", f"held by {_holder(after.record)}, version {after.version}")
        elif before.successor != after.successor:
            self._say("lock", f"next is {after.successor}, version {after.version}")
        elif before.record == after.record:
            self._say("lock", f"labelled, version {after.version}")

    def _words(self, candidate: Candidate, what: object) -> Iterator[str]:
        """Say what an effect is, or nothing where it is routine."""
        match what:
            case election.Note(event="election state", fields=fields):
                yield f"{fields['before']} -> {fields['after']}: {fields['reason']}"
            case tenure.Note(fields={"before": before, "reason": reason}, event=after):
                yield f"{before} -> {after}: {reason}"
            case election.Note(level=level, event=event) | tenure.Note(level=level, event=event):
                if level in {"warning", "error"}:
                    yield f"! {event}"
            case tenure.PingKeeper() | election.SendBeat():
                pass
            case election.Failed(failure=failure):
                yield f"a call failed: {failure.message}"
            case _ if type(what).__module__ == election.__name__:
                yield from self._words_of_elector(candidate, what)
            case _:
                yield from self._words_of_guardian(candidate, what)

    def _words_of_elector(self, candidate: Candidate, what: object) -> Iterator[str]:
        match what:
            case election.Read():
                yield "reads"
            case election.Create():
                yield "creates the lock"
            case election.Update(record=record, seen=seen):
                mine = seen.record.holder == record.holder == candidate.identity
                if not mine or not self._leads(candidate):
                    yield f"writes {_holder(record)} over version {seen.version}"
            case election.NameSuccessor(seen=seen):
                yield f"names itself next over version {seen.version}"
            case election.OpenWatch():
                yield "watches"
            case election.CloseWatch():
                yield "stops watching"
            case election.SendLost(reason=reason):
                yield f"reports the loss: {reason}"
            case election.SendStanding(leader=leader, reason=reason):
                yield f"stands by: {leader or 'nobody'} leads ({reason})"
            case election.SendReleased(outcome=outcome, retired=retired):
                yield f"reports the release: {outcome}{', retires' if retired else ''}"
            case election.KillGuardian():
                yield "kills the guardian"
            case _:
                raise AssertionError(what)

    def _words_of_guardian(self, candidate: Candidate, what: object) -> Iterator[str]:
        when = candidate.host.clocks.when
        match what:
            case tenure.SignalTree() | tenure.SetDeadline() | tenure.KillTree() if (
                not candidate.has_child
            ):
                pass  # there is no keeper to be told
            case tenure.StartElector(generation=generation):
                yield f"starts elector {generation}"
            case tenure.KillElector():
                yield "kills the elector"
            case tenure.StartTree(grant=grant, stop_at_ns=stop_ns, kill_at_ns=kill_ns):
                stop, kill = _seconds(when(stop_ns)), _seconds(when(kill_ns))
                yield f"starts a tree, token {grant.token}: stop at {stop}, kill at {kill}"
            case tenure.SignalTree(signum=signum, scope=scope, stop=stopping):
                name = {v: k for k, v in _SIGNALS.items()}[signum]
                whom = "everything" if scope is tenure.Scope.ALL else f"the {scope.value}"
                yield f"sends {name} to {whom}" + ("" if stopping else " as it came")
            case tenure.SetDeadline(kill_at_ns=kill_ns):
                if candidate.guardian.core.state is not tenure.State.RUNNING:
                    yield f"will kill at {_seconds(when(kill_ns))}"
            case tenure.KillTree():
                yield "kills the tree"
            case tenure.TakeOver():
                yield "kills the keeper and what it leaves"
            case tenure.AskRelease(retire=retire):
                yield "asks to give the lock back" + (" for good" if retire else "")
            case tenure.End(exit_code=code):
                yield f"exits with {code}"
            case _:
                raise AssertionError(what)

    def _leads(self, candidate: Candidate) -> bool:
        elector = candidate.elector
        return elector is not None and elector.core.state is election.State.LEADER


def _holder(record: Record) -> str:
    return record.holder or "nobody"


def _seconds(true_ns: int) -> str:
    return f"{true_ns / SECOND_NS:.2f}"


def _duration_ns(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)", text)
    assert match, f"not a duration: {text}"
    return int(float(match[1]) * (SECOND_NS if match[2] == "s" else SECOND_NS // 1000))


def _played(text: str) -> str:
    """Play a file and return it with what happened in place of what was expected."""
    stage = Stage()
    written: list[str] = []
    expecting = False
    for line in text.splitlines():
        if expecting:
            expecting = bool(line.strip())
            if not expecting:
                written.append("")
        elif line == "----":
            written += [line, *stage.done()]
            expecting = True
        else:
            written.append(line)
            if line.strip() and not line.startswith("#"):
                stage.play(line)
    return "\n".join(written).rstrip("\n") + "\n"


@pytest.mark.parametrize("path", sorted(_FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_a_drama_goes_as_it_is_written(path: Path) -> None:
    """What the commands of a transcript cause is what stands there, to the hundredth second."""
    expected = path.read_text()
    played = _played(expected)
    if _REWRITE:
        path.write_text(played)
    else:
        assert played == expected


def test_there_are_dramas() -> None:
    """An empty folder would make every drama pass."""
    assert len(list(_FOLDER.glob("*.txt"))) >= 8


def test_an_unknown_command_is_refused() -> None:
    """A misspelt command does not pass for one that does nothing."""
    with pytest.raises(ValueError, match="no such command: wiat"):
        Stage().play("wiat 2s")
