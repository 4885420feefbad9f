"""IJB-B and IJB-C: the meta files and their cross checks, alignment, fusion, and pairs scored from photographs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from d2r_fast.engine.align import align
from d2r_fast.engine.decode import decode
from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.evaluation.columns import read_columns
from d2r_fast.recognition.evaluation.fusion import Fusion, parse_fusion
from d2r_fast.recognition.evaluation.ijb import IjbFiles, read_ijb
from d2r_fast.recognition.evaluation.results import by_fusion
from d2r_fast.recognition.evaluation.verify_ijb import verify_ijb

from .fakebench import CoarsePixels, IjbRows, face, make_ijb, write_ijb_meta

ALL = Fusion(flip=True, norm=True, detector=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "IJBB"


def test_reads_what_is_listed(folder: Path) -> None:
    rows = make_ijb(folder)
    ijb = read_ijb(IjbFiles("ijbb", folder))
    assert [path.name for path in ijb.crops.paths] == rows.names
    np.testing.assert_array_equal(ijb.crops.landmarks, rows.landmarks)
    np.testing.assert_array_equal(ijb.detector_scores, rows.scores.astype(np.float32))
    np.testing.assert_array_equal(ijb.template_ids, rows.templates)
    np.testing.assert_array_equal(ijb.media_ids, rows.media)
    np.testing.assert_array_equal(np.stack([ijb.first, ijb.second, ijb.same], axis=1), rows.pairs)


def test_crops_are_aligned_by_the_landmarks(folder: Path) -> None:
    rows = make_ijb(folder)
    crops = read_ijb(IjbFiles("ijbb", folder)).crops
    image = decode((folder / "loose_crop" / rows.names[3]).read_bytes())
    expected = align(torch.tensor(image)[None], torch.from_numpy(rows.landmarks[3:4]))[0].numpy()
    np.testing.assert_array_equal(crops.read(3), expected)


def test_landmarks_in_place_give_the_face_back(folder: Path) -> None:
    """A face pasted at (30, 20) comes back as it was, but for JPEG and half a pixel of jitter in the landmarks."""
    rows = make_ijb(folder, num_templates=4)
    crops = read_ijb(IjbFiles("ijbb", folder)).crops
    row = rows.names.index("1.jpg")
    assert np.abs(crops.read(row)[8:-8, 8:-8].astype(int) - face(0, 0)[8:-8, 8:-8]).mean() < 4


def reference_scores(rows: IjbRows, embeddings: NDArray[np.float32], fusion: Fusion) -> NDArray[np.float64]:
    """The protocol of formats as loops: weigh, mean per medium, sum over media, unit length, dot product."""
    templates = {}
    for template in set(rows.templates.tolist()):
        total = np.zeros(embeddings.shape[1])
        for medium in set(rows.media[rows.templates == template].tolist()):
            chosen = np.flatnonzero((rows.templates == template) & (rows.media == medium))
            vectors = [embeddings[row].astype(np.float64) for row in chosen]
            if not fusion.norm:
                vectors = [vector / np.linalg.norm(vector) for vector in vectors]
            if fusion.detector:
                vectors = [vector * rows.scores[row] for vector, row in zip(vectors, chosen, strict=True)]
            total += np.mean(vectors, axis=0)
        templates[template] = total / np.linalg.norm(total)
    return np.array([templates[first] @ templates[second] for first, second, _ in rows.pairs])


@pytest.mark.parametrize("fusion", ["insightface", "adaface", "F1N0D1", "F0N1D1", "F0N0D0"])
def test_equals_the_protocol_in_loops(folder: Path, fusion: str) -> None:
    rows, network, switches = make_ijb(folder), CoarsePixels(), parse_fusion(fusion)
    ijb = read_ijb(IjbFiles("ijbb", folder))
    crops = np.stack([ijb.crops.read(row) for row in range(len(rows.names))])
    embeddings = network(crops) + (network(crops[:, :, ::-1]) if switches.flip else 0)
    scores = reference_scores(rows, embeddings, switches)
    same = rows.pairs[:, 2].astype(bool)
    thresholds = np.unique(scores)
    far = np.array([(scores[~same] >= threshold).mean() for threshold in thresholds])
    tar = np.array([(scores[same] >= threshold).mean() for threshold in thresholds])
    near = np.abs(far - 0.1)
    result = verify_ijb(ijb, network, suite="ijbb", fusion=switches, batch_size=5)
    assert result.fusion == str(switches)
    assert result.tar_at_far["1e-1"] == pytest.approx(tar[np.flatnonzero(near == near.min())].max())
    assert (result.num_genuine, result.num_impostor) == (int(same.sum()), int((~same).sum()))
    assert result.roc is not None
    accepted = result.roc.thresholds[1:]
    np.testing.assert_allclose(
        accepted, thresholds[[np.argmin(np.abs(thresholds - t)) for t in accepted]], atol=1e-6
    )


def test_a_rate_that_is_not_reached_is_not_zero(folder: Path) -> None:
    make_ijb(folder)
    result = verify_ijb(read_ijb(IjbFiles("ijbb", folder)), CoarsePixels(), suite="ijbb", fusion=ALL)
    assert result.tar_at_far["1e-6"] is None
    assert result.tar_at_far["1e-1"] is not None
    assert result.accuracy is None
    assert result.folds == ()


def test_one_pass_gives_every_fusion_of_its_flip(folder: Path) -> None:
    make_ijb(folder)
    ijb, network = read_ijb(IjbFiles("ijbb", folder)), CoarsePixels()
    found = verify_ijb(ijb, network, suite="ijbb", fusion=parse_fusion("F0N1D0"))
    assert network.num_crops == len(ijb.crops)
    assert set(found.fusions) == {"F0N1D1", "F0N0D1", "F0N0D0"}
    for name, one in by_fusion(found).items():
        alone = verify_ijb(ijb, network, suite="ijbb", fusion=parse_fusion(name))
        assert replace(alone, fusions={}) == one
        assert one.roc is not None
        assert alone.roc is not None
        np.testing.assert_array_equal(alone.roc.thresholds, one.roc.thresholds)


def test_a_fusion_that_cannot_be_made_does_not_stop_the_one_that_is_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_ijb(folder)
    ijb, network = read_ijb(IjbFiles("ijbb", folder)), CoarsePixels()
    of_first = ijb.template_ids == ijb.template_ids[0]
    faceless = replace(ijb, detector_scores=np.where(of_first, 0, ijb.detector_scores).astype(np.float32))
    found = verify_ijb(faceless, network, suite="ijbb", fusion=parse_fusion("adaface"))
    assert set(by_fusion(found)) == {"F1N1D0", "F1N0D0"}
    assert "fusion F1N1D1 cannot be shown beside it" in capsys.readouterr().err
    with pytest.raises(UserError, match="ijbb: "):
        verify_ijb(faceless, network, suite="ijbb", fusion=parse_fusion("insightface"))


def test_switches_change_the_result(folder: Path) -> None:
    make_ijb(folder)
    ijb, network = read_ijb(IjbFiles("ijbb", folder)), CoarsePixels()
    curves = [
        verify_ijb(ijb, network, suite="ijbb", fusion=parse_fusion(f"F{f}N{n}D{d}")).roc
        for f in (0, 1) for n in (0, 1) for d in (0, 1)
    ]  # fmt: skip
    assert len({tuple(curve.thresholds.tolist()) for curve in curves if curve}) == 8


def test_batches_do_not_matter(folder: Path) -> None:
    make_ijb(folder)
    ijb, network = read_ijb(IjbFiles("ijbb", folder)), CoarsePixels()
    results = [verify_ijb(ijb, network, suite="ijbb", fusion=ALL, batch_size=size) for size in (1, 7, 100)]
    assert results[0] == results[1] == results[2]
    assert network.num_crops == 3 * 2 * len(ijb.crops)


def test_unreadable_images_leave_their_template(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = make_ijb(folder)
    lost = [name for name, template in zip(rows.names, rows.templates, strict=True) if template == 10]
    for name in lost:
        (folder / "loose_crop" / name).write_bytes(b"not an image")
    ijb = read_ijb(IjbFiles("ijbb", folder))
    with pytest.raises(
        UserError,
        match=rf"ijbb: {len(lost)} of {len(rows.names)} images cannot be used.*{lost[0]}: not a PNG",
    ):
        verify_ijb(ijb, CoarsePixels(), suite="ijbb", fusion=ALL, max_unreadable=len(lost) - 1)
    found = verify_ijb(ijb, CoarsePixels(), suite="ijbb", fusion=ALL, max_unreadable=len(lost))
    assert found.num_unreadable == len(lost)
    assert "7 pairs of templates without a readable image are left out" in capsys.readouterr().err
    kept = rows.templates != 10
    pairs = rows.pairs[(rows.pairs[:, :2] != 10).all(axis=1)]
    fewer = IjbRows(
        [name for name in rows.names if name not in lost], rows.landmarks[kept], rows.scores[kept],
        rows.templates[kept], rows.media[kept], pairs,
    )  # fmt: skip
    write_ijb_meta(folder, "ijbb", fewer)
    again = verify_ijb(read_ijb(IjbFiles("ijbb", folder)), CoarsePixels(), suite="ijbb", fusion=ALL)
    fusions = {name: replace(one, num_unreadable=0) for name, one in found.fusions.items()}
    assert replace(found, num_unreadable=0, fusions=fusions) == again


def test_landmarks_that_coincide_are_an_unreadable_image(folder: Path) -> None:
    rows = make_ijb(folder)
    landmarks = rows.landmarks.copy()
    landmarks[2] = 50
    write_ijb_meta(folder, "ijbb", replace(rows, landmarks=landmarks))
    with pytest.raises(UserError, match=rf"1 of .*{rows.names[2]}: landmarks that coincide"):
        verify_ijb(read_ijb(IjbFiles("ijbb", folder)), CoarsePixels(), suite="ijbb", fusion=ALL)


def drop_row(rows: IjbRows, folder: Path) -> None:
    _edit(folder / "meta" / "ijbb_face_tid_mid.txt", lambda lines: lines[:-1])


def swap_rows(rows: IjbRows, folder: Path) -> None:
    _edit(
        folder / "meta" / "ijbb_face_tid_mid.txt", lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]]
    )


def unknown_template(rows: IjbRows, folder: Path) -> None:
    _edit(folder / "meta" / "ijbb_template_pair_label.txt", lambda lines: [*lines[:6], "10 99 1", *lines[7:]])


def odd_label(rows: IjbRows, folder: Path) -> None:
    _edit(folder / "meta" / "ijbb_template_pair_label.txt", lambda lines: [*lines[:3], "10 20 2", *lines[4:]])


def short_pair(rows: IjbRows, folder: Path) -> None:
    _edit(folder / "meta" / "ijbb_template_pair_label.txt", lambda lines: [*lines[:3], "10 20", *lines[4:]])


def float_pair(rows: IjbRows, folder: Path) -> None:
    _edit(
        folder / "meta" / "ijbb_template_pair_label.txt", lambda lines: [*lines[:3], "10 20 1.0", *lines[4:]]
    )


def short_points(rows: IjbRows, folder: Path) -> None:
    _edit(folder / "meta" / "ijbb_name_5pts_score.txt", lambda lines: [lines[0], "2.jpg 1 2 3", *lines[2:]])


def nan_points(rows: IjbRows, folder: Path) -> None:
    _edit(
        folder / "meta" / "ijbb_name_5pts_score.txt",
        lambda lines: [lines[0], lines[1].rsplit(" ", 1)[0] + " nan", *lines[2:]],
    )


def no_pairs(rows: IjbRows, folder: Path) -> None:
    (folder / "meta" / "ijbb_template_pair_label.txt").write_text("\n")


def no_file(rows: IjbRows, folder: Path) -> None:
    (folder / "meta" / "ijbb_face_tid_mid.txt").unlink()


def _edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop_row, r"ijbb_name_5pts_score\.txt has (\d+) rows and .*ijbb_face_tid_mid\.txt (\d+)"),
        (swap_rows, r"ijbb_face_tid_mid\.txt line 5 is about \d+\.jpg and line 5 of ijbb_name_5pts"),
        (unknown_template, r"template_pair_label\.txt line 7 compares templates 10 and 99"),
        (odd_label, r"template_pair_label\.txt line 4 has label 2"),
        (short_pair, r"template_pair_label\.txt line 4 is '10 20', wanted is int int int"),
        (float_pair, r"template_pair_label\.txt line 4 is '10 20 1\.0'"),
        (short_points, r"name_5pts_score\.txt line 2 is '2\.jpg 1 2 3', wanted is str float"),
        (nan_points, r"name_5pts_score\.txt line 2 has a landmark or score that is not finite"),
        (no_pairs, r"template_pair_label\.txt is empty"),
        (no_file, r"face_tid_mid\.txt cannot be read \(No such file"),
    ],
)
def test_files_that_disagree(folder: Path, spoil: Callable[[IjbRows, Path], None], message: str) -> None:
    spoil(make_ijb(folder), folder)
    with pytest.raises(UserError, match=message) as error:
        read_ijb(IjbFiles("ijbb", folder))
    assert "\n" not in str(error.value)


def test_columns_of_integers(tmp_path: Path) -> None:
    """Fast and slow ways agree on spaces, tabs, line ends and blank lines."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"1 2 0\n\n  3\t-4   1 \r\n9223372036854775807 6 1")
    for kinds in ([int, int, int], [int, float, int]):
        columns = read_columns(path, kinds)
        assert columns[0].tolist() == [1, 3, 2**63 - 1]
        assert columns[1].tolist() == [2, -4, 6]
        assert columns[2].tolist() == [0, 1, 1]
    path.write_bytes(b"1 2 0\n9223372036854775808 6 1\n")
    with pytest.raises(UserError, match="line 2 is '9223372036854775808 6 1'"):
        read_columns(path, [int, int, int])


@pytest.mark.parametrize(
    ("text", "triple"),
    [("insightface", "F1N1D1"), ("AdaFace", "F1N1D0"), ("F0N1D1", "F0N1D1"), ("n1d0f1", "F1N1D0")],
)
def test_fusion_names(text: str, triple: str) -> None:
    assert str(parse_fusion(text)) == triple


@pytest.mark.parametrize("text", ["", "cvlface", "F1N1", "F1N1D2", "F1N1D1F0", "F1F1D1"])
def test_unknown_fusion(text: str) -> None:
    with pytest.raises(ValueError, match="insightface, adaface, or a triple"):
        parse_fusion(text)
