"""Verification accuracy between epochs, and the network of the best one."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import nn

from d2r_fast.engine.decode import DecodeError
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import sha256_file
from d2r_fast.recognition.backbone_config import BackboneConfig
from d2r_fast.recognition.embedder import TorchEmbedder
from d2r_fast.recognition.evaluation.bin_file import read_bin
from d2r_fast.recognition.evaluation.pairs import Pairs, pairs_of_bin, verify_pairs
from d2r_fast.recognition.evaluation.published import FIVE
from d2r_fast.recognition.network_file import LoadedNetwork, save_network

MIN_PAIRS = 10


class Validation:
    """Verification sets of a folder: AdaFace's five where they are, else every NAME.bin there.

    Attributes:
        digests: SHA-256 of each set's file, by its name.

    Raises:
        UserError: the folder holds no verification set, or a file of another kind.
    """

    def __init__(self, benchmarks: Path, network: BackboneConfig, *, device: str, best: Path) -> None:
        five = [benchmarks / f"{name}.bin" for name in FIVE if (benchmarks / f"{name}.bin").is_file()]
        paths = five or sorted(benchmarks.glob("*.bin"))
        if not paths:
            raise UserError(
                f"benchmarks {benchmarks} holds no .bin file: give a folder with lfw.bin and others"
            )
        self.digests = {path.stem: sha256_file(path) for path in paths}
        self._sets = {path.stem: pairs_of_bin(read_bin(path), source=str(path)) for path in paths}
        self._paths = {path.stem: path for path in paths}
        self._network, self._device, self._best = network, device, best

    def check(self) -> None:
        """See that every set can be measured: enough pairs, of both kinds, every image readable.

        Raises:
            UserError: one cannot.
        """
        for name, pairs in self._sets.items():
            _check(pairs, self._paths[name])

    def measure(self, backbone: nn.Module) -> dict[str, float]:
        """10-fold accuracy by set, with flips; the backbone is left in training mode."""
        embedder = TorchEmbedder(LoadedNetwork(backbone, self._network, "training"), device=self._device)
        try:
            found = {name: verify_pairs(pairs, embedder, suite=name) for name, pairs in self._sets.items()}
        finally:
            backbone.train()
        return {name: result.accuracy for name, result in found.items() if result.accuracy is not None}

    def keep(self, backbone: nn.Module, *, about: Mapping[str, Any]) -> None:
        """Put the network in place of the best so far."""
        self._best.mkdir(exist_ok=True)
        save_network(self._best, backbone, self._network, about=about)


def _check(pairs: Pairs, path: Path) -> None:
    if len(pairs.same) < MIN_PAIRS or pairs.same.all() or not pairs.same.any():
        raise UserError(
            f"{path} has {len(pairs.same)} pairs, {int(pairs.same.sum())} of one person: ten folds need {MIN_PAIRS} "
            "pairs, of both kinds"
        )

    def fault(index: int) -> str | None:
        try:
            pairs.crops.read(index)
        except DecodeError as error:
            return f"{pairs.crops.name(index)}: {error}"
        return None

    with ThreadPoolExecutor() as pool:
        faults = [found for found in pool.map(fault, range(len(pairs.crops))) if found]
    if faults:
        raise UserError(f"{path}: {len(faults)} images cannot be read ({faults[0]}): get the file again")
