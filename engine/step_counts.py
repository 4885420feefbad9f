"""Identities with another number of sampling steps than the rest: a CSV file with columns identity and steps."""

import csv
from collections.abc import Container
from pathlib import Path

from d2r_fast.engine.errors import UserError

MOST_STEPS = 1000


def read_steps(path: Path, identities: Container[str]) -> dict[str, int]:
    """Steps by identity.

    Args:
        path: the CSV file.
        identities: names that may occur.

    Raises:
        UserError: no such file, other columns, an identity that is unknown or named twice, no number of steps.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if not {"identity", "steps"} <= set(reader.fieldnames or ()):
                raise UserError(f"{path} has the columns {reader.fieldnames}: expected identity and steps")
            rows = [(reader.line_num, row["identity"], row["steps"]) for row in reader]
    except OSError as error:
        raise UserError(f"cannot read identity_steps {path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"identity_steps {path} is not CSV: {error}") from None
    steps: dict[str, int] = {}
    for line, identity, count in rows:
        if identity not in identities:
            raise UserError(f"{path} line {line}: identity {identity!r} is not in the source")
        if identity in steps:
            raise UserError(f"{path} line {line}: identity {identity!r} again: name each once")
        if not (count or "").isascii() or not (count or "").isdigit() or not 1 <= int(count) <= MOST_STEPS:
            raise UserError(f"{path} line {line}: steps {count!r}: expected a number from 1 to {MOST_STEPS}")
        steps[identity] = int(count)
    return steps
