"""One column of parquet files, read at random: a row group is unpacked whole, so the last ones are kept."""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from d2r_fast.engine.sources.packed import DamagedImage

CACHE_BYTES = 512 * 2**20
"""Of unpacked groups: five of 1,000 images of 512 pixels, which is what `datasets` writes."""

Key = tuple[int, int]


class RowGroups:
    """Values of a column of bytes, at (file, row group, row), for any number of threads.

    Args:
        column: as parquet calls it, "image.bytes" for a part of a structure.
    """

    def __init__(self, paths: Sequence[Path], metadata: Sequence[pq.FileMetaData], column: str) -> None:
        self._paths, self._metadata, self._column = paths, metadata, column
        self._start()

    def read(self, place: Sequence[int]) -> bytes:
        """The bytes at a place.

        Raises:
            OSError: the row group cannot be read, or has nothing there.
        """
        if os.getpid() != self._pid:
            self._start()  # a lock that another thread held when the process was forked is never given back
        file, group, row = place
        value = self._group((file, group))[row].as_py()
        if value is None:
            raise DamagedImage("no bytes in its table")
        assert isinstance(value, bytes)
        return value

    def _start(self) -> None:
        self._pid, self._lock = os.getpid(), threading.Lock()
        self._kept: OrderedDict[Key, Future[pa.ChunkedArray]] = OrderedDict()

    def _group(self, key: Key) -> pa.ChunkedArray:
        """A group, read by the first thread that asks for it."""
        with self._lock:
            future = self._kept.get(key)
            first = future is None
            if future is None:
                future = self._kept[key] = Future()
                self._make_room()
            self._kept.move_to_end(key)
        if first:
            self._fill(key, future)
        return future.result()

    def _fill(self, key: Key, future: "Future[pa.ChunkedArray]") -> None:
        try:
            future.set_result(self._load(*key))
        except BaseException as error:
            future.set_exception(error)
            with self._lock:
                self._kept.pop(key, None)

    def _load(self, file: int, group: int) -> pa.ChunkedArray:
        path = self._paths[file]
        try:
            with pq.ParquetFile(path, metadata=self._metadata[file], pre_buffer=False) as table:
                column = table.read_row_group(group, columns=[self._column], use_threads=False).column(0)
        except (pa.ArrowException, OSError) as error:
            raise DamagedImage(f"row group {group} cannot be read: {str(error).splitlines()[0]}") from None
        for part in self._column.split(".")[1:]:
            column = pa.chunked_array([chunk.field(part) for chunk in column.chunks])
        return column

    def _make_room(self) -> None:
        """Forget the groups that were not asked for the longest; the last one stays whatever its size."""
        sizes = {key: self._metadata[key[0]].row_group(key[1]).total_byte_size for key in self._kept}
        total = sum(sizes.values())
        for key in list(self._kept)[:-1]:
            if total <= CACHE_BYTES:
                return
            total -= sizes[key]
            del self._kept[key]
