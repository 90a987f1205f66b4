"""The images, built once for the whole session, and candidates that are containers of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kube.conftest import binaries, control_plane, namespace  # noqa: F401 - fixtures of this lane too
from tests.support.containers import (
    ContainerCandidates,
    Image,
    Mount,
    Storage,
    require_containers,
)
from tests.support.controlplane import Unavailable
from tests.support.required import missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.controlplane import ControlPlane
    from tests.support.witness import Witness


@pytest.fixture(scope="session")
def storage() -> Storage:
    """Where the images are, with the bases in it."""
    require_containers()
    images = Storage()
    try:
        images.base()
    except Unavailable as reason:
        missing("base image", reason)
    return images


@pytest.fixture(scope="session")
def slim(storage: Storage) -> Image:
    """The image that `make image` makes."""
    return storage.slim()


@pytest.fixture
def candidates(
    slim: Image,
    control_plane: ControlPlane,  # noqa: F811
    namespace: str,  # noqa: F811
    witness: Witness,
    tmp_path: Path,
) -> Iterator[ContainerCandidates]:
    """Containers of the image, on a Lease in the test's own namespace, with no shell in them."""
    with ContainerCandidates(witness, tmp_path, control_plane, namespace, slim) as candidates:
        candidates.mounts = [Mount(f"/usr/bin/{name}", Path("/dev/null")) for name in SHELLS]
        yield candidates


#: What there is of shells in the base, and may not be executed in a test.
SHELLS = ("bash", "dash")
