"""One drawn face: who it is (`Person`), how it is seen (`Shot`), and the painting of its features.

Hair, beards and what is worn are in `wardrobe`; `samples` puts the picture together.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from d2r_fast.engine.canvas import (
    WHITE,
    Canvas,
    Colour,
    Mask,
    Outline,
    Points,
    View,
    curve,
    ellipse,
    mirrored,
    mix,
    shade,
    union,
)

EYE_X, EYE_Y, MOUTH_Y = 17.6, -10.3, 30.3
INK, BLOOD, GUMS, TEETH, SCLERA = (34, 22, 22), (196, 70, 62), (84, 24, 30), (246, 240, 232), (240, 234, 228)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """What stays the same from picture to picture: sizes are factors around 1, shares lie in [0, 1]."""

    key: int
    skin: Colour
    hair: Colour
    hair_style: str
    beard: str
    iris: Colour
    lips: Colour
    cloth: Colour
    jaw: float
    chin: float
    eye: float
    eye_tilt: float
    lashes: float
    brow: float
    nose: float
    mouth: float
    lip: float
    age: float
    freckles: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """What changes from picture to picture: smile, gaze and brows lie in [-1, 1], openings in [0, 1]."""

    key: int
    view: View
    smile: float
    open_mouth: float
    eyelids: float
    brows: float
    gaze: float
    light: tuple[float, float, float]
    tint: tuple[float, float, float]
    background: tuple[Colour, Colour]
    accessory: str
    accessory_colour: Colour


def backdrop(shot: Shot) -> Image.Image:
    """A background far out of focus: a soft ramp between two colours, with blurred lights."""
    rng = np.random.Generator(np.random.Philox(key=shot.key))
    ramp = np.linspace(0, 1, 56)[:, None, None]
    top, bottom = (np.array(colour, dtype=np.float64) for colour in shot.background)
    pixels = (top + (bottom - top) * ramp) * np.ones((56, 56, 3))
    picture = Image.fromarray(pixels.round().astype(np.uint8))
    for _ in range(7):
        light = Image.new("L", picture.size)
        disc = Image.new("L", (int(rng.integers(8, 22)),) * 2, int(rng.integers(20, 60)))
        light.paste(disc, (int(rng.integers(-6, 50)), int(rng.integers(-6, 50))))
        picture.paste(mix(shot.background[int(rng.integers(2))], WHITE, 0.6), mask=light)
    return picture.filter(ImageFilter.GaussianBlur(5))


def head_outline(canvas: Canvas, person: Person) -> Points:
    """The silhouette of the head, turned; the chin lies in front of the axis and swings with it."""
    jaw, chin = person.jaw, person.chin
    left = np.array([[-10, -60.5], [-25, -55], [-37, -38], [-41, -14], [-39.5, 6],
                     [-36 * jaw, 24], [-26.5 * jaw, 40], [-13 * chin, 51], [-4, 53.5]])  # fmt: skip
    depth = np.array([0, 0, 0, 0, 2, 6, 12, 20, 23])
    return curve(canvas.rim(mirrored(left), np.concatenate([depth, depth[::-1]])), closed=True)


def draw_neck(canvas: Canvas, person: Person) -> Mask:
    """Ears, neck and collar, which the head then covers; returns what they cover."""
    neck = canvas.mask(canvas.rim([[-27, 20], [-28, 70], [28, 70], [27, 20]], -4))
    canvas.paint(neck, shade(person.skin, 0.74))
    collar = curve(mirrored([[0, 58], [-25, 44], [-40, 48], [-70, 58], [-90, 90]])[:-1], closed=True)
    cloth = canvas.mask(canvas.rim(collar, -6))
    canvas.paint(cloth, person.cloth)
    canvas.paint(canvas.mask(canvas.rim(collar, -6), width=2.0, blur=0.6), shade(person.cloth, 0.75))
    covered = [neck, cloth]
    for side in (-1, 1):
        ear = canvas.rim(ellipse(side * 41, -3, 6, 10.5), -9)
        covered.append(canvas.mask(ear))
        canvas.paint(covered[-1], mix(person.skin, BLOOD, 0.1))
        canvas.paint(
            canvas.mask(canvas.rim(ellipse(side * 42.5, -3, 2.5, 6), -9), blur=1),
            shade(person.skin, 0.6),
            0.6,
        )
    return union(*covered)


def draw_skin(canvas: Canvas, person: Person, head: Mask) -> None:
    """The head's own colour, its hollows and heights, blush, freckles and the lines of age."""
    canvas.paint(head, person.skin)
    dark, glow = shade(person.skin, 0.7), mix(person.skin, (255, 236, 214), 0.75)

    def spot(x: float, y: float, rx: float, ry: float, colour: Colour, alpha: float, blur: float) -> None:
        canvas.paint(canvas.mask(canvas.turn(ellipse(x, y, rx, ry)), blur=blur), colour, alpha, head)

    spot(0, -33, 19, 9, glow, 0.32, 7)
    spot(0, 46, 8, 4, glow, 0.30, 3)
    spot(0, 38.5, 9, 2.2, dark, 0.55, 1.8)
    spot(0, 21, 2.2, 4, dark, 0.30, 1.2)
    for side in (-1, 1):
        spot(side * 27, 12, 11, 8, mix(person.skin, BLOOD, 0.6), 0.42, 5)
        spot(side * 25, 5, 9, 3.5, glow, 0.34, 3)
        spot(side * 14.5, -14.5, 11, 6, dark, 0.42, 3)
        spot(side * 17, -3, 9, 2, dark, 0.20 + 0.4 * person.age, 1.6)
        spot(side * 33, 27, 8, 14, dark, 0.22, 5)
    draw_freckles(canvas, person, head)
    draw_wrinkles(canvas, person, head)


def draw_freckles(canvas: Canvas, person: Person, head: Mask) -> None:
    """Freckles over the cheeks and the nose, always in the same places."""
    if not person.freckles:
        return
    rng = np.random.Generator(np.random.Philox(key=person.key))
    places = np.stack([rng.normal(0, 16, 60), rng.normal(5, 5, 60), rng.uniform(0.35, 0.8, 60)], axis=1)
    spots = [canvas.turn(ellipse(x, y, r, r)) for x, y, r in places]
    canvas.paint(canvas.mask(*spots, blur=0.2), shade(person.skin, 0.62), person.freckles, head)


def draw_wrinkles(canvas: Canvas, person: Person, head: Mask) -> None:
    """The lines of age, stronger with the years."""
    lines: list[tuple[Outline, float]] = [
        ([[-20, -34], [0, -36], [20, -34]], 0.7),
        ([[-17, -28.5], [0, -30], [17, -28.5]], 0.6),
    ]
    for side in (-1, 1):
        lines.append(([[side * 10, 11], [side * 16, 18], [side * 19, 28]], 1.3))
        lines += [([[side * 28, -9 + dy], [side * 34, -9 + 2.2 * dy]], 0.6) for dy in (-3, 0, 3)]
        lines.append(([[side * 11, -3], [side * 18, -0.5], [side * 25, -3]], 0.8))
    for points, width in lines:
        mask = canvas.mask(canvas.turn(curve(points)), width=width, blur=0.5)
        canvas.paint(mask, shade(person.skin, 0.55), 0.06 + 0.5 * person.age, head)


def draw_eye(canvas: Canvas, person: Person, shot: Shot, side: int, head: Mask) -> None:
    """One eye: white, iris, pupil, glint, and the lids around it. `side` is -1 on the left of the picture."""
    w = 8.6 * person.eye
    up, low = 5.4 * person.eye * shot.eyelids, 2.9 * person.eye - 0.9 * max(shot.smile, 0)
    tilt = person.eye_tilt
    upper = curve(
        [[-w, 1.3], [-0.5 * w, -0.8 * up], [0.1 * w, -up], [0.62 * w, -0.62 * up - tilt / 2], [w, -tilt]]
    )
    lower = curve([[w, -tilt], [0.45 * w, 0.8 * low], [-0.3 * w, low], [-w, 1.3]])

    def place(points: Points) -> Points:
        return canvas.turn(points * [side, 1] + [side * EYE_X, EYE_Y])

    eye = canvas.mask(place(np.concatenate([upper, lower])))
    canvas.paint(eye, mix(SCLERA, person.skin, 0.10))
    gaze = 2.3 * shot.gaze * side
    r = 4.5 * person.eye
    for radius, colour in ((r, shade(person.iris, 0.45)), (r * 0.84, person.iris), (r * 0.45, (14, 10, 12))):
        canvas.paint(canvas.mask(place(ellipse(gaze, -0.9, radius, radius)), blur=0.2), colour, within=eye)
    canvas.paint(
        canvas.mask(place(ellipse(gaze, 1.4, r * 0.5, r * 0.3)), blur=0.6),
        mix(person.iris, WHITE, 0.5),
        0.5,
        eye,
    )
    canvas.paint(canvas.mask(place(upper), width=4, blur=1.1), INK, 0.55, eye)
    glint = canvas.mask(
        place(ellipse(gaze + 1.3 * side * np.sign(shot.light[0]), -2.5, 1.15, 1.15)), blur=0.15
    )
    canvas.paint(glint, WHITE, 0.95, eye)
    lid = np.concatenate([upper, upper[-1:] + np.array([1.4, -1.1]) * person.lashes])
    canvas.paint(canvas.mask(place(lid), width=1.0 + 0.7 * person.lashes, blur=0.2), INK, 0.92, head)
    canvas.paint(canvas.mask(place(lower), width=0.6, blur=0.3), shade(person.skin, 0.45), 0.55, head)
    crease = upper * [1.04, 1.0] + [0.2, -2.6]
    canvas.paint(canvas.mask(place(crease), width=0.9, blur=0.4), shade(person.skin, 0.5), 0.6, head)


def draw_brow(canvas: Canvas, person: Person, shot: Shot, side: int, head: Mask) -> None:
    """One eyebrow: a tapering shape with hairs in it."""
    rng = np.random.Generator(np.random.Philox(key=person.key + 1))
    lift, thick = 2.6 * shot.brows, 2.2 * person.brow
    frown = 1.6 * max(-shot.brows, 0)
    ridge = np.array([[-11.5, 0.8 + frown], [-4, -2.0], [4, -3.6], [10, -1.8], [13.5, 1.6]])
    heavy = np.array([thick, 1.15 * thick, thick, 0.6 * thick, 0.1])
    top, bottom = (
        curve(ridge - np.stack([0 * heavy, heavy], axis=1)),
        curve(ridge + np.stack([0 * heavy, heavy], axis=1) / 2),
    )

    def place(points: Points) -> Points:
        return canvas.turn(points * [side, 1] + [side * 17.8, EYE_Y - 11.5 - lift], lift=2)

    colour = mix(person.hair, INK, 0.35)
    canvas.paint(canvas.mask(place(np.concatenate([top, bottom[::-1]])), blur=0.7), colour, 0.85, head)
    hairs = []
    for at, start in zip(rng.integers(0, len(top) - 6, 26), rng.uniform(0, 1, 26), strict=True):
        root = bottom[at] + (top[at] - bottom[at]) * start
        hairs.append(place(np.stack([root, top[at + 5]])))
    canvas.paint(canvas.mask(*hairs, width=0.4), shade(colour, 0.6), 0.5, head)


def draw_nose(canvas: Canvas, person: Person, shot: Shot, head: Mask) -> None:
    """The nose: a lit ridge and tip, a shaded flank, wings and nostrils."""
    w, dark = person.nose, shade(person.skin, 0.55)

    def line(
        points: Outline, width: float, colour: Colour, alpha: float, blur: float, lift: float = 4
    ) -> None:
        canvas.paint(
            canvas.mask(canvas.turn(curve(points), lift), width=width, blur=blur), colour, alpha, head
        )

    for side in (-1, 1):
        away = 0.5 - 0.35 * side * np.sign(shot.light[0])
        line(
            [[side * 5.5, -15], [side * 4.6 * w, -4], [side * 6.5 * w, 5]],
            3.2,
            shade(person.skin, 0.72),
            0.75 * away,
            1.5,
        )
        line([[side * 7.5 * w, 5], [side * 9.8 * w, 9], [side * 8 * w, 12.6]], 1.0, dark, 0.75, 0.4)
        line([[side * 2.8 * w, 12.9], [side * 5.6 * w, 12.4]], 1.9, shade(person.skin, 0.3), 0.85, 0.35, 6)
    line([[-7.5 * w, 13], [-3, 15], [0, 14.4], [3, 15], [7.5 * w, 13]], 1.8, dark, 0.6, 0.8, 5)
    glow = mix(person.skin, (255, 240, 224), 0.75)
    line([[0, -14], [0.3, -4], [0, 5]], 2.4, glow, 0.42, 1.1, 7)
    canvas.paint(canvas.mask(canvas.turn(ellipse(0, 8, 3 * w, 2.4), 9), blur=1.1), glow, 0.5, head)


def draw_mouth(canvas: Canvas, person: Person, shot: Shot, head: Mask) -> None:
    """Lips, and teeth between them when they are open."""
    m = 13.6 * person.mouth * (1 + 0.14 * shot.smile)
    full, gap = person.lip, 7.5 * shot.open_mouth
    corner = MOUTH_Y - 2.6 * shot.smile
    bow = MOUTH_Y + 0.9 * shot.smile - 0.3 * gap
    upper_top = curve(
        mirrored(
            [[-m, corner], [-0.55 * m, bow - 3 * full], [-2.6, bow - 4.4 * full], [-0.5, bow - 3.5 * full]]
        )
    )
    upper_low = curve(
        [[-m, corner], [-0.5 * m, bow + 0.5], [0, bow + 0.9], [0.5 * m, bow + 0.5], [m, corner]]
    )
    lower_top = upper_low + np.stack([np.zeros(len(upper_low)), gap * (1 - (upper_low[:, 0] / m) ** 2)], 1)
    lower_low = curve([[-m, corner], [-0.6 * m, bow + gap + 3.4 * full], [0, bow + gap + 5.8 * full],
                       [0.6 * m, bow + gap + 3.4 * full], [m, corner]])  # fmt: skip

    def between(a: Points, b: Points, blur: float = 0.0) -> Mask:
        return canvas.mask(canvas.turn(np.concatenate([a, b[::-1]]), 3), blur=blur)

    canvas.paint(between(upper_top, upper_low, 0.35), shade(person.lips, 0.86), within=head)
    canvas.paint(between(lower_top, lower_low, 0.35), person.lips, within=head)
    inside = between(upper_low, lower_top)
    if gap > 0.8:
        canvas.paint(inside, GUMS)
        teeth = upper_low + np.stack(
            [np.zeros(len(upper_low)), np.full(len(upper_low), min(0.55 * gap, 3.2))], 1
        )
        canvas.paint(between(upper_low, teeth, 0.2), TEETH, 0.95, inside)
    seam = canvas.mask(canvas.turn(upper_low, 3), width=0.9, blur=0.3)
    canvas.paint(seam, shade(person.lips, 0.38), 0.85, head)
    shine = canvas.mask(canvas.turn(ellipse(0, bow + gap + 3.2 * full, 0.32 * m, 0.9), 3), blur=0.8)
    canvas.paint(shine, WHITE, 0.35, head)
    for side in (-1, 1):
        fold = canvas.turn(curve([[side * (m + 0.4), corner - 1.2], [side * (m + 1.6), corner + 0.6]]))
        canvas.paint(
            canvas.mask(fold, width=1.2, blur=0.6),
            shade(person.skin, 0.5),
            0.3 + 0.3 * max(shot.smile, 0),
            head,
        )
        if shot.smile > 0.2:
            cheek = canvas.turn(curve([[side * 11, 12], [side * 18.5, 19], [side * 20.5, 27]]))
            canvas.paint(
                canvas.mask(cheek, width=1.4, blur=1.0), shade(person.skin, 0.6), 0.6 * shot.smile, head
            )
