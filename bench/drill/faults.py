"""Faults of finished datasets, each at a random place: a deed done to a folder, which says where it was done."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from d2r_fast.engine.marker import ShardFiles, shard_number

Rng = np.random.Generator
Fault = Callable[[Path, Rng], str]
NUM_SHARDS = 3
BLOCK = 512
"""Bytes that a tar's headers and paddings come in."""


def flipped_bit(folder: Path, rng: Rng) -> str:
    """One bit of any file that a checksum stands for."""
    path = _file(folder, rng)
    _change(path, lambda data: _flip(data, int(rng.integers(len(data))), int(rng.integers(8))))
    return path.name


def lost_page(folder: Path, rng: Rng) -> str:
    """Zeros where there was something, as after a power cut."""
    path = _file(folder, rng)
    data = path.read_bytes()
    size = min(len(data), 256)
    first = int(rng.integers(len(data) - size + 1))
    path.write_bytes(data[:first] + bytes(size) + data[first + size :])
    return path.name


def truncated_file(folder: Path, rng: Rng) -> str:
    path = _file(folder, rng)
    os.truncate(path, int(rng.integers(path.stat().st_size)))
    return path.name


def emptied_file(folder: Path, rng: Rng) -> str:
    path = _file(folder, rng)
    path.write_bytes(b"")
    return path.name


def longer_file(folder: Path, rng: Rng) -> str:
    path = _file(folder, rng)
    _change(path, lambda data: data + bytes(int(rng.integers(1, BLOCK))))
    return path.name


def deleted_file(folder: Path, rng: Rng) -> str:
    path = _file(folder, rng)
    path.unlink()
    return path.name


def edited_marker(folder: Path, rng: Rng) -> str:
    """Counts that still add up, and are not true."""
    path = folder / ShardFiles.of(_shard(rng)).stats
    marker = json.loads(path.read_bytes())
    marker |= {"written": marker["written"] - 1, "failed": marker["failed"] + 1}
    path.write_text(json.dumps(marker, indent=1, ensure_ascii=False) + "\n")
    return path.name


def swapped_shards(folder: Path, rng: Rng) -> str:
    """All files of two shards under each other's names, markers too."""
    one, other = (int(shard) for shard in rng.permutation(NUM_SHARDS)[:2])
    for path, place in zip(_files(folder, one), _files(folder, other), strict=True):
        _exchange(path, place)
    return f"{one:05d}"


def swapped_tables(folder: Path, rng: Rng) -> str:
    one, other = (int(shard) for shard in rng.permutation(NUM_SHARDS)[:2])
    _exchange(folder / ShardFiles.of(one).rows, folder / ShardFiles.of(other).rows)
    return ShardFiles.of(one).rows


def stray_temporary(folder: Path, rng: Rng) -> str:
    name = f".{_shard(rng):05d}.parquet.{int(rng.integers(2, 30000))}.tmp"
    (folder / name).write_bytes(rng.bytes(100))
    return name


def shard_too_many(folder: Path, rng: Rng) -> str:
    found = folder / ShardFiles.of(_shard(rng)).rows
    shutil.copy(found, folder / ShardFiles.of(NUM_SHARDS).rows)
    return ShardFiles.of(NUM_SHARDS).rows


def no_success(folder: Path, rng: Rng) -> str:
    (folder / "_SUCCESS").unlink()
    return "_SUCCESS"


def other_document(folder: Path, rng: Rng) -> str:
    """A recipe that the shards were not made by."""
    path = folder / "dataset.json"
    document = json.loads(path.read_bytes())
    document["recipe"]["seed"] = int(rng.integers(1, 1000))
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return "00000"


def cut_at_member(folder: Path, rng: Rng) -> str:
    """A tar that ends where a member does: readers see no error."""
    return _cut(folder, rng, lambda member: member.offset)


def cut_in_header(folder: Path, rng: Rng) -> str:
    return _cut(folder, rng, lambda member: member.offset + int(rng.integers(1, BLOCK)))


def cut_in_body(folder: Path, rng: Rng) -> str:
    return _cut(folder, rng, lambda member: member.offset_data + int(rng.integers(1, member.size)))


def deleted_member(folder: Path, rng: Rng) -> str:
    return _repack(folder, rng, lambda members: _without(members, rng))


def repeated_member(folder: Path, rng: Rng) -> str:
    return _repack(folder, rng, lambda members: [*members, members[int(rng.integers(len(members)))]])


def exchanged_members(folder: Path, rng: Rng) -> str:
    """Two members' contents under each other's names."""

    def exchange(members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        images = [place for place, (name, _) in enumerate(members) if name.endswith(".png")]
        one, other = (images[int(place)] for place in rng.permutation(len(images))[:2])
        changed = list(members)
        changed[one], changed[other] = (
            (members[one][0], members[other][1]),
            (members[other][0], members[one][1]),
        )
        return changed

    return _repack(folder, rng, exchange)


def swapped_tars(folder: Path, rng: Rng) -> str:
    one, other = (int(shard) for shard in rng.permutation(NUM_SHARDS)[:2])
    _exchange(folder / ShardFiles.of(one).tar, folder / ShardFiles.of(other).tar)
    return ShardFiles.of(one).tar


def flipped_bit_in_image(folder: Path, rng: Rng) -> str:
    path = _image(folder, rng)
    _change(path, lambda data: _flip(data, int(rng.integers(len(data))), int(rng.integers(8))))
    return f"{path.parent.name}/{path.name}"


def truncated_image(folder: Path, rng: Rng) -> str:
    path = _image(folder, rng)
    os.truncate(path, int(rng.integers(path.stat().st_size)))
    return f"{path.parent.name}/{path.name}"


def deleted_image(folder: Path, rng: Rng) -> str:
    path = _image(folder, rng)
    path.unlink()
    return f"{path.parent.name}/{path.name}"


def image_too_many(folder: Path, rng: Rng) -> str:
    path = _image(folder, rng)
    shutil.copy(path, path.with_name("extra.png"))
    return f"{path.parent.name}/extra.png"


def exchanged_images(folder: Path, rng: Rng) -> str:
    path = _image(folder, rng)
    others = [other for other in sorted(path.parent.iterdir()) if other != path]
    _exchange(path, others[int(rng.integers(len(others)))])
    return f"{path.parent.name}/{path.name}"


def renamed_identity(folder: Path, rng: Rng) -> str:
    path = _image(folder, rng).parent
    path.rename(path.with_name("stranger"))
    return path.name


BOTH: tuple[Fault, ...] = (
    flipped_bit, lost_page, truncated_file, emptied_file, longer_file, deleted_file, edited_marker, swapped_shards,
    swapped_tables, stray_temporary, shard_too_many, no_success, other_document,
)  # fmt: skip
"""Of either format."""
TARS: tuple[Fault, ...] = (
    cut_at_member, cut_in_header, cut_in_body, deleted_member, repeated_member, exchanged_members, swapped_tars,
)  # fmt: skip
"""Of webdatasets."""
FOLDERS: tuple[Fault, ...] = (
    flipped_bit_in_image, truncated_image, deleted_image, image_too_many, exchanged_images, renamed_identity,
)  # fmt: skip
"""Of imagefolders."""


def _shard(rng: Rng) -> int:
    return int(rng.integers(NUM_SHARDS))


def _file(folder: Path, rng: Rng) -> Path:
    """A shard's file that is not empty, of any kind."""
    files = [path for path in _files(folder, _shard(rng)) if path.stat().st_size]
    return files[int(rng.integers(len(files)))]


def _files(folder: Path, shard: int) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if shard_number(path.name) == shard]


def _image(folder: Path, rng: Rng) -> Path:
    images = sorted(folder.glob("*/*.png"))
    return images[int(rng.integers(len(images)))]


def _change(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def _flip(data: bytes, place: int, bit: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def _exchange(one: Path, other: Path) -> None:
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def _cut(folder: Path, rng: Rng, length: Callable[[tarfile.TarInfo], int]) -> str:
    path = folder / ShardFiles.of(_shard(rng)).tar
    with tarfile.open(path) as tar:
        members = [member for member in tar.getmembers() if member.size > 1 and member.offset > 0]
    os.truncate(path, length(members[int(rng.integers(len(members)))]))
    return path.name


def _repack(
    folder: Path, rng: Rng, edit: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]
) -> str:
    """A tar packed anew, as another tool would, and nothing else changed."""
    path = folder / ShardFiles.of(_shard(rng)).tar
    with tarfile.open(path) as tar:
        streams = [(member.name, tar.extractfile(member)) for member in tar.getmembers()]
        members = [(name, stream.read()) for name, stream in streams if stream is not None]
    with tarfile.open(path, "w") as tar:
        for name, data in edit(members):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))
    return path.name


def _without(members: list[tuple[str, bytes]], rng: Rng) -> list[tuple[str, bytes]]:
    place = int(rng.integers(len(members)))
    return members[:place] + members[place + 1 :]
