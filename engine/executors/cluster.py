"""Workers on an existing Ray cluster: an actor for each GPU, or for each of so many workers on CPUs.

Placing, restarting and waiting for machines is Ray's. A desk, an actor beside this process, hands out shards and keeps
what workers tell until this process asks. All machines have to see the dataset's folder, its source and its models
under the same paths; each compares what it finds with the dataset's document before it makes a shard.
"""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from d2r_fast.engine.dataset import Dataset
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.executors.hand_out import Answer, HandOut
from d2r_fast.engine.executors.maker import Open, Task
from d2r_fast.engine.executors.place import Placed
from d2r_fast.engine.executors.process import SIGNALS, TELL_EVERY_S
from d2r_fast.engine.executors.progress import Progress, name_shards
from d2r_fast.engine.executors.worker import Note, mark_failed, work, worker_name
from d2r_fast.engine.out import Out
from d2r_fast.engine.patience import watch

RESTARTS = 3
"""Times that Ray starts a worker again which died or whose machine went."""
POLL_S = 0.25


@contextmanager
def connected(config: Placed) -> Iterator["Cluster"]:
    """The cluster at the settings' address, or the one that this process is connected to already.

    Raises:
        UserError: Ray is not installed, no cluster is there, or it has no GPU where one is asked for.
    """
    try:
        import ray
    except ImportError:
        raise UserError(
            "--executor ray needs Ray: pip install 'ray>=2.40', or use --executor local"
        ) from None
    ours = not ray.is_initialized()
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    if ours:
        _connect(ray, config.ray_address)
    try:
        for signum, handler in before.items():  # Ray takes them
            signal.signal(signum, handler)
        yield _survey(ray, config)
    finally:
        if ours:
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    try:
        ray.init(address=address, logging_level="error", include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"no Ray cluster at {address!r} ({_line(error)}): start one with `ray start --head` and `ray start "
            "--address=HEAD:6379` on the other machines, or give its --ray-address"
        ) from None


def _survey(ray: Any, config: Placed) -> "Cluster":
    """What the cluster offers that the settings allow."""
    resources = ray.cluster_resources()
    num_cards, num_cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    if config.device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device {config.device!r}: Ray chooses the cards, give auto, cpu or cuda")
    if config.device == "cuda" and not num_cards:
        raise UserError(
            "device 'cuda': the Ray cluster has no GPU, give auto or cpu, or add machines that have one"
        )
    on_cards = config.device != "cpu" and num_cards > 0
    num_workers = config.workers or (num_cards if on_cards else 1)
    largest = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=1)
    cores = 1 if on_cards else max(1, min(largest, num_cores // num_workers))
    return Cluster(num_workers=num_workers, on_cards=on_cards, cores=cores)


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster (a `place.Place`).

    Attributes:
        num_workers: actors that make shards.
        on_cards: whether each has a GPU.
        cores: that each has.
    """

    num_workers: int
    on_cards: bool
    cores: int
    here = False
    apart = True

    @property
    def device(self) -> str:
        return "cuda:0" if self.on_cards else "cpu"

    def run(self, task: Task, dataset: Dataset) -> None:
        """Make the dataset's unfinished shards.

        Raises:
            UserError, RunError: as the task's maker does on any machine, or all workers or the cluster are lost.
        """
        import ray
        import torch

        pending, threads = dataset.unfinished, torch.get_num_threads()
        names = [worker_name(number, None) for number in range(min(self.num_workers, len(pending)))]
        desk = _open_desk(ray, pending)
        kind: Any = ray.remote(RayWorker).options(
            num_cpus=self.cores, num_gpus=int(self.on_cards), max_restarts=RESTARTS, max_task_retries=RESTARTS
        )
        out = Out(dataset.folder.absolute(), dataset.remote)
        actors = {name: kind.remote(name, task.open, self.device, threads, out, pending) for name in names}
        try:
            with Progress(task, dataset, num_workers=len(names)) as progress:
                _serve(ray, desk, actors, progress, dataset)
        except ray.exceptions.RayError as error:
            raise RunError(
                f"the Ray cluster is lost ({_line(error)}): finished shards are kept, the same command goes on from "
                "there"
            ) from error
        finally:
            for actor in (*actors.values(), desk):
                with suppress(ray.exceptions.RayError):
                    ray.kill(actor)


def _open_desk(ray: Any, pending: Sequence[int]) -> Any:
    """An actor on this machine: if that goes, so does this process."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(RayDesk).options(num_cpus=0, scheduling_strategy=here).remote(pending)


def _serve(ray: Any, desk: Any, actors: dict[str, Any], progress: Progress, dataset: Dataset) -> None:
    """Passes on what workers say until all have ended."""
    runs = {actor.run.remote(desk): name for name, actor in actors.items()}
    while runs:
        ended, _ = ray.wait(list(runs), timeout=POLL_S)
        _hear(ray, desk, progress)
        for run in ended:
            name = runs.pop(run)
            try:
                error = ray.get(run)
            except ray.exceptions.RayError as lost:
                _bury(ray, desk, name, lost, len(runs), progress, dataset)
            else:
                if error is not None:
                    raise error
    _hear(ray, desk, progress)


def _hear(ray: Any, desk: Any, progress: Progress) -> None:
    for message in ray.get(desk.news.remote()):
        match message:
            case ("ready", name, about):
                progress.ready(name, about)
                ray.get(desk.begin.remote())
            case ("rows", name, statuses):
                progress.rows(name, statuses)
            case ("shard", name, number, counts, stage_s):
                progress.shard(name, number, counts, stage_s)
            case ("again", name, shards):
                progress.lost(name, "died and was started again by Ray", shards, left=1)


def _bury(
    ray: Any, desk: Any, name: str, error: Exception, left: int, progress: Progress, dataset: Dataset
) -> None:
    """Gives what a worker had that Ray gave up to the others.

    Raises:
        RunError: there are none.
    """
    shards = ray.get(desk.lose.remote(name))
    why = f"is lost ({_line(error)})"
    progress.lost(name, why, shards, left=left)
    mark_failed(dataset.out, name, num_shards=len(shards))
    if not left and not ray.get(desk.done.remote()):
        at = f"with {name_shards(shards)} in work" if shards else "before it had a shard"
        raise RunError(
            f"worker {name} {why} {at}, and no other is left: finished shards are kept, the same command goes on from "
            "there"
        )


def _line(error: Exception) -> str:
    """The beginning of what Ray says."""
    return " ".join(str(error).split())[:300]


class RayDesk:
    """Hands out shards, and keeps what workers tell until it is asked for."""

    def __init__(self, shards: Sequence[int]) -> None:
        self._hand_out, self._begun = HandOut(shards), False
        self._news: list[tuple[Any, ...]] = []

    def arrive(self, name: str, about: dict[str, Any]) -> None:
        """A worker's networks are open."""
        lost = self._hand_out.arrive(name)
        if lost:
            self._news.append(("again", name, lost))
        self._news.append(("ready", name, about))

    def begin(self) -> None:
        """The folder is ready."""
        self._begun = True

    def begun(self) -> bool:
        return self._begun

    def take(self, name: str) -> Answer:
        return self._hand_out.take(name)

    def rows(self, name: str, statuses: dict[str, int]) -> None:
        self._news.append(("rows", name, statuses))

    def shard(self, name: str, number: int, counts: dict[str, int], stage_s: dict[str, float]) -> None:
        self._hand_out.finish(name, number)
        self._news.append(("shard", name, number, counts, stage_s))

    def lose(self, name: str) -> list[int]:
        """A worker will not come back."""
        return self._hand_out.lose(name)

    def done(self) -> bool:
        return self._hand_out.done

    def news(self) -> list[tuple[Any, ...]]:
        """What was told since the last time."""
        news, self._news = self._news, []
        return news


class RayWorker:
    """Makes shards on whatever machine Ray puts it."""

    def __init__(
        self, name: str, opener: Open, device: str, threads: int, out: Out, pending: Sequence[int]
    ) -> None:
        self._name, self._open, self._device, self._threads = name, opener, device, threads
        self._out, self._pending = out, pending

    def run(self, desk: Any) -> UserError | RunError | None:
        """Works until nothing is left to do; what went wrong, where others would fail likewise."""
        import ray
        import torch

        watch()
        torch.set_num_threads(self._threads)  # sums are rounded by their number
        try:
            with self._open(self._device, self._pending) as maker:
                ray.get(desk.arrive.remote(self._name, maker.about()))
                while not ray.get(desk.begun.remote()):
                    time.sleep(POLL_S)
                cards = os.environ.get("CUDA_VISIBLE_DEVICES", "") if self._device != "cpu" else ""
                device = f"cuda:{cards}" if cards else self._device
                with Note(self._out, name=self._name, device=device, shards=None) as note:
                    work(maker, _Distant(ray, desk, self._name), note)
        except (UserError, RunError) as error:
            return error
        return None


class _Distant:
    """The desk as a worker sees it."""

    def __init__(self, ray: Any, desk: Any, name: str) -> None:
        self._ray, self._desk, self._name = ray, desk, name
        self._rows: Counter[str] = Counter()
        self._told_s = time.monotonic()

    def take(self) -> Answer:
        answer: Answer = self._ray.get(self._desk.take.remote(self._name))
        return answer

    def row(self, status: str) -> None:
        self._rows[status] += 1
        if time.monotonic() - self._told_s >= TELL_EVERY_S:
            self._flush()

    def shard(self, number: int, counts: dict[str, int], stage_s: dict[str, float]) -> None:
        self._flush()
        # Waited for: the desk must not give the shard to another because this word is still under way.
        self._ray.get(self._desk.shard.remote(self._name, number, counts, stage_s))

    def _flush(self) -> None:
        if self._rows:
            self._desk.rows.remote(self._name, dict(self._rows))
        self._rows.clear()
        self._told_s = time.monotonic()
