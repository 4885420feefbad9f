"""Whether the files of a model folder fit their configs and one another, by names and shapes alone."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.models.contents import Graph, Tensors
from d2r_fast.engine.models.layout import DETECTOR, ENCODER, LORA, RECOGNISER, SCHEDULER, UNET, VAE, Part
from d2r_fast.engine.models.lora import merge_lora
from d2r_fast.engine.models.skeleton import (
    BAD_CONFIG,
    current_name,
    scheduler_problems,
    skeleton,
    tensor_shapes,
)
from d2r_fast.engine.quiet import quiet_libraries

ID_EMBEDDING_DIM = 512  # where the encoder's config does not say, as in the released one
NUM_TOKENS = 77
VOCABULARY = 49408
CROP = (3, 112, 112)
NUM_DETECTOR_OUTPUTS = 9
IGNORED = ("text_model.embeddings.position_ids",)  # a buffer that older transformers saved


@dataclass(slots=True)
class Found:
    """What could be read of a folder's parts; a part that is missing or damaged is not in here."""

    configs: dict[Part, dict[str, Any]] = field(default_factory=dict)
    tensors: dict[Part, Tensors] = field(default_factory=dict)
    graphs: dict[Part, Graph] = field(default_factory=dict)


def misfits(part: Part, found: Found) -> list[str]:
    """What is wrong with a part's weights (or the scheduler's config), one line each; empty where they fit.

    Nothing is said of a part that could not be read, or whose config could not.
    """
    if part.config and part not in found.configs:
        return []
    if part is SCHEDULER:
        return _scheduler(found.configs[part])
    if part in found.graphs:
        graph = found.graphs[part]
        return _recogniser(graph, found) if part is RECOGNISER else _detector(graph)
    if part not in found.tensors:
        return []
    if part is LORA:
        return _lora(found)
    config = found.configs[part]
    try:
        with quiet_libraries():
            wanted = tensor_shapes(part, skeleton(part, config))
    except BAD_CONFIG as error:
        reason = str(error.__cause__ or error).partition("\n")[0]
        return [f"its config describes no {part.model_class}: {reason}"]
    return _tensors(part, wanted, found.tensors[part]) + _between(part, config, found)


def _scheduler(config: dict[str, Any]) -> list[str]:
    kind = config.get("prediction_type", "epsilon")
    return scheduler_problems(config) + [f"prediction_type {kind}, Arc2Face's UNet predicts epsilon"] * (
        kind != "epsilon"
    )


def _tensors(part: Part, wanted: dict[str, tuple[int, ...]], tensors: Tensors) -> list[str]:
    given = {current_name(part, name): shape for name, shape in tensors.shapes.items() if name not in IGNORED}
    differing = [
        f"{name} is {given[name]} and its config asks for {shape}"
        for name, shape in wanted.items()
        if name in given and given[name] != shape
    ]
    return (
        _counted("tensor missing", [name for name in wanted if name not in given])
        + _counted("tensor unexpected", [name for name in given if name not in wanted])
        + _counted("tensor misshapen", differing)
        + _counted("tensor not floating point", [n for n in tensors.not_floating if n not in IGNORED])
    )


def _counted(kind: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [f"{kind}: {names[0]}{more}"] if names else []


def _between(part: Part, config: dict[str, Any], found: Found) -> list[str]:
    unet = found.configs.get(UNET, {})
    if part is UNET:
        width, context = found.configs.get(ENCODER, {}).get("hidden_size"), config.get("cross_attention_dim")
        if width is not None and width != context:
            return [f"cross_attention_dim {context}, the encoder gives {width}"]
        if config.get("sample_size") is None:
            return ["lacks sample_size, the side of the latents that the UNet was trained on"]
    if part is VAE:
        latents, channels = config.get("latent_channels"), unet.get("in_channels")
        if channels is not None and latents != channels:
            return [f"latent_channels {latents}, the UNet takes {channels}"]
    if part is ENCODER:
        return _encoder(config)
    return []


def _encoder(config: dict[str, Any]) -> list[str]:
    width, taken = config.get("hidden_size", 0), config.get("id_embedding_dim", ID_EMBEDDING_DIM)
    positions, vocabulary = config.get("max_position_embeddings", 0), config.get("vocab_size", 0)
    return (
        [f"id_embedding_dim {taken} is more than hidden_size {width}"] * (taken > width)
        + [f"{positions} positions, the prompt needs {NUM_TOKENS}"] * (positions < NUM_TOKENS)
        + [f"{vocabulary} tokens, CLIP has {VOCABULARY}"] * (vocabulary < VOCABULARY)
    )


def _recogniser(graph: Graph, found: Found) -> list[str]:
    if len(graph.inputs) != 1 or graph.inputs[0][1:] != CROP:
        return [f"takes {graph.inputs}, wanted is one input N x 3 x 112 x 112"]
    if len(graph.outputs) != 1 or len(graph.outputs[0]) != 2:
        return [f"gives {graph.outputs}, wanted is one output N x D"]
    if ENCODER not in found.configs:
        return []
    taken = found.configs[ENCODER].get("id_embedding_dim", ID_EMBEDDING_DIM)
    width = graph.outputs[0][1]
    known = isinstance(taken, int)  # else the encoder's own row says that its config is no good
    return [f"gives {width} values, the encoder takes {taken}"] * (known and width != taken)


def _detector(graph: Graph) -> list[str]:
    if len(graph.inputs) != 1 or len(graph.inputs[0]) != 4 or graph.inputs[0][1] != 3:
        return [f"takes {graph.inputs}, wanted is one input N x 3 x H x W"]
    count = len(graph.outputs)
    return [f"{count} outputs, SCRFD with keypoints has {NUM_DETECTOR_OUTPUTS}"] * (
        count != NUM_DETECTOR_OUTPUTS
    )


def _lora(found: Found) -> list[str]:
    if UNET not in found.configs:
        return []
    # Merged for real, but on the meta device: the rules are the loader's own and nothing is computed.
    stand_ins = {
        name: torch.empty(shape, device="meta") if shape else torch.ones(())
        for name, shape in found.tensors[LORA].shapes.items()
    }
    file = Path(LORA.weights[0])
    try:
        with quiet_libraries():
            merge_lora(skeleton(UNET, found.configs[UNET]), stand_ins, file)
    except UserError as error:
        return [str(error).removeprefix(f"{file}: ")]
    except BAD_CONFIG:
        return []  # the UNet's own row says that its config is no good
    return []


def summarise(part: Part, found: Found) -> str:
    """A few words on a part's shape, whose weights have been read."""
    if part in found.graphs:
        graph = found.graphs[part]
        outputs = (
            f"{len(graph.outputs)} outputs" if part is DETECTOR else ", ".join(map(_sides, graph.outputs))
        )
        return f"{', '.join(map(_sides, graph.inputs))} -> {outputs}"
    config, tensors = found.configs.get(part, {}), found.tensors[part]
    keys = {
        UNET: ("sample_size", "in_channels", "cross_attention_dim"),
        ENCODER: ("num_hidden_layers", "hidden_size", "id_embedding_dim"),
        VAE: ("sample_size", "latent_channels"),
    }
    facts = [f"{key} {config[key]}" for key in keys.get(part, ()) if key in config]
    if part is LORA:
        downs = [shape for name, shape in tensors.shapes.items() if name.endswith("lora_down.weight")]
        facts = [
            f"{len(downs)} layers",
            f"rank {'/'.join(map(str, sorted({shape[0] for shape in downs if shape})))}",
        ]
    return ", ".join([*facts, "/".join(tensors.dtypes)])


def _sides(sides: tuple[int | None, ...]) -> str:
    return "x".join("N" if side is None else str(side) for side in sides)
