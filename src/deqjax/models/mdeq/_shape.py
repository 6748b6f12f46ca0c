"""Sizes and options of the multiscale image model."""

import dataclasses
from typing import Annotated, Literal

from annotated_types import Interval

from deqjax._fields import check_fields
from deqjax._ranges import Rate, Size, Width
from deqjax.models._image_sizes import ImageSizes
from deqjax.models._precision import Precision


@dataclasses.dataclass(frozen=True)
class MDEQShape(ImageSizes):
    """What an MDEQ looks like.

    The defaults are the published small model for CIFAR-10, whose classes are 10 and channels 3.

    Attributes:
        channels: of each branch; branch i has 1 / 2^i of branch 0's height and width.
        groups: of the group norms; half as many after the fusion.
        expansion: channels inside a block, as a multiple of the branch's.
        head_channels: of each branch's bottleneck, whose output has four times as many; of the
            classification head only.
        final_channels: before the average pool; of the classification head only.
        classes: to tell apart; None is counted from the data by a training run, and a model that
            is built by itself needs it.
        input_channels: of the images; None likewise.
        downsample_times: how often the stem halves height and width.
        big_kernels: for each branch how many of its block's two convolutions are 5x5 instead of
            3x3; empty for none.
        weight_norm: weight normalization of the blocks' and post-fusion convolutions.
        dropout: rate inside the blocks; one mask for a whole solve.
        block_affine: whether the blocks' group norms have scale and shift.
        fuse_affine: whether those between branches have.
        post_affine: whether those after the fusion have.
        task: one class per image, or one per pixel of branch 0.
        dtype: of the cell's convolutions; states, statistics of norms, stem, head and parameters
            stay float32. "mixed" solves with bfloat16 as far as it goes, and with float32 from
            there ([`mixed_precision`][deqjax.solvers.mixed_precision]).

    Raises:
        ValueError: sizes that make no model.
    """

    channels: tuple[Width, ...] = (24, 24)
    groups: Width = 8
    expansion: Annotated[int, Interval(ge=1, le=64)] = 5
    head_channels: tuple[Width, ...] = (8, 16)
    final_channels: Width = 200
    classes: Size | None = None
    input_channels: Width | None = None
    downsample_times: Annotated[int, Interval(ge=0, le=10)] = 0
    big_kernels: tuple[Annotated[int, Interval(ge=0, le=2)], ...] = ()
    weight_norm: bool = True
    dropout: Rate = 0.0
    block_affine: bool = True
    fuse_affine: bool = True
    post_affine: bool = False
    task: Literal["classification", "segmentation"] = "classification"
    dtype: Precision = "float32"

    def __post_init__(self) -> None:
        check_fields(self)
        branches = len(self.channels)
        if not branches:
            raise ValueError("channels is empty; give the channels of one branch at least.")
        for count in self.channels:
            if count % self.groups:
                raise ValueError(
                    f"a branch has {count} channels, which must be a multiple of the "
                    f"{self.groups} groups."
                )
        if branches > 1 and self.groups % 2:
            raise ValueError(
                f"groups must be even with several branches, got {self.groups}: the norms after "
                "the fusion have half as many."
            )
        if self.big_kernels and len(self.big_kernels) != branches:
            raise ValueError(
                f"big_kernels has {len(self.big_kernels)} entries for {branches} branches; give "
                "one per branch, or none."
            )
        if self.task == "classification" and len(self.head_channels) != branches:
            raise ValueError(
                f"head_channels must be {branches} numbers, one per branch, got "
                f"{self.head_channels}."
            )

    @property
    def multiple(self) -> int:
        """What height and width of an image must be multiples of."""
        return int(2 ** (self.downsample_times + len(self.channels) - 1))

    def check_size(self, height: int, width: int) -> None:
        """Raise a ValueError if images of this size cannot be down-sampled evenly."""
        if height < 1 or width < 1 or height % self.multiple or width % self.multiple:
            raise ValueError(
                f"images of {height} x {width} cannot be down-sampled evenly; height and width "
                f"must be multiples of {self.multiple}."
            )

    def kernel_sizes(self, branch: int) -> tuple[int, int]:
        """Of the two convolutions in a branch's block."""
        big = self.big_kernels[branch] if self.big_kernels else 0
        return 5 if big >= 1 else 3, 5 if big >= 2 else 3
