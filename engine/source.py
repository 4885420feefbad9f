"""Where images come from: one interface, whatever form they lie in on disk.

    source = open_source("digiface.zip")
    for identity in source.identities[:10]:
        data = source.read(identity.images[0])

Every form is read in place, nothing is unpacked: folders, DigiFace's zips, WebDataset tars, our own datasets,
InsightFace's RecordIO, FFHQ's folders of thousands, parquet with image files in it. `sources.forms` says which form
a path has. Identities and images stand in natural order, so a zip gives what the folder gives that it was made from.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol, overload

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})


@dataclass(frozen=True, slots=True)
class Image:
    """One image: `name` is its file name, `path` where it lies, for people: in an archive no file is there.

    Its bytes come from `Source.read` alone.
    """

    identity: str
    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Identity:
    """A person: the name, byte for byte, and the images in natural order."""

    name: str
    images: Sequence[Image]


class Source(Protocol):
    """Images by identity, in any form.

    Attributes:
        root: what was opened.
        identities: in natural order; their images are listed when first asked for, where that takes a while.
    """

    @property
    def root(self) -> Path: ...
    @property
    def identities(self) -> Sequence[Identity]: ...

    @property
    def name(self) -> str:
        """What datasets made from it call it: the folder's name, an archive's without its suffix."""

    @property
    def num_images(self) -> int:
        """Images of all identities; lists them all."""

    def image(self, identity: str, name: str) -> Image:
        """The image of this name. That it is not there shows when it is read."""

    def read(self, image: Image) -> bytes:
        """The image file's bytes; from any number of threads, and in processes forked after opening.

        Raises:
            OSError: it cannot be read, which is this image's problem alone; `strerror` says why.
        """


def open_source(path: str | os.PathLike[str]) -> Source:
    """Open the labelled images at `path`.

    Raises:
        UserError: nothing of a known form is there, it is damaged, or holds images without identities.
    """
    from d2r_fast.engine.sources.forms import open_form  # here, since the forms build upon this module

    return open_form(Path(path), option="source", labelled=True)


def open_images(path: str | os.PathLike[str], *, option: str = "source") -> Source:
    """Open the images at `path` where labels do not matter: those without become an identity each.

    Args:
        option: what the path is called on the command line.

    Raises:
        UserError: nothing of a known form is there, it is damaged, or holds no images.
    """
    from d2r_fast.engine.sources.forms import open_form

    return open_form(Path(path), option=option, labelled=False)


class ImageNames(Sequence[Image]):
    """Images of one identity, of which only the names are kept: an Image is made when taken."""

    __slots__ = ()

    @property
    def names(self) -> Sequence[str]:
        """File names in natural order."""
        raise NotImplementedError

    def locate(self, name: str) -> Image:
        """The image of this name."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Image]:
        return map(self.locate, self.names)

    @overload
    def __getitem__(self, index: int) -> Image: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Image, ...]: ...
    def __getitem__(self, index: int | slice) -> Image | tuple[Image, ...]:
        if isinstance(index, slice):
            return tuple(map(self.locate, self.names[index]))
        return self.locate(self.names[index])


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


def is_image(name: str) -> bool:
    """Whether a file of this name, which does not begin with a dot, is an image: by its suffix."""
    return name[name.rfind(".") :].lower() in SUFFIXES


# File names repeat from identity to identity (0.png ... 71.png).
@lru_cache(maxsize=4096)
def _tokens(name: str) -> tuple[str | int, ...]:
    # The split alternates text, digits, text, ...: positions always compare like with like.
    return tuple(int(t) if i % 2 else t for i, t in enumerate(re.split(r"([0-9]+)", name)))


def _names(identity: Identity) -> Iterable[str]:
    images = identity.images
    return images.names if isinstance(images, ImageNames) else [image.name for image in images]
