"""Every command that the README shows is one that the program takes."""

import re
import shlex
from pathlib import Path

import pytest

from d2r_fast.engine.cli import parse
from d2r_fast.engine.command import Command

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCKS = re.findall(r"```\n(.*?)```", README.read_text(), flags=re.DOTALL)
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
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README.read_text()):
        assert (README.parent / name).is_file(), name
