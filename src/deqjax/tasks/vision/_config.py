"""What an image task trains, and on which images."""

import dataclasses
from typing import Literal

from deqjax._ranges import Count, Layers, Seed, Size
from deqjax.data import Augmentation
from deqjax.models import MDEQShape, ResidualShape, SolverSettings


@dataclasses.dataclass(frozen=True)
class ImageNetwork:
    """Which network is trained.

    Attributes:
        kind: "mdeq" is multiscale, "resdeq" single-scale, "resnet" the explicit baseline.
        mdeq: sizes of an mdeq; classes and channels of None are counted.
        residual: sizes of a resdeq or a resnet; likewise.
        depth: blocks in each stage of a resnet.
        solver: how the equilibrium is found and differentiated.
    """

    kind: Literal["mdeq", "resdeq", "resnet"] = "resdeq"
    mdeq: MDEQShape = dataclasses.field(default_factory=MDEQShape)
    residual: ResidualShape = dataclasses.field(default_factory=ResidualShape)
    depth: Layers = 2
    solver: SolverSettings = dataclasses.field(default_factory=SolverSettings)

    @property
    def solves(self) -> bool:
        """Whether it is an equilibrium model."""
        return self.kind != "resnet"

    @property
    def shape(self) -> MDEQShape | ResidualShape:
        """The sizes of the kind that is trained."""
        return self.mdeq if self.kind == "mdeq" else self.residual

    @property
    def segments(self) -> bool:
        """Whether it tells the class of every pixel."""
        return self.kind == "mdeq" and self.mdeq.task == "segmentation"

    def counted(self, classes: int, channels: int) -> "ImageNetwork":
        """The network with what its sizes leave open."""
        shape = self.shape
        told = classes if shape.classes is None else shape.classes
        taken = channels if shape.input_channels is None else shape.input_channels
        known = dataclasses.replace(shape, classes=told, input_channels=taken)
        if isinstance(known, MDEQShape):
            return dataclasses.replace(self, mdeq=known)
        return dataclasses.replace(self, residual=known)


@dataclasses.dataclass(frozen=True)
class Images:
    """What it is trained on.

    Attributes:
        name: "digits" come with scikit-learn; "folder" is one of yours with train/CLASS/IMAGE;
            "cifar10", "imagenet2012", "cityscapes" and any image classification set by TFDS's name
            must have been prepared.
        folder: that of "folder".
        augmentation: what is done to training images at random.
        resolution: images are scaled to so many pixels a side; None leaves them.
        limit_train: so many training images, of all classes alike; None is all.
        limit_seed: of the draw of these.
        directory: folder of prepared data sets, None is TFDS's default.
        manual_directory: folder of downloaded archives; None is TFDS's default.
    """

    name: str = "digits"
    folder: str | None = None
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    resolution: Size | None = None
    limit_train: Count | None = None
    limit_seed: Seed = 0
    directory: str | None = None
    manual_directory: str | None = None
