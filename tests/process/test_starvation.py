"""A starved processor: who of us was given time in time has killed the tree in time."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.candidate import child_command, stop
from tests.support.cgroup import CpuGroup
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from tests.support.candidates import Candidates


def _at(event: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(event["timestamp"])


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(os.geteuid() != 0, reason="limiting processor time needs root")
@pytest.mark.parametrize("privileged", [True, False], ids=["root", "unprivileged"])
def test_two_hundred_busy_children_under_five_percent(
    candidates: Candidates, privileged: bool
) -> None:
    """A tree of 200 busy processes, with 5 % of a processor for it and for us, ends by itself.

    Nobody of us may be given time to kill it before the next begins, least of all without the right
    to a better priority: that it ends at all is then all that is asserted, and the README tells how
    late that was seen to be. Who was given time a second before the lease was over had killed: that
    is judged by what the child does, not by when the kernel has taken it apart, since a killed
    process runs no more code, but closes its connections only when it is given the time to exit.
    """
    candidates.timing = ()
    beats = candidates.directory / "beats"
    with CpuGroup() as group:
        wrapper = [*group.wrapper]
        if not privileged:
            wrapper += ["setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice"]
        child = child_command("--busy", "200", "--ignore", "TERM", "--heartbeat", str(beats))
        leader = candidates.start("a", child=child, wrapper=wrapper)
        (tree,) = candidates.witness.wait_running(1, "a", timeout_s=30)
        candidates.witness.wait_note("ready", "a", timeout_s=60)
        assert len(tree.live_pids) > 200
        candidates.start_standby("b").wait_event(f"leader is {leader.identity}")
        # First: one that is starved may be replaced before it is found and stopped.
        stop(leader.elector)
        group.limit(5)
        before = group.throttled
        wait_until(lambda: group.throttled > before + 10, timeout_s=20, what="throttled")
        assert tree.running
        successor = candidates.witness.wait_successor(tree, timeout_s=90)
        assert successor.candidate == "b"
        candidates.witness.wait_ended(tree, timeout_s=180)
        last_beat_ns = int(beats.read_text().splitlines()[-1].split()[0])
        assert tree.started_ns < last_beat_ns
        acquired = _at(candidates.by_name["b"].wait_event("became leader"))
        in_time = acquired - timedelta(seconds=1)
        had_time = any(_at(event) < in_time for event in leader.events("killing"))
        print(f"with a better priority: {privileged}; had time to kill: {had_time}")
        if privileged and had_time:
            assert last_beat_ns < successor.started_ns
        print(f"after the next began: {(last_beat_ns - successor.started_ns) / 1e9:.3f} s")
        print(f"overlap as the kernel took it apart: {candidates.witness.max_overlap_s():.3f} s")
