"""scikit-learn's handwritten digits: a data set that every install carries."""

import numpy as np
from numpy.typing import NDArray

from deqjax.data.images._images import ArrayImages, ImageSet
from deqjax.data.images._resize import resize_image

_HELD_OUT = 0.15  # the share of validation, and of test, in every class


def load_digits(resolution: int | None) -> ImageSet:
    """1797 images of 8x8 pixels with 17 shades, 0 to 16: 1259 / 269 / 269 in the splits.

    A test set of the optical recognition of handwritten digits (Alpaydin & Kaynak, 1998, UCI
    Machine Learning Repository). 15 % of every class, chosen once and for all, are for validation
    and as many for testing. Mean and deviation are those of the training images.
    """
    from sklearn import datasets

    found = datasets.load_digits()
    images = found.images.astype(np.uint8)[..., None]
    if resolution is not None:
        images = np.stack([resize_image(image, resolution, resolution) for image in images])
    labels = found.target.astype(np.int32)
    parts: dict[str, list[NDArray[np.intp]]] = {"validation": [], "test": [], "train": []}
    # NumPy promises to keep the numbers of this generator, not those of the newer ones.
    generator = np.random.RandomState(0)
    for digit in range(10):
        chosen = generator.permutation(np.flatnonzero(labels == digit))
        share = round(_HELD_OUT * len(chosen))
        for part, members in zip(parts, np.split(chosen, [share, 2 * share]), strict=True):
            parts[part].append(members)
    splits = {}
    for part, found_rows in parts.items():
        rows = np.sort(np.concatenate(found_rows))
        splits[part] = ArrayImages(images[rows], labels[rows])
    pixels = splits["train"].images
    return ImageSet(
        name="digits",
        task="classification",
        **splits,
        class_names=tuple(str(digit) for digit in range(10)),
        mean=np.asarray(np.mean(pixels, axis=(0, 1, 2), dtype=np.float64), np.float32),
        std=np.asarray(np.std(pixels, axis=(0, 1, 2), dtype=np.float64), np.float32),
        shape=(*images.shape[1:3], 1),
        identity=f"digits 1, resolution {resolution}",
    )
