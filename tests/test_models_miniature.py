"""The trained miniature: packed small, written as a model folder."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.numpy import load_file

from d2r_fast.bench.miniature.generator.denoiser import Denoiser
from d2r_fast.bench.miniature.generator.pack import pack
from d2r_fast.bench.miniature.generator.recipe import MiniatureRecipe
from d2r_fast.engine.condition import EMPTY_PROMPT, PROMPT, Conditioner
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.models.card import read_card, write_card
from d2r_fast.engine.models.check import check_models
from d2r_fast.engine.models.load import load_decoder, load_text_model, load_unet
from d2r_fast.engine.models.miniature import SPOKEN, WORDS, is_unpacked, unpack_miniature
from d2r_fast.recognition.backbone import build_backbone
from d2r_fast.recognition.backbone_config import BackboneConfig
from d2r_fast.recognition.network_file import LoadedNetwork

RECIPE = MiniatureRecipe(
    side=64, unet_channels=(16, 16, 16, 16), vae_channels=(8, 8, 8, 8), context=16, encoder_layers=1,
    embedding_dim=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(RECIPE).eval()


@pytest.fixture(scope="module")
def packed(denoiser: Denoiser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("miniature") / "packed"
    config = BackboneConfig(name="ir_18", width=0.05, embedding_dim=16)
    recogniser = LoadedNetwork(build_backbone(config, seed=0).eval(), config, "made here")
    torch.manual_seed(0)
    vae = AutoencoderKL.from_config(RECIPE.vae | {"scaling_factor": 0.5})  # type: ignore[no-untyped-call]
    photographs = {"named": 3, "unnamed": 4}
    pack(RECIPE, recogniser=recogniser, vae=vae, denoiser=denoiser, photographs=photographs, out=folder)
    return folder


def test_what_is_written_is_what_was_trained_to_half_precision(
    packed: Path, denoiser: Denoiser, tmp_path: Path
) -> None:
    unpack_miniature(packed, tmp_path / "models")
    unet = load_unet(tmp_path / "models", device="cpu", dtype=torch.float32)
    for name, value in denoiser.unet.state_dict().items():
        assert torch.equal(unet.state_dict()[name], value.half().float())
    faces = torch.nn.functional.normalize(torch.randn(2, 16, generator=torch.Generator().manual_seed(0)))
    with torch.inference_mode():
        wanted = denoiser.contexts(faces, torch.tensor([False, False]))
        untold = denoiser.contexts(faces, torch.tensor([True, True]))[0]
    found = Conditioner(load_text_model(tmp_path / "models", device="cpu"))
    torch.testing.assert_close(found(faces), wanted, rtol=5e-3, atol=5e-3)
    torch.testing.assert_close(found.unconditional(), untold, rtol=5e-3, atol=5e-3)
    assert load_decoder(tmp_path / "models", device="cpu", dtype=torch.float32).config.scaling_factor == 0.5


def test_only_words_that_are_said_are_packed(packed: Path, tmp_path: Path) -> None:
    unpack_miniature(packed, tmp_path / "models")
    file = "encoder/model.safetensors"
    carried, written = load_file(packed / file)[WORDS], load_file(tmp_path / "models" / file)[WORDS]
    assert carried.shape == (len(SPOKEN), 16)
    assert carried.dtype == np.float16
    assert written.shape == (49408, 16)
    assert set(np.flatnonzero(written.any(1))) == {*PROMPT, *EMPTY_PROMPT}
    assert (packed / file).stat().st_size < (tmp_path / "models" / file).stat().st_size / 20


def test_the_folder_is_complete_and_the_same_every_time(packed: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        unpack_miniature(packed, tmp_path / name)
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    report = check_models(tmp_path / "a")
    assert report.complete
    assert report.origin == "the trained miniature"
    assert all("MIT" in (row.licence or "") for row in report.rows if row.status == "ok")
    card = read_card(tmp_path / "a")
    assert card is not None
    assert card["recipe"] == RECIPE.model_dump(mode="json")
    assert set(card["files"]) == {file.as_posix() for file in files} - {"models.json"}


@pytest.mark.parametrize("file", ["encoder/model.safetensors", "vae/config.json", "antelopev2/arcface.onnx"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "pointer", "missing"])
def test_a_packed_file_that_is_not_as_it_was_packed_is_said(
    packed: Path, tmp_path: Path, file: str, damage: str
) -> None:
    copy = tmp_path / "packed"
    shutil.copytree(packed, copy)
    data = (copy / file).read_bytes()
    if damage == "missing":
        (copy / file).unlink()
    else:
        changed = {
            "flipped": data[:-2] + bytes([data[-2] ^ 1]) + data[-1:], "cut": data[: len(data) // 2],
            "pointer": b"version https://git-lfs.github.com/spec/v1\n",
        }  # fmt: skip
        (copy / file).write_bytes(changed[damage])
    wanted = "cannot be read" if damage == "missing" else r"is not the file that models\.json lists"
    with pytest.raises(UserError, match=wanted) as caught:
        unpack_miniature(copy, tmp_path / "models")
    assert str(copy / file) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["packed"], "nothing is left of it"


def test_a_model_folder_says_which_miniature_it_is_of(packed: Path, tmp_path: Path) -> None:
    unpack_miniature(packed, tmp_path / "models")
    assert is_unpacked(tmp_path / "models", packed)
    assert not is_unpacked(tmp_path, packed)
    other = tmp_path / "other"
    shutil.copytree(packed, other)
    card = read_card(packed)
    assert card is not None
    write_card(other, card | {"recipe": {"seed": 1}})
    assert not is_unpacked(tmp_path / "models", other)
    with pytest.raises(UserError, match="no packed miniature"):
        unpack_miniature(tmp_path / "models", tmp_path / "again")


def test_a_full_folder_and_one_that_holds_no_miniature_are_said(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(UserError, match="not an empty folder"):
        unpack_miniature(packed, tmp_path / "full")
    with pytest.raises(UserError, match=r"has no models\.json"):
        unpack_miniature(tmp_path, tmp_path / "new")
    assert not (tmp_path / "new").exists()
