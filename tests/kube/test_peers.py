"""The peers by themselves: that they are what the fault matrix takes them for."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support import peers as module
from tests.support.candidate import child_command, in_pid_namespace, resume, stop
from tests.support.controlplane import MODULE, Unavailable
from tests.support.peers import MAKES, Peers
from tests.support.proxy import Match
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from tests.support.kube_candidates import KubeCandidates

TAKEOVER_S = 60  # several times the lease of the test

_ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="placing a pod's credentials needs root")
#: Every make, where it can be started.
_EACH_MAKE = pytest.mark.parametrize(
    "make", [make if make == "etcdctl" else pytest.param(make, marks=_ROOT_ONLY) for make in MAKES]
)


@pytest.fixture
def peers(candidates: KubeCandidates) -> Peers:
    """The peers' makes in the election of the test."""
    return Peers(candidates)


def test_they_are_of_the_versions_that_a_report_names(peers: Peers) -> None:
    """What runs is what go.mod pins, and etcdctl is of the etcd that it speaks to."""
    version = module.version("etcdctl")
    assert f"etcdctl version: {version.removeprefix('v')}\n" in peers.etcdctl("version")
    pinned = (MODULE / "go.mod").read_text()
    assert re.search(rf"go\.etcd\.io/etcd/server/v3 {re.escape(version)}\n", pinned)
    assert module.description("etcdctl") == f"etcdctl lock {version}"
    assert re.fullmatch(
        r"k8s-await-election v0\.\d+\.\d+ \(client-go v0\.\d+\.\d+\)",
        module.description("k8s-await-election"),
    )


@_ROOT_ONLY
def test_await_election_alone_leads_until_its_child_ends(
    candidates: KubeCandidates, peers: Peers
) -> None:
    """It takes the Lease under its name for as long as it was told, and fails as its child does."""
    child = child_command("--exit", "7", "--after", "3")
    peer, tree = peers.start_leader("a", "k8s-await-election", "--lease-duration=9s", child=child)
    assert peer.child == tree.main
    assert (candidates.spec["holderIdentity"], candidates.spec["leaseDurationSeconds"]) == ("a", 9)
    assert peer.wait() == 1, "the child's own code is lost"
    candidates.witness.wait_ended(tree)


def test_etcdctl_alone_leads_until_its_child_ends(candidates: KubeCandidates, peers: Peers) -> None:
    """It holds its key, runs the child, gives the lock back and ends with the child's code."""
    child = child_command("--exit", "7", "--after", "3", "--env-note")
    peer, tree = peers.start_leader("a", "etcdctl", child=child)
    assert peer.child == tree.main
    (key,) = peers.queue()
    env = candidates.witness.wait_note("env", "a").data["env"]
    assert env["ETCD_LOCK_KEY"] == key
    assert peer.wait() == 7
    assert peers.queue() == []
    candidates.witness.wait_ended(tree)


@_EACH_MAKE
@pytest.mark.slow
def test_the_child_of_a_killed_one_lives_on(
    candidates: KubeCandidates, peers: Peers, make: str
) -> None:
    """When the program is killed, its child runs beside the next leader's."""
    leader, tree = peers.start_leader("a", make)
    peers.start_standby("b", make)
    leader.kill_alone()
    assert candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S).candidate == "b"
    assert tree.running
    assert candidates.witness.max_overlap_s() > 0


@_ROOT_ONLY
@pytest.mark.slow
def test_await_election_that_is_asked_to_stop_leaves_its_child(
    candidates: KubeCandidates, peers: Peers
) -> None:
    """SIGTERM ends it alone: the child is not told, nor the lock given back, and two run."""
    leader, tree = peers.start_leader("a", "k8s-await-election")
    peers.start_standby("b", "k8s-await-election")
    leader.terminate()
    assert leader.wait() == 128 + signal.SIGTERM
    assert candidates.spec["holderIdentity"] == "a"
    assert candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S).candidate == "b"
    assert tree.running
    assert [note.text for note in candidates.witness.notes("a")] == ["ready"]


@_ROOT_ONLY
@pytest.mark.slow
def test_await_election_as_pid_1_takes_its_child_along(
    candidates: KubeCandidates, peers: Peers
) -> None:
    """As in a container, SIGTERM ends both at once; the lock is not given back."""
    wrapper = in_pid_namespace()
    leader, tree = peers.start_leader("a", "k8s-await-election", wrapper=wrapper)
    peers.start_standby("b", "k8s-await-election", wrapper=wrapper)
    leader.terminate()
    leader.wait()
    candidates.witness.wait_ended(tree)
    assert [note.text for note in candidates.witness.notes("a")] == ["ready"], "it is not asked"
    assert candidates.spec["holderIdentity"] == "a"
    assert candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S).candidate == "b"
    candidates.assert_exclusive()


def test_etcdctl_that_is_asked_to_stop_goes_on(candidates: KubeCandidates, peers: Peers) -> None:
    """SIGTERM does nothing to a leader and its child; when that ends, the next one goes on."""
    child = child_command("--exit", "7", "--after", "4")
    leader, tree = peers.start_leader("a", "etcdctl", child=child)
    peers.start_standby("b", "etcdctl")
    leader.terminate()
    assert leader.wait() == 7
    assert candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S).candidate == "b"
    assert [note.text for note in candidates.witness.notes("a")] == ["ready"]
    candidates.assert_exclusive()


def test_etcdctl_that_stands_by_can_be_stopped(peers: Peers) -> None:
    """A standby that is asked to stop leaves the queue and ends with 1."""
    peers.start_leader("a", "etcdctl")
    (key,) = peers.queue()
    standby = peers.start_standby("b", "etcdctl")
    standby.terminate()
    assert standby.wait() == 1
    assert peers.queue() == [key]


@_ROOT_ONLY
def test_await_election_without_the_api_kills_its_child(
    candidates: KubeCandidates, peers: Peers
) -> None:
    """Refused for the renew deadline it kills its child, without asking, and ends with 1."""
    candidates.proxied("a")
    leader, tree = peers.start_leader("a", "k8s-await-election")
    proxy = candidates.proxies["a"]
    proxy.refuse()
    assert leader.wait() == 1
    assert proxy.counters()["connections_closed"] > 0
    candidates.witness.wait_ended(tree)
    assert [note.text for note in candidates.witness.notes("a")] == ["ready"]


@_ROOT_ONLY
@pytest.mark.slow
def test_await_election_whose_writes_hang_keeps_its_child(
    candidates: KubeCandidates, peers: Peers
) -> None:
    """It can read the lock and not write it: it hangs in giving it back, and two run."""
    candidates.proxied("a")
    leader, tree = peers.start_leader("a", "k8s-await-election")
    peers.start_standby("b", "k8s-await-election")
    proxy = candidates.proxies["a"]
    proxy.hold(Match(method="PUT"))
    proxy.wait_counter("held", 1)
    assert candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S).candidate == "b"
    assert tree.running
    wait_until(
        lambda: "failed to renew lease" in leader.log,
        timeout_s=TAKEOVER_S,
        what="it has given up renewing",
    )
    assert "lost leader status" not in leader.log, "and does not act on it"


def test_etcdctl_that_has_lost_its_lock_goes_on(candidates: KubeCandidates, peers: Peers) -> None:
    """Without its key it does not notice, and its child runs beside the next leader's."""
    _, tree = peers.start_leader("a", "etcdctl")
    peers.start_standby("b", "etcdctl")
    peers.etcdctl("del", peers.queue()[0])
    assert candidates.witness.wait_successor(tree, timeout_s=TAKEOVER_S).candidate == "b"
    assert tree.running
    assert candidates.witness.max_overlap_s() > 0


def test_etcdctl_that_slept_over_its_turn_ends(candidates: KubeCandidates, peers: Peers) -> None:
    """A standby that was stopped for longer than the ttl has left the queue, and ends with 1."""
    leader, tree = peers.start_leader("a", "etcdctl")
    (key,) = peers.queue()
    standby = peers.start_standby("b", "etcdctl", "--ttl=2")
    stop(standby.guardian)
    wait_until(lambda: peers.queue() == [key], timeout_s=TAKEOVER_S, what="its key has expired")
    os.kill(leader.child, signal.SIGKILL)
    assert leader.wait() == 255
    resume(standby.guardian)
    assert standby.wait() == 1
    candidates.witness.wait_ended(tree)


def test_timings_that_the_peer_would_pass_over_are_refused(peers: Peers) -> None:
    """It reads whole seconds and takes its defaults for anything else, so the rig takes nothing."""
    with pytest.raises(AssertionError, match="cannot be told --retry-period=500ms"):
        peers.make("a", "k8s-await-election", "--retry-period=500ms")


def test_etcdctl_is_refused_a_proxy(candidates: KubeCandidates, peers: Peers) -> None:
    """A fault of the proxy would have no effect on it, so it does not start behind one."""
    candidates.proxied("a")
    with pytest.raises(AssertionError, match="does not pass a proxy"):
        peers.make("a", "etcdctl")


def test_peers_that_cannot_be_had_are_skipped_or_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a program tests are skipped and say why; where it is required they fail."""
    monkeypatch.setattr(module, "_built", lambda _: Unavailable("no Go"))
    monkeypatch.delenv("LEADEREXEC_REQUIRE_KUBE", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no etcdctl: no Go"):
        module.program("etcdctl")
    monkeypatch.setenv("LEADEREXEC_REQUIRE_KUBE", "1")
    with pytest.raises(pytest.fail.Exception, match="no etcdctl: no Go"):
        module.program("etcdctl")
