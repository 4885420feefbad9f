"""The networks of DDIM inversion as graphs, the code book in half precision, and pixels in and out."""

from itertools import pairwise
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from d2r_fast.engine.backends.network import Network, Rows
from d2r_fast.engine.torch_network import open_torch
from d2r_fast.export.exportable import Exportable
from d2r_fast.export.networks import export_network
from d2r_fast.translation.config import TranslateRecipe
from d2r_fast.translation.diffusion.method import DdimInversion
from d2r_fast.translation.diffusion.quantise import Quantiser
from d2r_fast.translation.method import Unfit

from .minildm import STEEP, state_dict, write_checkpoint
from .mininetworks import tensor

NETWORKS = ("ldm-encoder", "ldm-unet", "ldm-decoder")


@pytest.fixture(scope="module")
def method(tmp_path_factory: pytest.TempPathFactory) -> DdimInversion:
    path = write_checkpoint(tmp_path_factory.mktemp("ldm") / "model.ckpt", state_dict())
    return DdimInversion.open(path, TranslateRecipe(method="ddim-inversion", size=32, steps=4))


@pytest.fixture(scope="module")
def decoder(method: DdimInversion) -> Exportable:
    return network_of(method, "ldm-decoder")


def network_of(method: DdimInversion, name: str) -> Exportable:
    return next(network for network in method.networks((32, 32)) if network.name == name)


def relative(given: Tensor, wanted: Tensor) -> float:
    return float((given - wanted).double().norm() / wanted.double().norm())


def run(path: Path, inputs: dict[str, Tensor]) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (value,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return torch.from_numpy(value)


@pytest.mark.parametrize("name", NETWORKS)
def test_graphs_are_the_networks(
    tmp_path: Path, method: DdimInversion, decoder: Exportable, name: str
) -> None:
    network = decoder if name == decoder.name else network_of(method, name)
    (path,) = export_network(network, tmp_path / "n.onnx", precision="fp32")
    onnx.checker.check_model(path, full_check=True)
    for batch_size in (1, 3):
        inputs = network.random_inputs(batch_size, seed=batch_size)
        (wanted,) = network.reference(inputs).values()
        assert relative(run(path, inputs), wanted) < 1e-5


def test_the_decoder_in_half_precision_looks_codes_up_in_float32(tmp_path: Path, decoder: Exportable) -> None:
    (path,) = export_network(decoder, tmp_path / "n.onnx", precision="fp16")
    inputs = decoder.random_inputs(2, seed=0)
    (wanted,) = decoder.reference(inputs).values()
    assert relative(run(path, inputs), wanted) < 5e-3
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    searches = [node for node in model.graph.node if node.op_type in ("ArgMin", "ReduceMin")]
    (codes,) = [value for value in model.graph.initializer if tuple(value.dims) == (64, 3)]
    assert len(searches) == 3
    assert {types[node.input[0]] for node in searches} == {codes.data_type} == {onnx.TensorProto.FLOAT}
    assert onnx.TensorProto.FLOAT16 in types.values()


def test_the_nearest_code_is_the_nearest() -> None:
    """Of 8,192, against float64; away from zero, where multiplied out in float16 three in four would be wrong."""
    codes, latents = 3 + tensor(8192, 3, key=1), 3 + tensor(2, 3, 16, 16, key=2)
    quantiser = Quantiser(codes)
    pixels = latents.permute(0, 2, 3, 1).reshape(-1, 3)
    wanted = torch.cdist(pixels.double(), codes.double()).argmin(1)
    assert torch.equal(quantiser.nearest(latents).flatten(), wanted)
    assert torch.equal(quantiser(latents).permute(0, 2, 3, 1).reshape(-1, 3), codes[wanted])
    half = quantiser.half()(latents.half())
    assert half.dtype == torch.float16
    found = half.permute(0, 2, 3, 1).reshape(-1, 3).double()
    best = torch.cdist(pixels.double(), codes.double()).amin(1)
    assert (found - pixels.double()).norm(dim=1).sub(best).max() < 5e-3
    multiplied = codes.half().square().sum(1) - 2 * pixels.half() @ codes.half().T
    assert (multiplied.argmin(1) == wanted).float().mean() < 0.25


def test_the_first_of_equal_codes_is_taken() -> None:
    codes = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    latents = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    assert Quantiser(codes).nearest(latents).item() == 1
    assert Quantiser(codes.repeat(96, 1)).nearest(latents).item() == 1, "in every group of codes"


@pytest.mark.parametrize("num_codes", [1, 37, 100, 129, 384])
def test_any_number_of_codes_is_searched(num_codes: int) -> None:
    codes, latents = tensor(num_codes, 3, key=1), tensor(2, 3, 4, 5, key=2)
    pixels = latents.permute(0, 2, 3, 1).reshape(-1, 3)
    wanted = torch.cdist(pixels.double(), codes.double()).argmin(1)
    assert torch.equal(Quantiser(codes).nearest(latents).flatten(), wanted)


def test_pixels_that_need_no_resizing_come_back(method: DdimInversion) -> None:
    images = torch.randint(
        0, 256, (2, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    assert torch.equal(method.finish(method.prepare(images), (32, 32)), images)


@pytest.mark.parametrize("side", [28, 32, 112])
def test_pixels_there_and_back(method: DdimInversion, side: int) -> None:
    smooth = torch.linspace(0, 255, side).view(1, 1, side, 1).expand(2, side, side, 3).round().to(torch.uint8)
    inputs = method.prepare(smooth)
    assert inputs.shape == (2, 3, 32, 32)
    assert inputs.dtype == torch.float32
    assert inputs.abs().max() <= 1
    back = method.finish(inputs, (side, side))
    assert back.dtype == torch.uint8
    assert (back.float() - smooth.float()).abs().mean() < 3
    torch.testing.assert_close(method.prepare(smooth)[:1], method.prepare(smooth[:1]), rtol=0, atol=0)


def test_only_squares_are_taken(method: DdimInversion) -> None:
    method.check((112, 112))
    with pytest.raises(Unfit, match="112 x 96 pixels, and the model takes squares"):
        method.check((96, 112))


def test_rows_and_batches(method: DdimInversion) -> None:
    """Through the torch backend, as the command runs it: a row's bits depend on its image alone."""
    images = torch.randint(
        0, 256, (3, 28, 28, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    networks = {network.name: Rows(_opened(network)) for network in method.networks((28, 28))}
    keys = torch.tensor([[7, 0], [7, 1], [8, 0]])
    inputs = method.prepare(images)
    together = method.run(networks, inputs, keys)
    alone = [method.run(networks, inputs[row : row + 1], keys.flip(0)[row : row + 1]) for row in range(3)]
    assert torch.equal(together, torch.cat(alone))
    assert together.isfinite().all()


def _opened(network: Exportable) -> Network:
    return open_torch(network, precision="fp32", batch_size=4, device="cpu")


def test_engines_are_told_apart(method: DdimInversion, tmp_path: Path) -> None:
    """By weights, size and scale."""
    path = write_checkpoint(tmp_path / "steep.ckpt", state_dict(STEEP))
    other = DdimInversion.open(path, TranslateRecipe(method="ddim-inversion", size=64))
    scaled = write_checkpoint(tmp_path / "s.ckpt", state_dict() | {"scale_factor": torch.tensor(0.5)})
    halved = DdimInversion.open(scaled, TranslateRecipe(method="ddim-inversion", size=32))
    sources = [network_of(each, "ldm-encoder").source for each in (method, other, halved)]
    assert all(a != b for a, b in pairwise(sources))
    assert sources[0]["height"] == "32"
    assert sources[2]["scale"] == "0.5"


@pytest.mark.slow
def test_the_full_unet_loads_and_runs(tmp_path: Path) -> None:
    """274 M parameters at 256 pixels, from a checkpoint in CompVis' layout."""
    from d2r_fast.translation.diffusion.random_weights import write_random_weights

    write_random_weights(tmp_path / "model.ckpt", size="full")
    method = DdimInversion.open(tmp_path / "model.ckpt", TranslateRecipe(method="ddim-inversion"))
    network = network_of(method, "ldm-unet")
    noise = network.reference(network.random_inputs(1, seed=0))["noise"]
    assert noise.shape == (1, 3, 64, 64)
    assert 0.1 < noise.std() < 3
