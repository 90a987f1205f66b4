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
from leaderexec.board import RENEWAL_BOUNDS_S, Board
from leaderexec.channel import CallTook, ChildExited
from leaderexec.metrics import METRICS, TreeMeter, Usage
from leaderexec.model import SECOND_NS, Now, Timing
from tests.support.candidate import children_of, kill, state_of
from tests.support.http_clients import BOUND_S, ELECTION, OURS, leading, lock_is, standing
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client import Metric

START_NS: Final = 1_000 * SECOND_NS
OPENMETRICS: Final = "application/openmetrics-text"


def board() -> Board:
    return Board(
        election=ELECTION,
        identity=OURS,
        identity_is_generated=True,
        timing=Timing(),
        leader_only=False,
        now=Now(START_NS, 0),
    )


def leader() -> Board:
    """Return the board of a leader about which there is something to say in every metric."""
    told = board()
    told.take(lock_is("other", START_NS, slow_renewals=1, lines_dropped=5), START_NS)
    told.take(lock_is(OURS, START_NS, slow_renewals=2, lines_dropped=6), START_NS)
    told.take(
        leading(START_NS + 1, grants=9, leaderships=3, child_starts=4, lines_dropped=7), START_NS
    )
    told.take(CallTook("renew", "ok", 4_000_000), START_NS)
    told.take(CallTook("renew", "ok", 20 * SECOND_NS), START_NS)
    told.take(CallTook("read", "forbidden", 1), START_NS)
    told.take(ChildExited(137), START_NS)
    return told


def scraped(told: Board, accept: str = "") -> dict[str, Metric]:
    """Return what a scrape says, by the names of the metrics as in the table."""
    usage = Usage(2, 1.5, 4096)
    content_type, body = metrics.render(told, START_NS, usage, 12, accept)
    text = body.decode()
    parse: Callable[[str], Iterable[Metric]] = text_string_to_metric_families
    if content_type.startswith(OPENMETRICS):
        parse = openmetrics.text_string_to_metric_families
    return {
        family.name + ("_total" if family.type == "counter" else ""): family
        for family in parse(text)
    }


def values(told: Board, name: str) -> dict[tuple[str, ...], float]:
    """Return the values of one metric by those of its labels."""
    return {tuple(sample.labels.values()): sample.value for sample in scraped(told)[name].samples}


# --- the table -------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", ["", f"{OPENMETRICS};version=1.0.0"])
def test_what_is_scraped_is_what_is_documented(accept: str) -> None:
    """Names, types, labels and help are those of the table, in either format."""
    families = scraped(leader(), accept)
    assert list(families) == [name for name, *_ in METRICS]
    for name, kind, labels, text in METRICS:
        family = families[name]
        assert (family.type, family.documentation) == (kind, text)
        assert family.samples, name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(labels), name


def test_a_candidate_that_knows_nothing_can_be_scraped() -> None:
    """Before any news everything is zero, or not there."""
    families = scraped(board())
    assert list(families) == [name for name, *_ in METRICS]
    assert values(board(), "leaderexec_fencing_token") == {}
    assert values(board(), "leader_election_master_status") == {(ELECTION,): 0}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("leader_election_master_status", {(ELECTION,): 1}),
        ("leader_election_slowpath_total", {(ELECTION,): 2}),
        ("leaderexec_info", {(OURS, __version__): 1}),
        ("leaderexec_lock_requests_total", {("ok", "renew"): 2, ("forbidden", "read"): 1}),
        ("leaderexec_grants_total", {(): 9}),
        ("leaderexec_leaderships_total", {(): 3}),
        ("leaderexec_handovers_total", {(): 1}),
        ("leaderexec_child_starts_total", {(): 4}),
        ("leaderexec_child_exits_total", {("137",): 1}),
        ("leaderexec_elector_starts_total", {(): 1}),
        ("leaderexec_log_lines_dropped_total", {("guardian",): 7, ("elector",): 6}),
        ("leaderexec_fencing_token", {(): 41}),
        ("leaderexec_tree_processes", {(): 2}),
        ("leaderexec_tree_cpu_seconds_total", {(): 1.5}),
        ("leaderexec_tree_resident_bytes", {(): 4096}),
        ("leaderexec_http_connections", {(): 12}),
    ],
)
def test_each_metric_counts_what_it_says(name: str, expected: dict[tuple[str, ...], int]) -> None:
    """A leader's numbers arrive where they belong."""
    assert values(leader(), name) == expected


def test_a_standby_is_no_master_and_has_no_token() -> None:
    """What is not there is not reported as if it were."""
    told = board()
    told.take(standing(), START_NS)
    assert values(told, "leader_election_master_status") == {(ELECTION,): 0}
    assert values(told, "leaderexec_fencing_token") == {}


def test_renewals_are_a_histogram() -> None:
    """Buckets are cumulative, and the last has all, however long one took."""
    samples = scraped(leader())["leaderexec_renewal_duration_seconds"].samples
    buckets = {s.labels["le"]: s.value for s in samples if s.name.endswith("_bucket")}
    assert list(map(float, buckets)) == [*RENEWAL_BOUNDS_S, float("inf")]
    assert (buckets["0.0025"], buckets["0.005"], buckets["10.0"], buckets["+Inf"]) == (0, 1, 1, 2)
    assert {s.name[-4:]: s.value for s in samples[-2:]} == {"ount": 2, "_sum": 20.004}


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=nonsense", "text/plain; version=0.0.4; charset=utf-8"),
        (OPENMETRICS, f"{OPENMETRICS}; version=1.0.0; charset=utf-8"),
        (f"{OPENMETRICS};version=nonsense", f"{OPENMETRICS}; version=1.0.0; charset=utf-8"),
        (
            f"{OPENMETRICS};version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            f"{OPENMETRICS}; version=1.0.0; charset=utf-8",
        ),
    ],
)
def test_the_format_is_what_was_asked_for(accept: str, content_type: str) -> None:
    """OpenMetrics for who names it, and for everybody else what everybody reads."""
    got, body = metrics.render(board(), START_NS, Usage(), 0, accept)
    assert got == content_type
    assert body.endswith(b"# EOF\n") is content_type.startswith(OPENMETRICS)


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
    yield pid
    for each in [*(p for child in children_of(pid) for p in [*children_of(child), child]), pid]:
        kill(each)
    os.waitpid(pid, 0)


def test_a_tree_is_measured_without_its_keeper(keeper: int) -> None:
    """All below count, with their memory; the keeper is ours and not the child's."""
    wait_until(
        lambda: metrics._used_below(keeper).processes == 2, timeout_s=BOUND_S, what="both are there"
    )
    usage = TreeMeter().measure(keeper, 0)
    assert usage.processes == 2
    own = psutil.Process(children_of(keeper)[0]).memory_info().rss
    assert usage.resident_bytes >= own


def test_a_tree_is_measured_once_a_second_at_most(keeper: int) -> None:
    """Whoever asks more often gets the last measurement."""
    wait_until(
        lambda: metrics._used_below(keeper).processes == 2, timeout_s=BOUND_S, what="both are there"
    )
    meter = TreeMeter()
    assert meter.measure(keeper, 0).processes == 2
    (child,) = children_of(keeper)
    (grandchild,) = children_of(child)
    kill(grandchild)
    wait_until(lambda: state_of(grandchild) == "Z", timeout_s=BOUND_S, what="it died")
    kill(child)
    wait_until(lambda: state_of(child) == "Z", timeout_s=BOUND_S, what="it died")
    before = meter.measure(keeper, SECOND_NS - 1)
    assert before.resident_bytes > 0
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
    try:
        wait_until(
            lambda: psutil.Process(pid).cpu_times().children_user > 0,
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
    wait_until(
        lambda: metrics._used_below(keeper).processes == 2, timeout_s=BOUND_S, what="both are there"
    )
    real = psutil.Process.memory_info
    (child,) = children_of(keeper)

    def vanish(process: psutil.Process) -> Any:
        if process.pid == child:
            raise psutil.NoSuchProcess(child)
        return real(process)

    monkeypatch.setattr(psutil.Process, "memory_info", vanish)
    assert metrics._used_below(keeper).processes == 1
