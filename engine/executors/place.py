"""Where the shards of a dataset are made: in this process, in several on this machine, or on a Ray cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from d2r_fast.engine.config import Frozen
from d2r_fast.engine.dataset import Dataset
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.executors.hand_out import Answer, HandOut
from d2r_fast.engine.executors.local import run_local
from d2r_fast.engine.executors.maker import Maker, Task
from d2r_fast.engine.executors.progress import Progress
from d2r_fast.engine.executors.worker import Note, work, worker_name

AnyConfig = TypeVar("AnyConfig", bound=Frozen)


class Placed(Protocol):
    """The settings that say where: those of `generate` and `translate`."""

    @property
    def executor(self) -> str: ...
    @property
    def workers(self) -> int | None: ...
    @property
    def device(self) -> str: ...
    @property
    def ray_address(self) -> str: ...


class Place(Protocol):
    """Where shards are made."""

    @property
    def device(self) -> str:
        """What the settings are to be decided for: "cpu" or "cuda:N"."""

    @property
    def num_workers(self) -> int:
        """Processes that make shards."""

    @property
    def here(self) -> bool:
        """Whether they are made in this process."""

    @property
    def apart(self) -> bool:
        """Whether other machines make them, which may hold other files."""

    def run(self, task: Task, dataset: Dataset) -> None:
        """Make the dataset's unfinished shards.

        Raises:
            UserError, RunError: as the task's maker does, or all processes died.
        """


@contextmanager
def find_place(config: Placed) -> Iterator[Place]:
    """The place that the settings ask for; what it needs is let go of when the block ends.

    Raises:
        UserError: the device or the Ray cluster is not there.
    """
    if config.executor == "ray":
        from d2r_fast.engine.executors.cluster import connected

        with connected(config) as cluster:
            yield cluster
    else:
        yield Machine(tuple(find_devices(config)))


@dataclass(frozen=True)
class Machine:
    """This machine: a process for each of the devices, or this one where there is one."""

    devices: tuple[str, ...]
    apart = False

    @property
    def device(self) -> str:
        return self.devices[0]

    @property
    def num_workers(self) -> int:
        return len(self.devices)

    @property
    def here(self) -> bool:
        return len(self.devices) == 1

    def run(self, task: Task, dataset: Dataset) -> None:
        """Make the dataset's unfinished shards."""
        if not self.here:
            run_local(task, dataset, self.devices)
            return
        with task.open(self.device, dataset.unfinished) as maker:
            run_here(task, maker, dataset, device=self.device)


def find_devices(config: Placed) -> list[str]:
    """The device of each worker on this machine: all its cards in turn where the setting allows all, else one.

    Raises:
        UserError: the device is not there.
    """
    import torch

    from d2r_fast.engine.device import find_device

    names = [find_device(config.device)]
    if names[0] != "cpu" and config.device in ("auto", "cuda"):
        names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [names[number % len(names)] for number in range(config.workers or len(names))]


def absolute(config: AnyConfig) -> AnyConfig:
    """The settings with paths that mean the same to processes elsewhere."""
    paths = {name: value.absolute() for name, value in config if isinstance(value, Path)}
    return config.model_copy(update=paths)


def check_no_card(setting: str, value: str, place: Place) -> None:
    """See that a setting does not name a card, where each worker sees its own alone.

    Raises:
        UserError: it does.
    """
    if not place.here and value.startswith("cuda:"):
        raise UserError(
            f"{setting} = {value!r} with workers in processes of their own, which see their own card alone: give auto, "
            "cuda or cpu"
        )


def run_here(task: Task, maker: Maker, dataset: Dataset, *, device: str) -> None:
    """Make the dataset's unfinished shards in this process with an open maker."""
    name = worker_name(0, dataset.shards)
    with Progress(task, dataset, num_workers=1) as progress:
        progress.ready(name, maker.about())
        with Note(dataset.out, name=name, device=device, shards=dataset.shards) as note:
            work(maker, _Here(name, HandOut(dataset.unfinished), progress), note)


class _Here:
    """The desk of this process's one worker."""

    def __init__(self, name: str, hand_out: HandOut, progress: Progress) -> None:
        self._name, self._hand_out, self._progress = name, hand_out, progress
        hand_out.arrive(name)

    def take(self) -> Answer:
        return self._hand_out.take(self._name)

    def row(self, status: str) -> None:
        self._progress.rows(self._name, {status: 1})

    def shard(self, number: int, counts: dict[str, int], stage_s: dict[str, float]) -> None:
        self._hand_out.finish(self._name, number)
        self._progress.shard(self._name, number, counts, stage_s)
