"""The three generators as they are exported: one network each, for one size of image."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2r_fast.engine.backends.network import Port
from d2r_fast.export.exportable import Draw, TorchExportable
from d2r_fast.export.graph import BATCH
from d2r_fast.translation.checkpoint import read_weights
from d2r_fast.translation.gan.decent import DecentGenerator
from d2r_fast.translation.gan.random_weights import GanName
from d2r_fast.translation.gan.unsb import UnsbGenerator
from d2r_fast.translation.gan.vsait import VsaitGenerator

GENERATORS: Mapping[GanName, type[VsaitGenerator | DecentGenerator | UnsbGenerator]] = {
    "vsait": VsaitGenerator,
    "decent": DecentGenerator,
    "unsb": UnsbGenerator,
}
ROUGHNESS = 16
"""Pixels between the independent values of a random image."""
NOISE = 0.1
NUM_STEPS = 5
"""Steps that a random time is drawn from."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What decides a generator's network.

    Attributes:
        method: whose it is.
        weights: the file.
        code_length: numbers of UNSB's random code; 0 for the others.
        timed: whether the step's number is looked at: UNSB's intended blocks.
    """

    method: GanName
    weights: Path
    code_length: int = 0
    timed: bool = False


class ReleasedUnsb(nn.Module):
    """UNSB's generator as released, without the time, which it does not look at: images and codes -> images."""

    def __init__(self, generator: UnsbGenerator) -> None:
        super().__init__()
        assert not generator.intended
        self.generator = generator
        self.register_buffer("time", torch.zeros(1, dtype=torch.int64), persistent=False)

    def forward(self, images: Tensor, codes: Tensor) -> Tensor:
        time = self.time
        assert isinstance(time, Tensor)
        translated: Tensor = self.generator(images, time, codes)
        return translated


def read_generator(
    method: GanName, path: Path
) -> tuple[VsaitGenerator | DecentGenerator | UnsbGenerator, Path]:
    """A generator of a checkpoint, in eval mode on the CPU, and the file that it comes from.

    Raises:
        UserError: no such file, another method's, or tensors that are not exactly its own.
    """
    weights = read_weights(path, method=method)
    return GENERATORS[method].from_tensors(weights.tensors, weights.path), weights.path


def plan_of(method: GanName, path: Path) -> Plan:
    """What a checkpoint's network is; it is read whole, and let go of.

    Raises:
        UserError: as `read_generator`.
    """
    generator, file = read_generator(method, path)
    if isinstance(generator, UnsbGenerator):
        return Plan(method, file, generator.code_length, generator.intended)
    return Plan(method, file)


def open_generator(plan: Plan, *, height: int, width: int) -> TorchExportable:
    """The network for images of this size: multiples of 4."""
    assert height % 4 == width % 4 == 0, (height, width)
    inputs = _inputs(plan, height, width)
    return TorchExportable(
        name=plan.method,
        inputs=inputs,
        outputs=(Port("translated", torch.float32, ("batch", 3, height, width)),),
        files={plan.weights.name: plan.weights},
        settings={"height": str(height), "width": str(width)},
        draws={port.name: DRAWS[port.name] for port in inputs},
        make=partial(_make, plan),
        dynamic_axes={port.name: {0: BATCH} for port in inputs},
        wide=True,
    )


def _inputs(plan: Plan, height: int, width: int) -> tuple[Port, ...]:
    time = (Port("time", torch.int64, ("batch",)),) if plan.timed else ()
    codes = (Port("codes", torch.float32, ("batch", plan.code_length)),) if plan.code_length else ()
    return (Port("images", torch.float32, ("batch", 3, height, width)), *time, *codes)


def _make(plan: Plan) -> nn.Module:
    generator, _ = read_generator(plan.method, plan.weights)
    return ReleasedUnsb(generator) if isinstance(generator, UnsbGenerator) and not plan.timed else generator


def _smooth_image(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Soft spots of colour and some noise, -1 to 1."""
    sides = [max(2, side // ROUGHNESS) for side in shape[1:]]
    spots = 2 * torch.rand((1, shape[0], *sides), generator=generator) - 1
    image = F.interpolate(spots, size=shape[1:], mode="bicubic", align_corners=False)[0]
    return (image + NOISE * torch.randn(shape, generator=generator)).clamp(-1, 1)


def _step(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(NUM_STEPS, shape, generator=generator)


def _code(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


DRAWS: Mapping[str, Draw] = {"images": _smooth_image, "time": _step, "codes": _code}
