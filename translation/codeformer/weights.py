"""A CodeFormer checkpoint: known by its names and shapes, and loaded whole."""

from pathlib import Path

import torch

from d2r_fast.engine.errors import UserError
from d2r_fast.translation.checkpoint import Weights, load_exactly, read_weights
from d2r_fast.translation.codeformer.network import CodeFormerNetwork


def load_network(path: Path) -> tuple[CodeFormerNetwork, Weights]:
    """The network of a checkpoint in eval mode, float32, on the CPU, and what it was made of.

    Raises:
        UserError: no such file, another method's, missing or extra tensors, or sizes that cannot be.
    """
    weights = read_weights(path, method="codeformer")
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.tensors.items()}
    try:
        with torch.device("meta"):
            network = CodeFormerNetwork(shapes)
    except (IndexError, KeyError, ValueError) as error:
        what = str(error)
        if isinstance(error, KeyError):
            what = f"no {error.args[0]}"
        elif isinstance(error, IndexError):
            what = "a tensor with too few dimensions"
        raise UserError(
            f"{path} is no whole CodeFormer ({what}): give codeformer.pth of its release"
        ) from None
    load_exactly(network, weights.tensors, weights.path)
    return network.eval().requires_grad_(False), weights
