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
"""

import math
from collections.abc import Sequence
from hashlib import blake2b

import torch

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
    if keys.ndim != 2 or keys.shape[1] != 4 or keys.dtype != torch.int64:
        raise ValueError(f"keys are {keys.dtype} {tuple(keys.shape)}: expected torch.int64 (N, 4)")
    words = keys[:, 1:]
    if bool(((words < 0) | (words > _WORD)).any()):
        raise ValueError("image, attempt and step of a key must lie in [0, 2**32)")
    identity, image, attempt, step = keys.unsqueeze(-1).unbind(1)
    block = torch.arange(num_blocks, device=keys.device).expand(len(keys), -1)
    return philox((block, image, attempt, step), (identity & _WORD, identity >> 32 & _WORD))
