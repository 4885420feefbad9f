"""A conversion killed at a change of the file system shows no half of a file, and the next run gives the same bytes."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
STEP = 11
"""Of the changes, every eleventh: all of them take ten times as long and have found no more."""


def test_conversions_survive_kills(tmp_path: Path) -> None:
    program = [sys.executable, "-W", "ignore", str(HERE / "convertkiller.py"), str(tmp_path), str(STEP)]
    # PYTHONSAFEPATH may hide the script's own folder.
    paths = os.environ | {"PYTHONPATH": str(HERE)}
    done = subprocess.run(program, capture_output=True, text=True, timeout=300, check=False, env=paths)
    assert done.returncode == 0, done.stderr
    kills = {form: int(number) for form, number in map(str.split, done.stdout.splitlines())}
    assert kills.keys() == {"webdataset", "imagefolder", "recordio", "parquet"}
    assert all(number >= 4 for number in kills.values()), kills
