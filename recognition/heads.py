"""Margin losses' heads: raw embeddings and labels in, logits for plain cross-entropy out.

Each holds one column per class in `kernel` (D, C), named and shaped as in AdaFace's repository, so that its
checkpoints load. Columns and embeddings are brought to unit length, whatever the kernel's dtype is in that dtype
(float32 as built), with autocast off. Only the true class's cosine is changed; the gradient of every other logit is
that of scale x cosine.
"""

import math
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from d2r_fast.engine.errors import UserError

HeadKind = Literal["adaface", "arcface", "cosface"]
MARGINS: dict[HeadKind, float] = {"adaface": 0.4, "arcface": 0.5, "cosface": 0.4}
"""As published."""
INSIGHTFACE_STD = 0.01


def build_head(
    kind: HeadKind,
    *,
    embedding_dim: int,
    num_classes: int,
    seed: int,
    margin: float | None = None,
    scale: float = 64.0,
    h: float = 0.333,
    t_alpha: float = 0.01,
    group: dist.ProcessGroup | None = None,
) -> "MarginHead":
    """The named head with an initial kernel that `seed` alone decides.

    `margin` None is the loss's own. `h`, `t_alpha` and `group` are AdaFace's: how strongly the norm counts, the
    weight of a batch in its running statistics, and the processes over whose rows together they are taken (None:
    each its own rows, as AdaFace's repository trains).
    """
    margin = MARGINS[kind] if margin is None else margin
    common = {"embedding_dim": embedding_dim, "num_classes": num_classes, "seed": seed}
    if kind == "adaface":
        return AdaFace(**common, margin=margin, scale=scale, h=h, t_alpha=t_alpha, group=group)
    return {"arcface": ArcFace, "cosface": CosFace}[kind](**common, margin=margin, scale=scale)


class MarginHead(nn.Module):
    """scale x cosine, with the true class's cosine changed by `with_margin`.

    forward(embeddings (N, D) raw, labels (N,) int64 in 0..C-1) -> logits (N, C).

    Raises:
        UserError: on the CPU, a label that is no class; CUDA's own assertion ends the run there, as looking would
            make every step wait for the device.
    """

    LIMIT = 1.0
    """Cosines are clamped to [-LIMIT, LIMIT], where their gradient ends."""

    def __init__(
        self, *, embedding_dim: int, num_classes: int, seed: int, margin: float, scale: float
    ) -> None:
        super().__init__()
        self.margin, self.scale = margin, scale
        self.kernel = nn.Parameter(torch.empty(embedding_dim, num_classes))
        if self.kernel.device.type != "meta":
            self.reset_parameters(torch.Generator().manual_seed(seed))

    @property
    def num_classes(self) -> int:
        return self.kernel.shape[1]

    def reset_parameters(self, generator: torch.Generator) -> None:
        """InsightFace's initial kernel, N(0, 0.01): only its direction counts, but short columns turn faster."""
        nn.init.normal_(self.kernel, 0.0, INSIGHTFACE_STD, generator=generator)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        self._check(labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = embeddings.to(self.kernel.dtype)
            norms = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True)
            lengths = torch.linalg.vector_norm(self.kernel, dim=0, keepdim=True)
            cosines = ((embeddings / norms) @ (self.kernel / lengths)).clamp(-self.LIMIT, self.LIMIT)
            columns = labels[:, None]
            changed = self.with_margin(cosines.gather(1, columns), norms.detach())
            logits: Tensor = self.scale * cosines
            return logits.scatter_(1, columns, self.scale * changed)

    def with_margin(self, cosines: Tensor, norms: Tensor) -> Tensor:
        """The true classes' cosines (N, 1) with the margin; `norms` (N, 1) of the embeddings carry no gradient."""
        raise NotImplementedError

    def _check(self, labels: Tensor) -> None:
        if labels.device.type != "cpu" or not len(labels):
            return
        low, high = (int(label) for label in torch.aminmax(labels))
        if low < 0 or high >= self.num_classes:
            raise UserError(
                f"labels run from {low} to {high}, the head has classes 0 to {self.num_classes - 1}: give a data "
                "set that has as many identities as the head was made for"
            )


class CosFace(MarginHead):
    """cos - m (Wang et al., CVPR 2018), as in InsightFace's arcface_torch and in AdaFace's repository.

    The latter clamps cosines to 1 - 1e-4, this one and the former to 1.
    """

    def with_margin(self, cosines: Tensor, norms: Tensor) -> Tensor:
        return cosines - self.margin


class ArcFace(MarginHead):
    """cos(theta + m) (Deng et al., CVPR 2019), as InsightFace's arcface_torch trains it.

    There the margin is added outside of autograd, in place: the value is cos(theta + m), also beyond theta = pi - m
    where it rises again, and the gradient passes through to the cosine as if the logit were scale x cosine. That is
    not the value's derivative, scale x sin(theta + m) / sin(theta), by which AdaFace's repository trains its ArcFace;
    it stays finite at theta = 0.
    """

    def with_margin(self, cosines: Tensor, norms: Tensor) -> Tensor:
        with torch.no_grad():
            shift = (cosines.arccos() + self.margin).cos() - cosines
        return cosines + shift


class AdaFace(MarginHead):
    """A margin that follows the embedding's norm, a proxy of image quality (Kim et al., CVPR 2022, eq. 8 to 11).

    With k = clip(h (|z| - mean) / (std + 0.001), -1, 1) the true class's cosine becomes
    cos(clip(theta - m k, 0.001, pi - 0.001)) - (m + m k). Mean and standard deviation (unbiased) of the norms, clipped
    to [0.001, 100], are running ones, updated before use in train mode and fixed in eval mode. Values and gradients are
    those of AdaFace's repository, which computes them through arccos and cos for all classes.
    """

    EPS = 1e-3
    LIMIT = 1 - EPS
    INITIAL_MEAN, INITIAL_STD = 20.0, 100.0
    t: Tensor
    batch_mean: Tensor
    batch_std: Tensor

    def __init__(
        self,
        *,
        embedding_dim: int,
        num_classes: int,
        seed: int,
        margin: float,
        scale: float,
        h: float,
        t_alpha: float,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(
            embedding_dim=embedding_dim, num_classes=num_classes, seed=seed, margin=margin, scale=scale
        )
        self.h, self.t_alpha, self.group = h, t_alpha, group
        self.register_buffer("t", torch.zeros(1))  # never used, and in the repository's checkpoints
        self.register_buffer("batch_mean", torch.full((1,), self.INITIAL_MEAN))
        self.register_buffer("batch_std", torch.full((1,), self.INITIAL_STD))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """AdaFace's initial kernel: uniform in [-1, 1], columns then at unit length."""
        with torch.no_grad():
            self.kernel.uniform_(-1, 1, generator=generator)
            self.kernel.copy_(F.normalize(self.kernel, dim=0))

    def with_margin(self, cosines: Tensor, norms: Tensor) -> Tensor:
        norms = norms.clamp(0.001, 100)
        if self.training:
            self._follow(norms)
        quality = (self.h * (norms - self.batch_mean) / (self.batch_std + self.EPS)).clamp(-1, 1)
        angles = (cosines.arccos() - self.margin * quality).clamp(self.EPS, math.pi - self.EPS)
        return angles.cos() - (self.margin + self.margin * quality)

    @torch.no_grad()
    def _follow(self, norms: Tensor) -> None:
        mean, std = moments(norms, self.group)
        for running, value in ((self.batch_mean, mean), (self.batch_std, std)):
            running.copy_(self.t_alpha * value + (1 - self.t_alpha) * running)


def moments(values: Tensor, group: dist.ProcessGroup | None) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation (1,) of all values, those of every process of `group` included.

    Raises:
        UserError: there is only one value.
    """
    count = _total(values.new_full((1,), values.numel()), group)
    if count.device.type == "cpu" and count < 2:
        raise UserError("AdaFace needs the deviation of norms within a batch: give batches of 2 or more")
    mean = _total(values.sum().view(1), group) / count
    squares = _total(((values - mean) ** 2).sum().view(1), group)
    return mean, (squares / (count - 1)).sqrt()


def _total(value: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    if group is not None:
        dist.all_reduce(value, group=group)
    return value
