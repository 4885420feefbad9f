"""The head: a morphable mesh whose shape is a person and whose deformation an expression.

    head = open_head(Path("ict_facekit_mit.npz"))
    shape = head.shape(identity, {"jawOpen": 0.4})     # (V, 3), in centimetres, y up, z towards the viewer

The data are ICT-FaceKit's (Li et al., "Learning Formation of Physically-Based Face Attributes", CVPR 2020; MIT
licence) packed into one .npz by `pack_head`; they are read from where they lie and are no part of this package.
"""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from d2r_fast.bench.miniature.world import EXPRESSIONS, NUM_COEFFICIENTS
from d2r_fast.engine.errors import UserError

NAME = "ict_facekit_mit.npz"
NUM_VERTICES = 26719
PARTS = {
    "face": (0, 9409), "neck": (9409, 11248), "mouth": (11248, 13294), "sockets": (13294, 14062),
    "gums": (14062, 17039), "teeth": (17039, 21451), "left_eye": (21451, 22221), "right_eye": (23021, 23791),
}  # fmt: skip
"""First vertex and the one after the last. Each eyeball is drawn by its outer shell; the iris discs behind it,
the fluids and the lash cards, less than a pixel wide here, are left out."""
END = 24591
"""Vertices from here on belong to no part."""
NEEDED_EXPRESSIONS = frozenset(name for group in EXPRESSIONS for name in group) | {
    f"eyeLook{way}_{side}" for way in ("In", "Out", "Up", "Down") for side in "LR"
}
"""What `world.draw_expressions` may ask for."""

_EXPECTED: dict[str, tuple[tuple[int, ...], str]] = {
    "neutral": ((NUM_VERTICES, 3), "f"), "triangles": ((-1, 3), "i"),
    "identity_delta": ((-1, NUM_VERTICES, 3), "f"), "expression_delta": ((-1, NUM_VERTICES, 3), "f"),
    "expression_names": ((-1,), "U"),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Head:
    """Mesh and deformations; tensors on one device."""

    neutral: torch.Tensor
    """(V, 3) float32, cm."""
    triangles: torch.Tensor
    """(T, 3) int64, counter-clockwise from outside."""
    identity: torch.Tensor
    """(num_identity, V * 3) float32, what one unit of each coefficient adds."""
    expression: torch.Tensor
    """(num_expressions, V * 3) float32, likewise."""
    expression_names: tuple[str, ...]
    around: tuple[torch.Tensor, ...]
    """Triangles at the vertices, the vertices sorted by their number of triangles, most first: entry k is (n_k,)
    int64, the k-th triangle of each of the n_k vertices that have more than k."""
    place: torch.Tensor
    """(V,) int64, where each vertex stands in that order."""
    landmarks: torch.Tensor
    """(7,) int64 vertices: corners of the eye to the image's left (outer, inner), of the other (inner, outer), nose
    tip, mouth corners."""

    @property
    def device(self) -> torch.device:
        return self.neutral.device

    def to(self, device: torch.device | str) -> "Head":
        """The same head on another device."""
        return Head(
            neutral=self.neutral.to(device), triangles=self.triangles.to(device),
            identity=self.identity.to(device), expression=self.expression.to(device),
            expression_names=self.expression_names, around=tuple(t.to(device) for t in self.around),
            place=self.place.to(device), landmarks=self.landmarks.to(device),
        )  # fmt: skip

    def shape(self, identity: Sequence[float], expressions: Mapping[str, float]) -> torch.Tensor:
        """Vertices (V, 3) float32 of a person's face.

        Args:
            identity: coefficients, in standard deviations, of the first identity shapes; the others add nothing.
            expressions: name to weight, 0 (neutral) to 1; those not named are neutral.

        Raises:
            ValueError: more coefficients than the head has identity shapes, or an expression that it lacks.
        """
        if len(identity) > len(self.identity):
            raise ValueError(f"{len(identity)} coefficients for {len(self.identity)} identity shapes")
        moves = [(name, weight) for name, weight in sorted(expressions.items()) if weight != 0]
        rows = [self.expression_names.index(name) for name, _ in moves]
        basis = torch.cat([self.identity[: len(identity)], self.expression[rows]])
        weights = torch.tensor([*identity, *(weight for _, weight in moves)], dtype=torch.float32)
        return self.neutral + (weights.to(self.device) @ basis).view(-1, 3)

    def normals(self, vertices: torch.Tensor) -> torch.Tensor:
        """Unit normals (V, 3) of vertices (V, 3): the mean of the triangles around, by area.

        They are gathered rather than scattered, so that they are added in one order on every device.
        """
        a, b, c = (vertices.index_select(0, corner) for corner in self.triangles.T)
        (x, y, z), (u, v, w) = (b - a).unbind(1), (c - a).unbind(1)
        across = torch.stack([y * w - z * v, z * u - x * w, x * v - y * u], 1)
        total = vertices.new_zeros(len(vertices), 3)
        for triangle in self.around:
            total[: len(triangle)] += across.index_select(0, triangle)
        total = total.index_select(0, self.place)
        x, y, z = total.unbind(1)
        length: torch.Tensor = (x * x + y * y + z * z).sqrt().clamp_min(1e-12)
        return total / length[:, None]

    def five_points(self, vertices: torch.Tensor) -> torch.Tensor:
        """Landmarks (5, 3) of vertices (V, 3): eyes, nose, mouth corners, each pair from image left to right.

        An eye is the middle between its corners, which neither gaze nor lids move.
        """
        points = vertices[self.landmarks]
        return torch.stack([(points[0] + points[1]) / 2, (points[2] + points[3]) / 2, *points[4:]])


def open_head(path: Path) -> Head:
    """The head in the .npz at `path`, or in the folder `path` under its own name.

    Raises:
        UserError: it is missing, damaged, holds other arrays, or lacks shapes that the world draws.
    """
    arrays = _read(head_file(path))
    neutral = arrays["neutral"][:END].astype(np.float32)
    triangles = _drawn(arrays["triangles"].astype(np.int64))
    around, place = _around(triangles)
    return Head(
        neutral=torch.from_numpy(neutral),
        triangles=torch.from_numpy(triangles),
        identity=_flat(arrays["identity_delta"]),
        expression=_flat(arrays["expression_delta"]),
        expression_names=tuple(arrays["expression_names"].tolist()),
        around=around,
        place=place,
        landmarks=torch.from_numpy(_landmarks(neutral, triangles)),
    )


def head_file(path: Path) -> Path:
    """The file that `path` stands for: itself, or what a folder holds under the head's own name."""
    return path / NAME if path.is_dir() else path


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _EXPECTED}
    except FileNotFoundError:
        raise UserError(
            f"head {path} does not exist: give the folder or path of {NAME}, which "
            "python -m d2r_fast.bench.miniature.pack_head makes"
        ) from None
    except KeyError as error:
        raise UserError(f"head {path} lacks {error.args[0]}: give {NAME}") from None
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"head {path} cannot be read ({error}): give {NAME}, whole") from None
    for name, array in arrays.items():
        _check(path, name, array)
    _check_world(path, arrays)
    return arrays


def _check(path: Path, name: str, array: NDArray[Any]) -> None:
    shape, kind = _EXPECTED[name]
    fits = len(array.shape) == len(shape) and all(
        have > 0 and want in (-1, have) for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype.kind != kind:
        want = f"({', '.join('any' if n < 0 else str(n) for n in shape)}) of kind {kind}"
        raise UserError(f"head {path}: {name} is {array.dtype} {array.shape}: expected {want}; give {NAME}")
    if kind == "f" and not np.isfinite(array).all():
        raise UserError(f"head {path}: {name} holds values that are not finite: give {NAME}, undamaged")
    if kind == "i" and (array.min() < 0 or array.max() >= NUM_VERTICES):
        raise UserError(
            f"head {path}: {name} names vertices beyond 0..{NUM_VERTICES - 1}: give {NAME}, undamaged"
        )


def _check_world(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """See that whoever the world casts and stages can be drawn."""
    num_identity, num_expressions = len(arrays["identity_delta"]), len(arrays["expression_delta"])
    names = arrays["expression_names"].tolist()
    if num_identity < NUM_COEFFICIENTS:
        raise UserError(
            f"head {path} has {num_identity} identity shapes, fewer than the {NUM_COEFFICIENTS} of a person: "
            f"give {NAME}, whole"
        )
    if num_expressions != len(names):
        raise UserError(
            f"head {path} has {num_expressions} expression shapes and {len(names)} names: give {NAME}, undamaged"
        )
    if missing := sorted(NEEDED_EXPRESSIONS.difference(names)):
        raise UserError(f"head {path} lacks the expressions {', '.join(missing)}: give {NAME}, whole")


def _flat(deltas: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(deltas[:, :END].astype(np.float32).reshape(len(deltas), -1))


def _drawn(triangles: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those whose corners all lie in parts."""
    inside = np.zeros(NUM_VERTICES, bool)
    for first, end in PARTS.values():
        inside[first:end] = True
    return triangles[inside[triangles].all(1)]


def _around(triangles: NDArray[np.int64]) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    vertex = triangles.reshape(-1)
    counts = np.bincount(vertex, minlength=END)
    place = np.empty(END, np.int64)
    place[np.argsort(-counts, kind="stable")] = np.arange(END)
    order = np.argsort(vertex, kind="stable")
    turn = np.arange(len(vertex)) - np.repeat(np.cumsum(counts) - counts, counts)
    columns = []
    for k in range(counts.max()):
        entries = order[turn == k]
        entries = entries[np.argsort(place[vertex[entries]])]
        columns.append(torch.from_numpy(entries // 3))
    return tuple(columns), torch.from_numpy(place)


def _landmarks(neutral: NDArray[np.float32], triangles: NDArray[np.int64]) -> NDArray[np.int64]:
    x, z = neutral[:, 0], neutral[:, 2]
    eyes, mouth = rim(triangles, "sockets"), rim(triangles, "mouth")
    left, right = eyes[x[eyes] < 0], eyes[x[eyes] > 0]
    return np.array(
        [
            left[x[left].argmin()], left[x[left].argmax()], right[x[right].argmin()], right[x[right].argmax()],
            z[: PARTS["face"][1]].argmax(), mouth[x[mouth].argmin()], mouth[x[mouth].argmax()],
        ]
    )  # fmt: skip


def rim(triangles: NDArray[np.int64], part: str) -> NDArray[np.int64]:
    """Vertices of the face that share a triangle with `part`, ascending."""
    first, end = PARTS[part]
    touching = triangles[((triangles >= first) & (triangles < end)).any(1)]
    return np.unique(touching[touching < PARTS["face"][1]])
