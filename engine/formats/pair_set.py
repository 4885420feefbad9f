"""Verification sets, NAME.bin, of a list of pairs and the images of a source.

A line is two images as <identity>/<name> and 1 or 0, or "id i j" for one person and "id i other j" for two, as LFW
and RFW have them: there image i of an identity is the one called i, id_i or id_000i. A first line of numbers alone is
LFW's head.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.formats.contents import contents
from d2r_fast.engine.formats.listing import Entry, Listing, Person
from d2r_fast.recognition.evaluation.bin_file import write_bin

_WANTED = 'wanted is "<identity>/<name> <identity>/<name> 1 or 0", "id i j" or "id i other j"'
_SAME = {"1": True, "0": False}

Pair = tuple[Entry, Entry, bool]


def write_pairs(out: Path, listing: Listing, pairs: Path) -> int:
    """Write the pairs of the file `pairs` to `out`, in their order; how many there are.

    Raises:
        UserError: a line is malformed or names an image that there is not, or one cannot be read.
        RunError: the disk is full.
    """
    found = read_pairs(pairs, {person.name: person for person in listing.people})
    wanted = {id(entry): entry for first, second, _ in found for entry in (first, second)}
    files = {id(entry): data for entry, data in contents(wanted.values())}
    images = [files[id(entry)] for first, second, _ in found for entry in (first, second)]
    write_bin(out, images, [same for *_, same in found])
    return len(found)


def read_pairs(path: Path, people: Mapping[str, Person]) -> list[Pair]:
    """The pairs that a file lists; an image that occurs several times is one entry.

    Raises:
        UserError: the file cannot be read or holds no pair, or a line is wrong; with its number.
    """
    images = _Images(people)
    pairs = [_pair(values, images, f"{path} line {number}") for number, values in _lines(path)]
    if not pairs:
        raise UserError(f"{path} holds no pair: {_WANTED}")
    return pairs


class _Images:
    """Images by identity and name or number, looked up identity by identity."""

    def __init__(self, people: Mapping[str, Person]) -> None:
        self._people = people
        self._listed: dict[str, dict[str, Entry]] = {}

    def named(self, path: str, where: str) -> Entry:
        """The image <identity>/<name>, of which the last two parts count."""
        parts = PurePath(path).parts[-2:]
        entry = self._of(parts[0], where).get(parts[-1]) if len(parts) == 2 else None
        if entry is None:
            raise UserError(f"{where}: there is no image {path} in the source: correct the list")
        return entry

    def numbered(self, identity: str, number: str, where: str) -> Entry:
        """Image i of an identity."""
        called = {number, f"{identity}_{number}", f"{identity}_{int(number):04d}"}
        found = [entry for name, entry in self._of(identity, where).items() if PurePath(name).stem in called]
        if len(found) != 1:
            raise UserError(
                f"{where}: identity {identity} has {len(found)} images that could be number {number}: name them as "
                "<identity>/<name>"
            )
        return found[0]

    def _of(self, identity: str, where: str) -> dict[str, Entry]:
        if identity not in self._listed:
            if identity not in self._people:
                raise UserError(f"{where}: there is no identity {identity} in the source: correct the list")
            self._listed[identity] = {entry.name: entry for entry in self._people[identity]}
        return self._listed[identity]


def _pair(values: list[str], images: _Images, where: str) -> Pair:
    match values:
        case [first, second, same] if same in _SAME and "/" in first and "/" in second:
            return images.named(first, where), images.named(second, where), _SAME[same]
        case [identity, i, j] if i.isdecimal() and j.isdecimal():
            return images.numbered(identity, i, where), images.numbered(identity, j, where), True
        case [identity, i, other, j] if i.isdecimal() and j.isdecimal():
            return images.numbered(identity, i, where), images.numbered(other, j, where), False
    raise UserError(f"{where} is {' '.join(values)!r:.80}: {_WANTED}")


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and values of each line that has any; tabs or commas part them where there are, else spaces."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        raise UserError(f"pairs {path} cannot be read ({reason}): give a list of pairs") from None
    for number, line in enumerate(lines, start=1):
        parting = next((mark for mark in ("\t", ",") if mark in line), None)
        values = [value.strip() for value in line.split(parting)]
        is_head = number == 1 and len(values) <= 2 and all(map(str.isdecimal, values))
        if line.strip() and not is_head:
            yield number, values
