"""`d2r-fast demo`: the whole pipeline on renders of a few people, by the trained miniature."""

from pathlib import Path
from typing import Any

from d2r_fast.engine.config import GenerateConfig
from d2r_fast.engine.console import say
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import STALE, disk_errors, make_folder, write_atomic
from d2r_fast.engine.models.miniature import (
    MINIATURE,
    OFFSET,
    PACKED,
    RENDERS,
    is_unpacked,
    unpack_miniature,
)
from d2r_fast.engine.pipeline import generate
from d2r_fast.engine.report import write_report
from d2r_fast.engine.verify import run_verify

SETTINGS: dict[str, Any] = {
    "images_per_identity": 8, "source_images_per_identity": 4, "alpha": 2.0, "steps": 20, "guidance": 2.0,
    "source_alignment": "aligned", "identities_per_shard": 2, "backend": "torch",
}  # fmt: skip
"""The paper's, but for fewer images and what small networks ask for. torch, because they are done before engines are
built."""


def run_demo(out: Path) -> int:
    """Write models, renders, a dataset and its report below `out`; a second call goes on where one stopped.

    Raises:
        UserError: `out` is there and is not this demo's folder, or cannot be made.
        RunError: the disk is full.
    """
    models, renders, dataset = out / "models", out / "renders", out / "dataset"
    if _is_new(out):
        say("writing the miniature's networks")
        unpack_miniature(MINIATURE / PACKED, models)
    _copy_missing(MINIATURE / RENDERS, renders)
    status = generate(
        GenerateConfig(**SETTINGS, source=renders, models=models, out=dataset, clip_offset=MINIATURE / OFFSET)
    )
    status = status or run_verify(dataset)
    print(f"report: {write_report(dataset)}")
    return status


def _is_new(out: Path) -> bool:
    """Make the folder `out` if need be, and say whether it is still empty, but for what a killed call left.

    Raises:
        UserError: it holds other things, or a demo of other networks.
    """
    try:
        with disk_errors(out):
            out.mkdir(parents=True, exist_ok=True)
            is_empty = all(STALE.match(path.name) for path in out.iterdir())
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"out {out} is no folder: give an empty or new --out") from None
    if is_empty:
        return True
    if not (out / "models").is_dir():
        raise UserError(f"{out} holds other files: give an empty or new --out")
    if not is_unpacked(out / "models", MINIATURE / PACKED):
        raise UserError(f"{out} holds other networks than this demo's: give an empty or new --out")
    return False


def _copy_missing(source: Path, out: Path) -> None:
    """Copy the files of `source` that `out` lacks, each whole or not at all."""
    for path in sorted(source.rglob("*")):
        copy = out / path.relative_to(source)
        if path.is_file() and not copy.exists():
            make_folder(copy.parent)
            write_atomic(copy, path.read_bytes())
