"""SLERP against the textbook formula in float64, and where the textbook fails: w near 0 and near pi."""

import math

import numpy as np
import pytest
import torch

from d2r_fast.kernels.slerp import slerp


def unit(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x / x.norm(dim=1, keepdim=True)).to(dtype)


def textbook(a: torch.Tensor, b: torch.Tensor, t: torch.Tensor) -> np.ndarray:
    """Shoemake's formula, in numpy's extended precision."""
    a, b = (x.numpy().astype(np.longdouble) for x in (a, b))
    a, b = (x / np.linalg.norm(x.astype(float), axis=1, keepdims=True) for x in (a, b))
    s = t.numpy().astype(np.longdouble)[:, None]
    w = np.arccos((a * b).sum(1, keepdims=True))
    return ((np.sin((1 - s) * w) * a + np.sin(s * w) * b) / np.sin(w)).astype(float)


@pytest.mark.parametrize("num", [1, 2, 7, 33])
@pytest.mark.parametrize("dim", [2, 3, 64, 511, 512])
def test_agrees_with_the_textbook(num: int, dim: int) -> None:
    a, b = unit((num, dim), 1, torch.float32), unit((num, dim), 2, torch.float32)
    t = torch.rand(num, generator=torch.Generator().manual_seed(3))
    result = slerp(a, b, t)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), textbook(a, b, t), rtol=0, atol=1e-6)


def test_ends_and_middle() -> None:
    a, b = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.0, 1.0]]).double()
    at = {t: slerp(a, b, torch.tensor([t]))[0].tolist() for t in (0.0, 0.5, 1.0)}
    assert at[0.0] == [1.0, 0.0]
    assert at[0.5] == pytest.approx([math.sqrt(0.5)] * 2, abs=1e-15)
    assert at[1.0] == pytest.approx([0.0, 1.0], abs=1e-15)


@pytest.mark.parametrize("angle", [1e-300, 1e-16, 1e-12, 1e-9, 1e-8, 1e-6, 1e-4])
def test_small_angles_tend_to_the_straight_line(angle: float) -> None:
    a, side = torch.eye(2, 5, dtype=torch.float64)
    b = math.cos(angle) * a + math.sin(angle) * side
    result = slerp(a[None], b[None], torch.tensor([0.3], dtype=torch.float64))[0]
    assert torch.allclose(
        result, math.cos(0.3 * angle) * a + math.sin(0.3 * angle) * side, rtol=0, atol=1e-15
    )
    assert torch.allclose(result, 0.7 * a + 0.3 * b, rtol=0, atol=angle**2 + 1e-12)


@pytest.mark.parametrize("gap", [1e-10, 1e-8, 1e-6, 1e-3])
def test_near_pi_the_given_great_circle_is_kept(gap: float) -> None:
    a, side = torch.eye(2, 5, dtype=torch.float64)
    b = -math.cos(gap) * a + math.sin(gap) * side
    result = slerp(a[None], b[None], torch.tensor([0.5], dtype=torch.float64))[0]
    half = (math.pi - gap) / 2
    assert torch.allclose(result, math.cos(half) * a + math.sin(half) * side, rtol=0, atol=1e-15 / gap)


@pytest.mark.parametrize("dim", [2, 3, 512])
def test_opposite_vectors_take_the_documented_circle(dim: int) -> None:
    a = unit((4, dim), 5)
    t = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    result = slerp(a, -a, t)
    assert torch.equal(result, slerp(a, -a, t))
    assert torch.allclose(result.norm(dim=1), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-15)
    assert torch.allclose((result * a).sum(1), (t * math.pi).cos(), rtol=0, atol=1e-15)
    axis = torch.zeros(dim, dtype=torch.float64)
    axis[a[2].abs().argmin()] = 1.0
    assert torch.linalg.matrix_rank(torch.stack((a[2], axis, result[2])), tol=1e-9) == 2
    assert float(result[2] @ axis) > 0


def test_every_point_has_length_one_and_moves_along_the_arc() -> None:
    a, b = unit((1, 512), 6).expand(101, -1), unit((1, 512), 7).expand(101, -1)
    points = slerp(a, b, torch.linspace(0, 1, 101, dtype=torch.float64))
    assert torch.allclose(points.norm(dim=1), torch.ones(101, dtype=torch.float64), rtol=0, atol=1e-14)
    angles = (points * a).sum(1).acos()
    steps = angles.diff()
    assert torch.allclose(steps, steps.mean().expand(100), rtol=0, atol=1e-7)


def test_swapping_the_ends_reverses_the_arc() -> None:
    a, b = unit((9, 64), 8), unit((9, 64), 9)
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    assert torch.allclose(slerp(a, b, t), slerp(b, a, 1 - t), rtol=0, atol=1e-14)


def test_only_directions_count() -> None:
    a, b, t = unit((5, 16), 10), unit((5, 16), 11), torch.full((5,), 0.4)
    assert torch.allclose(slerp(a * 3, b * 1e-20, t), slerp(a, b, t), rtol=0, atol=1e-14)


def test_rows_do_not_depend_on_their_batch() -> None:
    a, b, t = unit((17, 512), 12), unit((17, 512), 13), torch.linspace(0, 1, 17)
    whole = slerp(a, b, t)
    assert all(
        torch.equal(whole[i : i + 1], slerp(a[i : i + 1], b[i : i + 1], t[i : i + 1])) for i in range(17)
    )


def test_no_rows() -> None:
    assert slerp(torch.empty(0, 8), torch.empty(0, 8), torch.empty(0)).shape == (0, 8)


@pytest.mark.parametrize("t", [-0.01, 1.01, math.nan])
def test_refuses_a_parameter_off_the_arc(t: float) -> None:
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        slerp(unit((1, 4), 1), unit((1, 4), 2), torch.tensor([t]))


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_refuses_vectors_without_a_direction(value: float) -> None:
    with pytest.raises(ValueError, match="zero or not finite"):
        slerp(unit((1, 4), 1), torch.full((1, 4), value), torch.tensor([0.5]))


@pytest.mark.parametrize(
    "shapes", [((2, 4), (3, 4), (2,)), ((2, 4), (2, 4), (2, 1)), ((4,), (4,), ()), ((2, 1), (2, 1), (2,))]
)
def test_refuses_shapes_that_do_not_fit(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        slerp(*(torch.ones(shape) for shape in shapes))
