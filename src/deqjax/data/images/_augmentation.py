"""What happens to an image between the data set and the batch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, TypeAlias

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray

from deqjax._fields import FieldError, check_fields
from deqjax._ranges import PositiveShare, Size
from deqjax.data.images._crops import center_crop, crop_and_flip, joint_scale_crop, resized_crop
from deqjax.data.images._images import IGNORE_LABEL, ImageExample, ImageSet
from deqjax.data.pipeline import DataError

Kind = Literal["none", "crop_flip", "resized_crop", "joint_scale_crop"]
_TASKS = {
    "none": ("classification", "segmentation"),
    "crop_flip": ("classification",),
    "resized_crop": ("classification",),
    "joint_scale_crop": ("segmentation",),
}

Extent: TypeAlias = tuple[int | None, int | None]
"""Height and width; None where images differ."""
# of lengths, between the smallest and the largest that make sense of an image
_Ratio = Annotated[float, Interval(gt=0, le=100)]


@dataclass(frozen=True)
class Augmentation:
    """How training images are changed at random, and how evaluated ones get their size.

    Attributes:
        kind: "none": images as they are. "crop_flip": moved by up to `padding` pixels and mirrored
            (CIFAR-10). "resized_crop": a part of random area and aspect ratio, scaled to `size`
            and mirrored; in evaluation the middle of the image (ImageNet). "joint_scale_crop": a
            window of the randomly scaled and mirrored image, and of its pixels' classes
            (Cityscapes).
        padding: pixels, for "crop_flip".
        size: height and width, for "resized_crop".
        shorter_side: what an evaluated image's shorter side is scaled to before its middle is cut
            out, for "resized_crop".
        area: smallest and largest share of the image's area, for "resized_crop".
        aspect: smallest and largest width over height, for "resized_crop".
        crop: height and width of the window, for "joint_scale_crop".
        scale: smallest and largest scale of the image, for "joint_scale_crop".

    Raises:
        DataError: there is no such kind, or a number is out of its range.
    """

    kind: Kind = "none"
    padding: Annotated[int, Interval(ge=0, le=65_536)] = 4
    size: Size = 224
    shorter_side: Size = 256
    area: tuple[PositiveShare, PositiveShare] = (0.08, 1.0)
    aspect: tuple[_Ratio, _Ratio] = (3 / 4, 4 / 3)
    crop: tuple[Size, Size] = (512, 1024)
    scale: tuple[_Ratio, _Ratio] = (0.5, 2.0)

    def __post_init__(self) -> None:
        try:
            check_fields(self)
        except FieldError as error:
            raise DataError(str(error)) from error
        if self.size > self.shorter_side:
            raise DataError(
                f"size must be at most shorter_side, got {self.size} and {self.shorter_side}"
            )
        for name in ("area", "aspect", "scale"):
            low, high = getattr(self, name)
            if low > high:
                raise DataError(f"{name} must be in ascending order, got ({low}, {high})")

    def training_size(self, size: Extent) -> Extent:
        """Height and width of training images, from those of the data set's."""
        match self.kind:
            case "resized_crop":
                return self.size, self.size
            case "joint_scale_crop":
                return self.crop
        return size

    def evaluation_size(self, size: Extent) -> Extent:
        """Height and width of evaluated images, from those of the data set's."""
        return (self.size, self.size) if self.kind == "resized_crop" else size


Transform = Callable[[ImageExample, np.random.Generator], ImageExample]


def training_transform(images: ImageSet, augmentation: Augmentation) -> Transform:
    """What happens to each training image, from a generator of its own.

    Raises:
        DataError: the augmentation does not suit the data set.
    """
    check_suits(images, augmentation)
    match augmentation.kind:
        case "none":
            return _unchanged
        case "crop_flip":
            return partial(crop_and_flip, padding=augmentation.padding)
        case "resized_crop":
            return partial(
                resized_crop,
                size=augmentation.size,
                area=augmentation.area,
                aspect=augmentation.aspect,
            )
        case "joint_scale_crop":
            return partial(
                joint_scale_crop,
                crop=augmentation.crop,
                scale=augmentation.scale,
                # as close to 0 after normalization as a stored color can be
                fill=np.rint(images.mean).astype(np.uint8),
                ignore_label=IGNORE_LABEL,
            )


def evaluation_transform(
    images: ImageSet, augmentation: Augmentation
) -> Callable[[ImageExample], ImageExample]:
    """What happens to each evaluated image: nothing, or for "resized_crop" a cut to its middle.

    Raises:
        DataError: the augmentation does not suit the data set.
    """
    check_suits(images, augmentation)
    if augmentation.kind == "resized_crop":
        return partial(center_crop, size=augmentation.size, shorter_side=augmentation.shorter_side)
    return _same


def normalize(
    images: NDArray[np.uint8], mean: NDArray[np.float32], std: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(images - mean) / std in float32, channel by channel (the last axis)."""
    normalized = np.multiply(images, 1 / std, dtype=np.float32)
    normalized -= mean / std
    return normalized


def check_suits(images: ImageSet, augmentation: Augmentation) -> None:
    """Refuses an augmentation that this data set cannot have.

    Raises:
        DataError: it is made for the other task, or would leave images of different sizes.
    """
    if images.task not in _TASKS[augmentation.kind]:
        suited = [kind for kind, tasks in _TASKS.items() if images.task in tasks]
        raise DataError(
            f"the augmentation {augmentation.kind!r} is not made for {images.task}, the task of "
            f"{images.name!r}: choose one of {', '.join(suited)}"
        )
    if None in images.shape and augmentation.kind in ("none", "crop_flip"):
        raise DataError(
            f"the images of {images.name!r} differ in size, and the augmentation "
            f"{augmentation.kind!r} leaves it alone: choose 'resized_crop' to put them into batches"
        )


def _unchanged(example: ImageExample, generator: np.random.Generator) -> ImageExample:
    del generator  # nothing is drawn
    return example


def _same(example: ImageExample) -> ImageExample:
    return example
