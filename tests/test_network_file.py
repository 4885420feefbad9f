"""Network files: ours there and back, the publishers' checkpoints, and every file that is none of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from d2r_fast.recognition.backbone import build_backbone
from d2r_fast.recognition.backbone_config import WIDTHS, BackboneConfig
from d2r_fast.recognition.layout import width_of
from d2r_fast.recognition.network_file import load_network, save_network

from .mininetworks import LAYOUTS, fill, mini_config, mini_network, refused, same, tensor


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back(layout: str, tmp_path: Path) -> None:
    network, config = mini_network(layout, dropout=0.25), mini_config(layout, dropout=0.25)
    network.to(memory_format=torch.channels_last)
    save_network(tmp_path, network.train(), config, about={"epoch": 3, "recipe": {"lr": 0.1}})
    loaded = load_network(tmp_path)
    assert same(loaded.module, network)
    assert loaded.config == config.resolved()
    assert not loaded.module.training
    assert loaded.source.startswith(f"{tmp_path.name}/model.safetensors ")
    described = json.loads((tmp_path / "config.json").read_text())
    assert described["about"] == {"epoch": 3, "recipe": {"lr": 0.1}}
    assert described["backbone"]["channels"] == {"insightface": "rgb", "adaface": "bgr"}[layout]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_weights_alone_carry_their_description(tmp_path: Path) -> None:
    config = mini_config("adaface", channels="rgb", dropout=0.1)
    save_network(tmp_path, mini_network("adaface"), config, about={})
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    loaded = load_network(tmp_path / "other.safetensors")
    assert loaded.config == config
    assert loaded.source.startswith("other.safetensors ")


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_network(tmp_path / name, mini_network(), mini_config(), about={"b": 1, "a": 2})
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_another_networks_config_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="is missing"):
        save_network(tmp_path, mini_network("adaface"), mini_config(), about={})
    with pytest.raises(AssertionError, match="wanted is"):
        save_network(tmp_path, mini_network(embedding_dim=8), mini_config(), about={})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("width", "prefix"), [(0.05, ""), (0.05, "model.net."), (0.2, "module.")])
def test_a_state_dict_tells_which_network_it_is(
    layout: str, width: float, prefix: str, tmp_path: Path
) -> None:
    network = fill(
        build_backbone(BackboneConfig(name="ir_18", layout=layout, width=width, embedding_dim=24), seed=0)
    )
    table = {prefix + key: value for key, value in network.state_dict().items()}
    torch.save(table, tmp_path / "backbone.pth")
    save_file(table, tmp_path / "backbone.safetensors")
    for name in ("backbone.pth", "backbone.safetensors"):
        loaded = load_network(tmp_path / name)
        assert same(loaded.module, network)
        assert loaded.config == BackboneConfig(name="ir_18", layout=layout, width=width, embedding_dim=24)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["ir_34", "ir_50", "ir_100"])
def test_every_depth_is_told(layout: str, name: str, tmp_path: Path) -> None:
    config = BackboneConfig(name=name, layout=layout, width=0.02, embedding_dim=8)
    torch.save(build_backbone(config, seed=0).state_dict(), tmp_path / "b.pt")
    assert load_network(tmp_path / "b.pt").config == config


def test_every_width_is_told() -> None:
    for percent in range(1, 101):
        widths = BackboneConfig(width=percent / 100).widths
        found = width_of(widths)
        assert found is not None
        assert BackboneConfig(width=found).widths == widths
    assert width_of(WIDTHS) == 1.0
    assert width_of((32, 64, 128, 256)) == 0.5
    assert width_of((64, 128, 256, 500)) is None


def test_half_precision_and_old_checkpoints(tmp_path: Path) -> None:
    network = mini_network()
    halves = {k: v.half() for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(halves, tmp_path / "half.pt")
    torch.save(network.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    given = load_network(tmp_path / "half.pt").module.state_dict()
    assert all(torch.equal(given[key], value.float()) for key, value in halves.items())
    assert same(load_network(tmp_path / "old.pth").module, network)


def test_an_insightface_training_checkpoint(tmp_path: Path) -> None:
    network = mini_network()
    content = {"epoch": 1, "state_dict_backbone": network.state_dict()}
    content["state_dict_softmax_fc"] = {"weight": torch.rand(9, 16)}
    torch.save(content, tmp_path / "checkpoint_gpu_0.pt")
    assert same(load_network(tmp_path / "checkpoint_gpu_0.pt").module, network)


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("layer1.0.conv1.weight", "a ResNet of torchvision's layout"),
        ("conv_sep.layers.0.weight", "a MobileFaceNet"),
        ("blocks.0.attn.qkv.weight", "a vision transformer"),
        ("repeat_1.0.branch0.conv.weight", "FaceNet's Inception-ResNet"),
        ("down_blocks.0.resnets.0.conv1.weight", "a diffusion network"),
        ("head.kernel", "the head of a margin loss alone"),
        ("encoder.x", "unknown, with tensors such as encoder.x"),
    ],
)
def test_other_networks_are_named(key: str, what: str, tmp_path: Path) -> None:
    torch.save({key: torch.rand(2, 2)}, tmp_path / "b.pt")
    refused(tmp_path / "b.pt", f"is {what}: this reads IResNets")


def edited(tmp_path: Path, edit: Callable[[dict[str, Tensor]], Any], layout: str = "insightface") -> Path:
    table = dict(mini_network(layout).state_dict())
    edit(table)
    torch.save(table, tmp_path / "b.pt")
    return tmp_path / "b.pt"


def test_relatives_are_named(tmp_path: Path) -> None:
    add = lambda key: lambda table: table.update({key: torch.rand(2, 2, 1, 1)})  # noqa: E731
    path = edited(tmp_path, add("body.0.res_layer.se_block.fc1.weight"), "adaface")
    refused(path, "AdaFace's ir_se network, with squeeze and excitation")
    refused(edited(tmp_path, add("body.0.res_layer.8.weight"), "adaface"), "AdaFace's ir_152 or ir_200")
    path = edited(tmp_path, add("layer3.2.conv1.weight"))
    refused(path, "is of InsightFace's layout with (2, 2, 3, 2) blocks: known are ir_18 (2, 2, 2, 2), ir_34")
    refused(edited(tmp_path, add("body.8.conv.weight"), "adaface"), "is of AdaFace's layout with (9,) blocks")


@pytest.mark.parametrize(
    ("edit", "parts"),
    [
        (lambda t: t.pop("bn1.bias"), ("ir_18 of InsightFace's layout at width 0.125", "tensor bn1.bias is missing:")),
        (lambda t: t.pop("fc.weight"), ("is of InsightFace's layout but lacks fc.weight",)),
        (lambda t: t.update(more=torch.zeros(1), x=torch.zeros(1)), ("tensor more is unexpected and 1 more",)),
        (lambda t: t.update({"bn2.bias": torch.zeros(3)}), ("tensor bn2.bias is (3,), wanted is (64,)",)),
        (lambda t: t.update({"fc.bias": torch.zeros(16, dtype=torch.int64)}), ("is of int64, wanted is floating",)),
        (lambda t: t["fc.bias"].fill_(torch.nan), ("tensor fc.bias holds values that are not finite",)),
        (lambda t: t.update({"layer1.0.conv1.weight": torch.zeros(9, 8, 3, 3)}), ("stages of (9, 16, 32, 64)",)),
        (lambda t: t.update({"fc.weight": torch.zeros(())}), ("lacks a shape of fc.weight",)),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit(edit: Callable[[Any], Any], parts: tuple[str, ...], tmp_path: Path) -> None:
    refused(edited(tmp_path, edit), *parts)


def test_two_networks_in_one_file(tmp_path: Path) -> None:
    tables = {f"{layout}.{k}": v for layout in LAYOUTS for k, v in mini_network(layout).state_dict().items()}
    torch.save(tables, tmp_path / "b.pt")
    refused(tmp_path / "b.pt", "holds 2 networks (InsightFace's layout under 'insightface.', AdaFace's")


def test_a_description_of_another_network(tmp_path: Path) -> None:
    save_network(tmp_path, mini_network(), mini_config(), about={})
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    described = json.loads(config.read_text())
    described["backbone"]["width"] = 0.25
    config.write_text(json.dumps(described))
    refused(tmp_path, "config.json describes another network than model.safetensors itself")
    save_file(load_file(weights), weights)  # without a header of ours, config.json is what there is
    refused(tmp_path, "is no ir_18 of InsightFace's layout at width 0.25: tensor", "wanted is")
    described["backbone"] |= {"width": 0.125, "layout": "adaface"}
    config.write_text(json.dumps(described))
    refused(tmp_path, "holds InsightFace's layout and its description says AdaFace's layout")
    described["backbone"] |= {"layout": "insightface", "channels": "bgr"}
    config.write_text(json.dumps(described))
    assert load_network(tmp_path).config.channel_order == "bgr"
    for text, part in (("{", "is not JSON"), ("{}", "describes no network of ours (backbone is missing"),
                       ('{"backbone": {"widht": 1}, "about": {}}', "did you mean 'width'")):  # fmt: skip
        config.write_text(text)
        refused(tmp_path, part)


def test_a_folder_of_runs_names_them(tmp_path: Path) -> None:
    refused(tmp_path, "has no model.safetensors: give a finished run's folder, or a checkpoint")
    for seed in (0, 1):
        folder = tmp_path / f"seed-{seed}"
        folder.mkdir()
        save_network(folder, mini_network(), mini_config(), about={})
    refused(tmp_path, f"give one of {tmp_path}/seed-0, {tmp_path}/seed-1")


def test_gradients_stay_as_the_layout_has_them(tmp_path: Path) -> None:
    save_network(tmp_path, mini_network(), mini_config(), about={})
    network = load_network(tmp_path).module
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    assert frozen == ["features.weight"]
    network.train()(tensor(2, 3, 112, 112)).sum().backward()
