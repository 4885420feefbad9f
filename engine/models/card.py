"""models.json: where a model folder's files came from, and what they were when they came.

    {"kind": "random", "size": "mini", "seed": 0, "licence": "...", "files": {path: {"sha256", "bytes"}}}
    {"kind": "released", "files": {path: {"repo", "revision", "sha256", "bytes", "licence"}}}
    {"kind": "miniature", "recipe": {...}, "photographs": {"named": what the recogniser learnt from, "unnamed": the
     generator}, "packed": sha256 of the packed one's card, "files": {path: {"sha256", "bytes", "licence"}}}

A folder put together by hand has none, and serves all the same.
"""

import json
from pathlib import Path
from typing import Any

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import write_atomic

CARD, PHOTOGRAPHS = "models.json", "photographs"
KINDS = ("random", "released", "miniature")
"""Untrained, downloaded, and trained here, small."""
RANDOM_LICENCE = "none needed: random numbers, trained on nothing"


def read_card(models: Path) -> dict[str, Any] | None:
    """What models.json says, or None where the folder has none.

    Raises UserError where it is not such a document.
    """
    path = models / CARD
    try:
        card: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): make it a file that you may read, or make the folder again"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): delete it, or make the folder again") from None
    if not _is_card(card):
        raise UserError(f"{path} is not a model folder's card: delete it, or make the folder again")
    document: dict[str, Any] = card
    return document


def write_card(models: Path, card: dict[str, Any]) -> None:
    write_atomic(models / CARD, json_bytes(card))


def json_bytes(document: dict[str, Any]) -> bytes:
    """JSON as every file of a model folder has it: indented, keys in order, ending in a newline."""
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def is_untrained(card: dict[str, Any] | None) -> bool:
    """Whether the weights are random, so that what they draw or measure means nothing."""
    return card is not None and card["kind"] == "random"


def _is_card(document: Any) -> bool:
    files = document.get("files") if isinstance(document, dict) else None
    entries = list(files.values()) if isinstance(files, dict) else [None]
    listed = all(isinstance(entry, dict) and {"sha256", "bytes"} <= entry.keys() for entry in entries)
    return listed and document.get("kind") in KINDS and _counts(document.get(PHOTOGRAPHS))


def _counts(photographs: Any) -> bool:
    if photographs is None:
        return True
    return (
        isinstance(photographs, dict)
        and photographs.keys() == {"named", "unnamed"}
        and all(isinstance(count, int) for count in photographs.values())
    )
