"""Networks from a model folder: strictly, offline, and with one line where a file does not do.

A network is built on the meta device from its config.json and then given the tensors of its weight file.
Every tensor must be there, in the right shape, and no other: libraries that load leniently leave what is
missing at random values. Nothing is ever fetched.
"""

import json
import pickle
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from d2r_fast.engine.condition import NUM_TOKENS, PROMPT, Conditioner
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.models.layout import ENCODER, LORA, SCHEDULER, UNET, VAE, Part
from d2r_fast.engine.models.lora import merge_lora
from d2r_fast.engine.models.skeleton import BAD_CONFIG, PREFIX, current_name, scheduler_problems, skeleton
from d2r_fast.engine.quiet import quiet_libraries

Tensors = dict[str, torch.Tensor]
# What they raise for a file that is none; PyTorch's unpickler runs on whatever the bytes say.
_BAD_WEIGHTS = (
    AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError,
    SafetensorError, pickle.UnpicklingError,
)  # fmt: skip
_GET_ONE = "give a folder from `d2r-fast models pull` or `models init`"


def load_unet(models: Path, *, device: str, dtype: torch.dtype, lora: bool = False) -> Any:
    """diffusers' UNet2DConditionModel, with the folder's LCM-LoRA merged into it (in float32) if wanted."""
    if not lora:
        return _load(UNET, models, device=device, dtype=dtype)
    file = weight_file(models, LORA)
    unet = _load(UNET, models, device="cpu", dtype=torch.float32)
    merge_lora(unet, read_tensors(file), file)
    with quiet_libraries():  # diffusers warns of every cast, also where no module is to stay in float32
        return unet.to(device=device, dtype=dtype)


def load_decoder(models: Path, *, device: str, dtype: torch.dtype) -> Any:
    """diffusers' AutoencoderKL without its encoder, which sampling never runs."""

    def without_encoder(vae: Any, tensors: Tensors) -> Tensors:
        vae.encoder = vae.quant_conv = None
        return {
            name: value for name, value in tensors.items() if not name.startswith(("encoder.", "quant_conv."))
        }

    return _load(VAE, models, device=device, dtype=dtype, prepare=without_encoder)


def load_text_model(models: Path, *, device: str) -> Any:
    """transformers' CLIPTextModel, in float32: a thousandth of the work, where half would save nothing."""

    def without_positions(_: Any, tensors: Tensors) -> Tensors:
        return {name: value for name, value in tensors.items() if name != "embeddings.position_ids"}

    model = _load(ENCODER, models, device=device, dtype=torch.float32, prepare=without_positions)
    config = model.config
    if config.max_position_embeddings < NUM_TOKENS or config.vocab_size <= max(PROMPT):
        raise UserError(
            f"{config_file(models, ENCODER)}: {config.max_position_embeddings} positions and "
            f"{config.vocab_size} tokens, Arc2Face's prompt needs {NUM_TOKENS} and {max(PROMPT) + 1}"
        )
    # A buffer that is not saved, so the meta device left it without values.
    positions = torch.arange(config.max_position_embeddings, device=device)
    model.embeddings.position_ids = positions.expand((1, -1))
    return model


def load_conditioner(models: Path, *, device: str, batch_size: int) -> Conditioner:
    """The encoder of a model folder, as a function of face embeddings."""
    return Conditioner(load_text_model(models, device=device), batch_size=batch_size)


def read_skeleton(models: Path, part: Part) -> Any:
    """The part's network on the meta device, without values; its `config` has every default filled in.

    It is shared, as several readers of one folder want only its config: not to be changed.

    Raises:
        UserError: no such file, or a config that describes no such network.
    """
    file = config_file(models, part)
    try:
        status = file.stat()
    except OSError:
        return _build(part, file)  # says what is wrong
    return _build_once(part, file, status.st_mtime_ns, status.st_size)


def load_scheduler_config(models: Path) -> dict[str, Any]:
    """The scheduler's JSON, as it is written.

    Raises:
        UserError: no such file, something else in it, or a setting that no scheduler can have.
    """
    file = config_file(models, SCHEDULER)
    config = read_config(file)
    problems = scheduler_problems(config)
    if problems:
        raise UserError(
            f"{file}: {'; '.join(problems)}: give the scheduler_config.json of Stable Diffusion 1.5"
        )
    return config


def encoder_file(models: Path) -> Path:
    """The encoder's weight file."""
    return weight_file(models, ENCODER)


def config_file(models: Path, part: Part) -> Path:
    assert part.config is not None, part.name
    return models / part.config


def weight_file(models: Path, part: Part) -> Path:
    """Where this part's weights lie.

    Raises:
        UserError: the folder has none, or may not be looked into.
    """
    try:
        file = part.find_weights(models)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): {_GET_ONE}") from None
    if file is None:
        need = f"{part.optional_for} needs" if part.optional_for else "a model folder has"
        raise UserError(f"{models} has no {' or '.join(part.weights)}, which {need}: {_GET_ONE}")
    return file


def read_config(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UserError: no such file, or something else in it.
    """
    try:
        config = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): {_GET_ONE}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON ({error}): fetch it again") from None
    if not isinstance(config, dict):
        raise UserError(f"{file} holds a {type(config).__name__}, not a JSON object: fetch it again")
    return config


def read_tensors(file: Path) -> Tensors:
    """The tensors of a .safetensors file, or of a PyTorch pickle that holds nothing but tensors.

    Raises:
        UserError: a damaged or half-downloaded file, or a pickle with anything else in it.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except _BAD_WEIGHTS as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{file} is damaged or not a weight file ({reason}): fetch it again") from None
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in tensors.items()
    ):
        raise UserError(f"{file} is not a table of tensors: fetch it again")
    return tensors


def _load(
    part: Part,
    models: Path,
    *,
    device: str,
    dtype: torch.dtype,
    prepare: Callable[[Any, Tensors], Tensors] = lambda _, tensors: tensors,
) -> Any:
    """The part's network with its weights; `prepare` may drop modules and tensors that are not used."""
    file, network = weight_file(models, part), _build(part, config_file(models, part))
    prefix = PREFIX.get(part, "")
    tensors = {
        current_name(part, name).removeprefix(prefix): value for name, value in read_tensors(file).items()
    }
    _fill(network, prepare(network, tensors), file, device=device, dtype=dtype)
    return network


@lru_cache(maxsize=8)
def _build_once(part: Part, file: Path, *_: int) -> nn.Module:
    return _build(part, file)


def _build(part: Part, file: Path) -> nn.Module:
    config = read_config(file)
    kind = config.get("_class_name", part.model_class)
    if kind != part.model_class:
        raise UserError(f"{file} is of a {kind}, expected a {part.model_class}")
    try:
        with quiet_libraries():
            return skeleton(part, config)
    except BAD_CONFIG as error:
        reason = str(error.__cause__ or error).partition("\n")[0]
        raise UserError(
            f"{file} does not describe a {part.model_class} ({reason}): fetch it again"
        ) from error


def _fill(network: nn.Module, tensors: Tensors, file: Path, *, device: str, dtype: torch.dtype) -> None:
    """Gives the network exactly these tensors, for inference."""
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in tensors]
    unexpected = [name for name in tensors if name not in wanted]
    if missing or unexpected:
        name, how, count = (
            (missing[0], "missing", len(missing))
            if missing
            else (unexpected[0], "unexpected", len(unexpected))
        )
        more = f" and {count - 1} more" if count > 1 else ""
        raise UserError(
            f"{file}: tensor {name} is {how}{more}: file and config.json belong to different networks"
        )
    for name, value in wanted.items():
        if tensors[name].shape != value.shape:
            raise UserError(
                f"{file}: tensor {name} is {tuple(tensors[name].shape)}, "
                f"config.json asks for {tuple(value.shape)}"
            )
        if not tensors[name].is_floating_point():
            kind = str(tensors[name].dtype).removeprefix("torch.")
            raise UserError(f"{file}: tensor {name} is of {kind}, expected floating point: fetch it again")
    ready = {name: tensors[name].to(device=device, dtype=dtype) for name in wanted}
    network.load_state_dict(ready, assign=True)
    network.eval().requires_grad_(False)
