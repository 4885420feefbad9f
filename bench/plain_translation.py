"""How the methods' own programs go through a folder: one process, one image at a time, float32 as torch runs it.

Read a file, translate a batch of one, write a PNG, take the next. Less than those programs do: DECENT's also translates
every image of the target domain and writes pages of HTML, CodeFormer's pastes into a larger picture.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from d2r_fast.engine.backends.cuda import compute_exactly
from d2r_fast.export.exportable import Exportable
from d2r_fast.translation.method import Method, Run

Publish = Callable[[nn.Module], None]


class PlainTranslation:
    """A method's program over files that lie in a folder: a call translates all of them.

    Args:
        method: whose networks; they take images of `size`.
        publish: makes a module of ours, in place, what the method's program runs.
    """

    def __init__(
        self, method: Method, files: Sequence[Path], out: Path, *, size: tuple[int, int], device: str,
        publish: Publish | None,
    ) -> None:  # fmt: skip
        self._method, self._files, self._out, self._device = method, files, out, device
        compute_exactly(device)
        self.networks: dict[str, Run] = {
            network.name: EagerNetwork(network, device, publish=publish) for network in method.networks(size)
        }

    @torch.inference_mode()
    def __call__(self) -> None:
        for number, file in enumerate(self._files):
            pixels = torch.from_numpy(np.array(Image.open(file).convert("RGB")))[None].to(self._device)
            inputs = self._method.prepare(pixels)
            outputs = self._method.run(self.networks, inputs, torch.tensor([[0, number]]))
            found = self._method.finish(outputs, (pixels.shape[1], pixels.shape[2]))
            Image.fromarray(found[0].cpu().numpy()).save(self._out / f"{number}.png")


class EagerNetwork:
    """The float32 module on its device, all threads on one batch."""

    def __init__(self, network: Exportable, device: str, *, publish: Publish | None = None) -> None:
        self._inputs, self._outputs = network.inputs, network.outputs
        self.module = network.load().to(device).eval()
        if publish is not None:
            publish(self.module)

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = self.module(*(inputs[port.name] for port in self._inputs))
        outputs = found if isinstance(found, tuple) else (found,)
        return {port.name: output for port, output in zip(self._outputs, outputs, strict=True)}
