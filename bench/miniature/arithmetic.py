"""What the miniature's recognisers are trained in."""

from typing import Literal

from d2r_fast.engine.device import find_device, has_bf16_units
from d2r_fast.engine.processor import multiplies_bf16


def precision_of(device: str) -> Literal["fp32", "bf16"]:
    """Arithmetic of the trainings: the faster one on this machine."""
    found = find_device(device)
    return "bf16" if (multiplies_bf16() if found == "cpu" else has_bf16_units(found)) else "fp32"
