"""What a run is made of: its data, its network with first weights, its loader."""

import os
from typing import Any, Literal

import torch
from torch import nn

from d2r_fast.engine.device import has_bf16_units
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.readers.reader import open_reader
from d2r_fast.recognition.backbone import MIN_CHANNELS_LAST, build_backbone, lay_out
from d2r_fast.recognition.backbone_config import WIDTHS, BackboneConfig
from d2r_fast.recognition.heads import build_head
from d2r_fast.recognition.network_file import LoadedNetwork, load_network
from d2r_fast.recognition.training.augment_config import AugmentConfig
from d2r_fast.recognition.training.classifier import Classifier
from d2r_fast.recognition.training.config import TrainConfig
from d2r_fast.recognition.training.distributed import Processes
from d2r_fast.recognition.training.loader import Loader
from d2r_fast.recognition.training.sync_norm import synchronise
from d2r_fast.recognition.training.training_set import TrainingSet, mix, open_training_set

Arithmetic = Literal["fp32", "bf16"]


def open_data(config: TrainConfig) -> TrainingSet:
    """The images to train on; real ones mixed in where there are any.

    Raises:
        UserError: a folder cannot be used, or has fewer identities than are wanted.
    """
    drawn_by = config.identities_seed
    data = open_training_set(config.data, num_identities=config.identities, seed=drawn_by)
    if config.real is None:
        return data
    return mix(data, open_training_set(config.real, num_identities=config.real_identities, seed=drawn_by))


def network_of(config: TrainConfig) -> BackboneConfig:
    """The network that is trained, nothing of it left open."""
    return BackboneConfig(
        name=config.backbone, layout=config.layout, width=config.width, embedding_dim=config.embedding_dim,
        dropout=config.dropout,
    ).resolved()  # fmt: skip


def arithmetic_of(config: TrainConfig, device: torch.device) -> Arithmetic:
    """What the backbone computes in on this device.

    Raises:
        UserError: bf16 on a card that only emulates it.
    """
    on_cuda = device.type == "cuda"
    native = on_cuda and has_bf16_units(device)
    if config.precision == "bf16" and on_cuda and not native:
        raise UserError(
            f"precision bf16: {torch.cuda.get_device_name(device)} has no units for it, give fp32"
        )
    if config.precision == "auto":
        return "bf16" if native else "fp32"
    return config.precision


def check_compilable(config: TrainConfig, network: BackboneConfig, device: torch.device) -> None:
    """See that --compile is not asked of what crashes there: inductor lays channels last (see lay_out).

    Raises:
        UserError: it is.
    """
    if config.compile and device.type == "cpu" and network.widths[0] < MIN_CHANNELS_LAST:
        raise UserError(
            f"compile with width {config.width:g} on a CPU crashes torch: give a width of "
            f"{MIN_CHANNELS_LAST / WIDTHS[0]:g} or more, or leave --compile out"
        )


def load_init(config: TrainConfig, network: BackboneConfig) -> LoadedNetwork | None:
    """The network of --init; None where there is none.

    Raises:
        UserError: it is another network than the one to train.
    """
    if config.init is None:
        return None
    loaded = load_network(config.init)
    found, wanted = loaded.config.resolved(), network.resolved()
    keys = ("name", "layout", "width", "embedding_dim", "channels")
    differing = [key for key in keys if getattr(found, key) != getattr(wanted, key)]
    if differing:
        other = ", ".join(f"{key} {getattr(found, key)}" for key in differing)
        raise UserError(f"init {config.init} is another network, of {other}: give a recipe that fits it")
    return loaded


def build_classifier(
    config: TrainConfig, network: BackboneConfig, init: LoadedNetwork | None, *, num_classes: int,
    arithmetic: Arithmetic, processes: Processes,
) -> Classifier:  # fmt: skip
    """Backbone and head on the device, with their first weights: those of `init`, or random ones of the seed."""
    backbone = build_backbone(network, seed=config.seed)
    if init is not None:
        backbone.load_state_dict(init.module.state_dict())
    head = build_head(
        config.head, embedding_dim=config.embedding_dim, num_classes=num_classes, seed=config.seed,
        margin=config.margin, scale=config.scale, h=config.h, t_alpha=config.t_alpha, group=processes.group,
    )  # fmt: skip
    backbone = lay_out(backbone, network, str(processes.device))
    if config.sync_batch_norm:
        backbone = synchronise(backbone, processes)
    if config.compile:
        backbone.compile()
    dtype = torch.bfloat16 if arithmetic == "bf16" else torch.float32
    classifier: nn.Module = Classifier(backbone, head, dtype=dtype).to(processes.device)
    assert isinstance(classifier, Classifier)
    return classifier


def open_loader(
    config: TrainConfig, data: TrainingSet, network: BackboneConfig, processes: Processes
) -> Loader:
    """Reads and augments the images; the processes of a machine share its processors."""
    chance = config.augment_probability
    chances: dict[str, Any] = (
        {} if chance is None else {"crop": chance, "low_res": chance, "photometric": chance}
    )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    num_threads = config.num_threads or max(1, len(os.sched_getaffinity(0)) // here)
    return Loader(
        data, device=processes.device, channels=network.channel_order,
        augment=AugmentConfig(set=config.augment, **chances), max_unreadable=config.max_unreadable,
        num_threads=num_threads,
        reader=open_reader(config.reader, device=str(processes.device), num_threads=num_threads),
    )  # fmt: skip
