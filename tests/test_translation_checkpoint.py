"""Weights of translation methods: unpacked, known by their names, loaded without a rest, and never run."""

import json
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from d2r_fast.engine.errors import UserError
from d2r_fast.translation.checkpoint import load_exactly, read_weights
from d2r_fast.translation.config import MethodName
from d2r_fast.translation.gan.random_weights import GanName
from d2r_fast.translation.publishers import LAYOUTS, find_layout

from .minigenerators import METHODS, closed_form, prefixed
from .test_torch_file import KINDS, attacks


def one(*shape: int) -> Tensor:
    return torch.ones(shape)


SIGNS: dict[str, dict[str, Tensor]] = {
    "CodeFormer": {
        "position_emb": one(4, 8), "quantize.embedding.weight": one(4, 2), "encoder.blocks.0.weight": one(4, 3, 3, 3),
        "ft_layers.0.linear1.weight": one(8, 8),
    },
    "a latent-diffusion model": {
        "model.diffusion_model.input_blocks.0.0.weight": one(4, 3, 3, 3),
        "first_stage_model.encoder.conv_in.weight": one(4, 3, 3, 3),
    },
    "a diffusers UNet without its folder": {
        "conv_in.weight": one(4, 3, 3, 3), "down_blocks.0.resnets.0.conv1.weight": one(4, 4, 3, 3),
        "time_embedding.linear_1.weight": one(4, 4),
    },
    "a guided-diffusion UNet, whose file holds no schedule": {
        "input_blocks.0.0.weight": one(4, 3, 3, 3), "time_embed.0.weight": one(4, 4),
    },
    "an e4e or pSp encoder with its StyleGAN2": {
        "encoder.input_layer.0.weight": one(4, 3, 3, 3), "encoder.styles.0.linear.weight": one(4, 4),
        "decoder.conv1.conv.modulation.weight": one(4, 4), "decoder.to_rgb1.bias": one(1),
    },
    "a StyleGAN2 generator of rosinality's layout": {"conv1.conv.modulation.weight": one(4, 4), "to_rgb1.bias": one(1)},
    "a StyleGAN2-ADA generator of NVIDIA's layout": {
        "synthesis.b4.const": one(4, 4, 4), "mapping.fc0.weight": one(4, 4),
    },
    "the first stage of CodeFormer alone": {
        "encoder.blocks.0.weight": one(4, 3, 3, 3), "quantize.embedding.weight": one(4, 2),
    },
    "the first stage of latent diffusion alone": {
        "encoder.conv_in.weight": one(4, 3, 3, 3), "decoder.conv_in.weight": one(4, 3, 3, 3),
    },
    "an e4e or pSp encoder without its generator": {
        "input_layer.0.weight": one(4, 3, 3, 3), "styles.0.linear.weight": one(4, 4),
    },
    "UNSB's discriminator or energy network": {"model_main.0.conv1.weight": one(4, 3, 4, 4)},
    "a patch discriminator": {"model.0.weight": one(4, 3, 4, 4), "model.3.weight": one(8, 4, 4, 4)},
    "CUT's feature network": {"mlp_0.0.weight": one(4, 3)},
    "a VGG network": {"features.0.weight": one(4, 3, 3, 3)},
    "a recogniser of InsightFace's layout": {"layer1.0.prelu.weight": one(4), "conv1.weight": one(4, 3, 3, 3)},
    "a recogniser of AdaFace's layout": {"input_layer.0.weight": one(4, 3, 3, 3), "body.0.res_layer.0.weight": one(4)},
    "VSAIT's generator": closed_form("vsait"),
    "a checkpoint of VSAIT's training": prefixed("model.g_net.", closed_form("vsait")),
    "DECENT's generator (CUT's layout)": closed_form("decent"),
    "UNSB's generator": closed_form("unsb"),
}  # fmt: skip
"""A table of every layout that is known, with the names that it is known by."""


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def refusal(path: Path, method: MethodName) -> str:
    with pytest.raises(UserError) as caught:
        read_weights(path, method=method)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_every_layout_has_its_sign() -> None:
    assert {layout.what for layout in LAYOUTS} == set(SIGNS)
    assert {layout.method for layout in LAYOUTS} == {None, *get_args(MethodName)}


@pytest.mark.parametrize("what", SIGNS)
def test_a_table_is_known_by_its_names(what: str) -> None:
    layout = find_layout(SIGNS[what])
    assert layout is not None
    assert layout.what == what


@pytest.mark.parametrize("what", SIGNS)
@pytest.mark.parametrize("method", get_args(MethodName))
def test_another_methods_weights_are_refused_by_name(what: str, method: MethodName, tmp_path: Path) -> None:
    path, owner = (
        saved(tmp_path / "w.pth", SIGNS[what]),
        next(kind.method for kind in LAYOUTS if kind.what == what),
    )
    if owner == method:
        assert read_weights(path, method=method).tensors
        return
    message = refusal(path, method)
    assert f"w.pth is {what}" in message
    wanted = f"give --method {owner}" if owner else f"{method} takes "
    assert wanted in message


def test_a_generator_is_known_where_its_encoder_is_gone() -> None:
    layout = find_layout(prefixed("decoder.", SIGNS["a StyleGAN2 generator of rosinality's layout"]))
    assert layout is not None
    assert layout.what == "a StyleGAN2 generator of rosinality's layout"


def test_unknown_tables_are_refused_with_some_of_their_names(tmp_path: Path) -> None:
    message = refusal(saved(tmp_path / "w.pth", {"b.weight": one(1), "a.weight": one(1)}), "decent")
    assert "2 tensors such as a.weight, b.weight: decent takes DECENT's generator (CUT's layout)" in message
    assert "but no tensors" in refusal(saved(tmp_path / "w.pth", {"epoch": 3}), "unsb")


PREFIXES = ("", "module.", "_orig_mod.", "module._orig_mod.")
CONTAINERS = (None, "state_dict", "params_ema", "params", "g_ema")


@pytest.mark.parametrize(
    ("method", "prefix", "container"),
    [*(("decent", prefix, container) for prefix in PREFIXES for container in CONTAINERS),
     *((method, "module.", "state_dict") for method in METHODS)],
)  # fmt: skip
def test_whatever_the_table_is_packed_in(
    method: GanName, prefix: str, container: str | None, tmp_path: Path
) -> None:
    tensors = closed_form(method)
    content: Any = prefixed(prefix, tensors)
    content = (
        content if container is None else {"epoch": 7, container: content, "params_of_another": {"x": one(2)}}
    )
    weights = read_weights(saved(tmp_path / "w.ckpt", content), method=method)
    assert list(weights.tensors) == list(tensors)
    assert all(torch.equal(weights.tensors[name], value) for name, value in tensors.items())
    assert weights.meta == {} if container is None else weights.meta["epoch"] == 7
    assert weights.path == tmp_path / "w.ckpt"


def test_the_average_is_taken_before_the_last_step(tmp_path: Path) -> None:
    tensors = closed_form("decent")
    other = {name: value + 1 for name, value in tensors.items()}
    weights = read_weights(saved(tmp_path / "w", {"params": other, "params_ema": tensors}), method="decent")
    assert torch.equal(weights.tensors["model.1.bias"], tensors["model.1.bias"])


def test_vsaits_generator_comes_out_of_its_whole_training(tmp_path: Path) -> None:
    table = prefixed("model.g_net.", closed_form("vsait"))
    table |= {"model.g_net_map.0.weight": one(2), "model.d_net.net.0.bias": one(1), "criterion.x": one(1)}
    path = saved(tmp_path / "w.ckpt", {"state_dict": table, "hyper_parameters": {"x": 1}, "global_step": 9})
    weights = read_weights(path, method="vsait")
    assert list(weights.tensors) == list(closed_form("vsait"))
    assert weights.meta["global_step"] == 9
    path = saved(path, {"state_dict": table | {"backbone.weight": one(1)}})
    assert "has 1 (backbone.weight) beside model.g_net.*" in refusal(path, "vsait")


def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    torch.save(closed_form("unsb"), folder / "generator.pth")
    (folder / "run.json").write_text(json.dumps({"method": "unsb", "step": 5}))
    return folder


def test_a_folder_of_train_transfer(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    weights = read_weights(folder, method="unsb")
    assert weights.path == folder / "generator.pth"
    assert weights.meta == {"run": {"method": "unsb", "step": 5}}
    assert "run is UNSB's generator: give --method unsb" in refusal(folder, "decent")


def test_folders_that_are_not_finished(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    (folder / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json is not JSON"):
        read_weights(folder, method="unsb")
    (folder / "run.json").unlink()
    assert "has no run.json" in refusal(folder, "unsb")
    (folder / "generator.pth").unlink()
    assert "has no generator.pth: give a folder that `d2r-fast train-transfer` has" in refusal(folder, "unsb")


@pytest.mark.parametrize(
    ("method", "takes"),
    [
        ("unsb", "a checkpoint, or a folder of `d2r-fast train-transfer`"),
        ("ddim-inversion", "a checkpoint, or a diffusers folder with its scheduler"),
        ("stylegan-inversion", "a checkpoint"),
    ],
)
def test_a_folder_is_offered_where_the_method_takes_one(
    method: MethodName, takes: str, tmp_path: Path
) -> None:
    assert refusal(tmp_path / "none.pth", method).endswith(f"is missing: give {takes}")
    if method != "unsb":
        assert refusal(tmp_path, method).endswith(f"is a folder: {method} takes {takes}")


def test_entries_of_a_safetensors_header_are_kept(tmp_path: Path) -> None:
    save_file(closed_form("unsb"), tmp_path / "g.safetensors", {"note": "ours"})
    assert read_weights(tmp_path / "g.safetensors", method="unsb").meta == {"note": "ours"}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "getattr"])
def test_no_code_in_a_checkpoint_is_run(kind: str, tmp_path: Path) -> None:
    """What a pickle calls stays undone; the table beside it is read."""
    proof, tensors = tmp_path / "proof", closed_form("decent")
    content = {"state_dict": tensors, "callbacks": attacks(proof)[kind]}
    weights = read_weights(saved(tmp_path / "w.ckpt", content), method="decent")
    assert torch.equal(weights.tensors["model.1.weight"], tensors["model.1.weight"])
    assert not proof.exists()
    inside = saved(tmp_path / "w.ckpt", {**tensors, "model.1.weight": attacks(proof)[kind]})
    assert "w.ckpt" in refusal(inside, "decent")
    assert not proof.exists()


def test_damaged_files(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", closed_form("decent"))
    path.write_bytes(path.read_bytes()[:-2000])
    assert "damaged" in refusal(path, "decent")
    path.write_bytes(pickle.dumps({"x": 1}))
    assert "damaged or no PyTorch checkpoint" in refusal(path, "decent")
    path.with_suffix(".safetensors").write_bytes(b"hello")
    assert "damaged" in refusal(path.with_suffix(".safetensors"), "decent")


def table(**changes: Any) -> OrderedDict[str, Tensor]:
    found = OrderedDict(nn.Linear(3, 2).state_dict())
    found.update(changes)
    return OrderedDict((name, value) for name, value in found.items() if value is not None)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (lambda: table(bias=None), "missing 1 (bias), of 2"),
        (lambda: table(a=one(1), b=one(1), c=one(1), d=one(1)), "too many: 4 (a, b, c, ...)"),
        (lambda: table(weight=one(3, 2)), "other shapes: 1 (weight 3x2 where 2x3 is due)"),
        (lambda: table(bias=torch.tensor([0.0, torch.nan])), "not finite: 1 (bias)"),
        (lambda: {"w": one(1)}, "missing 2 (weight, bias), of 2; too many: 1 (w)"),
        (lambda: table(bias=one()), "bias a single number where 2 is due"),
    ],
)
def test_what_does_not_fit_is_counted_and_named(given: Callable[[], Any], says: str) -> None:
    network = nn.Linear(3, 2)
    before = network.weight.clone()
    with pytest.raises(UserError) as caught:
        load_exactly(network, given(), Path("w.pth"))
    assert str(caught.value).startswith("w.pth does not fit Linear (")
    assert says in str(caught.value)
    assert torch.equal(network.weight, before)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_loading_gives_the_networks_own_types(device: str) -> None:
    network = nn.Linear(3, 2, device=device)
    given = {name: value.half() for name, value in table().items()}
    load_exactly(network, given, Path("w.pth"))
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert torch.equal(network.weight, given["weight"].float())
    assert network.weight.requires_grad
