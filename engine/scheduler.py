"""Sampling as a queue of UNet rows: images at different steps, guided or not, in batches of one fixed shape.

An image needs one row of the UNet's batch at a step without guidance and two at a step with it. The images
that have most rows to go are run next, `batch_rows` rows at a time, so a batch mixes images and steps, and is
full as long as there is work: to the end, since images that are run in this order end together. The two rows
of a guided step may even fall into different batches.
When all rows of a step have been run, the sampler's table takes the image a step on (arXiv 2211.01095,
2310.04378); when its last step is done, it leaves. In-flight batching by slot is what nano-vllm does for
tokens; here the slot is a row of the UNet.

    scheduler = Scheduler(unet, unconditional, noise, latent_shape=(4, 64, 64), batch_rows=16)
    while scheduler.busy:
        while images and scheduler.hungry:
            scheduler.add(images.popleft())
        for event in scheduler.step():
            ...

What becomes of an image depends on itself alone: no row sees another one, and the order of the work changes
nothing but when it is done.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch

from d2r_fast.engine.schedule import OF_NOISE, Schedule
from d2r_fast.kernels.sampler_step import sampler_step

UNet = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(latents (B, 4, h, w) float32, timesteps (B,) int64, context (B, 77, C)) -> predicted noise, float32."""


@dataclass(eq=False)
class Drawing:
    """One image to be drawn.

    Attributes:
        name: whatever the caller knows it by.
        context: (77, C) float32 conditioning, on the scheduler's device.
        schedule: the sampler's steps, on the CPU.
        guidance: classifier-free guidance scale (arXiv 2207.12598): eps = uncond + guidance (cond - uncond).
        guided: for each step, whether guidance is on (two rows) or off (one row, eps = cond).
        probe: number of the step, from 1, after which its predicted x0 is handed out; None for never.
    """

    name: Any
    context: torch.Tensor
    schedule: Schedule
    guidance: float
    guided: tuple[bool, ...]
    probe: int | None = None
    step: int = field(default=0, init=False)
    waiting: int = field(default=0, init=False)
    """Rows of the current step that have not been handed to the UNet."""
    admitted_before: int = field(default=0, init=False)
    """How many images had been given a slot when this one was queued."""
    _later: tuple[int, ...] = field(init=False, repr=False)
    """Rows of all steps after each one."""

    def __post_init__(self) -> None:
        assert len(self.guided) == len(self.schedule), (len(self.guided), len(self.schedule))
        self.waiting = 1 + self.guided[0]
        from_last = accumulate((1 + on for on in reversed(self.guided[1:])), initial=0)
        self._later = tuple(from_last)[::-1]

    @property
    def rows_left(self) -> int:
        """Rows that have not been handed to the UNet, of this step and all later ones."""
        return self.waiting + self._later[self.step]

    def advance(self) -> bool:
        """Goes on to the next step; False where there is none."""
        self.step += 1
        if self.step == len(self.schedule):
            return False
        self.waiting = 1 + self.guided[self.step]
        return True


Noise = Callable[[list[tuple[Drawing, int]]], torch.Tensor]
"""Images and k of each -> their N(0, 1) noise (n, 4, h, w) float32: initial for k = 0, after step k else."""


@dataclass(frozen=True, slots=True)
class Finished:
    """An image's clean latents (4, h, w) float32, in the VAE encoder's units times its scaling factor."""

    drawing: Drawing
    latents: torch.Tensor


@dataclass(frozen=True, slots=True)
class Probed:
    """What an image looks like after its `probe` step: predicted clean latents (4, h, w), units as above."""

    drawing: Drawing
    latents: torch.Tensor


class Scheduler:
    """Runs drawings through the UNet, always `batch_rows` rows at once.

    Attributes:
        rows_run: rows that the UNet has been given, padding included.
        rows_used: those of them that an image needed.
    """

    def __init__(
        self,
        unet: UNet,
        unconditional: torch.Tensor,
        noise: Noise,
        *,
        latent_shape: tuple[int, ...],
        batch_rows: int,
    ) -> None:
        """Takes the networks and makes room for `batch_rows` images.

        Args:
            unet: the network, on exactly `batch_rows` rows.
            unconditional: (77, C) float32, the encoded empty prompt, on the device where the work is done.
            noise: asked for the noise of images as they come to need it.
            latent_shape: (4, h, w).
            batch_rows: rows of one run of the UNet, at least 1.
        """
        device = unconditional.device
        self.device = device
        self.batch_rows = batch_rows
        self.rows_run = self.rows_used = self._num_admitted = 0
        self._unet, self._noise = unet, noise
        self._waiting: deque[Drawing] = deque()
        self._slots: list[Drawing | None] = [None] * batch_rows
        self._order: list[int] = []
        """Slots that hold an image, the oldest image first."""
        self._x = torch.zeros(batch_rows, *latent_shape, device=device)
        self._x0 = torch.zeros_like(self._x)
        # Predictions by slot, conditional and unconditional: the halves of a step may be batches apart.
        self._eps = torch.zeros(2 * batch_rows, *latent_shape, device=device)
        self._context = unconditional.expand(batch_rows + 1, *unconditional.shape).clone()
        self._launched: deque[torch.cuda.Event] = deque()

    @property
    def busy(self) -> bool:
        """Whether any image is not finished."""
        return bool(self._order or self._waiting)

    @property
    def drawings(self) -> list[Drawing]:
        """The images in slots, the oldest first."""
        return [self._held(slot) for slot in self._order]

    @property
    def hungry(self) -> bool:
        """Whether the next batch would have empty rows: add images while there are any."""
        return self._rows_ready() + sum(drawing.waiting for drawing in self._waiting) < self.batch_rows

    def add(self, drawing: Drawing) -> None:
        """Queues an image."""
        drawing.admitted_before = self._num_admitted
        self._waiting.append(drawing)

    def drop(self, drawing: Drawing) -> bool:
        """Forgets an image; False where it was not here any more. Nothing else changes."""
        if drawing in self._slots:
            self._release(self._slots.index(drawing))
            return True
        if drawing in self._waiting:
            self._waiting.remove(drawing)
            return True
        return False

    @torch.inference_mode()
    def step(self) -> list[Finished | Probed]:
        """Runs one batch of rows, and takes the images whose rows are complete a step on."""
        self._admit()
        rows = self._fill()
        if not rows:
            return []
        self._run(rows)
        self._pace()
        complete = [slot for slot in self._order if self._held(slot).waiting == 0]
        self._advance(complete)
        return self._retire(complete)

    def _rows_ready(self) -> int:
        return sum(self._held(slot).waiting for slot in self._order)

    def _admit(self) -> None:
        """Gives waiting images a slot while the batch is not full."""
        admitted: list[tuple[Drawing, int]] = []
        slots: list[int] = []
        ready = self._rows_ready()
        while self._waiting and ready < self.batch_rows:
            # Long ones first, so that no image with many steps is left over for a batch of its own; but none waits
            # for more of them than it has steps less, however many are added later.
            drawing = max(self._waiting, key=lambda drawing: len(drawing.schedule) - drawing.admitted_before)
            self._waiting.remove(drawing)
            slot = self._slots.index(None)
            self._slots[slot] = drawing
            self._order.append(slot)
            self._num_admitted += 1
            ready += drawing.waiting
            admitted.append((drawing, 0))
            slots.append(slot)
        if admitted:
            where = self._index(slots)
            self._x[where] = self._upload(self._noise(admitted))
            self._context[where] = torch.stack([drawing.context for drawing, _ in admitted])

    def _fill(self) -> list[int]:
        """The rows of the next batch, as 2 * slot (conditional) or 2 * slot + 1, of those with most to go."""
        rows: list[int] = []
        for slot in sorted(self._order, key=lambda slot: -self._held(slot).rows_left):
            drawing = self._held(slot)
            while drawing.waiting and len(rows) < self.batch_rows:
                drawing.waiting -= 1
                rows.append(2 * slot + drawing.waiting)
        return rows

    def _run(self, rows: list[int]) -> None:
        """Predicts the noise of these rows; the batch is filled up with the last one."""
        padded = rows + rows[-1:] * (self.batch_rows - len(rows))
        slots = [row // 2 for row in padded]
        times = [int(drawing.schedule.timesteps[drawing.step]) for drawing in map(self._held, slots)]
        contexts = [
            slot if row % 2 == 0 else self.batch_rows for slot, row in zip(slots, padded, strict=True)
        ]
        noise = self._unet(
            self._x[self._index(slots)], self._index(times), self._context[self._index(contexts)]
        )
        self._eps[self._index(rows)] = noise[: len(rows)]
        self.rows_run += len(padded)
        self.rows_used += len(rows)

    def _pace(self) -> None:
        """On CUDA, waits for the batch before this one: one is always queued, and no more than one."""
        if self.device.type == "cuda":
            self._launched.append(torch.cuda.current_stream(self.device).record_event())
            if len(self._launched) > 1:
                self._launched.popleft().synchronize()

    def _advance(self, slots: list[int]) -> None:
        """One sampler step of the images in these slots."""
        if not slots:
            return
        drawings = [self._held(slot) for slot in slots]
        table = torch.stack([drawing.schedule.table[drawing.step] for drawing in drawings])
        guided = [drawing.guided[drawing.step] for drawing in drawings]
        sampler_step(
            self._x, self._x0, self._eps,
            slot=self._index(slots),
            cond_row=self._index([2 * slot for slot in slots]),
            uncond_row=self._index([2 * slot + on for slot, on in zip(slots, guided, strict=True)]),
            guidance=self._upload(torch.tensor([drawing.guidance for drawing in drawings], dtype=torch.float32)),
            rows=self._upload(table),
            noise=self._renoise(drawings, table),
        )  # fmt: skip

    def _renoise(self, drawings: list[Drawing], table: torch.Tensor) -> torch.Tensor | None:
        """Noise (K, 4, h, w) for the images whose row adds any, zero for the others; None where none does."""
        needed = (table[:, OF_NOISE] != 0).nonzero().flatten().tolist()
        if not needed:
            return None
        drawn = self._noise([(drawings[place], drawings[place].step + 1) for place in needed])
        noise = torch.zeros(len(drawings), *drawn.shape[1:])
        noise[needed] = drawn.cpu()
        return self._upload(noise)

    def _retire(self, slots: list[int]) -> list[Finished | Probed]:
        """What these images have come to; the finished ones leave their slots."""
        events: list[Finished | Probed] = []
        for slot in slots:
            drawing = self._held(slot)
            if not drawing.advance():
                events.append(Finished(drawing, self._x[slot].clone()))
                self._release(slot)
            elif drawing.step == drawing.probe:
                events.append(Probed(drawing, self._x0[slot].clone()))
        return events

    def _held(self, slot: int) -> Drawing:
        drawing = self._slots[slot]
        assert drawing is not None, slot
        return drawing

    def _release(self, slot: int) -> None:
        self._slots[slot] = None
        self._order.remove(slot)

    def _index(self, values: list[int]) -> torch.Tensor:
        return self._upload(torch.tensor(values, dtype=torch.int64))

    def _upload(self, values: torch.Tensor) -> torch.Tensor:
        """On the device, without waiting for the batch that it is working on."""
        return values.to(self.device, non_blocking=True)
