"""What an e4e, pSp or StyleGAN2 checkpoint holds: generator, encoder, average latent, and how it was trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2r_fast.engine.errors import UserError
from d2r_fast.translation.checkpoint import Weights, read_weights
from d2r_fast.translation.stylegan.encoder import Kind

KINDS: Mapping[str, Kind] = {"Encoder4Editing": "e4e", "GradualStyleEncoder": "psp"}
"""opts.encoder_type -> whose rule adds up the rows."""
_SUPPORTED = f"give one whose opts.encoder_type is {' or '.join(KINDS)}"


@dataclass(frozen=True, slots=True)
class Parts:
    """A checkpoint by its parts, each with its network's own names.

    Attributes:
        path: the file.
        generator: StyleGAN2's tensors.
        encoder: empty where there is none.
        latent_avg: (num_styles or 1, style_dim), None where there is none.
        opts: the options that it was trained with.
    """

    path: Path
    generator: dict[str, Tensor]
    encoder: dict[str, Tensor]
    latent_avg: Tensor | None
    opts: Mapping[str, Any]


def read_parts(path: Path) -> Parts:
    """Reads a .pt of e4e or pSp (`state_dict` with `encoder.` and `decoder.`), or of rosinality's StyleGAN2 (`g_ema`).

    Raises:
        UserError: no such file, a damaged one, another method's, or a generator of another layout.
    """
    weights = read_weights(path, method="stylegan-inversion")
    tensors = weights.tensors
    generator, encoder = _part(tensors, "decoder."), _part(tensors, "encoder.")
    opts = weights.meta.get("opts")
    return Parts(
        path=weights.path,
        generator=generator or tensors,
        encoder=encoder,
        latent_avg=_latent_avg(weights, tensors),
        opts=opts if isinstance(opts, dict) else {},
    )


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _latent_avg(weights: Weights, tensors: dict[str, Tensor]) -> Tensor | None:
    value = weights.meta.get("latent_avg", tensors.get("latent_avg"))
    if not isinstance(value, Tensor) or not value.numel():
        return None
    rows = value.detach().to(torch.float32)
    return rows.reshape(-1, rows.shape[-1] if rows.ndim else 1)


def kind_of(parts: Parts) -> Kind:
    """Whether the encoder is e4e's or pSp's, which tensors do not tell.

    Raises:
        UserError: no encoder, options that do not say, or one of another kind.
    """
    if not parts.encoder:
        raise UserError(
            f"{parts.path} holds a StyleGAN2 generator and no encoder: give an e4e or pSp checkpoint, or --latent w or "
            "w+ to optimise each image's latent"
        )
    named = parts.opts.get("encoder_type")
    if isinstance(named, str):
        if named in KINDS:
            return KINDS[named]
        raise UserError(f"{parts.path} holds a {named}, which is not read here: {_SUPPORTED}")
    raise UserError(
        f"{parts.path} does not say whether its encoder is e4e's or pSp's (no opts.encoder_type as plain text), and "
        f"their tensors have the same names: {_SUPPORTED}"
    )


def average_latent(parts: Parts, *, num_styles: int, style_dim: int) -> Tensor:
    """What is added to the encoder's rows: (num_styles, style_dim), zeros where training did not start from it.

    Raises:
        UserError: it is missing, or of another shape.
    """
    if not parts.opts.get("start_from_latent_avg", True):
        return torch.zeros(num_styles, style_dim)
    if parts.latent_avg is None:
        raise UserError(
            f"{parts.path} has no latent_avg, which its encoder's rows are added to (opts.start_from_latent_avg): give "
            "the checkpoint as its program wrote it"
        )
    value = parts.latent_avg
    if value.shape not in ((num_styles, style_dim), (1, style_dim)) or not bool(torch.isfinite(value).all()):
        raise UserError(
            f"{parts.path}: latent_avg is {tuple(value.shape)}, expected finite numbers of {(num_styles, style_dim)}"
        )
    return value.expand(num_styles, style_dim).clone()


def breach_of(opts: Mapping[str, Any], *, encoder: bool) -> str | None:
    """How the training behind these weights breaks the rule of no face recognition and no identity labels.

    e4e's and pSp's programs start every encoder from the recogniser IR-SE50 (model_ir_se50.pth), whatever their
    options; with id_lambda above 0 ArcFace judges in training too. The generator alone is touched by that only where
    it was trained along.

    Args:
        opts: the options of that training.
        encoder: whether the encoder is used.
    """
    weight = opts.get("id_lambda")
    with_loss = isinstance(weight, (int, float)) and weight > 0
    if not encoder:
        return (
            f"its generator was trained along with ArcFace's loss (id_lambda {weight})"
            * bool(with_loss and opts.get("train_decoder"))
            or None
        )
    start = "its encoder was started from a face-recognition network (IR-SE50), as its program always does"
    if weight is None:
        return f"{start}; whether ArcFace's loss was in its training, the file does not say"
    return f"{start}, and trained with ArcFace's loss (id_lambda {weight})" if with_loss else start
