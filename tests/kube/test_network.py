"""What the network and the API server may do: hang, refuse, reset, trickle, answer nonsense, stop.

Every test proves by the proxy's counters or the server's state that its fault took effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.candidates import BRISK_LEASE_S, puppet_command
from tests.support.proxy import Match
from tests.support.wait import wait_until
from tests.support.witness import now_ns

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.kube_rally import KubeRally
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
def test_only_the_leader_is_cut_off(rally: KubeRally, fault: str) -> None:
    """The cut-off leader's tree is stopped and dead in time; a standby takes over; both go on."""
    rally.proxied("a")
    leader, tree = rally.start_leader("a", child=puppet_command("--ignore", "TERM"))
    rally.start_standby("b")
    proxy = rally.proxies["a"]
    inflict, counter = _FAULTS[fault]
    before = proxy.counters()[counter]
    inflict(proxy)
    proxy.wait_counter(counter, before + 1, timeout_s=20)
    rally.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    assert [n for n in rally.witness.notes("a") if n.text == "signal TERM"], "asked to stop first"
    if fault != "replies lost":  # those renewals do succeed, unknown to the leader
        rally.assert_in_time(tree, rally.last_write_ns("a"), rally.lease_s)
    if fault == "replies lost":
        proxy.black_hole()
    successor = rally.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
    assert successor.candidate == "b"
    proxy.pass_through()
    if fault == "held":
        assert proxy.release_held()  # they land late, over a record that is no longer theirs
    rally.candidates["b"].terminate()
    again = rally.witness.wait_successor(successor, timeout_s=TAKEOVER_S)
    assert again.candidate == "a", "the same wrapper leads again without a restart"
    assert leader.process.poll() is None
    rally.assert_exclusive()


@pytest.mark.slow
def test_api_server_down_for_thirty_seconds(rally: KubeRally) -> None:
    """TERM at the renew deadline, dead before the lease ends, leading again with the server."""
    rally.timing = ()
    rally.proxied("a")
    leader, tree = rally.start_leader("a", child=puppet_command("--ignore", "TERM"))
    standby = rally.start_standby("b")
    rally.plane.stop_apiserver()
    assert not rally.plane.apiserver.running
    renewed_ns = rally.last_write_ns("a")
    term = rally.witness.wait_note("signal TERM", "a", timeout_s=20)
    assert term.at_ns > renewed_ns + 9 * 10**9, "not before the renew deadline"
    rally.witness.wait_ended(tree, timeout_s=20)
    rally.assert_in_time(tree, renewed_ns, lease_s=15)
    wait_until(
        lambda: len(leader.events("running")) == 1 and not rally.witness.running(),
        timeout_s=10,
        what="nobody leads",
    )
    assert tree.ended_ns is not None
    down_until_ns = renewed_ns + 30 * 10**9
    wait_until(lambda: now_ns() > down_until_ns, timeout_s=35, what="thirty seconds are over")
    rally.plane.start_apiserver()
    rally.witness.wait_running(1, timeout_s=60)
    assert leader.process.poll() is None
    assert standby.process.poll() is None
    rally.assert_exclusive()


def test_a_short_outage_changes_nothing(rally: KubeRally) -> None:
    """Failures that end before the renew deadline leave the child alone."""
    rally.proxied("a")
    leader, tree = rally.start_leader("a")
    proxy = rally.proxies["a"]
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
            lambda t=failed_ns: rally.last_write_ns("a") > t,  # type: ignore[misc]
            timeout_s=10,
            what="a renewal after it",
        )
    assert rally.witness.running() == [tree]
    assert not leader.events("stopping")


def test_a_lost_acquisition_is_recognised(rally: KubeRally) -> None:
    """When the acquiring write landed but its reply was lost, we find our own record."""
    rally.proxied("a")
    rally.proxies["a"].lose_reply(Match(method="POST", times=1))
    rally.start("a", "--id=verbatim")
    (tree,) = rally.witness.wait_running(1, "a", timeout_s=TAKEOVER_S)
    assert rally.proxies["a"].counters()["replies_lost"] == 1
    assert rally.spec["leaseTransitions"] == 0
    assert tree.running


def test_a_watch_that_dies_silently_costs_no_more_than_the_lease(rally: KubeRally) -> None:
    """A standby whose watch says nothing any more still notices that the lock was given back."""
    rally.proxied("b")
    leader, tree = rally.start_leader("a")
    standby = rally.start_standby("b")
    proxy = rally.proxies["b"]
    proxy.wait_counter("watches_open", 1)
    assert proxy.cut_watches(silently=True) == 1
    leader.terminate()
    successor = rally.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
    assert successor.candidate == standby.name
    rally.assert_exclusive()


def test_a_forbidden_watch_is_said_once_and_polled_instead(rally: KubeRally) -> None:
    """Without the right to watch a standby polls, and takes over all the same."""
    rally.proxied("b")
    rally.proxies["b"].answer(403, match=Match(watch=True))
    leader, tree = rally.start_leader("a")
    standby = rally.start_standby("b")
    wait_until(
        lambda: len(rally.proxies["b"].requests(Match(method="GET", watch=False))) > 4,
        timeout_s=30,
        what="polling",
    )
    said = [e for e in standby.events() if "polling" in e["event"]]
    assert len(said) == 1
    assert "'watch'" in said[0]["event"]
    leader.terminate()
    assert rally.witness.wait_successor(tree, timeout_s=TAKEOVER_S).candidate == "b"


def test_a_broken_watch_is_opened_again(rally: KubeRally) -> None:
    """A watch that the server closes is followed by another, without a read storm."""
    rally.proxied("b")
    leader, tree = rally.start_leader("a")
    rally.start_standby("b")
    proxy = rally.proxies["b"]
    for number in range(1, 4):
        proxy.wait_counter("watches_open", 1)
        assert proxy.cut_watches(silently=False) == 1
        proxy.wait_counter("watches", number + 1, timeout_s=20)
    leader.terminate()
    assert rally.witness.wait_successor(tree, timeout_s=TAKEOVER_S).candidate == "b"
    assert len(proxy.requests(Match(method="GET", watch=False))) < 20


def test_no_proxy_is_honoured(rally: KubeRally) -> None:
    """HTTPS_PROXY is used, and NO_PROXY exempts the API server."""
    dead = {"HTTPS_PROXY": "http://127.0.0.1:9"}
    stuck = rally.start("a", env=dead)
    stuck.wait_event("campaigning", timeout_s=20)
    wait_until(
        lambda: any("cannot read lease" in e["event"] for e in stuck.events()),
        timeout_s=20,
        what="the proxy is dead, and used",
    )
    rally.start("b", env={**dead, "NO_PROXY": "127.0.0.1"})
    rally.witness.wait_running(1, "b", timeout_s=20)
