"""VSAIT's, DECENT's and UNSB's generators: the published modules' numbers, and what they are not looked at for."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2r_fast.engine.errors import UserError
from d2r_fast.translation.gan.blocks import InstanceNorm
from d2r_fast.translation.gan.blur import BinomialDown, BinomialUp, GaussianDown, GaussianUp
from d2r_fast.translation.gan.decent import DecentGenerator
from d2r_fast.translation.gan.networks import GENERATORS
from d2r_fast.translation.gan.random_weights import GanName
from d2r_fast.translation.gan.unsb import MARKER, UnsbGenerator, sines

from .minigenerators import METHODS, closed_form, generator, relative
from .mininetworks import tensor

GOLDEN = json.loads((Path(__file__).parent / "golden" / "generators.json").read_text())["outputs"]
NOW = torch.zeros(1, dtype=torch.int64)
LAYERS = (0, 4, 8, 12, 16)
WITHOUT_EFFECT = (".conv_block.", ".Dense_time.", ".style.", "time_embed.")


def numbers(output: Tensor) -> tuple[float, list[float]]:
    """What the golden file says of an output."""
    return float(output.double().std()), [*output[0, 0, 5, :3].tolist(), *output[1, 2, 17, 20:23].tolist()]


def assert_golden(output: Tensor, name: str, *, within: float = 2e-5) -> None:
    std, values = numbers(output)
    assert std == pytest.approx(GOLDEN[name]["std"], abs=within)
    assert values == pytest.approx(GOLDEN[name]["values"], abs=within)


@pytest.mark.parametrize("size", ["mini", "full"])
@pytest.mark.parametrize("method", ["vsait", "decent"])
def test_outputs_are_the_publishers(method: GanName, size: str) -> None:
    """UNSB's are tested with its bridge."""
    with torch.no_grad():
        output = generator(method, size=size)(tensor(2, 3, 32, 48, key=999))
    assert_golden(output, f"{method} {size}")


# Counted from the published modules.
@pytest.mark.parametrize(
    ("method", "entries", "count"),
    [("vsait", 52, 11_378_179), ("decent", 52, 11_378_179), ("unsb", 118, 14_684_419)],
)
def test_published_sizes(method: GanName, entries: int, count: int) -> None:
    with torch.device("meta"):
        network = GENERATORS[method]()
    assert len(network.state_dict()) == entries
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("channels", "num_blocks"), [(4, 1), (6, 3), (8, 4)])
def test_sizes_are_told_from_the_tensors(method: GanName, channels: int, num_blocks: int) -> None:
    network = GENERATORS[method](channels, num_blocks)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)
    loaded = GENERATORS[method].from_tensors(network.state_dict(), Path("w"))
    assert list(loaded.state_dict()) == list(network.state_dict())
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert not loaded.training


@pytest.mark.parametrize("method", METHODS)
def test_a_missing_and_an_extra_tensor_are_named(method: GanName) -> None:
    tensors = closed_form(method)
    first = {"vsait": "encoder.net.1.conv.bias"}.get(method, "model.4.bias")
    tensors["a.rest"] = tensors.pop(first)
    with pytest.raises(UserError, match=rf"missing 1 \({first}\), of .*too many: 1 \(a\.rest\)"):
        GENERATORS[method].from_tensors(tensors, Path("w"))


@pytest.mark.parametrize("method", METHODS)
def test_other_filters_are_refused(method: GanName) -> None:
    tensors = closed_form(method)
    name = {"vsait": "decoder.net.2.weight", "decent": "model.17.filt", "unsb": "model_upsample.0.filt"}[
        method
    ]
    tensors[name] = tensors[name] + 1e-3
    with pytest.raises(UserError, match=rf"w has filters of its own in {name}"):
        GENERATORS[method].from_tensors(tensors, Path("w"))


def test_building_leaves_the_global_random_state() -> None:
    before = torch.get_rng_state()
    for kind in GENERATORS.values():
        kind(4, 1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 10)])
def test_filters_are_the_padded_and_sliced_ones(height: int, width: int) -> None:
    """As the published layers say it: pad, convolve with the checkpoint's filter, slice."""
    x = tensor(2, 3, height, width, key=1)
    for blur, pad in ((GaussianDown(3), "constant"), (BinomialDown(3), "reflect")):
        wanted = F.conv2d(F.pad(x, (1, 1, 1, 1), pad), blur.taps, stride=2, groups=3)
        torch.testing.assert_close(blur(x), wanted, rtol=0, atol=1e-6)
    for blur, pad in ((GaussianUp(3), "constant"), (BinomialUp(3), "replicate")):
        doubled = F.conv_transpose2d(F.pad(x, (1, 1, 1, 1), pad), blur.taps, stride=2, padding=2, groups=3)
        torch.testing.assert_close(blur(x), doubled[:, :, 1:-1, 1:-1], rtol=0, atol=1e-6)
        assert blur(x).shape == (2, 3, 2 * height, 2 * width)


def test_instance_norm_is_torchs() -> None:
    x = 100 + 3 * tensor(2, 5, 12, 14, key=2)
    torch.testing.assert_close(InstanceNorm()(x), nn.InstanceNorm2d(5)(x), rtol=0, atol=1e-4)


def test_features_are_those_of_the_layers() -> None:
    network, x = generator("decent"), tensor(2, 3, 24, 32, key=3)
    assert isinstance(network, DecentGenerator)
    with torch.no_grad():
        found, y = network.features(x, LAYERS), x
        assert torch.equal(found[0], F.pad(x, (3, 3, 3, 3), "reflect"))
        for number, layer in enumerate(network.model):
            y = layer(y)
            if number in LAYERS:
                assert torch.equal(found[LAYERS.index(number)], y)
        assert torch.equal(network(x), y)
    assert [tuple(feature.shape[1:]) for feature in found] == [
        (3, 30, 38), (16, 24, 32), (32, 12, 16), (32, 6, 8), (32, 6, 8)
    ]  # fmt: skip


def unsb(*, intended: bool = False) -> UnsbGenerator:
    network = generator("unsb", intended=intended)
    assert isinstance(network, UnsbGenerator)
    return network


def released_block(block: nn.Module, x: Tensor, time: Tensor, code: Tensor) -> Tensor:
    """The released program's loop: every layer of the first half takes the block's input."""
    out = x
    for number, layer in enumerate(block.conv_block):
        out = layer(x)
        if number == 0:
            out = out + block.Dense_time(time)[:, :, None, None]
    return x + block.conv_fin(block.adaptive(out, code))


def test_skipping_what_has_no_effect_changes_no_bit() -> None:
    network, x, z = unsb(), tensor(2, 3, 24, 32, key=4), tensor(2, 32, key=5)
    with torch.no_grad():
        wanted = network(x, NOW, z)
        y, code = network.model(x), network.z_transform(z)
        time = network.time_embed(sines(NOW + 4, network.channels))
        for block in network.model_res:
            y = released_block(block, y, time, code)
        assert torch.equal(network.model_upsample(y), wanted)
        for name, parameter in network.named_parameters():
            if any(part in name for part in WITHOUT_EFFECT):
                parameter.normal_()
        assert torch.equal(network(x, NOW + 3, z), wanted)
        assert not torch.equal(network(x, NOW, -z), wanted)


def test_the_share_without_effect() -> None:
    with torch.device("meta"):
        network = UnsbGenerator()
    idle = [p.numel() for n, p in network.named_parameters() if any(part in n for part in WITHOUT_EFFECT)]
    assert sum(idle) == 7_169_536
    network, x, z = UnsbGenerator(4, 2), tensor(1, 3, 16, 16, key=6), tensor(1, 16, key=7)
    network(x, NOW, z).sum().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == any(part in name for part in WITHOUT_EFFECT), name


def test_intended_blocks_look_at_everything() -> None:
    network, x, z = unsb(intended=True), tensor(2, 3, 24, 32, key=8), tensor(2, 32, key=9)
    network(x, NOW + 1, z).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    with torch.no_grad():
        early, late = network(x, NOW, z), network(x, NOW + 4, z)
        assert relative(early, late) > 1e-3
        each = torch.tensor([0, 4])
        torch.testing.assert_close(network(x, each, z), torch.stack([early[0], late[1]]), rtol=0, atol=1e-5)


def test_a_time_before_the_norm_would_have_no_effect() -> None:
    """Why the intended block is not the released one with its loop put right."""
    block, x = unsb(intended=True).model_res[0], tensor(1, 32, 6, 8, key=10)
    pad, conv, norm = block.conv_block
    with torch.no_grad():
        without, shifted = norm(conv(pad(x))), norm(conv(pad(x) + 5 * tensor(1, 32, 1, 1, key=11)))
    torch.testing.assert_close(shifted, without, rtol=0, atol=1e-4)


def test_which_block_is_told_by_the_marker_alone() -> None:
    released, intended = closed_form("unsb"), closed_form("unsb", intended=True)
    assert MARKER not in released
    assert UnsbGenerator.from_tensors(intended, Path("w")).intended
    assert not UnsbGenerator.from_tensors(released, Path("w")).intended
    with pytest.raises(UserError, match=r"missing 10 .*style.* of"):
        UnsbGenerator.from_tensors({n: v for n, v in intended.items() if n != MARKER}, Path("w"))
    with pytest.raises(UserError, match=r"too many: 10 \(model_res\.0\.style"):
        UnsbGenerator.from_tensors({**released, MARKER: torch.ones(())}, Path("w"))


def test_unsbs_features_go_on_into_the_blocks() -> None:
    network, x, z = unsb(), tensor(2, 3, 24, 32, key=12), tensor(2, 32, key=13)
    with torch.no_grad():
        found, y = network.features(x, LAYERS, NOW, z), network.model(x)
        assert torch.equal(found[2], network.model[:9](x))
        assert torch.equal(network.features(x, (0, 4), NOW, z)[1], found[1])
        code = network.z_transform(z)
        for number, block in enumerate(network.model_res):
            y = block(y, None, code)
            if 12 + number in LAYERS:
                assert torch.equal(found[LAYERS.index(12 + number)], y)


def test_sines_of_steps() -> None:
    found = sines(torch.tensor([0, 3]), 8)
    assert found[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    wanted = torch.tensor([3 * 10_000 ** (-k / 3) for k in range(4)])
    torch.testing.assert_close(found[1], torch.cat([wanted.sin(), wanted.cos()]), rtol=0, atol=1e-6)
