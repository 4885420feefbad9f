"""How fast image files become pixels: the plain reader and DALI's, by threads, beside OpenCV, Pillow, the recogniser.

Two kinds of files, encoded here: aligned crops of 112x112 as PNG, as renders come, and photographs of 512x512 as JPEG,
which are aligned to 112x112 too. Both readers must come to the same pixels first.
"""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from d2r_fast.bench.context import Bench
from d2r_fast.bench.detector_section import draw_images
from d2r_fast.bench.measure import Arm, Timing, compare, interleave
from d2r_fast.bench.record import Found
from d2r_fast.bench.targets import target
from d2r_fast.engine.backend import open_recogniser
from d2r_fast.engine.console import say
from d2r_fast.engine.decode import DecodeError
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.readers.each import in_parts
from d2r_fast.engine.readers.plain import PlainReader
from d2r_fast.engine.readers.reader import Pixels, Reader, open_reader
from d2r_fast.kernels.warp import invert

NUM_FILES = 64
NUM_THREADS = (1, 2)
NUM_ROUNDS = 7
WINDOW_S = 0.1
NOISE = 6
"""Levels either way, about a small camera's: drawings alone compress to next to nothing."""
QUALITY = 92
SIZE = 112
EMBED_AT_ONCE = 16
RECOGNISER = "recogniser"


@dataclass(frozen=True)
class Files:
    """Encoded images of one kind, and matrices (N, 2, 3) to their crops where they are aligned too."""

    kind: str
    files: list[bytes]
    matrices: NDArray[np.float64] | None


def measure(bench: Bench, found: Found) -> None:
    """Every reader on both kinds, in turn; then the recogniser.

    Raises:
        RunError: readers come to other pixels.
    """
    recogniser_s = time_recogniser(bench, found)
    for files in make_files():
        readers = open_readers(bench, files)
        with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(2) as two:
            pools = {1: one, 2: two}
            arms: dict[str, Arm] = {
                name: partial(read, reader, files, pools[num_threads])
                for name, (reader, num_threads) in readers.items()
            }
            arms |= {name: partial(work, files) for name, work in loops().items()}
            timings = interleave(
                arms, num_rounds=NUM_ROUNDS, window_s=WINDOW_S, most_s=bench.budget.left_s * 0.4
            )
        for name, timing in timings.items():
            found.row(f"{files.kind}: {name}", num_files=len(files.files), **timing.row(len(files.files)))
        judge(bench, found, files, timings, recogniser_s)


def judge(bench: Bench, found: Found, files: Files, timings: dict[str, Timing], recogniser_s: float) -> None:
    """What the times come to."""
    for num_threads in NUM_THREADS:
        plain, dali = _name("plain", num_threads), _name("dali", num_threads)
        if dali in timings:
            found.ratio(
                f"{files.kind}: DALI over plain, {_threads(num_threads)}",
                compare(timings[plain], timings[dali]),
            )
    title = f"{files.kind}: plain reader over the recogniser"
    plain_s = timings[_name("plain", NUM_THREADS[-1])].median_s / len(files.files)
    found.finding(
        title, recogniser_s / plain_s, unit="x", target=target(title, bench.kind),
        note=f"{1 / plain_s:.0f} files/s with {_threads(NUM_THREADS[-1])}, {1 / recogniser_s:.3g} crops/s",
    )  # fmt: skip


def time_recogniser(bench: Bench, found: Found) -> float:
    """Seconds a crop, as `embed` runs it by default."""
    recogniser = open_recogniser(
        bench.models, bench.models / "antelopev2" / "arcface.onnx", backend="auto", precision="fp32",
        engines=None, device=bench.device, batch_size=EMBED_AT_ONCE,
    )  # fmt: skip
    crops = np.zeros((EMBED_AT_ONCE, *recogniser.size, 3), np.uint8)
    timing = interleave(
        {RECOGNISER: lambda: recogniser(crops)}, num_rounds=NUM_ROUNDS, most_s=bench.budget.left_s * 0.2,
        device=bench.device,
    )[RECOGNISER]  # fmt: skip
    found.row(RECOGNISER, num_crops=EMBED_AT_ONCE, **timing.row(EMBED_AT_ONCE))
    return timing.median_s / EMBED_AT_ONCE


def make_files() -> tuple[Files, Files]:
    """Both kinds, drawn faces with a sensor's noise."""
    rng = np.random.default_rng(0)
    photographs = [_noisy(image, rng) for image in draw_images().numpy()[:NUM_FILES]]
    crops = [_noisy(np.asarray(Image.fromarray(image).resize((SIZE, SIZE))), rng) for image in photographs]
    scale = SIZE / photographs[0].shape[0]
    angles = rng.uniform(-0.3, 0.3, NUM_FILES)
    a, b = scale * np.cos(angles), scale * np.sin(angles)
    turns = np.stack([np.stack([a, -b], -1), np.stack([b, a], -1)], 1)
    shifts = SIZE / 2 - turns @ np.full((2, 1), photographs[0].shape[0] / 2)
    return (
        Files("112 px PNG", [_encode(image, "PNG") for image in crops], None),
        Files(
            "512 px JPEG, aligned", [_encode(image, "JPEG", quality=QUALITY) for image in photographs],
            np.concatenate([turns, shifts], axis=2),
        ),
    )  # fmt: skip


def _noisy(image: Pixels, rng: np.random.Generator) -> Pixels:
    noise = rng.integers(-NOISE, NOISE + 1, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def _encode(image: Pixels, format: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format, **options)
    return buffer.getvalue()


def open_readers(bench: Bench, files: Files) -> dict[str, tuple[Reader, int]]:
    """Name -> reader and its number of threads; without DALI the plain ones.

    Raises:
        RunError: they come to other pixels.
    """
    readers: dict[str, tuple[Reader, int]] = {
        _name("plain", num): (PlainReader(), num) for num in NUM_THREADS
    }
    try:
        for num in NUM_THREADS:
            reader = open_reader("dali", device=bench.device, num_threads=num)
            check_same(read_part(reader, files, range(NUM_FILES)), files)
            readers[_name("dali", num)] = (reader, num)
    except UserError as error:
        say(f"readers: DALI is left out: {error}")
    return readers


def _name(reader: str, num_threads: int) -> str:
    return f"{reader}, {_threads(num_threads)}"


def _threads(num: int) -> str:
    return f"{num} thread{'s' * (num > 1)}"


def check_same(found: Sequence[Pixels | DecodeError], files: Files, *, levels: int = 1) -> None:
    """Refuses to compare times of unequal results."""
    wanted = read_part(PlainReader(), files, range(len(files.files)))
    for one, other in zip(found, wanted, strict=True):
        if isinstance(one, DecodeError) or isinstance(other, DecodeError):
            raise RunError(f"{files.kind}: a reader refuses a file: times are not compared")
        worst = int(np.abs(one.astype(int) - other).max())
        if worst > levels:
            raise RunError(
                f"{files.kind}: readers differ by {worst} levels, allowed {levels}: times are not compared"
            )


def read(reader: Reader, files: Files, pool: ThreadPoolExecutor) -> list[Pixels | DecodeError]:
    """All files, in as many threads as the pool has."""
    parts = in_parts(range(len(files.files)), reader.num_at_once)
    return list(chain.from_iterable(pool.map(partial(read_part, reader, files), parts)))


def read_part(reader: Reader, files: Files, rows: Sequence[int]) -> list[Pixels | DecodeError]:
    """Some of them."""
    data = [files.files[row] for row in rows]
    if files.matrices is None:
        return reader.decode(data)
    return reader.align(data, files.matrices[list(rows)])


def loops() -> dict[str, Callable[[Files], Any]]:
    """What is commonly run, a file at a time in one thread."""
    found: dict[str, Callable[[Files], Any]] = {"Pillow, 1 thread": pillow_loop}
    try:
        import cv2
    except ImportError:
        say("readers: OpenCV is left out: it is not installed")
        return found
    cv2.setNumThreads(1)
    return {"OpenCV, 1 thread": partial(opencv_loop, cv2), **found}


def opencv_loop(cv2: ModuleType, files: Files) -> list[Any]:
    """imdecode and warpAffine."""
    found = []
    for row, data in enumerate(files.files):
        image = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        found.append(
            image if files.matrices is None else cv2.warpAffine(image, files.matrices[row], (SIZE, SIZE))
        )
    return found


def pillow_loop(files: Files) -> list[Pixels]:
    """open, convert and transform."""
    maps = [None] * len(files.files) if files.matrices is None else _pillow_maps(files.matrices)
    found = []
    for data, back in zip(files.files, maps, strict=True):
        image = Image.open(io.BytesIO(data)).convert("RGB")
        if back is not None:
            image = image.transform((SIZE, SIZE), Image.Transform.AFFINE, back, Image.Resampling.BILINEAR)
        found.append(np.asarray(image))
    return found


def _pillow_maps(matrices: NDArray[np.float64]) -> list[list[float]]:
    """Six numbers each, from crop to image, counted from pixels' corners."""
    back = invert(torch.from_numpy(matrices)).numpy()
    half = np.array([0.5, 0.5])
    shift = back[:, :, 2] + half - back[:, :, :2] @ half
    numbers: list[list[float]] = (
        np.concatenate([back[:, :, :2], shift[:, :, None]], 2).reshape(-1, 6).tolist()
    )
    return numbers
