"""The command line: `d2r-fast COMMAND ...`.

Parses, runs, and turns what goes wrong into one line and an exit status: 0 done, 1 failed, 2 bad input,
3 finished with more rejected images than allowed, 130 and 143 stopped by a signal. Only the command that
runs imports torch, so that help answers at once.
"""

import dataclasses
import inspect
import os
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Union, get_type_hints

import tyro

from d2r_fast.engine.command import Command
from d2r_fast.engine.commands import COMMANDS
from d2r_fast.engine.config import read_settings
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.patience import watch
from d2r_fast.engine.stops import STOPPED, stop_when_told

DESCRIPTION = "Rendered faces in, realistic training data for face recognition out."
_FILLS = "__fills__"
"""Attribute of a draft that holds the model it is of; no field can be called so."""
MARKERS = (tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes)


def main() -> None:
    """Entry point of the `d2r-fast` command."""
    stop_when_told()
    watch()
    try:
        sys.exit(parse(sys.argv[1:]).run())
    except (UserError, RunError) as error:
        print(f"d2r-fast: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code in STOPPED:
            # Python would wait for what other threads are at, a minute of sampling perhaps.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(stop.code)
        raise
    except BrokenPipeError:
        # The reader of our output left; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def parse(arguments: list[str]) -> Command:
    """The command that the arguments ask for, checked.

    Raises:
        UserError: a value is not allowed.
        SystemExit: tyro has printed help (0) or what it could not parse (2).
    """
    model = COMMANDS.get(arguments[0]) if arguments else None
    overrides: dict[Any, dict[str, Any]] = {}
    if isinstance(model, type) and issubclass(model, Command) and "config" in model.model_fields:
        overrides[model] = base_settings(arguments, model)
    filled = tyro.cli(
        _union(COMMANDS, overrides), prog="d2r-fast", description=DESCRIPTION, args=arguments, config=MARKERS
    )
    filled = getattr(filled, "action", filled)
    values = {field.name: getattr(filled, field.name) for field in dataclasses.fields(filled)}
    command = getattr(filled, _FILLS)(**values)
    assert isinstance(command, Command)
    return command


def base_settings(arguments: list[str], model: type[Command]) -> dict[str, Any]:
    """What a command with a settings file starts from before its flags: the preset where it has presets, and the YAML
    file over it."""
    names = ("config", model.PRESET_FLAG) if model.PRESETS else ("config",)
    flags = tuple(f"--{name}" for name in names)
    pairs = []
    for place, word in enumerate(arguments):
        pairs += (
            arguments[place : place + 2] if word in flags else [word] if word.split("=")[0] in flags else []
        )
    hints = get_type_hints(model)
    fields = [(name, hints[name], model.model_fields[name].default) for name in names]
    shape: type = dataclasses.make_dataclass("_Base", fields)
    base: Any = tyro.cli(shape, prog=f"d2r-fast {arguments[0]}", args=pairs)
    preset = getattr(base, model.PRESET_FLAG, None)
    settings = model.PRESETS[preset]() if preset else {}
    return settings | (read_settings(base.config, model.settings_model()) if base.config else {})


def _union(commands: dict[str, Any], overrides: Mapping[Any, dict[str, Any]]) -> Any:
    members = []
    for name, model in commands.items():
        if isinstance(model, dict):  # a group such as `models`, whose members are commands
            action = _annotated(_union(model, overrides), tyro.conf.arg(name=""))
            shape = dataclasses.make_dataclass(name, [("action", action)])
            summary = f"Model folders: {', '.join(model)}."
        else:
            shape, summary = _draft(model, overrides.get(model, {})), inspect.getdoc(model) or ""
        members.append(_annotated(shape, tyro.conf.subcommand(name, description=summary)))
    return Union[tuple(members)]  # noqa: UP007  # its members are known at run time only


def _annotated(hint: Any, marker: Any) -> Any:
    # Annotated[...] with parts that are known at run time only is no type to a checker.
    return Annotated.__class_getitem__((hint, marker))  # type: ignore[attr-defined]


def _draft(model: type[Command], overrides: dict[str, Any]) -> type:
    """A dataclass with the model's fields and none of its checks.

    tyro prints a failed check as a box of library prose; a model filled from a draft says it in one line.
    """
    hints = get_type_hints(model, include_extras=True)
    fields = []
    for name, info in model.model_fields.items():
        default = overrides.get(name, tyro.MISSING if info.is_required() else info.default)
        hint = _annotated(hints[name], tyro.conf.arg(help=info.description))
        fields.append((name, hint, dataclasses.field(default=default)))
    return dataclasses.make_dataclass(model.__name__, fields, kw_only=True, namespace={_FILLS: model})
