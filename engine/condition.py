"""From face embeddings to what the UNet attends to: Arc2Face's use of the CLIP text encoder.

The prompt is "photo of a id person". The face embedding, of length 1 and zero-padded to the encoder's width,
takes the place of the token embedding of "id"; then the encoder runs as it always does, and all 77 states
after the final layer norm are the conditioning (Papantoniou et al., Arc2Face, ECCV 2024, arXiv 2403.11641).
The mask is causal, so the states before "id" are the same for every face.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers.masking_utils import create_causal_mask

from d2r_fast.engine.batch import fixed_batches
from d2r_fast.engine.errors import UserError

NUM_TOKENS = 77
ID_POSITION = 4
_START, _END = 49406, 49407
_PHOTO_OF_A_ID_PERSON = (1125, 539, 320, 1014, 2533)
PROMPT = (_START, *_PHOTO_OF_A_ID_PERSON) + (_END,) * (NUM_TOKENS - 6)
EMPTY_PROMPT = (_START,) + (_END,) * (NUM_TOKENS - 1)
_RELEASED_DIM = 512

Encode = Callable[[torch.Tensor], torch.Tensor]


class Conditioner:
    """Arc2Face's text encoder as a function of face embeddings.

    Args:
        text_model: transformers' CLIPTextModel, in float32 on its device. Its config may say how many values
            of an embedding it takes as `id_embedding_dim`; the released encoder, which does not, takes 512.
        batch_size: embeddings encoded at once; fewer are padded, so the encoder sees one shape only.
        encode: unit embeddings (N, D) -> contexts (N, 77, C), float32: the same encoder as a backend runs it,
            for any number of rows. Without it the text model is run.

    Attributes:
        embedding_dim: D, the values of a face embedding.
        width: C, the values of a token.
    """

    def __init__(self, text_model: Any, *, batch_size: int = 8, encode: Encode | None = None) -> None:
        self.width: int = text_model.config.hidden_size
        self.embedding_dim = face_dim(text_model.config)
        self.batch_size = batch_size
        self._text_model = text_model
        self._run = encode or self._encode
        self._device: torch.device = text_model.device

    @torch.inference_mode()
    def __call__(self, id_embeddings: torch.Tensor) -> torch.Tensor:
        """Encodes face embeddings.

        Args:
            id_embeddings: (N, D) floating, D = `embedding_dim`. Arc2Face takes them at length 1; only their
                direction is used, in float32.

        Returns:
            (N, 77, C) float32 on the encoder's device.

        Raises:
            UserError: another shape, or an embedding that is zero or not finite.
        """
        faces = self._directions(id_embeddings.to(self._device))
        if len(faces) == 0:
            return torch.empty(0, NUM_TOKENS, self.width, device=self._device)
        return self._run(faces)

    @torch.inference_mode()
    def unconditional(self) -> torch.Tensor:
        """(77, C) float32, the encoded empty prompt: the other branch of classifier-free guidance."""
        return encode_tokens(self._text_model, embed_tokens(self._text_model, EMPTY_PROMPT))[0]

    def _encode(self, faces: torch.Tensor) -> torch.Tensor:
        prompt = embed_tokens(self._text_model, PROMPT)
        batches = fixed_batches(len(faces), self.batch_size)
        return torch.cat(
            [encode_tokens(self._text_model, put_faces(prompt, faces[rows]))[:kept] for rows, kept in batches]
        )

    def _directions(self, embeddings: torch.Tensor) -> torch.Tensor:
        if embeddings.ndim != 2 or embeddings.shape[1] != self.embedding_dim:
            raise UserError(
                f"face embeddings of shape {tuple(embeddings.shape)}: expected (N, {self.embedding_dim}), "
                "from the recogniser that the Arc2Face encoder was trained with"
            )
        embeddings = embeddings.float()
        norms = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True)
        bad = ~(norms.isfinite() & (norms > 0)).squeeze(1)
        if bool(bad.any()):
            which = ", ".join(str(index) for index in bad.nonzero().flatten()[:5].tolist())
            raise UserError(f"face embeddings {which}: zero or not finite, they name no face")
        return embeddings.div(norms)


def face_dim(config: Any) -> int:
    """The values of a face embedding that an encoder of this config takes.

    Raises:
        UserError: more than its tokens have.
    """
    width: int = config.hidden_size
    dim: int = getattr(config, "id_embedding_dim", _RELEASED_DIM)
    if not 1 <= dim <= width:
        raise UserError(
            f"an Arc2Face encoder of hidden_size {width} and id_embedding_dim {dim}: "
            "the embedding must fit into a token"
        )
    return dim


def embed_tokens(text_model: Any, ids: tuple[int, ...]) -> torch.Tensor:
    """(1, len(ids), C), the token embeddings of one prompt, without positions."""
    tokens: torch.Tensor = text_model.embeddings.token_embedding(
        torch.tensor([ids], device=text_model.device)
    )
    return tokens


def put_faces(prompt: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """The prompt's token embeddings (1, 77, C) with faces (N, D) of length 1 in place of "id": (N, 77, C)."""
    # Not len(faces), which would decide the batch of an exported graph.
    before, _, after = prompt.expand(faces.shape[0], -1, -1).tensor_split(
        (ID_POSITION, ID_POSITION + 1), dim=1
    )
    padded = torch.nn.functional.pad(faces, (0, prompt.shape[2] - faces.shape[1]))
    return torch.cat((before, padded[:, None], after), dim=1)


def encode_tokens(text_model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """transformers' own forward from the token embeddings (N, 77, C) on, which it takes no input for."""
    hidden = text_model.embeddings(inputs_embeds=tokens)
    mask = create_causal_mask(
        config=text_model.config, inputs_embeds=hidden, attention_mask=None, past_key_values=None
    )
    encoded = text_model.encoder(inputs_embeds=hidden, attention_mask=mask, is_causal=True)
    states: torch.Tensor = text_model.final_layer_norm(encoded.last_hidden_state)
    return states
