"""An unconditional model in diffusers' layout, as its pipelines save it and the hub has it.

    model_index.json            not needed
    unet/config.json            UNet2DModel, and diffusion_pytorch_model.safetensors or .bin beside it; in the folder
                                itself where the model is of pixels (google/ddpm-*)
    vqvae/ or vae/              VQModel or AutoencoderKL (CompVis/ldm-celebahq-256); none: a model of pixels
    scheduler/                  scheduler_config.json, also in the folder itself

Of the scheduler, betas, spacing, `steps_offset` and `set_alpha_to_one` are followed as DDIMScheduler reads them;
`clip_sample` and `thresholding` are not, as clipping cannot be inverted. A first stage's latents are multiplied by its
`scaling_factor`. A VQModel's config without one is from before the setting was there, and means 1, not today's
default; an AutoencoderKL's means that default, 0.18215.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler
from torch import Tensor

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.models.load import read_config, read_tensors
from d2r_fast.engine.models.skeleton import OLD_VAE_NAMES, scheduler_problems
from d2r_fast.engine.quiet import quiet_libraries
from d2r_fast.recognition.torch_file import read_checkpoint
from d2r_fast.translation.diffusion.model import DiffusionModel, Part, check_channels, halvings
from d2r_fast.translation.diffusion.steps import Schedule

CONFIG, SCHEDULER = "config.json", "scheduler_config.json"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
FIRST_STAGES = ("vqvae", "vae")
VE = "a variance-exploding (score) model, as google/ncsnpp-*, whose noise DDIM's schedule does not describe"
_GET_ONE = "give the folder of an unconditional model that predicts noise, as google/ddpm-ema-celebahq-256"


def open_folder(folder: Path) -> DiffusionModel:
    """The model of a diffusers folder, by its configs.

    Raises:
        UserError: a file that is missing or damaged, or a model of another kind, which is said.
    """
    unet = _open_unet(folder)
    schedule = read_schedule(_first(folder / "scheduler" / SCHEDULER, folder / SCHEDULER))
    first_stage = _open_first_stage(folder)
    check_channels(unet, first_stage, name=str(folder))
    side = unet.config["sample_size"]
    if not isinstance(side, int):
        raise UserError(
            f"{folder}: the UNet's sample_size is {side}, and one side of a square is wanted: {_GET_ONE}"
        )
    return DiffusionModel(
        unet, first_stage, _scale(first_stage), schedule, side * (halvings(first_stage) if first_stage else 1)
    )


def read_schedule(file: Path) -> Schedule:
    """The schedule of a scheduler's config, whatever sampler it is of, as DDIMScheduler takes it.

    Raises:
        UserError: it describes none, or one that cannot be inverted.
    """
    config = read_config(file)
    if any(key.startswith("sigma_m") for key in config):
        raise UserError(f"{file} is of {VE}: {_GET_ONE}")
    problems = scheduler_problems(config)
    if config.get("prediction_type", "epsilon") != "epsilon":
        problems.append(f"the model predicts {config['prediction_type']}, not the noise (epsilon)")
    if config.get("rescale_betas_zero_snr"):
        problems.append(
            "its last timestep is noise alone (rescale_betas_zero_snr), and nothing leads back from there"
        )
    if problems:
        raise UserError(f"{file}: {'; '.join(problems)}: {_GET_ONE}")
    kept = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    with quiet_libraries():
        scheduler: Any = DDIMScheduler(**{key: config[key] for key in kept if key in config})  # type: ignore[no-untyped-call]
    alphas = tuple((1 - scheduler.betas.double()).cumprod(0).tolist())
    return Schedule(
        alphas, config.get("timestep_spacing", "leading"), config.get("steps_offset", 0),
        1.0 if config.get("set_alpha_to_one", True) else alphas[0],
    )  # fmt: skip


def _open_unet(folder: Path) -> Part:
    home = _first(folder / "unet" / CONFIG, folder / CONFIG).parent
    config = read_config(home / CONFIG)
    kind = config.get("_class_name")
    if kind == "UNet2DConditionModel":
        raise UserError(f"{home / CONFIG} is of a model conditioned by text: {_GET_ONE}")
    if kind != "UNet2DModel":
        raise UserError(f"{home / CONFIG} is of a {kind}, expected a UNet2DModel: {_GET_ONE}")
    if config.get("class_embed_type") or config.get("num_class_embeds"):
        raise UserError(f"{home / CONFIG} is of a class-conditional model: {_GET_ONE}")
    blocks = config.get("down_block_types", ())
    if config.get("time_embedding_type") == "fourier" or any("Skip" in str(block) for block in blocks):
        raise UserError(f"{home / CONFIG} is of {VE}: {_GET_ONE}")
    return _part("UNet2DModel", folder, home, config)


def _open_first_stage(folder: Path) -> Part | None:
    home = next((folder / name for name in FIRST_STAGES if (folder / name / CONFIG).is_file()), None)
    if home is None:
        return None
    config = read_config(home / CONFIG)
    kind = config.get("_class_name")
    if kind not in ("VQModel", "AutoencoderKL"):
        raise UserError(f"{home / CONFIG} is of a {kind}, expected a VQModel or an AutoencoderKL: {_GET_ONE}")
    if any(config.get(name) is not None for name in ("shift_factor", "latents_mean", "latents_std")):
        raise UserError(
            f"{home / CONFIG} shifts its latents, as no unconditional model is known to do: {_GET_ONE}"
        )
    return _part(kind, folder, home, config)


def _part(kind: Any, folder: Path, home: Path, config: Mapping[str, Any]) -> Part:
    """With every setting in its config that the class has a default for."""
    weights = _first(*(home / name for name in WEIGHTS))
    files = {file.relative_to(folder).as_posix(): file for file in (home / CONFIG, weights)}
    bare = Part(kind, config, files, partial(_read, weights))
    return Part(kind, {**bare.skeleton().config, **config}, files, bare.read)


def _read(weights: Path) -> dict[str, Tensor]:
    """By today's names: diffusers once had others for attention, and the files of the hub still do."""
    content = read_tensors(weights) if weights.suffix == ".safetensors" else read_checkpoint(weights)
    tensors = {}
    for name, value in content.items():
        if ".attentions." in str(name):
            for old, new in OLD_VAE_NAMES.items():
                name = name.replace(old, new)
        tensors[name] = value
    return tensors


def _scale(first_stage: Part | None) -> float:
    if first_stage is None:
        return 1.0
    said = read_config(next(iter(first_stage.files.values()))).get("scaling_factor")
    if said is None:
        return 1.0 if first_stage.kind == "VQModel" else float(first_stage.config["scaling_factor"])
    return float(said)


def _first(*files: Path) -> Path:
    """The first of these that is there."""
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise UserError(f"{files[0]} is missing: {_GET_ONE}")
    return found
