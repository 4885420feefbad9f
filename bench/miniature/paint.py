"""Paint: the colour and gloss of every vertex of a person, from where it lies on the neutral head.

Places are in the head's own centimetres: eyes at y 3.4, brows at 5.2, nose tip at 0, mouth at -3.4, x 0 in the
middle. What is painted moves with the skin, whatever the person's shape and expression.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch

from d2r_fast.bench.miniature.head import END, PARTS, Head, rim
from d2r_fast.bench.miniature.world import Colour, Person, Shot

IRIS, PUPIL = 0.45, 0.17
"""Radii as shares of the eyeball's."""
HAIRLINE = (
    (-9.0, -5.0), (-3.0, -4.0), (-1.6, -1.5), (-0.8, 4.9), (2.6, 4.9), (3.4, 4.2), (4.4, 7.0), (6.0, 9.6), (8.0, 10.6),
)  # fmt: skip
"""Height of the hairline over z: nape, behind the ear, above it, temple, forehead."""
GLOSS = {"left_eye": 0.4, "right_eye": 0.4, "teeth": 0.25, "gums": 0.15, "mouth": 0.05}
SKIN_GLOSS, LIP_GLOSS, HAIR_GLOSS = 0.09, 0.14, 0.12


@dataclass(frozen=True)
class Paint:
    """How a person's vertices take light."""

    colour: torch.Tensor
    """(V, 3) float32, linear, 0 to 1."""
    gloss: torch.Tensor
    """(V,) float32."""
    lift: torch.Tensor
    """(V, 3) float32, what the hair adds to the head, cm."""


@dataclass(frozen=True)
class Regions:
    """Where things are on the neutral head, computed once; (V,) float32 each but `normal`."""

    position: torch.Tensor
    """(V, 3)."""
    normal: torch.Tensor
    """(V, 3)."""
    skin: torch.Tensor
    """1 on the outside of head and neck."""
    lips: torch.Tensor
    open_light: torch.Tensor
    """Share of the light from around that reaches the place: less in creases, nostrils and the mouth."""
    iris: torch.Tensor
    """Distance from the pupil's middle as a share of the eyeball's radius; 9 elsewhere."""
    lids: torch.Tensor
    """1 along the edge of the lids."""


@lru_cache(maxsize=4)
def find_regions(head: Head) -> Regions:
    """The regions of a head."""
    position, normal = head.neutral, head.normals(head.neutral)
    triangles = head.triangles.cpu().numpy()
    skin = position.new_zeros(END)
    skin[: PARTS["neck"][1]] = 1
    return Regions(
        position=position, normal=normal, skin=skin,
        lips=_lips(position) * skin,
        open_light=_open_light(head, normal), iris=_iris(position),
        lids=_near(position, rim(triangles, "sockets"), 0.08, 0.3),
    )  # fmt: skip


def paint(regions: Regions, person: Person) -> Paint:
    """A person's paint, without clothes."""
    x, y, z = regions.position.unbind(1)
    colour = regions.position.new_zeros(END, 3)
    grain = _grain(person.key, regions.position)
    _base(colour, regions, person)
    redness = torch.maximum(_spot(x.abs(), y, 4.4, -0.2, 2.2), _spot(x.abs(), y, 0, 0.0, 1.3))
    _blend(colour, (0.80, 0.36, 0.30), 0.35 * person.blush * redness * regions.skin * (z > 2))
    beard = person.beard * _beard(x, y, z) * regions.skin * (0.75 + 0.25 * grain) * (1 - regions.lips)
    _blend(colour, person.brow, 0.75 * beard)
    _blend(colour, person.lip, regions.lips)
    _blend(colour, person.brow, _brows(x.abs(), y, z, person) * (0.8 + 0.2 * grain) * regions.skin)
    _blend(colour, (0.10, 0.06, 0.05), 0.75 * regions.lids)
    above = _above_hairline(regions.position, person, grain)
    hair = _smooth(above / 0.5) * regions.skin
    _blend(colour, person.hair, hair)
    colour = colour * colour * (1 + 0.35 * hair * grain)[:, None] * regions.open_light[:, None]
    gloss = _gloss(regions, hair)
    # Hair rises from where it is dense, or skin would rise with it; behind the ears, where it would show, it lies flat.
    rise = _smooth((above - 0.4) / 1.6) * _smooth((y - 3.5) / 3) * regions.skin
    volume = person.hair_volume * rise * (1 + 0.25 * grain)
    return Paint(colour, gloss, regions.normal * volume[:, None])


def dress(colour: torch.Tensor, regions: Regions, shot: Shot) -> torch.Tensor:
    """The linear colours (V, 3) with a picture's clothes on."""
    x, y, z = regions.position.unbind(1)
    below = _smooth((-12.6 - 0.12 * z + 0.012 * x * x - y) / 0.8) * regions.skin
    cloth = colour.new_tensor(shot.cloth)
    return colour + (cloth * cloth - colour) * below[:, None]


def _base(colour: torch.Tensor, regions: Regions, person: Person) -> None:
    colour[:] = colour.new_tensor(person.skin)
    for part, tint in (
        ("mouth", (0.42, 0.14, 0.14)),
        ("gums", (0.66, 0.32, 0.32)),
        ("teeth", (0.90, 0.87, 0.80)),
    ):
        colour[slice(*PARTS[part])] = colour.new_tensor(tint)
    _blend(colour, (0.70, 0.42, 0.38), _within("sockets", colour))
    ball = (regions.iris < 2).float()
    _blend(colour, (0.90, 0.88, 0.86), ball)
    _blend(colour, person.eye, ball * _smooth((IRIS - regions.iris) / 0.06 + 0.5))
    _blend(colour, (0.05, 0.04, 0.04), ball * 0.5 * _spot(regions.iris, regions.iris * 0, IRIS, 0, 0.07))
    _blend(colour, (0.02, 0.02, 0.02), ball * _smooth((PUPIL - regions.iris) / 0.05 + 0.5))


def _gloss(regions: Regions, hair: torch.Tensor) -> torch.Tensor:
    gloss = SKIN_GLOSS + (LIP_GLOSS - SKIN_GLOSS) * regions.lips + (HAIR_GLOSS - SKIN_GLOSS) * hair
    for part, value in GLOSS.items():
        gloss[slice(*PARTS[part])] = value
    return gloss * regions.open_light


def _brows(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, person: Person) -> torch.Tensor:
    """Thick at the inner end, thin at the outer one."""
    along = (x - 1.2) / 4.2
    middle = (
        5.05 + person.brow_height + (0.35 + person.brow_arch) * 4 * along * (1 - along) * along - 0.1 * along
    )
    width = person.brow_width * (1.15 - 0.6 * along.clamp(0, 1))
    band = _smooth((width - (y - middle).abs()) / 0.22 + 0.5)
    ends = _smooth(along / 0.08) * _smooth((1 - along) / 0.15)
    return person.brow_density * band * ends * (z > 4)


def _above_hairline(position: torch.Tensor, person: Person, grain: torch.Tensor) -> torch.Tensor:
    """Height over the hairline in cm, -9 on the ears."""
    x, y, z = position.unbind(1)
    line = torch.full_like(z, HAIRLINE[0][1])
    for (z0, y0), (z1, y1) in pairwise(HAIRLINE):
        line = torch.where(z > z0, y0 + (y1 - y0) * ((z - z0) / (z1 - z0)).clamp(0, 1), line)
    front = _smooth((z - 2) / 6)
    recede = person.temples * _spot(x.abs(), x * 0, 4.5, 0, 2.2)
    line = line + front * (person.hairline + recede)
    ear = (x.abs() > 8) & (y < 5) & (z < 4)
    return torch.where(ear, -9.0, y - line + 0.25 * grain)


def _beard(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Jaw, chin and above the lip."""
    jaw = _smooth((-1.2 - y + 0.55 * (x.abs() - 3.2)) / 1.2)
    sides = _smooth((z + 0.5) / 2) * _smooth((y + 11.5) / 2)
    moustache = _smooth((2.9 - x.abs()) / 0.8) * _smooth((-1.3 - y) / 0.4) * _smooth((y + 3.6) / 0.5)
    return torch.maximum(jaw * sides, moustache * (z > 6))


def _lips(position: torch.Tensor) -> torch.Tensor:
    """Above and below the mouth's line, which is 5 cm wide; fuller below."""
    x, y, z = position.unbind(1)
    bow = (1 - (x / 2.5) ** 2).clamp_min(0)
    upper = 0.72 * bow.sqrt() * (1 - 0.18 * _spot(x, x * 0, 0, 0, 0.35)) - (y + 3.4)
    lower = 0.95 * bow + (y + 3.4)
    return (
        _smooth(upper / 0.22 + 0.5) * _smooth(lower / 0.22 + 0.5) * _smooth((2.5 - x.abs()) / 0.2) * (z > 8)
    )


def _iris(position: torch.Tensor) -> torch.Tensor:
    away = torch.full_like(position[:, 0], 9.0)
    for part in ("left_eye", "right_eye"):
        ball = position[slice(*PARTS[part])]
        middle = (ball.amax(0) + ball.amin(0)) / 2
        aside = ((ball - middle) / (ball[:, 0].amax() - middle[0]))[:, :2].norm(dim=1)
        away[slice(*PARTS[part])] = torch.where(ball[:, 2] > middle[2], aside, 1.5)
    return away


def _open_light(head: Head, normal: torch.Tensor) -> torch.Tensor:
    """How far a place lies below its surroundings, as darkness; the mouth's inside darkens with its depth."""
    smooth = head.neutral
    for _ in range(12):
        smooth = _neighbours(head, smooth)
    depth = ((smooth - head.neutral) * normal).sum(1)
    light = (1 - 1.6 * depth.clamp_min(0)).clamp(0.45, 1)
    z = head.neutral[:, 2]
    for part in ("mouth", "gums", "teeth"):
        rows = slice(*PARTS[part])
        light[rows] = ((z[rows] - 6) / 5).clamp(0.08, 0.85)
    light[slice(*PARTS["sockets"])] = 0.5
    for part in ("left_eye", "right_eye"):  # the upper lid's shadow
        rows = slice(*PARTS[part])
        light[rows] = 1 - 0.45 * _smooth((head.neutral[rows, 1] - 3.75) / 0.5)
    return light


def _neighbours(head: Head, values: torch.Tensor) -> torch.Tensor:
    """Each vertex's mean over the triangles around it."""
    middle = values[head.triangles].mean(1)
    total, count = torch.zeros_like(values), torch.zeros_like(values[:, :1])
    for triangle in head.around:
        total[: len(triangle)] += middle[triangle]
        count[: len(triangle)] += 1
    return (total / count.clamp_min(1))[head.place]


def _near(position: torch.Tensor, vertices: object, full: float, none: float) -> torch.Tensor:
    """1 within `full` cm of the nearest of the vertices, falling to 0 at `none`."""
    distance = torch.cdist(position, position[torch.as_tensor(vertices, device=position.device)]).amin(1)
    return _smooth((none - distance) / (none - full))


def _within(part: str, like: torch.Tensor) -> torch.Tensor:
    inside = like.new_zeros(END)
    inside[slice(*PARTS[part])] = 1
    return inside


def _grain(key: int, position: torch.Tensor) -> torch.Tensor:
    """Streaks from -1 to 1 along the height of the head, a person's own."""
    x, y, z = position.unbind(1)
    phase = (key % 1000) / 1000 * 6.283
    return torch.sin(9 * x + 2 * torch.sin(1.3 * z + phase) + phase) * torch.cos(7 * z + 0.8 * y + 2 * phase)


def _spot(x: torch.Tensor, y: torch.Tensor, at_x: float, at_y: float, radius: float) -> torch.Tensor:
    return torch.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / (radius * radius))


def _smooth(value: torch.Tensor) -> torch.Tensor:
    """0 below 0, 1 above 1, smooth between."""
    value = value.clamp(0, 1)
    return value * value * (3 - 2 * value)


def _blend(colour: torch.Tensor, tint: Colour, share: torch.Tensor) -> None:
    colour += (colour.new_tensor(tint) - colour) * share[:, None]
