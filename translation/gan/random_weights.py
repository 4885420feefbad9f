"""Checkpoints in VSAIT's, DECENT's and UNSB's layouts with random weights: the published sizes, or small ones."""

from collections import OrderedDict
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from d2r_fast.engine.files import write_atomic
from d2r_fast.engine.models.random_weights import JITTER, Spec, draw, specs
from d2r_fast.translation.gan.decent import DecentGenerator
from d2r_fast.translation.gan.unsb import UnsbGenerator
from d2r_fast.translation.gan.vsait import VsaitGenerator

GanName = Literal["vsait", "decent", "unsb"]
Size = Literal["mini", "full"]
SIZES: dict[Size, tuple[int, int]] = {"full": (64, 9), "mini": (8, 5)}
"""Channels of the first convolution and residual blocks: as published, and 0.4 to 0.7 MB."""
NETWORKS: dict[GanName, Callable[[int, int], nn.Module]] = {
    "vsait": VsaitGenerator,
    "decent": DecentGenerator,
    "unsb": UnsbGenerator,
}
BESIDE = {"model.d_net.net.0.net.0.conv.weight": (8, 16, 1, 1), "model.g_net_map.0.weight": (8, 8, 1, 1)}
"""Other networks of VSAIT's training, named as there and small: they are not read."""


def write_random_weights(
    path: Path, *, method: GanName, size: Size, seed: int = 0, intended: bool = False
) -> None:
    """Writes a checkpoint as the method's program does, whose weights are a function of the seed alone.

    VSAIT's is Lightning's, with the generator among other networks; DECENT's and UNSB's are tables of tensors.
    `intended`: UNSB's blocks as they were meant.

    Raises:
        UserError: a place that cannot be written to.
        RunError: the disk is full.
    """
    content: dict[str, Any] = random_tensors(method, size=size, seed=seed, intended=intended)
    if method == "vsait":
        table = OrderedDict((f"model.g_net.{name}", value) for name, value in content.items())
        for name, shape in BESIDE.items():
            table[name] = torch.from_numpy(draw(Spec(shape, 0.0, JITTER), seed, method, name))
        content = {"epoch": 0, "global_step": 1, "state_dict": table}
    packed = BytesIO()
    torch.save(content, packed)
    write_atomic(path, packed.getvalue())


def random_tensors(
    method: GanName, *, size: Size, seed: int = 0, intended: bool = False
) -> dict[str, Tensor]:
    """A generator's table of tensors: matrices keep their input's variance, filters are the published ones."""
    channels, num_blocks = SIZES[size]
    if intended:
        assert method == "unsb", method
        network: nn.Module = UnsbGenerator(channels, num_blocks, intended=True)
    else:
        network = NETWORKS[method](channels, num_blocks)
    found = OrderedDict(network.state_dict())
    for name, spec in specs(network).items():
        value = torch.from_numpy(draw(spec, seed, method, name))
        if name.endswith("style_net.bias"):  # scales about 1, shifts about 0
            value[: len(value) // 2] += 1
        found[name] = value
    return found
