"""`models check` against folders with one thing wrong: each must be seen, named, and nothing else blamed."""

import json
import pickle
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import load_file

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import sha256_file
from d2r_fast.engine.models.card import RANDOM_LICENCE
from d2r_fast.engine.models.check import check_models, render

from .initmodels import blamed, copy_models, edit_config, edit_tensors, mini_models, rewrite, row

UNET = "arc2face/diffusion_pytorch_model.safetensors"
ENCODER, CHECKPOINT = "encoder/model.safetensors", "encoder/pytorch_model.bin"
VAE = "vae/diffusion_pytorch_model.safetensors"
RECOGNISER, DETECTOR = "antelopev2/arcface.onnx", "antelopev2/scrfd_10g_bnkps.onnx"
LORA = "lcm-lora/pytorch_lora_weights.safetensors"
CONFIGS = [f"{part}/config.json" for part in ("arc2face", "encoder", "vae")]
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_models(tmp_path_factory.getbasetemp())


@pytest.fixture
def folder(models: Path, tmp_path: Path) -> Path:
    """A copy to damage, without models.json (bytes are not compared) and without the LoRA (for speed)."""
    copy = copy_models(models, tmp_path / "models")
    (copy / LORA).unlink()
    return copy


def test_a_new_folder_is_complete(models: Path) -> None:
    report = check_models(models)
    assert report.complete
    assert blamed(report) == {}
    unet = row(report, UNET)
    assert unet.num_bytes == (models / UNET).stat().st_size
    assert unet.sha256 == sha256_file(models / UNET)
    assert unet.num_parameters == sum(value.numel() for value in load_file(models / UNET).values())
    assert unet.licence == RANDOM_LICENCE
    assert unet.shape == "sample_size 16, in_channels 4, cross_attention_dim 64, F32"
    assert row(report, RECOGNISER).shape == "Nx3x112x112 -> Nx64"
    assert row(report, DETECTOR).shape == "1x3xNxN -> 9 outputs"
    assert row(report, LORA).shape == "177 layers, rank 4, F16"


def test_the_text_has_every_fact(models: Path) -> None:
    report = check_models(models)
    text = render(report)
    assert text.startswith(f"{models}: random weights, untrained: size mini, seed 0\n")
    assert text.endswith("\ncomplete")
    for found in report.rows:
        assert f"ok               {found.file}\n" in text
        assert str(found.sha256) in text
        assert f"{found.num_bytes:,} bytes" in text
    assert "2,174,852 parameters" in text


@pytest.mark.parametrize("file", [UNET, ENCODER, VAE, RECOGNISER, SCHEDULER, *CONFIGS])
def test_a_required_file_is_missing(folder: Path, file: str) -> None:
    (folder / file).unlink()
    report = check_models(folder)
    assert not report.complete
    assert list(blamed(report)) == [file]
    assert row(report, file).status == "missing"
    assert "not complete: 1 missing" in render(report)


def test_the_checkpoint_is_named_as_the_alternative(folder: Path) -> None:
    (folder / ENCODER).unlink()
    assert blamed(check_models(folder)) == {ENCODER: f"missing: or {CHECKPOINT}"}


def test_optional_files_may_be_missing(folder: Path) -> None:
    (folder / DETECTOR).unlink()
    report = check_models(folder)
    assert report.complete
    assert {row.file: (row.status, row.note) for row in report.rows if row.status != "ok"} == {
        DETECTOR: ("optional-missing", "needed for --detector scrfd alone"),
        LORA: ("optional-missing", "needed for --sampler lcm alone"),
    }


@pytest.mark.parametrize(
    ("file", "kept", "reason"),
    [(file, 0.5, "truncated") for file in (UNET, ENCODER, VAE, RECOGNISER, DETECTOR)]
    + [(file, 0, "empty file") for file in (VAE, RECOGNISER)],
)
def test_cut_files(folder: Path, file: str, kept: float, reason: str) -> None:
    data = (folder / file).read_bytes()
    rewrite(folder / file, data[: int(len(data) * kept)])
    report = check_models(folder)
    assert list(blamed(report)) == [file]
    assert blamed(report)[file].startswith(f"damaged: {reason}")
    assert not report.complete


def test_a_longer_file_is_damaged_too(folder: Path) -> None:
    rewrite(folder / VAE, (folder / VAE).read_bytes() + b"\0")
    assert blamed(check_models(folder))[VAE].startswith("damaged: truncated, or not a safetensors file")


@pytest.mark.parametrize(
    ("file", "data", "reason"),
    [(file, b'{"a": ', "not JSON") for file in (*CONFIGS, SCHEDULER)]
    + [(SCHEDULER, b"[1]", "not a JSON object but a list")],
)
def test_configs_that_are_none(folder: Path, file: str, data: bytes, reason: str) -> None:
    rewrite(folder / file, data)
    report = check_models(folder)
    assert list(blamed(report)) == [file]
    assert reason in blamed(report)[file]


def test_a_tensor_less(folder: Path) -> None:
    edit_tensors(folder, UNET, lambda tensors: (tensors.pop("conv_in.weight"), tensors.pop("conv_in.bias")))
    assert blamed(check_models(folder))[UNET] == "damaged: tensor missing: conv_in.weight and 1 more"


def test_a_tensor_more(folder: Path) -> None:
    edit_tensors(folder, VAE, lambda tensors: tensors.update(extra=torch.zeros(1)))
    assert blamed(check_models(folder)) == {VAE: "damaged: tensor unexpected: extra"}


def test_a_misshapen_tensor(folder: Path) -> None:
    edit_tensors(
        folder, ENCODER, lambda tensors: tensors.update({"text_model.final_layer_norm.bias": torch.zeros(63)})
    )
    assert blamed(check_models(folder)) == {
        ENCODER: "damaged: tensor misshapen: text_model.final_layer_norm.bias is (63,) "
        "and its config asks for (64,)"
    }


def test_a_config_of_another_network(folder: Path) -> None:
    edit_config(folder, "vae/config.json", latent_channels=8)
    reason = blamed(check_models(folder))[VAE]
    assert "tensor misshapen" in reason
    assert "latent_channels 8, the UNet takes 4" in reason


def test_a_config_of_no_network(folder: Path) -> None:
    edit_config(folder, "arc2face/config.json", down_block_types=["NoSuchBlock"] * 4)
    assert "describes no UNet2DConditionModel" in blamed(check_models(folder))[UNET]


@pytest.mark.parametrize(
    ("config", "file", "settings"),
    [("arc2face", UNET, {"norm_num_groups": value}) for value in (0, -1, "x")]
    + [("arc2face", UNET, {"sample_size": value}) for value in (0, "x", [16], None)]
    + [("arc2face", UNET, {"in_channels": -4}), ("arc2face", UNET, {"_class_name": "UNet3D"})]
    + [("encoder", ENCODER, {"num_attention_heads": value}) for value in (3, 0)]
    + [("encoder", ENCODER, {"hidden_size": value}) for value in ("x", None)]
    + [("encoder", ENCODER, {"id_embedding_dim": value}) for value in ("64", None, 0)]
    + [("encoder", ENCODER, {"max_position_embeddings": "x"}), ("encoder", ENCODER, {"vocab_size": None})]
    + [("encoder", ENCODER, {"attn_implementation": "flash_attention_2"})]
    + [("vae", VAE, {"scaling_factor": value}) for value in (None, "x", -1)],
)
def test_settings_that_no_network_has(folder: Path, config: str, file: str, settings: dict[str, Any]) -> None:
    edit_config(folder, f"{config}/config.json", **settings)
    report = check_models(folder)
    assert "its config describes no " in blamed(report)[file]
    assert "\n" not in row(report, file).note


def test_a_unet_without_its_sample_size(folder: Path) -> None:
    config = json.loads((folder / "arc2face/config.json").read_bytes())
    del config["sample_size"]
    rewrite(folder / "arc2face/config.json", json.dumps(config).encode())
    assert "lacks sample_size" in blamed(check_models(folder))[UNET]


def test_tensors_of_whole_numbers(folder: Path) -> None:
    edit_tensors(folder, UNET, lambda t: t.update({"conv_in.bias": t["conv_in.bias"].long()}))
    assert blamed(check_models(folder)) == {UNET: "damaged: tensor not floating point: conv_in.bias"}


def test_a_file_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    for reader in ("sha256_file", "read_json", "read_tensors", "read_graph"):
        monkeypatch.setattr(f"d2r_fast.engine.models.check.{reader}", refuse)
    report = check_models(folder)
    assert set(blamed(report)) == {UNET, ENCODER, VAE, RECOGNISER, DETECTOR, SCHEDULER, *CONFIGS}
    assert set(blamed(report).values()) == {"damaged: cannot be read (Permission denied)"}
    assert "cannot be read" in render(report)
    monkeypatch.setattr("d2r_fast.engine.models.check.Path.is_file", refuse)
    with pytest.raises(UserError, match="cannot be read"):
        check_models(folder)


def test_the_unets_context_is_the_encoders_width(folder: Path) -> None:
    edit_config(folder, "arc2face/config.json", cross_attention_dim=32)
    reason = blamed(check_models(folder))[UNET]
    assert "cross_attention_dim 32, the encoder gives 64" in reason
    assert "attn2.to_k.weight is (32, 64) and its config asks for (32, 32)" in reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id_embedding_dim": 65}, "id_embedding_dim 65 is more than hidden_size 64"),
        ({"max_position_embeddings": 76}, "76 positions, the prompt needs 77"),
        ({"vocab_size": 1000}, "1000 tokens, CLIP has 49408"),
    ],
)
def test_the_encoder_takes_the_prompt(folder: Path, changes: dict[str, int], reason: str) -> None:
    edit_config(folder, "encoder/config.json", **changes)
    assert reason in blamed(check_models(folder))[ENCODER]


def test_the_recogniser_gives_what_the_encoder_takes(folder: Path) -> None:
    edit_config(folder, "encoder/config.json", id_embedding_dim=32)
    assert blamed(check_models(folder)) == {RECOGNISER: "damaged: gives 64 values, the encoder takes 32"}


def test_the_released_encoder_takes_512_without_saying_so(folder: Path) -> None:
    config = json.loads((folder / "encoder/config.json").read_bytes())
    del config["id_embedding_dim"]
    rewrite(folder / "encoder/config.json", json.dumps(config).encode())
    assert "gives 64 values, the encoder takes 512" in blamed(check_models(folder))[RECOGNISER]


def test_a_scheduler_that_cannot_serve(folder: Path) -> None:
    edit_config(folder, SCHEDULER, prediction_type="v_prediction")
    assert "predicts epsilon" in blamed(check_models(folder))[SCHEDULER]
    rewrite(folder / SCHEDULER, b'{"beta_start": 0.1}')
    assert "lacks beta_end, beta_schedule, num_train_timesteps" in blamed(check_models(folder))[SCHEDULER]


@pytest.mark.parametrize(
    "settings",
    [{"num_train_timesteps": -5}, {"beta_start": -1}, {"beta_schedule": "x"}, {"_class_name": "VAE"}],
)
def test_a_scheduler_with_a_wrong_setting(folder: Path, settings: dict[str, Any]) -> None:
    edit_config(folder, SCHEDULER, **settings)
    assert f"{next(iter(settings))} is " in blamed(check_models(folder))[SCHEDULER]


def graph(num_outputs: int, input_shape: list[Any]) -> bytes:
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape)
    names = [f"y{index}" for index in range(num_outputs)]
    nodes = [helper.make_node("Identity", ["x"], [name]) for name in names]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, input_shape) for name in names]
    return bytes(helper.make_model(helper.make_graph(nodes, "g", [image], values)).SerializeToString())


def test_graphs_of_something_else(folder: Path) -> None:
    rewrite(folder / DETECTOR, graph(6, [1, 3, None, None]))
    rewrite(folder / RECOGNISER, graph(1, [1, 3, 64, 64]))
    reasons = blamed(check_models(folder))
    assert reasons[DETECTOR] == "damaged: 6 outputs, SCRFD with keypoints has 9"
    assert "wanted is one input N x 3 x 112 x 112" in reasons[RECOGNISER]
    rewrite(folder / RECOGNISER, graph(1, [1, 3, 112, 112]))
    assert "wanted is one output N x D" in blamed(check_models(folder))[RECOGNISER]
    rewrite(folder / DETECTOR, onnx.ModelProto(ir_version=8).SerializeToString())
    assert "without a graph" in blamed(check_models(folder))[DETECTOR]


def test_a_lora_of_another_unet(models: Path, tmp_path: Path) -> None:
    folder = copy_models(models, tmp_path / "models")
    name = "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"
    edit_tensors(folder, LORA, lambda tensors: tensors.update({name: torch.zeros(4, 99, 1, 1)}))
    assert "do not multiply to its weight" in blamed(check_models(folder))[LORA]
    edit_tensors(folder, LORA, lambda tensors: tensors.update({"lora_unet_nowhere.alpha": torch.ones(())}))
    assert "lora_unet_nowhere.alpha" in blamed(check_models(folder))[LORA]


def as_checkpoint(folder: Path, *, zipped: bool = True) -> dict[str, torch.Tensor]:
    tensors = load_file(folder / ENCODER)
    tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]  # older transformers saved it
    torch.save(tensors, folder / CHECKPOINT, _use_new_zipfile_serialization=zipped)
    return tensors


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_serves_as_well(folder: Path, zipped: bool) -> None:
    as_checkpoint(folder, zipped=zipped)
    (folder / ENCODER).unlink()
    report = check_models(folder)
    assert report.complete
    assert "float32" in str(row(report, CHECKPOINT).shape)


def test_says_which_of_two_files_is_not_used(folder: Path) -> None:
    as_checkpoint(folder)
    report = check_models(folder)
    assert report.complete
    assert row(report, ENCODER).note == f"{CHECKPOINT} is there too and not used"


class Trap:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("plain", [True, False])
def test_a_pickle_that_runs_code_is_refused_unrun(folder: Path, tmp_path: Path, plain: bool) -> None:
    (folder / ENCODER).unlink()
    trap = {"weight": Trap(tmp_path / "sprung")}
    if plain:
        (folder / CHECKPOINT).write_bytes(pickle.dumps(trap))
    else:
        torch.save(trap, folder / CHECKPOINT)
    assert "not loadable as weights only" in blamed(check_models(folder))[CHECKPOINT]
    assert not (tmp_path / "sprung").exists()


def test_a_cut_checkpoint_and_one_of_something_else(folder: Path) -> None:
    as_checkpoint(folder)
    (folder / ENCODER).unlink()
    rewrite(folder / CHECKPOINT, (folder / CHECKPOINT).read_bytes()[:-1000])
    assert blamed(check_models(folder))[CHECKPOINT].startswith("damaged: ")
    torch.save([torch.zeros(1)], folder / CHECKPOINT)
    assert blamed(check_models(folder)) == {CHECKPOINT: "damaged: not a table of named tensors"}
    torch.save({3: torch.zeros(1)}, folder / CHECKPOINT)
    assert blamed(check_models(folder)) == {CHECKPOINT: "damaged: not a table of named tensors"}


def test_older_names_of_the_vaes_attention(folder: Path) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if ".attentions." in name]:
            old = name.replace("to_out.0", "proj_attn")
            for new, letter in (("to_q", "query"), ("to_k", "key"), ("to_v", "value")):
                old = old.replace(new, letter)
            tensors[old] = tensors.pop(name)

    edit_tensors(folder, VAE, rename)
    assert "decoder.mid_block.attentions.0.query.weight" in load_file(folder / VAE)
    assert check_models(folder).complete


def test_other_bytes_than_the_card_lists(models: Path, tmp_path: Path) -> None:
    folder = copy_models(models, tmp_path / "models", card=True)
    edit_tensors(folder, UNET, lambda tensors: tensors["conv_in.bias"].add_(1))
    assert blamed(check_models(folder)) == {UNET: "damaged: not the bytes that models.json lists"}


def test_licences_without_a_card_are_the_published(folder: Path) -> None:
    report = check_models(folder)
    assert report.origin == "put together by hand: no models.json"
    assert row(report, DETECTOR).licence == (
        "InsightFace model pack: non-commercial research only (if from DIAMONIK7777/antelopev2)"
    )
    assert row(report, UNET).licence == "MIT (if from FoivosPar/Arc2Face)"


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"kind": "random"}', b'{"kind": "mine", "files": {}}'])
def test_a_card_that_is_none(folder: Path, data: bytes) -> None:
    (folder / "models.json").write_bytes(data)
    with pytest.raises(UserError, match=r"models\.json") as caught:
        check_models(folder)
    assert "\n" not in str(caught.value)


def test_a_card_that_is_a_folder(folder: Path) -> None:
    (folder / "models.json").mkdir()
    with pytest.raises(UserError, match=r"models\.json cannot be read \(Is a directory\)"):
        check_models(folder)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        check_models(tmp_path / "none")


def test_an_empty_folder_lacks_everything(tmp_path: Path) -> None:
    report = check_models(tmp_path)
    assert {row.status for row in report.rows} == {"missing", "optional-missing"}
    assert "not complete: 8 missing" in render(report)
