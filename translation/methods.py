"""The methods by name. A method's module is imported when it is first asked for."""

from importlib import import_module
from pathlib import Path

from d2r_fast.translation.config import MethodName, TranslateRecipe
from d2r_fast.translation.method import Method

_HOMES: dict[MethodName, tuple[str, str]] = {
    "codeformer": ("d2r_fast.translation.codeformer.method", "CodeFormer"),
    "vsait": ("d2r_fast.translation.gan.method", "Vsait"),
    "decent": ("d2r_fast.translation.gan.method", "Decent"),
    "unsb": ("d2r_fast.translation.gan.method", "Unsb"),
    "ddim-inversion": ("d2r_fast.translation.diffusion.method", "DdimInversion"),
    "stylegan-inversion": ("d2r_fast.translation.stylegan.method", "StyleganInversion"),
}
"""Module and class. One entry, and one in config.MethodName, adds a method to all that is done by name."""
METHODS: tuple[MethodName, ...] = tuple(_HOMES)


def find_method(name: MethodName) -> type[Method]:
    """The class of a method."""
    module, kind = _HOMES[name]
    found: type[Method] = getattr(import_module(module), kind)
    return found


def open_method(recipe: TranslateRecipe, weights: Path) -> Method:
    """The recipe's method with these weights, recognised and not loaded yet.

    Raises:
        UserError: no such file, another method's, missing or extra tensors, or a setting that does not fit.
    """
    return find_method(recipe.method).open(weights, recipe.filled())
