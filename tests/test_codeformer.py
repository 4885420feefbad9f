"""CodeFormer's network against the public module's numbers, and the method made of it against its description."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from d2r_fast.engine.errors import UserError
from d2r_fast.translation.codeformer.method import CodeFormer
from d2r_fast.translation.codeformer.network import CodeFormerNetwork
from d2r_fast.translation.codeformer.random_weights import (
    CONTAINER,
    SIZES,
    Sizes,
    random_tensor,
    shapes_of,
    write_random_weights,
)
from d2r_fast.translation.codeformer.weights import load_network
from d2r_fast.translation.config import TranslateRecipe
from d2r_fast.translation.method import Unfit
from d2r_fast.translation.methods import open_method
from d2r_fast.translation.opened import open_networks

from .mininetworks import fill, tensor

GOLDEN = json.loads((Path(__file__).parent / "golden" / "codeformer.json").read_text())
PUBLIC_MINI = Sizes((32, 32, 64), 2, 8, 64, 32, 3, 64, 96, (16, 32))
"""As the released one in everything but width: two blocks a level, more than one fuse block."""
KEYS = torch.zeros(3, 2, dtype=torch.int64)


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("codeformer") / "codeformer.pth"
    write_random_weights(path, size="mini", seed=0)
    return path


def recipe(**values: Any) -> TranslateRecipe:
    return TranslateRecipe(method="codeformer", **values)


def translated(
    weights: Path, images: Tensor, *, engines: Path, backend: str = "torch", **values: Any
) -> Tensor:
    method = open_method(recipe(**values), weights)
    networks = open_networks(
        method, tuple(images.shape[1:3]), backend=backend, precision="fp32", engines=engines, device="cpu", batch_size=2
    )  # fmt: skip
    return method.run(networks, method.prepare(images), KEYS[: len(images)])


def pictures(count: int, side: int = 28) -> Tensor:
    return ((tensor(count, side, side, 3, key=5) + 1) * 127.5).to(torch.uint8)


# counted from the released file and, by part, from the public module's parameters
def test_released_sizes() -> None:
    shapes = shapes_of(SIZES["full"])
    counts = {stem: 0 for stem in ("encoder", "generator", "quantize", "fuse_convs_dict")}
    for name, shape in shapes.items():
        stem = name.split(".")[0]
        counts[stem if stem in counts else "transformer"] = counts.get(
            stem if stem in counts else "transformer", 0
        ) + int(np.prod(shape))
    assert len(shapes) == 515
    assert counts == {
        "encoder": 29_416_000,
        "generator": 34_061_955,
        "quantize": 262_144,
        "fuse_convs_dict": 10_659_584,
        "transformer": 19_713_024,
    }


def public_mini() -> CodeFormerNetwork:
    network = CodeFormerNetwork(shapes_of(PUBLIC_MINI))
    fill(network)
    return network


def test_outputs_are_the_public_modules() -> None:
    """Golden numbers of the public module at these sizes with the same weights, which load strictly."""
    network = public_mini()
    assert (network.side, len(network.state_dict())) == (GOLDEN["side"], GOLDEN["entries"])
    images = tensor(2, 3, network.side, network.side, key=4242)
    with torch.no_grad():
        seen = network.look(images)
        pictures = {w: network(images, torch.full((2,), float(w))) for w in GOLDEN["w"]}
    assert seen.logits.argmax(dim=-1).tolist() == GOLDEN["codes"]
    close(seen.logits.flatten(1).norm(dim=1), GOLDEN["logits"]["norms"])
    close(seen.logits[:, 0, :6], GOLDEN["logits"]["first"])
    for w, wanted in GOLDEN["w"].items():
        close(pictures[w].flatten(1).norm(dim=1), wanted["norms"])
        close(pictures[w][:, :, 3::9, 5].flatten(1)[:, :12], wanted["pixels"])


@pytest.mark.slow
def test_outputs_at_full_size_are_the_public_modules(tmp_path: Path) -> None:
    """Golden numbers of the public module in its own sizes, w = 0.5, with a checkpoint that it loads strictly."""
    write_random_weights(tmp_path / "codeformer.pth", size="full", seed=1)
    network, _ = load_network(tmp_path / "codeformer.pth")
    with torch.no_grad():
        images = tensor(1, 3, 512, 512, key=77)
        codes = network.look(images).logits.argmax(dim=-1)
        picture = network(images, torch.full((1,), 0.5))
    wanted = GOLDEN["full"]
    assert float(codes.eq(torch.tensor(wanted["codes"])).float().mean()) >= 0.999
    assert float(picture.norm()) == pytest.approx(wanted["norm"], rel=1e-4)
    torch.testing.assert_close(picture[0, :, 7::97, 11], torch.tensor(wanted["pixels"]), rtol=1e-3, atol=1e-3)


def close(given: Tensor, wanted: Any) -> None:
    torch.testing.assert_close(given, torch.tensor(wanted), rtol=1e-4, atol=2e-5)


def test_pictures_side_by_side_are_drawn_as_exactly_as_one() -> None:
    """The generator's first map is no view of the code book, of which torch's group norm made two pictures at full size
    that were 1e-4 from float64; one picture, or two from a map of its own, were 3e-6 from it."""
    network, seen = public_mini(), list[torch.Tensor]()
    network.generator.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(tensor(2, 3, network.side, network.side, key=4242), torch.ones(2))
    assert seen[0].is_contiguous()


def test_without_fuse_blocks_w_is_zero() -> None:
    network, images = public_mini(), tensor(2, 3, 32, 32, key=3)
    with torch.no_grad():
        seen = network.look(images)
        codes = seen.logits.argmax(dim=-1)
        plain = network.draw(codes, seen.mean, seen.deviation, {}, None)
        assert torch.equal(plain, network(images, torch.zeros(2)))
        mixed = network(images, torch.tensor([0.0, 1.0]))  # each row its own
    torch.testing.assert_close(mixed[0], plain[0], rtol=0, atol=1e-6)
    assert (mixed[1] - plain[1]).abs().max() > 0.1


def test_colours_are_the_encoders() -> None:
    """Adaptive instance norm gives the generator a map with the mean and deviation of the encoder's."""
    network, images = public_mini(), tensor(1, 3, 32, 32, key=3)
    given: list[Tensor] = []
    network.generator.blocks[0].register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.no_grad():
        seen = network.look(images)
        network.draw(seen.logits.argmax(dim=-1), seen.mean, seen.deviation, {}, None)
        mapped = images
        for block in network.encoder.blocks:
            mapped = block(mapped)
    wanted = mapped.flatten(2)
    varies = given[0].flatten(2).std(dim=2) > 0.01  # a channel whose codes agree has no deviation to change
    assert varies.float().mean() > 0.5
    torch.testing.assert_close(given[0].flatten(2).mean(dim=2), wanted.mean(dim=2), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        given[0].flatten(2).std(dim=2)[varies], wanted.std(dim=2)[varies], rtol=2e-2, atol=1e-3
    )


def test_weights_are_a_function_of_the_seed(mini: Path, tmp_path: Path) -> None:
    first, _ = load_network(mini)
    write_random_weights(tmp_path / "same.pth", size="mini", seed=0)
    write_random_weights(tmp_path / "other.pth", size="mini", seed=1)
    same, other = (load_network(tmp_path / f"{name}.pth")[0].state_dict() for name in ("same", "other"))
    assert all(torch.equal(same[name], value) for name, value in first.state_dict().items())
    assert not any(torch.equal(other[name], value) for name, value in first.state_dict().items())
    assert mini.stat().st_size < 2**20


def test_method_prepares_as_opencv_enlarges(mini: Path) -> None:
    images = pictures(2)
    prepared = CodeFormer.open(mini, recipe()).prepare(images)
    wanted = [
        cv2.resize(image.numpy().astype(np.float32), (32, 32), interpolation=cv2.INTER_LINEAR)
        for image in images
    ]
    assert prepared.dtype == torch.float32
    torch.testing.assert_close(
        prepared.movedim(1, -1), torch.from_numpy(np.stack(wanted)) / 127.5 - 1, rtol=0, atol=1e-5
    )


def test_method_finishes_as_pillow_shrinks(mini: Path) -> None:
    outputs = 1.2 * tensor(2, 3, 32, 32, key=9)  # beyond the range, which is cut off first
    finished = CodeFormer.open(mini, recipe()).finish(outputs, (14, 14))
    for row, given in zip(outputs.clamp(-1, 1), finished, strict=True):
        pixels = ((row + 1) * 127.5).movedim(0, -1).numpy()
        wanted = [
            Image.fromarray(pixels[..., colour]).resize((14, 14), Image.Resampling.BILINEAR)
            for colour in range(3)
        ]
        assert np.abs(given.numpy() - np.stack(wanted, axis=-1)).max() <= 0.51
    assert finished.dtype == torch.uint8


def test_a_row_is_a_function_of_its_image(mini: Path, tmp_path: Path) -> None:
    images = pictures(3)
    together = translated(mini, images, engines=tmp_path)
    for row in range(3):
        assert torch.equal(translated(mini, images[row : row + 1], engines=tmp_path)[0], together[row])


def test_w_says_how_much_of_the_input_is_kept(mini: Path, tmp_path: Path) -> None:
    images = pictures(2)
    plain, half, whole = (translated(mini, images, engines=tmp_path, w=w) for w in (0.0, 0.5, 1.0))
    assert torch.equal(half, translated(mini, images, engines=tmp_path))  # the default
    assert 0.01 < (half - plain).abs().mean() < (whole - plain).abs().mean()


def test_one_network_for_every_w_but_zero(mini: Path) -> None:
    """So that one engine serves them all; w = 0 leaves the fuse blocks out of the graph."""
    opened = {w: CodeFormer.open(mini, recipe(w=w)).networks((112, 112)) for w in (0.0, 0.2, 1.0)}
    sources = {w: [network.source for network in networks] for w, networks in opened.items()}
    assert sources[0.2] == sources[1.0] != sources[0.0]
    counts = {w: sum(p.numel() for p in networks[1].module.parameters()) for w, networks in opened.items()}
    network, _ = load_network(mini)
    fused = sum(p.numel() for p in network.fuse_convs_dict.parameters())
    assert counts[1.0] - counts[0.0] == fused > 0


def spoiled(mini: Path, out: Path, change: Any) -> Path:
    tensors: dict[str, Tensor] = torch.load(mini, weights_only=True)[CONTAINER]
    change(tensors)
    torch.save({CONTAINER: tensors}, out)
    return out


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda t: t.pop("encoder.blocks.2.conv.weight"), ("whole CodeFormer", "encoder.blocks.2.weight")),
        (lambda t: t.pop("generator.blocks.3.norm2.bias"), ("missing 1 (generator.blocks.3.norm2.bias)",)),
        (lambda t: t.update(extra=torch.zeros(1)), ("too many: 1 (extra)",)),
        (lambda t: t.update(position_emb=torch.zeros(60, 32)), ("60 places make no square",)),
        (
            lambda t: t.update({"ft_layers.0.norm1.weight": torch.zeros(8)}),
            ("ft_layers.0.norm1.weight 8 where 32 is due",),
        ),
        (
            lambda t: [
                t.update({n.replace(".16.", ".64."): t.pop(n)})
                for n in list(t)
                if ".16." in n and "fuse" in n
            ],
            ("a fuse block at 64 pixels", "32 pixels"),
        ),
        (
            lambda t: [t.pop(n) for n in list(t) if n.startswith("encoder.blocks.3.")],
            ("no encoder.blocks.3",),
        ),
        (
            lambda t: t.update({"encoder.blocks.1.conv1.weight": torch.zeros(32)}),
            ("a tensor with too few dimensions",),
        ),
    ],
)
def test_a_checkpoint_that_is_not_whole(
    mini: Path, tmp_path: Path, change: Any, parts: tuple[str, ...]
) -> None:
    path = spoiled(mini, tmp_path / "spoiled.pth", change)
    with pytest.raises(UserError) as caught:
        CodeFormer.open(path, recipe())
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(str(path))
    for part in parts:
        assert part in line, line


def without_fuse(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.startswith("fuse_convs_dict")]:
        del tensors[name]


def test_settings_that_do_not_fit(mini: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="size 64: this CodeFormer sees images of 32 pixels alone"):
        CodeFormer.open(mini, recipe(size=64))
    CodeFormer.open(mini, recipe(size=32))
    plain = spoiled(mini, tmp_path / "plain.pth", without_fuse)
    with pytest.raises(UserError, match=r"w 0\.5: .*plain\.pth has no fuse blocks"):
        CodeFormer.open(plain, recipe())
    CodeFormer.open(plain, recipe(w=0.0))


def test_only_squares(mini: Path) -> None:
    method = CodeFormer.open(mini, recipe())
    method.check((112, 112))
    with pytest.raises(Unfit, match="96x112"):
        method.check((112, 96))


def randomised(sizes: Sizes, *, seed: int) -> Mapping[str, Tensor]:
    return {name: random_tensor(name, shape, seed=seed) for name, shape in shapes_of(sizes).items()}


def test_other_depths_and_places_of_fuse_blocks() -> None:
    """Everything comes from names and shapes: one level more, three blocks each, and fuse blocks elsewhere."""
    sizes = replace(PUBLIC_MINI, widths=(32, 32, 32, 64), num_res_blocks=3, grid=4, fused=(8, 32))
    network = CodeFormerNetwork(shapes_of(sizes))
    network.load_state_dict(randomised(sizes, seed=2))
    assert (network.side, network.grid, network.feature_shapes) == (32, 4, {8: (32, 8, 8), 32: (32, 32, 32)})
    with torch.no_grad():
        assert network(tensor(1, 3, 32, 32), torch.ones(1)).shape == (1, 3, 32, 32)
