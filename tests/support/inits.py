"""Other inits beside leaderexec: tini and dumb-init, as Debian has them, started as candidates are.

Owns: which inits there are, how each is started around a command, finding the init and its child,
and the *sheet*: everything about a process that whoever executed it may have changed.
Must not know: what any of them promises. That is data of the tests.

A sheet is read from outside, out of /proc, so that the child may be any program, and one that
changes nothing itself: an interpreter would already have changed what is looked for.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.candidate import Candidate
from tests.support.required import missing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.support.candidates import Candidates

#: Every init, and with which of its flags; `direct` is none: the command itself.
DIRECT: Final = "direct"
OURS: Final = ("leaderexec", "leaderexec --signal-group")
THEIRS: Final = ("tini", "tini -g", "dumb-init", "dumb-init -c")
MAKES: Final = (*THEIRS, *OURS)

#: A child that does nothing, and changes nothing about itself.
IDLE_CHILD: Final = ("sleep", "3600")

#: Lines of /proc/PID/status that no two processes have in common, or that say how much it uses.
_OWN_STATUS: Final = re.compile(
    r"Name|State|Pid|PPid|Tgid|Ngid|NS\w+|TracerPid|FDSize|SigQ|Vm\w+|Rss\w+|HugetlbPages|\w*ctxt\w*"
)
#: Where /proc/PID/stat has these, counted behind the name.
_STAT_FIELDS: Final = {"nice": 16, "rt_priority": 37, "policy": 38}
_TEXTS: Final = (
    "cgroup", "coredump_filter", "limits", "loginuid", "oom_score_adj", "personality",
    "timerslack_ns", "uid_map", "gid_map",
)  # fmt: skip
_LINKS: Final = (
    "cwd", "exe", "root", "ns/cgroup", "ns/ipc", "ns/net", "ns/time", "ns/user", "ns/uts",
)  # fmt: skip
_numbers = itertools.count()


def program_of(make: str) -> str:
    """Return a make without its flags."""
    return make.partition(" ")[0]


@dataclass
class Init(Candidate):
    """One init around a command; unless it is ours, it starts that at once."""

    make: str = OURS[0]

    def argv(self) -> list[str]:
        """Return how it is started, as far as its command."""
        program, *flags = self.make.split()
        if self.make in OURS:
            return [*super().argv(), *flags]
        if self.make == DIRECT:
            # The words behind the `--` that follows are executed as they are.
            return [*self.wrapper, "env"]
        found = shutil.which(program) or missing(program, f"the package {program} has it")
        return [*self.wrapper, found, *flags]

    @property
    def guardian(self) -> int:
        """The pid of the init."""
        return self.wait_named(program_of(self.make))

    def wait_child(self) -> int:
        """Wait until the child does nothing any more, and return its pid."""
        return self.wait_named(IDLE_CHILD[0])


def make_init(
    candidates: Candidates,
    make: str,
    *options: str,
    child: Sequence[str] = IDLE_CHILD,
    wrapper: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Init:
    """Return an init that is not started; what is left of it ends with the candidates.

    `options` are for ours alone. Each has an election of its own, so that it always leads.
    """
    name = f"probed-{next(_numbers):06}"
    lock = (f"--election={name}", f"--lock=file:{candidates.directory / name}.lock")
    init = Init(
        name=name,
        options=(*lock, *candidates.timing, *options) if make in OURS else (),
        command=child,
        directory=candidates.directory,
        env={**candidates.witness.env(name), **(env or {})},
        wrapper=wrapper,
        make=make,
    )
    candidates.by_name[name] = init
    return init


def sheet(init: Init, pid: int) -> dict[str, str]:
    """Return what a process is and has been given, with nothing that names this very process."""
    proc = Path(f"/proc/{pid}")
    found = {
        name: value.strip()
        for name, _, value in (
            line.partition(":") for line in (proc / "status").read_text().splitlines()
        )
        if not _OWN_STATUS.fullmatch(name)
    }
    for name in _TEXTS:
        with contextlib.suppress(FileNotFoundError):  # not in every kernel
            found[name] = (proc / name).read_text().strip()
    found |= {name: os.readlink(proc / name) for name in _LINKS}
    stat = (proc / "stat").read_text().rpartition(")")[2].split()
    found |= {name: stat[index] for name, index in _STAT_FIELDS.items()}
    with contextlib.suppress(FileNotFoundError):
        found |= dict(re.findall(r"(?m)^(se\.slice)\s*:\s*(\d+)", (proc / "sched").read_text()))
    found["ionice"] = subprocess.check_output(["ionice", "-p", str(pid)], text=True)
    for name in ("environ", "cmdline"):
        found[name] = (proc / name).read_bytes().decode("latin-1")
    for fd in os.listdir(proc / "fd"):
        flags = re.search(r"flags:\s*(\d+)", (proc / "fdinfo" / fd).read_text())
        found[f"fd {fd}"] = f"{os.readlink(proc / 'fd' / fd)} {flags and flags[1]}"
    # Each of these was made for this init alone.
    made = re.compile(r"\b(pipe|socket|anon_inode):\[\d+\]")
    return {key: made.sub(r"\1", value.replace(init.name, "INIT")) for key, value in found.items()}
