"""Digi2Real's identity filter against a brute-force reference."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from d2r_fast.engine import rank
from d2r_fast.engine.embedding_file import schema
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.rank import nearest_other, rank_identities, read_ranking


def write_embeddings(path: Path, names: list[str], rows: np.ndarray) -> Path:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float32).reshape(-1)), rows.shape[1])
    columns = [pa.array(names), pa.array([f"{index}.png" for index in range(len(names))]), vectors]
    pq.write_table(pa.Table.from_arrays(columns, schema=schema(rows.shape[1])), path)
    return path


def unit_rows(num: int, width: int) -> torch.Tensor:
    rows = torch.randn(num, width, generator=torch.Generator().manual_seed(0))
    return rows / rows.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("tile", [1, 7, 64, 200, 1000])
def test_nearest_other_is_brute_force(monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    monkeypatch.setattr(rank, "TILE", tile)
    rows = unit_rows(200, 16)
    cosines = (rows.double() @ rows.double().T).fill_diagonal_(-2)
    scores, nearest = nearest_other(rows)
    torch.testing.assert_close(scores.double(), cosines.max(dim=1).values, atol=1e-6, rtol=0)
    assert torch.equal(nearest, cosines.argmax(dim=1))


def test_twins_rank_last(tmp_path: Path) -> None:
    rows = unit_rows(20, 32).numpy()
    rows[7] = rows[3] + 0.01 * rows[5]
    names = [f"id {index}" for index in range(20)]
    path = write_embeddings(tmp_path / "e.parquet", names, rows)
    assert rank_identities(path, out=tmp_path / "r.csv") == 20
    order = read_ranking(tmp_path / "r.csv")
    assert sorted(order) == sorted(names)
    assert set(order[-2:]) == {"id 3", "id 7"}


def test_prototypes_average_normalised_embeddings_of_scattered_rows(tmp_path: Path) -> None:
    rows = unit_rows(60, 32).numpy() * np.linspace(0.1, 50, 60)[:, None]
    names = [f"00{index % 4}" for index in range(60)]
    path = write_embeddings(tmp_path / "e.parquet", names, rows)
    found_names, found = rank.mean_prototypes(path)
    assert found_names == ["000", "001", "002", "003"]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for index in range(4):
        mean = unit[index::4].mean(axis=0)
        np.testing.assert_allclose(found[index], mean / np.linalg.norm(mean), atol=1e-6)


@pytest.mark.parametrize("name", ['comma, "quote"', "Zoë", "007", "line\nbreak"])
def test_names_survive(tmp_path: Path, name: str) -> None:
    path = write_embeddings(tmp_path / "e.parquet", [name, "other"], unit_rows(2, 8).numpy())
    rank_identities(path, out=tmp_path / "r.csv")
    assert set(read_ranking(tmp_path / "r.csv")) == {name, "other"}


def test_bad_embeddings_are_refused(tmp_path: Path) -> None:
    rows = unit_rows(4, 8).numpy()
    lonely = write_embeddings(tmp_path / "one.parquet", ["a"] * 4, rows)
    broken = write_embeddings(tmp_path / "nan.parquet", list("abcd"), np.where(rows == rows[2], np.nan, rows))
    opposite = write_embeddings(
        tmp_path / "zero.parquet", ["a", "a", "b", "c"], np.stack([rows[0], -rows[0], rows[1], rows[2]])
    )
    text = tmp_path / "text.parquet"
    text.write_text("no parquet")
    for path, message in [
        (lonely, "at least 2"), (broken, "identity c is not finite"), (opposite, "identity a cancel out"),
        (text, "cannot read"), (tmp_path / "none", "cannot read"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=message) as caught:
            rank_identities(path, out=tmp_path / "r.csv")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "r.csv").exists()


def test_a_file_that_is_no_ranking_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no column identity"):
        read_ranking(path)
