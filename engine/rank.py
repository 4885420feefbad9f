"""Digi2Real's identity filter: how alike an identity's prototype is to the nearest other one.

The paper sorts identities by cosine similarity with other identities and keeps the first K. Here the score is
the highest cosine to any other prototype, and the most distinct identity comes first.
"""

import csv
import io
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from d2r_fast.engine.embedding_file import read_embeddings
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import check_out, write_atomic

TILE = 4096  # 64 MiB of cosines at a time


def rank_identities(embeddings: Path, *, out: Path) -> int:
    """The `rank-identities` command; returns how many identities were ranked.

    Raises:
        UserError: unusable embeddings, fewer than two identities, an identity whose embeddings cancel out.
    """
    check_out(out, inputs=[embeddings])
    names, prototypes = mean_prototypes(embeddings)
    if len(names) < 2:
        raise UserError(f"{embeddings} holds {len(names)} identities: ranking compares at least 2")
    scores, nearest = nearest_other(torch.from_numpy(prototypes))
    order = np.argsort(scores.numpy(), kind="stable")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["rank", "identity", "score", "nearest"])
    for rank, index in enumerate(order):
        writer.writerow([rank, names[index], f"{scores[index]:.6f}", names[int(nearest[index])]])
    write_atomic(out, table.getvalue().encode())
    return len(names)


def mean_prototypes(embeddings: Path) -> tuple[list[str], NDArray[np.float32]]:
    """Names and prototypes (N,D) of the identities of an embedding file, in the file's order.

    Embeddings are normalised, summed per identity in double precision, and normalised again.
    """
    places: dict[str, int] = {}
    sums = np.zeros((0, 0))
    for names, rows in read_embeddings(embeddings):
        index = np.array([places.setdefault(name, len(places)) for name in names])
        if len(places) > len(sums):
            room = np.zeros((max(len(places), 2 * len(sums)), rows.shape[1]))
            room[: len(sums)] = sums if sums.size else 0
            sums = room
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        np.add.at(sums, index, rows / np.maximum(norms, 1e-12))
    found = sums[: len(places)]
    norms = np.linalg.norm(found, axis=1, keepdims=True) if len(found) else np.ones((0, 1))
    if (norms < 1e-6).any():
        name = list(places)[int(np.argmin(norms))]
        raise UserError(
            f"{embeddings}: the embeddings of identity {name} cancel out, it has no prototype: leave it out"
        )
    found /= norms
    return list(places), found.astype(np.float32)


def nearest_other(prototypes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Highest cosine of each unit row (N,D) to any other row, and which row that is: (N,), (N,).

    Tiles of the upper triangle give both their row and their column maxima, which halves the arithmetic; only
    the best tile of each row is searched for the index, because a maximum with its index is several times
    slower than a maximum. Ties go to the lowest index.
    """
    num_rows = len(prototypes)
    scores = torch.full((num_rows,), -torch.inf)
    best_tile = torch.zeros(num_rows, dtype=torch.int64)

    def keep(rows: slice, tile: int, values: torch.Tensor) -> None:
        better = values > scores[rows]
        scores[rows] = torch.where(better, values, scores[rows])
        best_tile[rows] = torch.where(better, tile, best_tile[rows])

    starts = range(0, num_rows, TILE)
    for row in starts:
        rows = slice(row, min(row + TILE, num_rows))
        for column in range(row, num_rows, TILE):
            columns = slice(column, min(column + TILE, num_rows))
            cosines = prototypes[rows] @ prototypes[columns].T
            if row == column:
                cosines.fill_diagonal_(-torch.inf)
            keep(rows, column, cosines.amax(dim=1))
            if row != column:
                keep(columns, row, cosines.amax(dim=0))
    nearest = torch.zeros(num_rows, dtype=torch.int64)
    for column in starts:
        members = torch.nonzero(best_tile == column)[:, 0]
        cosines = prototypes[members] @ prototypes[column : column + TILE].T
        inside = (members >= column) & (members < column + TILE)
        cosines[inside, members[inside] - column] = -torch.inf
        nearest[members] = column + cosines.argmax(dim=1)
    return scores, nearest


def read_ranking(path: Path) -> list[str]:
    """Identity names of a ranking, the most distinct first.

    Raises:
        UserError: no such file, or not a ranking.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if "identity" not in (rows.fieldnames or []):
                raise UserError(
                    f"{path} is not the output of `d2r-fast rank-identities`: it has no column identity"
                )
            names = [row["identity"] for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot read the ranking {path}: {reason}") from None
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice or not names:
        found = f"names {twice[0]!r} more than once" if twice else "names no identity"
        raise UserError(f"ranking {path} {found}: make it again with `d2r-fast rank-identities`")
    return names
