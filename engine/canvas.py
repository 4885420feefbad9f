"""A picture of a head being painted: soft shapes laid on an ellipsoid that can turn.

Lengths are in pixels of the 112 x 112 ArcFace crop, with x to the right and y down from the middle of the
head. A feature lies on the face by longitude and height, so that a turn of the head moves and foreshortens
it; the silhouette stays. Pictures are painted at four times their size.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Points = NDArray[np.float64]
Outline = Sequence[Sequence[float]] | Points
"""Points (K, 2) as literals or as an array."""
Mask = Image.Image

OVERSAMPLING = 4
TEMPLATE_SIZE = 112
MIDDLE = (56.0, 62.0)
"""Where the middle of the head lies in the crop."""
LANDMARKS = np.array([[-17.6, -10.3], [17.6, -10.3], [0.0, 9.7], [-14.6, 30.3], [14.6, 30.3]])
"""Eyes, nose and mouth corners of the ArcFace template, made symmetric, relative to `MIDDLE`."""
HALF_WIDTH, HALF_HEIGHT = 41.5, 62.0
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True, slots=True)
class View:
    """How the head is seen: angles in radians (positive to the right, down, clockwise), and its size."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    zoom: float = 1.0


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`a` moved towards `b` by `share`."""
    r, g, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return r, g, blue


def shade(colour: Colour, light: float) -> Colour:
    """A colour in less light: red lasts longest, as it does under skin."""
    return round(colour[0] * light), round(colour[1] * light**1.2), round(colour[2] * light**1.25)


def curve(points: Outline, *, closed: bool = False, steps: int = 10) -> Points:
    """A Catmull-Rom spline through points (K, 2): about (K * steps, 2) points."""
    p = np.asarray(points, dtype=np.float64)
    p = np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([p[:1], p, p[-1:]])
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    a, b, c, d = (p[i : len(p) - 3 + i, None] for i in range(4))
    spline = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return np.concatenate([spline.reshape(-1, 2), p[-2:-1]])


def ellipse(x: float, y: float, rx: float, ry: float) -> Points:
    """The outline of an upright ellipse, as (40, 2) points."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def mirrored(left: Outline) -> Points:
    """A path along the left side, continued in mirror image along the right side back to where it began."""
    p = np.asarray(left, dtype=np.float64)
    return np.concatenate([p, p[::-1] * [-1, 1]])


def union(*masks: Mask) -> Mask:
    """What any of the masks covers."""
    return functools.reduce(ImageChops.lighter, masks)


class Canvas:
    """An RGB picture, and the way from head coordinates to its pixels."""

    def __init__(self, view: View, size: int, background: Image.Image) -> None:
        self.view = view
        self.scale = size * OVERSAMPLING / TEMPLATE_SIZE
        self.image = background.convert("RGB").resize((size * OVERSAMPLING,) * 2)
        self.drift = (self.turn(LANDMARKS) - LANDMARKS).mean(axis=0)
        cos, sin = np.cos(view.roll), np.sin(view.roll)
        self.rotation = np.array([[cos, -sin], [sin, cos]]) * view.zoom

    def turn(self, points: Outline, lift: float = 0.0) -> Points:
        """Where points of the face go when the head turns; `lift` is their height above the skin."""
        x, y = np.asarray(points, dtype=np.float64).T
        half = HALF_WIDTH * np.sqrt(np.clip(1 - (y / 95) ** 2, 0.3, 1))
        longitude = np.arcsin(np.clip(x / half, -1, 1)) + self.view.yaw
        longitude = np.clip(longitude, -np.pi / 2, np.pi / 2)
        depth = half * np.cos(longitude) + lift
        turned = half * np.sin(longitude) + lift * np.sin(self.view.yaw)
        return np.stack([turned, y + depth * np.sin(self.view.pitch)], axis=1)

    def rim(self, points: Outline, depth: ArrayLike = 0.0) -> Points:
        """Where points of a silhouette go: only as far as they lie in front of the axis (or behind it)."""
        p = np.asarray(points, dtype=np.float64)
        ahead = np.broadcast_to(np.asarray(depth, dtype=np.float64), len(p))
        moved: Points = np.stack([ahead * np.sin(self.view.yaw), ahead * np.sin(self.view.pitch)], axis=1)
        return p + moved

    def pixels(self, points: Points) -> Points:
        """Turned points in pixels of the oversampled picture."""
        return np.asarray(((points - self.drift) @ self.rotation.T + MIDDLE) * self.scale)

    def nothing(self) -> Mask:
        """A mask that covers nothing."""
        return Image.new("L", self.image.size)

    def mask(self, *shapes: Points, width: float = 0.0, blur: float = 0.0) -> Mask:
        """Coverage of turned shapes, or of lines along them `width` wide, softened by `blur`."""
        paths = [self.pixels(shape) for shape in shapes]
        margin = (width + 3 * blur + 1) * self.scale
        corner = np.floor(np.min([path.min(axis=0) for path in paths], axis=0) - margin).clip(
            -self.image.width
        )
        end = np.ceil(np.max([path.max(axis=0) for path in paths], axis=0) + margin).clip(
            max=2 * self.image.width
        )
        part = Image.new("L", (max(1, int(end[0] - corner[0])), max(1, int(end[1] - corner[1]))))
        pen = ImageDraw.Draw(part)
        for path in paths:
            points = [(float(x), float(y)) for x, y in path - corner]
            if width:
                pen.line(points, fill=255, width=max(1, round(width * self.scale)), joint="curve")
            else:
                pen.polygon(points, fill=255)
        if blur:
            part = part.filter(ImageFilter.GaussianBlur(blur * self.scale))
        mask = Image.new("L", self.image.size)
        mask.paste(part, (int(corner[0]), int(corner[1])))
        return mask

    def paint(self, mask: Mask, colour: Colour, alpha: float = 1.0, within: Mask | None = None) -> None:
        """Lay a colour over the picture through a mask."""
        box = mask.getbbox()
        if box is None:
            return
        part = mask.crop(box)
        if within is not None:
            part = ImageChops.multiply(part, within.crop(box))
        if alpha < 1:
            part = part.point([round(alpha * value) for value in range(256)])
        self.image.paste(colour, box, part)

    def relight(self, light: ArrayLike, *, tint: ArrayLike, within: Mask) -> None:
        """Light the head from direction `light` (x, y, z towards the viewer), where the mask is white."""
        ambient = 0.5
        n = self.image.width
        grid = np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 2)
        head = (grid / self.scale - MIDDLE) @ np.linalg.inv(self.rotation).T + self.drift
        x, y = head[:, 0] / (HALF_WIDTH + 4), (head[:, 1] + 2) / (HALF_HEIGHT + 6)
        z = np.sqrt(np.clip(1 - x**2 - y**2, 0.02, 1))
        to_light = np.asarray(light, dtype=np.float64)
        lambert = np.stack([x, y, z], axis=1) @ (to_light / np.linalg.norm(to_light))
        exposure = (ambient + (1.16 - ambient) * np.clip(0.35 + 0.65 * lambert, 0, 1)) * (
            0.82 + 0.18 * np.sqrt(z)
        )
        picture = np.asarray(self.image, dtype=np.float64) * (exposure[:, None] * tint).reshape(n, n, 3)
        lit = Image.fromarray(np.clip(picture, 0, 255).round().astype(np.uint8))
        self.image.paste(lit, mask=within)

    def finished(self) -> Image.Image:
        """The picture at its final size, RGB."""
        return self.image.resize((self.image.width // OVERSAMPLING,) * 2, Image.Resampling.LANCZOS)
