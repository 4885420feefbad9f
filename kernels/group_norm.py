"""Group normalisation with SiLU behind it, in NHWC, where torch's CUDA kernels want NCHW.

    y = (x - mean) / sqrt(var + eps) * weight + bias,    and y * sigmoid(y) with SiLU

with mean and (biased) variance over the positions and the channels of a group of one image: Wu and He,
arXiv 1803.08494. In channels_last tensors a group's channels lie side by side, 4 to 80 of them in Stable
Diffusion, so one image's group is thousands of short pieces. Two ways, chosen by shape alone:

    whole   One program holds all of a group: 1 read, 1 write, 1 launch. For small images.
    split   Programs walk down rows over a tile of channels, whatever their groups, so that they read whole
            cache lines, and write each channel's mean and squared deviations; a second kernel merges those
            to groups; a third applies them. 2 reads, 1 write, 3 launches.

Statistics are float32 and never a difference of large sums: `whole` subtracts the mean before it squares,
`split` merges by Welford's and by Chan, Golub and LeVeque's updates, so a large offset costs no digits but
those that it costs the input itself. An image's result does not depend on the rest of the batch.
"""

from __future__ import annotations  # `tl` is bound when a kernel is first launched

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F

from d2r_fast.kernels.jit import FLOATS, check, launch

if TYPE_CHECKING:
    import triton.language as tl


class Tiles(NamedTuple):
    """How the work is cut.

    Attributes:
        whole: one program per group, or the three kernels of `split`.
        rows: positions that a `split` program handles at once; a power of two.
        channels: channels that it handles; a power of two.
        chunk: positions whose statistics it takes; a multiple of rows.
        num_warps: of 32 threads each, per program.
    """

    whole: bool
    rows: int
    channels: int
    chunk: int
    num_warps: int


MAX_WHOLE = 1 << 14
"""Values that one program may hold: 64 float32 registers in each of 256 threads."""


def choose_tiles(num_positions: int, num_channels: int, num_groups: int) -> Tiles:
    """The tiles of a shape. The batch has no say, since they decide how sums round."""
    per_group = num_channels // num_groups
    values = power_of_two(num_positions) * power_of_two(per_group)
    if values <= MAX_WHOLE:
        return Tiles(
            True, power_of_two(num_positions), power_of_two(per_group), 0, min(max(values >> 10, 1), 8)
        )
    # The largest power of two that divides the channels leaves no thread idle: 64 of Stable Diffusion's 320.
    channels = min(max(num_channels & -num_channels, 16), 128)
    rows = 4096 // channels
    # At most 256 partial results per channel to merge.
    return Tiles(False, rows, channels, max(power_of_two(num_positions) // 256, 4 * rows), 4)


def power_of_two(number: int) -> int:
    """The smallest power of two that is not less."""
    return 1 << (number - 1).bit_length()


def torch_group_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, num_groups: int, eps: float, silu: bool
) -> torch.Tensor:
    """`group_norm` as torch expressions, on any device and in any layout."""
    y = F.group_norm(x.float(), num_groups, weight.float(), bias.float(), eps)
    return (F.silu(y) if silu else y).to(x.dtype)


# A custom operator rather than a triton_op: torch.compile takes it as it is, keeps its strides
# (needs_exact_strides) and never traces into it, so it runs there, under CUDA graphs and in Triton's
# interpreter by the same code. What triton_op adds, launches without Python, CUDA graphs have anyway, and
# Inductor fuses nothing into a hand-written kernel.
@torch.library.custom_op("d2r_fast::group_norm", mutates_args=(), tags=(torch.Tag.needs_exact_strides,))
def group_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, num_groups: int, eps: float, silu: bool
) -> torch.Tensor:
    """Group normalisation of a channels_last tensor by Triton.

    Args:
        x: (N, C, H, W) or (N, C, L), float32, float16 or bfloat16, with the channels of a position side by
            side in memory.
        weight: (C,), any of these dtypes.
        bias: likewise.
        num_groups: divides C.
        eps: added to the variance.
        silu: whether y * sigmoid(y) follows.

    Returns:
        A tensor of x's shape, dtype and strides. All arithmetic is float32 and rounds to x's dtype once.

    Raises:
        ValueError: an argument of another shape, dtype, stride or device.
        UserError: Triton is not installed.
    """
    _check(x, weight, bias, num_groups)
    y = torch.empty_like(x)
    if x.numel() > 0:
        num_positions = x[0, 0].numel()
        tiles = choose_tiles(num_positions, x.shape[1], num_groups)
        run = run_whole if tiles.whole else run_split
        run(y, x, weight, bias, num_groups, eps, silu, tiles)
    return y


@group_norm.register_fake
def _(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, num_groups: int, eps: float, silu: bool
) -> torch.Tensor:
    return torch.empty_like(x)


def run_whole(
    y: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    num_groups: int,
    eps: float,
    silu: bool,
    tiles: Tiles,
) -> None:
    """`group_norm` into y by one program per group; y and x are dense and channels_last, nothing is checked."""
    num_channels = x.shape[1]
    launch(
        _whole_kernel, (len(x) * num_groups,), y, x, weight, bias, x[0, 0].numel(), eps,
        C=num_channels, GROUPS=num_groups, SILU=silu, ROWS=tiles.rows, CHANNELS=tiles.channels,
        num_warps=tiles.num_warps, enable_fp_fusion=True,
    )  # fmt: skip


def run_split(
    y: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    num_groups: int,
    eps: float,
    silu: bool,
    tiles: Tiles,
) -> None:
    """`group_norm` into y by statistics, merge and application; otherwise as `run_whole`."""
    num_images, num_channels = x.shape[:2]
    num_positions = x[0, 0].numel()
    num_chunks = -(-num_positions // tiles.chunk)
    num_tiles = -(-num_channels // tiles.channels)
    partial = x.new_empty((2, num_images, num_chunks, num_channels), dtype=torch.float32)
    groups = x.new_empty((2, num_images, num_groups), dtype=torch.float32)
    cut = {"C": num_channels, "ROWS": tiles.rows, "CHANNELS": tiles.channels, "num_warps": tiles.num_warps}
    per_group = power_of_two(num_channels // num_groups)
    launch(
        _chunk_kernel, (num_images * num_chunks, num_tiles), partial[0], partial[1], x, num_positions,
        num_chunks, CHUNK=tiles.chunk, enable_fp_fusion=True, **cut,
    )  # fmt: skip
    launch(
        _merge_kernel, (num_images * num_groups,), groups[0], groups[1], partial[0], partial[1],
        num_positions, eps, NUM_CHUNKS=num_chunks, C=num_channels, GROUPS=num_groups, CHUNK=tiles.chunk,
        ROWS=min(power_of_two(num_chunks), max(1, 4096 // per_group)), CHANNELS=per_group, num_warps=4,
        enable_fp_fusion=True,
    )  # fmt: skip
    num_blocks = -(-num_positions // tiles.rows)
    launch(
        _apply_kernel, (num_images * num_blocks, num_tiles), y, x, weight, bias, groups[0], groups[1],
        num_positions, num_blocks, GROUPS=num_groups, SILU=silu, enable_fp_fusion=True, **cut,
    )  # fmt: skip


def _whole_kernel(
    y_ptr: tl.tensor,
    x_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    num_positions: int,
    eps: float,
    C: tl.constexpr,
    GROUPS: tl.constexpr,
    SILU: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """Program n * GROUPS + g normalises group g of image n."""
    image = (tl.program_id(0) // GROUPS).to(tl.int64)
    group = tl.program_id(0) % GROUPS
    row = tl.arange(0, ROWS)[:, None]
    channel = tl.arange(0, CHANNELS)[None, :]
    at = row * C + group * (C // GROUPS) + channel
    inside = (row < num_positions) & (channel < C // GROUPS)
    x = tl.load(x_ptr + image * num_positions * C + at, mask=inside, other=0.0).to(tl.float32)
    count = num_positions * (C // GROUPS)
    # Twice, because the mean of large numbers is rounded, and a group without contrast would magnify that.
    centred = tl.where(inside, x - tl.sum(tl.sum(x, axis=0), axis=0) / count, 0.0)
    centred = tl.where(inside, centred - tl.sum(tl.sum(centred, axis=0), axis=0) / count, 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(tl.sum(centred * centred, axis=0), axis=0) / count + eps)
    of_group = group * (C // GROUPS) + channel
    weight = tl.load(weight_ptr + of_group, mask=channel < C // GROUPS, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + of_group, mask=channel < C // GROUPS, other=0.0).to(tl.float32)
    y = centred * (rstd * weight) + bias
    if SILU:
        y = y / (1.0 + tl.exp(-y))
    tl.store(y_ptr + image * num_positions * C + at, y.to(y_ptr.dtype.element_ty), mask=inside)


def _chunk_kernel(
    mean_ptr: tl.tensor,
    square_ptr: tl.tensor,
    x_ptr: tl.tensor,
    num_positions: int,
    num_chunks: int,
    C: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """Program (n * num_chunks + k, j): mean and sum of squared deviations of each channel in chunk k."""
    image = (tl.program_id(0) // num_chunks).to(tl.int64)
    start = (tl.program_id(0) % num_chunks) * CHUNK
    row = tl.arange(0, ROWS)[:, None]
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    x_ptr += (image * num_positions + start) * C
    num_rows = tl.minimum(num_positions - start, CHUNK)
    # Welford's update in every lane: lane r takes rows r, r + ROWS, ...; only its last may be missing.
    mean = tl.zeros([ROWS, CHANNELS], tl.float32)
    square = tl.zeros([ROWS, CHANNELS], tl.float32)
    for done in range(0, CHUNK, ROWS):
        inside = (done + row < num_rows) & (channel < C)
        x = tl.load(x_ptr + (done + row) * C + channel, mask=inside, other=0.0).to(tl.float32)
        delta = tl.where(inside, x - mean, 0.0)
        mean += delta * (1.0 / (done // ROWS + 1))
        square += delta * tl.where(inside, x - mean, 0.0)
    # Then the lanes' results, by how many rows each has seen; the mean twice, as above.
    count = tl.maximum((num_rows - row + ROWS - 1) // ROWS, 0).to(tl.float32)
    rough = tl.sum(count * mean, axis=0)[None, :] / num_rows
    away = mean - rough
    rest = tl.sum(count * away, axis=0)[None, :] / num_rows
    total = tl.sum(square + count * away * away, axis=0)[None, :]
    at = tl.program_id(0).to(tl.int64) * C + channel
    tl.store(mean_ptr + at, rough + rest, mask=channel < C)
    tl.store(square_ptr + at, total, mask=channel < C)


def _merge_kernel(
    group_mean_ptr: tl.tensor,
    rstd_ptr: tl.tensor,
    mean_ptr: tl.tensor,
    square_ptr: tl.tensor,
    num_positions: int,
    eps: float,
    C: tl.constexpr,
    GROUPS: tl.constexpr,
    NUM_CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """Program n * GROUPS + g: mean and reciprocal standard deviation of group g of image n."""
    image = (tl.program_id(0) // GROUPS).to(tl.int64)
    channel = tl.arange(0, CHANNELS)[None, :]
    base = image * NUM_CHUNKS * C + (tl.program_id(0) % GROUPS) * (C // GROUPS)
    row = tl.arange(0, ROWS)[:, None]
    total = tl.zeros([ROWS, CHANNELS], tl.float32)
    for done in range(0, NUM_CHUNKS, ROWS):
        chunk = done + row
        inside = (chunk < NUM_CHUNKS) & (channel < C // GROUPS)
        share = tl.minimum(num_positions - chunk * CHUNK, CHUNK).to(tl.float32) / num_positions
        mean = tl.load(mean_ptr + base + chunk * C + channel, mask=inside, other=0.0)
        total += tl.where(inside, share * mean, 0.0)
    rough = tl.sum(tl.sum(total, axis=0), axis=0) / (C // GROUPS)
    total = tl.zeros([ROWS, CHANNELS], tl.float32)
    rest = tl.zeros([ROWS, CHANNELS], tl.float32)
    for done in range(0, NUM_CHUNKS, ROWS):
        chunk = done + row
        inside = (chunk < NUM_CHUNKS) & (channel < C // GROUPS)
        share = tl.minimum(num_positions - chunk * CHUNK, CHUNK).to(tl.float32) / num_positions
        away = tl.load(mean_ptr + base + chunk * C + channel, mask=inside, other=0.0) - rough
        square = tl.load(square_ptr + base + chunk * C + channel, mask=inside, other=0.0)
        total += tl.where(inside, square / num_positions + share * away * away, 0.0)
        rest += tl.where(inside, share * away, 0.0)
    mean_rest = tl.sum(tl.sum(rest, axis=0), axis=0) / (C // GROUPS)
    variance = tl.sum(tl.sum(total, axis=0), axis=0) / (C // GROUPS)
    tl.store(group_mean_ptr + tl.program_id(0), rough + mean_rest)
    tl.store(rstd_ptr + tl.program_id(0), 1.0 / tl.sqrt(variance + eps))


def _apply_kernel(
    y_ptr: tl.tensor,
    x_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    mean_ptr: tl.tensor,
    rstd_ptr: tl.tensor,
    num_positions: int,
    num_blocks: int,
    C: tl.constexpr,
    GROUPS: tl.constexpr,
    SILU: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """Program (n * num_blocks + k, j) normalises ROWS positions of CHANNELS channels."""
    image = (tl.program_id(0) // num_blocks).to(tl.int64)
    start = (tl.program_id(0) % num_blocks) * ROWS
    row = tl.arange(0, ROWS)[:, None]
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    real = channel < C
    inside = (start + row < num_positions) & real
    base = (image * num_positions + start) * C
    x = tl.load(x_ptr + base + row * C + channel, mask=inside, other=0.0).to(tl.float32)
    group = image * GROUPS + channel // (C // GROUPS)
    mean = tl.load(mean_ptr + group, mask=real, other=0.0)
    scale = tl.load(rstd_ptr + group, mask=real, other=0.0)
    scale *= tl.load(weight_ptr + channel, mask=real, other=0.0).to(tl.float32)
    y = (x - mean) * scale + tl.load(bias_ptr + channel, mask=real, other=0.0).to(tl.float32)
    if SILU:
        y = y / (1.0 + tl.exp(-y))
    tl.store(y_ptr + base + row * C + channel, y.to(y_ptr.dtype.element_ty), mask=inside)


def _check(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, num_groups: int) -> None:
    if x.ndim < 3 or x.dtype not in FLOATS or num_groups < 1 or x.shape[1] % num_groups:
        raise ValueError(
            f"group_norm of {x.dtype} {tuple(x.shape)} in {num_groups} groups: expected a float32, float16 or "
            "bfloat16 (N, C, H, W) or (N, C, L), with C a multiple of the groups"
        )
    if not x.movedim(1, -1).is_contiguous():
        raise ValueError(
            f"group_norm of {tuple(x.shape)} with strides {x.stride()}: expected channels_last, the channels "
            "of a position side by side"
        )
    for name, tensor in {"weight": weight, "bias": bias}.items():
        check(name, tensor, (x.shape[1],), dtypes=FLOATS, device=x.device)
