"""Embeddings, labels and templates made from integers alone, the same on every machine and under every version.

A number is a hash of its place and a seed (the finaliser of SplitMix64); values are sums of four 16-bit parts of
it, in units of 2^-16, close to normal with standard deviation 0.577 and exact in float32.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def hashes(seed: int, *shape: int) -> NDArray[np.uint64]:
    """64 random bits for every place."""
    index = np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(seed << 40)
    bits = (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (bits ^ (bits >> np.uint64(31))).reshape(shape)


def integers(seed: int, high: int, *shape: int) -> NDArray[np.int64]:
    """Integers 0 to high - 1."""
    return (hashes(seed, *shape) >> np.uint64(11)).astype(np.int64) % high


def normal(seed: int, *shape: int) -> Floats:
    """Nearly normal numbers, multiples of 2^-16 below 2 in size."""
    bits = hashes(seed, *shape)
    parts = sum((bits >> np.uint64(16 * part)).astype(np.int64) & 0xFFFF for part in range(4))
    return (parts - 131070) / 65536


def labels(seed: int, num_pairs: int) -> NDArray[np.bool_]:
    """Half of the pairs, about, are genuine."""
    return integers(seed, 2, num_pairs).astype(bool)


def pair_embeddings(seed: int, num_pairs: int, dim: int, noise: float) -> tuple[Floats, NDArray[np.bool_]]:
    """(2 num_pairs, dim), and which pairs are of one person: images are a person's vector and noise."""
    same = labels(seed, num_pairs)
    persons = normal(seed + 1, num_pairs, dim)
    others = np.where(same[:, None], persons, normal(seed + 2, num_pairs, dim))
    people = np.stack((persons, others), axis=1).reshape(2 * num_pairs, dim)
    return 8 * (people + noise * normal(seed + 3, 2 * num_pairs, dim)), same


def tied_vectors(seed: int, num_pairs: int) -> Floats:
    """(num_pairs, 2): differences whose squared lengths often stand exactly at a threshold."""
    return integers(seed, 9, num_pairs, 2) / np.array([8.0, 10.0])


@dataclass(frozen=True)
class IjbData:
    """What an IJB evaluation is given."""

    embeddings: NDArray[np.float32]
    detector_scores: NDArray[np.float32]
    templates: NDArray[np.int64]
    media: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.int64]


def ijb_data(
    seed: int, *, num_templates: int, num_images: int, num_people: int, dim: int, noise: float
) -> IjbData:
    """Templates with numbers 3, 6, 9, ..., a few images each in media of their own or shared, and all their pairs."""
    templates = np.append(np.arange(num_templates), integers(seed, num_templates, num_images - num_templates))
    people = integers(seed + 1, num_people, num_templates)
    persons = normal(seed + 2, num_people, dim)
    quality = (1 + integers(seed + 3, 64, num_images)) / 64
    spread = noise * (1.5 - quality)[:, None]
    size = (64 + integers(seed + 4, 128, num_images))[:, None] / 8
    images = (persons[people[templates]] + spread * normal(seed + 5, num_images, dim)) * size
    first, second = np.triu_indices(num_templates, 1)
    return IjbData(
        images.astype(np.float32), quality.astype(np.float32), 3 * templates + 3, integers(seed + 6, 5, num_images),
        3 * first + 3, 3 * second + 3, (people[first] == people[second]).astype(np.int64),
    )  # fmt: skip
