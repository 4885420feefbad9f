"""A training set of any source: a folder of identities, zips, tars, parquet."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2r_fast.engine.source import Image, open_source
from d2r_fast.recognition.training.training_set import fingerprint


class SourceSet:
    """Identities and images in a source's order; identities without images have no label.

    Raises:
        UserError: as open_source does.
    """

    def __init__(self, root: Path) -> None:
        self._source = open_source(root)
        self.root, self.name = root, root.resolve().name
        everyone = self._source.identities
        self._identities = [identity for identity in everyone if identity.images]
        self.num_empty = len(everyone) - len(self._identities)
        self.num_classes = len(self._identities)
        counts = [len(identity.images) for identity in self._identities]
        self._first = np.concatenate([[0], np.cumsum(counts)])
        self.labels: NDArray[np.int64] = np.repeat(np.arange(self.num_classes), counts)

    def read(self, index: int) -> bytes:
        return self._source.read(self._image(index))

    def key(self, index: int) -> str:
        image = self._image(index)
        return f"{image.identity}/{image.name}"

    def class_name(self, label: int) -> str:
        return self._identities[label].name

    def fingerprint(self) -> str:
        return fingerprint(self)

    def _image(self, index: int) -> Image:
        label = int(self.labels[index])
        return self._identities[label].images[index - int(self._first[label])]
