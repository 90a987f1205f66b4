"""What an annotation lock leaves on a real API server, and what it makes of what others left there.

Owns: the objects as others see them. The contract of a lock stands in `test_object_contract`.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from leaderexec.locks import kubeapi
from leaderexec.locks.annotation import AnnotationLock, ConfigMapLock, EndpointsLock
from tests.kube.test_object_contract import without_bookkeeping
from tests.support.lock_contract import FIRST, NOW_US, renewed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.controlplane import ControlPlane

LEADER = "control-plane.alpha.kubernetes.io/leader"
TIMEOUT_S = 20.0

#: What the elector of 2016 would have written for FIRST.
GOLDEN = (
    '{"holderIdentity":"a","leaseDurationSeconds":15,"acquireTime":"2027-01-15T08:00:00Z",'
    '"renewTime":"2027-01-15T08:00:00Z","leaderTransitions":0}'
)

LOCKS: dict[str, type[AnnotationLock]] = {"endpoints": EndpointsLock, "configmaps": ConfigMapLock}

ADDRESSES = {
    "addresses": [{"ip": "10.1.2.3", "hostname": "one", "nodeName": "n"}],
    "notReadyAddresses": [{"ip": "10.1.2.4"}],
    "ports": [{"name": "web", "port": 80, "protocol": "TCP"}],
}
#: Content that is no concern of a lock's.
CONTENTS: list[tuple[str, dict[str, Any]]] = [
    ("endpoints", {"subsets": [ADDRESSES]}),
    ("configmaps", {"data": {"key": "välue\n"}, "binaryData": {"blob": "AAEC/w=="}}),
    ("configmaps", {"data": {"key": "value"}, "immutable": True}),
]


class Objects:
    """The objects of one kind in the test's namespace, as the administrator sees them."""

    def __init__(self, plane: ControlPlane, namespace: str, resource: str) -> None:
        self._plane = plane
        self._path = f"/api/v1/namespaces/{namespace}/{resource}"

    def make(self, content: dict[str, Any], **metadata: Any) -> dict[str, Any]:
        """Create the object `x`."""
        body = {"metadata": {"name": "x", **metadata}, **content}
        status, made = self._plane.request("POST", self._path, body)
        assert status == 201, made
        return made

    def get(self) -> dict[str, Any]:
        """Return the object `x`."""
        status, body = self._plane.request("GET", f"{self._path}/x")
        assert status == 200, body
        return body


@pytest.fixture
def objects(control_plane: ControlPlane, namespace: str, resource: str) -> Objects:
    return Objects(control_plane, namespace, resource)


@pytest.fixture
def lock(control_plane: ControlPlane, namespace: str, resource: str) -> Iterator[AnnotationLock]:
    """A client of the object `x` with an administrator's rights."""
    kubeconfig = str(control_plane.admin_kubeconfig)
    credentials = kubeapi.Credentials(in_cluster=False, kubeconfig=kubeconfig)
    with contextlib.closing(LOCKS[resource](kubeapi.Api(credentials), namespace, "x")) as lock:
        yield lock


@pytest.mark.parametrize("resource", LOCKS)
def test_only_the_annotation_is_written_and_only_once_a_second(
    lock: AnnotationLock, objects: Objects
) -> None:
    """A new object has the original's text and no content; a fraction of a second is no change."""
    created = lock.create(FIRST, TIMEOUT_S)
    body = objects.get()
    assert body["metadata"]["annotations"] == {LEADER: GOLDEN}
    assert set(body) == {"apiVersion", "kind", "metadata"}
    later = replace(FIRST, renew_time_us=NOW_US + 500_000)
    assert lock.update(later, created, TIMEOUT_S) == created


@pytest.mark.parametrize(
    ("resource", "content"), CONTENTS, ids=["Endpoints", "ConfigMap", "immutable ConfigMap"]
)
def test_what_others_wrote_survives(
    lock: AnnotationLock, objects: Objects, content: dict[str, Any]
) -> None:
    """Content, labels, annotations and owners outlive every write of a lock."""
    marks = {
        "labels": {"app": "mine"},
        "annotations": {"note": 'kept "as" it <is>'},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "o", "uid": "u-1"}],
        "finalizers": ["example.com/kept"],
    }
    before = without_bookkeeping(objects.make(content, **marks))
    seen = lock.read(TIMEOUT_S)
    assert seen is not None
    acquired = lock.update(replace(FIRST, transitions=1), seen, TIMEOUT_S)
    named = lock.name_successor("b", acquired, TIMEOUT_S)
    lock.update(replace(renewed(FIRST), transitions=1), named, TIMEOUT_S)
    after = without_bookkeeping(objects.get())
    annotations = after["metadata"]["annotations"]
    assert json.loads(annotations.pop(LEADER))["leaderTransitions"] == 1
    assert annotations.pop("leaderexec/successor") == "b"
    assert after == before
