"""StyleGAN inversion as a method: what it opens, what it refuses, and that a search finds what it looks for."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from d2r_fast.engine.errors import UserError
from d2r_fast.translation.config import TranslateRecipe
from d2r_fast.translation.methods import open_method
from d2r_fast.translation.opened import open_networks
from d2r_fast.translation.stylegan import projection
from d2r_fast.translation.stylegan.checkpoint import breach_of, read_parts
from d2r_fast.translation.stylegan.generator import load_generator
from d2r_fast.translation.stylegan.method import StyleganInversion
from d2r_fast.translation.stylegan.projection import Clock, distance, learning_rate_at, picture_in, shake_at

KEYS = torch.tensor([[7, 0], [7, 1], [-3, 0]])


def recipe(**values: Any) -> TranslateRecipe:
    return TranslateRecipe(method="stylegan-inversion", **values)


def opened(path: Path, **values: Any) -> StyleganInversion:
    method = open_method(recipe(**values), path)
    assert isinstance(method, StyleganInversion)
    return method


@pytest.fixture
def content(e4e: Path) -> dict[str, Any]:
    """The mini checkpoint, to be changed."""
    loaded: dict[str, Any] = torch.load(e4e, weights_only=True)
    return loaded


def saved(content: dict[str, Any], folder: Path) -> Path:
    torch.save(content, folder / "changed.pt")
    return folder / "changed.pt"


def pictures(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


def translated(method: StyleganInversion, images: Tensor, keys: Tensor) -> Tensor:
    size = (images.shape[1], images.shape[2])
    networks = open_networks(
        method, size, backend="torch", precision="fp32", engines=None, device="cpu", batch_size=2
    )
    return method.finish(method.run(networks, method.prepare(images), keys), size)


@pytest.mark.parametrize("size", [(32, 32), (50, 20), (16, 48)])
def test_image_in_image_out(e4e: Path, size: tuple[int, int]) -> None:
    images = pictures(3, *size)
    method = opened(e4e)
    method.check(size)
    given = translated(method, images, KEYS)
    assert given.shape == images.shape
    assert given.dtype == torch.uint8
    assert given.float().std() > 10
    assert torch.equal(translated(method, images[1:2], KEYS[1:2]), given[1:2])
    assert not torch.equal(given[0], given[1])


def test_pixels_as_the_encoder_takes_them(e4e: Path) -> None:
    method = opened(e4e)
    white = torch.full((1, 64, 40, 3), 255, dtype=torch.uint8)
    assert torch.allclose(method.prepare(white), torch.ones(1, 3, 32, 32))
    images = pictures(1, 32, 32)
    assert torch.equal(method.finish(method.prepare(images), (32, 32)), images)
    assert method.finish(torch.full((1, 3, 32, 32), 9.0), (8, 8)).unique().tolist() == [255]


def test_the_average_latent_is_added_where_training_began_from_it(
    content: dict[str, Any], tmp_path: Path
) -> None:
    def latents() -> Tensor:
        encoder, _ = opened(saved(content, tmp_path)).networks((32, 32))
        return encoder.load()(torch.zeros(1, 3, 32, 32))

    given, average = latents(), content["latent_avg"]
    content["latent_avg"] = average[:1]  # one for all rows, which are the same here
    assert torch.equal(latents(), given)
    content["opts"]["start_from_latent_avg"] = False
    torch.testing.assert_close(latents() + average, given)


@pytest.mark.parametrize(
    ("opts", "encoder", "words"),
    [
        (
            {"id_lambda": 0.1},
            True,
            "started from a face-recognition network .* ArcFace's loss .id_lambda 0.1",
        ),
        ({"id_lambda": 0}, True, "started from a face-recognition network .IR-SE50.[^;]*$"),
        ({}, True, "does not say"),
        ({"id_lambda": 0.1, "train_decoder": True}, False, "trained along with ArcFace's loss"),
    ],
)
def test_breach_of_the_rule_is_said(opts: dict[str, Any], encoder: bool, words: str) -> None:
    assert re.search(words, breach_of(opts, encoder=encoder) or "")


def test_a_search_obeys_the_rule(e4e: Path) -> None:
    assert opened(e4e).breach
    assert opened(e4e, latent="w").breach is None


def generator_alone(content: dict[str, Any]) -> dict[str, Any]:
    """As rosinality's stylegan2-ffhq-config-f.pt holds it."""
    table = content["state_dict"]
    generator = {name.removeprefix("decoder."): v for name, v in table.items() if name.startswith("decoder.")}
    return {"g_ema": generator, "latent_avg": content["latent_avg"][0]}


def spoil(content: dict[str, Any], *, remove: str = "", opts: dict[str, Any] | None = None) -> dict[str, Any]:
    table = {
        name: value
        for name, value in content["state_dict"].items()
        if not (remove and name.startswith(remove))
    }
    return content | {"state_dict": table, "opts": content["opts"] | (opts or {})}


REFUSED = [
    (generator_alone, {}, "holds a StyleGAN2 generator and no encoder.*--latent w or w\\+"),
    (lambda c: spoil(c, opts={"encoder_type": "BackboneEncoderUsingLastLayerIntoW"}), {}, "IntoW, which is not read"),
    (lambda c: {"state_dict": c["state_dict"], "latent_avg": c["latent_avg"]}, {}, "whether its encoder is e4e's or"),
    (lambda c: {"state_dict": c["state_dict"], "opts": c["opts"]}, {}, "no latent_avg"),
    (lambda c: c | {"latent_avg": torch.zeros(3, 12)}, {}, r"latent_avg is \(3, 12\)"),
    (lambda c: c | {"latent_avg": torch.tensor(0.0)}, {}, r"latent_avg is \(1, 1\)"),
    (lambda c: c | {"latent_avg": torch.zeros(0)}, {}, "no latent_avg"),
    (lambda c: spoil(c, remove="encoder.styles.3.convs."), {}, "the rows of its encoder have .* convolutions"),
    (lambda c: spoil(c, remove="encoder.styles.7"), {}, "gives 7 rows of 12.*32 pixels takes 8"),
    (lambda c: spoil(c, remove="encoder.body.0.res_layer.5"), {}, "its encoder lacks body.0.res_layer.5.fc1.weight"),
    (lambda c: spoil(c, remove="decoder.input."), {}, "its StyleGAN2 lacks input.input"),
    (lambda c: c, {"steps": 5}, "--steps 5 with --latent encoder"),
    (lambda c: c, {"size": 256}, "sees 32 pixels"),
    (lambda c: {"synthesis.b4.const": torch.zeros(1), "mapping.fc0.weight": torch.zeros(1)}, {}, "NVIDIA's layout"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "settings", "words"), REFUSED)
def test_what_cannot_be_inverted_with_is_refused(
    change: Any, settings: dict[str, Any], words: str, content: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        opened(saved(change(content), tmp_path), **settings)
    assert "\n" not in str(caught.value)


def test_an_encoder_of_sketches_is_refused(content: dict[str, Any], tmp_path: Path) -> None:
    name = "encoder.input_layer.0.weight"
    content["state_dict"][name] = content["state_dict"][name][:, :1]
    with pytest.raises(UserError, match="takes 1 channels"):
        opened(saved(content, tmp_path))


@pytest.mark.parametrize("name", ["encoder.latlayer1.bias", "decoder.noises.noise_3"])
def test_missing_tensors_are_named(content: dict[str, Any], tmp_path: Path, name: str) -> None:
    del content["state_dict"][name]
    networks = opened(saved(content, tmp_path)).networks((32, 32))
    with pytest.raises(UserError, match=re.escape(name.partition(".")[2])):
        [network.load() for network in networks]


def test_a_generator_alone_is_searched_in(content: dict[str, Any], tmp_path: Path) -> None:
    path = saved(generator_alone(content), tmp_path)
    method = opened(path, latent="w", steps=2)
    assert method.networks((32, 32)) == ()
    assert translated(method, pictures(1, 32, 32), KEYS[:1]).shape == (1, 32, 32, 3)


@pytest.mark.parametrize("latent", ["w", "w+"])
def test_a_search_finds_an_image_that_is_there(e4e: Path, latent: str) -> None:
    method = opened(e4e, latent=latent, steps=150)
    generator = load_generator(read_parts(e4e).generator, e4e)
    with torch.no_grad():
        z = torch.randn(1, 12, generator=torch.Generator().manual_seed(8))
        target = generator(generator.style(z)[:, None].repeat(1, 8, 1))
    found = method.run({}, target, KEYS[:1])
    assert found.shape == target.shape
    with torch.no_grad():
        mean = projection.sample_latents(generator).mean
        begun = distance(generator(mean.repeat(1, 8, 1)), target)
        assert distance(found, target) < 0.1 * begun


def test_a_search_depends_on_image_and_key_alone(e4e: Path) -> None:
    targets = opened(e4e).prepare(pictures(3, 32, 32))
    method = opened(e4e, latent="w+", steps=3)
    with torch.inference_mode():
        found = method.run({}, targets, KEYS)
    for row in (0, 2):
        assert torch.equal(method.run({}, targets[row : row + 1], KEYS[row : row + 1])[0], found[row])
    again = opened(e4e, latent="w+", steps=3).run({}, targets.flip(0), KEYS.flip(0))
    assert torch.equal(again.flip(0), found)
    assert not torch.equal(method.run({}, targets[:1], KEYS[1:2])[0], found[0])


def test_schedules_are_the_projectors() -> None:
    assert [learning_rate_at(p) for p in (0, 0.025, 0.05, 0.5, 0.75)] == pytest.approx([0, 0.5, 1, 1, 1])
    assert learning_rate_at(0.875) == pytest.approx(0.5)
    assert learning_rate_at(0.999) < 1e-3
    assert [shake_at(p) for p in (0, 0.375, 0.75, 1)] == pytest.approx([0.05, 0.0125, 0, 0])


def test_latents_are_measured_as_the_projector_does(e4e: Path) -> None:
    generator = load_generator(read_parts(e4e).generator, e4e)
    found = projection.sample_latents(generator)
    assert found.mean.shape == (12,)
    with torch.no_grad():
        others = generator.style(torch.randn(4000, 12, generator=torch.Generator().manual_seed(0)))
    assert found.spread == pytest.approx(math.sqrt(float(others.var(0, correction=0).sum())), rel=0.05)


def test_noise_that_carries_a_picture_is_penalised() -> None:
    noise = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    stripes = torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(8).expand(1, 1, 32, 32)
    assert float(picture_in(stripes)) > 0.9
    assert float(picture_in(noise)) < 0.02
    by_hand, level = 0.0, noise[0, 0].double()
    while True:
        for axis in (0, 1):
            by_hand += float((level * torch.roll(level, 1, axis)).mean()) ** 2
        if len(level) == 8:
            break
        level = level.reshape(len(level) // 2, 2, -1, 2).mean((1, 3))
    assert float(picture_in(noise)) == pytest.approx(by_hand, rel=1e-4)


def test_how_long_an_image_takes_is_said_once() -> None:
    lines: list[str] = []
    clock = Clock(100, lines.append)
    for step in range(1, 101):
        clock(step)
    assert len(lines) == 1
    assert re.search(r"100 steps an image, about \S+ s: for tens of images", lines[0])
