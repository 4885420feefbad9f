"""Stops conversions by SIGKILL at their changes of the file system, before one or half way through a write.

    python convertkiller.py FOLDER STEP

Every form is converted to afresh for every STEP-th change, killed there, looked at and done again. Prints a line for
each form: its name and how many kills there were. Ends with an error if a file is ever seen that is not whole, or if
the tree that the second run leaves differs from that of a run that nothing disturbed.

test_formats_kills.py runs this as a process of its own, where nothing hinders a fork.
"""

import shutil
import sys
from pathlib import Path
from typing import get_args

from fakedata import tree
from killer import check_visible, die_at_change, run
from PIL import Image

from d2r_fast.engine.formats.config import ConvertConfig, Target
from d2r_fast.engine.formats.convert import convert

PNG = b"\x89PNG\r\n\x1a\n"
MAGIC = b"\x0a\x23\xd7\xce"
"""RecordIO's, which splits a record."""


def make_source(root: Path) -> Path:
    """Three people of two files each, of which one is an image and the others begin like one."""
    for number in range(6):
        path = root / f"{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG + bytes([number]) * (400 + number) + MAGIC * number)
    Image.new("RGB", (8, 8)).save(root / "0" / "0.png")  # whose size goes into `property`
    return root


def kill_at_changes(source: Path, out: Path, to: Target, step: int) -> int:
    """How many kills a conversion to this form took."""

    def work(folder: Path) -> None:
        convert(ConvertConfig(source=source, out=folder, to=to, identities_per_shard=2))

    def killed(change: int) -> None:
        die_at_change(change, out)
        work(out)

    whole = out.with_name(f"{out.name}-whole")
    work(whole)
    expected = tree(whole)
    for kills, change in enumerate(range(1, 100_000, step)):
        shutil.rmtree(out, ignore_errors=True)
        if not run(lambda change=change: killed(change)):  # type: ignore[misc]
            assert tree(out) == expected
            return kills
        if out.exists():
            check_visible(out, expected)
        work(out)
        assert tree(out) == expected, f"{to}: killed at change {change}"
    raise AssertionError("the conversion never ends")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    people = make_source(folder / "people")
    for form in get_args(Target):
        print(form, kill_at_changes(people, folder / form, form, int(sys.argv[2])), flush=True)
