"""MTCNN (Zhang et al. 2016, arXiv:1604.02878) as three batched networks, with facenet-pytorch's rules.

P-Net looks for faces at every scale of all images, then R-Net and O-Net look at all candidates of all images.
Every network runs on batches of one fixed size, filled up where images or candidates run out: convolution
libraries choose their algorithm, and so the last bits, by the shape of a batch, and what is found in an image
must not depend on its neighbours.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from math import exp, log

import numpy as np
import torch
from torch import nn

from d2r_fast.engine.backends.cuda import compute_exactly
from d2r_fast.engine.backends.threads import LoneThreads
from d2r_fast.engine.detect import Faces, check_images, fill, sort_faces
from d2r_fast.engine.mtcnn_networks import ByRows, load_networks, take_pixels
from d2r_fast.kernels.area import crop, integrate, resize
from d2r_fast.kernels.nms import nms

FACTOR = 0.709
"""From one scale of the pyramid to the next: about half the area."""
THRESHOLDS = (0.6, 0.7, 0.7)
"""Least probability of a face that P-, R- and O-Net let pass."""
CELL, STRIDE = 12, 2
"""P-Net's field of view and step, in pixels of a scale."""

P_PIXELS, P_IMAGES = 1 << 18, 8
"""Most pixels of a scale, and images, in one run of P-Net: as fast as larger runs, which leave a CPU's caches, and
a lone image costs no more than a few."""
R_BATCH, O_BATCH = 32, 8
"""Candidates in one run of R-Net and O-Net, small for the same reasons."""
MAX_PIXELS = 1 << 21
"""Pixels of images looked at together, 12 bytes of sums each: memory that stays the process's own, where that of
larger pieces is given back and cleared again by the system each time."""


@dataclass(frozen=True)
class Candidates:
    """Boxes that may hold a face.

    A margin is the logit of face less that of no face. Boxes compete by margin rather than by probability,
    which float32 rounds to 1 for every clear face.
    """

    boxes: torch.Tensor
    """(n, 4) float32 x0, y0, x1, y1 in pixels."""
    margins: torch.Tensor
    """(n,) float32."""
    images: torch.Tensor
    """(n,) int64, the image of each."""

    def __getitem__(self, rows: torch.Tensor) -> "Candidates":
        return Candidates(self.boxes[rows], self.margins[rows], self.images[rows])


class MTCNN:
    """Finds faces in equal-sized images: `detector(images) -> list[Faces]`."""

    def __init__(self, *, device: str = "cpu", min_face_size: int = 20):
        """Takes the weights in the `mtcnn` package.

        Args:
            device: cpu, cuda or cuda:N.
            min_face_size: smallest face to look for, in pixels; P-Net's time falls with its square.

        Raises:
            UserError: the package is missing or holds other networks.
        """
        self.device = torch.device(device)
        compute_exactly(self.device.type)  # TF32 moves boxes by tenths of a pixel
        self.min_face_size = min_face_size
        networks: tuple[nn.Module, ...] = tuple(take_pixels(network) for network in load_networks())
        self._streams: ThreadPoolExecutor | None = None
        if self.device.type == "cpu":
            networks = tuple(ByRows(network) for network in networks)
            self._streams = ThreadPoolExecutor(torch.get_num_threads(), "detect")
            self._threads = LoneThreads(torch.get_num_threads())
        self.pnet, self.rnet, self.onet = (network.to(self.device) for network in networks)

    def __call__(self, images: torch.Tensor) -> list[Faces]:
        """The faces in each of images uint8 (N, H, W, 3) RGB, on any device. Safe to call from threads."""
        check_images(images)
        height, width = images.shape[1:3]
        if len(images) == 0:
            return []
        most = max(MAX_PIXELS // (height * width), 1)
        per_stream = -(-len(images) // (torch.get_num_threads() if self._streams else 1))
        parts = torch.split(images, min(most, per_stream))
        if self._streams is None:
            return list(chain.from_iterable(map(self._find, parts)))
        found = self._streams.map(lambda part: self._threads.run(lambda: self._find(part)), parts)
        return list(chain.from_iterable(found))

    @torch.inference_mode()
    def _find(self, images: torch.Tensor) -> list[Faces]:
        sums = integrate(images.to(self.device))
        candidates = self._propose(sums)
        candidates = self._refine(sums, candidates)
        candidates, landmarks = self._decide(sums, candidates)
        return _split(candidates, landmarks, len(images))

    def _propose(self, sums: torch.Tensor) -> Candidates:
        """P-Net over the pyramid: where a face may be, roughly."""
        num_images, height, width = len(sums), sums.shape[1] - 1, sums.shape[3] - 1
        by_scale, offsets, groups = [], [], []
        for number, scale in enumerate(pyramid(height, width, self.min_face_size)):
            size = (int(height * scale + 1), int(width * scale + 1))
            batch = min(max(P_PIXELS // (size[0] * size[1]), 1), P_IMAGES)  # decided by the size alone
            parts = torch.split(sums, batch)
            out = torch.cat([self.pnet(fill(resize(part, size), batch)) for part in parts])
            found, offset = _decode(out[:num_images], scale)
            by_scale.append(found)
            offsets.append(offset)
            groups.append(found.images + number * num_images)
        if not by_scale:
            return _none(sums.device)
        found, offset = _joined(by_scale), torch.cat(offsets)
        # Boxes compete within their scale first, then all of an image's.
        kept = nms(found.boxes, found.margins, torch.cat(groups), threshold=0.5)
        found, offset = found[kept], offset[kept]
        kept = nms(found.boxes, found.margins, found.images, threshold=0.7)
        found, offset = found[kept], offset[kept]
        return Candidates(square(move(found.boxes, offset, border=0)), found.margins, found.images)

    def _refine(self, sums: torch.Tensor, candidates: Candidates) -> Candidates:
        """R-Net: drop most candidates, move the others to their face."""
        candidates, out = _look(self.rnet, sums, candidates, size=24, batch=R_BATCH, threshold=THRESHOLDS[1])
        kept = nms(candidates.boxes, candidates.margins, candidates.images, threshold=0.7)
        candidates, out = candidates[kept], out[kept]
        boxes = square(move(candidates.boxes, out[:, :4], border=1))
        return Candidates(boxes, candidates.margins, candidates.images)

    def _decide(self, sums: torch.Tensor, candidates: Candidates) -> tuple[Candidates, torch.Tensor]:
        """O-Net: the faces, and their landmarks (n, 5, 2)."""
        candidates, out = _look(self.onet, sums, candidates, size=48, batch=O_BATCH, threshold=THRESHOLDS[2])
        corner = candidates.boxes[:, None, :2]
        side = candidates.boxes[:, None, 2:] - corner + 1
        # All five x, then all five y; the -1 is the 1-based pixels of the networks' MATLAB origin.
        landmarks = side * out[:, 4:14].view(-1, 2, 5).transpose(1, 2) + corner - 1
        boxes = move(candidates.boxes, out[:, :4], border=1)
        kept = nms(boxes, candidates.margins, candidates.images, threshold=0.7, overlap="min", border=1)
        return Candidates(boxes, candidates.margins, candidates.images)[kept], landmarks[kept]


def pyramid(height: int, width: int, min_face_size: int) -> list[float]:
    """Scales that take faces of `min_face_size`, and of 1 / FACTOR times that and so on, to 12 pixels."""
    scales = []
    scale = CELL / min_face_size
    shorter = min(height, width) * scale
    while shorter >= CELL:
        scales.append(scale)
        scale *= FACTOR
        shorter *= FACTOR
    return scales


def move(boxes: torch.Tensor, offsets: torch.Tensor, *, border: int) -> torch.Tensor:
    """Boxes (n, 4) with each edge moved by its offset (n, 4), a share of the box's side (plus border)."""
    sides = boxes[:, 2:] - boxes[:, :2] + border
    return boxes + offsets * sides.repeat(1, 2)


def square(boxes: torch.Tensor) -> torch.Tensor:
    """Boxes (n, 4) made square about their centres, by their longer side."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longer = sides.amax(1, keepdim=True)
    corner = boxes[:, :2] + sides * 0.5 - longer * 0.5
    return torch.cat([corner, corner + longer], 1)


def _decode(out: torch.Tensor, scale: float) -> tuple[Candidates, torch.Tensor]:
    """Boxes, in image pixels, of the cells of P-Net's output (N, 6, h, w) that pass, and offsets (n, 4)."""
    margins = out[:, 5] - out[:, 4]
    cells = (margins >= _logit(THRESHOLDS[0])).nonzero()
    image, row, column = cells.unbind(1)
    corner = torch.stack([column, row], 1).float() * STRIDE
    boxes = torch.cat([((corner + 1) / scale).floor(), ((corner + CELL) / scale).floor()], 1)
    values = out.permute(0, 2, 3, 1)[image, row, column]
    return Candidates(boxes, margins[image, row, column], image), values[:, :4]


def _look(
    network: nn.Module, sums: torch.Tensor, candidates: Candidates, *, size: int, batch: int, threshold: float
) -> tuple[Candidates, torch.Tensor]:
    """The candidates that pass R- or O-Net with its margin, and its outputs for them (n, channels)."""
    height, width = sums.shape[1] - 1, sums.shape[3] - 1
    # 1-based and inclusive, clipped to the image: the crop starts a pixel before the box's corner.
    boxes = candidates.boxes.trunc().long()
    first = boxes[:, :2].clamp(min=1) - 1
    last = torch.minimum(boxes[:, 2:], boxes.new_tensor([width, height]))
    inside = (last > first).all(1)
    candidates, boxes = candidates[inside], torch.cat([first, last], 1)[inside]
    if len(boxes) == 0:
        return candidates, boxes.new_zeros(0, 16, dtype=torch.float32)
    images, filled = (torch.split(fill(rows, batch), batch) for rows in (candidates.images, boxes))
    crops = (crop(sums, image, box, size) for image, box in zip(images, filled, strict=True))
    out = torch.cat([network(part) for part in crops])
    out = out[: len(boxes)].flatten(1)
    margins = out[:, -1] - out[:, -2]
    passed = margins > _logit(threshold)
    return Candidates(candidates.boxes, margins, candidates.images)[passed], out[passed]


def _logit(probability: float) -> float:
    return log(probability / (1 - probability))


def _joined(parts: list[Candidates]) -> Candidates:
    boxes, margins, images = zip(*((part.boxes, part.margins, part.images) for part in parts), strict=True)
    return Candidates(torch.cat(boxes), torch.cat(margins), torch.cat(images))


def _none(device: torch.device) -> Candidates:
    empty = torch.zeros(0, device=device)
    return Candidates(empty.view(0, 4), empty, empty.long())


def _split(candidates: Candidates, landmarks: torch.Tensor, num_images: int) -> list[Faces]:
    """Candidates by image, as numpy arrays."""
    boxes, points, images = (part.cpu().numpy() for part in (candidates.boxes, landmarks, candidates.images))
    # In float64, where the last bits of a vectorised exp cannot show.
    scores = np.array([1 / (1 + exp(-margin)) for margin in candidates.margins.tolist()], np.float32)
    rows = [images == image for image in range(num_images)]
    return [sort_faces(boxes[row], scores[row], points[row]) for row in rows]
