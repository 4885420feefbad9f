"""What a network needs in memory, from its shapes alone, and whether this machine has it.

A network is run once on torch's meta device, where tensors have shapes and no values. Every operation is
watched: the peak is the largest sum of the bytes that live tensors take at once, for one row in float32.
Attention counts as one operation, as torch, TensorRT and cuDNN run it; onnxruntime and OpenVINO may hold the
(heads, tokens, tokens) table as well, so `fused=False` counts that too.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from d2r_fast.engine.engine_record import Memory
from d2r_fast.engine.errors import RunError

if TYPE_CHECKING:
    from d2r_fast.export.networks import Exportable

WIDTHS = {"fp32": 4, "bf16": 2, "fp16": 2}


def estimate(network: "Exportable", *, precision: str, fused: bool) -> Memory:
    """Memory of a network in an arithmetic, by the count that the module describes."""
    width = WIDTHS[precision]
    weights = sum(value.numel() for value in _state(network).values()) * width
    return Memory(weights_bytes=weights, row_bytes=_peak(network, fused=fused) * width // 4)


def _state(network: "Exportable") -> dict[str, torch.Tensor]:
    return {**dict(network.module.named_parameters()), **dict(network.module.named_buffers())}


def _peak(network: "Exportable", *, fused: bool) -> int:
    state = _state(network)
    blank = {name: value.to("meta") for name, value in state.items()}
    inputs = network.random_inputs(1, seed=0)
    given = [inputs[port.name].to("meta") for port in network.inputs]
    live = _LiveBytes()
    with torch.no_grad(), live, _OneAttention(fused):
        torch.func.functional_call(network.module, blank, tuple(given))
    return live.peak


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up, after each operation, the storages of its results that are still in use."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for value in tree_leaves(results):
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                self._storages[reference.cdata] = (reference, storage.nbytes())
        self._storages = {
            key: kept
            for key, kept in self._storages.items()
            if not kept[0].expired()  # type: ignore[no-untyped-call]
        }
        self.peak = max(self.peak, sum(size for _, size in self._storages.values()))
        return results


class _OneAttention(TorchFunctionMode):
    """Has attention on the meta device give its result without a table of scores, if `fused`."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self._fused = fused

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._fused and func is torch.nn.functional.scaled_dot_product_attention:
            query, _, value = args[:3]
            return query.new_empty((*query.shape[:-1], value.shape[-1]))
        return func(*args, **(kwargs or {}))


def check_fits(memory: Memory, *, name: str, device: str, batch_size: int = 1, num_streams: int = 1) -> None:
    """See that the network fits into what is free now.

    Raises:
        RunError: it does not; the line names the largest batch (on the CPU: number of threads) that does.
    """
    num_rows = batch_size * num_streams
    free = free_bytes(device)
    if memory.needed(num_rows) <= free:
        return
    most = max(0, math.floor((free - memory.weights_bytes) / max(memory.row_bytes, 1)))
    gib = 2.0**30
    shortage = (
        f"{name} needs {memory.needed(num_rows) / gib:.1f} GiB on {device} (weights {memory.weights_bytes / gib:.1f}, "
        f"{num_rows} rows of {memory.row_bytes / gib:.2f}), free are {free / gib:.1f}"
    )
    if most == 0:
        raise RunError(f"{shortage}: it does not fit, give a smaller --height and --width or another device")
    if device == "cpu":
        raise RunError(f"{shortage}: set OMP_NUM_THREADS={most} or less")
    raise RunError(f"{shortage}: the largest batch that fits is --batch-size {most}")


def free_bytes(device: str) -> int:
    """Memory that can be had now: of the GPU, or what Linux calls available within this process's limits."""
    if device != "cpu":
        return int(torch.cuda.mem_get_info(device)[0])
    fields = _meminfo()
    available = fields.get("MemAvailable", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"))
    return min([available, *_cgroup_rest()])


def _meminfo() -> Mapping[str, int]:
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if len(line.split()) > 1}


def _cgroup_rest() -> list[int]:
    """What a container's limit leaves, where there is one; pages of files that were read can be dropped."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = int((folder / "memory.max").read_text())
        used = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no cgroup v2, or "max": no limit
        return []
    return [limit - sum(int(used.get(name, 0)) for name in ("anon", "kernel", "shmem"))]
