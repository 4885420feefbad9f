"""The miniature made from nothing but a head: trained for a few steps, packed, and left alone when it is there."""

from pathlib import Path

import pytest
from safetensors.numpy import load_file

from d2r_fast.bench.miniature.generator import samples
from d2r_fast.bench.miniature.generator.make import make
from d2r_fast.bench.miniature.generator.recipe import MiniatureRecipe
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.models.check import check_models
from d2r_fast.engine.source import open_source

RECIPE = MiniatureRecipe(
    side=64, recogniser_identities=16, recogniser_images=4, recogniser_epochs=1, recogniser_width=0.0625,
    embedding_dim=16, identities=6, images=1, vae_channels=(8, 8, 8, 8), vae_steps=2, vae_batch_size=2,
    unet_channels=(16, 16, 16, 16), context=16, encoder_layers=1, steps=2, batch_size=2,
)  # fmt: skip


def test_made_packed_and_left_alone(facekit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "LEARNT_FROM", 2)
    monkeypatch.setattr(samples, "PEOPLE", 2)
    made = tmp_path / "made"
    parts = {"recogniser", "pictures", "vae", "denoiser", "samples", "offset"}
    assert make(RECIPE, facekit, made).keys() <= parts
    assert check_models(made / "models").complete
    shipped = made / "miniature"
    assert sorted(path.name for path in shipped.iterdir()) == ["models", "offset.safetensors", "renders"]
    offset = load_file(shipped / "offset.safetensors")["offset"]
    assert offset.shape == (77, 16)
    assert abs(offset[4:]).max() > 0
    renders = open_source(shipped / "renders").identities
    assert [len(identity.images) for identity in renders] == [samples.SHOTS] * 2

    before = contents(made)
    make(RECIPE, facekit, made)
    after = contents(made)
    assert {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)} <= {
        made / "seconds.json"
    }
    with pytest.raises(UserError, match="steps 2"):
        make(RECIPE.model_copy(update={"steps": 3}), facekit, made)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
