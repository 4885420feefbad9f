"""Where drills are held: a folder, a small translation method of random weights, sources of soft pictures."""

import hashlib
import io
import os
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image

from d2r_fast.bench.drill import child
from d2r_fast.bench.drill.child import Child, Ended, Prepare
from d2r_fast.engine.folder_lock import LOCK
from d2r_fast.engine.marker import WORKERS, is_events
from d2r_fast.translation.config import MethodName

METHOD: MethodName = "vsait"
SIDE = 16
"""Pixels of a source image: the least that the method takes is smaller, and networks are not what is drilled."""
NEEDED = ("d2r_fast.translation.random_weights", "d2r_fast.translation.translate")
"""Imported before the first copy is made, which else would do it too. Imports start no threads."""


@dataclass(frozen=True)
class Yard:
    """A drill's ground.

    Attributes:
        folder: of its own.
        weights: checkpoint of the translation method.
        quick: whether small numbers will do.
        seed: chooses what is left to chance.
        soak_s: seconds of the soak; 0 for none.
    """

    folder: Path
    weights: Path
    quick: bool
    seed: int
    soak_s: float

    @classmethod
    def open(cls, folder: Path, *, quick: bool, seed: int, soak_s: float) -> "Yard":
        """Makes the weights in `folder`, which exists, and imports all that a run does, so that forks need not."""
        for name in NEEDED:
            import_module(name)
        weights = make_weights(folder / "weights", seed=0)
        yard = cls(folder, weights, quick, seed, soak_s)
        rehearsal = yard.part("rehearsal")
        rehearsal.rehearse(
            rehearsal.translate(rehearsal.source(num_identities=1, images=1), rehearsal.folder / "out")
        )
        return yard

    def part(self, name: str) -> "Yard":
        """Ground of its own for one drill."""
        folder = self.folder / name
        folder.mkdir()
        return Yard(folder, self.weights, self.quick, self.seed, self.soak_s)

    def rng(self, name: str) -> np.random.Generator:
        """A generator for one purpose."""
        words = [self.seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])]
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))

    def source(self, *, num_identities: int, images: int, side: int = SIDE, name: str = "source") -> Path:
        """A folder of renders, no two alike."""
        rng = self.rng(name)
        for identity in range(num_identities):
            folder = self.folder / name / f"{identity:05d}"
            folder.mkdir(parents=True)
            for image in range(images):
                (folder / f"{image}.png").write_bytes(png(picture(rng, side)))
        return self.folder / name

    def translate(self, source: Path, out: Path, **flags: object) -> list[str]:
        """Arguments of a run that translates `source` into `out`."""
        settings: dict[str, object] = {
            "method": METHOD, "weights": self.weights, "out": out, "backend": "torch", "device": "cpu",
            "format": "webdataset", "identities_per_shard": 1, "num_threads": 1,
        }  # fmt: skip
        pairs = [(f"--{name.replace('_', '-')}", str(value)) for name, value in (settings | flags).items()]
        return ["translate", str(source), *(word for pair in pairs for word in pair)]

    def start(self, arguments: list[str], *, prepare: Prepare | None = None) -> Child:
        """A run in a copy of this process."""
        return child.fork(arguments, self.folder / "output.log", prepare=partial(_alone, prepare))

    def run(self, arguments: list[str], *, prepare: Prepare | None = None) -> Ended:
        """The same, to its end."""
        return self.start(arguments, prepare=prepare).wait()

    def rehearse(self, arguments: list[str]) -> None:
        """The same, and whatever it imports is there for later runs."""

        def work() -> None:
            _alone(None)
            assert child.command(arguments, None) == 0

        child.aside(work, self.folder / "output.log")

    def done(self, arguments: list[str], *, prepare: Prepare | None = None) -> Ended:
        """The same, which must end well."""
        ended = self.run(arguments, prepare=prepare)
        assert ended.status == 0, f"status {ended.status}: {ended.said[-2000:]}"
        return ended


def make_weights(folder: Path, *, seed: int) -> Path:
    """A checkpoint of the method's, of random numbers, in a new folder."""

    def write() -> None:
        from d2r_fast.translation.random_weights import write_random_weights

        write_random_weights(METHOD, folder, size="mini", seed=seed)

    child.aside(write, folder.with_name(f"{folder.name}.log"))
    (weights,) = folder.iterdir()
    return weights


def make_renders(folder: Path, *, num_identities: int, images: int) -> None:
    """Drawn people, in whom a detector finds a face."""

    def draw() -> None:
        from d2r_fast.engine.samples import draw_samples

        draw_samples(folder, num_identities=num_identities, images_per_identity=images)

    child.aside(draw, folder.with_name(f"{folder.name}.log"))


def make_models(folder: Path) -> None:
    """A model folder of a few random numbers."""

    def write() -> None:
        from d2r_fast.engine.models.init import init_models

        init_models(folder, size="mini", seed=0)

    child.aside(write, folder.with_name(f"{folder.name}.log"))


def _alone(prepare: Prepare | None) -> None:
    """A forked run computes in one thread, as fits networks of a few numbers."""
    import torch

    torch.set_num_threads(1)
    if prepare is not None:
        prepare()


def picture(rng: np.random.Generator, side: int) -> Image.Image:
    """Soft colours."""
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize((side, side), Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    """Its file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def is_part(name: str) -> bool:
    """Whether a file of a dataset's folder, named relative to it, is the same whenever the dataset is made: logs, the
    lock and what workers say of themselves are not."""
    return not is_events(name) and name != LOCK and not name.startswith(f"{WORKERS}/")


def files(folder: Path) -> list[tuple[str, os.DirEntry[str]]]:
    """Files below a folder by their name relative to it, sorted."""
    found: list[tuple[str, os.DirEntry[str]]] = []
    folders = [("", str(folder))]
    while folders:
        prefix, path = folders.pop()
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append((f"{prefix}{entry.name}/", entry.path))
                else:
                    found.append((prefix + entry.name, entry))
    return sorted(found, key=lambda pair: pair[0])


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that is part of the dataset, by relative name."""
    return {
        name: hashlib.sha256(Path(entry.path).read_bytes()).hexdigest()
        for name, entry in files(folder)
        if is_part(name)
    }


def state(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Inode, time of change and size of every file in a folder, logs and lock included."""
    found = {name: entry.stat(follow_symlinks=False) for name, entry in files(folder)}
    return {name: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for name, stat in found.items()}


def temporaries(folder: Path) -> list[str]:
    """Names of what is unfinished in a folder."""
    return [name for name, _ in files(folder) if name.split("/")[0].endswith(".tmp")]
