"""What the sidecar of an ONNX file or an engine says."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A piece of a sidecar: typed, immutable, and nothing else in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class FileRecord(Part):
    """A file as it was written."""

    sha256: str
    bytes: int


class Record(Part):
    """What was built.

    Attributes:
        format: of sidecars; one of another is built again.
        key: what of, by and for; whoever wants it compares every part.
        files: path below the engines folder -> digest and length.
        build_s: seconds that it took.
    """

    format: Literal[1] = 1
    key: dict[str, Any]
    files: dict[str, FileRecord]
    build_s: float

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(file.bytes for file in self.files.values())


class PortRecord(Part):
    """An input or output: its dtype as torch calls it, its sizes, of which a name is open."""

    name: str
    dtype: str
    shape: list[int | str]


class Parity(Part):
    """How far an engine is from the float32 network.

    Attributes:
        relative_l2: output -> ||engine - reference|| / ||reference||; None where it cannot run.
        max_abs: output -> largest absolute difference.
        limit: the largest relative L2 error that is allowed.
        where: the rows and the device of the measurement, or why there was none.
    """

    relative_l2: dict[str, float] | None
    max_abs: dict[str, float] | None
    limit: float
    where: str

    @property
    def worst(self) -> float | None:
        """The largest relative L2 error of any output; None where it was not measured."""
        return None if self.relative_l2 is None else max(self.relative_l2.values())


class Needs(Part):
    """What a network takes, counted from its shapes, see engine_needs.

    Attributes:
        weights_bytes: what its graph holds: its parameters, and kernels that are kept transformed.
        row_bytes: the peak of what one row's intermediate results take at once.
        row_flops: arithmetic of one row, a multiplication and an addition counted as two.
    """

    weights_bytes: int
    row_bytes: int
    row_flops: int

    def memory(self, num_rows: int, *, copies: float = 1) -> int:
        """Bytes for `num_rows` rows computed at once beside that many copies of the weights."""
        return int(copies * self.weights_bytes) + num_rows * self.row_bytes


class EngineRecord(Record):
    """What an engine is beyond its files: its ports, how accurate it is, what it needs."""

    inputs: list[PortRecord]
    outputs: list[PortRecord]
    parity: Parity
    needs: Needs
