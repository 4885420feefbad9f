"""A worker process of `--executor local`: what it does from its first line to its last.

It is a fresh interpreter, since a fork would copy torch's threads' locks and no CUDA context survives one. Nothing
heavy is imported before the process has its card and its cores.
"""

import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import DupFd
from types import FrameType
from typing import Any, NoReturn

from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.executors.hand_out import Answer
from d2r_fast.engine.out import Out
from d2r_fast.engine.patience import watch

TELL_EVERY_S = 0.2
"""Images are told of together, no more often."""
SIGNALS = {signal.SIGINT, signal.SIGTERM}


class Handle:
    """An open file that a process being started gets too, and keeps open while it lives: a lock's, so that the lock
    is held until the last of them is gone."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self.descriptor),)


def _received(passed: Any) -> Handle:
    return Handle(passed.detach())


@dataclass(frozen=True)
class Orders:
    """What a worker process is told at its start.

    Attributes:
        name: of the worker.
        open: the task's `open`, pickled.
        pending: shards of which it will make some.
        out: where the dataset's shards go.
        shards: the run's range, or None.
        device: as the person that started the run sees it.
        cards: CUDA_VISIBLE_DEVICES for this process; None on a CPU.
        cores: processors that it may use; None for all.
        threads: that torch computes with on a processor, however few are its own: sums are rounded by their number.
        lock: held open.
    """

    name: str
    open: bytes
    pending: Sequence[int]
    out: Out
    shards: range | None
    device: str
    cards: str | None
    cores: frozenset[int] | None
    threads: int
    lock: Handle


def main(orders: Orders, connection: Connection) -> NoReturn:
    """Works until there is nothing more to do, and ends the process: 0 done, 1 failed, 143 told to stop."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; who started us tells us
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    watch()
    status: Any = 1
    try:
        _work(orders, connection)
        connection.send(("end",))
        status = 0
    except (UserError, RunError) as error:
        connection.send(("failed", error))
    except SystemExit as stop:
        status = stop.code
    except (EOFError, ConnectionError):
        pass  # who started us is gone
    except Exception:
        traceback.print_exc()  # a fault of ours: others get its shards
    finally:
        # Not by way of the interpreter's end, which would wait for what threads are at.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signum)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _work(orders: Orders, connection: Connection) -> None:
    if orders.cards is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = orders.cards
    if orders.cores is not None:
        os.sched_setaffinity(0, orders.cores)
    import torch

    from d2r_fast.engine.executors.worker import Note, work

    torch.set_num_threads(orders.threads)

    open_maker = pickle.loads(orders.open)
    with open_maker("cpu" if orders.cards is None else "cuda:0", orders.pending) as maker:
        connection.send(("ready", maker.about()))
        desk = _Pipe(connection)
        desk.begin()
        with Note(orders.out, name=orders.name, device=orders.device, shards=orders.shards) as note:
            work(maker, desk, note)
            desk.flush()


class _Pipe:
    """The desk is at the other end of a pipe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rows: Counter[str] = Counter()
        self._told_s = time.monotonic()

    def begin(self) -> None:
        """Waits until the folder is ready."""
        self._connection.recv()

    def take(self) -> Answer:
        self._connection.send(("take",))
        answer: Answer = self._connection.recv()
        return answer

    def row(self, status: str) -> None:
        self._rows[status] += 1
        if time.monotonic() - self._told_s >= TELL_EVERY_S:
            self.flush()

    def shard(self, number: int, counts: dict[str, int], stage_s: dict[str, float]) -> None:
        self.flush()
        self._connection.send(("shard", number, counts, stage_s))

    def flush(self) -> None:
        """Tells of the images that were not told of yet."""
        if self._rows:
            self._connection.send(("rows", dict(self._rows)))
        self._rows.clear()
        self._told_s = time.monotonic()
