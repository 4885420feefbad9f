"""Cutting any number of samples into batches of one fixed shape."""

from collections.abc import Iterator

import torch

LARGE_MAPS = (
    "vae", "codeformer-encoder", "codeformer-generator", "codeformer-encoder-w0", "codeformer-generator-w0",
    "ldm-encoder", "ldm-decoder", "stylegan-generator",
)  # fmt: skip
"""Networks whose maps are 64 times as large as the UNet's: 8 images fill a GPU."""


def fixed_batches(num: int, size: int) -> Iterator[tuple[torch.Tensor, int]]:
    """Row numbers of each batch, always `size` of them, and how many of them are not padding.

    The last batch repeats the last row. A network then sees one shape only: it is compiled and tuned for
    once, and a sample's arithmetic is the same whether its batch was full or not.
    """
    for start in range(0, num, size):
        yield torch.arange(start, start + size).clamp_(max=num - 1), min(size, num - start)


def rows_of(network: str, batch_size: int) -> int:
    """Rows of one run of a network, for so many of the UNet: the same --batch-size, the same engines."""
    most = {"encoder": 8, "arcface": 64} | dict.fromkeys(LARGE_MAPS, 8)
    return min(batch_size, most.get(network, batch_size))
