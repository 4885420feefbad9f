"""Which residual network a recogniser is, as a frozen, typed value that can be written beside its weights."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from d2r_fast.engine.config import Frozen

NetworkName = Literal["ir_18", "ir_34", "ir_50", "ir_100"]
Layout = Literal["insightface", "adaface"]
Channels = Literal["rgb", "bgr"]

WIDTHS = (64, 128, 256, 512)
"""Channels of the four stages at full width."""
DROPOUT: dict[Layout, float] = {"insightface": 0.0, "adaface": 0.4}
"""As each publisher trains: InsightFace's script passes 0, AdaFace's network has 0.4 built in."""
CHANNELS: dict[Layout, Channels] = {"insightface": "rgb", "adaface": "bgr"}
"""The order of the colours that each publisher's networks are trained on."""
OTHER_NAMES = {"ir_101": "ir_100"}
"""AdaFace's name for the network that InsightFace calls r100."""


class BackboneConfig(Frozen):
    """A residual network on aligned crops (N, 3, 112, 112)."""

    name: NetworkName = "ir_50"
    """Depth; AdaFace's name ir_101 is read as ir_100."""
    layout: Layout = "insightface"
    """Whose network: InsightFace's and AdaFace's differ in shortcuts and tail, and in their tensors' names."""
    width: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the channels of every stage."""
    embedding_dim: Annotated[int, Field(ge=1)] = 512
    """Length of an embedding."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Before the last linear layer. Default: the layout's own, 0 for insightface and 0.4 for adaface."""
    channels: Channels | None = None
    """Order of the input's colours. Default: the layout's own, rgb for insightface and bgr for adaface."""

    @field_validator("name", mode="before")
    @classmethod
    def _our_name(cls, name: object) -> object:
        return OTHER_NAMES.get(name, name) if isinstance(name, str) else name

    @model_validator(mode="after")
    def _wide_enough(self) -> "BackboneConfig":
        if not self.widths[0]:
            raise ValueError(f"width {self.width:g} leaves the first stage no channel: give at least 0.01")
        return self

    @property
    def depth(self) -> int:
        """18, 34, 50 or 100."""
        return int(self.name.removeprefix("ir_"))

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """Channels of the four stages."""
        first, second, third, fourth = (round(channels * self.width) for channels in WIDTHS)
        return first, second, third, fourth

    @property
    def dropout_rate(self) -> float:
        """The dropout, the layout's own where none is given."""
        return DROPOUT[self.layout] if self.dropout is None else self.dropout

    @property
    def channel_order(self) -> Channels:
        """The order of the colours, the layout's own where none is given."""
        return CHANNELS[self.layout] if self.channels is None else self.channels

    def resolved(self) -> "BackboneConfig":
        """The same network with nothing left to the layout: for who reads it without this file."""
        return self.model_copy(update={"dropout": self.dropout_rate, "channels": self.channel_order})
