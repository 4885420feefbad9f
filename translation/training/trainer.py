"""The loop: one run, from its last checkpoint or from the first step, to its end.

Every step is a function of (recipe, images, step): order and crops are drawn from (seed, step), and so is whatever a
method draws. A checkpoint holds no random state, and a killed run that is started again ends with the weights of one
that was not, bit for bit on a CPU with the same number of threads.
"""

import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from d2r_fast.engine.console import Meter, say
from d2r_fast.engine.errors import RunError
from d2r_fast.engine.files import write_atomic
from d2r_fast.engine.write import encode
from d2r_fast.recognition.training.run_folder import CHECKPOINT, RunFolder, read_checkpoint
from d2r_fast.translation.training.average import Average
from d2r_fast.translation.training.config import TransferConfig
from d2r_fast.translation.training.objective import Objective
from d2r_fast.translation.training.pictures import PictureBoard, grid
from d2r_fast.translation.training.seeds import torch_draws
from d2r_fast.translation.training.unpaired import UnpairedLoader

NUM_PICTURES = 4
"""Rows of a grid."""


class Window:
    """Losses since the last line of metrics, summed where they are, so that nobody waits for the device."""

    def __init__(self) -> None:
        self.started_s, self.steps = time.perf_counter(), 0
        self._sums: dict[str, Tensor] = {}

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """One step's."""
        self.steps += 1
        for name, loss in losses.items():
            self._sums[name] = self._sums[name] + loss if name in self._sums else loss

    def means(self) -> dict[str, float]:
        """Means over the steps, from the device in one piece."""
        values = (torch.stack([loss.float() for loss in self._sums.values()]) / self.steps).tolist()
        return dict(zip(self._sums, values, strict=True))


class TransferTrainer:
    """One run.

    Args:
        config: what to do.
        objective: networks and optimisers with their first weights, on the device.
        loader: reads the images of all steps.
        folder: the run's, held.
        board: for TensorBoard; None where it is not asked for.
    """

    def __init__(
        self, config: TransferConfig, objective: Objective, loader: UnpairedLoader, *, folder: RunFolder,
        board: PictureBoard | None,
    ) -> None:  # fmt: skip
        self.config, self.objective, self.loader = config, objective, loader
        self.folder, self.board = folder, board
        self.num_steps = loader.num_steps
        self.step = 0
        self.window = Window()
        generator, decay = objective.modules["generator"], config.average
        self.average = Average(generator, decay) if decay is not None else None

    def result(self) -> AbstractContextManager[None]:
        """While in it, the generator is what comes out of the run."""
        return nullcontext() if self.average is None else self.average.applied()

    def run(self) -> None:
        """Train to the last step.

        Raises:
            RunError: a loss or a weight is not a number, memory or the disk is full, too much is unreadable.
        """
        self._resume()
        try:
            self._train()
        except torch.OutOfMemoryError:
            raise RunError(
                f"a batch of {self.config.batch_size} at {self.config.size} pixels does not fit into the device's "
                "memory: give a smaller batch_size or size"
            ) from None

    def _train(self) -> None:
        self.window = Window()
        with Meter("step", total=self.num_steps, already=self.step, unit="steps") as meter:
            for source, target in self.loader.batches(start=self.step):
                self._step(source, target)
                meter.advance(1, self._note())

    def _step(self, source: Tensor, target: Tensor) -> None:
        self.objective.set_learning_rates(self.step, num_steps=self.num_steps)
        draws = torch_draws(self.config.seed, f"draws of step {self.step}")
        with self._arithmetic():
            self.window.add(self.objective.step(source, target, draws=draws))
        if self.average is not None:
            self.average.update(self.step)
        self.step += 1

    def _arithmetic(self) -> torch.autocast:
        # Without its cache, which would keep the weights of before an update for the rest of a step.
        return torch.autocast(
            self.loader.device.type,
            dtype=torch.bfloat16,
            enabled=self.config.precision == "bf16",
            cache_enabled=False,
        )

    def _note(self) -> str:
        """Log, show and save where it is time to; returns what a person looks at."""
        ends = self.step == self.num_steps
        saves = ends or self.step % self.config.checkpoint_every == 0
        note = ""
        if saves or self.step % self.config.log_every == 0:
            note = self._log()
        if ends or self.step % self.config.pictures_every == 0:
            self._show()
        if saves:
            self._save()
        return note

    def _log(self) -> str:
        window, self.window = self.window, Window()
        losses = window.means()
        self._check_finite(losses)
        seconds = time.perf_counter() - window.started_s
        rates = {name: each.param_groups[0]["lr"] for name, each in self.objective.optimisers.items()}
        values = {"steps_per_s": round(window.steps / seconds, 3), "unreadable": len(self.loader.faults)}
        self._write({"step": self.step, "loss": losses, "learning_rate": rates, **values})
        return ", ".join(f"{name} {loss:.3g}" for name, loss in losses.items())

    def _write(self, values: dict[str, Any]) -> None:
        self.folder.log(**values)
        if self.board is not None:
            self.board.add(values)

    def _check_finite(self, losses: Mapping[str, float]) -> None:
        """See that losses and weights are numbers.

        Raises:
            RunError: one is not.
        """
        wrong = [f"loss {name}" for name, loss in losses.items() if not math.isfinite(loss)]
        for name, module in self.objective.modules.items():
            tensors = [tensor for tensor in module.parameters() if tensor.is_floating_point()]
            if tensors and not math.isfinite(float(torch.nn.utils.get_total_norm(tensors, math.inf))):
                wrong.append(f"a weight of the {name}")
        if wrong:
            saved = self.folder.checkpoint
            kept = f"the last good checkpoint is {saved}" if saved.exists() else "there is no checkpoint yet"
            raise RunError(
                f"{wrong[0]} is not a number at step {self.step}: {kept}; give another folder and a lower "
                "learning_rate or precision fp32"
            )

    def _show(self) -> None:
        source, target = self.loader.examples(NUM_PICTURES)
        draws = torch_draws(self.config.seed, "draws of pictures")
        with self._arithmetic(), self.result():
            translated = self.objective.translate(source, draws=draws)
        pixels = grid([source, translated.float(), target])
        write_atomic(self.folder.folder / f"grid-{self.step:07d}.png", encode(pixels, "png", quality=100))
        if self.board is not None:
            self.board.add_picture("source, translated, target", pixels, step=self.step)

    def _save(self) -> None:
        state = {"objective": self.objective.state_dict(), "step": self.step, "faults": self.loader.faults}
        if self.average is not None:
            state["average"] = self.average.state_dict()
        self.folder.save(state)

    def _resume(self) -> None:
        """Go to where the last checkpoint is.

        Raises:
            RunError: it is damaged.
        """
        state = read_checkpoint(self.folder.folder / CHECKPOINT)
        if state is not None:
            self.objective.load_state_dict(state["objective"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            self.step, self.loader.faults = state["step"], dict(state["faults"])
            say(f"going on from step {self.step}")
        self.folder.begin(self.step)
        if self.board is not None:
            self.board.begin(self.step)
