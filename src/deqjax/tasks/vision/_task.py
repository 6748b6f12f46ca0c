"""The task of telling what images, or their pixels, show."""

import copy
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from deqjax import data
from deqjax.data import DataError, ImageSet
from deqjax.models import MDEQ, ImageModel, ResDEQ, ResNet
from deqjax.nn import resize_bilinear
from deqjax.tasks._network import SOLVER_CHANGES, check_solver, refused_as
from deqjax.tasks.vision._batches import ImageRows, LabelledImages
from deqjax.tasks.vision._config import ImageNetwork, Images
from deqjax.tasks.vision._scores import confusion, hits, intersections
from deqjax.training import ConfigError, Loss, Task

_SIDES = {"digits": 8, "cifar10": 32}
"""Pixels a side of the sets whose images all have one size, and that are known."""


class Kept(NamedTuple):
    """What a network depends on in its images.

    Attributes:
        class_names: in the order of their numbers.
        channels: of the images.
    """

    class_names: tuple[str, ...]
    channels: int


@dataclasses.dataclass(frozen=True)
class VisionTask(Task):
    """Tell the class of an image or of its pixels; losses are in nats per label.

    Scores are "top1" and "top5" accuracy, or of segmentations "mean_iou" and for each class
    "iou/NAME".

    Attributes:
        network: which network is trained.
        images: what it is trained on.
        resumable: what may differ when a run goes on.
    """

    network: ImageNetwork = dataclasses.field(default_factory=ImageNetwork)
    images: Images = dataclasses.field(default_factory=Images)

    resumable: ClassVar[tuple[str, ...]] = (
        *SOLVER_CHANGES,
        "images.folder",
        "images.directory",
        "images.manual_directory",
    )

    def check(self) -> None:
        """Raise a ConfigError for fields that do not go together."""
        if self.images.name == "folder" and self.images.folder is None:
            raise ConfigError(
                "--task.images.name folder needs the folder of your images: give "
                "--task.images.folder."
            )
        segments = self.network.segments
        if segments != (self.images.name == "cityscapes"):
            raise ConfigError(
                f"--task.images.name {self.images.name} does not go with a model for "
                f"{'segmentation' if segments else 'classification'}; only cityscapes has labels "
                "for every pixel, which an mdeq with --task.network.mdeq.task segmentation learns."
            )
        sizes = "mdeq" if self.network.kind == "mdeq" else "residual"
        check_solver(self.network.solver, self.network.shape.dtype, f"--task.network.{sizes}.dtype")

    def opened(self, kept: Mapping[str, Any] | None) -> Self:
        """The task with its classes: counted, or those that a run has kept.

        Raises:
            DataError: the images are missing or damaged.
            ConfigError: the network does not take them.
        """
        opened = copy.copy(self)
        if kept is not None:  # the images are looked for when they are first asked for
            opened.__dict__.pop("found", None)
            opened.__dict__["kept"] = Kept(tuple(kept["classes"]), kept["channels"])
        object.__setattr__(opened, "network", _counted(self, opened.kept))
        return opened

    @functools.cached_property
    def kept(self) -> Kept:
        """What the network depends on in the images."""
        return Kept(self.found.class_names, self.found.shape[-1])

    @functools.cached_property
    def found(self) -> ImageSet:
        """The images, with the classes numbered as this task has them.

        Raises:
            DataError: they are missing or damaged, or were others when the run began.
        """
        before: Kept | None = self.__dict__.get("kept")
        if before is None:
            return load_images(self.images)
        found = load_images(self.images, before.class_names)
        if found.shape[-1] != before.channels:
            raise DataError(
                f"the images have changed since the run began: they had {before.channels} "
                f"channel(s), and have {found.shape[-1]} now; give it those that it was trained on"
            )
        return found

    def keeps(self) -> Mapping[str, Any]:
        """The classes' names, in the order of their numbers, and the images' channels."""
        return {"classes": list(self.kept.class_names), "channels": self.kept.channels}

    @refused_as("--task.network")
    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """The network, freshly initialized.

        Raises:
            ConfigError: sizes that do not go together.
        """
        network = self.network
        match network.kind:
            case "mdeq":
                return MDEQ(network.mdeq, network.solver, rngs=rngs)
            case "resdeq":
                return ResDEQ(network.residual, network.solver, rngs=rngs)
            case "resnet":
                return ResNet(network.residual, network.depth, rngs=rngs)

    def data(self, split: str) -> ImageRows:
        """A split of the images.

        Raises:
            ConfigError: their size is none that the network can take.
        """
        augmentation = self.images.augmentation
        for height, width in {
            augmentation.training_size(self.found.shape[:2]),
            augmentation.evaluation_size(self.found.shape[:2]),
        }:
            try:
                if height is not None and width is not None:
                    self.network.shape.check_size(height, width)
            except ValueError as error:
                raise ConfigError(f"--task.images: {error}") from error
        return ImageRows(self.found, split, augmentation)

    def example(self, rows: int) -> LabelledImages | None:
        """Random images and labels; None as long as sizes of them are to be looked up."""
        images, shape = self.images, self.network.shape
        side = images.resolution or _SIDES.get(images.name)
        height, width = images.augmentation.training_size((side, side))
        classes, channels = shape.classes, shape.input_channels
        if height is None or width is None or classes is None or channels is None:
            return None
        rng = np.random.default_rng(0)
        pixels = rng.normal(size=(rows, height, width, channels)).astype(np.float32)
        labelled = (height, width) if self.network.segments else ()
        return LabelledImages(pixels, rng.integers(0, classes, (rows, *labelled), dtype=np.int32))

    def loss(self, model: ImageModel, batch: LabelledImages) -> Loss:
        """Classify the images of a batch, or their pixels."""
        logits = model(batch.images).logits
        if batch.labels.ndim > 1:
            logits = resize_bilinear(logits, *batch.labels.shape[1:3])
        known = batch.labels != data.IGNORE_LABEL
        labels = jnp.where(known, batch.labels, 0)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        if labels.ndim > 1:
            return Loss(nats, known, {"confusion": confusion(logits, labels, known)})
        return Loss(nats, known, hits(logits, labels))

    def throughput(self, rows: int) -> tuple[str, int]:
        """Images."""
        return "images", rows

    def adopt(self, model: nnx.Module) -> Self:
        """The task with the kind and the sizes of an MDEQ that was built elsewhere.

        Dropout and compute type stay those of the task, and so does a head for another purpose
        than the model's.
        """
        if not isinstance(model, MDEQ):
            raise ConfigError(
                f"a run of images adopts an MDEQ, not a {type(model).__name__}; give a recipe of "
                "text."
            )
        wanted = self.network.mdeq
        shape = dataclasses.replace(model.shape, dropout=wanted.dropout, dtype=wanted.dtype)
        if self.network.kind == "mdeq" and wanted.task != shape.task:
            shape = dataclasses.replace(
                shape,
                task=wanted.task,
                classes=wanted.classes,
                head_channels=wanted.head_channels,
                final_channels=wanted.final_channels,
            )
        own = dataclasses.replace(self.network, kind="mdeq", mdeq=shape)
        return dataclasses.replace(self, network=own)

    def scores(self, counts: Mapping[str, np.ndarray], weight: float) -> dict[str, float]:
        """Accuracies, or intersections over unions."""
        if "confusion" in counts:
            return intersections(counts["confusion"], self.kept.class_names)
        return {name: float(counts[name]) / weight for name in ("top1", "top5")}


def _counted(task: VisionTask, kept: Kept) -> ImageNetwork:
    """The network with as many classes and channels as there are, unless it says how many."""
    network, name, classes = task.network, task.images.name, len(kept.class_names)
    counted = network.counted(classes, kept.channels)
    if counted.shape.input_channels != kept.channels:
        raise ConfigError(
            f"--task.images.name {name} has {kept.channels} channel(s), but the model takes "
            f"{counted.shape.input_channels}; leave input_channels out, and they are counted."
        )
    if counted.shape.classes != classes:
        raise ConfigError(
            f"--task.images.name {name} has {classes} classes, but the model tells "
            f"{counted.shape.classes} apart; leave classes out, and they are counted."
        )
    return counted


def load_images(images: Images, class_names: tuple[str, ...] | None = None) -> ImageSet:
    """Look for a set of images.

    Args:
        images: which ones.
        class_names: of a run that was trained; None counts them.

    Raises:
        DataError: they are missing or damaged.
    """
    return data.load_images(
        images.name,
        folder=images.folder,
        directory=images.directory,
        manual_directory=images.manual_directory,
        resolution=images.resolution,
        limit_train=images.limit_train,
        limit_seed=images.limit_seed,
        class_names=class_names,
    )
