"""Batched non-maximum suppression against the textbook loop, one group at a time."""

import numpy as np
import pytest
import torch

from d2r_fast.kernels import nms as module
from d2r_fast.kernels.nms import nms


def greedy(boxes: np.ndarray, scores: np.ndarray, threshold: float, overlap: str, border: int) -> list[int]:
    """Take the best box, drop what overlaps it, and so on; equal scores by position."""
    left = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
    kept = []
    while left:
        best, *left = left
        kept.append(best)
        left = [row for row in left if not shares(boxes[best], boxes[row], overlap, border) > threshold]
    return kept


def shares(a: np.ndarray, b: np.ndarray, overlap: str, border: int) -> float:
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]) + np.float32(border), 0)
    area_a, area_b = (np.prod(box[2:] - box[:2] + np.float32(border)) for box in (a, b))
    shared = np.prod(sides)
    return float(shared / (min(area_a, area_b) if overlap == "min" else area_a + area_b - shared))


def draw(num: int, seed: int, *, grid: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Crowded boxes in four unequal groups, with equal scores; on a grid as P-Net gives them, or not."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-20, 20, (num, 2))
    side = np.full((num, 2), 20.0) if grid else rng.uniform(1, 60, (num, 2))
    boxes = np.concatenate([corner, corner + side], 1)
    boxes = np.floor(boxes) if grid else boxes
    scores = rng.integers(0, 40, num) / 40
    groups = rng.choice([0, 1, 5, 7], num, p=[0.6, 0.2, 0.15, 0.05])
    return torch.tensor(boxes, dtype=torch.float32), torch.tensor(scores), torch.tensor(groups)


@pytest.mark.parametrize("overlap", ["union", "min"])
@pytest.mark.parametrize("border", [0, 1])
@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize("max_pairs", [module.MAX_PAIRS, 50])
def test_is_greedy_within_each_group(
    overlap: str, border: int, grid: bool, max_pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PAIRS", max_pairs)
    for seed, threshold in enumerate((0.3, 0.5, 0.7)):
        boxes, scores, groups = draw(150, seed, grid=grid)
        want = []
        for group in sorted(set(groups.tolist())):
            rows = (groups == group).nonzero().flatten().numpy()
            kept = greedy(boxes[rows].numpy(), scores[rows].numpy(), threshold, overlap, border)
            want += rows[kept].tolist()
        got = nms(boxes, scores, groups, threshold=threshold, overlap=overlap, border=border)  # type: ignore[arg-type]
        assert got.tolist() == want
        assert len(want) < 145


def test_a_chain_is_settled_link_by_link() -> None:
    """Each box overlaps only the next one: every second one stays, however long the chain."""
    left = torch.arange(101.0)
    boxes = torch.stack([left, torch.zeros(101), left + 2.5, torch.ones(101)], 1)
    kept = nms(boxes, -left, torch.zeros(101, dtype=torch.int64), threshold=0.4)
    assert kept.tolist() == list(range(0, 101, 2))


def test_of_equals_the_first_stays() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(3, 1)
    groups = torch.tensor([1, 1, 0])
    assert nms(boxes, torch.ones(3), groups, threshold=0.5).tolist() == [2, 0]


def test_nothing_in_nothing_out() -> None:
    none = nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), threshold=0.5)
    assert none.dtype == torch.int64
    assert len(none) == 0


def test_boxes_at_the_threshold_stay() -> None:
    """An overlap of exactly one half is not more than one half."""
    boxes = torch.tensor([[0.0, 0, 3, 1], [1.0, 0, 4, 1]])
    groups = torch.zeros(2, dtype=torch.int64)
    assert len(nms(boxes, torch.tensor([1.0, 0.5]), groups, threshold=0.5)) == 2
    assert len(nms(boxes, torch.tensor([1.0, 0.5]), groups, threshold=0.49)) == 1
