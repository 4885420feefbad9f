"""The `compare` command: which pictures, which columns, what is measured of them, and what the page says."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from d2r_fast.engine.decode import decode
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.source import open_source
from d2r_fast.translation.compare import compare as command
from d2r_fast.translation.compare.compare import compare
from d2r_fast.translation.compare.config import CompareConfig, parse_column, split_columns
from d2r_fast.translation.compare.pictures import choose, spread
from d2r_fast.translation.compare.published import TABLE_1, figure_column
from d2r_fast.translation.compare.run_column import num_warming, run_column
from d2r_fast.translation.gan.random_weights import write_random_weights
from d2r_fast.translation.method import Method, Run, Size, Unfit

from .fakebench import encode, face, write_onnx


class Fake(Method):
    """Shifts colours by a known amount; NaN for images whose first pixel is black, nothing for wide ones."""

    NAME = "vsait"

    def __init__(self, shift: float = 0.0, breach: str | None = None) -> None:
        self.shift, self.breach = shift, breach
        self.batches: list[int] = []

    @classmethod
    def open(cls, weights: Path, recipe: Any) -> "Fake":
        return cls()

    def check(self, size: Size) -> None:
        if size[0] != size[1]:
            raise Unfit(f"{size[1]} x {size[0]} pixels")

    def networks(self, size: Size) -> tuple[Any, ...]:
        return ()

    def prepare(self, images: Tensor) -> Tensor:
        return images.permute(0, 3, 1, 2).float() / 127.5 - 1

    def run(self, networks: Mapping[str, Run], inputs: Tensor, keys: Tensor) -> Tensor:
        self.batches.append(len(inputs))
        black = (inputs[:, :, 0, 0] == -1).all(1)
        return torch.where(black[:, None, None, None], torch.nan, inputs + self.shift)

    def finish(self, outputs: Tensor, size: Size) -> Tensor:
        return ((outputs + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """3 identities of 2 images of 112 pixels, a wide image, a black one, and a text file called an image."""
    root = tmp_path / "source"
    write_faces(root, num_identities=3, images_per_identity=2)
    Image.new("RGB", (112, 80), "red").save(root / "0" / "8.png")
    Image.new("RGB", (112, 112)).save(root / "1" / "8.png")
    (root / "2" / "8.png").write_text("no image")
    return root


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "vsait.ckpt"
    write_random_weights(path, method="vsait", size="mini", seed=0)
    return path


def write_faces(root: Path, *, num_identities: int, images_per_identity: int, first: int = 0) -> None:
    for identity in range(num_identities):
        (root / str(identity)).mkdir(parents=True)
        for shot in range(images_per_identity):
            (root / str(identity) / f"{shot}.png").write_bytes(encode(face(first + identity, shot)))


def read(config: CompareConfig) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((config.out / "results.json").read_text())
    return document


def use(monkeypatch: pytest.MonkeyPatch, *methods: Fake) -> None:
    given = iter(methods)
    monkeypatch.setattr(command, "open_method", lambda recipe, path: next(given))


def test_columns_are_methods_with_weights_and_settings() -> None:
    column = parse_column("unsb:nfe=1=/a=b/net_G.pth", seed=3)
    assert (column.name, column.weights) == ("unsb nfe 1", Path("/a=b/net_G.pth"))
    assert (column.recipe.method, column.recipe.nfe, column.recipe.seed) == ("unsb", 1, 3)
    column = parse_column("stylegan-inversion:latent=w+,steps=20=e4e.pt", seed=0)
    assert (column.recipe.latent, column.recipe.steps) == ("w+", 20)
    assert parse_column("codeformer=codeformer.pth", seed=0).name == "codeformer"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("codeformer", "give METHOD=WEIGHTS"),
        ("gan=x.pth", "gan is no method, give one of codeformer, vsait"),
        ("unsb:nfe=9=x.pth", "nfe = '9'"),
        ("vsait:nfe=1=x.pth", "nfe belongs to unsb, not to vsait"),
        ("vsait:seed=1=x.pth", "seed cannot be set"),
        ("codeformer:w=1.5=x.pth", "w = '1.5'"),
    ],
)
def test_a_column_that_makes_no_sense_is_refused_in_a_line(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=re.escape(reason)) as error:
        CompareConfig(source=Path("s"), methods=text, out=Path("o"))
    assert "\n" not in str(error.value)


def test_columns_are_parted_where_a_method_begins() -> None:
    columns = split_columns("unsb:nfe=1,size=64=a,b.pth,vsait=run,ddim-inversion=c")
    assert columns == ["unsb:nfe=1,size=64=a,b.pth", "vsait=run", "ddim-inversion=c"]


def test_two_equal_columns_are_refused() -> None:
    with pytest.raises(UserError, match="two columns are vsait: give them different settings"):
        CompareConfig(source=Path("s"), methods="vsait=a,vsait=b", out=Path("o"))


def test_every_identity_comes_before_the_second_image_of_any(source: Path) -> None:
    opened = open_source(source)
    chosen = [(image.identity, number) for image, number in choose(opened, num=5)]
    assert chosen == [("0", 0), ("1", 0), ("2", 0), ("0", 1), ("1", 1)]
    assert len(choose(opened, num=100)) == 9
    even = [(image.identity, number) for image, number in spread(opened, num=3)]
    assert even == [("0", 0), ("1", 1), ("2", 2)]


def test_what_fails_is_said_and_what_works_is_the_methods(
    source: Path, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Fake(), Fake(breach="trained with labels"))
    config = CompareConfig(
        source=source, methods=f"vsait={weights},vsait:size=64={weights}", out=tmp_path / "out",
        backend="torch", batch_size=4, device="cpu",
    )  # fmt: skip
    assert compare(config) == 0
    document = read(config)
    assert document["images"] == [*(f"{i}/{k}.png" for k in range(2) for i in range(3)), "0/8.png", "1/8.png"]
    assert document["unreadable"] == ["2/8.png: not a PNG, JPEG, WebP, BMP or TIFF image"]
    first, second = document["columns"]
    assert first["failed"] == {"0/8.png": "112 x 80 pixels", "1/8.png": "not a finite number"}
    assert (first["num_translated"], first["obeys_the_rule"], second["obeys_the_rule"]) == (6, True, False)
    assert second["breach"] == "trained with labels"
    assert first["seconds_per_image"] > 0
    assert first["published"] == {"seconds_per_image": 0.015, "quality": "Average"}
    assert (first["identity"], first["distance"], document["recogniser"], document["real"]) == (None,) * 4
    page = (config.out / "page.html").read_text()
    assert page.count("<img ") == 8 + 2 * 6
    assert "not a finite number" in page
    assert "breaks the rule" in page
    assert "lacks CodeFormer, DECENT, UNSB-NE-1, UNSB-NE-5, DDIM Inversion" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page), "a page that loads nothing"
    table = (config.out / "table.md").read_text().splitlines()
    assert table[3].startswith("| VSAIT |")
    assert "| breaks: trained with labels |" in table[4]
    assert "| 0.015 |" in table[3]
    assert "| 5.1 |" in table[3], "hours for DigiFace-1M at the paper's speed"


def test_distance_and_identity_are_those_of_known_translations(
    source: Path, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "0" / "8.png").unlink()
    (source / "1" / "8.png").unlink()
    real = tmp_path / "real"
    (real / "a").mkdir(parents=True)
    write_faces(tmp_path / "others", num_identities=8, images_per_identity=2, first=50)
    for number, path in enumerate(sorted((tmp_path / "others").rglob("*.png"))):
        pixels = decode(path.read_bytes()).astype(int)
        Image.fromarray(np.clip(pixels + 51, 0, 255).astype(np.uint8)).save(real / "a" / f"{number}.png")
    use(monkeypatch, Fake(0.0), Fake(0.4))
    write_onnx(tmp_path / "coarse.onnx")
    config = CompareConfig(
        source=source, methods=f"vsait={weights},vsait:size=64={weights}", out=tmp_path / "out", real=real,
        recogniser=tmp_path / "coarse.onnx", backend="torch", device="cpu",
    )  # fmt: skip
    assert compare(config) == 0
    document = read(config)
    same, brighter = document["columns"]
    assert same["identity"]["own"] == pytest.approx(1, abs=1e-5)
    assert same["identity"]["share"] == pytest.approx(1, abs=1e-5)
    assert brighter["identity"]["own"] < 1 - 1e-4
    assert same["distance"]["value"] == pytest.approx(document["real"]["untranslated"], rel=1e-9)
    assert brighter["distance"]["value"] < 0.75 * same["distance"]["value"]
    assert document["real"]["num_images"] == 16


@pytest.mark.parametrize(("threads", "warming"), [(1, 1), (2, 2), (9, 4)])
def test_time_is_of_translating_alone_with_everything_warm(
    source: Path, monkeypatch: pytest.MonkeyPatch, threads: int, warming: int
) -> None:
    opened = open_source(source)
    pictures, _ = command.read_pictures(opened, choose(opened, num=6))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert num_warming(4, "cuda:0") == 4
    method, ticks = Fake(), iter(range(100))
    found = run_column(
        method,
        lambda size: {},
        pictures,
        title="fake",
        batch_size=4,
        device="cpu",
        seed=0,
        clock=lambda: next(ticks),
    )
    assert method.batches == [warming, 4, 2]
    assert found.seconds_per_image == 2 / 6
    for picture, pixels in zip(pictures, found.pictures, strict=True):
        assert pixels is not None
        np.testing.assert_array_equal(pixels, picture.pixels)


def test_a_real_method_is_opened_and_run(source: Path, tmp_path: Path, weights: Path) -> None:
    config = CompareConfig(
        source=source,
        methods=f"vsait={weights}",
        out=tmp_path / "out",
        images=3,
        backend="torch",
        device="cpu",
    )
    assert compare(config) == 0
    (column,) = read(config)["columns"]
    assert (column["num_translated"], column["backend"], column["precision"]) == (3, "torch", "fp32")
    assert len(next(iter(column["weights"].values()))["sha256"]) == 64
    assert compare(config) == 0, "a comparison may be made again in its place"


@pytest.mark.parametrize("place", ["in the source", "a file", "another's"])
def test_a_place_that_cannot_be_used_is_refused_before_anything_runs(
    source: Path, tmp_path: Path, weights: Path, place: str
) -> None:
    out = source / "out" if place == "in the source" else tmp_path / "out"
    if place == "a file":
        out.write_text("")
    if place == "another's":
        out.mkdir()
        (out / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"lies in the source|is a file|holds thesis\.tex"):
        compare(CompareConfig(source=source, methods=f"vsait={weights}", out=out, device="cpu"))


def test_weights_of_another_method_are_said(source: Path, tmp_path: Path, weights: Path) -> None:
    with pytest.raises(UserError, match="give --method vsait"):
        compare(CompareConfig(source=source, methods=f"decent={weights}", out=tmp_path / "out", device="cpu"))
    assert not (tmp_path / "out").exists()


def test_too_few_photographs_are_said(source: Path, tmp_path: Path, weights: Path) -> None:
    write_faces(tmp_path / "real", num_identities=1, images_per_identity=3)
    config = CompareConfig(
        source=source,
        methods=f"vsait={weights}",
        out=tmp_path / "out",
        real=tmp_path / "real",
        device="cpu",
    )
    with pytest.raises(UserError, match="3 photographs and 8 images"):
        compare(config)


def test_the_papers_table() -> None:
    assert {method: row.seconds_per_image for method, row in TABLE_1.items()} == {
        "codeformer": 0.41, "vsait": 0.015, "decent": 0.13, "unsb": 0.38, "ddim-inversion": 8.7,
    }  # fmt: skip
    assert figure_column("unsb", nfe=1) == "UNSB-NE-1"
    assert figure_column("unsb", nfe=3) is None
    assert figure_column("ddim-inversion", nfe=None) == "DDIM Inversion"
    assert figure_column("stylegan-inversion", nfe=None) is None
