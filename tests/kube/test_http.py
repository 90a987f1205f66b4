"""HTTP of candidates on a real Lease: what is told when the API server cannot be, and to whom.

What is told on any lock is in tests/process/test_http.py.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.support.candidate import BRISK_LEASE_S, child_command
from tests.support.http_clients import (
    HTTP,
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
    from tests.support.kube_candidates import KubeCandidates

TAKEOVER_S = 5 * BRISK_LEASE_S
#: In the words of BRISK.
RENEW_DEADLINE_NS = 4 * 10**9
LEASE_NS = 8 * 10**9
MARGIN_NS = 2 * 10**9


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
    cut_ns = shown_ns = now_ns()

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
    b = candidates.start_standby("b", HTTP, "--id=b")
    port = wait_leads(a)
    proxy = candidates.proxies["a"]
    asked_ns = {"leader": 0, "name": 0}
    seen_dead = False

    def over() -> bool:
        nonlocal seen_dead
        before_ns = now_ns()
        shown = {"leader": leads(port), "name": shown_leader(port) == "a"}
        asked_ns.update({what: before_ns for what, yes in shown.items() if yes})
        seen_dead = seen_dead or ask(port, "/livez").status == 503
        return seen_dead and not any(shown.values())

    with EventReader(port) as reader:
        assert reader.who() == ("a", True)
        proxy.black_hole()
        proxy.wait_counter("black_holed", 1)
        wait_until(over, timeout_s=TAKEOVER_S, what="it leads no more")
        reader.wait_who("", leader=False)
    writes = [r for r in proxy.requests() if r.method in {"POST", "PUT"}]
    renewed_ns = max(r.at_ns for r in writes if r.upstream_status in {200, 201})
    assert max(asked_ns.values()) <= renewed_ns + RENEW_DEADLINE_NS
    candidates.assert_followed(tree, by="b")
    assert (leads(port), leads(wait_leads(b))) == (False, True)
    wait_until(lambda: ask(port, "/livez").status == 200, timeout_s=TAKEOVER_S, what="it stands by")
    proxy.pass_through()
    wait_shown(port, "b")
    candidates.assert_exclusive()


def test_what_others_write_is_shown_and_counted(candidates: KubeCandidates) -> None:
    """A conflict is a slow renewal; a foreign holder is shown as it is, however it names itself."""
    a, tree = candidates.start_leader("a", HTTP, "--id=a")
    port = wait_leads(a)

    def wait_metric(name: str, value: float) -> dict[str, float]:
        wait_until(
            lambda: metrics_of(port).get(name, 0) >= value,
            timeout_s=TAKEOVER_S,
            what=lambda: f"{name}: {metrics_of(port)}",
        )
        return metrics_of(port)

    slow = 'leader_election_slowpath_total{name="x"}'
    before = wait_metric("leaderexec_renewal_duration_seconds_count", 3)
    assert before['leaderexec_lock_requests_total{outcome="ok",purpose="acquire"}'] == 1
    assert (before[slow], before["leaderexec_fencing_token"]) == (0, int(tree.run))
    candidates.patch({"metadata": {"labels": {"touched": "by-hand"}}})
    wait_metric(slow, 1)
    assert candidates.witness.running() == [tree]
    holder = 'Zoë "☃" 🐋\n'
    with EventReader(port) as reader:
        candidates.patch({"spec": {"holderIdentity": holder}})
        wait_shown(port, holder)
        reader.wait_who(holder, leader=False)
    assert json.loads(ask(port).body)["identity"] == holder
    lost = wait_metric('leaderexec_child_exits_total{code="137"}', 1)
    assert lost["leaderexec_leaderships_total"] == 1
    wait_metric("leaderexec_child_starts_total", 2)
    again = wait_metric('leader_election_master_status{name="x"}', 1)
    assert again["leaderexec_leaderships_total"] == 2
    assert again["leaderexec_handovers_total"] == 2, "to the intruder, and back"
    assert again["leaderexec_fencing_token"] > before["leaderexec_fencing_token"]
    assert again["leaderexec_elector_starts_total"] == 1


def test_a_name_as_long_as_a_book_is_a_loss_like_any_other(candidates: KubeCandidates) -> None:
    """What would not fit between the processes is told in part: none takes another for dead."""
    candidates.timing = ("--lease-duration=60s", "--renew-deadline=40s", "--retry-period=1s")
    a, tree = candidates.start_leader("a", HTTP, child=child_command("--ignore", "TERM"))
    b = candidates.start_standby("b", HTTP)
    ports = wait_leads(a), b.port
    book = "\U0001f40b" * 100_000
    candidates.patch({"spec": {"holderIdentity": book}})
    candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)  # long before the renew deadline
    assert a.wait_event("killing")["reason"] == "the lock belongs to another"
    began_ns = now_ns()

    def lives_on() -> bool:
        for port in ports:
            assert ask(port, "/livez").body == b"ok"
        return now_ns() > began_ns + 5 * 10**9

    wait_until(lives_on, timeout_s=TAKEOVER_S, what="longer than silence is borne")
    for port in ports:
        assert shown_leader(port)
        assert book.startswith(shown_leader(port))
    c = candidates.start("c", "--timeout=0")
    assert c.wait() == 124, "told that somebody else leads"
