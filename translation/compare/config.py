"""What `compare` translates, with what, and what it measures, as a frozen, typed value."""

import re
from pathlib import Path
from typing import Annotated, Any, cast, get_args

from pydantic import Field, field_validator
from tyro.conf import Positional

from d2r_fast.engine.config import Frozen
from d2r_fast.translation.config import (
    AnyBackend,
    AnyPrecision,
    BatchSize,
    Device,
    Engines,
    MethodName,
    Seed,
    TranslateRecipe,
)

SETTINGS = ("w", "nfe", "steps", "latent", "size")
"""Of a method, that a column can set."""
SYNTAX = "METHOD=WEIGHTS or METHOD:SETTING=VALUE,...=WEIGHTS"
_COLUMN = re.compile(
    r"(?P<method>[a-z0-9-]+)(?::(?P<settings>\w+=[^,=:]+(?:,\w+=[^,=:]+)*))?=(?P<weights>.+)", re.DOTALL
)


class Column(Frozen):
    """One method with its weights and settings, which is a column of the page."""

    name: str
    """The method, and the settings that were given: no two columns are called alike."""
    recipe: TranslateRecipe
    weights: Path


class CompareConfig(Frozen):
    """Images, methods, and what to hold the translations against."""

    source: Positional[Path]
    """Renders: a folder laid out as <identity>/<image>.png, a .zip, .tar or .parquet of one, or a folder of several."""
    methods: str
    """Columns, separated by commas: codeformer=codeformer.pth,vsait=RUN,unsb:nfe=1=net_G.pth,unsb:nfe=5=net_G.pth; each
    METHOD=WEIGHTS, or with settings of the method (w, nfe, steps, latent, size) METHOD:SETTING=VALUE,...=WEIGHTS."""
    out: Path
    """Folder for page.html, results.json and table.md."""
    images: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Images to translate and measure: the first of every identity, then the second of every one, and so on."""
    rows: Annotated[int, Field(ge=1, le=200)] = 12
    """How many of them the page shows."""
    real: Path | None = None
    """Photographs to measure the distance to; framed as the renders are. A folder of images, or <identity>/<image>."""
    real_images: Annotated[int, Field(ge=2, le=10_000)] = 500
    """How many of them at most, evenly spread over the folder."""
    recogniser: Path | None = None
    """Network that says how much of the identity is kept: ONNX, a run of train, or a checkpoint. It takes no part in
    any translation."""
    side: Annotated[int, Field(ge=32, le=512)] = 112
    """Pixels at which the distance is measured: all images are resized to it."""
    backend: AnyBackend = "auto"
    precision: AnyPrecision = "auto"
    engines: Engines = None
    batch_size: BatchSize = 16
    device: Device = "auto"
    seed: Seed = 0

    @field_validator("methods")
    @classmethod
    def _parsed(cls, methods: str) -> str:
        names = [parse_column(text, seed=0).name for text in split_columns(methods)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two columns are {twice[0]}: give them different settings, or leave one out")
        return methods

    @property
    def columns(self) -> tuple[Column, ...]:
        """The methods, read."""
        return tuple(parse_column(text, seed=self.seed) for text in split_columns(self.methods))


def split_columns(text: str) -> list[str]:
    """Columns of a list: a comma parts two of them where a method's name follows, else it is within one."""
    names = "|".join(get_args(MethodName))
    return re.split(rf",(?=(?:{names})[:=])", text)


def parse_column(text: str, *, seed: int) -> Column:
    """METHOD=WEIGHTS or METHOD:SETTING=VALUE,...=WEIGHTS.

    Raises:
        ValueError: it is written otherwise, or a method or setting is not known or not allowed (UserError is one).
    """
    found = _COLUMN.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r}: give {SYNTAX}")
    method, known = found["method"], get_args(MethodName)
    if method not in known:
        raise ValueError(f"{text!r}: {method} is no method, give one of {', '.join(known)}")
    pairs = [pair.split("=") for pair in (found["settings"] or "").split(",") if pair]
    settings: dict[str, Any] = dict(pairs)
    unknown = [name for name in settings if name not in SETTINGS]
    if unknown:
        raise ValueError(f"{text!r}: {unknown[0]} cannot be set, give {', '.join(SETTINGS)}")
    recipe = TranslateRecipe(**settings, method=cast(MethodName, method), seed=seed)
    name = " ".join([method, *(f"{key} {value}" for key, value in settings.items())])
    return Column(name=name, recipe=recipe, weights=Path(found["weights"]))
