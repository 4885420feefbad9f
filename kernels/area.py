"""Area averages of rectangles of uint8 images through exact integer sums (summed-area tables).

Output pixel i of n averages the input pixels from floor(i * length / n) to ceil((i + 1) * length / n), as
`torch.nn.functional.adaptive_avg_pool2d` and so `interpolate(mode="area")` do. The sums are integers, hence
the same on every device and whatever else is in the batch, and a crop costs its output's size alone.

Channels stand apart within a row, so that every sum and every look-up runs along memory.
"""

import torch

AT_ONCE, STRIP = 2, 16
"""Images, and rows of each, that are summed together."""


def integrate(images: torch.Tensor) -> torch.Tensor:
    """Sums (N, H+1, 3, W+1) over all pixels above and to the left of images uint8 (N, H, W, 3)."""
    num, height, width, channels = images.shape
    # The largest sum is 255 H W: beyond 8.4 million pixels it needs 64 bits.
    dtype = torch.int32 if 255 * height * width < 2**31 else torch.int64
    sums = torch.empty(num, height + 1, channels, width + 1, dtype=dtype, device=images.device)
    sums[:, 0] = 0
    sums[..., 0] = 0
    # A few at a time: intermediate results stay in a CPU's cache.
    for some, out in zip(torch.split(images, AT_ONCE), torch.split(sums, AT_ONCE), strict=True):
        torch.cumsum(some.transpose(2, 3).contiguous(), 3, dtype=dtype, out=out[:, 1:, :, 1:])
        if images.is_cuda:
            torch.cumsum(out, 1, dtype=dtype, out=out)
            continue
        _add_down(out[:, 1:].flatten(2))
    return sums


def _add_down(rows: torch.Tensor) -> None:
    """Sums rows (N, H, W) down their columns, in place.

    cumsum walks down one column after another, ten times as slow as adding whole rows; and adding them one by one
    takes a call each, for which threads wait in turn. So strips of rows are summed side by side, and then each gets
    the last row of the one before.
    """
    num, height, width = rows.shape
    whole = height - height % STRIP
    strips = rows[:, :whole].view(num, whole // STRIP, STRIP, width)
    for row in range(1, strips.shape[2]):
        strips[:, :, row] += strips[:, :, row - 1]
    for strip in range(1, strips.shape[1]):
        strips[:, strip] += strips[:, strip - 1, -1:]
    for row in range(max(whole, 1), height):
        rows[:, row] += rows[:, row - 1]


def resize(sums: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The images behind `sums` (N, H+1, 3, W+1) averaged to float32 (N, 3, h, w) in [0, 255], channels last."""
    num, height, channels, width = sums.shape
    top, bottom = _edges(torch.tensor(height - 1, device=sums.device), size[0])
    left, right = _edges(torch.tensor(width - 1, device=sums.device), size[1])
    rows = sums.index_select(1, bottom).sub_(sums.index_select(1, top))
    shape = (num, size[0], channels, size[1])
    total = rows.gather(3, right.expand(shape)).sub_(rows.gather(3, left.expand(shape)))
    return _average(total, (bottom - top)[:, None, None] * (right - left))


def crop(sums: torch.Tensor, images: torch.Tensor, boxes: torch.Tensor, size: int) -> torch.Tensor:
    """Boxes averaged to float32 (K, 3, size, size) in [0, 255], channels last.

    images (K,) int64 says which image of `sums` (N, H+1, 3, W+1) a box is of; boxes (K, 4) int64 x0, y0, x1,
    y1, the last exclusive, not empty and inside the image.
    """
    height, channels, width = sums.shape[1:]
    left, right = _edges(boxes[:, 2] - boxes[:, 0], size)
    top, bottom = _edges(boxes[:, 3] - boxes[:, 1], size)
    area = (bottom - top)[:, :, None, None] * (right - left)[:, None, None, :]
    channel = torch.arange(channels, device=boxes.device)[:, None] * width
    rows = (images[:, None] * height + boxes[:, 1:2] + torch.cat([bottom, top], 1)) * (channels * width)
    columns = boxes[:, 0:1] + torch.cat([right, left], 1)
    corners = rows[:, :, None, None] + channel + columns[:, None, None, :]
    # gather, since take and index look at every index twice.
    found = sums.view(-1).gather(0, corners.flatten()).view(corners.shape)
    strips = found[:, :size] - found[:, size:]
    return _average(strips[..., :size] - strips[..., size:], area)


def _average(total: torch.Tensor, area: torch.Tensor) -> torch.Tensor:
    """Sums (N, h, 3, w) over areas (..., h, 1, w) as averages (N, 3, h, w), channels last in memory."""
    averages = total.float().div_(area)
    # Channel by channel: a permuting copy walks in runs of three.
    return torch.stack(averages.unbind(2), -1).permute(0, 3, 1, 2)


def _edges(length: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First and one-past-last input pixel of each of `size` output pixels: (..., size) each, int64."""
    position = torch.arange(size, device=length.device)
    length = length[..., None]
    return position * length // size, -(-(position + 1) * length // size)
