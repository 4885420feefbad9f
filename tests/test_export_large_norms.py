"""Group norms over millions of numbers against float64."""

from pathlib import Path

import torch
from torch import nn

from d2r_fast.export.graph import BATCH, trace
from d2r_fast.export.large_norms import MANY, split_large_norms
from d2r_fast.export.onnx_file import write_onnx

from .exportmodels import relative_l2, run_onnx


def test_large_groups_keep_their_digits(tmp_path: Path) -> None:
    network = nn.GroupNorm(1, 4, eps=1e-3).eval()
    x = torch.rand(1, 4, 640, 801, generator=torch.Generator().manual_seed(0)) + 3
    with torch.no_grad():
        wanted = network.double()(x.double()).float()
    errors = []
    for split in (False, True):
        model = trace(network.float(), {"x": x}, outputs=["y"], dynamic_axes={"x": {0: BATCH}})
        if split:
            split_large_norms(model)
        assert ("InstanceNormalization" in {node.op_type for node in model.graph}) is not split
        write_onnx(model, tmp_path / "net.onnx")
        errors.append(relative_l2(run_onnx(tmp_path / "net.onnx", {"x": x})["y"], wanted))
    assert errors[1] < 1e-6
    assert errors[1] < errors[0]


def test_small_groups_stay_one_operator() -> None:
    x = torch.zeros(1, 8, 32, 32)
    assert MANY > 4 * 32 * 32
    model = trace(nn.GroupNorm(2, 8).eval(), {"x": x}, outputs=["y"], dynamic_axes={"x": {0: BATCH}})
    split_large_norms(model)
    assert "InstanceNormalization" in {node.op_type for node in model.graph}
