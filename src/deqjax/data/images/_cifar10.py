"""CIFAR-10: 60000 photographs of 32x32 pixels in ten classes.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, section 3.
"""

from typing import Any

import numpy as np

from deqjax.data._find_prepared import Download, open_prepared
from deqjax.data.images._decoded import DecodedImages
from deqjax.data.images._images import ImageSet
from deqjax.data.images._records import Fields, RecordedImages, read_class

_DOWNLOAD = Download("CIFAR-10", "https://www.cs.toronto.edu/~kriz/cifar.html", "162 MB", files=())
# Over 255, of all pixels of the published training split: what most recipes name. Others, MDEQ's
# among them, divide by (0.2023, 0.1994, 0.2010), the mean of each image's own deviation; their
# inputs are 1.2 to 1.3 times as large.
_MEAN = (0.4914, 0.4822, 0.4465)
_STD = (0.2470, 0.2435, 0.2616)


def load_cifar10(directory: Any, resolution: int | None) -> ImageSet:
    """TFDS's `cifar10`: 45000 / 5000 / 10000; the last tenth of "train" is for validation.

    Raises:
        DataError: it is not prepared.
    """
    builder = open_prepared("cifar10", _DOWNLOAD, directory=directory)
    fields = Fields("image", "label", encoded_label=False, read_label=read_class)
    side = 32 if resolution is None else resolution
    shape = (side, side, 3)
    parts = {"train": "train[:90%]", "validation": "train[90%:]", "test": "test"}
    splits = {
        split: DecodedImages(RecordedImages(builder, part, fields, resolution=resolution), shape)
        for split, part in parts.items()
    }
    return ImageSet(
        name="cifar10",
        task="classification",
        **splits,
        class_names=tuple(builder.info.features["label"].names),
        mean=np.array(_MEAN, np.float32) * 255,
        std=np.array(_STD, np.float32) * 255,
        shape=shape,
        identity=f"{builder.info.full_name}, resolution {resolution}",
    )
