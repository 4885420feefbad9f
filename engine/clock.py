"""Where the time goes: seconds by stage, summed over threads."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


class Clock:
    """Seconds spent in each stage since the last lap. Stages overlap, so they may add up to more than passed."""

    def __init__(self) -> None:
        self._spent_s: Counter[str] = Counter()
        self._lock = Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Charges what is done inside to a stage."""
        started_s = time.perf_counter()
        yield
        with self._lock:
            self._spent_s[stage] += time.perf_counter() - started_s  # type: ignore[assignment]

    def lap(self) -> dict[str, float]:
        """Seconds by stage, to the millisecond, since the last call."""
        with self._lock:
            spent_s, self._spent_s = self._spent_s, Counter()
        return {stage: round(seconds, 3) for stage, seconds in spent_s.items()}
