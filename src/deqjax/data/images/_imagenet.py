"""ImageNet's classification task of 2012: 1.28 million photographs of many sizes, 1000 classes.

Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015, arXiv 1409.0575.
"""

from typing import Any

import numpy as np

from deqjax.data._find_prepared import Download, open_prepared
from deqjax.data.images._images import ImageSet
from deqjax.data.images._records import Fields, RecordedImages, read_class

_DOWNLOAD = Download(
    "ImageNet 2012",
    "https://image-net.org/download-images",
    "144 GB together",
    ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"),
)
# Over 255. From torchvision's documentation of its models, and so in nearly every recipe since.
MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
STD = np.array([0.229, 0.224, 0.225], np.float32) * 255


def load_imagenet(directory: Any, manual_directory: Any, resolution: int | None) -> ImageSet:
    """TFDS's `imagenet2012`: 1268355 / 12812 / 50000.

    The labels of the published test split are withheld: the published "validation" is for testing,
    as papers do, and the last hundredth of "train", in TFDS's shuffled order, for validation.

    Raises:
        DataError: it is not prepared.
    """
    builder = open_prepared(
        "imagenet2012", _DOWNLOAD, directory=directory, manual_directory=manual_directory
    )
    fields = Fields("image", "label", encoded_label=False, read_label=read_class)
    parts = {"train": "train[:99%]", "validation": "train[99%:]", "test": "validation"}
    return ImageSet(
        name="imagenet2012",
        task="classification",
        **{
            split: RecordedImages(builder, part, fields, resolution=resolution)
            for split, part in parts.items()
        },
        class_names=tuple(builder.info.features["label"].names),  # WordNet's, such as n01440764
        mean=MEAN,
        std=STD,
        shape=(None, None, 3),
        identity=f"{builder.info.full_name}, resolution {resolution}",
    )
