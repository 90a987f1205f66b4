"""The Deployment of the examples works when it is applied, with the rights that it gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from tests.support.candidates import ROOT
from tests.support.rally import Rally

if TYPE_CHECKING:
    from tests.support.kube_rally import KubeRally


def test_the_deployment_applies_and_its_account_can_lead(rally: KubeRally) -> None:
    """Server-side apply takes it twice; its ServiceAccount campaigns in the election it names."""
    path = ROOT / "examples" / "deployment.yaml"
    for _ in range(2):
        rally.plane.kubectl(
            "apply", "--server-side", "-n", rally.namespace, "-f", "-", input=path.read_text()
        )
    objects: dict[str, Any] = {o["kind"]: o for o in yaml.safe_load_all(path.read_text()) if o}
    account = objects["ServiceAccount"]["metadata"]["name"]
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == account
    (container,) = pod["containers"]
    words = [*container.get("command", []), *container.get("args", [])]
    election = next(word for word in words if word.startswith("--election="))
    token = rally.plane.token(rally.namespace, account)
    kubeconfig = rally.plane.kubeconfig_for(token, namespace=rally.namespace)
    for name in "ab":
        candidate = Rally.make(rally, name, lock=[election, f"--kubeconfig={kubeconfig}"])
        candidate.start()
    (tree,) = rally.witness.wait_running(1, timeout_s=20)
    rally.leader(tree).terminate()
    successor = rally.witness.wait_successor(tree, timeout_s=20)
    assert successor.candidate != tree.candidate
    refusals = [
        e["event"]
        for c in rally.candidates.values()
        for e in c.events()
        if "forbidden" in e["event"]
    ]
    assert not refusals, "the role has every right that is needed, watching among them"
    rally.assert_exclusive()
