"""Tests of what Prometheus is told: the table is what is scraped, and a tree is measured."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any, Final

import psutil
import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from leaderexec import __version__, metrics
from leaderexec.channel import CallTook, ChildExited
from leaderexec.metrics import METRICS, TreeMeter, Usage
from leaderexec.model import SECOND_NS
from tests.support import golden
from tests.support.candidate import children_of, kill
from tests.support.http_clients import BOUND_S, ELECTION, OURS, leading, lock_is, standing
from tests.support.wait import wait_until
from tests.unit.test_board import START_NS, board

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leaderexec.board import Board

OPENMETRICS: Final = "application/openmetrics-text"


def leader() -> Board:
    """Return the board of a leader about which there is something to say in every metric."""
    return board(
        lock_is("other", START_NS, slow_renewals=1, lines_dropped=5),
        lock_is(OURS, START_NS, slow_renewals=2, lines_dropped=6),
        leading(START_NS + 1, grants=9, leaderships=3, child_starts=4, lines_dropped=7),
        # Bounds are inclusive, and only a renewal that succeeded is measured.
        *(CallTook("renew", "ok", us * 1_000) for us in (2_500, 2_501, 4_000, 10_000_000)),
        CallTook("renew", "unavailable", 5 * SECOND_NS),
        CallTook("renew", "ok", 20 * SECOND_NS),
        CallTook("read", "forbidden", 1),
        *map(ChildExited, (0, 137, 137)),
    )


# --- the table -------------------------------------------------------------------------------


def test_golden_metrics() -> None:
    """A leader about which there is something to say is scraped as golden/metrics.txt has it."""
    _, body = metrics.render(leader(), START_NS, Usage(2, 1.5, 4096), 12, "")
    golden.check_text("metrics", body.decode().replace(__version__, "VERSION").rstrip("\n"))


@pytest.mark.parametrize("told", [board(), board(standing())], ids=["unknown", "standby"])
def test_what_is_not_there_is_not_reported(told: Board) -> None:
    """A candidate that knows nothing and a standby can be scraped; neither has a token."""
    _, body = metrics.render(told, START_NS, Usage(), 0, "")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert samples["leader_election_master_status", ELECTION] == 0
    assert ("leaderexec_fencing_token",) not in samples


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "text/plain;version=nonsense",
        OPENMETRICS,
        f"{OPENMETRICS};version=nonsense",
        f"{OPENMETRICS};version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
    ],
)
def test_the_format_is_what_was_asked_for(accept: str) -> None:
    """OpenMetrics for who names it, and for everybody else what everybody reads."""
    named = OPENMETRICS in accept
    kind = f"{OPENMETRICS}; version=1.0.0" if named else "text/plain; version=0.0.4"
    got, body = metrics.render(leader(), START_NS, Usage(), 0, accept)
    assert got == f"{kind}; charset=utf-8"
    parse = openmetrics.text_string_to_metric_families if named else text_string_to_metric_families
    assert len(list(parse(body.decode()))) == len(METRICS)
    assert body.endswith(b"# EOF\n") is named


# --- the tree --------------------------------------------------------------------------------


@pytest.fixture
def keeper() -> Iterator[int]:
    """A process with a child and a grandchild, which do nothing."""
    pid = os.fork()
    if pid == 0:
        if os.fork() == 0:
            os.fork()
        while True:
            signal.pause()
    wait_until(
        lambda: metrics._used_below(pid).processes == 2, timeout_s=BOUND_S, what="both are there"
    )
    yield pid
    for each in [*(p for child in children_of(pid) for p in [*children_of(child), child]), pid]:
        kill(each)
    os.waitpid(pid, 0)


def test_a_tree_is_measured_without_its_keeper_once_a_second_at_most(keeper: int) -> None:
    """All below count, with their memory; whoever asks more often gets the last measurement."""
    meter = TreeMeter()
    usage = meter.measure(keeper, 0)
    (child,) = children_of(keeper)
    (grandchild,) = children_of(child)
    assert usage.processes == 2
    assert usage.resident_bytes >= psutil.Process(child).memory_info().rss
    for pid in (grandchild, child):
        kill(pid)
    assert meter.measure(keeper, SECOND_NS - 1) == usage
    assert meter.measure(keeper, SECOND_NS).resident_bytes == 0


def test_processor_time_outlives_the_process_that_used_it() -> None:
    """What a process used that was waited for is still counted, so that the counter grows."""
    pid = os.fork()
    if pid == 0:
        if os.fork() == 0:
            while sum(os.times()[:2]) < 0.05:
                pass
            os._exit(0)
        os.wait()
        signal.pause()

    def waited_for_s() -> float:
        times = psutil.Process(pid).cpu_times()
        return float(times.children_user + times.children_system)

    try:
        wait_until(
            lambda: waited_for_s() > 0,
            timeout_s=BOUND_S,
            what="it ended and was waited for",
        )
        usage = TreeMeter().measure(pid, 0)
        assert usage.processes == 0
        assert usage.cpu_s >= 0.03
    finally:
        kill(pid)
        os.waitpid(pid, 0)


def test_processor_time_of_one_tree_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was missed would look like a restart; another tree begins anew."""
    readings = iter([Usage(2, 5.0, 10), Usage(1, 3.0, 7), Usage(1, 1.0, 7)])
    monkeypatch.setattr(metrics, "_used_below", lambda _: next(readings))
    meter = TreeMeter()
    assert meter.measure(1, 0) == Usage(2, 5.0, 10)
    assert meter.measure(1, SECOND_NS) == Usage(1, 5.0, 7)
    assert meter.measure(2, SECOND_NS) == Usage(1, 1.0, 7)


def test_without_a_tree_nothing_is_used() -> None:
    """A standby uses nothing, and neither does a tree whose keeper has just ended."""
    assert TreeMeter().measure(None, 0) == Usage()
    assert TreeMeter().measure(2**22 + 1, 0) == Usage()


def test_a_process_that_vanishes_while_we_look_is_passed_over(
    keeper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are still counted."""
    real = psutil.Process.memory_info
    (child,) = children_of(keeper)

    def vanish(process: psutil.Process) -> Any:
        if process.pid == child:
            raise psutil.NoSuchProcess(child)
        return real(process)

    monkeypatch.setattr(psutil.Process, "memory_info", vanish)
    assert metrics._used_below(keeper).processes == 1
