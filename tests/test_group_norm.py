"""The group norm kernel against torch's in float64, in both of its ways, and inside diffusers' networks."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from d2r_fast.engine.errors import UserError
from d2r_fast.kernels.fused_norm import FusedGroupNorm, fuse_norms
from d2r_fast.kernels.group_norm import (
    MAX_WHOLE,
    Tiles,
    choose_tiles,
    group_norm,
    run_split,
    run_whole,
    torch_group_norm,
)

from .kernel_device import DEVICE, MARKS, draw, without_triton

pytestmark = MARKS
# Half a unit in the last place for the one rounding at the end, beside float32 arithmetic; a whole one for
# bfloat16 in the interpreter (Triton 3.9), which cuts off where GPUs round.
BF16 = 2**-8 if DEVICE == "cuda" else 2**-7
TOLERANCE = {torch.float32: 4e-6, torch.float16: 2**-11 + 4e-6, torch.bfloat16: BF16 + 4e-6}
WHOLE = Tiles(True, 0, 0, 0, 1)
SPLIT = Tiles(False, 8, 16, 16, 1)
CASES = [
    ((2, 32, 4, 4), 32, torch.float32),
    ((1, 48, 5, 7), 16, torch.float32),
    ((1, 21, 13, 11), 3, torch.float32),
    ((2, 30, 1, 1), 5, torch.float32),
    ((1, 40, 3, 17), 2, torch.float16),
    ((2, 12, 9, 5), 2, torch.bfloat16),
    ((1, 7, 9, 4), 1, torch.bfloat16),
]


def exact(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, silu: bool) -> torch.Tensor:
    y = F.group_norm(x.double(), groups, weight.double(), bias.double(), 1e-5)
    return F.silu(y) if silu else y


def make(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> list[torch.Tensor]:
    """x in channels_last, weight and bias."""
    x = (2 * draw(*shape, seed=seed) + 3).to(dtype).movedim(1, -1).contiguous().movedim(-1, 1)
    weight, bias = draw(shape[1], seed=seed + 1, dtype=dtype), draw(shape[1], seed=seed + 2, dtype=dtype)
    return [tensor.to(DEVICE) for tensor in (x, weight, bias)]


def cut(tiles: Tiles) -> Callable[..., torch.Tensor]:
    """The kernels with these tiles, as `group_norm` is called."""

    def run(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float, silu: bool
    ) -> torch.Tensor:
        y = torch.full_like(x, float("nan"))
        shape = choose_tiles(x[0, 0].numel(), x.shape[1], groups)
        run = run_whole if tiles.whole else run_split
        run(y, x, weight, bias, groups, eps, silu, shape if tiles.whole else tiles)
        return y

    return run


def check(y: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype, slack: float = 0.0) -> None:
    assert y.dtype == dtype
    torch.testing.assert_close(
        y.double(), wanted, rtol=TOLERANCE[dtype], atol=4e-6 + slack, msg=lambda text: f"{dtype}: {text}"
    )


@pytest.mark.parametrize("tiles", [WHOLE, SPLIT], ids=["whole", "split"])
@pytest.mark.parametrize(("shape", "groups", "dtype"), CASES)
def test_agrees_with_float64(shape: tuple[int, ...], groups: int, dtype: torch.dtype, tiles: Tiles) -> None:
    tensors = make(shape, dtype)
    silu = shape[0] != 1
    y = cut(tiles)(*tensors, groups, 1e-5, silu)
    check(y, exact(*tensors, groups, silu), dtype)


@pytest.mark.parametrize(
    ("shape", "groups", "whole"), [((1, 40, 8, 8), 4, True), ((1, 12, 97, 71), 3, False)]
)
def test_chooses_its_way_by_shape(shape: tuple[int, ...], groups: int, whole: bool) -> None:
    assert choose_tiles(shape[2] * shape[3], shape[1], groups).whole == whole
    tensors = make(shape)
    check(group_norm(*tensors, groups, 1e-5, True), exact(*tensors, groups, True), torch.float32)


@pytest.mark.parametrize("side", [8, 16, 32, 64, 96, 128, 256, 512, 1024])
@pytest.mark.parametrize("channels", [96, 128, 256, 320, 512, 640, 960, 1280, 1920, 2560])
def test_tiles_fit_the_machine(side: int, channels: int) -> None:
    tiles = choose_tiles(side * side, channels, 32)
    assert all(number & (number - 1) == 0 for number in (tiles.rows, tiles.channels, tiles.num_warps))
    assert tiles.rows * tiles.channels <= MAX_WHOLE
    if tiles.whole:
        assert tiles.rows >= side * side
        assert tiles.channels >= channels // 32
    else:
        assert tiles.chunk % tiles.rows == 0
        assert -(-side * side // tiles.chunk) <= 256
        assert channels % tiles.channels == 0


@pytest.mark.parametrize("tiles", [WHOLE, SPLIT], ids=["whole", "split"])
@pytest.mark.parametrize("offset", [1e3, -1e5])
def test_a_large_offset_costs_no_more_than_its_own_rounding(offset: float, tiles: Tiles) -> None:
    """A difference of sums of squares has no digit left at 1e5, where the square is 1e10."""
    tensors = make((1, 12, 13, 11))
    tensors[0] += offset
    y = cut(tiles)(*tensors, 3, 1e-5, False)
    # The mean is a float32: half a unit of its last place, over the standard deviation of 2.
    slack = abs(offset) * 2**-24 / 2 * float(tensors[1].abs().max()) * 1.5
    check(y, exact(*tensors, 3, False), torch.float32, slack)


@pytest.mark.parametrize("tiles", [WHOLE, SPLIT], ids=["whole", "split"])
def test_rows_that_drift_and_an_outlier_in_front(tiles: Tiles) -> None:
    """The first value may lie far from all others, and the means of the chunks far apart."""
    tensors = make((1, 16, 12, 12))
    tensors[0] += torch.arange(144.0, device=DEVICE).view(1, 1, 12, 12)
    tensors[0][:, :, 0, 0] = 1e4
    check(cut(tiles)(*tensors, 4, 1e-5, True), exact(*tensors, 4, True), torch.float32, 1e-5)


@pytest.mark.parametrize("tiles", [WHOLE, SPLIT], ids=["whole", "split"])
def test_a_constant_image_becomes_the_bias(tiles: Tiles) -> None:
    x, weight, bias = make((1, 16, 12, 12))
    y = cut(tiles)(torch.full_like(x, 7.3), weight, bias, 4, 1e-5, False)
    assert torch.equal(y, bias[None, :, None, None].expand_as(y))


@pytest.mark.parametrize("tiles", [WHOLE, SPLIT], ids=["whole", "split"])
def test_an_image_does_not_depend_on_its_batch(tiles: Tiles) -> None:
    x, weight, bias = make((4, 6, 5, 7))
    x[2] = float("nan")
    together = cut(tiles)(x, weight, bias, 3, 1e-5, True)
    for index in (0, 1, 3):
        alone = cut(tiles)(x[index : index + 1].clone(), weight, bias, 3, 1e-5, True)
        assert torch.equal(alone[0], together[index])
    assert together[2].isnan().all()


def test_attention_tensors_and_strides() -> None:
    """diffusers norms (N, L, C) through a transposed view."""
    x, weight, bias = make((2, 24, 35))
    y = group_norm(x, weight, bias, 3, 1e-5, False)
    assert y.stride() == x.stride() == (24 * 35, 1, 24)
    check(y, exact(x, weight, bias, 3, False), torch.float32)
    image = x.view(2, 24, 5, 7)
    y = group_norm(image, weight, bias, 3, 1e-5, False)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_no_images() -> None:
    x, weight, bias = make((0, 24, 5, 7))
    assert group_norm(x, weight, bias, 3, 1e-5, True).shape == (0, 24, 5, 7)


def test_the_expression_beside_it_is_the_same() -> None:
    for dtype in TOLERANCE:
        tensors = make((2, 24, 5, 7), dtype)
        check(torch_group_norm(*tensors, 3, 1e-5, True), exact(*tensors, 3, True), dtype)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, w, b: (x.contiguous(), w, b, 3), "expected channels_last"),
        (lambda x, w, b: (x.double(), w, b, 3), "expected a float32, float16 or bfloat16"),
        (lambda x, w, b: (x, w, b, 5), "in 5 groups"),
        (lambda x, w, b: (x, w, b, 0), "in 0 groups"),
        (lambda x, w, b: (x[:, :, 0, 0], w, b, 3), r"\(N, C, L\)"),
        (lambda x, w, b: (x, w[:-1], b, 3), r"weight is .*\(23,\).*expected .*\(24,\)"),
        (lambda x, w, b: (x, w, b.double(), 3), "bias is torch.float64"),
        (lambda x, w, b: (x, w.repeat(2)[::2], b, 3), r"strides \(2,\)"),
    ],
)
def test_refuses_what_it_cannot_read(change: Callable[..., Any], message: str) -> None:
    *tensors, groups = change(*make((2, 24, 5, 7)))
    with pytest.raises(ValueError, match=message):
        group_norm(*tensors, groups, 1e-5, True)


def test_without_triton_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = make((2, 24, 5, 7))
    without_triton(monkeypatch)
    if DEVICE == "cpu":
        with pytest.raises(UserError, match=r"pip install 'd2r-fast\[gpu\]'"):
            group_norm(*tensors, 3, 1e-5, True)


def test_is_an_operator_that_compilers_can_take() -> None:
    tensors = make((2, 24, 5, 7))
    torch.library.opcheck(
        group_norm, (*tensors, 3, 1e-5, True), test_utils=("test_schema", "test_faketensor")
    )

    def twice(x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = group_norm(x, *tensors[1:], 3, 1e-5, True)
        return y * 2

    compiled = torch.compile(twice, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(tensors[0]), twice(tensors[0]))


def randomise(network: nn.Module) -> nn.Module:
    """Weights of norms start as ones and zeros, which would hide a mix-up."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.normal_(module.weight, 1, 0.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.5, generator=generator)
    return network.eval().to(DEVICE)


@torch.inference_mode()
def test_a_fused_unet_predicts_the_same_noise() -> None:
    unet = randomise(
        UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
            cross_attention_dim=8, attention_head_dim=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )
    ).to(memory_format=torch.channels_last)  # fmt: skip
    inputs = (
        draw(2, 4, 8, 8).to(DEVICE),
        torch.tensor([5, 500], device=DEVICE),
        draw(2, 6, 8, seed=1).to(DEVICE),
    )
    wanted = unet(*inputs, return_dict=False)[0]
    num_norms = sum(isinstance(module, nn.GroupNorm) for module in unet.modules())
    fused = copy.deepcopy(unet)
    assert fuse_norms(fused) == num_norms
    plain = {
        name
        for name, module in fused.named_modules()
        if isinstance(module, FusedGroupNorm) and not module.silu
    }
    assert plain
    assert all(name.endswith("attentions.0.norm") or name.endswith("attentions.1.norm") for name in plain)
    torch.testing.assert_close(fused(*inputs, return_dict=False)[0], wanted, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_fused_decoder_draws_the_same_image() -> None:
    vae = randomise(
        AutoencoderKL(
            block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        )
    )  # fmt: skip
    latents = draw(1, 4, 6, 5).to(DEVICE)
    wanted = vae.decode(latents, return_dict=False)[0]
    assert fuse_norms(vae.decoder) == 14
    assert not any(isinstance(module, nn.GroupNorm) for module in vae.decoder.modules())
    torch.testing.assert_close(vae.decode(latents, return_dict=False)[0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            ResnetBlock2D(in_channels=8, groups=4, temb_channels=8, time_embedding_norm="scale_shift"),
            "scale_shift",
        ),
        (ResnetBlock2D(in_channels=8, groups=4, temb_channels=8, non_linearity="mish"), "Mish"),
        (nn.Sequential(nn.GroupNorm(2, 8, affine=False)), "weight and bias"),
    ],
)
def test_refuses_networks_of_another_kind(block: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fuse_norms(block)
