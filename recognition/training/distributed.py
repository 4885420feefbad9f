"""The processes of a run under torchrun: who this one is, and what they say to one another.

    torchrun --nproc-per-node 4 --no-python d2r-fast train --data digi2real --out run

Without torchrun there is one process, and nothing here costs anything.
"""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from d2r_fast.engine.device import find_device
from d2r_fast.engine.errors import UserError

T = TypeVar("T")
PATIENCE = timedelta(hours=2)
"""How long processes wait for one that validates or saves; five sets on a CPU take more than torch's 10 minutes."""


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those of the run: `rank` of `count`, on `device`; `group` is None where it is alone."""

    rank: int
    count: int
    device: torch.device
    group: "dist.ProcessGroup | None"

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.rank == 0

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor over the processes."""
        if self.group is not None:
            dist.all_reduce(values, group=self.group)
        return values

    def wait(self) -> None:
        """Until all are here."""
        if self.group is not None:
            dist.barrier(group=self.group)

    def lead(self, action: Callable[[], T]) -> T | None:
        """What the leader gets from doing something alone, None for the others, who wait until it is done.

        Raises:
            BaseException: what the leader's action raises, on the leader.
            SystemExit: it failed, on the others, who leave without a word: one speaks.
        """
        result = None
        try:
            if self.leads:
                result = action()
        except BaseException:
            self.tell(1)
            raise
        if self.tell(0):
            raise SystemExit(1)
        return result

    def each(self, action: Callable[[], T]) -> T:
        """What everyone gets from doing the same, the leader first: what fails for all is said once."""
        first = self.lead(action)
        return first if first is not None else action()

    def gather(self, mine: T) -> list[T]:
        """What every process has, in the order of their ranks."""
        if self.group is None:
            return [mine]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, mine, group=self.group)
        return found

    def tell(self, value: int) -> int:
        """The leader's number, to all."""
        told = torch.tensor([value], device=self.device)
        if self.group is not None:
            dist.broadcast(told, src=0, group=self.group)
        return int(told)


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started, or be the only one, until the block ends.

    Raises:
        UserError: the device is not there, or was chosen for one process of several.
    """
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if count == 1:
        yield Processes(0, 1, torch.device(find_device(device)), None)
        return
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device {device!r} for {count} processes: give auto, cpu or cuda")
    kind = find_device(device).partition(":")[0]
    place = torch.device("cpu")
    if kind == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        place = torch.device(find_device(f"cuda:{local}"))
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Processes(rank, count, place, dist.group.WORLD)
    finally:
        # Modules that hold the group refer to themselves too. It must go with them, and not when the process ends:
        # gloo's threads would abort that.
        gc.collect()
        dist.destroy_process_group()
