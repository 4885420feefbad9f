"""Tracing: attention in every form, batches that stay dynamic, graphs that name no machine."""

import math
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2r_fast.engine.backends.network import Port
from d2r_fast.engine.errors import UserError
from d2r_fast.export.exportable import TorchExportable
from d2r_fast.export.graph import BATCH, trace
from d2r_fast.export.onnx_file import write_onnx

from .exportmodels import relative_l2, run_onnx

CAUSAL = torch.ones(7, 7, dtype=torch.bool).tril()
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scale": {"scale": 0.3},
    "causal": {"is_causal": True},
    "bool mask": {"attn_mask": CAUSAL},
    "float mask": {"attn_mask": torch.zeros(7, 7).masked_fill(~CAUSAL, -math.inf)},
}


class Attention(nn.Module):
    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.options = options

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, **self.options)


@pytest.mark.parametrize("form", FORMS)
def test_attention_is_torchs(form: str, tmp_path: Path) -> None:
    network = Attention(FORMS[form]).eval()
    generator = torch.Generator().manual_seed(0)
    inputs = {name: 2 * torch.randn(3, 2, 7, 8, generator=generator) for name in ("query", "key", "value")}
    model = trace(network, inputs, outputs=["y"], dynamic_axes={name: {0: BATCH} for name in inputs})
    count = sum(node.op_type in ("Shape", "Reshape") for node in model.graph)
    assert count == 0
    write_onnx(model, tmp_path / "net.onnx")
    assert relative_l2(run_onnx(tmp_path / "net.onnx", inputs)["y"], network(*inputs.values())) < 1e-6


def test_a_network_that_cannot_be_traced_is_refused_in_one_line() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    port = Port("x", torch.float32, ("batch", 3))
    network = TorchExportable(
        name="unet", inputs=(port,), outputs=(port,), files={"weights": Path("models/weights")}, settings={},
        draws={"x": lambda shape, generator: torch.randn(shape, generator=generator)}, make=Branching,
        dynamic_axes={"x": {0: BATCH}},
    )  # fmt: skip
    with pytest.raises(UserError, match="unet of models cannot be written as ONNX") as caught:
        network.graph()
    assert "\n" not in str(caught.value)


def test_a_batch_that_tracing_decides_is_noticed() -> None:
    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * len(x)

    with pytest.raises(AssertionError, match=r"tracing decided axes \[0\] of x"):
        trace(Counting().eval(), {"x": torch.zeros(2, 3)}, outputs=["y"], dynamic_axes={"x": {0: BATCH}})


def test_batches_beyond_the_traced_bound_run(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Upsample(scale_factor=2.0)).eval()
    model = trace(network, {"x": torch.zeros(2, 2, 5, 5)}, outputs=["y"], dynamic_axes={"x": {0: BATCH}})
    write_onnx(model, tmp_path / "net.onnx")
    x = torch.randn(100, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert relative_l2(run_onnx(tmp_path / "net.onnx", {"x": x})["y"], network(x)) < 1e-6


def test_no_batch_norm_is_left_where_one_can_be_folded(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.PReLU(4),
            nn.Flatten(),
            nn.Linear(36, 5),
            nn.BatchNorm1d(5),
        )
        network.train()(torch.randn(64, 3, 5, 5))
    x = torch.randn(3, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    model = trace(network.eval(), {"x": x}, outputs=["y"], dynamic_axes={"x": {0: BATCH}})
    assert "BatchNormalization" not in {node.op_type for node in model.graph}
    write_onnx(model, tmp_path / "net.onnx")
    with torch.no_grad():
        assert relative_l2(run_onnx(tmp_path / "net.onnx", {"x": x})["y"], network(x)) < 1e-6
    data = (tmp_path / "net.onnx").read_bytes()
    assert b".py" not in data
    assert not onnx.load_from_string(data).metadata_props
