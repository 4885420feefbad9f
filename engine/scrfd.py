"""SCRFD with keypoints (Guo et al. 2021, arXiv:2105.04714) from an ONNX file, with InsightFace's rules."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from d2r_fast.engine.detect import Faces, check_images, fill, sort_faces
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.onnx_session import open_session
from d2r_fast.kernels.nms import nms

STRIDES = (8, 16, 32)
NUM_ANCHORS = 2
SCORE_THRESHOLD = 0.5
NMS_THRESHOLD = 0.4
BATCH = 4
"""Images in every run of a graph that takes many: one size, so that their number does not show in results."""

Array = NDArray[np.float32]


class SCRFD:
    """Finds faces in equal-sized images: `detector(images) -> list[Faces]`."""

    def __init__(self, path: Path, *, device: str = "cpu", size: int = 640):
        """Opens the graph and tries it on a black image.

        Args:
            path: scrfd_10g_bnkps.onnx of antelopev2, or any SCRFD with keypoints and strides 8, 16 and 32.
            device: cpu, cuda or cuda:N.
            size: side of the square that images are scaled into, in pixels, a multiple of 32.

        Raises:
            UserError: no such file, not such a graph, or a device that onnxruntime does not have.
        """
        assert size > 0, size
        assert size % STRIDES[-1] == 0, size
        self.size = size
        self.session = open_session(path, device=device)
        _check_signature(path, self.session, size)
        outputs = self._run(np.zeros((1, 3, size, size), np.float32))
        _check_outputs(path, outputs, size)
        self.batched = outputs[0].ndim == 3 and not isinstance(self.session.get_inputs()[0].shape[0], int)

    def __call__(self, images: torch.Tensor) -> list[Faces]:
        """The faces in each of images uint8 (N, H, W, 3) RGB, on any device. Safe to call from threads."""
        check_images(images)
        batch = BATCH if self.batched else 1
        found = []
        for part in torch.split(images, batch) if len(images) else ():
            inputs, scale = letterbox(fill(part, batch), self.size)
            outputs = self._run(inputs.cpu().numpy())
            found += self._decode(outputs, scale, batch)[: len(part)]
        return found

    def _run(self, inputs: Array) -> list[Array]:
        name = self.session.get_inputs()[0].name
        outputs: list[Any] = self.session.run(None, {name: inputs})
        return outputs

    def _decode(self, outputs: list[Array], scale: float, batch: int) -> list[Faces]:
        """The faces of each image, from the nine outputs: scores, boxes and keypoints of each stride."""
        per_image = [torch.from_numpy(output).reshape(batch, -1, output.shape[-1]) for output in outputs]
        scores, distances, offsets = (torch.cat(per_image[kind : kind + 3], 1) for kind in (0, 3, 6))
        image, row = (scores[..., 0] >= SCORE_THRESHOLD).nonzero().unbind(1)
        centres, strides = anchors(self.size)
        centre, stride = centres[row], strides[row, None]
        score, distance, offset = (
            scores[image, row, 0],
            distances[image, row] * stride,
            offsets[image, row] * stride,
        )
        boxes = torch.cat([centre - distance[:, :2], centre + distance[:, 2:]], 1) / scale
        landmarks = (centre[:, None] + offset.view(-1, 5, 2)) / scale
        kept = nms(boxes, score, image, threshold=NMS_THRESHOLD, border=1)
        arrays = [part[kept].numpy() for part in (boxes, score, landmarks)]
        rows = [image[kept].numpy() == index for index in range(batch)]
        return [sort_faces(*(array[row] for array in arrays)) for row in rows]


def letterbox(images: torch.Tensor, size: int) -> tuple[torch.Tensor, float]:
    """Images uint8 (N, H, W, 3) scaled into the top left of a black square, and the scale.

    They come as the network takes them, float32 (N, 3, size, size) in about [-1, 1]; bilinear without
    antialiasing and rounded, as OpenCV's resize gives them.
    """
    height, width = images.shape[1:3]
    if height > width:
        new_height, new_width = size, max(1, int(size / (height / width)))
    else:
        new_height, new_width = max(1, int(size * (height / width))), size
    pixels = images.permute(0, 3, 1, 2).float()
    resized = F.interpolate(pixels, (new_height, new_width), mode="bilinear", align_corners=False).round()
    padded = F.pad(resized, (0, size - new_width, 0, size - new_height))
    return ((padded - 127.5) / 128).contiguous(), new_height / height


def anchors(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Centre (R, 2) x, y and stride (R,) of every row of the outputs: stride by stride, place by place.

    The anchors of a place stand together. Centres lie on the corners of the cells, not in their middle.
    """
    centres = []
    for stride in STRIDES:
        steps = torch.arange(size // stride, dtype=torch.float32) * stride
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        centres.append(torch.stack([x, y], -1).view(-1, 2).repeat_interleave(NUM_ANCHORS, 0))
    strides = [
        torch.full((len(centre),), float(stride)) for centre, stride in zip(centres, STRIDES, strict=True)
    ]
    return torch.cat(centres), torch.cat(strides)


def _check_signature(path: Path, session: onnxruntime.InferenceSession, size: int) -> None:
    """The graph takes (N, 3, size, size) or any size, and gives nine outputs."""
    inputs = [list(entry.shape) for entry in session.get_inputs()]
    wanted = [1, 3, size, size]
    fits = len(inputs) == 1 and len(inputs[0]) == 4
    fits = fits and all(
        not isinstance(had, int) or had == want for had, want in zip(inputs[0], wanted, strict=True)
    )
    num_outputs = len(session.get_outputs())
    if not fits or num_outputs != 9:
        raise _not_scrfd(path, f"takes {inputs} and gives {num_outputs} outputs", size)


def _check_outputs(path: Path, outputs: list[Array], size: int) -> None:
    """Scores, boxes and keypoints of every anchor of the three strides."""
    given = [list(output.shape[-2:]) for output in outputs]
    rows = [NUM_ANCHORS * (size // stride) ** 2 for stride in STRIDES]
    wanted = [[num_rows, num_values] for num_values in (1, 4, 10) for num_rows in rows]
    if given != wanted or any(output.ndim not in (2, 3) for output in outputs):
        raise _not_scrfd(path, f"gives {given}", size)


def _not_scrfd(path: Path, what: str, size: int) -> UserError:
    return UserError(
        f"{path} {what}: not an SCRFD with keypoints for [1, 3, {size}, {size}], which gives scores, boxes "
        "and keypoints of strides 8, 16 and 32; use scrfd_10g_bnkps.onnx of antelopev2, or --detector mtcnn"
    )
