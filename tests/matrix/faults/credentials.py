"""What befalls a candidate's credentials, and the way on which it finds the API server.

A token that is refused here is refused by the API server itself, because its time is over; a right
that is missing is missing in the role. The account is one of the fault's own, so that what it is
given and refused does not depend on the competitor.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from tests.matrix.model import After, Fault
from tests.support.competitors import AWAIT_ELECTION, CLIENT_GO, OURS
from tests.support.controlplane import lease_path
from tests.support.kube_candidates import API_NAME
from tests.support.names import NameServer
from tests.support.plugin import ExecPlugin
from tests.support.witness import now_ns

if TYPE_CHECKING:
    from pathlib import Path

    from tests.matrix.scenario import Scenario

GROUP: Final = "credentials"
_STUBBORN: Final = ("--ignore", "TERM")
_ACCOUNT: Final = "own"
_ROLE: Final = (
    f"/apis/rbac.authorization.k8s.io/v1/namespaces/{{}}/roles/leaderexec-{_ACCOUNT}-leases-x"
)
#: The API server takes a token for a minute longer than it says.
_LENIENCE_S: Final = 60
#: How long a token is good that is to expire under a leader: it must have begun to lead by then.
_BRIEF_S: Final = 25
#: client-go reads its token anew after most of a minute, and not when it is refused.
_CLIENT_GO_READS_S: Final = 60
#: By when it is refused, with what the API server remembers of tokens that it has seen.
_REFUSED_S: Final = 150


class _Account:
    """A service account with the rights of a candidate, and a file with its token."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._plane = scenario.plane
        self._namespace = scenario.candidates.namespace
        self.token_path = scenario.directory / "own-token"
        self._plane.service_account(self._namespace, _ACCOUNT)
        self._plane.grant(self._namespace, _ACCOUNT, "x")
        self.hand_out()

    def hand_out(self) -> None:
        """Replace the token by one that lasts."""
        self._write(self._plane.token(self._namespace, _ACCOUNT))

    def hand_out_briefly(self, good_s: float = _BRIEF_S) -> str:
        """Replace the token by one that the API server will refuse by then, and return it."""
        token = self._plane.sign_token(self._namespace, _ACCOUNT, good_s - _LENIENCE_S)
        self._write(token)
        return token

    def refused(self, token: str) -> bool:
        """Whether the API server takes this token no more."""
        path = lease_path(self._namespace, "x")
        return self._plane.request("GET", path, token=token)[0] == HTTPStatus.UNAUTHORIZED

    def _write(self, token: str) -> None:
        part = self.token_path.with_suffix(".part")
        part.write_text(token)
        part.replace(self.token_path)

    def kubeconfig(self, name: str) -> Path:
        """Return a kubeconfig with this account for a candidate behind its proxy."""
        return self._plane.kubeconfig_for(
            token_file=self.token_path,
            namespace=self._namespace,
            server_url=self._scenario.proxy(name).url,
        )

    def option(self, name: str) -> str:
        """Return what makes a candidate use this account."""
        return f"--kubeconfig={self.kubeconfig(name)}"

    def take_updating(self) -> list[dict[str, Any]]:
        """Take the right to update the Lease out of the role, and return what rules it had."""
        path = _ROLE.format(self._namespace)
        status, role = self._plane.request("GET", path)
        assert status == 200, role
        rules = role["rules"]
        verbs = [[verb for verb in rule["verbs"] if verb != "update"] for rule in rules]
        less = [{**rule, "verbs": left} for rule, left in zip(rules, verbs, strict=True)]
        assert less != rules, rules
        self.set_rules(less)
        return list(rules)

    def set_rules(self, rules: list[dict[str, Any]]) -> None:
        """Let the role have these rules."""
        status, answer = self._plane.request(
            "PATCH",
            _ROLE.format(self._namespace),
            {"rules": rules},
            content_type="application/merge-patch+json",
        )
        assert status == 200, answer


def _answers(scenario: Scenario, name: str, status: int, *, since_ns: int = 0) -> int:
    """Count what the API server has answered a candidate with this status."""
    requests = scenario.proxy(name).requests()
    return sum(r.upstream_status == status and r.at_ns > since_ns for r in requests)


def _prove_refused(scenario: Scenario, name: str, status: int) -> None:
    scenario.prove(
        f"the API server answers {name} {status:d}",
        lambda: _answers(scenario, name, status),
        timeout_s=_REFUSED_S,
    )
    scenario.begin()


# --- tokens and rights


def _expired(scenario: Scenario) -> None:
    account = _Account(scenario)
    account.hand_out_briefly()
    scenario.pair(account.option("a"), child=_STUBBORN)
    _prove_refused(scenario, "a", HTTPStatus.UNAUTHORIZED)
    scenario.ends()
    scenario.successor()
    rotated_ns = now_ns()
    account.hand_out()
    back = scenario.came(
        lambda: _answers(scenario, "a", HTTPStatus.OK, since_ns=rotated_ns),
        timeout_s=scenario.patience_s(),
    )
    scenario.require("with the new token it stands by again", back)


def _rotated(scenario: Scenario) -> None:
    account = _Account(scenario)
    good_s = _BRIEF_S if scenario.ours else _BRIEF_S + _CLIENT_GO_READS_S
    good_until_ns = now_ns() + int(good_s * 1e9)
    token = account.hand_out_briefly(good_s)
    scenario.pair(account.option("a"))
    account.hand_out()
    scenario.prove(
        "the first token is refused",
        lambda: now_ns() >= good_until_ns and account.refused(token),
        timeout_s=_REFUSED_S,
    )
    scenario.begin()
    scenario.require("it renews with the new token", scenario.renewed("a"))


def _may_not_update(scenario: Scenario) -> None:
    account = _Account(scenario)
    scenario.leader(account.option("a"), child=_STUBBORN)
    scenario.standby("b", account.option("b"))
    taken_ns = now_ns()
    rules = account.take_updating()
    _prove_refused(scenario, "a", HTTPStatus.FORBIDDEN)
    scenario.ends()
    scenario.elapse(1.5)
    given_ns = now_ns()
    account.set_rules(rules)
    scenario.mended()
    meanwhile = [t for t in scenario.witness.trees() if taken_ns < t.started_ns < given_ns]
    scenario.require("nobody begins to lead who may not update", not meanwhile)
    scenario.successor()


# --- what hangs on the way to the API server


def _plugin_hangs(scenario: Scenario) -> None:
    account = _Account(scenario)
    with ExecPlugin(scenario.directory, account.token_path) as plugin:
        kubeconfig = account.kubeconfig("a")
        plugin.write_into(kubeconfig)
        leader = scenario.pair(f"--kubeconfig={kubeconfig}", child=_STUBBORN)
        plugin.hang()
        scenario.network("a", lambda proxy: proxy.answer(401), "answered")
        scenario.prove(
            "the plugin hangs and has left a daemon", lambda: bool(plugin.wait_hanging())
        )
        scenario.ends()
        scenario.successor()
        scenario.prove("the daemon is there throughout the handover", lambda: bool(plugin.daemons))
        scenario.proxy("a").pass_through()
        _ask_to_stop(scenario, leader.name)


def _names_hang(scenario: Scenario) -> None:
    proxy = scenario.proxy("a")
    with NameServer(scenario.directory) as names:
        url = proxy.url.replace("127.0.0.1", API_NAME)
        kubeconfig = scenario.plane.kubeconfig_for(
            token_file=scenario.candidates.token_path,
            namespace=scenario.candidates.namespace,
            server_url=url,
        )
        options = (f"--kubeconfig={kubeconfig}",) if scenario.ours else ()
        scenario.leader(
            *options,
            child=_STUBBORN,
            wrapper=names.wrapper,
            env={"KUBERNETES_SERVICE_HOST": API_NAME},
        )
        scenario.standby()
        scenario.prove("it asks for the name", lambda: names.answered)
        names.hang()
        scenario.network("a", lambda proxy: proxy.reset(), "resets")
        scenario.prove("a query is swallowed", lambda: names.swallowed)
        scenario.ends()
        scenario.successor()
        _ask_to_stop(scenario, "a")


def _ask_to_stop(scenario: Scenario, name: str) -> None:
    """Ask a candidate that hangs to stop, and see how long that takes."""
    asked_ns = now_ns()
    candidate = scenario.candidate(name)
    if candidate.process.poll() is None:
        candidate.terminate()
    code = scenario.exit_code(candidate)
    scenario.require(f"{name} ends when it is asked to", code is not None)
    scenario.facts["end_s"] = round((now_ns() - asked_ns) / 1e9, 2)


FAULTS: Final = (
    Fault(
        "token expired", GROUP, "the leader's token expires, and is rotated too late",
        _expired, competitors=(OURS, CLIENT_GO),
    ),
    Fault(
        "token rotated", GROUP, "the leader's token expires after a new one was handed out",
        _rotated, after=After.KEPT, competitors=(OURS, CLIENT_GO),
    ),
    Fault(
        "right to update taken", GROUP, "the role loses `update` for leases, and gets it back",
        _may_not_update, after=After.ANYTHING, competitors=(OURS, CLIENT_GO),
    ),
    Fault(
        "exec plugin hangs", GROUP, "the leader's credential plugin hangs and leaves a daemon",
        _plugin_hangs, competitors=(OURS, CLIENT_GO),
    ),
    Fault(
        "DNS hangs", GROUP, "the leader's connections break, and its API server's name hangs",
        _names_hang, competitors=(OURS, AWAIT_ELECTION),
    ),
)  # fmt: skip
