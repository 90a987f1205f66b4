"""The documents and the examples: what they say of the code is what the code is."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from leaderexec import channel, config
from leaderexec.election import Election, Holding
from leaderexec.model import Claim, Now, Timing, Token
from leaderexec.tenure import OnLoss, Tenure
from tests.support import controlplane, diagrams

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")

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


def manifests() -> dict[str, Any]:
    """Return the objects of the example by their kind."""
    return {item["kind"]: item for item in yaml.safe_load_all(read("examples/deployment.yaml"))}


def parsed(argv: list[str]) -> config.Config:
    """Read a command line as in a pod; fail if it is refused."""
    host = config.Host(
        read_text=lambda _: "default", file_problem=lambda _: None, is_directory=lambda _: False
    )
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    settings = config.parse(argv, environ, host=host)
    assert isinstance(settings, config.Config)
    return settings


# --- generated parts -------------------------------------------------------------------------


def test_generated_parts_are_current() -> None:
    """Diagrams and tables say what the code says (`make format` rewrites them)."""
    assert diagrams.stale() == []


def test_a_stale_part_is_noticed() -> None:
    """A part that somebody edited is not what would be written, and a lost marker is an error."""
    parts = {"exit-codes": lambda: "the truth"}
    text = (
        "before\n<!-- generated: exit-codes -->\n\nan opinion\n\n<!-- end: exit-codes -->\nafter\n"
    )
    written = diagrams.rewritten(text, parts)
    assert written == text.replace("an opinion", "the truth")
    assert diagrams.rewritten(written, parts) == written
    with pytest.raises(ValueError, match="exit-codes"):
        diagrams.rewritten(text.replace("end:", "and:"), parts)


def test_the_machines_begin_where_the_diagrams_do() -> None:
    """The entry states of the diagrams are those of new machines, and are all there are."""
    claim = Claim("a", 0, 0)
    inherited = [None, Holding(Token(1), "uid", claim)]
    electors = tuple(
        Election(
            identity="a",
            unique=True,
            timing=Timing(),
            generation=1,
            jitter=lambda: 0.0,
            now=Now(0, 0),
            inherited=holding,
        ).state
        for holding in inherited
    )
    assert electors == diagrams.ELECTION_ENTRIES
    guardian = Tenure(
        timing=Timing(),
        stop_signal=15,
        stop_timeout_ns=0,
        on_loss=OnLoss.STANDBY,
        campaign_timeout_ns=None,
        signal_group=False,
        now_ns=0,
    )
    assert (guardian.state,) == diagrams.TENURE_ENTRIES


# --- what the documents name -----------------------------------------------------------------


def _defined(path: Path, names: list[str]) -> bool:
    """Whether a file defines this test, in a class or a base class of it, wherever that is."""
    tree = ast.parse(path.read_text())
    first, *rest = names
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == first:
            return not rest
        if isinstance(node, ast.ClassDef) and node.name == first:
            own = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
            if not rest or rest[0] in own:
                return True
            bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
            return any(_inherits(tree, path, base, rest) for base in bases)
    return False


def _inherits(tree: ast.Module, path: Path, base: str, rest: list[str]) -> bool:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and base in {alias.name for alias in node.names}:
            return _defined(ROOT / f"{(node.module or '').replace('.', '/')}.py", [base, *rest])
    return _defined(path, [base, *rest])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_test_that_is_named_exists(name: str) -> None:
    """A document that names a test as its proof names one that there is."""
    for test_id in _TEST_ID.findall(read(name)):
        path, *names = test_id.split("::")
        assert (ROOT / path).exists(), test_id
        assert _defined(ROOT / path, names), test_id


def test_a_test_that_does_not_exist_is_noticed() -> None:
    """The check above finds tests in files, classes and base classes, and no others."""
    faults = ROOT / "tests/process/test_faults.py"
    assert _defined(faults, ["TestFaultsOnTheFileLock", "test_guardian_killed"])
    assert _defined(faults, ["test_a_log_that_nobody_reads_blocks_nothing"])
    assert not _defined(faults, ["TestFaultsOnTheFileLock", "test_guardian_promoted"])
    assert not _defined(faults, ["test_guardian_killed"])


@pytest.mark.parametrize("guarantee", ["G1", "G2", "G3", "G4", "G5", "G6"])
def test_every_guarantee_names_its_tests(guarantee: str) -> None:
    """Each guarantee of the README stands in its table beside at least one test."""
    (row,) = [line for line in read("README.md").splitlines() if line.startswith(f"| {guarantee} ")]
    assert _TEST_ID.search(row)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    """Files that a document links to exist."""
    for target in _LINK.findall(read(name)):
        assert (ROOT / target).exists(), target


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
    """The README's table of variables has those that guardian and keeper add, and no others."""
    code = read("leaderexec/guardian.py") + read("leaderexec/keeper.py")
    added = set(re.findall(r'"(LEADER_\w+)":', code))
    documented = set(re.findall(r"^\| `(LEADER_\w+)`", read("README.md"), re.MULTILINE))
    assert added == documented
    assert len(added) == 5


# --- what people copy ------------------------------------------------------------------------


def test_command_lines_are_valid() -> None:
    """Whoever copies a command line from the README is not answered with a complaint."""
    lines = [
        line
        for block in code("README.md", "console")
        for line in block.splitlines()
        if line.startswith("leaderexec ")
    ]
    assert lines
    for line in lines:
        parsed(shlex.split(line)[1:])


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


def test_the_example_deployment_fits_together() -> None:
    """Command, role, binding and account of the example name the same election and account."""
    objects = manifests()
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"][0] == "leaderexec"
    settings = parsed(container["command"][1:])
    account = objects["ServiceAccount"]["metadata"]["name"]
    assert pod["serviceAccountName"] == account
    assert objects["RoleBinding"]["subjects"] == [{"kind": "ServiceAccount", "name": account}]
    assert objects["RoleBinding"]["roleRef"]["name"] == objects["Role"]["metadata"]["name"]
    assert objects["Role"]["rules"][1]["resourceNames"] == [settings.election]
    grace_ns = pod["terminationGracePeriodSeconds"] * 10**9
    assert grace_ns >= settings.stop_timeout_ns + 9 * 10**9, "time to kill and to give back"


def test_the_documented_role_is_the_tested_one() -> None:
    """What candidates may do in the tests is what the example grants, and what the README says."""
    rule: dict[str, Any] = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}
    tested = [
        {**rule, "verbs": ["create"]},
        {**rule, "verbs": list(controlplane._LEASE_VERBS), "resourceNames": ["my-app"]},
    ]
    assert manifests()["Role"]["rules"] == tested
    (documented,) = [yaml.safe_load(text) for text in code("README.md", "yaml")]
    assert documented["rules"] == tested
