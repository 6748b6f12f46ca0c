"""Any image classification set of TFDS's catalog that is prepared, by its name."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from deqjax.data._find_prepared import Download, open_prepared
from deqjax.data._prepare import data_root
from deqjax.data.images._decoded import kept_if_small
from deqjax.data.images._held_out import held_out_numbers
from deqjax.data.images._images import SPLITS, ImageSet, ImageSource, Subset
from deqjax.data.images._records import Fields, RecordedImages, read_class
from deqjax.data.images._resize import scaled_to_shorter_side
from deqjax.data.images._statistics import channel_statistics
from deqjax.data.pipeline import DataError

_NAME = re.compile(r"[a-z]\w*(/[\w.+-]+)?")
CATALOG = "https://www.tensorflow.org/datasets/catalog"


def is_known(name: str, directory: Any) -> bool:
    """Whether TFDS has a builder of that name, or some data set lies prepared under it."""
    if not _NAME.fullmatch(name):
        return False
    import tensorflow_datasets as tfds

    base = name.partition("/")[0]
    prepared = Path(data_root(directory)) / base
    return prepared.is_dir() or base in tfds.list_builders(with_community_datasets=False)


def load_from_catalog(name: str, directory: Any, resolution: int | None) -> ImageSet:
    """A data set whose examples have an image and a class.

    Its splits "train", "validation" and "test" are taken as they are; one that is missing, or whose
    labels are withheld, is held out of the training images (`held_out_numbers`). Mean and deviation
    are those of at most 512 training images. Images of one size that take no more than 1 GiB stay
    in memory once they have been decoded.

    Args:
        name: TFDS's, with "/" and the configuration if it has several.
        directory: the folder of all prepared data sets; None is TFDS's own.
        resolution: the shorter side of every image, scaled to it; None leaves images alone.

    Raises:
        DataError: it is not prepared, or its examples are of another kind.
    """
    base = name.partition("/")[0]
    _check_configuration(name, Path(data_root(directory)))
    download = Download(repr(name), f"{CATALOG}/{base}", "it", files=())
    builder = open_prepared(name, download, directory=directory)
    fields = _fields(name, builder.info)
    size = _size(builder.info.features[fields.image].shape, resolution)
    shape = None if size is None else (*size, fields.channels)

    def opened(split: str) -> ImageSource:
        source = RecordedImages(builder, split, fields, resolution=resolution)
        return kept_if_small(source, shape)

    sources = {split: opened(split) for split in SPLITS if _has_labels(builder, split, fields)}
    if "train" not in sources:
        raise DataError(
            f"the data set {name!r} has no split 'train' with labels, only "
            f"{', '.join(sorted(builder.info.splits))}: choose another data set"
        )
    missing = [split for split in SPLITS if split not in sources]
    if missing:
        train = sources["train"]
        parts = held_out_numbers(len(train), missing)
        sources |= {split: Subset(train, numbers) for split, numbers in parts.items()}
    mean, std = channel_statistics(sources["train"], fields.channels)
    return ImageSet(
        name=name,
        task="classification",
        **sources,
        class_names=tuple(builder.info.features[fields.label].names),
        mean=mean,
        std=std,
        shape=(*(size or (None, None)), fields.channels),
        identity=f"{builder.info.full_name}, resolution {resolution}",
    )


def _check_configuration(name: str, root: Path) -> None:
    """Raises a DataError where a configuration has to be named."""
    prepared = {path.parent.parent.name for path in root.glob(f"{name}/*/*/dataset_info.json")}
    if "/" not in name and prepared and not list(root.glob(f"{name}/*/dataset_info.json")):
        choice = ", ".join(f"{name}/{configuration}" for configuration in sorted(prepared))
        raise DataError(f"the data set {name!r} has several forms: choose one of {choice}")


def _fields(name: str, info: Any) -> Fields:
    """Where an example has its image and its class.

    Raises:
        DataError: there is not one of each, or the image is of floating-point numbers.
    """
    import tensorflow_datasets as tfds

    features = dict(info.features.items())
    images = [key for key, kind in features.items() if isinstance(kind, tfds.features.Image)]
    labels = [key for key, kind in features.items() if isinstance(kind, tfds.features.ClassLabel)]
    main = info.supervised_keys
    if main is not None and len(main) == 2 and main[0] in images and main[1] in labels:
        images, labels = [main[0]], [main[1]]
    if len(images) != 1 or len(labels) != 1:
        raise DataError(
            f"the data set {name!r} is not of images with one class each: its examples have "
            f"{', '.join(f'{key!r} ({type(kind).__name__})' for key, kind in features.items())}"
        )
    feature = features[images[0]]
    if not np.issubdtype(feature.np_dtype, np.integer):
        raise DataError(
            f"the images of {name!r} are stored as {feature.np_dtype}, of which nothing says what "
            "is black and what is white: choose another data set"
        )
    channels = 1 if feature.shape[-1] == 1 else 3
    return Fields(
        images[0], labels[0], encoded_label=False, read_label=read_class, channels=channels
    )


def _size(shape: tuple[int | None, ...], resolution: int | None) -> tuple[int, int] | None:
    height, width = shape[:2]
    if height is None or width is None:
        return None
    if resolution is None:
        return height, width
    return scaled_to_shorter_side(height, width, resolution)


def _has_labels(builder: Any, split: str, fields: Fields) -> bool:
    """Whether a split is there, and its first label is not withheld (-1)."""
    if split not in builder.info.splits or not builder.info.splits[split].num_examples:
        return False
    first = RecordedImages(builder, f"{split}[:1]", fields).records[0]
    return bool(first[fields.label] >= 0)
