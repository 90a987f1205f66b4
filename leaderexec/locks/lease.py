"""The default lock: a Lease of coordination.k8s.io/v1.

Owns the translation between the record and the object. A write replaces the five fields of the
election in the object as it was read, so that labels, annotations and fields of other writers
survive; it carries metadata.uid and metadata.resourceVersion, so that the server refuses it when
the object has changed or been replaced meanwhile. Format: client-go,
tools/leaderelection/resourcelock/leaselock.go.
"""

from __future__ import annotations

import random
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar
from urllib.parse import quote

from leaderexec.locks import timestamps
from leaderexec.locks.base import Absent, Conflict, Forbidden, Lock, Unavailable
from leaderexec.model import Record, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leaderexec.locks.kubeapi import Answer, Api, Stream

_T = TypeVar("_T")

_GONE: Final = 410
#: Watches are ended by the server after this long, at different times for different standbys.
_WATCH_S: Final = (240, 480)
_CONNECT_S: Final = 5.0
#: A watch without an event for so long is opened anew, in case its connection is dead. While there
#: is a leader, its renewals are events.
_IDLE_S: Final = 30.0


class LeaseLock(Lock):
    """The Lease `name` in `namespace`."""

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        self.description = f"lease {namespace}/{name}"
        self.namespace = namespace
        self._api = api
        self._name = name
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{quote(namespace)}/leases"
        self._watch_lock = threading.Lock()
        self._stream: Stream | None = None
        self._interrupted = False

    def read(self, timeout_s: float) -> Snapshot | None:
        """Return the newest version: a read without resourceVersion is a quorum read."""
        verb = f"read {self.description}"
        answer = self._api.call("GET", self._one(), verb=verb, timeout_s=timeout_s)
        if answer.status == HTTPStatus.NOT_FOUND and not answer.about_namespace:
            return None
        if answer.status != HTTPStatus.OK:
            self._refuse(answer, verb, "get")
        return _snapshot(answer.body, verb)

    def create(self, record: Record, timeout_s: float) -> Snapshot:
        """Create the Lease; raise Conflict when there is one."""
        verb = f"create {self.description}"
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name, "namespace": self.namespace},
            "spec": _spec({}, record),
        }
        answer = self._api.call("POST", self._path, verb=verb, body=body, timeout_s=timeout_s)
        if answer.status not in {HTTPStatus.OK, HTTPStatus.CREATED}:
            self._refuse(answer, verb, "create")
        return _snapshot(answer.body, verb)

    def update(self, record: Record, seen: Snapshot, timeout_s: float) -> Snapshot:
        """Replace `seen`; the server compares uid and resourceVersion."""
        verb = f"update {self.description}"
        origin = seen.origin if isinstance(seen.origin, dict) else {}
        metadata = {k: v for k, v in origin.get("metadata", {}).items() if k != "managedFields"}
        body = {
            **origin,
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                **metadata,
                "name": self._name,
                "namespace": self.namespace,
                "uid": seen.uid,
                "resourceVersion": seen.version,
            },
            "spec": _spec(origin.get("spec") or {}, record),
        }
        answer = self._api.call("PUT", self._one(), verb=verb, body=body, timeout_s=timeout_s)
        if answer.status == HTTPStatus.NOT_FOUND and not answer.about_namespace:
            raise Absent(f"cannot {verb}: it was deleted")
        if answer.status not in {HTTPStatus.OK, HTTPStatus.CREATED}:
            self._refuse(answer, verb, "update")
        return _snapshot(answer.body, verb)

    def watch(self, since: Snapshot | None) -> Iterator[Snapshot | None]:
        """Watch this one Lease, which RBAC allows by resourceNames.

        It starts from the server's cache with the present version ("resourceVersion=0"), so that
        nothing between our last read and now is missed and no version is too old to start from.
        """
        verb = f"watch {self.description}"
        for_s = random.randint(*_WATCH_S)  # noqa: S311 - spreads load, guards nothing
        stream = self._api.watch(
            self._path,
            {
                "watch": "true",
                "fieldSelector": f"metadata.name={self._name}",
                "resourceVersion": "0",
                "timeoutSeconds": str(for_s),
            },
            verb=verb,
            connect_s=_CONNECT_S,
            idle_s=_IDLE_S,
        )
        with self._watch_lock:
            self._stream = stream
            interrupted = self._interrupted
        try:
            if interrupted:
                return
            if stream.status != HTTPStatus.OK:
                self._refuse(stream.answer(), verb, "watch")
            yield since
            for event in stream.events():
                kind, body = event.get("type"), event.get("object")
                if not isinstance(body, dict):
                    raise Unavailable(f"cannot {verb}: an event without an object")
                if kind == "ERROR":
                    if body.get("code") == _GONE:
                        return
                    raise Unavailable(f"cannot {verb}: {body.get('message')}")
                if kind in {"ADDED", "MODIFIED"}:
                    snapshot = _snapshot(body, verb)
                    # The first event is the present version, which may be the one we know.
                    if snapshot != since:
                        yield snapshot
                elif kind == "DELETED":
                    yield None
        except Unavailable:
            with self._watch_lock:
                if self._interrupted:
                    return
            raise
        finally:
            with self._watch_lock:
                self._stream = None
                self._interrupted = False
            stream.close()

    def interrupt_watch(self) -> None:
        """End a running watch by shutting its connection down, else the next one at once."""
        with self._watch_lock:
            self._interrupted = True
            if self._stream is not None:
                self._stream.interrupt()

    def close(self) -> None:
        """Close idle connections."""
        self.interrupt_watch()
        self._api.close()

    def _one(self) -> str:
        return f"{self._path}/{quote(self._name)}"

    def _refuse(self, answer: Answer, verb: str, permission: str) -> NoReturn:
        """Raise what an answer that is not a success means."""
        status = answer.status
        if status == HTTPStatus.CONFLICT:
            raise Conflict(f"cannot {verb}: {answer.message or 'it has changed'}")
        if status == HTTPStatus.FORBIDDEN:
            names = "" if permission == "create" else f", resourceNames [{self._name}]"
            raise Forbidden(
                f"cannot {verb}: forbidden; the role needs verb {permission!r} on resource "
                f"'leases' of apiGroup 'coordination.k8s.io' in namespace {self.namespace}{names} "
                f"(server: {answer.message})"
            )
        if status == HTTPStatus.NOT_FOUND and answer.about_namespace:
            raise Unavailable(f"cannot {verb}: namespace {self.namespace} does not exist")
        raise Unavailable(
            f"cannot {verb}: status {status}: {answer.message[:300]}",
            retry_after_s=answer.retry_after_s,
        )


def _spec(spec: dict[str, Any], record: Record) -> dict[str, Any]:
    return {
        **spec,
        "holderIdentity": record.holder,
        "leaseDurationSeconds": record.lease_duration_s,
        "acquireTime": _time(record.acquire_time_us),
        "renewTime": _time(record.renew_time_us),
        "leaseTransitions": record.transitions,
    }


def _time(time_us: int | None) -> str | None:
    return None if time_us is None else timestamps.format_us(time_us)


def _snapshot(body: dict[str, Any], verb: str) -> Snapshot:
    """Read an object; a Lease that nobody ever held has no spec."""
    metadata = body.get("metadata")
    spec = body.get("spec") or {}
    if body.get("kind") != "Lease" or not isinstance(metadata, dict) or not isinstance(spec, dict):
        raise Unavailable(f"cannot {verb}: the answer is no Lease")
    uid, version = metadata.get("uid"), metadata.get("resourceVersion")
    if not isinstance(uid, str) or not isinstance(version, str) or not version.isdigit():
        raise Unavailable(f"cannot {verb}: the answer has no uid or resourceVersion")
    try:
        record = Record(
            holder=_typed(spec, "holderIdentity", str, ""),
            lease_duration_s=_typed(spec, "leaseDurationSeconds", int, 0),
            acquire_time_us=_parsed(spec, "acquireTime"),
            renew_time_us=_parsed(spec, "renewTime"),
            transitions=_typed(spec, "leaseTransitions", int, 0),
        )
    except ValueError as error:
        raise Unavailable(f"cannot {verb}: {error}") from error
    return Snapshot(record, uid, version, body)


def _typed(spec: dict[str, Any], key: str, kind: type[_T], default: _T) -> _T:
    value = spec.get(key)
    if value is None:
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{key} is {value!r}")
    return value


def _parsed(spec: dict[str, Any], key: str) -> int | None:
    text = _typed(spec, key, str, "")
    return timestamps.parse_us(text) if text else None
