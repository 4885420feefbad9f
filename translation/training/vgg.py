"""Features of VGG-19 (Simonyan and Zisserman, ICLR 2015), from the weight file that torchvision publishes."""

from collections.abc import Mapping
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.models.load import read_tensors
from d2r_fast.recognition.torch_file import read_checkpoint

BLOCKS = ((0, 2), (5, 7), (10, 12, 14, 16), (19, 21, 23, 25), (28, 30, 32, 34))
"""Convolutions in torchvision's `features`, between which images are halved."""
TAPS = (2, 7, 12, 21, 30)
"""Convolutions whose features VSAIT compares: the second of each block."""
_WANTED = "give torchvision's vgg19 weights (vgg19-dcbb9e9d.pth)"
_NEEDED = [number for block in BLOCKS for number in block if number <= TAPS[-1]]


class Vgg19(nn.Module):
    """The network up to its fourteenth convolution, frozen; widths are those of the file.

    Features are those that the released VSAIT sees: torchvision's ReLU works in place, so the outputs of the first four
    are rectified, while that of the last, which nothing follows, is not. Images come as they are, in [-1, 1]: that
    program does not normalise by ImageNet's statistics.

    Args:
        tensors: weight and bias of every convolution, as torchvision names them.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for number in _NEEDED:
            for kind in ("weight", "bias"):
                self.register_buffer(f"{kind}_{number}", tensors[f"features.{number}.{kind}"].float())

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the features, from the first to the last."""
        return tuple(len(self.get_buffer(f"bias_{number}")) for number in TAPS)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of an image.

        Args:
            images: (B, 3, H, W), each side at least 16.

        Returns:
            Five of (B, channels, H / 2^n, W / 2^n), n from 0 to 4, rounded down.
        """
        features: list[Tensor] = []
        for block, numbers in enumerate(BLOCKS):
            images = F.max_pool2d(images, 2) if block else images
            for number in numbers:
                images = self._convolve(images, number)
                if number == TAPS[-1]:
                    return [*features, images]
                images = F.relu(images)
                if number in TAPS:
                    features.append(images)
        raise AssertionError("the last tap ends the loop")

    def _convolve(self, images: Tensor, number: int) -> Tensor:
        return F.conv2d(
            images, self.get_buffer(f"weight_{number}"), self.get_buffer(f"bias_{number}"), padding=1
        )


def read_vgg19(path: Path) -> Vgg19:
    """The network of a weight file; its classifier is not looked at.

    Raises:
        UserError: no such file, a damaged one, another network's, or one that lacks tensors.
    """
    content = read_tensors(path) if path.suffix == ".safetensors" else read_checkpoint(path)
    tensors = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor) and name.startswith("features.")
    }
    _check(tensors, path)
    return Vgg19(tensors)


def _check(tensors: Mapping[str, Tensor], path: Path) -> None:
    if not tensors:
        raise UserError(f"{path} holds no features.N.weight: {_WANTED}")
    if any("running_mean" in name for name in tensors):
        raise UserError(f"{path} is a VGG with batch norms: {_WANTED}")
    expected = [
        f"features.{number}.{kind}" for block in BLOCKS for number in block for kind in ("weight", "bias")
    ]
    if extra := sorted(tensors.keys() - set(expected)):
        raise UserError(f"{path} is another network than VGG-19 ({extra[0]} is none of its): {_WANTED}")
    if missing := [name for name in expected if name not in tensors]:
        raise UserError(f"{path} lacks {len(missing)} tensors of VGG-19, the first {missing[0]}: {_WANTED}")
    _check_shapes(tensors, path)


def _check_shapes(tensors: Mapping[str, Tensor], path: Path) -> None:
    before = 3
    for number in (number for block in BLOCKS for number in block):
        shape = tuple(tensors[f"features.{number}.weight"].shape)
        width = tensors[f"features.{number}.bias"].numel()
        if shape != (width, before, 3, 3):
            raise UserError(
                f"{path}: features.{number}.weight is {shape}, VGG-19 has ({width}, {before}, 3, 3) there: {_WANTED}"
            )
        before = width
