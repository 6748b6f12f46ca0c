"""The configuration of a run that trains an image model."""

import dataclasses
from typing import Annotated, Literal, Self

from annotated_types import Interval
from flax import nnx

from deqjax._ranges import Count, Layers, Size
from deqjax.data import Augmentation
from deqjax.models import MDEQ, MDEQShape, ResidualShape, SolverSettings
from deqjax.training._config import ConfigError, RunConfig

_Helpers = Annotated[int, Interval(ge=0, le=1_024)]


@dataclasses.dataclass(frozen=True)
class ImageModelConfig:
    """Which network is trained.

    Attributes:
        kind: "mdeq" is multiscale, "resdeq" single-scale, "resnet" the explicit baseline.
        mdeq: sizes of an mdeq.
        residual: sizes of a resdeq or a resnet.
        depth: blocks in each stage of a resnet.
        solver: how the equilibrium is found and differentiated.
    """

    kind: Literal["mdeq", "resdeq", "resnet"] = "resdeq"
    mdeq: MDEQShape = dataclasses.field(default_factory=MDEQShape)
    residual: ResidualShape = dataclasses.field(default_factory=ResidualShape)
    depth: Layers = 2
    solver: SolverSettings = dataclasses.field(default_factory=SolverSettings)


@dataclasses.dataclass(frozen=True)
class ImageDataConfig:
    """What it is trained on.

    Attributes:
        images: "digits" come with scikit-learn; "folder" is one of yours with train/CLASS/IMAGE;
            "cifar10", "imagenet2012", "cityscapes" and any image classification set by TFDS's name
            must have been prepared.
        batch_size: images per step, over all devices and processes.
        augmentation: what is done to training images at random.
        resolution: images are scaled to so many pixels a side; None leaves them.
        threads: that prepare batches ahead of the training step; 0 is none.
        workers: processes that prepare batches ahead, for when one interpreter is too slow; a run
            is resumed with as many.
        limit_train: so many training images, of all classes alike; None is all.
        directory: folder of prepared data sets, None is TFDS's default; of "folder", that folder.
        manual_directory: folder of downloaded archives; None is TFDS's default.
    """

    images: str = "digits"
    batch_size: Size = 64
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    resolution: Size | None = None
    threads: _Helpers = 0
    workers: _Helpers = 0
    limit_train: Count | None = None
    directory: str | None = None
    manual_directory: str | None = None


@dataclasses.dataclass(frozen=True)
class VisionConfig(RunConfig):
    """A whole run of an image model.

    Attributes:
        model: which network is trained.
        data: what it is trained on.
    """

    model: ImageModelConfig = dataclasses.field(default_factory=ImageModelConfig)
    data: ImageDataConfig = dataclasses.field(default_factory=ImageDataConfig)

    @property
    def solver(self) -> SolverSettings:
        """How the model's equilibria are found."""
        return self.model.solver

    @property
    def solves(self) -> bool:
        """Whether the model is an equilibrium model."""
        return self.model.kind != "resnet"

    @property
    def batch_size(self) -> int:
        """Images per step, over all devices and processes."""
        return self.data.batch_size

    def of_model(self, model: nnx.Module) -> Self:
        """The configuration with the kind and the sizes of a model that was built elsewhere.

        Dropout and compute type stay those of the configuration, and so does a head for another
        task than the model's.
        """
        if not isinstance(model, MDEQ):
            raise ConfigError(
                f"a run of images adopts an MDEQ, not a {type(model).__name__}; give a recipe of "
                "text."
            )
        wanted = self.model.mdeq
        shape = dataclasses.replace(model.shape, dropout=wanted.dropout, dtype=wanted.dtype)
        if self.model.kind == "mdeq" and wanted.task != shape.task:
            shape = dataclasses.replace(
                shape,
                task=wanted.task,
                classes=wanted.classes,
                head_channels=wanted.head_channels,
                final_channels=wanted.final_channels,
            )
        own = dataclasses.replace(self.model, kind="mdeq", mdeq=shape)
        return dataclasses.replace(self, model=own)

    def check_combinations(self) -> None:
        """Raise a ConfigError for values that do not go together."""
        if self.model.kind == "resnet" and self.pretrain_steps:
            raise ConfigError(
                "--pretrain_steps warms up an equilibrium model; resnet solves nothing."
            )
        if self.data.images == "folder" and self.data.directory is None:
            raise ConfigError(
                "--data.images folder needs the folder of your images: give --data.directory."
            )
        segments = self.model.kind == "mdeq" and self.model.mdeq.task == "segmentation"
        if segments != (self.data.images == "cityscapes"):
            raise ConfigError(
                f"--data.images {self.data.images} does not go with a model for "
                f"{'segmentation' if segments else 'classification'}; only cityscapes has labels "
                "for every pixel, which an mdeq with --model.mdeq.task segmentation learns."
            )
