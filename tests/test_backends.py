"""Networks as the backends run them: right, and the same to the bit whatever runs beside them."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from d2r_fast.engine.backends import find_backend
from d2r_fast.engine.backends.network import Network, Port, Rows, check_inputs
from d2r_fast.export.networks import export_network

from .tinynetwork import TinySource, tiny_network, tiny_spec

CPU = ("torch", "onnxruntime", "openvino")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TinySource:
    folder = tmp_path_factory.mktemp("onnx")
    network = tiny_network(folder)
    (path,) = export_network(network, folder / "unet.onnx", precision="fp32")
    return TinySource(network, path)


def load(source: TinySource, backend: str, num_threads: int = 2) -> Network:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        found = find_backend(backend)
        return found.load(tiny_spec(source.network, backend), {"unet.onnx": source.onnx}, source)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("backend", CPU)
def test_rows_come_out_as_the_module_computes_them(source: TinySource, backend: str) -> None:
    inputs = source.network.random_inputs(5, seed=1)
    expected = source.network.reference(inputs)["noise"]
    noise = Rows(load(source, backend))(inputs)["noise"]
    assert ((noise - expected).norm() / expected.norm()).item() < 1e-6


@pytest.mark.parametrize("backend", CPU)
def test_bits_of_a_row_depend_on_neither_neighbours_nor_place_nor_threads(
    source: TinySource, backend: str
) -> None:
    inputs = source.network.random_inputs(7, seed=2)
    alone = Rows(load(source, backend, 1))
    expected = torch.cat([alone({n: v[i : i + 1] for n, v in inputs.items()})["noise"] for i in range(7)])
    assert len({row.numpy().tobytes() for row in expected}) == 7
    for num_threads in (1, 2, 3, 8):
        rows = Rows(load(source, backend, num_threads))
        for count in range(1, 8):
            order = torch.randperm(7, generator=torch.Generator().manual_seed(count))[:count]
            noise = rows({name: value[order] for name, value in inputs.items()})["noise"]
            assert torch.equal(noise, expected[order]), (num_threads, count)


class Doubler:
    """Doubles batches of exactly three rows, into the one buffer it has."""

    name, device, batch_size, num_streams = "doubler", "cpu", 3, 1
    inputs = (Port("x", torch.float32, (3, 2)),)
    outputs = (Port("y", torch.float32, (3, 2)),)

    def __init__(self) -> None:
        self.calls: list[list[float]] = []
        self._buffer = torch.zeros(3, 2)

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        check_inputs(self, inputs)
        self.calls.append(inputs["x"][:, 0].tolist())
        torch.mul(inputs["x"], 2, out=self._buffer)
        return {"y": self._buffer}


@pytest.mark.parametrize("num_rows", range(1, 8))
def test_the_last_batch_is_filled_up_by_its_last_row_and_buffers_are_left(num_rows: int) -> None:
    doubler, x = Doubler(), torch.arange(2.0 * num_rows).view(num_rows, 2)
    assert torch.equal(Rows(doubler)({"x": x})["y"], 2 * x)
    filled = [2.0 * min(row, num_rows - 1) for row in range(-(-num_rows // 3) * 3)]
    assert [value for call in doubler.calls for value in call] == filled
    assert all(len(call) == 3 for call in doubler.calls)


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"y": torch.zeros(3, 2)},
        {"x": torch.zeros(3, 3)},
        {"x": torch.zeros(3, 2, dtype=torch.float64)},
        {"x": torch.zeros(0, 2)},
    ],
)
def test_inputs_that_are_not_the_networks_are_a_fault_of_ours(inputs: dict[str, torch.Tensor]) -> None:
    with pytest.raises(AssertionError):
        Rows(Doubler())(inputs)


@pytest.fixture(scope="module")
def compiled(source: TinySource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network as inductor compiles it, with nothing kept from earlier compilations."""
    folder = tmp_path_factory.mktemp("inductor")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "cache"))
        (folder / "built").mkdir()
        find_backend("inductor").build(tiny_spec(source.network, "inductor"), source, folder / "built")
    (path,) = (folder / "built").iterdir()
    return path


@pytest.mark.slow
def test_inductor_compiles_ahead_of_time(source: TinySource, compiled: Path) -> None:
    spec = tiny_spec(source.network, "inductor")
    network = find_backend("inductor").load(spec, {compiled.name: compiled}, source)
    inputs = source.network.random_inputs(5, seed=1)
    rows = Rows(network)(inputs)["noise"]
    expected = source.network.reference(inputs)["noise"]
    assert ((rows - expected).norm() / expected.norm()).item() < 1e-6
    for place in (4, 0, 2):
        alone = Rows(network)({name: value[place : place + 1] for name, value in inputs.items()})["noise"]
        assert torch.equal(alone[0], rows[place])
