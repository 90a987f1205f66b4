"""The words that all parts share: timing, the leader election record, what was seen of it.

Owns no state and performs no I/O. Times named `_ns` are nanoseconds on CLOCK_BOOTTIME, times
named `_us` microseconds since the epoch on the wall clock (used for display and for wire formats
only, never for a decision). It must not import time, os or kubernetes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NewType

SECOND_NS = 1_000_000_000
SECOND_US = 1_000_000

#: Orders leaderships of one election: the version that the acquiring write produced.
Token = NewType("Token", int)


class TimingError(ValueError):
    """The durations do not fit together; the message shows the numbers and names the flag."""

    def __init__(self, flag: str, problem: str) -> None:
        super().__init__(f"{flag}: {problem}")
        self.flag = flag


def seconds(duration_ns: int) -> str:
    """Write a duration as a person would: `2.15s`."""
    return f"{duration_ns / SECOND_NS:.3f}".rstrip("0").rstrip(".") + "s"


@dataclass(frozen=True, slots=True)
class Timing:
    """The durations of one election, and the one inequality that ties them together.

    `lease_duration_s` is written into the record, which stores whole seconds. A renewal that was
    sent at t0 lets the child run until `t0 + renew_deadline` undisturbed (then it gets the stop
    signal) and until `t0 + lease_duration - margin` at all (then it is killed).
    """

    lease_duration_s: int = 15
    renew_deadline_ns: int = 10 * SECOND_NS
    retry_period_ns: int = 2 * SECOND_NS

    @property
    def lease_duration_ns(self) -> int:
        """The lease duration in nanoseconds."""
        return self.lease_duration_s * SECOND_NS

    @property
    def margin_ns(self) -> int:
        """Time kept for killing and reaping, for starved processors and for clocks' rate skew."""
        return 2 * SECOND_NS + self.lease_duration_ns // 100

    @property
    def grace_on_loss_ns(self) -> int:
        """What a child has between the stop signal and SIGKILL when renewals fail."""
        return self.lease_duration_ns - self.margin_ns - self.renew_deadline_ns

    @property
    def call_timeout_ns(self) -> int:
        """Bound of one request to the lock, as client-go has it: half the renew deadline."""
        return max(SECOND_NS, self.renew_deadline_ns // 2)

    @property
    def least_term_ns(self) -> int:
        """The least time after a renewal that leaves room for the next: 1.2 retry periods."""
        return 6 * self.retry_period_ns // 5

    @property
    def silence_bound_ns(self) -> int:
        """How long guardian, elector and keeper may be silent before they count as dead."""
        return max(self.renew_deadline_ns, 3 * self.retry_period_ns)

    @property
    def heartbeat_ns(self) -> int:
        """How often the processes tell each other that they are alive."""
        return self.retry_period_ns

    def validate(self) -> None:
        """Raise TimingError unless `retry < renew < lease - margin` holds with its factors."""
        if self.lease_duration_s < 1:
            raise TimingError(
                "--lease-duration",
                f"{self.lease_duration_s}s is too short: at least 1s is accepted",
            )
        if self.retry_period_ns < SECOND_NS:
            raise TimingError(
                "--retry-period",
                f"{seconds(self.retry_period_ns)} is too short: at least 1s is accepted, because "
                "other candidates compare renewals in whole seconds",
            )
        if self.renew_deadline_ns <= self.least_term_ns:
            raise TimingError(
                "--renew-deadline",
                f"{seconds(self.renew_deadline_ns)} is too short: more than 1.2 x --retry-period "
                f"({seconds(self.retry_period_ns)}) = {seconds(self.least_term_ns)} is "
                "accepted",
            )
        if self.grace_on_loss_ns <= 0:
            raise TimingError(
                "--lease-duration",
                f"{self.lease_duration_s}s is too short: --renew-deadline "
                f"{seconds(self.renew_deadline_ns)} + margin {seconds(self.margin_ns)} (2s + 1 %) "
                f"= {seconds(self.renew_deadline_ns + self.margin_ns)} must be less",
            )


@dataclass(frozen=True, slots=True)
class Record:
    """The leader election record: who holds the lock, since when and for how long.

    The fields are those of client-go's LeaderElectionRecord; `holder` is empty when the lock is
    free. Times are microseconds since the epoch, None when the record has none.
    """

    holder: str
    lease_duration_s: int
    acquire_time_us: int | None = None
    renew_time_us: int | None = None
    transitions: int = 0

    @property
    def lease_duration_ns(self) -> int:
        """The duration written in the record, in nanoseconds."""
        return self.lease_duration_s * SECOND_NS


@dataclass(frozen=True, slots=True)
class LockTraits:
    """What the format of a lock, and the candidates that use it, ask of an election.

    Times are kept in multiples of `time_unit_us`. Where `peers_judge_by_own_duration`, the others
    take a lock when it has not changed for as long as they were told, whatever its record says.
    """

    time_unit_us: int = 1
    peers_judge_by_own_duration: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of the lock's object as it was read or written.

    `uid` differs between an object and its successor after a deletion, `version` between any two
    writes (opaque, but its integer orders leaderships). `successor` is the standby that is next in
    line, empty when none is named, None for a lock that keeps no such thing. `origin` is the
    lock's own: the whole object, so that a write preserves what it does not know.
    """

    record: Record
    uid: str
    version: str
    successor: str | None = None
    origin: object = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Claim:
    """What identifies one leadership in a record, beyond the holder's name.

    A duplicated name must not make two leaders: a record counts as ours only if these agree.
    """

    holder: str
    acquire_time_us: int | None
    transitions: int

    def made(self, record: Record) -> bool:
        """Whether `record` was written by the claim's leadership."""
        return (
            record.holder == self.holder
            and record.acquire_time_us == self.acquire_time_us
            and record.transitions == self.transitions
        )


@dataclass(frozen=True, slots=True)
class Grant:
    """Permission from the lock to let one tree run: absolute, and worthless once it has passed.

    `generation` numbers the electors of one guardian, `token` the leadership. `renewed_at_ns` is
    the instant before the counted renewal was sent; `expires_at_ns` adds the duration that was
    written into the record.
    """

    generation: int
    token: Token
    uid: str
    claim: Claim
    renewed_at_ns: int
    expires_at_ns: int


@dataclass(frozen=True, slots=True)
class Now:
    """One reading of both clocks: the boot time that decides and the wall time that is written."""

    boot_ns: int
    wall_us: int
