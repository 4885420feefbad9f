"""Every network's ONNX against its torch module: any batch, two sizes, each precision, with and without LoRA."""

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor

from d2r_fast.engine.condition import Conditioner
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import sha256_file
from d2r_fast.engine.models.init import init_models
from d2r_fast.engine.models.layout import LORA, UNET
from d2r_fast.engine.models.load import load_text_model, load_unet
from d2r_fast.export.networks import NETWORKS, export_network, open_network

from .exportmodels import Exports, relative_l2, run_onnx, shared_exports
from .initmodels import copy_models, rewrite

OTHER_SIZE = {"height": 96, "width": 72}
"""Latents of 12x9: not square, and 9 is no multiple of the UNet's downsampling."""


@pytest.fixture(scope="module")
def exports(mini_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return shared_exports(mini_models, tmp_path_factory.getbasetemp() / "exports")


def check(exports: Exports, name: str, precision: str, *, limit: float, **options: int | bool) -> None:
    network, path = exports.network(name, **options), exports.path(name, precision, **options)
    for batch_size in (1, 3):
        inputs = network.random_inputs(batch_size, seed=batch_size)
        wanted, given = network.reference(inputs), run_onnx(path, inputs)
        assert list(given) == list(wanted) == [port.name for port in network.outputs]
        for port in network.outputs:
            assert wanted[port.name].std() > 1e-4
            assert relative_l2(given[port.name], wanted[port.name]) <= limit


@pytest.mark.parametrize("name", NETWORKS)
def test_float32_is_the_torch_network(exports: Exports, name: str) -> None:
    check(exports, name, "fp32", limit=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_float16_is_near_it(exports: Exports, name: str) -> None:
    check(exports, name, "fp16", limit=5e-3)


@pytest.mark.parametrize("name", ["unet", "vae"])
def test_another_size(exports: Exports, name: str) -> None:
    options = OTHER_SIZE | ({"lora": True} if name == "unet" else {})
    check(exports, name, "fp32", limit=1e-5, **options)
    assert exports.network(name, **options).inputs[0].shape == ("batch", 4, 12, 9)


def test_pnet_takes_any_size(exports: Exports) -> None:
    network, path = exports.network("pnet"), exports.path("pnet")
    for height, width in ((12, 12), (13, 300), (201, 98)):
        inputs = network.random_inputs(2, seed=0, height=height, width=width)
        wanted = network.reference(inputs)["values"]
        assert wanted.shape == (2, 6, (height - 1) // 2 - 4, (width - 1) // 2 - 4)
        assert relative_l2(run_onnx(path, inputs)["values"], wanted) <= 1e-5


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_ports_are_the_files(exports: Exports, name: str, precision: str) -> None:
    network = exports.network(name)
    model = onnx.load(exports.path(name, precision))
    onnx.checker.check_model(model, full_check=True)
    for ports, values in ((network.inputs, model.graph.input), (network.outputs, model.graph.output)):
        assert [port.name for port in ports] == [value.name for value in values]
        for port, value in zip(ports, values, strict=True):
            kind = onnx.TensorProto.INT64 if port.dtype == torch.int64 else onnx.TensorProto.FLOAT
            sides = value.type.tensor_type.shape.dim
            assert value.type.tensor_type.elem_type == kind
            assert len(sides) == len(port.shape)
            for side, given in zip(port.shape, sides, strict=True):
                assert given.dim_value == side if isinstance(side, int) else given.dim_param
            assert sides[0].dim_param == "batch"


@pytest.mark.parametrize("name", NETWORKS)
def test_openvino_reads_it(exports: Exports, name: str) -> None:
    openvino = pytest.importorskip("openvino")
    network = exports.network(name)
    inputs = network.random_inputs(2, seed=5)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2}
    compiled = openvino.Core().compile_model(str(exports.path(name)), "CPU", settings)
    results = compiled({port.name: inputs[port.name].numpy() for port in network.inputs})
    for port, wanted in network.reference(inputs).items():
        assert relative_l2(torch.from_numpy(results[port]), wanted) <= 1e-5


def test_rows_at_different_steps_share_a_batch(exports: Exports) -> None:
    network, path = exports.network("unet"), exports.path("unet")
    inputs = network.random_inputs(4, seed=0)
    inputs["timesteps"] = torch.tensor([999, 1, 500, 1])
    inputs["latents"] = inputs["latents"][:1].repeat(4, 1, 1, 1)
    inputs["context"] = inputs["context"][:1].repeat(4, 1, 1)
    noise = run_onnx(path, inputs)["noise"]
    for row in range(4):
        alone = run_onnx(path, {name: value[row : row + 1] for name, value in inputs.items()})["noise"]
        assert relative_l2(noise[row : row + 1], alone) <= 1e-6
    assert relative_l2(noise[1], noise[3]) <= 1e-6
    assert relative_l2(noise[0], noise[1]) > 1e-2
    assert relative_l2(noise[2], noise[1]) > 1e-2


def weights(path: Path) -> dict[str, Tensor]:
    model = onnx.load(path)
    return {i.name: torch.from_numpy(onnx.numpy_helper.to_array(i).copy()) for i in model.graph.initializer}


def test_lora_is_in_the_weights(exports: Exports) -> None:
    plain, merged = (weights(exports.path("unet", "fp32", **o)) for o in ({}, OTHER_SIZE | {"lora": True}))
    conv = "unet.mid_block.resnets.0.conv1.weight"
    state = load_unet(exports.models, device="cpu", dtype=torch.float32, lora=True).state_dict()
    assert torch.equal(merged[conv], state[conv.removeprefix("unet.")])
    assert relative_l2(merged[conv], plain[conv]) > 1e-3
    untouched = "unet.mid_block.resnets.0.conv2.weight"
    assert torch.equal(merged[untouched], plain[untouched])


def test_encoder_graph_is_the_conditioner(exports: Exports) -> None:
    network = exports.network("encoder")
    inputs = network.random_inputs(5, seed=3)
    assert inputs["embeddings"].norm(dim=1).allclose(torch.ones(5))
    conditioner = Conditioner(load_text_model(exports.models, device="cpu"))
    given = run_onnx(exports.path("encoder"), inputs)["context"]
    assert relative_l2(given, conditioner(inputs["embeddings"])) <= 1e-5


def test_source_is_the_networks_own_files(exports: Exports) -> None:
    models = exports.models
    plain, merged = (open_network("unet", models, lora=lora).source for lora in (False, True))
    digests = {name: sha256_file(models / name) for name in (UNET.weights[0], str(UNET.config))}
    assert digests.items() <= plain.items()
    assert merged == plain | {"lora": sha256_file(models / LORA.weights[0])}
    assert (plain["height"], plain["width"]) == ("64", "64")
    assert open_network("unet", models, height=64, width=128).source != plain
    for name in NETWORKS[1:]:
        assert digests.keys().isdisjoint(open_network(name, models).source)


def test_random_rows_do_not_depend_on_their_number(exports: Exports) -> None:
    for name in NETWORKS:
        network = exports.network(name)
        few, many = (network.random_inputs(count, seed=7) for count in (2, 5))
        other = network.random_inputs(2, seed=8)
        for port in network.inputs:
            assert few[port.name].dtype == port.dtype
            assert torch.equal(many[port.name][:2], few[port.name])
            assert not torch.equal(other[port.name], few[port.name])


QUICK = ("encoder", "arcface", "rnet")


@pytest.mark.parametrize(
    "names", [QUICK, pytest.param(("unet", "vae", "pnet", "onet"), marks=pytest.mark.slow)]
)
def test_another_process_writes_the_same_bytes(
    exports: Exports, names: tuple[str, ...], tmp_path: Path
) -> None:
    program = (
        "import sys; from pathlib import Path; from d2r_fast.export.networks import *\n"
        "for name in sys.argv[3:]:\n"
        "    out = Path(sys.argv[2]) / (name + '.onnx')\n"
        "    assert export_network(open_network(name, Path(sys.argv[1])), out, precision='fp16') == (out,)\n"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", program, exports.models, tmp_path, *names]
    subprocess.run(command, check=True, env=environment)
    for name in names:
        assert (tmp_path / f"{name}.onnx").read_bytes() == exports.path(name, "fp16").read_bytes()


def test_the_shared_module_is_guarded(exports: Exports) -> None:
    network = open_network("rnet", exports.models)
    own = network.load().half()
    assert own is not network.module
    inputs = network.random_inputs(2, seed=0)
    network.reference(inputs)
    network.module.half()
    with pytest.raises(AssertionError, match=r"take one of your own from load\(\)"):
        network.reference(inputs)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("codeformer", {}, "network 'codeformer' is not there: expected one of unet, vae"),
        ("unet", {"height": 60, "width": 64}, "height 60: expected a multiple of 8 pixels"),
        ("vae", {"height": 64, "width": 0}, "width 0: expected a multiple of 8 pixels"),
        ("vae", {"height": 64}, "height 64 and width None: give both or neither"),
        ("arcface", {"recogniser": Path("nowhere.onnx")}, "nowhere.onnx is missing"),
    ],
)
def test_refuses(exports: Exports, name: str, options: dict[str, int | Path], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_network(name, exports.models, **options)


def test_refuses_a_folder_without_the_files(exports: Exports, tmp_path: Path) -> None:
    models = copy_models(exports.models, tmp_path / "models", card=True)
    (models / LORA.weights[0]).unlink()
    with pytest.raises(UserError, match="has no lcm-lora/"):
        open_network("unet", models, lora=True)
    rewrite(models / UNET.weights[0], b"none")
    with pytest.raises(UserError, match="is damaged or not a weight file") as caught:
        export_network(open_network("unet", models), tmp_path / "unet.onnx", precision="fp32")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot be written: its folder does not exist"):
        export_network(open_network("rnet", models), tmp_path / "no" / "rnet.onnx", precision="fp32")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "vae", "encoder", "arcface"])
def test_full_size(name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    models = tmp_path_factory.getbasetemp() / "full"
    if not models.exists():
        init_models(models, size="full")
    network = open_network(name, models, height=256, width=256)
    inputs = network.random_inputs(2, seed=0)
    (wanted,) = network.reference(inputs).values()
    for precision, limit in (("fp32", 1e-5), ("fp16", 5e-3)):
        files = export_network(network, tmp_path / f"{name}.onnx", precision=precision)
        assert len(files) == 1 + (name == "unet")
        (given,) = run_onnx(files[-1], inputs).values()
        assert relative_l2(given, wanted) <= limit
