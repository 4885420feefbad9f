"""Trained networks as a model folder, with the same files and names as the released ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from d2r_fast.bench.miniature.generator.denoiser import Denoiser
from d2r_fast.bench.miniature.generator.recipe import MiniatureRecipe
from d2r_fast.engine.files import Written, make_folder, write_atomic
from d2r_fast.engine.models.card import json_bytes, write_card
from d2r_fast.engine.models.configs import SCHEDULER_CONFIG
from d2r_fast.engine.models.layout import ENCODER, RECOGNISER, SCHEDULER, UNET, VAE, Part
from d2r_fast.engine.models.safetensors_file import write_safetensors
from d2r_fast.engine.models.skeleton import PREFIX
from d2r_fast.recognition.export_onnx import export_recogniser

LICENCE = "MIT: trained on drawings of ICT-FaceKit's head (MIT), by a script of this project"


def pack(recipe: MiniatureRecipe, *, recogniser: Path, vae: Any, denoiser: Denoiser, out: Path) -> None:
    """Write the model folder.

    Args:
        recogniser: run folder of a training.

    Raises:
        UserError: the folder cannot be written to.
        RunError: the disk is full.
    """
    make_folder(out)
    scaling = {"scaling_factor": float(vae.config.scaling_factor)}
    parts: tuple[tuple[Part, dict[str, Any], Mapping[str, Tensor]], ...] = (
        (UNET, recipe.unet, denoiser.unet.state_dict()),
        (ENCODER, recipe.encoder, denoiser.encoder.state_dict()),
        (VAE, recipe.vae | scaling, vae.state_dict()),
    )
    written: dict[str, Written] = {}
    for part, config, tensors in parts:
        assert part.config is not None
        written[part.config] = write_atomic(_place(out, part.config), json_bytes(config))
        written[part.weights[0]] = _write(_place(out, part.weights[0]), tensors, prefix=PREFIX.get(part, ""))
    assert SCHEDULER.config is not None
    written[SCHEDULER.config] = write_atomic(_place(out, SCHEDULER.config), json_bytes(SCHEDULER_CONFIG))
    export_recogniser(recogniser, _place(out, RECOGNISER.weights[0]))
    files = {file: {**entry.entry(), "licence": LICENCE} for file, entry in sorted(written.items())}
    write_card(out, {"kind": "miniature", "recipe": recipe.model_dump(mode="json"), "files": files})


def _place(folder: Path, file: str) -> Path:
    path = folder / file
    make_folder(path.parent)
    return path


def _write(path: Path, tensors: Mapping[str, Tensor], *, prefix: str) -> Written:
    named = {prefix + name: value.detach().float().numpy() for name, value in tensors.items()}
    return write_safetensors(path, {name: value.shape for name, value in named.items()}, named.__getitem__)
