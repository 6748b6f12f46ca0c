"""Cityscapes: street scenes of 1024x2048 pixels, with the class of every pixel.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016, arXiv
1604.01685. Of its 34 kinds of labels, 19 are evaluated (section 3.1 and the appendix's table of
classes).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqjax.data._find_prepared import Download, open_prepared
from deqjax.data.images._decode import decode
from deqjax.data.images._imagenet import MEAN, STD
from deqjax.data.images._images import IGNORE_LABEL, ImageSet
from deqjax.data.images._records import Fields, RecordedImages
from deqjax.data.images._resize import scaled_to_shorter_side

_DOWNLOAD = Download(
    "Cityscapes",
    "https://www.cityscapes-dataset.com/login/",
    "12 GB together",
    ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"),
)
# The evaluated classes in the order of their numbers in training, with their numbers in the files.
_CLASSES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}


def load_cityscapes(directory: Any, manual_directory: Any, resolution: int | None) -> ImageSet:
    """TFDS's `cityscapes/semantic_segmentation`, finely annotated: 2826 / 149 / 500.

    The labels of the published test split are withheld: the published "validation" is for testing,
    as papers do, and the last twentieth of "train", in TFDS's shuffled order, for validation. Mean
    and deviation are ImageNet's, on which models of street scenes are trained first.

    Raises:
        DataError: it is not prepared.
    """
    builder = open_prepared(
        "cityscapes/semantic_segmentation",
        _DOWNLOAD,
        directory=directory,
        manual_directory=manual_directory,
    )
    fields = Fields(
        "image_left", "segmentation_label", encoded_label=True, read_label=evaluated_classes
    )
    parts = {"train": "train[:95%]", "validation": "train[95%:]", "test": "validation"}
    height, width, channels = builder.info.features["image_left"].shape
    if resolution is not None:
        height, width = scaled_to_shorter_side(height, width, resolution)
    return ImageSet(
        name="cityscapes",
        task="segmentation",
        **{
            split: RecordedImages(builder, part, fields, resolution=resolution)
            for split, part in parts.items()
        },
        class_names=tuple(_CLASSES),
        mean=MEAN,
        std=STD,
        shape=(height, width, channels),
        identity=f"{builder.info.full_name}, resolution {resolution}",
    )


def evaluated_classes(encoded: bytes) -> NDArray[np.int32]:
    """A label image of the files as classes 0 to 18, and 255 where none of them is."""
    numbers = np.full(256, IGNORE_LABEL, np.int32)
    numbers[list(_CLASSES.values())] = np.arange(len(_CLASSES))
    return numbers[decode(encoded, channels=1)[..., 0]]
