"""VSAIT's, DECENT's and UNSB's generators with weights in closed form, as tests/mininetworks.py has them."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from d2r_fast.translation.gan.blur import Blur
from d2r_fast.translation.gan.networks import GENERATORS
from d2r_fast.translation.gan.random_weights import GanName
from d2r_fast.translation.gan.unsb import MARKER

from .mininetworks import tensor

SIZES = {"mini": (8, 5), "full": (64, 9)}
"""Channels and blocks."""
METHODS: tuple[GanName, ...] = ("vsait", "decent", "unsb")


def closed_form(method: GanName, *, size: str = "mini", intended: bool = False) -> dict[str, Tensor]:
    """A generator's table of tensors; the published filters stay."""
    kind = GENERATORS[method]
    network = kind(*SIZES[size], intended=True) if intended else kind(*SIZES[size])  # type: ignore[call-arg]
    fixed = {f"{name}.{part.buffer}" for name, part in network.named_modules() if isinstance(part, Blur)}
    state = network.state_dict()
    return OrderedDict(
        (name, value if name in fixed | {MARKER} else _value(name, tensor(*value.shape, key=key)))
        for key, (name, value) in enumerate(state.items())
    )


def _value(name: str, u: Tensor) -> Tensor:
    if u.ndim > 1:
        return u * (3 / u[0].numel()) ** 0.5
    u = 0.1 * u
    if name.endswith("style_net.bias"):
        u[: len(u) // 2] += 1
    return u


def generator(method: GanName, *, size: str = "mini", intended: bool = False) -> nn.Module:
    """Loaded as from a checkpoint."""
    return GENERATORS[method].from_tensors(closed_form(method, size=size, intended=intended), Path("closed"))


def relative(values: Tensor, wanted: Tensor) -> float:
    """Relative L2 distance."""
    return float((values.double() - wanted.double()).norm() / wanted.double().norm())


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}
