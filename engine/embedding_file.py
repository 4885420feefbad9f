"""The embedding file: parquet rows (identity, image, embedding), with the recogniser's hash in its metadata."""

import json
from collections.abc import Iterator
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


class EmbeddingWriter:
    """Appends rows to an open embedding file."""

    def __init__(self, writer: pq.ParquetWriter):
        self._writer = writer
        self.num_rows = 0

    @classmethod
    @contextmanager
    def open(cls, path: Path, recogniser: Recogniser) -> Iterator["EmbeddingWriter"]:
        """A writer; the file appears at `path` when the block ends, and leaves nothing if it raises."""
        made_by = {"recogniser": recogniser.path.name, "sha256": sha256_file(recogniser.path)}
        columns = schema(recogniser.embedding_dim).with_metadata({"d2r_fast": json.dumps(made_by)})
        with open_atomic(path) as file, pq.ParquetWriter(file, columns) as writer:
            yield cls(writer)

    def add(self, images: list[Image], embeddings: NDArray[np.float32]) -> None:
        """Append images and their embeddings, float32 (N,D)."""
        columns = [
            pa.array([image.identity for image in images], pa.string()),
            pa.array([image.name for image in images], pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), embeddings.shape[1]),
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._writer.schema))
        self.num_rows += len(images)


def schema(embedding_dim: int) -> Any:
    """Arrow schema of an embedding file of this width."""
    vector = pa.list_(pa.float32(), embedding_dim)
    return pa.schema([("identity", pa.string()), ("image", pa.string()), ("embedding", vector)])


def read_embeddings(path: Path) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """Identities and embeddings (N,D) of an embedding file, some tens of thousands of rows at a time.

    Raises:
        UserError: no such file, not an embedding file, values that are not finite.
    """
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"cannot read embeddings from {path}: {str(error).splitlines()[0]}") from None
    with file:
        names = file.schema_arrow.names
        if "identity" not in names or "embedding" not in names:
            raise UserError(
                f"{path} is not the output of `d2r-fast embed`: its columns are {', '.join(names)}"
            )
        for batch in file.iter_batches(batch_size=16384, columns=["identity", "embedding"]):
            vectors = batch.column("embedding")
            if not pa.types.is_fixed_size_list(vectors.type) or vectors.null_count:
                raise UserError(
                    f"{path}: column embedding is {vectors.type}, wanted is a list of fixed size, no nulls"
                )
            rows = vectors.flatten().to_numpy().reshape(-1, vectors.type.list_size)
            finite = np.isfinite(rows).all(axis=1)
            if not finite.all():
                bad = batch.column("identity")[int(np.argmin(finite))]
                raise UserError(
                    f"{path}: an embedding of identity {bad} is not finite: embed that image again"
                )
            yield batch.column("identity").to_pylist(), rows
