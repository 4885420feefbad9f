"""Intra-class diversity: how much the images of one identity differ, as the recogniser sees it.

A recogniser is trained to overlook pose, light and expression, so this is a lower bound of the variety of style,
and wrong labels raise it: read it beside identity consistency. Classes of one image are left out.
"""

import numpy as np
from numpy.typing import NDArray

from d2r_fast.recognition.quality.centres import class_sizes


def diversity_to_centre(own: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Mean over images of 1 - cos(image, centre of its class), 0 to 2. `own` (N,) are those cosines.

    The distance form of DCFace's D_intra (CVPR 2023), with the recogniser's features in the place of Inception's.
    NaN where no class has two images.
    """
    found = own[class_sizes(labels)[labels] > 1].astype(np.float64)
    return float((1 - found).mean()) if found.size else float("nan")


def diversity_between_images(sums: NDArray[np.float64], sizes: NDArray[np.int64]) -> float:
    """Mean over classes of the mean of 1 - cos between two images of the class, 0 to 2.

    All pairs at no cost: over the unit rows of a class of n with sum S, the cosines of its n(n-1)/2 pairs sum to
    (|S|^2 - n) / 2. `sums` (C,D) are those of the unit rows, `sizes` (C,) the n. NaN where no class has two images.
    """
    squares = np.square(sums).sum(axis=1)
    several = sizes > 1
    if not several.any():
        return float("nan")
    n = sizes[several].astype(np.float64)
    return float((1 - (squares[several] - n) / (n * (n - 1))).mean())
