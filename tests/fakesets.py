"""Training sets without files."""

from dataclasses import dataclass

import numpy as np

from d2r_fast.recognition.training.training_set import fingerprint


@dataclass
class Fake:
    """Labels and names; an image's file is its set's name and its number, unless `files` has it."""

    labels: np.ndarray
    num_classes: int
    name: str = "fake"
    num_empty: int = 0
    files: list[bytes] | None = None

    def read(self, index: int) -> bytes:
        return self.files[index] if self.files else f"{self.name} {index}".encode()

    def key(self, index: int) -> str:
        return str(index)

    def class_name(self, label: int) -> str:
        return str(label)

    def fingerprint(self) -> str:
        return fingerprint(self)


def fake(
    *labels: int, num_classes: int | None = None, name: str = "fake", files: list[bytes] | None = None
) -> Fake:
    """A set with these labels, of as many classes as they need unless told."""
    needed = max(labels, default=-1) + 1
    return Fake(np.array(labels, np.int64), needed if num_classes is None else num_classes, name, files=files)
