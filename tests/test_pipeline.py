"""The main job with mini models: determinism, accounting, retries, resuming."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from d2r_fast.engine import pipeline, shard_maker
from d2r_fast.engine.config import GenerateConfig, smoke
from d2r_fast.engine.detect import Faces, find_by_template
from d2r_fast.engine.embed import Embedder
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.generator import Arc2FaceGenerator
from d2r_fast.engine.offset import make_offset
from d2r_fast.engine.rows import ImageRow, read_table
from d2r_fast.engine.vae import Decoded
from d2r_fast.engine.verify import verify

from .fakedata import tree

QUICK: dict[str, Any] = smoke() | {
    "steps": 2, "images_per_identity": 6, "height": 64, "width": 64, "image_format": "png", "batch_size": 8,
    "device": "cpu",
}  # fmt: skip


def configure(source: Path, models: Path, out: Path, **changes: Any) -> GenerateConfig:
    return GenerateConfig(**QUICK | {"source": source, "models": models, "out": out} | changes)


def rows(out: Path) -> list[ImageRow]:
    return [row for path in sorted(out.glob("[0-9]*[0-9].parquet")) for row in read_table(ImageRow, path)]


def crops(out: Path) -> dict[tuple[str, int], np.ndarray]:
    """Pixels by (identity, image)."""
    found = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        for name, data in members.items():
            if name.endswith(".png"):
                row = json.loads(members[name.replace(".png", ".json")])
                found[row["identity"], row["image"]] = np.asarray(Image.open(io.BytesIO(data)))
    return found


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def picky(images: torch.Tensor) -> list[Faces]:
    """Finds no face, one, or two, by the image's mean: a stand-in whose answer depends on the pixels alone."""
    found = find_by_template(images)
    for place, image in enumerate(images):
        level = int(image.float().mean() * 7) % 4
        if level == 0:
            found[place] = Faces(*(np.zeros((0, *shape), np.float32) for shape in ((4,), (), (5, 2))))
        elif level == 1:
            face = found[place]
            found[place] = Faces(
                *(np.concatenate([part, part]) for part in (face.boxes, face.scores, face.landmarks))
            )
    return found


@pytest.fixture
def picky_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "load_detector", lambda *_, **__: picky)


@pytest.fixture(scope="module")
def made(renders: Path, mini_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain dataset that tests compare with."""
    out = tmp_path_factory.mktemp("made") / "dataset"
    assert pipeline.generate(configure(renders, mini_models, out)) == 0
    return out


def test_every_wanted_image_is_accounted_for(made: Path) -> None:
    found = rows(made)
    assert [(row.label, row.image) for row in found] == [
        (label, image) for label in range(4) for image in range(6)
    ]
    assert {row.status for row in found} == {"written"}
    assert not verify(made).problems
    assert (made / "_SUCCESS").exists()
    assert {image.shape for image in crops(made).values()} == {(112, 112, 3)}


def test_rows_tell_where_an_image_comes_from(made: Path) -> None:
    found = [row for row in rows(made) if row.label == 2]
    assert [row.latent for row in found] == [0, 0, 1, 2, 2, 3]
    assert len({row.source for row in found}) == 4
    assert len({row.t for row in found}) == 4
    assert all(row.cos_prototype is not None and -1 <= row.cos_prototype <= 1 for row in found)


def test_images_of_one_latent_differ_by_their_noise(made: Path) -> None:
    found = crops(made)
    name = rows(made)[0].identity
    assert psnr(found[name, 0], found[name, 1]) < 40


def test_the_same_again_is_the_same_bytes(
    made: Path, renders: Path, mini_models: Path, tmp_path: Path
) -> None:
    pipeline.generate(configure(renders, mini_models, tmp_path / "again"))
    assert tree(tmp_path / "again") == tree(made)


def test_another_seed_is_another_dataset(
    made: Path, renders: Path, mini_models: Path, tmp_path: Path
) -> None:
    pipeline.generate(configure(renders, mini_models, tmp_path / "other", seed=1))
    ours, theirs = crops(made), crops(tmp_path / "other")
    assert all(psnr(ours[key], theirs[key]) < 40 for key in ours)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's threads; as they were when the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


FOUR: dict[str, Any] = {"images_per_identity": 4, "max_error_rate": 1.0}


@pytest.fixture(scope="module")
def in_order(
    renders: Path, mini_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Path]:
    """By the number of threads: a dataset of one shard, its identities in their order, in batches of 8."""

    @cache
    def make(num_threads: int) -> Path:
        out = tmp_path_factory.mktemp("in_order") / "dataset"
        pipeline.generate(configure(renders, mini_models, out, identities_per_shard=4, batch_size=8, **FOUR))
        assert len({row.attempts for row in rows(out)}) > 1, "nothing was drawn twice: the tests show nothing"
        return out

    return make


@pytest.mark.parametrize(("batch_size", "num_threads"), [(1, 2), (3, 2), (5, 3), (8, 6)])
@pytest.mark.usefixtures("picky_detector")
def test_order_company_and_batch_change_nothing(
    in_order: Callable[[int], Path], renders: Path, mini_models: Path, tmp_path: Path, batch_size: int,
    num_threads: int, threads: Callable[[int], None],
) -> None:  # fmt: skip
    """Whatever the number of threads; on CUDA it is 40 dB."""
    threads(num_threads)
    plain = in_order(num_threads)
    order = ["2", "0", "3", "1"]
    ranking = tmp_path / "ranking.csv"
    ranking.write_text("rank,identity\n" + "".join(f"{rank},{name}\n" for rank, name in enumerate(order)))
    settings = FOUR | {"identities_per_shard": 2, "ranking": ranking, "batch_size": batch_size}
    pipeline.generate(configure(renders, mini_models, tmp_path / "b", **settings))
    assert [row.identity for row in rows(tmp_path / "b")][::4] == order
    fates = [
        {(row.identity, row.image): (row.status, row.attempts, row.reason) for row in rows(folder)}
        for folder in (plain, tmp_path / "b")
    ]
    assert fates[0] == fates[1]
    ours, theirs = crops(plain), crops(tmp_path / "b")
    assert ours.keys() == theirs.keys()
    for key, image in ours.items():
        np.testing.assert_array_equal(image, theirs[key])


@pytest.mark.usefixtures("picky_detector")
def test_what_is_drawn_again_has_fresh_noise_until_it_is_rejected(
    renders: Path, mini_models: Path, tmp_path: Path
) -> None:
    config = configure(renders, mini_models, tmp_path / "out", attempts=2, max_error_rate=1.0)
    assert pipeline.generate(config) == 0
    found = rows(tmp_path / "out")
    assert {row.status for row in found} == {"written", "rejected"}
    assert all(
        row.attempts == 2 and row.reason in ("no face", "several faces")
        for row in found
        if row.status == "rejected"
    )
    assert {row.attempts for row in found if row.status == "written"} == {1, 2}
    problems = [
        json.loads(line)
        for path in (tmp_path / "out").glob("*_errors.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert {entry["key"] for entry in problems} == {row.key for row in found if row.status == "rejected"}
    assert not verify(tmp_path / "out").problems


@pytest.mark.usefixtures("picky_detector")
def test_too_many_rejected_ends_with_status_3(renders: Path, mini_models: Path, tmp_path: Path) -> None:
    config = configure(renders, mini_models, tmp_path / "out", attempts=1, identities=1, max_error_rate=0.1)
    assert pipeline.generate(config) == 3


def test_an_image_that_is_not_finite_is_rejected(
    renders: Path, mini_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = Arc2FaceGenerator.decode

    def overflow(self: Arc2FaceGenerator, latents: torch.Tensor) -> Decoded:
        images, finite = decode(self, latents)
        finite = finite.clone()
        finite[0] = False
        return Decoded(images, finite)

    monkeypatch.setattr(Arc2FaceGenerator, "decode", overflow)
    config = configure(renders, mini_models, tmp_path / "out", attempts=1, identities=1, max_error_rate=1.0)
    assert pipeline.generate(config) == 0
    assert [row.reason for row in rows(tmp_path / "out")] == ["not finite", None, None, None, None, None]


def test_mtcnn_finds_no_face_in_noise(renders: Path, mini_models: Path, tmp_path: Path) -> None:
    config = configure(renders, mini_models, tmp_path / "out", detector="mtcnn", identities=1, attempts=2)
    assert pipeline.generate(config) == 3
    assert {(row.status, row.reason, row.attempts) for row in rows(tmp_path / "out")} == {
        ("rejected", "no face", 2)
    }


def test_a_stopped_run_goes_on_and_keeps_what_was_finished(
    made: Path, renders: Path, mini_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    config = configure(renders, mini_models, out)
    with monkeypatch.context() as patch:
        patch.setattr(shard_maker, "write_shard", _stop_after(2, shard_maker.write_shard))
        with pytest.raises(KeyboardInterrupt):
            pipeline.generate(config)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("0000[01]*")}
    assert len(before) == 10
    assert pipeline.generate(config) == 0
    assert before == {path.name: path.stat().st_mtime_ns for path in out.glob("0000[01]*")}
    assert tree(out) == tree(made)


def _stop_after(count: int, write: Any) -> Any:
    def stop(*arguments: Any, **settings: Any) -> Any:
        nonlocal count
        count -= 1
        if count < 0:
            raise KeyboardInterrupt
        return write(*arguments, **settings)

    return stop


@pytest.mark.parametrize("change", [{"seed": 5}, {"alpha": 3.0}, {"steps": 3}, {"images_per_identity": 7}])
def test_another_recipe_is_refused_and_named(
    made: Path, renders: Path, mini_models: Path, change: dict[str, Any]
) -> None:
    before = tree(made)
    (name,) = change
    with pytest.raises(UserError, match=rf"recipe\.{name} is .*, given {change[name]}"):
        pipeline.generate(configure(renders, mini_models, made, **change))
    assert tree(made) == before


def test_batch_size_may_change_between_runs(
    made: Path, renders: Path, mini_models: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(made, tmp_path / "copy")
    (out / "00002_stats.json").unlink()
    assert pipeline.generate(configure(renders, mini_models, out, batch_size=2)) == 0
    assert {name for name, digest in tree(out).items() if tree(made)[name] != digest} <= {
        "00002.parquet", "00002.tar", "00002_stats.json",  # cosines may differ in their last bits
    }  # fmt: skip
    assert not verify(out).problems


@pytest.mark.parametrize("name", ["vae/config.json", "antelopev2/arcface.json"])
def test_changed_settings_of_a_network_are_another_recipe(
    renders: Path, mini_models: Path, tmp_path: Path, name: str
) -> None:
    models = shutil.copytree(mini_models, tmp_path / "models")
    assert pipeline.generate(configure(renders, models, tmp_path / "out", identities=1)) == 0
    if name.endswith("arcface.json"):
        (models / name).write_text('{"channels": "bgr", "mean": [0, 0, 0], "std": [1, 1, 1]}')
    else:
        config = json.loads((models / name).read_text())
        (models / name).write_text(json.dumps(config | {"scaling_factor": 0.5}))
    with pytest.raises(
        UserError, match=r"holds another dataset: .*models\.(vae config|recogniser sidecar)\.sha256"
    ):
        pipeline.generate(configure(renders, models, tmp_path / "out", identities=1))


def test_images_per_latent_and_offset_reach_the_images(
    made: Path, renders: Path, mini_models: Path, tmp_path: Path
) -> None:
    offset = tmp_path / "offset.safetensors"
    make_offset(
        real=renders / ".." / "samples", rendered=renders, models=mini_models, out=offset, samples=4, seed=1,
        recogniser=None, detector="mtcnn", batch_size=8, device="cpu", recogniser_device="auto",
    )  # fmt: skip
    tensors = {"offset": load_file(offset)["offset"] + 1}
    with safe_open(offset, framework="pt") as file:
        save_file(tensors, offset, metadata=file.metadata())
    name = rows(made)[0].identity
    for scale, moved in ((0.0, False), (1.0, True)):
        out = tmp_path / f"scale{scale}"
        config = configure(
            renders, mini_models, out, identities=1, clip_offset=offset, clip_offset_scale=scale
        )
        assert pipeline.generate(config) == 0
        assert (crops(out)[name, 0] != crops(made)[name, 0]).any() == moved
    out = tmp_path / "latents"
    pipeline.generate(configure(renders, mini_models, out, identities=1, images_per_latent=2))
    assert [row.latent for row in rows(out)] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_unusable_likeness_is_unknown_not_zero(
    renders: Path, mini_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    embed = Embedder.embed

    def spoil(self: Embedder, crops: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        embeddings, usable = embed(self, crops)
        if len(crops) == 6:  # a batch of generated crops; renders come four at a time
            embeddings[0], usable[0] = value, False
        return embeddings, usable

    monkeypatch.setattr(Embedder, "embed", spoil)
    assert pipeline.generate(configure(renders, mini_models, tmp_path / "out", identities=1)) == 0
    found = rows(tmp_path / "out")
    assert [row.cos_prototype is None for row in found] == [True] + [False] * 5


def test_imagefolder_holds_the_same_pixels(
    made: Path, renders: Path, mini_models: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert pipeline.generate(configure(renders, mini_models, out, format="imagefolder")) == 0
    assert not verify(out).problems
    for (identity, image), pixels in crops(made).items():
        np.testing.assert_array_equal(np.asarray(Image.open(out / identity / f"{image}.png")), pixels)


def test_prototypes_of_all_renders_differ_from_those_of_the_chosen(
    made: Path, renders: Path, mini_models: Path, tmp_path: Path
) -> None:
    pipeline.generate(configure(renders, mini_models, tmp_path / "all", prototype="all", identities=1))
    name = rows(made)[0].identity
    assert psnr(crops(tmp_path / "all")[name, 0], crops(made)[name, 0]) < 60


def test_lcm_draws_other_images_than_dpm(
    made: Path, renders: Path, mini_models: Path, tmp_path: Path
) -> None:
    config = configure(renders, mini_models, tmp_path / "lcm", sampler="lcm", guidance=1.0, identities=1)
    assert pipeline.generate(config) == 0
    name = rows(made)[0].identity
    assert psnr(crops(tmp_path / "lcm")[name, 0], crops(made)[name, 0]) < 40
