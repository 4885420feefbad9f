"""What a network needs in memory and arithmetic, from its shapes alone, and whether this machine has it.

A network is run once on torch's meta device, where tensors have shapes and no values. Every operation is
watched: the peak is the largest sum of the bytes that live tensors take at once, for one row in float32.
Attention counts as one operation, as torch, TensorRT and cuDNN run it; onnxruntime and OpenVINO may hold the
(heads, tokens, tokens) table as well, so `fused=False` counts that too. FLOPs are those of matrix products and
convolutions.

What TensorRT for RTX reports as activation memory of 8 rows in fp16 at 256 pixels, and the count here, in MB: the
full UNet 146 and 137, the VAE 822 and 805, the encoder 20 and 16, IR-100 50 and 29.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from d2r_fast.engine.engine_record import Needs
from d2r_fast.engine.errors import RunError

if TYPE_CHECKING:
    from d2r_fast.export.networks import Exportable

WIDTHS = {"fp32": 4, "bf16": 2, "fp16": 2}


def estimate(network: "Exportable", *, precision: str, fused: bool) -> Needs:
    """What a network needs in an arithmetic, by the count that the module describes."""
    from d2r_fast.export.row_weights import RowWeights

    width = WIDTHS[precision]
    state = {**dict(network.module.named_parameters()), **dict(network.module.named_buffers())}
    blank = {name: value.to("meta") for name, value in state.items()}
    inputs = network.random_inputs(1, seed=0)
    given = [inputs[port.name].to("meta") for port in network.inputs]
    live, flops, rows = _LiveBytes(blank.values()), FlopCounterMode(display=False), RowWeights()
    with torch.no_grad(), live, _OneAttention(fused):
        torch.func.functional_call(network.module, blank, tuple(given))
    with torch.no_grad(), flops, rows:
        torch.func.functional_call(network.module, blank, tuple(given))
    weights_bytes = sum(value.numel() for value in state.values()) * width
    return Needs(
        weights_bytes=weights_bytes + (rows.num_bytes if network.in_rows else 0),
        row_bytes=live.peak * width // 4,
        row_flops=flops.get_total_flops(),
    )


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up, after each operation, the storages of results that are still in use, weights aside."""

    def __init__(self, weights: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._weights = {_reference(value).cdata for value in weights}
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for value in tree_leaves(results):
            if isinstance(value, torch.Tensor):
                reference = _reference(value)
                if reference.cdata not in self._weights:
                    self._storages[reference.cdata] = (reference, value.untyped_storage().nbytes())
        self._storages = {
            key: kept
            for key, kept in self._storages.items()
            if not kept[0].expired()  # type: ignore[no-untyped-call]
        }
        self.peak = max(self.peak, sum(size for _, size in self._storages.values()))
        return results


def _reference(value: torch.Tensor) -> StorageWeakRef:
    return StorageWeakRef(value.untyped_storage())  # type: ignore[no-untyped-call]


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


def check_fits(needs: Needs, *, name: str, device: str, num_rows: int, copies: float = 1) -> None:
    """See that a network fits into what is free now.

    Args:
        needs: as `estimate` gives them.
        name: of the network, for the error.
        device: "cpu" or "cuda:N".
        num_rows: rows that are computed at once.
        copies: how often the weights lie in memory.

    Raises:
        RunError: it does not; the line names the largest batch (on the CPU: number of threads) that does.
    """
    free = free_bytes(device)
    wanted, weights = needs.memory(num_rows, copies=copies), needs.memory(0, copies=copies)
    if wanted <= free:
        return
    most = max(0, (free - weights) // max(needs.row_bytes, 1))
    gib = 2.0**30
    shortage = (
        f"{name} needs {wanted / gib:.1f} GiB on {device} (weights {weights / gib:.1f}, {num_rows} rows of "
        f"{needs.row_bytes / gib:.2f}), free are {free / gib:.1f}"
    )
    if most == 0:
        raise RunError(
            f"{shortage}: it does not fit, give smaller images (--height and --width, or a method's --size) or "
            "another device"
        )
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
