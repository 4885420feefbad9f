"""The noise kernel against the torch code that it repeats: random words exactly, normals to the last place."""

from __future__ import annotations  # `tl` is bound when a kernel is launched

import math
from typing import TYPE_CHECKING

import pytest
import torch

from d2r_fast.engine.errors import UserError
from d2r_fast.kernels.jit import launch
from d2r_fast.kernels.noise import CHOICE, fused_normal, identity_key, normal, philox

from .kernel_device import DEVICE, MARKS, without_triton

if TYPE_CHECKING:
    import triton.language as tl

pytestmark = MARKS
WORD = 0xFFFFFFFF
KEYS = torch.tensor(
    [
        [identity_key(3, "a"), 5, 0, CHOICE],
        [identity_key(3, "b"), WORD, 2**31, 0],
        [-1, 0, 0, 0],
        [0, 0, 0, 0],
        [-(2**63), 1, WORD, 2**31 - 1],
    ]
)


def words_kernel(out_ptr: tl.tensor, keys_ptr: tl.tensor, BLOCK: tl.constexpr) -> None:
    """Stores the words that the noise kernel makes its numbers from."""
    row = tl.program_id(0)
    key = keys_ptr + row * 4
    image = tl.load(key + 1).to(tl.uint32)
    attempt = tl.load(key + 2).to(tl.uint32)
    step = tl.load(key + 3).to(tl.uint32)
    counter = tl.arange(0, BLOCK).to(tl.uint32)
    a, b, c, d = tl.philox(tl.load(key), counter, image, attempt, step)
    at = out_ptr + row * 4 * BLOCK + tl.arange(0, BLOCK)
    tl.store(at, a.to(tl.int64))
    tl.store(at + BLOCK, b.to(tl.int64))
    tl.store(at + 2 * BLOCK, c.to(tl.int64))
    tl.store(at + 3 * BLOCK, d.to(tl.int64))


def test_words_are_those_of_philox() -> None:
    out = torch.empty((len(KEYS), 4, 64), dtype=torch.int64, device=DEVICE)
    launch(words_kernel, (len(KEYS),), out, KEYS.to(DEVICE), BLOCK=64, num_warps=1)
    identity, image, attempt, step = KEYS[:, :, None].unbind(1)
    wanted = philox(
        (torch.arange(64).expand(5, -1), image, attempt, step), (identity & WORD, identity >> 32 & WORD)
    )
    assert torch.equal(out.cpu(), torch.stack(wanted, dim=1))


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 5, 7), (3,), (1,), (), (257,)])
@pytest.mark.parametrize("block", [16, 64])
def test_numbers_are_those_of_torch(shape: tuple[int, ...], block: int) -> None:
    """float64 functions differ by 2 ulp at most, so a float32 differs by one where that crosses its middle."""
    ours, wanted = fused_normal(KEYS, shape, device=DEVICE, block=block).cpu(), normal(KEYS, shape)
    assert ours.shape == wanted.shape
    up, down = (wanted.nextafter(torch.tensor(end)) for end in (math.inf, -math.inf))
    assert bool(((ours == wanted) | (ours == up) | (ours == down)).all())
    assert float((ours != wanted).double().mean()) < 1e-3


def test_a_row_depends_on_its_key_alone() -> None:
    together = fused_normal(KEYS, (4, 5, 7), device=DEVICE, block=16)
    for row in range(len(KEYS)):
        assert torch.equal(
            fused_normal(KEYS[row : row + 1], (4, 5, 7), device=DEVICE, block=16)[0], together[row]
        )


def test_no_keys_and_no_elements() -> None:
    assert fused_normal(KEYS[:0], (4, 8, 8), device=DEVICE).shape == (0, 4, 8, 8)
    assert fused_normal(KEYS, (0, 3), device=DEVICE).shape == (5, 0, 3)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (KEYS[:, :3], r"expected torch.int64 \(N, 4\)"),
        (KEYS.int(), "torch.int32"),
        (torch.tensor([[0, -1, 0, 0]]), "image, attempt and step"),
        (torch.tensor([[0, 0, 2**32, 0]]), "image, attempt and step"),
    ],
)
def test_refuses_malformed_keys(keys: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fused_normal(keys, (4,), device=DEVICE)


def test_needs_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    without_triton(monkeypatch)
    if DEVICE == "cpu":
        with pytest.raises(UserError, match=r"pip install 'd2r-fast\[gpu\]'"):
            fused_normal(KEYS, (4,), device=DEVICE)
