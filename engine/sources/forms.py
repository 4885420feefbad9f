"""Which form a path has, by what is there: names alone are looked at.

A file is what its suffix says. In a folder, dataset.json makes it one of our datasets and train.rec or train.idx one
of InsightFace's. Then folders with images in them count, as identities or as FFHQ's thousands; then zips, tars or
parquet files, of which there may be several; then loose images.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.marker import DOCUMENT, WORKERS, read_document
from d2r_fast.engine.source import Source, is_image
from d2r_fast.engine.sources.ffhq import is_ffhq, may_be_ffhq, person
from d2r_fast.engine.sources.folder import (
    LAYOUT,
    PACKED,
    FolderSource,
    LooseSource,
    open_loose,
    scan_identity,
    scan_root,
)

IMAGES = "give a folder of images, or of folders of images, or a .zip, .tar or .parquet of them"
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_RECORDS = ("train.rec", "train.idx")


def open_form(path: Path, *, option: str, labelled: bool) -> Source:
    """Open what is at `path`.

    Args:
        option: what the path is called on the command line.
        labelled: whether every image must have an identity; otherwise those without become one each.

    Raises:
        UserError: nothing of a known form is there, it is damaged, or holds no images of the wanted kind.
    """
    if path.is_file():
        return _open_file(path, option=option, labelled=labelled)
    folders, files = scan_root(path, option, LAYOUT if labelled else IMAGES)
    if DOCUMENT in files and _is_ours(path):
        return _open_dataset(path, folders)
    if any(name in files for name in _RECORDS):
        return _open_records(path)
    packed = [path / name for name in files if _kind(name)]
    if packed and not any(scan_identity(path / folder) for folder in folders):
        return _open_packed(path, packed, labelled=labelled)
    if folders:
        return _open_folders(path, folders)
    has_images = any(map(is_image, files))
    if labelled:
        found = "holds images but no identity folders" if has_images else "holds no identity folders"
        raise UserError(f"{option} {path} {found}: {LAYOUT}")
    if not has_images:
        raise UserError(f"{option} {path} holds no images: {IMAGES}")
    return open_loose(path)


def _kind(name: str) -> str | None:
    """Suffix of an archive; None where a file of this name is none."""
    return next((kind for kind in PACKED if name.lower().endswith(kind)), None)


def _open_file(path: Path, *, option: str, labelled: bool) -> Source:
    if path.name in _RECORDS:
        return _open_records(path.parent)
    if path.name.lower().endswith(_COMPRESSED):
        raise UserError(
            f"{option} {path} is a compressed tar, which cannot be read in place: unpack it to a .tar"
        )
    if _kind(path.name) is None:
        raise UserError(f"{option} {path} is a file: {LAYOUT if labelled else IMAGES}")
    return _open_packed(path, [path], labelled=labelled)


def _open_packed(root: Path, paths: Sequence[Path], *, labelled: bool) -> Source:
    """Zips, tars or parquet files."""
    kinds = {_kind(path.name) for path in paths}
    if len(kinds) > 1:
        raise UserError(
            f"source {root} holds files of several kinds ({', '.join(sorted(map(str, kinds)))}): give a folder of one "
            "kind"
        )
    kind = kinds.pop()
    if kind == ".zip":
        from d2r_fast.engine.sources.zips import open_zips  # what opens a form is imported when it is needed

        return open_zips(root, paths, labelled=labelled)
    if kind == ".tar":
        from d2r_fast.engine.sources.tars import open_tars

        return open_tars(root, paths, labelled=labelled)
    from d2r_fast.engine.sources.tables import open_tables

    return open_tables(root, paths, labelled=labelled)


def _open_folders(root: Path, folders: Sequence[str]) -> Source:
    """Folders of identities, or FFHQ's, where that is what they are."""
    if may_be_ffhq(folders):
        listed = [(folder, scan_identity(root / folder)) for folder in folders]
        if is_ffhq(listed):
            return LooseSource(
                root, {person(name): root / folder / name for folder, names in listed for name in names}
            )
    return FolderSource(root, folders)


def _is_ours(root: Path) -> bool:
    """Whether dataset.json is a document of ours, be it damaged; other programs have files of that name too."""
    try:
        document = json.loads((root / DOCUMENT).read_bytes())
    except (OSError, ValueError, RecursionError):
        return True
    return isinstance(document, dict) and "plan" in document


def _open_dataset(root: Path, folders: Sequence[str]) -> Source:
    """A dataset of ours: its tars by their tables, its folders as folders."""
    from d2r_fast.engine.sources.datasets import open_dataset_tars

    if read_document(root).get("format") == "webdataset":
        return open_dataset_tars(root)
    return FolderSource(root, [name for name in folders if name != WORKERS])


def _open_records(root: Path) -> Source:
    from d2r_fast.engine.sources.records import open_records

    return open_records(root)
