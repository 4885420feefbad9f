"""One mini model folder for every test module that only reads it, and cheap copies to damage."""

import os
import shutil
from functools import cache
from pathlib import Path

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
