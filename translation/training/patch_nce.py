"""The contrastive loss between patches of an image and of its translation (Park et al., ECCV 2020)."""

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.07


def patch_nce(queries: Tensor, keys: Tensor) -> Tensor:
    """How hard it is to tell a patch's own counterpart from those at other places of the same image.

    The cosine to the counterpart is the logit to win, those to the other places are the rest. No gradient reaches
    the keys. The published program also lists every patch's own place among the rest, as -10 / 0.07 before the
    softmax: e^-128 of the smallest share that a cosine can have, which no sum of floats can hold, so it is left out.

    In float32 whatever the networks computed in.

    Args:
        queries: (B, P, C) unit vectors of the translation.
        keys: (B, P, C) unit vectors of the source at the same places.

    Returns:
        (B,) mean over the patches.
    """
    with torch.autocast(queries.device.type, enabled=False):
        cosines = queries.float() @ keys.detach().float().mT
    batch, patches, _ = cosines.shape
    own = torch.arange(patches, device=cosines.device).expand(batch, patches)
    losses = F.cross_entropy((cosines / TEMPERATURE).flatten(0, 1), own.flatten(), reduction="none")
    return losses.view(batch, patches).mean(dim=1)
