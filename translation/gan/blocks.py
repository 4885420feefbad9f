"""What VSAIT's, DECENT's and UNSB's generators have in common, and how they are made of a checkpoint.

All three are Johnson et al.'s residual network ("Perceptual losses for real-time style transfer", ECCV 2016) as CUT
has it: a 7x7 convolution, two halvings, residual blocks, two doublings, a 7x7 convolution. Their convolutions have
biases that the instance norms take off again; they are computed as the checkpoints have them.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2r_fast.engine.errors import UserError
from d2r_fast.translation.checkpoint import load_exactly
from d2r_fast.translation.gan.blur import check_filters

EPSILON = 1e-5
"""Of every instance norm, as torch's default."""
LARGE = 2**13
"""Numbers of a map from which on it is exported as a row."""
Network = TypeVar("Network", bound=nn.Module)


class InstanceNorm(nn.Module):
    """Each channel of each image to mean 0 and variance 1, without scale or shift.

    A group norm with a group for every channel is the same sum; on a CPU torch computes it in a quarter of the time
    that its instance norm takes. Exported it is one InstanceNormalization: of maps, or, from LARGE on, of rows.
    OpenVINO adds up a map's numbers one after the other, which at 256 pixels puts the image off by 1e-5, and a row's
    many at a time (3e-6); a row's norm is also what export/large_norms.py looks after. In half precision the numbers
    are stored in 16 bits and have to be summed up in 32, as 65,536 squares of 10 are 100 times float16's end:
    TensorRT's normalisation layer and onnxruntime do.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_exporting():
            return F.group_norm(x, x.shape[1], eps=EPSILON)
        if x.shape[2] * x.shape[3] < LARGE:
            return F.instance_norm(x, eps=EPSILON)
        return F.instance_norm(x.flatten(2), eps=EPSILON).view(x.shape)


class ResnetBlock(nn.Module):
    """CUT's residual block, 3x3 convolutions with reflected borders; (N, C, H, W) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), InstanceNorm(), nn.ReLU(),
            nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), InstanceNorm(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.conv_block(x)
        return x + residual


def run_layers(layers: Iterable[nn.Module], x: Tensor, wanted: Iterable[int]) -> tuple[Tensor, list[Tensor]]:
    """What layers in a row give in the end, and after those of these numbers, in order."""
    kept, numbers = [], set(wanted)
    for number, layer in enumerate(layers):
        x = layer(x)
        if number in numbers:
            kept.append(x)
    return x, kept


def build_quietly(make: Callable[[], Network]) -> Network:
    """A network with whatever first weights torch draws, the global random state left as it was."""
    with torch.random.fork_rng(devices=()):
        return make()


def load_generator(make: Callable[[], Network], tensors: Mapping[str, Tensor], path: Path) -> Network:
    """The network that `make` makes, with these tensors; eval mode, float32, on the CPU.

    Raises:
        UserError: tensors that are not exactly its own.
    """
    with torch.device("meta"):
        network = make()
    load_exactly(network, tensors, path)
    check_filters(network, path)
    return network.float().eval()


def count_blocks(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbers the pattern's one group takes among the names."""
    return len({match[1] for name in tensors if (match := re.match(pattern, name))})


def num_channels(tensors: Mapping[str, Tensor], name: str, path: Path) -> int:
    """Outputs of a convolution.

    Raises:
        UserError: no convolution of that name.
    """
    weight = tensors.get(name)
    if weight is None or weight.ndim != 4:
        raise UserError(f"{path} has no convolution {name}: fetch it again")
    return weight.shape[0]
