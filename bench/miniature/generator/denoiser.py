"""The miniature's UNet and text encoder, trained together as Arc2Face was: noise predicted from noised latents, with a
face's embedding in the place of a word (Papantoniou et al., ECCV 2024), by Stable Diffusion's schedule.

Times are weighed by their signal's share of the noise and one more (SNR + 1: Salimans and Ho, ICLR 2022), at most 5 of
it (min-SNR-5: Hang et al., ICCV 2023): few steps suffice where little noise is left, and where nearly all is noise, who
it will be is decided.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from d2r_fast.bench.miniature.generator.loop import run_steps
from d2r_fast.bench.miniature.generator.recipe import MiniatureRecipe
from d2r_fast.engine.condition import (
    EMPTY_PROMPT,
    ID_POSITION,
    PROMPT,
    embed_tokens,
    encode_tokens,
    put_faces,
)
from d2r_fast.engine.models.configs import SCHEDULER_CONFIG
from d2r_fast.translation.training.seeds import torch_draws

MOST_SNR, MOST_WEIGHT = 5.0, 10.0
LISTENING = 6.0
"""How loudly a word asks for the face: nearly all of its attention goes there."""
CROSS = "attn2"
"""What diffusers calls cross-attention."""
ENCODER_PACE, CROSS_PACE = 0.1, 3.0
"""At the others' pace the encoder's words grow past the face within some hundred steps."""


class Denoiser(nn.Module):
    """UNet and text encoder as one network.

    Attributes:
        unet, encoder: diffusers' and transformers'.
    """

    def __init__(self, recipe: MiniatureRecipe) -> None:
        super().__init__()
        self.unet: Any = UNet2DConditionModel.from_config(recipe.unet)  # type: ignore[no-untyped-call]
        config = {name: value for name, value in recipe.encoder.items() if name != "architectures"}
        self.encoder: Any = CLIPTextModel(CLIPTextConfig(**config))
        listen_to_the_face(self.encoder)
        begin_deaf(self.unet)
        # Of 49,408 words seven are ever said: the rest stay as they are drawn, and no gradient is kept for them.
        self.encoder.embeddings.token_embedding.weight.requires_grad_(False)

    def contexts(self, faces: Tensor, dropped: Tensor) -> Tensor:
        """(N, 77, C): of unit embeddings (N, D), or of the empty prompt where `dropped` (N,) says so."""
        told = put_faces(embed_tokens(self.encoder, PROMPT), faces)
        untold = embed_tokens(self.encoder, EMPTY_PROMPT).expand(len(faces), -1, -1)
        return encode_tokens(self.encoder, torch.where(dropped[:, None, None], untold, told))

    def forward(self, noised: Tensor, times: Tensor, contexts: Tensor) -> Tensor:
        """The noise that is in latents."""
        predicted: Tensor = self.unet(noised, times, encoder_hidden_states=contexts).sample
        return predicted


@torch.no_grad()
def listen_to_the_face(encoder: Any) -> None:
    """Begin with every later word attending to the face's.

    Arc2Face begins with networks that have learnt to hear words. In one that has not, the face is one of 77 words that
    all weigh alike. So its position gets a direction of its own, as long as a face is; in the first layer each head has
    a key for that direction, and asks for it whatever the word is.
    """
    layer, words = encoder.encoder.layers[0].self_attn, encoder.embeddings.position_embedding.weight
    width, heads = words.shape[1], layer.num_heads
    mark = nn.functional.normalize(torch.randn(width), dim=0)
    asked = nn.functional.normalize(torch.randn(heads, width // heads), dim=1).flatten()
    words[ID_POSITION] = mark
    layer.k_proj.weight += torch.outer(asked, mark)
    layer.q_proj.bias += LISTENING * asked


def begin_deaf(unet: Any) -> None:
    """Begin with cross-attention that adds nothing.

    What it adds at random is noise to be rid of, and the quickest way is to attend to the words before the face: after
    1,000 steps that began so, the loss was the same to 0.0001 with the right face, a wrong one and none.
    """
    for name, module in unet.named_modules():
        if name.endswith(CROSS):
            nn.init.zeros_(module.to_out[0].weight)
            nn.init.zeros_(module.to_out[0].bias)


def pace(name: str) -> float:
    """A parameter's learning rate over the others'."""
    if name.startswith("encoder."):
        return ENCODER_PACE
    return CROSS_PACE if f".{CROSS}." in name else 1.0


def train_denoiser(
    recipe: MiniatureRecipe,
    latents: Tensor,
    embeddings: NDArray[np.float32],
    folder: Path,
    *,
    device: str = "cpu",
) -> Denoiser:
    """The networks, trained on `device`, in evaluation mode on the CPU.

    Args:
        latents: (N, 4, h, w), scaled to a standard deviation of 1.
        embeddings: (N, D), of the same pictures, of length 1.
    """
    torch.manual_seed(recipe.seed)
    denoiser = Denoiser(recipe).to(device)
    alphas, faces = kept_signal(), torch.from_numpy(embeddings)

    def step(number: int) -> dict[str, Tensor]:
        draws = torch_draws(recipe.seed, f"denoiser, step {number}")
        rows = torch.randint(len(latents), (recipe.batch_size,), generator=draws)
        times = torch.randint(len(alphas), (recipe.batch_size,), generator=draws)
        dropped = torch.rand(recipe.batch_size, generator=draws) < recipe.dropped
        noise = torch.randn(latents[rows].shape, generator=draws)
        kept = alphas[times]
        signal, blur = kept.sqrt()[:, None, None, None], (1 - kept).sqrt()[:, None, None, None]
        noised = signal * latents[rows] + blur * noise
        inputs = (noised, times, faces[rows], dropped, noise, kept)
        noised, times, told, dropped, noise, kept = (value.to(device) for value in inputs)
        predicted = denoiser(noised, times, denoiser.contexts(told, dropped))
        each = (predicted - noise).square().mean((1, 2, 3))
        return {"loss": (each * weight(kept)).mean(), "noise": each.mean()}

    about = {
        "kind": "miniature denoiser",
        "recipe": recipe.model_dump(mode="json"),
        "num_latents": len(latents),
    }
    run_steps(
        folder, denoiser, step, about=about, num_steps=recipe.steps, learning_rate=recipe.learning_rate,
        average=recipe.average, pace=pace,
    )  # fmt: skip
    return denoiser.cpu()


def weight(kept: Tensor) -> Tensor:
    """Of a time's error in the noise, by the share of the signal's variance that is left at it."""
    snr = kept / (1 - kept)
    return ((snr + 1).clamp(max=MOST_SNR) / snr).clamp(max=MOST_WEIGHT)


def kept_signal() -> Tensor:
    """(1000,): the share of the signal's variance that is left at each time, Stable Diffusion's scaled-linear one."""
    first, last = (SCHEDULER_CONFIG[name] ** 0.5 for name in ("beta_start", "beta_end"))
    betas = torch.linspace(first, last, SCHEDULER_CONFIG["num_train_timesteps"], dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()
