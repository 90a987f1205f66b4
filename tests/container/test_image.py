"""What `make image` makes: what is in it, that it is the same again, and what it can do."""

from __future__ import annotations

import json
import re
import tarfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Final

from leaderexec import __version__
from tests.support.containers import EPOCH, PATH, USER, Mount, child_command
from tests.support.controlplane import HOST, free_port
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from tests.support.containers import ContainerCandidates, Image, Storage

HOME: Final = Path("opt/leaderexec")
LINK: Final = Path("usr/local/bin/leaderexec")
#: In the second word of bytecode: that it goes by a hash of its source, and that nobody compares.
UNCHECKED_HASH: Final = 0b01
KUBECONFIG: Final = "/etc/kubeconfig"


def test_it_says_what_it_is_and_who_it_runs_as(slim: Image) -> None:
    """The image has the labels of the OCI, a user by number, and leaderexec for an entry point."""
    assert slim.config["User"] == f"{USER}:{USER}"
    assert slim.config["Entrypoint"] == ["leaderexec"]
    prefix = "org.opencontainers.image."
    labels = {key.removeprefix(prefix): value for key, value in slim.config["Labels"].items()}
    assert labels["version"] == __version__
    assert labels["licenses"] == "Apache-2.0"
    assert labels["title"]
    assert labels["description"]
    assert re.fullmatch(r"[0-9a-f]{40}|", labels["revision"])


def test_it_adds_nothing_but_itself_to_its_base(storage: Storage, slim: Image) -> None:
    """Beside /opt/leaderexec and one link nothing is added, and nothing that anybody may change."""
    with storage.last_layer(slim) as path, tarfile.open(path) as layer:
        added = [each for each in layer if not each.isdir()]
    assert len(added) > 1000
    paths = {Path(each.name) for each in added}
    assert {path for path in paths if not path.is_relative_to(HOME)} == {LINK}
    for each in added:
        assert (each.uid, each.gid, each.mtime) == (0, 0, EPOCH), each.name
        if not each.issym():
            assert each.mode & 0o444 == 0o444, f"{each.name} is for every user"
            assert not each.mode & 0o7022, each.name


def test_it_is_small_and_compiled(slim: Image) -> None:
    """There are no tools, no tests and no unused half of a package; all has bytecode of no date."""
    (place,) = (slim.root / HOME).glob("lib/python3*/site-packages")
    names = {path.name.lower() for path in place.iterdir()}
    assert "leaderexec" in names
    assert not names & {"pip", "setuptools", "wheel", "aiohttp", "pytest"}
    assert not (place / "kubernetes" / "aio").exists()
    scripts = {path.name for path in (slim.root / HOME / "bin").iterdir()}
    assert {name for name in scripts if not name.startswith("python")} == {"leaderexec"}
    compiled = list(place.rglob("*.pyc"))
    assert len(compiled) > 1000
    for path in compiled:
        with path.open("rb") as file:
            assert int.from_bytes(file.read(8)[4:], "little") == UNCHECKED_HASH, path
    for path in place.rglob("*.py"):
        assert list((path.parent / "__pycache__").glob(f"{path.stem}.*.pyc")), path


def test_the_same_sources_make_the_same_layers(storage: Storage, slim: Image) -> None:
    """Made once more, from the same wheels, every layer is the same, byte for byte."""
    assert storage.layers_made_again() == slim.layers
    assert len(slim.layers) == len(storage.base().layers) + 1


def test_it_leads_by_a_kubeconfig_too(candidates: ContainerCandidates) -> None:
    """The part of the package that needs all of its models works, though there is no /tmp."""
    kubeconfig = candidates.plane.kubeconfig_for(
        candidates.token_path.read_text(), namespace=candidates.namespace
    )
    kubeconfig.chmod(0o644)
    candidates.place("a", mounts=[Mount(KUBECONFIG, kubeconfig)])
    leader = candidates.start("a", f"--kubeconfig={KUBECONFIG}")
    candidates.witness.wait_running(1, "a", timeout_s=60)
    leader.terminate()
    assert leader.wait() == 143


def test_it_serves_with_nothing_to_write_to(candidates: ContainerCandidates) -> None:
    """HTTP and metrics work on a read-only root."""
    leader = candidates.start("a", "--http=127.0.0.1:0")
    candidates.witness.wait_running(1, "a", timeout_s=40)
    port = leader.port

    def page(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return str(answer.read().decode())

    def told() -> bool:
        return bool(json.loads(page("/"))["name"] == "server-a")

    wait_until(told, timeout_s=30, what="the leader's name is served")
    assert "leader" in page("/metrics")


def test_variables_of_the_child_s_python_are_the_child_s(candidates: ContainerCandidates) -> None:
    """A PYTHONPATH or PYTHONHOME in a container reaches the child, and means nothing to us."""
    given = {"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere", "PYTHONSAFEPATH": "1"}
    candidates.start("a", child=child_command("--env-note"), env=given)
    environ = candidates.witness.wait_note("env", "a", timeout_s=40).data["env"]
    assert {name: environ[name] for name in given} == given
    assert not any(name.startswith("VIRTUAL_ENV") for name in environ)
    assert environ["PATH"] == PATH


def test_an_image_that_is_made_of_it(storage: Storage, candidates: ContainerCandidates) -> None:
    """The example's image runs its server when it leads, with nothing told to it."""
    candidates.plane.grant(candidates.namespace, candidates.account, "my-app")
    candidates.place("a", image=storage.example(candidates.image))
    port = free_port()
    leader = candidates.container("a", "python3", "/app/server.py", f"--listen={HOST}:{port}")
    leader.start()

    def answer() -> dict[str, str]:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/", timeout=30) as served:
                return dict(json.load(served))
        except OSError:
            return {}

    said = wait_until(answer, timeout_s=60, what="the server answers")
    assert said["name"] == leader.identity
    leader.terminate()
    assert leader.wait() == 143
