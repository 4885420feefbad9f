"""The trained miniature, small networks of ours, as a model folder.

Packed it is a folder of the same names, smaller: tensors in float16, and of the text encoder's 49,408 words those alone
that a prompt says. What is written has the files, names and dtypes of the released models.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from d2r_fast.engine.condition import EMPTY_PROMPT, PROMPT
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import Written, make_folder, write_atomic
from d2r_fast.engine.models.appearing import appearing_folder
from d2r_fast.engine.models.card import CARD, read_card, write_card
from d2r_fast.engine.models.configs import VOCABULARY
from d2r_fast.engine.models.safetensors_file import write_safetensors

PACKED, RENDERS, OFFSET = "models", "renders", "offset.safetensors"
"""What a miniature is kept as, in a folder: the networks, packed; renders of a few people, <identity>/<image>.png, 112
pixels; and the offset from such renders to photographs, for these networks."""
WORDS = "text_model.embeddings.token_embedding.weight"
SPOKEN = sorted({*PROMPT, *EMPTY_PROMPT})
"""Words of any prompt, by number; rows of the packed table."""
NEEDED_BYTES = 100_000_000
Arrays = Mapping[str, NDArray[np.floating]]


def unpack_miniature(packed: Path, out: Path) -> None:
    """Write the model folder `out`, which appears complete or not at all; the same bytes every time.

    Raises:
        UserError: `out` holds files or cannot be made, or `packed` is no packed miniature.
        RunError: the disk is too full.
    """
    card = read_card(packed)
    if card is None:
        raise UserError(f"{packed} has no {CARD}: give a folder that the miniature was packed into")
    with appearing_folder(out, needed_bytes=NEEDED_BYTES) as folder:
        files = {
            file: entry | _unpack(packed / file, folder / file).entry()
            for file, entry in card["files"].items()
        }
        write_card(folder, card | {"files": files})


def _unpack(source: Path, path: Path) -> Written:
    make_folder(path.parent)
    if path.suffix != ".safetensors":
        return write_atomic(path, source.read_bytes())
    arrays = {name: _as_released(name, value) for name, value in load_file(source).items()}
    return write_safetensors(path, {name: value.shape for name, value in arrays.items()}, arrays.__getitem__)


def _as_released(name: str, value: NDArray[np.floating]) -> NDArray[np.float32]:
    single = value.astype(np.float32)
    if name != WORDS:
        return single
    table = np.zeros((VOCABULARY, single.shape[1]), np.float32)
    table[SPOKEN] = single
    return table


def pack_tensors(path: Path, tensors: Arrays) -> Written:
    """Write a network of the miniature: float32 tensors by their released names."""
    packed = {name: value[SPOKEN] if name == WORDS else value for name, value in tensors.items()}
    return write_safetensors(
        path, {name: value.shape for name, value in packed.items()},
        lambda name: packed[name].astype(np.float32), dtype=np.float16,
    )  # fmt: skip
