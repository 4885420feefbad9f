"""The baselines draw what the generator draws, from the same noise with the same weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from d2r_fast.bench.baselines import Batched, Drawer, Published, psnr, tune
from d2r_fast.bench.plain_mtcnn import PlainMTCNN
from d2r_fast.engine.generator import Arc2FaceGenerator
from d2r_fast.engine.quiet import quiet_libraries
from d2r_fast.engine.samples import cast, draw, stage

STEPS = 3


@pytest.fixture(scope="module")
def drawer(mini_models: Path) -> Drawer:
    return Drawer.open(mini_models, device="cpu", dtype=torch.float32)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_both_baselines_draw_our_images(mini_models: Path, drawer: Drawer) -> None:
    embeddings, latents = random(2, 64), random(8, 4, 16, 16, seed=1)
    generator = Arc2FaceGenerator.from_pretrained(mini_models, batch_size=2)
    ours = generator(embeddings.repeat_interleave(4, 0), latents=latents, num_inference_steps=STEPS)
    assert ours.std() > 10, "images without contrast prove nothing"
    find = PlainMTCNN(min_face_size=60)
    for baseline in (Published(drawer, find), Batched(drawer, find, batch_size=5)):
        theirs, crops = baseline(embeddings, latents, steps=STEPS, guidance=3.0)
        assert psnr(ours, theirs) >= 50
        assert crops == [], "untrained networks draw no face"
    other, _ = Published(drawer, find)(embeddings.flip(0), latents, steps=STEPS, guidance=3.0)
    assert psnr(ours, other) < 40, "the comparison would notice"


def test_faces_are_cropped_and_encoded() -> None:
    from d2r_fast.bench.baselines import crop_faces

    pictures = [np.asarray(draw(cast(n), stage(n, 0), 256)) for n in range(2)]
    images = torch.from_numpy(np.stack([pictures[0], np.full_like(pictures[0], 90), pictures[1]]))
    crops = crop_faces(images, PlainMTCNN(min_face_size=100))
    assert len(crops) == 2
    assert all(crop.startswith(b"\xff\xd8") for crop in crops)


def test_the_best_settings_are_the_fastest_per_image(mini_models: Path) -> None:
    own = Drawer.open(mini_models, device="cpu", dtype=torch.float32)
    tuned = tune(own, batch_sizes=(1, 2), side=8, compiled=False, most_s=2)
    assert len(tuned.timings) == 4
    per_image_s = {
        name: timing.median_s / int(name.rpartition(" ")[2]) for name, timing in tuned.timings.items()
    }
    assert tuned.name == min(per_image_s, key=lambda name: per_image_s[name])
    assert tuned.name.endswith(f"batch {tuned.batch_size}")
    first = own.pipeline.unet.conv_in.weight
    assert first.is_contiguous(memory_format=torch.channels_last) == tuned.name.startswith("channels last")


@pytest.mark.slow
def test_a_compiled_unet_draws_the_same(mini_models: Path) -> None:
    """What only a card has time for: the compiler, at the batch that was best without it."""
    own = Drawer.open(mini_models, device="cpu", dtype=torch.float32)
    plain = own(random(1, 64), random(1, 4, 16, 16), steps=2, guidance=3.0)
    tuned = tune(own, batch_sizes=(1,), side=16, compiled=True, most_s=2)
    assert sum("compiled, batch 1" in name for name in tuned.timings) == 1
    assert psnr(own(random(1, 64), random(1, 4, 16, 16), steps=2, guidance=3.0), plain) >= 50


def test_psnr_by_hand() -> None:
    black = np.zeros((1, 2, 2, 3), np.uint8)
    assert psnr(black, black) == 200
    assert psnr(black, black + np.uint8(255)) == 0
    assert psnr(black, black + np.uint8(1)) == pytest.approx(48.13, abs=0.01)


def test_libraries_keep_quiet(drawer: Drawer, capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_libraries():
        drawer(random(1, 64), random(1, 4, 8, 8), steps=1, guidance=3.0)
    assert capfd.readouterr() == ("", "")
