"""What Prometheus is told: the board's counters, and what the child's tree uses.

Owns the table of metrics and the measuring of the tree; what the numbers mean of the election is
the board's. It is imported at the first scrape, so that nobody pays for what is never read, and
it measures only when it is scraped. psutil observes here; nothing acts on what it says.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final

import psutil
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from leaderexec import __version__
from leaderexec.model import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from leaderexec.board import Board, Histogram

#: Every metric: name, type, labels, help. The first two are client-go's.
METRICS: Final[tuple[tuple[str, str, tuple[str, ...], str], ...]] = (
    (
        "leader_election_master_status", "gauge", ("name",),
        "1 if this candidate leads the election of this name, else 0",
    ),
    (
        "leader_election_slowpath_total", "counter", ("name",),
        "renewals that had to read the lock first",
    ),
    (
        "leaderexec_info", "gauge", ("version", "identity"),
        "always 1; the version and this candidate's name in the election",
    ),
    (
        "leaderexec_renewal_duration_seconds", "histogram", (),
        "how long renewals of the lease took that succeeded",
    ),
    (
        "leaderexec_lock_requests_total", "counter", ("purpose", "outcome"),
        "calls to the lock that ended, by what for and how",
    ),
    (
        "leaderexec_grants_total", "counter", (),
        "acquisitions and renewals of the lease that counted",
    ),
    (
        "leaderexec_leaderships_total", "counter", (),
        "times that this candidate became leader",
    ),
    (
        "leaderexec_handovers_total", "counter", (),
        "times that the lock was seen to pass from one holder to another",
    ),
    (
        "leaderexec_child_starts_total", "counter", (),
        "times that the child was started",
    ),
    (
        "leaderexec_child_exits_total", "counter", ("code",),
        "times that the child ended, by its exit code, 128+n for signal n",
    ),
    (
        "leaderexec_elector_starts_total", "counter", (),
        "times that the elector was started; more than 1 tells that one died or hung",
    ),
    (
        "leaderexec_log_lines_dropped_total", "counter", ("process",),
        "log lines that nobody read in time, by the process that wrote them",
    ),
    (
        "leaderexec_fencing_token", "gauge", (),
        "the leadership whose child this candidate has; not there without one",
    ),
    (
        "leaderexec_tree_processes", "gauge", (),
        "processes of the child and of all that it started",
    ),
    (
        "leaderexec_tree_cpu_seconds_total", "counter", (),
        "processor time of the present child and of all that it started",
    ),
    (
        "leaderexec_tree_resident_bytes", "gauge", (),
        "their resident memory; what they share counts for each",
    ),
    (
        "leaderexec_http_connections", "gauge", (),
        "open connections to this server",
    ),
)  # fmt: skip

_PLAIN: Final = "text/plain; version=0.0.4; charset=utf-8"
#: For how long a measurement is good enough: walking /proc costs what there is in it.
_MEASURE_EVERY_NS: Final = SECOND_NS


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tree uses: its processes, their processor time, their resident memory."""

    processes: int = 0
    cpu_s: float = 0.0
    resident_bytes: int = 0


class TreeMeter:
    """Measures the tree below a keeper, at most once a second."""

    def __init__(self) -> None:
        self._keeper_pid: int | None = None
        self._usage = Usage()
        self._good_until_ns = 0

    def measure(self, keeper_pid: int | None, now_ns: int) -> Usage:
        """Return what is used below `keeper_pid`, the keeper excluded; nothing if it is None."""
        if keeper_pid == self._keeper_pid and now_ns < self._good_until_ns:
            return self._usage
        usage = Usage() if keeper_pid is None else _used_below(keeper_pid)
        if keeper_pid == self._keeper_pid:
            # What is not seen because it ends while we look must not make a counter go back.
            cpu_s = max(usage.cpu_s, self._usage.cpu_s)
            usage = Usage(usage.processes, cpu_s, usage.resident_bytes)
        self._keeper_pid = keeper_pid
        self._usage = usage
        self._good_until_ns = now_ns + _MEASURE_EVERY_NS
        return usage


def _used_below(keeper_pid: int) -> Usage:
    """Add up a tree. Time of processes that have ended is with those who waited for them."""
    processes, cpu_s, resident_bytes = 0, 0.0, 0
    try:
        keeper = psutil.Process(keeper_pid)
        waited = keeper.cpu_times()
        below = keeper.children(recursive=True)
    except (psutil.Error, OSError):
        return Usage()
    cpu_s += waited.children_user + waited.children_system
    for process in below:
        try:
            times = process.cpu_times()
            resident = process.memory_info().rss
        except (psutil.Error, OSError):
            continue  # it has ended meanwhile, or is not ours to see
        processes += 1
        cpu_s += times.user + times.system + times.children_user + times.children_system
        resident_bytes += resident
    return Usage(processes, cpu_s, resident_bytes)


def render(
    board: Board, now_ns: int, usage: Usage, connections: int, accept: str
) -> tuple[str, bytes]:
    """Return all metrics as content type and body: OpenMetrics if `accept` names it.

    Prometheus names what it prefers; whoever names neither gets the plain format, which all read.
    """
    content_type = _PLAIN
    encode: Callable[[Collector], bytes] = generate_latest
    accepted = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    if "application/openmetrics-text" in accepted:
        content_type = openmetrics.CONTENT_TYPE_LATEST
        encode = openmetrics.generate_latest
    return content_type, encode(_Families(board, _values(board, now_ns, usage, connections)))


_Values = dict[str, dict[tuple[str, ...], float]]


def _values(board: Board, now_ns: int, usage: Usage, connections: int) -> _Values:
    """Return what each metric counts, by the values of its labels."""
    lock, tenure = board.lock, board.tenure
    values: _Values = {
        "leader_election_master_status": {(board.election,): board.leads(now_ns)},
        "leader_election_slowpath_total": {(board.election,): lock.slow_renewals if lock else 0},
        "leaderexec_info": {(__version__, board.identity): 1},
        "leaderexec_lock_requests_total": dict(board.calls.items()),
        "leaderexec_handovers_total": {(): board.handovers},
        "leaderexec_child_exits_total": {
            (str(code),): count for code, count in board.child_exits.items()
        },
        "leaderexec_log_lines_dropped_total": {
            ("guardian",): tenure.lines_dropped if tenure else 0,
            ("elector",): lock.lines_dropped if lock else 0,
        },
        "leaderexec_fencing_token": {},
        "leaderexec_tree_processes": {(): usage.processes},
        "leaderexec_tree_cpu_seconds_total": {(): usage.cpu_s},
        "leaderexec_tree_resident_bytes": {(): usage.resident_bytes},
        "leaderexec_http_connections": {(): connections},
        "leaderexec_grants_total": {(): tenure.grants if tenure else 0},
        "leaderexec_leaderships_total": {(): tenure.leaderships if tenure else 0},
        "leaderexec_child_starts_total": {(): tenure.child_starts if tenure else 0},
        "leaderexec_elector_starts_total": {(): tenure.elector_starts if tenure else 0},
    }
    if tenure is not None and tenure.token is not None:
        values["leaderexec_fencing_token"] = {(): tenure.token}
    return values


class _Families(Collector):
    """The table of metrics, filled."""

    def __init__(self, board: Board, values: _Values) -> None:
        self._board = board
        self._values = values

    def collect(self) -> Iterator[Metric]:
        for name, kind, labels, text in METRICS:
            if kind == "histogram":
                yield _histogram(name, text, self._board.renewals_s)
                continue
            family: CounterMetricFamily | GaugeMetricFamily
            family = (CounterMetricFamily if kind == "counter" else GaugeMetricFamily)(
                name, text, labels=labels
            )
            for label_values, value in self._values[name].items():
                family.add_metric(label_values, value)
            yield family


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    bounds = [*map(str, histogram.bounds), "+Inf"]
    buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=histogram.sum)
