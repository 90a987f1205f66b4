"""What is told of the election over HTTP: who leads, whether we do, and whether we are well.

Owns the answers. They are made of what guardian and elector said last and of the time at which
somebody asks: nothing is believed for longer than they said it may be, so that an answer stays
true when both are stopped or dead. Pure: messages and times (nanoseconds on CLOCK_BOOTTIME) go in;
it must not know sockets, HTTP or a clock.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, assert_never

from leaderexec import __version__
from leaderexec.channel import CallTook, ChildExited, LockIs, TenureIs
from leaderexec.model import SECOND_NS, SECOND_US
from leaderexec.tenure import State
from leaderexec.vigil import Vigil

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leaderexec.model import Now, Timing

#: What a board is told.
News = LockIs | CallTook | TenureIs | ChildExited

#: How a call to the lock is told of that renewed our lease.
RENEWED: Final = ("renew", "ok")

#: A renewal is a few milliseconds of work, and is given up after half the renew deadline.
RENEWAL_BOUNDS_S: Final = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

#: What /status answers with, in this order: key, type, meaning.
STATUS: Final[tuple[tuple[str, str, str], ...]] = (
    ("election", "string", "name of the election"),
    ("lock", "string", "the lock, empty until it has been opened"),
    ("namespace", "string", "namespace of the lock, empty if it has none"),
    ("identity", "string", "this candidate's name in the election"),
    ("leader", "boolean", "whether this candidate leads"),
    ("state", "string", "what the guardian has of a child: the states of ARCHITECTURE.md"),
    ("name", "string", "the holder of the lock as `/` shows it, empty when unknown"),
    ("holder", "string", "the holder as the record has it, empty when unknown"),
    ("last_update", "string", "since when the record has said so: RFC 3339, UTC"),
    ("lease_duration_s", "integer or null", "the duration in the record"),
    ("transitions", "integer or null", "how often the lock has changed hands, as the record says"),
    ("fencing_token", "integer or null", "the leadership whose child this candidate has"),
    ("renew_within_s", "number or null", "a leader's time left before its child is asked to stop"),
    ("child_pid", "integer or null", "the child"),
    ("live", "boolean", "what `/livez` says"),
    ("ready", "boolean", "what `/readyz` says"),
    ("problem", "string", "why it is not live or not ready, empty if it is"),
    ("leaderships", "integer", "times that this candidate became leader since it was started"),
    ("handovers", "integer", "times that the lock was seen to pass from one holder to another"),
    ("child_starts", "integer", "times that the child was started"),
    ("elector_starts", "integer", "times that the elector was started"),
    ("version", "string", "version of leaderexec"),
)

_POD_UID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}"  # static pods have a hash
_DNS_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_SLOT = rf"(?:{_POD_UID})-{_DNS_LABEL}(?:@[^@]+)?"
_GENERATED: Final = re.compile(rf"(.+)_leaderexec-(?:[0-9a-f]{{16}}|{_SLOT})")


def shown_name(identity: str) -> str:
    """Return the host name of an identity that leaderexec made of one, any other as it is.

    Such are `HOST_leaderexec-` and 16 hex digits, or the uid of a pod, `-` and a container's name,
    with `@` and the host's name where that is not the pod's.
    """
    made = _GENERATED.fullmatch(identity)
    return made[1] if made else identity


class Histogram:
    """Counts values by the least of some bounds that they do not exceed."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        #: How many values fell to each bound, and in the end how many exceeded all of them.
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Board:
    """What is known of one candidate and of its election, and what that means at a given time.

    `identity` is ours as the record has it; one that was given by the user is shown as it is,
    whatever it looks like. With `leader_only` a standby is not ready. `now` is when listening
    begins.
    """

    def __init__(
        self,
        *,
        election: str,
        identity: str,
        identity_is_generated: bool,
        timing: Timing,
        leader_only: bool,
        now: Now,
    ) -> None:
        self.election = election
        self.identity = identity
        #: What elector and guardian said last; None until they do.
        self.lock: LockIs | None = None
        self.tenure: TenureIs | None = None
        # Counted since this board began, for who reads counters that may start anew.
        self.handovers = 0
        self.renewals_s = Histogram(RENEWAL_BOUNDS_S)
        self.calls: Counter[tuple[str, str]] = Counter()
        self.child_exits: Counter[int] = Counter()
        self._identity_is_generated = identity_is_generated
        self._leader_only = leader_only
        self._since_us = now.wall_us
        self._last_holder = ""
        self._elector = _vigil(timing, now)
        self._guardian = _vigil(timing, now)

    # --- what is told ---

    def take(self, news: News, now_ns: int) -> None:
        """Take note of what elector or guardian say."""
        match news:
            case LockIs(holder=holder):
                self._elector.heard(now_ns)
                if self.lock is not None and self.lock.holder == holder:
                    # Another elector has seen the holder for the first time, and we have not.
                    news = replace(news, since_us=self.lock.since_us)
                self.lock = news
                if holder and holder != self._last_holder:
                    self.handovers += bool(self._last_holder)
                    self._last_holder = holder
            case CallTook(purpose=purpose, outcome=outcome, took_ns=took_ns):
                self._elector.heard(now_ns)
                self.calls[purpose, outcome] += 1
                if (purpose, outcome) == RENEWED:
                    self.renewals_s.add(took_ns / SECOND_NS)
            case TenureIs():
                self._guardian.heard(now_ns)
                self.tenure = news
            case ChildExited(exit_code=exit_code):
                self._guardian.heard(now_ns)
                self.child_exits[exit_code] += 1
            case _:
                assert_never(news)

    def look(self, now_ns: int) -> None:
        """Take note that we are awake, so that silence is told from a pause of our own.

        To be called at least once in a retry period.
        """
        self._elector.silent(now_ns)
        self._guardian.silent(now_ns)

    # --- what is answered ---

    def holder(self, now_ns: int) -> str:
        """Return the holder as the record has it, empty when it is not known."""
        lock = self.lock
        if lock is not None and lock.holder and now_ns < lock.until_ns:
            return lock.holder
        # The guardian may tell of our leadership before the elector does.
        return self.identity if self.leads(now_ns) else ""

    def name(self, now_ns: int) -> str:
        """Return the holder as it is shown, empty when it is not known."""
        holder = self.holder(now_ns)
        if holder == self.identity and not self._identity_is_generated:
            return holder
        return shown_name(holder)

    def leads(self, now_ns: int) -> bool:
        """Whether our child is running undisturbed; one that is asked to stop leads no more."""
        return self._state() == State.RUNNING.value and not self._overdue(now_ns)

    def live(self, now_ns: int) -> str:
        """Return why a restart may help, empty if it would not.

        A standby that cannot reach the API is alive: it would not reach it after a restart either.
        """
        if self.tenure is not None and not self.tenure.elector_is_alive:
            return "the elector is dead"
        if self._guardian.silent(now_ns):
            return "the guardian is silent"
        if self._elector.silent(now_ns):
            return "the elector is silent"
        has_child = self._state() in {State.RUNNING.value, State.STOPPING.value}
        if has_child and self._overdue(now_ns):
            return "the lease is not renewed in time"
        return ""

    def ready(self, now_ns: int) -> str:
        """Return why nobody should count on us, empty if everybody may."""
        problem = self.live(now_ns)
        if problem:
            return problem
        if self.tenure is None or not self.tenure.lock:
            return "the lock is not open yet"
        if self._leader_only and not self.leads(now_ns):
            return "not the leader"
        return ""

    def legacy(self, now_ns: int) -> dict[str, str]:
        """Return what clients of the leader-elector of 2016 and of its successors read."""
        since_us = self._since_us if self.lock is None else self.lock.since_us
        since = datetime.fromtimestamp(since_us // SECOND_US, UTC)
        return {
            "name": self.name(now_ns),
            "identity": self.holder(now_ns),
            "last_update": since.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def event(self, now_ns: int) -> dict[str, str | bool]:
        """Return what readers of events are told whenever it changes."""
        return {**self.legacy(now_ns), "leader": self.leads(now_ns)}

    def next_change_ns(self, now_ns: int) -> int | None:
        """Return when an event changes by time alone, None if it does not."""
        ends = (
            None if self.lock is None else self.lock.until_ns,
            None if self.tenure is None else self.tenure.renew_by_ns,
        )
        event = self.event(now_ns)
        later = sorted(end_ns for end_ns in ends if end_ns is not None and end_ns > now_ns)
        return next((end_ns for end_ns in later if self.event(end_ns) != event), None)

    def status(self, now_ns: int) -> dict[str, str | int | float | None]:
        """Return all that is worth knowing, as STATUS describes it."""
        tenure = self.tenure
        # Without a record there is no duration.
        lock = self.lock if self.lock and self.lock.lease_duration_s else None
        legacy = self.legacy(now_ns)
        leads = self.leads(now_ns)
        problem = self.ready(now_ns)
        renew_by_ns = tenure.renew_by_ns if tenure is not None and leads else None
        return {
            "election": self.election,
            "lock": "" if tenure is None else tenure.lock,
            "namespace": "" if tenure is None else tenure.namespace,
            "identity": self.identity,
            "leader": leads,
            "state": self._state(),
            "name": legacy["name"],
            "holder": legacy["identity"],
            "last_update": legacy["last_update"],
            "lease_duration_s": None if lock is None else lock.lease_duration_s,
            "transitions": None if lock is None else lock.transitions,
            "fencing_token": None if tenure is None else tenure.token,
            "renew_within_s": None
            if renew_by_ns is None
            else round((renew_by_ns - now_ns) / SECOND_NS, 3),
            "child_pid": None if tenure is None else tenure.child_pid,
            "live": not self.live(now_ns),
            "ready": not problem,
            "problem": problem,
            "leaderships": 0 if tenure is None else tenure.leaderships,
            "handovers": self.handovers,
            "child_starts": 0 if tenure is None else tenure.child_starts,
            "elector_starts": 0 if tenure is None else tenure.elector_starts,
            "version": __version__,
        }

    # --- small helpers ---

    def _state(self) -> str:
        return State.IDLE.value if self.tenure is None else self.tenure.state

    def _overdue(self, now_ns: int) -> bool:
        """Whether there is no grant that still lets a child run undisturbed."""
        renew_by_ns = None if self.tenure is None else self.tenure.renew_by_ns
        return renew_by_ns is None or now_ns >= renew_by_ns


def _vigil(timing: Timing, now: Now) -> Vigil:
    return Vigil(
        bound_ns=timing.silence_bound_ns, pause_ns=2 * timing.heartbeat_ns, now_ns=now.boot_ns
    )
