"""Pack ICT-FaceKit's head into the one file that the miniature world reads.

git clone https://github.com/ICT-VGL/ICT-FaceKit
python -m d2r_fast.bench.miniature.pack_head ICT-FaceKit --out ict_facekit_mit.npz

The data are ICT-FaceKit's (Li et al., "Learning Formation of Physically-Based Face Attributes", CVPR 2020; MIT
licence); who passes the file on passes the checkout's LICENSE on with it. A checkout gives the same arrays anywhere.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2r_fast.bench.miniature.head import NAME, NEEDED_EXPRESSIONS, NUM_VERTICES
from d2r_fast.bench.miniature.world import NUM_COEFFICIENTS
from d2r_fast.engine.console import say
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import check_out, write_atomic

FOLDER, NEUTRAL, IDENTITY = "FaceXModel", "generic_neutral_mesh", "identity"
REMEDY = "give a whole checkout of https://github.com/ICT-VGL/ICT-FaceKit"


def pack_head(checkout: Path, out: Path) -> None:
    """Write the head in `checkout` to `out`: its mesh, as many identities as people have coefficients, expressions.

    Triangles are the neutral mesh's. The faces of the others are not looked at: a shape is what its vertices add to
    the neutral ones, so no more than their number and order count.

    Raises:
        UserError: `checkout` lacks the folder or a file, one of them is no such mesh, or `out` is no place for a file.
        RunError: the disk is full.
    """
    folder = checkout / FOLDER
    if not folder.is_dir():
        raise UserError(f"checkout {checkout} holds no folder {FOLDER}: {REMEDY}")
    check_out(out)
    neutral = read_vertices(folder / f"{NEUTRAL}.obj")
    identities = [f"{IDENTITY}{number:03d}" for number in range(NUM_COEFFICIENTS)]
    found = {path.stem for path in folder.glob("*.obj")}
    others = {name for name in found if name != NEUTRAL and not name.startswith(IDENTITY)}
    expressions = sorted(others | NEEDED_EXPRESSIONS)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        neutral=neutral,
        triangles=read_triangles(folder / f"{NEUTRAL}.obj"),
        identity_delta=_read_deltas(folder, identities, neutral),
        expression_delta=_read_deltas(folder, expressions, neutral),
        expression_names=np.array(expressions),
    )
    write_atomic(out, buffer.getvalue())


def _read_deltas(folder: Path, names: Sequence[str], neutral: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack([read_vertices(folder / f"{name}.obj") - neutral for name in names])


def read_vertices(path: Path) -> NDArray[np.float32]:
    """Vertices (NUM_VERTICES, 3) of an .obj, in the file's order.

    Raises:
        UserError: it is missing, or holds another number of vertices or what is no vertex.
    """
    rows = _read_rows(path, "v")
    if len(rows) != NUM_VERTICES:
        raise UserError(f"{path} holds {len(rows)} vertices where the head has {NUM_VERTICES}: {REMEDY}")
    try:
        vertices = np.loadtxt(rows, np.float32, comments=None, usecols=(1, 2, 3), ndmin=2)
    except ValueError as error:
        raise UserError(f"{path} holds a vertex that is not three numbers ({error}): {REMEDY}") from None
    if not np.isfinite(vertices).all():
        raise UserError(f"{path} holds a vertex that is not finite: {REMEDY}")
    return vertices


def read_triangles(path: Path) -> NDArray[np.int32]:
    """Triangles (T, 3) of an .obj, from vertex 0, each face cut from its first corner.

    Raises:
        UserError: it is missing, or holds no face or what is none.
    """
    triangles = [triangle for row in _read_rows(path, "f") for triangle in _cut(path, row)]
    if not triangles:
        raise UserError(f"{path} holds no faces: {REMEDY}")
    return np.array(triangles, np.int32)


def _cut(path: Path, row: str) -> list[tuple[int, int, int]]:
    """A corner is v, v/vt, v//vn or v/vt/vn, counted from 1."""
    try:
        corners = [int(corner.split("/")[0]) - 1 for corner in row.split()[1:]]
    except ValueError:
        corners = []
    if len(corners) < 3 or min(corners) < 0 or max(corners) >= NUM_VERTICES:
        raise UserError(f"{path} holds {row[:60]!r}, no face of vertices 1 to {NUM_VERTICES}: {REMEDY}")
    return [(corners[0], *pair) for pair in pairwise(corners[1:])]


def _read_rows(path: Path, kind: str) -> list[str]:
    try:
        lines = path.read_text("latin-1").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: {REMEDY}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {REMEDY}") from None
    return [line for line in lines if line.startswith(f"{kind} ")]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="pack_head", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkout", type=Path, help="folder of ICT-FaceKit, which holds FaceXModel")
    parser.add_argument("--out", type=Path, default=Path(NAME), help=f"file to write (default {NAME})")
    given = parser.parse_args(arguments)
    try:
        pack_head(given.checkout, given.out)
    except (UserError, RunError) as error:
        say(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
