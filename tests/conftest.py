"""Shared fixtures: where the sample data lies, and which tests are asked for."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from .fakefaces import draw_patterns, pattern_pairs
from .tracing import trace_once

if TYPE_CHECKING:
    from d2r_fast.bench.miniature.head import Head

# Triton reads this once, when diffusers imports it: interpreted where there is no GPU, else compiled.
os.environ["TRITON_INTERPRET"] = "0" if torch.cuda.is_available() else "1"

PROGRAM = Path(sys.executable).with_name("d2r-fast")
"""The command as installed beside this Python, whatever PATH holds."""
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run tests on full-size networks")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="full size: run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


def pytest_runtest_setup() -> None:
    trace_once()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real sample data, which is not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"no sample data at {SHARED}: this test needs real faces")
    return SHARED


@pytest.fixture(scope="session")
def mini_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of `models init --size mini`; copy before changing anything in it."""
    from d2r_fast.engine.models.init import init_models

    folder = tmp_path_factory.mktemp("models") / "mini"
    init_models(folder, size="mini", seed=0)
    return folder


@pytest.fixture(scope="session")
def renders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in sample renders: 4 identities of 6 images."""
    from d2r_fast.engine.samples import draw_samples

    folder = tmp_path_factory.mktemp("renders") / "samples"
    draw_samples(folder, num_identities=4, images_per_identity=6)
    return folder


@pytest.fixture(scope="session")
def patterns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 identities of 6 images that are easy to tell apart; copy before changing anything."""
    folder = tmp_path_factory.mktemp("patterns")
    draw_patterns(folder, num_identities=8, images_per_identity=6)
    return folder


@pytest.fixture(scope="session")
def pattern_sets(patterns: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of benchmarks: 40 pairs of the patterns, patterns.bin."""
    from d2r_fast.recognition.evaluation.bin_file import write_bin

    folder = tmp_path_factory.mktemp("benchmarks")
    images, same = pattern_pairs(patterns, num_pairs=40)
    write_bin(folder / "patterns.bin", images, same)
    return folder


@pytest.fixture(scope="session")
def shift(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of fakemethod.py's translation."""
    from .fakemethod import write_weights

    return write_weights(tmp_path_factory.mktemp("shift") / "w.safetensors")


@pytest.fixture(scope="session")
def shifted(renders: Path, shift: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample renders, translated by it; copy before changing anything."""
    from .fakemethod import use_fake_method
    from .translating import run

    out = tmp_path_factory.mktemp("shifted") / "dataset"
    with pytest.MonkeyPatch.context() as patch:
        use_fake_method(patch)
        assert run(renders, shift, out) == 0
    return out


@pytest.fixture(scope="session")
def facekit(shared: Path) -> Path:
    """The face model of the miniature world."""
    return shared / "ict-facekit"


@pytest.fixture(scope="session")
def head(facekit: Path) -> "Head":
    """That model, read."""
    from d2r_fast.bench.miniature.head import open_head

    return open_head(facekit)


@pytest.fixture(scope="session")
def e4e(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mini e4e checkpoint; copy before changing anything."""
    from d2r_fast.translation.stylegan.random_weights import write_random_weights

    path = tmp_path_factory.mktemp("stylegan") / "e4e.pt"
    write_random_weights(path, size="mini", seed=0)
    return path
