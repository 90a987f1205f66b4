"""The documents and the examples: what they say of the code is what the code is."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import ANY

import pytest
import yaml

from leaderexec import channel, cli, config, server
from tests.support import controlplane, diagrams

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "tests/README.md")

_TEST_ID = re.compile(r"tests/[a-z_/]+\.py(?:::\w+)+")
_LINK = re.compile(r"\]\((?!https?://)([^)#]+)")
_CODE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
_MAKE = re.compile(r"(?:^|`|[A-Z_]+=\S+ )make ([a-z]+)", re.MULTILINE)
_MESSAGE = re.compile(r"->>\w+: ((?:[A-Z][a-z]+)+)\b")


def read(name: str) -> str:
    """Return the text of a file of the repository."""
    return (ROOT / name).read_text()


def code(name: str, language: str) -> list[str]:
    """Return the code blocks of a document in one language."""
    return [text for kind, text in _CODE.findall(read(name)) if kind == language]


def manifests(name: str = "deployment") -> dict[str, Any]:
    """Return the objects of an example by their kind."""
    items = yaml.safe_load_all(read(f"examples/{name}.yaml"))
    return {item["kind"]: item for item in items if item}


def pod(name: str) -> dict[str, Any]:
    """Return what the pods of an example are made of."""
    spec: dict[str, Any] = manifests(name)["Deployment"]["spec"]["template"]["spec"]
    return spec


def elector(name: str) -> dict[str, Any]:
    """Return the container of an example that runs leaderexec."""
    containers: list[dict[str, Any]] = [
        each
        for each in [*pod(name).get("initContainers", []), *pod(name)["containers"]]
        if any(word.startswith("--election=") for word in words_of(each))
    ]
    (container,) = containers
    return container


def words_of(container: dict[str, Any]) -> list[str]:
    """Return the command line of a container, as far as its manifest says it."""
    return [*container.get("command", []), *container.get("args", [])]


def options_of(container: dict[str, Any]) -> list[str]:
    """Return the words behind `leaderexec`, which is the image's entry point if not the command."""
    words = words_of(container)
    return words[1:] if "command" in container else words


def yaml_blocks() -> list[dict[str, Any]]:
    """Return what the README shows of manifests."""
    return [yaml.safe_load(text) for text in code("README.md", "yaml")]


def parsed(
    argv: list[str],
    environ: Mapping[str, str] | None = None,
    *directories: str,
    is_init: bool = False,
) -> config.Config:
    """Read a command line as in a pod with these directories; fail if it is refused."""
    host = config.Host(
        hostname=lambda: "a-0",
        is_init=lambda: is_init,
        read_text=lambda _: "default",
        file_problem=lambda _: None,
        is_directory=directories.__contains__,
    )
    in_pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    settings = config.parse(argv, {**in_pod, **(environ or {})}, host=host)
    assert isinstance(settings, config.Config)
    return settings


# --- generated parts -------------------------------------------------------------------------


def test_generated_parts_are_current() -> None:
    """Diagrams and tables say what the code says (`make format` rewrites them)."""
    assert diagrams.stale() == []


# --- what the documents name -----------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_test_that_is_named_exists(name: str) -> None:
    """A document that names a test as its proof names one that there is, in a file or a suite."""
    suites = "".join(path.read_text() for path in ROOT.glob("tests/support/*suite*.py"))
    for test_id in _TEST_ID.findall(read(name)):
        path, *parts = test_id.split("::")
        text = read(path) + (suites if len(parts) > 1 else "")
        for part in parts:
            assert re.search(rf"^ *(?:class|def) {part}\b", text, re.MULTILINE), test_id


@pytest.mark.parametrize("guarantee", ["G1", "G2", "G3", "G4", "G5", "G6"])
def test_every_guarantee_names_its_tests(guarantee: str) -> None:
    """Each guarantee of the README stands in its table beside at least one test."""
    (row,) = [line for line in read("README.md").splitlines() if line.startswith(f"| {guarantee} ")]
    assert _TEST_ID.search(row)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    """Files that a document links to exist."""
    for target in _LINK.findall(read(name)):
        assert (ROOT / name).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("name", DOCUMENTS)
def test_make_targets_exist(name: str) -> None:
    """What a document tells to make can be made."""
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    assert "demo" in targets
    assert set(_MAKE.findall(read(name))) <= targets


def test_every_module_is_described() -> None:
    """The table of modules in ARCHITECTURE.md has them all, and no others."""
    section = read("ARCHITECTURE.md").partition("\n## Modules\n")[2].partition("\n## ")[0]
    described = {
        module
        for line in section.splitlines()
        if line.startswith("| `")
        for module in re.findall(r"`([a-z.]+)`", line.split("|")[1])
    }
    package = ROOT / "leaderexec"
    modules = {
        ".".join(path.relative_to(package).with_suffix("").parts)
        for path in package.rglob("*.py")
        if not path.name.startswith("__")
    }
    assert described == modules


def test_messages_in_the_sequences_exist() -> None:
    """The arrows of the sequence diagrams carry messages that the processes send."""
    text = "".join(t for t in code("ARCHITECTURE.md", "mermaid") if t.startswith("sequence"))
    messages = set(_MESSAGE.findall(text))
    assert len(messages) > 5
    assert messages <= {kind.__name__ for kind in channel.Message.__args__}


def test_variables_of_the_child_are_documented() -> None:
    """The README's tables of variables have those that the child is given, and no others."""
    code = read("leaderexec/guardian.py") + read("leaderexec/keeper.py")
    added = set(re.findall(r'"(LEADER_\w+)":', code))
    assert len(added) == 5
    rows = re.compile(r"^\| `((?:LEADER|ELECTOR)_\w+)` \| (.*) \|$", re.MULTILINE)
    documented = rows.findall(read("README.md"))
    assert added == {name for name, _ in documented if name.startswith("LEADER_")}
    served = cli._elector_variables("0.0.0.0", 4040)
    for name, meaning in documented:
        if name in served:
            assert meaning.endswith(f"`{served.pop(name)}`")
    assert not served


def test_the_slot_is_told_by_variables_that_are_read() -> None:
    """What the README and the examples give a container is what an identity is made of."""
    (documented,) = [block["env"] for block in yaml_blocks() if "env" in block]
    assert documented == elector("deployment")["env"]
    told = {"metadata.name": "a-0", "metadata.namespace": "ns", "metadata.uid": "0" * 32}
    for name in ("deployment", "sidecar"):
        container = elector(name)
        environ = {
            each["name"]: each.get("value") or told[each["valueFrom"]["fieldRef"]["fieldPath"]]
            for each in container["env"]
        }
        slot = parsed(options_of(container), environ, is_init=True).slot
        assert slot
        assert slot.identity == f"a-0_leaderexec-{'0' * 32}-{container['name']}"


def test_probes_ask_for_paths_that_there_are() -> None:
    """The probes of README and examples ask for paths of our own, at the port that is served."""
    ours = {path for path, _ in server.PATHS}
    (documented,) = [block for block in yaml_blocks() if "livenessProbe" in block]
    assert {probe["httpGet"]["path"] for probe in documented.values()} <= ours
    sidecar = elector("sidecar")
    probes = [sidecar["startupProbe"], sidecar["livenessProbe"]]
    assert {probe["httpGet"]["path"] for probe in probes} == {"/livez"}
    (port,) = sidecar["ports"]
    assert {probe["httpGet"]["port"] for probe in probes} == {port["name"]}
    http = parsed(options_of(sidecar)).http
    assert http
    assert (http.host, http.port) == ("0.0.0.0", port["containerPort"]), "the kubelet is outside"


# --- what people copy ------------------------------------------------------------------------


def test_command_lines_are_valid() -> None:
    """Whoever copies a command line from the README is not answered with a complaint."""
    lines = [
        line
        for block in code("README.md", "console")
        for line in block.splitlines()
        if line.startswith("leaderexec ")
    ]
    lines += re.findall(r"`(leaderexec --[^`]+)`", read("README.md"))
    assert len(lines) > 1
    for line in lines:
        parsed(shlex.split(line)[1:])


def test_the_walk_through_makes_the_image_that_its_pods_run() -> None:
    """That those pods may elect, and do, is seen in the kube lane."""
    text, image = "".join(code("README.md", "console")), elector("sidecar")["image"]
    assert f"make image IMAGE={image}\n" in text
    assert f"--image={image}" in text


@pytest.mark.parametrize("name", ["examples/Dockerfile", "README.md"])
def test_entry_points_are_valid(name: str) -> None:
    """The images' entry point is leaderexec, and takes the command as it stands there."""
    text = read(name) if name != "README.md" else code(name, "dockerfile")[0]
    words: list[str] = []
    for instruction in ("ENTRYPOINT", "CMD"):
        (value,) = re.findall(rf"^{instruction} (\[.*\])$", text, re.MULTILINE)
        words += json.loads(value)
    assert words[0] == "leaderexec"
    assert parsed(words[1:]).command[0] == "python3"
    # The project's own images leave all options to args.
    own = re.findall(r"^(?:ENTRYPOINT|CMD) (.*)$", read("docker/Dockerfile"), re.MULTILINE)
    assert own == ['["/leaderexec/leaderexec"]', '["leaderexec"]']


def assert_time_to_stop(grace_ns: int, settings: config.Config) -> None:
    """Assert that what stops a container waits until the tree is killed and the lock given back."""
    assert settings.command
    assert grace_ns >= settings.stop_timeout_ns + 9 * 10**9


@pytest.mark.parametrize("name", ["deployment", "injecting-pod"])
def test_the_pods_have_time_to_stop(name: str) -> None:
    """Their grace period suffices; that they elect is seen in the kube lane."""
    grace_s = pod(name)["terminationGracePeriodSeconds"]
    assert_time_to_stop(grace_s * 10**9, parsed(options_of(elector(name))))


def test_the_injecting_pod_runs_what_its_init_container_installs() -> None:
    """What is installed where, and what the main container runs, are the same, in one volume."""
    (init,), (main,) = pod("injecting-pod")["initContainers"], pod("injecting-pod")["containers"]
    installed = config.parse(init["args"], {})
    assert isinstance(installed, config.InstallRequested)
    (source,), (target,) = init["volumeMounts"], main["volumeMounts"]
    assert source["mountPath"] == target["mountPath"] == installed.directory
    assert target["readOnly"]
    assert main["command"][0] == f"{installed.directory}/leaderexec"
    assert pod("injecting-pod")["volumes"] == [{"name": source["name"], "emptyDir": ANY}]


def test_the_compose_file() -> None:
    """Its services say what compose wants, and its command holds the election on its own volume."""
    composed = yaml.safe_load(read("examples/compose.yaml"))
    assert set(composed) == {"name", "services", "volumes"}
    server, volume = composed["services"]["server"], composed["services"]["volume"]
    assert (server["build"]["context"], "init" in server) == ("..", False)
    assert server["scale"] > 1
    assert (ROOT / server["build"]["dockerfile"]).exists()
    name, _, place = server["volumes"][0].partition(":")
    assert composed["volumes"] == {name: {"driver": "local"}}
    settings = parsed([*server["entrypoint"], *server["command"]][1:], {}, place)
    assert isinstance(settings.lock, config.FileLockSpec)
    assert settings.lock.path.startswith(f"{place}/"), "the directory is shared, not the file"
    assert settings.command == tuple(server["command"])
    assert_time_to_stop(config.parse_duration(server["stop_grace_period"]), settings)
    assert volume["command"] == ["chown", server["user"], place]
    for each in (server, volume):
        assert (each["volumes"], each["read_only"]) == ([f"{name}:{place}"], True)
        assert (each["cap_drop"], each["security_opt"]) == (["ALL"], ["no-new-privileges:true"])


def test_the_example_sidecar_is_one_and_has_its_program() -> None:
    """The elector is a native sidecar, and the program beside it the one in master.mjs."""
    objects = manifests("sidecar")
    (sidecar,) = pod("sidecar")["initContainers"]
    assert (sidecar["restartPolicy"], "command" in sidecar) == ("Always", False)
    assert objects["ConfigMap"]["data"] == {"master.mjs": read("examples/master.mjs")}
    (program,) = pod("sidecar")["containers"]
    (mount,) = program["volumeMounts"]
    (volume,) = pod("sidecar")["volumes"]
    assert volume["configMap"] == {"name": objects["ConfigMap"]["metadata"]["name"]}
    assert program["command"] == ["node", f"{mount['mountPath']}/master.mjs"]
    (port,) = objects["Service"]["spec"]["ports"]
    assert port["targetPort"] == program["ports"][0]["name"]
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert objects["Service"]["spec"]["selector"] == labels


def role_for(resource: str, name: str) -> list[dict[str, Any]]:
    """Return the rules that candidates have in the tests for an object of this name."""
    rule = {"apiGroups": [controlplane._LOCK_GROUPS[resource]], "resources": [resource]}
    named = {**rule, "verbs": list(controlplane._LOCK_VERBS), "resourceNames": [name]}
    return [{**rule, "verbs": ["create"]}, named]


def test_the_documented_roles_are_the_tested_ones() -> None:
    """What candidates may do in the tests is what the examples grant, and what the README says."""
    for name, election in (("deployment", "my-app"), ("sidecar", "example")):
        assert manifests(name)["Role"]["rules"] == role_for("leases", election)
    documented = [block["rules"] for block in yaml_blocks() if "rules" in block]
    assert documented == [role_for(each, "my-app") for each in ("leases", "endpoints")]
