"""Random checkpoints: every method opens what is written for it, and nobody's file is overwritten."""

import subprocess
from pathlib import Path

import pytest

from d2r_fast.engine.errors import UserError
from d2r_fast.translation.config import TranslateRecipe
from d2r_fast.translation.methods import METHODS, open_method
from d2r_fast.translation.random_weights import FILES, write_random_weights

from .conftest import PROGRAM


@pytest.mark.parametrize("method", METHODS)
def test_method_opens_its_file_and_no_other_does(method: str, tmp_path: Path) -> None:
    path = write_random_weights(method, tmp_path, size="mini")
    open_method(TranslateRecipe(method=method), path)
    for other in METHODS:
        if other != method:
            with pytest.raises(UserError, match=method):
                open_method(TranslateRecipe(method=other), path)


def test_same_seed_same_bytes_and_no_overwriting(tmp_path: Path) -> None:
    first = write_random_weights("decent", tmp_path / "a", size="mini", seed=1).read_bytes()
    assert write_random_weights("decent", tmp_path / "b", size="mini", seed=1).read_bytes() == first
    assert write_random_weights("decent", tmp_path / "c", size="mini", seed=2).read_bytes() != first
    with pytest.raises(UserError, match="there already"):
        write_random_weights("decent", tmp_path / "a", size="mini")


def test_command(tmp_path: Path) -> None:
    arguments = ["models", "init", str(tmp_path), "--size", "mini", "--method", "vsait"]
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout == f"wrote random mini weights to {tmp_path / FILES['vsait']}\n"
