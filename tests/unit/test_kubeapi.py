"""The way to the API without one: imports, answers, reasons."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from leaderexec.locks import kubeapi
from leaderexec.locks.annotation import ConfigMapLock, EndpointsLock
from leaderexec.locks.base import Forbidden, Unavailable
from leaderexec.locks.lease import LeaseLock
from leaderexec.model import Record, Snapshot
from tests.support.candidate import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from leaderexec.locks.kubeobject import KubernetesLock

_IMPORT = """
import json, sys
from leaderexec.locks import kubeapi
original = kubeapi._import_slim
def broken():
    original()
    raise AttributeError("moved")
if sys.argv[1] == "broken":
    kubeapi._import_slim = broken
found = kubeapi._import_kubernetes(slim=sys.argv[1] != "whole")
classes = (found.configuration_class, found.rest_client_class, found.load_incluster_config)
print(json.dumps([
    [each.__module__ for each in classes], "kubernetes.client.models" in sys.modules,
]))
"""


def _output(script: str, *words: str) -> str:
    return subprocess.check_output([sys.executable, "-c", script, *words], cwd=ROOT, text=True)


def test_in_a_cluster_only_what_is_needed_is_imported() -> None:
    """The slim import finds the same classes as the whole, without the models of every API.

    Should it fail in whatever way, in another release, the whole package serves.
    """
    slim, whole, fallback = (
        json.loads(_output(_IMPORT, how)) for how in ("slim", "whole", "broken")
    )
    assert slim == [whole[0], False]
    assert fallback == whole == [whole[0], True]


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


class _Answering:
    """An API that answers everything alike."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        self.status = status
        self._answer = kubeapi.Answer(status, body, None)

    def call(self, *_: object, **__: object) -> kubeapi.Answer:
        return self._answer

    def watch(self, *_: object, **__: object) -> Any:
        return SimpleNamespace(status=self.status, answer=lambda: self._answer, close=lambda: None)


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
    api: Any = _Answering(403, {"message": "no"})
    lock = lock_class(api, "ns", "x")
    record = Record("a", 15)
    seen = Snapshot(record, "u", "1", "", {"metadata": {}})
    calls: list[tuple[str, str, Callable[[], object]]] = [
        ("get", "read", lambda: lock.read(1)),
        ("create", "create", lambda: lock.create(record, 1)),
        ("update", "update", lambda: lock.update(record, seen, 1)),
        ("update", "name a successor in", lambda: lock.name_successor("b", seen, 1)),
        ("watch", "watch", lambda: next(lock.watch(None))),
    ]
    for verb, words, call in calls:
        with pytest.raises(Forbidden) as caught:
            call()
        names = "" if verb == "create" else ", resourceNames [x]"
        assert str(caught.value) == (
            f"cannot {words} {lock.description}: forbidden; the role needs verb '{verb}' on "
            f"resource {resource} in namespace ns{names} (server: no)"
        )


_META = {"uid": "u", "resourceVersion": "1"}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"kind": "Lease"},
        {"kind": "Lease", "metadata": {**_META, "uid": 3}},
        {"kind": "Lease", "metadata": {**_META, "resourceVersion": "abc"}},
        {"kind": "Pod", "metadata": _META},
        {"kind": "Lease", "metadata": _META, "spec": {"holderIdentity": 7}},
        {"kind": "Lease", "metadata": _META, "spec": {"renewTime": "soon"}},
        {"kind": "Lease", "metadata": _META, "spec": [1]},
    ],
)
def test_an_object_that_is_no_lease_is_no_answer(body: dict[str, Any]) -> None:
    """Whatever a server sends, it is a Lease as the format has it or nothing."""
    api: Any = _Answering(200, body)
    with pytest.raises(Unavailable, match="cannot read lease ns/x"):
        LeaseLock(api, "ns", "x").read(1)


def test_only_kubernetes_locks_know_the_package() -> None:
    """Guardian and keeper never import it: they are forked before, and stay small."""
    script = "import sys, leaderexec.cli; print({'kubernetes', 'psutil'} & set(sys.modules))"
    assert _output(script).strip() == "set()"


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
