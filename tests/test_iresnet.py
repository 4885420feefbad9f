"""IResNet against the published counts, key names and a functional reference; its ONNX against itself."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from d2r_fast.engine.models import configs
from d2r_fast.engine.models.init import random_recogniser
from d2r_fast.export.recogniser import export_recogniser
from d2r_fast.recognition.iresnet import DEPTHS, IResNet, iresnet

from .initmodels import mini_models

MINI = {"num_blocks": (2, 1, 1, 1), "widths": (8, 8, 16, 16), "embedding_dim": 24}


def mini(*, seed: int = 0, dropout: float = 0.0) -> IResNet:
    return IResNet(**MINI, seed=seed, dropout=dropout)


def lived_in(network: IResNet) -> IResNet:
    """With norms, slopes and statistics that are not their initial ones, as after training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.dtype == torch.float32 and value.ndim == 1:
                value += torch.rand(value.shape, generator=generator) * (0.5 if "weight" in name else 0.2)
    return network.eval()


def crops(count: int) -> Tensor:
    return torch.rand(count, 3, 112, 112, generator=torch.Generator().manual_seed(2)) * 2 - 1


# arcface_torch's published sizes, counted from its layers
@pytest.mark.parametrize(
    ("depth", "count"), [(18, 24_025_600), (34, 34_139_328), (50, 43_590_848), (100, 65_156_160)]
)
def test_number_of_parameters(depth: int, count: int) -> None:
    with torch.device("meta"):
        network = iresnet(depth)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def expected_keys(num_blocks: tuple[int, ...]) -> set[str]:
    def norm(name: str) -> list[str]:
        return [
            f"{name}.{key}"
            for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        ]

    keys = [
        "conv1.weight",
        *norm("bn1"),
        "prelu.weight",
        *norm("bn2"),
        "fc.weight",
        "fc.bias",
        *norm("features"),
    ]
    for layer, count in enumerate(num_blocks, 1):
        for block in range(count):
            stem = f"layer{layer}.{block}"
            keys += [f"{stem}.conv1.weight", f"{stem}.conv2.weight", f"{stem}.prelu.weight"]
            keys += norm(f"{stem}.bn1") + norm(f"{stem}.bn2") + norm(f"{stem}.bn3")
        keys += [f"layer{layer}.0.downsample.0.weight", *norm(f"layer{layer}.0.downsample.1")]
    return set(keys)


@pytest.mark.parametrize("depth", DEPTHS)
def test_key_names_are_insightfaces(depth: int) -> None:
    with torch.device("meta"):
        assert set(iresnet(depth).state_dict()) == expected_keys(DEPTHS[depth])


def reference(state: dict[str, Tensor], num_blocks: tuple[int, ...], x: Tensor) -> Tensor:
    """The network in eval mode, written from its description, in float64."""
    state = {name: value.double() for name, value in state.items()}

    def norm(name: str, x: Tensor) -> Tensor:
        shape = (1, -1, 1, 1) if x.ndim == 4 else (1, -1)
        mean, variance, weight, bias = (
            state[f"{name}.{key}"].view(shape) for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    def prelu(name: str, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, x * state[f"{name}.weight"].view(1, -1, 1, 1))

    x = prelu("prelu", norm("bn1", F.conv2d(x.double(), state["conv1.weight"], padding=1)))
    for layer, count in enumerate(num_blocks, 1):
        for block in range(count):
            stem, stride = f"layer{layer}.{block}", 1 + (block == 0)
            y = F.conv2d(norm(f"{stem}.bn1", x), state[f"{stem}.conv1.weight"], padding=1)
            y = prelu(f"{stem}.prelu", norm(f"{stem}.bn2", y))
            y = norm(f"{stem}.bn3", F.conv2d(y, state[f"{stem}.conv2.weight"], stride=stride, padding=1))
            if block == 0:
                x = norm(f"{stem}.downsample.1", F.conv2d(x, state[f"{stem}.downsample.0.weight"], stride=2))
            x = x + y
    x = norm("bn2", x).reshape(len(x), -1) @ state["fc.weight"].T + state["fc.bias"]
    return norm("features", x)


def test_forward_is_the_described_network() -> None:
    network, x = lived_in(mini()), crops(3)
    with torch.no_grad():
        torch.testing.assert_close(
            network(x), reference(network.state_dict(), MINI["num_blocks"], x).float(), rtol=1e-4, atol=1e-4
        )


def test_full_width_ends_in_seven_by_seven() -> None:
    network = iresnet(18).eval()
    assert network.fc.in_features == 512 * 7 * 7
    with torch.no_grad():
        assert network(crops(1)).shape == (1, 512)


def test_seed_alone_decides_the_weights() -> None:
    before = torch.get_rng_state()
    first, second, other = mini(seed=3), mini(seed=3), mini(seed=4)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first.state_dict()[key], value) for key, value in second.state_dict().items())
    assert not torch.equal(first.conv1.weight, other.conv1.weight)
    assert first.layer4[0].conv1.weight.std().item() == pytest.approx(0.1, rel=0.1)


def test_learns_and_keeps_the_feature_scale() -> None:
    network, x, labels = mini().train(), crops(4), torch.arange(4)
    optimiser = torch.optim.SGD((p for p in network.parameters() if p.requires_grad), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(5):
        loss = F.cross_entropy(network(x), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert torch.equal(network.features.weight, torch.ones(24))
    assert network.features.bias.abs().max() > 0


def test_dropout_is_for_training() -> None:
    network, x = mini(dropout=0.5), crops(4)
    network.train()
    with torch.random.fork_rng(devices=()), torch.no_grad():
        assert not torch.equal(network(x), network(x))
    network.eval()
    with torch.no_grad():
        assert torch.equal(network(x), network(x))


def test_autocast_keeps_the_embedding_in_float32() -> None:
    network, x = lived_in(mini()), crops(2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = network(x)
    with torch.no_grad():
        high = network(x)
    assert low.dtype == torch.float32
    assert 0 < (low - high).norm() / high.norm() < 0.05  # the trunk did run in bfloat16


def test_unknown_depth_names_the_known() -> None:
    with pytest.raises(ValueError, match="18, 34, 50, 100"):
        iresnet(101)


def check_parity(network: IResNet, path: Path, counts: tuple[int, ...]) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in counts:
        x = crops(count)
        with torch.no_grad():
            wanted = network(x).numpy()
        (given,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert np.linalg.norm(given - wanted) <= 1e-5 * np.linalg.norm(wanted)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[IResNet, Path]:
    """The mini model folder's recogniser, whose norms, slopes and statistics are all other than initial."""
    folder = mini_models(tmp_path_factory.getbasetemp())
    return random_recogniser(configs.MINI, 0), folder / "antelopev2/arcface.onnx"


def test_onnx_equals_torch_at_any_batch(exported: tuple[IResNet, Path]) -> None:
    check_parity(*exported, counts=(1, 2, 7))


def test_onnx_is_what_insightface_routes_to_a_recogniser(exported: tuple[IResNet, Path]) -> None:
    model = onnx.load(exported[1])
    onnx.checker.check_model(model, full_check=True)
    assert [opset.version for opset in model.opset_import if opset.domain == ""] == [18]
    (taken,), (given,) = model.graph.input, model.graph.output
    assert taken.name == "data"
    assert [side.dim_value for side in taken.type.tensor_type.shape.dim][1:] == [3, 112, 112]
    assert taken.type.tensor_type.shape.dim[0].dim_param
    assert given.type.tensor_type.shape.dim[1].dim_value == 64
    # a Sub and a Mul among the first eight would mean that the graph normalises pixels by itself
    assert not {"Sub", "Mul"} & {node.op_type for node in model.graph.node[:8]}


def test_onnx_names_no_machine(exported: tuple[IResNet, Path]) -> None:
    data = exported[1].read_bytes()
    assert b".py" not in data
    assert str(Path.cwd()).encode() not in data


def test_a_training_network_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="eval mode"):
        export_recogniser(mini().train(), tmp_path / "no.onnx")


@pytest.mark.slow
def test_full_size_parity(tmp_path: Path) -> None:
    network = random_recogniser(configs.FULL, 0)
    export_recogniser(network, tmp_path / "r100.onnx")
    check_parity(network, tmp_path / "r100.onnx", counts=(1, 3))
