"""e4e's encoder and StyleGAN2's generator as engines: what each backend gives, and in half precision."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

from d2r_fast.engine.build_engines import build_engine, open_exportable
from d2r_fast.engine.engine_job import Job
from d2r_fast.engine.engine_wish import Wish
from d2r_fast.export.exportable import Exportable
from d2r_fast.export.networks import export_network
from d2r_fast.translation.config import TranslateRecipe
from d2r_fast.translation.stylegan.method import StyleganInversion
from d2r_fast.translation.stylegan.random_weights import write_random_weights

from .exportmodels import emulate_half, relative_l2, run_onnx

LIMIT = 1e-5
HALF = Wish(backend="tensorrt-rtx", precision="fp16", batch_size=2, device="cuda")
TARGETS = ("sm80", "sm86", "sm89", "sm120")


def networks(folder: Path, *, size: str) -> tuple[Exportable, ...]:
    write_random_weights(folder / "e4e.pt", size="full" if size == "full" else "mini", seed=0)
    return StyleganInversion.open(folder / "e4e.pt", TranslateRecipe(method="stylegan-inversion")).networks(
        (112, 112)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of weights and engines, so that a network is exported once for all tests."""
    return tmp_path_factory.mktemp("stylegan")


@pytest.fixture(scope="module")
def mini(folder: Path) -> tuple[Exportable, ...]:
    return networks(folder, size="mini")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_engines_on_the_cpu(mini: tuple[Exportable, ...], folder: Path, backend: str) -> None:
    for network in mini:
        engine = open_exportable(
            network, engines=folder / "engines", backend=backend, precision="fp32", device="cpu", batch_size=4
        )
        inputs = network.random_inputs(1, seed=11)
        for name, wanted in network.reference(inputs).items():
            assert wanted.std() > 0.1
            assert relative_l2(engine(inputs)[name], wanted) <= LIMIT


@pytest.mark.parametrize("part", [0, 1])
def test_half_precision(mini: tuple[Exportable, ...], folder: Path, tmp_path: Path, part: int) -> None:
    network = mini[part]
    path = Job(network, folder / "engines", HALF).source.onnx
    inputs = network.random_inputs(3, seed=3)
    given = run_onnx(emulate_half(path, tmp_path / "emulated.onnx"), inputs)
    for name, wanted in network.reference(inputs).items():
        assert 1e-5 < relative_l2(given[name], wanted) < 5e-3


def test_tensorrt_rtx_ahead_of_time(mini: tuple[Exportable, ...], folder: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    if torch.cuda.is_available():
        pytest.skip("says what a machine without a card does")
    for network in mini:
        engine, _ = build_engine(Job(network, folder / "engines", replace(HALF, targets=TARGETS).checked()))
        assert engine.record.key["target"]["targets"] == sorted(TARGETS)


@pytest.mark.slow
def test_full_size(tmp_path: Path) -> None:
    for network in networks(tmp_path, size="full"):
        export_network(network, tmp_path / "full.onnx", precision="fp32")
        graph = onnx.load(tmp_path / "full.onnx").graph
        constants = {constant.name for constant in graph.initializer}
        convolutions = [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose")]
        assert all(node.input[1] in constants for node in convolutions)
        for batch_size in (1, 2):
            inputs = network.random_inputs(batch_size, seed=batch_size)
            given = run_onnx(tmp_path / "full.onnx", inputs)
            for name, wanted in network.reference(inputs).items():
                assert relative_l2(given[name], wanted) <= LIMIT
