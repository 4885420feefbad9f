"""Engines on disk: what counts as the engine that is wanted, and what a kill leaves."""

import copy
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from d2r_fast.engine.engine_file import Built, building, describe, find, first_difference, install
from d2r_fast.engine.engine_lock import locked
from d2r_fast.engine.engine_record import Record
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import stale

from .fakedata import names_in

KEY: dict[str, Any] = {
    "network": "unet",
    "source": {"config.json": "aa", "weights": "bb", "height": "512"},
    "exporter": {"torch": "2.13.0", "onnx": "1.23.2"},
    "onnx_sha256": {"unet.onnx": "cc"},
    "backend": "tensorrt",
    "backend_version": "11.4.1",
    "precision": "fp16",
    "batch_size": 8,
    "shapes": {"latents": [8, 4, 64, 64]},
    "flags": {"open_sizes": [12, 320, 2048]},
    "target": {"device": "cuda", "card": "NVIDIA H100", "sm": "sm90", "driver": 13010},
}
OTHER = {
    "network": "vae",
    "source": {"config.json": "aa", "weights": "b2", "height": "512"},
    "exporter": {"torch": "2.14.0", "onnx": "1.23.2"},
    "onnx_sha256": {"unet.onnx": "c2"},
    "backend": "tensorrt-rtx",
    "backend_version": "11.5.0",
    "precision": "fp32",
    "batch_size": 4,
    "shapes": {"latents": [8, 4, 32, 32]},
    "flags": {"open_sizes": [12, 320, 1024]},
    "target": {"device": "cuda", "card": "NVIDIA H100", "sm": "sm90", "driver": 13020},
}


def make(root: Path, key: dict[str, Any] = KEY, content: bytes = b"engine") -> Path:
    """An engine of two files and a log; returns its sidecar."""
    sidecar = root / "tensorrt" / "unet.json"
    with building(sidecar) as folder:
        (folder / "engine.plan").write_bytes(content)
        (folder / "engine.log").write_bytes(b"said")
        (folder / "other.engine").write_bytes(content)
        files = describe(root, sidecar, [folder / "engine.plan", folder / "other.engine"])
        install(folder, sidecar, Record(key=key, files=files, build_s=1.0))
    return sidecar


def test_an_engine_with_its_key_is_found_with_its_files(tmp_path: Path) -> None:
    found = find(tmp_path, make(tmp_path), KEY, Record)
    assert isinstance(found, Built)
    folder = tmp_path / "tensorrt"
    assert found.files == {
        "tensorrt/unet.plan": folder / "unet.plan",
        "tensorrt/other.engine": folder / "other.engine",
    }
    assert found.damage(thorough=True) is None
    assert names_in(tmp_path / "tensorrt") == ["other.engine", "unet.json", "unet.log", "unet.plan"]


@pytest.mark.parametrize("part", KEY)
def test_any_part_of_the_key_that_differs_is_named(tmp_path: Path, part: str) -> None:
    found = find(tmp_path, make(tmp_path), KEY | {part: OTHER[part]}, Record)
    assert isinstance(found, str)
    assert f"has {part}" in found
    assert "\n" not in found


@pytest.mark.parametrize("part", KEY)
def test_a_part_that_is_missing_or_new_is_named(tmp_path: Path, part: str) -> None:
    less = {name: value for name, value in KEY.items() if name != part}
    for stored, wanted in ((less, KEY), (KEY, less)):
        found = find(tmp_path, make(tmp_path, stored), wanted, Record)
        assert isinstance(found, str)
        assert part in found


def test_every_single_value_inside_the_key_counts() -> None:
    def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        if not isinstance(value, dict):
            return [path]
        return [leaf for name, inner in value.items() for leaf in leaves(inner, (*path, name))]

    paths = leaves(KEY)
    assert len(paths) == 17
    for path in paths:
        changed = copy.deepcopy(KEY)
        place = changed
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = "else"
        difference = first_difference(KEY, changed)
        assert difference is not None
        assert path[-1] in difference


def test_an_engine_for_more_targets_serves_and_one_for_fewer_does_not() -> None:
    many, one = {"targets": ["sm86", "sm89"]}, {"targets": ["sm89"]}
    assert first_difference(many, one) is None
    assert first_difference(one, many) is not None
    assert first_difference({}, one) is not None


def test_without_the_onnx_what_it_was_exported_from_decides(tmp_path: Path) -> None:
    sidecar = make(tmp_path)
    assert isinstance(find(tmp_path, sidecar, KEY | {"onnx_sha256": None}, Record), Built)
    found = find(tmp_path, sidecar, KEY | {"onnx_sha256": None, "exporter": OTHER["exporter"]}, Record)
    assert isinstance(found, str)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "is not there"),
        (b"", "is damaged or of another version"),
        (b'{"format": 1, "key": {', "is damaged or of another version"),
        (b"[]", "is damaged or of another version"),
        (b'{"format": 0, "key": {}, "files": {}}', "is damaged or of another version"),
        (b'{"format": 1}', "is damaged or of another version"),
        (b'{"format": 1, "key": [], "files": {}}', "is damaged or of another version"),
        (b'{"format": 1, "key": {}, "files": {"a": {}}}', "is damaged or of another version"),
    ],
)
def test_a_sidecar_that_is_none_is_said_so(tmp_path: Path, content: bytes | None, says: str) -> None:
    sidecar = make(tmp_path)
    sidecar.unlink()
    if content is not None:
        sidecar.write_bytes(content)
    found = find(tmp_path, sidecar, KEY, Record)
    assert isinstance(found, str)
    assert says in found


def test_truncated_missing_and_changed_files_are_found(tmp_path: Path) -> None:
    sidecar = make(tmp_path)
    plan = tmp_path / "tensorrt" / "unet.plan"
    engine = find(tmp_path, sidecar, KEY, Record)
    assert isinstance(engine, Built)
    plan.write_bytes(b"Engine")
    assert engine.damage(thorough=False) is None
    assert "sha256" in str(engine.damage(thorough=True))
    plan.write_bytes(b"engin")
    assert "has 5 bytes where 6 were written" in str(find(tmp_path, sidecar, KEY, Record))
    plan.unlink()
    assert "No such file" in str(find(tmp_path, sidecar, KEY, Record))


def test_a_failed_build_leaves_the_old_engine_and_nothing_else(tmp_path: Path) -> None:
    sidecar = make(tmp_path)

    def fail() -> None:
        with building(sidecar) as folder:
            (folder / "unet.plan").write_bytes(b"half")
            raise RunError("the backend failed")

    with pytest.raises(RunError, match="the backend failed"):
        fail()
    assert isinstance(find(tmp_path, sidecar, KEY, Record), Built)
    assert stale(tmp_path / "tensorrt") == []


def test_a_kill_at_any_change_leaves_the_old_engine_or_the_new_or_none(tmp_path: Path) -> None:
    killer = Path(__file__).with_name("enginekiller.py")
    done = subprocess.run(
        [sys.executable, killer, tmp_path],
        env=os.environ
        | {"PYTHONPATH": str(killer.parent)},  # PYTHONSAFEPATH may hide the script's own folder
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 8


def test_two_builders_take_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order = []

    def second() -> None:
        with locked(tmp_path):
            order.append("second")

    with locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        deadline = time.monotonic() + 10
        while "waiting" not in capsys.readouterr().err:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not a folder"), locked(tmp_path / "file"):
        pass


def test_sidecars_are_json_that_people_can_read(tmp_path: Path) -> None:
    text = make(tmp_path).read_text()
    assert json.loads(text)["key"] == KEY
    assert text.endswith("}\n")
