"""Small datasets and networks for the quality command, and what it says of them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from d2r_fast.engine.samples import draw_samples
from d2r_fast.recognition.quality.config import QualityConfig
from d2r_fast.recognition.quality.quality import run_quality

IDENTITIES, IMAGES = 8, 5
"""Of the drawn people."""
POOL = helper.make_node("AveragePool", ["data"], ["small"], kernel_shape=[14, 14], strides=[14, 14])
"""Crops to the colours of an 8x8 thumbnail."""


def measure(dataset: Path, recogniser: Path, out: Path, **settings: Any) -> dict[str, Any]:
    """quality.json of a dataset."""
    config = QualityConfig(dataset=dataset, recogniser=recogniser, out=out, device="cpu", **settings)
    assert run_quality(config) == 0
    document: dict[str, Any] = json.loads((out / "quality.json").read_text())
    return document


def draw_people(folder: Path) -> Path:
    draw_samples(folder, num_identities=IDENTITIES, images_per_identity=IMAGES)
    return folder


def damage_two(drawn: Path, folder: Path) -> Path:
    """A copy in which 3/1.png is no image and 5/2.png half of one."""
    shutil.copytree(drawn, folder)
    (folder / "3" / "1.png").write_bytes(b"no image")
    whole = (folder / "5" / "2.png").read_bytes()
    (folder / "5" / "2.png").write_bytes(whole[: len(whole) // 2])
    return folder


def write_thumbnail(path: Path) -> Path:
    """A fixed recogniser of a kind: the colours of an 8x8 thumbnail."""
    return write_graph(path, [POOL, helper.make_node("Flatten", ["small"], ["embedding"])], {}, width=192)


def write_graph(path: Path, nodes: list[Any], weights: dict[str, np.ndarray], *, width: int) -> Path:
    """An ONNX recogniser from data (N,3,112,112) to embedding (N,width)."""
    graph = helper.make_graph(
        nodes, "made", [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", width])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path
