"""Archives made of files, and what sources read in them."""

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

from d2r_fast.engine.source import Source, fingerprint

NAMES = ("0/0.png", "0/1.png", "0/10.png", "2/0.png", "10/0.png", "10/1.jpg", "Zoë/李.png")
MANY = {name: name.encode() * 40 + os.urandom(900) for name in NAMES}


def folder_of(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def zip_of(path: Path, files: dict[str, bytes], *, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return path


def tar_of(path: Path, files: dict[str, bytes], *, format: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w:", format=format) as opened:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            opened.addfile(member, io.BytesIO(data))
    return path


def content(source: Source) -> dict[str, dict[str, bytes]]:
    """Every image's bytes, in order."""
    return {i.name: {image.name: source.read(image) for image in i.images} for i in source.identities}


def same(one: Source, two: Source) -> None:
    """See that two sources hold the same, in the same order."""
    assert json.dumps(list(content(one).items()), default=bytes.hex) == json.dumps(
        list(content(two).items()), default=bytes.hex
    )
    assert fingerprint(one.identities) == fingerprint(two.identities)
    assert one.num_images == two.num_images


def spoil(path: Path, *edits: tuple[bytes, bytes]) -> Path:
    """Replace bytes inside a file, each of which must be there."""
    data = path.read_bytes()
    for old, new in edits:
        assert old in data
        data = data.replace(old, new)
    path.write_bytes(data)
    return path
