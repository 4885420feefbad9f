"""The last stage of `generate --restore`: accepted images go through CodeFormer before they are cropped.

Before, because CodeFormer is made for whole faces of its own 512 pixels, in about the frame that Arc2Face draws: a
crop of 112 pixels would be tighter and enlarged 4.6 times, and what is restored there is thrown away when it is made
small again. Accepted ones alone, because a rejected image is not worth its 0.8 TFLOP. The face is where it was, so
the crop is cut by the landmarks found before.
"""

from pathlib import Path
from typing import Self, Unpack

import torch

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.vae import Decoded
from d2r_fast.translation.config import TranslateRecipe
from d2r_fast.translation.images import translate_images
from d2r_fast.translation.method import Method, Run, Size, Unfit
from d2r_fast.translation.methods import open_method
from d2r_fast.translation.opened import Runtime, open_networks


class Restorer:
    """CodeFormer with its networks opened.

    Args:
        method: the weights.
        networks: as translation.opened opens them.
    """

    def __init__(self, method: Method, networks: dict[str, Run]) -> None:
        self._method, self._networks = method, networks

    @classmethod
    def open(cls, weights: Path, *, w: float, size: Size, **runtime: Unpack[Runtime]) -> Self:
        """Opens a checkpoint.

        Args:
            weights: CodeFormer's.
            w: 0 to 1.
            size: height and width of the images in pixels.
            runtime: see `translation.opened.Runtime`.

        Raises:
            UserError: a file that is no CodeFormer, or images that it cannot take.
            RunError: an engine cannot be built.
        """
        method = open_method(TranslateRecipe(method="codeformer", w=w), weights)
        try:
            method.check(size)
        except Unfit as error:
            raise UserError(
                f"restore {weights}: {error.reason}: leave --restore out, or --height and --width"
            ) from None
        return cls(method, open_networks(method, size, **runtime))

    def __call__(self, images: torch.Tensor) -> Decoded:
        """Restores images (N, H, W, 3) uint8 RGB, N >= 1; each is a function of itself alone.

        Raises:
            RunError: a network failed.
        """
        keys = torch.zeros(len(images), 2, dtype=torch.int64)  # of noise, which this method draws none of
        return Decoded(*translate_images(self._method, self._networks, images, keys))
