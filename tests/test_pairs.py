"""Lists of pairs: crops read and embedded, the protocol in loops, and images or embeddings that are of no use."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from d2r_fast.engine.decode import DecodeError
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.recognition.evaluation import pairs as pairs_module
from d2r_fast.recognition.evaluation.bin_file import BinPairs, read_bin, write_bin
from d2r_fast.recognition.evaluation.crops import EncodedCrops, to_side
from d2r_fast.recognition.evaluation.embed_crops import embed_crops
from d2r_fast.recognition.evaluation.folds import pair_distances, val_at_far
from d2r_fast.recognition.evaluation.pairs import pairs_of_bin, verify_pairs

from .fakebench import CoarsePixels, encode, face, make_bin, pair_list


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    for seed, name in enumerate(("lfw", "cfp_fp")):
        make_bin(folder / f"{name}.bin", num=20 + seed, seed=seed)
    return folder


def loops(pairs: BinPairs, embeddings: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """Ten folds by the book: accuracies and thresholds of contiguous folds."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    distances = ((unit[0::2] - unit[1::2]) ** 2).sum(axis=1)
    accuracies, chosen = [], []
    for test in np.array_split(np.arange(len(distances)), 10):
        train = np.setdiff1d(np.arange(len(distances)), test)
        grid = np.arange(0, 4, 0.01)
        rates = [((distances[train] < threshold) == pairs.same[train]).mean() for threshold in grid]
        chosen.append(grid[int(np.argmax(rates))])
        accuracies.append(((distances[test] < chosen[-1]) == pairs.same[test]).mean())
    return accuracies, chosen


@pytest.mark.parametrize("flip", [True, False])
def test_pairs_equal_the_protocol_in_loops(benchmarks: Path, flip: bool) -> None:
    found, network = read_bin(benchmarks / "cfp_fp.bin"), CoarsePixels()
    crops = np.stack([EncodedCrops(found.images, "").read(row) for row in range(len(found.images))])
    raw = network(crops).astype(np.float64) + (network(crops[:, :, ::-1]) if flip else 0)
    accuracies, thresholds = loops(found, raw)
    result = verify_pairs(pairs_of_bin(found, source="cfp_fp.bin"), network, suite="cfp_fp", flip=flip)
    assert list(result.folds) == pytest.approx(accuracies)
    assert list(result.thresholds) == pytest.approx(thresholds)
    assert result.accuracy == pytest.approx(np.mean(accuracies))
    assert result.std == pytest.approx(np.std(accuracies))
    assert result.accuracy > 0.8, "patterns of one identity are alike"
    assert result.val_at_far == {"1e-3": None}, "a dozen impostor pairs show no thousandth"


def test_val_is_that_of_the_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs_module, "VAL_FAR", "1e-1")
    shots, same = pair_list(60)
    crops = [encode(face(*shot)) for shot in shots]
    network = CoarsePixels()
    result = verify_pairs(
        pairs_of_bin(BinPairs(crops, np.array(same)), source=""), network, suite="x", flip=False
    )
    raw = network(np.stack([face(*shot) for shot in shots]))
    expected = val_at_far(pair_distances(raw.astype(np.float64)), same, far=0.1).val
    assert expected is not None
    assert result.val_at_far == {"1e-1": pytest.approx(expected)}


def test_mirror_images_are_added_raw() -> None:
    """The sum weighs each by its length: not the same as adding unit vectors."""
    crops = EncodedCrops([encode(face(1, 2))], "")
    network = CoarsePixels()
    pixels = crops.read(0)[None]
    expected = network(pixels).astype(np.float64) + network(pixels[:, :, ::-1])
    found = embed_crops(crops, network, title="", dtype=np.float64)
    np.testing.assert_array_equal(found.embeddings, expected)


def test_an_image_is_embedded_once() -> None:
    shots, same = pair_list(30)
    pairs = pairs_of_bin(BinPairs([encode(face(*shot)) for shot in shots], np.array(same)), source="")
    network = CoarsePixels()
    verify_pairs(pairs, network, suite="lfw")
    assert network.num_crops == 2 * len(set(shots)) < 2 * len(shots)


def test_batches_do_not_matter(benchmarks: Path) -> None:
    pairs = pairs_of_bin(read_bin(benchmarks / "lfw.bin"), source="lfw.bin")
    one, other = (
        verify_pairs(pairs, CoarsePixels(), suite="lfw", batch_size=size) for size in (3, 64)
    )  # fmt: skip
    assert one == other


@pytest.mark.parametrize("side", [56, 96, 150, 300])
def test_other_sizes_are_resized_as_insightface_does(side: int) -> None:
    image = face(3, 1, size=side)
    expected = cv2.resize(image, (112, 112), interpolation=cv2.INTER_CUBIC)
    assert np.abs(to_side(image).astype(int) - expected).max() <= 1
    with pytest.raises(DecodeError, match="square"):
        to_side(image[:-1])


def test_unreadable_images(tmp_path: Path) -> None:
    make_bin(tmp_path / "lfw.bin", num=20)
    good = read_bin(tmp_path / "lfw.bin")
    images = [b"broken" if index in (0, 13) else image for index, image in enumerate(good.images)]
    pairs = pairs_of_bin(BinPairs(images, good.same), source="lfw.bin")
    lost = 1  # two broken images of the same bytes are one
    with pytest.raises(
        UserError, match=r"lfw: 1 of \d+ images cannot be used and 0 may.*image 0 of lfw\.bin: not a"
    ):
        verify_pairs(pairs, CoarsePixels(), suite="lfw")
    found = verify_pairs(pairs, CoarsePixels(), suite="lfw", max_unreadable=lost)
    kept = np.ones(20, bool)
    kept[[0, 6]] = False
    fewer = BinPairs([image for index, image in enumerate(good.images) if kept[index // 2]], good.same[kept])
    alone = verify_pairs(pairs_of_bin(fewer, source=""), CoarsePixels(), suite="lfw")
    assert (found.folds, found.thresholds, found.num_unreadable) == (alone.folds, alone.thresholds, lost)


def test_nothing_readable_is_no_result() -> None:
    pairs = pairs_of_bin(BinPairs([b"a", b"b"] * 10, np.array([True, False] * 5)), source="x.bin")
    with pytest.raises(UserError, match="2 of 2 images"):
        verify_pairs(pairs, CoarsePixels(), suite="x", max_unreadable=100)


def test_embeddings_that_are_not_finite(benchmarks: Path) -> None:
    def broken(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.full((len(crops), 4), np.nan, np.float32)

    pairs = pairs_of_bin(read_bin(benchmarks / "lfw.bin"), source="lfw.bin")
    with pytest.raises(RunError, match=r"image 0 of lfw\.bin is not finite"):
        verify_pairs(pairs, broken, suite="lfw")


def test_an_embedding_of_zero_is_named_by_its_image(benchmarks: Path) -> None:
    network = CoarsePixels()

    def blind(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Sees nothing in the last crops: after an image that was left out, rows have other numbers."""
        found = network(crops)
        found[-1] = 0
        return found

    found = read_bin(benchmarks / "lfw.bin")
    pairs = pairs_of_bin(BinPairs([b"broken", *found.images[1:]], found.same), source="lfw.bin")
    last = len(pairs.crops) - 1
    with pytest.raises(RunError, match=rf"embedding of image {last} of lfw\.bin is zero"):
        verify_pairs(pairs, blind, suite="lfw", flip=False, max_unreadable=1)


def test_no_more_is_embedded_once_too_many_images_are_lost(tmp_path: Path) -> None:
    shots, same = pair_list(40)
    images = [encode(face(*shot)) for shot in shots]
    pairs = pairs_of_bin(BinPairs([b"?", b"!", *images[2:-1], b"."], np.array(same)), source="lfw.bin")
    network = CoarsePixels()
    with pytest.raises(UserError, match=rf"lfw: 3 of {len(pairs.crops)} images cannot be used and 1 may"):
        verify_pairs(pairs, network, suite="lfw", batch_size=4, max_unreadable=1)
    assert network.num_crops == 0, "they are counted to the last all the same"


def test_crops_of_a_few_pixels_are_read() -> None:
    """What the published scripts read; only where a face is looked for must there be room for one."""
    assert EncodedCrops([encode(face(1, 1, size=5))], "").read(0).shape == (112, 112, 3)


def test_pairs_of_one_kind_are_named(tmp_path: Path) -> None:
    write_bin(tmp_path / "lfw.bin", [encode(face(row, 0)) for row in range(24)], [False] * 12)
    with pytest.raises(UserError, match="lfw: all 12 pairs are of two people"):
        verify_pairs(pairs_of_bin(read_bin(tmp_path / "lfw.bin"), source=""), CoarsePixels(), suite="lfw")
