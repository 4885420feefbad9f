"""What a shard's tables hold, one dataclass and one parquet schema each.

An `ImageRow` stands for every image that was asked for, made or not, and goes with the image into the tar, in
translated datasets a `TranslatedRow`, in converted ones a `ConvertedRow`; an `IdentityRow` for every identity; a
`Problem` for everything that went wrong.
"""

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePath
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from d2r_fast.engine.marker import CONVERTED, GENERATED, TRANSLATED, Status, dump_line

_SPELLINGS = {"jpeg": "jpg", "tiff": "tif"}


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedRow(ABC):
    """One image that was asked for, in any kind of dataset: which it is, and what became of it."""

    key: str
    """`<label:06d>_<image:03d>`."""
    label: int
    identity: str
    image: int
    status: Status
    reason: str | None = None
    """Why it is not written; None where it is."""
    source: str | None = None
    """File name of the render it was made from."""

    @property
    @abstractmethod
    def stem(self) -> str:
        """Name of its file in an imagefolder, without folder and suffix."""

    def suffix(self, image_format: str) -> str:
        """What its file ends with in a tar, of a dataset of this image format."""
        return image_format

    def file_name(self, image_format: str) -> str:
        """Its file in an imagefolder, in its identity's folder."""
        return f"{self.stem}.{self.suffix(image_format)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRow(WantedRow):
    """One generated image: how it was drawn."""

    latent: int | None = None
    """Index of its latent among the identity's."""
    t: float | None = None
    """How far the latent lies from the prototype (0) towards the render (1)."""
    attempts: int = 0
    """Times it was drawn."""
    score: float | None = None
    """The detector's confidence."""
    box: Sequence[float] | None = None
    """Face in the generated image: x0, y0, x1, y1 in pixels."""
    landmarks: Sequence[float] | None = None
    """Eyes, nose, corners of the mouth in the generated image: x1, y1 ... x5, y5 in pixels."""
    cos_prototype: float | None = None
    """Cosine of the crop's embedding and the identity's prototype."""
    cos_latent: float | None = None
    """Cosine of the crop's embedding and the latent it was drawn from."""
    cos_early: float | None = None
    """The same of the predicted image half-way, where --early-reject looked; -1 where that held no one face."""

    @property
    def stem(self) -> str:
        return str(self.image)


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslatedRow(WantedRow):
    """One translated image, which has its source's name and size."""

    height: int | None = None
    """Pixels; None where the source could not be read."""
    width: int | None = None

    @property
    def stem(self) -> str:
        assert self.source is not None, "a translated image has a source"
        return PurePath(self.source).stem


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedRow(WantedRow):
    """One image as its source had it, byte for byte, under its own name."""

    record: str | None = None
    """What the dataset that it comes from recorded of it: that one's row, as JSON."""

    @property
    def stem(self) -> str:
        assert self.source is not None, "a converted image has a source"
        return PurePath(self.source).stem

    def suffix(self, image_format: str) -> str:
        assert self.source is not None, "a converted image has a source"
        return tar_suffix(self.source)

    def file_name(self, image_format: str) -> str:
        assert self.source is not None, "a converted image has a source"
        return self.source


def tar_suffix(name: str) -> str:
    """What an image of this name ends with in a tar, without the dot: one spelling of each image format."""
    suffix = PurePath(name).suffix.lower().removeprefix(".")
    return _SPELLINGS.get(suffix, suffix)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityRow:
    """One identity of the dataset."""

    label: int
    identity: str
    sources: Sequence[str]
    """File names of the renders chosen, or translated."""
    prototype: Sequence[float] | None = None
    """Unit vector (D,), float32; None where no render could be embedded, or none was meant to be."""
    status: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that went wrong."""

    stage: str
    identity: str
    key: str
    """Image key, or the render's file name."""
    error: str
    """Type of the error."""
    reason: str


AnyImageRow = ImageRow | TranslatedRow | ConvertedRow
Row = TypeVar("Row", bound=AnyImageRow | IdentityRow)
ROWS: dict[str, type[ImageRow] | type[TranslatedRow] | type[ConvertedRow]] = {
    GENERATED: ImageRow, TRANSLATED: TranslatedRow, CONVERTED: ConvertedRow,
}  # fmt: skip
"""What a dataset's images are recorded as, by its kind."""


def _schema(kind: type, types: dict[str, pa.DataType]) -> pa.Schema:
    """One column per field, in order; nullable where the field may be None. Said in full, so that a column of
    nothing but None has its type all the same."""
    return pa.schema([pa.field(f.name, types[f.name], nullable="None" in str(f.type)) for f in fields(kind)])


_TEXT, _INT, _REAL = pa.string(), pa.int64(), pa.float64()
SCHEMAS: dict[type, pa.Schema] = {
    ImageRow: _schema(ImageRow, {
        "key": _TEXT, "label": _INT, "identity": _TEXT, "image": _INT, "status": _TEXT, "reason": _TEXT,
        "source": _TEXT, "latent": _INT, "t": _REAL, "attempts": _INT, "score": _REAL, "box": pa.list_(_REAL),
        "landmarks": pa.list_(_REAL), "cos_prototype": _REAL, "cos_latent": _REAL,
        "cos_early": _REAL,
    }),
    TranslatedRow: _schema(TranslatedRow, {
        "key": _TEXT, "label": _INT, "identity": _TEXT, "image": _INT, "status": _TEXT, "reason": _TEXT,
        "source": _TEXT, "height": _INT, "width": _INT,
    }),
    ConvertedRow: _schema(ConvertedRow, {
        "key": _TEXT, "label": _INT, "identity": _TEXT, "image": _INT, "status": _TEXT, "reason": _TEXT,
        "source": _TEXT, "record": _TEXT,
    }),
    IdentityRow: _schema(IdentityRow, {
        "label": _INT, "identity": _TEXT, "sources": pa.list_(_TEXT), "prototype": pa.list_(pa.float32()),
        "status": _TEXT, "reason": _TEXT,
    }),
}  # fmt: skip


def as_dict(row: WantedRow | IdentityRow | Problem) -> dict[str, Any]:
    """Fields by name, in order; values are shared, not copied as dataclasses.asdict does."""
    return {field.name: getattr(row, field.name) for field in fields(row)}


def row_json(row: WantedRow) -> bytes:
    """The `.json` member of an image: its row, one line. Numbers read back exactly."""
    return dump_line(as_dict(row))


def table_bytes(kind: type[Row], rows: Sequence[Row]) -> bytes:
    """Parquet file of the rows, equal bytes for equal rows (of one pyarrow version, which the file names)."""
    schema = SCHEMAS[kind]
    columns = [pa.array([getattr(row, field.name) for row in rows], type=field.type) for field in schema]
    sink = io.BytesIO()
    pq.write_table(
        pa.Table.from_arrays(columns, schema=schema), sink, version="2.6", compression="zstd",
        data_page_version="1.0", row_group_size=1 << 16,
    )  # fmt: skip
    return sink.getvalue()


def read_table(kind: type[Row], path: Path) -> list[Row]:
    """Rows of a parquet file that `table_bytes` made. Raises ValueError where it is anything else."""
    try:
        table = pq.read_table(path, partitioning=None, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path.name} is no parquet file ({str(error).splitlines()[0]})") from error
    if not table.schema.equals(SCHEMAS[kind]):
        raise ValueError(f"{path.name} has other columns than this version writes")
    return [kind(**row) for row in table.to_pylist()]
