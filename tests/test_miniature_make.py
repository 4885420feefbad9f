"""The miniature made from nothing but a head: trained for a few steps, packed, and left alone when it is there."""

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from d2r_fast.bench.miniature.generator import samples
from d2r_fast.bench.miniature.generator.make import main, make
from d2r_fast.bench.miniature.generator.recipe import MiniatureRecipe
from d2r_fast.engine.config import read_settings
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
    parts = {"photographs", "recogniser", "vae", "denoiser", "samples", "offset"}
    assert {"photographs", "recogniser"} <= make(RECIPE, facekit, made).keys() <= parts
    card = json.loads((made / "models" / "models.json").read_text())
    assert card["photographs"] == {"named": 16 * 4, "unnamed": 6}
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


def test_a_file_says_what_differs_from_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text('{"steps": 5, "vae_channels": [8, 8, 16, 16]}')
    recipe = MiniatureRecipe(**read_settings(path, MiniatureRecipe))
    assert recipe == MiniatureRecipe(steps=5, vae_channels=(8, 8, 16, 16))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read the settings file"),
        ('{"steps": 5', "is not YAML"),
        ("\udcff", "is not YAML"),
        ("[5]", "holds list, not a mapping of settings"),
        ('{"step": 5}', "unknown setting 'step': did you mean 'steps'?"),
        ('{"self": 5}', "unknown setting 'self'"),
        ('{"steps": 0}', "steps = 0: input should be greater than or equal to 1"),
        ('{"steps": NaN}', "steps = 'NaN'"),
        ('{"vae_channels": [4, 8, 8, 8]}', "vae_channels = 4: input should be a multiple of 8"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, message: str
) -> None:
    path = tmp_path / "recipe.json"
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    assert main([str(tmp_path), "--out", str(tmp_path / "out"), "--recipe", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("miniature: ")
    assert str(path) in line
    assert message in line
    assert not (tmp_path / "out").exists()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
