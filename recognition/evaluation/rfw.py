"""RFW, Racial Faces in-the-Wild: pairs of one race each, four races.

    data/<Race>/<id>/<id>_000k.jpg
    txts/<Race>/<Race>_pairs.txt    "id i j": one person; "id i other j": two
    txts/<Race>/<Race>_lmk.txt      path, label, x1 y1 ... x5 y5

both in a folder `test` or not. Images are loose photographs, aligned here by the listed landmarks. The same pairs
go round as <Race>_test.bin. Folds are contiguous in the order of the file, as for the .bin sets.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.evaluation.crops import LooseCrops
from d2r_fast.recognition.evaluation.pairs import Pairs

_ROW = 'wanted is "id number number" or "id number id number"'


@dataclass(frozen=True)
class RfwFolder:
    """The folder that holds `data` and `txts`."""

    folder: Path

    def pairs(self, race: str) -> Path:
        return self.folder / "txts" / race / f"{race}_pairs.txt"

    def landmarks(self, race: str) -> Path:
        return self.folder / "txts" / race / f"{race}_lmk.txt"

    def images(self, race: str) -> Path:
        return self.folder / "data" / race


def read_rfw(files: RfwFolder, race: str) -> Pairs:
    """The pairs of one race; images are read later, each once.

    Raises:
        UserError: a file is missing or malformed, or an image of a pair has no landmarks; with the first line.
    """
    points = _landmarks(files.landmarks(race))
    names: list[str] = []
    same: list[bool] = []
    path = files.pairs(race)
    for number, values in _lines(path):
        pair = _pair(values)
        if pair is None:
            raise UserError(f"{path} line {number} is {' '.join(values)!r:.80}, {_ROW}: get it again")
        for name in pair:
            if name not in points:
                raise UserError(
                    f"{path} line {number} names {name}, which {files.landmarks(race).name} has no landmarks of: "
                    "get both again"
                )
        names += pair
        same.append(len(values) == 3)
    images = list(dict.fromkeys(names))
    place = {name: index for index, name in enumerate(images)}
    crops = LooseCrops(
        [files.images(race) / name for name in images], np.array([points[name] for name in images])
    )
    return Pairs(crops, np.array([place[name] for name in names]), np.array(same, bool))


def _pair(values: list[str]) -> tuple[str, str] | None:
    """Names <id>/<id>_000k.jpg of a pair; None where it is no pair."""
    if len(values) not in (3, 4):
        return None
    first, i, *other, j = values
    if not i.isdecimal() or not j.isdecimal():
        return None
    second = other[0] if other else first
    return _name(first, i), _name(second, j)


def _name(identity: str, number: str) -> str:
    return f"{identity}/{identity}_{int(number):04d}.jpg"


def _landmarks(path: Path) -> dict[str, list[list[float]]]:
    """Five points by <id>/<file>."""
    found = {}
    for number, (name, *numbers) in _lines(path):
        try:
            values = [float(value) for value in numbers[1:]]
        except ValueError:
            values = []
        if len(values) != 10:
            raise UserError(
                f"{path} line {number}: wanted are a path, a label and five points x y: get it again"
            )
        key = "/".join(Path(name).parts[-2:])
        found[key] = [values[place : place + 2] for place in range(0, 10, 2)]
    return found


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Number and values of each line that has any."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): get it again") from None
    rows = [(number, line.split()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise UserError(f"{path} is empty: get it again")
    return rows
