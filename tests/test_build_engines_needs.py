"""What networks need in memory and arithmetic: counts that are known from elsewhere, and refusals."""

from pathlib import Path

import pytest
import torch
from torch import nn

from d2r_fast.engine import engine_needs
from d2r_fast.engine.backends.network import Port
from d2r_fast.engine.engine_needs import estimate
from d2r_fast.engine.errors import RunError
from d2r_fast.engine.models.configs import FULL
from d2r_fast.engine.models.layout import UNET
from d2r_fast.engine.models.skeleton import skeleton
from d2r_fast.export.exportable import TorchExportable
from d2r_fast.export.unet import UNetGraph, normal

from .tinynetwork import tiny_network


def full_unet(side: int) -> TorchExportable:
    """Stable Diffusion 1.5's UNet without its weights."""
    latents = Port("latents", torch.float32, ("batch", 4, side, side))
    return TorchExportable(
        name="unet",
        inputs=(
            latents,
            Port("timesteps", torch.int64, ("batch",)),
            Port("context", torch.float32, ("batch", 77, 768)),
        ),
        outputs=(Port("noise", torch.float32, latents.shape),),
        files={},
        settings={},
        draws={"latents": normal, "timesteps": lambda *_: torch.tensor(0), "context": normal},
        make=lambda: UNetGraph(skeleton(UNET, FULL.unet)),
        dynamic_axes={},
    )


def test_the_full_unet_needs_what_others_count() -> None:
    needs = estimate(full_unet(64), precision="fp16", fused=True)
    assert needs.weights_bytes == 2 * 859_520_964
    assert needs.row_flops / 2e9 == pytest.approx(401.6, abs=0.1)  # multiplications of a 512 pixel image
    unfused = estimate(full_unet(64), precision="fp16", fused=False)
    assert unfused.row_flops == needs.row_flops
    scores = 8 * 4096 * 4096 * 2  # 8 heads at 64x64
    assert 2 * scores <= unfused.row_bytes <= 3 * scores
    # 8 rows at 256 pixels take 145,761,280 bytes by TensorRT for RTX 1.7's log.
    small = estimate(full_unet(32), precision="fp16", fused=True)
    assert 8 * small.row_bytes == pytest.approx(145_761_280, rel=0.1)


def test_the_largest_batch_that_fits_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = estimate(tiny_network(tmp_path), precision="fp16", fused=True)
    monkeypatch.setattr(engine_needs, "free_bytes", lambda device: needs.memory(12))
    engine_needs.check_fits(needs, name="unet", device="cuda:0", num_rows=12)
    with pytest.raises(RunError, match=r"the largest batch that fits is --batch-size 12$"):
        engine_needs.check_fits(needs, name="unet", device="cuda:0", num_rows=13)


class Chain(nn.Module):
    """1 -> 1000 -> 10 -> 300 values a row; at most the first two are held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(1, 1000), nn.Linear(1000, 10), nn.Linear(10, 300)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = self.first(x)
        narrow = self.second(wide)
        del wide
        last: torch.Tensor = self.third(narrow)
        return last


def test_the_peak_is_what_is_held_at_once() -> None:
    chain = TorchExportable(
        name="chain", inputs=(Port("x", torch.float32, ("batch", 1)),), outputs=(), files={}, settings={},
        draws={"x": normal}, make=Chain, dynamic_axes={},
    )  # fmt: skip
    needs = estimate(chain, precision="fp32", fused=True)
    assert needs.row_bytes == 4 * (1000 + 10)
    assert needs.row_flops == 2 * (1000 + 1000 * 10 + 10 * 300)
    assert needs.weights_bytes == 4 * (1000 + 1000 + 10_000 + 10 + 3000 + 300)
    half = estimate(chain, precision="bf16", fused=True)
    assert (2 * half.row_bytes, 2 * half.weights_bytes) == (needs.row_bytes, needs.weights_bytes)


def test_a_quarter_of_the_pixels_needs_a_quarter_of_the_memory(tmp_path: Path) -> None:
    large, small = (
        estimate(tiny_network(tmp_path, side=side), precision="fp32", fused=True) for side in (32, 16)
    )
    assert small.row_bytes == pytest.approx(large.row_bytes / 4, rel=0.05)
    assert small.weights_bytes == large.weights_bytes
