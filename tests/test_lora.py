"""LCM-LoRA: merged by its formula, as diffusers fuses it, before any cast; refused in one line."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.models.load import (
    load_unet,
)

from .minimodels import LORA, kohya_lora, put_lora, write_models

UNET = "arc2face/diffusion_pytorch_model.safetensors"
FP32: dict[str, Any] = {"device": "cpu", "dtype": torch.float32}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def models(pristine: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(pristine, tmp_path / "models"))


@pytest.mark.parametrize(("alpha", "scale"), [(2.0, 0.5), (4.0, 1.0), (None, 1.0)])
def test_lora_is_merged_by_its_formula(models: Path, alpha: float | None, scale: float) -> None:
    lora = kohya_lora(models, alpha=alpha)
    put_lora(models, lora)
    plain, merged = (load_unet(models, **FP32, lora=lora).state_dict() for lora in (False, True))
    adapted = 0
    for name, weight in plain.items():
        stem = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
        if name.endswith(".weight") and f"{stem}.lora_up.weight" in lora:
            up, down = lora[f"{stem}.lora_up.weight"], lora[f"{stem}.lora_down.weight"]
            delta = scale * torch.einsum("or,ri...->oi...", up.flatten(1), down)
            torch.testing.assert_close(merged[name], weight + delta, rtol=1e-5, atol=1e-6)
            adapted += 1
        else:
            assert torch.equal(merged[name], weight), name
    assert adapted == len(lora) // (2 if alpha is None else 3) > 100


def test_lora_equals_what_diffusers_fuses(models: Path) -> None:
    lora = kohya_lora(models)
    put_lora(models, lora)
    reference = UNet2DConditionModel.from_pretrained(models / "arc2face")
    state, alphas = StableDiffusionPipeline.lora_state_dict(dict(lora))
    StableDiffusionPipeline.load_lora_into_unet(state, alphas, reference)
    reference.fuse_lora()
    reference.unload_lora()
    ours, theirs = load_unet(models, **FP32, lora=True).state_dict(), reference.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)


def test_lora_is_merged_before_the_cast(models: Path) -> None:
    put_lora(models, {name: value.half() for name, value in kohya_lora(models).items()})
    exact = load_unet(models, **FP32, lora=True).state_dict()
    half = load_unet(models, device="cpu", dtype=torch.float16, lora=True).state_dict()
    assert all(torch.equal(half[name], exact[name].half()) for name in exact)


def test_a_missing_lora_is_one_line(models: Path) -> None:
    with pytest.raises(UserError, match=r"has no lcm-lora/\S+, which --sampler lcm needs"):
        load_unet(models, **FP32, lora=True)


STEM = "lora_unet_mid_block_resnets_0_conv1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.clear(), "holds no tensors"),
        (lambda t: t.pop(f"{STEM}.lora_up.weight"), f"{STEM} lacks lora_up.weight"),
        (lambda t: t.pop(f"{STEM}.lora_down.weight"), f"{STEM} lacks lora_down.weight"),
        (lambda t: t.update({"lora_te_x.alpha": torch.ones(())}), "tensor lora_te_x.alpha fits no layer"),
        (lambda t: t.update({f"{STEM}.hada_w1_a": torch.ones(2)}), f"tensor {STEM}.hada_w1_a fits no layer"),
        (lambda t: t.update({f"{STEM}.lora_up.weight": torch.ones(64, 3, 1, 1)}), "which do not multiply to"),
        (
            lambda t: t.update({f"{STEM}.lora_down.weight": torch.ones(4, 64, 1, 1)}),
            "which do not multiply to",
        ),
    ],
)
def test_a_lora_that_does_not_fit_is_one_line(models: Path, change: Any, message: str) -> None:
    lora = kohya_lora(models)
    change(lora)
    put_lora(models, lora)
    with pytest.raises(UserError, match=message) as caught:
        load_unet(models, **FP32, lora=True)
    assert "\n" not in str(caught.value)
    assert LORA in str(caught.value)
