"""Bad input gets one clear line and status 2, or a recorded rejection: never a traceback, never a wrong dataset."""

import io
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import load_file, save_file

from d2r_fast.engine.cli import main
from d2r_fast.engine.rows import IdentityRow, ImageRow, read_table
from d2r_fast.engine.verify import verify

RECIPE = [
    "--preset",
    "smoke",
    "--steps",
    "1",
    "--height",
    "64",
    "--width",
    "64",
    "--images-per-identity",
    "4",
]
Cli = Callable[..., tuple[int, str]]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    """Runs the command line in this process: (status, last line on standard error)."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["d2r-fast", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        lines = capsys.readouterr().err.splitlines() or [""]
        if caught.value.code in (1, 2):
            assert len(lines) == 1 or lines[-2:-1] == [] or lines[-1].startswith("d2r-fast: "), lines
            assert sum(line.startswith("d2r-fast: ") for line in lines) == 1, lines
        return int(caught.value.code or 0), lines[-1]

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def generate(cli: Cli, renders: Path, mini_models: Path, tmp_path: Path) -> Cli:
    """`generate` into tmp_path/out, with another source, models or flags where given."""

    def run(*flags: str | Path, source: Path = renders, models: Path = mini_models) -> tuple[int, str]:
        return cli("generate", source, "--models", models, "--out", tmp_path / "out", *RECIPE, *flags)

    return run


@pytest.fixture
def models(mini_models: Path, tmp_path: Path) -> Path:
    """A model folder to damage."""
    return Path(shutil.copytree(mini_models, tmp_path / "models"))


def test_missing_and_empty_sources(generate: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for name in ("none", "empty", "file"):
        status, line = generate(source=tmp_path / name)
        assert status == 2
        assert name in line
    assert not (tmp_path / "out").exists()


def test_more_identities_than_there_are(generate: Cli) -> None:
    status, line = generate("--identities", "5")
    assert (status, "identities = 5" in line, "4" in line) == (2, True, True)


def test_an_identity_with_too_few_images_is_recorded(generate: Cli, renders: Path, tmp_path: Path) -> None:
    source = shutil.copytree(renders, tmp_path / "few")
    for name in ("0.png", "1.png", "2.png"):
        (source / "1" / name).unlink()
    status, _ = generate(source=source)
    assert status == 3
    identities = [
        row
        for path in sorted((tmp_path / "out").glob("*_identities.parquet"))
        for row in read_table(IdentityRow, path)
    ]
    assert [row.status for row in identities] == ["used", "failed", "used", "used"]
    assert identities[1].reason is not None
    assert "3 usable of 3 images, 4 needed" in identities[1].reason
    rows = [
        row
        for path in sorted((tmp_path / "out").glob("0000[0-9].parquet"))
        for row in read_table(ImageRow, path)
    ]
    assert [row.status for row in rows if row.identity == "1"] == ["failed"] * 4
    assert len(rows) == 16
    assert not verify(tmp_path / "out").problems


def damaged(good: bytes) -> dict[str, bytes]:
    """Files that are no image, by name."""
    tiny = io.BytesIO()
    Image.new("RGB", (1, 1)).save(tiny, "PNG")
    return {
        "truncated.png": good[: len(good) // 2],
        "zero.png": b"",
        "text.png": b"hello",
        "one.png": tiny.getvalue(),
    }


def test_unusable_images_are_recorded_and_the_others_take_their_place(
    generate: Cli, renders: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(renders, tmp_path / "mixed")
    for name, data in damaged((renders / "0" / "0.png").read_bytes()).items():
        (source / "0" / name).write_bytes(data)
    status, _ = generate(source=source)
    assert status == 0
    problems = [
        json.loads(line)
        for path in (tmp_path / "out").glob("*_errors.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert {entry["stage"] for entry in problems} <= {"decode"}
    assert {entry["key"] for entry in problems} <= {"truncated.png", "zero.png", "text.png", "one.png"}
    assert problems, "the seed took no damaged image: the test shows nothing"
    assert not verify(tmp_path / "out").problems


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "I;16", "P", "1"])
def test_every_kind_of_image_is_taken(generate: Cli, renders: Path, tmp_path: Path, mode: str) -> None:
    (tmp_path / "kinds" / "0").mkdir(parents=True)
    for path in sorted((renders / "0").iterdir()):
        image = Image.open(path)
        if mode == "I;16":
            converted = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        else:
            converted = image.convert(mode)
        suffix = ".jpg" if mode == "CMYK" else ".png"
        converted.save(tmp_path / "kinds" / "0" / path.with_suffix(suffix).name)
    assert generate(source=tmp_path / "kinds")[0] == 0
    assert not (tmp_path / "out" / "00000_errors.jsonl").read_text()


def test_odd_names_are_kept(generate: Cli, renders: Path, tmp_path: Path) -> None:
    names = ["007", "7", "a b", "Zoë", "x.y.z", "-rf", "日本"]
    for name in names:
        shutil.copytree(renders / "0", tmp_path / "odd" / name)
    assert generate(source=tmp_path / "odd")[0] == 0
    found = [
        row
        for path in (tmp_path / "out").glob("*_identities.parquet")
        for row in read_table(IdentityRow, path)
    ]
    assert {row.identity for row in found} == set(names)
    assert not verify(tmp_path / "out").problems


@pytest.mark.parametrize(
    "name",
    ["arc2face/config.json", "arc2face/diffusion_pytorch_model.safetensors", "encoder/model.safetensors",
     "vae/config.json", "scheduler/scheduler_config.json", "antelopev2/arcface.onnx"],
)  # fmt: skip
def test_a_missing_model_file_is_named(generate: Cli, models: Path, tmp_path: Path, name: str) -> None:
    (models / name).unlink()
    status, line = generate(models=models)
    assert status == 2
    assert Path(name).name in line
    assert not (tmp_path / "out" / "_SUCCESS").exists()


@pytest.mark.parametrize(
    "name",
    ["arc2face/diffusion_pytorch_model.safetensors", "encoder/model.safetensors", "antelopev2/arcface.onnx"],
)
def test_a_half_downloaded_model_file_is_named(generate: Cli, models: Path, name: str) -> None:
    data = (models / name).read_bytes()
    (models / name).write_bytes(data[: len(data) // 2])
    status, line = generate(models=models)
    assert (status, name in line) == (2, True)


def test_a_tensor_of_another_shape_is_named(generate: Cli, models: Path) -> None:
    path = models / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["decoder.conv_out.bias"] = torch.zeros(5)
    save_file(tensors, path)
    status, line = generate(models=models)
    assert (status, "decoder.conv_out.bias" in line) == (2, True)


def test_a_recogniser_of_another_width_is_refused(generate: Cli, shared: Path) -> None:
    status, line = generate("--recogniser", shared / "weights" / "foamliu_MobileFaceNet.onnx")
    assert (status, "gives 128 values" in line, "takes 64" in line) == (2, True, True)


def constant_recogniser(path: Path, row: np.ndarray) -> Path:
    """An ONNX whose embedding is `row` whatever the image."""
    width = len(row)
    nodes = [
        helper.make_node("Flatten", ["data"], ["flat"]),
        helper.make_node("MatMul", ["flat", "zero"], ["none"]),
        helper.make_node("Add", ["none", "row"], ["embedding"]),
    ]
    constants = [
        numpy_helper.from_array(np.zeros((3 * 112 * 112, width), np.float32), "zero"),
        numpy_helper.from_array(row.astype(np.float32)[None], "row"),
    ]
    graph = helper.make_graph(
        nodes, "constant", [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", width])], constants,
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_unusable_embeddings_fail_their_identity(generate: Cli, tmp_path: Path, value: float) -> None:
    recogniser = constant_recogniser(tmp_path / "r.onnx", np.full(64, value))
    status, _ = generate("--recogniser", recogniser, "--identities", "1")
    assert status == 3
    (row,) = read_table(IdentityRow, tmp_path / "out" / "00000_identities.parquet")
    assert (row.status, row.prototype) == ("failed", None)
    assert not verify(tmp_path / "out").problems


def test_a_finite_recogniser_of_the_same_kind_works(generate: Cli, tmp_path: Path) -> None:
    recogniser = constant_recogniser(tmp_path / "r.onnx", np.linspace(-1, 1, 64))
    assert generate("--recogniser", recogniser, "--identities", "1")[0] == 0


def test_an_offset_of_other_models_is_refused(
    cli: Cli, generate: Cli, renders: Path, models: Path, tmp_path: Path
) -> None:
    offset = tmp_path / "offset.safetensors"
    encoder = load_file(models / "encoder" / "model.safetensors")
    encoder["final_layer_norm.bias" if "final_layer_norm.bias" in encoder else next(iter(encoder))] += 1
    save_file(encoder, models / "encoder" / "model.safetensors")
    made = cli("offset", renders, renders, "--models", models, "--out", offset, "--samples", "8")
    assert made[0] == 0
    status, line = generate("--clip-offset", offset)
    assert (status, "another encoder" in line) == (2, True)
    (tmp_path / "text.safetensors").write_text("x")
    status, line = generate("--clip-offset", tmp_path / "text.safetensors")
    assert (status, "not the output of" in line) == (2, True)
    status, line = generate("--clip-offset", tmp_path / "none.safetensors")
    assert (status, "none.safetensors" in line) == (2, True)


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "cuda:x"])
def test_a_device_that_is_not_there_is_refused(generate: Cli, device: str) -> None:
    status, line = generate("--device", device)
    assert (status, device in line) == (2, True)


def test_a_folder_of_something_else_is_not_touched(generate: Cli, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    status, line = generate()
    assert (status, "thesis.tex" in line) == (2, True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_a_full_disk_is_one_line_and_a_rerun_completes(generate: Cli, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        status, line = generate()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 1
    assert "limit" in line
    assert not list((tmp_path / "out").glob(".*.tmp"))
    assert generate()[0] == 0
    assert not verify(tmp_path / "out").problems


def test_a_settings_file_that_is_wrong_is_refused(generate: Cli, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("guidence: 3\n")
    status, line = generate("--config", tmp_path / "s.yaml")
    assert (status, "did you mean 'guidance'" in line) == (2, True)


def test_a_ranking_of_another_source_is_refused(generate: Cli, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("rank,identity\n0,0\n1,nobody\n")
    status, line = generate("--ranking", tmp_path / "r.csv")
    assert (status, "nobody" in line) == (2, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rank,identity\n", "names no identity"),
        ("rank,identity\n0,1\n1,0\n2,1\n", "names '1' more than once"),
    ],
)
def test_empty_and_repeating_rankings_are_refused(
    generate: Cli, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "r.csv").write_text(text)
    status, line = generate("--ranking", tmp_path / "r.csv")
    assert (status, message in line) == (2, True)
    assert not (tmp_path / "out" / "dataset.json").exists()


@pytest.mark.parametrize(
    "flags",
    [("--steps", "1000"), ("--sampler", "lcm", "--guidance", "1", "--steps", "51")],
    ids=["dpm", "lcm"],
)
def test_settings_that_cannot_run_do_not_bind_the_folder(
    generate: Cli, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    status, line = generate(*flags)
    assert (status, "steps" in line) == (2, True)
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert generate("--identities", "1")[0] == 0


def test_an_offset_of_another_recogniser_is_refused(
    cli: Cli, generate: Cli, renders: Path, mini_models: Path, tmp_path: Path
) -> None:
    offset, other = (
        tmp_path / "o.safetensors",
        constant_recogniser(tmp_path / "r.onnx", np.linspace(-1, 1, 64)),
    )
    flags = ("--models", mini_models, "--out", offset, "--samples", "4", "--recogniser", other)
    assert cli("offset", renders, renders, *flags)[0] == 0
    status, line = generate("--clip-offset", offset)
    assert (status, "another recogniser" in line) == (2, True)


@pytest.mark.parametrize("target", ["folder", "none/file", "fifo", "."])
def test_an_output_that_cannot_be_is_refused_before_the_work(
    cli: Cli, renders: Path, mini_models: Path, tmp_path: Path, target: str
) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    out = Path(target) if target == "." else tmp_path / target
    for arguments in (
        ("embed", renders, "--models", mini_models),
        ("offset", renders, renders, "--models", mini_models),
        ("rank-identities", tmp_path / "e.parquet"),
    ):
        status, line = cli(*arguments, "--out", out)
        assert status == 2
        assert "e.parquet" not in line


def test_an_output_that_is_the_input_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "e.parquet").write_text("precious")
    assert cli("rank-identities", tmp_path / "e.parquet", "--out", tmp_path / "e.parquet")[0] == 2
    assert (tmp_path / "e.parquet").read_text() == "precious"
