"""What a machine lacks for a test: the test is skipped, unless everything is required.

Owns the one rule by which a program that cannot be had ends a test. Must not know which program.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str, reason: object) -> NoReturn:
    """Skip the present test for want of something; fail it where `LEADEREXEC_REQUIRE_KUBE=1`."""
    message = f"no {what}: {reason}"
    if os.environ.get("LEADEREXEC_REQUIRE_KUBE") == "1":
        pytest.fail(message)
    pytest.skip(message)
