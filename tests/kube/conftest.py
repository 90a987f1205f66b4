"""The control plane of the session, and a namespace for every test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.controlplane import ControlPlane, Unavailable, ensure_binaries
from tests.support.kube_candidates import KubeCandidates
from tests.support.required import missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.witness import Witness


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A running kube-apiserver with its etcd; the same for the whole session.

    Where it cannot be had the tests are skipped, or fail if `LEADEREXEC_REQUIRE_KUBE=1`.
    """
    try:
        binaries = ensure_binaries()
    except Unavailable as reason:
        missing("control plane", reason)
    with ControlPlane(binaries) as plane:
        yield plane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace of the test's own; whatever the test stopped runs again after it."""
    control_plane.ensure_ready()
    yield control_plane.create_namespace()
    control_plane.ensure_ready()


@pytest.fixture
def candidates(
    control_plane: ControlPlane, namespace: str, witness: Witness, tmp_path: Path
) -> Iterator[KubeCandidates]:
    """Candidates on a Lease in the test's own namespace."""
    with KubeCandidates(witness, tmp_path, control_plane, namespace) as candidates:
        yield candidates
