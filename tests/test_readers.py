"""Readers: one fate for every file whoever reads it, the same pixels, and crops within a level of OpenCV's."""

import builtins
import io
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from d2r_fast.engine.decode import DecodeError, decode
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.readers.each import decode_each, in_parts
from d2r_fast.engine.readers.header import is_common
from d2r_fast.engine.readers.plain import PlainReader
from d2r_fast.engine.readers.reader import Pixels, Reader, describe_reader, open_reader
from d2r_fast.recognition.evaluation.crops import LooseCrops

pytest.importorskip("nvidia.dali", reason="needs NVIDIA DALI")
from d2r_fast.engine.readers import dali
from d2r_fast.engine.readers.dali import DaliReader

HEIGHT, WIDTH = 60, 76


def picture(seed: int = 0, *, height: int = HEIGHT, width: int = WIDTH, noise: int = 6) -> Pixels:
    """uint8 (height, width, 3): smooth, with a sensor's noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return (smooth + rng.integers(-noise, noise + 1, smooth.shape)).clip(0, 255).astype(np.uint8)


def save(image: Image.Image | Pixels, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(png: bytes, kind: bytes, content: bytes) -> bytes:
    """The PNG with a chunk after its header."""
    return png[:33] + chunk(kind, content) + png[33:]


def with_text(image: Pixels, **texts: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    for key, value in texts.items():
        info.add_text(key, value)
    return save(image, "PNG", pnginfo=info)


def with_orientation(format: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(picture(), format, exif=exif)


def with_bad_table(seed: int) -> bytes:
    """A JPEG whose first Huffman table has more codes than there can be: whole by its header, and no image."""
    data = bytearray(save(picture(seed), "JPEG"))
    table = data.index(b"\xff\xc4") + 5
    data[table : table + 16] = bytes([255] * 16)
    return bytes(data)


GREY, ALPHA = picture()[..., 0], np.dstack([picture(), picture(1)[..., 0]])
COMMON = {
    "png": save(picture(), "PNG"),
    "grey png": save(GREY, "PNG"),
    "render's png": with_text(picture(), Software="Blender", Date="2023/04/01 12:00:00"),
    "png with gamma": with_chunk(save(picture(), "PNG"), b"gAMA", struct.pack(">I", 20000)),
    "4:4:4": save(picture(), "JPEG", quality=95, subsampling=0),
    "4:2:2": save(picture(), "JPEG", quality=90, subsampling=1),
    "4:2:0": save(picture(), "JPEG", quality=60, subsampling=2),
    "progressive": save(picture(), "JPEG", progressive=True),
    "grey jpeg": save(GREY, "JPEG"),
    "restarts": save(picture(), "JPEG", restart_marker_blocks=3),
    "colour profile": save(picture(), "JPEG", icc_profile=bytes(300)),
    "jpeg with comment": save(picture(), "JPEG", comment=b"hello"),
}
OTHERS = {
    "alpha": save(ALPHA, "PNG"),
    "grey alpha": save(Image.fromarray(ALPHA).convert("LA"), "PNG"),
    "palette": save(Image.fromarray(picture()).quantize(32), "PNG"),
    "transparent colour": save(picture(), "PNG", transparency=tuple(picture()[3, 4].tolist())),
    "16 bits": save(Image.fromarray(GREY.astype(np.uint16) * 200), "PNG"),
    "1 bit": save(Image.fromarray(picture()).convert("1"), "PNG"),
    "turned png": with_orientation("PNG", 6),
    "turned jpeg": with_orientation("JPEG", 3),
    "turned by xmp": with_text(picture(), **{"XML:com.adobe.xmp": '<x tiff:Orientation="6"/>'}),
    "cmyk": save(Image.fromarray(picture()).convert("CMYK"), "JPEG"),
    "rgb jpeg": save(picture(), "JPEG", keep_rgb=True),
    "animation": save(picture(), "PNG", save_all=True, append_images=[Image.fromarray(picture(1))]),
    "webp": save(picture(), "WEBP"),
    "bmp": save(picture(), "BMP"),
    "tiff": save(picture(), "TIFF"),
    "empty": b"",
    "text": b"no image at all",
    "cut png": save(picture(), "PNG")[:-20],
    "cut jpeg": save(picture(), "JPEG")[:-200],
    "png and more": save(picture(), "PNG") + b"more",
    "flipped bit": save(picture(), "PNG")[:90] + b"\0\1\2" + save(picture(), "PNG")[93:],
    "tiny": save(picture(height=5, width=30), "PNG"),
    "too many pixels": with_chunk(save(picture(), "PNG"), b"tIME", bytes(7))[:16]
    + struct.pack(">II", 90000, 90000) + save(picture(), "PNG")[24:],
    "gamma too short": with_chunk(save(picture(), "PNG"), b"gAMA", b"\0\0"),
}  # fmt: skip
FILES = COMMON | OTHERS | {"bad table": with_bad_table(0)}


@pytest.fixture(scope="module")
def reader() -> DaliReader:
    return DaliReader(device="cpu", num_threads=2)


def fate(found: Pixels | DecodeError) -> str:
    return found.reason if isinstance(found, DecodeError) else str(found.shape)


def check_same(
    ours: Sequence[Pixels | DecodeError], plain: Sequence[Pixels | DecodeError], *, levels: int = 0
) -> None:
    assert [fate(found) for found in ours] == [fate(found) for found in plain]
    for one, other in zip(ours, plain, strict=True):
        if not isinstance(one, DecodeError) and not isinstance(other, DecodeError):
            assert one.dtype == np.uint8
            assert np.abs(one.astype(int) - other).max() <= levels


@pytest.mark.parametrize("name", COMMON)
def test_common_files_are_known_by_their_headers(name: str) -> None:
    assert is_common(COMMON[name], min_side=12)


@pytest.mark.parametrize("name", OTHERS)
def test_what_decoders_read_differently_is_known_too(name: str) -> None:
    assert not is_common(OTHERS[name], min_side=12)


def test_no_header_is_too_short_to_look_at() -> None:
    for data in FILES.values():
        assert not any(is_common(data[:length], min_side=1) for length in range(min(len(data) - 1, 400)))


def test_every_file_has_one_fate_and_the_same_pixels(reader: DaliReader) -> None:
    files = list(FILES.values())
    check_same(reader.decode(files), PlainReader().decode(files))
    check_same(reader.decode(files, min_side=1), PlainReader().decode(files, min_side=1))


def test_dali_reads_what_is_common(reader: DaliReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlainReader, "decode", lambda self, files, **_: [DecodeError("plain") for _ in files])
    found = reader.decode([*COMMON.values(), *OTHERS.values()])
    assert [fate(image) for image in found] == ["(60, 76, 3)"] * len(COMMON) + ["plain"] * len(OTHERS)


def test_a_file_that_ends_the_pipeline_costs_no_other(
    reader: DaliReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [save(picture(seed), "JPEG") for seed in range(20)]
    files = [*good[:5], with_bad_table(1), *good[5:11], with_bad_table(2), with_bad_table(3), *good[11:]]
    assert all(is_common(data, min_side=12) for data in files)
    expected = PlainReader().decode(files)
    assert Counter(map(type, expected)) == {np.ndarray: 20, DecodeError: 3}
    asked: list[bytes] = []

    def plain(self: PlainReader, files: Sequence[bytes], **_: Any) -> list[Pixels | DecodeError]:
        asked.extend(files)
        return [DecodeError("truncated or damaged") for _ in files]

    monkeypatch.setattr(PlainReader, "decode", plain)
    check_same(reader.decode(files), expected)
    assert asked == [files[5], files[12], files[13]]  # those at fault, and no other


def test_what_dali_refuses_though_it_is_in_order_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PlainReader, "decode", lambda self, files, **_: [picture() for _ in files])
    found = DaliReader(device="cpu", num_threads=1).decode([with_bad_table(seed) for seed in range(3)])
    assert [fate(image) for image in found] == ["(60, 76, 3)"] * 3
    said = capsys.readouterr().err
    assert said.count("DALI refuses a file that is in order (Failed to decode") == 1


def damaged(seed: int) -> bytes:
    """A small file cut short, or with some of its bits turned."""
    rng = np.random.default_rng(seed)
    data = bytearray(list(COMMON.values())[seed % len(COMMON)])
    if rng.random() < 0.4:
        return bytes(data[: rng.integers(1, len(data))])
    for place in rng.integers(0, len(data), rng.integers(1, 4)):
        data[place] ^= 1 << int(rng.integers(8))
    return bytes(data)


def test_damage_has_the_same_fate_whoever_reads(reader: DaliReader) -> None:
    files = [damaged(seed) for seed in range(400)]
    expected = PlainReader().decode(files)
    assert 100 < sum(isinstance(found, DecodeError) for found in expected) < 300
    check_same(reader.decode(files), expected)


def png_of(stream: bytes, *, width: int = WIDTH, height: int = HEIGHT, cut: int = 0) -> bytes:
    """A PNG of an RGB image's zlib stream, the last `cut` bytes of it in a chunk of their own, all checksums right."""
    parts = (stream[:-cut], stream[-cut:]) if cut else (stream,)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), *((b"IDAT", part) for part in parts), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def test_streams_damaged_under_right_checksums_have_the_same_fate(reader: DaliReader) -> None:
    rng = np.random.default_rng(0)
    raw = b"".join(bytes([row % 5]) + line.tobytes() for row, line in enumerate(picture()))
    whole, row = zlib.compress(raw), 3 * WIDTH + 1
    streams = [
        whole,
        whole[:-4],
        whole[:-4] + bytes(4),
        *map(zlib.compress, (raw[:-row], raw[:-9], raw + raw[:row])),
    ]
    for _ in range(40):
        stream = bytearray(whole)
        stream[rng.integers(len(stream))] ^= 1 << int(rng.integers(8))
        streams.append(bytes(stream))
    files = [png_of(stream, cut=cut) for stream in streams for cut in (0, 4, 7)]
    expected = PlainReader().decode(files)
    assert 50 < sum(isinstance(found, DecodeError) for found in expected) < len(files) - 5
    check_same(reader.decode(files), expected)


def test_a_stream_that_ends_in_a_piece_of_its_own_is_read_plainly(reader: DaliReader) -> None:
    """libpng does not look at what follows the last pixel there, and Pillow sees the wrong checksum."""
    pixels = picture(height=167, width=16)
    stream = zlib.compress(b"".join(b"\0" + line.tobytes() for line in pixels), 0)
    assert len(stream) % 8192 == 2
    wrong = png_of(stream[:-4] + bytes(4), width=16, height=167)
    assert not is_common(wrong, min_side=12)
    check_same(reader.decode([wrong]), [DecodeError("truncated or damaged")])
    check_same(reader.decode([png_of(stream, width=16, height=167)]), [pixels])


def test_pixels_do_not_depend_on_company_or_threads(reader: DaliReader) -> None:
    files = [save(picture(seed, height=40 + seed), "JPEG") for seed in range(40)]
    together = reader.decode(files)
    with ThreadPoolExecutor(6) as pool:
        alone = [found[0] for found in pool.map(reader.decode, [[data] for data in files])]
    check_same(alone, together)


def matrices(num: int, *, side: int, seed: int = 0) -> NDArray[np.float64]:
    """Turns, scales and shifts (N, 2, 3) from images of this side to crops, some of which lie half outside."""
    rng = np.random.default_rng(seed)
    scale, angle = rng.uniform(0.4, 2.5, num) * 112 / side, rng.uniform(-1, 1, num)
    a, b = scale * np.cos(angle), scale * np.sin(angle)
    turn = np.stack([np.stack([a, -b], -1), np.stack([b, a], -1)], 1)
    middle = rng.uniform(0.2, 0.8, (num, 2, 1)) * side
    return np.concatenate([turn, 56 - turn @ middle], axis=2)


@pytest.mark.parametrize("side", [112, 512])
def test_crops_are_those_of_opencv_within_a_level(reader: DaliReader, side: int) -> None:
    images = [picture(seed, height=side, width=side, noise=60) for seed in range(20)]
    files = [save(image, "PNG") for image in images]
    wanted = matrices(len(files), side=side)
    found = reader.align(files, wanted)
    judged = [cv2.warpAffine(image, matrix, (112, 112)) for image, matrix in zip(images, wanted, strict=True)]
    assert np.mean([(crop == 0).mean() for crop in judged]) > 0.05  # borders are among them
    check_same(found, judged, levels=1)
    check_same(PlainReader().align(files, wanted), judged, levels=1)


def test_crops_of_any_file_have_its_fate(reader: DaliReader) -> None:
    files = list(FILES.values())
    wanted = matrices(len(files), side=64, seed=1)
    check_same(reader.align(files, wanted), PlainReader().align(files, wanted), levels=1)


def test_crops_have_the_size_that_is_asked_for(reader: DaliReader) -> None:
    files, wanted = list(COMMON.values())[:3], matrices(3, side=64)
    check_same(reader.align(files, wanted, size=96), PlainReader().align(files, wanted, size=96), levels=1)


def test_no_files_are_no_images(reader: DaliReader) -> None:
    assert reader.decode([]) == []
    assert reader.align([], np.zeros((0, 2, 3))) == []


def test_bytes_that_cannot_be_had_cost_no_other(reader: DaliReader) -> None:
    def read(name: str) -> bytes:
        if name == "gone":
            raise OSError(5, "Input/output error")
        return FILES[name]

    found = decode_each(reader, read, ["png", "gone", "text"])
    assert np.array_equal(found[0], decode(FILES["png"]))  # type: ignore[arg-type]
    assert [type(image) for image in found[1:]] == [OSError, DecodeError]


def test_parts_keep_the_order() -> None:
    assert list(in_parts(range(7), 3)) == [(0, 1, 2), (3, 4, 5), (6,)]
    assert list(in_parts([], 3)) == []


def test_photographs_of_a_benchmark_are_aligned_alike(reader: DaliReader, tmp_path: Path) -> None:
    names = ["good.jpg", "gone.jpg", "torn.jpg", "folded.jpg", "torn and folded.jpg"]
    data = save(picture(height=200, width=160), "JPEG", quality=95)
    for name in names:
        if name != "gone.jpg":
            (tmp_path / name).write_bytes(data[:900] if name.startswith("torn") else data)
    points = np.array([[60, 80], [100, 82], [80, 110], [64, 130], [98, 131]], np.float32)
    landmarks = np.stack([points if "folded" not in name else np.ones((5, 2), np.float32) for name in names])
    crops = LooseCrops([tmp_path / name for name in names], landmarks)
    plain = crops.read_each(range(5), PlainReader())
    assert [fate(found) for found in plain] == [
        "(112, 112, 3)", "No such file or directory", "truncated or damaged",
        "landmarks that coincide or are not finite", "truncated or damaged",
    ]  # fmt: skip
    check_same(crops.read_each(range(5), reader), plain, levels=1)


def test_the_reader_is_written_down_where_it_is_not_the_plain_one() -> None:
    import nvidia.dali

    assert describe_reader("auto") == describe_reader("plain") == {}
    assert describe_reader("dali") == {"reader": f"dali {nvidia.dali.__version__}"}


def test_readers_are_opened_by_name() -> None:
    named: dict[str, Reader] = {
        name: open_reader(name, device="cpu", num_threads=1)  # type: ignore[arg-type]
        for name in ("auto", "plain", "dali")
    }
    assert {name: opened.name for name, opened in named.items()} == {
        "auto": "plain", "plain": "plain", "dali": "dali",
    }  # fmt: skip


def test_without_dali_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(UserError, match=r"reader dali: .*pip install 'd2r-fast\[gpu\]'"):
        open_reader("dali", device="cpu", num_threads=1)
    with pytest.raises(UserError, match="pip install"):
        describe_reader("dali")


def test_dali_is_imported_where_it_is_chosen_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    real = builtins.__import__

    def spy(name: str, *args: Any, **kwargs: Any) -> Any:
        imported.append(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", spy)
    open_reader("auto", device="cpu", num_threads=1).decode([FILES["png"]])
    assert not [name for name in imported if name.startswith("nvidia")]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_card_decodes_and_aligns_too() -> None:
    on_card = DaliReader(device="cuda:0", num_threads=2)
    files = list(FILES.values())
    check_same(on_card.decode(files), PlainReader().decode(files), levels=4)
    wanted = matrices(len(files), side=64)
    check_same(on_card.align(files, wanted), PlainReader().align(files, wanted), levels=5)
    assert on_card.num_at_once == dali.ON_CUDA
