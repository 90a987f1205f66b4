"""HTTP of candidates on a real Lease: what is told when the API server cannot be, and to whom."""

from __future__ import annotations

import json
import os
import statistics
import time
from contextlib import ExitStack
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.support.candidate import BRISK_LEASE_S, child_command, kill
from tests.support.controlplane import service_account_user
from tests.support.http_clients import (
    HTTP,
    Crowd,
    EventReader,
    ask,
    leads,
    metrics_of,
    shown_leader,
    status_of,
    wait_leads,
    wait_shown,
)
from tests.support.wait import wait_until
from tests.support.witness import now_ns

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.kube_candidates import KubeCandidates

TAKEOVER_S = 5 * BRISK_LEASE_S
#: In the words of BRISK.
RENEW_DEADLINE_S = 4.0
LEASE_NS = 8 * 10**9
MARGIN_NS = 2 * 10**9

MASTER = 'leader_election_master_status{name="x"}'


# --- who leads, when it cannot be known ------------------------------------------------------


@pytest.mark.slow
def test_a_standby_that_is_cut_off_says_so_and_stays_alive(candidates: KubeCandidates) -> None:
    """The name is empty once the lease may have run out; a restart would not help, so it lives."""
    candidates.proxied("b")
    a, tree = candidates.start_leader("a", HTTP, "--id=a")
    b = candidates.start_standby("b", HTTP, "--id=b")
    port = b.port
    wait_shown(port, "a")
    proxy = candidates.proxies["b"]
    elector = b.elector
    proxy.black_hole()
    cut_ns = now_ns()
    shown_ns = cut_ns

    def unknown() -> bool:
        nonlocal shown_ns
        asked_ns = now_ns()
        assert ask(port, "/livez").status == 200
        if shown_leader(port) == "a":
            shown_ns = asked_ns
            return False
        return asked_ns > cut_ns + 2 * LEASE_NS

    wait_until(unknown, timeout_s=TAKEOVER_S, what="nobody is shown, for longer than a lease")
    proxy.wait_counter("black_holed", 1)
    assert shown_ns <= cut_ns + LEASE_NS + MARGIN_NS, "what was on its way then still counts"
    assert (ask(port, "/readyz").status, leads(port), shown_leader(port)) == (200, False, "")
    assert status_of(port)["holder"] == ""
    proxy.pass_through()
    wait_shown(port, "a")
    assert candidates.witness.running() == [tree]
    assert leads(a.port)
    assert b.elector == elector
    candidates.assert_exclusive()


def test_a_leader_that_is_cut_off_says_so_in_time(candidates: KubeCandidates) -> None:
    """From the renew deadline on it is no leader and names nobody, even if its child still runs."""
    candidates.proxied("a")
    a, tree = candidates.start_leader("a", HTTP, "--id=a", child=child_command("--ignore", "TERM"))
    candidates.start_standby("b", HTTP, "--id=b")
    port = wait_leads(a)
    proxy = candidates.proxies["a"]
    asked_ns = {"leader": 0, "name": 0}
    dead_ns = 0

    def over() -> bool:
        nonlocal dead_ns
        before_ns = now_ns()
        shown = {"leader": leads(port), "name": shown_leader(port) == "a"}
        asked_ns.update({what: before_ns for what, yes in shown.items() if yes})
        if ask(port, "/livez").status == 503:
            dead_ns = before_ns
        return bool(dead_ns) and not any(shown.values())

    with EventReader(port) as reader:
        assert reader.who() == ("a", True)
        proxy.black_hole()
        proxy.wait_counter("black_holed", 1)
        wait_until(over, timeout_s=TAKEOVER_S, what="it leads no more")
        while reader.who() != ("", False):
            pass
    writes = [r for r in proxy.requests() if r.method in {"POST", "PUT"}]
    renewed_ns = max(r.at_ns for r in writes if r.upstream_status in {200, 201})
    assert max(asked_ns.values()) <= renewed_ns + int(RENEW_DEADLINE_S * 1e9)
    successor = candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
    assert successor.candidate == "b"
    assert (leads(port), leads(wait_leads(candidates.by_name["b"]))) == (False, True)
    wait_until(lambda: ask(port, "/livez").status == 200, timeout_s=TAKEOVER_S, what="it stands by")
    proxy.pass_through()
    wait_shown(port, "b")
    candidates.assert_exclusive()


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pod_name", ["web-0", ""])
def test_the_name_is_the_pods_or_the_hosts(candidates: KubeCandidates, pod_name: str) -> None:
    """Who compares it with a host name, as programs of 2016 do, finds it on every candidate."""
    a = candidates.start("a", HTTP, env={"POD_NAME": pod_name})
    port = wait_leads(a)
    expected = pod_name or os.uname().nodename
    assert shown_leader(port) == expected
    assert candidates.spec["holderIdentity"] == a.identity != expected
    assert json.loads(ask(port).body)["identity"] == a.identity
    b = candidates.start_standby("b", HTTP)
    wait_shown(b.port, expected)


def test_a_name_that_was_given_is_shown_as_it_is(candidates: KubeCandidates) -> None:
    """What looks as if we had made it is the user's own, on the candidate that was given it."""
    given = "web-0_leaderexec-0123456789abcdef"
    a = candidates.start("a", HTTP, f"--id={given}")
    assert shown_leader(wait_leads(a)) == given


@pytest.mark.parametrize(
    "holder", ["node/1_65e7c41d-7fbb-4f3c-9d0e-3c1f6a0b9d11", " ", "Zoë \u2603 \U0001f40b\n", '"}']
)
def test_a_foreign_holder_is_shown_as_it_is(candidates: KubeCandidates, holder: str) -> None:
    """However other software names itself, and whatever somebody writes by hand."""
    a, tree = candidates.start_leader("a", HTTP, "--id=a")
    port = wait_leads(a)
    candidates.patch({"spec": {"holderIdentity": holder}})
    with EventReader(port) as reader:
        wait_shown(port, holder)
        while reader.who() != (holder, False):
            pass
    assert json.loads(ask(port).body)["identity"] == holder
    candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)


def test_a_name_as_long_as_a_book_is_a_loss_like_any_other(candidates: KubeCandidates) -> None:
    """What would not fit between our processes is told in part: nobody takes us for dead."""
    candidates.timing = ("--lease-duration=60s", "--renew-deadline=40s", "--retry-period=1s")
    a, tree = candidates.start_leader("a", HTTP, child=child_command("--ignore", "TERM"))
    b = candidates.start_standby("b", HTTP)
    wait_leads(a)
    book = "\U0001f40b" * 100_000
    candidates.patch({"spec": {"holderIdentity": book}})
    candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)  # long before the renew deadline
    assert a.wait_event("killing")["reason"] == "the lock belongs to another"
    began_ns = now_ns()
    for candidate in (a, b):
        wait_until(
            lambda port=candidate.port: shown_leader(port),  # type: ignore[misc]
            timeout_s=TAKEOVER_S,
            what="somebody is shown",
        )
        assert book.startswith(shown_leader(candidate.port))

    def lives_on() -> bool:
        for candidate in (a, b):
            assert ask(candidate.port, "/livez").body == b"ok"
        return now_ns() > began_ns + 5 * 10**9

    wait_until(lives_on, timeout_s=TAKEOVER_S, what="longer than silence is borne")
    c = candidates.start("c", "--timeout=0")
    assert c.wait() == 124, "told that somebody else leads"


# --- metrics ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_metrics_follow_what_happens(candidates: KubeCandidates) -> None:
    """Renewals, a conflict, a loss with the child's end, and the leadership after it."""
    a, tree = candidates.start_leader("a", HTTP, "--id=a")
    port = wait_leads(a)

    def wait_metric(name: str, condition: Callable[[float], bool]) -> dict[str, float]:
        def good() -> dict[str, float] | None:
            metrics = metrics_of(port)
            return metrics if condition(metrics.get(name, 0)) else None

        found = wait_until(good, timeout_s=TAKEOVER_S, what=f"{name}; {metrics_of(port)}")
        assert found is not None
        return found

    renewals = "leaderexec_renewal_duration_seconds_count"
    grants = "leaderexec_grants_total"
    slow = 'leader_election_slowpath_total{name="x"}'
    first = metrics_of(port)
    wait_metric(renewals, lambda count: count >= first[renewals] + 3)
    # Guardian and elector each tell what is theirs, one a moment after the other.
    later = wait_metric(grants, lambda count: count >= first[grants] + 3)
    assert (later[MASTER], later["leaderexec_fencing_token"]) == (1, int(tree.run))
    assert later[slow] == 0
    assert later['leaderexec_lock_requests_total{outcome="ok",purpose="acquire"}'] == 1
    candidates.patch({"metadata": {"labels": {"touched": "by-hand"}}})
    wait_metric(slow, lambda count: count >= 1)
    assert candidates.witness.running() == [tree]
    candidates.patch({"spec": {"holderIdentity": "intruder"}})
    lost = wait_metric('leaderexec_child_exits_total{code="137"}', lambda count: count == 1)
    assert (lost[MASTER], lost["leaderexec_leaderships_total"]) == (0, 1)
    again = wait_metric("leaderexec_child_starts_total", lambda count: count == 2)
    again = wait_metric(MASTER, lambda status: status == 1)
    assert again["leaderexec_leaderships_total"] == 2
    assert again["leaderexec_handovers_total"] == 2, "to the intruder, and back"
    assert again["leaderexec_fencing_token"] > later["leaderexec_fencing_token"]
    assert again["leaderexec_elector_starts_total"] == 1


# --- hostile clients -------------------------------------------------------------------------


def _renewals(candidates: KubeCandidates, since_s: float) -> list[float]:
    """Return when the API server received the renewals that succeeded, on the wall clock."""
    user = service_account_user(candidates.namespace, candidates.account)
    return [
        request.timestamp
        for request in candidates.plane.requests(candidates.namespace, "x")
        if (request.user, request.verb, request.code) == (user, "update", 200)
        and request.timestamp >= since_s
    ]


def _wait_renewals(
    candidates: KubeCandidates, number: int, meanwhile: Callable[[], object]
) -> list[float]:
    """Do something until so many renewals have come, and return the times between them."""
    since_s = time.time()
    look_s = 0.0

    def enough() -> list[float] | None:
        nonlocal look_s
        meanwhile()
        if time.monotonic() < look_s:
            return None
        look_s = time.monotonic() + 0.5
        renewals = _renewals(candidates, since_s)
        return renewals if len(renewals) > number else None

    renewals = wait_until(enough, timeout_s=10 * number, what=f"{number} renewals")
    assert renewals is not None
    return [after - before for before, after in pairwise(renewals)]


def _spread(values: list[float]) -> str:
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return (
        f"median {statistics.median(ordered):.4f} s, p99 {p99:.4f} s, max {ordered[-1]:.4f} s "
        f"(n={len(ordered)})"
    )


@pytest.mark.slow
def test_hostile_clients_disturb_nobody(candidates: KubeCandidates) -> None:
    """Under a crowd renewals go on, probes and readers are served, and a handover is told to all.

    A thousand that want to be connected and say nothing, a hundred whose headers never end,
    hundreds a second that ask and vanish, and fifty readers of events. The server lets in half of
    them at a time, so that all the while each newcomer costs the oldest its place.
    """
    a, tree = candidates.start_leader("a", HTTP, "--id=a")
    b = candidates.start_standby("b", HTTP, "--id=b")
    candidates.wait_successor_named("b")  # from now on only the leader writes
    port = wait_leads(a)
    parts = [a.guardian, a.elector, a.keeper, a.part("http")]
    took_s: list[float] = []

    def probe() -> None:
        began_s = time.perf_counter()
        assert ask(port, "/livez").body == b"ok"
        took_s.append(time.perf_counter() - began_s)

    calm_gaps = _wait_renewals(candidates, 15, probe)
    calm_s, took_s = took_s, []
    with ExitStack() as stack:
        readers = [stack.enter_context(EventReader(port)) for _ in range(50)]
        assert {reader.who() for reader in readers} == {("a", True)}
        crowd = stack.enter_context(Crowd(port, idle=1000, slow=100, reset=5))
        wait_until(
            lambda: crowd.counts()["opened"] >= 1100 and crowd.counts()["reset"] >= 100,
            timeout_s=TAKEOVER_S,
            what="the crowd is there",
        )
        full = metrics_of(port)["leaderexec_http_connections"]
        assert full >= 500, "as many as are let in"
        before = crowd.counts()
        gaps = _wait_renewals(candidates, 15, probe)
        after = crowd.counts()
        assert after["cut_off"] > before["cut_off"] + 1000, "room was made all the time"
        assert after["reset"] > before["reset"] + 100
        assert max(gaps) <= RENEW_DEADLINE_S
        assert candidates.witness.running() == [tree]
        assert [a.guardian, a.elector, a.keeper, a.part("http")] == parts
        kill(a.keeper)
        successor = candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
        last = (successor.candidate, successor.candidate == "a")
        # On a busy machine the server hears in one wake-up that the lock is given back too, and
        # even that another has it.
        firsts = {("a", False), ("", False), ("b", False)}
        for reader in readers:
            assert reader.who() in firsts, "first that the child is stopped"
            while reader.who() != last:
                pass
        assert crowd.counts()["cut_off"] > after["cut_off"], "and they were still at it"
    wait_leads(candidates.leader(successor))
    assert b.process.poll() is None
    candidates.assert_exclusive()
    ratio = statistics.median(gaps) / statistics.median(calm_gaps)
    print(f"between renewals, calm: {_spread(calm_gaps)}; besieged: {_spread(gaps)}; x {ratio:.3f}")
    print(f"/livez, calm: {_spread(calm_s)}; besieged: {_spread(took_s)}; crowd: {after}")
