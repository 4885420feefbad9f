"""Identity consistency: do the images of a class show one person?

Classes of one image say nothing about it and are left out.
"""

import numpy as np
from numpy.typing import NDArray

from d2r_fast.recognition.quality.centres import class_sizes


def identity_consistency(own: NDArray[np.floating], labels: NDArray[np.int64], *, radius: float) -> float:
    """DCFace's C_intra: mean over classes of the share of images with a cosine to their centre above `radius`.

        C_intra = 1/C sum_c 1/N_c sum_i [cos(x_ci, centre_c) > r]

    (Kim et al., DCFace, CVPR 2023, section 4.) `own` (N,) are the cosines to the own centre. An image is part of
    that centre, which makes it look at home in a small class whoever it shows; `other_cosines` in the place of
    `own` ask how near it is to the others.
    Returns 0 to 1; NaN where no class has two images.
    """
    sizes = class_sizes(labels)
    inside = np.bincount(labels, weights=own > radius, minlength=len(sizes)) / sizes
    several = sizes > 1
    return float(inside[several].mean()) if several.any() else float("nan")


def centre_similarity(own: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[float, float]:
    """Mean and population standard deviation of the cosines to the own centre, over images.

    CemiFace (Sun et al., 2024) finds a middling similarity to train best, so neither end is good.
    NaN where no class has two images.
    """
    found = own[class_sizes(labels)[labels] > 1].astype(np.float64)
    return (float(found.mean()), float(found.std())) if found.size else (float("nan"), float("nan"))
