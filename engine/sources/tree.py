"""Whom the members of an archive show, where their folders say it: it reads as the folder that it would unpack to."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.source import is_image
from d2r_fast.engine.sources.ffhq import is_ffhq, may_be_ffhq, person, thousand
from d2r_fast.engine.sources.folder import LAYOUT

_HIDDEN = re.compile(r"(^|/)(\.(?!\.?/)|__MACOSX/)")
Placed = tuple[str, str, int]
"""Identity, file name, and which of the members it is."""


def is_wanted(name: str) -> bool:
    """Whether a member is an image that no folder hides; __MACOSX holds what macOS hides."""
    plain = not name.startswith(".") and "/." not in name and "__MACOSX/" not in name  # which nearly all are
    return is_image(name) and (plain or not _HIDDEN.search(name))


def check_name(name: str, archive: Path) -> None:
    """See that a wanted member has a name that a file below the archive's top can have, in UTF-8.

    Raises:
        UserError: it has not.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = name.encode(errors="backslashreplace").decode()
        raise UserError(f"member name {shown} of {archive} is not UTF-8: make the archive again") from None
    # A part that begins with a dot and is not hidden is '.' or '..'.
    if name.startswith(("/", ".")) or "/." in name or "//" in name or "\\" in name or "\0" in name:
        raise UserError(
            f"member name {name!r} of {archive} is unsafe (absolute, or with '..', '\\' or an empty part): make the "
            "archive again, from inside its folder"
        )


@dataclass(frozen=True, slots=True)
class Folders:
    """How the folders of an archive tell whom its images show.

    Attributes:
        top: folders that all of them lie in.
        folder: of an identity, below `top`.
    """

    top: str
    folder: Callable[[str], str]

    def path(self, archive: Path, identity: str, name: str) -> Path:
        """Where an image lies, for people."""
        return archive / self.top / self.folder(identity) / name


def place(names: Sequence[str], archive: Path, *, labelled: bool) -> tuple[list[Placed], Folders]:
    """Whom each image of an archive shows, by the names of all its images.

    Folders that all images lie in are stepped over (subjects_0-1999_72_imgs/0/0.png), down to the folder that tells
    identities apart. From there two levels count, as in a folder: what lies higher or deeper is left out. In FFHQ's
    layout each image is a person of its own, and so it is where nothing but loose images are, unless `labelled`.

    Raises:
        UserError: there is no image, or none in an identity's folder and they must be `labelled`.
    """
    top = _common_folders(names)
    found: list[Placed] = []
    loose: list[Placed] = []
    for number, name in enumerate(names):
        folder, slash, file = name[len(top) :].partition("/")
        if not slash:
            loose.append((folder, folder, number))
        elif "/" not in file:
            found.append((folder, file, number))
    if found and _are_thousands(found):
        people = [(person(name), name, number) for _, name, number in found]
        return people, Folders(top, thousand)
    if found:
        return found, Folders(top, str)
    if loose and not labelled:
        return loose, Folders(top, lambda _: "")
    kind = "images but no identity folders" if loose else "folders of folders" if names else "no images"
    raise UserError(f"source {archive} holds {kind}: {LAYOUT}")


def _are_thousands(found: list[Placed]) -> bool:
    """Whether the folders are FFHQ's."""
    if not may_be_ffhq({folder for folder, _, _ in found}):
        return False
    folders: dict[str, list[str]] = {}
    for folder, name, _ in found:
        folders.setdefault(folder, []).append(name)
    return is_ffhq(folders.items())


def _common_folders(names: Sequence[str]) -> str:
    """Folders that all images lie in, less the one that is their identity; "" or it ends in a slash."""
    if not names:
        return ""
    # What the first and the last in order share, all share.
    pairs = zip(min(names).split("/"), max(names).split("/"), strict=False)
    common = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    depth = max(min(name.count("/") for name in names) - 1, 0)
    return "".join(f"{folder}/" for folder in common[:depth])
