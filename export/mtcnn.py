"""MTCNN's P-, R- and O-Net as they are exported; P-Net takes images of any size."""

from functools import partial

import torch
from torch import Tensor, nn

from d2r_fast.engine.backends.network import Dim, Port
from d2r_fast.engine.models.layout import MTCNN_FILES, package_file
from d2r_fast.engine.mtcnn import CELL
from d2r_fast.engine.mtcnn_networks import ONET, PNET, RNET, load_networks
from d2r_fast.export.exportable import TorchExportable
from d2r_fast.export.graph import BATCH

LAYOUTS = (PNET, RNET, ONET)
CROP_SIDES = {"rnet": 24, "onet": 48}
MAX_SIDE = 8192


def open_mtcnn(name: str) -> TorchExportable:
    """One of the three, from the package that carries their weights."""
    index = [layout.name for layout in LAYOUTS].index(name)
    file = MTCNN_FILES[index]
    side = CROP_SIDES.get(name)
    taken: tuple[Dim, ...] = ("height", "width") if side is None else (side, side)
    given: tuple[Dim, ...] = ("out_height", "out_width") if side is None else (1, 1)
    dynamic = {0: BATCH}
    if side is None:
        dynamic |= {2: torch.export.Dim("height", min=CELL, max=MAX_SIDE)}
        dynamic |= {3: torch.export.Dim("width", min=CELL, max=MAX_SIDE)}
    return TorchExportable(
        name=name,
        inputs=(Port("crops", torch.float32, ("batch", 3, *taken)),),
        outputs=(Port("values", torch.float32, ("batch", sum(LAYOUTS[index].heads), *given)),),
        files={file: package_file(file)},
        settings={},
        draws={"crops": _pixels},
        make=partial(_load, index),
        dynamic_axes={"crops": dynamic},
    )


def _load(index: int) -> nn.Module:
    return load_networks()[index]


def _pixels(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(shape, generator=generator) - 1
