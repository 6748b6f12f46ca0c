"""A name for everything that decides the training batches of images."""

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np

from deqjax.data._images import ImageSet
from deqjax.data.augmentation import Augmentation

# Part of the fingerprint: raise it whenever the same arguments begin to give other batches.
_PIPELINE_VERSION = 1
_SAMPLES = 8


def image_fingerprint(
    images: ImageSet,
    *,
    batch_size: int,
    seed: int,
    augmentation: Augmentation,
    process_count: int = 1,
    workers: int = 0,
) -> str:
    """Names what decides the training batches of images, in 16 hexadecimal digits.

    A position in the batches means something only in the same batches: training keeps this beside
    the position and refuses to resume when it differs. Hashed are the arguments, the data set's
    name, version and `load_images` arguments (its `identity`), the number of training images, mean
    and deviation, and eight training images spread evenly over the split, decoded, with their
    labels. A change of other images alone goes unnoticed: hashing all of ImageNet takes longer than
    a resumed run may.

    Args:
        images: from `load_images`.
        batch_size: images in a batch, over all processes together.
        seed: of order and augmentation.
        augmentation: how images are changed.
        process_count: how many processes share each batch.
        workers: as in `image_train_batches`; it changes no batch, but the form of the position.

    Raises:
        DataError: an image is damaged.
    """
    values: dict[str, Any] = {
        "version": _PIPELINE_VERSION,
        "name": images.name,
        "identity": images.identity,
        "count": len(images.train),
        "mean": images.mean.tolist(),
        "std": images.std.tolist(),
        "batch_size": batch_size,
        "seed": seed,
        "augmentation": dataclasses.asdict(augmentation),
        "process_count": process_count,
        "workers": workers,
    }
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for index in np.arange(_SAMPLES) * len(images.train) // _SAMPLES:
        example = images.train[int(index)]
        digest.update(repr((example.image.shape, example.label.shape)).encode())
        digest.update(np.ascontiguousarray(example.image).data)
        digest.update(np.ascontiguousarray(example.label).data)
    return digest.hexdigest()[:16]
