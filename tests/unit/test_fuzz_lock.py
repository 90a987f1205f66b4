"""Garbage from the server: the locks raise their own errors, and an election keeps its promises.

First the real locks read bytes, JSON, true objects with something changed in them, statuses,
headers, watch events, and no answer at all; the code under test begins where a response of the HTTP
library is read. Then elections, standing by and leading, are held on a lock in memory that keeps
the record honestly and answers with any snapshot or error that a lock may give.
"""

from __future__ import annotations

import copy
import json
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest
import urllib3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leaderexec import election, elector
from leaderexec.election import Election, State
from leaderexec.locks import kubeapi
from leaderexec.locks.annotation import LEADER, ConfigMapLock, EndpointsLock
from leaderexec.locks.base import Absent, Conflict, Forbidden, LockError, Unavailable
from leaderexec.locks.kubeobject import SUCCESSOR
from leaderexec.locks.lease import LeaseLock
from leaderexec.locks.memory import MemoryLock, MemoryStore
from leaderexec.model import (
    SECOND_NS,
    SECOND_US,
    LockTraits,
    Now,
    Record,
    Snapshot,
    Timing,
    Token,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from leaderexec.locks.kubeobject import KubernetesLock

pytestmark = pytest.mark.usefixtures("unmeasured")

OURS: Final = "me"
TIMING: Final = Timing(5, 2 * SECOND_NS, SECOND_NS)
START: Final = Now(1_000 * SECOND_NS, 1_531_388_099_500_000)
LOCKS: Final[dict[str, type[KubernetesLock]]] = {
    "Lease": LeaseLock,
    "Endpoints": EndpointsLock,
    "ConfigMap": ConfigMapLock,
}
#: Each is dear; half of what other tests try is enough.
EXAMPLES: Final = settings().max_examples // 2

# --- objects, and what may be wrong with them ---

#: A record of another candidate, as both formats have it but for the name of the transitions.
THEIRS: Final = {
    "holderIdentity": "other",
    "leaseDurationSeconds": 5,
    "acquireTime": "2018-07-12T09:34:50.000000Z",
    "renewTime": "2018-07-12T09:34:59.000000Z",
}


def object_of(kind: str, record: dict[str, Any]) -> dict[str, Any]:
    """Return an object as a server has it, with a record where this kind keeps it."""
    metadata: dict[str, Any] = {
        "name": "x",
        "namespace": "ns",
        "uid": "u-1",
        "resourceVersion": "7",
        "labels": {"app": "mine"},
        "annotations": {"note": "kept"},
    }
    if kind == "Lease":
        version, rest = "coordination.k8s.io/v1", {"spec": {**record, "leaseTransitions": 3}}
    else:
        version, rest = "v1", {}
        metadata["annotations"][LEADER] = json.dumps({**record, "leaderTransitions": 3})
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}


_PLACES: Final = (
    *(("record", key) for key in (*THEIRS, "leaseTransitions", "leaderTransitions", "strategy")),
    *(("metadata", key) for key in ("uid", "resourceVersion", "annotations", "name", "future")),
    *(("annotations", key) for key in (LEADER, SUCCESSOR, "note")),
    *(("", key) for key in ("kind", "metadata", "spec", "code", "message", "details")),
)
_DELETED: Final = object()
_VALUES: Final = (
    *("", " ", "x", OURS, "other", "u-1", "u-2", "7", "8", "6", "-1", "1.0", "9" * 5000),
    *("\u00b2", "\u0663", "\ud800", "\n", "a" * 300, "Lease", "Endpoints", "null", "{}", "[]"),
    *("2018-07-12T09:35:00Z", "2018-07-12T09:34:59.5Z", "0000-01-01T00:00:00Z", "yesterday"),
    *("9999-12-31T23:59:59.999999Z", '{"holderIdentity":""}', '{"holderIdentity":"me"}'),
    *(0, 1, 4, 5, 60, -1, 410, 2**31 - 1, 2**31, 2**63, 10**400, 1.5, 1e300),
    *(None, True, False, [], [1], {}, {"a": 1}, {"kind": "namespaces"}),
    *[_DELETED] * 9,
)
#: One draw for each: what Hypothesis draws costs more than what the locks do with it.
_CHANGES: Final = st.lists(st.sampled_from(list(product(_PLACES, _VALUES))), min_size=1, max_size=3)


def changed(body: dict[str, Any], changes: list[tuple[tuple[str, str], Any]]) -> dict[str, Any]:
    """Return an object with values in some of its places replaced or gone."""
    body = copy.deepcopy(body)
    for (where, key), value in changes:
        # An earlier change may have left no such place.
        with suppress(AttributeError, KeyError, TypeError, ValueError):
            metadata = body["metadata"]
            annotations = metadata.get("annotations")
            as_text = where == "record" and body["kind"] != "Lease"
            record = json.loads(annotations[LEADER]) if as_text else body.get("spec")
            places = {"": body, "metadata": metadata, "annotations": annotations, "record": record}
            if value is _DELETED:
                places[where].pop(key, None)
            else:
                places[where][key] = value
            if as_text:
                annotations[LEADER] = json.dumps(record)
    return body


# --- answers ---


@dataclass
class Answer:
    """As much of a response of the HTTP library as the locks read."""

    status: int = 200
    body: Any = b""  # or an object as it is in Python
    headers: urllib3.HTTPHeaderDict = field(default_factory=urllib3.HTTPHeaderDict)
    error: Exception | None = None
    chunks: list[bytes] = field(default_factory=list)

    def read(self, _: int) -> bytes:
        if self.error and self.status:
            raise self.error
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()

    def stream(self, _: int) -> Iterator[bytes]:
        yield from self.chunks
        if self.error:
            raise self.error

    def release_conn(self) -> None:
        pass

    close = shutdown = release_conn


class Api(kubeapi.Api):
    """The real way to an API server, up to where a connection would be used."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def _request(self, *_: object, **__: object) -> Any:
        return self._answer

    def _reconnect(self, verb: str) -> None:
        raise Unavailable(f"cannot {verb}: no other credentials")


#: A success is as likely as all else together; of the rest, what a write meets most.
_STATUSES: Final = (
    *[200] * 20,
    *[404, 409] * 3,
    *(0, 201, 202, 204, 301, 400, 401, 403, 410, 422, 429, 500, 503, 999),
)
_WISHES: Final = ("0", "2", "1e3", "-1", "inf", "nan", "1e999", "soon", "", "\u0663", "1_0")
_HEADERS: Final = tuple(
    urllib3.HTTPHeaderDict(each)
    for each in (
        *[()] * 3,
        *([("Retry-After", wish)] for wish in _WISHES),
        [("retry-after", "2")],
        [("Retry-After", "1"), ("Retry-After", "2")],
    )
)
_ERRORS: Final = (
    *[None] * 60,
    TimeoutError("timed out"),
    ConnectionResetError(104, "reset"),
    urllib3.exceptions.ProtocolError("broken", None),
    urllib3.exceptions.ReadTimeoutError(None, "/", "read"),  # type: ignore[arg-type]
    urllib3.exceptions.SSLError("certificate"),
    urllib3.exceptions.DecodeError("not gzip"),
    ValueError("\n"),
    RecursionError("deep"),
)
_BYTES: Final = (
    *(b"", b"null", b"[]", b"3", b"{}", b"\xff\xfe{", b"\0", b'"x"', b'{"metadata":1e999}'),
    *(b"[" * 9000, b'{"a":' * 5000, b"9" * 5000, b"<html>\n"),
    b'{"kind":"Status","message":{},"details":[]}',
    b'{"kind":"Status","details":{"kind":"namespaces"}}',
)
_DRAWN: Final = st.tuples(
    st.builds(Answer, *map(st.sampled_from, (_STATUSES, _BYTES, _HEADERS, _ERRORS))),
    st.none() | _CHANGES | _CHANGES,
)


# --- what the locks read ---


def _answered(kind: str, drawn: tuple[Answer, list[tuple[tuple[str, str], Any]] | None]) -> Answer:
    """Return a drawn answer, with an object that was changed for a body where there are changes."""
    answer, changes = drawn
    if changes is None:
        return answer
    return replace(answer, body=changed(object_of(kind, THEIRS), changes))


def _lines(answers: list[Answer]) -> list[bytes]:
    """Return the chunks of a watch: an event each, in whole lines or not."""
    kinds = ("ADDED", "MODIFIED", "DELETED", "ERROR", "BOOKMARK", 7)
    chunks = []
    for number, answer in enumerate(answers):
        if isinstance(answer.body, bytes):
            line = answer.body + b"\n"
        else:
            event = {"type": kinds[answer.status % len(kinds)], "object": answer.body}
            line = json.dumps(event).encode() + b"\n"
        chunks += [line] if number % 2 else [line[:9], line[9:]]
    return chunks


def _is_free(body: Any, kind: str) -> bool:
    """Whether an object says, by the letter of its format, that nobody holds the lock."""
    if kind == "Lease":
        fields = body.get("spec")
    else:
        annotations = body["metadata"].get("annotations")
        assert annotations is None or isinstance(annotations, dict)
        text = (annotations or {}).get(LEADER)
        fields = None if text is None else json.loads(text)
    return fields is None or (
        isinstance(fields, dict) and fields.get("holderIdentity") in {None, ""}
    )


def _check_read(snapshot: Snapshot | None, kind: str) -> str:
    """Assert what every snapshot promises to the election, and return what kind it is."""
    if snapshot is None:
        return "nothing"
    assert isinstance(snapshot, Snapshot)
    int(snapshot.version)
    assert snapshot.uid is not None
    record = snapshot.record
    assert isinstance(record.holder, str)
    assert all(0 <= each < 2**31 for each in (record.lease_duration_s, record.transitions))
    if not record.holder:
        assert _is_free(snapshot.origin, kind), f"taken for free: {snapshot.origin}"
    return "read"


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(sorted(LOCKS)),
    st.sampled_from(["read", "create", "update", "name", "watch", "watch"]),
    _DRAWN,
    st.lists(_DRAWN, max_size=3),
)
def _ask(seen: Counter[str], kind: str, verb: str, first: Any, others: list[Any]) -> None:
    lines = _lines([_answered(kind, each) for each in others])
    lock = LOCKS[kind](Api(replace(_answered(kind, first), chunks=lines)), "ns", "x")
    honest = Api(Answer(200, object_of(kind, THEIRS)))
    known = LOCKS[kind](honest, "ns", "x").read(1)
    assert known is not None
    ours = Record(OURS, 5, START.wall_us, START.wall_us, 4)
    calls: dict[str, Callable[[], list[Snapshot | None]]] = {
        "read": lambda: [lock.read(1)],
        "create": lambda: [lock.create(ours, 1)],
        "update": lambda: [lock.update(ours, known, 1)],
        "name": lambda: [lock.name_successor(OURS, known, 1)],
        "watch": lambda: list(lock.watch(known)),
    }
    try:
        found = calls[verb]()
    except LockError as error:
        failure = elector._failure(error)
        seen[type(error).__name__] += 1
        assert failure.message.startswith("cannot ")
        assert failure.retry_after_ns is None or 0 <= failure.retry_after_ns <= 3600 * SECOND_NS
    else:
        seen.update(_check_read(snapshot, kind) for snapshot in found)


def test_whatever_a_server_answers_is_read_or_is_an_error_of_ours() -> None:
    """Out of a lock come snapshots that hold what they promise, and its own errors, nothing else.

    What is not a record is never taken for a lock that nobody holds.
    """
    seen: Counter[str] = Counter()
    _ask(seen)
    for what in ("read", "Unavailable", "Conflict"):
        assert seen[what], f"no {what}: {seen}"


# --- what an election makes of it ---

_TIMES_US: Final = (None, 0, START.wall_us - 1, START.wall_us, START.wall_us + 10**6, 10**15)
_RECORDS: Final[dict[str, st.SearchStrategy[Any]]] = {
    "holder": st.sampled_from(["", OURS, "other"]),
    "lease_duration_s": st.sampled_from([0, 1, 4, 5, 60, 2**31 - 1]),
    "acquire_time_us": st.sampled_from(_TIMES_US),
    "renew_time_us": st.sampled_from(_TIMES_US),
    "transitions": st.sampled_from([0, 1, 3, 2**31 - 1]),
}
_SNAPSHOTS: Final[dict[str, st.SearchStrategy[Any]]] = {
    "uid": st.sampled_from(["", "object-1", "object-2"]),
    "version": st.sampled_from(["-1", *map(str, range(10)), "9" * 4000]),
    "successor": st.sampled_from([None, "", OURS, "other"]),
}
_FAILURES: Final = (
    *(Conflict("cannot"), Absent("cannot"), Forbidden("cannot"), Unavailable("cannot")),
    *(Unavailable("cannot", retry_after_s=wish_s) for wish_s in (0, 2, 3600)),
)


@dataclass(frozen=True)
class Twist:
    """What befalls one call, or one watch, besides what an honest lock does."""

    how: str
    record: dict[str, Any]
    snapshot: dict[str, Any]
    failure: LockError
    latency_ns: int

    def on(self, seen: Snapshot | None) -> Snapshot:
        """Return another snapshot, made of one that is true."""
        seen = seen or Snapshot(Record("other", 5), "object-1", "1", "")
        return replace(seen, **self.snapshot, record=replace(seen.record, **self.record))


_TWISTS: Final = st.builds(
    Twist,
    st.sampled_from(
        ["honest", "altered", "foreign", "failed"] * 2
        + ["invented", "reply lost", "deleted", "asked to stop"]
    ),
    st.fixed_dictionaries({}, optional=_RECORDS),
    st.fixed_dictionaries({}, optional=_SNAPSHOTS),
    st.sampled_from(_FAILURES),
    st.sampled_from([0, 0, SECOND_NS // 4, SECOND_NS, 3 * SECOND_NS]),
)
_HONEST: Final = Twist("honest", {}, {}, _FAILURES[0], 0)


class TwistedLock:
    """The record of one election, kept as a lock keeps it, and answers as a script has them."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.script: deque[Twist] = deque()
        self.twist = _HONEST

    def _next(self) -> Snapshot | None:
        """Take the next twist, let others do what it says, and return what is there then."""
        self.twist = self.script.popleft() if self.script else _HONEST
        if self.twist.how == "deleted":
            self.store.delete()
        found = self.store.read()
        if found and self.twist.how == "foreign":
            return self.store.update(self.twist.on(found).record, found)
        return found

    def call(self, call: Callable[[MemoryLock, float], Snapshot | None]) -> Snapshot | None:
        """Answer one call, by what is to befall it."""
        found, twist = self._next(), self.twist
        if twist.how == "failed":
            raise twist.failure
        if twist.how == "invented":
            return twist.on(found)
        answer = call(MemoryLock(self.store), 1.0)
        if twist.how == "reply lost":
            raise twist.failure
        return twist.on(answer) if twist.how == "altered" else answer

    def watch(self) -> Iterator[election.Event]:
        """Return what a watch reports until it ends."""
        found, twist = self._next(), self.twist
        yield election.WatchOpened()
        yield election.WatchSaw(twist.on(found) if twist.how in {"altered", "invented"} else found)
        failed = twist.how in {"failed", "reply lost"}
        yield election.WatchEnded(elector._failure(twist.failure) if failed else None)


class _Pending(NamedTuple):
    """A call that is under way, and when it was issued."""

    effect: Any
    sent_ns: int


_CALLS: Final = (election.Read, election.Create, election.Update, election.NameSuccessor)
#: No election needs more calls within a second.
_MOST_CALLS: Final = 12


@dataclass
class Campaign:
    """One elector's core on a lock: carries out, and judges, what the core wants."""

    core: Election
    lock: TwistedLock
    seen: Counter[str]
    now: Now = START
    claim: Any = None
    token: int | None = None
    pending: _Pending | None = None
    watched: deque[election.Event] = field(default_factory=deque)
    told: deque[election.Event] = field(default_factory=deque)
    called_ns: deque[int] = field(default_factory=lambda: deque(maxlen=_MOST_CALLS))

    def turn(self) -> None:
        """Let the next thing happen: a word of the guardian, of the watch, a reply, or time."""
        if self.told or self.watched:
            self.step((self.told or self.watched).popleft())
        elif self.pending is not None:
            self._call(self.pending)
        else:
            wake_ns = self.core.wake_at_ns
            assert wake_ns is not None
            self._pass(max(wake_ns - self.now.boot_ns, 0))
            self.step(election.Woke())

    def _pass(self, for_ns: int) -> None:
        self.now = Now(self.now.boot_ns + for_ns, self.now.wall_us + for_ns // 1000)

    def _call(self, pending: _Pending) -> None:
        call_id, _, call = elector._job(pending.effect)
        try:
            event: election.Event = election.Returned(call_id, self.lock.call(call))
        except LockError as error:
            event = election.Failed(call_id, elector._failure(error))
            self.seen["failed"] += 1
        self._pass(self.lock.twist.latency_ns)
        if self.lock.twist.how == "asked to stop":
            token = None if self.token is None else Token(self.token)
            self.step(election.TreeGone(token, retire=False))
        self.step(event, pending)
        if self.pending is pending:
            self.pending = None

    def step(self, event: election.Event, answered: _Pending | None = None) -> None:
        """Step the core, assert what it may want because of `event`, and do it."""
        if answered is not None:
            self.pending = None
        was_leader = self.core.state is State.LEADER
        effects = self.core.step(event, self.now)
        assert self.core.wake_at_ns is None or self.core.wake_at_ns > self.now.boot_ns
        for effect in effects:
            match effect:
                case election.SendGrant():
                    self._judge_grant(effect, event, answered, was_leader=was_leader)
                case election.SendLost():
                    self.told.append(election.TreeGone(effect.token, retire=False))
                    self.seen["lost"] += 1
                case election.SendReleased():
                    self.seen["released"] += 1
                case election.SendBeat():
                    self.told.append(election.BeatReturned())
                case election.OpenWatch():
                    self.watched = deque(self.lock.watch())
                case election.CloseWatch():
                    self.watched.clear()
                case _ if isinstance(effect, _CALLS):
                    self._judge_call(effect)

    def _judge_grant(
        self,
        effect: election.SendGrant,
        event: election.Event,
        answered: _Pending | None,
        *,
        was_leader: bool,
    ) -> None:
        """A grant comes of a write of our own that counted, and is worth no more than it says."""
        grant = effect.grant
        assert isinstance(event, election.Returned)
        assert answered is not None
        write, after = answered.effect, event.snapshot
        assert isinstance(write, election.Create | election.Update), "a grant of observation"
        assert after is not None
        assert write.record.holder == OURS
        assert grant.claim.made(write.record)
        if isinstance(write, election.Update):
            assert after.uid == write.seen.uid, "a grant on another object"
            assert after.version != write.seen.version, "a grant for what changed nothing"
        # What a write returns is what the lock keeps: that, and nothing else, others go by.
        assert grant.claim.made(after.record), f"a grant on a record that is not ours: {after}"
        kept_ns = min(write.record.lease_duration_ns, after.record.lease_duration_ns)
        assert grant.renewed_at_ns == answered.sent_ns
        assert grant.expires_at_ns <= answered.sent_ns + kept_ns, "a grant past what is written"
        if was_leader:
            assert (grant.token, grant.claim) == (self.token, self.claim)
        elif self.token is None or self.token != grant.token:
            assert grant.token == int(after.version)
        self.token, self.claim = grant.token, grant.claim
        self.seen["granted"] += 1

    def _judge_call(self, effect: Any) -> None:
        """A leader renews its own claim over its own claim, and nobody makes calls in a storm."""
        assert self.pending is None, "two calls at once"
        self.pending = _Pending(effect, self.now.boot_ns)
        self.called_ns.append(self.now.boot_ns)
        if len(self.called_ns) == _MOST_CALLS:
            assert self.now.boot_ns - self.called_ns[0] >= SECOND_NS, "a storm of calls"
        if self.core.state not in {State.LEADER, State.RESUMING}:
            return
        assert not isinstance(effect, election.Create | election.NameSuccessor)
        if isinstance(effect, election.Update):
            assert self.claim.made(effect.record), "renews as somebody else"
            assert self.claim.made(effect.seen.record), "renews over a record that is not its own"
            self.seen["renewals"] += 1


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(
        [LockTraits(), LockTraits(SECOND_US, peers_judge_by_own_duration=True)],
    ),
    st.sampled_from(["leads", "leads", "resumes", "stands by", "begins"]),
    st.sampled_from(["random", "slot", "verbatim"]),
    st.lists(_TWISTS, min_size=1, max_size=6),
)
def _campaign(
    seen: Counter[str], traits: LockTraits, role: str, named: str, script: list[Twist]
) -> None:
    lock = TwistedLock()
    if role == "stands by":
        lock.store.create(Record("other", 5, START.wall_us, START.wall_us, 3))

    def candidate(now: Now, inherited: Any = None) -> Election:
        return Election(
            identity=OURS,
            unique=named != "verbatim",
            slot=named == "slot",
            timing=TIMING,
            generation=1,
            jitter=lambda: 0.5,
            now=now,
            inherited=inherited,
            traits=traits,
        )

    campaign = Campaign(candidate(START), lock, seen)
    if role in {"leads", "resumes"}:
        while campaign.core.state is not State.LEADER:
            campaign.turn()
    if role == "resumes":
        holding = campaign.core._holding
        assert holding is not None
        campaign.core = candidate(campaign.now, replace(holding, granted_ns=5 * SECOND_NS))
        campaign.pending = None
        campaign.told.clear()
        campaign.watched.clear()
    lock.script.extend(script)
    for _ in range(24):
        if campaign.core.state is State.RETIRED:
            break
        campaign.turn()
    seen[f"{role} to {campaign.core.state.value}"] += 1


def test_whatever_a_lock_answers_no_grant_is_worth_more_than_its_write() -> None:
    """The core stands any answer, and every grant is a write of its own that counted, no longer.

    A leader renews over its own claim alone: what is not ours any more is lost.
    """
    seen: Counter[str] = Counter()
    _campaign(seen)
    for what in ("granted", "renewals", "failed", "lost", "released"):
        assert seen[what] > EXAMPLES // 20, f"hardly any {what}: {seen}"
    assert seen["leads to standby"] > EXAMPLES // 100, f"hardly anybody lost what it held: {seen}"
