"""Embed source images: decode, align where they are not aligned yet, recognise."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow

from d2r_fast.engine.accept import can_align
from d2r_fast.engine.ahead import ahead
from d2r_fast.engine.align import align
from d2r_fast.engine.backend import open_recogniser
from d2r_fast.engine.config import Precision, ReaderName
from d2r_fast.engine.console import Meter, say
from d2r_fast.engine.decode import DecodeError
from d2r_fast.engine.detect import Detector, load_detector
from d2r_fast.engine.device import find_device
from d2r_fast.engine.embedding_file import EmbeddingWriter
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import check_out, write_atomic
from d2r_fast.engine.marker import dump_line
from d2r_fast.engine.readers.each import decode_each, in_parts
from d2r_fast.engine.readers.plain import PlainReader
from d2r_fast.engine.readers.reader import Pixels, Reader, describe_reader, open_reader
from d2r_fast.engine.recogniser import Recogniser
from d2r_fast.engine.rows import Problem, as_dict
from d2r_fast.engine.source import Image, Source, open_images

Alignment = Literal["auto", "aligned", "detect"]


class UnusableImage(ValueError):
    """A source image that cannot be embedded; `stage` and the text say where and why."""

    def __init__(self, stage: str, reason: str):
        super().__init__(reason)
        self.stage = stage


@dataclass(frozen=True)
class Embedder:
    """Bytes of source images in, embeddings out."""

    recogniser: Recogniser
    detector: Detector
    alignment: Alignment
    reader: Reader = field(default_factory=PlainReader)

    def crop(self, data: bytes) -> NDArray[np.uint8]:
        """An aligned crop of the largest face: uint8 (H,W,3) RGB, of the recogniser's size.

        Raises:
            UnusableImage: not decodable, or no face in an image that has to be aligned.
        """
        (image,) = self.reader.decode([data])
        return self.cut(image)

    def cut(self, image: Pixels | DecodeError | OSError) -> Pixels:
        """The same of what a reader found."""
        if isinstance(image, DecodeError):
            raise UnusableImage("decode", str(image))
        if isinstance(image, OSError):
            raise UnusableImage("read", image.strerror or str(image))
        height, width = self.recogniser.size
        fits = image.shape[:2] == (height, width)
        if self.alignment != "detect" and fits:
            return image
        if self.alignment == "aligned":
            return np.asarray(Pillow.fromarray(image).resize((width, height), Pillow.Resampling.BILINEAR))
        pixels = torch.tensor(image)[None]  # decoded arrays may be read-only
        (faces,) = self.detector(pixels)
        if len(faces) == 0:
            raise UnusableImage("detect", "no face")
        if not can_align(faces):
            raise UnusableImage("detect", "landmarks coincide")
        crop: NDArray[np.uint8] = align(pixels, torch.from_numpy(faces.landmarks[:1]), size=width)[0].numpy()
        return crop

    def embed(self, crops: list[NDArray[np.uint8]]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Embeddings (N,D) of crops, and which of them are usable: finite and not of norm zero."""
        if not crops:
            return np.zeros((0, self.recogniser.embedding_dim), np.float32), np.zeros(0, bool)
        embeddings = self.recogniser(np.stack(crops))
        with np.errstate(over="ignore", invalid="ignore"):
            norms = np.linalg.norm(embeddings, axis=1)
        return embeddings, np.isfinite(norms) & (norms > 0)


UNUSABLE_EMBEDDING = UnusableImage("embed", "embedding is not finite or zero")


def load_embedder(
    models: Path, *, recogniser: Path | None, alignment: Alignment, detector: str, device: str,
    recogniser_device: str, batch_size: int, recogniser_backend: str = "auto",
    recogniser_precision: Precision = "fp32", engines: Path | None = None, reader: ReaderName = "plain",
) -> Embedder:  # fmt: skip
    """Open what embedding needs from a model folder; `recogniser` takes the place of the folder's own.

    Raises:
        UserError: a file is missing or unusable, a device is not there.
    """
    path = recogniser or models / "antelopev2" / "arcface.onnx"
    place = device if recogniser_device == "auto" else recogniser_device
    network = open_recogniser(
        models,
        path,
        backend=recogniser_backend,
        precision=recogniser_precision,
        engines=engines,
        device=find_device(place),
        batch_size=batch_size,
    )
    finder = load_detector(detector, models_dir=models, device=device, min_face_size=20)
    num_threads = len(os.sched_getaffinity(0))
    return Embedder(network, finder, alignment, open_reader(reader, device=device, num_threads=num_threads))


def embed_source(
    source: Path, *, models: Path, out: Path, recogniser: Path | None, source_alignment: Alignment, detector: str,
    batch_size: int, device: str, recogniser_device: str, recogniser_backend: str = "auto",
    recogniser_precision: Precision = "fp32", engines: Path | None = None, reader: ReaderName = "auto",
) -> int:  # fmt: skip
    """The `embed` command: every image of a folder into one parquet file; what cannot be is listed beside it."""
    check_out(out)
    unusable = out.with_name(out.name + ".errors.jsonl")
    check_out(unusable)
    images = open_images(source)
    embedder = load_embedder(
        models, recogniser=recogniser, alignment=source_alignment, detector=detector,
        device=find_device(device), recogniser_device=recogniser_device, batch_size=batch_size,
        recogniser_backend=recogniser_backend, recogniser_precision=recogniser_precision, engines=engines,
        reader=reader,
    )  # fmt: skip
    problems: list[Problem] = []
    with (
        EmbeddingWriter.open(out, embedder.recogniser, about=describe_reader(reader)) as writer,
        Meter("embed", total=images.num_images) as meter,
    ):
        for found, embeddings, failed in _embed_all(images, embedder, batch_size):
            writer.add(found, embeddings)
            problems += failed
            meter.advance(len(found) + len(failed), note=f"{len(problems)} unusable")
        if writer.num_rows == 0:
            raise UserError(
                f"none of the {len(problems)} images in {source} can be embedded: {problems[0].reason}"
            )
    write_atomic(unusable, b"".join(dump_line(as_dict(found)) for found in problems))
    say(f"embedded {writer.num_rows} images into {out}, {len(problems)} unusable (listed in {unusable})")
    return 0


Embedded = tuple[list[Image], NDArray[np.float32], list[Problem]]


def _embed_all(source: Source, embedder: Embedder, batch_size: int) -> Iterator[Embedded]:
    images = chain.from_iterable(identity.images for identity in source.identities)
    with ThreadPoolExecutor() as pool:
        while chunk := tuple(islice(images, batch_size)):
            yield embed_images(chunk, source, embedder, pool)


def embed_images(
    images: tuple[Image, ...], source: Source, embedder: Embedder, pool: ThreadPoolExecutor
) -> Embedded:
    """Embed some images: those that could be, their embeddings (N,D), and an error record for each other."""

    def cut(image: Pixels | DecodeError | OSError) -> Pixels | UnusableImage:
        try:
            return embedder.cut(image)
        except UnusableImage as error:
            return error

    num_threads = len(os.sched_getaffinity(0))
    parts = in_parts(images, embedder.reader.num_at_once)
    decoded = ahead(pool, partial(decode_each, embedder.reader, source.read), parts, depth=num_threads)
    tried = list(zip(images, ahead(pool, cut, chain.from_iterable(decoded), depth=num_threads), strict=True))
    cropped = [(image, found) for image, found in tried if not isinstance(found, UnusableImage)]
    embeddings, usable = embedder.embed([found for _, found in cropped])
    failed = [problem(image, found) for image, found in tried if isinstance(found, UnusableImage)]
    failed += [
        problem(image, UNUSABLE_EMBEDDING)
        for (image, _), good in zip(cropped, usable, strict=True)
        if not good
    ]
    return (
        [image for (image, _), good in zip(cropped, usable, strict=True) if good],
        embeddings[usable],
        failed,
    )


def problem(image: Image, error: UnusableImage) -> Problem:
    """How an unusable source image is written down."""
    return Problem(
        stage=error.stage,
        identity=image.identity,
        key=image.name,
        error=type(error).__name__,
        reason=str(error),
    )
