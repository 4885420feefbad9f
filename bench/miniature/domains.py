"""Domains of the same head: plain renders, those of a studio, photographs by a cheap camera, and snapshots.

    render_domain("photographs", head_file, out, identities=range(100), images_per_identity=10)

A render is the miniature world as it is drawn everywhere here. A photograph shows skin with pores, blotches and a
shine, under a flash near the lens, through `sensor.photograph`. Who somebody is (shape, skin colour, eyes, hair,
brows) and what they do (pose, expression) come from the same draws in all. A studio's renders have one light for all,
so that colours tell who somebody is, as they do nowhere else. A snapshot is a photograph with the shadows
that a head casts on itself, before a room and not before a gradient. Pictures are crops of 112 pixels by the
landmarks, as recognisers take them, at fewer pixels: 64 resized to 112 is aligned for a recogniser.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch.nn.functional import adaptive_avg_pool2d

from d2r_fast.bench.miniature.camera import Framing
from d2r_fast.bench.miniature.clutter import clutter
from d2r_fast.bench.miniature.head import Head, open_head
from d2r_fast.bench.miniature.paint import Paint, Regions, paint
from d2r_fast.bench.miniature.render import (
    BATCH,
    SUPERSAMPLING,
    Picture,
    draw_batch,
    missing_pictures,
    write_picture,
)
from d2r_fast.bench.miniature.sensor import photograph
from d2r_fast.bench.miniature.world import Person, Shot, cast, stage
from d2r_fast.engine.console import Meter
from d2r_fast.engine.device import find_device
from d2r_fast.kernels.noise import identity_key
from d2r_fast.recognition.iresnet import IMAGE_SIZE

Domain = Literal["renders", "studio", "photographs", "snapshots"]
SIDE = 64
SHINE = 1.3
"""Gloss of a photographed skin over that of a rendered one."""
FLASH, AROUND = 1.2, 0.7
"""Strength of the photographs' light and of the light from around, over those of the renders."""
STUDIO_LIGHT, STUDIO_LAMP, STUDIO_AROUND = (0.35, 0.45, 0.8216), 0.8, 0.35
"""Where a studio's light comes from, and the strengths of it and of the light from around: the middle of what the
renders have."""
NEAR_LENS = 0.1
"""How far the photographs' light is moved from where the shot has it to beside the lens."""


def render_domain(
    domain: Domain, facekit: Path, out: Path, *, identities: range, images_per_identity: int, side: int = SIDE,
    seed: int = 0, device: str = "cpu",
) -> None:  # fmt: skip
    """Write `identities` of the world `seed` as <identity>/<image>.png; what is there already is left alone.

    A picture depends on domain, seed, identity, image and side alone.

    Args:
        facekit: the head's .npz, or its folder.
        side: of the pictures, in pixels, a multiple of 16.

    Raises:
        UserError: `facekit` is no head, or `out` cannot be written to.
        RunError: the disk is full.
    """
    wanted = missing_pictures(out, identities, images_per_identity)
    if not wanted:
        return
    head = open_head(facekit).to(find_device(device))
    with Meter(domain, total=len(wanted)) as meter:
        for first in range(0, len(wanted), BATCH):
            part = wanted[first : first + BATCH]
            for (identity, image), picture in zip(
                part, draw(domain, head, part, seed=seed, side=side), strict=True
            ):
                write_picture(out, identity, image, picture)
            meter.advance(len(part))


def draw(
    domain: Domain, head: Head, pictures: Sequence[Picture], *, seed: int, side: int = SIDE,
    framing: Framing = "aligned",
) -> torch.Tensor:  # fmt: skip
    """Pictures uint8 (N, side, side, 3) RGB on the CPU, of (identity, image) each; crops are drawn at 112 pixels and
    made `side` from there."""
    size = IMAGE_SIZE if framing == "aligned" else side
    people = [cast(seed, identity) for identity, _ in pictures]
    shots = [stage(seed, identity, image) for identity, image in pictures]
    if domain == "studio":
        shots = [light_studio(shot) for shot in shots]
    if domain in ("renders", "studio"):
        light = _pixels(draw_batch(head, people, shots, size, framing=framing), side)
        return (light.clamp(0, 1).sqrt() * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).cpu()
    flashed = [flash(shot) for shot in shots]
    shadows, behind = domain == "snapshots", None
    if shadows:
        samples = size * SUPERSAMPLING
        behind = torch.stack([clutter(seed, *picture, samples, head.device) for picture in pictures])
    drawn = draw_batch(
        head, people, flashed, size, framing=framing, painter=paint_skin, shadows=shadows, behind=behind
    )
    light = _pixels(drawn, side)
    keys = [[identity_key(seed, f"sensor {identity}"), image] for identity, image in pictures]
    return photograph(light, torch.tensor(keys)).cpu()


def paint_skin(regions: Regions, person: Person) -> Paint:
    """A person with pores, blotches and a shine on the skin."""
    painted = paint(regions, person)
    bare = regions.skin * (1 - regions.lips)
    fine, coarse = (_mottle(regions.position, person.key, waves) for waves in (5.0, 1.6))
    tone = 1 + bare[:, None] * (0.06 * fine + 0.05 * coarse)[:, None]
    ruddy = 1 + (bare * 0.08 * coarse.clamp_min(0))[:, None] * regions.position.new_tensor([1.0, -0.5, -0.5])
    return replace(
        painted, colour=painted.colour * tone * ruddy, gloss=painted.gloss * (1 + (SHINE - 1) * bare)
    )


def light_studio(shot: Shot) -> Shot:
    """The same shot under a studio's light: white, as strong, and from the same side whoever stands there."""
    lamp, around = (STUDIO_LAMP,) * 3, (STUDIO_AROUND,) * 3
    return replace(shot, light=STUDIO_LIGHT, light_colour=lamp, ambient_colour=around)


def flash(shot: Shot) -> Shot:
    """The same shot under a light that is nearer to the lens and stronger, with less light from around."""
    x, y, z = (share * (1 - NEAR_LENS) for share in shot.light)
    z += NEAR_LENS
    length = (x * x + y * y + z * z) ** 0.5
    red, green, blue = (FLASH * part for part in shot.light_colour)
    dim_red, dim_green, dim_blue = (AROUND * part for part in shot.ambient_colour)
    return replace(
        shot, light=(x / length, y / length, z / length), light_colour=(red, green, blue),
        ambient_colour=(dim_red, dim_green, dim_blue),
    )  # fmt: skip


def _pixels(samples: torch.Tensor, side: int) -> torch.Tensor:
    """Linear samples (N, S, S, 3) as light per pixel (N, 3, side, side): the mean over each."""
    return adaptive_avg_pool2d(samples.permute(0, 3, 1, 2), side)


def _mottle(position: torch.Tensor, key: int, waves: float) -> torch.Tensor:
    """Spots from -1 to 1, (V,), about `waves` radians per cm, a person's own."""
    total = torch.zeros_like(position[:, 0])
    directions = ((1.0, 0.3, 0.5), (-0.4, 1.0, 0.3), (0.5, -0.6, 0.9), (0.8, 0.7, -0.3))
    for number, direction in enumerate(directions):
        phase = (key // 1000**number % 1000) / 1000 * 6.283
        total += torch.sin(waves * (1 + 0.17 * number) * (position @ position.new_tensor(direction)) + phase)
    return total / len(directions)
