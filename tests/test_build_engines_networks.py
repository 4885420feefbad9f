"""Every network of a model folder as an engine, in every backend that can run here."""

from pathlib import Path
from typing import Any

import pytest
import torch

from d2r_fast.engine import build_engines as building
from d2r_fast.engine.backend import open_networks, open_recogniser
from d2r_fast.engine.backends import BACKENDS, find_backend
from d2r_fast.engine.backends.network import Rows
from d2r_fast.engine.build_engines import build_engines, open_engine
from d2r_fast.engine.engine_wish import NETWORKS
from d2r_fast.export import networks

CPU = ("torch", "onnxruntime", "openvino")


@pytest.fixture(scope="session")
def mini_engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engines folder of the mini models; whoever needs an engine builds it there."""
    return tmp_path_factory.mktemp("engines") / "mini"


@pytest.mark.parametrize("backend", CPU)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_in_every_cpu_backend(
    mini_models: Path, mini_engines: Path, name: str, backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {
        "engines": mini_engines,
        "backend": backend,
        "precision": "fp32",
        "device": "cpu",
        "batch_size": 4,
    }
    network = open_engine(name, mini_models, **asked)
    exportable = networks.open_network(name, mini_models)
    inputs = exportable.random_inputs(3, seed=7)
    outputs = Rows(network)(inputs)
    for port, value in exportable.reference(inputs).items():
        error = (outputs[port] - value).norm() / value.norm()
        assert error.item() <= 1e-5
    alone = Rows(network)({key: value[2:] for key, value in inputs.items()})
    for port, value in outputs.items():
        assert torch.equal(alone[port][0], value[2])
    monkeypatch.setattr(building, "build_engine", lambda job: pytest.fail("built again"))
    open_engine(name, mini_models, build=False, **asked)


def test_generate_opens_what_build_engines_built(
    mini_models: Path, mini_engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_engines(
        mini_models,
        mini_engines,
        backend="onnxruntime",
        precision="fp16",
        networks="unet,vae,encoder,arcface",
    )
    monkeypatch.setattr(building, "build_engine", lambda job: pytest.fail(f"{job.sidecar.name} built again"))
    open_networks(
        "onnxruntime", mini_models, engines=mini_engines, device="cpu", dtype=torch.float16, batch_size=8,
        lora=False, height=None, width=None,
    )  # fmt: skip
    open_recogniser(
        mini_models, mini_models / "antelopev2" / "arcface.onnx", backend="onnxruntime", precision="fp16",
        engines=mini_engines, device="cpu", batch_size=8,
    )  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "openvino"])
def test_engines_run_on_a_card(mini_models: Path, tmp_path: Path, backend: Any) -> None:
    reason = find_backend(backend).why_not_build("cuda:0", ()) or find_backend(backend).why_not("cuda:0")
    if reason is not None:
        pytest.skip(reason)
    for name in NETWORKS:
        if find_backend(backend).why_not_network(name) is not None:
            continue
        network = open_engine(
            name,
            mini_models,
            engines=tmp_path,
            backend=backend,
            precision="fp16",
            device="cuda:0",
            batch_size=4,
        )
        assert (network.batch_size, network.num_streams, network.device) == (4, 1, "cuda:0")
        exportable, rows = networks.open_network(name, mini_models), Rows(network)
        inputs = exportable.random_inputs(6, seed=1)
        outputs = rows({key: value.cuda() for key, value in inputs.items()})
        for port, value in exportable.reference(inputs).items():
            assert ((outputs[port].cpu() - value).norm() / value.norm()).item() <= 5e-3
        turned = rows({key: value.flip(0).cuda() for key, value in inputs.items()})
        assert all(torch.equal(turned[port].flip(0), value) for port, value in outputs.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "precision"),
    [
        ("torch", "bf16"),
        ("torch", "fp16"),
        ("onnxruntime", "fp16"),
        ("inductor", "fp32"),
        ("inductor", "bf16"),
    ],
)
def test_every_mini_network_is_accurate_in_other_precisions(
    mini_models: Path, tmp_path: Path, backend: str, precision: Any
) -> None:
    names = [name for name in NETWORKS if find_backend(backend).why_not_network(name) is None]
    build_engines(mini_models, tmp_path, backend=backend, precision=precision, networks=",".join(names))
    assert len(list((tmp_path / backend).glob("*.json"))) == len(names) >= 6
