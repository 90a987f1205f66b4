"""Counts how long a peer process has been silent, in time that we ourselves were awake.

Owns the one rule by which guardian, elector and keeper take each other for dead. A machine that
was suspended, or a process that was itself stopped, wakes to find that everybody has been silent;
that silence proves nothing, so a peer is heard out before it is judged by somebody who overslept.
"""

from __future__ import annotations


class Vigil:
    """The silence of one peer: more than `bound_ns` of it is too much.

    Whoever has not looked for more than `pause_ns` was not awake to hear: the peer then has at
    least `pause_ns` more to speak.
    """

    def __init__(self, *, bound_ns: int, pause_ns: int, now_ns: int) -> None:
        self._bound_ns = bound_ns
        self._pause_ns = pause_ns
        self._heard_ns = now_ns
        self._looked_ns = now_ns

    @property
    def due_ns(self) -> int:
        """When to look at the latest: often enough to know a pause of our own from silence."""
        return min(self._heard_ns + self._bound_ns + 1, self._looked_ns + self._pause_ns // 2)

    def heard(self, now_ns: int) -> None:
        """Take note of a sign of life."""
        self._heard_ns = now_ns
        self._looked_ns = now_ns

    def silent(self, now_ns: int) -> bool:
        """Whether the peer has been silent for too long."""
        if now_ns - self._looked_ns > self._pause_ns:
            self._heard_ns = max(self._heard_ns, now_ns - self._bound_ns + self._pause_ns)
        self._looked_ns = now_ns
        return now_ns - self._heard_ns > self._bound_ns
