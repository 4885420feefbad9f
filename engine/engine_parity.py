"""How far an engine's outputs are from the float32 torch network's, on random inputs, and what is allowed."""

from collections.abc import Mapping

import torch

from d2r_fast.engine.backends.network import Network, Rows
from d2r_fast.engine.config import Precision
from d2r_fast.engine.device import device_name
from d2r_fast.engine.engine_record import Parity
from d2r_fast.engine.errors import RunError

LIMITS: dict[Precision, float] = {"fp32": 1e-5, "bf16": 3e-2, "fp16": 5e-3}
"""Largest relative L2 error ||engine - reference|| / ||reference|| of any output, by precision."""
NUM_ROWS = 2
"""Rows that are compared: two, so that a network that mixes rows up is found out."""
SEED = 20240
ADVICE = {
    "fp32": "choose another --backend",
    "bf16": "choose --precision fp32",
    "fp16": "choose --precision bf16 or fp32",
}
Tensors = Mapping[str, torch.Tensor]


def measure(
    network: Network, inputs: Tensors, expected: Tensors, *, backend: str, precision: Precision
) -> Parity:
    """Compares a network with float32 outputs.

    Args:
        network: what was built.
        inputs: NUM_ROWS rows, on the CPU.
        expected: the float32 outputs for them.
        backend: for the error.
        precision: decides the limit.

    Raises:
        RunError: an output is above the limit or not finite.
    """
    outputs = Rows(network)({name: value.to(network.device) for name, value in inputs.items()})
    errors = {name: outputs[name].cpu().double() - value.double() for name, value in expected.items()}
    figures = {name: float(errors[name].norm() / expected[name].double().norm()) for name in expected}
    limit = LIMITS[precision]
    for name, figure in figures.items():
        if not figure <= limit:
            raise RunError(
                f"{network.name} by {backend} in {precision} is not accurate: {name} differs from float32 by "
                f"{figure:.2e} (relative L2), allowed is {limit:.0e}: {ADVICE[precision]}"
            )
    return Parity(
        relative_l2=figures,
        max_abs={name: float(error.abs().max()) for name, error in errors.items()},
        limit=limit,
        where=f"{NUM_ROWS} rows of seed {SEED} on {device_name(network.device)}",
    )


def not_measured(reason: str, *, precision: Precision) -> Parity:
    """What the sidecar says of an engine that cannot run where it is built."""
    return Parity(relative_l2=None, max_abs=None, limit=LIMITS[precision], where=f"nowhere yet: {reason}")
