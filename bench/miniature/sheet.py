"""A picture of the miniature's world: the same people in each of its domains, a row each.

python -m d2r_fast.bench.miniature.sheet FACEKIT docs/miniature-world.png
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from d2r_fast.bench.miniature.domains import Domain, draw
from d2r_fast.bench.miniature.head import Head, open_head
from d2r_fast.engine.console import say
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import write_atomic
from d2r_fast.engine.sheet import sheet_png

PEOPLE, OF_EACH = range(100, 105), 2
SIDE = 128


def draw_sheet(head: Head) -> bytes:
    """PNG: rows are domains in the order of `domains.Domain`, columns the pictures of some people."""
    wanted = [(person, image) for person in PEOPLE for image in range(OF_EACH)]
    domains: tuple[Domain, ...] = get_args(Domain)
    return sheet_png(
        [[*draw(domain, head, wanted, seed=0, side=SIDE, framing="portrait").numpy()] for domain in domains]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("facekit", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args(arguments)
    try:
        write_atomic(given.out, draw_sheet(open_head(given.facekit)))
    except (UserError, RunError) as error:
        say(f"sheet: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
