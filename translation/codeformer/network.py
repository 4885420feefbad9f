"""CodeFormer (Zhou et al., "Towards Robust Blind Face Restoration with Codebook Lookup Transformer", NeurIPS 2022).

An encoder makes a small map of the image, a transformer chooses an entry of a learned code book for every place of
it, and a generator draws the picture of those entries; fuse blocks add what the encoder saw on the way, w times.
Names of tensors are the public program's, and all sizes come from them and their shapes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor, nn

from d2r_fast.translation.codeformer.blocks import Downsample, ResBlock, Shapes, Upsample, make_block
from d2r_fast.translation.codeformer.fuse import FuseBlock
from d2r_fast.translation.codeformer.transformer import TransformerLayer

STYLE_EPSILON = 1e-5


@dataclass(frozen=True)
class Seen:
    """What the encoder and the transformer make of images.

    Attributes:
        logits: (B, T, K), of each of K codes at each of T places, row by row.
        mean, deviation: (B, E), of the encoder's map by channel.
        features: side in pixels -> (B, C, side, side), for the fuse blocks.
    """

    logits: Tensor
    mean: Tensor
    deviation: Tensor
    features: Mapping[int, Tensor]


class CodeFormerNetwork(nn.Module):
    """Images (B, 3, side, side) float32 RGB, -1 to 1 -> restored ones.

    Args:
        shapes: of a checkpoint's tensors, by name.

    Attributes:
        side: of images, in pixels.
        grid: of the map of codes, in codes.
        num_codes, code_dim: size of the code book.
        feature_shapes: side of a fuse block's map -> (C, side, side).

    Raises:
        KeyError: a tensor that decides a size is missing.
        ValueError: sizes that cannot be.
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        num_places, dim = shapes["position_emb"]
        self.num_codes, self.code_dim = shapes["quantize.embedding.weight"]
        self.encoder = _Row(_blocks(shapes, "encoder.blocks", resample=Downsample))
        self.generator = _Row(_blocks(shapes, "generator.blocks", resample=Upsample))
        self.quantize = nn.ModuleDict({"embedding": nn.Embedding(self.num_codes, self.code_dim)})
        self.position_emb = nn.Parameter(torch.empty(num_places, dim))
        self.feat_emb = nn.Linear(self.code_dim, dim)
        self.ft_layers = nn.Sequential(*_layers(shapes, dim))
        self.idx_pred_layer = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, self.num_codes, bias=False))
        self.grid = isqrt(num_places)
        if self.grid**2 != num_places:
            raise ValueError(f"{num_places} places make no square")
        self.side = self.grid * 2 ** sum(isinstance(block, Downsample) for block in self.encoder.blocks)
        self._taps = _taps(self.encoder.blocks, self.side)
        self._joints = _joints(self.generator.blocks, self.grid)
        fused = self._fused(shapes)
        self.fuse_convs_dict = nn.ModuleDict(
            {str(side): FuseBlock(channels) for side, channels in fused.items()}
        )
        self.feature_shapes = {side: (channels, side, side) for side, channels in fused.items()}

    def forward(self, images: Tensor, w: Tensor) -> Tensor:
        """The whole of it, w (B,) from 0 to 1; the fuse blocks are computed for w = 0 too, and then add nothing."""
        seen = self.look(images)
        return self.draw(seen.logits.argmax(dim=-1), seen.mean, seen.deviation, seen.features, w)

    def look(self, images: Tensor) -> Seen:
        """What is seen in images."""
        x, features = images, {}
        for at, block in enumerate(self.encoder.blocks):
            x = block(x)
            side = self._taps.get(at, 0)
            if side in self.feature_shapes:
                features[side] = x
        deviation, mean = style(x)
        return Seen(self.predict(x), mean, deviation, features)

    def predict(self, x: Tensor) -> Tensor:
        """Logits (B, T, K) of the encoder's map (B, E, grid, grid)."""
        tokens = self.feat_emb(x.flatten(2).transpose(1, 2))
        for layer in self.ft_layers:
            tokens = layer(tokens, self.position_emb)
        logits: Tensor = self.idx_pred_layer(tokens)
        return logits

    def draw(
        self,
        codes: Tensor,
        mean: Tensor,
        deviation: Tensor,
        features: Mapping[int, Tensor],
        w: Tensor | None,
    ) -> Tensor:
        """The picture (B, 3, side, side) of codes (B, T) int64 in the given colours.

        Without a w there are no fuse blocks; their features may then be missing.
        """
        book = self.quantize["embedding"](codes).transpose(1, 2).unflatten(2, (self.grid, self.grid))
        # Laid out anew: as a view, of two pictures and more, torch's group norm would sum in another order on a CPU.
        x = restyle(book.float(), mean.float(), deviation.float()).to(book.dtype).contiguous()
        for at, block in enumerate(self.generator.blocks):
            x = block(x)
            side = self._joints.get(at, 0)
            if w is not None and side in self.feature_shapes:
                x = self.fuse_convs_dict[str(side)](features[side], x, w)
        return x

    def _fused(self, shapes: Shapes) -> dict[int, int]:
        """Side -> channels of the fuse blocks there are."""
        stem, last = "fuse_convs_dict.", ".encode_enc.conv2.weight"
        names = [name for name in shapes if name.startswith(stem) and name.endswith(last)]
        fused = {int(name.removeprefix(stem).removesuffix(last)): shapes[name][0] for name in names}
        strange = fused.keys() - (set(self._taps.values()) & set(self._joints.values()))
        if strange:
            raise ValueError(
                f"a fuse block at {min(strange)} pixels, where a {self.side} pixels' network has no map"
            )
        return dict(sorted(fused.items()))


class _Row(nn.Module):
    """Blocks one after the other, under the public name."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)


def style(x: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean (B, C) of the channels of a map, as adaptive instance norm takes them."""
    variance, mean = torch.var_mean(x.flatten(2), dim=2)
    return (variance + STYLE_EPSILON).sqrt(), mean


def restyle(x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """A map with its channels' means and deviations (B, C) changed to these (Huang and Belongie, ICCV 2017)."""
    own_deviation, own_mean = style(x)
    normal = (x - own_mean[..., None, None]) / own_deviation[..., None, None]
    return normal * deviation[..., None, None] + mean[..., None, None]


def _blocks(shapes: Shapes, stem: str, *, resample: type[Downsample | Upsample]) -> list[nn.Module]:
    by_place: dict[int, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        if name.startswith(f"{stem}."):
            place, _, rest = name.removeprefix(f"{stem}.").partition(".")
            by_place.setdefault(int(place), {})[rest] = shape
    if list(sorted(by_place)) != list(range(len(by_place))) or not by_place:
        raise KeyError(f"{stem}.{next(n for n in range(len(by_place) + 1) if n not in by_place)}.*")
    return [
        make_block(by_place[place], name=f"{stem}.{place}", resample=resample) for place in sorted(by_place)
    ]


def _layers(shapes: Shapes, dim: int) -> list[TransformerLayer]:
    stems = sorted({int(name.split(".")[1]) for name in shapes if name.startswith("ft_layers.")})
    return [
        TransformerLayer(dim, shapes[f"ft_layers.{stem}.linear1.weight"][0]) for stem in range(len(stems))
    ]


def _taps(blocks: nn.ModuleList, side: int) -> dict[int, int]:
    """Encoder's block -> side of its map: the last residual block before each halving."""
    taps, last = {}, None
    for at, block in enumerate(blocks):
        if isinstance(block, ResBlock):
            last = at
        if isinstance(block, Downsample):
            if last is not None:
                taps[last] = side
            side, last = side // 2, None
    return taps


def _joints(blocks: nn.ModuleList, side: int) -> dict[int, int]:
    """Generator's block -> side of its map: the first residual block after each doubling."""
    joints, doubled = {}, False
    for at, block in enumerate(blocks):
        if isinstance(block, Upsample):
            side, doubled = side * 2, True
        elif doubled and isinstance(block, ResBlock):
            joints[at], doubled = side, False
    return joints
