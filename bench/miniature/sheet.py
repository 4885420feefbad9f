"""A picture of the miniature's world: the same people in each of its domains, a row each.

python -m d2r_fast.bench.miniature.sheet FACEKIT docs/miniature-world.png
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image

from d2r_fast.bench.miniature.domains import Domain, draw
from d2r_fast.bench.miniature.head import Head, open_head
from d2r_fast.engine.console import say
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import write_atomic

PEOPLE, OF_EACH = range(100, 105), 2
SIDE, GAP = 128, 4


def draw_sheet(head: Head) -> bytes:
    """PNG: rows are domains in the order of `domains.Domain`, columns the pictures of some people."""
    wanted = [(person, image) for person in PEOPLE for image in range(OF_EACH)]
    width = len(wanted) * (SIDE + GAP) - GAP
    domains: tuple[Domain, ...] = get_args(Domain)
    sheet = np.full((len(domains) * (SIDE + GAP) - GAP, width, 3), 255, np.uint8)
    for row, domain in enumerate(domains):
        for column, pictures in enumerate(wanted):
            top, left = row * (SIDE + GAP), column * (SIDE + GAP)
            (picture,) = draw(domain, head, [pictures], seed=0, side=SIDE, framing="portrait").numpy()
            sheet[top : top + SIDE, left : left + SIDE] = picture
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG")
    return buffer.getvalue()


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
