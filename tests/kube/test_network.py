"""What the network and the API server may do: hang, refuse, reset, trickle, answer nonsense, stop.

Every test proves by the proxy's counters or the server's state that its fault took effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.candidate import BRISK_LEASE_S, child_command
from tests.support.proxy import Match
from tests.support.wait import wait_until
from tests.support.witness import now_ns

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.kube_candidates import KubeCandidates
    from tests.support.proxy import Proxy, Request

TAKEOVER_S = 5 * BRISK_LEASE_S

_RENEWALS = Match(method="PUT")


def _failed(proxy: Proxy) -> list[Request]:
    """The writes that the proxy did something to."""
    return [r for r in proxy.requests(_RENEWALS) if r.action]


_FAULTS: dict[str, tuple[Callable[[Proxy], object], str]] = {
    "black hole": (lambda p: p.black_hole(), "black_holed"),
    "refused": (lambda p: p.refuse(), "connections_closed"),
    "reset": (lambda p: p.reset(), "resets"),
    "trickle": (lambda p: p.trickle(1), "trickled_bytes"),
    "500": (lambda p: p.answer(500), "answered"),
    "429": (lambda p: p.answer(429, headers={"Retry-After": "60"}), "answered"),
    "401": (lambda p: p.answer(401), "answered"),
    "403": (lambda p: p.answer(403), "answered"),
    "garbage": (lambda p: p.answer_garbage(b"\x00\xffnonsense\r\n"), "answered"),
    "replies lost": (lambda p: p.lose_reply(silently=True), "replies_lost"),
    "held": (lambda p: p.hold(_RENEWALS), "held"),
}


@pytest.mark.parametrize("fault", _FAULTS)
def test_only_the_leader_is_cut_off(candidates: KubeCandidates, fault: str) -> None:
    """The cut-off leader's tree is stopped and dead in time; a standby takes over; both go on."""
    candidates.proxied("a")
    leader, tree = candidates.start_leader("a", child=child_command("--ignore", "TERM"))
    candidates.start_standby("b")
    proxy = candidates.proxies["a"]
    inflict, counter = _FAULTS[fault]
    before = proxy.counters()[counter]
    inflict(proxy)
    proxy.wait_counter(counter, before + 1, timeout_s=20)
    candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    assert [n for n in candidates.witness.notes("a") if n.text == "signal TERM"], (
        "asked to stop first"
    )
    if fault != "replies lost":  # those renewals do succeed, unknown to the leader
        candidates.assert_in_time(tree, candidates.last_write_ns("a"), candidates.lease_s)
    if fault == "replies lost":
        proxy.black_hole()
    successor = candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
    assert successor.candidate == "b"
    proxy.pass_through()
    if fault == "held":
        assert proxy.release_held()  # they land late, over a record that is no longer theirs
    candidates.by_name["b"].terminate()
    again = candidates.witness.wait_successor(successor, timeout_s=TAKEOVER_S)
    assert again.candidate == "a", "the same wrapper leads again without a restart"
    assert leader.process.poll() is None
    candidates.assert_exclusive()


@pytest.mark.slow
def test_api_server_down_for_thirty_seconds(candidates: KubeCandidates) -> None:
    """TERM at the renew deadline, dead before the lease ends, leading again with the server."""
    candidates.timing = ()
    candidates.proxied("a")
    leader, tree = candidates.start_leader("a", child=child_command("--ignore", "TERM"))
    standby = candidates.start_standby("b")
    candidates.plane.stop_apiserver()
    assert not candidates.plane.apiserver.running
    renewed_ns = candidates.last_write_ns("a")
    term = candidates.witness.wait_note("signal TERM", "a", timeout_s=20)
    assert term.at_ns > renewed_ns + 9 * 10**9, "not before the renew deadline"
    candidates.witness.wait_ended(tree, timeout_s=20)
    candidates.assert_in_time(tree, renewed_ns, lease_s=15)
    wait_until(
        lambda: len(leader.events("running")) == 1 and not candidates.witness.running(),
        timeout_s=10,
        what="nobody leads",
    )
    assert tree.ended_ns is not None
    down_until_ns = renewed_ns + 30 * 10**9
    wait_until(lambda: now_ns() > down_until_ns, timeout_s=35, what="thirty seconds are over")
    candidates.plane.start_apiserver()
    candidates.witness.wait_running(1, timeout_s=60)
    assert leader.process.poll() is None
    assert standby.process.poll() is None
    candidates.assert_exclusive()


def test_a_short_outage_changes_nothing(candidates: KubeCandidates) -> None:
    """Failures that end before the renew deadline leave the child alone."""
    candidates.proxied("a")
    leader, tree = candidates.start_leader("a")
    proxy = candidates.proxies["a"]
    once = Match(method="PUT", times=1)
    faults: list[Callable[[], object]] = [
        lambda: proxy.answer(503, match=once),
        lambda: proxy.answer(409, match=once),
        lambda: proxy.answer(429, headers={"Retry-After": "1"}, match=once),
        lambda: proxy.lose_reply(once),
        lambda: proxy.reset_mid_response(once),
    ]
    for inflict in faults:
        before = len(_failed(proxy))
        inflict()
        wait_until(
            lambda n=before: len(_failed(proxy)) > n,  # type: ignore[misc]
            timeout_s=10,
            what="the fault took effect",
        )
        failed_ns = _failed(proxy)[-1].at_ns
        wait_until(
            lambda t=failed_ns: candidates.last_write_ns("a") > t,  # type: ignore[misc]
            timeout_s=10,
            what="a renewal after it",
        )
    assert candidates.witness.running() == [tree]
    assert not leader.events("stopping")


def test_a_lost_acquisition_is_recognised(candidates: KubeCandidates) -> None:
    """When the acquiring write landed but its reply was lost, we find our own record."""
    candidates.proxied("a")
    candidates.proxies["a"].lose_reply(Match(method="POST", times=1))
    candidates.start("a", "--id=verbatim")
    (tree,) = candidates.witness.wait_running(1, "a", timeout_s=TAKEOVER_S)
    assert candidates.proxies["a"].counters()["replies_lost"] == 1
    assert candidates.spec["leaseTransitions"] == 0
    assert tree.running


def test_a_watch_that_dies_silently_costs_no_more_than_the_lease(
    candidates: KubeCandidates,
) -> None:
    """A standby whose watch says nothing any more still notices that the lock was given back."""
    candidates.proxied("b")
    leader, tree = candidates.start_leader("a")
    standby = candidates.start_standby("b")
    proxy = candidates.proxies["b"]
    proxy.wait_counter("watches_open", 1)
    assert proxy.cut_watches(silently=True) == 1
    leader.terminate()
    successor = candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
    assert successor.candidate == standby.name
    candidates.assert_exclusive()


def test_a_forbidden_watch_is_said_once_and_polled_instead(candidates: KubeCandidates) -> None:
    """Without the right to watch a standby polls, and takes over all the same."""
    candidates.proxied("b")
    candidates.proxies["b"].answer(403, match=Match(watch=True))
    leader, tree = candidates.start_leader("a")
    standby = candidates.start_standby("b")
    wait_until(
        lambda: len(candidates.proxies["b"].requests(Match(method="GET", watch=False))) > 4,
        timeout_s=30,
        what="polling",
    )
    said = [e for e in standby.events() if "polling" in e["event"]]
    assert len(said) == 1
    assert "'watch'" in said[0]["event"]
    leader.terminate()
    assert candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S).candidate == "b"


def test_a_broken_watch_is_opened_again(candidates: KubeCandidates) -> None:
    """A watch that the server closes is followed by another, without a read storm."""
    candidates.proxied("b")
    leader, tree = candidates.start_leader("a")
    candidates.start_standby("b")
    proxy = candidates.proxies["b"]
    for number in range(1, 4):
        proxy.wait_counter("watches_open", 1)
        assert proxy.cut_watches(silently=False) == 1
        proxy.wait_counter("watches", number + 1, timeout_s=20)
    leader.terminate()
    assert candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S).candidate == "b"
    assert len(proxy.requests(Match(method="GET", watch=False))) < 20


def test_no_proxy_is_honoured(candidates: KubeCandidates) -> None:
    """HTTPS_PROXY is used, and NO_PROXY exempts the API server."""
    dead = {"HTTPS_PROXY": "http://127.0.0.1:9"}
    stuck = candidates.start("a", env=dead)
    stuck.wait_event("campaigning", timeout_s=20)
    wait_until(
        lambda: any("cannot read lease" in e["event"] for e in stuck.events()),
        timeout_s=20,
        what="the proxy is dead, and used",
    )
    candidates.start("b", env={**dead, "NO_PROXY": "127.0.0.1"})
    candidates.witness.wait_running(1, "b", timeout_s=20)
