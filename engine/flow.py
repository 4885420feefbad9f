"""The flow of images through a run: shards in, jobs to the UNet's rows, finished latents to crops, shards out.

Three things go on at once. This thread samples; one behind it decodes, detects, aligns and encodes what has
been sampled; one ahead of it embeds the renders of the next shard. Between them lie short queues: when the
thread behind lags, sampling waits for it. Shards overlap, so the last images of one do not keep the batch of
the UNet half empty.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from d2r_fast.engine.clock import Clock
from d2r_fast.engine.finish import Finisher, Outcome
from d2r_fast.engine.person import Host, Meeting, Person
from d2r_fast.engine.plan import Job
from d2r_fast.engine.resumable import resumable
from d2r_fast.engine.scheduler import Drawing, Finished, Probed
from d2r_fast.engine.shard import Report, Shard, describe
from d2r_fast.engine.source import Identity
from d2r_fast.kernels.noise import normal

MOST_WAITING = 3
"""Batches that may wait for the finishing thread before sampling waits for it."""
EARLY = "early reject"
"""Why an image was drawn again whose predicted image half-way was not its identity."""

Members = list[tuple[int, Identity]]
"""Label and identity of a shard's members, in order."""


@dataclass(frozen=True)
class Stages:
    """What a run works with: opened once, shared by all shards.

    Attributes:
        offset: (77, C) added to the conditional branch, or None.
        steps: identities with another number of steps than the recipe's.
        finish_batch: finished latents that are decoded and looked at together.
    """

    host: Host
    finisher: Finisher
    clock: Clock
    offset: torch.Tensor | None
    steps: dict[str, int]
    finish_batch: int


class Flow:
    """Makes shards. Iterating gives each as it is complete, in about their order; `close` after use."""

    def __init__(self, shards: Iterable[tuple[int, Members]], stages: Stages, report: Report) -> None:
        self._stages, self._report = stages, report
        self._generator, self._recipe = stages.finisher.generator, stages.finisher.recipe
        self._scheduler = self._generator.scheduler(self._noise)
        self._unopened = iter(shards)
        self._shards: dict[int, Shard] = {}
        self._home: dict[int, Shard] = {}
        """Shard of each label."""
        self._jobs: deque[Job] = deque()
        self._early: dict[Drawing, float] = {}
        """Cosine that the early look at a drawing gave."""
        self._dropped: set[Drawing] = set()
        self._sampled: list[Finished] = []
        self._finishing: deque[tuple[Future[list[Any]], list[Drawing]]] = deque()
        device = torch.device(self._generator.device)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._behind = ThreadPoolExecutor(1, "finish")
        self._ahead = ThreadPoolExecutor(1, "embed")
        self._meeting = self._meet_next()

    def __iter__(self) -> Iterator[Shard]:
        while self._busy:
            self._feed()
            with (
                self._stages.clock("denoise"),
                resumable(drawing.name.key for drawing in self._scheduler.drawings),
            ):
                events = self._scheduler.step()
            self._hand_over(events)
            self._collect()
            yield from self._complete()

    def close(self) -> None:
        """Lets the threads end with what they are doing; what waits is forgotten."""
        for pool in (self._behind, self._ahead):
            pool.shutdown(wait=False, cancel_futures=True)

    @property
    def _busy(self) -> bool:
        return bool(
            self._meeting
            or self._jobs
            or self._scheduler.busy
            or self._sampled
            or self._finishing
            or self._shards
        )

    @property
    def _sampling(self) -> bool:
        return self._scheduler.busy or bool(self._jobs)

    def _meet_next(self) -> Future[tuple[int, list[Meeting]]] | None:
        """Starts on the identities of the next shard, in the thread ahead."""
        number, members = next(self._unopened, (None, []))
        if number is None:
            return None

        def meet() -> tuple[int, list[Meeting]]:
            with self._stages.clock("embed"):
                return number, [self._stages.host.meet(label, identity) for label, identity in members]

        return self._ahead.submit(meet)

    def _feed(self) -> None:
        """Gives the scheduler images while it has rows for them."""
        while self._scheduler.hungry and (self._jobs or self._open_shard()):
            self._draw(
                [self._jobs.popleft() for _ in range(min(self._scheduler.batch_rows, len(self._jobs)))]
            )

    def _open_shard(self) -> bool:
        """Takes in the next shard if its identities have been met, or if there is nothing else to do."""
        if self._meeting is None:
            return False
        if not self._meeting.done() and (self._scheduler.busy or self._sampled or self._finishing):
            return False
        number, meetings = self._meeting.result()
        self._meeting = self._meet_next()
        shard = self._shards[number] = Shard(number, self._recipe, self._report)
        for meeting in meetings:
            self._home[meeting.row.label] = shard
            self._jobs += shard.add(meeting)
        return True

    def _draw(self, jobs: list[Job]) -> None:
        """Queues images to be drawn."""
        if not jobs:
            return
        recipe = self._recipe
        latents = np.stack([self._person(job).latents[job.latent] for job in jobs])
        with self._stages.clock("condition"), resumable(job.key for job in jobs):
            contexts = self._generator.condition(torch.from_numpy(latents), self._stages.offset)
        for job, context in zip(jobs, contexts, strict=True):
            steps = self._stages.steps.get(job.identity, recipe.steps)
            probe = recipe.early_reject[0] if recipe.early_reject else None
            self._scheduler.add(
                self._generator.drawing(
                    job, context, steps=steps, guidance=recipe.guidance, interval=recipe.guidance_interval,
                    probe=probe,
                )
            )  # fmt: skip

    def _noise(self, wanted: list[tuple[Drawing, int]]) -> torch.Tensor:
        """Noise (n, 4, h, w), a function of (seed, identity, image, attempt, step) alone."""
        keys = [
            [job.identity_key, job.image, job.attempt, step] for job, step in ((d.name, k) for d, k in wanted)
        ]
        return normal(torch.tensor(keys), self._generator.latent_shape)

    def _hand_over(self, events: list[Finished | Probed]) -> None:
        """Gives what has been sampled to the thread behind, in batches; looks half-way go first."""
        probed = [event for event in events if isinstance(event, Probed)]
        self._sampled += [event for event in events if isinstance(event, Finished)]
        if probed:
            self._submit(probed, look=True)
        while len(self._sampled) >= self._stages.finish_batch or (self._sampled and not self._sampling):
            batch = self._sampled[: self._stages.finish_batch]
            del self._sampled[: len(batch)]
            self._submit(batch, look=False)

    def _submit(self, events: list[Finished] | list[Probed], *, look: bool) -> None:
        drawings = [event.drawing for event in events]
        latents = torch.stack([event.latents for event in events])
        tasks = [(drawing.name, self._person(drawing.name)) for drawing in drawings]
        work = self._stages.finisher.resemblance if look else self._stages.finisher.finish
        self._finishing.append(
            (self._behind.submit(_on_stream(self._stream, latents, work), tasks), drawings)
        )

    def _collect(self) -> None:
        """Settles what the thread behind has done; waits for it where it lags or nothing else is left to do."""
        while self._finishing and (
            self._finishing[0][0].done() or len(self._finishing) > MOST_WAITING or not self._sampling
        ):
            future, drawings = self._finishing.popleft()
            with resumable(drawing.name.key for drawing in drawings):
                results = future.result()
            for drawing, result in zip(drawings, results, strict=True):
                if isinstance(result, Outcome):
                    self._settle(drawing, result)
                else:
                    self._judge_early(drawing, result)

    def _judge_early(self, drawing: Drawing, cosine: float) -> None:
        """Stops drawing an image whose predicted image is not its identity."""
        assert self._recipe.early_reject is not None
        self._early[drawing] = cosine
        if cosine < self._recipe.early_reject[1]:
            sampled = [event for event in self._sampled if event.drawing is drawing]
            if sampled:
                self._sampled.remove(sampled[0])
            elif not self._scheduler.drop(drawing):
                self._dropped.add(drawing)  # the thread behind has it already
            self._try_again(drawing, EARLY)

    def _settle(self, drawing: Drawing, outcome: Outcome) -> None:
        """Keeps a finished image, or draws it again, or gives it up."""
        if drawing in self._dropped:
            self._dropped.discard(drawing)
        elif outcome.image is None:
            assert outcome.reason is not None
            self._try_again(drawing, outcome.reason)
        else:
            row = replace(outcome.row, cos_early=self._early.pop(drawing, None))
            self._home[row.label].keep(row, outcome.image)

    def _try_again(self, drawing: Drawing, reason: str) -> None:
        job: Job = drawing.name
        cosine = self._early.pop(drawing, None)
        if job.attempt + 1 < self._recipe.attempts:
            self._jobs.appendleft(job.again())
        else:
            row = replace(describe(job, self._person(job)), cos_early=cosine)
            self._home[job.label].reject(row, reason)

    def _complete(self) -> Iterator[Shard]:
        """The shards whose images are all settled."""
        for shard in [shard for shard in self._shards.values() if shard.complete]:
            del self._shards[shard.number]
            for row in shard.identities:
                del self._home[row.label]
            yield shard

    def _person(self, job: Job) -> Person:
        return self._home[job.label].people[job.label]


def _on_stream(
    stream: torch.cuda.Stream | None, latents: torch.Tensor, work: Callable[..., list[Any]]
) -> Callable[..., list[Any]]:
    """`work` on these latents; on CUDA beside the sampling, from when they are ready."""
    if stream is None:
        return lambda tasks: work(tasks, latents)
    ready = torch.cuda.current_stream(latents.device).record_event()
    latents.record_stream(stream)  # else their memory is given away when the sampling thread forgets them

    def run(tasks: Any) -> list[Any]:
        with torch.cuda.stream(stream):
            stream.wait_event(ready)
            return work(tasks, latents)

    return run
