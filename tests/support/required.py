"""What a machine lacks for a test: the test is skipped, unless everything is required.

Owns the rules by which a program and an injector that cannot be had end a test. Must not know which
program or injector.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NoReturn, TypeVar

import pytest

from tests.support.candidate import in_pid_namespace
from tests.support.lacking import Lacking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

T = TypeVar("T")

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and users need root")
#: Below another process, and as PID 1 of a namespace, as in a container.
as_pid_1 = pytest.mark.parametrize(
    "wrapper",
    [pytest.param([], id="below"), pytest.param(in_pid_namespace(), id="pid1", marks=root_only)],
)


@contextmanager
def or_skip(make: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
    """Enter an injector, or skip the test where the machine cannot have it."""
    with ExitStack() as stack:
        try:
            injector = stack.enter_context(make())
        except Lacking as reason:
            pytest.skip(str(reason))
        yield injector


def missing(what: str, reason: object) -> NoReturn:
    """Skip the present test for want of something; fail it where `LEADEREXEC_REQUIRE_KUBE=1`."""
    message = f"no {what}: {reason}"
    if os.environ.get("LEADEREXEC_REQUIRE_KUBE") == "1":
        pytest.fail(message)
    pytest.skip(message)
