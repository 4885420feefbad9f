"""Arc2Face's text encoder as it is exported: a face embedding in, all 77 states out."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from d2r_fast.engine.backends.network import Port
from d2r_fast.engine.condition import NUM_TOKENS, PROMPT, embed_tokens, encode_tokens, face_dim, put_faces
from d2r_fast.engine.models.layout import ENCODER
from d2r_fast.engine.models.load import config_file, load_text_model, read_skeleton, weight_file
from d2r_fast.export.exportable import TorchExportable
from d2r_fast.export.graph import BATCH


class EncoderGraph(nn.Module):
    """Face embeddings (N,D) of length 1 -> context (N,77,C). The prompt around them is constant."""

    def __init__(self, text_model: Any) -> None:
        super().__init__()
        self.text_model = text_model
        self.register_buffer("prompt", embed_tokens(text_model, PROMPT))
        # The vocabulary, a third of the weights, is not looked at again.
        text_model.embeddings.token_embedding = None

    def forward(self, embeddings: Tensor) -> Tensor:
        return encode_tokens(self.text_model, put_faces(self.get_buffer("prompt"), embeddings))


def open_encoder(models: Path) -> TorchExportable:
    """The folder's encoder."""
    config = read_skeleton(models, ENCODER).config
    weights = weight_file(models, ENCODER)
    return TorchExportable(
        name="encoder",
        inputs=(Port("embeddings", torch.float32, ("batch", face_dim(config))),),
        outputs=(Port("context", torch.float32, ("batch", NUM_TOKENS, config.hidden_size)),),
        files={
            str(ENCODER.config): config_file(models, ENCODER),
            weights.relative_to(models).as_posix(): weights,
        },
        settings={"prompt": ",".join(map(str, PROMPT))},
        draws={"embeddings": _direction},
        make=partial(_load, models),
        dynamic_axes={"embeddings": {0: BATCH}},
    )


def _load(models: Path) -> nn.Module:
    return EncoderGraph(load_text_model(models, device="cpu"))


def _direction(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(shape, generator=generator), dim=0)
