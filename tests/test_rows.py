"""Maps as rows: the rewritten graph is the same function, judged by onnxruntime and OpenVINO."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2r_fast.engine.backends.network import Port
from d2r_fast.engine.engine_needs import estimate
from d2r_fast.export import places
from d2r_fast.export.exportable import TorchExportable
from d2r_fast.export.graph import BATCH
from d2r_fast.export.onnx_file import write_onnx
from d2r_fast.export.row_weights import RowWeights
from d2r_fast.translation.codeformer.blocks import AttentionBlock, Downsample, ResBlock, Upsample
from d2r_fast.translation.codeformer.fuse import FuseBlock
from d2r_fast.translation.stylegan.encoder import Block
from d2r_fast.translation.stylegan.layers import StyledConv, ToRGB

from .exportmodels import relative_l2 as relative

WIDE = 32
"""Channels; groups of the norms are 32."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is wide, large or too many at once, for small maps."""
    monkeypatch.setattr(places, "LEAST_CHANNELS", 8)
    monkeypatch.setattr(places, "LEAST_TILES", 4)
    monkeypatch.setattr(places, "MOST_TILES", 7)


class Vqgan(nn.Module):
    """A little of everything that CodeFormer and a VQ have."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, WIDE, 3, padding=1)
        self.down = nn.Sequential(ResBlock(WIDE, 2 * WIDE), Downsample(2 * WIDE))
        self.middle = nn.Sequential(ResBlock(2 * WIDE, WIDE), AttentionBlock(WIDE))
        self.up = nn.Sequential(Upsample(WIDE), ResBlock(WIDE, WIDE))
        self.fuse = FuseBlock(WIDE)
        self.last = nn.Conv2d(WIDE, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        drawn = self.up(self.middle(self.down(first)))
        return self.last(self.fuse(first, drawn, x.mean((1, 2, 3))))  # type: ignore[no-any-return]


class Irse(nn.Module):
    """Batch norms, PReLU, squeeze and excitation, thinning out, bilinear doubling."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Sequential(
            Block(16, 16, stride=2, reduction=4),
            Block(16, 24, stride=2, reduction=4),
            Block(24, 24, stride=1, reduction=4),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(self.first(x))
        return F.interpolate(y, scale_factor=2.0, mode="bilinear", align_corners=True)


class Stylegan(nn.Module):
    """Modulated convolutions, one of which doubles, with noise."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.convs = nn.ModuleList([StyledConv(16, 8, 5, upsample=True), StyledConv(8, 8, 5)])
        self.to_rgb = ToRGB(8, 5, upsample=False)
        self.register_buffer("noise", torch.zeros(1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        style = x.mean((2, 3)) @ torch.arange(15.0, device=x.device).reshape(3, 5)
        noise = torch.arange(32.0 * 24, device=x.device).reshape(1, 1, 32, 24) / 400
        y = self.first(x)
        for conv in self.convs:
            y = conv(y, style, noise)
        return self.to_rgb(y, style)  # type: ignore[no-any-return]


def random(module: nn.Module) -> nn.Module:
    """Every parameter and buffer a number of its own, of a size that keeps maps in range."""
    generator = torch.Generator().manual_seed(1)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            scale = value[0].numel() ** -0.5 if value.ndim > 1 else 0.3
            value.copy_((noise * scale).abs() + 0.2 if name.endswith("running_var") else noise * scale)
        if value.ndim == 1 and name.endswith("weight"):
            value += 1
    for child in module.modules():
        if hasattr(child, "settle"):
            child.settle()
    return module


def open_network(make: type[nn.Module], *, height: int, width: int) -> TorchExportable:
    def load() -> nn.Module:
        with torch.no_grad():
            return random(make())

    module = load().eval()
    with torch.no_grad():
        shape = module(torch.zeros(1, 3, height, width)).shape
    return TorchExportable(
        name="network", inputs=(Port("x", torch.float32, ("batch", 3, height, width)),),
        outputs=(Port("y", torch.float32, ("batch", *shape[1:])),), files={}, settings={},
        draws={"x": lambda size, generator: torch.randn(size, generator=generator)},
        make=load, dynamic_axes={"x": {0: BATCH}}, wide=True,
    )  # fmt: skip


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


NETWORKS = {
    "vqgan, sides that are no tiles": (Vqgan, 12, 20),
    "irse": (Irse, 32, 24),
    "stylegan": (Stylegan, 16, 12),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_graph_in_rows_is_the_same_function(name: str, tmp_path: Path) -> None:
    make, height, width = NETWORKS[name]
    plain = open_network(make, height=height, width=width)
    network = plain.on("cpu", "fp32")
    write_onnx(plain.graph(), tmp_path / "planes.onnx")
    write_onnx(network.graph(), tmp_path / "rows.onnx")
    before, after = operators(tmp_path / "planes.onnx"), operators(tmp_path / "rows.onnx")
    check_weights(plain, network, tmp_path)
    assert after["Conv"] + after["ConvTranspose"] < before["Conv"] + before["ConvTranspose"]
    assert after["Gather"] > before["Gather"]
    inputs = network.random_inputs(1, seed=0)
    wanted = plain.reference(inputs)["y"]
    session = onnxruntime.InferenceSession(tmp_path / "rows.onnx")
    (found,) = session.run(None, {"x": inputs["x"].numpy()})
    assert found.shape == wanted.shape
    assert relative(torch.from_numpy(found), wanted) < 1e-5
    assert relative(by_openvino(tmp_path / "rows.onnx", inputs["x"]), wanted) < 1e-5


def check_weights(plain: TorchExportable, network: TorchExportable, folder: Path) -> None:
    """The numbers that kernels take more in rows are those that were foreseen."""
    rows = RowWeights()
    with torch.no_grad(), rows:
        plain.module(plain.random_inputs(1, seed=0)["x"])
    found = [num_numbers(folder / name) for name in ("planes.onnx", "rows.onnx")]
    assert found[1] - found[0] == pytest.approx(rows.num_weights, rel=0.1)
    foreseen = [estimate(each, precision="fp32", fused=False).weights_bytes for each in (plain, network)]
    assert foreseen[1] - foreseen[0] == 4 * rows.num_weights + 8 * rows.num_places > 0


OWN = ([36, 36], [16, 36], [16, 16], [4, 16])


def num_numbers(path: Path) -> int:
    """float32 of a graph, without Winograd's own maps, which are as many whatever the network."""
    tensors = [
        tensor for tensor in onnx.load(path).graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT
    ]
    return sum(math.prod(tensor.dims) for tensor in tensors if list(tensor.dims) not in OWN)


def by_openvino(path: Path, x: Tensor) -> Tensor:
    openvino = pytest.importorskip("openvino")
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return torch.from_numpy(compiled(x.numpy())[0])


@pytest.mark.parametrize(("device", "precision"), [("cuda:0", "fp32"), ("cuda", "fp16"), ("cpu", "bf16")])
def test_rows_are_for_cpus_in_float32(device: str, precision: str) -> None:
    network = open_network(Vqgan, height=16, width=16)
    assert network.on(device, precision) is network  # type: ignore[arg-type]
    fast = network.on("cpu", "fp32")
    assert fast.source != network.source
    assert fast.on("cpu", "fp32") is fast
    assert replace(network, wide=False).on("cpu", "fp32").in_rows is False


@pytest.mark.parametrize("tile", places.TILES)
def test_the_tiles_of_a_map_have_a_row_each(tile: int) -> None:
    for size in ((4, 4), (8, 20), (28, 28)):
        place = places.tiled(size, tile)
        assert sorted(place.ravel()) == list(range(size[0] * size[1]))
    assert places.tiled((7, 5), tile).shape == (7, 5)
    assert len(set(places.tiled((7, 5), tile).ravel())) == 35


def test_a_map_of_few_tiles_has_smaller_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "LEAST_TILES", 32)
    sizes = {(28, 28): 4, (24, 22): 4, (20, 20): 2, (16, 16): 2, (8, 8): None}
    assert {size: places.tile_of(size) for size in sizes} == sizes
