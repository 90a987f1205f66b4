"""The record as an annotation: byte for byte what Go wrote, and whatever others may have written.

Owns: the translation in both directions, and what a write sends. What a server makes of it is asked
in the kube lane.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest

from leaderexec.locks.annotation import ConfigMapLock, EndpointsLock
from leaderexec.locks.base import Unavailable
from leaderexec.locks.kubeapi import Answer
from leaderexec.locks.lease import LeaseLock
from leaderexec.model import Record, Snapshot
from tests.support import golden

if TYPE_CHECKING:
    from leaderexec.locks.kubeobject import KubernetesLock

LEADER = "control-plane.alpha.kubernetes.io/leader"
SUCCESSOR = "leaderexec/successor"

RECORD = Record("x", 10, 1_531_388_099_000_000, 1_531_388_101_000_000, transitions=0)
#: The example of the format, as the elector of 2016 wrote it.
GOLDEN = (
    '{"holderIdentity":"x","leaseDurationSeconds":10,"acquireTime":"2018-07-12T09:34:59Z",'
    '"renewTime":"2018-07-12T09:35:01Z","leaderTransitions":0}'
)

CLASSES = {"Endpoints": EndpointsLock, "ConfigMap": ConfigMapLock, "Lease": LeaseLock}
each_kind = pytest.mark.parametrize("kind", CLASSES)


class Server:
    """An API server that holds one object and takes whatever it is sent."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = copy.deepcopy(body)
        self.requests: list[tuple[str, str]] = []
        self.sent: dict[str, Any] = {}

    def call(self, method: str, path: str, *, body: Any = None, **_: object) -> Answer:
        """Answer with what is stored after the request, as the JSON that it is on the wire."""
        self.requests.append((method, path))
        if body is not None:
            self.sent = json.loads(json.dumps(body))
            stored = copy.deepcopy(self.sent)
            version = int(self.body["metadata"]["resourceVersion"]) + 1
            stored["metadata"].setdefault("uid", "u-2")
            stored["metadata"]["resourceVersion"] = str(version)
            self.body = stored
        return Answer(HTTPStatus.OK, copy.deepcopy(self.body), None)

    def lock(self) -> KubernetesLock:
        """Return a client of the kind of lock that the object is."""
        api: Any = self
        return CLASSES[self.body["kind"]](api, "ns", "x")

    def read(self) -> Snapshot:
        """Return what a client reads."""
        seen = self.lock().read(1)
        assert seen is not None
        return seen

    @property
    def annotation(self) -> str:
        """The record as it is stored."""
        text: str = self.body["metadata"]["annotations"][LEADER]
        return text


def endpoints(text: str | None = None, **annotations: str) -> dict[str, Any]:
    """Return an Endpoints object with `text` for its record, and with other annotations."""
    if text is not None:
        annotations[LEADER] = text
    metadata = {"name": "x", "namespace": "ns", "uid": "u-1", "resourceVersion": "7"}
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {**metadata, "annotations": annotations} if annotations else metadata,
    }


def test_each_lock_is_called_what_it_is() -> None:
    """A person reads the kind and the name; the API is asked for the plural in its group."""
    leases = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/x"
    for kind, description, path in (
        ("Endpoints", "endpoints ns/x", "/api/v1/namespaces/ns/endpoints/x"),
        ("ConfigMap", "configmap ns/x", "/api/v1/namespaces/ns/configmaps/x"),
        ("Lease", "lease ns/x", leases),
    ):
        server = Server({**endpoints(), "kind": kind})
        assert server.lock().description == description
        server.read()
        assert server.requests == [("GET", path)]


# --- written ---


def test_a_created_object_is_the_golden_annotation() -> None:
    """What is created is the original's text, and no subsets."""
    server = Server(endpoints())
    created = server.lock().create(RECORD, 1)
    assert server.requests == [("POST", "/api/v1/namespaces/ns/endpoints")]
    assert server.annotation == GOLDEN
    assert set(server.body) == {"apiVersion", "kind", "metadata"}
    assert created.record == RECORD


# --- exactly what is read and written ---


def test_golden_annotations() -> None:
    """What is no record is told on one line and frees nothing; null and absent mean the same.

    What is written is as Go writes it: compact, in order, in whole seconds, escaped where
    encoding/json escapes; what newer writers added is kept behind. What cannot be is not sent.
    """

    def answer(place: str, given: str) -> str:
        body, changes = endpoints(GOLDEN), {}
        if place == "all annotations":
            body["metadata"]["annotations"] = json.loads(given)
        elif place == "written with these changes":
            changes = json.loads(given)
        else:
            (text,) = golden.words(given)
            body = endpoints(text)
        server = Server(body)
        try:
            seen = server.read()
            if place.startswith("written"):
                server.lock().update(replace(RECORD, **changes), seen, 1)
                return server.annotation
        except Unavailable as error:
            assert [method for method, _ in server.requests] == ["GET"]
            return str(error)
        assert seen.successor == ""
        return repr(seen.record)

    golden.check("annotation-lock", answer)


# --- what a write sends ---


def full_object(kind: str) -> dict[str, Any]:
    """Return an object of a kind with something in every place."""
    body = endpoints(GOLDEN, note="kept")
    body["metadata"] |= {
        "labels": {"app": "mine"},
        "finalizers": ["example.com/kept"],
        "managedFields": [{"manager": "other"}],
        "future": {"unknown": True},
    }
    body |= {"kind": kind, "subsets": [{"addresses": [{"ip": "10.1.2.3"}]}], "data": {"k": "v"}}
    if kind == "Lease":
        body["apiVersion"] = "coordination.k8s.io/v1"
        body["spec"] = {
            "holderIdentity": "x",
            "leaseDurationSeconds": 10,
            "renewTime": "2018-07-12T09:35:01.5Z",
            "future": [1],
        }
    return body


@each_kind
def test_a_write_sends_the_object_as_it_was_seen(kind: str) -> None:
    """Only the annotation of the successor differs, or the record, whatever else is in it."""
    expected = full_object(kind)
    server = Server(expected)
    named = server.lock().name_successor("b", server.read(), 1)
    del expected["metadata"]["managedFields"]
    annotations = expected["metadata"]["annotations"]
    annotations[SUCCESSOR] = "b"
    expected["metadata"]["resourceVersion"] = "8"
    assert server.body == expected
    assert named.successor == "b"
    unnamed = server.lock().name_successor("", named, 1)
    del annotations[SUCCESSOR]
    expected["metadata"]["resourceVersion"] = "9"
    assert server.body == expected
    server.lock().update(replace(RECORD, transitions=5), unnamed, 1)
    expected["metadata"]["resourceVersion"] = "10"
    if kind == "Lease":
        sent, before = server.body.pop("spec"), expected.pop("spec")
        assert (sent["leaseTransitions"], sent["future"]) == (5, before["future"])
    else:
        annotations[LEADER] = GOLDEN.replace('Transitions":0', 'Transitions":5')
    assert server.body == expected


@each_kind
def test_a_write_carries_what_the_server_compares(kind: str) -> None:
    """Both kinds of write say which version of which object they replace."""
    server = Server(full_object(kind))
    stale = replace(server.read(), uid="u-0", version="3")
    compared = {"name": "x", "namespace": "ns", "uid": "u-0", "resourceVersion": "3"}
    server.lock().update(RECORD, stale, 1)
    assert server.requests[-1][0] == "PUT"
    assert compared.items() <= server.sent["metadata"].items()
    server.lock().name_successor("b", stale, 1)
    assert server.requests[-1][0] == "PUT"
    assert compared.items() <= server.sent["metadata"].items()
