"""Faces, and who finds them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from d2r_fast.engine.errors import UserError


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """The faces in one image, the largest first.

    Attributes:
        boxes: (n, 4) float32 x0, y0, x1, y1 in pixels; may reach beyond the image.
        scores: (n,) float32 probability in [0, 1].
        landmarks: (n, 5, 2) float32 x, y in pixels: eyes, nose, mouth corners, each pair left to right.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    landmarks: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.scores)


Detector = Callable[[torch.Tensor], list[Faces]]
"""Images uint8 (N, H, W, 3) RGB on any device in, the faces of each out."""


def sort_faces(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], landmarks: NDArray[np.float32]
) -> Faces:
    """Faces by descending area of the box, in the order given where areas are equal."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.argsort(-area, kind="stable")
    return Faces(
        boxes[order].astype(np.float32), scores[order].astype(np.float32), landmarks[order].astype(np.float32)
    )


def check_images(images: torch.Tensor) -> None:
    """Raises ValueError unless images are what a detector takes: uint8 (N, H, W, 3), of a pixel or more."""
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[3] != 3 or 0 in images.shape[1:]:
        raise ValueError(
            f"images {images.dtype} {tuple(images.shape)}: give uint8 (N, H, W, 3) RGB, not empty"
        )


def fill(rows: torch.Tensor, batch: int) -> torch.Tensor:
    """Rows (n, ...), n > 0, with the last repeated until their number is a multiple of `batch`."""
    missing = -len(rows) % batch
    return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows


FFHQ_512 = np.array(
    [
        [192.98138, 239.94708], [318.90277, 240.1936], [256.63416, 314.01935], [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)  # fmt: skip
"""Mean landmarks of faces framed as FFHQ does, in 512x512: where Arc2Face, trained on that framing, draws."""


def find_by_template(images: torch.Tensor) -> list[Faces]:
    """One face per image at FFHQ's place, score 1: for weights that draw no face, so the rest still runs.

    The framing is the square in the image's middle; the box is that square.
    """
    check_images(images)
    num_images, height, width = images.shape[:3]
    side = min(height, width)
    corner = np.array([(width - side) / 2, (height - side) / 2])
    box = np.concatenate([corner, corner + side])[None].astype(np.float32)
    landmarks = (FFHQ_512 * (side / 512) + corner)[None].astype(np.float32)
    return [Faces(box.copy(), np.ones(1, np.float32), landmarks.copy()) for _ in range(num_images)]


def load_detector(name: str, *, models_dir: Path, device: str, min_face_size: int) -> Detector:
    """A detector by name: mtcnn, scrfd or template.

    Args:
        name: mtcnn takes its weights from the mtcnn package, scrfd from the model folder.
        models_dir: model folder; scrfd reads antelopev2/scrfd_10g_bnkps.onnx in it.
        device: cpu, cuda or cuda:N.
        min_face_size: smallest face that MTCNN looks for, in pixels; the others have no such setting.

    Raises:
        UserError: no such detector, or its weights are missing or unusable.
    """
    if name == "mtcnn":
        from d2r_fast.engine.mtcnn import MTCNN

        return MTCNN(device=device, min_face_size=min_face_size)
    if name == "scrfd":
        from d2r_fast.engine.scrfd import SCRFD

        return SCRFD(models_dir / "antelopev2" / "scrfd_10g_bnkps.onnx", device=device)
    if name == "template":
        return find_by_template
    raise UserError(f"detector {name!r}: give mtcnn, scrfd or template")
