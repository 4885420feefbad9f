"""Whether the recogniser at hand is the one that steered the generator.

A generator conditioned on a recogniser's embeddings is made to satisfy that recogniser: its verdict on the
images is then a check of the generator, and no measure of the dataset. dataset.json names its sha256. A dataset
of another origin does not say, and nothing can be compared; nor is the same network found in another file format.
"""

from pathlib import Path
from typing import Literal

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import sha256_file
from d2r_fast.engine.marker import DOCUMENT, read_document
from d2r_fast.engine.models.layout import RECOGNISER

WEIGHTS = "model.safetensors"
"""The file of a run folder that holds the weights."""
Origin = Literal["same", "other", "unknown"]


def file_sha256(recogniser: Path) -> str | None:
    """Hex sha256 of a recogniser's file, or of the weights in its folder; None where no such file is there.

    Of an ONNX graph this is the graph's own file, whatever lies beside it: that is what dataset.json names.
    """
    file = recogniser / WEIGHTS if recogniser.is_dir() else recogniser
    return sha256_file(file) if file.is_file() else None


def generator_sha256(dataset: Path) -> str | None:
    """Hex sha256 of the recogniser that steered the generator of a dataset; None where the dataset does not say."""
    if not (dataset / DOCUMENT).is_file():
        return None
    entry = read_document(dataset).get("models", {}).get(RECOGNISER.name, {})
    found = entry.get("sha256")
    return found if isinstance(found, str) else None


def check_origin(dataset: Path, recogniser: Path, *, allow_same: bool) -> Origin:
    """Tell whether the recogniser steered the generator.

    Raises:
        UserError: it did, and that is not allowed.
    """
    steered = generator_sha256(dataset)
    if steered is None:
        return "unknown"
    if steered != file_sha256(recogniser):
        return "other"
    if not allow_same:
        raise UserError(
            f"recogniser {recogniser} is the one that {dataset} was generated with, so it would find what it asked "
            "for: give another one, or --allow-same to measure all the same"
        )
    return "same"
