"""What the experiment is told (`ReproduceConfig`: its fields are the flags of `d2r-fast reproduce`), and how much of
everything it makes (`Scale`)."""

import math
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator
from tyro.conf import FlagCreatePairsOff

from d2r_fast.engine.config import Frozen

Count = Annotated[int, Field(ge=1)]
SPARE = 0.75
"""Share of the pairs of one identity that may be asked for: pictures in which no face is found are dropped."""
MOST_OF_A_KIND = 100_000
"""Identities: their numbers follow each other without meeting."""


class Scale(Frozen):
    """How much is drawn, generated and learnt."""

    identities: Annotated[int, Field(ge=4, le=MOST_OF_A_KIND, multiple_of=4)] = 64
    """Of every set that a network is trained on."""
    images: Annotated[int, Field(ge=3, multiple_of=3)] = 12
    """Of each of them."""
    latents: Count = 12
    """Renders of an identity that its generated images are drawn from."""
    target_identities: Annotated[int, Field(ge=2, le=MOST_OF_A_KIND)] = 100
    """Photographed people of whom nobody says who they are: for the offset, and for the translation to learn from."""
    target_images: Count = 4
    held_identities: Annotated[int, Field(ge=2, le=MOST_OF_A_KIND)] = 100
    """Photographed people who are verified."""
    held_images: Annotated[int, Field(ge=2)] = 8
    pairs: Annotated[int, Field(ge=20, multiple_of=20)] = 2000
    steps: Count = 25
    """Sampling steps; with 10 of them and 4 latents, what is drawn is three points worse to train on."""
    guidance: Annotated[float, Field(ge=0)] = 1.0
    """1 is none: with 2, pictures of a person are more alike than photographs are, and two points worse to train on."""
    transfer_steps: Count = 1500
    """Of the translation's training, by crops of 64 pixels."""
    epochs: Annotated[int, Field(ge=2)] = 16
    """Of every recogniser."""
    batch_size: Annotated[int, Field(ge=2)] = 16
    """Likewise."""
    logits: Annotated[float, Field(gt=0)] = 16.0
    """Scale of AdaFace's logits, and its margin: with the published 64 and 0.4 so few steps hardly begin to learn."""
    margin: Annotated[float, Field(ge=0, lt=1.5)] = 0.1
    width: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Share of IR-18's channels that they have."""
    seeds: Annotated[int, Field(ge=1, le=10)] = 3
    """Networks that are trained on each set."""

    @model_validator(mode="after")
    def _enough_pairs(self) -> Self:
        genuine = self.held_identities * math.comb(self.held_images, 2)
        if self.pairs > SPARE * genuine:
            raise ValueError(
                f"pairs {self.pairs} of {self.held_identities} people with {self.held_images} images: give "
                f"{SPARE * genuine:.0f} or fewer"
            )
        return self


FULL = Scale()
QUICK = Scale(
    identities=32, images=6, latents=6, target_identities=30, target_images=3, held_identities=60, held_images=6,
    pairs=600, steps=15, transfer_steps=100, epochs=50, width=0.125, seeds=1,
)  # fmt: skip
"""Some minutes: whether the direction is right, not how far it goes."""


class ReproduceConfig(Frozen):
    """One run of the experiment."""

    miniature: FlagCreatePairsOff[bool] = False
    """In the miniature world, which a CPU is enough for. At full size the same is done by generate, translate, train
    and evaluate, one after the other."""
    facekit: Path
    """The head that people are made of: ICT-FaceKit as .npz, or its folder."""
    models: Path | None = None
    """Model folder of a miniature. Default: the one that comes with the package, written to models in `out`."""
    out: Path = Path("reproduced")
    """Folder for the sets, the networks, the tables, the plots and the page. A run that was stopped goes on where it
    was."""
    quick: FlagCreatePairsOff[bool] = False
    """A tenth of it: in which direction it goes, in some minutes."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides who is drawn, what is generated, and the first of the trainings' seeds."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    @model_validator(mode="after")
    def _known_world(self) -> "ReproduceConfig":
        if not self.miniature:
            raise ValueError("give --miniature: it is the one world that is drawn here")
        return self

    @property
    def model_folder(self) -> Path:
        return self.out / "models" if self.models is None else self.models

    @property
    def scale(self) -> Scale:
        return QUICK if self.quick else FULL
