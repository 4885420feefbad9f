"""The images of a training set as a recogniser sees them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2r_fast.recognition.evaluation.embed_crops import ZERO, Embed, embed_crops
from d2r_fast.recognition.quality.crops import ChosenCrops, Unusable
from d2r_fast.recognition.training.training_set import TrainingSet


@dataclass(frozen=True, slots=True)
class EmbeddedSet:
    """Embeddings float32 (N,D) as the network gives them, labels (N,) in 0..C-1, and the C classes' names.

    `unusable` are the images that are not among them. Identities of which no image is left are none of the C.
    """

    embeddings: NDArray[np.float32]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    unusable: tuple[Unusable, ...]


def embed_set(
    images: TrainingSet, indices: NDArray[np.int64], embed: Embed, *, batch_size: int, max_unreadable: int
) -> EmbeddedSet:
    """Embed the images at `indices` (N,) of a set.

    Raises:
        UserError: more than `max_unreadable` images cannot be read or have an embedding of zero, or all.
        RunError: an embedding that is not finite.
    """
    crops = ChosenCrops(images, indices)
    found = embed_crops(
        crops, embed, title=images.name, flip=False, batch_size=batch_size, max_unreadable=max_unreadable,
        leave_zeros=True,
    )  # fmt: skip
    usable = found.readable
    crops.leave_out(np.flatnonzero(~usable).tolist(), ZERO)
    classes, labels = np.unique(images.labels[indices[usable]], return_inverse=True)
    return EmbeddedSet(
        embeddings=found.embeddings if usable.all() else found.embeddings[usable],
        labels=labels.astype(np.int64),
        class_names=tuple(images.class_name(label) for label in classes.tolist()),
        unusable=crops.unusable,
    )
