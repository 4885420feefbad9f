"""Checkpoints of random weights in every method's published layout, to try commands, formats and speed with."""

from importlib import import_module
from pathlib import Path
from typing import Literal

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import make_folder
from d2r_fast.translation.config import MethodName

FILES: dict[MethodName, str] = {
    "codeformer": "codeformer.pth",
    "vsait": "vsait.ckpt",
    "decent": "decent_net_G.pth",
    "unsb": "unsb_net_G.pth",
    "ddim-inversion": "ldm.ckpt",
    "stylegan-inversion": "e4e.pt",
}
"""What a method's file is called in a folder of ours."""
_HOMES: dict[MethodName, str] = {
    "codeformer": "codeformer", "vsait": "gan", "decent": "gan", "unsb": "gan", "ddim-inversion": "diffusion",
    "stylegan-inversion": "stylegan",
}  # fmt: skip


def write_random_weights(
    method: MethodName, folder: Path, *, size: Literal["mini", "full"], seed: int = 0
) -> Path:
    """Writes a checkpoint into a folder, which is made if need be, and returns where it is.

    Args:
        method: whose layout.
        folder: where to; the file's name is the method's of FILES.
        size: mini: networks of some MB; full: the published shapes.
        seed: same seed, same bytes.

    Raises:
        UserError: the file is there already, or the folder may not be written to.
        RunError: the disk is full.
    """
    make_folder(folder)
    path = folder / FILES[method]
    if path.exists():
        raise UserError(f"{path} is there already: give another folder, or delete it")
    family = import_module(f"d2r_fast.translation.{_HOMES[method]}.random_weights")
    named = {"method": method} if _HOMES[method] == "gan" else {}
    family.write_random_weights(path, size=size, seed=seed, **named)
    return path
