"""The commands: what each takes (its fields are its flags) and what it runs.

Work is imported inside `run`, so that naming a command costs nothing.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro
from pydantic import Field
from tyro.conf import Positional

from d2r_fast.bench.config import SECTIONS, BenchConfig, Section
from d2r_fast.bench.drill.config import DrillConfig
from d2r_fast.bench.miniature.reproduce.config import ReproduceConfig
from d2r_fast.engine.command import Command, Settings
from d2r_fast.engine.config import (
    PRESETS,
    Backend,
    Folder,
    Frozen,
    GenerateConfig,
    Precision,
    Preset,
    ReaderName,
)
from d2r_fast.engine.formats.commands import Convert, Merge, Split, Subset
from d2r_fast.engine.models.commands import ModelsCheck, ModelsInit, ModelsMini, ModelsPull
from d2r_fast.recognition.commands import Evaluate, Quality, Train
from d2r_fast.translation.commands import Compare, TrainTransfer, Translate
from d2r_fast.translation.config import MethodName


class Demo(Command):
    """Make a small dataset from a few renders with the trained miniature, and a report of it."""

    out: Path = Path("demo")
    """Folder for the models, the renders, the dataset and the report."""

    def run(self) -> int:
        from d2r_fast.engine.demo import run_demo

        return run_demo(self.out)


class BuildEngines(Command):
    """Compile the networks of a model folder, or of a translation method, for one backend, and compare each with the
    float32 network."""

    models: Path | None = None
    """Model folder; or give --method and --weights."""
    out: Path
    """Engines folder. What is there and as wanted is kept."""
    backend: Backend
    """What the engines are for; `doctor` says what this machine can build and run."""
    precision: Precision
    """What the networks compute in. Images and latents go in and out in float32."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Rows of one run of the UNet on CUDA: an image needs one, with guidance two; of a method, images. On a CPU each
    thread runs one. Default: as generate's, 8, or translate's, 16."""
    networks: str | None = None
    """Which ones of a model folder, separated by commas; detector is MTCNN's three. Default:
    unet,vae,encoder,arcface,detector."""
    height: Annotated[int, Field(ge=1)] | None = None
    """Height of the image in pixels, of a model folder a multiple of 8. Default: the UNet's own, or of a method
    --size."""
    width: Annotated[int, Field(ge=1)] | None = None
    """Width of the image in pixels. Default: likewise."""
    lora: tyro.conf.FlagCreatePairsOff[bool] = False
    """Merge the folder's LCM-LoRA into the UNet, for --sampler lcm."""
    recogniser: Path | None = None
    """Face-recognition ONNX to compile in place of the model folder's."""
    targets: str = ""
    """Compute capabilities that a tensorrt-rtx engine is for, separated by commas, as sm86,sm89. Default: those of
    the card that is here, or all there are."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    method: MethodName | None = None
    """Translation method to build for, in place of a model folder."""
    weights: Path | None = None
    """The method's checkpoint."""
    size: Annotated[int, Field(ge=16, le=2048)] | None = None
    """Side at which the method's networks see the image, as translate's --size."""
    w: Annotated[float, Field(ge=0, le=1)] | None = None
    """codeformer: 0 builds the networks without the blocks that w weighs. Default: 0.5."""

    def run(self) -> int:
        from d2r_fast.engine.build_engines import build_engines

        return build_engines(**dict(self))


class Embed(Command):
    """Embed every image of a folder of faces with the recogniser."""

    source: Positional[Path]
    """Images: a folder laid out as <identity>/<image>.png, a .zip, .tar or .parquet of one, or a folder of several."""
    models: Path
    """Model folder."""
    out: Path
    """Parquet file to write: identity, image, embedding (float32, not normalised)."""
    recogniser: Path | None = None
    """Face-recognition ONNX to use instead of the model folder's."""
    source_alignment: Literal["auto", "aligned", "detect"] = "auto"
    """auto: 112x112 images are aligned crops and taken as they are, others are detected and aligned."""
    detector: Literal["mtcnn", "scrfd"] = "mtcnn"
    """Who finds the faces to align."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 64
    """Crops embedded at once."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N, for detection."""
    recogniser_device: str = "auto"
    """Where the recogniser runs; auto: on the device."""
    recogniser_backend: Backend | Literal["auto"] = "auto"
    """What runs it: auto is onnxruntime on a CPU and torch on CUDA; the others run engines."""
    recogniser_precision: Precision = "fp32"
    """Its arithmetic. Half precision is faster on CUDA, and moves cosines by about 1e-3."""
    engines: Path | None = None
    """Folder of engines, from build-engines; one that is missing is built there first. Default: a cache folder."""
    reader: ReaderName = "auto"
    """Who decodes: plain (Pillow) or dali (NVIDIA DALI; on CUDA JPEG is decoded there, with other rounding). auto is
    plain everywhere: results must not depend on what is installed. On a CPU the networks set the pace."""

    def run(self) -> int:
        from d2r_fast.engine.embed import embed_source

        return embed_source(**dict(self))


class RankIdentities(Command):
    """Sort identities by their highest similarity to any other, the most distinct first (Digi2Real's filter)."""

    embeddings: Positional[Path]
    """Output of embed."""
    out: Path
    """CSV file to write: rank, identity, score, nearest."""

    def run(self) -> int:
        from d2r_fast.engine.rank import rank_identities

        num_identities = rank_identities(self.embeddings, out=self.out)
        print(f"ranked {num_identities} identities into {self.out}")
        return 0


class Offset(Command):
    """Mean CLIP latent of real photographs minus that of renders (Digi2Real equation 1)."""

    real: Positional[Path]
    """Folder of real face photographs."""
    rendered: Positional[Path]
    """Folder of renders."""
    models: Path
    """Model folder."""
    out: Path
    """safetensors file to write."""
    samples: Annotated[int, Field(ge=1)] = 1000
    """Images to take of each folder, of distinct identities while they last (the paper does not say whether
    its 1000 are in all or of each)."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Chooses the images."""
    recogniser: Path | None = None
    """Face-recognition ONNX to use instead of the model folder's."""
    detector: Literal["mtcnn", "scrfd"] = "mtcnn"
    """Who finds the faces to align."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    """Embeddings encoded at once."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    recogniser_device: str = "auto"
    """Where the recogniser runs; auto: on the device."""

    def run(self) -> int:
        from d2r_fast.engine.offset import make_offset

        return make_offset(**dict(self))


class Generate(GenerateConfig, Command):
    """Make a Digi2Real dataset from a folder of renders.

    What the paper leaves open is decided as each setting says; flags go before the settings file, the file
    before the preset.
    """

    PRESETS: ClassVar[Settings] = PRESETS

    config: Path | None = None
    """YAML file of settings, named as the flags with underscores."""
    preset: Preset | None = None
    """paper: Digi2Real-20K; fast: the same with LCM in 4 steps; smoke: seconds, for untrained mini models."""

    def run(self) -> int:
        from d2r_fast.engine.console import say
        from d2r_fast.engine.pipeline import generate

        absent = [
            flag
            for flag, given in (("--ranking", self.ranking), ("--clip-offset", self.clip_offset))
            if not given
        ]
        if self.preset in ("paper", "fast") and absent:
            say(
                f"preset {self.preset} without {' and '.join(absent)}: this is not the whole of the paper's recipe"
            )
        return generate(self.settings())


class Plan(Generate):
    """Say how long `generate` with the same settings will take here, and how much disk and memory.

    Its stages are timed for some seconds; nothing is written but engines that are missing.
    """

    seconds: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """To time the UNet for, at least."""

    @classmethod
    def settings_model(cls) -> type[Frozen]:
        return GenerateConfig

    def run(self) -> int:
        from d2r_fast.engine.forecast import run_plan

        return run_plan(self.settings(), seconds=self.seconds)


class Verify(Command):
    """Check every file of a dataset against its markers, its images, its counts."""

    folder: Positional[Folder]
    """Dataset folder, or its URL, such as s3://bucket/folder."""
    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """Check sizes, sha256 and tables alone, and open no image."""

    def run(self) -> int:
        from d2r_fast.engine.verify import run_verify

        return run_verify(self.folder, quick=self.quick)


class Status(Command):
    """Say how far a dataset has come, who is at work on it and how long it will take; from any terminal or node.

    Ends with 0 where it is finished, 4 while it is being made, 1 where nobody is at work on it, 2 where it is none.
    """

    folder: Positional[Folder]
    """Dataset folder, or its URL, such as s3://bucket/folder."""
    as_json: Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(name="json")] = False
    """Print one JSON document in place of text."""

    def run(self) -> int:
        from d2r_fast.engine.status import run_status

        return run_status(self.folder, as_json=self.as_json)


class Report(Command):
    """Write one self-contained HTML page about a dataset."""

    folder: Positional[Path]
    """Dataset folder."""
    out: Path | None = None
    """Page to write. Default: report.html in the dataset folder."""

    def run(self) -> int:
        from d2r_fast.engine.report import write_report

        print(f"report: {write_report(self.folder, out=self.out)}")
        return 0


class Bench(BenchConfig, Command):
    """Measure this machine: ceilings first, then ours against named baselines in turn, then one line of JSON."""

    section: Positional[Section | Literal["all"]]
    """networks: each backend; detector: batches against one by one; paths: few steps and partial guidance;
    scheduler: slots against static batches; pipeline: generate against diffusers; kernels; recognition: evaluation's
    protocols; readers: who decodes images; workers: two processes against one; translation: methods against their
    programs' loops; or all of these."""

    def run(self) -> int:
        from d2r_fast.bench.run import run_bench

        names = SECTIONS if self.section == "all" else (self.section,)
        return run_bench(names, self.settings())


class Drill(DrillConfig, Command):
    """Kill, starve and damage runs on purpose, and say what came of it; then one line of JSON."""

    def run(self) -> int:
        from d2r_fast.bench.drill.run import run_drill

        return run_drill(self.settings())


class Reproduce(ReproduceConfig, Command):
    """Ask the papers' question in small: train the same network on renders, on what is made of them and on photographs,
    and verify each on photographs of others."""

    def run(self) -> int:
        from d2r_fast.bench.miniature.reproduce.reproduce import reproduce

        return reproduce(self.settings())


class Doctor(Command):
    """Say what this machine can run, and why not."""

    def run(self) -> int:
        from d2r_fast.engine.doctor import examine

        return examine()


COMMANDS: dict[str, Any] = {
    "demo": Demo,
    "build-engines": BuildEngines,
    "models": {"init": ModelsInit, "mini": ModelsMini, "pull": ModelsPull, "check": ModelsCheck},
    "embed": Embed,
    "rank-identities": RankIdentities,
    "offset": Offset,
    "plan": Plan,
    "generate": Generate,
    "translate": Translate,
    "train-transfer": TrainTransfer,
    "compare": Compare,
    "convert": Convert,
    "merge": Merge,
    "split": Split,
    "subset": Subset,
    "status": Status,
    "verify": Verify,
    "report": Report,
    "train": Train,
    "evaluate": Evaluate,
    "quality": Quality,
    "bench": Bench,
    "drill": Drill,
    "reproduce": Reproduce,
    "doctor": Doctor,
}
