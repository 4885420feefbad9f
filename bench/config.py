"""What a benchmark run is told: the fields are the flags of `d2r-fast bench`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from d2r_fast.engine.config import Backend, Frozen, Precision

Section = Literal[
    "networks",
    "detector",
    "paths",
    "scheduler",
    "pipeline",
    "kernels",
    "recognition",
    "readers",
    "workers",
    "translation",
]
SECTIONS: tuple[Section, ...] = (
    "networks", "detector", "paths", "scheduler", "pipeline", "kernels", "recognition", "readers",
    "workers", "translation",
)  # fmt: skip


class BenchConfig(Frozen):
    """Models, machine and time of a benchmark run."""

    models: Path | None = None
    """Model folder. Default: random weights of --size, written to a temporary folder: speed does not depend on
    what weights say."""
    size: Literal["mini", "full"] = "mini"
    """Shapes of the random weights: mini takes minutes on a laptop, full is SD1.5, CLIP ViT-L/14 and IR-100."""
    engines: Path | None = None
    """Folder for compiled networks. Default: a temporary one."""
    backend: tuple[Backend, ...] = ()
    """Backends to measure. Default: all that this machine can run."""
    precision: tuple[Precision, ...] = ()
    """Arithmetic to measure. Default: fp16 on CUDA; on a CPU what it has units for."""
    batch_size: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(max_length=16)] = ()
    """Rows of a network run at once, one measurement each. Default: 16, 32, 8 and 48 on CUDA; on a
    CPU 2, for mini shapes also 4 and 8."""
    height: Annotated[int, Field(ge=64, multiple_of=8)] | None = None
    """Height of the images, in pixels. Default: the UNet's own, and 256 for full shapes on a CPU."""
    width: Annotated[int, Field(ge=64, multiple_of=8)] | None = None
    """Width, likewise."""
    images: Path | None = None
    """Folder of photographs for the detector. Default: drawn faces."""
    device: str = "auto"
    """auto (cuda where there is one, else cpu), cpu, cuda or cuda:N."""
    budget_s: Annotated[float, Field(gt=0)] = 1200.0
    """Seconds for everything; sections that come too late are skipped, and say so."""
    save: Path | None = None
    """Folder for <device>-<size>-<date>.json and its plots, rewritten after every section."""
