"""Area averages of rectangles of uint8 images through exact integer sums (summed-area tables).

Output pixel i of n averages the input pixels from floor(i * length / n) to ceil((i + 1) * length / n), as
`torch.nn.functional.adaptive_avg_pool2d` and so `interpolate(mode="area")` do. The sums are integers, hence
the same on every device and whatever else is in the batch, and a crop costs its output's size alone.
"""

import torch
import torch.nn.functional as F


def integrate(images: torch.Tensor) -> torch.Tensor:
    """Sums (N, H+1, W+1, 3) over all pixels above and to the left of images uint8 (N, H, W, 3)."""
    height, width = images.shape[1:3]
    # The largest sum is 255 H W: beyond 8.4 million pixels it needs 64 bits.
    dtype = torch.int32 if 255 * height * width < 2**31 else torch.int64
    sums = images.cumsum(2, dtype=dtype).cumsum(1, dtype=dtype)
    return F.pad(sums, (0, 0, 1, 0, 1, 0))


def resize(sums: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The images behind `sums` (N, H+1, W+1, 3) averaged to float32 (N, h, w, 3) in [0, 255]."""
    height, width = sums.shape[1] - 1, sums.shape[2] - 1
    top, bottom = _edges(torch.tensor(height, device=sums.device), size[0])
    left, right = _edges(torch.tensor(width, device=sums.device), size[1])
    rows = sums.index_select(1, bottom) - sums.index_select(1, top)
    total = rows.index_select(2, right) - rows.index_select(2, left)
    return total.float() / (bottom - top)[:, None, None] / (right - left)[:, None]


def crop(sums: torch.Tensor, images: torch.Tensor, boxes: torch.Tensor, size: int) -> torch.Tensor:
    """Boxes averaged to float32 (K, size, size, 3) in [0, 255].

    images (K,) int64 says which image of `sums` (N, H+1, W+1, 3) a box is of; boxes (K, 4) int64 x0, y0, x1,
    y1, the last exclusive, not empty and inside the image.
    """
    height, width = sums.shape[1:3]
    left, right = _edges(boxes[:, 2] - boxes[:, 0], size)
    top, bottom = _edges(boxes[:, 3] - boxes[:, 1], size)
    area = (bottom - top)[:, :, None, None], (right - left)[:, None, :, None]
    row = images[:, None] * height + boxes[:, 1:2]
    above, below = ((row + y)[:, :, None] * width for y in (top, bottom))
    before, behind = ((boxes[:, 0:1] + x)[:, None, :] for x in (left, right))
    flat = sums.reshape(-1, 3)

    def at(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return flat.index_select(0, (y + x).flatten())

    total = at(below, behind) - at(below, before) - at(above, behind) + at(above, before)
    return total.view(len(boxes), size, size, 3).float() / area[0] / area[1]


def _edges(length: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First and one-past-last input pixel of each of `size` output pixels: (..., size) each, int64."""
    position = torch.arange(size, device=length.device)
    length = length[..., None]
    return position * length // size, -(-(position + 1) * length // size)
