"""Aligned face crops, as pictures and as a recogniser's input at once, from whole images.

The crop is kernels/warp.py's: exact bilinear interpolation, black outside. The input is

    (crop / 255 - mean) / std    by channel, RGB or BGR

of the rounded crop, so that it is what reading the written crop back would give. Torch gathers four taps of
every pixel into tensors of its own; the Triton kernel keeps them in registers, and only crops leave the GPU:
at 112 pixels 38 KB per image, not the 786 KB of a 512-pixel image.
"""

from __future__ import annotations  # `tl` is bound when a kernel is first launched

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from d2r_fast.kernels.jit import check, launch
from d2r_fast.kernels.warp import invert, warp

if TYPE_CHECKING:
    import triton.language as tl

Triple = tuple[float, float, float]


class Crops(NamedTuple):
    """Crops, and what the recogniser sees of them.

    Attributes:
        images: (N, size, size, 3) uint8 RGB.
        inputs: (N, 3, size, size) float32 or float16.
    """

    images: torch.Tensor
    inputs: torch.Tensor


def crop(
    images: torch.Tensor,
    matrices: torch.Tensor,
    size: int,
    *,
    mean: Triple = (0.5, 0.5, 0.5),
    std: Triple = (0.5, 0.5, 0.5),
    channels: Literal["rgb", "bgr"] = "rgb",
    dtype: torch.dtype = torch.float32,
) -> Crops:
    """Crops images and normalises the crops: by torch on the CPU, by the Triton kernel on CUDA, the same bits.

    Args:
        images: (N, H, W, 3) uint8 RGB, contiguous.
        matrices: (N, 2, 3) float64, as `warp` takes them: (x, y, 1) of an image to (x, y) of its crop,
            invertible and finite.
        size: side of the crops in pixels.
        mean, std: of the channels, in units of 255 and in the order of `channels`.
        channels: the order in which the recogniser takes them.
        dtype: of the inputs, float32 or float16; computed in float32.

    Raises:
        ValueError: an argument of another shape, dtype, stride or device.
        UserError: CUDA tensors without Triton.
    """
    _check(images, matrices, size, std, channels, dtype)
    run = warp_and_normalise if images.device.type == "cpu" else launch_crop
    return run(images, matrices, size, mean, std, channels == "bgr", dtype)


def warp_and_normalise(
    images: torch.Tensor,
    matrices: torch.Tensor,
    size: int,
    mean: Triple,
    std: Triple,
    reverse: bool,
    dtype: torch.dtype,
) -> Crops:
    """`crop` as torch expressions, on any device; reverse says whether channels are BGR."""
    if len(images) == 0:
        return _empty(images, size, dtype)
    crops = warp(images, matrices, size)
    ordered = crops.flip(-1) if reverse else crops
    centre, scale = (
        torch.tensor(numbers, dtype=torch.float32, device=crops.device) for numbers in (mean, std)
    )
    inputs = (ordered.float() / 255 - centre) / scale
    return Crops(crops, inputs.permute(0, 3, 1, 2).to(dtype).contiguous())


def launch_crop(
    images: torch.Tensor,
    matrices: torch.Tensor,
    size: int,
    mean: Triple,
    std: Triple,
    reverse: bool,
    dtype: torch.dtype,
    *,
    block: int = 256,
    num_warps: int = 4,
) -> Crops:
    """`crop` by the Triton kernel; block is a power of two."""
    crops = _empty(images, size, dtype)
    num_tiles = -(-size * size // block)
    if crops.images.numel() > 0:
        height, width = images.shape[1:3]
        launch(
            _crop_kernel, (len(images) * num_tiles,), crops.images, crops.inputs, images, invert(matrices),
            height, width, size, num_tiles, *mean, *std, REVERSE=reverse, BLOCK=block, num_warps=num_warps,
            # Contracted multiplications would leave torch's bits, and round some pixels to a neighbour.
            enable_fp_fusion=False,
        )  # fmt: skip
    return crops


def _crop_kernel(
    crop_ptr: tl.tensor,
    input_ptr: tl.tensor,
    image_ptr: tl.tensor,
    inverse_ptr: tl.tensor,
    height: int,
    width: int,
    size: int,
    num_tiles: int,
    mean_0: float,
    mean_1: float,
    mean_2: float,
    std_0: float,
    std_1: float,
    std_2: float,
    REVERSE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Program n * num_tiles + j makes pixels j * BLOCK onwards of crop n."""
    image = (tl.program_id(0) // num_tiles).to(tl.int64)
    pixel = (tl.program_id(0) % num_tiles) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < size * size
    column = (pixel % size).to(tl.float64)
    row = (pixel // size).to(tl.float64)
    inverse_ptr += image * 6
    x = tl.load(inverse_ptr + 1) * row + tl.load(inverse_ptr) * column + tl.load(inverse_ptr + 2)
    y = tl.load(inverse_ptr + 4) * row + tl.load(inverse_ptr + 3) * column + tl.load(inverse_ptr + 5)
    # Far outside all is black; clamping first keeps the integers in range.
    x = tl.minimum(tl.maximum(x, -2.0), width + 1.0)
    y = tl.minimum(tl.maximum(y, -2.0), height + 1.0)
    left = tl.floor(x)
    top = tl.floor(y)
    right_share = (x - left).to(tl.float32)
    low_share = (y - top).to(tl.float32)
    x0 = left.to(tl.int32)
    y0 = top.to(tl.int32)
    image_ptr += image * height * width * 3
    for channel in tl.static_range(3):
        value = tl.zeros([BLOCK], tl.float32)
        for tap in tl.static_range(4):
            tap_x = x0 + tap % 2
            tap_y = y0 + tap // 2
            share_x = right_share if tap % 2 else 1.0 - right_share
            share_y = low_share if tap // 2 else 1.0 - low_share
            real = inside & (tap_x >= 0) & (tap_x < width) & (tap_y >= 0) & (tap_y < height)
            level = tl.load(image_ptr + (tap_y * width + tap_x) * 3 + channel, mask=real, other=0)
            value += level.to(tl.float32) * (share_x * share_y)
        # Adding 1.5 * 2**23 leaves no bits behind the point: rounds to nearest, halves to even, as torch.
        value = (value + 12582912.0) - 12582912.0
        tl.store(crop_ptr + (image * size * size + pixel) * 3 + channel, value.to(tl.uint8), mask=inside)
        plane = 2 - channel if REVERSE else channel
        mean = mean_0 if plane == 0 else (mean_1 if plane == 1 else mean_2)
        std = std_0 if plane == 0 else (std_1 if plane == 1 else std_2)
        scaled = tl.div_rn(tl.div_rn(value, 255.0) - mean, std)
        at = (image * 3 + plane) * size * size + pixel
        tl.store(input_ptr + at, scaled.to(input_ptr.dtype.element_ty), mask=inside)


def _empty(images: torch.Tensor, size: int, dtype: torch.dtype) -> Crops:
    num = len(images)
    return Crops(images.new_empty((num, size, size, 3)), images.new_empty((num, 3, size, size), dtype=dtype))


def _check(
    images: torch.Tensor,
    matrices: torch.Tensor,
    size: int,
    std: Triple,
    channels: str,
    dtype: torch.dtype,
) -> None:
    if images.ndim != 4 or 0 in images.shape[1:3]:
        raise ValueError(f"images are {tuple(images.shape)}: expected (N, H, W, 3) with pixels in them")
    check("images", images, (*images.shape[:3], 3), dtypes=(torch.uint8,), device=images.device)
    check("matrices", matrices, (len(images), 2, 3), dtypes=(torch.float64,), device=images.device)
    if size < 1 or dtype not in (torch.float32, torch.float16):
        raise ValueError(f"crops of {size} pixels as {dtype}: expected 1 or more, float32 or float16")
    if channels not in ("rgb", "bgr") or 0 in std:
        raise ValueError(f"channels {channels!r}, std {std}: expected 'rgb' or 'bgr', and no 0")
