"""Replaces an engine by another, and is killed before each single change of the file system.

    python enginekiller.py FOLDER

Prints how many kills there were. Ends with an error if an engine is ever found that is not wholly the old or
the new one, or if the next build does not end with the new one and nothing beside it.

test_engine_file.py runs this as a process of its own, where nothing hinders a fork.
"""

import shutil
import sys
from pathlib import Path

from killer import die_at_change, run

from d2r_fast.engine.engine_file import Built, building, describe, find, install
from d2r_fast.engine.engine_record import Record

OLD, NEW = b"old engine", b"the new engine"


def build(root: Path, content: bytes) -> None:
    sidecar = root / "openvino" / "unet.json"
    with building(sidecar) as folder:
        for name in ("unet.bin", "unet.xml"):
            (folder / name).write_bytes(content)
        files = describe(root, sidecar, sorted(folder.iterdir()))
        install(folder, sidecar, Record(key={"of": content.decode()}, files=files, build_s=1.0))


def check(root: Path) -> None:
    """Whatever is found as an engine is one, to the last byte."""
    for content in (OLD, NEW):
        found = find(root, root / "openvino" / "unet.json", {"of": content.decode()}, Record)
        if isinstance(found, Built):
            assert {path.read_bytes() for path in found.files.values()} == {content}


def kill_at_each_change(root: Path) -> int:
    for kills in range(1000):
        shutil.rmtree(root, ignore_errors=True)
        build(root, OLD)

        def work(number: int = kills + 1) -> None:
            die_at_change(number, root)
            build(root, NEW)

        killed = run(work)
        check(root)
        build(root, NEW)
        left = sorted(path.name for path in (root / "openvino").iterdir())
        assert left == ["unet.bin", "unet.json", "unet.xml"], f"kill {kills + 1}: {left}"
        found = find(root, root / "openvino" / "unet.json", {"of": NEW.decode()}, Record)
        assert isinstance(found, Built)
        assert found.damage(thorough=True) is None
        if not killed:
            return kills
    raise AssertionError("the builder never ends")


if __name__ == "__main__":
    print(kill_at_each_change(Path(sys.argv[1]) / "engines"))
