"""Images as files of folders: one sub-folder per identity, as DigiFace-1M is laid out, or all loose in one.

Opening lists the identity folders alone; the images of an identity are listed when first asked for. So a run
over 100 of 110,000 identities reads 101 folders, which counts on a network file system.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from sys import intern

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.source import Identity, Image, ImageNames, is_image, natural_key

PACKED = (".zip", ".tar", ".parquet")
"""Suffixes of files that hold images."""
LAYOUT = (
    "give a folder of renders laid out as <identity>/<image>.png, a .zip, .tar or .parquet of them, or a folder of "
    "such files"
)


class FolderSource:
    """Identities of a folder in natural order: '2' < '10' < '10a'; '001' and '1' are two identities.

    Sub-folders are identities, links to folders too; exactly two levels are read, so links cannot loop.
    Hidden entries and loose files at the top are ignored, and in an identity's folder everything that is not
    named like an image. A sub-folder without images is an identity without images, not an absent one.

    Raises:
        UserError: no folder has an image in it, or one cannot be read.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.name = root, root.resolve().name
        self.identities = tuple(Identity(name, _FolderImages(os.fspath(root), name)) for name in names)
        if not any(identity.images for identity in self.identities):
            raise UserError(_no_images(root, names))

    @property
    def num_images(self) -> int:
        return sum(len(identity.images) for identity in self.identities)

    def image(self, identity: str, name: str) -> Image:
        return Image(identity, name, self.root / identity / name)

    def read(self, image: Image) -> bytes:
        return image.path.read_bytes()


class LooseSource:
    """Files that are an identity each: loose images of one folder, or FFHQ's in folders of a thousand.

    Args:
        paths: of the files by identity, in natural order.
    """

    def __init__(self, root: Path, paths: dict[str, Path]) -> None:
        self.root, self.name = root, root.resolve().name
        self.identities = tuple(
            Identity(name, (Image(name, path.name, path),)) for name, path in paths.items()
        )
        self._paths = paths

    @property
    def num_images(self) -> int:
        return len(self.identities)

    def image(self, identity: str, name: str) -> Image:
        folder = self._paths[identity].parent if identity in self._paths else self.root
        return Image(identity, name, folder / name)

    def read(self, image: Image) -> bytes:
        return image.path.read_bytes()


def open_loose(root: Path) -> LooseSource:
    """The loose images of a folder; each is called like its file."""
    return LooseSource(root, {name: root / name for name in scan_identity(root)})


class _FolderImages(ImageNames):
    """Images of one identity, listed at first use."""

    __slots__ = ("_identity", "_listed", "_root")

    def __init__(self, root: str, identity: str) -> None:
        self._root = root
        self._identity = identity
        self._listed: tuple[str, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        if self._listed is None:
            self._listed = scan_identity(os.path.join(self._root, self._identity))  # noqa: PTH118 (hot)
        return self._listed

    def locate(self, name: str) -> Image:
        # Joined first: pathlib interns the parts of what it is given, and would keep every identity's name for good.
        return Image(self._identity, name, Path(os.path.join(self._root, self._identity, name)))  # noqa: PTH118


def scan_root(root: Path, option: str, advice: str) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in `root`, each in natural order; hidden ones are left out."""
    folders: list[str] = []
    files: list[str] = []
    for entry in _entries(root, option, advice):
        (folders if _holds(entry.is_dir) else files).append(entry.name)
    for name in folders:
        _check(root, name)
    return sorted(folders, key=natural_key), sorted(files, key=natural_key)


def scan_identity(folder: str | Path) -> tuple[str, ...]:
    """Names of the images in a folder, in natural order."""
    # A broken link is listed, so that reading it fails in the open; a pipe is not, reading it would block.
    names = [
        intern(_check(folder, entry.name))
        for entry in _entries(folder)
        if is_image(entry.name) and (entry.is_symlink() or _holds(entry.is_file))
    ]
    return tuple(sorted(names, key=natural_key))


def _entries(folder: str | Path, option: str = "source", advice: str = LAYOUT) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except FileNotFoundError:
        raise UserError(f"{option} {folder} does not exist: {advice}") from None
    except NotADirectoryError:
        raise UserError(f"{option} {folder} is a file: {advice}") from None
    except OSError as error:
        raise UserError(f"{option} {folder} cannot be read ({error.strerror}): {advice}") from None


def _holds(question: Callable[[], bool]) -> bool:
    """The entry's answer; no where it cannot be had, as of a link that leads to itself."""
    try:
        return question()
    except OSError:
        return False


def _check(folder: str | Path, name: str) -> str:
    """The name, which goes into UTF-8 files and so must be UTF-8 itself."""
    try:
        name.encode()
    except UnicodeEncodeError:
        path = os.path.join(folder, name).encode(errors="backslashreplace").decode()  # noqa: PTH118 (may be bytes)
        raise UserError(f"source file name {path} is not UTF-8: rename it") from None
    return name


def _no_images(root: Path, names: Sequence[str]) -> str:
    """What to say where no identity folder holds an image; most often the folder one level up was given."""
    for name in names:
        for entry in _entries(root / name):
            if _holds(entry.is_dir):
                return f"source {root} holds folders of folders: did you mean {root / name}? ({LAYOUT})"
            if entry.name.lower().endswith(PACKED):
                return f"source {root} holds a folder of archives: did you mean {root / name}? ({LAYOUT})"
    return f"source {root} holds {len(names)} identity folders and not one image: {LAYOUT}"
