"""Checkpoints with random weights, in the layout in which e4e and pSp publish theirs."""

import math
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from d2r_fast.engine.files import open_atomic
from d2r_fast.engine.models.random_weights import Spec, draw
from d2r_fast.translation.stylegan.checkpoint import KINDS
from d2r_fast.translation.stylegan.encoder import Encoder, EncoderShape, Kind
from d2r_fast.translation.stylegan.generator import MAPPING_LEARNING_RATE, Generator, GeneratorShape
from d2r_fast.translation.stylegan.layers import EqualLinear, Filter, ModulatedConv2d

TAPS = (1.0, 3.0, 3.0, 1.0)
GENERATORS = {
    "mini": GeneratorShape((12, 12, 8, 8), style_dim=12, num_mappings=2),
    "full": GeneratorShape((512, 512, 512, 512, 512, 256, 128, 64, 32)),
}
ENCODERS = {
    "mini": EncoderShape((1, 2, 2, 1), (4, 6, 8, 12), 4, 2, (1, 1, 1, 2, 2, 2, 2, 3), style_dim=12),
    "full": EncoderShape((3, 4, 14, 3), (64, 128, 256, 512), 64, 16, (4,) * 3 + (5,) * 4 + (6,) * 11),
}
JITTER = 0.1
"""Of biases, norms, slopes and the weights of noise, so that one that is dropped or swapped is noticed."""


def write_random_weights(
    path: Path, *, size: Literal["mini", "full"], seed: int, kind: Kind = "e4e", id_lambda: float = 0.1
) -> None:
    """Writes a .pt of an untrained e4e or pSp with its generator: 32 pixels (mini) or 1024 from 256 (full, 1.2 GB).

    Args:
        path: the file to write, whole or not at all.
        size: mini is of some 20,000 numbers.
        seed: together with the size it decides every number.
        kind: whose encoder.
        id_lambda: what its options say of ArcFace's loss.

    Raises:
        RunError: the disk is full.
        UserError: a place that cannot be written to.
    """
    generator, encoder = GENERATORS[size], ENCODERS[size]
    with torch.device("meta"):
        networks = {"encoder": Encoder(encoder, kind=kind), "decoder": Generator(generator)}
    tensors = {
        f"{part}.{name}": value
        for part, network in networks.items()
        for name, value in _values(network, part, seed).items()
    }
    average = draw(Spec((1, generator.style_dim), 0.0, 0.3), seed, "latent_avg")
    opts = {
        "encoder_type": next(name for name, known in KINDS.items() if known == kind),
        "stylegan_size" if kind == "e4e" else "output_size": generator.resolution,
        "start_from_latent_avg": True,
        "id_lambda": id_lambda,
        "train_decoder": False,
        "dataset_type": "ffhq_encode",
    }
    content = {
        "state_dict": tensors,
        "latent_avg": torch.from_numpy(average).repeat(generator.num_styles, 1),
        "opts": opts,
    }
    with open_atomic(path) as file:
        torch.save(content, file)  # type: ignore[arg-type]  # writes front to back, and asks for no more


def _values(network: nn.Module, part: str, seed: int) -> dict[str, Tensor]:
    return {
        f"{place}.{name}": _value(module, name, value, (seed, part, place, name))
        for place, module in network.named_modules()
        for name, value in module.state_dict().items()
        if "." not in name
    }


def _value(module: nn.Module, name: str, value: Tensor, key: tuple[int | str, ...]) -> Tensor:
    """rosinality's initial weights for StyleGAN2, those of LeCun et al. for the encoder, and jitter."""
    if isinstance(module, Filter):
        taps = torch.tensor(TAPS) / sum(TAPS)
        # Both filters follow a doubling, which leaves a quarter of the numbers.
        return 4 * taps[:, None] * taps[None, :]
    if not value.dtype.is_floating_point:
        return torch.zeros(value.shape, dtype=value.dtype)
    mean, std = _spec(module, name, tuple(value.shape), place=str(key[2]))
    return torch.from_numpy(draw(Spec(tuple(value.shape), mean, std), *key))


def _spec(module: nn.Module, name: str, shape: tuple[int, ...], *, place: str) -> tuple[float, float]:
    """Mean and standard deviation."""
    if name == "bias":
        return float(place.endswith(".modulation")), JITTER
    if isinstance(module, EqualLinear):
        is_mapping = place.startswith("style.")
        return 0.0, (1 / MAPPING_LEARNING_RATE if is_mapping else 1.0)
    if isinstance(module, nn.Conv2d):
        return 0.0, math.sqrt(1 / math.prod(shape[1:]))
    if isinstance(module, nn.BatchNorm2d):
        return (0.0 if name == "running_mean" else 1.0), JITTER
    if isinstance(module, nn.PReLU):
        return 0.25, JITTER
    if isinstance(module, ModulatedConv2d) or name.startswith("noise_") or name == "input":
        return 0.0, 1.0
    return 0.0, JITTER
