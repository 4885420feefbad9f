"""Networks as the methods' own programs run them, where our modules compute the same numbers with less work."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from d2r_fast.bench.plain_stylegan import scale_weights
from d2r_fast.translation.config import MethodName
from d2r_fast.translation.gan.unsb import Block


def do_dead_work(module: nn.Module) -> None:
    """Have UNSB's blocks do what the released ones do beside what counts: every layer of the first half runs on the
    block's input, and all results but the last's are thrown away."""
    blocks = [block for block in module.modules() if isinstance(block, Block)]
    assert blocks, "UNSB's network"
    for block in blocks:
        block.register_forward_pre_hook(_throw_away)


def _throw_away(block: nn.Module, given: tuple[Tensor, ...]) -> None:
    assert isinstance(block, Block)
    for layer in list(block.conv_block)[:-1]:
        layer(given[0])
    block.Dense_time(torch.zeros_like(given[-1]))


PUBLISHED: dict[MethodName, Callable[[nn.Module], None]] = {
    "unsb": do_dead_work,
    "stylegan-inversion": scale_weights,
}
"""What is done to a module of ours, in place; where a method is not named, ours does what the published one does."""
