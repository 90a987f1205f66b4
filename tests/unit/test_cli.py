"""What the command line opens before anything runs, and what it tells the child of it."""

from __future__ import annotations

import socket
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

from leaderexec import cli, config, linux, log
from leaderexec.config import HttpSpec, UsageError
from leaderexec.model import SECOND_US, LockTraits
from tests.support.http_clients import has_ipv6

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from leaderexec.elector import Candidacy

#: For documentation only: no machine has it.
NOWHERE = "192.0.2.1"

_IPV6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def listen(host: str, port: int = 0) -> list[str]:
    """Listen on a host and a port, and return the addresses, which are closed again."""
    sockets = cli._listen(HttpSpec(host, port))
    addresses = [each.getsockname()[0] for each in sockets]
    for each in sockets:
        each.close()
    return addresses


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let every name have these addresses."""

    def getaddrinfo(_: str, port: int, **__: Any) -> list[Any]:
        return [
            (socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, 6, "", where)
            for each in addresses
            for where in [(each, port, 0, 0) if ":" in each else (each, port)]
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize(
    ("addresses", "here"),
    [
        pytest.param(
            ["127.0.0.1", "::1", "127.0.0.1", "127.0.0.2"],
            ["127.0.0.1", "::1", "127.0.0.2"],
            marks=_IPV6,
            id="both families, each address once, on one port",
        ),
        pytest.param([NOWHERE, "127.0.0.1"], ["127.0.0.1"], id="one of another machine"),
        pytest.param(["127.0.0.1", "2001:db8::1"], ["127.0.0.1"], id="a family that is lacking"),
    ],
)
def test_every_address_of_a_name_that_is_here_is_listened_on(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str], here: list[str]
) -> None:
    """One that is not here is done without."""
    resolve_to(monkeypatch, *addresses)
    assert listen("name") == here


@_IPV6
@pytest.mark.parametrize(
    ("host", "answering"),
    [
        ("", {"127.0.0.1", "::1"}),
        ("127.0.0.1", {"127.0.0.1"}),
        ("::1", {"::1"}),
        ("::", {"::1"}),
        ("0.0.0.0", {"127.0.0.1"}),
    ],
)
def test_it_listens_where_it_was_told_to(host: str, answering: set[str]) -> None:
    """A port alone means both families; an address means itself."""
    sockets = cli._listen(HttpSpec(host, 0))
    port = sockets[0].getsockname()[1]

    def answers(address: str) -> bool:
        try:
            socket.create_connection((address, port)).close()
        except OSError:
            return False
        return True

    assert {address for address in ("127.0.0.1", "::1") if answers(address)} == answering
    for each in sockets:
        each.close()


def test_a_name_without_an_address_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has to be able to ask; and so is a name that nobody knows."""
    with pytest.raises(UsageError, match=r"^--http no.invalid:0: cannot listen: .*; accepted: "):
        listen("no.invalid")
    resolve_to(monkeypatch, NOWHERE, "2001:db8::1")
    with pytest.raises(UsageError, match=r"^--http name:0: cannot listen: .*; accepted: "):
        listen("name")


def test_a_port_that_is_taken_on_one_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what was asked for would answer half of those who ask; what was opened is closed."""
    resolve_to(monkeypatch, "127.0.0.2", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"^--http name:{port}: .* in use"):
            listen("name", port)
        socket.create_server(("127.0.0.2", port)).close()


@_IPV6
def test_without_dual_stack_a_port_alone_means_all_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One socket for each family then."""
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    assert sorted(listen("")) == ["0.0.0.0", "::"]


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("", "localhost"),
        ("0.0.0.0", "localhost"),
        ("::", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "[::1]"),
        ("web.example", "web.example"),
    ],
)
def test_the_child_is_told_where_to_ask(host: str, told: str) -> None:
    """All addresses means this machine; an IPv6 address is written in brackets."""
    assert cli._elector_variables(host, 4040) == {
        "ELECTOR_PATH": f"{told}:4040",
        "ELECTOR_GET_URL": f"http://{told}:4040/",
        "ELECTOR_SSE_URL": f"http://{told}:4040/events",
    }


# --- who campaigns -----------------------------------------------------------------------------


@pytest.fixture
def candidacy_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Candidacy]:
    """Read a command line as PID 1 of a container in its slot; return what an elector is told."""
    elector = Mock()
    monkeypatch.setattr(cli, "Elector", elector)
    monkeypatch.setattr(cli, "Guardian", lambda _, run, *__: Mock(run=partial(run, None)))
    monkeypatch.setattr(linux, "claim_name", lambda _: None)
    monkeypatch.setattr(log, "configure", Mock())

    def candidacy_of(*words: str) -> Candidacy:
        in_pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
        in_slot = {"POD_UID": "0" * 32, "CONTAINER_NAME": "server"}
        host = config.Host(
            is_init=lambda: True, read_text=lambda _: "default", file_problem=lambda _: None
        )
        settings = config.parse(["--election=x", *words], {**in_pod, **in_slot}, host=host)
        assert isinstance(settings, config.Config)
        cli._serve(settings, None, {}, [])
        told: Candidacy = elector.call_args.args[1]
        return told

    return candidacy_of


@pytest.mark.parametrize(
    ("lock", "traits"),
    [
        ("endpoints", LockTraits(SECOND_US, peers_judge_by_own_duration=True)),
        ("configmaps", LockTraits(SECOND_US, peers_judge_by_own_duration=True)),
        ("leases", LockTraits()),
        ("file:/run/x", LockTraits()),
    ],
)
def test_candidates_of_2016_are_heeded_where_they_can_stand(
    candidacy_of: Callable[..., Candidacy], lock: str, traits: LockTraits
) -> None:
    """Rule 13: beside an annotation others wait for their own duration, and write whole seconds."""
    assert candidacy_of(f"--lock={lock}").traits == traits


def test_only_one_candidate_goes_by_the_name_of_its_slot(
    candidacy_of: Callable[..., Candidacy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 12: whoever finds the claim taken has a random name, which is not believed alone."""
    with socket.socket() as claim:
        claims = [claim, None]
        monkeypatch.setattr(linux, "claim_name", lambda _: claims.pop(0))
        first, second = candidacy_of(), candidacy_of()
    assert (first.slot, second.slot) == (True, False)
    assert first.identity != second.identity
    named = candidacy_of("--id=me")
    assert (named.identity, named.unique, named.slot) == ("me", False, False)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        pytest.param(
            ["--election=x", "--lock=file:/dev/full"],
            "--lock file:/dev/full: ",
            id="a lock file that cannot serve",
        ),
        pytest.param(
            ["--election=x", "--lock=file:{here}/lock", f"--http={NOWHERE}:80"],
            f"--http {NOWHERE}:80: ",
            id="an address of another machine",
        ),
        pytest.param(["install", "{here}"], "install: ", id="nothing to install"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_runs(
    words: list[str], says: str, tmp_path: Path
) -> None:
    """One line names the flag and what is wrong, the exit code is that of usage."""
    command = [sys.executable, "-m", "leaderexec", *(word.format(here=tmp_path) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert says in done.stderr
    assert not list(tmp_path.iterdir())
