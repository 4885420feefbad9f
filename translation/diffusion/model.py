"""A diffusion model that was recognised and not loaded: its parts, its schedule, the sizes it takes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from torch import Tensor

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.models.skeleton import BAD_CONFIG
from d2r_fast.engine.quiet import quiet_libraries
from d2r_fast.translation.checkpoint import load_exactly
from d2r_fast.translation.diffusion.steps import Schedule

PIXEL_CHANNELS = 3


@dataclass(frozen=True, slots=True)
class Part:
    """One network of a model.

    Attributes:
        kind: diffusers' class.
        config: its settings.
        files: what it is made of, name -> path; the weights come last.
        read: its tensors, by the class's names.
    """

    kind: Literal["UNet2DModel", "VQModel", "AutoencoderKL"]
    config: Mapping[str, Any]
    files: Mapping[str, Path]
    read: Callable[[], dict[str, Tensor]]

    def skeleton(self) -> Any:
        """The network without values, on the meta device; its `config` has every default filled in.

        Raises:
            UserError: the settings describe no such network.
        """
        try:
            with quiet_libraries(), torch.device("meta"):
                return getattr(diffusers, self.kind).from_config(dict(self.config))
        except BAD_CONFIG as error:
            file, reason = next(iter(self.files.values())), str(error.__cause__ or error).partition("\n")[0]
            raise UserError(f"{file} does not describe a {self.kind} ({reason}): fetch it again") from error

    def load(self) -> Any:
        """The network with its weights, float32, on the CPU.

        Raises:
            UserError: as `skeleton`, or tensors that are missing, too many or of other shapes.
        """
        network = self.skeleton()
        load_exactly(network, self.read(), list(self.files.values())[-1])
        return network.float()

    @property
    def num_levels(self) -> int:
        """Resolutions that the network works in, each half of the one before."""
        return len(self.config["block_out_channels"])


@dataclass(frozen=True, slots=True)
class DiffusionModel:
    """An unconditional model that predicts noise, of pixels or of a first stage's latents.

    Attributes:
        unet: what predicts the noise.
        first_stage: pixels to latents and back; None for a model of pixels.
        scale: what the first stage's latents are multiplied by before the UNet sees them.
        schedule: of its noise and its sampler.
        side: of the square images it was trained on, in pixels.
    """

    unet: Part
    first_stage: Part | None
    scale: float
    schedule: Schedule
    side: int

    @property
    def pixels_per_latent(self) -> int:
        """Side of an image over the side of its latents."""
        return 1 if self.first_stage is None else halvings(self.first_stage)

    @property
    def multiple(self) -> int:
        """Sides have to be a whole number of these, in pixels, to be halved at every level without a rest."""
        return int(self.pixels_per_latent * halvings(self.unet))


def halvings(part: Part) -> int:
    """How many times smaller a network's coarsest level is than what it is given."""
    return int(2 ** (part.num_levels - 1))


def check_channels(unet: Part, first_stage: Part | None, *, name: str) -> None:
    """Sees that the UNet gives one noise for each channel that it takes, and that these are there.

    Args:
        unet, first_stage: with every setting that is looked at in their configs.
        name: of the model, for messages.

    Raises:
        UserError: they do not.
    """
    takes, gives = unet.config["in_channels"], unet.config["out_channels"]
    if takes != gives:
        raise UserError(
            f"{name}: the UNet takes {takes} channels and gives {gives}: ddim-inversion wants the noise of what it "
            "gave, nothing more (no variances) and no condition beside it"
        )
    if first_stage is None and takes != PIXEL_CHANNELS:
        raise UserError(
            f"{name}: the UNet works on {takes} channels, which are not pixels, and no first stage (vqvae/ or vae/) "
            "is there to make them: give the whole folder"
        )
    if first_stage is not None and latent_channels(first_stage) != takes:
        raise UserError(
            f"{name}: the first stage makes {latent_channels(first_stage)} channels and the UNet takes {takes}: they "
            "belong to different models, or the UNet is conditioned by more"
        )


def latent_channels(first_stage: Part) -> int:
    """Channels of the latents as the UNet sees them."""
    embedded = first_stage.config.get("vq_embed_dim") if first_stage.kind == "VQModel" else None
    return int(embedded or first_stage.config["latent_channels"])
