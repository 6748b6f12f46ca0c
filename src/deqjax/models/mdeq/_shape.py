"""Sizes and options of the multiscale image model."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class MDEQShape:
    """What an MDEQ looks like; the defaults are the published small model for CIFAR-10.

    Attributes:
        channels: of each branch; branch i has 1 / 2^i of branch 0's height and width.
        groups: of the group norms; half as many after the fusion.
        expansion: channels inside a block, as a multiple of the branch's.
        head_channels: of each branch's bottleneck, whose output has four times as many; of the
            classification head only.
        final_channels: before the average pool; of the classification head only.
        classes: to tell apart.
        input_channels: of the images.
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
            stay float32.

    Raises:
        ValueError: sizes that make no model.
    """

    channels: tuple[int, ...] = (24, 24)
    groups: int = 8
    expansion: int = 5
    head_channels: tuple[int, ...] = (8, 16)
    final_channels: int = 200
    classes: int = 10
    input_channels: int = 3
    downsample_times: int = 0
    big_kernels: tuple[int, ...] = ()
    weight_norm: bool = True
    dropout: float = 0.0
    block_affine: bool = True
    fuse_affine: bool = True
    post_affine: bool = False
    task: Literal["classification", "segmentation"] = "classification"
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        branches = len(self.channels)
        if not branches:
            raise ValueError("channels is empty; give the channels of one branch at least.")
        for name in ("groups", "expansion", "final_channels", "classes", "input_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.downsample_times < 0:
            raise ValueError(f"downsample_times must not be negative, got {self.downsample_times}.")
        for count in self.channels:
            if count < 1 or count % self.groups:
                raise ValueError(
                    f"a branch has {count} channels, which must be a multiple of the "
                    f"{self.groups} groups."
                )
        if branches > 1 and self.groups % 2:
            raise ValueError(
                f"groups must be even with several branches, got {self.groups}: the norms after "
                "the fusion have half as many."
            )
        self._check_lists(branches)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"the dropout rate must lie in [0, 1), got {self.dropout}.")

    def _check_lists(self, branches: int) -> None:
        if self.big_kernels and len(self.big_kernels) != branches:
            raise ValueError(
                f"big_kernels has {len(self.big_kernels)} entries for {branches} branches; give "
                "one per branch, or none."
            )
        if any(count not in (0, 1, 2) for count in self.big_kernels):
            raise ValueError(f"big_kernels holds 0, 1 or 2 for each branch, got {self.big_kernels}")
        if self.task not in ("classification", "segmentation"):
            raise ValueError(f"task is classification or segmentation, got {self.task!r}.")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is float32 or bfloat16, got {self.dtype!r}.")
        if self.task == "classification" and (
            len(self.head_channels) != branches or min(self.head_channels) < 1
        ):
            raise ValueError(
                f"head_channels must be {branches} positive numbers, one per branch, got "
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
