"""Telling whose network a table of tensors is, from names and shapes alone.

Anchors are names that every checkpoint of a layout has, whatever its width and depth, and no other layout known here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from torch import Tensor

from d2r_fast.engine.errors import UserError
from d2r_fast.translation.config import MethodName
from d2r_fast.translation.training.config import TransferMethod

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Layout:
    """One publisher's table of tensors.

    Attributes:
        method: which reads it; None: none here.
        what: for messages.
        anchors: patterns that all match the start of some name.
        num_dims: of the tensor that the first anchor matches; None: any.
    """

    method: MethodName | None
    what: str
    anchors: tuple[str, ...]
    num_dims: int | None = None

    def fits(self, tensors: Tensors) -> bool:
        """Whether the table has a name for each anchor."""
        return all(
            any(re.match(anchor, name) and self._has_dims(index, value) for name, value in tensors.items())
            for index, anchor in enumerate(self.anchors)
        )

    def _has_dims(self, index: int, value: Tensor) -> bool:
        return index > 0 or self.num_dims is None or value.ndim == self.num_dims


LAYOUTS = (
    Layout("vsait", "VSAIT's generator", (r"encoder\.net\.0\.conv\.weight$", r"decoder\.net\.\d+\.")),
    Layout("vsait", "a checkpoint of VSAIT's training", (r"model\.g_net\.encoder\.net\.0\.conv\.weight$",)),
    Layout("unsb", "UNSB's generator", (r"model\.1\.weight$", r"model_res\.0\.conv_fin\.", r"z_transform\.")),
    Layout("decent", "DECENT's generator (CUT's layout)", (r"model\.1\.weight$", r"model\.\d+\.conv_block\.")),
    Layout("codeformer", "CodeFormer", (r"position_emb$", r"ft_layers\.0\.", r"quantize\.embedding\.weight$")),
    Layout("ddim-inversion", "a latent-diffusion model", (r"model\.diffusion_model\.input_blocks\.0\.",)),
    Layout("stylegan-inversion", "an e4e or pSp encoder with its StyleGAN2",
           (r"encoder\.input_layer\.0\.weight$", r"decoder\.conv1\.conv\.modulation\.")),
    Layout("stylegan-inversion", "a StyleGAN2 generator of rosinality's layout",
           (r"(decoder\.)?conv1\.conv\.modulation\.weight$", r"(decoder\.)?to_rgb1\.")),
    Layout(None, "a StyleGAN2-ADA generator of NVIDIA's layout", (r"synthesis\.b4\.const$", r"mapping\.fc0\.")),
    Layout(None, "a diffusers UNet without its folder",
           (r"conv_in\.weight$", r"down_blocks\.0\.", r"time_embedding\.")),
    Layout(None, "a guided-diffusion UNet, whose file holds no schedule",
           (r"input_blocks\.0\.0\.weight$", r"time_embed\.0\.")),
    Layout(None, "the first stage of CodeFormer alone", (r"encoder\.blocks\.0\.weight$", r"quantize\.embedding\.")),
    Layout(None, "the first stage of latent diffusion alone", (r"encoder\.conv_in\.weight$", r"decoder\.")),
    Layout(None, "an e4e or pSp encoder without its generator",
           (r"(encoder\.)?input_layer\.0\.weight$", r"(encoder\.)?styles\.")),
    Layout(None, "UNSB's discriminator or energy network", (r"model_main\.0\.conv1\.weight$",)),
    Layout(None, "a patch discriminator", (r"model\.0\.weight$", r"model\.\d+\.weight$"), 4),
    Layout(None, "CUT's feature network", (r"mlp_0\.0\.weight$",)),
    Layout(None, "a VGG network", (r"features\.0\.weight$",), 4),
    Layout(None, "a recogniser of InsightFace's layout", (r"layer1\.0\.prelu\.weight$",)),
    Layout(None, "a recogniser of AdaFace's layout", (r"(model\.)?input_layer\.0\.weight$", r"(model\.)?body\.")),
)  # fmt: skip
"""The first that fits is meant: an e4e checkpoint holds what a lone encoder does."""
FOLDERS: Mapping[MethodName, str] = {
    **dict.fromkeys(get_args(TransferMethod), "a folder of `d2r-fast train-transfer`"),
    "ddim-inversion": "a diffusers folder with its scheduler",
}
"""What folder a method takes for its weights, where it takes one."""


def find_layout(tensors: Tensors) -> Layout | None:
    """Whose table this is; None where nobody's known here."""
    return next((layout for layout in LAYOUTS if layout.fits(tensors)), None)


def check_method(tensors: Tensors, *, method: MethodName, name: str) -> None:
    """Sees that a table is the method's.

    Args:
        tensors: without prefixes that a wrapper adds.
        method: whose it should be.
        name: of the file, for messages.

    Raises:
        UserError: another method's, which is said, or nobody's.
    """
    layout = find_layout(tensors)
    if layout is not None and layout.method == method:
        return
    if layout is not None and layout.method is not None:
        raise UserError(f"{name} is {layout.what}: give --method {layout.method}, or {method}'s weights")
    what = f"is {layout.what}" if layout else f"holds no network known here, but {_some_names(tensors)}"
    known = [kind.what for kind in LAYOUTS if kind.method == method]
    folder = [FOLDERS[method]] if method in FOLDERS else []
    raise UserError(f"{name} {what}: {method} takes {' or '.join(known + folder)}")


def _some_names(tensors: Tensors) -> str:
    if not tensors:
        return "no tensors"
    first = ", ".join(sorted(tensors)[:3])
    return f"{len(tensors)} tensors such as {first}"
