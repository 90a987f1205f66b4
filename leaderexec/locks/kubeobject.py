"""What every lock on a Kubernetes object does alike, whatever the kind of the object.

Owns the requests, the meaning of refusals, the watch, and the annotation that names the successor.
It must not know where in the object the record stands: a subclass for each kind translates.

A write sends the object as it was read with only what the election owns replaced, so that labels,
annotations and fields of other writers survive. It carries metadata.uid and
metadata.resourceVersion, so that the server refuses it when the object has changed or been replaced
meanwhile; without the uid some kinds would be created anew by a PUT after a deletion.
"""

from __future__ import annotations

import random
import re
import reprlib
import threading
from abc import abstractmethod
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn, cast
from urllib.parse import quote

from leaderexec.locks.base import Absent, Conflict, Forbidden, Lock, Unavailable, successor_after
from leaderexec.model import Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leaderexec.locks.kubeapi import Answer, Api, Stream
    from leaderexec.model import Record

#: Who is next in line, on any kind of object. Other software in the election ignores it.
SUCCESSOR: Final = "leaderexec/successor"

_GONE: Final = 410
#: A version orders leaderships as etcd's revisions do: a number of 63 bits.
_VERSION: Final = re.compile(r"[0-9]{1,19}")
_TOO_GREAT: Final = 2**63
#: Watches are ended by the server after this long, at different times for different standbys.
_WATCH_S: Final = (240, 480)
_CONNECT_S: Final = 5.0
#: A watch without an event for so long is opened anew, in case its connection is dead. While there
#: is a leader, its renewals are events.
_IDLE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object, by its names: to the API, to RBAC, to people.

    `api_group` is empty for the core group; the version is v1 for all.
    """

    api_group: str
    name: str
    plural: str
    noun: str

    @property
    def api_version(self) -> str:
        """What stands in an object beside its kind."""
        return f"{self.api_group}/v1" if self.api_group else "v1"

    def path(self, namespace: str) -> str:
        """Return the path of all objects of this kind in `namespace`."""
        root = "apis" if self.api_group else "api"
        return f"/{root}/{self.api_version}/namespaces/{quote(namespace)}/{self.plural}"


class KubernetesLock(Lock):
    """The object `name` in `namespace`, of the kind that the subclass names."""

    kind: ClassVar[Kind]

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        self.description = f"{self.kind.noun} {namespace}/{name}"
        self.namespace = namespace
        self._api = api
        self._name = name
        self._path = self.kind.path(namespace)
        self._watch_lock = threading.Lock()
        self._stream: Stream | None = None
        self._interrupted = False

    @abstractmethod
    def _read_record(self, body: dict[str, Any]) -> Record:
        """Find the record in an object; raise ValueError saying what is wrong with it."""

    @abstractmethod
    def _with_record(self, body: dict[str, Any], record: Record) -> dict[str, Any]:
        """Return the object with `record` in it; raise ValueError when that cannot be."""

    def read(self, timeout_s: float) -> Snapshot | None:
        """Return the newest version: a read without resourceVersion is a quorum read."""
        verb = f"read {self.description}"
        answer = self._api.call("GET", self._one(), verb=verb, timeout_s=timeout_s)
        if answer.status == HTTPStatus.NOT_FOUND and not answer.about_namespace:
            return None
        if answer.status != HTTPStatus.OK:
            self._refuse(answer, verb, "get")
        return self._snapshot(answer.body, verb)

    def create(self, record: Record, timeout_s: float) -> Snapshot:
        """Create the object; raise Conflict when there is one."""
        verb = f"create {self.description}"
        body = {
            "apiVersion": self.kind.api_version,
            "kind": self.kind.name,
            "metadata": {"name": self._name, "namespace": self.namespace},
        }
        body = self._written(body, record, verb)
        answer = self._api.call("POST", self._path, verb=verb, body=body, timeout_s=timeout_s)
        if answer.status not in {HTTPStatus.OK, HTTPStatus.CREATED}:
            self._refuse(answer, verb, "create")
        return self._snapshot(answer.body, verb)

    def update(self, record: Record, seen: Snapshot, timeout_s: float) -> Snapshot:
        """Replace `seen`; the server compares uid and resourceVersion."""
        verb = f"update {self.description}"
        body = self._written(_object_of(seen), record, verb)
        body = with_annotation(body, SUCCESSOR, successor_after(record, seen))
        return self._put(body, seen, verb, timeout_s)

    def name_successor(self, successor: str, seen: Snapshot, timeout_s: float) -> Snapshot:
        """Write `seen` again with only the annotation changed; the server compares the same."""
        verb = f"name a successor in {self.description}"
        body = with_annotation(_object_of(seen), SUCCESSOR, successor)
        return self._put(body, seen, verb, timeout_s)

    def _put(self, body: dict[str, Any], seen: Snapshot, verb: str, timeout_s: float) -> Snapshot:
        metadata = {key: value for key, value in body["metadata"].items() if key != "managedFields"}
        body = {
            **body,
            "apiVersion": self.kind.api_version,
            "kind": self.kind.name,
            "metadata": {
                **metadata,
                "name": self._name,
                "namespace": self.namespace,
                "uid": seen.uid,
                "resourceVersion": seen.version,
            },
        }
        answer = self._api.call("PUT", self._one(), verb=verb, body=body, timeout_s=timeout_s)
        if answer.status == HTTPStatus.NOT_FOUND and not answer.about_namespace:
            raise Absent(f"cannot {verb}: it was deleted")
        if answer.status not in {HTTPStatus.OK, HTTPStatus.CREATED}:
            self._refuse(answer, verb, "update")
        return self._snapshot(answer.body, verb)

    def watch(self, since: Snapshot | None) -> Iterator[Snapshot | None]:
        """Watch this one object, which RBAC allows by resourceNames.

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
                    snapshot = self._snapshot(body, verb)
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

    def _written(self, body: dict[str, Any], record: Record, verb: str) -> dict[str, Any]:
        try:
            return self._with_record(body, record)
        except ValueError as error:
            raise Unavailable(f"cannot {verb}: {error}") from error

    def _snapshot(self, body: dict[str, Any], verb: str) -> Snapshot:
        """Read an object; whatever a server sends, it is of our kind as we know it or no answer."""
        metadata = body.get("metadata")
        if body.get("kind") != self.kind.name or not isinstance(metadata, dict):
            raise Unavailable(f"cannot {verb}: the answer is not of kind {self.kind.name}")
        uid, version = metadata.get("uid"), metadata.get("resourceVersion")
        if not isinstance(uid, str) or not isinstance(version, str) or not _orders(version):
            raise Unavailable(f"cannot {verb}: the answer has no uid or resourceVersion")
        try:
            record = self._read_record(body)
            successor = annotation(body, SUCCESSOR) or ""
        except ValueError as error:
            raise Unavailable(f"cannot {verb}: {error}") from error
        return Snapshot(record, uid, version, successor, body)

    def _refuse(self, answer: Answer, verb: str, permission: str) -> NoReturn:
        """Raise what an answer that is not a success means."""
        status = answer.status
        if status == HTTPStatus.CONFLICT:
            raise Conflict(f"cannot {verb}: {answer.message or 'it has changed'}")
        if status == HTTPStatus.FORBIDDEN:
            names = "" if permission == "create" else f", resourceNames [{self._name}]"
            raise Forbidden(
                f"cannot {verb}: forbidden; the role needs verb {permission!r} on resource "
                f"{self.kind.plural!r} of apiGroup {self.kind.api_group!r} in namespace "
                f"{self.namespace}{names} (server: {answer.message})"
            )
        if status == HTTPStatus.NOT_FOUND and answer.about_namespace:
            raise Unavailable(f"cannot {verb}: namespace {self.namespace} does not exist")
        raise Unavailable(
            f"cannot {verb}: status {status}: {answer.message[:300]}",
            retry_after_s=answer.retry_after_s,
        )


def _orders(version: str) -> bool:
    """Whether a version can order leaderships."""
    return _VERSION.fullmatch(version) is not None and int(version) < _TOO_GREAT


def annotation(body: dict[str, Any], key: str) -> str | None:
    """Return one annotation of an object, None when it has none of that name."""
    annotations = body["metadata"].get("annotations")
    if annotations is None:
        return None
    if not isinstance(annotations, dict):
        raise ValueError(f"annotations are not an object: {reprlib.repr(annotations)}")
    value = annotations.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"annotation {key} is not a string: {reprlib.repr(value)}")
    return value


def with_annotation(body: dict[str, Any], key: str, value: str) -> dict[str, Any]:
    """Return an object with one annotation changed, or without it when `value` is empty."""
    metadata = body["metadata"]
    annotations = {k: v for k, v in (metadata.get("annotations") or {}).items() if k != key}
    if value:
        annotations[key] = value
    return {**body, "metadata": {**metadata, "annotations": annotations}}


def _object_of(seen: Snapshot) -> dict[str, Any]:
    """Return the whole object; a snapshot only ever comes back to the lock that it is from."""
    return cast("dict[str, Any]", seen.origin)
