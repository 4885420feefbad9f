"""Recognisers as files: ours written and read, InsightFace's and AdaFace's checkpoints read.

A network's folder holds model.safetensors, which carries its own description, and the same description as
config.json for people and other programs:

    {"backbone": {"name": "ir_50", "layout": "insightface", "width": 1.0, ...}, "about": {...}}
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from d2r_fast.engine.config import Frozen
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import sha256_file, write_atomic
from d2r_fast.engine.models.card import json_bytes
from d2r_fast.engine.models.load import read_config, read_tensors
from d2r_fast.recognition.backbone import build_backbone
from d2r_fast.recognition.backbone_config import BackboneConfig
from d2r_fast.recognition.layout import PUBLISHERS, config_of, find_network
from d2r_fast.recognition.torch_file import read_checkpoint

WEIGHTS, CONFIG = "model.safetensors", "config.json"
DESCRIPTION = "d2r_fast"
"""Entry of the safetensors header that holds the description: one, as the order of several is not fixed."""
COUNTER = "num_batches_tracked"
"""Of a batch norm; counts, and is used by none here. Checkpoints of before PyTorch 0.4.1 lack it."""


@dataclass(frozen=True, slots=True)
class LoadedNetwork:
    """A network from a file, in eval mode, float32, on the CPU.

    Attributes:
        module: crops (N,3,112,112) float in [-1, 1], colours in `config.channel_order` -> raw embeddings (N,D).
        config: which network it is.
        source: its file's name and the first digits of its SHA-256, for reports.
    """

    module: nn.Module
    config: BackboneConfig
    source: str


def save_network(
    folder: Path, module: nn.Module, config: BackboneConfig, *, about: Mapping[str, Any]
) -> None:
    """Write a network's files to `folder`, which exists; each appears whole, in place of an older one.

    `module` is what build_backbone(config) returned; `about` is anything that JSON can hold (recipe, epoch). The same
    weights, config and `about` give the same bytes.

    Raises:
        RunError: the disk is full.
        UserError: the folder may not be written to.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    fault = _fault(tensors, _skeleton(config).state_dict())
    assert fault is None, fault
    description = {"backbone": config.resolved().model_dump(mode="json"), "about": dict(about)}
    header = {DESCRIPTION: json.dumps(description, sort_keys=True, allow_nan=False)}
    write_atomic(folder / WEIGHTS, save(tensors, header))
    write_atomic(folder / CONFIG, json_bytes(description))


def load_network(path: Path) -> LoadedNetwork:
    """The network of a run folder, a network's folder, a .safetensors file, or a PyTorch checkpoint.

    Checkpoints may be InsightFace's (backbone.pth, or a checkpoint with `state_dict_backbone`) and AdaFace's
    (Lightning, with `model.` before the names). No code of theirs is run. Layout, depth and width are told from names
    and shapes, unless a description of ours says them; so are colours, RGB for InsightFace's and BGR for AdaFace's.

    Raises:
        UserError: no such file, a damaged one, another kind of network (the line says which, where it is known), one
            whose tensors are not those of its kind, or a description that disagrees with them.
    """
    file = network_file(path)
    name = str(file)
    if file.suffix == ".safetensors":
        content: Mapping[Any, Any] = read_tensors(file)
        stored = _read_config(file)
    else:
        content, stored = read_checkpoint(file), None
    layout, tensors = find_network(content, name=name)
    if stored is not None and stored.layout != layout:
        raise UserError(
            f"{name} holds {PUBLISHERS[layout]} and its description says {PUBLISHERS[stored.layout]}: the two belong "
            "to different networks"
        )
    config = stored or config_of(layout, tensors, name=name)
    return LoadedNetwork(_fill(config, tensors, name=name), config, source_of(file, path))


def network_file(path: Path) -> Path:
    """The file of weights that `path` stands for.

    Raises:
        UserError: no file, no network in the folder, or an ONNX graph.
    """
    if path.suffix == ".onnx":
        raise UserError(
            f"{path} is an ONNX graph, which holds no checkpoint: give the network it was made from"
        )
    if not path.is_dir():
        if not path.is_file():
            raise UserError(f"{path} is missing: give a run folder or a checkpoint")
        return path
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    inner = sorted(str(file.parent) for file in path.glob(f"*/{WEIGHTS}"))
    advice = f"give one of {', '.join(inner)}" if inner else "give a finished run's folder, or a checkpoint"
    raise UserError(f"{path} has no {WEIGHTS}: {advice}")


def source_of(file: Path, path: Path) -> str:
    """What a report calls the network at `path`: file name, under its folder's where that was given, and SHA-256."""
    name = f"{path.resolve().name}/{file.name}" if path != file else file.name
    return f"{name} {weights_sha256(file)[:12]}"


def weights_sha256(file: Path) -> str:
    """Hex SHA-256 of a network's file; of an ONNX graph with weights in files beside it, one over all of them.

    Raises:
        UserError: a file of weights that the graph names is missing, or the file is no graph.
    """
    digest = sha256_file(file)
    locations = external_files(file) if file.suffix == ".onnx" else []
    if not locations:
        return digest
    total = hashlib.sha256(digest.encode())
    for location in locations:
        beside = file.parent / location
        if not beside.is_file():
            raise UserError(f"{file} has weights in {location}, which is missing: keep both together")
        total.update(f"\n{location} {sha256_file(beside)}".encode())
    return total.hexdigest()


def external_files(graph: Path) -> list[str]:
    """Files beside an ONNX graph that hold weights of its, as it names them, in order of their names.

    Raises:
        UserError: it is no ONNX graph.
    """
    try:
        nodes = onnx.load(graph, load_external_data=False).graph
    except DecodeError as error:
        raise UserError(f"{graph} is not a usable ONNX graph: {error}") from None
    constants = (attribute.t for node in nodes.node for attribute in node.attribute)
    entries = (entry for tensor in (*nodes.initializer, *constants) for entry in tensor.external_data)
    return sorted({entry.value for entry in entries if entry.key == "location"})


class _Description(Frozen):
    backbone: dict[str, Any]
    about: dict[str, Any]


def _read_config(file: Path) -> BackboneConfig | None:
    """What the file's header and the config.json beside it say; None where neither is ours.

    Raises:
        UserError: they disagree, or say what there is not.
    """
    with safe_open(file, "pt") as opened:
        header = (opened.metadata() or {}).get(DESCRIPTION)
    beside = file.with_name(CONFIG)
    said = {}
    if header is not None:
        said[file] = _backbone(file, header)
    if file.name == WEIGHTS and beside.is_file():
        said[beside] = _backbone(beside, json.dumps(read_config(beside)))
    if len(set(said.values())) > 1:
        raise UserError(
            f"{beside} describes another network than {file.name} itself: they belong to different ones"
        )
    return next(iter(said.values()), None)


def _backbone(file: Path, text: str) -> BackboneConfig:
    try:
        return BackboneConfig(**_Description(**json.loads(text)).backbone)
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} describes no network of ours ({error}): fetch both again") from None


def _skeleton(config: BackboneConfig) -> nn.Module:
    with torch.device("meta"):
        return build_backbone(config, seed=0)


def _fill(config: BackboneConfig, tensors: dict[str, Tensor], *, name: str) -> nn.Module:
    network = _skeleton(config)
    wanted = network.state_dict()
    counters = {key: torch.zeros((), dtype=torch.int64) for key in wanted if key.endswith(COUNTER)}
    tensors = counters | tensors
    fault = _fault(tensors, wanted) or _not_finite(tensors)
    if fault:
        kind = f"{config.name} of {PUBLISHERS[config.layout]} at width {config.width:g}"
        raise UserError(f"{name} is no {kind}: {fault}: fetch it again, or give the network it belongs to")
    ready = {key: tensors[key].to(value.dtype).contiguous() for key, value in wanted.items()}
    network.load_state_dict(ready, assign=True)
    return network.eval()


def _fault(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """In what the tensors differ from those wanted, by name, shape or kind; None if in nothing."""
    missing = [key for key in wanted if key not in tensors]
    unexpected = [key for key in tensors if key not in wanted]
    for keys, how in ((missing, "missing"), (unexpected, "unexpected")):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            return f"tensor {keys[0]} is {how}{more}"
    for key, value in wanted.items():
        given = tensors[key]
        if given.shape != value.shape:
            return f"tensor {key} is {tuple(given.shape)}, wanted is {tuple(value.shape)}"
        if value.is_floating_point() and not given.is_floating_point():
            return f"tensor {key} is of {str(given.dtype).removeprefix('torch.')}, wanted is floating point"
    return None


def _not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    key = next((key for key, value in tensors.items() if not value.isfinite().all()), None)
    return None if key is None else f"tensor {key} holds values that are not finite"
