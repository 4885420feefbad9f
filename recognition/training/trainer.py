"""The training loop: one run, from its last checkpoint or from the first step, to its end.

Every step is a function of (recipe, data, step): order and augmentation are drawn from (seed, epoch, image), dropout
from (seed, step, process). So a checkpoint holds no random state, and a killed run that is started again ends with the
weights of one that was not, bit for bit on a CPU with the same number of threads.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from d2r_fast.engine.console import Meter, say
from d2r_fast.engine.errors import RunError
from d2r_fast.recognition.training.classifier import Classifier
from d2r_fast.recognition.training.config import TrainConfig
from d2r_fast.recognition.training.desk import Desk
from d2r_fast.recognition.training.distributed import Processes
from d2r_fast.recognition.training.loader import Loader
from d2r_fast.recognition.training.optimiser import build_optimiser, learning_rate, set_learning_rate
from d2r_fast.recognition.training.run_folder import CHECKPOINT, read_checkpoint
from d2r_fast.recognition.training.sampler import epoch_order
from d2r_fast.recognition.training.training_set import TrainingSet

LOG_EVERY = 20
"""Steps between lines of metrics; the loss is looked at then, and only then waits for the device."""


@dataclass
class Place:
    """How far a run is: the next step, and the best epoch so far."""

    step: int = 0
    best_epoch: int = -1
    best_accuracy: float = -1.0


@dataclass
class Window:
    """What happened since the last line of metrics, kept on the device."""

    loss: Tensor
    norm: Tensor
    images: Tensor
    """Sums: of the losses and of the norms of this process's images, and of the images of all."""
    started_s: float = field(default_factory=time.perf_counter)

    @classmethod
    def empty(cls, device: torch.device) -> "Window":
        zeros = [torch.zeros((), device=device) for _ in range(3)]
        return cls(zeros[0], zeros[1], zeros[2])


class Trainer:
    """One run of one seed.

    Args:
        config: what to do.
        classifier: backbone and head, on the device, with their first weights.
        data: images and labels, checked.
        loader: reads and augments them.
        processes: this one among those of the run.
        desk: folder, benchmarks and board of the run, on the process that leads; None on the others.
    """

    def __init__(
        self, config: TrainConfig, classifier: Classifier, data: TrainingSet, loader: Loader, *,
        processes: Processes, desk: Desk | None,
    ) -> None:  # fmt: skip
        self.config, self.classifier, self.loader = config, classifier, loader
        self.data, self.processes = data, processes
        self.desk = desk
        self.model = _distribute(classifier, processes)
        self.optimiser = build_optimiser(classifier, config)
        self.place = Place()
        self.loss, self.accuracy = math.nan, math.nan
        self.window = Window.empty(processes.device)
        self.steps_per_epoch = len(order_of(config, data, processes, epoch=0))

    def run(self) -> None:
        """Train to the end of the last epoch, or to where --early-stop gives up.

        Raises:
            RunError: the loss or a weight is not a number, memory or the disk is full, too much is unreadable.
        """
        self._resume()
        self.classifier.train()
        while self.place.step < self.config.epochs * self.steps_per_epoch and not self._gives_up():
            try:
                self._train_epoch()
            except torch.OutOfMemoryError:
                raise RunError(
                    f"a batch of {self.config.batch_size} images does not fit into the device's memory: give a "
                    "smaller --batch-size, or more processes"
                ) from None
            self._end_epoch()
            self._say_epoch()

    def _train_epoch(self) -> None:
        self.window = Window.empty(self.processes.device)
        epoch, start = divmod(self.place.step, self.steps_per_epoch)
        task = f"epoch {epoch + 1} of {self.config.epochs}, step"
        with Meter(
            task, total=self.steps_per_epoch, already=start, unit="steps", silent=self.desk is None
        ) as meter:
            for images, labels in self._batches():
                self._step(images, labels)
                self._note(meter)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, start = divmod(self.place.step, self.steps_per_epoch)
        order = order_of(self.config, self.data, self.processes, epoch=epoch)
        return self.loader.epoch(order, seed=self.config.seed, epoch=epoch, start_batch=start)

    def _step(self, images: Tensor, labels: Tensor) -> None:
        torch.manual_seed(self._dropout_seed())
        set_learning_rate(self.optimiser, learning_rate(self.config, self.place.step, self.steps_per_epoch))
        loss, norms = self.model(images, labels)
        num_images = self.processes.total(torch.full((), float(len(images)), device=images.device))
        # DDP takes the mean of the processes' gradients; this makes it that of the loss of the whole batch.
        (loss * (self.processes.count / num_images)).backward()
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.classifier.backbone.parameters(), self.config.clip_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.window.loss += loss.detach()
        self.window.norm += norms
        self.window.images += num_images
        self.place.step += 1

    def _dropout_seed(self) -> int:
        return (
            self.config.seed * 0x9E3779B97F4A7C15 + self.place.step * 65_537 + self.processes.rank
        ) % 2**63

    def _note(self, meter: Meter) -> None:
        """Log and save where it is time to."""
        ends_epoch = self.place.step % self.steps_per_epoch == 0
        saves = self.place.step % self.config.checkpoint_every == 0
        note = ""
        if self.place.step % LOG_EVERY == 0 or ends_epoch or saves:
            note = self._log()
        if saves and not ends_epoch:
            self._check_finite()
            self._save()
        meter.advance(1, note)

    def _log(self) -> str:
        """Write a line of metrics; returns what of it a person looks at.

        Raises:
            RunError: the loss is not finite.
        """
        window, self.window = self.window, Window.empty(self.processes.device)
        loss, norm = (self.processes.total(torch.stack([window.loss, window.norm])) / window.images).tolist()
        seconds = time.perf_counter() - window.started_s
        if not math.isfinite(loss):
            self._stop_at_nan("the loss")
        self.loss = loss
        self._share_faults()
        self._write(
            step=self.place.step, epoch=(self.place.step - 1) // self.steps_per_epoch, loss=loss,
            learning_rate=self.optimiser.param_groups[0]["lr"], norm=norm,
            images_per_s=round(float(window.images) / seconds, 2), unreadable=len(self.loader.faults),
        )  # fmt: skip
        return f"loss {loss:.4g}"

    def _write(self, **values: Any) -> None:
        """A line of metrics, by the leader."""
        self.processes.lead(lambda: self._the_desk.write(values))

    @property
    def _the_desk(self) -> Desk:
        """The leader's; only what `lead` runs may ask for it."""
        assert self.desk is not None
        return self.desk

    def _share_faults(self) -> None:
        """Tell one another which images cannot be read; every process sees others, and others in every epoch.

        Raises:
            RunError: they are more than allowed.
        """
        for faults in self.processes.gather(dict(self.loader.faults)):
            self.loader.faults |= faults
        self.loader.faults = dict(sorted(self.loader.faults.items()))
        if len(self.loader.faults) > self.config.max_unreadable:
            self._stop(self.loader.verdict())

    def _stop(self, why: str) -> NoReturn:
        """End the run on all processes; one speaks."""
        if not self.processes.leads:
            raise SystemExit(1)
        raise RunError(why)

    def _stop_at_nan(self, what: str) -> NoReturn:
        saved = self.config.out / CHECKPOINT
        kept = f"the last good checkpoint is {saved}" if saved.exists() else "there is no checkpoint yet"
        self._stop(
            f"{what} is not a number at step {self.place.step}: {kept}; give another folder and a lower "
            "--learning-rate, --warmup-epochs, --clip-norm or --precision fp32"
        )

    def _end_epoch(self) -> None:
        self._check_finite()
        if self.config.benchmarks is not None:
            epoch = self.place.step // self.steps_per_epoch - 1
            self.processes.lead(lambda: self._validate(epoch))
            self.place.best_epoch = self.processes.tell(self.place.best_epoch)
        self._save()

    def _say_epoch(self) -> None:
        """A line for the log of a run that nobody watches."""
        if self.desk is None:
            return
        epoch = self.place.step // self.steps_per_epoch
        measured = "" if math.isnan(self.accuracy) else f", accuracy {100 * self.accuracy:.2f} %"
        say(f"epoch {epoch} of {self.config.epochs}: loss {self.loss:.4g}{measured}")

    def _validate(self, epoch: int) -> None:
        """Measure the network, and keep it where it is the best so far; the leader does."""
        desk = self._the_desk
        assert desk.validation is not None
        try:
            accuracies = desk.validation.measure(self.classifier.backbone)
        except RunError:  # weights that are numbers still, but too large to compute with
            self._stop_at_nan("an embedding")
        mean = sum(accuracies.values()) / len(accuracies)
        desk.write({"step": self.place.step, "epoch": epoch, "accuracy": mean, "accuracies": accuracies})
        self.accuracy = mean
        if mean <= self.place.best_accuracy:
            return
        about = {**desk.about, "steps": self.place.step, "epoch": epoch, "accuracy": mean}
        desk.validation.keep(self.classifier.backbone, about=about)
        self.place.best_accuracy, self.place.best_epoch = mean, epoch

    def _gives_up(self) -> bool:
        epoch = self.place.step // self.steps_per_epoch - 1
        patience = self.config.early_stop
        return patience is not None and epoch - self.place.best_epoch >= patience

    def _save(self) -> None:
        """Replace the checkpoint, by the leader."""
        state = {"weights": self.classifier.state_dict(), "optimiser": self.optimiser.state_dict(),
                 "step": self.place.step, "best_epoch": self.place.best_epoch,
                 "best_accuracy": self.place.best_accuracy, "faults": self.loader.faults}  # fmt: skip
        self.processes.lead(lambda: self._the_desk.folder.save(state))

    def _check_finite(self) -> None:
        """See that weights, statistics and momenta are numbers, which the loss would show one step later only.

        Raises:
            RunError: one is not, on any process.
        """
        momenta = [value for state in self.optimiser.state.values() for value in state.values()]
        tensors = [*self.classifier.state_dict().values(), *momenta]
        floating = [tensor for tensor in tensors if isinstance(tensor, Tensor) and tensor.is_floating_point()]
        largest = nn.utils.get_total_norm(floating, norm_type=math.inf)
        if float(self.processes.total((~torch.isfinite(largest)).float())):
            self._stop_at_nan("a weight")

    def _resume(self) -> None:
        """Go to where the last checkpoint is; every process reads it.

        Raises:
            RunError: it is damaged, or the processes find different ones.
        """
        state = self.processes.each(lambda: read_checkpoint(self.config.out / CHECKPOINT))
        if state is not None:
            self.classifier.load_state_dict(state["weights"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.place = Place(state["step"], state["best_epoch"], state["best_accuracy"])
            self.loader.faults = dict(state["faults"])
        if self.processes.tell(self.place.step) != self.place.step:
            raise RunError(
                f"{self.config.out} holds another checkpoint here than where the leading process runs: give a folder "
                "that all machines share"
            )
        self.processes.lead(lambda: self._the_desk.begin(self.place.step))


def order_of(
    config: TrainConfig, data: TrainingSet, processes: Processes, *, epoch: int
) -> NDArray[np.int64]:
    """Images of every step of an epoch that are this process's: (steps, images of a step).

    Raises:
        UserError: there are fewer images than a batch takes.
    """
    return epoch_order(
        data, sampling=config.sampling, seed=config.seed, epoch=epoch, num_ranks=processes.count,
        rank=processes.rank, batch_size=config.batch_size // processes.count,
    )  # fmt: skip


def _distribute(classifier: Classifier, processes: Processes) -> nn.Module:
    if processes.group is None:
        return classifier
    devices = [processes.device] if processes.device.type == "cuda" else None
    return DistributedDataParallel(classifier, device_ids=devices, process_group=processes.group)
