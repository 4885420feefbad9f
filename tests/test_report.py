"""The report: one page that says what the dataset's tables say, whatever state the dataset is in."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from d2r_fast.engine import report, summary
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.gallery import exhibits
from d2r_fast.engine.histogram import Histogram
from d2r_fast.engine.models.card import RANDOM_LICENCE
from d2r_fast.engine.report import write_report
from d2r_fast.engine.source import open_source
from d2r_fast.engine.summary import summarise

from .fakereport import (
    NAMES,
    Page,
    fake_dataset,
    fake_document,
    flat,
    make_renders,
    read_rows,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished dataset, only to be read, with its report."""
    folder = tmp_path_factory.mktemp("made")
    fake_dataset(folder / "set", make_renders(folder / "renders", NAMES), names=NAMES, num_images=6)
    write_report(folder / "set")
    return folder / "set"


@pytest.fixture
def renders(tmp_path: Path) -> Path:
    return make_renders(tmp_path / "renders", NAMES)


def test_page_stands_alone(made: Path) -> None:
    page = Page(made / "report.html")
    assert page.links, "no pictures at all"
    for link in page.links:
        assert link.startswith(("data:", "#")), link
    assert "@import" not in page.html
    assert "<script" not in page.html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page.html))
    assert len(page.ids) == len(set(page.ids)), "an id twice: one chart's marks would show in another"
    targets = {link[1:] for link in page.links if link.startswith("#")}
    assert targets <= set(page.ids)


def test_numbers_are_those_of_the_tables(made: Path) -> None:
    rows = read_rows(made)
    page = Page(made / "report.html")
    counts = {
        status: sum(row["status"] == status for row in rows) for status in ("written", "rejected", "failed")
    }
    assert min(counts.values()) > 0, "the fixture must have some of each"
    assert f"Images written {counts['written']} of 30, {100 * counts['written'] / 30:.1f} %" in page.text
    assert f"Rejected {counts['rejected']} not exactly one face" in page.text
    assert f"Failed {counts['failed']} not drawn" in page.text
    cosines = [row["cos_prototype"] for row in rows if row["cos_prototype"] is not None]
    assert f"{np.mean(cosines):.2f} mean cosine to prototype, ± {np.std(cosines):.2f}" in page.text
    assert f"no face {counts['rejected']} " in page.text
    assert page.images.count("image 0 of ann") == 1
    assert sum(name.startswith("image ") for name in page.images) == counts["written"]
    assert "render 1.png of bob" in page.images


def test_summary_agrees_with_numpy(made: Path) -> None:
    found = summarise(made)
    rows = [row for row in read_rows(made) if row["status"] == "written"]
    identities = [
        row for path in sorted(made.glob("*_identities.parquet"))
        for row in pq.read_table(path, partitioning=None).to_pylist() if row["prototype"] is not None
    ]  # fmt: skip
    units = np.array([row["prototype"] for row in identities])
    cosines = (units @ units.T)[np.triu_indices(len(units), 1)]
    assert found.num_compared == 4
    assert found.between.num == len(cosines) == 6
    assert found.between.mean == pytest.approx(cosines.mean(), abs=1e-6)
    assert found.pairs[0].cosine == pytest.approx(cosines.max(), abs=1e-6)
    assert found.attempts == {
        n: sum(row["attempts"] == n for row in rows) for n in {row["attempts"] for row in rows}
    }
    assert found.t.mean == pytest.approx(np.mean([row["t"] for row in rows]))
    np.testing.assert_array_equal(found.t.counts, np.histogram([row["t"] for row in rows], 20, (0, 1))[0])
    assert sum(part.num for part in found.by_t) == len(rows)
    assert sum(part.total for part in found.latent_by_t) == pytest.approx(
        sum(row["cos_latent"] for row in rows)
    )
    assert found.reasons["rejected", "no face"] == found.statuses["rejected"] == found.problems.total()
    assert found.pending == 0


@pytest.mark.parametrize("num", [2, 3, 256, 257, 600])
def test_look_alikes_are_found_across_blocks(tmp_path: Path, num: int) -> None:
    rng = np.random.Generator(np.random.Philox(key=1))
    rows = rng.normal(size=(num, 8)).astype(np.float32)
    rows[-1] = 3 * rows[0]
    found = summary.Summary(tmp_path, {}, [])
    summary._compare(found, list(rows), [(str(index), "0.png") for index in range(num)])
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = np.sort((units @ units.T)[np.triu_indices(num, 1)])[::-1]
    assert found.between.num == num * (num - 1) // 2
    assert (found.pairs[0].first[0], found.pairs[0].second[0]) == ("0", str(num - 1))
    np.testing.assert_allclose([pair.cosine for pair in found.pairs], cosines[: summary.NUM_PAIRS], atol=1e-6)


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    names = ["<b>x", 'a" onload="y', "{{ 7*7 }}", "a&amp;b"]
    renders = make_renders(tmp_path / "renders", names)
    fake_dataset(tmp_path / "<i>set", renders, names=names)
    page = Page(write_report(tmp_path / "<i>set"))
    assert "<b>x" not in page.html
    assert "<i>set" not in page.html
    for name in names:
        assert name in page.text
        assert name == "{{ 7*7 }}" or f"image 0 of {name}" in page.images


def test_identities_shown_are_limited_and_spread(tmp_path: Path) -> None:
    names = [f"person-{index}" for index in range(9)]
    fake_dataset(tmp_path / "set", make_renders(tmp_path / "renders", names), names=names, num_images=2)
    shown = exhibits(summarise(tmp_path / "set"), limit=3)
    assert [exhibit.row.label for exhibit in shown] == [0, 4, 8]
    page = Page(write_report(tmp_path / "set", num_exhibits=3))
    assert "Shown are 3 identities, evenly spread; 6 are not shown" in page.text
    assert "render 0.png of person-4" in page.images
    assert "render 0.png of person-3" not in page.images


def test_many_images_of_one_identity_are_cut_off(tmp_path: Path, renders: Path) -> None:
    fake_dataset(tmp_path / "set", renders, names=["ann"], num_images=50)
    page = Page(write_report(tmp_path / "set"))
    assert "10 more images not shown" in page.text


def test_prototypes_are_sampled_when_there_are_many(
    tmp_path: Path, renders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_dataset(tmp_path / "set", renders, names=NAMES)
    for module in (summary, report):
        monkeypatch.setattr(module, "MAX_PROTOTYPES", 3)
    assert summarise(tmp_path / "set").num_compared == 3
    assert "Of 5 identities 3, evenly spread, are compared" in Page(write_report(tmp_path / "set")).text


@pytest.mark.parametrize("format", ["webdataset", "imagefolder"])
def test_pictures_are_those_of_the_dataset(tmp_path: Path, renders: Path, format: str) -> None:
    fake_dataset(tmp_path / "set", renders, names=NAMES, format=format)
    shown = exhibits(summarise(tmp_path / "set"), limit=5, renders=open_source(renders))
    tiles = [tile for exhibit in shown for group in exhibit.groups for tile in group.tiles]
    for tile in tiles:
        assert (tile.picture is not None) == (tile.row.status == "written")
        if tile.picture is not None:
            wanted = flat(tile.row.label, tile.row.image)[0, 0]
            np.testing.assert_allclose(pixel(tile.picture), wanted, atol=8)
    assert {group.name for group in shown[1].groups} == {"0.png", "1.png"}
    np.testing.assert_allclose(pixel(shown[1].groups[1].picture), (200, 30, 90), atol=8)


def pixel(uri: str | None) -> np.ndarray[Any, Any]:
    assert uri is not None
    data = base64.b64decode(uri.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[56, 56].astype(int)


def test_unfinished_dataset_is_reported_as_far_as_it_goes(tmp_path: Path, renders: Path) -> None:
    fake_dataset(tmp_path / "set", renders, names=NAMES, shards=range(1, 2))
    page = Page(write_report(tmp_path / "set"))
    assert "Unfinished: 1 of 3 shards" in page.text
    assert "12 of 20 images are still to be made" in page.text
    assert "render 0.png of di" in page.images
    assert "render 0.png of ann" not in page.images


def test_dataset_without_a_shard(tmp_path: Path, renders: Path) -> None:
    fake_dataset(tmp_path / "set", renders, names=NAMES, shards=range(0))
    (tmp_path / "set" / "events.jsonl").unlink()
    page = Page(write_report(tmp_path / "set"))
    assert "Unfinished: 0 of 3 shards" in page.text
    assert "No image has been written yet." in page.text
    assert "No times are known" in page.text
    assert page.images == []


def test_dataset_of_nothing_but_failures(
    tmp_path: Path, renders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_dataset(tmp_path / "set", renders, names=NAMES[:3], per_shard=1, shards=range(2, 3))
    page = Page(write_report(tmp_path / "set"))
    assert "4 images failed" in page.text
    assert "1 usable of 2 images, 2 needed" in page.text
    assert "Speed" in page.text


def test_untrained_models_are_said_to_be(made: Path, tmp_path: Path, renders: Path) -> None:
    fake_dataset(tmp_path / "random", renders, names=NAMES, models_kind="random", licence=RANDOM_LICENCE)
    assert (
        "Untrained models: these images are noise by design" in Page(write_report(tmp_path / "random")).text
    )
    document = fake_document(renders, 1, 1, 1)
    assert report.untrained(document) == []
    document["models"]["unet"]["licence"] = RANDOM_LICENCE
    assert report.untrained(document) == ["unet"]
    assert "Untrained" not in Page(made / "report.html").text


def test_renders_that_are_gone(tmp_path: Path, renders: Path) -> None:
    fake_dataset(tmp_path / "set", renders, names=NAMES)
    renders.rename(tmp_path / "elsewhere")
    page = Page(write_report(tmp_path / "set"))
    assert f"The renders are no longer at {renders}" in page.text
    assert "image 0 of ann" in page.images
    assert not [name for name in page.images if "render" in name]


def test_log_that_is_gone(tmp_path: Path, renders: Path) -> None:
    fake_dataset(tmp_path / "set", renders, names=NAMES)
    (tmp_path / "set" / "events.jsonl").unlink()
    page = Page(write_report(tmp_path / "set"))
    assert "Where the renders were is not known without events.jsonl" in page.text
    assert "No times are known" in page.text
    assert "image 0 of ann" in page.images


def test_times_come_from_all_runs_and_a_torn_line_is_passed_over(tmp_path: Path, renders: Path) -> None:
    fake_dataset(tmp_path / "set", renders, names=NAMES)
    shard = {"event": "shard", "images": 10, "stage_s": {"denoise": 9.0, "write": 1.0}}
    start = {"event": "start", "source": "/away", "device": "cuda:0"}
    events = [
        start | {"time": 1000.0}, shard | {"time": 1020.0, "shard": 0},
        start | {"time": 5000.0}, shard | {"time": 5030.0, "shard": 1},
    ]  # fmt: skip
    lines = "".join(json.dumps(event) + "\n" for event in events)
    (tmp_path / "set" / "events.jsonl").write_text(lines + '{"event": "shard", "ti')
    log = summarise(tmp_path / "set").log
    assert (log.num_runs, log.num_images, log.wall_s) == (2, 20, 50.0)
    assert log.stage_s == {"denoise": 18.0, "write": 2.0}
    page = Page(write_report(tmp_path / "set"))
    assert "made 1970-01-01 00:16 UTC on cuda:0" in page.text
    assert "Images per second 0.4 20 in 50 s" in page.text
    assert re.search(r"denoise draw in latent space, step by step 18 s 90\.0 % 1\.11", page.text)


def test_same_folder_same_page(made: Path, tmp_path: Path) -> None:
    again = write_report(made, out=tmp_path / "again.html")
    assert again == tmp_path / "again.html"
    assert again.read_bytes() == (made / "report.html").read_bytes()


def test_settings_say_what_differs_from_the_defaults(made: Path) -> None:
    changed = {row["name"] for row in report.settings(summarise(made)) if row["changed"]}
    assert changed == {"images_per_identity", "source_images_per_identity", "steps"}


def test_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no dataset of d2r-fast") as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)


def test_out_that_cannot_be_a_file(made: Path, tmp_path: Path) -> None:
    for out in (tmp_path, tmp_path / "absent" / "page.html"):
        with pytest.raises(UserError, match="give --out a file name"):
            write_report(made, out=out)


@pytest.mark.parametrize(
    "name", ["00001.parquet", "00001_identities.parquet", "00001_errors.jsonl", "00001.tar"]
)
def test_damaged_file_is_named(tmp_path: Path, renders: Path, name: str) -> None:
    fake_dataset(tmp_path / "set", renders, names=NAMES, num_images=8)
    path = tmp_path / "set" / name
    path.write_bytes(b"?" * path.stat().st_size)
    with pytest.raises(RunError, match=rf"{name} is damaged") as caught:
        write_report(tmp_path / "set")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "set" / "report.html").exists()


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 7, "0 %"),
        (7, 7, "100 %"),
        (1, 8, "12.5 %"),
        (1, 10**6, "< 0.1 %"),
        (10**6 - 1, 10**6, "> 99.9 %"),
        (1, 0, report.NOTHING),
    ],
)
def test_shares_never_round_to_all_or_nothing(part: int, whole: int, text: str) -> None:
    assert report.share(part, whole) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.126, "0.13"),
        (-0.126, "-0.13"),
        (-0.001, "0.00"),
        (None, report.NOTHING),
        (float("nan"), report.NOTHING),
    ],
)
def test_decimals(value: float | None, text: str) -> None:
    assert report.decimals(value) == text.replace("-", report.MINUS)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.424, "0.42 s"), (12.4, "12 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert report.duration(seconds) == text


def test_histogram_agrees_with_numpy() -> None:
    rng = np.random.Generator(np.random.Philox(key=2))
    values = rng.normal(0.3, 0.2, 5000)
    histogram = Histogram(-1, 1, 50)
    for part in np.array_split(values, 7):
        histogram.add(np.append(part, np.nan))
    np.testing.assert_array_equal(histogram.counts, np.histogram(values.clip(-1, 1), 50, (-1, 1))[0])
    assert histogram.num == 5000
    assert histogram.mean == pytest.approx(values.mean())
    assert histogram.std == pytest.approx(values.std())
    for share in (0.05, 0.5, 0.95):
        assert histogram.quantile(share) == pytest.approx(np.quantile(values, share), abs=0.04)
    assert np.isnan(Histogram(0, 1, 4).mean)
    assert np.isnan(Histogram(0, 1, 4).quantile(0.5))
