"""What a training run is (`TrainConfig`), and the recipes that are published, as frozen, typed values.

`TrainRecipe` decides which weights come out, so it is written into the run folder, and a run that resumes must
carry the same one. The rest may change between one start of a run and the next.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from tyro.conf import FlagCreatePairsOff

from d2r_fast.engine.config import Frozen, ReaderName
from d2r_fast.recognition.backbone_config import Layout, NetworkName
from d2r_fast.recognition.training.augment_config import AugmentSet

Head = Literal["adaface", "arcface", "cosface"]
Schedule = Literal["cosine", "steps", "polynomial"]
Sampling = Literal["plain", "balanced"]
RecipeName = Literal["digi2real", "syn2auth", "adaface", "arcface"]


class TrainRecipe(Frozen):
    """Everything that decides which network comes out of given images."""

    real_identities: Annotated[int, Field(ge=1)] | None = None
    """Identities to take of --real (Digi2Real Table 8). Default: all."""
    identities: Annotated[int, Field(ge=1)] | None = None
    """Identities to take of --data. Default: all."""
    identities_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Draws these identities, the same for all --seeds; more of one draw contain fewer."""
    backbone: NetworkName = "ir_50"
    """Residual network; both papers train ir_50."""
    layout: Layout = "insightface"
    """Whose IResNet: InsightFace's and AdaFace's differ in their shortcuts and tails, and do not share weights."""
    width: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the channels to keep; 0.5 for small experiments."""
    embedding_dim: Annotated[int, Field(ge=2, le=4096)] = 512
    """Length of an embedding."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Before the last linear layer. Default: the layout's own, 0 for insightface and 0.4 for adaface."""
    head: Head = "adaface"
    """Margin loss."""
    margin: Annotated[float, Field(ge=0, lt=1.5)] | None = None
    """Margin m. Default: the loss's own, 0.4 for AdaFace and CosFace, 0.5 for ArcFace."""
    scale: Annotated[float, Field(gt=0)] = 64.0
    """Scale s of the logits."""
    h: Annotated[float, Field(ge=0)] = 0.333
    """AdaFace: concentration of the image-quality term. The paper's value; its code's default is 0."""
    t_alpha: Annotated[float, Field(gt=0, le=1)] = 0.01
    """AdaFace: weight of a new batch in the running mean and deviation of the norms."""
    epochs: Annotated[int, Field(ge=1)] = 30
    """Times that the data is gone through."""
    batch_size: Annotated[int, Field(ge=2)] = 256
    """Images of one step, all processes together."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    """Of SGD, at its highest."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of SGD."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """Of SGD."""
    decay_norms: bool = False
    """Decay the parameters of batch norms too; AdaFace does not, InsightFace does."""
    schedule: Schedule = "cosine"
    """cosine: to 0 over all steps; steps: times --gamma at each of --milestones; polynomial: straight to 0."""
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = (12, 20, 24)
    """Epochs after which the learning rate falls, for --schedule steps."""
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Factor by which it falls, for --schedule steps."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs over which the learning rate rises from 0."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest L2 norm of the backbone's gradient; a longer one is shortened. Default: no limit."""
    sampling: Sampling = "plain"
    """plain: every image once an epoch; balanced: every identity equally often."""
    augment: AugmentSet = "adaface"
    """none; flip; adaface: its crop, low resolution and photometric changes, and flip; digiface: that paper's set."""
    augment_probability: Annotated[float, Field(ge=0, le=1)] | None = None
    """Of each of AdaFace's three changes, on their own. Default: its scripts' 0.2."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the backbone; the loss is computed in float32. auto: bf16 on CUDA that has it, else fp32."""
    sync_batch_norm: bool = True
    """Batch statistics over all processes, so that their number does not matter. Off is faster over a network."""
    init: Path | None = None
    """Network to start from: a run folder, or a published checkpoint of the same shape. Default: random weights."""
    early_stop: Annotated[int, Field(ge=1)] | None = None
    """End after so many epochs without a better mean accuracy on --benchmarks. Default: go on to the last epoch."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides weights, order and augmentation."""

    @model_validator(mode="after")
    def _consistent(self) -> "TrainRecipe":
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones {self.milestones}: give rising epochs")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} of {self.epochs} epochs: give fewer")
        if self.augment_probability is not None and self.augment != "adaface":
            raise ValueError(
                f"augment_probability goes with augment adaface, not with {self.augment}: leave it out"
            )
        return self


class TrainConfig(TrainRecipe):
    """A recipe, its data, its place, and how this machine is to run it."""

    data: Path
    """Images to train on: a dataset, <identity>/<image> as folder, .zip, .tar or .parquet, or train.rec and .idx."""
    out: Path
    """Run folder. A stopped run with the same recipe goes on where it was."""
    real: Path | None = None
    """Real images to mix in, in any of these forms; their identities count as others."""
    benchmarks: Path | None = None
    """Folder of verification sets to measure after every epoch; the network of the best mean is kept. Of lfw, cfp_fp,
    cplfw, calfw and agedb_30 those that are there, as AdaFace does; without any of them every NAME.bin."""
    seeds: Annotated[int, Field(ge=1, le=100)] = 1
    """Runs, with seeds from --seed on, each in OUT/seed-N; mean and standard deviation are reported."""
    device: str = "auto"
    """auto (cuda where there is one, else cpu), cpu, cuda, or cuda:N. Under torchrun: each process's own."""
    num_threads: Annotated[int, Field(ge=1)] | None = None
    """Threads that decode images. Default: one for every processor."""
    reader: ReaderName = "auto"
    """Who decodes: plain (Pillow) or dali (NVIDIA DALI; on CUDA JPEG is decoded there, with other rounding). auto is
    plain everywhere: results must not depend on what is installed. On a CPU the networks set the pace."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 1000
    """Steps between checkpoints; there is one at the end of every epoch besides."""
    max_unreadable: Annotated[int, Field(ge=0)] = 100
    """Unreadable images to leave out before the run stops."""
    onnx: bool = True
    """Write the network that comes out as OUT/recogniser.onnx too, for --recogniser of the other commands."""
    compile: FlagCreatePairsOff[bool] = False
    """Compile the backbone with torch.compile."""
    tensorboard: FlagCreatePairsOff[bool] = False
    """Write TensorBoard events to OUT/tensorboard besides metrics.jsonl."""

    @model_validator(mode="after")
    def _complete(self) -> "TrainConfig":
        if self.real_identities is not None and self.real is None:
            raise ValueError(f"real_identities {self.real_identities} without real: give --real too")
        if self.early_stop is not None and self.benchmarks is None:
            raise ValueError(
                f"early_stop {self.early_stop} needs accuracies: give --benchmarks, a folder with lfw.bin and others"
            )
        return self

    def recipe_values(self) -> dict[str, Any]:
        """The recipe as JSON can hold it."""
        return self.model_dump(mode="json", include=set(TrainRecipe.model_fields))


def digi2real() -> dict[str, Any]:
    """Digi2Real: IResNet50, AdaFace at its defaults, 30 epochs, batch 256, cosine.

    The paper names neither optimiser nor augmentation; AdaFace's are taken: SGD 0.1, momentum 0.9, weight decay
    5e-4 but on batch norms, crop, low resolution and photometric changes at 0.2 each.
    """
    return {"backbone": "ir_50", "layout": "insightface", "head": "adaface", "epochs": 30, "batch_size": 256,
            "schedule": "cosine", "augment": "adaface"}  # fmt: skip


def adaface() -> dict[str, Any]:
    """AdaFace's published script for IR-50: 26 epochs, batch 512, a tenth at epochs 12, 20 and 24."""
    return {"backbone": "ir_50", "layout": "adaface", "head": "adaface", "epochs": 26, "batch_size": 512,
            "schedule": "steps", "milestones": (12, 20, 24), "augment": "adaface"}  # fmt: skip


def syn2auth() -> dict[str, Any]:
    """Syn2Auth: ArcFace's ResNet50, AdaFace, early stopping.

    The paper says no more. AdaFace's schedule is taken, and its rule for the best network: the mean of five sets
    (give --benchmarks), given up after 5 epochs without a better one. Its tables are means of 2 to 4 runs: --seeds.
    """
    return adaface() | {"layout": "insightface", "early_stop": 5}


def arcface() -> dict[str, Any]:
    """InsightFace's arcface_torch on one GPU: ArcFace 0.5, 20 epochs, batch 128, straight to 0, clipped at 5."""
    return {"backbone": "ir_50", "layout": "insightface", "head": "arcface", "epochs": 20, "batch_size": 128,
            "schedule": "polynomial", "decay_norms": True, "clip_norm": 5.0, "augment": "flip"}  # fmt: skip


RECIPES = {"digi2real": digi2real, "syn2auth": syn2auth, "adaface": adaface, "arcface": arcface}
