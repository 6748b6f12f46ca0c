"""What an image data set is: examples by their number, and what holds for all of them."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from deqjax.data.pipeline import DataError

SPLITS = ("train", "validation", "test")
IGNORE_LABEL = 255
"""No class: pixels that are neither trained on nor scored (Cityscapes' own number for them)."""


class ImageExample(NamedTuple):
    """One image and what it shows.

    Attributes:
        image: (height, width, channels) uint8.
        label: int32, () the class, or (height, width) the class of every pixel.
    """

    image: NDArray[np.uint8]
    label: NDArray[np.int32]


class ImageSource(Protocol):
    """Random access to the examples of a split."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, index: int) -> ImageExample:
        """The example with a number from 0 to len - 1."""
        ...

    def label(self, index: int) -> NDArray[np.int32]:
        """The label of that example alone, for less work than the example takes."""
        ...


@dataclass(frozen=True)
class ImageSet:
    """The splits of an image data set, and what holds for all of its images.

    Attributes:
        name: as `load_images` knows it.
        task: "classification": one class an image; "segmentation": one a pixel.
        train: what to train on.
        validation: what to choose between runs by; held out of the published training split.
        test: what to report.
        class_names: in the order of their numbers.
        mean: (channels,) float32, of the training images, in units of the stored values.
        std: (channels,) float32, likewise.
        shape: (height, width, channels); None where images differ.
        identity: names the data set's version and what `load_images` was asked for.
    """

    name: str
    task: Literal["classification", "segmentation"]
    train: ImageSource
    validation: ImageSource
    test: ImageSource
    class_names: tuple[str, ...]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    shape: tuple[int | None, int | None, int]
    identity: str

    @property
    def ignore_label(self) -> int | None:
        """The label of pixels that do not count (255), or None in classification."""
        return IGNORE_LABEL if self.task == "segmentation" else None

    def split(self, name: str) -> ImageSource:
        """One of the splits by its name.

        Raises:
            DataError: there is none of that name.
        """
        if name not in SPLITS:
            raise DataError(f"there is no split {name!r}: choose one of {', '.join(SPLITS)}")
        found: ImageSource = getattr(self, name)
        return found


class ArrayImages:
    """Examples that lie in memory."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int32]) -> None:
        """Keeps `images`, (examples, height, width, channels), and `labels`, (examples, ...)."""
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> ImageExample:
        return ImageExample(self.images[index], self.label(index))

    def label(self, index: int) -> NDArray[np.int32]:
        """The label of an example."""
        return np.asarray(self.labels[index])

    def __repr__(self) -> str:
        return f"ArrayImages({len(self)})"


class Subset:
    """Some of the examples of another source, in an order of their own."""

    def __init__(self, source: ImageSource, indices: NDArray[np.integer]) -> None:
        """Chooses the examples with the numbers `indices`, (examples,)."""
        self.source = source
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> ImageExample:
        return self.source[int(self.indices[index])]

    def label(self, index: int) -> NDArray[np.int32]:
        """The label of an example."""
        return self.source.label(int(self.indices[index]))

    def __repr__(self) -> str:
        return f"Subset({len(self)} of {self.source!r})"
