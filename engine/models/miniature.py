"""The trained miniature, small networks of ours, as a model folder.

Packed it is a folder of the same names, smaller: tensors in float16, and of the text encoder's 49,408 words those alone
that a prompt says. What is written has the files, names and dtypes of the released models.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from d2r_fast.engine.condition import EMPTY_PROMPT, PROMPT
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import Written, make_folder, sha256_file, write_atomic
from d2r_fast.engine.models.appearing import appearing_folder
from d2r_fast.engine.models.card import CARD, json_bytes, read_card, write_card
from d2r_fast.engine.models.configs import VOCABULARY
from d2r_fast.engine.models.safetensors_file import write_safetensors

MINIATURE = Path(__file__).parents[1] / "miniature"
"""The folder of the one that comes with the package, made by bench/miniature/generator/make.py."""
PACKED, RENDERS, OFFSET = "models", "renders", "offset.safetensors"
"""What is in such a folder: the networks, packed; renders of a few people, <identity>/<image>.png, 112
pixels; and the offset from such renders to photographs, for these networks."""
WORDS = "text_model.embeddings.token_embedding.weight"
SPOKEN = sorted({*PROMPT, *EMPTY_PROMPT})
"""Words of any prompt, by number; rows of the packed table."""
NEEDED_BYTES = 100_000_000
MADE_OF = "packed"
"""What the card of a model folder calls the SHA-256 of the packed one's card."""
Arrays = Mapping[str, NDArray[np.floating]]


def unpack_miniature(packed: Path, out: Path) -> None:
    """Write the model folder `out`, which appears complete or not at all; the same bytes every time.

    Raises:
        UserError: `out` holds files or cannot be made, or `packed` is no packed miniature, or a damaged one.
        RunError: the disk is too full.
    """
    card = _packed_card(packed)
    for file, entry in card["files"].items():
        _check_packed(packed / file, entry["sha256"])
    with appearing_folder(out, needed_bytes=NEEDED_BYTES) as folder:
        files = {
            file: entry | _unpack(packed / file, folder / file).entry()
            for file, entry in card["files"].items()
        }
        write_card(folder, card | {"files": files, MADE_OF: _digest(card)})


def is_unpacked(models: Path, packed: Path) -> bool:
    """Whether the model folder `models` was made of `packed` as that is now; cards are compared, not files.

    Raises:
        UserError: `packed` is no packed miniature, or a card cannot be read.
    """
    card = read_card(models)
    return card is not None and card.get(MADE_OF) == _digest(_packed_card(packed))


def _packed_card(packed: Path) -> dict[str, Any]:
    card = read_card(packed)
    if card is None:
        raise UserError(f"{packed} has no {CARD}: give a folder that the miniature was packed into")
    if card["kind"] != "miniature" or MADE_OF in card:
        raise UserError(
            f"{packed} holds a model folder and no packed miniature: give a folder that one was packed into"
        )
    return card


def _digest(card: dict[str, Any]) -> str:
    return hashlib.sha256(json_bytes(card)).hexdigest()


def _check_packed(path: Path, sha256: str) -> None:
    try:
        found = sha256_file(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): put it back, or install d2r-fast again"
        ) from None
    if found != sha256:
        raise UserError(
            f"{path} is not the file that {CARD} lists, which was packed: put that back (by `git lfs pull` where this "
            "is a pointer to it), or install d2r-fast again"
        )


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
