"""Tests of the shared words: the one inequality of the durations, and what makes a record ours."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaderexec.model import SECOND_NS, Claim, Record, Timing, TimingError, seconds


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (0, "0s"),
        (SECOND_NS, "1s"),
        (2_150_000_000, "2.15s"),
        (2_000_999_999, "2.001s"),
        (100 * SECOND_NS, "100s"),
        (500_000_000, "0.5s"),
    ],
)
def test_durations_are_written_as_a_person_would(duration_ns: int, text: str) -> None:
    """Seconds with as many digits as they need, three at most."""
    assert seconds(duration_ns) == text


def test_the_default_durations_are_those_of_client_go() -> None:
    """15 / 10 / 2 s, and 2.85 s of grace on loss."""
    timing = Timing()
    timing.validate()
    assert timing.lease_duration_ns == 15 * SECOND_NS
    assert timing.margin_ns == 2_150_000_000
    assert timing.grace_on_loss_ns == 2_850_000_000
    assert timing.call_timeout_ns == 5 * SECOND_NS
    assert timing.silence_bound_ns == 10 * SECOND_NS
    assert timing.heartbeat_ns == 2 * SECOND_NS


def test_the_margin_grows_with_the_lease() -> None:
    """Two seconds for killing and starvation, one percent for the rates of clocks."""
    assert Timing(600).margin_ns == 8 * SECOND_NS


def test_a_short_lease_leaves_a_call_a_second_and_a_peer_three_heartbeats() -> None:
    """Half the renew deadline would be too short for a call, and one late beat is no death."""
    assert Timing(5, 1_500_000_000, SECOND_NS).call_timeout_ns == SECOND_NS
    assert Timing(9, 2 * SECOND_NS, 1_500_000_000).silence_bound_ns == 4_500_000_000


def test_a_lease_of_no_time_is_refused() -> None:
    """What else is refused, and in which words, stands in golden/config.txt."""
    with pytest.raises(TimingError, match=r"^--lease-duration: 0s .*at least 1s") as caught:
        Timing(0).validate()
    assert caught.value.flag == "--lease-duration"


def test_a_grace_of_exactly_nothing_is_refused() -> None:
    """The inequality is strict: renew deadline + margin must be less than the lease."""
    exact = Timing(100, 97 * SECOND_NS)
    assert exact.grace_on_loss_ns == 0
    with pytest.raises(TimingError):
        exact.validate()
    Timing(100, 97 * SECOND_NS - 1).validate()


@pytest.mark.parametrize(
    "timing",
    [Timing(5, 2 * SECOND_NS, SECOND_NS), Timing(15, 2_400_000_001, 2 * SECOND_NS)],
    ids=["5 s", "just more than 1.2 retry periods"],
)
def test_the_shortest_lawful_settings_are_accepted(timing: Timing) -> None:
    """5 / 2 / 1 s, and a renew deadline above 1.2 x the retry period, as client-go has it."""
    timing.validate()


@settings(max_examples=300)
@given(
    st.integers(-1, 120),
    st.integers(0, 120 * SECOND_NS),
    st.integers(0, 120 * SECOND_NS),
)
def test_whatever_is_accepted_keeps_the_order_of_the_deadlines(
    lease_s: int, renew_ns: int, retry_ns: int
) -> None:
    """In every accepted setting: retry < stop < kill, and the kill leaves the margin."""
    timing = Timing(lease_s, renew_ns, retry_ns)
    try:
        timing.validate()
    except TimingError:
        return
    kill_ns = timing.lease_duration_ns - timing.margin_ns
    assert SECOND_NS <= retry_ns < renew_ns < kill_ns < timing.lease_duration_ns
    assert timing.lease_duration_ns - kill_ns >= 2 * SECOND_NS + timing.lease_duration_ns // 100


RECORD = Record("a", 15, 7, 8, 2)


def test_a_claim_is_made_by_the_record_that_wrote_it() -> None:
    """Holder, time of acquisition and transitions agree; renewals do not matter."""
    assert Claim("a", 7, 2).made(RECORD)
    assert Claim("a", 7, 2).made(Record("a", 1, 7, None, 2))


@pytest.mark.parametrize("claim", [Claim("b", 7, 2), Claim("a", 6, 2), Claim("a", 7, 3)])
def test_a_claim_is_not_made_by_another_leadership(claim: Claim) -> None:
    """A name that is used twice, a later term, a restarted count: each is another's."""
    assert not claim.made(RECORD)


def test_a_record_tells_its_duration_in_nanoseconds() -> None:
    """Records store whole seconds."""
    assert RECORD.lease_duration_ns == 15 * SECOND_NS
