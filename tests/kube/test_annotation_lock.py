"""What an annotation lock leaves on a real API server, and what it makes of what others left there.

Owns: the objects as others see them. The contract of a lock stands in `test_object_contract`.
"""

from __future__ import annotations

import contextlib
import gc
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from leaderexec.locks import kubeapi
from leaderexec.locks.annotation import AnnotationLock, ConfigMapLock, EndpointsLock
from leaderexec.locks.base import Forbidden, Unavailable
from leaderexec.model import Record
from tests.kube.test_object_contract import without_bookkeeping
from tests.support.lock_contract import FIRST, renewed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from leaderexec.locks.base import Lock
    from tests.support.controlplane import ControlPlane

LEADER = "control-plane.alpha.kubernetes.io/leader"
TIMEOUT_S = 20.0

#: What the elector of 2016 would have written for FIRST.
GOLDEN = (
    '{"holderIdentity":"a","leaseDurationSeconds":15,"acquireTime":"2027-01-15T08:00:00Z",'
    '"renewTime":"2027-01-15T08:00:00Z","leaderTransitions":0}'
)


@dataclass(frozen=True)
class Case:
    """One kind of object, and content of its own that is no concern of a lock's."""

    lock_class: type[AnnotationLock]
    resource: str
    content: dict[str, Any]


CASES = {
    "Endpoints": Case(
        EndpointsLock,
        "endpoints",
        {
            "subsets": [
                {
                    "addresses": [{"ip": "10.1.2.3", "hostname": "one", "nodeName": "n"}],
                    "notReadyAddresses": [{"ip": "10.1.2.4"}],
                    "ports": [{"name": "web", "port": 80, "protocol": "TCP"}],
                }
            ]
        },
    ),
    "ConfigMap": Case(
        ConfigMapLock,
        "configmaps",
        {"data": {"key": "välue\n"}, "binaryData": {"blob": "AAEC/w=="}},
    ),
    "immutable ConfigMap": Case(
        ConfigMapLock, "configmaps", {"data": {"key": "value"}, "immutable": True}
    ),
}
each_kind = pytest.mark.parametrize(
    "case", [CASES["Endpoints"], CASES["ConfigMap"]], ids=["Endpoints", "ConfigMap"]
)


class Objects:
    """The objects of one kind in the test's namespace, as the administrator sees them."""

    def __init__(self, plane: ControlPlane, namespace: str, case: Case) -> None:
        self.plane = plane
        self.case = case
        self.path = f"/api/v1/namespaces/{namespace}/{case.resource}"

    def make(self, content: dict[str, Any], **metadata: Any) -> dict[str, Any]:
        """Create the object `x`."""
        body = {"metadata": {"name": "x", **metadata}, **content}
        status, made = self.plane.request("POST", self.path, body)
        assert status == 201, made
        return made

    def get(self) -> dict[str, Any]:
        """Return the object `x`."""
        status, body = self.plane.request("GET", f"{self.path}/x")
        assert status == 200, body
        return body


@pytest.fixture
def objects(control_plane: ControlPlane, namespace: str, case: Case) -> Objects:
    return Objects(control_plane, namespace, case)


@contextlib.contextmanager
def lock_of(case: Case, namespace: str, kubeconfig: Path) -> Iterator[AnnotationLock]:
    """Give a client of the object `x`."""
    credentials = kubeapi.Credentials(in_cluster=False, kubeconfig=str(kubeconfig))
    with contextlib.closing(case.lock_class(kubeapi.Api(credentials), namespace, "x")) as lock:
        yield lock


@pytest.fixture
def lock(control_plane: ControlPlane, namespace: str, case: Case) -> Iterator[AnnotationLock]:
    """A client with an administrator's rights."""
    with lock_of(case, namespace, control_plane.admin_kubeconfig) as lock:
        yield lock


@each_kind
def test_what_is_created_is_the_annotation_and_nothing_else(lock: Lock, objects: Objects) -> None:
    """A new object carries the record as the original wrote it, and no content."""
    lock.create(FIRST, TIMEOUT_S)
    body = objects.get()
    assert body["metadata"]["annotations"] == {LEADER: GOLDEN}
    assert set(body) == {"apiVersion", "kind", "metadata"}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_others_wrote_survives(lock: Lock, objects: Objects) -> None:
    """Content, labels, annotations and owners outlive every write of a lock."""
    marks = {
        "labels": {"app": "mine"},
        "annotations": {"note": 'kept "as" it <is>'},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "o", "uid": "u-1"}],
        "finalizers": ["example.com/kept"],
    }
    before = without_bookkeeping(objects.make(objects.case.content, **marks))
    seen = lock.read(TIMEOUT_S)
    assert seen is not None
    acquired = lock.update(replace(FIRST, transitions=1), seen, TIMEOUT_S)
    named = lock.name_successor("b", acquired, TIMEOUT_S)
    renewal = replace(renewed(FIRST), transitions=1)
    lock.update(renewal, named, TIMEOUT_S)
    after = without_bookkeeping(objects.get())
    annotations = after["metadata"]["annotations"]
    assert json.loads(annotations.pop(LEADER))["leaderTransitions"] == 1
    assert annotations.pop("leaderexec/successor") == "b"
    assert after == before


@each_kind
def test_a_record_of_the_original_is_read_and_rewritten(lock: Lock, objects: Objects) -> None:
    """Who leads by the annotation is known; fields that we do not know stay behind ours."""
    theirs = (
        '{"holderIdentity":"pod-1","leaseDurationSeconds":10,"acquireTime":"2018-07-12T09:34:59Z",'
        '"renewTime":"2018-07-12T09:35:01Z","leaderTransitions":3,"strategy":"Oldest"}'
    )
    objects.make({}, annotations={LEADER: theirs})
    seen = lock.read(TIMEOUT_S)
    assert seen is not None
    assert seen.record == Record(
        "pod-1", 10, 1_531_388_099_000_000, 1_531_388_101_000_000, transitions=3
    )
    lock.update(seen.record, seen, TIMEOUT_S)
    assert objects.get()["metadata"]["annotations"][LEADER] == theirs
    lock.update(FIRST, seen, TIMEOUT_S)
    assert objects.get()["metadata"]["annotations"][LEADER] == GOLDEN.replace(
        "}", ',"strategy":"Oldest"}'
    )


@each_kind
def test_a_write_within_the_same_second_is_none(lock: Lock) -> None:
    """A record that differs by a fraction of a second is answered with the version there was."""
    created = lock.create(FIRST, TIMEOUT_S)
    assert FIRST.renew_time_us is not None
    later = replace(FIRST, renew_time_us=FIRST.renew_time_us + 500_000)
    assert lock.update(later, created, TIMEOUT_S) == created


@each_kind
def test_a_watch_of_an_annotation_that_is_no_record_breaks(lock: Lock, objects: Objects) -> None:
    """A watch tells of it as well, after it has said that it stands."""
    objects.make({}, annotations={LEADER: "[]"})
    watch = lock.watch(None)
    assert next(watch) is None
    with pytest.raises(Unavailable, match="is not a JSON object"):
        next(watch)


@each_kind
def test_a_missing_right_is_named(
    lock: Lock, control_plane: ControlPlane, namespace: str, case: Case
) -> None:
    """Without a role every verb is refused with the rule that it needs."""
    created = lock.create(FIRST, TIMEOUT_S)
    control_plane.service_account(namespace, "nobody")
    kubeconfig = control_plane.kubeconfig_for(control_plane.token(namespace, "nobody"))
    with lock_of(case, namespace, kubeconfig) as powerless:
        calls: list[tuple[str, Callable[[], object]]] = [
            ("get", lambda: powerless.read(TIMEOUT_S)),
            ("create", lambda: powerless.create(FIRST, TIMEOUT_S)),
            ("update", lambda: powerless.update(FIRST, created, TIMEOUT_S)),
            ("update", lambda: powerless.name_successor("b", created, TIMEOUT_S)),
            ("watch", lambda: next(powerless.watch(None))),
        ]
        for verb, call in calls:
            with pytest.raises(Forbidden) as caught:
                call()
            assert (
                f"the role needs verb '{verb}' on resource '{case.resource}' of apiGroup '' in "
                f"namespace {namespace}" in str(caught.value)
            )
            assert ("resourceNames [x]" in str(caught.value)) is (verb != "create")
            del caught
        gc.collect()  # a watch that was refused leaves its connection to the collector


@each_kind
def test_a_missing_namespace_is_named(control_plane: ControlPlane, case: Case) -> None:
    """In a namespace that does not exist nothing is created, and the message says why."""
    with lock_of(case, "not-there", control_plane.admin_kubeconfig) as lock:
        assert lock.read(TIMEOUT_S) is None
        with pytest.raises(Unavailable, match="namespace not-there does not exist"):
            lock.create(FIRST, TIMEOUT_S)
