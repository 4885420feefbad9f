"""What a drawn face wears: hair, beards, glasses and hats."""

import numpy as np
from numpy.typing import ArrayLike
from PIL import ImageChops

from d2r_fast.engine.canvas import (
    BLACK,
    WHITE,
    Canvas,
    Colour,
    Mask,
    Outline,
    Points,
    curve,
    ellipse,
    mirrored,
    mix,
    shade,
    union,
)
from d2r_fast.engine.portrait import EYE_X, EYE_Y, Person, Shot

HAIRLINES: dict[str, Outline] = {
    "crop": [
        [-39, 2],
        [-36, -16],
        [-30.5, -31],
        [-16.5, -36],
        [0, -35],
        [16.5, -37],
        [30.5, -31],
        [36, -16],
        [39, 2],
    ],
    "parted": [
        [-39, 4],
        [-37, -14],
        [-31.5, -30],
        [-18.5, -44],
        [0, -34],
        [18.5, -27],
        [31.5, -20],
        [38, -8],
        [40, 6],
    ],
    "fringe": [
        [-40, 8],
        [-37, -8],
        [-33.5, -20],
        [-16.5, -22],
        [0, -21],
        [16.5, -22],
        [33.5, -20],
        [37, -8],
        [40, 8],
    ],
    "centre": [
        [-41.5, 34],
        [-38, 10],
        [-34, -16],
        [-18.5, -36],
        [0, -46],
        [18.5, -36],
        [34, -16],
        [38, 10],
        [41.5, 34],
    ],
    "back": [
        [-40, -4],
        [-36, -22],
        [-28.5, -38],
        [-15, -44],
        [0, -45],
        [15, -44],
        [28.5, -38],
        [36, -22],
        [40, -4],
    ],
    "scarf": [
        [-31.5, 44],
        [-36, 20],
        [-37, -8],
        [-31.5, -30],
        [0, -41],
        [31.5, -30],
        [37, -8],
        [36, 20],
        [31.5, 44],
    ],
}
"""Where the hair ends on the face, from left to right."""
CROWNS: dict[str, Outline] = {
    "short": [[-42.5, 4], [-45, -18], [-41.5, -42], [-28, -60], [-11, -67]],
    "tight": [[-41.5, 2], [-43, -18], [-39, -42], [-25, -58], [-10, -63.5]],
    "full": [[-48, 6], [-51, -22], [-44.5, -50], [-29, -66], [-11, -73]],
    "long": [[-50, 40], [-50, 0], [-46, -36], [-30, -60], [-11, -68]],
    "scarf": [[-48, 60], [-50, 10], [-47, -30], [-30, -60], [-11, -69]],
}
"""Where the hair ends against the background, from the left ear to the top."""
STYLES = {
    "crop": ("crop", "short", None), "buzz": ("crop", "tight", None), "parted": ("parted", "short", None),
    "bob": ("fringe", "full", "bob"), "long": ("centre", "long", "long"), "tied": ("back", "tight", "bun"),
    "curls": ("crop", "full", "curls"), "afro": ("back", "full", "afro"), "locs": ("back", "short", "locs"),
    "scarf": ("scarf", "scarf", "scarf"),
}  # fmt: skip
"""Hair styles: hairline, crown, and what hangs behind the head. `bald` has none."""
BEHIND: dict[str, Outline] = {
    "bob": [[-2, -68], [-37, -56], [-52, -20], [-53.5, 14], [-46, 34], [-28, 38], [-2, 30]],
    "long": [[-2, -66], [-33.5, -58], [-50, -28], [-54.5, 10], [-57.5, 70], [-28, 74], [-2, 70]],
    "bun": [[-2, -84], [-13, -81], [-17.5, -70], [-13, -58], [-2, -55]],
    "scarf": [[-2, -69], [-31.5, -60], [-50, -28], [-53.5, 10], [-66.5, 56], [-55.5, 90], [-2, 90]],
}
CHEEK: Outline = [[-38.5, -2], [-34, 13], [-27, 19], [-18.5, 22], [-13.5, 30], [-8, 37.6], [-1, 38]]
MOUSTACHE: Outline = [[-1, 18.5], [-8.5, 20.5], [-14.5, 26], [-16.5, 34], [-8, 25], [-1, 23.5]]
GOATEE: Outline = [[-1, 38], [-12, 36], [-13, 46], [-7, 56], [-1, 57]]
"""Upper edge of a full beard, and the left halves of a moustache and of a goatee."""
DOWN = np.array([0.0, 1.0])
GLARE = np.array([[-7, -12], [-1, -12], [-8, 12], [-14, 12]])


def draw_behind(canvas: Canvas, person: Person) -> Mask:
    """Hair behind the head and neck; returns what it covers."""
    back = STYLES[person.hair_style][2] if person.hair_style in STYLES else None
    if back in BEHIND:
        mask = canvas.mask(canvas.rim(curve(mirrored(BEHIND[back]), closed=True), -14))
        canvas.paint(mask, shade(person.cloth if back == "scarf" else person.hair, 0.72))
        return mask
    if back == "afro":
        ring = curve(mirrored([[-49, -6], [-55, -30], [-40, -56], [-2, -66]]))
        disc = canvas.mask(canvas.rim(ellipse(0, -26, 54, 44), -10))
        canvas.paint(disc, shade(person.hair, 0.85))
        return union(disc, coils(canvas, person, canvas.rim(ring, -10), 7.5, 60))
    if back == "locs":
        return union(*(loc(canvas, person, x) for x in np.linspace(-50, 50, 15)))
    return canvas.nothing()


def loc(canvas: Canvas, person: Person, x: float) -> Mask:
    """One rope of hair, hanging behind the head at `x`."""
    mask = canvas.mask(
        canvas.rim(curve([[0.6 * x, -50], [x, -10], [1.02 * x, 30], [1.04 * x, 70]]), -14), width=6.2
    )
    canvas.paint(mask, shade(person.hair, 0.85))
    twists = [canvas.rim([[x - 3, y], [x + 3, y + 4]], -14) for y in range(-44, 70, 6)]
    canvas.paint(canvas.mask(*twists, width=1.0, blur=0.4), mix(person.hair, WHITE, 0.35), 0.5, mask)
    return mask


def coils(canvas: Canvas, person: Person, path: Points, radius: float, num: int) -> Mask:
    """Curls as overlapping balls scattered along a turned path; returns what they cover."""
    rng = np.random.Generator(np.random.Philox(key=person.key + 3))
    centres = path[np.linspace(0, len(path) - 1, num).astype(int)] + rng.normal(0, 0.3 * radius, (num, 2))
    order = rng.permutation(num)
    covered = []
    for layer, tone in zip(np.array_split(order, 4), (0.7, 0.82, 0.92, 1.0), strict=True):
        radii = radius * rng.uniform(0.7, 1.15, len(layer))
        spots = [(*centres[i], r) for i, r in zip(layer, radii, strict=True)]
        balls = [ellipse(x, y, r, r) for x, y, r in spots]
        glints = [ellipse(x - 0.3 * r, y - 0.3 * r, 0.4 * r, 0.28 * r) for x, y, r in spots]
        covered.append(canvas.mask(*balls, blur=0.3))
        canvas.paint(covered[-1], shade(person.hair, tone))
        canvas.paint(canvas.mask(*glints, blur=0.8), mix(person.hair, WHITE, 0.32), 0.5)
    return union(*covered)


def strands(
    canvas: Canvas, person: Person, roots: Points, tips: Points, within: Mask, alpha: float = 0.4
) -> None:
    """Light and dark hairs from `roots` to `tips`, two turned paths walked together."""
    rng = np.random.Generator(np.random.Philox(key=person.key + 2))
    hairs = []
    for at, swing in zip(rng.uniform(0.02, 0.98, 110), rng.normal(0, 0.03, 110), strict=True):
        a, b = along(roots, at), along(tips, at + swing)
        sag = (b - a)[::-1] * [0.1, -0.1] * (1 if at < 0.5 else -1)
        hairs.append(curve(np.stack([a, (a + b) / 2 + sag, b])))
    canvas.paint(canvas.mask(*hairs[::2], width=0.7, blur=0.25), mix(person.hair, WHITE, 0.3), alpha, within)
    canvas.paint(canvas.mask(*hairs[1::2], width=0.8, blur=0.25), shade(person.hair, 0.55), alpha, within)


def along(path: Points, at: ArrayLike) -> Points:
    """Points of a path at shares of its length, clipped to [0, 1]."""
    return np.asarray(path[(np.clip(at, 0, 1) * (len(path) - 1)).astype(int)])


def draw_hair(canvas: Canvas, person: Person, head: Mask) -> Mask:
    """Hair or a scarf in front of the head, with its shadow on the forehead; returns what it covers."""
    if person.hair_style not in STYLES:
        canvas.paint(canvas.mask(canvas.turn(ellipse(-8, -46, 14, 5)), blur=4), WHITE, 0.22, head)
        return head
    line, crown, back = STYLES[person.hair_style]
    hairline, rim = canvas.turn(curve(HAIRLINES[line])), canvas.rim(curve(mirrored(CROWNS[crown])))
    shape = np.concatenate([hairline, rim[::-1]])
    buzz = person.hair_style == "buzz"
    canvas.paint(canvas.mask(shape + DOWN * 2.2, blur=2.0), shade(person.skin, 0.5), 0.5, head)
    mask = ImageChops.multiply(canvas.mask(shape, blur=1.3), head) if buzz else canvas.mask(shape, blur=0.3)
    canvas.paint(mask, person.cloth if back == "scarf" else person.hair, 0.8 if buzz else 1.0)
    outer = along(rim, np.linspace(0, 1, len(hairline)))
    if back == "scarf":
        draw_folds(canvas, person.cloth, hairline, outer, mask)
    elif back in ("afro", "curls"):
        middle = coils(canvas, person, 0.4 * hairline + 0.6 * outer, 7, 60)
        return union(mask, middle, coils(canvas, person, hairline[12:-12] - DOWN * 3, 4.4, 34))
    elif not buzz:
        gleam = canvas.mask(0.45 * hairline + 0.55 * outer, width=6, blur=2.5)
        canvas.paint(gleam, mix(person.hair, WHITE, 0.35), 0.4, mask)
        strands(canvas, person, hairline, outer, mask)
    return mask


def draw_folds(canvas: Canvas, cloth: Colour, inner: Points, outer: Points, within: Mask) -> None:
    """Folds of a scarf, running around the face."""
    for share in (0.06, 0.3, 0.55, 0.8):
        fold = inner * (1 - share) + outer * share
        canvas.paint(canvas.mask(fold, width=1.4, blur=0.8), shade(cloth, 0.6), 0.55, within)
        canvas.paint(canvas.mask(fold - DOWN * 1.8, width=1.2, blur=0.8), mix(cloth, WHITE, 0.4), 0.3, within)


def beard_shapes(canvas: Canvas, person: Person) -> dict[str, list[Points]]:
    """The turned outlines that each kind of beard is made of."""
    depth = np.array([0, 4, 8, 14, 22, 24])
    jaw = mirrored(
        [[-41.5, 0], [-41, 16], [-37.5 * person.jaw, 30], [-27 * person.jaw, 46], [-12, 56], [-1, 57]]
    )
    under = curve(canvas.rim(jaw, np.concatenate([depth, depth[::-1]])))
    full = np.concatenate([canvas.turn(curve(mirrored(CHEEK))), under[::-1]])
    lip, chin = (
        canvas.turn(curve(mirrored(MOUSTACHE), closed=True), 3),
        canvas.turn(curve(mirrored(GOATEE), closed=True), 2),
    )
    return {
        "none": [],
        "moustache": [lip],
        "goatee": [lip, chin],
        "stubble": [full, lip],
        "full": [full, lip],
    }


def draw_beard(canvas: Canvas, person: Person, head: Mask) -> Mask:
    """Beard and moustache, to lie under the lips; returns what they cover."""
    shapes = beard_shapes(canvas, person)[person.beard]
    if not shapes:
        return head
    if person.beard == "stubble":
        canvas.paint(canvas.mask(*shapes, blur=2.4), person.hair, 0.3, head)
        return head
    mask = canvas.mask(*shapes, blur=0.6)
    canvas.paint(mask, shade(person.hair, 0.92), 0.96)
    roots = canvas.turn(curve([[-38, 2], [-22, 21], [0, 20], [22, 21], [38, 2]]))
    tips = canvas.rim(curve([[-44, 26], [-30, 52], [0, 64], [30, 52], [44, 26]]), 10)
    strands(canvas, person, roots, tips, mask)
    return union(mask, head)


def draw_accessory(canvas: Canvas, person: Person, shot: Shot, head: Mask) -> Mask:
    """Glasses or a hat, if the shot has them; returns what a hat covers."""
    if shot.accessory == "glasses":
        draw_glasses(canvas, shot, head)
    if shot.accessory == "beanie" and person.hair_style != "scarf":
        return draw_beanie(canvas, shot.accessory_colour)
    return head


def draw_glasses(canvas: Canvas, shot: Shot, head: Mask) -> None:
    """Frames in front of the eyes, with arms to the ears and a glare on the lenses."""
    colour, angle = shot.accessory_colour, np.linspace(0, 2 * np.pi, 60)
    box = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    box = np.sign(box) * np.abs(box) ** 0.7 * [13.2, 10.4]
    lenses = [canvas.turn(box + np.array([side * EYE_X, EYE_Y + 0.8]), 5) for side in (-1, 1)]
    glass = canvas.mask(*lenses)
    glares = [canvas.turn(GLARE + np.array([side * EYE_X + 4, EYE_Y]), 5) for side in (-1, 1)]
    canvas.paint(glass, WHITE, 0.08)
    canvas.paint(canvas.mask(*glares, blur=0.5), WHITE, 0.18, glass)
    canvas.paint(canvas.mask(*(lens + DOWN * 1.4 for lens in lenses), width=2, blur=1), BLACK, 0.25, head)
    for side in (-1, 1):
        arm = np.concatenate(
            [canvas.turn([[side * 30.5, EYE_Y - 2]], 5), canvas.turn([[side * 41.4, EYE_Y - 1]], 1)]
        )
        if np.diff(arm[:, 0])[0] * side > 0:
            canvas.paint(canvas.mask(arm, width=1.8), colour, within=head)
    bridge = canvas.turn(curve([[-4.6, EYE_Y - 1], [0, EYE_Y - 3], [4.6, EYE_Y - 1]]), 7)
    canvas.paint(canvas.mask(*lenses, bridge, width=1.8, blur=0.15), colour)


def draw_beanie(canvas: Canvas, colour: Colour) -> Mask:
    """A knitted hat down to the forehead; returns what it covers."""
    crown = canvas.rim(curve(mirrored([[-46.5, -19], [-48, -40], [-34, -66], [-2, -75]])))
    brow = canvas.turn(curve([[-38, -23], [-22, -28.5], [0, -30.5], [22, -28.5], [38, -23]]), 3)
    low = curve(np.concatenate([crown[:1], along(brow, np.linspace(0, 1, 7)), crown[-1:]]))
    high = low - DOWN * 13
    hat, band = (
        canvas.mask(np.concatenate([low, crown[::-1]])),
        canvas.mask(np.concatenate([low, high[::-1]])),
    )
    shares = np.linspace(0.04, 0.96, 26)
    ribs = [
        np.stack(ends) for ends in zip(along(high, shares), along(crown, 0.2 + 0.6 * shares), strict=True)
    ]
    folds = [np.stack(ends) for ends in zip(along(low, shares), along(high, shares), strict=True)]
    canvas.paint(hat, colour)
    canvas.paint(canvas.mask(*ribs, width=0.9, blur=0.5), shade(colour, 0.6), 0.5, hat)
    canvas.paint(band, mix(colour, WHITE, 0.12), within=hat)
    canvas.paint(canvas.mask(*folds, width=0.9, blur=0.4), shade(colour, 0.6), 0.55, band)
    canvas.paint(canvas.mask(high, width=1.4, blur=0.7), shade(colour, 0.45), 0.6, hat)
    return hat
