"""The image data sets by name."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from deqjax.data.images._balance import balanced_indices
from deqjax.data.images._catalog import CATALOG, is_known, load_from_catalog
from deqjax.data.images._cifar10 import load_cifar10
from deqjax.data.images._cityscapes import load_cityscapes
from deqjax.data.images._digits import load_digits
from deqjax.data.images._folder import load_folder
from deqjax.data.images._imagenet import load_imagenet
from deqjax.data.images._images import ImageSet, Subset
from deqjax.data.pipeline import DataError

IMAGE_SETS = ("digits", "cifar10", "imagenet2012", "cityscapes", "folder")
"""The names that [`deqjax.data.load_images`][] knows beside TFDS's."""
_FROM_MANUAL_DOWNLOADS = ("imagenet2012", "cityscapes")


def load_images(
    name: str,
    *,
    directory: str | os.PathLike[str] | None = None,
    manual_directory: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    class_names: Sequence[str] | None = None,
    resolution: int | None = None,
    limit_train: int | None = None,
    limit_seed: int = 0,
) -> ImageSet:
    """An image data set by its name.

    - "digits": scikit-learn's handwritten digits, (8, 8, 1); 1259 / 269 / 269 in train, validation
      and test.
    - "cifar10": (32, 32, 3), 10 classes; 45000 / 5000 / 10000, kept in memory once decoded.
    - "imagenet2012": of many sizes, 1000 classes; 1268355 / 12812 / 50000.
    - "cityscapes": (1024, 2048, 3), each pixel of one of 19 classes or ignored; 2826 / 149 / 500.
    - "folder": images of yours, ROOT/train/CLASS/IMAGE. ROOT/validation and ROOT/test may lie
      beside; a tenth of every class is held out for each that is missing, the same images each
      time. Any format that Pillow reads.
    - any other name of TFDS's (https://www.tensorflow.org/datasets/catalog) whose examples have an
      image and a class; a tenth is held out for "validation" or "test" if it is missing.

    All but the digits and a folder are TFDS's, prepared once with TensorFlow (in the format
    array_record) and read without it. Of the three named sets, validation is held out of the
    published training split; what the last two publish as "validation" is for testing here, because
    the labels of their tests are withheld.

    Args:
        name: one of these; "/" and a configuration follow the name where TFDS has several.
        directory: the folder of all prepared data sets; None is TFDS's own (the environment
            variable TFDS_DATA_DIR, else ~/tensorflow_datasets).
        manual_directory: where the downloaded files of "imagenet2012" and "cityscapes" lie, for
            the sentence that says how to prepare them; None is TFDS's own place, downloads/manual
            in the folder of all prepared data sets.
        folder: the ROOT of "folder".
        class_names: of a run that was trained, in the order of their numbers: a folder's images
            are numbered by them, and whatever has other classes is refused. None counts them.
        resolution: scales every image so that its shorter side has so many pixels (images
            bilinearly, the classes of pixels to their nearest neighbor); None leaves them alone.
        limit_train: keep so many training images, drawn at random, with as many of every class as
            there can be (in segmentation, of whatever they show); None keeps all.
        limit_seed: of that draw; at least 0.

    Raises:
        DataError: there is no such data set, an argument is out of its range or belongs to another
            data set, or prepared data are missing or damaged. Nothing is ever downloaded.
    """
    _check_arguments(name, directory, manual_directory, folder)
    if resolution is not None and resolution < 1:
        raise DataError(f"resolution must be at least 1 pixel, got {resolution}")
    if folder is not None:
        images = load_folder(folder, resolution, class_names)
    else:
        images = _load(name, directory, manual_directory, resolution)
    if class_names is not None and images.class_names != tuple(class_names):
        raise DataError(
            f"the classes of {name!r} are not those {len(class_names)} that are told apart: take "
            "the data set that the run was trained on"
        )
    return images if limit_train is None else _limited(images, limit_train, limit_seed)


def _check_arguments(name: str, directory: Any, manual_directory: Any, folder: Any) -> None:
    if name not in IMAGE_SETS and not is_known(name, directory):
        raise DataError(
            f"there is no image data set {name!r}: choose one of {', '.join(IMAGE_SETS)}, or a "
            f"name of TFDS's ({CATALOG})"
        )
    if name == "folder" and folder is None:
        raise DataError("the data set 'folder' needs a folder of images: give its path as folder")
    if name != "folder" and folder is not None:
        raise DataError(
            f"the data set {name!r} takes no folder, got {str(folder)!r}: leave it out, or choose "
            "'folder'"
        )
    if name in ("digits", "folder") and directory is not None:
        raise DataError(
            f"the data set {name!r} takes no directory, got {str(directory)!r}: leave it out"
        )
    if manual_directory is not None and name not in _FROM_MANUAL_DOWNLOADS:
        raise DataError(
            f"the data set {name!r} takes no manual_directory, got {str(manual_directory)!r}: "
            f"leave it out, or choose one of {', '.join(_FROM_MANUAL_DOWNLOADS)}"
        )


def _load(
    name: str,
    directory: str | os.PathLike[str] | None,
    manual_directory: str | os.PathLike[str] | None,
    resolution: int | None,
) -> ImageSet:
    match name:
        case "digits":
            return load_digits(resolution)
        case "cifar10":
            return load_cifar10(directory, resolution)
        case "imagenet2012":
            return load_imagenet(directory, manual_directory, resolution)
        case "cityscapes":
            return load_cityscapes(directory, manual_directory, resolution)
    return load_from_catalog(name, directory, resolution)


def _limited(images: ImageSet, count: int, seed: int) -> ImageSet:
    total = len(images.train)
    if not 1 <= count <= total:
        raise DataError(
            f"limit_train must lie in 1 to the {total} training images of {images.name!r}, got "
            f"{count}"
        )
    if seed < 0:
        raise DataError(f"limit_seed must be at least 0, got {seed}")
    if images.task == "classification":
        classes = len(images.class_names)
        chosen = balanced_indices(
            images.train.label, total, classes=classes, count=count, seed=seed
        )
    else:
        chosen = np.sort(np.random.default_rng(seed).permutation(total)[:count])
    return dataclasses.replace(
        images,
        train=Subset(images.train, chosen),
        identity=f"{images.identity}, limit_train {count}, limit_seed {seed}",
    )
