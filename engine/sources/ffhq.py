"""FFHQ's layout (Karras et al., 2019): 00000/00000.png to 69000/69999.png, folders of a thousand, not of a person.

It is taken for that where every folder is named by five digits, a multiple of a thousand, and every image in it by
five digits of that thousand, each once. Then each image is a person of its own, called by its five digits.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath

_THOUSAND = re.compile(r"[0-9]{2}000")
_NUMBER = re.compile(r"[0-9]{5}")


def may_be_ffhq(folders: Iterable[str]) -> bool:
    """Whether the folders alone look like it."""
    return all(map(_THOUSAND.fullmatch, folders))


def is_ffhq(folders: Iterable[tuple[str, Sequence[str]]]) -> bool:
    """Whether these folders, each with the names of its images, are laid out like FFHQ."""
    return all(_is_thousand(folder, names) for folder, names in folders)


def person(name: str) -> str:
    """Whom an image shows."""
    return PurePath(name).stem


def thousand(person: str) -> str:
    """The folder of a person."""
    return f"{person[:2]}000"


def _is_thousand(folder: str, names: Sequence[str]) -> bool:
    numbers = {person(name) for name in names}
    belong = all(_NUMBER.fullmatch(number) and number[:2] == folder[:2] for number in numbers)
    return bool(_THOUSAND.fullmatch(folder)) and belong and 0 < len(numbers) == len(names)
