"""Small residual networks with weights in closed form: the same values on every machine, version and generator."""

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.backbone import build_backbone
from d2r_fast.recognition.backbone_config import BackboneConfig, Layout
from d2r_fast.recognition.export_onnx import export_recogniser
from d2r_fast.recognition.network_file import LoadedNetwork, load_network

LAYOUTS: tuple[Layout, ...] = ("insightface", "adaface")


def uniform(count: int, key: int) -> NDArray[np.float64]:
    """Values in [-1, 1) by splitmix64's finaliser (Steele et al., OOPSLA 2014), exact integer arithmetic."""
    with np.errstate(over="ignore"):
        x = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(key << 32)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x >> np.uint64(40)).astype(np.float64) / 2**23 - 1


def tensor(*shape: int, key: int = 0) -> Tensor:
    """Values in [-1, 1), float32."""
    return torch.from_numpy(uniform(int(np.prod(shape)), key).reshape(shape)).float()


def fill(network: nn.Module) -> nn.Module:
    """Gives a network weights, slopes and statistics as if it were trained; eval mode."""
    with torch.no_grad():
        for key, (name, value) in enumerate(sorted(network.state_dict().items())):
            if value.is_floating_point():
                value.copy_(_values(name, tensor(*value.shape, key=key)))
    return network.eval()


def _values(name: str, u: Tensor) -> Tensor:
    if u.ndim > 1:
        return u * (3 / u[0].numel()) ** 0.5
    if name.endswith("running_var"):
        return 1 + 0.5 * u
    return 0.75 + 0.25 * u if name.endswith("weight") else 0.1 * u


def mini_config(layout: Layout = "insightface", **values: object) -> BackboneConfig:
    return BackboneConfig(**{"name": "ir_18", "layout": layout, "width": 0.125, "embedding_dim": 16} | values)


def mini_network(layout: Layout = "insightface", **values: object) -> nn.Module:
    return fill(build_backbone(mini_config(layout, **values), seed=0))


@cache
def exported(layout: Layout, base: Path) -> Path:
    """The mini network as ONNX with its sidecar, made once per test run; `base` is tmp_path_factory.getbasetemp()."""
    folder = base / f"exported-{layout}"
    folder.mkdir()
    export_recogniser(LoadedNetwork(mini_network(layout), mini_config(layout), "test"), folder / "model.onnx")
    return folder / "model.onnx"


def copy_exported(layout: Layout, base: Path, out: Path) -> Path:
    """A copy to change: graph and sidecar as `out` and beside it."""
    source = exported(layout, base)
    shutil.copy(source.with_suffix(".json"), out.with_suffix(".json"))
    return Path(shutil.copy(source, out))


def crops(count: int) -> NDArray[np.uint8]:
    """RGB crops whose three colours differ."""
    values = (uniform(count * 112 * 112 * 3, 7) + 1) * 127.5
    return (values.reshape(count, 112, 112, 3) * [1.0, 0.7, 0.3]).astype(np.uint8)


def same(given: nn.Module, wanted: nn.Module) -> bool:
    """Whether two networks hold the same tensors, bit for bit."""
    first, second = given.state_dict(), wanted.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def refused(path: Path, *parts: str) -> None:
    """See that load_network refuses `path` in one line, and that these parts are in it."""
    with pytest.raises(UserError) as caught:
        load_network(path)
    line = str(caught.value)
    assert "\n" not in line
    for part in parts:
        assert part in line, line
