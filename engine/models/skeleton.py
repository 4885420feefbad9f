"""The tensors that a network's config asks of its weight file, without allocating one.

diffusers and transformers build the network on PyTorch's meta device, which knows shapes and holds nothing.
What they take without a look and stumble over later, when the network runs, is looked at here.
"""

import reprlib
from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from d2r_fast.engine.models.layout import ENCODER, SCHEDULER, UNET, VAE, Part

PREFIX = {ENCODER: "text_model."}
"""What the published files put before transformers' own names."""

# Older diffusers named the VAE's attention weights otherwise, and Stable Diffusion 1.5's file still does.
OLD_VAE_NAMES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}

# What the libraries raise for a config that they cannot use; they do not agree on one type.
BAD_CONFIG = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, RuntimeError, TypeError,
    ValueError, StrictDataclassError,
)  # fmt: skip
SCHEDULER_KEYS = ("beta_end", "beta_schedule", "beta_start", "num_train_timesteps")

Rule = tuple[str, Callable[[Any], bool]]
"""What is expected of a setting, in words, and whether a value is that."""


def _whole(low: int, high: int) -> Rule:
    return f"a whole number from {low} to {high}", lambda value: type(value) is int and low <= value <= high


def _between(low: float, high: float) -> Rule:
    return (
        f"a number between {low:g} and {high:g}",
        lambda value: type(value) in (int, float) and low < value < high,
    )


def _one_of(*allowed: str | None) -> Rule:
    names = " or ".join("null" if value is None else value for value in allowed)
    return names, lambda value: value in allowed


def _is_side(value: Any) -> bool:
    sides = value if isinstance(value, list) and len(value) == 2 else [value]
    return all(type(side) is int and 1 <= side <= _MOST for side in sides)


def _is_betas(value: Any) -> bool:
    holds = _between(0, 1)[1]
    return value is None or (isinstance(value, list) and bool(value) and all(map(holds, value)))


_MOST = 2**15
_EPSILON = _between(0, 1)
_FLAG: Rule = ("true or false", lambda value: isinstance(value, bool))
# Any other is a package that is not installed, or one that transformers would fetch from the hub.
_ATTENTION = _one_of(None, "eager", "sdpa")
# Settings that may be left out, and what they must be where they stand.
_RULES: dict[Part, dict[str, Rule]] = {
    UNET: {
        "_class_name": _one_of(UNET.model_class),
        "sample_size": (f"a whole number from 1 to {_MOST} or a list of two", _is_side),
        "norm_num_groups": _whole(1, _MOST),
        "norm_eps": _EPSILON,
        "freq_shift": _between(-1e3, 1e3),
        "flip_sin_to_cos": _FLAG,
    },
    VAE: {
        "_class_name": _one_of(VAE.model_class),
        "norm_num_groups": _whole(1, _MOST),
        "scaling_factor": _between(0, 1e6),  # Stable Diffusion 1.5's file leaves it out, and means 0.18215
    },
    ENCODER: {
        "id_embedding_dim": _whole(1, _MOST),
        "layer_norm_eps": _EPSILON,
        "attention_dropout": ("a number from 0 up to 1", lambda value: value == 0 or _EPSILON[1](value)),
        "attn_implementation": _ATTENTION,
        "_attn_implementation": _ATTENTION,
    },
    SCHEDULER: {
        "_class_name": (
            "a name that ends in Scheduler",
            lambda value: isinstance(value, str) and value.endswith("Scheduler"),
        ),
        "num_train_timesteps": _whole(1, 100_000),
        "beta_start": _between(0, 1),
        "beta_end": _between(0, 1),
        "beta_schedule": _one_of("linear", "scaled_linear", "squaredcos_cap_v2"),
        "trained_betas": ("null or a list of numbers between 0 and 1", _is_betas),
        "steps_offset": _whole(0, 1000),
        "timestep_spacing": _one_of("linspace", "leading", "trailing"),
        "original_inference_steps": _whole(1, 100_000),
        "timestep_scaling": _between(0, 1e6),
        "set_alpha_to_one": _FLAG,
        "lower_order_final": _FLAG,
    },
}


def bad_values(part: Part, config: dict[str, Any]) -> list[str]:
    """The settings of a config that cannot be what they are, one line each; empty where none is wrong."""
    return [
        f"{name} is {reprlib.repr(config[name])}, expected {expected}"
        for name, (expected, holds) in _RULES.get(part, {}).items()
        if name in config and not holds(config[name])
    ]


def scheduler_problems(config: dict[str, Any]) -> list[str]:
    """What a scheduler's config lacks or has wrong, one line each."""
    missing = [key for key in SCHEDULER_KEYS if key not in config]
    return [f"lacks {', '.join(missing)}"] * bool(missing) + bad_values(SCHEDULER, config)


def skeleton(part: Part, config: dict[str, Any]) -> nn.Module:
    """The network of this config on the meta device: names and shapes, no values.

    Raises one of BAD_CONFIG for a config that cannot be used.
    """
    problems = bad_values(part, config)
    if problems:
        raise ValueError(problems[0])
    with torch.device("meta"):
        network: nn.Module
        if part is UNET:
            network = UNet2DConditionModel.from_config(config)  # type: ignore[no-untyped-call]
        elif part is VAE:
            network = AutoencoderKL.from_config(config)  # type: ignore[no-untyped-call]
        else:
            assert part is ENCODER, part
            network = CLIPTextModel(CLIPTextConfig.from_dict(config))
    return network


def tensor_shapes(part: Part, network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name in the weight file -> shape, for every tensor that the network is loaded from."""
    prefix = PREFIX.get(part, "")
    return {prefix + name: tuple(value.shape) for name, value in network.state_dict().items()}


def current_name(part: Part, name: str) -> str:
    """A weight file's tensor name as today's libraries spell it."""
    if part is VAE and ".attentions." in name:
        for old, new in OLD_VAE_NAMES.items():
            name = name.replace(old, new)
    return name
