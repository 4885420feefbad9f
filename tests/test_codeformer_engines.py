"""CodeFormer's two networks as engines: which arithmetic, what each backend gives, and that a wrong one is refused."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

from d2r_fast.engine.backends.network import Network
from d2r_fast.engine.build_engines import build_engine, open_exportable
from d2r_fast.engine.config import Precision
from d2r_fast.engine.engine_job import Job
from d2r_fast.engine.engine_parity import measure
from d2r_fast.engine.engine_source import EngineSource
from d2r_fast.engine.engine_wish import Wish
from d2r_fast.engine.errors import RunError
from d2r_fast.engine.torch_network import open_torch
from d2r_fast.export.exportable import Exportable
from d2r_fast.translation.codeformer.method import CodeFormer
from d2r_fast.translation.codeformer.random_weights import write_random_weights
from d2r_fast.translation.config import TranslateRecipe

from .exportmodels import emulate_half, relative_l2, run_onnx
from .tinynetwork import tiny_spec

HALF = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codeformer")
    write_random_weights(folder / "codeformer.pth", size="mini", seed=0)
    return folder


def opened(folder: Path, *, w: float = 0.5) -> tuple[Exportable, ...]:
    recipe = TranslateRecipe(method="codeformer", w=w)
    return CodeFormer.open(folder / "codeformer.pth", recipe).networks((112, 112))


def exported(network: Exportable, folder: Path, precision: Precision) -> Path:
    """Where the engines below find it again."""
    arithmetic = network.arithmetic(precision)
    return EngineSource(network, root=folder / "engines", precision=arithmetic, variant="32x32").onnx


@pytest.mark.parametrize(("part", "w"), [(0, 0.5), (1, 0.5), (1, 0.0)])
def test_float32_is_the_torch_network(folder: Path, part: int, w: float) -> None:
    network = opened(folder, w=w)[part]
    path = exported(network, folder, "fp32")
    for batch_size in (1, 3):
        inputs = network.random_inputs(batch_size, seed=batch_size)
        wanted, given = network.reference(inputs), run_onnx(path, inputs)
        assert list(given) == list(wanted) == [port.name for port in network.outputs]
        for name, value in wanted.items():
            assert value.std() > 1e-2
            assert relative_l2(given[name], value) <= 1e-5
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert not operators & {"ArgMax", "TopK", "OneHot", "ScatterElements"}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_the_generators_alone(folder: Path, precision: str) -> None:
    encoder, generator = opened(folder)
    kinds = [
        {value.data_type for value in onnx.load(exported(network, folder, precision)).graph.initializer}
        for network in (encoder, generator)
    ]
    assert not kinds[0] & HALF
    assert kinds[1] & HALF
    inputs = generator.random_inputs(2, seed=3)
    half = emulate_half(exported(generator, folder, precision), folder / f"emulated-{precision}.onnx")
    error = relative_l2(run_onnx(half, inputs)["images"], generator.reference(inputs)["images"])
    assert 1e-5 < error < {"fp16": 5e-3, "bf16": 3e-2}[precision]


def test_engines_and_torch_agree_on_the_arithmetic(folder: Path) -> None:
    encoder, generator = opened(folder)
    wish = Wish(backend="tensorrt-rtx", precision="fp16", device="cuda")
    jobs = [Job(network, folder, wish) for network in (encoder, generator)]
    assert [job.spec.precision for job in jobs] == ["fp32", "fp16"]
    assert [job.sidecar.name for job in jobs] == [
        "codeformer-encoder-fp32-b8-32x32.json",
        "codeformer-generator-fp16-b8-32x32.json",
    ]
    inputs = encoder.random_inputs(1, seed=0)
    network = open_torch(encoder, precision="bf16", batch_size=1, device="cpu")
    assert torch.equal(network(inputs)["logits"], encoder.reference(inputs)["logits"])


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_engines_on_the_cpu(folder: Path, backend: str) -> None:
    for network in opened(folder):
        engine = open_exportable(
            network, engines=folder / "engines", backend=backend, precision="fp32", device="cpu", batch_size=4
        )
        inputs = network.random_inputs(1, seed=11)
        for name, wanted in network.reference(inputs).items():
            assert relative_l2(engine(inputs)[name], wanted) <= 1e-5


class Spoilt:
    """A network whose outputs are changed, as an engine that computes wrongly gives them."""

    def __init__(self, network: Exportable, change: str) -> None:
        spec = tiny_spec(network, "torch")
        self.name, self.device, self.batch_size, self.num_streams = spec.name, "cpu", 1, 1
        self.inputs, self.outputs = spec.inputs, spec.outputs
        self._network, self._change = network, change

    def __call__(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        outputs = self._network.reference(inputs)
        if self._change == "half":
            outputs["logits"] = outputs["logits"].half().float()
        if self._change == "places":
            outputs["logits"] = outputs["logits"].flip(1)
        return outputs


@pytest.mark.parametrize("change", ["half", "places"])
def test_an_encoder_that_chooses_other_codes_is_refused(folder: Path, change: str) -> None:
    encoder, _ = opened(folder)
    inputs = encoder.random_inputs(2, seed=1)
    expected = encoder.reference(inputs)
    good: Network = Spoilt(encoder, "nothing")
    assert measure(good, inputs, expected, backend="test", precision="fp32").worst == 0
    bad: Network = Spoilt(encoder, change)
    with pytest.raises(RunError, match="codeformer-encoder by test in fp32 is not accurate: logits"):
        measure(bad, inputs, expected, backend="test", precision="fp32")


def test_logits_within_the_limit_choose_the_same_codes(folder: Path) -> None:
    """What the limit of 1e-5 is worth: the share of codes that an error of its size changes is below 0.1 %."""
    encoder, _ = opened(folder)
    logits = encoder.reference(encoder.random_inputs(8, seed=5))["logits"]
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    rms = logits.square().mean().sqrt()
    shares = {
        e: (logits + e * rms * noise).argmax(-1).ne(logits.argmax(-1)).float().mean() for e in (1e-5, 0.1)
    }
    assert shares[1e-5] < 1e-3 < shares[0.1]


def test_generators_inputs_are_what_its_encoder_sees(folder: Path) -> None:
    encoder, generator = opened(folder)
    inputs = generator.random_inputs(2, seed=4)
    seen = encoder.reference(encoder.random_inputs(2, seed=4))
    assert list(inputs) == [port.name for port in generator.inputs]
    assert torch.equal(inputs["codes"], seen["logits"].argmax(dim=-1))
    assert all(torch.equal(inputs[name], seen[name]) for name in ("mean", "deviation", "features_16"))
    again = generator.random_inputs(1, seed=4)
    assert all(torch.equal(again[name][0], inputs[name][0]) for name in again)


def test_tensorrt_rtx_ahead_of_time(folder: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    if torch.cuda.is_available():
        pytest.skip("says what a machine without a card does")
    targets = ("sm80", "sm86", "sm89", "sm120")
    wish = Wish(backend="tensorrt-rtx", precision="fp16", batch_size=2, targets=targets)
    for network in opened(folder):
        engine, _ = build_engine(Job(network, folder / "engines", replace(wish, device="cuda").checked()))
        assert engine.record.key["target"]["targets"] == sorted(targets)
