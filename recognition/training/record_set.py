"""A training set in InsightFace's RecordIO: `train.rec`, `train.idx`, and `property` where there is one."""

from pathlib import Path

from d2r_fast.engine.sources.record_files import RecordFiles
from d2r_fast.recognition.training.training_set import fingerprint, without_gaps


class RecordSet:
    """Images in the order of their keys. Labels without an image are dropped, and the others numbered anew.

    Raises:
        UserError: as RecordFiles does.
    """

    num_empty: int

    def __init__(self, root: Path) -> None:
        self.root, self.name = root, root.resolve().name
        self._records = records = RecordFiles(root)
        self.labels, self._classes = without_gaps(records.labels)
        self.num_classes = len(self._classes)
        self.num_empty = (records.announced or int(self._classes[-1]) + 1) - self.num_classes

    def read(self, index: int) -> bytes:
        return self._records.read(index)

    def key(self, index: int) -> str:
        return str(self._records.keys[index])

    def class_name(self, label: int) -> str:
        return str(self._classes[label])

    def fingerprint(self) -> str:
        return fingerprint(self)
