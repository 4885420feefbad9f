"""What a dataset is (`Recipe`) and how a run makes it (`GenerateConfig`), as frozen, typed values.

Every check happens at construction. The recipe decides what the images are, so it is written into the
dataset and a run that resumes must carry the same one; the rest (folders, device, batch size) may change
between one run of a dataset and the next. Defaults follow Digi2Real where the paper speaks and the
published Arc2Face settings where it is silent.
"""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from tyro.conf import Positional

from d2r_fast.engine.errors import UserError

Sampler = Literal["dpm++2m", "lcm"]
Backend = Literal[
    "torch", "inductor", "onnxruntime", "onnxruntime-tensorrt", "openvino", "tensorrt", "tensorrt-rtx"
]
Precision = Literal["fp32", "bf16", "fp16"]
ReaderName = Literal["auto", "plain", "dali"]
EncoderName = Literal["plain", "nvimgcodec"]
DType = Literal["auto", "float32", "bfloat16", "float16"]


Share = Annotated[float, Field(ge=0, le=1)]


def _path(given: Any) -> Any:
    return Path(given) if isinstance(given, str) and "://" not in given else given


Folder = Annotated[str | Path, BeforeValidator(_path)]
"""A path or, as text, the URL of a folder that fsspec knows, such as s3://bucket/folder."""


class Frozen(BaseModel):
    """Immutable, no unknown keys, attribute docstrings double as the command line's help.

    Raises:
        UserError: from the constructor, one line for the first value that is not allowed.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, validate_default=True
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UserError(_sentence(error, list(type(self).model_fields))) from None


def _sentence(error: ValidationError, known: list[str], name: str = "") -> str:
    first = error.errors()[0]
    name = name or ".".join(str(part) for part in first["loc"][:1])
    if first["type"] == "extra_forbidden":
        return unknown_setting(name, known)
    if first["type"] == "missing":
        return f"{name} is missing: give it"
    message = first["msg"].removeprefix("Value error, ")
    return f"{name} = {first['input']!r}: {message[0].lower()}{message[1:]}" if name else message


def unknown_setting(name: str, known: list[str]) -> str:
    """The sentence for a key that does not exist: it names the nearest one that does."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"unknown setting {name!r}: {hint}"


def read_settings(path: Path, model: type[Frozen]) -> dict[str, Any]:
    """Settings of a YAML file: one mapping, its keys fields of the model, each value checked on its own.

    Raises:
        UserError: no such file, not YAML, not a mapping, an unknown key, a value that is not allowed.
    """
    known = get_type_hints(model, include_extras=True)
    settings = {}
    for name, value in _read_mapping(path).items():
        if name not in model.model_fields:
            raise UserError(f"{path}: {unknown_setting(name, list(model.model_fields))}")
        try:
            settings[name] = TypeAdapter(known[name]).validate_python(value)
        except ValidationError as error:
            raise UserError(f"{path}: {_sentence(error, [], name)}") from None
    return settings


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read the settings file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(
            f"{path} holds {type(values).__name__}, not a mapping of settings such as `steps: 25`"
        )
    return {str(key): value for key, value in values.items()}


class Recipe(Frozen):
    """Everything that decides which images a dataset holds."""

    identities: Annotated[int, Field(ge=1)] | None = None
    """How many identities to make, from the first in order (or in the ranking). Default: all."""
    ranking: Path | None = None
    """Output of rank-identities: take identities in this order, the most distinct first."""
    images_per_identity: Annotated[int, Field(ge=1)] = 20
    """Images to make of each identity."""
    source_images_per_identity: Annotated[int, Field(ge=1)] = 5
    """Renders to take of each identity, at random without replacement; each gives one latent."""
    images_per_latent: Annotated[int, Field(ge=1)] | None = None
    """Images to make of each latent. Default: spread evenly, 4 for 20 images of 5 latents. The paper says 5,
    but 5 x 5 = 25 images did worst there and 20 are published."""
    prototype: Literal["chosen", "all"] = "chosen"
    """Average the chosen renders of an identity, or all it has. The paper does not say; its 5-image
    identities make no difference."""
    alpha: Annotated[float, Field(gt=0)] = 2.0
    """t ~ Beta(alpha, alpha) says how far a latent lies from the prototype (0) towards a render (1). The paper
    prints only that 1 is uniform, and chooses 2."""
    source_alignment: Literal["auto", "aligned", "detect"] = "auto"
    """auto: 112x112 sources are aligned crops and embedded as they are (DigiFace), others are detected and
    aligned; aligned: take all as aligned; detect: detect all."""
    sampler: Sampler = "dpm++2m"
    """DPM-Solver++ 2M, or LCM with the models' lcm-lora (2 to 4 steps, guidance 1)."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 25
    """Sampling steps (Arc2Face's published default; the paper does not say)."""
    guidance: Annotated[float, Field(ge=0)] = 3.0
    """Classifier-free guidance scale; 1 or less turns it off (Arc2Face's published default)."""
    guidance_interval: tuple[Share, Share] = (0.0, 1.0)
    """Part of the steps with guidance, from the noisiest: 0.2 0.6 of 25 steps is 5 to 14. The others cost half
    (Kynkaanniemi et al. 2024); Arc2Face guides all."""
    identity_steps: Path | None = None
    """CSV file with the columns identity and steps: identities with another number of steps."""
    early_reject: tuple[Annotated[int, Field(ge=1)], Annotated[float, Field(ge=-1, le=1)]] | None = None
    """STEP COSINE: look at the image predicted after this step, and draw it again if its embedding's cosine with
    the one asked for is lower. It changes the distribution: rows and report say how. Default: off."""
    clip_offset: Path | None = None
    """Output of offset: added to the conditional branch only, not renormalised (the paper does not say)."""
    clip_offset_scale: Annotated[float, Field(ge=0)] = 1.0
    """Strength of the offset; the paper prints none."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """The one source of every random number."""
    height: Annotated[int, Field(ge=8, multiple_of=8)] | None = None
    """Height of the generated image before cropping, in pixels. Default: the UNet's own (512 for SD1.5)."""
    width: Annotated[int, Field(ge=8, multiple_of=8)] | None = None
    """Width of the generated image before cropping, in pixels. Default: the UNet's own (512 for SD1.5)."""
    detector: Literal["mtcnn", "scrfd", "template"] = "mtcnn"
    """Who finds the face to crop. template: crop at a fixed place, for weights that draw no face."""
    min_face_size: Annotated[int, Field(ge=12)] = 20
    """Smallest face MTCNN looks for, in pixels; larger is faster."""
    attempts: Annotated[int, Field(ge=1, le=1000)] = 3
    """Times an image without exactly one face is drawn, with fresh noise each, before it is rejected."""
    restore: Path | None = None
    """CodeFormer's checkpoint: accepted images are restored by it before they are cropped. Default: off, as in the
    paper."""
    restore_w: Annotated[float, Field(ge=0, le=1)] | None = None
    """How CodeFormer restores: 0 trusts its code book, 1 the image. Default: 0.5, its program's."""
    format: Literal["webdataset", "imagefolder"] = "webdataset"
    """webdataset: tar shards; imagefolder: <identity>/<k>.jpg."""
    image_format: Literal["jpg", "png"] = "jpg"
    """Encoding of the 112x112 crops."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 95
    """JPEG quality, 4:4:4 chroma."""
    identities_per_shard: Annotated[int, Field(ge=1)] = 50
    """Identities in a shard, the unit that is written at once: a killed run loses those in work, two or three."""
    backend: Backend | Literal["auto"] = "auto"
    """What runs the networks: auto is the fastest measured, openvino on a CPU and torch on CUDA. torch runs the
    model folder as it is, the others engines."""
    recogniser_backend: Backend | Literal["auto"] = "auto"
    """What runs the recogniser: auto is onnxruntime on a CPU and torch on CUDA."""
    recogniser_precision: Precision = "fp32"
    """Arithmetic of the recogniser. Half precision is faster on CUDA, and moves cosines by about 1e-3."""
    dtype: DType = "auto"
    """Arithmetic of the diffusion networks. auto: float16 on CUDA, else float32, as Arc2Face publishes."""

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if (self.height is None) != (self.width is None):
            raise ValueError("height and width go together: give both or neither")
        wanted = self.images_per_identity
        if self.images_per_latent is not None:
            room = self.images_per_latent * self.source_images_per_identity
            if room < wanted:
                raise ValueError(
                    f"images_per_latent {self.images_per_latent} x {self.source_images_per_identity} source images "
                    f"= {room}, fewer than the {wanted} images per identity: raise one or leave images_per_latent out"
                )
        if self.restore_w is not None and self.restore is None:
            raise ValueError(
                "restore_w belongs to restore: give that CodeFormer's checkpoint, or leave restore_w out"
            )
        low, high = self.guidance_interval
        if low > high:
            raise ValueError(f"guidance_interval {low:g} {high:g}: give the lower share of the steps first")
        if self.early_reject and self.early_reject[0] >= self.steps:
            raise ValueError(
                f"early_reject after step {self.early_reject[0]} of {self.steps}: give an earlier step"
            )
        if self.sampler == "lcm" and self.guidance > 1:
            raise ValueError(
                f"guidance {self.guidance:g} with sampler lcm: LCM-LoRA runs without guidance, give 1"
            )
        return self


class Execution(Frozen):
    """Who makes a dataset's shards: which of them, and in how many processes. The images do not depend on it."""

    executor: Literal["local", "ray"] = "local"
    """local: processes on this machine; ray: actors of an existing Ray cluster, which sees the same folders."""
    workers: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Processes that make shards. Default: one for every GPU that the device setting allows, or one on a CPU."""
    shards: str | None = None
    """A:B makes shards A to B-1 alone, so that other machines can make the others at the same time; all makes all.
    Default: in a SLURM array the task's share, else all."""
    ray_address: str = "auto"
    """Address of the Ray cluster, for --executor ray."""
    stage: Path | None = None
    """Folder on this machine's disk where shards are made for an --out such as s3://bucket/folder. Default: a cache
    folder."""

    @field_validator("shards")
    @classmethod
    def _span(cls, value: str | None) -> str | None:
        if value not in (None, "all"):
            match = re.fullmatch(r"(\d+):(\d+)", value)
            if match is None or int(match[1]) >= int(match[2]):
                raise ValueError("expected A:B with A below B, as 0:50, or all")
        return value

    @model_validator(mode="after")
    def _fitting(self) -> "Execution":
        if self.executor == "ray" and self.shards not in (None, "all"):
            raise ValueError(
                "--shards and --executor ray exclude each other: Ray hands out all shards itself"
            )
        if self.executor == "local" and self.ray_address != "auto":
            raise ValueError("--ray-address belongs to --executor ray: give that too")
        return self


class GenerateConfig(Recipe, Execution):
    """A recipe, its source, its models, its place, and how this machine is to run it."""

    source: Positional[Path]
    """Renders: a folder laid out as <identity>/<image>.png, a .zip, .tar or .parquet of one, or a folder of several."""
    models: Path
    """Model folder, from `models pull` or `models init`."""
    out: Folder
    """Folder for the dataset, or its URL, such as s3://bucket/folder. A stopped run with the same recipe goes on where
    it was."""
    engines: Path | None = None
    """Folder of engines, from build-engines; one that is missing is built there first. Default: a cache folder."""
    recogniser: Path | None = None
    """Face-recognition ONNX to embed with. Default: antelopev2/arcface.onnx in the model folder."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 8
    """Rows of the UNet run at once: an image needs one, with guidance two."""
    device: str = "auto"
    """auto (cuda where there is one, else cpu), cpu, cuda, or cuda:N."""
    recogniser_device: str = "auto"
    """Where the recogniser runs; auto: on the device."""
    max_error_rate: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of rejected and failed images above which the finished run ends with status 3."""


def paper() -> dict[str, Any]:
    """Digi2Real-20K: 20,000 identities x 20 images, 25 steps, guidance 3, alpha 2.

    Give it --ranking for the most distinct identities and --clip-offset for the shift towards photographs,
    as the paper has them. Images without exactly one face are dropped, not drawn again, which is how the
    published set comes to 399,355.
    """
    return {"identities": 20000, "images_per_identity": 20, "source_images_per_identity": 5, "alpha": 2.0,
            "sampler": "dpm++2m", "steps": 25, "guidance": 3.0, "detector": "mtcnn", "attempts": 1}  # fmt: skip


def fast() -> dict[str, Any]:
    """The paper's dataset with LCM-LoRA: 4 steps without guidance, 5.7 instead of 42.7 TFLOP an image."""
    return paper() | {"sampler": "lcm", "steps": 4, "guidance": 1.0, "min_face_size": 60}


def smoke() -> dict[str, Any]:
    """Seconds on a laptop with untrained mini models, which draw no face: 4 steps, a fixed crop, small shards.

    Four source images per identity, because DigiFace's accessory samples have only four; torch, because mini
    models are done before engines are built.
    """
    return {"steps": 4, "source_images_per_identity": 4, "detector": "template", "identities_per_shard": 1,
            "backend": "torch"}  # fmt: skip


PRESETS = {"paper": paper, "fast": fast, "smoke": smoke}
Preset = Literal["paper", "fast", "smoke"]
