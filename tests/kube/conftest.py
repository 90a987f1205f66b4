"""The control plane of the session, and a namespace for every test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.controlplane import SHARED, Binaries, ControlPlane, Unavailable, ensure_binaries
from tests.support.kube_candidates import KubeCandidates
from tests.support.required import missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.witness import Witness


@pytest.fixture(scope="session")
def binaries() -> Binaries:
    """The programs; where they cannot be had the test is skipped, or fails if it is required."""
    try:
        return ensure_binaries()
    except Unavailable as reason:
        missing("control plane", reason)


@pytest.fixture(scope="session")
def control_plane(binaries: Binaries) -> Iterator[ControlPlane]:
    """A running kube-apiserver with its etcd: the one that all workers share, or one of its own."""
    shared = os.environ.get(SHARED)
    with ControlPlane(binaries, shared=Path(shared) if shared else None) as plane:
        yield plane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    """A namespace of the test's own."""
    return control_plane.create_namespace()


@pytest.fixture
def candidates(
    control_plane: ControlPlane, namespace: str, witness: Witness, tmp_path: Path
) -> Iterator[KubeCandidates]:
    """Candidates on a Lease in the test's own namespace."""
    with KubeCandidates(witness, tmp_path, control_plane, namespace) as candidates:
        yield candidates
