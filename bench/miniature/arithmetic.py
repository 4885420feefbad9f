"""What the miniature's recognisers are trained in."""

from typing import Literal

from d2r_fast.engine.device import find_device
from d2r_fast.engine.processor import multiplies_bf16


def precision_of(device: str) -> Literal["fp32", "bf16"]:
    """Arithmetic of the trainings: the faster one on this machine."""
    if find_device(device) == "cpu":
        return "bf16" if multiplies_bf16() else "fp32"
    import torch

    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
