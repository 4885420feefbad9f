"""Worker processes on this machine, one for each device given: started, served with shards, survived, stopped."""

import os
import pickle
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from d2r_fast.engine.dataset import Dataset
from d2r_fast.engine.errors import RunError
from d2r_fast.engine.executors import process
from d2r_fast.engine.executors.hand_out import HandOut
from d2r_fast.engine.executors.maker import Task
from d2r_fast.engine.executors.process import SIGNALS, Handle, Orders
from d2r_fast.engine.executors.progress import Progress, name_shards
from d2r_fast.engine.executors.worker import mark_failed, worker_name

STOP_WITHIN_S = 5.0
"""A worker that was told to stop and has not after this is killed; finished files are whole all the same."""
LOOK_EVERY_S = 1.0
"""For processes that died and whose pipe somebody else still holds open."""


@dataclass(frozen=True)
class _Worker:
    name: str
    device: str
    process: BaseProcess
    connection: Connection


def run_local(task: Task, dataset: Dataset, devices: Sequence[str]) -> None:
    """Make the dataset's unfinished shards in a process for each of the devices.

    A worker that dies costs what it had in work, which the others make; the run fails when none is left.

    Raises:
        UserError, RunError: as the task's maker does in any of them, or all of them died.
    """
    used = devices[: len(dataset.unfinished)]
    with Progress(task, dataset, num_workers=len(used)) as progress, _crew(task, dataset, used) as workers:
        _serve(workers, HandOut(dataset.unfinished), progress, dataset)


def _serve(workers: list[_Worker], hand_out: HandOut, progress: Progress, dataset: Dataset) -> None:
    """Answers the workers until all have ended; those that have are taken off the list."""
    while workers:
        ready = wait([worker.connection for worker in workers], timeout=LOOK_EVERY_S)
        for worker in list(workers):
            if worker.connection in ready:
                alive = _hear(worker, hand_out, progress)
            else:
                alive = worker.process.exitcode is None or worker.connection.poll()
            if not alive:
                workers.remove(worker)
                _bury(worker, workers, hand_out, progress, dataset)


def _hear(worker: _Worker, hand_out: HandOut, progress: Progress) -> bool:
    """Takes a worker's next message; False where there will be none.

    Raises:
        UserError, RunError: it failed in a way that the others would too.
    """
    try:
        message = worker.connection.recv()
    except (EOFError, OSError):  # it may have died in the middle of a message
        return False
    _answer(worker, message, hand_out, progress)
    return True


def _answer(worker: _Worker, message: tuple[Any, ...], hand_out: HandOut, progress: Progress) -> None:
    match message:
        case ("ready", about):
            progress.ready(worker.name, about)
            hand_out.arrive(worker.name)
            _send(worker, "begin")
        case ("take",):
            _send(worker, hand_out.take(worker.name))
        case ("rows", statuses):
            progress.rows(worker.name, statuses)
        case ("shard", number, counts, stage_s):
            hand_out.finish(worker.name, number)
            progress.shard(worker.name, number, counts, stage_s)
        case ("failed", error):
            raise error


def _send(worker: _Worker, answer: Any) -> None:
    with suppress(ConnectionError):  # one that has died is seen to when it is listened to next
        worker.connection.send(answer)


def _bury(
    worker: _Worker, others: list[_Worker], hand_out: HandOut, progress: Progress, dataset: Dataset
) -> None:
    """Gives what an ended worker had to the others.

    Raises:
        RunError: there are none.
    """
    worker.process.join(STOP_WITHIN_S)
    status = worker.process.exitcode
    if status is None:  # it neither talks nor ends: nobody would ever stop it
        worker.process.kill()
    worker.connection.close()
    shards = hand_out.lose(worker.name)
    if status == 0:
        return
    why = f"(process {worker.process.pid} on {worker.device}) {_describe(status)}"
    progress.lost(worker.name, why, shards, left=len(others))
    mark_failed(dataset.out, worker.name, num_shards=len(shards))
    if not others and not hand_out.done:
        at = f"with {name_shards(shards)} in work" if shards else "before it had a shard"
        raise RunError(
            f"worker {worker.name} {why} {at}, and no other is left: finished shards are kept, the same command goes "
            "on from there"
        )


def _describe(status: int | None) -> str:
    if status is None:
        return "does not answer"
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


@contextmanager
def _crew(task: Task, dataset: Dataset, devices: Sequence[str]) -> Iterator[list[_Worker]]:
    """Worker processes; when the block ends, however it ends, none is left."""
    import torch

    workers: list[_Worker] = []
    try:
        opener = pickle.dumps(task.open)
        for place, device in enumerate(devices):
            orders = Orders(
                name=worker_name(place, dataset.shards), open=opener, pending=dataset.unfinished,
                out=dataset.out, shards=dataset.shards, device=device, cards=visible_card(device),
                cores=_cores(place, len(devices)) if device == "cpu" else None, threads=torch.get_num_threads(),
                lock=Handle(dataset.lock),
            )  # fmt: skip
            workers.append(_start(orders))
        yield workers
    finally:
        _stop(workers)


def _start(orders: Orders) -> _Worker:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    started = context.Process(target=process.main, args=(orders, theirs), name=orders.name)
    # A signal that came while it starts would end it with a traceback; it takes them once it is ready to.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        started.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # else its end would not be seen
    return _Worker(orders.name, orders.device, started, ours)


def _stop(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()
    deadline_s = time.monotonic() + STOP_WITHIN_S
    for worker in workers:
        worker.process.join(max(0.0, deadline_s - time.monotonic()))
        if worker.process.exitcode is None:
            worker.process.kill()
            worker.process.join()
        worker.connection.close()


def visible_card(device: str) -> str | None:
    """What CUDA_VISIBLE_DEVICES has to be for a process to see this device alone; None for a CPU."""
    if device == "cpu":
        return None
    number = int(device.removeprefix("cuda:"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[number].strip() if visible else str(number)


def _cores(place: int, count: int) -> frozenset[int]:
    """A worker's share of the processors, so that the threads of all together are as many as there are."""
    cores = sorted(os.sched_getaffinity(0))
    share = cores[len(cores) * place // count : len(cores) * (place + 1) // count]
    return frozenset(share or [cores[place % len(cores)]])
