"""Networks as the backends run them: right, and the same to the bit whatever runs beside them."""

import pytest
import torch

from d2r_fast.engine.backends import find_backend
from d2r_fast.engine.backends.network import Network, Rows
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
