"""The miniature world's rasteriser on triangles made by hand, against formulas and a pixel-by-pixel reference."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial import Delaunay

from d2r_fast.bench.miniature.rasteriser import Raster, rasterise


def draw(points: torch.Tensor, triangles: list[list[int]], *, height: int = 16, width: int = 16) -> Raster:
    """One image; attributes are x, y and 1."""
    values = torch.cat([points[:, :2], torch.ones(len(points), 1)], 1)
    return rasterise(points[None], torch.tensor(triangles), values[None], height=height, width=width)


def facing(corners: NDArray[np.float64], triangles: NDArray[np.int64]) -> NDArray[np.int64]:
    """The triangles with their corners counter-clockwise in a picture whose y runs down."""
    a, b, c = (corners[triangles[:, i]] for i in range(3))
    area = (b - a)[:, 0] * (c - a)[:, 1] - (c - a)[:, 0] * (b - a)[:, 1]
    turned = triangles.copy()
    turned[area > 0] = triangles[area > 0][:, ::-1]
    return turned


def soup(seed: int, *, num: int = 30, size: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Random triangles that face the viewer, some beyond the picture: points (3 num, 3), triangles (num, 3)."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-4, size + 4, (num, 1, 2)) + rng.uniform(-7, 7, (num, 3, 2))
    near = rng.uniform(0.5, 2, (num, 3, 1))
    points = np.concatenate([corners, near], 2).reshape(-1, 3).astype(np.float32)
    triangles = np.arange(3 * num).reshape(-1, 3)
    return torch.from_numpy(points), torch.from_numpy(facing(points[:, :2].astype(np.float64), triangles))


def test_a_pixel_is_covered_where_its_middle_is() -> None:
    points = torch.tensor([[2.0, 2.0, 1.0], [2.0, 6.0, 1.0], [6.0, 2.0, 1.0]])
    covered = draw(points, [[0, 1, 2]]).triangle[0] == 0
    want = torch.zeros(16, 16, dtype=torch.bool)
    for row in range(2, 6):
        for column in range(2, 6):
            # The long edge runs through middles; they belong to what lies right of it.
            want[row, column] = (column + 0.5) + (row + 0.5) < 8
    assert torch.equal(covered, want)


@pytest.mark.parametrize("seed", range(3))
def test_random_triangles_equal_a_reference_of_half_planes(seed: int) -> None:
    points, triangles = soup(seed)
    values = torch.rand(len(points), 2, generator=torch.Generator().manual_seed(seed))
    raster = rasterise(points[None], triangles, values[None], height=24, width=24)
    num_compared = 0
    for row in range(24):
        for column in range(24):
            number, value, clear = reference(points, triangles, values, column + 0.5, row + 0.5)
            if clear:
                num_compared += 1
                assert raster.triangle[0, row, column] == number
                np.testing.assert_allclose(raster.values[0, row, column], value, atol=2e-4)
    assert num_compared > 500


def reference(
    points: torch.Tensor, triangles: torch.Tensor, values: torch.Tensor, x: float, y: float
) -> tuple[int, NDArray[np.float64], bool]:
    """Nearest triangle at a point and its values there; False for points too near to an edge or a tie to say."""
    found, best, value, clear = -1, 0.0, np.zeros(values.shape[1]), True
    for number, triangle in enumerate(triangles.tolist()):
        corner, near = points[triangle, :2].double().numpy(), points[triangle, 2].double().numpy()
        system = np.vstack([corner.T, np.ones(3)])
        share = np.linalg.solve(system, [x, y, 1])
        clear &= bool(abs(share.min()) > 1e-4)
        if share.min() > 0:
            nearness = float(share @ near)
            clear &= abs(nearness - best) > 1e-4
            if nearness > best:
                found, best = number, nearness
                value = (share * near) @ values[triangle].double().numpy() / nearness
    return found, value, clear


@pytest.mark.parametrize("seed", range(4))
def test_neighbours_neither_overlap_nor_leave_a_gap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Whole and half numbers put corners and edges on the middles of pixels, where ties are decided.
    inner = np.concatenate([rng.uniform(0, 20, (60, 2)), rng.integers(0, 40, (40, 2)) / 2])
    corners = np.unique(np.concatenate([inner, [[-3, -3], [-3, 23], [23, -3], [23, 23]]]), axis=0)
    triangles = torch.from_numpy(facing(corners, Delaunay(corners).simplices.astype(np.int64)))
    points = torch.tensor(np.concatenate([corners, np.ones((len(corners), 1))], 1), dtype=torch.float32)
    times = torch.zeros(20, 20)
    for triangle in triangles.tolist():
        times += draw(points, [triangle], height=20, width=20).triangle[0] == 0
    assert torch.equal(times, torch.ones(20, 20))


def test_the_nearer_surface_shows_and_surfaces_cut_each_other() -> None:
    flat = [[0.0, 0.0, 1.0], [0.0, 16.0, 1.0], [16.0, 16.0, 1.0], [16.0, 0.0, 1.0]]
    tilted = [[0.0, 0.0, 0.5], [0.0, 16.0, 0.5], [16.0, 16.0, 1.5], [16.0, 0.0, 1.5]]
    both = [[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]]
    raster = draw(torch.tensor(flat + tilted), both)
    assert (raster.triangle[0, :, :8] < 2).all()
    assert (raster.triangle[0, :, 8:] >= 2).all()
    swapped = draw(torch.tensor(tilted + flat), both)
    assert torch.equal(swapped.triangle[0] >= 2, raster.triangle[0] < 2)


def test_of_two_equal_depths_the_first_triangle_shows() -> None:
    points = torch.tensor([[0.0, 0.0, 1.0], [0.0, 16.0, 1.0], [16.0, 0.0, 1.0]])
    assert set(draw(points, [[0, 1, 2], [1, 2, 0]]).triangle.unique().tolist()) == {-1, 0}


def test_values_are_interpolated_in_space() -> None:
    # A wall from depth 1 at the left to depth 4 at the right, painted with its length: at the share s of the
    # picture it is s / (4 - 3 s) along.
    points = torch.tensor([[0.0, 0, 1], [0, 16, 1], [16, 16, 0.25], [16, 0, 0.25]])
    length = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    raster = rasterise(points[None], torch.tensor([[0, 1, 2], [0, 2, 3]]), length[None], height=16, width=16)
    share = (np.arange(16) + 0.5) / 16
    np.testing.assert_allclose(raster.values[0, 7, :, 0], share / (4 - 3 * share), atol=1e-5)


@pytest.mark.parametrize("triangle", [[0, 2, 1], [0, 1, 3], [0, 1, 1]], ids=["back", "behind", "flat"])
def test_what_cannot_be_seen_is_left_out(triangle: list[int]) -> None:
    points = torch.tensor([[2.0, 2, 1], [2, 12, 1], [12, 2, 1], [12, 2, -1]])
    raster = draw(points, [triangle])
    assert (raster.triangle == -1).all()
    assert (raster.values == 0).all()


def test_a_triangle_beyond_the_picture_is_cut_at_its_edge() -> None:
    points = torch.tensor([[-100.0, -100, 1], [-100, 300, 1], [300, -100, 1]])
    raster = draw(points, [[0, 1, 2]], height=9, width=13)
    assert (raster.triangle == 0).all()
    columns = torch.arange(13) + 0.5
    torch.testing.assert_close(raster.values[0, 4, :, 0], columns, atol=1e-3, rtol=0)
    assert (draw(points + torch.tensor([1000.0, 0, 0]), [[0, 1, 2]]).triangle == -1).all()


def test_slivers_cover_every_pixel_and_have_the_values_of_their_corners() -> None:
    angle = np.linspace(0, 2 * np.pi, 30_000, endpoint=False)
    rim = np.stack([8.3 + 90 * np.cos(angle), 7.9 - 90 * np.sin(angle), np.ones_like(angle)], 1)
    points = torch.tensor(np.concatenate([[[8.3, 7.9, 1.0]], rim]), dtype=torch.float32)
    first = torch.arange(30_000)
    triangles = torch.stack([torch.zeros_like(first), first + 1, (first + 1) % 30_000 + 1], 1)
    raster = rasterise(points[None], triangles, torch.full((1, len(points), 1), 7.0), height=16, width=16)
    assert (raster.triangle >= 0).all()
    torch.testing.assert_close(raster.values, torch.full((1, 16, 16, 1), 7.0))


def test_an_image_is_the_same_in_any_batch() -> None:
    points, triangles = (torch.stack([soup(seed)[0] for seed in range(5)]), soup(0)[1])
    values = torch.rand(5, points.shape[1], 4, generator=torch.Generator().manual_seed(0))
    whole = rasterise(points, triangles, values, height=24, width=24)
    again = rasterise(points, triangles, values, height=24, width=24)
    assert torch.equal(whole.values, again.values)
    for i in range(5):
        alone = rasterise(points[i : i + 1], triangles, values[i : i + 1], height=24, width=24)
        assert torch.equal(alone.values[0], whole.values[i])
        assert torch.equal(alone.triangle[0], whole.triangle[i])
    assert len({whole.triangle[i].numpy().tobytes() for i in range(5)}) == 5


@pytest.mark.gpu
def test_cuda_draws_what_the_cpu_draws() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: this test compares it with the CPU")
    points, triangles = soup(1)
    values = torch.rand(1, len(points), 3)
    cpu = rasterise(points[None], triangles, values, height=24, width=24)
    gpu = rasterise(points[None].cuda(), triangles.cuda(), values.cuda(), height=24, width=24)
    same = gpu.triangle.cpu() == cpu.triangle
    assert same.float().mean() > 0.99
    torch.testing.assert_close(gpu.values.cpu()[same], cpu.values[same], atol=1e-4, rtol=1e-4)
