"""A backbone and its margin loss as one module: what a training step differentiates."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Classifier(nn.Module):
    """Images float32 (N, 3, 112, 112) and labels int64 (N,) -> sums of their losses and of their norms.

    The backbone runs under autocast where `dtype` is not float32; the head and the cross entropy are float32.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, *, dtype: torch.dtype) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.dtype = dtype

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        lower = self.dtype != torch.float32
        with torch.autocast(images.device.type, dtype=self.dtype if lower else None, enabled=lower):
            embeddings = self.backbone(images)
        loss = F.cross_entropy(self.head(embeddings, labels), labels, reduction="sum")
        return loss, embeddings.detach().norm(dim=1).sum()
