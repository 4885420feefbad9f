"""StyleGAN2, e4e and pSp against the public modules' numbers, their description and their published sizes."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from d2r_fast.translation.stylegan.checkpoint import read_parts
from d2r_fast.translation.stylegan.encoder import Encoder, Kind, load_encoder
from d2r_fast.translation.stylegan.generator import Generator, GeneratorShape, load_generator
from d2r_fast.translation.stylegan.layers import ModulatedConv2d
from d2r_fast.translation.stylegan.networks import averaged, output_side
from d2r_fast.translation.stylegan.random_weights import ENCODERS, GENERATORS, write_random_weights

# Recorded from the public modules with their sizes replaced, given the mini checkpoint of seed 1.
GOLDEN = json.loads((Path(__file__).parent / "golden" / "stylegan.json").read_text())
KINDS: tuple[Kind, ...] = ("e4e", "psp")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture
def mini(tmp_path: Path, kind: Kind) -> Path:
    write_random_weights(tmp_path / "mini.pt", size="mini", seed=1, kind=kind)
    return tmp_path / "mini.pt"


def networks(path: Path, kind: Kind) -> tuple[Encoder, Generator, Tensor]:
    parts = read_parts(path)
    assert parts.latent_avg is not None
    encoder = load_encoder(parts.encoder, path, kind=kind)
    return encoder, load_generator(parts.generator, path), parts.latent_avg


def waves(*shape: int) -> Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 0.37).float().reshape(shape)


@torch.no_grad()
def test_numbers_are_the_public_modules(mini: Path, kind: Kind) -> None:
    encoder, generator, average = networks(mini, kind)
    latents = encoder(waves(2, 3, 32, 32)) + average
    image = generator(latents)
    mapped = generator.style(torch.sin(torch.arange(24.0)).reshape(2, 12))
    found = {
        "latents": latents[:, ::2, ::4],
        "image": image[:, :, 3::13, 5::11],
        "mapped": mapped[:, ::3],
    }
    for name, values in GOLDEN[kind].items():
        torch.testing.assert_close(found[name].flatten(), torch.tensor(values), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_rows_do_not_touch_each_other(mini: Path, kind: Kind) -> None:
    encoder, generator, _ = networks(mini, kind)
    images = waves(3, 3, 32, 32)
    latents = encoder(images)
    assert latents.shape == (3, 8, 12)
    assert (latents[0] - latents[1]).abs().max() > 0.01  # it looks at the image
    torch.testing.assert_close(encoder(images[1:2]), latents[1:2], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(generator(latents[1:2]), generator(latents)[1:2], rtol=1e-5, atol=1e-5)


def modulated(layer: ModulatedConv2d, x: Tensor, style: Tensor, *, upsample: bool) -> Tensor:
    """One image by weights of its own, as the paper writes it, in float64."""
    scale = style.double() @ layer.modulation.weight.double().T / math.sqrt(style.shape[0])
    scale = scale + layer.modulation.bias.double()
    weight = layer.weight[0].double() / math.sqrt(layer.weight[0, 0].numel()) * scale[:, None, None]
    weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
    if not upsample:
        return F.conv2d(x.double(), weight, padding=1)
    doubled = torch.zeros(*x.shape[:2], 2 * x.shape[2] - 1, 2 * x.shape[3] - 1, dtype=torch.float64)
    doubled[:, :, ::2, ::2] = x.double()
    wide = F.conv2d(F.pad(doubled, (2, 2, 2, 2)), weight.flip(2, 3))
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 4
    for axis, shape in ((3, (1, 1, 1, 4)), (2, (1, 1, 4, 1))):
        padding = (1, 1, 0, 0) if axis == 3 else (0, 0, 1, 1)
        wide = F.conv2d(
            F.pad(wide, padding), taps.reshape(shape).expand(wide.shape[1], -1, -1, -1), groups=wide.shape[1]
        )
    return wide


@pytest.mark.parametrize("upsample", [False, True])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e5])
@torch.no_grad()
def test_modulated_activations_are_modulated_weights(upsample: bool, size: float) -> None:
    layer = ModulatedConv2d(6, 5, 4, upsample=upsample)
    for index, parameter in enumerate(layer.parameters()):
        parameter.copy_(waves(parameter.numel() + index)[index:].reshape(parameter.shape))
    if upsample:
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
        layer.blur.kernel.copy_(taps[:, None] * taps)
    layer.settle()
    x, styles = waves(2, 6, 5, 5), torch.stack([waves(4), waves(8)[4:]]) * size
    given = layer(x, styles)
    wanted = torch.cat(
        [modulated(layer, x[row : row + 1], styles[row], upsample=upsample) for row in range(2)]
    )
    assert given.shape == wanted.shape == (2, 5, *((10, 10) if upsample else (5, 5)))
    torch.testing.assert_close(given.double(), wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_large_styles_stay_in_half_precision() -> None:
    layer = ModulatedConv2d(8, 8, 4)
    for parameter in layer.parameters():
        parameter.copy_(waves(parameter.numel()).reshape(parameter.shape))
    layer.settle()
    x, style = 100 * waves(1, 8, 6, 6), torch.full((1, 4), 2e4)
    wanted = layer(x, style)
    given = layer.half()(x.half(), style.half())
    assert (given.float() - wanted).norm() < 5e-3 * wanted.norm()


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_published_sizes(kind: Kind) -> None:
    with torch.device("meta"):
        encoder, generator = Encoder(ENCODERS["full"], kind=kind), Generator(GENERATORS["full"])
        small = Generator(GeneratorShape((512, 512, 512, 512, 512, 256, 128)))
    assert (count(encoder), len(encoder.state_dict()), encoder.shape.side) == (267_136_704, 621, 256)
    assert (count(generator), len(generator.state_dict()), generator.shape.num_styles) == (
        30_370_060,
        171,
        18,
    )
    assert (small.shape.resolution, small.shape.num_styles, count(small)) == (256, 14, 30_034_338)


def test_sizes_are_read_from_names_and_shapes(mini: Path, kind: Kind) -> None:
    encoder, generator, _ = networks(mini, kind)
    assert encoder.shape == ENCODERS["mini"]
    assert generator.shape == GENERATORS["mini"]


def test_seed_alone_decides_the_weights(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_random_weights(tmp_path / name, size="mini", seed=seed)
    a, b, c = (read_parts(tmp_path / name).generator["input.input"] for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize(
    ("resolution", "wanted", "side"), [(1024, 112, 256), (1024, 300, 512), (1024, 3000, 1024), (32, 112, 32)]
)
def test_images_are_averaged_to_what_is_wanted(resolution: int, wanted: int, side: int) -> None:
    assert output_side(resolution, wanted=wanted) == side


def test_average_is_the_adaptive_pool() -> None:
    images = waves(2, 3, 32, 32)
    torch.testing.assert_close(averaged(images, 8), F.adaptive_avg_pool2d(images, 8))
    assert averaged(images, 32) is images
