"""Mean and deviation of training images, for data sets that publish none."""

import numpy as np
from numpy.typing import NDArray

from deqjax.data.images._images import ImageSource

_SAMPLES = 512
_LEAST_STD = 1.0  # a channel that never changes is divided by one stored step, not by zero


def channel_statistics(
    source: ImageSource, channels: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of every channel over the pixels of at most 512 images.

    The images lie evenly spread over the split, so the same ones are taken each time.

    Args:
        source: a training split.
        channels: of its images.

    Returns:
        (channels,) float32 each, in units of the stored values; the deviation is at least 1.
    """
    count = min(len(source), _SAMPLES)
    pixels = 0
    total, squares = np.zeros(channels), np.zeros(channels)
    for index in np.arange(count) * len(source) // count:
        values = source[int(index)].image.reshape(-1, channels).astype(np.float64)
        pixels += len(values)
        total += values.sum(axis=0)
        squares += np.square(values).sum(axis=0)
    mean = total / pixels
    std = np.sqrt(np.maximum(squares / pixels - mean**2, 0))
    return mean.astype(np.float32), np.maximum(std, _LEAST_STD).astype(np.float32)
