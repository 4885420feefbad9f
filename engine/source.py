"""Where renders come from: a folder with one sub-folder of images per identity, as DigiFace-1M is laid out.

    source = open_source("digiface")
    for identity in source.identities[:10]:
        data = source.read(identity.images[0])

Opening lists the identity folders alone; the images of an identity are listed when first asked for. So a run
over 100 of 110,000 identities reads 101 folders, which counts on a network file system.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from sys import intern
from typing import overload

from d2r_fast.engine.errors import UserError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
LAYOUT = "give a folder of renders laid out as <identity>/<image>.png"
IMAGES = "give a folder of images, or of folders of images"


@dataclass(frozen=True, slots=True)
class Image:
    """One render: `name` is its file name, `path` where it lies."""

    identity: str
    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Identity:
    """A person: the folder's name, byte for byte, and its renders in natural order."""

    name: str
    images: Sequence[Image]


class FolderSource:
    """Identities of a folder in natural order: '2' < '10' < '10a'; '001' and '1' are two identities.

    Sub-folders are identities, links to folders too; exactly two levels are read, so links cannot loop.
    Hidden entries and loose files at the top are ignored, and in an identity's folder everything that is not
    named like an image. A sub-folder without images is an identity without images, not an absent one.

    Raises:
        UserError: `root` is missing, not a folder, empty, unreadable or laid out otherwise.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        names, has_images = _scan_root(self.root)
        if not names:
            found = "holds images but no identity folders" if has_images else "holds no identity folders"
            raise UserError(f"source {self.root} {found}: {LAYOUT}")
        self.identities = tuple(Identity(name, _FolderImages(os.fspath(self.root), name)) for name in names)
        if not any(identity.images for identity in self.identities):
            raise UserError(_no_images(self.root, names))

    def read(self, image: Image) -> bytes:
        """The file's bytes.

        Raises:
            OSError: it cannot be read, which is this image's problem alone.
        """
        return image.path.read_bytes()

    @property
    def num_images(self) -> int:
        """Images of all identities; lists every folder."""
        return sum(len(identity.images) for identity in self.identities)


class FlatSource:
    """Images that lie loose in one folder, each an identity of its own: photographs without labels."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        names = _scan_identity(os.fspath(root))
        self.identities = tuple(Identity(name, (Image(name, name, self.root / name),)) for name in names)

    def read(self, image: Image) -> bytes:
        """The file's bytes.

        Raises:
            OSError: it cannot be read, which is this image's problem alone.
        """
        return image.path.read_bytes()

    @property
    def num_images(self) -> int:
        return len(self.identities)


Source = FolderSource | FlatSource


def open_source(path: str | os.PathLike[str]) -> FolderSource:
    """Open the renders at `path`.

    Raises:
        UserError: as FolderSource does.
    """
    return FolderSource(path)


def open_images(path: str | os.PathLike[str], *, option: str = "source") -> Source:
    """Open the images at `path`, where labels do not matter: identity folders, or loose images.

    Args:
        option: what the folder is called on the command line.

    Raises:
        UserError: as FolderSource does.
    """
    root = Path(path)
    if not root.is_dir():
        found = "is a file" if root.exists() else "does not exist"
        raise UserError(f"{option} {root} {found}: {IMAGES}")
    names, has_images = _scan_root(root)
    if not names and not has_images:
        raise UserError(f"{option} {root} holds no images: {IMAGES}")
    return FlatSource(root) if has_images and not names else FolderSource(root)


def fingerprint(identities: Iterable[Identity]) -> str:
    """SHA-256 of the identities' names and their images' names, in order: what a run draws its sources from.

    Contents are not read, which for a million files on a network file system would take long. File names hold
    neither NUL nor '/', so they separate names and identities without ambiguity.
    """
    digest = hashlib.sha256()
    for identity in identities:
        names = _names(identity)
        digest.update("\0".join([identity.name, *names]).encode() + b"/")
    return digest.hexdigest()


def natural_key(name: str) -> tuple[tuple[str | int, ...], str]:
    """Sort key: runs of ASCII digits compare as numbers, the rest as code points, ties by the name itself."""
    return _tokens(name), name


# File names repeat from identity to identity (0.png ... 71.png).
@lru_cache(maxsize=4096)
def _tokens(name: str) -> tuple[str | int, ...]:
    # The split alternates text, digits, text, ...: positions always compare like with like.
    return tuple(int(t) if i % 2 else t for i, t in enumerate(re.split(r"([0-9]+)", name)))


class _FolderImages(Sequence[Image]):
    """Renders of one identity: listed at first use, kept as interned names, made into Images when taken."""

    __slots__ = ("_identity", "_listed", "_root")

    def __init__(self, root: str, identity: str) -> None:
        self._root = root
        self._identity = identity
        self._listed: tuple[str, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        if self._listed is None:
            self._listed = _scan_identity(os.path.join(self._root, self._identity))  # noqa: PTH118 (hot)
        return self._listed

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Image]:
        return map(self._image, self.names)

    @overload
    def __getitem__(self, index: int) -> Image: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Image, ...]: ...
    def __getitem__(self, index: int | slice) -> Image | tuple[Image, ...]:
        if isinstance(index, slice):
            return tuple(self._image(name) for name in self.names[index])
        return self._image(self.names[index])

    def _image(self, name: str) -> Image:
        return Image(self._identity, name, Path(self._root, self._identity, name))


def _names(identity: Identity) -> Iterable[str]:
    images = identity.images
    return images.names if isinstance(images, _FolderImages) else [image.name for image in images]


def _scan_root(root: Path) -> tuple[list[str], bool]:
    """Names of the identity folders in natural order, and whether loose images lie beside them."""
    folders: list[str] = []
    has_images = False
    for entry in _entries(root):
        if _holds(entry.is_dir):
            folders.append(_checked(entry))
        else:
            has_images = has_images or _is_image(entry.name)
    return sorted(folders, key=natural_key), has_images


def _scan_identity(folder: str) -> tuple[str, ...]:
    # A broken link is listed, so that reading it fails in the open; a pipe is not, reading it would block.
    names = [
        intern(_checked(entry))
        for entry in _entries(Path(folder))
        if _is_image(entry.name) and (entry.is_symlink() or _holds(entry.is_file))
    ]
    return tuple(sorted(names, key=natural_key))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except FileNotFoundError:
        raise UserError(f"source {folder} does not exist: {LAYOUT}") from None
    except NotADirectoryError:
        raise UserError(f"source {folder} is a file: {LAYOUT}") from None
    except OSError as error:
        raise UserError(f"source {folder} cannot be read ({error.strerror}): {LAYOUT}") from None


def _holds(question: Callable[[], bool]) -> bool:
    """The entry's answer; no where it cannot be had, as of a link that leads to itself."""
    try:
        return question()
    except OSError:
        return False


def _checked(entry: os.DirEntry[str]) -> str:
    """The entry's name, which goes into UTF-8 files and so must be UTF-8 itself."""
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        path = entry.path.encode(errors="backslashreplace").decode()
        raise UserError(f"source file name {path} is not UTF-8: rename it") from None
    return entry.name


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 (1.2 million names)


def _no_images(root: Path, names: list[str]) -> str:
    """What to say where no identity folder holds an image; most often the folder one level up was given."""
    for name in names:
        for entry in _entries(root / name):
            if _holds(entry.is_dir):
                return f"source {root} holds folders of folders: did you mean {root / name}? ({LAYOUT})"
    return f"source {root} holds {len(names)} identity folders and not one image: {LAYOUT}"
