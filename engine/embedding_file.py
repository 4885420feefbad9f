"""The embedding file: parquet rows (identity, image, embedding), with the recogniser's hash in its metadata."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import open_atomic, sha256_file
from d2r_fast.engine.recogniser import Recogniser
from d2r_fast.engine.source import Image

ROWS_PER_GROUP = 16384
"""Rows held back to be written together: small row groups cost bytes, and memory until the file is closed."""


class EmbeddingWriter:
    """Appends rows to an open embedding file."""

    def __init__(self, writer: pq.ParquetWriter):
        self._writer = writer
        self._images: list[Image] = []
        self._embeddings: list[NDArray[np.float32]] = []
        self.num_rows = 0

    @classmethod
    @contextmanager
    def open(
        cls, path: Path, recogniser: Recogniser, *, about: Mapping[str, str]
    ) -> Iterator["EmbeddingWriter"]:
        """A writer; the file appears at `path` when the block ends, and leaves nothing if it raises. `about` is said
        in the file beside the recogniser."""
        made_by = {"recogniser": recogniser.path.name, "sha256": sha256_file(recogniser.path), **about}
        columns = schema(recogniser.embedding_dim).with_metadata({"d2r_fast": json.dumps(made_by)})
        with open_atomic(path) as file, pq.ParquetWriter(file, columns) as writer:
            rows = cls(writer)
            yield rows
            rows.flush()

    def add(self, images: list[Image], embeddings: NDArray[np.float32]) -> None:
        """Append images and their embeddings, float32 (N,D)."""
        self._images += images
        self._embeddings.append(embeddings.copy())
        self.num_rows += len(images)
        if len(self._images) >= ROWS_PER_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write the rows held back as one row group."""
        if not self._images:
            return
        rows = np.concatenate(self._embeddings)
        columns = [
            pa.array([image.identity for image in self._images], pa.string()),
            pa.array([image.name for image in self._images], pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1]),
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._writer.schema))
        self._images, self._embeddings = [], []


def schema(embedding_dim: int) -> Any:
    """Arrow schema of an embedding file of this width."""
    vector = pa.list_(pa.float32(), embedding_dim)
    return pa.schema([("identity", pa.string()), ("image", pa.string()), ("embedding", vector)])


def read_embeddings(path: Path) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """Identities and embeddings (N,D) of an embedding file, some tens of thousands of rows at a time.

    Raises:
        UserError: no such file, not an embedding file, damaged, nulls, values that are not finite.
    """
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow)
            for batch in file.iter_batches(batch_size=16384, columns=["identity", "embedding"]):
                yield _identities(path, batch), _vectors(path, batch)
    except (OSError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0]
        raise UserError(f"cannot read embeddings from {path}: {reason}") from None


def _check_columns(path: Path, columns: Any) -> None:
    """See that an Arrow schema has the columns to read, once each and of the right types."""
    names = columns.names
    if names.count("identity") != 1 or names.count("embedding") != 1:
        raise UserError(f"{path} is not the output of `d2r-fast embed`: its columns are {', '.join(names)}")
    identity, vector = columns.field("identity").type, columns.field("embedding").type
    if not pa.types.is_string(identity) and not pa.types.is_large_string(identity):
        raise UserError(f"{path}: column identity is {identity}, wanted is text")
    is_vector = pa.types.is_fixed_size_list(vector) and pa.types.is_floating(vector.value_type)
    if not is_vector or vector.list_size < 1:
        raise UserError(f"{path}: column embedding is {vector}, wanted is a list of numbers of fixed size")


def _identities(path: Path, batch: Any) -> list[str]:
    column = batch.column("identity")
    if column.null_count:
        raise UserError(f"{path}: column identity has rows without a value: embed the images again")
    names: list[str] = column.to_pylist()
    return names


def _vectors(path: Path, batch: Any) -> NDArray[np.float32]:
    """Embeddings (N,D) of a batch."""
    column = batch.column("embedding")
    numbers = column.flatten()
    if column.null_count or numbers.null_count:
        raise UserError(f"{path}: column embedding has rows without a value: embed the images again")
    with np.errstate(over="ignore"):
        rows: NDArray[np.float32] = np.asarray(numbers.to_numpy(), np.float32).reshape(
            -1, column.type.list_size
        )
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        bad = batch.column("identity")[int(np.argmin(finite))]
        raise UserError(f"{path}: an embedding of identity {bad} is not finite: embed that image again")
    return rows
