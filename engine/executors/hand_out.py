"""Which worker makes which shard: handed out as workers ask, and again where a worker dies.

What comes out does not depend on it, since a shard is a function of its number.
"""

from collections import deque
from collections.abc import Iterable
from typing import Literal

Answer = int | Literal["wait", "end"]
"""To a worker that asks: a shard; nothing now, so finish what you have and ask again; or nothing ever."""


class HandOut:
    """Shards that nobody has yet, and who has the others."""

    def __init__(self, shards: Iterable[int]) -> None:
        self._waiting = deque(shards)
        self._running: dict[str, set[int]] = {}
        """By worker that is at work."""

    def arrive(self, worker: str) -> list[int]:
        """A worker is ready. Where one of its name had shards, that one is gone: they wait again, and are returned."""
        lost = self.lose(worker)
        self._running[worker] = set()
        return lost

    def take(self, worker: str) -> Answer:
        """The next shard for a worker.

        One that has shards gets no more where others would soon have none, so that all end at about the same time.
        """
        mine = self._running[worker]
        if self._waiting and (not mine or len(self._waiting) >= len(self._running)):
            mine.add(self._waiting[0])
            return self._waiting.popleft()
        return "end" if self.done else "wait"

    def finish(self, worker: str, shard: int) -> None:
        """A worker's shard is on the disk."""
        self._running[worker].discard(shard)

    def lose(self, worker: str) -> list[int]:
        """A worker is gone; what it had waits again, behind all else: it may be what it died of."""
        shards = sorted(self._running.pop(worker, ()))
        self._waiting += shards
        return shards

    @property
    def done(self) -> bool:
        return not self._waiting and not any(self._running.values())

    @property
    def workers(self) -> list[str]:
        """Those at work."""
        return list(self._running)
