"""What a translated dataset is (`TranslateRecipe`) and how a run makes it (`TranslateConfig`), frozen and typed."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from tyro.conf import Positional

from d2r_fast.engine.config import Backend, EncoderName, Execution, Folder, Frozen, Precision, ReaderName

MethodName = Literal["codeformer", "vsait", "decent", "unsb", "ddim-inversion", "stylegan-inversion"]
OWN = {
    "codeformer": ("w",),
    "vsait": (),
    "decent": (),
    "unsb": ("nfe",),
    "ddim-inversion": ("steps",),
    "stylegan-inversion": ("latent", "steps"),
}
"""Settings that belong to a method; given with another they are refused."""
SIZED_BY_IMAGE: tuple[MethodName, ...] = ("vsait", "decent", "unsb")
"""Methods whose networks see the image in its own size where none is given."""

# What `translate` and `compare` both ask for, with its help.
Seed = Annotated[int, Field(ge=0, lt=2**63, description="The one source of every random number.")]
AnyBackend = Annotated[
    Backend | Literal["auto"],
    Field(
        description="What runs the networks: auto is the fastest measured. torch runs the weights as they are, the "
        "others engines."
    ),
]
AnyPrecision = Annotated[
    Precision | Literal["auto"],
    Field(description="Arithmetic of the networks. auto: fp16 on CUDA, else fp32."),
]
Engines = Annotated[
    Path | None,
    Field(
        description="Folder of engines, from build-engines; one that is missing is built there first. Default: a "
        "cache folder."
    ),
]
BatchSize = Annotated[
    int,
    Field(
        ge=1,
        le=4096,
        description="Images of one run of a network on CUDA. On a CPU each thread runs one.",
    ),
]
Device = Annotated[str, Field(description="auto (cuda where there is one, else cpu), cpu, cuda, or cuda:N.")]


class TranslateRecipe(Frozen):
    """Everything that decides which images come out of given ones."""

    method: MethodName
    """How to translate: codeformer (restoration), vsait, decent or unsb (trained on unpaired images), ddim-inversion
    (an unconditional diffusion model), stylegan-inversion (e4e or pSp)."""
    size: Annotated[int, Field(ge=16, le=2048)] | None = None
    """Side in pixels at which the networks see the image; it is resized back afterwards. Default: the method's own, or
    for vsait, decent and unsb the image's."""
    w: Annotated[float, Field(ge=0, le=1)] | None = None
    """codeformer: 0 trusts the code book, 1 the input; 0 skips the blocks that w weighs. Default: 0.5, its program's;
    Syn2Auth does not say."""
    nfe: Annotated[int, Field(ge=1, le=5)] | None = None
    """unsb: evaluations of the network, Syn2Auth's NE. Default: 5."""
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    """ddim-inversion: steps each way, default 50. stylegan-inversion by optimisation: default 1000, its program's."""
    latent: Literal["encoder", "w", "w+"] | None = None
    """stylegan-inversion: the encoder's latent, or one searched for in W or W+: minutes an image on a GPU, hours
    on a CPU, so for tens of images. Default: encoder."""
    seed: Seed = 0
    format: Literal["webdataset", "imagefolder"] = "imagefolder"
    """imagefolder: <identity>/<name>.png as in the source; webdataset: tar shards."""
    image_format: Literal["jpg", "png"] = "png"
    """Encoding of the images."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 95
    """JPEG quality, 4:4:4 chroma."""
    identities: Annotated[int, Field(ge=1)] | None = None
    """How many identities to translate, from the first in order. Default: all."""
    identities_per_shard: Annotated[int, Field(ge=1)] = 50
    """Identities in a shard, the unit that is written at once."""
    backend: AnyBackend = "auto"
    precision: AnyPrecision = "auto"

    @model_validator(mode="after")
    def _consistent(self) -> "TranslateRecipe":
        for name in ("w", "nfe", "steps", "latent"):
            if getattr(self, name) is not None and name not in OWN[self.method]:
                owners = ", ".join(method for method, names in OWN.items() if name in names)
                raise ValueError(f"{name} belongs to {owners}, not to {self.method}: leave it out")
        return self

    def filled(self) -> Self:
        """The recipe with the method's own settings said where they were left to it, as they are written down."""
        return self.model_copy(update=self._own_defaults())

    def _own_defaults(self) -> dict[str, Any]:
        given = {name: getattr(self, name) for name in OWN[self.method]}
        defaults: dict[str, Any] = {"w": 0.5, "nfe": 5, "steps": 50}
        if self.method == "stylegan-inversion":
            defaults = {"latent": "encoder", "steps": None if self.latent in (None, "encoder") else 1000}
        return {name: defaults[name] for name, value in given.items() if value is None}


class TranslateConfig(TranslateRecipe, Execution):
    """A recipe, its source, its weights, its place, and how this machine is to run it."""

    source: Positional[Path]
    """Renders: a folder laid out as <identity>/<image>.png, a .zip, .tar or .parquet of one, or a folder of several."""
    weights: Path
    """The method's checkpoint, in its publisher's layout or as train-transfer writes it."""
    out: Folder
    """Folder for the dataset, or its URL, such as s3://bucket/folder. A stopped run with the same recipe goes on where
    it was."""
    engines: Engines = None
    batch_size: BatchSize = 16
    device: Device = "auto"
    num_threads: Annotated[int, Field(ge=1)] | None = None
    """Threads that decode and encode images. Default: one for every processor."""
    reader: ReaderName = "auto"
    """Who decodes: plain (Pillow) or dali (NVIDIA DALI; on CUDA JPEG is decoded there, with other rounding). auto is
    plain everywhere: results must not depend on what is installed. On a CPU the networks set the pace."""
    encoder: EncoderName = "plain"
    """Who encodes: plain (Pillow), or nvimgcodec (NVIDIA nvImageCodec), which writes jpg, on CUDA by the card."""
    max_error_rate: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of failed images above which the finished run ends with status 3."""
