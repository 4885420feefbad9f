"""A recogniser as ONNX, as insightface's tools and ours read it: crops (N,3,112,112) in, embeddings out."""

from pathlib import Path

import torch
from torch import nn

from d2r_fast.engine.files import Written
from d2r_fast.export.graph import BATCH, export_onnx
from d2r_fast.recognition.iresnet import IMAGE_SIZE


def export_recogniser(network: nn.Module, path: Path, *, input_name: str = "data") -> Written:
    """Write `network` (in eval mode) as ONNX (opset 18) with a dynamic batch, one input and one output.

    Batch norms after a convolution are folded into it. Input: float32 (N,3,112,112), normalised as the network
    was trained; insightface's own networks take RGB, (x - 127.5) / 127.5, and need no sidecar. Output
    `embedding`: float32 (N,D), not normalised.
    """
    crops = torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    return export_onnx(
        network, {input_name: crops}, path, outputs=["embedding"], dynamic_axes={input_name: {0: BATCH}}
    )
