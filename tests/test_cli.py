"""The command line: its frozen surface, its speed, and one line for every wrong value."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from d2r_fast.engine.cli import parse
from d2r_fast.engine.commands import COMMANDS, Generate, Train
from d2r_fast.engine.config import GenerateConfig, Recipe, paper
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.formats.config import ConvertConfig, MergeConfig, SplitConfig, SubsetConfig
from d2r_fast.recognition.evaluation.config import EvaluateConfig
from d2r_fast.recognition.quality.config import QualityConfig
from d2r_fast.recognition.training.config import TrainConfig
from d2r_fast.translation.compare.config import CompareConfig
from d2r_fast.translation.config import TranslateConfig
from d2r_fast.translation.training.config import TransferConfig

from .conftest import PROGRAM

# A flag that goes, or changes its name, breaks somebody's script: change this table on purpose or not at all.
WRITTEN = {"out", "to", "layout", "identities_per_shard", "seed", "max_unreadable"}
SURFACE = {
    "demo": {"out"},
    "build-engines": {
        "models", "out", "backend", "precision", "batch_size", "networks", "height", "width", "lora", "recogniser",
        "targets", "device", "method", "weights", "size", "w",
    },
    "models init": {"out", "size", "seed", "method"},
    "models mini": {"out"},
    "models pull": {"out"},
    "models check": {"folder"},
    "embed": {
        "source", "models", "out", "recogniser", "source_alignment", "detector", "batch_size", "device",
        "recogniser_device", "recogniser_backend", "recogniser_precision", "engines", "reader",
    },
    "rank-identities": {"embeddings", "out"},
    "offset": {
        "real", "rendered", "models", "out", "samples", "seed", "recogniser", "detector", "batch_size", "device",
        "recogniser_device",
    },
    "generate": {
        "source", "models", "out", "config", "preset", "identities", "ranking", "images_per_identity",
        "source_images_per_identity", "images_per_latent", "prototype", "alpha", "source_alignment", "sampler",
        "steps", "guidance", "guidance_interval", "identity_steps", "early_reject",
        "clip_offset", "clip_offset_scale", "restore", "restore_w", "seed", "height", "width", "detector",
        "min_face_size", "attempts", "format", "image_format", "jpeg_quality", "identities_per_shard", "backend",
        "recogniser_backend", "recogniser_precision", "dtype", "engines", "recogniser", "batch_size", "device",
        "recogniser_device", "max_error_rate", "executor", "workers", "shards", "ray_address", "stage",
    },
    "translate": {
        "source", "weights", "out", "method", "size", "w", "nfe", "steps", "latent", "seed", "format", "image_format",
        "jpeg_quality", "identities", "identities_per_shard", "backend", "precision", "engines", "batch_size", "device",
        "num_threads", "reader", "encoder", "max_error_rate", "config", "executor", "workers", "shards", "ray_address",
        "stage",
    },
    "train-transfer": {
        "source", "target", "out", "config", "method", "size", "load_size", "flip", "batch_size", "epochs",
        "decay_epochs", "steps", "learning_rate", "discriminator_learning_rate", "flow_learning_rate", "lambda_gan",
        "lambda_idt", "lambda_var", "var_all", "lambda_sb", "lambda_nce", "lambda_vsa", "num_patches", "intended",
        "hypervector_dim", "vgg", "ngf", "ndf", "num_blocks", "average", "precision", "seed", "device", "num_threads",
        "checkpoint_every", "log_every", "pictures_every", "max_unreadable", "tensorboard",
    },
    "compare": {
        "source", "methods", "out", "images", "rows", "real", "real_images", "recogniser", "side", "backend",
        "precision", "engines", "batch_size", "device", "seed",
    },
    "convert": {"source", "pairs", *WRITTEN},
    "merge": {"sources", "same_names", *WRITTEN},
    "split": {"source", "parts", "identities_per_part", *WRITTEN},
    "subset": {"source", "identities", "images", "top", *WRITTEN},
    "status": {"folder", "as_json"},
    "verify": {"folder", "quick"},
    "report": {"folder", "out"},
    "bench": {
        "section", "models", "size", "engines", "backend", "precision", "batch_size", "height", "width", "images",
        "device", "budget_s", "save",
    },
    "drill": {"quick", "only", "seed", "soak_s", "folder", "save"},
    "reproduce": {"miniature", "facekit", "out", "models", "quick", "seed", "device"},
    "doctor": set(),
    "train": {
        "config", "recipe", "data", "out", "real", "real_identities", "identities", "identities_seed", "backbone",
        "layout", "width", "embedding_dim", "dropout", "head", "margin", "scale", "h", "t_alpha", "epochs",
        "batch_size",
        "learning_rate", "momentum", "weight_decay", "decay_norms", "schedule", "milestones", "gamma",
        "warmup_epochs", "clip_norm", "sampling", "augment", "augment_probability", "precision", "sync_batch_norm",
        "init", "benchmarks", "early_stop", "seed", "seeds", "device", "num_threads", "reader", "checkpoint_every",
        "max_unreadable", "onnx", "compile", "tensorboard",
    },
    "evaluate": {
        "network", "benchmarks", "out", "suite", "ijb_fusion", "no_flip", "max_unreadable", "batch_size", "precision",
        "reader", "device",
    },
    "quality": {
        "dataset", "recogniser", "out", "real", "inception", "identities", "images_per_identity", "radius",
        "duplicate_threshold", "neighbours", "queries", "impostor_pairs", "realism_images", "max_unreadable",
        "allow_same", "seed", "batch_size", "device", "calibrate", "accuracies", "bootstrap",
    },
}  # fmt: skip
SURFACE["plan"] = SURFACE["generate"] | {"seconds"}
REQUIRED = ["generate", "renders", "--models", "m", "--out", "o"]


def test_surface_is_frozen() -> None:
    flat = {name: model for name, model in COMMANDS.items() if not isinstance(model, dict)}
    for group, members in COMMANDS.items():
        if isinstance(members, dict):
            flat |= {f"{group} {name}": model for name, model in members.items()}
    assert {name: set(model.model_fields) for name, model in flat.items()} == SURFACE


CONFIGS = (
    GenerateConfig, TrainConfig, EvaluateConfig, QualityConfig, TranslateConfig, TransferConfig, CompareConfig,
    ConvertConfig, MergeConfig, SplitConfig, SubsetConfig,
)  # fmt: skip


def test_every_flag_is_explained() -> None:
    for model in CONFIGS:
        for name, field in model.model_fields.items():
            assert field.description, f"--{name} has no help"


def test_help_is_fast_and_imports_no_torch() -> None:
    script = (
        "import sys; from d2r_fast.engine.cli import main; sys.argv = ['d2r-fast', '--help']\n"
        "try: main()\n"
        "except SystemExit: print(sorted({'torch', 'numpy', 'diffusers', 'onnxruntime'} & set(sys.modules)))"
    )
    before_s = _children_s()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert _children_s() - before_s < 1.0  # of processor time, which does not count who else is at work
    assert done.stdout.splitlines()[-1] == "[]"
    assert "generate" in done.stdout


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_flags_go_before_file_before_preset_before_default(tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("alpha: 1.5\nsteps: 12\n")
    command = parse([*REQUIRED, "--preset", "smoke", "--config", str(settings), "--steps", "9"])
    assert isinstance(command, Generate)
    assert (command.steps, command.alpha, command.detector, command.guidance) == (9, 1.5, "template", 3.0)


def test_training_recipes_are_presets_too(tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("epochs: 3\nbatch_size: 64\n")
    base = ["train", "--data", "d", "--out", "o"]
    default = parse(base)
    assert isinstance(default, Train)
    assert (default.epochs, default.batch_size, default.schedule) == (30, 256, "cosine")
    arcface = parse([*base, "--recipe", "arcface", "--config", str(settings), "--batch-size", "32"])
    assert isinstance(arcface, Train)
    assert (arcface.head, arcface.epochs, arcface.batch_size, arcface.clip_norm) == ("arcface", 3, 32, 5.0)
    with pytest.raises(UserError, match="give --benchmarks"):
        parse([*base, "--recipe", "syn2auth"])


def test_file_can_give_what_is_required(tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("source: renders\nmodels: m\nout: o\n")
    command = parse(["generate", f"--config={settings}"])
    assert isinstance(command, Generate)
    assert command.source == Path("renders")


def test_paper_preset_is_digi2real_20k() -> None:
    recipe = Recipe(**paper())
    assert (recipe.identities, recipe.images_per_identity, recipe.source_images_per_identity) == (
        20000,
        20,
        5,
    )
    assert (recipe.alpha, recipe.sampler, recipe.steps, recipe.guidance) == (2.0, "dpm++2m", 25, 3.0)
    assert recipe.attempts == 1


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--alpha", "0"], "alpha"),
        (["--alpha", "-1"], "alpha"),
        (["--alpha", "nan"], "alpha"),
        (["--steps", "0"], "steps"),
        (["--guidance", "-0.5"], "guidance"),
        (["--height", "100", "--width", "512"], "height"),
        (["--height", "512"], "width"),
        (["--images-per-latent", "2"], "images_per_latent"),
        (["--sampler", "lcm"], "guidance"),
        (["--seed", "-1"], "seed"),
        (["--identities", "0"], "identities"),
        (["--batch-size", "0"], "batch_size"),
        (["--max-error-rate", "2"], "max_error_rate"),
    ],
)
def test_wrong_value_is_one_line_that_names_it(flags: list[str], named: str) -> None:
    with pytest.raises(UserError, match=named) as caught:
        parse([*REQUIRED, *flags])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz: 3", "did you mean 'steps'"),
        ("steps: 0", "steps = 0"),
        ("steps: many", "steps = 'many'"),
        ("- steps", "not a mapping"),
        ("steps: [", "not YAML"),
    ],
)
def test_wrong_settings_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        parse([*REQUIRED, "--config", str(settings)])
    assert "\n" not in str(caught.value)


def test_missing_settings_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the settings file"):
        parse([*REQUIRED, "--config", str(tmp_path / "none.yaml")])


def test_bad_value_ends_with_status_2_and_no_traceback() -> None:
    done = subprocess.run([PROGRAM, *REQUIRED, "--alpha", "0"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == "d2r-fast: alpha = 0.0: input should be greater than 0"


def test_unknown_flag_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse([*REQUIRED, "--stepz", "3"])
    assert "--steps" in capsys.readouterr().err


SLEEPER = """
import time
from concurrent.futures import ThreadPoolExecutor
from d2r_fast.engine import cli

class Sleeper:
    def run(self):
        pool = ThreadPoolExecutor()
        try:
            busy = pool.submit(time.sleep, 60)
            print("asleep", flush=True)
            return busy.result()
        finally:
            pool.shutdown(wait=False)
            print("tidied up", flush=True)

cli.parse = lambda arguments: Sleeper()
cli.main()
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_does_not_wait_for_threads_at_work(signum: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "asleep\n"
    process.send_signal(signum)
    try:
        said, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 128 + signum
    assert said == "tidied up\n"
