"""Processes in simulated time: each is a generator that yields the moment, or the signal, at which it goes on.

    clock = Clockwork()
    clock.start(process(clock, server))
    clock.run()

simulates what was started, to the end.
"""

import heapq
from collections import deque
from collections.abc import Iterator
from itertools import count

Process = Iterator["float | Signal"]


class Signal:
    """What processes wait for until another gives it."""

    def __init__(self) -> None:
        self.waiting: list[Process] = []


class Clockwork:
    """Simulated time, in seconds from 0. Processes of one moment go on in the order in which they asked."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._due: list[tuple[float, int, Process]] = []
        self._order = count()

    def start(self, process: Process) -> None:
        """Have a process begin now."""
        heapq.heappush(self._due, (self.now_s, next(self._order), process))

    def give(self, signal: Signal) -> None:
        """Have all who wait for the signal go on now."""
        waiting, signal.waiting = signal.waiting, []
        for process in waiting:
            self.start(process)

    def run(self) -> None:
        """Until no process has anything left to do."""
        while self._due:
            self.now_s, _, process = heapq.heappop(self._due)
            wish = next(process, None)
            if isinstance(wish, Signal):
                wish.waiting.append(process)
            elif wish is not None:
                heapq.heappush(self._due, (max(wish, self.now_s), next(self._order), process))


class Server:
    """Does one thing at a time, first come first served: a link, a metadata server, a coordinator."""

    def __init__(self, clock: Clockwork) -> None:
        self._clock = clock
        self._free_s = 0.0
        self.busy_s = 0.0

    def use(self, service_s: float) -> Process:
        """Wait for one's turn, and then for the service."""
        self._free_s = max(self._free_s, self._clock.now_s) + service_s
        self.busy_s += service_s
        yield self._free_s


class Box:
    """Room for one shard between two stages."""

    def __init__(self, clock: Clockwork) -> None:
        self._clock = clock
        self._held: deque[int] = deque()
        self._changed = Signal()

    def put(self, shard: int) -> Process:
        """Wait until there is room."""
        while self._held:
            yield self._changed
        self._held.append(shard)
        self._clock.give(self._changed)

    def wait(self) -> Process:
        """Wait until there is a shard to `pop`."""
        while not self._held:
            yield self._changed

    def pop(self) -> int:
        """The shard."""
        self._clock.give(self._changed)
        return self._held.popleft()
