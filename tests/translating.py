"""What the tests of `translate` share: sources of drawn people, runs of the fake method, and what came of them."""

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from d2r_fast.engine.decode import decode
from d2r_fast.engine.rows import TranslatedRow, read_table
from d2r_fast.kernels.noise import identity_key
from d2r_fast.translation.config import TranslateConfig
from d2r_fast.translation.images import translate_images
from d2r_fast.translation.method import Method, Run
from d2r_fast.translation.translate import translate

Pixels = NDArray[np.uint8]
QUICK: dict[str, Any] = {"method": "vsait", "backend": "torch", "device": "cpu", "identities_per_shard": 2}


def configure(source: Path, weights: Path, out: Path, **changes: Any) -> TranslateConfig:
    return TranslateConfig(**QUICK | {"source": source, "weights": weights, "out": out} | changes)


def run(source: Path, weights: Path, out: Path, **changes: Any) -> int:
    return translate(configure(source, weights, out, **changes))


def rows(out: Path) -> list[TranslatedRow]:
    paths = sorted(out.glob("[0-9]*[0-9].parquet"))
    return [row for path in paths for row in read_table(TranslatedRow, path)]


def sources(folder: Path) -> dict[tuple[str, str], Pixels]:
    """Pixels of a source by (identity, stem)."""
    return {
        (path.parent.name, path.stem): decode(path.read_bytes(), min_side=1)
        for path in folder.glob("*/*")
        if path.suffix in (".png", ".jpg")
    }


def images(out: Path) -> dict[tuple[str, str], Pixels]:
    """Pixels of a translated dataset by (identity, stem), whatever its format."""
    found = {}
    for row in rows(out):
        if row.status == "written":
            found[row.identity, row.stem] = decode(_file(out, row), min_side=1)
    return found


def _file(out: Path, row: TranslatedRow) -> bytes:
    for suffix in ("png", "jpg"):
        if (path := out / row.identity / f"{row.stem}.{suffix}").is_file():
            return path.read_bytes()
        for shard in out.glob("*.tar"):
            with tarfile.open(shard) as tar:
                if f"{row.key}.{suffix}" in tar.getnames():
                    stream = tar.extractfile(f"{row.key}.{suffix}")
                    assert stream is not None
                    return stream.read()
    raise AssertionError(f"{row.key} is nowhere")


def expected(method: Method, image: Pixels, *, identity: str, number: int, seed: int = 0) -> Pixels:
    """An image as a plain loop translates it: by itself, through the float32 module of each network."""
    size = (image.shape[0], image.shape[1])
    networks: dict[str, Run] = {network.name: network.reference for network in method.networks(size)}
    keys = torch.tensor([[identity_key(seed, identity), number]])
    pixels, finite = translate_images(method, networks, torch.from_numpy(image.copy())[None], keys)
    assert bool(finite)
    found: Pixels = pixels[0].numpy()
    return found


def write_image(path: Path, width: int, height: int, *, seed: int = 0) -> None:
    """A picture of soft colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.Generator(np.random.Philox(key=seed))
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())


def mixed_sizes(folder: Path) -> Path:
    """Three identities with images of four sizes, none a multiple of another, one of a single odd row of pixels."""
    shapes = [(112, 112), (64, 48), (97, 113), (112, 112), (33, 1), (64, 48), (112, 112)]
    for identity in ("ann", "bob", "cy"):
        for place, (width, height) in enumerate(shapes):
            write_image(folder / identity / f"view {place}.png", width, height, seed=place + ord(identity[0]))
    return folder


def damage(folder: Path, source: Path) -> Path:
    """A copy of a source with an image of each kind of damage in its first identity, and an empty last one."""
    copy = shutil.copytree(source, folder)
    first = sorted(path for path in copy.iterdir() if path.is_dir())[0]
    files = sorted(first.iterdir())
    spoil: list[Callable[[Path], Any]] = [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:200]),
        lambda path: path.write_text("this is no image"),
    ]
    for path, deed in zip(files, spoil, strict=False):
        deed(path)
    files[len(spoil)].unlink()
    files[len(spoil)].symlink_to(first / "gone.png")
    (copy / "zz nobody").mkdir()
    return copy
