"""The candidates of other makes by themselves: that they are what mixed elections take them for."""

from __future__ import annotations

import http.client
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import rivals as module
from tests.support.candidate import child_command
from tests.support.controlplane import Unavailable
from tests.support.proxy import Match
from tests.support.rivals import ANNOTATION, MAKES, Rivals, endpoints_path
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from tests.support.kube_candidates import KubeCandidates

TAKEOVER_S = 40  # several times the lease of the test

_SECONDS = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


@pytest.fixture
def rivals(candidates: KubeCandidates) -> Rivals:
    """Other makes in the election of the test."""
    return Rivals(candidates)


def _holder(rivals: Rivals, make: str) -> str:
    """Who the lock says leads."""
    spec = rivals.candidates.spec if make == "clientgo" else json.loads(rivals.annotation)
    return str(spec["holderIdentity"])


@pytest.mark.parametrize("make", MAKES)
def test_one_alone_leads_until_its_child_ends(rivals: Rivals, make: str) -> None:
    """It takes the lock under its name, runs the child, and ends as the child does."""
    rival, tree = rivals.start_leader("a", make, child=child_command("--exit", "7", "--after", "3"))
    assert rival.wait_event("leading")["event"] == "leading"
    assert rival.wait_event("child started")["pid"] == tree.main
    assert rival.identity == _holder(rivals, make) == "a"
    assert rival.wait() == 7


def test_clientgo_stops_its_child_before_it_gives_the_lock_back(
    candidates: KubeCandidates, rivals: Rivals
) -> None:
    """Asked to stop, it lets the child end, then blanks the record, and the standby goes on."""
    candidates.proxied("a")
    leader, tree = rivals.start_leader("a", "clientgo", child=child_command("--drain", "1"))
    rivals.start_standby("b", "clientgo", leader="a")
    leader.terminate()
    assert leader.wait() == 143
    successor = candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
    assert successor.candidate == "b"
    assert [note.text for note in candidates.witness.notes("a")] == ["ready", "signal TERM"]
    release = candidates.proxies["a"].requests(Match(method="PUT"))[-1]
    assert tree.ended_ns is not None
    assert tree.alive_until_ns < release.at_ns < successor.started_ns
    candidates.assert_exclusive()


def test_clientgo_kills_a_child_that_does_not_stop(
    candidates: KubeCandidates, rivals: Rivals
) -> None:
    """A child that ignores the request to stop is killed, and then the lock is given back."""
    leader, tree = rivals.start_leader("a", "clientgo", child=child_command("--ignore", "TERM"))
    leader.terminate()
    assert leader.wait() == 143
    assert leader.wait_event("child ended")["code"] == 137
    candidates.witness.wait_ended(tree)
    assert _holder(rivals, "clientgo") == ""


def test_legacy_kills_its_child_and_keeps_the_lock(
    candidates: KubeCandidates, rivals: Rivals
) -> None:
    """Asked to stop, it kills the child and is gone; the standby waits the whole ttl."""
    leader, tree = rivals.start_leader("a", "legacy2016", "--ttl=4s")
    rivals.start_standby("b", "legacy2016", "--ttl=4s", leader="a")
    leader.terminate()
    assert leader.wait() == 143
    candidates.witness.wait_ended(tree)
    assert _holder(rivals, "legacy2016") == "a"
    assert [note.text for note in candidates.witness.notes("a")] == ["ready"], "it is not asked"
    successor = candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
    assert successor.candidate == "b"
    assert _holder(rivals, "legacy2016") == "b"
    candidates.assert_exclusive()


@pytest.mark.parametrize("make", MAKES)
def test_the_child_of_a_killed_one_lives_on(
    candidates: KubeCandidates, rivals: Rivals, make: str
) -> None:
    """When the candidate itself is killed, its child runs beside the next leader's."""
    leader, tree = rivals.start_leader("a", make)
    rivals.start_standby("b", make, leader="a")
    leader.kill_alone()
    assert candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S).candidate == "b"
    assert tree.running
    assert candidates.witness.max_overlap_s() > 0


def test_clientgo_in_a_black_hole_kills_its_child_in_time(
    candidates: KubeCandidates, rivals: Rivals
) -> None:
    """Its child is dead before the lease ends, though its requests hang; then it leads again."""
    candidates.proxied("a")
    lease_s = 6.0  # client-go alone would take 7 s: retry, renew deadline, a release that hangs
    lease = f"--lease-duration={lease_s:g}s"
    leader, tree = rivals.start_leader("a", "clientgo", lease, "--again")
    rivals.start_standby("b", "clientgo", lease, leader="a")
    proxy = candidates.proxies["a"]
    proxy.black_hole()
    proxy.wait_counter("black_holed", 1)
    candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    candidates.assert_in_time(tree, candidates.last_write_ns("a"), lease_s)
    successor = candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
    assert successor.candidate == "b"
    leader.wait_event("campaigning", count=2, timeout_s=TAKEOVER_S)
    proxy.pass_through()
    candidates.by_name["b"].terminate()
    assert candidates.witness.wait_successor(successor, timeout_s=TAKEOVER_S).candidate == "a"
    candidates.assert_exclusive()


def test_clientgo_that_was_robbed_exits(candidates: KubeCandidates, rivals: Rivals) -> None:
    """Once it reads that the lock is another's it kills its child and exits with 1."""
    patient = ("--lease-duration=400s", "--renew-deadline=300s")  # so that these end nothing
    leader, tree = rivals.start_leader("a", "clientgo", *patient)
    candidates.patch({"spec": {"holderIdentity": "robber"}})
    assert leader.wait() == 1
    assert leader.wait_event("stopped")
    candidates.witness.wait_ended(tree)
    assert leader.wait_event("child ended")["code"] == 137


@pytest.mark.slow
def test_legacy_that_is_refused_kills_its_child_and_campaigns_again(
    candidates: KubeCandidates, rivals: Rivals
) -> None:
    """Without the API it kills its child before the ttl is over, and goes on for ever."""
    candidates.proxied("a")
    leader, tree = rivals.start_leader("a", "legacy2016")
    rivals.start_standby("b", "legacy2016", leader="a")
    proxy = candidates.proxies["a"]
    proxy.refuse()
    leader.wait_event("stopped", timeout_s=TAKEOVER_S)
    candidates.witness.wait_ended(tree)
    assert leader.wait_event("child ended")["code"] == 137
    candidates.assert_in_time(tree, candidates.last_write_ns("a"), candidates.lease_s)
    successor = candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
    assert successor.candidate == "b"
    proxy.pass_through()
    leader.wait_event("leader is b", timeout_s=TAKEOVER_S)
    candidates.assert_exclusive()


def test_the_record_of_2016_to_the_byte(candidates: KubeCandidates, rivals: Rivals) -> None:
    """The object is made without a record; the first write counts a transition, renewals forget."""
    path = endpoints_path(candidates.namespace)
    watch = f"{path}?watch=true&fieldSelector=metadata.name%3Dx&timeoutSeconds=60"
    seen: list[dict[str, Any]] = []
    with candidates.plane.stream("GET", watch, timeout_s=60) as stream:
        rivals.start("a", "legacy2016", "--ttl=4s")
        while len(seen) < 4:
            seen.append(json.loads(stream.readline()))
    assert [event["type"] for event in seen] == ["ADDED", "MODIFIED", "MODIFIED", "MODIFIED"]
    assert "annotations" not in seen[0]["object"]["metadata"]
    records = [event["object"]["metadata"]["annotations"] for event in seen[1:]]
    acquired = set()
    for number, record in enumerate(records):
        form = (
            rf'{{"holderIdentity":"a","leaseDurationSeconds":4,"acquireTime":"({_SECONDS})",'
            rf'"renewTime":"{_SECONDS}","leaderTransitions":{0 if number else 1}}}'
        )
        match = re.fullmatch(form, record[ANNOTATION])
        assert match, record[ANNOTATION]
        acquired.add(match[1])
    assert len(acquired) == 1, "renewals keep it"


def test_legacy_tells_who_leads(rivals: Rivals) -> None:
    """Leader and standby answer any request with the leader's name."""
    http_flag = "--http=127.0.0.1:0"
    leader, _ = rivals.start_leader("a", "legacy2016", http_flag)
    standby = rivals.start_standby("b", "legacy2016", http_flag, leader="a")
    for rival in (leader, standby):
        connection = http.client.HTTPConnection(rival.wait_event("serving")["address"], timeout=10)
        connection.request("GET", "/whatever")
        with connection.getresponse() as response:
            assert (response.status, response.read()) == (200, b'{"name":"a"}')
        connection.close()


def test_legacy_waits_out_a_holder_that_gave_back(
    candidates: KubeCandidates, rivals: Rivals
) -> None:
    """An empty holder with a duration of a second is waited for like any other, by its own ttl."""
    empty = {
        "holderIdentity": "",
        "leaseDurationSeconds": 1,
        "acquireTime": None,
        "renewTime": None,
        "leaderTransitions": 0,
    }
    metadata = {"name": "x", "annotations": {ANNOTATION: json.dumps(empty)}}
    status, body = candidates.plane.request(
        "POST", endpoints_path(candidates.namespace), {"metadata": metadata}
    )
    assert status == 201, body
    candidates.proxied("a")
    rivals.start_leader("a", "legacy2016", "--ttl=3s")
    requests = candidates.proxies["a"].requests()
    reads = [request for request in requests if request.method == "GET"]
    write = next(request for request in requests if request.method == "PUT")
    assert write.at_ns - reads[0].at_ns > 3 * 10**9


@pytest.mark.slow
def test_unequal_ttl_between_old_peers_can_overlap(
    candidates: KubeCandidates, rivals: Rivals
) -> None:
    """A peer with a short ttl steals from one with a long one, whose child runs on meanwhile.

    The long one renews every 5 s. The short one looks at most every 1.1 s, and steals 2 s after
    the last change that it saw, so 4.2 s after it at the latest. The robbed one goes on until 10 s
    after its last renewal.
    """
    _, tree = rivals.start_leader("a", "legacy2016", "--ttl=20s")
    rivals.start("b", "legacy2016", "--ttl=2s")
    successor = candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S)
    assert successor.candidate == "b"
    candidates.witness.wait_ended(tree, timeout_s=TAKEOVER_S)
    assert successor.running
    assert candidates.witness.max_overlap_s() > 0
    wait_until(
        lambda: candidates.by_name["a"].events("leader is b"),
        timeout_s=TAKEOVER_S,
        what="the robbed one knows who leads",
    )


def test_rivals_that_cannot_be_had_are_skipped_or_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the program tests are skipped and say why; where it is required they fail."""
    monkeypatch.setattr(module, "_built", lambda: Unavailable("no Go"))
    monkeypatch.delenv("LEADEREXEC_REQUIRE_KUBE", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no rivals: no Go"):
        module.program()
    monkeypatch.setenv("LEADEREXEC_REQUIRE_KUBE", "1")
    with pytest.raises(pytest.fail.Exception, match="no rivals: no Go"):
        module.program()
