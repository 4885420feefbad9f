"""Sample renders of our own: drawn people in DigiFace's layout, so that a first run needs no other data.

    draw_samples(Path("renders"))    # renders/0/0.png ... renders/6/5.png

Nobody is portrayed. The first dozen people are cast by hand to differ in skin, hair, age and dress; those
after them recombine what the dozen have.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from d2r_fast.engine.canvas import Canvas, Colour, View, mix, union
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import make_folder, write_atomic
from d2r_fast.engine.portrait import (
    Person,
    Shot,
    backdrop,
    draw_brow,
    draw_eye,
    draw_mouth,
    draw_neck,
    draw_nose,
    draw_skin,
    head_outline,
)  # fmt: skip
from d2r_fast.engine.wardrobe import draw_accessory, draw_beard, draw_behind, draw_hair

SEED = 0
COMPLEXIONS: tuple[tuple[Colour, Colour], ...] = (
    ((141, 85, 54), (62, 38, 22)), ((241, 204, 176), (84, 128, 84)), ((224, 178, 138), (58, 36, 24)),
    ((198, 144, 102), (72, 46, 26)), ((246, 216, 198), (92, 132, 168)), ((205, 152, 112), (88, 60, 30)),
    ((92, 56, 40), (48, 30, 20)), ((238, 196, 166), (98, 140, 176)), ((120, 72, 48), (66, 42, 26)),
    ((232, 190, 152), (104, 88, 52)), ((176, 120, 82), (60, 40, 28)), ((250, 220, 204), (96, 136, 104)),
)  # fmt: skip
"""Skin and iris, one pair per person of the first dozen."""
HAIR: tuple[Colour, ...] = (
    (28, 20, 18), (150, 86, 40), (24, 20, 22), (40, 28, 24), (196, 194, 192), (30, 22, 20), (22, 17, 17),
    (226, 182, 108), (26, 20, 20), (52, 34, 26), (120, 116, 116), (176, 72, 36),
)  # fmt: skip
STYLES = (
    ("afro", "none"), ("long", "none"), ("bob", "none"), ("crop", "full"), ("parted", "moustache"),
    ("scarf", "none"), ("bald", "goatee"), ("curls", "none"), ("locs", "none"), ("buzz", "stubble"),
    ("tied", "none"), ("parted", "stubble"),
)  # fmt: skip
"""Hair style and beard."""
AGES = (0.05, 0.05, 0.0, 0.3, 0.95, 0.1, 0.45, 0.0, 0.15, 0.35, 0.8, 0.15)
CLOTHS: tuple[Colour, ...] = (
    (200, 120, 70), (226, 198, 140), (62, 110, 92), (176, 68, 60), (46, 82, 120), (92, 74, 128), (60, 62, 70),
    (150, 60, 96),
)  # fmt: skip
SCENES: tuple[tuple[Colour, Colour], ...] = (
    ((188, 208, 222), (228, 222, 208)), ((92, 122, 92), (158, 172, 128)), ((226, 214, 200), (196, 172, 150)),
    ((66, 74, 96), (120, 108, 116)), ((206, 178, 150), (140, 104, 88)), ((236, 238, 242), (208, 214, 224)),
    ((54, 60, 66), (96, 92, 84)), ((158, 186, 206), (98, 132, 112)),
)  # fmt: skip
"""Backgrounds: colour at the top and at the bottom."""
ACCESSORIES = ("none", "none", "glasses", "none", "beanie", "none")
ACCESSORY_COLOURS: tuple[Colour, ...] = (
    (34, 30, 34),
    (92, 52, 34),
    (52, 70, 110),
    (150, 54, 54),
    (64, 96, 88),
)


def draw_samples(
    out: Path, *, num_identities: int = 7, images_per_identity: int = 6, size: int = 112
) -> None:
    """Draw people into `out` as `<identity>/<image>.png`, RGB, `size` x `size` pixels.

    Eyes and mouth lie about where the ArcFace template has them. A picture depends on its identity, image and
    size alone, so a longer or wider set contains a shorter one.

    Raises:
        UserError: a count is not positive, `size` is under 16, or `out` is not a folder to write to.
    """
    if num_identities < 1 or images_per_identity < 1 or size < 16:
        raise UserError(
            f"{num_identities} identities x {images_per_identity} images of {size} pixels: give 1 or more "
            "of both, and 16 pixels or more"
        )
    for identity in range(num_identities):
        folder = out / str(identity)
        make_folder(folder)
        person = cast(identity)
        for image in range(images_per_identity):
            buffer = io.BytesIO()
            draw(person, stage(identity, image), size).save(buffer, "PNG")
            write_atomic(folder / f"{image}.png", buffer.getvalue())


def draw(person: Person, shot: Shot, size: int) -> Image.Image:
    """The picture, from the background forward: (size, size) RGB."""
    canvas = Canvas(shot.view, size, backdrop(shot))
    behind = union(draw_behind(canvas, person), draw_neck(canvas, person))
    head = canvas.mask(head_outline(canvas, person))
    draw_skin(canvas, person, head)
    for side in (-1, 1):
        draw_eye(canvas, person, shot, side, head)
        draw_brow(canvas, person, shot, side, head)
    draw_nose(canvas, person, shot, head)
    beard = draw_beard(canvas, person, head)
    draw_mouth(canvas, person, shot, head)
    hair = draw_hair(canvas, person, head)
    hat = draw_accessory(canvas, person, shot, head)
    canvas.relight(shot.light, tint=shot.tint, within=union(behind, head, beard, hair, hat))
    return canvas.finished()


def cast(identity: int) -> Person:
    """Who number `identity` is."""
    draws = Draws(identity, 0)
    looks = [identity] * 4 if identity < len(AGES) else [draws.index(len(AGES)) for _ in range(4)]
    (skin, iris), hair = COMPLEXIONS[looks[0]], HAIR[looks[1]]
    hair_style, beard = STYLES[looks[2]]
    lips = mix(mix(skin, (176, 62, 70), 0.5), (120, 40, 44), draws.between(0, 0.25))
    return Person(
        key=draws.key(), skin=skin, iris=iris, hair=hair, hair_style=hair_style, beard=beard, lips=lips,
        cloth=CLOTHS[identity % len(CLOTHS)], age=AGES[looks[3]], jaw=draws.between(0.86, 1.02),
        chin=draws.between(0.8, 1.2), eye=draws.between(0.92, 1.1), eye_tilt=draws.between(-0.8, 1.8),
        lashes=draws.between(0, 1 if beard == "none" else 0.2), brow=draws.between(0.8, 1.3),
        nose=draws.between(0.85, 1.25), mouth=draws.between(0.9, 1.12), lip=draws.between(0.75, 1.25),
        freckles=max(0.0, draws.between(-0.6, 0.6)),
    )  # fmt: skip


def stage(identity: int, image: int) -> Shot:
    """How picture number `image` of an identity is taken."""
    draws = Draws(identity, image + 1)
    view = View(
        yaw=draws.between(-0.45, 0.45), pitch=draws.between(-0.12, 0.12), roll=draws.between(-0.1, 0.1),
        zoom=draws.between(0.88, 0.95),
    )  # fmt: skip
    warmth = draws.between(-0.06, 0.08)
    return Shot(
        key=draws.key(), view=view, smile=draws.between(-0.4, 1),
        open_mouth=max(0.0, draws.between(-0.8, 0.8)), eyelids=draws.between(0.7, 1.05),
        brows=draws.between(-0.7, 0.9), gaze=draws.between(-0.8, 0.8),
        light=(draws.between(-1, 1), draws.between(-0.9, 0.1), draws.between(0.7, 1.2)),
        tint=(1 + warmth, 1.0, 1 - warmth), background=SCENES[draws.index(len(SCENES))],
        accessory=ACCESSORIES[(image + 3 * identity) % len(ACCESSORIES)],
        accessory_colour=ACCESSORY_COLOURS[draws.index(len(ACCESSORY_COLOURS))],
    )  # fmt: skip


class Draws:
    """Random numbers of one identity (`image` 0) or one of its pictures, the same wherever they are drawn."""

    def __init__(self, identity: int, image: int) -> None:
        self.rng = np.random.Generator(np.random.Philox(key=[SEED, identity], counter=[0, 0, 0, image]))

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def index(self, num: int) -> int:
        return int(self.rng.integers(num))

    def key(self) -> int:
        return int(self.rng.integers(2**60))
