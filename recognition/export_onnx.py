"""A trained network as ONNX with its sidecar, so that the pipeline, insightface and others can run it.

Opset 18, one input `data` (N,3,112,112) with a dynamic batch, one output `embedding` (N,D), not normalised. The
sidecar NAME.json says the order of colours and how pixels are normalised, as engine/recogniser.py reads it.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import check_out, disk_errors, sync_folder, temporary, write_atomic
from d2r_fast.engine.models.card import json_bytes
from d2r_fast.engine.recogniser import Recogniser
from d2r_fast.export import recogniser
from d2r_fast.recognition.embedder import TorchEmbedder
from d2r_fast.recognition.iresnet import IMAGE_SIZE
from d2r_fast.recognition.network_file import LoadedNetwork, load_network

TOLERANCE = 1e-4
"""Largest relative L2 difference between the graph's embeddings and torch's that passes: float32 in another order."""
NUM_CHECKED = 3


def export_recogniser(network: Path | LoadedNetwork, out: Path) -> None:
    """Write NAME.onnx and NAME.json; the graph appears last, after it gave the same embeddings as torch.

    Raises:
        UserError: `out` is no place for them, would put the sidecar in place of another file, or no network is there.
        RunError: the disk is full, or the graph and torch disagree.
    """
    check_out(out, inputs=[network] if isinstance(network, Path) else [])
    sidecar = _sidecar_of(out)
    loaded = load_network(network) if isinstance(network, Path) else network
    with _preparing(out) as folder:
        draft = folder / out.name
        recogniser.export_recogniser(loaded.module.eval(), draft)
        write_atomic(draft.with_suffix(".json"), json_bytes(_describe(loaded)))
        _check(loaded, draft)
        out.unlink(missing_ok=True)
        draft.with_suffix(".json").replace(sidecar)
        sync_folder(out.parent)
        draft.replace(out)
        sync_folder(out.parent)


def _describe(network: LoadedNetwork) -> dict[str, Any]:
    return {"channels": network.config.channel_order, "mean": [0.5] * 3, "std": [0.5] * 3}


def _sidecar_of(out: Path) -> Path:
    """Where the sidecar goes.

    Raises:
        UserError: the graph's name does not end in .onnx, or the sidecar's is another file's.
    """
    if out.suffix != ".onnx":
        raise UserError(f"out {out}: give a name that ends in .onnx")
    sidecar = out.with_suffix(".json")
    if sidecar.exists() and not _is_sidecar(sidecar):
        raise UserError(f"out {out}: its sidecar would replace {sidecar}, which is none: give another name")
    return sidecar


def _is_sidecar(path: Path) -> bool:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.keys() == {"channels", "mean", "std"}


@contextmanager
def _preparing(out: Path) -> Iterator[Path]:
    folder = temporary(out)
    with disk_errors(out):
        shutil.rmtree(folder, ignore_errors=True)  # of a killed process that had our number
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


def _check(network: LoadedNetwork, draft: Path) -> None:
    """See that whoever reads graph and sidecar gets what torch gives.

    Raises:
        RunError: other embeddings.
    """
    crops = _crops()
    wanted = TorchEmbedder(network, device="cpu", batch_size=NUM_CHECKED)(crops)
    given = Recogniser.load(draft)(crops)
    difference = float(np.linalg.norm(given - wanted) / np.linalg.norm(wanted))
    if not difference <= TOLERANCE:
        raise RunError(
            f"{draft.name} gives embeddings that differ from torch's by {difference:.2g} (relative L2, at most "
            f"{TOLERANCE:g} is expected): nothing is written; report this with the versions of torch and onnxruntime"
        )


def _crops() -> NDArray[np.uint8]:
    """Coloured ramps, a different one per channel and crop, so that swapped axes or colours are seen."""
    rows, columns = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE]
    phases = np.arange(NUM_CHECKED)[:, None, None]
    planes = [rows * (2 + phases) + columns, columns * (1 + phases) + 40, (rows * columns) // (7 + phases)]
    return np.stack(planes, -1).astype(np.uint8)
