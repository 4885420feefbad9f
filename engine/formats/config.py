"""What the conversions take. Nothing heavy is imported here: these fields are flags."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from tyro.conf import Positional

from d2r_fast.engine.config import Frozen

Target = Literal["webdataset", "imagefolder", "recordio", "parquet"]
Layout = Literal["insightface", "im2rec"]
SameNames = Literal["refuse", "join", "prefix"]


class Written(Frozen):
    """How a result is written."""

    out: Path
    """Folder to write. One that holds the same, half done, is finished."""
    to: Target = "webdataset"
    """webdataset and imagefolder: a dataset of d2r-fast, with tables; recordio: InsightFace's train.rec, train.idx,
    train.lst and property; parquet: as `datasets` reads it."""
    layout: Layout = "insightface"
    """Of recordio. insightface: images by identity, records of the identities behind them; im2rec: images alone, in an
    order shuffled by --seed, as DALI's reader wants them, which does not look for identities."""
    identities_per_shard: Annotated[int, Field(ge=1)] | None = None
    """Identities in a tar or a parquet file. Default: as many as have about 5,000 images."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Shuffles im2rec's records."""
    max_unreadable: Annotated[int, Field(ge=0)] = 0
    """Images to leave out, at most, that cannot be read or are no images; every image is read beforehand. By default
    the first such image ends it."""

    @model_validator(mode="after")
    def _check_layout(self) -> Self:
        if self.layout == "im2rec" and self.to != "recordio":
            raise ValueError(f"layout im2rec is recordio's: {self.to} has none, leave --layout out")
        return self


class ConvertConfig(Written):
    """Write the images of a source in another form, each file byte for byte."""

    source: Positional[Path]
    """Images by identity: a dataset, a folder, a .zip, .tar or .parquet or a folder of them, or RecordIO."""
    to: Target | Literal["bin"]  # type: ignore[assignment]
    """webdataset and imagefolder: a dataset of d2r-fast, with tables; recordio: InsightFace's train.rec, train.idx,
    train.lst and property; parquet: as `datasets` reads it; bin: a verification set of --pairs."""
    pairs: Path | None = None
    """List of pairs for bin, whose --out is a file: lines of two images as <identity>/<name> and 1 (the same person) or
    0, or LFW's and RFW's "id i j" and "id i other j"."""

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if (self.to == "bin") != (self.pairs is not None):
            raise ValueError("bin takes --pairs FILE, and nothing else does: give both or neither")
        if self.to == "bin" and self.max_unreadable:
            raise ValueError("a pair cannot lose an image: leave --max-unreadable out for bin")
        return self


class MergeConfig(Written):
    """Put several sources together, one after the other."""

    sources: Positional[tuple[Path, ...]]
    """Two or more, of any forms."""
    same_names: SameNames = "refuse"
    """What two identities of one name are. refuse: ask; join: one person, whose images are put together (one that is
    called like another gets the number of its source before its name); prefix: two, and every identity is called
    <source>-<name>."""

    @model_validator(mode="after")
    def _check_sources(self) -> Self:
        if len(self.sources) < 2:
            raise ValueError(f"merge takes two sources or more: {len(self.sources)} given")
        return self


class SplitConfig(Written):
    """Cut a source into parts of whole identities, in order: OUT/part-00000 and so on."""

    source: Positional[Path]
    """Images by identity, in any form."""
    parts: Annotated[int, Field(ge=1)] | None = None
    """How many, as equal as can be."""
    identities_per_part: Annotated[int, Field(ge=1)] | None = None
    """Or how many identities each has; the last has the rest."""

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        if (self.parts is None) == (self.identities_per_part is None):
            raise ValueError("split takes --parts or --identities-per-part: give one of them")
        return self


class SubsetConfig(Written):
    """Keep some identities of a source, and some images of each."""

    source: Positional[Path]
    """Images by identity, in any form."""
    identities: str
    """How many, from the first in order; or a file: a line for each name, or the output of rank-identities. They get
    their labels in the file's order."""
    images: Annotated[int, Field(ge=1)] | None = None
    """How many images of each to keep, from the first. Default: all."""
    top: Annotated[int, Field(ge=1)] | None = None
    """How many identities of the file to keep, from the first. Default: all."""
