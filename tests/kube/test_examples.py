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
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from leaderexec import config
from tests.support.candidate import ROOT, resume, stop
from tests.support.candidates import Candidates
from tests.support.controlplane import lease_path, service_account_user
from tests.support.wait import wait_until

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
IN_POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
UNKNOWN = (503, "Master is unknown")
BOUND_S = 30.0

needs_node = pytest.mark.skipif(NODE is None, reason="no node to run the example's program with")


# --- manifests -------------------------------------------------------------------------------


def objects(path: Path) -> dict[str, Any]:
    """Return the objects of a manifest by their kind."""
    return {item["kind"]: item for item in yaml.safe_load_all(path.read_text()) if item}


def apply(candidates: KubeCandidates, path: Path) -> tuple[str, dict[str, Any]]:
    """Apply a manifest twice, and return its account and what its pods are made of."""
    for _ in range(2):
        candidates.plane.kubectl(
            "apply", "--server-side", "-n", candidates.namespace, "-f", "-", input=path.read_text()
        )
    named = objects(path)
    account = named["ServiceAccount"]["metadata"]["name"]
    pod = named["Deployment"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == account
    return account, pod


def words_of(pod: dict[str, Any]) -> list[str]:
    """Return the words of all command lines of a pod."""
    return [
        word
        for container in [*pod.get("initContainers", []), *pod["containers"]]
        for word in [*container.get("command", []), *container.get("args", [])]
    ]


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
    (election,) = [word for word in words_of(pod) if word.startswith("--election=")]
    lock = [election, kubeconfig_of(candidates, account)]
    for name in "ab":
        Candidates.make(candidates, name, lock=lock).start()
    (tree,) = candidates.witness.wait_running(1, timeout_s=20)
    candidates.leader(tree).terminate()
    successor = candidates.witness.wait_successor(tree, timeout_s=20)
    assert successor.candidate != tree.candidate
    refusals = [
        e["event"]
        for c in candidates.by_name.values()
        for e in c.events()
        if "forbidden" in e["event"]
    ]
    assert not refusals, "the role has every right that is needed, watching among them"
    candidates.assert_exclusive()


def test_a_pod_that_waits_for_a_leader(candidates: KubeCandidates) -> None:
    """The account of the example may see who leads, and do nothing else; its words wait for it."""
    account, pod = apply(candidates, WAITING)
    (waiting,) = pod["initContainers"]
    waiter = Candidates.make(
        candidates, "w", child=(), lock=[*waiting["args"], kubeconfig_of(candidates, account)]
    ).start()
    user = service_account_user(candidates.namespace, account)

    def asked() -> bool:
        requests = candidates.plane.requests(candidates.namespace, "my-app")
        return any(request.user == user for request in requests)

    wait_until(asked, timeout_s=BOUND_S, what="it looks")
    assert waiter.process.poll() is None, "nobody leads"
    leading, _ = apply(candidates, ROOT / "examples" / "deployment.yaml")
    lock = ["--election=my-app", kubeconfig_of(candidates, leading)]
    Candidates.make(candidates, "a", lock=lock).start()
    assert waiter.wait() == 0
    verbs = {
        request.verb
        for request in candidates.plane.requests(candidates.namespace, "my-app")
        if request.user == user
    }
    assert verbs == {"get"}
    path = lease_path(candidates.namespace, "my-app")
    token = candidates.plane.token(candidates.namespace, account)
    assert candidates.plane.request("GET", path, token=token)[0] == 200
    status, _ = candidates.plane.request(
        "PATCH", path, {"spec": {}}, "application/merge-patch+json", token=token
    )
    assert status == 403


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
    spec = objects(path)["Deployment"]["spec"]["template"]["spec"]
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


def parsed(words: list[str], *directories: str) -> config.Config:
    """Read a command line as in a container that has these directories."""
    host = config.Host(
        hostname=lambda: "a-0",
        is_init=lambda: True,
        read_text=lambda _: "default",
        file_problem=lambda _: None,
        is_directory=lambda path: path in directories,
    )
    settings = config.parse(words, {} if directories else IN_POD, host=host)
    assert isinstance(settings, config.Config)
    return settings


def test_the_injecting_pod_runs_what_its_init_container_installs() -> None:
    """What is installed where, and what the main container runs, are the same, in one volume."""
    named = objects(ROOT / "examples" / "injecting-pod.yaml")
    pod = named["Deployment"]["spec"]["template"]["spec"]
    (init,), (main,) = pod["initContainers"], pod["containers"]
    installed = config.parse(init["args"], {})
    assert isinstance(installed, config.InstallRequested)
    (source,), (target,) = init["volumeMounts"], main["volumeMounts"]
    assert source["mountPath"] == target["mountPath"] == installed.directory
    assert target["readOnly"]
    assert main["command"][0] == f"{installed.directory}/leaderexec"
    (volume,) = pod["volumes"]
    assert source["name"] == target["name"] == volume["name"]
    assert "emptyDir" in volume
    settings = parsed(main["command"][1:])
    assert settings.command
    assert pod["terminationGracePeriodSeconds"] * 10**9 >= settings.stop_timeout_ns + 9 * 10**9
    assert init["securityContext"] == main["securityContext"]


def test_the_compose_file() -> None:
    """Its services say what compose wants, and its command holds the election on its own volume."""
    composed = yaml.safe_load((ROOT / "examples" / "compose.yaml").read_text())
    assert set(composed) == {"name", "services", "volumes"}
    server, volume = composed["services"]["server"], composed["services"]["volume"]
    assert (server["build"]["context"], server["scale"] > 1) == ("..", True)
    assert (ROOT / server["build"]["dockerfile"]).exists()
    (shared,) = server["volumes"]
    name, _, place = shared.partition(":")
    assert server["entrypoint"][0] == "leaderexec"
    settings = parsed([*server["entrypoint"], *server["command"]][1:], place)
    assert isinstance(settings.lock, config.FileLockSpec)
    assert settings.command == tuple(server["command"])
    assert settings.lock.path.startswith(f"{place}/"), "the directory is shared, not the file"
    assert composed["volumes"] == {name: {"driver": "local"}}
    assert volume["volumes"] == server["volumes"]
    assert volume["command"] == ["chown", server["user"], place]
    assert "init" not in server
    grace = server["stop_grace_period"]
    assert config.parse_duration(grace) >= settings.stop_timeout_ns + 9 * 10**9
    for each in (server, volume):
        assert each["read_only"]
        assert (each["cap_drop"], each["security_opt"]) == (["ALL"], ["no-new-privileges:true"])


# --- the sidecar and the program beside it ---------------------------------------------------


class Program:
    """The Node program, asking one sidecar."""

    def __init__(self, directory: Path, name: str, elector_port: int) -> None:
        self._output = directory / f"{name}.node"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
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

    @property
    def port(self) -> int:
        """The port that it serves on."""
        match = wait_until(
            lambda: re.search(r"^serving on port (\d+)$", self._output.read_text(), re.MULTILINE),
            timeout_s=BOUND_S,
            what="the program serves",
        )
        assert match
        return int(match[1])

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def says(self) -> tuple[int, str]:
        """Return what it answers: status and text."""
        with contextlib.closing(self.ask()) as connection:
            return read(connection)

    def ask(self) -> http.client.HTTPConnection:
        """Ask it, and leave the answer to be read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=BOUND_S)
        connection.request("GET", "/")
        return connection

    def wait_says(self, answer: tuple[int, str]) -> None:
        """Wait until this is what it answers."""
        wait_until(
            lambda: self.says() == answer,
            timeout_s=BOUND_S,
            what=f"the program says {answer}; log:\n{self._output.read_text()[-2000:]}",
        )

    def terminate(self) -> int:
        """Ask it to stop and return its exit code."""
        self._process.terminate()
        return self._process.wait(BOUND_S)

    def kill(self) -> None:
        """End it, however it is."""
        self._process.kill()
        self._process.wait()


def read(connection: http.client.HTTPConnection) -> tuple[int, str]:
    """Return the answer to a request: status and text."""
    answer = connection.getresponse()
    return answer.status, answer.read().decode().strip()


class Pods:
    """Pairs of a sidecar and a program, as two containers of one pod."""

    def __init__(self, candidates: KubeCandidates, stack: contextlib.ExitStack) -> None:
        self._candidates = candidates
        self._stack = stack

    def start_sidecar(self, name: str, pod: str, port: int = 0) -> Candidate:
        """Start the sidecar of a pod on a port, a free one if it is 0."""
        sidecar = self._candidates.start(
            name, f"--http=127.0.0.1:{port}", child=(), env={"POD_NAME": pod}
        )
        sidecar.wait_event("campaigning")
        return sidecar

    def start(self, name: str) -> tuple[Candidate, Program]:
        """Start both containers of the pod of this name."""
        sidecar = self.start_sidecar(name, pod=name)
        program = Program(self._candidates.directory, name, sidecar.port)
        self._stack.callback(program.kill)
        return sidecar, program


@pytest.fixture
def pods(candidates: KubeCandidates) -> Iterator[Pods]:
    """Pods that are ended with the test."""
    with contextlib.ExitStack() as stack:
        yield Pods(candidates, stack)


@needs_node
def test_programs_follow_the_master(pods: Pods) -> None:
    """Two programs say the same master; when its sidecar is ended, both say who follows."""
    leader, first = pods.start("one")
    leader.wait_event("became leader")
    _, second = pods.start("two")
    for program in (first, second):
        program.wait_says((200, "Master is one"))
    port = leader.port
    leader.terminate()
    assert leader.wait() == 143
    second.wait_says((200, "Master is two"))
    first.wait_says(UNKNOWN)
    pods.start_sidecar("one-again", pod="one", port=port)  # as a kubelet would
    first.wait_says((200, "Master is two"))
    assert second.says() == (200, "Master is two")
    assert first.terminate() == 0


@needs_node
def test_a_program_does_not_quote_a_sidecar_that_hangs(pods: Pods) -> None:
    """What cannot be asked is not believed, though it was told so a moment ago."""
    sidecar, program = pods.start("one")
    program.wait_says((200, "Master is one"))
    server = sidecar.part("http")
    stop(server)
    program.wait_says(UNKNOWN)
    resume(server)
    program.wait_says((200, "Master is one"))


@needs_node
def test_a_program_that_stood_still_does_not_quote_what_it_knew(pods: Pods) -> None:
    """Whoever asks while it is stopped is not told afterwards what was true before."""
    sidecar, program = pods.start("one")
    program.wait_says((200, "Master is one"))
    stop(program.pid)
    stopped_s = time.monotonic()
    stop(sidecar.part("http"))  # so that nothing newer is known either, nor that it cannot be
    with contextlib.closing(program.ask()) as asked:
        wait_until(
            lambda: time.monotonic() - stopped_s > 2 * INTERVAL_S,
            timeout_s=BOUND_S,
            what="the last answer is too old",
        )
        resume(program.pid)
        assert read(asked) == UNKNOWN


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
        candidates.by_name[name].wait_event("campaigning")
        if name == "example-1":
            candidates.by_name[name].wait_event("became leader")
    leader, *others = candidates.by_name.values()
    assert leader.identity in candidates.plane.kubectl(
        "get", "lease", "example", "-n", candidates.namespace
    )
    for candidate in candidates.by_name.values():
        candidate.wait_event(f"leader is {leader.identity}")
        wait_told(candidate, "example-1")
    leader.terminate()
    (successor,) = wait_until(
        lambda: [each for each in others if each.events("became leader")],
        timeout_s=BOUND_S,
        what="another one leads",
    )
    for candidate in others:
        candidate.wait_event(f"leader is {successor.identity}")
        wait_told(candidate, successor.name)


def wait_told(candidate: Candidate, name: str) -> None:
    """Wait until a candidate names this leader to whoever asks it."""
    url = f"http://127.0.0.1:{candidate.port}/"

    def told() -> str:
        with urllib.request.urlopen(url, timeout=BOUND_S) as answer:
            return str(json.load(answer)["name"])

    wait_until(lambda: told() == name, timeout_s=BOUND_S, what=f"{candidate.name} names {name}")
