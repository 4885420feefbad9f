"""Every command that the README and the pages of docs/ show is one that the program takes."""

import re
import shlex
from pathlib import Path

import pytest

from d2r_fast.engine.cli import parse
from d2r_fast.engine.command import Command

README = Path(__file__).resolve().parents[1] / "README.md"
PAGES = (README, *sorted((README.parent / "docs").glob("*.md")))
BLOCKS = [
    block for page in PAGES for block in re.findall(r"```\w*\n(.*?)```", page.read_text(), flags=re.DOTALL)
]
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("d2r-fast")]
MAKEFILE = (README.parent / "Makefile").read_text()


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("line", COMMANDS)
def test_command_parses(line: str) -> None:
    command = parse(shlex.split(line, comments=True)[1:])
    assert isinstance(command, Command)


@pytest.mark.parametrize("verb", re.findall(r"make (\w+)  ", README.read_text()))
def test_make_verb_exists(verb: str) -> None:
    assert re.search(rf"^{verb}:", MAKEFILE, flags=re.MULTILINE)


def test_pictures_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text()):
            assert (page.parent / name).is_file(), f"{name} of {page.name}"
