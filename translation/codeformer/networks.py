"""CodeFormer as two networks, with the choice of codes between them.

The encoder ends in logits and the generator begins with codes, and of two logits that nearly tie half precision
chooses the other one. Measured at full size on 8 faces (2048 codes), float16's roundings simulated: with logits fitted
to a code book (a perplexity of 3.3) 99.5 % of the codes stay where the encoder rounds, 99.7 % where its transformer
alone does; with random weights 99.7 % and 99.8 %. Asked for are 99.9 %. So the encoder, transformer included, computes
in float32 whatever the generator computes in: 112 of 405 GMAC, 112 of 296 where w is 0.

As no engine has an argmax in it, an engine's error can be told from its outputs by the measure that all engines are
judged by: where logits are right to 1e-5 (relative L2), so are the codes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2r_fast.engine.backends.network import Port
from d2r_fast.export.exportable import TorchExportable
from d2r_fast.export.graph import BATCH
from d2r_fast.translation.codeformer.network import CodeFormerNetwork
from d2r_fast.translation.codeformer.weights import load_network

ENCODER_PARTS = ("encoder", "position_emb", "feat_emb", "ft_layers", "idx_pred_layer")
GENERATOR_PARTS = ("quantize", "generator", "fuse_convs_dict")
ROUGHNESS = 32
"""Pixels between the independent values of a random image."""
NOISE = 0.05


@dataclass(frozen=True, slots=True)
class Plan:
    """What decides the two networks.

    Attributes:
        weights: the checkpoint.
        side: of images, in pixels.
        num_places, num_codes, code_dim: of the codes.
        features: side -> (C, side, side) of the maps that are handed over; none where w is 0.
    """

    weights: Path
    side: int
    num_places: int
    num_codes: int
    code_dim: int
    features: Mapping[int, tuple[int, int, int]]

    @classmethod
    def of(cls, network: CodeFormerNetwork, weights: Path, *, fuse: bool) -> "Plan":
        features = network.feature_shapes if fuse else {}
        return cls(weights, network.side, network.grid**2, network.num_codes, network.code_dim, features)

    @property
    def names(self) -> tuple[str, str]:
        """What encoder and generator are called."""
        suffix = "" if self.features else "-w0"
        return f"codeformer-encoder{suffix}", f"codeformer-generator{suffix}"

    @property
    def images(self) -> Port:
        return Port("images", torch.float32, ("batch", 3, self.side, self.side))

    @property
    def handed_over(self) -> tuple[Port, ...]:
        """What goes from one to the other as it is: colours, and features for the fuse blocks."""
        colours = [Port(name, torch.float32, ("batch", self.code_dim)) for name in ("mean", "deviation")]
        maps = [Port(f"features_{n}", torch.float32, ("batch", *shape)) for n, shape in self.features.items()]
        return (*colours, *maps)


class EncoderGraph(nn.Module):
    """Images (N, 3, side, side) -> logits (N, T, K), mean and deviation (N, E), and the features that are wanted."""

    def __init__(self, network: CodeFormerNetwork, sides: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self._sides = _only(network, ENCODER_PARTS), sides

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        seen = self.network.look(images)
        return seen.logits, seen.mean, seen.deviation, *(seen.features[side] for side in self._sides)


class GeneratorGraph(nn.Module):
    """Codes (N, T), mean and deviation (N, E), and features and w (N,) where there are fuse blocks -> images."""

    def __init__(self, network: CodeFormerNetwork, sides: tuple[int, ...]) -> None:
        super().__init__()
        parts = GENERATOR_PARTS if sides else GENERATOR_PARTS[:-1]
        self.network, self._sides = _only(network, parts), sides

    def forward(self, codes: Tensor, mean: Tensor, deviation: Tensor, *fused: Tensor) -> Tensor:
        features, w = dict(zip(self._sides, fused, strict=False)), fused[-1] if fused else None
        return self.network.draw(codes, mean, deviation, features, w)


def _only(network: CodeFormerNetwork, parts: tuple[str, ...]) -> CodeFormerNetwork:
    """The network without its other parts, so that they are let go of."""
    for part in (*ENCODER_PARTS, *GENERATOR_PARTS):
        if part not in parts:
            delattr(network, part)
    return network


def open_encoder(plan: Plan) -> TorchExportable:
    """The encoder with its transformer, float32 in every engine."""
    return TorchExportable(
        name=plan.names[0],
        inputs=(plan.images,),
        outputs=(
            Port("logits", torch.float32, ("batch", plan.num_places, plan.num_codes)),
            *plan.handed_over,
        ),
        files={plan.weights.name: plan.weights},
        settings=_settings(plan),
        draws={"images": _smooth_image},
        make=partial(_make, plan, EncoderGraph),
        dynamic_axes={"images": {0: BATCH}},
        wide=True,
        float32=True,
    )


def open_generator(plan: Plan, encoder: TorchExportable) -> "GeneratorExportable":
    """The generator, with the fuse blocks where there are features."""
    w = (Port("w", torch.float32, ("batch",)),) if plan.features else ()
    inputs = (Port("codes", torch.int64, ("batch", plan.num_places)), *plan.handed_over, *w)
    return GeneratorExportable(
        name=plan.names[1],
        inputs=inputs,
        outputs=(plan.images,),
        files={plan.weights.name: plan.weights},
        settings=_settings(plan),
        draws={},
        make=partial(_make, plan, GeneratorGraph),
        dynamic_axes={port.name: {0: BATCH} for port in inputs},
        wide=True,
        encoder=encoder,
    )


@dataclass(frozen=True)
class GeneratorExportable(TorchExportable):
    """The generator, tried out on what its own encoder sees.

    Attributes:
        encoder: whose outputs the random inputs are: features of trained weights are of no size known beforehand,
            and float16 has an end.
    """

    encoder: TorchExportable

    def random_inputs(
        self, batch_size: int, *, seed: int, height: int = 60, width: int = 44
    ) -> dict[str, Tensor]:
        seen = self.encoder.reference(self.encoder.random_inputs(batch_size, seed=seed))
        vars(self.encoder).pop("module", None)  # where cached_property keeps it: another network's memory
        seen["codes"] = seen["logits"].argmax(dim=-1)
        seen["w"] = torch.linspace(0.5, 1, batch_size)
        return {port.name: seen[port.name] for port in self.inputs}


def _settings(plan: Plan) -> dict[str, str]:
    fused = ",".join(map(str, plan.features)) or "none"
    return {"height": str(plan.side), "width": str(plan.side), "fused": fused}


def _make(plan: Plan, graph: type[EncoderGraph | GeneratorGraph]) -> nn.Module:
    network, _ = load_network(plan.weights)
    return graph(network, tuple(plan.features))


def _smooth_image(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Soft spots of colour and a little noise, -1 to 1."""
    sides = [max(2, side // ROUGHNESS) for side in shape[1:]]
    spots = 2 * torch.rand((1, shape[0], *sides), generator=generator) - 1
    image = F.interpolate(spots, size=shape[1:], mode="bicubic", align_corners=False)[0]
    return (image + NOISE * torch.randn(shape, generator=generator)).clamp(-1, 1)
