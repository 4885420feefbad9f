"""Command-line flags of a config's fields, for the scripts of the miniature."""

import argparse
from pathlib import Path

from d2r_fast.engine.config import Frozen


def add_flags(parser: argparse.ArgumentParser, config: type[Frozen]) -> None:
    """A flag for every number and word of `config`, with its default; paths and lists are the script's own."""
    for name, field in config.model_fields.items():
        if isinstance(field.annotation, type) and field.annotation is not Path:
            parser.add_argument(
                f"--{name.replace('_', '-')}", type=field.annotation, default=field.default,
                help=field.description,
            )  # fmt: skip
