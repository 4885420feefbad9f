"""Random numbers that are a pure function of their key: Philox4x32-10 in plain torch.

An image's noise must not depend on the batch it is drawn in, on the order of the work or on what else
the process drew, so there is no generator and no state. Every number is named by a key of four words

    (identity key, image, attempt, step)

and by its place in the tensor. The identity key (64 bits, from the seed and the identity's name) is the
Philox key; the other three and the number of the 128-bit block are the Philox counter. Streams differ in
the step word: 0 is the initial latent, k >= 1 the noise that LCM adds after step k, `CHOICE` and `MIX` the
plan's own draws.

Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, checked
against the known answers of its reference implementation. The integers are exact on every device; normals
go through float64 logarithms and cosines, which libraries round differently in the last bit, so draw them
on the CPU where the result has to be the same on machines with and without a GPU.

`fused_normal` draws the same numbers on CUDA in one Triton kernel. `normal` runs there too, as more than a
hundred torch kernels over int64 words.
"""

from __future__ import annotations  # `tl` is bound when a kernel is first launched

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import torch

from d2r_fast.kernels.jit import launch

if TYPE_CHECKING:
    import triton.language as tl

CHOICE = 2**32 - 1
"""Step word of the plan's draw of source images."""
MIX = 2**32 - 2
"""Step word of the plan's draw of the SLERP parameter."""

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def identity_key(seed: int, identity: str) -> int:
    """The 64-bit Philox key of an identity, as a signed integer that fits int64.

    The seed takes eight bytes and the name the rest, so no two pairs share an encoding.

    Args:
        seed: 0 <= seed < 2**63.
        identity: any string, lone surrogates (undecodable file names) included.
    """
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed}: expected 0 <= seed < 2**63")
    text = seed.to_bytes(8, "little") + identity.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little", signed=True)


def philox(counter: Sequence[torch.Tensor], key: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Philox4x32-10: four words of 32 random bits for each counter.

    Args:
        counter: four int64 tensors of words in [0, 2**32) that broadcast together; word 0 first.
        key: two int64 tensors of words in [0, 2**32), broadcastable to the counter.

    Returns:
        Four int64 tensors of words in [0, 2**32).
    """
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(x0, _MULTIPLIERS[0])
        high1, low1 = _multiply(x2, _MULTIPLIERS[1])
        x0, x1, x2, x3 = x1 ^ k0 ^ high1, low1, x3 ^ k1 ^ high0, low0
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return x0, x1, x2, x3


def _multiply(word: torch.Tensor, multiplier: int) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low word of word * multiplier.

    The 64-bit product does not fit int64. Both multipliers exceed 2**31, so word * (multiplier - 2**32)
    stays within 63 bits, and the 2**32 * word taken away is added back to the high word.
    """
    product = word * (multiplier - 2**32)
    return (product >> 32).add_(word), product.bitwise_and_(_WORD)


def normal(keys: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Standard normal noise, by Box and Muller's transform of Philox words in float64.

    The tails end at 6.7 standard deviations, where 32-bit uniforms end.

    Args:
        keys: (N, 4) int64, columns identity key, image, attempt, step.
        shape: of one sample, such as (4, 64, 64); any number of elements.

    Returns:
        (N, *shape) float32 on the device of keys. Row i depends on keys[i] and shape alone.
    """
    size = math.prod(shape)
    words = _words(keys, -(-size // 4))
    first, second = (_box_muller(words[i], words[i + 1]) for i in (0, 2))
    flat = torch.stack((*first, *second), dim=-1).flatten(1)
    return flat[:, :size].reshape(len(keys), *shape)


def _box_muller(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two independent float32 normals from two independent words; the half keeps the logarithm finite."""
    radius = a.double().add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    angle = b.double().mul_(2.0 * math.pi * 2.0**-32)
    return (radius * angle.cos()).float(), angle.sin_().mul_(radius).float()


def fused_normal(
    keys: torch.Tensor, shape: Sequence[int], *, device: torch.device | str = "cuda", block: int = 256
) -> torch.Tensor:
    """`normal` by a Triton kernel.

    The random words are exact. The logarithm, cosine and sine are CUDA's in float64, at most 2 ulp off, and
    show after rounding to float32 as the neighbouring number once in some 10**8.

    Args:
        keys: (N, 4) int64 as for `normal`, on the CPU: there they are made, and are checked without waiting
            for the GPU.
        shape: of one sample.
        device: where to draw.
        block: Philox blocks of four numbers per program; a power of two.

    Returns:
        (N, *shape) float32 on the device.

    Raises:
        ValueError: malformed keys, keys or a device that are not where they should be.
        UserError: Triton is not installed.
    """
    _check_keys(keys)
    if keys.device.type != "cpu":
        raise ValueError(f"keys are on {keys.device}: expected the CPU")
    out = torch.empty((len(keys), *shape), dtype=torch.float32, device=device)
    size = math.prod(shape)
    num_tiles = -(-size // (4 * block))
    if out.numel() > 0:
        launch(
            _normal_kernel, (len(keys) * num_tiles,), out, keys.to(out.device), size, num_tiles, BLOCK=block,
            num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return out


def _normal_kernel(
    out_ptr: tl.tensor, keys_ptr: tl.tensor, size: int, num_tiles: int, BLOCK: tl.constexpr
) -> None:
    """Program i * num_tiles + j draws Philox blocks j * BLOCK onwards of key i."""
    row = (tl.program_id(0) // num_tiles).to(tl.int64)
    first = (tl.program_id(0) % num_tiles) * BLOCK
    identity = tl.load(keys_ptr + row * 4)
    image = tl.load(keys_ptr + row * 4 + 1).to(tl.uint32)
    attempt = tl.load(keys_ptr + row * 4 + 2).to(tl.uint32)
    step = tl.load(keys_ptr + row * 4 + 3).to(tl.uint32)
    counter = (first + tl.arange(0, BLOCK)).to(tl.uint32)
    a, b, c, d = tl.philox(identity, counter, image, attempt, step)
    # 2 pi / 2**32 is rounded as torch's factor is, in float64.
    radius = tl.sqrt(tl.log((a.to(tl.float64) + 0.5) * 2.0**-32) * -2.0)
    angle = b.to(tl.float64) * 1.4629180792671596e-09
    first_pair = radius * tl.cos(angle), radius * tl.sin(angle)
    radius = tl.sqrt(tl.log((c.to(tl.float64) + 0.5) * 2.0**-32) * -2.0)
    angle = d.to(tl.float64) * 1.4629180792671596e-09
    # Interleaved in registers, the four numbers of a block leave in one 16-byte store.
    even = tl.interleave(first_pair[0].to(tl.float32), (radius * tl.cos(angle)).to(tl.float32))
    odd = tl.interleave(first_pair[1].to(tl.float32), (radius * tl.sin(angle)).to(tl.float32))
    at = first * 4 + tl.arange(0, 4 * BLOCK)
    tl.store(out_ptr + row * size + at, tl.interleave(even, odd), mask=at < size)


def uniform(keys: torch.Tensor, num: int) -> torch.Tensor:
    """Uniform numbers in the open interval (0, 1): odd multiples of 2**-53, never 0 and never 1.

    Args:
        keys: (N, 4) int64, as for `normal`.
        num: numbers per key.

    Returns:
        (N, num) float64 on the device of keys.
    """
    words = _words(keys, -(-num // 2))
    pairs = [(words[i] << 20 | words[i + 1] >> 12) * 2 + 1 for i in (0, 2)]
    return torch.stack(pairs, dim=-1).flatten(1)[:, :num].double() * 2.0**-53


def _words(keys: torch.Tensor, num_blocks: int) -> tuple[torch.Tensor, ...]:
    """Four (N, num_blocks) tensors of random words: block j of row i under keys[i]."""
    _check_keys(keys)
    identity, image, attempt, step = keys.unsqueeze(-1).unbind(1)
    block = torch.arange(num_blocks, device=keys.device).expand(len(keys), -1)
    return philox((block, image, attempt, step), (identity & _WORD, identity >> 32 & _WORD))


def _check_keys(keys: torch.Tensor) -> None:
    if keys.ndim != 2 or keys.shape[1] != 4 or keys.dtype != torch.int64:
        raise ValueError(f"keys are {keys.dtype} {tuple(keys.shape)}: expected torch.int64 (N, 4)")
    words = keys[:, 1:]
    if bool(((words < 0) | (words > _WORD)).any()):
        raise ValueError("image, attempt and step of a key must lie in [0, 2**32)")
