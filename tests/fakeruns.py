"""Training runs of seconds: their settings, their command line, what came out of them."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from d2r_fast.recognition.training.config import TrainConfig

SMALL: dict[str, Any] = {
    "backbone": "ir_18", "width": 0.0625, "embedding_dim": 16, "epochs": 2, "batch_size": 8, "learning_rate": 0.02,
    "device": "cpu", "onnx": False,
}  # fmt: skip


def config(data: Path, out: Path, **values: Any) -> TrainConfig:
    return TrainConfig(**SMALL | {"data": data, "out": out} | values)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def same_weights(first: Path, second: Path) -> bool:
    one, two = weights(first), weights(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def flags(data: Path, out: Path, **values: Any) -> list[str]:
    given = SMALL | {"data": data, "out": out} | values
    onnx = "--onnx" if given.pop("onnx") else "--no-onnx"
    pairs = ((f"--{name.replace('_', '-')}", str(value)) for name, value in given.items())
    return ["train", onnx, *(part for pair in pairs for part in pair)]
