"""One process's rows of the batches that a split of images is evaluated in."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deqjax.data.images._images import ImageExample, ImageSource


class ImageEvaluationBatch(NamedTuple):
    """Images to evaluate on.

    Attributes:
        images: (rows, height, width, channels) float32, normalized; zeros in padding.
        labels: (rows,) or (rows, height, width) int32.
        counted: (rows,) bool, False where the row only pads the last batch.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int32]
    counted: NDArray[np.bool_]


class Padding(NamedTuple):
    """What an example of padding looks like."""

    image_shape: tuple[Any, ...]  # (height, width, channels); None where images differ
    label_shape: tuple[Any, ...]  # () or (height, width)
    label: int


class EvaluationRows:
    """Random access to one process's rows of every batch of a split.

    Batch k holds the images from number k * batch_size on. Its rows are dealt out to the processes
    in turn; the last batch may leave some of them none, and is padding there.
    """

    def __init__(
        self,
        source: ImageSource,
        transform: Callable[[ImageExample], ImageExample],
        normalize: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
        *,
        batch_size: int,
        process_index: int,
        process_count: int,
        padding: Padding,
    ) -> None:
        """Deals out `batch_size` rows a batch to `process_count` processes."""
        self.source = source
        self.transform = transform
        self.normalize = normalize
        self.batch_size = batch_size
        self.process_index = process_index
        self.process_count = process_count
        self.padding = padding

    def __len__(self) -> int:
        return (len(self.source) + self.batch_size - 1) // self.batch_size

    def __getitem__(self, index: int) -> ImageEvaluationBatch:
        start = index * self.batch_size
        end = min(start + self.batch_size, len(self.source))
        own = range(start + self.process_index, end, self.process_count)
        examples = [self.transform(self.source[number]) for number in own]
        image_shape, label_shape, padding_label = self.padding
        if examples:
            image_shape, label_shape = examples[0].image.shape, examples[0].label.shape
        rows = self.batch_size // self.process_count
        images = np.zeros((rows, *image_shape), np.float32)
        labels = np.full((rows, *label_shape), padding_label, np.int32)
        if examples:
            images[: len(examples)] = self.normalize(np.stack([x.image for x in examples]))
            labels[: len(examples)] = np.stack([x.label for x in examples])
        return ImageEvaluationBatch(images, labels, np.arange(rows) < len(examples))

    def __repr__(self) -> str:
        return f"EvaluationRows({len(self)} batches of {self.source!r})"
