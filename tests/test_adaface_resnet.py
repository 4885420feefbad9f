"""AdaFace's residual network against published counts, key names, a functional reference and golden numbers."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.adaface_resnet import AdaFaceResNet
from d2r_fast.recognition.backbone import build_backbone
from d2r_fast.recognition.backbone_config import BackboneConfig
from d2r_fast.recognition.iresnet import DEPTHS, IResNet

from .mininetworks import LAYOUTS, fill, tensor

GOLDEN = json.loads((Path(__file__).parent / "golden" / "backbones.json").read_text())
MINI = {"num_blocks": (2, 1, 2, 1), "widths": (8, 8, 16, 16), "embedding_dim": 24}


def mini(*, seed: int = 0, dropout: float = 0.0) -> AdaFaceResNet:
    return AdaFaceResNet(**MINI, seed=seed, dropout=dropout)


def skeleton(**values: object) -> nn.Module:
    with torch.device("meta"):
        return build_backbone(BackboneConfig(**values), seed=0)


# AdaFace's networks, counted from its layers
@pytest.mark.parametrize(
    ("depth", "count"), [(18, 24_020_352), (34, 34_134_080), (50, 43_585_600), (100, 65_150_912)]
)
def test_number_of_parameters(depth: int, count: int) -> None:
    network = skeleton(name=f"ir_{depth}", layout="adaface")
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def expected_keys(num_blocks: tuple[int, ...]) -> list[str]:
    """In the published order: the tail comes before the body."""

    def norm(name: str, *, affine: bool = True) -> list[str]:
        keys = ["running_mean", "running_var", "num_batches_tracked"]
        return [f"{name}.{key}" for key in (["weight", "bias"] * affine + keys)]

    keys = ["input_layer.0.weight", *norm("input_layer.1"), "input_layer.2.weight", *norm("output_layer.0")]
    keys += ["output_layer.3.weight", "output_layer.3.bias", *norm("output_layer.4", affine=False)]
    starts = [sum(num_blocks[:stage]) for stage in (1, 2, 3)]  # the first stage has 64 channels, as the input
    for block in range(sum(num_blocks)):
        stem = f"body.{block}"
        if block in starts:
            keys += [f"{stem}.shortcut_layer.0.weight", *norm(f"{stem}.shortcut_layer.1")]
        keys += [*norm(f"{stem}.res_layer.0"), f"{stem}.res_layer.1.weight", *norm(f"{stem}.res_layer.2")]
        keys += [f"{stem}.res_layer.3.weight", f"{stem}.res_layer.4.weight", *norm(f"{stem}.res_layer.5")]
    return keys


@pytest.mark.parametrize("depth", DEPTHS)
def test_key_names_are_adafaces(depth: int) -> None:
    network = skeleton(name=f"ir_{depth}", layout="adaface")
    assert list(network.state_dict()) == expected_keys(DEPTHS[depth])


def reference(state: dict[str, Tensor], num_blocks: tuple[int, ...], x: Tensor) -> Tensor:
    """The network in eval mode, written from its description, in float64."""
    state = {name: value.double() for name, value in state.items()}

    def norm(name: str, x: Tensor) -> Tensor:
        shape = (1, -1, 1, 1) if x.ndim == 4 else (1, -1)
        mean, variance = (state[f"{name}.{key}"].view(shape) for key in ("running_mean", "running_var"))
        x = (x - mean) / (variance + 1e-5).sqrt()
        if f"{name}.weight" not in state:
            return x
        return x * state[f"{name}.weight"].view(shape) + state[f"{name}.bias"].view(shape)

    def prelu(name: str, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, x * state[f"{name}.weight"].view(1, -1, 1, 1))

    x = norm("input_layer.1", F.conv2d(x.double(), state["input_layer.0.weight"], padding=1))
    x = prelu("input_layer.2", x)
    starts = {sum(num_blocks[:stage]) for stage in range(4)}
    for block in range(sum(num_blocks)):
        stem, stride = f"body.{block}", 1 + (block in starts)
        y = F.conv2d(norm(f"{stem}.res_layer.0", x), state[f"{stem}.res_layer.1.weight"], padding=1)
        y = prelu(f"{stem}.res_layer.3", norm(f"{stem}.res_layer.2", y))
        y = F.conv2d(y, state[f"{stem}.res_layer.4.weight"], stride=stride, padding=1)
        shortcut = x[..., ::stride, ::stride]
        if y.shape[1] != x.shape[1]:
            kernel = state[f"{stem}.shortcut_layer.0.weight"]
            shortcut = norm(f"{stem}.shortcut_layer.1", F.conv2d(shortcut, kernel))
        x = norm(f"{stem}.res_layer.5", y) + shortcut
    x = norm("output_layer.0", x).reshape(len(x), -1) @ state["output_layer.3.weight"].T
    return norm("output_layer.4", x + state["output_layer.3.bias"])


def test_forward_is_the_described_network() -> None:
    network, x = fill(mini()), tensor(3, 3, 112, 112, key=1)
    with torch.no_grad():
        wanted = reference(network.state_dict(), MINI["num_blocks"], x).float()
        torch.testing.assert_close(network(x), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("depth", [18, *(pytest.param(d, marks=pytest.mark.slow) for d in (34, 50, 100))])
def test_outputs_are_the_publishers(layout: str, depth: int) -> None:
    """Golden numbers of InsightFace's and AdaFace's own modules with the same weights, which load strictly."""
    golden = GOLDEN["networks"][f"{layout} ir_{depth}"]
    network = fill(build_backbone(BackboneConfig(name=f"ir_{depth}", layout=layout), seed=0))
    with torch.no_grad():
        embeddings = network(tensor(2, 3, 112, 112, key=999)).double()
    norms, first = torch.tensor(golden["norms"]).double(), torch.tensor(golden["first"]).double()
    torch.testing.assert_close(embeddings.norm(dim=1), norms, rtol=1e-5, atol=0)
    limit = 1e-5 * float(norms.max()) / embeddings.shape[1] ** 0.5 * 4  # of a typical element's size
    torch.testing.assert_close(embeddings[:, :6], first, rtol=0, atol=limit)


def test_seed_alone_decides_the_weights() -> None:
    before = torch.get_rng_state()
    first, second, other = mini(seed=3), mini(seed=3), mini(seed=4)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first.state_dict()[key], value) for key, value in second.state_dict().items())
    kernel = first.body[5].res_layer[1].weight
    assert not torch.equal(kernel, other.body[5].res_layer[1].weight)
    assert kernel.std().item() == pytest.approx((2 / (16 * 9)) ** 0.5, rel=0.1)
    linear = first.output_layer[3]
    assert linear.weight.std().item() == pytest.approx((2 / 24) ** 0.5, rel=0.1)
    assert not linear.bias.any()


def test_learns() -> None:
    network, x, labels = mini().train(), tensor(4, 3, 112, 112, key=2), torch.arange(4)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(5):
        loss = F.cross_entropy(network(x), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    statistics = network.output_layer[4].running_mean
    assert statistics.abs().max() > 0


def test_dropout_is_for_training() -> None:
    network, x = mini(dropout=0.5), tensor(4, 3, 112, 112, key=3)
    with torch.random.fork_rng(devices=()), torch.no_grad():
        network.train()
        assert not torch.equal(network(x), network(x))
        network.eval()
        assert torch.equal(network(x), network(x))


def test_autocast_keeps_the_embedding_in_float32() -> None:
    network, x = fill(mini()), tensor(2, 3, 112, 112, key=4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = network(x)
    with torch.no_grad():
        high = network(x)
    assert low.dtype == torch.float32
    assert 0 < (low - high).norm() / high.norm() < 0.05  # the trunk did run in bfloat16


def test_layouts_own_dropout_and_colours() -> None:
    ours, theirs = (BackboneConfig(layout=layout) for layout in LAYOUTS)
    assert (ours.dropout_rate, ours.channel_order) == (0.0, "rgb")
    assert (theirs.dropout_rate, theirs.channel_order) == (0.4, "bgr")
    assert theirs.resolved().dropout == 0.4
    other = BackboneConfig(layout="adaface", dropout=0.0, channels="rgb")
    assert (other.dropout_rate, other.channel_order) == (0.0, "rgb")
    network = build_backbone(BackboneConfig(name="ir_18", layout="adaface", width=0.125), seed=0)
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.4]


def test_build_backbone_follows_the_config() -> None:
    network = skeleton(name="ir_34", width=0.5, embedding_dim=128)
    assert isinstance(network, IResNet)
    assert network.conv1.out_channels == 32
    assert network.fc.weight.shape == (128, 256 * 49)
    assert [len(stage) for stage in (network.layer1, network.layer2, network.layer3, network.layer4)] == [
        3,
        4,
        6,
        3,
    ]
    half = skeleton(name="ir_18", layout="adaface", width=0.3)
    assert isinstance(half, AdaFaceResNet)
    assert [half.body[n].res_layer[1].out_channels for n in (0, 2, 4, 6)] == [19, 38, 77, 154]


def test_ir_101_is_adafaces_name_of_ir_100() -> None:
    assert BackboneConfig(name="ir_101") == BackboneConfig(name="ir_100")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "ir_200"}, "name = 'ir_200': input should be 'ir_18', 'ir_34', 'ir_50' or 'ir_100'"),
        ({"name": 50}, "name = 50"),
        ({"width": 0}, "width = 0"),
        ({"width": 1.5}, "width = 1.5"),
        ({"width": 0.005}, "width 0.005 leaves the first stage no channel"),
        ({"layout": "facenet"}, "layout = 'facenet'"),
        ({"channels": "gbr"}, "channels = 'gbr'"),
        ({"dropout": 1.0}, "dropout = 1.0"),
        ({"embeding_dim": 512}, "did you mean 'embedding_dim'"),
    ],
)
def test_a_config_is_checked(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        BackboneConfig(**values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
