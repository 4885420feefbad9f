"""What a run of train-transfer is (`TransferRecipe`), its data and its place (`TransferConfig`), frozen and typed.

The recipe decides which weights come out, so it is written into the run folder, and a run that resumes must carry
the same one. A setting that is left out has the value that its method was published with.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from tyro.conf import FlagCreatePairsOff

from d2r_fast.engine.config import Frozen

TransferMethod = Literal["vsait", "decent", "unsb"]
Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
OWN: dict[str, tuple[TransferMethod, ...]] = {
    "epochs": ("decent", "unsb"),
    "decay_epochs": ("decent", "unsb"),
    "num_patches": ("decent", "unsb"),
    "lambda_idt": ("decent",),
    "lambda_var": ("decent",),
    "var_all": ("decent",),
    "flow_learning_rate": ("decent",),
    "lambda_sb": ("unsb",),
    "lambda_nce": ("unsb",),
    "intended": ("unsb",),
    "lambda_vsa": ("vsait",),
    "hypervector_dim": ("vsait",),
    "vgg": ("vsait",),
}
"""Settings that belong to some methods; given with another they are refused."""
PUBLISHED_STEPS = 200_000
"""VSAIT's."""
PUBLISHED_EPOCHS, PUBLISHED_DECAY_EPOCHS = 200, 200
"""DECENT's and UNSB's: with the full learning rate, and while it falls to 0."""
PUBLISHED_NDF = 64
_LOAD, _CROP = 286, 256
"""DECENT and UNSB scale to 286 pixels and crop 256 of them."""


class TransferRecipe(Frozen):
    """Everything that decides which generator comes out of given images."""

    method: TransferMethod
    """What to train: vsait, decent or unsb. All learn from images that do not pair, and from no label."""
    size: Annotated[int, Field(ge=32, le=1024, multiple_of=4)] = 256
    """Side in pixels of the crops to train on."""
    load_size: Annotated[int, Field(ge=32, le=2048)] | None = None
    """Side in pixels that images are scaled to before they are cropped. Default: 286/256 of the size for decent and
    unsb, the size for vsait. Decent and unsb scale to the size itself while their learning rate falls."""
    flip: bool = True
    """Mirror half of the images."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 1
    """Images of each side in one step."""
    epochs: Annotated[int, Field(ge=1)] | None = None
    """decent, unsb: times that the larger folder is gone through with the full learning rate. Default: 200."""
    decay_epochs: Annotated[int, Field(ge=0)] | None = None
    """decent, unsb: the same while the learning rate falls straight to 0. Default: 200."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Steps in all. Default: 200,000 for vsait, and for decent and unsb as many as their epochs take; given, they share
    out these steps in the proportion of epochs and decay_epochs."""
    learning_rate: Rate | None = None
    """Of the generator, and for decent and unsb of the other networks. Default: 2e-4; vsait: 1e-4."""
    discriminator_learning_rate: Rate | None = None
    """Of the discriminator. Default: the generator's; vsait: 4e-4."""
    flow_learning_rate: Rate | None = None
    """decent: of the density estimators. Default: 1e-3."""
    lambda_gan: Weight | None = None
    """Weight of the generator's adversarial loss. Default: 1."""
    lambda_idt: Weight | None = None
    """decent: weight of the L1 distance of a translated target image to itself. Default: 10."""
    lambda_var: Weight | None = None
    """decent: weight of the variance of the density's change. Default: 0.01."""
    var_all: bool | None = None
    """decent: that variance over the patches of all images of a batch, not of each. Default: of each."""
    lambda_sb: Weight | None = None
    """unsb: weight of the Schroedinger bridge's loss. Default: its published command's 1; its code's is 0.1."""
    lambda_nce: Weight | None = None
    """unsb: weight of the contrastive loss. Default: 1."""
    lambda_vsa: Weight | None = None
    """vsait: weight of the hypervectors' cosine loss. Default: 10."""
    num_patches: Annotated[int, Field(ge=2)] | None = None
    """decent, unsb: patches of each layer that their losses look at; fewer where a layer is smaller. Default: 256."""
    intended: bool | None = None
    """unsb: residual blocks as they were meant, with their first convolution and the time; not those of the released
    code, where neither has an effect and which its checkpoints need. Default: as released."""
    hypervector_dim: Annotated[int, Field(ge=8, le=65536)] | None = None
    """vsait: length of a hypervector. Default: 4096."""
    vgg: Path | None = None
    """vsait: weights of VGG-19 in torchvision's layout (features.0.weight ...), trained on ImageNet."""
    ngf: Annotated[int, Field(ge=4, le=256)] = 64
    """Channels of the generator's first layer; 16 or 24 for small experiments."""
    ndf: Annotated[int, Field(ge=4, le=256)] = PUBLISHED_NDF
    """decent, unsb: channels of the discriminator's first layer."""
    num_blocks: Annotated[int, Field(ge=1, le=32)] = 9
    """Residual blocks of the generator."""
    average: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share that a step leaves of a running mean of the generator's weights, which is then what comes out: 0.999 is a
    mean over about 1,000 steps. Default: the last step's weights, as published."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the convolutions; losses and weights stay in float32. All three were published in fp32."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides weights, order, crops and noise."""

    @model_validator(mode="after")
    def _consistent(self) -> "TransferRecipe":
        for name, methods in OWN.items():
            if getattr(self, name) is not None and self.method not in methods:
                raise ValueError(
                    f"{name} belongs to {' and '.join(methods)}, not to {self.method}: leave it out"
                )
        if self.method == "vsait" and self.ndf != PUBLISHED_NDF:
            raise ValueError("ndf belongs to decent and unsb, not to vsait: leave it out")
        if self.method == "vsait" and self.vgg is None:
            raise ValueError(
                "vsait compares images by features of VGG-19: give its ImageNet weights as vgg (torchvision's "
                "vgg19 file)"
            )
        if self.load_size is not None and self.load_size < self.size:
            raise ValueError(
                f"load_size {self.load_size} is smaller than the crop of {self.size}: give at least that"
            )
        return self

    @property
    def scaled_size(self) -> int:
        """Side in pixels that images are scaled to, nothing left open."""
        if self.load_size is not None:
            return self.load_size
        return self.size if self.method == "vsait" else round(self.size * _LOAD / _CROP)

    @property
    def epochs_of_two_parts(self) -> tuple[int, int]:
        """Epochs with the full learning rate and while it falls, nothing left open; of decent and unsb."""
        full = PUBLISHED_EPOCHS if self.epochs is None else self.epochs
        return full, PUBLISHED_DECAY_EPOCHS if self.decay_epochs is None else self.decay_epochs

    def num_steps(self, *, num_source: int, num_target: int) -> int:
        """Steps of the whole run: an epoch goes through the larger folder, and leaves out what fills no batch."""
        if self.steps is not None:
            return self.steps
        if self.method == "vsait":
            return PUBLISHED_STEPS
        return sum(self.epochs_of_two_parts) * (max(num_source, num_target) // self.batch_size)


class TransferConfig(TransferRecipe):
    """A recipe, its data, its place, and how this machine is to run it."""

    source: Path
    """Images to translate: a folder of images, or <identity>/<image>. Identities are not looked at."""
    target: Path
    """Images to become like, in either form."""
    out: Path
    """Run folder. A stopped run with the same recipe goes on where it was."""
    device: str = "auto"
    """auto (cuda where there is one, else cpu), cpu, cuda, or cuda:N."""
    num_threads: Annotated[int, Field(ge=1)] | None = None
    """Threads that decode images. Default: one for every processor."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 1000
    """Steps between checkpoints."""
    log_every: Annotated[int, Field(ge=1)] = 20
    """Steps between lines of metrics."""
    pictures_every: Annotated[int, Field(ge=1)] = 1000
    """Steps between grid-STEP.png: source, translated, target."""
    max_unreadable: Annotated[int, Field(ge=0)] = 100
    """Unreadable images to leave out before the run stops."""
    tensorboard: FlagCreatePairsOff[bool] = False
    """Write TensorBoard events to OUT/tensorboard besides metrics.jsonl and the grids."""

    def recipe_values(self) -> dict[str, Any]:
        """The recipe as JSON can hold it."""
        return self.model_dump(mode="json", include=set(TransferRecipe.model_fields))
