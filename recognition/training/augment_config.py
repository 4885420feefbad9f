"""Which augmentations a training run applies, and how often."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from d2r_fast.engine.config import Frozen

AugmentSet = Literal["none", "flip", "adaface", "digiface"]
Chance = Annotated[float, Field(ge=0, le=1)]

OWN: dict[AugmentSet, dict[str, float]] = {
    "none": {},
    "flip": {"flip": 0.5},
    "adaface": {"crop": 0.2, "low_res": 0.2, "photometric": 0.2, "flip": 0.5},
    "digiface": {
        "warp": 1.0, "aspect": 0.1, "crop": 0.2, "blur": 0.05, "motion_blur": 0.05, "noise": 0.035,
        "brightness": 0.15, "contrast": 0.3, "hue": 0.1, "saturation": 0.1, "gray": 0.01, "low_res": 0.01,
        "jpeg": 0.05, "flip": 0.5,
    },
}  # fmt: skip
"""What each set holds, with its published probabilities. AdaFace: the authors' training scripts. DigiFace-1M:
the paper's list; it gives no probability of crop and flip, which are 'as in AdaFace'."""


class AugmentConfig(Frozen):
    """A set of augmentations. Each probability is the set's own unless given here."""

    set: AugmentSet = "adaface"
    """none; flip; adaface: crop, low resolution, photometric, flip; digiface: the DigiFace-1M paper's longer list."""
    flip: Chance | None = None
    """Probability of a mirror image."""
    crop: Chance | None = None
    """Probability of keeping a random part in place, black around it."""
    low_res: Chance | None = None
    """Probability of scaling down and up again."""
    photometric: Chance | None = None
    """Probability of changing brightness, contrast and saturation (adaface)."""
    warp: Chance | None = None
    """Probability of a small change of scale, rotation and position (digiface)."""
    aspect: Chance | None = None
    """Probability that a warp changes the ratio of the sides too (digiface)."""
    blur: Chance | None = None
    """Probability of a Gaussian blur (digiface)."""
    motion_blur: Chance | None = None
    """Probability of a blur along a line (digiface)."""
    noise: Chance | None = None
    """Probability of Gaussian noise (digiface)."""
    brightness: Chance | None = None
    """Probability of another brightness (digiface)."""
    contrast: Chance | None = None
    """Probability of another contrast (digiface)."""
    saturation: Chance | None = None
    """Probability of another saturation (digiface)."""
    hue: Chance | None = None
    """Probability of another hue (digiface)."""
    gray: Chance | None = None
    """Probability of losing colour (digiface)."""
    jpeg: Chance | None = None
    """Probability of JPEG artefacts (digiface)."""

    @model_validator(mode="after")
    def _of_the_set(self) -> "AugmentConfig":
        for name in self.model_fields_set - {"set", *OWN[self.set]}:
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{name} is no augmentation of the set {self.set!r}, which has {', '.join(OWN[self.set]) or 'none'}"
                )
        return self

    @property
    def probabilities(self) -> dict[str, float]:
        """The probability of each augmentation of the set."""
        given = {name: getattr(self, name) for name in OWN[self.set]}
        return {name: own if given[name] is None else given[name] for name, own in OWN[self.set].items()}
