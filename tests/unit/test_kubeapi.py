"""The way to the API without one: imports, answers, reasons."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from leaderexec.locks import kubeapi
from leaderexec.locks.annotation import ConfigMapLock, EndpointsLock
from leaderexec.locks.base import Forbidden, Unavailable
from leaderexec.locks.lease import LeaseLock
from leaderexec.model import Record
from tests.support.candidate import ROOT

if TYPE_CHECKING:
    from leaderexec.locks.kubeobject import KubernetesLock

_IMPORT = """
import json, sys
from leaderexec.locks import kubeapi
{before}
modules = kubeapi._import_kubernetes(slim={slim})
print(json.dumps([
    modules.configuration_class.__module__,
    modules.rest_client_class.__module__,
    modules.load_incluster_config.__module__,
    "kubernetes.client.models" in sys.modules,
    len(sys.modules),
]))
"""


def _import(*, slim: bool, before: str = "") -> list[Any]:
    script = _IMPORT.format(slim=slim, before=before)
    output = subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True)
    found: list[Any] = json.loads(output)
    return found


def test_in_a_cluster_only_what_is_needed_is_imported() -> None:
    """The slim import finds the same classes as the whole, without the models of every API.

    Should it fail in whatever way, in another release, the whole package serves.
    """
    broken = (
        "original = kubeapi._import_slim\n"
        "def broken():\n"
        "    original()\n"
        "    raise AttributeError('moved')\n"
        "kubeapi._import_slim = broken\n"
    )
    slim, whole = _import(slim=True), _import(slim=False)
    fallback = _import(slim=True, before=broken)
    assert slim[:3] == whole[:3]
    assert not slim[3]
    assert slim[4] < whole[4]
    assert fallback[:4] == whole[:4]


@pytest.mark.parametrize(
    ("header", "expected"),
    [("3", 3.0), ("0", 0.0), *((each, None) for each in ("", "soon", "-1", "nan", "1e9"))],
)
def test_retry_after(header: str, expected: float | None) -> None:
    """Seconds are understood; a date, nonsense and more than an hour are not a wish."""
    answer = kubeapi._answer(429, {"Retry-After": header}, b"{}", "read it")
    assert answer.retry_after_s == expected


@pytest.mark.parametrize("data", [b"", b"nonsense", b"[]", b"3", b"\xff\xfe", b"[" * 100_000])
def test_an_answer_that_is_no_object_is_no_answer(data: bytes) -> None:
    """A success without an object tells nothing about whether a write landed."""
    with pytest.raises(Unavailable, match="cannot read it"):
        kubeapi._answer(200, {}, data, "read it")


def test_an_error_that_is_no_object_keeps_its_status() -> None:
    """What a proxy says in its own words is told, and its status counts."""
    answer = kubeapi._answer(502, {}, b"<html>bad gateway</html>", "read it")
    assert answer.status == 502
    assert "bad gateway" in answer.message


def test_the_innermost_reason_is_told() -> None:
    """The layers around a refused connection are not."""
    inner = ConnectionRefusedError(111, "Connection refused")
    outer = RuntimeError("HTTPSConnectionPool(...): failed")
    outer.__cause__ = inner
    assert kubeapi._reason(outer) == "ConnectionRefusedError: [Errno 111] Connection refused"


class _Refusing:
    """An API that answers everything with one status."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        self._answer = kubeapi.Answer(status, body, None)

    def call(self, *_: object, **__: object) -> kubeapi.Answer:
        return self._answer


@pytest.mark.parametrize(
    ("lock_class", "resource"),
    [
        (LeaseLock, "'leases' of apiGroup 'coordination.k8s.io'"),
        (EndpointsLock, "'endpoints' of apiGroup ''"),
        (ConfigMapLock, "'configmaps' of apiGroup ''"),
    ],
)
def test_a_missing_right_is_named(lock_class: type[KubernetesLock], resource: str) -> None:
    """A 403 says which verb on which resource the role lacks, and for which names."""
    api: Any = _Refusing(403, {"message": "no"})
    lock = lock_class(api, "ns", "x")
    with pytest.raises(Forbidden) as caught:
        lock.read(1)
    assert str(caught.value) == (
        f"cannot read {lock.description}: forbidden; the role needs verb 'get' on resource "
        f"{resource} in namespace ns, resourceNames [x] (server: no)"
    )
    with pytest.raises(Forbidden, match=f"'create' on resource {resource} in namespace ns "):
        lock.create(Record("a", 15), 1)


_LEASE: dict[str, Any] = {"kind": "Lease", "metadata": {"uid": "u", "resourceVersion": "1"}}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"kind": "Lease"},
        {"kind": "Lease", "metadata": {"uid": 3, "resourceVersion": "1"}},
        {"kind": "Lease", "metadata": {"uid": "u", "resourceVersion": "abc"}},
        {**_LEASE, "kind": "Pod"},
        *({**_LEASE, "spec": spec} for spec in ({"holderIdentity": 7}, {"renewTime": "soon"}, [1])),
    ],
)
def test_an_object_that_is_no_lease_is_no_answer(body: dict[str, Any]) -> None:
    """Whatever a server sends, it is a Lease as the format has it or nothing."""
    api: Any = _Refusing(200, body)
    with pytest.raises(Unavailable, match="cannot read lease ns/x"):
        LeaseLock(api, "ns", "x").read(1)


def test_only_kubernetes_locks_know_the_package() -> None:
    """Guardian and keeper never import it: they are forked before, and stay small."""
    script = (
        "import sys, leaderexec.cli; print('kubernetes' in sys.modules, 'psutil' in sys.modules)"
    )
    output = subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True)
    assert output.split() == ["False", "False"]


def test_where_temporary_files_cannot_be_on_disk_they_are_in_memory_or_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a kubeconfig carries inline needs files for a moment: not for want of /tmp alone.

    Without any room it is refused at the start, and what would help is said.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    monkeypatch.setattr(kubeapi, "_MEMORY", str(tmp_path))
    with kubeapi._scratch() as directory:
        assert Path(directory).parent == tmp_path
    assert not Path(directory).exists()
    monkeypatch.setattr(kubeapi, "_MEMORY", str(tmp_path / "missing"))
    with pytest.raises(kubeapi.NotConfigured, match=r"accepted: a writable /tmp or .*TMPDIR"):
        kubeapi._scratch()
