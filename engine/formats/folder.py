"""The folder of a result that is no dataset of ours: origin.json first, the files, the card and _SUCCESS last."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from d2r_fast.engine.card import render_card
from d2r_fast.engine.dataset import name_differences
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import write_atomic
from d2r_fast.engine.folder_lock import held, refuse_foreign
from d2r_fast.engine.formats.named import LABELS, ORIGIN
from d2r_fast.engine.marker import CARD, COUNTS, SUCCESS, dump


@contextmanager
def open_folder(out: Path, document: Mapping[str, Any], identities: list[str]) -> Iterator[bool]:
    """The folder `out` for what `document` describes; whether there is anything left to write into it.

    Raises:
        UserError: something else is there, or the same of another source or other settings.
        RunError: another process has it, or the disk is full.
    """
    wanted = json.loads(dump(document))
    refuse_foreign(out, own=[ORIGIN], what="conversion")
    _refuse_other(out, wanted)
    with held(out):
        _refuse_other(out, wanted)
        if (out / SUCCESS).exists():
            yield False
            return
        write_atomic(out / ORIGIN, dump(wanted))
        write_atomic(out / LABELS, "".join(f"{name}\n" for name in identities).encode())
        yield True
        count = document["plan"]["wanted"]
        totals = dict.fromkeys(COUNTS, 0) | {"wanted": count, "written": count}
        write_atomic(out / CARD, render_card(wanted, totals).encode())
        write_atomic(out / SUCCESS, b"")


def _refuse_other(out: Path, wanted: Mapping[str, Any]) -> None:
    path = out / ORIGIN
    if not path.exists():
        return
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged: put the original back, or give an empty folder")
    differing = name_differences(found, wanted)
    if differing:
        raise UserError(f"out {out} holds another conversion: {differing}. Give an empty folder")
