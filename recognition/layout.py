"""Telling which residual network a table of tensors is, from their names and shapes alone.

InsightFace's and AdaFace's IResNets hold the same blocks under other names, with other shortcuts, so that neither
reads the other's weights. Depth follows from the number of blocks and width from the shapes.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from torch import Tensor

from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.backbone_config import WIDTHS, BackboneConfig, Layout, NetworkName
from d2r_fast.recognition.iresnet import DEPTHS

Tensors = Mapping[str, Tensor]
ANCHORS: dict[Layout, str] = {"insightface": "layer1.0.prelu.weight", "adaface": "input_layer.0.weight"}
"""A tensor that every network of a layout has, and no other network known here."""
PUBLISHERS: dict[Layout, str] = {"insightface": "InsightFace's layout", "adaface": "AdaFace's layout"}
OTHERS = {
    r"res_layer\.se_block\.": "AdaFace's ir_se network, with squeeze and excitation",
    r"res_layer\.8\.": "AdaFace's ir_152 or ir_200, with bottleneck blocks",
    r"conv_sep\.|features\.layers\.": "a MobileFaceNet",
    r"blocks\.0\.attn\.qkv\.": "a vision transformer",
    r"repeat_1\.0\.branch0\.": "FaceNet's Inception-ResNet",
    r"down_blocks\.0\.|decoder\.up_blocks\.": "a diffusion network",
    r"layer1\.0\.conv1\.weight$": "a ResNet of torchvision's layout",
    r"^(head\.)?(kernel|weight)$": "the head of a margin loss alone",
}
_ONLY = "this reads IResNets (ir_18, ir_34, ir_50, ir_100) of InsightFace's and of AdaFace's layout"


def find_network(content: Mapping[Any, Any], *, name: str) -> tuple[Layout, dict[str, Tensor]]:
    """The one residual network of a checkpoint: its layout, and its tensors by its own key names.

    A checkpoint is a table of tensors or holds such tables (Lightning's `state_dict`, InsightFace's
    `state_dict_backbone`); what stands before the names (`model.`, `module.`) and other networks' tensors go.

    Raises:
        UserError: none, several, or another kind; `name` is the file's.
    """
    tables = [_tensors(content), *(_tensors(value) for value in content.values() if isinstance(value, dict))]
    found = [
        (layout, table, prefix)
        for table in tables
        for layout, anchor in ANCHORS.items()
        for prefix in _prefixes(table, anchor)
    ]
    known = {key for table in tables for key in table}
    if len(found) > 1:
        places = ", ".join(f"{PUBLISHERS[layout]} under {prefix!r}" for layout, _, prefix in found)
        raise UserError(f"{name} holds {len(found)} networks ({places}): give a file with one")
    other = next(
        (what for pattern, what in OTHERS.items() if any(re.search(pattern, key) for key in known)), ""
    )
    if not found or (other and other.startswith("AdaFace's")):
        what = other or (f"unknown, with tensors such as {min(known)}" if known else "no tensors")
        raise UserError(f"{name} is {what}: {_ONLY}")
    layout, table, prefix = found[0]
    return layout, {key.removeprefix(prefix): value for key, value in table.items() if key.startswith(prefix)}


def _tensors(table: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {key: v for key, v in table.items() if isinstance(key, str) and isinstance(v, Tensor)}


def _prefixes(table: Tensors, anchor: str) -> Iterator[str]:
    for key in table:
        prefix = key.removesuffix(anchor)
        if prefix != key and (not prefix or prefix.endswith(".")):
            yield prefix


def config_of(layout: Layout, tensors: Tensors, *, name: str) -> BackboneConfig:
    """The network that these tensors belong to, dropout and colours as its publisher has them.

    Raises:
        UserError: no depth or width that there is.
    """
    try:
        num_blocks, widths, embedding_dim = _READERS[layout](tensors)
    except (KeyError, IndexError) as error:
        raise UserError(
            f"{name} is of {PUBLISHERS[layout]} but lacks {error.args[0]}: fetch it again"
        ) from None
    found = next((known for known in get_args(NetworkName) if _blocks(known) == num_blocks), None)
    if found is None:
        known = ", ".join(f"{known} {_blocks(known)}" for known in get_args(NetworkName))
        raise UserError(f"{name} is of {PUBLISHERS[layout]} with {num_blocks} blocks: known are {known}")
    width = width_of(widths)
    if width is None:
        raise UserError(
            f"{name} has stages of {widths} channels: wanted are {WIDTHS} or one share of all four"
        )
    return BackboneConfig(name=found, layout=layout, width=width, embedding_dim=embedding_dim)


def _blocks(name: NetworkName) -> tuple[int, int, int, int]:
    return DEPTHS[BackboneConfig(name=name).depth]


def width_of(widths: tuple[int, ...]) -> float | None:
    """The share of full width that rounds to these channels, the shortest such number; None where there is none."""
    low = max((channels - 0.5) / full for channels, full in zip(widths, WIDTHS, strict=True))
    high = min((channels + 0.5) / full for channels, full in zip(widths, WIDTHS, strict=True))
    for digits in range(5):
        share = round((low + high) / 2, digits)
        if 0 < share <= 1 and tuple(round(full * share) for full in WIDTHS) == widths:
            return share
    return None


Shape = tuple[tuple[int, ...], tuple[int, ...], int]
"""Blocks of the stages, channels of the stages, length of an embedding."""


def _insightface(tensors: Tensors) -> Shape:
    stages = range(1, 5)
    num_blocks = tuple(_count(tensors, rf"layer{stage}\.(\d+)\.") for stage in stages)
    widths = tuple(_shape(tensors, f"layer{stage}.0.conv1.weight")[0] for stage in stages)
    return num_blocks, widths, _shape(tensors, "fc.weight")[0]


def _adaface(tensors: Tensors) -> Shape:
    """AdaFace numbers all blocks in a row: their sum tells the depth, and that where the stages begin."""
    total = _count(tensors, r"body\.(\d+)\.")
    num_blocks = next((blocks for blocks in DEPTHS.values() if sum(blocks) == total), (total,))
    starts = [sum(num_blocks[:stage]) for stage in range(len(num_blocks))]
    widths = tuple(_shape(tensors, f"body.{start}.res_layer.1.weight")[0] for start in starts)
    return num_blocks, widths, _shape(tensors, "output_layer.3.weight")[0]


_READERS = {"insightface": _insightface, "adaface": _adaface}


def _count(tensors: Tensors, pattern: str) -> int:
    return len({match[1] for key in tensors if (match := re.match(pattern, key))})


def _shape(tensors: Tensors, key: str) -> tuple[int, ...]:
    shape = tuple(tensors[key].shape)
    if not shape:
        raise KeyError(f"a shape of {key}")
    return shape
