"""Who is drawn, and how each picture of them is taken.

    person, shot = cast(seed, identity), stage(seed, identity, image)

Every draw is a pure function of (seed, identity, image), so a larger world contains a smaller one. What a person
owns (shape, skin, eyes, hair, brows, lips, beard) comes from continuous ranges that people share, and what a
picture adds (light and its colour, exposure, pose, expression, crop) is of the size of those ranges: to tell people
apart, a network has to look at several of them together.
"""

import math
from dataclasses import dataclass

import torch

from d2r_fast.kernels.noise import identity_key, uniform

Colour = tuple[float, float, float]
"""Red, green, blue as displayed, 0 to 1."""

NUM_COEFFICIENTS = 50
SPREAD = 0.8
"""Standard deviation of the identity coefficients: unusual faces, but no broken ones."""
SKINS: tuple[Colour, ...] = (
    (0.94, 0.79, 0.71), (0.89, 0.69, 0.57), (0.80, 0.60, 0.46), (0.60, 0.42, 0.31), (0.37, 0.24, 0.18),
)  # fmt: skip
HAIRS: tuple[Colour, ...] = (
    (0.07, 0.06, 0.06), (0.16, 0.10, 0.08), (0.30, 0.19, 0.12), (0.52, 0.37, 0.22), (0.80, 0.66, 0.44),
)  # fmt: skip
EYES: tuple[Colour, ...] = (
    (0.20, 0.11, 0.06), (0.36, 0.22, 0.10), (0.42, 0.40, 0.20), (0.36, 0.46, 0.40), (0.36, 0.50, 0.64),
)  # fmt: skip
"""Ramps: a person is a point on each, between two neighbours."""

EXPRESSIONS: tuple[tuple[str, ...], ...] = (
    ("mouthSmile_L", "mouthSmile_R"), ("mouthSmile_L", "mouthSmile_R", "cheekRaiser_L", "cheekRaiser_R"),
    ("jawOpen",), ("jawOpen", "mouthSmile_L", "mouthSmile_R"), ("mouthFrown_L", "mouthFrown_R"),
    ("mouthPucker",), ("mouthFunnel",), ("mouthPress_L", "mouthPress_R"), ("mouthLeft",), ("mouthRight",),
    ("mouthUpperUp_L", "mouthUpperUp_R"), ("mouthLowerDown_L", "mouthLowerDown_R"), ("jawLeft",), ("jawRight",),
    ("browInnerUp_L", "browInnerUp_R"), ("browOuterUp_L", "browOuterUp_R"), ("browDown_L", "browDown_R"),
    ("eyeSquint_L", "eyeSquint_R"), ("eyeWide_L", "eyeWide_R"), ("eyeBlink_L", "eyeBlink_R"),
    ("noseSneer_L", "noseSneer_R"), ("cheekPuff_L", "cheekPuff_R"), ("mouthStretch_L", "mouthStretch_R"),
)  # fmt: skip
MAX_EXPRESSIONS, MAX_WEIGHT = 3, 0.5


@dataclass(frozen=True)
class Person:
    """What all pictures of somebody share."""

    key: int
    """Names the person's own noise."""
    coefficients: tuple[float, ...]
    skin: Colour
    blush: float
    """Redness of cheeks, nose and ears, 0 to 1."""
    eye: Colour
    lip: Colour
    hair: Colour
    brow: Colour
    brow_height: float
    """Above the usual place, cm."""
    brow_width: float
    """Half its thickness, cm."""
    brow_arch: float
    """How much its outer third lies above the ends, cm."""
    brow_density: float
    hairline: float
    """Above the usual place, cm."""
    temples: float
    """How far the hair recedes at the temples, cm."""
    hair_volume: float
    """Thickness of the hair, cm."""
    beard: float
    """Density, 0 (none) to 1."""


@dataclass(frozen=True)
class Shot:
    """What one picture adds."""

    yaw: float
    pitch: float
    roll: float
    """Radians; positive turns to the image's right, down, and counter-clockwise."""
    distance: float
    """From the viewer to the head's middle, cm."""
    expressions: tuple[tuple[str, float], ...]
    """Name and weight."""
    light: tuple[float, float, float]
    """Unit vector towards the light; x to the right, y up, z to the viewer."""
    light_colour: Colour
    ambient_colour: Colour
    """Linear intensities."""
    backdrop: tuple[Colour, Colour]
    """At the two ends of the gradient."""
    backdrop_angle: float
    """Direction of the gradient, radians."""
    cloth: Colour
    jitter: tuple[tuple[float, float], ...]
    """What an aligned crop misplaces each of the five landmarks by, as a share of the distance of the eyes."""
    place: tuple[float, float, float]
    """In a photograph: the middle of the face as a share of the picture from left and top, and its scale."""


def cast(seed: int, identity: int) -> Person:
    """Who number `identity` of the world `seed` is."""
    draws = Draws(seed, identity, 0)
    coefficients = tuple(SPREAD * draws.normal() for _ in range(NUM_COEFFICIENTS))
    dark = draws.between(0, 1)
    skin = ramp(SKINS, dark)
    warmth = draws.between(-0.03, 0.03)
    skin = (skin[0] + warmth / 2, skin[1], skin[2] - warmth)
    # Hair and eyes go with the skin, as they do in people, so that colours add little to each other.
    fair = (1 - dark) ** 0.7
    hair = ramp(HAIRS, fair * draws.between(0, 1) ** 1.2)
    hair = mix(hair, (0.46, 0.18, 0.08), fair * max(0.0, draws.between(-1.5, 0.7)))
    hair = mix(hair, (0.62, 0.60, 0.58), max(0.0, draws.between(-4, 1)))
    return Person(
        key=draws.key(), coefficients=coefficients, skin=skin, blush=draws.between(0, 0.7),
        eye=ramp(EYES, (0.2 + 0.8 * fair) * draws.between(0, 1)), hair=hair,
        lip=mix(skin, (0.62, 0.22, 0.24), draws.between(0.15, 0.6)),
        brow=mix(mix(hair, (0.12, 0.08, 0.06), draws.between(0.1, 0.7)), skin, 0.1),
        brow_height=draws.between(-0.3, 0.35), brow_width=draws.between(0.22, 0.5),
        brow_arch=draws.between(-0.1, 0.5), brow_density=draws.between(0.5, 1),
        hairline=draws.between(-1, 1.2), temples=max(0.0, draws.between(-0.6, 1.6)),
        hair_volume=draws.between(0.05, 1.3), beard=max(0.0, draws.between(-1, 0.8)),
    )  # fmt: skip


def stage(seed: int, identity: int, image: int) -> Shot:
    """How picture number `image` of an identity is taken."""
    draws = Draws(seed, identity, image + 1)
    warmth, strength = draws.between(-0.14, 0.14), draws.between(0.5, 1.05)
    ambient, cast_colour = draws.between(0.22, 0.48), draws.between(-0.08, 0.08)
    backdrop = draws.colour()
    return Shot(
        yaw=clip(0.35 * draws.normal(), 1), pitch=clip(0.13 * draws.normal(), 0.4),
        roll=clip(0.1 * draws.normal(), 0.3), distance=draws.between(55, 140),
        expressions=draw_expressions(draws), light=draw_light(draws),
        light_colour=(strength * (1 + warmth), strength, strength * (1 - warmth)),
        ambient_colour=(ambient * (1 + cast_colour), ambient, ambient * (1 - cast_colour)),
        backdrop=(backdrop, mix(backdrop, draws.colour(), draws.between(0, 0.7))),
        backdrop_angle=draws.between(0, 2 * math.pi), cloth=draws.colour(),
        jitter=tuple((0.02 * draws.normal(), 0.02 * draws.normal()) for _ in range(5)),
        place=(draws.between(0.42, 0.58), draws.between(0.42, 0.54), draws.between(0.9, 1.3)),
    )  # fmt: skip


def draw_expressions(draws: "Draws") -> tuple[tuple[str, float], ...]:
    """None to three groups of muscles at up to half their strength, and where the eyes look."""
    weights: dict[str, float] = {}
    for _ in range(draws.index(MAX_EXPRESSIONS + 1)):
        group, weight = EXPRESSIONS[draws.index(len(EXPRESSIONS))], draws.between(0, MAX_WEIGHT)
        for name in group:
            weights[name] = max(weight, weights.get(name, 0.0))
    across, up = clip(0.25 * draws.normal(), MAX_WEIGHT), clip(0.15 * draws.normal(), MAX_WEIGHT)
    inward, outward = ("L", "R") if across > 0 else ("R", "L")
    weights[f"eyeLookIn_{inward}"] = weights[f"eyeLookOut_{outward}"] = abs(across)
    for side in "LR":
        weights[f"eyeLook{'Up' if up > 0 else 'Down'}_{side}"] = abs(up)
    return tuple(sorted(weights.items()))


def draw_light(draws: "Draws") -> tuple[float, float, float]:
    """From before the face, more often from above than from below."""
    azimuth, height = clip(0.7 * draws.normal(), 1.4), draws.between(-0.25, 0.95)
    return math.sin(azimuth) * math.cos(height), math.sin(height), math.cos(azimuth) * math.cos(height)


def ramp(colours: tuple[Colour, ...], at: float) -> Colour:
    """The colour `at` (0 to 1) along the ramp."""
    place = at * (len(colours) - 1)
    index = min(int(place), len(colours) - 2)
    return mix(colours[index], colours[index + 1], place - index)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """The share (0 to 1) of the second in the first."""
    a, b, c = (x + (y - x) * share for x, y in zip(first, second, strict=True))
    return a, b, c


def clip(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)


class Draws:
    """Random numbers of one identity (`image` 0) or one of its pictures, the same wherever they are drawn."""

    def __init__(self, seed: int, identity: int, image: int) -> None:
        key = torch.tensor([[identity_key(seed, f"miniature {identity}"), image, 0, 0]])
        self.numbers = iter(uniform(key, 256)[0].tolist())

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(next(self.numbers))

    def normal(self) -> float:
        """By Box and Muller's transform."""
        radius = math.sqrt(-2 * math.log(next(self.numbers)))
        return radius * math.cos(2 * math.pi * next(self.numbers))

    def index(self, num: int) -> int:
        return int(next(self.numbers) * num)

    def key(self) -> int:
        return int(next(self.numbers) * 2**32)

    def colour(self) -> Colour:
        """Any colour, greyish ones more often."""
        grey, saturation = self.between(0.05, 0.95), self.between(0, 0.35)
        a, b, c = (min(max(grey + saturation * self.between(-1, 1), 0.0), 1.0) for _ in range(3))
        return a, b, c
