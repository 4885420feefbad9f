"""Realism: how far the images are from real photographs, by FID and KID through torch-fidelity.

torch-fidelity and its Inception weights are not part of this package and nothing is downloaded: who asks for
realism without them is told what to install or fetch.
"""

import importlib
import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import sha256_file
from d2r_fast.recognition.quality.crops import ChosenCrops, Unusable, choose_any, read_crops
from d2r_fast.recognition.training.training_set import TrainingSet

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
PUBLISHED = "6726825d"
"""First digits of the sha256 of the weights that published figures rest on."""
KID_SUBSET = 1000
# What torch.load raises on bytes that are no checkpoint, or one that holds more than tensors.
_DAMAGED = (
    AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError,
    pickle.UnpicklingError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Realism:
    """FID and KID of a dataset against real photographs, and what they rest on."""

    fid: float
    kid: float
    kid_std: float
    num_images: int
    num_real: int
    inception_sha256: str
    unusable: tuple[Unusable, ...]

    @property
    def published_weights(self) -> bool:
        """Whether the figures may be compared with published ones."""
        return self.inception_sha256.startswith(PUBLISHED)


class Crops(torch.utils.data.Dataset[torch.Tensor]):
    """Crops uint8 (N,H,W,3) as torch-fidelity reads a dataset: uint8 (3,H,W) each."""

    def __init__(self, crops: NDArray[np.uint8]):
        self._crops = torch.from_numpy(crops).permute(0, 3, 1, 2)

    def __len__(self) -> int:
        return len(self._crops)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._crops[index].contiguous()

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[index] for index in range(len(self)))


def import_fidelity() -> Any:
    """The module torch_fidelity.

    Raises:
        UserError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module("torch_fidelity")
    except ImportError as error:
        raise UserError(
            f"FID and KID need torch-fidelity ({error}): pip install 'd2r-fast[realism]', or leave --real out"
        ) from None
    except (RuntimeError, OSError) as error:  # torchvision built for another torch
        reason = str(error).splitlines()[0]
        raise UserError(
            f"torch-fidelity cannot be imported ({reason}): install the torchvision that goes with this torch"
        ) from None


def find_inception(given: Path | None) -> Path:
    """The file of Inception weights: the given one, or where torch-fidelity keeps its download.

    Raises:
        UserError: it is not there, or is no file of tensors.
    """
    path = given or Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
    if not path.is_file():
        raise UserError(
            f"{path} is missing: fetch {INCEPTION} from the releases of torch-fidelity and give it as --inception, "
            "or leave --real out"
        )
    try:
        torch.load(
            path, map_location="cpu", weights_only=True
        )  # torch-fidelity would unpickle whatever it holds
    except _DAMAGED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} holds no weights of Inception ({reason}): fetch {INCEPTION} again") from None
    return path


def measure_realism(
    images: TrainingSet, real: TrainingSet, *, inception: Path, max_images: int, batch_size: int, device: str,
    seed: int, already: Iterable[Unusable] = (), max_unreadable: int = 0,
) -> Realism:  # fmt: skip
    """Compare at most `max_images` images of each side, crops of 112x112.

    FID: Heusel et al., NeurIPS 2017. KID: Binkowski et al., ICLR 2018, over 100 subsets of 1,000 images, or of
    all of the smaller side. FID is biased upward for few images: compare sets of like size. Images that cannot be
    read are left out; `already` are those of `images` that are known to be unusable.

    Raises:
        UserError: no torch-fidelity, fewer than two images of a side can be used, or more than `max_unreadable` images
            of both together cannot.
        RunError: torch-fidelity fails.
    """
    fidelity = import_fidelity()
    ours, theirs = (ChosenCrops(side, choose_any(side, num=max_images, seed=seed)) for side in (images, real))
    fake, photographs = _read(ours), _read(theirs)
    _check_lost((*dict.fromkeys((*already, *ours.unusable)), *theirs.unusable), real.name, max_unreadable)
    try:
        found = fidelity.calculate_metrics(
            input1=Crops(fake), input2=Crops(photographs), cuda=device != "cpu", batch_size=batch_size, fid=True,
            kid=True, feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(inception),
            kid_subset_size=min(KID_SUBSET, len(fake), len(photographs)), rng_seed=seed % 2**32, cache=False,
            save_cpu_ram=True, verbose=False,
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        raise RunError(f"torch-fidelity failed: {str(error).splitlines()[0]}") from error
    return Realism(
        fid=float(found["frechet_inception_distance"]),
        kid=float(found["kernel_inception_distance_mean"]),
        kid_std=float(found["kernel_inception_distance_std"]),
        num_images=len(fake), num_real=len(photographs), inception_sha256=sha256_file(inception),
        unusable=(*ours.unusable, *theirs.unusable),
    )  # fmt: skip


def _check_lost(lost: Sequence[Unusable], real: str, limit: int) -> None:
    if len(lost) > limit:
        raise UserError(
            f"{len(lost):,} images of dataset and {real} cannot be used and {limit} may be left out (the last is "
            f"{lost[-1].key}, {lost[-1].reason}): get them again, or raise --max-unreadable"
        )


def _read(crops: ChosenCrops) -> NDArray[np.uint8]:
    found = read_crops(crops)
    if len(found) < 2:
        first = crops.unusable[:1]
        raise UserError(
            f"{crops.images.name}: {len(found)} of {len(crops)} images can be compared, FID takes 2 at least"
            + "".join(f"; first {one.key} ({one.reason})" for one in first)
        )
    return found
