"""Cutting any number of samples into batches of one fixed shape."""

from collections.abc import Iterator

import torch


def fixed_batches(num: int, size: int) -> Iterator[tuple[torch.Tensor, int]]:
    """Row numbers of each batch, always `size` of them, and how many of them are not padding.

    The last batch repeats the last row. A network then sees one shape only: it is compiled and tuned for
    once, and a sample's arithmetic is the same whether its batch was full or not.
    """
    for start in range(0, num, size):
        yield torch.arange(start, start + size).clamp_(max=num - 1), min(size, num - start)
