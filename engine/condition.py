"""From face embeddings to what the UNet attends to: Arc2Face's use of the CLIP text encoder.

The prompt is "photo of a id person". The face embedding, of length 1 and zero-padded to the encoder's width,
takes the place of the token embedding of "id"; then the encoder runs as it always does, and all 77 states
after the final layer norm are the conditioning (Papantoniou et al., Arc2Face, ECCV 2024, arXiv 2403.11641).
The mask is causal, so the states before "id" are the same for every face.
"""

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


class Conditioner:
    """Arc2Face's text encoder as a function of face embeddings.

    Args:
        text_model: transformers' CLIPTextModel, in float32 on its device. Its config may say how many values
            of an embedding it takes as `id_embedding_dim`; the released encoder, which does not, takes 512.
        batch_size: embeddings encoded at once; fewer are padded, so the encoder sees one shape only.

    Attributes:
        embedding_dim: D, the values of a face embedding.
        width: C, the values of a token.
    """

    def __init__(self, text_model: Any, *, batch_size: int = 8) -> None:
        self.width: int = text_model.config.hidden_size
        self.embedding_dim: int = getattr(text_model.config, "id_embedding_dim", _RELEASED_DIM)
        if not 1 <= self.embedding_dim <= self.width:
            raise UserError(
                f"an Arc2Face encoder of hidden_size {self.width} and id_embedding_dim {self.embedding_dim}: "
                "the embedding must fit into a token"
            )
        self.batch_size = batch_size
        self._text_model = text_model
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
        prompt = self._token_embeddings(PROMPT)
        contexts = []
        for rows, kept in fixed_batches(len(faces), self.batch_size):
            tokens = prompt.repeat(len(rows), 1, 1)
            tokens[:, ID_POSITION] = 0
            tokens[:, ID_POSITION, : self.embedding_dim] = faces[rows]
            contexts.append(self._encode(tokens)[:kept])
        return torch.cat(contexts) if contexts else prompt[:0]

    @torch.inference_mode()
    def unconditional(self) -> torch.Tensor:
        """(77, C) float32, the encoded empty prompt: the other branch of classifier-free guidance."""
        return self._encode(self._token_embeddings(EMPTY_PROMPT))[0]

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

    def _token_embeddings(self, ids: tuple[int, ...]) -> torch.Tensor:
        embed = self._text_model.embeddings.token_embedding
        tokens: torch.Tensor = embed(torch.tensor([ids], device=self._device))
        return tokens

    def _encode(self, tokens: torch.Tensor) -> torch.Tensor:
        """transformers' own forward from the token embeddings on, which it takes no input for."""
        model = self._text_model
        hidden = model.embeddings(inputs_embeds=tokens)
        mask = create_causal_mask(
            config=model.config, inputs_embeds=hidden, attention_mask=None, past_key_values=None
        )
        encoded = model.encoder(inputs_embeds=hidden, attention_mask=mask, is_causal=True)
        states: torch.Tensor = model.final_layer_norm(encoded.last_hidden_state)
        return states
