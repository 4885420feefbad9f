"""Weights of a translation method: out of whatever they are packed in, known by their names, loaded without a rest.

Publishers pack the same table of tensors in different ways: as it is (DECENT, UNSB), under a key of BasicSR's,
rosinality's or Lightning's, with `module.` before every name where it was trained on several cards. Here all of that
is taken off, no code in a checkpoint is run (recognition/torch_file.py), and a network gets exactly the tensors that
it has names for.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import safe_open
from torch import Tensor, nn

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.models.load import read_config, read_tensors
from d2r_fast.recognition.torch_file import read_checkpoint
from d2r_fast.recognition.training.run_folder import RUN
from d2r_fast.translation.config import MethodName
from d2r_fast.translation.publishers import FOLDERS, check_method
from d2r_fast.translation.training.config import TransferMethod

CONTAINERS = ("params_ema", "g_ema", "state_dict", "params")
"""Keys under which publishers put the table: BasicSR's average, rosinality's average, Lightning's, BasicSR's own."""
WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""
GENERATOR = "generator.pth"
"""What `train-transfer` leaves in its folder beside run.json, which says how it was made."""
PARTS: Mapping[MethodName, tuple[str, tuple[str, ...]]] = {
    "vsait": ("model.g_net.", ("model.", "criterion.")),
}
"""Method -> prefix of its generator in a checkpoint of the whole training, and prefixes of what else may be there."""
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Weights:
    """What a checkpoint holds for one method.

    Attributes:
        path: the file they come from.
        tensors: by the names of the publisher's network.
        meta: everything that stood beside the table (epochs, `latent_avg`, `opts`), the entries of a safetensors
            header, and `run`: what `train-transfer` wrote about the run.
    """

    path: Path
    tensors: dict[str, Tensor]
    meta: Mapping[str, Any]


def read_weights(path: Path, *, method: MethodName) -> Weights:
    """The tensors of a checkpoint, by the names of the publisher's network.

    Args:
        path: a .safetensors file, a PyTorch checkpoint, or a folder of `train-transfer`.
        method: whose weights these should be.

    Raises:
        UserError: no such file, a damaged one, no table of tensors, or another method's, which is said.
    """
    file = weights_file(path, method=method)
    content = read_tensors(file) if file.suffix == ".safetensors" else read_checkpoint(file)
    table, rest = _unpack(content)
    tensors = _unwrap(table)
    check_method(tensors, method=method, name=str(path))
    meta = {**rest, **_header(file)}
    if file != path:
        meta["run"] = read_config(path / RUN)
    return Weights(file, _part(tensors, method=method, name=str(path)), meta)


def weights_file(path: Path, *, method: MethodName) -> Path:
    """The file of weights that `path` stands for.

    Raises:
        UserError: nothing there, or a folder without a generator.
    """
    if path.is_file():
        return path
    takes = f"a checkpoint, or {FOLDERS[method]}" if method in FOLDERS else "a checkpoint"
    if not path.exists():
        raise UserError(f"{path} is missing: give {takes}")
    lacks = next((name for name in (GENERATOR, RUN) if not (path / name).is_file()), None)
    if lacks is None:
        return path / GENERATOR
    if method in get_args(TransferMethod):
        raise UserError(
            f"{path} has no {lacks}: give a folder that `d2r-fast train-transfer` has finished, or a checkpoint"
        )
    raise UserError(f"{path} is a folder: {method} takes {takes}")


def _unpack(content: Mapping[Any, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The table of tensors, and what stands beside it."""
    for key in CONTAINERS:
        if isinstance(content.get(key), dict) and (table := _tensors(content[key])):
            return table, {str(name): value for name, value in content.items() if name != key}
    table = _tensors(content)
    return table, {str(name): value for name, value in content.items() if name not in table}


def _tensors(table: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in table.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _unwrap(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in WRAPPERS:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return _unwrap({name.removeprefix(prefix): value for name, value in tensors.items()})
    return tensors


def _part(tensors: dict[str, Tensor], *, method: MethodName, name: str) -> dict[str, Tensor]:
    """The generator out of a checkpoint of a whole training; other tables as they are."""
    prefix, others = PARTS.get(method, ("", ()))
    if not prefix or not any(key.startswith(prefix) for key in tensors):
        return tensors
    unknown = [key for key in tensors if not key.startswith((prefix, *others))]
    if unknown:
        raise UserError(
            f"{name} has {_named(unknown)} beside {prefix}*, which no checkpoint of {method} has: give the file as "
            "its program wrote it"
        )
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _header(file: Path) -> dict[str, str]:
    if file.suffix != ".safetensors":
        return {}
    with safe_open(file, framework="pt") as opened:
        return dict(opened.metadata() or {})


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Gives a network all of its tensors, and no other, in the network's own types.

    Args:
        module: on the meta device, which then takes the tensors themselves, or with values, which are overwritten.
        tensors: by the module's names.
        path: where they come from, for messages.

    Raises:
        UserError: names that are missing or too many, other shapes, or numbers that are not finite: counted, and the
            first few named.
    """
    wanted = module.state_dict()
    faults = list(_faults(wanted, tensors))
    if faults:
        raise UserError(
            f"{path} does not fit {type(module).__name__} ({'; '.join(faults)}): give the checkpoint as its "
            "program wrote it"
        )
    values = {name: tensors[name].detach().to(value.dtype).contiguous() for name, value in wanted.items()}
    module.load_state_dict(values, strict=True, assign=any(value.is_meta for value in wanted.values()))


def _faults(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Iterator[str]:
    missing = [name for name in wanted if name not in given]
    extra = [name for name in given if name not in wanted]
    both = [name for name in wanted if name in given]
    shapes = [
        f"{name} {_shape(given[name])} where {_shape(wanted[name])} is due"
        for name in both
        if given[name].shape != wanted[name].shape
    ]
    infinite = [name for name in both if not bool(torch.isfinite(given[name]).all())]
    if missing:
        yield f"missing {_named(missing)}, of {len(wanted)}"
    if extra:
        yield f"too many: {_named(extra)}"
    if shapes:
        yield f"other shapes: {_named(shapes)}"
    if infinite:
        yield f"not finite: {_named(infinite)}"


def _named(names: list[str]) -> str:
    """How many, and the first few."""
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{len(names)} ({shown})"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"
