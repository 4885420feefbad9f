"""Tars of images: WebDatasets, or a folder of identities in a tar.

In a WebDataset the members of a sample share their name up to the first dot. Whom it shows is "identity" of its
.json, else its .cls, else "label" of its .json. A tar without these reads as the folder that it would unpack to.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.open_files import OpenFiles
from d2r_fast.engine.source import SUFFIXES
from d2r_fast.engine.sources.packed import DamagedImage, Entries, Files, PackedSource, check_identity
from d2r_fast.engine.sources.tar_members import Member, tar_members
from d2r_fast.engine.sources.tree import Folders, Placed, check_name, is_wanted, place


def open_tars(root: Path, paths: Sequence[Path], *, labelled: bool) -> PackedSource:
    """Open tars, whose identities count as of one set; an image name that an identity has twice is refused.

    Raises:
        UserError: a tar cannot be read, is damaged, holds members of unsafe names, samples without a label beside
            some with one, or no images.
    """
    entries, files = Entries(), OpenFiles(paths)
    folders = [_list(path, number, files, entries, labelled=labelled) for number, path in enumerate(paths)]

    def shown(file: int, identity: str, name: str) -> Path:
        return folders[file].path(paths[file], identity, name)

    return PackedSource(Files(root, paths, partial(read_part, files), shown), entries)


def read_part(files: OpenFiles, place: Sequence[int]) -> bytes:
    """An image that lies in a file as it is: its place is the file's number, an offset and a size.

    Raises:
        OSError: it cannot be read, or the file ends within it.
    """
    file, offset, size = place
    data = files.read(file, size, offset)
    if len(data) < size:
        raise DamagedImage("cut short in its archive")
    return data


def _list(path: Path, file: int, files: OpenFiles, entries: Entries, *, labelled: bool) -> Folders:
    """Add a tar's images; how its folders tell whom they show."""
    members = [(member.name.removeprefix("./"), member) for member in tar_members(path)]
    images = [(name, member) for name, member in members if is_wanted(name)]
    names = [name for name, _ in images]
    for name in names:
        check_name(name, path)
    try:
        labels = _labels(members, lambda member: files.read(file, member.size, member.offset))
    except OSError as error:
        raise UserError(f"source {path} cannot be read ({error.strerror}): copy it again") from None
    if labels:
        placed, folders = _samples(names, labels, path), Folders("", lambda _: "")
    else:
        placed, folders = place(names, path, labelled=labelled)
    for identity, name, number in placed:
        entries.add(identity, name, file, images[number][1].offset, images[number][1].size)
    return folders


def _labels(members: Sequence[tuple[str, Member]], read: Callable[[Member], bytes]) -> dict[str, str]:
    """Whom samples show, by their key, for those that say it."""
    said: dict[str, dict[str, str]] = {}
    for name, member in members:
        key, suffix = _split(name)
        if suffix not in _SIDECARS or not 0 < member.size <= _MAX_SIDECAR_BYTES:
            continue
        text = member.start if member.size <= len(member.start) else read(member)
        said.setdefault(key, {}).update(_SIDECARS[suffix](text))
    return {
        key: next(found[kind] for kind in _ORDER if kind in found) for key, found in said.items() if found
    }


def _of_cls(text: bytes) -> dict[str, str]:
    try:
        label = text.decode().strip()
    except UnicodeDecodeError:
        return {}
    return {"cls": label} if label else {}


def _of_json(text: bytes) -> dict[str, str]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    known = {key: document[key] for key in ("identity", "label") if type(document.get(key)) in (str, int)}
    return {key: str(value) for key, value in known.items() if value != ""}


_SIDECARS = {".cls": _of_cls, ".json": _of_json}
_ORDER = ("identity", "cls", "label")
_MAX_SIDECAR_BYTES = 1 << 20


def _split(name: str) -> tuple[str, str]:
    """A member's key and suffix, as WebDataset has them: the file's name is cut at its first dot."""
    folder, slash, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    return folder + slash + stem, (dot + suffix).lower()


def _samples(names: Sequence[str], labels: dict[str, str], path: Path) -> list[Placed]:
    """Images of samples by their labels; what else ends like an image (0001.mask.png) belongs to another."""
    found: list[Placed] = []
    for number, name in enumerate(names):
        key, suffix = _split(name)
        if suffix not in SUFFIXES:
            continue
        if key not in labels:
            raise UserError(
                f"sample {key} of {path} has no label, and others have: give each a .cls, or a .json with identity or "
                "label"
            )
        identity = check_identity(labels[key], f"sample {key} of {path}")
        found.append((identity, name.rpartition("/")[2], number))
    return found
