"""Translation by restoration: CodeFormer as it was released, the better of the two methods that Syn2Auth kept.

Its public program takes aligned faces of any size: it resizes them to 512 pixels (bilinear), restores them with
w = 0.5 and adaptive instance norm, and leaves them there. Syn2Auth names neither w nor the way back.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from d2r_fast.engine.errors import UserError
from d2r_fast.export.exportable import Exportable
from d2r_fast.translation.codeformer.networks import Plan, open_encoder, open_generator
from d2r_fast.translation.codeformer.weights import load_network
from d2r_fast.translation.config import TranslateRecipe
from d2r_fast.translation.method import Method, Run, Size, Unfit
from d2r_fast.translation.resize import resize


class CodeFormer(Method):
    """CodeFormer with its adaptive instance norm.

    Args:
        plan: of the networks.
        w: 0 to 1; at 0 the fuse blocks are left out, at less work and with the same result.
    """

    NAME: ClassVar[str] = "codeformer"

    def __init__(self, plan: Plan, *, w: float) -> None:
        self._plan, self._w = plan, w

    @classmethod
    def open(cls, weights: Path, recipe: TranslateRecipe) -> Self:
        network, found = load_network(weights)
        if recipe.size not in (None, network.side):
            raise UserError(
                f"size {recipe.size}: this CodeFormer sees images of {network.side} pixels alone: leave size out"
            )
        w = recipe.filled().w
        assert w is not None
        if w > 0 and not network.feature_shapes:
            raise UserError(f"w {w:g}: {weights} has no fuse blocks, which w weighs: give w 0")
        return cls(Plan.of(network, found.path, fuse=w > 0), w=w)

    def check(self, size: Size) -> None:
        height, width = size
        if height != width:
            raise Unfit(f"{width}x{height} pixels, and codeformer takes squares")

    def networks(self, size: Size) -> tuple[Exportable, ...]:
        encoder = open_encoder(self._plan)
        return encoder, open_generator(self._plan, encoder)

    def prepare(self, images: Tensor) -> Tensor:
        """Bilinear, as the public program enlarges them, but not rounded; antialiased where they are larger."""
        pixels = images.movedim(-1, 1).float() / 127.5 - 1
        return resize(pixels, (self._plan.side, self._plan.side), how="bilinear")

    def run(self, networks: Mapping[str, Run], inputs: Tensor, keys: Tensor) -> Tensor:
        encoder, generator = (networks[name] for name in self._plan.names)
        seen = encoder({"images": inputs})
        codes = seen.pop("logits").argmax(dim=-1)
        w = {"w": torch.full((len(inputs),), self._w, device=inputs.device)} if self._plan.features else {}
        return generator({"codes": codes, **seen, **w})["images"]

    def finish(self, outputs: Tensor, size: Size) -> Tensor:
        """Bilinear and antialiased, a mean over the area that a pixel comes from; rounded last."""
        pixels = resize(outputs.clamp(-1, 1), size, how="bilinear")
        return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(1, -1).contiguous()
