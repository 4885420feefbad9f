"""Random model folders: layout, counts, sane activations, same seed same bytes, whole or not at all."""

import gc
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin

from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import Written, sha256_file
from d2r_fast.engine.models import init
from d2r_fast.engine.models.card import RANDOM_LICENCE
from d2r_fast.engine.models.configs import CONFIGS, FULL, MINI
from d2r_fast.engine.models.init import init_models
from d2r_fast.engine.models.layout import ENCODER, UNET, VAE, describe_files
from d2r_fast.engine.models.load import load_conditioner, load_decoder, load_unet
from d2r_fast.engine.models.random_weights import Spec, blobs, draw
from d2r_fast.engine.models.skeleton import skeleton, tensor_shapes

from .initmodels import mini_models

FILES = {
    "arc2face/config.json", "arc2face/diffusion_pytorch_model.safetensors", "encoder/config.json",
    "encoder/model.safetensors", "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json", "antelopev2/arcface.onnx", "antelopev2/scrfd_10g_bnkps.onnx",
    "lcm-lora/pytorch_lora_weights.safetensors", "models.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_models(tmp_path_factory.getbasetemp())


@pytest.fixture
def parts_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of the folder: one small file in place of the networks."""

    def write(folder: Path, *_: Any) -> Any:
        (folder / "file").write_bytes(b"1")
        yield from ()

    monkeypatch.setattr(init, "_write_parts", write)


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def test_holds_the_layout_and_is_small(models: Path) -> None:
    files = {path.relative_to(models).as_posix(): path for path in models.rglob("*") if path.is_file()}
    assert files.keys() == FILES
    assert sum(path.stat().st_size for path in files.values()) < 25e6


def test_scheduler_is_stable_diffusions(models: Path) -> None:
    assert read(models / "scheduler/scheduler_config.json") == {
        "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_start": 0.00085,
        "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
        "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "clip_sample": False,
        "trained_betas": None,
    }  # fmt: skip


def test_card_says_random_and_lists_the_bytes(models: Path) -> None:
    card = read(models / "models.json")
    assert {key: card[key] for key in ("kind", "size", "seed", "licence")} == {
        "kind": "random", "size": "mini", "seed": 0, "licence": RANDOM_LICENCE,
    }  # fmt: skip
    assert card["files"].keys() == FILES - {"models.json"}
    for file, entry in card["files"].items():
        path = models / file
        assert entry == {"sha256": sha256_file(path), "bytes": path.stat().st_size}


@pytest.mark.parametrize(
    ("part", "config", "count"),
    [(UNET, FULL.unet, 859_520_964), (VAE, FULL.vae, 83_653_863), (ENCODER, FULL.encoder, 123_060_480)],
)
def test_full_networks_have_the_published_counts(part: Any, config: dict[str, Any], count: int) -> None:
    assert sum(map(math.prod, tensor_shapes(part, skeleton(part, config)).values())) == count


def test_full_lora_has_the_released_files_values() -> None:
    # 134,621,556 bytes of float16 with a header of 116,544 and its length of 8
    network = skeleton(UNET, FULL.unet)
    shapes = {
        name: tuple(module.weight.shape)
        for name, module in network.named_modules()
        if name.endswith(init.LORA_TARGETS)
    }
    specs = init.lora_specs(shapes, rank=FULL.lora_rank)
    assert sum(math.prod(spec.shape) for spec in specs.values()) == (134_621_556 - 116_544 - 8) / 2


def test_activations_are_finite_and_show_the_identity(models: Path) -> None:
    ids = torch.nn.functional.normalize(torch.from_numpy(draw(Spec((2, 64), 0, 1), "ids")), dim=1)
    context = load_conditioner(models, device="cpu", batch_size=2)(ids)
    unet = load_unet(models, device="cpu", dtype=torch.float32)
    latents = torch.from_numpy(draw(Spec((1, 4, 16, 16), 0, 1), "latents")).repeat(2, 1, 1, 1)
    with torch.no_grad():
        noise = unet(latents, torch.tensor([999, 999]), encoder_hidden_states=context).sample
        later = unet(latents, torch.tensor([20, 20]), encoder_hidden_states=context).sample
        image = load_decoder(models, device="cpu", dtype=torch.float32).decode(latents / 0.18215).sample
    assert 0.8 < context.std() < 1.2
    assert 0.2 < noise.std() < 2
    assert (noise[0] - noise[1]).norm() > 0.02 * noise[0].norm()
    assert (noise - later).norm() > 0.02 * noise.norm()
    assert image.shape == (2, 3, 128, 128)
    assert image.isfinite().all()
    assert 0.1 < image.std() < 2


def test_recogniser_tells_images_apart(models: Path) -> None:
    session = onnxruntime.InferenceSession(
        models / "antelopev2/arcface.onnx", providers=["CPUExecutionProvider"]
    )
    (embeddings,) = session.run(None, {"data": blobs(12, 112, "others").numpy()})
    assert embeddings.shape == (12, 64)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[np.triu_indices(12, 1)]
    assert abs(cosines.mean()) < 0.3
    assert cosines.max() < 0.95


def test_lora_converts_through_diffusers_and_merges_alike(models: Path) -> None:
    folder = models / "lcm-lora"
    adapted, merged = (
        load_unet(models, device="cpu", dtype=torch.float32, lora=lora) for lora in (False, True)
    )
    latents = torch.from_numpy(draw(Spec((1, 4, 16, 16), 0, 1), "latents"))
    arguments = (latents, torch.tensor([500]))
    context = torch.from_numpy(draw(Spec((1, 77, 64), 0, 1), "context"))
    with torch.no_grad():
        plain = adapted(*arguments, encoder_hidden_states=context).sample
        state, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(folder, local_files_only=True)
        assert len(state) == 2 * len(alphas) == 2 * 177
        assert all(name.startswith("unet.") for name in state)
        StableDiffusionLoraLoaderMixin.load_lora_into_unet(state, alphas, adapted, adapter_name="lcm")
        by_diffusers = adapted(*arguments, encoder_hidden_states=context).sample
        by_us = merged(*arguments, encoder_hidden_states=context).sample
    assert (by_us - plain).norm() > 0.02 * plain.norm()
    torch.testing.assert_close(by_us, by_diffusers, rtol=1e-3, atol=1e-4)


def test_same_seed_same_bytes_whatever_the_threads(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The detector's export takes as long as all the rest, and differs from the recogniser's in nothing here.
    detector = "antelopev2/scrfd_10g_bnkps.onnx"
    monkeypatch.setattr(init, "_write_detector", lambda *_: (detector, Written("", 0)))
    states, threads = (torch.get_rng_state(), np.random.get_state()[1].copy()), torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        init_models(tmp_path / "again", size="mini", seed=0)
    finally:
        torch.set_num_threads(threads)
    first, again = read(models / "models.json")["files"], read(tmp_path / "again/models.json")["files"]
    assert first | {detector: None} == again | {detector: None}
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])


def test_every_tensor_has_its_own_stream() -> None:
    spec = Spec((1000, 1000), 3.0, 0.5)
    keys = [(0, "unet", "a"), (0, "unet", "b"), (0, "vae", "a"), (1, "unet", "a")]
    drawn = [draw(spec, *key) for key in keys]
    assert np.array_equal(drawn[0], draw(spec, *keys[0]))
    for index, values in enumerate(drawn):
        assert values.mean() == pytest.approx(3.0, abs=0.005)
        assert values.std() == pytest.approx(0.5, rel=0.01)
        assert all(abs(np.corrcoef(values.ravel(), other.ravel())[0, 1]) < 0.01 for other in drawn[:index])


def test_describes_the_files_of_a_run(models: Path, tmp_path: Path) -> None:
    networks, kind = describe_files(models, recogniser=None, detector="mtcnn", sampler="dpm++2m")
    assert kind == "random"
    common = {
        "unet",
        "encoder",
        "vae",
        "scheduler",
        "recogniser",
        "unet config",
        "encoder config",
        "vae config",
    }
    assert networks.keys() == common | {"pnet", "rnet", "onet"}
    assert networks["vae config"]["sha256"] == sha256_file(models / "vae" / "config.json")
    file = "arc2face/diffusion_pytorch_model.safetensors"
    assert networks["unet"] == {"file": file, "sha256": sha256_file(models / file), "licence": RANDOM_LICENCE}
    assert networks["onet"]["file"] == "mtcnn/assets/weights/onet.lz4"
    own = tmp_path / "own.onnx"
    own.write_bytes(b"own")
    own.with_suffix(".json").write_text("{}")
    networks, _ = describe_files(models, recogniser=own, detector="scrfd", sampler="lcm")
    assert networks.keys() == common | {"detector", "lcm-lora", "recogniser sidecar"}
    assert networks["recogniser"]["file"] == "own.onnx"
    with pytest.raises(UserError, match=r"none.onnx is missing"):
        describe_files(models, recogniser=tmp_path / "none.onnx", detector="scrfd", sampler="lcm")
    with pytest.raises(UserError, match=r"has no arc2face/diffusion_pytorch_model.safetensors"):
        describe_files(tmp_path, recogniser=own, detector="template", sampler="dpm++2m")


@pytest.mark.usefixtures("parts_replaced")
@pytest.mark.parametrize("kind", ["folder with a file", "file"])
def test_refuses_what_is_not_empty(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine").write_text("mine")
    with pytest.raises(UserError, match="not an empty folder") as caught:
        init_models(out, size="mini")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_folder_that_one_is_in_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is the folder that you are in"):
        init_models(Path(), size="mini")
    assert not any(tmp_path.iterdir())


def test_a_folder_in_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file or lies in one: give a folder"):
        init_models(tmp_path / "file" / "deep" / "out", size="mini")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.usefixtures("parts_replaced")
def test_takes_an_empty_or_new_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "new/deep"):
        init_models(out, size="mini")
        assert {path.name for path in out.iterdir()} == {"file", "models.json"}
        assert not [path for path in out.parent.iterdir() if path.name.endswith(".tmp")]


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path, *_: Any) -> Any:
        assert not (tmp_path / "out").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(init, "_write_recogniser", fail)
    with pytest.raises(KeyboardInterrupt):
        init_models(tmp_path / "out", size="mini")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("parts_replaced")
def test_cleans_up_after_the_dead_only(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    dead, alive = tmp_path / f".out.{process.pid}.tmp", tmp_path / f".out.{os.getppid()}.tmp"
    other = tmp_path / f".others.{process.pid}.tmp"
    for folder in (dead, alive, other):
        folder.mkdir()
    init_models(tmp_path / "out", size="mini")
    assert not dead.exists()
    assert alive.exists()
    assert other.exists()


def test_says_when_the_disk_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**6))
    with pytest.raises(RunError, match="needs 4,800,000,000 bytes and its disk has 1,000,000 free"):
        init_models(tmp_path / "out", size="full")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_says_when_the_place_is_forbidden(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="give a folder you may write to"):
        init_models(tmp_path / "out", size="mini")


def test_sizes_are_those_of_the_command() -> None:
    assert CONFIGS == {"mini": MINI, "full": FULL}
    assert (MINI.encoder["hidden_size"], MINI.encoder["id_embedding_dim"]) == (64, 64)
    assert (FULL.encoder["hidden_size"], FULL.encoder["id_embedding_dim"]) == (768, 512)


@pytest.mark.slow
def test_a_kill_leaves_no_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = (
        "from pathlib import Path; from d2r_fast.engine.models.init import *; "
        f"init_models(Path({str(out)!r}), size='full')"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        while not list(tmp_path.glob(".out.*.tmp/*/*")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not out.exists()
    init_models(out, size="mini")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_full_size(tmp_path: Path) -> None:
    """Writes 4.7 GB; in a process of its own, to measure its memory."""
    from d2r_fast.engine.models.check import check_models

    out = tmp_path / "full"
    code = (
        "from pathlib import Path; from d2r_fast.engine.models.init import *; "
        f"init_models(Path({str(out)!r}), size='full'); "
        # Not ru_maxrss, which a new program inherits from the process that started it.
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(run.stdout) < 4e6  # kB
    report = check_models(out)
    counts = {row.file: row.num_parameters for row in report.rows if row.num_parameters}
    assert report.complete
    assert counts["arc2face/diffusion_pytorch_model.safetensors"] == 859_520_964
    assert counts["vae/diffusion_pytorch_model.safetensors"] == 83_653_863
    assert counts["encoder/model.safetensors"] == 123_060_480
    assert counts["lcm-lora/pytorch_lora_weights.safetensors"] == 67_252_502
    gc.collect()
    shutil.rmtree(out)
