"""One mini model folder for every test module that only reads it, and cheap copies to damage."""

import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from d2r_fast.engine.models.check import Report, Row
from d2r_fast.engine.models.init import init_models


def mini_models(base: Path) -> Path:
    """The folder of `models init mini`, made once per test run. `base` is tmp_path_factory.getbasetemp()."""
    return _make(base / "mini-models")


@cache
def _make(folder: Path) -> Path:
    init_models(folder, size="mini")
    return folder


def copy_models(models: Path, out: Path, *, card: bool = False) -> Path:
    """A copy by hard links: replace files in it, never write into them."""
    shutil.copytree(models, out, copy_function=os.link)
    if not card:
        (out / "models.json").unlink()
    return out


def rewrite(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def row(report: Report, file: str) -> Row:
    (found,) = (row for row in report.rows if row.file == file)
    return found


def blamed(report: Report) -> dict[str, str]:
    found = {
        row.file: f"{row.status}: {row.note}" for row in report.rows if row.status in ("missing", "damaged")
    }
    assert report.complete == (not found)
    return found


def edit_config(folder: Path, file: str, **changes: Any) -> None:
    rewrite(folder / file, json.dumps(json.loads((folder / file).read_bytes()) | changes).encode())


def edit_tensors(folder: Path, file: str, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / file)
    edit(tensors)
    rewrite(folder / file, save(tensors))
