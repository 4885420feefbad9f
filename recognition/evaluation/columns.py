"""Text files of values in columns, one row per line, split by white space."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from d2r_fast.engine.errors import UserError

Kind = type[str] | type[int] | type[float]
_PARSE: dict[Kind, Any] = {str: str, int: np.int64, float: float}


def read_columns(path: Path, kinds: Sequence[Kind]) -> list[Any]:
    """One value per column: list of str, or an array of int64 or float64.

    A file of integers alone is read at the speed of numpy.loadtxt: IJB-C's 15.7 million pairs in 2 seconds of one
    core. Blank lines do not count.

    Raises:
        UserError: no such file, no rows, or a line that is not so many values of these kinds; it names the first.
    """
    try:
        if set(kinds) == {int}:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # an empty file, 1.0 for 1
                table = np.loadtxt(path, np.int64, comments=None, ndmin=2)
            if table.shape[1] == len(kinds):
                return list(table.T)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): get it again") from None
    except (ValueError, UserWarning, DeprecationWarning):
        pass  # line by line it shows which one is wrong
    return _read_lines(path, kinds)


def _read_lines(path: Path, kinds: Sequence[Kind]) -> list[Any]:
    """Columns of values of mixed kinds, and the first line that does not fit."""
    columns: list[list[Any]] = [[] for _ in kinds]
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, start=1):
                values = line.split()
                if values:
                    for column, value in zip(columns, _row(path, number, values, kinds), strict=True):
                        column.append(value)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): get it again") from None
    if not columns[0]:
        raise UserError(f"{path} is empty: get it again")
    return [
        column if kind is str else np.array(column, np.int64 if kind is int else np.float64)
        for kind, column in zip(kinds, columns, strict=True)
    ]


def _row(path: Path, number: int, values: list[str], kinds: Sequence[Kind]) -> list[Any]:
    try:
        return [_PARSE[kind](value) for kind, value in zip(kinds, values, strict=True)]
    except (ValueError, OverflowError):
        shown, wanted = " ".join(values), " ".join(kind.__name__ for kind in kinds)
        raise UserError(f"{path} line {number} is {shown!r:.80}, wanted is {wanted}: get it again") from None
