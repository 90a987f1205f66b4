"""Garbage from the server: the locks raise their own errors, and an election keeps its promises.

The real locks read answers, and elections, standing by and leading, are held on a server that keeps
the object honestly and answers as it likes: bytes, JSON, true objects with something changed in
them, statuses, headers, watch events, and no answer at all. The code under test begins where a
response of the HTTP library is read.

What an election may do with such answers is decided here from what went over the wire alone.
"""

from __future__ import annotations

import copy
import json
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import pytest
import urllib3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leaderexec import election, elector
from leaderexec.election import Election, State
from leaderexec.locks import kubeapi
from leaderexec.locks.annotation import LEADER, ConfigMapLock, EndpointsLock
from leaderexec.locks.base import LockError, Unavailable
from leaderexec.locks.kubeobject import SUCCESSOR
from leaderexec.locks.lease import LeaseLock
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
    from collections.abc import Iterator

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
KINDS: Final = st.sampled_from(sorted(LOCKS))

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
        in_annotation = where == "record" and body.get("kind") != "Lease"
        place: Any = body
        if where:
            place = body.get("metadata" if where != "record" or in_annotation else "spec")
        if where == "annotations" or in_annotation:
            place = place.get("annotations") if isinstance(place, dict) else None
        text = None
        if in_annotation and isinstance(place, dict):
            try:
                text = json.loads(place.get(LEADER) or "{}")
            except (ValueError, TypeError):
                continue
        target = text if in_annotation else place
        if not isinstance(target, dict):
            continue
        if value is _DELETED:
            target.pop(key, None)
        else:
            target[key] = value
        if in_annotation:
            place[LEADER] = json.dumps(text)
    return body


# --- answers ---


@dataclass
class Answer:
    """What one request is answered with; `body` is bytes, or an object as it is in Python."""

    status: int = 200
    body: Any = b""
    headers: tuple[tuple[str, str], ...] = ()
    error: Exception | None = None

    @property
    def data(self) -> bytes:
        """The bytes on the wire."""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


class Response:
    """As much of a response of the HTTP library as the locks read."""

    def __init__(self, answer: Answer, chunks: list[bytes]) -> None:
        self.status = answer.status
        self.headers = urllib3.HTTPHeaderDict(answer.headers)
        self._answer = answer
        self._chunks = chunks

    def read(self, _: int) -> bytes:
        if self._answer.error and self._answer.status:
            raise self._answer.error
        return self._answer.data

    def stream(self, _: int) -> Iterator[bytes]:
        yield from self._chunks
        if self._answer.error:
            raise self._answer.error

    def release_conn(self) -> None:
        pass

    def close(self) -> None:
        pass

    def shutdown(self) -> None:
        pass


class Api(kubeapi.Api):
    """The real way to an API server, up to where a connection would be used."""

    def __init__(self, respond: Any) -> None:
        self._respond = respond

    def _request(
        self, method: str, path: str, *, body: object, connect_s: float, read_s: float
    ) -> Any:
        del connect_s, read_s
        # What cannot be JSON cannot be sent.
        return self._respond(method, path, None if body is None else json.loads(json.dumps(body)))

    def _reconnect(self, verb: str) -> None:
        raise Unavailable(f"cannot {verb}: no other credentials")

    def close(self) -> None:
        pass


#: A success is as likely as all else together; of the rest, what a write meets most.
_STATUSES: Final = (
    *[200] * 20,
    *[404, 409] * 3,
    *(0, 201, 202, 204, 301, 400, 401, 403, 410, 422, 429, 500, 503, 999),
)
_WISHES: Final = ("0", "2", "1e3", "-1", "inf", "nan", "1e999", "soon", "", "\u0663", "1_0")
_HEADERS: Final = (
    *[()] * 3,
    *((("Retry-After", wish),) for wish in _WISHES),
    (("retry-after", "2"),),
    (("Retry-After", "1"), ("Retry-After", "2")),
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
#: Answers that do not depend on what is asked.
_ANSWERS: Final = st.builds(
    Answer,
    *[st.sampled_from(each) for each in (_STATUSES, _BYTES, _HEADERS, _ERRORS)],
)


# --- what the locks read ---


def _answered(kind: str, drawn: tuple[Answer, list[tuple[tuple[str, str], Any]] | None]) -> Answer:
    """Return a drawn answer, with an object that was changed for a body where there are changes."""
    answer, changes = drawn
    if changes is None:
        return answer
    return replace(answer, body=changed(object_of(kind, THEIRS), changes))


_DRAWN: Final = st.tuples(_ANSWERS, st.none() | _CHANGES | _CHANGES)


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
        text = None if annotations is None else annotations.get(LEADER)
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
    assert 0 <= record.lease_duration_s < 2**31
    assert 0 <= record.transitions < 2**31
    if not record.holder:
        assert _is_free(snapshot.origin, kind), f"taken for free: {snapshot.origin}"
    return "read"


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(
    KINDS,
    st.sampled_from(["read", "create", "update", "name", "watch", "watch"]),
    _DRAWN,
    st.lists(_DRAWN, max_size=3),
)
def _ask(seen: Counter[str], kind: str, verb: str, first: Any, others: list[Any]) -> None:
    answer = _answered(kind, first)
    lines = [_answered(kind, each) for each in others]
    api = Api(lambda *_: Response(answer, _lines(lines)))
    lock = LOCKS[kind](api, "ns", "x")
    honest = LOCKS[kind](
        Api(lambda *_: Response(Answer(200, object_of(kind, THEIRS)), [])), "ns", "x"
    )
    known = honest.read(1)
    assert known is not None
    ours = Record(OURS, 5, START.wall_us, START.wall_us, 4)
    try:
        match verb:
            case "read":
                found = [lock.read(1)]
            case "create":
                found = [lock.create(ours, 1)]
            case "update":
                found = [lock.update(ours, known, 1)]
            case "name":
                found = [lock.name_successor(OURS, known, 1)]
            case _:
                found = list(lock.watch(known))
    except LockError as error:
        failure = elector._failure(error)
        seen[type(error).__name__] += 1
    else:
        for snapshot in found:
            seen[_check_read(snapshot, kind)] += 1
        return
    assert failure.message.startswith("cannot ")
    assert failure.retry_after_ns is None or 0 <= failure.retry_after_ns <= 3600 * SECOND_NS


def test_whatever_a_server_answers_is_read_or_is_an_error_of_ours() -> None:
    """Out of a lock come snapshots that hold what they promise, and its own errors, nothing else.

    What is not a record is never taken for a lock that nobody holds.
    """
    seen: Counter[str] = Counter()
    _ask(seen)
    for what in ("read", "nothing", "Unavailable", "Forbidden", "Conflict", "Absent"):
        assert seen[what] > EXAMPLES // 500, f"hardly any {what}: {seen}"


# --- what an election makes of it ---


@dataclass(frozen=True)
class Twist:
    """What befalls one request, or one watch, besides what an honest server does."""

    how: str
    changes: list[tuple[tuple[str, str], Any]]
    answer: Answer
    latency_ns: int


_TWISTS: Final = st.builds(
    Twist,
    st.sampled_from(
        [
            *("honest", "honest", "altered", "altered", "invented", "foreign", "foreign"),
            *("answer", "unapplied", "error", "deleted", "asked to stop"),
        ]
    ),
    _CHANGES,
    _ANSWERS,
    st.sampled_from([0, 0, SECOND_NS // 4, SECOND_NS, 3 * SECOND_NS]),
)
_HONEST: Final = Twist("honest", [], Answer(), 0)


class Server:
    """One object, kept as a Kubernetes API server does, and answers as the script has them."""

    def __init__(self, kind: str, body: dict[str, Any] | None) -> None:
        self.kind = kind
        self.body = body
        self.twist = _HONEST
        self._version = 7
        self._objects = 1

    def respond(self, method: str, path: str, sent: dict[str, Any] | None) -> Response:
        """Answer one request, by what is to befall it."""
        if "watch=true" in path:
            return self._watch()
        twist = self.twist
        match twist.how:
            case "foreign":
                self._write(changed(self.body or object_of(self.kind, THEIRS), twist.changes))
            case "deleted":
                self.body = None
            case "invented":
                body = changed(self.body or object_of(self.kind, THEIRS), twist.changes)
                return Response(Answer(200, body), [])
            case "unapplied":
                return Response(twist.answer, [])
            case _:
                pass
        answer = self._apply(method, sent)
        if twist.how == "altered":
            answer = replace(answer, body=changed(answer.body, twist.changes))
        elif twist.how == "answer":
            answer = twist.answer
        elif twist.how == "error":
            answer = replace(answer, error=TimeoutError("timed out"))
        return Response(answer, [])

    def _watch(self) -> Response:
        twist = self.twist
        body = self.body or object_of(self.kind, THEIRS)
        events: list[Answer] = [Answer(200, body)] if self.body else []
        if twist.how in {"altered", "invented", "foreign"}:
            events.append(Answer(200 + len(twist.changes), changed(body, twist.changes)))
        elif twist.how == "deleted":
            events.append(Answer(200, body))
        elif twist.how in {"answer", "unapplied"}:
            events.append(replace(twist.answer, status=200))
        status = twist.answer.status if twist.how == "error" else 200
        return Response(replace(twist.answer, status=status), _lines(events))

    def _apply(self, method: str, sent: dict[str, Any] | None) -> Answer:
        found = self.body
        if method == "POST":
            if found is not None:
                return Answer(409, {"message": "exists"})
            assert sent is not None
            self._objects += 1
            sent["metadata"]["uid"] = f"u-{self._objects}"
            return Answer(201, self._write(sent))
        if found is None:
            return Answer(404, {"message": "not found"})
        if method == "GET":
            return Answer(200, copy.deepcopy(found))
        assert sent is not None
        keys = ("uid", "resourceVersion")
        if any(sent["metadata"][key] != found["metadata"][key] for key in keys):
            return Answer(409, {"message": "changed"})
        return Answer(200, copy.deepcopy(found) if sent == found else self._write(sent))

    def _write(self, body: dict[str, Any]) -> dict[str, Any]:
        """Store a version, which a server numbers itself; other writers cannot break that."""
        self._version += 1
        metadata = body.get("metadata")
        kept = metadata if isinstance(metadata, dict) else {}
        uid = kept["uid"] if isinstance(kept.get("uid"), str) else f"u-{self._objects}"
        numbered = {**kept, "uid": uid, "resourceVersion": str(self._version)}
        self.body = {**body, "kind": self.kind, "metadata": numbered}
        return copy.deepcopy(self.body)


@dataclass
class _Pending:
    """A call that is under way, and when it was issued."""

    effect: Any
    sent_ns: int


#: No election needs more calls within a second.
_MOST_CALLS: Final = 12


@dataclass
class Campaign:
    """One elector's core on a real lock: carries out, and judges, what the core wants."""

    core: Election
    lock: KubernetesLock
    server: Server
    script: deque[Twist]
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
        if self.told:
            self.step(self.told.popleft())
        elif self.watched:
            self.step(self.watched.popleft())
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
        twist = self.script.popleft() if self.script else _HONEST
        self.server.twist = twist
        call_id, _, call = elector._job(pending.effect)
        try:
            event: election.Event = election.Returned(call_id, call(self.lock, 1.0))
        except LockError as error:
            event = election.Failed(call_id, elector._failure(error))
            self.seen["failed"] += 1
        self._pass(twist.latency_ns)
        if twist.how == "asked to stop":
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
                    self._open_watch(effect)
                case election.CloseWatch():
                    self.watched.clear()
                case (
                    election.Read()
                    | election.Create()
                    | election.Update()
                    | election.NameSuccessor()
                ):
                    self._judge_call(effect)
                case _:
                    pass

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
        assert write.record.holder == OURS
        assert grant.claim.made(write.record)
        assert after is not None
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

    def _open_watch(self, effect: election.OpenWatch) -> None:
        self.server.twist = self.script.popleft() if self.script else _HONEST
        self.watched.clear()
        failure: election.Failure | None = None
        try:
            for first, snapshot in enumerate(self.lock.watch(effect.since)):
                self.watched.append(
                    election.WatchSaw(snapshot) if first else election.WatchOpened()
                )
        except LockError as error:
            failure = elector._failure(error)
        self.watched.append(election.WatchEnded(failure))


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(
    KINDS,
    st.sampled_from(["leads", "leads", "resumes", "stands by", "begins"]),
    st.sampled_from(["random", "slot", "verbatim"]),
    st.lists(_TWISTS, min_size=1, max_size=6),
)
def _campaign(seen: Counter[str], kind: str, role: str, named: str, script: list[Twist]) -> None:
    body = object_of(kind, THEIRS) if role == "stands by" else None
    server = Server(kind, body)
    lock = LOCKS[kind](Api(server.respond), "ns", "x")
    traits = (
        LockTraits() if kind == "Lease" else LockTraits(SECOND_US, peers_judge_by_own_duration=True)
    )

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

    campaign = Campaign(candidate(START), lock, server, deque(), seen)
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
    campaign.script.extend(script)
    for _ in range(24):
        if campaign.core.state is State.RETIRED:
            break
        campaign.turn()
    seen[f"{role} to {campaign.core.state.value}"] += 1


def test_whatever_a_server_answers_no_grant_is_worth_more_than_its_write() -> None:
    """The core stands any answer, and every grant is a write of its own that counted, no longer.

    A leader renews over its own claim alone: what is not ours any more is lost.
    """
    seen: Counter[str] = Counter()
    _campaign(seen)
    for what in ("granted", "renewals", "failed", "lost", "released"):
        assert seen[what] > EXAMPLES // 20, f"hardly any {what}: {seen}"
    assert seen["leads to standby"] > EXAMPLES // 100, f"hardly anybody lost what it held: {seen}"
