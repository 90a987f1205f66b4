"""What an injector raises that a machine cannot have; imported where pytest is not."""

from __future__ import annotations


class Lacking(Exception):
    """This machine cannot have it; the message says why."""
