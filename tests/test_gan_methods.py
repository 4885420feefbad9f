"""VSAIT, DECENT and UNSB as methods: pixels in and out, any size, noise by key, and their networks in engines."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from d2r_fast.engine.engine_job import Job
from d2r_fast.engine.engine_wish import Wish
from d2r_fast.engine.errors import UserError
from d2r_fast.export import places
from d2r_fast.export.exportable import Exportable
from d2r_fast.export.networks import export_network
from d2r_fast.kernels.noise import normal
from d2r_fast.translation.config import TranslateRecipe
from d2r_fast.translation.gan.method import Unsb, draw_noise
from d2r_fast.translation.gan.networks import open_generator, plan_of
from d2r_fast.translation.gan.random_weights import GanName, write_random_weights
from d2r_fast.translation.images import translate_images
from d2r_fast.translation.method import Method, Run, Unfit
from d2r_fast.translation.methods import open_method

from .minigenerators import METHODS, closed_form, relative
from .mininetworks import tensor, uniform
from .test_gan_generators import assert_golden

KEYS = torch.tensor([[123456789, 0], [-987654321, 7]])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    folder = tmp_path_factory.mktemp("weights")

    def write(method: GanName, *, intended: bool = False) -> Path:
        path = folder / f"{method}{'-intended' * intended}.ckpt"
        if not path.exists():
            write_random_weights(path, method=method, size="mini", intended=intended)
        return path

    return write


def opened(method: GanName, weights: Path, **settings: Any) -> Method:
    return open_method(TranslateRecipe(method=method, **settings), weights)


def in_torch(method: Method, size: tuple[int, int]) -> dict[str, Run]:
    """Its networks as torch computes them."""
    return {network.name: network.reference for network in method.networks(size)}


def pixels(count: int, height: int, width: int) -> Tensor:
    values = (uniform(count * height * width * 3, 5) + 1) * 127.5
    return torch.from_numpy(values.reshape(count, height, width, 3).astype(np.uint8))


def translated(method: Method, images: Tensor, keys: Tensor = KEYS) -> Tensor:
    size = (images.shape[1], images.shape[2])
    method.check(size)
    outputs, finite = translate_images(method, in_torch(method, size), images, keys[: len(images)])
    assert bool(finite.all())
    assert outputs.dtype == torch.uint8
    assert outputs.shape == images.shape
    return outputs


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("height", "width"), [(16, 16), (33, 50), (112, 110)])
def test_any_size_comes_back(method: GanName, height: int, width: int, weights: Callable[..., Path]) -> None:
    images = pixels(2, height, width)
    outputs = translated(opened(method, weights(method)), images)
    assert 20 < outputs.float().std() < 120
    assert not torch.equal(outputs[0], outputs[1])


@pytest.mark.parametrize("method", METHODS)
def test_a_row_is_its_image_and_key_alone(method: GanName, weights: Callable[..., Path]) -> None:
    found, images = opened(method, weights(method)), pixels(2, 30, 32)
    both = translated(found, images)
    assert torch.equal(translated(found, images.flip(0), KEYS.flip(0)), both.flip(0))
    assert torch.equal(translated(found, images[1:], KEYS[1:]), both[1:])
    other = translated(found, images, KEYS + 1)
    assert torch.equal(other, both) == (method != "unsb")


def test_pixels_are_scaled_padded_and_rounded(weights: Callable[..., Path]) -> None:
    found, images = opened("vsait", weights("vsait")), pixels(2, 18, 21)
    inputs = found.prepare(images)
    assert tuple(inputs.shape) == (2, 3, 20, 24)
    whole = (images.movedim(-1, 1).double() / 255 - 0.5) / 0.5
    torch.testing.assert_close(inputs[:, :, :18, :21].double(), whole, rtol=0, atol=1e-6)
    assert torch.equal(inputs[:, :, 18:], inputs[:, :, [16, 15]])
    assert torch.equal(inputs[:, :, :, 21:], inputs[:, :, :, [19, 18, 17]])
    assert torch.equal(found.finish(inputs, (18, 21)), images)
    assert torch.equal(found.finish(inputs + 0.9 / 255, (18, 21)), images)
    assert torch.equal(found.finish(inputs - 0.9 / 255, (18, 21)), images)
    assert found.finish(torch.tensor([-3.0, 3.0]).expand(1, 3, 4, 2), (4, 2)).unique().tolist() == [0, 255]


def test_a_size_of_ones_own(weights: Callable[..., Path]) -> None:
    found = opened("decent", weights("decent"), size=42)
    (network,) = found.networks((10, 200))
    assert network.inputs[0].shape == ("batch", 3, 44, 44)
    found.check((10, 200))
    assert tuple(found.prepare(pixels(1, 10, 200)).shape) == (1, 3, 44, 44)
    flat = torch.full((1, 70, 90, 3), 128, dtype=torch.uint8)
    assert torch.equal(found.finish(found.prepare(flat), (70, 90)), flat)
    assert translated(found, pixels(1, 70, 90)).shape == (1, 70, 90, 3)


def test_sizes_that_are_too_small(weights: Callable[..., Path]) -> None:
    with pytest.raises(Unfit, match="40x15 pixels, and vsait takes sides of 16 and more"):
        opened("vsait", weights("vsait")).check((15, 40))


@pytest.mark.parametrize(("nfe", "size"), [(1, "mini"), (2, "mini"), (5, "mini"), (1, "full"), (2, "full")])
def test_the_bridge_is_the_publishers(nfe: int, size: str, tmp_path: Path) -> None:
    """Golden numbers of the released sampling loop. Its network doubles a rounding error with every evaluation."""
    torch.save(closed_form("unsb", size=size), tmp_path / "latest_net_G.pth")
    found = opened("unsb", tmp_path / "latest_net_G.pth", nfe=nfe)
    with torch.no_grad():
        output = found.run(in_torch(found, (32, 48)), tensor(2, 3, 32, 48, key=999), KEYS)
    assert_golden(output, f"unsb {size} {nfe}", within=1e-5 * 2.5**nfe)


def test_noise_is_named_by_image_and_evaluation() -> None:
    first = draw_noise(KEYS, 3, (5, 7))
    words = torch.cat([KEYS, torch.tensor([[0, 3], [0, 3]])], 1)
    assert torch.equal(first, normal(words, (5, 7)))
    assert torch.equal(draw_noise(KEYS[1:], 3, (5, 7)), first[1:])
    assert not torch.equal(draw_noise(KEYS, 4, (5, 7)), first)


@pytest.mark.parametrize("intended", [False, True])
def test_as_many_evaluations_as_are_asked_for(intended: bool, weights: Callable[..., Path]) -> None:
    found = opened("unsb", weights("unsb", intended=intended), nfe=3)
    (network,) = found.networks((16, 16))
    seen: list[Mapping[str, Tensor]] = []

    def watch(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        seen.append(values)
        return network.reference(values)

    found.run({"unsb": watch}, found.prepare(pixels(2, 16, 16)), KEYS)
    assert len(seen) == 3
    assert all(set(values) == {port.name for port in network.inputs} for values in seen)
    assert [values["time"].tolist() for values in seen if intended] == [[0, 0], [1, 1], [2, 2]][
        : 3 * intended
    ]
    codes = [values["codes"] for values in seen]
    assert not torch.equal(codes[0], codes[1])
    default = opened("unsb", weights("unsb"))
    assert isinstance(default, Unsb)
    assert default._nfe == 5


def test_weights_are_checked_when_opened(tmp_path: Path, weights: Callable[..., Path]) -> None:
    with pytest.raises(
        UserError, match=r"vsait\.ckpt is a checkpoint of VSAIT's training: give --method vsait"
    ):
        opened("decent", weights("vsait"))
    tensors = closed_form("decent")
    del tensors["model.26.bias"]
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"missing 1 \(model\.26\.bias\), of 36"):
        opened("decent", tmp_path / "w.pth")


@pytest.mark.parametrize("method", METHODS)
def test_random_weights_are_the_seeds(method: GanName, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_random_weights(tmp_path / name, method=method, size="mini", seed=seed)
    first, second, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == second != other
    assert len(first) < 1_000_000


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory, weights: Callable[..., Path]) -> Callable[..., Path]:
    """A method's network for 64 x 128 pixels as ONNX, whose first maps are exported as rows and the others not."""
    folder = tmp_path_factory.mktemp("graphs")

    def export(method: GanName, precision: Any, *, intended: bool = False, fast: bool = False) -> Path:
        path = folder / f"{method}{intended}{precision}{fast}.onnx"
        if not path.exists():
            plan = plan_of(method, weights(method, intended=intended))
            network: Exportable = open_generator(plan, height=64, width=128)
            export_network(network.on("cpu", precision) if fast else network, path, precision=precision)
        return path

    return export


def operators(path: Path) -> list[str]:
    import onnx

    return [node.op_type for node in onnx.load(path).graph.node]


def run_onnx(path: Path, inputs: Mapping[str, Tensor]) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = {name: value.numpy() for name, value in inputs.items()}
    return torch.from_numpy(session.run(None, feeds)[0])


def run_openvino(path: Path, inputs: Mapping[str, Tensor]) -> Tensor:
    import openvino

    model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return torch.from_numpy(model({name: value.numpy() for name, value in inputs.items()})[0])


@pytest.mark.parametrize(("method", "intended"), [*((name, False) for name in METHODS), ("unsb", True)])
def test_engines_agree_with_torch(
    method: GanName, intended: bool, graphs: Callable[..., Path], weights: Callable[..., Path]
) -> None:
    network = open_generator(plan_of(method, weights(method, intended=intended)), height=64, width=128)
    inputs = network.random_inputs(3, seed=1)
    wanted = network.reference(inputs)["translated"]
    path = graphs(method, "fp32", intended=intended)
    assert relative(run_onnx(path, inputs), wanted) < 1e-5
    assert relative(run_openvino(path, inputs), wanted) < 1e-5


def test_engines_in_rows_agree(
    graphs: Callable[..., Path], weights: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "LEAST_CHANNELS", 8)
    network = open_generator(plan_of("decent", weights("decent")), height=64, width=128)
    inputs = network.random_inputs(1, seed=1)
    wanted = network.reference(inputs)["translated"]
    path = graphs("decent", "fp32", fast=True)
    assert operators(path).count("Conv") == 4, "the first, the last and two filters"
    assert relative(run_onnx(path, inputs), wanted) < 1e-5
    assert relative(run_openvino(path, inputs), wanted) < 1e-5


@pytest.mark.parametrize("method", ["vsait", "unsb"])
def test_half_precision_is_near(
    method: GanName, graphs: Callable[..., Path], weights: Callable[..., Path]
) -> None:
    network = open_generator(plan_of(method, weights(method)), height=64, width=128)
    inputs = network.random_inputs(1, seed=2)
    error = relative(run_onnx(graphs(method, "fp16"), inputs), network.reference(inputs)["translated"])
    assert 1e-5 < error < 5e-3


def test_the_graph_has_one_norm_each_and_nothing_without_effect(graphs: Callable[..., Path]) -> None:
    def of(method: GanName, *, intended: bool = False) -> list[str]:
        return operators(graphs(method, "fp32", intended=intended))

    for method, num_convolutions in (("vsait", 18), ("decent", 18), ("unsb", 13)):
        assert of(method).count("InstanceNormalization") == 15  # type: ignore[arg-type]
        assert of(method).count("Conv") == num_convolutions  # type: ignore[arg-type]
        assert "Shape" not in of(method)  # type: ignore[arg-type]
    assert of("unsb", intended=True).count("Conv") == 18


@pytest.mark.parametrize(
    ("backend", "precision", "device", "wanted"),
    [
        ("openvino", "fp32", "cpu", True),
        ("onnxruntime", "fp32", "cpu", True),
        ("torch", "fp32", "cpu", True),
        ("openvino", "bf16", "cpu", False),
        ("onnxruntime", "fp32", "cuda:0", False),
        ("tensorrt-rtx", "fp32", "cuda", False),
    ],
)
def test_rows_are_for_cpus_in_float32(
    backend: str, precision: Any, device: str, wanted: bool, weights: Callable[..., Path], tmp_path: Path
) -> None:
    """Whatever card this machine has: what an engine is built for decides. Its files are not the other graph's."""
    network = open_generator(plan_of("vsait", weights("vsait")), height=16, width=16)
    job = Job(network, tmp_path, Wish(backend=backend, precision=precision, device=device))
    assert ("convolutions" in job.network.source) == wanted
    assert job.sidecar.stem.endswith("-rows") == wanted
    assert (job.network is network) == (not wanted)
