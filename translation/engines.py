"""What build-engines builds for a translation method: its networks for one size of image."""

from pathlib import Path

from d2r_fast.engine.errors import UserError
from d2r_fast.export.exportable import Exportable
from d2r_fast.translation.config import SIZED_BY_IMAGE, MethodName, TranslateRecipe
from d2r_fast.translation.method import Unfit
from d2r_fast.translation.methods import open_method
from d2r_fast.translation.opened import method_folder

RENDER_SIDE = 112
"""Pixels of DigiFace's images, for methods whose networks need not know the image's size."""


def open_for_building(
    engines: Path,
    *,
    method: MethodName,
    weights: Path | None,
    size: int | None,
    height: int | None,
    width: int | None,
    w: float | None,
) -> tuple[Path, tuple[Exportable, ...]]:
    """The folder that the engines go to, and the networks, not loaded yet.

    Args:
        engines: engines folder.
        method, weights, size, w: as `translate` takes them.
        height, width: of the images that are to be translated; None: size, or 112.

    Raises:
        UserError: the weights or a setting do not fit, or the method has no network to build.
    """
    if weights is None:
        raise UserError(f"method {method} without weights: give --weights")
    recipe = TranslateRecipe(method=method, size=size, w=w)
    if (height is None) != (width is None):
        raise UserError("height and width go together: give both or neither")
    if height is None and size is None and method in SIZED_BY_IMAGE:
        raise UserError(
            f"method {method} sees images in their own size: give --size, or --height and --width"
        )
    image = (height or size or RENDER_SIDE, width or size or RENDER_SIDE)
    opened = open_method(recipe, weights)
    try:
        opened.check(image)
    except Unfit as error:
        raise UserError(f"method {method} cannot take {image[1]}x{image[0]}: {error.reason}") from None
    networks = opened.networks(image)
    assert networks, "a recipe without a latent to search has networks"
    return method_folder(engines, opened, networks), networks
