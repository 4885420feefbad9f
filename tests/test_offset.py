"""The CLIP offset: what it is the mean of, which images it takes, and where it is added."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import load_file

from d2r_fast.engine.decode import decode
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.generator import Arc2FaceGenerator
from d2r_fast.engine.models.load import load_conditioner
from d2r_fast.engine.offset import make_offset, read_offset, sample_images
from d2r_fast.engine.recogniser import Recogniser
from d2r_fast.engine.samples import draw_samples
from d2r_fast.engine.source import open_images


def make(
    real: Path, rendered: Path, models: Path, out: Path, *, samples: int = 1000, seed: int = 0
) -> torch.Tensor:
    make_offset(
        real=real, rendered=rendered, models=models, out=out, samples=samples, seed=seed, recogniser=None,
        detector="mtcnn", batch_size=8, device="cpu", recogniser_device="auto",
    )  # fmt: skip
    return load_file(out)["offset"]


def mean_latent(folder: Path, models: Path) -> torch.Tensor:
    """The reference: one image at a time, in double precision."""
    recogniser = Recogniser.load(models / "antelopev2" / "arcface.onnx", batch_size=1)
    conditioner = load_conditioner(models, device="cpu", batch_size=1)
    paths = sorted(folder.rglob("*.png"))
    latents = [conditioner(torch.from_numpy(recogniser(decode(path.read_bytes())[None]))) for path in paths]
    return torch.cat(latents).double().mean(dim=0)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other people than the fixture `renders` shows, standing in for photographs."""
    folder = tmp_path_factory.mktemp("others")
    draw_samples(folder / "all", num_identities=7, images_per_identity=2)
    for name in ("0", "1", "2", "3"):
        for path in (folder / "all" / name).iterdir():
            path.unlink()
        (folder / "all" / name).rmdir()
    return folder / "all"


def test_it_is_the_difference_of_the_means(
    renders: Path, others: Path, mini_models: Path, tmp_path: Path
) -> None:
    offset = make(others, renders, mini_models, tmp_path / "o.safetensors")
    expected = mean_latent(others, mini_models) - mean_latent(renders, mini_models)
    assert offset.dtype == torch.float32
    assert offset.shape == (77, 64)
    torch.testing.assert_close(offset.double(), expected, atol=1e-5, rtol=0)
    assert offset[4:].abs().max() > 1e-3


def test_positions_before_the_identity_do_not_move(
    renders: Path, others: Path, mini_models: Path, tmp_path: Path
) -> None:
    offset = make(others, renders, mini_models, tmp_path / "o.safetensors")
    assert offset[:4].abs().max() < 1e-6


def test_it_says_where_it_comes_from(renders: Path, others: Path, mini_models: Path, tmp_path: Path) -> None:
    make(others, renders, mini_models, tmp_path / "o.safetensors", samples=5, seed=3)
    with safetensors.safe_open(tmp_path / "o.safetensors", framework="pt") as file:
        provenance = json.loads(file.metadata()["d2r_fast"])
    assert (provenance["num_real"], provenance["num_rendered"], provenance["seed"]) == (5, 5, 3)
    recogniser = Recogniser.load(mini_models / "antelopev2" / "arcface.onnx")
    offset = read_offset(tmp_path / "o.safetensors", models=mini_models, recogniser=recogniser)
    assert offset.shape == (77, 64)


def test_samples_are_of_distinct_identities_while_they_last(renders: Path) -> None:
    images = list(sample_images(open_images(renders), seed=0))
    assert len(images) == 24
    assert len(set(images)) == 24
    for turn in range(6):
        assert Counter(image.identity for image in images[4 * turn : 4 * turn + 4]) == Counter("0123")
    assert images != list(sample_images(open_images(renders), seed=1))


def test_loose_photographs_are_taken(shared: Path, renders: Path, mini_models: Path, tmp_path: Path) -> None:
    offset = make(shared / "faces", renders, mini_models, tmp_path / "o.safetensors")
    assert torch.isfinite(offset).all()


def test_it_moves_the_conditional_branch(
    renders: Path, others: Path, mini_models: Path, tmp_path: Path
) -> None:
    offset = make(others, renders, mini_models, tmp_path / "o.safetensors")
    generator = Arc2FaceGenerator.from_pretrained(mini_models, batch_size=2, height=64, width=64)
    faces = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32))
    torch.testing.assert_close(generator.condition(faces, offset), generator.condition(faces) + offset)
    plain = generator(faces, num_inference_steps=2)
    moved = generator(faces, num_inference_steps=2, clip_offset=offset)
    assert (plain != moved).mean() > 0.01


def test_nothing_usable_is_refused(renders: Path, mini_models: Path, tmp_path: Path) -> None:
    (tmp_path / "bad" / "0").mkdir(parents=True)
    (tmp_path / "bad" / "0" / "x.png").write_text("text")
    with pytest.raises(UserError, match=r"no image in .*bad can be embedded"):
        make(tmp_path / "bad", renders, mini_models, tmp_path / "o.safetensors")
    assert not (tmp_path / "o.safetensors").exists()
