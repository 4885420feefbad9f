"""Affine warp of uint8 images: exact bilinear interpolation, black outside."""

import torch

MAX_PIXELS = 1 << 20
"""Output pixels interpolated at once, which bounds memory: about 100 bytes each."""


def warp(images: torch.Tensor, matrices: torch.Tensor, size: int) -> torch.Tensor:
    """Crops uint8 (N, size, size, 3) of images uint8 (N, H, W, 3).

    matrices (N, 2, 3) take (x, y, 1) of an image to (x, y) of its crop, with integer coordinates at pixel
    centres, the convention of OpenCV's warpAffine. A tap outside the image counts as 0, so edges fade over
    one pixel (warpAffine's BORDER_CONSTANT), and results round to the nearest integer. OpenCV rounds
    positions to 1/32 pixel; here they are exact up to float32.
    """
    per_call = max(1, MAX_PIXELS // (size * size))
    parts = zip(torch.split(images, per_call), torch.split(matrices, per_call), strict=True)
    crops = [_sample(part, _positions(matrix, size)) for part, matrix in parts]
    return torch.cat(crops)


def invert(matrices: torch.Tensor) -> torch.Tensor:
    """The matrices float64 (N, 2, 3) of the inverse maps, from crop to image."""
    matrices = matrices.double()
    a, b, c, d = (matrices[:, i, j] for i in (0, 1) for j in (0, 1))
    adjugate = torch.stack([torch.stack([d, -b], -1), torch.stack([-c, a], -1)], -2)
    inverse = adjugate / (a * d - b * c)[:, None, None]
    shift = -(inverse * matrices[:, None, :, 2]).sum(-1)
    return torch.cat([inverse, shift[:, :, None]], -1)


def _positions(matrices: torch.Tensor, size: int) -> torch.Tensor:
    """Where each pixel of the crop lies in the image: (N, size, size, 2) float64 x, y."""
    inverse = invert(matrices)
    grid = torch.arange(size, dtype=torch.float64, device=matrices.device)
    across = inverse[:, None, :, 0] * grid[:, None]
    down = inverse[:, None, :, 1] * grid[:, None]
    return down[:, :, None] + across[:, None, :] + inverse[:, None, None, :, 2]


def _sample(images: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Bilinear values uint8 (N, h, w, 3) of images uint8 (N, H, W, 3) at positions (N, h, w, 2)."""
    num, height, width = images.shape[:3]
    flat = images.reshape(-1, 3)
    base = torch.arange(num, device=images.device).view(-1, 1, 1) * (height * width)
    # Far outside all is black; clamping first keeps the integers in range.
    limit = torch.tensor([width, height], dtype=torch.float64, device=images.device)
    positions = torch.minimum(positions.clamp(min=-2), limit + 1)
    corner = positions.floor()
    far = (positions - corner).float()
    x0, y0 = corner.long().unbind(-1)
    value = torch.zeros(*positions.shape[:3], 3, dtype=torch.float32, device=images.device)
    for dy in (0, 1):
        for dx in (0, 1):
            x, y = x0 + dx, y0 + dy
            weight = (far[..., 0] if dx else 1 - far[..., 0]) * (far[..., 1] if dy else 1 - far[..., 1])
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            index = base + y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
            tap = flat.index_select(0, index.flatten()).view(*index.shape, 3)
            value += tap * (weight * inside)[..., None]
    return value.round_().to(torch.uint8)
