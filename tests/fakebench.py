"""Small benchmarks of drawn patterns, in the layouts of the real ones, and a network that tells the patterns apart."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from d2r_fast.engine.align import TEMPLATE_112
from d2r_fast.recognition.evaluation.bin_file import write_bin

RACES = ("African", "Asian", "Caucasian", "Indian")


def face(identity: int, shot: int, *, size: int = 112) -> NDArray[np.uint8]:
    """uint8 (size, size, 3): smooth noise of an identity, with some of the shot's own."""
    own = np.random.default_rng([identity, 7]).normal(size=(6, 6, 3))
    other = np.random.default_rng([identity, shot, 8]).normal(size=(6, 6, 3))
    coarse = np.clip(127 + 40 * own + 25 * other, 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def encode(image: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def pair_list(num: int, *, seed: int = 0) -> tuple[list[tuple[int, int]], list[bool]]:
    """(identity, shot) of 2 x num images, pair after pair, and whether each pair is of one identity."""
    rng = np.random.default_rng(seed)
    shots: list[tuple[int, int]] = []
    same = [bool(index % 2) for index in range(num)]
    for label in same:
        first = int(rng.integers(8))
        second = first if label else (first + 1 + int(rng.integers(7))) % 8
        shots += [(first, int(rng.integers(4))), (second, 4 + int(rng.integers(4)))]
    return shots, same


def make_bin(path: Path, *, num: int = 20, seed: int = 0) -> None:
    shots, same = pair_list(num, seed=seed)
    write_bin(path, [encode(face(*shot)) for shot in shots], same)


@dataclass(frozen=True)
class IjbRows:
    """What an IJB folder lists."""

    names: list[str]
    landmarks: NDArray[np.float64]
    scores: NDArray[np.float64]
    templates: NDArray[np.int64]
    media: NDArray[np.int64]
    pairs: NDArray[np.int64]


def make_ijb(folder: Path, *, name: str = "ijbb", num_templates: int = 8, seed: int = 0) -> IjbRows:
    """Templates of some images in some media; templates 10, 20, ... of four people, images of 160x150."""
    rng = np.random.default_rng(seed)
    (folder / "meta").mkdir(parents=True)
    (folder / "loose_crop").mkdir()
    names, landmarks, templates, media = [], [], [], []
    for index in range(num_templates):
        for shot in range(int(rng.integers(1, 6))):
            image = np.zeros((150, 160, 3), np.uint8)
            image[20:132, 30:142] = face(index % 4, 10 * index + shot)
            names.append(f"{len(names) + 1}.jpg")
            (folder / "loose_crop" / names[-1]).write_bytes(encode(image, "JPEG"))
            landmarks.append(TEMPLATE_112 + np.array([30, 20]) + rng.normal(scale=0.5, size=(5, 2)))
            templates.append(10 * (index + 1))
            media.append(100 * index + shot // 2)
    order = rng.permutation(len(names))
    names = [names[index] for index in order]
    pairs = np.array(
        [(10 * (i + 1), 10 * (j + 1), i % 4 == j % 4) for i in range(num_templates) for j in range(i)]
    )
    rows = IjbRows(
        names, np.round(np.array(landmarks)[order], 3), np.round(rng.uniform(0.4, 1, len(names)), 4),
        np.array(templates)[order], np.array(media)[order], pairs,
    )  # fmt: skip
    write_ijb_meta(folder, name, rows)
    return rows


def write_ijb_meta(folder: Path, name: str, rows: IjbRows) -> None:
    points = [" ".join(f"{value:.3f}" for value in row.ravel()) for row in rows.landmarks]
    write_lines(folder / "meta" / f"{name}_name_5pts_score.txt", [
        f"{image} {point} {score:.4f}" for image, point, score in zip(rows.names, points, rows.scores, strict=True)
    ])  # fmt: skip
    write_lines(folder / "meta" / f"{name}_face_tid_mid.txt", [
        f"{image} {template} {medium}"
        for image, template, medium in zip(rows.names, rows.templates, rows.media, strict=True)
    ])  # fmt: skip
    write_lines(
        folder / "meta" / f"{name}_template_pair_label.txt", [" ".join(map(str, row)) for row in rows.pairs]
    )


def make_rfw(folder: Path, *, num: int = 12) -> None:
    """`data` and `txts` of four races, photographs of 400x400 with the face somewhere in it."""
    for number, race in enumerate(RACES):
        shots, same = pair_list(num, seed=number)
        pairs, landmarks = [], {}
        for index, label in enumerate(same):
            (first, i), (second, j) = shots[2 * index : 2 * index + 2]
            pairs.append(f"m.{first}\t{i}\t{j}" if label else f"m.{first}\t{i}\tm.{second}\t{j}")
        for identity, shot in dict.fromkeys(shots):
            path = folder / "data" / race / f"m.{identity}" / f"m.{identity}_{shot:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = np.full((400, 400, 3), 60, np.uint8)
            image[100:324, 80:304] = face(identity, shot, size=224)
            path.write_bytes(encode(image, "JPEG"))
            points = 2 * TEMPLATE_112.astype(float) + np.array([80.5, 100.5])
            listed = f"/test/data/{race}/{path.parent.name}/{path.name}"
            landmarks[listed] = "\t".join(f"{value:.2f}" for value in points.ravel())
        txts = folder / "txts" / race
        txts.mkdir(parents=True)
        write_lines(txts / f"{race}_pairs.txt", pairs)
        write_lines(txts / f"{race}_lmk.txt", [f"{path}\t0\t{points}" for path, points in landmarks.items()])


def write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


class CoarsePixels:
    """A recogniser that works: means over 16x16 blocks, less their mean, turned so that mirror images differ."""

    embedding_dim = 32
    size = (112, 112)
    name = "coarse (0123456789ab)"

    def __init__(self) -> None:
        self.num_crops = 0
        self.weight = np.random.default_rng(3).normal(size=(147, 32)).astype(np.float32)

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert crops.shape[1:] == (112, 112, 3)
        assert crops.dtype == np.uint8
        self.num_crops += len(crops)
        means = crops.reshape(-1, 7, 16, 7, 16, 3).mean(axis=(2, 4), dtype=np.float64).reshape(-1, 147) - 127
        embeddings: NDArray[np.float32] = (means @ self.weight).astype(np.float32)
        return embeddings


def write_onnx(path: Path, *, seed: int = 0, size: int = 112) -> None:
    """A recogniser of one average pooling and one matrix product."""
    cells = (size // 16) ** 2 * 3
    weight = np.random.default_rng(seed).normal(size=(cells, 16)).astype(np.float32)
    nodes: list[Any] = [
        helper.make_node("AveragePool", ["crops"], ["pooled"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes, "coarse",
        [helper.make_tensor_value_info("crops", TensorProto.FLOAT, ["N", 3, size, size])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 16])],
        [numpy_helper.from_array(weight, "weight")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def keep_weights_beside(path: Path) -> None:
    """Move the weights of an ONNX file to weights.bin beside it."""
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
