"""Trained networks, packed small (engine/models/miniature.py)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from d2r_fast.bench.miniature.generator.denoiser import Denoiser
from d2r_fast.bench.miniature.generator.recipe import MiniatureRecipe
from d2r_fast.engine.files import Written, make_folder, sha256_file, write_atomic
from d2r_fast.engine.models.card import PHOTOGRAPHS, json_bytes, write_card
from d2r_fast.engine.models.configs import SCHEDULER_CONFIG
from d2r_fast.engine.models.layout import ENCODER, RECOGNISER, SCHEDULER, UNET, VAE, Part
from d2r_fast.engine.models.miniature import pack_tensors
from d2r_fast.engine.models.skeleton import PREFIX
from d2r_fast.recognition.export_onnx import export_recogniser
from d2r_fast.recognition.network_file import LoadedNetwork

LICENCE = "MIT: trained on drawings of ICT-FaceKit's head (MIT), by a script of this project"


def pack(
    recipe: MiniatureRecipe, *, recogniser: Path | LoadedNetwork, vae: Any, denoiser: Denoiser,
    photographs: Mapping[str, int], out: Path,
) -> None:  # fmt: skip
    """Write what `unpack_miniature` makes a model folder of.

    Args:
        recogniser: run folder of a training, or its network.
        photographs: how many were learnt from, "named" by the recogniser and "unnamed" by the others.

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
        arrays = {
            PREFIX.get(part, "") + name: value.detach().float().numpy() for name, value in tensors.items()
        }
        written[part.weights[0]] = pack_tensors(_place(out, part.weights[0]), arrays)
    assert SCHEDULER.config is not None
    written[SCHEDULER.config] = write_atomic(_place(out, SCHEDULER.config), json_bytes(SCHEDULER_CONFIG))
    graph = _place(out, RECOGNISER.weights[0])
    export_recogniser(recogniser, graph)
    entries = {file: entry.entry() for file, entry in written.items()} | {
        path.relative_to(out).as_posix(): {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        for path in (graph, graph.with_suffix(".json"))
    }
    files = {file: {**entry, "licence": LICENCE} for file, entry in sorted(entries.items())}
    write_card(
        out,
        {"kind": "miniature", "recipe": recipe.model_dump(mode="json"), PHOTOGRAPHS: dict(photographs),
         "files": files},
    )  # fmt: skip


def _place(folder: Path, file: str) -> Path:
    path = folder / file
    make_folder(path.parent)
    return path
