"""The command line: what is accepted, what it becomes, and what a wrong value is answered with."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import FrozenInstanceError, fields, replace
from fractions import Fraction
from ipaddress import IPv6Address
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leaderexec import exits
from leaderexec.config import (
    HELP,
    MAX_SECONDS,
    MISSING,
    OPTIONS,
    SERVICE_ACCOUNT,
    SUFFIX,
    VERSION,
    AnnotatedKind,
    AnnotationLockSpec,
    CommandError,
    Config,
    FileLockSpec,
    Group,
    HelpRequested,
    Host,
    HttpSpec,
    InstallRequested,
    LeaseLockSpec,
    LogFormat,
    LogLevel,
    OnLoss,
    Option,
    Ready,
    Slot,
    UsageError,
    VersionRequested,
    help_text,
    parse,
    parse_duration,
    refuse_nesting,
    resolve_command,
)
from leaderexec.model import SECOND_NS, Timing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

IN_POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
TOKEN = f"{SERVICE_ACCOUNT}/token"
NAMESPACE_FILE = f"{SERVICE_ACCOUNT}/namespace"
DIRECTORIES = ("/", "/run", "/srv", "/srv/sub")
UID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
IN_SLOT = {"POD_UID": UID, "CONTAINER_NAME": "server"}
RANDOM = "0001020304050607"
POD_VARIABLES = ("POD_NAME", "POD_UID", "CONTAINER_NAME", "POD_NAMESPACE")


def machine(
    files: Mapping[str, str] | None = None,
    *,
    problems: Mapping[str, str] | None = None,
    hostname: str = "web-0",
    is_init: bool = False,
) -> Host:
    """Return a machine with these files; by default a pod with a service account.

    `is_init` tells whether we are PID 1 there.
    """
    present = {TOKEN: "secret", NAMESPACE_FILE: "shop\n"} if files is None else files
    troubled = problems or {}

    def file_problem(path: str) -> str | None:
        return troubled.get(path, None if path in present else MISSING)

    return Host(
        hostname=lambda: hostname,
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
    election: str | None = "x",
    command: Sequence[str] = ("--", "run"),
) -> Config:
    """Parse `argv` in a pod, with an election and a command around it."""
    environ = {**IN_POD, **(env or {})}
    named = () if election is None else (f"--election={election}",)
    parsed = parse([*named, *argv, *command], environ, host=host or machine())
    assert isinstance(parsed, Config)
    return parsed


def complaint(
    *argv: str,
    env: Mapping[str, str] | None = None,
    host: Host | None = None,
    election: str | None = "x",
    command: Sequence[str] = ("--", "run"),
) -> str:
    """Return the message that `argv` is refused with, after checking that it is one line."""
    with pytest.raises(UsageError) as refused:
        config(*argv, env=env, host=host, election=election, command=command)
    message = str(refused.value)
    assert message.isprintable()
    return message


# --- Grammar ---------------------------------------------------------------------------------


def test_defaults() -> None:
    """An election and a command suffice in a pod, and everything else has its documented value."""
    assert config() == Config(
        election="x",
        namespace="shop",
        identity=f"web-0_leaderexec-{RANDOM}",
        identity_is_generated=True,
        slot=None,
        lock=LeaseLockSpec(),
        timing=Timing(15, 10 * SECOND_NS, 2 * SECOND_NS),
        stop_signal=signal.SIGTERM,
        stop_timeout_ns=20 * SECOND_NS,
        on_loss=OnLoss.STANDBY,
        campaign_timeout_ns=None,
        wait_for_leader=False,
        signal_group=False,
        rewrite_signals={},
        remap_exits={},
        parent_death_signal=None,
        allow_privilege_escalation=False,
        kubeconfig=None,
        context=None,
        in_cluster=True,
        http=None,
        ready=Ready.CANDIDATE,
        log_format=LogFormat.AUTO,
        log_level=LogLevel.INFO,
        command=("run",),
    )


def test_config_is_frozen() -> None:
    """Nobody can change a Config after it was checked."""
    with pytest.raises(FrozenInstanceError):
        config().election = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["run"], ("run",)),
        (["--", "run"], ("run",)),
        (["run", "--id=y", "-n", "z"], ("run", "--id=y", "-n", "z")),
        (["run", "--", "--help"], ("run", "--", "--help")),
        (["--", "--help"], ("--help",)),
        (["--", "--", "run"], ("--", "run")),
        (["--", "-x"], ("-x",)),
        (["-"], ("-",)),
        ([""], ("",)),
        (["--signal-group", "false"], ("false",)),
    ],
)
def test_options_end_at_the_first_other_word(words: list[str], command: tuple[str, ...]) -> None:
    """What follows the first word that is no option, or `--`, is the command as it stands."""
    assert config(command=words).command == command


@pytest.mark.parametrize(
    "words",
    [
        ["--namespace=a"],
        ["--namespace", "a"],
        ["-n", "a"],
        ["-na"],
        ["--election-namespace=a"],
        ["--election-namespace", "a"],
    ],
)
def test_spellings_of_an_option(words: list[str]) -> None:
    """A value may follow its option as a word, after `=`, or right after a short option."""
    assert config(*words).namespace == "a"


def test_value_may_contain_an_equals_sign() -> None:
    """Only the first `=` separates option and value."""
    assert config("--id=a=b").identity == "a=b"


def test_last_of_a_repeated_option_counts() -> None:
    """Of a repeated option the last one counts, whatever its spelling, and only it is judged."""
    assert config("--id=a", "--id", "b").identity == "b"
    assert config("-n", "Bad", "--namespace=good").namespace == "good"
    assert config("--signal-group", "--signal-group=false").signal_group is False


def test_options_that_hold_pairs_add_up() -> None:
    """Pairs may be given together or one by one; of two for the same thing the last one counts."""
    rewritten = config("--rewrite-signal=15:3,HUP:0", "--rewrite-signal", "sigusr1:KILL")
    assert rewritten.rewrite_signals == {15: 3, 1: 0, 10: 9}
    assert config("--rewrite-signal=15:3", "--rewrite-signal=TERM:2").rewrite_signals == {15: 2}
    assert config("--remap-exit=143:0", "--remap-exit=130:0,143:7").remap_exits == {143: 7, 130: 0}
    given = "--rewrite-signal '15:3,nonsense': "
    assert complaint("--rewrite-signal=15:3", "--rewrite-signal=nonsense").startswith(given)


def test_waiting_for_a_leader_is_all_there_is() -> None:
    """A wait has no command, serves nothing, and may take place inside the election's own tree."""
    parsed = config("--wait-for-leader", "--timeout=3s", command=(), env=INSIDE)
    assert parsed.wait_for_leader
    assert parsed.campaign_timeout_ns == 3 * SECOND_NS
    beside = "only waits, so it cannot stand beside"
    assert complaint("--wait-for-leader") == (
        f"--wait-for-leader 'true': {beside} COMMAND 'run'; accepted: either of them"
    )
    assert f"{beside} --http ':80'; accepted" in complaint(
        "--wait-for-leader", "--http=:80", command=()
    )


@pytest.mark.parametrize("timeout", ["0", "2s"])
def test_waiting_takes_longer_than_a_renewal(timeout: str) -> None:
    """No renewal could be seen within such a timeout."""
    message = complaint("--wait-for-leader", f"--timeout={timeout}", command=())
    assert message == (
        f"--timeout '{timeout}': a leader is known by its renewals, of which one comes every "
        "--retry-period (2s); accepted: longer than that, or no --timeout to wait for ever"
    )


def test_pairs_of_a_flag_replace_those_of_the_variable() -> None:
    """Flags add up among themselves, not with what a variable holds."""
    env = {"LEADEREXEC_REMAP_EXIT": "143:0"}
    assert config(env=env).remap_exits == {143: 0}
    assert config("--remap-exit=1:2", env=env).remap_exits == {1: 2}


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_needs_nothing_else(word: str) -> None:
    """--help among the options is answered even when other values are missing or wrong."""
    assert parse([word], {}) == HelpRequested()
    assert parse(["--ttl=wrong", word, "--nonsense"], {}) == HelpRequested()


def test_version_needs_nothing_else() -> None:
    """--version is answered without an election and without a command."""
    assert parse(["--version"], {}) == VersionRequested()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--elction=y", "--elction: no such option; did you mean --election?"),
        ("--elect", "--elect: no such option; did you mean --election?"),
        ("--e", "--e: no such option; did you mean --election?"),
        ("--Election=y", "--Election: no such option; did you mean --election?"),
        ("--lease_duration=5", "--lease_duration: no such option; did you mean --lease-duration?"),
        ("-election=y", "-election: no such option; did you mean --election?"),
        ("-namespace", "-namespace: no such option; did you mean --namespace?"),
        ("-namespace=y", "-namespace: no such option; did you mean --namespace?"),
        ("-help", "-help: no such option; did you mean --help?"),
        ("-hv", "-hv: no such option; did you mean -h?"),
        ("-x", "-x: no such option; --help lists all options"),
        ("---", "---: no such option; --help lists all options"),
        ("--n=y", "--n: no such option; did you mean --namespace?"),
        ("--=y", "--: no such option; --help lists all options"),
        ("--pörtal\n", r"'--pörtal\n': no such option; --help lists all options"),
    ],
)
def test_unknown_option(word: str, message: str) -> None:
    """An unknown or abbreviated option is refused with the nearest one that exists."""
    assert complaint(word) == message


@pytest.mark.parametrize(
    "option", [option for option in OPTIONS if option.metavar], ids=attrgetter("name")
)
def test_missing_value(option: Option[object]) -> None:
    """An option without its value is refused, even where a `--` or an option follows it."""
    name, accepts = option.name, option.accepts
    assert complaint(name, command=()) == f"{name}: needs a value; accepted: {accepts}"
    assert complaint(name) == (
        f"{name} '--': needs a value and this looks like an option (a value that begins with '-' "
        f"is written '{name}=--'); accepted: {accepts}"
    )


def test_negative_value_as_a_word() -> None:
    """A negative number after an option is refused with what is accepted there."""
    message = complaint("--timeout", "-5")
    assert message.startswith("--timeout '-5': needs a value")
    assert "accepted: 15s, 500ms" in message


@pytest.mark.parametrize("name", ["--help", "--version"])
def test_help_and_version_take_no_value(name: str) -> None:
    """--help=x is a mistake rather than a request."""
    assert complaint(f"{name}=x") == f"{name} 'x': takes no value; accepted: {name} alone"


def test_no_command_only_elects() -> None:
    """Without a command a Config has none, and is otherwise what it would be with one."""
    assert config(command=()) == replace(config(), command=())
    assert config("--http=:0", command=()).command == ()


def test_lost_command() -> None:
    """A `--` with nothing behind it is a command that got lost, and no wish to only elect."""
    expected = (
        "COMMAND: nothing follows --; accepted: a command, such as leaderexec --election=my-app -- "
        "./server, or neither -- nor a command to only elect"
    )
    assert complaint(command=("--",)) == expected
    assert complaint("--http=:0", command=("--",), election=None) == expected
    assert config(command=("--", "")).command == ("",)


def test_missing_election() -> None:
    """Without an election the message names the flag, the variable and what a name may be."""
    message = complaint(election=None)
    assert message.startswith(
        "--election: required, as a flag or as the variable LEADEREXEC_ELECTION; accepted: "
        "a Kubernetes object name"
    )


# --- Environment -----------------------------------------------------------------------------


def test_every_option_is_also_a_variable() -> None:
    """Each option that takes effect can be given by its LEADEREXEC_ variable."""
    values = {
        "LEADEREXEC_ELECTION": "y",
        "LEADEREXEC_NAMESPACE": "ns",
        "LEADEREXEC_ID": "me",
        "LEADEREXEC_LOCK": "leases",
        "LEADEREXEC_LEASE_DURATION": "30s",
        "LEADEREXEC_RENEW_DEADLINE": "20",
        "LEADEREXEC_RETRY_PERIOD": "3",
        "LEADEREXEC_STOP_SIGNAL": "QUIT",
        "LEADEREXEC_STOP_TIMEOUT": "5",
        "LEADEREXEC_ON_LOSS": "exit",
        "LEADEREXEC_TIMEOUT": "0",
        "LEADEREXEC_WAIT_FOR_LEADER": "false",
        "LEADEREXEC_SIGNAL_GROUP": "yes",
        "LEADEREXEC_REWRITE_SIGNAL": "TERM:QUIT,1:0",
        "LEADEREXEC_REMAP_EXIT": "143:0,130:1",
        "LEADEREXEC_PARENT_DEATH_SIGNAL": "SIGTERM",
        "LEADEREXEC_ALLOW_PRIVILEGE_ESCALATION": "on",
        "LEADEREXEC_KUBECONFIG": "kc",
        "LEADEREXEC_CONTEXT": "prod",
        "LEADEREXEC_USE_CLUSTER_CREDENTIALS": "no",
        "LEADEREXEC_HTTP": "localhost:4040",
        "LEADEREXEC_READY": "Leader",
        "LEADEREXEC_LOG_FORMAT": "json",
        "LEADEREXEC_LOG_LEVEL": "DEBUG",
    }
    parsed = config(env=values, host=machine({"/srv/kc": ""}), election=None)
    assert parsed == Config(
        election="y",
        namespace="ns",
        identity="me",
        identity_is_generated=False,
        slot=None,
        lock=LeaseLockSpec(),
        timing=Timing(30, 20 * SECOND_NS, 3 * SECOND_NS),
        stop_signal=signal.SIGQUIT,
        stop_timeout_ns=5 * SECOND_NS,
        on_loss=OnLoss.EXIT,
        campaign_timeout_ns=0,
        wait_for_leader=False,
        signal_group=True,
        rewrite_signals={signal.SIGTERM: signal.SIGQUIT, signal.SIGHUP: 0},
        remap_exits={143: 0, 130: 1},
        parent_death_signal=signal.SIGTERM,
        allow_privilege_escalation=True,
        kubeconfig="/srv/kc",
        context="prod",
        in_cluster=False,
        http=HttpSpec("localhost", 4040),
        ready=Ready.LEADER,
        log_format=LogFormat.JSON,
        log_level=LogLevel.DEBUG,
        command=("run",),
    )
    named = {name for option in OPTIONS for name in option.variables}
    assert named - set(values) == {"LEADEREXEC_TTL", "LEADEREXEC_ELECTION_NAMESPACE"}


def test_ttl_and_alias_as_variables() -> None:
    """--ttl and the other long name of --namespace are variables as well; the main name wins."""
    assert config(env={"LEADEREXEC_TTL": "20"}).timing.lease_duration_s == 20
    both = {"LEADEREXEC_ELECTION_NAMESPACE": "a"}
    assert config(env=both).namespace == "a"
    assert config(env={**both, "LEADEREXEC_NAMESPACE": "b"}).namespace == "b"


def test_flag_beats_variable() -> None:
    """A flag counts instead of its variable, whose value is not even looked at."""
    parsed = config("--stop-timeout=1s", env={"LEADEREXEC_STOP_TIMEOUT": "nonsense"})
    assert parsed.stop_timeout_ns == SECOND_NS


def test_empty_variable_counts_as_unset() -> None:
    """Every variable may be empty without any effect."""
    empty = {name: "" for option in OPTIONS for name in option.variables}
    pod = dict.fromkeys(POD_VARIABLES, "")
    bare = machine({TOKEN: ""}, is_init=True)
    assert config(env={**empty, **pod, "KUBECONFIG": ""}, host=bare) == config(host=bare)


def test_unknown_variables_are_ignored() -> None:
    """Variables that Kubernetes or an image invents under our prefix do no harm."""
    invented = {
        "LEADEREXEC_SERVICE_HOST": "10.0.0.7",
        "LEADEREXEC_PORT": "tcp://10.0.0.7:80",
        "LEADEREXEC_HTTP_SERVICE_HOST": "10.0.0.8",
        "LEADEREXEC_HTTP_PORT": "tcp://10.0.0.8:80",
        "LEADEREXEC_VERSION": "0.1.0",
        "LEADEREXEC_HELP": "1",
    }
    assert config(env=invented) == config()


def test_no_option_may_clash_with_service_variables() -> None:
    """No option's variable is one that Kubernetes sets for a Service named leaderexec."""
    for option in OPTIONS:
        for name in option.variables:
            assert not name.startswith(("LEADEREXEC_SERVICE", "LEADEREXEC_PORT"))


def test_quoting_of_a_variable_that_could_be_misread() -> None:
    """A variable's value is quoted in the message when it is not plain."""
    assert complaint(env={"LEADEREXEC_TTL": "a b\n"}).startswith(
        r"LEADEREXEC_TTL='a b\n' (--ttl): not a duration"
    )


# --- Wrong values ----------------------------------------------------------------------------

LONG = "n" * 254
DURATIONS = "15s, 500ms, 1m30s, 1h, 1.5s or plain seconds such as 15 or 0.5"
WHOLE = f"whole seconds from 1s to {MAX_SECONDS}s, such as 15s or 1m30s"
OBJECT = "a Kubernetes object name of at most 253 characters"
BAD_DURATIONS = [
    ("", "empty"),
    ("-1s", "negative"),
    ("nan", "not a duration"),
    ("inf", "not a duration"),
    ("+1", "not a duration"),
    ("1e3", "not a duration"),
    (".5", "not a duration"),
    ("1.", "not a duration"),
    ("1 s", "not a duration"),
    ("15S", "not a duration"),
    ("1d", "not a duration"),
    ("30s1m", "not a duration"),
    ("1s1s", "not a duration"),
    ("1m30", "not a duration"),
    ("\u0661s", "not a duration"),
    ("15s\n", "not a duration"),
    ("0.0000000001", "finer than a nanosecond"),
    ("0.0000001ms", "finer than a nanosecond"),
    ("2147483648", "more than 2147483647s"),
    ("1h2147483647s", "more than 2147483647s"),
    ("9" * 64, "more than 2147483647s"),
    ("1" * 65, "longer than 64 characters"),
]
SIGNALS = (
    "HUP, INT, QUIT, ABRT, USR1, USR2, ALRM, TERM, STKFLT, URG, XCPU, XFSZ, VTALRM, PROF, WINCH, "
    "IO, PWR, RTMIN+n or RTMAX-n, with or without SIG, or the number"
)
NO_OBJECT = "cannot be the name of a Kubernetes object"
NO_NAMESPACE = "not a namespace's name"
UNEXPANDED = (
    "Kubernetes left '$(POD_NAME)' as it is, because the container defines no such variable "
    "before it"
)
SWITCH = "true, false, 1, 0, yes, no, on or off"
NOT_BOOLEAN = [
    ("", "neither true nor false"),
    ("2", "neither true nor false"),
    ("truth", "neither true nor false"),
]
IN_BRACKETS = "an IPv6 address is written in brackets"
ABOUT_CHILDREN = "the kernel sends it about children"
#: Option and what it accepts → wrong values and what is wrong with each.
WRONG_BY_OPTION = {
    ("--election", OBJECT): [
        ("", "empty"),
        (LONG, "254 characters"),
        ("a\nb", "not printable"),
        (" a", "begins or ends with a space"),
        ("My-App", NO_OBJECT),
        ("a_b", NO_OBJECT),
        ("a..b", NO_OBJECT),
        ("-a", NO_OBJECT),
        ("a.", NO_OBJECT),
        ("ns/a", NO_OBJECT),
    ],
    ("--namespace", "a namespace's name of at most 63 characters"): [
        ("", "empty"),
        ("n" * 64, "64 characters"),
        ("a.b", NO_NAMESPACE),
        ("A", NO_NAMESPACE),
        ("a-", NO_NAMESPACE),
        ("=a", NO_NAMESPACE),
    ],
    ("--id", "a printable name of at most 253 characters"): [
        ("", "empty"),
        (LONG, "254 characters"),
        (" ", "begins or ends with a space"),
        ("a\x1b[1m", "not printable"),
        ("\udcff", "not printable"),
        ("$(POD_NAME)", UNEXPANDED),
    ],
    ("--lock", "leases, endpoints, configmaps, or file:PATH such as file:/run/my-app.lock"): [
        ("", "empty"),
        ("file", "names no path"),
        ("file:", "empty"),
        ("/run/lock", "a path is written file:PATH"),
        ("./lock", "a path is written file:PATH"),
        ("Leases", "no such lock"),
        ("endpoint", "no such lock"),
        ("configmaps:x", "no such lock"),
        ("endpointsleases", "no such lock"),
        ("file:/run/", "names a directory"),
        ("file:/run", "is a directory"),
        ("file:/run/a\0b", "not printable"),
    ],
    ("--lock", "file:PATH in a directory that exists"): [
        ("file:/none/lock", "there is no directory '/none'"),
    ],
    ("--lease-duration", WHOLE): [
        ("7500ms", "the record stores whole seconds"),
        ("0", "too short"),
        *BAD_DURATIONS,
    ],
    ("--ttl", WHOLE): [
        ("0.5", "the record stores whole seconds"),
        ("0s", "too short"),
        *BAD_DURATIONS,
    ],
    ("--renew-deadline", DURATIONS): BAD_DURATIONS,
    ("--retry-period", DURATIONS): BAD_DURATIONS,
    ("--stop-timeout", DURATIONS): BAD_DURATIONS,
    ("--timeout", DURATIONS): BAD_DURATIONS,
    ("--stop-signal", SIGNALS): [
        ("", "empty"),
        ("KILL", "no child can act on it"),
        ("9", "no child can act on it"),
        ("SIGSTOP", "no child can act on it"),
        ("CHLD", ABOUT_CHILDREN),
        ("sigcld", ABOUT_CHILDREN),
        ("TSTP", "the terminal sends it"),
        ("SEGV", "the kernel sends it about faults"),
        ("PIPE", "the kernel sends it about closed pipes"),
        ("0", "no such signal"),
        ("-15", "no such signal"),
        ("32", "no such signal"),
        ("65", "no such signal"),
        ("SIG15", "no such signal"),
        ("SIGSIGTERM", "no such signal"),
        ("TERMINATE", "no such signal"),
        ("RTMIN+31", "no such signal"),
        ("RTMAX-31", "no such signal"),
        ("RTMAX-50", "no such signal"),
        ("RTMAX+1", "no such signal"),
    ],
    ("--on-loss", "standby or exit"): [
        ("", "empty"),
        ("restart", "no such choice"),
        ("stand", "no such choice"),
    ],
    ("--signal-group", SWITCH): NOT_BOOLEAN,
    ("--wait-for-leader", SWITCH): NOT_BOOLEAN,
    ("--rewrite-signal", "pairs FROM:TO of signals, TO may be 0, such as 15:3"): [
        ("", "empty"),
        ("15", "15 is no pair"),
        ("15:3,", "empty"),
        ("15:3,HUP", "HUP is no pair"),
        ("15:", "15:: empty"),
        (":3", ":3: empty"),
        ("15:3:2", "15:3:2: no such signal"),
        ("0:15", "0:15: no such signal"),
        ("15:65", "15:65: no such signal"),
        ("TREM:INT", "TREM:INT: no such signal"),
        ("15 : 3", "'15 : 3': no such signal"),
        ("KILL:TERM", "KILL:TERM: it cannot be caught, so it is never forwarded"),
        ("19:15", "19:15: it cannot be caught, so it is never forwarded"),
        (
            "CHLD:0",
            "CHLD:0: the kernel sends it about our own children, so it is never forwarded",
        ),
    ],
    ("--remap-exit", "pairs FROM:TO of exit codes from 0 to 255, such as 143:0"): [
        ("", "empty"),
        ("143", "143 is no pair"),
        ("143:0,,1:2", "empty"),
        ("143:", "143:: an exit code is missing"),
        ("143:256", "143:256: 256 is no exit code"),
        ("-1:0", "-1:0: -1 is no exit code"),
        ("TERM:0", "TERM:0: TERM is no exit code"),
        ("\u0663:0", "'\u0663:0': '\u0663' is no exit code"),
    ],
    ("--parent-death-signal", "a signal's name, with or without SIG, or its number"): [
        ("", "empty"),
        ("0", "no such signal"),
        ("DEATH", "no such signal"),
    ],
    ("--allow-privilege-escalation", SWITCH): NOT_BOOLEAN,
    ("--use-cluster-credentials", SWITCH): NOT_BOOLEAN,
    (
        "--http",
        "HOST:PORT, [::1]:PORT, :PORT for all addresses, or nothing for off; ports up to 65535",
    ): [
        ("4040", "a port alone is written :4040"),
        ("localhost", "names no port"),
        ("localhost:", "names no port"),
        (":", "names no port"),
        ("::", "names no port"),
        ("[::1]", "names no port"),
        ("[::1]:", "names no port"),
        (":65536", "65536 is no port"),
        (":040400", "040400 is no port"),
        (":-1", "-1 is no port"),
        (":+80", "+80 is no port"),
        (":http", "http is no port"),
        (":80 ", "'80 ' is no port"),
        (":\u0661", "'\u0661' is no port"),
        (":" + "9" * 100, f"'{'9' * 77}...' is no port"),
        ("localhost:80/", "80/ is no port"),
        ("http://localhost:80", "http://localhost is no host"),
        ("*:80", "'*' is no host"),
        (" :80", "' ' is no host"),
        ("a b:80", "'a b' is no host"),
        ("größe:80", "'größe' is no host"),
        (".:80", ". is no host"),
        (".a:80", ".a is no host"),
        ("a..b:80", "a..b is no host"),
        ("n" * 64 + ":80", f"{'n' * 64} is no host"),
        ("n." * 127 + ":80", f"'{'n.' * 38}n...' is no host"),
        ("[localhost]:80", "'[localhost]' is no host"),
        ("[127.0.0.1]:80", "'[127.0.0.1]' is no host"),
        ("::1", IN_BRACKETS),
        ("::1:80", IN_BRACKETS),
        ("fe80::1%eth0:80", IN_BRACKETS),
        ("[]:80", "'[]' is no host"),
        ("[::1:80", "'[::1' is no IPv6 address"),
        ("[::g]:80", "'[::g]' is no IPv6 address"),
        ("[1::2::3]:80", "'[1::2::3]' is no IPv6 address"),
        ("[::1\n]:80", r"'[::1\n]' is no IPv6 address"),
        ("[::1%]:80", "'[::1%]' is no IPv6 address"),
        ("[::1%a%b]:80", "'[::1%a%b]' is no IPv6 address"),
        ("[::1%ü]:80", "'[::1%ü]' is no IPv6 address"),
        (":$(POD_NAME)", UNEXPANDED),
    ],
    ("--ready", "candidate or leader"): [
        ("", "empty"),
        ("standby", "no such choice"),
        ("true", "no such choice"),
    ],
    ("--kubeconfig", "a readable kubeconfig file"): [
        ("", "empty"),
        ("/none", MISSING),
        ("/run/secret", "permission denied"),
        ("/run/", "names a directory"),
        ("a\nb", "not printable"),
    ],
    ("--context", "the name of a context in the kubeconfig"): [
        ("", "empty"),
        ("\x00", "not printable"),
    ],
    ("--log-format", "auto, console or json"): [("", "empty"), ("xml", "no such choice")],
    ("--log-level", "debug, info, warning or error"): [("", "empty"), ("warn", "no such choice")],
}
WRONG = [
    (option, value, problem, accepted)
    for (option, accepted), rows in WRONG_BY_OPTION.items()
    for value, problem in rows
]
FORBIDDEN = machine(problems={"/run/secret": "permission denied"})


def election_beside(option: str) -> str | None:
    """Return the election to add where `option` is not the election itself."""
    return None if option == "--election" else "x"


def shown(value: str) -> str:
    """Return how a value is quoted in a message."""
    return repr(value if len(value) <= 80 else value[:77] + "...")


@pytest.mark.parametrize(("option", "value", "problem", "accepted"), WRONG)
def test_wrong_value_of_a_flag(option: str, value: str, problem: str, accepted: str) -> None:
    """A wrong value is refused in one line with the flag, the value, why, and what is accepted."""
    message = complaint(f"{option}={value}", host=FORBIDDEN, election=election_beside(option))
    assert message.startswith(f"{option} {shown(value)}: {problem}; accepted: {accepted}")


@pytest.mark.parametrize(
    ("option", "value", "problem", "accepted"), [row for row in WRONG if row[1]]
)
def test_wrong_value_of_a_variable(option: str, value: str, problem: str, accepted: str) -> None:
    """A wrong value of a variable is refused with the variable's name and the flag's."""
    variable = "LEADEREXEC_" + option[2:].upper().replace("-", "_")
    message = complaint(env={variable: value}, host=FORBIDDEN, election=election_beside(option))
    assert message.startswith(f"{variable}=")
    assert f" ({option}): {problem}; accepted: {accepted}" in message


def test_message_names_the_spelling_that_was_used() -> None:
    """A short option or an alias is named as it was typed."""
    assert complaint("-n", "A").startswith("-n 'A': ")
    assert complaint("-nA").startswith("-n 'A': ")
    assert complaint("--election-namespace=A").startswith("--election-namespace 'A': ")


def test_wrong_value_is_refused_even_where_it_has_no_effect() -> None:
    """With a file lock the Kubernetes options do nothing, but a wrong value is still wrong."""
    for option in ("--namespace=A", "--kubeconfig=", "--context=", "--use-cluster-credentials="):
        assert complaint("--lock=file:/run/l", option).startswith(option.partition("=")[0])
    assert complaint("--ready=x").startswith("--ready 'x'")
    assert complaint("--stop-signal=x", command=()).startswith("--stop-signal 'x'")


@pytest.mark.parametrize("option", OPTIONS, ids=attrgetter("name"))
def test_every_option_has_a_wrong_value_tested(option: Option[object]) -> None:
    """The table of wrong values covers every option that takes one."""
    assert option in (HELP, VERSION) or option.name in {row[0] for row in WRONG}


# --- Durations -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "duration_ns"),
    [
        ("15s", 15 * SECOND_NS),
        ("15", 15 * SECOND_NS),
        ("0", 0),
        ("0s", 0),
        ("007", 7 * SECOND_NS),
        ("0.5", SECOND_NS // 2),
        ("500ms", SECOND_NS // 2),
        ("0.000001ms", 1),
        ("1m30s", 90 * SECOND_NS),
        ("1h", 3600 * SECOND_NS),
        ("1h2m3s4ms", 3723_004_000_000),
        ("1h4ms", 3600_004_000_000),
        ("1.5s", 3 * SECOND_NS // 2),
        ("1.5h", 5400 * SECOND_NS),
        ("0.1", SECOND_NS // 10),
        ("2147483647", MAX_SECONDS * SECOND_NS),
    ],
)
def test_durations(text: str, duration_ns: int) -> None:
    """The documented forms of a duration are read exactly."""
    assert parse_duration(text) == duration_ns


UNITS = {"h": Fraction(3600), "m": Fraction(60), "s": Fraction(1), "ms": Fraction(1, 1000)}
quantities = st.tuples(
    st.integers(0, 99_999), st.text("0123456789", max_size=9).map(lambda t: t and "." + t)
).map(lambda pair: f"{pair[0]}{pair[1]}")


@given(st.dictionaries(st.sampled_from(list(UNITS)), quantities, min_size=1))
def test_a_duration_is_exact_or_refused(numbers: dict[str, str]) -> None:
    """Whatever quantities are combined, the result is the exact sum or the value is refused."""
    text = "".join(numbers[unit] + unit for unit in UNITS if unit in numbers)
    exact_ns = sum(Fraction(numbers[unit]) * UNITS[unit] * SECOND_NS for unit in numbers)
    whole_parts = all(
        (Fraction(numbers[unit]) * UNITS[unit] * SECOND_NS).denominator == 1 for unit in numbers
    )
    if whole_parts and exact_ns <= MAX_SECONDS * SECOND_NS and len(text) <= 64:
        assert parse_duration(text) == exact_ns
    else:
        with pytest.raises(ValueError, match=r"finer|more|longer"):
            parse_duration(text)


@given(st.text(st.sampled_from("0123456789.hms-+e ") | st.characters(), max_size=80))
@example("9" * 5000)
@example("1" + "0" * 62 + "h")
def test_any_text_is_a_duration_in_bounds_or_refused(text: str) -> None:
    """No text makes the reading of durations fail in another way, or exceed its bounds."""
    try:
        duration_ns = parse_duration(text)
    except ValueError:
        return
    assert 0 <= duration_ns <= MAX_SECONDS * SECOND_NS


# --- Timing ----------------------------------------------------------------------------------


def test_ttl_sets_three_durations() -> None:
    """--ttl stands for itself, its half and its quarter, exactly."""
    assert config("--ttl=10s").timing == Timing(10, 5 * SECOND_NS, 5 * SECOND_NS // 2)
    assert config("--ttl=5").timing == Timing(5, 5 * SECOND_NS // 2, 5 * SECOND_NS // 4)
    assert config("--ttl=1m").timing == Timing(60, 30 * SECOND_NS, 15 * SECOND_NS)


@pytest.mark.parametrize("lock", ["leases", "file:/run/l"])
def test_default_timing(lock: str) -> None:
    """A Lease and a file begin with client-go's durations."""
    assert config(f"--lock={lock}").timing == Timing(15, 10 * SECOND_NS, 2 * SECOND_NS)


@pytest.mark.parametrize("kind", ["endpoints", "configmaps"])
def test_default_timing_beside_candidates_of_2016(kind: str) -> None:
    """On an annotation the defaults are those of --ttl=10s, by flag and by variable."""
    timing = Timing(10, 5 * SECOND_NS, 5 * SECOND_NS // 2)
    assert config(f"--lock={kind}").timing == timing
    assert config(env={"LEADEREXEC_LOCK": kind}).timing == timing
    assert config("--ttl=10s").timing == timing


@pytest.mark.parametrize("kind", ["endpoints", "configmaps"])
def test_durations_beside_the_defaults_of_2016(kind: str) -> None:
    """On an annotation too --ttl sets all three, and a single duration leaves the other two."""
    lock = f"--lock={kind}"
    half_ns = SECOND_NS // 2
    assert config(lock, "--ttl=20").timing == config("--ttl=20").timing
    env = {"LEADEREXEC_TTL": "20"}
    assert config(lock, "--retry-period=3", env=env).timing == Timing(
        20, 10 * SECOND_NS, 3 * SECOND_NS
    )
    assert config(lock, "--lease-duration=30").timing == Timing(30, 10 * half_ns, 5 * half_ns)
    assert config(lock, "--renew-deadline=7").timing == Timing(10, 14 * half_ns, 5 * half_ns)
    env = {"LEADEREXEC_RETRY_PERIOD": "2"}
    assert config(lock, env=env).timing == Timing(10, 10 * half_ns, 4 * half_ns)


@pytest.mark.parametrize("name", ["--lease-duration", "--renew-deadline", "--retry-period"])
def test_ttl_beside_what_it_sets(name: str) -> None:
    """--ttl and one of the three durations from the same source contradict each other."""
    variable = "LEADEREXEC_" + name[2:].upper().replace("-", "_")
    rest = (
        "sets --lease-duration, --renew-deadline and --retry-period, so it cannot stand beside "
        "{}; accepted: either --ttl or those"
    )
    message = complaint("--ttl=20", f"{name}=5")
    assert message == "--ttl '20': " + rest.format(f"{name} '5'")
    message = complaint(env={"LEADEREXEC_TTL": "20", variable: "5"})
    assert message == "LEADEREXEC_TTL=20 (--ttl): " + rest.format(f"{variable}=5 ({name})")


def test_flags_beat_variables_duration_by_duration() -> None:
    """Across the two sources --ttl and the three durations are merged value by value."""
    three = {
        "LEADEREXEC_LEASE_DURATION": "60",
        "LEADEREXEC_RENEW_DEADLINE": "40",
        "LEADEREXEC_RETRY_PERIOD": "3",
    }
    assert config("--ttl=20", env=three).timing == config("--ttl=20").timing
    ttl = {"LEADEREXEC_TTL": "40"}
    assert config("--retry-period=3", env=ttl).timing == Timing(40, 20 * SECOND_NS, 3 * SECOND_NS)
    both = {**ttl, "LEADEREXEC_RETRY_PERIOD": "nonsense"}
    assert config("--retry-period=3", env=both).timing.retry_period_ns == 3 * SECOND_NS
    flags = ("--lease-duration=8", "--renew-deadline=5", "--retry-period=1")
    hidden = {"LEADEREXEC_TTL": "nonsense"}
    assert config(*flags, env=hidden).timing == Timing(8, 5 * SECOND_NS, SECOND_NS)


@pytest.mark.parametrize(
    ("given_text", "message"),
    [
        (
            "--retry-period=500ms",
            (
                "--retry-period '500ms': 0.5s is too short: at least 1s is accepted, because "
                "other candidates compare renewals in whole seconds"
            ),
        ),
        (
            "--renew-deadline=2s",
            (
                "--renew-deadline '2s': 2s is too short: more than 1.2 x --retry-period (2s) = "
                "2.4s is accepted"
            ),
        ),
        (
            "LEADEREXEC_RETRY_PERIOD=9s",
            (
                "LEADEREXEC_RETRY_PERIOD=9s (--retry-period): --renew-deadline 10s is too "
                "short: more than 1.2 x --retry-period (9s) = 10.8s is accepted"
            ),
        ),
        (
            "--lease-duration=12s",
            (
                "--lease-duration '12s': 12s is too short: --renew-deadline 10s + margin 2.12s "
                "(2s + 1 %) = 12.12s must be less; accepted: --lease-duration of 13s or more"
            ),
        ),
        (
            "--renew-deadline=14s",
            (
                "--renew-deadline '14s': --lease-duration 15s is too short: --renew-deadline "
                "14s + margin 2.15s (2s + 1 %) = 16.15s must be less; accepted: "
                "--lease-duration of 17s or more"
            ),
        ),
        (
            "--renew-deadline=2147483647s",
            (
                "--renew-deadline '2147483647s': --lease-duration 15s is too short: "
                "--renew-deadline 2147483647s + margin 2.15s (2s + 1 %) = 2147483649.15s must "
                "be less; accepted: a shorter --renew-deadline"
            ),
        ),
        (
            "--ttl=4s",
            (
                "--ttl '4s': --lease-duration 4s is too short: --renew-deadline 2s + margin "
                "2.04s (2s + 1 %) = 4.04s must be less; --ttl '4s' sets --lease-duration 4s, "
                "--renew-deadline 2s, --retry-period 1s; accepted: --ttl of 5s or more"
            ),
        ),
        (
            "LEADEREXEC_TTL=3",
            (
                "LEADEREXEC_TTL=3 (--ttl): --retry-period 0.75s is too short: at least 1s is "
                "accepted, because other candidates compare renewals in whole seconds; "
                "LEADEREXEC_TTL=3 (--ttl) sets --lease-duration 3s, --renew-deadline 1.5s, "
                "--retry-period 0.75s; accepted: --ttl of 5s or more"
            ),
        ),
        (
            "--lease-duration=10s LEADEREXEC_TTL=20",
            (
                "--lease-duration '10s': 10s is too short: --renew-deadline 10s + margin 2.1s "
                "(2s + 1 %) = 12.1s must be less; LEADEREXEC_TTL=20 (--ttl) sets "
                "--renew-deadline 10s, --retry-period 5s; accepted: --lease-duration of 13s or "
                "more"
            ),
        ),
        (
            "--renew-deadline=8s LEADEREXEC_LOCK=endpoints",
            (
                "--renew-deadline '8s': --lease-duration 10s is too short: --renew-deadline 8s + "
                "margin 2.1s (2s + 1 %) = 10.1s must be less; accepted: --lease-duration of 11s or "
                "more"
            ),
        ),
        (
            "--retry-period=5s LEADEREXEC_LOCK=configmaps",
            (
                "--retry-period '5s': --renew-deadline 5s is too short: more than 1.2 x "
                "--retry-period (5s) = 6s is accepted"
            ),
        ),
    ],
)
def test_durations_that_do_not_fit(given_text: str, message: str) -> None:
    """A budget that does not work out names what was given, the numbers and what would fit."""
    words = given_text.split()
    argv = [word for word in words if word.startswith("--")]
    env = dict(word.split("=") for word in words if not word.startswith("--"))
    assert complaint(*argv, env=env) == message


@given(st.integers(1, 200))
def test_least_ttl_in_the_message_is_true(ttl_s: int) -> None:
    """The --ttl that the message recommends is the least that is accepted."""
    if ttl_s >= 5:
        assert config(f"--ttl={ttl_s}").timing.lease_duration_s == ttl_s
    else:
        assert complaint(f"--ttl={ttl_s}").endswith("accepted: --ttl of 5s or more")


@given(st.integers(2, 4000), st.integers(1, 4000))
def test_least_lease_duration_in_the_message_is_true(renew_s: int, lease_s: int) -> None:
    """The --lease-duration that the message recommends is accepted, and one second less is not."""
    flags = (f"--renew-deadline={renew_s}s", "--retry-period=1s")
    try:
        config(*flags, f"--lease-duration={lease_s}")
    except UsageError as error:
        least_s = int(str(error).rpartition("--lease-duration of ")[2].removesuffix("s or more"))
        assert config(*flags, f"--lease-duration={least_s}").timing.lease_duration_s == least_s
        complaint(*flags, f"--lease-duration={least_s - 1}")


# --- Values that need more than their text ---------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("TERM", signal.SIGTERM),
        ("SIGTERM", signal.SIGTERM),
        ("sigterm", signal.SIGTERM),
        ("15", signal.SIGTERM),
        ("INT", signal.SIGINT),
        ("WINCH", signal.SIGWINCH),
        ("USR1", signal.SIGUSR1),
        ("RTMIN", signal.SIGRTMIN),
        ("SIGRTMIN+3", signal.SIGRTMIN + 3),
        ("RTMIN+30", signal.SIGRTMAX),
        ("RTMAX-1", signal.SIGRTMAX - 1),
        ("64", signal.SIGRTMAX),
    ],
)
def test_stop_signals(text: str, number: int) -> None:
    """A signal may be named with and without SIG, counted from a real-time bound, or numbered."""
    assert config(f"--stop-signal={text}").stop_signal == number


@pytest.mark.parametrize("word", ["true", "1", "yes", "on", "True", "ON"])
def test_switch_words_for_true(word: str) -> None:
    """A switch stands alone or takes a word for true."""
    assert config("--signal-group").signal_group is True
    assert config(f"--signal-group={word}").signal_group is True
    assert config(env={"LEADEREXEC_SIGNAL_GROUP": word}).signal_group is True


@pytest.mark.parametrize("word", ["false", "0", "no", "off", "False"])
def test_switch_words_for_false(word: str) -> None:
    """A switch takes a word for false, also against its variable."""
    env = {"LEADEREXEC_SIGNAL_GROUP": "true"}
    assert config(f"--signal-group={word}", env=env).signal_group is False


@pytest.mark.parametrize(
    ("text", "kind"),
    [("endpoints", AnnotatedKind.ENDPOINTS), ("configmaps", AnnotatedKind.CONFIGMAPS)],
)
def test_annotation_locks(text: str, kind: AnnotatedKind) -> None:
    """The locks of 2016 are Kubernetes objects, with namespace and credentials as a Lease has."""
    assert config(f"--lock={text}") == replace(
        config(), lock=AnnotationLockSpec(kind), timing=config("--ttl=10").timing
    )
    message = complaint(f"--lock={text}", host=machine({}))
    assert message.startswith(f"--lock '{text}': no credentials for a Kubernetes API server")
    assert NO_OBJECT in complaint(f"--lock={text}", election="My App")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("0.0.0.0:4040", HttpSpec("0.0.0.0", 4040)),
        ("localhost:80", HttpSpec("localhost", 80)),
        ("LocalHost:080", HttpSpec("LocalHost", 80)),
        ("my_pod-0.web.shop.svc.:65535", HttpSpec("my_pod-0.web.shop.svc.", 65535)),
        (f"{'n' * 63}:1", HttpSpec("n" * 63, 1)),
        (":4040", HttpSpec("", 4040)),
        (":0", HttpSpec("", 0)),
        ("[::1]:4040", HttpSpec("::1", 4040)),
        ("[::]:0", HttpSpec("::", 0)),
        ("[FE80::1%eth0.2]:80", HttpSpec("fe80::1%eth0.2", 80)),
        # Python 3.13 and newer write the last four bytes as an IPv4 address; both texts are lawful.
        ("[::FFFF:127.0.0.1]:80", HttpSpec(str(IPv6Address("::ffff:7f00:1")), 80)),
    ],
)
def test_http_addresses(text: str, spec: HttpSpec) -> None:
    """An address is a host, nothing for all or an IPv6 address in brackets, and a port."""
    assert config(f"--http={text}").http == spec
    assert config("--http", text).http == spec
    assert config(env={"LEADEREXEC_HTTP": text}).http == spec


def test_http_off() -> None:
    """Nothing is served unless asked for; an empty flag says so, also against its variable."""
    assert config().http is None
    assert config("--http=").http is None
    assert config("--http", "", env={"LEADEREXEC_HTTP": ":4040"}).http is None
    assert config("--http=:4040", "--http=").http is None


def test_http_hosts_do_not_make_the_resolver_raise() -> None:
    """The longest host that is accepted is one that Python can hand to a resolver."""
    longest = config(f"--http={'.'.join(['n' * 63] * 3)}.{'n' * 61}:1").http
    assert longest is not None
    assert len(longest.host) == 253
    for host in (longest.host, "a."):
        with pytest.raises(socket.gaierror):
            socket.getaddrinfo(host, 1, flags=socket.AI_NUMERICHOST)
    with pytest.raises(UnicodeError):
        socket.getaddrinfo("n" * 64, 1, flags=socket.AI_NUMERICHOST)


@pytest.mark.parametrize("word", ["leader", "Leader"])
def test_who_is_ready(word: str) -> None:
    """Every candidate is ready unless the leader alone is asked for."""
    assert config().ready is Ready.CANDIDATE
    assert config("--ready=candidate").ready is Ready.CANDIDATE
    assert config(f"--ready={word}").ready is Ready.LEADER


def test_timeout_zero_and_none() -> None:
    """--timeout=0 means a single attempt, its absence no limit."""
    assert config("--timeout=0").campaign_timeout_ns == 0
    assert config("--timeout=1m").campaign_timeout_ns == 60 * SECOND_NS
    assert config().campaign_timeout_ns is None


@pytest.mark.parametrize("name", ["x", "my-app", "a.b-c.d0", "0", "n" * 253])
def test_elections_on_leases(name: str) -> None:
    """Every Kubernetes object name may name an election."""
    assert config(election=name).election == name


@pytest.mark.parametrize("name", ["My App", "a/b", "größe", "n" * 253])
def test_elections_in_files(name: str) -> None:
    """In a file any printable name may name an election."""
    assert config("--lock=file:/run/l", election=name).election == name


# --- Identity --------------------------------------------------------------------------------


def slot(
    *argv: str,
    env: Mapping[str, str] | None = None,
    host: Host | None = None,
    election: str = "x",
) -> Slot:
    """Return the slot of PID 1 in a container that knows its slot."""
    parsed = config(
        *argv,
        env={**IN_SLOT, **(env or {})},
        host=host or machine(is_init=True),
        election=election,
    )
    assert parsed.identity.endswith(f"{SUFFIX}{RANDOM}")
    assert parsed.identity_is_generated
    assert parsed.slot
    return parsed.slot


def test_identity_is_taken_as_it_is() -> None:
    """--id is verbatim, is known not to be generated, and leaves no slot to take."""
    parsed = config(
        "--id=Pod A/1 ü", env={**IN_SLOT, "POD_NAME": "web-7"}, host=machine(is_init=True)
    )
    assert (parsed.identity, parsed.identity_is_generated) == ("Pod A/1 ü", False)
    assert parsed.slot is None


@pytest.mark.parametrize("name", ["web-7", "a.b", "7", "n" * 253])
def test_identity_begins_with_the_name_of_the_pod(name: str) -> None:
    """Where the pod's name is known it comes before the host's, with and without a slot."""
    env = {"POD_NAME": name}
    assert config(env=env).identity == f"{name}_leaderexec-{RANDOM}"
    assert slot(env=env).identity == f"{name}_leaderexec-{UID}-server@web-0"


@pytest.mark.parametrize("name", ["$(POD_NAME)", "Web", "a_leaderexec-b", " ", "a\n", "n" * 254])
def test_unusable_name_of_the_pod(name: str) -> None:
    """What cannot be a pod's name is not taken for one: the host's name serves."""
    assert config(env={"POD_NAME": name}).identity == f"web-0_leaderexec-{RANDOM}"
    assert slot(env={"POD_NAME": name}).identity == f"web-0_leaderexec-{UID}-server"


@pytest.mark.parametrize("hostname", ["", "a\n", " ", "\udcff"])
def test_identity_of_a_machine_with_an_unusable_name(hostname: str) -> None:
    """A host name that could not be an identity is replaced, unless the pod's name is known."""
    host = machine(hostname=hostname)
    assert config(host=host).identity == f"localhost_leaderexec-{RANDOM}"
    assert config(host=host, env={"POD_NAME": "web-7"}).identity == f"web-7_leaderexec-{RANDOM}"


def test_host_name_can_be_told_from_what_was_added() -> None:
    """Whatever the host is called, its name is what stands before the last suffix."""
    host = machine(hostname=f"a{SUFFIX}b", is_init=True)
    assert config(host=host).identity.rpartition(SUFFIX)[0] == f"a{SUFFIX}b"
    assert slot(host=host).identity.rpartition(SUFFIX)[0] == f"a{SUFFIX}b"


def test_slot_of_a_pod_whose_host_has_another_name() -> None:
    """Variables copied to another machine, pod's name and all, do not make one name of two."""
    env = {**IN_SLOT, "POD_NAME": "web-7"}
    here, there = (slot(env=env, host=machine(hostname=h, is_init=True)) for h in ("n1", "n2"))
    assert here.identity == f"web-7_leaderexec-{UID}-server@n1"
    assert here.identity != there.identity


def test_slot_of_a_pod_with_a_long_name() -> None:
    """A host name that is the beginning of the pod's, as kubelet cuts it, is the pod's."""
    pod = "n" * 62 + "-0"
    env = {**IN_SLOT, "POD_NAME": pod}
    taken = slot(env=env, host=machine(hostname="n" * 62, is_init=True))
    assert taken.identity == f"{pod}_leaderexec-{UID}-server"


def test_no_slot_without_a_host_name() -> None:
    """Where the host cannot be told from others, neither can the slot."""
    parsed = config(env=IN_SLOT, host=machine(hostname="a\n", is_init=True))
    assert parsed.slot is None


@pytest.mark.parametrize("uid", [UID, UID.replace("-", "")])
@pytest.mark.parametrize("container", ["server", "0", "n" * 63])
def test_slot(uid: str, container: str) -> None:
    """PID 1 that knows pod and container has a slot, for a static pod's UID as well."""
    taken = slot(env={"POD_UID": uid, "CONTAINER_NAME": container})
    assert taken.identity == f"web-0_leaderexec-{uid}-{container}"
    assert taken == slot(env={"POD_UID": uid, "CONTAINER_NAME": container})
    assert uid in taken.claim


def test_no_slot_unless_init() -> None:
    """Without being PID 1 our end is not the end of all that we started, so we have no slot."""
    parsed = config(env=IN_SLOT)
    assert (parsed.identity, parsed.slot) == (f"web-0_leaderexec-{RANDOM}", None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POD_UID", ""),
        ("POD_UID", "$(POD_UID)"),
        ("POD_UID", UID.upper()),
        ("POD_UID", UID[:-1]),
        ("POD_UID", UID + "0"),
        ("POD_UID", UID.replace("a", "g")),
        ("POD_UID", UID.replace("-", "", 1)),
        ("POD_UID", UID + "\n"),
        ("POD_UID", "web-0"),
        ("CONTAINER_NAME", ""),
        ("CONTAINER_NAME", "$(CONTAINER_NAME)"),
        ("CONTAINER_NAME", "Server"),
        ("CONTAINER_NAME", "a.b"),
        ("CONTAINER_NAME", "a_b"),
        ("CONTAINER_NAME", "a-"),
        ("CONTAINER_NAME", "n" * 64),
    ],
)
def test_no_slot_without_knowing_it(name: str, value: str) -> None:
    """A variable that is missing, left unexpanded or no such name leaves the random identity."""
    for env in (
        {**IN_SLOT, name: value},
        {known: text for known, text in IN_SLOT.items() if known != name},
    ):
        parsed = config(env=env, host=machine(is_init=True))
        assert (parsed.identity, parsed.slot) == (f"web-0_leaderexec-{RANDOM}", None)


def test_claims_differ() -> None:
    """A slot is claimed for one election on one lock by one container, and nobody else is kept."""
    claims = [
        slot().claim,
        slot(election="y").claim,
        slot("-nother").claim,
        slot("--lock=endpoints").claim,
        slot("--lock=configmaps").claim,
        slot("--lock=file:/run/l").claim,
        slot(env={"CONTAINER_NAME": "other"}).claim,
        slot(env={"POD_UID": UID.replace("a", "b")}).claim,
        slot("--lock=file:/run/l", election="größe").claim,
    ]
    assert len(set(claims)) == len(claims)


def test_claims_agree() -> None:
    """However the same lock is spelled, the claim is the same, so that two cannot have it."""
    assert slot("--lock=leases", "-nshop").claim == slot().claim
    assert slot(env={"POD_NAMESPACE": "other"}).claim == slot().claim
    # One file may have several paths, such as by a link.
    assert slot("--lock=file:/run/l").claim == slot("--lock=file:/srv/l").claim
    assert slot("--ttl=20", "--http=:0").claim == slot(env={"POD_NAME": "web-7"}).claim


def test_generated_identities_differ() -> None:
    """Two starts on the real machine never get the same identity."""
    environ = {"LEADEREXEC_LOCK": "file:/l", **IN_SLOT}
    first, second = (parse(["--election=x", "run"], environ) for _ in range(2))
    assert isinstance(first, Config)
    assert isinstance(second, Config)
    assert first.identity != second.identity
    assert first.identity.startswith(f"{os.uname().nodename}_leaderexec-")
    assert (first.slot is not None) == (os.getpid() == 1)


# --- File locks ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "absolute"),
    [
        ("/run/l", "/run/l"),
        ("l", "/srv/l"),
        ("./l", "/srv/l"),
        ("sub//l", "/srv/sub/l"),
        ("/run/a:b", "/run/a:b"),
    ],
)
def test_file_lock(path: str, absolute: str) -> None:
    """A file lock's path is made absolute; it needs neither Kubernetes nor a namespace."""
    parsed = config(f"--lock=file:{path}", host=machine({}), env=dict.fromkeys(IN_POD, ""))
    assert parsed.lock == FileLockSpec(absolute)
    assert (parsed.namespace, parsed.kubeconfig, parsed.in_cluster) == ("", None, False)


def test_parent_directories_are_left_to_the_kernel(tmp_path: Path) -> None:
    """A `..` is not removed from a path, because it may follow a symbolic link."""
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "deep")
    argv = ["--election=x", f"--lock=file:{tmp_path}/link/../l", "run"]
    parsed = parse(argv, {})
    assert isinstance(parsed, Config)
    assert parsed.lock == FileLockSpec(f"{tmp_path}/link/../l")


def test_relative_path_in_a_removed_directory() -> None:
    """Where there is no current directory, a relative path is refused in one line."""

    def gone() -> str:
        raise FileNotFoundError(2, "No such file or directory")

    host = Host(current_directory=gone)
    with pytest.raises(UsageError) as refused:
        parse(["--election=x", "--lock=file:l", "run"], {}, host=host)
    assert str(refused.value) == (
        "--lock 'file:l': relative to a current directory that cannot be found (no such file or "
        "directory); accepted: an absolute path"
    )


# --- Credentials and namespace ---------------------------------------------------------------

HOME = {"HOME": "/home/me"}
HOME_CONFIG = "/home/me/.kube/config"


def credentials(parsed: Config) -> tuple[str | None, str | None, bool]:
    """Return where `parsed` takes its credentials from."""
    return parsed.kubeconfig, parsed.context, parsed.in_cluster


def test_order_of_credentials() -> None:
    """What was set on purpose beats what is merely there: flag, KUBECONFIG, pod, home."""
    host = machine({"/a": "", "/b": "", TOKEN: "", HOME_CONFIG: ""})
    listed = {**HOME, "KUBECONFIG": "/b"}
    assert credentials(config("--kubeconfig=/a", env=listed, host=host)) == ("/a", None, False)
    assert credentials(config(env=listed, host=host)) == ("/b", None, False)
    assert credentials(config(env=HOME, host=host)) == (None, None, True)
    outside = {**HOME, **dict.fromkeys(IN_POD, "")}
    assert credentials(config(env=outside, host=host)) == (HOME_CONFIG, None, False)


def test_no_service_account_token() -> None:
    """A pod without a mounted token is not taken for one with credentials."""
    host = machine({HOME_CONFIG: ""})
    assert credentials(config(env=HOME, host=host)) == (HOME_CONFIG, None, False)


def test_context_needs_a_kubeconfig() -> None:
    """--context skips the pod's service account, which has no contexts."""
    host = machine({TOKEN: "", HOME_CONFIG: ""})
    parsed = config("--context=c", env=HOME, host=host)
    assert credentials(parsed) == (HOME_CONFIG, "c", False)
    message = complaint("--context=c", env=HOME)
    assert "not the pod's service account, because of --context" in message


SWITCHED_ON = ("--use-cluster-credentials",)


def test_cluster_credentials_alone() -> None:
    """--use-cluster-credentials takes the service account, and nothing else is looked at."""
    host = machine({"/b": "", TOKEN: "", HOME_CONFIG: ""}, problems={"/c": "permission denied"})
    for listed in ("", "/b", "/none", "/c", "/b:/c"):
        env = {**HOME, "KUBECONFIG": listed}
        assert credentials(config(*SWITCHED_ON, env=env, host=host)) == (None, None, True)
    env = {"LEADEREXEC_USE_CLUSTER_CREDENTIALS": "true", "KUBECONFIG": "/b"}
    assert credentials(config(env=env, host=host)) == (None, None, True)


@pytest.mark.parametrize("word", ["false", "0", "no", "off"])
def test_cluster_credentials_switched_off(word: str) -> None:
    """--use-cluster-credentials=false is as if it was not given, also against its variable."""
    host = machine({"/a": "", "/b": "", TOKEN: ""})
    env = {"LEADEREXEC_USE_CLUSTER_CREDENTIALS": "true", "KUBECONFIG": "/b"}
    off = f"--use-cluster-credentials={word}"
    assert credentials(config(off, env=env, host=host)) == ("/b", None, False)
    flags = ("--kubeconfig=/a", "--context=c")
    assert credentials(config(off, *flags, env=env, host=host)) == ("/a", "c", False)
    assert credentials(config(off, host=host)) == (None, None, True)


@pytest.mark.parametrize(
    ("argv", "env", "message"),
    [
        (
            [*SWITCHED_ON, "--kubeconfig=/a"],
            {},
            "--use-cluster-credentials 'true': {} --kubeconfig '/a'",
        ),
        (
            [*SWITCHED_ON, "--context=c"],
            {},
            "--use-cluster-credentials 'true': {} --context 'c'",
        ),
        (
            SWITCHED_ON,
            {"LEADEREXEC_KUBECONFIG": "/none"},
            "--use-cluster-credentials 'true': {} LEADEREXEC_KUBECONFIG=/none (--kubeconfig)",
        ),
        (
            ["--context=c"],
            {"LEADEREXEC_USE_CLUSTER_CREDENTIALS": "1"},
            "LEADEREXEC_USE_CLUSTER_CREDENTIALS=1 (--use-cluster-credentials): {} --context 'c'",
        ),
    ],
)
def test_cluster_credentials_beside_others(
    argv: list[str], env: dict[str, str], message: str
) -> None:
    """The service account has no kubeconfig and no contexts, whoever gives them, and wherever."""
    beside = "uses nothing but the pod's service account, so it cannot stand beside"
    expected = message.format(beside) + "; accepted: either of them"
    assert complaint(*argv, env=env, host=machine({"/a": "", TOKEN: ""})) == expected
    assert complaint(*argv, env={**env, **dict.fromkeys(IN_POD, "")}) == expected


def test_cluster_credentials_outside_of_a_pod() -> None:
    """--use-cluster-credentials without a service account is refused, whatever else there is."""
    host = machine({"/b": "", HOME_CONFIG: ""})
    env = {**HOME, "KUBECONFIG": "/b"}
    message = (
        "--use-cluster-credentials 'true': there is no service account of a pod ({}); accepted: "
        "only in a pod that has a service account's token; elsewhere --kubeconfig"
    )
    assert complaint(*SWITCHED_ON, env=env, host=host) == message.format(f"{TOKEN}: {MISSING}")
    assert complaint(*SWITCHED_ON, env={**env, "KUBERNETES_SERVICE_PORT": ""}) == message.format(
        "KUBERNETES_SERVICE_PORT not set"
    )


def test_cluster_credentials_do_nothing_for_a_file() -> None:
    """With a file lock neither the service account nor what it contradicts is asked for."""
    lock = "--lock=file:/run/l"
    parsed = config(lock, *SWITCHED_ON, "--context=c", host=machine({}))
    assert parsed == config(lock, host=machine({}))


def test_list_in_kubeconfig_variable() -> None:
    """KUBECONFIG may list several files, of which those that exist are used."""
    host = machine({"/a": "", "/srv/b": "", TOKEN: ""})
    assert config(env={"KUBECONFIG": "/a::b:/none"}, host=host).kubeconfig == "/a:/srv/b"
    assert config(env={"KUBECONFIG": ":"}, host=host).in_cluster is True


def test_kubeconfig_variable_without_any_file() -> None:
    """A KUBECONFIG that leads nowhere is refused instead of electing in another cluster."""
    assert complaint(env={"KUBECONFIG": "/none:n"}) == (
        f"KUBECONFIG=/none:n: {MISSING} (/none, /srv/n); accepted: a readable kubeconfig file, or "
        "several with ':' between them of which at least one exists"
    )


def test_unreadable_file_in_kubeconfig_variable() -> None:
    """A listed file that exists and cannot be read is refused even beside a good one."""
    host = machine({"/a": ""}, problems={"/b": "permission denied"})
    assert complaint(env={"KUBECONFIG": "/a:/b"}, host=host) == (
        "KUBECONFIG=/a:/b: /b: permission denied; accepted: a readable kubeconfig file"
    )


def test_colon_in_a_kubeconfig_path() -> None:
    """A path that readers of kubeconfigs would split is refused."""
    assert complaint("--kubeconfig=/a:b", host=machine({"/a:b": ""})) == (
        "--kubeconfig '/a:b': its path '/a:b' contains ':'; accepted: one without"
    )


def test_no_credentials_at_all() -> None:
    """Without Kubernetes the message says what was looked for and how to use the file lock."""
    nowhere = machine({})
    outside = dict.fromkeys(IN_POD, "")
    end = "; accepted: any of these, or a lock without Kubernetes for candidates on one machine: "
    assert complaint(env={**outside, **HOME}, host=nowhere) == (
        "--lock (default leases): no credentials for a Kubernetes API server; looked for, in this "
        "order: --kubeconfig (not given), KUBECONFIG (not set), the pod's service account "
        "(KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT not set), /home/me/.kube/config "
        f"({MISSING}){end}--lock file:/path/to/lock"
    )
    message = complaint("--lock=leases", host=nowhere)
    assert message.startswith("--lock 'leases': no credentials")
    assert f"service account ({TOKEN}: {MISSING}), ~/.kube/config (HOME is not set){end}" in message


def test_order_of_namespaces() -> None:
    """Flag, the pod's file, POD_NAMESPACE, the kubeconfig's context (left open), `default`."""
    bare = machine({TOKEN: "", "/a": ""})
    env = {"POD_NAMESPACE": "variable"}
    assert config("-nflag", env=env).namespace == "flag"
    assert config(env=env).namespace == "shop"
    assert config(env=env, host=bare).namespace == "variable"
    assert config("--kubeconfig=/a", env=env, host=bare).namespace == "variable"
    assert config("--use-cluster-credentials", host=bare).namespace == "default"
    assert config(host=bare).namespace == "default"
    assert config("--kubeconfig=/a", host=bare).namespace is None
    with_file = machine({NAMESPACE_FILE: "shop", "/a": ""})
    assert config("--kubeconfig=/a", host=with_file).namespace == "shop"


def test_empty_namespace_file() -> None:
    """An empty namespace file counts as none."""
    host = machine({TOKEN: "", NAMESPACE_FILE: "\n"})
    assert config(host=host).namespace == "default"
    assert config(env={"POD_NAMESPACE": "variable"}, host=host).namespace == "variable"


def test_garbage_in_the_namespace_file() -> None:
    """A namespace file that holds no namespace is refused by its name."""
    message = complaint(host=machine({TOKEN: "", NAMESPACE_FILE: "No Such\n"}))
    assert message.startswith(
        f"{NAMESPACE_FILE} 'No Such': not a namespace's name; accepted: a namespace's name of"
    )


@pytest.mark.parametrize(
    ("value", "shown_value", "problem"),
    [
        ("No Such", "'No Such'", NO_NAMESPACE),
        ("Shop", "Shop", NO_NAMESPACE),
        ("shop\n", r"'shop\n'", NO_NAMESPACE),
        ("n" * 64, "n" * 64, "64 characters"),
        ("$(POD_NAME)", "'$(POD_NAME)'", UNEXPANDED),
    ],
)
def test_garbage_in_the_namespace_variable(value: str, shown_value: str, problem: str) -> None:
    """A POD_NAMESPACE that is no namespace is refused by its name, where it would count."""
    env = {"POD_NAMESPACE": value}
    assert complaint(env=env, host=machine({TOKEN: ""})).startswith(
        f"POD_NAMESPACE={shown_value}: {problem}; accepted: a namespace's name of"
    )
    assert config(env=env).namespace == "shop"
    assert config("-nflag", env=env, host=machine({TOKEN: ""})).namespace == "flag"
    assert config("--lock=file:/run/l", env=env, host=machine({})).namespace == ""


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


# --- Nesting ---------------------------------------------------------------------------------

INSIDE = {"LEADER_ELECTION": "x", "LEADER_NAMESPACE": "shop", "LEADER_FENCING_TOKEN": "7"}


def test_same_election_inside_itself() -> None:
    """A candidate inside its own election's child would wait for itself, and is refused."""
    assert complaint(env=INSIDE) == (
        "--election 'x': this process already runs inside election 'x' in namespace 'shop', as "
        "LEADER_ELECTION, LEADER_NAMESPACE and LEADER_FENCING_TOKEN say; accepted: another election"
    )
    in_file = {**INSIDE, "LEADER_NAMESPACE": ""}
    assert complaint("--lock=file:/run/l", env=in_file).startswith(
        "--election 'x': this process already runs inside election 'x', as"
    )


@pytest.mark.parametrize("name", list(INSIDE))
def test_other_election_inside(name: str) -> None:
    """Another election, another namespace or an incomplete environment is no nesting."""
    config(env={**INSIDE, name: "" if name == "LEADER_FENCING_TOKEN" else "other"})
    config(env={key: INSIDE[key] for key in INSIDE if key != name})


def test_nesting_where_the_kubeconfig_says_the_namespace() -> None:
    """While the namespace is open nothing is refused; whoever learns it asks again."""
    host = machine({"/a": ""})
    parsed = config("--kubeconfig=/a", env=INSIDE, host=host)
    assert parsed.namespace is None
    with pytest.raises(UsageError, match="already runs inside"):
        refuse_nesting("x", "shop", INSIDE)
    refuse_nesting("x", "default", INSIDE)


def test_nesting_where_the_pod_says_the_namespace() -> None:
    """A namespace from POD_NAMESPACE is known at once, for a candidate without command as well."""
    env = {**INSIDE, "POD_NAMESPACE": "shop"}
    host = machine({TOKEN: ""})
    assert "already runs inside" in complaint(env=env, host=host)
    assert "already runs inside" in complaint("--http=:0", env=env, host=host, command=())


# --- Anything at all -------------------------------------------------------------------------

spellings = [spelling for option in OPTIONS for spelling in option.spellings]
variables = [name for option in OPTIONS for name in option.variables]
texts = st.text(st.characters(codec=None), max_size=20) | st.sampled_from(
    ["1", "5s", "20", "leases", "file:l", "file:/run/l", "exit", "x", "TERM", "/a", "--", "-", ""]
)
texts |= st.sampled_from(["endpoints", ":0", "localhost:4040", "[::1]:80", "leader", "true", UID])
words = (
    texts
    | st.sampled_from(spellings)
    | st.tuples(st.sampled_from(spellings), texts).map("=".join)
    | st.tuples(st.sampled_from(spellings), texts).map("".join)
)
likely = ["--election=x", "-na", "--ttl=20", "--lock=file:l", "--kubeconfig=/a", "--id", "me"]
likely += ["--lock=endpoints", "--http=:0", "--ready=leader", "--use-cluster-credentials"]
framed = st.lists(st.sampled_from(likely)) | st.lists(words, max_size=3)
command_lines = st.lists(words, max_size=8) | st.tuples(
    framed, st.sampled_from([[], ["run"], ["--"]])
).map(lambda parts: ["--election=x", *parts[0], *parts[1]])
environments = (
    st.sampled_from([IN_POD, {**IN_POD, **IN_SLOT}])
    | st.dictionaries(
        st.sampled_from([*variables, *IN_POD, *INSIDE, *POD_VARIABLES, "KUBECONFIG", "HOME"])
        | texts,
        texts,
        max_size=8,
    )
    | st.tuples(texts, texts, texts, texts).map(
        lambda values: {**IN_POD, **dict(zip(POD_VARIABLES, values, strict=True))}
    )
)


@given(command_lines, environments)
@example(["--election=x", "\0"], dict(IN_POD))
@example(["--election=x", "--lock=file:l", "a\0b/c"], {})
@example(["--election=x", "--lock=file:l", "\ud800"], {})
@example(["--election=x"], {**IN_POD, **IN_SLOT})
@example(["--election=größe", "--lock=file:l"], IN_SLOT)
def test_any_words_and_environment(argv: list[str], environ: dict[str, str]) -> None:
    """Whatever is given becomes a valid Config, help, version, or a complaint of one line."""
    outcome = outcome_of(argv, environ, machine({TOKEN: "", "/a": ""}, is_init=True))
    if isinstance(outcome, Config):
        check_config(outcome)
        with suppress(CommandError):
            resolve_command(next(iter(outcome.command), ""), environ.get("PATH"))
    elif isinstance(outcome, str):
        assert outcome.isprintable()


@given(command_lines, environments)
def test_any_words_on_the_real_machine(argv: list[str], environ: dict[str, str]) -> None:
    """The real probes stand whatever they are asked about."""
    outcome = outcome_of(argv, environ, None)
    assert not isinstance(outcome, str) or outcome.isprintable()


def outcome_of(
    argv: Sequence[str], environ: Mapping[str, str], host: Host | None
) -> Config | HelpRequested | VersionRequested | InstallRequested | str:
    """Return what `argv` becomes, or the message that it is refused with."""
    try:
        return parse(argv, environ, host=host)
    except UsageError as error:
        return str(error)


def check_config(parsed: Config) -> None:
    """Assert what every Config promises to its readers."""
    parsed.timing.validate()
    assert parsed.election.isprintable()
    assert 0 < len(parsed.election) <= 253
    assert parsed.identity.isprintable()
    assert parsed.identity
    if parsed.slot:
        assert parsed.identity_is_generated
        assert parsed.slot.identity.isprintable()
        assert parsed.slot.claim.isprintable()
    if parsed.http:
        assert parsed.http.host.isascii()
        assert 0 <= parsed.http.port <= 65535
    assert parsed.stop_signal in signal.valid_signals()
    assert signal.valid_signals() >= set(parsed.rewrite_signals)
    assert {0, *signal.valid_signals()} >= set(parsed.rewrite_signals.values())
    assert set(range(256)) >= {*parsed.remap_exits, *parsed.remap_exits.values()}
    assert parsed.parent_death_signal in {None, *signal.valid_signals()}
    if isinstance(parsed.lock, FileLockSpec):
        assert parsed.lock.path.startswith("/")
        assert not parsed.kubeconfig
        assert not parsed.in_cluster
    else:
        assert (parsed.kubeconfig is not None) != parsed.in_cluster
        assert parsed.namespace != ""


# --- COMMAND ---------------------------------------------------------------------------------


def program(path: Path, text: str = "#!/bin/sh\n", mode: int = 0o755) -> Path:
    """Create a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def refused_command(argv0: str, path: str | None) -> tuple[str, int]:
    """Return the message and exit code that `argv0` is refused with."""
    with pytest.raises(CommandError) as refused:
        resolve_command(argv0, path)
    assert str(refused.value).isprintable()
    return str(refused.value), refused.value.exit_code


def test_command_in_path(tmp_path: Path) -> None:
    """The first directory of PATH that has an executable file of the name wins."""
    program(tmp_path / "b" / "tool")
    program(tmp_path / "c" / "tool")
    path = f"{tmp_path}/a:{tmp_path}/b:{tmp_path}/c"
    assert resolve_command("tool", path) == f"{tmp_path}/b/tool"


def test_command_in_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty element of PATH, and an empty PATH, stand for the current directory."""
    program(tmp_path / "tool")
    monkeypatch.chdir(tmp_path)
    for path in ("", ":/none", "/none:", "/none::/none"):
        assert resolve_command("tool", path) == "./tool"
    assert refused_command("tool", "/none")[1] == exits.NOT_FOUND


def test_command_without_path() -> None:
    """Without PATH the system's default directories are searched, not the current one."""
    assert resolve_command("sh", None) in ("/bin/sh", "/usr/bin/sh")
    assert refused_command("no-such-tool", None) == (
        "cannot run 'no-such-tool': PATH is not set and it is not in /bin:/usr/bin",
        exits.NOT_FOUND,
    )


def test_command_with_a_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a slash is taken as it is, without PATH."""
    program(tmp_path / "sub" / "tool")
    monkeypatch.chdir(tmp_path)
    assert resolve_command("sub/tool", str(tmp_path)) == "sub/tool"
    assert resolve_command(f"{tmp_path}/sub/tool", None) == f"{tmp_path}/sub/tool"
    assert refused_command("./tool", f"{tmp_path}/sub") == (
        f"cannot run './tool': {MISSING}",
        exits.NOT_FOUND,
    )


@pytest.mark.parametrize("name", ["no-such-tool", "", "a\0b", "\ud800", "n" * 300 + "/x"])
def test_command_not_found(name: str) -> None:
    """What is in no directory, and what cannot be a file's name, is not found."""
    expected = exits.NOT_EXECUTABLE if len(name) > 255 else exits.NOT_FOUND
    assert refused_command(name, "/bin:/usr/bin")[1] == expected


def test_command_not_executable(tmp_path: Path) -> None:
    """A file that may not be executed is reported, once the rest of PATH has been searched."""
    denied = program(tmp_path / "a" / "tool", mode=0o644)
    path = f"{tmp_path}/a:{tmp_path}/b"
    assert refused_command("tool", path) == (
        f"cannot run {str(denied)!r}: permission denied",
        exits.NOT_EXECUTABLE,
    )
    program(tmp_path / "b" / "tool")
    assert resolve_command("tool", path) == f"{tmp_path}/b/tool"


def test_command_is_a_directory(tmp_path: Path) -> None:
    """A directory is found but not executable, by path and in PATH."""
    (tmp_path / "tool").mkdir()
    expected = (f"cannot run '{tmp_path}/tool': is a directory", exits.NOT_EXECUTABLE)
    assert refused_command(f"{tmp_path}/tool", None) == expected
    assert refused_command("tool", str(tmp_path)) == expected


def test_command_is_a_pipe(tmp_path: Path) -> None:
    """Neither a pipe nor a device is executable, and looking at one does not block."""
    os.mkfifo(tmp_path / "pipe", 0o755)
    assert refused_command(f"{tmp_path}/pipe", None) == (
        f"cannot run '{tmp_path}/pipe': not a regular file",
        exits.NOT_EXECUTABLE,
    )


def test_command_below_a_file(tmp_path: Path) -> None:
    """A path that leads through a file is not found, and PATH goes on behind it."""
    tool = program(tmp_path / "b" / "tool")
    assert refused_command(f"{tool}/tool", None)[1] == exits.NOT_FOUND
    assert resolve_command("tool", f"{tool}:{tmp_path}/b") == str(tool)


def test_command_in_a_loop_of_links(tmp_path: Path) -> None:
    """A link that leads to itself cannot be executed."""
    (tmp_path / "tool").symlink_to("tool")
    assert refused_command("tool", str(tmp_path))[1] == exits.NOT_EXECUTABLE


def test_dangling_link(tmp_path: Path) -> None:
    """A link to nothing is not found, and named."""
    (tmp_path / "tool").symlink_to("none")
    assert refused_command("tool", str(tmp_path)) == (
        f"cannot run '{tmp_path}/tool': {MISSING}",
        exits.NOT_FOUND,
    )


@pytest.mark.parametrize(
    ("first_line", "interpreter"),
    [
        ("#!/none/sh\n", "/none/sh"),
        ("#! \t/none/sh -e\n", "/none/sh"),
        ("#!/bin/sh\r\n", "/bin/sh\r"),
        ("#!/none/sh", "/none/sh"),
    ],
)
def test_interpreter_not_found(tmp_path: Path, first_line: str, interpreter: str) -> None:
    """A script whose interpreter does not exist is refused now instead of after winning."""
    script = str(program(tmp_path / "script", first_line))
    expected = (
        f"cannot run {script!r}: its interpreter {interpreter!r} is not found",
        exits.NOT_FOUND,
    )
    assert refused_command(script, None) == expected
    assert refused_command("script", str(tmp_path)) == expected


def test_denied_beats_missing_interpreter(tmp_path: Path) -> None:
    """As with execvp, what was denied decides the exit code when nothing else is found."""
    program(tmp_path / "a" / "tool", "#!/none\n")
    program(tmp_path / "b" / "tool", mode=0o644)
    program(tmp_path / "c" / "tool", "#!/none\n")
    path = f"{tmp_path}/a:{tmp_path}/b:{tmp_path}/c"
    assert refused_command("tool", path)[1] == exits.NOT_EXECUTABLE


@pytest.mark.parametrize("text", ["#!\n", "#! /bin/sh -e\n", "text", "", "#!/bin/sh\0x\n"])
def test_what_is_left_to_the_kernel(tmp_path: Path, text: str) -> None:
    """A file whose beginning says nothing certain is not refused."""
    script = str(program(tmp_path / "script", text))
    assert resolve_command(script, None) == script


def test_unreadable_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What may be executed need not be readable."""

    def refuse(*_: object) -> None:
        raise PermissionError

    script = str(program(tmp_path / "script", "#!/none\n"))
    monkeypatch.setattr("builtins.open", refuse)
    assert resolve_command(script, None) == script


@pytest.mark.parametrize("missing", [False, True])
def test_resolve_agrees_with_execvp(tmp_path: Path, *, missing: bool) -> None:
    """The file found is the one that execvp runs, through denied and missing elements of PATH."""
    program(tmp_path / "a" / "tool", mode=0o644)
    (tmp_path / "b" / "tool").mkdir(parents=True)
    if not missing:
        program(tmp_path / "c" / "tool", '#!/bin/sh\necho "$0"\n')
    path = f"/none:{tmp_path}/a:{tmp_path}/b:{tmp_path}/c"
    code = "import os, sys\ntry: os.execvp('tool', ['tool'])\nexcept PermissionError: sys.exit(126)"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if missing:
        assert ran.returncode == refused_command("tool", path)[1]
    else:
        assert ran.stdout.strip() == resolve_command("tool", path)


# --- Help and exit codes ---------------------------------------------------------------------


def test_help_names_everything() -> None:
    """--help shows every option with its default, the groups, the rules and the exit codes."""
    text = help_text(80)
    unwrapped = " ".join(text.split())
    for option in OPTIONS:
        for spelling in option.spellings:
            assert spelling in text
        if option.default is not None:
            assert f"default: {option.default}" in unwrapped
    for heading in (*(group.value for group in Group), "Exit codes", "Examples"):
        assert f"\n{heading}:\n" in text
    assert text.startswith("Usage: leaderexec [OPTIONS] [[--] COMMAND [ARG...]]\n")
    for variable in ("LEADEREXEC_LEASE_DURATION", *POD_VARIABLES):
        assert variable in text
    for code, _ in exits.EXIT_CODES:
        assert f"\n  {code} " in text


def test_help_tells_defaults_that_depend_on_the_lock() -> None:
    """The durations' defaults are told for both kinds of lock, and are those that are used."""
    text = " ".join(help_text(80).split())
    for now, then in (("15s", "10s"), ("10s", "5s"), ("2s", "2.5s")):
        assert f"[default: {now}; {then} with --lock=endpoints or configmaps]" in text


@pytest.mark.parametrize("width", [72, 80, 100, 110])
def test_help_fits_the_terminal(width: int) -> None:
    """No line of the help is wider than the terminal."""
    assert max(map(len, help_text(width).splitlines())) <= width


@given(st.integers(-10, 1000))
def test_help_of_any_width(width: int) -> None:
    """Help is complete and tidy however odd the terminal's width."""
    lines = help_text(width).splitlines()
    assert lines[-1].strip().endswith("--http=0.0.0.0:4040")
    assert all(line == line.rstrip() for line in lines)


def test_examples_of_the_help_are_valid() -> None:
    """Whoever copies an example from the help is not answered with a complaint."""
    examples = [line.split() for line in help_text(80).splitlines() if "leaderexec --" in line]
    commands = []
    for _, *argv in examples:
        parsed = parse(argv, dict(IN_POD), host=machine())
        assert isinstance(parsed, Config)
        commands.append(parsed.command)
    assert commands == [("./server", "--port=80"), ("./server",), ()]


def test_exit_codes() -> None:
    """The numbers are the documented ones."""
    assert (exits.OK, exits.USAGE, exits.LOST, exits.TIMEOUT) == (0, 2, 75, 124)
    assert (exits.INTERNAL, exits.NOT_EXECUTABLE, exits.NOT_FOUND) == (125, 126, 127)


@pytest.mark.parametrize(
    ("status", "code"),
    [(0, 0), (3 << 8, 3), (255 << 8, 255), (9, 137), (15, 143), (0x80 | 11, 139)],
)
def test_exit_code_from_wait_status(status: int, code: int) -> None:
    """A child's status becomes its own code, or 128 and the signal's number, dumped core or not."""
    assert exits.from_wait_status(status) == code


def test_stopped_is_no_end() -> None:
    """A child that was only stopped has no exit code."""
    with pytest.raises(ValueError, match="stopped"):
        exits.from_wait_status(signal.SIGSTOP << 8 | 0x7F)


def test_config_has_no_undocumented_fields() -> None:
    """Every field of a Config is something that an option, or a rule of the module, decides."""
    derived = {"identity", "identity_is_generated", "slot", "timing", "in_cluster", "command"}
    derived |= {"stop_timeout_ns", "campaign_timeout_ns", "rewrite_signals", "remap_exits"}
    options = {option.name[2:].replace("-", "_") for option in OPTIONS}
    assert {field.name for field in fields(Config)} - derived <= options


def test_imports_are_light() -> None:
    """Reading the command line loads none of the heavy packages and few of the standard ones."""
    code = (
        "import sys; import leaderexec.config; "
        "heavy = {'kubernetes', 'structlog', 'psutil', 'argparse', 'socket', 'subprocess', "
        "'pathlib', 'logging', 'difflib', 'textwrap', 'decimal', 'threading'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    shown_modules = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path.insert(0, {str(root())!r}); {code}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown_modules.stdout.strip() == "[]"


def root() -> Path:
    """Return the directory that holds the package."""
    return Path(exits.__file__).parents[1]
