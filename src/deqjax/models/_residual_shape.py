"""Sizes of the single-scale convolutional models."""

import dataclasses
from typing import Annotated, Literal

from annotated_types import Interval

from deqjax._fields import check_fields
from deqjax._ranges import Rate, Size, Width
from deqjax.models._image_sizes import ImageSizes
from deqjax.models._precision import Precision


@dataclasses.dataclass(frozen=True)
class ResidualShape(ImageSizes):
    """Sizes of [`ResDEQ`][deqjax.models.ResDEQ] and [`ResNet`][deqjax.models.ResNet].

    Attributes:
        channels: feature maps of each stage; between two stages the resolution is halved.
        hidden: feature maps between the two convolutions of a cell, as a multiple of the stage's.
        groups: of the group normalizations.
        classes: to tell apart; None is counted from the data by a training run, and a model that
            is built by itself needs it.
        input_channels: of the images; None likewise.
        pooled_grid: the head sees the features' means over so many by so many parts of the image.
        stem_stride: 2 halves the resolution before the first stage.
        contraction: Lipschitz constant of the equilibrium cell, below 1: one fixed point, which
            plain iteration finds at this rate; None leaves the cell free. Means nothing to ResNet.
        dropout: rate of the feature maps dropped inside a cell, held for the whole solve.
        dtype: compute inside the equilibrium cells; parameters stay float32. "mixed" solves with
            bfloat16 as far as it goes, and with float32 from there
            ([`mixed_precision`][deqjax.solvers.mixed_precision]).

    Raises:
        ValueError: sizes that make no model.
    """

    channels: tuple[Width, ...] = (32,)
    hidden: Annotated[float, Interval(gt=0, le=64)] = 1.0
    groups: Width = 8
    classes: Size | None = None
    input_channels: Width | None = None
    pooled_grid: Size = 2
    stem_stride: Literal[1, 2] = 1
    contraction: Annotated[float, Interval(gt=0, lt=1)] | None = None
    dropout: Rate = 0.0
    dtype: Precision = "float32"

    def hidden_channels(self, stage: int) -> int:
        """Feature maps between the two convolutions of a cell."""
        return round(self.hidden * self.channels[stage])

    def check_size(self, height: int, width: int) -> None:
        """Raise a ValueError if the head cannot divide the features of such images."""
        halvings = len(self.channels) + self.stem_stride - 2
        sizes = [-(-size // 2**halvings) for size in (height, width)]
        if any(size < 1 or size % self.pooled_grid for size in sizes):
            raise ValueError(
                f"images of {height} x {width} become features of {sizes[0]} x {sizes[1]}, which "
                f"cannot be divided into pooled_grid {self.pooled_grid} x {self.pooled_grid} equal "
                "parts; give images of another size, or another grid."
            )

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.channels:
            raise ValueError("channels must name at least one stage, got ().")
        for stage in range(len(self.channels)):
            for name, size in (
                ("channels", self.channels[stage]),
                ("hidden channels", self.hidden_channels(stage)),
            ):
                if size < 1 or size % self.groups:
                    raise ValueError(
                        f"{name} {size} of stage {stage} must be a multiple of groups "
                        f"{self.groups}."
                    )
