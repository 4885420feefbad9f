"""Atomic files: whole or absent, on a full disk as well, and nothing left lying about."""

import errno
import hashlib
import io
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import (
    Written,
    check_out,
    check_space,
    disk_errors,
    open_atomic,
    remove_stale,
    sha256_file,
    stale,
    temporary,
    write_atomic,
)

from .fakedata import names_in


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """No file can grow beyond `num_bytes`: writes fail with EFBIG as they do with ENOSPC on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_written_file_is_whole_and_known(tmp_path: Path) -> None:
    data = bytes(range(256)) * 999
    assert write_atomic(tmp_path / "a", data) == Written(hashlib.sha256(data).hexdigest(), len(data))
    assert (tmp_path / "a").read_bytes() == data
    assert sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()
    assert names_in(tmp_path) == ["a"]


def test_nothing_is_seen_before_the_end(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with open_atomic(tmp_path / "a") as file:
        file.write(b"new")
        assert (tmp_path / "a").read_bytes() == b"old"
        assert temporary(tmp_path / "a").exists()
    assert (tmp_path / "a").read_bytes() == b"new"
    assert names_in(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def fail() -> None:
        with open_atomic(tmp_path / "a") as file:
            file.write(b"new" * 100_000)
            raise error

    with pytest.raises(error):
        fail()
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names_in(tmp_path) == ["a"]


def test_parquet_can_be_streamed_into_it(tmp_path: Path) -> None:
    table = pa.table({"x": list(range(1000))})
    with open_atomic(tmp_path / "t.parquet") as file, pq.ParquetWriter(file, table.schema) as writer:
        writer.write_table(table)
        writer.write_table(table)
    assert pq.read_table(tmp_path / "t.parquet").num_rows == 2000
    assert file.written() == Written(
        sha256_file(tmp_path / "t.parquet"), (tmp_path / "t.parquet").stat().st_size
    )


def test_everything_is_flushed_before_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file before the rename, the folder after it; otherwise a power cut could leave an empty file."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor: int) -> None:
        calls.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def record_replace(path: str, target: Path) -> None:
        calls.append(f"rename to {target.name}")
        replace(path, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    write_atomic(tmp_path / "a", b"data")
    assert calls == [f"fsync .a.{os.getpid()}.tmp", "rename to a", f"fsync {tmp_path.name}"]


@pytest.mark.parametrize("limit", [0, 1, 4095, 8192, 99_999])
def test_size_limit_is_one_line_with_path_and_bytes(tmp_path: Path, limit: int) -> None:
    with file_size_limit(limit), pytest.raises(RunError) as error:
        write_atomic(tmp_path / "a", bytes(100_000))
    assert str(tmp_path / "a") in str(error.value)
    assert "100,000 bytes" in str(error.value)
    assert "\n" not in str(error.value)
    assert names_in(tmp_path) == []


def test_full_disk(tmp_path: Path) -> None:
    """/dev/full takes the place of the temporary file: it answers every write with ENOSPC."""
    temporary(tmp_path / "a").symlink_to("/dev/full")
    with pytest.raises(RunError, match="the disk is full and it needs 10 bytes"):
        write_atomic(tmp_path / "a", b"0123456789")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.ENOSPC, RunError, "the disk is full"),
        (errno.EDQUOT, RunError, "the disk quota is used up"),
        (errno.EFBIG, RunError, "the file size limit is reached"),
        (errno.EACCES, UserError, "Permission denied"),
        (errno.EROFS, UserError, "Read-only file system"),
        (errno.ENOENT, UserError, "here cannot be written: its folder does not exist"),
        (errno.EISDIR, UserError, "here cannot be written: it is a folder"),
        (errno.ENAMETOOLONG, UserError, "here cannot be written: its name is too long"),
        (errno.ELOOP, UserError, "here cannot be written: its links lead in a circle"),
        (errno.EIO, OSError, "Input/output error"),
    ],
)
def test_disk_errors(number: int, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message), disk_errors(Path("here"), needed_bytes=5):
        raise OSError(number, os.strerror(number))


def test_stale_files_go_and_others_stay(tmp_path: Path) -> None:
    kept = [".lock", "a.tmp", ".a.tmp", ".a.12x.tmp", "b", ".00000.77.tmpx"]
    for name in [*kept, ".a.12.tmp", ".dataset.json.1.tmp"]:
        (tmp_path / name).touch()
    (tmp_path / ".00000.77.tmp" / "new" / "x").mkdir(parents=True)
    (tmp_path / ".link.5.tmp").symlink_to(tmp_path)
    assert [path.name for path in stale(tmp_path)] == [
        ".00000.77.tmp",
        ".a.12.tmp",
        ".dataset.json.1.tmp",
        ".link.5.tmp",
    ]
    remove_stale(tmp_path)
    assert names_in(tmp_path) == sorted(kept)


def test_space_is_checked_with_room_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 1999})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    check_space(tmp_path, needed_bytes=999)
    with pytest.raises(RunError, match="has 1,999 bytes free and the next shard needs 2,000"):
        check_space(tmp_path, needed_bytes=1000)


def test_hashing_file_is_write_only(tmp_path: Path) -> None:
    with open_atomic(tmp_path / "a") as file:
        assert file.write(b"abc") == 3
        assert file.tell() == 3
        with pytest.raises(io.UnsupportedOperation):
            file.read()


def test_errors_about_other_files_pass(tmp_path: Path) -> None:
    """A file that the block reads and that is gone is not the output's fault."""
    with pytest.raises(FileNotFoundError), open_atomic(tmp_path / "a"):
        (tmp_path / "elsewhere" / "render.png").read_bytes()
    assert names_in(tmp_path) == []


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder of everything that an output may run into."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent/a", "its folder does not exist"),
        ("file/a", "file is no folder"),
        ("folder", "it is a folder"),
        (255 * "n", "its name is too long"),
        ("loop/a", "its links lead in a circle"),
    ],
)
def test_no_place_for_a_file_is_one_line(odd: Path, name: str, message: str) -> None:
    before = names_in(odd)
    with pytest.raises(UserError, match=message) as error:
        write_atomic(odd / name, b"data")
    assert str(odd / name) in str(error.value)
    assert "\n" not in str(error.value)
    assert names_in(odd) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "is a folder"),
        ("folder/..", "has no file name"),
        ("pipe", "is no regular file"),
        ("absent/a", "lies in no folder"),
        ("file/a", "lies in no folder"),
        ("loop", "cannot be written"),
        ("loop/a", "cannot be written"),
        (300 * "n", "cannot be written"),
        ("file", "is one of the files to read"),
        ("link", "is one of the files to read"),
        ("folder/../file", "is one of the files to read"),
    ],
)
def test_out_that_would_do_harm_is_refused(odd: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        check_out(odd / name, inputs=[odd / "gone", odd / "file"])
    assert str(odd / name) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["", ".", "..", "/"])
def test_out_needs_a_file_name(path: str) -> None:
    with pytest.raises(UserError, match="has no file name"):
        check_out(Path(path))


@pytest.mark.parametrize("name", ["new", "file", "link", "folder/new"])
def test_out_may_be_new_or_a_regular_file(odd: Path, name: str) -> None:
    check_out(odd / name, inputs=[odd / "folder", odd / "gone"])
