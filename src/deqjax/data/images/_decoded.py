"""Images that are decoded once and then stay in memory."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqjax.data.images._images import ImageExample, ImageSource

_MOST_BYTES = 2**30


class DecodedImages:
    """Examples of one size that stay in memory once they have been decoded.

    The images of CIFAR-10 take 184 MB so; reading and decoding them again takes most of the time
    of a batch. A copy in another process starts empty.
    """

    def __init__(self, source: ImageSource, shape: tuple[int, int, int]) -> None:
        """Makes room for the images of `source`, each of `shape`, with one class each."""
        self.source = source
        self.shape = shape
        # Pages of empty arrays take no memory before they are written to.
        self._images = np.empty((len(source), *shape), np.uint8)
        self._labels = np.empty(len(source), np.int32)
        self._decoded = np.zeros(len(source), bool)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> ImageExample:
        if not self._decoded[index]:
            self._images[index], self._labels[index] = self.source[index]
            self._decoded[index] = True  # last, for threads that look at the same time
        image = self._images[index]
        image.flags.writeable = False  # of this view only: nobody changes what others will see
        return ImageExample(image, np.asarray(self._labels[index]))

    def label(self, index: int) -> NDArray[np.int32]:
        """The label of an example."""
        return self.source.label(index)

    def __reduce__(self) -> tuple[Any, ...]:
        return DecodedImages, (self.source, self.shape)

    def __repr__(self) -> str:
        return f"DecodedImages({self.source!r})"


def kept_if_small(source: ImageSource, shape: tuple[int, int, int] | None) -> ImageSource:
    """The source, its images kept in memory once decoded where all of them take at most 1 GiB.

    Args:
        source: images with one class each.
        shape: of all of them; None where they differ, which are never kept.
    """
    if shape is None or len(source) * math.prod(shape) > _MOST_BYTES:
        return source
    return DecodedImages(source, shape)
