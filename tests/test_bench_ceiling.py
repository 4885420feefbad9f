"""Counted work against known numbers, and the least time that follows from it."""

import pytest
import torch
from torch import nn

from d2r_fast.bench.ceiling import (
    Rates,
    Work,
    count,
    encoder_work,
    measure_rates,
    proposal_work,
    recogniser_work,
    unet_work,
    vae_work,
)
from d2r_fast.engine.models.configs import FULL
from d2r_fast.engine.mtcnn import pyramid


@pytest.mark.parametrize(("side", "tflop"), [(64, 0.8033), (48, 0.4230), (32, 0.1801)])
def test_stable_diffusions_unet(side: int, tflop: float) -> None:
    """With the products inside attention, which published counts of 0.68 TFLOP leave out."""
    work = unet_work(FULL.unet, side, side)
    assert work.flops == pytest.approx(tflop * 1e12, rel=2e-4)
    assert work.weights == 859_520_964


def test_what_the_unet_moves_where_norms_and_activations_are_fused() -> None:
    """1.03 GB in half precision, counted independently of this program."""
    assert unet_work(FULL.unet, 64, 64).moved * 2 == pytest.approx(1.03e9, rel=0.01)


def test_the_other_networks() -> None:
    vae = vae_work(FULL.vae, 64, 64)
    assert (vae.flops, vae.weights) == (pytest.approx(2.5145e12, rel=1e-4), 49_490_199)
    assert encoder_work(FULL.encoder).flops == pytest.approx(1.33e10, rel=5e-3)
    arcface = recogniser_work(FULL.recogniser)
    assert (arcface.flops, arcface.weights) == (pytest.approx(2.42e10, rel=2e-3), 65_156_160)


def test_proposals_by_hand() -> None:
    """P-Net's convolutions over every scale: outputs x inputs per output x 2."""
    flops = 0
    for scale in pyramid(100, 80, 40):
        height, width = int(100 * scale + 1) - 2, int(80 * scale + 1) - 2
        flops += height * width * 10 * 27
        height, width = -(-height // 2) - 2, -(-width // 2) - 2
        flops += height * width * 16 * 90
        flops += (height - 2) * (width - 2) * (32 * 144 + 6 * 32)
    assert proposal_work(100, 80, 40).flops == 2 * flops


def test_a_linear_layer_by_hand() -> None:
    with torch.device("meta"):
        layer, rows = nn.Linear(8, 4), torch.empty(3, 8)
    work = count(lambda: layer(rows).relu(), layer)
    assert work == Work(flops=2 * 3 * 8 * 4, weights=36, moved=3 * 8 + 3 * 4)


def test_the_larger_of_two_times_is_the_floor() -> None:
    rates = Rates({"fp32": 100.0, "fp16": 200.0}, bytes_per_s=1000.0)
    busy, wide = Work(flops=500, weights=10, moved=5), Work(flops=1, weights=100, moved=50)
    assert rates.floor_s(busy, "fp32", 2) == (10.0, "compute")
    assert rates.floor_s(busy, "fp16", 2) == (5.0, "compute")
    assert rates.floor_s(wide, "fp32", 3) == (1.0, "memory")


def test_rates_are_of_this_machine() -> None:
    rates = measure_rates("cpu", num_rounds=2, side=256, copy_bytes=1 << 22)
    assert 1e8 < rates.flops_per_s["fp32"] < 1e14
    assert 1e8 < rates.bytes_per_s < 1e13
