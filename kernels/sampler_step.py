"""Classifier-free guidance and one sampler step of every image that completes one, in a single pass.

The images in flight live in a table of slots, at different steps of different samplers. Each step applies a
row (alpha, sigma, a, b, c, d) of its schedule's table:

    eps = uncond + g (cond - uncond)        Ho and Salimans, arXiv 2207.12598; cond alone without guidance
    x0' = (x - sigma eps) / alpha
    x'  = a x + b x0' + c x0 + d noise      DPM-Solver++ 2M (arXiv 2211.01095), LCM (arXiv 2310.04378)

Torch runs this as some twenty kernels that each read and write whole latents, gather and scatter included;
the Triton kernel reads and writes every value once. Both compute in float32 and round after every operation,
so they give the same bits.
"""

from __future__ import annotations  # `tl` is bound when a kernel is first launched

from typing import TYPE_CHECKING

import torch

from d2r_fast.kernels.jit import check, launch

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 1024
"""Latent values per program: 4 KiB of each tensor, 16 images of 4x64x64 are 256 programs."""


def sampler_step(
    x: torch.Tensor,
    x0: torch.Tensor,
    eps: torch.Tensor,
    *,
    slot: torch.Tensor,
    cond_row: torch.Tensor,
    uncond_row: torch.Tensor,
    guidance: torch.Tensor,
    rows: torch.Tensor,
    noise: torch.Tensor | None = None,
) -> None:
    """Steps K images of the slot table in place: by torch on the CPU, by the Triton kernel on CUDA.

    An image's result depends on its own slot, UNet rows and numbers alone: not on K, on its place among the K
    or on what its slot held before its first step.

    Args:
        x: (S, C, h, w) float32, the latents of each slot; replaced by those after the step.
        x0: same shape, the clean latents that each slot's last step predicted; replaced by this step's. Not
            used where a row's c is 0, so a new image may find anything there, NaN included.
        eps: (R, C, h, w) float32, the noise that the UNet predicts, by UNet row.
        slot: (K,) int64 in [0, S), all different.
        cond_row: (K,) int64 in [0, R), each image's conditional UNet row.
        uncond_row: (K,) int64 in [0, R), its unconditional one; equal to cond_row where guidance is off.
        guidance: (K,) float32, g; not used where guidance is off.
        rows: (K, 6) float32, rows of `Schedule.table`.
        noise: (K, C, h, w) float32, N(0, 1). Only used where a row's d is not 0; None where all d are 0.

    Raises:
        ValueError: an argument of another shape, dtype, stride or device. Indices out of range end in torch's
            IndexError on the CPU; on CUDA looking at them would stop the stream, and nobody looks.
        UserError: CUDA tensors without Triton.
    """
    _check(x, x0, eps, slot, cond_row, uncond_row, guidance, rows, noise)
    run = step_slots if x.device.type == "cpu" else launch_step
    run(x, x0, eps, slot, cond_row, uncond_row, guidance, rows, noise)


def step_slots(
    x: torch.Tensor,
    x0: torch.Tensor,
    eps: torch.Tensor,
    slot: torch.Tensor,
    cond_row: torch.Tensor,
    uncond_row: torch.Tensor,
    guidance: torch.Tensor,
    rows: torch.Tensor,
    noise: torch.Tensor | None,
) -> None:
    """`sampler_step` as torch expressions, on any device; arguments as there, not checked."""
    alpha, sigma, a, b, c, d = (column[:, None, None, None] for column in rows.unbind(1))
    before, cond, uncond = x[slot], eps[cond_row], eps[uncond_row]
    guided = uncond + guidance[:, None, None, None] * (cond - uncond)
    predicted = torch.where((cond_row == uncond_row)[:, None, None, None], cond, guided)
    clean = (before - sigma * predicted) / alpha
    after = a * before + b * clean + c * torch.where(c == 0, 0.0, x0[slot])
    if noise is not None:
        after = torch.where(d == 0, after, after + d * noise)
    x[slot], x0[slot] = after, clean


def launch_step(
    x: torch.Tensor,
    x0: torch.Tensor,
    eps: torch.Tensor,
    slot: torch.Tensor,
    cond_row: torch.Tensor,
    uncond_row: torch.Tensor,
    guidance: torch.Tensor,
    rows: torch.Tensor,
    noise: torch.Tensor | None,
    *,
    block: int = BLOCK,
    num_warps: int = 4,
) -> None:
    """`sampler_step` by the Triton kernel; block is a power of two.

    Raises:
        ValueError: tensors that are not on CUDA.
        UserError: Triton is not installed.
    """
    size = x[0].numel() if len(x) else 0
    if len(slot) == 0 or size == 0:
        return
    grid = (len(slot), -(-size // block))
    launch(
        _step_kernel, grid, x, x0, eps, slot, cond_row, uncond_row, guidance, rows,
        x if noise is None else noise, size, HAS_NOISE=noise is not None, BLOCK=block, num_warps=num_warps,
        # Contracting a * x + b into one rounding would leave torch's bits.
        enable_fp_fusion=False,
    )  # fmt: skip


def _step_kernel(
    x_ptr: tl.tensor,
    x0_ptr: tl.tensor,
    eps_ptr: tl.tensor,
    slot_ptr: tl.tensor,
    cond_row_ptr: tl.tensor,
    uncond_row_ptr: tl.tensor,
    guidance_ptr: tl.tensor,
    rows_ptr: tl.tensor,
    noise_ptr: tl.tensor,
    size: int,
    HAS_NOISE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Program (k, j) steps values j * BLOCK onwards of image k."""
    image = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    alpha = tl.load(rows_ptr + image * 6)
    sigma = tl.load(rows_ptr + image * 6 + 1)
    a = tl.load(rows_ptr + image * 6 + 2)
    b = tl.load(rows_ptr + image * 6 + 3)
    c = tl.load(rows_ptr + image * 6 + 4)
    cond_row = tl.load(cond_row_ptr + image)
    uncond_row = tl.load(uncond_row_ptr + image)
    here = tl.load(slot_ptr + image) * size + at

    before = tl.load(x_ptr + here, mask=inside)
    cond = tl.load(eps_ptr + cond_row * size + at, mask=inside)
    # What is not used is masked off and costs no traffic. The limits are numbers because the interpreter
    # (Triton 3.9) spreads a scalar condition over a block in the dtype of what was compared.
    uncond_size = tl.where(cond_row == uncond_row, 0, size)
    uncond = tl.load(eps_ptr + uncond_row * size + at, mask=at < uncond_size, other=0.0)
    old_size = tl.where(c == 0, 0, size)
    old = tl.load(x0_ptr + here, mask=at < old_size, other=0.0)

    guided = uncond + tl.load(guidance_ptr + image) * (cond - uncond)
    predicted = tl.where(cond_row == uncond_row, cond, guided)
    # A plain / is an approximation, off by up to 2 ulp.
    clean = tl.div_rn(before - sigma * predicted, alpha)
    after = a * before + b * clean + c * old
    if HAS_NOISE:
        d = tl.load(rows_ptr + image * 6 + 5)
        noise_size = tl.where(d == 0, 0, size)
        noise = tl.load(noise_ptr + image * size + at, mask=at < noise_size, other=0.0)
        after = tl.where(d == 0, after, after + d * noise)
    tl.store(x_ptr + here, after, mask=inside)
    tl.store(x0_ptr + here, clean, mask=inside)


def _check(
    x: torch.Tensor,
    x0: torch.Tensor,
    eps: torch.Tensor,
    slot: torch.Tensor,
    cond_row: torch.Tensor,
    uncond_row: torch.Tensor,
    guidance: torch.Tensor,
    rows: torch.Tensor,
    noise: torch.Tensor | None,
) -> None:
    if x.ndim != 4 or eps.ndim != 4:
        raise ValueError(
            f"x is {tuple(x.shape)}, eps {tuple(eps.shape)}: expected (S, C, h, w), (R, C, h, w)"
        )
    num_images, latent = len(slot), tuple(x.shape[1:])
    floats = {"x": (x, (len(x), *latent)), "x0": (x0, (len(x), *latent)), "eps": (eps, (len(eps), *latent))}
    floats |= {"guidance": (guidance, (num_images,)), "rows": (rows, (num_images, 6))}
    if noise is not None:
        floats["noise"] = (noise, (num_images, *latent))
    for name, (tensor, shape) in floats.items():
        check(name, tensor, shape, dtypes=(torch.float32,), device=x.device)
    for name, tensor in {"slot": slot, "cond_row": cond_row, "uncond_row": uncond_row}.items():
        check(name, tensor, (num_images,), dtypes=(torch.int64,), device=x.device)
