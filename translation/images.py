"""A batch of images through a method: pixels in, pixels of the same size out."""

from collections.abc import Mapping

import torch
from torch import Tensor

from d2r_fast.translation.method import Method, Run


@torch.no_grad()
def translate_images(
    method: Method, networks: Mapping[str, Run], images: Tensor, keys: Tensor
) -> tuple[Tensor, Tensor]:
    """Translates images of one size.

    Args:
        method: which has found that it can take this size.
        networks: its networks for this size, opened.
        images: (B, H, W, 3) uint8 RGB, on the networks' device.
        keys: (B, 2) int64 on the CPU: the identity's key and the image's number.

    Returns:
        (B, H, W, 3) uint8 RGB, and which images came out finite, (B,) bool; the pixels of others mean nothing.

    Raises:
        RunError: a network failed.
    """
    outputs = method.run(networks, method.prepare(images), keys)
    finite = outputs.isfinite().flatten(1).all(dim=1)
    usable = torch.where(finite[:, None, None, None], outputs, 0.0)
    return method.finish(usable, (images.shape[1], images.shape[2])), finite
