"""Greedy non-maximum suppression of the boxes of many images at once, on any device."""

from collections.abc import Iterator
from typing import Literal

import torch

MAX_PAIRS = 1 << 22
"""Pairs of boxes compared at once, which bounds memory whatever the number of boxes."""


def nms(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    groups: torch.Tensor,
    *,
    threshold: float,
    overlap: Literal["union", "min"] = "union",
    border: int = 0,
) -> torch.Tensor:
    """Indices (int64) of the boxes kept, by group and then by descending score.

    Within each group (an image) a box goes if a kept box of higher score overlaps it by more than
    `threshold`; equal scores go by position. boxes (n, 4) are x0, y0, x1, y1 in pixels and extend
    x1 - x0 + border; scores (n,); groups (n,) int64. The overlap is the intersection over the union, or over
    the smaller of the two boxes. The result for a group does not depend on the other groups.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[torch.argsort(groups[order], stable=True)]
    kept = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    if len(order) == 0:
        return order
    better, worse = _overlapping(boxes[order], groups[order], threshold, overlap, border)
    # Greedy suppression is the one fixed point of "kept unless a kept better box overlaps": round k settles
    # every box that hangs on a chain of fewer than k others, so this ends, and with the greedy answer.
    while True:
        settled = torch.ones_like(kept)
        settled[worse[kept[better]]] = False
        if torch.equal(settled, kept):
            return order[kept]
        kept = settled


def _overlapping(
    boxes: torch.Tensor, groups: torch.Tensor, threshold: float, overlap: str, border: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of a group that overlap too much, as positions (better, worse); boxes come best first."""
    better, worse = [], []
    for first, second in _neighbours(boxes, groups, border):
        a, b = boxes[first], boxes[second]
        sides = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2]) + border).clamp(min=0)
        shared, area_a, area_b = sides[:, 0] * sides[:, 1], _area(a, border), _area(b, border)
        whole = torch.minimum(area_a, area_b) if overlap == "min" else area_a + area_b - shared
        close = shared / whole > threshold
        better.append(torch.minimum(first, second)[close])
        worse.append(torch.maximum(first, second)[close])
    return torch.cat(better), torch.cat(worse)


def _area(boxes: torch.Tensor, border: int) -> torch.Tensor:
    return (boxes[:, 2] - boxes[:, 0] + border) * (boxes[:, 3] - boxes[:, 1] + border)


def _neighbours(
    boxes: torch.Tensor, groups: torch.Tensor, border: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Every pair of boxes of one group that meet in x, in pieces of about `MAX_PAIRS`.

    Boxes are sorted by left edge, so that a box's partners stand right behind it; groups are set side by
    side, further apart than any box is wide.
    """
    left, right = boxes[:, 0].double(), boxes[:, 2].double() + border
    span = right.max() - left.min() + 2
    start = groups * span + (left - left.min())
    start, order = torch.sort(start, stable=True)
    end = start + (right - left)[order]
    counts = torch.searchsorted(start, end, right=True) - torch.arange(1, len(start) + 1, device=start.device)
    counts = counts.clamp(min=0)
    piece = counts.cumsum(0) // MAX_PAIRS
    for rows in torch.split(torch.arange(len(start), device=start.device), _lengths(piece)):
        repeats = counts[rows]
        first = torch.repeat_interleave(rows, repeats)
        offset = torch.arange(len(first), device=start.device) - torch.repeat_interleave(
            repeats.cumsum(0) - repeats, repeats
        )
        yield order[first], order[first + 1 + offset]


def _lengths(piece: torch.Tensor) -> list[int]:
    lengths: list[int] = torch.unique_consecutive(piece, return_counts=True)[1].tolist()
    return lengths
