"""Random weights with sane activations, as a pure function of (seed, network, tensor).

Every tensor has its own stream, so its values depend neither on the order nor on what else is drawn. Values
are uniform, not normal: their bits then come out of integer arithmetic and are the same on every machine.
Matrices keep their input's variance (LeCun et al., "Efficient BackProp", 1998); biases, norms and slopes are
perturbed, so that a loader or an exporter which drops or swaps one of them is noticed.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

EMBEDDING_STD = 0.02  # CLIP's own
JITTER = 0.02


@dataclass(frozen=True, slots=True)
class Spec:
    """Shape, mean and standard deviation of a random tensor."""

    shape: tuple[int, ...]
    mean: float
    std: float


def draw(spec: Spec, *key: int | str) -> NDArray[np.float32]:
    """A float32 array of this spec; the key alone decides its values."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.PCG64DXSM(int.from_bytes(digest, "little")))
    values = generator.random(spec.shape, dtype=np.float32)
    values -= np.float32(0.5)
    values *= np.float32(math.sqrt(12) * spec.std)
    values += np.float32(spec.mean)
    return values


def specs(network: nn.Module, *, gain: float = 1.0) -> dict[str, Spec]:
    """Parameter name -> spec, in the network's order; `gain` multiplies the matrices' standard deviation."""
    return {
        f"{path}.{name}" if path else name: _spec(module, name, parameter, gain)
        for path, module in network.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
    }


def _spec(module: nn.Module, name: str, parameter: Tensor, gain: float) -> Spec:
    shape = tuple(parameter.shape)
    if name == "bias":
        return Spec(shape, 0.0, JITTER)
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        return Spec(shape, 0.0, gain / math.sqrt(math.prod(shape[1:])))
    if isinstance(module, nn.Embedding):
        return Spec(shape, 0.0, EMBEDDING_STD)
    if isinstance(module, nn.PReLU):
        return Spec(shape, 0.25, JITTER)
    assert isinstance(module, (nn.LayerNorm, nn.GroupNorm, _BatchNorm)), (type(module), name)
    return Spec(shape, 1.0, JITTER)


def randomise(network: nn.Module, *, seed: int, name: str, gain: float = 1.0) -> None:
    """Give every parameter that is trained its random values, in place."""
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for key, spec in specs(network, gain=gain).items():
            if parameters[key].requires_grad:
                parameters[key].copy_(torch.from_numpy(draw(spec, seed, name, key)))


def calibrate(network: nn.Module, images: Tensor) -> None:
    """Set the batch norms' running statistics to those of `images` (N,...), in place, and go to eval mode.

    Without it a deep residual network of random weights doubles its variance with every block, and gives
    all inputs nearly the same output. The pass runs in float64 and its results are kept to 8 bits, coarser
    than any difference in the order of summation, so that threads and vector units cannot show.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.double().train()(images.double())
    network.float().eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.momentum = momentum
        for statistic in (norm.running_mean, norm.running_var):
            statistic.copy_(statistic.bfloat16().float())


def blobs(num_images: int, size: int, *key: int | str) -> Tensor:
    """Smooth random colour images, float32 (N,3,size,size) in [-1,1], to calibrate on."""
    coarse = torch.from_numpy(draw(Spec((num_images, 3, 7, 7), 0.0, 1.0), *key))
    smooth = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    fine = torch.from_numpy(draw(Spec((num_images, 3, size, size), 0.0, 0.1), *key, "fine"))
    return (smooth + fine).clamp(-1, 1)


def lora_specs(shapes: Mapping[str, Sequence[int]], *, rank: int) -> dict[str, Spec]:
    """kohya's names -> specs, for modules (name -> weight shape) of a UNet.

    alpha is half the rank, so that a loader which forgets to scale by alpha / rank is noticed.
    """
    found = {}
    for name, (outputs, *inputs) in shapes.items():
        stem = "lora_unet_" + name.replace(".", "_")
        ones = (1,) * (len(inputs) - 1)
        found[f"{stem}.alpha"] = Spec((), rank / 2, 0.0)
        found[f"{stem}.lora_down.weight"] = Spec((rank, *inputs), 0.0, 1 / math.sqrt(math.prod(inputs)))
        found[f"{stem}.lora_up.weight"] = Spec((outputs, rank, *ones), 0.0, 0.1 / math.sqrt(rank))
    return found
