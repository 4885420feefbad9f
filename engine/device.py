"""Which device and which arithmetic a name stands for on this machine."""

import torch

from d2r_fast.engine.config import DType
from d2r_fast.engine.errors import UserError


def find_device(name: str) -> str:
    """The device called auto (cuda where there is one, else cpu), cpu, cuda or cuda:N: "cpu" or "cuda:N".

    Raises:
        UserError: another name, or a device that this machine does not have.
    """
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if name == "auto":
        return gpus[0] if gpus else "cpu"
    found = "cuda:0" if name == "cuda" else name
    if found not in ("cpu", *gpus):
        raise UserError(f"device {name!r} is not there: this machine has {', '.join(('cpu', *gpus))}")
    return found


def find_dtype(name: DType, device: str) -> torch.dtype:
    """The arithmetic called float32, bfloat16, float16 or auto (float16 on CUDA, else float32).

    Raises:
        UserError: another name.
    """
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    known["auto"] = torch.float32 if device == "cpu" else torch.float16
    if name not in known:
        raise UserError(f"dtype {name!r}: expected one of {', '.join(sorted(known))}")
    return known[name]


def has_bf16_units(device: str | torch.device) -> bool:
    """Whether a CUDA device multiplies bfloat16 itself; one that emulates it is slower so than in float32."""
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def device_name(device: str) -> str:
    """What the device is called, for people: the GPU's name, or the CPU and its threads."""
    if device == "cpu":
        return f"cpu, {torch.get_num_threads()} threads"
    return torch.cuda.get_device_name(device)
