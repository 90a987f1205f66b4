"""Many standbys of leaderexec as the API server sees them, in one process: a load, not candidates.

Each is the lock of leaderexec itself, with connections of its own, read and watched as an elector
does it: one read, one watch, and when the server ends that, the next one and a read beside it.
It runs until the end of its standard input, and tells every second the number of open watches, of
events received, and of failures. The server ends each watch after some minutes, so the first life
of each is a random part of one, as if it had been there for long.
"""

from __future__ import annotations

import argparse
import math
import random
import select
import sys
import threading
import time
from collections import Counter
from typing import Final

from leaderexec.locks import kubeobject
from leaderexec.locks.base import LockError
from leaderexec.locks.kubeapi import Api, Credentials
from leaderexec.locks.lease import LeaseLock
from leaderexec.model import SECOND_NS, Timing

_OPEN, _EVENTS, _FAILED = "open", "events", "failed"
_TIMING: Final = Timing()
_CALL_TIMEOUT_S: Final = _TIMING.call_timeout_ns / SECOND_NS
_RETRY_S: Final = _TIMING.retry_period_ns / SECOND_NS


class Watchers:
    """The standbys of one process, each in a thread."""

    def __init__(self, kubeconfig: str, namespace: str, election: str) -> None:
        self._credentials = Credentials(in_cluster=False, kubeconfig=kubeconfig)
        self._namespace = namespace
        self._election = election
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def start(self, count: int) -> None:
        """Start them one after the other, each in the middle of its first watch."""
        lives_s = kubeobject._WATCH_S
        for _ in range(count):
            # How much is left of a watch that somebody finds open: long ones are found more often.
            life_s = math.sqrt(random.uniform(lives_s[0] ** 2, lives_s[1] ** 2))
            rest_s = max(1, round(random.uniform(0, life_s)))
            kubeobject._WATCH_S = (rest_s, rest_s)  # type: ignore[misc]
            opened = threading.Event()
            threading.Thread(target=self._stand_by, args=(opened,), daemon=True).start()
            opened.wait()
        kubeobject._WATCH_S = lives_s  # type: ignore[misc]

    def _count(self, name: str, by: int = 1) -> None:
        with self._lock:
            self.counts[name] += by

    def _stand_by(self, opened: threading.Event) -> None:
        lock = LeaseLock(Api(self._credentials), self._namespace, self._election)
        seen = None
        while True:
            is_open = False
            rest_s = random.random() * _RETRY_S / 4  # both rests are those of the elector's core
            try:
                if not opened.is_set():
                    seen = lock.read(_CALL_TIMEOUT_S)
                for version in lock.watch(seen):
                    if is_open:
                        self._count(_EVENTS)
                        seen = version
                        continue
                    is_open = True
                    self._count(_OPEN)
                    if opened.is_set():
                        seen = lock.read(_CALL_TIMEOUT_S)
                    opened.set()
            except LockError:
                self._count(_FAILED)
                rest_s = (0.5 + random.random() / 2) * _RETRY_S
            if is_open:
                self._count(_OPEN, -1)
            time.sleep(rest_s)


def main() -> None:
    """Stand by until the end of standard input."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option in ("kubeconfig", "namespace", "election"):
        parser.add_argument(f"--{option}", required=True)
    parser.add_argument("--count", type=int, required=True)
    options = parser.parse_args()
    watchers = Watchers(options.kubeconfig, options.namespace, options.election)
    threading.Thread(target=watchers.start, args=(options.count,), daemon=True).start()
    while not select.select([sys.stdin], [], [], 1)[0]:
        print(*(watchers.counts[name] for name in (_OPEN, _EVENTS, _FAILED)), flush=True)


if __name__ == "__main__":
    main()
