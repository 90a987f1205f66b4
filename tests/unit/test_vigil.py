"""Tests of the rule by which processes take each other for dead."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaderexec.vigil import Vigil

BOUND_NS = 100
PAUSE_NS = 20


def vigil() -> Vigil:
    return Vigil(bound_ns=BOUND_NS, pause_ns=PAUSE_NS, now_ns=0)


def look_until(peer: Vigil, until_ns: int, *, since_ns: int = 0, every_ns: int = 10) -> bool:
    """Look now and then, and return whether the silence ever was too long."""
    return any(peer.silent(now_ns) for now_ns in range(since_ns, until_ns + 1, every_ns))


def test_a_sign_of_life_starts_the_wait_anew() -> None:
    """The silence counts from the last word."""
    peer = vigil()
    look_until(peer, 90)
    peer.heard(95)
    assert not look_until(peer, 95 + BOUND_NS, since_ns=100)
    assert peer.silent(95 + BOUND_NS + 1)


def test_whoever_overslept_hears_the_peer_out_first() -> None:
    """Whoever was suspended finds everybody silent; that proves nothing, for a while."""
    peer = vigil()
    look_until(peer, 50)
    assert not peer.silent(10_000)
    assert not look_until(peer, 10_000 + PAUSE_NS - 1, since_ns=10_001)
    assert look_until(peer, 10_000 + BOUND_NS, since_ns=10_000 + PAUSE_NS)


@pytest.mark.parametrize("wakes_ns", [BOUND_NS + 1, BOUND_NS + PAUSE_NS // 2, BOUND_NS + PAUSE_NS])
def test_whoever_overslept_a_little_hears_the_peer_out_too(wakes_ns: int) -> None:
    """It is the time without a look that proves nothing, not how long ago the silence was due."""
    peer = vigil()
    look_until(peer, 30)
    assert not peer.silent(wakes_ns)


def test_whoever_looks_when_it_is_due_finds_the_silence() -> None:
    """Sleeping from one due time to the next must be enough."""
    peer = vigil()
    now_ns = 0
    for _ in range(100):
        assert now_ns < peer.due_ns <= now_ns + BOUND_NS + 1
        now_ns = peer.due_ns
        if peer.silent(now_ns):
            assert now_ns <= 2 * BOUND_NS
            return
    pytest.fail(f"not silent after {now_ns}")


@settings(max_examples=200)
@given(st.lists(st.integers(1, PAUSE_NS), min_size=1, max_size=40))
def test_a_silent_peer_is_always_found_by_those_who_look(steps_ns: list[int]) -> None:
    """However irregular the looks, with no gap beyond the pause the verdict is the plain one."""
    peer = vigil()
    now_ns = 0
    for step_ns in steps_ns:
        now_ns += step_ns
        assert peer.silent(now_ns) == (now_ns > BOUND_NS)


@settings(max_examples=200)
@given(st.lists(st.integers(1, 10 * BOUND_NS), min_size=1, max_size=40))
def test_nobody_is_silent_for_less_than_the_bound(steps_ns: list[int]) -> None:
    """Gaps only ever excuse: the verdict never comes before the bound."""
    peer = vigil()
    now_ns = 0
    for step_ns in steps_ns:
        now_ns += step_ns
        assert not peer.silent(now_ns) or now_ns > BOUND_NS
