"""Loading what diffusers and transformers wrote, old spellings too, and one line for everything broken."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from d2r_fast.engine.backend import open_networks
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.models.card import read_card
from d2r_fast.engine.models.load import (
    encoder_file,
    load_decoder,
    load_scheduler_config,
    load_text_model,
    load_unet,
    read_tensors,
)

from .minimodels import kohya_lora, put_lora, write_models

UNET = "arc2face/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
ENCODER = "encoder/model.safetensors"
LORA = "lcm-lora/pytorch_lora_weights.safetensors"
FP32: dict[str, Any] = {"device": "cpu", "dtype": torch.float32}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def models(pristine: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(pristine, tmp_path / "models"))


def equal(ours: torch.nn.Module, theirs: dict[str, torch.Tensor]) -> bool:
    mine = ours.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_networks_equal_what_the_libraries_load(pristine: Path) -> None:
    unet = load_unet(pristine, **FP32)
    assert equal(unet, UNet2DConditionModel.from_pretrained(pristine / "arc2face").state_dict())
    decoder = load_decoder(pristine, **FP32)
    vae = AutoencoderKL.from_pretrained(pristine / "vae").state_dict()
    assert equal(decoder, {k: v for k, v in vae.items() if not k.startswith(("encoder.", "quant_conv."))})
    text = load_text_model(pristine, device="cpu")
    theirs = CLIPTextModel.from_pretrained(pristine / "encoder")
    assert equal(text, theirs.state_dict())
    assert torch.equal(text.embeddings.position_ids, theirs.embeddings.position_ids)
    for network in (unet, decoder, text):
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
        assert not any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers()))


def test_scheduler_config_and_encoder_file(pristine: Path) -> None:
    assert load_scheduler_config(pristine)["beta_end"] == 0.012
    assert encoder_file(pristine) == pristine / ENCODER


def test_half_precision(pristine: Path) -> None:
    unet = load_unet(pristine, device="cpu", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in unet.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("prefix", ["", "text_model."])
@pytest.mark.parametrize("buffer", [False, True])
@pytest.mark.parametrize("pickled", [False, True])
def test_encoder_in_every_published_spelling(models: Path, prefix: str, buffer: bool, pickled: bool) -> None:
    plain = load_file(models / ENCODER)
    tensors = {prefix + name: value for name, value in plain.items()}
    if buffer:
        tensors[prefix + "embeddings.position_ids"] = torch.arange(77)[None]
    (models / ENCODER).unlink()
    if pickled:
        torch.save(tensors, models / "encoder/pytorch_model.bin")
    else:
        save_file(tensors, models / ENCODER)
    assert equal(load_text_model(models, device="cpu"), plain)


def test_vae_in_its_old_spelling(models: Path) -> None:
    plain = load_file(models / VAE)
    new_to_old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, value in plain.items():
        for new, before in new_to_old.items():
            name = name.replace(f".{new}.", f".{before}.") if ".attentions." in name else name
        old[name] = value
    assert len(old.keys() - plain.keys()) == 16
    save_file(old, models / VAE)
    assert equal(load_decoder(models, **FP32), load_decoder_of(plain))


def load_decoder_of(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v for k, v in tensors.items() if not k.startswith(("encoder.", "quant_conv."))}


class Ear(logging.Handler):
    """Keeps what it hears; the libraries' loggers do not pass it on to pytest's."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())


@pytest.fixture
def ear() -> Iterator[Ear]:
    ear, logger = Ear(), logging.getLogger("diffusers")
    logger.addHandler(ear)
    yield ear
    logger.removeHandler(ear)


def test_libraries_stay_silent(models: Path, ear: Ear) -> None:
    config = json.loads((models / "arc2face/config.json").read_text()) | {"a_setting_of_tomorrow": 1}
    UNet2DConditionModel.from_config(config)
    assert len(ear.heard) == 1, "diffusers no longer speaks of this: choose another occasion"
    (models / "arc2face/config.json").write_text(json.dumps(config))
    put_lora(models, kohya_lora(models))
    ear.heard.clear()
    level = logging.getLogger("diffusers").level
    load_unet(models, device="cpu", dtype=torch.float16, lora=True)
    load_decoder(models, **FP32)
    assert ear.heard == []
    assert logging.getLogger("diffusers").level == level


# Broken folders


def drop(file: str) -> Callable[[Path], None]:
    return lambda models: (models / file).unlink()


def truncate(file: str, size: int) -> Callable[[Path], None]:
    def apply(models: Path) -> None:
        (models / file).write_bytes((models / file).read_bytes()[:size])

    return apply


def change_tensors(file: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(models: Path) -> None:
        tensors = {name: value.clone() for name, value in load_file(models / file).items()}
        change(tensors)
        save_file(tensors, models / file)

    return apply


def change_config(file: str, **settings: Any) -> Callable[[Path], None]:
    def apply(models: Path) -> None:
        (models / file).write_text(json.dumps(json.loads((models / file).read_text()) | settings))

    return apply


def write(file: str, content: bytes) -> Callable[[Path], None]:
    def apply(models: Path) -> None:
        (models / file).write_bytes(content)

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop(UNET), r"has no arc2face/diffusion_pytorch_model.safetensors"),
        (drop("arc2face/config.json"), r"arc2face/config.json cannot be read \(No such file"),
        (truncate(UNET, 5), r"model.safetensors is damaged"),
        (truncate(UNET, 3000), r"model.safetensors is damaged"),
        (truncate(UNET, 1_000_000), r"model.safetensors is damaged"),
        (write(UNET, b""), r"model.safetensors is damaged"),
        (write(UNET, b"<!DOCTYPE html><html>not found</html>" * 9), r"model.safetensors is damaged"),
        (change_tensors(UNET, lambda t: t.pop("conv_in.bias")), r"tensor conv_in.bias is missing"),
        (change_tensors(UNET, lambda t: t.update(extra=torch.ones(2))), r"tensor extra is unexpected"),
        (
            change_tensors(UNET, lambda t: t.update({"conv_in.bias": torch.ones(7)})),
            r"tensor conv_in.bias is \(7,\), config.json asks for \(32,\)",
        ),
        (change_config("arc2face/config.json", layers_per_block=2), r"attentions.1\S+ is missing and \d+ "),
        (change_config("arc2face/config.json", norm_num_groups=7), r"does not describe a UNet2D"),
        (change_config("arc2face/config.json", down_block_types=["Nope"]), r"does not describe a UNet2D"),
        (change_config("arc2face/config.json", _class_name="UNet3D"), r"of a UNet3D, expected a UNet2D"),
        (write("arc2face/config.json", b"{"), r"config.json is not JSON"),
        (write("arc2face/config.json", b"\xff\xfe\x00"), r"config.json is not JSON"),
        (write("arc2face/config.json", b"[]"), r"holds a list, not a JSON object"),
    ],
)  # fmt: skip
def test_a_broken_unet_is_one_line(models: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(models)
    with pytest.raises(UserError, match=message) as caught:
        load_unet(models, **FP32)
    assert "\n" not in str(caught.value)
    assert str(models) in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop(ENCODER), r"has no encoder/model.safetensors or encoder/pytorch_model.bin"),
        (
            change_tensors(ENCODER, lambda t: t.pop("final_layer_norm.weight")),
            r"final_layer_norm.weight is miss",
        ),
        (
            change_config("encoder/config.json", num_hidden_layers=1),
            r"encoder.layers.1\S+ is unexpected and 15",
        ),
        (change_config("encoder/config.json", vocab_size=30), r"token_embedding.weight is \(49408, 64\)"),
        (change_config("encoder/config.json", num_attention_heads=5), r"does not describe a CLIPTextModel"),
    ],
)
def test_a_broken_encoder_is_one_line(models: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(models)
    with pytest.raises(UserError, match=message) as caught:
        load_text_model(models, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_small_vocabulary_is_refused(models: Path) -> None:
    change_config("encoder/config.json", vocab_size=30)(models)
    change_tensors(ENCODER, lambda t: t.update({"embeddings.token_embedding.weight": torch.ones(30, 64)}))(
        models
    )
    with pytest.raises(UserError, match="30 tokens, Arc2Face's prompt needs 77 and 49408"):
        load_text_model(models, device="cpu")


def test_tensors_of_whole_numbers_are_one_line(models: Path) -> None:
    change_tensors(UNET, lambda t: t.update({"conv_in.bias": torch.ones(32, dtype=torch.int64)}))(models)
    with pytest.raises(UserError, match=r"conv_in.bias is of int64, expected floating"):
        load_unet(models, **FP32)


@pytest.mark.parametrize(
    ("file", "settings"),
    [("arc2face", {"sample_size": value}) for value in (0, -1, "x", 16.5, [16], [16, "x"], True, {}, None)]
    + [("arc2face", {"norm_num_groups": 0}), ("arc2face", {"in_channels": -4})]
    + [("arc2face", {"norm_eps": None}), ("arc2face", {"in_channels": 10**30})]
    + [("vae", {"scaling_factor": value}) for value in (None, "x", -0.2, 0, float("nan"), [1])]
    + [("encoder", {"id_embedding_dim": value}) for value in ("64", None, 0, 64.0, 65)]
    + [("encoder", {"layer_norm_eps": value}) for value in (None, "x", -1)]
    + [("encoder", {"hidden_size": "x"}), ("encoder", {"num_attention_heads": 3})]
    + [("encoder", {"attn_implementation": "flash_attention_2"})]
    + [("encoder", {"_attn_implementation": "someone/kernel"})],
)
def test_a_wrong_setting_is_one_line(models: Path, file: str, settings: dict[str, Any]) -> None:
    change_config(f"{file}/config.json", **settings)(models)
    with pytest.raises(UserError) as caught:
        open_all(models)
    assert "\n" not in str(caught.value)
    assert str(caught.value)


def open_all(models: Path) -> Any:
    return open_networks(
        "torch", models, **FP32, engines=None, batch_size=1, lora=False, height=None, width=None
    )


def test_a_vae_without_its_factor_has_that_of_stable_diffusion_1(models: Path) -> None:
    config = json.loads((models / "vae/config.json").read_text())
    config.pop("scaling_factor", None)
    (models / "vae/config.json").write_text(json.dumps(config))
    assert open_all(models).scaling_factor == 0.18215


def test_latents_may_be_oblong(models: Path) -> None:
    change_config("arc2face/config.json", sample_size=[8, 16])(models)
    assert open_all(models).latent_shape == (4, 8, 16)


@pytest.mark.parametrize(
    "settings",
    [
        *({"num_train_timesteps": value} for value in (-5, 0, "x", 1000.5, None, 10**12, True)),
        *({"beta_start": value} for value in (-1, 0, 1, "x", None, float("nan"))),
        *({"beta_end": value} for value in (-1, 2, [0.1])),
        *({"beta_schedule": value} for value in ("x", None, ["linear"])),
        *({"trained_betas": value} for value in ("x", [], [0.1, 2], 3)),
        *({"_class_name": value} for value in ("UNet2DConditionModel", 3, None)),
        {"steps_offset": "x"},
        {"timestep_spacing": "wide"},
    ],
)
def test_a_wrong_scheduler_setting_is_one_line(models: Path, settings: dict[str, Any]) -> None:
    change_config("scheduler/scheduler_config.json", **settings)(models)
    with pytest.raises(UserError, match=f"scheduler_config.json: {next(iter(settings))} is ") as caught:
        load_scheduler_config(models)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["beta_end", "beta_schedule", "beta_start", "num_train_timesteps"])
def test_a_scheduler_that_lacks_a_setting_is_one_line(models: Path, name: str) -> None:
    file = models / "scheduler/scheduler_config.json"
    config = json.loads(file.read_text())
    del config[name]
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"lacks {name}: give the scheduler_config.json of Stable"):
        open_all(models)


def test_a_card_that_is_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "models.json").mkdir()
    with pytest.raises(UserError, match=r"models\.json cannot be read \(Is a directory\)"):
        read_card(tmp_path)


def test_a_card_that_may_not_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"models\.json cannot be read \(Permission denied\)"):
        read_card(tmp_path)


def refuse(path: Path) -> Any:
    raise PermissionError(13, "Permission denied", str(path))


def test_weights_that_may_not_be_read_are_one_line(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d2r_fast.engine.models.load.load_file", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        load_unet(models, **FP32)
    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read \(Permission denied\)"):
        load_unet(models, **FP32)


def test_a_folder_in_place_of_weights_is_one_line(models: Path) -> None:
    (models / UNET).unlink()
    (models / UNET).mkdir()
    with pytest.raises(UserError, match="has no arc2face"):
        load_unet(models, **FP32)


class Harmful:
    """Runs code when unpickled, if one lets it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("harm"),))


@pytest.mark.parametrize(
    "content", [Harmful(), {"weight": Harmful()}, [torch.ones(1)], {"weight": 3}, {3: torch.ones(1)}]
)
def test_a_pickle_of_anything_but_tensors_is_refused(
    tmp_path: Path, content: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "pytorch_model.bin"
    torch.save(content, file)
    with pytest.raises(UserError, match=r"damaged or not a weight file|not a table of tensors") as caught:
        read_tensors(file)
    assert "\n" not in str(caught.value)
    assert not Path("harm").exists()


@pytest.mark.parametrize("size", [0, 10, 500])
def test_a_cut_pickle_is_one_line(tmp_path: Path, size: int) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save({"weight": torch.ones(1000)}, file)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(UserError, match="damaged or not a weight file") as caught:
        read_tensors(file)
    assert "\n" not in str(caught.value)
