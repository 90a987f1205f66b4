"""The locks of old: an Endpoints object or a ConfigMap with the record in an annotation.

Owns the translation between the record and the annotation, so that a leader-elector of 2016 and a
client-go from before Lease locks can stand in the same election.
Formats: kubernetes-retired/contrib, election/lib; client-go, tools/leaderelection/resourcelock,
endpointslock.go and configmaplock.go.

The annotation is the record as Go's encoding/json writes it: compact, in this order, with `<`, `>`
and `&` escaped, times in whole seconds, null for no time. Its presence also tells controllers to
leave the Endpoints alone: they delete none that carries it for want of a Service, and mirror none
into EndpointSlices.

Guards against a held lock that looks free: no annotation means that nobody ever held the lock, but
one that cannot be read, an empty one included, is an error, as it was to the originals. Fields that
we do not know, such as those of newer writers, stay in the record behind ours.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, Final

from leaderexec.locks.fields import from_fields, parse_object, to_fields
from leaderexec.locks.kubeobject import Kind, KubernetesLock, annotation, with_annotation
from leaderexec.locks.timestamps import format_whole_us

if TYPE_CHECKING:
    from leaderexec.model import Record

LEADER: Final = "control-plane.alpha.kubernetes.io/leader"

_TRANSITIONS: Final = "leaderTransitions"
#: Outside strings JSON has none of these, so that a whole document can be translated.
_ESCAPED_BY_GO: Final = str.maketrans({mark: f"\\u{ord(mark):04x}" for mark in "<>&\u2028\u2029"})


class AnnotationLock(KubernetesLock):
    """An object of any kind, with the record in its annotation."""

    def _read_record(self, body: dict[str, Any]) -> Record:
        fields = _fields(body)
        try:
            return from_fields(fields, _TRANSITIONS)
        except ValueError as error:
            raise ValueError(f"annotation {LEADER}: {error}") from error

    def _with_record(self, body: dict[str, Any], record: Record) -> dict[str, Any]:
        ours = to_fields(record, format_whole_us, _TRANSITIONS)
        theirs = {key: value for key, value in _fields(body).items() if key not in ours}
        # What could be read can be written: the encoder recurses no deeper than the decoder did.
        text = json.dumps({**ours, **theirs}, ensure_ascii=False, separators=(",", ":"))
        return with_annotation(body, LEADER, text.translate(_ESCAPED_BY_GO))


class EndpointsLock(AnnotationLock):
    """The Endpoints `name` in `namespace`, as the leader-elector of 2016 used them."""

    kind: ClassVar[Kind] = Kind("", "Endpoints", "endpoints", "endpoints")


class ConfigMapLock(AnnotationLock):
    """The ConfigMap `name` in `namespace`; an immutable one serves, for only its data is."""

    kind: ClassVar[Kind] = Kind("", "ConfigMap", "configmaps", "configmap")


def _fields(body: dict[str, Any]) -> dict[str, Any]:
    """Return what the annotation holds; nothing when there is none."""
    text = annotation(body, LEADER)
    if text is None:
        return {}
    if not text:
        raise ValueError(f"annotation {LEADER} is empty: a record or no annotation is accepted")
    try:
        return parse_object(text)
    except ValueError as error:
        raise ValueError(f"annotation {LEADER} {error}") from error
