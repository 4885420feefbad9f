"""Triangles to pixels, a batch of images at once, in plain torch on any device.

Scan lines rather than windows: every triangle is cut into the rows it crosses, and every row into the pixels
between its two edges, so that only covered pixels are touched. A row ends where the shared edge of two triangles
says, computed from the edge's upper end for both, so neighbours neither overlap nor leave a gap. The nearest
triangle of a pixel is the least of its keys, depth in the high word and the triangle's number in the low one: a
minimum has no order, so the picture does not depend on one either.
"""

from dataclasses import dataclass

import torch

_FAR = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Raster:
    """What is seen at the middle of each pixel."""

    values: torch.Tensor
    """(N, H, W, C) float32, 0 where there is no triangle."""
    triangle: torch.Tensor
    """(N, H, W) int64, the triangle's number, -1 where there is none."""


def rasterise(
    points: torch.Tensor, triangles: torch.Tensor, attributes: torch.Tensor, *, height: int, width: int
) -> Raster:
    """Draw meshes that share their triangles.

    A triangle shows where its corners run counter-clockwise as seen in the picture. Attributes and depth are
    interpolated in space (perspective-correct). Triangles with a corner behind the viewer are left out.

    Args:
        points: (N, V, 3) float32: x to the right and y down in pixels, the picture's corner at 0 and the middle
            of its first pixel at 0.5; and nearness, 1 / depth, larger for what is nearer.
        triangles: (T, 3) int64.
        attributes: (N, V, C) float32.
    """
    num_images, num_vertices = points.shape[:2]
    offsets = torch.arange(num_images, device=points.device) * num_vertices
    flat = points.reshape(-1, 3)
    pixel, key = _scan(flat, triangles, offsets, height, width)
    nearest = torch.full((num_images * height * width,), _FAR, dtype=torch.int64, device=points.device)
    nearest.scatter_reduce_(0, pixel, key, "amin")
    covered = (nearest != _FAR).nonzero().squeeze(1)
    number = take(nearest, covered) & 0xFFFFFFFF
    corners = take(triangles, number) + take(offsets, covered // (height * width))[:, None]
    weights = _weights(flat, corners, covered % width + 0.5, covered // width % height + 0.5)
    table = attributes.reshape(-1, attributes.shape[-1])
    values = table.new_zeros(num_images * height * width, table.shape[1])
    values[covered] = sum(take(table, corners[:, i]) * weights[i][:, None] for i in range(3))
    triangle = torch.full_like(nearest, -1)
    triangle[covered] = number
    return Raster(values.view(num_images, height, width, -1), triangle.view(num_images, height, width))


def _scan(
    flat: torch.Tensor, triangles: torch.Tensor, offsets: torch.Tensor, height: int, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixel and key of every pixel of every triangle that faces the viewer, hidden ones too."""
    image, number, rows, corners = _facing(flat, triangles, offsets, height, width)
    plane, edges = _plane(*corners), _edges(*corners[:6])
    owner, step = _repeat(rows[1] - rows[0])
    row = take(rows[0], owner) + step
    left, right = _span([take(values, owner) for values in edges], row + 0.5)
    start = _ceil(left, width)
    base = _nearness([take(values, owner) for values in plane], start, row)
    line = (take(image, owner) * height + row) * width + start
    span, step = _repeat(_ceil(right, width) - start)
    owner = take(owner, span)
    near = take(base, span) + take(plane[0], owner) * step
    near = torch.minimum(torch.maximum(near, take(plane[5], owner)), take(plane[6], owner))
    key = (0x7FFFFFFF - near.view(torch.int32)).to(torch.int64) << 32 | take(number, owner)
    return take(line, span) + step, key


def _facing(
    flat: torch.Tensor, triangles: torch.Tensor, offsets: torch.Tensor, height: int, width: int
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor], list[torch.Tensor]]:
    """The triangles that face the viewer and cross a row of the picture: image, number, first row and the one after
    the last, and x, y, nearness of the three corners as xa, xb, xc, ya, yb, yc, qa, qb, qc; (K,) each."""
    rows = (triangles.T[:, None] + offsets[:, None]).reshape(3, -1)
    x, y, q = flat.T.contiguous()
    (xa, xb, xc), (ya, yb, yc) = ([take(values, index) for index in rows] for values in (x, y))
    first = _ceil(torch.minimum(torch.minimum(ya, yb), yc), height)
    last = _ceil(torch.maximum(torch.maximum(ya, yb), yc), height)
    keep = ((xb - xa) * (yc - ya) < (xc - xa) * (yb - ya)) & (last > first)
    keep &= torch.maximum(torch.maximum(xa, xb), xc) > 0
    keep &= torch.minimum(torch.minimum(xa, xb), xc) < width
    kept = keep.nonzero().squeeze(1)
    near = [take(q, take(index, kept)) for index in rows]
    ahead = (torch.minimum(torch.minimum(*near[:2]), near[2]) > 0).nonzero().squeeze(1)
    kept = kept[ahead]
    corners = [take(values, kept) for values in (xa, xb, xc, ya, yb, yc)]
    corners += [take(values, ahead) for values in near]
    image = torch.div(kept, len(triangles), rounding_mode="floor")
    return image, kept - image * len(triangles), (take(first, kept), take(last, kept)), corners


def take(table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Rows of the table; on a CPU half the time of indexing with brackets."""
    return table.index_select(0, rows)


def _ceil(position: torch.Tensor, limit: int) -> torch.Tensor:
    """The first pixel whose middle is at `position` or beyond, 0 to limit."""
    return (position - 0.5).ceil().clamp(0, limit).to(torch.int64)


def _repeat(counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For counts (2, 0, 3): owners 0 0 2 2 2 and steps 0 1 0 1 2."""
    counts = counts.clamp_min(0)
    owner = torch.repeat_interleave(counts)
    before = counts.cumsum(0) - counts
    return owner, torch.arange(len(owner), device=counts.device) - take(before, owner)


def _plane(*corners: torch.Tensor) -> list[torch.Tensor]:
    """Nearness as a plane over the picture: slopes along x and y; x, y and nearness of corner a; limits."""
    xa, xb, xc, ya, yb, yc, qa, qb, qc = corners
    area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
    along_x = ((qb - qa) * (yc - ya) - (qc - qa) * (yb - ya)) / area
    along_y = ((qc - qa) * (xb - xa) - (qb - qa) * (xc - xa)) / area
    low, high = torch.minimum(torch.minimum(qa, qb), qc), torch.maximum(torch.maximum(qa, qb), qc)
    return [along_x, along_y, xa, ya, qa, low, high]


def _nearness(plane: list[torch.Tensor], column: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    along_x, along_y, x, y, near = plane[:5]
    return near + along_x * (column + 0.5 - x) + along_y * (row + 0.5 - y)


def _edges(
    xa: torch.Tensor, xb: torch.Tensor, xc: torch.Tensor, ya: torch.Tensor, yb: torch.Tensor, yc: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Corners sorted by y as top, middle, bottom, with the slopes dx / dy of the edges between them."""
    xa, ya, xb, yb = _sorted(xa, ya, xb, yb)
    xb, yb, xc, yc = _sorted(xb, yb, xc, yc)
    xa, ya, xb, yb = _sorted(xa, ya, xb, yb)
    whole, upper, lower = (xc - xa) / (yc - ya), (xb - xa) / (yb - ya), (xc - xb) / (yc - yb)
    return xa, ya, xb, yb, whole, upper, lower


def _sorted(
    x: torch.Tensor, y: torch.Tensor, other_x: torch.Tensor, other_y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    swap = y > other_y
    return (
        torch.where(swap, other_x, x), torch.minimum(y, other_y),
        torch.where(swap, x, other_x), torch.maximum(y, other_y),
    )  # fmt: skip


def _span(edges: list[torch.Tensor], y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the row at height `y` enters and leaves its triangle. The edge of a flat top or bottom, whose slope is
    infinite, is never the one taken."""
    top_x, top_y, middle_x, middle_y, whole, upper, lower = edges
    long = top_x + (y - top_y) * whole
    short = torch.where(y < middle_y, top_x + (y - top_y) * upper, middle_x + (y - middle_y) * lower)
    return torch.minimum(long, short), torch.maximum(long, short)


def _weights(
    flat: torch.Tensor, corners: torch.Tensor, x: torch.Tensor, y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Perspective-correct barycentric weights of points in the corners' triangles, three of (P,)."""
    (xa, ya, qa), (xb, yb, qb), (xc, yc, qc) = (take(flat, corners[:, i]).unbind(1) for i in range(3))
    xa, xb, xc, ya, yb, yc = xa - x, xb - x, xc - x, ya - y, yb - y, yc - y
    # The signs are those of a triangle that faces the viewer; rounding at an edge must not turn one, nor make all
    # three of a sliver 0.
    a = (xc * yb - xb * yc).clamp_min(1e-12) * qa
    b = (xa * yc - xc * ya).clamp_min(1e-12) * qb
    c = (xb * ya - xa * yb).clamp_min(1e-12) * qc
    total = a + b + c
    return a / total, b / total, c / total
