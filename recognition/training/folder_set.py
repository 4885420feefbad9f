"""A training set of image files: one sub-folder per identity, in natural order."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2r_fast.engine.source import open_source
from d2r_fast.recognition.training.training_set import fingerprint


class FolderSet:
    """<identity>/<image>, as engine.source reads it; identities without images have no label.

    Raises:
        UserError: as open_source does.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.name = root, root.resolve().name
        self._source = open_source(root)
        everyone = self._source.identities
        self._identities = [identity for identity in everyone if identity.images]
        self.num_empty = len(everyone) - len(self._identities)
        self.num_classes = len(self._identities)
        counts = [len(identity.images) for identity in self._identities]
        self._first = np.concatenate([[0], np.cumsum(counts)])
        self.labels: NDArray[np.int64] = np.repeat(np.arange(self.num_classes), counts)

    def read(self, index: int) -> bytes:
        return self._path(index).read_bytes()

    def key(self, index: int) -> str:
        path = self._path(index)
        return f"{path.parent.name}/{path.name}"

    def class_name(self, label: int) -> str:
        return self._identities[label].name

    def fingerprint(self) -> str:
        return fingerprint(self)

    def _path(self, index: int) -> Path:
        label = int(self.labels[index])
        return self._identities[label].images[index - int(self._first[label])].path
