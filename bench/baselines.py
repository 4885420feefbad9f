"""What a run is compared with: the diffusers pipeline, as it is published and at its best.

`Published` (B0) is Arc2Face's own recipe in a loop: one embedding at a time, four images a call, then detection,
alignment and encoding image by image. `Batched` (B1) is the same library with its batch, memory layout and
compiler chosen by measurement, and detection and alignment by the batch. Both draw with the weights and the
noise that they are given, so that what they draw can be compared with what a run draws.

One thing is made easier for them than their users have it: crops are encoded and not written.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from d2r_fast.bench.measure import Timing, interleave
from d2r_fast.bench.plain_mtcnn import PlainMTCNN
from d2r_fast.engine.accept import can_align
from d2r_fast.engine.align import align
from d2r_fast.engine.condition import Conditioner
from d2r_fast.engine.detect import Faces
from d2r_fast.engine.models.load import load_conditioner, load_decoder, load_scheduler_config, load_unet
from d2r_fast.engine.quiet import quiet_libraries
from d2r_fast.engine.write import encode

IMAGES_PER_CALL = 4
"""`num_images` of Arc2Face's README."""
JPEG_QUALITY = 95
CONTIGUOUS = "contiguous"
"""PyTorch's own memory layout."""

Images = NDArray[np.uint8]
"""(N, H, W, 3) RGB."""
Find = Callable[[torch.Tensor], list[Faces]]


@dataclass
class Drawer:
    """diffusers' pipeline over a model folder's networks, with Arc2Face's encoder before it."""

    pipeline: Any
    conditioner: Conditioner
    device: str
    dtype: torch.dtype

    @classmethod
    def open(cls, models: Path, *, device: str, dtype: torch.dtype) -> "Drawer":
        """Loads the folder with diffusers' networks and its DPM-Solver++ scheduler."""
        unet = load_unet(models, device=device, dtype=dtype)
        vae = load_decoder(models, device=device, dtype=dtype)
        with quiet_libraries():
            # Here, since transformers says on import what it lacks for pipelines of other kinds.
            diffusers: Any = import_module("diffusers")
            pipeline = diffusers.StableDiffusionPipeline(
                unet=unet, vae=vae, text_encoder=None, tokenizer=None, safety_checker=None,
                scheduler=diffusers.DPMSolverMultistepScheduler.from_config(load_scheduler_config(models)),
                feature_extractor=None, requires_safety_checker=False,
            )  # fmt: skip
        pipeline.set_progress_bar_config(disable=True)
        return cls(pipeline, load_conditioner(models, device=device, batch_size=1), device, dtype)

    def __call__(
        self, embeddings: torch.Tensor, latents: torch.Tensor, *, steps: int, guidance: float
    ) -> Images:
        """Draws an image of each embedding (N, D) from each noise (N, 4, h, w), in one call of the pipeline."""
        context = self.conditioner(embeddings)
        unconditional = self.conditioner.unconditional().expand_as(context)
        with quiet_libraries(), as_shipped():
            images = self.pipeline(
                prompt_embeds=context.to(self.dtype), negative_prompt_embeds=unconditional.to(self.dtype),
                latents=latents.to(self.device, self.dtype), num_inference_steps=steps, guidance_scale=guidance,
                height=8 * latents.shape[2], width=8 * latents.shape[3], output_type="pil",
            ).images  # fmt: skip
        return np.stack([np.asarray(image) for image in images])


@dataclass
class Published:
    """B0: one embedding, four images, each looked at by itself."""

    draw: Drawer
    find: PlainMTCNN

    def __call__(
        self, embeddings: torch.Tensor, latents: torch.Tensor, *, steps: int, guidance: float
    ) -> tuple[Images, list[bytes]]:
        """Images of embeddings (N, D), and the encoded crops of their faces.

        Args:
            embeddings: (N, D), each drawn four times.
            latents: (4 N, 4, h, w) noise.
            steps: UNet evaluations.
            guidance: the guidance scale.
        """
        images, crops = [], []
        noise = torch.split(latents, IMAGES_PER_CALL)
        for embedding, some in zip(embeddings, noise, strict=True):
            drawn = self.draw(embedding.expand(len(some), -1), some, steps=steps, guidance=guidance)
            images.append(drawn)
            for image in torch.from_numpy(drawn):
                crops += crop_faces(image[None], self.find)
        return np.concatenate(images), crops


@dataclass
class Batched:
    """B1: as many images in a call as run fastest, looked at together."""

    draw: Drawer
    find: PlainMTCNN
    batch_size: int

    def __call__(
        self, embeddings: torch.Tensor, latents: torch.Tensor, *, steps: int, guidance: float
    ) -> tuple[Images, list[bytes]]:
        """As `Published`."""
        wanted = embeddings.repeat_interleave(IMAGES_PER_CALL, 0)
        images, crops = [], []
        for some, noise in zip(
            torch.split(wanted, self.batch_size), torch.split(latents, self.batch_size), strict=True
        ):
            drawn = self.draw(some, noise, steps=steps, guidance=guidance)
            images.append(drawn)
            crops += crop_faces(torch.from_numpy(drawn), self.find)
        return np.concatenate(images), crops


def as_shipped() -> Any:
    """PyTorch's own settings of cuDNN while baselines draw: ours, for the whole process, are stricter."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=True)


def crop_faces(images: torch.Tensor, find: Find) -> list[bytes]:
    """JPEG crops of the largest face of each image (N, H, W, 3) that has one."""
    found = find(images)
    some = [place for place, faces in enumerate(found) if len(faces) and can_align(faces)]
    if not some:
        return []
    landmarks = torch.from_numpy(np.stack([found[place].landmarks[0] for place in some]))
    return [encode(crop, "jpg", JPEG_QUALITY) for crop in align(images[some], landmarks).numpy()]


def tune(drawer: Drawer, *, batch_sizes: Sequence[int], side: int, compiled: bool, most_s: float) -> "Tuned":
    """Puts the fastest way to run the UNet into the drawer's pipeline: layout and batch, and then the compiler.

    Ways are compared by images per second of one UNet run with guidance, so of twice as many rows as images.
    """
    unet = drawer.pipeline.unet
    timings: dict[str, Timing] = {}
    sizes: dict[str, int] = {}

    def try_out(module: Any, layout: str, some: Sequence[int]) -> str:
        arms = {f"{layout}, batch {size}": _forward(drawer, module, 2 * size, side) for size in some}
        with quiet_libraries(), as_shipped():  # the compiler warns of its own deprecated parts
            timed = interleave(arms, num_rounds=3, num_warmup=2, most_s=most_s / 3, device=drawer.device)
        timings.update(timed)
        sizes.update(zip(arms, some, strict=True))
        return min(timings, key=lambda name: timings[name].median_s / sizes[name])

    try_out(unet, CONTIGUOUS, batch_sizes)
    unet.to(memory_format=torch.channels_last)
    best = try_out(unet, "channels last", batch_sizes)
    if best.startswith(CONTIGUOUS):
        unet.to(memory_format=torch.contiguous_format)
    if compiled:
        # For one batch: a graph for any batch is slower, and one for each takes minutes.
        module = torch.compile(unet, dynamic=False)
        before, best = best, try_out(module, f"{best.partition(',')[0]}, compiled", [sizes[best]])
        drawer.pipeline.unet = unet if best == before else module
    return Tuned(best, sizes[best], timings)


@dataclass(frozen=True)
class Tuned:
    """What was found fastest, and how long a UNet run took each way."""

    name: str
    batch_size: int
    timings: dict[str, Timing]


def _forward(drawer: Drawer, module: Any, num_rows: int, side: int) -> Callable[[], object]:
    config = drawer.pipeline.unet.config
    random = torch.Generator().manual_seed(0)
    latents = torch.randn(num_rows, config.in_channels, side, side, generator=random)
    context = torch.randn(num_rows, 77, config.cross_attention_dim, generator=random)
    given = [value.to(drawer.device, drawer.dtype) for value in (latents, context)]
    timestep = torch.tensor(500, device=drawer.device)

    def run() -> object:
        with torch.no_grad():
            return module(given[0], timestep, encoder_hidden_states=given[1], return_dict=False)

    return run


def psnr(a: Images, b: Images) -> float:
    """Peak signal-to-noise ratio in dB; 200 for equal images, so that it stays a number in JSON."""
    error = float(((a.astype(np.float64) - b) ** 2).mean())
    return 200.0 if error == 0 else 10 * float(np.log10(255**2 / error))
