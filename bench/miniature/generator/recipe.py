"""What the miniature's generator is, and what it is trained on and for how long."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from d2r_fast.engine.config import Frozen
from d2r_fast.engine.models import configs

RECOGNISER, GENERATOR, SOURCE, DEVELOPMENT, EVALUATION = range(10_000_000, 15_000_000, 1_000_000)
"""First identity of those that the recogniser and the generator are trained on, that datasets are made from, that
settings are chosen on, and that an experiment is verified on: nobody is in two."""
MOST_PEOPLE = GENERATOR - RECOGNISER
"""Of each."""
VAE_GROUPS, UNET_GROUPS = 8, 16
"""Channels are normalised in so many groups."""
HEADS = 4
"""Of every attention in UNet and text encoder."""
VaeChannels = Annotated[int, Field(gt=0, multiple_of=VAE_GROUPS)]
UnetChannels = Annotated[int, Field(gt=0, multiple_of=UNET_GROUPS)]


class MiniatureRecipe(Frozen):
    """Decides every weight, together with the head, the machine's arithmetic and the number of its threads."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    side: Annotated[int, Field(ge=64, multiple_of=64)] = 128
    """Pixels of the pictures."""
    recogniser_identities: Annotated[int, Field(ge=2, le=MOST_PEOPLE)] = 1400
    recogniser_images: Annotated[int, Field(ge=2)] = 10
    recogniser_epochs: Annotated[int, Field(ge=1)] = 9
    recogniser_batch_size: Annotated[int, Field(ge=2)] = 32
    recogniser_logits: Annotated[float, Field(gt=0)] = 16.0
    """Scale of AdaFace's logits, and its margin: with the published 64 and 0.4 so few steps learn little."""
    recogniser_margin: Annotated[float, Field(ge=0, lt=1.5)] = 0.1
    recogniser_width: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Share of IR-18's channels."""
    embedding_dim: Annotated[int, Field(ge=16)] = 128
    identities: Annotated[int, Field(ge=2, le=MOST_PEOPLE)] = 8000
    images: Annotated[int, Field(ge=1)] = 2
    """What the generator is trained on, of each identity."""
    vae_channels: tuple[VaeChannels, VaeChannels, VaeChannels, VaeChannels] = (16, 32, 64, 64)
    vae_steps: Annotated[int, Field(ge=1)] = 4000
    vae_batch_size: Annotated[int, Field(ge=1)] = 8
    vae_learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    unet_channels: tuple[UnetChannels, UnetChannels, UnetChannels, UnetChannels] = (64, 96, 128, 128)
    context: Annotated[int, Field(ge=16, multiple_of=HEADS)] = 128
    """Values of a token."""
    encoder_layers: Annotated[int, Field(ge=1)] = 2
    steps: Annotated[int, Field(ge=1)] = 10000
    batch_size: Annotated[int, Field(ge=1)] = 32
    learning_rate: Annotated[float, Field(gt=0)] = 7e-4
    dropped: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the pictures that are learnt without their identity, for classifier-free guidance."""
    average: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """The weights that come out are a mean over about 1 / (1 - average) steps."""

    @model_validator(mode="after")
    def _fitting(self) -> "MiniatureRecipe":
        if self.embedding_dim > self.context:
            raise ValueError(
                f"embedding_dim {self.embedding_dim} with context {self.context}: an embedding takes a token's place, "
                "give at least as large a context"
            )
        return self

    @property
    def vae(self) -> dict[str, Any]:
        """config.json, but for what the latents' spread turns out to be."""
        return configs.vae(
            sample_size=self.side, channels=list(self.vae_channels), layers=1, groups=VAE_GROUPS
        )

    @property
    def unet(self) -> dict[str, Any]:
        """Stable Diffusion's, but for the attention at full size, which took half of a step's time."""
        return configs.unet(
            sample_size=self.side // 8, channels=list(self.unet_channels), layers=1, heads=HEADS,
            context=self.context, groups=UNET_GROUPS,
        ) | {
            "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2, "DownBlock2D"],
            "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
        }  # fmt: skip

    @property
    def encoder(self) -> dict[str, Any]:
        return configs.encoder(
            width=self.context, layers=self.encoder_layers, heads=HEADS, id_embedding_dim=self.embedding_dim
        )
