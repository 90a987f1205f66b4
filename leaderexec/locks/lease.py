"""The default lock: a Lease of coordination.k8s.io/v1.

Owns the translation between the record and the object: five fields of the spec. Format: client-go,
tools/leaderelection/resourcelock/leaselock.go.
"""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Any, ClassVar

from leaderexec.locks.fields import from_fields, to_fields
from leaderexec.locks.kubeobject import Kind, KubernetesLock
from leaderexec.locks.timestamps import format_us

if TYPE_CHECKING:
    from leaderexec.model import Record


class LeaseLock(KubernetesLock):
    """The Lease `name` in `namespace`."""

    kind: ClassVar[Kind] = Kind("coordination.k8s.io", "Lease", "leases", "lease")

    def _read_record(self, body: dict[str, Any]) -> Record:
        """Read the spec, which a Lease that nobody ever held does not have."""
        spec = body.get("spec")
        if spec is None:
            spec = {}
        if not isinstance(spec, dict):
            raise ValueError(f"spec is not an object: {reprlib.repr(spec)}")
        return from_fields(spec)

    def _with_record(self, body: dict[str, Any], record: Record) -> dict[str, Any]:
        return {**body, "spec": {**(body.get("spec") or {}), **to_fields(record, format_us)}}
