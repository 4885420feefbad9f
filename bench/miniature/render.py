"""Render people of the miniature world into a folder, <identity>/<image>.png.

python -m d2r_fast.bench.miniature.render FACEKIT --out renders --identities 200 --images 10
"""

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import torch
from PIL import Image

from d2r_fast.bench.miniature.camera import Framing, frame, pose, project
from d2r_fast.bench.miniature.head import Head, open_head
from d2r_fast.bench.miniature.light import backdrop, shade
from d2r_fast.bench.miniature.paint import Paint, Regions, dress, find_regions, paint
from d2r_fast.bench.miniature.rasteriser import rasterise
from d2r_fast.bench.miniature.shadow import lit
from d2r_fast.bench.miniature.world import Person, Shot, cast, stage
from d2r_fast.engine.console import Meter, say
from d2r_fast.engine.device import find_device
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import make_folder, write_atomic

Picture = tuple[int, int]
"""Identity and number."""
Painter = Callable[[Regions, Person], Paint]
BATCH = 8
"""Images drawn at once: what a CPU's caches hold, and no picture depends on it."""
SUPERSAMPLING = 2
"""Samples per pixel along each side."""


def render(
    facekit: Path, out: Path, *, identities: range, images_per_identity: int, size: int = 112, seed: int = 0,
    framing: Framing = "aligned", device: str = "cpu",
) -> None:  # fmt: skip
    """Render `identities` of the world `seed` into `out` as <identity>/<image>.png.

    A picture depends on seed, identity, image, size and framing alone, so folders can be made in parts.

    Args:
        facekit: the head's .npz, or its folder.
        size: of the pictures; aligned ones are multiples of 112 or 128 pixels, which have a landmark template.

    Raises:
        UserError: a count or size is out of range, `facekit` is no head, or `out` cannot be written to.
        RunError: the disk is full.
    """
    if not identities or identities[0] < 0 or images_per_identity < 1 or size < 16 or not 0 <= seed < 2**63:
        raise UserError(
            f"identities {identities.start} to {identities.stop}, {images_per_identity} images of {size} pixels, "
            f"seed {seed}: give 1 identity and image or more, none negative, 16 pixels or more, seed 0 to 2**63 - 1"
        )
    head = open_head(facekit).to(find_device(device))
    wanted = [(identity, image) for identity in identities for image in range(images_per_identity)]
    with Meter("render", total=len(wanted)) as meter:
        for first in range(0, len(wanted), BATCH):
            part = wanted[first : first + BATCH]
            people = {identity: cast(seed, identity) for identity, _ in part}
            shots = [stage(seed, identity, image) for identity, image in part]
            images = render_batch(head, [people[i] for i, _ in part], shots, size, framing=framing).cpu()
            for (identity, image), picture in zip(part, images, strict=True):
                write_picture(out, identity, image, picture)
            meter.advance(len(part))


def render_batch(
    head: Head, people: Sequence[Person], shots: Sequence[Shot], size: int, *, framing: Framing = "aligned"
) -> torch.Tensor:
    """Pictures uint8 (N, size, size, 3) RGB on the head's device: picture i is of people[i] under shots[i].

    Raises:
        ValueError: people and shots differ in number.
        UserError: an aligned crop of a size without a landmark template.
    """
    return _develop(draw_batch(head, people, shots, size, framing=framing))


def draw_batch(
    head: Head, people: Sequence[Person], shots: Sequence[Shot], size: int, *, framing: Framing = "aligned",
    painter: Painter = paint, shadows: bool = False, behind: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Linear light float32 (N, 2 size, 2 size, 3), two samples per pixel along each side, before any camera.

    Args:
        painter: gives a person their colours and gloss.
        shadows: whether heads cast shadows on themselves.
        behind: linear light of that shape, before which they stand; the shots' gradients if None.

    Raises:
        ValueError, UserError: as `render_batch`.
    """
    paints = {person: painter(find_regions(head), person) for person in dict.fromkeys(people)}
    pairs = list(zip(people, shots, strict=True))
    side = size * SUPERSAMPLING
    meshes = [
        _mesh(head, person, paints[person], shot, framing, size, shadows=shadows) for person, shot in pairs
    ]
    points, colours = (torch.stack(tensors) for tensors in zip(*meshes, strict=True))
    raster = rasterise(points, head.triangles, colours, height=side, width=side)
    if behind is None:
        behind = torch.stack([backdrop(shot, side, head.device) for shot in shots])
    return torch.where(raster.triangle[..., None] >= 0, raster.values, behind)


def _mesh(
    head: Head, person: Person, painted: Paint, shot: Shot, framing: Framing, size: int, *, shadows: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (V, 3) in samples, with nearness, and linear colours (V, 3) of one picture.

    One at a time, so that no sum depends on what else is drawn.
    """
    bare = head.shape(person.coefficients, dict(shot.expressions))
    vertices = bare + painted.lift
    colour = dress(painted.colour, find_regions(head), shot)
    posed = pose(vertices, shot)
    reaching = lit(posed, head.triangles, shot.light) if shadows else None
    colour = shade(colour, painted.gloss, pose(head.normals(vertices), shot), shot, lit=reaching)
    landmarks = project(pose(head.five_points(bare), shot), shot)[:, :2]
    matrix = frame(landmarks, shot, framing=framing, size=size)
    points = project(posed, shot)
    (a, b, left), (c, d, top) = matrix.tolist()
    x, y, near = points.unbind(1)
    x, y = a * x + b * y + left, c * x + d * y + top
    return torch.stack([(x + 0.5) * SUPERSAMPLING, (y + 0.5) * SUPERSAMPLING, near], 1), colour


def _develop(linear: torch.Tensor) -> torch.Tensor:
    """Linear samples (N, 2 H, 2 W, 3) as displayed, uint8 (N, H, W, 3): mean of each pixel's, gamma 2.

    A square root is exact on every machine, where other powers are rounded by the place in memory.
    """
    steps = range(SUPERSAMPLING)
    samples = [linear[:, row::SUPERSAMPLING, column::SUPERSAMPLING] for row in steps for column in steps]
    mean = torch.stack(samples).sum(0) / len(samples)
    return (mean.clamp(0, 1).sqrt() * 255 + 0.5).to(torch.uint8)


def missing_pictures(out: Path, identities: range, images_per_identity: int) -> list[Picture]:
    """Those of `identities` and their images that `write_picture` has not put into `out` yet."""
    return [
        (identity, image)
        for identity in identities
        for image in range(images_per_identity)
        if not picture_file(out, identity, image).exists()
    ]


def picture_file(out: Path, identity: int, image: int) -> Path:
    return out / str(identity) / f"{image}.png"


def write_picture(out: Path, identity: int, image: int, picture: torch.Tensor) -> None:
    """Write uint8 (H, W, 3) RGB as <identity>/<image>.png."""
    path = picture_file(out, identity, image)
    make_folder(path.parent)
    buffer = io.BytesIO()
    Image.fromarray(picture.numpy()).save(buffer, "PNG")
    write_atomic(path, buffer.getvalue())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="render", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("facekit", type=Path, help="ict_facekit_mit.npz, or its folder")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--identities", type=int, default=200, help="how many people (default 200)")
    parser.add_argument("--images", type=int, default=10, help="pictures of each (default 10)")
    parser.add_argument("--first-identity", type=int, default=0, help="number of the first one (default 0)")
    parser.add_argument("--size", type=int, default=112, help="pixels (default 112)")
    parser.add_argument("--seed", type=int, default=0, help="which world (default 0)")
    parser.add_argument("--framing", choices=get_args(Framing), default="aligned", help="default aligned")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default cpu)")
    given = parser.parse_args(arguments)
    identities = range(given.first_identity, given.first_identity + given.identities)
    try:
        render(
            given.facekit, given.out, identities=identities, images_per_identity=given.images, size=given.size,
            seed=given.seed, framing=given.framing, device=given.device,
        )  # fmt: skip
    except (UserError, RunError) as error:
        say(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
