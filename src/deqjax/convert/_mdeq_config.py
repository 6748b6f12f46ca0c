"""The configuration of a published MDEQ, checked."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AliasChoices, StrictBool

from deqjax.convert._errors import ConversionError
from deqjax.convert._options import check_options
from deqjax.models import MDEQShape

Positive = Annotated[int, pydantic.Field(strict=True, ge=1)]
Natural = Annotated[int, pydantic.Field(strict=True, ge=0)]


def _option(default: Any, *names: str) -> Any:
    """An option that is known under several names."""
    return pydantic.Field(default, validation_alias=AliasChoices(*names))


class MDEQConfig(pydantic.BaseModel):
    """Options of the published MDEQ; each has a short and, after it, a published name or two.

    Attributes:
        channels: of each branch (num_channels).
        head: channels of each branch's bottleneck (head_channels); of a classifier only.
        final: channels before the average pool (final_chansize); of a classifier only.
        task: "cls" or "seg"; None is "seg" if there is no head.
        down: how often the stem halves the image (downsample_times).
        groups: of the group norms (num_groups).
        exp: channels inside a block, a multiple of the branch's (expansion, expansion_factor).
        classes: to tell apart (num_classes).
        big: 5x5 convolutions, 0 to 2, of all branches or of each (big_kernels).
        wn: whether convolutions are normalized (wnorm, weight_norm).
        block_affine: whether the blocks' group norms have parameters (block_gn_affine).
        fuse_affine: whether those between branches have (fuse_gn_affine).
        post_affine: whether those after the fusion have (post_gn_affine).
        num_layers: how often the warm-up stage applies f; nothing in a model depends on it.
        image_size: height and width of the images; likewise.
        dropout: rate inside the blocks, for training on.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    channels: tuple[Positive, ...] = _option(..., "channels", "num_channels")
    head: tuple[Positive, ...] = _option((), "head", "head_channels")
    final: Positive | None = _option(None, "final", "final_chansize")
    task: Literal["cls", "seg"] | None = None
    down: Natural = _option(0, "down", "downsample_times")
    groups: Positive = _option(8, "groups", "num_groups")
    exp: Positive = _option(5, "exp", "expansion", "expansion_factor")
    classes: Positive = _option(7, "classes", "num_classes")
    big: Natural | tuple[Natural, ...] = _option(0, "big", "big_kernels")
    wn: StrictBool = _option(True, "wn", "wnorm", "weight_norm")
    block_affine: StrictBool = _option(True, "block_affine", "block_gn_affine")
    fuse_affine: StrictBool = _option(True, "fuse_affine", "fuse_gn_affine")
    post_affine: StrictBool = _option(False, "post_affine", "post_gn_affine")
    num_layers: Natural | None = None
    image_size: tuple[Positive, Positive] | None = None
    dropout: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.0

    @property
    def segments(self) -> bool:
        """Whether it tells the classes of pixels."""
        return self.task == "seg" if self.task is not None else not self.head

    def shape(self) -> MDEQShape:
        """The same as the shape of our model.

        Raises:
            ConversionError: options that make no model.
        """
        if not self.segments and (self.final is None or not self.head):
            raise ConversionError("a classifier (task cls) needs the options head and final.")
        branches = len(self.channels)
        try:
            return MDEQShape(
                channels=self.channels,
                groups=self.groups,
                expansion=self.exp,
                head_channels=self.head,
                final_channels=self.final or 1,
                classes=self.classes,
                input_channels=3,
                downsample_times=self.down,
                big_kernels=(self.big,) * branches if isinstance(self.big, int) else self.big,
                weight_norm=self.wn,
                dropout=self.dropout,
                block_affine=self.block_affine,
                fuse_affine=self.fuse_affine,
                post_affine=self.post_affine,
                task="segmentation" if self.segments else "classification",
            )
        except ValueError as error:
            raise ConversionError(f"the configuration makes no model: {error}") from error


def check_mdeq_config(values: Mapping[str, Any]) -> MDEQConfig:
    """The configuration in a JSON file's values.

    Raises:
        ConversionError: one that lists every missing, unknown or mistyped option.
    """
    return check_options(MDEQConfig, values)
