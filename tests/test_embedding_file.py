"""Files of embeddings that are another kind of file, damaged, or large."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from d2r_fast.engine import source as sources
from d2r_fast.engine.embedding_file import ROWS_PER_GROUP, EmbeddingWriter, read_embeddings, schema
from d2r_fast.engine.errors import UserError

from .fakereport import one_line


def embedding_table(path: Path, identity: Any, embedding: Any) -> Path:
    pq.write_table(pa.table({"identity": identity, "embedding": embedding}), path)
    return path


VECTORS = pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2))


@pytest.mark.parametrize(
    ("identity", "embedding", "message"),
    [
        (["a", "b"], ["x", "y"], "column embedding is string"),
        (["a", "b"], [[1.0], [2.0, 3.0]], "column embedding is list"),
        (
            ["a", "b"],
            pa.array([["x"], ["y"]], pa.list_(pa.string(), 1)),
            "column embedding is fixed_size_list",
        ),
        (["a", "b"], pa.array([[1.0], None], pa.list_(pa.float32(), 1)), "rows without a value"),
        (["a", "b"], pa.array([[1.0], [None]], pa.list_(pa.float32(), 1)), "rows without a value"),
        (["a", "b"], pa.array([[1.0], [np.nan]], pa.list_(pa.float32(), 1)), "identity b is not finite"),
        (["a", None], VECTORS, "column identity has rows without a value"),
        ([1, 2], VECTORS, "column identity is int64"),
    ],
)
def test_embeddings_of_another_kind(tmp_path: Path, identity: Any, embedding: Any, message: str) -> None:
    path = embedding_table(tmp_path / "e.parquet", identity, embedding)
    with pytest.raises(UserError, match=message) as caught:
        list(read_embeddings(path))
    one_line(caught, str(path))


def test_embeddings_that_are_damaged_or_a_folder(tmp_path: Path) -> None:
    path = embedding_table(tmp_path / "e.parquet", ["a", "b"], VECTORS)
    data = path.read_bytes()
    path.write_bytes(b"PAR1" + b"?" * 60 + data[64:])
    for given in (path, tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match="cannot read embeddings") as caught:
            list(read_embeddings(given))
        one_line(caught, str(given))


def test_embeddings_are_written_in_large_groups(tmp_path: Path) -> None:
    rows = np.arange(2 * (ROWS_PER_GROUP + 500), dtype=np.float32).reshape(-1, 2)
    images = [sources.Image(str(index), "0.png", tmp_path) for index in range(len(rows))]
    with pq.ParquetWriter(tmp_path / "e.parquet", schema(2)) as file:
        writer = EmbeddingWriter(file)
        for start in range(0, len(rows), 64):
            batch = rows[start : start + 64].copy()
            writer.add(images[start : start + 64], batch)
            batch[:] = 0
        writer.flush()
    assert writer.num_rows == len(rows)
    assert pq.ParquetFile(tmp_path / "e.parquet").num_row_groups == 2
    names, found = zip(*read_embeddings(tmp_path / "e.parquet"), strict=True)
    np.testing.assert_array_equal(np.concatenate(found), rows)
    assert [name for chunk in names for name in chunk] == [image.identity for image in images]
