"""Searches for the latents of a batch: each image by itself, on a device, or on threads of a CPU."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Literal

import torch
from torch import Tensor

from d2r_fast.engine.backends.cuda import compute_exactly
from d2r_fast.engine.backends.network import run_errors
from d2r_fast.engine.backends.threads import LoneThreads
from d2r_fast.engine.console import say
from d2r_fast.translation.stylegan.checkpoint import read_parts
from d2r_fast.translation.stylegan.generator import Generator, load_generator
from d2r_fast.translation.stylegan.networks import GENERATOR
from d2r_fast.translation.stylegan.projection import Clock, Latents, project, sample_latents

MOST_AT_ONCE = 4
"""Images on as many threads of a CPU: with gradients each takes some gigabytes at 1024 pixels."""


class Search:
    """A generator to search in, loaded at the first batch.

    Args:
        path: the checkpoint.
        latent: one row for all layers (w), or a row for each (w+).
        num_steps: of each image.
    """

    def __init__(self, path: Path, *, latent: Literal["w", "w+"], num_steps: int) -> None:
        self._path, self._latent, self._num_steps = path, latent, num_steps
        self._lock = Lock()
        self._loaded: tuple[Generator, Latents] | None = None
        self._threads: LoneThreads | None = None
        self._watch: Callable[[int], None] = Clock(num_steps, say)

    def __call__(self, targets: Tensor, keys: Tensor) -> Tensor:
        """Images (B, 3, side, side) float32 in [-1, 1] and keys (B, 2) int64 -> what the generator makes of them,
        in the same shape; each a function of its image and key alone.

        Raises:
            UserError: a checkpoint that has changed since it was opened.
            RunError: it failed, as for lack of memory.
        """
        with self._lock:  # batches may come from several threads at once
            generator, latents = self._load(targets.device)
            watches = [self._watch, *[_ignore] * len(targets)]
            self._watch = _ignore
        work = [
            partial(
                project, generator, target[None], key, latents=latents, num_steps=self._num_steps,
                num_rows=1 if self._latent == "w" else generator.shape.num_styles, watch=watch,
            )
            for target, key, watch in zip(targets, keys, watches, strict=False)
        ]  # fmt: skip
        with run_errors(GENERATOR, "torch"):
            if self._threads is None:
                return torch.cat([one() for one in work])
            with ThreadPoolExecutor(MOST_AT_ONCE) as waiting:
                return torch.cat(list(waiting.map(self._threads.run, work)))

    def _load(self, device: torch.device) -> tuple[Generator, Latents]:
        """Loads at the first call. The mean latent is computed in one thread of the CPU, so that it is the same
        whatever searches."""
        if self._loaded is None:
            compute_exactly(device.type)
            with torch.inference_mode(False):  # tensors of inference mode cannot be part of a gradient
                generator = load_generator(read_parts(self._path).generator, self._path)
                latents = LoneThreads(1).run(lambda: sample_latents(generator))
                self._loaded = generator.to(device), latents
            if device.type == "cpu":
                self._threads = LoneThreads(min(torch.get_num_threads(), MOST_AT_ONCE))
        return self._loaded


def _ignore(_: int) -> None:
    """Of a step of an image that is not timed."""
