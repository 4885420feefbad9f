"""The embedding stage on real photographs, and its file."""

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from d2r_fast.engine.decode import decode
from d2r_fast.engine.detect import load_detector
from d2r_fast.engine.embed import Embedder, UnusableImage, embed_images, embed_source
from d2r_fast.engine.embedding_file import read_embeddings
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.plan import normalise
from d2r_fast.engine.recogniser import Recogniser
from d2r_fast.engine.source import Image, open_source

PEOPLE = {
    "obama": ["ageitgey_obama.jpg", "ageitgey_obama2.jpg"],
    "biden": ["ageitgey_biden.jpg", "ageitgey_biden2.jpg"],
    "astronaut": ["skimage_astronaut.png"],
}


@pytest.fixture(scope="module")
def foamliu(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """foamliu's MobileFaceNet with the sidecar that its training asks for."""
    path = tmp_path_factory.mktemp("foamliu") / "foamliu.onnx"
    path.symlink_to((shared / "weights" / "foamliu_MobileFaceNet.onnx").resolve())
    sidecar = {"channels": "rgb", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    path.with_suffix(".json").write_text(json.dumps(sidecar))
    return path


@pytest.fixture(scope="module")
def embedder(foamliu: Path) -> Embedder:
    detector = load_detector("mtcnn", models_dir=Path(), device="cpu", min_face_size=20)
    return Embedder(Recogniser.load(foamliu), detector, "auto")


def test_the_same_person_is_alike_and_others_are_not(shared: Path, embedder: Embedder) -> None:
    crops = {
        name: [embedder.crop((shared / "faces" / file).read_bytes()) for file in files]
        for name, files in PEOPLE.items()
    }
    unit = {name: normalise(embedder.embed(found)[0]) for name, found in crops.items()}
    genuine = [float(a @ b) for rows in unit.values() for a, b in combinations(rows, 2)]
    impostor = [float((unit[a] @ unit[b].T).max()) for a, b in combinations(unit, 2)]
    assert min(genuine) > 0.6
    assert max(impostor) < 0.4


def test_renders_are_embedded_as_they_are(shared: Path, embedder: Embedder) -> None:
    data = (shared / "digiface-mini" / "0" / "0.png").read_bytes()
    np.testing.assert_array_equal(embedder.crop(data), decode(data))


def test_renders_of_one_identity_are_closer(shared: Path, embedder: Embedder) -> None:
    source = open_source(shared / "digiface-mini")
    rows = {}
    with ThreadPoolExecutor() as pool:
        for identity in source.identities:
            found, embeddings, failed = embed_images(tuple(identity.images), source, embedder, pool)
            assert len(found) == len(identity.images)
            assert not failed
            rows[identity.name] = normalise(embeddings)
    within = np.mean([(a @ a.T)[np.triu_indices(len(a), 1)].mean() for a in rows.values()])
    between = np.mean([(rows[a] @ rows[b].T).mean() for a, b in combinations(rows, 2)])
    assert within > between + 0.2


def test_an_embedding_does_not_depend_on_its_company(shared: Path, embedder: Embedder) -> None:
    source = open_source(shared / "digiface-mini")
    crops = [embedder.crop(source.read(image)) for image in source.identities[0].images]
    together, _ = embedder.embed(crops)
    np.testing.assert_array_equal(together[3:4], embedder.embed(crops[3:4])[0])


@pytest.mark.parametrize(("data", "stage"), [(b"", "decode"), (b"no image at all", "decode")])
def test_what_is_no_image_says_so(embedder: Embedder, data: bytes, stage: str) -> None:
    with pytest.raises(UnusableImage) as caught:
        embedder.crop(data)
    assert caught.value.stage == stage


def test_an_image_without_a_face_says_so(embedder: Embedder, tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Pillow.new("RGB", (200, 160), (128, 128, 128)).save(path)
    with pytest.raises(UnusableImage, match="no face"):
        embedder.crop(path.read_bytes())


class Broken:
    """A recogniser that gives NaN for one crop and zeros for another."""

    embedding_dim, size = 4, (112, 112)

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        rows = np.ones((len(crops), 4), np.float32)
        rows[0], rows[1] = np.nan, 0
        return rows


def test_nan_and_zero_embeddings_are_recorded(shared: Path, embedder: Embedder) -> None:
    source = open_source(shared / "digiface-mini")
    broken = Embedder(Broken(), embedder.detector, "auto")  # type: ignore[arg-type]
    with ThreadPoolExecutor() as pool:
        found, rows, failed = embed_images(tuple(source.identities[0].images)[:4], source, broken, pool)
    assert len(found) == len(rows) == 2
    assert [(entry.stage, entry.key) for entry in failed] == [("embed", "0.png"), ("embed", "1.png")]


def test_the_file_holds_every_usable_image(shared: Path, foamliu: Path, tmp_path: Path) -> None:
    for name in ("0", "6"):
        (tmp_path / "renders" / name).mkdir(parents=True)
    for index in range(6):
        data = (shared / "digiface-mini" / "6" / f"{index}.png").read_bytes()
        (tmp_path / "renders" / "6" / f"{index}.png").write_bytes(data)
    (tmp_path / "renders" / "0" / "torn.png").write_bytes(data[:500])
    out = tmp_path / "e.parquet"
    status = embed_source(
        tmp_path / "renders", models=tmp_path, out=out, recogniser=foamliu, source_alignment="auto",
        detector="mtcnn", batch_size=4, device="cpu", recogniser_device="auto",
    )  # fmt: skip
    assert status == 0
    names, rows = zip(*read_embeddings(out), strict=True)
    assert [name for chunk in names for name in chunk] == ["6"] * 6
    assert sum(len(chunk) for chunk in rows) == 6
    (line,) = (tmp_path / "e.parquet.errors.jsonl").read_text().splitlines()
    assert json.loads(line)["key"] == "torn.png"


def test_nothing_to_embed_is_an_error_and_writes_nothing(foamliu: Path, tmp_path: Path) -> None:
    (tmp_path / "renders" / "0").mkdir(parents=True)
    (tmp_path / "renders" / "0" / "a.png").write_text("text")
    with pytest.raises(UserError, match="none of the 1 images") as caught:
        embed_source(
            tmp_path / "renders", models=tmp_path, out=tmp_path / "e.parquet", recogniser=foamliu,
            source_alignment="auto", detector="mtcnn", batch_size=4, device="cpu", recogniser_device="auto",
        )  # fmt: skip
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*e.parquet*"))


def test_unreadable_image_is_recorded(shared: Path, embedder: Embedder) -> None:
    source = open_source(shared / "digiface-mini")
    with ThreadPoolExecutor() as pool:
        found, _, failed = embed_images((Image("0", "gone.png", Path("gone.png")),), source, embedder, pool)
    assert not found
    assert (failed[0].stage, failed[0].key) == ("read", "gone.png")
