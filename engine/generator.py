"""Images of a face from its embedding, by Arc2Face: the Python API, and the three stages behind it.

Example:
    generator = Arc2FaceGenerator.from_pretrained("models")
    images = generator(embeddings)  # (N, 512) -> (N, 512, 512, 3) uint8 RGB
"""

import functools
import math
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from d2r_fast.engine.backend import Networks, open_networks
from d2r_fast.engine.config import Backend, DType, Sampler
from d2r_fast.engine.device import find_device, find_dtype
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.schedule import ALWAYS, Schedule, guided_steps, make_schedule
from d2r_fast.engine.scheduler import Drawing, Finished, Noise, Scheduler
from d2r_fast.engine.vae import Decoded, decode_latents
from d2r_fast.kernels.noise import identity_key, normal

Array = torch.Tensor | NDArray[np.floating]
BatchNoise = Callable[[int], torch.Tensor]
"""k -> N(0, 1) noise (N, 4, h, w) float32: the initial latents for k = 0, what LCM adds after step k else."""


class Arc2FaceGenerator:
    """Arc2Face with fixed batch shapes.

    An image is a function of its embedding, its noise and the settings. On the CPU a network sees one image at
    a time, each on a thread of its own, so that neither its neighbours, its place among them, `batch_size` nor
    the number of threads change a bit of it. On CUDA networks see batches of one fixed size, a rest padded;
    another batch size or another device makes libraries sum in another order, which moves single pixels by a
    level.

    Attributes:
        device: "cpu" or "cuda:N".
        embedding_dim: values in a face embedding.
        latent_shape: (4, h, w) of the images that are made by default.
        image_size: (height, width) of those images in pixels.
        unconditional: (77, C) float32, the encoded empty prompt.
    """

    def __init__(
        self,
        networks: Networks,
        *,
        device: str = "cpu",
        batch_size: int = 8,
        sampler: Sampler = "dpm++2m",
    ) -> None:
        self.device = device
        self.embedding_dim = networks.conditioner.embedding_dim
        self.latent_shape = networks.latent_shape
        scale = networks.pixels_per_latent
        self.image_size = (self.latent_shape[1] * scale, self.latent_shape[2] * scale)
        self._networks = networks
        self._batch_size = batch_size
        self._sampler = sampler
        self._schedules: dict[int, Schedule] = {}
        self.unconditional = networks.conditioner.unconditional()

    @classmethod
    def from_pretrained(
        cls,
        models_dir: str | Path,
        *,
        backend: Backend = "torch",
        engines: str | Path | None = None,
        device: str = "cpu",
        dtype: DType = "float32",
        batch_size: int = 8,
        sampler: Sampler = "dpm++2m",
        height: int | None = None,
        width: int | None = None,
    ) -> "Arc2FaceGenerator":
        """Loads a model folder.

        Args:
            models_dir: from `d2r-fast models pull` or `models init`.
            backend: what runs the networks. All but torch run engines, built on first use.
            engines: folder of those; default, a cache folder for these models.
            device: auto, cpu, cuda or cuda:N.
            dtype: arithmetic of encoder, UNet and VAE: auto, float32, bfloat16 or float16. The sampler always
                computes in float32.
            batch_size: rows of the UNet run at once; an image needs one, with guidance two.
            sampler: "dpm++2m", or "lcm", which merges the folder's LCM-LoRA into the UNet.
            height, width: image size in pixels; default, what the UNet was trained on.

        Raises:
            UserError: anything of this that is not there or does not fit.
        """
        if batch_size < 1:
            raise UserError(f"batch_size {batch_size}: expected at least 1")
        if sampler not in ("dpm++2m", "lcm"):
            raise UserError(f"sampler {sampler!r}: expected 'dpm++2m' or 'lcm'")
        place = find_device(device)
        networks = open_networks(
            backend, Path(models_dir), engines=None if engines is None else Path(engines), device=place,
            dtype=find_dtype(dtype, place), batch_size=batch_size, lora=sampler == "lcm", height=height, width=width,
        )  # fmt: skip
        return cls(networks, device=place, batch_size=batch_size, sampler=sampler)

    def check(self, *, steps: int, guidance: float, offset: Array | None = None) -> None:
        """Whether settings can be used, before any work is done with them.

        Raises:
            UserError: they cannot.
        """
        self._schedule(steps)
        self._check_guidance(guidance)
        if offset is not None:
            self._as_offset(offset)

    def __call__(
        self,
        id_embeddings: Array,
        *,
        latents: Array | None = None,
        num_inference_steps: int = 25,
        guidance_scale: float = 3.0,
        clip_offset: Array | None = None,
        seed: int = 0,
        noise: BatchNoise | None = None,
    ) -> NDArray[np.uint8]:
        """One image of each embedding.

        Args:
            id_embeddings: (N, D) ArcFace embeddings, D = `embedding_dim`; only their direction is used.
            latents: (N, 4, h, w) initial noise, N(0, 1). Default: image i draws it under the key of (seed,
                identity ""), image i, so it depends on seed and i alone.
            num_inference_steps: UNet evaluations; with lcm 2 to 4.
            guidance_scale: 1 or less turns guidance off; lcm needs that.
            clip_offset: (77, C), added to the conditional branch, as Digi2Real does.
            seed: 0 <= seed < 2**63, for whatever noise is not given.
            noise: k -> what lcm adds after step k = 1, 2, ..., (N, 4, h, w). Default: keyed, as latents.

        Returns:
            (N, H, W, 3) uint8 RGB, in the order of the embeddings.

        Raises:
            UserError: an argument out of its range or shape.
            RunError: values that are not finite came out, naming the images; float16 overflows most easily.
        """
        context = self.condition(id_embeddings, clip_offset)
        num = len(context)
        fixed = self.latent_shape[: 1 if self._networks.any_size else 3]
        given = None if latents is None else _as_latents(latents, num, *fixed)
        shape = self.latent_shape if given is None else tuple(given.shape[1:])
        try:
            key = identity_key(seed, "")
        except ValueError as error:
            raise UserError(str(error)) from None

        def draw(k: int) -> torch.Tensor:
            if k == 0 and given is not None:
                return given
            if k > 0 and noise is not None:
                return _as_latents(noise(k), num, *shape)
            keys = torch.tensor([key, 0, 0, k]).repeat(num, 1)
            keys[:, 1] = torch.arange(num)
            return normal(keys, shape)

        clean = self.denoise(context, draw, steps=num_inference_steps, guidance=guidance_scale)
        decoded = self.decode(clean)
        bad = (~decoded.finite).nonzero().flatten().tolist()
        if bad:
            raise RunError(f"images {bad}: values that are not finite came out; try dtype float32")
        return decoded.images.cpu().numpy()

    def condition(self, id_embeddings: Array, offset: Array | None = None) -> torch.Tensor:
        """(N, D) embeddings to conditioning (N, 77, C) float32, with the offset (77, C) added if given."""
        context = self._networks.conditioner(torch.as_tensor(id_embeddings))
        if offset is None:
            return context
        return context + self._as_offset(offset)

    def _as_offset(self, offset: Array) -> torch.Tensor:
        added = torch.as_tensor(offset, dtype=torch.float32, device=self.device)
        expected = self.unconditional.shape
        if added.shape != expected or not bool(added.isfinite().all()):
            raise UserError(
                f"clip_offset of shape {tuple(added.shape)}: expected {tuple(expected)} finite "
                "values, from `d2r-fast offset` with these models"
            )
        return added

    def denoise(
        self,
        context: torch.Tensor,
        noise: BatchNoise,
        *,
        steps: int,
        guidance: float,
        interval: tuple[float, float] = ALWAYS,
    ) -> torch.Tensor:
        """Runs the sampler.

        Args:
            context: (N, 77, C) of `condition`.
            noise: the noise of all N samples, asked once for each k that the sampler needs.
            steps: UNet evaluations.
            guidance: the guidance scale.
            interval: the part of the steps with guidance, as `guided_steps` takes it.

        Returns:
            (N, 4, h, w) float32 clean latents, on the device.
        """
        drawn = functools.cache(noise)
        waiting = deque(
            self.drawing(place, row, steps=steps, guidance=guidance, interval=interval)
            for place, row in enumerate(context)
        )
        if not waiting:
            return drawn(0).to(self.device)
        clean: list[torch.Tensor] = [torch.empty(0)] * len(waiting)
        scheduler = self.scheduler(
            lambda wanted: torch.stack([drawn(k)[drawing.name] for drawing, k in wanted]),
            latent_shape=tuple(drawn(0).shape[1:]),
        )
        while waiting or scheduler.busy:
            while waiting and scheduler.hungry:
                scheduler.add(waiting.popleft())
            for event in scheduler.step():
                assert isinstance(event, Finished), "nothing here is probed"
                clean[event.drawing.name] = event.latents
        return torch.stack(clean)

    def drawing(
        self,
        name: Any,
        context: torch.Tensor,
        *,
        steps: int,
        guidance: float,
        interval: tuple[float, float] = ALWAYS,
        probe: int | None = None,
    ) -> Drawing:
        """One image for the scheduler: its conditioning (77, C), its steps and where guidance is on.

        Raises:
            UserError: settings that cannot be used.
        """
        self._check_guidance(guidance)
        return Drawing(
            name=name, context=context, schedule=self._schedule(steps), guidance=guidance,
            guided=guided_steps(steps, guidance, interval), probe=probe,
        )  # fmt: skip

    def scheduler(self, noise: Noise, latent_shape: tuple[int, ...] | None = None) -> Scheduler:
        """A scheduler over this UNet, for images of the default size or another."""
        return Scheduler(
            self._networks.unet, self.unconditional, noise,
            latent_shape=latent_shape or self.latent_shape, batch_rows=self._batch_size,
        )  # fmt: skip

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> Decoded:
        """(N, 4, h, w) clean latents to images (N, H, W, 3) uint8, and which are finite, on the device."""
        if len(latents) == 0:
            size = [side * self._networks.pixels_per_latent for side in latents.shape[2:]]
            return Decoded(torch.empty(0, *size, 3, dtype=torch.uint8), torch.empty(0, dtype=torch.bool))
        return decode_latents(self._networks.decoder, latents, scaling_factor=self._networks.scaling_factor)

    def _schedule(self, steps: int) -> Schedule:
        if steps not in self._schedules:
            self._schedules[steps] = make_schedule(self._networks.scheduler_config, self._sampler, steps)
        return self._schedules[steps]

    def _check_guidance(self, guidance: float) -> None:
        if not (math.isfinite(guidance) and guidance >= 0):
            raise UserError(f"guidance {guidance:g}: expected 0 or more")
        if self._sampler == "lcm" and guidance > 1:
            raise UserError(f"guidance {guidance:g} with sampler lcm: LCM-LoRA runs without guidance, give 1")


def _as_latents(values: Array, num: int, *shape: int) -> torch.Tensor:
    """Float32 latents of N samples, with as many leading sides of a sample's shape checked as are given."""
    latents = torch.as_tensor(values).to(torch.float32)
    expected = (num, *shape)
    if latents.ndim != 4 or latents.shape[: len(expected)] != expected:
        sides = ", ".join([*map(str, expected), *"hw"][:4])
        raise UserError(f"latents of shape {tuple(latents.shape)}: expected ({sides})")
    return latents
