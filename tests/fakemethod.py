"""A translation method in a few numbers: it shifts colours, and adds noise that is keyed by image."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar, Self

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from d2r_fast.engine.backends.network import Port
from d2r_fast.engine.errors import UserError
from d2r_fast.export.exportable import TorchExportable
from d2r_fast.export.graph import BATCH
from d2r_fast.kernels.noise import normal
from d2r_fast.translation import methods
from d2r_fast.translation.config import TranslateRecipe
from d2r_fast.translation.method import Method, Run, Size, Unfit
from d2r_fast.translation.resize import crop, pad_to_multiple, resize

LARGEST = 512


class Shift(nn.Module):
    """A convolution of the colours, and one over space so that a network is more than its pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.colour = nn.Conv2d(3, 3, 1)
        self.space = nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        shifted: Tensor = torch.tanh(self.colour(images) + 0.1 * self.space(images))
        return shifted


class FakeMethod(Method):
    """Colours shifted by a learnt matrix, with noise of a hundredth."""

    NAME: ClassVar[str] = "vsait"

    def __init__(self, weights: Path, size: int | None) -> None:
        self._weights, self._size = weights, size

    @classmethod
    def open(cls, weights: Path, recipe: TranslateRecipe) -> Self:
        if not weights.is_file():
            raise UserError(f"{weights} is missing: give a checkpoint")
        return cls(weights, recipe.size)

    def check(self, size: Size) -> None:
        if max(size) > LARGEST:
            raise Unfit(f"{size[1]}x{size[0]} pixels, at most {LARGEST}")

    def _seen(self, size: Size) -> Size:
        return (self._size, self._size) if self._size else (-(-size[0] // 4) * 4, -(-size[1] // 4) * 4)

    def networks(self, size: Size) -> tuple[TorchExportable, ...]:
        height, width = self._seen(size)
        port = partial(Port, dtype=torch.float32, shape=("batch", 3, height, width))
        return (
            TorchExportable(
                name="shift", inputs=(port("images"),), outputs=(port("shifted"),),
                files={self._weights.name: self._weights},
                settings={"height": str(height), "width": str(width)},
                draws={"images": lambda shape, generator: torch.randn(shape, generator=generator)},
                make=partial(_load, self._weights), dynamic_axes={"images": {0: BATCH}},
            ),
        )  # fmt: skip

    def prepare(self, images: Tensor) -> Tensor:
        values = images.movedim(-1, 1).float() / 127.5 - 1
        if self._size:
            return resize(values, (self._size, self._size), how="bilinear")
        return pad_to_multiple(values, 4)

    def run(self, networks: Mapping[str, Run], inputs: Tensor, keys: Tensor) -> Tensor:
        words = [[key, image, 0, 1] for key, image in keys.tolist()]
        noise = normal(torch.tensor(words), tuple(inputs.shape[1:])).to(inputs.device)
        return networks["shift"]({"images": inputs})["shifted"] + 0.01 * noise

    def finish(self, outputs: Tensor, size: Size) -> Tensor:
        images = resize(outputs, size, how="area") if self._size else crop(outputs, size)
        return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).contiguous()


def _load(path: Path) -> nn.Module:
    module = Shift()
    module.load_state_dict(load_file(path))
    return module


def write_weights(path: Path, *, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    save_file({name: value.detach().clone() for name, value in Shift().state_dict().items()}, path)
    return path


def use_fake_method(patch: pytest.MonkeyPatch) -> None:
    """Puts the fake in VSAIT's place."""
    patch.setitem(methods._HOMES, "vsait", (FakeMethod.__module__, "FakeMethod"))
