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
        self._inside: Counter[str] = Counter()
        self._entered_s: dict[str, float] = {}
        self._lock = Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Charges what is done inside to a stage."""
        started_s = time.perf_counter()
        yield
        with self._lock:
            self._spent_s[stage] += time.perf_counter() - started_s  # type: ignore[assignment]

    @contextmanager
    def together(self, stage: str) -> Iterator[None]:
        """Charges the time during which any thread is inside, once however many there are."""
        with self._lock:
            self._entered_s.setdefault(stage, time.perf_counter())
            self._inside[stage] += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside[stage] -= 1
                if not self._inside[stage]:
                    self._spent_s[stage] += time.perf_counter() - self._entered_s.pop(stage)  # type: ignore[assignment]

    def lap(self) -> dict[str, float]:
        """Seconds by stage, to the millisecond, since the last call."""
        with self._lock:
            now_s = time.perf_counter()
            for stage, entered_s in self._entered_s.items():
                self._spent_s[stage] += now_s - entered_s  # type: ignore[assignment]
                self._entered_s[stage] = now_s
            spent_s, self._spent_s = self._spent_s, Counter()
        return {stage: round(seconds, 3) for stage, seconds in spent_s.items()}
