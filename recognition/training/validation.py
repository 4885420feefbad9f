"""Verification accuracy between epochs, and the network of the best one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.backbone_config import BackboneConfig
from d2r_fast.recognition.embedder import TorchEmbedder
from d2r_fast.recognition.evaluation.bin_file import read_bin
from d2r_fast.recognition.evaluation.pairs import pairs_of_bin, verify_pairs
from d2r_fast.recognition.network_file import LoadedNetwork, save_network
from d2r_fast.recognition.training.config import FIVE_SETS


class Validation:
    """Verification sets of a folder: AdaFace's five where they are, else every NAME.bin there.

    Raises:
        UserError: the folder holds no verification set, or one is damaged.
    """

    def __init__(
        self, benchmarks: Path, network: BackboneConfig, *, device: str, best: Path, about: Mapping[str, Any]
    ) -> None:
        five = [benchmarks / f"{name}.bin" for name in FIVE_SETS if (benchmarks / f"{name}.bin").is_file()]
        paths = five or sorted(benchmarks.glob("*.bin"))
        if not paths:
            raise UserError(
                f"benchmarks {benchmarks} holds no .bin file: give a folder with lfw.bin and others"
            )
        self._sets = {path.stem: pairs_of_bin(read_bin(path), source=str(path)) for path in paths}
        self._network, self._device, self._best, self._about = network, device, best, about

    def measure(self, backbone: nn.Module) -> dict[str, float]:
        """10-fold accuracy by set, with flips; the backbone is left in training mode."""
        embedder = TorchEmbedder(LoadedNetwork(backbone, self._network, "training"), device=self._device)
        try:
            found = {name: verify_pairs(pairs, embedder, suite=name) for name, pairs in self._sets.items()}
        finally:
            backbone.train()
        return {name: result.accuracy for name, result in found.items() if result.accuracy is not None}

    def keep(self, backbone: nn.Module, *, epoch: int, accuracy: float) -> None:
        """Put the network in place of the best so far."""
        self._best.mkdir(exist_ok=True)
        save_network(
            self._best, backbone, self._network, about={**self._about, "epoch": epoch, "accuracy": accuracy}
        )
