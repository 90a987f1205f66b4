"""Counts how long a peer process has been silent, in time that we ourselves were awake.

Owns the one rule by which guardian, elector and keeper take each other for dead. A machine that
was suspended, or a process that was itself stopped, wakes to find that everybody has been silent;
that silence proves nothing, so time in which nobody looked does not count.
"""

from __future__ import annotations


class Vigil:
    """The silence of one peer: `bound_ns` of it, while we looked at least every `pause_ns`."""

    def __init__(self, *, bound_ns: int, pause_ns: int, now_ns: int) -> None:
        self.bound_ns = bound_ns
        self._pause_ns = pause_ns
        self._heard_ns = now_ns
        self._looked_ns = now_ns

    def heard(self, now_ns: int) -> None:
        """Take note of a sign of life."""
        self._heard_ns = now_ns
        self._looked_ns = now_ns

    def silent(self, now_ns: int) -> bool:
        """Whether the peer has been silent for longer than the bound."""
        unseen_ns = now_ns - self._looked_ns
        if unseen_ns > self._pause_ns:
            self._heard_ns += unseen_ns
        self._looked_ns = now_ns
        return now_ns - self._heard_ns > self.bound_ns

    @property
    def due_ns(self) -> int:
        """When the silence will have been too long."""
        return self._heard_ns + self.bound_ns + 1
