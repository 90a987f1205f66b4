"""The command line: arguments and environment become one frozen Config, or one line of complaint.

Owns the table of options, from which parsing, `--help` and the README's table are made, the
rules for what each value may be, where Kubernetes credentials and the namespace come from, and
which file a COMMAND names. Decides by argv, environ and the few questions in `Host`, so that a
test can answer them. It must not know how a lock, a child or a log works, and imports nothing
heavy: it runs before the first fork, on the way of every start.

Decisions a reader may look for:

- A repeated option: the last one counts, but for those that hold several values, which add up. A
  flag beats its variable, which then is not even read.
- Unknown LEADEREXEC_* variables are ignored: Kubernetes itself invents LEADEREXEC_SERVICE_HOST
  and LEADEREXEC_PORT for a Service of that name (no option may ever be called --port), and images
  keep versions in such variables (hence none for --version and --help).
- `--ttl` stands for three durations. Beside one of them it is refused when both are flags or both
  are variables; across the two, flags beat variables value by value.
- Credentials: --kubeconfig, else KUBECONFIG, else the pod's service account, else
  ~/.kube/config, as controller-runtime has it: what was set on purpose beats what is merely
  there. --context needs a kubeconfig and so skips the service account. A KUBECONFIG of which no
  file exists is refused: falling back could elect in another cluster than the one meant. With
  --use-cluster-credentials it is the service account or nothing, and KUBECONFIG is not looked at.
- Namespace: --namespace, else the pod's (its namespace file, else POD_NAMESPACE), else the
  kubeconfig context's (None in the Config, filled in by whoever reads kubeconfigs), else
  `default`. A file lock has none: "".
- Identity: --id as it is, else the pod's or the host's name and a suffix that we know again
  (`SUFFIX`). The suffix is random, or, for PID 1 of a container that knows its slot (POD_UID and
  CONTAINER_NAME), the slot, if nobody else holds it; whoever starts us finds that out.
- `install` as the very first word is a subcommand; `-- install` and any option before it make it
  a COMMAND.
- Without a COMMAND we only elect, as the leader-elector of 2016 did. `--` with nothing after it
  is refused: that is a command that got lost, `-- $SERVER` with SERVER unset.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import stat
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, ClassVar, Final, Generic, NamedTuple, TypeVar

from leaderexec.exits import EXIT_CODES, NOT_EXECUTABLE, NOT_FOUND, from_exec_errno
from leaderexec.model import SECOND_NS, Timing, TimingError, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
ENV_PREFIX: Final = "LEADEREXEC_"

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


class UsageError(Exception):
    """The command line or the environment is wrong; the message is one line for a person."""


class CommandError(Exception):
    """COMMAND cannot be run; `exit_code` says whether it was found at all."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class OnLoss(StrEnum):
    """What to do once the child is dead after leadership was lost."""

    STANDBY = "standby"
    EXIT = "exit"


class LogFormat(StrEnum):
    """How log lines look; auto is console on a terminal and json elsewhere."""

    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    """The least severe line that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Ready(StrEnum):
    """Who is ready, as /readyz tells: every candidate that works, or the leader alone."""

    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass(frozen=True, slots=True)
class LeaseLockSpec:
    """The lock is a coordination.k8s.io Lease, named after the election."""

    kind: ClassVar[str] = "leases"


class AnnotatedKind(StrEnum):
    """The kinds whose annotation served as lock before there were Leases."""

    ENDPOINTS = "endpoints"
    CONFIGMAPS = "configmaps"


@dataclass(frozen=True, slots=True)
class AnnotationLockSpec:
    """The lock is an annotation on an object named after the election, as in 2016."""

    kind: AnnotatedKind


@dataclass(frozen=True, slots=True)
class FileLockSpec:
    """The lock is a local file; `path` is absolute."""

    kind: ClassVar[str] = "file"
    path: str


LockSpec = LeaseLockSpec | AnnotationLockSpec | FileLockSpec


@dataclass(frozen=True, slots=True)
class HttpSpec:
    """Where to serve HTTP: `host` is empty for all addresses, `port` 0 for any free one."""

    host: str
    port: int


def authority(host: str, port: int) -> str:
    """Write host and port as a URL does, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Slot:
    """What a container is to its pod, which outlives a restart of the container.

    Only one process at a time may go by `identity`: whoever holds the name `claim`.
    """

    identity: str
    claim: str


@dataclass(frozen=True, slots=True)
class HelpRequested:
    """--help was given: print it, do nothing else."""


@dataclass(frozen=True, slots=True)
class VersionRequested:
    """--version was given: print it, do nothing else."""


@dataclass(frozen=True, slots=True)
class InstallRequested:
    """`install DIR` was given: put the bundle there, do nothing else."""

    directory: str


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that one start of leaderexec was told.

    `namespace` is None when the kubeconfig's context decides it, and empty for a file lock.
    `kubeconfig` is one absolute path, or several joined by ":", to be merged as kubectl does.
    Exactly one of `kubeconfig` and `in_cluster` is set for a lock in Kubernetes, none for a file.
    `campaign_timeout_ns` is None for ever, 0 for a single attempt. With `wait_for_leader` it bounds
    the wait, and there is neither `command` nor `http`. `slot` is None unless the
    identity may be replaced by the slot's. `http` is None when nothing is served. An empty
    `command` means that we only elect.
    """

    election: str
    namespace: str | None
    identity: str
    identity_is_generated: bool
    slot: Slot | None
    lock: LockSpec
    timing: Timing
    stop_signal: int
    stop_timeout_ns: int
    on_loss: OnLoss
    campaign_timeout_ns: int | None
    wait_for_leader: bool
    signal_group: bool
    rewrite_signals: Mapping[int, int]
    remap_exits: Mapping[int, int]
    parent_death_signal: int | None
    allow_privilege_escalation: bool
    kubeconfig: str | None
    context: str | None
    in_cluster: bool
    http: HttpSpec | None
    ready: Ready
    log_format: LogFormat
    log_level: LogLevel
    command: tuple[str, ...]


# --- What parsing asks of the machine --------------------------------------------------------

#: How `Host.file_problem` says that there is no such file.
MISSING: Final = os.strerror(errno.ENOENT).lower()


def _read_text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return None


def _file_problem(path: str) -> str | None:
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        return _reason(error)
    if not stat.S_ISREG(mode):
        # A pipe could be read only once, and a restarted elector reads the file again.
        return "not a regular file"
    return None if os.access(path, os.R_OK, effective_ids=True) else "permission denied"


@dataclass(frozen=True, slots=True)
class Host:
    """The questions that parsing asks of the machine, so that a test can answer them.

    `file_problem` says why a path is not a readable regular file, None when it is one.
    """

    hostname: Callable[[], str] = lambda: os.uname().nodename
    is_init: Callable[[], bool] = lambda: os.getpid() == 1
    random_bytes: Callable[[int], bytes] = os.urandom
    current_directory: Callable[[], str] = os.getcwd
    is_directory: Callable[[str], bool] = os.path.isdir
    read_text: Callable[[str], str | None] = _read_text
    file_problem: Callable[[str], str | None] = _file_problem


# --- Showing values --------------------------------------------------------------------------

_SHOWN_LIMIT: Final = 80
_PLAIN = re.compile(rf"[A-Za-z0-9_.,:/@%+=~-]{{1,{_SHOWN_LIMIT}}}")


def _shown(text: str) -> str:
    """Quote `text` for a message: always one line, always printable, never endless."""
    if len(text) > _SHOWN_LIMIT:
        text = text[: _SHOWN_LIMIT - 3] + "..."
    return repr(text)


def _bare(text: str) -> str:
    """Show `text` without quotes where nobody could misread it."""
    return text if _PLAIN.fullmatch(text) else _shown(text)


def _reason(error: OSError | ValueError) -> str:
    """Say why a file cannot be used, in the words of the operating system."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno).lower()
    return "not a possible file name"


# --- What values may be ----------------------------------------------------------------------
# A parser returns the value or raises ValueError with what is wrong; what is accepted instead is
# the option's `accepts`.

MAX_SECONDS: Final = 2**31 - 1
_MAX_DURATION_TEXT: Final = 64
_MAX_NAME: Final = 253
_MAX_LABEL: Final = 63

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_PLAIN_SECONDS = re.compile(_NUMBER)
_WITH_UNITS = re.compile(rf"(?:({_NUMBER})h)?(?:({_NUMBER})m)?(?:({_NUMBER})s)?(?:({_NUMBER})ms)?")
_UNITS_NS: Final = (3600 * SECOND_NS, 60 * SECOND_NS, SECOND_NS, SECOND_NS // 1000)

_DNS_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(rf"{_DNS_LABEL.pattern}(?:\.{_DNS_LABEL.pattern})*")

_DURATION_FORMS: Final = "15s, 500ms, 1m30s, 1h, 1.5s or plain seconds such as 15 or 0.5"
_WHOLE_SECONDS: Final = f"whole seconds from 1s to {MAX_SECONDS}s, such as 15s or 1m30s"
_OBJECT_NAME: Final = (
    "a Kubernetes object name of at most 253 characters: lower-case letters, digits, '-' and '.', "
    "each part beginning and ending with a letter or digit"
)


def _quantity_ns(number: str, unit_ns: int) -> int:
    whole, _, decimals = number.partition(".")
    scale: int = 10 ** len(decimals)
    quantity, rest = divmod(int(whole + decimals) * unit_ns, scale)
    if rest:
        raise ValueError("finer than a nanosecond")
    return quantity


def parse_duration(text: str) -> int:
    """Return the nanoseconds that `text` says, exactly; raise ValueError with what is wrong."""
    if not text:
        raise ValueError("empty")
    if text.startswith("-"):
        raise ValueError("negative")
    if len(text) > _MAX_DURATION_TEXT:
        raise ValueError(f"longer than {_MAX_DURATION_TEXT} characters")
    if _PLAIN_SECONDS.fullmatch(text):
        total_ns = _quantity_ns(text, SECOND_NS)
    elif match := _WITH_UNITS.fullmatch(text):
        total_ns = sum(
            _quantity_ns(number, unit_ns)
            for number, unit_ns in zip(match.groups(), _UNITS_NS, strict=True)
            if number is not None
        )
    else:
        raise ValueError("not a duration")
    if total_ns > MAX_SECONDS * SECOND_NS:
        raise ValueError(f"more than {MAX_SECONDS}s")
    return total_ns


def _whole_seconds(text: str) -> int:
    whole_s, rest_ns = divmod(parse_duration(text), SECOND_NS)
    if rest_ns:
        raise ValueError("the record stores whole seconds")
    if whole_s < 1:
        raise ValueError("too short")
    return whole_s


def _printable(text: str) -> str:
    if not text:
        raise ValueError("empty")
    if not text.isprintable():
        raise ValueError("not printable")
    return text


def _name(text: str) -> str:
    if _printable(text) != text.strip():
        raise ValueError("begins or ends with a space")
    if len(text) > _MAX_NAME:
        raise ValueError(f"{len(text)} characters")
    return text


def _namespace_name(text: str) -> str:
    if not text:
        raise ValueError("empty")
    if len(text) > _MAX_LABEL:
        raise ValueError(f"{len(text)} characters")
    if not _DNS_LABEL.fullmatch(text):
        raise ValueError("not a namespace's name")
    return text


def _path(text: str) -> str:
    if _printable(text).endswith("/"):
        raise ValueError("names a directory")
    return text


def _lock(text: str) -> LockSpec:
    if text == "leases":
        return LeaseLockSpec()
    if text in set(AnnotatedKind):
        return AnnotationLockSpec(AnnotatedKind(text))
    kind, colon, path = text.partition(":")
    if kind == "file" and colon:
        return FileLockSpec(_path(path))
    if kind == "file":
        raise ValueError("names no path")
    if text.startswith(("/", ".")):
        raise ValueError("a path is written file:PATH")
    raise ValueError("no such lock" if text else "empty")


_MAX_PORT: Final = 65535
_BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]+(?:%[-\w.]+)?)\]", re.ASCII)
#: What a resolver may be asked about; longer parts and empty ones make Python's raise.
_HOST = re.compile(r"[-\w]{1,63}(?:\.[-\w]{1,63})*\.?", re.ASCII)


def _http(text: str) -> HttpSpec | None:
    if not text:
        return None  # as in 2016, where this was the default
    host, colon, port = text.rpartition(":")
    if not colon and re.fullmatch(r"[0-9]{1,5}", port):
        raise ValueError(f"a port alone is written :{port}")
    if not colon or not port or port.endswith("]"):
        raise ValueError("names no port")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > _MAX_PORT:
        raise ValueError(f"{_bare(port)} is no port")
    if ":" in host and "/" not in host:
        host = _ipv6_address(host)
    elif host and (len(host) > _MAX_NAME or not _HOST.fullmatch(host)):
        raise ValueError(f"{_bare(host)} is no host")
    return HttpSpec(host, int(port))


def _ipv6_address(bracketed: str) -> str:
    from ipaddress import IPv6Address  # noqa: PLC0415 - few need it

    if not bracketed.startswith("["):
        raise ValueError("an IPv6 address is written in brackets")
    try:
        match = _BRACKETED.fullmatch(bracketed)
        return str(IPv6Address(match[1] if match else ""))
    except ValueError:
        raise ValueError(f"{_bare(bracketed)} is no IPv6 address") from None


def _boolean(text: str) -> bool:
    word = text.lower()
    if word in {"true", "1", "yes", "on"}:
        return True
    if word in {"false", "0", "no", "off"}:
        return False
    raise ValueError("neither true nor false")


_E = TypeVar("_E", bound=StrEnum)


def _one_of(kind: type[_E]) -> Callable[[str], _E]:
    def parse_word(text: str) -> _E:
        try:
            return kind(text.lower())
        except ValueError:
            raise ValueError("no such choice" if text else "empty") from None

    return parse_word


def _words(kind: type[StrEnum]) -> tuple[str, str]:
    """Return the metavar and the sentence for a choice among `kind`."""
    words = [member.value for member in kind]
    return "|".join(words), ", ".join(words[:-1]) + " or " + words[-1]


_NOT_STOP_SIGNALS: Final = {
    signal.SIGKILL: "no child can act on it",
    signal.SIGSTOP: "no child can act on it",
    signal.SIGCHLD: "the kernel sends it about children",
    signal.SIGCONT: "it continues what was stopped",
    signal.SIGTSTP: "the terminal sends it",
    signal.SIGTTIN: "the terminal sends it",
    signal.SIGTTOU: "the terminal sends it",
    signal.SIGSEGV: "the kernel sends it about faults",
    signal.SIGBUS: "the kernel sends it about faults",
    signal.SIGFPE: "the kernel sends it about faults",
    signal.SIGILL: "the kernel sends it about faults",
    signal.SIGSYS: "the kernel sends it about faults",
    signal.SIGTRAP: "the kernel sends it about faults",
    signal.SIGPIPE: "the kernel sends it about closed pipes",
}
_STOP_SIGNAL_NAMES: Final = [
    known.name.removeprefix("SIG")
    for known in sorted(signal.Signals)
    if known not in _NOT_STOP_SIGNALS and known < signal.SIGRTMIN
]
_REALTIME = re.compile(r"RT(?:MIN(?:\+([0-9]{1,2}))?|MAX(?:-([0-9]{1,2}))?)")


def _signal(text: str) -> int:
    if not text:
        raise ValueError("empty")
    name = text.upper().removeprefix("SIG")
    number: int | None = None
    if match := _REALTIME.fullmatch(name):
        above, below = match.groups("0")
        base = signal.SIGRTMIN if name.startswith("RTMIN") else signal.SIGRTMAX
        number = base + int(above) - int(below)
        if not signal.SIGRTMIN <= number <= signal.SIGRTMAX:
            number = None
    elif re.fullmatch(r"[0-9]{1,3}", text):
        number = int(text)
    else:
        known = signal.Signals.__members__.get(f"SIG{name}")
        number = None if known is None else int(known)
    if number is None or number not in signal.valid_signals():
        raise ValueError("no such signal")
    return number


def _stop_signal(text: str) -> int:
    number = _signal(text)
    if number in _NOT_STOP_SIGNALS:
        raise ValueError(_NOT_STOP_SIGNALS[signal.Signals(number)])
    return number


#: Signals that no child of ours is ever sent for having arrived here.
_NOT_FORWARDED: Final = {
    signal.SIGKILL: "it cannot be caught, so it is never forwarded",
    signal.SIGSTOP: "it cannot be caught, so it is never forwarded",
    signal.SIGCHLD: "the kernel sends it about our own children, so it is never forwarded",
}


def _pairs(
    text: str, first: Callable[[str], int], second: Callable[[str], int]
) -> Mapping[int, int]:
    """Read `FROM:TO,...`; the last TO of a FROM counts."""
    pairs: dict[int, int] = {}
    for pair in text.split(","):
        before, colon, after = pair.partition(":")
        if not colon:
            raise ValueError(f"{_bare(pair)} is no pair" if pair else "empty")
        try:
            pairs[first(before)] = second(after)
        except ValueError as error:
            raise ValueError(f"{_bare(pair)}: {error}") from None
    return pairs


def _rewritten_signal(text: str) -> int:
    number = _signal(text)
    if number in _NOT_FORWARDED:
        raise ValueError(_NOT_FORWARDED[signal.Signals(number)])
    return number


def _signal_rewrites(text: str) -> Mapping[int, int]:
    return _pairs(text, _rewritten_signal, lambda after: 0 if after == "0" else _signal(after))


_MAX_EXIT_CODE: Final = 255


def _exit_code(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", text) or int(text) > _MAX_EXIT_CODE:
        raise ValueError(f"{_bare(text)} is no exit code" if text else "an exit code is missing")
    return int(text)


def _exit_remaps(text: str) -> Mapping[int, int]:
    return _pairs(text, _exit_code, _exit_code)


# --- The table of options --------------------------------------------------------------------


class Group(Enum):
    """The sections of --help and of the README's table."""

    ELECTION = "Election"
    TIMING = "Timing"
    CHILD = "Child"
    KUBERNETES = "Kubernetes"
    HTTP = "HTTP"
    LOGGING = "Logging"
    GENERAL = "General"


@dataclass(frozen=True, slots=True, eq=False)
class Option(Generic[_T_co]):
    """One row: how an option is spelled, what it takes, what it does without being given.

    `metavar` is None for a switch, which may stand alone. `default` is the text that is parsed
    when the option is not given, None when that is decided elsewhere: then `otherwise` says how.
    Given again, an option that `adds_up` is parsed as one text with commas between.
    """

    name: str
    group: Group
    parse: Callable[[str], _T_co]
    help: str
    accepts: str
    metavar: str | None = None
    aliases: tuple[str, ...] = ()
    default: str | None = None
    otherwise: str = ""
    has_variable: bool = True
    adds_up: bool = False
    spellings: tuple[str, ...] = field(init=False)
    variables: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        spellings = (self.name, *self.aliases)
        variables = tuple(
            ENV_PREFIX + spelling[2:].upper().replace("-", "_")
            for spelling in spellings
            if spelling.startswith("--") and self.has_variable
        )
        object.__setattr__(self, "spellings", spellings)
        object.__setattr__(self, "variables", variables)


ELECTION: Final = Option(
    "--election",
    Group.ELECTION,
    _name,
    "name of the election, and of the object that is its lock; all candidates give the same",
    f"{_OBJECT_NAME} (with --lock=file:PATH any printable name)",
    metavar="NAME",
    otherwise="required",
)
ID: Final = Option(
    "--id",
    Group.ELECTION,
    _name,
    "this candidate's name, taken as it is; no two candidates may have the same",
    "a printable name of at most 253 characters",
    metavar="NAME",
    otherwise="the pod's or host's name and a suffix of ours",
)
LOCK: Final = Option(
    "--lock",
    Group.ELECTION,
    _lock,
    "where the election is held: on a Kubernetes Lease, on an annotation of an Endpoints or a "
    "ConfigMap as in 2016, or in a file for candidates that share a local filesystem",
    "leases, endpoints, configmaps, or file:PATH such as file:/run/my-app.lock",
    metavar="leases|endpoints|configmaps|file:PATH",
    default="leases",
)
ON_LOSS: Final = Option(
    "--on-loss",
    Group.ELECTION,
    _one_of(OnLoss),
    "once the child is dead after leadership was lost: campaign again, or exit with 75",
    _words(OnLoss)[1],
    metavar=_words(OnLoss)[0],
    default="standby",
)
TIMEOUT: Final = Option(
    "--timeout",
    Group.ELECTION,
    parse_duration,
    "give up campaigning, or waiting for a leader, after this long and exit with 124; 0 tries once",
    _DURATION_FORMS,
    metavar="DURATION",
    otherwise="campaign for ever",
)
WAIT_FOR_LEADER: Final = Option(
    "--wait-for-leader",
    Group.ELECTION,
    _boolean,
    "do not campaign: exit with 0 once some candidate is seen to lead, as an init container may",
    "true, false, 1, 0, yes, no, on or off",
    default="false",
)
_TIMING_DEFAULTS: Final = Timing()
#: Candidates of 2016 judge by their own duration, which is 10 s unless they were told otherwise.
_TIMING_DEFAULTS_2016: Final = Timing(10, 5 * SECOND_NS, 5 * SECOND_NS // 2)


def _both_defaults(of: Callable[[Timing], int]) -> str:
    today, then = (seconds(of(timing)) for timing in (_TIMING_DEFAULTS, _TIMING_DEFAULTS_2016))
    return f"{today}; {then} with --lock=endpoints or configmaps"


LEASE_DURATION: Final = Option(
    "--lease-duration",
    Group.TIMING,
    _whole_seconds,
    "how long the lock stays taken after a renewal; whole seconds",
    _WHOLE_SECONDS,
    metavar="DURATION",
    otherwise=_both_defaults(lambda timing: timing.lease_duration_ns),
)
RENEW_DEADLINE: Final = Option(
    "--renew-deadline",
    Group.TIMING,
    parse_duration,
    "send the stop signal this long after the last good renewal",
    _DURATION_FORMS,
    metavar="DURATION",
    otherwise=_both_defaults(lambda timing: timing.renew_deadline_ns),
)
RETRY_PERIOD: Final = Option(
    "--retry-period",
    Group.TIMING,
    parse_duration,
    "time from one renewal to the next; 1s or more",
    _DURATION_FORMS,
    metavar="DURATION",
    otherwise=_both_defaults(lambda timing: timing.retry_period_ns),
)
TTL: Final = Option(
    "--ttl",
    Group.TIMING,
    _whole_seconds,
    "sets the three above to TTL, TTL/2 and TTL/4, as the leader-elector of 2016 did",
    _WHOLE_SECONDS,
    metavar="DURATION",
    otherwise="not used",
)
STOP_SIGNAL: Final = Option(
    "--stop-signal",
    Group.CHILD,
    _stop_signal,
    "signal that asks the child to stop",
    f"{', '.join(_STOP_SIGNAL_NAMES)}, RTMIN+n or RTMAX-n, with or without SIG, or the number",
    metavar="SIGNAL",
    default="TERM",
)
STOP_TIMEOUT: Final = Option(
    "--stop-timeout",
    Group.CHILD,
    parse_duration,
    "how long the child may take to stop before SIGKILL; the lock is kept meanwhile",
    _DURATION_FORMS,
    metavar="DURATION",
    default="20s",
)
SIGNAL_GROUP: Final = Option(
    "--signal-group",
    Group.CHILD,
    _boolean,
    "send signals to the child's process group instead of the child alone",
    "true, false, 1, 0, yes, no, on or off",
    default="false",
)
REWRITE_SIGNAL: Final = Option(
    "--rewrite-signal",
    Group.CHILD,
    _signal_rewrites,
    "send the child TO wherever it would be sent FROM, nothing if TO is 0; what a signal means to "
    "leaderexec itself stays; may be repeated",
    "pairs FROM:TO of signals, TO may be 0, such as 15:3 or HUP:QUIT,USR1:0",
    metavar="FROM:TO",
    otherwise="none",
    adds_up=True,
)
REMAP_EXIT: Final = Option(
    "--remap-exit",
    Group.CHILD,
    _exit_remaps,
    "exit with TO instead of FROM, where FROM is the child's code or 128+n for the signal n that "
    "ended a candidate; may be repeated",
    "pairs FROM:TO of exit codes from 0 to 255, such as 143:0 or 143:0,130:0",
    metavar="FROM:TO",
    otherwise="none",
    adds_up=True,
)
PARENT_DEATH_SIGNAL: Final = Option(
    "--parent-death-signal",
    Group.CHILD,
    _signal,
    "signal that leaderexec gets, and acts on, when the process that started it ends",
    "a signal's name, with or without SIG, or its number",
    metavar="SIGNAL",
    otherwise="none",
)
ALLOW_PRIVILEGE_ESCALATION: Final = Option(
    "--allow-privilege-escalation",
    Group.CHILD,
    _boolean,
    "let a child gain privileges by setuid programs such as sudo and ping although leaderexec, not "
    "being root, may then be unable to kill it: such a tree keeps the lock until it ends by itself",
    "true, false, 1, 0, yes, no, on or off",
    default="false",
)
NAMESPACE: Final = Option(
    "--namespace",
    Group.KUBERNETES,
    _namespace_name,
    "namespace of the lock's object",
    "a namespace's name of at most 63 characters: lower-case letters, digits and '-', beginning "
    "and ending with a letter or digit",
    metavar="NAME",
    aliases=("-n", "--election-namespace"),
    otherwise="the pod's namespace, else the kubeconfig context's, else default",
)
KUBECONFIG: Final = Option(
    "--kubeconfig",
    Group.KUBERNETES,
    _path,
    "file with the address and credentials of the API server",
    "a readable kubeconfig file",
    metavar="FILE",
    otherwise="the files in KUBECONFIG, else the pod's service account, else ~/.kube/config",
)
USE_CLUSTER_CREDENTIALS: Final = Option(
    "--use-cluster-credentials",
    Group.KUBERNETES,
    _boolean,
    "use the pod's service account and nothing else",
    "true, false, 1, 0, yes, no, on or off",
    default="false",
)
CONTEXT: Final = Option(
    "--context",
    Group.KUBERNETES,
    _name,
    "context in the kubeconfig; with it the pod's service account is not considered",
    "the name of a context in the kubeconfig",
    metavar="NAME",
    otherwise="the kubeconfig's current context",
)
HTTP: Final = Option(
    "--http",
    Group.HTTP,
    _http,
    "serve who leads, probes, events and metrics here; port 0 takes a free one and logs it",
    "HOST:PORT, [::1]:PORT, :PORT for all addresses, or nothing for off; ports up to 65535",
    metavar="HOST:PORT",
    otherwise="off",
)
READY: Final = Option(
    "--ready",
    Group.HTTP,
    _one_of(Ready),
    "who is ready, as /readyz tells: every candidate, or the leader alone (a rolling update then "
    "waits for standbys that never become ready)",
    _words(Ready)[1],
    metavar=_words(Ready)[0],
    default="candidate",
)
LOG_FORMAT: Final = Option(
    "--log-format",
    Group.LOGGING,
    _one_of(LogFormat),
    "auto is console on a terminal and json elsewhere; logs go to stderr",
    _words(LogFormat)[1],
    metavar=_words(LogFormat)[0],
    default="auto",
)
LOG_LEVEL: Final = Option(
    "--log-level",
    Group.LOGGING,
    _one_of(LogLevel),
    "least severe line to log",
    _words(LogLevel)[1],
    metavar=_words(LogLevel)[0],
    default="info",
)
VERSION: Final = Option(
    "--version",
    Group.GENERAL,
    _boolean,
    "print the version and exit",
    "--version alone",
    has_variable=False,
)
HELP: Final = Option(
    "--help",
    Group.GENERAL,
    _boolean,
    "print this and exit",
    "--help alone",
    aliases=("-h",),
    has_variable=False,
)

OPTIONS: Final[tuple[Option[object], ...]] = (
    ELECTION,
    ID,
    LOCK,
    ON_LOSS,
    TIMEOUT,
    WAIT_FOR_LEADER,
    LEASE_DURATION,
    RENEW_DEADLINE,
    RETRY_PERIOD,
    TTL,
    STOP_SIGNAL,
    STOP_TIMEOUT,
    SIGNAL_GROUP,
    REWRITE_SIGNAL,
    REMAP_EXIT,
    PARENT_DEATH_SIGNAL,
    ALLOW_PRIVILEGE_ESCALATION,
    NAMESPACE,
    KUBECONFIG,
    CONTEXT,
    USE_CLUSTER_CREDENTIALS,
    HTTP,
    READY,
    LOG_FORMAT,
    LOG_LEVEL,
    VERSION,
    HELP,
)
_BY_SPELLING: Final = {spelling: option for option in OPTIONS for spelling in option.spellings}


# --- Words to settings -----------------------------------------------------------------------

_UNEXPANDED = re.compile(r"\$\([-._A-Za-z][-._A-Za-z0-9]*\)")


class _Given(NamedTuple):
    """A value as it was given; `label` is how a message names it and where it came from."""

    label: str
    text: str

    def refuse(self, option: Option[object], problem: str) -> UsageError:
        return UsageError(f"{self.label}: {problem}; accepted: {option.accepts}")

    def read(self, option: Option[_T]) -> _T:
        if reference := _UNEXPANDED.search(self.text):
            # As an identity it would be printable and the same in every pod.
            raise self.refuse(
                option,
                f"Kubernetes left {_shown(reference[0])} as it is, because the container defines "
                "no such variable before it",
            )
        try:
            return option.parse(self.text)
        except ValueError as error:
            raise self.refuse(option, str(error)) from None


_Source = dict[str, _Given]


def _unknown_option(word: str) -> UsageError:
    from difflib import get_close_matches  # noqa: PLC0415 - costs time only when it helps

    wanted = word.partition("=")[0]
    known = {spelling.lstrip("-"): spelling for spelling in _BY_SPELLING}
    name = wanted.lstrip("-")
    # An abbreviation may be too short to count as close.
    near = [full for full in known if name and full.startswith(name)] or get_close_matches(
        name, known, n=1
    )
    hint = f"did you mean {known[near[0]]}?" if near else "--help lists all options"
    return UsageError(f"{_bare(wanted)}: no such option; {hint}")


def _split_word(word: str) -> tuple[str, str | None]:
    """Split an option's word into its spelling and the value attached to it."""
    if word.startswith("--"):
        spelling, equals, attached = word.partition("=")
        return spelling, attached if equals else None
    if "-" + word.partition("=")[0] in _BY_SPELLING:
        # -namespace=x would otherwise be -n with the value "amespace=x".
        raise _unknown_option(word)
    return word[:2], word[2:] or None


def _scan(
    argv: Sequence[str],
) -> tuple[_Source, tuple[str, ...]] | HelpRequested | VersionRequested:
    """Separate options from COMMAND, without judging any value yet."""
    flags: _Source = {}
    words = iter(enumerate(argv))
    for index, word in words:
        if word == "--":
            if index + 1 == len(argv):
                raise UsageError(
                    "COMMAND: nothing follows --; accepted: a command, such as leaderexec "
                    "--election=my-app -- ./server, or neither -- nor a command to only elect"
                )
            return flags, tuple(argv[index + 1 :])
        if not word.startswith("-") or word == "-":
            return flags, tuple(argv[index:])
        spelling, attached = _split_word(word)
        option = _BY_SPELLING.get(spelling)
        if option is None or (option.metavar is None and attached and word[1] != "-"):
            raise _unknown_option(word)
        if option in (HELP, VERSION):
            if attached is not None:
                raise UsageError(
                    f"{spelling} {_shown(attached)}: takes no value; accepted: {option.accepts}"
                )
            return HelpRequested() if option is HELP else VersionRequested()
        if attached is None and option.metavar is None:
            attached = "true"
        elif attached is None:
            _, following = next(words, (0, None))
            if following is None:
                raise UsageError(f"{spelling}: needs a value; accepted: {option.accepts}")
            if following.startswith("-"):
                # Without this, `--id -- ./server` would be an identity and no command.
                form = f"{option.name}={following}"
                raise UsageError(
                    f"{spelling} {_shown(following)}: needs a value and this looks like an option "
                    f"(a value that begins with '-' is written {_shown(form)}); "
                    f"accepted: {option.accepts}"
                )
            attached = following
        if option.adds_up and option.name in flags:
            attached = f"{flags[option.name].text},{attached}"
        flags[option.name] = _Given(f"{spelling} {_shown(attached)}", attached)
    return flags, ()


def _from_environment(environ: Mapping[str, str]) -> _Source:
    found: _Source = {}
    for option in OPTIONS:
        for variable in option.variables:
            if text := environ.get(variable):
                label = f"{variable}={_bare(text)} ({option.name})"
                found.setdefault(option.name, _Given(label, text))
    return found


#: What --ttl sets, and the part of it that each of them gets.
_TTL_PARTS: Final[tuple[tuple[Option[int], int], ...]] = (
    (LEASE_DURATION, 1),
    (RENEW_DEADLINE, 2),
    (RETRY_PERIOD, 4),
)


class _Duration(NamedTuple):
    """One of the three durations as it was chosen, by its own option or by --ttl."""

    nanoseconds: int
    given: _Given
    by_ttl: bool


class _Settings:
    """What was given, by flag and by variable, and the defaults."""

    def __init__(self, flags: _Source, variables: _Source) -> None:
        self._sources = (flags, variables)

    def given(self, option: Option[object]) -> _Given | None:
        for source in self._sources:
            if option.name in source:
                return source[option.name]
        return None

    def optional(self, option: Option[_T]) -> _T | None:
        given = self.given(option)
        return None if given is None else given.read(option)

    def value(self, option: Option[_T]) -> _T:
        given = self.given(option)
        if given is not None:
            return given.read(option)
        if option.default is None:
            raise UsageError(
                f"{option.name}: required, as a flag or as the variable {option.variables[0]}; "
                f"accepted: {option.accepts}"
            )
        return option.parse(option.default)

    def label(self, option: Option[object]) -> str:
        given = self.given(option)
        return f"{option.name} (default {option.default})" if given is None else given.label

    def durations(self) -> dict[str, _Duration]:
        """Merge --ttl and the three durations: flags beat variables, value by value."""
        chosen: dict[str, _Duration] = {}
        for source in self._sources:
            missing = [(option, part) for option, part in _TTL_PARTS if option.name not in chosen]
            explicit = [source[option.name] for option, _ in missing if option.name in source]
            ttl = source.get(TTL.name) if missing else None
            if ttl is not None and explicit:
                raise UsageError(
                    f"{ttl.label}: sets --lease-duration, --renew-deadline and --retry-period, so "
                    f"it cannot stand beside {explicit[0].label}; accepted: either --ttl or those"
                )
            for option, part in missing:
                if ttl is not None:
                    duration_ns = ttl.read(TTL) * SECOND_NS // part
                    chosen[option.name] = _Duration(duration_ns, ttl, by_ttl=True)
                elif option.name in source:
                    given = source[option.name]
                    unit_ns = SECOND_NS if option is LEASE_DURATION else 1
                    duration_ns = given.read(option) * unit_ns
                    chosen[option.name] = _Duration(duration_ns, given, by_ttl=False)
        return chosen


# --- Settings to a Config --------------------------------------------------------------------


def _fits(timing: Timing) -> bool:
    try:
        timing.validate()
    except TimingError:
        return False
    return True


def _least_seconds(make: Callable[[int], Timing]) -> int | None:
    """Return the least whole seconds of which a fitting Timing is made; all above fit as well."""
    from bisect import bisect_left  # noqa: PLC0415 - costs time only when it helps

    tried = range(1, MAX_SECONDS + 1)
    index = bisect_left(tried, True, key=lambda tried_s: _fits(make(tried_s)))
    return tried[index] if index < len(tried) else None


def _timing(settings: _Settings, lock: LockSpec) -> Timing:
    chosen = settings.durations()
    lease, renew, retry = (chosen.get(option.name) for option, _ in _TTL_PARTS)
    of_2016 = isinstance(lock, AnnotationLockSpec)
    default = _TIMING_DEFAULTS_2016 if of_2016 else _TIMING_DEFAULTS
    timing = Timing(
        lease.nanoseconds // SECOND_NS if lease else default.lease_duration_s,
        renew.nanoseconds if renew else default.renew_deadline_ns,
        retry.nanoseconds if retry else default.retry_period_ns,
    )
    try:
        timing.validate()
    except TimingError as error:
        raise UsageError(_misfit(error, timing, chosen)) from None
    return timing


def _misfit(error: TimingError, timing: Timing, chosen: Mapping[str, _Duration]) -> str:
    """Tell a TimingError in terms of what was given instead of what was made of it."""
    problem = str(error).removeprefix(f"{error.flag}: ")
    message = f"{error.flag} {problem}"
    # Where a default does not fit, what was given is what it was compared with.
    for name in (error.flag, RENEW_DEADLINE.name, RETRY_PERIOD.name):
        if name in chosen:
            blamed = chosen[name]
            named = name == error.flag and not blamed.by_ttl
            message = f"{blamed.given.label}: {problem if named else message}"
            break
    by_ttl = {name: duration for name, duration in chosen.items() if duration.by_ttl}
    for ttl in list(by_ttl.values())[:1]:
        parts = ", ".join(f"{name} {seconds(part.nanoseconds)}" for name, part in by_ttl.items())
        message += f"; {ttl.given.label} sets {parts}"
    if len(by_ttl) == len(_TTL_PARTS):
        least_s = _least_seconds(
            lambda ttl_s: Timing(ttl_s, ttl_s * SECOND_NS // 2, ttl_s * SECOND_NS // 4)
        )
        message += f"; accepted: --ttl of {least_s}s or more"
    elif error.flag == LEASE_DURATION.name:
        least_s = _least_seconds(
            lambda lease_s: Timing(lease_s, timing.renew_deadline_ns, timing.retry_period_ns)
        )
        message += (
            "; accepted: a shorter --renew-deadline"
            if least_s is None
            else f"; accepted: --lease-duration of {least_s}s or more"
        )
    return message


def _absolute(path: str, label: str, host: Host) -> str:
    if not path.startswith("/"):
        try:
            path = f"{host.current_directory()}/{path}"
        except OSError as error:
            raise UsageError(
                f"{label}: relative to a current directory that cannot be found "
                f"({_reason(error)}); accepted: an absolute path"
            ) from None
    # Where `..` follows a symbolic link, only the kernel knows what it means.
    return path if ".." in path.split("/") else os.path.normpath(path)


def _lock_spec(settings: _Settings, host: Host) -> LockSpec:
    spec = settings.value(LOCK)
    if not isinstance(spec, FileLockSpec):
        return spec
    label = settings.label(LOCK)
    path = _absolute(spec.path, label, host)
    parent = os.path.dirname(path)
    if host.is_directory(path):
        raise UsageError(f"{label}: is a directory; accepted: {LOCK.accepts}")
    if not host.is_directory(parent):
        raise UsageError(
            f"{label}: there is no directory {_shown(parent)}; "
            "accepted: file:PATH in a directory that exists"
        )
    return FileLockSpec(path)


def _election(settings: _Settings, lock: LockSpec) -> str:
    election = settings.value(ELECTION)
    if not isinstance(lock, FileLockSpec) and not _DNS_SUBDOMAIN.fullmatch(election):
        raise UsageError(
            f"{settings.label(ELECTION)}: cannot be the name of a Kubernetes object; "
            f"accepted: {ELECTION.accepts}"
        )
    return election


#: Stands between a host's name and what we add to it, so that the host's name can be told again.
SUFFIX: Final = "_leaderexec-"

#: A pod's UID: a UUID, or for a static pod as many digits without dashes.
_POD_UID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}")


class _Identity(NamedTuple):
    name: str
    generated: bool
    slot: Slot | None


def _identity(
    settings: _Settings, environ: Mapping[str, str], host: Host, *, what: str
) -> _Identity:
    """Return who we are; `what` names the election and its lock within the pod."""
    given = settings.optional(ID)
    if given is not None:
        return _Identity(given, generated=False, slot=None)
    hostname = _host_name(host)
    base = _pod_name(environ) or hostname or "localhost"
    random = f"{base}{SUFFIX}{host.random_bytes(8).hex()}"
    uid, container = environ.get("POD_UID", ""), environ.get("CONTAINER_NAME", "")
    slot_known = (
        _POD_UID.fullmatch(uid) and len(container) <= _MAX_LABEL and _DNS_LABEL.fullmatch(container)
    )
    # Only with PID 1 everything of a container dies, so that its successor may speak for it.
    if not slot_known or not hostname or not host.is_init():
        return _Identity(random, generated=True, slot=None)
    identity = f"{base}{SUFFIX}{uid}-{container}"
    if hostname != base[:_MAX_LABEL].rstrip("-."):
        # A pod that goes by its node's name. Or variables that somebody copied as they were, pod
        # and all, to containers that cannot see each other's claim: two leaders of one name.
        identity += f"@{hostname}"
    claim = f"leaderexec/{uid}/{container}/{what}"
    return _Identity(random, generated=True, slot=Slot(identity, claim))


def _pod_name(environ: Mapping[str, str]) -> str:
    """Return the pod's name, empty for what cannot be one, as an unexpanded $(X)."""
    pod = environ.get("POD_NAME", "")
    return pod if len(pod) <= _MAX_NAME and _DNS_SUBDOMAIN.fullmatch(pod) else ""


def _host_name(host: Host) -> str:
    """Return the host's name, empty for one that is no use as an identity."""
    try:
        return _name(host.hostname())
    except ValueError:
        return ""


class _Credentials(NamedTuple):
    kubeconfig: str | None
    context: str | None
    in_cluster: bool


def _credentials(settings: _Settings, environ: Mapping[str, str], host: Host) -> _Credentials:
    context = settings.optional(CONTEXT)
    given = settings.optional(KUBECONFIG)
    if settings.value(USE_CLUSTER_CREDENTIALS):
        return _cluster_credentials(settings, environ, host)
    if given is not None:
        label = settings.label(KUBECONFIG)
        path = _absolute(given, label, host)
        if problem := host.file_problem(path):
            raise UsageError(f"{label}: {problem}; accepted: {KUBECONFIG.accepts}")
        if ":" in path:
            # Readers of kubeconfigs would take it for a list, as in the variable KUBECONFIG.
            raise UsageError(
                f"{label}: its path {_shown(path)} contains ':'; accepted: one without"
            )
        return _Credentials(path, context, in_cluster=False)
    listed = _listed_kubeconfigs(environ, host)
    if listed is not None:
        return _Credentials(listed, context, in_cluster=False)
    looked_for = ["--kubeconfig (not given)", "KUBECONFIG (not set)"]
    if context is not None:
        looked_for.append("not the pod's service account, because of --context")
    elif problem := _service_account_problem(environ, host):
        looked_for.append(f"the pod's service account ({problem})")
    else:
        return _Credentials(None, None, in_cluster=True)
    home = environ.get("HOME")
    if not home:
        looked_for.append("~/.kube/config (HOME is not set)")
    elif problem := host.file_problem(
        default := _absolute(f"{home}/.kube/config", f"HOME={_bare(home)}", host)
    ):
        looked_for.append(f"{_bare(default)} ({problem})")
    else:
        return _Credentials(default, context, in_cluster=False)
    raise UsageError(
        f"{settings.label(LOCK)}: no credentials for a Kubernetes API server; looked for, in this "
        f"order: {', '.join(looked_for)}; accepted: any of these, or a lock without Kubernetes for "
        "candidates on one machine: --lock file:/path/to/lock"
    )


def _cluster_credentials(
    settings: _Settings, environ: Mapping[str, str], host: Host
) -> _Credentials:
    label = settings.label(USE_CLUSTER_CREDENTIALS)
    for option in (KUBECONFIG, CONTEXT):
        if rival := settings.given(option):
            raise UsageError(
                f"{label}: uses nothing but the pod's service account, so it cannot stand beside "
                f"{rival.label}; accepted: either of them"
            )
    if problem := _service_account_problem(environ, host):
        raise UsageError(
            f"{label}: there is no service account of a pod ({problem}); accepted: only in a pod "
            "that has a service account's token; elsewhere --kubeconfig"
        )
    return _Credentials(None, None, in_cluster=True)


def _listed_kubeconfigs(environ: Mapping[str, str], host: Host) -> str | None:
    """Return the files in KUBECONFIG that exist, None when it names none at all."""
    listed = environ.get("KUBECONFIG", "")
    label = f"KUBECONFIG={_bare(listed)}"
    missing: list[str] = []
    found: list[str] = []
    for path in filter(None, listed.split(":")):
        absolute = _absolute(path, label, host)
        problem = host.file_problem(absolute)
        if problem is None:
            found.append(absolute)
        elif problem == MISSING:
            missing.append(_bare(absolute))
        else:
            raise UsageError(
                f"{label}: {_bare(absolute)}: {problem}; accepted: {KUBECONFIG.accepts}"
            )
    if missing and not found:
        raise UsageError(
            f"{label}: {MISSING} ({', '.join(missing)}); accepted: {KUBECONFIG.accepts}, or "
            "several with ':' between them of which at least one exists"
        )
    return ":".join(found) or None


def _service_account_problem(environ: Mapping[str, str], host: Host) -> str | None:
    names = ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT")
    if unset := [name for name in names if not environ.get(name)]:
        return f"{' and '.join(unset)} not set"
    token = f"{SERVICE_ACCOUNT}/token"
    problem = host.file_problem(token)
    return f"{token}: {problem}" if problem else None


def _namespace(
    settings: _Settings, environ: Mapping[str, str], host: Host, *, in_cluster: bool
) -> str | None:
    given = settings.optional(NAMESPACE)
    if given is not None:
        return given
    path = f"{SERVICE_ACCOUNT}/namespace"
    if of_pod := (host.read_text(path) or "").strip():
        return _Given(f"{path} {_shown(of_pod)}", of_pod).read(NAMESPACE)
    if of_pod := environ.get("POD_NAMESPACE", ""):
        return _Given(f"POD_NAMESPACE={_bare(of_pod)}", of_pod).read(NAMESPACE)
    return "default" if in_cluster else None


def _refuse_beside_waiting(settings: _Settings, command: Sequence[str], timing: Timing) -> None:
    """Refuse what a wait for a leader would not do."""
    label = settings.label(WAIT_FOR_LEADER)
    what = f"COMMAND {_shown(command[0])}" if command else ""
    if http := settings.given(HTTP):
        what = what or http.label
    if what:
        raise UsageError(
            f"{label}: only waits, so it cannot stand beside {what}; accepted: either of them"
        )
    timeout = settings.given(TIMEOUT)
    if timeout is not None and timeout.read(TIMEOUT) <= timing.retry_period_ns:
        raise UsageError(
            f"{timeout.label}: a leader is known by its renewals, of which one comes every "
            f"--retry-period ({seconds(timing.retry_period_ns)}); accepted: longer than that, or "
            "no --timeout to wait for ever"
        )


def refuse_nesting(election: str, namespace: str, environ: Mapping[str, str]) -> None:
    """Raise UsageError when the environment is that of a child of the very same election.

    Such a candidate waits for a leader that waits for it. `parse` asks by itself whenever it
    knows the namespace; whoever learns it from a kubeconfig asks then.
    """
    inside = (
        environ.get("LEADER_ELECTION") == election
        and environ.get("LEADER_NAMESPACE", "") == namespace
        and environ.get("LEADER_FENCING_TOKEN")
    )
    if inside:
        where = f" in namespace {_shown(namespace)}" if namespace else ""
        raise UsageError(
            f"{ELECTION.name} {_shown(election)}: this process already runs inside election "
            f"{_shown(election)}{where}, as LEADER_ELECTION, LEADER_NAMESPACE and "
            "LEADER_FENCING_TOKEN say; accepted: another election"
        )


_INSTALL: Final = "install"


def _install_request(words: Sequence[str]) -> InstallRequested | HelpRequested:
    if words and words[0] in HELP.spellings:
        return HelpRequested()
    plain = bool(words) and not words[0].startswith("-")
    directories = words if plain else words[1:] if words[:1] == ["--"] else []
    if len(directories) == 1 and directories[0]:
        return InstallRequested(directories[0])
    given = f" {_shown(' '.join(words))}" if words else ""
    raise UsageError(
        f"{_INSTALL}{given}: names {'not one' if directories[1:] else 'no'} directory; accepted: "
        "leaderexec install DIR, or for a command of that name leaderexec --election=my-app -- "
        "install"
    )


def parse(
    argv: Sequence[str], environ: Mapping[str, str], *, host: Host | None = None
) -> Config | HelpRequested | VersionRequested | InstallRequested:
    """Read the words after the program's name and the environment; raise UsageError.

    Depends on nothing else than its arguments: `host` answers what must be asked of the machine,
    None for the real one.
    """
    if argv and argv[0] == _INSTALL:
        return _install_request(list(argv[1:]))
    scanned = _scan(argv)
    if not isinstance(scanned, tuple):
        return scanned
    flags, command = scanned
    host = Host() if host is None else host
    settings = _Settings(flags, _from_environment(environ))

    lock = _lock_spec(settings, host)
    election = _election(settings, lock)
    timing = _timing(settings, lock)
    stop_signal = settings.value(STOP_SIGNAL)
    stop_timeout_ns = settings.value(STOP_TIMEOUT)
    on_loss = settings.value(ON_LOSS)
    campaign_timeout_ns = settings.optional(TIMEOUT)
    wait_for_leader = settings.value(WAIT_FOR_LEADER)
    signal_group = settings.value(SIGNAL_GROUP)
    rewrite_signals = settings.optional(REWRITE_SIGNAL) or {}
    remap_exits = settings.optional(REMAP_EXIT) or {}
    parent_death_signal = settings.optional(PARENT_DEATH_SIGNAL)
    allow_privilege_escalation = settings.value(ALLOW_PRIVILEGE_ESCALATION)
    log_format = settings.value(LOG_FORMAT)
    log_level = settings.value(LOG_LEVEL)
    http = settings.optional(HTTP)
    ready = settings.value(READY)
    namespace: str | None
    if not isinstance(lock, FileLockSpec):
        credentials = _credentials(settings, environ, host)
        namespace = _namespace(settings, environ, host, in_cluster=credentials.in_cluster)
    else:
        for option in (NAMESPACE, KUBECONFIG, CONTEXT, USE_CLUSTER_CREDENTIALS):
            # Without effect on a file, but a wrong value is wrong all the same.
            settings.optional(option)
        credentials = _Credentials(None, None, in_cluster=False)
        namespace = ""
    if wait_for_leader:
        _refuse_beside_waiting(settings, command, timing)
    elif namespace is not None:
        refuse_nesting(election, namespace, environ)
    # Without a file's path: it may have several, and two claims of one lock could both be held.
    what = f"{lock.kind}/{namespace}/{election}"
    identity, identity_is_generated, slot = _identity(settings, environ, host, what=what)
    return Config(
        election=election,
        namespace=namespace,
        identity=identity,
        identity_is_generated=identity_is_generated,
        slot=slot,
        lock=lock,
        timing=timing,
        stop_signal=stop_signal,
        stop_timeout_ns=stop_timeout_ns,
        on_loss=on_loss,
        campaign_timeout_ns=campaign_timeout_ns,
        wait_for_leader=wait_for_leader,
        signal_group=signal_group,
        rewrite_signals=rewrite_signals,
        remap_exits=remap_exits,
        parent_death_signal=parent_death_signal,
        allow_privilege_escalation=allow_privilege_escalation,
        kubeconfig=credentials.kubeconfig,
        context=credentials.context,
        in_cluster=credentials.in_cluster,
        http=http,
        ready=ready,
        log_format=log_format,
        log_level=log_level,
        command=command,
    )


# --- COMMAND ---------------------------------------------------------------------------------

_DEFAULT_PATH: Final = "/bin:/usr/bin"
_SHEBANG_LIMIT: Final = 256


def _interpreter(path: str) -> str | None:
    """Return the interpreter that a script names in its first line, None for anything else."""
    try:
        with open(path, "rb") as file:
            head = file.read(_SHEBANG_LIMIT)
    except OSError:
        # What may be executed need not be readable.
        return None
    if not head.startswith(b"#!"):
        return None
    first_line = re.split(rb"[\n\0]", head[2:], maxsplit=1)[0].strip(b" \t")
    return os.fsdecode(re.split(rb"[ \t]", first_line, maxsplit=1)[0]) or None


def _refusal(path: str) -> tuple[str, int] | None:
    """Say why execve of this very file would fail, and the exit code; None if it would not."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return _reason(error), from_exec_errno(error.errno or 0)
    except ValueError as error:
        return _reason(error), NOT_FOUND
    if stat.S_ISDIR(mode):
        return "is a directory", NOT_EXECUTABLE
    if not stat.S_ISREG(mode):
        return "not a regular file", NOT_EXECUTABLE
    # As execve asks: access alone asks for the real user, and without his capabilities.
    if not os.access(path, os.X_OK, effective_ids=True):
        return "permission denied", NOT_EXECUTABLE
    interpreter = _interpreter(path)
    if interpreter is not None and not os.path.exists(interpreter):
        return f"its interpreter {_shown(interpreter)} is not found", NOT_FOUND
    return None


def resolve_command(argv0: str, path: str | None) -> str:
    """Return the file that execvp would run for `argv0`, with a slash in it.

    `path` is the child's PATH, None when it has none. Raises CommandError when execve would fail
    on what is found: better now than after having won an election for it.
    """
    if "/" in argv0:
        refusal = _refusal(argv0)
        if refusal is None:
            return argv0
        raise CommandError(f"cannot run {_shown(argv0)}: {refusal[0]}", refusal[1])
    best: tuple[str, str, int] | None = None
    directories = _DEFAULT_PATH if path is None else path
    for directory in directories.split(":") if argv0 else ():
        candidate = f"{directory or '.'}/{argv0}"
        refusal = _refusal(candidate)
        if refusal is None:
            return candidate
        reason, exit_code = refusal
        exists = exit_code == NOT_EXECUTABLE or os.path.lexists(candidate)
        if exists and (best is None or (best[2], exit_code) == (NOT_FOUND, NOT_EXECUTABLE)):
            best = candidate, reason, exit_code
    if best is not None:
        raise CommandError(f"cannot run {_shown(best[0])}: {best[1]}", best[2])
    where = f"PATH is not set and it is not in {_DEFAULT_PATH}" if path is None else "not in PATH"
    raise CommandError(f"cannot run {_shown(argv0)}: {where}", NOT_FOUND)


# --- Help ------------------------------------------------------------------------------------

_WHAT_IT_DOES: Final = (
    "Runs COMMAND only while this candidate leads the election, and has it dead, with all that it "
    "started, before another candidate can lead. Stands by and campaigns again otherwise. Without "
    "COMMAND it only elects, for others to ask by --http who leads."
)
_WHAT_INSTALL_DOES: Final = (
    "Install puts the bundle that is running into DIR, from where images without Python can "
    "execute DIR/leaderexec."
)
_GRAMMAR: Final = (
    "Options end at the first other word; what follows -- is always a command. A repeated option: "
    "the last one counts; where it may be repeated, it adds up. Durations are 15s, 500ms, 1m30s, "
    "1h, 1.5s or plain seconds."
)
_VARIABLES: Final = (
    "Every option is also a variable: --lease-duration is LEADEREXEC_LEASE_DURATION. A flag beats "
    "its variable; an empty variable counts as unset. POD_NAMESPACE, POD_NAME, POD_UID and "
    "CONTAINER_NAME, where a manifest sets them, tell which container this is."
)
_EXAMPLES: Final = (
    (
        "one ./server in the cluster, in a pod:",
        "leaderexec --election=my-app -- ./server --port=80",
    ),
    (
        "one on this machine, without Kubernetes:",
        "leaderexec --election=my-app --lock=file:/run/my-app -- ./server",
    ),
    (
        "a sidecar that only tells who leads:",
        "leaderexec --election=my-app --http=0.0.0.0:4040",
    ),
)
_MIN_WIDTH: Final = 50
_MAX_WIDTH: Final = 110
_TWO_COLUMNS_WIDTH: Final = 72


def _usage_of(option: Option[object]) -> str:
    """Return how an option is written: `-n, --namespace NAME`."""
    short = [spelling for spelling in option.aliases if not spelling.startswith("--")]
    spellings = ", ".join([*short, option.name])
    return spellings if option.metavar is None else f"{spellings} {option.metavar}"


def _meaning_of(option: Option[object]) -> str:
    """Return what an option does, its other long names and what holds without it."""
    default = option.otherwise or option.default
    notes = [f"also {spelling}" for spelling in option.aliases if spelling.startswith("--")]
    if default is not None:
        notes.append(default if default == "required" else f"default: {default}")
    return f"{option.help} [{'; '.join(notes)}]" if notes else option.help


def _table(rows: Sequence[tuple[str, str]], width: int, column: int) -> list[str]:
    from textwrap import wrap  # noqa: PLC0415 - costs time only when it helps

    lines: list[str] = []
    for left, right in rows:
        wrapped = wrap(right, width - column, break_on_hyphens=False)
        if len(left) + 4 <= column:
            lines.append(f"  {left}".ljust(column) + wrapped.pop(0))
        else:
            lines.append(f"  {left}")
        lines.extend(" " * column + line for line in wrapped)
    return lines


def help_text(width: int = 80) -> str:
    """Return the lines that --help prints, for a terminal of `width` columns."""
    from textwrap import wrap  # noqa: PLC0415 - costs time only when it helps

    width = max(_MIN_WIDTH, min(width, _MAX_WIDTH))
    column = 30 if width >= _TWO_COLUMNS_WIDTH else 8
    lines = ["Usage: leaderexec [OPTIONS] [[--] COMMAND [ARG...]]", "       leaderexec install DIR"]
    for paragraph in (_WHAT_IT_DOES, _WHAT_INSTALL_DOES):
        lines += ["", *wrap(paragraph, width)]
    for group in Group:
        rows = [(_usage_of(row), _meaning_of(row)) for row in OPTIONS if row.group is group]
        lines += ["", f"{group.value}:", *_table(rows, width, column)]
    for rule in (_GRAMMAR, _VARIABLES):
        lines += ["", *wrap(rule, width, break_on_hyphens=False)]
    lines += ["", "Exit codes:", *_table(EXIT_CODES, width, column=20)]
    lines += ["", "Examples:"]
    for purpose, example in _EXAMPLES:
        lines += [f"  {purpose}", f"    {example}"]
    return "\n".join(lines)
