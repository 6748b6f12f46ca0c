"""What decides the training batches of images, as named values."""

import dataclasses
import hashlib

import numpy as np

from deqjax.data.images._augmentation import Augmentation
from deqjax.data.images._images import ImageSet, ImageSource
from deqjax.data.text import Fingerprint

# Raise it whenever the same arguments begin to give other batches.
_PIPELINE_VERSION = 1
_SAMPLES = 8


def image_fingerprint(
    images: ImageSet,
    *,
    batch_size: int,
    seed: int,
    augmentation: Augmentation,
    workers: int = 0,
) -> Fingerprint:
    """Names what decides the training batches of images.

    A position in the batches means something only in the same batches: training keeps this beside
    the position, and refuses to resume when a value differs. How many processes share a batch does
    not count: a position is valid for any number of them. Of the images only eight are looked at,
    spread evenly over the training split: hashing all of ImageNet takes longer than a resumed run
    may, so a change of other images alone goes unnoticed.

    Args:
        images: from `load_images`.
        batch_size: images in a batch, over all processes together.
        seed: of order and augmentation.
        augmentation: how images are changed.
        workers: as in `image_train_batches`; it changes no batch, but the form of the position.

    Returns:
        "version" (of this pipeline), "name", "identity" (the data set's version and the arguments
        of `load_images`), "count" of training images, "mean", "std", "batch_size", "seed",
        "augmentation" (its attributes), "workers", and "images": 16 hexadecimal digits of the
        SHA-256 of the eight decoded images with their labels.

    Raises:
        DataError: an image is damaged.
    """
    return {
        "version": _PIPELINE_VERSION,
        "name": images.name,
        "identity": images.identity,
        "count": len(images.train),
        "mean": images.mean.tolist(),
        "std": images.std.tolist(),
        "batch_size": batch_size,
        "seed": seed,
        "augmentation": {
            name: list(value) if isinstance(value, tuple) else value  # as JSON gives it back
            for name, value in dataclasses.asdict(augmentation).items()
        },
        "workers": workers,
        "images": _digest(images.train),
    }


def _digest(source: ImageSource) -> str:
    digest = hashlib.sha256()
    for index in np.arange(_SAMPLES) * len(source) // _SAMPLES:
        example = source[int(index)]
        digest.update(repr((example.image.shape, example.label.shape)).encode())
        digest.update(np.ascontiguousarray(example.image).data)
        digest.update(np.ascontiguousarray(example.label).data)
    return digest.hexdigest()[:16]
