"""The examples and the README's walk-through work on a real API server, with the rights they give.

What would be containers are processes here: no kubelet starts any.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.candidate import ROOT, resume, stop
from tests.support.candidates import Candidates
from tests.support.controlplane import lease_path, service_account_user
from tests.support.wait import wait_until
from tests.unit.test_docs import manifests, words_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.candidate import Candidate
    from tests.support.kube_candidates import KubeCandidates

MANIFESTS = sorted(set((ROOT / "examples").glob("*.yaml")) - {ROOT / "examples" / "compose.yaml"})
WAITING = ROOT / "examples" / "waiting-pod.yaml"
CANDIDATES = [path for path in MANIFESTS if path != WAITING]
NODE = shutil.which("node")
INTERVAL_S = 0.5
UNKNOWN = (503, "Master is unknown")
BOUND_S = 30.0

needs_node = pytest.mark.skipif(NODE is None, reason="no node to run the example's program with")


# --- manifests -------------------------------------------------------------------------------


def apply(candidates: KubeCandidates, path: Path) -> tuple[str, dict[str, Any]]:
    """Apply a manifest twice, and return its account and what its pods are made of."""
    for _ in range(2):
        candidates.plane.kubectl(
            "apply", "--server-side", "-n", candidates.namespace, "-f", "-", input=path.read_text()
        )
    named = manifests(path.stem)
    account = named["ServiceAccount"]["metadata"]["name"]
    pod = named["Deployment"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == account
    return account, pod


def kubeconfig_of(candidates: KubeCandidates, account: str) -> str:
    """Return the option with which a candidate has the rights of an account, and no others."""
    token = candidates.plane.token(candidates.namespace, account)
    return f"--kubeconfig={candidates.plane.kubeconfig_for(token, namespace=candidates.namespace)}"


@pytest.mark.parametrize("path", CANDIDATES, ids=[path.stem for path in CANDIDATES])
def test_a_manifest_applies_and_its_account_can_lead(
    candidates: KubeCandidates, path: Path
) -> None:
    """Server-side apply takes it twice; its ServiceAccount campaigns in the election it names."""
    account, pod = apply(candidates, path)
    containers = [*pod.get("initContainers", []), *pod["containers"]]
    words = [word for container in containers for word in words_of(container)]
    (election,) = [word for word in words if word.startswith("--election=")]
    lock = [election, kubeconfig_of(candidates, account)]
    for name in "ab":
        Candidates.make(candidates, name, lock=lock).start()
    (tree,) = candidates.witness.wait_running(1, timeout_s=20)
    candidates.leader(tree).terminate()
    successor = candidates.witness.wait_successor(tree, timeout_s=20)
    assert successor.candidate != tree.candidate
    for each in candidates.by_name.values():
        assert not each.events("forbidden"), "the role has every right, watching among them"
    candidates.assert_exclusive()


def test_a_pod_that_waits_for_a_leader(candidates: KubeCandidates) -> None:
    """The account of the example may see who leads, and do nothing else; its words wait for it."""
    account, pod = apply(candidates, WAITING)
    (waiting,) = pod["initContainers"]
    waiter = Candidates.make(
        candidates, "w", child=(), lock=[*waiting["args"], kubeconfig_of(candidates, account)]
    ).start()
    user = service_account_user(candidates.namespace, account)

    def verbs() -> set[str]:
        requests = candidates.plane.requests(candidates.namespace, "my-app")
        return {request.verb for request in requests if request.user == user}

    wait_until(verbs, timeout_s=BOUND_S, what="it looks")
    assert waiter.process.poll() is None, "nobody leads"
    leading, _ = apply(candidates, ROOT / "examples" / "deployment.yaml")
    lock = ["--election=my-app", kubeconfig_of(candidates, leading)]
    Candidates.make(candidates, "a", lock=lock).start()
    assert waiter.wait() == 0
    assert verbs() == {"get"}
    path = lease_path(candidates.namespace, "my-app")
    token = candidates.plane.token(candidates.namespace, account)
    assert candidates.plane.request("GET", path, token=token)[0] == 200
    merge = "application/merge-patch+json"
    assert candidates.plane.request("PATCH", path, {"spec": {}}, merge, token=token)[0] == 403


@pytest.mark.parametrize("path", MANIFESTS, ids=[path.stem for path in MANIFESTS])
def test_its_pods_may_run_where_pods_are_restricted(candidates: KubeCandidates, path: Path) -> None:
    """A namespace that enforces the strictest of the Pod Security Standards takes its pods."""
    strict = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    status, body = candidates.plane.request(
        "PATCH",
        f"/api/v1/namespaces/{candidates.namespace}",
        strict,
        content_type="application/merge-patch+json",
    )
    assert status == 200, body
    spec = manifests(path.stem)["Deployment"]["spec"]["template"]["spec"]
    lax = {
        **spec,
        "containers": [{**each, "securityContext": {}} for each in spec["containers"]],
    }

    def answer_to(pod: dict[str, Any]) -> int:
        status, _ = candidates.plane.request(
            "POST",
            f"/api/v1/namespaces/{candidates.namespace}/pods?dryRun=All",
            {"metadata": {"name": "pod"}, "spec": pod},
        )
        return status

    wait_until(lambda: answer_to(lax) == 403, timeout_s=BOUND_S, what="the namespace is strict")
    assert answer_to(spec) == 201


# --- the sidecar and the program beside it ---------------------------------------------------


class Program:
    """The Node program, asking one sidecar; ended with its context."""

    def __init__(self, directory: Path, elector_port: int) -> None:
        self._output = directory / f"node-{elector_port}"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [str(NODE), str(ROOT / "examples" / "master.mjs")],
                env={
                    "PATH": os.environ["PATH"],
                    "ELECTOR_GET_URL": f"http://127.0.0.1:{elector_port}/",
                    "INTERVAL_MS": str(int(INTERVAL_S * 1000)),
                    "PORT": "0",
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """End it, however it is."""
        self.process.kill()
        self.process.wait()

    def ask(self) -> http.client.HTTPConnection:
        """Ask it, and leave the answer to be read."""
        serving = re.compile(r"^serving on port (\d+)$", re.MULTILINE)
        match = wait_until(
            lambda: serving.search(self._output.read_text()),
            timeout_s=BOUND_S,
            what="the program serves",
        )
        assert match
        connection = http.client.HTTPConnection("127.0.0.1", int(match[1]), timeout=BOUND_S)
        connection.request("GET", "/")
        return connection

    def wait_says(self, answer: tuple[int, str]) -> None:
        """Wait until this is what it answers."""
        wait_until(
            lambda: read(self.ask()) == answer,
            timeout_s=BOUND_S,
            what=f"the program says {answer}; log:\n{self._output.read_text()[-2000:]}",
        )


def read(connection: http.client.HTTPConnection) -> tuple[int, str]:
    """Return the answer to a request: status and text."""
    with contextlib.closing(connection):
        answer = connection.getresponse()
        return answer.status, answer.read().decode().strip()


def start_sidecar(candidates: KubeCandidates, name: str, pod: str, port: int = 0) -> Candidate:
    """Start the sidecar of a pod on a port, a free one if it is 0."""
    options = (name, f"--http=127.0.0.1:{port}")
    sidecar = candidates.start(*options, child=(), env={"POD_NAME": pod})
    sidecar.wait_event("campaigning")
    return sidecar


Start = Callable[[str], tuple["Candidate", Program]]


@pytest.fixture
def start(candidates: KubeCandidates) -> Iterator[Start]:
    """What starts both containers of the pod of a name; the programs are ended with the test."""
    with contextlib.ExitStack() as stack:

        def both(name: str) -> tuple[Candidate, Program]:
            sidecar = start_sidecar(candidates, name, pod=name)
            program = Program(candidates.directory, sidecar.port)
            stack.callback(program.kill)
            return sidecar, program

        yield both


@needs_node
def test_programs_follow_the_master(candidates: KubeCandidates, start: Start) -> None:
    """Two programs say the same master; when its sidecar is ended, both say who follows."""
    leader, first = start("one")
    leader.wait_event("became leader")
    _, second = start("two")
    for program in (first, second):
        program.wait_says((200, "Master is one"))
    port = leader.port
    leader.terminate()
    assert leader.wait() == 143
    second.wait_says((200, "Master is two"))
    first.wait_says(UNKNOWN)
    start_sidecar(candidates, "one-again", pod="one", port=port)  # as a kubelet would
    for program in (first, second):
        program.wait_says((200, "Master is two"))
    first.process.terminate()
    assert first.process.wait(BOUND_S) == 0


@needs_node
@pytest.mark.parametrize("stands_still", [False, True])
def test_a_program_does_not_quote_a_sidecar_that_hangs(start: Start, stands_still: bool) -> None:
    """What cannot be asked is not believed, though it was told so a moment ago.

    Nor is what the program knew before it was itself stopped for longer than that.
    """
    sidecar, program = start("one")
    program.wait_says((200, "Master is one"))
    if stands_still:
        stop(program.process.pid)
    end_s = time.monotonic() + 2 * INTERVAL_S
    stop(sidecar.part("http"))
    if stands_still:
        asked = program.ask()
        wait_until(
            lambda: time.monotonic() > end_s, timeout_s=BOUND_S, what="the last answer is too old"
        )
        resume(program.process.pid)
        assert read(asked) == UNKNOWN
    program.wait_says(UNKNOWN)
    resume(sidecar.part("http"))
    program.wait_says((200, "Master is one"))


# --- the walk-through ------------------------------------------------------------------------


def walk_through() -> list[str]:
    """Return the console blocks of the README's walk-through."""
    text = (ROOT / "README.md").read_text()
    section = text.partition("\n## Try it on a cluster\n")[2].partition("\n## ")[0]
    return re.findall(r"```console\n(.*?)```", section, re.DOTALL)


def test_the_walk_through(candidates: KubeCandidates) -> None:
    """The pods that its commands make elect a leader; when it is deleted, another one leads."""
    (making,) = [block for block in walk_through() if "kubectl run" in block]
    program, namespace = candidates.plane.binaries.kubectl, candidates.namespace
    kubectl = f'kubectl() {{ "{program}" --namespace={namespace} "$@"; }}'
    subprocess.run(
        ["sh", "-euc", f"{kubectl}\n{making}"],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(candidates.directory),  # where kubectl keeps what it has learnt
            "KUBECONFIG": str(candidates.plane.admin_kubeconfig),
        },
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    status, listed = candidates.plane.request(
        "GET", f"/api/v1/namespaces/{candidates.namespace}/pods"
    )
    assert status == 200
    specs = {pod["metadata"]["name"]: pod["spec"] for pod in listed["items"]}
    assert sorted(specs) == ["example-1", "example-2", "example-3"]
    for name, spec in specs.items():
        (container,) = spec["containers"]
        assert "command" not in container, "the image's entry point stays"
        token = candidates.plane.token(candidates.namespace, spec["serviceAccountName"])
        kubeconfig = candidates.plane.kubeconfig_for(token, namespace=candidates.namespace)
        options = [*container["args"], f"--kubeconfig={kubeconfig}", "--http=127.0.0.1:0"]
        Candidates.make(candidates, name, lock=options, child=(), env={"POD_NAME": name}).start()
        wait_told(candidates.by_name[name], "example-1")
    leader, *others = candidates.by_name.values()
    assert leader.identity in candidates.plane.kubectl(
        "get", "lease", "example", "-n", candidates.namespace
    )
    leader.terminate()
    (successor,) = wait_until(
        lambda: [each for each in others if each.events("became leader")],
        timeout_s=BOUND_S,
        what="another one leads",
    )
    for candidate in others:
        wait_told(candidate, successor.name)


def wait_told(candidate: Candidate, name: str) -> None:
    """Wait until a candidate names this leader to whoever asks it."""
    url = f"http://127.0.0.1:{candidate.port}/"

    def told() -> str:
        with urllib.request.urlopen(url, timeout=BOUND_S) as answer:
            return str(json.load(answer)["name"])

    wait_until(lambda: told() == name, timeout_s=BOUND_S, what=f"{candidate.name} names {name}")
