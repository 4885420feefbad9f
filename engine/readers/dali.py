"""The DALI reader: batches through NVIDIA DALI's pipelines, whose threads hold no lock of Python's.

On a CPU each thread that calls has a pipeline of one thread to itself. On a card JPEG files are unpacked there
("mixed") and PNG files, which no card unpacks, by the pipeline's pool of threads.

DALI ends a pipeline at the first file that it cannot decode, and names none. So only files that every decoder reads
alike are given to it (`readers.header`), the others go to the plain reader; a batch that fails all the same is halved
until the file at fault is alone, and its fate is the plain reader's, which is said where that can decode it. The
others keep the pixels that DALI gives.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import LifoQueue
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from d2r_fast.engine.console import say
from d2r_fast.engine.decode import MIN_SIDE, DecodeError
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.readers.each import in_parts
from d2r_fast.engine.readers.header import is_common
from d2r_fast.engine.readers.plain import PlainReader

Pixels = NDArray[np.uint8]
Matrices = NDArray[np.float64]
Found = Sequence[Pixels | DecodeError]
Run = Callable[[list[int]], Found]
"""What becomes of the files at these places."""

ON_CPU, ON_CUDA = 16, 64
"""Files at once."""
NUM_PIPELINES_CUDA = 2
"""One decodes while the results of the other are fetched."""


class _Failed(Exception):
    """DALI could not decode one of the files; the text says why."""


class DaliReader:
    """Decodes with NVIDIA DALI what every decoder reads alike, and the rest plainly; see `Reader`.

    On a CPU the pixels of images are the plain reader's, and crops are within one level of its. On a card those of
    JPEG files differ by the rounding of nvJPEG's inverse transform.

    Raises:
        UserError: NVIDIA DALI is not installed.
    """

    name: Literal["plain", "dali"] = "dali"

    def __init__(self, *, device: str, num_threads: int) -> None:
        on_cpu = device == "cpu"
        self.num_at_once = ON_CPU if on_cpu else ON_CUDA
        self._plain, self._told = PlainReader(), False
        self._pipelines = _Pipelines(
            device_id=None if on_cpu else int(device.partition(":")[2] or 0),
            num_pipelines=num_threads if on_cpu else NUM_PIPELINES_CUDA,
            num_threads=1 if on_cpu else num_threads,
            batch_size=self.num_at_once,
        )

    def decode(self, files: Sequence[bytes], *, min_side: int = MIN_SIDE) -> list[Pixels | DecodeError]:
        return self._merge(
            [is_common(data, min_side=min_side) for data in files],
            lambda rows: self._pipelines.run([files[row] for row in rows]),
            lambda rows: self._plain.decode([files[row] for row in rows], min_side=min_side),
        )

    def align(
        self, files: Sequence[bytes], matrices: Matrices, *, size: int = 112, min_side: int = MIN_SIDE
    ) -> list[Pixels | DecodeError]:
        return self._merge(
            [is_common(data, min_side=min_side) for data in files],
            lambda rows: self._pipelines.run([files[row] for row in rows], matrices[rows], size),
            lambda rows: self._plain.align(
                [files[row] for row in rows], matrices[rows], size=size, min_side=min_side
            ),
        )

    def _merge(self, common: Sequence[bool], run: Run, plain: Run) -> list[Pixels | DecodeError]:
        """What becomes of each file, in their order: the common ones by `run`, the others by `plain`."""
        found: dict[int, Pixels | DecodeError] = {}
        for part in in_parts((row for row, is_so in enumerate(common) if is_so), self.num_at_once):
            found |= zip(part, self._isolate(list(part), run, plain), strict=True)
        others = [row for row, is_so in enumerate(common) if not is_so]
        found |= zip(others, plain(others), strict=True)
        return [found[row] for row in range(len(common))]

    def _isolate(self, rows: list[int], run: Run, plain: Run) -> Found:
        """Results of a batch; where it fails, of its halves, down to the file at fault, which is read plainly."""
        try:
            return run(rows)
        except _Failed as error:
            if len(rows) == 1:
                found = plain(rows)
                if not isinstance(found[0], DecodeError):
                    self._tell(error)
                return found
        middle = len(rows) // 2
        return [*self._isolate(rows[:middle], run, plain), *self._isolate(rows[middle:], run, plain)]

    def _tell(self, error: _Failed) -> None:
        """Say once that DALI refuses what is in order."""
        if not self._told:
            self._told = True
            say(
                f"reader dali: DALI refuses a file that is in order ({error}); it and others like it are read plainly"
            )


class _Pipelines:
    """Pipelines that threads borrow, built as they are needed: for images, and for crops of a size."""

    def __init__(
        self, *, device_id: int | None, num_pipelines: int, num_threads: int, batch_size: int
    ) -> None:
        self._dali = import_dali()
        self._device_id, self._num_threads, self._batch_size = device_id, num_threads, batch_size
        self._free: LifoQueue[dict[int | None, Any]] = LifoQueue()
        for _ in range(num_pipelines):
            self._free.put({})

    def run(self, files: Sequence[bytes], matrices: Matrices | None = None, size: int | None = None) -> Found:
        """Images of the files, or their crops by matrices (N, 2, 3).

        Raises:
            _Failed: a file cannot be decoded.
        """
        with self._borrowed(size) as pipeline:
            arrays = [np.frombuffer(data, np.uint8) for data in files]  # DALI reads them where they are
            pipeline.feed_input("files", arrays)
            if matrices is not None:
                pipeline.feed_input("matrices", list(_to_dali(matrices)))
            try:
                (images,) = pipeline.run()
            except RuntimeError as error:
                raise _Failed(_reason(error)) from error
            images = images.as_cpu()
            return [np.array(images.at(row)) for row in range(len(images))]  # DALI uses its own again

    @contextmanager
    def _borrowed(self, size: int | None) -> Iterator[Any]:
        """A pipeline for this thread alone. One that failed is done with."""
        pipelines = self._free.get()
        try:
            pipeline = pipelines.pop(size, None) or self._build(size)
            yield pipeline
            pipelines[size] = pipeline
        finally:
            self._free.put(pipelines)

    def _build(self, size: int | None) -> Any:
        fn, types = self._dali.fn, self._dali.types
        pipeline = self._dali.Pipeline(
            batch_size=self._batch_size, num_threads=self._num_threads, device_id=self._device_id,
            prefetch_queue_depth=1,
        )  # fmt: skip
        with pipeline:
            files = fn.external_source(name="files", dtype=types.UINT8, ndim=1, no_copy=True)
            images = fn.decoders.image(
                files, device="cpu" if self._device_id is None else "mixed", output_type=types.RGB,
                adjust_orientation=False, jpeg_fancy_upsampling=True,
            )  # fmt: skip
            if size is not None:
                matrices = fn.external_source(name="matrices", dtype=types.FLOAT, ndim=2)
                images = fn.warp_affine(
                    images, matrix=matrices, size=(size, size), inverse_map=False, fill_value=0,
                    interp_type=types.INTERP_LINEAR,
                )  # fmt: skip
            pipeline.set_outputs(images)
        pipeline.build()
        return pipeline


def _reason(error: RuntimeError) -> str:
    """The line of DALI's message that says what was wrong: what follows "encountered:", after a traceback."""
    lines = [line.strip() for line in str(error).rpartition("encountered:")[2].splitlines()]
    return next(line for line in [*lines, "it does not say why"] if line).rstrip(" :")


def _to_dali(matrices: Matrices) -> NDArray[np.float32]:
    """Matrices (N, 2, 3) for warp_affine, which counts from pixels' corners, and not from their centres."""
    half = np.array([0.5, 0.5])
    shift = matrices[:, :, 2] + half - matrices[:, :, :2] @ half
    return np.concatenate([matrices[:, :, :2], shift[:, :, None]], axis=2).astype(np.float32)


def import_dali() -> Any:
    """The package nvidia.dali, with its operators.

    Raises:
        UserError: it is not installed.
    """
    try:
        import nvidia.dali
        import nvidia.dali.fn
        import nvidia.dali.types
    except ImportError as error:
        raise UserError(
            f"reader dali: {error}: pip install 'd2r-fast[gpu]', or leave out --reader dali"
        ) from None
    return nvidia.dali
