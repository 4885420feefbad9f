"""Identities to look at: each one's renders beside the images made from them, as small inline pictures."""

import base64
import io
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from d2r_fast.engine.decode import DecodeError, decode
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.marker import ShardFiles, kind_of
from d2r_fast.engine.rows import ROWS, AnyImageRow, IdentityRow, ImageRow, Row
from d2r_fast.engine.source import Source, open_source
from d2r_fast.engine.summary import Summary

PICTURE_SIZE = 112
MAX_COLUMNS = 10
MAX_IMAGES = 40
"""Images shown of one identity at most."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One wanted image: its row, and its picture as a data URI, or None where there is none."""

    row: AnyImageRow
    picture: str | None


@dataclass(slots=True)
class Group:
    """One render and the images drawn from it."""

    name: str
    picture: str | None
    tiles: list[Tile] = field(default_factory=list)

    @property
    def num_columns(self) -> int:
        """Pictures that stand side by side where there is room."""
        return min(1 + len(self.tiles), MAX_COLUMNS)

    @property
    def t(self) -> float | None:
        """The t of its latent, which its images share; translated ones have none."""
        row = self.tiles[0].row if self.tiles else None
        return row.t if isinstance(row, ImageRow) else None


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One identity: its row, its groups, and how many images failed for want of a render or are not shown."""

    row: IdentityRow
    groups: list[Group]
    num_failed: int
    num_hidden: int

    @property
    def num_columns(self) -> int:
        """As many as the largest of its groups has."""
        return max((group.num_columns for group in self.groups), default=1)

    @property
    def mean_cosine(self) -> float | None:
        """Mean cosine to the prototype over the images shown."""
        rows = [tile.row for group in self.groups for tile in group.tiles]
        cosines = [row.cos_prototype for row in rows if isinstance(row, ImageRow)]
        known = [cosine for cosine in cosines if cosine is not None]
        return float(np.mean(known)) if known else None


def exhibits(summary: Summary, *, limit: int, renders: Source | None = None) -> list[Exhibit]:
    """Up to `limit` identities, evenly spread over the finished shards, in the order of their labels.

    Raises RunError where a shard's files are damaged.
    """
    shown = []
    for shard, labels in _choose(summary, limit).items():
        files = ShardFiles.of(shard)
        identities = _rows(IdentityRow, summary.folder / files.identities, labels)
        rows = _rows(ROWS[kind_of(summary.document)], summary.folder / files.rows, labels)
        by_label: dict[int, list[AnyImageRow]] = defaultdict(list)
        for row in rows:
            by_label[row.label].append(row)
        drawn = {label: [row for row in by_label[label] if row.source is not None] for label in labels}
        visible = {label: found[:MAX_IMAGES] for label, found in drawn.items()}
        images = _read_images(summary, shard, [row for found in visible.values() for row in found])
        for identity in identities:
            label = identity.label
            groups = _group(renders, identity, visible[label], images)
            num_failed = len(by_label[label]) - len(drawn[label])
            shown.append(Exhibit(identity, groups, num_failed, len(drawn[label]) - len(visible[label])))
    return shown


def open_renders(path: Path | None) -> Source | None:
    """The source that a dataset was made from; None where it is gone, or nobody knows where it was."""
    if path is None:
        return None
    try:
        return open_source(path)
    except UserError:
        return None


def render_picture(source: Source | None, identity: str, name: str) -> str | None:
    """A render as a data URI; None where it is gone or unreadable."""
    if source is None:
        return None
    try:
        return picture(source.read(source.image(identity, name)))
    except OSError:
        return None


def picture(data: bytes) -> str | None:
    """An image file as a small data URI; None where it is no image."""
    try:
        image = Image.fromarray(decode(data))
    except DecodeError:
        return None
    image.thumbnail((PICTURE_SIZE, PICTURE_SIZE))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=84, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _choose(summary: Summary, limit: int) -> dict[int, list[int]]:
    """Labels to show, by shard."""
    plan = summary.document["plan"]
    size, total = int(plan["identities_per_shard"]), int(plan["num_identities"])
    sizes = [min(size, total - shard * size) for shard in summary.shards]
    ends = np.cumsum(sizes)
    num = int(ends[-1]) if sizes else 0
    chosen: dict[int, list[int]] = defaultdict(list)
    for place in np.linspace(0, num - 1, min(limit, num)).round().astype(int):
        index = int(np.searchsorted(ends, place, side="right"))
        shard = summary.shards[index]
        chosen[shard].append(shard * size + int(place - ends[index] + sizes[index]))
    return chosen


def _rows(kind: type[Row], path: Path, labels: Sequence[int]) -> list[Row]:
    table = pq.read_table(path, filters=[("label", "in", list(labels))], partitioning=None, use_threads=False)
    return [kind(**row) for row in table.to_pylist()]


def _read_images(summary: Summary, shard: int, rows: Iterable[AnyImageRow]) -> dict[str, str | None]:
    """Pictures by key, of the rows that are written."""
    suffix = summary.document["recipe"]["image_format"]
    wanted = {row.key: row for row in rows if row.status == "written"}
    if summary.document["format"] == "imagefolder":
        paths = {key: summary.folder / row.identity / row.file_name(suffix) for key, row in wanted.items()}
        return {key: picture(path.read_bytes()) for key, path in paths.items()}
    return _read_tar(summary.folder / ShardFiles.of(shard).tar, {f"{key}.{suffix}": key for key in wanted})


def _read_tar(path: Path, members: dict[str, str]) -> dict[str, str | None]:
    """Pictures by key from the members of a tar; the others are stepped over unread."""
    found: dict[str, str | None] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            while len(found) < len(members) and (member := tar.next()) is not None:
                if member.name in members and (file := tar.extractfile(member)) is not None:
                    found[members[member.name]] = picture(file.read())
    except tarfile.TarError as error:
        raise RunError(f"{path} is damaged ({error}): see `d2r-fast verify {path.parent}`") from error
    return found


def _group(
    renders: Source | None, identity: IdentityRow, rows: Iterable[AnyImageRow], images: dict[str, str | None]
) -> list[Group]:
    """Images by the render they are drawn from, in the order of the identity's sources."""
    person = identity.identity
    groups = {name: Group(name, render_picture(renders, person, name)) for name in identity.sources}
    for row in rows:
        assert row.source is not None, "images without a render are not shown"
        group = groups.setdefault(row.source, Group(row.source, None))
        group.tiles.append(Tile(row, images.get(row.key)))
    return list(groups.values())
