"""The command line: what is accepted, what it becomes, and what a wrong value is answered with.

What is given and what is answered stands in golden/config.txt, COMMANDs in golden/commands.txt,
and --help in golden/help.txt: see tests/support/golden.py. Here are the rules that no single line
shows, and what the real machine answers.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import fields, replace
from fractions import Fraction
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaderexec import exits
from leaderexec.config import (
    MAX_SECONDS,
    MISSING,
    OPTIONS,
    SERVICE_ACCOUNT,
    CommandError,
    Config,
    HelpRequested,
    Host,
    InstallRequested,
    Option,
    UsageError,
    VersionRequested,
    help_text,
    parse,
    parse_duration,
    refuse_nesting,
    resolve_command,
)
from leaderexec.model import SECOND_NS
from tests.support import golden

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

IN_POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
TOKEN = f"{SERVICE_ACCOUNT}/token"
NAMESPACE_FILE = f"{SERVICE_ACCOUNT}/namespace"
DIRECTORIES = ("/", "/run", "/run/link/..", "/srv", "/srv/sub")
UID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
IN_SLOT = {"POD_UID": UID, "CONTAINER_NAME": "server"}
POD_VARIABLES = ("POD_NAME", "POD_UID", "CONTAINER_NAME", "POD_NAMESPACE")


def machine(files: Mapping[str, str] | None = None, *, is_init: bool = False) -> Host:
    """Return a machine with these files; by default a pod with a service account.

    `is_init` tells whether leaderexec is PID 1 there. Nobody may read /run/secret.
    """
    present = {TOKEN: "secret", NAMESPACE_FILE: "shop\n"} if files is None else files

    def file_problem(path: str) -> str | None:
        if path == "/run/secret":
            return "permission denied"
        return None if path in present else MISSING

    return Host(
        hostname=lambda: "web-0",
        is_init=lambda: is_init,
        random_bytes=lambda count: bytes(range(count)),
        current_directory=lambda: "/srv",
        is_directory=lambda path: path in DIRECTORIES,
        read_text=present.get,
        file_problem=file_problem,
    )


def config(
    *argv: str,
    env: Mapping[str, str] | None = None,
    host: Host | None = None,
    election: str = "x",
    command: Sequence[str] = ("run",),
) -> Config:
    """Parse `argv` in a pod, with an election and a command around it."""
    words = [f"--election={election}", *argv, *command]
    parsed = parse(words, {**IN_POD, **(env or {})}, host=host or machine())
    assert isinstance(parsed, Config)
    return parsed


def outcome_of(
    argv: Sequence[str], environ: Mapping[str, str], host: Host | None
) -> Config | HelpRequested | VersionRequested | InstallRequested | str:
    """Return what `argv` becomes, or the complaint."""
    try:
        return parse(argv, environ, host=host)
    except UsageError as error:
        return str(error)


# --- what is given, and what is answered -----------------------------------------------------


def no_directory() -> str:
    """Be on a machine on which the current directory was removed."""
    raise FileNotFoundError(2, "No such file or directory")


#: What there is besides the pod's own files; readers of kubeconfigs would split "/a:b".
FILES = dict.fromkeys(("/a", "/b", "/a:b", "/srv/kc", "/home/me/.kube/config"), "")
#: The places of golden/config.txt: the variables that are set there, and the machine.
PLACES = {
    "in a pod": (IN_POD, machine({**FILES, TOKEN: "", NAMESPACE_FILE: "shop\n"})),
    "in a pod without a namespace file": (
        IN_POD,
        machine({**FILES, TOKEN: "", NAMESPACE_FILE: "\n"}),
    ),
    "in a pod with a strange namespace file": (
        IN_POD,
        machine({TOKEN: "", NAMESPACE_FILE: "No Such\n"}),
    ),
    "in a pod without a token": (IN_POD, machine(FILES)),
    "as PID 1 in a pod": (
        {**IN_POD, **IN_SLOT},
        machine({**FILES, TOKEN: "", NAMESPACE_FILE: "shop\n"}, is_init=True),
    ),
    "outside of a pod": ({}, machine(FILES)),
    "where there is no current directory": (
        IN_POD,
        replace(machine(), current_directory=no_directory),
    ),
}


def split(line: str) -> tuple[dict[str, str], list[str]]:
    """Split a line of a golden file into variables and what follows `leaderexec`."""
    words = golden.words(line)
    at = words.index("leaderexec")
    return dict(word.split("=", 1) for word in words[:at]), words[at + 1 :]


def answered(place: str, line: str) -> str:
    """Return the complaint, or what differs from the Config without any option."""
    environ, argv = split(line)
    in_place, host = PLACES[place]
    if "HOSTNAME" in environ:
        host = replace(host, hostname=partial(environ.pop, "HOSTNAME"))
    outcome = outcome_of(argv, {**in_place, **environ}, host)
    if not isinstance(outcome, Config):
        return str(outcome)
    plain, names = config(), [field.name for field in fields(Config)]
    changed = [name for name in names if getattr(outcome, name) != getattr(plain, name)]
    return "\n".join(f"{name} = {getattr(outcome, name)!r}" for name in changed) or "as without"


def test_golden_config() -> None:
    """Every line of golden/config.txt becomes what it says, or is refused in those very words."""
    golden.check("config", answered)


#: Option and value of every line that gives one value to one option in a pod.
SINGLE = [
    (option, value)
    for place, line in golden.cases("config")
    if place == "in a pod"
    and line.startswith("leaderexec --election=x --")
    and line.endswith(" run")
    for words in [split(line)[1][1:-1]]
    if len(words) == 1
    for option, equals, value in [words[0].partition("=")]
    if equals and value and option in {known.name for known in OPTIONS if known.variables}
]


def test_golden_config_has_a_wrong_value_for_every_option() -> None:
    """No option is without an example of what it refuses."""
    refused = {o for o, v in SINGLE if isinstance(outcome_of([f"{o}={v}"], IN_POD, machine()), str)}
    assert refused >= {option.name for option in OPTIONS if option.variables} - {"--election"}


@pytest.mark.parametrize(("option", "value"), SINGLE)
def test_every_option_is_also_a_variable(option: str, value: str) -> None:
    """A variable becomes what its flag does, and is refused in the same words by its own name."""
    environ, host = PLACES["in a pod"]
    variable = "LEADEREXEC_" + option[2:].upper().replace("-", "_")
    by_flag = outcome_of(["--election=x", f"{option}={value}", "run"], environ, host)
    by_variable = outcome_of(["--election=x", "run"], {**environ, variable: value}, host)
    if isinstance(by_flag, str) and isinstance(by_variable, str):
        by_flag = by_flag.replace(f"{option} {shown(value)}", "GIVEN")
        for form in (value, shown(value)):
            by_variable = by_variable.replace(f"{variable}={form} ({option})", "GIVEN")
    assert by_variable == by_flag


def shown(value: str) -> str:
    """Return how a value is quoted in a message."""
    return repr(value if len(value) <= 80 else value[:77] + "...")


def test_defaults() -> None:
    """An election and a command suffice in a pod; golden/defaults.txt has everything else."""
    parsed = config()
    values = [f"{field.name} = {getattr(parsed, field.name)!r}" for field in fields(Config)]
    golden.check_text("defaults", "\n".join(values))


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_needs_nothing_else(word: str) -> None:
    """--help among the options is answered even when other values are missing or wrong."""
    assert parse([word], {}) == HelpRequested()
    assert parse(["--ttl=wrong", word, "--nonsense"], {}) == HelpRequested()


def test_version_needs_nothing_else() -> None:
    """--version is answered without an election and without a command."""
    assert parse(["--version"], {}) == VersionRequested()


@pytest.mark.parametrize(
    "option", [option for option in OPTIONS if option.metavar], ids=attrgetter("name")
)
def test_missing_value(option: Option[object]) -> None:
    """An option without its value is refused, even where a `--` or an option follows it."""
    name, accepted = option.name, f"accepted: {option.accepts}"
    assert outcome_of([name], {}, None) == f"{name}: needs a value; {accepted}"
    assert outcome_of([name, "--", "run"], {}, None) == (
        f"{name} '--': needs a value and this looks like an option (a value that begins with '-' "
        f"is written '{name}=--'); {accepted}"
    )


def test_empty_variable_counts_as_unset() -> None:
    """Every variable may be empty without any effect."""
    names = [name for option in OPTIONS for name in option.variables]
    empty = dict.fromkeys((*names, *POD_VARIABLES, "KUBECONFIG"), "")
    bare = machine({TOKEN: ""}, is_init=True)
    assert config(env=empty, host=bare) == config(host=bare)


def test_no_option_may_clash_with_service_variables() -> None:
    """No option's variable is one that Kubernetes sets for a Service named leaderexec."""
    for option in OPTIONS:
        assert not [v for v in option.variables if v[11:].startswith(("SERVICE", "PORT"))]


# --- durations -------------------------------------------------------------------------------

UNITS = {"h": Fraction(3600), "m": Fraction(60), "s": Fraction(1), "ms": Fraction(1, 1000)}
quantities = st.tuples(
    st.integers(0, 99_999), st.text("0123456789", max_size=9).map(lambda t: t and "." + t)
).map(lambda pair: f"{pair[0]}{pair[1]}")


@given(st.dictionaries(st.sampled_from(list(UNITS)), quantities, min_size=1))
def test_a_duration_is_exact_or_refused(numbers: dict[str, str]) -> None:
    """Whatever quantities are combined, the result is the exact sum or the value is refused."""
    text = "".join(numbers[unit] + unit for unit in UNITS if unit in numbers)
    parts = [Fraction(numbers[unit]) * UNITS[unit] * SECOND_NS for unit in numbers]
    exact = all(part.denominator == 1 for part in parts)
    if exact and sum(parts) <= MAX_SECONDS * SECOND_NS and len(text) <= 64:
        assert parse_duration(text) == sum(parts)
    else:
        with pytest.raises(ValueError, match=r"finer|more|longer"):
            parse_duration(text)


@given(st.integers(2, 4000), st.integers(1, 4000))
def test_least_lease_duration_in_the_message_is_true(renew_s: int, lease_s: int) -> None:
    """The --lease-duration that the message recommends is accepted, and one second less is not."""
    flags = (f"--renew-deadline={renew_s}s", "--retry-period=1s")
    try:
        config(*flags, f"--lease-duration={lease_s}").timing.validate()
    except UsageError as error:
        least_s = int(str(error).rpartition("--lease-duration of ")[2].removesuffix("s or more"))
        assert config(*flags, f"--lease-duration={least_s}").timing.lease_duration_s == least_s
        with pytest.raises(UsageError):
            config(*flags, f"--lease-duration={least_s - 1}")


# --- identity --------------------------------------------------------------------------------


def test_generated_identities_differ() -> None:
    """Two starts on the real machine never get the same identity."""
    environ = {"LEADEREXEC_LOCK": "file:/l", **IN_SLOT}
    first, second = (parse(["--election=x", "run"], environ) for _ in range(2))
    assert isinstance(first, Config)
    assert isinstance(second, Config)
    assert first.identity != second.identity
    assert first.identity.startswith(f"{os.uname().nodename}_leaderexec-")
    assert (first.slot is not None) == (os.getpid() == 1)


def test_same_election_inside_itself() -> None:
    """A candidate inside its own election's child would wait for itself, and is refused.

    Where only a kubeconfig tells the namespace, it is refused by who reads that.
    """
    inside = {"LEADER_ELECTION": "x", "LEADER_NAMESPACE": "shop", "LEADER_FENCING_TOKEN": "7"}
    with pytest.raises(UsageError, match="already runs inside election 'x' in namespace 'shop'"):
        config(env=inside)
    with pytest.raises(UsageError, match="already runs inside"):
        refuse_nesting("x", "shop", inside)
    refuse_nesting("x", "default", inside)


# --- the real machine ------------------------------------------------------------------------


def test_files_of_the_real_machine(tmp_path: Path) -> None:
    """The real probes tell a readable file from a missing one, a directory and a pipe."""
    good, pipe = tmp_path / "good", tmp_path / "pipe"
    good.write_text("text")
    os.mkfifo(pipe)
    host = Host()
    assert host.file_problem(str(good)) is None
    assert host.file_problem(str(tmp_path / "none")) == MISSING
    assert host.file_problem(str(tmp_path)) == "not a regular file"
    assert host.file_problem(str(pipe)) == "not a regular file"
    assert host.file_problem("\0") == "not a possible file name"
    assert host.read_text(str(good)) == "text"
    assert host.read_text(str(tmp_path)) is None


def test_http_hosts_do_not_make_the_resolver_raise() -> None:
    """The longest host that is accepted is one that Python can hand to a resolver."""
    longest = config(f"--http={'.'.join(['n' * 63] * 3)}.{'n' * 61}:1").http
    assert longest is not None
    assert len(longest.host) == 253
    for host in (longest.host, "a."):
        with pytest.raises(socket.gaierror):
            socket.getaddrinfo(host, 1, flags=socket.AI_NUMERICHOST)


# --- COMMAND ---------------------------------------------------------------------------------

#: Files of golden/commands.txt that can be executed, and what is in them.
PROGRAMS = {
    **dict.fromkeys(("tool", "sub/tool", "b/tool", "c/tool"), '#!/bin/sh\necho "$0"\n'),
    "h/tool": "#!/none/sh\n",
    "interpreters/with-blanks": "#! \t/none/sh -e\n",
    "interpreters/with-carriage-return": "#!/bin/sh\r\n",
    "interpreters/without-end": "#!/none/sh",
    "interpreters/none": "#!\n",
    "interpreters/argument": "#! /bin/sh -e\n",
    "interpreters/text": "text",
    "interpreters/empty": "",
    "interpreters/zero": "#!/bin/sh\0x\n",
}


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make what golden/commands.txt is about, and be in its directory."""
    monkeypatch.chdir(tmp_path)
    for name, text in {**PROGRAMS, "a/tool": "#!/bin/sh\n"}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if name in PROGRAMS else 0o644)
    (tmp_path / "d" / "tool").mkdir(parents=True)
    for name in "efg":
        (tmp_path / name).mkdir()
    os.mkfifo("e/tool", 0o755)
    Path("f/tool").symlink_to("tool")
    Path("g/tool").symlink_to("none")
    return tmp_path


def resolved(_: str, line: str) -> str:
    """Return the file that is run for a COMMAND, or the exit code and the complaint."""
    *assigned, argv0 = golden.words(line)
    path = assigned[0].removeprefix("PATH=") if assigned else None
    try:
        return f"runs {resolve_command(argv0, path)}"
    except CommandError as error:
        return f"{error.exit_code}: {error}"


@pytest.mark.usefixtures("programs")
def test_golden_commands() -> None:
    """Every COMMAND of golden/commands.txt is found, or refused in those very words."""
    golden.check("commands", resolved)
    assert resolve_command("sh", None) in ("/bin/sh", "/usr/bin/sh")


def test_unreadable_program(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What may be executed need not be readable."""

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("builtins.open", refuse)
    assert resolve_command(f"{programs}/h/tool", None) == f"{programs}/h/tool"


@pytest.mark.parametrize("path", ["/none:a:d:c", "/none:a:d"])
@pytest.mark.usefixtures("programs")
def test_resolve_agrees_with_execvp(path: str) -> None:
    """The file found is the one that execvp runs, through denied and missing elements of PATH."""
    code = "import os, sys\ntry: os.execvp('tool', ['tool'])\nexcept PermissionError: sys.exit(126)"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    expected = resolved("", f"PATH={path} tool")
    assert expected.startswith("126: " if ran.returncode else f"runs {ran.stdout.strip()}")


# --- help and exit codes ---------------------------------------------------------------------


def test_golden_help() -> None:
    """--help is the text of golden/help.txt, and its examples are valid."""
    golden.check_text("help", help_text(80))
    examples = [line.split() for line in help_text(80).splitlines() if "leaderexec --" in line]
    assert len(examples) == 3
    for _, *argv in examples:
        assert isinstance(outcome_of(argv, *PLACES["in a pod"]), Config)


@given(st.integers(-10, 1000))
def test_help_of_any_width(width: int) -> None:
    """Help is complete and tidy however odd the terminal's width, and no wider than that."""
    lines = help_text(width).splitlines()
    assert lines[-1].strip().endswith("--http=0.0.0.0:4040")
    assert all(line == line.rstrip() for line in lines)
    assert not 72 <= width <= 110 or max(map(len, lines)) <= width


def test_exit_codes() -> None:
    """The numbers are the documented ones."""
    assert (exits.OK, exits.USAGE, exits.LOST, exits.TIMEOUT) == (0, 2, 75, 124)
    assert (exits.INTERNAL, exits.NOT_EXECUTABLE, exits.NOT_FOUND) == (125, 126, 127)
    # A child's own code, or 128 and the signal's number, whether it dumped core or not.
    for status, code in ((0, 0), (3 << 8, 3), (255 << 8, 255), (9, 137), (0x80 | 11, 139)):
        assert exits.from_wait_status(status) == code
    with pytest.raises(ValueError, match="stopped"):
        exits.from_wait_status(signal.SIGSTOP << 8 | 0x7F)
