"""What a network does to an election, besides what the matrix plays (`tests/matrix/faults`).

Every test proves by the proxy's counters that its fault took effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.candidate import FAST, FAST_LEASE_S, child_command
from tests.support.proxy import Match
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.kube_candidates import KubeCandidates
    from tests.support.proxy import Proxy

_ONCE = Match(method="PUT", times=1)
_READS = Match(method="GET", watch=False)


@pytest.mark.parametrize(
    "inflict",
    [
        pytest.param(lambda p: p.answer_garbage(b"\x00\xffnonsense\r\n"), id="garbage"),
        pytest.param(lambda p: p.answer(429, headers={"Retry-After": "60"}), id="429"),
    ],
)
def test_only_the_leader_is_cut_off(
    candidates: KubeCandidates, inflict: Callable[[Proxy], object]
) -> None:
    """The cut-off leader's tree is stopped and dead in time; a standby takes over; both go on."""
    candidates.timing, candidates.lease_s = FAST, FAST_LEASE_S
    candidates.proxied("a")
    leader, tree = candidates.start_leader("a", child=child_command("--ignore", "TERM"))
    candidates.start_standby("b")
    proxy = candidates.proxies["a"]
    inflict(proxy)
    proxy.wait_counter("answered", 1, timeout_s=20)
    successor = candidates.assert_followed(tree, "b")
    assert candidates.signals() == ["TERM"], "asked to stop first"
    candidates.assert_in_time(tree, candidates.last_write_ns("a"), candidates.lease_s)
    proxy.pass_through()
    candidates.by_name["b"].terminate()
    candidates.assert_followed(successor, "a")  # the same wrapper, without a restart
    assert leader.process.poll() is None


def test_a_short_outage_changes_nothing(candidates: KubeCandidates) -> None:
    """Failures that end before the renew deadline leave the child alone (rule 21)."""
    candidates.proxied("a")
    leader, tree = candidates.start_leader("a")
    proxy = candidates.proxies["a"]
    faults: list[Callable[[], object]] = [
        lambda: proxy.answer(503, match=_ONCE),
        lambda: proxy.answer(409, match=_ONCE),
        lambda: proxy.answer(429, headers={"Retry-After": "1"}, match=_ONCE),
        lambda: proxy.reset_mid_response(_ONCE),
    ]
    for number, inflict in enumerate(faults, 1):
        inflict()
        failed = wait_until(
            lambda n=number: [r for r in proxy.requests(_ONCE) if r.action][n - 1 :],  # type: ignore[misc]
            timeout_s=10,
            what="the fault took effect",
        )
        wait_until(
            lambda at_ns=failed[0].at_ns: candidates.last_write_ns("a") > at_ns,  # type: ignore[misc]
            timeout_s=10,
            what="a renewal after it",
        )
    assert candidates.witness.running() == [tree]
    assert not leader.events("stopping")


def test_a_forbidden_watch_is_said_once_and_polled_instead(candidates: KubeCandidates) -> None:
    """Without the right to watch a standby polls, and takes over all the same."""
    candidates.proxied("b")
    proxy = candidates.proxies["b"]
    proxy.answer(403, match=Match(watch=True))
    leader, tree = candidates.start_leader("a")
    standby = candidates.start_standby("b")
    wait_until(lambda: len(proxy.requests(_READS)) > 4, timeout_s=30, what="polling")
    (said,) = [e["event"] for e in standby.events() if "polling" in e["event"]]
    assert "'watch'" in said
    leader.terminate()
    candidates.assert_followed(tree, "b")


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
    candidates.assert_followed(tree, "b")
    assert len(proxy.requests(_READS)) < 20


def test_no_proxy_is_honoured(candidates: KubeCandidates) -> None:
    """HTTPS_PROXY is used, and NO_PROXY exempts the API server."""
    dead = {"HTTPS_PROXY": "http://127.0.0.1:9"}
    stuck = candidates.start("a", env=dead)
    wait_until(
        lambda: any("cannot read lease" in e["event"] for e in stuck.events()),
        timeout_s=20,
        what="the proxy is dead, and used",
    )
    candidates.start("b", env={**dead, "NO_PROXY": "127.0.0.1"})
    candidates.witness.wait_running(1, "b", timeout_s=20)
