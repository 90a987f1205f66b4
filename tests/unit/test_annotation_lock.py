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
from hypothesis import given, settings
from hypothesis import strategies as st

from leaderexec.locks.annotation import ConfigMapLock, EndpointsLock
from leaderexec.locks.base import Unavailable
from leaderexec.locks.kubeapi import Answer
from leaderexec.locks.lease import LeaseLock
from leaderexec.locks.timestamps import MAX_US, MIN_US
from leaderexec.model import SECOND_US, Record, Snapshot
from tests.support import golden
from tests.support.lock_contract import json_values

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

times_us = st.none() | st.integers(MIN_US, MAX_US)
int32s = st.integers(0, 2**31 - 1)
records = st.builds(Record, st.text(), int32s, times_us, times_us, int32s)


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
    for body, description, path in (
        ({"kind": "Endpoints"}, "endpoints ns/x", "/api/v1/namespaces/ns/endpoints/x"),
        ({"kind": "ConfigMap"}, "configmap ns/x", "/api/v1/namespaces/ns/configmaps/x"),
        (
            {"kind": "Lease"},
            "lease ns/x",
            "/apis/coordination.k8s.io/v1/namespaces/ns/leases/x",
        ),
    ):
        server = Server({**endpoints(), **body})
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


#: What of the golden record is replaced, and what of its text.
TEXTS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "fractions": (
        {"acquire_time_us": 1_531_388_099_999_999, "renew_time_us": -1},
        {"2018-07-12T09:35:01Z": "1969-12-31T23:59:59Z"},
    ),
    "given back": (
        {"holder": "", "lease_duration_s": 1, "transitions": 12},
        {'"x"': '""', 'Seconds":10': 'Seconds":1', 'Transitions":0': 'Transitions":12'},
    ),
    "no times": (
        {"acquire_time_us": None, "renew_time_us": None},
        {'"2018-07-12T09:34:59Z"': "null", '"2018-07-12T09:35:01Z"': "null"},
    ),
    "escaped for HTML": ({"holder": "<a&b>"}, {'"x"': r'"\u003ca\u0026b\u003e"'}),
    "control characters": (
        {"holder": '"\\\n\r\t\x01\x1f\x7f/'},
        {'"x"': r'"\"\\\n\r\t\u0001\u001f' + '\x7f/"'},
    ),
    "beyond ASCII": ({"holder": "ö☃𝄞\u2028\u2029"}, {'"x"': '"ö☃𝄞' + r'\u2028\u2029"'}),
}


@pytest.mark.parametrize(("changes", "texts"), TEXTS.values(), ids=TEXTS)
def test_the_text_is_as_go_writes_it(changes: dict[str, Any], texts: dict[str, str]) -> None:
    """Compact, in order, whole seconds, and escaped where encoding/json escapes."""
    server, expected = Server(endpoints(GOLDEN)), GOLDEN
    server.lock().update(replace(RECORD, **changes), server.read(), 1)
    for before, after in texts.items():
        expected = expected.replace(before, after)
    assert server.annotation == expected


def test_unknown_fields_follow_ours() -> None:
    """What newer writers added is kept behind our fields, escaped alike."""
    server = Server(
        endpoints(
            '{ "strategy": "<Oldest>", "leaderTransitions": 1, "preferredHolder": null,'
            ' "holderIdentity": "z", "more": [1.5, {"a": "b c"}] }'
        )
    )
    server.lock().update(RECORD, server.read(), 1)
    assert server.annotation == GOLDEN.replace(
        "}",
        r',"strategy":"\u003cOldest\u003e","preferredHolder":null,"more":[1.5,{"a":"b c"}]}',
    )


@settings(max_examples=max(300, settings().max_examples // 3))
@given(records, st.dictionaries(st.text(), json_values, max_size=3))
def test_whatever_is_written_is_read(record: Record, others: dict[str, Any]) -> None:
    """Every record comes back with its times cut to seconds, every unknown field as it was."""
    unknown = {f"x{key}": value for key, value in others.items()}
    server = Server(endpoints(json.dumps(unknown)))
    written = server.lock().update(record, server.read(), 1)
    times_us = record.acquire_time_us, record.renew_time_us
    acquired_us, renewed_us = (us and us // SECOND_US * SECOND_US for us in times_us)
    kept = replace(record, acquire_time_us=acquired_us, renew_time_us=renewed_us)
    assert written.record == kept
    assert server.read() == written
    assert not set("<>&\u2028\u2029") & set(server.annotation)
    fields = json.loads(server.annotation)
    assert list(fields)[:5] == list(json.loads(GOLDEN))
    assert {key: fields[key] for key in unknown} == unknown


@pytest.mark.parametrize("time_us", [MIN_US - 1, MAX_US + 1])
def test_a_time_that_cannot_be_written_is_refused(time_us: int) -> None:
    """A year that the format does not have is told as a failed write, which sent nothing."""
    server = Server(endpoints(GOLDEN))
    seen = server.read()
    with pytest.raises(Unavailable, match=r"cannot update endpoints ns/x: .* not within the years"):
        server.lock().update(replace(RECORD, renew_time_us=time_us), seen, 1)
    assert [method for method, _ in server.requests] == ["GET"]


# --- read ---


def test_golden_annotations() -> None:
    """What is no record is told on one line and frees nothing; null and absent mean the same."""

    def answer(place: str, given: str) -> str:
        body = endpoints()
        if place == "the annotation":
            (text,) = golden.words(given)
            body = endpoints(text)
        else:
            body["metadata"]["annotations"] = json.loads(given)
        try:
            seen = Server(body).read()
        except Unavailable as error:
            return str(error)
        assert seen.successor == ""
        return repr(seen.record)

    golden.check("annotation-lock", answer)


@pytest.mark.parametrize("text", ["[" * 100_000, GOLDEN[:-1]])
def test_an_annotation_that_is_cut_or_deep_is_an_error(text: str) -> None:
    """Neither the end that is missing nor the depth makes it a free lock."""
    with pytest.raises(Unavailable, match=f"annotation {LEADER} is not JSON"):
        Server(endpoints(text)).read()


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
def test_naming_sends_the_object_as_it_was_seen(kind: str) -> None:
    """Only the annotation of the successor differs, also from what stood there in our format."""
    body = full_object(kind)
    server = Server(body)
    named = server.lock().name_successor("b", server.read(), 1)
    expected = copy.deepcopy(body)
    expected["metadata"]["annotations"][SUCCESSOR] = "b"
    expected["metadata"]["resourceVersion"] = "8"
    del expected["metadata"]["managedFields"]
    assert server.body == expected
    assert named.successor == "b"
    server.lock().name_successor("", named, 1)
    del expected["metadata"]["annotations"][SUCCESSOR]
    expected["metadata"]["resourceVersion"] = "9"
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


@each_kind
def test_an_update_replaces_the_record_only(kind: str) -> None:
    """Whatever else is in the object is sent back as it was read."""
    body = full_object(kind)
    server = Server(body)
    server.lock().update(RECORD, server.read(), 1)
    sent, before = copy.deepcopy(server.body), copy.deepcopy(body)
    for part in (sent, before):
        part["metadata"].pop("managedFields", None)
        del part["metadata"]["resourceVersion"]
    if kind == "Lease":
        assert sent.pop("spec")["future"] == before.pop("spec")["future"]
    else:
        assert sent["metadata"]["annotations"].pop(LEADER) == GOLDEN
        del before["metadata"]["annotations"][LEADER]
    assert sent == before
