"""Options and environments that nobody wrote: a Config that holds, or one line that says what not.

Owns ten thousand command lines, made of words that exist, of words that nearly do, and of durations
that nearly fit; what single wrong values are answered with is in test_config.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from leaderexec.config import ENV_PREFIX, OPTIONS, Config, HelpRequested, VersionRequested
from leaderexec.model import Timing
from tests.unit.test_config import (
    IN_POD,
    IN_SLOT,
    NAMESPACE_FILE,
    TOKEN,
    check_config,
    command_lines,
    environments,
    machine,
    outcome_of,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from leaderexec.config import Option

pytestmark = pytest.mark.usefixtures("unmeasured")

_SPELLINGS: Final = [spelling for option in OPTIONS for spelling in option.spellings]
#: What is read besides the options' own variables.
_OTHERS: Final = ("POD_NAMESPACE", "KUBECONFIG", "HOME")
#: Complaints about what is missing, which have no value to show.
_MISSING: Final = tuple(
    re.compile(pattern)
    for pattern in (
        r"--election: required, as a flag or as the variable LEADEREXEC_ELECTION; accepted: ",
        r"COMMAND: nothing follows --; accepted: ",
        rf"(?:{'|'.join(map(re.escape, _SPELLINGS))}): needs a value; accepted: ",
        r"--lock \(default leases\): no credentials .*; accepted: ",
    )
)

# --- what is given ---

_AMOUNTS: Final = st.one_of(
    st.integers(0, 20).map(str),
    st.sampled_from(["0.5", "1.2", "1.25", "2.4", "2.5", "2147483647", "2147483648", "9" * 65]),
    st.sampled_from(["", "-1", "+1", "1e3", "\u0663", "1_0", " 5", "5 ", "0x5", "1.", ".5"]),
)
_DURATIONS: Final = st.tuples(_AMOUNTS, st.sampled_from(["", "s", "s", "ms", "m", "h", "d"])).map(
    "".join
)
_TIMINGS: Final = st.dictionaries(
    st.sampled_from(["--lease-duration", "--renew-deadline", "--retry-period", "--ttl"]),
    _DURATIONS,
    max_size=3,
)
_LOCKS: Final = st.sampled_from([[], ["--lock=endpoints"], ["--lock=file:l"]])


def _as_flags(timing: Mapping[str, str]) -> list[str]:
    return [f"{name}={text}" for name, text in timing.items()]


def _as_variables(timing: Mapping[str, str]) -> dict[str, str]:
    return {ENV_PREFIX + name[2:].upper().replace("-", "_"): text for name, text in timing.items()}


_GOOD: Final = (
    "--election=my-app", "--id=me", "--lock=file:/run/l", "--lock=configmaps", "--on-loss=exit",
    "--timeout=0", "--stop-signal=RTMIN+3", "--stop-timeout=1m30s", "--signal-group", "-n", "shop",
    "--rewrite-signal=15:3,HUP:0", "--remap-exit=143:0", "--parent-death-signal=9",
    "--namespace=shop", "--kubeconfig=/a", "--context=c", "--use-cluster-credentials=no",
    "--http=[::1]:80", "--ready=leader", "--log-format=json", "--log-level=debug", "--", "run",
)  # fmt: skip
_LETTERS: Final = st.sampled_from(
    [*"=-:/.$()[]0 aZ\n\0\x1b\u2028\ud800\u00b2", "$(POD_NAME)", "\t"]
)


@st.composite
def _nearly_good(draw: st.DrawFn) -> list[str]:
    """Draw good words of which some have a letter more, or less, or another."""
    words = ["--election=x", *draw(st.lists(st.sampled_from(_GOOD), max_size=5))]
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(words) - 1))
        word = words[at]
        cut = draw(st.integers(0, len(word)))
        skipped = draw(st.integers(0, 1))
        words[at] = word[:cut] + draw(st.just("") | _LETTERS) + word[cut + skipped :]
    return words


_TIMED_LINES: Final = st.tuples(_LOCKS, _TIMINGS).map(
    lambda parts: ["--election=x", *parts[0], *_as_flags(parts[1]), "run"]
)
_TIMED_ENVIRONMENTS: Final = _TIMINGS.map(lambda timing: {**IN_POD, **_as_variables(timing)})
#: A command line and an environment: anything, nearly good words, or durations in both.
_CASES: Final = st.one_of(
    st.tuples(command_lines, environments),
    st.tuples(_nearly_good(), environments),
    st.tuples(_nearly_good(), st.just(IN_POD)),
    st.tuples(_TIMED_LINES, _TIMED_ENVIRONMENTS),
    st.tuples(_TIMED_LINES, st.just(IN_POD)),
)


# --- what a complaint must say ---


def _as_shown(texts: Iterable[str]) -> set[str]:
    """Return how the texts may stand in a message: quoted, or as they are where that is plain."""
    return {form for text in texts for form in (shown(text), text)}


def _values(argv: Sequence[str]) -> set[str]:
    """Return whatever in a command line could be the value of an option."""
    return {
        part
        for word in argv
        for part in (word, word.partition("=")[2], word[2:], "true")  # a switch alone
    }


def _sums(option: Option[object], argv: Sequence[str]) -> list[str]:
    """Return what an option that adds up may have added up to, by the words from the first on."""
    given: list[str] = []
    for word, following in zip(argv, [*argv[1:], ""], strict=False):  # there may be none
        if word == option.name:
            given.append(following)
        elif word.startswith(f"{option.name}="):
            given.append(word.partition("=")[2])
    return [",".join(given[:count]) for count in range(2, len(given) + 1)]


def _names_what_was_given(
    message: str, argv: Sequence[str], environ: Mapping[str, str], files: Mapping[str, str]
) -> bool:
    """Whether a complaint begins with the flag, variable or file that it is about, and its value.

    For a word that is no option it begins with that word.
    """
    shown_words = _as_shown(word.partition("=")[0] for word in argv)
    if any(message.startswith(f"{word}: no such option; ") for word in shown_words):
        return True
    if any(pattern.match(message) for pattern in _MISSING):
        return True
    values = _as_shown(_values(argv))
    labels = {f"{spelling} {value}" for spelling in _SPELLINGS for value in values}
    for option in OPTIONS:
        if option.adds_up:
            labels |= {f"{option.name} {value}" for value in _as_shown(_sums(option, argv))}
        for name in option.variables:
            given = _as_shown([environ.get(name, "")])
            labels |= {f"{name}={value} ({option.name})" for value in given}
            # What a variable sets can also be told as the option's value.
            labels |= {f"{option.name} {value}" for value in given}
    labels |= {f"{n}={value}" for n in _OTHERS for value in _as_shown([environ.get(n, "")])}
    labels |= {f"{path} {value}" for path, text in files.items() for value in _as_shown([text])}
    return any(message.startswith(f"{label}: ") for label in labels)


def _judge(argv: list[str], environ: dict[str, str], namespace: str, is_init: bool) -> str:
    """Parse, assert what must hold of the outcome, and return what kind of outcome it is."""
    files = {TOKEN: "", "/a": "", NAMESPACE_FILE: namespace}
    outcome = outcome_of(argv, environ, machine(files, is_init=is_init))
    if isinstance(outcome, Config):
        check_config(outcome)
        with pytest.raises(FrozenInstanceError):
            outcome.timing = Timing()  # type: ignore[misc]
        return "config"
    if isinstance(outcome, str):
        assert outcome.isprintable()
        assert "accepted" in outcome or ": no such option; " in outcome
        assert _names_what_was_given(outcome, argv, environ, files), outcome
        return "timing" if " margin " in outcome or "1.2 x" in outcome else "complaint"
    assert isinstance(outcome, HelpRequested | VersionRequested)
    assert {"--help", "-h", "--version"} & set(argv)
    return "help"


def test_anything_is_a_config_that_holds_or_one_line_of_complaint() -> None:
    """No command line and no environment raises anything but a complaint.

    It is one printable line that names the flag, the variable or the file, its value, and what is
    accepted; and what is accepted is frozen, and its timing fits.
    """
    kinds: Counter[str] = Counter()

    @settings(derandomize=True)
    @given(_CASES, st.sampled_from(["shop", "shop", "", "No Namespace"]), st.booleans())
    @example((["--election=x", "--http=:80\n"], dict(IN_POD)), "", False)
    @example((["--election=x", "--\ud800=1"], dict(IN_POD)), "", False)
    @example(
        (["--election=x"], {**IN_POD, "LEADEREXEC_TTL": "7", "LEADEREXEC_ID": "\n"}), "", False
    )
    @example((["--election=x"], {**IN_POD, **IN_SLOT}), "", True)
    @example((["--election=x"], {"KUBECONFIG": "/none:\0"}), "", True)
    def each(case: tuple[list[str], dict[str, str]], namespace: str, is_init: bool) -> None:
        kinds[_judge(*case, namespace, is_init)] += 1

    each()
    for kind in ("config", "complaint", "timing"):
        assert kinds[kind] > settings().max_examples // 50, f"hardly any {kind}: {kinds}"
