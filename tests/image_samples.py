"""Small image data sets for tests: one in memory, and prepared ones written by TFDS itself.

`tfds.testing.mock_data` needs TensorFlow as soon as images stay encoded, so the prepared ones are
real files, written through TFDS's own builders with all but the reading of archives.
"""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from deqjax.data.images._images import ArrayImages, ImageSet


def encoded(pixels, form="PNG"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def numbered(count, shape=(6, 5, 3), classes=4):
    """Images told apart by the value of their first pixel, `number`; labels number % classes."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, *shape), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    return ArrayImages(images, (np.arange(count) % classes).astype(np.int32))


def classification(count=23, shape=(6, 5, 3)):
    """An image data set with `count` images in every split, whose statistics change nothing."""
    source = numbered(count, shape)
    return ImageSet(
        name="numbered",
        task="classification",
        train=source,
        validation=source,
        test=source,
        class_names=("a", "b", "c", "d"),
        mean=np.zeros(shape[-1], np.float32),
        std=np.ones(shape[-1], np.float32),
        shape=shape,
        identity="numbered 1",
    )


def segmentation(count=7, shape=(12, 16, 3)):
    """Images whose pixels' class is the third of their first channel's value."""
    pixels = np.random.default_rng(1).integers(0, 57, (count, *shape), dtype=np.uint8)
    source = ArrayImages(pixels, (pixels[..., 0] // 3).astype(np.int32))
    return ImageSet(
        name="streets",
        task="segmentation",
        train=source,
        validation=source,
        test=source,
        class_names=tuple(str(number) for number in range(19)),
        mean=np.full(3, 100.0, np.float32),
        std=np.full(3, 50.0, np.float32),
        shape=shape,
        identity="streets 1",
    )


def write_prepared(name, directory, splits, file_format="array_record"):
    """Writes examples into TFDS's own data set `name`: {split: [features of an example]}."""
    builder = tfds.builder(name, data_dir=directory, file_format=file_format)
    builder._split_generators = lambda manager: {
        split: enumerate(examples) for split, examples in splits.items()
    }
    tfds.display_progress_bar(enable=False)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    return builder


def imagenet_example(number, label="n01440764"):
    """A gray JPEG of height 40 + number and width 60."""
    pixels = np.full((40 + number, 60, 3), number, np.uint8)
    return {
        "image": encoded(pixels, "JPEG"),
        "label": label,
        "file_name": f"{label}_{number}.JPEG",
    }


def cityscapes_example(number):
    """A scene of 16x32 pixels whose label has a row of every number of the files, 0 to 15."""
    label = np.repeat(np.arange(16, dtype=np.uint8)[:, None], 32, axis=1)
    return {
        "image_id": f"bonn_{number:06}_000019",
        "image_left": encoded(np.full((16, 32, 3), number, np.uint8)),
        "segmentation_label": encoded(label),
    }
