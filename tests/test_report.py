"""The report: one page that says what the dataset's tables say, whatever state the dataset is in."""

import base64
import io
import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from d2r_fast.engine import report, summary
from d2r_fast.engine import source as sources
from d2r_fast.engine.config import Recipe
from d2r_fast.engine.demo import run_demo
from d2r_fast.engine.embedding_file import ROWS_PER_GROUP, EmbeddingWriter, read_embeddings, schema
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.gallery import exhibits
from d2r_fast.engine.histogram import Histogram
from d2r_fast.engine.marker import document_digest, read_marker
from d2r_fast.engine.models.card import RANDOM_LICENCE
from d2r_fast.engine.report import write_report
from d2r_fast.engine.rows import IdentityRow, ImageRow, Problem
from d2r_fast.engine.summary import summarise
from d2r_fast.engine.write import encode, write_shard

from .fakedata import open_dataset

NUM_SOURCES, NO_FACE = 2, "no face"
NAMES = ["ann", "bob", "cy", "di", "ed"]
FAILED = "1 usable of 2 images, 2 needed (source_images_per_identity)"
Crop = Callable[[int, int], np.ndarray[Any, np.dtype[np.uint8]]]


def flat(label: int, image: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.full((112, 112, 3), (40 * label % 256, 20 * image % 256, 128), np.uint8)


def fake_document(
    renders: Path, num_identities: int, num_images: int, per_shard: int, **changes: Any
) -> dict[str, Any]:
    recipe = Recipe(images_per_identity=num_images, source_images_per_identity=NUM_SOURCES, steps=4)
    licence = changes.pop("licence", "MIT")
    return {
        "schema": 1, "format": "webdataset", "recipe": recipe.model_dump(mode="json"),
        "models": {network: {"file": f"{network}.safetensors", "sha256": 64 * digit, "licence": licence}
                   for network, digit in (("unet", "a"), ("encoder", "b"), ("recogniser", "c"))},
        "models_kind": "released",
        "source": {"name": renders.name, "fingerprint": 64 * "d", "num_identities": num_identities},
        "versions": {"d2r-fast": "0.1.0", "torch": "2.13"}, "licences": [licence],
        "plan": {"num_identities": num_identities, "images_per_identity": num_images,
                 "wanted": num_identities * num_images, "identities_per_shard": per_shard,
                 "num_shards": -(-num_identities // per_shard)},
    } | changes  # fmt: skip


def fake_dataset(
    folder: Path, renders: Path, *, names: list[str], num_images: int = 4, per_shard: int = 2,
    shards: range | None = None, crop: Crop = flat, **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    """A dataset of made-up numbers, written by the real writer.

    Every seventh image is rejected, and identity 2 has failed if there is one. It is finished where no shards
    are given.
    """
    document = fake_document(renders, len(names), num_images, per_shard, **changes)
    rng = np.random.Generator(np.random.Philox(key=7))
    units = rng.normal(size=(len(names), 16)) + 0.6
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    stage_s = {"embed": 0.5, "denoise": 6.0, "vae": 2.0, "detect": 1.0, "write": 0.5}
    with open_dataset(folder, document) as dataset:
        dataset.log("start", source=str(renders), device="cpu", batch_size=8)
        for shard in shards if shards is not None else range(document["plan"]["num_shards"]):
            labels = range(shard * per_shard, min((shard + 1) * per_shard, len(names)))
            rows = [row for label in labels for row in fake_rows(rng, label, names[label], num_images)]
            written = [row for row in rows if row.status == "written"]
            write_shard(
                folder, shard, rows=rows, format=document["format"], image_format="jpg",
                images={row.key: encode(crop(row.label, row.image), "jpg", 95) for row in written},
                identities=[fake_identity(label, names[label], units[label]) for label in labels],
                errors=[
                    Problem(stage="accept", identity=r.identity, key=r.key, error="Rejected", reason=NO_FACE)
                    for r in rows
                    if r.status == "rejected"
                ],
            )  # fmt: skip
            dataset.log("shard", shard=shard, images=len(rows), stage_s=stage_s)
        if shards is None:
            dataset.finish()
            dataset.log("end")
    return document


def fake_identity(label: int, name: str, unit: np.ndarray[Any, Any]) -> IdentityRow:
    if label == 2:
        return IdentityRow(label=label, identity=name, sources=["0.png"], status="failed", reason=FAILED)
    sources = [f"{k}.png" for k in range(NUM_SOURCES)]
    return IdentityRow(label=label, identity=name, sources=sources, prototype=unit.tolist(), status="used")


def fake_rows(rng: np.random.Generator, label: int, name: str, num_images: int) -> Iterator[ImageRow]:
    ts = rng.beta(2, 2, NUM_SOURCES).tolist()
    for image in range(num_images):
        at = {"key": f"{label:06d}_{image:03d}", "label": label, "identity": name, "image": image}
        if label == 2:
            yield ImageRow(**at, status="failed", reason=FAILED)
            continue
        latent = image * NUM_SOURCES // num_images
        t = ts[latent]
        at |= {"source": f"{latent}.png", "latent": latent, "t": t}
        if (label * num_images + image) % 7 == 3:
            yield ImageRow(**at, status="rejected", reason="no face", attempts=3)
            continue
        yield ImageRow(
            **at, status="written", attempts=1 + int(rng.random() < 0.1), score=0.99, box=[1.0, 2, 3, 4],
            landmarks=[float(k) for k in range(10)], cos_prototype=float(rng.normal(0.72 - 0.2 * t, 0.06)),
            cos_latent=float(rng.normal(0.75, 0.05)),
        )  # fmt: skip


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


def make_renders(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
        for k in range(NUM_SOURCES):
            Image.new("RGB", (112, 112), (200, 30 * k, 90)).save(folder / name / f"{k}.png")
    return folder


class Page(HTMLParser):
    """What a browser makes of the page; every element must be closed in order."""

    VOID = frozenset({"meta", "link", "img", "br", "path", "circle", "use", "rect"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.images: list[str] = []
        self.chunks: list[str] = []
        self.feed(self.html)
        self.close()
        self.text = " ".join(" ".join(self.chunks).split())
        assert self.open == [], "elements left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        given = dict(attrs)
        self.links += [
            str(value) for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data")
        ]
        self.ids += [str(given["id"])] if "id" in given else []
        if tag == "img":
            self.images.append(str(given["alt"]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.chunks.append(data)


def read_rows(dataset: Path) -> list[dict[str, Any]]:
    paths = sorted(path for path in dataset.glob("*.parquet") if "identities" not in path.name)
    return [row for path in paths for row in pq.read_table(path, partitioning=None).to_pylist()]


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
    shown = exhibits(summarise(tmp_path / "set"), limit=5)
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


def one_line(caught: pytest.ExceptionInfo[Exception], *parts: str) -> None:
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


SECTIONS = ["recipe", "models", "versions", "source", "plan", "format", "licences"]
WRONG = [
    (key, value) for key in SECTIONS for value in (None, 5, "text", []) if (key, value) != ("licences", [])
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_document_without_a_section(tmp_path: Path, renders: Path, key: str, value: Any) -> None:
    document = fake_document(renders, 1, 1, 1)
    for damaged in ({k: v for k, v in document.items() if k != key}, document | {key: value}):
        (tmp_path / "dataset.json").write_text(json.dumps(damaged))
        with pytest.raises(UserError, match=r"dataset\.json is damaged") as caught:
            write_report(tmp_path)
        one_line(caught)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("plan", "num_shards", 10**9),
        ("plan", "num_shards", "1"),
        ("plan", "identities_per_shard", 0),
        ("plan", "wanted", -1),
        ("plan", "wanted", True),
        ("recipe", "alpha", "2"),
        ("recipe", "image_format", None),
        ("versions", "d2r-fast", None),
        ("source", "fingerprint", 5),
        ("models", "unet", "x.safetensors"),
        ("models", "unet", {"file": "x"}),
    ],
)
def test_document_with_a_bad_field(
    tmp_path: Path, renders: Path, section: str, field: str, value: Any
) -> None:
    document = fake_document(renders, 1, 1, 1)
    document[section][field] = value
    (tmp_path / "dataset.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"dataset\.json is damaged") as caught:
        write_report(tmp_path)
    one_line(caught)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", '"\\ud800"', "[" * 100_000])
def test_document_of_impossible_values(tmp_path: Path, number: str) -> None:
    (tmp_path / "dataset.json").write_text(f'{{"plan": {{}}, "x": {number}}}')
    with pytest.raises(UserError, match="is damaged") as caught:
        write_report(tmp_path)
    one_line(caught)


def test_document_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").mkdir()
    with pytest.raises(UserError, match=r"dataset\.json cannot be read") as caught:
        write_report(tmp_path)
    one_line(caught)


@pytest.mark.parametrize("name", ["00000_stats.json", "00000.tar", "00000.parquet"])
def test_shard_with_a_folder_or_loop_for_a_file_is_not_finished(
    tmp_path: Path, renders: Path, name: str
) -> None:
    document = fake_dataset(tmp_path / "set", renders, names=NAMES)
    for spoil in (lambda path: path.mkdir(), lambda path: path.symlink_to(path.name)):
        path = tmp_path / "set" / name
        path.rmdir() if path.is_dir() else path.unlink()
        spoil(path)
        with pytest.raises(ValueError, match=name):
            read_marker(tmp_path / "set", 0, format="webdataset", dataset=document_digest(document))
        assert summarise(tmp_path / "set").shards == [1, 2]


GOOD_SHARD = {"event": "shard", "time": 20.0, "images": 10, "stage_s": {"vae": 1.0}}


@pytest.mark.parametrize(
    "event",
    [
        5, None, [], "start", {}, {"event": "start"}, {"time": 5.0},
        {"event": "start", "time": 5.0, "source": None, "device": "cpu"},
        {"event": "start", "time": 5.0, "source": "a\0b", "device": "cpu"},
        {"event": [], "time": 5.0}, {"event": "end", "time": float("nan")}, {"event": "end", "time": 1e300},
        {"event": "end", "time": "now"}, {"event": "end", "time": -1e9}, {"event": "end", "time": True},
        GOOD_SHARD | {"images": "10"}, GOOD_SHARD | {"images": 10**400}, GOOD_SHARD | {"stage_s": [1]},
        GOOD_SHARD | {"stage_s": {"vae": None}}, GOOD_SHARD | {"stage_s": {"vae": float("nan")}},
    ],
)  # fmt: skip
def test_damaged_events_are_passed_over(tmp_path: Path, renders: Path, event: Any) -> None:
    fake_dataset(tmp_path / "set", renders, names=NAMES)
    events = [{"event": "start", "time": 10.0, "source": "/away", "device": "cpu"}, event, GOOD_SHARD]
    (tmp_path / "set" / "events.jsonl").write_text("".join(json.dumps(each) + "\n" for each in events))
    log = summarise(tmp_path / "set").log
    assert (log.num_runs, log.num_images, log.wall_s, log.stage_s) == (1, 10, 10.0, {"vae": 1.0})
    write_report(tmp_path / "set")


def test_log_that_is_a_folder(tmp_path: Path, renders: Path) -> None:
    fake_dataset(tmp_path / "set", renders, names=NAMES)
    (tmp_path / "set" / "events.jsonl").unlink()
    (tmp_path / "set" / "events.jsonl").mkdir()
    with pytest.raises(RunError, match=r"events\.jsonl cannot be read") as caught:
        write_report(tmp_path / "set")
    one_line(caught)


@pytest.mark.parametrize("line", [b"5", b"{}", b'{"stage": 1}', b"\xff"])
def test_damaged_problem_is_named(tmp_path: Path, renders: Path, line: bytes) -> None:
    fake_dataset(tmp_path / "set", renders, names=NAMES, num_images=8)
    path = tmp_path / "set" / "00001_errors.jsonl"
    path.write_bytes(line.ljust(path.stat().st_size - 1) + b"\n")
    with pytest.raises(RunError, match=r"00001_errors\.jsonl is damaged") as caught:
        write_report(tmp_path / "set")
    one_line(caught)


@pytest.mark.parametrize("name", ["dataset.json", "events.jsonl", "README.md", "00000.tar", "00009.parquet"])
def test_page_does_not_replace_a_file_of_the_dataset(made: Path, name: str) -> None:
    before = (made / "dataset.json").read_bytes()
    with pytest.raises(UserError, match="is a file of the dataset") as caught:
        write_report(made, out=made / name)
    one_line(caught)
    assert (made / "dataset.json").read_bytes() == before


@pytest.mark.parametrize("name", ["file", "file/below", "loop", "loop/below", 300 * "n", "full"])
def test_demo_needs_a_folder_of_its_own(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other").write_text("mine")
    with pytest.raises(UserError) as caught:
        run_demo(tmp_path / name)
    one_line(caught, name)


def embedding_table(path: Path, identity: Any, embedding: Any) -> Path:
    pq.write_table(pa.table({"identity": identity, "embedding": embedding}), path)
    return path


VECTORS = pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2))


@pytest.mark.parametrize(
    ("identity", "embedding", "message"),
    [
        (["a", "b"], ["x", "y"], "column embedding is string"),
        (["a", "b"], [[1.0], [2.0, 3.0]], "column embedding is list"),
        (
            ["a", "b"],
            pa.array([["x"], ["y"]], pa.list_(pa.string(), 1)),
            "column embedding is fixed_size_list",
        ),
        (["a", "b"], pa.array([[1.0], None], pa.list_(pa.float32(), 1)), "rows without a value"),
        (["a", "b"], pa.array([[1.0], [None]], pa.list_(pa.float32(), 1)), "rows without a value"),
        (["a", "b"], pa.array([[1.0], [np.nan]], pa.list_(pa.float32(), 1)), "identity b is not finite"),
        (["a", None], VECTORS, "column identity has rows without a value"),
        ([1, 2], VECTORS, "column identity is int64"),
    ],
)
def test_embeddings_of_another_kind(tmp_path: Path, identity: Any, embedding: Any, message: str) -> None:
    path = embedding_table(tmp_path / "e.parquet", identity, embedding)
    with pytest.raises(UserError, match=message) as caught:
        list(read_embeddings(path))
    one_line(caught, str(path))


def test_embeddings_that_are_damaged_or_a_folder(tmp_path: Path) -> None:
    path = embedding_table(tmp_path / "e.parquet", ["a", "b"], VECTORS)
    data = path.read_bytes()
    path.write_bytes(b"PAR1" + b"?" * 60 + data[64:])
    for given in (path, tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match="cannot read embeddings") as caught:
            list(read_embeddings(given))
        one_line(caught, str(given))


def test_embeddings_are_written_in_large_groups(tmp_path: Path) -> None:
    rows = np.arange(2 * (ROWS_PER_GROUP + 500), dtype=np.float32).reshape(-1, 2)
    images = [sources.Image(str(index), "0.png", tmp_path) for index in range(len(rows))]
    with pq.ParquetWriter(tmp_path / "e.parquet", schema(2)) as file:
        writer = EmbeddingWriter(file)
        for start in range(0, len(rows), 64):
            batch = rows[start : start + 64].copy()
            writer.add(images[start : start + 64], batch)
            batch[:] = 0
        writer.flush()
    assert writer.num_rows == len(rows)
    assert pq.ParquetFile(tmp_path / "e.parquet").num_row_groups == 2
    names, found = zip(*read_embeddings(tmp_path / "e.parquet"), strict=True)
    np.testing.assert_array_equal(np.concatenate(found), rows)
    assert [name for chunk in names for name in chunk] == [image.identity for image in images]
