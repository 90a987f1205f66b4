"""Options and environments that nobody wrote: a Config that holds, or one line that says what not.

What single wrong values are answered with is in test_config.
"""

from __future__ import annotations

import re
import signal
from collections import Counter
from contextlib import suppress
from dataclasses import FrozenInstanceError
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from leaderexec.config import (
    OPTIONS,
    CommandError,
    Config,
    FileLockSpec,
    HelpRequested,
    VersionRequested,
    resolve_command,
)
from leaderexec.model import Timing
from tests.unit.test_config import (
    IN_POD,
    IN_SLOT,
    NAMESPACE_FILE,
    POD_VARIABLES,
    TOKEN,
    UID,
    machine,
    outcome_of,
)

pytestmark = pytest.mark.usefixtures("unmeasured")

_SPELLINGS: Final = [spelling for option in OPTIONS for spelling in option.spellings]
_VARIABLES: Final = [name for option in OPTIONS for name in option.variables]
#: What is read besides the options' own variables.
_OTHERS: Final = ("POD_NAMESPACE", "KUBECONFIG", "HOME")
#: How a complaint begins: with the word that is no option, or the flag, the variable or the file
#: that it is about, and its value, if one was given; in the end it says what is accepted.
_VALUE: Final = r"(?:'[^\n]*'|\"[^\n]*\"|[^'\"\s]+)"
_COMPLAINT: Final = re.compile(
    rf"{_VALUE}: no such option; .+"
    r"|(?:"
    rf"(?:{'|'.join(map(re.escape, _SPELLINGS))})(?: {_VALUE})?"
    rf"|LEADEREXEC_[A-Z_]+={_VALUE} \(--[a-z-]+\)"
    rf"|(?:{'|'.join(_OTHERS)})={_VALUE}"
    rf"|{re.escape(NAMESPACE_FILE)} {_VALUE}"
    r"|COMMAND|--lock \(default leases\)"
    r"): .*accepted.*"
)

# --- what is given ---

_TEXTS: Final = (
    st.text(st.characters(codec=None), max_size=20)
    | st.sampled_from(["1", "5s", "20", "leases", "endpoints", "file:l", "file:/run/l", "exit"])
    | st.sampled_from(["--", "-", "", ":0", "localhost:4040", "[::1]:80", "leader", "true", UID])
)
_WORDS: Final = (
    _TEXTS
    | st.sampled_from(_SPELLINGS)
    | st.tuples(st.sampled_from(_SPELLINGS), st.sampled_from(["=", ""]), _TEXTS).map("".join)
)
_ENVIRONMENTS: Final = (
    st.sampled_from([IN_POD, {**IN_POD, **IN_SLOT}])
    | st.dictionaries(
        st.sampled_from([*_VARIABLES, *IN_POD, *POD_VARIABLES, *_OTHERS, "LEADER_ELECTION"])
        | _TEXTS,
        _TEXTS,
        max_size=8,
    )
    | st.tuples(*[_TEXTS] * 4).map(
        lambda values: {**IN_POD, **dict(zip(POD_VARIABLES, values, strict=True))}
    )
)
_GOOD: Final = (
    "--election=my-app", "--id=me", "--lock=file:/run/l", "--lock=configmaps", "--on-loss=exit",
    "--timeout=0", "--ttl=7", "--lease-duration=20", "--renew-deadline=9s", "--retry-period=3s",
    "--stop-signal=RTMIN+3", "--stop-timeout=1m30s", "--signal-group", "-n", "shop",
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


#: A command line and an environment: anything, or nearly good words.
_CASES: Final = st.tuples(st.lists(_WORDS, max_size=8), _ENVIRONMENTS) | st.tuples(
    _nearly_good(), _ENVIRONMENTS | st.just(IN_POD)
)


# --- what must hold ---


def _check_config(parsed: Config) -> None:
    """Assert what every Config promises to its readers."""
    with pytest.raises(FrozenInstanceError):
        parsed.timing = Timing()  # type: ignore[misc]
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
    signals = signal.valid_signals()
    assert parsed.stop_signal in signals
    assert signals >= set(parsed.rewrite_signals)
    assert {0, *signals} >= set(parsed.rewrite_signals.values())
    assert set(range(256)) >= {*parsed.remap_exits, *parsed.remap_exits.values()}
    assert parsed.parent_death_signal in {None, *signals}
    if isinstance(parsed.lock, FileLockSpec):
        assert parsed.lock.path.startswith("/")
        assert not parsed.kubeconfig
        assert not parsed.in_cluster
    else:
        assert (parsed.kubeconfig is not None) != parsed.in_cluster
        assert parsed.namespace != ""


def _judge(argv: list[str], environ: dict[str, str], namespace: str, is_init: bool) -> str:
    """Parse, assert what must hold of the outcome, and return what kind of outcome it is."""
    files = {TOKEN: "", "/a": "", NAMESPACE_FILE: namespace}
    real = outcome_of(argv, environ, None)
    assert not isinstance(real, str) or real.isprintable()
    outcome = outcome_of(argv, environ, machine(files, is_init=is_init))
    if isinstance(outcome, Config):
        _check_config(outcome)
        with suppress(CommandError):
            resolve_command(next(iter(outcome.command), ""), environ.get("PATH"))
        return "config"
    if isinstance(outcome, str):
        assert outcome.isprintable()
        assert _COMPLAINT.fullmatch(outcome), outcome
        return "complaint"
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
    @example((["--election=x", "\0"], dict(IN_POD)), "shop", False)
    @example((["--election=x", "--lock=file:l", "a\0b/c"], {}), "", False)
    @example((["--election=x", "--lock=file:l", "\ud800"], {}), "", False)
    @example((["--election=größe", "--lock=file:l"], dict(IN_SLOT)), "", True)
    def each(case: tuple[list[str], dict[str, str]], namespace: str, is_init: bool) -> None:
        kinds[_judge(*case, namespace, is_init)] += 1

    each()
    for kind in ("config", "complaint"):
        assert kinds[kind] > settings().max_examples // 50, f"hardly any {kind}: {kinds}"
