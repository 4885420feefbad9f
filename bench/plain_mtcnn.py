"""MTCNN as it is commonly run: the flow of facenet-pytorch's `detect_face`, for one image size at a time.

A baseline, kept plain on purpose. The image goes through `interpolate(mode="area")` once per scale of the
pyramid, each scale through P-Net and a suppression of its own, and every candidate is cut out and resized by
itself. Its rules are facenet-pytorch's (timesler/facenet-pytorch, models/utils/detect_face.py), with one
exception: boxes compete by logits, not by probabilities that float32 has rounded to 1, so that the order of equal
ones does not decide which face is kept. Its networks are those of `engine/mtcnn_networks.py` in the memory layout
that the original has, so that both detectors do the same arithmetic on the same weights.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from d2r_fast.engine.detect import Faces, sort_faces
from d2r_fast.engine.mtcnn import THRESHOLDS, pyramid
from d2r_fast.engine.mtcnn_networks import load_networks

BATCH = 512
"""Candidates in one run of R- and O-Net, as in the original."""
Candidates = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""boxes (n, 4), logits of face less no face (n,), the image of each (n,)."""


class PlainMTCNN:
    """`detector(images) -> list[Faces]`, image by image unless `together` is set, as the original allows."""

    def __init__(self, *, device: str = "cpu", min_face_size: int = 20, together: bool = False) -> None:
        self.device = torch.device(device)
        self.min_face_size = min_face_size
        self.together = together
        self.pnet, self.rnet, self.onet = (
            _contiguous(network).to(self.device) for network in load_networks()
        )

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> list[Faces]:
        """The faces in each of images uint8 (N, H, W, 3) RGB."""
        parts = [images] if self.together else torch.split(images, 1)
        return [faces for part in parts for faces in self._detect(part)]

    def _detect(self, images: torch.Tensor) -> list[Faces]:
        pixels = images.to(self.device).permute(0, 3, 1, 2).float()
        boxes, scores, owners = self._propose(pixels)
        boxes, scores, owners = self._refine(pixels, boxes, owners)
        boxes, scores, owners, landmarks = self._decide(pixels, boxes, owners)
        kept = _suppress(boxes, scores, owners, 0.7, by_smaller=True)
        found = [part[kept].cpu().numpy() for part in (boxes, scores.sigmoid(), landmarks, owners)]
        return [sort_faces(*(part[found[3] == image] for part in found[:3])) for image in range(len(images))]

    def _propose(self, pixels: torch.Tensor) -> Candidates:
        height, width = pixels.shape[2:]
        found = []
        for scale in pyramid(height, width, self.min_face_size):
            resized = F.interpolate(pixels, (int(height * scale + 1), int(width * scale + 1)), mode="area")
            out = self.pnet(_normalise(resized))
            probabilities = out[:, 4:6].softmax(1)[:, 1]
            cells = (probabilities >= THRESHOLDS[0]).nonzero()
            owners, corner = cells[:, 0], cells[:, 1:].flip(1).float() * 2
            boxes = torch.cat([((corner + 1) / scale).floor(), ((corner + 12) / scale).floor()], 1)
            offsets = out[:, :4].permute(0, 2, 3, 1)[cells.unbind(1)]
            scores = (out[:, 5] - out[:, 4])[cells.unbind(1)]
            kept = _suppress(boxes, scores, owners, 0.5)
            found.append((boxes[kept], offsets[kept], scores[kept], owners[kept]))
        boxes, offsets, scores, owners = (torch.cat(parts) for parts in zip(*found, strict=True))
        kept = _suppress(boxes, scores, owners, 0.7)
        boxes, offsets = boxes[kept], offsets[kept]
        moved = boxes + offsets * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        return _square(moved), scores[kept], owners[kept]

    def _refine(self, pixels: torch.Tensor, boxes: torch.Tensor, owners: torch.Tensor) -> Candidates:
        if len(boxes) == 0:
            return boxes, boxes[:, 0], owners
        out = _run(self.rnet, _cut(pixels, boxes, owners, 24))
        passed = out[:, 4:6].softmax(1)[:, 1] > THRESHOLDS[1]
        boxes, out, owners = boxes[passed], out[passed], owners[passed]
        offsets, scores = out[:, :4], out[:, 5] - out[:, 4]
        kept = _suppress(boxes, scores, owners, 0.7)
        boxes = _square(_move(boxes[kept], offsets[kept]))
        return boxes, scores[kept], owners[kept]

    def _decide(
        self, pixels: torch.Tensor, boxes: torch.Tensor, owners: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        if len(boxes) == 0:
            return boxes, boxes[:, 0], owners, boxes.new_zeros(0, 5, 2)
        out = _run(self.onet, _cut(pixels, boxes, owners, 48))
        passed = out[:, 14:16].softmax(1)[:, 1] > THRESHOLDS[2]
        boxes, out, owners = boxes[passed], out[passed], owners[passed]
        scores = out[:, 15] - out[:, 14]
        sides = boxes[:, 2:] - boxes[:, :2] + 1
        landmarks = torch.stack([out[:, 4:9], out[:, 9:14]], 2) * sides[:, None] + boxes[:, None, :2] - 1
        return _move(boxes, out[:, :4]), scores, owners, landmarks


def _contiguous(network: nn.Module) -> nn.Module:
    """The network in the memory layout that torch gives weights by itself."""
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()
    return network


def _normalise(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels - 127.5) * 0.0078125


def _move(boxes: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return boxes + offsets * (boxes[:, 2:] - boxes[:, :2] + 1).repeat(1, 2)


def _square(boxes: torch.Tensor) -> torch.Tensor:
    sides = boxes[:, 2:] - boxes[:, :2]
    longer = sides.amax(1, keepdim=True)
    corner = boxes[:, :2] + sides * 0.5 - longer * 0.5
    return torch.cat([corner, corner + longer], 1)


def _cut(pixels: torch.Tensor, boxes: torch.Tensor, owners: torch.Tensor, size: int) -> torch.Tensor:
    """Every box cut out and resized by itself: (n, 3, size, size)."""
    height, width = pixels.shape[2:]
    crops = []
    for (x0, y0, x1, y1), owner in zip(boxes.trunc().int().tolist(), owners.tolist(), strict=True):
        x0, y0, x1, y1 = max(x0, 1) - 1, max(y0, 1) - 1, min(x1, width), min(y1, height)
        # The original drops empty boxes here and then fails on the count; none of its callers meets one.
        crop = pixels[owner : owner + 1, :, y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
        crops.append(F.interpolate(crop, (size, size), mode="area"))
    return _normalise(torch.cat(crops))


def _run(network: nn.Module, crops: torch.Tensor) -> torch.Tensor:
    return torch.cat([network(part) for part in torch.split(crops, BATCH)]).flatten(1)


def _suppress(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    owners: torch.Tensor,
    threshold: float,
    *,
    by_smaller: bool = False,
) -> torch.Tensor:
    """Greedy suppression with images set apart by an offset, one box per round, in numpy."""
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    shifted = boxes + owners.to(boxes)[:, None] * (boxes.max() + 1)
    border = 1.0 if by_smaller else 0.0
    kept = _greedy(shifted.cpu().numpy(), scores.cpu().numpy(), threshold, border, by_smaller)
    return torch.from_numpy(kept).to(boxes.device)


def _greedy(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], threshold: float, border: float, by_smaller: bool
) -> NDArray[np.int64]:
    x0, y0, x1, y1 = boxes.T
    area = (x1 - x0 + border) * (y1 - y0 + border)
    order = np.argsort(-scores, kind="stable")
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        wide = np.minimum(x1[best], x1[rest]) - np.maximum(x0[best], x0[rest]) + border
        high = np.minimum(y1[best], y1[rest]) - np.maximum(y0[best], y0[rest]) + border
        shared = np.maximum(wide, 0) * np.maximum(high, 0)
        whole = np.minimum(area[best], area[rest]) if by_smaller else area[best] + area[rest] - shared
        order = rest[shared / whole <= threshold]
    return np.array(kept, np.int64)
